//! The forwarding state in force, and what a change of it means.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::listeners::ListenerState;
use super::{Plane, PlaneError, address, duplicate, router_id};
use crate::app_tls::{AppTls, Slot as TlsSlot};
use crate::contract::{
    ConnectorEntry, Counters, CredentialEntry, Entry, Event, LinkEntry, ListenerEntry, PathEntry,
    Ref, RouteEntry, Strategy,
};
use crate::events::Slot;
use crate::handshake::{RouterId, site_from_text};
use crate::table::{KeyEntry, Path, Remote, Table, Tally, Target};
use crate::tls::CredentialSpec;
use crate::worker::{Job, Shared};

/// Next hops of one path.
const MOST_NEXT_HOPS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    /// `None` before the first snapshot.
    pub generation: Option<u64>,
    entries: HashMap<Ref, Entry>,
    pub listeners: BTreeMap<String, ListenerState>,
    /// Listeners by routing key.
    pub by_key: HashMap<Arc<str>, BTreeSet<String>>,
    /// Routing keys by the router where they have targets.
    by_router: HashMap<RouterId, HashSet<Arc<str>>>,
    /// Routers by the neighbours that are next hops toward them.
    by_hop: HashMap<RouterId, HashSet<RouterId>>,
    /// Routers with a path whose next hop has a lane: only when that changes are their keys looked at.
    reachable: HashSet<RouterId>,
    pub adopted: HashMap<(IpAddr, u16), OwnedFd>,
    /// A successor has duplicates of the listening sockets: they must not be told to stop listening.
    pub shared_out: bool,
    pub linger: Duration,
    pub next_listening: u64,
    tallies: HashMap<Arc<str>, Arc<Tally>>,
    tls: HashMap<String, TlsSlot>,
}

impl State {
    pub fn new(linger: Duration, adopted: HashMap<(IpAddr, u16), OwnedFd>) -> Self {
        Self {
            generation: None,
            entries: HashMap::new(),
            listeners: BTreeMap::new(),
            by_key: HashMap::new(),
            by_router: HashMap::new(),
            by_hop: HashMap::new(),
            reachable: HashSet::new(),
            adopted,
            shared_out: false,
            linger,
            next_listening: 1,
            tallies: HashMap::new(),
            tls: HashMap::new(),
        }
    }

    /// What has to be put and dropped to get from what is in force to these.
    pub fn difference(&self, entries: Vec<Entry>) -> (Vec<Entry>, Vec<Ref>) {
        let wanted: HashSet<Ref> = entries.iter().map(Entry::reference).collect();
        let drop = self
            .entries
            .keys()
            .filter(|r| !wanted.contains(r))
            .cloned()
            .collect();
        (entries, drop)
    }

    pub fn tallies(&self, counters: &mut Counters) {
        for (name, listener) in &self.listeners {
            counters
                .by_listener
                .insert(name.clone(), listener.reference.tally.numbers());
        }
        for (name, tally) in &self.tallies {
            counters
                .by_connector
                .insert(name.to_string(), tally.numbers());
        }
    }

    pub fn listening_sockets(&mut self) -> std::io::Result<Vec<(SocketAddr, OwnedFd)>> {
        self.shared_out = true;
        self.listeners
            .values()
            .filter_map(|l| Some((l.address, l.socket.as_ref()?)))
            .map(|(address, socket)| Ok((address, duplicate(socket.as_ref())?)))
            .collect()
    }

    pub fn clear(&mut self) {
        self.listeners.clear();
        self.adopted.clear();
        self.entries.clear();
    }

    /// The trunk to this neighbour came, went or changed: routers behind it may be reachable, or not any more.
    pub fn rematch_by_hop(&mut self, shared: &Shared, hop: RouterId, now: Instant) {
        let behind: Vec<RouterId> = self
            .by_hop
            .get(&hop)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for router in behind {
            self.rematch_router(shared, router, now);
        }
    }

