//! The chain as a client may believe it: every fact comes with a proof under a final block, whatever the node says.
//!
//! Place in the walk: the client's commands read the chain through [`ProvenChain`]; [`super::ChainClient`] carries the bytes and is
//! not believed. Spec: `consensus.md` §7; verification is `holdfast-light`'s.
//!
//! ```text
//! <home>/light.trust   "HFTRUST" 0 ‖ version u16 ‖ borsh(trusted block) ‖ SHA-256 of it      what this home believes
//! ```
//! * **Pin.** The chain's id is given with `--chain-id`, or it is what the file names, or, the first time, what the node says: then
//!   it is kept, and said aloud. `--checkpoint` begins at a block instead of the genesis.
//! * **Reads** are the node's own read functions ([`crate::rpc::reads`]) run here, on a state that fetches each key it is asked for
//!   with a proof ([`ProvenChain::read`]); all keys of one read are of one state.
//! * **What a node can still do**: not answer; answer from a state that is a little old, but never older than what was believed
//!   before; leave a deal out of a list, since lists are no leaves. It cannot invent or change anything.
//!
//! A fact about block h needs the header of h + 1: a read shows the state one block before the tip, and [`ProvenChain::confirm`]
//! waits for that block, so that whoever sent a transaction then reads its effects.
//! Cost: about 1.2 KB and 0.04 ms a key, one signature check (or a third of the validators') a new block. Crash: the file is
//! replaced atomically; an old one costs a longer step.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chain_lite::account::{Address, ChainId, DealId, ProviderId};
use chain_lite::bundle::{Anchor, trust_period_ms};
use chain_lite::codec;
use chain_lite::deal::Deal;
use chain_lite::error::StoreError;
use chain_lite::events::EventRecord;
use chain_lite::execute::Receipt;
use chain_lite::genesis::Genesis;
use chain_lite::light::{Leaf, LightBlock, LightError, MAX_BATCH_LEAVES, StateBatch, Trusted};
use chain_lite::message::SignedTx;
use chain_lite::params::ChainParams;
use chain_lite::state::{Entry, KvRead};
use holdfast_light::follow::{FollowError, Follower, Provider, Store};
use tokio::sync::Mutex;

use super::{ChainClient, ChainError};
use crate::config::Home;
use crate::rpc::reads::{self, ReadError};

/// How often a state that was pruned while it was read is begun again.
const TRIES: usize = 40;
/// Wait between them, and between looks for a transaction's proof.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest wait for the block after the one that was newest when a chain was opened.
const SETTLE: Duration = Duration::from_secs(2);
/// The same where blocks come every second or faster: one that does not is held back for somebody's proof, and comes.
const SETTLE_HELD: Duration = Duration::from_secs(15);
/// Most times that a read asks for more keys.
const ROUNDS: usize = 32;
/// A trusted block is written at most this often; what is lost by a crash is proven again.
const SAVE_EVERY: Duration = Duration::from_secs(5);
const MAGIC: [u8; 8] = *b"HFTRUST\0";
const VERSION: u16 = 1;
/// Domain of the trust file's digest.
const TRUST_TAG: &str = "holdfast/light-trust/v1";
/// Longest file: a validator set of 1,024.
const MAX_TRUST_BYTES: u64 = 1 << 17;

/// Why a fact is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProvenError {
    /// The node does not answer, or refuses.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// What the node says is not so.
    #[error("the node at {url} cannot prove what it says: {why}")]
    Lie {
        /// The node.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// This home believes another chain.
    #[error("the node at {url} serves chain {found}, but {pinned} is pinned (by --chain-id or {})", .file.display())]
    Pinned {
        /// The node.
        url: String,
        /// Its chain.
        found: ChainId,
        /// The pinned one.
        pinned: ChainId,
        /// Where the pin is kept.
        file: PathBuf,
    },
    /// The trusted block is too old.
    #[error(
        "what this home trusts of the chain is older than the trust period; name a newer block with --checkpoint HEIGHT:BLOCK_ID, from somebody you trust"
    )]
    Expired,
    /// The node has no state that can be proven now.
    #[error(
        "the node at {url} cannot prove its newest state now; it has just started, or its blocks come too fast"
    )]
    NotNow {
        /// The node.
        url: String,
    },
    /// The file with the trusted block.
    #[error("cannot use {}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A chain of which only proofs are believed. Clones share it.
