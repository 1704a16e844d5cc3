//! Dialling: the socket options of a lane, and failures in words that say whose fault it is.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use nix::errno::Errno;
use socket2::SockRef;

use crate::greeting::{Reason, Refusal};
use crate::limits;
use crate::link_port::is_exhaustion;

/// Why a dial gave no lane: `DialResult` in `plane.py`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DialFailure {
    /// In one word, see [`Reason::as_str`].
    pub reason: Reason,
    /// In a sentence for people.
    pub sentence: String,
    /// Whether trying again soon may help; where not, something must change first, here or there.
    pub retryable: bool,
}

impl DialFailure {
    pub(crate) fn new(link: &str, refusal: &Refusal) -> Self {
        Self {
            reason: refusal.reason,
            sentence: format!("link {link}: {}", refusal.sentence),
            retryable: refusal.reason.is_retryable(),
        }
    }
}

/// Where a dial is when its time is up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Connect,
    Tls,
    Hello,
}

/// The time is up.
pub(crate) fn timed_out(address: SocketAddr, phase: Phase) -> Refusal {
    let tcp = limits::HANDSHAKE_DEADLINE.as_secs();
    let hello = limits::HELLO_DEADLINE.as_secs();
    let sentence = match phase {
        Phase::Connect => format!(
            "timed out after {tcp} s connecting to {address}; is the port open (firewall, NetworkPolicy)?"
        ),
        Phase::Tls => format!(
            "timed out after {tcp} s in the TLS handshake with {address}: it takes connections but does not answer; \
             is it a vanrouter link access?"
        ),
        Phase::Hello => format!("timed out: {address} sent no HELLO within {hello} s after TLS"),
    };
    Refusal::new(Reason::Timeout, sentence)
}

/// The TCP connection failed.
pub(crate) fn connect_failure(address: SocketAddr, error: &io::Error) -> Refusal {
    if is_exhaustion(error) {
        return Refusal::new(
            Reason::Unreachable,
            format!(
                "cannot dial {address}: this router is out of file descriptors or memory ({error})"
            ),
        );
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => Refusal::new(
            Reason::Refused,
            format!(
                "{address} refused the connection: nothing listens there; is the other site up?"
            ),
        ),
        Some(Errno::ECONNRESET | Errno::EPIPE) => Refusal::new(
            Reason::Refused,
            format!("{address} reset the connection; is it a vanrouter link access?"),
        ),
        Some(Errno::ETIMEDOUT) => timed_out(address, Phase::Connect),
        _ => Refusal::new(
            Reason::Unreachable,
            format!("there is no way to {address} from here: {error}"),
        ),
    }
}

/// The settings that every lane's socket has.
pub(crate) fn prepare(socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(limits::LANE_USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(limits::LANE_NOTSENT_LOWAT)?;
    }
    Ok(())
}
