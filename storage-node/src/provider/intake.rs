//! Intake and the piece store: judges offered pieces, keeps what it acknowledged, serves it.
//!
//! Place in the walk: the far end of `retrieval::push`, before [`super::pack`]; the near end of `retrieval::fetch`. The
//! unsealed copies kept here are what readers get and what a damaged replica is resealed from.
//! Spec: `network.md` §2.3 (both roots), `chain.md` §11 (what the chain will accept). Threats C4 (both roots recomputed by
//! `retrieval::serve` before [`FileSink::finish`] can run: its argument proves it), C5 (deposit, minimum size, quotas,
//! disk reserve), H4 (full disk), P16.
//!
//! ```text
//! pieces/<blake3 root>.bin    the piece's bytes          pieces/<blake3 root>.obao   hash pairs for verified ranges
//! pieces/incoming/<n>.bin     being received             journal/deals/<deal id>     the deal it is held for
//! ```
//! Two deals over the same bytes share one file. Order of a receipt: data and pairs synced, renamed, folder synced, deal
//! record written; only then the signed acknowledgement. A crash before the record leaves files that the next start
//! removes; after it, the client that asks again gets the acknowledgement again. Every one of these changes goes through
//! [`Vfs`], so that tests cut the power at each (H1); reading is the system's, because nothing is lost by it.
//! A change that fails gives its room back at once, and the client is told (H4). After a failed *sync* nobody knows what the
//! disk holds: no piece is taken until the next start, which reads it anew (H5). What was acknowledged is served and proven
//! meanwhile: neither needs this journal.
//! Cost: one sequential write of the piece and seven fsyncs, two of them before the first byte. Memory: nothing beyond
//! `retrieval`'s blocks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chain_lite::account::{Address, Blake3Root, DealId};
use chain_lite::codec;
use chain_lite::log::Disk;
use chain_lite::message::{DealProposal, SignedProposal};
use chain_lite::params::ChainParams;
use chain_lite::units::{Epoch, StoragePower, TokenAmount};
use chain_lite::vfs::Vfs;
use ed25519_dalek::SigningKey;
use prover::piece::inclusion::LeafProof;
use prover::{CommP, PaddedPieceSize, PieceInfo};
use retrieval::peer::PeerId;
use retrieval::serve::{
    CheckedPiece, OpenPiece, PieceMeta, PieceStore, PutDecision, PutSink, Refusal,
};
use retrieval::wire::{MAX_PROPOSAL_BYTES, PieceRef, PieceRoot, PieceState, PutHeader};

use super::ask::Ask;
use super::journal::{self, Journal, JournalError};
use super::lifecycle::DealRecord;
use crate::object::ack::PieceAck;

/// How long an offer waits for escrow of ours that is on its way: a few blocks, and far less than a client's patience.
const ESCROW_PATIENCE: Duration = Duration::from_secs(6);
/// Pause between looks at it.
const ESCROW_POLL: Duration = Duration::from_millis(250);
/// What clients hear of a full disk.
const FULL: &str = "this provider's disk is full";
/// What clients hear after a failed sync. Its operator reads which file and why in the log and in `provider status`.
const CLOSED: &str = "this provider takes no pieces, because its disk failed to keep one; its operator has to free space or replace the disk, and start it again";

/// What the store needs to know of the outside to judge an offer; implemented over the chain client, and by hand in tests.
pub trait Market: Send + Sync {
    /// The terms of this moment, `free_bytes` as given.
    fn ask(&self, free_bytes: u64) -> Ask;
    /// The earliest start that is taken: not later than the ask's, which allows for pieces that are on their way.
    fn least_start(&self) -> Epoch;
    /// The epoch of the newest block.
    fn now(&self) -> Epoch;
    /// The rules' numbers.
    fn params(&self) -> &ChainParams;
    /// The money behind an offer: unlocked escrow of its client and of ourselves, the chain's least collateral for its piece.
    /// `full`: pledges are those of sectors full of verified deals.
    fn funds(&self, proposal: &DealProposal, full: bool) -> Result<Funds, String>;
    /// Our escrow is short: asks for more. False if none will come.
    fn fill_escrow(&self) -> bool;
}

/// Money behind an offer.
#[derive(Clone, Copy, Debug)]
pub struct Funds {
    /// The client's unlocked escrow.
    pub client: TokenAmount,
    /// Our own unlocked escrow.
    pub provider: TokenAmount,
    /// The chain's least collateral.
    pub least_collateral: TokenAmount,
    /// Pledges of all sectors that are to be sealed, this piece's included, at present rates.
    pub pledges: TokenAmount,
    /// What we can put up for them, the owner's account included where it may be used.
    pub for_pledges: TokenAmount,
    /// Bytes of verified deals that the client may still publish.
    pub verified: StoragePower,
}

