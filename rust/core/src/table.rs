//! Where streams can go: the table that workers read, and the rule that chooses for each new stream.
//!
//! The choice has four steps: the key, the target, the next hop, and the lane (`trunk.rs`). Time and chance are arguments.
//! The table is persistent: a new one shares all that did not change with the old one, so the cost of a change follows the
//! change. A path is an entry of its own: one that changes touches no key.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::app_tls::Slot;
use crate::chance::Chance;
use crate::contract::Strategy;
use crate::handshake::RouterId;
use crate::trunk::{LaneHealth, Pending, Trunk};

/// A target whose connect failed comes last for so long, doubled by each further failure in a row up to [`LONGEST_DOUBT`]: a
/// stream then finds out whether it is back.
const FIRST_DOUBT: Duration = Duration::from_secs(1);
const LONGEST_DOUBT: Duration = Duration::from_secs(30);

/// Streams and bytes of one listener or connector since start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Open now.
    pub open: AtomicU32,
    /// Ever.
    pub total: AtomicU64,
    /// Client to target.
    pub bytes_in: AtomicU64,
    /// Target to client.
    pub bytes_out: AtomicU64,
}

impl Tally {
    /// `[open, total, bytes in, bytes out]`.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        vec![
            u64::from(self.open.load(Ordering::Relaxed)),
            self.total.load(Ordering::Relaxed),
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        ]
    }
}

/// How busy a target is, as far as this router knows, and when it was chosen last.
#[derive(Debug, Default)]
pub struct Load {
    outstanding: AtomicU32,
    chosen: AtomicU64,
}

/// One stream of ours at a target, from the choice to its end; and on its trunk, until it is on a lane.
#[derive(Debug)]
pub struct Claim(Arc<Load>, Option<Pending>);

impl Claim {
    fn new(load: &Arc<Load>, turns: &AtomicU64, pending: Option<Pending>) -> Self {
        load.outstanding.fetch_add(1, Ordering::Relaxed);
        load.chosen
            .store(turns.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self(Arc::clone(load), pending)
    }

    /// Its lane counts it now.
    pub fn opened(&mut self) {
        self.1 = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A local host:port (or this process itself) behind a connector.
#[derive(Debug)]
pub struct Target {
    /// The connector's name.
    pub name: Arc<str>,
    /// Its key.
    pub routing_key: Arc<str>,
    /// `None`: embedded.
    pub address: Option<SocketAddr>,
    /// It is spoken to in TLS.
    pub tls: Option<Slot>,
    /// What went through.
    pub tally: Arc<Tally>,
    load: Arc<Load>,
    /// Connects that failed in a row.
    failures: AtomicU32,
    /// In doubt until so many milliseconds after `since`.
    doubted: AtomicU64,
    since: Instant,
}

impl Target {
    /// One that nothing is known of yet.
    #[must_use]
    pub fn new(
        name: Arc<str>,
        routing_key: Arc<str>,
        address: Option<SocketAddr>,
        tally: Arc<Tally>,
        now: Instant,
    ) -> Self {
        Self {
            name,
            routing_key,
            address,
            tls: None,
            tally,
            load: Arc::default(),
            failures: AtomicU32::new(0),
            doubted: AtomicU64::new(0),
            since: now,
        }
    }

    /// A connect failed. Says how many did in a row.
    pub fn failed(&self, now: Instant) -> u32 {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let doubt = FIRST_DOUBT
            .saturating_mul(1 << (failures - 1).min(8))
            .min(LONGEST_DOUBT);
        self.doubted.store(self.age(now + doubt), Ordering::Relaxed);
        failures
    }

    /// A connect worked. Says whether the one before had failed.
    pub fn worked(&self) -> bool {
        self.doubted.store(0, Ordering::Relaxed);
        self.failures.swap(0, Ordering::Relaxed) > 0
    }

    fn is_in_doubt(&self, now: Instant) -> bool {
        self.age(now) < self.doubted.load(Ordering::Relaxed)
    }

    fn age(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }
}

/// A router that has targets of a key.
#[derive(Debug)]
pub struct Remote {
    /// Where the streams end.
    pub router: RouterId,
    /// Added to the path's.
    pub cost: u32,
    load: Arc<Load>,
}

impl Remote {
    /// With what is known of an `old` entry for the same router and key.
    #[must_use]
    pub fn new(router: RouterId, cost: u32, old: Option<&Self>) -> Self {
        Self {
            router,
            cost,
            load: old.map_or_else(Arc::default, |old| Arc::clone(&old.load)),
        }
    }
}

/// Everything that serves one routing key.
#[derive(Clone, Debug, Default)]
pub struct KeyEntry {
    /// Here.
    pub local: Vec<Arc<Target>>,
    /// Elsewhere.
    pub remote: Vec<Arc<Remote>>,
}

/// How another router is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path {
    /// Neighbours, equally good.
    pub next_hops: Vec<RouterId>,
    /// Of the whole path.
    pub cost: u32,
}

/// A routing key, and how often it is chosen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Weighted {
    /// Its name.
    pub routing_key: Arc<str>,
    /// At least 1.
    pub weight: u32,
}

/// What a stream may choose from, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The rule.
    pub strategy: Strategy,
    /// At least one.
    pub keys: &'a [Weighted],
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// By routing key.
    pub keys: imbl::HashMap<Arc<str>, Arc<KeyEntry>>,
    /// By router.
    pub paths: imbl::HashMap<RouterId, Arc<Path>>,
    /// By router.
    pub trunks: imbl::HashMap<RouterId, Arc<Trunk>>,
    /// Choices made: among equals the one that was chosen longest ago is next.
    turns: Arc<AtomicU64>,
}

