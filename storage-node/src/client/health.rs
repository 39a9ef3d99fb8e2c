//! Health of an object: k of n, the rung of each piece, what is proven when, and where the money is.
//!
//! | rung (`DESIGN.md` §3) | evidence | its epoch | counts for |
//! |---|---|---|---|
//! | received | the provider signed for both roots, published the deal and served a range at the put | publication | a proving period |
//! | possession | leaves drawn from the beacon, answered and recorded ([`super::possession`]) | the challenge | a proving period |
//! | sealed | the chain: a committed sector without a fault | the window before the one to come, or the PoRep since then | until that window closes |
//!
//! No state is called healthy without evidence younger than its limit (§6.1). A piece under an open deal with none is *claimed*: its
//! provider owes it, nobody has seen it lately, and it does not count towards k of n. A sector that is faulty is not *sealed*.
//!
//! Pure but for reads of the chain: what this prints, anybody with the account's address can recompute, the recorded possession
//! apart.

use std::collections::BTreeMap;

use chain_lite::account::{DealId, ProviderId};
use chain_lite::deal::{Deal, DealStatus};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::SectorNumber;

use super::catalog::{Entry, Held};
use super::possession::{Evidence, Ledger};
use super::{Chain, ChainFailure, ClientError};
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
    /// An open deal, and no evidence that is young enough.
    Claimed,
    /// Deal published and read back, not yet sealed.
    Received,
    /// Its provider answered a challenge from the beacon.
    Possession,
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
    /// Epoch of the evidence that carries the rung, at the latest.
    pub evidence: Option<Epoch>,
    /// Its age now, in epochs.
    pub evidence_age: Option<EpochCount>,
    /// When the provider last passed a challenge, however long ago.
    pub possession: Option<Epoch>,
    /// What it answered to the newest challenge, if it failed.
    pub challenge_failed: Option<String>,
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
    /// The newest block's epoch: ages are counted from it.
    pub now: Epoch,
    /// Evidence that is older counts no more; a sector's counts until its window closes.
    pub evidence_limit: EpochCount,
    /// `healthy`, `degraded`, `critical`, `unverified` or `lost`.
    pub state: State,
    /// Shards needed.
    pub k: usize,
    /// Shards made.
    pub n: usize,
    /// Segments seen on chain.
    pub segments: u64,
    /// Fewest shards of any segment with evidence that counts.
    pub weakest: usize,
    /// Fewest shards of any segment under open deals without a fault.
    pub owed: usize,
    /// Fewest copies of any manifest part with evidence that counts.
    pub manifest_copies: usize,
    /// Earliest close of a window.
    pub next_deadline: Option<Epoch>,
    /// First epoch without payment for some piece.
    pub expires: Option<Epoch>,
    /// Sum over all deals of the object, replaced ones included.
    pub locked: TokenAmount,
    /// Sum over all deals of the object, replaced ones included.
    pub paid: TokenAmount,
    /// Sum over all deals of the object, replaced ones included.
    pub refunded: TokenAmount,
    /// Every piece, in order.
    pub pieces: Vec<PieceHealth>,
}

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All n of every segment and of the manifest.
    Healthy,
    /// More than k of every segment.
    Degraded,
    /// Exactly k of some segment, or one copy of the manifest: the next loss is final.
    Critical,
    /// Open deals cover it, and too few of its pieces have evidence that counts.
    Unverified,
    /// Open deals cover fewer than k.
    Lost,
}

/// Reads the chain and judges an object by it and by what challenges showed. `expected_segments` comes from the manifest where it
/// is known.
pub async fn health<C: Chain>(
    chain: &C,
    entry: &Entry,
    expected_segments: Option<u64>,
    shown: &Ledger,
) -> Result<Health, ClientError> {
    let mut partitions = BTreeMap::new();
    for provider in entry.providers() {
        let of_provider = match chain.deadlines(provider).await {
            Ok(of_provider) => of_provider,
            // A provider that left the chain has no deadlines: its sealed pieces are then without evidence.
            Err(ChainFailure::Refused(_)) => Vec::new(),
            Err(unreachable) => return Err(unreachable.into()),
        };
        partitions.insert(provider, of_provider);
    }
    let period = chain.params().proving_period;
    let seen = Seen {
        now: chain.now().await?.epoch,
        period,
        partitions,
        shown,
    };
    Ok(seen.judge(entry, expected_segments))
}

/// Everything a judgement rests on.
struct Seen<'a> {
    now: Epoch,
    period: EpochCount,
    partitions: BTreeMap<ProviderId, Vec<PartitionView>>,
    shown: &'a Ledger,
}

