//! Bytes that go from one socket to another without coming out of the kernel.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Bytes that a pipe holds at most: what is read at once.
pub(in crate::worker) const PIPE: u32 = 262_144;
/// Pipes with bytes in them at once: two descriptors each. Whoever finds none copies.
const MOST_PIPES: usize = 64;
/// Empty ones that are kept.
const MOST_SPARE: usize = 4;

/// One direction's bytes in the kernel. Dropped with bytes in it: they are lost, as those of a stream that was reset.
#[derive(Debug)]
pub(in crate::worker) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    stored: usize,
    /// Counts it, wherever it is dropped.
    _counted: Arc<()>,
}

impl Pipe {
    fn new(counted: Arc<()>) -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Smaller where this user has too many: then less moves at once.
        let _ = fcntl_setpipe_size(&into, PIPE as usize);
        Ok(Self {
            out,
            into,
            stored: 0,
            _counted: counted,
        })
    }

    /// Bytes in it.
    pub const fn stored(&self) -> usize {
        self.stored
    }

    /// Take what a socket has; it has to be empty, as a full pipe looks like an empty socket. Zero: the application's end.
    pub fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        debug_assert_eq!(self.stored, 0, "fill an empty pipe");
        let count = moved(from, &self.into, PIPE as usize)?;
        self.stored += count;
        Ok(count)
    }

    /// Give a socket what it takes.
    pub fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let count = moved(&self.out, to, self.stored)?;
        self.stored = self.stored.saturating_sub(count);
        Ok(count)
    }
}

fn moved(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    loop {
        match splice(
            &from,
            None,
            &to,
            None,
            most,
            SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
        ) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Those of a worker.
#[derive(Debug, Default)]
pub(in crate::worker) struct Pipes {
    spare: Vec<Pipe>,
    /// As often as there are pipes, and once more.
    counted: Arc<()>,
    /// The kernel moves nothing between sockets.
    refused: bool,
}

impl Pipes {
    /// An empty one. None: copy.
    pub fn take(&mut self) -> Option<Pipe> {
        let given = Arc::strong_count(&self.counted) - 1 - self.spare.len();
        if self.refused || given >= MOST_PIPES {
            return None;
        }
        match self.spare.pop() {
            Some(pipe) => Some(pipe),
            None => Pipe::new(Arc::clone(&self.counted)).ok(),
        }
    }

    /// It is not needed any more.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.stored == 0 && self.spare.len() < MOST_SPARE {
            self.spare.push(pipe);
        }
    }

    /// Never try again.
    pub fn refuse(&mut self) {
        self.refused = true;
        self.spare.clear();
    }
}
