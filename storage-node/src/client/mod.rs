//! The client: put, get, list and inspect objects.
//!
//! Place in the walk: between `cli` and the network. The shape of an object is [`crate::object`]'s; this module decides what to
//! do in which order, and survives crashes.
//!
//! | module | what |
//! |---|---|
//! | [`put`] | encrypt, code, place, push, publish, read back, and only then say *stored* |
//! | [`encode`] | a file as a stream of coded segments, in bounded memory |
//! | [`journal`] | what a put must remember to resume without a second charge |
//! | [`outbox`] | one transaction of any other command, sent once |
//! | [`promise`] | vouchers that were given away |
//! | [`catalog`] | which objects an account has, from the chain alone |
//! | [`get`] | any k of n, verified, decrypted, written |
//! | [`receipts`] | what each get says of its providers, signed |
//! | [`health`] | k-of-n health, rungs, deadlines and money of an object |
//! | [`possession`] | a beacon-drawn challenge to every holder, recorded |
//! | [`bundle`] | collects what shows an auditor that an object is stored |
//! | [`live`] | the seams below over proofs by JSON-RPC, and QUIC |
//!
//! Two seams, [`Chain`] and [`Network`], carry everything that can fail, stall or crash; tests put fakes behind them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chain_lite::account::{Address, ChainId, DealId, NetKey, ProviderId, TxId};
use chain_lite::deal::Deal;
use chain_lite::message::{Message, SignedTx};
use chain_lite::params::ChainParams;
use chain_lite::units::{Epoch, StoragePower, TokenAmount};
use prover::{CommP, SectorSize};
use retrieval::fetch::{FetchRequest, ProviderReport, Unit};
use retrieval::verify::ReadAt;
use retrieval::{PieceKey, PieceRoot};

use self::outbox::Outbox;
use crate::chain::PartitionView;
use crate::config::Home;
use crate::identity::Wallet;
use crate::object::cipher::CipherError;
use crate::object::erasure::ErasureError;
use crate::object::manifest::{ManifestError, ObjectId};
use crate::object::placement::{Holder, PlacementError};
use crate::provider::ask::Ask;

pub mod bundle;
pub mod catalog;
pub mod encode;
pub mod get;
pub mod health;
pub mod journal;
pub mod live;
pub mod outbox;
pub mod possession;
pub mod promise;
pub mod put;
pub mod receipts;
pub(crate) mod record;

#[cfg(test)]
mod draw_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

/// How long a provider may take to say its terms.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything a client operation works with.
#[derive(Debug)]
pub struct Client<C, N> {
    /// The chain.
    pub chain: C,
    /// The providers.
    pub network: N,
    /// Who pays and who can read.
    pub wallet: Wallet,
    /// Where journals lie.
    pub home: Home,
}

/// Money of an account as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    /// What may be spent.
    pub free: TokenAmount,
    /// Nonce of the next transaction, those waiting included.
    pub next_nonce: u64,
    /// Nonce of the next transaction by the newest block.
    pub nonce: u64,
    /// All escrow.
    pub escrow: TokenAmount,
    /// The part of it that open deals hold.
    pub locked: TokenAmount,
}

impl Money {
    /// Escrow that a new deal may lock.
    pub fn unlocked(&self) -> TokenAmount {
        self.escrow.minus_or_zero(self.locked)
    }
}

/// The newest block's place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Its height.
    pub height: u64,
    /// Its epoch.
    pub epoch: Epoch,
}

/// A provider as the chain records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRecord {
    /// Its id.
    pub id: ProviderId,
    /// Who owns it.
    pub owner: Address,
    /// The key its endpoint must prove.
    pub net_key: NetKey,
    /// Where it listens.
    pub addrs: Vec<SocketAddr>,
    /// Size of its sectors.
    pub sector_size: SectorSize,
    /// Whether its money on chain secures at least one empty sector: who withdrew its bond gets no new pieces (Y1).
    pub bonded: bool,
}

impl ProviderRecord {
    /// What decides whether it and another one may be one operator's.
    pub fn holder(&self) -> Holder {
        Holder {
            owner: self.owner.0,
            hosts: self.addrs.iter().map(SocketAddr::ip).collect(),
        }
    }
}

/// A piece on its way to a provider.
#[derive(Clone)]
pub struct Outgoing {
    /// Root and unpadded size.
    pub key: PieceKey,
    /// Piece commitment.
    pub comm_p: CommP,
    /// The signed proposal, borsh.
    pub proposal: Vec<u8>,
    /// The piece's bytes.
    pub data: Arc<dyn ReadAt>,
    /// Its outboard.
    pub outboard: Arc<dyn ReadAt>,
}

/// Why a push gave no acknowledgement. The difference decides whether another provider may be asked without the risk of
/// paying two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The provider said no, so it does not hold the piece.
    #[error("it refused: {0}")]
    Refused(String),
    /// It was never reached, so it has not seen the proposal.
    #[error("it cannot be reached: {0}")]
    NotReached(String),
    /// The transfer broke. If the last byte had been read from disk it may hold the whole piece.
    #[error("the transfer broke off: {0}")]
    Interrupted(String),
}

