//! Put: encrypt, code, place, push, publish, read back, and only then say *stored*.
//!
//! Walk: the first row of `STYLE.md`'s table; steps are [`super::encode`], [`crate::object::placement`], `retrieval::push`,
//! `chain_lite::deal::publish`. Spec: `DESIGN.md` §3, §6; `threat-model.md` C4, P23, Y1, H1.
//!
//! ```text
//! survey ─ plan ─ fund ─┬─ segment 0: code ─ sign ─ push n ─ acks ─ published ─ read back ─┐
//!                       ├─ segment 1: …                              (a few in flight)      ├─ manifest, the same way ─ done
//!                       └─ …                                                                ┘
//! ```
//!
//! *Stored* means: every one of the n holders signed for both roots, published the deal on chain, and served a random range that
//! verified, for every segment and every part of the manifest.
//!
//! **One charge.** What is signed is durable before it is sent ([`super::journal`]). A shard goes to another provider only when
//! the first one said no, was never reached, cannot hold the whole piece (its last byte never left the disk), or can no longer
//! publish (`now >= start`). In every other case the same proposal is offered again, and the wait is told to the observer.
//!
//! Memory: [`super::encode`]'s batch and outboards per segment in flight, plus the transport's send windows. Disk: n shards per
//! segment in flight. Crash: at any instruction; run the same command again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chain_lite::account::{Blake3Root, ProviderId};
use chain_lite::codec;
use chain_lite::deal::DealStatus;
use chain_lite::message::{DealGroup, DealProposal, Message};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::PaddedPieceSize;
use rand::Rng;
use rand::rngs::OsRng;
use retrieval::verify::ReadAt;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use super::encode::{
    SegmentEncoder, SegmentPlan, Source, StagedShard, padded_size, payload_of, piece_limit,
    remove_staged, stage_in_memory,
};
use super::journal::{Attempt, Done, Head, Journal, Part, SegmentRecord, ShardRecord, WalletLock};
use super::{
    Chain, ChainFailure, Client, ClientError, Network, Outgoing, ProviderRecord, PushError,
    catalog, piece_key,
};
use crate::object::ack::PieceAck;
use crate::object::cipher::{Cipher, FileKey, NoncePrefix};
use crate::object::erasure::Scheme;
use crate::object::manifest::{
    FileTag, Label, MAX_NAME_BYTES, Manifest, ObjectId, SealedManifest, Shard, encoded_len,
    segment_root,
};
use crate::object::placement::{Candidate, Need, PlacementError, place};
use crate::provider::ask::Ask;

/// Segments that are pushed, published or read back while the next one is coded.
const SEGMENTS_IN_FLIGHT: usize = 6;
/// Staging space that the segments in flight may take together, unless two are larger.
const STAGING_BUDGET_BYTES: u64 = 2 << 30;
/// How long a provider may take to say its terms.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of one push before the provider counts as failed.
const PUSH_TRIES: u32 = 3;
/// Tries of one read-back.
const READ_BACK_TRIES: u32 = 5;
/// Bytes of a read-back range: two verified groups.
const READ_BACK_BYTES: u64 = 32 * 1024;
/// Default length of a deal in proving periods.
const DEFAULT_PERIODS: u64 = 30;
/// Slack on the least collateral, so that a grown supply does not make the proposal invalid: 1/8.
const COLLATERAL_SLACK: u128 = 8;

/// What to store and how.
#[derive(Clone, Debug)]
pub struct PutRequest {
    /// The file.
    pub source: PathBuf,
    /// Label; the file's own name if absent.
    pub name: Option<String>,
    /// k and m.
    pub scheme: Scheme,
    /// Length of the deals; thirty proving periods if absent.
    pub duration: Option<EpochCount>,
    /// Highest price per epoch and GiB that is accepted.
    pub max_price_per_gib: Option<TokenAmount>,
    /// Store another copy even if this very file is stored already.
    pub again: bool,
}

/// What a put tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutEvent {
    /// An interrupted put of this file goes on.
    Resumed {
        /// Segments already stored.
        stored: u64,
    },
    /// What will happen.
    Planned {
        /// Plaintext bytes.
        bytes: u64,
        /// Segments.
        segments: u64,
        /// k and m.
        scheme: Scheme,
        /// Providers that can take pieces.
        providers: usize,
        /// Highest cost of all deals.
        cost: TokenAmount,
    },
    /// Money goes to escrow.
    Funding(TokenAmount),
    /// So many more plaintext bytes were read, sealed and coded.
    Coded(u64),
    /// A provider signed for a shard.
    Acknowledged {
        /// Who.
        provider: ProviderId,
        /// Shard bytes.
        bytes: u64,
    },
    /// A deal is on chain.
    Published(ProviderId),
    /// A random range of a shard came back right.
    ReadBack(ProviderId),
    /// A segment is stored.
    SegmentStored(u64),
    /// A shard goes to another provider.
    Replaced {
        /// Who failed.
        from: ProviderId,
        /// Who gets it.
        to: ProviderId,
        /// Why.
        reason: String,
    },
    /// Nothing to do but wait for a provider.
    Waiting {
        /// Whom for.
        provider: ProviderId,
        /// From this epoch on another provider may be asked.
        until: Epoch,
        /// What is wrong.
        reason: String,
    },
    /// All segments are stored; the manifest follows.
    Manifest {
        /// Its parts.
        parts: u64,
    },
}

