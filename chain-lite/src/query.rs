//! Typed reads over a state snapshot, as the RPC serves them and clients read them back.
//!
//! Views are records for people and programs: serde both ways, amounts as decimal strings, names as text. They are not
//! hashed; fields may be added. Lists are paged: `after` is the last name of the page before, at most [`MAX_PAGE`] long.
//! Views say what holds *now*, at the snapshot's last block; the `next` epoch in which a message could take effect is one
//! later.

use prover::{CommD, CommR, PaddedPieceSize, PieceInfo, SectorNumber, SectorSize, Seed, Ticket};
use serde::{Deserialize, Serialize};

use crate::account::{Account, Address, ChannelId, DealId, NetKey, ProviderId};
use crate::channel::Channel;
use crate::datacap::DataCap;
use crate::deal::publish::activation_timer;
use crate::deal::{Deal, DealStatus};
use crate::lit;
use crate::market::Escrow;
use crate::message::DealProposal;
use crate::params::ChainParams;
use crate::provider::{NextKeys, Provider};
use crate::randomness::{self, Tag};
use crate::reward;
use crate::sector::deadline::{Schedule, Window};
use crate::sector::{
    Deadline, Partition, Sector, SectorEnd, SectorLeaf, SectorState, Slot, quality_power,
};
use crate::slash;
use crate::state::{Entry, KvRead, Network, StoreError, decode, key, read};
use crate::units::{Epoch, EpochCount, StoragePower, TokenAmount};

/// Longest page of a list.
pub const MAX_PAGE: usize = 1_000;

/// The whole network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// All totals, as the chain keeps them.
    #[serde(flatten)]
    pub totals: Network,
    /// Money that is neither locked nor waiting in the pool.
    pub circulating: TokenAmount,
    /// Network size above which emission is spread.
    pub baseline: StoragePower,
    /// What 1 GiB earns in a day at the smoothed rate.
    pub reward_gib_day: TokenAmount,
    /// I1: every unit is somewhere, and only once.
    pub supply_holds: bool,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Which one.
    pub address: Address,
    /// Money it may spend.
    pub free: TokenAmount,
    /// The nonce its next transaction must carry.
    pub nonce: u64,
}

/// An account's escrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketView {
    /// Whose.
    pub address: Address,
    /// All of it.
    pub escrow: TokenAmount,
    /// The part that open deals hold.
    pub locked: TokenAmount,
    /// The rest.
    pub available: TokenAmount,
}

/// A provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderView {
    /// Its number.
    pub id: ProviderId,
    /// Its owner.
    pub owner: Address,
    /// The worker in force.
    pub worker: Address,
    /// The network key in force: what clients pin.
    pub net_key: NetKey,
    /// A change that is not in force yet.
    pub next_keys: Option<NextKeys>,
    /// Where it listens.
    pub addrs: Vec<String>,
    /// Size of its sectors.
    pub sector_size: SectorSize,
    /// When it registered.
    pub registered: Epoch,
    /// Start of its proving periods, modulo their length.
    pub offset: EpochCount,
    /// All its money on chain, without escrow.
    pub balance: TokenAmount,
    /// Claim: deposits of open pre-commitments.
    pub deposits: TokenAmount,
    /// Claim: pledges.
    pub pledge: TokenAmount,
    /// Claim: rewards that vest later.
    pub vesting: TokenAmount,
    /// Penalties not yet paid.
    pub fee_debt: TokenAmount,
    /// What disputes of its stored proofs would charge; not withdrawable while they may come.
    pub at_stake: TokenAmount,
    /// Balance without the claims.
    pub unlocked: TokenAmount,
    /// What it may withdraw or lock, before the rewards below are claimed.
    pub available: TokenAmount,
    /// Rewards since the last claim; claimed by the next message or close.
    pub claimable: TokenAmount,
    /// Bytes of active sectors.
    pub raw_power: StoragePower,
    /// Their quality-adjusted power.
    pub power: StoragePower,
    /// Its owner's market escrow.
    pub market: Escrow,
}

