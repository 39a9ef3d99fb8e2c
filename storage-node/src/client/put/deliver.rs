//! One group of pieces on its way: pushed, acknowledged, published, read back; replaced when that is safe.
//!
//! Part of [`super`], and the place where the rule of one charge lives: see [`Turn`], [`Watch`] and [`Run::again`].
//!
//! When no other provider is left (n may be all there are), those that failed are asked again, a bounded number of times with
//! growing pauses: **the same proposal** while it may still be published, because one deal id is charged once however often it is
//! sent; **a fresh one** only when every earlier proposal for this shard to that provider has lapsed unpublished.
//! Behind all this stands the chain's own rule: every offer of one shard carries one nonce, and the chain publishes one deal
//! under it ([`Run::next_nonce`]). A provider that said no and publishes all the same, or publishes both of two offers, only decides
//! which of them is the deal: [`Run::await_published`] then follows the chain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chain_lite::account::{Blake3Root, ProviderId};
use chain_lite::codec;
use chain_lite::deal::DealStatus;
use chain_lite::units::TokenAmount;
use prover::PaddedPieceSize;
use rand::Rng;
use rand::rngs::OsRng;
use retrieval::verify::ReadAt;
use tokio::sync::mpsc;

use super::{PutEvent, Run, cost_of};
use crate::client::encode::{StagedShard, padded_size};
use crate::client::journal::{Attempt, Part, SegmentRecord, ShardRecord};
use crate::client::{
    Chain, ClientError, Network, Outgoing, ProviderRecord, PushError, ask, futures_all, piece_key,
};
use crate::object::ack::PieceAck;

/// Tries of one push before the provider counts as failed.
const PUSH_TRIES: u32 = 3;
/// Tries of one read-back.
const READ_BACK_TRIES: u32 = 5;
/// Rounds in which a shard's providers are asked again when nobody else is left: 31 s in all at four pauses a second.
const AGAIN_ROUNDS: u32 = 5;
/// [`Chain::pause`]s before the first such round; each later one waits twice as long.
const AGAIN_PAUSES: u32 = 4;
/// Bytes of a read-back range: two verified groups.
const READ_BACK_BYTES: u64 = 32 * 1024;

/// How one shard's turn ended.
enum Turn {
    /// The provider signed for it.
    Acknowledged(Vec<u8>),
    /// The deal is on chain, whatever became of the acknowledgement.
    OnChain,
    /// The provider cannot charge for it any more: another one may be asked.
    Replace(String),
}

impl<C: Chain, N: Network> Run<C, N> {
    /// Delivers every shard of a part. `fresh` is false when an earlier run may have sent the proposals; `acknowledged` hears
    /// when every shard was signed for.
    pub(super) async fn store_part(
        &self,
        part: Part,
        record: SegmentRecord,
        staged: Vec<StagedShard>,
        fresh: bool,
        acknowledged: Option<mpsc::UnboundedSender<()>>,
    ) -> Result<SegmentRecord, ClientError> {
        let all: BTreeSet<usize> = (0..record.shards.len()).collect();
        let fresh = if fresh { all.clone() } else { BTreeSet::new() };
        self.store_some(part, record, &staged, &all, &fresh, acknowledged)
            .await
    }

    /// Pushes until the shards `wanted` of a part are published, reads each of them back, and marks the part stored. `fresh` ones
    /// were signed by this run.
    pub(super) async fn store_some(
        &self,
        part: Part,
        mut record: SegmentRecord,
        staged: &[StagedShard],
        wanted: &BTreeSet<usize>,
        fresh: &BTreeSet<usize>,
        mut acknowledged: Option<mpsc::UnboundedSender<()>>,
    ) -> Result<SegmentRecord, ClientError> {
        let mut watched = Watched::new(staged, fresh);
        let all = 0..record.shards.len();
        let mut published: BTreeSet<usize> = all.filter(|index| !wanted.contains(index)).collect();
        while published.len() < record.shards.len() {
            self.push_missing(part, &mut record, staged, &mut watched, &published)
                .await?;
            if let Some(tell) = acknowledged.take() {
                // Nobody listens any more when the put has failed elsewhere.
                let _ = tell.send(());
            }
            self.await_published(part, &mut record, staged, &mut watched, &mut published)
                .await?;
        }
        self.read_back(&record, wanted).await?;
        record.stored = true;
        self.journal.write_segment(part, &record)?;
        Ok(record)
    }

