//! A relay of our own: gives out the rounds of a network whose key is here, as drand's relays do.
//!
//! Walk: `holdfast chain relay` (and tests) → [`serve`]; [`super::client`] asks. Spec: `beacon.md` §4.
//! A round is signed when its time has come and never before, whatever is asked: its holder could predict, and nobody else may.
//! Bounds: [`MAX_CONNECTIONS`] sockets, [`MAX_PER_ADDRESS`] of one address, [`MAX_HEAD_BYTES`] a question, which has no body; a socket that
//! asks nothing is closed after [`IDLE`], any after [`LIFETIME`], whatever it asks or leaves unread (N4). Cost: 0.7 ms for a signature. Nothing is kept.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chain_lite::beacon::{BeaconParams, DevnetSigner, randomness};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use retrieval::peer::network_of;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::{RelayError, Round, unix_ms};

/// Open sockets.
pub const MAX_CONNECTIONS: usize = 256;
/// Open sockets of one address, or IPv6 network of 64 bits: four nodes that catch up behind one router.
pub const MAX_PER_ADDRESS: usize = 4 * super::client::BATCH;
/// Longest question, in bytes.
pub const MAX_HEAD_BYTES: usize = 8 << 10;
/// How long a socket may take for its next question.
pub const IDLE: Duration = Duration::from_secs(30);
/// How long a socket lasts at most; nodes open another.
pub const LIFETIME: Duration = Duration::from_secs(120);

/// Where signatures come from. Asked for rounds whose time has come only.
pub trait Rounds: Send + Sync + 'static {
    /// The signature of a round, if it is here.
    fn signature(&self, round: u64) -> Option<[u8; 48]>;
}

impl Rounds for DevnetSigner {
    fn signature(&self, round: u64) -> Option<[u8; 48]> {
        Some(self.sign(round).sig)
    }
}

/// Rounds that were published elsewhere.
impl Rounds for BTreeMap<u64, [u8; 48]> {
    fn signature(&self, round: u64) -> Option<[u8; 48]> {
        self.get(&round).copied()
    }
}

/// A running relay. Dropping it ends it.
pub struct RelayHandle {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl RelayHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What nodes are given.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Closes all sockets and waits until they are.
    pub async fn stop(mut self) {
        self.task.abort();
        // Cancelled is what we want.
        let _ = (&mut self.task).await;
    }
}

