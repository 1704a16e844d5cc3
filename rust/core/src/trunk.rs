//! A trunk: all lanes between us and one other router, as every worker sees it.
//!
//! Workers read it without locks; who owns a lane and how busy it is are atomics. Choosing a lane is the only decision here.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::classes::Place;
use crate::contract::LinkStateEvent;
use crate::handshake::RouterId;
use crate::mux::Others;

/// Whether a lane takes new streams.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum LaneHealth {
    /// Yes.
    Open = 0,
    /// Only where there is no other: nothing was heard for a while.
    Suspect = 1,
    /// No: it is replaced, or the peer refuses.
    Leaving = 2,
    /// Not yet: its worker does not have it.
    Coming = 3,
    /// It is closed.
    Gone = 4,
}

/// One lane, as those see it who do not own it.
#[derive(Debug)]
pub struct LaneRef {
    /// Unique in this process.
    pub id: u64,
    /// The worker that owns it.
    pub worker: usize,
    /// The link that we dialled it for.
    pub link: Option<String>,
    /// The access where it arrived.
    pub access: Option<String>,
    /// Of the far end.
    pub address: SocketAddr,
    /// Streams on it, ours and theirs.
    pub streams: AtomicU32,
    /// Bytes of records written and read.
    pub sent: AtomicU64,
    /// Bytes of records read.
    pub received: AtomicU64,
    /// Its peer permits OPENs for which nobody waits.
    pub has_open_credit: AtomicBool,
    /// Streams on it that move much, roughly.
    pub bulky: AtomicU32,
    /// Its worker moves bulk: whoever wants an answer soon goes elsewhere.
    pub crowded: AtomicBool,
    health: AtomicU8,
    /// It owes us something and nothing was heard for a while; not yet for long.
    silent: AtomicBool,
}

impl LaneRef {
    /// A lane that was just established, and takes streams once its worker says so.
    #[must_use]
    pub fn new(
        id: u64,
        worker: usize,
        link: Option<String>,
        access: Option<String>,
        address: SocketAddr,
    ) -> Self {
        Self {
            id,
            worker,
            link,
            access,
            address,
            streams: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            has_open_credit: AtomicBool::new(true),
            bulky: AtomicU32::new(0),
            crowded: AtomicBool::new(false),
            health: AtomicU8::new(LaneHealth::Coming as u8),
            silent: AtomicBool::new(false),
        }
    }

    /// Say how silent it is, for the other lanes.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// Whether it takes new streams.
    #[must_use]
    pub fn health(&self) -> LaneHealth {
        match self.health.load(Ordering::Relaxed) {
            0 => LaneHealth::Open,
            1 => LaneHealth::Suspect,
            2 => LaneHealth::Leaving,
            3 => LaneHealth::Coming,
            _ => LaneHealth::Gone,
        }
    }

    /// Says whether that is a change.
    pub fn set_health(&self, health: LaneHealth) -> bool {
        self.health.swap(health as u8, Ordering::Relaxed) != health as u8
    }
}

/// What the HELLOs of a trunk said last.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// A label.
    pub site_name: String,
    /// min(lanes wanted of both ends, 4).
    pub lanes_wanted: u32,
    /// The larger of both ends'.
    pub cost: u32,
    /// What the dialler calls the link.
    pub peer_link: String,
    /// Software and version.
    pub software: String,
    /// Boot numbers of its site's routers.
    pub siblings: Vec<u64>,
    /// Seconds, smallest recent.
    pub rtt: f64,
    /// Why the last lane was lost.
    pub error: String,
}

/// A stream that chose a trunk, until it is on a lane (or gone).
#[derive(Debug)]
pub struct Pending(Arc<Trunk>);

