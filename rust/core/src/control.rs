//! The control thread: it establishes lanes, and serves visitors on the same ports.
//!
//! One thread, one mio `Poll`. It accepts on link accesses, dials, and drives every connection through TLS and HELLO
//! (`greeting.rs` decides) within deadlines and caps (`gate.rs` decides); what becomes of it goes to an [`Outcome`]. The
//! thread blocks all signals, touches no payload, and waits for nobody but the kernel.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use slab::Slab;

use crate::dialler::{self, Phase};
use crate::frame::Kind;
use crate::gate::{Gate, Source};
use crate::greeting::{
    EndpointName, Greeted, Greeting, Guest, Myself, Reason, Refusal, Role, Step,
};
use crate::handshake::{Hello, HelloCredit, RouterId, site_id};
use crate::limits;
use crate::link_port::{self, Accepted, LinkPort};
use crate::payload::{self, GoAway};
use crate::record::Records;
use crate::tls::{Credential, CredentialError, CredentialSpec};
use crate::visitor::{Filled, Visitor, drain, fill};

pub use crate::dialler::DialFailure;
pub use crate::link_port::BindStatus;
pub use crate::visitor::VisitorHandoff;

const WAKER: Token = Token(0);
/// A TLS record that opens a connection: handshake (22), version 3.x, length, ClientHello (1).
const CLIENT_HELLO: usize = 6;
/// Connections that only wait for the other end to take our last words.
const MAX_GOODBYES: usize = 128;

/// A lane that is up: TLS is through, both HELLOs are exchanged and checked.
#[derive(Debug)]
pub struct EstablishedLane {
    /// Registered nowhere; NODELAY, USER_TIMEOUT and NOTSENT_LOWAT are set.
    pub socket: TcpStream,
    /// TLS from here on.
    pub records: Records,
    /// Ciphertext that was read and not opened.
    pub incoming: Vec<u8>,
    /// Opened bytes behind the peer's HELLO.
    pub plain: Vec<u8>,
    /// Ciphertext not yet written.
    pub outgoing: Vec<u8>,
    /// Whether we dialled.
    pub dialler: bool,
    /// The peer's HELLO, checked.
    pub peer: Hello,
    /// What our HELLO gave the peer.
    pub granted: HelloCredit,
    /// The other end.
    pub peer_router: RouterId,
    /// Our link for which it was dialled.
    pub link: Option<String>,
    /// Our access where it arrived.
    pub access: Option<String>,
    /// The larger of both ends' costs.
    pub cost: u32,
    /// Of the far end.
    pub address: SocketAddr,
    /// The dial that this answers.
    pub dial_id: Option<u64>,
}

impl EstablishedLane {
    /// Say no, as far as the kernel takes it now, and close.
    pub fn refuse(mut self, reason: &str) {
        let mut goodbye = Vec::new();
        let code = GoAway::Policy as u8;
        payload::put_reason(&mut goodbye, 0, Kind::GoAway, code, reason);
        if self.records.seal(&goodbye, &mut self.outgoing).is_ok() {
            self.records.close(&mut self.outgoing);
            let _ = self.socket.write(&self.outgoing);
        }
    }
}

/// Where the control thread's findings go. Called on that thread: must not block.
pub trait Outcome: Send {
    /// A lane is up. With a `dial_id` it is the answer to that dial.
    fn lane(&self, lane: EstablishedLane);
    /// The answer to a dial that gave no lane.
    fn dial_failed(&self, id: u64, failure: DialFailure);
    /// A connection that is not a link.
    fn visitor(&self, visitor: VisitorHandoff);
    /// What became of a port.
    fn access_state(&self, name: &str, status: BindStatus, port: u16, error: &str, gone: bool);
    /// A caller that did not become anything, and why.
    fn handshake_failed(&self, access: &str, refusal: &Refusal);
    /// A caller that closed before it said anything: somebody looked whether the port is open.
    fn probe(&self);
}

/// What the control thread is started with and keeps for its life.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// SubjectPublicKeyInfo DER of the site's identity key.
    pub identity_key: Vec<u8>,
    /// Of this start of the router.
    pub boot: u64,
    /// A label.
    pub site_name: String,
    /// For `lanes wanted`.
    pub workers: u16,
    /// Software and version, for HELLO.
    pub software: String,
    /// Connections before HELLO from one source; 0: no limit per source.
    pub per_source_limit: usize,
    /// From one source, with a burst of twice that; 0: no limit per source.
    pub handshakes_per_second: u32,
    /// We carry no transit, and say so in HELLO.
    pub edge: bool,
}