/// Hears [`PutEvent`]s; called from several tasks.
pub type Observer = Arc<dyn Fn(PutEvent) + Send + Sync>;

/// The outcome of a put.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    /// The id to keep.
    pub object: ObjectId,
    /// Label.
    pub name: String,
    /// Plaintext bytes.
    pub bytes: u64,
    /// Data shards.
    pub k: usize,
    /// Parity shards.
    pub m: usize,
    /// Segments.
    pub segments: u64,
    /// Providers that hold a shard, ascending.
    pub providers: Vec<ProviderId>,
    /// Deals, the manifest's included.
    pub deals: u64,
    /// Highest cost of all deals; a client pays for proven periods only.
    pub max_cost: TokenAmount,
    /// An interrupted put was finished.
    pub resumed: bool,
    /// This very file was stored already; nothing was done.
    pub already: bool,
}

/// Stores a file. Resumes by itself when an interrupted put of the same unchanged file is found.
pub async fn put<C: Chain, N: Network>(
    client: Arc<Client<C, N>>,
    request: PutRequest,
    observer: Observer,
) -> Result<Stored, ClientError> {
    put_with(client, request, observer, |journal| journal).await
}

/// [`put`], with a hook on the journal for crash tests.
pub(crate) async fn put_with<C: Chain, N: Network>(
    client: Arc<Client<C, N>>,
    request: PutRequest,
    observer: Observer,
    journal_hook: impl FnOnce(Journal) -> Journal,
) -> Result<Stored, ClientError> {
    let _lock = WalletLock::take(&client.home)?;
    let source = Source::open(&request.source)?;
    let known = find(&client, &request, &source)?;
    if let Some((journal, head, Some(done))) = &known
        && !request.again
        && let Some(stored) = already_stored(&client, journal, head, done).await?
    {
        return Ok(stored);
    }
    let duration = match &known {
        Some((_, head, None)) => head.duration,
        _ => duration_of(&client.chain, &request)?,
    };
    let survey = Survey::take(&client, &request, duration).await?;
    let (journal, head, resumed) = match known {
        Some((journal, head, None)) => (journal, head, true),
        _ => {
            let (journal, head) = begin(&client, &request, &source, &survey).await?;
            (journal, head, false)
        }
    };
    let run = Run::new(client, journal_hook(journal), head, survey, observer)?;
    Arc::new(run).store(source, resumed).await
}

/// The put of this very file that is unfinished, or else the last finished one.
fn find<C: Chain, N: Network>(
    client: &Client<C, N>,
    request: &PutRequest,
    source: &Source,
) -> Result<Option<(Journal, Head, Option<Done>)>, ClientError> {
    let path = source.path().to_string_lossy();
    let mut finished = None;
    for (journal, head) in Journal::all(&client.home)? {
        let same = head.source == path
            && head.stamp == source.stamp()
            && head.account == client.wallet.address()
            && head.chain == client.chain.chain_id()
            && head.scheme()? == request.scheme
            && request.name.as_ref().is_none_or(|name| *name == head.name)
            && request.duration.is_none_or(|d| d == head.duration);
        if same {
            match journal.done()? {
                None => return Ok(Some((journal, head, None))),
                Some(done) => finished = Some((journal, head, Some(done))),
            }
        }
    }
    Ok(finished)
}

/// What a finished put stored, if enough of it is still under open deals.
async fn already_stored<C: Chain, N: Network>(
    client: &Client<C, N>,
    journal: &Journal,
    head: &Head,
    done: &Done,
) -> Result<Option<Stored>, ClientError> {
    let object = ObjectId(done.object);
    let objects = catalog::list(&client.chain, &client.wallet.address()).await?;
    let Some(found) = objects.into_iter().find(|entry| entry.object == object) else {
        return Ok(None);
    };
    let scheme = head.scheme()?;
    let plan_len = crate::object::cipher::sealed_len(head.stamp.len);
    let segments = plan_len.div_ceil(head.segment_len.max(1));
    if !found.readable(segments) || found.file_tag != journal.file_tag() {
        return Ok(None);
    }
    Ok(Some(Stored {
        object,
        name: head.name.clone(),
        bytes: head.stamp.len,
        k: scheme.k(),
        m: scheme.m(),
        segments,
        providers: found.providers().into_iter().collect(),
        deals: found.deals().count() as u64,
        max_cost: done.cost,
        resumed: false,
        already: true,
    }))
}

