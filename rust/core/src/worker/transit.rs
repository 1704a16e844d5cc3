//! Streams that cross this router: what comes over one lane goes out on another (`docs/wire-protocol.md`, section 5, Transit).
//!
//! Each side is a hop, owned by the worker of its lane like a connection is; `crossing` is what the two share. Bytes are
//! copied once, from where they were decrypted to the chunk that the other lane seals. They stay charged to the credit of the
//! hop that they came over until then, so neither peer can make this router store more than it granted.

pub(super) mod crossing;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use slab::Slab;

use super::lane::Lane;
use super::{ConnId, Job, Worker};
use crate::frame::{self, HEADER, Kind, MAX_PAYLOAD};
use crate::handshake::RouterId;
use crate::mux::{Blocked, Key, MAX_EARLY, Opening as MuxOpening, Turn};
use crate::payload::{Class, Open};
use crate::trunk::Pending;
use crossing::{Crossing, End, NEAR, ONWARD};

/// In the number of a stream's owner: it is a hop, not a connection.
const HOP: u32 = 1 << 31;
/// An OPEN waits so long for permission of the lane ahead: the opener has time to try elsewhere.
const PATIENCE: Duration = Duration::from_secs(3);
/// A chunk of at least so many bytes is sealed where it lies; a smaller one is sent in one record with others.
const SEALED_APART: usize = 8_192;
/// Streams that a lane of the same worker may have more than the best, and still be chosen.
pub(super) const NEARNESS: u32 = 4;

/// One side of a stream that crosses.
#[derive(Debug)]
pub(super) struct Hop {
    generation: u32,
    /// The lane's place.
    lane: u32,
    /// The stream on it; not yet if `opening` is there.
    key: Key,
    side: u8,
    crossing: Arc<Crossing>,
    /// It waits for open credit.
    opening: Option<Box<Onward>>,
}

/// An OPEN that shall go on.
#[derive(Debug)]
pub struct Onward {
    /// The neighbour that it came from.
    from: RouterId,
    destination: RouterId,
    source: RouterId,
    uuid: [u8; 16],
    hop_limit: u8,
    routing_key: Box<str>,
    attributes: Box<[u8]>,
    since: Instant,
    /// It counts on its trunk until it is on a lane.
    _pending: Pending,
}

/// Bytes that are sealed where they lie, between what is in the batch.
pub(super) struct Segment {
    /// What of the batch goes ahead of it.
    pub behind: usize,
    pub chunk: crossing::Chunk,
}

/// Whether an owner is a hop.
pub(super) const fn is_hop(owner: u32) -> bool {
    owner & HOP != 0
}

/// Whether this hop is still there, and its OPEN was sent.
pub(super) fn has_opened(hops: &Slab<Hop>, owner: u32) -> bool {
    hops.get((owner & !HOP) as usize)
        .is_some_and(|hop| hop.opening.is_none())
}

/// Whether this hop is still there and waits for its lane's permission to open.
pub(super) fn waits_to_open(hops: &Slab<Hop>, (owner, generation): ConnId) -> bool {
    hops.get((owner & !HOP) as usize)
        .is_some_and(|hop| hop.generation == generation && hop.opening.is_some())
}

impl Hop {
    const fn side(&self) -> usize {
        self.side as usize
    }

    const fn other(&self) -> usize {
        1 - self.side as usize
    }
}

impl Worker {
    fn hop(&mut self, (index, generation): ConnId) -> Option<&mut Hop> {
        self.hops
            .get_mut(index as usize)
            .filter(|hop| hop.generation == generation)
    }

    fn hop_of(&self, owner: u32) -> Option<&Hop> {
        self.hops.get((owner & !HOP) as usize)
    }

    /// Whether this hop still waits for the lane's permission to open.
    pub(super) fn hop_waits(&self, id: ConnId) -> bool {
        waits_to_open(&self.hops, id)
    }

    /// Tell a side that there is something in its mailbox.
    fn tell(&mut self, crossing: &Arc<Crossing>, side: usize) {
        let worker = crossing.worker(side);
        if worker == self.index {
            self.hop_news.push((Arc::clone(crossing), side));
        } else {
            let job = Job::Hop(Arc::clone(crossing), side);
            self.shared.send(worker, job);
        }
    }

    fn end_other(&mut self, hop: &Hop, refuse: bool, class: Class, reason: &str) {
        let other = hop.other();
        if hop
            .crossing
            .post(other, |mail| mail.end(refuse, class, reason))
        {
            self.tell(&hop.crossing, other);
        }
    }