impl Seen<'_> {
    fn judge(&self, entry: &Entry, expected_segments: Option<u64>) -> Health {
        let mut pieces = Vec::new();
        for ((segment, shard), held) in &entry.data {
            if let Some(best) = self.best(held) {
                pieces.push(self.piece("data", *segment, u64::from(*shard), best));
            }
        }
        for (part, held) in &entry.manifest {
            for (copy, one) in held.iter().enumerate() {
                pieces.push(self.piece("manifest", u64::from(*part), copy as u64, one));
            }
        }
        let mut data = entry.data.values().flatten();
        let group = data.next().map(|held| held.deal.proposal.group);
        let (k, n) = group.map_or((1, 1), |group| (usize::from(group.k), usize::from(group.n)));
        let segments = expected_segments
            .or_else(|| entry.data.keys().map(|(segment, _)| segment + 1).max())
            .unwrap_or(0);
        let fewest = |kind: &str, groups: u64, rung: Rung| {
            let holders = |group: u64| {
                let of_group = pieces.iter().filter(|p| p.kind == kind && p.group == group);
                of_group.filter(|p| p.rung >= rung).count()
            };
            (0..groups).map(holders).min().unwrap_or(0)
        };
        let parts = u64::from(entry.parts);
        let weakest = fewest("data", segments, Rung::Received);
        let owed = fewest("data", segments, Rung::Claimed);
        let manifest_copies = fewest("manifest", parts, Rung::Received);
        let manifest_owed = fewest("manifest", parts, Rung::Claimed);
        let sum = |of: fn(&Deal) -> TokenAmount| {
            let amounts = entry.deals().map(|held| of(&held.deal).0);
            TokenAmount(amounts.fold(0, u128::saturating_add))
        };
        Health {
            object: entry.object,
            file_tag: entry.file_tag,
            now: self.now,
            evidence_limit: self.period,
            state: if owed < k || manifest_owed == 0 {
                State::Lost
            } else if weakest < k || manifest_copies == 0 {
                State::Unverified
            } else if n > k && (weakest == k || manifest_copies == 1) {
                State::Critical
            } else if weakest < n || manifest_copies < n {
                State::Degraded
            } else {
                State::Healthy
            },
            k,
            n,
            segments,
            weakest,
            owed,
            manifest_copies,
            next_deadline: pieces.iter().filter_map(|piece| piece.next_deadline).min(),
            expires: pieces
                .iter()
                .filter(|piece| piece.rung >= Rung::Claimed)
                .map(|piece| piece.end)
                .min(),
            locked: sum(Deal::locked),
            paid: sum(|deal| deal.paid),
            refunded: sum(|deal| deal.refunded),
            pieces,
        }
    }

    /// The strongest of several deals for one shard.
    fn best<'h>(&self, held: &'h [Held]) -> Option<&'h Held> {
        held.iter()
            .max_by_key(|held| (self.rung(held).0, held.deal.published))
    }

    fn piece(&self, kind: &'static str, group: u64, index: u64, held: &Held) -> PieceHealth {
        let deal = &held.deal;
        let (rung, evidence) = self.rung(held);
        let challenges = self.shown.get(&held.id);
        PieceHealth {
            kind,
            group,
            index,
            provider: held.provider(),
            deal: held.id,
            status: deal.status,
            rung,
            evidence,
            evidence_age: evidence.map(|epoch| self.now.since(epoch)),
            possession: challenges.and_then(|c| c.proven.as_ref().map(|answer| answer.epoch)),
            challenge_failed: challenges
                .and_then(|c| c.failed.as_ref().map(|failed| failed.reason.clone())),
            sector: deal.sector,
            next_deadline: self.partition_of(held).map(|partition| partition.close),
            end: deal.proposal.end,
            locked: deal.locked(),
            paid: deal.paid,
            refunded: deal.refunded,
        }
    }

    fn partition_of(&self, held: &Held) -> Option<&PartitionView> {
        let sector = held.deal.sector?;
        self.partitions
            .get(&held.provider())?
            .iter()
            .find(|partition| partition.sectors.iter().any(|s| s.number == sector))
    }

    /// How sure it is that this deal's piece is there, and since when that is known.
    fn rung(&self, held: &Held) -> (Rung, Option<Epoch>) {
        match held.deal.status {
            DealStatus::Completed | DealStatus::Slashed => return (Rung::Lost, None),
            DealStatus::Active => match self.sealed(held) {
                Some(Ok(epoch)) => return (Rung::Sealed, Some(epoch)),
                Some(Err(())) => return (Rung::Faulty, None),
                None => {}
            },
            DealStatus::Published => {}
        }
        let young = |epoch: &Epoch| self.now.since(*epoch) <= self.period;
        let challenges = self.shown.get(&held.id);
        if let Some(epoch) = challenges.and_then(Evidence::shown).filter(young) {
            return (Rung::Possession, Some(epoch));
        }
        // What the put saw counts no more once the provider has failed a challenge.
        let received = held.deal.status == DealStatus::Published
            && challenges.is_none_or(|c| c.failed.is_none());
        match Some(held.deal.published).filter(young) {
            Some(epoch) if received => (Rung::Received, Some(epoch)),
            _ => (Rung::Claimed, None),
        }
    }

    /// When its sector was proven, at the latest: in this window if that was posted, else in the one a period earlier or by its
    /// PoRep after that. `Err` if it is faulty.
    fn sealed(&self, held: &Held) -> Option<Result<Epoch, ()>> {
        let partition = self.partition_of(held)?;
        let mut sectors = partition.sectors.iter();
        let sector = sectors.find(|sector| Some(sector.number) == held.deal.sector)?;
        if sector.state.faulty_since().is_some() {
            return Some(Err(()));
        }
        let window = match partition.posted {
            true => partition.open,
            false => Epoch(partition.open.0.saturating_sub(self.period.0)),
        };
        Some(Ok(window.max(held.deal.published).min(self.now)))
    }
}