/// Bounds of what one provider takes in.
#[derive(Clone, Copy, Debug)]
pub struct IntakeLimits {
    /// Padded bytes of all pieces.
    pub capacity_bytes: u64,
    /// Free disk space that is left alone.
    pub reserve_bytes: u64,
    /// Deals of one client that are received and not yet published.
    pub client_deals: usize,
    /// Their padded bytes.
    pub client_bytes: u64,
    /// A collateral above this multiple of the chain's least is refused.
    pub collateral_multiple: u128,
}

/// Why a start of the store fails.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder of pieces.
    #[error("cannot use the pieces in {path}: {source}", path = .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Where a store keeps what it holds.
#[derive(Clone, Debug)]
pub struct Folders {
    /// What they are on: the operating system's files, but in tests of power cuts.
    pub vfs: Arc<dyn Vfs>,
    /// The pieces.
    pub pieces: PathBuf,
    /// The deals' records.
    pub journal: PathBuf,
}

/// The pieces of one provider.
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    journal: Journal,
    market: Box<dyn Market>,
    limits: IntakeLimits,
    /// Signs acknowledgements: the network key.
    key: SigningKey,
    index: RwLock<Index>,
    /// Padded bytes and deals promised to transfers under way, per client.
    receiving: Mutex<BTreeMap<Address, Load>>,
    next_file: AtomicU64,
    /// Held while the files of a piece get their names and its deal is counted, or lose them: a deal that ends must not take the
    /// bytes of another one over the same piece that has just come.
    naming: Mutex<()>,
    received: Box<dyn Fn(DealRecord) + Send + Sync>,
    damage: Box<dyn Fn(PieceRoot) + Send + Sync>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    deals: usize,
    bytes: u64,
    /// What they will lock of their client's escrow, in base units.
    cost: u128,
    /// What they will lock of ours.
    collateral: u128,
    /// What they will take of their client's DataCap, in bytes.
    verified: u128,
}

#[derive(Default)]
struct Index {
    pieces: HashMap<[u8; 32], Piece>,
    by_commp: HashMap<CommP, [u8; 32]>,
    deals: BTreeMap<DealId, Held>,
    /// Padded bytes of all pieces.
    bytes: u64,
}

struct Piece {
    bytes: u64,
    info: PieceInfo,
    deals: BTreeSet<DealId>,
}

struct Held {
    root: [u8; 32],
    client: Address,
    padded: u64,
    cost: u128,
    collateral: u128,
    verified: bool,
    published: bool,
}

/// What [`Store::open`] found wrong.
#[derive(Debug, Default)]
pub struct OpenReport {
    /// Deals whose bytes are missing or have another length.
    pub missing: Vec<DealId>,
    /// Records moved aside by the journal.
    pub damaged_records: Vec<PathBuf>,
}