/// Where a stream shall go.
#[derive(Clone, Debug)]
pub enum Way {
    /// To a target of this router.
    Local(Arc<Target>),
    /// To another router, over a trunk.
    Remote(RouterId, Arc<Trunk>),
}

/// What was chosen for a stream.
#[derive(Debug)]
pub struct Choice {
    /// One of the plan's.
    pub routing_key: Arc<str>,
    /// Where.
    pub way: Way,
    /// To be kept as long as the stream is there.
    pub claim: Claim,
}

/// What was tried for a stream already.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tried {
    /// A connector.
    Local(Arc<str>),
    /// A router, for this key; with a next hop: only that way to it.
    Remote(Arc<str>, RouterId, Option<RouterId>),
}

/// What there is to be said against a target or the link toward it: the numbers add up, and less comes first.
type Doubt = u8;
/// The router at the other end is leaving, and still serves.
const DRAINING: Doubt = 1;
/// Nothing is heard of the link, or the last connect failed.
const DOUBTFUL: Doubt = 2;

/// Less is better: doubt; not an idle local target; what the strategy counts, twice; when it was chosen.
type Score = (Doubt, bool, u64, u64, u64);

/// The best of one key: its score, where it is, and its load.
struct Best {
    score: Score,
    way: Way,
    load: Arc<Load>,
}

impl Table {
    /// Whether a new stream of this key would find anything to try.
    #[must_use]
    pub fn is_matched(&self, routing_key: &str) -> bool {
        self.keys.get(routing_key).is_some_and(|entry| {
            !entry.local.is_empty() || entry.remote.iter().any(|r| self.is_reachable(&r.router))
        })
    }

    /// Whether there is a path to this router that has a lane now.
    #[must_use]
    pub fn is_reachable(&self, router: &RouterId) -> bool {
        self.paths.get(router).is_some_and(|path| {
            path.next_hops
                .iter()
                .any(|hop| self.usable(hop, router).is_some())
        })
    }

    /// The trunk to a neighbour, if new streams to `router` can use it: an edge is the end of a way or no part of it.
    fn usable(&self, hop: &RouterId, router: &RouterId) -> Option<&Arc<Trunk>> {
        self.trunks.get(hop).filter(|trunk| {
            trunk.health() < LaneHealth::Leaving && (!trunk.is_edge() || hop == router)
        })
    }