#[derive(Clone, Debug)]
pub struct ProvenChain {
    node: ChainClient,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    follower: Mutex<Follower<TrustFile>>,
    params: ChainParams,
    /// Whether the chain's id was taken from the node, because nothing named it.
    first_use: bool,
}

impl ProvenChain {
    /// Pins the chain, catches up with the node's newest block and reads the parameters.
    pub async fn open(
        node: ChainClient,
        anchor: &Anchor,
        home: &Home,
    ) -> Result<Self, ProvenError> {
        let store = TrustFile::new(home.light_trust());
        let found = node.chain_id();
        let kept = store.read()?;
        let pinned = anchor.chain_id.or(kept.as_ref().map(Trusted::chain_id));
        if let Some(pinned) = pinned.filter(|pinned| *pinned != found) {
            return Err(ProvenError::Pinned {
                url: node.url().to_owned(),
                found,
                pinned,
                file: store.path,
            });
        }
        let kept = kept.filter(|kept| kept.chain_id() == found);
        let begin = match (anchor.checkpoint, kept) {
            (Some((height, id)), _) => {
                let block = Node(&node).light_block(height).await?;
                Trusted::checkpoint(found, id, &block).map_err(|e| lie(&node, &e))?
            }
            (None, Some(kept)) => kept,
            (None, None) => genesis(&node).await?,
        };
        let follower =
            Follower::open(begin, store, trust_period_ms).map_err(|error| match error {
                FollowError::Store(error) => error,
                other => lie(&node, &other),
            })?;
        let mut this = Self {
            node,
            shared: Arc::new(Shared {
                follower: Mutex::new(follower),
                params: ChainParams::devnet(),
                first_use: pinned.is_none() && anchor.checkpoint.is_none(),
            }),
        };
        this.settle().await?;
        let params = this.read(reads::params).await?;
        Arc::get_mut(&mut this.shared)
            .expect("nobody else has it yet")
            .params = params;
        Ok(this)
    }

    /// Waits until what the node's newest block did can be proven, so that a command sees what the one before it did; not for long,
    /// because blocks may be far apart, or held back.
    async fn settle(&self) -> Result<(), ProvenError> {
        let newest = self.node.head().await?.height;
        let patience = match self.node.info().epoch_ms <= 1_000 {
            true => SETTLE_HELD,
            false => SETTLE,
        };
        let until = Instant::now() + patience;
        while self.read(reads::network).await?.height < newest && Instant::now() < until {
            tokio::time::sleep(SETTLE / 40).await;
        }
        Ok(())
    }

    /// The node, for what is no fact of the chain: submitting, waiting, hints. Not believed.
    pub fn node(&self) -> &ChainClient {
        &self.node
    }

    /// The rules' numbers, proven when this was opened.
    pub fn params(&self) -> &ChainParams {
        &self.shared.params
    }

    /// Whether the chain's id was taken from the node because nothing named it.
    pub fn is_first_use(&self) -> bool {
        self.shared.first_use
    }

