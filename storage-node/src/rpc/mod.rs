//! JSON-RPC server over one ledger, mempool and engine: HTTP and WebSocket on one port.
//!
//! Place in the walk: between `chain_lite` and everything that speaks with a chain; [`crate::chain::ChainClient`] is the other
//! end, and [`crate::chain::wire`] what travels. Spec: `consensus.md` §8; `DESIGN.md` §5 (clock leases).
//!
//! | method | answers |
//! |---|---|
//! | `hf_info`, `chain_genesis`, `chain_head`, `chain_block`, `chain_validators` | what the chain is, its newest and any block, who decides the next |
//! | `hf_account`, `hf_datacap`, `hf_network`, `hf_quote`, `hf_randomness`, `hf_darkRuns` | money, DataCap, totals, prices, randomness, outages |
//! | `hf_provider(s)`, `hf_sector(s)`, `hf_deadlines`, `hf_providerPicture`, `hf_deal(s)` | providers, sectors, deals |
//! | `hf_submit`, `hf_txStatus` | transactions |
//! | `light_block`, `light_state`, `light_receipt` | the same with proofs, for clients that believe no node |
//! | `hf_holdClock`, `hf_releaseClock`, `hf_leases`, `hf_faucet` | devnets only |
//! | `chain_subscribeHeads` | the newest block, blocks skipped for slow readers |
//! | `hf_subscribeEvents(from)` | every block's receipts and events from a height on: from disk, then live |
//!
//! Bounds: [`MAX_CONNECTIONS`] sockets, [`MAX_REQUEST_BYTES`] a request, [`crate::chain::MAX_ANSWER_BYTES`] an answer,
//! [`MAX_BATCH`] calls a batch, [`MAX_SUBSCRIPTIONS`] subscriptions a socket, each with [`SEND_BUFFER`] messages: a reader that
//! does not read stops its own stream and nobody else's. Lists are paged.
//! Failure: a store that cannot be read is an internal error of that call; the server goes on.

pub mod fellows;
pub mod reads;

use std::net::SocketAddr;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use borsh::BorshSerialize;
use chain_lite::account::{Address, DealId, ProviderId, TxId};
use chain_lite::certificate::Validator;
use chain_lite::clock::ClockMode;
use chain_lite::codec;
use chain_lite::engine::EngineHandle;
use chain_lite::ledger::{Ledger, LedgerError, Tip};
use chain_lite::light;
use chain_lite::mempool::Mempool;
use chain_lite::message::{Message, SignedTx, TX_VERSION, Tx, sign};
use chain_lite::randomness::{self, Tag};
use chain_lite::units::{Epoch, TokenAmount};
use ed25519_dalek::SigningKey;
use jsonrpsee::core::SubscriptionError;
use jsonrpsee::server::{
    BatchRequestConfig, RpcModule, Server, ServerConfig, ServerHandle, SubscriptionMessage,
};
use jsonrpsee::types::{ErrorObjectOwned, Params};
use jsonrpsee::{PendingSubscriptionSink, SubscriptionSink};
use prover::SectorNumber;
use serde::Serialize;
use tokio::sync::watch;

use crate::chain::gossip::Gossip;
use crate::chain::wire::{
    BlockEvents, ChainInfo, DealsOf, Head, LeaseView, PictureQuery, Submitted, TxStatus,
    ValidatorView,
};
use fellows::{Fellows, Told};
use reads::ReadError;

/// Open sockets.
pub const MAX_CONNECTIONS: u32 = 256;
/// Longest request: the hex of the longest transaction, with room for the frame.
pub const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// Most calls in one batch.
pub const MAX_BATCH: u32 = 32;
/// Most subscriptions of one socket.
pub const MAX_SUBSCRIPTIONS: u32 = 16;
/// Messages that wait for one socket's reader.
pub const SEND_BUFFER: u32 = 64;
/// Most that the faucet gives at once.
pub const FAUCET_LIMIT: TokenAmount = TokenAmount::from_tokens(10_000_000);
/// How long a transaction of the faucet may wait, in blocks.
const FAUCET_TX_BLOCKS: u64 = 100;