    /// The trunk toward a router: the one with the least against it, then the one with the fewest streams. Says also what there is against it.
    #[must_use]
    pub fn next_hop(
        &self,
        router: &RouterId,
        allowed: impl Fn(&RouterId) -> bool,
    ) -> Option<(Arc<Trunk>, Doubt)> {
        let path = self.paths.get(router)?;
        if let [only] = path.next_hops.as_slice() {
            let trunk = self.usable(only, router).filter(|_| allowed(only))?;
            return Some((Arc::clone(trunk), doubt(trunk)));
        }
        path.next_hops
            .iter()
            .filter(|hop| allowed(hop))
            .filter_map(|hop| self.usable(hop, router))
            .map(|trunk| (doubt(trunk), trunk))
            .min_by_key(|(doubt, trunk)| {
                let chosen = trunk.chosen.load(Ordering::Relaxed);
                (*doubt, trunk.streams(), chosen)
            })
            .map(|(doubt, trunk)| (Arc::clone(trunk), doubt))
    }

    /// A stream takes this trunk.
    #[must_use]
    pub fn take(&self, trunk: &Arc<Trunk>) -> Pending {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        trunk.chosen.store(turn, Ordering::Relaxed);
        Pending::new(trunk)
    }

    /// Choose for one new stream, by the rules of `Listener` in plane.py.
    #[must_use]
    pub fn choose(
        &self,
        plan: Plan<'_>,
        tried: &[Tried],
        chance: &mut Chance,
        now: Instant,
    ) -> Option<Choice> {
        let (routing_key, best) = self.best(plan, tried, chance, now)?;
        let pending = match &best.way {
            Way::Remote(_, trunk) => Some(self.take(trunk)),
            Way::Local(_) => None,
        };
        Some(Choice {
            routing_key: Arc::clone(routing_key),
            way: best.way,
            claim: Claim::new(&best.load, &self.turns, pending),
        })
    }

    /// Whether [`Table::choose`] would find something.
    #[must_use]
    pub fn has_choice(&self, plan: Plan<'_>, tried: &[Tried], now: Instant) -> bool {
        plan.keys.iter().any(|key| {
            self.best_of(&key.routing_key, plan.strategy, tried, now)
                .is_some()
        })
    }

