//! The words between the control plane and this plane, as `python/vanrouter/plane.py` defines them. MessagePack on the way.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use serde::{Deserialize, Serialize, Serializer};

/// What a plane is started with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaneConfig {
    /// SubjectPublicKeyInfo DER.
    #[serde(with = "serde_bytes")]
    pub identity_key: Vec<u8>,
    /// Drawn at start.
    pub boot: u64,
    /// A label.
    pub site_name: String,
    /// 0: as many as there are cores, at most 4.
    pub workers: u32,
    /// Bytes; 0: the smaller of 128 MiB and half of the cgroup's limit.
    pub memory_budget: u64,
    /// Streams that may be open per lane.
    pub max_streams_per_link: usize,
    /// Seconds.
    pub suspect_after: f64,
    /// Seconds.
    pub dead_after: f64,
    /// Seconds that a listener goes on listening after its last match.
    pub listener_linger: f64,
    /// Seconds that a connection waits for a target.
    pub refuse_after: f64,
    /// Connections not yet handshaken from one source; 0: no limit.
    pub per_source_limit: u32,
    /// Handshakes per second from one source; 0: no limit.
    pub handshakes_per_second: u32,
    /// We carry no transit.
    pub edge: bool,
}

/// One piece of the forwarding state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)] // plane.py documents the fields
pub enum Entry {
    Credential(CredentialEntry),
    Access(AccessEntry),
    Link(LinkEntry),
    Listener(ListenerEntry),
    Connector(ConnectorEntry),
    Path(PathEntry),
    Route(RouteEntry),
    Tls(TlsEntry),
}

impl Entry {
    /// What kind of entry, and its name.
    #[must_use]
    pub fn reference(&self) -> Ref {
        let (kind, name) = match self {
            Self::Credential(e) => ("credential", &e.name),
            Self::Access(e) => ("access", &e.name),
            Self::Link(e) => ("link", &e.name),
            Self::Listener(e) => ("listener", &e.name),
            Self::Connector(e) => ("connector", &e.name),
            Self::Path(e) => ("path", &e.name),
            Self::Route(e) => ("route", &e.name),
            Self::Tls(e) => ("tls", &e.name),
        };
        Ref {
            kind: kind.to_owned(),
            name: name.clone(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct CredentialEntry {
    pub name: String,
    pub certificates: Vec<serde_bytes::ByteBuf>,
    pub private_key: serde_bytes::ByteBuf,
    pub trust: Vec<serde_bytes::ByteBuf>,
    pub statement: serde_bytes::ByteBuf,
    pub verify_host: bool,
    pub admit: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct AccessEntry {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub credential: String,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct LinkEntry {
    pub name: String,
    pub credential: String,
    pub expected_site: String,
    pub cost: u32,
    pub lanes: u32,
}

#[derive(Clone, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct TlsEntry {
    pub name: String,
    pub certificates: Vec<serde_bytes::ByteBuf>,
    pub private_key: serde_bytes::ByteBuf,
    pub trust: Vec<serde_bytes::ByteBuf>,
    pub client_cert: bool,
    pub server_name: String,
    pub verify_host: bool,
    pub alpn: Vec<String>,
}

impl std::fmt::Debug for TlsEntry {
    /// Without the private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsEntry")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct ListenerEntry {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub routing_key: String,
    pub strategy: Strategy,
    pub keys: Vec<KeyWeight>,
    pub tls: String,
}

/// How a listener chooses.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Strategy {
    #[default]
    Balanced,
    Closest,
    Priority,
    Weighted,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct KeyWeight {
    pub routing_key: String,
    pub weight: u32,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct ConnectorEntry {
    pub name: String,
    pub routing_key: String,
    pub host: String,
    pub port: u16,
    pub embedded: bool,
    pub tls: String,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct PathEntry {
    pub name: String,
    pub next_hops: Vec<String>,
    pub cost: u32,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct RouteEntry {
    pub name: String,
    pub targets: Vec<RouteTarget>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct RouteTarget {
    pub router: String,
    pub cost: u32,
}

/// Names an entry.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
pub struct Ref {
    /// `credential`, `access`, ...
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The complete state.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub generation: u64,
    pub entries: Vec<Entry>,
}

/// A difference; drops come before puts.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Changes {
    pub base: u64,
    pub generation: u64,
    pub put: Vec<Entry>,
    pub drop: Vec<Ref>,
}

/// Open one lane for a link.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Dial {
    pub id: u64,
    pub link: String,
    pub host: String,
    pub port: u16,
    pub server_name: String,
}

/// A descriptor that an event hands over; in MessagePack its number. Closed with the event unless it is taken out.
#[derive(Debug)]
pub struct Descriptor(pub OwnedFd);

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(self.0.as_raw_fd())
    }
}

/// What happened, as latest state.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Event {
    InForce {
        generation: u64,
    },
    Listener {
        name: String,
        status: &'static str,
        port: u16,
        error: String,
        gone: bool,
    },
    Access {
        name: String,
        status: &'static str,
        port: u16,
        error: String,
        gone: bool,
    },
    Connector {
        name: String,
        error: String,
        failures: u32,
    },
    Link(Box<LinkStateEvent>),
    Dial {
        id: u64,
        router: String,
        reason: &'static str,
        error: String,
        retryable: bool,
    },
    Message {
        router: String,
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    MessagesReset {
        router: String,
    },
    StreamEnd(Box<StreamEndEvent>),
    /// A visitor; the file descriptor belongs to whoever takes the event.
    Visitor {
        access: String,
        alpn: String,
        fd: Descriptor,
        certificates: Vec<serde_bytes::ByteBuf>,
        address: String,
    },
    /// A stream for an embedded connector.
    Incoming {
        connector: String,
        stream: u64,
        fd: Descriptor,
        routing_key: String,
        source: String,
    },
    /// A stream that was opened from inside the process was answered; no class: it is open.
    Opened {
        stream: u64,
        class: &'static str,
        reason: String,
    },
}

impl Event {
    /// The descriptor that it hands over, if it does.
    #[must_use]
    pub fn into_descriptor(self) -> Option<OwnedFd> {
        match self {
            Self::Visitor { fd, .. } | Self::Incoming { fd, .. } => Some(fd.0),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct LinkStateEvent {
    pub router: String,
    pub site_name: String,
    pub lanes: u32,
    pub lanes_wanted: u32,
    pub suspect: bool,
    pub draining: bool,
    pub edge: bool,
    pub cost: u32,
    pub dialled: Vec<String>,
    pub accepted: Vec<String>,
    pub peer_link: String,
    pub address: String,
    pub software: String,
    pub siblings: Vec<u64>,
    pub rtt: f64,
    pub error: String,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct StreamEndEvent {
    #[serde(with = "serde_bytes")]
    pub uuid: [u8; 16],
    pub routing_key: std::sync::Arc<str>,
    pub listener: std::sync::Arc<str>,
    pub connector: std::sync::Arc<str>,
    pub router: String,
    pub stream_class: &'static str,
    pub reason: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: f64,
}

/// Totals since start.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Counters {
    pub streams_open: u64,
    pub streams_total: u64,
    pub streams_refused: u64,
    pub streams_reset: u64,
    pub handshakes_failed: u64,
    pub probes: u64,
    pub bytes_granted: u64,
    pub events_dropped: u64,
    pub by_listener: std::collections::BTreeMap<String, Vec<u64>>,
    pub by_connector: std::collections::BTreeMap<String, Vec<u64>>,
    pub by_link: std::collections::BTreeMap<String, Vec<u64>>,
    pub transit_open: u64,
    pub transit_total: u64,
    pub streams_moved: u64,
}
