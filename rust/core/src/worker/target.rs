//! From an OPEN to a target: its targets are tried one after the other, and only then the OPEN is answered.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::conn::{CONNECT_DEADLINE, Embedded, Record, Stage};
use super::lane::Lane;
use super::socket::Socket;
use super::{ConnId, Worker, socket_pair};
use crate::contract::Event;
use crate::events::Slot;
use crate::mux::Key;
use crate::payload::{Class, Open};
use crate::table::{Target, Tried};

impl Worker {
    /// The peer opened a stream: connect a target, then answer.
    pub(super) fn take_open(
        &mut self,
        lane: &mut Lane,
        lane_key: usize,
        key: Key,
        open: &Open<'_>,
    ) {
        let shared = Arc::clone(&self.shared);
        let refuse = |lane: &mut Lane, class, reason: &str| {
            lane.mux.refuse(key, class, reason, &shared.budget)
        };
        if lane.trunk.is_edge() && open.source.site != lane.trunk.router.site {
            let reason = "an edge opens streams of its own site only";
            refuse(lane, Class::Policy, reason);
            return;
        }
        if shared.refusing.load(Ordering::Relaxed) {
            refuse(lane, Class::Drain, "the router is leaving");
            return;
        }
        if let Some(router) = open.destination
            && router != shared.router
        {
            self.forward(lane, lane_key, key, router, open);
            return;
        }
        // What an edge serves is advertised as ours.
        let edge = {
            let table = shared.table.load();
            let is_here = table.has_local(open.routing_key, &[]);
            let from = lane.trunk.router;
            (!is_here)
                .then(|| table.edge_with(open.routing_key, &from))
                .flatten()
        };
        if let Some(edge) = edge {
            self.forward(lane, lane_key, key, edge, open);
            return;
        }
        let routing_key: Arc<str> = shared
            .table
            .load()
            .keys
            .get_key_value(open.routing_key)
            .map_or_else(|| Arc::from(open.routing_key), |(name, _)| Arc::clone(name));
        let mut record = self.record(routing_key, None);
        record.uuid = open.uuid;
        record.peer = Some(open.source);
        self.connect_target(lane, lane_key, key, record, open.early, Vec::new());
    }

