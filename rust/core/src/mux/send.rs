//! What a lane sends, and in which order.

use std::time::{Duration, Instant};

use super::stream::{Flags, Stream};
use super::{
    CONTROL_CREDIT, Key, MAX_EARLY, MOST_EARLY, MOST_OPENING, MOST_OPENS, Mux, OUR_MOST_OPENS,
};
use crate::credit::{Budget, FLOOR, RecvWindow};
use crate::frame::{self, Kind, MAX_PAYLOAD};
use crate::handshake::RouterId;
use crate::payload::{self, Class, GoAway, Open};

/// Bytes of one stream's turn when others wait too: four full frames.
const QUANTUM: u32 = 4 * MAX_PAYLOAD as u32;
/// Bytes of one stream's turn when nobody else waits: a whole batch.
const ALONE: u32 = 16 * MAX_PAYLOAD as u32;
/// Bytes of the first turn of a stream that was idle while others wait: one frame.
const FIRST: u32 = MAX_PAYLOAD as u32;

/// Turns that streams which were idle get in a row while others wait.
const FRESH_IN_A_ROW: u32 = 8;

/// Why a stream cannot be opened on this lane now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blocked {
    /// All OPENs that the peer permits are unanswered: wait for credit.
    Credit,
    /// The memory budget has no room for its floor.
    Memory,
    /// The cap of streams is reached.
    Streams,
    /// The lane takes no new streams.
    Leaving,
}

/// What an OPEN is made of.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// `None`: any target.
    pub destination: Option<RouterId>,
    /// Where the stream entered.
    pub source: RouterId,
    /// Its name in logs.
    pub uuid: [u8; 16],
    /// Routers it may cross.
    pub hop_limit: u8,
    /// 1 to 255 bytes.
    pub routing_key: &'a str,
    /// Whole attributes, as they came.
    pub attributes: &'a [u8],
    /// Bytes that the application sent already; at most [`MAX_EARLY`].
    pub early: &'a [u8],
    /// The application ended its direction behind them.
    pub fin: bool,
}

/// A stream may send now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Turn {
    /// The stream.
    pub key: Key,
    /// Whose it is.
    pub owner: u32,
    /// At most so many bytes. 0: there is no credit; if the application has nothing but its end left, that goes all the same.
    pub most: u32,
    /// They go out as EARLY, and have to be kept until the answer.
    pub early: bool,
}

impl Mux {
    /// How many bytes of early data an OPEN of this key may carry now.
    #[must_use]
    pub fn early_room(&self, routing_key: &str) -> usize {
        (self.early.min(MAX_EARLY) as usize).min(Open::room_for_early(routing_key))
    }

    /// Open a stream.
    ///
    /// # Errors
    /// When this lane cannot take it now.
    pub fn open(
        &mut self,
        owner: u32,
        opening: &Opening<'_>,
        budget: &Budget,
        now: Instant,
    ) -> Result<Key, Blocked> {
        if self.is_used_up() || matches!(self.peer_leaving, Some(code) if code != GoAway::Drain) {
            return Err(Blocked::Leaving);
        }
        if self.streams.len() >= self.config.max_streams {
            return Err(Blocked::Streams);
        }
        let early = opening.early.len() as u32;
        if self.open_credit() == 0 || early > self.early {
            return Err(Blocked::Credit);
        }
        let Some(window) = RecvWindow::open(budget, now) else {
            return Err(Blocked::Memory);
        };
        let id = self.next_id;
        self.next_id += 2;
        if self.opening.is_empty() {
            self.opening_from = id;
        }
        self.opens -= 1;
        self.unanswered += 1;
        self.outstanding_since.get_or_insert(now);
        self.early -= early;
        let mut stream = Stream::new(id, owner, Flags::ASKED, window, self.traffic.epoch, now);
        stream.sent = u64::from(early);
        stream.early_room = MAX_EARLY.saturating_sub(early) as u16;
        let inside = opening.early.len().min(
            Open::room_for_early(opening.routing_key).saturating_sub(opening.attributes.len()),
        );
        let (inside, behind) = opening.early.split_at(inside);
        Open {
            destination: opening.destination,
            source: opening.source,
            uuid: opening.uuid,
            credit: stream.granted(),
            hop_limit: opening.hop_limit,
            routing_key: opening.routing_key,
            attributes: opening.attributes,
            early: inside,
        }
        .put(&mut self.opening, id);
        if !behind.is_empty() {
            frame::put(&mut self.opening, id, Kind::Early, behind);
        }
        if opening.fin {
            stream.set(Flags::FIN_SENT);
            frame::put(&mut self.opening, id, Kind::Fin, &stream.sent.to_be_bytes());
        }
        let key = self.streams.insert(stream) as Key;
        self.ids.insert(id, key);
        Ok(key)
    }

