//! How fast one core seals and opens: GB/s of plaintext over batches of 256 KiB, as lanes move them.
//!
//! `cargo bench -p van-core --bench records`; no criterion, the figure of interest is one ratio.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use van_core::record::{Records, sealed_len};

const BATCH: usize = 256 * 1_024;
const BATCHES: usize = 2_000;
const ROUNDS: usize = 7;

fn main() {
    for layer in [common::Layer::Rustls, common::Layer::Direct] {
        for (what, round) in [("into slices", slices as Round), ("into Vecs", vecs)] {
            let (mut from, mut to) = common::record_pair(layer);
            let (mut seal, mut open) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let (s, o) = round(&mut from, &mut to);
                seal.push(s);
                open.push(o);
            }
            println!("{layer:?} {what}: seal {}  open {}", rate(seal), rate(open));
        }
    }
}

type Round = fn(&mut Records, &mut Records) -> (Duration, Duration);

/// GB/s: median and range.
fn rate(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let bytes = (BATCHES * BATCH) as f64;
    let at = |n: usize| bytes / times.get(n).expect("a round").as_secs_f64() / 1e9;
    format!(
        "{:5.2} GB/s ({:.2}..{:.2})",
        at(ROUNDS / 2),
        at(ROUNDS - 1),
        at(0)
    )
}

/// Time for sealing and time for opening, through the Vec forms, which zero their room first.
fn vecs(from: &mut Records, to: &mut Records) -> (Duration, Duration) {
    let plain: Vec<u8> = (0..BATCH).map(|n| n as u8).collect();
    let mut wire = Vec::with_capacity(sealed_len(BATCH));
    let mut opened = Vec::with_capacity(BATCH + 1);
    let mut outgoing = Vec::new();
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BATCHES {
        wire.clear();
        opened.clear();
        let start = Instant::now();
        from.seal(&plain, &mut wire).expect("sealed");
        let middle = Instant::now();
        let result = to
            .open(&mut wire, &mut opened, BATCH, &mut outgoing)
            .expect("opened");
        opening += middle.elapsed();
        sealing += middle - start;
        assert_eq!((result.consumed, result.plain), (wire.len(), BATCH));
    }
    (sealing, opening)
}

/// Time for sealing and time for opening.
fn slices(from: &mut Records, to: &mut Records) -> (Duration, Duration) {
    let plain: Vec<u8> = (0..BATCH).map(|n| n as u8).collect();
    let mut wire = vec![0; sealed_len(BATCH)];
    let mut opened = vec![0; BATCH + 1];
    let mut outgoing = Vec::new();
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..BATCHES {
        let start = Instant::now();
        let sealed = from.seal_into(&plain, &mut wire).expect("sealed");
        let middle = Instant::now();
        let incoming = wire.get_mut(..sealed).expect("within");
        let result = to
            .open_into(incoming, &mut opened, &mut outgoing)
            .expect("opened");
        opening += middle.elapsed();
        sealing += middle - start;
        assert_eq!((result.consumed, result.plain), (sealed, BATCH));
    }
    (sealing, opening)
}
