//! The client's two seams over the real network: the chain by proofs over JSON-RPC, providers by QUIC.
//!
//! Thin on purpose: conversions between this crate's words and those of `chain` and `retrieval`, and the classification of a
//! failed push, which decides whether another provider may be asked.

use std::collections::BTreeMap;
use std::ops::Range;

use chain_lite::account::{Address, ChainId, DealId, ProviderId};
use chain_lite::bundle::Anchor;
use chain_lite::deal::Deal;
use chain_lite::message::{Message, SignedTx, sign};
use chain_lite::params::ChainParams;
use chain_lite::possession::beacon_of;
use chain_lite::state::{key, read};
use chain_lite::units::{Epoch, StoragePower, TokenAmount};
use prover::CommP;
use retrieval::fetch::{Fetch, FetchRequest, ProviderReport, Unit};
use retrieval::push::{PutSource, put};
use retrieval::wire::{ChainTag, CommpQuery, FailureCode, PutHeader};
use retrieval::{Endpoint, Error, FetchLimits, Fetcher, Limits, PieceKey, Session};

use super::outbox::Outbox;
use super::{
    Chain, ChainFailure, Client, ClientError, Money, Network, Now, Outgoing, ProviderRecord,
    PushError, Units,
};
use crate::chain::proven::{ProvenChain, ProvenError};
use crate::chain::{ChainClient, ChainError, PartitionView, ProviderView};
use crate::config::Home;
use crate::identity::Wallet;
use crate::provider::ask::Ask;
use crate::rpc::reads;

/// Longest wait of [`Chain::pause`].
const PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// A client of a running network.
pub type LiveClient = Client<ProvenChain, Quic>;

/// Connects to the chain at `url` and opens a QUIC socket for its providers. Believes the chain that `home` believes; a new home
/// takes the id that the node names.
pub async fn connect(url: &str, wallet: Wallet, home: Home) -> Result<LiveClient, ClientError> {
    connect_to(url, wallet, home, &Anchor::default()).await
}

/// As [`connect`], believing only what `anchor` leads to.
pub async fn connect_to(
    url: &str,
    wallet: Wallet,
    home: Home,
    anchor: &Anchor,
) -> Result<LiveClient, ClientError> {
    let chain = proven(url, &home, anchor).await?;
    let network = Quic::new(chain.node())?;
    Ok(Client {
        chain,
        network,
        wallet,
        home,
    })
}

/// The chain at `url`, of which only what `anchor` and `home` lead to is believed.
pub async fn proven(url: &str, home: &Home, anchor: &Anchor) -> Result<ProvenChain, ClientError> {
    let node = ChainClient::connect(url).await.map_err(failure)?;
    let chain = ProvenChain::open(node, anchor, home).await;
    Ok(chain.map_err(disbelief)?)
}

/// The transport's words in the client's.
pub(crate) fn failure(error: ChainError) -> ChainFailure {
    match error {
        ChainError::Unreachable { .. } => ChainFailure::Unreachable(error.to_string()),
        _ => ChainFailure::Refused(error.to_string()),
    }
}

/// The prover's words in the client's.
pub(crate) fn disbelief(error: ProvenError) -> ChainFailure {
    match error {
        ProvenError::Chain(error) => failure(error),
        ProvenError::NotNow { .. } => ChainFailure::Unreachable(error.to_string()),
        _ => ChainFailure::Untrue(error.to_string()),
    }
}

/// A provider's record as clients use it, with the keys in force at `now`.
pub(super) fn record(view: &ProviderView, now: Epoch, bond: Option<TokenAmount>) -> ProviderRecord {
    let provider = &view.provider;
    // An address that is no `ip:port` is not one we can dial; others of the record may be.
    let addrs = provider.addrs.iter().filter_map(|addr| addr.parse().ok());
    ProviderRecord {
        id: provider.id,
        owner: provider.owner,
        net_key: provider.keys(now).1,
        addrs: addrs.collect(),
        sector_size: provider.sector_size,
        bonded: bond.is_some_and(|bond| provider.balance >= bond && provider.fee_debt < bond),
    }
}

impl Chain for ProvenChain {
    fn chain_id(&self) -> ChainId {
        self.node().chain_id()
    }

    fn params(&self) -> ChainParams {
        ProvenChain::params(self).clone()
    }

