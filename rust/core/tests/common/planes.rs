//! Two routers of two sites in this process, linked over loopback: applications ──▶ north ══ lanes ══ south ──▶ a backend.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use van_core::contract::{
    AccessEntry, Changes, ConnectorEntry, CredentialEntry, Dial, Entry, Event, LinkEntry,
    LinkStateEvent, ListenerEntry, PathEntry, PlaneConfig, Ref, RouteEntry, RouteTarget, Snapshot,
    Strategy, StreamEndEvent,
};
use van_core::plane::Plane;

use super::{Ca, Site};

pub const KEY: &str = "echo";
const PATIENCE: Duration = Duration::from_secs(20);

/// A router and what it has told so far.
pub struct Router {
    pub plane: Plane,
    pub site: Site,
    pub links: HashMap<String, LinkStateEvent>,
    pub ports: HashMap<String, u16>,
    pub dials: HashMap<u64, (String, &'static str, String)>,
    pub ends: Vec<StreamEndEvent>,
    pub rest: Vec<Event>,
    generation: u64,
}

pub fn config(site: &Site) -> PlaneConfig {
    PlaneConfig {
        identity_key: site.identity_key(),
        boot: site.boot,
        site_name: site.name.clone(),
        workers: 2,
        memory_budget: 0,
        max_streams_per_link: 16_384,
        suspect_after: 1.0,
        dead_after: 6.0,
        listener_linger: 10.0,
        refuse_after: 3.0,
        per_source_limit: 0,
        handshakes_per_second: 0,
        edge: false,
    }
}

impl Router {
    pub fn start(name: &str, ca: &Ca, change: impl FnOnce(&mut PlaneConfig)) -> Self {
        let site = Site::new(name);
        let mut config = config(&site);
        change(&mut config);
        let plane = Plane::start(&config, Vec::new()).expect("a plane");
        let router = Self {
            plane,
            site: Site {
                boot: config.boot,
                ..site
            },
            links: HashMap::new(),
            ports: HashMap::new(),
            dials: HashMap::new(),
            ends: Vec::new(),
            rest: Vec::new(),
            generation: 1,
        };
        let own = router.credential(ca);
        router
            .plane
            .snapshot(Snapshot {
                generation: 1,
                entries: vec![own],
            })
            .expect("a snapshot");
        router
    }

    fn credential(&self, ca: &Ca) -> Entry {
        let spec = self.site.credential(ca);
        Entry::Credential(CredentialEntry {
            name: "own".to_owned(),
            certificates: spec.certificates.into_iter().map(ByteBuf::from).collect(),
            private_key: ByteBuf::from(spec.private_key),
            trust: spec.trust.into_iter().map(ByteBuf::from).collect(),
            statement: ByteBuf::from(spec.statement),
            verify_host: false,
            admit: None,
        })
    }

    pub fn id(&self) -> String {
        self.site.router().to_string()
    }

    pub fn change(&mut self, put: Vec<Entry>, drop: Vec<Ref>) {
        self.plane
            .apply(Changes {
                base: self.generation,
                generation: self.generation + 1,
                put,
                drop,
            })
            .expect("changes");
        self.generation += 1;
    }

    pub fn put(&mut self, entry: Entry) {
        self.change(vec![entry], Vec::new());
    }

    /// Take what it has to tell.
    pub fn listen(&mut self) {
        for event in self.plane.take_events() {
            match event {
                Event::Link(link) => {
                    self.links.insert(link.router.clone(), *link);
                }
                // One that is bound refuses connections until it has a target.
                Event::Listener {
                    name,
                    port,
                    status: "listening",
                    ..
                } => {
                    self.ports.insert(name, port);
                }
                Event::Access { name, port, .. } => {
                    self.ports.insert(name, port);
                }
                Event::Dial {
                    id,
                    router,
                    reason,
                    error,
                    ..
                } => {
                    self.dials.insert(id, (router, reason, error));
                }
                Event::StreamEnd(end) => self.ends.push(*end),
                other => self.rest.push(other),
            }
        }
    }

