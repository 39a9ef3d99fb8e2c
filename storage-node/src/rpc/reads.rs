//! Reads of the state as the RPC answers them: a snapshot comes in, a [`wire`] value goes out. Pure.
//!
//! Place: between [`super`] (the socket) and `chain_lite::state`. Every list is paged with a stated bound, so an answer's
//! size and the time it takes do not depend on how long the chain has been running.

use chain_lite::account::{Account, Address, DealId, ProviderId};
use chain_lite::datacap::DataCap;
use chain_lite::deal::Deal;
use chain_lite::error::StoreError;
use chain_lite::market::Escrow;
use chain_lite::params::ChainParams;
use chain_lite::provider::Provider;
use chain_lite::sector::deadline::Schedule;
use chain_lite::sector::{Partition, SectorLeaf, SectorState};
use chain_lite::state::{KvRead, Network, key, read};
use chain_lite::units::{Epoch, StoragePower};
use chain_lite::{query, reward, slash};
use prover::SectorNumber;

use crate::chain::wire::{
    AccountView, DealView, DealsOf, Head, MAX_PAGE, MAX_PICTURE_ENTRIES, NetworkView, Page,
    PartitionSector, PartitionView, PictureDeal, PictureQuery, ProviderPicture, ProviderView,
    QuoteView, SectorView,
};

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The node's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state lacks what every state has: a bug or a damaged store.
    #[error("the state has no {0}; restart the node, it rebuilds its index from the block log")]
    Incomplete(&'static str),
    /// More was asked for than one answer may hold.
    #[error("{what}: {asked} asked for, at most {limit} at once")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// Asked for.
        asked: usize,
        /// The limit.
        limit: usize,
    },
}

/// The chain's constants.
pub fn params(state: &dyn KvRead) -> Result<ChainParams, ReadError> {
    read(state, &key::params())?.ok_or(ReadError::Incomplete("parameters"))
}

/// The network's totals.
pub fn network(state: &dyn KvRead) -> Result<Network, ReadError> {
    read(state, &key::network())?.ok_or(ReadError::Incomplete("network totals"))
}

/// The network in numbers.
pub fn network_view(state: &dyn KvRead) -> Result<NetworkView, ReadError> {
    let net = network(state)?;
    Ok(NetworkView {
        raw_power: net.raw_power,
        power: net.power,
        minted: net.minted,
        burnt: net.burnt,
        genesis: net.genesis,
        reward_pool: net.reward_pool,
        market_locked: net.escrow_locked,
        circulating: net.circulating(),
        beacon_tip: net.beacon_tip,
    })
}

/// Ends of the runs of dark epochs that ended after `after`, in order.
pub fn dark_runs(state: &dyn KvRead, after: Epoch, limit: u32) -> Result<Page<Epoch>, ReadError> {
    let from = Some(key::dark_run(after));
    page(state, &key::dark_runs(), from, limit, |key, _| {
        Ok(key::parse_dark_run(key))
    })
}

/// An account's money. `pending` is the nonce after what waits in the pool, if anything does.
pub fn account(
    state: &dyn KvRead,
    address: &Address,
    pending: Option<u64>,
) -> Result<AccountView, ReadError> {
    let account: Account = read(state, &key::account(address))?.unwrap_or_default();
    Ok(AccountView {
        free: account.free,
        nonce: account.nonce,
        next_nonce: pending.unwrap_or(account.nonce).max(account.nonce),
        escrow: escrow(state, address)?,
    })
}

fn escrow(state: &dyn KvRead, address: &Address) -> Result<Escrow, ReadError> {
    Ok(read(state, &key::market(address))?.unwrap_or_default())
}

/// What an account may grant and may store as verified deals.
pub fn datacap(state: &dyn KvRead, address: &Address) -> Result<DataCap, ReadError> {
    Ok(query::datacap(state, address)?)
}

/// A provider with its derived numbers.
pub fn provider(state: &dyn KvRead, id: ProviderId) -> Result<Option<ProviderView>, ReadError> {
    read::<Provider>(state, &key::provider(id))?
        .map(|provider| provider_view(state, provider))
        .transpose()
}

