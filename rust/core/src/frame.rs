//! Frame headers and payloads of the VAN link protocol (`docs/wire-protocol.md`, section 3).
//!
//! Stateless and sans-IO: [`decode`] looks at the front of a byte slice and borrows from it; the `put_*` functions append
//! to a buffer. Nothing here allocates by a length that a peer declares, and nothing panics on any bytes.
#![forbid(unsafe_code)]

/// Bytes of a frame header.
pub const HEADER: usize = 8;
/// Most payload bytes of one frame: with its header exactly one full TLS record.
pub const MAX_PAYLOAD: usize = 16_376;
/// Most bytes of one frame.
pub const MAX_FRAME: usize = HEADER + MAX_PAYLOAD;
/// Most bytes of a reason in OPEN_ERR, RESET and GOAWAY.
pub const MAX_REASON: usize = 255;
/// Most credit that a stream's direction may ever hold.
pub const MAX_CREDIT: u32 = (1 << 31) - 1;

/// What a frame is. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame of each side.
    Hello = 0x01,
    /// Opens a stream.
    Open = 0x02,
    /// The target is connected.
    OpenOk = 0x03,
    /// The target saw nothing.
    OpenErr = 0x04,
    /// Bytes of a stream, or of control messages on stream 0.
    Data = 0x05,
    /// More bytes are permitted.
    Credit = 0x06,
    /// A sender gives credit back.
    CreditReturn = 0x07,
    /// One direction ended cleanly.
    Fin = 0x08,
    /// Both directions are abandoned.
    Reset = 0x09,
    /// Are you there?
    Ping = 0x0B,
    /// The answer to a PING.
    Pong = 0x0C,
    /// The lane or its router is leaving.
    GoAway = 0x0D,
    /// A stream leaves this lane, or comes to it.
    Move = 0x0E,
    /// Bytes of a stream that its opener sends before it has the answer.
    Early = 0x0F,
}

impl Kind {
    const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Hello,
            0x02 => Self::Open,
            0x03 => Self::OpenOk,
            0x04 => Self::OpenErr,
            0x05 => Self::Data,
            0x06 => Self::Credit,
            0x07 => Self::CreditReturn,
            0x08 => Self::Fin,
            0x09 => Self::Reset,
            0x0B => Self::Ping,
            0x0C => Self::Pong,
            0x0D => Self::GoAway,
            0x0E => Self::Move,
            0x0F => Self::Early,
            _ => return None,
        })
    }
}

/// A peer sent bytes that cannot be a frame. The lane cannot be resynchronised.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The header announces more payload than a frame may have.
    #[error("frame payload of {0} bytes exceeds the {MAX_PAYLOAD}-byte limit")]
    TooLarge(usize),
    /// The header names no frame type of this protocol version.
    #[error("unknown frame type {0:#04x}")]
    UnknownKind(u8),
    /// The payload does not have the form that its type demands.
    #[error("malformed {kind:?} frame: {what}")]
    Malformed {
        /// The type in the header.
        kind: Kind,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// One frame, borrowed from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// Stream id; 0 is the lane itself.
    pub stream: u32,
    /// `None`: a type from 0x80 up that this version does not know; skip it.
    pub kind: Option<Kind>,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

/// Take the frame at the front of `bytes`. `Ok(None)`: more bytes are needed. On success also says how many bytes it used.
///
/// # Errors
/// As soon as the header alone shows that no frame can follow.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [s0, s1, s2, s3, l0, l1, l2, kind_byte] = *header;
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    let len = u32::from_be_bytes([0, l0, l1, l2]) as usize;
    if len > MAX_PAYLOAD {
        return Err(FrameError::TooLarge(len));
    }
    let kind = Kind::from_wire(kind_byte);
    if kind.is_none() && kind_byte < 0x80 {
        return Err(FrameError::UnknownKind(kind_byte));
    }
    Ok(rest.get(..len).map(|payload| {
        (
            Frame {
                stream,
                kind,
                payload,
            },
            HEADER + len,
        )
    }))
}

/// The 8 bytes in front of a payload of `len` bytes.
///
/// `len` must be at most [`MAX_PAYLOAD`]; only its low 24 bits are used.
#[must_use]
pub fn header(stream: u32, kind: Kind, len: usize) -> [u8; HEADER] {
    debug_assert!(len <= MAX_PAYLOAD);
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    let [_, l0, l1, l2] = (len as u32).to_be_bytes();
    [s0, s1, s2, s3, l0, l1, l2, kind as u8]
}

/// Append one whole frame.
pub fn put(out: &mut Vec<u8>, stream: u32, kind: Kind, payload: &[u8]) {
    out.extend_from_slice(&header(stream, kind, payload.len()));
    out.extend_from_slice(payload);
}