impl Pending {
    /// It chose it now.
    #[must_use]
    pub fn new(trunk: &Arc<Trunk>) -> Self {
        trunk.pending.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(trunk))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Trunk {
    /// The other end.
    pub router: RouterId,
    /// It announced that it is leaving: others first.
    pub draining: AtomicBool,
    /// It carries no transit.
    edge: AtomicBool,
    /// Control messages that wait for credit.
    pub messages: AtomicUsize,
    /// When a stream chose it last; see `table.rs`.
    pub chosen: AtomicU64,
    /// Streams that chose it and are not on a lane yet.
    pending: AtomicU32,
    /// Bytes of lanes that are gone: sent, received.
    past: [AtomicU64; 2],
    lanes: ArcSwap<Vec<Arc<LaneRef>>>,
    facts: Mutex<Facts>,
}

impl Trunk {
    /// A trunk without lanes.
    #[must_use]
    pub fn new(router: RouterId) -> Self {
        Self {
            router,
            draining: AtomicBool::new(false),
            edge: AtomicBool::new(false),
            chosen: AtomicU64::new(0),
            pending: AtomicU32::new(0),
            messages: AtomicUsize::new(0),
            past: Default::default(),
            lanes: ArcSwap::default(),
            facts: Mutex::default(),
        }
    }

    /// What its HELLO said it is.
    pub fn set_edge(&self, edge: bool) {
        self.edge.store(edge, Ordering::Relaxed);
    }

    /// Whether it carries no transit.
    #[must_use]
    pub fn is_edge(&self) -> bool {
        self.edge.load(Ordering::Relaxed)
    }

    /// Streams on all its lanes, ours and theirs, and those on their way there.
    #[must_use]
    pub fn streams(&self) -> u32 {
        let lanes = self.lanes.load();
        let on_lanes: u32 = lanes
            .iter()
            .map(|l| l.streams.load(Ordering::Relaxed))
            .sum();
        on_lanes + self.pending.load(Ordering::Relaxed)
    }

    /// The lanes, oldest first.
    #[must_use]
    pub fn lanes(&self) -> Arc<Vec<Arc<LaneRef>>> {
        self.lanes.load_full()
    }

    /// Whether it has a lane.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.lanes.load().is_empty()
    }

    /// The healthiest that a new stream would find; `Gone` if there is no lane.
    #[must_use]
    pub fn health(&self) -> LaneHealth {
        let lanes = self.lanes.load();
        lanes
            .iter()
            .map(|lane| lane.health())
            .min()
            .unwrap_or(LaneHealth::Gone)
    }

    /// How the lanes apart from `id` are.
    #[must_use]
    pub fn others(&self, id: u64) -> Others {
        let lanes = self.lanes.load();
        let others = lanes.iter().filter(|lane| lane.id != id);
        others
            .map(|lane| match lane.health() {
                LaneHealth::Suspect => Others::Suspect,
                _ if lane.silent.load(Ordering::Relaxed) => Others::Silent,
                _ => Others::Well,
            })
            .max()
            .unwrap_or_default()
    }

    /// Add a lane.
    pub fn add(&self, lane: &Arc<LaneRef>) {
        self.lanes.rcu(|lanes| {
            let mut lanes = Vec::clone(lanes);
            lanes.push(Arc::clone(lane));
            lanes
        });
    }