    fn add_hop(&mut self, lane: usize, key: Key, side: usize, crossing: &Arc<Crossing>) -> ConnId {
        let generation = self.next_generation();
        let index = self.hops.insert(Hop {
            generation,
            lane: lane as u32,
            key,
            side: side as u8,
            crossing: Arc::clone(crossing),
            opening: None,
        });
        let id = (index as u32, generation);
        crossing.set_hop(side, id);
        id
    }

    /// A hop whose stream leaves its lane: what is left of it is the mailbox.
    pub(super) fn take_out_hop(&mut self, owner: u32) -> Option<(Arc<Crossing>, usize)> {
        let hop = self.remove_hop(owner & !HOP)?;
        let side = hop.side();
        hop.crossing.take_out(side);
        Some((hop.crossing, side))
    }

    /// Its stream is on this lane now, which is out of its place. What came for it meanwhile is read next.
    pub(super) fn take_in_hop(
        &mut self,
        lane: &mut Lane,
        lane_key: usize,
        key: Key,
        (crossing, side): (Arc<Crossing>, usize),
    ) {
        crossing.set_worker(side, self.index);
        let (index, _) = self.add_hop(lane_key, key, side, &crossing);
        lane.mux.set_owner(key, index | HOP);
        self.hop_news.push((crossing, side));
    }

    /// The stream of a side that is between two lanes is over.
    pub(super) fn end_crossing(
        &mut self,
        crossing: &Arc<Crossing>,
        side: usize,
        class: Class,
        reason: &str,
    ) {
        let other = 1 - side;
        if crossing.post(other, |mail| mail.end(false, class, reason)) {
            self.tell(crossing, other);
        }
    }

    fn remove_hop(&mut self, index: u32) -> Option<Hop> {
        let hop = self.hops.try_remove(index as usize);
        if self.hops.is_empty() && self.hops.capacity() > 64 {
            self.hops.shrink_to_fit();
            self.trim = true;
        }
        hop
    }

    /// Forward an OPEN whose destination is another router, or say why not. The lane that it came over is out of its place.
    pub(super) fn forward(
        &mut self,
        lane: &mut Lane,
        lane_key: usize,
        key: Key,
        destination: RouterId,
        open: &Open<'_>,
    ) {
        let shared = Arc::clone(&self.shared);
        let from = lane.trunk.router;
        let refusal = if shared.edge {
            Some("this router is an edge and carries nothing for others")
        } else if open.hop_limit == 0 {
            Some("the hop limit is used up: the routers on the way disagree about it")
        } else {
            None
        };
        if let Some(reason) = refusal {
            lane.mux.refuse(key, Class::Link, reason, &shared.budget);
            return;
        }
        let table = shared.table.load();
        let way = table.next_hop(&destination, |hop| *hop != from);
        let chosen =
            way.and_then(|(trunk, _)| Some((trunk.pick_near(self.index, NEARNESS)?, trunk)));
        let Some((out, trunk)) = chosen else {
            let reason = format!("router {} has no way to {destination}", shared.router);
            lane.mux.refuse(key, Class::Link, &reason, &shared.budget);
            return;
        };
        let pending = table.take(&trunk);
        let crossing = Crossing::new(&shared, [self.index as u32, out.worker as u32]);
        let near = self.add_hop(lane_key, key, NEAR, &crossing);
        lane.mux.set_owner(key, near.0 | HOP);
        lane.count_stream(1);
        if !open.early.is_empty() {
            let spare = &mut self.scratch.spare;
            crossing.lock(ONWARD).push(open.early, spare);
        }
        let onward = Box::new(Onward {
            from,
            destination,
            source: open.source,
            uuid: open.uuid,
            hop_limit: open.hop_limit - 1,
            routing_key: open.routing_key.into(),
            attributes: open.attributes.into(),
            since: self.now,
            _pending: pending,
        });
        if out.worker == self.index {
            self.cross(out.id, &crossing, onward);
        } else {
            shared.send(out.worker, Job::Cross(out.id, crossing, onward));
        }
    }

    /// Open the onward side on a lane of ours.
    pub(super) fn cross(&mut self, lane: u64, crossing: &Arc<Crossing>, onward: Box<Onward>) {
        let Some(&lane_key) = self.lane_keys.get(&lane) else {
            if crossing.post(NEAR, |mail| {
                mail.end(true, Class::Link, "the lane ahead was lost")
            }) {
                self.tell(crossing, NEAR);
            }
            return;
        };
        let (index, _) = self.add_hop(lane_key, 0, ONWARD, crossing);
        let from = onward.from;
        let Some(hop) = self.hops.get_mut(index as usize) else {
            return;
        };
        hop.opening = Some(onward);
        let id = (index | HOP, hop.generation);
        match self.lanes.get_mut(lane_key) {
            Some(Some(lane)) if !lane.waiting.is_empty() || lane.promised > 0 => {
                // Behind those that wait, and those whose turn it is.
                if self.wait_to_open(lane_key, from, id) {
                    self.serve_waiting(lane_key);
                }
            }
            _ => self.open_onward(index),
        }
    }

