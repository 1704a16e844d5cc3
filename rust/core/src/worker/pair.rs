//! A listener and a connector of the same router: bytes go from one application to the other without a lane.
//!
//! They are copied at first. A direction that has carried [`BULKY`] bytes is moved by the kernel, through a pipe that it has only
//! while there are bytes in it: taken empty, filled from one socket, drained into the other. A pipe is filled only when it is
//! empty and nothing is queued, so bytes keep their order and an end is read behind all of them.

mod pipe;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::conn::{CONNECT_DEADLINE, Stage};
use super::target::is_shortage;
use super::{ConnId, Worker};
use crate::contract::Event;
use crate::credit::FLOOR;
use crate::payload::Class;
use crate::table::{Target, Tried};
pub(super) use pipe::{PIPE, Pipe, Pipes};

/// Reads of one direction before others get their turn.
const ROUNDS: usize = 16;
/// Bytes that one direction of a pair may have read and not yet written, where the budget has room; else the floor.
const PAIR_BUFFER: u32 = 65_536;
/// A direction that carried so much goes through a pipe.
const BULKY: u64 = 1 << 20;

impl Worker {
    /// Connect a parked client to a target of this router.
    pub(super) fn pair_with(&mut self, client: ConnId, target: &Arc<Target>) {
        let Some(conn) = self.conn(client) else {
            return;
        };
        let routing_key = Arc::clone(&conn.record.routing_key);
        let uuid = conn.record.uuid;
        let record = Box::new(super::conn::Record {
            uuid,
            routing_key,
            listener: None,
            target: Some(Arc::clone(target)),
            claim: None,
            connector: None,
            peer: None,
            started: self.now,
            bytes_in: 0,
            bytes_out: 0,
            counted: false,
            seen: false,
            answered: false,
        });
        let made = self.socket_for(target, &record);
        let (socket, embedded, connected) = match made {
            Ok(made) => made,
            Err(error) => {
                let reason = if is_shortage(&error) {
                    error.to_string()
                } else {
                    self.target_failed(target, &error)
                };
                self.pair_refused(client, target, reason);
                return;
            }
        };
        let stage = Stage::PairConnecting {
            client,
            deadline: self.now + CONNECT_DEADLINE,
        };
        let Some(id) = self.add_conn(socket, stage, record, false, embedded) else {
            self.abort(client.0, Class::Resource, "no file descriptor left");
            return;
        };
        if let Some(conn) = self.conn(client) {
            let stage = std::mem::replace(&mut conn.stage, Stage::Parked(Box::default()));
            if let Stage::Parked(opening) = stage {
                conn.stage = Stage::PairWaiting { opening };
            }
        }
        if let Some(conn) = self.conn(id) {
            if connected {
                self.pair_connected(id);
                return;
            }
            conn.writable = false;
        }
        self.look_again(id);
    }

    fn pair_refused(&mut self, client: ConnId, target: &Target, reason: String) {
        let Some(conn) = self.conn(client) else {
            return;
        };
        let stage = std::mem::replace(&mut conn.stage, Stage::Parked(Box::default()));
        if let Stage::PairWaiting { mut opening } | Stage::Parked(mut opening) = stage {
            opening.reason = reason;
            opening.tried.push(Tried::Local(Arc::clone(&target.name)));
            conn.stage = Stage::Parked(opening);
            self.undecided.push(client);
        }
    }

    pub(super) fn pair_failed(&mut self, id: ConnId, error: &io::Error) {
        let Some(conn) = self.conn(id) else { return };
        let Stage::PairConnecting { client, .. } = conn.stage else {
            return;
        };
        let mut conn = self.conns.remove(id.0 as usize);
        let _ = conn.socket.deregister(self.poll.registry());
        if let Some(target) = conn.record.target.take() {
            let reason = self.target_failed(&target, error);
            self.pair_refused(client, &target, reason);
        }
    }

