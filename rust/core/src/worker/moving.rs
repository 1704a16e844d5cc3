//! Streams that change lanes, with their sockets and what was not written to them yet (`docs/wire-protocol.md`, section 5).
//!
//! Each end decides by what it sees (`classes`), but only for lanes that it accepted: one end of a link then leads and the other
//! follows. A stream that the peer asks for is parked where all workers find it, until its MOVE comes on another lane.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use slab::Slab;

use super::conn::{Conn, Stage};
use super::lane::Lane;
use super::parking::Parking;
use super::transit::crossing::Crossing;
use super::transit::{Hop, has_opened, is_hop};
use super::{Job, Shared, Source, Worker, token};
use crate::classes;
use crate::mux::{Detached, EPOCH, Key};
use crate::payload::{Class, GoAway};
use crate::trunk::Trunk;

/// Moves that a lost lane takes back on another one. Names that a peer does not know close that lane beyond 256; what is not taken back
/// ends by the peer's patience.
const MOST_WITHDRAWN: usize = 128;
/// Lanes that a stream on its way may try.
const MOST_TRIES: u8 = 4;

/// A stream between two lanes.
#[derive(Debug)]
pub struct Between {
    rider: Rider,
    stream: Detached,
}

/// Whom it belongs to.
#[derive(Debug)]
enum Rider {
    Conn(Box<Conn>),
    /// A side of a stream that crosses this router.
    Hop(Arc<Crossing>, usize),
}

/// A stream on its way to the worker of its new lane.
#[derive(Debug)]
pub struct Settling {
    between: Between,
    name: u64,
    lane: u64,
    trunk: Arc<Trunk>,
    /// The lane that it left.
    from: u64,
    tries: u8,
}

/// Whether the bytes of a stream flow: of one that crosses, the mux says the rest.
pub(super) fn flows(conns: &Slab<Conn>, hops: &Slab<Hop>, owner: u32) -> bool {
    if is_hop(owner) {
        return has_opened(hops, owner);
    }
    let conn = conns.get(owner as usize);
    conn.is_some_and(|c| matches!(c.stage, Stage::Streaming { .. }))
}

type Refusal = (Option<GoAway>, String);

impl Shared {
    fn parking(&self) -> MutexGuard<'_, Parking<Between>> {
        self.parking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody is in a dialogue.
    fn has_dialogue(&self) -> bool {
        let workers = self.workers.get().into_iter().flatten();
        workers
            .into_iter()
            .any(|w| w.has_dialogue.load(Ordering::Relaxed))
    }
}

impl Worker {
    /// Look at what the streams did, and send those on their way that are in the wrong place.
    pub(super) fn tend_classes(&mut self) {
        if self.now.saturating_duration_since(self.epoch_began) < EPOCH {
            return;
        }
        self.epoch_began = self.now;
        let (mut has_bulk, mut spoke) = (false, false);
        for (_, lane) in &mut self.lanes {
            let Some(lane) = lane else { continue };
            lane.mux.end_epoch();
            let bulky = lane.mux.bulky().count() as u32;
            lane.reference.bulky.store(bulky, Ordering::Relaxed);
            has_bulk |= bulky > 0;
            spoke |= lane.mux.dialogues().next().is_some();
        }
        for (_, lane) in &self.lanes {
            let Some(lane) = lane else { continue };
            lane.reference.crowded.store(has_bulk, Ordering::Relaxed);
        }
        let has_dialogue = self.attention.note(spoke);
        let handles = self.shared.workers.get();
        if let Some(own) = handles.and_then(|all| all.get(self.index)) {
            own.has_dialogue.store(has_dialogue, Ordering::Relaxed);
        }
        if !self.stopping {
            self.empty_leaving();
        }
        if has_bulk && !self.stopping {
            let has_dialogue = self.shared.has_dialogue();
            for key in self.lane_indices() {
                self.send_away(key, has_dialogue);
            }
        }
    }