fn provider_view(state: &dyn KvRead, provider: Provider) -> Result<ProviderView, ReadError> {
    Ok(ProviderView {
        escrow: escrow(state, &provider.owner)?,
        available: provider.available(),
        provider,
    })
}

/// Providers after `after`, in order.
pub fn providers(
    state: &dyn KvRead,
    after: Option<ProviderId>,
    limit: u32,
) -> Result<Page<ProviderView>, ReadError> {
    let from = after.map(key::provider);
    page(state, &key::providers(), from, limit, |key, bytes| {
        let provider: Provider = chain_lite::state::decode(key, bytes)?;
        provider_view(state, provider).map(Some)
    })
}

/// A deal.
pub fn deal(state: &dyn KvRead, id: &DealId) -> Result<Option<DealView>, ReadError> {
    Ok(read::<Deal>(state, &key::deal(id))?.map(|deal| DealView { id: *id, deal }))
}

/// Deals of a client or provider after `after`, in order of their ids.
pub fn deals(
    state: &dyn KvRead,
    of: DealsOf,
    after: Option<DealId>,
    limit: u32,
) -> Result<Page<DealView>, ReadError> {
    let (prefix, from) = match of {
        DealsOf::Client(client) => (
            key::deals_of_client(&client),
            after.map(|id| key::client_deal(&client, &id)),
        ),
        DealsOf::Provider(provider) => (
            key::deals_of_provider(provider),
            after.map(|id| key::provider_deal(provider, &id)),
        ),
    };
    page(state, &prefix, from, limit, |key, _| {
        let id = key::last_32(key).ok_or(ReadError::Incomplete("deal id in its index"))?;
        deal(state, &DealId(id))
    })
}

/// A sector number of a provider.
pub fn sector(
    state: &dyn KvRead,
    provider: ProviderId,
    number: SectorNumber,
) -> Result<Option<SectorView>, ReadError> {
    read::<SectorLeaf>(state, &key::sector(provider, number))?
        .map(|leaf| sector_view(state, provider, number, leaf))
        .transpose()
}

fn sector_view(
    state: &dyn KvRead,
    provider: ProviderId,
    number: SectorNumber,
    leaf: SectorLeaf,
) -> Result<SectorView, ReadError> {
    let state = match &leaf {
        SectorLeaf::Committed(sector) => {
            slot_state(state, provider, sector.deadline, sector.partition, number)?
        }
        SectorLeaf::PreCommitted(_) | SectorLeaf::Ended(_) => None,
    };
    Ok(SectorView {
        number,
        leaf,
        state,
    })
}

fn slot_state(
    state: &dyn KvRead,
    provider: ProviderId,
    deadline: u16,
    partition: u32,
    number: SectorNumber,
) -> Result<Option<SectorState>, ReadError> {
    let partition: Partition =
        read(state, &key::partition(provider, deadline, partition))?.unwrap_or_default();
    Ok(partition
        .slots
        .iter()
        .find(|slot| slot.number == number)
        .map(|slot| slot.state))
}

/// Sector numbers of a provider after `after`, in order.
pub fn sectors(
    state: &dyn KvRead,
    provider: ProviderId,
    after: Option<SectorNumber>,
    limit: u32,
) -> Result<Page<SectorView>, ReadError> {
    let prefix = key::sectors_of(provider);
    let from = after.map(|number| key::sector(provider, number));
    page(state, &prefix, from, limit, |key, bytes| {
        let (_, number) =
            key::parse_sector(key).ok_or(ReadError::Incomplete("number in a sector's key"))?;
        let leaf: SectorLeaf = chain_lite::state::decode(key, bytes)?;
        sector_view(state, provider, number, leaf).map(Some)
    })
}