    /// Runs a read on the newest state that can be proven; each key it asks for is fetched with its proof. The read is run again
    /// whenever keys were missing, so it must depend on the state alone. Lists of keys cannot be proven and are refused.
    pub async fn read<T>(
        &self,
        read: impl Fn(&dyn KvRead) -> Result<T, ReadError>,
    ) -> Result<T, ProvenError> {
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            if let Some(value) = self.read_once(&read).await? {
                return Ok(value);
            }
        }
        Err(ProvenError::NotNow {
            url: self.node.url().to_owned(),
        })
    }

    /// As [`ProvenChain::read`]; nothing if the state was pruned before the read was through.
    async fn read_once<T>(
        &self,
        read: &impl Fn(&dyn KvRead) -> Result<T, ReadError>,
    ) -> Result<Option<T>, ProvenError> {
        let mut state = Fetched::default();
        let mut at: Option<LightBlock> = None;
        for _ in 0..ROUNDS {
            let result = read(&state);
            let missing: Vec<Vec<u8>> = state.missing.take().into_iter().collect();
            if missing.is_empty() {
                return result.map(Some).map_err(|e| lie(&self.node, &e));
            }
            for keys in missing.chunks(MAX_BATCH_LEAVES / 2) {
                let Some(batch) = self.fetch(at.as_ref(), keys).await? else {
                    return Ok(None);
                };
                let leaves = batch.leaves.into_iter();
                state
                    .known
                    .extend(leaves.map(|leaf| (leaf.key, leaf.value)));
                at = Some(batch.light);
            }
        }
        Err(lie(
            &self.node,
            &"its state leads from key to key without end",
        ))
    }

    /// Proven leaves: of the newest state, or of the state that a read began with.
    async fn fetch(
        &self,
        at: Option<&LightBlock>,
        keys: &[Vec<u8>],
    ) -> Result<Option<StateBatch>, ProvenError> {
        let node = Node(&self.node);
        let Some(at) = at else {
            // Under the lock, so that a slower answer is not taken for an old one.
            let mut follower = self.shared.follower.lock().await;
            let Some(batch) = self.node.light_state(None, keys).await? else {
                return Ok(None);
            };
            self.check(&batch, keys)?;
            let believed = follower.believe(&node, batch.light.clone(), now_ms()).await;
            believed.map_err(|e| self.unbelieved(e))?;
            return Ok(Some(batch));
        };
        let batch = self.node.light_state(Some(at.header.height), keys).await?;
        let Some(batch) = batch else { return Ok(None) };
        self.check(&batch, keys)?;
        match batch.light.header == at.header {
            true => Ok(Some(batch)),
            false => Err(lie(&self.node, &"two blocks of one height")),
        }
    }

    fn check(&self, batch: &StateBatch, keys: &[Vec<u8>]) -> Result<(), ProvenError> {
        batch.check(keys).map_err(|error| {
            let header = &batch.light.header;
            let wrong = |leaf: &&Leaf| !leaf.holds(&header.prev_state_root);
            let which = batch.leaves.iter().find(wrong).map(|leaf| &leaf.key);
            let which = which.map_or("other leaves than asked for".into(), hex::encode);
            lie(
                &self.node,
                &format!("the state before block {}, {which}: {error}", header.height),
            )
        })
    }

    fn unbelieved(&self, error: FollowError<ProvenError, ProvenError>) -> ProvenError {
        match error {
            FollowError::Provider(error) | FollowError::Store(error) => error,
            FollowError::Light(LightError::Expired) => ProvenError::Expired,
            other => lie(&self.node, &other),
        }
    }

    /// A deal.
    pub async fn deal(&self, id: &DealId) -> Result<Option<Deal>, ProvenError> {
        let view = self.read(|state| reads::deal(state, id)).await?;
        Ok(view.map(|view| view.deal))
    }

    /// The deals of a client that the node names; each is proven, that there are no others is not.
    pub async fn deals(&self, client: &Address) -> Result<Vec<(DealId, Deal)>, ProvenError> {
        let named = self.node.deals_by_client(client).await?;
        let ids: BTreeSet<DealId> = named.iter().map(|view| view.id).collect();
        let all = |state: &dyn KvRead| {
            ids.iter()
                .map(|id| reads::deal(state, id))
                .collect::<Vec<_>>()
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
        };
        let mut deals = Vec::with_capacity(ids.len());
        for view in self.read(all).await?.into_iter().flatten() {
            if view.deal.proposal.client != *client {
                return Err(lie(&self.node, &"a deal of another account"));
            }
            deals.push((view.id, view.deal));
        }
        Ok(deals)
    }

    /// Proves that a transaction is in a final block and succeeded; waits for the block after it. Gives its receipt.
    pub async fn confirm(&self, tx: &SignedTx) -> Result<Receipt, ProvenError> {
        let receipt = self.receipt(tx).await?;
        match receipt.error() {
            None => Ok(receipt),
            Some(error) => Err(ChainError::Failed {
                tx: receipt.tx,
                error: error.clone(),
            }
            .into()),
        }
    }

    /// The proven receipt of a transaction that is in a final block, whatever it says; waits for the block after it.
    pub async fn receipt(&self, tx: &SignedTx) -> Result<Receipt, ProvenError> {
        let id = tx.id();
        loop {
            let Some(bundle) = self.node.light_receipt(&id).await? else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            bundle
                .check()
                .map_err(|e| lie(&self.node, &format!("the receipt of {id}: {e}")))?;
            let (receipt, _): (Receipt, Vec<EventRecord>) =
                codec::decode(&bundle.leaf, bundle.leaf.len()).map_err(|e| lie(&self.node, &e))?;
            if receipt.tx != id {
                return Err(lie(&self.node, &"the receipt of another transaction"));
            }
            let mut follower = self.shared.follower.lock().await;
            let node = Node(&self.node);
            let believed = follower.confirm(&node, bundle.light, now_ms()).await;
            believed.map_err(|e| self.unbelieved(e))?;
            return Ok(receipt);
        }
    }

    /// The provider that this account registered. The node says which, that it is this account's is proven; that there is none is
    /// not: [`ProvenChain::providers`] proves it, for a leaf of every provider.
    pub async fn provider_of_owner(
        &self,
        owner: &Address,
    ) -> Result<Option<super::ProviderView>, ProvenError> {
        let Some(named) = self.node.provider_of_owner(owner).await? else {
            return Ok(None);
        };
        let id = named.provider.id;
        let view = self.read(|state| reads::provider(state, id)).await?;
        match view {
            Some(view) if view.provider.owner != *owner => {
                Err(lie(&self.node, &"a provider of another account"))
            }
            view => Ok(view),
        }
    }

    /// All providers: their number is a leaf, so none can be left out.
    pub async fn providers(&self) -> Result<Vec<super::ProviderView>, ProvenError> {
        let all = |state: &dyn KvRead| {
            let end = reads::network(state)?.next_provider;
            // All keys are asked for at once: a missing one is no error before it was fetched.
            let views: Vec<_> = (ProviderId::FIRST.0..end)
                .map(|id| reads::provider(state, ProviderId(id)))
                .collect();
            views.into_iter().collect::<Result<Vec<_>, _>>()
        };
        Ok(self.read(all).await?.into_iter().flatten().collect())
    }
}