    async fn now(&self) -> Result<Now, ChainFailure> {
        let network = self.read(reads::network).await.map_err(disbelief)?;
        Ok(Now {
            height: network.height,
            epoch: network.epoch,
        })
    }

    async fn money(&self, of: &Address) -> Result<Money, ChainFailure> {
        let account = self
            .read(|state| reads::account(state, of, None))
            .await
            .map_err(disbelief)?;
        // What waits in the node's pool is no fact of the chain; a wrong answer costs one refused transaction.
        let pending = self.node().account(of).await.map_err(failure)?;
        Ok(Money {
            free: account.free,
            next_nonce: pending.next_nonce.max(account.nonce),
            nonce: account.nonce,
            escrow: account.escrow.escrow,
            locked: account.escrow.locked,
        })
    }

    async fn providers(&self) -> Result<Vec<ProviderRecord>, ChainFailure> {
        let now = Chain::now(self).await?.epoch;
        let views = ProvenChain::providers(self).await.map_err(disbelief)?;
        let mut bonds = BTreeMap::new();
        for size in views.iter().map(|view| view.provider.sector_size) {
            if let std::collections::btree_map::Entry::Vacant(bond) = bonds.entry(size) {
                let quote = self.read(|state| reads::quote(state, size.bytes())).await;
                bond.insert(quote.map_err(disbelief)?.precommit_deposit);
            }
        }
        let record = |view| record(view, now, bonds.get(&view.provider.sector_size).copied());
        Ok(views.iter().map(record).collect())
    }

    async fn deal(&self, id: &DealId) -> Result<Option<Deal>, ChainFailure> {
        ProvenChain::deal(self, id).await.map_err(disbelief)
    }

    async fn deals(&self, client: &Address) -> Result<Vec<(DealId, Deal)>, ChainFailure> {
        ProvenChain::deals(self, client).await.map_err(disbelief)
    }

    async fn beacon(&self, epoch: Epoch) -> Result<[u8; 32], ChainFailure> {
        let value = self
            .read(|state| Ok(read::<[u8; 32]>(state, &key::beacon(epoch))?))
            .await
            .map_err(disbelief)?;
        match value {
            Some(value) => Ok(beacon_of(&value, epoch)),
            None => Err(ChainFailure::Refused(format!(
                "the beacon of epoch {epoch} is not on chain: not yet, or no longer kept"
            ))),
        }
    }

    async fn collateral(&self, padded: u64) -> Result<TokenAmount, ChainFailure> {
        let quote = self
            .read(|state| reads::quote(state, padded))
            .await
            .map_err(disbelief)?;
        Ok(quote.deal_collateral)
    }

    async fn follow(&self, outbox: &Outbox, of: &Address) -> Result<Option<u64>, ClientError> {
        outbox.follow(self, of).await
    }

    async fn datacap(&self, of: &Address) -> Result<StoragePower, ChainFailure> {
        let cap = self.read(|state| reads::datacap(state, of)).await;
        Ok(cap.map_err(disbelief)?.held)
    }

    async fn deadlines(&self, provider: ProviderId) -> Result<Vec<PartitionView>, ChainFailure> {
        let partitions = self
            .read(|state| {
                let now = reads::network(state)?.epoch;
                match reads::provider(state, provider)? {
                    Some(view) => reads::partitions(state, &view.provider, now).map(Some),
                    None => Ok(None),
                }
            })
            .await
            .map_err(disbelief)?;
        partitions.ok_or_else(|| ChainFailure::Refused(format!("there is no provider {provider}")))
    }

    fn sign(&self, wallet: &Wallet, nonce: u64, now: Now, msgs: Vec<Message>) -> SignedTx {
        let tx = self.node().tx(wallet.address(), nonce, now.height, msgs);
        sign(tx, wallet.signing_key())
    }

    async fn execute(&self, tx: &SignedTx) -> Result<(), ChainFailure> {
        self.node().submit(tx).await.map_err(failure)?;
        self.node().wait_tx(tx).await.map_err(failure)?;
        self.confirm(tx).await.map(drop).map_err(disbelief)
    }

    async fn pause(&self) {
        // Cheaper than a subscription per waiter, and a block of a devnet takes about as long.
        tokio::time::sleep(PAUSE).await;
    }
}