    fn best<'a>(
        &self,
        plan: Plan<'a>,
        tried: &[Tried],
        chance: &mut Chance,
        now: Instant,
    ) -> Option<(&'a Arc<str>, Best)> {
        let mut each = plan.keys.iter().filter_map(|key| {
            let best = self.best_of(&key.routing_key, plan.strategy, tried, now)?;
            Some((key, best))
        });
        if plan.strategy != Strategy::Weighted || plan.keys.len() < 2 {
            return each.next().map(|(key, best)| (&key.routing_key, best));
        }
        let each: Vec<_> = each.collect();
        let sum: u64 = each.iter().map(|(key, _)| u64::from(key.weight)).sum();
        let mut drawn = chance.below(sum.max(1));
        each.into_iter()
            .find(|(key, _)| {
                let hit = drawn < u64::from(key.weight);
                drawn = drawn.saturating_sub(key.weight.into());
                hit
            })
            .map(|(key, best)| (&key.routing_key, best))
    }

    /// The best target of one key.
    fn best_of(
        &self,
        routing_key: &str,
        strategy: Strategy,
        tried: &[Tried],
        now: Instant,
    ) -> Option<Best> {
        let entry = self.keys.get(routing_key)?;
        let count = |local: bool, doubt: Doubt, cost: u32, load: &Load| -> Score {
            let outstanding = u64::from(load.outstanding.load(Ordering::Relaxed));
            let chosen = load.chosen.load(Ordering::Relaxed);
            let cost = u64::from(cost);
            if strategy == Strategy::Closest {
                (doubt, false, cost, outstanding, chosen)
            } else {
                let busy = !local || outstanding > 0;
                (doubt, busy, cost + outstanding, 0, chosen)
            }
        };
        let local = entry
            .local
            .iter()
            .filter(|target| !is_tried(tried, target))
            .map(|target| {
                let doubt = DOUBTFUL * Doubt::from(target.is_in_doubt(now));
                let score = count(true, doubt, 0, &target.load);
                (score, target)
            })
            .min_by_key(|(score, _)| *score);
        let mut best = local.map(|(score, target)| Best {
            score,
            way: Way::Local(Arc::clone(target)),
            load: Arc::clone(&target.load),
        });
        for remote in &entry.remote {
            let Some(path) = self.paths.get(&remote.router) else {
                continue;
            };
            let was = |hop: Option<&RouterId>| {
                tried.iter().any(|t| {
                    matches!(t, Tried::Remote(key, router, way)
                        if **key == *routing_key && *router == remote.router && way.as_ref() == hop)
                })
            };
            if was(None) {
                continue;
            }
            let Some((trunk, doubt)) = self.next_hop(&remote.router, |hop| !was(Some(hop))) else {
                continue;
            };
            let cost = path.cost.saturating_add(remote.cost);
            let score = count(false, doubt, cost, &remote.load);
            if best.as_ref().is_none_or(|best| score < best.score) {
                best = Some(Best {
                    score,
                    way: Way::Remote(remote.router, trunk),
                    load: Arc::clone(&remote.load),
                });
            }
        }
        best
    }

    /// The local target of a key for a stream that comes from elsewhere: sound ones first, then the least busy.
    #[must_use]
    pub fn choose_local(
        &self,
        routing_key: &str,
        tried: &[Tried],
        now: Instant,
    ) -> Option<(Arc<Target>, Claim)> {
        let target = self
            .keys
            .get(routing_key)?
            .local
            .iter()
            .filter(|target| !is_tried(tried, target))
            .min_by_key(|target| {
                (
                    target.is_in_doubt(now),
                    target.load.outstanding.load(Ordering::Relaxed),
                    target.load.chosen.load(Ordering::Relaxed),
                )
            })?;
        Some((
            Arc::clone(target),
            Claim::new(&target.load, &self.turns, None),
        ))
    }

    /// Whether [`Table::choose_local`] would find something.
    #[must_use]
    pub fn has_local(&self, routing_key: &str, tried: &[Tried]) -> bool {
        self.keys
            .get(routing_key)
            .is_some_and(|entry| entry.local.iter().any(|target| !is_tried(tried, target)))
    }

    /// The best edge of ours that has a target of this key: for a stream that was sent to us, and that no target here takes. Only one that
    /// [`Table::next_hop`] leads to; the least against its link, then the least of cost and streams on the link.
    #[must_use]
    pub fn edge_with(&self, routing_key: &str, from: &RouterId) -> Option<RouterId> {
        let entry = self.keys.get(routing_key)?;
        let (edge, _) = entry
            .remote
            .iter()
            .filter_map(|remote| {
                let path = self.paths.get(&remote.router)?;
                let (trunk, doubt) = self.next_hop(&remote.router, |hop| hop != from)?;
                let is_edge = trunk.is_edge() && trunk.router == remote.router;
                let cost = u64::from(path.cost) + u64::from(remote.cost);
                let load = cost + u64::from(trunk.streams());
                let chosen = trunk.chosen.load(Ordering::Relaxed);
                is_edge.then_some((remote.router, (doubt, load, chosen)))
            })
            .min_by_key(|(_, score)| *score)?;
        Some(edge)
    }
}

fn doubt(trunk: &Trunk) -> Doubt {
    let is_suspect = trunk.health() != LaneHealth::Open;
    let is_draining = trunk.draining.load(Ordering::Relaxed);
    DOUBTFUL * Doubt::from(is_suspect) + DRAINING * Doubt::from(is_draining)
}

fn is_tried(tried: &[Tried], target: &Target) -> bool {
    tried
        .iter()
        .any(|t| matches!(t, Tried::Local(name) if *name == target.name))
}
