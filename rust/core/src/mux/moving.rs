//! A stream that goes from one lane of a trunk to another (`docs/wire-protocol.md`, section 5, Moving a stream).
//!
//! Whoever asks stops sending on the old lane, then the other end does; only then anything of the stream goes on the new one. So
//! nothing can overtake, and nothing can be lost with a lane that still works. What a stream was granted goes with it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::receive::Violation;
use super::received::Received;
use super::stream::{Flags, Stream};
use super::{Key, Mux};
use crate::credit::Budget;
use crate::frame::Kind;
use crate::payload::{self, Class};

/// Streams that came and nobody knew, whose RESET is not written yet.
const MOST_REFUSED: usize = 256;
/// Moves that are taken back on one lane in [`LANDED`]: half of what closes it at the other end, for lanes are lost together.
const MOST_WITHDRAWN: usize = MOST_REFUSED / 2;
/// Streams that went on on a lane, and how long they are remembered: as long as the other end waits for one whose MOVE was lost.
const MOST_LANDED: usize = 128;
const LANDED: Duration = Duration::from_secs(10);

/// The moves of a lane.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Streams that ask to leave, with the names of their moves.
    pub asked: HashMap<Key, u64>,
    /// Streams that left: id, name of the move, bytes sent. At most as many as were open.
    pub parting: Vec<(u32, u64, u64)>,
    /// Ids of streams that came and nobody knew.
    pub strays: Vec<u32>,
    /// Streams of ours that went on here lately, the last ones of them.
    landed: VecDeque<Landed>,
    /// Moves that were taken back here, and since when they are counted.
    withdrawn: usize,
    withdrawn_since: Option<Instant>,
}

/// A stream that went on on a lane.
#[derive(Debug)]
struct Landed {
    id: u32,
    name: u64,
    /// Bytes that it had sent and received by then.
    sent: u64,
    received: u64,
    at: Instant,
}

/// A stream between two lanes. Give it to [`Mux::open_moved`] or [`Mux::adopt`], or [`Detached::close`] it.
#[derive(Debug)]
#[must_use]
pub struct Detached(Box<Stream>);

impl Detached {
    /// Bytes received on it so far: what MOVE has to say on the new lane.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.0.received
    }

    /// Its number on the lane that it left.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.0.id
    }

    /// Bytes sent on it so far.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.0.sent
    }

    /// Whether it is bulky.
    #[must_use]
    pub const fn is_bulky(&self) -> bool {
        self.0.has(Flags::BULKY)
    }

    #[cfg(test)]
    pub(super) const fn stream(&self) -> &Stream {
        &self.0
    }

    /// It is over.
    pub fn close(mut self, budget: &Budget) {
        self.0.close_window(budget);
    }
}

impl Mux {
    /// Whether the peer knows MOVE.
    #[must_use]
    pub const fn moves(&self) -> bool {
        self.config.moves
    }

    /// Whether a stream moves much.
    #[must_use]
    pub fn is_bulky(&self, key: Key) -> bool {
        self.streams
            .get(key as usize)
            .is_some_and(|s| s.has(Flags::BULKY))
    }

    /// Whether we dialled this lane.
    #[must_use]
    pub const fn is_dialler(&self) -> bool {
        self.config.dialler
    }

    /// Whether a stream may be asked to leave: it is answered, has no early data left, and the peer has not said no.
    #[must_use]
    pub fn may_leave(&self, key: Key) -> bool {
        let busy = Flags::ASKED | Flags::ASKING | Flags::WANT_OK | Flags::GONE | Flags::MOVING;
        self.config.moves
            && self.streams.get(key as usize).is_some_and(|s| {
                !s.has(busy | Flags::STAYS)
                    && !s.has_both(Flags::FIN_SENT, Flags::FIN_RECEIVED)
                    && s.early_stored == 0
            })
    }

