//! Streams that cross a router and change lanes on both of its sides at once: not a byte is lost, an end is an end and an abort an abort.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use common::applications::{Flood, check, connect, send, shuffled, speak};
use common::planes::Line;
use common::scripts::storm;
use socket2::SockRef;
use van_core::plane::Plane;

const MIB: usize = 1 << 20;

fn line() -> Line {
    Line::new(3, |config| config.workers = 3)
}

/// While `work` runs, all three routers send every stream to another lane again and again, each at its own pace.
fn while_shuffled<T>(line: &Line, pause: Duration, work: impl FnOnce() -> T) -> T {
    let (west, middle, east) = (&line.west.plane, &line.middle.plane, &line.east.plane);
    let paces = [(west, pause * 2), (middle, pause * 3), (east, pause * 5)];
    shuffled(&paces, work)
}

fn stream(line: &Line) -> (TcpStream, TcpStream) {
    connect(line.entrance, &line.backend)
}

fn moved_in_the_middle(line: &Line) -> u64 {
    line.middle.plane.counters().streams_moved
}

#[test]
fn streams_that_cross_and_move_all_the_time_carry_every_byte_both_ways_and_end_by_halves() {
    let mut line = line();
    let streams: Vec<_> = (0..3).map(|_| stream(&line)).collect();
    while_shuffled(&line, Duration::from_millis(4), || {
        std::thread::scope(|scope| {
            for (n, (client, server)) in streams.iter().enumerate() {
                for (from, to, seed) in [(client, server, 2 * n), (server, client, 2 * n + 1)] {
                    scope.spawn(move || {
                        send(from, seed, 12 * MIB).expect("sent");
                        from.shutdown(Shutdown::Write).expect("ended");
                    });
                    scope.spawn(move || {
                        let (got, end) = check(to, seed, Duration::ZERO);
                        assert_eq!((got, end.is_ok()), (12 * MIB, true), "{end:?}");
                    });
                }
            }
        });
    });
    assert!(
        moved_in_the_middle(&line) >= 5,
        "{}",
        moved_in_the_middle(&line)
    );
    line.quiet();
}

#[test]
fn an_abort_while_a_stream_that_crosses_moves_is_an_abort_at_the_other_end() {
    let mut line = line();
    while_shuffled(&line, Duration::from_millis(1), || {
        for round in 0..40 {
            let (client, server) = stream(&line);
            (&server).write_all(&[7]).expect("sent");
            (&client).read_exact(&mut [0]).expect("it came");
            let (leaves, stays) = if round % 2 == 0 {
                (client, server)
            } else {
                (server, client)
            };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _ = send(&leaves, 1, (round % 5) * MIB / 2 + 1);
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
    line.quiet();
}

#[test]
fn random_streams_that_cross_and_move_end_whole_or_reset_and_leave_nothing() {
    let mut line = line();
    let (entrance, backend) = (
        line.entrance,
        line.backend.try_clone().expect("a descriptor"),
    );
    while_shuffled(&line, Duration::from_millis(12), || {
        storm(entrance, &backend, 11, Duration::from_secs(3), || {});
    });
    line.quiet();
    assert!(
        moved_in_the_middle(&line) > 20,
        "{}",
        moved_in_the_middle(&line)
    );
    // What the lanes have for themselves is given back with them; nothing of a stream is left.
    let (west, east) = (line.west.id(), line.east.id());
    for router in [&west, &east] {
        line.middle.plane.cut(router, "done").expect("an id");
    }
    for router in line.routers() {
        router.wait("the end of the links", |r| {
            (r.plane.counters().bytes_granted == 0).then_some(())
        });
    }
}

#[test]
fn when_a_link_is_cut_while_its_streams_move_both_applications_see_a_reset() {
    for round in 0..8 {
        let mut line = line();
        let streams: Vec<_> = (0..8).map(|_| stream(&line)).collect();
        for (client, server) in &streams {
            (&mut &*server).write_all(&[7]).expect("sent");
            (&mut &*client).read_exact(&mut [0]).expect("it came");
        }
        let began = Instant::now();
        while_shuffled(&line, Duration::from_millis(1), || {
            std::thread::sleep(Duration::from_millis(10 + 3 * round));
            let far = if round % 2 == 0 {
                &line.west
            } else {
                &line.east
            };
            line.middle.plane.cut(&far.id(), "cut").expect("an id");
            for (client, server) in &streams {
                for socket in [client, server] {
                    let (_, end) = check(socket, 0, Duration::ZERO);
                    let error = end.expect_err("a clean end");
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "it hangs");
                }
            }
        });
        // Not only by the 10 s after which a stream between lanes is given up.
        assert!(began.elapsed() < Duration::from_secs(8));
        drop(streams);
        line.quiet();
    }
}

/// The router in the middle leads on the lanes that it accepted, of streams that are not its own.
#[test]
fn bulk_that_crosses_a_router_leaves_the_lane_of_a_dialogue_there() {
    let mut line = Line::new(2, |config| config.workers = 2);
    let (west, middle) = (line.west.id(), line.middle.id());
    let floods: Vec<Flood> = (0..4).map(|_| Flood::new(stream(&line))).collect();
    let (mut client, mut server) = stream(&line);
    let bulky = |plane: &Plane, peer: &str| -> Vec<u32> {
        let mut lanes = plane.lanes(peer).expect("an id");
        lanes.sort_by_key(|lane| lane.worker);
        lanes.iter().map(|lane| lane.bulky).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let first = bulky(&line.middle.plane, &west);
        let second = bulky(&line.east.plane, &middle);
        if first == [0, 4] && second == [0, 4] {
            break;
        }
        assert!(Instant::now() < deadline, "{first:?} {second:?}");
        speak(&mut client, &mut server);
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((floods, client, server));
    line.quiet();
}
