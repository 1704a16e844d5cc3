//! One application's connection and what it waits for.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event as ReadyEvent;

use super::lane::Lane;
use super::opening::Opening;
use super::pair::Pipe;
use super::socket::Socket;
use super::{ConnId, ListenerRef, Source, Worker, source, token};
use crate::contract::Strategy;
use crate::contract::{Event, StreamEndEvent};
use crate::handshake::RouterId;
use crate::mux::Key;
use crate::payload::Class;
use crate::table::{Claim, Plan, Target, Weighted};

/// A connect to a target may take so long.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Capacity that an empty queue keeps.
const KEPT_QUEUE: usize = 4_096;

const FIN: u32 = 1;
const BROKEN: u32 = 0x100;

/// A stream whose other end is in this process: how it ended, for whoever reads it.
#[derive(Debug)]
pub struct Embedded {
    /// Unique in this process.
    pub id: u64,
    /// 0 under way; [`FIN`] the peer's FIN was received and all before it delivered; [`BROKEN`] and a class.
    end: AtomicU32,
    /// The inside end wants a reset instead of a clean end.
    pub wants_reset: AtomicBool,
}

impl Embedded {
    /// A stream that has not ended.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            end: AtomicU32::new(0),
            wants_reset: AtomicBool::new(false),
        }
    }

    /// Whether a FIN was received, and the class if it broke.
    #[must_use]
    pub fn end(&self) -> (bool, Option<Class>) {
        let end = self.end.load(Ordering::Acquire);
        let class = (end & BROKEN != 0).then(|| Class::from_wire((end >> 16) as u8));
        (end & FIN != 0, class)
    }

    fn set_fin(&self) {
        self.end.fetch_or(FIN, Ordering::AcqRel);
    }

    pub(super) fn set_broken(&self, class: Class) {
        self.end
            .fetch_or(BROKEN | (class as u32) << 16, Ordering::AcqRel);
    }
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// A client of a listener with TLS, before its handshake is done: no target hears of it yet.
    Greeting {
        opening: Box<Opening>,
        deadline: Instant,
    },
    /// No target to try now; looked at again on ticks.
    Parked(Box<Opening>),
    /// The lane has no open credit.
    Waiting { opening: Box<Opening> },
    /// OPEN was sent.
    Asking {
        lane: usize,
        key: Key,
        opening: Box<Opening>,
    },
    /// An OPEN arrived and its target is being connected.
    Connecting {
        lane: usize,
        key: Key,
        tried: Vec<crate::table::Tried>,
        deadline: Instant,
    },
    /// Bytes flow over a lane.
    Streaming { lane: usize, key: Key },
    /// The client of a pair whose target is being connected.
    PairWaiting { opening: Box<Opening> },
    /// The target of a pair, being connected.
    PairConnecting { client: ConnId, deadline: Instant },
    /// Bytes flow to the other connection of this router. `pipe`: what is in the kernel on its way to this one.
    Paired { other: ConnId, pipe: Option<Pipe> },
}

/// Names and counts of a stream, for the log line at its end.
#[derive(Debug)]
pub(super) struct Record {
    pub uuid: [u8; 16],
    pub routing_key: Arc<str>,
    pub listener: Option<Arc<ListenerRef>>,
    pub target: Option<Arc<Target>>,
    /// Its place in the load of the target that was chosen for it.
    pub claim: Option<Claim>,
    /// The connector's name where the target's own counts are kept elsewhere (the client of a pair).
    pub connector: Option<Arc<str>>,
    pub peer: Option<RouterId>,
    pub started: Instant,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// It was opened, and is in the counts of open streams.
    pub counted: bool,
    /// It is in the totals: once, however often it was opened.
    pub seen: bool,
    /// Its target is connected.
    pub answered: bool,
}

