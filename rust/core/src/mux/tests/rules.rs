//! What a lane owes a peer that keeps the rules slowly, and one that bends them.

use super::*;
use crate::mux::{LAST_ID, MOST_OPENING};

fn ids(mut wire: &[u8]) -> Vec<(u32, Option<Kind>)> {
    let mut all = Vec::new();
    while let Ok(Some((frame, used))) = frame::decode(wire) {
        all.push((frame.stream, frame.kind));
        wire = &wire[used..];
    }
    all
}

fn lane_credit(control: u32, opens: u32, early: u32) -> Vec<u8> {
    wire_of(|out| {
        let amounts = [control, opens, early].map(u32::to_be_bytes).concat();
        frame::put(out, 0, Kind::Credit, &amounts);
    })
}

fn goaway(code: GoAway) -> Vec<u8> {
    wire_of(|out| crate::payload::put_reason(out, 0, Kind::GoAway, code as u8, "bye"))
}

#[test]
fn a_stream_that_is_reset_before_its_open_was_written_is_reset_behind_its_open() {
    let now = Instant::now();
    let budget = Budget::new(8 << 20);
    let (mut a, mut b) = (Mux::new(config(true), now), Mux::new(config(false), now));
    let old = a.open(0, &opening(b"", false), &budget, now).unwrap();
    a.put_urgent(&mut Vec::new(), &budget);
    let keys = [b"one".as_slice(), b"two"]
        .map(|early| a.open(1, &opening(early, false), &budget, now).unwrap());
    a.reset(old, Class::Client, "gone", &budget);
    a.reset(keys[1], Class::Client, "gone", &budget);
    let mut wire = Vec::new();
    a.put_urgent(&mut wire, &budget);
    let what = [
        (1, Some(Kind::Reset)),
        (3, Some(Kind::Open)),
        (5, Some(Kind::Open)),
        (5, Some(Kind::Reset)),
    ];
    assert_eq!(ids(&wire), what);
    let mut rest = &wire[frame::HEADER + 1 + "gone".len()..];
    while let Some((frame, used)) = frame::decode(rest).unwrap() {
        b.receive(frame, &budget, now).expect("within the rules");
        rest = &rest[used..];
    }
}

#[test]
fn an_idle_lane_beside_a_silent_one_is_suspect_with_it() {
    let start = Instant::now();
    let budget = Budget::new(1 << 20);
    let [mut busy, mut idle] = [true, true].map(|dialler| Mux::new(config(dialler), start));
    busy.open(0, &opening(b"", false), &budget, start).unwrap();
    let mut verdicts = [Vec::new(), Vec::new()];
    for tick in 1..=12 {
        let now = start + Duration::from_millis(100 * tick);
        let suspect = verdicts[0].last() == Some(&Liveness::Suspect);
        let others = match (suspect, busy.is_silent()) {
            (true, _) => Others::Suspect,
            (false, true) => Others::Silent,
            (false, false) => Others::Well,
        };
        verdicts[1].push(idle.tick_among(others, now));
        verdicts[0].push(busy.tick(now));
    }
    let first = |of: &[Liveness]| of.iter().position(|one| *one == Liveness::Suspect);
    assert_eq!(first(&verdicts[0]), Some(9), "1 s after its OPEN");
    assert_eq!(first(&verdicts[1]), Some(10), "on the tick after that");
}

#[test]
fn a_lane_that_answers_is_well_beside_a_suspect_one() {
    let start = Instant::now();
    let mut mux = Mux::new(config(true), start);
    for tick in 1..=30 {
        let now = start + Duration::from_millis(100 * tick);
        assert_eq!(mux.tick_among(Others::Suspect, now), Liveness::Alive);
        if tick % 2 == 0 {
            mux.heard(now); // nothing for 0.2 s at most
        }
    }
}

#[test]
fn a_time_in_which_we_did_not_run_is_no_silence_of_the_peer() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(true), start);
    mux.open(0, &opening(b"", false), &budget, start).unwrap();
    mux.tick(at(100));
    assert_eq!(mux.tick(at(10_100)), Liveness::Alive, "we were stopped");
    let mut last = Liveness::Alive;
    for tick in 102..=111 {
        last = mux.tick(at(100 * tick));
    }
    assert_eq!(last, Liveness::Suspect, "a second of silence while we ran");
    for tick in 112..=161 {
        last = mux.tick(at(100 * tick));
    }
    assert_eq!(last, Liveness::Dead);
}

