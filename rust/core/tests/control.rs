//! The control thread on real loopback sockets: lanes, visitors, failures in words, floods, and ports.
#![allow(clippy::indexing_slicing, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Ca, Leaf, LeafSpec, Site};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use van_core::control::{
    BindStatus, Control, ControlConfig, DialFailure, EstablishedLane, Outcome, VisitorHandoff,
};
use van_core::greeting::{Reason, Refusal};
use van_core::record::{Records, Tls};
use van_core::tls::{CredentialSpec, provider};

#[derive(Debug)]
enum Event {
    Lane(Box<EstablishedLane>),
    DialFailed(u64, DialFailure),
    Visitor(VisitorHandoff),
    Access(String, BindStatus, u16, String, bool),
    HandshakeFailed(String, Refusal),
    Probe,
}

struct Recorder(Mutex<Sender<Event>>);

impl Recorder {
    fn put(&self, event: Event) {
        let _ = self.0.lock().expect("no panic").send(event);
    }
}

impl Outcome for Recorder {
    fn lane(&self, lane: EstablishedLane) {
        self.put(Event::Lane(Box::new(lane)));
    }
    fn dial_failed(&self, id: u64, failure: DialFailure) {
        self.put(Event::DialFailed(id, failure));
    }
    fn visitor(&self, visitor: VisitorHandoff) {
        self.put(Event::Visitor(visitor));
    }
    fn access_state(&self, name: &str, status: BindStatus, port: u16, error: &str, gone: bool) {
        self.put(Event::Access(
            name.to_owned(),
            status,
            port,
            error.to_owned(),
            gone,
        ));
    }
    fn handshake_failed(&self, access: &str, refusal: &Refusal) {
        self.put(Event::HandshakeFailed(access.to_owned(), refusal.clone()));
    }
    fn probe(&self) {
        self.put(Event::Probe);
    }
}

struct Router {
    control: Control,
    events: Receiver<Event>,
    site: Site,
}

impl Router {
    fn start(name: &str, change: impl FnOnce(&mut ControlConfig)) -> Self {
        let site = Site::new(name);
        let mut config = ControlConfig {
            identity_key: site.identity_key(),
            boot: site.boot,
            site_name: name.to_owned(),
            workers: 2,
            software: "test".to_owned(),
            per_source_limit: 16,
            handshakes_per_second: 50,
            edge: false,
        };
        change(&mut config);
        let (sender, events) = channel();
        let control =
            Control::spawn(config, Box::new(Recorder(Mutex::new(sender)))).expect("a thread");
        Self {
            control,
            events,
            site,
        }
    }

    fn listening(
        name: &str,
        ca: &Ca,
        change: impl FnOnce(&mut ControlConfig),
    ) -> (Self, SocketAddr) {
        let router = Self::start(name, change);
        let mut leaf = LeafSpec::named(name);
        leaf.dns = vec!["north.test".to_owned()];
        let spec = router.site.credential_for(&Leaf::new(ca, &leaf), &[], ca);
        router
            .control
            .put_credential("own", &spec)
            .expect("a credential");
        router.control.put_access("main", loopback(0), "own", None);
        let address = loopback(router.bound_port());
        (router, address)
    }

    fn dialling(name: &str, ca: &Ca, expected: Option<[u8; 32]>) -> Self {
        let router = Self::start(name, |_| {});
        router
            .control
            .put_credential("own", &router.site.credential(ca))
            .expect("a credential");
        router.control.put_link("west", "own", expected, 3);
        router
    }

    fn next(&self) -> Event {
        self.events
            .recv_timeout(Duration::from_secs(8))
            .expect("an event")
    }

    fn bound_port(&self) -> u16 {
        match self.next() {
            Event::Access(_, BindStatus::Listening, port, error, false) if error.is_empty() => port,
            other => panic!("expected a port: {other:?}"),
        }
    }

    fn lane(&self) -> EstablishedLane {
        loop {
            match self.next() {
                Event::Lane(lane) => return *lane,
                Event::DialFailed(_, failure) => panic!("{failure:?}"),
                _ => {}
            }
        }
    }

    fn failure(&self) -> DialFailure {
        self.failed_dial().1
    }

