//! One connection from its first TLS byte to the point where it is a lane, a visitor, or refused.
//!
//! Sans-IO: bytes that arrived go in by [`Greeting::feed`], what is to be sent lies in [`Greeting::outgoing`], and
//! [`Greeting::advance`] says how far things are. Sockets and deadlines are `control.rs`' affair. Everything here is fed
//! by strangers; nothing panics on any bytes, and what is stored is bounded by [`limits::GREETING_INCOMING`].
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::certificate::Leaf;
use crate::frame::{self, Kind, MAX_REASON};
use crate::handshake::{FEATURE_MOVE, Hello, HelloCredit, RouterId, site_text};
use crate::limits;
use crate::record::{MAX_RECORD_PLAIN, Records, Tls, TlsError};
use crate::tls::{ALPN_HTTP, ALPN_JOIN, ALPN_LANE, Credential, ago};

/// GOAWAY codes that appear before a lane exists.
mod code {
    pub const CLOSED: u8 = 1;
    pub const PROTOCOL: u8 = 3;
    pub const POLICY: u8 = 4;
}

/// What every HELLO of ours says.
#[derive(Clone, Debug)]
pub struct Myself {
    /// SubjectPublicKeyInfo DER.
    pub identity_key: Vec<u8>,
    /// Our own id.
    pub router: RouterId,
    /// A label.
    pub site_name: String,
    /// The number of workers.
    pub lanes_wanted: u16,
    /// Software and version.
    pub software: String,
    /// Boot numbers of the site's live routers.
    pub siblings: Vec<u64>,
    /// Sites that we have no lane with.
    pub refused: Vec<[u8; 32]>,
    /// We carry no transit.
    pub edge: bool,
}

/// In one word why there is no lane: the words of `DialResult` in `plane.py`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Nobody listens there, or it is leaving.
    Refused,
    /// It took too long.
    Timeout,
    /// There is no way there.
    Unreachable,
    /// Certificates or TLS itself.
    Tls,
    /// Who it is, or who we are, is not acceptable.
    Policy,
    /// It does not keep the protocol.
    Protocol,
    /// It is ourselves.
    Myself,
    /// We did not want it any more.
    Cancelled,
}

impl Reason {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Policy => "policy",
            Self::Protocol => "protocol",
            Self::Myself => "self",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether trying again soon may help. Where not, something has to be changed first, here or there.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::Timeout | Self::Unreachable | Self::Protocol
        )
    }
}

/// Why a connection did not become anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// In one word.
    pub reason: Reason,
    /// In one sentence; its subject is the other end.
    pub sentence: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, sentence: impl Into<String>) -> Self {
        Self {
            reason,
            sentence: sentence.into(),
        }
    }
}

/// Which end we are, and what we demand of the other.
#[derive(Clone, Debug)]
pub enum Role {
    /// We accept.
    Acceptor {
        /// New lanes are refused at present.
        refuse: bool,
    },
    /// We dial.
    Dialler {
        /// The name of our link.
        link: String,
        /// The site that must be there.
        expected_site: Option<[u8; 32]>,
        /// What our end of the link costs.
        cost: u32,
    },
}

/// A lane, but for its socket.
#[derive(Debug)]
pub struct Greeted {
    /// TLS from here on.
    pub records: Records,
    /// Ciphertext behind the peer's HELLO.
    pub incoming: Vec<u8>,
    /// Opened bytes behind the peer's HELLO.
    pub plain: Vec<u8>,
    /// Ciphertext to be sent.
    pub outgoing: Vec<u8>,
    /// The peer's HELLO, checked.
    pub peer: Hello,
    /// What our HELLO gave.
    pub granted: HelloCredit,
    /// The larger of both ends' costs.
    pub cost: u32,
}

/// A visitor, but for its socket.
#[derive(Debug)]
pub struct Guest {
    /// TLS from here on.
    pub records: Records,
    /// Ciphertext that has arrived.
    pub incoming: Vec<u8>,
    /// Ciphertext to be sent.
    pub outgoing: Vec<u8>,
    /// What it came for.
    pub alpn: String,
    /// What its TLS handshake proved, leaf first; may be empty.
    pub certificates: Vec<Vec<u8>>,
}