#[test]
fn a_lane_full_of_idle_streams_gives_credit_back_without_costing_the_peer_its_patience() {
    let start = Instant::now();
    let budget = Budget::new(1 << 30);
    let many = MuxConfig {
        max_streams: 16_384,
        ours: HelloCredit {
            opens: 256,
            ..GRANT
        },
        ..config(true)
    };
    let mut mux = Mux::new(many, start);
    for _ in 0..64 {
        let keys: Vec<Key> = (0..256)
            .map(|_| mux.open(0, &opening(b"", false), &budget, start).unwrap())
            .collect();
        mux.put_urgent(&mut Vec::new(), &budget);
        for key in keys {
            let id = mux.id_of(key);
            let ok = wire_of(|out| frame::put(out, id, Kind::OpenOk, &65_536u32.to_be_bytes()));
            receive(&mut mux, &ok, &budget, start).unwrap();
        }
        receive(&mut mux, &lane_credit(0, 256, 0), &budget, start).unwrap();
    }
    mux.put_urgent(&mut Vec::new(), &budget);
    let mut sent = Vec::new();
    for tick in 1..400u64 {
        let now = start + Duration::from_millis(100 * tick);
        mux.heard(now);
        mux.tick(now);
        let mut out = Vec::new();
        mux.put_urgent(&mut out, &budget);
        let returns = frames(&out)
            .iter()
            .filter(|kind| **kind == Kind::CreditReturn)
            .count();
        sent.push(returns);
    }
    assert_eq!(sent.iter().sum::<usize>(), 16_384);
    let worst = sent.windows(100).map(|w| w.iter().sum::<usize>()).max();
    assert!(worst < Some(9_000), "{worst:?} in 10 s");
}

#[test]
fn no_more_opens_and_early_data_are_under_way_than_the_protocol_knows_whatever_a_peer_grants() {
    let now = Instant::now();
    let budget = Budget::new(1 << 30);
    let many = MuxConfig {
        max_streams: 16_384,
        ..config(true)
    };
    let mut mux = Mux::new(many, now);
    receive(&mut mux, &lane_credit(0, 1 << 30, 1 << 30), &budget, now).unwrap();
    let mut opened = 0;
    while mux
        .open(0, &opening(&[0; 16_000], false), &budget, now)
        .is_ok()
    {
        opened += 1;
    }
    assert_eq!(opened, (1 << 20) / 16_000);
    while mux.open(0, &opening(b"", false), &budget, now).is_ok() {
        opened += 1;
    }
    assert_eq!(opened, 256);
}

#[test]
fn goaways_that_go_to_and_fro_cost_glitches_and_closed_stays_closed() {
    let now = Instant::now();
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(true), now);
    let codes = [GoAway::Drain, GoAway::Closed, GoAway::Drain];
    for (code, heard) in codes.into_iter().zip([true, true, false]) {
        let wire = goaway(code);
        let received = receive(&mut mux, &wire, &budget, now).unwrap();
        assert_eq!(received.is_some(), heard, "{code:?}");
    }
    assert!(mux.open(0, &opening(b"", false), &budget, now).is_err());
    let flood = (0..20_000).any(|n| {
        let wire = goaway([GoAway::Drain, GoAway::Closed][n % 2]);
        receive(&mut mux, &wire, &budget, now).is_err()
    });
    assert!(flood, "a flood of GOAWAYs has to close the lane");
}

#[test]
fn an_answer_to_an_open_that_is_in_no_batch_yet_closes_the_lane() {
    let now = Instant::now();
    let budget = Budget::new(8 << 20);
    for kind in [Kind::OpenErr, Kind::Reset] {
        let mut mux = Mux::new(config(true), now);
        let answer = |mux: &mut Mux, key| {
            let id = mux.id_of(key);
            let no = wire_of(|out| crate::payload::put_reason(out, id, kind, 7, "no"));
            receive(mux, &no, &budget, now).map(drop)
        };
        let first = mux.open(0, &opening(b"", false), &budget, now).unwrap();
        mux.put_urgent(&mut Vec::new(), &budget);
        let second = mux.open(0, &opening(b"", false), &budget, now).unwrap();
        answer(&mut mux, first).unwrap();
        assert!(answer(&mut mux, second).is_err(), "it cannot know of it");
    }
}