    /// Listeners of all keys with targets at this router, if it is reachable now and was not, or the other way round.
    fn rematch_router(&mut self, shared: &Shared, router: RouterId, now: Instant) {
        let changed = if shared.table.load().is_reachable(&router) {
            self.reachable.insert(router)
        } else {
            self.reachable.remove(&router)
        };
        if !changed {
            return;
        }
        let keys: Vec<Arc<str>> = self
            .by_router
            .get(&router)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for key in keys {
            self.rematch(shared, &key, now);
        }
    }

    fn put_path(&mut self, table: &mut Table, entry: &PathEntry) -> Result<RouterId, PlaneError> {
        let router = router_id(&entry.name)?;
        let next_hops = entry
            .next_hops
            .iter()
            .map(|hop| router_id(hop))
            .collect::<Result<Vec<_>, _>>()?;
        let path = Path {
            next_hops,
            cost: entry.cost,
        };
        self.index_path(table, router, Some(&path));
        table.paths.insert(router, Arc::new(path));
        Ok(router)
    }

    fn drop_path(&mut self, table: &mut Table, name: &str) -> Option<RouterId> {
        let router = router_id(name).ok()?;
        self.index_path(table, router, None);
        table.paths.remove(&router);
        Some(router)
    }

    fn index_path(&mut self, table: &Table, router: RouterId, new: Option<&Path>) {
        for hop in table
            .paths
            .get(&router)
            .into_iter()
            .flat_map(|p| &p.next_hops)
        {
            if let Some(routers) = self.by_hop.get_mut(hop) {
                routers.remove(&router);
                if routers.is_empty() {
                    self.by_hop.remove(hop);
                }
            }
        }
        for hop in new.into_iter().flat_map(|p| &p.next_hops) {
            self.by_hop.entry(*hop).or_default().insert(router);
        }
    }

    /// What listeners and connectors hold of an entry, also before it comes.
    pub fn tls_of(&mut self, name: &str) -> Option<TlsSlot> {
        (!name.is_empty()).then(|| {
            let slot = self.tls.entry(name.to_owned());
            Arc::clone(
                slot.or_insert_with(|| Arc::new(ArcSwap::from_pointee(AppTls::absent(name)))),
            )
        })
    }

    fn put_tls(&mut self, name: &str, tls: AppTls) {
        if let Some(slot) = self.tls_of(name) {
            slot.store(Arc::new(tls));
        }
    }

    fn put_connector(
        &mut self,
        table: &mut Table,
        entry: &ConnectorEntry,
        touched: &mut HashSet<Arc<str>>,
    ) {
        self.drop_connector(table, &entry.name, touched, true);
        let address = if entry.embedded {
            None
        } else {
            address(&entry.host, entry.port).ok()
        };
        let key: Arc<str> = Arc::from(entry.routing_key.as_str());
        let name: Arc<str> = Arc::from(entry.name.as_str());
        let tally = Arc::clone(self.tallies.entry(Arc::clone(&name)).or_default());
        let mut target = Target::new(name, Arc::clone(&key), address, tally, Instant::now());
        target.tls = self.tls_of(&entry.tls);
        let mut serving = table
            .keys
            .get(&key)
            .map_or_else(KeyEntry::default, |e| KeyEntry::clone(e));
        serving.local.push(Arc::new(target));
        table.keys.insert(Arc::clone(&key), Arc::new(serving));
        touched.insert(key);
    }

    fn drop_connector(
        &mut self,
        table: &mut Table,
        name: &str,
        touched: &mut HashSet<Arc<str>>,
        is_change: bool,
    ) {
        let reference = Ref {
            kind: "connector".to_owned(),
            name: name.to_owned(),
        };
        let Some(Entry::Connector(old)) = self.entries.get(&reference) else {
            return;
        };
        let key: Arc<str> = Arc::from(old.routing_key.as_str());
        if let Some(serving) = table.keys.get(&key) {
            let mut serving = KeyEntry::clone(serving);
            serving.local.retain(|target| &*target.name != name);
            put_or_remove(table, &key, serving);
        }
        if !is_change {
            self.tallies.remove(name);
        }
        touched.insert(key);
    }

