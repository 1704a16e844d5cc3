//! What the core costs in instructions: fixed work, counted by callgrind, against `instructions.txt`. More than a tenth above it fails.
//!
//! Counts do not depend on how busy a machine is, so a part that grew is seen on any. Each work runs twice, with one round and with several; the
//! difference is what its rounds cost, without the start of the process. They do depend on the processor's kind and on the compiler: the file
//! names both, and elsewhere nothing is compared, which is said. `VAN_WRITE_COUNTS=1` writes the file anew: after a change that is
//! worth its price, or of the compiler.
#![allow(missing_docs, clippy::expect_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use van_core::credit::Budget;
use van_core::frame::{self, Frame, Kind, MAX_PAYLOAD};
use van_core::handshake::{HelloCredit, RouterId};
use van_core::mux::{CONTROL_CREDIT, Key, Mux, MuxConfig, Opening, Received};
use van_core::record::sealed_len;

const COUNTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions.txt");
/// The works below, and how many rounds of each are counted.
const WORKS: [(&str, u64); 4] = [
    ("frames", 20),
    ("records", 100),
    ("bulk", 20),
    ("streams", 200),
];
const BATCH: usize = 256 * 1_024;

#[test]
fn no_work_costs_a_tenth_more_instructions_than_is_written_down() {
    let this = std::env::current_exe().expect("this test");
    if !this.components().any(|part| part.as_os_str() == "quick") {
        tell("what is written down is of the profile `quick`");
        return;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("VAN_CLUSTER_REQUIRED").is_none(),
            "there is no valgrind: install it"
        );
        tell("there is no valgrind");
        return;
    }
    let known = std::fs::read_to_string(COUNTS).expect("the counts that are known");
    let (of, known) = known.split_once('\n').expect("first what they are of");
    let here = format!("# {} {}", std::env::consts::ARCH, compiler());
    let writes = std::env::var_os("VAN_WRITE_COUNTS").is_some();
    if of != here && !writes {
        tell(&format!(
            "what is written down is of `{of}`, this is `{here}`: VAN_WRITE_COUNTS=1 writes it anew"
        ));
        return;
    }
    let counted: BTreeMap<&str, u64> = WORKS
        .iter()
        .map(|&(work, rounds)| (work, (count(work, 1 + rounds) - count(work, 1)) / rounds))
        .collect();
    let lines: String = counted
        .iter()
        .map(|(work, count)| format!("{work} {count}\n"))
        .collect();
    print!("{lines}");
    if writes {
        std::fs::write(COUNTS, format!("{here}\n{lines}")).expect("written");
        return;
    }
    let known: BTreeMap<&str, u64> = known
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(work, count)| (work, count.parse().expect("a count")))
        .collect();
    let grown: Vec<String> = counted
        .iter()
        .filter(|&(work, &count)| {
            known
                .get(work)
                .is_none_or(|known| count > known + known / 10)
        })
        .map(|(work, count)| {
            format!(
                "{work}: {count} instructions a round, known {:?}",
                known.get(work)
            )
        })
        .collect();
    assert!(grown.is_empty(), "{}", grown.join("; "));
}

/// Past the capture of what a test prints: that nothing was compared must be seen, though it passes.
fn tell(why: &str) {
    writeln!(std::io::stderr(), "\nINSTRUCTIONS ARE NOT COMPARED: {why}").expect("said");
}