impl Store {
    /// Opens the pieces and the deals in `at`; removes what interrupted transfers left.
    ///
    /// `received` is told of each new deal after it is durable, `damage` of each piece whose bytes are not what they were.
    pub fn open(
        at: Folders,
        market: Box<dyn Market>,
        limits: IntakeLimits,
        key: SigningKey,
        received: Box<dyn Fn(DealRecord) + Send + Sync>,
        damage: Box<dyn Fn(PieceRoot) + Send + Sync>,
    ) -> Result<(Self, Vec<DealRecord>, OpenReport), StoreError> {
        let Folders {
            vfs,
            pieces: dir,
            journal,
        } = at;
        let folder = |source| StoreError::Folder {
            path: dir.clone(),
            source,
        };
        let incoming = dir.join("incoming");
        vfs.create_dir(&incoming).map_err(folder)?;
        // All of them: numbers begin again at 0, and files of that name are appended to.
        for (name, _) in vfs.list(&incoming).map_err(folder)? {
            vfs.remove(&incoming.join(name)).map_err(folder)?;
        }
        let journal = Journal::open_on(Arc::clone(&vfs), &journal)?;
        let (records, damage_found) = journal.load::<DealRecord>()?;
        let records: Vec<DealRecord> = records.into_iter().map(|(_, record)| record).collect();
        let mut report = OpenReport {
            damaged_records: damage_found.moved_aside,
            ..OpenReport::default()
        };
        let mut index = Index::default();
        for record in &records {
            let on_disk = vfs.len(&data_path(&dir, &record.blake3_root));
            if on_disk.ok() == Some(record.bytes) {
                index.add(record, true);
            } else {
                report.missing.push(record.deal);
            }
        }
        // A damaged record may be put back from a copy: its piece, whichever it is, stays until then.
        if report.damaged_records.is_empty() {
            remove_orphans(&*vfs, &dir, &index).map_err(folder)?;
        }
        let inner = Inner {
            vfs,
            dir,
            journal,
            market,
            limits,
            key,
            index: RwLock::new(index),
            receiving: Mutex::default(),
            next_file: AtomicU64::new(0),
            naming: Mutex::default(),
            received,
            damage,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            records,
            report,
        ))
    }

    /// The chain has published this deal: it no longer counts against its client's quota.
    pub fn published(&self, deal: &DealId) {
        if let Some(held) = self.inner.write().deals.get_mut(deal) {
            held.published = true;
        }
    }

    /// Lets go of a deal, and of its bytes when no other deal holds them.
    pub fn forget(&self, deal: &DealId) -> Result<(), JournalError> {
        let _naming = self.inner.lock_naming();
        self.inner.journal.remove(&deal.to_string())?;
        let unused = self.inner.write().remove(deal);
        if let Some(root) = unused {
            self.inner.remove_files(&root);
        }
        Ok(())
    }

    /// Why no piece is taken until the next start, for the operator; see [`Journal::failure`].
    pub fn failure(&self) -> Option<&str> {
        self.inner.journal.failure()
    }

    /// Takes no piece until the next start, because the provider ends. What is here is served on.
    pub(super) fn close(&self, reason: &str) {
        self.inner.journal.close(reason);
    }

    /// Where the bytes of a piece are, if they are here.
    pub fn path_of(&self, root: &[u8; 32]) -> PathBuf {
        data_path(&self.inner.dir, root)
    }

    /// Padded bytes held.
    pub fn held_bytes(&self) -> u64 {
        self.inner.read().bytes
    }

    /// Our collateral for deals that were accepted, or are being received, and that the chain does not show yet.
    pub fn promised_collateral(&self) -> TokenAmount {
        TokenAmount(self.inner.promised())
    }

    /// Whether a verified deal is here: its sector pledges more (`chain.md` §8).
    pub fn keeps_verified(&self) -> bool {
        self.inner.read().keeps_verified()
    }

    /// The terms of this moment.
    pub fn ask(&self) -> Ask {
        self.inner.ask()
    }

    /// The same store for another owner.
    pub fn share(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl Index {
    fn add(&mut self, record: &DealRecord, published: bool) {
        let piece = self
            .pieces
            .entry(record.blake3_root)
            .or_insert_with(|| Piece {
                bytes: record.bytes,
                info: record.piece,
                deals: BTreeSet::new(),
            });
        if piece.deals.is_empty() {
            self.bytes = self.bytes.saturating_add(record.piece.size.bytes());
        }
        piece.deals.insert(record.deal);
        self.by_commp
            .insert(record.piece.comm_p, record.blake3_root);
        self.deals.insert(
            record.deal,
            Held {
                root: record.blake3_root,
                client: Address(record.client),
                padded: record.piece.size.bytes(),
                cost: cost_of(record),
                collateral: collateral_of(record),
                verified: is_verified(record),
                published,
            },
        );
    }

    /// Removes a deal; the root of its piece if nobody needs that any more.
    fn remove(&mut self, deal: &DealId) -> Option<[u8; 32]> {
        let held = self.deals.remove(deal)?;
        let piece = self.pieces.get_mut(&held.root)?;
        piece.deals.remove(deal);
        if !piece.deals.is_empty() {
            return None;
        }
        let comm_p = piece.info.comm_p;
        self.bytes = self.bytes.saturating_sub(piece.info.size.bytes());
        self.pieces.remove(&held.root);
        self.by_commp.remove(&comm_p);
        Some(held.root)
    }

    fn keeps_verified(&self) -> bool {
        self.deals.values().any(|held| held.verified)
    }

    /// What a client has here that no chain secures yet.
    fn pending_of(&self, client: &Address) -> Load {
        self.deals
            .values()
            .filter(|held| held.client == *client && !held.published)
            .fold(Load::default(), |load, held| Load {
                deals: load.deals + 1,
                bytes: load.bytes + held.padded,
                cost: load.cost.saturating_add(held.cost),
                collateral: load.collateral.saturating_add(held.collateral),
                verified: load.verified.saturating_add(match held.verified {
                    true => held.padded.into(),
                    false => 0,
                }),
            })
    }

    /// Our collateral for all deals here that no chain shows yet.
    fn promised(&self) -> u128 {
        self.deals
            .values()
            .filter(|held| !held.published)
            .fold(0, |sum: u128, held| sum.saturating_add(held.collateral))
    }
}

impl Inner {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses everything new after a failed sync.
    fn is_open(&self) -> Result<(), Refusal> {
        match self.journal.failure() {
            None => Ok(()),
            Some(_) => Err(Refusal::Refused(CLOSED.to_owned())),
        }
    }

    /// Removes the files of a piece that no record speaks of. What cannot be removed now is an orphan that the next start
    /// removes.
    fn remove_files(&self, root: &[u8; 32]) {
        for path in [data_path(&self.dir, root), pairs_path(&self.dir, root)] {
            if let Err(error) = self.vfs.remove(&path) {
                tracing::debug!(path = %path.display(), %error, "piece file stays for now");
            }
        }
    }

    /// Padded bytes that are still free: by the operator's limit and by the disk, whichever is less.
    fn free_bytes(&self) -> u64 {
        if self.journal.failure().is_some() {
            return 0;
        }
        let receiving: u64 = self.lock_receiving().values().map(|load| load.bytes).sum();
        let by_limit = self
            .limits
            .capacity_bytes
            .saturating_sub(self.read().bytes)
            .saturating_sub(receiving);
        let on_disk = fs4::available_space(&self.dir).unwrap_or(0);
        let by_disk = on_disk
            .saturating_sub(self.limits.reserve_bytes)
            .saturating_sub(receiving);
        by_limit.min(by_disk)
    }

    fn ask(&self) -> Ask {
        self.market.ask(self.free_bytes())
    }

    fn promised(&self) -> u128 {
        let receiving = self.lock_receiving();
        let under_way = receiving.values().map(|load| load.collateral);
        under_way.fold(self.read().promised(), u128::saturating_add)
    }

    /// Whether both sides can pay for this offer, whose reservation is among what is promised already. Waits a moment for
    /// escrow of ours that is on its way.
    fn judge_money(
        &self,
        proposal: &DealProposal,
        reservation: &Reservation,
    ) -> Result<(), Refusal> {
        let until = Instant::now() + ESCROW_PATIENCE;
        loop {
            // Before the chain is asked: what is published meanwhile then counts twice, never not at all.
            let others = self.promised().saturating_sub(reservation.collateral);
            let full = proposal.verified || self.read().keeps_verified();
            let mut funds = self.market.funds(proposal, full).map_err(|reason| {
                tracing::warn!(%reason, "cannot ask the chain about an offer");
                Refusal::Busy {
                    retry_after_ms: 1000,
                }
            })?;
            funds.client = TokenAmount(funds.client.0.saturating_sub(reservation.promised));
            funds.provider = TokenAmount(funds.provider.0.saturating_sub(others));
            funds.verified = StoragePower(funds.verified.0.saturating_sub(reservation.spoken_for));
            judge_funds(proposal, &funds, self.limits.collateral_multiple)
                .map_err(Refusal::Refused)?;
            if proposal.provider_collateral <= funds.provider {
                // The next piece may find the escrow short: fill it before that.
                self.market.fill_escrow();
                return Ok(());
            }
            if !self.market.fill_escrow() {
                return Err(Refusal::Refused(format!(
                    "this provider's free escrow of {} tokens does not cover the collateral of {} tokens; its operator can add to it with `holdfast provider deposit AMOUNT --escrow`",
                    funds.provider.in_tokens(),
                    proposal.provider_collateral.in_tokens()
                )));
            }
            if Instant::now() >= until {
                return Err(Refusal::Busy {
                    retry_after_ms: 1000,
                });
            }
            std::thread::sleep(ESCROW_POLL);
        }
    }

    fn lock_naming(&self) -> std::sync::MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_receiving(&self) -> std::sync::MutexGuard<'_, BTreeMap<Address, Load>> {
        self.receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ack(&self, record: &DealRecord) -> Vec<u8> {
        PieceAck {
            deal: record.deal,
            comm_p: record.piece.comm_p,
            blake3_root: Blake3Root(record.blake3_root),
            bytes: record.bytes,
        }
        .sign(&self.key)
    }

    /// Counts an offer against its client's quota until the guard is dropped.
    fn reserve(self: &Arc<Self>, record: &DealRecord) -> Result<Reservation, String> {
        let (client, bytes, cost) = (
            Address(record.client),
            record.piece.size.bytes(),
            cost_of(record),
        );
        let collateral = collateral_of(record);
        let verified = match is_verified(record) {
            true => bytes.into(),
            false => 0,
        };
        let pending = self.read().pending_of(&client);
        let mut receiving = self.lock_receiving();
        let under_way = receiving.get(&client).copied().unwrap_or_default();
        let deals = pending.deals + under_way.deals + 1;
        let total = pending.bytes + under_way.bytes + bytes;
        if deals > self.limits.client_deals || total > self.limits.client_bytes {
            return Err(format!(
                "you have {} unpublished deals of {} bytes here; wait until they are published",
                pending.deals + under_way.deals,
                pending.bytes + under_way.bytes
            ));
        }
        let load = receiving.entry(client).or_default();
        load.deals += 1;
        load.bytes += bytes;
        load.cost = load.cost.saturating_add(cost);
        load.collateral = load.collateral.saturating_add(collateral);
        load.verified = load.verified.saturating_add(verified);
        Ok(Reservation {
            store: Arc::clone(self),
            client,
            bytes,
            cost,
            collateral,
            verified,
            promised: pending.cost.saturating_add(under_way.cost),
            spoken_for: pending.verified.saturating_add(under_way.verified),
        })
    }
}

/// Room and quota promised to one transfer.
struct Reservation {
    store: Arc<Inner>,
    client: Address,
    bytes: u64,
    cost: u128,
    collateral: u128,
    verified: u128,
    /// What the client's other unpublished deals here will lock.
    promised: u128,
    /// What they will take of its DataCap.
    spoken_for: u128,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut receiving = self.store.lock_receiving();
        if let Some(load) = receiving.get_mut(&self.client) {
            load.deals = load.deals.saturating_sub(1);
            load.bytes = load.bytes.saturating_sub(self.bytes);
            load.cost = load.cost.saturating_sub(self.cost);
            load.collateral = load.collateral.saturating_sub(self.collateral);
            load.verified = load.verified.saturating_sub(self.verified);
            if *load == Load::default() {
                receiving.remove(&self.client);
            }
        }
    }
}

