//! The node's side of the chain: an asynchronous JSON-RPC client that reconnects by itself.
//!
//! Place in the walk: every other part of this crate reads and moves the chain through [`ChainClient`], whether the chain
//! runs in the same process (devnet) or elsewhere, so that both are the same code path. The server is [`crate::rpc`].
//! Spec: `consensus.md` §8 (RPC); `DESIGN.md` §5 (clock leases).
//!
//! One WebSocket carries calls and subscriptions. When it breaks, the next call dials again; calls that were on their way
//! are repeated once, which is safe because every method but `hf_submit` only reads, and a transaction submitted twice is
//! one transaction (its id is known before it is sent). Subscriptions resume from the last height they delivered.
//!
//! Cost: one socket and one task per client; clones share them. Bounds: answers of at most [`MAX_ANSWER_BYTES`].

pub mod gossip;
pub mod proven;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{Address, ChainId, DealId, ProviderId, TxId};
use chain_lite::codec;
use chain_lite::datacap::DataCap;
use chain_lite::events::EventRecord;
use chain_lite::execute::Receipt;
use chain_lite::genesis::Genesis;
use chain_lite::light::{LightBlock, ReceiptBundle, StateBatch};
use chain_lite::message::{Message, SignedTx, Tx};
use chain_lite::params::ChainParams;
use chain_lite::units::{Epoch, TokenAmount};
use jsonrpsee::core::client::{ClientT, Error as RpcError, Subscription, SubscriptionClientT};
use jsonrpsee::core::traits::ToRpcParams;
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use prover::SectorNumber;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, mpsc, watch};

pub use wire::*;

/// Largest answer that is read.
pub const MAX_ANSWER_BYTES: u32 = 16 << 20;
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// A dial that takes longer has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between dials of a subscription.
const REDIAL_EVERY: Duration = Duration::from_millis(500);
/// How long a new transaction may wait for its block, in blocks.
pub const TX_LIFE_BLOCKS: u64 = 100;
/// Blocks that an event subscriber may lag behind before the stream waits for it.
const EVENT_BUFFER: usize = 256;

/// Why the chain could not be asked or said no.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Nobody answers at the address.
    #[error(
        "the chain at {url} does not answer ({reason}); is it running? `holdfast devnet status`"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// The transport's words.
        reason: String,
    },
    /// The chain refused what was asked.
    #[error("the chain refused: {0}")]
    Refused(String),
    /// The answer cannot be read: another version, or another service at that address.
    #[error(
        "the answer of {url} to {method} cannot be read ({reason}); is it a holdfast chain of this version?"
    )]
    Unreadable {
        /// The address.
        url: String,
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The address serves another chain than before.
    #[error("{url} now serves chain {now}, not {expected}; check --chain")]
    OtherChain {
        /// The address.
        url: String,
        /// What we connected to first.
        expected: ChainId,
        /// What is there now.
        now: ChainId,
    },
    /// The transaction was not included while it was valid. It can no longer be; sign it anew.
    #[error("transaction {0} was not included before it expired; submit it again")]
    Expired(TxId),
    /// The transaction was included and failed, or could not run.
    #[error("transaction {tx} failed: {error}")]
    Failed {
        /// Which one.
        tx: TxId,
        /// The rule it broke.
        error: chain_lite::error::ChainError,
    },
}

impl ChainError {
    /// True if asking again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// A connection to one chain. Clones share it.
#[derive(Clone)]
pub struct ChainClient {
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    info: ChainInfo,
    socket: Mutex<Option<Arc<WsClient>>>,
}

impl std::fmt::Debug for ChainClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainClient")
            .field("url", &self.shared.url)
            .field("chain", &self.shared.info.chain_id)
            .finish()
    }
}

