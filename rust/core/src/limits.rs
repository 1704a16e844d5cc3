//! Every limit of the data plane in one place: what a peer may make us hold, and how long it may keep us waiting.
//!
//! Figures are those of `docs/wire-protocol.md` where it names one.

use std::time::Duration;

// ---- Establishing lanes -------------------------------------------------------------------------------------------------

/// Control message credit (stream 0) in our HELLO: one whole message and most of a second.
pub const HELLO_CONTROL_CREDIT: u32 = 131_072;
/// Least control credit that a HELLO may give: one whole message with its length.
pub const HELLO_CONTROL_MIN: u32 = 65_540;
/// Unanswered OPENs that our HELLO permits.
pub const HELLO_OPENS: u32 = 16;
/// Early data that our HELLO permits.
pub const HELLO_EARLY: u32 = 65_536;
/// TCP and TLS together.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// From the end of TLS to the peer's HELLO.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// What a refused or failed connection gets to take its last bytes (an alert, GOAWAY).
pub const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);
/// Connections to our link accesses that have not finished HELLO. At the cap the oldest is closed and the new one served.
pub const MAX_GREETING: usize = 256;
/// TLS handshakes per second of the whole process, with a burst of twice that; the sources' own limits are settings.
pub const HANDSHAKES_PER_SECOND: u32 = 200;
/// Sources whose recent handshakes are remembered.
pub const MAX_SOURCES: usize = 4_096;
/// Dials at once.
pub const MAX_DIALS: usize = 1_024;
/// Ciphertext stored before HELLO: a long certificate chain fits.
pub const GREETING_INCOMING: usize = 32 * 1_024;
/// Visitors at once; more are closed.
pub const MAX_VISITORS: usize = 64;
/// How long a visitor may stay.
pub const VISITOR_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes kept per visitor and direction.
pub const VISITOR_BUFFER: usize = 32 * 1_024;
/// After an accept failed for want of file descriptors or memory, that port waits so long.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections taken from one port before the others get their turn.
pub const ACCEPT_BATCH: usize = 32;
/// A port that could not be bound is tried again so often.
pub const BIND_RETRY: Duration = Duration::from_secs(1);
/// Connections that the kernel holds for a port until we accept them.
pub const LISTEN_BACKLOG: i32 = 1_024;
/// A leaf that expired no longer ago than this passes TLS, for renewal only.
pub const EXPIRED_LEAF_GRACE: Duration = Duration::from_secs(90 * 86_400);
/// How far in the future a `notBefore` may lie.
pub const NOT_BEFORE_SKEW: Duration = Duration::from_secs(300);

// ---- Sockets of lanes -----------------------------------------------------------------------------------------------------

/// What may wait in the kernel unsent ahead of a small urgent frame.
pub const LANE_NOTSENT_LOWAT: u32 = 128 * 1_024;
/// Written bytes that nobody acknowledges for so long end the connection; PING finds out before.
pub const LANE_USER_TIMEOUT: Duration = Duration::from_secs(20);

// ---- Clients of listeners with TLS --------------------------------------------------------------------------------------------

/// Their handshake may take so long.
pub const CLIENT_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes of clients under way, per listener and worker. At the cap the oldest is closed and the new one served, so silence keeps
/// nobody out. A worker completes some 3,000 in a second: who is closed before it is done took longer than a third of one while as
/// many came as can be served. Each holds 64 KiB at most, a message of TLS that never ends.
pub const MAX_CLIENT_HANDSHAKES: usize = 1_024;