fn lie(node: &ChainClient, why: &dyn std::fmt::Display) -> ProvenError {
    ProvenError::Lie {
        url: node.url().to_owned(),
        why: why.to_string(),
    }
}

/// The genesis is believed because it hashes to the chain's id.
async fn genesis(node: &ChainClient) -> Result<Trusted, ProvenError> {
    let bytes = node.genesis_bytes().await?;
    let genesis = Genesis::from_bytes(&bytes)
        .and_then(Genesis::check)
        .map_err(|e| lie(node, &e))?;
    match genesis.chain_id() == node.chain_id() {
        true => Ok(genesis.trusted()),
        false => Err(lie(node, &"its genesis is of another chain")),
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A state in which what was not fetched is noted and shown as absent.
#[derive(Default)]
struct Fetched {
    known: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    missing: RefCell<BTreeSet<Vec<u8>>>,
}

impl KvRead for Fetched {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.known.get(key) {
            Some(value) => Ok(value.clone()),
            None => {
                self.missing.borrow_mut().insert(key.to_vec());
                Ok(None)
            }
        }
    }

    fn range(&self, from: &[u8], _: &[u8], _: usize) -> Result<Vec<Entry>, StoreError> {
        Err(StoreError::Corrupt {
            key: hex::encode(from),
            why: "a list cannot be proven".into(),
        })
    }
}

/// The node as `holdfast-light` asks it.
struct Node<'a>(&'a ChainClient);

impl Provider for Node<'_> {
    type Error = ProvenError;

    async fn light_block(&self, height: u64) -> Result<LightBlock, ProvenError> {
        let block = self.0.light_block(Some(height)).await?;
        block.ok_or_else(|| lie(self.0, &format!("it has no block {height}")))
    }

    async fn state(&self, keys: &[Vec<u8>]) -> Result<StateBatch, ProvenError> {
        let batch = self.0.light_state(None, keys).await?;
        batch.ok_or_else(|| ProvenError::NotNow {
            url: self.0.url().to_owned(),
        })
    }
}

