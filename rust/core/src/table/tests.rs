//! What the choice gives over many streams, by counting.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::trunk::LaneRef;

fn router(n: u8) -> RouterId {
    RouterId {
        site: [n; 32],
        boot: n.into(),
    }
}

fn text(name: &str) -> Arc<str> {
    Arc::from(name)
}

/// A network around one router: neighbours with a lane each, paths, and who serves what.
#[derive(Default)]
struct Network {
    table: Table,
    held: Vec<Choice>,
}

impl Network {
    /// A neighbour with one lane, and the path to it.
    fn neighbour(&mut self, n: u8, cost: u32) -> &mut Self {
        let trunk = Arc::new(Trunk::new(router(n)));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let lane = LaneRef::new(n.into(), 0, None, None, address);
        lane.set_health(LaneHealth::Open);
        trunk.add(&Arc::new(lane));
        self.table.trunks.insert(router(n), trunk);
        self.path(n, &[n], cost)
    }

    fn path(&mut self, n: u8, hops: &[u8], cost: u32) -> &mut Self {
        let next_hops = hops.iter().copied().map(router).collect();
        self.table
            .paths
            .insert(router(n), Arc::new(Path { next_hops, cost }));
        self
    }

    fn entry(&mut self, key: &str, change: impl FnOnce(&mut KeyEntry)) -> &mut Self {
        let mut entry = self
            .table
            .keys
            .get(key)
            .map_or_else(KeyEntry::default, |entry| KeyEntry::clone(entry));
        change(&mut entry);
        self.table.keys.insert(text(key), Arc::new(entry));
        self
    }

    fn remote(&mut self, key: &str, n: u8, cost: u32) -> &mut Self {
        self.entry(key, |entry| {
            entry
                .remote
                .push(Arc::new(Remote::new(router(n), cost, None)));
        })
    }

    fn local(&mut self, key: &str, name: &str) -> Arc<Target> {
        let tally = Arc::default();
        let target = Target::new(text(name), text(key), None, tally, Instant::now());
        let target = Arc::new(target);
        self.entry(key, |entry| entry.local.push(Arc::clone(&target)));
        target
    }

    fn choose(
        &self,
        strategy: Strategy,
        keys: &[(&str, u32)],
        tried: &[Tried],
        chance: &mut Chance,
    ) -> Option<Choice> {
        let keys: Vec<Weighted> = keys
            .iter()
            .map(|(key, weight)| Weighted {
                routing_key: text(key),
                weight: *weight,
            })
            .collect();
        let plan = Plan {
            strategy,
            keys: &keys,
        };
        self.table.choose(plan, tried, chance, Instant::now())
    }

    /// So many streams that stay; says how many each got.
    fn hold(&mut self, streams: usize, strategy: Strategy) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        let mut chance = Chance::from_seed(1);
        for _ in 0..streams {
            let choice = self
                .choose(strategy, &[("k", 1)], &[], &mut chance)
                .expect("a choice");
            *counts.entry(name(&choice)).or_default() += 1;
            self.held.push(choice);
        }
        counts
    }

    /// So many streams, each of which ends before the next begins.
    fn sequence(&self, streams: usize, strategy: Strategy) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        let mut chance = Chance::from_seed(1);
        for _ in 0..streams {
            let choice = self
                .choose(strategy, &[("k", 1)], &[], &mut chance)
                .expect("a choice");
            *counts.entry(name(&choice)).or_default() += 1;
        }
        counts
    }
}

fn name(choice: &Choice) -> String {
    match &choice.way {
        Way::Local(target) => target.name.to_string(),
        Way::Remote(router, _) => router.boot.to_string(),
    }
}

fn within(found: usize, wanted: usize, share: f64) -> bool {
    (found as f64 - wanted as f64).abs() <= wanted as f64 * share
}

