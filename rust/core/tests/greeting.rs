//! Two greetings back to back without a socket: who gets in, who does not, and what people are told about it.
#![allow(clippy::indexing_slicing, reason = "tests")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use common::{Ca, DAY, Leaf, LeafSpec, Site, now};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use van_core::greeting::{EndpointName, Greeted, Greeting, Guest, Reason, Refusal, Role, Step};
use van_core::handshake::{Hello, HelloCredit};
use van_core::record::{Records, Tls};
use van_core::tls::{Credential, CredentialSpec, provider};

fn address() -> SocketAddr {
    "10.0.0.7:55671".parse().expect("an address")
}

fn ready(spec: &CredentialSpec) -> Arc<Credential> {
    Arc::new(Credential::new(spec).expect("a usable credential"))
}

#[derive(Debug)]
enum End {
    Lane(Box<Greeted>),
    Guest(Box<Guest>),
    Refused(Refusal),
    Waiting,
}

impl End {
    fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            other => panic!("expected a refusal: {other:?}"),
        }
    }

    fn lane(self) -> Greeted {
        match self {
            Self::Lane(lane) => *lane,
            other => panic!("expected a lane: {other:?}"),
        }
    }
}

/// Everything about one meeting of two sites.
struct Meeting {
    north: Site,
    south: Site,
    ca: Ca,
    accept: CredentialSpec,
    dial: CredentialSpec,
    expected_site: Option<[u8; 32]>,
    server_name: String,
    refuse: bool,
}

impl Meeting {
    /// North accepts, south dials, everything is in order.
    fn new() -> Self {
        let (north, south, ca) = (Site::new("north"), Site::new("south"), Ca::new("north CA"));
        Self {
            accept: north.credential(&ca),
            dial: south.credential(&ca),
            expected_site: Some(north.id()),
            north,
            south,
            ca,
            server_name: String::new(),
            refuse: false,
        }
    }

    fn with_dialler_leaf(mut self, change: impl FnOnce(&mut LeafSpec)) -> Self {
        let mut spec = LeafSpec::named("south");
        change(&mut spec);
        self.dial = self
            .south
            .credential_for(&Leaf::new(&self.ca, &spec), &[], &self.ca);
        self
    }

    fn with_acceptor_leaf(mut self, change: impl FnOnce(&mut LeafSpec)) -> Self {
        let mut spec = LeafSpec::named("north");
        change(&mut spec);
        self.accept = self
            .north
            .credential_for(&Leaf::new(&self.ca, &spec), &[], &self.ca);
        self
    }

    fn acceptor(&self) -> Greeting {
        Greeting::acceptor(ready(&self.accept), address(), self.refuse).expect("a greeting")
    }

    fn dialler(&self) -> Greeting {
        let role = Role::Dialler {
            link: "north-link".to_owned(),
            expected_site: self.expected_site,
            cost: 5,
        };
        let name = EndpointName::new(&self.server_name, address(), self.expected_site.as_ref())
            .expect("a name");
        Greeting::dialler(role, ready(&self.dial), address(), &name).expect("a greeting")
    }

    /// (what the dialler got, what the acceptor got), with so many bytes a time on the wire.
    fn hold(&self, chunk: usize) -> (End, End) {
        let mut dialler = Party::new(self.dialler());
        let mut acceptor = Party::new(self.acceptor());
        loop {
            let there = dialler.speak(&mut acceptor, chunk, &self.north);
            let back = acceptor.speak(&mut dialler, chunk, &self.south);
            if !there && !back {
                return (dialler.finish(&acceptor), acceptor.finish(&dialler));
            }
        }
    }
}

struct Party {
    greeting: Greeting,
    end: Option<End>,
    closed: bool,
}

impl Party {
    fn new(greeting: Greeting) -> Self {
        Self {
            greeting,
            end: None,
            closed: false,
        }
    }

