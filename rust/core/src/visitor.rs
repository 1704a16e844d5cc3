//! Visitors: plaintext of a `van-join/1` or `http/1.1` connection, carried to and from the control plane.
//!
//! The control plane gets one end of a socket pair; this pumps the other, with bounded buffers and a deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UnixStream};

use crate::limits;
use crate::record::{MAX_RECORD, Records};

/// How long a connection may stay after the control plane has said everything.
const LINGER: Duration = Duration::from_secs(2);
/// Ciphertext per direction: a whole record must fit next to what is there.
const WIRE: usize = limits::VISITOR_BUFFER + MAX_RECORD;

/// A visitor for the control plane.
#[derive(Debug)]
pub struct VisitorHandoff {
    /// Where it arrived.
    pub access: String,
    /// What it came for.
    pub alpn: String,
    /// Its plaintext, in both directions. Non-blocking.
    pub socket: StdUnixStream,
    /// What its TLS handshake proved, DER, leaf first; may be empty. The leaf may have expired.
    pub certificates: Vec<Vec<u8>>,
    /// Where it came from.
    pub address: SocketAddr,
}

/// One visitor under way.
pub(crate) struct Visitor {
    pub socket: TcpStream,
    pub app: UnixStream,
    pub deadline: Instant,
    pub records: Records,
    /// Ciphertext that has arrived.
    pub incoming: Vec<u8>,
    /// Ciphertext to be sent.
    pub outgoing: Vec<u8>,
    /// Plaintext for the control plane.
    pub plain: Vec<u8>,
    /// Nothing more comes from the visitor.
    pub heard_all: bool,
    /// The control plane knows that.
    pub told: bool,
    /// Nothing more comes from the control plane; close_notify is in `outgoing` or sent.
    pub said_all: bool,
    /// That is on its way.
    pub shut: bool,
}

impl std::fmt::Debug for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visitor").finish_non_exhaustive()
    }
}

impl Visitor {
    /// Move what can be moved. False: it is over.
    pub(crate) fn pump(&mut self, scratch: &mut [u8], now: Instant) -> bool {
        loop {
            match self.round(scratch, now) {
                Ok(true) => {}
                Ok(false) => return !(self.shut && self.heard_all),
                Err(_) => return false,
            }
        }
    }

    /// One step in each direction. `Ok(false)`: nothing can be moved now.
    fn round(&mut self, scratch: &mut [u8], now: Instant) -> io::Result<bool> {
        let mut moved = drain(&mut self.socket, &mut self.outgoing)?;
        match drain(&mut self.app, &mut self.plain) {
            Ok(more) => moved |= more,
            // The control plane does not want to hear the rest; it may still have something to say.
            Err(_) => {
                self.plain.clear();
                self.told = true;
            }
        }

        if !self.heard_all && self.incoming.len() < WIRE {
            let room = scratch.len().min(WIRE - self.incoming.len());
            match fill(
                &mut self.socket,
                scratch.get_mut(..room).unwrap_or_default(),
            )? {
                Filled::Some(bytes) => {
                    self.incoming.extend_from_slice(bytes);
                    moved = true;
                }
                Filled::End => {
                    self.heard_all = true;
                    moved = true;
                }
                Filled::Nothing => {}
            }
        }
        let opened = self
            .records
            .open(
                &mut self.incoming,
                &mut self.plain,
                limits::VISITOR_BUFFER,
                &mut self.outgoing,
            )
            .map_err(|error| {
                // The alert, if it can be sent.
                let _ = drain(&mut self.socket, &mut self.outgoing);
                io::Error::other(error)
            })?;
        self.incoming.drain(..opened.consumed);
        moved |= opened.consumed > 0;
        self.heard_all |= opened.closed;
        if self.told {
            self.plain.clear();
        }
        if self.heard_all && self.plain.is_empty() && !self.told {
            let _ = self.app.shutdown(Shutdown::Write);
            self.told = true;
        }

        if !self.said_all && self.outgoing.len() < limits::VISITOR_BUFFER {
            match fill(&mut self.app, scratch)? {
                Filled::Some(bytes) => {
                    self.records
                        .seal(bytes, &mut self.outgoing)
                        .map_err(io::Error::other)?;
                    moved = true;
                }
                Filled::End => {
                    self.records.close(&mut self.outgoing);
                    self.said_all = true;
                    moved = true;
                }
                Filled::Nothing => {}
            }
        }
        if self.said_all && self.outgoing.is_empty() && !self.shut {
            let _ = self.socket.shutdown(Shutdown::Write);
            self.shut = true;
            self.deadline = self.deadline.min(now + LINGER);
        }
        Ok(moved)
    }
}

/// What a read gave.
pub(crate) enum Filled<'a> {
    Some(&'a [u8]),
    End,
    Nothing,
}

/// Read once.
pub(crate) fn fill<'a>(from: &mut impl Read, room: &'a mut [u8]) -> io::Result<Filled<'a>> {
    if room.is_empty() {
        return Ok(Filled::Nothing);
    }
    loop {
        match from.read(room) {
            Ok(0) => return Ok(Filled::End),
            Ok(count) => return Ok(Filled::Some(room.get(..count).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Filled::Nothing),
            Err(error) => return Err(error),
        }
    }
}

/// Write what can be written, and remove it. Says whether that was anything.
pub(crate) fn drain(to: &mut impl Write, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut sent = 0;
    let outcome = loop {
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            break Ok(());
        }
        match to.write(rest) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    bytes.drain(..sent);
    outcome.map(|()| sent > 0)
}
