//! From staged shards to signed proposals: who, when, how much, and a nonce that is the same on every retry.
//!
//! Part of [`super`]. What leaves here is durable in the journal before anything is sent (`DESIGN.md` §3).

use std::collections::BTreeSet;

use chain_lite::account::{Blake3Root, ProviderId};
use chain_lite::message::{DealGroup, DealProposal};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::PaddedPieceSize;
use sha2::{Digest, Sha256};

use super::Run;
use crate::client::encode::{PlainMark, StagedShard, padded_size};
use crate::client::journal::{Attempt, Part, SegmentRecord, ShardRecord};
use crate::client::{Chain, ClientError, Network, ProviderRecord, ask, futures_all};
use crate::object::manifest::{Label, segment_root};
use crate::object::placement::{Group, group_seed};

/// Slack on the least collateral, so that a grown supply does not make the proposal invalid: 1/8.
const COLLATERAL_SLACK: u128 = 8;

impl<C: Chain, N: Network> Run<C, N> {
    /// Chooses providers and signs one proposal per shard; durable before it returns.
    pub(super) async fn sign(
        &self,
        part: Part,
        staged: &[StagedShard],
        mark: Option<PlainMark>,
    ) -> Result<SegmentRecord, ClientError> {
        let size = padded_size(staged[0].bytes);
        let seed = self.part_seed(part);
        let providers =
            self.survey
                .lock()
                .await
                .choose(staged.len(), size, &seed, &BTreeSet::new(), &[])?;
        self.refresh_leads(&providers).await;
        let start = self.start_for(&providers).await?;
        let group = self.group(part, staged);
        let collateral = self.collateral(size).await?;
        let mut shards = Vec::with_capacity(staged.len());
        for (index, (shard, provider)) in staged.iter().zip(providers).enumerate() {
            let nonce = self.client_nonce(part, index, 0);
            let proposal = self
                .proposal(
                    part, index, nonce, shard, provider, group, start, collateral,
                )
                .await?;
            shards.push(ShardRecord {
                comm_p: shard.comm_p,
                blake3_root: shard.blake3_root,
                bytes: shard.bytes,
                attempts: vec![Attempt::new(
                    proposal.sign(self.client.wallet.signing_key()),
                )],
            });
        }
        let record = SegmentRecord::new(shards, mark);
        self.journal.write_segment(part, &record)?;
        Ok(record)
    }

    /// Asks the chosen providers again for their earliest start: a backlog grows while a long put runs. Who does not answer
    /// keeps the lead it quoted; the push will tell.
    pub(super) async fn refresh_leads(&self, providers: &[ProviderId]) {
        let records: Vec<ProviderRecord> = {
            let survey = self.survey.lock().await;
            let offers = providers.iter().filter_map(|id| survey.offers.get(id));
            offers.map(|offer| offer.record.clone()).collect()
        };
        let Ok(now) = self.client.chain.now().await else {
            return;
        };
        let asks = records
            .iter()
            .map(|record| ask(&self.client.network, record));
        let asks = futures_all(asks).await;
        let mut survey = self.survey.lock().await;
        for (record, ask) in records.iter().zip(asks) {
            if let (Ok(ask), Some(offer)) = (ask, survey.offers.get_mut(&record.id)) {
                offer.lead = ask.earliest_start.since(now.epoch);
            }
        }
    }

    pub(super) fn part_seed(&self, part: Part) -> [u8; 32] {
        let group = match part {
            Part::Data(index) => Group::Segment(index),
            Part::Manifest(index) => Group::ManifestPart(index),
        };
        group_seed(&self.head.placement_seed, group)
    }

    /// The first epoch of a group: the largest lead of its providers from now on, with a deadline's slack.
    pub(super) async fn start_for(&self, providers: &[ProviderId]) -> Result<Epoch, ClientError> {
        let params = self.client.chain.params();
        let now = self.client.chain.now().await?.epoch;
        let survey = self.survey.lock().await;
        let lead = providers
            .iter()
            .filter_map(|id| survey.offers.get(id))
            .map(|offer| offer.lead.0)
            .max()
            .unwrap_or(0);
        let slack = params.window().0.max(lead / 8);
        // The chain takes starts up to `max_start_delay` from the block that publishes; leave room for that block.
        let latest = params.max_start_delay;
        Ok(now.after(EpochCount(lead.saturating_add(slack).min(latest.0).max(1))))
    }