    fn failed_dial(&self) -> (u64, DialFailure) {
        match self.next() {
            Event::DialFailed(id, failure) => (id, failure),
            other => panic!("expected a failure: {other:?}"),
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.control.stop();
        self.control.join();
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)
}

#[test]
fn a_dial_gives_a_lane_at_both_ends_and_it_carries_bytes() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let south = Router::dialling("south", &ca, Some(north.site.id()));
    south.control.set_siblings(vec![7, 8]);
    south.control.dial(42, "west", address, "");
    let (mut there, mut here) = (north.lane(), south.lane());
    assert_eq!((here.dial_id, there.dial_id), (Some(42), None));
    assert_eq!(
        (here.link.as_deref(), there.access.as_deref()),
        (Some("west"), Some("main"))
    );
    assert_eq!((here.dialler, there.dialler), (true, false));
    assert_eq!((here.cost, there.cost), (3, 3));
    assert_eq!(there.peer_router, south.site.router());
    assert_eq!(there.peer.siblings, vec![7, 8]);
    assert_eq!(there.peer.link_name, "west");
    assert_eq!(here.address, address);

    let sent: Vec<u8> = (0..300_000u32).map(|n| (n / 7) as u8).collect();
    let mut wire = std::mem::take(&mut here.outgoing);
    here.records.seal(&sent, &mut wire).expect("sealed");
    let socket = std::net::TcpStream::from(here.socket);
    socket.set_nonblocking(false).expect("blocking");
    let writer = std::thread::spawn(move || (&socket).write_all(&wire).map(|()| socket));
    let socket = std::net::TcpStream::from(there.socket);
    socket.set_nonblocking(false).expect("blocking");
    let (mut incoming, mut plain) = (
        std::mem::take(&mut there.incoming),
        std::mem::take(&mut there.plain),
    );
    while plain.len() < sent.len() {
        let opened = there
            .records
            .open(&mut incoming, &mut plain, 1 << 20, &mut Vec::new())
            .expect("opened");
        incoming.drain(..opened.consumed);
        if plain.len() < sent.len() {
            let mut buffer = [0; 5_000];
            let count = (&socket).read(&mut buffer).expect("bytes");
            assert!(count > 0);
            incoming.extend_from_slice(&buffer[..count]);
        }
    }
    assert_eq!(plain, sent);
    writer.join().expect("no panic").expect("written");
}

#[test]
fn failures_say_what_happened_where_and_whose_fault_it_may_be() {
    let ca = Ca::new("CA");
    let south = Router::dialling("south", &ca, None);
    // Nobody listens.
    let gone = TcpListener::bind(loopback(0))
        .and_then(|l| l.local_addr())
        .expect("a port");
    south.control.dial(1, "west", gone, "");
    let failure = south.failure();
    assert_eq!((failure.reason, failure.retryable), (Reason::Refused, true));
    assert!(
        failure
            .sentence
            .starts_with(&format!("link west: {gone} refused")),
        "{failure:?}"
    );

    // Something that is no link access.
    let web = TcpListener::bind(loopback(0)).expect("a port");
    let address = web.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut socket, _) = web.accept().expect("a caller");
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    south.control.dial(2, "west", address, "");
    let failure = south.failure();
    assert_eq!(failure.reason, Reason::Tls);
    assert!(
        failure.sentence.contains("is it a vanrouter link access?"),
        "{failure:?}"
    );

    // A site with another CA.
    let (_north, address) = Router::listening("north", &Ca::new("CA"), |_| {});
    south.control.dial(3, "west", address, "");
    let failure = south.failure();
    assert_eq!((failure.reason, failure.retryable), (Reason::Tls, false));
    assert!(
        failure.sentence.contains("not acceptable here"),
        "{failure:?}"
    );

    // A link that does not exist (any more), a name that is none, and a dial that is given up.
    south.control.dial(4, "east", address, "");
    assert_eq!(south.failure().reason, Reason::Cancelled);
    south.control.dial(5, "west", address, "no name");
    assert_eq!(south.failure().reason, Reason::Tls);
    let silent = TcpListener::bind(loopback(0)).expect("a port");
    south
        .control
        .dial(6, "west", silent.local_addr().expect("an address"), "");
    south.control.cancel_dial(6);
    assert_eq!(south.failure().reason, Reason::Cancelled);
}