/// Where a sector number is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SectorStatus {
    /// Committed to, not proven.
    PreCommitted,
    /// Proven; its first window PoSt is due.
    Unproven,
    /// Proven at its last deadline; earns.
    Active,
    /// Not proven; earns nothing.
    Faulty,
    /// Faulty, and promised for its next deadline.
    Recovering,
    /// Over: never proven.
    NeverProven,
    /// Over: at its expiration.
    Expired,
    /// Over: ended by its provider.
    Terminated,
    /// Over: ended by the age of its fault.
    FaultTimeout,
}

impl SectorStatus {
    /// Whether the sector is in a partition.
    pub const fn is_live(self) -> bool {
        matches!(
            self,
            Self::Unproven | Self::Active | Self::Faulty | Self::Recovering
        )
    }

    fn of_state(state: SectorState) -> Self {
        match state {
            SectorState::Unproven => Self::Unproven,
            SectorState::Active => Self::Active,
            SectorState::Faulty { .. } => Self::Faulty,
            SectorState::Recovering { .. } => Self::Recovering,
        }
    }

    fn of_end(end: SectorEnd) -> Self {
        match end {
            SectorEnd::NeverProven => Self::NeverProven,
            SectorEnd::Expired => Self::Expired,
            SectorEnd::Terminated => Self::Terminated,
            SectorEnd::FaultTimeout => Self::FaultTimeout,
        }
    }
}

/// A sector number; fields are absent where its life has not come to them, or is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectorView {
    /// Whose.
    pub provider: ProviderId,
    /// Which.
    pub number: SectorNumber,
    /// Where it is in its life.
    pub status: SectorStatus,
    /// Its replica.
    pub comm_r: CommR,
    /// Its data.
    pub comm_d: Option<CommD>,
    /// Bound into the replica.
    pub ticket: Option<Ticket>,
    /// Chose the PoRep's challenges; known from `seed_epoch` on.
    pub seed: Option<Seed>,
    /// Pre-committed: when its seed is drawn; the proof is accepted from the next epoch on.
    pub seed_epoch: Option<Epoch>,
    /// Pre-committed: last epoch for its proof, if no more epochs are dark than are known to be.
    pub prove_until: Option<Epoch>,
    /// Pre-committed: when it was.
    pub precommitted: Option<Epoch>,
    /// Pre-committed: what is lost without a proof.
    pub deposit: Option<TokenAmount>,
    /// When its PoRep was accepted.
    pub activation: Option<Epoch>,
    /// When it ends.
    pub expiration: Option<Epoch>,
    /// Its deals, in the order of their pieces.
    pub deals: Vec<DealId>,
    /// Its power while active.
    pub power: Option<StoragePower>,
    /// What secures it.
    pub pledge: Option<TokenAmount>,
    /// What one more missed deadline costs now.
    pub fault_fee: Option<TokenAmount>,
    /// The close from which its fault counts.
    pub faulty_since: Option<Epoch>,
    /// Its deadline.
    pub deadline: Option<u16>,
    /// Its partition there.
    pub partition: Option<u32>,
    /// When it was over.
    pub ended: Option<Epoch>,
}

/// A deal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DealView {
    /// Its name.
    pub id: DealId,
    /// What was agreed.
    pub proposal: DealProposal,
    /// Where it is in its life.
    pub status: DealStatus,
    /// When it was published.
    pub published: Epoch,
    /// The sector that holds it or is pre-committed to.
    pub sector: Option<SectorNumber>,
    /// That sector's status: what rung of the proof ladder the piece is on.
    pub sector_status: Option<SectorStatus>,
    /// Settled up to here.
    pub settled: Epoch,
    /// What the client paid.
    pub paid: TokenAmount,
    /// What the client got back of the price.
    pub refunded: TokenAmount,
    /// What is still locked of the price.
    pub locked: TokenAmount,
    /// When it ended.
    pub ended: Option<Epoch>,
}

