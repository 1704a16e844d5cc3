//! Two muxes joined by two byte queues: what one puts, the other receives, in chunks of any size.

mod moving;
mod rules;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{CONTROL_CREDIT, Key, Liveness, Mux, MuxConfig, Opening, Others, Received};
use crate::credit::Budget;
use crate::frame::{self, HEADER, Kind, MAX_PAYLOAD};
use crate::handshake::{HelloCredit, RouterId};
use crate::payload::{Class, GoAway, Open};

const GRANT: HelloCredit = HelloCredit {
    control: CONTROL_CREDIT,
    opens: 16,
    early: 65_536,
};
const NOWHERE: RouterId = RouterId {
    site: [7; 32],
    boot: 7,
};

fn config(dialler: bool) -> MuxConfig {
    MuxConfig {
        dialler,
        ours: GRANT,
        theirs: GRANT,
        moves: true,
        max_streams: 64,
        suspect_after: Duration::from_secs(1),
        dead_after: Duration::from_secs(6),
    }
}

fn opening<'a>(early: &'a [u8], fin: bool) -> Opening<'a> {
    Opening {
        destination: None,
        source: NOWHERE,
        uuid: [1; 16],
        hop_limit: 8,
        routing_key: "hello",
        attributes: &[],
        early,
        fin,
    }
}

/// What one application has to send, and what it has got.
#[derive(Debug, Default)]
struct App {
    to_send: Vec<u8>,
    sent: usize,
    ends: bool,
    got: Vec<u8>,
    stored: u32,
    got_fin: bool,
    ended: Option<Class>,
    answered: bool,
}

struct End {
    mux: Mux,
    budget: Budget,
    apps: HashMap<u32, (Key, App)>,
    wire: Vec<u8>,
    control: Vec<u8>,
    next_owner: u32,
}

impl End {
    fn new(dialler: bool, now: Instant) -> Self {
        Self {
            mux: Mux::new(config(dialler), now),
            budget: Budget::new(8 << 20),
            apps: HashMap::new(),
            wire: Vec::new(),
            control: Vec::new(),
            next_owner: 0,
        }
    }

    fn open(&mut self, app: App, early: usize, now: Instant) -> Option<u32> {
        let owner = self.next_owner;
        let early = early.min(app.to_send.len()).min(16_376);
        let key = self
            .mux
            .open(
                owner,
                &opening(&app.to_send[..early], false),
                &self.budget,
                now,
            )
            .ok()?;
        self.next_owner += 1;
        self.mux.readable(key);
        self.apps.insert(owner, (key, App { sent: early, ..app }));
        Some(owner)
    }

    /// Write everything that may be written now into `wire`.
    fn fill(&mut self, now: Instant) {
        self.mux.put_urgent(&mut self.wire, &self.budget);
        while let Some(turn) = self.mux.next_turn() {
            let (_, app) = self
                .apps
                .get_mut(&turn.owner)
                .expect("a turn of a living owner");
            let rest = &app.to_send[app.sent..];
            let bytes = rest.len().min(turn.most as usize);
            let kind = if turn.early { Kind::Early } else { Kind::Data };
            let id = self.mux.id_of(turn.key);
            for piece in rest[..bytes].chunks(MAX_PAYLOAD) {
                frame::put(&mut self.wire, id, kind, piece);
            }
            app.sent += bytes;
            let drained = app.sent == app.to_send.len();
            self.mux
                .sent(turn.key, bytes as u32, drained && !app.ends, now);
            if drained && app.ends {
                self.mux.finish(turn.key, &mut self.wire);
                self.release_if_done(turn.owner);
            }
        }
        self.mux.put_urgent(&mut self.wire, &self.budget);
    }

    fn release_if_done(&mut self, owner: u32) {
        let (key, app) = self.apps.get(&owner).expect("it lives");
        if app.got_fin && app.stored == 0 && self.mux.has_sent_fin(*key) {
            self.mux.release(*key, &self.budget);
        }
    }

