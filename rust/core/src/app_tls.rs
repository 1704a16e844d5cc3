//! TLS toward applications: what a listener shows its clients, and what a connector wants of its target.
//!
//! Links have rules of their own (`tls.rs`). Here the other end is somebody's program: TLS 1.2 and 1.3, the user's certificates and CAs, no
//! resumption (a ticket that a client leaves unread turns its clean close into a reset).
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};

use crate::certificate::Leaf;
use crate::contract::TlsEntry;

/// One entry as its users hold it: a rotation reaches them at once, and connections that are up keep what they have.
pub type Slot = Arc<ArcSwap<AppTls>>;

/// See the module. What cannot be used says why, to whoever tries.
pub struct AppTls {
    server: Result<Arc<ServerConfig>, String>,
    client: Result<Arc<ClientConfig>, String>,
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for AppTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AppTls")
    }
}

impl AppTls {
    /// An entry that is not there: nobody gets anything, least of all without TLS.
    #[must_use]
    pub fn absent(name: &str) -> Self {
        let why = format!("TLS: there is no credential {name} now");
        Self {
            server: Err(why.clone()),
            client: Err(why),
            name: None,
        }
    }

    /// Everything that can be prepared before the first connection.
    #[must_use]
    pub fn new(entry: &TlsEntry) -> Self {
        let words = |error: String| format!("TLS: credential {}: {error}", entry.name);
        Self {
            server: server(entry).map(Arc::new).map_err(words),
            client: client(entry).map(Arc::new).map_err(words),
            name: ServerName::try_from(entry.server_name.clone()).ok(),
        }
    }

    /// For accepting.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn server(&self) -> Result<Arc<ServerConfig>, String> {
        self.server.clone()
    }

    /// For a target at `address`, with the name that it has to prove.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn client(
        &self,
        address: IpAddr,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| ServerName::IpAddress(address.into()));
        Ok((self.client.clone()?, name))
    }
}

fn server(entry: &TlsEntry) -> Result<ServerConfig, String> {
    let (chain, key) = shown(entry)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if entry.client_cert {
        let callers =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(entry)?), provider())
                .build()
                .map_err(|error| error.to_string())?;
        builder.with_client_cert_verifier(callers)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = alpn(entry);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client(entry: &TlsEntry) -> Result<ClientConfig, String> {
    let verifier = Targets {
        roots: roots(entry)?,
        pinned: entry.trust.iter().map(|der| der.to_vec()).collect(),
        verify_host: entry.verify_host,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = if entry.client_cert {
        let (chain, key) = shown(entry)?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| error.to_string())?
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn(entry);
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn shown(
    entry: &TlsEntry,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    if entry.certificates.is_empty() {
        return Err("it has no certificate".to_owned());
    }
    let chain = entry
        .certificates
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let key = PrivateKeyDer::try_from(entry.private_key.to_vec())?;
    Ok((chain, key))
}

fn roots(entry: &TlsEntry) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for der in &entry.trust {
        roots
            .add(CertificateDer::from(der.to_vec()))
            .map_err(|error| format!("a CA cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("it has no CA".to_owned());
    }
    Ok(roots)
}

fn alpn(entry: &TlsEntry) -> Vec<Vec<u8>> {
    entry
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect()
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// The chain must lead to one of the CAs, or the certificate is itself among them, as a self-signed one is; its name counts where it is wanted.
#[derive(Debug)]
struct Targets {
    roots: RootCertStore,
    pinned: Vec<Vec<u8>>,
    verify_host: bool,
}

impl ServerCertVerifier for Targets {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        if self.pinned.iter().any(|der| **der == **leaf) {
            check_dates(leaf, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                provider().signature_verification_algorithms.all,
            )?;
        }
        if self.verify_host {
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
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, leaf, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, leaf, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn check_dates(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let leaf = Leaf::parse(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if now.as_secs() > leaf.not_after {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    if now.as_secs() < leaf.not_before {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    Ok(())
}

/// What went wrong in a handshake, for people. The other plane has the same words (`baseline/app_tls.py`).
#[must_use]
pub(crate) fn words(error: &Error) -> String {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    let text = match error {
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired"
        }
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; are both clocks right?"
        }
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate does not come from the CA in ca.crt"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name"
        }
        Error::NoCertificatesPresented => "it shows no certificate, and one is required",
        Error::AlertReceived(Alert::CertificateRequired) => {
            "it wants a certificate of ours, and got none"
        }
        Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::DecryptError
            | Alert::AccessDenied,
        ) => "it does not accept our certificate",
        Error::AlertReceived(Alert::NoApplicationProtocol) | Error::NoApplicationProtocol => {
            "it speaks none of the protocols that are offered (ALPN)"
        }
        Error::AlertReceived(Alert::ProtocolVersion) | Error::PeerIncompatible(_) => {
            "it speaks no TLS that is spoken here (1.2 and 1.3)"
        }
        Error::InvalidMessage(_) => "it does not speak TLS",
        other => return format!("TLS: {other}"),
    };
    format!("TLS: {text}")
}
