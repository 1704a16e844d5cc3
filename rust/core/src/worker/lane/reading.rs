//! Reading one lane: records, frames, and what each frame means for the connections of its worker.

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::{GROUP, Lane, MAX_MESSAGE, READ, ROUNDS};
use crate::frame::{self, Kind};
use crate::mux::{Key, Received};
use crate::payload::GoAway;
use crate::record::MAX_RECORD;
use crate::trunk::LaneHealth;
use crate::worker::Worker;
use crate::worker::conn::Stage;
use crate::worker::transit::is_hop;

impl Worker {
    /// Read what has arrived, a bounded number of times.
    pub(in crate::worker) fn read_lane(&mut self, key: usize) {
        let Some(mut lane) = self.lanes.get_mut(key).and_then(Option::take) else {
            return;
        };
        let credit = (lane.mux.open_credit(), lane.mux.early_credit());
        let mut scratch_plain = std::mem::take(&mut self.scratch.plain);
        let mut scratch_records = std::mem::take(&mut self.scratch.records);
        let outcome = self.read_rounds(&mut lane, key, &mut scratch_records, &mut scratch_plain);
        self.scratch.plain = scratch_plain;
        self.scratch.records = scratch_records;
        lane.note_open_credit();
        let has_output = lane.has_output();
        let serves = !lane.waiting.is_empty()
            && (lane.mux.open_credit() > credit.0 || lane.mux.early_credit() > credit.1);
        if let Some(place) = self.lanes.get_mut(key) {
            *place = Some(lane);
        }
        match outcome {
            Ok(more) => {
                if more && !self.unread.contains(&key) {
                    self.unread.push(key);
                }
                if has_output {
                    self.soil(key);
                }
                if serves {
                    self.serve_waiting(key);
                }
            }
            Err((code, reason)) => self.close_lane(key, code, &reason),
        }
    }

