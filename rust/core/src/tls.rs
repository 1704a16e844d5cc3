//! TLS configurations of a credential: TLS 1.3 only, aws-lc-rs passed explicitly, no resumption, our own idea of trust.
//!
//! The verifiers here decide about *chains*. Which site a leaf speaks for is decided by HELLO (`handshake.rs`).
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};

use crate::certificate::Leaf;
use crate::handshake::{HelloError, Statement};
use crate::limits;

/// A lane of a link.
pub const ALPN_LANE: &[u8] = b"van/1";
/// Redemption of tokens and renewal of certificates.
pub const ALPN_JOIN: &[u8] = b"van-join/1";
/// Health checks.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// What authenticates us, as the control plane hands it over. Everything is DER.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct CredentialSpec {
    /// Leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// PKCS#8 (SEC1 and PKCS#1 are understood, too).
    pub private_key: Vec<u8>,
    /// The CAs that the other end must chain to.
    pub trust: Vec<Vec<u8>>,
    /// HELLO attribute 2.
    pub statement: Vec<u8>,
    /// Dialling: also check the endpoint's name.
    pub verify_host: bool,
    /// Accepting: shell-style patterns, one of which a lane's leaf must match. `None`: any leaf that the CAs vouch for.
    pub admit: Option<Vec<String>>,
}

impl fmt::Debug for CredentialSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialSpec")
            .field("certificates", &self.certificates.len())
            .field("private_key", &"***")
            .field("trust", &self.trust.len())
            .field("verify_host", &self.verify_host)
            .field("admit", &self.admit)
            .finish_non_exhaustive()
    }
}

/// Why a credential cannot be used. The operator can repair it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A CA certificate is broken, or there is none.
    #[error("the list of CAs cannot be used: {0}")]
    Trust(String),
    /// Key or chain are broken or do not belong together.
    #[error("certificate and key cannot be used: {0}")]
    Key(String),
    /// The identity statement is broken.
    #[error("the identity statement cannot be used: {0}")]
    Statement(#[from] HelloError),
    /// The identity statement is for another leaf.
    #[error("the identity statement is not for this certificate's key")]
    OtherLeaf,
}