    /// Send what there is. False: nothing to send.
    fn speak(&mut self, other: &mut Self, chunk: usize, listener: &Site) -> bool {
        let bytes = match &mut self.end {
            Some(End::Lane(lane)) => std::mem::take(&mut lane.outgoing),
            Some(End::Guest(guest)) => std::mem::take(&mut guest.outgoing),
            _ => std::mem::take(self.greeting.outgoing()),
        };
        for piece in bytes.chunks(chunk) {
            if other.end.is_none() {
                assert!(other.greeting.appetite() >= piece.len());
                other.greeting.feed(piece);
                let step = other.greeting.advance(&listener.myself(), now());
                other.take(step);
            }
        }
        if matches!(self.end, Some(End::Refused(_))) && !self.closed {
            self.closed = true;
            if other.end.is_none() {
                let step = other.greeting.ended();
                other.take(step);
            }
            return true;
        }
        !bytes.is_empty()
    }

    fn take(&mut self, step: Step) {
        self.end = match step {
            Step::Wait => None,
            Step::Lane(lane) => Some(End::Lane(lane)),
            Step::Guest(guest) => Some(End::Guest(guest)),
            Step::Refused(refusal) => Some(End::Refused(refusal)),
        };
    }

    fn finish(&mut self, _other: &Self) -> End {
        self.end.take().unwrap_or(End::Waiting)
    }
}

#[test]
fn two_sites_in_good_order_get_a_lane_however_the_bytes_are_cut() {
    for chunk in [1, 2, 3, 7, 100, 16_384] {
        let meeting = Meeting::new();
        let (dialler, acceptor) = meeting.hold(chunk);
        let (mut dialler, mut acceptor) = (dialler.lane(), acceptor.lane());
        assert_eq!(dialler.peer.router, meeting.north.router());
        assert_eq!(acceptor.peer.router, meeting.south.router());
        assert_eq!(acceptor.peer.site_name, "south");
        assert_eq!(acceptor.peer.link_name, "north-link");
        assert_eq!(acceptor.peer.siblings, vec![7]);
        assert_eq!((dialler.cost, acceptor.cost), (5, 5));
        assert_eq!(acceptor.peer.credit, HelloCredit::OURS);
        assert!(acceptor.plain.is_empty() && acceptor.incoming.is_empty());
        carries(&mut dialler.records, &mut acceptor.records);
        carries(&mut acceptor.records, &mut dialler.records);
    }
}

fn carries(from: &mut Records, to: &mut Records) {
    let sent: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let mut wire = Vec::new();
    from.seal(&sent, &mut wire).expect("sealed");
    let (mut plain, mut replies) = (Vec::new(), Vec::new());
    let opened = to
        .open(&mut wire, &mut plain, 200_000, &mut replies)
        .expect("opened");
    assert_eq!(opened.consumed, wire.len());
    assert_eq!(plain, sent);
}

#[test]
fn a_connection_that_is_cut_before_hello_is_tried_again_soon() {
    let meeting = Meeting::new();
    let mut dialler = Party::new(meeting.dialler());
    let mut acceptor = Party::new(meeting.acceptor());
    dialler.speak(&mut acceptor, 16_384, &meeting.north);
    acceptor.speak(&mut dialler, 16_384, &meeting.south);
    let Step::Refused(refusal) = dialler.greeting.ended() else {
        panic!("it is over");
    };
    assert!(
        refusal.sentence.contains("before its HELLO"),
        "{}",
        refusal.sentence
    );
    assert!(refusal.reason.is_retryable(), "{:?}", refusal.reason);
}

#[test]
fn what_comes_right_behind_hello_is_handed_over() {
    let meeting = Meeting::new();
    let mut dialler = Party::new(meeting.dialler());
    let mut acceptor = Party::new(meeting.acceptor());
    for _ in 0..2 {
        dialler.speak(&mut acceptor, 1 << 20, &meeting.north);
        acceptor.speak(&mut dialler, 1 << 20, &meeting.south);
    }
    let mut lane = acceptor.end.take().expect("an end").lane();
    // The acceptor has sent its HELLO with the end of TLS: what it sends from here on the dialler gets with it.
    let mut wire = std::mem::take(&mut lane.outgoing);
    lane.records.seal(b"frames", &mut wire).expect("sealed");
    let mut end = dialler.end.take().map(End::lane);
    if end.is_none() {
        dialler.greeting.feed(&wire);
        let step = dialler.greeting.advance(&meeting.south.myself(), now());
        dialler.take(step);
        end = dialler.end.take().map(End::lane);
        wire.clear();
    }
    let mut end = end.expect("a lane");
    let mut incoming = std::mem::take(&mut end.incoming);
    incoming.extend_from_slice(&wire);
    let mut plain = std::mem::take(&mut end.plain);
    end.records
        .open(&mut incoming, &mut plain, 1_000, &mut Vec::new())
        .expect("opened");
    assert_eq!(plain, b"frames");
}

