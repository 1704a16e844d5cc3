//! Accepting: one listening socket per address, shared by all workers, without waking all of them.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::SocketFlags;

use super::opening::{Arrival, Client};
use super::{ListenerRef, Source, Worker, token};

/// Connections taken before the others get their turn; the socket stays ready for the rest.
const BATCH: usize = 16;
/// After an accept failed for want of descriptors or memory, the port waits so long: trying at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket as one worker knows it.
#[derive(Debug)]
pub(super) struct Listening {
    socket: Arc<TcpListener>,
    listener: Arc<ListenerRef>,
    paused: Option<Instant>,
}

impl Listening {
    /// Whose it is.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.listener.name
    }
}

impl Worker {
    fn epoll(&self) -> BorrowedFd<'_> {
        // SAFETY: the poll lives as long as `self`, and the borrow does not outlive it.
        unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) }
    }

    fn watch(&self, id: u64, socket: &TcpListener) -> io::Result<()> {
        let mark = token(Source::Listener, id as usize, 0);
        // mio has no word for EPOLLEXCLUSIVE, which wakes one worker per connection instead of all.
        epoll::add(
            self.epoll(),
            socket,
            EventData::new_u64(mark.0 as u64),
            EventFlags::IN | EventFlags::EXCLUSIVE,
        )?;
        Ok(())
    }

    pub(super) fn listen(&mut self, id: u64, socket: Arc<TcpListener>, listener: Arc<ListenerRef>) {
        let paused = match self.watch(id, &socket) {
            Ok(()) => None,
            Err(_) => Some(self.now),
        };
        self.listeners.insert(
            id,
            Listening {
                socket,
                listener,
                paused,
            },
        );
    }

    pub(super) fn unlisten(&mut self, id: u64) {
        if let Some(listening) = self.listeners.remove(&id) {
            let _ = epoll::delete(self.epoll(), &*listening.socket);
            self.forget_greeters();
        }
    }

    /// Listeners whose pause is over.
    pub(super) fn resume_listeners(&mut self) {
        let due: Vec<u64> = self
            .listeners
            .iter()
            .filter(|(_, l)| {
                l.paused
                    .is_some_and(|since| self.now.saturating_duration_since(since) >= PAUSE)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Some(listening) = self.listeners.get(&id) {
                let watched = self.watch(id, &listening.socket).is_ok();
                let now = self.now;
                if let Some(listening) = self.listeners.get_mut(&id) {
                    listening.paused = if watched { None } else { Some(now) };
                }
            }
        }
    }

    pub(super) fn accept(&mut self, id: u64) {
        if self.shared.refusing.load(Ordering::Relaxed) {
            // What waits in the kernel's queue is a successor's, if there is one; taking it would only reset it.
            self.unlisten(id);
            return;
        }
        for _ in 0..BATCH {
            let Some(listening) = self.listeners.get_mut(&id) else {
                return;
            };
            let accepted: Result<OwnedFd, rustix::io::Errno> = rustix::net::accept_with(
                listening.socket.as_fd(),
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            );
            match accepted {
                Ok(fd) => {
                    let stream = mio::net::TcpStream::from_std(std::net::TcpStream::from(fd));
                    let listener = Arc::clone(&listening.listener);
                    self.arrive(Arrival {
                        client: Client::Accepted(stream, listener),
                        choice: None,
                    });
                }
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(_) => {
                    // No descriptors, no memory, or not listening any more: look again after a pause.
                    listening.paused = Some(self.now);
                    let socket = Arc::clone(&listening.socket);
                    let _ = epoll::delete(self.epoll(), &*socket);
                    return;
                }
            }
        }
    }
}
