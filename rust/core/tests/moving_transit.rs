//! Streams that cross a router and change lanes on both of its sides at once: not a byte is lost, an end is an end and an abort an abort.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    /// Ends the shuffling also when `work` panics.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let planes: [&Plane; 3] = [&line.west, &line.middle, &line.east].map(|r| &r.plane);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (plane, part) in planes.into_iter().zip([2, 3, 5]) {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    plane.shuffle();
                    std::thread::sleep(pause * part);
                }
            });
        }
        let _over = Over(&over);
        work()
    })
}

fn stream(line: &Line) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(line.entrance).expect("it listens");
    let (server, _) = line.backend.accept().expect("it arrives");
    for socket in [&client, &server] {
        let patience = Some(Duration::from_secs(30));
        socket.set_read_timeout(patience).expect("an option");
    }
    (client, server)
}

fn byte(seed: usize, at: usize) -> u8 {
    ((at ^ (at >> 8) ^ (at >> 16)).wrapping_mul(167) >> 3 ^ seed) as u8
}

fn send(mut socket: &TcpStream, seed: usize, len: usize) -> std::io::Result<()> {
    for at in (0..len).step_by(65_536) {
        let bytes: Vec<u8> = (at..(at + 65_536).min(len))
            .map(|at| byte(seed, at))
            .collect();
        socket.write_all(&bytes)?;
    }
    Ok(())
}

/// Read to the end and check every byte; says how many there were, and how it ended.
fn check(mut socket: &TcpStream, seed: usize) -> (usize, std::io::Result<()>) {
    let mut buffer = vec![0; 65_536];
    let mut at = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return (at, Ok(())),
            Ok(count) => {
                for (offset, got) in buffer[..count].iter().enumerate() {
                    assert_eq!(*got, byte(seed, at + offset), "at {}", at + offset);
                }
                at += count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (at, Err(error)),
        }
    }
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
                        let (got, end) = check(to, seed);
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
                let (got, end) = check(&stays, 1);
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
                    let (_, end) = check(socket, 0);
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

/// A download without end over the line, until it is dropped.
struct Flood {
    client: TcpStream,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn new(line: &Line) -> Self {
        let (client, mut server) = stream(line);
        let mut reader = client.try_clone().expect("a descriptor");
        Self {
            client,
            threads: vec![
                std::thread::spawn(move || while server.write_all(&[7; 65_536]).is_ok() {}),
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 262_144];
                    while reader.read(&mut buffer).is_ok_and(|count| count > 0) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }),
            ],
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.client.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The router in the middle leads on the lanes that it accepted, of streams that are not its own.
#[test]
fn bulk_that_crosses_a_router_leaves_the_lane_of_a_dialogue_there() {
    let mut line = Line::new(2, |config| config.workers = 2);
    let (west, middle) = (line.west.id(), line.middle.id());
    let floods: Vec<Flood> = (0..4).map(|_| Flood::new(&line)).collect();
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
        let mut word = [0; 5];
        client.write_all(b"hello").expect("sent");
        server.read_exact(&mut word).expect("heard");
        server.write_all(&word).expect("answered");
        client.read_exact(&mut word).expect("heard");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((floods, client, server));
    line.quiet();
}
