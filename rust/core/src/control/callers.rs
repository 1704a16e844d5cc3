//! Connections between their first packet and what becomes of them: dialled or accepted, greeted, then a lane, a visitor, or refused.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mio::net::{TcpStream, UnixStream};

use super::thread::{BOTH, Entry, Thread, token};
use super::{EstablishedLane, VisitorHandoff};
use crate::dialler::{self, DialFailure, Phase};
use crate::gate::Source;
use crate::greeting::{EndpointName, Greeted, Greeting, Guest, Reason, Refusal, Role, Step};
use crate::limits;
use crate::tls::Credential;
use crate::visitor::{Filled, Visitor, drain, fill};

/// A TLS record that opens a connection: handshake (22), version 3.x, length, ClientHello (1).
const CLIENT_HELLO: usize = 6;
/// Connections that only wait for the other end to take our last words.
const MAX_GOODBYES: usize = 128;

/// A connection between its first packet and what becomes of it.
pub(super) struct Conn {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) who: Who,
    pub(super) stage: Stage,
    pub(super) deadline: Instant,
}

pub(super) enum Who {
    Caller { access: String, credential: String },
    Dial { id: u64, link: String },
}

pub(super) enum Stage {
    /// Our dial: TCP is under way.
    Connecting(Box<(Role, Arc<Credential>, EndpointName)>),
    /// A caller that has not said enough yet to know whether it speaks TLS.
    Fresh(Vec<u8>),
    Greeting(Box<Greeting>),
}

/// What a look at a connection came to.
pub(super) enum Turn {
    Wait,
    /// It closed before it said anything.
    Probe,
    Failed(Refusal),
    Lane(Box<Greeted>),
    Guest(Box<Guest>),
}

impl Thread {
    pub(super) fn dial(
        &mut self,
        id: u64,
        link: &str,
        address: SocketAddr,
        server_name: &str,
    ) -> Result<(), Refusal> {
        let cancelled = |sentence: String| Refusal::new(Reason::Cancelled, sentence);
        let entry = self
            .links
            .get(link)
            .ok_or_else(|| cancelled("it was deleted".to_owned()))?;
        let credential = self.credentials.get(&entry.credential).ok_or_else(|| {
            Refusal::new(
                Reason::Tls,
                format!("there is no credential {:?} here", entry.credential),
            )
        })?;
        if self.dials.len() >= limits::MAX_DIALS {
            return Err(Refusal::new(
                Reason::Unreachable,
                format!("{} dials are under way already", limits::MAX_DIALS),
            ));
        }
        if self.dials.contains_key(&id) {
            return Err(cancelled(format!("dial {id} is under way already")));
        }
        let name = EndpointName::new(server_name, address, entry.expected_site.as_ref())?;
        let role = Role::Dialler {
            link: link.to_owned(),
            expected_site: entry.expected_site,
            cost: entry.cost,
        };
        let credential = Arc::clone(credential);
        let failed = |error: io::Error| dialler::connect_failure(address, &error);
        let mut socket = TcpStream::connect(address).map_err(failed)?;
        let slot = self.entries.vacant_entry();
        let key = slot.key();
        self.poll
            .registry()
            .register(&mut socket, token(key, 0), BOTH)
            .map_err(failed)?;
        slot.insert(Entry::Conn(Box::new(Conn {
            socket,
            address,
            who: Who::Dial {
                id,
                link: link.to_owned(),
            },
            stage: Stage::Connecting(Box::new((role, credential, name))),
            deadline: Instant::now() + limits::HANDSHAKE_DEADLINE,
        })));
        self.dials.insert(id, key);
        Ok(())
    }

    pub(super) fn cancel_dials(&mut self, matches: impl Fn(&String, u64) -> bool) {
        let mut gone = Vec::new();
        for (id, key) in &self.dials {
            if let Some(Entry::Conn(conn)) = self.entries.get(*key)
                && let Who::Dial { link, .. } = &conn.who
                && matches(link, *id)
            {
                gone.push((*id, *key));
            }
        }
        for (id, key) in gone {
            self.dials.remove(&id);
            if let Some(Entry::Conn(conn)) = self.entries.try_remove(key) {
                self.cancelled(id, &conn);
            }
        }
    }

