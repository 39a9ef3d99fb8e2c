//! Repair: gives shards whose deals are over to new providers, from any k that are left.
//!
//! Part of [`super`]: what a put does with a new shard, this does with a restored one — journal, funding, push, publication,
//! read-back and the rule of one charge are the same code. The manifest and the object's id do not change: a shard's roots
//! stay, and where it lives the chain says.
//!
//! A shard is repaired when the chain has *no open deal* for it. A provider that is silent or faulty under an open deal is still
//! bound and may still be paid, so it is not replaced; [`crate::client::health`] shows it. The same goes for holders that have come
//! under one owner or into one network since: they are not paid for twice, but no new shard goes to their neighbours (Y1).
//!
//! Cost: reads k shards of a segment that lost one, in units; memory as a get; disk one staged file per lost shard.
//! Crash: run the same command again; proposals that were signed are offered again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use chain_lite::account::ProviderId;
use chain_lite::units::{EpochCount, TokenAmount};
use prover::CommP;
use retrieval::ShardSource;
use retrieval::fetch::FetchRequest;

use super::survey::Survey;
use super::{Observer, PutRequest, Run, cost_of, duration_of};
use crate::client::catalog::{self, Entry, Held};
use crate::client::encode::{
    ShardSink, StagedShard, Stamp, padded_size, stage_in_memory, staged_path,
};
use crate::client::journal::{Attempt, Done, Head, Journal, Part, SegmentRecord, ShardRecord};
use crate::client::outbox::Outbox;
use crate::client::{Chain, Client, ClientError, Network, ProviderRecord, Units, piece_key};
use crate::object::erasure::Coder;
use crate::object::manifest::{Manifest, ObjectId};
use crate::object::placement::put_seed;

/// One shard with a new home.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// `data` or `manifest`.
    pub kind: &'static str,
    /// Segment or manifest part.
    pub group: u64,
    /// Shard or copy.
    pub index: usize,
    /// Who holds it now.
    pub to: ProviderId,
}

/// The outcome of a repair.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    /// Which object; its id is unchanged.
    pub object: ObjectId,
    /// What was moved; empty if nothing was lost.
    pub moved: Vec<Moved>,
    /// Highest cost of the new deals.
    pub max_cost: TokenAmount,
}

/// Restores every shard and manifest copy that no open deal covers.
pub async fn repair<C: Chain, N: Network>(
    client: Arc<Client<C, N>>,
    object: &str,
    duration: Option<EpochCount>,
    observer: Observer,
) -> Result<Repaired, ClientError> {
    let outbox = Arc::new(Outbox::open(&client.home, &client.chain.chain_id())?);
    let entry = catalog::find(&client, object).await?;
    let (sealed, manifest) = catalog::sealed_manifest(&client, &entry).await?;
    let request = PutRequest {
        source: PathBuf::new(),
        name: None,
        scheme: manifest.scheme,
        duration,
        max_price_per_gib: None,
        again: false,
        verified: false,
    };
    let duration = duration_of(&client.chain, &request)?;
    let survey = Survey::take(&client, &request, duration).await?;
    let (journal, head) = journal_of(&client, &entry, &manifest, duration).await?;
    if journal.manifest()?.is_none() {
        journal.write_manifest(entry.object, &sealed)?;
    }
    let providers = catalog::by_id(client.chain.providers().await?);
    // Its deals are ordinary ones, whatever the put's were: DataCap was spent on the shard once.
    let run = Run::new(
        Arc::clone(&client),
        Arc::clone(&outbox),
        journal,
        head,
        survey,
        observer,
        false,
    )?;
    let mut repaired = Repaired {
        object: entry.object,
        moved: Vec::new(),
        max_cost: TokenAmount::ZERO,
    };
    for segment in 0..manifest.segments() {
        let lost = lost_shards(&entry, &manifest, segment);
        if !lost.is_empty() {
            let staged = run
                .restore_shards(&entry, &manifest, segment, &lost, &providers)
                .await?;
            let record = run.data_record(&entry, &manifest, segment)?;
            run.place_again(Part::Data(segment), record, staged, &lost, &mut repaired)
                .await?;
        }
    }
    for (index, bytes) in sealed.0.chunks(run.part_payload() as usize).enumerate() {
        let held = entry.manifest.get(&(index as u32));
        let held: &[Held] = held.map_or(&[], Vec::as_slice);
        let copies = copies(held, manifest.scheme.n());
        let open = copies.iter().filter(|held| held.is_open()).count();
        if open < manifest.scheme.n() && !copies.is_empty() {
            let copy = stage_in_memory(bytes.to_vec())?;
            let record = run.manifest_record(&copies, &copy);
            let lost: BTreeSet<usize> = (open..record.shards.len()).collect();
            let staged = vec![copy; record.shards.len()];
            let part = Part::Manifest(index as u64);
            run.place_again(part, record, staged, &lost, &mut repaired)
                .await?;
        }
    }
    if run.journal.done()?.is_none() {
        run.journal
            .write_done(&Done::new(entry.object, repaired.max_cost))?;
    }
    Ok(repaired)
}

