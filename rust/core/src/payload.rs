//! Payloads of the frames that carry more than bytes (`docs/wire-protocol.md`, sections 3 and 5). Sans-IO, borrowed.
#![forbid(unsafe_code)]

use crate::frame::{self, FrameError, Kind, MAX_PAYLOAD, MAX_REASON};
use crate::handshake::RouterId;

/// Who or what ended a stream. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
#[repr(u8)]
pub enum Class {
    /// The application that opened the stream.
    Client = 1,
    /// The application that the stream was opened to.
    Target = 2,
    /// A link or a router on the way.
    Link = 3,
    /// Not permitted.
    Policy = 4,
    /// Nothing happened for too long.
    Idle = 5,
    /// A router is leaving.
    Drain = 6,
    /// No target took it.
    Refused = 7,
    /// A limit or the budget.
    Resource = 8,
}

impl Class {
    /// Unknown numbers are read as [`Class::Link`].
    #[must_use]
    pub const fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Client,
            2 => Self::Target,
            4 => Self::Policy,
            5 => Self::Idle,
            6 => Self::Drain,
            7 => Self::Refused,
            8 => Self::Resource,
            _ => Self::Link,
        }
    }

    /// The word for people and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Target => "target",
            Self::Link => "link",
            Self::Policy => "policy",
            Self::Idle => "idle",
            Self::Drain => "drain",
            Self::Refused => "refused",
            Self::Resource => "resource",
        }
    }

    /// An OPEN answered with this class may be opened elsewhere.
    #[must_use]
    pub const fn may_retry(self) -> bool {
        matches!(
            self,
            Self::Link | Self::Drain | Self::Refused | Self::Resource
        )
    }
}

/// GOAWAY codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum GoAway {
    /// The router is leaving; it still serves what comes.
    Drain = 0,
    /// New OPENs are refused from now on.
    Closed = 1,
    /// No new OPENs on this lane.
    Replaced = 2,
    /// The peer broke the protocol.
    Protocol = 3,
    /// Not permitted (any more).
    Policy = 4,
    /// The router stops now.
    Shutdown = 5,
}

impl GoAway {
    /// Unknown numbers are read as [`GoAway::Replaced`].
    #[must_use]
    pub const fn from_wire(byte: u8) -> Self {
        match byte {
            0 => Self::Drain,
            1 => Self::Closed,
            3 => Self::Protocol,
            4 => Self::Policy,
            5 => Self::Shutdown,
            _ => Self::Replaced,
        }
    }
}

/// An OPEN, borrowed from its payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Open<'a> {
    /// Where the stream shall end; `None` (zero on the wire): any target of the receiver's choice.
    pub destination: Option<RouterId>,
    /// Where it entered the network.
    pub source: RouterId,
    /// Names the stream in logs at both ends.
    pub uuid: [u8; 16],
    /// For bytes toward the opener.
    pub credit: u32,
    /// Routers that it may still cross.
    pub hop_limit: u8,
    /// Valid UTF-8, 1 to 255 bytes.
    pub routing_key: &'a str,
    /// Checked: whole attributes, no type twice. Not if they are more than [`MOST_OPEN_ATTRIBUTES`]: then they are not looked at.
    pub attributes: &'a [u8],
    /// Bytes of the application that came along.
    pub early: &'a [u8],
}

/// What the wire has for no router.
const NOWHERE: RouterId = RouterId {
    site: [0; 32],
    boot: 0,
};

/// Bytes of attributes that an OPEN may have in sum. They count against no credit: who has to store an OPEN stores at most so many.
pub const MOST_OPEN_ATTRIBUTES: usize = 1_024;
/// Attributes in one payload: as many as fit into an OPEN.
const MOST_ATTRIBUTES: usize = MOST_OPEN_ATTRIBUTES / 4;

/// Bytes of an OPEN in front of the routing key.
const OPEN_FIXED: usize = 40 + 40 + 16 + 4 + 1 + 1;