/// A partition, with its place and its sectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Its index in the deadline.
    pub index: u32,
    /// Whether this period's proof was accepted.
    pub posted: bool,
    /// Its sectors, ascending.
    pub sectors: Vec<Slot>,
}

/// A deadline of a provider: its current occurrence while open, else the next, seen from the epoch of the next block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadlineView {
    /// Its index.
    pub index: u16,
    /// When it opens, closes, is challenged, and takes declarations.
    #[serde(flatten)]
    pub window: Window,
    /// Whether a proof would be accepted in the next block.
    pub is_open: bool,
    /// Its partitions that hold sectors.
    pub partitions: Vec<PartitionView>,
}

/// What a sector costs its provider at present rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectorQuote {
    /// Deposit at pre-commit; also the least registration deposit.
    pub deposit: TokenAmount,
    /// Pledge at prove-commit.
    pub pledge: TokenAmount,
}

/// The chain's constants.
pub fn params(state: &dyn KvRead) -> Result<ChainParams, StoreError> {
    read(state, &key::params())?.ok_or_else(|| StoreError::corrupt(&key::params(), "missing"))
}

/// The network's totals.
pub fn totals(state: &dyn KvRead) -> Result<Network, StoreError> {
    read(state, &key::network())?.ok_or_else(|| StoreError::corrupt(&key::network(), "missing"))
}

/// The whole network.
pub fn network(state: &dyn KvRead) -> Result<NetworkView, StoreError> {
    let (params, totals) = (params(state)?, totals(state)?);
    Ok(NetworkView {
        circulating: totals.circulating(),
        baseline: StoragePower(reward::baseline(&params, totals.epoch)),
        reward_gib_day: slash::expected_reward(&totals, StoragePower(1 << 30), params.day),
        supply_holds: totals.supply_holds(),
        totals,
    })
}

/// An account; one that never was has nothing.
pub fn account(state: &dyn KvRead, address: &Address) -> Result<AccountView, StoreError> {
    let Account { free, nonce } = read(state, &key::account(address))?.unwrap_or_default();
    Ok(AccountView {
        address: *address,
        free,
        nonce,
    })
}

/// An account's escrow; one that never was is empty.
pub fn market(state: &dyn KvRead, address: &Address) -> Result<MarketView, StoreError> {
    let escrow: Escrow = read(state, &key::market(address))?.unwrap_or_default();
    let Escrow {
        escrow: all,
        locked,
    } = escrow;
    Ok(MarketView {
        address: *address,
        escrow: all,
        locked,
        available: escrow.unlocked(),
    })
}

/// An address's DataCap; one that never had any has none.
pub fn datacap(state: &dyn KvRead, address: &Address) -> Result<DataCap, StoreError> {
    Ok(read(state, &key::datacap(address))?.unwrap_or_default())
}

/// A payment channel, until it is collected.
pub fn channel(state: &dyn KvRead, id: ChannelId) -> Result<Option<Channel>, StoreError> {
    read(state, &key::channel(id))
}

/// A provider.
pub fn provider(state: &dyn KvRead, id: ProviderId) -> Result<Option<ProviderView>, StoreError> {
    let Some(found) = read::<Provider>(state, &key::provider(id))? else {
        return Ok(None);
    };
    provider_view(state, &totals(state)?, found).map(Some)
}

/// Providers in id order, after `after`.
pub fn providers(
    state: &dyn KvRead,
    after: Option<ProviderId>,
    limit: usize,
) -> Result<Vec<ProviderView>, StoreError> {
    let net = totals(state)?;
    let from = after.map(key::provider);
    let mut views = Vec::new();
    for (key, bytes) in page(state, &key::providers(), from, limit)? {
        views.push(provider_view(state, &net, decode(&key, &bytes)?)?);
    }
    Ok(views)
}

