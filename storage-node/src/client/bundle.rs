//! Collects an audit bundle: everything that [`chain_lite::bundle`] verifies, asked from one node and from the holders.
//!
//! Place: between `holdfast audit bundle` and the network. Nothing that comes back is believed here: the caller verifies the
//! finished bundle with the same function as everybody else, so a node that lies makes a bundle that is refused.
//!
//! 1. deals and where they are, from the node's views: hints only;
//! 2. read-back samples: each open deal's provider is asked for the leaves that the newest epoch's beacon names;
//! 3. one state with proofs, after the samples, so that their beacon is in an older block;
//! 4. proofs: a sector's PoRep in the block of its activation, a partition's window PoSt in its last window;
//! 5. the beacons that drew the holders, by the deals' own words, where the node still has their blocks;
//! 6. light blocks from the anchor to all of these, with the ones in between that the steps need.
//!
//! Cost: two calls a deal, one block read an epoch of the windows, one leaf proof (1.2 KB) a key. Memory: the bundle, [`MAX_KEPT_BYTES`] of
//! blocks, and the epoch of each block read. A state that moves on meanwhile is asked for again, [`TRIES`] times. A beacon value is looked for
//! in a bounded number of blocks ([`patience`]), so that a node with endless blocks is found out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use chain_lite::account::{Address, DealId, ProviderId};
use chain_lite::beacon::BeaconSchedule;
use chain_lite::block::FinalBlock;
use chain_lite::bundle::{
    Anchor, Bundle, ShownBeacon, ShownPorep, ShownSample, ShownWindow, trust_period_ms,
};
use chain_lite::codec;
use chain_lite::deal::Deal;
use chain_lite::events::{Event, EventRecord};
use chain_lite::execute::Receipt;
use chain_lite::genesis::{CheckedGenesis, Genesis};
use chain_lite::light::{Leaf, LightBlock, MAX_BATCH_LEAVES, StateBatch, Trusted};
use chain_lite::lit::Runs;
use chain_lite::merkle::{self, List};
use chain_lite::message::{Message, SignedTx};
use chain_lite::params::ChainParams;
use chain_lite::provider::Provider;
use chain_lite::query;
use chain_lite::randomness::Tag;
use chain_lite::sector::deadline::Schedule;
use chain_lite::sector::{Partition, Sector, SectorLeaf, SectorState};
use chain_lite::state::{MemoryState, key, read};
use chain_lite::units::{Epoch, EpochCount};
use holdfast_light::follow::{FollowError, Provider as LightProvider, follow};
use prover::{CommR, SectorNumber};

use super::catalog::{Held, by_id};
use super::live::record;
use super::{Network, possession};
use crate::chain::{ChainClient, ChainError};
use crate::object::manifest::Label;

/// How often a state that moved on is asked for again.
pub const TRIES: usize = 5;
/// Wait between them.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(300);
/// Most epochs of draws that are looked for: a put has one, and a repair may have another.
const MAX_DRAWS: usize = 16;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The node.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The node's answers contradict each other or what is trusted.
    #[error("the node's answers do not hold: {0}")]
    Lies(String),
    /// The state moved on each time.
    #[error(
        "the chain moves faster than its states can be read here ({0}); ask a node that is nearer, or try again"
    )]
    Moving(String),
    /// A beacon value came later than an audit looks for it, or the node hides it.
    #[error(
        "the beacon value of epoch {epoch} is in none of the {blocks} blocks after it: after so long an outage, audit when every sector was proven once more; else ask another node"
    )]
    Late {
        /// Whose value.
        epoch: Epoch,
        /// Looked through.
        blocks: u64,
    },
    /// What is needed lies before what is trusted.
    #[error(
        "block {height} is needed and lies before the checkpoint; begin at the genesis, or at an older checkpoint"
    )]
    TooNew {
        /// The block.
        height: u64,
    },
}