impl<'a> Open<'a> {
    /// Bytes of early data that fit into the same frame with this key and no attributes.
    #[must_use]
    pub const fn room_for_early(routing_key: &str) -> usize {
        MAX_PAYLOAD - OPEN_FIXED - routing_key.len() - 2
    }

    /// Parse a payload.
    ///
    /// # Errors
    /// Malformed.
    pub fn decode(payload: &'a [u8]) -> Result<Self, FrameError> {
        let malformed = |what| FrameError::Malformed {
            kind: Kind::Open,
            what,
        };
        let mut rest = Reader(payload);
        let destination = rest.router().ok_or(malformed("too short"))?;
        let destination = (destination != NOWHERE).then_some(destination);
        let source = rest.router().ok_or(malformed("too short"))?;
        let uuid = *rest.array::<16>().ok_or(malformed("too short"))?;
        let credit = rest.u32().ok_or(malformed("too short"))?;
        let [hop_limit, key_len] = *rest.array::<2>().ok_or(malformed("too short"))?;
        let key = rest
            .take(key_len.into())
            .ok_or(malformed("routing key past the end"))?;
        let routing_key =
            std::str::from_utf8(key).map_err(|_| malformed("routing key is not UTF-8"))?;
        if routing_key.is_empty() {
            return Err(malformed("empty routing key"));
        }
        let attributes_len = rest.u16().ok_or(malformed("too short"))?;
        let attributes = rest
            .take(attributes_len.into())
            .ok_or(malformed("attributes past the end"))?;
        if attributes.len() <= MOST_OPEN_ATTRIBUTES {
            check_attributes(attributes).map_err(malformed)?;
        }
        if credit > frame::MAX_CREDIT {
            return Err(malformed("credit too large"));
        }
        Ok(Self {
            destination,
            source,
            uuid,
            credit,
            hop_limit,
            routing_key,
            attributes,
            early: rest.0,
        })
    }

    /// Append the whole frame. Key, attributes and early data must fit.
    pub fn put(&self, out: &mut Vec<u8>, stream: u32) {
        let len =
            OPEN_FIXED + self.routing_key.len() + 2 + self.attributes.len() + self.early.len();
        out.extend_from_slice(&frame::header(stream, Kind::Open, len));
        for router in [self.destination.unwrap_or(NOWHERE), self.source] {
            out.extend_from_slice(&router.site);
            out.extend_from_slice(&router.boot.to_be_bytes());
        }
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&self.credit.to_be_bytes());
        out.push(self.hop_limit);
        out.push(self.routing_key.len() as u8);
        out.extend_from_slice(self.routing_key.as_bytes());
        out.extend_from_slice(&(self.attributes.len() as u16).to_be_bytes());
        out.extend_from_slice(self.attributes);
        out.extend_from_slice(self.early);
    }
}

/// Parse the payload of OPEN_OK: the credit for the opener.
///
/// # Errors
/// Malformed.
pub fn decode_open_ok(payload: &[u8]) -> Result<u32, FrameError> {
    let malformed = |what| FrameError::Malformed {
        kind: Kind::OpenOk,
        what,
    };
    let mut rest = Reader(payload);
    let credit = rest.u32().ok_or(malformed("too short"))?;
    check_attributes(rest.0).map_err(malformed)?;
    if credit > frame::MAX_CREDIT {
        return Err(malformed("credit too large"));
    }
    Ok(credit)
}