/// Leaf dates relative to now, and what an acceptor makes of a dialler that shows them.
#[test]
fn a_client_leaf_is_taken_within_its_dates_and_for_renewal_only_up_to_90_days_later() {
    let day = i64::try_from(DAY).expect("small");
    let cases: [(i64, i64, Option<Reason>, &str); 8] = [
        (-day, day, None, ""),
        (240, day, None, ""),
        (360, day, Some(Reason::Tls), "not valid yet"),
        (
            -2 * day,
            -60,
            Some(Reason::Policy),
            "certificate expired 60 s ago",
        ),
        (
            -100 * day,
            -89 * day,
            Some(Reason::Policy),
            "expired 89 days ago",
        ),
        (-100 * day, -91 * day, Some(Reason::Tls), "expired"),
        (-400 * day, -300 * day, Some(Reason::Tls), "expired"),
        (2 * day, 3 * day, Some(Reason::Tls), "not valid yet"),
    ];
    for (from, to, expected, words) in cases {
        let meeting = Meeting::new().with_dialler_leaf(|leaf| {
            leaf.not_before = now().saturating_add_signed(from);
            leaf.not_after = now().saturating_add_signed(to);
        });
        let (dialler, acceptor) = meeting.hold(1_000);
        match expected {
            None => {
                dialler.lane();
                acceptor.lane();
            }
            Some(reason) => {
                let refusal = acceptor.refusal();
                assert_eq!(refusal.reason, reason, "{from}..{to}: {refusal:?}");
                assert!(
                    refusal.sentence.contains(words),
                    "{from}..{to}: {refusal:?}"
                );
                let told = dialler.refusal();
                assert_eq!(told.reason, reason, "{told:?}");
                assert!(
                    told.sentence.contains("expired") || told.sentence.contains("valid yet"),
                    "{told:?}"
                );
            }
        }
    }
}

#[test]
fn a_server_leaf_that_expired_is_never_taken() {
    let meeting = Meeting::new().with_acceptor_leaf(|leaf| leaf.not_after = now() - 60);
    let (dialler, acceptor) = meeting.hold(1_000);
    let refusal = dialler.refusal();
    assert_eq!(refusal.reason, Reason::Tls);
    assert!(refusal.sentence.contains("expired"), "{refusal:?}");
    assert!(!Reason::Tls.is_retryable());
    acceptor.refusal();
}

#[test]
fn an_intermediate_that_expired_is_not_saved_by_the_grace_of_leaves() {
    let mut meeting = Meeting::new();
    let middle = meeting.ca.below("middle", now() - 30 * DAY, now() - DAY);
    let leaf = Leaf::new(&middle, &LeafSpec::named("south"));
    meeting.dial = meeting.south.credential_for(&leaf, &[&middle], &meeting.ca);
    let refusal = meeting.hold(1_000).1.refusal();
    assert_eq!(refusal.reason, Reason::Tls, "{refusal:?}");

    let middle = meeting.ca.below("middle", now() - 30 * DAY, now() + DAY);
    let leaf = Leaf::new(&middle, &LeafSpec::named("south"));
    meeting.dial = meeting.south.credential_for(&leaf, &[&middle], &meeting.ca);
    meeting.hold(1_000).1.lane();
}

