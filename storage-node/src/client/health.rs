//! Health of an object: k of n, the rung of each piece, what is proven when, and where the money is.
//!
//! Rungs (`DESIGN.md` §3): *received* — the deal is published, the provider signed for both roots and served a range at the put;
//! *sealed* — the piece lies in a committed sector that is proven every period. *Possession* is a challenge that a client or an
//! auditor runs and is recorded off-chain, so the chain alone never shows it. A state is only called healthy while its evidence is
//! young enough (§6.1): a sector that is faulty or whose last window passed unproven is not *sealed*.
//!
//! Pure but for reads of the chain: what this prints, anybody with the account's address can recompute.

use std::collections::BTreeMap;

use chain_lite::account::{DealId, ProviderId};
use chain_lite::deal::DealStatus;
use chain_lite::units::{Epoch, TokenAmount};
use prover::SectorNumber;

use super::catalog::{Entry, Held};
use super::{Chain, ClientError};
use crate::chain::PartitionView;
use crate::object::manifest::{FileTag, ObjectId};

/// How sure it is that a provider holds a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// No open deal.
    Lost,
    /// Its sector was not proven: the bytes may be there, the evidence is not.
    Faulty,
    /// Deal published, not yet sealed.
    Received,
    /// In a committed sector without a fault.
    Sealed,
}

/// One piece.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PieceHealth {
    /// `data` or `manifest`.
    pub kind: &'static str,
    /// Segment, or part of the manifest.
    pub group: u64,
    /// Shard, or copy of the manifest part.
    pub index: u64,
    /// Who holds it.
    pub provider: ProviderId,
    /// Under which deal.
    pub deal: DealId,
    /// The deal's state on chain.
    pub status: DealStatus,
    /// How sure.
    pub rung: Rung,
    /// Its sector, once there is one.
    pub sector: Option<SectorNumber>,
    /// When the next window of its sector closes.
    pub next_deadline: Option<Epoch>,
    /// The deal's last epoch is the one before.
    pub end: Epoch,
    /// The client's money still held.
    pub locked: TokenAmount,
    /// Paid so far.
    pub paid: TokenAmount,
    /// Given back so far.
    pub refunded: TokenAmount,
}

/// An object's health.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Health {
    /// Which object.
    pub object: ObjectId,
    /// What links its deals.
    pub file_tag: FileTag,
    /// `healthy`, `degraded`, `critical` or `lost`.
    pub state: State,
    /// Shards needed.
    pub k: usize,
    /// Shards made.
    pub n: usize,
    /// Segments seen on chain.
    pub segments: u64,
    /// Fewest live shards of any segment.
    pub weakest: usize,
    /// Fewest live copies of any manifest part.
    pub manifest_copies: usize,
    /// Earliest close of a window.
    pub next_deadline: Option<Epoch>,
    /// First epoch without payment for some piece.
    pub expires: Option<Epoch>,
    /// Sums of the pieces'.
    pub locked: TokenAmount,
    /// Sums of the pieces'.
    pub paid: TokenAmount,
    /// Sums of the pieces'.
    pub refunded: TokenAmount,
    /// Every piece, in order.
    pub pieces: Vec<PieceHealth>,
}

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All n of every segment.
    Healthy,
    /// More than k of every segment.
    Degraded,
    /// Exactly k of some segment, or one copy of the manifest: the next loss is final.
    Critical,
    /// Fewer than k.
    Lost,
}

/// Reads the chain and judges an object. `segments` and `scheme` come from the manifest where it is known.
pub async fn health<C: Chain>(
    chain: &C,
    entry: &Entry,
    expected_segments: Option<u64>,
) -> Result<Health, ClientError> {
    let mut partitions = BTreeMap::new();
    for provider in entry.providers() {
        // A provider that left the chain has no deadlines; its pieces count by their deals alone.
        partitions.insert(
            provider,
            chain.deadlines(provider).await.unwrap_or_default(),
        );
    }
    Ok(judge(entry, &partitions, expected_segments))
}

