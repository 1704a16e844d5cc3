//! Which lane a stream belongs on, so that bulk never starves the rest. Sans-IO: facts in, a decision out.
//!
//! A thread that is always busy with bulk makes every small request wait for its time slice, four times on its way; one that
//! mostly sleeps is let in at once. So where a trunk has lanes of several workers, and there is bulk and a dialogue at the same
//! time, one worker is left to the dialogues: that of its lanes which comes first. Bulk goes to the others and is spread there;
//! dialogues that sit beside bulk go to it. Without a dialogue bulk has all lanes, without bulk everybody has.
#![forbid(unsafe_code)]

/// A lane of a trunk, as far as this decision goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The lane.
    pub id: u64,
    /// Who owns it.
    pub worker: usize,
    /// It takes streams, also moved ones.
    pub open: bool,
    /// Its worker moves bulk, of this trunk or another.
    pub crowded: bool,
    /// Bulky streams on it.
    pub bulky: u32,
    /// All streams on it.
    pub streams: u32,
}

/// Dialogues that leave one lane in one epoch.
const MOST_DIALOGUES: usize = 64;

/// What shall leave a lane.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Errand {
    /// So many of its bulky streams.
    pub bulky: usize,
    /// So many of its others.
    pub dialogues: usize,
}

/// The worker that is left to dialogues; `None`: there is no second one.
fn quiet(places: &[Place]) -> Option<usize> {
    let mut workers = places.iter().filter(|p| p.open).map(|p| p.worker);
    let first = workers.clone().min()?;
    workers.any(|worker| worker != first).then_some(first)
}

fn is_home(place: &Place, quiet: usize, is_bulky: bool, dialogue: bool) -> bool {
    let suits = if is_bulky {
        !dialogue || place.worker != quiet
    } else {
        place.worker == quiet
    };
    place.open && suits
}

/// Where a stream that moves goes. `dialogue`: there is one in this process. `None`: there is no better lane than any other.
#[must_use]
pub fn home(places: &[Place], is_bulky: bool, dialogue: bool) -> Option<&Place> {
    let quiet = quiet(places)?;
    places
        .iter()
        .filter(|place| is_home(place, quiet, is_bulky, dialogue))
        .min_by_key(|place| (place.bulky, place.streams))
}

/// What shall leave the lane `here` now.
#[must_use]
pub fn errand(places: &[Place], here: u64, dialogue: bool) -> Errand {
    let nothing = Errand::default();
    let (Some(quiet), Some(here)) = (quiet(places), places.iter().find(|p| p.id == here)) else {
        return nothing;
    };
    let homes = || {
        places
            .iter()
            .filter(|place| is_home(place, quiet, true, dialogue))
    };
    let Some(least) = homes().map(|place| place.bulky).min() else {
        return nothing;
    };
    let bulky = if !homes().any(|place| place.id == here.id) {
        here.bulky as usize
    } else {
        // One at a time: others may do the same, and the difference has to stay one.
        usize::from(here.bulky > least + 1)
    };
    let has_peace = places
        .iter()
        .any(|place| is_home(place, quiet, false, dialogue) && !place.crowded);
    let disturbed = dialogue && here.crowded && here.worker != quiet && has_peace;
    Errand {
        bulky,
        dialogues: if disturbed { MOST_DIALOGUES } else { 0 },
    }
}

/// Whether there is a dialogue that needs a worker of its own: somebody who says something about every three quarters of a second, or
/// more often. It holds for three seconds, so that a pause moves nothing.
#[derive(Debug, Default)]
pub struct Attention {
    level: u8,
    is_held: bool,
}

impl Attention {
    const RISE: u8 = 3;
    const ENOUGH: u8 = 6;
    const MOST: u8 = 12;