    /// Wait for open credit of a lane. `false`: too many of the same origin do, and it is refused.
    fn wait_to_open(&mut self, lane_key: usize, from: RouterId, id: ConnId) -> bool {
        let Some(Some(lane)) = self.lanes.get_mut(lane_key) else {
            return false;
        };
        let has_place = lane.waiting.push(Some(from), id);
        lane.note_open_credit();
        if !has_place {
            let reason = "too many OPENs of this neighbour wait for the next router";
            self.refuse_crossing(id.0, Class::Resource, reason);
        }
        has_place
    }

    /// OPENs of streams that cross went into the batch: what they carried is passed on.
    pub(super) fn onward_sent(&mut self, lane: &mut Lane) {
        for (crossing, consumed, fin) in std::mem::take(&mut lane.opened) {
            let tell = crossing.post(NEAR, |mail| {
                mail.consumed += consumed;
                mail.passed |= fin;
            });
            if tell {
                self.tell(&crossing, NEAR);
            }
        }
    }

    /// Send the OPEN of a hop that waits to, with as much early data as the lane takes.
    pub(super) fn open_onward(&mut self, index: u32) {
        let index = index & !HOP;
        let shared = Arc::clone(&self.shared);
        let now = self.now;
        let Some(hop) = self.hops.get_mut(index as usize) else {
            return;
        };
        let Some(onward) = hop.opening.take() else {
            return;
        };
        let crossing = Arc::clone(&hop.crossing);
        let lane_key = hop.lane as usize;
        let mut mail = crossing.lock(ONWARD);
        if mail.end.is_some() {
            // The opener is gone, and nothing was said here.
            drop(mail);
            self.remove_hop(index);
            return;
        }
        let Some(Some(lane)) = self.lanes.get_mut(lane_key) else {
            drop(mail);
            self.refuse_crossing(index, Class::Link, "the lane ahead was lost");
            return;
        };
        let mut early = Vec::new();
        let room = (lane.mux.early_credit().min(MAX_EARLY)) as usize;
        if lane.mux.open_credit() > 0 {
            while early.len() < room
                && let Some(chunk) = mail.front()
            {
                let payload = chunk.payload();
                let some = payload.get(..room - early.len()).unwrap_or(payload);
                early.extend_from_slice(some);
                let taken = some.len();
                mail.advance(taken, &mut self.scratch.spare);
            }
        }
        let fin = mail.fin && mail.is_empty();
        mail.look();
        mail.hungry = mail.is_empty() && !mail.fin;
        let has_more = !mail.is_empty() || (mail.fin && !fin);
        drop(mail);
        let request = MuxOpening {
            destination: Some(onward.destination),
            source: onward.source,
            uuid: onward.uuid,
            hop_limit: onward.hop_limit,
            routing_key: &onward.routing_key,
            attributes: &onward.attributes,
            early: &early,
            fin,
        };
        match lane.mux.open(index | HOP, &request, &shared.budget, now) {
            Ok(key) => {
                hop.key = key;
                lane.count_stream(1);
                lane.note_open_credit();
                shared.transit_total.fetch_add(1, Ordering::Relaxed);
                if has_more {
                    lane.mux.readable(key);
                }
                if !early.is_empty() || fin {
                    lane.opened.push((crossing, early.len() as u32, fin));
                }
                self.soil(lane_key);
            }
            Err(Blocked::Credit) => {
                // No early data was taken: there was no open credit.
                debug_assert!(early.is_empty());
                let (id, from) = ((index | HOP, hop.generation), onward.from);
                hop.opening = Some(onward);
                self.wait_to_open(lane_key, from, id);
            }
            Err(blocked) => {
                let (class, reason) = match blocked {
                    Blocked::Memory => (
                        Class::Resource,
                        "the memory budget has no room for another stream",
                    ),
                    Blocked::Streams => (Class::Resource, "too many streams on the lane ahead"),
                    Blocked::Leaving | Blocked::Credit => {
                        (Class::Link, "the lane ahead is leaving")
                    }
                };
                self.refuse_crossing(index, class, reason);
            }
        }
    }

