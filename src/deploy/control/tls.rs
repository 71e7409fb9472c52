//! TLS 1.3 with raw public keys (RFC 7250): the head's ed25519 key is its identity. There is no
//! certificate, no name and no date, so a node whose clock says 1970 joins like any other.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

use crate::deploy::token::Fingerprint;

/// An ed25519 private key in PKCS #8 is these bytes and the seed. Source: RFC 8410 s7.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// An ed25519 SubjectPublicKeyInfo is these bytes and the key. Source: RFC 8410 s4.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The head's side: proves to have the key of `seed`.
///
/// # Errors
/// If the seed makes no key.
pub(super) fn server_config(seed: &[u8; 32]) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let der = PrivatePkcs8KeyDer::from([&PKCS8_PREFIX[..], seed].concat());
    let key = rustls::crypto::ring::sign::any_eddsa_type(&der)?;
    let spki = key.public_key().ok_or(rustls::Error::General(
        "The key does not know its public half".to_owned(),
    ))?;
    let certified = CertifiedKey::new(vec![CertificateDer::from(spki.to_vec())], key);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(
            certified,
        ))));
    Ok(Arc::new(config))
}

/// The node's side: accepts the head whose key has the pinned fingerprint, and no other.
///
/// # Errors
/// If the provider has no TLS 1.3, which does not happen.
pub(super) fn client_config(pin: Arc<Pin>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pin)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The one head that a node accepts, and its key once it was seen.
#[derive(Debug)]
pub(super) struct Pin {
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Option<[u8; 32]>>,
}

impl Pin {
    /// Pins the key with this fingerprint.
    pub(super) fn new(fingerprint: Fingerprint) -> Arc<Self> {
        let provider: CryptoProvider = rustls::crypto::ring::default_provider();
        Arc::new(Self {
            fingerprint,
            algorithms: provider.signature_verification_algorithms,
            seen: Mutex::new(None),
        })
    }

    /// The head's public key, after the first handshake that succeeded.
    pub(super) fn public_key(&self) -> Option<[u8; 32]> {
        *self
            .seen
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = rustls::Error::InvalidCertificate(
            rustls::CertificateError::ApplicationVerificationFailure,
        );
        let key = end_entity.strip_prefix(&SPKI_PREFIX[..]);
        let Some(key) = key.and_then(|key| <[u8; 32]>::try_from(key).ok()) else {
            return Err(refused);
        };
        if Fingerprint::of(&key) != self.fingerprint {
            return Err(refused);
        }
        *self
            .seen
            .lock()
            .unwrap_or_else(|broken| broken.into_inner()) = Some(key);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(cert.as_ref()),
            dss,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