/// The newest trusted block, in the home folder.
#[derive(Debug)]
struct TrustFile {
    path: PathBuf,
    saved: Option<Instant>,
}

impl TrustFile {
    fn new(path: PathBuf) -> Self {
        Self { path, saved: None }
    }

    fn read(&self) -> Result<Option<Trusted>, ProvenError> {
        let failed = |why: String| ProvenError::File {
            path: self.path.clone(),
            why,
        };
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut bytes = Vec::new();
        file.take(MAX_TRUST_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| failed(e.to_string()))?;
        let damaged =
            || failed("it is damaged; remove it, and name the chain with --chain-id".into());
        read_trust(&bytes).map(Some).ok_or_else(damaged)
    }
}

/// A trusted block as the file has it; nothing where a byte is wrong.
fn read_trust(bytes: &[u8]) -> Option<Trusted> {
    let content = bytes.strip_prefix(&MAGIC)?;
    let content = content.strip_prefix(&VERSION.to_le_bytes())?;
    let (content, digest) = content.split_last_chunk::<32>()?;
    let sound = codec::tagged_hash(TRUST_TAG, &[content]) == *digest;
    sound
        .then(|| codec::decode(content, content.len()).ok())
        .flatten()
}

fn write_trust(trusted: &Trusted) -> Vec<u8> {
    let content = codec::encode(trusted);
    let digest = codec::tagged_hash(TRUST_TAG, &[&content]);
    [&MAGIC[..], &VERSION.to_le_bytes(), &content, &digest].concat()
}

/// Any bytes as the content of a trust file, its digest made to fit: refused, or written back as those very bytes. Body of the
/// fuzz target.
pub fn fuzz_trust(content: &[u8]) {
    let digest = codec::tagged_hash(TRUST_TAG, &[content]);
    let bytes = [&MAGIC[..], &VERSION.to_le_bytes(), content, &digest].concat();
    if let Some(trusted) = read_trust(&bytes) {
        assert_eq!(write_trust(&trusted), bytes);
    }
    assert!(read_trust(content).is_none_or(|trusted| write_trust(&trusted) == content));
}

impl Store for TrustFile {
    type Error = ProvenError;

    fn load(&self, chain_id: &ChainId) -> Result<Option<Trusted>, ProvenError> {
        Ok(self.read()?.filter(|kept| kept.chain_id() == *chain_id))
    }