    /// Receive what is in `bytes`; returns how many bytes were whole frames.
    fn take(&mut self, bytes: &[u8], answer: impl Fn(u32) -> (App, bool), now: Instant) -> usize {
        let mut at = 0;
        while let Some((frame, used)) = frame::decode(&bytes[at..]).expect("well-formed") {
            at += used;
            match self
                .mux
                .receive(frame, &self.budget, now)
                .expect("within the rules")
            {
                None => {}
                Some(Received::Open { key, open }) => {
                    let owner = self.next_owner;
                    self.next_owner += 1;
                    let (mut app, accept) = answer(owner);
                    if accept {
                        app.got.extend_from_slice(open.early);
                        app.stored = open.early.len() as u32;
                        self.mux.set_owner(key, owner);
                        self.mux.accept(key);
                        self.mux.readable(key);
                        self.apps.insert(owner, (key, app));
                    } else {
                        self.mux.refuse(key, Class::Refused, "no", &self.budget);
                    }
                }
                Some(Received::Answered { owner }) => self.app(owner).answered = true,
                Some(
                    Received::Refused { owner, class, .. } | Received::Reset { owner, class, .. },
                ) => {
                    self.app(owner).ended = Some(class);
                }
                Some(Received::Data { owner, bytes, .. }) => {
                    let app = self.app(owner);
                    app.got.extend_from_slice(bytes);
                    app.stored += bytes.len() as u32;
                }
                Some(Received::Fin { owner, .. }) => {
                    self.app(owner).got_fin = true;
                    self.release_if_done(owner);
                }
                Some(Received::Control(bytes)) => self.control.extend_from_slice(bytes),
                Some(Received::GoAway { .. } | Received::LateReset { .. }) => {}
                Some(other) => panic!("nobody moves here: {other:?}"),
            }
        }
        at
    }

    fn app(&mut self, owner: u32) -> &mut App {
        &mut self.apps.get_mut(&owner).expect("it lives").1
    }

    /// The applications take everything that is stored.
    fn consume(&mut self, now: Instant) {
        let owners: Vec<u32> = self.apps.keys().copied().collect();
        for owner in owners {
            let (key, app) = self.apps.get_mut(&owner).expect("it lives");
            let stored = std::mem::take(&mut app.stored);
            if stored > 0 && app.ended.is_none() {
                let key = *key;
                self.mux.consumed(key, stored, &self.budget, now);
                self.release_if_done(owner);
            }
        }
    }
}

/// Let both ends talk until nothing moves any more.
fn settle(
    a: &mut End,
    b: &mut End,
    chunk: usize,
    answer: impl Fn(u32) -> (App, bool) + Copy,
    now: &mut Instant,
) {
    let mut a_to_b = Vec::new();
    let mut b_to_a = Vec::new();
    for _ in 0..100_000 {
        *now += Duration::from_micros(200);
        a.fill(*now);
        b.fill(*now);
        a_to_b.append(&mut a.wire);
        b_to_a.append(&mut b.wire);
        if a_to_b.is_empty() && b_to_a.is_empty() {
            return;
        }
        for (bytes, to) in [(&mut a_to_b, &mut *b), (&mut b_to_a, &mut *a)] {
            let mut have = 0;
            while have < bytes.len() {
                have = (have + chunk).min(bytes.len());
                let used = to.take(&bytes[..have], answer, *now);
                bytes.drain(..used);
                have -= used;
            }
            to.consume(*now);
        }
    }
    panic!("two muxes never came to rest");
}

fn body(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// client ──▶ mux ═ any chunks ═ mux ──▶ server: every byte arrives once, in order, then FIN, and nothing stays reserved.
    #[test]
    fn how_bytes_are_chunked_never_changes_the_streams(
        chunk in 1usize..70_000,
        streams in prop::collection::vec((0usize..200_000, 0usize..200_000, 0usize..20_000), 1..12),
    ) {
        let mut now = Instant::now();
        let (mut a, mut b) = (End::new(true, now), End::new(false, now));
        let reply = |owner: u32| (App { to_send: body(owner as u8, streams[owner as usize].1), ends: true, ..App::default() }, true);
        for (seed, (len, _, early)) in streams.iter().enumerate() {
            let app = App { to_send: body(seed as u8, *len), ends: true, ..App::default() };
            prop_assert!(a.open(app, (*early).min(5000), now).is_some());
        }
        settle(&mut a, &mut b, chunk.max(HEADER), reply, &mut now);
        for (owner, (len, back, _)) in streams.iter().enumerate() {
            let (_, client) = &a.apps[&(owner as u32)];
            let (_, server) = &b.apps[&(owner as u32)];
            prop_assert_eq!(&server.got, &body(owner as u8, *len));
            prop_assert_eq!(&client.got, &body(owner as u8, *back));
            prop_assert!(client.got_fin && server.got_fin && client.answered);
        }
        prop_assert_eq!((a.mux.stream_count(), b.mux.stream_count()), (0, 0));
        a.mux.close(&a.budget);
        b.mux.close(&b.budget);
        prop_assert_eq!((a.budget.used(), b.budget.used()), (0, 0));
    }

    #[test]
    fn no_bytes_make_a_lane_panic(frames in prop::collection::vec((0u32..9, any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 0..200)) {
        let now = Instant::now();
        let mut end = End::new(true, now);
        let _ = end.open(App::default(), 0, now);
        for (id, kind, payload) in frames {
            let mut wire = frame::header(id, Kind::Data, payload.len()).to_vec();
            wire[7] = kind % 20;
            wire.extend_from_slice(&payload);
            let Ok(Some((frame, _))) = frame::decode(&wire) else { continue };
            match end.mux.receive(frame, &end.budget, now) {
                Ok(Some(Received::Open { key, .. })) => end.mux.accept(key),
                Ok(Some(Received::Data { key, bytes, .. })) => end.mux.consumed(key, bytes.len() as u32, &end.budget, now),
                Ok(_) => {}
                Err(_) => break,
            }
            let mut out = Vec::new();
            end.mux.put_urgent(&mut out, &end.budget);
        }
        end.mux.close(&end.budget);
        prop_assert_eq!(end.budget.used(), 0);
    }
}

fn wire_of(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut wire = Vec::new();
    put(&mut wire);
    wire
}

fn receive<'a>(
    mux: &mut Mux,
    wire: &'a [u8],
    budget: &Budget,
    now: Instant,
) -> Result<Option<Received<'a>>, super::Violation> {
    let (frame, _) = frame::decode(wire).unwrap().unwrap();
    mux.receive(frame, budget, now)
}