    pub(super) fn cancelled(&self, id: u64, conn: &Conn) {
        if let Who::Dial { link, .. } = &conn.who {
            let refusal = Refusal::new(
                Reason::Cancelled,
                format!("dialling {} was given up", conn.address),
            );
            self.outcome
                .dial_failed(id, DialFailure::new(link, &refusal));
        }
    }
    pub(super) fn welcome(
        &mut self,
        mut socket: TcpStream,
        address: SocketAddr,
        who: Who,
        now: Instant,
    ) {
        let slot = self.entries.vacant_entry();
        let key = slot.key();
        if self
            .poll
            .registry()
            .register(&mut socket, token(key, 0), BOTH)
            .is_err()
        {
            return;
        }
        let _ = socket.set_nodelay(true);
        slot.insert(Entry::Conn(Box::new(Conn {
            socket,
            address,
            who,
            stage: Stage::Fresh(Vec::new()),
            deadline: now + limits::HANDSHAKE_DEADLINE,
        })));
        if let Some(oldest) = self.gate.arrive(key, Source::from(address.ip()))
            && let Some(Entry::Conn(conn)) = self.entries.try_remove(oldest)
            && let Who::Caller { access, .. } = &conn.who
        {
            let refusal = Refusal::new(
                Reason::Timeout,
                format!("{} made room for newer connections", conn.address),
            );
            self.outcome.handshake_failed(access, &refusal);
        }
    }
    /// Read, think, write, as far as that goes.
    pub(super) fn look(&mut self, conn: &mut Conn) -> Turn {
        let now = Instant::now();
        if let Stage::Connecting(plan) = &conn.stage {
            match connected(&conn.socket) {
                Ok(false) => return Turn::Wait,
                Err(error) => return Turn::Failed(dialler::connect_failure(conn.address, &error)),
                Ok(true) => {}
            }
            let _ = conn.socket.set_nodelay(true);
            let (role, credential, name) = plan.as_ref();
            match Greeting::dialler(role.clone(), Arc::clone(credential), conn.address, name) {
                Ok(greeting) => conn.stage = Stage::Greeting(Box::new(greeting)),
                Err(error) => return Turn::Failed(Refusal::new(Reason::Tls, error.to_string())),
            }
        }
        if matches!(conn.stage, Stage::Fresh(_))
            && let Some(turn) = self.first_bytes(conn, now)
        {
            return turn;
        }
        let Stage::Greeting(greeting) = &mut conn.stage else {
            return Turn::Wait;
        };
        // What `first_bytes` has fed, or the ClientHello.
        let mut step = greeting.advance(&self.me, unix_now());
        loop {
            match step {
                Step::Wait => {}
                Step::Lane(lane) => return Turn::Lane(lane),
                Step::Guest(guest) => return Turn::Guest(guest),
                Step::Refused(refusal) => return Turn::Failed(refusal),
            }
            if let Err(error) = drain(&mut conn.socket, greeting.outgoing()) {
                // There may still be an alert to read that says more than this error.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) {
                    return Turn::Failed(dialler::connect_failure(conn.address, &error));
                }
            }
            let room = greeting.appetite().min(self.scratch.len());
            let heard = fill(
                &mut conn.socket,
                self.scratch.get_mut(..room).unwrap_or_default(),
            );
            step = match heard {
                Ok(Filled::Nothing) => return Turn::Wait,
                Ok(Filled::Some(bytes)) => {
                    let before = greeting.awaits_hello();
                    greeting.feed(bytes);
                    let step = greeting.advance(&self.me, unix_now());
                    if greeting.awaits_hello() && !before {
                        conn.deadline = now + limits::HELLO_DEADLINE;
                    }
                    step
                }
                Ok(Filled::End) => greeting.ended(),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => greeting.ended(),
                Err(error) => return Turn::Failed(dialler::connect_failure(conn.address, &error)),
            };
        }
    }

    /// A caller's first bytes: is that TLS, and may it have a handshake? `None`: go on with its greeting.
    fn first_bytes(&mut self, conn: &mut Conn, now: Instant) -> Option<Turn> {
        let (Stage::Fresh(first), Who::Caller { credential, .. }) = (&mut conn.stage, &conn.who)
        else {
            return None;
        };
        while first.len() < CLIENT_HELLO {
            match fill(&mut conn.socket, &mut self.scratch) {
                Ok(Filled::Nothing) => return Some(Turn::Wait),
                Ok(Filled::Some(bytes)) => first.extend_from_slice(bytes),
                Ok(Filled::End) | Err(_) if first.is_empty() => return Some(Turn::Probe),
                Ok(Filled::End) | Err(_) => {
                    return Some(Turn::Failed(garbage(conn.address)));
                }
            }
            if !is_client_hello(first) {
                return Some(Turn::Failed(garbage(conn.address)));
            }
        }
        let Some(credential) = self.credentials.get(credential) else {
            let sentence = format!("{} came while there is no credential", conn.address);
            return Some(Turn::Failed(Refusal::new(Reason::Tls, sentence)));
        };
        if !self.gate.may_begin(Source::from(conn.address.ip()), now) {
            let sentence = format!("{} asks for too many TLS handshakes", conn.address);
            return Some(Turn::Failed(Refusal::new(Reason::Refused, sentence)));
        }
        let greeting = Greeting::acceptor(Arc::clone(credential), conn.address, self.refuse);
        match greeting {
            Err(error) => Some(Turn::Failed(Refusal::new(Reason::Tls, error.to_string()))),
            Ok(mut greeting) => {
                greeting.feed(first);
                conn.stage = Stage::Greeting(Box::new(greeting));
                None
            }
        }
    }

    /// Act on what a look came to.
    pub(super) fn settle(&mut self, key: usize, conn: Box<Conn>, turn: Turn) {
        if matches!(turn, Turn::Wait) {
            if let Some(entry) = self.entries.get_mut(key) {
                *entry = Entry::Conn(conn);
            }
            return;
        }
        self.gate.leave(key);
        if let Who::Dial { id, .. } = &conn.who {
            self.dials.remove(id);
        }
        match turn {
            Turn::Wait => {}
            Turn::Probe => {
                self.entries.try_remove(key);
                self.outcome.probe();
            }
            Turn::Failed(refusal) => self.fail(key, *conn, &refusal),
            Turn::Lane(greeted) => {
                self.entries.try_remove(key);
                self.hand_over(*conn, *greeted);
            }
            Turn::Guest(guest) => self.receive(key, *conn, *guest),
        }
    }

    /// Report it, and let the other end have what TLS or GOAWAY have to say about it.
    fn fail(&mut self, key: usize, conn: Conn, refusal: &Refusal) {
        self.report_failure(&conn.who, refusal);
        let outgoing = match conn.stage {
            Stage::Greeting(mut greeting) => std::mem::take(greeting.outgoing()),
            Stage::Connecting(_) | Stage::Fresh(_) => Vec::new(),
        };
        self.see_off(key, conn.socket, outgoing);
    }

    /// Send the last bytes of a connection that is over.
    fn see_off(&mut self, key: usize, socket: TcpStream, outgoing: Vec<u8>) {
        if outgoing.is_empty() || self.goodbyes >= MAX_GOODBYES {
            self.entries.try_remove(key);
            return;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            *entry = Entry::Goodbye {
                socket,
                outgoing,
                shut: false,
                deadline: Instant::now() + limits::GOODBYE_DEADLINE,
            };
            self.goodbyes += 1;
            self.wake(key);
        }
    }

    fn hand_over(&mut self, mut conn: Conn, mut greeted: Greeted) {
        // Our HELLO need not wait for the worker. An error shows there again.
        let _ = drain(&mut conn.socket, &mut greeted.outgoing);
        let prepared = self
            .poll
            .registry()
            .deregister(&mut conn.socket)
            .and_then(|()| dialler::prepare(&conn.socket));
        if let Err(error) = prepared {
            let refusal = dialler::connect_failure(conn.address, &error);
            self.report_failure(&conn.who, &refusal);
            return;
        }
        let (link, access, dial_id) = match conn.who {
            Who::Caller { access, .. } => (None, Some(access), None),
            Who::Dial { id, link } => (Some(link), None, Some(id)),
        };
        self.outcome.lane(EstablishedLane {
            socket: conn.socket,
            records: greeted.records,
            incoming: greeted.incoming,
            plain: greeted.plain,
            outgoing: greeted.outgoing,
            dialler: dial_id.is_some(),
            peer_router: greeted.peer.router,
            peer: greeted.peer,
            granted: greeted.granted,
            link,
            access,
            cost: greeted.cost,
            address: conn.address,
            dial_id,
        });
    }

    /// Take a visitor in. It stays in this thread; the control plane gets the other end of a socket pair.
    fn receive(&mut self, key: usize, conn: Conn, guest: Guest) {
        let Guest {
            mut records,
            incoming,
            mut outgoing,
            alpn,
            certificates,
        } = guest;
        let Conn {
            socket,
            address,
            who,
            ..
        } = conn;
        let Who::Caller { access, .. } = &who else {
            self.entries.try_remove(key);
            return;
        };
        let pair = if self.visitors < limits::MAX_VISITORS {
            self.visitor_pair(key)
        } else {
            let most = limits::MAX_VISITORS;
            Err(io::Error::other(format!(
                "{most} visitors are here already"
            )))
        };
        let (app, theirs) = match pair {
            Ok(pair) => pair,
            Err(error) => {
                let refusal = Refusal::new(Reason::Refused, format!("{address}: {error}"));
                self.outcome.handshake_failed(access, &refusal);
                records.close(&mut outgoing);
                self.see_off(key, socket, outgoing);
                return;
            }
        };
        self.outcome.visitor(VisitorHandoff {
            access: access.clone(),
            alpn,
            socket: theirs,
            certificates,
            address,
        });
        if let Some(entry) = self.entries.get_mut(key) {
            *entry = Entry::Visitor(Box::new(Visitor {
                socket,
                app,
                deadline: Instant::now() + limits::VISITOR_DEADLINE,
                records,
                incoming,
                outgoing,
                plain: Vec::new(),
                heard_all: false,
                told: false,
                said_all: false,
                shut: false,
            }));
            self.visitors += 1;
            self.wake(key);
        }
    }

    fn visitor_pair(&self, key: usize) -> io::Result<(UnixStream, StdUnixStream)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let mut app = UnixStream::from_std(ours);
        self.poll
            .registry()
            .register(&mut app, token(key, 1), BOTH)?;
        Ok((app, theirs))
    }

    fn report_failure(&self, who: &Who, refusal: &Refusal) {
        match who {
            Who::Caller { access, .. } => self.outcome.handshake_failed(access, refusal),
            Who::Dial { id, link } => self
                .outcome
                .dial_failed(*id, DialFailure::new(link, refusal)),
        }
    }
}

