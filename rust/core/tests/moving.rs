//! Streams that change lanes while applications use them: nothing is lost, doubled or cut, whatever happens meanwhile; and bulk
//! leaves the lane of a dialogue.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use common::Ca;
use common::applications::{self, Flood, byte, check, send, shuffled, speak};
use common::peer::{Got, Peer, Wire};
use common::planes::{Network, Router, loopback};
use common::scripts::storm;
use socket2::SockRef;
use van_core::classes::Place;
use van_core::frame::Kind;
use van_core::payload::Class;

const MIB: usize = 1 << 20;

/// While `work` runs, both ends send every stream to another lane again and again.
fn while_shuffled<T>(network: &Network, pause: Duration, work: impl FnOnce() -> T) -> T {
    let (north, south) = (&network.north.plane, &network.south.plane);
    shuffled(&[(north, pause), (south, pause * 2)], work)
}

fn moved(network: &Network) -> u64 {
    [&network.north, &network.south]
        .map(|router| router.plane.counters().streams_moved)
        .iter()
        .sum()
}

fn connect(network: &Network) -> (TcpStream, TcpStream) {
    applications::connect(network.entrance, &network.backend)
}

/// Both ends send at once, end, and read to the end.
fn exchange(client: &TcpStream, server: &TcpStream, len: usize, pause: Duration) {
    std::thread::scope(|scope| {
        for (socket, seed) in [(client, 1), (server, 2)] {
            scope.spawn(move || {
                send(socket, seed, len).expect("sent");
                socket.shutdown(Shutdown::Write).expect("ended");
            });
        }
        let reader = scope.spawn(move || check(client, 2, pause));
        let (got, end) = check(server, 1, Duration::ZERO);
        assert_eq!((got, end.is_ok()), (len, true), "{end:?}");
        let (got, end) = reader.join().expect("checked");
        assert_eq!((got, end.is_ok()), (len, true), "{end:?}");
    });
}

#[test]
fn a_stream_that_moves_all_the_time_carries_64_mib_each_way_and_a_slow_reader_loses_nothing() {
    let mut network = Network::new(2, |_| {});
    let (client, server) = connect(&network);
    while_shuffled(&network, Duration::from_millis(10), || {
        exchange(&client, &server, 64 * MIB, Duration::ZERO);
    });
    let often = moved(&network);
    assert!(often >= 5, "it moved {often} times");
    let (client, server) = connect(&network);
    while_shuffled(&network, Duration::from_millis(5), || {
        exchange(&client, &server, 4 * MIB, Duration::from_millis(5));
    });
    assert!(moved(&network) > often);
    network.quiet();
}

#[test]
fn a_direction_that_has_ended_stays_ended_when_the_other_moves() {
    let mut network = Network::new(3, |config| config.workers = 3);
    let (client, server) = connect(&network);
    while_shuffled(&network, Duration::from_millis(3), || {
        send(&client, 1, MIB).expect("sent");
        client.shutdown(Shutdown::Write).expect("ended");
        let (got, end) = check(&server, 1, Duration::ZERO);
        assert_eq!((got, end.is_ok()), (MIB, true), "{end:?}");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                send(&server, 2, 16 * MIB).expect("sent");
                server.shutdown(Shutdown::Write).expect("ended");
            });
            let (got, end) = check(&client, 2, Duration::ZERO);
            assert_eq!((got, end.is_ok()), (16 * MIB, true), "{end:?}");
        });
    });
    assert!(moved(&network) > 0);
    network.quiet();
}