/// A credential that is ready for use.
pub struct Credential {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    anchors: Arc<Anchors>,
    /// For our HELLO.
    pub statement: Statement,
    /// See [`CredentialSpec::verify_host`].
    pub verify_host: bool,
    /// See [`CredentialSpec::admit`].
    pub admit: Option<Vec<String>>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

impl Credential {
    /// Check everything that can be checked before the first connection.
    ///
    /// # Errors
    /// The credential cannot be used; says why.
    pub fn new(spec: &CredentialSpec) -> Result<Self, CredentialError> {
        let statement = Statement::decode(&spec.statement)?;
        let leaf = spec.certificates.first().and_then(|der| Leaf::parse(der));
        let leaf = leaf.ok_or_else(|| CredentialError::Key("no certificate".to_owned()))?;
        if leaf.key_hash != statement.leaf {
            return Err(CredentialError::OtherLeaf);
        }
        let mut roots = RootCertStore::empty();
        for der in &spec.trust {
            roots
                .add(CertificateDer::from(der.clone()))
                .map_err(|error| CredentialError::Trust(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let bad_key = |error: Error| CredentialError::Key(error.to_string());
        let key = || {
            PrivateKeyDer::try_from(spec.private_key.clone())
                .map_err(|error| CredentialError::Key(error.to_owned()))
        };
        let chain = || {
            spec.certificates
                .iter()
                .cloned()
                .map(CertificateDer::from)
                .collect()
        };

        let callers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .allow_unauthenticated()
            .clear_root_hint_subjects()
            .build()
            .map_err(|error| CredentialError::Trust(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(bad_key)?
            .with_client_cert_verifier(Arc::new(Callers(callers)))
            .with_single_cert(chain(), key()?)
            .map_err(bad_key)?;
        server.alpn_protocols = [ALPN_LANE, ALPN_JOIN, ALPN_HTTP].map(<[u8]>::to_vec).into();
        server.ignore_client_order = true;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.enable_secret_extraction = true;

        let anchors = Arc::new(Anchors {
            roots,
            verify: None,
        });
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(bad_key)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&anchors) as Arc<dyn ServerCertVerifier>)
            .with_client_auth_cert(chain(), key()?)
            .map_err(bad_key)?;
        client.alpn_protocols = vec![ALPN_LANE.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            anchors,
            statement,
            verify_host: spec.verify_host,
            admit: spec.admit.clone(),
        })
    }

    /// For accepting.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For dialling an endpoint. With `verify_host` its certificate must be good for `name`, too.
    #[must_use]
    pub fn client(&self, name: &ServerName<'static>) -> Arc<ClientConfig> {
        if !self.verify_host {
            return Arc::clone(&self.client);
        }
        let mut client = ClientConfig::clone(&self.client);
        client
            .dangerous()
            .set_certificate_verifier(Arc::new(Anchors {
                roots: Arc::clone(&self.anchors.roots),
                verify: Some(name.clone()),
            }));
        Arc::new(client)
    }
}

/// aws-lc-rs with our preferences. Never installed process-wide.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let made = PROVIDER.get_or_init(|| {
        let mut cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        if !has_aes() {
            cipher_suites.rotate_right(1);
        }
        Arc::new(CryptoProvider {
            cipher_suites,
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(made)
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// Verify at `now`; where only a date stands against it that is within our tolerance, verify as of that date.
///
/// `expired`: a leaf that expired within [`limits::EXPIRED_LEAF_GRACE`] passes.
fn within_dates(
    leaf: &CertificateDer<'_>,
    now: UnixTime,
    expired: bool,
    verify: impl Fn(UnixTime) -> Result<(), Error>,
) -> Result<(), Error> {
    let ago = |then: UnixTime| now.as_secs().saturating_sub(then.as_secs());
    let ahead = |then: UnixTime| then.as_secs().saturating_sub(now.as_secs());
    let mut at = now;
    for _ in 0..4 {
        let error = match verify(at) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        at = match &error {
            Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before, ..
            }) if ahead(*not_before) <= limits::NOT_BEFORE_SKEW.as_secs()
                && not_before.as_secs() > at.as_secs() =>
            {
                *not_before
            }
            // Only the leaf may have expired: an intermediate that has does not get younger.
            Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })
                if expired
                    && ago(*not_after) <= limits::EXPIRED_LEAF_GRACE.as_secs()
                    && not_after.as_secs() < at.as_secs()
                    && at == now
                    && Leaf::parse(leaf).is_some_and(|l| l.not_after == not_after.as_secs()) =>
            {
                *not_after
            }
            _ => return Err(error),
        };
    }
    Err(Error::InvalidCertificate(CertificateError::Expired))
}

/// Clients: none is asked for a certificate in vain, none must have one, and what it shows must chain to our CAs.
#[derive(Debug)]
struct Callers(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Callers {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        within_dates(leaf, now, true, |at| {
            self.0.verify_client_cert(leaf, intermediates, at).map(drop)
        })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Servers: the chain must lead to one of our CAs; its name counts only where the credential says so.
#[derive(Debug)]
struct Anchors {
    roots: Arc<RootCertStore>,
    verify: Option<ServerName<'static>>,
}

impl ServerCertVerifier for Anchors {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sni: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        within_dates(leaf, now, false, |at| {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                at,
                provider().signature_verification_algorithms.all,
            )
        })?;
        if let Some(name) = &self.verify {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            leaf,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            leaf,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// How long ago something ended, in words.
pub(crate) fn ago(seconds: u64) -> String {
    let age = Duration::from_secs(seconds);
    match age.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} minutes", s / 60),
        s @ 7_200..=172_799 => format!("{} hours", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}
