//! A data plane: it starts the threads, keeps the forwarding state, and turns changes of it into what the threads do.
//!
//! [`Plane::apply`] and the others are called by the control plane; none blocks for longer than a few system calls. The
//! state is behind one lock that no worker ever takes to move bytes.

mod listeners;
mod memory;
mod state;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use crate::classes::Place;
use crate::contract::{Changes, Counters, Descriptor, Dial, Event, PlaneConfig, Snapshot};
use crate::control::{
    BindStatus, Control, ControlConfig, DialFailure, EstablishedLane, Outcome, VisitorHandoff,
};
use crate::credit::Budget;
use crate::events::{Events, Slot};
use crate::greeting::{Reason, Refusal};
use crate::handshake::{RouterId, site_from_text, site_id};
use crate::payload::GoAway;
use crate::table::Table;
use crate::trunk::{LaneHealth, LaneRef, Trunk};
use crate::worker::{
    self, Arrival, Client, Embedded, Job, Shared, TickCallback, Timing, TrunkCallback, WorkerHandle,
};
use state::State;

/// Workers by default at most, and lanes of a trunk at most.
const MOST_LANES: u32 = 4;
/// Trunks at once, and those of them with routers of one site (as many as a HELLO can name).
const MOST_LINKS: usize = 1_024;
const MOST_ROUTERS: usize = 64;
/// Lanes of one trunk at once, and of all trunks with one site: each has credit before it has shown that it needs any.
const MOST_TRUNK_LANES: usize = 16;
const MOST_SITE_LANES: usize = 128;
/// Routers that a stream of ours may cross, until the control plane says better.
const HOP_LIMIT: u8 = 32;
/// Control messages that wait per link.
const MOST_MESSAGES: usize = crate::worker::MOST_MESSAGES;
/// Largest control message.
const MAX_MESSAGE: usize = 65_536;

/// Why a plane did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    /// The changes are on another generation than the one in force.
    #[error("changes on generation {base}, but {in_force} is in force")]
    StaleGeneration {
        /// What the changes were made on.
        base: u64,
        /// What is in force.
        in_force: u64,
    },
    /// Nothing was changed.
    #[error("{0}")]
    Config(String),
    /// Nobody serves this routing key.
    #[error("no site of the network serves {0:?}")]
    NoSuchKey(String),
    /// The system refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// [`Plane::stop`] was called.
    #[error("the plane was stopped")]
    Stopped,
    /// The process was forked: the threads are in the parent.
    #[error("this plane was started by process {0}, and does not work in a fork of it")]
    Forked(u32),
}

/// What the callbacks of the threads need of the plane.
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    state: Mutex<State>,
    next_lane: AtomicU64,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Plane {
    inner: Arc<Inner>,
    control: Control,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next_worker: AtomicUsize,
    pid: u32,
    stopped: AtomicBool,
}