#[test]
fn an_abort_in_the_middle_of_a_move_is_an_abort_at_the_other_end() {
    let mut network = Network::new(2, |_| {});
    while_shuffled(&network, Duration::from_millis(1), || {
        for round in 0..40 {
            let (client, server) = connect(&network);
            // A target that is gone before its router knows that it was there is tried again.
            (&server).write_all(&[7]).expect("sent");
            (&client).read_exact(&mut [0]).expect("it came");
            let (leaves, stays) = if round % 2 == 0 {
                (client, server)
            } else {
                (server, client)
            };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _ = send(&leaves, 1, (round % 7) * MIB / 2 + 1);
                    SockRef::from(&leaves)
                        .set_linger(Some(Duration::ZERO))
                        .expect("an option");
                    drop(leaves);
                });
                let (got, end) = check(&stays, 1, Duration::ZERO);
                assert!(end.is_err(), "round {round}: a clean end after {got} bytes");
            });
        }
    });
    network.quiet();
}

#[test]
fn random_streams_that_move_all_the_time_end_whole_or_reset_and_leave_nothing() {
    let mut network = Network::new(2, |_| {});
    let granted = |n: &Network| [&n.north, &n.south].map(|r| r.plane.counters().bytes_granted);
    let before = granted(&network);
    let (entrance, backend) = (
        network.entrance,
        network.backend.try_clone().expect("a descriptor"),
    );
    // More often, and the moves are more useless frames than a lane bears.
    while_shuffled(&network, Duration::from_millis(20), || {
        storm(entrance, &backend, 7, Duration::from_secs(3), || {});
    });
    network.quiet();
    assert!(moved(&network) > 50, "{}", moved(&network));
    for (now, then) in granted(&network).into_iter().zip(before) {
        assert!(
            now >= then && now <= then + 2 * MIB as u64,
            "{now} bytes granted, {then} before"
        );
    }
    let streams = |router: &Router| {
        let counters = router.plane.counters();
        counters.by_link.values().map(|link| link[0]).sum::<u64>()
    };
    assert_eq!(streams(&network.north) + streams(&network.south), 0);
    network
        .north
        .plane
        .cut(&network.south.id(), "done")
        .expect("an id");
    for router in [&mut network.north, &mut network.south] {
        router.wait("the end of the link", |r| {
            (r.plane.counters().bytes_granted == 0).then_some(())
        });
    }
}

/// A port in front of another; dropping what it sent cuts the connections that go through it.
fn relay(to: SocketAddr) -> (SocketAddr, Sender<()>) {
    let port = TcpListener::bind(loopback(0)).expect("a port");
    let address = port.local_addr().expect("its address");
    let (cut, cuts) = channel::<()>();
    std::thread::spawn(move || {
        let (near, _) = port.accept().expect("a lane");
        let far = TcpStream::connect(to).expect("it listens");
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (mut from, mut to) = (
                from.try_clone().expect("a descriptor"),
                to.try_clone().expect("a descriptor"),
            );
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
        let _ = cuts.recv();
        for socket in [near, far] {
            let _ = socket.shutdown(Shutdown::Both);
        }
    });
    (address, cut)
}

