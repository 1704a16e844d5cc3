//! One stream as its lane sees it.

use std::time::{Duration, Instant};

use crate::credit::{Budget, FLOOR, RecvWindow};
use crate::mux::meter::Meter;
use crate::payload::Class;

/// What is true of a stream, and what is to be written about it.
pub(super) struct Flags;

impl Flags {
    /// We opened it and have no answer.
    pub const ASKED: u32 = 1 << 0;
    /// The peer opened it and has no answer.
    pub const ASKING: u32 = 1 << 1;
    pub const FIN_SENT: u32 = 1 << 2;
    pub const FIN_RECEIVED: u32 = 1 << 3;
    /// The application has bytes, or an end, for us.
    pub const READABLE: u32 = 1 << 4;
    /// In the queue of streams that were idle, or of those with more.
    pub const QUEUED: u32 = 1 << 5;
    pub const IN_URGENT: u32 = 1 << 6;
    pub const WANT_OK: u32 = 1 << 7;
    pub const WANT_CREDIT: u32 = 1 << 8;
    pub const WANT_RETURN: u32 = 1 << 9;
    pub const WANT_RESET: u32 = 1 << 10;
    /// Refused by us: an OPEN_ERR is to be written.
    pub const WANT_ERR: u32 = 1 << 11;
    /// Ended; only what is to be written keeps it.
    pub const GONE: u32 = 1 << 12;
    /// DATA of the opener came: no EARLY may follow.
    pub const SAW_DATA: u32 = 1 << 13;
    /// The application has ended, perhaps behind bytes that are not read yet: FIN needs no credit.
    pub const ENDING: u32 = 1 << 14;
    /// It asks to leave the lane: nothing may be sent on it.
    pub const MOVING: u32 = 1 << 15;
    /// And the MOVE is to be written.
    pub const WANT_MOVE: u32 = 1 << 16;
    /// The peer asked for it and gets no.
    pub const WANT_NO: u32 = 1 << 17;
    /// The peer said no.
    pub const STAYS: u32 = 1 << 18;
    /// It moves much.
    pub const BULKY: u32 = 1 << 19;
}

#[derive(Debug)]
pub(super) struct Stream {
    pub id: u32,
    pub owner: u32,
    flags: u32,
    /// Early bytes that we may still send before the answer.
    pub early_room: u16,
    /// Bytes that the peer permits.
    pub credit: u32,
    /// Bytes sent and received, for FIN.
    pub sent: u64,
    pub received: u64,
    /// `None` once it is closed.
    window: Option<RecvWindow>,
    /// Early bytes received and not yet consumed; on the lane's account, not the window's.
    pub early_stored: u32,
    pub early_received: u32,
    pub meter: Meter,
    /// Credit to be granted with the next CREDIT.
    pub due: u32,
    pub last_sent: Instant,
    pub end: Option<(Class, Box<str>)>,
}

impl Stream {
    pub fn new(
        id: u32,
        owner: u32,
        flags: u32,
        window: RecvWindow,
        epoch: u16,
        now: Instant,
    ) -> Self {
        Self {
            id,
            owner,
            flags,
            early_room: 0,
            credit: 0,
            sent: 0,
            received: 0,
            window: Some(window),
            early_stored: 0,
            early_received: 0,
            meter: Meter::new(epoch),
            due: 0,
            last_sent: now,
            end: None,
        }
    }

    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub const fn has_both(&self, a: u32, b: u32) -> bool {
        self.has(a) && self.has(b)
    }

    pub const fn keep_only(&mut self, flags: u32) {
        self.flags &= flags;
    }

    pub const fn set(&mut self, flag: u32) {
        self.flags |= flag;
    }

    pub const fn clear(&mut self, flag: u32) {
        self.flags &= !flag;
    }

    pub const fn window_mut(&mut self) -> Option<&mut RecvWindow> {
        self.window.as_mut()
    }

    /// Credit outstanding toward the peer: what OPEN and OPEN_OK say at the start.
    pub fn granted(&self) -> u32 {
        self.window.as_ref().map_or(0, RecvWindow::outstanding)
    }

    pub fn close_window(&mut self, budget: &Budget) {
        if let Some(mut window) = self.window.take() {
            window.close(budget);
        }
    }

    /// How many bytes may be sent now.
    pub const fn may_send(&self) -> u32 {
        if self.has(Flags::FIN_SENT | Flags::GONE | Flags::ASKING | Flags::MOVING) {
            0
        } else if self.has(Flags::ASKED) {
            self.early_room as u32
        } else {
            self.credit
        }
    }

    /// Whether its end may be looked for without credit.
    pub const fn may_end(&self) -> bool {
        self.has(Flags::ENDING)
            && !self.has(Flags::FIN_SENT | Flags::GONE | Flags::ASKING | Flags::MOVING)
    }

    pub fn is_idle_with_credit(&self, now: Instant, idle: Duration) -> bool {
        !self.has(
            Flags::GONE
                | Flags::FIN_SENT
                | Flags::ASKED
                | Flags::ASKING
                | Flags::READABLE
                | Flags::MOVING,
        ) && self.credit > FLOOR
            && now.saturating_duration_since(self.last_sent) >= idle
    }
}
