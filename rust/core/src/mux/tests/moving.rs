//! Streams that move between two lanes: whatever is late, the bytes are the same, and credit is neither lost nor made.

mod credit;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{body, config, opening, peer_opens, receive, wire_of};
use crate::credit::Budget;
use crate::frame::{self, Kind, MAX_PAYLOAD};
use crate::mux::{Detached, EPOCH, Key, Mux, Received, Violation};
use crate::payload::{self, Class, Open};

/// What one application sends and has got.
#[derive(Debug, Default)]
struct App {
    to_send: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    stored: u32,
    got_fin: bool,
    over: bool,
    reset: bool,
}

/// Where a stream is at one end.
#[derive(Debug)]
enum Place {
    On(usize, Key),
    Between,
    Gone,
}

/// One end of two lanes.
struct End {
    lanes: [Mux; 2],
    wires: [Vec<u8>; 2],
    budget: Budget,
    streams: Vec<(Place, App)>,
    parked: HashMap<u64, (Detached, u32)>,
    next_name: u64,
    moved: usize,
}

impl End {
    /// One end dialled both lanes, or each end one of them.
    fn new(dialled: [bool; 2], first_name: u64, now: Instant) -> Self {
        Self {
            lanes: dialled.map(|dialler| Mux::new(config(dialler), now)),
            wires: [Vec::new(), Vec::new()],
            budget: Budget::new(16 << 20),
            streams: Vec::new(),
            parked: HashMap::new(),
            next_name: first_name,
            moved: 0,
        }
    }

    fn open(&mut self, lane: usize, to_send: Vec<u8>, now: Instant) {
        let owner = self.streams.len() as u32;
        let key = self.lanes[lane]
            .open(owner, &opening(&[], false), &self.budget, now)
            .expect("room");
        self.lanes[lane].readable(key);
        let app = App {
            to_send,
            ..App::default()
        };
        self.streams.push((Place::On(lane, key), app));
    }

    fn ask(&mut self, owner: usize) {
        if let Some((Place::On(lane, key), _)) = self.streams.get(owner) {
            self.next_name += 1;
            self.lanes[*lane].ask_to_leave(*key, self.next_name);
        }
    }

    fn reset(&mut self, owner: usize) {
        if let Some((place, app)) = self.streams.get_mut(owner)
            && let Place::On(lane, key) = *place
        {
            self.lanes[lane].reset(key, Class::Client, "it left", &self.budget);
            *place = Place::Gone;
            app.reset = true;
        }
    }

    /// Write what may be written on a lane, a little of it at a time.
    fn fill(&mut self, lane: usize, most: usize, now: Instant) {
        let (mux, wire) = (&mut self.lanes[lane], &mut self.wires[lane]);
        mux.put_urgent(wire, &self.budget);
        for (place, _) in &self.streams {
            if let Place::On(at, key) = *place
                && at == lane
            {
                mux.readable(key);
            }
        }
        let end = wire.len() + most;
        while wire.len() < end
            && let Some(turn) = mux.next_turn()
        {
            let (_, app) = &mut self.streams[turn.owner as usize];
            let rest = &app.to_send[app.sent..];
            let bytes = rest.len().min(turn.most as usize).min(3 * MAX_PAYLOAD);
            let kind = if turn.early { Kind::Early } else { Kind::Data };
            for piece in rest[..bytes].chunks(MAX_PAYLOAD) {
                frame::put(wire, mux.id_of(turn.key), kind, piece);
            }
            app.sent += bytes;
            mux.sent(turn.key, bytes as u32, false, now);
            if app.sent == app.to_send.len() {
                mux.finish(turn.key, wire);
            }
        }
        for owner in 0..self.streams.len() {
            self.release(owner);
        }
    }

    fn release(&mut self, owner: usize) {
        let (place, app) = &mut self.streams[owner];
        if let Place::On(lane, key) = *place
            && app.got_fin
            && app.stored == 0
            && self.lanes[lane].has_sent_fin(key)
        {
            self.lanes[lane].release(key, &self.budget);
            *place = Place::Gone;
            app.over = true;
        }
    }

    fn consume(&mut self, owner: usize, most: u32, now: Instant) {
        let Some((Place::On(lane, key), app)) = self.streams.get_mut(owner) else {
            return;
        };
        let bytes = app.stored.min(most);
        app.stored -= bytes;
        self.lanes[*lane].consumed(*key, bytes, &self.budget, now);
        self.release(owner);
    }

