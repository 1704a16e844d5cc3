//! A worker: one thread, one event loop, and everything that it owns: lanes, and the application sockets of their streams.
//!
//! It reads lanes and writes applications, then gives each lane that has something to say a batch: urgent frames first, then
//! bytes read from applications straight into the frames' places. No lock and no other thread is on that way. What comes
//! from outside (new lanes, moved connections, commands) comes by one channel and a waker.
//!
//! The files: `conn` an application's connection, `lane` reading and writing one lane, `greeting` the TLS handshake of a client,
//! `opening` from an accept to a stream, `leg` TLS toward an application, `target` from an OPEN to a target, `pair` a listener and a
//! connector of the same router, `transit` a stream that crosses this router, `moving` a stream that changes lanes, `parking` where it is meanwhile,
//! `waiting` who waits for permission to open, `accept` listening sockets.

mod accept;
mod conn;
mod greeting;
mod heap;
mod lane;
mod leg;
mod moving;
mod opening;
mod pair;
mod parking;
mod socket;
mod target;
mod transit;
mod waiting;

pub use conn::Embedded;
pub(crate) use lane::MOST_MESSAGES;
pub use moving::{Between, Settling};
pub use opening::{Arrival, Client};
pub use parking::Parking;
pub(crate) use socket::set_keepalive;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use mio::{Events as Ready, Poll, Token, Waker};
use slab::Slab;

use crate::app_tls::Slot as TlsSlot;
use crate::chance::Chance;
use crate::classes::Attention;
use crate::contract::{Event, Strategy};
use crate::control::EstablishedLane;
use crate::credit::Budget;
use crate::events::{Events, Slot};
use crate::handshake::RouterId;
use crate::payload::{Class, GoAway};
use crate::table::{Table, Tally, Weighted};
use crate::trunk::{LaneRef, Trunk};
use conn::Conn;
use lane::{Lane, Scratch};
use transit::crossing::Crossing;
use transit::{Hop, Onward};

/// Longest sleep; timers are coarse on purpose (suspicion is 1 s, death 6 s).
const TICK: Duration = Duration::from_millis(100);
/// Sleep of a worker that owns nothing.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Freed memory goes back once more so long after thousands of streams ended: the control plane and other workers are done with them too.
const TRIM_AGAIN: Duration = Duration::from_secs(5);
/// Connections on their way to a worker at most; beyond it the mover refuses them.
const MOST_ARRIVALS: usize = 4_096;
/// Events taken from the poll at once.
const READY_EVENTS: usize = 1_024;

/// What all workers and the plane share.
#[derive(Debug)]
pub struct Shared {
    /// Who we are.
    pub router: RouterId,
    /// Granted and buffered bytes.
    pub budget: Budget,
    /// Where streams go.
    pub table: ArcSwap<Table>,
    /// To the control plane.
    pub events: Events,
    /// New connections and OPENs are refused (drain).
    pub refusing: AtomicBool,
    /// We carry no transit.
    pub edge: bool,
    /// Of OPENs that start here.
    pub hop_limit: AtomicU8,
    /// Streams that cross this router now.
    pub transit_open: AtomicU64,
    /// That crossed it since start.
    pub transit_total: AtomicU64,
    /// Streams since start, as seen at their ingress here or their egress here.
    pub streams_total: AtomicU64,
    /// Open now.
    pub streams_open: AtomicU64,
    /// That went from one lane to another because we asked.
    pub streams_moved: AtomicU64,
    /// The name of the next move.
    pub next_move: AtomicU64,
    /// Streams between two lanes.
    pub parking: Mutex<Parking<Between>>,
    /// That found no target.
    pub streams_refused: AtomicU64,
    /// That ended with a reset.
    pub streams_reset: AtomicU64,
    /// TLS or HELLO that failed.
    pub handshakes_failed: AtomicU64,
    /// Connections that said nothing.
    pub probes: AtomicU64,
    /// How to reach the workers.
    pub workers: OnceLock<Vec<WorkerHandle>>,
    /// Told when a trunk lost or got its last or first lane.
    pub on_trunk: OnceLock<TrunkCallback>,
    /// Called on every tick of the first worker.
    pub on_tick: OnceLock<TickCallback>,
    /// Timing and limits.
    pub timing: Timing,
}