/// JSON-RPC error codes of ours.
mod code {
    /// The chain's rules or the pool say no.
    pub(super) const REFUSED: i32 = -32000;
    /// There is nothing under that name.
    pub(super) const NOT_FOUND: i32 = -32001;
    /// This node does not offer that.
    pub(super) const NOT_OFFERED: i32 = -32002;
    /// The node itself failed.
    pub(super) const INTERNAL: i32 = -32603;
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The port cannot be had.
    #[error("cannot listen on {addr}: {source}; is another devnet running? choose another port")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start the thread that watches the chain: {0}")]
    Thread(std::io::Error),
    /// Two methods of one name: a bug of ours.
    #[error("registering the methods: {0}")]
    Register(#[from] jsonrpsee::core::RegisterMethodError),
}

/// What the server serves.
pub struct Node {
    /// The chain.
    pub ledger: Arc<Ledger>,
    /// Its pool.
    pub mempool: Arc<Mempool>,
    /// Its engine.
    pub engine: Arc<EngineHandle>,
    /// Devnets: the account that gives away test money.
    pub faucet: Option<SigningKey>,
    /// Devnets of several validators: who else is told of leases.
    pub fellows: Fellows,
    /// Chains of several nodes: tells the others of transactions.
    pub gossip: Option<Gossip>,
}

/// A running server. [`RpcHandle::stop`] ends it; dropping it ends it without waiting.
pub struct RpcHandle {
    addr: SocketAddr,
    server: ServerHandle,
    /// Ends the watching thread when dropped.
    _alive: Arc<()>,
}

impl RpcHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its WebSocket address.
    pub fn url(&self) -> String {
        format!("ws://{}", self.addr)
    }

    /// Stops and waits until all sockets are closed.
    pub async fn stop(self) {
        // "Already stopped" is what we want.
        let _ = self.server.stop();
        self.server.stopped().await;
    }
}

struct Shared {
    node: Node,
    heads: watch::Receiver<Head>,
    /// One faucet payment at a time, so that nonces follow each other.
    faucet_turn: Mutex<()>,
}

/// Serves `node` on `addr` (port 0: any free one).
pub async fn serve(node: Node, addr: SocketAddr) -> Result<RpcHandle, RpcError> {
    let config = ServerConfig::builder()
        .max_connections(MAX_CONNECTIONS)
        .max_request_body_size(MAX_REQUEST_BYTES)
        .max_response_body_size(crate::chain::MAX_ANSWER_BYTES)
        .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
        .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
        .set_message_buffer_capacity(SEND_BUFFER)
        .build();
    let server = Server::builder()
        .set_config(config)
        .build(addr)
        .await
        .map_err(|source| RpcError::Bind { addr, source })?;
    let addr = server
        .local_addr()
        .map_err(|source| RpcError::Bind { addr, source })?;
    let alive = Arc::new(());
    let heads = watch_heads(&node.ledger, &alive).map_err(RpcError::Thread)?;
    let module = methods(Shared {
        node,
        heads,
        faucet_turn: Mutex::new(()),
    })?;
    Ok(RpcHandle {
        addr,
        server: server.start(module),
        _alive: alive,
    })
}

/// A thread that turns the ledger's blocking channel into a watched value. Ends with the server.
fn watch_heads(
    ledger: &Arc<Ledger>,
    alive: &Arc<()>,
) -> Result<watch::Receiver<Head>, std::io::Error> {
    let (sender, receiver) = watch::channel(head_of(&ledger.tip()));
    let ledger = Arc::clone(ledger);
    let alive = Arc::downgrade(alive);
    std::thread::Builder::new()
        .name("rpc-heads".into())
        .spawn(move || {
            let mut blocks = ledger.subscribe();
            while alive.strong_count() > 0 {
                match blocks.recv_timeout(Duration::from_millis(500)) {
                    Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                    // We lagged: subscribe again, the tip below is what counts.
                    Err(RecvTimeoutError::Disconnected) => blocks = ledger.subscribe(),
                }
                let head = head_of(&ledger.tip());
                sender.send_if_modified(|seen| {
                    let moved = *seen != head;
                    *seen = head;
                    moved
                });
            }
        })?;
    Ok(receiver)
}