/// All deals that a node names: a client's, or every provider's.
pub async fn deals(
    chain: &ChainClient,
    client: Option<Address>,
) -> Result<Vec<(DealId, Deal)>, ChainError> {
    let mut views = Vec::new();
    match client {
        Some(client) => views = chain.deals_by_client(&client).await?,
        None => {
            for provider in chain.providers().await? {
                views.extend(chain.deals_by_provider(provider.provider.id).await?);
            }
        }
    }
    let deals: BTreeMap<DealId, Deal> = views.into_iter().map(|v| (v.id, v.deal)).collect();
    Ok(deals.into_iter().collect())
}

/// Asks the holders of these deals for leaves that the newest beacon names. Whoever does not answer is not sampled.
pub async fn samples<N: Network>(
    chain: &ChainClient,
    network: &N,
    deals: &[(DealId, Deal)],
) -> Result<Vec<ShownSample>, ChainError> {
    // The bundle will hold the beacon's own signature; a wrong value here makes samples that are refused.
    // In an outage of the beacon the newest block's epoch has none.
    let epoch = chain.network().await?.beacon_tip;
    let beacon = chain
        .randomness(Tag::Ticket as u64, epoch, ProviderId(0))
        .await?;
    let views = chain.providers().await?;
    let providers = by_id(views.iter().map(|view| record(view, epoch, None)).collect());
    let held: Vec<Held> = deals
        .iter()
        .map(|(id, deal)| Held {
            id: *id,
            deal: deal.clone(),
        })
        .collect();
    let open = held.iter().filter(|held| held.is_open());
    let outcomes = possession::ask_all(network, &providers, open, epoch, &beacon).await;
    let mut samples = Vec::new();
    for (held, outcome) in outcomes {
        match outcome {
            Ok(answer) => samples.push(ShownSample {
                deal: held.id,
                epoch,
                proofs: answer.proofs,
            }),
            Err(reason) => {
                tracing::warn!(provider = %held.provider(), deal = %held.id, reason, "no read-back sample");
            }
        }
    }
    samples.sort_by_key(|sample| sample.deal);
    Ok(samples)
}

/// Collects the bundle of `subject`'s deals.
pub async fn collect(
    chain: &ChainClient,
    subject: [u8; 32],
    deals: &[(DealId, Deal)],
    anchor: &Anchor,
    samples: Vec<ShownSample>,
) -> Result<Bundle, CollectError> {
    let genesis_bytes = chain.genesis_bytes().await?;
    let genesis = Genesis::from_bytes(&genesis_bytes)
        .and_then(Genesis::check)
        .map_err(|e| CollectError::Lies(e.to_string()))?;
    let mut reader = Reader::new(chain, &genesis);
    let (last, leaves) = reader.leaves(deals).await?;
    let state = Shown::of(&leaves)?;
    let poreps = reader.poreps(&state).await?;
    let (windows, mut epochs) = reader.windows(&state).await?;
    let newest = last.header.height;
    let sampled: BTreeSet<Epoch> = samples.iter().map(|sample| sample.epoch).collect();
    epochs.extend(sampled.iter().map(|epoch| (*epoch, newest)));
    let drew = drew(deals);
    let needed: BTreeSet<Epoch> = epochs.keys().copied().collect();
    for epoch in &drew {
        epochs.entry(*epoch).or_insert(newest);
    }
    let mut beacons = Vec::new();
    for (epoch, until) in epochs {
        // One that may have been a challenge, and is not on chain by then, was none. A block that carries many epochs' is shown once.
        let shown = match reader.beacon(epoch, until).await {
            Ok(shown) if needed.contains(&epoch) => shown,
            // What only says who was drawn is shown if it can be: not from before what is trusted, nor from a node that has no block
            // of then any more.
            Ok(shown) => {
                let first = anchor.checkpoint.map_or(0, |(height, _)| height);
                shown.filter(|shown| shown.height >= first)
            }
            Err(error) if !needed.contains(&epoch) => {
                tracing::warn!(%epoch, %error, "the beacon that drew the holders is not shown");
                None
            }
            Err(error) => return Err(error),
        };
        if shown.is_none() && sampled.contains(&epoch) {
            return Err(CollectError::Moving(format!(
                "the beacon value of epoch {epoch} is later than the state shown"
            )));
        }
        let new = |shown: &ShownBeacon| {
            let mut before = beacons.iter();
            before.all(|b: &ShownBeacon| b.height != shown.height)
        };
        if let Some(shown) = shown.filter(new) {
            beacons.push(shown);
        }
    }
    let mut heights: BTreeSet<u64> = beacons.iter().map(|b| b.height).collect();
    heights.extend(windows.iter().flat_map(|w| [w.height, w.height + 1]));
    if let Some(later) = heights.range(newest + 1..).next() {
        return Err(CollectError::Moving(format!(
            "block {later} is later than the state shown"
        )));
    }
    let (checkpoint, blocks) = blocks(chain, genesis.trusted(), anchor, heights, last).await?;
    Ok(Bundle {
        subject,
        genesis: genesis_bytes,
        checkpoint,
        blocks,
        leaves,
        beacons,
        poreps,
        windows,
        samples,
    })
}