/// Which compiler made this, by the words of the one that is called here.
fn compiler() -> String {
    let done = Command::new("rustc")
        .arg("--version")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("rustc runs");
    String::from_utf8(done.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// Instructions of a process that does so many rounds of a work.
fn count(work: &str, rounds: u64) -> u64 {
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", work, "--ignored", "--test-threads=1"])
        .env("ROUNDS", rounds.to_string())
        .output()
        .expect("valgrind runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status.success(),
        "{work}: {said}{}",
        String::from_utf8_lossy(&done.stdout)
    );
    said.lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or_else(|| panic!("no count: {said}"))
}

fn rounds() -> u64 {
    std::env::var("ROUNDS").map_or(1, |text| text.parse().expect("a number"))
}

/// A round: 1,000 frames of 0 to 999 bytes, put and decoded. (Larger copies are counted a byte an instruction: `rep movsb`.)
#[test]
#[ignore = "counted by the test above"]
fn frames() {
    let payload = [7; 1_000];
    let mut wire = Vec::with_capacity(1_000 * 1_100);
    for _ in 0..rounds() {
        wire.clear();
        for n in 0..1_000_usize {
            frame::put(
                &mut wire,
                n as u32,
                Kind::Data,
                payload.get(..n).expect("within"),
            );
        }
        let mut at = 0;
        while let Some((_, used)) =
            frame::decode(wire.get(at..).expect("within")).expect("well-formed")
        {
            at += used;
        }
        assert_eq!(at, wire.len());
    }
}

/// A round: 256 KiB sealed and opened, as lanes do it.
#[test]
#[ignore = "counted by the test above"]
fn records() {
    let (mut from, mut to) = common::record_pair(common::Layer::Direct);
    let plain: Vec<u8> = (0..BATCH).map(|n| n as u8).collect();
    let mut wire = vec![0; sealed_len(BATCH)];
    let mut opened = vec![0; BATCH + 1];
    let mut outgoing = Vec::new();
    for _ in 0..rounds() {
        let sealed = from.seal_into(&plain, &mut wire).expect("sealed");
        let incoming = wire.get_mut(..sealed).expect("within");
        let result = to
            .open_into(incoming, &mut opened, &mut outgoing)
            .expect("opened");
        assert_eq!(result.plain, BATCH);
    }
}

/// A round: 16 MiB of one stream from mux to mux, consumed as it comes, with the credit that goes back. The bytes themselves are not copied.
#[test]
#[ignore = "counted by the test above"]
fn bulk() {
    let mut lane = Lane::new();
    let key = lane
        .near
        .open(0, &opening(), &lane.budget, lane.now)
        .expect("opened");
    lane.cross();
    let payload = [7; MAX_PAYLOAD];
    for _ in 0..rounds() {
        let mut left = 16 << 20;
        while left > 0 {
            lane.near.readable(key);
            while let Some(turn) = lane.near.next_turn() {
                let most = left.min(turn.most as usize).min(BATCH);
                if most == 0 {
                    break;
                }
                for at in (0..most).step_by(MAX_PAYLOAD) {
                    let piece = payload.get(..MAX_PAYLOAD.min(most - at)).expect("within");
                    let frame = Frame {
                        stream: lane.near.id_of(key),
                        kind: Some(Kind::Data),
                        payload: piece,
                    };
                    let said = lane
                        .far
                        .receive(frame, &lane.budget, lane.now)
                        .expect("within the rules");
                    let Some(Received::Data { key, bytes, .. }) = said else {
                        panic!("{said:?}")
                    };
                    lane.far
                        .consumed(key, bytes.len() as u32, &lane.budget, lane.now);
                }
                left -= most;
                lane.near.sent(key, most as u32, left == 0, lane.now);
                if left == 0 {
                    break;
                }
            }
            lane.cross();
        }
    }
}

/// A round: a stream is opened with 200 bytes, answered with 1,024, and over on both sides.
#[test]
#[ignore = "counted by the test above"]
fn streams() {
    let mut lane = Lane::new();
    for _ in 0..rounds() {
        let request = Opening {
            early: &[1; 200],
            fin: true,
            ..opening()
        };
        lane.near
            .open(0, &request, &lane.budget, lane.now)
            .expect("opened");
        lane.cross();
        assert_eq!((lane.near.stream_count(), lane.far.stream_count()), (0, 0));
    }
}

fn opening<'a>() -> Opening<'a> {
    Opening {
        destination: None,
        source: RouterId {
            site: [7; 32],
            boot: 7,
        },
        uuid: [1; 16],
        hop_limit: 8,
        routing_key: "hello",
        attributes: &[],
        early: &[],
        fin: false,
    }
}

/// Two muxes and what is under way between them.
struct Lane {
    near: Mux,
    far: Mux,
    budget: Budget,
    wire: Vec<u8>,
    back: Vec<u8>,
    now: Instant,
}

impl Lane {
    fn new() -> Self {
        let credit = HelloCredit {
            control: CONTROL_CREDIT,
            opens: 16,
            early: 65_536,
        };
        let config = |dialler| MuxConfig {
            dialler,
            ours: credit,
            theirs: credit,
            moves: true,
            max_streams: 64,
            suspect_after: Duration::from_secs(1),
            dead_after: Duration::from_secs(6),
        };
        let now = Instant::now();
        Self {
            near: Mux::new(config(true), now),
            far: Mux::new(config(false), now),
            budget: Budget::new(64 << 20),
            wire: Vec::new(),
            back: Vec::new(),
            now,
        }
    }

    /// Frames go over and back until neither end has any; the far end answers what is open and takes all bytes, the near end ends with it.
    fn cross(&mut self) {
        loop {
            self.now += Duration::from_micros(200);
            self.near.put_urgent(&mut self.wire, &self.budget);
            self.far.put_urgent(&mut self.back, &self.budget);
            if self.wire.is_empty() && self.back.is_empty() {
                return;
            }
            self.at_far();
            self.far.put_urgent(&mut self.back, &self.budget);
            self.at_near();
        }
    }

    fn at_far(&mut self) {
        let wire = std::mem::take(&mut self.wire);
        let mut at = 0;
        let mut answered: Vec<Key> = Vec::new();
        while let Some((frame, used)) =
            frame::decode(wire.get(at..).expect("within")).expect("well-formed")
        {
            at += used;
            match self
                .far
                .receive(frame, &self.budget, self.now)
                .expect("within the rules")
            {
                Some(Received::Open { key, open }) => {
                    self.far.set_owner(key, 0);
                    self.far.accept(key);
                    self.far.readable(key);
                    self.far
                        .consumed(key, open.early.len() as u32, &self.budget, self.now);
                }
                Some(Received::Data { key, bytes, .. }) => {
                    self.far
                        .consumed(key, bytes.len() as u32, &self.budget, self.now);
                }
                Some(Received::Fin { key, .. }) => answered.push(key),
                _ => {}
            }
        }
        self.far.put_urgent(&mut self.back, &self.budget);
        for key in answered {
            let turn = self.far.next_turn().expect("the answer's");
            assert!(turn.key == key && turn.most >= 1_024);
            frame::put(&mut self.back, self.far.id_of(key), Kind::Data, &[2; 1_024]);
            self.far.sent(key, 1_024, false, self.now);
            self.far.finish(key, &mut self.back);
            self.far.release(key, &self.budget);
        }
        self.wire = wire;
        self.wire.clear();
    }

    fn at_near(&mut self) {
        let back = std::mem::take(&mut self.back);
        let mut at = 0;
        while let Some((frame, used)) =
            frame::decode(back.get(at..).expect("within")).expect("well-formed")
        {
            at += used;
            match self
                .near
                .receive(frame, &self.budget, self.now)
                .expect("within the rules")
            {
                Some(Received::Data { key, bytes, .. }) => {
                    self.near
                        .consumed(key, bytes.len() as u32, &self.budget, self.now);
                }
                Some(Received::Fin { key, .. }) => self.near.release(key, &self.budget),
                _ => {}
            }
        }
        self.back = back;
        self.back.clear();
    }
}
