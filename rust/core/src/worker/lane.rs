//! One lane: what it holds, how it begins, how alive it is, and how it ends. `reading` and `writing` move its bytes.

mod reading;
mod retiring;
mod writing;

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::Interest;
use mio::event::Event as ReadyEvent;
use mio::net::TcpStream;

use super::conn::Stage;
use super::transit::crossing::{Crossing, Spare};
use super::transit::{Segment, is_hop};
use super::waiting::Waiting;
use super::{Source, Worker, token};
use crate::control::EstablishedLane;
use crate::frame::MAX_FRAME;
use crate::handshake::FEATURE_MOVE;
use crate::mux::{Liveness, Mux, MuxConfig};
use crate::payload::{Class, GoAway};
use crate::record::{MAX_RECORD, RECORD_OVERHEAD, Records, sealed_len};
use crate::trunk::{LaneHealth, LaneRef, Trunk};

/// Plaintext of one write: 16 full frames. 128 to 256 KiB is the knee, and stays in the L2 cache.
const BATCH: usize = 16 * MAX_FRAME;
/// Urgent frames up to this size go into the same records as the data behind them; larger ones are sealed on their own.
const URGENT_IN_BATCH: usize = 16_384;
/// Room behind a full batch for the FIN of the stream that filled it.
const FIN_ROOM: usize = 64;
/// Room for the records that are not full because something is sealed beside the batch: two for each of at most 32.
const SEGMENTS_ROOM: usize = 64 * RECORD_OVERHEAD;
/// Ciphertext of one read.
const READ: usize = 256 * 1024;
/// Slices of one stream that are written together.
pub(super) const GROUP: usize = 20;
/// Batches that one lane may write, and reads that it may do, before the others get their turn.
const ROUNDS: usize = 2;
/// Largest control message.
const MAX_MESSAGE: usize = 65_536;
/// Control messages that wait for credit.
pub(crate) const MOST_MESSAGES: usize = 64;
/// Bytes of control messages in one batch: an eighth of it.
const CONTROL_SHARE: usize = BATCH / 8;

/// Buffers that all lanes of a worker use in turn.
pub(super) struct Scratch {
    /// Plaintext going out.
    pub batch: Box<[u8]>,
    /// Frames without payload going out.
    urgent: Vec<u8>,
    /// Records going out.
    sealed: Box<[u8]>,
    /// Records coming in.
    records: Box<[u8]>,
    /// Plaintext coming in, behind the start of a frame from the read before.
    plain: Box<[u8]>,
    /// Bytes of a pair.
    pub pair: Box<[u8]>,
    /// What goes out beside the batch, in order.
    pub segments: Vec<Segment>,
    pub spare: Spare,
}

impl Scratch {
    pub fn new() -> Self {
        let zeros = |len| vec![0; len].into_boxed_slice();
        Self {
            batch: zeros(BATCH + URGENT_IN_BATCH + FIN_ROOM),
            urgent: Vec::new(),
            sealed: zeros(sealed_len(BATCH + URGENT_IN_BATCH + FIN_ROOM) + SEGMENTS_ROOM),
            records: zeros(READ + 2 * MAX_RECORD),
            plain: zeros(MAX_FRAME + READ + 2 * MAX_RECORD + 1),
            pair: zeros(65_536),
            segments: Vec::new(),
            spare: Spare::default(),
        }
    }
}

/// One lane. See the module.
pub(super) struct Lane {
    generation: u32,
    socket: TcpStream,
    records: Records,
    pub mux: Mux,
    pub reference: Arc<LaneRef>,
    pub trunk: Arc<Trunk>,
    /// The start of a record that has not arrived whole.
    partial_record: Vec<u8>,
    /// The start of a frame that has not arrived whole.
    partial_frame: Vec<u8>,
    /// Records that the kernel did not take yet, at most one batch and what TLS itself has to say.
    unsent: Vec<u8>,
    unsent_at: usize,
    writable: bool,
    /// The kernel has seen the peer's end: a short read does not mean that there is no more.
    read_closed: bool,
    pub dirty: bool,
    /// Control messages: incoming, not whole yet; outgoing, and how far the first is sent.
    message_in: Vec<u8>,
    messages: VecDeque<Vec<u8>>,
    message_at: usize,
    carried_messages: bool,
    /// Connections and streams that cross, which wait for open credit.
    pub waiting: Waiting,
    /// OPENs that connections were offered and have not decided about yet: nobody else may send them.
    pub promised: u32,
    /// Streams that cross, whose OPEN waits for its batch: with so much early data, and perhaps with their end.
    pub opened: Vec<(Arc<Crossing>, u32, bool)>,
    /// It closes with its last stream.
    retired: bool,
}

