//! Sites, CAs and certificates for tests, good ones and bad ones.
#![allow(dead_code, reason = "every test binary uses its own part")]

pub mod applications;
pub mod peer;
pub mod planes;
pub mod scripts;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, PublicKeyData, SanType, SigningKey,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite};
use van_core::greeting::Myself;
use van_core::handshake::{RouterId, Statement, sha256, site_id};
use van_core::record::{Records, Tls};
use van_core::tls::{Credential, CredentialSpec, provider};

pub const DAY: u64 = 86_400;

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs()
}

fn at(unix: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix)
}

pub struct Ca(pub CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new(name: &str) -> Self {
        Self::lasting(name, now() - DAY, now() + 3_650 * DAY)
    }

    pub fn lasting(name: &str, not_before: u64, not_after: u64) -> Self {
        let params = ca_params(name, not_before, not_after);
        Self(
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
                .expect("a CA"),
        )
    }

    /// An intermediate.
    pub fn below(&self, name: &str, not_before: u64, not_after: u64) -> Self {
        let params = ca_params(name, not_before, not_after);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::signed_by(params, key, &self.0).expect("a CA"))
    }

    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }
}

fn ca_params(name: &str, not_before: u64, not_after: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = at(not_before).into();
    params.not_after = at(not_after).into();
    params
}

/// How a leaf is to be.
#[derive(Clone)]
pub struct LeafSpec {
    pub common_name: String,
    pub dns: Vec<String>,
    pub uris: Vec<String>,
    pub not_before: u64,
    pub not_after: u64,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub ca: bool,
}

impl LeafSpec {
    pub fn named(name: &str) -> Self {
        Self {
            common_name: name.to_owned(),
            dns: Vec::new(),
            uris: Vec::new(),
            not_before: now() - 200 * DAY,
            not_after: now() + 90 * DAY,
            usages: vec![
                ExtendedKeyUsagePurpose::ClientAuth,
                ExtendedKeyUsagePurpose::ServerAuth,
            ],
            ca: false,
        }
    }
}

pub struct Leaf {
    pub der: Vec<u8>,
    pub key: KeyPair,
}

impl Leaf {
    pub fn new(ca: &Ca, spec: &LeafSpec) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, spec.common_name.as_str());
        for name in &spec.dns {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.as_str().try_into().expect("a name")));
        }
        for uri in &spec.uris {
            params
                .subject_alt_names
                .push(SanType::URI(uri.as_str().try_into().expect("a URI")));
        }
        params.not_before = at(spec.not_before).into();
        params.not_after = at(spec.not_after).into();
        params.extended_key_usages = spec.usages.clone();
        params.is_ca = if spec.ca {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::ExplicitNoCa
        };
        let key = KeyPair::generate().expect("a key");
        let der = params
            .signed_by(&key, &ca.0)
            .expect("a leaf")
            .der()
            .to_vec();
        Self { der, key }
    }

    pub fn key_hash(&self) -> [u8; 32] {
        sha256(&self.key.subject_public_key_info())
    }
}

/// A site with its identity key.
pub struct Site {
    pub name: String,
    pub identity: KeyPair,
    pub boot: u64,
}

impl Site {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            identity: KeyPair::generate().expect("a key"),
            boot: 7,
        }
    }

    pub fn identity_key(&self) -> Vec<u8> {
        self.identity.subject_public_key_info()
    }

    pub fn id(&self) -> [u8; 32] {
        site_id(&self.identity_key()).expect("a P-256 key")
    }

    pub fn router(&self) -> RouterId {
        RouterId {
            site: self.id(),
            boot: self.boot,
        }
    }

    pub fn myself(&self) -> Myself {
        Myself {
            identity_key: self.identity_key(),
            router: self.router(),
            site_name: self.name.clone(),
            lanes_wanted: 2,
            software: "vanrouter test".to_owned(),
            siblings: vec![self.boot],
            refused: Vec::new(),
            edge: false,
        }
    }

    pub fn statement(&self, leaf: [u8; 32], not_after: u64) -> Statement {
        let signature = self
            .identity
            .sign(&Statement::signed_bytes(&leaf, not_after))
            .expect("a signature");
        Statement {
            leaf,
            not_after,
            signature,
        }
    }

    /// A credential with a fresh leaf of this CA.
    pub fn credential(&self, ca: &Ca) -> CredentialSpec {
        self.credential_for(&Leaf::new(ca, &LeafSpec::named(&self.name)), &[], ca)
    }

    /// A credential with this leaf.
    pub fn credential_for(&self, leaf: &Leaf, intermediates: &[&Ca], trust: &Ca) -> CredentialSpec {
        let mut statement = Vec::new();
        self.statement(leaf.key_hash(), now() + 90 * DAY)
            .encode(&mut statement);
        let mut certificates = vec![leaf.der.clone()];
        certificates.extend(intermediates.iter().map(|ca| ca.der()));
        CredentialSpec {
            certificates,
            private_key: leaf.key.serialize_der(),
            trust: vec![trust.der()],
            statement,
            verify_host: false,
            admit: None,
        }
    }
}

/// Which implementation of the record layer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layer {
    Rustls,
    Direct,
}

/// Two ends of one TLS connection: (client, server), handshake done.
pub fn tls_pair() -> (Tls, Tls) {
    tls_pair_with(None)
}

/// The same with a client that knows one cipher only.
pub fn tls_pair_with(suite: Option<SupportedCipherSuite>) -> (Tls, Tls) {
    let (north, south, ca) = (Site::new("north"), Site::new("south"), Ca::new("CA"));
    let accept = Credential::new(&north.credential(&ca)).expect("a credential");
    let dial = Credential::new(&south.credential(&ca)).expect("a credential");
    let name = ServerName::try_from("unknown.van").expect("a name");
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let config = match suite {
        None => dial.client(&name),
        Some(suite) => {
            let one = CryptoProvider {
                cipher_suites: vec![suite],
                ..CryptoProvider::clone(&provider())
            };
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(ca.der())).expect("a root");
            let mut config = ClientConfig::builder_with_provider(Arc::new(one))
                .with_protocol_versions(&[&TLS13])
                .expect("TLS 1.3")
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.enable_secret_extraction = true;
            Arc::new(config)
        }
    };
    let (accept, name) = match suite {
        None => (accept, name),
        Some(_) => {
            let mut leaf = LeafSpec::named("north");
            leaf.dns = vec!["north.test".to_owned()];
            let spec = north.credential_for(&Leaf::new(&ca, &leaf), &[], &ca);
            let name = ServerName::try_from("north.test").expect("a name");
            (Credential::new(&spec).expect("a credential"), name)
        }
    };
    let mut client = Tls::client(config, name, &mut there).expect("a client");
    let mut server = Tls::server(accept.server()).expect("a server");
    while client.is_handshaking() || server.is_handshaking() {
        let done = server
            .handshake(&mut there, &mut back)
            .expect("a handshake");
        there.drain(..done.consumed);
        let done = client
            .handshake(&mut back, &mut there)
            .expect("a handshake");
        back.drain(..done.consumed);
    }
    assert!(there.is_empty() && back.is_empty());
    (client, server)
}

/// The same as record layers.
pub fn record_pair(layer: Layer) -> (Records, Records) {
    let (client, server) = tls_pair();
    (into_records(client, layer), into_records(server, layer))
}

pub fn into_records(tls: Tls, layer: Layer) -> Records {
    match layer {
        Layer::Rustls => tls.into_rustls_records(),
        Layer::Direct => tls.into_direct_records().expect("secrets"),
    }
}
