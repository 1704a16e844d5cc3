//! HELLO, and who a peer is: router ids, site ids and identity statements (`docs/wire-protocol.md`, sections 2 and 4).
//!
//! Sans-IO: bytes and the time are arguments. Everything that a peer sends comes through [`Hello::decode`]; nothing here
//! allocates by a length that it declares, and nothing panics on any bytes.
#![forbid(unsafe_code)]

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::frame::{self, Kind, MAX_CREDIT};
use crate::limits;

/// The version of the protocol that this crate speaks.
pub const VERSION: u8 = 1;
/// Most sibling routers that a HELLO may list.
pub const MAX_SIBLINGS: usize = 64;
/// Most bytes of a site name, a link name and a software name.
pub const MAX_LABEL: usize = 63;
/// Greatest cost of a link.
pub const MAX_COST: u32 = 1_000_000;

/// Attribute 12 of a router that is an edge; any other value is an interior's.
const EDGE: u8 = 1;
/// What an identity statement's signature covers, in front of leaf and end date.
const STATEMENT_CONTEXT: &[u8] = b"vanrouter identity statement v1\0";
/// SubjectPublicKeyInfo of an uncompressed P-256 point, up to the point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed P-256 point.
const P256_POINT: usize = 65;
/// Longest ECDSA P-256 signature in DER.
const MAX_SIGNATURE: usize = 72;

/// Why a HELLO is not acceptable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The peer speaks another version of the protocol.
    #[error("HELLO of protocol version {0}, this router speaks version {VERSION}")]
    Version(u8),
    /// A required attribute is not there.
    #[error("HELLO without its {0}")]
    Missing(&'static str),
    /// An attribute does not have the form that it must have.
    #[error("HELLO with a malformed {0}")]
    Malformed(&'static str),
    /// The identity statement is for another TLS key.
    #[error("the identity statement names another certificate's key than TLS proved")]
    OtherLeaf,
    /// The identity statement's end date has passed.
    #[error(
        "the identity statement ended {0} s ago; the site has to renew its certificate, or a clock is wrong"
    )]
    StatementExpired(u64),
    /// The identity key has not signed the statement.
    #[error("the identity statement is not signed by the site's identity key")]
    Signature,
}

impl HelloError {
    /// Whether the peer keeps the protocol and yet is not who it says (class `policy`).
    #[must_use]
    pub const fn is_policy(&self) -> bool {
        matches!(
            self,
            Self::OtherLeaf | Self::StatementExpired(_) | Self::Signature
        )
    }
}

/// One start of one router.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RouterId {
    /// SHA-256 of the site's identity key.
    pub site: [u8; 32],
    /// Drawn at start.
    pub boot: u64,
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", site_text(&self.site), self.boot)
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for RouterId {
    type Err = HelloError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = HelloError::Malformed("router id");
        let (site, boot) = text.split_once('/').ok_or(malformed.clone())?;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if boot.len() != 16 || !boot.bytes().all(hex) {
            return Err(malformed);
        }
        Ok(Self {
            site: site_from_text(site).ok_or(malformed.clone())?,
            boot: u64::from_str_radix(boot, 16).map_err(|_| malformed)?,
        })
    }
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A site id as people see it: 52 characters of lower-case base32.
#[must_use]
pub fn site_text(site: &[u8; 32]) -> String {
    let mut text = String::with_capacity(52);
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in site {
        bits = (bits << 8) | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(digit(bits >> held)));
        }
        bits &= (1 << held) - 1;
    }
    text.push(char::from(digit(bits << (5 - held))));
    text
}

fn digit(value: u32) -> u8 {
    BASE32.get((value & 31) as usize).copied().unwrap_or(b'a')
}

