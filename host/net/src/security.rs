//! Nobody between two peers, and each knows the key of the other: TLS 1.3 as libp2p has it
//! (`/tls/1.0.0`, <https://github.com/libp2p/specs/blob/master/tls/tls.md>).
//!
//! # Why
//!
//! As libp2p puts it together, TLS and noise encrypt with ChaCha20. Processors with instructions for AES do AES-GCM in less
//! than a third of the time, and whoever computes on shares encrypts and decrypts some megabytes for each answer.
//!
//! # How
//!
//! 1. `libp2p-tls` makes the certificate, which is signed with the key of the node, and takes apart those of others.
//! 2. Each side shows exactly one, and proves that it has its key by signing the handshake ([`Verifier`]).
//! 3. Keys are exchanged by X25519 and ML-KEM-768 together, so that what is recorded today stays closed to the quantum
//!    computers of later. Nothing is kept of a connection to resume it.
//!
//! On the network nothing is different from libp2p's: whoever asks for ChaCha20 first gets it.

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::{default_provider, sign};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use std::error;
use std::io;
use std::iter;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What both sides call the protocol within TLS.
const ALPN: &[u8] = b"libp2p";

/// TLS with the key of this node.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// # Errors
    /// A key that cannot sign a certificate.
    pub(crate) fn new(keypair: &Keypair) -> Result<Self, Box<dyn error::Error + Send + Sync>> {
        let (certificate, key) = certificate::generate(keypair)?;
        Ok(Self::with(CertifiedKey::new(vec![certificate], sign::any_ecdsa_type(&key)?))?)
    }

    fn with(shown: CertifiedKey) -> Result<Self, Error> {
        let shown = Arc::new(SingleCertAndKey::from(shown));
        let suites = vec![TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256];
        let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..default_provider() });
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(shown.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(shown);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        // As libp2p wants it: no name is sent.
        client.enable_sni = false;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/tls/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, TlsStream<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        TlsAcceptor::from(self.server).accept(socket).map(|stream| known(stream?.into())).boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, TlsStream<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        let nowhere = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
        TlsConnector::from(self.client).connect(nowhere, socket).map(|stream| known(stream?.into())).boxed()
    }
}

/// Who is at the other end of a connection whose handshake is over.
fn known<C>(stream: TlsStream<C>) -> io::Result<(PeerId, TlsStream<C>)> {
    let peer = peer(stream.get_ref().1).map_err(io::Error::other)?;
    Ok((peer, stream))
}

fn peer(connection: &CommonState) -> Result<PeerId, Error> {
    match connection.peer_certificates() {
        Some([shown]) => Ok(certificate::parse(shown)?.peer_id()),
        _ => Err(Error::NoCertificatesPresented),
    }
}

/// Lets anyone in who shows one certificate that names a key of libp2p, is signed with it, and has signed this handshake.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn shown(certificate: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !more.is_empty() {
            return Err(Error::General("a peer shows exactly one certificate".to_owned()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }

    fn signed(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Those that certificates of libp2p may have, the most preferred first.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}

fn too_old() -> Error {
    Error::General("peers speak TLS 1.3 or newer".to_owned())
}

impl ServerCertVerifier for Verifier {
    /// Whose key it is libp2p compares with whom it dialled, once the handshake is over.
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::shown(certificate, more).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::shown(certificate, more).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests;