/// Epochs whose beacons drew the holders, as the deals' labels say: the clients' words, of epochs before the deal.
fn drew(deals: &[(DealId, Deal)]) -> BTreeSet<Epoch> {
    let named = deals.iter().filter_map(|(_, deal)| {
        let label: Label = deal.proposal.label.parse().ok()?;
        label.drawn().filter(|epoch| *epoch <= deal.published)
    });
    let all: BTreeSet<Epoch> = named.collect();
    all.into_iter().take(MAX_DRAWS).collect()
}

/// Light blocks of these heights and the last, each reachable from the one before.
async fn blocks(
    chain: &ChainClient,
    genesis: Trusted,
    anchor: &Anchor,
    heights: BTreeSet<u64>,
    last: LightBlock,
) -> Result<(Option<chain_lite::block::BlockId>, Vec<LightBlock>), CollectError> {
    let lies = |e: &dyn std::fmt::Display| CollectError::Lies(e.to_string());
    let (mut trusted, mut blocks) = (genesis, Vec::new());
    if let Some((height, id)) = anchor.checkpoint {
        let first = light_block(chain, height).await?;
        trusted = Trusted::checkpoint(trusted.chain_id(), id, &first).map_err(|e| lies(&e))?;
        blocks.push(first);
    }
    let newest = last.header.height;
    let recorder = Recorder {
        chain,
        fetched: Mutex::default(),
    };
    for height in heights.into_iter().filter(|h| *h != newest).chain([newest]) {
        if height < trusted.height() {
            return Err(CollectError::TooNew { height });
        }
        if height == trusted.height() {
            continue;
        }
        let target = match height == newest {
            true => last.clone(),
            false => light_block(chain, height).await?,
        };
        // Who verifies the bundle judges each block as of its own time.
        let reached = follow::<_, std::convert::Infallible>(
            &trusted,
            target.clone(),
            &recorder,
            None,
            trust_period_ms,
        )
        .await;
        trusted = reached.map_err(|e| match e {
            FollowError::Provider(error) => error,
            other => lies(&other),
        })?;
        let mut between = std::mem::take(
            &mut *recorder
                .fetched
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        // Bisection fetches from far to near.
        between.sort_by_key(|block| block.header.height);
        blocks.extend(between);
        blocks.push(target);
    }
    Ok((anchor.checkpoint.map(|(_, id)| id), blocks))
}

async fn light_block(chain: &ChainClient, height: u64) -> Result<LightBlock, CollectError> {
    let block = chain.light_block(Some(height)).await?;
    block
        .filter(|block| block.header.height == height)
        .ok_or_else(|| CollectError::Lies(format!("it has no block {height}")))
}

/// Light blocks from a node, remembered.
struct Recorder<'a> {
    chain: &'a ChainClient,
    fetched: Mutex<Vec<LightBlock>>,
}

impl LightProvider for Recorder<'_> {
    type Error = CollectError;

    async fn light_block(&self, height: u64) -> Result<LightBlock, CollectError> {
        let block = light_block(self.chain, height).await?;
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.push(block.clone());
        Ok(block)
    }

    async fn state(&self, keys: &[Vec<u8>]) -> Result<StateBatch, CollectError> {
        let batch = self.chain.light_state(None, keys).await?;
        batch.ok_or_else(|| CollectError::Lies("it can prove no state".into()))
    }
}

