//! The state machine of one lane: streams, credit, order, liveness (`docs/wire-protocol.md`, sections 3 to 10).
//!
//! Sans-IO: frames and the time come in as arguments; what shall be sent is appended to buffers that the caller owns. The
//! mux never stores payload: bytes go from the caller's sockets into its batch and back, the mux says who may send next and
//! how much. Everything that a peer can provoke is a flag on a stream or a bounded field, never a queue.
//!
//! The caller
//! * feeds frames to [`Mux::receive`] and acts on each [`Received`];
//! * reports what applications did ([`Mux::readable`], [`Mux::consumed`], [`Mux::reset`] ...);
//! * fills a batch: [`Mux::put_urgent`], then turns ([`Mux::next_turn`]) until there is none or the batch is full;
//! * calls [`Mux::tick`] now and then.
#![forbid(unsafe_code)]

mod meter;
mod moving;
mod receive;
mod received;
mod send;
mod stream;
#[cfg(test)]
mod tests;

pub use meter::EPOCH;
pub use moving::Detached;
pub use receive::Violation;
pub use received::Received;
pub use send::{Blocked, Opening, Turn};

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use slab::Slab;

use crate::credit::Budget;
use crate::handshake::HelloCredit;
use crate::payload::{Class, GoAway};
use meter::Traffic;
use moving::Moves;
use stream::{Flags, Stream};

/// Ids from here on are not opened any more: the lane has to be replaced.
pub const LAST_ID: u32 = (1 << 31) - 1024;
/// Early data of one stream, in bytes.
pub const MAX_EARLY: u32 = 16_376;
/// Most OPENs that a peer may have unanswered on a lane, once it has shown that it needs them.
const MOST_OPENS: u32 = 256;
/// Most early data that those may carry together.
const MOST_EARLY: u32 = 1 << 20;
/// Bytes of control messages that a peer may have under way.
pub const CONTROL_CREDIT: u32 = 131_072;
/// OPENs that we leave unanswered at most, and early data under way at most, however much more a peer permits: both are stored here
/// until the answer.
const OUR_MOST_OPENS: u32 = MOST_OPENS;
const OUR_MOST_EARLY: u32 = MOST_EARLY;
/// Bytes of OPENs that wait for a batch: what a peer permits before it has read some. Beyond it, it permits without reading.
const MOST_OPENING: usize = OUR_MOST_EARLY as usize + OUR_MOST_OPENS as usize * 1_536;
/// Useless frames that a peer may send in [`GLITCH_SPAN`].
const MOST_GLITCHES: u32 = 10_000;
const GLITCH_SPAN: Duration = Duration::from_secs(10);
/// A sender that is idle for so long gives its credit back.
const IDLE: Duration = Duration::from_secs(5);
/// How often senders that are idle are looked for, and how many give back at once: a CREDIT_RETURN costs a glitch at the other end, and
/// ten thousand streams may fall idle together.
const SWEEP: Duration = Duration::from_secs(1);
const SWEPT_AT_ONCE: usize = 800;
/// Ticks come every 100 ms. Longer ago: this process was stopped or starved, and what the peers said meanwhile is not read yet.
const LONGEST_TICK: Duration = Duration::from_millis(400);
/// How often the round trip of a lane is measured while windows are used up.
const MEASURE: Duration = Duration::from_secs(5);
/// Silence after which a lane asks for a sign of life: idle, and with something outstanding.
const HEARTBEAT: Duration = Duration::from_secs(2);
const PROBE: Duration = Duration::from_millis(400);
/// A lane beside a suspect one is suspect after this part of the silence.
const QUICKER: u32 = 4;

/// What a mux is made with.
#[derive(Clone, Copy, Debug)]
pub struct MuxConfig {
    /// We dialled: our streams have odd ids.
    pub dialler: bool,
    /// What the peer's HELLO permits us.
    pub ours: HelloCredit,
    /// What our HELLO permits the peer.
    pub theirs: HelloCredit,
    /// Both ends know MOVE.
    pub moves: bool,
    /// Streams that may be open at once.
    pub max_streams: usize,
    /// Silence after which a lane is suspect, if something is outstanding.
    pub suspect_after: Duration,
    /// Silence after which it is dead.
    pub dead_after: Duration,
}

