//! Lines: one-way streams of frames from a peer that dialled to one that listens, both known by their keys.
//!
//! Walk: on no piece's way. `storage_node::chain::gossip` sends transactions over lines; what a frame means is its business.
//! Spec: `consensus.md` §8 (gossip), `network.md` §§2.4, 2.5 for everything below the frames, which is the piece protocol's:
//! raw public keys, the listener's pinned (N5), Retry, caps and windows of [`Limits`] (N1, N2, N4).
//! Bytes: the dialler opens one unidirectional stream; on it frames of `u32` little-endian length and as many bytes, at least one
//! and at most [`LineConfig::max_frame_bytes`], judged before they are allocated (N3). Nothing is ever answered: who writes
//! learns of the other end only that it does not read, or closed.
//! Who: a peer is judged as soon as its key is proved ([`Welcome`]), and its place at the door is free again then: so those who shake
//! hands and say nothing keep nobody out (N4, V4). How many strangers may stay is what `welcome` grants; a known peer has
//! [`Limits::max_connections_per_peer`].
//! Memory: a listener holds one frame and [`Limits::idle_window_bytes`] for each of those lines, and [`Limits::max_handshakes`] handshakes.
//! Crash: nothing is kept.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{RecvStream, SendStream};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Role, client::handshake_error, client_socket, open_socket, peer_of, server_config,
    start_connecting, start_quinn, transport, write_all,
};
use crate::{
    error::Error,
    limits::Limits,
    peer::{NetSecret, PeerAddr, PeerId},
    serve::{
        Door, ServeStats, ServerConfigs, accept_loop,
        gate::{Gate, Place, Visit},
    },
    session::FrameReader,
    wire::{CloseCode, WireError},
};

/// What a protocol over lines needs to say of itself.
#[derive(Clone, Debug)]
pub struct LineConfig {
    /// Its ALPN name, with what tells two networks apart: another one fails in the handshake.
    pub protocol: Vec<u8>,
    /// Most bytes of a frame.
    pub max_frame_bytes: usize,
    /// `max_connections…`, `…handshake…`, `idle_window_bytes`, `send_window_bytes` and the timeouts apply.
    /// `request_timeout`: from a frame's first byte to its last. `stall_timeout`: until a written frame is taken.
    pub limits: Limits,
}

/// How long a stranger may take to open its line; never more than [`Limits::request_timeout`].
pub const STRANGER_PATIENCE: Duration = Duration::from_secs(1);

/// What a listener says to a peer that proved its key and said nothing yet. `G` goes to `hear` with the line, and is dropped
/// with it or when no line comes.
#[derive(Debug)]
pub enum Welcome<G> {
    /// It opens its line when it has something to say, within [`Limits::request_timeout`].
    Known(G),
    /// Anybody: it says something within [`STRANGER_PATIENCE`], or goes.
    Stranger(G),
    /// There is no room for it.
    Full,
}

/// One UDP socket for both ends of lines. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Inner>);

struct Inner {
    quinn: quinn::Endpoint,
    secret: NetSecret,
    local: SocketAddr,
    config: LineConfig,
}

