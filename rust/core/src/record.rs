//! TLS records after the handshake: opening what arrived, sealing what goes out.
//!
//! [`RecordLayer`] is the seam. Everything here is sans-IO: ciphertext and plaintext lie in the caller's buffers. Nothing
//! is allocated by a length that a peer declares, and no bytes of a peer make this panic.
#![forbid(unsafe_code)]

mod direct;

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};

use self::direct::{Direct, Kernel};

/// Bytes of a TLS record header.
pub const RECORD_HEADER: usize = 5;
/// Most plaintext bytes of one record.
pub const MAX_RECORD_PLAIN: usize = 16_384;
/// Bytes that a record adds to its plaintext: header, content type, tag.
pub const RECORD_OVERHEAD: usize = RECORD_HEADER + 1 + TAG;
/// Bytes of a whole record with nothing more to say, for sizing read buffers.
pub const MAX_RECORD: usize = RECORD_HEADER + MAX_RECORD_PLAIN + 256;
/// Room that a key update or an alert in front of the records may take.
const SEAL_SLACK: usize = 128;
const TAG: usize = 16;
/// Most bytes of records that only together make one TLS message (a key update or a ticket in pieces).
const MAX_PIECES: usize = 2 * MAX_RECORD;

/// Why a TLS connection cannot go on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer ended the connection with an alert.
    #[error("the peer ended TLS: {0}")]
    Alert(String),
    /// The peer's certificate is not acceptable.
    #[error("the peer's certificate is not acceptable: {0}")]
    Certificate(String),
    /// Both ends speak TLS but have no version, cipher or application protocol in common.
    #[error("no common ground in TLS: {0}")]
    Incompatible(String),
    /// The peer broke the rules of TLS, or the bytes were changed on the way.
    #[error("the peer broke the rules of TLS: {0}")]
    Misbehaved(String),
    /// Our own fault: a bug, or a broken configuration.
    #[error("TLS failed here: {0}")]
    Internal(String),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error as E;
        let text = error.to_string();
        match error {
            E::AlertReceived(alert) => Self::Alert(alert_words(alert)),
            E::InvalidCertificate(reason) => Self::Certificate(reason.to_string()),
            E::NoCertificatesPresented => Self::Certificate("it sent none".to_owned()),
            E::PeerIncompatible(_) | E::NoApplicationProtocol => Self::Incompatible(text),
            E::InappropriateMessage { .. }
            | E::InappropriateHandshakeMessage { .. }
            | E::InvalidMessage(_)
            | E::DecryptError
            | E::PeerMisbehaved(_)
            | E::PeerSentOversizedRecord
            | E::BadMaxFragmentSize => Self::Misbehaved(text),
            _ => Self::Internal(text),
        }
    }
}

/// An alert in the words of the person who has to act on it.
fn alert_words(alert: rustls::AlertDescription) -> String {
    use rustls::AlertDescription as A;
    let words = match alert {
        A::CertificateExpired => "our certificate has expired",
        A::UnknownCA => "it does not trust the CA of our certificate",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::DecryptError => {
            "it does not accept our certificate"
        }
        A::CertificateRevoked => "our certificate was revoked",
        A::CertificateRequired => "it wants a certificate and we sent none",
        A::AccessDenied => "it denies us access",
        A::NoApplicationProtocol => "it is no vanrouter link access (no common ALPN)",
        A::ProtocolVersion => "it does not speak TLS 1.3",
        A::HandshakeFailure => "no cipher or key exchange in common",
        A::UnrecognisedName => "it does not serve the name that we asked for",
        other => return format!("alert {other:?}"),
    };
    words.to_owned()
}

/// What [`RecordLayer::open_into`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OpenResult {
    /// Bytes at the front of `incoming` that are done with.
    pub consumed: usize,
    /// Bytes of plaintext that came out.
    pub plain: usize,
    /// The peer said close_notify: nothing more will come.
    pub closed: bool,
}

