//! What the two hops of a stream that crosses this router share: a mailbox for each of them, and nothing else.
//!
//! A mailbox holds what came over the other hop. Its bytes are bounded by the credit that this router granted there, all the
//! rest is one flag or field each: whatever a peer sends makes state, never a queue. The lanes of the two hops may belong to
//! two workers; a mailbox is locked for a move of bytes that were decrypted already.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::frame::{HEADER, MAX_FRAME, MAX_PAYLOAD};
use crate::payload::Class;
use crate::worker::{ConnId, Shared};

/// Toward the opener, and toward the destination.
pub const NEAR: usize = 0;
/// See [`NEAR`].
pub const ONWARD: usize = 1;

/// A hop that does not exist (yet, or any more).
const NOWHERE: u64 = u64::MAX;
/// A chunk that will hold more than this is made for a full frame at once.
const LARGE: usize = MAX_FRAME / 2;

/// How a hop shall end.
#[derive(Debug)]
pub struct End {
    /// With OPEN_ERR: the target certainly saw nothing. Otherwise with RESET.
    pub refuse: bool,
    pub class: Class,
    pub reason: Box<str>,
}

/// Bytes for one frame, with room for its header in front.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    /// Where what was not sent begins, less a header.
    at: usize,
}

impl Chunk {
    fn new(mut bytes: Vec<u8>, len: usize) -> Self {
        bytes.clear();
        let room = if len > LARGE { MAX_FRAME } else { HEADER + len };
        bytes.reserve_exact(room);
        bytes.extend_from_slice(&[0; HEADER]);
        Self { bytes, at: 0 }
    }

    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.at + HEADER..).unwrap_or_default()
    }

    /// Drop what was sent, once that is at least as much as what was not: each byte is moved once at most on average.
    fn reclaim(&mut self) {
        if self.at > 0 && self.at >= self.payload().len() {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
    }

    /// The whole frame, once its header is written.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub fn put_header(&mut self, header: [u8; HEADER]) {
        let at = self.at;
        if let Some(place) = self.bytes.get_mut(at..at + HEADER) {
            place.copy_from_slice(&header);
        }
    }

    /// Its memory, for another.
    pub fn into_memory(self) -> Vec<u8> {
        self.bytes
    }
}

/// What came over one hop for the other one.
#[derive(Debug, Default)]
pub struct Mail {
    chunks: VecDeque<Chunk>,
    /// No more will come, and this is a clean end.
    pub fin: bool,
    /// The opener's OPEN was answered with OPEN_OK.
    pub answered: bool,
    /// Everything that came over this hop, its end included, went out on the other.
    pub passed: bool,
    /// Bytes that came over this hop and went out on the other since it looked.
    pub consumed: u32,
    /// Passes everything else.
    pub end: Option<End>,
    /// It has sent all that it had: tell it of more.
    pub hungry: bool,
    /// It was told, and has not looked since.
    told: bool,
}

impl Mail {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn front(&mut self) -> Option<&mut Chunk> {
        self.chunks.front_mut()
    }

    pub fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front();
        if self.chunks.is_empty() {
            // An idle stream keeps no memory here.
            self.chunks = VecDeque::new();
        }
        chunk
    }

    /// So many bytes of the first chunk were copied out of it.
    pub fn advance(&mut self, bytes: usize, spare: &mut Spare) {
        if let Some(front) = self.chunks.front_mut() {
            front.at += bytes;
            if front.payload().is_empty()
                && let Some(chunk) = self.pop()
            {
                spare.put(chunk.into_memory());
            }
        }
    }

    /// Every chunk but the last is full, and the last keeps no more sent bytes than it has others, so memory follows what bytes there are.
    pub fn push(&mut self, mut bytes: &[u8], spare: &mut Spare) {
        if self.end.is_some() {
            return;
        }
        while !bytes.is_empty() {
            let room = self
                .chunks
                .back()
                .map_or(0, |last| MAX_FRAME.saturating_sub(last.bytes.len()));
            if room == 0 {
                let len = bytes.len().min(MAX_PAYLOAD);
                self.chunks.push_back(Chunk::new(spare.take(len), len));
                continue;
            }
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            if let Some(last) = self.chunks.back_mut() {
                last.reclaim();
                last.bytes.extend_from_slice(now);
            }
            bytes = rest;
        }
    }

    /// The stream is over: what waits will not be sent.
    pub fn end(&mut self, refuse: bool, class: Class, reason: &str) {
        if self.end.is_none() {
            self.chunks = VecDeque::new();
            self.end = Some(End {
                refuse,
                class,
                reason: reason.into(),
            });
        }
    }

    /// Its hop looks now.
    pub fn look(&mut self) {
        self.told = false;
    }
}

/// Memory of chunks that were sent, for the next ones: at most [`Spare::MOST`].
#[derive(Debug, Default)]
pub struct Spare(Vec<Vec<u8>>);

impl Spare {
    /// Two batches.
    const MOST: usize = 32;