fn provider_view(
    state: &dyn KvRead,
    net: &Network,
    provider: Provider,
) -> Result<ProviderView, StoreError> {
    let (worker, net_key) = provider.keys(net.epoch);
    let claimable = reward::claimable(net, &provider).map_err(|_| {
        StoreError::corrupt(&key::provider(provider.id), "a claim does not fit 128 bits")
    })?;
    Ok(ProviderView {
        unlocked: provider.unlocked(),
        available: provider.available(),
        claimable,
        worker,
        net_key,
        next_keys: provider.next_keys.filter(|next| next.effective > net.epoch),
        market: read(state, &key::market(&provider.owner))?.unwrap_or_default(),
        id: provider.id,
        owner: provider.owner,
        addrs: provider.addrs,
        sector_size: provider.sector_size,
        registered: provider.registered,
        offset: provider.offset,
        balance: provider.balance,
        deposits: provider.deposits,
        pledge: provider.pledge,
        vesting: provider.vesting,
        fee_debt: provider.fee_debt,
        at_stake: provider.at_stake,
        raw_power: provider.raw_power,
        power: provider.power,
    })
}

/// A sector number, if the provider ever used it.
pub fn sector(
    state: &dyn KvRead,
    id: ProviderId,
    number: SectorNumber,
) -> Result<Option<SectorView>, StoreError> {
    let Some(leaf) = read::<SectorLeaf>(state, &key::sector(id, number))? else {
        return Ok(None);
    };
    sector_view(state, &Rates::read(state)?, id, number, leaf).map(Some)
}

/// Sector numbers of a provider, ascending, after `after`, ended ones included.
pub fn sectors(
    state: &dyn KvRead,
    id: ProviderId,
    after: Option<SectorNumber>,
    limit: usize,
) -> Result<Vec<SectorView>, StoreError> {
    let rates = Rates::read(state)?;
    let from = after.map(|number| key::sector(id, number));
    let mut views = Vec::new();
    for (key, bytes) in page(state, &key::sectors_of(id), from, limit)? {
        let (id, number) =
            key::parse_sector(&key).ok_or_else(|| StoreError::corrupt(&key, "not a sector key"))?;
        views.push(sector_view(
            state,
            &rates,
            id,
            number,
            decode(&key, &bytes)?,
        )?);
    }
    Ok(views)
}

/// A pre-commitment, while it is one.
pub fn precommit(
    state: &dyn KvRead,
    id: ProviderId,
    number: SectorNumber,
) -> Result<Option<SectorView>, StoreError> {
    Ok(sector(state, id, number)?.filter(|view| view.status == SectorStatus::PreCommitted))
}

/// Pre-commitments among a page of [`sectors`].
pub fn precommits(
    state: &dyn KvRead,
    id: ProviderId,
    after: Option<SectorNumber>,
    limit: usize,
) -> Result<Vec<SectorView>, StoreError> {
    let mut views = sectors(state, id, after, limit)?;
    views.retain(|view| view.status == SectorStatus::PreCommitted);
    Ok(views)
}

/// What turns a sector's leaf into figures of today.
struct Rates {
    params: ChainParams,
    net: Network,
}

impl Rates {
    fn read(state: &dyn KvRead) -> Result<Self, StoreError> {
        Ok(Self {
            params: params(state)?,
            net: totals(state)?,
        })
    }
}

