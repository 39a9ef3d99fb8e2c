//! The yardstick of the retrieval benches: quinn with its defaults and the same raw public keys, plain bytes on a stream.

use std::{net::SocketAddr, sync::Arc};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{
        CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    },
    server::AlwaysResolvesServerRawPublicKeys,
    sign::CertifiedKey,
    version::TLS13,
};

const ALPN: &[u8] = b"holdfast-bench-raw";

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A server that answers each stream's 8-byte little-endian request with so many bytes.
pub fn server(addr: SocketAddr) -> quinn::Endpoint {
    let secret = retrieval::NetSecret::generate();
    let pkcs8 = [
        &hex::decode("302e020100300506032b657004220420").expect("hex")[..],
        &secret.to_seed(),
    ]
    .concat();
    let key = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))
        .expect("a key");
    let spki = [
        &hex::decode("302a300506032b6570032100").expect("hex")[..],
        secret.peer_id().as_bytes(),
    ]
    .concat();
    let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(
        QuicServerConfig::try_from(tls).expect("a cipher suite"),
    ));
    let endpoint = quinn::Endpoint::server(config, addr).expect("a free port");
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        let block = vec![0x5a; 256 * 1024];
        while let Some(incoming) = accepting.accept().await {
            let block = block.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    let block = block.clone();
                    tokio::spawn(async move {
                        let mut want = [0; 8];
                        if recv.read_exact(&mut want).await.is_err() {
                            return;
                        }
                        let mut left = u64::from_le_bytes(want) as usize;
                        while left > 0 {
                            let n = left.min(block.len());
                            if send.write_all(&block[..n]).await.is_err() {
                                return;
                            }
                            left -= n;
                        }
                        let _ = send.finish();
                    });
                }
            });
        }
    });
    endpoint
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        let key = SubjectPublicKeyInfoDer::from(cert.as_ref());
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client of such servers.
pub fn client() -> quinn::Endpoint {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a free port");
    let crypto = QuicClientConfig::try_from(tls).expect("a cipher suite");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

/// Reads so many bytes from one server over one stream.
pub async fn download(connection: &quinn::Connection, bytes: u64) -> u64 {
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_all(&bytes.to_le_bytes()).await.expect("sent");
    send.finish().expect("open");
    let mut buffer = vec![0; 256 * 1024];
    let mut got = 0;
    while let Some(n) = recv.read(&mut buffer).await.expect("bytes") {
        got += n as u64;
    }
    got
}