impl Lane {
    /// A stream came or went.
    pub fn count_stream(&self, by: i32) {
        if by > 0 {
            self.reference.streams.fetch_add(1, Ordering::Relaxed);
        } else {
            let before = self.reference.streams.fetch_sub(1, Ordering::Relaxed);
            debug_assert!(before > 0, "a stream left twice");
        }
    }

    /// Say whether one more OPEN would have to wait here.
    pub fn note_open_credit(&self) {
        let has_some = self.mux.open_credit() as usize > self.waiting.len();
        let noted = &self.reference.has_open_credit;
        noted.store(has_some, Ordering::Relaxed);
    }

    fn has_output(&self) -> bool {
        self.unsent_at < self.unsent.len()
            || self.mux.has_output()
            || (!self.messages.is_empty() && self.mux.control_room() > 0)
    }
}

impl Worker {
    pub(super) fn add_lane(
        &mut self,
        established: EstablishedLane,
        reference: Arc<LaneRef>,
        trunk: Arc<Trunk>,
        is_first: bool,
    ) {
        let generation = self.next_generation();
        let timing = self.shared.timing;
        let mut mux = Mux::new(
            MuxConfig {
                dialler: established.dialler,
                ours: established.peer.credit,
                theirs: established.granted,
                moves: established.peer.features & FEATURE_MOVE != 0,
                max_streams: timing.max_streams,
                suspect_after: timing.suspect_after,
                dead_after: timing.dead_after,
            },
            self.now,
        );
        mux.reserve_early(&self.shared.budget);
        let mut lane = Box::new(Lane {
            generation,
            socket: established.socket,
            records: established.records,
            mux,
            reference,
            trunk,
            partial_record: established.incoming,
            partial_frame: established.plain,
            unsent: established.outgoing,
            unsent_at: 0,
            writable: true,
            read_closed: false,
            dirty: false,
            message_in: Vec::new(),
            messages: VecDeque::new(),
            message_at: 0,
            carried_messages: false,
            waiting: Waiting::default(),
            promised: 0,
            opened: Vec::new(),
            retired: false,
        });
        let entry = self.lanes.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(
            &mut lane.socket,
            token(Source::Lane, key, generation),
            interest,
        );
        self.lane_keys.insert(lane.reference.id, key);
        lane.note_open_credit();
        let trunk = Arc::clone(&lane.trunk);
        let reference = Arc::clone(&lane.reference);
        entry.insert(Some(lane));
        if registered.is_err() {
            self.close_lane(key, None, "no file descriptor left for it");
            return;
        }
        // From now on others may choose it: whatever they send here finds it.
        reference.set_health(LaneHealth::Open);
        self.shared.publish_trunk(&trunk);
        if is_first {
            self.shared.events.messages_reset(trunk.router);
        }
        self.trunk_changed(&trunk);
        self.unread.push(key);
        self.soil(key);
    }