impl ChainClient {
    /// Dials `ws://host:port` and learns which chain it is.
    pub async fn connect(url: &str) -> Result<Self, ChainError> {
        let socket = dial(url).await?;
        let info: ChainInfo = request(url, &socket, "hf_info", rpc_params![]).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                url: url.to_owned(),
                info,
                socket: Mutex::new(Some(Arc::new(socket))),
            }),
        })
    }

    /// The address.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// What the chain said of itself when this client connected.
    pub fn info(&self) -> &ChainInfo {
        &self.shared.info
    }

    /// The chain's id, fixed when this client connected.
    pub fn chain_id(&self) -> ChainId {
        self.shared.info.chain_id
    }

    /// First bytes of the chain id: what the QUIC protocol name carries.
    pub fn chain_tag(&self) -> [u8; 4] {
        let id = self.chain_id().0;
        [id[0], id[1], id[2], id[3]]
    }

    /// The rules' numbers.
    pub fn params(&self) -> &ChainParams {
        &self.shared.info.params
    }

    /// The newest block.
    pub async fn head(&self) -> Result<Head, ChainError> {
        self.call("chain_head", rpc_params![]).await
    }

    /// The canonical bytes of the genesis: `Genesis::from_bytes` reads them, and its chain id must be [`Self::chain_id`].
    pub async fn genesis_bytes(&self) -> Result<Vec<u8>, ChainError> {
        let text: String = self.call("chain_genesis", rpc_params![]).await?;
        hex::decode(text).map_err(|error| self.unreadable("chain_genesis", error))
    }

    /// The genesis; one that does not hash to the chain's id is refused.
    pub async fn genesis(&self) -> Result<Genesis, ChainError> {
        let bytes = self.genesis_bytes().await?;
        let genesis =
            Genesis::from_bytes(&bytes).map_err(|error| self.unreadable("chain_genesis", error))?;
        let now = genesis.chain_id();
        if now != self.chain_id() {
            return Err(self.other_chain(now));
        }
        Ok(genesis)
    }

    /// Money, nonce and escrow of an account; zeros for one that never had any.
    pub async fn account(&self, address: &Address) -> Result<AccountView, ChainError> {
        self.call("hf_account", rpc_params![address]).await
    }

    /// What an account may grant and may store as verified deals.
    pub async fn datacap(&self, address: &Address) -> Result<DataCap, ChainError> {
        self.call("hf_datacap", rpc_params![address]).await
    }

    /// One provider.
    pub async fn provider(&self, id: ProviderId) -> Result<Option<ProviderView>, ChainError> {
        self.call("hf_provider", rpc_params![id]).await
    }

    /// All providers, in the order of their ids.
    pub async fn providers(&self) -> Result<Vec<ProviderView>, ChainError> {
        let mut all: Vec<ProviderView> = Vec::new();
        loop {
            let after = all.last().map(|view| view.provider.id);
            let page: Page<ProviderView> = self
                .call("hf_providers", rpc_params![after, MAX_PAGE])
                .await?;
            if !self.take_page("hf_providers", &mut all, page, after, |view| {
                view.provider.id
            })? {
                return Ok(all);
            }
        }
    }

    /// Adds a page to a list; true if there is a next one. What does not ascend would have no end.
    fn take_page<T, K: Ord>(
        &self,
        method: &'static str,
        all: &mut Vec<T>,
        page: Page<T>,
        after: Option<K>,
        key: impl Fn(&T) -> K,
    ) -> Result<bool, ChainError> {
        let more = page.more && !page.items.is_empty();
        let mut last = after;
        for item in page.items {
            let at = key(&item);
            if last.is_some_and(|last| at <= last) {
                return Err(self.unreadable(method, "its items do not ascend"));
            }
            last = Some(at);
            all.push(item);
        }
        Ok(more)
    }

    /// One deal.
    pub async fn deal(&self, id: &DealId) -> Result<Option<DealView>, ChainError> {
        self.call("hf_deal", rpc_params![id]).await
    }

    /// All deals that an account pays for, in the order of their ids.
    pub async fn deals_by_client(&self, client: &Address) -> Result<Vec<DealView>, ChainError> {
        self.deals(DealsOf::Client(*client)).await
    }

    /// All deals that a provider keeps, in the order of their ids.
    pub async fn deals_by_provider(&self, id: ProviderId) -> Result<Vec<DealView>, ChainError> {
        self.deals(DealsOf::Provider(id)).await
    }

    async fn deals(&self, of: DealsOf) -> Result<Vec<DealView>, ChainError> {
        let mut all: Vec<DealView> = Vec::new();
        loop {
            let after = all.last().map(|view| view.id);
            let page: Page<DealView> = self
                .call("hf_deals", rpc_params![of, after, MAX_PAGE])
                .await?;
            if !self.take_page("hf_deals", &mut all, page, after, |view| view.id)? {
                return Ok(all);
            }
        }
    }

    /// One sector number of a provider, whatever became of it.
    pub async fn sector(
        &self,
        provider: ProviderId,
        number: SectorNumber,
    ) -> Result<Option<SectorView>, ChainError> {
        self.call("hf_sector", rpc_params![provider, number]).await
    }

    /// All sector numbers of a provider, ended ones included.
    pub async fn sectors(&self, provider: ProviderId) -> Result<Vec<SectorView>, ChainError> {
        let mut all: Vec<SectorView> = Vec::new();
        loop {
            let after = all.last().map(|view| view.number);
            let page: Page<SectorView> = self
                .call("hf_sectors", rpc_params![provider, after, MAX_PAGE])
                .await?;
            if !self.take_page("hf_sectors", &mut all, page, after, |view| view.number)? {
                return Ok(all);
            }
        }
    }

    /// A provider's partitions, each in the occurrence of its deadline that is open or comes next.
    pub async fn deadlines(&self, provider: ProviderId) -> Result<Vec<PartitionView>, ChainError> {
        self.call("hf_deadlines", rpc_params![provider]).await
    }

    /// Everything a provider process follows, from one block; `None` for a provider that is not registered.
    pub async fn picture(
        &self,
        provider: ProviderId,
        query: &PictureQuery,
    ) -> Result<Option<ProviderPicture>, ChainError> {
        self.call("hf_providerPicture", rpc_params![provider, query])
            .await
    }

    /// The provider that this account registered, if any.
    pub async fn provider_of_owner(
        &self,
        owner: &Address,
    ) -> Result<Option<ProviderView>, ChainError> {
        let all = self.providers().await?;
        Ok(all.into_iter().find(|view| view.provider.owner == *owner))
    }

    /// Who holds the clock now. Devnets only.
    pub async fn leases(&self) -> Result<Vec<LeaseView>, ChainError> {
        self.call("hf_leases", rpc_params![]).await
    }

    /// Who decides the next block.
    pub async fn validators(&self) -> Result<Vec<ValidatorView>, ChainError> {
        self.call("chain_validators", rpc_params![]).await
    }

    /// The network in numbers.
    pub async fn network(&self) -> Result<NetworkView, ChainError> {
        self.call("hf_network", rpc_params![]).await
    }

    /// The first epochs after each run of dark ones that ended after `after`, ascending.
    pub async fn dark_runs(&self, after: Epoch) -> Result<Vec<Epoch>, ChainError> {
        let mut all: Vec<Epoch> = Vec::new();
        loop {
            let from = all.last().copied().unwrap_or(after);
            let page: Page<Epoch> = self
                .call("hf_darkRuns", rpc_params![from, MAX_PAGE])
                .await?;
            if !self.take_page("hf_darkRuns", &mut all, page, Some(from), |epoch| *epoch)? {
                return Ok(all);
            }
        }
    }

    /// What a deal or sector of `bytes` padded bytes costs now.
    pub async fn quote(&self, bytes: u64) -> Result<QuoteView, ChainError> {
        self.call("hf_quote", rpc_params![bytes]).await
    }

    /// `rand(tag, epoch, provider)` of `chain.md` §4. Tags: 1 ticket, 2 seed, 3 window PoSt, 4 offset.
    pub async fn randomness(
        &self,
        tag: u64,
        epoch: Epoch,
        provider: ProviderId,
    ) -> Result<[u8; 32], ChainError> {
        let text: String = self
            .call("hf_randomness", rpc_params![tag, epoch, provider])
            .await?;
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|error| self.unreadable("hf_randomness", error))?;
        Ok(bytes)
    }

    /// Puts a transaction into the node's pool. Sending the same one again is harmless.
    pub async fn submit(&self, tx: &SignedTx) -> Result<TxId, ChainError> {
        let bytes = hex::encode(tx.to_bytes());
        let answer: Submitted = self.call("hf_submit", rpc_params![bytes]).await?;
        Ok(answer.tx)
    }

    /// Builds, signs and submits a transaction with the account's next nonce. For callers that send one at a time.
    pub async fn send(
        &self,
        key: &ed25519_dalek::SigningKey,
        msgs: Vec<Message>,
    ) -> Result<SignedTx, ChainError> {
        let sender = Address::of(&key.verifying_key());
        let nonce = self.account(&sender).await?.next_nonce;
        let head = self.head().await?;
        let signed = chain_lite::message::sign(self.tx(sender, nonce, head.height, msgs), key);
        self.submit(&signed).await?;
        Ok(signed)
    }

    /// A transaction for this chain, valid for the next [`TX_LIFE_BLOCKS`] blocks after `height`.
    pub fn tx(&self, sender: Address, nonce: u64, height: u64, msgs: Vec<Message>) -> Tx {
        Tx {
            version: chain_lite::message::TX_VERSION,
            chain_id: self.chain_id(),
            sender,
            nonce,
            fee_limit: TokenAmount(u128::MAX),
            valid_until_height: height.saturating_add(TX_LIFE_BLOCKS),
            msgs,
        }
    }

    /// Where a transaction is.
    pub async fn tx_status(&self, id: &TxId) -> Result<TxStatus, ChainError> {
        self.call("hf_txStatus", rpc_params![id]).await
    }

    /// Waits until a transaction is included and successful, or can no longer be. Submits it again if the node lost it.
    pub async fn wait_tx(&self, tx: &SignedTx) -> Result<Receipt, ChainError> {
        let id = tx.id();
        let mut heads = self.subscribe_heads();
        loop {
            match self.tx_status(&id).await {
                Ok(TxStatus::Included { receipt, .. }) => {
                    return match receipt.error() {
                        None => Ok(receipt),
                        Some(error) => Err(ChainError::Failed {
                            tx: id,
                            error: error.clone(),
                        }),
                    };
                }
                Ok(TxStatus::Pending) => {}
                Ok(TxStatus::Unknown) => {
                    let expired = self.head().await?.height >= tx.tx.valid_until_height;
                    // Asked again after the height: it may have been included in between.
                    if expired && self.tx_status(&id).await? == TxStatus::Unknown {
                        return Err(ChainError::Expired(id));
                    }
                    if !expired {
                        self.submit(tx).await?;
                    }
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
            // A head, or a pause while the chain is away.
            let _ = tokio::time::timeout(Duration::from_secs(2), heads.changed()).await;
        }
    }

    /// [`ChainClient::send`] and [`ChainClient::wait_tx`] in one.
    pub async fn execute(
        &self,
        key: &ed25519_dalek::SigningKey,
        msgs: Vec<Message>,
    ) -> Result<Receipt, ChainError> {
        let signed = self.send(key, msgs).await?;
        self.wait_tx(&signed).await
    }

    /// Follows the newest block; skips blocks if the reader is slow. Survives reconnects; ends when the receiver is dropped.
    /// The value is `None` until the first answer.
    pub fn subscribe_heads(&self) -> watch::Receiver<Option<Head>> {
        let (sender, receiver) = watch::channel(None);
        let client = self.clone();
        tokio::spawn(async move {
            while !sender.is_closed() {
                let Ok(mut stream) = client
                    .subscription::<Head>(
                        "chain_subscribeHeads",
                        rpc_params![],
                        "chain_unsubscribeHeads",
                    )
                    .await
                else {
                    tokio::time::sleep(REDIAL_EVERY).await;
                    continue;
                };
                loop {
                    tokio::select! {
                        () = sender.closed() => return,
                        next = stream.next() => match next {
                            Some(Ok(head)) => drop(sender.send(Some(head))),
                            Some(Err(_)) => {}
                            None => break,
                        },
                    }
                }
                tokio::time::sleep(REDIAL_EVERY).await;
            }
        });
        receiver
    }

    /// Every block's receipts and events from `from_height` on, in order and without gaps: first from disk, then live.
    /// Survives reconnects; ends when the receiver is dropped.
    pub fn subscribe_events(&self, from_height: u64) -> mpsc::Receiver<BlockEvents> {
        let (sender, receiver) = mpsc::channel(EVENT_BUFFER);
        let client = self.clone();
        tokio::spawn(async move {
            let mut next_height = from_height;
            while !sender.is_closed() {
                let Ok(mut stream) = client
                    .subscription::<BlockEvents>(
                        "hf_subscribeEvents",
                        rpc_params![next_height],
                        "hf_unsubscribeEvents",
                    )
                    .await
                else {
                    tokio::time::sleep(REDIAL_EVERY).await;
                    continue;
                };
                loop {
                    let item = tokio::select! {
                        () = sender.closed() => return,
                        item = stream.next() => item,
                    };
                    let Some(Ok(block)) = item else { break };
                    // A gap would mean a lost block: start over from the one we miss.
                    if block.head.height != next_height {
                        break;
                    }
                    next_height += 1;
                    if sender.send(block).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(REDIAL_EVERY).await;
            }
        });
        receiver
    }

    /// Waits for the first event from `from_height` on that `wanted` accepts.
    pub async fn wait_event(
        &self,
        from_height: u64,
        mut wanted: impl FnMut(&EventRecord) -> bool,
    ) -> Option<EventRecord> {
        let mut blocks = self.subscribe_events(from_height);
        while let Some(block) = blocks.recv().await {
            if let Some(found) = block.events.into_iter().find(&mut wanted) {
                return Some(found);
            }
        }
        None
    }

    /// Keeps epoch `before` from beginning for `ttl`, or until released. Devnets only. Renew while the proof runs.
    pub async fn hold_clock(
        &self,
        provider: ProviderId,
        before: Epoch,
        ttl: Duration,
    ) -> Result<(), ChainError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.call("hf_holdClock", rpc_params![provider, before, ttl_ms])
            .await
    }

    /// Gives the lease back.
    pub async fn release_clock(&self, provider: ProviderId) -> Result<(), ChainError> {
        self.call("hf_releaseClock", rpc_params![provider]).await
    }

    /// Test money from a devnet's faucet; waits until it is there.
    pub async fn faucet(&self, to: &Address, amount: TokenAmount) -> Result<TxId, ChainError> {
        let answer: Submitted = self.call("hf_faucet", rpc_params![to, amount]).await?;
        Ok(answer.tx)
    }

    /// The canonical bytes of a final block: what the block log holds and an auditor replays.
    pub async fn block_bytes(&self, height: u64) -> Result<Option<Vec<u8>>, ChainError> {
        let text: Option<String> = self.call("chain_block", rpc_params![height]).await?;
        text.map(|text| hex::decode(text).map_err(|error| self.unreadable("chain_block", error)))
            .transpose()
    }

    /// A final block with its certificate, the newest if none is named. Nothing here is checked: see [`proven`].
    pub async fn light_block(&self, height: Option<u64>) -> Result<Option<LightBlock>, ChainError> {
        self.proven("light_block", rpc_params![height]).await
    }

    /// Leaves of the state before block `height` (the newest) with their proofs, unchecked; at most
    /// [`chain_lite::light::MAX_BATCH_LEAVES`].
    /// `None` where the node cannot prove that state: it was pruned, or the node has just started.
    pub async fn light_state(
        &self,
        height: Option<u64>,
        keys: &[Vec<u8>],
    ) -> Result<Option<StateBatch>, ChainError> {
        let keys: Vec<String> = keys.iter().map(hex::encode).collect();
        self.proven("light_state", rpc_params![height, keys]).await
    }

    /// A transaction's receipt with its proof, unchecked; `None` before the block after its own is final.
    pub async fn light_receipt(&self, id: &TxId) -> Result<Option<ReceiptBundle>, ChainError> {
        self.proven("light_receipt", rpc_params![id]).await
    }

    async fn proven<T: BorshDeserialize + BorshSerialize>(
        &self,
        method: &'static str,
        params: impl ToRpcParams + Send + Clone,
    ) -> Result<Option<T>, ChainError> {
        let text: Option<String> = self.call(method, params).await?;
        let Some(text) = text else { return Ok(None) };
        let bytes = hex::decode(text).map_err(|error| self.unreadable(method, error))?;
        codec::decode(&bytes, MAX_ANSWER_BYTES as usize)
            .map(Some)
            .map_err(|error| self.unreadable(method, error))
    }

    fn unreadable(&self, method: &'static str, error: impl std::fmt::Display) -> ChainError {
        ChainError::Unreadable {
            url: self.shared.url.clone(),
            method,
            reason: error.to_string(),
        }
    }

    fn other_chain(&self, now: ChainId) -> ChainError {
        ChainError::OtherChain {
            url: self.shared.url.clone(),
            expected: self.chain_id(),
            now,
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: impl ToRpcParams + Send + Clone,
    ) -> Result<T, ChainError> {
        let url = &self.shared.url;
        let socket = self.socket().await?;
        match request(url, &socket, method, params.clone()).await {
            Err(ChainError::Unreachable { .. }) => {
                self.forget(&socket).await;
                let socket = self.socket().await?;
                request(url, &socket, method, params).await
            }
            answer => answer,
        }
    }

    async fn subscription<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: impl ToRpcParams + Send,
        end: &'static str,
    ) -> Result<Subscription<T>, ChainError> {
        let socket = self.socket().await?;
        match socket.subscribe(method, params, end).await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                self.forget(&socket).await;
                Err(from_rpc(&self.shared.url, method, error))
            }
        }
    }

    /// The live socket, dialled if needed; a chain that changed under the address is refused.
    async fn socket(&self) -> Result<Arc<WsClient>, ChainError> {
        let mut slot = self.shared.socket.lock().await;
        if let Some(socket) = slot.as_ref().filter(|socket| socket.is_connected()) {
            return Ok(Arc::clone(socket));
        }
        let url = &self.shared.url;
        let socket = Arc::new(dial(url).await?);
        let info: ChainInfo = request(url, &socket, "hf_info", rpc_params![]).await?;
        if info.chain_id != self.chain_id() {
            return Err(self.other_chain(info.chain_id));
        }
        *slot = Some(Arc::clone(&socket));
        Ok(socket)
    }

    /// Drops a broken socket, unless somebody replaced it already.
    async fn forget(&self, broken: &Arc<WsClient>) {
        let mut slot = self.shared.socket.lock().await;
        if slot
            .as_ref()
            .is_some_and(|socket| Arc::ptr_eq(socket, broken))
        {
            *slot = None;
        }
    }
}

async fn dial(url: &str) -> Result<WsClient, ChainError> {
    WsClientBuilder::new()
        .connection_timeout(DIAL_TIMEOUT)
        .request_timeout(CALL_TIMEOUT)
        .max_response_size(MAX_ANSWER_BYTES)
        .build(url)
        .await
        .map_err(|error| from_rpc(url, "connect", error))
}

async fn request<T: DeserializeOwned>(
    url: &str,
    socket: &WsClient,
    method: &'static str,
    params: impl ToRpcParams + Send,
) -> Result<T, ChainError> {
    socket
        .request(method, params)
        .await
        .map_err(|error| from_rpc(url, method, error))
}

fn from_rpc(url: &str, method: &'static str, error: RpcError) -> ChainError {
    match error {
        RpcError::Call(refusal) => ChainError::Refused(refusal.message().to_owned()),
        RpcError::ParseError(error) => ChainError::Unreadable {
            url: url.to_owned(),
            method,
            reason: error.to_string(),
        },
        other => ChainError::Unreachable {
            url: url.to_owned(),
            reason: other.to_string(),
        },
    }
}
