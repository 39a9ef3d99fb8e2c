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
//! Holders that share an owner or a network may be one operator's, who can take all their shards away at once: they count as one
//! holder ([`crate::object::placement::clumps`], threat Y1). A put never places so, but owners and addresses change.
//!
//! Pure but for reads of the chain: what this prints, anybody with the account's address can recompute, the recorded possession
//! apart.

use std::collections::{BTreeMap, BTreeSet};

use chain_lite::account::{DealId, ProviderId};
use chain_lite::deal::{Deal, DealStatus};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::SectorNumber;

use super::catalog::{Entry, Held};
use super::possession::{Evidence, Ledger};
use super::{Chain, ChainFailure, ClientError, catalog};
use crate::chain::PartitionView;
use crate::object::manifest::{FileTag, ObjectId};
use crate::object::placement::{Holder, clumps};

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
    /// A holder of this segment or manifest part with the same owner or network: they count as one. Itself only where it holds
    /// two pieces and nobody else counts with it.
    pub counts_with: Option<ProviderId>,
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
    /// Epochs whose beacons drew the holders, as the deals say: the put's, and those of repairs from elsewhere.
    pub drawn: BTreeSet<Epoch>,
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
    /// Fewest holders, of any segment or manifest part, that have evidence that counts and share no owner and no network.
    pub independent: usize,
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
    /// All n of every segment and of the manifest, each with a holder of its own.
    Healthy,
    /// More than k of every segment.
    Degraded,
    /// The loss of one holder, or of several that count as one, leaves fewer than k of some segment or no copy of the manifest.
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
    let picture = Picture::take(chain, [entry]).await?;
    Ok(picture.judge(entry, expected_segments, shown))
}

/// What the chain says of the holders of some objects at one moment: each provider is asked after once, however many objects it
/// holds pieces of.
#[derive(Debug)]
pub struct Picture {
    now: Epoch,
    period: EpochCount,
    partitions: BTreeMap<ProviderId, Vec<PartitionView>>,
    /// All providers of the chain.
    holders: BTreeMap<ProviderId, Holder>,
}

impl Picture {
    /// Reads the chain for these objects.
    pub async fn take<'e, C: Chain>(
        chain: &C,
        entries: impl IntoIterator<Item = &'e Entry>,
    ) -> Result<Self, ClientError> {
        let providers: BTreeSet<ProviderId> =
            entries.into_iter().flat_map(Entry::providers).collect();
        let mut partitions = BTreeMap::new();
        for provider in providers {
            let of_provider = match chain.deadlines(provider).await {
                Ok(of_provider) => of_provider,
                // A provider that left the chain has no deadlines: its sealed pieces are then without evidence.
                Err(ChainFailure::Refused(_)) => Vec::new(),
                Err(unreachable) => return Err(unreachable.into()),
            };
            partitions.insert(provider, of_provider);
        }
        let holders = catalog::by_id(chain.providers().await?);
        Ok(Self {
            now: chain.now().await?.epoch,
            period: chain.params().proving_period,
            partitions,
            holders: holders.iter().map(|(id, r)| (*id, r.holder())).collect(),
        })
    }

    /// Judges one of the objects by it and by what challenges showed. `expected_segments` as in [`health`].
    pub fn judge(&self, entry: &Entry, expected_segments: Option<u64>, shown: &Ledger) -> Health {
        let seen = Seen {
            picture: self,
            shown,
        };
        seen.judge(entry, expected_segments)
    }
}

/// Everything a judgement rests on.
struct Seen<'a> {
    picture: &'a Picture,
    shown: &'a Ledger,
}