    /// The target of a stream that the peer opened is connected.
    pub fn accept(&mut self, key: Key) {
        if let Some(stream) = self.get(key)
            && stream.has(Flags::ASKING)
        {
            stream.clear(Flags::ASKING);
            stream.set(Flags::WANT_OK);
            self.due_opens += 1;
            self.push_urgent(key);
            self.requeue(key, true);
        }
    }

    /// A stream that the peer opened found no target. It is gone; the target must have seen nothing.
    pub fn refuse(&mut self, key: Key, class: Class, reason: &str, budget: &Budget) {
        self.end(key, Flags::WANT_ERR, class, reason, budget);
    }

    /// Abandon both directions. The stream is gone for the caller.
    pub fn reset(&mut self, key: Key, class: Class, reason: &str, budget: &Budget) {
        let asking = self.get(key).is_some_and(|s| s.has(Flags::ASKING));
        let what = if asking {
            Flags::WANT_ERR
        } else {
            Flags::WANT_RESET
        };
        self.end(key, what, class, reason, budget);
    }

    /// The same, also where the peer still waits for an answer: the stream may have been said something by then.
    pub fn abandon(&mut self, key: Key, class: Class, reason: &str, budget: &Budget) {
        self.end(key, Flags::WANT_RESET, class, reason, budget);
    }

    fn end(&mut self, key: Key, what: u32, class: Class, reason: &str, budget: &Budget) {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        if stream.has(Flags::GONE) {
            return;
        }
        let asked = stream.has(Flags::ASKED);
        let asking = stream.has(Flags::ASKING);
        let is_moving = stream.has(Flags::MOVING);
        stream.clear(
            Flags::ASKED
                | Flags::ASKING
                | Flags::READABLE
                | Flags::WANT_CREDIT
                | Flags::WANT_RETURN
                | Flags::MOVING
                | Flags::WANT_MOVE
                | Flags::WANT_NO,
        );
        if is_moving {
            self.moves.asked.remove(&key);
        }
        stream.set(Flags::GONE | what);
        stream.end = Some((class, reason.into()));
        stream.close_window(budget);
        let early = std::mem::take(&mut stream.early_stored);
        self.ids.remove(&stream.id);
        self.due_early += early;
        if asked {
            self.unanswered -= 1;
        }
        if asking {
            self.due_opens += 1;
        }
        self.push_urgent(key);
    }

    /// Both directions ended cleanly and everything received was consumed: forget the stream.
    pub fn release(&mut self, key: Key, budget: &Budget) {
        self.remove(key, budget);
    }