/// What [`TrunkCallback`] calls.
type OnTrunk = dyn Fn(&Arc<Trunk>) + Send + Sync;

/// See [`Shared::on_trunk`].
pub struct TrunkCallback(pub Box<OnTrunk>);

/// See [`Shared::on_tick`].
pub struct TickCallback(pub Box<dyn Fn(Instant) + Send + Sync>);

impl std::fmt::Debug for TrunkCallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrunkCallback")
    }
}

impl std::fmt::Debug for TickCallback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TickCallback")
    }
}

/// Settings that workers need.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Silence with something outstanding.
    pub suspect_after: Duration,
    /// Silence.
    pub dead_after: Duration,
    /// How long a connection waits for a target.
    pub refuse_after: Duration,
    /// Streams per lane.
    pub max_streams: usize,
}

impl Shared {
    /// Whether another connection may be moved to a worker.
    #[must_use]
    pub fn has_room(&self, worker: usize) -> bool {
        let handle = self.workers.get().and_then(|w| w.get(worker));
        handle.is_some_and(|h| h.arrivals.load(Ordering::Relaxed) < MOST_ARRIVALS)
    }

    /// Put a job on a worker's channel.
    pub fn send(&self, worker: usize, job: Job) {
        if let Some(handle) = self.workers.get().and_then(|w| w.get(worker)) {
            handle.send(job);
        }
    }

    /// The same job for all.
    pub fn broadcast(&self, job: impl Fn() -> Job) {
        for handle in self.workers.get().into_iter().flatten() {
            handle.send(job());
        }
    }

    /// Publish what a trunk looks like now.
    pub fn publish_trunk(&self, trunk: &Trunk) {
        self.events.set(
            Slot::Link(trunk.router),
            Event::Link(Box::new(trunk.event())),
        );
    }
}

/// A listener as workers see it.
#[derive(Debug)]
pub struct ListenerRef {
    /// Its name.
    pub name: Arc<str>,
    /// How it chooses.
    pub strategy: Strategy,
    /// Its keys, at least one.
    pub keys: Box<[Weighted]>,
    /// Its clients speak TLS.
    pub tls: Option<TlsSlot>,
    /// What went through.
    pub tally: Arc<Tally>,
}

/// What a worker can be asked.
#[derive(Debug)]
pub enum Job {
    /// Own this lane; it is the first of its trunk, or not.
    Lane(Box<EstablishedLane>, Arc<LaneRef>, Arc<Trunk>, bool),
    /// Accept on this socket too.
    Listen(u64, Arc<TcpListener>, Arc<ListenerRef>),
    /// Do not any more.
    Unlisten(u64),
    /// Find a way for this connection.
    Arrive(Box<Arrival>),
    /// Send a control message on this lane.
    Message(u64, Arc<Trunk>, Vec<u8>),
    /// Control messages of that many bytes were taken.
    Taken(u64, u32),
    /// Pass a stream on: this lane, with what its other side knows.
    Cross(u64, Arc<Crossing>, Box<Onward>),
    /// There is something in the mailbox of this side.
    Hop(Arc<Crossing>, usize),
    /// Let every stream go to another lane.
    Shuffle,
    /// Take a move back on this lane: its name, and the bytes sent before.
    Withdraw(u64, u64, u64),
    /// Put a stream on a lane.
    Settle(Box<Settling>),
    /// Tell every peer.
    GoAway(GoAway, String),
    /// Close all lanes to this router.
    Cut(RouterId, String),
    /// Close all lanes that were dialled for this link.
    CloseLink(String),
    /// Of these, those to this address take no new streams and close with their last one.
    Retire(String, SocketAddr),
    /// Close everything and end the thread.
    Stop,
}

