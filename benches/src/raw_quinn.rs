//! The yardstick of the retrieval benches: quinn with its defaults over the same TLS and keys, plain bytes on a stream.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use retrieval::{
    ChainTag, NetSecret, PeerAddr,
    endpoint::tls::{client_config, server_config},
    wire::alpn,
};

const CHAIN: ChainTag = ChainTag([0xbe, 0xac, 0x5e, 0x02]);

/// A server that answers each stream's 8-byte little-endian request with so many bytes, and the key it proves.
pub fn server(addr: SocketAddr) -> (quinn::Endpoint, PeerAddr) {
    let secret = NetSecret::generate();
    let tls = server_config(&secret, &alpn(CHAIN)).expect("a cipher suite");
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
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
    let addr = endpoint.local_addr().expect("bound");
    let peer = secret.peer_id();
    (endpoint, PeerAddr { peer, addr })
}

/// A connection to such a server.
pub async fn connect(client: &quinn::Endpoint, to: PeerAddr) -> quinn::Connection {
    let tls = client_config(&NetSecret::generate(), &alpn(CHAIN), to.peer).expect("a cipher suite");
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let connecting = client.connect_with(config, to.addr, "raw").expect("valid");
    connecting.await.expect("connected")
}

/// A client of such servers.
pub fn client() -> quinn::Endpoint {
    quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a free port")
}

/// Seconds for so many bytes from these servers at once, an equal share from each.
pub async fn measure(servers: &[PeerAddr], bytes: u64) -> f64 {
    let client = client();
    let share = bytes / servers.len() as u64;
    let mut connections = Vec::new();
    for server in servers {
        connections.push(connect(&client, *server).await);
    }
    let begin = Instant::now();
    let downloads: Vec<_> = connections
        .iter()
        .map(|connection| {
            let connection = connection.clone();
            tokio::spawn(async move { download(&connection, share).await })
        })
        .collect();
    for download in downloads {
        assert_eq!(download.await.expect("downloaded"), share);
    }
    begin.elapsed().as_secs_f64()
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