    pub(super) fn lane_event(&mut self, key: usize, generation: u32, event: &ReadyEvent) {
        let Some(Some(lane)) = self.lanes.get_mut(key) else {
            return;
        };
        if lane.generation != generation {
            return;
        }
        if event.is_writable() {
            lane.writable = true;
        }
        lane.read_closed |= event.is_read_closed();
        if event.is_writable() {
            self.soil(key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read_lane(key);
        }
    }

    pub(super) fn queue_message(&mut self, lane: u64, trunk: &Trunk, message: &[u8]) {
        let Some(&key) = self.lane_keys.get(&lane) else {
            // The lane is gone; the plane has told the control plane that messages may be lost.
            trunk.messages.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        if let Some(Some(lane)) = self.lanes.get_mut(key) {
            let mut bytes = (message.len() as u32).to_be_bytes().to_vec();
            bytes.extend_from_slice(message);
            lane.messages.push_back(bytes);
            lane.carried_messages = true;
            self.soil(key);
        }
    }

    fn trunk_changed(&self, trunk: &Arc<Trunk>) {
        if let Some(tell) = self.shared.on_trunk.get() {
            (tell.0)(trunk);
        }
    }

    pub(super) fn tick_lanes(&mut self) {
        for key in self.lane_indices() {
            let Some(Some(lane)) = self.lanes.get_mut(key) else {
                continue;
            };
            if lane.unsent_at == lane.unsent.len() {
                lane.mux.wrote(kernel_holds(&lane.socket), self.now);
            }
            if lane.mux.is_used_up() && lane.reference.health() < LaneHealth::Leaving {
                lane.reference.set_health(LaneHealth::Leaving);
                lane.mux
                    .go_away(GoAway::Replaced, "its stream ids are used up");
                self.shared.publish_trunk(&lane.trunk);
                let trunk = Arc::clone(&lane.trunk);
                self.trunk_changed(&trunk);
            }
            let Some(Some(lane)) = self.lanes.get_mut(key) else {
                continue;
            };
            // Those that gave up waiting.
            let mut waiting = std::mem::take(&mut lane.waiting);
            waiting.retain(|id| {
                if is_hop(id.0) {
                    return self.hop_waits(*id);
                }
                let conn = self.conns.get(id.0 as usize);
                conn.is_some_and(|c| c.generation == id.1)
            });
            let overdue: Vec<u32> = waiting
                .iter()
                .map(|id| id.0)
                .filter(|owner| is_hop(*owner) && self.is_overdue(*owner))
                .collect();
            for owner in overdue {
                let reason = "the next router does not answer OPENs fast enough";
                self.refuse_crossing(owner, Class::Resource, reason);
            }
            let Some(Some(lane)) = self.lanes.get_mut(key) else {
                continue;
            };
            lane.waiting = waiting;
            if !lane.waiting.is_empty() && lane.mux.open_credit() > 0 {
                // Whoever was offered it is gone.
                self.serve_waiting(key);
            }
            let Some(Some(lane)) = self.lanes.get_mut(key) else {
                continue;
            };
            let health = lane.reference.health();
            let others = lane.trunk.others(lane.reference.id);
            let verdict = lane.mux.tick_among(others, self.now);
            lane.reference.set_silent(lane.mux.is_silent());
            match verdict {
                Liveness::Alive => {
                    if lane.has_output() {
                        self.soil(key);
                    }
                }
                Liveness::Suspect => {
                    if health == LaneHealth::Open && lane.reference.set_health(LaneHealth::Suspect)
                    {
                        self.shared.publish_trunk(&lane.trunk);
                        self.leave_suspect(key);
                    }
                    self.soil(key);
                }
                Liveness::Dead => {
                    let reason =
                        format!("nothing was heard for {:?}", self.shared.timing.dead_after);
                    self.close_lane(key, None, &reason);
                }
            }
            if let Some(Some(lane)) = self.lanes.get_mut(key) {
                let rtt = lane.mux.rtt().as_secs_f64();
                lane.trunk.update(|facts| facts.rtt = rtt);
                // The last of it may be an end, or an answer to a move, that the peer has not read.
                let is_over = lane.mux.stream_count() == 0
                    && !lane.has_output()
                    && !kernel_holds(&lane.socket);
                if health == LaneHealth::Leaving && is_over {
                    // Replaced, and its last stream has ended.
                    if lane.mux.peer_leaving() == Some(GoAway::Replaced)
                        || lane.mux.is_used_up()
                        || lane.retired
                    {
                        self.close_lane(key, Some(GoAway::Shutdown), "replaced");
                    }
                }
            }
        }
    }

    /// Streams without early data that wait for an answer on a suspect lane are opened elsewhere, where there is an elsewhere.
    fn leave_suspect(&mut self, key: usize) {
        let Some(Some(lane)) = self.lanes.get_mut(key) else {
            return;
        };
        let owners: Vec<u32> = lane.mux.owners().collect();
        let router = lane.trunk.router;
        let another_lane = lane.trunk.health() == LaneHealth::Open;
        for owner in owners {
            if is_hop(owner) {
                if let Some(mut lane) = self.lanes.get_mut(key).and_then(Option::take) {
                    self.hop_on_suspect(&mut lane, owner);
                    if let Some(place) = self.lanes.get_mut(key) {
                        *place = Some(lane);
                    }
                }
                continue;
            }
            let Some(conn) = self.conns.get(owner as usize) else {
                continue;
            };
            if let Stage::Asking {
                opening,
                key: stream,
                ..
            } = &conn.stage
                && opening.early.is_empty()
                && (another_lane || self.has_elsewhere(owner, router))
            {
                let stream = *stream;
                if let Some(Some(lane)) = self.lanes.get_mut(key) {
                    lane.mux
                        .reset(stream, Class::Link, "suspect", &self.shared.budget);
                    lane.count_stream(-1);
                }
                self.ask_again(owner);
            }
        }
        self.soil(key);
    }

    /// Close a lane: say why if we can, reset its streams, open those again that may be, and tell everybody.
    pub(super) fn close_lane(&mut self, key: usize, code: Option<GoAway>, reason: &str) {
        let Some(mut lane) = self.lanes.get_mut(key).and_then(Option::take) else {
            return;
        };
        self.lanes.remove(key);
        self.lane_keys.remove(&lane.reference.id);
        self.dirty.retain(|k| *k != key);
        self.unread.retain(|k| *k != key);
        if let Some(code) = code {
            self.say_goodbye(&mut lane, code, reason);
        }
        lane.reference.set_health(LaneHealth::Gone);
        let was_first = lane.trunk.remove(lane.reference.id);
        let lost = lane.messages.len();
        lane.trunk.messages.fetch_sub(lost, Ordering::Relaxed);
        lane.trunk
            .update(|facts| reason.clone_into(&mut facts.error));
        self.withdraw_moves(&lane);
        let owners: Vec<u32> = lane.mux.owners().collect();
        for owner in owners {
            if is_hop(owner) {
                self.hop_lost(&lane, owner, reason);
            } else {
                self.lane_lost(owner, reason);
            }
        }
        lane.mux.close(&self.shared.budget);
        if !lane.trunk.is_up() {
            self.end_parked_of(&lane.trunk, reason);
        }
        let waiting = std::mem::take(&mut lane.waiting);
        self.turn_away(&waiting);
        let _ = self.poll.registry().deregister(&mut lane.socket);
        self.own_lanes.fetch_sub(1, Ordering::Relaxed);
        self.shared.publish_trunk(&lane.trunk);
        // Also of the last lane: another one may be on its way, which does not find the trunk gone.
        if was_first || lane.carried_messages {
            self.shared.events.messages_reset(lane.trunk.router);
        }
        self.trunk_changed(&lane.trunk);
    }

    /// Those that wait for open credit of a lane that will give none.
    fn turn_away(&mut self, waiting: &Waiting) {
        for &id in waiting.iter() {
            if !is_hop(id.0) {
                self.undecided.push(id);
            } else if self.hop_waits(id) {
                self.refuse_crossing(id.0, Class::Link, "the lane ahead is leaving");
            }
        }
    }

    /// GOAWAY and close_notify, as far as the kernel takes them now.
    fn say_goodbye(&mut self, lane: &mut Lane, code: GoAway, reason: &str) {
        lane.mux.go_away(code, reason);
        let mut last = Vec::new();
        lane.mux.put_urgent(&mut last, &self.shared.budget);
        if lane.records.seal(&last, &mut lane.unsent).is_ok() {
            lane.records.close(&mut lane.unsent);
        }
        lane.writable = true;
        let _ = Self::write_unsent(lane, self.now);
    }

    /// The lane under a stream is gone. What was opened and not answered, and carried no data, is opened elsewhere.
    fn lane_lost(&mut self, owner: u32, reason: &str) {
        let Some(conn) = self.conns.get(owner as usize) else {
            return;
        };
        let again =
            matches!(&conn.stage, Stage::Asking { opening, .. } if opening.early.is_empty());
        if again {
            self.ask_again(owner);
        } else {
            self.forget(owner, Some((Class::Link, reason)));
        }
    }
}

/// Whether the kernel holds bytes that the peer has not acknowledged.
fn kernel_holds(socket: &TcpStream) -> bool {
    let mut held: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ) writes one int, and the descriptor is open as long as `socket` lives.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut held) };
    done == 0 && held > 0
}