/// The n copies of a manifest part that count: open deals first, then those that are over, newest first.
fn copies(held: &[Held], n: usize) -> Vec<&Held> {
    let mut copies: Vec<&Held> = held.iter().collect();
    copies.sort_by_key(|held| (!held.is_open(), std::cmp::Reverse(held.deal.published)));
    copies.truncate(n);
    copies
}

/// Shards of a segment that no open deal covers.
fn lost_shards(entry: &Entry, manifest: &Manifest, segment: u64) -> BTreeSet<usize> {
    let held = |index: usize| {
        let deals = entry.data.get(&(segment, index as u8));
        deals.is_some_and(|deals| deals.iter().any(Held::is_open))
    };
    (0..manifest.scheme.n())
        .filter(|index| !held(*index))
        .collect()
}

/// The put's own journal where this home has it, or a new one with the same tag.
async fn journal_of<C: Chain, N: Network>(
    client: &Client<C, N>,
    entry: &Entry,
    manifest: &Manifest,
    duration: EpochCount,
) -> Result<(Journal, Head), ClientError> {
    let now = client.chain.now().await?;
    let beacon = client.chain.beacon(now.epoch).await?;
    let stamp = Stamp {
        len: manifest.plain_len,
        mtime_s: 0,
        mtime_ns: 0,
    };
    // Never equal to a put's head: a source is an absolute path.
    let source = PathBuf::from(format!("repair of {}", entry.object));
    let head = Head::new(
        &source,
        stamp,
        manifest.name.clone(),
        client.wallet.address(),
        client.chain.chain_id(),
        manifest.scheme,
        manifest.segment_len,
        duration,
        put_seed(&beacon, &manifest.file_tag.0),
        manifest.nonce_prefix,
        manifest.key.clone(),
    );
    let journal = Journal::at(&client.home, manifest.file_tag);
    if journal.head()?.is_none() {
        return Ok((
            Journal::create(&client.home, manifest.file_tag, &head, now.epoch, false)?,
            head,
        ));
    }
    journal.settle()?;
    Ok((journal, head))
}