    fn save(&mut self, trusted: &Trusted) -> Result<(), ProvenError> {
        if self.saved.is_some_and(|at| at.elapsed() < SAVE_EVERY) {
            return Ok(());
        }
        let failed = |why: String| ProvenError::File {
            path: self.path.clone(),
            why,
        };
        let bytes = write_trust(trusted);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        crate::identity::create_private_dir(dir).map_err(|e| failed(e.to_string()))?;
        crate::client::journal::replace(&self.path, &bytes).map_err(|e| failed(e.to_string()))?;
        self.saved = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use borsh::{BorshDeserialize, BorshSerialize};
    use chain_lite::block::BlockId;
    use chain_lite::light::ReceiptBundle;
    use chain_lite::message::{Message, sign};
    use chain_lite::units::TokenAmount;
    use jsonrpsee::core::client::ClientT;
    use jsonrpsee::core::params::ArrayParams;
    use jsonrpsee::server::{RpcModule, Server, ServerConfig, ServerHandle};
    use jsonrpsee::types::ErrorObjectOwned;
    use jsonrpsee::ws_client::WsClientBuilder;
    use serde_json::Value;

    use super::*;
    use crate::client::Chain;
    use crate::rpc::tests::{address, bed, bed_named, key};

    /// Changes an answer: method and what the honest node said.
    pub(crate) type Tamper = Arc<dyn Fn(&str, Value) -> Value + Send + Sync>;

    /// A node in front of another one, that tells what `tamper` makes of its answers.
    pub(crate) async fn liar(honest: &str, tamper: Tamper) -> (ServerHandle, String) {
        let upstream = WsClientBuilder::new()
            .max_response_size(crate::chain::MAX_ANSWER_BYTES)
            .build(honest)
            .await
            .expect("connects");
        let upstream = Arc::new(upstream);
        let mut module = RpcModule::new(());
        for name in [
            "hf_info",
            "hf_account",
            "hf_deals",
            "hf_providers",
            "hf_submit",
            "hf_txStatus",
            "chain_head",
            "chain_genesis",
            "chain_block",
            "light_block",
            "light_state",
            "light_receipt",
        ] {
            let (upstream, tamper) = (Arc::clone(&upstream), Arc::clone(&tamper));
            module
                .register_async_method(name, move |params, _, _| {
                    let (upstream, tamper) = (Arc::clone(&upstream), Arc::clone(&tamper));
                    let params: Vec<Value> = params.parse().unwrap_or_default();
                    async move {
                        let mut list = ArrayParams::new();
                        for param in params {
                            list.insert(param).expect("was JSON before");
                        }
                        let answer: Result<Value, _> = upstream.request(name, list).await;
                        answer.map(|answer| tamper(name, answer)).map_err(|error| {
                            ErrorObjectOwned::owned(-32000, error.to_string(), None::<()>)
                        })
                    }
                })
                .expect("each once");
        }
        let config = ServerConfig::builder()
            .max_response_body_size(crate::chain::MAX_ANSWER_BYTES)
            .build();
        let server = Server::builder()
            .set_config(config)
            .build(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .expect("binds");
        let url = format!("ws://{}", server.local_addr().expect("bound"));
        (server.start(module), url)
    }

    /// A light answer, changed.
    fn changed<T: BorshDeserialize + BorshSerialize>(
        answer: Value,
        change: impl Fn(&mut T),
    ) -> Value {
        let Value::String(text) = &answer else {
            return answer;
        };
        let bytes = hex::decode(text).expect("hex");
        let mut value: T = borsh::from_slice(&bytes).expect("a light answer");
        change(&mut value);
        Value::String(hex::encode(codec::encode(&value)))
    }

    async fn open(url: &str, home: &Path, anchor: &Anchor) -> Result<ProvenChain, ProvenError> {
        let node = ChainClient::connect(url).await.expect("connects");
        ProvenChain::open(node, anchor, &Home::new(home)).await
    }

    #[track_caller]
    fn is_lie<T: std::fmt::Debug>(result: Result<T, ProvenError>, what: &str) {
        assert!(
            matches!(result, Err(ProvenError::Lie { .. })),
            "{what}: {result:?}"
        );
    }

    /// Every way to change a state's answer, one at a time.
    const LIES: [(&str, fn(&mut StateBatch)); 7] = [
        ("a value", |b| {
            for leaf in &mut b.leaves {
                if let Some(value) = &mut leaf.value {
                    value[0] ^= 1;
                }
            }
        }),
        ("an absence", |b| {
            b.leaves.iter_mut().for_each(|leaf| leaf.value = None);
        }),
        ("another key", |b| b.leaves[0].key.push(1)),
        ("no leaves", |b| b.leaves.clear()),
        ("the state root", |b| {
            b.light.header.prev_state_root[0] ^= 1;
        }),
        ("the header", |b| b.light.header.time_ms += 1),
        ("the validators", |b| b.light.validators[0].power += 1),
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_v12_a_node_that_lies_about_the_state_is_found_out_and_the_truth_is_read_after_it() {
        let bed = bed();
        let server = bed.serve(0, None).await;
        let home = tempfile::tempdir().expect("a folder");
        let mode = Arc::new(AtomicUsize::new(usize::MAX));
        let old: Arc<StdMutex<Option<Value>>> = Arc::default();
        let replay = LIES.len();
        let tamper: Tamper = {
            let (mode, old) = (Arc::clone(&mode), Arc::clone(&old));
            Arc::new(move |method, answer| {
                let mode = mode.load(Ordering::SeqCst);
                match method {
                    // Riches that nobody can prove.
                    "hf_account" => {
                        let mut answer = answer;
                        answer["free"] = Value::String("999999999999999999999999".into());
                        answer
                    }
                    "light_state" if mode < replay => changed(answer, LIES[mode].1),
                    "light_state" if mode == replay => {
                        let mut old = old.lock().expect("no panic");
                        old.get_or_insert(answer).clone()
                    }
                    _ => answer,
                }
            })
        };
        let (lying, url) = liar(&server.url(), tamper).await;
        let chain = open(&url, home.path(), &Anchor::default())
            .await
            .expect("it does not lie yet");
        assert!(chain.is_first_use());
        let account = address(1);
        let balance = || chain.read(|state| reads::account(state, &account, None));
        let truth = balance().await.expect("proven").free;
        assert_eq!(truth, TokenAmount::from_tokens(100_000_000));
        let money = Chain::money(&chain, &account).await.expect("proven");
        assert_eq!(money.free, truth, "what the node says without proof");

        for (at, (what, _)) in LIES.iter().enumerate() {
            mode.store(at, Ordering::SeqCst);
            is_lie(balance().await, what);
        }
        // A state that was true once: the first answer is recorded and believed, then newer ones are, then it is shown again.
        mode.store(replay, Ordering::SeqCst);
        balance().await.expect("it is still the newest");
        mode.store(usize::MAX, Ordering::SeqCst);
        let seen = Chain::now(&chain).await.expect("proven").height;
        while Chain::now(&chain).await.expect("proven").height == seen {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mode.store(replay, Ordering::SeqCst);
        is_lie(balance().await, "an old state");
        mode.store(usize::MAX, Ordering::SeqCst);
        assert_eq!(balance().await.expect("proven").free, truth);
        let absent = chain.deal(&DealId([1; 32])).await.expect("proven");
        assert_eq!(absent, None);
        lying.stop().expect("runs");
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_v12_a_receipt_counts_with_its_proof_only() {
        let bed = bed();
        let server = bed.serve(0, None).await;
        let home = tempfile::tempdir().expect("a folder");
        let mode = Arc::new(AtomicUsize::new(0));
        let other: Arc<StdMutex<Option<Value>>> = Arc::default();
        let tamper: Tamper = {
            let (mode, other) = (Arc::clone(&mode), Arc::clone(&other));
            Arc::new(move |method, answer| match method {
                "light_receipt" => match mode.load(Ordering::SeqCst) {
                    1 => changed(answer, |b: &mut ReceiptBundle| b.leaf[40] ^= 1),
                    2 => changed(answer, |b: &mut ReceiptBundle| {
                        b.light.header.prev_receipt_root[0] ^= 1;
                    }),
                    3 => other.lock().expect("no panic").clone().expect("recorded"),
                    _ => {
                        let mut other = other.lock().expect("no panic");
                        if answer.is_string() {
                            other.get_or_insert_with(|| answer.clone());
                        }
                        answer
                    }
                },
                _ => answer,
            })
        };
        let (lying, url) = liar(&server.url(), tamper).await;
        let chain = open(&url, home.path(), &Anchor::default())
            .await
            .expect("opens");
        let transfer = |nonce: u64, amount: u128| {
            let message = Message::Transfer {
                to: address(3),
                amount: TokenAmount(amount),
            };
            let tx = chain.node().tx(address(1), nonce, 1_000, vec![message]);
            sign(tx, &key(1))
        };
        let to = address(3);
        let received = || chain.read(|state| reads::account(state, &to, None));
        let first = transfer(0, 10);
        Chain::execute(&chain, &first).await.expect("proven");
        assert_eq!(
            received().await.expect("proven").free,
            TokenAmount(10),
            "what was confirmed is read"
        );
        let second = transfer(1, 5);
        Chain::execute(&chain, &second).await.expect("proven");
        // Old by now, and still proven: by the headers behind it.
        chain.confirm(&first).await.expect("proven");
        for lie in 1..=3 {
            mode.store(lie, Ordering::SeqCst);
            is_lie(chain.confirm(&second).await, &format!("lie {lie}"));
        }
        lying.stop().expect("runs");
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_v12_an_owner_is_not_shown_the_provider_of_somebody_else() {
        let bed = bed();
        let server = bed.serve(0, None).await;
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        // The node says that the only provider is account 5's.
        let theirs = address(5);
        let tamper: Tamper = Arc::new(move |method, mut answer| {
            if method == "hf_providers" {
                for view in answer["items"].as_array_mut().expect("a page") {
                    view["provider"]["owner"] = theirs.to_string().into();
                }
            }
            answer
        });
        let honest = ChainClient::connect(&server.url()).await.expect("connects");
        let register = Message::RegisterProvider {
            worker: address(3),
            net_key: chain_lite::account::NetKey(key(3).verifying_key().to_bytes()),
            addrs: vec!["127.0.0.1:9".to_owned()],
            sector_size: prover::SectorSize::Kib2,
            deposit: TokenAmount::from_tokens(27_000_000),
        };
        let registered = honest.execute(&key(1), vec![register]).await;
        registered.expect("included");
        let chain = ProvenChain::open(honest, &Anchor::default(), &home).await;
        let chain = chain.expect("opens");
        let found = chain.provider_of_owner(&address(1)).await.expect("proven");
        assert_eq!(found.map(|view| view.provider.owner), Some(address(1)));
        let none = chain.provider_of_owner(&theirs).await.expect("proven");
        assert!(none.is_none());
        let (lying, url) = liar(&server.url(), tamper).await;
        let node = ChainClient::connect(&url).await.expect("connects");
        let chain = ProvenChain::open(node, &Anchor::default(), &home).await;
        let lie = chain.expect("opens").provider_of_owner(&theirs).await;
        assert!(matches!(lie, Err(ProvenError::Lie { .. })), "{lie:?}");
        lying.stop().expect("runs");
        server.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_v12_a_home_keeps_to_its_chain_and_to_the_block_it_was_told() {
        let (bed, other) = (bed(), bed_named("another"));
        let (server, elsewhere) = (bed.serve(0, None).await, other.serve(0, None).await);
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let first = open(&server.url(), &at("a"), &Anchor::default())
            .await
            .expect("the first use");
        let again = open(&server.url(), &at("a"), &Anchor::default())
            .await
            .expect("the same chain");
        assert!(first.is_first_use() && !again.is_first_use());
        let refused = open(&elsewhere.url(), &at("a"), &Anchor::default()).await;
        assert!(matches!(refused, Err(ProvenError::Pinned { .. })));
        let named = Anchor {
            chain_id: Some(first.node().chain_id()),
            checkpoint: None,
        };
        let refused = open(&elsewhere.url(), &at("b"), &named).await;
        assert!(matches!(refused, Err(ProvenError::Pinned { .. })));
        assert!(!at("b").join("light.trust").exists());
        let named = open(&server.url(), &at("b"), &named).await.expect("named");
        assert!(!named.is_first_use());

        let head = named.node().head().await.expect("answers");
        let point = |id: BlockId| Anchor {
            chain_id: None,
            checkpoint: Some((head.height, id)),
        };
        is_lie(
            open(&server.url(), &at("c"), &point(BlockId([1; 32]))).await,
            "another id",
        );
        open(&server.url(), &at("c"), &point(head.block))
            .await
            .expect("the block it was told");

        let file = at("a").join("light.trust");
        let mut bytes = std::fs::read(&file).expect("saved");
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        std::fs::write(&file, bytes).expect("writes");
        let refused = open(&server.url(), &at("a"), &Anchor::default()).await;
        assert!(matches!(refused, Err(ProvenError::File { .. })));

        let swapped = ChainClient::connect(&elsewhere.url())
            .await
            .expect("connects")
            .genesis_bytes()
            .await
            .expect("answers");
        let swapped = hex::encode(swapped);
        let tamper: Tamper = Arc::new(move |method, answer| match method {
            "chain_genesis" => Value::String(swapped.clone()),
            _ => answer,
        });
        let (lying, url) = liar(&server.url(), tamper).await;
        is_lie(
            open(&url, &at("d"), &Anchor::default()).await,
            "another genesis",
        );
        lying.stop().expect("runs");
        server.stop().await;
        elsewhere.stop().await;
    }
}