/// Draws the key and writes the journal's head: from here on the put can be resumed.
async fn begin<C: Chain, N: Network>(
    client: &Client<C, N>,
    request: &PutRequest,
    source: &Source,
    survey: &Survey,
) -> Result<(Journal, Head), ClientError> {
    let max_piece = survey.max_piece(request.scheme.n(), &request.scheme)?;
    let plan = SegmentPlan::new(request.scheme, source.stamp().len, max_piece)?;
    let name = checked_name(request, source.path());
    encoded_len(&name, plan.plain_len, plan.segment_len, plan.scheme).map_err(|error| {
        ClientError::TooLarge {
            bytes: plan.plain_len,
            reason: format!("{error}; providers with larger sectors or a smaller n would do"),
        }
    })?;
    let mut tag = [0; 16];
    OsRng.fill(&mut tag);
    let file_tag = FileTag(tag);
    let now = client.chain.now().await?;
    let beacon = client.chain.beacon(now.epoch).await?;
    let key = FileKey::generate(&mut OsRng);
    let head = Head::new(
        source.path(),
        source.stamp(),
        name,
        client.wallet.address(),
        client.chain.chain_id(),
        plan.scheme,
        plan.segment_len,
        survey.duration,
        Sha256::new()
            .chain_update(b"holdfast/placement-seed/v1")
            .chain_update(beacon)
            .chain_update(tag)
            .finalize()
            .into(),
        NoncePrefix::generate(&mut OsRng),
        client
            .wallet
            .manifest_key()
            .wrap(&key, &file_tag, &mut OsRng),
    );
    let journal = Journal::create(&client.home, file_tag, &head)?;
    Ok((journal, head))
}

/// How long the deals run: what was asked for, inside the chain's bounds, or the default.
fn duration_of<C: Chain>(chain: &C, request: &PutRequest) -> Result<EpochCount, ClientError> {
    let params = chain.params();
    let (least, most) = (params.min_deal.0, params.max_deal.0);
    match request.duration {
        None => Ok(EpochCount(
            (DEFAULT_PERIODS * params.proving_period.0).clamp(least, most),
        )),
        Some(epochs) if (least..=most).contains(&epochs.0) => Ok(epochs),
        Some(epochs) => Err(ClientError::Chain(ChainFailure::Refused(format!(
            "deals on this chain run for {least} to {most} epochs, not {}",
            epochs.0
        )))),
    }
}

/// The label: what was asked for or the file's own name, cut to the limit at a character.
fn checked_name(request: &PutRequest, path: &Path) -> String {
    let name = request.name.clone().unwrap_or_else(|| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    });
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// What the providers say.
#[derive(Debug)]
struct Survey {
    offers: BTreeMap<ProviderId, Offer>,
    refusals: Vec<String>,
    /// How long deals will run.
    duration: EpochCount,
}

#[derive(Clone, Debug)]
struct Offer {
    record: ProviderRecord,
    ask: Ask,
    /// Epochs from "now" to the earliest start, when asked.
    lead: EpochCount,
    /// Padded bytes of pieces that this put already gave it.
    assigned_bytes: u64,
    failures: u32,
}

impl Survey {
    /// Asks every provider for its terms, all at once.
    async fn take<C: Chain, N: Network>(
        client: &Arc<Client<C, N>>,
        request: &PutRequest,
        duration: EpochCount,
    ) -> Result<Self, ClientError> {
        let dearest = request.max_price_per_gib.unwrap_or(TokenAmount(u128::MAX));
        let now = client.chain.now().await?.epoch;
        let mut asks = JoinSet::new();
        for record in client.chain.providers().await? {
            let client = Arc::clone(client);
            asks.spawn(async move {
                let ask = ask(&client.network, &record).await;
                (record, ask)
            });
        }
        let mut survey = Self {
            offers: BTreeMap::new(),
            refusals: Vec::new(),
            duration,
        };
        while let Some(answer) = asks.join_next().await {
            match answer.map_err(ClientError::task)? {
                (record, Ok(ask)) if ask.price_per_gib > dearest => {
                    survey.refusals.push(format!(
                        "provider {} asks {} per GiB and epoch",
                        record.id,
                        ask.price_per_gib.in_tokens()
                    ));
                }
                (record, Ok(ask)) => {
                    let offer = Offer {
                        lead: ask.earliest_start.since(now),
                        record,
                        ask,
                        assigned_bytes: 0,
                        failures: 0,
                    };
                    survey.offers.insert(offer.record.id, offer);
                }
                (record, Err(reason)) => survey
                    .refusals
                    .push(format!("provider {}: {reason}", record.id)),
            }
        }
        survey.refusals.sort();
        Ok(survey)
    }