#[test]
fn a_stream_whose_lane_is_lost_while_it_moves_is_reset_and_never_cut_short() {
    let mut cut_short = 0;
    for round in 0..20 {
        if round >= 2 && cut_short > 0 {
            return;
        }
        let mut network = Network::new(1, |config| config.workers = 3);
        let mut cuts = Vec::new();
        for id in 2..=3 {
            let (address, cut) = relay(network.access);
            let (_, reason, error) = network.north.dial(id, address);
            assert_eq!(reason, "", "{error}");
            cuts.push(cut);
        }
        network.south.wait("its lanes", |r| {
            r.links.values().any(|l| l.lanes == 3).then_some(())
        });
        let streams: Vec<_> = (0..4).map(|_| connect(&network)).collect();
        let over = AtomicBool::new(false);
        while_shuffled(&network, Duration::from_millis(15), || {
            std::thread::scope(|scope| {
                let mut ends = Vec::new();
                for (n, (client, server)) in streams.iter().enumerate() {
                    // One direction each: the kernel says once that a connection was reset, and a sender would hear it.
                    let (sender, reader) = if n % 2 == 0 {
                        (client, server)
                    } else {
                        (server, client)
                    };
                    let over = &over;
                    let sender = scope.spawn(move || {
                        let mut sent = 0;
                        while !over.load(Ordering::Relaxed) {
                            let bytes: Vec<u8> =
                                (sent..sent + 65_536).map(|at| byte(n, at)).collect();
                            (&mut &*sender).write_all(&bytes)?;
                            sent += bytes.len();
                        }
                        sender.shutdown(Shutdown::Write).map(|()| sent)
                    });
                    let reader = scope.spawn(move || check(reader, n, Duration::ZERO));
                    ends.push((sender, reader));
                }
                for cut in cuts.drain(..) {
                    std::thread::sleep(Duration::from_millis(40 + 7 * round));
                    drop(cut);
                }
                std::thread::sleep(Duration::from_millis(200));
                over.store(true, Ordering::Relaxed);
                for (sender, reader) in ends {
                    let sent: std::io::Result<usize> = sender.join().expect("sent");
                    let (got, end) = reader.join().expect("checked");
                    match end {
                        Ok(()) => assert_eq!(sent.ok(), Some(got), "a clean end that is none"),
                        Err(error) => {
                            assert_ne!(error.kind(), ErrorKind::WouldBlock, "it hangs");
                            cut_short += 1;
                        }
                    }
                }
            });
        });
        drop(streams);
        network.quiet();
        for router in [&mut network.north, &mut network.south] {
            router.listen();
            for end in &router.ends {
                assert!(
                    ["", "link", "client", "target"].contains(&end.stream_class),
                    "{end:?}"
                );
            }
        }
    }
    panic!("no lane was lost in time");
}

/// A router with two lanes to a peer by hand, and a client whose stream is answered on one of them.
struct ByHand {
    router: Router,
    client: TcpStream,
    stream: u32,
    old: Wire,
    other: Wire,
    _peer: Peer,
}

fn by_hand() -> ByHand {
    let ca = Ca::new("CA");
    let mut router = Router::start("north", &ca, |_| {});
    let peer = Peer::new("south", &ca);
    let access = peer.access();
    router.put_link();
    let mut lanes: Vec<Wire> = (1..=2)
        .map(|id| {
            router.dial(id, access);
            peer.accept()
        })
        .collect();
    router.route_to(&peer.id());
    let entrance = router.open_listener();
    let mut client = TcpStream::connect(entrance).expect("it listens");
    // Each in turn for a moment: an OPEN that is not answered for long goes to the other one.
    let found = (0..400).find_map(|turn| {
        let open = lanes[turn % 2].find(Kind::Open, Duration::from_millis(25))?;
        Some((turn % 2, open.stream))
    });
    let (n, stream) = found.expect("an OPEN");
    let mut old = lanes.swap_remove(n);
    let other = lanes.remove(0);
    old.accept_stream(stream, 65_536);
    old.put(stream, Kind::Data, b"hello");
    client.read_exact(&mut [0; 5]).expect("it is answered");
    ByHand {
        router,
        client,
        stream,
        old,
        other,
        _peer: peer,
    }
}

/// The move is taken back on this lane, and the application has its end.
fn taken_back(lane: &mut Wire, ask: &Got, client: &mut TcpStream) {
    let back = lane.expect(Kind::Move);
    assert_eq!(back.payload, ask.payload);
    let reset = lane.expect(Kind::Reset);
    assert_eq!(
        (reset.stream, reset.payload[0]),
        (back.stream, Class::Link as u8)
    );
    let end = client.read(&mut [0; 5]);
    assert!(end.is_err(), "{end:?}");
}

#[test]
fn a_move_whose_lane_is_lost_before_its_answer_is_taken_back_on_another_lane() {
    let mut scene = by_hand();
    scene.router.plane.shuffle();
    let ask = scene.old.expect(Kind::Move);
    assert_eq!(ask.stream, scene.stream);
    scene.old.shutdown();
    taken_back(&mut scene.other, &ask, &mut scene.client);
}