/// Whether an offer's words agree with each other, with the chain's rules and with our terms. Money is judged apart,
/// because it has to be asked for.
pub fn judge_terms(
    header: &PutHeader,
    proposal: &DealProposal,
    ask: &Ask,
    now: Epoch,
    params: &ChainParams,
) -> Result<(), String> {
    let mismatch = |what: &str| Err(format!("the offer and its proposal differ in the {what}"));
    if proposal.chain_id != ask.chain_id {
        return Err(format!(
            "the proposal is for chain {}, this is {}",
            proposal.chain_id, ask.chain_id
        ));
    }
    if proposal.provider != ask.provider {
        return Err(format!(
            "the proposal is for provider {}, this is {}",
            proposal.provider, ask.provider
        ));
    }
    if header.commp != proposal.piece_commp {
        return mismatch("CommP");
    }
    if header.root.0 != proposal.blake3_root.0 {
        return mismatch("BLAKE3 root");
    }
    if PaddedPieceSize::fitting(header.size) != Some(proposal.piece_size) {
        return mismatch("padded size");
    }
    if !ask.takes(proposal.piece_size) {
        return Err(format!(
            "{} padded bytes: this provider takes {} to {} at present",
            proposal.piece_size.bytes(),
            ask.min_piece.bytes(),
            ask.sector_size.bytes().min(ask.free_bytes)
        ));
    }
    judge_times(proposal, ask, now, params)?;
    let least = ask.price(proposal.piece_size);
    if proposal.price < least {
        return Err(format!(
            "the price is {} per epoch, the ask {least}",
            proposal.price
        ));
    }
    if proposal.verified && params.datacap_root.is_none() {
        return Err("this chain has no verified deals".to_owned());
    }
    if proposal.label.len() > chain_lite::message::MAX_LABEL_BYTES {
        return Err("the label is too long".to_owned());
    }
    Ok(())
}

