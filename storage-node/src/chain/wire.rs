//! What travels over JSON-RPC: the answers of [`crate::rpc`], read by [`super::ChainClient`]. One definition for both ends.
//!
//! Bytes: JSON. Numbers that may exceed 53 bits (money, power) are decimal strings; hashes are hex; transactions, blocks and
//! genesis are the hex of their canonical borsh bytes, because those are what was signed and hashed.

use chain_lite::account::{Address, ChainId, DealId, ProviderId, TxId};
use chain_lite::certificate::{BlockId, ValidatorId};
use chain_lite::deal::Deal;
use chain_lite::events::EventRecord;
use chain_lite::execute::Receipt;
use chain_lite::market::Escrow;
use chain_lite::params::ChainParams;
use chain_lite::provider::Provider;
use chain_lite::sector::{SectorLeaf, SectorState};
use chain_lite::units::{Epoch, StoragePower, TokenAmount};
use prover::{CommR, SectorNumber};
use serde::{Deserialize, Serialize};

/// Most entries of one page; longer lists are asked for page by page.
pub const MAX_PAGE: u32 = 500;

/// The newest block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// 0 before the first block.
    pub height: u64,
    /// The block's name.
    pub block: BlockId,
    /// Its epoch: the "now" of every rule.
    pub epoch: Epoch,
    /// Unix milliseconds by the proposer's clock; informative.
    pub time_ms: u64,
}

/// What a client must know before it does anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainInfo {
    /// Fixed by genesis; enters every signature and the QUIC protocol name.
    pub chain_id: ChainId,
    /// For people.
    pub name: String,
    /// Milliseconds between blocks when nothing holds the clock.
    pub epoch_ms: u64,
    /// Whether the clock is the devnet's, which providers may hold.
    pub logical_clock: bool,
    /// The rules' numbers.
    pub params: ChainParams,
    /// Whether this node hands out test money ([`super::ChainClient::faucet`]).
    pub faucet: bool,
}

/// One of those who decide the next block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorView {
    /// The key that signs its votes.
    pub id: ValidatorId,
    /// Its share of the votes.
    pub power: u64,
}

/// Money of one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// What its key may spend.
    pub free: TokenAmount,
    /// The nonce its next transaction must carry, by the newest block.
    pub nonce: u64,
    /// The same, counting what already waits in this node's pool.
    pub next_nonce: u64,
    /// Set aside for deals.
    pub escrow: Escrow,
}

/// A provider with its derived numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderView {
    /// The record.
    pub provider: Provider,
    /// Escrow of its owner, which secures its deals.
    pub escrow: Escrow,
    /// What it may withdraw or lock now.
    pub available: TokenAmount,
}

/// A deal and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealView {
    /// Its id.
    pub id: DealId,
    /// The record.
    pub deal: Deal,
}

/// A sector number of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectorView {
    /// Its number.
    pub number: SectorNumber,
    /// What is recorded under it.
    pub leaf: SectorLeaf,
    /// Its present state, if it is committed.
    pub state: Option<SectorState>,
}

/// A partition in the occurrence of its deadline that is open or comes next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Deadline index.
    pub deadline: u16,
    /// Partition index.
    pub partition: u32,
    /// Its challenge is drawn from the beacon of this epoch.
    pub challenge: Epoch,
    /// First epoch of the window.
    pub open: Epoch,
    /// First epoch after the window.
    pub close: Epoch,
    /// Whether this occurrence was posted.
    pub posted: bool,
    /// Its sectors, ascending.
    pub sectors: Vec<PartitionSector>,
}

/// A sector in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSector {
    /// Its number.
    pub number: SectorNumber,
    /// Its replica.
    pub comm_r: CommR,
    /// Its state.
    pub state: SectorState,
}

/// What a provider process wants to see of itself in one answer: the deals and sector numbers that it knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureQuery {
    /// Its deals, at most [`MAX_PICTURE_ENTRIES`].
    pub deals: Vec<DealId>,
    /// Its sector numbers, at most [`MAX_PICTURE_ENTRIES`]. Committed sectors are shown in any case.
    pub sectors: Vec<SectorNumber>,
}

/// Most deals, and most sectors, of a [`PictureQuery`].
pub const MAX_PICTURE_ENTRIES: usize = 8192;

/// All that a provider process follows, in one answer and from one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderPicture {
    /// The block it is a picture of.
    pub head: Head,
    /// The provider.
    pub provider: ProviderView,
    /// Those of the asked deals that the chain knows.
    pub deals: Vec<PictureDeal>,
    /// Those of the asked numbers that are pre-committed, with the epoch.
    pub precommits: Vec<(SectorNumber, Epoch)>,
    /// Its partitions with all its committed sectors.
    pub partitions: Vec<PartitionView>,
}

/// A deal in a picture: without the proposal, which the provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureDeal {
    /// Its id.
    pub id: DealId,
    /// Where it is in its life.
    pub status: chain_lite::deal::DealStatus,
    /// While it is published: the last epoch in which it may begin ([`chain_lite::query::begin_by`]); then its start.
    pub begin_by: Epoch,
}

/// The network in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Bytes of all active sectors.
    pub raw_power: StoragePower,
    /// The same, adjusted for quality.
    pub power: StoragePower,
    /// Minted so far.
    pub minted: TokenAmount,
    /// Burnt so far.
    pub burnt: TokenAmount,
    /// Issued at genesis.
    pub genesis: TokenAmount,
    /// Minted and not yet claimed.
    pub reward_pool: TokenAmount,
    /// Locked in deals.
    pub market_locked: TokenAmount,
    /// In circulation (`chain.md` §3).
    pub circulating: TokenAmount,
    /// The newest epoch whose beacon is on chain.
    pub beacon_tip: Epoch,
}

/// What a deal or sector of a size costs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteView {
    /// Least collateral that a provider must put up for a piece of this padded size.
    pub deal_collateral: TokenAmount,
    /// Deposit of a pre-commit of this many bytes without verified deals.
    pub precommit_deposit: TokenAmount,
    /// Pledge of such a sector.
    pub pledge: TokenAmount,
}

/// Where a transaction is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum TxStatus {
    /// Neither in a block nor in this node's pool.
    Unknown,
    /// In this node's pool.
    Pending,
    /// In a block.
    Included {
        /// The block's height.
        height: u64,
        /// What became of it.
        receipt: Receipt,
    },
}

/// A block's outcome, as the event subscription delivers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockEvents {
    /// The block.
    pub head: Head,
    /// Its transactions' receipts, in order.
    pub receipts: Vec<Receipt>,
    /// Its events, in order.
    pub events: Vec<EventRecord>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// At most as many as were asked for.
    pub items: Vec<T>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// Names an account's part in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DealsOf {
    /// Deals that this account pays for.
    Client(Address),
    /// Deals that this provider keeps.
    Provider(ProviderId),
}

/// Answer to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The transaction's name.
    pub tx: TxId,
}

/// Holder of a clock lease, for `devnet status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Who holds it.
    pub provider: ProviderId,
    /// Milliseconds left.
    pub left_ms: u64,
    /// First epoch held back.
    pub before: Epoch,
}
