//! Put: encrypt, code, place, push, publish, read back, and only then say *stored*.
//!
//! Walk: from `cli::put` through [`crate::object`] and `retrieval::push` to `chain_lite::deal::publish`.
//!
//! Walk: the first row of `STYLE.md`'s table; steps are [`super::encode`], [`crate::object::placement`], `retrieval::push`,
//! `chain_lite::deal::publish`. Spec: `DESIGN.md` §3, §6; `threat-model.md` C4, P23, Y1, H1.
//!
//! ```text
//! survey ─ plan ─ fund ─┬─ segment 0: code ─ sign ─ push n ─ acks ─┬─ published ─ read back ─┐
//!                       ├─ segment 1: …        (a few in flight)   │                          ├─ done
//!                       └─ …                                       └─ manifest, the same way ─┘
//! ```
//!
//! *Stored* means: every one of the n holders signed for both roots, published the deal on chain, and served a random range that
//! verified, for every segment and every part of the manifest.
//!
//! **One charge.** What is signed is durable before it is sent ([`super::journal`]). A shard goes to another provider only when
//! the first one said no, was never reached, cannot hold the whole piece (its last byte never left the disk), or can no longer
//! publish (`now >= start`). All offers of one shard carry one nonce, and the chain publishes one deal under it: that holds whatever
//! a provider says or does. In every other case the same proposal is offered again, and the wait is told to the observer. When no
//! other provider is left, those that failed are asked again under the same rule (`deliver`), a bounded number of times.
//!
//! Memory: [`super::encode`]'s batch and outboards per segment in flight, plus the transport's send windows. Disk: n shards per
//! segment in flight. Crash: at any instruction; run the same command again.

mod deliver;
pub mod repair;
mod sign;
mod survey;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chain_lite::account::ProviderId;
use chain_lite::message::{DealProposal, Message};
use chain_lite::units::{Epoch, EpochCount, StoragePower, TokenAmount};
use rand::Rng;
use rand::rngs::OsRng;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use self::survey::Survey;
use super::encode::{
    SegmentEncoder, SegmentPlan, Source, StagedShard, padded_size, payload_of, piece_limit,
    remove_staged, stage_in_memory,
};
use super::journal::{Done, Head, Journal, Part, SegmentRecord};
use super::outbox::Outbox;
use super::{Chain, ChainFailure, Client, ClientError, Network, catalog};
use crate::object::cipher::{Cipher, FileKey, NoncePrefix};
use crate::object::erasure::Scheme;
use crate::object::manifest::{
    FileTag, MAX_NAME_BYTES, Manifest, ObjectId, SealedManifest, Shard, encoded_len,
};
use crate::object::placement::put_seed;

/// Segments that are pushed, published or read back while the next one is coded.
const SEGMENTS_IN_FLIGHT: usize = 6;
/// Staging space that the segments in flight may take together, unless two are larger.
const STAGING_BUDGET_BYTES: u64 = 2 << 30;
/// Default length of a deal in proving periods.
const DEFAULT_PERIODS: u64 = 30;

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
    /// Whether the deals are verified ones, which take the account's DataCap (`chain.md` §12).
    pub verified: bool,
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
    /// No other provider is left: after a pause those that were tried are asked again.
    Again {
        /// Who failed last.
        provider: ProviderId,
        /// How often this shard's providers will be asked again after this time.
        rounds_left: u32,
        /// What is wrong.
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
    let outbox = Arc::new(Outbox::open(&client.home, &client.chain.chain_id())?);
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
        Some((journal, head, None)) => {
            journal.settle()?;
            (journal, head, true)
        }
        _ => {
            let (journal, head) = begin(&client, &request, &source, &survey).await?;
            (journal, head, false)
        }
    };
    let verified = journal.verified()?;
    let run = Run::new(
        client,
        Arc::clone(&outbox),
        journal,
        head,
        survey,
        observer,
        verified,
    )?;
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
            let done = journal.done()?;
            // What goes on must be what was asked for; what is stored may be more than that.
            let more = done.is_some() && !request.verified;
            if journal.verified()? != request.verified && !more {
                continue;
            }
            match done {
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
        put_seed(&beacon, &tag),
        NoncePrefix::generate(&mut OsRng),
        client
            .wallet
            .manifest_key()
            .wrap(&key, &file_tag, &mut OsRng),
    );
    let journal = Journal::create(&client.home, file_tag, &head, now.epoch, request.verified)?;
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

