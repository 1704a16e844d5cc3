//! Writing one lane: a batch of urgent frames, control messages, and bytes read from applications straight into their places.

use std::io::{self, IoSliceMut, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::ROUNDS;
use super::{BATCH, CONTROL_SHARE, Lane, MOST_MESSAGES, URGENT_IN_BATCH};
use crate::frame::{self, HEADER, Kind, MAX_FRAME, MAX_PAYLOAD};
use crate::mux::Turn;
use crate::worker::Worker;
use crate::worker::conn::{Embedded, Stage};
use crate::worker::transit::{Segment, is_hop};

impl Worker {
    /// Give a lane its turn to write: what is unsent, then batches.
    pub(in crate::worker) fn write_lane(&mut self, key: usize) {
        let Some(mut lane) = self.lanes.get_mut(key).and_then(Option::take) else {
            return;
        };
        lane.dirty = false;
        let outcome = self.write_rounds(&mut lane);
        let more = outcome.is_ok() && lane.writable && lane.has_output();
        if let Some(place) = self.lanes.get_mut(key) {
            *place = Some(lane);
        }
        match outcome {
            Ok(()) => {
                if more {
                    self.soil(key);
                }
            }
            Err(error) => self.close_lane(key, None, &error),
        }
    }

    fn write_rounds(&mut self, lane: &mut Lane) -> Result<(), String> {
        for _ in 0..ROUNDS {
            if !Self::write_unsent(lane, self.now)? {
                return Ok(());
            }
            self.scratch.segments.clear(); // of a lane that failed
            let (urgent_apart, end) = self.fill(lane);
            if end == 0 && urgent_apart == 0 && self.scratch.segments.is_empty() {
                return Ok(());
            }
            let scratch = &mut *self.scratch;
            let mut sealed = 0;
            if urgent_apart > 0 {
                // Larger than its place in the batch: it has records of its own.
                lane.records
                    .seal(&scratch.urgent, &mut lane.unsent)
                    .map_err(|error| error.to_string())?;
            }
            let mut at = 0;
            for Segment { behind, chunk } in scratch.segments.drain(..) {
                let ahead = scratch.batch.get(at..behind).unwrap_or_default();
                for piece in [ahead, chunk.frame()] {
                    if !piece.is_empty() {
                        let room = scratch.sealed.get_mut(sealed..).unwrap_or_default();
                        sealed += lane
                            .records
                            .seal_into(piece, room)
                            .map_err(|error| error.to_string())?;
                    }
                }
                at = behind;
                scratch.spare.put(chunk.into_memory());
            }
            let rest = scratch.batch.get(at..end).unwrap_or_default();
            if !rest.is_empty() {
                let room = scratch.sealed.get_mut(sealed..).unwrap_or_default();
                sealed += lane
                    .records
                    .seal_into(rest, room)
                    .map_err(|error| error.to_string())?;
            }
            let records = scratch.sealed.get(..sealed).unwrap_or_default();
            if lane.unsent.is_empty() {
                let written = match lane.socket.write(records) {
                    Ok(written) => written,
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                        ) =>
                    {
                        0
                    }
                    Err(error) => return Err(error.to_string()),
                };
                lane.reference
                    .sent
                    .fetch_add(written as u64, Ordering::Relaxed);
                if written < records.len() {
                    lane.unsent
                        .extend_from_slice(records.get(written..).unwrap_or_default());
                    lane.writable = false;
                    lane.mux.wrote(true, self.now);
                }
            } else {
                lane.unsent.extend_from_slice(records);
            }
        }
        Ok(())
    }

    /// `false`: the kernel takes no more now.
    pub(super) fn write_unsent(lane: &mut Lane, now: std::time::Instant) -> Result<bool, String> {
        while lane.unsent_at < lane.unsent.len() {
            if !lane.writable {
                return Ok(false);
            }
            match lane
                .socket
                .write(lane.unsent.get(lane.unsent_at..).unwrap_or_default())
            {
                Ok(written) => {
                    lane.unsent_at += written;
                    lane.reference
                        .sent
                        .fetch_add(written as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    lane.writable = false;
                    lane.mux.wrote(true, now);
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        lane.mux.wrote(false, now);
        lane.unsent.clear();
        lane.unsent_at = 0;
        if lane.unsent.capacity() > 2 * MAX_FRAME {
            lane.unsent = Vec::new();
        }
        Ok(true)
    }

    /// Fill the batch: urgent frames, control messages, then streams in their order. Returns how many bytes of urgent frames have to
    /// be sealed apart, and how long the batch is.
    fn fill(&mut self, lane: &mut Lane) -> (usize, usize) {
        self.scratch.urgent.clear();
        lane.mux
            .put_urgent(&mut self.scratch.urgent, &self.shared.budget);
        self.onward_sent(lane);
        self.put_messages(lane);
        let urgent = self.scratch.urgent.len();
        let mut end = 0;
        let mut apart = urgent;
        if urgent <= URGENT_IN_BATCH {
            if let Some(front) = self.scratch.batch.get_mut(..urgent) {
                front.copy_from_slice(&self.scratch.urgent);
            }
            end = urgent;
            apart = 0;
        }
        let mut limit = end + BATCH;
        while limit.saturating_sub(end) > HEADER + 64 {
            let Some(turn) = lane.mux.next_turn() else {
                break;
            };
            end = if is_hop(turn.owner) {
                self.take_hop_turn(lane, &turn, end, &mut limit)
            } else {
                self.take_turn(lane, &turn, end, limit)
            };
        }
        (apart, end)
    }

    fn put_messages(&mut self, lane: &mut Lane) {
        let mut share = CONTROL_SHARE;
        while let Some(message) = lane.messages.front() {
            let rest = message.get(lane.message_at..).unwrap_or_default();
            let piece = rest.len().min(lane.mux.control_room() as usize).min(share);
            if piece == 0 {
                break;
            }
            lane.mux.put_control(
                &mut self.scratch.urgent,
                rest.get(..piece).unwrap_or_default(),
            );
            share -= piece;
            lane.message_at += piece;
            if lane.message_at == message.len() {
                lane.messages.pop_front();
                lane.message_at = 0;
                let waiting = lane.trunk.messages.fetch_sub(1, Ordering::Relaxed);
                if waiting == MOST_MESSAGES {
                    // Whoever was told that the queue is full wants to know that it is not any more.
                    self.shared.publish_trunk(&lane.trunk);
                }
            }
        }
    }

    /// Read from one application into the batch from `start` on; returns the new end.
    fn take_turn(&mut self, lane: &mut Lane, turn: &Turn, start: usize, limit: usize) -> usize {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(turn.owner as usize) else {
            return start;
        };
        if conn.eof {
            return start;
        }
        if turn.most == 0 {
            return match conn.socket.is_at_end() {
                Ok(true) => self.end_turn(lane, turn, start),
                Ok(false) => start,
                Err(error) => {
                    let class = conn.own_class();
                    self.abort_on(lane, turn.owner, class, &error.to_string());
                    start
                }
            };
        }
        let space = self.scratch.batch.get_mut(start..limit).unwrap_or_default();
        // What fits, in whole places of a header and up to a full payload.
        let frames = space.len() / MAX_FRAME;
        let tail = (space.len() % MAX_FRAME).saturating_sub(HEADER);
        let most = (turn.most as usize).min(frames * MAX_PAYLOAD + tail);
        let mut slots: ArrayVec<IoSliceMut<'_>, 18> = ArrayVec::new();
        let mut wanted = most;
        for place in space.chunks_mut(MAX_FRAME) {
            if wanted == 0 || place.len() <= HEADER || slots.is_full() {
                break;
            }
            let (_, payload) = place.split_at_mut(HEADER);
            let len = payload.len().min(wanted);
            wanted -= len;
            slots.push(IoSliceMut::new(payload.get_mut(..len).unwrap_or_default()));
        }
        let asked = most - wanted;
        let read = conn.socket.read_vectored(&mut slots);
        drop(slots);
        conn.read_closed |= conn.socket.has_ended();
        let (count, drained, ended) = match read {
            Ok(0) => (0, true, true),
            Ok(count) => (count, count < asked && !conn.read_closed, false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, true, false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (0, false, false),
            Err(error) => {
                let class = conn.own_class();
                self.abort_on(lane, turn.owner, class, &error.to_string());
                return start;
            }
        };
        if drained {
            conn.readable = false;
        }
        conn.count(true, count);
        let kind = if turn.early { Kind::Early } else { Kind::Data };
        let id = lane.mux.id_of(turn.key);
        let mut end = start;
        let mut left = count;
        while left > 0 {
            let len = left.min(MAX_PAYLOAD);
            let batch = &mut self.scratch.batch;
            if let Some(place) = batch.get_mut(end..end + HEADER) {
                place.copy_from_slice(&frame::header(id, kind, len));
            }
            if turn.early
                && let Stage::Asking { opening, .. } = &mut conn.stage
            {
                opening.early.extend_from_slice(
                    batch
                        .get(end + HEADER..end + HEADER + len)
                        .unwrap_or_default(),
                );
            }
            end += HEADER + len;
            left -= len;
        }
        lane.mux.sent(turn.key, count as u32, drained, now);
        if ended {
            return self.end_turn(lane, turn, end);
        }
        if conn.read_closed {
            // The credit may have been just enough.
            lane.mux.ending(turn.key);
        }
        end
    }

    /// The application ended its direction: FIN, behind what it sent.
    fn end_turn(&mut self, lane: &mut Lane, turn: &Turn, mut end: usize) -> usize {
        let Some(conn) = self.conns.get_mut(turn.owner as usize) else {
            return end;
        };
        conn.eof = true;
        if let Stage::Asking { opening, .. } = &mut conn.stage {
            opening.fin = true;
        }
        let wants_reset = |e: &Arc<Embedded>| e.wants_reset.load(Ordering::Acquire);
        if conn.embedded.as_ref().is_some_and(wants_reset) {
            let class = conn.own_class();
            self.abort_on(lane, turn.owner, class, "the application reset it");
            return end;
        }
        let mut fin = Vec::with_capacity(HEADER + 8);
        lane.mux.finish(turn.key, &mut fin);
        if let Some(place) = self.scratch.batch.get_mut(end..end + fin.len()) {
            place.copy_from_slice(&fin);
            end += fin.len();
        }
        self.finish_on(lane, turn.owner);
        end
    }
}