    pub(super) fn pair_connected(&mut self, id: ConnId) {
        let shared = Arc::clone(&self.shared);
        let Some(conn) = self.conn(id) else { return };
        let Stage::PairConnecting { client, .. } = conn.stage else {
            return;
        };
        if self.conn(client).is_none() {
            self.forget(id.0, Some((Class::Client, "the client left")));
            return;
        }
        let mut target = None;
        for (side, other) in [(id, client), (client, id)] {
            let Some(conn) = self.conn(side) else {
                continue;
            };
            let stage = std::mem::replace(&mut conn.stage, Stage::Paired { other, pipe: None });
            conn.writable = true;
            if let Stage::PairWaiting { opening } = stage
                && let Some(target) = self.conn(id)
            {
                target.queue.extend(&opening.early);
                target.fin = opening.fin;
            }
            if let Some(conn) = self.conn(side) {
                conn.record.counted = true;
                conn.record.answered = true;
                if side == id {
                    target.clone_from(&conn.record.target);
                }
            }
        }
        let name = target.as_ref().map(|t| Arc::clone(&t.name));
        if let Some(target) = target {
            if target.worked() {
                shared.events.set(
                    crate::events::Slot::Connector(target.name.to_string()),
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
        shared.streams_open.fetch_add(1, Ordering::Relaxed);
        if let Some(conn) = self.conn(client) {
            conn.record.connector = name;
            let is_new = !std::mem::replace(&mut conn.record.seen, true);
            if is_new {
                shared.streams_total.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(listener) = &conn.record.listener {
                listener.tally.open.fetch_add(1, Ordering::Relaxed);
                if is_new {
                    listener.tally.total.fetch_add(1, Ordering::Relaxed);
                }
            }
            if let Some(embedded) = &conn.embedded {
                shared.events.push(Event::Opened {
                    stream: embedded.id,
                    class: "",
                    reason: String::new(),
                });
            }
        }
        self.pump_pair(id, client);
    }

    /// Move bytes both ways as far as they go now.
    pub(super) fn pump_pair(&mut self, a: ConnId, b: ConnId) {
        let mut busy = false;
        for (from, to) in [(a, b), (b, a)] {
            match self.pump(from, to) {
                Ok(more) => busy |= more,
                Err((guilty, error)) => {
                    if let Some(conn) = self.conn(guilty) {
                        let class = conn.own_class();
                        self.abort(guilty.0, class, &error.to_string());
                    }
                    return;
                }
            }
        }
        if busy {
            self.busy_pairs.push((a, b));
        }
        let done = [a, b].map(|id| self.conn(id).is_none_or(|c| c.shut && c.eof));
        if done == [true, true] {
            self.forget(a.0, None);
            self.forget(b.0, None);
        }
    }

    /// `Ok(true)`: there may be more to move.
    fn pump(&mut self, from: ConnId, to: ConnId) -> Result<bool, (ConnId, io::Error)> {
        let outcome = if self.is_bulky(from, to) {
            self.splice(from, to)
        } else {
            let mut scratch = std::mem::take(&mut self.scratch.pair);
            let outcome = self.pump_with(&mut scratch, from, to);
            self.scratch.pair = scratch;
            outcome
        };
        if let Some(sink) = self.conn(to)
            && sink.queue.is_empty()
            && !matches!(sink.stage, Stage::Paired { pipe: Some(_), .. })
        {
            // Nothing is stored, so nothing is kept.
            let reserved = std::mem::take(&mut sink.reserved);
            self.shared.budget.release(reserved);
        }
        outcome
    }

    /// Whether the kernel should move the bytes of this direction from now on.
    fn is_bulky(&mut self, from: ConnId, to: ConnId) -> bool {
        let bulky = self.conn(from).is_some_and(|source| {
            let carried = if source.ingress {
                source.record.bytes_in
            } else {
                source.record.bytes_out
            };
            carried >= BULKY && source.socket.plain_tcp().is_some()
        });
        bulky
            && self
                .conn(to)
                .is_some_and(|sink| sink.queue.is_empty() && sink.socket.plain_tcp().is_some())
    }

    /// Like [`Self::pump_with`], without seeing the bytes.
    fn splice(&mut self, from: ConnId, to: ConnId) -> Result<bool, (ConnId, io::Error)> {
        let Some(sink) = self.conn(to) else {
            return Ok(false);
        };
        let kept = match &mut sink.stage {
            Stage::Paired { pipe, .. } => pipe.take(),
            _ => return Ok(false),
        };
        let Some(mut pipe) = kept.or_else(|| self.pipe_for(to)) else {
            let mut scratch = std::mem::take(&mut self.scratch.pair);
            let outcome = self.pump_with(&mut scratch, from, to);
            self.scratch.pair = scratch;
            return outcome;
        };
        let outcome = self.splice_with(&mut pipe, from, to);
        if pipe.stored() > 0
            && let Some(sink) = self.conn(to)
            && let Stage::Paired { pipe: place, .. } = &mut sink.stage
        {
            *place = Some(pipe);
        } else {
            self.pipes.give_back(pipe);
        }
        outcome
    }

    /// A pipe, if the budget has room for what it may hold.
    fn pipe_for(&mut self, to: ConnId) -> Option<Pipe> {
        let sink = self.conn(to)?;
        if sink.reserved < PIPE {
            let more = PIPE - sink.reserved;
            if !self.shared.budget.reserve(more) {
                return None;
            }
            self.conn(to)?.reserved = PIPE;
        }
        self.pipes.take()
    }

    fn splice_with(
        &mut self,
        pipe: &mut Pipe,
        from: ConnId,
        to: ConnId,
    ) -> Result<bool, (ConnId, io::Error)> {
        for _ in 0..ROUNDS {
            while pipe.stored() > 0 {
                let Some(sink) = self.conn(to) else {
                    return Ok(false);
                };
                let Some(socket) = sink.socket.plain_tcp() else {
                    return Ok(false);
                };
                match pipe.drain(socket) {
                    Ok(count) => sink.count(false, count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        sink.writable = false;
                        return Ok(false);
                    }
                    Err(error) => return Err((to, error)),
                }
            }
            if let Some(sink) = self.conn(to) {
                sink.shut_if_due().map_err(|error| (to, error))?;
            }
            let Some(source) = self.conn(from) else {
                return Ok(false);
            };
            if source.eof || !source.readable {
                return Ok(false);
            }
            let Some(socket) = source.socket.plain_tcp() else {
                return Ok(false);
            };
            match pipe.fill(socket) {
                Ok(0) => {
                    source.eof = true;
                    if let Some(sink) = self.conn(to) {
                        sink.fin = true;
                        sink.shut_if_due().map_err(|error| (to, error))?;
                    }
                    return Ok(false);
                }
                Ok(count) => source.count(true, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    source.readable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.pipes.refuse();
                    return Ok(true);
                }
                Err(error) => return Err((from, error)),
            }
        }
        Ok(true)
    }

    fn pump_with(
        &mut self,
        scratch: &mut [u8],
        from: ConnId,
        to: ConnId,
    ) -> Result<bool, (ConnId, io::Error)> {
        for _ in 0..ROUNDS {
            let above = PAIR_BUFFER - FLOOR;
            let reserves = self.conn(to).is_some_and(|sink| sink.reserved == 0)
                && self.shared.budget.reserve(above);
            let Some(sink) = self.conn(to) else {
                return Ok(false);
            };
            if reserves {
                sink.reserved = above;
            }
            sink.flush().map_err(|error| (to, error))?;
            if !sink.queue.is_empty() {
                return Ok(false);
            }
            let room = ((FLOOR + sink.reserved) as usize).min(scratch.len());
            let Some(source) = self.conn(from) else {
                return Ok(false);
            };
            if source.eof || !source.readable {
                return Ok(false);
            }
            let space = scratch.get_mut(..room).unwrap_or_default();
            let count = match source.socket.read(space) {
                Ok(0) => {
                    source.eof = true;
                    let broken = source
                        .embedded
                        .as_ref()
                        .is_some_and(|e| e.wants_reset.load(Ordering::Acquire));
                    if broken {
                        return Err((from, io::ErrorKind::ConnectionReset.into()));
                    }
                    if let Some(sink) = self.conn(to) {
                        sink.fin = true;
                        sink.shut_if_due().map_err(|error| (to, error))?;
                    }
                    return Ok(false);
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    source.readable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err((from, error)),
            };
            source.count(true, count);
            let Some(sink) = self.conn(to) else {
                return Ok(false);
            };
            let bytes = space.get(..count).unwrap_or_default();
            sink.deliver(&[bytes]).map_err(|error| (to, error))?;
        }
        Ok(true)
    }
}