impl<C: Chain, N: Network> Run<C, N> {
    /// Gives the shards `lost` of a part to new providers, and waits until they are published and read back.
    async fn place_again(
        &self,
        part: Part,
        mut record: SegmentRecord,
        staged: Vec<StagedShard>,
        lost: &BTreeSet<usize>,
        repaired: &mut Repaired,
    ) -> Result<(), ClientError> {
        let mut over = BTreeSet::new();
        for index in lost {
            // An attempt of an interrupted repair goes on; one whose deal is over is followed by a new one.
            let live = record.shards[*index].live();
            let is_over = match self.client.chain.deal(&live.deal()).await? {
                Some(deal) => !deal.status.is_open(),
                None => self.client.chain.now().await?.epoch >= live.proposal.proposal.start,
            };
            if is_over {
                over.insert(*index);
            }
        }
        let fresh = over.clone();
        for index in &fresh {
            self.sign_again(part, &mut record, *index, &over, &staged)
                .await?;
            over.remove(index);
        }
        record.stored = false;
        self.journal.write_segment(part, &record)?;
        let record = self
            .store_some(part, record, &staged, lost, &fresh, None)
            .await?;
        for index in lost {
            let proposal = &record.shards[*index].live().proposal.proposal;
            let (kind, group) = match part {
                Part::Data(segment) => ("data", segment),
                Part::Manifest(part) => ("manifest", part),
            };
            repaired.moved.push(Moved {
                kind,
                group,
                index: *index,
                to: proposal.provider,
            });
            let cost = repaired.max_cost.0.saturating_add(cost_of(proposal).0);
            repaired.max_cost = TokenAmount(cost);
            if let Part::Data(segment) = part {
                let _ = std::fs::remove_file(staged_path(self.journal.dir(), segment, *index));
            }
        }
        Ok(())
    }

    /// The record of a segment, rebuilt from the chain's deals: they are newer than any journal. What an interrupted repair
    /// signed and the chain does not know yet comes from the journal.
    fn data_record(
        &self,
        entry: &Entry,
        manifest: &Manifest,
        segment: u64,
    ) -> Result<SegmentRecord, ClientError> {
        let known = self.journal.segment(Part::Data(segment))?;
        let bytes = manifest.segment(segment)?.shard_len();
        let shards = manifest.segment_shards(segment).iter().enumerate();
        let shards = shards.map(|(index, shard)| {
            let deals = entry
                .data
                .get(&(segment, index as u8))
                .into_iter()
                .flatten();
            let mut attempts: Vec<Attempt> = deals.map(|held| self.attempt_of(held)).collect();
            // The open deal, or the newest one, is the live attempt.
            attempts.sort_by_key(|attempt| attempt.proposal.proposal.start);
            let open = entry
                .data
                .get(&(segment, index as u8))
                .into_iter()
                .flatten();
            let journaled = match open.into_iter().any(Held::is_open) {
                true => None,
                false => known.as_ref().and_then(|record| record.shards.get(index)),
            };
            for attempt in journaled.into_iter().flat_map(|shard| &shard.attempts) {
                let new = attempts.iter().all(|have| have.deal() != attempt.deal());
                if new && attempt.given_up.is_none() {
                    attempts.push(attempt.clone());
                }
            }
            if attempts.is_empty() {
                return Err(ClientError::Lost {
                    segment,
                    reason: format!("shard {index} never had a deal that the chain knows"),
                });
            }
            Ok(ShardRecord {
                comm_p: CommP(shard.comm_p),
                blake3_root: shard.blake3_root,
                bytes,
                attempts,
            })
        });
        Ok(SegmentRecord::new(shards.collect::<Result<_, _>>()?, None))
    }

    /// The record of a manifest part, one shard for each copy.
    fn manifest_record(&self, copies: &[&Held], copy: &StagedShard) -> SegmentRecord {
        let shards = copies.iter().map(|held| ShardRecord {
            comm_p: copy.comm_p,
            blake3_root: copy.blake3_root,
            bytes: copy.bytes,
            attempts: vec![self.attempt_of(held)],
        });
        SegmentRecord::new(shards.collect(), None)
    }

    /// A published deal as the attempt it was: our own proposal, and ed25519 signs the same bytes the same way.
    fn attempt_of(&self, held: &Held) -> Attempt {
        let proposal = held.deal.proposal.clone();
        let mut attempt = Attempt::new(proposal.sign(self.client.wallet.signing_key()));
        attempt.ack = Some(Vec::new());
        attempt
    }