    /// Streams that may be asked to leave: key and owner.
    pub fn leavers(&self) -> impl Iterator<Item = (Key, u32)> + '_ {
        let all = self.streams.iter();
        all.map(|(key, stream)| (key as Key, stream.owner))
            .filter(|&(key, _)| self.may_leave(key))
    }

    /// Ask the peer to let a stream leave this lane. Nothing is sent on it until [`Received::Left`]. `name` must be unique among
    /// all moves of this trunk.
    pub fn ask_to_leave(&mut self, key: Key, name: u64) {
        if !self.may_leave(key) {
            return;
        }
        if let Some(stream) = self.streams.get_mut(key as usize) {
            stream.set(Flags::MOVING | Flags::WANT_MOVE);
            self.moves.asked.insert(key, name);
            self.push_urgent(key);
        }
    }

    /// Put a no, and the MOVE of a stream that asks, behind everything that was said of it here.
    pub(super) fn put_moves(&mut self, key: Key, out: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        if stream.has(Flags::WANT_NO) {
            payload::put_move(out, stream.id, 0, 0);
        }
        if stream.has(Flags::WANT_MOVE)
            && let Some(name) = self.moves.asked.get(&key)
        {
            payload::put_move(out, stream.id, *name, stream.sent);
        }
        stream.clear(Flags::WANT_NO | Flags::WANT_MOVE);
    }

    /// MOVE for a stream of this lane.
    pub(super) fn receive_move<'a>(
        &mut self,
        key: Key,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Received<'a>>, Violation> {
        let (name, total) = payload::decode_move(payload)?;
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return Ok(None);
        };
        let id = stream.id;
        let unexpected = |what| Violation::Unexpected {
            kind: Kind::Move,
            stream: id,
            what,
        };
        let asked = stream.has(Flags::MOVING) && !stream.has(Flags::WANT_MOVE);
        if name == 0 {
            if !asked {
                return Err(unexpected("no to what was not asked"));
            }
            stream.set(Flags::STAYS);
            self.stay(key);
            return Ok(None);
        }
        if stream.has(Flags::ASKED | Flags::ASKING | Flags::WANT_OK) {
            return Err(unexpected("before OPEN_OK"));
        }
        if total != stream.received {
            return Err(unexpected("its total is not what was received"));
        }
        if stream.has_both(Flags::FIN_SENT, Flags::FIN_RECEIVED) {
            // Both ends know it, and finish here.
            return Ok(None);
        }
        let owner = stream.owner;
        if asked {
            if self.moves.asked.get(&key) == Some(&name) {
                return Ok(Some(Received::Left { owner, key }));
            }
            if self.config.dialler {
                // Both asked: the dialler's move stands, and the other is void.
                return self.glitch(now);
            }
        }
        if stream.has(Flags::MOVING) {
            self.stay(key);
        }
        self.glitch(now)?;
        Ok(Some(Received::Asked { owner, key, name }))
    }

    /// A stream goes on where it is.
    fn stay(&mut self, key: Key) {
        self.moves.asked.remove(&key);
        if let Some(stream) = self.streams.get_mut(key as usize) {
            stream.clear(Flags::MOVING | Flags::WANT_MOVE);
            if stream.due > 0 {
                stream.set(Flags::WANT_CREDIT);
                self.push_urgent(key);
            }
            self.requeue(key, false);
        }
    }

    /// Say no: the stream stays here.
    pub fn keep(&mut self, key: Key) {
        if let Some(stream) = self.get(key) {
            stream.set(Flags::WANT_NO);
            self.push_urgent(key);
        }
    }

    /// Let a stream go that the peer asked for. `None`: it cannot go now, and [`Mux::keep`] has to be said.
    pub fn let_go(&mut self, key: Key, name: u64) -> Option<Detached> {
        if self.streams.get(key as usize)?.early_stored > 0 {
            return None;
        }
        let stream = self.detach(key)?;
        let answer = (stream.0.id, name, stream.0.sent);
        self.moves.parting.push(answer);
        Some(stream)
    }

    /// Take the stream that we asked for, and the name of its move.
    pub fn take_left(&mut self, key: Key) -> Option<(Detached, u64)> {
        let name = *self.moves.asked.get(&key)?;
        Some((self.detach(key)?, name))
    }

    /// The moves of which the other end may keep the stream for another lane when this one is lost: asked for here and not answered, or
    /// gone on here, and nothing came of it since. Name, and bytes sent before.
    #[must_use]
    pub fn moves_in_doubt(&self, now: Instant) -> Vec<(u64, u64)> {
        let asked = self.moves.asked.iter().filter_map(|(&key, &name)| {
            let stream = self.streams.get(key as usize)?;
            (!stream.has(Flags::WANT_MOVE)).then_some((name, stream.sent))
        });
        let landed = self.moves.landed.iter().rev();
        let landed = landed
            .take_while(|landed| now.saturating_duration_since(landed.at) < LANDED)
            .filter(|landed| !self.has_arrived(landed))
            .map(|landed| (landed.name, landed.sent));
        asked.chain(landed).collect()
    }

    /// Whether the other end has this stream on this lane: it sent something of it.
    fn has_arrived(&self, landed: &Landed) -> bool {
        let key = self.ids.get(&landed.id);
        let stream = key.and_then(|&key| self.streams.get(key as usize));
        stream.is_some_and(|s| s.received > landed.received)
    }

    /// Tell the other end that the stream of a move, asked for on a lane that is lost, is over. What would be too many is left to the
    /// other end's patience: of most it has never heard, and such names close the lane.
    pub fn withdraw(&mut self, name: u64, total: u64, now: Instant) {
        let moves = &mut *self.moves;
        let is_recent = |at| now.saturating_duration_since(at) < LANDED;
        if !moves.withdrawn_since.is_some_and(is_recent) {
            (moves.withdrawn, moves.withdrawn_since) = (0, Some(now));
        }
        if self.is_used_up() || !self.config.moves || self.moves.withdrawn >= MOST_WITHDRAWN {
            return;
        }
        self.moves.withdrawn += 1;
        let id = self.next_id;
        self.next_id += 2;
        if self.opening.is_empty() {
            self.opening_from = id;
        }
        let reason = "its lane was lost while it moved";
        payload::put_move(&mut self.opening, id, name, total);
        payload::put_reason(
            &mut self.opening,
            id,
            Kind::Reset,
            Class::Link as u8,
            reason,
        );
    }

    fn detach(&mut self, key: Key) -> Option<Detached> {
        self.moves.asked.remove(&key);
        let mut stream = self.streams.try_remove(key as usize)?;
        self.ids.remove(&stream.id);
        // The other end has it: it let it go here, or asked for it.
        self.moves.landed.retain(|landed| landed.id != stream.id);
        stream.keep_only(
            Flags::FIN_SENT
                | Flags::FIN_RECEIVED
                | Flags::READABLE
                | Flags::ENDING
                | Flags::SAW_DATA
                | Flags::BULKY,
        );
        self.shrink();
        Some(Detached(Box::new(stream)))
    }

    /// Put a stream on this lane, under a new number.
    ///
    /// # Errors
    /// It takes no more: the stream is given back.
    pub fn open_moved(
        &mut self,
        stream: Detached,
        name: u64,
        owner: u32,
        now: Instant,
    ) -> Result<Key, Detached> {
        if self.is_used_up() || self.streams.len() >= self.config.max_streams || !self.config.moves
        {
            return Err(stream);
        }
        let id = self.next_id;
        self.next_id += 2;
        if self.opening.is_empty() {
            self.opening_from = id;
        }
        payload::put_move(&mut self.opening, id, name, stream.0.sent);
        if self.moves.landed.len() >= MOST_LANDED {
            self.moves.landed.pop_front();
        }
        self.moves.landed.push_back(Landed {
            id,
            name,
            sent: stream.0.sent,
            received: stream.0.received,
            at: now,
        });
        Ok(self.attach(stream, id, owner))
    }

    /// MOVE for a number that the peer has not used yet.
    pub(super) fn receive_moved<'a>(
        &mut self,
        id: u32,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Received<'a>>, Violation> {
        let unexpected = |what| Violation::Unexpected {
            kind: Kind::Move,
            stream: id,
            what,
        };
        let (name, total) = payload::decode_move(payload)?;
        if name == 0 || id >= 1 << 31 {
            return Err(unexpected("an id or a name that the peer must not use"));
        }
        self.highest_theirs = id;
        self.glitch(now)?;
        Ok(Some(Received::Moved { id, name, total }))
    }

    /// The stream that the peer moved here.
    pub fn adopt(&mut self, id: u32, stream: Detached, owner: u32) -> Key {
        self.attach(stream, id, owner)
    }

    /// There is no stream for a move: the peer's end of it is reset.
    ///
    /// # Errors
    /// There are so many that the peer must be making them up.
    pub fn refuse_moved(&mut self, id: u32) -> Result<(), Violation> {
        if self.moves.strays.len() >= MOST_REFUSED {
            return Err(Violation::Glitches);
        }
        self.moves.strays.push(id);
        Ok(())
    }

    fn attach(&mut self, stream: Detached, id: u32, owner: u32) -> Key {
        let mut stream = *stream.0;
        stream.id = id;
        stream.owner = owner;
        let due = stream.due > 0 && !stream.has(Flags::FIN_RECEIVED);
        if due {
            stream.set(Flags::WANT_CREDIT);
        }
        let entry = self.streams.vacant_entry();
        let key = entry.key() as Key;
        self.traffic.adopt(key, &mut stream);
        entry.insert(stream);
        self.ids.insert(id, key);
        if due {
            self.push_urgent(key);
        }
        self.requeue(key, false);
        key
    }

    /// Answers to moves, which are the last of their streams here.
    pub(super) fn put_partings(&mut self, out: &mut Vec<u8>) {
        for (id, name, sent) in self.moves.parting.drain(..) {
            payload::put_move(out, id, name, sent);
        }
        for id in self.moves.strays.drain(..) {
            let reason = "the other end has given up its move";
            payload::put_reason(out, id, Kind::Reset, Class::Link as u8, reason);
        }
    }
}