fn head_of(tip: &Tip) -> Head {
    Head {
        height: tip.height,
        block: tip.id,
        epoch: tip.epoch,
        time_ms: tip.time_ms,
    }
}

type Answer<T> = Result<T, ErrorObjectOwned>;

fn methods(shared: Shared) -> Result<RpcModule<Shared>, RpcError> {
    let mut module = RpcModule::new(shared);
    register_chain(&mut module)?;
    register_state(&mut module)?;
    register_transactions(&mut module)?;
    register_light(&mut module)?;
    register_clock(&mut module)?;
    register_subscriptions(&mut module)?;
    Ok(module)
}

fn register_chain(module: &mut RpcModule<Shared>) -> Result<(), RpcError> {
    method(module, "hf_info", |shared, _| Ok(shared.info()))?;
    method(module, "chain_head", |shared, _| Ok(*shared.heads.borrow()))?;
    method(module, "chain_genesis", |shared, _| {
        Ok(hex::encode(shared.node.ledger.genesis().bytes()))
    })?;
    method(module, "chain_validators", |shared, _| {
        let of = |v: &Validator| ValidatorView {
            id: v.id,
            power: v.power,
        };
        let set = shared.node.ledger.validators();
        Ok(set.validators().iter().map(of).collect::<Vec<_>>())
    })?;
    method(module, "chain_block", |shared, params| {
        let height: u64 = params.one()?;
        match shared.node.ledger.block(height) {
            Ok(block) => Ok(Some(hex::encode(block.to_bytes()))),
            Err(LedgerError::NoBlock { .. }) => Ok(None),
            Err(error) => Err(internal(error)),
        }
    })
}

fn register_state(module: &mut RpcModule<Shared>) -> Result<(), RpcError> {
    method(module, "hf_account", |shared, params| {
        let address: Address = params.one()?;
        let view = shared.node.ledger.view();
        let next = shared
            .node
            .mempool
            .next_nonce(&view, &address)
            .map_err(internal)?;
        reads::account(&view, &address, Some(next)).map_err(read_failed)
    })?;
    method(module, "hf_datacap", |shared, params| {
        let address: Address = params.one()?;
        reads::datacap(&shared.node.ledger.view(), &address).map_err(read_failed)
    })?;
    method(module, "hf_network", |shared, _| {
        reads::network_view(&shared.node.ledger.view()).map_err(read_failed)
    })?;
    method(module, "hf_darkRuns", |shared, params| {
        let (after, limit): (Epoch, u32) = params.parse()?;
        reads::dark_runs(&shared.node.ledger.view(), after, limit).map_err(read_failed)
    })?;
    method(module, "hf_quote", |shared, params| {
        let bytes: u64 = params.one()?;
        reads::quote(&shared.node.ledger.view(), bytes).map_err(read_failed)
    })?;
    method(module, "hf_randomness", |shared, params| {
        let (tag, epoch, provider): (u64, Epoch, ProviderId) = params.parse()?;
        shared.randomness(tag, epoch, provider)
    })?;
    method(module, "hf_provider", |shared, params| {
        let id: ProviderId = params.one()?;
        reads::provider(&shared.node.ledger.view(), id).map_err(read_failed)
    })?;
    method(module, "hf_providers", |shared, params| {
        let (after, limit): (Option<ProviderId>, u32) = params.parse()?;
        reads::providers(&shared.node.ledger.view(), after, limit).map_err(read_failed)
    })?;
    method(module, "hf_deal", |shared, params| {
        let id: DealId = params.one()?;
        reads::deal(&shared.node.ledger.view(), &id).map_err(read_failed)
    })?;
    method(module, "hf_deals", |shared, params| {
        let (of, after, limit): (DealsOf, Option<DealId>, u32) = params.parse()?;
        reads::deals(&shared.node.ledger.view(), of, after, limit).map_err(read_failed)
    })?;
    method(module, "hf_sector", |shared, params| {
        let (provider, number): (ProviderId, SectorNumber) = params.parse()?;
        reads::sector(&shared.node.ledger.view(), provider, number).map_err(read_failed)
    })?;
    method(module, "hf_sectors", |shared, params| {
        let (provider, after, limit): (ProviderId, Option<SectorNumber>, u32) = params.parse()?;
        reads::sectors(&shared.node.ledger.view(), provider, after, limit).map_err(read_failed)
    })?;
    method(module, "hf_deadlines", |shared, params| {
        let id: ProviderId = params.one()?;
        let view = shared.node.ledger.view();
        let provider = reads::provider(&view, id)
            .map_err(read_failed)?
            .ok_or_else(|| error(code::NOT_FOUND, format!("there is no provider {id}")))?;
        reads::partitions(&view, &provider.provider, view.meta().epoch).map_err(read_failed)
    })?;
    method(module, "hf_providerPicture", |shared, params| {
        let (id, query): (ProviderId, PictureQuery) = params.parse()?;
        let view = shared.node.ledger.view();
        let meta = view.meta();
        let head = Head {
            height: view.height(),
            block: meta.block_id,
            epoch: meta.epoch,
            time_ms: meta.time_ms,
        };
        reads::picture(&view, head, id, &query).map_err(read_failed)
    })
}