pub(super) fn late_refusal(conn: &Conn) -> Refusal {
    let phase = match &conn.stage {
        Stage::Connecting(_) => Phase::Connect,
        Stage::Fresh(_) => Phase::Tls,
        Stage::Greeting(greeting) if greeting.awaits_hello() => Phase::Hello,
        Stage::Greeting(_) => Phase::Tls,
    };
    match conn.who {
        Who::Dial { .. } => dialler::timed_out(conn.address, phase),
        Who::Caller { .. } => {
            let what = if phase == Phase::Hello {
                "HELLO"
            } else {
                "TLS"
            };
            let sentence = format!("{} did not finish {what} in time", conn.address);
            Refusal::new(Reason::Timeout, sentence)
        }
    }
}
/// Whether TCP is through.
fn connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        // On a port of the ephemeral range, TCP may meet itself.
        Ok(peer) if socket.local_addr().is_ok_and(|local| local == peer) => {
            Err(io::Error::from_raw_os_error(nix::libc::ECONNREFUSED))
        }
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
fn is_client_hello(first: &[u8]) -> bool {
    let expected = [(0, 22), (1, 3), (5, 1)];
    expected
        .iter()
        .all(|(at, byte)| first.get(*at).is_none_or(|b| b == byte))
}

fn garbage(address: SocketAddr) -> Refusal {
    Refusal::new(Reason::Protocol, format!("{address} does not speak TLS"))
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