/// In how many hands the shards of a segment are, or the copies of a manifest part; those with evidence that counts.
#[derive(Clone, Copy, Debug, Default)]
struct Hands {
    /// Shards or copies.
    seen: usize,
    /// Hands.
    independent: usize,
    /// Shards or copies in the fullest hand.
    fullest: usize,
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
        let hands = self.hands(&mut pieces);
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
        let of = |kind: &'static str, group| hands.get(&(kind, group)).copied().unwrap_or_default();
        let in_data: Vec<Hands> = (0..segments).map(|segment| of("data", segment)).collect();
        let in_manifest: Vec<Hands> = (0..parts).map(|part| of("manifest", part)).collect();
        let all = in_data.iter().chain(&in_manifest);
        let independent = all.map(|hands| hands.independent).min().unwrap_or(0);
        // Whoever is lost next, k of each segment and a copy of each manifest part are left.
        let outlives_any = in_data.iter().all(|hands| hands.seen - hands.fullest >= k)
            && in_manifest.iter().all(|hands| hands.independent > 1);
        let sum = |of: fn(&Deal) -> TokenAmount| {
            let amounts = entry.deals().map(|held| of(&held.deal).0);
            TokenAmount(amounts.fold(0, u128::saturating_add))
        };
        Health {
            object: entry.object,
            file_tag: entry.file_tag,
            drawn: entry.drawn(),
            now: self.picture.now,
            evidence_limit: self.picture.period,
            state: if owed < k || manifest_owed == 0 {
                State::Lost
            } else if weakest < k || manifest_copies == 0 {
                State::Unverified
            } else if n > k && !outlives_any {
                State::Critical
            } else if weakest < n || manifest_copies < n || independent < n {
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
            independent,
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

    /// Counts the holders of each segment and manifest part, clumps as one, and writes into the pieces which those are.
    fn hands(&self, pieces: &mut [PieceHealth]) -> BTreeMap<(&'static str, u64), Hands> {
        let mut groups: BTreeMap<_, Vec<&mut PieceHealth>> = BTreeMap::new();
        for piece in pieces.iter_mut().filter(|p| p.rung >= Rung::Received) {
            groups
                .entry((piece.kind, piece.group))
                .or_default()
                .push(piece);
        }
        let count = |group: Vec<&mut PieceHealth>| {
            let holders: Vec<Holder> = group.iter().map(|p| self.holder(p.provider)).collect();
            let clumps = clumps(&holders);
            let who: Vec<ProviderId> = group.iter().map(|piece| piece.provider).collect();
            let mut sizes = vec![0; group.len()];
            for (at, (piece, first)) in group.into_iter().zip(&clumps).enumerate() {
                sizes[*first] += 1;
                piece.counts_with = (at != *first).then(|| {
                    let hand = who.iter().zip(&clumps).filter(|(_, of)| *of == first);
                    let mut others = hand.filter(|(id, _)| **id != piece.provider);
                    others.next().map_or(piece.provider, |(id, _)| *id)
                });
            }
            Hands {
                seen: sizes.len(),
                independent: sizes.iter().filter(|size| **size > 0).count(),
                fullest: sizes.iter().copied().max().unwrap_or(0),
            }
        };
        groups
            .into_iter()
            .map(|(key, group)| (key, count(group)))
            .collect()
    }

    /// One that left the chain counts for itself.
    fn holder(&self, of: ProviderId) -> Holder {
        let alone = || {
            let mut owner = [0; 32];
            owner[..8].copy_from_slice(&of.0.to_be_bytes());
            Holder {
                owner,
                hosts: Vec::new(),
            }
        };
        self.picture.holders.get(&of).cloned().unwrap_or_else(alone)
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
            evidence_age: evidence.map(|epoch| self.picture.now.since(epoch)),
            possession: challenges.and_then(|c| c.proven.as_ref().map(|answer| answer.epoch)),
            challenge_failed: challenges
                .and_then(|c| c.failed.as_ref().map(|failed| failed.reason.clone())),
            counts_with: None,
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
        self.picture
            .partitions
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
        let young = |epoch: &Epoch| self.picture.now.since(*epoch) <= self.picture.period;
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
            false => Epoch(partition.open.0.saturating_sub(self.picture.period.0)),
        };
        Some(Ok(window.max(held.deal.published).min(self.picture.now)))
    }
}