fn peer_opens(mux: &mut Mux, id: u32, early: &[u8], budget: &Budget, now: Instant) -> Option<Key> {
    let wire = wire_of(|out| {
        Open {
            destination: None,
            source: NOWHERE,
            uuid: [0; 16],
            credit: 4096,
            hop_limit: 1,
            routing_key: "k",
            attributes: &[],
            early,
        }
        .put(out, id);
    });
    match receive(mux, &wire, budget, now) {
        Ok(Some(Received::Open { key, .. })) => Some(key),
        _ => None,
    }
}

#[test]
fn data_beyond_the_credit_closes_the_lane() {
    let now = Instant::now();
    let budget = Budget::new(8192); // only floors: 2,048 bytes of credit
    let mut mux = Mux::new(config(false), now);
    let key = peer_opens(&mut mux, 1, b"", &budget, now).unwrap();
    mux.accept(key);
    mux.put_urgent(&mut Vec::new(), &budget);
    let fits = wire_of(|out| frame::put(out, 1, Kind::Data, &[0; 2048]));
    assert!(receive(&mut mux, &fits, &budget, now).is_ok());
    let too_much = wire_of(|out| frame::put(out, 1, Kind::Data, &[0; 1]));
    assert!(receive(&mut mux, &too_much, &budget, now).is_err());
}

#[test]
fn a_fin_whose_total_is_not_what_came_closes_the_lane() {
    let now = Instant::now();
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(false), now);
    let key = peer_opens(&mut mux, 1, b"12345", &budget, now).unwrap();
    mux.accept(key);
    let short = wire_of(|out| frame::put(out, 1, Kind::Fin, &4u64.to_be_bytes()));
    assert!(receive(&mut mux, &short, &budget, now).is_err());
    let right = wire_of(|out| frame::put(out, 1, Kind::Fin, &5u64.to_be_bytes()));
    assert!(matches!(
        receive(&mut mux, &right, &budget, now),
        Ok(Some(Received::Fin { .. }))
    ));
    assert!(
        receive(&mut mux, &right, &budget, now).is_err(),
        "a second FIN"
    );
}

#[test]
fn ids_are_never_reused_and_have_the_right_parity() {
    let now = Instant::now();
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(false), now);
    assert!(peer_opens(&mut mux, 3, b"", &budget, now).is_some());
    for id in [1, 3, 2, 1 << 31] {
        assert!(
            peer_opens(&mut mux, id, b"", &budget, now).is_none(),
            "id {id}"
        );
    }
    let never = wire_of(|out| frame::put(out, 9, Kind::Data, b"x"));
    assert!(receive(&mut mux, &never, &budget, now).is_err());
}

#[test]
fn more_opens_than_were_granted_close_the_lane_and_answers_give_them_back() {
    let now = Instant::now();
    let budget = Budget::new(8 << 20);
    let mut mux = Mux::new(config(false), now);
    let keys: Vec<Key> = (0..16)
        .map(|n| peer_opens(&mut mux, 2 * n + 1, b"", &budget, now).unwrap())
        .collect();
    assert!(peer_opens(&mut mux, 101, b"", &budget, now).is_none());
    for key in keys {
        mux.accept(key);
    }
    let mut out = Vec::new();
    mux.put_urgent(&mut out, &budget);
    let mut opens = 0;
    let mut at = 0;
    while let Some((frame, used)) = frame::decode(&out[at..]).unwrap() {
        at += used;
        if frame.stream == 0 && frame.kind == Some(Kind::Credit) {
            opens += u32::from_be_bytes(frame.payload[4..8].try_into().unwrap());
        }
    }
    assert_eq!(opens, 32, "16 back, and 16 more because all were used");
}