/// How far a greeting is.
#[derive(Debug)]
pub enum Step {
    /// It waits for bytes.
    Wait,
    /// It is a lane.
    Lane(Box<Greeted>),
    /// It is a visitor.
    Guest(Box<Guest>),
    /// It will not be anything. `outgoing` may hold last words for the other end.
    Refused(Refusal),
}

enum Stage {
    Tls(Box<Tls>),
    Hello {
        records: Records,
        leaf: [u8; 32],
        cost: u32,
    },
    Over,
}

/// The state of one connection. See the module's documentation.
pub struct Greeting {
    role: Role,
    credential: Arc<Credential>,
    address: SocketAddr,
    stage: Stage,
    incoming: Vec<u8>,
    plain: Vec<u8>,
    outgoing: Vec<u8>,
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeting")
            .field("role", &self.role)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Greeting {
    /// The accepting end.
    ///
    /// # Errors
    /// Our own TLS configuration cannot be used.
    pub fn acceptor(
        credential: Arc<Credential>,
        address: SocketAddr,
        refuse: bool,
    ) -> Result<Self, TlsError> {
        let tls = Tls::server(credential.server())?;
        let role = Role::Acceptor { refuse };
        Ok(Self::new(role, credential, address, tls, Vec::new()))
    }

    /// The dialling end. `role` is [`Role::Dialler`]; `name` goes into SNI.
    ///
    /// # Errors
    /// Our own TLS configuration cannot be used.
    pub fn dialler(
        role: Role,
        credential: Arc<Credential>,
        address: SocketAddr,
        name: &EndpointName,
    ) -> Result<Self, TlsError> {
        let mut outgoing = Vec::new();
        let config = credential.client(&name.verify);
        let tls = Tls::client(config, name.sni.clone(), &mut outgoing)?;
        Ok(Self::new(role, credential, address, tls, outgoing))
    }

    fn new(
        role: Role,
        credential: Arc<Credential>,
        address: SocketAddr,
        tls: Tls,
        outgoing: Vec<u8>,
    ) -> Self {
        Self {
            role,
            credential,
            address,
            stage: Stage::Tls(Box::new(tls)),
            incoming: Vec::new(),
            plain: Vec::new(),
            outgoing,
        }
    }

    /// How many bytes [`Greeting::feed`] takes now. 0: none before the next [`Greeting::advance`].
    #[must_use]
    pub fn appetite(&self) -> usize {
        limits::GREETING_INCOMING.saturating_sub(self.incoming.len())
    }

    /// Bytes arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// What is to be sent. The caller removes what it has sent.
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Whether TLS is up and HELLO is awaited.
    #[must_use]
    pub fn awaits_hello(&self) -> bool {
        matches!(self.stage, Stage::Hello { .. })
    }

    /// Go on with what has arrived. `now_unix` is seconds since the epoch.
    pub fn advance(&mut self, me: &Myself, now_unix: u64) -> Step {
        if let Stage::Tls(tls) = &mut self.stage {
            let done = tls.handshake(&mut self.incoming, &mut self.outgoing);
            let still = tls.is_handshaking();
            match done {
                Err(error) => return self.over(tls_refusal(&error, self.address)),
                Ok(done) => {
                    self.incoming.drain(..done.consumed);
                    if still && done.closed {
                        return self.ended();
                    }
                }
            }
            if still {
                if self.appetite() == 0 {
                    return self.over(self.nonsense("sent a TLS handshake that is too long"));
                }
                return Step::Wait;
            }
            if let Some(step) = self.tls_is_up(me, now_unix) {
                return step;
            }
        }
        self.hello(me, now_unix)
    }

    /// The other end closed the connection.
    pub fn ended(&mut self) -> Step {
        let address = self.address;
        let refusal = match (&self.stage, &self.role) {
            // Nothing was said, so it may as well be a network that cut this connection: trying again soon helps then.
            (Stage::Hello { .. }, Role::Dialler { .. }) => Refusal::new(
                Reason::Protocol,
                format!(
                    "{address} closed the connection before its HELLO; it probably does not accept our certificate \
                     (expired, revoked or not admitted there)"
                ),
            ),
            (Stage::Hello { .. }, Role::Acceptor { .. }) => Refusal::new(
                Reason::Protocol,
                format!("{address} closed the connection before its HELLO"),
            ),
            // Without an alert nothing says that certificates are the reason: a load balancer without a backend and a peer that is
            // flooded do the same, and trying again helps.
            _ => Refusal::new(
                Reason::Refused,
                format!(
                    "{address} closed the connection during the TLS handshake; is it a vanrouter link access, and not overloaded?"
                ),
            ),
        };
        self.over(refusal)
    }

    fn over(&mut self, refusal: Refusal) -> Step {
        self.stage = Stage::Over;
        Step::Refused(refusal)
    }

    fn nonsense(&self, what: &str) -> Refusal {
        Refusal::new(Reason::Protocol, format!("{} {what}", self.address))
    }

    /// Say GOAWAY and close_notify, as far as that is possible.
    fn goodbye(&mut self, records: &mut Records, code: u8, words: &str, refusal: Refusal) -> Step {
        let mut end = words.len().min(MAX_REASON);
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = vec![code];
        payload.extend_from_slice(words.as_bytes().get(..end).unwrap_or_default());
        let mut plain = Vec::with_capacity(frame::HEADER + payload.len());
        frame::put(&mut plain, 0, Kind::GoAway, &payload);
        if records.seal(&plain, &mut self.outgoing).is_ok() {
            records.close(&mut self.outgoing);
        }
        self.over(refusal)
    }

    /// The TLS handshake has just ended: what did they come for, and may they?
    fn tls_is_up(&mut self, me: &Myself, now_unix: u64) -> Option<Step> {
        let Stage::Tls(tls) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return None;
        };
        let address = self.address;
        let alpn = tls.alpn().unwrap_or_default().to_vec();
        let certificates = tls.certificates();
        let mut records = match tls.into_records() {
            Ok(records) => records,
            Err(error) => return Some(self.over(tls_refusal(&error, address))),
        };
        let leaf = certificates.first().map(|der| Leaf::parse(der));

        if let Role::Acceptor { refuse } = self.role {
            if alpn == ALPN_JOIN || alpn == ALPN_HTTP {
                return Some(Step::Guest(Box::new(Guest {
                    records,
                    incoming: std::mem::take(&mut self.incoming),
                    outgoing: std::mem::take(&mut self.outgoing),
                    alpn: String::from_utf8(alpn).unwrap_or_default(),
                    certificates,
                })));
            }
            if alpn != ALPN_LANE {
                records.close(&mut self.outgoing);
                let refusal = self.nonsense("asked for no protocol that a link access speaks");
                return Some(self.over(refusal));
            }
            if refuse {
                let refusal = Refusal::new(
                    Reason::Refused,
                    format!("{address} came while this router is leaving"),
                );
                return Some(self.goodbye(
                    &mut records,
                    code::CLOSED,
                    "this router is leaving",
                    refusal,
                ));
            }
            if let Err(words) = self.admit(leaf.as_ref(), now_unix) {
                let refusal = Refusal::new(Reason::Policy, format!("{address}: {words}"));
                return Some(self.goodbye(&mut records, code::POLICY, &words, refusal));
            }
        } else if alpn != ALPN_LANE {
            records.close(&mut self.outgoing);
            let refusal = Refusal::new(
                Reason::Tls,
                format!("{address} speaks TLS but not van/1; is it a vanrouter link access?"),
            );
            return Some(self.over(refusal));
        }
        let Some(Some(leaf)) = leaf else {
            let refusal = Refusal::new(
                Reason::Tls,
                format!("{address} has an unreadable certificate"),
            );
            return Some(self.goodbye(
                &mut records,
                code::POLICY,
                "unreadable certificate",
                refusal,
            ));
        };

        let (link_name, cost) = match &self.role {
            Role::Acceptor { .. } => (String::new(), 1),
            Role::Dialler { link, cost, .. } => (link.clone(), *cost),
        };
        let hello = Hello {
            identity_key: me.identity_key.clone(),
            statement: self.credential.statement.clone(),
            router: me.router,
            site_name: me.site_name.clone(),
            lanes_wanted: me.lanes_wanted.max(1),
            credit: HelloCredit::OURS,
            siblings: me.siblings.clone(),
            cost,
            link_name,
            software: me.software.clone(),
            features: FEATURE_MOVE,
            edge: me.edge,
        };
        if let Err(error) = records.seal(&hello.frame(), &mut self.outgoing) {
            return Some(self.over(tls_refusal(&error, address)));
        }
        self.stage = Stage::Hello {
            records,
            leaf: leaf.key_hash,
            cost,
        };
        None
    }