#[test]
fn a_port_that_takes_connections_and_never_answers_times_out_after_5_s() {
    let south = Router::dialling("south", &Ca::new("CA"), None);
    let silent = TcpListener::bind(loopback(0)).expect("a port");
    let started = Instant::now();
    south
        .control
        .dial(1, "west", silent.local_addr().expect("an address"), "");
    let failure = south.failure();
    assert_eq!((failure.reason, failure.retryable), (Reason::Timeout, true));
    assert!(
        failure.sentence.contains("after 5 s in the TLS handshake"),
        "{failure:?}"
    );
    let took = started.elapsed();
    assert!(
        took > Duration::from_millis(4_900) && took < Duration::from_secs(6),
        "{took:?}"
    );
}

#[test]
fn refused_by_the_far_end_the_dialler_learns_why() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let mut spec = north.site.credential(&ca);
    spec.admit = Some(vec!["nobody".to_owned()]);
    north
        .control
        .put_credential("own", &spec)
        .expect("a credential");
    let south = Router::dialling("south", &ca, None);
    south.control.dial(1, "west", address, "");
    let failure = south.failure();
    assert_eq!((failure.reason, failure.retryable), (Reason::Policy, false));
    assert!(failure.sentence.contains("not on the list"), "{failure:?}");
    assert!(
        south
            .control
            .put_credential("own", &common_broken(&south.site, &ca))
            .is_err()
    );

    north
        .control
        .put_credential("own", &north.site.credential(&ca))
        .expect("a credential");
    north.control.refuse_lanes(true);
    std::thread::sleep(Duration::from_millis(50));
    south.control.dial(2, "west", address, "");
    assert_eq!(south.failure().reason, Reason::Refused);
    north.control.refuse_lanes(false);
    std::thread::sleep(Duration::from_millis(50));
    south.control.dial(3, "west", address, "");
    south.lane();

    // Ourselves.
    north.control.put_link("loop", "own", None, 1);
    north.control.dial(4, "loop", address, "");
    let failure = loop {
        if let Event::DialFailed(_, failure) = north.next() {
            break failure;
        }
    };
    assert_eq!(failure.reason, Reason::Myself);
}

fn common_broken(site: &Site, ca: &Ca) -> CredentialSpec {
    let mut spec = site.credential(ca);
    spec.private_key[10] ^= 1;
    spec
}

// ---- Visitors -----------------------------------------------------------------------------------------------------------

struct TlsClient {
    socket: TcpStream,
    records: Records,
    incoming: Vec<u8>,
}

fn visit(address: SocketAddr, alpn: &[u8], ca: &Ca) -> std::io::Result<TlsClient> {
    visit_as(address, alpn, ca, None)
}

fn visit_as(
    address: SocketAddr,
    alpn: &[u8],
    ca: &Ca,
    spec: Option<&CredentialSpec>,
) -> std::io::Result<TlsClient> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.der())).expect("a root");
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match spec {
        None => builder.with_no_client_auth(),
        Some(spec) => builder
            .with_client_auth_cert(
                spec.certificates
                    .iter()
                    .cloned()
                    .map(CertificateDer::from)
                    .collect(),
                PrivateKeyDer::try_from(spec.private_key.clone()).expect("a key"),
            )
            .expect("a certificate"),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_secret_extraction = true;
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(8)))?;
    let mut wire = Vec::new();
    let name = ServerName::try_from("north.test").expect("a name");
    let mut tls = Tls::client(Arc::new(config), name, &mut wire).map_err(std::io::Error::other)?;
    let mut incoming = Vec::new();
    loop {
        socket.write_all(&wire)?;
        wire.clear();
        if !tls.is_handshaking() {
            let records = tls.into_records().expect("secrets");
            return Ok(TlsClient {
                socket,
                records,
                incoming,
            });
        }
        let mut buffer = [0; 4_096];
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        incoming.extend_from_slice(&buffer[..count]);
        let done = tls
            .handshake(&mut incoming, &mut wire)
            .map_err(std::io::Error::other)?;
        incoming.drain(..done.consumed);
    }
}

