//! One session: handshake, greeting, requests, each in its own task.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use quinn::{Connecting, Connection, RecvStream, SendStream};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Refusal, ServeStats, Service,
    gate::{Place, Visit},
    get, log_panic, put,
};
use crate::{
    endpoint::{lock, peer_of, read_frame, unix_ms, write_all},
    error::Error,
    session::{ServerSession, Verdict},
    wire::{CloseCode, Hello, Request, Response, VERSION},
};

/// One connection, as its requests see it.
pub(super) struct Peer {
    pub(super) service: Arc<Service>,
    pub(super) visit: Visit,
    pub(super) connection: Connection,
    session: Mutex<ServerSession>,
    /// Puts admitted on this connection: while there are any, its receive window is wide.
    puts: AtomicUsize,
}

/// Runs a connection to its end.
pub(super) async fn run(
    connecting: Connecting,
    place: Place,
    service: Arc<Service>,
    shutdown: CancellationToken,
) {
    let limits = service.endpoint.limits().clone();
    let Ok(Ok(connection)) = timeout(limits.handshake_timeout, connecting).await else {
        return;
    };
    let Some(visit) = peer_of(&connection).and_then(|peer| service.gate.enter(peer, place)) else {
        connection.close(
            CloseCode::Limit.var_int(),
            b"too many connections of this peer",
        );
        return;
    };
    let session = Mutex::new(ServerSession::new(service.endpoint.chain()));
    let peer = Arc::new(Peer {
        service,
        visit,
        connection,
        session,
        puts: AtomicUsize::new(0),
    });
    let (code, reason) = match timeout(limits.request_timeout, first_stream(&peer)).await {
        Ok(Ok(())) => serve_requests(&peer, &shutdown).await,
        Ok(Err(error)) => {
            tracing::debug!(peer = %peer.visit.peer.short(), %error, "no session");
            (CloseCode::Protocol, "no session")
        }
        Err(_) => (CloseCode::TooSlow, "no hello"),
    };
    peer.connection.close(code.var_int(), reason.as_bytes());
}

/// The first stream must bring the Hello: streams are accepted in the order of their numbers, so nothing overtakes it.
async fn first_stream(peer: &Arc<Peer>) -> Result<(), Error> {
    let streams = peer.connection.accept_bi().await;
    let (mut send, mut recv) = streams.map_err(|error| Error::Closed(error.to_string()))?;
    on_stream(peer, &mut send, &mut recv).await?;
    ServeStats::add(&peer.service.stats.sessions, 1);
    Ok(())
}