/// Parse a first byte and a reason: OPEN_ERR, RESET, GOAWAY.
///
/// # Errors
/// Malformed.
pub fn decode_reason(kind: Kind, payload: &[u8]) -> Result<(u8, &str), FrameError> {
    let malformed = |what| FrameError::Malformed { kind, what };
    let (code, reason) = payload.split_first().ok_or(malformed("empty"))?;
    if reason.len() > MAX_REASON {
        return Err(malformed("reason too long"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| malformed("reason is not UTF-8"))?;
    Ok((*code, reason))
}

/// Append OPEN_ERR, RESET or GOAWAY; a reason that is too long is cut at a character.
pub fn put_reason(out: &mut Vec<u8>, stream: u32, kind: Kind, code: u8, reason: &str) {
    let end = reason.floor_char_boundary(MAX_REASON.min(reason.len()));
    out.extend_from_slice(&frame::header(stream, kind, 1 + end));
    out.push(code);
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

/// Parse a payload of exactly one u32 that is at least 1: CREDIT and CREDIT_RETURN of a stream.
///
/// # Errors
/// Malformed.
pub fn decode_amount(kind: Kind, payload: &[u8]) -> Result<u32, FrameError> {
    let malformed = |what| FrameError::Malformed { kind, what };
    let bytes: &[u8; 4] = payload
        .try_into()
        .map_err(|_| malformed("must be 4 bytes"))?;
    match u32::from_be_bytes(*bytes) {
        0 => Err(malformed("must not be 0")),
        amount => Ok(amount),
    }
}

/// Parse the payload of MOVE: the name of the move, 0 for "no", and the bytes sent in this direction.
///
/// # Errors
/// Malformed.
pub fn decode_move(payload: &[u8]) -> Result<(u64, u64), FrameError> {
    let mut rest = Reader(payload);
    match (rest.u64(), rest.u64(), rest.0.is_empty()) {
        (Some(name), Some(total), true) => Ok((name, total)),
        _ => Err(FrameError::Malformed {
            kind: Kind::Move,
            what: "must be 16 bytes",
        }),
    }
}

/// Append MOVE.
pub fn put_move(out: &mut Vec<u8>, stream: u32, name: u64, total: u64) {
    out.extend_from_slice(&frame::header(stream, Kind::Move, 16));
    out.extend_from_slice(&name.to_be_bytes());
    out.extend_from_slice(&total.to_be_bytes());
}

/// Whole attributes to the end, no type twice.
///
/// # Errors
/// Says what is wrong.
pub fn check_attributes(attributes: &[u8]) -> Result<(), &'static str> {
    let mut rest = Reader(attributes);
    let mut seen = Vec::new();
    while !rest.0.is_empty() {
        let kind = rest.u16().ok_or("attribute cut short")?;
        let len = rest.u16().ok_or("attribute cut short")?;
        rest.take(len.into()).ok_or("attribute past the end")?;
        if seen.contains(&kind) {
            return Err("attribute twice");
        }
        if seen.len() >= MOST_ATTRIBUTES {
            return Err("more than 256 attributes");
        }
        seen.push(kind);
    }
    Ok(())
}

/// Takes from the front of a slice and never panics.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(front)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(|b| u16::from_be_bytes(*b))
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(|b| u32::from_be_bytes(*b))
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(|b| u64::from_be_bytes(*b))
    }

    /// A router id.
    pub fn router(&mut self) -> Option<RouterId> {
        let site = *self.array::<32>()?;
        Some(RouterId {
            site,
            boot: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_open_survives_its_encoding(
            site in any::<[u8; 32]>(), boot in any::<u64>(), uuid in any::<[u8; 16]>(), credit in 0u32..(1 << 31),
            hop_limit in any::<u8>(), key in "[a-z0-9.-]{1,255}", early in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let open = Open {
                destination: Some(RouterId { site, boot: boot | 1 }),
                source: RouterId { site, boot: !boot },
                uuid, credit, hop_limit, routing_key: &key,
                attributes: &[0, 9, 0, 1, 7],
                early: &early,
            };
            let mut wire = Vec::new();
            open.put(&mut wire, 7);
            let (frame, used) = frame::decode(&wire).unwrap().unwrap();
            prop_assert_eq!((frame.stream, frame.kind, used), (7, Some(Kind::Open), wire.len()));
            prop_assert_eq!(Open::decode(frame.payload).unwrap(), open);
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Open::decode(&bytes);
            let _ = decode_open_ok(&bytes);
            let _ = decode_reason(Kind::Reset, &bytes);
            let _ = decode_amount(Kind::Credit, &bytes);
            let _ = decode_move(&bytes);
            let _ = check_attributes(&bytes);
            let _ = frame::decode(&bytes);
        }
    }
}