/// The judgement itself.
fn judge(
    entry: &Entry,
    partitions: &BTreeMap<ProviderId, Vec<PartitionView>>,
    expected_segments: Option<u64>,
) -> Health {
    let mut pieces = Vec::new();
    for ((segment, shard), held) in &entry.data {
        if let Some(best) = best(held, partitions) {
            pieces.push(piece("data", *segment, u64::from(*shard), best, partitions));
        }
    }
    for (part, held) in &entry.manifest {
        for (copy, one) in held.iter().enumerate() {
            pieces.push(piece(
                "manifest",
                u64::from(*part),
                copy as u64,
                one,
                partitions,
            ));
        }
    }
    let group = entry
        .data
        .values()
        .flatten()
        .next()
        .map(|h| h.deal.proposal.group);
    let (k, n) = group.map_or((1, 1), |group| (usize::from(group.k), usize::from(group.n)));
    let segments = expected_segments
        .or_else(|| entry.data.keys().map(|(segment, _)| segment + 1).max())
        .unwrap_or(0);
    let live = |kind: &str, group: u64| {
        let mut of_group = pieces.iter().filter(|p| p.kind == kind && p.group == group);
        of_group
            .by_ref()
            .filter(|p| p.rung >= Rung::Received)
            .count()
    };
    let weakest = (0..segments).map(|segment| live("data", segment)).min();
    let weakest = weakest.unwrap_or(0);
    let copies = (0..u64::from(entry.parts)).map(|part| live("manifest", part));
    let manifest_copies = copies.min().unwrap_or(0);
    let sum = |of: fn(&PieceHealth) -> TokenAmount| {
        let amounts = pieces.iter().map(|piece| of(piece).0);
        TokenAmount(amounts.fold(0, u128::saturating_add))
    };
    Health {
        object: entry.object,
        file_tag: entry.file_tag,
        state: match (weakest, manifest_copies) {
            (live, copies) if live < k || copies == 0 => State::Lost,
            (live, copies) if n > k && (live == k || copies == 1) => State::Critical,
            (live, _) if live < n => State::Degraded,
            _ => State::Healthy,
        },
        k,
        n,
        segments,
        weakest,
        manifest_copies,
        next_deadline: pieces.iter().filter_map(|piece| piece.next_deadline).min(),
        expires: pieces
            .iter()
            .filter(|piece| piece.rung >= Rung::Received)
            .map(|piece| piece.end)
            .min(),
        locked: sum(|piece| piece.locked),
        paid: sum(|piece| piece.paid),
        refunded: sum(|piece| piece.refunded),
        pieces,
    }
}

/// The strongest of several deals for one shard.
fn best<'a>(
    held: &'a [Held],
    partitions: &BTreeMap<ProviderId, Vec<PartitionView>>,
) -> Option<&'a Held> {
    held.iter()
        .max_by_key(|held| (rung(held, partitions), held.deal.published))
}

fn piece(
    kind: &'static str,
    group: u64,
    index: u64,
    held: &Held,
    partitions: &BTreeMap<ProviderId, Vec<PartitionView>>,
) -> PieceHealth {
    let deal = &held.deal;
    PieceHealth {
        kind,
        group,
        index,
        provider: held.provider(),
        deal: held.id,
        status: deal.status,
        rung: rung(held, partitions),
        sector: deal.sector,
        next_deadline: partition_of(held, partitions).map(|partition| partition.close),
        end: deal.proposal.end,
        locked: deal.locked(),
        paid: deal.paid,
        refunded: deal.refunded,
    }
}

fn partition_of<'a>(
    held: &Held,
    partitions: &'a BTreeMap<ProviderId, Vec<PartitionView>>,
) -> Option<&'a PartitionView> {
    let sector = held.deal.sector?;
    partitions
        .get(&held.provider())?
        .iter()
        .find(|partition| partition.sectors.iter().any(|s| s.number == sector))
}

fn rung(held: &Held, partitions: &BTreeMap<ProviderId, Vec<PartitionView>>) -> Rung {
    match held.deal.status {
        DealStatus::Completed | DealStatus::Slashed => Rung::Lost,
        DealStatus::Published => Rung::Received,
        DealStatus::Active => {
            let state = held.deal.sector.and_then(|sector| {
                let partition = partition_of(held, partitions)?;
                let mut sectors = partition.sectors.iter();
                sectors.find(|s| s.number == sector).map(|s| s.state)
            });
            match state {
                Some(state) if state.faulty_since().is_some() => Rung::Faulty,
                _ => Rung::Sealed,
            }
        }
    }
}