/// One of our listening sockets, duplicated for a successor.
#[derive(Debug)]
pub struct ListeningSocket {
    /// The access that it belongs to.
    pub access: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// A duplicate: the receiver owns it.
    pub fd: OwnedFd,
}

enum Command {
    PutCredential(String, Arc<Credential>),
    DropCredential(String),
    PutAccess {
        name: String,
        address: SocketAddr,
        credential: String,
        adopt: Option<OwnedFd>,
    },
    DropAccess(String),
    PutLink(String, LinkEntry),
    DropLink(String),
    Dial {
        id: u64,
        link: String,
        address: SocketAddr,
        server_name: String,
    },
    CancelDial(u64),
    SetSiblings(Vec<u64>),
    RefuseLanes(bool),
    Stop,
}

#[derive(Clone, Debug)]
struct LinkEntry {
    credential: String,
    expected_site: Option<[u8; 32]>,
    cost: u32,
}

type Listening = Arc<Mutex<HashMap<String, (SocketAddr, OwnedFd)>>>;

/// The handle of the control thread. Methods put work on a queue and return at once.
#[derive(Clone)]
pub struct Control {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    listening: Listening,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Start the thread.
    ///
    /// # Errors
    /// The system refuses a thread or a file descriptor, or the identity key is no ECDSA P-256 key.
    pub fn spawn(config: ControlConfig, outcome: Box<dyn Outcome>) -> io::Result<Self> {
        let site = site_id(&config.identity_key).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the identity key is no ECDSA P-256 key",
            )
        })?;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (commands, inbox) = channel();
        let listening = Listening::default();
        let thread = Thread {
            poll,
            inbox,
            outcome,
            me: Myself {
                identity_key: config.identity_key,
                router: RouterId {
                    site,
                    boot: config.boot,
                },
                site_name: config.site_name,
                lanes_wanted: config.workers.max(1),
                software: config.software,
                siblings: Vec::new(),
                edge: config.edge,
            },
            gate: Gate::new(
                config.per_source_limit,
                config.handshakes_per_second,
                Instant::now(),
            ),
            refuse: false,
            credentials: HashMap::new(),
            links: HashMap::new(),
            ports: HashMap::new(),
            unbound: HashMap::new(),
            dials: HashMap::new(),
            entries: Slab::new(),
            visitors: 0,
            goodbyes: 0,
            listening: Arc::clone(&listening),
            scratch: vec![0; 16 * 1_024],
        };
        // A thread inherits the mask of the one that starts it: signals are for whoever embeds us.
        let mut before = SigSet::empty();
        pthread_sigmask(
            SigmaskHow::SIG_SETMASK,
            Some(&SigSet::all()),
            Some(&mut before),
        )?;
        let handle = std::thread::Builder::new()
            .name("van-control".to_owned())
            .spawn(move || thread.run());
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        Ok(Self {
            commands,
            waker,
            listening,
            thread: Arc::new(Mutex::new(Some(handle?))),
        })
    }

    fn send(&self, command: Command) {
        // Without the thread there is nobody left who would care.
        if self.commands.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }

    /// New connections use this credential from now on. A broken one changes nothing.
    ///
    /// # Errors
    /// It cannot be used; says why.
    pub fn put_credential(&self, name: &str, spec: &CredentialSpec) -> Result<(), CredentialError> {
        let credential = Arc::new(Credential::new(spec)?);
        self.send(Command::PutCredential(name.to_owned(), credential));
        Ok(())
    }

    /// Connections that are under way keep it.
    pub fn drop_credential(&self, name: &str) {
        self.send(Command::DropCredential(name.to_owned()));
    }

    /// Listen there (port 0: any free one), on `adopt` if a predecessor left a socket. On the same address again only the
    /// credential changes. The answer is `access_state`; a port that is in use is tried again every second.
    pub fn put_access(
        &self,
        name: &str,
        address: SocketAddr,
        credential: &str,
        adopt: Option<OwnedFd>,
    ) {
        self.send(Command::PutAccess {
            name: name.to_owned(),
            address,
            credential: credential.to_owned(),
            adopt,
        });
    }

    /// Stop listening; what came in there stays.
    pub fn drop_access(&self, name: &str) {
        self.send(Command::DropAccess(name.to_owned()));
    }

    /// What to demand, and what to say, when this link is dialled.
    pub fn put_link(
        &self,
        name: &str,
        credential: &str,
        expected_site: Option<[u8; 32]>,
        cost: u32,
    ) {
        let entry = LinkEntry {
            credential: credential.to_owned(),
            expected_site,
            cost: cost.clamp(1, crate::handshake::MAX_COST),
        };
        self.send(Command::PutLink(name.to_owned(), entry));
    }

    /// Dials of this link end as cancelled.
    pub fn drop_link(&self, name: &str) {
        self.send(Command::DropLink(name.to_owned()));
    }

    /// Open one lane. The answer is one `lane` or one `dial_failed` with this id.
    pub fn dial(&self, id: u64, link: &str, address: SocketAddr, server_name: &str) {
        self.send(Command::Dial {
            id,
            link: link.to_owned(),
            address,
            server_name: server_name.to_owned(),
        });
    }

    /// Give up a dial; it is answered as cancelled unless its answer is out already.
    pub fn cancel_dial(&self, id: u64) {
        self.send(Command::CancelDial(id));
    }

    /// The site's live routers, for the HELLO of new lanes.
    pub fn set_siblings(&self, boots: Vec<u64>) {
        self.send(Command::SetSiblings(boots));
    }

    /// Whether new lanes are refused. Visitors still are welcome.
    pub fn refuse_lanes(&self, refuse: bool) {
        self.send(Command::RefuseLanes(refuse));
    }

    /// Duplicates of the listening sockets. One that cannot be duplicated is left out.
    #[must_use]
    pub fn listening_sockets(&self) -> Vec<ListeningSocket> {
        let listening = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listening
            .iter()
            .filter_map(|(access, (address, fd))| {
                Some(ListeningSocket {
                    access: access.clone(),
                    address: *address,
                    fd: fd.try_clone().ok()?,
                })
            })
            .collect()
    }

    /// Close everything that is not established yet, and end the thread.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }

    /// Wait for the end of the thread, after [`Control::stop`].
    pub fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// A connection between its first packet and what becomes of it.