impl TlsClient {
    fn say(&mut self, bytes: &[u8]) {
        let mut wire = Vec::new();
        self.records.seal(bytes, &mut wire).expect("sealed");
        self.socket.write_all(&wire).expect("written");
    }

    fn hear_all(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        loop {
            let opened = self
                .records
                .open(&mut self.incoming, &mut plain, 1 << 26, &mut Vec::new())
                .expect("opened");
            self.incoming.drain(..opened.consumed);
            if opened.closed {
                return plain;
            }
            let mut buffer = [0; 65_536];
            let count = self.socket.read(&mut buffer).expect("bytes");
            assert!(count > 0, "no close_notify");
            self.incoming.extend_from_slice(&buffer[..count]);
        }
    }
}

#[test]
fn a_visitor_is_carried_to_the_control_plane_and_back_whole() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let mut client = visit(address, b"http/1.1", &ca).expect("a visit");
    client.say(b"GET /healthz HTTP/1.1\r\n\r\n");
    let Event::Visitor(visitor) = north.next() else {
        panic!("no visitor")
    };
    assert_eq!(
        (visitor.access.as_str(), visitor.alpn.as_str()),
        ("main", "http/1.1")
    );
    assert!(visitor.certificates.is_empty());
    let app = visitor.socket;
    app.set_nonblocking(false).expect("blocking");
    let mut request = [0; 100];
    let count = (&app).read(&mut request).expect("a request");
    assert_eq!(&request[..count], b"GET /healthz HTTP/1.1\r\n\r\n");
    let answer: Vec<u8> = (0..3_000_000u32).map(|n| (n / 3) as u8).collect();
    let copy = answer.clone();
    let writer = std::thread::spawn(move || {
        (&app).write_all(&copy).expect("written");
        app.shutdown(Shutdown::Write).expect("shut");
        app
    });
    assert!(client.hear_all() == answer);
    drop(writer.join());

    // The visitor ends first: the control plane sees the end, and can still answer.
    let mut client = visit(address, b"van-join/1", &ca).expect("a visit");
    client.say(b"POST");
    let mut wire = Vec::new();
    client.records.close(&mut wire);
    client.socket.write_all(&wire).expect("written");
    let Event::Visitor(visitor) = north.next() else {
        panic!("no visitor")
    };
    let app = visitor.socket;
    app.set_nonblocking(false).expect("blocking");
    let mut request = Vec::new();
    (&app).read_to_end(&mut request).expect("a request");
    assert_eq!(request, b"POST");
    (&app).write_all(b"201").expect("written");
    drop(app);
    assert_eq!(client.hear_all(), b"201");
}

#[test]
fn the_65th_visitor_is_sent_away() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |config| {
        config.per_source_limit = 0;
        config.handshakes_per_second = 0;
    });
    let mut kept = Vec::new();
    let mut apps = Vec::new();
    for _ in 0..64 {
        kept.push(visit(address, b"http/1.1", &ca).expect("a visit"));
        match north.next() {
            Event::Visitor(visitor) => apps.push(visitor),
            other => panic!("{other:?}"),
        }
    }
    let mut late = visit(address, b"http/1.1", &ca).expect("TLS");
    assert!(late.hear_all().is_empty());
    assert!(matches!(north.next(), Event::HandshakeFailed(..)));
    apps.clear();
    for client in &mut kept {
        assert!(client.hear_all().is_empty());
    }
    drop(kept);
    std::thread::sleep(Duration::from_millis(100));
    visit(address, b"http/1.1", &ca).expect("a visit");
    assert!(matches!(north.next(), Event::Visitor(_)));
}

// ---- Strangers ----------------------------------------------------------------------------------------------------------

