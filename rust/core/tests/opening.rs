//! From a connection to a stream and to a target, with a peer that a test plays by hand.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::Ca;
use common::peer::{Peer, Wire};
use common::planes::{KEY, Network, Router, loopback};
use nix::time::{ClockId, clock_gettime};
use socket2::SockRef;
use van_core::contract::{ConnectorEntry, Entry, Event};
use van_core::frame::{self, Kind};
use van_core::payload::{self, Class, Open};

/// What a pipe between two applications holds at most (`worker/pair/pipe.rs`).
const PIPE: u64 = 262_144;

/// A router whose only neighbour is played by the test.
struct Scene {
    router: Router,
    /// Its thread lives as long as this.
    _peer: Peer,
    lanes: Vec<Wire>,
}

impl Scene {
    fn new(lanes: u64) -> Self {
        let ca = Ca::new("CA");
        let mut router = Router::start("north", &ca, |_| {});
        let peer = Peer::new("south", &ca);
        let access = peer.access();
        router.put_link();
        let lanes = (1..=lanes)
            .map(|id| {
                let (_, reason, error) = router.dial(id, access);
                assert_eq!(reason, "", "{error}");
                peer.accept()
            })
            .collect();
        router.route_to(&peer.id());
        Self {
            router,
            _peer: peer,
            lanes,
        }
    }
}

fn cpu() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock"))
}

/// How `Opened` answered a stream of this process.
fn answer(router: &mut Router, id: u64) -> &'static str {
    router.wait("the answer", |r| {
        r.rest.iter().find_map(|event| match event {
            Event::Opened { stream, class, .. } if *stream == id => Some(*class),
            _ => None,
        })
    })
}

#[test]
fn whoever_opened_from_inside_hears_of_every_refusal() {
    let mut scene = Scene::new(1);
    let lane = &mut scene.lanes[0];
    // A class that is not tried again, a reset instead of an answer, and a lane that goes away with the OPEN.
    let (id, _inside) = scene.router.plane.connect(KEY).expect("a stream");
    let open = lane.expect(Kind::Open);
    lane.put_reason(open.stream, Kind::OpenErr, Class::Policy as u8, "no");
    assert_eq!(answer(&mut scene.router, id), "policy");

    let (id, _inside) = scene.router.plane.connect(KEY).expect("a stream");
    let open = lane.expect(Kind::Open);
    lane.put_reason(open.stream, Kind::Reset, Class::Target as u8, "no");
    assert_eq!(answer(&mut scene.router, id), "target");

    let (id, _inside) = scene.router.plane.connect(KEY).expect("a stream");
    lane.expect(Kind::Open);
    lane.shutdown();
    assert_eq!(answer(&mut scene.router, id), "refused");
    let counters = scene.router.plane.counters();
    assert_eq!((counters.streams_open, counters.streams_refused), (0, 3));
}

#[test]
fn a_stream_that_is_tried_again_is_one_stream_and_its_early_data_arrives_once() {
    let mut scene = Scene::new(1);
    let entrance = scene.router.open_listener();
    let lane = &mut scene.lanes[0];
    let mut client = TcpStream::connect(entrance).expect("it listens");
    client.write_all(b"hello").expect("sent");
    for _ in 0..2 {
        let open = lane.expect(Kind::Open);
        lane.put_reason(open.stream, Kind::OpenErr, Class::Refused as u8, "no");
    }
    let open = lane.expect(Kind::Open);
    let mut early = Open::decode(&open.payload)
        .expect("well-formed")
        .early
        .to_vec();
    if early.is_empty() {
        early = lane.expect(Kind::Early).payload;
    }
    assert_eq!(early, b"hello");
    lane.accept_stream(open.stream, 1_000);
    client.write_all(b" world").expect("sent");
    assert_eq!(lane.expect(Kind::Data).payload, b" world");
    let counters = scene.router.plane.counters();
    assert_eq!((counters.streams_open, counters.streams_total), (1, 1));
    assert_eq!(counters.by_listener["in"], [1, 1, 11, 0]);
}

#[test]
fn a_client_that_is_gone_before_it_is_looked_at_is_no_clean_end() {
    let mut network = Network::new(1, |_| {});
    network.backend.set_nonblocking(true).expect("an option");
    for _ in 0..300 {
        let client = TcpStream::connect(network.entrance).expect("it listens");
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .expect("an option");
    }
    network.quiet();
    std::thread::sleep(Duration::from_millis(100));
    network.quiet();
    let mut clean = 0;
    while let Ok((mut server, _)) = network.backend.accept() {
        server.set_nonblocking(false).expect("an option");
        clean += u32::from(server.read_to_end(&mut Vec::new()).is_ok());
    }
    assert_eq!(clean, 0, "of 300 that were reset");
}

