//! The network: one UDP socket, QUIC, and sessions kept warm.
//!
//! Walk: `storage_node` binds one [`Endpoint`] per process; `push` and `fetch` take a [`Session`] from it; `serve`
//! accepts on it. Spec: `network.md` §§2.4, 2.5. Threat N5: the peer's key is pinned and the chain is in the ALPN, so a
//! wrong peer or another chain fails in the handshake, before a word of ours is said.
//!
//! ```no_run
//! # async fn example(provider: retrieval::PeerAddr, piece: retrieval::PieceKey) -> Result<(), retrieval::Error> {
//! use retrieval::{ChainTag, Endpoint, Limits};
//! let endpoint = Endpoint::client(ChainTag([0xde, 0xad, 0xbe, 0xef]), Limits::default())?;
//! let session = endpoint.session(provider).await?;
//! let bytes = session.read(piece, 0..1024).await?;
//! # Ok(()) }
//! ```

mod client;
pub mod line;
pub mod tls;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use client::{GetStream, Session};
pub(crate) use client::{read_frame, unix_ms, write_all};
use quinn::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::{
    error::Error,
    limits::{LOOPBACK_DATAGRAM_BYTES, Limits},
    peer::{NetSecret, PeerAddr, PeerId},
    wire::{ChainTag, CloseCode, PieceRoot, alpn},
};

/// A piece as a reader must know it: root and size, both from the signed deal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PieceKey {
    /// BLAKE3 root.
    pub root: PieceRoot,
    /// Bytes of the unpadded piece.
    pub size: u64,
}

/// Kernel buffers for one socket. Asked for, not demanded: the system's own limit may be lower.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// One UDP socket, both sides of the protocol. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    quinn: quinn::Endpoint,
    secret: NetSecret,
    chain: ChainTag,
    limits: Limits,
    local: SocketAddr,
    /// One slot per peer; its lock makes concurrent callers share one handshake.
    sessions: Mutex<HashMap<PeerAddr, Arc<tokio::sync::Mutex<Option<Session>>>>>,
}

impl Endpoint {
    /// Binds a socket that can serve and connect. Must be called inside a tokio runtime.
    pub fn bind(
        addr: SocketAddr,
        secret: NetSecret,
        chain: ChainTag,
        limits: Limits,
    ) -> Result<Self, Error> {
        let socket = open_socket(addr).map_err(Error::io("binding the UDP socket"))?;
        Self::on_socket(socket, secret, chain, limits)
    }

    /// A socket that only connects: any free port, a throw-away key.
    pub fn client(chain: ChainTag, limits: Limits) -> Result<Self, Error> {
        Self::on_socket(client_socket()?, NetSecret::generate(), chain, limits)
    }

    fn on_socket(
        socket: UdpSocket,
        secret: NetSecret,
        chain: ChainTag,
        limits: Limits,
    ) -> Result<Self, Error> {
        let (quinn, local) = start_quinn(socket, &limits)?;
        Ok(Self(Arc::new(Inner {
            quinn,
            secret,
            chain,
            limits,
            local,
            sessions: Mutex::default(),
        })))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Its own identity.
    pub fn peer_id(&self) -> PeerId {
        self.0.secret.peer_id()
    }

    /// Identity and address together, for others to connect to.
    pub fn peer_addr(&self) -> PeerAddr {
        PeerAddr {
            peer: self.peer_id(),
            addr: self.local_addr(),
        }
    }

    /// The chain whose protocol it speaks.
    pub fn chain(&self) -> ChainTag {
        self.0.chain
    }

    /// The limits it was bound with.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// An open session with this peer: the kept-warm one, or a new one. A session ends by itself after
    /// [`Limits::session_timeout`] without a request.
    pub async fn session(&self, to: PeerAddr) -> Result<Session, Error> {
        let slot = self.slot(to);
        let mut slot = slot.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.is_open()) {
            return Ok(session.clone());
        }
        let session = self.connect(to).await?;
        *slot = Some(session.clone());
        Ok(session)
    }

    fn slot(&self, to: PeerAddr) -> Arc<tokio::sync::Mutex<Option<Session>>> {
        let mut sessions = lock(&self.0.sessions);
        if sessions.len() >= self.0.limits.max_connections {
            // Forget what is closed; what is being opened or in use has its lock or another owner.
            sessions.retain(|_, slot| {
                slot.try_lock()
                    .map_or(true, |s| s.as_ref().is_some_and(Session::is_open))
            });
        }
        sessions.entry(to).or_default().clone()
    }

    /// A new session of the caller's own, whatever is kept warm.
    pub async fn connect(&self, to: PeerAddr) -> Result<Session, Error> {
        let inner = &self.0;
        let protocol = alpn(inner.chain);
        let transport = transport(&inner.limits, Role::Client, to.addr);
        let connecting = start_connecting(&inner.quinn, &inner.secret, &protocol, transport, to)?;
        Session::open(to, connecting, inner.chain, &inner.limits).await
    }

    /// Says goodbye to all peers and waits until they heard it, a second at most.
    pub async fn close(&self) {
        self.0
            .quinn
            .close(CloseCode::Shutdown.var_int(), b"shutdown");
        // A peer that does not answer must not hold our exit.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.quinn.wait_idle()).await;
    }