    fn take(&mut self, len: usize) -> Vec<u8> {
        if len > LARGE {
            self.0.pop().unwrap_or_default()
        } else {
            Vec::new()
        }
    }

    pub fn put(&mut self, memory: Vec<u8>) {
        if memory.capacity() >= MAX_FRAME && self.0.len() < Self::MOST {
            self.0.push(memory);
        }
    }
}

/// See the module.
pub struct Crossing {
    mail: [Mutex<Mail>; 2],
    /// Which hop of its worker each side is.
    hops: [AtomicU64; 2],
    /// Whose lane each side is on, or was on last.
    workers: [AtomicU32; 2],
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Crossing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crossing")
            .field("mail", &self.mail)
            .finish()
    }
}

impl Crossing {
    /// Counts as open until the last of both sides has forgotten it.
    pub fn new(shared: &Arc<Shared>, workers: [u32; 2]) -> Arc<Self> {
        shared.transit_open.fetch_add(1, Ordering::Relaxed);
        let mail = || {
            Mutex::new(Mail {
                hungry: true,
                ..Mail::default()
            })
        };
        Arc::new(Self {
            mail: [mail(), mail()],
            hops: [const { AtomicU64::new(NOWHERE) }; 2],
            workers: workers.map(AtomicU32::new),
            shared: Arc::clone(shared),
        })
    }

    pub fn lock(&self, side: usize) -> MutexGuard<'_, Mail> {
        let [near, onward] = &self.mail;
        let mail = if side == NEAR { near } else { onward };
        mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn worker(&self, side: usize) -> usize {
        let [near, onward] = &self.workers;
        let worker = if side == NEAR { near } else { onward };
        worker.load(Ordering::Acquire) as usize
    }

    /// A side goes on on a lane of this worker; its hop is set after it.
    pub fn set_worker(&self, side: usize, worker: usize) {
        let [near, onward] = &self.workers;
        let place = if side == NEAR { near } else { onward };
        place.store(worker as u32, Ordering::Release);
    }

    /// A side is between two lanes: what comes for it is read when it has come to one.
    pub fn take_out(&self, side: usize) {
        let [near, onward] = &self.hops;
        let hop = if side == NEAR { near } else { onward };
        hop.store(NOWHERE, Ordering::Release);
    }

    pub fn hop(&self, side: usize) -> Option<ConnId> {
        let [near, onward] = &self.hops;
        let hop = if side == NEAR { near } else { onward }.load(Ordering::Acquire);
        (hop != NOWHERE).then_some(((hop >> 32) as u32, hop as u32))
    }

    pub fn set_hop(&self, side: usize, (index, generation): ConnId) {
        let [near, onward] = &self.hops;
        let hop = if side == NEAR { near } else { onward };
        hop.store(
            u64::from(index) << 32 | u64::from(generation),
            Ordering::Release,
        );
    }

    /// Put something into a side's mailbox. `true`: its worker has to be told.
    pub fn post(&self, side: usize, put: impl FnOnce(&mut Mail)) -> bool {
        let mut mail = self.lock(side);
        put(&mut mail);
        !std::mem::replace(&mut mail.told, true)
    }

    /// The same for bytes and their end: its worker has to be told only if it waits for some.
    pub fn post_bytes(&self, side: usize, put: impl FnOnce(&mut Mail)) -> bool {
        let mut mail = self.lock(side);
        put(&mut mail);
        std::mem::replace(&mut mail.hungry, false) && !std::mem::replace(&mut mail.told, true)
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.shared.transit_open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_that_is_never_quite_empty_keeps_no_memory_of_what_was_sent() {
        let (mut mail, mut spare) = (Mail::default(), Spare::default());
        mail.push(&[7; 1_024], &mut spare);
        for _ in 0..100 {
            mail.push(&[7; 1_024], &mut spare);
            mail.advance(1_024, &mut spare);
            let held: usize = mail.chunks.iter().map(|c| c.bytes.capacity()).sum();
            assert!(held <= 8 * 1_024, "{held}");
            let stored: usize = mail.chunks.iter().map(|c| c.payload().len()).sum();
            assert_eq!(stored, 1_024);
        }
    }

    #[test]
    fn what_goes_through_a_mailbox_comes_out_as_it_went_in() {
        let (mut mail, mut spare) = (Mail::default(), Spare::default());
        let (mut next_in, mut next_out) = (0u8, 0u8);
        for round in 0..2_000_usize {
            let bytes: Vec<u8> = (0..round * 37 % 5_000)
                .map(|_| {
                    next_in = next_in.wrapping_add(1);
                    next_in
                })
                .collect();
            mail.push(&bytes, &mut spare);
            let mut want = round * 53 % 6_000;
            while want > 0
                && let Some(front) = mail.front()
            {
                let count = want.min(front.payload().len());
                for byte in front.payload().get(..count).expect("in range") {
                    next_out = next_out.wrapping_add(1);
                    assert_eq!(*byte, next_out);
                }
                mail.advance(count, &mut spare);
                want -= count;
            }
        }
    }
}