/// How the other lanes to the same router are, the worst of them.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Others {
    /// Heard lately, or there is none.
    #[default]
    Well,
    /// One owes us something and is silent: so may this one be.
    Silent,
    /// One is suspect: less silence is needed here.
    Suspect,
}

/// How alive a lane is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Liveness {
    /// Heard lately.
    Alive,
    /// New streams should go elsewhere.
    Suspect,
    /// Close it.
    Dead,
}

/// Names a stream between mux and caller; stays valid until [`Mux::release`], a reset or a refusal.
pub type Key = u32;

/// One lane's state. See the module.
#[derive(Debug)]
pub struct Mux {
    config: MuxConfig,
    streams: Slab<Stream>,
    ids: HashMap<u32, Key, foldhash::fast::FixedState>,
    /// Id and key of the stream that the last frame was for. It may be over.
    last: (u32, Key),
    next_id: u32,
    highest_theirs: u32,

    /// OPENs we may still send, and early bytes.
    opens: u32,
    early: u32,
    /// Our streams that have no answer yet.
    unanswered: u32,
    /// OPENs the peer may still send, and early bytes; what it may have at most; what is due back.
    peer_opens: u32,
    peer_early: u32,
    peer_opens_limit: u32,
    peer_early_limit: u32,
    due_opens: u32,
    due_early: u32,
    /// OPENs that the peer took back itself: due on the next tick, so that open-and-reset has a pace.
    cancelled_opens: u32,

    /// Control messages: what we may send, what the peer may send, what is due back.
    control: u32,
    peer_control: u32,
    due_control: u32,

    /// OPEN frames not yet in a batch; bounded by `opens` and `early`.
    opening: Vec<u8>,
    /// The id of the first of them: nothing about a stream may go ahead of its OPEN.
    opening_from: u32,
    /// Streams with a flag to be written; each is in here once.
    urgent: VecDeque<(Key, u32)>,
    /// Refused without having become streams; bounded by the open credit.
    refusals: VecDeque<(u32, Class, &'static str)>,
    fresh: VecDeque<(Key, u32)>,
    bulk: VecDeque<(Key, u32)>,
    /// Turns of streams that were idle since a bulk stream had one.
    fresh_turns: u32,

    moves: Box<Moves>,
    traffic: Box<Traffic>,

    pong: Option<[u8; 8]>,
    ping: Option<[u8; 8]>,
    goaway: Option<(GoAway, String)>,
    peer_leaving: Option<GoAway>,
    /// A bit per GOAWAY code that came.
    goaways_seen: u8,

    heard_at: Instant,
    ticked_at: Instant,
    wrote_at: Option<Instant>,
    /// Since when something has been outstanding.
    outstanding_since: Option<Instant>,
    ping_sent: Option<(u64, Instant)>,
    is_silent: bool,
    pings: u64,
    rtt: Duration,
    /// When the last PING was sent, whatever for.
    measured_at: Option<Instant>,
    /// Whether `rtt` is of a PONG yet.
    has_rtt: bool,
    glitches: u32,
    glitches_since: Instant,
    swept_at: Instant,
    /// Early credit granted beyond HELLO's, in the budget.
    early_reserved: u32,
}

impl Mux {
    /// A lane whose HELLOs have been exchanged.
    #[must_use]
    pub fn new(config: MuxConfig, now: Instant) -> Self {
        Self {
            streams: Slab::new(),
            ids: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(now_seed())),
            last: (0, 0),
            next_id: if config.dialler { 1 } else { 2 },
            highest_theirs: 0,
            opens: config.ours.opens.min(OUR_MOST_OPENS),
            early: config.ours.early.min(OUR_MOST_EARLY),
            unanswered: 0,
            peer_opens: config.theirs.opens,
            peer_early: config.theirs.early,
            peer_opens_limit: config.theirs.opens,
            peer_early_limit: config.theirs.early,
            due_opens: 0,
            due_early: 0,
            cancelled_opens: 0,
            control: config.ours.control,
            peer_control: config.theirs.control,
            due_control: 0,
            opening: Vec::new(),
            opening_from: 0,
            urgent: VecDeque::new(),
            refusals: VecDeque::new(),
            fresh: VecDeque::new(),
            bulk: VecDeque::new(),
            fresh_turns: 0,
            moves: Box::default(),
            traffic: Box::default(),
            pong: None,
            ping: None,
            goaway: None,
            peer_leaving: None,
            goaways_seen: 0,
            heard_at: now,
            ticked_at: now,
            wrote_at: None,
            outstanding_since: None,
            ping_sent: None,
            is_silent: false,
            pings: 0,
            rtt: Duration::from_millis(1),
            measured_at: None,
            has_rtt: false,
            glitches: 0,
            glitches_since: now,
            swept_at: now,
            early_reserved: 0,
            config,
        }
    }