    /// Ask for every stream of every lane.
    pub(super) fn shuffle(&mut self) {
        for lane_key in self.lane_indices() {
            let Some(Some(lane)) = self.lanes.get_mut(lane_key) else {
                continue;
            };
            let (conns, hops) = (&self.conns, &self.hops);
            let movable = lane.mux.leavers();
            let movable = movable.filter(|&(_, owner)| flows(conns, hops, owner));
            let chosen: Vec<Key> = movable.map(|(key, _)| key).collect();
            for key in chosen {
                let name = self.shared.next_move.fetch_add(1, Ordering::Relaxed);
                lane.mux.ask_to_leave(key, name);
            }
            self.soil(lane_key);
        }
    }

    fn send_away(&mut self, lane_key: usize, has_dialogue: bool) {
        let Some(Some(lane)) = self.lanes.get_mut(lane_key) else {
            return;
        };
        if lane.mux.is_dialler() || !lane.mux.moves() {
            return;
        }
        let places = lane.trunk.places();
        let errand = classes::errand(&places, lane.reference.id, has_dialogue);
        if errand == classes::Errand::default() {
            return;
        }
        let (conns, hops) = (&self.conns, &self.hops);
        let flows =
            |&(key, owner): &(Key, u32)| lane.mux.may_leave(key) && flows(conns, hops, owner);
        let bulky = lane.mux.bulky().filter(flows).take(errand.bulky);
        let dialogues = lane.mux.dialogues().filter(flows).take(errand.dialogues);
        let chosen: Vec<(Key, u32)> = bulky.chain(dialogues).collect();
        for (key, _) in chosen {
            let name = self.shared.next_move.fetch_add(1, Ordering::Relaxed);
            lane.mux.ask_to_leave(key, name);
        }
        self.soil(lane_key);
    }

    /// The peer asks for a stream: it is parked, or stays. The lane is out of its place.
    pub(super) fn stream_asked(&mut self, lane: &mut Lane, owner: u32, key: Key, name: u64) {
        let router = lane.trunk.router;
        // In one piece with `put`: another worker may come for it, too early, at the same time.
        let shared = Arc::clone(&self.shared);
        let mut parking = shared.parking();
        let has_room = parking.has_room(router, name);
        let stream = (flows(&self.conns, &self.hops, owner) && !self.stopping && has_room)
            .then(|| lane.mux.let_go(key, name))
            .flatten();
        let Some(stream) = stream else {
            lane.mux.keep(key);
            return;
        };
        lane.count_stream(-1);
        let was = (lane.reference.id, stream.id());
        let Some(rider) = self.take_out(owner) else {
            stream.close(&self.shared.budget);
            return;
        };
        let between = Between { rider, stream };
        let former = parking.put(router, name, was, between, self.now);
        drop(parking);
        if let Some(former) = former {
            self.end_between(former, Class::Link, "its move was given to another");
        }
    }

    /// A stream that we asked for is free. The lane is out of its place.
    pub(super) fn stream_left(&mut self, lane: &mut Lane, owner: u32, key: Key) {
        let Some((stream, name)) = lane.mux.take_left(key) else {
            return;
        };
        lane.count_stream(-1);
        let Some(rider) = self.take_out(owner) else {
            stream.close(&self.shared.budget);
            return;
        };
        self.settle_on_best(Settling {
            between: Between { rider, stream },
            name,
            lane: 0,
            trunk: Arc::clone(&lane.trunk),
            from: lane.reference.id,
            tries: 0,
        });
    }