impl Plane {
    /// Start the threads. Listening sockets of a predecessor are taken over where an entry wants their address.
    ///
    /// # Errors
    /// The identity key is no ECDSA P-256 key, or the system refuses threads or descriptors.
    pub fn start(
        config: &PlaneConfig,
        adopted: Vec<(SocketAddr, OwnedFd)>,
    ) -> Result<Self, PlaneError> {
        let site = site_id(&config.identity_key).ok_or_else(|| {
            PlaneError::Config("the identity key is no ECDSA P-256 key".to_owned())
        })?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        let workers = match config.workers {
            0 => cores.min(MOST_LANES),
            wanted => wanted.min(64),
        }
        .max(1);
        let budget = match config.memory_budget {
            0 => memory::default_budget(),
            bytes => bytes,
        };
        let seconds = |s: f64| Duration::try_from_secs_f64(s).unwrap_or(Duration::from_secs(1));
        let shared = Arc::new(Shared {
            router: RouterId {
                site,
                boot: config.boot,
            },
            budget: Budget::new(budget),
            table: ArcSwap::default(),
            events: Events::new()?,
            refusing: AtomicBool::new(false),
            edge: config.edge,
            hop_limit: AtomicU8::new(HOP_LIMIT),
            transit_open: AtomicU64::new(0),
            transit_total: AtomicU64::new(0),
            streams_total: AtomicU64::new(0),
            streams_open: AtomicU64::new(0),
            streams_moved: AtomicU64::new(0),
            next_move: AtomicU64::new(first_move()),
            parking: Mutex::default(),
            streams_refused: AtomicU64::new(0),
            streams_reset: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            workers: OnceLock::new(),
            on_trunk: OnceLock::new(),
            on_tick: OnceLock::new(),
            timing: Timing {
                suspect_after: seconds(config.suspect_after),
                dead_after: seconds(config.dead_after),
                refuse_after: seconds(config.refuse_after),
                max_streams: config.max_streams_per_link,
            },
        });
        let adopted: HashMap<(IpAddr, u16), OwnedFd> = adopted
            .into_iter()
            .map(|(address, fd)| ((address.ip(), address.port()), fd))
            .collect();
        let inner = Arc::new(Inner {
            shared: Arc::clone(&shared),
            state: Mutex::new(State::new(seconds(config.listener_linger), adopted)),
            next_lane: AtomicU64::new(1),
        });
        let mut handles: Vec<WorkerHandle> = Vec::new();
        let mut made = Vec::new();
        for index in 0..workers as usize {
            let (worker, handle) = worker::create(index, Arc::clone(&shared))?;
            handles.push(handle);
            made.push(worker);
        }
        let _ = shared.workers.set(handles);
        // Weak, because the workers hold `shared`, which holds these.
        let weak = Arc::downgrade(&inner);
        let _ = shared.on_trunk.set(TrunkCallback(Box::new(move |trunk| {
            if let Some(inner) = weak.upgrade() {
                inner.trunk_changed(trunk);
            }
        })));
        let weak = Arc::downgrade(&inner);
        let _ = shared.on_tick.set(TickCallback(Box::new(move |now| {
            if let Some(inner) = weak.upgrade()
                && let Ok(mut state) = inner.state.try_lock()
            {
                state.tend_listeners(&inner.shared, now);
            }
        })));
        let mut threads = Vec::new();
        for (index, worker) in made.into_iter().enumerate() {
            threads.push(spawn(&format!("van-worker-{index}"), move || worker.run())?);
        }
        let control = Control::spawn(
            ControlConfig {
                identity_key: config.identity_key.clone(),
                boot: config.boot,
                site_name: config.site_name.clone(),
                workers: workers as u16,
                software: concat!("vanrouter-core ", env!("CARGO_PKG_VERSION")).to_owned(),
                per_source_limit: config.per_source_limit as usize,
                handshakes_per_second: config.handshakes_per_second,
                edge: config.edge,
            },
            Box::new(Callbacks {
                inner: Arc::clone(&inner),
                workers,
            }),
        )?;
        Ok(Self {
            inner,
            control,
            threads: Mutex::new(threads),
            next_worker: AtomicUsize::new(0),
            pid: std::process::id(),
            stopped: AtomicBool::new(false),
        })
    }

    fn alive(&self) -> Result<(), PlaneError> {
        if std::process::id() == self.pid {
            Ok(())
        } else {
            Err(PlaneError::Forked(self.pid))
        }
    }

    /// Put a complete state in force. What is the same stays untouched.
    ///
    /// # Errors
    /// An entry cannot be used; nothing was changed.
    pub fn snapshot(&self, snapshot: Snapshot) -> Result<(), PlaneError> {
        self.alive()?;
        let mut state = self.inner.state();
        let (put, drop) = state.difference(snapshot.entries);
        self.change(&mut state, snapshot.generation, put, drop)
    }

