//! What the plane has to tell the control plane: latest state in slots, a few bounded queues, and an eventfd that wakes the reader.
//!
//! Workers never wait here: every lock is held for a push or a swap.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::EventfdFlags;

use crate::contract::{Descriptor, Event, StreamEndEvent};
use crate::handshake::RouterId;
use crate::worker::Embedded;

/// End-of-stream records that wait at most; then the oldest is dropped and counted.
const MOST_ENDS: usize = 10_000;
/// Records that are taken at once, so that a burst of them does not become a burst of memory in the control plane.
const ENDS_AT_ONCE: usize = 256;
/// Streams for one embedded connector that wait at most.
pub const MOST_INCOMING: usize = 128;
/// Bytes of control messages that wait at most: the credit of 128 lanes. Lanes come and go; then the oldest inbox is lost.
const MOST_INBOXES: usize = 16 << 20;

/// Names a slot: a later event replaces an earlier one.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Slot {
    /// The generation in force.
    InForce,
    /// A listener, by name.
    Listener(String),
    /// An access, by name.
    Access(String),
    /// A connector, by name.
    Connector(String),
    /// A link, by the other router.
    Link(RouterId),
    /// Messages to and from this router may be lost.
    MessagesReset(RouterId),
    /// The order of these is kept, and none is replaced: dial results, visitors, streams.
    Queue(u64),
}

/// Control messages that came over one lane, back to back as on the wire (length u32, bytes); bounded by the lane's credit.
#[derive(Debug)]
struct Inbox {
    router: RouterId,
    worker: usize,
    lane: u64,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    order: VecDeque<Slot>,
    slots: HashMap<Slot, Event>,
    inboxes: VecDeque<Inbox>,
    inboxes_bytes: usize,
    serial: u64,
}

/// What was taken or waits, and was not served yet.
#[derive(Debug, Default)]
struct Unserved {
    /// Streams per connector: offered, and those of them that were taken.
    incoming: HashMap<String, usize>,
    taken_incoming: Vec<String>,
    messages: Vec<Taken>,
}