    /// Whether a lane may come with this certificate.
    fn admit(&self, leaf: Option<&Option<Leaf>>, now_unix: u64) -> Result<(), String> {
        let leaf = match leaf {
            None => return Err("a link needs a client certificate".to_owned()),
            Some(None) => return Err("unreadable certificate".to_owned()),
            Some(Some(leaf)) => leaf,
        };
        if now_unix > leaf.not_after {
            let since = ago(now_unix - leaf.not_after);
            return Err(format!(
                "certificate expired {since} ago: it may be renewed but opens no link"
            ));
        }
        if let Some(patterns) = &self.credential.admit
            && !leaf.is_named(patterns)
        {
            return Err(format!(
                "certificate for {} is not on the list of those that this link access admits",
                names(leaf)
            ));
        }
        Ok(())
    }

    /// Wait for the peer's HELLO and judge it.
    fn hello(&mut self, me: &Myself, now_unix: u64) -> Step {
        let Stage::Hello {
            mut records,
            leaf,
            cost,
        } = std::mem::replace(&mut self.stage, Stage::Over)
        else {
            return Step::Wait;
        };
        let address = self.address;
        loop {
            match frame::decode(&self.plain) {
                Err(error) => {
                    let refusal = self.nonsense(&format!("sent a broken frame: {error}"));
                    return self.goodbye(&mut records, code::PROTOCOL, &error.to_string(), refusal);
                }
                Ok(Some((frame, used))) => {
                    let verdict = self.judge(frame, &leaf, me, now_unix);
                    return match verdict {
                        Ok(peer) => {
                            self.plain.drain(..used);
                            Step::Lane(Box::new(Greeted {
                                records,
                                incoming: std::mem::take(&mut self.incoming),
                                plain: std::mem::take(&mut self.plain),
                                outgoing: std::mem::take(&mut self.outgoing),
                                cost: cost.max(peer.cost),
                                peer,
                                granted: HelloCredit::OURS,
                            }))
                        }
                        Err(Verdict {
                            code: None,
                            refusal,
                            ..
                        }) => {
                            records.close(&mut self.outgoing);
                            self.over(refusal)
                        }
                        Err(Verdict {
                            code: Some(code),
                            words,
                            refusal,
                        }) => self.goodbye(&mut records, code, &words, refusal),
                    };
                }
                Ok(None) => {}
            }
            // A frame is at most one full record long, so that a whole one fits next to any part of one.
            let room = self.plain.len() + MAX_RECORD_PLAIN;
            let opened = match records.open(
                &mut self.incoming,
                &mut self.plain,
                room,
                &mut self.outgoing,
            ) {
                Ok(opened) => opened,
                Err(error) => return self.over(tls_refusal(&error, address)),
            };
            self.incoming.drain(..opened.consumed);
            if opened.consumed == 0 && opened.closed {
                self.stage = Stage::Hello {
                    records,
                    leaf,
                    cost,
                };
                return self.ended();
            }
            if opened.consumed == 0 {
                if self.appetite() == 0 {
                    return self.over(self.nonsense("sent a TLS record that never ends"));
                }
                self.stage = Stage::Hello {
                    records,
                    leaf,
                    cost,
                };
                return Step::Wait;
            }
        }
    }