    /// `Ok(true)`: there may be more to read. An error closes the lane, with a GOAWAY if there is a code.
    fn read_rounds(
        &mut self,
        lane: &mut Lane,
        key: usize,
        records: &mut [u8],
        plain: &mut [u8],
    ) -> Result<bool, (Option<GoAway>, String)> {
        let mut first = true;
        for _ in 0..ROUNDS {
            let had = lane.partial_record.len();
            if let Some(front) = records.get_mut(..had) {
                front.copy_from_slice(&lane.partial_record);
            }
            lane.partial_record.clear();
            let space = records.get_mut(had..had + READ).unwrap_or_default();
            let (arrived, end) = match lane.socket.read(space) {
                Ok(0) => (0, true),
                Ok(arrived) => (arrived, false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !first => {
                    lane.partial_record
                        .extend_from_slice(records.get(..had).unwrap_or_default());
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    lane.partial_record
                        .extend_from_slice(records.get(..had).unwrap_or_default());
                    return Ok(true);
                }
                // The first look also takes what came along with the handshake.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, false),
                Err(error) => return Err((None, error.to_string())),
            };
            first = false;
            if arrived > 0 {
                lane.mux.heard(self.now);
                lane.reference
                    .received
                    .fetch_add(arrived as u64, Ordering::Relaxed);
                if lane.reference.health() == LaneHealth::Suspect
                    && lane.reference.set_health(LaneHealth::Open)
                {
                    self.shared.publish_trunk(&lane.trunk);
                }
            }
            let mut have = records.get_mut(..had + arrived).unwrap_or_default();
            loop {
                let begun = lane.partial_frame.len();
                if let Some(front) = plain.get_mut(..begun) {
                    front.copy_from_slice(&lane.partial_frame);
                }
                lane.partial_frame.clear();
                let space = plain.get_mut(begun..).unwrap_or_default();
                let opened = lane
                    .records
                    .open_into(have, space, &mut lane.unsent)
                    .map_err(|error| (None, error.to_string()))?;
                let arrived = plain.get(..begun + opened.plain).unwrap_or_default();
                let used = self.take_frames(lane, key, arrived)?;
                lane.partial_frame
                    .extend_from_slice(arrived.get(used..).unwrap_or_default());
                have = have.get_mut(opened.consumed..).unwrap_or_default();
                if opened.closed {
                    return Err((None, "the peer closed it".to_owned()));
                }
                if opened.consumed == 0 || have.is_empty() {
                    break;
                }
            }
            if have.len() > MAX_RECORD {
                return Err((
                    Some(GoAway::Protocol),
                    "a record that cannot be opened".to_owned(),
                ));
            }
            lane.partial_record.extend_from_slice(have);
            if end {
                return Err((None, "the connection was closed".to_owned()));
            }
            if arrived < READ && !lane.read_closed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Act on all whole frames in `plain`; says how many bytes they were.
    fn take_frames(
        &mut self,
        lane: &mut Lane,
        lane_key: usize,
        plain: &[u8],
    ) -> Result<usize, (Option<GoAway>, String)> {
        let violation = |error: &dyn std::fmt::Display| (Some(GoAway::Protocol), error.to_string());
        let mut at = 0;
        let mut group: ArrayVec<&[u8], GROUP> = ArrayVec::new();
        let mut group_of: Option<(u32, Key)> = None;
        let mut group_stream = 0;
        loop {
            let rest = plain.get(at..).unwrap_or_default();
            let Some((frame, used)) = frame::decode(rest).map_err(|e| violation(&e))? else {
                break;
            };
            at += used;
            let stream = frame.stream;
            let goes_on = stream == group_stream
                && matches!(frame.kind, Some(Kind::Data | Kind::Early))
                && !group.is_full();
            if !goes_on {
                // First, because it may find that the application is gone: what the frame does to the stream depends on that.
                self.deliver_group(lane, group_of.take(), &group);
                group.clear();
            }
            let received = lane
                .mux
                .receive(frame, &self.shared.budget, self.now)
                .map_err(|e| violation(&e))?;
            let Some(received) = received else { continue };
            if let Received::Data { owner, key, bytes } = received {
                group_of = Some((owner, key));
                group_stream = stream;
                group.push(bytes);
                continue;
            }
            self.act(lane, lane_key, received)?;
        }
        self.deliver_group(lane, group_of, &group);
        Ok(at)
    }

    /// Bytes of one stream, in order, for its application.
    fn deliver_group(&mut self, lane: &mut Lane, whose: Option<(u32, Key)>, group: &[&[u8]]) {
        let Some((owner, key)) = whose else { return };
        if group.is_empty() {
            return;
        }
        if is_hop(owner) {
            self.hop_data(owner, group);
            return;
        }
        let Some(conn) = self.conns.get_mut(owner as usize) else {
            return;
        };
        let connecting = matches!(conn.stage, Stage::Connecting { .. });
        if connecting {
            for bytes in group {
                conn.queue.extend(*bytes);
            }
            return;
        }
        match conn.deliver(group) {
            Ok(0) => {}
            Ok(written) => lane
                .mux
                .consumed(key, written as u32, &self.shared.budget, self.now),
            Err(error) => {
                let class = conn.own_class();
                self.abort_on(lane, owner, class, &error.to_string());
            }
        }
    }

    fn act(
        &mut self,
        lane: &mut Lane,
        lane_key: usize,
        received: Received<'_>,
    ) -> Result<(), (Option<GoAway>, String)> {
        match received {
            Received::Data { .. } => {}
            Received::Open { key, open } => self.take_open(lane, lane_key, key, &open),
            Received::Answered { owner } if is_hop(owner) => self.hop_answered(owner),
            Received::Answered { owner } => self.answered(owner),
            Received::Refused {
                owner,
                class,
                reason,
            } => {
                lane.count_stream(-1);
                if is_hop(owner) {
                    self.refuse_crossing(owner, class, reason);
                    return Ok(());
                }
                self.refused(owner, lane.trunk.router, class, reason);
            }
            Received::Fin { owner, .. } if is_hop(owner) => self.hop_fin(lane, owner),
            Received::Fin { owner, .. } => {
                if let Some(conn) = self.conns.get_mut(owner as usize) {
                    conn.fin = true;
                    if !matches!(conn.stage, Stage::Connecting { .. }) {
                        self.shut_on(lane, owner);
                    }
                }
            }
            Received::Reset {
                owner,
                class,
                reason,
            } => {
                lane.count_stream(-1);
                if is_hop(owner) {
                    self.hop_reset(owner, class, reason);
                    return Ok(());
                }
                self.forget(owner, Some((class, reason)));
            }
            Received::Asked { owner, key, name } => self.stream_asked(lane, owner, key, name),
            Received::Left { owner, key } => self.stream_left(lane, owner, key),
            Received::Moved { id, name, total } => {
                return self.stream_moved(lane, lane_key, id, (name, total));
            }
            Received::LateReset { id, class, reason } => self.late_reset(lane, id, class, reason),
            Received::Control(bytes) => return self.take_control(lane, bytes),
            Received::GoAway { code, reason } => match code {
                GoAway::Drain => {
                    lane.trunk.draining.store(true, Ordering::Relaxed);
                    self.shared.publish_trunk(&lane.trunk);
                }
                GoAway::Closed | GoAway::Replaced => {
                    if code == GoAway::Closed {
                        lane.trunk.draining.store(true, Ordering::Relaxed);
                    }
                    lane.reference.set_health(LaneHealth::Leaving);
                    self.shared.publish_trunk(&lane.trunk);
                    self.trunk_changed(&lane.trunk);
                    let waiting = std::mem::take(&mut lane.waiting);
                    self.turn_away(&waiting);
                }
                GoAway::Protocol | GoAway::Policy | GoAway::Shutdown => {
                    return Err((None, format!("the peer closed it: {reason}")));
                }
            },
        }
        Ok(())
    }

    fn take_control(
        &mut self,
        lane: &mut Lane,
        bytes: &[u8],
    ) -> Result<(), (Option<GoAway>, String)> {
        lane.carried_messages = true;
        lane.message_in.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((len, rest)) = lane
            .message_in
            .get(at..)
            .and_then(|rest| rest.split_first_chunk::<4>())
        {
            let len = u32::from_be_bytes(*len) as usize;
            if len > MAX_MESSAGE {
                return Err((
                    Some(GoAway::Protocol),
                    format!("a control message of {len} bytes"),
                ));
            }
            let Some(message) = rest.get(..len) else {
                break;
            };
            self.shared
                .events
                .message(lane.trunk.router, self.index, lane.reference.id, message);
            at += 4 + len;
        }
        lane.message_in.drain(..at);
        Ok(())
    }
}