fn register_transactions(module: &mut RpcModule<Shared>) -> Result<(), RpcError> {
    method(module, "hf_submit", |shared, params| {
        let text: String = params.one()?;
        let bytes = hex::decode(&text).map_err(|e| {
            error(
                code::REFUSED,
                format!("a transaction is sent as the hex of its bytes: {e}"),
            )
        })?;
        let tx = SignedTx::from_bytes(&bytes).map_err(refused)?;
        shared.submit(tx)
    })?;
    method(module, "hf_txStatus", |shared, params| {
        let id: TxId = params.one()?;
        shared.tx_status(&id)
    })?;
    method(module, "hf_faucet", |shared, params| {
        let (to, amount): (Address, TokenAmount) = params.parse()?;
        shared.faucet(to, amount)
    })
}

/// What a light client checks itself: hex of canonical bytes, `null` where there is nothing to prove (yet, or any more).
fn register_light(module: &mut RpcModule<Shared>) -> Result<(), RpcError> {
    method(module, "light_block", |shared, params| {
        let height: Option<u64> = params.one()?;
        let ledger = &shared.node.ledger;
        let height = height.unwrap_or_else(|| ledger.tip().height);
        proven(light::light_block(ledger, height).map(Some))
    })?;
    method(module, "light_state", |shared, params| {
        let (height, keys): (Option<u64>, Vec<String>) = params.parse()?;
        if keys.len() > light::MAX_BATCH_LEAVES {
            return Err(read_failed(ReadError::TooMany {
                what: "leaves",
                asked: keys.len(),
                limit: light::MAX_BATCH_LEAVES,
            }));
        }
        let keys: Result<Vec<Vec<u8>>, _> = keys.iter().map(hex::decode).collect();
        let keys = keys.map_err(|e| refused(format!("a key is sent as hex: {e}")))?;
        proven(light::state_batch(&shared.node.ledger, height, &keys).map(Some))
    })?;
    method(module, "light_receipt", |shared, params| {
        let id: TxId = params.one()?;
        proven(light::receipt_bundle(&shared.node.ledger, &id))
    })
}

fn proven<T: BorshSerialize>(found: Result<Option<T>, LedgerError>) -> Answer<Option<String>> {
    match found {
        Ok(value) => Ok(value.map(|value| hex::encode(codec::encode(&value)))),
        Err(LedgerError::NoBlock { .. }) => Ok(None),
        Err(error) => Err(internal(error)),
    }
}