/// One put, running.
struct Run<C, N> {
    client: Arc<Client<C, N>>,
    /// What other commands of this wallet have left.
    outbox: Arc<Outbox>,
    journal: Journal,
    head: Head,
    scheme: Scheme,
    plan: SegmentPlan,
    survey: Mutex<Survey>,
    /// Cost of deals that are planned or signed and not yet seen on chain. Held while money moves.
    unpublished: Mutex<TokenAmount>,
    observer: Observer,
    /// Whether its deals are verified ones.
    verified: bool,
    /// The epoch whose beacon seeds the placement, if it is known.
    drawn: Option<Epoch>,
}

impl<C: Chain, N: Network> Run<C, N> {
    fn new(
        client: Arc<Client<C, N>>,
        outbox: Arc<Outbox>,
        journal: Journal,
        head: Head,
        survey: Survey,
        observer: Observer,
        verified: bool,
    ) -> Result<Self, ClientError> {
        let scheme = head.scheme()?;
        let plan = SegmentPlan {
            scheme,
            plain_len: head.stamp.len,
            segment_len: head.segment_len,
        };
        let drawn = journal.drawn()?;
        Ok(Self {
            client,
            outbox,
            journal,
            scheme,
            plan,
            survey: Mutex::new(survey),
            unpublished: Mutex::new(TokenAmount::ZERO),
            observer,
            head,
            verified,
            drawn,
        })
    }

    /// [`Self::store_all`]; when it returns, nothing of it runs any more, so the wallet's lock may go.
    async fn store(self: Arc<Self>, source: Source, resumed: bool) -> Result<Stored, ClientError> {
        let mut running = JoinSet::new();
        let stored = self.store_all(source, resumed, &mut running).await;
        running.shutdown().await;
        stored
    }

    /// The story: fund, store every segment, store the manifest, done.
    async fn store_all(
        self: Arc<Self>,
        source: Source,
        resumed: bool,
        running: &mut JoinSet<Result<(), ClientError>>,
    ) -> Result<Stored, ClientError> {
        self.plan_and_fund(resumed).await?;
        let plain_hash = self.clone().send_segments(source, running).await?;
        let (object, manifest) = self.manifest(plain_hash)?;
        // The manifest travels while the last segments are published and read back: one wait for a block instead of two.
        let parts = self.clone().store_manifest(object).await?;
        while let Some(ended) = running.join_next().await {
            ended.map_err(ClientError::task)??;
        }
        let stored = self.summary(object, &manifest, &parts, resumed)?;
        let sealed = self.journal.manifest()?;
        if let Some((_, sealed)) = &sealed {
            catalog::remember(&self.client.home, &object, &sealed.0);
        }
        self.journal
            .write_done(&Done::new(object, stored.max_cost))?;
        Ok(stored)
    }

