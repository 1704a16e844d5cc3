"""
The contract between the control plane and a data plane. Two implementations: ``native`` (the Rust core) and ``baseline`` (pure Python).

The control plane sends *changes on a named generation* and, only at start and after a refusal, a complete *snapshot*. The data plane
refuses changes whose base it does not have (``StaleGeneration``), applies others without touching live streams, and reports what is in
force. What it observes comes back as *latest state*: one slot per dial, link, listener, access and connector; a slow reader misses
intermediate states, never the last one. Only control messages, visitors, incoming streams and end-of-stream records are queues, each
bounded (see the fields).

Everything here is data, encodable as MessagePack (``msgspec.msgpack``), so that the native plane takes it as bytes. Addresses are IP
literals: names are resolved by the control plane. Times are seconds. Nothing here assumes the main thread, signals, or one plane per
process.
"""

from __future__ import annotations

import abc
import enum
from typing import Literal, Protocol

import msgspec
import trio

__all__ = [
    "Access",
    "AccessState",
    "Changes",
    "Connector",
    "ConnectorState",
    "Counters",
    "Credential",
    "DataPlane",
    "Dial",
    "DialResult",
    "Entry",
    "Event",
    "HasFileno",
    "InForce",
    "Incoming",
    "Link",
    "LinkState",
    "Listener",
    "ListenerState",
    "KeyWeight",
    "Message",
    "MessagesReset",
    "Path",
    "PlaneConfig",
    "PlaneStream",
    "Ref",
    "Route",
    "RouteTarget",
    "Snapshot",
    "StreamEnd",
    "Tls",
    "Visitor",
    "Waits",
]


class PlaneConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a plane is started with and keeps for its life."""

    identity_key: bytes  # SubjectPublicKeyInfo DER of the site's identity key
    boot: int
    site_name: str
    workers: int = 0  # 0: as many as there are cores this process may use, at most 4
    memory_budget: int = 0  # bytes that may be granted and buffered; 0: min(128 MiB, half of the cgroup's limit)
    max_streams_per_link: int = 16_384
    suspect_after: float = 1.0
    dead_after: float = 6.0
    listener_linger: float = 10.0  # a listener goes on listening so long after its last match
    refuse_after: float = 3.0  # a connection waits so long for a target, then it is reset with class refused
    per_source_limit: int = 16  # connections not yet handshaken from one address (/32 or /64); 0: no limit per source
    handshakes_per_second: int = 50  # per source, with a burst of twice that; 0: no limit per source
    edge: bool = False  # said in HELLO (attribute 12): this router carries no transit, and its OPENs are its own site's


# ---- The forwarding state: entries, each with a kind and a name ----------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    name: str


class Credential(Entry, frozen=True, kw_only=True, tag="credential"):
    """What authenticates us on a lane. Putting one again under its name is a rotation: new lanes use the new one.

    ``admit`` patterns are matched with the leaf's subject as RFC 4514 writes it, its common names and its alternative names.
    """

    certificates: list[bytes]  # DER, leaf first
    private_key: bytes  # PKCS#8 DER
    trust: list[bytes]  # DER of the CAs that the other end must chain to
    statement: bytes  # HELLO attribute 2: leaf hash 32, not_after u64, signature
    verify_host: bool = False  # also check the endpoint's name (a user's CA)
    admit: list[str] | None = None  # accepting: shell-style patterns; None: any leaf of our own CA; []: nobody

    def __repr__(self) -> str:
        """Without the private key: changes may be logged."""
        return f"Credential(name={self.name!r}, certificates={len(self.certificates)}, private_key='***', verify_host={self.verify_host})"


class Access(Entry, frozen=True, kw_only=True, tag="access"):
    """A port where links, visitors and health checks arrive."""

    host: str  # IP literal
    port: int  # 0: any free one; see AccessState
    credential: str  # the name of a Credential


class Link(Entry, frozen=True, kw_only=True, tag="link"):
    """A link that this router dials. Dropping it closes the lanes dialled for it, and resets their streams (class link)."""

    credential: str
    expected_site: str = ""  # site id; "": any site that the CA vouches for
    cost: int = 1
    lanes: int = 0  # 0: min(workers of both ends, 4)


class Tls(Entry, frozen=True, kw_only=True, tag="tls"):
    """TLS with applications: what a listener shows its clients, or what a connector wants of its target.

    Putting one again under its name is a rotation: new connections use the new one, those that are up stay. A direction ends with
    close_notify; a connection that ends without it is reset, never ended cleanly.
    """

    certificates: list[bytes] = []  # DER, leaf first; a listener's, or with ``client_cert`` a connector's
    private_key: bytes = b""  # PKCS#8 DER
    trust: list[bytes] = []  # DER of the CAs of targets, or with ``client_cert`` of a listener's clients
    client_cert: bool = False  # a listener: clients must show one. A connector: it shows one
    server_name: str = ""  # of a target, for SNI and verification; empty: its address
    verify_host: bool = True  # of a target: its certificate must be good for the name, too
    alpn: list[str] = []  # protocols that are offered, best first

    def __repr__(self) -> str:
        """Without the private key: changes may be logged."""
        return f"Tls(name={self.name!r}, certificates={len(self.certificates)}, private_key='***', trust={len(self.trust)})"


class KeyWeight(msgspec.Struct, frozen=True):
    routing_key: str
    weight: int = 1  # positive; looked at by strategy weighted only


Strategy = Literal["balanced", "closest", "priority", "weighted"]


class Listener(Entry, frozen=True, kw_only=True, tag="listener"):
    """A local host:port where clients connect. Matched while one of its keys is.

    The choice, made for each new stream, in this order: the key, the target, the next hop, the lane. Trunks that are draining come behind
    the others, those that are suspect (and targets here whose last connect failed) behind these, and those that are both last.

    * One key. ``balanced``: an idle local target first; then the least of cost plus outstanding streams of this router (a local target's
      cost is 0). ``closest``: the least cost first, then the fewest outstanding streams. Among equals the one that was chosen longest ago.
    * ``keys``: several, and ``routing_key`` is empty. ``priority``: the first that has a target which was not tried. ``weighted``: at
      random, in proportion to the weights of those that have one. Within a key: balanced. A refused stream may go on with another key.
    """

    host: str  # IP literal
    port: int
    routing_key: str = ""
    strategy: Strategy = "balanced"
    keys: list[KeyWeight] = []
    tls: str = ""  # the name of a Tls: its clients speak TLS. While it is missing or unusable they are refused


class Connector(Entry, frozen=True, kw_only=True, tag="connector"):
    """One target of a routing key. ``embedded``: streams come to the control plane as ``Incoming``."""

    routing_key: str
    host: str = ""  # IP literal
    port: int = 0
    embedded: bool = False
    tls: str = ""  # the name of a Tls: the target is spoken to in TLS. While it is missing or unusable, or the handshake fails: refused


class Path(Entry, frozen=True, kw_only=True, tag="path"):
    """How another router (the name, a RouterId as text) is reached, for streams that start here and for transit.

    One entry per router, direct neighbours included; a changed path changes this entry and no route. No next hops: drop it instead.
    """

    next_hops: list[str]  # RouterIds as text of neighbours, equally good: 1 to 8. One without a lane now is passed over
    cost: int


class RouteTarget(msgspec.Struct, frozen=True):
    """A router where a routing key has targets. It counts while there is a path to it whose next hop has a lane."""

    router: str  # RouterId as text
    cost: int = 0  # added to the path's


class Route(Entry, frozen=True, kw_only=True, tag="route"):
    """Where a routing key (the name) can be reached besides our own connectors. No targets: drop it instead."""

    targets: list[RouteTarget]


AnyEntry = Credential | Access | Link | Listener | Connector | Path | Route | Tls
Kind = Literal["credential", "access", "link", "listener", "connector", "path", "route", "tls"]


class Ref(msgspec.Struct, frozen=True):
    kind: Kind
    name: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The complete forwarding state. What is not in it goes; what is the same stays untouched."""

    generation: int
    entries: list[AnyEntry]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A difference on ``base``. Drops come before puts."""

    base: int
    generation: int
    put: list[AnyEntry] = []
    drop: list[Ref] = []


# ---- Commands ---------------------------------------------------------------------------------------------------------------------------


class Dial(msgspec.Struct, frozen=True, kw_only=True):
    """Open one lane for a link. The answer is one DialResult with this id."""

    id: int
    link: str
    host: str  # IP literal
    port: int
    server_name: str  # for SNI, and for verification where the credential says verify_host


# ---- Events -----------------------------------------------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    pass


class InForce(Event, frozen=True, kw_only=True, tag="in_force"):
    generation: int


class BindStatus(enum.StrEnum):
    BOUND = "bound"  # the port is ours; clients are refused, because nothing is matched
    LISTENING = "listening"
    IN_USE = "in_use"  # this and the next two: tried again every second
    DENIED = "denied"  # no right to this port or address
    FAILED = "failed"


class ListenerState(Event, frozen=True, kw_only=True, tag="listener"):
    name: str
    status: BindStatus
    port: int
    error: str = ""
    gone: bool = False  # the entry was dropped and its socket is closed


class AccessState(Event, frozen=True, kw_only=True, tag="access"):
    name: str
    status: BindStatus
    port: int
    error: str = ""
    gone: bool = False


class ConnectorState(Event, frozen=True, kw_only=True, tag="connector"):
    """Passive health: what the last connects to this target gave."""

    name: str
    error: str = ""  # empty: the last connect worked, or none was tried yet
    failures: int = 0  # connects failed in a row


class LinkState(Event, frozen=True, kw_only=True, tag="link"):
    """The trunk to one other router, whoever dialled. No lanes: it is gone."""

    router: str  # RouterId as text
    site_name: str
    lanes: int
    lanes_wanted: int  # min(lanes wanted of both ends, 4)
    suspect: bool = False  # every lane is
    draining: bool = False  # it sent GOAWAY drain or closed
    edge: bool = False  # its HELLO said so
    cost: int = 1  # the larger of both ends'
    dialled: list[str] = []  # our Link entries whose lanes are in it
    accepted: list[str] = []  # our Access entries where its lanes arrived
    peer_link: str = ""  # the name that the dialler gave the link, when it dialled us
    address: str = ""  # of the far end of the first lane
    software: str = ""
    siblings: list[int] = []  # boot numbers of the live routers of its site
    rtt: float = 0.0  # seconds, smallest recent
    error: str = ""  # why it is gone


class DialResult(Event, frozen=True, kw_only=True, tag="dial"):
    id: int
    router: str = ""  # set: the lane is up, and belongs to the link with this router
    reason: Literal["", "refused", "timeout", "unreachable", "tls", "policy", "protocol", "self", "cancelled"] = ""
    error: str = ""  # a sentence for people
    retryable: bool = True


class Message(Event, frozen=True, kw_only=True, tag="message"):
    """A control message. At most 64 wait per link, further ones stay in the peer's hands (credit)."""

    router: str
    data: bytes