#[test]
fn an_unanswered_open_on_a_lane_that_fell_silent_goes_to_another_lane_of_the_trunk() {
    let mut scene = Scene::new(2);
    let (id, _inside) = scene.router.plane.connect(KEY).expect("a stream");
    let first = (0..2)
        .find(|n| {
            scene.lanes[*n]
                .find(Kind::Open, Duration::from_millis(300))
                .is_some()
        })
        .expect("an OPEN");
    let since = Instant::now();
    let other = &mut scene.lanes[1 - first];
    let open = other
        .find(Kind::Open, Duration::from_millis(2_500))
        .expect("the same again");
    assert!(since.elapsed() > Duration::from_millis(500));
    other.accept_stream(open.stream, 1_000);
    assert_eq!(answer(&mut scene.router, id), "");
}

#[test]
fn an_unanswered_open_on_a_lane_that_is_lost_goes_to_another_lane_at_once() {
    let mut scene = Scene::new(2);
    for _ in 0..1 {
        let (_, _inside) = scene.router.plane.connect(KEY).expect("a stream");
        let first = (0..2)
            .find(|n| {
                scene.lanes[*n]
                    .find(Kind::Open, Duration::from_millis(100))
                    .is_some()
            })
            .expect("an OPEN");
        scene.lanes[first].shutdown();
        assert!(
            scene.lanes[1 - first]
                .find(Kind::Open, Duration::from_millis(80))
                .is_some()
        );
    }
}

#[test]
fn the_end_of_a_lane_is_seen_at_once_also_right_behind_data() {
    for _ in 0..30 {
        let mut scene = Scene::new(1);
        scene.router.wait("the link", |r| {
            r.links.values().any(|l| l.lanes == 1).then_some(())
        });
        let lane = &mut scene.lanes[0];
        for n in 0..20u64 {
            lane.put(0, Kind::Ping, &n.to_be_bytes());
        }
        lane.shutdown();
        let since = Instant::now();
        scene.router.wait("the end of the link", |r| {
            r.links.values().any(|l| l.lanes == 0).then_some(())
        });
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "{:?}",
            since.elapsed()
        );
    }
}

#[test]
fn connections_that_wait_for_credit_cost_nothing_while_the_peer_talks() {
    let mut scene = Scene::new(1);
    let entrance = scene.router.open_listener();
    let lane = &mut scene.lanes[0];
    // 16 OPENs stay unanswered and eat all the early credit; the refused ones come back with data that has no credit.
    let clients: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut client = TcpStream::connect(entrance).expect("it listens");
            client.write_all(&[7; 9_000]).expect("sent");
            client
        })
        .collect();
    let mut opened = 0;
    while lane.find(Kind::Open, Duration::from_millis(300)).is_some() {
        opened += 1;
    }
    assert_eq!(opened, 16);
    // Opens, but no early credit.
    let amounts = [0u32, 200, 0].map(u32::to_be_bytes).concat();
    lane.put(0, Kind::Credit, &amounts);
    let before = cpu();
    let since = Instant::now();
    let mut number = 0u64;
    while since.elapsed() < Duration::from_secs(2) {
        number += 1;
        lane.put(0, Kind::Pong, &number.to_be_bytes());
        lane.poll(true);
        std::thread::sleep(Duration::from_micros(400));
    }
    let spent = cpu() - before;
    assert!(spent < Duration::from_millis(1_200), "{spent:?} of 2 s");
    drop(clients);
}

#[test]
fn lanes_of_one_neighbour_are_capped_and_the_dialler_learns_why() {
    let ca = Ca::new("CA");
    let mut north = Router::start("north", &ca, |_| {});
    let mut south = Router::start("south", &ca, |_| {});
    let access = south.open_access();
    north.put_link();
    let mut refused = 0;
    for id in 1..=20 {
        let (_, reason, error) = north.dial(id, access);
        if !reason.is_empty() {
            refused += 1;
            assert!(error.contains("16 lanes"), "{error}");
        }
    }
    assert_eq!(refused, 4);
    south.wait("its lanes", |r| {
        r.links.values().any(|l| l.lanes == 16).then_some(())
    });

    let mut peers: Vec<(Peer, Wire)> = Vec::new();
    let site = common::Site::new("west");
    let key = site.identity.serialize_der();
    for boot in 1..=70 {
        let again = common::Site {
            name: "west".to_owned(),
            identity: rcgen::KeyPair::try_from(key.as_slice()).expect("a key"),
            boot,
        };
        let mut peer = Peer::of_site(again, &ca);
        let wire = peer.dial(access);
        peers.push((peer, wire));
    }
    let mut closed = 0;
    for (_, wire) in &mut peers {
        closed += u32::from(wire.find(Kind::GoAway, Duration::from_millis(50)).is_some());
    }
    assert_eq!(closed, 6, "one site has at most 64 routers");
}