    fn put_route(
        &mut self,
        table: &mut Table,
        entry: &RouteEntry,
        touched: &mut HashSet<Arc<str>>,
    ) -> Result<(), PlaneError> {
        let key: Arc<str> = Arc::from(entry.name.as_str());
        let mut serving = table
            .keys
            .get(&key)
            .map_or_else(KeyEntry::default, |e| KeyEntry::clone(e));
        let mut remote = Vec::with_capacity(entry.targets.len());
        for target in &entry.targets {
            let router = router_id(&target.router)?;
            let known = serving.remote.iter().find(|r| r.router == router);
            let known = known.map(Arc::as_ref);
            remote.push(Arc::new(Remote::new(router, target.cost, known)));
        }
        self.index_route(&key, &serving, &remote);
        serving.remote = remote;
        put_or_remove(table, &key, serving);
        touched.insert(key);
        Ok(())
    }

    fn drop_route(&mut self, table: &mut Table, name: &str, touched: &mut HashSet<Arc<str>>) {
        let key: Arc<str> = Arc::from(name);
        if let Some(serving) = table.keys.get(&key) {
            let mut serving = KeyEntry::clone(serving);
            self.index_route(&key, &serving, &[]);
            serving.remote.clear();
            put_or_remove(table, &key, serving);
        }
        touched.insert(key);
    }

    fn index_route(&mut self, key: &Arc<str>, old: &KeyEntry, new: &[Arc<Remote>]) {
        for remote in &old.remote {
            if let Some(keys) = self.by_router.get_mut(&remote.router) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_router.remove(&remote.router);
                }
            }
        }
        for remote in new {
            self.by_router
                .entry(remote.router)
                .or_default()
                .insert(Arc::clone(key));
        }
    }
}

fn put_or_remove(table: &mut Table, key: &Arc<str>, serving: KeyEntry) {
    if serving.local.is_empty() && serving.remote.is_empty() {
        table.keys.remove(key);
    } else {
        table.keys.insert(Arc::clone(key), Arc::new(serving));
    }
}

impl Plane {
    /// Apply puts and drops. What is checked is checked before anything is changed; only a credential can still refuse.
    pub(super) fn change(
        &self,
        state: &mut State,
        generation: u64,
        put: Vec<Entry>,
        drop: Vec<Ref>,
    ) -> Result<(), PlaneError> {
        for entry in &put {
            check(entry)?;
        }
        for entry in &put {
            if let Entry::Credential(credential) = entry
                && state.entries.get(&entry.reference()) != Some(entry)
            {
                self.control
                    .put_credential(&credential.name, &spec(credential))
                    .map_err(|error| {
                        PlaneError::Config(format!("credential {:?}: {error}", credential.name))
                    })?;
            }
        }
        let shared = &self.inner.shared;
        let now = Instant::now();
        let mut table = shared.table.load().as_ref().clone();
        let mut touched = HashSet::new();
        let mut paths = HashSet::new();
        for reference in drop {
            match reference.kind.as_str() {
                "credential" => self.control.drop_credential(&reference.name),
                "access" => self.control.drop_access(&reference.name),
                "link" => {
                    self.control.drop_link(&reference.name);
                    shared.broadcast(|| Job::CloseLink(reference.name.clone()));
                }
                "listener" => state.drop_listener(shared, &reference.name),
                "connector" => {
                    state.drop_connector(&mut table, &reference.name, &mut touched, false)
                }
                "path" => paths.extend(state.drop_path(&mut table, &reference.name)),
                "tls" => state.put_tls(&reference.name, AppTls::absent(&reference.name)),
                _ => state.drop_route(&mut table, &reference.name, &mut touched),
            }
            state.entries.remove(&reference);
        }
        let mut listeners = Vec::new();
        for entry in put {
            let reference = entry.reference();
            if state.entries.get(&reference) == Some(&entry) {
                continue;
            }
            match &entry {
                Entry::Credential(_) => {}
                Entry::Access(access) => {
                    let wanted = address(&access.host, access.port)?;
                    let adopt = state.adopted.remove(&(wanted.ip(), wanted.port()));
                    self.control
                        .put_access(&access.name, wanted, &access.credential, adopt);
                }
                Entry::Link(link) => self.put_link(link),
                Entry::Listener(listener) => listeners.push(listener.clone()),
                Entry::Connector(connector) => {
                    state.put_connector(&mut table, connector, &mut touched)
                }
                Entry::Path(path) => {
                    paths.insert(state.put_path(&mut table, path)?);
                }
                Entry::Route(route) => state.put_route(&mut table, route, &mut touched)?,
                Entry::Tls(tls) => state.put_tls(&tls.name, AppTls::new(tls)),
            }
            state.entries.insert(reference, entry);
        }
        // The table comes first: a listener that is matched by this change listens at once.
        shared.table.store(Arc::new(table));
        for listener in listeners {
            state.put_listener(shared, &listener, now);
        }
        for key in touched {
            state.rematch(shared, &key, now);
        }
        for router in paths {
            state.rematch_router(shared, router, now);
        }
        // What a predecessor had and nobody wants any more.
        state.adopted.clear();
        state.generation = Some(generation);
        shared
            .events
            .set(Slot::InForce, Event::InForce { generation });
        Ok(())
    }