class MessagesReset(Event, frozen=True, kw_only=True, tag="messages_reset"):
    """Messages to and from this router may have been lost (a new link, or another lane carries them now): exchange everything anew."""

    router: str


class StreamEnd(Event, frozen=True, kw_only=True, tag="stream_end"):
    """One ended stream, for the access log. A ring of 10,000 that drops the oldest.

    Written where it entered and where it left, not by transit.
    """

    uuid: bytes
    routing_key: str
    listener: str = ""
    connector: str = ""
    router: str = ""  # the other one, if any
    stream_class: str = ""  # empty: both directions ended cleanly
    reason: str = ""
    bytes_in: int = 0  # client to target
    bytes_out: int = 0  # target to client
    duration: float = 0.0


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Waits(Protocol):
    """How a stream waits for the socket that its end is: in the loop whose tasks call it. All but ``closing`` may be cancelled."""

    async def before(self) -> None:
        """A call begins: nothing has happened yet."""

    async def after(self) -> None:
        """A call ends without having waited. Must not raise: something has happened."""

    async def readable(self, sock: HasFileno) -> None: ...

    async def writable(self, sock: HasFileno) -> None: ...

    def closing(self, sock: HasFileno) -> None:
        """It is about to be closed: whoever waits for it is told (the library's ``ClosedResourceError``)."""


class PlaneStream(trio.abc.HalfCloseableStream):
    """One stream whose end is in this process.

    ``receive_some`` returns ``b""`` only after the peer's FIN; otherwise it raises ``trio.BrokenResourceError`` whose ``__cause__`` is a
    ``StreamReset`` with the class. ``aclose`` without ``send_eof`` before it, or by an exception or cancellation, resets.
    """

    routing_key: str
    source: str  # RouterId as text of where it was opened; "" for one we opened

    @abc.abstractmethod
    async def receive_some(self, max_bytes: int | None = None) -> bytes: ...

    def reset(self, reason: str = "") -> None:
        """End both directions at once, class client (we opened it) or target."""
        raise NotImplementedError

    @abc.abstractmethod
    def is_readable(self) -> bool:
        """Whether ``receive_some`` would not wait."""

    def wait_with(self, waits: Waits) -> bool:  # noqa: ARG002
        """From now on tasks of another loop than the plane's call this stream. False: it cannot be; it is of its plane's loop."""
        return False


