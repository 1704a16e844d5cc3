//! Credit: what a receiver permits, and the budget that backs it (`docs/wire-protocol.md`, section 6).
//!
//! Credit is reserved when it is granted, so whatever a peer may send can be stored. Half of the budget backs a floor per
//! stream and received direction; the other half backs windows above the floor. Time is an argument; the only shared state
//! is the two counters of [`Budget`].
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Credit that every admitted stream's received direction always has, in bytes: enough that nothing admitted can starve.
pub const FLOOR: u32 = 2_048;
/// Window that a stream starts with if there is room: one bandwidth-delay product of a fast short path.
pub const INITIAL_WINDOW: u32 = 65_536;
/// Largest window: 100 ms at 640 Mbit/s; more per stream would let a few streams hold the whole budget.
pub const MAX_WINDOW: u32 = 8 << 20;
/// Round trips are taken as at least this long when windows are tuned, so that batches on a short path can be large.
const SHORTEST_RTT: Duration = Duration::from_millis(1);

/// The bytes that one process may have granted and buffered. Shared by all workers; never blocks.
#[derive(Debug)]
pub struct Budget {
    floors: Pool,
    windows: Pool,
}

#[derive(Debug)]
struct Pool {
    capacity: u64,
    used: AtomicU64,
}

impl Pool {
    fn take(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let after = used.checked_add(bytes)?;
                (after <= self.capacity).then_some(after)
            })
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more given back than was taken");
    }

    fn free(&self) -> u64 {
        self.capacity
            .saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

impl Budget {
    /// A budget of `bytes`, half for floors and half for windows.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let half = bytes / 2;
        let pool = |capacity| Pool {
            capacity,
            used: AtomicU64::new(0),
        };
        Self {
            floors: pool(half),
            windows: pool(half),
        }
    }

    /// Reserve the floor of one direction. `false`: the stream must be refused (class resource).
    #[must_use]
    pub fn reserve_floor(&self) -> bool {
        self.floors.take(u64::from(FLOOR))
    }

    /// Give back the floor of one direction.
    pub fn release_floor(&self) {
        self.floors.give_back(u64::from(FLOOR));
    }

    /// Reserve `bytes` above the floors, all or nothing.
    #[must_use]
    pub fn reserve(&self, bytes: u32) -> bool {
        bytes == 0 || self.windows.take(u64::from(bytes))
    }

    /// Give back bytes above the floors.
    pub fn release(&self, bytes: u32) {
        if bytes > 0 {
            self.windows.give_back(u64::from(bytes));
        }
    }

    /// Bytes reserved now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.floors.used.load(Ordering::Relaxed) + self.windows.used.load(Ordering::Relaxed)
    }

    /// Near the budget: windows shrink from 85 % of their half on.
    fn is_tight(&self) -> bool {
        self.windows.free() < self.windows.capacity * 15 / 100
    }
}

/// The receiver's side of one direction of one stream.
///
/// Invariant: `outstanding + stored <= window == FLOOR + reserved`, where `window` bytes are reserved in the budget.
#[derive(Debug)]
pub struct RecvWindow {
    /// Bytes reserved above the floor.
    reserved: u32,
    /// Granted, not yet received.
    outstanding: u32,
    /// Received, not yet consumed.
    stored: u32,
    /// When credit was last granted; tells how fast the window is used.
    granted_at: Instant,
}

/// A peer sent more than it was permitted, or gave back more than it had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CreditViolation;

impl RecvWindow {
    /// Reserve a direction; its initial credit is [`RecvWindow::outstanding`]. `None`: not even the floor fits.
    #[must_use]
    pub fn open(budget: &Budget, now: Instant) -> Option<Self> {
        if !budget.reserve_floor() {
            return None;
        }
        let above = INITIAL_WINDOW - FLOOR;
        let reserved = if !budget.is_tight() && budget.reserve(above) {
            above
        } else {
            0
        };
        Some(Self {
            reserved,
            outstanding: FLOOR + reserved,
            stored: 0,
            granted_at: now,
        })
    }

    /// Give everything back. Must be called exactly once, at the end of the stream.
    pub fn close(&mut self, budget: &Budget) {
        budget.release_floor();
        budget.release(self.reserved);
        self.reserved = 0;
        self.outstanding = 0;
    }

    /// Granted and not yet received, in bytes.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Received and not yet consumed, in bytes.
    #[must_use]
    pub const fn stored(&self) -> u32 {
        self.stored
    }

    /// The span in bytes.
    #[must_use]
    #[inline]
    pub const fn window(&self) -> u32 {
        FLOOR + self.reserved
    }

    /// `bytes` arrived.
    ///
    /// # Errors
    /// When they were not granted.
    #[inline]
    pub fn received(&mut self, bytes: u32) -> Result<(), CreditViolation> {
        self.outstanding = self.outstanding.checked_sub(bytes).ok_or(CreditViolation)?;
        self.stored += bytes;
        Ok(())
    }

    /// `bytes` were consumed. Says how much credit to grant now, 0 for none yet.
    #[must_use]
    #[inline]
    pub fn consumed(&mut self, bytes: u32, budget: &Budget, rtt: Duration, now: Instant) -> u32 {
        debug_assert!(bytes <= self.stored, "more consumed than was stored");
        self.stored = self.stored.saturating_sub(bytes);
        let in_use = self.outstanding + self.stored;
        if self.window() - in_use < self.window() / 2 {
            return 0;
        }
        self.grant(in_use, budget, rtt, now)
    }