fn judge_times(
    proposal: &DealProposal,
    ask: &Ask,
    now: Epoch,
    params: &ChainParams,
) -> Result<(), String> {
    let (start, end) = (proposal.start, proposal.end);
    if start < ask.earliest_start {
        return Err(format!(
            "the deal starts at epoch {start}; sealing in time can be promised from {} on",
            ask.earliest_start
        ));
    }
    if start > now.after(params.max_start_delay) {
        return Err(format!(
            "the deal starts at epoch {start}, later than the chain accepts"
        ));
    }
    let duration = proposal.duration();
    let allowed = ask.min_duration.max(params.min_deal)..=ask.max_duration.min(params.max_deal);
    if end <= start || !allowed.contains(&duration) {
        return Err(format!(
            "the deal lasts {duration} epochs; {} to {} are taken",
            allowed.start(),
            allowed.end()
        ));
    }
    Ok(())
}

/// Whether the client can pay, the collateral is in proportion, and our pledges are covered. What the client's other
/// unpublished deals will lock or take is taken off `funds.client` and `funds.verified` before. Our own escrow is judged by who may wait for it.
pub fn judge_funds(proposal: &DealProposal, funds: &Funds, multiple: u128) -> Result<(), String> {
    let price = proposal
        .price
        .0
        .checked_mul(u128::from(proposal.duration().0));
    let Some(price) = price else {
        return Err("the total price does not fit 128 bits".to_owned());
    };
    if funds.client.0 < price {
        return Err(format!(
            "the deal costs {price} in all and the client's free escrow is {}; deposit first",
            funds.client
        ));
    }
    let collateral = proposal.provider_collateral.0;
    if collateral < funds.least_collateral.0 {
        return Err(format!(
            "the collateral {collateral} is below the chain's least, {}",
            funds.least_collateral
        ));
    }
    if collateral > funds.least_collateral.0.saturating_mul(multiple).max(1) {
        return Err(format!(
            "the collateral {collateral} is above what this provider puts up, {multiple} times the chain's least"
        ));
    }
    if proposal.verified && funds.verified.0 < proposal.piece_size.bytes().into() {
        return Err(format!(
            "a verified piece of {} padded bytes is more than the client's DataCap of {} bytes",
            proposal.piece_size.bytes(),
            funds.verified.0
        ));
    }
    if funds.pledges > funds.for_pledges {
        return Err(format!(
            "this provider can put up {} tokens and the pledges of what it has to seal, this piece included, come to {}; its operator can add to it with `holdfast provider deposit AMOUNT`",
            funds.for_pledges.in_tokens(),
            funds.pledges.in_tokens()
        ));
    }
    Ok(())
}