    pub(super) async fn collateral(
        &self,
        size: PaddedPieceSize,
    ) -> Result<TokenAmount, ClientError> {
        let least = self.client.chain.collateral(size.bytes()).await?.0;
        Ok(TokenAmount(
            least
                .saturating_add(least / COLLATERAL_SLACK)
                .saturating_add(1),
        ))
    }

    pub(super) fn group(&self, part: Part, staged: &[StagedShard]) -> DealGroup {
        let k = match part {
            Part::Data(_) => self.scheme.k() as u8,
            Part::Manifest(_) => 1,
        };
        let roots: Vec<_> = staged
            .iter()
            .map(|shard| (shard.comm_p.0, shard.blake3_root))
            .collect();
        DealGroup {
            k,
            n: staged.len() as u8,
            file_root: Blake3Root(segment_root(k, staged[0].bytes, &roots)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a field of the proposal")]
    pub(super) async fn proposal(
        &self,
        part: Part,
        index: usize,
        client_nonce: u64,
        shard: &StagedShard,
        provider: ProviderId,
        group: DealGroup,
        start: Epoch,
        provider_collateral: TokenAmount,
    ) -> Result<DealProposal, ClientError> {
        let piece_size = padded_size(shard.bytes);
        let survey = self.survey.lock().await;
        let offer = survey
            .offers
            .get(&provider)
            .ok_or_else(|| ClientError::Bug(format!("provider {provider} made no offer")))?;
        Ok(DealProposal {
            chain_id: self.head.chain,
            client: self.head.account,
            provider,
            piece_commp: shard.comm_p,
            piece_size,
            blake3_root: Blake3Root(shard.blake3_root),
            group,
            start,
            end: start.after(self.head.duration),
            price: offer.ask.price(piece_size),
            provider_collateral,
            verified: self.verified,
            label: self.label(part, index, shard.bytes)?.to_string(),
            client_nonce,
        })
    }

    fn label(&self, part: Part, shard: usize, bytes: u64) -> Result<Label, ClientError> {
        let (file_tag, drawn) = (self.journal.file_tag(), self.drawn);
        Ok(match part {
            Part::Data(segment) => Label::Data {
                file_tag,
                segment,
                shard: shard as u8,
                bytes,
                drawn,
            },
            Part::Manifest(part) => {
                let (object, sealed) = self.sealed_manifest()?;
                Label::Manifest {
                    object,
                    file_tag,
                    part: part as u32,
                    parts: (sealed.len() as u64).div_ceil(self.part_payload()) as u32,
                    bytes,
                    drawn,
                }
            }
        })
    }

    /// The nonce of the next offer of a shard. The chain publishes one deal under one nonce, so that however many providers hold
    /// a signed proposal of ours, one of them can charge for it: the nonce stays while the shard has no deal under it, and while that
    /// deal is open. Only a repair, whose deal is over, goes on to the first nonce that none of our deals has used.
    pub(super) async fn next_nonce(
        &self,
        part: Part,
        index: usize,
        shard: &ShardRecord,
    ) -> Result<u64, ClientError> {
        let live = shard.live();
        let deal = self.client.chain.deal(&live.deal()).await?;
        if deal.is_none_or(|deal| deal.status.is_open()) {
            return Ok(live.proposal.proposal.client_nonce);
        }
        let deals = self.client.chain.deals(&self.head.account).await?;
        let used: BTreeSet<u64> = deals
            .iter()
            .map(|(_, deal)| deal.proposal.client_nonce)
            .collect();
        // One of so many is free, whatever the others are.
        let free = (0..=used.len())
            .map(|term| self.client_nonce(part, index, term))
            .find(|nonce| !used.contains(nonce));
        free.ok_or_else(|| ClientError::Bug("every nonce of a shard is used".into()))
    }

    /// Nonces of a shard, one for each deal that it may have in its life.
    fn client_nonce(&self, part: Part, shard: usize, term: usize) -> u64 {
        let digest = Sha256::new()
            .chain_update(b"holdfast/client-nonce/v1")
            .chain_update(self.journal.file_tag().0)
            .chain_update(self.part_seed(part))
            .chain_update((shard as u64).to_be_bytes())
            .chain_update((term as u64).to_be_bytes())
            .finalize();
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(nonce)
    }
}