#[test]
fn a_peer_that_provokes_credits_and_pings_gets_state_not_a_queue() {
    let now = Instant::now();
    let budget = Budget::new(8 << 20);
    let mut mux = Mux::new(config(false), now);
    let key = peer_opens(&mut mux, 1, b"", &budget, now).unwrap();
    mux.accept(key);
    for n in 0..9_000u64 {
        let ping = wire_of(|out| frame::put(out, 0, Kind::Ping, &n.to_be_bytes()));
        receive(&mut mux, &ping, &budget, now).unwrap();
    }
    let mut out = Vec::new();
    mux.put_urgent(&mut out, &budget);
    assert!(
        out.len() < 200,
        "one PONG and one OPEN_OK, {} bytes",
        out.len()
    );
    for n in 0..2_000u64 {
        let ping = wire_of(|out| frame::put(out, 0, Kind::Ping, &n.to_be_bytes()));
        if receive(&mut mux, &ping, &budget, now).is_err() {
            return;
        }
    }
    panic!("a flood of PINGs has to close the lane");
}

#[test]
fn silence_makes_a_lane_suspect_at_1_s_only_with_something_outstanding_and_dead_at_6_s() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(true), start);
    let mut ticked = 0;
    let mut tick_until = |mux: &mut Mux, until: u64| {
        while ticked + 100 < until {
            ticked += 100;
            mux.tick(at(ticked));
        }
        ticked = until;
        mux.tick(at(until))
    };
    assert_eq!(
        tick_until(&mut mux, 1_500),
        Liveness::Alive,
        "nothing is outstanding"
    );
    mux.open(0, &opening(b"", false), &budget, at(1_500))
        .unwrap();
    assert_eq!(tick_until(&mut mux, 2_499), Liveness::Alive);
    assert_eq!(tick_until(&mut mux, 2_500), Liveness::Suspect);
    mux.heard(at(2_600));
    assert_eq!(tick_until(&mut mux, 3_599), Liveness::Alive);
    assert_eq!(tick_until(&mut mux, 3_600), Liveness::Suspect);
    assert_eq!(tick_until(&mut mux, 8_599), Liveness::Suspect);
    assert_eq!(tick_until(&mut mux, 8_600), Liveness::Dead);
}

#[test]
fn a_reset_counts_until_it_is_written_and_what_is_under_way_for_it_is_dropped() {
    let now = Instant::now();
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(false), now);
    let key = peer_opens(&mut mux, 1, b"", &budget, now).unwrap();
    mux.accept(key);
    mux.put_urgent(&mut Vec::new(), &budget);
    mux.reset(key, Class::Target, "gone", &budget);
    assert_eq!(mux.stream_count(), 1);
    let late = wire_of(|out| frame::put(out, 1, Kind::Data, b"late"));
    assert_eq!(receive(&mut mux, &late, &budget, now), Ok(None));
    let mut out = Vec::new();
    mux.put_urgent(&mut out, &budget);
    assert_eq!(
        frame::decode(&out).unwrap().unwrap().0.kind,
        Some(Kind::Reset)
    );
    assert_eq!((mux.stream_count(), budget.used()), (0, 0));
}

#[test]
fn a_sender_that_is_idle_for_5_s_gives_back_what_is_above_the_floor() {
    let start = Instant::now();
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(true), start);
    let key = mux.open(0, &opening(b"", false), &budget, start).unwrap();
    mux.put_urgent(&mut Vec::new(), &budget);
    let ok = wire_of(|out| frame::put(out, mux.id_of(key), Kind::OpenOk, &65_536u32.to_be_bytes()));
    receive(&mut mux, &ok, &budget, start).unwrap();
    let mut out = Vec::new();
    mux.tick(start + Duration::from_millis(4_900));
    mux.put_urgent(&mut out, &budget);
    assert!(!frames(&out).contains(&Kind::CreditReturn));
    mux.tick(start + Duration::from_secs(8));
    mux.put_urgent(&mut out, &budget);
    assert!(frames(&out).contains(&Kind::CreditReturn));
}

fn frames(mut wire: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    while let Ok(Some((frame, used))) = frame::decode(wire) {
        kinds.extend(frame.kind);
        wire = &wire[used..];
    }
    kinds
}

#[test]
fn after_goaway_closed_nothing_is_opened_and_after_drain_it_still_is() {
    let now = Instant::now();
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(true), now);
    let drain =
        wire_of(|out| crate::payload::put_reason(out, 0, Kind::GoAway, GoAway::Drain as u8, "bye"));
    receive(&mut mux, &drain, &budget, now).unwrap();
    assert!(mux.open(0, &opening(b"", false), &budget, now).is_ok());
    let closed = wire_of(|out| {
        crate::payload::put_reason(out, 0, Kind::GoAway, GoAway::Closed as u8, "bye")
    });
    receive(&mut mux, &closed, &budget, now).unwrap();
    assert!(mux.open(0, &opening(b"", false), &budget, now).is_err());
}
