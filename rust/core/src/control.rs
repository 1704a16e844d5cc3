//! The control thread: it establishes lanes, and serves visitors on the same ports.
//!
//! One thread, one mio `Poll`. It accepts on link accesses, dials, and drives every connection through TLS and HELLO
//! (`greeting.rs` decides) within deadlines and caps (`gate.rs` decides); what becomes of it goes to an [`Outcome`]. The
//! thread blocks all signals, touches no payload, and waits for nobody but the kernel.

mod callers;
mod ports;
mod thread;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Poll, Token, Waker};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use slab::Slab;

use crate::frame::Kind;
use crate::gate::Gate;
use crate::greeting::{Myself, Refusal};
use crate::handshake::{Hello, HelloCredit, RouterId, site_id};
use crate::payload::{self, GoAway};
use crate::record::Records;
use crate::tls::{Credential, CredentialError, CredentialSpec};
use thread::Thread;

pub use crate::dialler::DialFailure;
pub use crate::link_port::BindStatus;
pub use crate::visitor::VisitorHandoff;

const WAKER: Token = Token(0);
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
    SetRefused(Vec<[u8; 32]>),
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
                refused: Vec::new(),
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

    /// Sites that there are no new lanes with.
    pub fn set_refused(&self, sites: Vec<[u8; 32]>) {
        self.send(Command::SetRefused(sites));
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