#[test]
fn certificates_that_prove_nothing_are_refused_in_both_directions() {
    let other = Ca::new("north CA");
    let wrong_ca = |site: &Site, ca: &Ca| {
        let mut spec = site.credential(&other);
        spec.trust = vec![ca.der()];
        spec
    };
    let mut cases: Vec<(&str, Meeting)> = Vec::new();
    let mut meeting = Meeting::new();
    meeting.dial = wrong_ca(&meeting.south, &meeting.ca);
    cases.push(("client of another CA of the same name", meeting));
    let mut meeting = Meeting::new();
    meeting.accept = wrong_ca(&meeting.north, &meeting.ca);
    cases.push(("server of another CA of the same name", meeting));
    cases.push((
        "server leaf for clients only",
        Meeting::new()
            .with_acceptor_leaf(|leaf| leaf.usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
    ));
    cases.push((
        "client leaf for servers only",
        Meeting::new()
            .with_dialler_leaf(|leaf| leaf.usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ));
    cases.push((
        "CA as a leaf",
        Meeting::new().with_dialler_leaf(|leaf| leaf.ca = true),
    ));
    // A leaf that signs a leaf.
    let mut meeting = Meeting::new();
    let victim = Leaf::new(&meeting.ca, &LeafSpec::named("victim"));
    let fake = Ca(rcgen::CertifiedIssuer::self_signed(
        rcgen::CertificateParams::default(),
        rcgen::KeyPair::generate().expect("a key"),
    )
    .expect("an issuer"));
    let leaf = Leaf::new(&fake, &LeafSpec::named("south"));
    meeting.dial = meeting.south.credential_for(&leaf, &[], &meeting.ca);
    meeting.dial.certificates.push(victim.der);
    cases.push(("a victim's certificate as filler", meeting));
    for (what, meeting) in cases {
        let (dialler, acceptor) = meeting.hold(1_000);
        assert_eq!(dialler.refusal().reason, Reason::Tls, "{what}");
        assert_eq!(acceptor.refusal().reason, Reason::Tls, "{what}");
    }
}

#[test]
fn forged_statements_are_refused_whatever_is_wrong_with_them() {
    let meeting = Meeting::new();
    let leaf = Leaf::new(&meeting.ca, &LeafSpec::named("south"));
    let other_leaf = Leaf::new(&meeting.ca, &LeafSpec::named("south"));
    let (hash, until) = (leaf.key_hash(), now() + DAY);
    let good = meeting.south.statement(hash, until);
    let mut longer = good.clone();
    longer.not_after += 1;
    let mut flipped = good.clone();
    flipped.signature[20] ^= 1;
    let mut short = good.clone();
    short.signature.truncate(8);
    let cases = [
        ("in order", good.clone(), None),
        (
            "signed by another key",
            meeting.north.statement(hash, until),
            Some("not signed"),
        ),
        ("with another end date", longer, Some("not signed")),
        ("flipped", flipped, Some("not signed")),
        ("cut", short, Some("not signed")),
        (
            "ended",
            meeting.south.statement(hash, now() - 5),
            Some("ended"),
        ),
        (
            "over another leaf",
            meeting.south.statement(other_leaf.key_hash(), until),
            Some("another certificate's key"),
        ),
    ];
    for (what, statement, words) in cases {
        // A credential with a false statement cannot even be loaded where that shows, so that the HELLO is made by hand.
        let spec = meeting.south.credential_for(&leaf, &[], &meeting.ca);
        let mut hello = hello_of(&meeting.south, &spec);
        hello.statement = statement;
        let (refusal, goaway) = greet_by_hand(&meeting, &spec, &hello.frame());
        match words {
            None => assert_eq!(refusal, None, "{what}"),
            Some(words) => {
                let refusal = refusal.expect(what);
                assert_eq!(refusal.reason, Reason::Policy, "{what}");
                assert!(refusal.sentence.contains(words), "{what}: {refusal:?}");
                assert_eq!(goaway, Some(4), "{what}");
            }
        }
    }
    // A good statement of another site, replayed with that site's key, but over a leaf that we do not hold.
    let spec = meeting.south.credential_for(&leaf, &[], &meeting.ca);
    let mut hello = hello_of(&meeting.north, &spec);
    hello.statement = meeting.north.statement(other_leaf.key_hash(), until);
    let refusal = greet_by_hand(&meeting, &spec, &hello.frame())
        .0
        .expect("refused");
    assert_eq!(refusal.reason, Reason::Policy);
    // The identity key swapped: the statement is not that site's.
    let mut hello = hello_of(&meeting.south, &spec);
    hello.identity_key = meeting.north.identity_key();
    let refusal = greet_by_hand(&meeting, &spec, &hello.frame())
        .0
        .expect("refused");
    assert_eq!(refusal.reason, Reason::Policy);
}

#[test]
fn a_credential_with_a_statement_for_another_leaf_cannot_be_loaded() {
    let meeting = Meeting::new();
    let mut spec = meeting.south.credential(&meeting.ca);
    spec.statement = meeting.south.credential(&meeting.ca).statement;
    assert!(Credential::new(&spec).is_err());
    let mut spec = meeting.south.credential(&meeting.ca);
    spec.trust.clear();
    assert!(Credential::new(&spec).is_err());
    let mut spec = meeting.south.credential(&meeting.ca);
    spec.private_key = meeting.north.credential(&meeting.ca).private_key;
    assert!(Credential::new(&spec).is_err());
    let shown = format!("{:?}", meeting.south.credential(&meeting.ca));
    assert!(shown.contains("***"));
}

#[test]
fn first_frames_that_are_no_hello_close_the_lane_with_protocol() {
    let meeting = Meeting::new();
    let spec = meeting.south.credential(&meeting.ca);
    let good = hello_of(&meeting.south, &spec).frame();
    let mut other_version = good.clone();
    other_version[8] = 2;
    let mut other_stream = good.clone();
    other_stream[3] = 1;
    let mut too_long = good.clone();
    too_long[4..7].copy_from_slice(&[0xff, 0xff, 0xff]);
    let mut twice = good.clone();
    let attribute = [0, 9, 0, 1, b'x', 0, 9, 0, 1, b'x'];
    twice.extend_from_slice(&attribute);
    let len = (twice.len() - 8) as u32;
    twice[4..7].copy_from_slice(&len.to_be_bytes()[1..]);
    for (what, bytes) in [
        ("another version", other_version),
        ("HELLO on a stream", other_stream),
        ("a frame that is too long", too_long),
        ("an attribute twice", twice),
        (
            "PING",
            vec![0, 0, 0, 0, 0, 0, 8, 0x0b, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (
            "an unknown type below 0x80",
            vec![0, 0, 0, 0, 0, 0, 0, 0x7f],
        ),
        ("an unknown type from 0x80", vec![0, 0, 0, 0, 0, 0, 0, 0x80]),
    ] {
        let (refusal, goaway) = greet_by_hand(&meeting, &spec, &bytes);
        assert_eq!(refusal.expect(what).reason, Reason::Protocol, "{what}");
        assert_eq!(goaway, Some(3), "{what}");
    }
    // Cut after any byte, HELLO is awaited, or taken; nothing else.
    for cut in (0..good.len()).step_by(7) {
        let (refusal, goaway) = greet_by_hand(&meeting, &spec, &good[..cut]);
        assert_eq!((refusal, goaway), (None, None), "{cut}");
    }
}

#[test]
fn a_router_does_not_link_to_itself() {
    let mut meeting = Meeting::new();
    meeting.south.identity =
        rcgen::KeyPair::try_from(meeting.north.identity.serialize_der()).expect("a key");
    meeting.dial = meeting.south.credential(&meeting.ca);
    let (dialler, acceptor) = meeting.hold(1_000);
    let refusal = dialler.refusal();
    assert_eq!(
        (refusal.reason, refusal.reason.as_str()),
        (Reason::Myself, "self")
    );
    assert_eq!(acceptor.refusal().reason, Reason::Myself);
    // Another router of the same site is welcome.
    meeting.south.boot = 8;
    meeting.hold(1_000).0.lane();
}

#[test]
fn another_site_than_expected_is_refused_and_named() {
    let mut meeting = Meeting::new();
    meeting.expected_site = Some([7; 32]);
    let (dialler, _) = meeting.hold(1_000);
    let refusal = dialler.refusal();
    assert_eq!(refusal.reason, Reason::Policy);
    assert!(
        refusal.sentence.contains("is the site north"),
        "{refusal:?}"
    );
    meeting.expected_site = None;
    meeting.hold(1_000).0.lane();
}

#[test]
fn the_name_counts_where_the_credential_says_so_and_nowhere_else() {
    let mut meeting =
        Meeting::new().with_acceptor_leaf(|leaf| leaf.dns = vec!["north.example".to_owned()]);
    meeting.server_name = "other.example".to_owned();
    meeting.hold(1_000).0.lane();
    meeting.dial.verify_host = true;
    let refusal = meeting.hold(1_000).0.refusal();
    assert_eq!(refusal.reason, Reason::Tls, "{refusal:?}");
    meeting.server_name = "north.example".to_owned();
    meeting.hold(1_000).0.lane();
    // A bare address: SNI is SITE-ID.van, and the certificate would have to be for the address.
    meeting.server_name = String::new();
    assert_eq!(meeting.hold(1_000).0.refusal().reason, Reason::Tls);
}

#[test]
fn admission_lists_admit_by_common_name_and_alternative_names() {
    let leaf = |spec: &mut LeafSpec| {
        spec.dns = vec!["South.Corp.Example".to_owned()];
        spec.uris = vec!["spiffe://corp/ns/south".to_owned()];
    };
    for (patterns, admitted) in [
        (None, true),
        (Some(vec![]), false),
        (Some(vec!["south"]), true),
        (Some(vec!["north", "s?uth"]), true),
        (Some(vec!["*.corp.example"]), true),
        (Some(vec!["spiffe://corp/*"]), true),
        (Some(vec!["north*", "*.other.example"]), false),
    ] {
        let mut meeting = Meeting::new().with_dialler_leaf(leaf);
        meeting.accept.admit = patterns
            .clone()
            .map(|list| list.into_iter().map(str::to_owned).collect());
        let (dialler, acceptor) = meeting.hold(1_000);
        if admitted {
            acceptor.lane();
        } else {
            let refusal = acceptor.refusal();
            assert_eq!(refusal.reason, Reason::Policy);
            assert!(
                refusal.sentence.contains("south"),
                "{patterns:?}: {refusal:?}"
            );
            let told = dialler.refusal();
            assert_eq!(told.reason, Reason::Policy);
            assert!(told.sentence.contains("not on the list"), "{told:?}");
        }
    }
}

#[test]
fn a_leaving_router_refuses_lanes_in_a_way_that_can_be_retried() {
    let mut meeting = Meeting::new();
    meeting.refuse = true;
    let (dialler, acceptor) = meeting.hold(1_000);
    let refusal = dialler.refusal();
    assert_eq!(refusal.reason, Reason::Refused);
    assert!(
        refusal.reason.is_retryable() && refusal.sentence.contains("leaving"),
        "{refusal:?}"
    );
    acceptor.refusal();
}

// ---- A client of our own, that follows no rules -------------------------------------------------------------------------

fn hello_of(site: &Site, spec: &CredentialSpec) -> Hello {
    let me = site.myself();
    Hello {
        identity_key: me.identity_key,
        statement: van_core::handshake::Statement::decode(&spec.statement).expect("a statement"),
        router: me.router,
        site_name: me.site_name,
        lanes_wanted: 1,
        credit: HelloCredit::OURS,
        siblings: vec![],
        cost: 1,
        link_name: String::new(),
        software: String::new(),
        features: 0,
        edge: false,
    }
}

fn client_config(spec: Option<&CredentialSpec>, alpn: &[&[u8]], ca: &Ca) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(ca.der())).expect("a root");
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
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
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// TLS with an acceptor that has a certificate for `north.test`, then these bytes. What the acceptor makes of it, and what
/// it says.
fn visit(
    meeting: &Meeting,
    config: Arc<ClientConfig>,
    then: &[u8],
) -> (End, Result<Vec<u8>, String>) {
    let mut acceptor = Party::new(meeting.acceptor());
    let mut wire = Vec::new();
    let name = ServerName::try_from("north.test").expect("a name");
    let mut tls = Tls::client(config, name, &mut wire).expect("a client");
    let mut incoming = Vec::new();
    for _ in 0..4 {
        if acceptor.end.is_none() {
            acceptor.greeting.feed(&wire);
            let step = acceptor.greeting.advance(&meeting.north.myself(), now());
            acceptor.take(step);
        }
        wire.clear();
        incoming.append(acceptor.greeting.outgoing());
        match tls.handshake(&mut incoming, &mut wire) {
            Ok(done) => drop(incoming.drain(..done.consumed)),
            Err(error) => return (acceptor.finish_now(), Err(error.to_string())),
        }
        if !tls.is_handshaking() {
            break;
        }
    }
    let mut records = tls.into_records().expect("secrets");
    records.seal(then, &mut wire).expect("sealed");
    if acceptor.end.is_none() {
        acceptor.greeting.feed(&wire);
        let step = acceptor.greeting.advance(&meeting.north.myself(), now());
        acceptor.take(step);
    }
    incoming.append(acceptor.greeting.outgoing());
    let mut plain = Vec::new();
    let said = records
        .open(&mut incoming, &mut plain, 100_000, &mut Vec::new())
        .map(|_| plain)
        .map_err(|error| error.to_string());
    (acceptor.finish_now(), said)
}

impl Party {
    fn finish_now(&mut self) -> End {
        self.end.take().unwrap_or(End::Waiting)
    }
}

/// What the acceptor says to this first frame, and the code of its GOAWAY.
fn greet_by_hand(
    meeting: &Meeting,
    spec: &CredentialSpec,
    frames: &[u8],
) -> (Option<Refusal>, Option<u8>) {
    let mut named = LeafSpec::named("north");
    named.dns = vec!["north.test".to_owned()];
    let leaf = Leaf::new(&meeting.ca, &named);
    let mut meeting_named = Meeting::new();
    meeting_named.accept = meeting.north.credential_for(&leaf, &[], &meeting.ca);
    meeting_named.north.boot = 1_000;
    let config = client_config(Some(spec), &[b"van/1"], &meeting.ca);
    let (end, said) = visit(&meeting_named, config, frames);
    let said = said.unwrap_or_default();
    let mut goaway = None;
    let mut rest = said.as_slice();
    while let Ok(Some((frame, used))) = van_core::frame::decode(rest) {
        if frame.kind == Some(van_core::frame::Kind::GoAway) {
            goaway = frame.payload.first().copied();
        }
        rest = &rest[used..];
    }
    match end {
        End::Refused(refusal) => (Some(refusal), goaway),
        _ => (None, goaway),
    }
}

fn named_meeting() -> Meeting {
    Meeting::new().with_acceptor_leaf(|leaf| leaf.dns = vec!["north.test".to_owned()])
}

#[test]
fn visitors_need_no_certificate_and_lanes_do() {
    let meeting = named_meeting();
    for alpn in [b"http/1.1".as_slice(), b"van-join/1"] {
        let (end, _) = visit(&meeting, client_config(None, &[alpn], &meeting.ca), b"GET");
        let End::Guest(guest) = end else {
            panic!("{end:?}")
        };
        assert_eq!(guest.alpn.as_bytes(), alpn);
        assert!(guest.certificates.is_empty());
    }
    let (end, said) = visit(&meeting, client_config(None, &[b"van/1"], &meeting.ca), b"");
    let refusal = end.refusal();
    assert_eq!(refusal.reason, Reason::Policy);
    assert!(refusal.sentence.contains("needs a client certificate"));
    let said = said.expect("TLS is in order");
    assert_eq!((said[7], said[8]), (0x0d, 4), "GOAWAY policy");
}

#[test]
fn an_expired_leaf_may_still_visit_for_renewal() {
    let meeting = named_meeting();
    let mut spec = LeafSpec::named("south");
    spec.not_after = now() - 30 * DAY;
    let leaf = Leaf::new(&meeting.ca, &spec);
    let spec = meeting.south.credential_for(&leaf, &[], &meeting.ca);
    let (end, _) = visit(
        &meeting,
        client_config(Some(&spec), &[b"van-join/1"], &meeting.ca),
        b"POST",
    );
    let End::Guest(guest) = end else {
        panic!("{end:?}")
    };
    assert_eq!(guest.certificates, vec![leaf.der]);
}

#[test]
fn no_alpn_and_unknown_alpn_lead_nowhere() {
    let meeting = named_meeting();
    let (end, _) = visit(&meeting, client_config(None, &[], &meeting.ca), b"");
    assert_eq!(end.refusal().reason, Reason::Protocol);
    let (end, said) = visit(&meeting, client_config(None, &[b"h2"], &meeting.ca), b"");
    assert_eq!(end.refusal().reason, Reason::Tls);
    assert!(said.expect_err("an alert").contains("ALPN"));
}

#[test]
fn a_dialler_that_is_answered_by_something_else_says_what_it_may_be() {
    let meeting = Meeting::new();
    let mut dialler = Party::new(meeting.dialler());
    dialler.greeting.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let step = dialler.greeting.advance(&meeting.south.myself(), now());
    dialler.take(step);
    let refusal = dialler.finish_now().refusal();
    assert_eq!(refusal.reason, Reason::Tls);
    assert!(
        refusal.sentence.contains("10.0.0.7:55671") && refusal.sentence.contains("link access"),
        "{refusal:?}"
    );
}