    /// Offers every shard that has no acknowledgement, all at once, until each has one.
    async fn push_missing(
        &self,
        part: Part,
        record: &mut SegmentRecord,
        staged: &[StagedShard],
        watched: &mut Watched,
        published: &BTreeSet<usize>,
    ) -> Result<(), ClientError> {
        loop {
            let missing: Vec<usize> = (0..record.shards.len())
                .filter(|i| record.shards[*i].live().ack.is_none() && !published.contains(i))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            let turns = missing.iter().map(|index| {
                let attempt = record.shards[*index].live();
                self.push_one(attempt, &staged[*index], &watched.shards[*index])
            });
            let turns = futures_all(turns).await;
            for (index, turn) in missing.into_iter().zip(turns) {
                match turn? {
                    Turn::Acknowledged(ack) => {
                        let shard = &mut record.shards[index];
                        (self.observer)(PutEvent::Acknowledged {
                            provider: shard.live().proposal.proposal.provider,
                            bytes: shard.bytes,
                        });
                        shard.live_mut().ack = Some(ack);
                    }
                    // Nothing signed, but the chain has it: the read-back decides.
                    Turn::OnChain => record.shards[index].live_mut().ack = Some(Vec::new()),
                    Turn::Replace(reason) => {
                        self.replace(part, record, index, staged, reason, watched)
                            .await?;
                    }
                }
            }
            self.journal.write_segment(part, record)?;
        }
    }

    /// One provider, one shard, as many tries as it takes to know how it ends.
    async fn push_one(
        &self,
        attempt: &Attempt,
        shard: &StagedShard,
        watch: &Watch,
    ) -> Result<Turn, ClientError> {
        let proposal = &attempt.proposal.proposal;
        let deal = attempt.deal();
        let record = {
            let survey = self.survey.lock().await;
            let offer = survey.offers.get(&proposal.provider);
            offer.map(|offer| offer.record.clone())
        };
        let mut tries = 0;
        let mut told = false;
        loop {
            tries += 1;
            let outcome = match &record {
                Some(record) => self.push_once(record, attempt, shard, watch).await,
                None => Err(PushError::NotReached("it did not answer".into())),
            };
            let reason = match outcome {
                Ok(ack) => return Ok(Turn::Acknowledged(ack)),
                Err(error) => error,
            };
            // The proposal alone, which comes before the bytes, is enough to publish.
            if self.client.chain.deal(&deal).await?.is_some() {
                return Ok(Turn::OnChain);
            }
            // Refused or never reached in this run, and not sent by an earlier one: it has no piece to prove.
            if !watch.may_be_whole()
                && (tries >= PUSH_TRIES || matches!(reason, PushError::Refused(_)))
            {
                return Ok(Turn::Replace(reason.to_string()));
            }
            if self.client.chain.now().await?.epoch >= proposal.start {
                return Ok(Turn::Replace(format!(
                    "it did not publish in time ({reason})"
                )));
            }
            if tries >= PUSH_TRIES && !told {
                told = true;
                (self.observer)(PutEvent::Waiting {
                    provider: proposal.provider,
                    until: proposal.start,
                    reason: reason.to_string(),
                });
            }
            self.client.chain.pause().await;
        }
    }

    async fn push_once(
        &self,
        to: &ProviderRecord,
        attempt: &Attempt,
        shard: &StagedShard,
        watch: &Watch,
    ) -> Result<Vec<u8>, PushError> {
        let piece = Outgoing {
            key: piece_key(shard.blake3_root, shard.bytes),
            comm_p: shard.comm_p,
            proposal: codec::encode(&attempt.proposal),
            data: watch.wrap(Arc::clone(&shard.data)),
            outboard: Arc::clone(&shard.outboard),
        };
        let ack = self.client.network.push(to, piece).await?;
        let expected = PieceAck {
            deal: attempt.deal(),
            comm_p: shard.comm_p,
            blake3_root: Blake3Root(shard.blake3_root),
            bytes: shard.bytes,
        };
        match expected.verify(&ack, &to.net_key) {
            Ok(()) => Ok(ack),
            Err(error) => Err(PushError::Interrupted(error.to_string())),
        }
    }

