//! What two routers cost while nothing can move. A process of its own, because it counts the process's time.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::planes::Network;
use nix::time::{ClockId, clock_gettime};

fn cpu() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock"))
}

/// Processor time of this process in a second.
fn cost() -> Duration {
    let before = cpu();
    std::thread::sleep(Duration::from_secs(1));
    cpu() - before
}

#[test]
fn routers_that_are_idle_or_wait_for_slow_readers_do_not_spin() {
    let mut network = Network::new(2, |_| {});
    std::thread::sleep(Duration::from_millis(300));
    let idle = cost();
    assert!(idle < Duration::from_millis(50), "{idle:?} in a second");

    let mut stalled = Vec::new();
    for _ in 0..64 {
        let client = TcpStream::connect(network.entrance).expect("it listens");
        let (server, _) = network.backend.accept().expect("it arrives");
        client.set_nonblocking(true).expect("an option");
        stalled.push((client, server, 0));
    }
    for _ in 0..20 {
        for (client, _, sent) in &mut stalled {
            loop {
                match client.write(&[7; 65_536]) {
                    Ok(count) => *sent += count,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        break;
                    }
                }
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let waiting = cost();
    assert!(
        waiting < Duration::from_millis(80),
        "{waiting:?} in a second"
    );

    // A stream beside them goes on as if they were not there, and they go on when they are read.
    let mut client = TcpStream::connect(network.entrance).expect("it listens");
    let (mut server, _) = network.backend.accept().expect("it arrives");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        server.read_to_end(&mut all).expect("a clean end");
        all.len()
    });
    client.write_all(&vec![1; 10_000_000]).expect("sent");
    drop(client);
    assert_eq!(reader.join().expect("no panic"), 10_000_000);
    for (client, mut server, sent) in stalled {
        drop(client);
        let mut all = Vec::new();
        server.read_to_end(&mut all).expect("a clean end");
        assert_eq!(all.len(), sent);
    }
    network.quiet();
}