fn local_pair(router: &mut Router, backend: SocketAddr) -> SocketAddr {
    router.put(Entry::Connector(ConnectorEntry {
        name: "out".to_owned(),
        routing_key: KEY.to_owned(),
        host: backend.ip().to_string(),
        port: backend.port(),
        embedded: false,
        tls: String::new(),
    }));
    router.open_listener()
}

#[test]
fn idle_streams_between_applications_of_one_router_reserve_nothing_and_count_once() {
    let ca = Ca::new("CA");
    let mut router = Router::start("north", &ca, |_| {});
    let backend = TcpListener::bind(loopback(0)).expect("a backend");
    let entrance = local_pair(&mut router, backend.local_addr().expect("its address"));
    let mut all = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(entrance).expect("it listens");
        client.write_all(b"x").expect("sent");
        let (mut server, _) = backend.accept().expect("it arrives");
        server.read_exact(&mut [0]).expect("it came");
        all.push((client, server));
    }
    router.wait("the end of all reads", |r| {
        (r.plane.counters().bytes_granted == 0).then_some(())
    });
    let counters = router.plane.counters();
    assert_eq!((counters.streams_open, counters.streams_total), (50, 50));
    // One that does not read holds what is stored for it, and no more: once it is bulky, in a pipe.
    let (client, server) = all.pop().expect("one");
    client.set_nonblocking(true).expect("an option");
    let mut sent = 0;
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        sent += (&client).write(&[7; 65_536]).unwrap_or(0);
    }
    let held = router.plane.counters().bytes_granted;
    assert!(held > 0 && held <= PIPE, "{held}");
    let mut got = 0;
    let mut buffer = vec![0; 65_536];
    while got < sent {
        got += (&server).read(&mut buffer).expect("it comes");
    }
    drop((client, server, all));
    router.wait("the end", |r| (r.streams_open() == 0).then_some(()));
    let counters = router.plane.counters();
    assert_eq!((counters.bytes_granted, counters.streams_reset), (0, 0));
}

#[test]
fn no_more_than_128_streams_wait_for_whoever_serves_a_connector() {
    let mut network = Network::new(1, |_| {});
    network.south.connect_to(None);
    let clients: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(network.entrance).expect("it listens"))
        .collect();
    let incoming = |r: &Router| {
        r.rest
            .iter()
            .filter(|e| matches!(e, Event::Incoming { .. }))
            .count()
    };
    network
        .south
        .wait("128 streams", |r| (incoming(r) >= 128).then_some(()));
    std::thread::sleep(Duration::from_millis(700));
    network.south.listen();
    assert_eq!(incoming(&network.south), 128, "taken, but not served");
    network.south.plane.settle_events();
    network
        .south
        .wait("the others", |r| (incoming(r) == 200).then_some(()));
    drop(clients);
    for event in network.south.rest.drain(..) {
        if let Some(inside) = event.into_descriptor() {
            drop(inside);
        }
    }
}

#[test]
fn control_messages_give_their_credit_back_only_when_they_were_served() {
    let mut scene = Scene::new(1);
    let lane = &mut scene.lanes[0];
    let mut sent = 0;
    let message = [&4_096u32.to_be_bytes()[..], &[7; 4_096]].concat();
    while sent + message.len() <= 131_072 {
        lane.put(0, Kind::Data, &message);
        sent += message.len();
    }
    let messages = |r: &Router| {
        r.rest
            .iter()
            .filter(|e| matches!(e, Event::Message { .. }))
            .count()
    };
    scene
        .router
        .wait("the messages", |r| (messages(r) == 31).then_some(()));
    assert!(
        lane.find(Kind::Credit, Duration::from_millis(500))
            .is_none()
    );
    scene.router.plane.settle_events();
    let credit = lane.expect(Kind::Credit);
    assert_eq!(credit.payload[..4], (sent as u32).to_be_bytes());
}