impl Drop for RelayHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the rounds of the network with these parameters on `addr` (port 0: any free one).
pub async fn serve(
    params: BeaconParams,
    rounds: Arc<dyn Rounds>,
    addr: SocketAddr,
) -> Result<RelayHandle, RelayError> {
    let bind = |source| RelayError::Bind { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(bind)?;
    let addr = listener.local_addr().map_err(bind)?;
    let relay = Arc::new(Relay { params, rounds });
    let task = tokio::spawn(listen(listener, relay, LIFETIME));
    Ok(RelayHandle { addr, task })
}

/// Takes connections until it is dropped, and drops them with it.
async fn listen(listener: TcpListener, relay: Arc<Relay>, lifetime: Duration) {
    let per_address = PerAddress::default();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut sockets = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        while sockets.try_join_next().is_some() {}
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors, or a peer that was gone at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(share) = Share::take(&per_address, from.ip()) else {
            continue;
        };
        let relay = Arc::clone(&relay);
        sockets.spawn(async move {
            let answer = service_fn(move |question: Request<Incoming>| {
                let relay = Arc::clone(&relay);
                async move { Ok::<_, Infallible>(relay.answer(&question).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), answer);
            let mut served = std::pin::pin!(served);
            // A peer that breaks off is its own affair.
            if timeout(lifetime, served.as_mut()).await.is_err() {
                // What was asked is answered, if it is read.
                served.as_mut().graceful_shutdown();
                drop(timeout(IDLE.min(lifetime), served).await);
            }
            drop((place, share));
        });
    }
}

/// Sockets by address.
type PerAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One socket of an address; not counted any more when dropped.
struct Share {
    counts: PerAddress,
    address: IpAddr,
}

impl Share {
    fn take(counts: &PerAddress, ip: IpAddr) -> Option<Self> {
        let address = network_of(ip);
        let mut open = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= MAX_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Self {
            counts: Arc::clone(counts),
            address,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

struct Relay {
    params: BeaconParams,
    rounds: Arc<dyn Rounds>,
}

type Refusal = (StatusCode, &'static str);
const UNKNOWN: Refusal = (StatusCode::NOT_FOUND, "there is nothing here");
const OTHER: Refusal = (StatusCode::BAD_REQUEST, "this relay serves another network");
const EARLY: Refusal = (StatusCode::TOO_EARLY, "the round is not due");
const BAD: Refusal = (StatusCode::BAD_REQUEST, "that is no round");

impl Relay {
    async fn answer(&self, question: &Request<Incoming>) -> Response<Full<Bytes>> {
        let found = match *question.method() {
            Method::GET => self.route(question.uri().path()).await,
            _ => Err((StatusCode::METHOD_NOT_ALLOWED, "only GET is answered")),
        };
        let (status, body) = match found {
            Ok(body) => (StatusCode::OK, body),
            Err((status, why)) => (status, json!({ "error": why })),
        };
        let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
        *answer.status_mut() = status;
        let json = hyper::header::HeaderValue::from_static("application/json");
        answer.headers_mut().insert(CONTENT_TYPE, json);
        answer
    }

    async fn route(&self, path: &str) -> Result<Value, Refusal> {
        let hash = hex::encode(self.params.chain_hash);
        let id = self.params.beacon_id.as_str();
        let named = |name: &str, ours: &str| if name == ours { Ok(()) } else { Err(OTHER) };
        let words: Vec<&str> = path.trim_matches('/').split('/').take(6).collect();
        match words[..] {
            ["chains"] | ["v2", "chains"] => Ok(json!([hash])),
            ["v2", "beacons"] => Ok(json!([id])),
            ["v2", kind @ ("chains" | "beacons"), name, ref rest @ ..] => {
                named(name, if kind == "chains" { &hash } else { id })?;
                match rest {
                    ["info"] => Ok(self.info_v2(&hash)),
                    ["health"] => Ok(self.health()),
                    ["rounds", n] => Ok(json!(self.round(n, true).await?)),
                    _ => Err(UNKNOWN),
                }
            }
            [name, "info"] => named(name, &hash).map(|()| self.info_v1(&hash)),
            [name, "health"] => named(name, &hash).map(|()| self.health()),
            [name, "public", n] => {
                named(name, &hash)?;
                let found = self.round(n, false).await?;
                let mut sig = [0u8; 48];
                hex::decode_to_slice(&found.signature, &mut sig).map_err(|_| BAD)?;
                let value = hex::encode(randomness(&sig));
                Ok(json!({
                    "round": found.round, "randomness": value, "signature": found.signature,
                }))
            }
            _ => Err(UNKNOWN),
        }
    }

    fn info_v2(&self, hash: &str) -> Value {
        let p = &self.params;
        json!({
            "public_key": hex::encode(p.pk), "period": p.period, "genesis_time": p.genesis_time,
            "genesis_seed": hex::encode(p.genesis_seed), "chain_hash": hash, "scheme": p.scheme,
            "beacon_id": p.beacon_id,
        })
    }

    fn info_v1(&self, hash: &str) -> Value {
        let p = &self.params;
        json!({
            "public_key": hex::encode(p.pk), "period": p.period, "genesis_time": p.genesis_time,
            "groupHash": hex::encode(p.genesis_seed), "hash": hash, "schemeID": p.scheme,
            "metadata": { "beaconID": p.beacon_id },
        })
    }

    fn health(&self) -> Value {
        let now = self.newest();
        json!({ "current": now, "expected": now })
    }

    /// The newest round whose time has come; 0 before the first.
    fn newest(&self) -> u64 {
        let seconds = i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX);
        self.params.round_at(seconds)
    }

    async fn round(&self, n: &str, has_next: bool) -> Result<Round, Refusal> {
        let newest = self.newest();
        let number = match n {
            "latest" => 0,
            "next" if has_next => newest.saturating_add(1),
            n => n.parse().map_err(|_| BAD)?,
        };
        let number = if number == 0 { newest } else { number };
        if number == 0 || number > newest.saturating_add(1) {
            return Err(EARLY);
        }
        if number > newest {
            self.wait_for(number).await;
        }
        let found = self.rounds.signature(number).ok_or(UNKNOWN)?;
        Ok(Round {
            round: number,
            signature: hex::encode(found),
        })
    }

    /// Until a round's time has come.
    async fn wait_for(&self, round: u64) {
        while self.newest() < round {
            let due = self.params.time_of_round(round).unwrap_or(i64::MAX);
            let due_ms = u64::try_from(due).unwrap_or(0).saturating_mul(1_000);
            // Looked at again at least each second: the machine's clock may be set meanwhile.
            let wait = due_ms.saturating_sub(unix_ms()).clamp(1, 1_000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Far beyond what it takes: only so that a wrong program ends the test.
    const LONG: Duration = Duration::from_secs(60);
    const QUESTION: &[u8] = b"GET /chains HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn relay(lifetime: Duration) -> (SocketAddr, JoinHandle<()>) {
        let key = DevnetSigner::from_seed(&[1; 32]);
        let relay = Relay {
            params: BeaconParams::devnet(&key, 0),
            rounds: Arc::new(key),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let listening = listen(listener, Arc::new(relay), lifetime);
        (addr, tokio::spawn(listening))
    }

    /// Asks until it is told no more.
    async fn ask_for_ever(stream: &mut TcpStream) {
        let mut bytes = [0; 4096];
        while stream.write_all(QUESTION).await.is_ok() {
            match stream.read(&mut bytes).await {
                Ok(1..) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(0) | Err(_) => return,
            }
        }
    }

    #[tokio::test]
    async fn tm_n4_a_socket_ends_whatever_it_asks_and_though_it_reads_nothing() {
        let (addr, task) = relay(Duration::from_millis(200)).await;
        let mut asks = TcpStream::connect(addr).await.expect("listens");
        let asking = timeout(LONG, ask_for_ever(&mut asks)).await;
        asking.expect("its time ends");
        // Questions until the answers fill every buffer between us, and then none is read.
        let mut deaf = TcpStream::connect(addr).await.expect("listens");
        let asking = async { while deaf.write_all(QUESTION).await.is_ok() {} };
        timeout(LONG, asking).await.expect("its time ends");
        task.abort();
    }

    #[tokio::test]
    async fn tm_n4_one_address_has_its_share_of_the_sockets() {
        let (addr, task) = relay(LIFETIME).await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            held.push(TcpStream::connect(addr).await.expect("listens"));
        }
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind("127.0.0.2:0".parse().expect("valid"))
            .expect("free");
        let mut other = socket.connect(addr).await.expect("listens");
        other.write_all(QUESTION).await.expect("open");
        let mut byte = [0];
        let answer = timeout(LONG / 4, other.read(&mut byte)).await;
        assert!(matches!(answer, Ok(Ok(1))), "{answer:?}");
        // The first has its place, the last was turned away.
        let mut first = held.swap_remove(0);
        first.write_all(QUESTION).await.expect("open");
        assert!(matches!(first.read(&mut byte).await, Ok(1)));
        let last = held.last_mut().expect("many");
        assert!(matches!(last.read(&mut byte).await, Ok(0) | Err(_)));
        drop(first);
        task.abort();
    }
}