    /// Put a difference in force.
    ///
    /// # Errors
    /// It is on another generation, or an entry cannot be used; nothing was changed.
    pub fn apply(&self, changes: Changes) -> Result<(), PlaneError> {
        self.alive()?;
        let mut state = self.inner.state();
        if state.generation != Some(changes.base) {
            return Err(PlaneError::StaleGeneration {
                base: changes.base,
                in_force: state.generation.unwrap_or(0),
            });
        }
        self.change(&mut state, changes.generation, changes.put, changes.drop)
    }

    /// Open a lane; the answer is an event.
    ///
    /// # Errors
    /// The host is no IP literal.
    pub fn dial(&self, dial: &Dial) -> Result<(), PlaneError> {
        self.alive()?;
        let address = address(&dial.host, dial.port)?;
        self.control
            .dial(dial.id, &dial.link, address, &dial.server_name);
        Ok(())
    }

    /// Give up a dial.
    pub fn cancel_dial(&self, id: u64) {
        self.control.cancel_dial(id);
    }

    /// Queue a control message. `false`: there is no such link, or its queue is full.
    ///
    /// # Errors
    /// The router id or the message is malformed.
    pub fn send_message(&self, router: &str, message: Vec<u8>) -> Result<bool, PlaneError> {
        self.alive()?;
        if message.len() > MAX_MESSAGE {
            return Err(PlaneError::Config(format!(
                "a control message of {} bytes; at most {MAX_MESSAGE} are possible",
                message.len()
            )));
        }
        let router = router_id(router)?;
        let table = self.inner.shared.table.load();
        let Some(trunk) = table.trunks.get(&router) else {
            return Ok(false);
        };
        let lanes = trunk.lanes();
        // One that its worker does not have yet will be told of when it has.
        let first = lanes.first();
        let Some(lane) = first.filter(|lane| lane.health() != LaneHealth::Coming) else {
            return Ok(false);
        };
        if !trunk.queue_message(MOST_MESSAGES) {
            return Ok(false);
        }
        let job = Job::Message(lane.id, Arc::clone(trunk), message);
        self.inner.shared.send(lane.worker, job);
        Ok(true)
    }

    /// Close every lane to this router now.
    ///
    /// # Errors
    /// The router id is malformed.
    pub fn cut(&self, router: &str, reason: &str) -> Result<(), PlaneError> {
        self.alive()?;
        let router = router_id(router)?;
        self.inner
            .shared
            .broadcast(|| Job::Cut(router, reason.to_owned()));
        Ok(())
    }

    /// Lanes that were dialled for this link to this address take no new streams, and close with their last one.
    ///
    /// # Errors
    /// The plane has stopped, or the address is none.
    pub fn retire(&self, link: &str, host: &str, port: u16) -> Result<(), PlaneError> {
        self.alive()?;
        let address = address(host, port)?;
        let shared = &self.inner.shared;
        shared.broadcast(|| Job::Retire(link.to_owned(), address));
        Ok(())
    }

    /// The site's live routers, for the HELLO of new lanes.
    pub fn set_siblings(&self, boots: Vec<u64>) {
        self.control.set_siblings(boots);
    }

    /// Sites that there are no new lanes with, as text. Lanes that are up stay.
    ///
    /// # Errors
    /// One of them is malformed.
    pub fn set_refused(&self, sites: &[String]) -> Result<(), PlaneError> {
        let sites: Result<Vec<_>, _> = sites
            .iter()
            .map(|site| {
                site_from_text(site)
                    .ok_or_else(|| PlaneError::Config(format!("{site:?} is not a site id")))
            })
            .collect();
        self.control.set_refused(sites?);
        Ok(())
    }

    /// Routers that OPENs of ours may cross from now on.
    ///
    /// # Errors
    /// It is 0.
    pub fn set_hop_limit(&self, limit: u8) -> Result<(), PlaneError> {
        if limit == 0 {
            return Err(PlaneError::Config(
                "a hop limit of 0: it must be 1 to 255".to_owned(),
            ));
        }
        self.inner.shared.hop_limit.store(limit, Ordering::Relaxed);
        Ok(())
    }