    /// Reads any k shards and restores the lost ones into staged files; their roots must be the manifest's.
    async fn restore_shards(
        &self,
        entry: &Entry,
        manifest: &Manifest,
        segment: u64,
        lost: &BTreeSet<usize>,
        providers: &BTreeMap<ProviderId, ProviderRecord>,
    ) -> Result<Vec<StagedShard>, ClientError> {
        let bytes = manifest.segment(segment)?.shard_len();
        let shards = manifest.segment_shards(segment);
        let sources = shards.iter().enumerate().map(|(index, shard)| {
            let mut holders =
                entry.holders(segment, index as u8, &shard.comm_p, &shard.blake3_root);
            holders.push(ProviderId(shard.provider));
            holders.dedup();
            let records = holders.iter().filter_map(|id| providers.get(id));
            ShardSource {
                index: index as u16,
                piece: piece_key(shard.blake3_root, bytes),
                providers: records.flat_map(N::peers).collect(),
            }
        });
        let request = FetchRequest {
            k: manifest.scheme.k() as u16,
            shards: sources
                .filter(|source| !source.providers.is_empty())
                .collect(),
            ranges: std::iter::once(0..bytes).collect(),
        };
        let lost_error = |reason| ClientError::Lost { segment, reason };
        let mut units = self.client.network.fetch(request).map_err(lost_error)?;
        let coder = Coder::new(manifest.scheme);
        let mut sinks = lost
            .iter()
            .map(|index| ShardSink::create(staged_path(self.journal.dir(), segment, *index), bytes))
            .collect::<Result<Vec<_>, _>>()?;
        while let Some(unit) = units.next().await.map_err(lost_error)? {
            let mut columns: Vec<Option<Vec<u8>>> = vec![None; manifest.scheme.n()];
            for (index, bytes) in unit.shards {
                if let Some(slot) = columns.get_mut(usize::from(index)) {
                    *slot = Some(bytes.to_vec());
                }
            }
            coder.restore_all(&mut columns)?;
            for (index, sink) in lost.iter().zip(&mut sinks) {
                sink.append(columns[*index].as_deref().unwrap_or_default())?;
            }
        }
        let empty = Arc::new(Vec::new());
        let mut staged: Vec<StagedShard> = shards
            .iter()
            .map(|shard| StagedShard {
                comm_p: CommP(shard.comm_p),
                blake3_root: shard.blake3_root,
                bytes,
                // Held elsewhere and not sent; only its roots enter the group's.
                data: empty.clone(),
                outboard: empty.clone(),
            })
            .collect();
        for (index, sink) in lost.iter().zip(sinks) {
            let restored = sink.finish()?;
            let expected = &shards[*index];
            if restored.blake3_root != expected.blake3_root || restored.comm_p.0 != expected.comm_p
            {
                return Err(ClientError::Lost {
                    segment,
                    reason: format!(
                        "shard {index} does not come out as it was stored (inconsistent encoding)"
                    ),
                });
            }
            staged[*index] = restored;
        }
        Ok(staged)
    }

    /// Chooses a provider among those that hold nothing of the segment, funds and signs; the caller makes it durable. Those of the
    /// shards `over` hold nothing for us any more: whoever shares an owner or network with any other one is left out (Y1).
    async fn sign_again(
        &self,
        part: Part,
        record: &mut SegmentRecord,
        index: usize,
        over: &BTreeSet<usize>,
        staged: &[StagedShard],
    ) -> Result<(), ClientError> {
        let size = padded_size(staged[index].bytes);
        let others = || {
            let shards = record.shards.iter().enumerate();
            let others = shards.filter(|(i, _)| *i != index);
            others.map(|(i, shard)| (i, shard.live().proposal.proposal.provider))
        };
        let excluded = others().map(|(_, id)| id.0).collect();
        let keeping: Vec<ProviderId> = others()
            .filter(|(i, _)| !over.contains(i))
            .map(|(_, id)| id)
            .collect();
        let seed = self.part_seed(part);
        let to = self
            .survey
            .lock()
            .await
            .choose(1, size, &seed, &excluded, &keeping)?[0];
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
            *money = TokenAmount(money.0.saturating_add(cost_of(&proposal).0));
            self.fund(*money).await?;
        }
        let shard = &mut record.shards[index];
        shard.live_mut().given_up = Some("its deal is over".into());
        shard.attempts.push(Attempt::new(
            proposal.sign(self.client.wallet.signing_key()),
        ));
        Ok(())
    }
}
