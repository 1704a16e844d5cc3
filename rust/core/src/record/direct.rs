//! TLS 1.3 records with aws-lc-rs alone, on the secrets of a finished rustls handshake: no copy, no allocation.
//!
//! rustls goes on to derive keys ([`rustls::kernel`]); everything else of RFC 8446, sections 5 and 4.6, is here: record
//! limits, padding, alerts, key updates both ways, and the AEAD's limit of records per key. Session tickets are ignored,
//! other messages after the handshake end the connection, and so does a message in pieces (none that is permitted here is
//! longer than 5 bytes but tickets, and nobody splits those).
#![forbid(unsafe_code)]

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets, SupportedCipherSuite};

use super::{
    MAX_RECORD, MAX_RECORD_PLAIN, OpenResult, RECORD_HEADER, RECORD_OVERHEAD, RecordLayer, TAG,
    TlsError, alert_words, not_writable, sealed_len, whole_record,
};

/// Content types.
mod content {
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const DATA: u8 = 23;
}

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
const WARNING: u8 = 1;
const FATAL: u8 = 2;
/// Records in a row that bring no data. Each costs us more than the peer.
const MAX_IDLE_RECORDS: u32 = 32;

/// Derives the next keys.
pub(super) enum Kernel {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

/// One direction's key.
struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(TlsError::Internal("an unknown cipher".to_owned())),
        };
        let bad = || TlsError::Internal("keys of a wrong size".to_owned());
        Ok(Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).map_err(|_| bad())?),
            iv: iv.as_ref().try_into().map_err(|_| bad())?,
            sequence,
        })
    }

    /// The nonce of the next record; each is used once.
    fn nonce(&mut self) -> Result<Nonce, TlsError> {
        let number = self.sequence;
        self.sequence = number
            .checked_add(1)
            .ok_or_else(|| TlsError::Internal("a key is used up".to_owned()))?;
        let mut nonce = self.iv;
        let (_, low) = nonce.split_at_mut(4);
        for (byte, of) in low.iter_mut().zip(number.to_be_bytes()) {
            *byte ^= of;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// The record layer.
pub(super) struct Direct {
    kernel: Kernel,
    sending: Key,
    receiving: Key,
    /// Records that one key may seal.
    limit: u64,
    /// The peer wants us to change our key before we send more data.
    update_wanted: bool,
    idle: u32,
    /// The peer said close_notify.
    closed: bool,
    /// We said close_notify, or an alert.
    done: bool,
    broken: bool,
}

impl Direct {
    pub(super) fn new(kernel: Kernel, secrets: ExtractedSecrets) -> Result<Self, TlsError> {
        let suite = match &kernel {
            Kernel::Client(k) => k.negotiated_cipher_suite(),
            Kernel::Server(k) => k.negotiated_cipher_suite(),
        };
        let limit = match suite {
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
            #[allow(
                unreachable_patterns,
                reason = "there is TLS 1.2 where somebody else wants that feature of rustls"
            )]
            _ => return Err(TlsError::Internal("not TLS 1.3".to_owned())),
        };
        Ok(Self {
            kernel,
            sending: Key::new(secrets.tx)?,
            receiving: Key::new(secrets.rx)?,
            limit,
            update_wanted: false,
            idle: 0,
            closed: false,
            done: false,
            broken: false,
        })
    }

    /// Seal one record into the front of `out`.
    fn seal_record(&mut self, kind: u8, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        let short = || TlsError::Internal("too little room for sealing".to_owned());
        let len = plain.len() + 1 + TAG;
        let [high, low] = u16::try_from(len).map_err(|_| short())?.to_be_bytes();
        let header = [content::DATA, 3, 3, high, low];
        let record = out.get_mut(..RECORD_HEADER + len).ok_or_else(short)?;
        let (front, rest) = record.split_at_mut(RECORD_HEADER);
        front.copy_from_slice(&header);
        let (body, tail) = rest.split_at_mut(plain.len());
        let nonce = self.sending.nonce()?;
        self.sending
            .key
            .seal_out_of_place_scatter(nonce, Aad::from(header), plain, body, &[kind], tail)
            .map_err(|_| TlsError::Internal("sealing failed".to_owned()))?;
        Ok(RECORD_HEADER + len)
    }

    /// Say that our key changes, and change it.
    fn update_key(&mut self, out: &mut [u8]) -> Result<usize, TlsError> {
        let [a, b, c, d] = KEY_UPDATE;
        let written = self.seal_record(content::HANDSHAKE, &[a, b, c, d, 0], out)?;
        let next = match &mut self.kernel {
            Kernel::Client(k) => k.update_tx_secret(),
            Kernel::Server(k) => k.update_tx_secret(),
        };
        self.sending = Key::new(next?)?;
        self.update_wanted = false;
        Ok(written)
    }

    fn alert(&mut self, level: u8, alert: AlertDescription, outgoing: &mut Vec<u8>) {
        if self.done {
            return;
        }
        self.done = true;
        let start = outgoing.len();
        outgoing.resize(start + RECORD_OVERHEAD + 2, 0);
        let room = outgoing.get_mut(start..).unwrap_or_default();
        let written = self
            .seal_record(content::ALERT, &[level, alert.into()], room)
            .unwrap_or(0);
        outgoing.truncate(start + written);
    }

    /// Open the whole record `record` into the front of `plain`, which has room for it. Says how many bytes of data came
    /// out, or which alert the peer is to get for it.
    fn open_record(&mut self, record: &[u8], plain: &mut [u8]) -> Result<usize, Fault> {
        let (header, body) = record
            .split_first_chunk::<RECORD_HEADER>()
            .ok_or_else(Fault::decode)?;
        if header.first() != Some(&content::DATA) {
            return Err(Fault::unexpected("a record that is not encrypted"));
        }
        let (ciphertext, tag) = body
            .len()
            .checked_sub(TAG)
            .and_then(|len| body.split_at_checked(len))
            .ok_or_else(Fault::decode)?;
        let into = plain
            .get_mut(..ciphertext.len())
            .ok_or_else(Fault::decode)?;
        let nonce = self.receiving.nonce()?;
        self.receiving
            .key
            .open_separate_gather(nonce, Aad::from(*header), ciphertext, tag, into)
            .map_err(|_| Fault {
                alert: AlertDescription::BadRecordMac,
                error: TlsError::Misbehaved("a record does not decrypt".to_owned()),
            })?;
        let (kind, text) =
            unpad(into).ok_or_else(|| Fault::unexpected("a record of padding alone"))?;
        if text.len() > MAX_RECORD_PLAIN {
            return Err(Fault {
                alert: AlertDescription::RecordOverflow,
                error: TlsError::Misbehaved("a record is too long".to_owned()),
            });
        }
        let brings = if kind == content::DATA { text.len() } else { 0 };
        if brings > 0 {
            self.idle = 0;
            return Ok(brings);
        }
        self.idle += 1;
        if self.idle > MAX_IDLE_RECORDS {
            return Err(Fault::unexpected("too many records without data"));
        }
        match kind {
            content::DATA => {}
            content::ALERT => self.hear_alert(text)?,
            content::HANDSHAKE => self.hear_message(text)?,
            _ => return Err(Fault::unexpected("a record of an unknown type")),
        }
        Ok(0)
    }

    fn hear_alert(&mut self, text: &[u8]) -> Result<(), Fault> {
        let &[_, description] = text else {
            return Err(Fault::decode());
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.closed = true;
                Ok(())
            }
            AlertDescription::UserCanceled => Ok(()),
            other => {
                // It is over; nothing more is to be said.
                self.done = true;
                Err(Fault {
                    alert: other,
                    error: TlsError::Alert(alert_words(other)),
                })
            }
        }
    }

    fn hear_message(&mut self, text: &[u8]) -> Result<(), Fault> {
        if let Some(&[wanted]) = text.strip_prefix(&KEY_UPDATE) {
            if wanted > 1 {
                return Err(Fault {
                    alert: AlertDescription::IllegalParameter,
                    error: TlsError::Misbehaved("a malformed key update".to_owned()),
                });
            }
            let next = match &mut self.kernel {
                Kernel::Client(k) => k.update_rx_secret(),
                Kernel::Server(k) => k.update_rx_secret(),
            };
            self.receiving = next
                .map_err(TlsError::from)
                .and_then(Key::new)
                .map_err(Fault::ours)?;
            self.update_wanted |= wanted == 1;
            return Ok(());
        }
        let mut rest = text;
        while let Some((&[kind, l0, l1, l2], body)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            match (&self.kernel, kind, body.split_at_checked(len)) {
                (Kernel::Client(_), NEW_SESSION_TICKET, Some((_, next))) => rest = next,
                (Kernel::Client(_), NEW_SESSION_TICKET, None) => break,
                _ => return Err(Fault::unexpected("a handshake message after the handshake")),
            }
        }
        if rest.is_empty() && !text.is_empty() {
            Ok(())
        } else {
            Err(Fault::unexpected("a handshake message in pieces"))
        }
    }
}