/// Why the chain gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFailure {
    /// Not reachable; later may help.
    #[error("{0}")]
    Unreachable(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// What it said is not so, or is not what is trusted.
    #[error("{0}")]
    Untrue(String),
}

/// What a client needs of the chain.
pub trait Chain: Clone + Send + Sync + 'static {
    /// The chain's id.
    fn chain_id(&self) -> ChainId;
    /// The rules' numbers.
    fn params(&self) -> ChainParams;
    /// The newest block.
    fn now(&self) -> impl Future<Output = Result<Now, ChainFailure>> + Send;
    /// An account's money.
    fn money(&self, of: &Address) -> impl Future<Output = Result<Money, ChainFailure>> + Send;
    /// All providers.
    fn providers(&self) -> impl Future<Output = Result<Vec<ProviderRecord>, ChainFailure>> + Send;
    /// A deal, if it was published.
    fn deal(&self, id: &DealId) -> impl Future<Output = Result<Option<Deal>, ChainFailure>> + Send;
    /// All deals of a client.
    fn deals(
        &self,
        client: &Address,
    ) -> impl Future<Output = Result<Vec<(DealId, Deal)>, ChainFailure>> + Send;
    /// The beacon's output of an epoch that has begun.
    fn beacon(&self, epoch: Epoch) -> impl Future<Output = Result<[u8; 32], ChainFailure>> + Send;
    /// Least collateral for a piece of this padded size.
    fn collateral(
        &self,
        padded: u64,
    ) -> impl Future<Output = Result<TokenAmount, ChainFailure>> + Send;
    /// What an interrupted command of this wallet has left, followed to its end ([`Outbox::follow`]): the nonce to use if that is
    /// still open.
    fn follow(
        &self,
        outbox: &Outbox,
        of: &Address,
    ) -> impl Future<Output = Result<Option<u64>, ClientError>> + Send;
    /// Bytes of verified deals that an account may still publish.
    fn datacap(
        &self,
        of: &Address,
    ) -> impl Future<Output = Result<StoragePower, ChainFailure>> + Send;
    /// A provider's partitions and when each is proven next.
    fn deadlines(
        &self,
        provider: ProviderId,
    ) -> impl Future<Output = Result<Vec<PartitionView>, ChainFailure>> + Send;
    /// A transaction of these messages, signed and valid for some time, not yet submitted.
    fn sign(&self, wallet: &Wallet, nonce: u64, now: Now, msgs: Vec<Message>) -> SignedTx;
    /// Submits and waits until it is included and successful. The same transaction twice is one transaction.
    fn execute(&self, tx: &SignedTx) -> impl Future<Output = Result<(), ChainFailure>> + Send;
    /// Returns when there may be something new: a block, or a second.
    fn pause(&self) -> impl Future<Output = ()> + Send;
}

/// What a client needs of the providers.
pub trait Network: Send + Sync + 'static {
    /// Units of a running fetch.
    type Units: Units;
    /// A provider's terms, as they are now.
    fn ask(&self, of: &ProviderRecord) -> impl Future<Output = Result<Ask, String>> + Send;
    /// Pushes a piece and returns the acknowledgement's bytes.
    fn push(
        &self,
        to: &ProviderRecord,
        piece: Outgoing,
    ) -> impl Future<Output = Result<Vec<u8>, PushError>> + Send;
    /// Reads verified bytes of a piece.
    fn read(
        &self,
        from: &ProviderRecord,
        piece: PieceKey,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send;
    /// A leaf of a piece's CommP tree with its path, unchecked: `prover::piece::inclusion::LeafProof`.
    fn leaf(
        &self,
        from: &ProviderRecord,
        piece: CommP,
        leaf: u64,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send;
    /// Starts reading the same bytes of any k shards.
    fn fetch(&self, request: FetchRequest) -> Result<Self::Units, String>;
    /// Where `retrieval` meets a provider.
    fn peers(of: &ProviderRecord) -> Vec<retrieval::PeerAddr> {
        of.addrs
            .iter()
            .map(|addr| retrieval::PeerAddr {
                peer: retrieval::PeerId(of.net_key.0),
                addr: *addr,
            })
            .collect()
    }
}

/// A running fetch.
pub trait Units: Send + 'static {
    /// The next unit in ascending order; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Unit>, String>> + Send;
    /// Providers proven to have sent wrong bytes so far.
    fn liars(&self) -> Vec<String>;
    /// Each provider's part so far, also of those that were not asked.
    fn parts(&self) -> Vec<ProviderReport>;
}