    fn take(&mut self, lane: usize, frame: frame::Frame<'_>, answers: &[Vec<u8>], now: Instant) {
        let mux = &mut self.lanes[lane];
        let received = mux
            .receive(frame, &self.budget, now)
            .expect("within the rules");
        match received {
            None | Some(Received::Answered { .. }) => {}
            Some(Received::Open { key, open }) => {
                let owner = self.streams.len();
                mux.set_owner(key, owner as u32);
                mux.accept(key);
                mux.readable(key);
                let app = App {
                    to_send: answers[owner].clone(),
                    got: open.early.to_vec(),
                    stored: open.early.len() as u32,
                    ..App::default()
                };
                self.streams.push((Place::On(lane, key), app));
            }
            Some(Received::Data { owner, bytes, .. }) => {
                let (_, app) = &mut self.streams[owner as usize];
                app.got.extend_from_slice(bytes);
                app.stored += bytes.len() as u32;
            }
            Some(Received::Fin { owner, .. }) => {
                self.streams[owner as usize].1.got_fin = true;
                self.release(owner as usize);
            }
            Some(Received::Reset { owner, .. }) => {
                let (place, app) = &mut self.streams[owner as usize];
                (*place, app.reset) = (Place::Gone, true);
            }
            Some(Received::Asked { owner, key, name }) => match mux.let_go(key, name) {
                Some(stream) => {
                    self.streams[owner as usize].0 = Place::Between;
                    self.parked.insert(name, (stream, owner));
                }
                None => mux.keep(key),
            },
            Some(Received::Left { owner, key }) => {
                let (stream, name) = mux.take_left(key).expect("it asked");
                let other = &mut self.lanes[1 - lane];
                let key = other.open_moved(stream, name, owner, now).expect("room");
                self.streams[owner as usize].0 = Place::On(1 - lane, key);
                self.moved += 1;
            }
            Some(Received::Moved { id, name, total }) => match self.parked.remove(&name) {
                Some((stream, owner)) => {
                    assert_eq!(stream.received(), total);
                    let key = mux.adopt(id, stream, owner);
                    self.streams[owner as usize].0 = Place::On(lane, key);
                }
                None => mux.refuse_moved(id).expect("few of them"),
            },
            Some(Received::LateReset { id, .. }) => {
                let was = |(_, (stream, _)): &(&u64, &(Detached, u32))| stream.id() == id;
                let name = self.parked.iter().find(was).map(|(name, _)| *name);
                if let Some((stream, owner)) = name.and_then(|name| self.parked.remove(&name)) {
                    stream.close(&self.budget);
                    let (place, app) = &mut self.streams[owner as usize];
                    (*place, app.reset) = (Place::Gone, true);
                }
            }
            Some(other) => panic!("{other:?}"),
        }
    }
}

/// Both ends, and what is under way: `[lane][direction]`.
struct Link {
    ends: [End; 2],
    under_way: [[Vec<u8>; 2]; 2],
    answers: Vec<Vec<u8>>,
    now: Instant,
}

impl Link {
    fn new(both_dialled_by_one: bool) -> Self {
        let now = Instant::now();
        let (a, b) = if both_dialled_by_one {
            ([true, true], [false, false])
        } else {
            ([true, false], [false, true])
        };
        Self {
            ends: [End::new(a, 0, now), End::new(b, 1 << 32, now)],
            under_way: Default::default(),
            answers: Vec::new(),
            now,
        }
    }

    fn step(&mut self, what: u8, lane: usize, side: usize, amount: usize, owner: usize) {
        self.now += Duration::from_millis(1);
        let now = self.now;
        let end = &mut self.ends[side];
        let owner = owner % end.streams.len().max(1);
        match what {
            0..=2 => {
                end.fill(lane, amount, now);
                self.under_way[lane][side].append(&mut end.wires[lane]);
            }
            3..=5 => {
                let have = self.under_way[lane][side].len().min(amount);
                self.arrive(lane, side, have);
            }
            6 => end.consume(owner, amount as u32, now),
            7 => end.ask(owner),
            8 => self.rest(),
            _ => {}
        }
    }

    /// Nothing is sent for a while: who holds credit gives it back.
    fn rest(&mut self) {
        self.now += Duration::from_millis(5_100);
        for end in &mut self.ends {
            for (place, _) in &end.streams {
                if let Place::On(lane, key) = *place {
                    end.lanes[lane].sent(key, 0, true, self.now - Duration::from_millis(5_100));
                }
            }
            for mux in &mut end.lanes {
                mux.heard(self.now);
                mux.tick(self.now);
            }
        }
    }