impl Lines {
    /// Binds the socket, at any free port if no address is named. Must be called inside a tokio runtime.
    pub fn bind(
        addr: Option<SocketAddr>,
        secret: NetSecret,
        config: LineConfig,
    ) -> Result<Self, Error> {
        let socket = match addr {
            Some(addr) => open_socket(addr).map_err(Error::io("binding the UDP socket"))?,
            None => client_socket()?,
        };
        let (quinn, local) = start_quinn(socket, &config.limits)?;
        Ok(Self(Arc::new(Inner {
            quinn,
            secret,
            local,
            config,
        })))
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Its own identity.
    pub fn peer_id(&self) -> PeerId {
        self.0.secret.peer_id()
    }

    /// A line to the peer with this key.
    pub async fn dial(&self, to: PeerAddr) -> Result<LineOut, Error> {
        let Inner {
            quinn,
            secret,
            config,
            ..
        } = &*self.0;
        let limits = &config.limits;
        let transport = transport(limits, Role::LineOut, to.addr);
        let connecting = start_connecting(quinn, secret, &config.protocol, transport, to)?;
        let unreachable = |why: String| Error::Unreachable { peer: to, why };
        let patience = limits.handshake_timeout;
        let connection = timeout(patience, connecting)
            .await
            .map_err(|_| unreachable(format!("no handshake within {patience:?}")))?
            .map_err(|error| handshake_error(to, error))?;
        let send = timeout(patience, connection.open_uni())
            .await
            .map_err(|_| unreachable("it takes no line".into()))?
            .map_err(|error| handshake_error(to, error))?;
        Ok(LineOut {
            connection,
            send,
            max_frame_bytes: config.max_frame_bytes,
            stall: limits.stall_timeout,
        })
    }

    /// Hears lines, each in a task of its own, until the token is cancelled; the code that `hear` returns is told the peer.
    /// `welcome` judges a peer by its key and address, and bounds how many stay: the caps of [`Limits`] end with the handshake.
    pub fn listen<F, G>(
        &self,
        shutdown: CancellationToken,
        welcome: impl Fn(PeerId, IpAddr) -> Welcome<G> + Clone + Send + Sync + 'static,
        hear: impl Fn(LineIn, G) -> F + Clone + Send + Sync + 'static,
    ) -> Result<JoinHandle<()>, Error>
    where
        F: Future<Output = CloseCode> + Send + 'static,
        G: Send + 'static,
    {
        let Inner {
            quinn,
            secret,
            config,
            ..
        } = &*self.0;
        let server = |loopback| {
            let (protocol, limits) = (&config.protocol, &config.limits);
            server_config(secret, protocol, limits, Role::LineIn, loopback).map(Arc::new)
        };
        let configs = ServerConfigs {
            loopback: server(true)?,
            network: server(false)?,
        };
        quinn.set_server_config(Some((*configs.network).clone()));
        let gate = Gate::new(config.limits.clone());
        let door = Door {
            quinn: quinn.clone(),
            gate: gate.clone(),
            configs,
            stats: Arc::new(ServeStats::default()),
        };
        let (config, ending) = (config.clone(), shutdown.clone());
        let run = move |connecting, place| {
            let (config, gate, ending) = (config.clone(), gate.clone(), ending.clone());
            let doing = (welcome.clone(), hear.clone());
            run(connecting, place, gate, config, ending, doing)
        };
        Ok(tokio::spawn(accept_loop(door, shutdown, run)))
    }

    /// Ends all lines of both directions and waits until the peers heard it, a second at most.
    pub async fn close(&self) {
        self.0
            .quinn
            .close(CloseCode::Shutdown.var_int(), b"shutdown");
        // A peer that does not answer must not hold our exit.
        let _ = timeout(Duration::from_secs(1), self.0.quinn.wait_idle()).await;
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({} on {})", self.peer_id().short(), self.0.local)
    }
}

/// The writing end of a line. Dropping it ends the line; what was not acknowledged by then may be lost.
#[derive(Debug)]
pub struct LineOut {
    connection: quinn::Connection,
    send: SendStream,
    max_frame_bytes: usize,
    stall: Duration,
}

impl LineOut {
    /// Writes a frame of these bytes: into the window, or onto the wire; whether the peer took it is not known.
    /// Fails when the peer takes nothing for too long or closed; the line is of no use then.
    pub async fn send(&mut self, body: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        if body.is_empty() || body.len() > self.max_frame_bytes {
            return Err(Error::Invalid(format!("a frame of {length} bytes")));
        }
        let frame = [&length.to_le_bytes()[..], body].concat();
        write_all(&mut self.send, &frame, self.stall).await
    }