impl Unserved {
    /// One entry per lane, however often messages were taken: its credit goes back in one piece.
    fn took(&mut self, worker: usize, lane: u64, bytes: u32) {
        let same = |t: &&mut Taken| t.worker == worker && t.lane == lane;
        match self.messages.iter_mut().find(same) {
            Some(taken) => taken.bytes += bytes,
            None => self.messages.push(Taken {
                worker,
                lane,
                bytes,
            }),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Events {
    inner: Mutex<Inner>,
    ends: Mutex<VecDeque<StreamEndEvent>>,
    dropped: AtomicU64,
    signalled: AtomicBool,
    trim: AtomicBool,
    wake: OwnedFd,
    /// Streams whose other end is in this process.
    embedded: Mutex<HashMap<u64, Arc<Embedded>>>,
    next_embedded: AtomicU64,
    unserved: Mutex<Unserved>,
}

/// Control messages that were served: their credit goes back to the peer.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Which worker.
    pub worker: usize,
    /// Which lane of it.
    pub lane: u64,
    /// So many bytes.
    pub bytes: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Events {
    /// An empty set of slots.
    ///
    /// # Errors
    /// No file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            inner: Mutex::default(),
            ends: Mutex::default(),
            dropped: AtomicU64::new(0),
            signalled: AtomicBool::new(false),
            trim: AtomicBool::new(false),
            embedded: Mutex::default(),
            next_embedded: AtomicU64::new(1),
            unserved: Mutex::default(),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Becomes readable when there is something to take.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Replace what a slot says.
    pub fn set(&self, slot: Slot, event: Event) {
        {
            let mut inner = lock(&self.inner);
            if inner.slots.insert(slot.clone(), event).is_none() {
                inner.order.push_back(slot);
            }
        }
        self.signal();
    }

    /// Append an event that nothing replaces.
    pub fn push(&self, event: Event) {
        {
            let mut inner = lock(&self.inner);
            inner.serial += 1;
            let slot = Slot::Queue(inner.serial);
            inner.slots.insert(slot.clone(), event);
            inner.order.push_back(slot);
        }
        self.signal();
    }

    /// Messages to and from this router may have been lost.
    pub fn messages_reset(&self, router: RouterId) {
        self.set(
            Slot::MessagesReset(router),
            Event::MessagesReset {
                router: router.to_string(),
            },
        );
    }

    /// A whole control message arrived.
    pub fn message(&self, router: RouterId, worker: usize, lane: u64, message: &[u8]) {
        {
            let mut inner = lock(&self.inner);
            let at = inner
                .inboxes
                .iter()
                .position(|i| i.worker == worker && i.lane == lane);
            let at = at.unwrap_or_else(|| {
                inner.inboxes.push_back(Inbox {
                    router,
                    worker,
                    lane,
                    bytes: Vec::new(),
                });
                inner.inboxes.len() - 1
            });
            if let Some(inbox) = inner.inboxes.get_mut(at) {
                inbox
                    .bytes
                    .extend_from_slice(&(message.len() as u32).to_be_bytes());
                inbox.bytes.extend_from_slice(message);
                inner.inboxes_bytes += 4 + message.len();
            }
            while inner.inboxes_bytes > MOST_INBOXES
                && let Some(lost) = inner.inboxes.pop_front()
            {
                inner.inboxes_bytes -= lost.bytes.len();
                let slot = Slot::MessagesReset(lost.router);
                let event = Event::MessagesReset {
                    router: lost.router.to_string(),
                };
                if inner.slots.insert(slot.clone(), event).is_none() {
                    inner.order.push_back(slot);
                }
            }
        }
        self.signal();
    }

    /// A stream ended. Wakes nobody: [`Events::wake_for_ends`] does, now and then.
    pub fn stream_ended(&self, end: StreamEndEvent) {
        let mut ends = lock(&self.ends);
        if ends.len() >= MOST_ENDS {
            ends.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        ends.push_back(end);
    }

    /// Wake the reader if streams ended since it last took.
    pub fn wake_for_ends(&self) {
        if !lock(&self.ends).is_empty() {
            self.signal();
        }
    }

    /// Whether much memory was freed here since the last call.
    #[must_use]
    pub fn wants_trim(&self) -> bool {
        self.trim.swap(false, Ordering::Relaxed)
    }

    /// Records that were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// A stream whose other end is in this process.
    pub fn new_embedded(&self) -> Arc<Embedded> {
        let id = self.next_embedded.fetch_add(1, Ordering::Relaxed);
        let embedded = Arc::new(Embedded::new(id));
        lock(&self.embedded).insert(id, Arc::clone(&embedded));
        embedded
    }

    /// By its id.
    #[must_use]
    pub fn embedded(&self, id: u64) -> Option<Arc<Embedded>> {
        lock(&self.embedded).get(&id).cloned()
    }

    /// Nobody will ask for it again.
    pub fn forget_embedded(&self, id: u64) {
        lock(&self.embedded).remove(&id);
    }

    /// Offer a stream to an embedded connector; `inside` goes to whoever takes the event.
    ///
    /// # Errors
    /// Too many wait already.
    pub fn offer(
        &self,
        connector: &str,
        routing_key: &str,
        source: RouterId,
        inside: OwnedFd,
    ) -> std::io::Result<Arc<Embedded>> {
        {
            let mut unserved = lock(&self.unserved);
            let waiting = unserved.incoming.entry(connector.to_owned()).or_default();
            if *waiting >= MOST_INCOMING {
                return Err(std::io::Error::other("too many streams wait to be served"));
            }
            *waiting += 1;
        }
        let embedded = self.new_embedded();
        self.push(Event::Incoming {
            connector: connector.to_owned(),
            stream: embedded.id,
            fd: Descriptor(inside),
            routing_key: routing_key.to_owned(),
            source: source.to_string(),
        });
        Ok(embedded)
    }

    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Take everything, in order. What waits for whoever serves it counts as waiting until [`Events::settle`].
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        self.signalled.store(false, Ordering::Release);
        let mut inner = std::mem::take(&mut *lock(&self.inner));
        let mut events: Vec<Event> = inner
            .order
            .iter()
            .filter_map(|slot| inner.slots.remove(slot))
            .collect();
        let mut unserved = lock(&self.unserved);
        for event in &events {
            if let Event::Incoming { connector, .. } = event {
                unserved.taken_incoming.push(connector.clone());
            }
        }
        for inbox in inner.inboxes {
            let mut rest = inbox.bytes.as_slice();
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let Some((message, tail)) =
                    tail.split_at_checked(u32::from_be_bytes(*len) as usize)
                else {
                    break;
                };
                events.push(Event::Message {
                    router: inbox.router.to_string(),
                    data: message.to_vec(),
                });
                rest = tail;
            }
            unserved.took(inbox.worker, inbox.lane, inbox.bytes.len() as u32);
        }
        drop(unserved);
        let mut ends = lock(&self.ends);
        let now = ends.len().min(ENDS_AT_ONCE);
        events.extend(ends.drain(..now).map(|end| Event::StreamEnd(Box::new(end))));
        if ends.is_empty() {
            // Ten thousand records may have waited here; their memory should not.
            if ends.capacity() > ENDS_AT_ONCE {
                self.trim.store(true, Ordering::Relaxed);
            }
            *ends = VecDeque::new();
        } else {
            drop(ends);
            self.signal();
        }
        events
    }

    /// All that was taken is served: says which messages' credit goes back to the peers.
    #[must_use]
    pub fn settle(&self) -> Vec<Taken> {
        let mut unserved = lock(&self.unserved);
        for connector in std::mem::take(&mut unserved.taken_incoming) {
            if let Some(waiting) = unserved.incoming.get_mut(&connector) {
                *waiting -= 1;
                if *waiting == 0 {
                    unserved.incoming.remove(&connector);
                }
            }
        }
        std::mem::take(&mut unserved.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_one_lane_are_settled_in_one_piece_however_often_they_were_taken() {
        let events = Events::new().expect("a descriptor");
        let router = RouterId {
            site: [7; 32],
            boot: 1,
        };
        for lane in [3, 4, 3] {
            events.message(router, 0, lane, b"twelve bytes");
            assert_eq!(events.take().len(), 1);
        }
        let settled: Vec<_> = events.settle().iter().map(|t| (t.lane, t.bytes)).collect();
        assert_eq!(settled, [(3, 32), (4, 16)]);
        assert!(events.settle().is_empty());
    }
}