    /// Whole frames among the first `have` bytes of a direction arrive.
    fn arrive(&mut self, lane: usize, from: usize, have: usize) {
        let wire = &mut self.under_way[lane][from];
        let mut at = 0;
        while let Some((frame, used)) = frame::decode(&wire[at..have]).expect("well-formed") {
            self.ends[1 - from].take(lane, frame, &self.answers, self.now);
            at += used;
        }
        wire.drain(..at);
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for lane in 0..2 {
                for side in 0..2 {
                    self.step(0, lane, side, 1 << 20, 0);
                    let have = self.under_way[lane][side].len();
                    moved |= have > 0;
                    self.arrive(lane, side, have);
                }
            }
            for end in &mut self.ends {
                for owner in 0..end.streams.len() {
                    let (place, app) = &end.streams[owner];
                    moved |= matches!(place, Place::On(..)) && app.stored > 0;
                    end.consume(owner, u32::MAX, self.now);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Nothing is reserved any more but what the lanes have for themselves.
    fn assert_nothing_is_reserved(&mut self) {
        for end in &mut self.ends {
            assert!(end.parked.is_empty());
            for mux in &mut end.lanes {
                assert_eq!(mux.stream_count(), 0);
                mux.close(&end.budget);
            }
            assert_eq!(end.budget.used(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn however_the_lanes_are_read_the_bytes_of_streams_that_move_are_the_same(
        one_dialled in any::<bool>(),
        sizes in prop::collection::vec((0usize..400_000, 0usize..400_000), 1..4),
        steps in prop::collection::vec((0u8..8, 0usize..2, 0usize..2, 1usize..120_000, 0usize..4), 0..400),
    ) {
        let mut link = Link::new(one_dialled);
        for (n, (there, back)) in sizes.iter().enumerate() {
            link.answers.push(body(n as u8 + 100, *back));
            let now = link.now;
            link.ends[0].open(n % 2, body(n as u8, *there), now);
            // The same order at both ends.
            link.step(0, n % 2, 0, 1, 0);
            let have = link.under_way[n % 2][0].len();
            link.arrive(n % 2, 0, have);
        }
        for (what, lane, side, amount, owner) in steps {
            link.step(what, lane, side, amount, owner);
        }
        link.settle();
        for (n, (there, back)) in sizes.iter().enumerate() {
            let [a, b] = &link.ends;
            for (app, expected) in [(&a.streams[n].1, body(n as u8 + 100, *back)), (&b.streams[n].1, body(n as u8, *there))] {
                prop_assert!(app.over && !app.reset, "stream {} did not end: {} {}; {:?} {:?}", n, app.over, app.reset, a.streams[n].0, b.streams[n].0);
                prop_assert!(app.got == expected);
            }
        }
        link.assert_nothing_is_reserved();
    }

    #[test]
    fn a_stream_that_is_reset_while_it_moves_is_reset_at_both_ends_and_leaves_nothing(
        one_dialled in any::<bool>(), who in 0usize..2,
        before in prop::collection::vec((0u8..8, 0usize..2, 0usize..2, 1usize..120_000), 0..60),
        after in prop::collection::vec((0u8..7, 0usize..2, 0usize..2, 1usize..120_000), 0..60),
    ) {
        let mut link = Link::new(one_dialled);
        link.answers.push(body(9, 3_000_000));
        let now = link.now;
        link.ends[0].open(0, body(8, 3_000_000), now);
        link.step(0, 0, 0, 1, 0);
        let have = link.under_way[0][0].len();
        link.arrive(0, 0, have);
        for (what, lane, side, amount) in before {
            link.step(what, lane, side, amount, 0);
        }
        // Where it is between lanes nobody listens to the application; it says it again afterwards.
        link.ends[who].reset(0);
        for (what, lane, side, amount) in after {
            link.step(what, lane, side, amount, 0);
        }
        link.ends[who].reset(0);
        link.settle();
        link.ends[who].reset(0);
        link.settle();
        for end in &link.ends {
            let app = &end.streams[0].1;
            prop_assert!(app.reset || app.over, "{:?} {}", end.streams[0].0, who);
        }
        prop_assert_eq!(link.ends[0].streams[0].1.reset, link.ends[1].streams[0].1.reset);
        link.assert_nothing_is_reserved();
    }
}

#[test]
fn a_stream_goes_to_and_fro_and_both_ends_may_ask_at_once() {
    for one_dialled in [true, false] {
        let mut link = Link::new(one_dialled);
        link.answers.push(body(2, 5_000_000));
        let now = link.now;
        link.ends[0].open(0, body(1, 5_000_000), now);
        for _ in 0..10 {
            for _ in 0..3 {
                for lane in 0..2 {
                    for side in 0..2 {
                        link.step(0, lane, side, 50_000, 0);
                        let have = link.under_way[lane][side].len();
                        link.arrive(lane, side, have);
                        link.step(6, lane, side, 1 << 20, 0);
                    }
                }
            }
            link.ends[0].ask(0);
            link.ends[1].ask(0);
        }
        link.settle();
        let moved: usize = link.ends.iter().map(|end| end.moved).sum();
        assert!(moved >= 9, "{moved}");
        assert!(link.ends[0].streams[0].1.got == body(2, 5_000_000));
        assert!(link.ends[1].streams[0].1.got == body(1, 5_000_000));
        link.assert_nothing_is_reserved();
    }
}

/// A lane with one stream of the peer, answered.
fn with_stream(now: Instant) -> (Mux, Budget, Key) {
    let (mut mux, budget) = (Mux::new(config(false), now), Budget::new(1 << 20));
    let key = peer_opens(&mut mux, 1, b"", &budget, now).expect("room");
    mux.set_owner(key, 0);
    mux.accept(key);
    let mut out = Vec::new();
    mux.put_urgent(&mut out, &budget);
    (mux, budget, key)
}

fn ask(
    mux: &mut Mux,
    id: u32,
    name: u64,
    total: u64,
    budget: &Budget,
) -> Result<String, Violation> {
    let wire = wire_of(|out| payload::put_move(out, id, name, total));
    receive(mux, &wire, budget, Instant::now()).map(|got| format!("{got:?}"))
}

#[test]
fn what_is_no_move_closes_the_lane() {
    let now = Instant::now();
    let (mut mux, budget, _) = with_stream(now);
    assert!(ask(&mut mux, 1, 0, 0, &budget).is_err(), "a no to nothing");
    assert!(
        ask(&mut mux, 1, 7, 5, &budget).is_err(),
        "bytes that did not come"
    );
    assert!(ask(&mut mux, 2, 7, 0, &budget).is_err(), "an id of ours");
    assert!(
        ask(&mut mux, 3, 0, 0, &budget).is_err(),
        "a stream without a name"
    );
    let mut alone = Mux::new(
        crate::mux::MuxConfig {
            moves: false,
            ..config(false)
        },
        now,
    );
    assert!(
        ask(&mut alone, 1, 7, 0, &budget).is_err(),
        "it was not agreed on"
    );
}

#[test]
fn early_data_that_the_application_has_not_taken_keep_a_stream_where_it_is() {
    let now = Instant::now();
    let (mut mux, budget) = (Mux::new(config(false), now), Budget::new(1 << 20));
    let key = peer_opens(&mut mux, 1, b"hello", &budget, now).expect("room");
    mux.accept(key);
    let mut out = Vec::new();
    mux.put_urgent(&mut out, &budget);
    assert!(!mux.may_leave(key));
    ask(&mut mux, 1, 7, 5, &budget).expect("a move");
    assert!(mux.let_go(key, 7).is_none());
    mux.keep(key);
    out.clear();
    mux.put_urgent(&mut out, &budget);
    let (no, _) = frame::decode(&out).unwrap().unwrap();
    assert_eq!((no.stream, no.kind), (1, Some(Kind::Move)));
    assert_eq!(payload::decode_move(no.payload).unwrap(), (0, 0));
    mux.consumed(key, 5, &budget, now);
    assert!(mux.may_leave(key));
}

#[test]
fn moves_that_nobody_knows_are_answered_and_bounded() {
    let now = Instant::now();
    let (mut mux, budget, _) = with_stream(now);
    let mut bounded = false;
    for n in 1..1_000u32 {
        let id = 2 * n + 1;
        ask(&mut mux, id, 99, 0, &budget).expect("a move");
        if mux.refuse_moved(id).is_err() {
            bounded = true;
            break;
        }
    }
    assert!(bounded);
    let mut out = Vec::new();
    mux.put_urgent(&mut out, &budget);
    let (reset, _) = frame::decode(&out).unwrap().unwrap();
    assert_eq!((reset.stream, reset.kind), (3, Some(Kind::Reset)));
}

#[test]
fn of_a_stream_that_went_on_and_left_again_no_move_is_in_doubt() {
    let now = Instant::now();
    let (mut old, budget, key) = with_stream(now);
    old.ask_to_leave(key, 7);
    old.put_urgent(&mut Vec::new(), &budget);
    ask(&mut old, 1, 7, 0, &budget).expect("an answer");
    let (stream, name) = old.take_left(key).expect("it left");
    let mut new = Mux::new(config(false), now);
    let key = new.open_moved(stream, name, 0, now).expect("room");
    new.put_urgent(&mut Vec::new(), &budget);
    assert_eq!(new.moves_in_doubt(now), [(7, 0)]);
    new.ask_to_leave(key, 8);
    new.put_urgent(&mut Vec::new(), &budget);
    ask(&mut new, 2, 8, 0, &budget).expect("an answer");
    let (stream, _) = new.take_left(key).expect("it left again");
    assert_eq!(new.moves_in_doubt(now), []);
    stream.close(&budget);
}

/// Lanes of one way are lost together, and the one that is left has to bear what all of them asked for.
#[test]
fn moves_of_many_lost_lanes_that_are_taken_back_on_one_do_not_close_it() {
    let now = Instant::now();
    let (mut ours, budget) = (Mux::new(config(true), now), Budget::new(1 << 20));
    let mut theirs = Mux::new(config(false), now);
    let mut told = 0;
    for round in 0..3 {
        let at = now + Duration::from_secs(9 * round);
        for name in 1..=4 * 128 {
            ours.withdraw(1_000 * round + name, 0, at);
        }
        // All of it is read before anything is written.
        let wire = wire_of(|out| ours.put_urgent(out, &budget));
        let mut rest = &wire[..];
        while let Some((frame, used)) = frame::decode(rest).expect("well-formed") {
            rest = &rest[used..];
            if let Some(Received::Moved { id, .. }) = theirs
                .receive(frame, &budget, at)
                .expect("well-formed frames")
            {
                theirs.refuse_moved(id).expect("the lane lives");
                told += 1;
            }
        }
    }
    assert_eq!(told, 2 * 128, "but not for ever");
}

#[test]
fn a_stream_is_bulky_by_large_frames_only_and_calms_down() {
    let now = Instant::now();
    let (mut mux, budget, key) = with_stream(now);
    let data = |mux: &mut Mux, size: usize, count: usize| {
        for _ in 0..count {
            let bytes = vec![1; size];
            let wire = wire_of(|out| frame::put(out, 1, Kind::Data, &bytes));
            receive(mux, &wire, &budget, now).expect("data");
            mux.consumed(key, size as u32, &budget, now);
            mux.put_urgent(&mut Vec::new(), &budget);
        }
    };
    data(&mut mux, 1_200, 2_000);
    mux.end_epoch();
    assert!(!mux.is_bulky(key), "small frames, however many");
    assert_eq!(mux.dialogues().count(), 1);
    data(&mut mux, 16_376, 40);
    assert!(mux.is_bulky(key));
    mux.end_epoch();
    assert_eq!((mux.bulky().count(), mux.dialogues().count()), (1, 0));
    for _ in 0..(1_000 / EPOCH.as_millis()) {
        mux.end_epoch();
    }
    assert_eq!((mux.bulky().count(), mux.dialogues().count()), (0, 0));
    assert!(!mux.is_bulky(key));
}

#[test]
fn an_open_and_a_move_come_in_the_order_of_their_ids() {
    let now = Instant::now();
    let (mut mux, budget, key) = with_stream(now);
    ask(&mut mux, 1, 7, 0, &budget).expect("a move");
    let stream = mux.let_go(key, 7).expect("it goes");
    let mut other = Mux::new(config(true), now);
    let first = other.open(0, &opening(b"", false), &budget, now).unwrap();
    let moved = other.open_moved(stream, 7, 1, now).expect("room");
    let last = other.open(2, &opening(b"", false), &budget, now).unwrap();
    let mut out = Vec::new();
    other.put_urgent(&mut out, &budget);
    let mut got = Vec::new();
    let mut at = 0;
    while let Some((frame, used)) = frame::decode(&out[at..]).unwrap() {
        got.push((frame.stream, frame.kind.unwrap()));
        at += used;
        if frame.kind == Some(Kind::Open) {
            Open::decode(frame.payload).expect("an OPEN");
        }
    }
    assert_eq!(got, [(1, Kind::Open), (3, Kind::Move), (5, Kind::Open)]);
    assert_eq!([first, moved, last].map(|key| other.id_of(key)), [1, 3, 5]);
}