impl PieceStore for Store {
    fn hello_info(&self, _peer: &PeerId) -> Vec<u8> {
        self.inner.ask().encode()
    }

    fn have(&self, piece: &PieceRef) -> Option<PieceMeta> {
        let index = self.inner.read();
        let root = match piece {
            PieceRef::Root(root) => root.0,
            PieceRef::Commp(commp) => *index.by_commp.get(commp)?,
        };
        let found = index.pieces.get(&root)?;
        Some(PieceMeta {
            size: found.bytes,
            root: PieceRoot(root),
            commp: found.info.comm_p,
            state: PieceState::Hot,
        })
    }

    fn open(&self, root: &PieceRoot) -> Result<OpenPiece, Refusal> {
        let size = match self.inner.read().pieces.get(&root.0) {
            Some(piece) => piece.bytes,
            None => return Err(Refusal::NotFound),
        };
        let open = |path: PathBuf| {
            File::open(&path).map_err(|error| {
                (self.inner.damage)(*root);
                Refusal::Internal(format!("{}: {error}", path.display()))
            })
        };
        Ok(OpenPiece {
            size,
            data: Arc::new(open(data_path(&self.inner.dir, &root.0))?),
            outboard: Arc::new(open(pairs_path(&self.inner.dir, &root.0))?),
        })
    }

    fn accept(&self, _peer: &PeerId, header: &PutHeader) -> Result<PutDecision, Refusal> {
        let inner = &self.inner;
        let signed: SignedProposal =
            codec::decode(&header.proposal, MAX_PROPOSAL_BYTES).map_err(|error| {
                Refusal::Refused(format!("the deal proposal cannot be read: {error}"))
            })?;
        let proposal = &signed.proposal;
        let record = record_of(header, &signed);
        // Before terms are judged: a client that lost the acknowledgement may ask again at any time.
        if let Some(held) = inner.read().deals.get(&record.deal)
            && held.root == header.root.0
            && signed.signature_holds()
        {
            return Ok(PutDecision::AlreadyHere(inner.ack(&record)));
        }
        inner.is_open()?;
        let mut terms = inner.ask();
        terms.earliest_start = inner.market.least_start();
        judge_terms(
            header,
            proposal,
            &terms,
            inner.market.now(),
            inner.market.params(),
        )
        .map_err(Refusal::Refused)?;
        if !signed.signature_holds() {
            return Err(Refusal::Refused(
                "the proposal is not signed by its client".to_owned(),
            ));
        }
        let reservation = inner.reserve(&record).map_err(Refusal::Refused)?;
        inner.judge_money(proposal, &reservation)?;
        let sink = FileSink::create(Arc::clone(inner), record, reservation)
            .map_err(|error| full_or_failed(&error))?;
        Ok(PutDecision::Receive(Box::new(sink)))
    }