/// How to reach a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    jobs: Sender<Job>,
    waker: Arc<Waker>,
    lanes: Arc<AtomicU64>,
    /// Somebody speaks there now and then; see `classes`.
    has_dialogue: Arc<AtomicBool>,
    /// Connections in its channel.
    arrivals: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// Put a job on its channel and wake it.
    pub fn send(&self, job: Job) {
        if matches!(job, Job::Arrive(_)) {
            self.arrivals.fetch_add(1, Ordering::Relaxed);
        }
        if self.jobs.send(job).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// How many lanes it owns, roughly: for placing the next.
    #[must_use]
    pub fn lanes(&self) -> u64 {
        self.lanes.load(Ordering::Relaxed)
    }

    /// A lane is on its way to it.
    pub fn expect_lane(&self) {
        self.lanes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a token in the poll stands for; it carries a generation so that an event for something that is gone is not taken for its
/// successor's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    Waker,
    Lane,
    Conn,
    Listener,
}

fn token(source: Source, index: usize, generation: u32) -> Token {
    let kind = match source {
        Source::Waker => 0,
        Source::Lane => 1,
        Source::Conn => 2,
        Source::Listener => 3,
    };
    Token((generation as usize) << 32 | (index & 0x3FFF_FFFF) << 2 | kind)
}

fn source(token: Token) -> (Source, usize, u32) {
    let kind = match token.0 & 3 {
        0 => Source::Waker,
        1 => Source::Lane,
        2 => Source::Conn,
        _ => Source::Listener,
    };
    (kind, (token.0 >> 2) & 0x3FFF_FFFF, (token.0 >> 32) as u32)
}

/// Index and generation of a connection.
type ConnId = (u32, u32);

/// See the module.
pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    poll: Poll,
    jobs: Receiver<Job>,
    own_lanes: Arc<AtomicU64>,
    arrivals: Arc<AtomicUsize>,
    now: Instant,
    lanes: Slab<Option<Box<Lane>>>,
    lane_keys: HashMap<u64, usize>,
    conns: Slab<Conn>,
    /// Sides of streams that cross, and those that have something in their mailbox.
    hops: Slab<Hop>,
    hop_news: Vec<(Arc<Crossing>, usize)>,
    generation: u32,
    listeners: HashMap<u64, accept::Listening>,
    greeters: greeting::Greeters,
    /// Lanes that have something to say.
    dirty: Vec<usize>,
    /// Lanes that were not read to the end.
    unread: Vec<usize>,
    /// Connections that need another choice of target.
    undecided: Vec<ConnId>,
    /// Lanes whose open credit was offered to those that wait for it, with how many waited before: who was offered some may choose
    /// another lane, and then it is the next one's.
    offered: Vec<(usize, usize)>,
    /// Connections that wait for something with a deadline; looked at on every tick.
    timed: Vec<ConnId>,
    ticked: Instant,
    epoch_began: Instant,
    attention: Attention,
    scratch: Box<Scratch>,
    chance: Chance,
    /// Pairs that have more to move.
    busy_pairs: Vec<(ConnId, ConnId)>,
    /// For pairs that move much.
    pipes: pair::Pipes,
    /// Thousands of streams ended: freed memory goes back to the system on the next tick.
    trim: bool,
    /// And once more, for what others freed meanwhile.
    trim_again: Option<Instant>,
    stopping: bool,
}