    /// Waits until every acknowledged deal is on chain; a proposal that lapsed is replaced and pushed again by the caller.
    async fn await_published(
        &self,
        part: Part,
        record: &mut SegmentRecord,
        staged: &[StagedShard],
        watched: &mut Watched,
        published: &mut BTreeSet<usize>,
    ) -> Result<(), ClientError> {
        loop {
            let mut lapsed = Vec::new();
            for index in 0..record.shards.len() {
                if published.contains(&index) {
                    continue;
                }
                self.follow_the_chain(&mut record.shards[index]).await?;
                let attempt = record.shards[index].live();
                let proposal = &attempt.proposal.proposal;
                let provider = proposal.provider;
                // The clock is read before the deal: a deal that is absent at `start` can never appear.
                let now = self.client.chain.now().await?.epoch;
                match self.client.chain.deal(&attempt.deal()).await? {
                    Some(deal) if deal.status == DealStatus::Slashed => {
                        return Err(ClientError::Provider {
                            provider,
                            reason: "its deal was slashed before the object was stored".into(),
                        });
                    }
                    Some(_) => {
                        published.insert(index);
                        (self.observer)(PutEvent::Published(provider));
                        let mut money = self.unpublished.lock().await;
                        *money = money.minus_or_zero(cost_of(proposal));
                    }
                    None if now >= proposal.start => lapsed.push(index),
                    None => {}
                }
            }
            if !lapsed.is_empty() {
                for index in lapsed {
                    let reason = "it accepted the piece and did not publish the deal".to_owned();
                    self.replace(part, record, index, staged, reason, watched)
                        .await?;
                }
                self.journal.write_segment(part, record)?;
                return Ok(());
            }
            if published.len() == record.shards.len() {
                return Ok(());
            }
            self.client.chain.pause().await;
        }
    }