/// The reverse of [`site_text`]; `None` for anything that it would not write.
#[must_use]
pub fn site_from_text(text: &str) -> Option<[u8; 32]> {
    if text.len() != 52 {
        return None;
    }
    let mut site = [0; 32];
    let mut places = site.iter_mut();
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.bytes() {
        let value = match byte {
            b'a'..=b'z' => byte - b'a',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        bits = (bits << 5) | u32::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            *places.next()? = u8::try_from(bits >> held).ok()?;
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(site)
}

/// The site id of an identity key in SubjectPublicKeyInfo DER; `None` unless it is an ECDSA P-256 key.
#[must_use]
pub fn site_id(identity_key: &[u8]) -> Option<[u8; 32]> {
    identity_point(identity_key)?;
    Some(sha256(identity_key))
}

/// SHA-256, as ids and statements use it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out
        .iter_mut()
        .zip(digest::digest(&digest::SHA256, bytes).as_ref())
    {
        *to = *from;
    }
    out
}

fn identity_point(identity_key: &[u8]) -> Option<&[u8]> {
    let point = identity_key.strip_prefix(&P256_SPKI)?;
    (point.len() == P256_POINT && point.first() == Some(&4)).then_some(point)
}

/// Binds a TLS leaf to a site: HELLO attribute 2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub leaf: [u8; 32],
    /// Seconds since the epoch.
    pub not_after: u64,
    /// ECDSA P-256 with SHA-256, DER.
    pub signature: Vec<u8>,
}

impl Statement {
    /// Read the attribute's value.
    ///
    /// # Errors
    /// It has not the form of a statement. Whether it is true is another question, see [`Hello::verify`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let malformed = HelloError::Malformed("identity statement");
        let (leaf, rest) = bytes.split_first_chunk::<32>().ok_or(malformed.clone())?;
        let (not_after, signature) = rest.split_first_chunk::<8>().ok_or(malformed.clone())?;
        if signature.is_empty() || signature.len() > MAX_SIGNATURE {
            return Err(malformed);
        }
        Ok(Self {
            leaf: *leaf,
            not_after: u64::from_be_bytes(*not_after),
            signature: signature.to_vec(),
        })
    }

    /// Append the attribute's value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.leaf);
        out.extend_from_slice(&self.not_after.to_be_bytes());
        out.extend_from_slice(&self.signature);
    }

    /// What the identity key signs.
    #[must_use]
    pub fn signed_bytes(leaf: &[u8; 32], not_after: u64) -> Vec<u8> {
        [STATEMENT_CONTEXT, leaf, &not_after.to_be_bytes()].concat()
    }

    /// Check that this statement is true now, for the leaf key that TLS proved.
    ///
    /// # Errors
    /// It is for another leaf, has ended, or is not signed by that key.
    pub fn verify(
        &self,
        identity_key: &[u8],
        leaf: &[u8; 32],
        now_unix: u64,
    ) -> Result<(), HelloError> {
        if self.leaf != *leaf {
            return Err(HelloError::OtherLeaf);
        }
        if now_unix > self.not_after {
            return Err(HelloError::StatementExpired(now_unix - self.not_after));
        }
        let point = identity_point(identity_key).ok_or(HelloError::Malformed("identity key"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(
                &Self::signed_bytes(&self.leaf, self.not_after),
                &self.signature,
            )
            .map_err(|_| HelloError::Signature)
    }
}

/// In [`Hello::features`]: streams may move between the lanes of a trunk.
pub const FEATURE_MOVE: u64 = 1;

/// What a HELLO permits the other end before any CREDIT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HelloCredit {
    /// Bytes of control messages.
    pub control: u32,
    /// Unanswered OPENs.
    pub opens: u32,
    /// Bytes of early data.
    pub early: u32,
}

impl HelloCredit {
    /// What our own HELLO gives.
    pub const OURS: Self = Self {
        control: limits::HELLO_CONTROL_CREDIT,
        opens: limits::HELLO_OPENS,
        early: limits::HELLO_EARLY,
    };
}

