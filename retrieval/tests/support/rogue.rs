//! Providers that break the rules: a bare QUIC server that greets properly and then does what the test says.

use std::{future::Future, pin::Pin, sync::Arc};

use quinn::{RecvStream, SendStream, crypto::rustls::QuicServerConfig};
use retrieval::{
    NetSecret, PeerAddr,
    wire::{Hello, Request, Response, VERSION, alpn},
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::CHAIN;

type Answer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Answers one request: gets the request and its stream.
pub type Script = Arc<dyn Fn(Request, SendStream, RecvStream) -> Answer + Send + Sync>;

/// A script from an async closure's parts.
pub fn script<F, Fut>(f: F) -> Script
where
    F: Fn(Request, SendStream, RecvStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |request, send, recv| Box::pin(f(request, send, recv)))
}

#[derive(Debug)]
struct AnyKey;

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
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

fn server_config(secret: &NetSecret) -> quinn::ServerConfig {
    let pkcs8 = [
        &hex::decode("302e020100300506032b657004220420").unwrap()[..],
        &secret.to_seed(),
    ]
    .concat();
    let key = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).unwrap();
    let spki = [
        &hex::decode("302a300506032b6570032100").unwrap()[..],
        secret.peer_id().as_bytes(),
    ]
    .concat();
    let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyKey))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    tls.alpn_protocols = vec![alpn(CHAIN)];
    quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()))
}

/// Starts a rogue; it lives until the test's runtime ends.
pub fn start(script: Script) -> PeerAddr {
    let secret = NetSecret::generate();
    let endpoint =
        quinn::Endpoint::server(server_config(&secret), "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = PeerAddr {
        peer: secret.peer_id(),
        addr: endpoint.local_addr().unwrap(),
    };
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    let script = script.clone();
                    tokio::spawn(async move {
                        let Some(request) = read_request(&mut recv).await else {
                            return;
                        };
                        if matches!(request, Request::Hello(_)) {
                            let hello = Hello {
                                version: VERSION,
                                chain: CHAIN,
                                features: 0,
                                max_streams: 256,
                                unix_ms: 0,
                                info: vec![],
                            };
                            send.write_all(&Response::Hello(hello).encode().unwrap())
                                .await
                                .unwrap();
                            send.finish().unwrap();
                        } else {
                            script(request, send, recv).await;
                        }
                    });
                }
            });
        }
    });
    addr
}

async fn read_request(recv: &mut RecvStream) -> Option<Request> {
    let mut prefix = [0; 4];
    recv.read_exact(&mut prefix).await.ok()?;
    let mut frame = vec![0; u32::from_le_bytes(prefix) as usize];
    recv.read_exact(&mut frame).await.ok()?;
    Request::decode(&frame).ok()
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        AnyKey.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client that can say anything: a bare QUIC endpoint with a key of its own.
pub fn client(secret: &NetSecret) -> quinn::Endpoint {
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config(secret));
    endpoint
}

fn config(secret: &NetSecret) -> quinn::ClientConfig {
    let pkcs8 = [
        &hex::decode("302e020100300506032b657004220420").unwrap()[..],
        &secret.to_seed(),
    ]
    .concat();
    let key = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).unwrap();
    let spki = [
        &hex::decode("302a300506032b6570032100").unwrap()[..],
        secret.peer_id().as_bytes(),
    ]
    .concat();
    let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_cert_resolver(Arc::new(
            rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified),
        ));
    tls.alpn_protocols = vec![alpn(CHAIN)];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    quinn::ClientConfig::new(Arc::new(crypto))
}

/// Connects and greets.
pub async fn greeted(to: PeerAddr) -> (quinn::Endpoint, quinn::Connection) {
    let endpoint = client(&NetSecret::generate());
    let connection = endpoint.connect(to.addr, "x").unwrap().await.unwrap();
    greet(&connection).await;
    (endpoint, connection)
}

/// As [`greeted`], as somebody new through an endpoint that is there (each has megabytes of buffers), who takes at most so many unread
/// bytes: what this end holds is not what a test of the provider's memory is about.
pub async fn greeted_as_another(
    endpoint: &quinn::Endpoint,
    to: PeerAddr,
    window_bytes: u32,
) -> quinn::Connection {
    let mut transport = quinn::TransportConfig::default();
    transport.receive_window(window_bytes.into());
    let mut config = config(&NetSecret::generate());
    config.transport_config(Arc::new(transport));
    let connecting = endpoint.connect_with(config, to.addr, "x").unwrap();
    let connection = connecting.await.unwrap();
    greet(&connection).await;
    connection
}

async fn greet(connection: &quinn::Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello = Hello {
        version: VERSION,
        chain: CHAIN,
        features: 0,
        max_streams: 0,
        unix_ms: 0,
        info: vec![],
    };
    send.write_all(&Request::Hello(hello).encode().unwrap())
        .await
        .unwrap();
    send.finish().unwrap();
    recv.read_to_end(1 << 16).await.unwrap();
}