    fn judge(
        &self,
        frame: frame::Frame<'_>,
        leaf: &[u8; 32],
        me: &Myself,
        now_unix: u64,
    ) -> Result<Hello, Verdict> {
        let address = self.address;
        match frame.kind {
            Some(Kind::Hello) if frame.stream == 0 => {}
            Some(Kind::GoAway) => {
                let (code, words) = frame
                    .payload
                    .split_first()
                    .unwrap_or((&code::PROTOCOL, &[]));
                let words: String = String::from_utf8_lossy(words)
                    .chars()
                    .filter(|c| !c.is_control())
                    .collect();
                let reason = match *code {
                    code::PROTOCOL => Reason::Protocol,
                    code::POLICY => Reason::Policy,
                    _ => Reason::Refused,
                };
                return Err(Verdict {
                    code: None,
                    words: String::new(),
                    refusal: Refusal::new(reason, format!("{address} refuses this link: {words}")),
                });
            }
            _ => {
                return Err(Verdict::protocol(
                    "something else before HELLO",
                    self.nonsense("sent something else before its HELLO"),
                ));
            }
        }
        let hello = Hello::decode(frame.payload)
            .and_then(|hello| hello.verify(leaf, now_unix).map(|()| hello))
            .map_err(|error| {
                let words = error.to_string();
                let policy = error.is_policy();
                let reason = if policy {
                    Reason::Policy
                } else {
                    Reason::Protocol
                };
                Verdict {
                    code: Some(if policy { code::POLICY } else { code::PROTOCOL }),
                    refusal: Refusal::new(reason, format!("{address} is not acceptable: {words}")),
                    words,
                }
            })?;
        if hello.router == me.router {
            return Err(Verdict::policy(
                "self",
                Refusal::new(
                    Reason::Myself,
                    format!(
                        "{address} is this router itself; a link needs another site's link access"
                    ),
                ),
            ));
        }
        if me.refused.contains(&hello.router.site) {
            return Err(Verdict::policy(
                "this site is refused here",
                Refusal::new(
                    Reason::Policy,
                    format!(
                        "{address} is the site {} ({}), which is refused here",
                        hello.site_name,
                        site_text(&hello.router.site)
                    ),
                ),
            ));
        }
        match &self.role {
            Role::Dialler {
                expected_site: Some(expected),
                ..
            } if *expected != hello.router.site => Err(Verdict::policy(
                "another site was expected here",
                Refusal::new(
                    Reason::Policy,
                    format!(
                        "{address} is the site {} ({}), expected was {}; the endpoint belongs to another site now",
                        hello.site_name,
                        site_text(&hello.router.site),
                        site_text(expected)
                    ),
                ),
            )),
            _ => Ok(hello),
        }
    }
}