#[test]
fn a_plain_probe_is_counted_and_garbage_is_closed_at_once() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    drop(TcpStream::connect(address).expect("connected"));
    assert!(matches!(north.next(), Event::Probe));

    for garbage in [
        b"GET / HTTP/1.0\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x00\x05\x02ServerHello?",
        b"\x16\x02",
        b"\0",
    ] {
        let mut socket = TcpStream::connect(address).expect("connected");
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("a timeout");
        socket.write_all(garbage).expect("written");
        let mut rest = Vec::new();
        // Closed, perhaps with a reset; not left to time out.
        if let Err(error) = socket.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert!(rest.is_empty());
        assert!(matches!(north.next(), Event::HandshakeFailed(access, _) if access == "main"));
    }
}

#[test]
fn a_broken_client_hello_gets_an_alert() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let mut socket = TcpStream::connect(address).expect("connected");
    socket
        .write_all(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x00\x00\x00\x00")
        .expect("written");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an alert");
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    assert!(matches!(north.next(), Event::HandshakeFailed(..)));
}

#[test]
fn a_client_hello_byte_by_byte_is_served() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let relay = TcpListener::bind(loopback(0)).expect("a port");
    let through = relay.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (client, _) = relay.accept().expect("a caller");
        let server = TcpStream::connect(address).expect("connected");
        server.set_nodelay(true).expect("nodelay");
        let (mut from, mut to) = (
            server.try_clone().expect("a clone"),
            client.try_clone().expect("a clone"),
        );
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let mut byte = [0];
        while let Ok(1) = (&client).read(&mut byte) {
            if (&server).write_all(&byte).is_err() {
                break;
            }
        }
    });
    let south = Router::dialling("south", &ca, None);
    south.control.dial(1, "west", through, "");
    south.lane();
    north.lane();
}

#[test]
fn silence_and_garbage_from_one_address_do_not_keep_a_link_out() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let mut flood = Vec::new();
    for n in 0..500 {
        let socket = TcpStream::connect(address).expect("connected");
        flood.push(socket);
        let mut socket = TcpStream::connect(address).expect("connected");
        let _ = socket.write_all(&[n as u8; 64]);
        flood.push(socket);
    }
    let started = Instant::now();
    let south = Router::dialling("south", &ca, None);
    south.control.dial(1, "west", address, "");
    south.lane();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    north.lane();
    let started = Instant::now();
    visit(address, b"van-join/1", &ca).expect("a visit");
    assert!(started.elapsed() < Duration::from_secs(1));
    drop(flood);
}

#[test]
fn silent_connections_are_closed_after_5_s() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let mut silent = TcpStream::connect(address).expect("connected");
    let mut started = TcpStream::connect(address).expect("connected");
    started.write_all(b"\x16\x03\x01").expect("written");
    let begin = Instant::now();
    for socket in [&mut silent, &mut started] {
        socket
            .set_read_timeout(Some(Duration::from_secs(7)))
            .expect("a timeout");
        let _ = socket.read(&mut [0; 8]);
    }
    let took = begin.elapsed();
    assert!(
        took > Duration::from_millis(4_900) && took < Duration::from_secs(6),
        "{took:?}"
    );
    assert!(
        matches!(north.next(), Event::HandshakeFailed(_, refusal) if refusal.reason == Reason::Timeout)
    );
}

#[test]
fn whoever_says_nothing_after_tls_is_closed_after_5_s() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let site = Site::new("silent");
    let mut client = visit_as(address, b"van/1", &ca, Some(&site.credential(&ca))).expect("TLS");
    let begin = Instant::now();
    // The acceptor's HELLO comes, and then the end.
    let mut rest = Vec::new();
    client.socket.read_to_end(&mut rest).expect("closed");
    let took = begin.elapsed();
    assert!(
        took > Duration::from_millis(4_900) && took < Duration::from_secs(6),
        "{took:?}"
    );
    assert!(
        matches!(north.next(), Event::HandshakeFailed(_, refusal) if refusal.sentence.contains("HELLO"))
    );
}