/// The peer has let the stream go and may never read where it went on: it would keep it for 10 s.
#[test]
fn a_move_whose_new_lane_is_lost_before_anything_came_of_it_is_taken_back_on_another_lane() {
    let mut scene = by_hand();
    scene.router.plane.shuffle();
    let ask = scene.old.expect(Kind::Move);
    let name = &ask.payload[..8];
    let answer = [name, &5u64.to_be_bytes()].concat();
    scene.old.put(scene.stream, Kind::Move, &answer);
    let on = scene.other.expect(Kind::Move);
    assert_eq!(on.payload, ask.payload);
    scene.other.shutdown();
    taken_back(&mut scene.old, &ask, &mut scene.client);
}

#[test]
fn a_move_whose_stream_goes_on_is_not_taken_back_when_its_new_lane_is_lost() {
    let mut scene = by_hand();
    scene.router.plane.shuffle();
    let ask = scene.old.expect(Kind::Move);
    let answer = [&ask.payload[..8], &5u64.to_be_bytes()].concat();
    scene.old.put(scene.stream, Kind::Move, &answer);
    let on = scene.other.expect(Kind::Move);
    scene.other.put(on.stream, Kind::Data, b"hello");
    scene.client.read_exact(&mut [0; 5]).expect("it goes on");
    scene.other.shutdown();
    let end = scene.client.read(&mut [0; 5]);
    assert!(end.is_err(), "{end:?}");
    let back = scene.old.find(Kind::Move, Duration::from_millis(300));
    assert_eq!(back, None);
}

#[test]
fn bulk_leaves_the_lane_of_a_dialogue_and_new_streams_avoid_it_and_it_spreads_when_nobody_speaks() {
    let mut network = Network::new(2, |_| {});
    let (north, south) = (network.north.id(), network.south.id());
    let lanes = |network: &Network| -> Vec<Place> {
        let mut lanes = network.south.plane.lanes(&north).expect("an id");
        lanes.sort_by_key(|lane| lane.worker);
        lanes
    };
    let bulky =
        |network: &Network| -> Vec<u32> { lanes(network).iter().map(|l| l.bulky).collect() };
    let floods: Vec<Flood> = (0..4).map(|_| Flood::new(connect(&network))).collect();
    let (mut client, mut server) = connect(&network);
    let deadline = Instant::now() + Duration::from_secs(60);
    let streams =
        |network: &Network| -> Vec<u32> { lanes(network).iter().map(|l| l.streams).collect() };
    // Both ends have to see it: one leads, the other has the listener. The dialogue may be what moves, and last.
    let apart = |network: &Network, quiet: u32| {
        let places = network.north.plane.lanes(&south).expect("an id");
        bulky(network) == [0, 4]
            && streams(network) == [quiet, 4]
            && places.iter().filter(|p| p.crowded).count() == 1
    };
    while !apart(&network, 1) {
        assert!(Instant::now() < deadline, "{:?}", lanes(&network));
        speak(&mut client, &mut server);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(network.south.plane.counters().streams_moved >= 2);
    assert_eq!(
        network.north.plane.counters().streams_moved,
        0,
        "one end leads"
    );

    let new: Vec<_> = (0..6).map(|_| connect(&network)).collect();
    // They say nothing, so none of them moves: where they are is where they were opened. Bulk that starves for a moment may be away.
    while !apart(&network, 7) {
        assert!(Instant::now() < deadline, "{:?}", lanes(&network));
        speak(&mut client, &mut server);
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((new, client, server));

    let deadline = Instant::now() + Duration::from_secs(60);
    while bulky(&network) != [2, 2] {
        assert!(Instant::now() < deadline, "{:?}", lanes(&network));
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(floods);
    network.quiet();
}

#[test]
fn with_one_lane_nothing_moves() {
    let network = Network::new(1, |_| {});
    let _flood = Flood::new(connect(&network));
    let (mut client, mut server) = connect(&network);
    for _ in 0..60 {
        speak(&mut client, &mut server);
        std::thread::sleep(Duration::from_millis(25));
    }
    assert_eq!(moved(&network), 0);
}