    /// A hop whose OPEN was not sent, or was answered with OPEN_ERR, is over: the opener may try elsewhere.
    pub(super) fn refuse_crossing(&mut self, owner: u32, class: Class, reason: &str) {
        if let Some(hop) = self.remove_hop(owner & !HOP) {
            self.end_other(&hop, true, class, reason);
        }
    }

    /// Whether an OPEN has waited too long for the lane's permission.
    pub(super) fn is_overdue(&self, owner: u32) -> bool {
        self.hop_of(owner)
            .and_then(|hop| hop.opening.as_ref())
            .is_some_and(|onward| self.now.saturating_duration_since(onward.since) >= PATIENCE)
    }

    // ---- What came over a hop; its lane is out of its place ---------------------------------------------------------------

    pub(super) fn hop_data(&mut self, owner: u32, group: &[&[u8]]) {
        let Some(hop) = self.hops.get((owner & !HOP) as usize) else {
            return;
        };
        let (crossing, other) = (Arc::clone(&hop.crossing), hop.other());
        let spare = &mut self.scratch.spare;
        let tell = crossing.post_bytes(other, |mail| {
            for bytes in group {
                mail.push(bytes, spare);
            }
        });
        if tell {
            self.tell(&crossing, other);
        }
    }

    pub(super) fn hop_fin(&mut self, lane: &mut Lane, owner: u32) {
        let Some(hop) = self.hop_of(owner) else {
            return;
        };
        let (crossing, other) = (Arc::clone(&hop.crossing), hop.other());
        if crossing.post_bytes(other, |mail| mail.fin = true) {
            self.tell(&crossing, other);
        }
        self.finish_hop(lane, owner & !HOP);
    }

    pub(super) fn hop_answered(&mut self, owner: u32) {
        let Some(hop) = self.hop_of(owner) else {
            return;
        };
        let crossing = Arc::clone(&hop.crossing);
        if crossing.post(NEAR, |mail| mail.answered = true) {
            self.tell(&crossing, NEAR);
        }
    }

    /// The peer reset it; the mux has forgotten it already.
    pub(super) fn hop_reset(&mut self, owner: u32, class: Class, reason: &str) {
        if let Some(hop) = self.remove_hop(owner & !HOP) {
            self.end_other(&hop, false, class, reason);
        }
    }

    /// The lane under a hop is gone.
    pub(super) fn hop_lost(&mut self, lane: &Lane, owner: u32, reason: &str) {
        let Some(hop) = self.remove_hop(owner & !HOP) else {
            return;
        };
        let unanswered = hop.side() == ONWARD && lane.mux.is_unanswered(hop.key);
        let refuse = unanswered && !lane.mux.has_said(hop.key);
        self.end_other(&hop, refuse, Class::Link, reason);
    }

    /// The lane is suspect: an OPEN without data that it has not answered may go another way.
    pub(super) fn hop_on_suspect(&mut self, lane: &mut Lane, owner: u32) {
        let Some(hop) = self.hop_of(owner) else {
            return;
        };
        let key = hop.key;
        if hop.side() == ONWARD && lane.mux.is_unanswered(key) && !lane.mux.has_said(key) {
            let reason = "nothing is heard on the lane ahead";
            lane.mux
                .reset(key, Class::Link, reason, &self.shared.budget);
            lane.count_stream(-1);
            self.refuse_crossing(owner, Class::Link, reason);
        }
    }

    // ---- What is in the mailbox of a hop; all lanes are in their places -----------------------------------------------------

    pub(super) fn read_mail(&mut self, crossing: &Arc<Crossing>, side: usize) {
        let now = self.now;
        let Some(id) = crossing.hop(side) else {
            return;
        };
        // The worker is asked for after the hop, which is set last: so it is this hop's, or that of a later one.
        if crossing.worker(side) != self.index {
            self.tell(crossing, side);
            return;
        }
        let Some(hop) = self.hop(id) else { return };
        let (key, lane_key) = (hop.key, hop.lane as usize);
        let waits = hop.opening.is_some();
        let mut mail = crossing.lock(side);
        mail.look();
        let consumed = std::mem::take(&mut mail.consumed);
        let answered = std::mem::take(&mut mail.answered);
        let end = mail.end.take();
        let (has_more, fin) = (!mail.is_empty() || mail.fin, mail.fin);
        drop(mail);
        if waits {
            if end.is_some() {
                self.remove_hop(id.0);
            }
            return;
        }
        let shared = Arc::clone(&self.shared);
        let Some(Some(lane)) = self.lanes.get_mut(lane_key) else {
            return;
        };
        if let Some(End {
            refuse,
            class,
            reason,
        }) = end
        {
            if refuse {
                lane.mux.refuse(key, class, &reason, &shared.budget);
            } else {
                lane.mux.abandon(key, class, &reason, &shared.budget);
            }
            lane.count_stream(-1);
            self.remove_hop(id.0);
            self.soil(lane_key);
            return;
        }
        if answered {
            lane.mux.accept(key);
        }
        if consumed > 0 {
            lane.mux.consumed(key, consumed, &shared.budget, now);
        }
        if has_more {
            lane.mux.readable(key);
            if fin {
                lane.mux.ending(key);
            }
        }
        if let Some(Some(mut lane)) = self.lanes.get_mut(lane_key).map(Option::take) {
            self.finish_hop(&mut lane, id.0);
            if let Some(place) = self.lanes.get_mut(lane_key) {
                *place = Some(lane);
            }
        }
        self.soil(lane_key);
    }