#[test]
fn a_source_that_asks_for_too_many_handshakes_is_turned_away_and_others_are_not() {
    let ca = Ca::new("CA");
    let (north, address) =
        Router::listening("north", &ca, |config| config.handshakes_per_second = 2);
    let mut served = 0;
    for _ in 0..20 {
        served += usize::from(visit(address, b"http/1.1", &ca).is_ok());
    }
    assert!((4..=6).contains(&served), "{served}");
    // From another address.
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket
        .bind(&SocketAddr::new(IpAddr::from([127, 0, 0, 9]), 0).into())
        .expect("bound");
    socket.connect(&address.into()).expect("connected");
    let mut socket = TcpStream::from(socket);
    socket
        .write_all(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x00\x00\x00\x00")
        .expect("written");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an alert");
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
    drop(north);
}

// ---- Ports --------------------------------------------------------------------------------------------------------------

#[test]
fn a_port_in_use_is_reported_at_once_and_taken_when_it_is_free() {
    let ca = Ca::new("CA");
    let taken = TcpListener::bind(loopback(0)).expect("a port");
    let address = taken.local_addr().expect("an address");
    let north = Router::start("north", |_| {});
    north
        .control
        .put_credential("own", &north.site.credential(&ca))
        .expect("a credential");
    north.control.put_access("main", address, "own", None);
    match north.next() {
        Event::Access(name, BindStatus::InUse, 0, error, false) => {
            assert_eq!(name, "main");
            assert!(error.contains(&format!("{address} is in use")), "{error}");
        }
        other => panic!("{other:?}"),
    }
    drop(taken);
    assert_eq!(north.bound_port(), address.port());
    // While it is ours, nobody else gets it, and dropping it gives it back.
    assert!(TcpListener::bind(address).is_err());
    north.control.drop_access("main");
    assert!(matches!(north.next(), Event::Access(_, _, port, _, true) if port == address.port()));
    TcpListener::bind(address).expect("free again");
}

#[test]
fn addresses_that_are_not_ours_and_missing_credentials_are_reported() {
    let ca = Ca::new("CA");
    let north = Router::start("north", |_| {});
    north.control.put_access(
        "far",
        "192.0.2.1:0".parse().expect("an address"),
        "own",
        None,
    );
    assert!(
        matches!(north.next(), Event::Access(_, BindStatus::Failed, 0, error, false) if error.contains("192.0.2.1"))
    );
    north.control.drop_access("far");
    assert!(matches!(north.next(), Event::Access(_, _, _, _, true)));
    north.control.put_access("main", loopback(0), "own", None);
    assert!(
        matches!(north.next(), Event::Access(_, BindStatus::Bound, _, error, false) if error.contains("own"))
    );
    north
        .control
        .put_credential("own", &north.site.credential(&ca))
        .expect("a credential");
    north.bound_port();
}

#[test]
fn a_listening_socket_goes_to_a_successor_without_losing_a_caller() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let mut sockets = north.control.listening_sockets();
    assert_eq!(sockets.len(), 1);
    let socket = sockets.remove(0);
    assert_eq!((socket.access.as_str(), socket.address), ("main", address));
    drop(north);
    // Nobody accepts now, yet the port is open.
    let waiting = std::thread::spawn({
        let der = ca.der();
        move || {
            let _ = der;
            TcpStream::connect(address).expect("connected")
        }
    });
    let successor = Router::start("north", |_| {});
    successor
        .control
        .put_credential("own", &successor.site.credential(&ca))
        .expect("a credential");
    successor
        .control
        .put_access("main", address, "own", Some(socket.fd));
    assert_eq!(successor.bound_port(), address.port());
    drop(waiting.join().expect("no panic"));
    assert!(matches!(successor.next(), Event::Probe));
}

#[test]
fn stopping_answers_every_dial_and_frees_the_port() {
    let ca = Ca::new("CA");
    let (north, address) = Router::listening("north", &ca, |_| {});
    let silent = TcpListener::bind(loopback(0)).expect("a port");
    north.control.put_link("west", "own", None, 1);
    for id in 0..3 {
        north
            .control
            .dial(id, "west", silent.local_addr().expect("an address"), "");
    }
    std::thread::sleep(Duration::from_millis(100));
    north.control.stop();
    north.control.join();
    let mut answered: Vec<u64> = (0..3)
        .map(|_| {
            let (id, failure) = north.failed_dial();
            assert_eq!(failure.reason, Reason::Cancelled);
            id
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, vec![0, 1, 2]);
    TcpListener::bind(address).expect("free");
}