/// A provider's partitions that hold sectors, each in the occurrence of its deadline that is open at `now` or comes next.
pub fn partitions(
    state: &dyn KvRead,
    provider: &Provider,
    now: Epoch,
) -> Result<Vec<PartitionView>, ReadError> {
    let params = params(state)?;
    let schedule = Schedule::of(&params, provider);
    let mut views = Vec::new();
    for deadline in 0..params.deadlines {
        let leaf: chain_lite::sector::Deadline =
            read(state, &key::deadline(provider.id, deadline))?.unwrap_or_default();
        let window = schedule.occurrence(now, deadline, &leaf);
        for (index, count) in (0u32..).zip(&leaf.partitions) {
            if *count == 0 {
                continue;
            }
            let partition: Partition =
                read(state, &key::partition(provider.id, deadline, index))?.unwrap_or_default();
            views.push(PartitionView {
                deadline,
                partition: index,
                challenge: window.challenge,
                open: window.open,
                close: window.close,
                posted: partition.posted,
                sectors: partition_sectors(state, provider.id, &partition)?,
            });
        }
    }
    Ok(views)
}

fn partition_sectors(
    state: &dyn KvRead,
    provider: ProviderId,
    partition: &Partition,
) -> Result<Vec<PartitionSector>, ReadError> {
    partition
        .slots
        .iter()
        .map(
            |slot| match read::<SectorLeaf>(state, &key::sector(provider, slot.number))? {
                Some(SectorLeaf::Committed(sector)) => Ok(PartitionSector {
                    number: slot.number,
                    comm_r: sector.comm_r,
                    state: slot.state,
                }),
                _ => Err(ReadError::Incomplete("committed sector of a partition")),
            },
        )
        .collect()
}

/// Everything a provider process follows.
pub fn picture(
    state: &dyn KvRead,
    head: Head,
    id: ProviderId,
    query: &PictureQuery,
) -> Result<Option<ProviderPicture>, ReadError> {
    for (what, asked) in [
        ("deals", query.deals.len()),
        ("sectors", query.sectors.len()),
    ] {
        if asked > MAX_PICTURE_ENTRIES {
            return Err(ReadError::TooMany {
                what,
                asked,
                limit: MAX_PICTURE_ENTRIES,
            });
        }
    }
    let Some(provider) = provider(state, id)? else {
        return Ok(None);
    };
    let net = network(state)?;
    let mut deals = Vec::new();
    for deal in &query.deals {
        if let Some(found) = read::<Deal>(state, &key::deal(deal))?
            && found.proposal.provider == id
        {
            deals.push(PictureDeal {
                id: *deal,
                status: found.status,
                begin_by: query::begin_by(state, &net, &found)?,
            });
        }
    }
    let mut precommits = Vec::new();
    for number in &query.sectors {
        if let Some(SectorLeaf::PreCommitted(precommit)) = read(state, &key::sector(id, *number))? {
            precommits.push((*number, precommit.epoch));
        }
    }
    Ok(Some(ProviderPicture {
        head,
        deals,
        precommits,
        partitions: partitions(state, &provider.provider, head.epoch)?,
        provider,
    }))
}

/// What a deal or sector of `bytes` padded bytes costs at present rates.
pub fn quote(state: &dyn KvRead, bytes: u64) -> Result<QuoteView, ReadError> {
    let (params, net) = (params(state)?, network(state)?);
    let baseline = reward::baseline(&params, net.epoch);
    // Without verified deals a byte's power is a byte (`chain.md` §8).
    let power = StoragePower(u128::from(bytes));
    Ok(QuoteView {
        deal_collateral: slash::deal_collateral(&params, &net, bytes, baseline),
        precommit_deposit: slash::precommit_deposit(&params, &net, power),
        pledge: slash::pledge(&params, &net, power, baseline),
    })
}

/// One page under `prefix`, after key `after`; entries that `make` skips do not count.
fn page<T>(
    state: &dyn KvRead,
    prefix: &[u8],
    after: Option<Vec<u8>>,
    limit: u32,
    make: impl Fn(&[u8], &[u8]) -> Result<Option<T>, ReadError>,
) -> Result<Page<T>, ReadError> {
    let limit = limit.clamp(1, MAX_PAGE) as usize;
    let (first, until) = key::prefix_range(prefix);
    // The smallest key above `after` is `after` with a zero byte behind it.
    let from = after.map_or(first, |mut key| {
        key.push(0);
        key
    });
    let mut entries = state.range(&from, &until, limit + 1)?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let mut items = Vec::with_capacity(entries.len());
    for (key, bytes) in &entries {
        items.extend(make(key, bytes)?);
    }
    Ok(Page { items, more })
}