    /// Waits until the peer ends the line, and says how.
    pub async fn closed(&self) -> Error {
        Error::Closed(self.connection.closed().await.to_string())
    }
}

/// The hearing end of a line, of a peer that proved its key.
#[derive(Debug)]
pub struct LineIn {
    recv: RecvStream,
    frames: FrameReader,
    peer: PeerId,
    frame_timeout: Duration,
    /// Its place among the peer's connections.
    _visit: Visit,
}

impl LineIn {
    /// Who writes.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The next frame; `None` when the peer ended the line or wrote nothing for `idle`. A frame that began must be whole
    /// within [`Limits::request_timeout`].
    pub async fn next(&mut self, idle: Duration) -> Result<Option<Vec<u8>>, Error> {
        let closed = |error: quinn::ReadError| Error::Closed(error.to_string());
        let first = timeout(idle, self.recv.read(self.frames.space())).await;
        let mut read = match first {
            Ok(read) => read.map_err(closed)?,
            Err(_) => return Ok(None),
        };
        let Self { recv, frames, .. } = self;
        let whole = async {
            loop {
                let Some(n) = read else {
                    return match frames.is_at_boundary() {
                        true => Ok(None),
                        false => Err(WireError::Truncated.into()),
                    };
                };
                if let Some(frame) = frames.advance(n)? {
                    return Ok(Some(frame));
                }
                read = recv.read(frames.space()).await.map_err(closed)?;
            }
        };
        let patience = self.frame_timeout;
        timeout(patience, whole)
            .await
            .map_err(|_| Error::Stalled(patience))?
    }
}

/// Runs one connection to its end.
async fn run<F: Future<Output = CloseCode>, G>(
    connecting: quinn::Connecting,
    place: Place,
    gate: Arc<Gate>,
    config: LineConfig,
    shutdown: CancellationToken,
    (welcome, hear): (
        impl Fn(PeerId, IpAddr) -> Welcome<G>,
        impl Fn(LineIn, G) -> F,
    ),
) {
    let limits = &config.limits;
    let Ok(Ok(connection)) = timeout(limits.handshake_timeout, connecting).await else {
        return;
    };
    let close = |code: CloseCode, why: &str| connection.close(code.var_int(), why.as_bytes());
    let known = peer_of(&connection);
    let Some((peer, mut visit)) = known.and_then(|peer| Some((peer, gate.enter(peer, place)?)))
    else {
        return close(CloseCode::Limit, "too many connections of this peer");
    };
    let ip = connection.remote_address().ip().to_canonical();
    let (guest, patience) = match welcome(peer, ip) {
        Welcome::Known(guest) => (guest, limits.request_timeout),
        Welcome::Stranger(guest) => (guest, limits.request_timeout.min(STRANGER_PATIENCE)),
        Welcome::Full => return close(CloseCode::Limit, "no room for strangers"),
    };
    visit.leave_door();
    // The stream comes with its first bytes: a dialler opens a line when it has something to say.
    let Ok(Ok(recv)) = timeout(patience, connection.accept_uni()).await else {
        return close(CloseCode::TooSlow, "no line");
    };
    let line = LineIn {
        recv,
        frames: FrameReader::within(config.max_frame_bytes),
        peer,
        frame_timeout: limits.request_timeout,
        _visit: visit,
    };
    let code = tokio::select! {
        code = hear(line, guest) => code,
        () = shutdown.cancelled() => CloseCode::Shutdown,
    };
    close(code, "");
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(60);

    fn config() -> LineConfig {
        LineConfig {
            protocol: b"test/1".to_vec(),
            max_frame_bytes: 1000,
            // Whoever waits for one of these makes it `SOON`.
            limits: Limits {
                handshake_timeout: LATE,
                request_timeout: LATE,
                stall_timeout: LATE,
                idle_window_bytes: 4096,
                stream_window_bytes: 4096,
                ..Limits::loopback()
            },
        }
    }

    type Heard = Arc<Mutex<Vec<Result<Vec<u8>, String>>>>;

    /// A listener that keeps what it hears, and what ends a line.
    fn listener(idle: Duration) -> (Lines, Heard, CancellationToken) {
        listener_with(idle, LATE)
    }

    fn listener_with(
        idle: Duration,
        request_timeout: Duration,
    ) -> (Lines, Heard, CancellationToken) {
        let mut config = config();
        config.limits.request_timeout = request_timeout;
        let addr = Some(([127, 0, 0, 1], 0).into());
        let lines = Lines::bind(addr, NetSecret::generate(), config).expect("a port");
        let heard = Heard::default();
        let (keep, shutdown) = (heard.clone(), CancellationToken::new());
        let hear = move |mut line: LineIn, ()| {
            let keep = keep.clone();
            async move {
                loop {
                    let next = line.next(idle).await;
                    let entry = match &next {
                        Ok(Some(frame)) => Ok(frame.clone()),
                        Ok(None) => Err("done".to_owned()),
                        Err(error) => Err(error.to_string()),
                    };
                    super::super::lock(&keep).push(entry);
                    if !matches!(next, Ok(Some(_))) {
                        return CloseCode::Done;
                    }
                }
            }
        };
        let known = |_, _| Welcome::Known(());
        let listening = lines.listen(shutdown.clone(), known, hear);
        listening.expect("listens");
        (lines, heard, shutdown)
    }

    async fn dial(to: &Lines) -> (Lines, LineOut) {
        dial_with(to, LATE).await
    }

    async fn dial_with(to: &Lines, stall_timeout: Duration) -> (Lines, LineOut) {
        let mut config = config();
        config.limits.stall_timeout = stall_timeout;
        let here = Lines::bind(None, NetSecret::generate(), config).expect("a port");
        let to = PeerAddr {
            peer: to.peer_id(),
            addr: to.local_addr(),
        };
        let line = here.dial(to).await.expect("it listens");
        (here, line)
    }

    /// What the listener heard once the line is over.
    async fn outcome(line: &LineOut, heard: &Heard) -> Vec<Result<Vec<u8>, String>> {
        line.closed().await;
        super::super::lock(heard).clone()
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_and_the_end_is_told() {
        let (lines, heard, _) = listener(LATE);
        let (_here, mut line) = dial(&lines).await;
        line.send(b"one").await.expect("sent");
        line.send(&[7; 1000]).await.expect("the longest");
        assert!(line.send(&[7; 1001]).await.is_err() && line.send(b"").await.is_err());
        line.send.finish().expect("open");
        let all = [Ok(b"one".to_vec()), Ok(vec![7; 1000]), Err("done".into())];
        assert_eq!(outcome(&line, &heard).await, all);
    }

    #[tokio::test]
    async fn tm_n3_a_long_frame_and_half_a_frame_are_refused() {
        for (bytes, why) in [
            (&[0xff_u8; 4][..], "the limit is 1000"),
            (&[0, 0, 0, 0], "empty frame"),
            (&[9, 0, 0, 0, 1, 2], "ended inside a frame"),
        ] {
            let (lines, heard, _) = listener(LATE);
            let (_here, mut line) = dial(&lines).await;
            line.send.write_all(bytes).await.expect("open");
            line.send.finish().expect("open");
            let said = outcome(&line, &heard).await;
            let [Err(said)] = &said[..] else {
                panic!("{said:?}");
            };
            assert!(said.contains(why), "{said}");
        }
    }

    #[tokio::test]
    async fn tm_n4_who_begins_a_frame_and_stops_or_says_nothing_loses_its_place() {
        // On a busy machine the first word may come too late; then it is tried anew.
        let attempt = async || {
            let (lines, heard, _) = listener_with(LATE, SOON);
            let (_here, mut line) = dial(&lines).await;
            let _ = line.send(b"one").await;
            let _ = line.send.write_all(&[9, 0]).await;
            outcome(&line, &heard).await
        };
        let mut said = attempt().await;
        for _ in 0..20 {
            if said.len() == 2 {
                break;
            }
            said = attempt().await;
        }
        assert!(
            matches!(&said[..], [Ok(_), Err(why)] if why.contains("no progress")),
            "{said:?}"
        );

        let (lines, heard, _) = listener(SOON);
        let (_here, mut line) = dial(&lines).await;
        line.send(b"one").await.expect("sent");
        let said = outcome(&line, &heard).await;
        assert_eq!(said, [Ok(b"one".to_vec()), Err("done".into())]);

        // No stream at all.
        let (lines, _heard, _) = listener_with(LATE, SOON);
        let (_here, line) = dial(&lines).await;
        assert!(line.closed().await.to_string().contains("no line"));
    }

    #[tokio::test]
    async fn tm_n4_who_only_shakes_hands_keeps_nobody_out_and_a_stranger_soon_goes() {
        let mut config = config();
        config.limits.max_connections = 2;
        let bind = || {
            let addr = Some(([127, 0, 0, 1], 0).into());
            Lines::bind(addr, NetSecret::generate(), config.clone()).expect("a port")
        };
        let (listener, stranger) = (bind(), bind());
        let nobody = stranger.peer_id();
        let welcome = move |peer, _| match peer == nobody {
            true => Welcome::Stranger(()),
            false => Welcome::Known(()),
        };
        let hear = |mut line: LineIn, ()| async move {
            let _ = line.next(LATE).await;
            CloseCode::Done
        };
        let listening = listener.listen(CancellationToken::new(), welcome, hear);
        listening.expect("listens");
        let to = PeerAddr {
            peer: listener.peer_id(),
            addr: listener.local_addr(),
        };
        // Its end of a handshake may come a moment after ours; but nothing here ends before `LATE`.
        let dial = async |lines: &Lines| {
            let until = async {
                loop {
                    if let Ok(line) = lines.dial(to).await {
                        return line;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(LATE / 2, until).await.expect("there is room")
        };
        let mut silent = Vec::new();
        for _ in 0..3 {
            let lines = bind();
            let line = dial(&lines).await;
            silent.push((lines, line));
        }
        let friend = bind();
        let mut line = dial(&friend).await;
        line.send(b"a word").await.expect("sent");
        let said = line.closed().await.to_string();
        assert!(
            said.ends_with(&(CloseCode::Done as u32).to_string()),
            "{said}"
        );
        let line = dial(&stranger).await;
        let said = timeout(LATE / 2, line.closed()).await.expect("soon");
        assert!(said.to_string().contains("no line"), "{said}");
    }

    #[tokio::test]
    async fn tm_n4_who_does_not_read_stops_the_writer_and_not_its_memory() {
        let addr = Some(([127, 0, 0, 1], 0).into());
        let lines = Lines::bind(addr, NetSecret::generate(), config()).expect("a port");
        let hear = |line: LineIn, ()| async move {
            let _held = line;
            std::future::pending::<CloseCode>().await
        };
        let known = |_, _| Welcome::Known(());
        let listening = lines.listen(CancellationToken::new(), known, hear);
        listening.expect("listens");
        let (_here, mut line) = dial_with(&lines, SOON).await;
        let mut sent = 0;
        let error = loop {
            match line.send(&[7; 1000]).await {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Stalled(_)), "{error}");
        assert!(sent <= 4, "{sent} frames of 1000 bytes in a window of 4096");
    }

    #[tokio::test]
    async fn a_listener_that_ends_tells_its_peers() {
        let (lines, _, shutdown) = listener(LATE);
        let (_here, mut line) = dial(&lines).await;
        line.send(b"one").await.expect("sent");
        shutdown.cancel();
        lines.close().await;
        line.closed().await;
        assert!(line.send(b"two").await.is_err());
    }
}
