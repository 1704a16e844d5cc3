//! One stream as its lane sees it.

use std::time::{Duration, Instant};

use crate::credit::{Budget, FLOOR, RecvWindow};
use crate::payload::Class;

/// What is true of a stream, and what is to be written about it.
pub(super) struct Flags;

impl Flags {
    /// We opened it and have no answer.
    pub const ASKED: u16 = 1 << 0;
    /// The peer opened it and has no answer.
    pub const ASKING: u16 = 1 << 1;
    pub const FIN_SENT: u16 = 1 << 2;
    pub const FIN_RECEIVED: u16 = 1 << 3;
    /// The application has bytes, or an end, for us.
    pub const READABLE: u16 = 1 << 4;
    /// In the queue of streams that were idle, or of those with more.
    pub const QUEUED: u16 = 1 << 5;
    pub const IN_URGENT: u16 = 1 << 6;
    pub const WANT_OK: u16 = 1 << 7;
    pub const WANT_CREDIT: u16 = 1 << 8;
    pub const WANT_RETURN: u16 = 1 << 9;
    pub const WANT_RESET: u16 = 1 << 10;
    /// Refused by us: an OPEN_ERR is to be written.
    pub const WANT_ERR: u16 = 1 << 11;
    /// Ended; only what is to be written keeps it.
    pub const GONE: u16 = 1 << 12;
    /// DATA of the opener came: no EARLY may follow.
    pub const SAW_DATA: u16 = 1 << 13;
    /// The application has ended, perhaps behind bytes that are not read yet: FIN needs no credit.
    pub const ENDING: u16 = 1 << 14;
}

#[derive(Debug)]
pub(super) struct Stream {
    pub id: u32,
    pub owner: u32,
    flags: u16,
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
    /// Credit to be granted with the next CREDIT.
    pub due: u32,
    pub last_sent: Instant,
    pub end: Option<(Class, Box<str>)>,
}

impl Stream {
    pub fn new(id: u32, owner: u32, flags: u16, window: RecvWindow, now: Instant) -> Self {
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
            due: 0,
            last_sent: now,
            end: None,
        }
    }

    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub const fn set(&mut self, flag: u16) {
        self.flags |= flag;
    }

    pub const fn clear(&mut self, flag: u16) {
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
        if self.has(Flags::FIN_SENT | Flags::GONE | Flags::ASKING) {
            0
        } else if self.has(Flags::ASKED) {
            self.early_room as u32
        } else {
            self.credit
        }
    }

    /// Whether its end may be looked for without credit.
    pub const fn may_end(&self) -> bool {
        self.has(Flags::ENDING) && !self.has(Flags::FIN_SENT | Flags::GONE | Flags::ASKING)
    }

    pub fn is_idle_with_credit(&self, now: Instant, idle: Duration) -> bool {
        !self.has(Flags::GONE | Flags::FIN_SENT | Flags::ASKED | Flags::ASKING | Flags::READABLE)
            && self.credit > FLOOR
            && now.saturating_duration_since(self.last_sent) >= idle
    }
}
