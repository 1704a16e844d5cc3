//! Streams that cross a router: three real routers in a line, in this process, with one worker and lane each or two.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use common::Ca;
use common::planes::{Line, Router, link};
use common::scripts::storm;
use socket2::SockRef;

/// Workers, and lanes of each link.
const SIZES: [(u32, u64); 2] = [(1, 1), (2, 2)];

fn line((workers, lanes): (u32, u64)) -> Line {
    Line::new(lanes, |config| config.workers = workers)
}

/// A client and the server's end of its stream.
fn stream(line: &Line) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(line.entrance).expect("it listens");
    let (server, _) = line.backend.accept().expect("it arrives");
    for socket in [&client, &server] {
        let patience = Some(Duration::from_secs(20));
        socket.set_read_timeout(patience).expect("an option");
        socket.set_write_timeout(patience).expect("an option");
    }
    (client, server)
}

fn body(len: usize, seed: u8) -> Vec<u8> {
    let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16) as u8 ^ seed;
    (0..len).map(byte).collect()
}

fn reset(socket: TcpStream) {
    let at_once = Some(Duration::ZERO);
    SockRef::from(&socket)
        .set_linger(at_once)
        .expect("an option");
}

/// What an application sees of a stream that did not end cleanly.
fn is_reset(mut socket: TcpStream) -> bool {
    let mut got = Vec::new();
    matches!(socket.read_to_end(&mut got), Err(error) if error.kind() != ErrorKind::WouldBlock)
}

#[test]
fn bulk_crosses_both_ways_at_once_and_each_way_ends_by_itself() {
    for size in SIZES {
        let mut line = line(size);
        let streams: Vec<_> = (0..4u8)
            .map(|seed| {
                let (client, server) = stream(&line);
                [(client, seed), (server, seed ^ 0x80)].map(|(socket, seed)| {
                    std::thread::spawn(move || {
                        let mut writer = socket.try_clone().expect("a descriptor");
                        let sending = std::thread::spawn(move || {
                            writer.write_all(&body(6_000_000, seed)).expect("sent");
                            writer.shutdown(Shutdown::Write).expect("ended");
                        });
                        let mut got = Vec::new();
                        let mut socket = socket;
                        socket.read_to_end(&mut got).expect("a clean end");
                        sending.join().expect("no panic");
                        assert!(got == body(6_000_000, seed ^ 0x80), "{} bytes", got.len());
                    })
                })
            })
            .collect();
        for thread in streams.into_iter().flatten() {
            thread.join().expect("no panic");
        }
        line.quiet();
        let counters = line.middle.plane.counters();
        assert_eq!((counters.transit_total, counters.streams_total), (4, 0));
    }
}

#[test]
fn a_half_that_ended_leaves_the_other_alone_and_a_server_may_speak_first() {
    for size in SIZES {
        let mut line = line(size);
        for client_first in [true, false] {
            let (client, server) = stream(&line);
            let (mut one, mut other) = if client_first {
                (client, server)
            } else {
                (server, client)
            };
            other.write_all(b"hello").expect("sent");
            let mut hello = [0; 5];
            one.read_exact(&mut hello).expect("it speaks first");
            one.write_all(&body(100_000, 1)).expect("sent");
            one.shutdown(Shutdown::Write).expect("ended");
            let mut got = Vec::new();
            other.read_to_end(&mut got).expect("a clean end");
            assert!(got == body(100_000, 1));
            other.write_all(&body(300_000, 2)).expect("sent");
            other.shutdown(Shutdown::Write).expect("ended");
            got.clear();
            one.read_to_end(&mut got).expect("a clean end");
            assert!(got == body(300_000, 2));
        }
        line.quiet();
    }
}

#[test]
fn a_reset_from_either_end_is_one_at_the_other_also_while_nothing_is_read() {
    for size in SIZES {
        let mut line = line(size);
        for (from_client, full) in [(true, false), (false, false), (true, true), (false, true)] {
            let (mut client, mut server) = stream(&line);
            // Both ends know of each other: before that, a server that leaves is a target that refuses.
            server.write_all(b"x").expect("sent");
            client.read_exact(&mut [0]).expect("it came");
            let (mut one, other) = if from_client {
                (client, server)
            } else {
                (server, client)
            };
            if full {
                one.set_write_timeout(Some(Duration::from_millis(500)))
                    .expect("an option");
                while one.write_all(&[7; 65_536]).is_ok() {}
            } else {
                one.write_all(b"some").expect("sent");
            }
            reset(one);
            // Nothing was read at the other end, and all the same nothing is left on the way.
            line.quiet();
            assert!(is_reset(other), "{from_client} {full}");
        }
    }
}

#[test]
fn a_router_in_the_middle_that_stops_resets_both_ends() {
    for size in SIZES {
        let mut line = line(size);
        let mut streams: Vec<_> = (0..10).map(|_| stream(&line)).collect();
        for (client, server) in &mut streams {
            client.write_all(b"x").expect("sent");
            server.read_exact(&mut [0]).expect("it came");
        }
        line.middle.plane.stop();
        for (client, server) in streams {
            assert!(is_reset(client));
            assert!(is_reset(server));
        }
        for router in [&mut line.west, &mut line.east] {
            router.wait("the ends", |r| (r.ends.len() == 10).then_some(()));
            assert!(router.ends.iter().all(|end| end.stream_class == "link"));
        }
    }
}

