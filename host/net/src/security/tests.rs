//! Both ends in one process; the other end is ours, libp2p's, or a cheat.

use super::{Tls, TlsStream};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::tls::{Config, certificate};
use rustls::crypto::aws_lc_rs::sign;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, NamedGroup};
use std::fmt::{Debug, Display};
use tokio::io::DuplexStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

type Socket = Compat<DuplexStream>;
type End = (PeerId, TlsStream<Socket>);

fn key(n: u8) -> Keypair {
    Keypair::ed25519_from_bytes([n; 32]).unwrap()
}

fn tls(n: u8) -> Tls {
    Tls::new(&key(n)).unwrap()
}

fn id(n: u8) -> PeerId {
    key(n).public().to_peer_id()
}

async fn meet<I, O>(inbound: I, outbound: O) -> (Result<End, String>, Result<End, String>)
where
    I: InboundConnectionUpgrade<Socket, Output = End, Info = &'static str, Error: Display + Debug>,
    O: OutboundConnectionUpgrade<Socket, Output = End, Info = &'static str, Error: Display + Debug>,
{
    let (one, other) = tokio::io::duplex(1 << 16);
    let (name, its) =
        (inbound.protocol_info().into_iter().next().unwrap(), outbound.protocol_info().into_iter().next().unwrap());
    assert_eq!(name, its);
    let ends = async {
        let (inbound, outbound) =
            (inbound.upgrade_inbound(one.compat(), name), outbound.upgrade_outbound(other.compat(), its));
        // A client is done before the server has looked at its certificate: it has to read to hear of a refusal.
        let outbound = async {
            let mut end = outbound.await.map_err(|e| format!("{e:?}"))?;
            let mut first = [0];
            end.1.read_exact(&mut first).await.map_err(|e| format!("{e:?}"))?;
            Ok(end)
        };
        let inbound = async {
            let mut end = inbound.await.map_err(|e| format!("{e:?}"))?;
            end.1.write_all(&[1]).await.map_err(|e| format!("{e:?}"))?;
            end.1.flush().await.map_err(|e| format!("{e:?}"))?;
            Ok(end)
        };
        tokio::join!(inbound, outbound)
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), ends).await.unwrap()
}

#[tokio::test]
async fn each_knows_the_other() {
    let (inbound, outbound) = meet(tls(1), tls(2)).await;
    let ((client, mut inbound), (server, mut outbound)) = (inbound.unwrap(), outbound.unwrap());
    assert_eq!((client, server), (id(2), id(1)));
    for end in [&inbound, &outbound] {
        let connection = end.get_ref().1;
        assert_eq!(connection.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(connection.alpn_protocol(), Some(&b"libp2p"[..]));
    }
    let (sent, mut received) = ((0..=255).cycle().take(300_000).collect::<Vec<u8>>(), vec![0; 300_000]);
    let send = async {
        inbound.write_all(&sent).await.unwrap();
        inbound.close().await.unwrap();
    };
    let receive = async {
        outbound.read_exact(&mut received).await.unwrap();
        assert_eq!(outbound.read(&mut [0]).await.unwrap(), 0);
    };
    tokio::join!(send, receive);
    assert!(received == sent);
}

#[tokio::test]
async fn libp2p_is_understood() {
    let (inbound, outbound) = meet(tls(1), Config::new(&key(2)).unwrap()).await;
    assert_eq!((inbound.unwrap().0, outbound.unwrap().0), (id(2), id(1)));
    let (inbound, outbound) = meet(Config::new(&key(1)).unwrap(), tls(2)).await;
    assert_eq!((inbound.unwrap().0, outbound.unwrap().0), (id(2), id(1)));
}

fn with(certificates: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Tls {
    Tls::with(CertifiedKey::new(certificates, sign::any_ecdsa_type(key).unwrap())).unwrap()
}

/// A certificate that libp2p did not make: the extension with the key of the node is not in it.
fn nameless() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let rcgen::CertifiedKey { cert, key_pair } = rcgen::generate_simple_self_signed([]).unwrap();
    (cert.into(), PrivateKeyDer::try_from(key_pair.serialize_der()).unwrap())
}

#[tokio::test]
async fn who_shows_something_else_is_not_let_in() {
    let (mine, my_key) = certificate::generate(&key(3)).unwrap();
    let (another, _) = certificate::generate(&key(4)).unwrap();
    let (nameless, its_key) = nameless();
    let mut bent = another.to_vec();
    *bent.last_mut().unwrap() ^= 1;
    let cheats = [
        ("the certificate of another", with(vec![another.clone()], &my_key), "BadSignature"),
        ("two certificates", with(vec![mine.clone(), another], &my_key), "exactly one certificate"),
        ("none", with(vec![], &my_key), "ertificate"),
        ("one without a key of libp2p", with(vec![nameless], &its_key), "BadEncoding"),
        ("one that has been changed", with(vec![CertificateDer::from(bent)], &my_key), "InvalidCertificate"),
    ];
    for (what, cheat, why) in cheats {
        let (inbound, outbound) = meet(tls(1), cheat.clone()).await;
        let refused = inbound.map(|(peer, _)| peer).unwrap_err();
        assert!(refused.contains(why), "a client shows {what}: {refused}");
        outbound.map(|(peer, _)| peer).unwrap_err();
        let (inbound, outbound) = meet(cheat, tls(1)).await;
        inbound.map(|(peer, _)| peer).unwrap_err();
        let refused = outbound.map(|(peer, _)| peer).unwrap_err();
        assert!(refused.contains(why), "a server shows {what}: {refused}");
    }
}