/// It grants on and on, and takes back what it was asked at once: nothing of that has to be stored without end.
#[test]
fn what_a_peer_that_permits_without_reading_makes_a_lane_store_is_bounded() {
    let now = Instant::now();
    let budget = Budget::new(1 << 30);
    let many = MuxConfig {
        max_streams: 16_384,
        ..config(true)
    };
    let early = [0; 16_000];
    let most = MOST_OPENING + frame::MAX_FRAME + 1_536;
    let mut mux = Mux::new(many, now);
    let mut opened = 0;
    for round in 0..100 {
        receive(&mut mux, &lane_credit(0, 256, 1 << 20), &budget, now).unwrap();
        while let Ok(key) = mux.open(0, &opening(&early, false), &budget, now) {
            opened += 1;
            if round % 2 == 1 {
                mux.abandon(key, Class::Client, "changed its mind", &budget);
            }
        }
        assert!(mux.opening.len() <= most, "{}", mux.opening.len());
    }
    assert!((60..=100).contains(&opened), "{opened}");
    assert_eq!(mux.open_credit(), 0, "nobody is asked to try");
    mux.put_urgent(&mut Vec::new(), &budget);
    assert!(mux.open_credit() > 0, "it has room again");
}

#[test]
fn no_more_opens_than_256_are_unanswered_however_many_a_peer_permits() {
    let now = Instant::now();
    let budget = Budget::new(1 << 30);
    let many = MuxConfig {
        max_streams: 16_384,
        ..config(true)
    };
    let mut mux = Mux::new(many, now);
    let mut keys = Vec::new();
    for _ in 0..20 {
        receive(&mut mux, &lane_credit(0, 256, 0), &budget, now).unwrap();
        while let Ok(key) = mux.open(0, &opening(b"", false), &budget, now) {
            keys.push(key);
        }
        mux.put_urgent(&mut Vec::new(), &budget);
    }
    assert_eq!((keys.len(), mux.open_credit()), (256, 0));
    let id = mux.id_of(keys[0]);
    let ok = wire_of(|out| frame::put(out, id, Kind::OpenOk, &9u32.to_be_bytes()));
    receive(&mut mux, &ok, &budget, now).unwrap();
    assert_eq!(mux.open_credit(), 1);
}

#[test]
fn streams_that_are_idle_for_a_moment_again_and_again_leave_turns_for_the_others() {
    let now = Instant::now();
    let budget = Budget::new(8 << 20);
    let mut mux = Mux::new(config(true), now);
    let keys: Vec<Key> = (0..9)
        .map(|owner| {
            let key = mux.open(owner, &opening(b"", false), &budget, now).unwrap();
            mux.put_urgent(&mut Vec::new(), &budget);
            let id = mux.id_of(key);
            let ok = wire_of(|out| frame::put(out, id, Kind::OpenOk, &(1u32 << 30).to_be_bytes()));
            receive(&mut mux, &ok, &budget, now).unwrap();
            mux.readable(key);
            key
        })
        .collect();
    let bulk = keys[0];
    let mut bulk_turns = 0;
    for _ in 0..1_000 {
        let turn = mux.next_turn().unwrap();
        bulk_turns += u32::from(turn.key == bulk);
        mux.sent(turn.key, 1_000, turn.key != bulk, now);
        mux.readable(turn.key);
    }
    assert!(bulk_turns > 80, "{bulk_turns} of 1,000 turns");
}

#[test]
fn open_and_reset_has_a_pace() {
    let start = Instant::now();
    let budget = Budget::new(8 << 20);
    let mut mux = Mux::new(config(false), start);
    let mut id = 1;
    let mut opened = 0;
    for round in 0..1_000u64 {
        while peer_opens(&mut mux, id, b"", &budget, start).is_some() {
            opened += 1;
            let reset = wire_of(|out| crate::payload::put_reason(out, id, Kind::Reset, 1, ""));
            receive(&mut mux, &reset, &budget, start).unwrap();
            id += 2;
        }
        // The refused OPEN used its id.
        id += 2;
        if round % 100 == 99 {
            mux.tick(start + Duration::from_millis(round));
        }
        mux.put_urgent(&mut Vec::new(), &budget);
    }
    assert!(opened <= 256 * 11, "{opened} in ten ticks");
    assert!(opened >= 256 * 5, "{opened} in ten ticks");
}