fn sector_view(
    state: &dyn KvRead,
    rates: &Rates,
    provider: ProviderId,
    number: SectorNumber,
    leaf: SectorLeaf,
) -> Result<SectorView, StoreError> {
    let empty = |status, comm_r| SectorView {
        provider,
        number,
        status,
        comm_r,
        comm_d: None,
        ticket: None,
        seed: None,
        seed_epoch: None,
        prove_until: None,
        precommitted: None,
        deposit: None,
        activation: None,
        expiration: None,
        deals: Vec::new(),
        power: None,
        pledge: None,
        fault_fee: None,
        faulty_since: None,
        deadline: None,
        partition: None,
        ended: None,
    };
    Ok(match leaf {
        SectorLeaf::PreCommitted(pre) => {
            let seed_epoch = pre.epoch.after(rates.params.seed_delay);
            let seed = randomness::of_provider(state, Tag::SealSeed, seed_epoch, provider)?;
            // Its time is counted in lit epochs: who took an outage for a part of it would give the deposit up.
            let timer = (pre.epoch, EpochCount(rates.params.precommit_max.0 + 1));
            let last = last_before(state, &rates.net, timer)?;
            SectorView {
                comm_d: Some(pre.comm_d),
                ticket: Some(pre.ticket),
                seed: seed.map(randomness::seed),
                seed_epoch: Some(seed_epoch),
                prove_until: Some(last),
                precommitted: Some(pre.epoch),
                deposit: Some(pre.deposit),
                expiration: Some(pre.expiration),
                deals: pre.deals,
                ..empty(SectorStatus::PreCommitted, pre.comm_r)
            }
        }
        SectorLeaf::Committed(sector) => {
            let state = sector_state(state, provider, number, &sector)?;
            let fee = slash::fault_fee(&rates.params, &rates.net, sector.power, sector.pledge);
            SectorView {
                comm_d: Some(sector.comm_d),
                ticket: Some(sector.ticket),
                seed: Some(sector.seed),
                activation: Some(sector.activation),
                expiration: Some(sector.expiration),
                deals: sector.deals,
                power: Some(sector.power),
                pledge: Some(sector.pledge),
                fault_fee: Some(fee),
                faulty_since: state.faulty_since(),
                deadline: Some(sector.deadline),
                partition: Some(sector.partition),
                ..empty(SectorStatus::of_state(state), sector.comm_r)
            }
        }
        SectorLeaf::Ended(end) => SectorView {
            ended: Some(end.epoch),
            ..empty(SectorStatus::of_end(end.how), end.comm_r)
        },
    })
}

fn sector_state(
    state: &dyn KvRead,
    id: ProviderId,
    number: SectorNumber,
    sector: &Sector,
) -> Result<SectorState, StoreError> {
    let key = key::partition(id, sector.deadline, sector.partition);
    let partition: Partition = read(state, &key)?.unwrap_or_default();
    let slot = partition.slots.iter().find(|slot| slot.number == number);
    slot.map(|slot| slot.state)
        .ok_or_else(|| StoreError::corrupt(&key, format!("sector {number} is not in it")))
}

/// The last epoch in which a published deal's sector may still be proven: its start, put off by every outage since it was
/// published. Of a deal that waits no more, its start.
pub fn begin_by(state: &dyn KvRead, net: &Network, deal: &Deal) -> Result<Epoch, StoreError> {
    match deal.status {
        DealStatus::Published => last_before(state, net, activation_timer(deal)),
        _ => Ok(deal.proposal.start),
    }
}

/// The last epoch before the end of a timer that runs, if no epoch is dark from now on.
fn last_before(
    state: &dyn KvRead,
    net: &Network,
    timer: (Epoch, EpochCount),
) -> Result<Epoch, StoreError> {
    let left = lit::lacking(state, net, timer, net.epoch)?;
    Ok(net.epoch.after(left).before(EpochCount(1)))
}

/// A deal.
pub fn deal(state: &dyn KvRead, id: &DealId) -> Result<Option<DealView>, StoreError> {
    let Some(deal) = read::<Deal>(state, &key::deal(id))? else {
        return Ok(None);
    };
    let sector_status = match deal.sector {
        Some(number) => sector(state, deal.proposal.provider, number)?.map(|view| view.status),
        None => None,
    };
    Ok(Some(DealView {
        id: *id,
        locked: deal.locked(),
        sector_status,
        status: deal.status,
        published: deal.published,
        sector: deal.sector,
        settled: deal.settled,
        paid: deal.paid,
        refunded: deal.refunded,
        ended: deal.ended,
        proposal: deal.proposal,
    }))
}