/// Why a client operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file of the caller's or ours.
    #[error("cannot {what} {}: {error}", .path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// Not something that can be stored.
    #[error("{} is not a plain file", .0.display())]
    NotAFile(PathBuf),
    /// The file changed between two looks.
    #[error("{} changed while it was being stored", .0.display())]
    Changed(PathBuf),
    /// No manifest can hold the object on this network.
    #[error("{bytes} bytes are too many for one object on this network: {reason}")]
    TooLarge {
        /// The file's length.
        bytes: u64,
        /// Which limit.
        reason: String,
    },
    /// Impossible k and m.
    #[error(transparent)]
    Scheme(#[from] ErasureError),
    /// Not enough providers. The second field says what each unavailable one answered.
    #[error("{error}{}", list(.refusals))]
    Placement {
        /// The count.
        error: PlacementError,
        /// `provider: reason` each.
        refusals: Vec<String>,
    },
    /// Not enough money.
    #[error(
        "storing this needs {need} tokens in escrow and this account has {have}",
        need = .need.in_tokens(), have = .have.in_tokens()
    )]
    Money {
        /// What is missing in escrow.
        need: TokenAmount,
        /// Free money.
        have: TokenAmount,
    },
    /// Not enough DataCap for verified deals.
    #[error(
        "verified deals of {} padded bytes are more than the {} bytes of DataCap that this account holds", .need.0, .have.0
    )]
    DataCap {
        /// What the unpublished deals of the put take.
        need: StoragePower,
        /// What the account holds.
        have: StoragePower,
    },
    /// The chain did not answer or said no.
    #[error(transparent)]
    Chain(#[from] ChainFailure),
    /// A provider does not do what it agreed to.
    #[error("provider {provider}: {reason}")]
    Provider {
        /// Which.
        provider: ProviderId,
        /// What it did.
        reason: String,
    },
    /// A journal that cannot be used.
    #[error("the journal {} is damaged: {reason}", .path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nobody can say what became of an interrupted command's transaction.
    #[error(
        "an interrupted command sent transaction {tx}; its nonce is used, but the node shows no receipt for it"
    )]
    Unclear {
        /// Which.
        tx: TxId,
        /// Where it is remembered.
        path: PathBuf,
    },
    /// Another put, repair or transfer is running in this home.
    #[error("another command is using this wallet (lock {})", .0.display())]
    Busy(PathBuf),
    /// No such object.
    #[error("this account has no object {0}")]
    UnknownObject(String),
    /// More than one object has an id that starts like this.
    #[error("{count} objects have an id that starts with {prefix}")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// The manifest cannot be read from any of its holders.
    #[error("the manifest of {object} cannot be read: {reason}")]
    ManifestLost {
        /// The object.
        object: ObjectId,
        /// What each holder said.
        reason: String,
    },
    /// A manifest that does not open or decode.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Fewer than k shards of a segment can be read.
    #[error("segment {segment}: {reason}")]
    Lost {
        /// Which segment.
        segment: u64,
        /// What each provider did.
        reason: String,
    },
    /// Every shard matches its root and still the bytes are wrong: whoever stored it coded it wrongly.
    #[error("inconsistent encoding: the shards of segment {segment} are as stored, but {error}")]
    Inconsistent {
        /// Which segment.
        segment: u64,
        /// What fails.
        error: CipherError,
    },
    /// The bytes are not those of the manifest.
    #[error("inconsistent encoding: the restored bytes do not have the hash in the manifest")]
    WrongHash,
    /// A range outside the object.
    #[error("the range {start}..{end} is outside the object's {len} bytes")]
    OutOfRange {
        /// First byte wanted.
        start: u64,
        /// One past the last byte wanted.
        end: u64,
        /// The object's length.
        len: u64,
    },
    /// The output exists.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// Our own mistake.
    #[error("internal error: {0}")]
    Bug(String),
}

fn list(refusals: &[String]) -> String {
    refusals.iter().map(|line| format!("; {line}")).collect()
}

impl ClientError {
    /// A file error with its path.
    pub fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> ClientError {
        let path = path.into();
        move |error| ClientError::File { what, path, error }
    }

    /// A failed background task of ours.
    pub fn task(error: tokio::task::JoinError) -> Self {
        Self::Bug(format!("a background task ended: {error}"))
    }
}

/// A piece's key from a root and size.
pub fn piece_key(root: [u8; 32], size: u64) -> PieceKey {
    PieceKey {
        root: PieceRoot(root),
        size,
    }
}

/// Asks a provider for its terms, for a limited time.
pub(crate) async fn ask<N: Network>(network: &N, of: &ProviderRecord) -> Result<Ask, String> {
    let answer = tokio::time::timeout(ASK_TIMEOUT, network.ask(of)).await;
    answer.unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// Awaits all futures at once and gives their results in order.
pub(crate) async fn futures_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, slot) in pending.iter_mut().zip(&mut done) {
            if slot.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(output) => *slot = Some(output),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    done.into_iter()
        .map(|slot| slot.expect("the loop ends when every slot is filled"))
        .collect()
}