    /// The grace begins: peers choose others first, everything is served.
    pub fn leave(&self) {
        self.inner
            .shared
            .broadcast(|| Job::GoAway(GoAway::Drain, "the router is leaving".to_owned()));
    }

    /// The grace is over: nothing new is served.
    pub fn refuse(&self) {
        let shared = &self.inner.shared;
        shared.refusing.store(true, Ordering::Relaxed);
        self.control.refuse_lanes(true);
        shared.broadcast(|| Job::GoAway(GoAway::Closed, "the router is leaving".to_owned()));
        self.inner.state().close_listeners(shared);
    }

    /// Duplicates of every bound socket, for a successor.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn listening_sockets(&self) -> Result<Vec<(SocketAddr, OwnedFd)>, PlaneError> {
        self.alive()?;
        let mut sockets: Vec<(SocketAddr, OwnedFd)> = self
            .control
            .listening_sockets()
            .into_iter()
            .map(|s| (s.address, s.fd))
            .collect();
        sockets.extend(self.inner.state().listening_sockets()?);
        Ok(sockets)
    }

    /// Open a stream from inside this process: its id, and the inside end of its socket pair. `Opened` tells how it went.
    ///
    /// # Errors
    /// Nobody serves the key, or no descriptor is left.
    pub fn connect(&self, routing_key: &str) -> Result<(u64, UnixStream), PlaneError> {
        self.alive()?;
        if self.stopped.load(Ordering::Acquire) {
            return Err(PlaneError::Stopped);
        }
        let shared = &self.inner.shared;
        if !shared.table.load().is_matched(routing_key) {
            return Err(PlaneError::NoSuchKey(routing_key.to_owned()));
        }
        let (ours, theirs) = worker::socket_pair()?;
        let embedded = shared.events.new_embedded();
        let id = embedded.id;
        let count = shared.workers.get().map_or(1, Vec::len).max(1);
        let worker = self.next_worker.fetch_add(1, Ordering::Relaxed) % count;
        shared.send(
            worker,
            Job::Arrive(Box::new(Arrival {
                client: Client::Inside(ours, embedded, Arc::from(routing_key)),
                choice: None,
            })),
        );
        Ok((id, theirs))
    }

    /// How a stream of this process ended: whether a FIN was received, and the class if it broke.
    #[must_use]
    pub fn stream_end(&self, id: u64) -> (bool, Option<&'static str>) {
        self.inner
            .shared
            .events
            .embedded(id)
            .map_or((false, Some("link")), |e: Arc<Embedded>| {
                let (fin, class) = e.end();
                (fin, class.map(crate::payload::Class::word))
            })
    }

    /// The inside end is about to be closed and that shall be a reset.
    pub fn reset_stream(&self, id: u64) {
        if let Some(embedded) = self.inner.shared.events.embedded(id) {
            embedded.wants_reset.store(true, Ordering::Release);
        }
    }

    /// The inside end is closed: nobody will ask for this stream again.
    pub fn forget_stream(&self, id: u64) {
        self.inner.shared.events.forget_embedded(id);
    }

    /// Becomes readable when [`Plane::take_events`] has something.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.inner.shared.events.fd()
    }

    /// Everything new. Descriptors in it belong to the caller.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        self.inner.shared.events.take()
    }

    /// Everything that was taken has been served: there is room for more control messages and streams of embedded connectors.
    pub fn settle_events(&self) {
        for taken in self.inner.shared.events.settle() {
            self.inner
                .shared
                .send(taken.worker, Job::Taken(taken.lane, taken.bytes));
        }
    }

    /// Totals since start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let shared = &self.inner.shared;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counters = Counters {
            streams_open: get(&shared.streams_open),
            streams_total: get(&shared.streams_total),
            streams_refused: get(&shared.streams_refused),
            streams_reset: get(&shared.streams_reset),
            handshakes_failed: get(&shared.handshakes_failed),
            probes: get(&shared.probes),
            bytes_granted: shared.budget.used(),
            events_dropped: shared.events.dropped(),
            transit_open: get(&shared.transit_open),
            transit_total: get(&shared.transit_total),
            streams_moved: get(&shared.streams_moved),
            ..Counters::default()
        };
        self.inner.state().tallies(&mut counters);
        for (router, trunk) in &shared.table.load().trunks {
            counters.by_link.insert(router.to_string(), trunk.numbers());
        }
        counters
    }

    /// Let every stream go to another lane of its link, where there is one.
    pub fn shuffle(&self) {
        self.inner.shared.broadcast(|| Job::Shuffle);
    }

    /// The lanes to a router.
    ///
    /// # Errors
    /// The router id is malformed.
    pub fn lanes(&self, router: &str) -> Result<Vec<Place>, PlaneError> {
        let table = self.inner.shared.table.load();
        let trunk = table.trunks.get(&router_id(router)?);
        Ok(trunk.map(|trunk| trunk.places()).unwrap_or_default())
    }

    /// Close everything and end the threads.
    pub fn stop(&self) {
        if self.stopped.swap(true, Ordering::AcqRel) || std::process::id() != self.pid {
            return;
        }
        self.inner.shared.refusing.store(true, Ordering::Relaxed);
        self.control.stop();
        self.inner.state().close_listeners(&self.inner.shared);
        self.inner.shared.broadcast(|| Job::Stop);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
        self.control.join();
        self.inner.state().clear();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    /// A trunk lost a lane, or its health changed: listeners may be matched, or not any more.
    fn trunk_changed(&self, trunk: &Arc<Trunk>) {
        let mut state = self.state();
        if !trunk.is_up() {
            let mut table = self.shared.table.load().as_ref().clone();
            if table
                .trunks
                .get(&trunk.router)
                .is_some_and(|t| Arc::ptr_eq(t, trunk))
            {
                table.trunks.remove(&trunk.router);
                self.shared.table.store(Arc::new(table));
            }
        }
        state.rematch_by_hop(&self.shared, trunk.router, Instant::now());
    }
}