    /// Makes the live attempt the one that the chain has, if an earlier one was published after it was given up.
    async fn follow_the_chain(&self, shard: &mut ShardRecord) -> Result<(), ClientError> {
        for place in 0..shard.attempts.len().saturating_sub(1) {
            let deal = self
                .client
                .chain
                .deal(&shard.attempts[place].deal())
                .await?;
            if deal.is_some_and(|deal| deal.status.is_open()) {
                let mut attempt = shard.attempts.remove(place);
                attempt.given_up = None;
                attempt.ack.get_or_insert_default();
                shard.attempts.push(attempt);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives a shard to another provider, or to the same one again when nobody else is left: signs, funds; the caller makes it
    /// durable before it is pushed.
    async fn replace(
        &self,
        part: Part,
        record: &mut SegmentRecord,
        index: usize,
        staged: &[StagedShard],
        reason: String,
        watched: &mut Watched,
    ) -> Result<(), ClientError> {
        let from = record.shards[index].live().proposal.proposal.provider;
        let old_cost = cost_of(&record.shards[index].live().proposal.proposal);
        let size = padded_size(staged[index].bytes);
        let keeping: Vec<ProviderId> = record
            .shards
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != index)
            .map(|(_, shard)| shard.live().proposal.proposal.provider)
            .collect();
        let to = if self.fresh_ask(from, record, index).await {
            from
        } else {
            let other = {
                let mut survey = self.survey.lock().await;
                survey.failed(from, &reason);
                let tried = record.shards[index].attempts.iter();
                let excluded: BTreeSet<u64> = tried
                    .map(|attempt| attempt.proposal.proposal.provider.0)
                    .chain(keeping.iter().map(|id| id.0))
                    .collect();
                survey.choose(1, size, &self.part_seed(part), &excluded, &keeping)
            };
            match other {
                Ok(chosen) => chosen[0],
                Err(nobody) => {
                    let round = &mut watched.rounds[index];
                    if *round >= AGAIN_ROUNDS {
                        return Err(nobody);
                    }
                    *round += 1;
                    let round = *round;
                    (self.observer)(PutEvent::Again {
                        provider: from,
                        rounds_left: AGAIN_ROUNDS - round,
                        reason: reason.clone(),
                    });
                    for _ in 0..AGAIN_PAUSES << (round - 1) {
                        self.client.chain.pause().await;
                    }
                    match self
                        .again(part, &record.shards[index], size, &keeping, nobody)
                        .await?
                    {
                        Some(to) => {
                            // Its start has to be waited for again if it is dropped too: that counts for two rounds.
                            watched.rounds[index] += 1;
                            to
                        }
                        // The live attempt stays; the caller offers it once more.
                        None => return Ok(()),
                    }
                }
            }
        };
        let start = self.start_for(&[to]).await?;
        let nonce = self.next_nonce(part, index, &record.shards[index]).await?;
        let group = self.group(part, staged);
        let collateral = self.collateral(size).await?;
        let proposal = self
            .proposal(
                part,
                index,
                nonce,
                &staged[index],
                to,
                group,
                start,
                collateral,
            )
            .await?;
        {
            let mut money = self.unpublished.lock().await;
            let sum = money.minus_or_zero(old_cost).0;
            *money = TokenAmount(sum.saturating_add(cost_of(&proposal).0));
            self.fund(*money).await?;
        }
        (self.observer)(PutEvent::Replaced {
            from,
            to,
            reason: reason.clone(),
        });
        let shard = &mut record.shards[index];
        shard.live_mut().given_up = Some(reason);
        shard.attempts.push(Attempt::new(
            proposal.sign(self.client.wallet.signing_key()),
        ));
        watched.shards[index] = Watch::new(staged[index].bytes, true);
        Ok(())
    }

    /// Whom to ask when all were tried: nobody new (`None`) while the live proposal may still be published, and else a provider
    /// that was tried before, answers now, and can publish none of the proposals it has for this shard. `nobody` is the error if
    /// there is none.
    async fn again(
        &self,
        part: Part,
        shard: &ShardRecord,
        size: PaddedPieceSize,
        keeping: &[ProviderId],
        nobody: ClientError,
    ) -> Result<Option<ProviderId>, ClientError> {
        // The clock is read before the deals: a deal that is absent at its start can never appear.
        let now = self.client.chain.now().await?.epoch;
        if now < shard.live().proposal.proposal.start {
            return Ok(None);
        }
        let mut lapsed: BTreeMap<ProviderId, bool> = BTreeMap::new();
        for attempt in &shard.attempts {
            let proposal = &attempt.proposal.proposal;
            let this =
                now >= proposal.start && self.client.chain.deal(&attempt.deal()).await?.is_none();
            *lapsed.entry(proposal.provider).or_insert(true) &= this;
        }
        let may_be_asked: BTreeSet<u64> = lapsed
            .iter()
            .filter(|(id, all)| **all && !keeping.contains(id))
            .map(|(id, _)| id.0)
            .collect();
        let ids: Vec<ProviderId> = may_be_asked.iter().map(|id| ProviderId(*id)).collect();
        self.refresh_leads(&ids).await;
        let mut survey = self.survey.lock().await;
        let others = survey.offers.keys().map(|id| id.0);
        let excluded: BTreeSet<u64> = others.filter(|id| !may_be_asked.contains(id)).collect();
        match survey.choose(1, size, &self.part_seed(part), &excluded, keeping) {
            Ok(chosen) => Ok(Some(chosen[0])),
            Err(_) => Err(nobody),
        }
    }

    /// A provider that refused once gets a second chance with its newest terms: a backlog grows while a long put runs, and an offer
    /// that took long to arrive starts too soon.
    async fn fresh_ask(&self, id: ProviderId, record: &SegmentRecord, index: usize) -> bool {
        let mine = record.shards[index].attempts.iter();
        if mine.filter(|a| a.proposal.proposal.provider == id).count() > 1 {
            return false;
        }
        let Some(offer) = self.survey.lock().await.offers.get(&id).cloned() else {
            return false;
        };
        let Ok(now) = self.client.chain.now().await else {
            return false;
        };
        let Ok(ask) = ask(&self.client.network, &offer.record).await else {
            return false;
        };
        let offered = &record.shards[index].live().proposal.proposal;
        let late = now.epoch < offered.start && offered.start < ask.earliest_start;
        let changed = late
            || ask.earliest_start.since(now.epoch) > offer.lead
            || ask.price_per_gib != offer.ask.price_per_gib;
        if changed && let Some(offer) = self.survey.lock().await.offers.get_mut(&id) {
            offer.lead = ask.earliest_start.since(now.epoch);
            offer.ask = ask;
        }
        changed
    }

    /// Reads a random range of every wanted shard from its holder.
    async fn read_back(
        &self,
        record: &SegmentRecord,
        wanted: &BTreeSet<usize>,
    ) -> Result<(), ClientError> {
        let shards = wanted.iter().filter_map(|index| record.shards.get(*index));
        let reads = shards.map(|shard| self.read_back_one(shard));
        for outcome in futures_all(reads).await {
            outcome?;
        }
        Ok(())
    }

    async fn read_back_one(&self, shard: &ShardRecord) -> Result<(), ClientError> {
        let provider = shard.live().proposal.proposal.provider;
        let holder = match self.survey.lock().await.offers.get(&provider) {
            Some(offer) => offer.record.clone(),
            None => {
                return Err(ClientError::Provider {
                    provider,
                    reason: "it holds a shard but does not answer".into(),
                });
            }
        };
        let len = shard.bytes.min(READ_BACK_BYTES);
        let start = OsRng.gen_range(0..=shard.bytes - len);
        let key = piece_key(shard.blake3_root, shard.bytes);
        let mut reason = String::new();
        for _ in 0..READ_BACK_TRIES {
            match self
                .client
                .network
                .read(&holder, key, start..start + len)
                .await
            {
                Ok(bytes) if bytes.len() as u64 == len => {
                    (self.observer)(PutEvent::ReadBack(provider));
                    return Ok(());
                }
                Ok(bytes) => reason = format!("it sent {} bytes instead of {len}", bytes.len()),
                Err(error) => reason = error,
            }
            self.client.chain.pause().await;
        }
        Err(ClientError::Provider {
            provider,
            reason: format!("it took the shard but does not serve it back: {reason}"),
        })
    }
}

/// How far each shard's bytes left the disk, and how often its providers were asked again because nobody else was left.
struct Watched {
    shards: Vec<Watch>,
    rounds: Vec<u32>,
}

impl Watched {
    fn new(staged: &[StagedShard], fresh: &BTreeSet<usize>) -> Self {
        let shards = staged.iter().enumerate();
        Self {
            shards: shards
                .map(|(index, shard)| Watch::new(shard.bytes, fresh.contains(&index)))
                .collect(),
            rounds: vec![0; staged.len()],
        }
    }
}

/// Sees whether the last byte of a piece was ever read for sending: if not, nobody out there can hold the whole piece.
struct Watch {
    bytes: u64,
    read_to: Arc<AtomicU64>,
}

impl Watch {
    /// `fresh` is false for attempts of an earlier run, of which nothing is known.
    fn new(bytes: u64, fresh: bool) -> Self {
        let read_to = Arc::new(AtomicU64::new(if fresh { 0 } else { bytes }));
        Self { bytes, read_to }
    }

    fn may_be_whole(&self) -> bool {
        self.read_to.load(Ordering::SeqCst) >= self.bytes
    }

    fn wrap(&self, inner: Arc<dyn ReadAt>) -> Arc<dyn ReadAt> {
        Arc::new(WatchedRead {
            inner,
            read_to: Arc::clone(&self.read_to),
        })
    }
}

struct WatchedRead {
    inner: Arc<dyn ReadAt>,
    read_to: Arc<AtomicU64>,
}

impl ReadAt for WatchedRead {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_exact_at(offset, buf)?;
        self.read_to
            .fetch_max(offset + buf.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}