    fn commp_proof(&self, commp: &CommP, first_leaf: u64, leaves: u32) -> Result<Vec<u8>, Refusal> {
        let (root, info) = {
            let index = self.inner.read();
            let root = *index.by_commp.get(commp).ok_or(Refusal::NotFound)?;
            let piece = index.pieces.get(&root).ok_or(Refusal::NotFound)?;
            (root, piece.info)
        };
        let end = first_leaf
            .checked_add(u64::from(leaves))
            .ok_or_else(|| Refusal::Refused("the leaf range is too long".to_owned()))?;
        let path = data_path(&self.inner.dir, &root);
        let file = File::open(&path)
            .map_err(|error| Refusal::Internal(format!("{}: {error}", path.display())))?;
        // The piece is the file, zero-filled to its unpadded size.
        let source = io::BufReader::with_capacity(1 << 20, file)
            .chain(io::repeat(0))
            .take(info.size.unpadded().bytes());
        let proof = LeafProof::of(&info, first_leaf..end, source)
            .map_err(|error| Refusal::Refused(error.to_string()))?;
        Ok(codec::encode(&proof))
    }

    fn damaged(&self, root: &PieceRoot, offset: u64) {
        tracing::warn!(root = %root, offset, "a piece on disk is damaged");
        (self.inner.damage)(*root);
    }
}

/// Our collateral for the deal; a record of ours always decodes, another costs nothing.
fn collateral_of(record: &DealRecord) -> u128 {
    codec::decode::<SignedProposal>(&record.proposal, MAX_PROPOSAL_BYTES)
        .map_or(0, |signed| signed.proposal.provider_collateral.0)
}

fn is_verified(record: &DealRecord) -> bool {
    codec::decode::<SignedProposal>(&record.proposal, MAX_PROPOSAL_BYTES)
        .is_ok_and(|signed| signed.proposal.verified)
}

/// Price of the whole deal; a record of ours always decodes, another costs nothing.
fn cost_of(record: &DealRecord) -> u128 {
    codec::decode::<SignedProposal>(&record.proposal, MAX_PROPOSAL_BYTES).map_or(0, |signed| {
        let proposal = signed.proposal;
        proposal
            .price
            .0
            .saturating_mul(u128::from(proposal.duration().0))
    })
}

fn record_of(header: &PutHeader, signed: &SignedProposal) -> DealRecord {
    let proposal = &signed.proposal;
    DealRecord {
        deal: proposal.id(),
        piece: proposal.piece(),
        bytes: header.size,
        blake3_root: proposal.blake3_root.0,
        client: proposal.client.0,
        start: proposal.start,
        end: proposal.end,
        proposal: header.proposal.clone(),
    }
}

/// Receives one piece into `incoming/`; dropped without `finish` it removes what it wrote.
struct FileSink {
    store: Arc<Inner>,
    record: DealRecord,
    _reservation: Reservation,
    data: Arc<dyn Disk>,
    pairs: Arc<dyn Disk>,
    data_at: PathBuf,
    pairs_at: PathBuf,
}

impl FileSink {
    fn create(store: Arc<Inner>, record: DealRecord, reservation: Reservation) -> io::Result<Self> {
        let number = store.next_file.fetch_add(1, Ordering::Relaxed);
        let incoming = store.dir.join("incoming");
        let data_at = incoming.join(format!("{number}.bin"));
        let pairs_at = incoming.join(format!("{number}.obao"));
        let open = || Ok((store.vfs.open(&data_at)?, store.vfs.open(&pairs_at)?));
        let (data, pairs) = open().inspect_err(|_: &io::Error| {
            // One of them may be there. What cannot be removed now, the next start removes.
            for path in [&data_at, &pairs_at] {
                let _ = store.vfs.remove(path);
            }
        })?;
        Ok(Self {
            store,
            record,
            _reservation: reservation,
            data,
            pairs,
            data_at,
            pairs_at,
        })
    }

    /// Makes it durable and counts it, then acknowledges it.
    fn keep(&self) -> Result<Vec<u8>, Refusal> {
        let record = &self.record;
        self.settle().map_err(|error| {
            tracing::error!(%error, deal = %record.deal, "a received piece could not be kept");
            match self.store.is_open() {
                Err(closed) => closed,
                Ok(()) if error.is_disk_full() => Refusal::Refused(FULL.to_owned()),
                Ok(()) => Refusal::Internal(error.to_string()),
            }
        })?;
        (self.store.received)(record.clone());
        Ok(self.store.ack(record))
    }

    /// Makes the bytes durable under their final name, then their record, and counts them. Whoever wrote the same root before wrote
    /// the same bytes. What fails leaves nothing, and a failed sync closes the store.
    fn settle(&self) -> Result<(), JournalError> {
        let store = &self.store;
        let close = |error: &JournalError| store.journal.close_on_sync(error);
        journal::sync_file(&*self.data, &self.data_at).inspect_err(close)?;
        journal::sync_file(&*self.pairs, &self.pairs_at).inspect_err(close)?;
        let _naming = store.lock_naming();
        let before = Before::of(store, &self.record);
        let named = self.name_and_record();
        named.inspect_err(|error| {
            close(error);
            self.take_back(error, before);
        })?;
        store.write().add(&self.record, false);
        Ok(())
    }