/// Make the channel and the poll of a worker; its thread runs [`Worker::run`].
///
/// # Errors
/// No file descriptor left.
pub fn create(index: usize, shared: Arc<Shared>) -> io::Result<(Worker, WorkerHandle)> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), token(Source::Waker, 0, 0))?);
    let (sender, jobs) = std::sync::mpsc::channel();
    let own_lanes = Arc::new(AtomicU64::new(0));
    let arrivals = Arc::new(AtomicUsize::new(0));
    let handle = WorkerHandle {
        jobs: sender,
        waker,
        lanes: Arc::clone(&own_lanes),
        has_dialogue: Arc::default(),
        arrivals: Arc::clone(&arrivals),
    };
    let now = Instant::now();
    let worker = Worker {
        index,
        shared,
        poll,
        jobs,
        own_lanes,
        arrivals,
        now,
        lanes: Slab::new(),
        lane_keys: HashMap::new(),
        conns: Slab::new(),
        hops: Slab::new(),
        hop_news: Vec::new(),
        generation: 0,
        listeners: HashMap::new(),
        greeters: greeting::Greeters::new(),
        dirty: Vec::new(),
        unread: Vec::new(),
        undecided: Vec::new(),
        offered: Vec::new(),
        timed: Vec::new(),
        ticked: now,
        epoch_began: now,
        attention: Attention::default(),
        scratch: Box::new(Scratch::new()),
        chance: Chance::new(),
        busy_pairs: Vec::new(),
        pipes: pair::Pipes::default(),
        trim: false,
        trim_again: None,
        stopping: false,
    };
    Ok((worker, handle))
}

impl Worker {
    /// Work until told to stop.
    pub fn run(mut self) {
        let mut ready = Ready::with_capacity(READY_EVENTS);
        while !self.stopping {
            let timeout = self.patience();
            match self.poll.poll(&mut ready, Some(timeout)) {
                Ok(()) => {}
                // We were stopped, perhaps for long: first see what arrived meanwhile.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing else that can happen to a poll leaves a way to go on.
                Err(_) => break,
            }
            self.now = Instant::now();
            for event in &ready {
                let (source, index, generation) = source(event.token());
                match source {
                    Source::Waker => self.take_jobs(),
                    Source::Lane => self.lane_event(index, generation, event),
                    Source::Conn => self.conn_event(index, generation, event),
                    Source::Listener => self.accept(index as u64),
                }
            }
            for key in std::mem::take(&mut self.unread) {
                self.read_lane(key);
            }
            if self.now.saturating_duration_since(self.ticked) >= TICK {
                self.tick();
            }
            while !self.undecided.is_empty() || !self.offered.is_empty() {
                for id in std::mem::take(&mut self.undecided) {
                    self.decide(id);
                }
                let offered = std::mem::take(&mut self.offered);
                for (key, _) in &offered {
                    if let Some(Some(lane)) = self.lanes.get_mut(*key) {
                        lane.promised = 0;
                    }
                }
                for (key, waited) in offered {
                    self.offer_again(key, waited);
                }
            }
            for (a, b) in std::mem::take(&mut self.busy_pairs) {
                self.pump_pair(a, b);
            }
            self.read_all_mail();
            for key in std::mem::take(&mut self.dirty) {
                self.write_lane(key);
            }
            // What went out gives credit back on the other side.
            self.read_all_mail();
        }
        self.close_all();
    }

    fn patience(&self) -> Duration {
        let idle = self.unread.is_empty() && self.dirty.is_empty() && self.undecided.is_empty();
        if !idle || !self.busy_pairs.is_empty() || !self.hop_news.is_empty() {
            Duration::ZERO
        } else if self.lanes.is_empty() && self.timed.is_empty() {
            IDLE_TICK
        } else {
            TICK
        }
    }

    fn read_all_mail(&mut self) {
        while !self.hop_news.is_empty() {
            for (crossing, side) in std::mem::take(&mut self.hop_news) {
                self.read_mail(&crossing, side);
            }
        }
    }