    /// Remove a lane. Says whether it was the one that carried our control messages (the oldest).
    pub fn remove(&self, id: u64) -> bool {
        let lanes = self.lanes.load();
        let was_first = lanes.first().is_some_and(|lane| lane.id == id);
        if let Some(lane) = lanes.iter().find(|lane| lane.id == id) {
            let [sent, received] = &self.past;
            sent.fetch_add(lane.sent.load(Ordering::Relaxed), Ordering::Relaxed);
            received.fetch_add(lane.received.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.lanes.rcu(|lanes| {
            let mut lanes = Vec::clone(lanes);
            lanes.retain(|lane| lane.id != id);
            lanes
        });
        was_first
    }

    /// `[streams open, bytes sent, bytes received]`.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        let lanes = self.lanes.load();
        let [mut sent, mut received] = [0, 1].map(|i: usize| {
            self.past
                .get(i)
                .map_or(0, |past| past.load(Ordering::Relaxed))
        });
        let mut streams = 0;
        for lane in lanes.iter() {
            streams += u64::from(lane.streams.load(Ordering::Relaxed));
            sent += lane.sent.load(Ordering::Relaxed);
            received += lane.received.load(Ordering::Relaxed);
        }
        vec![streams, sent, received]
    }

    /// One more control message waits, if fewer than `most` do.
    pub fn queue_message(&self, most: usize) -> bool {
        self.messages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < most).then_some(waiting + 1)
            })
            .is_ok()
    }

    /// Change what is known of the other end.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The lane for a new stream that was accepted by `worker`: the healthiest, then one whose peer permits another OPEN, then one beside
    /// no bulk, then the one with the fewest streams; a worker's own lane may have one more than the best, which saves moving the socket to another thread.
    #[must_use]
    pub fn pick(&self, worker: usize) -> Option<Arc<LaneRef>> {
        self.pick_near(worker, 1)
    }

    /// The same, where a worker's own lane may have `nearness` more.
    #[must_use]
    pub fn pick_near(&self, worker: usize, nearness: u32) -> Option<Arc<LaneRef>> {
        let lanes = self.lanes.load();
        let score = |lane: &Arc<LaneRef>| {
            let streams = 2 * lane.streams.load(Ordering::Relaxed);
            let away = if lane.worker == worker {
                0
            } else {
                2 * nearness + 1
            };
            let must_wait = !lane.has_open_credit.load(Ordering::Relaxed);
            let crowded = lane.crowded.load(Ordering::Relaxed);
            (lane.health(), must_wait, crowded, streams + away)
        };
        lanes
            .iter()
            .filter(|lane| lane.health() < LaneHealth::Leaving)
            .min_by_key(|lane| score(lane))
            .cloned()
    }

    /// The lanes as `classes` sees them; those that are gone are none.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let lanes = self.lanes.load();
        let present = lanes.iter().filter(|l| l.health() < LaneHealth::Coming);
        present
            .map(|lane| Place {
                id: lane.id,
                worker: lane.worker,
                open: lane.health() == LaneHealth::Open,
                crowded: lane.crowded.load(Ordering::Relaxed),
                bulky: lane.bulky.load(Ordering::Relaxed),
                streams: lane.streams.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// What the control plane gets to see.
    #[must_use]
    pub fn event(&self) -> LinkStateEvent {
        let lanes = self.lanes.load();
        let facts = self
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut dialled: Vec<String> = lanes.iter().filter_map(|l| l.link.clone()).collect();
        let mut accepted: Vec<String> = lanes.iter().filter_map(|l| l.access.clone()).collect();
        let draining = self.draining.load(Ordering::Relaxed);
        let leaving = lanes
            .iter()
            .filter(|l| l.health() == LaneHealth::Leaving)
            .count();
        let replaced = if draining { 0 } else { leaving as u32 };
        for names in [&mut dialled, &mut accepted] {
            names.sort();
            names.dedup();
        }
        LinkStateEvent {
            router: self.router.to_string(),
            site_name: facts.site_name,
            lanes: lanes.len() as u32,
            // One more for each that takes no new streams while the router does: it has to be replaced.
            lanes_wanted: facts.lanes_wanted + replaced,
            suspect: !lanes.is_empty() && lanes.iter().all(|l| l.health() == LaneHealth::Suspect),
            draining,
            edge: self.is_edge(),
            cost: facts.cost,
            dialled,
            accepted,
            peer_link: facts.peer_link,
            address: lanes
                .first()
                .map(|l| l.address.to_string())
                .unwrap_or_default(),
            software: facts.software,
            siblings: facts.siblings,
            rtt: facts.rtt,
            error: if lanes.is_empty() {
                facts.error
            } else {
                String::new()
            },
        }
    }
}
