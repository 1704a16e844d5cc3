//! Credit of streams that move: what a receiver granted is with the sender or under way at every moment, and nothing else is.

use super::*;
use crate::mux::stream::{Flags, Stream};

/// Whose stream it is, by lane and id: both ends name it alike, and no id is used again.
type Names = HashMap<(usize, u32), usize>;

fn stream_of(end: &End, owner: usize) -> Option<&Stream> {
    let parked = || end.parked.values().find(|(_, of)| *of as usize == owner);
    match end.streams.get(owner)?.0 {
        Place::On(lane, key) => end.lanes[lane].streams.get(key as usize),
        Place::Between => parked().map(|(stream, _)| stream.stream()),
        Place::Gone => None,
    }
}

/// What of a stream's credit is on its way: DATA and CREDIT_RETURN from its sender, CREDIT to it.
fn under_way(link: &Link, names: &Names, owner: usize, sender: usize) -> u64 {
    let mut sum = 0;
    for (lane, directions) in link.under_way.iter().enumerate() {
        for (from, wire) in directions.iter().enumerate() {
            let mut at = 0;
            while let Some((frame, used)) = frame::decode(&wire[at..]).expect("well-formed") {
                at += used;
                if names.get(&(lane, frame.stream)) != Some(&owner) {
                    continue;
                }
                let amount = || payload::decode_amount(Kind::Credit, frame.payload);
                sum += match frame.kind {
                    Some(Kind::Data) if from == sender => frame.payload.len() as u64,
                    Some(Kind::CreditReturn) if from == sender => amount().expect("4 bytes").into(),
                    Some(Kind::Credit) if from != sender => amount().expect("4 bytes").into(),
                    _ => 0,
                };
            }
        }
    }
    sum
}

/// Where both ends have a stream whose direction goes on, its credit adds up. Says how many directions those were.
fn add_up(link: &Link, names: &mut Names) -> usize {
    for end in &link.ends {
        for (owner, (place, _)) in end.streams.iter().enumerate() {
            if let Place::On(lane, key) = *place {
                names.insert((lane, end.lanes[lane].id_of(key)), owner);
            }
        }
    }
    let mut seen = 0;
    for owner in 0..link.ends[0].streams.len() {
        for sender in 0..2 {
            let [from, to] = [sender, 1 - sender].map(|side| stream_of(&link.ends[side], owner));
            let (Some(from), Some(to)) = (from, to) else {
                continue;
            };
            let unanswered = Flags::ASKED | Flags::ASKING | Flags::WANT_OK;
            if from.has(unanswered) || to.has(unanswered | Flags::FIN_RECEIVED) {
                continue;
            }
            let held = u64::from(from.credit) + u64::from(to.due);
            let all = held + under_way(link, names, owner, sender);
            let (credit, due, granted) = (from.credit, to.due, to.granted());
            assert_eq!(
                all,
                u64::from(granted),
                "stream {owner} from {sender}: {credit} held, {due} due, {granted} granted"
            );
            seen += 1;
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn credit_is_neither_lost_nor_made_while_streams_move(
        one_dialled in any::<bool>(),
        sizes in prop::collection::vec((100_000usize..600_000, 100_000usize..600_000), 1..3),
        steps in prop::collection::vec((0u8..9, 0usize..2, 0usize..2, 1usize..120_000, 0usize..3), 50..300),
    ) {
        let mut link = Link::new(one_dialled);
        for (n, (there, back)) in sizes.iter().enumerate() {
            link.answers.push(body(n as u8 + 100, *back));
            let now = link.now;
            link.ends[0].open(n % 2, body(n as u8, *there), now);
            for side in [0, 1] {
                link.step(0, n % 2, side, 1, 0);
                let have = link.under_way[n % 2][side].len();
                link.arrive(n % 2, side, have);
            }
        }
        let mut names = Names::new();
        prop_assert!(add_up(&link, &mut names) > 0);
        for (what, lane, side, amount, owner) in steps {
            link.step(what, lane, side, amount, owner);
            add_up(&link, &mut names);
        }
        link.settle();
        link.assert_nothing_is_reserved();
    }
}