#[test]
fn when_the_ids_are_used_up_the_lane_says_so() {
    let now = Instant::now();
    let budget = Budget::new(1 << 20);
    let mut mux = Mux::new(config(true), now);
    mux.next_id = LAST_ID - 1;
    assert!(!mux.is_used_up());
    assert!(mux.open(0, &opening(b"", false), &budget, now).is_ok());
    assert!(mux.is_used_up());
    assert!(mux.open(0, &opening(b"", false), &budget, now).is_err());
}

#[test]
fn what_a_stream_costs_is_known() {
    use crate::mux::stream::Stream;
    assert!(size_of::<Stream>() <= 136, "{}", size_of::<Stream>());
    assert!(size_of::<Mux>() <= 640, "{}", size_of::<Mux>());
}

/// The first answer counts as it is: a long way must not be taken for a short one until a lane has been idle for a minute.
#[test]
fn a_window_that_is_used_up_has_the_round_trip_measured_and_grows_by_it() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let budget = Budget::new(256 << 20);
    let mut mux = Mux::new(config(false), start);
    let key = peer_opens(&mut mux, 1, b"", &budget, start).unwrap();
    mux.accept(key);
    let mut wire = Vec::new();
    mux.put_urgent(&mut wire, &budget);
    let mut pings: Vec<Vec<u8>> = Vec::new();
    let mut granted = 0;
    // All that the peer may send comes a round trip of 100 ms after it was allowed to.
    let mut allowed = 65_536_u32;
    for round in 1..=12 {
        let now = at(100 * round);
        for ping in pings.drain(..) {
            let pong: Vec<u8> = wire_of(|out| frame::put(out, 0, Kind::Pong, &ping));
            receive(&mut mux, &pong, &budget, now).unwrap();
        }
        while allowed > 0 {
            let most = allowed.min(16_000);
            let data = wire_of(|out| frame::put(out, 1, Kind::Data, &vec![0; most as usize]));
            receive(&mut mux, &data, &budget, now).unwrap();
            mux.consumed(key, most, &budget, now);
            allowed -= most;
        }
        wire.clear();
        mux.put_urgent(&mut wire, &budget);
        let mut read = 0;
        while let Some((said, used)) = frame::decode(&wire[read..]).unwrap() {
            read += used;
            match said.kind {
                Some(Kind::Ping) => pings.push(said.payload.to_vec()),
                Some(Kind::Credit) if said.stream == 1 => {
                    let grant = u32::from_be_bytes(said.payload[..4].try_into().unwrap());
                    allowed += grant;
                    granted = granted.max(grant);
                }
                _ => {}
            }
        }
    }
    assert!(mux.rtt() >= Duration::from_millis(99), "{:?}", mux.rtt());
    assert!(granted >= 4 << 20, "{granted}: the window did not grow");
}

#[test]
fn late_frames_of_a_stream_reach_no_other_that_has_its_place_since() {
    let now = Instant::now();
    let budget = Budget::new(8 << 20);
    let mut mux = Mux::new(config(false), now);
    let data = |id| wire_of(|out| frame::put(out, id, Kind::Data, b"late"));
    let open = |mux: &mut Mux, id, owner| {
        let key = peer_opens(mux, id, b"", &budget, now).expect("room");
        mux.set_owner(key, owner);
        mux.accept(key);
        mux.put_urgent(&mut Vec::new(), &budget);
        key
    };
    let first = open(&mut mux, 1, 10);
    receive(&mut mux, &data(1), &budget, now).expect("its own");
    // Its place is kept until its RESET is written; then another has it.
    mux.reset(first, Class::Client, "gone", &budget);
    assert_eq!(receive(&mut mux, &data(1), &budget, now), Ok(None));
    mux.put_urgent(&mut Vec::new(), &budget);
    let second = open(&mut mux, 3, 11);
    assert_eq!(first, second, "the place");
    assert_eq!(receive(&mut mux, &data(1), &budget, now), Ok(None));
    let heard = wire_of(|out| frame::put(out, 3, Kind::Data, b"late"));
    let got = receive(&mut mux, &heard, &budget, now).expect("its own");
    assert!(
        matches!(got, Some(Received::Data { owner: 11, .. })),
        "{got:?}"
    );
}