/// The providers, over QUIC.
#[derive(Debug)]
pub struct Quic {
    /// For bytes: sessions are kept warm.
    endpoint: Endpoint,
    /// For terms: a session of its own each time, because a provider states them when it greets.
    asks: Endpoint,
    fetcher: Fetcher,
}

impl Quic {
    /// A socket for this chain's providers, with a throw-away identity.
    pub fn new(chain: &ChainClient) -> Result<Self, ClientError> {
        let tag = ChainTag(chain.chain_tag());
        let open = || {
            Endpoint::client(tag, Limits::default()).map_err(|error| {
                ClientError::file("open", "a UDP socket")(std::io::Error::other(error))
            })
        };
        let endpoint = open()?;
        Ok(Self {
            fetcher: Fetcher::new(endpoint.clone(), FetchLimits::default()),
            asks: open()?,
            endpoint,
        })
    }

    /// Says goodbye to the providers.
    pub async fn close(&self) {
        tokio::join!(self.endpoint.close(), self.asks.close());
    }

    async fn session(&self, endpoint: &Endpoint, to: &ProviderRecord) -> Result<Session, String> {
        let mut reason = "it has no address that can be dialled".to_owned();
        for peer in Self::peers(to) {
            match endpoint.session(peer).await {
                Ok(session) => return Ok(session),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }
}

impl Network for Quic {
    type Units = Running;

    async fn ask(&self, of: &ProviderRecord) -> Result<Ask, String> {
        let session = self.session(&self.asks, of).await?;
        let ask = Ask::decode(session.info()).map_err(|error| error.to_string());
        session.close();
        let ask = ask?;
        if ask.provider != of.id {
            return Err(format!("it answers as provider {}", ask.provider));
        }
        Ok(ask)
    }

    async fn push(&self, to: &ProviderRecord, piece: Outgoing) -> Result<Vec<u8>, PushError> {
        let session = self
            .session(&self.endpoint, to)
            .await
            .map_err(PushError::NotReached)?;
        let header = PutHeader {
            size: piece.key.size,
            root: piece.key.root,
            commp: piece.comm_p,
            proposal: piece.proposal,
        };
        let source = PutSource {
            data: piece.data,
            outboard: piece.outboard,
        };
        match put(&session, header, source).await {
            Ok(ack) => Ok(ack.ack),
            Err(error) => Err(classify(&error)),
        }
    }

    async fn read(
        &self,
        from: &ProviderRecord,
        piece: PieceKey,
        range: Range<u64>,
    ) -> Result<Vec<u8>, String> {
        let session = self.session(&self.endpoint, from).await?;
        session
            .read(piece, range)
            .await
            .map_err(|error| error.to_string())
    }

    async fn leaf(
        &self,
        from: &ProviderRecord,
        piece: CommP,
        leaf: u64,
    ) -> Result<Vec<u8>, String> {
        let session = self.session(&self.endpoint, from).await?;
        let query = CommpQuery {
            commp: piece,
            first_leaf: leaf,
            leaves: 1,
        };
        session
            .commp_proof(query)
            .await
            .map_err(|error| error.to_string())
    }

    fn fetch(&self, request: FetchRequest) -> Result<Running, String> {
        match self.fetcher.fetch(request) {
            Ok(fetch) => Ok(Running(fetch)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What a failed push means. A provider that is busy said no to this try only, and holds nothing.
fn classify(error: &Error) -> PushError {
    match error {
        Error::Refused(failure) if failure.code == FailureCode::RateLimited => {
            PushError::NotReached(error.to_string())
        }
        Error::Refused(_) => PushError::Refused(error.to_string()),
        Error::Unreachable { .. } | Error::WrongPeer { .. } => {
            PushError::NotReached(error.to_string())
        }
        _ => PushError::Interrupted(error.to_string()),
    }
}

/// A running fetch.
#[derive(Debug)]
pub struct Running(Fetch);

impl Units for Running {
    async fn next(&mut self) -> Result<Option<Unit>, String> {
        self.0.next().await.map_err(|error| error.to_string())
    }

    fn liars(&self) -> Vec<String> {
        let report = self.0.report();
        let liars = report.providers.iter().filter(|provider| provider.lied);
        liars.map(|provider| provider.peer.to_string()).collect()
    }
    fn parts(&self) -> Vec<ProviderReport> {
        self.0.report().providers
    }
}