/// What the control thread finds goes to workers and events.
struct Callbacks {
    inner: Arc<Inner>,
    workers: u32,
}

impl Outcome for Callbacks {
    fn lane(&self, lane: EstablishedLane) {
        let inner = &self.inner;
        let shared = &inner.shared;
        let router = lane.peer_router;
        let _state = inner.state();
        let mut table = shared.table.load().as_ref().clone();
        if let Some(reason) = crowded(&table, router) {
            if let Some(id) = lane.dial_id {
                shared.events.push(Event::Dial {
                    id,
                    router: String::new(),
                    reason: Reason::Policy.as_str(),
                    error: reason.clone(),
                    retryable: true,
                });
            }
            lane.refuse(&reason);
            return;
        }
        let (trunk, is_new) = match table.trunks.get(&router) {
            Some(trunk) => (Arc::clone(trunk), false),
            None => {
                let trunk = Arc::new(Trunk::new(router));
                table.trunks.insert(router, Arc::clone(&trunk));
                shared.table.store(Arc::new(table));
                (trunk, true)
            }
        };
        let lanes = trunk.lanes();
        let Some(handles) = shared.workers.get() else {
            return;
        };
        let worker = (0..handles.len())
            .min_by_key(|index| {
                let here = lanes.iter().filter(|l| l.worker == *index).count();
                (here, handles.get(*index).map_or(0, WorkerHandle::lanes))
            })
            .unwrap_or(0);
        let id = inner.next_lane.fetch_add(1, Ordering::Relaxed);
        let reference = Arc::new(LaneRef::new(
            id,
            worker,
            lane.link.clone(),
            lane.access.clone(),
            lane.address,
        ));
        // The last word counts: what it carries is decided anew for each stream.
        trunk.set_edge(lane.peer.edge);
        trunk.add(&reference);
        trunk.update(|facts| {
            facts.site_name.clone_from(&lane.peer.site_name);
            facts.lanes_wanted = u32::from(lane.peer.lanes_wanted)
                .min(self.workers)
                .min(MOST_LANES);
            facts.cost = lane.cost;
            if !lane.dialler {
                facts.peer_link.clone_from(&lane.peer.link_name);
            }
            facts.software.clone_from(&lane.peer.software);
            facts.siblings.clone_from(&lane.peer.siblings);
            facts.error.clear();
        });
        if let Some(dial) = lane.dial_id {
            shared.events.push(Event::Dial {
                id: dial,
                router: router.to_string(),
                reason: "",
                error: String::new(),
                retryable: true,
            });
        }
        if let Some(handle) = handles.get(worker) {
            handle.expect_lane();
        }
        shared.send(worker, Job::Lane(Box::new(lane), reference, trunk, is_new));
    }