    fn put_link(&self, link: &LinkEntry) {
        let expected = site_from_text(&link.expected_site);
        self.control
            .put_link(&link.name, &link.credential, expected, link.cost);
    }
}

fn check(entry: &Entry) -> Result<(), PlaneError> {
    match entry {
        Entry::Access(e) => address(&e.host, e.port).map(|_| ()),
        Entry::Listener(e) => check_listener(e),
        Entry::Connector(e) if !e.embedded => address(&e.host, e.port).map(|_| ()),
        Entry::Path(e) => {
            router_id(&e.name)?;
            if e.next_hops.is_empty() || e.next_hops.len() > MOST_NEXT_HOPS {
                return Err(PlaneError::Config(format!(
                    "path {:?}: {} next hops; 1 to {MOST_NEXT_HOPS} are possible",
                    e.name,
                    e.next_hops.len()
                )));
            }
            e.next_hops
                .iter()
                .try_for_each(|hop| router_id(hop).map(|_| ()))
        }
        Entry::Route(e) => e
            .targets
            .iter()
            .try_for_each(|target| router_id(&target.router).map(|_| ())),
        Entry::Link(e)
            if !e.expected_site.is_empty() && site_from_text(&e.expected_site).is_none() =>
        {
            Err(PlaneError::Config(format!(
                "link {:?}: {:?} is not a site id",
                e.name, e.expected_site
            )))
        }
        Entry::Credential(_) | Entry::Connector(_) | Entry::Link(_) | Entry::Tls(_) => Ok(()),
    }
}

fn check_listener(entry: &ListenerEntry) -> Result<(), PlaneError> {
    address(&entry.host, entry.port)?;
    let wrong = |what: &str| {
        Err(PlaneError::Config(format!(
            "listener {:?}: {what}",
            entry.name
        )))
    };
    let several = matches!(entry.strategy, Strategy::Priority | Strategy::Weighted);
    if entry.keys.is_empty() {
        return Ok(());
    }
    if !entry.routing_key.is_empty() {
        return wrong("it has a routing key and a list of them; give one of the two");
    }
    if !several {
        return wrong("a list of routing keys needs the strategy priority or weighted");
    }
    if entry.keys.iter().any(|key| key.weight == 0) {
        return wrong("a weight of 0; leave that key out instead");
    }
    Ok(())
}

fn spec(entry: &CredentialEntry) -> CredentialSpec {
    let list = |der: &[serde_bytes::ByteBuf]| der.iter().map(|d| d.to_vec()).collect();
    CredentialSpec {
        certificates: list(&entry.certificates),
        private_key: entry.private_key.to_vec(),
        trust: list(&entry.trust),
        statement: entry.statement.to_vec(),
        verify_host: entry.verify_host,
        admit: entry.admit.clone(),
    }
}