    /// Send a stream to the lane where it belongs, or to any that is left.
    fn settle_on_best(&mut self, mut settling: Settling) {
        let places = settling.trunk.places();
        let is_bulky = settling.between.stream.is_bulky();
        let best = classes::home(&places, is_bulky, self.shared.has_dialogue())
            .filter(|place| settling.tries == 0 && place.id != settling.from);
        // Back only where there is no other that takes it.
        let any = || {
            places.iter().max_by_key(|place| {
                let (is_new, is_away) = (place.id != settling.lane, place.id != settling.from);
                (is_new, place.open, is_away)
            })
        };
        let chosen = best.or_else(any);
        settling.tries += 1;
        match chosen {
            Some(place) if settling.tries <= MOST_TRIES => {
                settling.lane = place.id;
                self.shared
                    .send(place.worker, Job::Settle(Box::new(settling)));
            }
            _ => {
                if let Some(place) = places.iter().max_by_key(|place| place.open) {
                    let (name, total) = (settling.name, settling.between.stream.sent());
                    self.shared
                        .send(place.worker, Job::Withdraw(place.id, name, total));
                }
                let reason = "no lane of its link takes it";
                self.end_between(settling.between, Class::Link, reason);
            }
        }
    }

    /// A stream comes to a lane of ours.
    pub(super) fn settle(&mut self, settling: Settling) {
        let key = self.lane_keys.get(&settling.lane).copied();
        let lane = key.and_then(|key| Some((key, self.lanes.get_mut(key)?.take()?)));
        let Some((lane_key, mut lane)) = lane else {
            self.settle_on_best(settling);
            return;
        };
        let Settling { between, name, .. } = settling;
        let owner = self.conns.vacant_key() as u32;
        let opened = lane.mux.open_moved(between.stream, name, owner, self.now);
        match opened {
            Ok(key) => {
                self.shared.streams_moved.fetch_add(1, Ordering::Relaxed);
                self.take_in(&mut lane, lane_key, key, between.rider);
                if let Some(place) = self.lanes.get_mut(lane_key) {
                    *place = Some(lane);
                }
                self.soil(lane_key);
            }
            Err(stream) => {
                if let Some(place) = self.lanes.get_mut(lane_key) {
                    *place = Some(lane);
                }
                let rider = between.rider;
                self.settle_on_best(Settling {
                    between: Between { rider, stream },
                    ..settling
                });
            }
        }
    }

    /// The peer put a stream on a lane, which is out of its place.
    pub(super) fn stream_moved(
        &mut self,
        lane: &mut Lane,
        lane_key: usize,
        id: u32,
        (name, total): (u64, u64),
    ) -> Result<(), Refusal> {
        let router = lane.trunk.router;
        let mut parking = self.shared.parking();
        let found = parking.take(router, name);
        if found.is_none() {
            parking.take_back(router, name, self.now);
        }
        drop(parking);
        let Some(Between { rider, stream }) = found else {
            return lane
                .mux
                .refuse_moved(id)
                .map_err(|error| (Some(GoAway::Protocol), error.to_string()));
        };
        if stream.received() != total {
            let reason = "MOVE: its total is not what was received";
            self.end_between(Between { rider, stream }, Class::Link, reason);
            return Err((Some(GoAway::Protocol), reason.to_owned()));
        }
        let owner = self.conns.vacant_key() as u32;
        let key = lane.mux.adopt(id, stream, owner);
        self.take_in(lane, lane_key, key, rider);
        Ok(())
    }

    /// A lane is lost, and with it what we asked for on it or sent on to it: the other end may keep that for another lane.
    pub(super) fn withdraw_moves(&self, lane: &Lane) {
        let places = lane.trunk.places();
        let Some(place) = places.iter().max_by_key(|place| place.open) else {
            return;
        };
        let in_doubt = lane.mux.moves_in_doubt(self.now);
        for (name, total) in in_doubt.into_iter().take(MOST_WITHDRAWN) {
            self.shared
                .send(place.worker, Job::Withdraw(place.id, name, total));
        }
    }

