//! Random streams between two routers: every direction ends whole, or its end is a reset; never cut short. Afterwards everything is
//! back where it was. A process of its own, because it counts the process's file descriptors.

mod common;

use std::time::Duration;

use common::planes::Network;
use common::scripts::storm;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

#[test]
fn every_stream_ends_whole_or_reset_and_afterwards_everything_is_back() {
    let seed: u64 = std::env::var("STRESS_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    let span = Duration::from_secs_f64(
        std::env::var("STRESS_SECONDS")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(4.0),
    );
    let budget = [0u64, 2 << 20][(seed % 2) as usize];
    let lanes = 1 + seed % 3;
    let mut network = Network::new(lanes, |config| config.memory_budget = budget);
    let granted = |n: &Network| [&n.north, &n.south].map(|r| r.plane.counters().bytes_granted);
    let before = (descriptors(), granted(&network));
    let (entrance, backend) = (
        network.entrance,
        network.backend.try_clone().expect("a descriptor"),
    );
    storm(entrance, &backend, seed, span, || network.quiet());
    drop(backend);

    // Early credit may have grown, by its cap at most; nothing else is granted.
    for (now, then) in granted(&network).into_iter().zip(before.1) {
        assert!(
            now >= then && now <= then + lanes * (1 << 20),
            "{now} bytes granted, {then} before"
        );
    }
    for router in [&network.north, &network.south] {
        let counters = router.plane.counters();
        for tally in counters
            .by_listener
            .values()
            .chain(counters.by_connector.values())
        {
            assert_eq!(tally[0], 0, "{counters:?}");
        }
        for link in counters.by_link.values() {
            assert_eq!(link[0], 0, "{counters:?}");
        }
    }
    assert_eq!(descriptors(), before.0);
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