    fn take_jobs(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            match job {
                Job::Lane(established, reference, trunk, is_first) => {
                    self.add_lane(*established, reference, trunk, is_first)
                }
                Job::Listen(id, socket, listener) => self.listen(id, socket, listener),
                Job::Unlisten(id) => self.unlisten(id),
                Job::Arrive(arrival) => {
                    self.arrivals.fetch_sub(1, Ordering::Relaxed);
                    self.arrive(*arrival);
                }
                Job::Message(lane, trunk, message) => self.queue_message(lane, &trunk, &message),
                Job::Taken(lane, bytes) => {
                    if let Some(&key) = self.lane_keys.get(&lane)
                        && let Some(Some(lane)) = self.lanes.get_mut(key)
                    {
                        lane.mux.control_consumed(bytes);
                        self.soil(key);
                    }
                }
                Job::Cross(lane, crossing, onward) => self.cross(lane, &crossing, onward),
                Job::Shuffle => self.shuffle(),
                Job::Withdraw(lane, name, total) => self.withdraw(lane, name, total),
                Job::Settle(settling) => self.settle(*settling),
                Job::Hop(crossing, side) => self.hop_news.push((crossing, side)),
                Job::GoAway(code, reason) => {
                    for key in self.lane_indices() {
                        if let Some(Some(lane)) = self.lanes.get_mut(key) {
                            lane.mux.go_away(code, &reason);
                        }
                        self.soil(key);
                    }
                }
                Job::Cut(router, reason) => {
                    for key in self.lane_indices() {
                        if self
                            .lane_ref(key)
                            .is_some_and(|lane| lane.trunk.router == router)
                        {
                            self.close_lane(key, Some(GoAway::Policy), &reason);
                        }
                    }
                }
                Job::CloseLink(link) => {
                    for key in self.lane_indices() {
                        if self.lane_ref(key).is_some_and(|lane| {
                            lane.reference.link.as_deref() == Some(link.as_str())
                        }) {
                            self.close_lane(key, Some(GoAway::Shutdown), "the link was deleted");
                        }
                    }
                }
                Job::Retire(link, address) => self.retire_lanes(&link, address),
                Job::Stop => self.stopping = true,
            }
        }
    }

    fn lane_indices(&self) -> Vec<usize> {
        self.lanes.iter().map(|(key, _)| key).collect()
    }

    fn lane_ref(&self, key: usize) -> Option<&Lane> {
        self.lanes.get(key)?.as_deref()
    }

    /// A lane has something to say: give it a batch before sleeping.
    fn soil(&mut self, key: usize) {
        if let Some(Some(lane)) = self.lanes.get_mut(key)
            && !lane.dirty
        {
            lane.dirty = true;
            self.dirty.push(key);
        }
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn tick(&mut self) {
        self.ticked = self.now;
        self.tick_lanes();
        self.tend_classes();
        let timed = std::mem::take(&mut self.timed);
        for id in timed {
            self.tick_conn(id);
        }
        self.resume_listeners();
        let freed_elsewhere = self.index == 0 && self.shared.events.wants_trim();
        if std::mem::take(&mut self.trim) || freed_elsewhere {
            heap::trim();
            self.trim_again = Some(self.now + TRIM_AGAIN);
        } else if self.trim_again.is_some_and(|at| at <= self.now) {
            self.trim_again = None;
            heap::trim();
        }
        if self.index == 0 {
            self.end_overdue(self.now);
            self.shared.events.wake_for_ends();
            if let Some(tick) = self.shared.on_tick.get() {
                (tick.0)(self.now);
            }
        }
    }

    fn conn(&mut self, (index, generation): ConnId) -> Option<&mut Conn> {
        self.conns
            .get_mut(index as usize)
            .filter(|conn| conn.generation == generation)
    }

    fn close_all(&mut self) {
        for key in self.lane_indices() {
            self.close_lane(key, Some(GoAway::Shutdown), "the router stops");
        }
        let rest: Vec<usize> = self.conns.iter().map(|(index, _)| index).collect();
        for index in rest {
            self.abort(index as u32, Class::Drain, "the router stops");
        }
        self.end_all_parked("the router stops");
    }
}

/// Both ends of a socket pair: one for a worker, one for whoever is inside this process.
///
/// # Errors
/// No file descriptor left.
pub fn socket_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours, theirs))
}

#[cfg(test)]
mod tests {
    use super::conn::{Conn, Record};
    use super::lane::Lane;

    /// Per stream; its share of slabs, maps and queues and the kernel's socket come on top.
    #[test]
    fn what_a_connection_and_a_lane_cost_is_known() {
        let stream = size_of::<Conn>() + size_of::<Record>();
        assert!(stream <= 320, "{stream} {}", size_of::<Conn>());
        let lane = size_of::<Lane>();
        assert!(lane <= 1_024, "{lane}");
    }
}
