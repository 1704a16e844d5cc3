//! Who waits for open credit of a lane: a line for each origin, served in turn, so that nobody's flood of OPENs keeps others waiting.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::ConnId;
use crate::handshake::RouterId;

/// OPENs of one neighbour that wait for a lane: as many as one lane of its may leave unanswered.
const MOST_OF_ONE: usize = 256;

/// The neighbour that an OPEN came from; `None`: it began here.
type Origin = Option<RouterId>;

/// What became of an offer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offer {
    /// It was taken.
    Taken,
    /// Not enough for this one; perhaps for another.
    TooSmall,
    /// Whoever waited is gone.
    Gone,
    /// Nothing is left.
    Over,
}

#[derive(Debug)]
struct Line {
    origin: Origin,
    ids: VecDeque<ConnId>,
    /// What was offered to those before it was not enough.
    at: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Waiting {
    /// None is empty; the first is next.
    lines: VecDeque<Line>,
}

impl Waiting {
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn len(&self) -> usize {
        self.lines.iter().map(|line| line.ids.len()).sum()
    }

    /// To the end of its origin's line. `false`: too many OPENs of this neighbour wait already.
    #[must_use]
    pub fn push(&mut self, origin: Origin, id: ConnId) -> bool {
        match self.lines.iter_mut().find(|line| line.origin == origin) {
            Some(line) if origin.is_some() && line.ids.len() >= MOST_OF_ONE => return false,
            Some(line) => line.ids.push_back(id),
            None => self.lines.push_back(Line {
                origin,
                ids: VecDeque::from([id]),
                at: 0,
            }),
        }
        true
    }

    /// Offer what there is: to each origin in turn, and there to each in its order.
    pub fn serve(&mut self, mut offer: impl FnMut(ConnId) -> Offer) {
        for line in &mut self.lines {
            line.at = 0;
        }
        let mut in_vain = 0;
        while in_vain < self.lines.len() {
            let Some(mut line) = self.lines.pop_front() else {
                return;
            };
            let mut last = Offer::TooSmall;
            while let Some(id) = line.ids.get(line.at).copied() {
                last = offer(id);
                match last {
                    Offer::TooSmall => line.at += 1,
                    Offer::Gone => drop(line.ids.remove(line.at)),
                    Offer::Taken => {
                        line.ids.remove(line.at);
                        break;
                    }
                    Offer::Over => {
                        // Its turn is still to come.
                        self.lines.push_front(line);
                        return;
                    }
                }
            }
            in_vain = if last == Offer::Taken { 0 } else { in_vain + 1 };
            if line.ids.is_empty() {
                in_vain = in_vain.saturating_sub(1);
            } else {
                self.lines.push_back(line);
            }
        }
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&ConnId) -> bool) {
        for line in &mut self.lines {
            line.ids.retain(&mut keep);
        }
        self.lines.retain(|line| !line.ids.is_empty());
    }

    pub fn iter(&self) -> impl Iterator<Item = &ConnId> {
        self.lines.iter().flat_map(|line| &line.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(n: u8) -> Origin {
        Some(RouterId {
            site: [n; 32],
            boot: n.into(),
        })
    }

    /// The numbers of those who got something, when there is enough for `count`.
    fn served(waiting: &mut Waiting, count: usize) -> Vec<u32> {
        let mut got = Vec::new();
        waiting.serve(|id| {
            if got.len() == count {
                return Offer::Over;
            }
            got.push(id.0);
            Offer::Taken
        });
        got
    }

    #[test]
    fn origins_are_served_in_turn_and_each_in_its_order() {
        let mut waiting = Waiting::default();
        for n in 0..6 {
            assert!(waiting.push(from(1), (n, 0)));
        }
        assert!(waiting.push(None, (10, 0)) && waiting.push(from(2), (20, 0)));
        assert!(waiting.push(from(2), (21, 0)));
        assert_eq!(served(&mut waiting, 2), [0, 10]);
        assert_eq!(
            served(&mut waiting, 1),
            [20],
            "the turn goes on where it was"
        );
        assert_eq!(served(&mut waiting, 9), [1, 21, 2, 3, 4, 5]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn what_is_too_small_for_one_is_offered_to_the_next_and_the_gone_leave() {
        let mut waiting = Waiting::default();
        for n in 0..4 {
            assert!(waiting.push(from(1), (n, 0)) && waiting.push(from(2), (10 + n, 0)));
        }
        let mut asked = Vec::new();
        waiting.serve(|id| {
            asked.push(id.0);
            match id.0 {
                0 | 10 => Offer::TooSmall,
                1 | 11 => Offer::Gone,
                _ => Offer::Taken,
            }
        });
        assert_eq!(asked, [0, 1, 2, 10, 11, 12, 3, 13]);
        let left: Vec<u32> = waiting.iter().map(|id| id.0).collect();
        assert_eq!((left, waiting.len()), (vec![0, 10], 2));
        waiting.retain(|id| id.0 == 10);
        assert_eq!(served(&mut waiting, 9), [10]);
    }

    #[test]
    fn a_neighbour_that_floods_fills_its_own_line_only() {
        let mut waiting = Waiting::default();
        let took = (0..1_000)
            .filter(|n| waiting.push(from(1), (*n, 0)))
            .count();
        assert_eq!(took, MOST_OF_ONE);
        assert!(waiting.push(from(2), (7, 0)));
        assert!(waiting.push(None, (8, 0)));
    }
}
