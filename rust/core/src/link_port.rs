//! The ports of link accesses: binding them, keeping them, and accepting without ever spinning.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits;

/// What became of a bind: the words of `plane.py`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindStatus {
    /// The port is ours, and nobody is served on it.
    Bound,
    /// The port is ours, and callers are served.
    Listening,
    /// Another socket has it.
    InUse,
    /// We have no right to it.
    Denied,
    /// Something else.
    Failed,
}

impl BindStatus {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Listening => "listening",
            Self::InUse => "in_use",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// The port of one link access. Without a listener it is tried again now and then.
#[derive(Debug)]
pub(crate) struct LinkPort {
    pub name: String,
    pub wanted: SocketAddr,
    pub credential: String,
    pub listener: TcpListener,
    /// The kernel said that somebody waits, and we have not found the queue empty since.
    pub ready: bool,
    /// After a failure to accept: not before then.
    pub paused: Option<Instant>,
}

/// What [`LinkPort::accept`] found.
pub(crate) enum Accepted {
    Caller(TcpStream, SocketAddr),
    /// Nobody waits, or the port pauses.
    Nobody,
}

impl LinkPort {
    /// Take the next caller.
    pub(crate) fn accept(&mut self, now: Instant) -> Accepted {
        if !self.ready || self.paused.is_some_and(|until| now < until) {
            return Accepted::Nobody;
        }
        self.paused = None;
        for _ in 0..limits::ACCEPT_BATCH {
            match self.listener.accept() {
                Ok((socket, address)) => return Accepted::Caller(socket, canonical(address)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready = false;
                    return Accepted::Nobody;
                }
                Err(error) if is_exhaustion(&error) => {
                    self.paused = Some(now + limits::ACCEPT_PAUSE);
                    return Accepted::Nobody;
                }
                // That one is gone already; the next may be well (accept(2) passes on errors of the caller's network).
                Err(_) => {}
            }
        }
        Accepted::Nobody
    }
}

/// Out of file descriptors or memory: trying again at once would only spin.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use nix::errno::Errno;
    error.raw_os_error().map(Errno::from_raw).is_some_and(|e| {
        matches!(
            e,
            Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM
        )
    })
}

/// An IPv4 caller of a dual-stack port is an IPv4 caller.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Bind and listen, or adopt a socket that a predecessor had bound.
pub(crate) fn listen(address: SocketAddr, adopt: Option<OwnedFd>) -> io::Result<TcpListener> {
    let socket = match adopt {
        Some(fd) => Socket::from(fd),
        None => {
            let socket = Socket::new(
                Domain::for_address(address),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket
        }
    };
    socket.set_nonblocking(true)?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A failed bind in the words of `plane.py` and in a sentence.
pub(crate) fn bind_failure(
    name: &str,
    address: SocketAddr,
    error: &io::Error,
) -> (BindStatus, String) {
    match error.kind() {
        io::ErrorKind::AddrInUse => (
            BindStatus::InUse,
            format!(
                "access {name}: {address} is in use by another program or another site; choose another port or stop it"
            ),
        ),
        io::ErrorKind::PermissionDenied => (
            BindStatus::Denied,
            format!(
                "access {name}: no right to listen on {address}; ports below 1024 need CAP_NET_BIND_SERVICE"
            ),
        ),
        io::ErrorKind::AddrNotAvailable => (
            BindStatus::Failed,
            format!(
                "access {name}: {} is no address of this machine",
                address.ip()
            ),
        ),
        _ => (
            BindStatus::Failed,
            format!("access {name}: cannot listen on {address}: {error}"),
        ),
    }
}