/// What is wrong with a record, and the alert for whoever sent it.
struct Fault {
    alert: AlertDescription,
    error: TlsError,
}

impl Fault {
    fn decode() -> Self {
        Self {
            alert: AlertDescription::DecodeError,
            error: TlsError::Misbehaved("a malformed record".to_owned()),
        }
    }

    fn unexpected(what: &str) -> Self {
        Self {
            alert: AlertDescription::UnexpectedMessage,
            error: TlsError::Misbehaved(what.to_owned()),
        }
    }

    fn ours(error: TlsError) -> Self {
        Self {
            alert: AlertDescription::InternalError,
            error,
        }
    }
}

impl From<TlsError> for Fault {
    fn from(error: TlsError) -> Self {
        Self::ours(error)
    }
}

/// Content type and content of a decrypted record: what stands in front of the zeros at its end.
fn unpad(inner: &[u8]) -> Option<(u8, &[u8])> {
    let end = inner.iter().rposition(|byte| *byte != 0)?;
    Some((*inner.get(end)?, inner.get(..end)?))
}

impl RecordLayer for Direct {
    fn open_into(
        &mut self,
        incoming: &mut [u8],
        plain: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<OpenResult, TlsError> {
        if self.broken {
            return Err(TlsError::Misbehaved("it failed before".to_owned()));
        }
        let (mut consumed, mut used) = (0, 0);
        while !self.closed {
            let rest = incoming.get(consumed..).unwrap_or_default();
            let opened = match whole_record(rest) {
                Ok(None) => break,
                Err(error) => Err(Fault {
                    alert: AlertDescription::RecordOverflow,
                    error,
                }),
                Ok(Some(len)) => {
                    let into = plain.get_mut(used..).unwrap_or_default();
                    if len.saturating_sub(RECORD_HEADER + TAG) > into.len() {
                        break;
                    }
                    let record = rest.get(..len).unwrap_or_default();
                    self.open_record(record, into).map(|brought| (len, brought))
                }
            };
            match opened {
                Ok((len, brought)) => {
                    consumed += len;
                    used += brought;
                }
                Err(fault) => {
                    self.broken = true;
                    self.alert(FATAL, fault.alert, outgoing);
                    return Err(fault.error);
                }
            }
        }
        Ok(OpenResult {
            consumed,
            plain: used,
            closed: self.closed,
        })
    }

    fn seal_into(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if self.done || self.broken {
            return Err(not_writable());
        }
        if out.len() < sealed_len(plain.len()) {
            return Err(TlsError::Internal("too little room for sealing".to_owned()));
        }
        let mut written = 0;
        for chunk in plain.chunks(MAX_RECORD_PLAIN) {
            // The update itself takes one record of the old key.
            if self.update_wanted || self.sending.sequence.saturating_add(1) >= self.limit {
                let room = out.get_mut(written..).unwrap_or_default();
                written += self.update_key(room)?;
            }
            let room = out.get_mut(written..).unwrap_or_default();
            written += self.seal_record(content::DATA, chunk, room)?;
        }
        Ok(written)
    }

    fn refresh(&mut self) -> Result<(), TlsError> {
        self.update_wanted = true;
        Ok(())
    }

    fn close(&mut self, outgoing: &mut Vec<u8>) {
        self.alert(WARNING, AlertDescription::CloseNotify, outgoing);
    }
}

const _: () = assert!(MAX_RECORD > MAX_RECORD_PLAIN + RECORD_OVERHEAD);

#[cfg(test)]
mod tests {
    use super::unpad;

    #[test]
    fn padding_ends_at_the_content_type() {
        assert_eq!(unpad(&[1, 2, 23, 0, 0]), Some((23, &[1, 2][..])));
        assert_eq!(unpad(&[23]), Some((23, &[][..])));
        assert_eq!(unpad(&[0, 0]), None);
        assert_eq!(unpad(&[]), None);
    }
}
