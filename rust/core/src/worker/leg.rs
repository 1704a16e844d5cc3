//! An application's socket with TLS on it. The state of TLS stays with the socket wherever it goes.
//!
//! Reads and writes are as those of a socket that never blocks, with one difference: what was written may still be here, encrypted, and
//! goes out with [`Leg::flush`]. A direction ends with close_notify; a connection that ends without it is broken, after what came before.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection,
};

use crate::app_tls::words;

/// Plaintext that is encrypted at once: two full records. So much may wait here for a slow application beside its credit.
const WRITE: usize = 32_768;
/// Records under one key of TLS 1.2: less than the 2^24 after which AES-GCM is not safe (RFC 8446, section 5.5).
const MOST_RECORDS: u64 = (1 << 24) - 1_024;

/// See the module.
pub(crate) struct Leg {
    tcp: TcpStream,
    tls: Connection,
    /// close_notify or the connection's end was read.
    ended: bool,
    /// Why it broke, for the read after the last bytes.
    broken: Option<io::Error>,
    /// close_notify was given to TLS.
    shut: bool,
    /// That were written, at least.
    records: u64,
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg").field("tcp", &self.tcp).finish()
    }
}

/// What reading from the connection gave.
enum Fill {
    Some,
    Nothing,
    End,
}

impl Leg {
    /// Toward a client.
    pub fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let tls = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self::new(tcp, tls.into()))
    }

    /// Toward a target that is being connected.
    pub fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::new(tcp, tls.into()))
    }

    fn new(tcp: TcpStream, mut tls: Connection) -> Self {
        tls.set_buffer_limit(Some(WRITE));
        Self {
            tcp,
            tls,
            ended: false,
            broken: None,
            shut: false,
            records: 0,
        }
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub fn tcp_mut(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Go on with the handshake. `Ok(true)`: it is done.
    pub fn handshake(&mut self) -> io::Result<bool> {
        loop {
            if !self.flush()? {
                return Ok(false);
            }
            if !self.tls.is_handshaking() {
                return Ok(true);
            }
            match self.fill()? {
                Fill::Some => {}
                Fill::Nothing => return Ok(false),
                Fill::End => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "TLS: it closed the connection during the handshake",
                    ));
                }
            }
        }
    }

    /// Whether the other end said its last: then a short read does not mean that there is no more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    fn fill(&mut self) -> io::Result<Fill> {
        loop {
            return match self.tls.read_tls(&mut self.tcp) {
                Ok(0) => {
                    self.ended = true;
                    Ok(Fill::End)
                }
                Ok(_) => {
                    let state = self.process()?;
                    self.ended |= state.peer_has_closed();
                    Ok(Fill::Some)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Fill::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    fn process(&mut self) -> io::Result<rustls::IoState> {
        let state = self.tls.process_new_packets().map_err(|error| {
            // The alert that says why.
            let _ = self.tls.write_tls(&mut self.tcp);
            io::Error::new(io::ErrorKind::InvalidData, words(&error))
        })?;
        if self.tls.wants_write() {
            self.flush()?;
        }
        Ok(state)
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        loop {
            match self.tls.reader().read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Fill::Nothing = self.fill()? {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "TLS: the connection was closed without close_notify: the end may be missing",
                    ));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As much as there is, as far as there is room: a short read means that there is no more now, unless it has [ended](Self::has_ended).
    pub fn read_vectored(&mut self, slots: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut total = 0;
        for slot in slots {
            let mut rest: &mut [u8] = slot;
            while !rest.is_empty() {
                match self.read(rest) {
                    Ok(0) => return Ok(total),
                    Ok(count) => {
                        total += count;
                        rest = rest.get_mut(count..).unwrap_or_default();
                    }
                    Err(error) if total == 0 => return Err(error),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(total),
                    Err(error) => {
                        self.ended = true;
                        self.broken = Some(error);
                        return Ok(total);
                    }
                }
            }
        }
        Ok(total)
    }

    /// Whether nothing but a clean end is left to read. What came is taken from the kernel as far as TLS has room for it.
    pub fn is_at_end(&mut self) -> io::Result<bool> {
        loop {
            let state = self.process()?;
            if state.plaintext_bytes_to_read() > 0 {
                return Ok(false);
            }
            if state.peer_has_closed() {
                return Ok(true);
            }
            match self.fill()? {
                Fill::Some => {}
                Fill::Nothing => return Ok(false),
                // Without close_notify that is an error; there is no plaintext.
                Fill::End => return self.read(&mut [0]).map(|count| count == 0),
            }
        }
    }

    /// Encrypt and write. Nothing is taken while something that was encrypted before waits for the kernel.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut total = 0;
        let mut has_room = self.flush()?;
        'all: for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                if !has_room {
                    break 'all;
                }
                let piece = rest.get(..WRITE.min(rest.len())).unwrap_or_default();
                self.count_records(piece.len())?;
                let count = self.tls.writer().write(piece)?;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                total += count;
                rest = rest.get(count..).unwrap_or_default();
                has_room = self.flush()?;
            }
        }
        if total == 0 && !has_room {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(total)
    }

    /// One key of TLS 1.2 is good for so many records. TLS 1.3 changes keys by itself; here the library would end our direction, and drop
    /// what comes then as if it were written.
    fn count_records(&mut self, bytes: usize) -> io::Result<()> {
        self.records += bytes.div_ceil(16_384) as u64;
        if self.records > MOST_RECORDS
            && self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_2)
        {
            return Err(io::Error::other(
                "the key of this TLS 1.2 connection is used up",
            ));
        }
        Ok(())
    }

    /// Write what is encrypted already. `Ok(true)`: nothing of it is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// End our direction cleanly: close_notify behind all that was written. Says whether it is in the kernel's hands; where it cannot be
    /// any more, the end is none.
    pub fn shutdown_write(&mut self) -> io::Result<bool> {
        if !self.shut {
            self.shut = true;
            self.tls.send_close_notify();
        }
        let done = self.flush()?;
        if done {
            let _ = self.tcp.shutdown(Shutdown::Write);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as Blocking};
    use std::time::Duration;

    use rustls::RootCertStore;
    use rustls::crypto::aws_lc_rs::default_provider;
    use socket2::SockRef;

    use super::*;

    /// Our end, and a client that has shaken hands and reads nothing more.
    fn greeted() -> (Leg, Blocking) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();

        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = Blocking::connect(port.local_addr().unwrap()).unwrap();
        let (ours, _) = port.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut leg = Leg::accept(TcpStream::from_std(ours), Arc::new(server)).unwrap();
        let shaking = std::thread::spawn(move || {
            let name = ServerName::try_from("localhost").unwrap();
            let mut tls = ClientConnection::new(Arc::new(client), name).unwrap();
            tls.complete_io(&mut theirs).unwrap();
            theirs
        });
        while !leg.handshake().unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (leg, shaking.join().unwrap())
    }

    #[test]
    fn an_end_that_cannot_be_said_any_more_is_an_error_and_no_end() {
        let (mut leg, theirs) = greeted();
        let bytes = [7; 65_536];
        while leg.write_vectored(&[IoSlice::new(&bytes)]).is_ok() {}
        assert!(!leg.shutdown_write().unwrap(), "it waits for the kernel");
        SockRef::from(&theirs)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(theirs);
        loop {
            match leg.shutdown_write() {
                Ok(false) => std::thread::sleep(Duration::from_millis(1)),
                said => {
                    let error = said.expect_err("bytes were lost, so this is no clean end");
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
                    break;
                }
            }
        }
    }
}
