//! Lanes over an address that goes: their streams go on on the lanes that stay, while applications use them.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::applications::{self, byte};
use common::planes::{Network, loopback};
use van_core::contract::{AccessEntry, Entry};

const MIB: usize = 1 << 20;

/// Another address of south's link access.
fn second_access(network: &mut Network) -> SocketAddr {
    network.south.put(Entry::Access(AccessEntry {
        name: "second".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 0,
        credential: "own".to_owned(),
    }));
    let port = network.south.wait("the second access", |r| {
        r.ports.get("second").copied().filter(|port| *port > 0)
    });
    loopback(port)
}

fn connect(network: &Network) -> (TcpStream, TcpStream) {
    applications::connect(network.entrance, &network.backend)
}

fn retire_first(network: &Network) {
    let (host, port) = (network.access.ip().to_string(), network.access.port());
    let plane = &network.north.plane;
    plane.retire("west", &host, port).expect("a name");
}

/// So much from one to the other; the reader takes its time.
fn carry(mut from: &TcpStream, mut to: &TcpStream, seed: usize, len: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let bytes: Vec<u8> = (0..len).map(|at| byte(seed, at)).collect();
            from.write_all(&bytes).expect("sent");
        });
        let mut buffer = vec![0; 65_536];
        let mut at = 0;
        while at < len {
            let count = to.read(&mut buffer).expect("it goes on");
            assert!(count > 0, "an end at {at}");
            for (offset, got) in buffer[..count].iter().enumerate() {
                assert_eq!(*got, byte(seed, at + offset), "at {}", at + offset);
            }
            at += count;
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}

#[test]
fn streams_of_lanes_that_are_retired_go_on_on_others_and_those_lanes_close_before_they_end() {
    let mut network = Network::new(2, |_| {});
    let streams: Vec<_> = (0..6).map(|_| connect(&network)).collect();
    let second = second_access(&mut network);
    for id in 3..=4 {
        let (_, reason, error) = network.north.dial(id, second);
        assert_eq!(reason, "", "{error}");
    }
    let lanes = |network: &mut Network, count: u32| {
        for router in [&mut network.north, &mut network.south] {
            router.wait("so many lanes", |r| {
                r.links.values().any(|l| l.lanes == count).then_some(())
            });
        }
    };
    lanes(&mut network, 4);
    std::thread::scope(|scope| {
        let working: Vec<_> = streams
            .iter()
            .enumerate()
            .map(|(n, (client, server))| {
                // Half of them say nothing while they move.
                scope.spawn(move || match n % 2 {
                    0 => {
                        carry(client, server, n, 4 * MIB);
                        carry(server, client, n, 4 * MIB);
                    }
                    _ => std::thread::sleep(Duration::from_millis(300)),
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        retire_first(&network);
        lanes(&mut network, 2);
        for work in working {
            work.join().expect("carried");
        }
    });
    // The other end may have led for the bulky ones.
    let moved = [&network.north, &network.south].map(|r| r.plane.counters().streams_moved);
    assert!(moved.iter().sum::<u64>() >= 6, "{moved:?}");
    for (n, (client, server)) in streams.iter().enumerate() {
        carry(client, server, n, 10_000);
        carry(server, client, n, 10_000);
    }
    drop(streams);
    network.quiet();
}

#[test]
fn without_another_lane_streams_stay_where_they_are() {
    let mut network = Network::new(1, |_| {});
    let (client, server) = connect(&network);
    retire_first(&network);
    std::thread::sleep(Duration::from_millis(600));
    carry(&client, &server, 1, MIB);
    assert_eq!(network.north.plane.counters().streams_moved, 0);
    drop((client, server));
    network.quiet();
}