    fn dial_failed(&self, id: u64, failure: DialFailure) {
        self.inner.shared.events.push(Event::Dial {
            id,
            router: String::new(),
            reason: failure.reason.as_str(),
            error: failure.sentence,
            retryable: failure.retryable,
        });
    }

    fn visitor(&self, visitor: VisitorHandoff) {
        self.inner.shared.events.push(Event::Visitor {
            access: visitor.access,
            alpn: visitor.alpn,
            fd: Descriptor(visitor.socket.into()),
            certificates: visitor
                .certificates
                .into_iter()
                .map(serde_bytes::ByteBuf::from)
                .collect(),
            address: visitor.address.to_string(),
        });
    }

    fn access_state(&self, name: &str, status: BindStatus, port: u16, error: &str, gone: bool) {
        self.inner.shared.events.set(
            Slot::Access(name.to_owned()),
            Event::Access {
                name: name.to_owned(),
                status: status.as_str(),
                port,
                error: error.to_owned(),
                gone,
            },
        );
    }

    fn handshake_failed(&self, _access: &str, _refusal: &Refusal) {
        self.inner
            .shared
            .handshakes_failed
            .fetch_add(1, Ordering::Relaxed);
    }

    fn probe(&self) {
        self.inner.shared.probes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why another lane to this router is one too many.
fn crowded(table: &Table, router: RouterId) -> Option<String> {
    let lanes = table.trunks.get(&router).map_or(0, |t| t.lanes().len());
    if lanes >= MOST_TRUNK_LANES {
        return Some(format!(
            "there are {lanes} lanes between these routers already"
        ));
    }
    let of_site = || {
        table
            .trunks
            .values()
            .filter(|t| t.router.site == router.site)
    };
    let (routers, lanes) = of_site().fold((0, 0), |(n, lanes), t| (n + 1, lanes + t.lanes().len()));
    if lanes >= MOST_SITE_LANES {
        return Some(format!(
            "there are {lanes} lanes with routers of this site already"
        ));
    }
    if table.trunks.contains_key(&router) {
        return None;
    }
    if routers >= MOST_ROUTERS {
        return Some(format!(
            "there are links with {routers} routers of this site already"
        ));
    }
    let links = table.trunks.len();
    (links >= MOST_LINKS).then(|| format!("there are {links} links already"))
}

fn address(host: &str, port: u16) -> Result<SocketAddr, PlaneError> {
    let ip: IpAddr = host
        .parse()
        .map_err(|_| PlaneError::Config(format!("{host:?} is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

fn router_id(text: &str) -> Result<RouterId, PlaneError> {
    text.parse()
        .map_err(|_| PlaneError::Config(format!("{text:?} is not a router id")))
}

/// The name of the first move: those of two routers must not meet. Never 0, also not later.
fn first_move() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8) >> 1 | 1
}

/// A thread that gets no signals: they are for whoever embeds us.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let mut before = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work);
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    thread
}

/// Duplicate a socket.
fn duplicate(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}
