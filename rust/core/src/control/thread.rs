//! The thread itself: its poll, the commands it obeys, what it wakes for, and deadlines. `ports` and `callers` are the rest of it.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::callers::{Conn, Turn, late_refusal};
use super::{Command, LinkEntry, Listening, Outcome, WAKER};
use crate::dialler::DialFailure;
use crate::gate::Gate;
use crate::greeting::Myself;
use crate::limits;
use crate::link_port::{BindStatus, LinkPort};
use crate::tls::Credential;
use crate::visitor::{Filled, Visitor, drain, fill};

/// A port that is not ours yet.
pub(super) struct Unbound {
    pub(super) address: SocketAddr,
    pub(super) credential: String,
    pub(super) status: BindStatus,
    pub(super) retry: Instant,
}

pub(super) enum Entry {
    Port(LinkPort),
    Conn(Box<Conn>),
    Visitor(Box<Visitor>),
    /// Only its last bytes are to be sent; then it is read until the other end closes, so that nothing of them is lost.
    Goodbye {
        socket: TcpStream,
        outgoing: Vec<u8>,
        shut: bool,
        deadline: Instant,
    },
    /// Taken out for the moment.
    Busy,
}

pub(super) struct Thread {
    pub(super) poll: Poll,
    pub(super) inbox: Receiver<Command>,
    pub(super) outcome: Box<dyn Outcome>,
    pub(super) me: Myself,
    pub(super) gate: Gate,
    pub(super) refuse: bool,
    pub(super) credentials: HashMap<String, Arc<Credential>>,
    pub(super) links: HashMap<String, LinkEntry>,
    pub(super) ports: HashMap<String, usize>,
    pub(super) unbound: HashMap<String, Unbound>,
    pub(super) dials: HashMap<u64, usize>,
    pub(super) entries: Slab<Entry>,
    pub(super) visitors: usize,
    pub(super) goodbyes: usize,
    pub(super) listening: Listening,
    pub(super) scratch: Vec<u8>,
}

/// The event sources of an entry: its connection, and a visitor's other side.
pub(super) const fn token(key: usize, side: usize) -> Token {
    Token(1 + 2 * key + side)
}