/// Deals of a client in id order, after `after`.
pub fn deals_of_client(
    state: &dyn KvRead,
    client: &Address,
    after: Option<DealId>,
    limit: usize,
) -> Result<Vec<DealView>, StoreError> {
    let from = after.map(|id| key::client_deal(client, &id));
    indexed_deals(state, &key::deals_of_client(client), from, limit)
}

/// Deals of a provider in id order, after `after`.
pub fn deals_of_provider(
    state: &dyn KvRead,
    id: ProviderId,
    after: Option<DealId>,
    limit: usize,
) -> Result<Vec<DealView>, StoreError> {
    let from = after.map(|deal| key::provider_deal(id, &deal));
    indexed_deals(state, &key::deals_of_provider(id), from, limit)
}

fn indexed_deals(
    state: &dyn KvRead,
    prefix: &[u8],
    from: Option<Vec<u8>>,
    limit: usize,
) -> Result<Vec<DealView>, StoreError> {
    let mut views = Vec::new();
    for (key, _) in page(state, prefix, from, limit)? {
        let id = key::last_32(&key)
            .map(DealId)
            .ok_or_else(|| StoreError::corrupt(&key, "not a deal index"))?;
        views.push(deal(state, &id)?.ok_or_else(|| StoreError::corrupt(&key, "names no deal"))?);
    }
    Ok(views)
}

/// All deadlines of a provider, in index order, as the next block will see them.
pub fn deadlines(
    state: &dyn KvRead,
    id: ProviderId,
) -> Result<Option<Vec<DeadlineView>>, StoreError> {
    let Some(provider) = read::<Provider>(state, &key::provider(id))? else {
        return Ok(None);
    };
    let params = params(state)?;
    let next = totals(state)?.epoch.next();
    let schedule = Schedule::of(&params, &provider);
    let mut views = Vec::with_capacity(params.deadlines.into());
    for index in 0..params.deadlines {
        let leaf: Deadline = read(state, &key::deadline(id, index))?.unwrap_or_default();
        let window = schedule.occurrence(next, index, &leaf);
        let partitions = partitions(state, id, index)?;
        views.push(DeadlineView {
            index,
            window,
            is_open: window.open <= next,
            partitions,
        });
    }
    Ok(Some(views))
}

fn partitions(
    state: &dyn KvRead,
    id: ProviderId,
    deadline: u16,
) -> Result<Vec<PartitionView>, StoreError> {
    let counts: Deadline = read(state, &key::deadline(id, deadline))?.unwrap_or_default();
    let mut views = Vec::new();
    for (index, &count) in (0u32..).zip(&counts.partitions) {
        if count > 0 {
            let partition: Partition =
                read(state, &key::partition(id, deadline, index))?.unwrap_or_default();
            views.push(PartitionView {
                index,
                posted: partition.posted,
                sectors: partition.slots,
            });
        }
    }
    Ok(views)
}

/// Randomness of a provider: its ticket, seed, window PoSt challenge or offset of an epoch. `None` when the epoch's beacon
/// is not on chain yet, or no longer kept.
pub fn randomness(
    state: &dyn KvRead,
    tag: Tag,
    epoch: Epoch,
    provider: ProviderId,
) -> Result<Option<[u8; 32]>, StoreError> {
    randomness::of_provider(state, tag, epoch, provider)
}

/// The beacon's value of an epoch, while it is kept.
pub fn beacon(state: &dyn KvRead, epoch: Epoch) -> Result<Option<[u8; 32]>, StoreError> {
    read(state, &key::beacon(epoch))
}