#[test]
fn the_end_of_a_stream_of_this_process_says_how_each_direction_ended() {
    let mut scene = Scene::new(1);
    let lane = &mut scene.lanes[0];
    let (id, mut inside) = scene.router.plane.connect(KEY).expect("a stream");
    let open = lane.expect(Kind::Open);
    lane.accept_stream(open.stream, 1_000);
    assert_eq!(answer(&mut scene.router, id), "");
    lane.put(open.stream, Kind::Data, b"all");
    lane.put(open.stream, Kind::Fin, &3u64.to_be_bytes());
    inside.set_nonblocking(false).expect("an option");
    let mut all = Vec::new();
    inside.read_to_end(&mut all).expect("a clean end");
    assert_eq!(all, b"all");
    assert_eq!(scene.router.plane.stream_end(id), (true, None));
    lane.put_reason(open.stream, Kind::Reset, Class::Target as u8, "gone");
    scene.router.wait("the reset", |r| {
        (r.plane.stream_end(id) == (true, Some("target"))).then_some(())
    });
}

#[test]
fn after_stop_nothing_is_opened() {
    let mut scene = Scene::new(1);
    scene.router.plane.stop();
    assert!(scene.router.plane.connect(KEY).is_err());
    scene.router.listen();
}

#[test]
fn descriptors_of_events_that_nobody_took_are_closed() {
    let network = {
        let mut network = Network::new(1, |_| {});
        network.south.connect_to(None);
        network
    };
    let client = TcpStream::connect(network.entrance).expect("it listens");
    std::thread::sleep(Duration::from_millis(300));
    let Network { north, south, .. } = network;
    let events = south.plane.take_events();
    let inside = events
        .into_iter()
        .find_map(Event::into_descriptor)
        .expect("a stream");
    let mut inside = UnixStream::from(inside);
    drop(south);
    inside.set_nonblocking(false).expect("an option");
    assert_eq!(inside.read(&mut [0; 9]).unwrap_or(0), 0);
    drop((client, north));
}

#[test]
fn a_reset_right_behind_data_for_an_application_that_is_gone_ends_the_stream_once() {
    let ca = Ca::new("CA");
    let mut router = Router::start("north", &ca, |_| {});
    let access = router.open_access();
    let backend = TcpListener::bind(loopback(0)).expect("a backend");
    router.connect_to(Some(backend.local_addr().expect("its address")));
    let mut peer = Peer::new("south", &ca);
    let mut lane = peer.dial(access);
    for n in 0..400 {
        let id = 2 * n + 1;
        let mut open = Vec::new();
        Open {
            destination: None,
            source: peer.site.router(),
            uuid: [0; 16],
            credit: 65_536,
            hop_limit: 1,
            routing_key: KEY,
            attributes: &[],
            early: b"",
        }
        .put(&mut open, id);
        lane.send(&open);
        let (server, _) = backend.accept().expect("it arrives");
        lane.expect(Kind::OpenOk);
        let mut end = Vec::new();
        frame::put(&mut end, id, Kind::Data, b"late");
        payload::put_reason(&mut end, id, Kind::Reset, 1, "");
        SockRef::from(&server)
            .set_linger(Some(Duration::ZERO))
            .expect("an option");
        drop(server);
        lane.send(&end);
    }
    router.wait("the end", |r| (r.streams_open() == 0).then_some(()));
    let links = router.plane.counters().by_link;
    assert_eq!(links[&peer.id()][0], 0, "{links:?}");
}

#[test]
fn the_end_of_an_application_needs_no_credit() {
    let mut scene = Scene::new(1);
    let entrance = scene.router.open_listener();
    let lane = &mut scene.lanes[0];
    for credit in [0u32, 1_000, 40_000] {
        for sent in [credit, credit + 500] {
            let mut client = TcpStream::connect(entrance).expect("it listens");
            let open = lane.expect(Kind::Open);
            lane.accept_stream(open.stream, credit);
            std::thread::sleep(Duration::from_millis(50));
            client.write_all(&vec![7; sent as usize]).expect("sent");
            std::thread::sleep(Duration::from_millis(50));
            client.shutdown(Shutdown::Write).expect("an end");
            if sent > credit {
                assert!(lane.find(Kind::Fin, Duration::from_millis(200)).is_none());
                lane.put(open.stream, Kind::Credit, &500u32.to_be_bytes());
            }
            let fin = lane.expect(Kind::Fin);
            assert_eq!(
                (fin.stream, fin.payload),
                (open.stream, u64::from(sent).to_be_bytes().to_vec())
            );
        }
    }
}