/// The first frame of each side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// SubjectPublicKeyInfo DER.
    pub identity_key: Vec<u8>,
    /// Binds the TLS leaf to the identity key.
    pub statement: Statement,
    /// Site id (the hash of `identity_key`) and boot number.
    pub router: RouterId,
    /// A label; the identity is in `router`.
    pub site_name: String,
    /// The number of workers, at least 1.
    pub lanes_wanted: u16,
    /// What the receiver of this HELLO may send.
    pub credit: HelloCredit,
    /// Boot numbers of the site's live routers.
    pub siblings: Vec<u64>,
    /// Of this end; the larger of both ends counts.
    pub cost: u32,
    /// Name of the link at this end; may be empty.
    pub link_name: String,
    /// Software and version; may be empty.
    pub software: String,
    /// Both must have set a bit for that feature to be used; see [`FEATURE_MOVE`].
    pub features: u64,
    /// It carries no transit, and its OPENs are its own site's.
    pub edge: bool,
}

impl Hello {
    /// Append the payload of the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_attribute(out, 1, &self.identity_key);
        let mut value = Vec::with_capacity(128);
        self.statement.encode(&mut value);
        put_attribute(out, 2, &value);
        put_attribute(out, 3, &self.router.boot.to_be_bytes());
        put_attribute(out, 4, self.site_name.as_bytes());
        put_attribute(out, 5, &self.lanes_wanted.to_be_bytes());
        value.clear();
        for credit in [self.credit.control, self.credit.opens, self.credit.early] {
            value.extend_from_slice(&credit.to_be_bytes());
        }
        put_attribute(out, 6, &value);
        if !self.siblings.is_empty() {
            value.clear();
            for boot in self.siblings.iter().take(MAX_SIBLINGS) {
                value.extend_from_slice(&boot.to_be_bytes());
            }
            put_attribute(out, 7, &value);
        }
        if self.cost != 1 {
            put_attribute(out, 8, &self.cost.to_be_bytes());
        }
        if !self.link_name.is_empty() {
            put_attribute(out, 9, label(&self.link_name).as_bytes());
        }
        if !self.software.is_empty() {
            put_attribute(out, 10, label(&self.software).as_bytes());
        }
        if self.features != 0 {
            put_attribute(out, 11, &self.features.to_be_bytes());
        }
        if self.edge {
            put_attribute(out, 12, &[EDGE]);
        }
    }

    /// The whole frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(512);
        self.encode(&mut payload);
        let mut out = Vec::with_capacity(frame::HEADER + payload.len());
        frame::put(&mut out, 0, Kind::Hello, &payload);
        out
    }

    /// Read the payload of a HELLO frame.
    ///
    /// # Errors
    /// It breaks the protocol. Whether the peer is who it says is for [`Hello::verify`].
    pub fn decode(payload: &[u8]) -> Result<Self, HelloError> {
        let (&version, rest) = payload
            .split_first()
            .ok_or(HelloError::Missing("version"))?;
        if version != VERSION {
            return Err(HelloError::Version(version));
        }
        let attributes = attributes(rest).ok_or(HelloError::Malformed("attribute list"))?;
        let find = |kind: u16| attributes.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v);
        let need = |kind: u16, what: &'static str| find(kind).ok_or(HelloError::Missing(what));

        let identity_key = need(1, "identity key")?;
        let site = site_id(identity_key).ok_or(HelloError::Malformed("identity key"))?;
        let statement = Statement::decode(need(2, "identity statement")?)?;
        let boot = number(need(3, "boot number")?, "boot number")?;
        let site_name = std::str::from_utf8(need(4, "site name")?)
            .ok()
            .filter(|name| is_site_name(name))
            .ok_or(HelloError::Malformed("site name"))?;
        let lanes_wanted = need(5, "number of lanes")?
            .try_into()
            .map(u16::from_be_bytes)
            .ok()
            .filter(|lanes| *lanes >= 1)
            .ok_or(HelloError::Malformed("number of lanes"))?;
        let credit = decode_credit(need(6, "credit")?).ok_or(HelloError::Malformed("credit"))?;
        let siblings = find(7).map_or(Ok(Vec::new()), |value| {
            let (boots, rest) = value.as_chunks::<8>();
            if boots.len() > MAX_SIBLINGS || !rest.is_empty() {
                return Err(HelloError::Malformed("list of siblings"));
            }
            Ok(boots.iter().map(|boot| u64::from_be_bytes(*boot)).collect())
        })?;
        let cost = find(8).map_or(Ok(1), |value| {
            value
                .try_into()
                .map(u32::from_be_bytes)
                .ok()
                .filter(|cost| (1..=MAX_COST).contains(cost))
                .ok_or(HelloError::Malformed("cost"))
        })?;
        Ok(Self {
            identity_key: identity_key.to_vec(),
            statement,
            router: RouterId { site, boot },
            site_name: site_name.to_owned(),
            lanes_wanted,
            credit,
            siblings,
            cost,
            link_name: text(find(9), "link name")?,
            software: text(find(10), "software name")?,
            features: find(11).map_or(Ok(0), |value| number(value, "feature set"))?,
            edge: find(12).map_or(Ok(false), |value| match value {
                [role] => Ok(*role == EDGE),
                _ => Err(HelloError::Malformed("role")),
            })?,
        })
    }

    /// Check that the peer is who it says: `leaf` is the SHA-256 of the key that the TLS handshake proved.
    ///
    /// # Errors
    /// It is not (class `policy`).
    pub fn verify(&self, leaf: &[u8; 32], now_unix: u64) -> Result<(), HelloError> {
        self.statement.verify(&self.identity_key, leaf, now_unix)
    }
}

