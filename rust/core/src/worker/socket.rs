//! An application's socket: TCP, or one end of a socket pair.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::{SockRef, TcpKeepalive};

use super::leg::Leg;

/// See the module.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Leg>),
}

/// Dead peers are found by keepalive: first after a minute, then within another.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

impl Socket {
    /// From now on closing sends RST, also when the kernel does it because this process was killed: what did not end cleanly must not
    /// look as if it had.
    pub fn of(stream: TcpStream) -> Self {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        Self::Tcp(stream)
    }

    /// A client that speaks TLS.
    pub fn accept(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        Ok(Self::Tls(Box::new(Leg::accept(stream, config)?)))
    }

    /// Speak TLS on it, as soon as it is connected.
    pub fn with_tls(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let Self::Tcp(stream) = self else {
            return Ok(self);
        };
        Ok(Self::Tls(Box::new(Leg::connect(stream, config, name)?)))
    }

    /// Start to connect.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        set_keepalive(&socket)?;
        Ok(Self::of(stream))
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(s) => registry.register(s, token, interest),
            Self::Unix(s) => registry.register(s, token, interest),
            Self::Tls(s) => registry.register(s.tcp_mut(), token, interest),
        }
    }

    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(s) => registry.deregister(s),
            Self::Unix(s) => registry.deregister(s),
            Self::Tls(s) => registry.deregister(s.tcp_mut()),
        }
    }

    /// Whether a connect that was started has succeeded, its handshake included; an error if it has failed.
    pub fn is_connected(&mut self) -> io::Result<bool> {
        match self {
            Self::Unix(_) => Ok(true),
            Self::Tcp(stream) => is_connected(stream),
            Self::Tls(leg) => Ok(is_connected(leg.tcp())? && leg.handshake()?),
        }
    }

    /// Write what is encrypted already; only TLS keeps something back.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(leg) => leg.flush().map(drop),
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }

    /// Whether TLS has read the other end's last: no event of the kernel says so.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Tls(leg) if leg.has_ended())
    }

    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(s) => s.take_error(),
            Self::Unix(s) => s.take_error(),
            Self::Tls(s) => s.tcp().take_error(),
        }
    }

    pub fn read_vectored(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read_vectored(slots),
            Self::Unix(s) => s.read_vectored(slots),
            Self::Tls(s) => s.read_vectored(slots),
        }
    }

    /// Whether nothing but the application's end is left to read.
    pub fn is_at_end(&mut self) -> io::Result<bool> {
        let mut one = [0];
        let peeked = match self {
            Self::Tcp(s) => recv(s, &mut one, RecvFlags::PEEK),
            Self::Unix(s) => recv(s, &mut one, RecvFlags::PEEK),
            Self::Tls(s) => return s.is_at_end(),
        };
        match peeked {
            Ok((_, count)) => Ok(count == 0),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The descriptor of what the kernel can move bytes from and to by itself: plain TCP alone.
    pub fn plain_tcp(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(s) => Some(s.as_fd()),
            Self::Unix(_) | Self::Tls(_) => None,
        }
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buffer),
            Self::Unix(s) => s.read(buffer),
            Self::Tls(s) => s.read(buffer),
        }
    }

    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write_vectored(slices),
            Self::Unix(s) => s.write_vectored(slices),
            Self::Tls(s) => s.write_vectored(slices),
        }
    }

    /// End our direction cleanly. Says whether that is done; if not, ask again when it can be written to.
    pub fn shutdown_write(&mut self) -> io::Result<bool> {
        let _ = match self {
            Self::Tcp(s) => s.shutdown(Shutdown::Write),
            Self::Unix(s) => s.shutdown(Shutdown::Write),
            Self::Tls(s) => return s.shutdown_write(),
        };
        Ok(true)
    }

    /// Both directions have ended: what is still in the kernel's hands is delivered after closing.
    pub fn deliver_on_close(&self) {
        let _ = match self {
            Self::Tcp(stream) => SockRef::from(stream).set_linger(None),
            Self::Tls(leg) => SockRef::from(leg.tcp()).set_linger(None),
            Self::Unix(_) => Ok(()),
        };
    }
}

fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keepalive of an application's socket; set on listening sockets, accepted ones inherit it.
pub(crate) fn set_keepalive(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(4),
    )
}