    /// Largest padded piece that n providers take.
    fn max_piece(&self, n: usize, scheme: &Scheme) -> Result<u64, ClientError> {
        let mut sizes: Vec<u64> = self
            .offers
            .values()
            .map(|o| o.ask.sector_size.bytes())
            .collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        match sizes.get(n - 1) {
            Some(size) => Ok(piece_limit(*scheme, *size)),
            None => Err(self.too_few(PlacementError {
                wanted: n,
                found: sizes.len(),
                candidates: sizes.len() + self.refusals.len(),
                refused: self.refusals.len(),
                crowded: 0,
            })),
        }
    }

    fn too_few(&self, error: PlacementError) -> ClientError {
        ClientError::Placement {
            error,
            refusals: self.refusals.clone(),
        }
    }

    fn candidates(&self, size: PaddedPieceSize) -> Vec<Candidate> {
        let offers = self.offers.values();
        offers
            .map(|offer| offer.candidate(size, self.duration))
            .collect()
    }

    /// Chooses providers for a group and remembers what they were given.
    fn choose(
        &mut self,
        count: usize,
        size: PaddedPieceSize,
        seed: &[u8; 32],
        excluded: &BTreeSet<u64>,
        keeping: &[ProviderId],
    ) -> Result<Vec<ProviderId>, ClientError> {
        let candidates = self.candidates(size);
        let need = Need {
            count,
            piece_size: size.bytes(),
            max_price: u128::MAX,
        };
        let taken: Vec<&Candidate> = candidates
            .iter()
            .filter(|c| keeping.contains(&ProviderId(c.provider)))
            .collect();
        let chosen = place(&candidates, &need, seed, excluded, &taken)
            .map_err(|error| self.too_few(error))?;
        for provider in &chosen {
            if let Some(offer) = self.offers.get_mut(&ProviderId(*provider)) {
                offer.assigned_bytes += size.bytes();
            }
        }
        Ok(chosen.into_iter().map(ProviderId).collect())
    }
}

impl Offer {
    fn candidate(&self, size: PaddedPieceSize, duration: EpochCount) -> Candidate {
        let lasts = (self.ask.min_duration..=self.ask.max_duration).contains(&duration);
        let free = self.ask.free_bytes.saturating_sub(self.assigned_bytes);
        Candidate {
            provider: self.record.id.0,
            owner: self.record.owner.0,
            hosts: self.record.addrs.iter().map(|addr| addr.ip()).collect(),
            free_bytes: if lasts && self.ask.takes(size) {
                free
            } else {
                0
            },
            max_piece: self.ask.sector_size.bytes(),
            price: self.ask.price(size).0,
            failures: self.failures,
        }
    }
}