    /// Say on a lane of ours that a move is over.
    pub(super) fn withdraw(&mut self, lane: u64, name: u64, total: u64) {
        if let Some(&key) = self.lane_keys.get(&lane)
            && let Some(Some(lane)) = self.lanes.get_mut(key)
        {
            lane.mux.withdraw(name, total, self.now);
            self.soil(key);
        }
    }

    /// RESET for a stream that is not here any more.
    pub(super) fn late_reset(&mut self, lane: &Lane, id: u32, class: Class, reason: &str) {
        let found = self.shared.parking().take_from(lane.reference.id, id);
        if let Some(between) = found {
            self.end_between(between, class, reason);
        }
    }

    /// The last lane to a router is gone, and with it what waits for another.
    pub(super) fn end_parked_of(&mut self, trunk: &Trunk, reason: &str) {
        let parked = self.shared.parking().take_all(Some(trunk.router));
        for between in parked {
            self.end_between(between, Class::Link, reason);
        }
    }

    pub(super) fn end_all_parked(&mut self, reason: &str) {
        let parked = self.shared.parking().take_all(None);
        for between in parked {
            self.end_between(between, Class::Drain, reason);
        }
    }

    pub(super) fn end_overdue(&mut self, now: Instant) {
        let parked = self.shared.parking().take_overdue(now);
        for between in parked {
            let reason = "the other end did not go on with its move";
            self.end_between(between, Class::Link, reason);
        }
    }

    pub(super) fn end_between(&mut self, between: Between, class: Class, reason: &str) {
        between.stream.close(&self.shared.budget);
        match between.rider {
            Rider::Conn(conn) => {
                let index = self.conns.insert(*conn) as u32;
                self.forget(index, Some((class, reason)));
            }
            Rider::Hop(crossing, side) => self.end_crossing(&crossing, side, class, reason),
        }
    }

    /// What goes to another worker with its stream.
    fn take_out(&mut self, owner: u32) -> Option<Rider> {
        if is_hop(owner) {
            let (crossing, side) = self.take_out_hop(owner)?;
            return Some(Rider::Hop(crossing, side));
        }
        let mut conn = self.conns.try_remove(owner as usize)?;
        let _ = conn.socket.deregister(self.poll.registry());
        Some(Rider::Conn(Box::new(conn)))
    }

    /// Own what has its stream on this lane now; a connection at the next free place.
    fn take_in(&mut self, lane: &mut Lane, lane_key: usize, key: Key, rider: Rider) {
        lane.count_stream(1);
        if lane.mux.is_bulky(key) {
            lane.reference.bulky.fetch_add(1, Ordering::Relaxed);
        }
        match rider {
            Rider::Conn(conn) => self.take_in_conn(lane, lane_key, key, *conn),
            Rider::Hop(crossing, side) => self.take_in_hop(lane, lane_key, key, (crossing, side)),
        }
    }

    fn take_in_conn(&mut self, lane: &mut Lane, lane_key: usize, key: Key, mut conn: Conn) {
        conn.generation = self.next_generation();
        conn.stage = Stage::Streaming {
            lane: lane_key,
            key,
        };
        conn.timed = false;
        // The poll says what is true of it anew.
        conn.readable = true;
        conn.writable = true;
        let mark = token(Source::Conn, self.conns.vacant_key(), conn.generation);
        let registered = conn.socket.register(self.poll.registry(), mark).is_ok();
        let index = self.conns.insert(conn) as u32;
        if !registered {
            self.abort_on(lane, index, Class::Resource, "no file descriptor left");
            return;
        }
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        match conn.flush() {
            Ok(written) => {
                if written > 0 {
                    lane.mux
                        .consumed(key, written as u32, &self.shared.budget, self.now);
                }
                if !conn.eof {
                    lane.mux.readable(key);
                    if conn.read_closed {
                        lane.mux.ending(key);
                    }
                }
                self.finish_on(lane, index);
            }
            Err(error) => {
                let class = conn.own_class();
                self.abort_on(lane, index, class, &error.to_string());
            }
        }
    }
}