/// Seal and open whole TLS records in the caller's buffers.
pub trait RecordLayer: Send {
    /// Open as many whole records from the front of `incoming` as are there, into the front of `plain`.
    ///
    /// A record stays in `incoming` unless `plain` has room for its contents *and one byte more* (the content type, which is
    /// encrypted, too). `incoming` may be overwritten as far as it is consumed. What TLS itself has to say is appended to
    /// `outgoing`, also on failure (an alert).
    ///
    /// # Errors
    /// The connection cannot go on. Plaintext that came out before is lost with it.
    fn open_into(
        &mut self,
        incoming: &mut [u8],
        plain: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<OpenResult, TlsError>;

    /// Seal `plain` as records of at most [`MAX_RECORD_PLAIN`] bytes into the front of `out`; says how many bytes it used.
    ///
    /// # Errors
    /// The connection cannot go on, or `out` has fewer than [`sealed_len`] bytes (our own fault).
    fn seal_into(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError>;

    /// Append a close_notify. Nothing may be sealed afterwards.
    fn close(&mut self, outgoing: &mut Vec<u8>);

    /// Change our key before the next record of data. Happens by itself before a key is worn out.
    ///
    /// # Errors
    /// The connection cannot go on.
    fn refresh(&mut self) -> Result<(), TlsError>;
}

/// How much room [`RecordLayer::seal_into`] wants for so much plaintext.
#[must_use]
pub const fn sealed_len(plain: usize) -> usize {
    plain + plain.div_ceil(MAX_RECORD_PLAIN) * RECORD_OVERHEAD + SEAL_SLACK
}

/// The record layer of one established connection.
pub struct Records(Box<dyn RecordLayer>);

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Records {
    /// Open as many whole records from the front of `incoming` as are there; append the plaintext to `plain`, which never
    /// gets longer than `max_plain` bytes: a record that might not fit stays in `incoming`. See [`RecordLayer::open_into`].
    ///
    /// Costs zeroing as much of `plain` as may come out; [`Records::open_into`] does not.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub fn open(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Vec<u8>,
        max_plain: usize,
        outgoing: &mut Vec<u8>,
    ) -> Result<OpenResult, TlsError> {
        let start = plain.len();
        let room = expected_plain(incoming, max_plain.saturating_sub(start));
        plain.resize(start + room + 1, 0);
        let opened = plain
            .get_mut(start..)
            .map_or(Ok(OpenResult::default()), |into| {
                self.0.open_into(incoming, into, outgoing)
            });
        plain.truncate(start + opened.as_ref().map_or(0, |done| done.plain));
        opened
    }

    /// Open into memory that is initialised already. See [`RecordLayer::open_into`].
    ///
    /// # Errors
    /// The connection cannot go on.
    pub fn open_into(
        &mut self,
        incoming: &mut [u8],
        plain: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<OpenResult, TlsError> {
        self.0.open_into(incoming, plain, outgoing)
    }

    /// Seal `plain` and append the records to `outgoing`.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub fn seal(&mut self, plain: &[u8], outgoing: &mut Vec<u8>) -> Result<(), TlsError> {
        let start = outgoing.len();
        outgoing.resize(start + sealed_len(plain.len()), 0);
        let sealed = outgoing
            .get_mut(start..)
            .map_or(Ok(0), |room| self.0.seal_into(plain, room));
        outgoing.truncate(start + sealed.as_ref().map_or(0, |n| *n));
        sealed.map(|_| ())
    }

    /// Seal into memory that is initialised already, which saves [`Records::seal`] the zeroing.
    ///
    /// # Errors
    /// The connection cannot go on, or `out` has fewer than [`sealed_len`] bytes.
    pub fn seal_into(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        self.0.seal_into(plain, out)
    }

    /// Append a close_notify. Nothing may be sealed afterwards.
    pub fn close(&mut self, outgoing: &mut Vec<u8>) {
        self.0.close(outgoing);
    }

    /// See [`RecordLayer::refresh`].
    ///
    /// # Errors
    /// The connection cannot go on.
    pub fn refresh(&mut self) -> Result<(), TlsError> {
        self.0.refresh()
    }
}

/// Either end of a connection in rustls' unbuffered form.
enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Do the same with both ends of a connection.
macro_rules! either {
    ($connection:expr, $c:ident => $do:expr) => {
        match $connection {
            Connection::Client($c) => $do,
            Connection::Server($c) => $do,
        }
    };
}

/// What one look of rustls at the incoming bytes came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    /// It wants more bytes.
    Starved,
    /// It would encrypt.
    Ready,
    /// Plaintext was appended.
    Data,
    /// The peer said close_notify.
    Closed,
}