/// Asks a provider for its terms, for a limited time.
async fn ask<N: Network>(network: &N, of: &ProviderRecord) -> Result<Ask, String> {
    let answer = tokio::time::timeout(SURVEY_TIMEOUT, network.ask(of)).await;
    answer.unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// One put, running.
struct Run<C, N> {
    client: Arc<Client<C, N>>,
    journal: Journal,
    head: Head,
    scheme: Scheme,
    plan: SegmentPlan,
    survey: Mutex<Survey>,
    /// Cost of deals that are planned or signed and not yet seen on chain. Held while money moves.
    unpublished: Mutex<TokenAmount>,
    observer: Observer,
}

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
    fn new(
        client: Arc<Client<C, N>>,
        journal: Journal,
        head: Head,
        survey: Survey,
        observer: Observer,
    ) -> Result<Self, ClientError> {
        let scheme = head.scheme()?;
        let plan = SegmentPlan {
            scheme,
            plain_len: head.stamp.len,
            segment_len: head.segment_len,
        };
        Ok(Self {
            client,
            journal,
            scheme,
            plan,
            survey: Mutex::new(survey),
            unpublished: Mutex::new(TokenAmount::ZERO),
            observer,
            head,
        })
    }

    /// The story: fund, store every segment, store the manifest, done.
    async fn store(self: Arc<Self>, source: Source, resumed: bool) -> Result<Stored, ClientError> {
        self.plan_and_fund(resumed).await?;
        let plain_hash = self.clone().store_segments(source).await?;
        let (object, manifest) = self.manifest(plain_hash)?;
        let parts = self.clone().store_manifest(object).await?;
        let stored = self.summary(object, &manifest, &parts, resumed)?;
        let sealed = self.journal.manifest()?;
        if let Some((_, sealed)) = &sealed {
            catalog::remember(&self.client.home, &object, sealed);
        }
        self.journal
            .write_done(&Done::new(object, stored.max_cost))?;
        Ok(stored)
    }

    /// Computes what all deals can cost at most, and sees to it that escrow covers what is not yet published.
    async fn plan_and_fund(&self, resumed: bool) -> Result<(), ClientError> {
        let (mut unpublished, mut total, mut stored) = (0u128, 0u128, 0);
        let manifest_len = encoded_len(
            &self.head.name,
            self.plan.plain_len,
            self.plan.segment_len,
            self.scheme,
        )? + crate::object::manifest::SEAL_OVERHEAD_BYTES;
        let part_len = self.part_payload();
        let mut parts: Vec<(Part, u64)> = Vec::new();
        for segment in 0..self.plan.segments() {
            parts.push((
                Part::Data(segment),
                self.plan.geometry(segment)?.shard_len(),
            ));
        }
        for (index, start) in (0..manifest_len as u64)
            .step_by(part_len as usize)
            .enumerate()
        {
            let bytes = (manifest_len as u64 - start).min(part_len);
            parts.push((Part::Manifest(index as u64), bytes));
        }
        for (part, bytes) in parts {
            match self.journal.segment(part)? {
                Some(record) => {
                    stored += u64::from(record.stored && matches!(part, Part::Data(_)));
                    for shard in &record.shards {
                        let attempt = shard.live();
                        let cost = cost_of(&attempt.proposal.proposal).0;
                        total = total.saturating_add(cost);
                        if !record.stored
                            && self.client.chain.deal(&attempt.deal()).await?.is_none()
                        {
                            unpublished = unpublished.saturating_add(cost);
                        }
                    }
                }
                None => {
                    let cost = self.dearest(bytes).await;
                    total = total.saturating_add(cost);
                    unpublished = unpublished.saturating_add(cost);
                }
            }
        }
        if resumed {
            (self.observer)(PutEvent::Resumed { stored });
        }
        (self.observer)(PutEvent::Planned {
            bytes: self.plan.plain_len,
            segments: self.plan.segments(),
            scheme: self.scheme,
            providers: self.survey.lock().await.offers.len(),
            cost: TokenAmount(total),
        });
        let mut money = self.unpublished.lock().await;
        *money = TokenAmount(unpublished);
        self.fund(*money).await
    }

    /// What n pieces of `bytes` unpadded bytes cost at most: the n dearest offers that could be chosen.
    async fn dearest(&self, bytes: u64) -> u128 {
        let size = padded_size(bytes);
        let survey = self.survey.lock().await;
        let offers = survey.offers.values();
        let mut prices: Vec<u128> = offers.map(|offer| offer.ask.price(size).0).collect();
        prices.sort_unstable_by(|a, b| b.cmp(a));
        let per_epoch = prices
            .iter()
            .take(self.scheme.n())
            .fold(0u128, |sum, price| sum.saturating_add(*price));
        per_epoch.saturating_mul(u128::from(self.head.duration.0))
    }

    /// Moves free money to escrow until `need` is unlocked there. The deposit is durable before it is sent.
    async fn fund(&self, need: TokenAmount) -> Result<(), ClientError> {
        let chain = &self.client.chain;
        let address = self.client.wallet.address();
        if let Some(earlier) = self.journal.funding()? {
            let unused = chain.money(&address).await?.nonce <= earlier.tx.nonce;
            if unused && chain.now().await?.height < earlier.tx.valid_until_height {
                // Resubmitted: if it was on its way, it is still one transaction. A refusal shows in the balance below.
                let _ = chain.execute(&earlier).await;
            }
        }
        let money = chain.money(&address).await?;
        let missing = need.minus_or_zero(money.unlocked());
        if missing.is_zero() {
            return Ok(());
        }
        if money.free < missing {
            return Err(ClientError::Money {
                need: missing,
                have: money.free,
            });
        }
        (self.observer)(PutEvent::Funding(missing));
        let deposit = Message::MarketDeposit {
            to: address,
            amount: missing,
        };
        let now = chain.now().await?;
        let tx = chain.sign(&self.client.wallet, money.next_nonce, now, vec![deposit]);
        self.journal.write_funding(&tx)?;
        Ok(chain.execute(&tx).await?)
    }

    /// Codes and stores every segment; a few are in flight while the next is coded. Returns the plaintext's hash.
    async fn store_segments(self: Arc<Self>, source: Source) -> Result<[u8; 32], ClientError> {
        let key = self.file_key()?;
        let cipher = Cipher::new(&key, &self.head.nonce_prefix, self.plan.plain_len)
            .map_err(|error| ClientError::Bug(error.to_string()))?;
        let mut encoder = SegmentEncoder::new(source, self.plan, cipher);
        let in_flight = Arc::new(Semaphore::new(self.segments_in_flight()?));
        let mut running: JoinSet<Result<(), ClientError>> = JoinSet::new();
        for segment in 0..self.plan.segments() {
            let part = Part::Data(segment);
            let known = self.journal.segment(part)?;
            if let Some(SegmentRecord {
                stored: true,
                mark: Some(mark),
                ..
            }) = known
            {
                encoder = self
                    .blocking(encoder, move |encoder, tell| {
                        encoder.check_mark(&mark, tell)
                    })
                    .await?
                    .0;
                continue;
            }
            let permit = loop {
                tokio::select! {
                    permit = Arc::clone(&in_flight).acquire_owned() => break permit,
                    Some(ended) = running.join_next() => ended.map_err(ClientError::task)??,
                }
            };
            let permit = permit.map_err(|error| ClientError::Bug(error.to_string()))?;
            let dir = self.journal.dir().to_owned();
            let (back, staged) = self
                .blocking(encoder, move |encoder, tell| {
                    encoder.encode(segment, &dir, tell)
                })
                .await?;
            encoder = back;
            let fresh = known.is_none();
            let record = match known {
                Some(record) => {
                    self.same_roots(&record, &staged.shards)?;
                    record
                }
                None => self.sign(part, &staged.shards, Some(staged.mark)).await?,
            };
            let run = Arc::clone(&self);
            running.spawn(async move {
                run.store_part(part, record, staged.shards, fresh).await?;
                remove_staged(run.journal.dir(), segment, run.scheme.n());
                (run.observer)(PutEvent::SegmentStored(segment));
                drop(permit);
                Ok(())
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(ClientError::task)??;
        }
        let observer = Arc::clone(&self.observer);
        tokio::task::spawn_blocking(move || {
            encoder.finish(&|bytes| observer(PutEvent::Coded(bytes)))
        })
        .await
        .map_err(ClientError::task)?
    }

    fn file_key(&self) -> Result<FileKey, ClientError> {
        let key = self.client.wallet.manifest_key();
        Ok(key.unwrap_key(&self.head.key, &self.journal.file_tag())?)
    }

    /// Runs a step of the encoder off the I/O threads.
    async fn blocking<T: Send + 'static>(
        &self,
        mut encoder: SegmentEncoder,
        step: impl FnOnce(&mut SegmentEncoder, &(dyn Fn(u64) + Sync)) -> Result<T, ClientError>
        + Send
        + 'static,
    ) -> Result<(SegmentEncoder, T), ClientError> {
        let observer = Arc::clone(&self.observer);
        tokio::task::spawn_blocking(move || {
            let outcome = step(&mut encoder, &|bytes| observer(PutEvent::Coded(bytes)))?;
            Ok((encoder, outcome))
        })
        .await
        .map_err(ClientError::task)?
    }

    fn segments_in_flight(&self) -> Result<usize, ClientError> {
        let staged = self.plan.geometry(0)?.shard_len() * self.scheme.n() as u64;
        let by_disk = (STAGING_BUDGET_BYTES / staged.max(1)).max(2);
        Ok(SEGMENTS_IN_FLIGHT.min(usize::try_from(by_disk).unwrap_or(usize::MAX)))
    }

    /// A resumed segment must code to what was signed.
    fn same_roots(
        &self,
        record: &SegmentRecord,
        staged: &[StagedShard],
    ) -> Result<(), ClientError> {
        let same = record.shards.len() == staged.len()
            && record.shards.iter().zip(staged).all(|(known, now)| {
                known.comm_p == now.comm_p
                    && known.blake3_root == now.blake3_root
                    && known.bytes == now.bytes
            });
        if same {
            Ok(())
        } else {
            Err(ClientError::Changed(PathBuf::from(&self.head.source)))
        }
    }

    /// Chooses providers and signs one proposal per shard; durable before it returns.
    async fn sign(
        &self,
        part: Part,
        staged: &[StagedShard],
        mark: Option<super::encode::PlainMark>,
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
            let proposal = self
                .proposal(part, index, 0, shard, provider, group, start, collateral)
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
    async fn refresh_leads(&self, providers: &[ProviderId]) {
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

    fn part_seed(&self, part: Part) -> [u8; 32] {
        let (kind, index) = match part {
            Part::Data(index) => (0u8, index),
            Part::Manifest(index) => (1, index),
        };
        Sha256::new()
            .chain_update(self.head.placement_seed)
            .chain_update([kind])
            .chain_update(index.to_be_bytes())
            .finalize()
            .into()
    }

    /// The first epoch of a group: the largest lead of its providers from now on, with a deadline's slack.
    async fn start_for(&self, providers: &[ProviderId]) -> Result<Epoch, ClientError> {
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

    async fn collateral(&self, size: PaddedPieceSize) -> Result<TokenAmount, ClientError> {
        let least = self.client.chain.collateral(size.bytes()).await?.0;
        Ok(TokenAmount(
            least
                .saturating_add(least / COLLATERAL_SLACK)
                .saturating_add(1),
        ))
    }

    fn group(&self, part: Part, staged: &[StagedShard]) -> DealGroup {
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
    async fn proposal(
        &self,
        part: Part,
        index: usize,
        attempt: usize,
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
            verified: false,
            label: self.label(part, index, shard.bytes)?.to_string(),
            client_nonce: self.client_nonce(part, index, attempt),
        })
    }

    fn label(&self, part: Part, shard: usize, bytes: u64) -> Result<Label, ClientError> {
        let file_tag = self.journal.file_tag();
        Ok(match part {
            Part::Data(segment) => Label::Data {
                file_tag,
                segment,
                shard: shard as u8,
                bytes,
            },
            Part::Manifest(part) => {
                let (object, sealed) = self.sealed_manifest()?;
                Label::Manifest {
                    object,
                    file_tag,
                    part: part as u32,
                    parts: (sealed.len() as u64).div_ceil(self.part_payload()) as u32,
                    bytes,
                }
            }
        })
    }

    /// The same for the same try of the same shard, and for no other.
    fn client_nonce(&self, part: Part, shard: usize, attempt: usize) -> u64 {
        let digest = Sha256::new()
            .chain_update(b"holdfast/client-nonce/v1")
            .chain_update(self.journal.file_tag().0)
            .chain_update(self.part_seed(part))
            .chain_update((shard as u64).to_be_bytes())
            .chain_update((attempt as u64).to_be_bytes())
            .finalize();
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(nonce)
    }

    /// Pushes until every shard of a part is published, reads every one back, and marks the part stored. `fresh` is false when an
    /// earlier run may have sent the proposals.
    async fn store_part(
        &self,
        part: Part,
        mut record: SegmentRecord,
        staged: Vec<StagedShard>,
        fresh: bool,
    ) -> Result<SegmentRecord, ClientError> {
        let mut watched = Watched::new(&staged, fresh);
        let mut published = BTreeSet::new();
        while published.len() < record.shards.len() {
            self.push_missing(part, &mut record, &staged, &mut watched, &published)
                .await?;
            self.await_published(part, &mut record, &staged, &mut watched, &mut published)
                .await?;
        }
        self.read_back(&record).await?;
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
            // Refused or never reached in this run, and not sent by an earlier one: it has nothing to publish.
            if !watch.may_be_whole()
                && (tries >= PUSH_TRIES || matches!(reason, PushError::Refused(_)))
            {
                return Ok(Turn::Replace(reason.to_string()));
            }
            if self.client.chain.deal(&deal).await?.is_some() {
                return Ok(Turn::OnChain);
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

    /// Gives a shard to another provider: signs, funds; the caller makes it durable before it is pushed.
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
        let retry = self.fresh_ask(from, record, index).await;
        let to = if retry {
            from
        } else {
            let mut survey = self.survey.lock().await;
            if let Some(offer) = survey.offers.get_mut(&from) {
                offer.failures += 1;
            }
            survey.refusals.push(format!("provider {from}: {reason}"));
            let tried = record.shards[index].attempts.iter();
            let excluded: BTreeSet<u64> = tried
                .map(|attempt| attempt.proposal.proposal.provider.0)
                .chain(keeping.iter().map(|id| id.0))
                .collect();
            survey.choose(1, size, &self.part_seed(part), &excluded, &keeping)?[0]
        };
        let start = self.start_for(&[to]).await?;
        let attempt = record.shards[index].attempts.len();
        let group = self.group(part, staged);
        let collateral = self.collateral(size).await?;
        let proposal = self
            .proposal(
                part,
                index,
                attempt,
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

    /// A provider that refused once gets a second chance with its newest terms: a backlog grows while a long put runs.
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
        let changed = ask.earliest_start.since(now.epoch) > offer.lead
            || ask.price_per_gib != offer.ask.price_per_gib;
        if changed && let Some(offer) = self.survey.lock().await.offers.get_mut(&id) {
            offer.lead = ask.earliest_start.since(now.epoch);
            offer.ask = ask;
        }
        changed
    }

    /// Reads a random range of every shard from its holder.
    async fn read_back(&self, record: &SegmentRecord) -> Result<(), ClientError> {
        let reads = record.shards.iter().map(|shard| self.read_back_one(shard));
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

    /// The manifest of what is stored; sealed and durable.
    fn manifest(&self, plain_hash: [u8; 32]) -> Result<(ObjectId, Manifest), ClientError> {
        let mut shards = Vec::new();
        for segment in 0..self.plan.segments() {
            let record = self
                .journal
                .segment(Part::Data(segment))?
                .filter(|record| record.stored)
                .ok_or_else(|| ClientError::Bug(format!("segment {segment} is not stored")))?;
            shards.extend(record.shards.iter().map(|shard| Shard {
                comm_p: shard.comm_p.0,
                blake3_root: shard.blake3_root,
                provider: shard.live().proposal.proposal.provider.0,
                deal: shard.live().deal().0,
            }));
        }
        let manifest = Manifest {
            name: self.head.name.clone(),
            plain_len: self.plan.plain_len,
            plain_hash,
            scheme: self.scheme,
            nonce_prefix: self.head.nonce_prefix,
            key: self.head.key.clone(),
            file_tag: self.journal.file_tag(),
            segment_len: self.plan.segment_len,
            shards,
        };
        let object = manifest.id();
        match self.journal.manifest()? {
            Some((known, _)) if known == object.0 => {}
            // A sealed manifest of other content means the file changed between two runs.
            Some(_) => return Err(ClientError::Changed(PathBuf::from(&self.head.source))),
            None => {
                let key = self.client.wallet.manifest_key();
                let sealed = SealedManifest::seal(&manifest, &key, &mut OsRng);
                self.journal.write_manifest(object, &sealed.0)?;
            }
        }
        Ok((object, manifest))
    }

    fn sealed_manifest(&self) -> Result<(ObjectId, Vec<u8>), ClientError> {
        let (object, sealed) = self
            .journal
            .manifest()?
            .ok_or_else(|| ClientError::Bug("the manifest is not sealed yet".into()))?;
        Ok((ObjectId(object), sealed))
    }

    /// Bytes of the sealed manifest in one part: what a piece of a data shard's limit holds.
    fn part_payload(&self) -> u64 {
        let shard = padded_size(self.plan.segment_len.div_ceil(self.scheme.k() as u64)).bytes();
        // At least what the smallest sector takes, so that a small file's manifest stays in one part.
        let limit = shard.max(2048);
        payload_of(piece_limit(self.scheme, limit))
    }

    /// Stores the parts of the sealed manifest, n copies of each.
    async fn store_manifest(
        self: Arc<Self>,
        object: ObjectId,
    ) -> Result<Vec<SegmentRecord>, ClientError> {
        let (_, sealed) = self.sealed_manifest()?;
        let payload = self.part_payload() as usize;
        let parts = sealed.len().div_ceil(payload) as u64;
        (self.observer)(PutEvent::Manifest { parts });
        let mut records = Vec::new();
        for (index, bytes) in sealed.chunks(payload).enumerate() {
            let part = Part::Manifest(index as u64);
            let known = self.journal.segment(part)?;
            if let Some(record) = known.as_ref().filter(|record| record.stored) {
                records.push(record.clone());
                continue;
            }
            let copy = stage_in_memory(bytes.to_vec())?;
            let staged = vec![copy; self.scheme.n()];
            let fresh = known.is_none();
            let record = match known {
                Some(record) => {
                    self.same_roots(&record, &staged)?;
                    record
                }
                None => self.sign(part, &staged, None).await?,
            };
            records.push(self.store_part(part, record, staged, fresh).await?);
        }
        tracing::debug!(%object, parts, "manifest stored");
        Ok(records)
    }

    fn summary(
        &self,
        object: ObjectId,
        manifest: &Manifest,
        parts: &[SegmentRecord],
        resumed: bool,
    ) -> Result<Stored, ClientError> {
        let mut providers = BTreeSet::new();
        let (mut cost, mut deals) = (0u128, 0);
        let data = (0..self.plan.segments())
            .map(|segment| self.journal.segment(Part::Data(segment)))
            .collect::<Result<Vec<_>, _>>()?;
        for shard in data.iter().flatten().chain(parts).flat_map(|r| &r.shards) {
            let proposal = &shard.live().proposal.proposal;
            providers.insert(proposal.provider);
            cost = cost.saturating_add(cost_of(proposal).0);
            deals += 1;
        }
        Ok(Stored {
            object,
            name: manifest.name.clone(),
            bytes: manifest.plain_len,
            k: self.scheme.k(),
            m: self.scheme.m(),
            segments: self.plan.segments(),
            providers: providers.into_iter().collect(),
            deals,
            max_cost: TokenAmount(cost),
            resumed,
            already: false,
        })
    }
}

/// The most a deal can cost its client.
fn cost_of(proposal: &DealProposal) -> TokenAmount {
    let epochs = u128::from(proposal.duration().0);
    TokenAmount(proposal.price.0.saturating_mul(epochs))
}

/// Awaits all futures at once and gives their results in order.
async fn futures_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
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

/// How far each shard's bytes left the disk.
struct Watched {
    shards: Vec<Watch>,
}

impl Watched {
    fn new(staged: &[StagedShard], fresh: bool) -> Self {
        let shards = staged.iter();
        Self {
            shards: shards.map(|shard| Watch::new(shard.bytes, fresh)).collect(),
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