class Visitor:
    """A connection to an access that is not a link: ``van-join/1`` or ``http/1.1``. At most 64 at once; more are closed.

    ``stream`` carries plaintext; ``certificates`` (DER, leaf first) is what the TLS handshake proved, or empty. The leaf may have expired
    up to 90 days ago. A plane closes a visitor after 30 s.
    """

    def __init__(self, *, access: str, alpn: str, stream: trio.abc.Stream, certificates: list[bytes], address: str) -> None:
        self.access = access
        self.alpn = alpn
        self.stream = stream
        self.certificates = certificates
        self.address = address


class Incoming:
    """A stream for an embedded connector. It is already answered with OPEN_OK. At most 128 wait per connector; more are refused."""

    def __init__(self, *, connector: str, stream: PlaneStream) -> None:
        self.connector = connector
        self.stream = stream


AnyEvent = (
    InForce
    | ListenerState
    | AccessState
    | ConnectorState
    | LinkState
    | DialResult
    | Message
    | MessagesReset
    | StreamEnd
    | Visitor
    | Incoming
)


class Counters(msgspec.Struct, kw_only=True):
    """Totals since start. ``by_*``: entry name (or RouterId as text) to numbers."""

    streams_open: int = 0
    streams_total: int = 0
    streams_refused: int = 0
    streams_reset: int = 0
    handshakes_failed: int = 0
    probes: int = 0  # connections to an access that closed before they said anything
    bytes_granted: int = 0  # of the memory budget, now
    events_dropped: int = 0
    by_listener: dict[str, list[int]] = {}  # open, total, bytes in, bytes out
    by_connector: dict[str, list[int]] = {}
    by_link: dict[str, list[int]] = {}  # streams open, bytes sent, bytes received
    transit_open: int = 0  # streams that cross this router, from the moment in which it takes them on; not in streams_*
    transit_total: int = 0  # whose OPEN was sent on to a next hop
    streams_moved: int = 0  # that went from one lane to another because this router asked


class DataPlane(Protocol):
    """Moves bytes. All methods are called from one trio task tree; none blocks."""

    name: str  # "core" or "baseline"

    def adopt(self, host: str, port: int, fd: int) -> None:
        """Before ``run``: take over a bound (perhaps listening) TCP socket from a predecessor. Owns ``fd`` from now on."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled. On the way out every connection is closed, every lane with GOAWAY ``shutdown``, every stream reset."""

    def apply(self, changes: Changes | Snapshot) -> None:
        """Raises StaleGeneration (state unchanged). Bind results and ``InForce`` come as events."""

    def dial(self, dial: Dial) -> None: ...

    def cancel_dial(self, id: int) -> None: ...

    def send_message(self, router: str, data: bytes) -> bool:
        """Queue a control message (at most 65,536 bytes; at most 64 wait).

        False: there is no such link, or its queue is full; try again after an event.
        """

    def cut(self, router: str, reason: str) -> None:
        """Close every lane to this router now (code policy), and reset their streams."""

    def retire(self, link: str, host: str, port: int) -> None:
        """Lanes that were dialled for this link to this address take no new streams (GOAWAY ``replaced``) and close with their last one.

        The core moves their streams to other lanes of the trunk while there are some.

        ``lanes_wanted`` of the link's state has one more for each: others are to take their place.
        """

    def set_ready(self, ready: bool) -> None:
        """Kept for `http/1.1` visitors; a plane itself does not look at it."""

    def set_siblings(self, boots: list[int]) -> None:
        """The site's live routers, for the HELLO of new lanes."""

    def set_refused(self, sites: list[str]) -> None:
        """Site ids that there are no new lanes with, whoever dials: GOAWAY policy answers their HELLO. Lanes that are up stay."""

    def set_hop_limit(self, limit: int) -> None:
        """Of OPENs that start here from now on: 1 to 255, 32 at first.

        A router that forwards takes one off and refuses at none (class link).
        """

    def leave(self) -> None:
        """Start of the grace: GOAWAY ``drain`` on every lane; everything is served as before."""

    def refuse(self) -> None:
        """End of the grace: GOAWAY ``closed``; new connections and OPENs are refused (class drain), live streams go on."""

    def listening_sockets(self) -> list[tuple[str, int, int]]:
        """(host, port, fd) of every bound socket, for a successor. The fds stay ours: duplicate them."""

    async def connect(self, routing_key: str) -> PlaneStream:
        """Open a stream. Raises NoSuchKey, StreamRefused."""

    async def next_events(self) -> list[AnyEvent]:
        """Wait until there is something new and take it all. One reader at a time."""

    def counters(self) -> Counters: ...