/// Why the first frame is not the HELLO of a peer that we want.
struct Verdict {
    /// GOAWAY code; `None`: they said GOAWAY themselves.
    code: Option<u8>,
    words: String,
    refusal: Refusal,
}

impl Verdict {
    fn protocol(words: &str, refusal: Refusal) -> Self {
        Self {
            code: Some(code::PROTOCOL),
            words: words.to_owned(),
            refusal,
        }
    }

    fn policy(words: &str, refusal: Refusal) -> Self {
        Self {
            code: Some(code::POLICY),
            words: words.to_owned(),
            refusal,
        }
    }
}

/// What we call an endpoint in SNI, and what its certificate must be good for where that is verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointName {
    sni: ServerName<'static>,
    verify: ServerName<'static>,
}

impl EndpointName {
    /// `name` as the control plane gave it: a DNS name, an IP literal or nothing.
    ///
    /// # Errors
    /// It is neither; the sentence says so.
    pub fn new(
        name: &str,
        address: SocketAddr,
        expected_site: Option<&[u8; 32]>,
    ) -> Result<Self, Refusal> {
        let bad = |_| {
            Refusal::new(
                Reason::Tls,
                format!("{name:?} is no host name that a certificate could be for"),
            )
        };
        let verify = if name.is_empty() {
            ServerName::from(address.ip())
        } else {
            ServerName::try_from(name.to_owned()).map_err(bad)?
        };
        let sni = match &verify {
            ServerName::DnsName(_) => verify.clone(),
            // A bare address has no place in SNI.
            _ => {
                let site = expected_site.map_or_else(|| "unknown".to_owned(), site_text);
                ServerName::try_from(format!("{site}.van")).map_err(bad)?
            }
        };
        Ok(Self { sni, verify })
    }
}

fn names(leaf: &Leaf) -> String {
    if leaf.names.is_empty() {
        return "nobody in particular".to_owned();
    }
    let listed: Vec<&str> = leaf.names.iter().take(4).map(String::as_str).collect();
    listed.join(", ")
}

fn tls_refusal(error: &TlsError, address: SocketAddr) -> Refusal {
    let sentence = match error {
        TlsError::Alert(words) => format!("{address} ended TLS: {words}"),
        TlsError::Certificate(words) => {
            format!("{address} shows a certificate that is not acceptable here: {words}")
        }
        TlsError::Incompatible(words) => format!("{address} has no common ground in TLS: {words}"),
        TlsError::Misbehaved(words) => {
            format!(
                "{address} does not speak TLS as it should; is it a vanrouter link access? ({words})"
            )
        }
        TlsError::Internal(words) => format!("TLS with {address} failed here: {words}"),
    };
    Refusal::new(Reason::Tls, sentence)
}