fn register_clock(module: &mut RpcModule<Shared>) -> Result<(), RpcError> {
    method(module, "hf_holdClock", |shared, params| {
        let (provider, before, ttl_ms): (ProviderId, Epoch, u64) = params.parse()?;
        // Only a registered provider has proofs to finish, or the devnet's owner a reason; this also bounds the names that
        // leases can have.
        let registered = || reads::provider(&shared.node.ledger.view(), provider);
        let known = fellows::is_owners(provider) || registered().map_err(read_failed)?.is_some();
        if !known {
            return Err(error(
                code::NOT_FOUND,
                format!("there is no provider {provider}"),
            ));
        }
        shared
            .node
            .engine
            .hold_before(provider, before, Duration::from_millis(ttl_ms))
            .map_err(refused)?;
        let told = Told::Hold(provider, before, Duration::from_millis(ttl_ms));
        shared.node.fellows.tell(&told);
        Ok(())
    })?;
    method(module, "hf_releaseClock", |shared, params| {
        let provider: ProviderId = params.one()?;
        shared.node.engine.release(provider);
        shared.node.fellows.tell(&Told::Release(provider));
        Ok(())
    })?;
    method(module, "hf_leases", |shared, _| {
        let leases = shared.node.engine.leases();
        Ok(leases
            .into_iter()
            .map(|(provider, left_ms, before)| LeaseView {
                provider,
                left_ms,
                before,
            })
            .collect::<Vec<_>>())
    })
}

fn register_subscriptions(module: &mut RpcModule<Shared>) -> Result<(), RpcError> {
    module.register_subscription(
        "chain_subscribeHeads",
        "chain_head",
        "chain_unsubscribeHeads",
        |_, pending, shared, _| stream_heads(pending, shared),
    )?;
    module.register_subscription(
        "hf_subscribeEvents",
        "hf_events",
        "hf_unsubscribeEvents",
        |params, pending, shared, _| async move {
            match params.one::<u64>() {
                Ok(from) => stream_events(pending, shared, from).await,
                Err(error) => {
                    pending.reject(error).await;
                    Ok(())
                }
            }
        },
    )?;
    Ok(())
}

async fn stream_heads(
    pending: PendingSubscriptionSink,
    shared: Arc<Shared>,
) -> Result<(), SubscriptionError> {
    let mut heads = shared.heads.clone();
    drop(shared);
    let sink = pending.accept().await?;
    loop {
        let head = *heads.borrow_and_update();
        if !send(&sink, &head).await {
            return Ok(());
        }
        tokio::select! {
            () = sink.closed() => return Ok(()),
            moved = heads.changed() => if moved.is_err() { return Ok(()) },
        }
    }
}

/// Blocks from a height on, each exactly once: whatever is on disk, then each new one.
async fn stream_events(
    pending: PendingSubscriptionSink,
    shared: Arc<Shared>,
    from: u64,
) -> Result<(), SubscriptionError> {
    let mut heads = shared.heads.clone();
    let sink = pending.accept().await?;
    // Block 0 is the genesis: it has no events.
    let mut next = from.max(1);
    loop {
        let tip = heads.borrow_and_update().height;
        while next <= tip {
            let reader = Arc::clone(&shared);
            let block = tokio::task::spawn_blocking(move || reader.events_of(next)).await;
            let block = block.map_err(|_| "the node failed while reading a block")??;
            if !send(&sink, &block).await {
                return Ok(());
            }
            next += 1;
        }
        tokio::select! {
            () = sink.closed() => return Ok(()),
            moved = heads.changed() => if moved.is_err() { return Ok(()) },
        }
    }
}

/// Waits for room in the reader's buffer; false when the reader is gone.
async fn send<T: Serialize>(sink: &SubscriptionSink, value: &T) -> bool {
    let message = SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), value);
    match message {
        Ok(message) => sink.send(message).await.is_ok(),
        Err(error) => {
            tracing::error!(%error, "a subscription's message cannot be written as JSON");
            false
        }
    }
}

impl Shared {
    fn info(&self) -> ChainInfo {
        let genesis = self.node.ledger.genesis();
        let content = genesis.genesis();
        ChainInfo {
            chain_id: genesis.chain_id(),
            name: content.chain_name.clone(),
            epoch_ms: content.clock.epoch_ms(),
            logical_clock: matches!(content.clock, ClockMode::Logical { .. }),
            params: content.params.clone(),
            faucet: self.node.faucet.is_some(),
        }
    }

    fn randomness(&self, tag: u64, epoch: Epoch, provider: ProviderId) -> Answer<String> {
        let tag = match tag {
            1 => Tag::Ticket,
            2 => Tag::SealSeed,
            3 => Tag::WindowPost,
            4 => Tag::DeadlineOffset,
            other => {
                return Err(error(
                    code::REFUSED,
                    format!("tag {other} does not exist; tags are 1 to 4"),
                ));
            }
        };
        let view = self.node.ledger.view();
        match randomness::of_provider(&view, tag, epoch, provider).map_err(internal)? {
            Some(value) => Ok(hex::encode(value)),
            None => Err(error(
                code::NOT_FOUND,
                format!("the beacon of epoch {epoch} is not on chain: not yet, or no longer kept"),
            )),
        }
    }

