//! From an accepted connection to a stream.
//!
//! A connection looks for a target until one took it: candidates are tried one after the other, what the client has already
//! sent is kept until an answer, and only an OPEN that certainly reached no target is made again.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use super::conn::{Conn, Embedded, Record, Stage};
use super::socket::Socket;
use super::transit::{is_hop, waits_to_open};
use super::waiting::Offer;
use super::{ConnId, Job, ListenerRef, Worker};
use crate::contract::Event;
use crate::handshake::RouterId;
use crate::mux::{Blocked, MAX_EARLY, Opening as MuxOpening};
use crate::payload::Class;
use crate::table::{Tried, Way};

/// A stream is opened elsewhere until so long after its accept.
const RETRY_DEADLINE: Duration = Duration::from_secs(10);
/// When every candidate was tried, they are tried again after this long.
const ROUND: Duration = Duration::from_millis(250);

/// What is known of a stream that has no target yet.
#[derive(Debug)]
pub(super) struct Opening {
    /// What the application sent; kept until the answer.
    pub early: Vec<u8>,
    /// It ended its direction behind that.
    pub fin: bool,
    pub tried: Vec<Tried>,
    pub tried_since: Instant,
    /// When it was accepted.
    pub since: Instant,
    /// Since when there has been nothing (more) to try.
    pub stranded: Option<Instant>,
    /// In words, why the last try failed.
    pub reason: String,
}

impl Default for Opening {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            early: Vec::new(),
            fin: false,
            tried: Vec::new(),
            tried_since: now,
            since: now,
            stranded: None,
            reason: String::new(),
        }
    }
}

/// Where a connection comes from.
#[derive(Debug)]
pub enum Client {
    /// Accepted from a listener.
    Accepted(mio::net::TcpStream, Arc<ListenerRef>),
    /// From inside this process.
    Inside(UnixStream, Arc<Embedded>, Arc<str>),
    /// From another worker, with all that it knows.
    Moved(Moved),
}

/// A connection with all that its former worker knew.
#[derive(Debug)]
pub struct Moved(Box<Conn>);

/// A connection that a worker shall find a way for.
#[derive(Debug)]
pub struct Arrival {
    /// Whose.
    pub client: Client,
    /// Chosen already by whoever moved it here.
    pub choice: Option<(RouterId, u64)>,
}