    /// Starts accepting; used by `serve`.
    pub(crate) fn listen(&self) -> Result<quinn::Endpoint, Error> {
        self.0
            .quinn
            .set_server_config(Some(self.server_config(false)?));
        Ok(self.0.quinn.clone())
    }

    /// How to serve a client: on this machine with large datagrams, elsewhere with what the path carries.
    pub(crate) fn server_config(&self, loopback: bool) -> Result<quinn::ServerConfig, Error> {
        let inner = &self.0;
        let (protocol, limits) = (alpn(inner.chain), &inner.limits);
        server_config(&inner.secret, &protocol, limits, Role::Server, loopback)
    }
}

/// Begins a handshake with the one peer whose key is pinned.
fn start_connecting(
    quinn: &quinn::Endpoint,
    secret: &NetSecret,
    protocol: &[u8],
    transport: TransportConfig,
    to: PeerAddr,
) -> Result<quinn::Connecting, Error> {
    let tls = tls::client_config(secret, protocol, to.peer)
        .map_err(|error| Error::Invalid(format!("TLS setup: {error}")))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    // The name is not sent and not checked: the pinned key is the name.
    quinn
        .connect_with(config, to.addr, "holdfast")
        .map_err(|error| Error::Unreachable {
            peer: to,
            why: error.to_string(),
        })
}

fn server_config(
    secret: &NetSecret,
    protocol: &[u8],
    limits: &Limits,
    role: Role,
    loopback: bool,
) -> Result<quinn::ServerConfig, Error> {
    let tls = tls::server_config(secret, protocol)
        .map_err(|error| Error::Invalid(format!("TLS setup: {error}")))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let peer = if loopback {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    config.transport_config(Arc::new(transport(limits, role, (peer, 0).into())));
    // We answer each first packet at once (accept, Retry or drop), so little waits.
    config.max_incoming(limits.max_handshakes.max(16));
    config.incoming_buffer_size(16 * 1024);
    config.incoming_buffer_size_total(4 * 1024 * 1024);
    Ok(config)
}

/// QUIC on a socket, and where that listens.
fn start_quinn(socket: UdpSocket, limits: &Limits) -> Result<(quinn::Endpoint, SocketAddr), Error> {
    let local = socket
        .local_addr()
        .map_err(Error::io("reading the socket's address"))?;
    let mut config = EndpointConfig::default();
    // What we accept; what others send on a real network stays what their path discovery finds.
    let accepted = limits.max_datagram_bytes.max(LOOPBACK_DATAGRAM_BYTES);
    config
        .max_udp_payload_size(accepted)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let quinn =
        quinn::Endpoint::new(config, None, socket, runtime).map_err(Error::io("starting QUIC"))?;
    Ok((quinn, local))
}

/// A socket that only connects.
fn client_socket() -> Result<UdpSocket, Error> {
    open_socket((Ipv6Addr::UNSPECIFIED, 0).into())
        .or_else(|_| open_socket((Ipv4Addr::UNSPECIFIED, 0).into()))
        .map_err(Error::io("binding a UDP socket"))
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Endpoint({} on {})",
            self.peer_id().short(),
            self.local_addr()
        )
    }
}

/// The peer whose key a finished handshake proved.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let identity = connection.peer_identity()?;
    let certificates = identity
        .downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
        .ok()?;
    tls::peer_of(certificates.first()?)
}

/// A poisoned lock only means that another task panicked between two plain assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    let options = socket2::SockRef::from(&socket);
    // Bursts of a whole window land here while our task waits for a core; a smaller buffer only costs speed.
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
    /// The sending end of a line, which dialled.
    LineOut,
    /// The hearing end of a line.
    LineIn,
}

fn transport(limits: &Limits, role: Role, remote: SocketAddr) -> TransportConfig {
    let mut config = TransportConfig::default();
    let window = if role == Role::Client {
        limits.client_window_bytes
    } else {
        limits.idle_window_bytes
    };
    // Providers never open streams: a client needs to offer none.
    let streams = if role == Role::Server {
        u32::from(limits.max_streams)
    } else {
        0
    };
    let lines = u32::from(role == Role::LineIn);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(lines))
        .datagram_receive_buffer_size(None)
        .receive_window(var_int(window))
        .stream_receive_window(var_int(limits.stream_window_bytes))
        .send_window(limits.send_window_bytes)
        // One stream after another: a reader's first unit is whole before its second begins.
        .send_fairness(false)
        .max_idle_timeout(quinn::IdleTimeout::try_from(limits.idle_timeout).ok())
        .ack_frequency_config(Some(quinn::AckFrequencyConfig::default()));
    if matches!(role, Role::Client | Role::LineOut) {
        // A put's answer may take longer than the idle timeout; the other end ends idle sessions by its own rule.
        config.keep_alive_interval(Some(limits.idle_timeout / 3));
    }
    let mut discovery = MtuDiscoveryConfig::default();
    if remote.ip().to_canonical().is_loopback() {
        discovery.upper_bound(LOOPBACK_DATAGRAM_BYTES);
        config.initial_mtu(LOOPBACK_DATAGRAM_BYTES);
    } else {
        discovery.upper_bound(limits.max_datagram_bytes);
    }
    config.mtu_discovery_config(Some(discovery));
    config
}

fn var_int(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}