pub(super) const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);
impl Thread {
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.timeout(Instant::now());
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() != io::ErrorKind::Interrupted {
                    // Only our own mistakes lead here; not spinning is the least.
                    std::thread::sleep(limits::ACCEPT_PAUSE);
                }
                continue;
            }
            let mut commands = false;
            for event in &events {
                match event.token() {
                    WAKER => commands = true,
                    Token(number) => self.wake((number - 1) / 2),
                }
            }
            if commands {
                while let Ok(command) = self.inbox.try_recv() {
                    if matches!(command, Command::Stop) {
                        self.end();
                        return;
                    }
                    self.obey(command);
                }
            }
            self.accept_all(Instant::now());
            self.expire(Instant::now());
        }
    }

    /// Until something has to be done without an event.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let entries = self.entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Port(port) if port.ready => Some(port.paused.unwrap_or(now)),
            Entry::Conn(conn) => Some(conn.deadline),
            Entry::Visitor(visitor) => Some(visitor.deadline),
            Entry::Goodbye { deadline, .. } => Some(*deadline),
            Entry::Port(_) | Entry::Busy => None,
        });
        let retries = self
            .unbound
            .values()
            .filter(|port| port.status != BindStatus::Denied)
            .map(|port| port.retry);
        entries
            .chain(retries)
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    /// Close everything.
    fn end(mut self) {
        for (id, key) in std::mem::take(&mut self.dials) {
            if let Some(Entry::Conn(conn)) = self.entries.try_remove(key) {
                self.cancelled(id, &conn);
            }
        }
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::PutCredential(name, credential) => {
                self.credentials.insert(name.clone(), credential);
                self.report_users_of(&name);
            }
            Command::DropCredential(name) => {
                self.credentials.remove(&name);
                self.report_users_of(&name);
            }
            Command::PutAccess {
                name,
                address,
                credential,
                adopt,
            } => self.put_access(name, address, credential, adopt),
            Command::DropAccess(name) => {
                let port = self.close_port(&name);
                self.unbound.remove(&name);
                self.outcome
                    .access_state(&name, BindStatus::Bound, port, "", true);
            }
            Command::PutLink(name, entry) => {
                self.links.insert(name, entry);
            }
            Command::DropLink(name) => {
                self.links.remove(&name);
                self.cancel_dials(|link, _| *link == name);
            }
            Command::Dial {
                id,
                link,
                address,
                server_name,
            } => {
                if let Err(refusal) = self.dial(id, &link, address, &server_name) {
                    self.outcome
                        .dial_failed(id, DialFailure::new(&link, &refusal));
                }
            }
            Command::CancelDial(id) => self.cancel_dials(|_, dial| dial == id),
            Command::SetSiblings(boots) => self.me.siblings = boots,
            Command::SetRefused(sites) => self.me.refused = sites,
            Command::RefuseLanes(refuse) => self.refuse = refuse,
            Command::Stop => {}
        }
    }
    pub(super) fn wake(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match entry {
            Entry::Port(port) => port.ready = true,
            Entry::Busy => {}
            Entry::Visitor(visitor) => {
                if !visitor.pump(&mut self.scratch, Instant::now()) {
                    self.visitors -= 1;
                    self.entries.try_remove(key);
                }
            }
            Entry::Goodbye {
                socket,
                outgoing,
                shut,
                ..
            } => {
                if is_gone(socket, outgoing, shut, &mut self.scratch) {
                    self.goodbyes -= 1;
                    self.entries.try_remove(key);
                }
            }
            Entry::Conn(_) => {
                if let Entry::Conn(mut conn) = std::mem::replace(entry, Entry::Busy) {
                    let turn = self.look(&mut conn);
                    self.settle(key, conn, turn);
                }
            }
        }
    }
    fn expire(&mut self, now: Instant) {
        let late: Vec<usize> = self
            .entries
            .iter()
            .filter(|(_, entry)| match entry {
                Entry::Conn(conn) => conn.deadline <= now,
                Entry::Visitor(visitor) => visitor.deadline <= now,
                Entry::Goodbye { deadline, .. } => *deadline <= now,
                Entry::Port(_) | Entry::Busy => false,
            })
            .map(|(key, _)| key)
            .collect();
        for key in late {
            let Some(entry) = self.entries.get_mut(key) else {
                continue;
            };
            match std::mem::replace(entry, Entry::Busy) {
                Entry::Conn(conn) => {
                    let refusal = late_refusal(&conn);
                    self.settle(key, conn, Turn::Failed(refusal));
                }
                Entry::Visitor(_) => {
                    self.visitors -= 1;
                    self.entries.try_remove(key);
                }
                Entry::Goodbye { .. } => {
                    self.goodbyes -= 1;
                    self.entries.try_remove(key);
                }
                other @ (Entry::Port(_) | Entry::Busy) => *entry = other,
            }
        }
        let due: Vec<String> = self
            .unbound
            .iter()
            .filter(|(_, port)| port.status != BindStatus::Denied && port.retry <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            if let Some(port) = self.unbound.remove(&name) {
                self.bind(name, port.address, port.credential, None, Some(port.status));
            }
        }
    }
}
/// Write the rest, then wait for the other end to close. True: nothing is left to be done.
fn is_gone(
    socket: &mut TcpStream,
    outgoing: &mut Vec<u8>,
    shut: &mut bool,
    scratch: &mut [u8],
) -> bool {
    if drain(socket, outgoing).is_err() {
        return true;
    }
    if outgoing.is_empty() && !*shut {
        *shut = true;
        if socket.shutdown(Shutdown::Write).is_err() {
            return true;
        }
    }
    // Unread bytes would turn our close into a reset, which may overtake our last words.
    for _ in 0..64 {
        match fill(socket, scratch) {
            Ok(Filled::Some(_)) => {}
            Ok(Filled::Nothing) => return false,
            Ok(Filled::End) => return *shut,
            Err(_) => return true,
        }
    }
    true
}