    /// Reserve what our HELLO granted for early data. The grant is out already, so a budget without room does not take it back.
    pub fn reserve_early(&mut self, budget: &Budget) {
        if self.early_reserved == 0 && budget.reserve(self.config.theirs.early) {
            self.early_reserved = self.config.theirs.early;
        }
    }

    /// Streams that are open, and reset ones whose RESET is not written yet.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Smallest round trip seen lately.
    #[must_use]
    pub const fn rtt(&self) -> Duration {
        self.rtt
    }

    /// What the peer said with GOAWAY, if anything.
    #[must_use]
    pub const fn peer_leaving(&self) -> Option<GoAway> {
        self.peer_leaving
    }

    /// Whether our stream ids are used up: the lane has to be replaced.
    #[must_use]
    pub const fn is_used_up(&self) -> bool {
        self.next_id >= LAST_ID
    }

    /// Owners of all streams that are not ended: to be told when the lane is lost.
    pub fn owners(&self) -> impl Iterator<Item = u32> + '_ {
        self.streams
            .iter()
            .filter(|(_, s)| !s.has(Flags::GONE))
            .map(|(_, s)| s.owner)
    }

    /// Change who owns a stream.
    pub fn set_owner(&mut self, key: Key, owner: u32) {
        if let Some(stream) = self.streams.get_mut(key as usize) {
            stream.owner = owner;
        }
    }

    /// Give back what the streams reserved. The lane is over.
    pub fn close(&mut self, budget: &Budget) {
        for (_, stream) in &mut self.streams {
            stream.close_window(budget);
        }
        self.streams.clear();
        self.ids.clear();
        budget.release(std::mem::take(&mut self.early_reserved));
    }

    /// At the last tick something was outstanding, and nothing was heard since a PING was due for it.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Bytes arrived, whatever they are: a sign of life.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.wrote_at = None;
    }

    /// Bytes were handed to the kernel; `pending`: some could not be.
    pub fn wrote(&mut self, pending: bool, now: Instant) {
        if pending {
            self.wrote_at.get_or_insert(now);
        } else {
            self.wrote_at = None;
        }
    }

    /// [`Mux::tick_among`] of a lane that is the only one.
    pub fn tick(&mut self, now: Instant) -> Liveness {
        self.tick_among(Others::Well, now)
    }

    /// How alive the lane is. Call it after what has arrived was received; asks for a PING when it is time.
    ///
    /// Silence counts only while we listened: after a time in which nobody called it, the peer gets that time again.
    /// An idle lane beside a silent one is asked at once, so that the lanes of a link that is cut are suspect together:
    /// new streams would go from one to the next, and wait for the suspicion of each.
    pub fn tick_among(&mut self, others: Others, now: Instant) -> Liveness {
        let away = now.saturating_duration_since(self.ticked_at);
        self.ticked_at = now;
        if away > LONGEST_TICK {
            self.heard_at = (self.heard_at + away).min(now);
        }
        self.due_opens += std::mem::take(&mut self.cancelled_opens);
        let silence = now.saturating_duration_since(self.heard_at);
        if silence >= self.config.dead_after {
            return Liveness::Dead;
        }
        let outstanding =
            self.unanswered > 0 || self.ping_sent.is_some() || self.wrote_at.is_some();
        if outstanding {
            self.outstanding_since.get_or_insert(now);
        } else {
            self.outstanding_since = None;
        }
        let patience = if outstanding || others > Others::Well {
            PROBE
        } else {
            HEARTBEAT
        };
        if silence >= patience {
            self.ask(now);
            self.outstanding_since.get_or_insert(now);
        }
        if now.saturating_duration_since(self.swept_at) >= SWEEP {
            self.swept_at = now;
            self.sweep(now);
        }
        // Silence before there was anything to answer says nothing: an idle lane is not suspect the moment that it is used.
        let since = self
            .outstanding_since
            .map_or(now, |at| at.max(self.heard_at));
        let unheard = now.saturating_duration_since(since);
        self.is_silent = outstanding && unheard >= PROBE;
        let enough = match others {
            Others::Suspect => (self.config.suspect_after / QUICKER).max(2 * self.rtt()),
            _ => self.config.suspect_after,
        };
        if outstanding && unheard >= enough.min(self.config.suspect_after) {
            Liveness::Suspect
        } else {
            Liveness::Alive
        }
    }

    /// A PING, unless one is unanswered.
    #[cold]
    fn ask(&mut self, now: Instant) {
        if self.ping_sent.is_none() {
            self.measured_at = Some(now);
            self.pings += 1;
            self.ping = Some(self.pings.to_be_bytes());
            self.ping_sent = Some((self.pings, now));
        }
    }

    /// Windows grow by the round trip, and a lane that carries much is never silent: ask anew when the last answer is old.
    #[inline]
    pub(super) fn measure(&mut self, now: Instant) {
        let is_new = |at| now.saturating_duration_since(at) < MEASURE;
        if !self.measured_at.is_some_and(is_new) {
            self.ask(now);
        }
    }

    /// Let senders that have been idle give back what they hold above the floor.
    fn sweep(&mut self, now: Instant) {
        let idle = self
            .streams
            .iter_mut()
            .filter(|(_, stream)| stream.is_idle_with_credit(now, IDLE))
            .take(SWEPT_AT_ONCE);
        for (key, stream) in idle {
            stream.set(Flags::WANT_RETURN);
            if !stream.has(Flags::IN_URGENT) {
                stream.set(Flags::IN_URGENT);
                self.urgent.push_back((key as Key, stream.id));
            }
        }
    }

    fn is_ours(&self, id: u32) -> bool {
        (id % 2 == 1) == self.config.dialler
    }

    fn get(&mut self, key: Key) -> Option<&mut Stream> {
        self.streams.get_mut(key as usize)
    }

    fn push_urgent(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key as usize)
            && !stream.has(Flags::IN_URGENT)
        {
            stream.set(Flags::IN_URGENT);
            self.urgent.push_back((key, stream.id));
        }
    }

    fn remove(&mut self, key: Key, budget: &Budget) {
        if let Some(mut stream) = self.streams.try_remove(key as usize) {
            stream.close_window(budget);
            self.settle_early(&mut stream);
            self.ids.remove(&stream.id);
            if stream.has(Flags::MOVING) {
                self.moves.asked.remove(&key);
            }
            self.shrink();
        }
    }

    /// Ten thousand streams came and went: let their memory go too.
    fn shrink(&mut self) {
        if self.streams.is_empty() && self.streams.capacity() > 64 {
            self.streams.shrink_to_fit();
            self.ids.shrink_to_fit();
            self.urgent.shrink_to_fit();
            self.fresh.shrink_to_fit();
            self.bulk.shrink_to_fit();
        }
    }

    /// Early bytes that are stored and will not be consumed any more go back to the peer.
    fn settle_early(&mut self, stream: &mut Stream) {
        self.due_early += std::mem::take(&mut stream.early_stored);
    }
}

/// Peers choose stream ids, so the hash needs a seed they do not know; the id map alone uses it.
fn now_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8)
}