    /// Try the targets of a key until a connect is under way. Refuses the stream when there is none left.
    fn connect_target(
        &mut self,
        lane: &mut Lane,
        lane_key: usize,
        key: Key,
        mut record: Box<Record>,
        early: &[u8],
        mut tried: Vec<Tried>,
    ) {
        let shared = Arc::clone(&self.shared);
        let table = shared.table.load();
        let mut reason = format!("no target for {:?} here", record.routing_key);
        while let Some((target, claim)) = table.choose_local(&record.routing_key, &tried, self.now)
        {
            record.target = Some(Arc::clone(&target));
            record.claim = Some(claim);
            let socket = match self.socket_for(&target, &record) {
                Ok(socket) => socket,
                Err(error) if is_shortage(&error) => {
                    // Ours, not the target's.
                    let reason = error.to_string();
                    lane.mux
                        .refuse(key, Class::Resource, &reason, &shared.budget);
                    shared.streams_refused.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(error) => {
                    reason = self.target_failed(&target, &error);
                    tried.push(Tried::Local(Arc::clone(&target.name)));
                    continue;
                }
            };
            let (socket, embedded, connected) = socket;
            let stage = Stage::Connecting {
                lane: lane_key,
                key,
                tried,
                deadline: self.now + CONNECT_DEADLINE,
            };
            let Some(id) = self.add_conn(socket, stage, record, false, embedded) else {
                lane.mux.refuse(
                    key,
                    Class::Resource,
                    "no file descriptor left",
                    &shared.budget,
                );
                return;
            };
            lane.mux.set_owner(key, id.0);
            lane.count_stream(1);
            if let Some(conn) = self.conn(id) {
                conn.queue.extend(early);
                if connected {
                    self.connected_on(lane, id);
                    return;
                }
                conn.writable = false;
            }
            self.look_again(id);
            return;
        }
        shared.streams_refused.fetch_add(1, Ordering::Relaxed);
        lane.mux
            .refuse(key, Class::Refused, &reason, &shared.budget);
    }

    /// A socket on its way to the target, and whether it is there already. Loopback connects at once; so does a refusal.
    pub(super) fn socket_for(
        &self,
        target: &Arc<Target>,
        record: &Record,
    ) -> io::Result<(Socket, Option<Arc<Embedded>>, bool)> {
        if let Some(address) = target.address {
            let mut socket = match &target.tls {
                Some(tls) => {
                    let (config, name) =
                        tls.load().client(address.ip()).map_err(io::Error::other)?;
                    Socket::connect(address)?.with_tls(config, name)?
                }
                None => Socket::connect(address)?,
            };
            let connected = socket.is_connected()?;
            return Ok((socket, None, connected));
        }
        let (ours, theirs) = socket_pair()?;
        let embedded = self.shared.events.offer(
            &target.name,
            &record.routing_key,
            record.peer.unwrap_or(self.shared.router),
            theirs.into(),
        )?;
        Ok((
            Socket::Unix(mio::net::UnixStream::from_std(ours)),
            Some(embedded),
            true,
        ))
    }

    pub(super) fn target_failed(&self, target: &Target, error: &io::Error) -> String {
        let failures = target.failed(self.now);
        let reason = match target.address {
            Some(address) => format!("target {address} of connector {:?}: {error}", target.name),
            None => format!("connector {:?}: {error}", target.name),
        };
        self.shared.events.set(
            Slot::Connector(target.name.to_string()),
            Event::Connector {
                name: target.name.to_string(),
                error: reason.clone(),
                failures,
            },
        );
        reason
    }

    /// News of a connect.
    pub(super) fn connect_progress(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        match conn.socket.is_connected() {
            Ok(false) => {}
            Ok(true) => {
                if let Stage::Connecting { lane: lane_key, .. } = conn.stage {
                    let Some(mut lane) = self.lanes.get_mut(lane_key).and_then(Option::take) else {
                        return;
                    };
                    self.connected_on(&mut lane, id);
                    if let Some(place) = self.lanes.get_mut(lane_key) {
                        *place = Some(lane);
                    }
                    self.soil(lane_key);
                } else {
                    self.pair_connected(id);
                }
            }
            Err(error) => self.connect_failed(id, &error),
        }
    }

    fn connected_on(&mut self, lane: &mut Lane, id: ConnId) {
        let now = self.now;
        let shared = Arc::clone(&self.shared);
        let Some(conn) = self.conn(id) else { return };
        let Stage::Connecting {
            lane: lane_key,
            key,
            ..
        } = conn.stage
        else {
            return;
        };
        conn.stage = Stage::Streaming {
            lane: lane_key,
            key,
        };
        conn.writable = true;
        conn.record.counted = true;
        conn.record.answered = true;
        if let Some(target) = &conn.record.target {
            if target.worked() {
                shared.events.set(
                    Slot::Connector(target.name.to_string()),
                    Event::Connector {
                        name: target.name.to_string(),
                        error: String::new(),
                        failures: 0,
                    },
                );
            }
            target.tally.open.fetch_add(1, Ordering::Relaxed);
            target.tally.total.fetch_add(1, Ordering::Relaxed);
        }
        shared.streams_total.fetch_add(1, Ordering::Relaxed);
        shared.streams_open.fetch_add(1, Ordering::Relaxed);
        lane.mux.accept(key);
        match conn.flush() {
            Ok(written) => {
                if written > 0 {
                    lane.mux.consumed(key, written as u32, &shared.budget, now);
                }
                // A server that speaks first has perhaps spoken.
                lane.mux.readable(key);
                if conn.read_closed {
                    lane.mux.ending(key);
                }
                self.finish_on(lane, id.0);
            }
            Err(error) => self.abort_on(lane, id.0, Class::Target, &error.to_string()),
        }
    }

    /// A connect to a target failed: try the next one, or refuse.
    pub(super) fn connect_failed(&mut self, id: ConnId, error: &io::Error) {
        let Some(conn) = self.conn(id) else { return };
        if matches!(conn.stage, Stage::PairConnecting { .. }) {
            self.pair_failed(id, error);
            return;
        }
        let Stage::Connecting {
            lane: lane_key,
            key,
            tried,
            ..
        } = &mut conn.stage
        else {
            return;
        };
        let (lane_key, key, mut tried) = (*lane_key, *key, std::mem::take(tried));
        let mut conn = self.conns.remove(id.0 as usize);
        let _ = conn.socket.deregister(self.poll.registry());
        let Some(mut lane) = self.lanes.get_mut(lane_key).and_then(Option::take) else {
            return;
        };
        lane.count_stream(-1);
        let mut record = conn.record;
        if let Some(target) = record.target.take() {
            let _ = self.target_failed(&target, error);
            tried.push(Tried::Local(Arc::clone(&target.name)));
        }
        let early: Vec<u8> = conn.queue.into_iter().collect();
        let fin = conn.fin;
        let reason = error.to_string();
        if self
            .shared
            .table
            .load()
            .has_local(&record.routing_key, &tried)
        {
            self.connect_target(&mut lane, lane_key, key, record, &early, tried);
            if fin {
                self.mark_fin(&mut lane, key);
            }
        } else {
            self.shared.streams_refused.fetch_add(1, Ordering::Relaxed);
            lane.mux.refuse(
                key,
                Class::Refused,
                &format!("the target refused: {reason}"),
                &self.shared.budget,
            );
        }
        if let Some(place) = self.lanes.get_mut(lane_key) {
            *place = Some(lane);
        }
        self.soil(lane_key);
    }

    fn mark_fin(&mut self, lane: &mut Lane, key: Key) {
        let Some(owner) = lane.mux.owner_of(key) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(owner as usize) {
            conn.fin = true;
            if !matches!(conn.stage, Stage::Connecting { .. }) {
                self.shut_on(lane, owner);
            }
        }
    }
}

/// The system's fault or ours: no descriptors, no memory.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}