impl Record {
    /// What this stream may choose from.
    pub fn plan<T>(&self, choose: impl FnOnce(Plan<'_>) -> T) -> T {
        let Some(listener) = &self.listener else {
            let only = [Weighted {
                routing_key: Arc::clone(&self.routing_key),
                weight: 1,
            }];
            return choose(Plan {
                strategy: Strategy::Balanced,
                keys: &only,
            });
        };
        choose(Plan {
            strategy: listener.strategy,
            keys: &listener.keys,
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Conn {
    pub generation: u32,
    pub socket: Socket,
    pub stage: Stage,
    pub embedded: Option<Arc<Embedded>>,
    pub record: Box<Record>,
    /// Toward the application; bounded by the credit granted (or, in a pair, by what was reserved).
    pub queue: VecDeque<u8>,
    /// Reserved for the queue of a pair.
    pub reserved: u32,
    /// This is the side where the stream entered.
    pub ingress: bool,
    pub readable: bool,
    pub writable: bool,
    /// The kernel has seen the application's end: a short read does not mean that there is no more.
    pub read_closed: bool,
    /// We have read its end.
    pub eof: bool,
    /// The peer's direction has ended; after the queue is written, ours toward the application ends.
    pub fin: bool,
    /// Ended toward the application.
    pub shut: bool,
    /// In the worker's list of those that are looked at on every tick.
    pub timed: bool,
}

impl Conn {
    pub fn new(
        generation: u32,
        socket: Socket,
        stage: Stage,
        record: Box<Record>,
        ingress: bool,
    ) -> Self {
        Self {
            generation,
            socket,
            stage,
            embedded: None,
            record,
            queue: VecDeque::new(),
            reserved: 0,
            ingress,
            readable: true,
            writable: true,
            read_closed: false,
            eof: false,
            fin: false,
            shut: false,
            timed: false,
        }
    }

    /// Who is to blame when this application's socket fails.
    pub fn own_class(&self) -> Class {
        if self.ingress {
            Class::Client
        } else {
            Class::Target
        }
    }

    /// Bytes went from the application (`true`) or to it.
    pub fn count(&mut self, from_application: bool, bytes: usize) {
        let inward = from_application == self.ingress;
        let bytes = bytes as u64;
        let record = &mut *self.record;
        let total = if inward {
            &mut record.bytes_in
        } else {
            &mut record.bytes_out
        };
        *total += bytes;
        for tally in [
            record.listener.as_ref().map(|l| &l.tally),
            record.target.as_ref().map(|t| &t.tally),
        ]
        .into_iter()
        .flatten()
        {
            let counter = if inward {
                &tally.bytes_in
            } else {
                &tally.bytes_out
            };
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Write `slices` as far as the application takes them; the rest goes to the queue. Returns how many bytes were written.
    pub fn deliver(&mut self, slices: &[&[u8]]) -> io::Result<usize> {
        let mut written = 0;
        if self.queue.is_empty() && self.writable {
            let mut vectors = arrayvec::ArrayVec::<IoSlice<'_>, { super::lane::GROUP }>::new();
            for slice in slices {
                if vectors.try_push(IoSlice::new(slice)).is_err() {
                    break;
                }
            }
            written = match self.socket.write_vectored(&vectors) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
        }
        let mut skip = written;
        for slice in slices {
            let rest = slice.get(skip.min(slice.len())..).unwrap_or_default();
            skip = skip.saturating_sub(slice.len());
            if !rest.is_empty() {
                self.writable = false;
                self.queue.extend(rest);
            }
        }
        self.count(false, written);
        Ok(written)
    }

    /// Write what is queued, and end our direction behind it if that is due. Returns how many bytes were written.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut total = 0;
        while self.writable && !self.queue.is_empty() {
            let (front, back) = self.queue.as_slices();
            match self
                .socket
                .write_vectored(&[IoSlice::new(front), IoSlice::new(back)])
            {
                Ok(0) => break,
                Ok(written) => {
                    self.queue.drain(..written);
                    total += written;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > KEPT_QUEUE {
            self.queue = VecDeque::new();
        }
        self.count(false, total);
        self.shut_if_due()?;
        Ok(total)
    }

    /// End our direction toward the application, if the peer's has ended and everything is written.
    pub fn shut_if_due(&mut self) -> io::Result<()> {
        if self.fin && !self.shut && self.queue.is_empty() {
            if let Some(embedded) = &self.embedded {
                embedded.set_fin();
            }
            self.shut = self.socket.shutdown_write()?;
        }
        Ok(())
    }
}

impl Worker {
    /// Own a connection. `None`: it could not be registered, and is closed.
    pub(super) fn add_conn(
        &mut self,
        socket: Socket,
        stage: Stage,
        record: Box<Record>,
        ingress: bool,
        embedded: Option<Arc<Embedded>>,
    ) -> Option<ConnId> {
        let generation = self.next_generation();
        let entry = self.conns.vacant_entry();
        let index = entry.key() as u32;
        let mut conn = Conn::new(generation, socket, stage, record, ingress);
        conn.embedded = embedded;
        let mark = token(Source::Conn, index as usize, generation);
        debug_assert_eq!(source(mark), (Source::Conn, index as usize, generation));
        if conn.socket.register(self.poll.registry(), mark).is_err() {
            return None;
        }
        entry.insert(conn);
        Some((index, generation))
    }

    /// The poll has news of a connection.
    pub(super) fn conn_event(&mut self, index: usize, generation: u32, event: &ReadyEvent) {
        let Some(conn) = self
            .conns
            .get_mut(index)
            .filter(|c| c.generation == generation)
        else {
            return;
        };
        let id = (index as u32, generation);
        if event.is_readable() || event.is_read_closed() {
            conn.readable = true;
        }
        if event.is_read_closed() {
            conn.read_closed = true;
        }
        if event.is_writable() {
            conn.writable = true;
        }
        let connecting = matches!(
            conn.stage,
            Stage::Connecting { .. } | Stage::PairConnecting { .. }
        );
        if connecting {
            self.connect_progress(id);
            return;
        }
        if let Stage::Greeting { .. } = conn.stage {
            self.greet(id);
            return;
        }
        let left = event.is_read_closed() && event.is_write_closed();
        let wants_reset = left
            && conn
                .embedded
                .as_ref()
                .is_some_and(|e| e.wants_reset.load(Ordering::Acquire));
        if event.is_error() || wants_reset {
            let class = conn.own_class();
            let reason = match conn.socket.take_error() {
                Ok(Some(error)) => error.to_string(),
                Err(error) => error.to_string(),
                Ok(None) => "the application reset it".to_owned(),
            };
            self.abort(id.0, class, &reason);
            return;
        }
        if event.is_writable()
            && let Err(error) = conn.socket.flush()
        {
            let class = conn.own_class();
            self.abort(id.0, class, &error.to_string());
            return;
        }
        match conn.stage {
            Stage::Streaming { lane, key } | Stage::Asking { lane, key, .. } => {
                if conn.readable && !conn.eof {
                    if let Some(Some(lane)) = self.lanes.get_mut(lane) {
                        lane.mux.readable(key);
                        if conn.read_closed {
                            lane.mux.ending(key);
                        }
                    }
                    self.soil(lane);
                }
                if event.is_writable() {
                    self.flush_conn(id);
                }
            }
            Stage::Paired { other, .. } => self.pump_pair(id, other),
            Stage::Greeting { .. }
            | Stage::Parked(_)
            | Stage::Waiting { .. }
            | Stage::PairWaiting { .. }
            | Stage::Connecting { .. }
            | Stage::PairConnecting { .. } => {}
        }
    }

    /// Write what a stream has stored, and give its credit back.
    pub(super) fn flush_conn(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let Stage::Streaming { lane, key } = conn.stage else {
            return;
        };
        if conn.queue.is_empty() && !conn.fin {
            return;
        }
        match conn.flush() {
            Ok(written) => {
                let now = self.now;
                if let Some(Some(lane)) = self.lanes.get_mut(lane)
                    && written > 0
                {
                    lane.mux
                        .consumed(key, written as u32, &self.shared.budget, now);
                }
                self.soil(lane);
                self.finish_if_done(id.0);
            }
            Err(error) => {
                let class = conn.own_class();
                self.abort(id.0, class, &error.to_string());
            }
        }
    }

    /// Forget a stream both of whose directions have ended cleanly. Its lane is in its place.
    pub(super) fn finish_if_done(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if let Stage::Streaming { lane, key } = conn.stage
            && conn.shut
            && let Some(Some(owner)) = self.lanes.get_mut(lane)
            && owner.mux.has_sent_fin(key)
        {
            owner.mux.release(key, &self.shared.budget);
            owner.count_stream(-1);
            self.forget(index, None);
        }
    }

    /// The same while the lane is taken out of its place.
    pub(super) fn finish_on(&mut self, lane: &mut Lane, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if let Stage::Streaming { key, .. } = conn.stage
            && conn.shut
            && lane.mux.has_sent_fin(key)
        {
            lane.mux.release(key, &self.shared.budget);
            lane.count_stream(-1);
            self.forget(index, None);
        }
    }

    /// The peer's direction has ended: so does ours toward the application, once all is written. The lane is taken out of its place.
    pub(super) fn shut_on(&mut self, lane: &mut Lane, index: u32) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        match conn.shut_if_due() {
            Ok(()) => self.finish_on(lane, index),
            Err(error) => {
                let class = conn.own_class();
                self.abort_on(lane, index, class, &error.to_string());
            }
        }
    }

    /// The application's socket failed, or the stream has to go for a reason of ours: reset both sides. The lane is in its place.
    pub(super) fn abort(&mut self, index: u32, class: Class, reason: &str) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        match conn.stage {
            Stage::Streaming { lane, key }
            | Stage::Asking { lane, key, .. }
            | Stage::Connecting { lane, key, .. } => {
                if let Some(Some(owner)) = self.lanes.get_mut(lane) {
                    owner.mux.reset(key, class, reason, &self.shared.budget);
                    owner.count_stream(-1);
                }
                self.soil(lane);
            }
            Stage::Paired { other, .. } => {
                if let Some(conn) = self.conn(other) {
                    // Otherwise it would come back to us.
                    conn.stage = Stage::Parked(Box::default());
                    self.forget(other.0, Some((class, reason)));
                }
            }
            Stage::PairConnecting { client, .. } => {
                if let Some(conn) = self.conn(client) {
                    conn.stage = Stage::Parked(Box::default());
                    self.forget(client.0, Some((class, reason)));
                }
            }
            Stage::Greeting { .. }
            | Stage::Parked(_)
            | Stage::Waiting { .. }
            | Stage::PairWaiting { .. } => {}
        }
        self.forget(index, Some((class, reason)));
    }

    /// The same for a stream whose lane is taken out of its place.
    pub(super) fn abort_on(&mut self, lane: &mut Lane, index: u32, class: Class, reason: &str) {
        if let Some(conn) = self.conns.get(index as usize)
            && let Stage::Streaming { key, .. }
            | Stage::Asking { key, .. }
            | Stage::Connecting { key, .. } = conn.stage
        {
            lane.mux.reset(key, class, reason, &self.shared.budget);
            lane.count_stream(-1);
        }
        self.forget(index, Some((class, reason)));
    }

    /// Close the application's socket (with RST if it did not end cleanly), write the record, and free the place. The mux has
    /// forgotten the stream already.
    pub(super) fn forget(&mut self, index: u32, end: Option<(Class, &str)>) {
        let Some(mut conn) = self.conns.try_remove(index as usize) else {
            return;
        };
        if let Some((class, reason)) = end {
            if let Some(embedded) = &conn.embedded {
                embedded.set_broken(class);
                if !conn.record.answered && conn.ingress {
                    self.shared.events.push(Event::Opened {
                        stream: embedded.id,
                        class: class.word(),
                        reason: reason.to_owned(),
                    });
                }
            }
        } else {
            conn.socket.deliver_on_close();
        }
        let _ = conn.socket.deregister(self.poll.registry());
        self.shared.budget.release(conn.reserved);
        self.write_record(&conn, end);
        if self.conns.is_empty() && self.conns.capacity() > 64 {
            self.conns.shrink_to_fit();
            self.trim = true;
        }
    }

    fn write_record(&self, conn: &Conn, end: Option<(Class, &str)>) {
        use std::sync::atomic::Ordering::Relaxed;
        let record = &conn.record;
        let shared = &self.shared;
        // One record for a pair: the client's.
        let is_half_of_pair = record.peer.is_none() && !conn.ingress;
        if record.counted {
            if !is_half_of_pair {
                shared.streams_open.fetch_sub(1, Relaxed);
            }
            if let Some(listener) = &record.listener {
                listener.tally.open.fetch_sub(1, Relaxed);
            }
            if let Some(target) = &record.target {
                target.tally.open.fetch_sub(1, Relaxed);
            }
        }
        if is_half_of_pair {
            return;
        }
        let client_left = matches!(end, Some((Class::Client, _)));
        if !record.answered && !client_left {
            shared.streams_refused.fetch_add(1, Relaxed);
        } else if end.is_some() {
            shared.streams_reset.fetch_add(1, Relaxed);
        }
        let (class, reason) = end.unwrap_or((Class::Link, ""));
        let nothing: Arc<str> = Arc::from("");
        shared.events.stream_ended(StreamEndEvent {
            uuid: record.uuid,
            routing_key: Arc::clone(&record.routing_key),
            listener: record
                .listener
                .as_ref()
                .map_or_else(|| Arc::clone(&nothing), |l| Arc::clone(&l.name)),
            connector: record
                .target
                .as_ref()
                .map(|t| Arc::clone(&t.name))
                .or_else(|| record.connector.clone())
                .unwrap_or(nothing),
            router: record.peer.map(|r| r.to_string()).unwrap_or_default(),
            stream_class: if end.is_some() { class.word() } else { "" },
            reason: reason.to_owned(),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration: self
                .now
                .saturating_duration_since(record.started)
                .as_secs_f64(),
        });
    }
}