/// A TLS connection that rustls drives: its handshake, and afterwards its records one at a time, so that nothing is
/// decrypted that has no room.
pub struct Tls {
    connection: Connection,
    /// Bytes at the front of `incoming` that rustls has seen and wants to see again with more behind them.
    pieces: usize,
    closed: bool,
    broken: bool,
    refresh_wanted: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("handshaking", &self.is_handshaking())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// The dialling end. Appends the ClientHello.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        outgoing: &mut Vec<u8>,
    ) -> Result<Self, TlsError> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        let mut tls = Self::new(Connection::Client(Box::new(connection)));
        tls.process(&mut [], &mut Room::default(), outgoing)?;
        Ok(tls)
    }

    /// The accepting end.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Connection::Server(Box::new(connection))))
    }

    fn new(connection: Connection) -> Self {
        Self {
            connection,
            pieces: 0,
            closed: false,
            broken: false,
            refresh_wanted: false,
        }
    }

    /// Go on with the handshake as far as `incoming` reaches. Stops when it is over (see [`Tls::is_handshaking`]): what
    /// lies behind it in `incoming` is for [`Tls::into_records`].
    ///
    /// # Errors
    /// The connection cannot go on; `outgoing` may hold an alert for the peer.
    pub fn handshake(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<OpenResult, TlsError> {
        let mut consumed = 0;
        while self.is_handshaking() && !self.closed {
            // There is no plaintext before the end of the handshake.
            let mut nowhere = Room::default();
            match self.next_record(incoming, consumed, false, &mut nowhere, outgoing)? {
                Some(used) => consumed += used,
                None => break,
            }
        }
        Ok(OpenResult {
            consumed,
            plain: 0,
            closed: self.closed,
        })
    }

    /// Whether the handshake is still under way.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        either!(&self.connection, c => c.is_handshaking())
    }

    /// What ALPN agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        either!(&self.connection, c => c.alpn_protocol())
    }

    /// The chain that the peer presented and proved, leaf first.
    #[must_use]
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        either!(&self.connection, c => c.peer_certificates())
            .unwrap_or_default()
            .iter()
            .map(|certificate| certificate.as_ref().to_vec())
            .collect()
    }

    /// The handshake is over: what remains is a record layer.
    ///
    /// # Errors
    /// rustls does not give the secrets away: a bug.
    pub fn into_records(self) -> Result<Records, TlsError> {
        self.into_direct_records()
    }

    /// The record layer of our own, which neither copies nor allocates.
    ///
    /// # Errors
    /// The handshake is not over, or its configuration does not permit to extract secrets.
    pub fn into_direct_records(self) -> Result<Records, TlsError> {
        if self.broken || self.closed || self.pieces > 0 {
            return Err(TlsError::Internal("the connection is over".to_owned()));
        }
        let (secrets, kernel) = match self.connection {
            Connection::Client(c) => {
                let (secrets, kernel) = c.dangerous_into_kernel_connection()?;
                (secrets, Kernel::Client(Box::new(kernel)))
            }
            Connection::Server(c) => {
                let (secrets, kernel) = c.dangerous_into_kernel_connection()?;
                (secrets, Kernel::Server(Box::new(kernel)))
            }
        };
        Ok(Records(Box::new(Direct::new(kernel, secrets)?)))
    }

    /// Keep rustls for the records, too.
    #[must_use]
    pub fn into_rustls_records(self) -> Records {
        Records(Box::new(self))
    }

    /// Give rustls the record behind `consumed` and what it still wants to see of those before. `None`: it is not all
    /// there, or its plaintext might not fit. Otherwise says how many bytes are done with.
    fn next_record(
        &mut self,
        incoming: &mut [u8],
        consumed: usize,
        sized: bool,
        plain: &mut Room<'_>,
        outgoing: &mut Vec<u8>,
    ) -> Result<Option<usize>, TlsError> {
        if self.broken {
            return Err(TlsError::Misbehaved("it failed before".to_owned()));
        }
        let fresh = incoming.get(consumed + self.pieces..).unwrap_or_default();
        let Some(record) = whole_record(fresh)? else {
            return Ok(None);
        };
        if sized && record.saturating_sub(RECORD_OVERHEAD) > plain.left() {
            return Ok(None);
        }
        let window = self.pieces + record;
        let bytes = incoming
            .get_mut(consumed..consumed + window)
            .unwrap_or_default();
        let used = match self.process(bytes, plain, outgoing) {
            Ok((used, progress)) => {
                self.closed |= progress == Progress::Closed;
                used
            }
            Err(error) => {
                self.broken = true;
                return Err(error);
            }
        };
        self.pieces = window.saturating_sub(used);
        // rustls panics when it is asked to write while it waits for the rest of a message, so that after the handshake
        // nobody gets to send one in pieces. Nobody does: key updates are 5 bytes.
        if self.pieces > MAX_PIECES || (self.pieces > 0 && !self.is_handshaking()) {
            self.broken = true;
            return Err(TlsError::Misbehaved(
                "a handshake message is too long".to_owned(),
            ));
        }
        Ok(Some(used))
    }

    /// Let rustls look at `incoming` until it has nothing more to say.
    fn process(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Room<'_>,
        outgoing: &mut Vec<u8>,
    ) -> Result<(usize, Progress), TlsError> {
        let mut done = 0;
        loop {
            let rest = incoming.get_mut(done..).unwrap_or_default();
            let (used, turn) = either!(&mut self.connection, c => turn(c.process_tls_records(rest), plain, outgoing));
            done += used;
            match turn {
                Ok(Some(progress)) => return Ok((done, progress)),
                Ok(None) => {}
                Err(error) => {
                    self.last_words(outgoing);
                    return Err(error);
                }
            }
        }
    }

    /// After a failure: the alert that rustls wants the peer to have. While it has one, it does not look at its input.
    fn last_words(&mut self, outgoing: &mut Vec<u8>) {
        for _ in 0..4 {
            if either!(&self.connection, c => c.wants_write()) {
                let mut none = Room::default();
                let _ = either!(&mut self.connection, c => turn(c.process_tls_records(&mut []), &mut none, outgoing));
            }
        }
    }

    /// Seal `what`, or close_notify, behind whatever rustls has to send first.
    fn write(&mut self, out: &mut [u8], what: Option<&[u8]>) -> Result<usize, TlsError> {
        if self.broken || self.pieces > 0 {
            return Err(not_writable());
        }
        let internal = |error: &dyn std::fmt::Display| TlsError::Internal(error.to_string());
        let mut written = 0;
        loop {
            let refresh = std::mem::take(&mut self.refresh_wanted);
            let room = out.get_mut(written..).unwrap_or_default();
            either!(&mut self.connection, c => match c.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    written += data.encode(room).map_err(|error| internal(&error))?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(traffic)) if refresh => traffic.refresh_traffic_keys()?,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let sealed = match what {
                        Some(plain) => traffic.encrypt(plain, room),
                        None => traffic.queue_close_notify(room),
                    };
                    return sealed.map(|more| written + more).map_err(|error| internal(&error));
                }
                Ok(state) => return Err(internal(&format!("cannot write in state {state:?}"))),
                Err(error) => return Err(error.into()),
            });
        }
    }
}