/// What the leaves say, unchecked.
struct Shown {
    params: ChainParams,
    now: Epoch,
    outages: Runs,
    providers: BTreeMap<ProviderId, Provider>,
    sectors: BTreeMap<(ProviderId, SectorNumber), (Sector, Option<SectorState>)>,
}

impl Shown {
    fn of(leaves: &[Leaf]) -> Result<Self, CollectError> {
        let lies = |e: chain_lite::error::StoreError| CollectError::Lies(e.to_string());
        let mut state = MemoryState::default();
        for leaf in leaves {
            if let Some(value) = &leaf.value {
                state.0.insert(leaf.key.clone(), value.clone());
            }
        }
        let totals = query::totals(&state).map_err(lies)?;
        let mut shown = Self {
            params: query::params(&state).map_err(lies)?,
            now: totals.epoch,
            outages: Runs::of(&state, &totals).map_err(lies)?,
            providers: BTreeMap::new(),
            sectors: BTreeMap::new(),
        };
        for leaf in leaves {
            if let Some(id) = key::parse_provider(&leaf.key)
                && leaf.key == key::provider(id)
                && let Some(provider) = read(&state, &leaf.key).map_err(lies)?
            {
                shown.providers.insert(id, provider);
            }
            if let Some((id, number)) = key::parse_sector(&leaf.key)
                && leaf.key == key::sector(id, number)
                && let Some(SectorLeaf::Committed(sector)) =
                    read(&state, &leaf.key).map_err(lies)?
            {
                let at = key::partition(id, sector.deadline, sector.partition);
                let partition: Partition = read(&state, &at).map_err(lies)?.unwrap_or_default();
                let slot = partition.slots.iter().find(|slot| slot.number == number);
                shown
                    .sectors
                    .insert((id, number), (sector, slot.map(|slot| slot.state)));
            }
        }
        Ok(shown)
    }

    /// Whether the outages shown reach back as far as the windows of these sectors need them.
    fn knows_outages(&self) -> bool {
        self.sectors.iter().all(|((id, _), (sector, _))| {
            let schedule = self
                .providers
                .get(id)
                .map(|provider| Schedule::of(&self.params, provider));
            schedule.is_none_or(|schedule| {
                let over = schedule.last_over(self.now, sector.deadline, &self.outages);
                let known = |at| schedule.may_be_open(at, sector.deadline, &self.outages);
                over.is_some_and(|over| known(over).is_some())
            })
        })
    }
}

/// A partition: provider, deadline, index.
type PartitionName = (ProviderId, u16, u32);

/// Blocks that are looked through for one beacon value. On a chain without outages it is at most `post_lookback` epochs late; two
/// proving periods more, and the newest proof of each sector has another challenge.
fn patience(params: &ChainParams) -> u64 {
    let periods = params.proving_period.0.saturating_mul(2);
    periods.saturating_add(params.post_lookback.0)
}

/// Bytes of blocks that a reader keeps: many times the largest block.
const MAX_KEPT_BYTES: usize = 32 << 20;

/// Reads the node's blocks.
struct Reader<'a> {
    chain: &'a ChainClient,
    beacons: &'a BeaconSchedule,
    patience: u64,
    /// Epochs of the blocks that were read.
    epochs: BTreeMap<u64, Epoch>,
    /// Those of them that are kept, because windows overlap; at most [`MAX_KEPT_BYTES`] as encoded.
    kept: BTreeMap<u64, FinalBlock>,
    kept_bytes: usize,
}

impl<'a> Reader<'a> {
    fn new(chain: &'a ChainClient, genesis: &'a CheckedGenesis) -> Self {
        Self {
            chain,
            beacons: genesis.beacons(),
            patience: patience(&genesis.genesis().params),
            epochs: BTreeMap::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
        }
    }