/// Serves until the peer leaves, stays silent too long, breaks the protocol, or we shut down.
async fn serve_requests(
    peer: &Arc<Peer>,
    shutdown: &CancellationToken,
) -> (CloseCode, &'static str) {
    let mut requests = JoinSet::new();
    let session_timeout = peer.service.endpoint.limits().session_timeout;
    loop {
        // Silence counts only while nothing is being served.
        let silence = async {
            if requests.is_empty() {
                tokio::time::sleep(session_timeout).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = peer.connection.accept_bi() => match accepted {
                Ok((send, recv)) => { requests.spawn(one_request(peer.clone(), send, recv)); }
                Err(_) => return (CloseCode::Done, ""),
            },
            () = silence => return (CloseCode::Done, "idle"),
        }
        while let Some(ended) = requests.try_join_next() {
            log_panic(ended);
        }
    }
    // The accept loop gives all of us the same time to drain.
    while let Some(ended) = requests.join_next().await {
        log_panic(ended);
    }
    (CloseCode::Shutdown, "shutdown")
}

/// A request that breaks the protocol ends the connection; every other failure only its stream. Ends when the peer has
/// the whole answer: closing a connection before that would throw away what is still on its way.
async fn one_request(peer: Arc<Peer>, mut send: SendStream, mut recv: RecvStream) {
    match on_stream(&peer, &mut send, &mut recv).await {
        Ok(()) => {
            let stall = peer.service.endpoint.limits().stall_timeout;
            // Acknowledged, refused or too slow: in each case there is nothing more to do for it.
            let _ = timeout(stall, send.stopped()).await;
        }
        Err(error @ (Error::Wire(_) | Error::Protocol(_))) => {
            tracing::debug!(peer = %peer.visit.peer.short(), %error, "protocol broken");
            peer.connection
                .close(CloseCode::Protocol.var_int(), error.to_string().as_bytes());
        }
        Err(error) => tracing::trace!(peer = %peer.visit.peer.short(), %error, "request ended"),
    }
}

async fn on_stream(
    peer: &Arc<Peer>,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), Error> {
    let limits = peer.service.endpoint.limits();
    let frame = timeout(
        limits.request_timeout,
        read_frame(recv, limits.request_timeout),
    )
    .await
    .map_err(|_| Error::Stalled(limits.request_timeout))??;
    let request = Request::decode(&frame)?;
    let verdict = lock(&peer.session).on_request(request);
    match verdict {
        Verdict::Close(why) => Err(Error::Protocol(why)),
        Verdict::Greet => {
            let hello = peer.hello().await;
            peer.answer(send, &Response::Hello(hello)).await
        }
        Verdict::Serve(request) => {
            ServeStats::add(&peer.service.stats.requests, 1);
            if !peer.visit.may_ask() {
                return peer
                    .refuse(
                        send,
                        &Refusal::Busy {
                            retry_after_ms: 1_000,
                        },
                    )
                    .await;
            }
            match request {
                Request::Put(header) => put::receive(peer, header, send, recv).await,
                Request::Get(request) => get::get(peer, request, send).await,
                Request::Have(query) => get::have(peer, query, send).await,
                Request::Commp(query) => get::commp_proof(peer, query, send).await,
                Request::Hello(_) => Err(Error::Protocol("hello is no request".into())),
            }
        }
    }
}

impl Peer {
    async fn hello(&self) -> Hello {
        let (store, id) = (self.service.store.clone(), self.visit.peer);
        let info = tokio::task::spawn_blocking(move || store.hello_info(&id))
            .await
            .unwrap_or_default();
        let limits = self.service.endpoint.limits();
        Hello {
            version: VERSION,
            chain: self.service.endpoint.chain(),
            features: 0,
            max_streams: limits.max_streams,
            unix_ms: unix_ms(),
            info,
        }
    }

    /// Sends one frame and ends the stream.
    pub(super) async fn answer(
        &self,
        send: &mut SendStream,
        response: &Response,
    ) -> Result<(), Error> {
        self.say(send, response).await?;
        send.finish()
            .map_err(|error| Error::Closed(error.to_string()))
    }

    /// Sends one frame.
    pub(super) async fn say(
        &self,
        send: &mut SendStream,
        response: &Response,
    ) -> Result<(), Error> {
        // A frame of ours that breaks our own bounds is the store's mistake, not the peer's.
        let frame = response
            .encode()
            .map_err(|error| Error::Invalid(error.to_string()))?;
        write_all(send, &frame, self.service.endpoint.limits().stall_timeout).await
    }

    /// Says no.
    pub(super) async fn refuse(
        &self,
        send: &mut SendStream,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        ServeStats::add(&self.service.stats.failures, 1);
        if let Refusal::Internal(why) = refusal {
            tracing::warn!(peer = %self.visit.peer.short(), why, "request failed on our side");
        }
        self.answer(send, &Response::Failure(refusal.to_failure()))
            .await
    }

    /// Calls into the store on a blocking thread. A panic in there is an internal failure of this request.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn super::PieceStore) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = self.service.store.clone();
        let task = tokio::task::spawn_blocking(move || call(store.as_ref()));
        task.await
            .map_err(|error| Refusal::Internal(format!("the store's task failed: {error}")))
    }

    /// Widens the receive window while a put is on; narrows it again when the last one ends.
    pub(super) fn widen(self: &Arc<Self>) -> WideWindow {
        if self.puts.fetch_add(1, Ordering::SeqCst) == 0 {
            self.set_window(self.service.endpoint.limits().put_window_bytes);
        }
        WideWindow(self.clone())
    }

    fn set_window(&self, bytes: u64) {
        self.connection
            .set_receive_window(quinn::VarInt::from_u64(bytes).unwrap_or(quinn::VarInt::MAX));
    }
}

/// While it lives, the connection may send much.
pub(super) struct WideWindow(Arc<Peer>);

impl Drop for WideWindow {
    fn drop(&mut self) {
        if self.0.puts.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0
                .set_window(self.0.service.endpoint.limits().idle_window_bytes);
        }
    }
}