    /// Computes what all deals can cost at most, and sees to it that escrow covers what is not yet published.
    async fn plan_and_fund(&self, resumed: bool) -> Result<(), ClientError> {
        let (mut unpublished, mut total, mut stored) = (0u128, 0u128, 0);
        let mut verified = 0u128;
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
                            verified += verified_bytes(&attempt.proposal.proposal);
                        }
                    }
                }
                None => {
                    let cost = self.dearest(bytes).await;
                    total = total.saturating_add(cost);
                    unpublished = unpublished.saturating_add(cost);
                    if self.verified {
                        let size = u128::from(padded_size(bytes).bytes());
                        verified += size * self.scheme.n() as u128;
                    }
                }
            }
        }
        self.require_datacap(StoragePower(verified)).await?;
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
        unpublished = unpublished.saturating_add(self.abandoned().await?);
        let mut money = self.unpublished.lock().await;
        *money = TokenAmount(unpublished);
        self.fund(*money).await
    }

    /// Whether the account holds what the verified deals will take. The chain skips those that it does not.
    async fn require_datacap(&self, need: StoragePower) -> Result<(), ClientError> {
        if need.is_zero() {
            return Ok(());
        }
        let have = self.client.chain.datacap(&self.head.account).await?;
        match have < need {
            true => Err(ClientError::DataCap { need, have }),
            false => Ok(()),
        }
    }

    /// What proposals of other, unfinished puts may still lock: their providers can publish until the start, and would
    /// take the escrow that this put counts on.
    async fn abandoned(&self) -> Result<u128, ClientError> {
        let now = self.client.chain.now().await?.epoch;
        let mut sum = 0u128;
        for (journal, head) in Journal::all(&self.client.home)? {
            let other = journal.file_tag() != self.journal.file_tag()
                && head.account == self.head.account
                && head.chain == self.head.chain
                && journal.done()?.is_none();
            if !other {
                continue;
            }
            for attempt in journal.live_attempts()? {
                let proposal = &attempt.proposal.proposal;
                let open = now < proposal.start
                    && self.client.chain.deal(&attempt.deal()).await?.is_none();
                if open {
                    sum = sum.saturating_add(cost_of(proposal).0);
                }
            }
        }
        Ok(sum)
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

    /// Moves free money to escrow until `need` is unlocked there. The deposit is durable before it is sent: here, and in the
    /// outbox, where the wallet's other commands find what carries the same nonce.
    async fn fund(&self, need: TokenAmount) -> Result<(), ClientError> {
        let chain = &self.client.chain;
        let address = self.client.wallet.address();
        // Before the money is looked at, which it may move.
        let left = chain.follow(&self.outbox, &address).await?;
        let earlier = self.journal.funding()?;
        let mut refused = None;
        if let Some(earlier) = &earlier {
            let unused = chain.money(&address).await?.nonce <= earlier.tx.nonce;
            if unused && chain.now().await?.height < earlier.tx.valid_until_height {
                // Resubmitted: if it was on its way, it is still one transaction. A refusal shows in the balance below.
                self.outbox.add(earlier)?;
                refused = chain.execute(earlier).await.err();
            }
            if chain.money(&address).await?.nonce > earlier.tx.nonce {
                self.outbox.ended(earlier)?;
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
        let deposit = vec![Message::MarketDeposit {
            to: address,
            amount: missing,
        }];
        let left = left.filter(|nonce| *nonce >= money.nonce);
        let nonce = left.unwrap_or(money.next_nonce);
        // Signed already.
        if let (Some(earlier), Some(why)) = (earlier, refused)
            && (earlier.tx.nonce, &earlier.tx.msgs) == (nonce, &deposit)
        {
            return Err(why.into());
        }
        (self.observer)(PutEvent::Funding(missing));
        let now = chain.now().await?;
        let tx = chain.sign(&self.client.wallet, nonce, now, deposit);
        self.journal.write_funding(&tx)?;
        self.outbox.add(&tx)?;
        chain.execute(&tx).await?;
        self.outbox.ended(&tx)
    }

    /// Codes and sends every segment; a few are in flight while the next is coded. Returns the plaintext's hash when every shard
    /// is acknowledged; what is left in `running` then is publication and reading back.
    async fn send_segments(
        self: Arc<Self>,
        source: Source,
        running: &mut JoinSet<Result<(), ClientError>>,
    ) -> Result<[u8; 32], ClientError> {
        let key = self.file_key()?;
        let cipher = Cipher::new(&key, &self.head.nonce_prefix, self.plan.plain_len)
            .map_err(|error| ClientError::Bug(error.to_string()))?;
        let mut encoder = SegmentEncoder::new(source, self.plan, cipher);
        let in_flight = Arc::new(Semaphore::new(self.segments_in_flight()?));
        let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel();
        let mut sending = 0;
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
            let acknowledged = acknowledged.clone();
            sending += 1;
            running.spawn(async move {
                run.store_part(part, record, staged.shards, fresh, Some(acknowledged))
                    .await?;
                remove_staged(run.journal.dir(), segment, run.scheme.n());
                (run.observer)(PutEvent::SegmentStored(segment));
                drop(permit);
                Ok(())
            });
        }
        while sending > 0 {
            tokio::select! {
                biased;
                Some(()) = acknowledgements.recv() => sending -= 1,
                Some(ended) = running.join_next() => ended.map_err(ClientError::task)??,
            }
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

    /// The manifest of what is stored; sealed and durable.
    fn manifest(&self, plain_hash: [u8; 32]) -> Result<(ObjectId, Manifest), ClientError> {
        let manifest = self.describe(plain_hash)?;
        let key = self.client.wallet.manifest_key();
        let Some((object, sealed)) = self.journal.manifest()? else {
            let object = manifest.id();
            let sealed = SealedManifest::seal(&manifest, &key, &mut OsRng);
            self.journal.write_manifest(object, &sealed)?;
            return Ok((object, manifest));
        };
        // Sealed by an earlier run. Holders may have changed since, which the chain knows; the bytes may not have.
        let sealed = sealed.open(&object, &key)?;
        let roots = |manifest: &Manifest| -> Vec<[u8; 32]> {
            manifest
                .shards
                .iter()
                .map(|shard| shard.blake3_root)
                .collect()
        };
        if sealed.plain_hash != plain_hash || roots(&sealed) != roots(&manifest) {
            return Err(ClientError::Changed(PathBuf::from(&self.head.source)));
        }
        Ok((object, sealed))
    }

    /// The manifest of the segments as the journal has them.
    fn describe(&self, plain_hash: [u8; 32]) -> Result<Manifest, ClientError> {
        let mut shards = Vec::new();
        for segment in 0..self.plan.segments() {
            let record = self
                .journal
                .segment(Part::Data(segment))?
                .ok_or_else(|| ClientError::Bug(format!("segment {segment} was not sent")))?;
            shards.extend(record.shards.iter().map(|shard| Shard {
                comm_p: shard.comm_p.0,
                blake3_root: shard.blake3_root,
                provider: shard.live().proposal.proposal.provider.0,
                deal: shard.live().deal().0,
            }));
        }
        Ok(Manifest {
            name: self.head.name.clone(),
            plain_len: self.plan.plain_len,
            plain_hash,
            scheme: self.scheme,
            nonce_prefix: self.head.nonce_prefix,
            key: self.head.key.clone(),
            file_tag: self.journal.file_tag(),
            segment_len: self.plan.segment_len,
            shards,
        })
    }

    fn sealed_manifest(&self) -> Result<(ObjectId, Vec<u8>), ClientError> {
        let (object, sealed) = self
            .journal
            .manifest()?
            .ok_or_else(|| ClientError::Bug("the manifest is not sealed yet".into()))?;
        Ok((object, sealed.0))
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
            records.push(self.store_part(part, record, staged, fresh, None).await?);
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

/// DataCap that a proposal takes when it is published.
fn verified_bytes(proposal: &DealProposal) -> u128 {
    match proposal.verified {
        true => proposal.piece_size.bytes().into(),
        false => 0,
    }
}

/// The most a deal can cost its client.
fn cost_of(proposal: &DealProposal) -> TokenAmount {
    let epochs = u128::from(proposal.duration().0);
    TokenAmount(proposal.price.0.saturating_mul(epochs))
}