    /// One state: parameters, totals, these deals, their providers, sectors and partitions, and the outages that their windows
    /// have seen.
    async fn leaves(
        &self,
        deals: &[(DealId, Deal)],
    ) -> Result<(LightBlock, Vec<Leaf>), CollectError> {
        let mut why = String::new();
        // How far back outages are asked for; doubled until it is far enough.
        let (mut attempt, mut span) = (0, 2 * self.chain.params().proving_period.0);
        while attempt < TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let keys = self.keys(deals, EpochCount(span)).await?;
            let Some((last, leaves)) = self.prove(&keys).await? else {
                why = "its newest states were gone before they were read".into();
                attempt += 1;
                continue;
            };
            // Where a sector is was a hint from another block: the leaves themselves say whether it still holds.
            let missing = |(id, number): &(ProviderId, SectorNumber), sector: &Sector| {
                let at = key::partition(*id, sector.deadline, sector.partition);
                keys.binary_search(&at)
                    .is_err()
                    .then(|| format!("sector {number} of provider {id} moved"))
            };
            let shown = Shown::of(&leaves)?;
            let moved = shown.sectors.iter().find_map(|(at, (s, _))| missing(at, s));
            let unplaced = leaves.iter().find_map(|leaf| {
                let deal: Deal = codec::decode(leaf.value.as_ref()?, usize::MAX).ok()?;
                let number = deal
                    .sector
                    .filter(|_| leaf.key == key::deal(&deal.proposal.id()))?;
                let at = key::sector(deal.proposal.provider, number);
                keys.binary_search(&at)
                    .is_err()
                    .then(|| format!("sector {number} is new"))
            });
            attempt += 1;
            match moved.or(unplaced) {
                None if shown.knows_outages() => return Ok((last, leaves)),
                // All of them were asked for: one has grown since.
                None if span >= shown.now.0 => why = "an outage goes on".into(),
                None => (span, attempt) = (span.saturating_mul(2), 0),
                Some(moved) => why = moved,
            }
        }
        Err(CollectError::Moving(why))
    }

    /// The keys, ascending, by what the node says now.
    async fn keys(
        &self,
        deals: &[(DealId, Deal)],
        back: EpochCount,
    ) -> Result<Vec<Vec<u8>>, CollectError> {
        let mut keys = BTreeSet::from([key::params(), key::network()]);
        let after = self.chain.head().await?.epoch.before(back);
        let outages = self.chain.dark_runs(after).await?;
        keys.extend(outages.into_iter().map(key::dark_run));
        for (id, _) in deals {
            let view = self.chain.deal(id).await?;
            let view = view.ok_or_else(|| CollectError::Lies(format!("deal {id} is gone")))?;
            let provider = view.deal.proposal.provider;
            keys.insert(key::deal(id));
            keys.insert(key::provider(provider));
            let Some(number) = view.deal.sector else {
                continue;
            };
            keys.insert(key::sector(provider, number));
            if let Some(found) = self.chain.sector(provider, number).await?
                && let SectorLeaf::Committed(sector) = found.leaf
            {
                keys.insert(key::partition(provider, sector.deadline, sector.partition));
            }
        }
        Ok(keys.into_iter().collect())
    }

    /// All of one state, or nothing when it is gone before the last part was read.
    async fn prove(
        &self,
        keys: &[Vec<u8>],
    ) -> Result<Option<(LightBlock, Vec<Leaf>)>, CollectError> {
        let mut light: Option<LightBlock> = None;
        let mut leaves = Vec::new();
        for part in keys.chunks(MAX_BATCH_LEAVES / 2) {
            let height = light.as_ref().map(|light| light.header.height);
            let Some(batch) = self.chain.light_state(height, part).await? else {
                return Ok(None);
            };
            batch
                .check(part)
                .map_err(|e| CollectError::Lies(e.to_string()))?;
            if light
                .as_ref()
                .is_some_and(|l| l.header != batch.light.header)
            {
                return Err(CollectError::Lies("two blocks of one height".into()));
            }
            leaves.extend(batch.leaves);
            light = Some(batch.light);
        }
        Ok(light.map(|light| (light, leaves)))
    }

    async fn block(&mut self, height: u64) -> Result<&FinalBlock, CollectError> {
        if !self.kept.contains_key(&height) {
            let bytes = self.chain.block_bytes(height).await?;
            let bytes =
                bytes.ok_or_else(|| CollectError::Lies(format!("it has no block {height}")))?;
            let block =
                FinalBlock::from_bytes(&bytes).map_err(|e| CollectError::Lies(e.to_string()))?;
            self.epochs.insert(height, block.block.header.epoch);
            self.kept_bytes = self.kept_bytes.saturating_add(bytes.len());
            if self.kept_bytes > MAX_KEPT_BYTES {
                self.kept.clear();
                self.kept_bytes = bytes.len();
            }
            self.kept.insert(height, block);
        }
        Ok(&self.kept[&height])
    }

    async fn epoch_at(&mut self, height: u64) -> Result<Epoch, CollectError> {
        match self.epochs.get(&height) {
            Some(epoch) => Ok(*epoch),
            None => Ok(self.block(height).await?.block.header.epoch),
        }
    }

    /// The newest block up to an epoch, which is that epoch's own if it has one; 0 before the first. Under the logical clock epochs
    /// and heights are the same; else they are searched.
    async fn height_up_to(&mut self, epoch: Epoch) -> Result<u64, CollectError> {
        let tip = self.chain.head().await?.height;
        // Block `low` is known to be of that epoch or an earlier one, block `high` of a later one.
        let (mut low, mut high) = (0, tip.saturating_add(1));
        let mut guess = epoch.0;
        while low + 1 < high {
            let at = guess.clamp(low + 1, high - 1);
            match self.epoch_at(at).await? <= epoch {
                true => low = at,
                false => high = at,
            }
            // At first beside the guess, in case it was right; then in the middle.
            guess = match at == epoch.0 {
                true if low == at => at + 1,
                _ => low + (high - low) / 2,
            };
        }
        Ok(low)
    }

    /// The block of an epoch.
    async fn height_of(&mut self, epoch: Epoch) -> Result<u64, CollectError> {
        let height = self.height_up_to(epoch).await?;
        if height > 0 && self.epoch_at(height).await? == epoch {
            return Ok(height);
        }
        Err(CollectError::Lies(format!(
            "it has no block of epoch {epoch}"
        )))
    }

    /// The beacon entries among which that epoch's is: of its own block, or after an outage of a later one; `None` if none up to
    /// block `until` carries it.
    async fn beacon(
        &mut self,
        epoch: Epoch,
        until: u64,
    ) -> Result<Option<ShownBeacon>, CollectError> {
        let first = self.height_up_to(Epoch(epoch.0.saturating_sub(1))).await? + 1;
        for height in first..=until {
            let blocks = height - first;
            if blocks >= self.patience {
                return Err(CollectError::Late { epoch, blocks });
            }
            let beacons = self.beacons;
            let block = &self.block(height).await?.block;
            let carried = beacons.epochs_of(block.header.epoch, &block.body.beacons);
            let carried = carried.map_err(|e| CollectError::Lies(e.to_string()))?;
            // Epochs come in order, so one that is passed over does not come.
            match carried.iter().find(|(of, _)| *of >= epoch) {
                None => {}
                Some((of, _)) if *of > epoch => return Ok(None),
                Some(_) => {
                    let entries = block.body.beacons.clone();
                    let path = merkle::path(List::Transactions, &block.body.leaves(), 0);
                    return Ok(path.map(|path| ShownBeacon {
                        height,
                        entries,
                        path,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Each committed sector's PoRep, from the block of its activation.
    async fn poreps(&mut self, state: &Shown) -> Result<Vec<ShownPorep>, CollectError> {
        let mut poreps = Vec::new();
        for ((id, number), (sector, _)) in &state.sectors {
            let height = self.height_of(sector.activation).await?;
            let messages = self.block(height).await?.block.body.txs.iter();
            let found = messages
                .flat_map(|tx| &tx.tx.msgs)
                .find_map(|msg| match msg {
                    Message::ProveCommit {
                        provider,
                        sector,
                        proof,
                    } if (provider, sector) == (id, number) => Some(proof.clone()),
                    _ => None,
                });
            poreps.push(ShownPorep {
                provider: *id,
                sector: *number,
                proof: found.ok_or_else(|| {
                    CollectError::Lies(format!(
                        "block {height} has no PoRep of sector {number} of provider {id}"
                    ))
                })?,
            });
        }
        Ok(poreps)
    }

    /// The newest window PoSt of each partition with an active sector, and the epochs of their challenges, each with the newest block
    /// by which its value was used.
    async fn windows(
        &mut self,
        state: &Shown,
    ) -> Result<(Vec<ShownWindow>, BTreeMap<Epoch, u64>), CollectError> {
        let active = state.sectors.iter().filter_map(|((id, _), (sector, now))| {
            (*now == Some(SectorState::Active)).then_some((*id, sector.deadline, sector.partition))
        });
        let partitions: BTreeSet<PartitionName> = active.collect();
        let (mut windows, mut challenges) = (Vec::new(), BTreeMap::new());
        for name in partitions {
            let (shown, answers) = self.window(state, name).await?;
            for epoch in answers {
                let until = challenges.entry(epoch).or_insert(shown.height);
                *until = shown.height.max(*until);
            }
            windows.push(shown);
        }
        Ok((windows, challenges))
    }

    async fn window(
        &mut self,
        state: &Shown,
        name: PartitionName,
    ) -> Result<(ShownWindow, Vec<Epoch>), CollectError> {
        let (id, deadline, partition) = name;
        let provider = state.providers.get(&id);
        let provider =
            provider.ok_or_else(|| CollectError::Lies(format!("provider {id} is absent")))?;
        let schedule = Schedule::of(&state.params, provider);
        let unknown = || CollectError::Lies("its outages contradict each other".into());
        let outages = &state.outages;
        let since = schedule.last_over(state.now, deadline, outages);
        let since = since.ok_or_else(unknown)?;
        let mut epoch = state.now;
        // Newest first, over the epochs in which a window may have been open.
        while epoch >= since && epoch.0 > 0 {
            let open = schedule.last_open(epoch, deadline, outages);
            let Some(open) = open.filter(|open| *open >= since) else {
                break;
            };
            let height = self.height_up_to(open).await?;
            if height == 0 {
                break;
            }
            let at = self.epoch_at(height).await?;
            let windows = schedule.may_be_open(at, deadline, outages);
            let windows = windows.ok_or_else(unknown)?;
            epoch = at.before(EpochCount(1));
            if windows.is_empty() {
                continue;
            }
            for (index, message) in posts(self.block(height).await?, name) {
                let block = self.block(height).await?;
                let leaves = block.block.body.leaves();
                let tx = block.block.body.txs[index].clone();
                if let Some(shown) = self
                    .accepted(state, name, height, &leaves, index, &tx)
                    .await?
                {
                    let message =
                        u32::try_from(message).map_err(|e| CollectError::Lies(e.to_string()))?;
                    let challenges = windows.iter().map(|window| window.challenge).collect();
                    return Ok((ShownWindow { message, ..shown }, challenges));
                }
            }
        }
        Err(CollectError::Lies(format!(
            "partition {partition} of deadline {deadline} of provider {id} is active and no block has its proof"
        )))
    }

    /// The transaction as accepted, or nothing if it failed.
    async fn accepted(
        &self,
        state: &Shown,
        (id, deadline, partition): PartitionName,
        height: u64,
        leaves: &[Vec<u8>],
        index: usize,
        tx: &SignedTx,
    ) -> Result<Option<ShownWindow>, CollectError> {
        let Some(bundle) = self.chain.light_receipt(&tx.id()).await? else {
            return Err(CollectError::Moving(format!(
                "block {height} has no successor yet"
            )));
        };
        let (receipt, events): (Receipt, Vec<EventRecord>) =
            codec::decode(&bundle.leaf, bundle.leaf.len())
                .map_err(|e| CollectError::Lies(e.to_string()))?;
        let proven = events.into_iter().find_map(|record| match record.event {
            Event::PostAccepted {
                provider,
                deadline: d,
                partition: n,
                proven,
                ..
            } if (provider, d, n) == (id, deadline, partition) => Some(proven),
            _ => None,
        });
        let Some(proven) = proven.filter(|_| receipt.succeeded()) else {
            return Ok(None);
        };
        let mut replicas = Vec::with_capacity(proven.len());
        for number in proven {
            replicas.push(self.replica(state, id, number).await?);
        }
        let tx_path = merkle::path(List::Transactions, leaves, index + 1)
            .ok_or_else(|| CollectError::Lies("a transaction outside its block".into()))?;
        Ok(Some(ShownWindow {
            height,
            tx: tx.to_bytes(),
            tx_path,
            message: 0,
            receipt: bundle.leaf,
            receipt_path: bundle.path,
            replicas,
        }))
    }

    async fn replica(
        &self,
        state: &Shown,
        id: ProviderId,
        number: SectorNumber,
    ) -> Result<CommR, CollectError> {
        if let Some((sector, _)) = state.sectors.get(&(id, number)) {
            return Ok(sector.comm_r);
        }
        let view = self.chain.sector(id, number).await?;
        match view.map(|view| view.leaf) {
            Some(SectorLeaf::Committed(sector)) => Ok(sector.comm_r),
            Some(SectorLeaf::Ended(ended)) => Ok(ended.comm_r),
            _ => Err(CollectError::Lies(format!(
                "sector {number} of provider {id} was proven and is unknown"
            ))),
        }
    }
}

/// Transactions and messages of a block that submit a window PoSt of this partition.
fn posts(block: &FinalBlock, (id, at, index): PartitionName) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (i, tx) in block.block.body.txs.iter().enumerate() {
        for (j, msg) in tx.tx.msgs.iter().enumerate() {
            if let Message::SubmitPost {
                provider,
                deadline,
                partition,
                ..
            } = msg
                && (*provider, *deadline, *partition) == (id, at, index)
            {
                found.push((i, j));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::Value;

    use super::*;
    use crate::chain::proven::tests::{Tamper, liar};
    use crate::rpc::tests::bed;

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_v12_a_beacon_value_that_a_node_hides_is_not_looked_for_without_end() {
        let bed = bed();
        let server = bed.serve(0, None).await;
        let asked = Arc::new(AtomicUsize::new(0));
        let hide: Tamper = {
            let asked = Arc::clone(&asked);
            Arc::new(move |method, answer| match (method, &answer) {
                ("chain_block", Value::String(text)) => {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let bytes = hex::decode(text).expect("hex");
                    let mut block = FinalBlock::from_bytes(&bytes).expect("a block");
                    block.block.body.beacons.clear();
                    Value::String(hex::encode(block.to_bytes()))
                }
                _ => answer,
            })
        };
        let (hiding, url) = liar(&server.url(), hide).await;
        let honest = ChainClient::connect(&server.url()).await.expect("connects");
        let node = ChainClient::connect(&url).await.expect("connects");
        while honest.head().await.expect("answers").height < 30 {
            tokio::time::sleep(PAUSE).await;
        }
        let genesis = honest.genesis().await.expect("reads");
        let genesis = genesis.check().expect("sound");
        let mut reader = Reader::new(&honest, &genesis);
        let shown = reader.beacon(Epoch(5), 30).await.expect("reads");
        assert_eq!(shown.map(|shown| shown.height), Some(5));
        assert_eq!(reader.patience, 2 * 120 + 3);

        let mut reader = Reader::new(&node, &genesis);
        reader.patience = 8;
        // Up to the block of its proof: it was no challenge.
        let none = reader.beacon(Epoch(5), 12).await;
        assert!(matches!(none, Ok(None)), "{none:?}");
        let mut reader = Reader::new(&node, &genesis);
        reader.patience = 8;
        asked.store(0, Ordering::SeqCst);
        let late = reader.beacon(Epoch(5), u64::MAX).await;
        let is_late = |late: &_| {
            matches!(
                late,
                Err(CollectError::Late {
                    epoch: Epoch(5),
                    blocks: 8
                })
            )
        };
        assert!(is_late(&late), "{late:?}");
        let blocks = asked.load(Ordering::SeqCst);
        assert!(blocks <= 8 + 10, "{blocks} blocks were read");
        hiding.stop().expect("runs");
        server.stop().await;
    }
}