impl RecordLayer for Tls {
    fn open_into(
        &mut self,
        incoming: &mut [u8],
        plain: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<OpenResult, TlsError> {
        let mut consumed = 0;
        let mut room = Room {
            into: plain,
            used: 0,
        };
        while !self.closed {
            match self.next_record(incoming, consumed, true, &mut room, outgoing)? {
                Some(used) => consumed += used,
                None => break,
            }
        }
        Ok(OpenResult {
            consumed,
            plain: room.used,
            closed: self.closed,
        })
    }

    fn seal_into(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if out.len() < sealed_len(plain.len()) {
            return Err(TlsError::Internal("too little room for sealing".to_owned()));
        }
        self.write(out, Some(plain))
    }

    fn refresh(&mut self) -> Result<(), TlsError> {
        self.refresh_wanted = true;
        Ok(())
    }

    fn close(&mut self, outgoing: &mut Vec<u8>) {
        let start = outgoing.len();
        outgoing.resize(start + SEAL_SLACK, 0);
        let room = outgoing.get_mut(start..).unwrap_or_default();
        let written = self.write(room, None).unwrap_or(0);
        outgoing.truncate(start + written);
    }
}

/// Act on one state. `Ok(None)`: look again.
fn turn<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Room<'_>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Option<Progress>, TlsError>) {
    let mut used = status.discard;
    let outcome = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut failed = None;
            while let Some(record) = traffic.next_record() {
                let stored = record.map_err(TlsError::from).and_then(|record| {
                    used += record.discard;
                    plain.put(record.payload)
                });
                if let Err(error) = stored {
                    failed = Some(error);
                    break;
                }
            }
            failed.map_or(Ok(Some(Progress::Data)), Err)
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = outgoing.len();
            let wanted = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(short)) => short.required_size,
                Ok(_) | Err(EncodeError::AlreadyEncoded) => 0,
            };
            outgoing.resize(start + wanted, 0);
            let room = outgoing.get_mut(start..).unwrap_or_default();
            match data.encode(room) {
                Ok(written) => {
                    outgoing.truncate(start + written);
                    Ok(None)
                }
                Err(error) => {
                    outgoing.truncate(start);
                    Err(TlsError::Internal(error.to_string()))
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(None)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Some(Progress::Starved)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(Progress::Ready)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Some(Progress::Closed)),
        Ok(other) => Err(TlsError::Internal(format!("unexpected state {other:?}"))),
    };
    (used, outcome)
}