    /// Forget a hop both of whose directions have ended cleanly, with everything passed on.
    fn finish_hop(&mut self, lane: &mut Lane, index: u32) {
        let Some(hop) = self.hops.get(index as usize) else {
            return;
        };
        if lane.mux.has_sent_fin(hop.key)
            && lane.mux.has_fin(hop.key)
            && hop.crossing.lock(hop.side()).passed
        {
            lane.mux.release(hop.key, &self.shared.budget);
            lane.count_stream(-1);
            self.remove_hop(index);
        }
    }

    // ---- Its turn to send --------------------------------------------------------------------------------------------------

    /// Put what waits for a hop into the batch, or beside it, from `start` on; returns the new end of the batch. What goes beside
    /// it is taken off `limit`.
    pub(super) fn take_hop_turn(
        &mut self,
        lane: &mut Lane,
        turn: &Turn,
        start: usize,
        limit: &mut usize,
    ) -> usize {
        let now = self.now;
        let Some(hop) = self.hops.get((turn.owner & !HOP) as usize) else {
            return start;
        };
        let (crossing, side, other) = (Arc::clone(&hop.crossing), hop.side(), hop.other());
        let kind = if turn.early { Kind::Early } else { Kind::Data };
        let id = lane.mux.id_of(turn.key);
        let scratch = &mut *self.scratch;
        let mut mail = crossing.lock(side);
        let mut end = start;
        let mut left = turn.most as usize;
        while left > 0 && limit.saturating_sub(end) > HEADER {
            let Some(chunk) = mail.front() else { break };
            let have = chunk.payload().len();
            let len = have.min(left).min(*limit - end - HEADER).min(MAX_PAYLOAD);
            if len == have && len >= SEALED_APART {
                chunk.put_header(frame::header(id, kind, len));
                if let Some(chunk) = mail.pop() {
                    *limit -= HEADER + len;
                    scratch.segments.push(Segment { behind: end, chunk });
                }
            } else {
                let place = scratch.batch.get_mut(end..end + HEADER + len);
                let Some((header, payload)) = place.and_then(|p| p.split_at_mut_checked(HEADER))
                else {
                    break;
                };
                header.copy_from_slice(&frame::header(id, kind, len));
                payload.copy_from_slice(chunk.payload().get(..len).unwrap_or_default());
                mail.advance(len, &mut scratch.spare);
                end += HEADER + len;
            }
            left -= len;
        }
        let sent = turn.most - left as u32;
        let is_over = mail.end.is_some();
        let drained = mail.is_empty() || is_over;
        let fin = drained && mail.fin && !is_over;
        mail.hungry = drained && !fin;
        drop(mail);
        lane.mux.sent(turn.key, sent, drained, now);
        if fin {
            let mut frame = Vec::with_capacity(HEADER + 8);
            lane.mux.finish(turn.key, &mut frame);
            if let Some(place) = self.scratch.batch.get_mut(end..end + frame.len()) {
                place.copy_from_slice(&frame);
                end += frame.len();
            }
        }
        if sent > 0 || fin {
            let tell = crossing.post(other, |mail| {
                mail.consumed += sent;
                mail.passed |= fin;
            });
            if tell {
                self.tell(&crossing, other);
            }
        }
        if fin {
            self.finish_hop(lane, turn.owner & !HOP);
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::Hop;
    use super::crossing::Crossing;

    /// What a stream that crosses costs besides its two places in the lanes; idle it holds nothing else.
    #[test]
    fn what_an_idle_stream_that_crosses_costs_is_known() {
        let stream = 2 * size_of::<Hop>() + size_of::<Crossing>() + 2 * size_of::<usize>();
        assert!(
            stream <= 400,
            "{} {}",
            size_of::<Hop>(),
            size_of::<Crossing>()
        );
    }
}