    fn submit(&self, tx: SignedTx) -> Answer<Submitted> {
        let id = tx.id();
        // A transaction that was included already is answered as the success it is, so that sending twice is harmless.
        if self.node.ledger.receipt(&id).map_err(internal)?.is_some() {
            return Ok(Submitted { tx: id });
        }
        let view = self.node.ledger.view();
        let tx = self
            .node
            .mempool
            .submit(tx, view.height(), &view)
            .map_err(refused)?;
        if let Some(gossip) = &self.node.gossip {
            gossip.push(tx);
        }
        Ok(Submitted { tx })
    }

    fn tx_status(&self, id: &TxId) -> Answer<TxStatus> {
        // The pool first: a transaction that leaves it between the two looks is then found in a block.
        let pending = self.node.mempool.contains(id);
        Ok(match self.node.ledger.receipt(id).map_err(internal)? {
            Some((height, _, receipt)) => TxStatus::Included { height, receipt },
            None if pending => TxStatus::Pending,
            None => TxStatus::Unknown,
        })
    }

    fn faucet(&self, to: Address, amount: TokenAmount) -> Answer<Submitted> {
        let Some(key) = &self.node.faucet else {
            return Err(error(
                code::NOT_OFFERED,
                "this chain has no faucet; ask somebody for tokens",
            ));
        };
        if amount > FAUCET_LIMIT {
            let limit = FAUCET_LIMIT.in_tokens();
            return Err(error(
                code::REFUSED,
                format!("the faucet gives at most {limit} tokens at once"),
            ));
        }
        let _turn = self
            .faucet_turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let sender = Address::of(&key.verifying_key());
        let view = self.node.ledger.view();
        let nonce = self
            .node
            .mempool
            .next_nonce(&view, &sender)
            .map_err(internal)?;
        let tx = Tx {
            version: TX_VERSION,
            chain_id: self.node.ledger.chain_id(),
            sender,
            nonce,
            fee_limit: amount,
            valid_until_height: view.height().saturating_add(FAUCET_TX_BLOCKS),
            msgs: vec![Message::Transfer { to, amount }],
        };
        self.submit(sign(tx, key))
    }

    fn events_of(&self, height: u64) -> Result<BlockEvents, LedgerError> {
        let header = self.node.ledger.block(height)?.block.header;
        let outcomes = self.node.ledger.outcomes(height)?;
        Ok(BlockEvents {
            head: Head {
                height,
                block: header.id(),
                epoch: header.epoch,
                time_ms: header.time_ms,
            },
            receipts: outcomes.receipts,
            events: outcomes.events,
        })
    }
}

/// Registers a method that runs on a blocking thread, because it reads the disk.
fn method<T, F>(
    module: &mut RpcModule<Shared>,
    name: &'static str,
    answer: F,
) -> Result<(), RpcError>
where
    T: Serialize + Clone + Send + 'static,
    F: Fn(&Shared, &Params<'_>) -> Answer<T> + Clone + Send + Sync + 'static,
{
    module.register_blocking_method(name, move |params, shared, _| answer(&shared, &params))?;
    Ok(())
}

fn error(code: i32, message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, None::<()>)
}

fn refused(reason: impl std::fmt::Display) -> ErrorObjectOwned {
    error(code::REFUSED, reason.to_string())
}

/// The node's own failure: told in full to the log, in short to the caller.
fn internal(reason: impl std::fmt::Display) -> ErrorObjectOwned {
    tracing::error!(%reason, "an RPC call failed");
    error(code::INTERNAL, format!("the node failed: {reason}"))
}

fn read_failed(reason: ReadError) -> ErrorObjectOwned {
    match reason {
        ReadError::TooMany { .. } => refused(reason),
        other => internal(other),
    }
}

#[cfg(test)]
pub(crate) mod tests;