/// Split an attribute list. `None`: a length past the end, or a type twice.
#[must_use]
pub fn attributes(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (&[k0, k1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        found.push((u16::from_be_bytes([k0, k1]), value));
        bytes = rest;
    }
    found.sort_unstable_by_key(|(kind, _)| *kind);
    let twice = found
        .windows(2)
        .any(|pair| matches!(pair, [(a, _), (b, _)] if a == b));
    (!twice).then_some(found)
}

/// Append one attribute. Values longer than 65,535 bytes do not exist in this protocol.
pub fn put_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    debug_assert!(value.len() <= usize::from(u16::MAX));
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// Whether a site may be called so: `[a-z0-9]([-a-z0-9.]*[a-z0-9])?`, at most 63 bytes.
#[must_use]
pub fn is_site_name(name: &str) -> bool {
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= MAX_LABEL
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| edge(Some(b)) || matches!(b, b'-' | b'.'))
}

/// At most [`MAX_LABEL`] bytes of it.
fn label(text: &str) -> &str {
    let mut end = text.len().min(MAX_LABEL);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn text(value: Option<&[u8]>, what: &'static str) -> Result<String, HelloError> {
    let text =
        std::str::from_utf8(value.unwrap_or_default()).map_err(|_| HelloError::Malformed(what))?;
    if text.len() > MAX_LABEL || text.chars().any(char::is_control) {
        return Err(HelloError::Malformed(what));
    }
    Ok(text.to_owned())
}

fn number(value: &[u8], what: &'static str) -> Result<u64, HelloError> {
    value
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| HelloError::Malformed(what))
}

fn decode_credit(value: &[u8]) -> Option<HelloCredit> {
    let (&[control, opens, early], []) = value.as_chunks::<4>() else {
        return None;
    };
    let credit = HelloCredit {
        control: u32::from_be_bytes(control),
        opens: u32::from_be_bytes(opens),
        early: u32::from_be_bytes(early),
    };
    let fits = |credit: u32| credit <= MAX_CREDIT;
    (credit.control >= limits::HELLO_CONTROL_MIN
        && fits(credit.control)
        && fits(credit.opens)
        && fits(credit.early))
    .then_some(credit)
}