fn not_writable() -> TlsError {
    TlsError::Internal("the connection is not writable".to_owned())
}

/// Where plaintext goes.
#[derive(Default)]
struct Room<'a> {
    into: &'a mut [u8],
    used: usize,
}

impl Room<'_> {
    /// Bytes that fit, next to the content type.
    fn left(&self) -> usize {
        self.into.len().saturating_sub(self.used + 1)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        let end = self.used + bytes.len();
        let place = self
            .into
            .get_mut(self.used..end)
            .ok_or_else(|| TlsError::Misbehaved("plaintext where none belongs".to_owned()))?;
        place.copy_from_slice(bytes);
        self.used = end;
        Ok(())
    }
}

/// Most plaintext that the whole records at the front of `incoming` can hold, as far as that is within `limit`.
fn expected_plain(incoming: &[u8], limit: usize) -> usize {
    let (mut total, mut rest) = (0, incoming);
    while let Ok(Some(record)) = whole_record(rest) {
        let plain = record.saturating_sub(RECORD_OVERHEAD);
        if total + plain > limit {
            break;
        }
        total += plain;
        rest = rest.get(record..).unwrap_or_default();
    }
    total
}

/// The whole record at the front of `bytes`, if it is there: its length.
fn whole_record(bytes: &[u8]) -> Result<Option<usize>, TlsError> {
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<RECORD_HEADER>() else {
        return Ok(None);
    };
    let len = RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_RECORD {
        return Err(TlsError::Misbehaved(format!("a record of {len} bytes")));
    }
    Ok((len <= bytes.len()).then_some(len))
}