    /// Gives synced bytes their final names, durably, and then writes their record.
    fn name_and_record(&self) -> Result<(), JournalError> {
        let (vfs, root) = (&*self.store.vfs, &self.record.blake3_root);
        let data_to = data_path(&self.store.dir, root);
        for (from, to) in [
            (&self.pairs_at, pairs_path(&self.store.dir, root)),
            (&self.data_at, data_to.clone()),
        ] {
            vfs.rename(from, &to)
                .map_err(|source| JournalError::Write { path: to, source })?;
        }
        journal::sync_names(vfs, &data_to)?;
        let name = self.record.deal.to_string();
        self.store.journal.put(&name, &self.record)
    }

    /// Undoes [`Self::name_and_record`]: the room is for others. Not what a deal that is counted needs: the same deal may have come by
    /// another transfer, or another deal over the same bytes. Nor what was on disk before: a record that waits to be put back, or may
    /// come back by itself, speaks of it.
    fn take_back(&self, failed: &JournalError, before: Before) {
        let (store, record) = (&self.store, &self.record);
        let (is_kept, is_needed) = {
            let index = store.read();
            let is_needed = index.pieces.contains_key(&record.blake3_root);
            (index.deals.contains_key(&record.deal), is_needed)
        };
        // A record that may come back needs its bytes then: without them it would be a deal that fails.
        let is_new = !is_kept && !before.record;
        let is_gone = is_new && store.journal.withdraw(&record.deal.to_string(), failed);
        if is_gone && !is_needed && !before.bytes {
            store.remove_files(&record.blake3_root);
        }
    }
}

/// What the disk had of a receipt before its files got their names, counted or not.
#[derive(Clone, Copy)]
struct Before {
    bytes: bool,
    record: bool,
}

impl Before {
    fn of(store: &Inner, record: &DealRecord) -> Self {
        let has = |path: &Path| store.vfs.len(path).is_ok();
        let root = &record.blake3_root;
        let bytes = has(&data_path(&store.dir, root)) || has(&pairs_path(&store.dir, root));
        Self {
            bytes,
            record: store.journal.has(&record.deal.to_string()),
        }
    }
}

impl PutSink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        // Another piece's sync may have failed meanwhile: no use in receiving the rest.
        self.store.is_open()?;
        self.data
            .append(bytes)
            .map_err(|error| full_or_failed(&error))
    }

    fn write_outboard(&mut self, pairs: &[u8]) -> Result<(), Refusal> {
        self.pairs
            .append(pairs)
            .map_err(|error| full_or_failed(&error))
    }

    fn finish(self: Box<Self>, piece: &CheckedPiece) -> Result<Vec<u8>, Refusal> {
        let record = &self.record;
        // `CheckedPiece` says what the bytes are; here they are held against what was signed (threat C4).
        let same = piece.size() == record.bytes
            && piece.root().0 == record.blake3_root
            && piece.commp() == record.piece.comm_p;
        if !same {
            return Err(Refusal::Refused(
                "the bytes are not those of the proposal".to_owned(),
            ));
        }
        self.keep()
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        // Renamed files are gone from here; an incomplete one must not fill the disk.
        for path in [&self.data_at, &self.pairs_at] {
            if let Err(error) = self.store.vfs.remove(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove an incomplete piece");
            }
        }
    }
}

fn full_or_failed(error: &io::Error) -> Refusal {
    if journal::is_disk_full(error) {
        Refusal::Refused(FULL.to_owned())
    } else {
        Refusal::Internal(error.to_string())
    }
}

fn data_path(dir: &Path, root: &[u8; 32]) -> PathBuf {
    dir.join(format!("{}.bin", hex::encode(root)))
}

fn pairs_path(dir: &Path, root: &[u8; 32]) -> PathBuf {
    dir.join(format!("{}.obao", hex::encode(root)))
}

/// Removes files that no deal refers to: a crash between rename and record leaves them.
fn remove_orphans(vfs: &dyn Vfs, dir: &Path, index: &Index) -> io::Result<()> {
    for (name, _) in vfs.list(dir)? {
        let path = dir.join(name);
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        let mut root = [0u8; 32];
        let named = hex::decode_to_slice(stem, &mut root).is_ok();
        if named && !index.pieces.contains_key(&root) {
            vfs.remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