    pub fn wait<T>(&mut self, what: &str, mut until: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.listen();
            if let Some(found) = until(self) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{}: {what} did not come; {:?} {:?}",
                self.site.name,
                self.links,
                self.dials
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn open_access(&mut self) -> SocketAddr {
        self.put(Entry::Access(AccessEntry {
            name: "main".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 0,
            credential: "own".to_owned(),
        }));
        let port = self.wait("the access", |r| {
            r.ports.get("main").copied().filter(|p| *p > 0)
        });
        loopback(port)
    }

    pub fn put_link(&mut self) {
        self.put(Entry::Link(LinkEntry {
            name: "west".to_owned(),
            credential: "own".to_owned(),
            expected_site: String::new(),
            cost: 1,
            lanes: 0,
        }));
    }

    pub fn dial(&mut self, id: u64, address: SocketAddr) -> (String, &'static str, String) {
        self.plane
            .dial(&Dial {
                id,
                link: "west".to_owned(),
                host: address.ip().to_string(),
                port: address.port(),
                server_name: String::new(),
            })
            .expect("a dial");
        self.wait("the answer to a dial", |r| r.dials.remove(&id))
    }

    /// A port that takes connections for [`KEY`].
    pub fn open_listener(&mut self) -> SocketAddr {
        self.put(Entry::Listener(ListenerEntry {
            name: "in".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 0,
            routing_key: KEY.to_owned(),
            strategy: Strategy::Balanced,
            keys: Vec::new(),
            tls: String::new(),
        }));
        let port = self.wait("the listener", |r| {
            r.ports.get("in").copied().filter(|p| *p > 0)
        });
        loopback(port)
    }

    pub fn route_to(&mut self, router: &str) {
        self.put_path(router, &[router]);
        self.put_route(&[(router, 0)]);
    }

    /// Where [`KEY`] has targets, and at what cost beyond the path's.
    pub fn put_route(&mut self, targets: &[(&str, u32)]) {
        let target = |(router, cost): &(&str, u32)| RouteTarget {
            router: (*router).to_owned(),
            cost: *cost,
        };
        self.put(Entry::Route(RouteEntry {
            name: KEY.to_owned(),
            targets: targets.iter().map(target).collect(),
        }));
    }

    /// How `router` is reached, at cost 1.
    pub fn put_path(&mut self, router: &str, next_hops: &[&str]) {
        self.put(Entry::Path(PathEntry {
            name: router.to_owned(),
            next_hops: next_hops.iter().map(|&hop| hop.to_owned()).collect(),
            cost: 1,
        }));
    }

    pub fn connect_to(&mut self, backend: Option<SocketAddr>) {
        self.put(Entry::Connector(ConnectorEntry {
            name: "out".to_owned(),
            routing_key: KEY.to_owned(),
            host: backend.map(|b| b.ip().to_string()).unwrap_or_default(),
            port: backend.map_or(0, |b| b.port()),
            embedded: backend.is_none(),
            tls: String::new(),
        }));
    }

    pub fn streams_open(&self) -> u64 {
        self.plane.counters().streams_open
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// north dials south; clients of north's listener come out at south's connector.
pub struct Network {
    pub north: Router,
    pub south: Router,
    /// Of the link, for more lanes.
    pub access: SocketAddr,
    /// For clients.
    pub entrance: SocketAddr,
    pub backend: TcpListener,
}

impl Network {
    pub fn new(lanes: u64, change: impl Fn(&mut PlaneConfig)) -> Self {
        let ca = Ca::new("CA");
        let mut north = Router::start("north", &ca, &change);
        let mut south = Router::start("south", &ca, &change);
        let access = south.open_access();
        north.put_link();
        for id in 1..=lanes {
            let (router, reason, error) = north.dial(id, access);
            assert_eq!((router, reason), (south.id(), ""), "{error}");
        }
        let lanes = lanes as u32;
        south.wait("its lanes", |r| {
            r.links.values().any(|l| l.lanes == lanes).then_some(())
        });
        let backend = TcpListener::bind(loopback(0)).expect("a backend");
        south.connect_to(Some(backend.local_addr().expect("its address")));
        north.route_to(&south.id());
        let entrance = north.open_listener();
        Self {
            north,
            south,
            access,
            entrance,
            backend,
        }
    }

    /// Wait until no stream is open at either end.
    pub fn quiet(&mut self) {
        for router in [&mut self.north, &mut self.south] {
            router.wait("the end of all streams", |r| {
                (r.streams_open() == 0).then_some(())
            });
        }
    }
}

/// west dials middle, middle dials east; clients of west's listener come out at east's connector.
pub struct Line {
    pub west: Router,
    pub middle: Router,
    pub east: Router,
    /// For clients.
    pub entrance: SocketAddr,
    pub backend: TcpListener,
}

impl Line {
    pub fn new(lanes: u64, change: impl Fn(&mut PlaneConfig)) -> Self {
        let ca = Ca::new("CA");
        let mut west = Router::start("west", &ca, &change);
        let mut middle = Router::start("middle", &ca, &change);
        let mut east = Router::start("east", &ca, &change);
        link(&mut west, &mut middle, lanes);
        link(&mut middle, &mut east, lanes);
        let backend = TcpListener::bind(loopback(0)).expect("a backend");
        east.connect_to(Some(backend.local_addr().expect("its address")));
        west.put_path(&middle.id(), &[&middle.id()]);
        west.put_path(&east.id(), &[&middle.id()]);
        middle.put_path(&west.id(), &[&west.id()]);
        middle.put_path(&east.id(), &[&east.id()]);
        west.put_route(&[(&east.id(), 0)]);
        let entrance = west.open_listener();
        Self {
            west,
            middle,
            east,
            entrance,
            backend,
        }
    }

    pub fn routers(&mut self) -> [&mut Router; 3] {
        [&mut self.west, &mut self.middle, &mut self.east]
    }

    /// Wait until no stream is left anywhere.
    pub fn quiet(&mut self) {
        for router in self.routers() {
            router.wait("the end of all streams", |r| {
                let counters = r.plane.counters();
                let on_links: u64 = counters.by_link.values().map(|link| link[0]).sum();
                (counters.streams_open + counters.transit_open + on_links == 0).then_some(())
            });
        }
    }
}

/// So many lanes from `near` to `far`.
pub fn link(near: &mut Router, far: &mut Router, lanes: u64) {
    let access = far.open_access();
    near.put_link();
    for id in 1..=lanes {
        let (router, reason, error) = near.dial(id, access);
        assert_eq!((router, reason), (far.id(), ""), "{error}");
    }
    let near = near.id();
    far.wait("its lanes", |r| {
        r.links
            .get(&near)
            .is_some_and(|l| u64::from(l.lanes) == lanes)
            .then_some(())
    });
}
