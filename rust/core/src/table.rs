//! Where streams of a routing key can go: the table that workers read, and the rule that chooses.
//!
//! The table is persistent: a new one shares all that did not change with the old one, so the cost of a change follows the change.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::handshake::RouterId;
use crate::trunk::{LaneHealth, Trunk};

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

/// A local host:port (or this process itself) behind a connector.
#[derive(Debug)]
pub struct Target {
    /// The connector's name.
    pub name: Arc<str>,
    /// Its key.
    pub routing_key: Arc<str>,
    /// `None`: embedded.
    pub address: Option<SocketAddr>,
    /// What went through.
    pub tally: Arc<Tally>,
    /// Connects that failed in a row.
    pub failures: AtomicU32,
}

/// A router that has targets.
#[derive(Debug)]
pub struct Remote {
    /// Where the streams end.
    pub router: RouterId,
    /// The neighbour toward it.
    pub next_hop: RouterId,
    /// Of the path.
    pub cost: u32,
    /// Our streams there.
    pub outstanding: Arc<AtomicU32>,
}

/// Everything that serves one routing key.
#[derive(Clone, Debug, Default)]
pub struct KeyEntry {
    /// Here.
    pub local: Vec<Arc<Target>>,
    /// Elsewhere.
    pub remote: Vec<Arc<Remote>>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// By routing key.
    pub keys: imbl::HashMap<Arc<str>, Arc<KeyEntry>>,
    /// By router.
    pub trunks: imbl::HashMap<RouterId, Arc<Trunk>>,
}

/// Where a stream shall go.
#[derive(Clone, Debug)]
pub enum Choice {
    /// To a target of this router.
    Local(Arc<Target>),
    /// Over a trunk.
    Remote(Arc<Remote>, Arc<Trunk>),
}

/// What was tried for a stream already.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tried {
    /// A connector.
    Local(Arc<str>),
    /// A router.
    Remote(RouterId),
}

impl Table {
    /// Whether a new stream of this key would find anything to try.
    #[must_use]
    pub fn is_matched(&self, routing_key: &str) -> bool {
        self.keys.get(routing_key).is_some_and(|entry| {
            !entry.local.is_empty()
                || entry
                    .remote
                    .iter()
                    .any(|remote| self.trunk(remote).is_some())
        })
    }

    fn trunk(&self, remote: &Remote) -> Option<&Arc<Trunk>> {
        self.trunks
            .get(&remote.next_hop)
            .filter(|trunk| trunk.health() < LaneHealth::Leaving)
    }

    /// Choose for one new stream: an idle local target first, else the least of cost plus outstanding streams. Trunks that
    /// are suspect or draining come last.
    #[must_use]
    pub fn choose(&self, routing_key: &str, tried: &[Tried]) -> Option<Choice> {
        let entry = self.keys.get(routing_key)?;
        let mut best: Option<((bool, u64), Choice)> = None;
        let mut offer = |score: (bool, u64), choice: Choice| {
            if best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, choice));
            }
        };
        for target in &entry.local {
            if tried
                .iter()
                .any(|t| matches!(t, Tried::Local(name) if *name == target.name))
            {
                continue;
            }
            let outstanding = target.tally.open.load(Ordering::Relaxed);
            offer(
                (false, u64::from(outstanding)),
                Choice::Local(Arc::clone(target)),
            );
        }
        for remote in &entry.remote {
            if tried
                .iter()
                .any(|t| matches!(t, Tried::Remote(router) if *router == remote.router))
            {
                continue;
            }
            let Some(trunk) = self.trunk(remote) else {
                continue;
            };
            let last = trunk.health() != LaneHealth::Open || trunk.draining.load(Ordering::Relaxed);
            let outstanding = remote.outstanding.load(Ordering::Relaxed);
            offer(
                (last, u64::from(remote.cost) + u64::from(outstanding)),
                Choice::Remote(Arc::clone(remote), Arc::clone(trunk)),
            );
        }
        best.map(|(_, choice)| choice)
    }

    /// The least busy local target of a key that was not tried.
    #[must_use]
    pub fn choose_local(&self, routing_key: &str, tried: &[Tried]) -> Option<Arc<Target>> {
        let entry = self.keys.get(routing_key)?;
        entry
            .local
            .iter()
            .filter(|target| {
                !tried
                    .iter()
                    .any(|t| matches!(t, Tried::Local(name) if *name == target.name))
            })
            .min_by_key(|target| target.tally.open.load(Ordering::Relaxed))
            .cloned()
    }
}
