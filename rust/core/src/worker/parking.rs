//! Streams that left one lane at the peer's wish and have not come to another yet: by the name of their move, and by where they were.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::handshake::RouterId;

/// Streams of one router that are between lanes at once; beyond it they stay where they are.
const MOST_OF_ONE: usize = 1_024;
/// Moves that were taken back too early, of everybody.
const MOST_TAKEN_BACK: usize = 1_024;
/// Longer than a lane may be silent: whoever moves it is gone, or has given up.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Entry<T> {
    /// Lane and number that it had.
    was: (u64, u32),
    until: Instant,
    stream: T,
}

/// See the module.
#[derive(Debug)]
pub struct Parking<T> {
    by_name: HashMap<(RouterId, u64), Entry<T>>,
    by_place: HashMap<(u64, u32), (RouterId, u64)>,
    of_router: HashMap<RouterId, usize>,
    /// Moves that were taken back before they were asked for here: lanes are not read in step.
    taken_back: HashMap<(RouterId, u64), Instant>,
}

impl<T> Default for Parking<T> {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            by_place: HashMap::new(),
            of_router: HashMap::new(),
            taken_back: HashMap::new(),
        }
    }
}

impl<T> Parking<T> {
    /// Whether another stream of this router may come under this name.
    pub fn has_room(&self, router: RouterId, name: u64) -> bool {
        let many = self.of_router.get(&router).copied().unwrap_or(0);
        let name = (router, name);
        let is_known = self.by_name.contains_key(&name) || self.taken_back.contains_key(&name);
        many < MOST_OF_ONE && !is_known
    }

    /// Nobody of that name was here when it was come for: nobody will come again. (Who makes names up costs others their patience at most.)
    pub fn take_back(&mut self, router: RouterId, name: u64, now: Instant) {
        if self.taken_back.len() < MOST_TAKEN_BACK {
            self.taken_back.insert((router, name), now + PATIENCE);
        }
    }

    /// Keep a stream that was on this lane under this number. Gives back who had that name.
    pub fn put(
        &mut self,
        router: RouterId,
        name: u64,
        was: (u64, u32),
        stream: T,
        now: Instant,
    ) -> Option<T> {
        let before = self.take(router, name);
        self.by_place.insert(was, (router, name));
        *self.of_router.entry(router).or_default() += 1;
        let until = now + PATIENCE;
        let entry = Entry { was, until, stream };
        self.by_name.insert((router, name), entry);
        before
    }

    /// The stream of that move.
    pub fn take(&mut self, router: RouterId, name: u64) -> Option<T> {
        let entry = self.by_name.remove(&(router, name))?;
        self.by_place.remove(&entry.was);
        if let Some(count) = self.of_router.get_mut(&router) {
            *count -= 1;
            if *count == 0 {
                self.of_router.remove(&router);
            }
        }
        Some(entry.stream)
    }

    /// The stream that was there.
    pub fn take_from(&mut self, lane: u64, id: u32) -> Option<T> {
        let &(router, name) = self.by_place.get(&(lane, id))?;
        self.take(router, name)
    }

    /// All of one router, or of everybody.
    pub fn take_all(&mut self, of: Option<RouterId>) -> Vec<T> {
        self.take_if(|router, _| of.is_none_or(|of| of == router))
    }

    /// Those that nobody came for.
    pub fn take_overdue(&mut self, now: Instant) -> Vec<T> {
        self.taken_back.retain(|_, until| *until > now);
        self.take_if(|_, until| until <= now)
    }

    fn take_if(&mut self, wanted: impl Fn(RouterId, Instant) -> bool) -> Vec<T> {
        let names: Vec<_> = self
            .by_name
            .iter()
            .filter(|((router, _), entry)| wanted(*router, entry.until))
            .map(|(name, _)| *name)
            .collect();
        names
            .into_iter()
            .filter_map(|(router, name)| self.take(router, name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(n: u8) -> RouterId {
        RouterId {
            site: [n; 32],
            boot: n.into(),
        }
    }

    #[test]
    fn a_stream_is_found_by_its_name_and_by_where_it_was_and_only_once() {
        let now = Instant::now();
        let mut parking = Parking::default();
        assert!(parking.put(router(1), 7, (3, 5), "a", now).is_none());
        assert!(parking.put(router(2), 7, (4, 5), "b", now).is_none());
        assert_eq!(parking.take_from(3, 5), Some("a"));
        assert_eq!(parking.take(router(1), 7), None);
        assert_eq!(parking.take(router(2), 7), Some("b"));
        assert_eq!(parking.take_from(4, 5), None);
        assert!(parking.of_router.is_empty() && parking.by_place.is_empty());
    }

    #[test]
    fn what_one_router_can_park_is_bounded_and_what_nobody_comes_for_is_given_up() {
        let now = Instant::now();
        let mut parking = Parking::default();
        for n in 0..MOST_OF_ONE as u32 {
            assert!(parking.has_room(router(1), n.into()));
            parking.put(router(1), n.into(), (1, n), n, now);
        }
        assert!(!parking.has_room(router(1), 1 << 40));
        assert!(parking.has_room(router(2), 0));
        parking.put(router(2), 0, (2, 0), 0, now + PATIENCE);
        assert_eq!(parking.take_overdue(now + PATIENCE).len(), MOST_OF_ONE);
        assert!(parking.has_room(router(1), 0) && !parking.has_room(router(2), 0));
        assert_eq!(parking.take_all(Some(router(2))), [0]);
    }

    #[test]
    fn who_was_come_for_too_early_does_not_wait_and_is_forgotten_in_time() {
        let now = Instant::now();
        let mut parking: Parking<()> = Parking::default();
        for n in 0..2 * MOST_TAKEN_BACK as u64 {
            parking.take_back(router(1), n, now);
        }
        assert_eq!(parking.taken_back.len(), MOST_TAKEN_BACK);
        assert!(!parking.has_room(router(1), 7) && parking.has_room(router(2), 7));
        parking.take_overdue(now + PATIENCE);
        assert!(parking.has_room(router(1), 7));
    }
}