struct Conn {
    socket: TcpStream,
    address: SocketAddr,
    who: Who,
    stage: Stage,
    deadline: Instant,
}

enum Who {
    Caller { access: String, credential: String },
    Dial { id: u64, link: String },
}

enum Stage {
    /// Our dial: TCP is under way.
    Connecting(Box<(Role, Arc<Credential>, EndpointName)>),
    /// A caller that has not said enough yet to know whether it speaks TLS.
    Fresh(Vec<u8>),
    Greeting(Box<Greeting>),
}

/// A port that is not ours yet.
struct Unbound {
    address: SocketAddr,
    credential: String,
    status: BindStatus,
    retry: Instant,
}

enum Entry {
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

/// What a look at a connection came to.
enum Turn {
    Wait,
    /// It closed before it said anything.
    Probe,
    Failed(Refusal),
    Lane(Box<Greeted>),
    Guest(Box<Guest>),
}

struct Thread {
    poll: Poll,
    inbox: Receiver<Command>,
    outcome: Box<dyn Outcome>,
    me: Myself,
    gate: Gate,
    refuse: bool,
    credentials: HashMap<String, Arc<Credential>>,
    links: HashMap<String, LinkEntry>,
    ports: HashMap<String, usize>,
    unbound: HashMap<String, Unbound>,
    dials: HashMap<u64, usize>,
    entries: Slab<Entry>,
    visitors: usize,
    goodbyes: usize,
    listening: Listening,
    scratch: Vec<u8>,
}

/// The event sources of an entry: its connection, and a visitor's other side.
const fn token(key: usize, side: usize) -> Token {
    Token(1 + 2 * key + side)
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Thread {
    fn run(mut self) {
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

    // ---- Commands -----------------------------------------------------------------------------------------------------

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
            Command::RefuseLanes(refuse) => self.refuse = refuse,
            Command::Stop => {}
        }
    }

    fn put_access(
        &mut self,
        name: String,
        address: SocketAddr,
        credential: String,
        adopt: Option<OwnedFd>,
    ) {
        if let Some(Entry::Port(port)) = self
            .ports
            .get(&name)
            .and_then(|key| self.entries.get_mut(*key))
            && port.wanted == address
        {
            port.credential = credential;
            self.report(&name);
            return;
        }
        self.close_port(&name);
        self.unbound.remove(&name);
        self.bind(name, address, credential, adopt, None);
    }

    /// Try to get a port. `before`: what the last try came to, if that has been reported.
    fn bind(
        &mut self,
        name: String,
        address: SocketAddr,
        credential: String,
        adopt: Option<OwnedFd>,
        before: Option<BindStatus>,
    ) {
        match self.open_port(&name, address, &credential, adopt) {
            Ok(()) => self.report(&name),
            Err(error) => {
                let (status, sentence) = link_port::bind_failure(&name, address, &error);
                if before != Some(status) {
                    self.outcome
                        .access_state(&name, status, 0, &sentence, false);
                }
                let retry = Instant::now() + limits::BIND_RETRY;
                self.unbound.insert(
                    name,
                    Unbound {
                        address,
                        credential,
                        status,
                        retry,
                    },
                );
            }
        }
    }

    fn open_port(
        &mut self,
        name: &str,
        address: SocketAddr,
        credential: &str,
        adopt: Option<OwnedFd>,
    ) -> io::Result<()> {
        let mut listener = link_port::listen(address, adopt)?;
        let bound = listener.local_addr()?;
        let duplicate = listener.as_fd().try_clone_to_owned()?;
        let slot = self.entries.vacant_entry();
        let key = slot.key();
        self.poll
            .registry()
            .register(&mut listener, token(key, 0), Interest::READABLE)?;
        slot.insert(Entry::Port(LinkPort {
            name: name.to_owned(),
            wanted: address,
            credential: credential.to_owned(),
            listener,
            // Callers may be waiting on an adopted socket.
            ready: true,
            paused: None,
        }));
        self.ports.insert(name.to_owned(), key);
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), (bound, duplicate));
        Ok(())
    }

    /// Returns the port that it had, or 0.
    fn close_port(&mut self, name: &str) -> u16 {
        let had = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        if let Some(key) = self.ports.remove(name) {
            self.entries.try_remove(key);
        }
        had.map_or(0, |(address, _)| address.port())
    }

    fn report_users_of(&self, credential: &str) {
        for key in self.ports.values() {
            if let Some(Entry::Port(port)) = self.entries.get(*key)
                && port.credential == credential
            {
                self.report(&port.name);
            }
        }
    }

    /// Say how a port of ours is.
    fn report(&self, name: &str) {
        let Some(Entry::Port(port)) = self.ports.get(name).and_then(|key| self.entries.get(*key))
        else {
            return;
        };
        let bound = port.listener.local_addr().map_or(0, |a| a.port());
        if self.credentials.contains_key(&port.credential) {
            self.outcome
                .access_state(name, BindStatus::Listening, bound, "", false);
        } else {
            let sentence = format!(
                "access {name}: there is no credential {:?}; callers are turned away until there is",
                port.credential
            );
            self.outcome
                .access_state(name, BindStatus::Bound, bound, &sentence, false);
        }
    }

    fn dial(
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

    fn cancel_dials(&mut self, matches: impl Fn(&String, u64) -> bool) {
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

    fn cancelled(&self, id: u64, conn: &Conn) {
        if let Who::Dial { link, .. } = &conn.who {
            let refusal = Refusal::new(
                Reason::Cancelled,
                format!("dialling {} was given up", conn.address),
            );
            self.outcome
                .dial_failed(id, DialFailure::new(link, &refusal));
        }
    }

    // ---- Callers ------------------------------------------------------------------------------------------------------

    fn accept_all(&mut self, now: Instant) {
        let ports: Vec<usize> = self.ports.values().copied().collect();
        for key in ports {
            for _ in 0..limits::ACCEPT_BATCH {
                let Some(Entry::Port(port)) = self.entries.get_mut(key) else {
                    break;
                };
                let Accepted::Caller(socket, address) = port.accept(now) else {
                    break;
                };
                let who = Who::Caller {
                    access: port.name.clone(),
                    credential: port.credential.clone(),
                };
                self.welcome(socket, address, who, now);
            }
        }
    }

    fn welcome(&mut self, mut socket: TcpStream, address: SocketAddr, who: Who, now: Instant) {
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

    // ---- Events -------------------------------------------------------------------------------------------------------

    fn wake(&mut self, key: usize) {
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

    /// Read, think, write, as far as that goes.
    fn look(&mut self, conn: &mut Conn) -> Turn {
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
    fn settle(&mut self, key: usize, conn: Box<Conn>, turn: Turn) {
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

    // ---- Time ---------------------------------------------------------------------------------------------------------

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

fn late_refusal(conn: &Conn) -> Refusal {
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