    /// Half of the window is used up: once in dozens of frames.
    #[inline(never)]
    fn grant(&mut self, in_use: u32, budget: &Budget, rtt: Duration, now: Instant) -> u32 {
        let fast = now.duration_since(self.granted_at) < 2 * rtt.max(SHORTEST_RTT);
        self.granted_at = now;
        if budget.is_tight() {
            self.shrink_to((self.window() / 2).max(in_use), budget);
        } else if self.window() < INITIAL_WINDOW {
            self.grow_to(INITIAL_WINDOW, budget);
        } else if fast {
            self.grow_to(self.window().saturating_mul(2).min(MAX_WINDOW), budget);
        }
        let grant = self.window() - in_use;
        self.outstanding += grant;
        grant
    }

    /// The sender gave `bytes` back.
    ///
    /// # Errors
    /// When it did not hold them.
    pub fn returned(&mut self, bytes: u32, budget: &Budget) -> Result<(), CreditViolation> {
        self.outstanding = self.outstanding.checked_sub(bytes).ok_or(CreditViolation)?;
        self.shrink_to(self.outstanding + self.stored, budget);
        Ok(())
    }

    fn grow_to(&mut self, window: u32, budget: &Budget) {
        let more = window.saturating_sub(self.window());
        if u64::from(window) <= budget.windows.free() / 8 && budget.reserve(more) {
            self.reserved += more;
        }
    }

    fn shrink_to(&mut self, window: u32, budget: &Budget) {
        let reserved = window.max(FLOOR) - FLOOR;
        if let Some(less) = self.reserved.checked_sub(reserved) {
            budget.release(less);
            self.reserved = reserved;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(10);

    #[test]
    fn a_stream_starts_with_64_kib_if_there_is_room_and_with_the_floor_if_not() {
        let now = Instant::now();
        let budget = Budget::new(256 * 1024);
        let first = RecvWindow::open(&budget, now).unwrap();
        assert_eq!(first.outstanding(), INITIAL_WINDOW);
        let second = RecvWindow::open(&budget, now).unwrap();
        assert_eq!(second.outstanding(), INITIAL_WINDOW);
        let third = RecvWindow::open(&budget, now).unwrap();
        assert_eq!(third.outstanding(), FLOOR);
    }

    #[test]
    fn a_stream_whose_floor_does_not_fit_is_not_admitted() {
        let now = Instant::now();
        let budget = Budget::new(u64::from(2 * FLOOR));
        let mut only = RecvWindow::open(&budget, now).unwrap();
        assert!(RecvWindow::open(&budget, now).is_none());
        only.close(&budget);
        assert_eq!(budget.used(), 0);
        assert!(RecvWindow::open(&budget, now).is_some());
    }

    #[test]
    fn a_window_that_is_used_in_under_two_round_trips_doubles_and_a_slow_one_does_not() {
        let start = Instant::now();
        let budget = Budget::new(128 << 20);
        let mut window = RecvWindow::open(&budget, start).unwrap();
        window.received(40_000).unwrap();
        let grant = window.consumed(40_000, &budget, RTT, start + RTT);
        assert_eq!(window.window(), 2 * INITIAL_WINDOW);
        assert_eq!(grant, 40_000 + INITIAL_WINDOW);
        window.received(80_000).unwrap();
        let grant = window.consumed(80_000, &budget, RTT, start + 4 * RTT);
        assert_eq!(window.window(), 2 * INITIAL_WINDOW);
        assert_eq!(grant, 80_000);
    }

    proptest! {
        #[test]
        fn credit_is_conserved_and_always_reserved(
            steps in prop::collection::vec((0u8..4, 0u32..200_000, 0u64..30), 1..200),
            capacity in 8_192u64..4_000_000,
        ) {
            let mut now = Instant::now();
            let budget = Budget::new(capacity);
            let mut window = RecvWindow::open(&budget, now).unwrap();
            let (mut granted, mut received, mut consumed, mut returned) = (u64::from(window.outstanding()), 0u64, 0u64, 0u64);
            for (what, amount, millis) in steps {
                now += Duration::from_millis(millis);
                match what {
                    0 => {
                        let bytes = amount.min(window.outstanding());
                        window.received(bytes).unwrap();
                        received += u64::from(bytes);
                    }
                    1 => {
                        let bytes = amount.min(window.stored());
                        granted += u64::from(window.consumed(bytes, &budget, RTT, now));
                        consumed += u64::from(bytes);
                    }
                    2 => {
                        let bytes = amount.min(window.outstanding());
                        window.returned(bytes, &budget).unwrap();
                        returned += u64::from(bytes);
                    }
                    _ => prop_assert_eq!(window.received(window.outstanding() + 1), Err(CreditViolation)),
                }
                prop_assert_eq!(granted, received + returned + u64::from(window.outstanding()));
                prop_assert_eq!(received, consumed + u64::from(window.stored()));
                prop_assert!(window.outstanding() + window.stored() <= window.window());
                prop_assert_eq!(budget.used(), u64::from(window.window()));
                prop_assert!(window.window() >= FLOOR && window.window() <= MAX_WINDOW);
            }
            window.close(&budget);
            prop_assert_eq!(budget.used(), 0);
        }
    }
}