/// What a sector would cost at present rates.
pub fn sector_quote(
    state: &dyn KvRead,
    size: SectorSize,
    life: EpochCount,
) -> Result<SectorQuote, StoreError> {
    let Rates { params, net } = Rates::read(state)?;
    let power = quality_power(size.bytes(), life, 0, params.quality_verified)
        .map_err(|_| StoreError::corrupt(&[], "a sector's power does not fit 128 bits"))?;
    let baseline = reward::baseline(&params, net.epoch);
    Ok(SectorQuote {
        deposit: slash::precommit_deposit(&params, &net, power),
        pledge: slash::pledge(&params, &net, power, baseline),
    })
}

/// The least collateral that a deal's provider must lock at present rates. The rate moves a little every epoch: offer a
/// few percent more.
pub fn least_collateral(
    state: &dyn KvRead,
    size: PaddedPieceSize,
) -> Result<TokenAmount, StoreError> {
    let Rates { params, net } = Rates::read(state)?;
    // Publication happens in a later epoch; the baseline only grows, which lowers the bound.
    Ok(slash::deal_collateral(
        &params,
        &net,
        size.bytes(),
        reward::baseline(&params, net.epoch),
    ))
}

/// The pieces of a list of deals, in order: what a sector's CommD is computed from.
pub fn pieces(state: &dyn KvRead, deals: &[DealId]) -> Result<Option<Vec<PieceInfo>>, StoreError> {
    let mut pieces = Vec::with_capacity(deals.len().min(MAX_PAGE));
    for id in deals {
        let Some(deal) = read::<Deal>(state, &key::deal(id))? else {
            return Ok(None);
        };
        pieces.push(deal.proposal.piece());
    }
    Ok(Some(pieces))
}

/// One page of the entries under a prefix, after the key `after`.
fn page(
    state: &dyn KvRead,
    prefix: &[u8],
    after: Option<Vec<u8>>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let (first, until) = key::prefix_range(prefix);
    // The smallest key above `after` is that key with a zero byte behind it.
    let from = after.map_or(first, |mut after| {
        after.push(0);
        after
    });
    state.range(&from, &until, limit.min(MAX_PAGE))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::execute::genesis_writes;
    use crate::state::MemoryState;

    /// The totals and their figures read back from JSON, wide numbers included.
    #[test]
    fn the_network_view_survives_json() {
        let mut state = MemoryState::default();
        let accounts = BTreeMap::from([(Address([1; 32]), TokenAmount(1 << 99))]);
        state.commit(&genesis_writes(&ChainParams::devnet(), &accounts).expect("devnet is sound"));
        let view = network(&state).expect("memory");
        assert!(view.supply_holds);
        let json = serde_json::to_string(&view).expect("plain data");
        assert_eq!(
            serde_json::from_str::<NetworkView>(&json).expect("what was written"),
            view
        );
        let params = serde_json::to_string(&ChainParams::production()).expect("plain data");
        let back: ChainParams = serde_json::from_str(&params).expect("what was written");
        assert_eq!(back, ChainParams::production());
    }

    #[test]
    fn unknown_things_are_absent_and_unknown_accounts_are_empty() {
        let mut state = MemoryState::default();
        state.commit(
            &genesis_writes(&ChainParams::devnet(), &BTreeMap::new()).expect("devnet is sound"),
        );
        assert_eq!(provider(&state, ProviderId(1)), Ok(None));
        assert_eq!(sector(&state, ProviderId(1), SectorNumber(1)), Ok(None));
        assert_eq!(deal(&state, &DealId::default()), Ok(None));
        assert_eq!(deadlines(&state, ProviderId(1)), Ok(None));
        assert_eq!(pieces(&state, &[DealId::default()]), Ok(None));
        assert_eq!(
            account(&state, &Address([1; 32])).map(|view| (view.free.0, view.nonce)),
            Ok((0, 0))
        );
        assert!(
            network(&MemoryState::default()).is_err(),
            "a state without a genesis is damaged"
        );
    }
}