    /// An epoch (a quarter of a second) is over, in which somebody spoke, or nobody. Says whether there is a dialogue.
    pub fn note(&mut self, spoke: bool) -> bool {
        self.level = if spoke {
            (self.level + Self::RISE).min(Self::MOST)
        } else {
            self.level.saturating_sub(1)
        };
        self.is_held = self.level >= Self::ENOUGH || (self.is_held && self.level > 0);
        self.is_held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lanes 0, 1, ... of workers 0, 1, ... with so many bulky streams each.
    fn lanes(bulky: &[u32]) -> Vec<Place> {
        let place = |(id, &bulky): (usize, &u32)| Place {
            id: id as u64,
            worker: id,
            open: true,
            crowded: bulky > 0,
            bulky,
            streams: bulky,
        };
        bulky.iter().enumerate().map(place).collect()
    }

    fn errands(places: &[Place], dialogue: bool) -> Vec<(usize, bool)> {
        places
            .iter()
            .map(|p| errand(places, p.id, dialogue))
            .map(|e| (e.bulky, e.dialogues > 0))
            .collect()
    }

    /// Let every lane do its errands until nobody has any; says how the bulky streams lie then.
    fn settle(places: &mut [Place], dialogue: bool) -> Vec<u32> {
        for _ in 0..100 {
            let before: Vec<u32> = places.iter().map(|p| p.bulky).collect();
            for here in 0..places.len() {
                let leaving = errand(places, here as u64, dialogue).bulky;
                for _ in 0..leaving {
                    let to = home(places, true, dialogue).expect("a home").id as usize;
                    places[here].bulky -= 1;
                    places[to].bulky += 1;
                }
            }
            if before.iter().eq(places.iter().map(|p| &p.bulky)) {
                return before;
            }
        }
        panic!("it never comes to rest");
    }

    #[test]
    fn beside_a_dialogue_bulk_leaves_the_first_worker_and_is_spread_over_the_others() {
        assert_eq!(settle(&mut lanes(&[2, 2]), true), [0, 4]);
        assert_eq!(settle(&mut lanes(&[8, 0, 0, 0]), true), [0, 3, 3, 2]);
        assert_eq!(settle(&mut lanes(&[0, 7, 1, 0]), true), [0, 3, 2, 3]);
        assert_eq!(settle(&mut lanes(&[0, 1, 1, 1]), true), [0, 1, 1, 1]);
    }

    #[test]
    fn without_a_dialogue_bulk_has_all_lanes() {
        assert_eq!(settle(&mut lanes(&[0, 4]), false), [2, 2]);
        assert_eq!(settle(&mut lanes(&[0, 3]), false), [1, 2]);
        assert_eq!(settle(&mut lanes(&[9, 0, 0, 0]), false), [3, 2, 2, 2]);
        assert_eq!(settle(&mut lanes(&[0, 0, 1, 0]), false), [0, 0, 1, 0]);
    }

    #[test]
    fn with_one_lane_or_one_worker_nothing_moves() {
        assert_eq!(errands(&lanes(&[5]), true), [(0, false)]);
        let mut two = lanes(&[5, 0]);
        two[1].worker = 0;
        assert_eq!(errands(&two, true), [(0, false); 2]);
        assert!(home(&two, true, true).is_none());
        let mut one_left = lanes(&[5, 0]);
        one_left[1].open = false;
        assert_eq!(errands(&one_left, true), [(0, false); 2]);
    }

    #[test]
    fn a_dialogue_beside_bulk_goes_where_it_is_quiet_and_not_before_it_is() {
        assert_eq!(errands(&lanes(&[1, 1]), true), [(1, false), (0, false)]);
        assert_eq!(errands(&lanes(&[0, 2]), true), [(0, false), (0, true)]);
        assert_eq!(errands(&lanes(&[0, 0]), true), [(0, false), (0, false)]);
        assert_eq!(home(&lanes(&[0, 2]), false, true).map(|p| p.id), Some(0));
    }

    #[test]
    fn a_pause_ends_no_dialogue_and_a_single_word_begins_none() {
        let mut attention = Attention::default();
        assert!(!attention.note(true));
        assert!(!attention.note(false));
        assert!(!attention.note(false));
        assert!(!attention.note(true), "once a second or so is no dialogue");
        assert!(attention.note(true));
        for _ in 0..4 {
            assert!(attention.note(true));
        }
        for _ in 0..11 {
            assert!(attention.note(false));
        }
        assert!(!attention.note(false));
    }
}