    /// The application has bytes, or an end, for the stream.
    pub fn readable(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key as usize)
            && !stream.has(Flags::GONE | Flags::FIN_SENT)
        {
            let was_idle = !stream.has(Flags::READABLE);
            stream.set(Flags::READABLE);
            self.requeue(key, was_idle);
        }
    }

    /// The application has ended, perhaps behind bytes that are not read yet.
    pub fn ending(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key as usize)
            && stream.has(Flags::READABLE)
        {
            stream.set(Flags::ENDING);
            self.requeue(key, false);
        }
    }

    /// Queue a stream that may send: with those that were idle, or (it only waited for credit) with the others.
    pub(super) fn requeue(&mut self, key: Key, was_idle: bool) {
        if let Some(stream) = self.streams.get_mut(key as usize)
            && stream.has(Flags::READABLE)
            && !stream.has(Flags::QUEUED)
            && (stream.may_send() > 0 || stream.may_end())
        {
            stream.set(Flags::QUEUED);
            let queue = if was_idle {
                &mut self.fresh
            } else {
                &mut self.bulk
            };
            queue.push_back((key, stream.id));
        }
    }

    /// Whose turn it is, streams that were idle first, then round robin. The caller reads from the application and calls [`Mux::sent`].
    pub fn next_turn(&mut self) -> Option<Turn> {
        loop {
            // A stream that is idle for a moment again and again must not keep the others waiting for ever.
            let bulk_is_due = self.fresh_turns >= FRESH_IN_A_ROW && !self.bulk.is_empty();
            let fresh = (!bulk_is_due).then(|| self.fresh.pop_front()).flatten();
            let (was_idle, (key, id)) = match fresh {
                Some(entry) => (true, entry),
                None => (false, self.bulk.pop_front()?),
            };
            self.fresh_turns = if was_idle { self.fresh_turns + 1 } else { 0 };
            let alone = self.fresh.is_empty() && self.bulk.is_empty();
            let early = self.early;
            let Some(stream) = self.streams.get_mut(key as usize) else {
                continue;
            };
            if stream.id != id || !stream.has(Flags::QUEUED) {
                continue;
            }
            stream.clear(Flags::QUEUED);
            let asked = stream.has(Flags::ASKED);
            let mut most = stream.may_send().min(match (alone, was_idle) {
                (true, _) => ALONE,
                (false, true) => FIRST,
                (false, false) => QUANTUM,
            });
            if asked {
                // Without early credit it waits for its answer.
                most = most.min(early);
            }
            if !stream.has(Flags::READABLE) || (most == 0 && !stream.may_end()) {
                continue;
            }
            stream.clear(Flags::ENDING);
            return Some(Turn {
                key,
                owner: stream.owner,
                most,
                early: asked,
            });
        }
    }

    /// The stream that had its turn sent `bytes`; `drained`: the application has no more for now.
    pub fn sent(&mut self, key: Key, bytes: u32, drained: bool, now: Instant) {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        stream.sent += u64::from(bytes);
        self.traffic.count(key, stream, bytes);
        stream.last_sent = now;
        if stream.has(Flags::ASKED) {
            stream.early_room = stream.early_room.saturating_sub(bytes as u16);
            self.early = self.early.saturating_sub(bytes);
        } else {
            stream.credit = stream.credit.saturating_sub(bytes);
        }
        if drained {
            stream.clear(Flags::READABLE);
        } else if stream.may_send() > 0 && !stream.has(Flags::QUEUED) {
            stream.set(Flags::QUEUED);
            self.bulk.push_back((key, stream.id));
        }
    }

    /// The application ended its direction: append FIN. Returns whether the other direction has ended too.
    pub fn finish(&mut self, key: Key, out: &mut Vec<u8>) -> bool {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return false;
        };
        if stream.has(Flags::GONE | Flags::FIN_SENT) {
            return false;
        }
        stream.set(Flags::FIN_SENT);
        stream.clear(Flags::READABLE);
        frame::put(out, stream.id, Kind::Fin, &stream.sent.to_be_bytes());
        stream.has(Flags::FIN_RECEIVED)
    }

    /// OPENs that may be sent now.
    #[must_use]
    pub fn open_credit(&self) -> u32 {
        if self.opening.len() >= MOST_OPENING {
            return 0;
        }
        self.opens
            .min(OUR_MOST_OPENS.saturating_sub(self.unanswered))
    }

    /// Whether it is a stream of ours whose OPEN is in no batch yet: the peer cannot know of it.
    pub(super) fn is_unsent(&self, id: u32) -> bool {
        !self.opening.is_empty() && self.is_ours(id) && id >= self.opening_from
    }

    /// Bytes of early data that may be sent now.
    #[must_use]
    pub const fn early_credit(&self) -> u32 {
        self.early
    }

    /// Whose stream it is.
    #[must_use]
    pub fn owner_of(&self, key: Key) -> Option<u32> {
        self.streams.get(key as usize).map(|s| s.owner)
    }

    /// The id on the wire.
    #[must_use]
    #[inline]
    pub fn id_of(&self, key: Key) -> u32 {
        self.streams.get(key as usize).map_or(0, |s| s.id)
    }

    /// Whether the peer's direction has ended cleanly.
    #[must_use]
    pub fn has_fin(&self, key: Key) -> bool {
        self.streams
            .get(key as usize)
            .is_some_and(|s| s.has(Flags::FIN_RECEIVED))
    }

    /// Whether our direction has ended.
    #[must_use]
    pub fn has_sent_fin(&self, key: Key) -> bool {
        self.streams
            .get(key as usize)
            .is_some_and(|s| s.has(Flags::FIN_SENT))
    }

    /// Whether our OPEN has no answer.
    #[must_use]
    pub fn is_unanswered(&self, key: Key) -> bool {
        self.streams
            .get(key as usize)
            .is_some_and(|s| s.has(Flags::ASKED))
    }

    /// Whether any byte of our direction was sent. An end without one tells a target nothing that it could act upon twice.
    #[must_use]
    pub fn has_said(&self, key: Key) -> bool {
        self.streams.get(key as usize).is_some_and(|s| s.sent > 0)
    }

    /// The application took `bytes`; early data counts first.
    #[inline]
    pub fn consumed(&mut self, key: Key, bytes: u32, budget: &Budget, now: Instant) {
        let rtt = self.rtt;
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        let mut bytes = bytes;
        if stream.early_stored > 0 {
            let early = bytes.min(stream.early_stored);
            stream.early_stored -= early;
            self.due_early += early;
            bytes -= early;
        }
        let grant = match stream.window_mut() {
            Some(window) if bytes > 0 => window.consumed(bytes, budget, rtt, now),
            _ => 0,
        };
        if grant > 0 {
            self.owe(key, grant, now);
        }
    }

    /// The peer gets so much more credit for a stream.
    fn owe(&mut self, key: Key, grant: u32, now: Instant) {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        if stream.has(Flags::FIN_RECEIVED | Flags::GONE) {
            return;
        }
        stream.due += grant;
        if stream.has(Flags::MOVING) {
            // It is said on the lane where it goes on.
            return;
        }
        stream.set(Flags::WANT_CREDIT);
        self.push_urgent(key);
        self.measure(now);
    }

    /// Control messages of so many bytes were taken.
    pub fn control_consumed(&mut self, bytes: u32) {
        self.due_control += bytes;
    }

    /// How many bytes of control messages may be sent now.
    #[must_use]
    pub const fn control_room(&self) -> u32 {
        self.control
    }

    /// Append a piece of the byte stream of control messages; at most [`Mux::control_room`].
    pub fn put_control(&mut self, out: &mut Vec<u8>, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_PAYLOAD) {
            self.control = self.control.saturating_sub(piece.len() as u32);
            frame::put(out, 0, Kind::Data, piece);
        }
    }

    /// Tell the peer that the lane or the router is leaving.
    pub fn go_away(&mut self, code: GoAway, reason: &str) {
        self.goaway = Some((code, reason.to_owned()));
    }

    /// Whether [`Mux::put_urgent`] has anything to say or a stream may send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !(self.urgent.is_empty()
            && self.opening.is_empty()
            && self.fresh.is_empty()
            && self.bulk.is_empty()
            && self.refusals.is_empty()
            && self.moves.parting.is_empty()
            && self.moves.strays.is_empty())
            || self.pong.is_some()
            || self.ping.is_some()
            || self.goaway.is_some()
            || self.owes_lane_credit()
    }

    fn owes_lane_credit(&self) -> bool {
        self.due_control >= CONTROL_CREDIT / 2
            || self.due_opens > 0
                && (self.due_opens >= self.peer_opens_limit / 2
                    || self.peer_opens < self.peer_opens_limit / 2)
            || self.due_early > 0
                && (self.due_early >= self.peer_early_limit / 2
                    || self.peer_early < self.peer_early_limit / 2)
    }

    /// Append everything that goes ahead of data.
    pub fn put_urgent(&mut self, out: &mut Vec<u8>, budget: &Budget) {
        if let Some(bytes) = self.pong.take() {
            frame::put(out, 0, Kind::Pong, &bytes);
        }
        if let Some(bytes) = self.ping.take() {
            frame::put(out, 0, Kind::Ping, &bytes);
        }
        if let Some((code, reason)) = self.goaway.take() {
            payload::put_reason(out, 0, Kind::GoAway, code as u8, &reason);
        }
        while let Some((id, class, reason)) = self.refusals.pop_front() {
            payload::put_reason(out, id, Kind::OpenErr, class as u8, reason);
            self.due_opens += 1;
        }
        if !(self.moves.parting.is_empty() && self.moves.strays.is_empty()) {
            self.put_partings(out);
        }
        let mut behind_opens = Vec::new();
        while let Some((key, id)) = self.urgent.pop_front() {
            if self.is_unsent(id) {
                behind_opens.push((key, id));
            } else {
                self.put_for_stream(key, id, out, budget);
            }
        }
        if self.owes_lane_credit() {
            self.put_lane_credit(out, budget);
        }
        if !self.opening.is_empty() {
            out.append(&mut self.opening);
            if self.opening.capacity() > 1 << 16 {
                self.opening = Vec::new();
            }
        }
        for (key, id) in behind_opens {
            self.put_for_stream(key, id, out, budget);
        }
    }

    fn put_for_stream(&mut self, key: Key, id: u32, out: &mut Vec<u8>, budget: &Budget) {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        if stream.id != id {
            return;
        }
        stream.clear(Flags::IN_URGENT);
        if stream.has(Flags::GONE) {
            let (class, reason) = stream
                .end
                .take()
                .unwrap_or((Class::Link, String::new().into()));
            let kind = if stream.has(Flags::WANT_ERR) {
                Kind::OpenErr
            } else {
                Kind::Reset
            };
            payload::put_reason(out, id, kind, class as u8, &reason);
            self.remove(key, budget);
            return;
        }
        if stream.has(Flags::WANT_OK) {
            stream.clear(Flags::WANT_OK);
            frame::put(out, id, Kind::OpenOk, &stream.granted().to_be_bytes());
            stream.due = 0;
            stream.clear(Flags::WANT_CREDIT);
        }
        if stream.has(Flags::WANT_CREDIT) {
            stream.clear(Flags::WANT_CREDIT);
            let due = std::mem::take(&mut stream.due);
            frame::put(out, id, Kind::Credit, &due.to_be_bytes());
        }
        if stream.has(Flags::WANT_RETURN) {
            stream.clear(Flags::WANT_RETURN);
            if !stream.has(Flags::READABLE | Flags::MOVING) && stream.credit > FLOOR {
                let above = stream.credit - FLOOR;
                stream.credit = FLOOR;
                frame::put(out, id, Kind::CreditReturn, &above.to_be_bytes());
            }
        }
        if stream.has(Flags::WANT_NO | Flags::WANT_MOVE) {
            self.put_moves(key, out);
        }
    }

    /// Give back open credit, early credit and the credit of control messages, and permit more where all of it was used.
    fn put_lane_credit(&mut self, out: &mut Vec<u8>, budget: &Budget) {
        let mut opens = std::mem::take(&mut self.due_opens);
        let mut early = std::mem::take(&mut self.due_early);
        let control = std::mem::take(&mut self.due_control);
        if self.peer_opens == 0 && self.peer_opens_limit < MOST_OPENS {
            let more = self
                .peer_opens_limit
                .min(MOST_OPENS - self.peer_opens_limit);
            self.peer_opens_limit += more;
            opens += more;
        }
        if self.peer_early < MAX_EARLY && self.peer_early_limit < MOST_EARLY {
            let more = self
                .peer_early_limit
                .min(MOST_EARLY - self.peer_early_limit);
            if budget.reserve(more) {
                self.early_reserved += more;
                self.peer_early_limit += more;
                early += more;
            }
        }
        self.peer_opens += opens;
        self.peer_early += early;
        self.peer_control += control;
        out.extend_from_slice(&frame::header(0, Kind::Credit, 12));
        for amount in [control, opens, early] {
            out.extend_from_slice(&amount.to_be_bytes());
        }
    }

    /// When [`Mux::tick`] should be called at the latest.
    #[must_use]
    pub fn next_tick(&self) -> Duration {
        if self.unanswered > 0 || self.ping_sent.is_some() || self.wrote_at.is_some() {
            Duration::from_millis(100)
        } else {
            Duration::from_millis(500)
        }
    }
}