#[test]
fn what_is_refused_beyond_is_opened_elsewhere_with_all_that_was_said() {
    let mut line = line((2, 2));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    line.east
        .connect_to(Some(nobody.local_addr().expect("an address")));
    drop(nobody);
    let backend = line.backend.local_addr().expect("an address");
    line.middle.connect_to(Some(backend));
    let (east, middle) = (line.east.id(), line.middle.id());
    line.west.put_route(&[(&east, 0), (&middle, 1_000)]);
    for size in [0, 1, 16_376, 50_000] {
        let mut client = TcpStream::connect(line.entrance).expect("it listens");
        client.write_all(&body(size, 3)).expect("sent");
        client.shutdown(Shutdown::Write).expect("ended");
        let (mut server, _) = line.backend.accept().expect("it arrives");
        let mut got = Vec::new();
        server.read_to_end(&mut got).expect("a clean end");
        assert!(got == body(size, 3));
    }
    assert!(line.middle.plane.counters().transit_total > 0);
}

#[test]
fn a_slow_reader_keeps_memory_in_the_budget_and_does_not_slow_another() {
    const BUDGET: u64 = 8 << 20;
    for (workers, lanes) in SIZES {
        let mut line = Line::new(lanes, |config| {
            config.workers = workers;
            config.memory_budget = BUDGET;
        });
        let stalled: Vec<_> = (0..8).map(|_| stream(&line)).collect();
        for (client, _) in &stalled {
            client
                .set_write_timeout(Some(Duration::from_millis(200)))
                .expect("an option");
            let mut client = client;
            while client.write_all(&[7; 65_536]).is_ok() {}
        }
        let (mut client, mut server) = stream(&line);
        let started = Instant::now();
        let writing = std::thread::spawn(move || {
            client.write_all(&body(4_000_000, 9)).expect("sent");
            client.shutdown(Shutdown::Write).expect("ended");
            client
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).expect("a clean end");
        assert!(got == body(4_000_000, 9), "{:?}", started.elapsed());
        drop((writing.join().expect("no panic"), server));
        let granted = line.middle.plane.counters().bytes_granted;
        assert!(granted <= BUDGET, "{granted}");
        stalled.into_iter().for_each(|(client, _)| reset(client));
        line.quiet();
    }
}

#[test]
fn an_open_that_is_sent_round_in_a_circle_ends_at_its_hop_limit() {
    let ca = Ca::new("CA");
    let mut ring = ["a", "b", "c"].map(|name| Router::start(name, &ca, |_| {}));
    let [a, b, c] = &mut ring;
    link(a, b, 1);
    link(b, c, 1);
    link(c, a, 1);
    let nowhere = common::Site::new("nowhere").router().to_string();
    let ids = [a.id(), b.id(), c.id()];
    a.put_path(&nowhere, &[&ids[1]]);
    b.put_path(&nowhere, &[&ids[2]]);
    c.put_path(&nowhere, &[&ids[0]]);
    a.put_route(&[(&nowhere, 0)]);
    a.plane.set_hop_limit(10).expect("a limit");
    let entrance = a.open_listener();
    assert!(is_reset(TcpStream::connect(entrance).expect("it listens")));
    let mut crossed = 0;
    for router in &mut ring {
        let counters = router.wait("the end of all streams", |r| {
            let counters = r.plane.counters();
            (counters.transit_open == 0).then_some(counters)
        });
        crossed += counters.transit_total;
    }
    // The stream is tried again until it is given up; each try crosses exactly so many routers.
    assert!(crossed > 0 && crossed % 10 == 0, "{crossed}");
}

#[test]
fn random_streams_cross_whole_or_reset_and_afterwards_everything_is_back() {
    for (seed, (workers, lanes)) in (11..).zip(SIZES) {
        let mut line = Line::new(lanes, |config| {
            config.workers = workers;
            config.memory_budget = [0, 2 << 20][(seed % 2) as usize];
        });
        let granted = |line: &mut Line| line.routers().map(|r| r.plane.counters().bytes_granted);
        let before = granted(&mut line);
        let backend = line.backend.try_clone().expect("a descriptor");
        let span = Duration::from_secs(3);
        storm(line.entrance, &backend, seed, span, || line.quiet());
        // Early credit may have grown, by its cap for each lane at most; nothing else is granted.
        for (now, then) in granted(&mut line).into_iter().zip(before) {
            assert!(
                now >= then && now <= then + 2 * lanes * (1 << 20),
                "{now} {then}"
            );
        }
        let ids = [line.west.id(), line.east.id()];
        for id in &ids {
            line.middle.plane.cut(id, "done").expect("an id");
        }
        for router in line.routers() {
            router.wait("the end of the links", |r| {
                (r.plane.counters().bytes_granted == 0).then_some(())
            });
        }
    }
}