#[test]
fn held_streams_fill_the_near_target_by_the_difference_of_costs_first() {
    let mut network = Network::default();
    network.neighbour(1, 1).neighbour(2, 51);
    network.remote("k", 1, 0).remote("k", 2, 0);
    let counts = network.hold(500, Strategy::Balanced);
    // n + 50 = m, n + m = 500.
    assert!(within(counts["1"], 275, 0.05), "{counts:?}");
    assert!(within(counts["2"], 225, 0.05), "{counts:?}");
}

#[test]
fn the_cost_of_a_target_is_added_to_that_of_the_path() {
    let mut network = Network::default();
    network.neighbour(1, 10).neighbour(2, 30);
    network.remote("k", 1, 30).remote("k", 2, 10);
    let counts = network.hold(100, Strategy::Balanced);
    assert_eq!((counts["1"], counts["2"]), (50, 50));
}

#[test]
fn equal_costs_get_equal_shares_whether_streams_are_held_or_short() {
    let mut network = Network::default();
    for n in 1..=5 {
        network.neighbour(n, 3).remote("k", n, 0);
    }
    let short = network.sequence(500, Strategy::Balanced);
    let held = network.hold(500, Strategy::Balanced);
    for counts in [short, held] {
        assert_eq!(counts.len(), 5, "{counts:?}");
        assert!(counts.values().all(|n| within(*n, 100, 0.1)), "{counts:?}");
    }
}

#[test]
fn short_streams_to_local_targets_take_turns() {
    let mut network = Network::default();
    for name in ["a", "b", "c"] {
        network.local("k", name);
    }
    let counts = network.sequence(300, Strategy::Balanced);
    assert!(counts.values().all(|n| *n == 100), "{counts:?}");
}

#[test]
fn an_idle_local_target_comes_first_and_a_busy_one_is_weighed() {
    let mut network = Network::default();
    network.local("k", "here");
    network.neighbour(1, 1).remote("k", 1, 0);
    assert_eq!(network.sequence(20, Strategy::Balanced)["here"], 20);
    let counts = network.hold(101, Strategy::Balanced);
    assert!(within(counts["here"], 51, 0.05), "{counts:?}");
}

#[test]
fn closest_takes_the_least_cost_however_busy_and_shares_among_equals() {
    let mut network = Network::default();
    network.neighbour(1, 2).neighbour(2, 2).neighbour(3, 3);
    for n in 1..=3 {
        network.remote("k", n, 0);
    }
    let counts = network.hold(200, Strategy::Closest);
    assert_eq!((counts["1"], counts["2"]), (100, 100));
    let mut network = Network::default();
    network.local("k", "here");
    network.neighbour(1, 1).remote("k", 1, 0);
    assert_eq!(network.hold(200, Strategy::Closest)["here"], 200);
}

#[test]
fn priority_goes_on_with_the_next_key_only_when_everything_of_the_first_was_tried() {
    let mut network = Network::default();
    network.neighbour(1, 9).neighbour(2, 1);
    network
        .remote("first", 1, 0)
        .remote("second", 2, 0)
        .remote("second", 1, 5);
    let keys = [("first", 1), ("second", 1), ("third", 1)];
    let mut chance = Chance::from_seed(1);
    let mut tried = Vec::new();
    let mut order = Vec::new();
    while let Some(choice) = network.choose(Strategy::Priority, &keys, &tried, &mut chance) {
        order.push(format!("{} {}", choice.routing_key, name(&choice)));
        let Way::Remote(router, _) = choice.way else {
            panic!("a local target")
        };
        tried.push(Tried::Remote(choice.routing_key, router, None));
    }
    assert_eq!(order, ["first 1", "second 2", "second 1"]);
}

