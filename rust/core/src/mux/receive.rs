//! What a lane does with a frame that arrived. Everything here is fed by the network.

use std::time::Instant;

use super::received::Received;
use super::stream::{Flags, Stream};
use super::{GLITCH_SPAN, Key, MAX_EARLY, MOST_GLITCHES, Mux, OUR_MOST_EARLY, OUR_MOST_OPENS};
use crate::credit::{Budget, RecvWindow};
use crate::frame::{Frame, FrameError, Kind, MAX_CREDIT};
use crate::payload::{self, Class, GoAway, MOST_OPEN_ATTRIBUTES, Open};

/// The peer broke the protocol: the lane is to be closed with GOAWAY `protocol` and this reason.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Not even a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A well-formed frame that must not come now.
    #[error("{kind:?} for stream {stream}: {what}")]
    Unexpected {
        /// Its type.
        kind: Kind,
        /// Its stream.
        stream: u32,
        /// Why not.
        what: &'static str,
    },
    /// Too many useless frames.
    #[error("more than {MOST_GLITCHES} useless frames in {GLITCH_SPAN:?}")]
    Glitches,
}

impl Mux {
    /// Act on one frame.
    ///
    /// # Errors
    /// The peer broke the protocol; the lane must be closed.
    #[inline]
    pub fn receive<'a>(
        &mut self,
        frame: Frame<'a>,
        budget: &Budget,
        now: Instant,
    ) -> Result<Option<Received<'a>>, Violation> {
        match frame.kind {
            Some(Kind::Data) if frame.stream != 0 => self.receive_data(frame.stream, frame.payload),
            _ => self.receive_other(frame, budget, now),
        }
    }

    /// What nearly all frames of bulk are.
    fn receive_data<'a>(
        &mut self,
        id: u32,
        bytes: &'a [u8],
    ) -> Result<Option<Received<'a>>, Violation> {
        let unexpected = |what| Violation::Unexpected {
            kind: Kind::Data,
            stream: id,
            what,
        };
        if self.is_unsent(id) {
            return Err(unexpected("this stream was never opened"));
        }
        let Some(key) = self.key_of(id) else {
            return self.receive_for_the_dead(id, Kind::Data, bytes);
        };
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return Err(unexpected("no such stream"));
        };
        if bytes.is_empty() {
            return Err(unexpected("empty"));
        }
        if stream.has(Flags::FIN_RECEIVED | Flags::ASKED | Flags::ASKING) {
            let after = stream.has(Flags::FIN_RECEIVED);
            return Err(unexpected(if after {
                "after FIN"
            } else {
                "before OPEN_OK"
            }));
        }
        let len = bytes.len() as u32;
        stream.set(Flags::SAW_DATA);
        stream.received += u64::from(len);
        if let Some(window) = stream.window_mut() {
            window
                .received(len)
                .map_err(|_| unexpected("more than was granted"))?;
        }
        self.traffic.count(key, stream, len);
        Ok(Some(Received::Data {
            owner: stream.owner,
            key,
            bytes,
        }))
    }

    /// The stream of this id. Frames of one come in rows, so the last one is looked at before the map.
    #[inline]
    fn key_of(&mut self, id: u32) -> Option<Key> {
        let (last_id, last_key) = self.last;
        if last_id == id
            && let Some(stream) = self.streams.get(last_key as usize)
            && stream.id == id
            && !stream.has(Flags::GONE)
        {
            return Some(last_key);
        }
        let key = *self.ids.get(&id)?;
        self.last = (id, key);
        Some(key)
    }

    fn receive_other<'a>(
        &mut self,
        frame: Frame<'a>,
        budget: &Budget,
        now: Instant,
    ) -> Result<Option<Received<'a>>, Violation> {
        let Frame {
            stream: id,
            kind,
            payload,
        } = frame;
        let Some(kind) = kind else {
            return self.glitch(now);
        };
        let unexpected = |what| Violation::Unexpected {
            kind,
            stream: id,
            what,
        };
        if id == 0 {
            return self.receive_for_lane(kind, payload, now);
        }
        match kind {
            Kind::Hello | Kind::Ping | Kind::Pong | Kind::GoAway => {
                return Err(unexpected("belongs on stream 0"));
            }
            Kind::Open => return self.receive_open(id, payload, budget, now),
            _ => {}
        }
        if kind == Kind::Move {
            if !self.config.moves {
                return Err(unexpected("we did not agree on it"));
            }
            if !self.is_ours(id) && id > self.highest_theirs {
                return self.receive_moved(id, payload, now);
            }
        }
        if self.is_unsent(id) {
            return Err(unexpected("this stream was never opened"));
        }
        let Some(key) = self.key_of(id) else {
            return self.receive_for_the_dead(id, kind, payload);
        };
        let ours = self.is_ours(id);
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return Err(unexpected("no such stream"));
        };
        match kind {
            Kind::Early => {
                let len = payload.len() as u32;
                if payload.is_empty() {
                    return Err(unexpected("empty"));
                }
                if ours || stream.has(Flags::SAW_DATA | Flags::FIN_RECEIVED) {
                    return Err(unexpected("not before the stream's other data"));
                }
                stream.received += u64::from(len);
                stream.early_received += len;
                if stream.early_received > MAX_EARLY {
                    return Err(unexpected("more than a frame of early data"));
                }
                self.peer_early = self
                    .peer_early
                    .checked_sub(len)
                    .ok_or(unexpected("more early data than was granted"))?;
                stream.early_stored += len;
                Ok(Some(Received::Data {
                    owner: stream.owner,
                    key,
                    bytes: payload,
                }))
            }
            Kind::Credit => {
                let amount = payload::decode_amount(kind, payload)?;
                stream.credit = stream
                    .credit
                    .checked_add(amount)
                    .filter(|credit| *credit <= MAX_CREDIT)
                    .ok_or(unexpected("credit beyond 2^31 - 1"))?;
                self.requeue(key, false);
                Ok(None)
            }
            Kind::CreditReturn => {
                let amount = payload::decode_amount(kind, payload)?;
                if let Some(window) = stream.window_mut() {
                    window
                        .returned(amount, budget)
                        .map_err(|_| unexpected("more than was outstanding"))?;
                }
                self.glitch(now)
            }
            Kind::Fin => {
                let total: &[u8; 8] = payload
                    .try_into()
                    .map_err(|_| unexpected("must be 8 bytes"))?;
                if stream.has(Flags::FIN_RECEIVED) {
                    return Err(unexpected("a second one"));
                }
                if stream.has(Flags::ASKED) {
                    return Err(unexpected("before OPEN_OK"));
                }
                if u64::from_be_bytes(*total) != stream.received {
                    return Err(unexpected("its total is not what was received"));
                }
                stream.set(Flags::FIN_RECEIVED);
                Ok(Some(Received::Fin {
                    owner: stream.owner,
                    key,
                }))
            }
            Kind::Move => self.receive_move(key, payload, now),
            Kind::Reset => {
                let (class, reason) = payload::decode_reason(kind, payload)?;
                if stream.has(Flags::ASKED) {
                    self.unanswered -= 1;
                }
                if stream.has(Flags::ASKING) {
                    self.cancelled_opens += 1;
                }
                let owner = stream.owner;
                self.remove(key, budget);
                Ok(Some(Received::Reset {
                    owner,
                    class: Class::from_wire(class),
                    reason,
                }))
            }
            Kind::OpenOk => {
                if !stream.has(Flags::ASKED) {
                    return Err(unexpected("nothing was asked"));
                }
                stream.clear(Flags::ASKED);
                stream.credit = payload::decode_open_ok(payload)?;
                let owner = stream.owner;
                self.unanswered -= 1;
                self.requeue(key, true);
                Ok(Some(Received::Answered { owner }))
            }
            Kind::OpenErr => {
                let (class, reason) = payload::decode_reason(kind, payload)?;
                if !stream.has(Flags::ASKED) {
                    return Err(unexpected("nothing was asked"));
                }
                self.unanswered -= 1;
                let owner = stream.owner;
                self.remove(key, budget);
                Ok(Some(Received::Refused {
                    owner,
                    class: Class::from_wire(class),
                    reason,
                }))
            }
            Kind::Data => self.receive_data(id, payload),
            Kind::Hello | Kind::Open | Kind::Ping | Kind::Pong | Kind::GoAway => {
                Err(unexpected("belongs on stream 0"))
            }
        }
    }

    fn receive_open<'a>(
        &mut self,
        id: u32,
        payload: &'a [u8],
        budget: &Budget,
        now: Instant,
    ) -> Result<Option<Received<'a>>, Violation> {
        let unexpected = |what| Violation::Unexpected {
            kind: Kind::Open,
            stream: id,
            what,
        };
        if self.is_ours(id) || id >= 1 << 31 {
            return Err(unexpected("an id that the peer must not use"));
        }
        if id <= self.highest_theirs {
            return Err(unexpected("an id that was used before"));
        }
        let open = Open::decode(payload)?;
        let early = open.early.len() as u32;
        if early > MAX_EARLY {
            return Err(unexpected("more than a frame of early data"));
        }
        self.highest_theirs = id;
        self.peer_opens = self
            .peer_opens
            .checked_sub(1)
            .ok_or(unexpected("more unanswered ones than were granted"))?;
        self.peer_early = self
            .peer_early
            .checked_sub(early)
            .ok_or(unexpected("more early data than was granted"))?;
        if open.attributes.len() > MOST_OPEN_ATTRIBUTES {
            let reason = "more than 1,024 bytes of attributes in an OPEN";
            return Ok(self.refuse_at_once(id, early, Class::Policy, reason));
        }
        if self.streams.len() >= self.config.max_streams {
            let reason = "too many streams on this lane";
            return Ok(self.refuse_at_once(id, early, Class::Resource, reason));
        }
        let Some(window) = RecvWindow::open(budget, now) else {
            return Ok(self.refuse_at_once(
                id,
                early,
                Class::Resource,
                "the memory budget has no room for another stream",
            ));
        };
        let mut stream = Stream::new(id, u32::MAX, Flags::ASKING, window, self.traffic.epoch, now);
        stream.credit = open.credit;
        stream.received = u64::from(early);
        stream.early_received = early;
        stream.early_stored = early;
        let key = self.streams.insert(stream) as Key;
        self.ids.insert(id, key);
        Ok(Some(Received::Open { key, open }))
    }

    fn refuse_at_once<'a>(
        &mut self,
        id: u32,
        early: u32,
        class: Class,
        reason: &'static str,
    ) -> Option<Received<'a>> {
        self.due_early += early;
        self.refusals.push_back((id, class, reason));
        None
    }

    fn receive_for_lane<'a>(
        &mut self,
        kind: Kind,
        payload: &'a [u8],
        now: Instant,
    ) -> Result<Option<Received<'a>>, Violation> {
        let unexpected = |what| Violation::Unexpected {
            kind,
            stream: 0,
            what,
        };
        match kind {
            Kind::Data => {
                if payload.is_empty() {
                    return Err(unexpected("empty"));
                }
                self.peer_control = self
                    .peer_control
                    .checked_sub(payload.len() as u32)
                    .ok_or(unexpected("more control messages than were granted"))?;
                Ok(Some(Received::Control(payload)))
            }
            Kind::Credit => {
                let mut rest = payload::Reader(payload);
                let (Some(control), Some(opens), Some(early), true) =
                    (rest.u32(), rest.u32(), rest.u32(), rest.0.is_empty())
                else {
                    return Err(unexpected("must be 12 bytes"));
                };
                let add = |have: &mut u32, more| {
                    *have = have
                        .checked_add(more)
                        .filter(|credit| *credit <= MAX_CREDIT)
                        .ok_or(unexpected("credit beyond 2^31 - 1"))?;
                    Ok::<(), Violation>(())
                };
                add(&mut self.control, control)?;
                add(&mut self.opens, opens)?;
                add(&mut self.early, early)?;
                self.opens = self.opens.min(OUR_MOST_OPENS);
                self.early = self.early.min(OUR_MOST_EARLY);
                if (control, opens, early) == (0, 0, 0) {
                    return self.glitch(now);
                }
                Ok(None)
            }
            Kind::Ping => {
                let bytes = payload
                    .try_into()
                    .map_err(|_| unexpected("must be 8 bytes"))?;
                self.pong = Some(bytes);
                self.glitch(now)
            }
            Kind::Pong => {
                let bytes: [u8; 8] = payload
                    .try_into()
                    .map_err(|_| unexpected("must be 8 bytes"))?;
                if let Some((number, sent)) = self.ping_sent
                    && number.to_be_bytes() == bytes
                {
                    self.ping_sent = None;
                    let rtt = now.saturating_duration_since(sent);
                    // The first as it is. Then the smallest recent: falls at once, rises to twice as much at most.
                    self.rtt = if std::mem::replace(&mut self.has_rtt, true) {
                        rtt.min(2 * self.rtt + std::time::Duration::from_micros(50))
                    } else {
                        rtt
                    };
                    return Ok(None);
                }
                self.glitch(now)
            }
            Kind::GoAway => {
                let (code, reason) = payload::decode_reason(kind, payload)?;
                let code = GoAway::from_wire(code);
                let bit = 1 << code as u8;
                if self.goaways_seen & bit != 0 {
                    return self.glitch(now);
                }
                self.goaways_seen |= bit;
                // Nothing takes back that no OPENs are wanted.
                if matches!(self.peer_leaving, None | Some(GoAway::Drain)) {
                    self.peer_leaving = Some(code);
                }
                Ok(Some(Received::GoAway { code, reason }))
            }
            Kind::Hello => Err(unexpected("a second one")),
            _ => Err(unexpected("belongs on a stream")),
        }
    }

    /// A frame for a stream that is over (or never was).
    fn receive_for_the_dead<'a>(
        &mut self,
        id: u32,
        kind: Kind,
        payload: &'a [u8],
    ) -> Result<Option<Received<'a>>, Violation> {
        let known = if self.is_ours(id) {
            id < self.next_id
        } else {
            id <= self.highest_theirs
        };
        if !known {
            return Err(Violation::Unexpected {
                kind,
                stream: id,
                what: "this stream was never opened",
            });
        }
        if kind == Kind::Early {
            let len = payload.len() as u32;
            self.peer_early = self
                .peer_early
                .checked_sub(len)
                .ok_or(Violation::Unexpected {
                    kind,
                    stream: id,
                    what: "more early data than was granted",
                })?;
            self.due_early += len;
        }
        if kind == Kind::Move {
            payload::decode_move(payload)?;
        }
        if kind == Kind::Reset && self.config.moves {
            let (class, reason) = payload::decode_reason(kind, payload)?;
            let class = Class::from_wire(class);
            return Ok(Some(Received::LateReset { id, class, reason }));
        }
        // What was under way when a stream ended is nobody's fault: no glitch.
        Ok(None)
    }

    pub(super) fn glitch<'a>(&mut self, now: Instant) -> Result<Option<Received<'a>>, Violation> {
        if now.saturating_duration_since(self.glitches_since) >= GLITCH_SPAN {
            self.glitches_since = now;
            self.glitches = 0;
        }
        self.glitches += 1;
        if self.glitches > MOST_GLITCHES {
            return Err(Violation::Glitches);
        }
        Ok(None)
    }
}
