//! How much a stream moves: whether it is bulky, and which streams of a lane are in a dialogue.
//!
//! A stream begins as interactive. It is bulky once it has moved [`BULKY`] bytes, in either direction and in frames that are
//! at least a page, within about half a second, and interactive again when it has calmed down to an eighth of that. Frames
//! below a page do not count: ten thousand small requests a second are no transfer, and have to stay where they are answered soon.

use std::time::Duration;

use slab::Slab;

use super::{Key, Mux};
use crate::mux::stream::{Flags, Stream};

/// Half of what was counted is forgotten after this long.
pub const EPOCH: Duration = Duration::from_millis(250);
/// Recent bytes of a bulky stream: at a steady rate 1 MiB/s. Enough that a page with its pictures is none, and a file is one
/// before a hundredth of a second of a fast link has passed.
const BULKY: u32 = 512 * 1024;
const CALM: u32 = BULKY / 8;
/// Bytes of a frame that counts.
const PAGE: u32 = 4_096;
/// Streams in dialogue that are remembered: nobody moves more of them at once.
const MOST_REMEMBERED: usize = 256;

/// What one stream moved lately.
#[derive(Debug)]
pub(super) struct Meter {
    recent: u32,
    epoch: u16,
}

impl Meter {
    /// Of a stream that nothing was seen of in `epoch`.
    pub const fn new(epoch: u16) -> Self {
        Self {
            recent: 0,
            epoch: epoch.wrapping_sub(1),
        }
    }

    /// Forget what is old. Says whether it is the first time in this epoch.
    fn enter(&mut self, epoch: u16) -> bool {
        let passed = epoch.wrapping_sub(self.epoch);
        if passed == 0 {
            return false;
        }
        self.recent = self.recent.checked_shr(passed.into()).unwrap_or(0);
        self.epoch = epoch;
        true
    }
}

/// What a lane's streams do.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub epoch: u16,
    /// Streams that were seen in this epoch.
    touched: Vec<(Key, u32)>,
    /// Those of the epoch before that are not bulky.
    dialogues: Vec<(Key, u32)>,
    /// Bulky ones, and some that are gone.
    bulky: Vec<(Key, u32)>,
}

impl Traffic {
    /// A stream moved a frame of so many bytes.
    #[inline]
    pub fn count(&mut self, key: Key, stream: &mut Stream, bytes: u32) {
        if stream.meter.epoch != self.epoch {
            self.touch(key, stream);
        }
        if bytes < PAGE {
            return;
        }
        stream.meter.recent = stream.meter.recent.saturating_add(bytes);
        if stream.meter.recent >= BULKY && !stream.has(Flags::BULKY) {
            self.mark(key, stream);
        }
    }

    /// It moves something for the first time in this epoch.
    #[cold]
    fn touch(&mut self, key: Key, stream: &mut Stream) {
        if stream.meter.enter(self.epoch) && self.touched.len() < MOST_REMEMBERED {
            self.touched.push((key, stream.id));
        }
    }

    /// From now on it is bulky.
    #[cold]
    fn mark(&mut self, key: Key, stream: &mut Stream) {
        stream.set(Flags::BULKY);
        self.bulky.push((key, stream.id));
    }

    /// A stream that is bulky came from another lane.
    pub fn adopt(&mut self, key: Key, stream: &mut Stream) {
        stream.meter.epoch = self.epoch;
        if stream.has(Flags::BULKY) {
            self.bulky.push((key, stream.id));
        }
    }
}

impl Mux {
    /// An epoch is over ([`EPOCH`]): from now on [`Mux::bulky`] and [`Mux::dialogues`] are those of this one.
    pub fn end_epoch(&mut self) {
        let Self {
            streams, traffic, ..
        } = self;
        traffic.epoch = traffic.epoch.wrapping_add(1);
        let epoch = traffic.epoch;
        traffic.bulky.retain(|&entry| {
            let Some(stream) = find(streams, entry) else {
                return false;
            };
            stream.meter.enter(epoch);
            let is_bulky = stream.meter.recent >= CALM;
            if !is_bulky {
                stream.clear(Flags::BULKY);
            }
            is_bulky
        });
        std::mem::swap(&mut traffic.touched, &mut traffic.dialogues);
        traffic.touched.clear();
        traffic
            .dialogues
            .retain(|&entry| find(streams, entry).is_some_and(|stream| !stream.has(Flags::BULKY)));
        if traffic.bulky.is_empty() && traffic.bulky.capacity() > MOST_REMEMBERED {
            traffic.bulky = Vec::new();
        }
    }

    /// Bulky streams when the last epoch ended: key and owner.
    pub fn bulky(&self) -> impl Iterator<Item = (Key, u32)> + '_ {
        self.alive(&self.traffic.bulky)
    }

    /// Streams that moved something in the last epoch and are not bulky, some of them if there are many.
    pub fn dialogues(&self) -> impl Iterator<Item = (Key, u32)> + '_ {
        self.alive(&self.traffic.dialogues)
    }

    fn alive<'a>(&'a self, entries: &'a [(Key, u32)]) -> impl Iterator<Item = (Key, u32)> + 'a {
        entries.iter().filter_map(|&(key, id)| {
            let stream = self.streams.get(key as usize)?;
            (stream.id == id && !stream.has(Flags::GONE)).then_some((key, stream.owner))
        })
    }
}

fn find(streams: &mut Slab<Stream>, (key, id): (Key, u32)) -> Option<&mut Stream> {
    let stream = streams.get_mut(key as usize)?;
    (stream.id == id && !stream.has(Flags::GONE)).then_some(stream)
}