#[test]
fn weighted_keys_get_their_proportion_and_a_key_without_targets_gets_nothing() {
    let mut network = Network::default();
    network.local("a", "a");
    network.local("b", "b");
    network.neighbour(1, 100).remote("c", 1, 0);
    let keys = [("a", 1), ("b", 3), ("c", 6), ("nobody", 90)];
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut chance = Chance::from_seed(7);
    for _ in 0..10_000 {
        let choice = network
            .choose(Strategy::Weighted, &keys, &[], &mut chance)
            .expect("a choice");
        *counts.entry(choice.routing_key.to_string()).or_default() += 1;
    }
    for (key, wanted) in [("a", 1_000), ("b", 3_000), ("c", 6_000)] {
        assert!(within(counts[key], wanted, 0.1), "{counts:?}");
    }
    // One that was tried is out; the others keep their proportion.
    let tried = [Tried::Remote(text("c"), router(1), None)];
    let mut of_b = 0;
    for _ in 0..4_000 {
        let choice = network
            .choose(Strategy::Weighted, &keys, &tried, &mut chance)
            .expect("a choice");
        of_b += usize::from(&*choice.routing_key == "b");
    }
    assert!(within(of_b, 3_000, 0.1), "{of_b}");
}

#[test]
fn a_target_whose_connect_failed_comes_last_and_is_asked_again_later() {
    let mut network = Network::default();
    let bad = network.local("k", "bad");
    network.neighbour(1, 1_000).remote("k", 1, 0);
    let now = Instant::now();
    let mut chance = Chance::from_seed(1);
    let only = [Weighted {
        routing_key: text("k"),
        weight: 1,
    }];
    let plan = Plan {
        strategy: Strategy::Balanced,
        keys: &only,
    };
    let mut choose = |at| {
        name(
            &network
                .table
                .choose(plan, &[], &mut chance, at)
                .expect("a choice"),
        )
    };
    assert_eq!(choose(now), "bad");
    assert_eq!(bad.failed(now), 1);
    assert_eq!(choose(now), "1");
    assert_eq!(choose(now + Duration::from_millis(1_100)), "bad");
    for _ in 0..20 {
        bad.failed(now);
    }
    assert_eq!(choose(now + Duration::from_secs(29)), "1");
    assert_eq!(choose(now + Duration::from_secs(31)), "bad");
    assert!(bad.worked());
    assert_eq!(choose(now), "bad");
}

#[test]
fn a_draining_next_hop_comes_last_and_next_hops_share() {
    let mut network = Network::default();
    network.neighbour(1, 1).neighbour(2, 1).path(9, &[1, 2], 2);
    network.remote("k", 9, 0);
    let by_hop = |network: &mut Network| {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        network.hold(40, Strategy::Balanced);
        for choice in network.held.drain(..) {
            let Way::Remote(_, trunk) = &choice.way else {
                panic!("a local target")
            };
            *counts.entry(trunk.router.boot).or_default() += 1;
        }
        counts
    };
    let counts = by_hop(&mut network);
    assert_eq!((counts[&1], counts[&2]), (20, 20));
    let draining = &network.table.trunks[&router(1)].draining;
    draining.store(true, Ordering::Relaxed);
    assert_eq!(by_hop(&mut network)[&2], 40);
}

#[test]
fn an_edge_is_the_end_of_a_way_and_no_part_of_one() {
    let mut network = Network::default();
    network.neighbour(1, 1).path(9, &[1], 2);
    network.table.trunks[&router(1)].set_edge(true);
    assert!(network.table.is_reachable(&router(1)));
    assert!(!network.table.is_reachable(&router(9)));
}

#[test]
fn a_next_hop_that_was_tried_is_gone_round_and_a_router_that_was_tried_is_out() {
    let mut network = Network::default();
    network.neighbour(1, 1).neighbour(2, 1).path(9, &[1, 2], 2);
    network.remote("k", 9, 0);
    let mut chance = Chance::from_seed(1);
    let mut tried = vec![Tried::Remote(text("k"), router(9), Some(router(1)))];
    for _ in 0..4 {
        let choice = network
            .choose(Strategy::Balanced, &[("k", 1)], &tried, &mut chance)
            .expect("the other next hop");
        assert!(matches!(choice.way, Way::Remote(_, trunk) if trunk.router == router(2)));
    }
    tried.push(Tried::Remote(text("k"), router(9), None));
    assert!(
        network
            .choose(Strategy::Balanced, &[("k", 1)], &tried, &mut chance)
            .is_none()
    );
}