impl Worker {
    /// Take a connection in and find a way for it.
    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let opening = Box::new(Opening {
            since: self.now,
            tried_since: self.now,
            ..Opening::default()
        });
        let inside = match &arrival.client {
            Client::Accepted(..) => None,
            Client::Inside(_, embedded, _) => Some(Arc::clone(embedded)),
            Client::Moved(Moved(conn)) => conn.embedded.clone(),
        };
        let is_inside = matches!(arrival.client, Client::Inside(..));
        let id = match arrival.client {
            Client::Accepted(stream, listener) if listener.tls.is_some() => {
                self.welcome(stream, listener, opening);
                return;
            }
            Client::Accepted(stream, listener) => {
                let first = listener
                    .keys
                    .first()
                    .map(|key| Arc::clone(&key.routing_key));
                let record = self.record(first.unwrap_or_default(), Some(listener));
                self.add_conn(
                    Socket::of(stream),
                    Stage::Parked(opening),
                    record,
                    true,
                    None,
                )
            }
            Client::Inside(stream, embedded, routing_key) => {
                let record = self.record(routing_key, None);
                let socket = Socket::Unix(mio::net::UnixStream::from_std(stream));
                self.add_conn(socket, Stage::Parked(opening), record, true, Some(embedded))
            }
            Client::Moved(Moved(conn)) => {
                let Conn {
                    socket,
                    stage,
                    embedded,
                    record,
                    eof,
                    ..
                } = *conn;
                let id = self.add_conn(socket, stage, record, true, embedded);
                if let Some(conn) = id.and_then(|id| self.conn(id)) {
                    conn.eof = eof;
                }
                id
            }
        };
        let Some(id) = id else {
            if let Some(embedded) = inside {
                embedded.set_broken(Class::Resource);
                self.shared.events.push(Event::Opened {
                    stream: embedded.id,
                    class: Class::Resource.word(),
                    reason: "the system has no room for its socket".to_owned(),
                });
            }
            return;
        };
        // One that was accepted before the grace was over is not new, also when it moved to us since.
        let refused = is_inside && self.shared.refusing.load(Ordering::Relaxed);
        if self.stopping || refused {
            self.abort(id.0, Class::Drain, "the router is leaving");
            return;
        }
        match arrival.choice {
            Some((router, lane)) if self.lane_keys.contains_key(&lane) => {
                let key = self.lane_keys.get(&lane).copied().unwrap_or_default();
                self.open_on(id, key, router);
            }
            _ => self.decide(id),
        }
    }

    pub(super) fn record(
        &self,
        routing_key: Arc<str>,
        listener: Option<Arc<ListenerRef>>,
    ) -> Box<Record> {
        let mut uuid = [0; 16];
        let _ = SystemRandom::new().fill(&mut uuid);
        Box::new(Record {
            uuid,
            routing_key,
            listener,
            target: None,
            claim: None,
            connector: None,
            peer: None,
            started: self.now,
            bytes_in: 0,
            bytes_out: 0,
            counted: false,
            seen: false,
            answered: false,
        })
    }

    /// Choose where a parked connection goes.
    pub(super) fn decide(&mut self, id: ConnId) {
        let (now, worker) = (self.now, self.index);
        let shared = Arc::clone(&self.shared);
        let table = shared.table.load();
        let Some(conn) = self
            .conns
            .get_mut(id.0 as usize)
            .filter(|c| c.generation == id.1)
        else {
            return;
        };
        if let Stage::Waiting { .. } = conn.stage {
            let stage = std::mem::replace(&mut conn.stage, Stage::Parked(Box::default()));
            if let Stage::Waiting { opening } = stage {
                conn.stage = Stage::Parked(opening);
            }
        }
        let Stage::Parked(opening) = &mut conn.stage else {
            return;
        };
        // Its own former choice must not keep it from choosing the same again.
        conn.record.claim = None;
        let choice = conn
            .record
            .plan(|plan| table.choose(plan, &opening.tried, &mut self.chance, now));
        let Some(choice) = choice else {
            let stranded = *opening.stranded.get_or_insert(now);
            if !opening.tried.is_empty()
                && now.saturating_duration_since(opening.tried_since) >= ROUND
            {
                opening.tried.clear();
                opening.tried_since = now;
            }
            let over = now.saturating_duration_since(stranded) >= shared.timing.refuse_after
                || now.saturating_duration_since(opening.since) >= RETRY_DEADLINE;
            if over {
                let reason = if opening.reason.is_empty() {
                    "nobody serves this routing key now".to_owned()
                } else {
                    std::mem::take(&mut opening.reason)
                };
                self.abort(id.0, Class::Refused, &reason);
            } else {
                self.look_again(id);
            }
            return;
        };
        conn.record.routing_key = Arc::clone(&choice.routing_key);
        conn.record.claim = Some(choice.claim);
        match choice.way {
            Way::Local(target) => self.pair_with(id, &target),
            Way::Remote(router, trunk) => {
                let Some(lane) = trunk.pick(worker) else {
                    let hop = Some(trunk.router);
                    let tried = Tried::Remote(choice.routing_key, router, hop);
                    opening.tried.push(tried);
                    self.undecided.push(id);
                    return;
                };
                if lane.worker == worker {
                    if let Some(&key) = self.lane_keys.get(&lane.id) {
                        self.open_on(id, key, router);
                    } else {
                        // It is on its way to us, or just gone.
                        self.look_again(id);
                    }
                } else {
                    self.move_conn(id, lane.worker, router, lane.id);
                }
            }
        }
    }

    /// Give a connection, of which nothing but early data was read, to the worker that owns its lane.
    fn move_conn(&mut self, id: ConnId, worker: usize, router: RouterId, lane: u64) {
        if self.conn(id).is_none() {
            return;
        }
        if !self.shared.has_room(worker) {
            self.abort(
                id.0,
                Class::Resource,
                "the worker that owns its lane is overloaded",
            );
            return;
        }
        let mut conn = self.conns.remove(id.0 as usize);
        let _ = conn.socket.deregister(self.poll.registry());
        self.shared.send(
            worker,
            Job::Arrive(Box::new(Arrival {
                client: Client::Moved(Moved(Box::new(conn))),
                choice: Some((router, lane)),
            })),
        );
    }

    /// Send OPEN on a lane of ours, with what the client has sent so far.
    fn open_on(&mut self, id: ConnId, lane_key: usize, router: RouterId) {
        let now = self.now;
        let shared = Arc::clone(&self.shared);
        let source = shared.router;
        let Some(Some(lane)) = self.lanes.get_mut(lane_key) else {
            self.look_again(id);
            return;
        };
        let Some(conn) = self
            .conns
            .get_mut(id.0 as usize)
            .filter(|c| c.generation == id.1)
        else {
            return;
        };
        let routing_key = Arc::clone(&conn.record.routing_key);
        let Stage::Parked(opening) = &mut conn.stage else {
            return;
        };
        if lane.mux.open_credit() > 0 && opening.early.is_empty() && !opening.fin {
            let read = read_early(
                &mut conn.socket,
                opening,
                lane.mux.early_room(&routing_key),
                &mut conn.eof,
                &mut conn.readable,
            );
            if let Err(error) = read {
                // The kernel says it once: the next read would look like a clean end.
                let class = conn.own_class();
                self.abort(id.0, class, &error.to_string());
                return;
            }
            let count = opening.early.len();
            if count > 0 {
                let record = &mut conn.record;
                record.bytes_in += count as u64;
                if let Some(listener) = &record.listener {
                    listener
                        .tally
                        .bytes_in
                        .fetch_add(count as u64, Ordering::Relaxed);
                }
            }
        }
        let Stage::Parked(opening) = &mut conn.stage else {
            return;
        };
        let request = MuxOpening {
            destination: Some(router),
            source,
            uuid: conn.record.uuid,
            hop_limit: shared.hop_limit.load(Ordering::Relaxed),
            routing_key: &routing_key,
            attributes: &[],
            early: &opening.early,
            fin: opening.fin,
        };
        match lane.mux.open(id.0, &request, &shared.budget, now) {
            Ok(key) => {
                let stage = std::mem::replace(&mut conn.stage, Stage::Parked(Box::default()));
                if let Stage::Parked(opening) = stage {
                    conn.stage = Stage::Asking {
                        lane: lane_key,
                        key,
                        opening,
                    };
                }
                if count_remote(conn, router) {
                    shared.streams_total.fetch_add(1, Ordering::Relaxed);
                }
                shared.streams_open.fetch_add(1, Ordering::Relaxed);
                if conn.readable && !conn.eof {
                    lane.mux.readable(key);
                }
                lane.count_stream(1);
                lane.note_open_credit();
                if let Some(claim) = &mut conn.record.claim {
                    claim.opened();
                }
                self.soil(lane_key);
            }
            Err(Blocked::Credit) => {
                let stage = std::mem::replace(&mut conn.stage, Stage::Parked(Box::default()));
                if let Stage::Parked(opening) = stage {
                    conn.stage = Stage::Waiting { opening };
                }
                let _ = lane.waiting.push(None, id);
                lane.note_open_credit();
                self.look_again(id);
            }
            Err(blocked) => {
                opening.reason = match blocked {
                    Blocked::Memory => "the memory budget has no room for another stream",
                    Blocked::Streams => "too many streams on the lane",
                    Blocked::Leaving | Blocked::Credit => "the lane is leaving",
                }
                .to_owned();
                let hop = Some(lane.trunk.router);
                opening.tried.push(Tried::Remote(routing_key, router, hop));
                self.undecided.push(id);
            }
        }
    }

    /// Open credit has come: those that wait for it and fit, each origin in turn. Those that are gone leave the queue.
    pub(super) fn serve_waiting(&mut self, key: usize) {
        let Some(Some(lane)) = self.lanes.get_mut(key) else {
            return;
        };
        self.offered.push((key, lane.waiting.len()));
        let mut opens = lane.mux.open_credit().saturating_sub(lane.promised);
        let mut early = lane.mux.early_credit() as usize;
        let mut promised = 0;
        let (conns, hops, undecided) = (&self.conns, &self.hops, &mut self.undecided);
        let mut onward = Vec::new();
        lane.waiting.serve(|id| {
            if is_hop(id.0) {
                if !waits_to_open(hops, id) {
                    return Offer::Gone;
                }
                if opens == 0 {
                    return Offer::Over;
                }
                onward.push(id);
            } else {
                let conn = conns.get(id.0 as usize).filter(|c| c.generation == id.1);
                let Some(Stage::Waiting { opening }) = conn.map(|c| &c.stage) else {
                    return Offer::Gone;
                };
                if opens == 0 {
                    return Offer::Over;
                }
                if opening.early.len() > early {
                    return Offer::TooSmall;
                }
                early -= opening.early.len();
                promised += 1;
                undecided.push(id);
            }
            opens -= 1;
            Offer::Taken
        });
        lane.promised += promised;
        lane.note_open_credit();
        for id in onward {
            if self.hop_waits(id) {
                self.open_onward(id.0);
            }
        }
    }

    /// Those that were offered open credit have decided. What they left is for the others, as long as the queue grows shorter by it.
    pub(super) fn offer_again(&mut self, key: usize, waited: usize) {
        if let Some(Some(lane)) = self.lanes.get(key)
            && !lane.waiting.is_empty()
            && lane.waiting.len() < waited
        {
            self.serve_waiting(key);
        }
    }

    /// Look at a connection on the next tick.
    pub(super) fn look_again(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id)
            && !conn.timed
        {
            conn.timed = true;
            self.timed.push(id);
        }
    }

    /// OPEN_OK: what was kept need not be kept any more.
    pub(super) fn answered(&mut self, owner: u32) {
        let Some(conn) = self.conns.get_mut(owner as usize) else {
            return;
        };
        if let Stage::Asking { lane, key, .. } = conn.stage {
            conn.stage = Stage::Streaming { lane, key };
            conn.record.answered = true;
            if let Some(embedded) = &conn.embedded {
                self.shared.events.push(Event::Opened {
                    stream: embedded.id,
                    class: "",
                    reason: String::new(),
                });
            }
        }
    }

    /// OPEN_ERR: the target saw nothing; try elsewhere if the class permits. `hop`: the neighbour that said it.
    pub(super) fn refused(&mut self, owner: u32, hop: RouterId, class: Class, reason: &str) {
        let Some(conn) = self.conns.get_mut(owner as usize) else {
            return;
        };
        if !class.may_retry() {
            self.forget(owner, Some((class, reason)));
            return;
        }
        if let Stage::Asking { opening, .. } = &mut conn.stage {
            reason.clone_into(&mut opening.reason);
            if let Some(router) = conn.record.peer {
                // A router on the way may say anything but that the targets refused; then another way may be better.
                let by_target = class == Class::Refused || hop == router;
                let way = (!by_target).then_some(hop);
                let key = Arc::clone(&conn.record.routing_key);
                opening.tried.push(Tried::Remote(key, router, way));
            }
        }
        self.ask_again(owner);
    }

    /// Park a stream whose OPEN led nowhere, and choose again.
    pub(super) fn ask_again(&mut self, owner: u32) {
        let Some(conn) = self.conns.get_mut(owner as usize) else {
            return;
        };
        let stage = std::mem::replace(&mut conn.stage, Stage::Parked(Box::default()));
        if let Stage::Asking { opening, .. } = stage {
            conn.record.claim = None;
            conn.record.peer = None;
            if conn.record.counted {
                conn.record.counted = false;
                if let Some(listener) = &conn.record.listener {
                    listener.tally.open.fetch_sub(1, Ordering::Relaxed);
                }
                self.shared.streams_open.fetch_sub(1, Ordering::Relaxed);
            }
            conn.stage = Stage::Parked(opening);
            let id = (owner, conn.generation);
            self.undecided.push(id);
        } else {
            conn.stage = stage;
        }
    }

    /// Whether there is another way than over the neighbour that was asked.
    pub(super) fn has_elsewhere(&self, owner: u32, hop: RouterId) -> bool {
        let Some(conn) = self.conns.get(owner as usize) else {
            return false;
        };
        let (Stage::Asking { opening, .. }, Some(router)) = (&conn.stage, conn.record.peer) else {
            return false;
        };
        let mut tried = opening.tried.clone();
        let key = Arc::clone(&conn.record.routing_key);
        tried.push(Tried::Remote(key, router, Some(hop)));
        let table = self.shared.table.load();
        conn.record
            .plan(|plan| table.has_choice(plan, &tried, self.now))
    }

    /// What waits for something with a deadline.
    pub(super) fn tick_conn(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conn(id) else { return };
        conn.timed = false;
        match &conn.stage {
            Stage::Parked(_) => self.undecided.push(id),
            Stage::Greeting { deadline, .. } => {
                let deadline = *deadline;
                self.wait_for_greeting(id, deadline);
            }
            Stage::Waiting { opening, .. } => {
                if now.saturating_duration_since(opening.since) >= RETRY_DEADLINE {
                    self.abort(
                        id.0,
                        Class::Resource,
                        "the other router does not answer OPENs fast enough",
                    );
                } else {
                    self.look_again(id);
                }
            }
            Stage::Connecting { deadline, .. } | Stage::PairConnecting { deadline, .. } => {
                if now >= *deadline {
                    self.connect_failed(
                        id,
                        &io::Error::new(io::ErrorKind::TimedOut, "timed out after 10 s"),
                    );
                } else {
                    self.look_again(id);
                }
            }
            Stage::Asking { .. }
            | Stage::Streaming { .. }
            | Stage::PairWaiting { .. }
            | Stage::Paired { .. } => {}
        }
    }
}

/// Says whether the stream is new in the totals.
fn count_remote(conn: &mut Conn, router: RouterId) -> bool {
    let is_new = !std::mem::replace(&mut conn.record.seen, true);
    conn.record.peer = Some(router);
    conn.record.counted = true;
    if let Some(listener) = &conn.record.listener {
        listener.tally.open.fetch_add(1, Ordering::Relaxed);
        if is_new {
            listener.tally.total.fetch_add(1, Ordering::Relaxed);
        }
    }
    is_new
}

/// What the client has sent until now, as far as it fits into an OPEN. It is not waited for.
fn read_early(
    socket: &mut Socket,
    opening: &mut Opening,
    room: usize,
    eof: &mut bool,
    readable: &mut bool,
) -> io::Result<()> {
    let room = room.min(MAX_EARLY as usize);
    if room == 0 {
        return Ok(());
    }
    let mut buffer = [0; MAX_EARLY as usize];
    let space = buffer.get_mut(..room).unwrap_or_default();
    match socket.read(space) {
        Ok(0) => {
            opening.fin = true;
            *eof = true;
        }
        Ok(count) => opening
            .early
            .extend_from_slice(space.get(..count).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => *readable = false,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
