//! Who may come in: how many connections may be under way to HELLO, and how many handshakes a source may ask for.
//!
//! Sans-IO: the time is an argument. All state is bounded, whatever the callers do.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use crate::limits;

/// Where a connection comes from, as far as limits go: an IPv4 address, or an IPv6 /64.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => {
                let prefix = u128::from(v6) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(prefix))
            }
        })
    }
}

impl Source {
    /// For limits of the whole process.
    const NOWHERE: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

/// Fills at a steady rate up to two seconds' worth; every use takes one.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: u32, now: Instant) -> Self {
        Self {
            tokens: 2.0 * f64::from(rate),
            at: now,
        }
    }

    fn refill(&mut self, rate: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * f64::from(rate)).min(2.0 * f64::from(rate));
        self.at = now;
    }

    fn is_full(&self, rate: u32, now: Instant) -> bool {
        let mut later = *self;
        later.refill(rate, now);
        later.tokens >= 2.0 * f64::from(rate)
    }
}

/// Counts connections between accept and HELLO, and handshakes.
#[derive(Debug)]
pub struct Gate {
    per_source: usize,
    rate: u32,
    everyone: Bucket,
    sources: HashMap<Source, Bucket>,
    /// In the order of their arrival.
    under_way: BTreeMap<u64, (usize, Source)>,
    arrivals: HashMap<usize, u64>,
    next: u64,
}

impl Gate {
    /// `per_source` connections under way and `rate` handshakes per second from one source; 0: no limit per source.
    #[must_use]
    pub fn new(per_source: usize, rate: u32, now: Instant) -> Self {
        Self {
            per_source,
            rate,
            everyone: Bucket::full(limits::HANDSHAKES_PER_SECOND, now),
            sources: HashMap::new(),
            under_way: BTreeMap::new(),
            arrivals: HashMap::new(),
            next: 0,
        }
    }

    /// Connections under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Count a new connection. Where that would exceed a limit, says which one (the oldest) must be closed for it; that one
    /// is no longer counted.
    #[must_use]
    pub fn arrive(&mut self, id: usize, source: Source) -> Option<usize> {
        let theirs = |&(_, (_, other)): &(&u64, &(usize, Source))| *other == source;
        let crowd = self.under_way.iter().filter(theirs).count();
        let oldest = if self.per_source > 0 && crowd >= self.per_source {
            self.under_way.iter().find(theirs)
        } else if self.under_way.len() >= limits::MAX_GREETING {
            self.under_way.iter().next()
        } else {
            None
        };
        let evicted = oldest.map(|(_, (other, _))| *other);
        if let Some(other) = evicted {
            self.leave(other);
        }
        self.leave(id);
        self.under_way.insert(self.next, (id, source));
        self.arrivals.insert(id, self.next);
        self.next += 1;
        evicted
    }

    /// A connection is through, or gone.
    pub fn leave(&mut self, id: usize) {
        if let Some(arrival) = self.arrivals.remove(&id) {
            self.under_way.remove(&arrival);
        }
    }

    /// Whether a handshake with this source may begin now; if so, it is counted.
    #[must_use]
    pub fn may_begin(&mut self, source: Source, now: Instant) -> bool {
        self.everyone.refill(limits::HANDSHAKES_PER_SECOND, now);
        if self.rate > 0 {
            self.make_room(now);
            let bucket = self
                .sources
                .entry(source)
                .or_insert_with(|| Bucket::full(self.rate, now));
            bucket.refill(self.rate, now);
            if bucket.tokens < 1.0 || self.everyone.tokens < 1.0 {
                return false;
            }
            bucket.tokens -= 1.0;
        } else if self.everyone.tokens < 1.0 {
            return false;
        }
        self.everyone.tokens -= 1.0;
        true
    }

    /// Forget sources that have been quiet long enough; if that is not enough, all of them: the limit of the whole process
    /// still holds.
    fn make_room(&mut self, now: Instant) {
        if self.sources.len() < limits::MAX_SOURCES {
            return;
        }
        let rate = self.rate;
        self.sources.retain(|_, bucket| !bucket.is_full(rate, now));
        if self.sources.len() >= limits::MAX_SOURCES {
            self.sources.clear();
        }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::NOWHERE
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::{Gate, Source};
    use crate::limits::{HANDSHAKES_PER_SECOND, MAX_GREETING, MAX_SOURCES};

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_source_and_mapped_ipv4_is_ipv4() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }

    #[test]
    fn the_oldest_of_a_crowded_source_makes_room_and_others_are_left_alone() {
        let mut gate = Gate::new(2, 0, Instant::now());
        assert_eq!(gate.arrive(1, source("10.0.0.1")), None);
        assert_eq!(gate.arrive(2, source("10.0.0.2")), None);
        assert_eq!(gate.arrive(3, source("10.0.0.2")), None);
        assert_eq!(gate.arrive(4, source("10.0.0.2")), Some(2));
        gate.leave(3);
        assert_eq!(gate.arrive(5, source("10.0.0.2")), None);
        assert_eq!(gate.under_way(), 3);
    }

    #[test]
    fn the_oldest_of_all_makes_room_at_the_cap_of_the_process() {
        let mut gate = Gate::new(0, 0, Instant::now());
        for id in 0..MAX_GREETING {
            assert_eq!(gate.arrive(id, source("10.0.0.1")), None);
        }
        assert_eq!(gate.arrive(MAX_GREETING, source("10.0.0.2")), Some(0));
        assert_eq!(gate.under_way(), MAX_GREETING);
    }

    #[test]
    fn a_source_has_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut gate = Gate::new(0, 50, start);
        let from = source("10.0.0.1");
        let burst = (0..500).filter(|_| gate.may_begin(from, start)).count();
        assert_eq!(burst, 100);
        assert!(gate.may_begin(source("10.0.0.2"), start));
        let later = start + Duration::from_millis(100);
        assert_eq!((0..500).filter(|_| gate.may_begin(from, later)).count(), 5);
    }

    #[test]
    fn the_process_has_a_rate_whatever_the_sources_are() {
        let now = Instant::now();
        let mut gate = Gate::new(0, 50, now);
        let all = (0..20_000u32)
            .filter(|n| gate.may_begin(IpAddr::from(n.to_be_bytes()).into(), now))
            .count();
        assert_eq!(all, 2 * HANDSHAKES_PER_SECOND as usize);
        assert!(gate.sources.len() <= MAX_SOURCES);
    }
}
