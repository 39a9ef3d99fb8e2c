//! Every key of the state, in one place.
//!
//! A key is one tag byte and the fields of what it names, fixed width, big-endian, so that a range scan runs in order of
//! id or epoch. Tags below 0x80 are **leaves**: the state root commits to them. Tags from 0x80 up are **indexes**: they
//! make due work findable, follow from the leaves ([`crate::invariants::indexes`] recomputes them) and stay outside the
//! root.
//!
//! | tag | leaf | rest of the key | value |
//! |---|---|---|---|
//! | 01 | parameters | | [`crate::params::ChainParams`] |
//! | 02 | network | | [`crate::state::Network`] |
//! | 03 | account | address | [`crate::account::Account`] |
//! | 04 | market | address | [`crate::market::Escrow`] |
//! | 05 | provider | id | [`crate::provider::Provider`] |
//! | 06 | vesting queue | provider | [`crate::reward::Vesting`] |
//! | 07 | deadline | provider, index u16 | [`crate::sector::Deadline`] |
//! | 08 | partition | provider, deadline u16, index u32 | [`crate::sector::Partition`] |
//! | 09 | sector number | provider, number | [`crate::sector::SectorLeaf`] |
//! | 0a | deal | deal id | [`crate::deal::Deal`] |
//! | 0b | beacon | epoch | 32 bytes of randomness |
//! | 0c | validators | | [`crate::certificate::ValidatorSet`] of the next height |
//! | 40 | next validators | | the set of the height after the next, while it differs |
//! | 41 | governance | | [`crate::governance::Governance`] |
//! | 42 | validator's record | key | [`crate::governance::Record`] |
//! | 10 | payment channel | id | [`crate::channel::Channel`] |
//! | 11 | DataCap | address | [`crate::datacap::DataCap`] |
//! | 12 | stored window PoSt | provider, deadline u16, partition u32, close | [`crate::sector::dispute::StoredPost`] |
//! | 13 | announced dispute | sender, digest | [`Epoch`] of the announcement |
//! | 14 | run of dark epochs | first epoch after it | [`crate::lit::DarkRun`] |
//!
//! | tag | index | rest of the key |
//! |---|---|---|
//! | 80 | deadline closes | epoch, provider, deadline u16 |
//! | 81 | pre-commitment expires | epoch, provider, number |
//! | 82 | deal must be active | epoch, deal id |
//! | 83 | CommR in use | CommR → provider, number |
//! | 84 | deals of a provider | provider, deal id |
//! | 85 | deals of a client | address, deal id |
//! | 86 | nonce of a client's deals | address, nonce → deal id |
//! | 90 | stored window PoSt is forgotten | epoch, then as in 12 |
//! | 91 | announced dispute is forgotten | epoch, sender, digest |

use holdfast_light::leaf::FIRST_INDEX;
use prover::{CommR, SectorNumber};

use crate::account::{Address, ChannelId, DealId, DisputeDigest, ProviderId};
use crate::certificate::ValidatorId;
use crate::sector::dispute::PostId;
use crate::units::Epoch;

pub use holdfast_light::leaf::is_leaf;

/// A key of the state.
pub type Key = Vec<u8>;

const PARAMS: u8 = 0x01;
const NETWORK: u8 = 0x02;
const ACCOUNT: u8 = 0x03;
const MARKET: u8 = 0x04;
const PROVIDER: u8 = 0x05;
const VESTING: u8 = 0x06;
const DEADLINE: u8 = 0x07;
const PARTITION: u8 = 0x08;
const SECTOR: u8 = 0x09;
const DEAL: u8 = 0x0a;
const BEACON: u8 = 0x0b;
const VALIDATORS: u8 = 0x0c;
const NEXT_VALIDATORS: u8 = 0x40;
const GOVERNANCE: u8 = 0x41;
const VALIDATOR: u8 = 0x42;
const CHANNEL: u8 = 0x10;
const DATACAP: u8 = 0x11;
const STORED_POST: u8 = 0x12;
const ANNOUNCEMENT: u8 = 0x13;
const DARK_RUN: u8 = 0x14;
const CLOSE: u8 = FIRST_INDEX;
const PRECOMMIT_DUE: u8 = 0x81;
const DEAL_DUE: u8 = 0x82;
const COMM_R: u8 = 0x83;
const PROVIDER_DEALS: u8 = 0x84;
const CLIENT_DEALS: u8 = 0x85;
const CLIENT_NONCES: u8 = 0x86;
const DISPUTE_DUE: u8 = 0x90;
const ANNOUNCEMENT_DUE: u8 = 0x91;

/// Bytes of a key with this tag; `None` for a tag that is nobody's.
pub const fn length_of(tag: u8) -> Option<usize> {
    Some(match tag {
        PARAMS | NETWORK | VALIDATORS | NEXT_VALIDATORS | GOVERNANCE => 1,
        PROVIDER | VESTING | BEACON | CHANNEL | DARK_RUN => 1 + 8,
        DEADLINE => 1 + 10,
        PARTITION => 1 + 14,
        SECTOR => 1 + 16,
        CLOSE => 1 + 18,
        STORED_POST => 1 + 22,
        PRECOMMIT_DUE => 1 + 24,
        DISPUTE_DUE => 1 + 8 + 22,
        ACCOUNT | MARKET | DEAL | VALIDATOR | DATACAP | COMM_R => 1 + 32,
        DEAL_DUE | PROVIDER_DEALS | CLIENT_NONCES => 1 + 8 + 32,
        ANNOUNCEMENT | CLIENT_DEALS => 1 + 64,
        ANNOUNCEMENT_DUE => 1 + 8 + 64,
        _ => return None,
    })
}

/// The tags of all indexes.
pub const INDEX_TAGS: [u8; 9] = [
    CLOSE,
    PRECOMMIT_DUE,
    DEAL_DUE,
    COMM_R,
    PROVIDER_DEALS,
    CLIENT_DEALS,
    CLIENT_NONCES,
    DISPUTE_DUE,
    ANNOUNCEMENT_DUE,
];

/// The least key of an index: all leaves are below it.
pub fn first_index() -> Key {
    vec![FIRST_INDEX]
}

/// The keys that begin with `prefix`: from (inclusive) and until (exclusive).
pub fn prefix_range(prefix: &[u8]) -> (Key, Key) {
    let mut until = prefix.to_vec();
    // The next key after all that share the prefix: drop trailing 0xff, then count the last byte up.
    while until.last() == Some(&0xff) {
        until.pop();
    }
    match until.last_mut() {
        Some(last) => *last += 1,
        // Only 0xff bytes: no tag is 0xff, so nothing of ours lies above; one more byte than any key bounds them.
        None => until = vec![0xff; prefix.len() + 64],
    }
    (prefix.to_vec(), until)
}

fn key(tag: u8, parts: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// The chain's constants.
pub fn params() -> Key {
    vec![PARAMS]
}
/// The network's totals.
pub fn network() -> Key {
    vec![NETWORK]
}
/// The validators of the next height.
pub fn validators() -> Key {
    vec![VALIDATORS]
}
/// The validators of the height after the next, while they differ.
pub fn next_validators() -> Key {
    vec![NEXT_VALIDATORS]
}
/// How often the validators were changed.
pub fn governance() -> Key {
    vec![GOVERNANCE]
}
/// What is remembered of a validator.
pub fn validator(id: &ValidatorId) -> Key {
    key(VALIDATOR, &[&id.0])
}
/// What is remembered of all validators.
pub fn validator_records() -> Key {
    vec![VALIDATOR]
}
/// An account.
pub fn account(address: &Address) -> Key {
    key(ACCOUNT, &[&address.0])
}
/// All accounts.
pub fn accounts() -> Key {
    vec![ACCOUNT]
}
/// An account's escrow.
pub fn market(address: &Address) -> Key {
    key(MARKET, &[&address.0])
}
/// All escrows.
pub fn markets() -> Key {
    vec![MARKET]
}
/// A provider.
pub fn provider(id: ProviderId) -> Key {
    key(PROVIDER, &[&id.0.to_be_bytes()])
}
/// All providers.
pub fn providers() -> Key {
    vec![PROVIDER]
}
/// A provider's vesting queue.
pub fn vesting(id: ProviderId) -> Key {
    key(VESTING, &[&id.0.to_be_bytes()])
}
/// All vesting queues.
pub fn vestings() -> Key {
    vec![VESTING]
}
/// One deadline of a provider.
pub fn deadline(id: ProviderId, deadline: u16) -> Key {
    key(DEADLINE, &[&id.0.to_be_bytes(), &deadline.to_be_bytes()])
}
/// All deadlines of all providers.
pub fn deadlines() -> Key {
    vec![DEADLINE]
}
/// One partition.
pub fn partition(id: ProviderId, deadline: u16, partition: u32) -> Key {
    key(
        PARTITION,
        &[
            &id.0.to_be_bytes(),
            &deadline.to_be_bytes(),
            &partition.to_be_bytes(),
        ],
    )
}
/// All partitions of all providers.
pub fn partitions() -> Key {
    vec![PARTITION]
}
/// One sector number of a provider.
pub fn sector(id: ProviderId, number: SectorNumber) -> Key {
    key(SECTOR, &[&id.0.to_be_bytes(), &number.0.to_be_bytes()])
}
/// All sector numbers of a provider.
pub fn sectors_of(id: ProviderId) -> Key {
    key(SECTOR, &[&id.0.to_be_bytes()])
}
/// All sector numbers of all providers.
pub fn sectors() -> Key {
    vec![SECTOR]
}
/// A deal.
pub fn deal(id: &DealId) -> Key {
    key(DEAL, &[&id.0])
}
/// All deals.
pub fn deals() -> Key {
    vec![DEAL]
}
/// The beacon's value of an epoch.
pub fn beacon(epoch: Epoch) -> Key {
    key(BEACON, &[&epoch.0.to_be_bytes()])
}
/// All beacon values kept.
pub fn beacons() -> Key {
    vec![BEACON]
}
/// A payment channel.
pub fn channel(id: ChannelId) -> Key {
    key(CHANNEL, &[&id.0.to_be_bytes()])
}
/// All payment channels.
pub fn channels() -> Key {
    vec![CHANNEL]
}
/// An address's DataCap.
pub fn datacap(address: &Address) -> Key {
    key(DATACAP, &[&address.0])
}
/// Everybody's DataCap.
pub fn datacaps() -> Key {
    vec![DATACAP]
}
/// The run of dark epochs that ends before `until`.
pub fn dark_run(until: Epoch) -> Key {
    key(DARK_RUN, &[&until.0.to_be_bytes()])
}
/// All runs of dark epochs.
pub fn dark_runs() -> Key {
    vec![DARK_RUN]
}
/// Reads back [`dark_run`].
pub fn parse_dark_run(key: &[u8]) -> Option<Epoch> {
    let [until] = words::<1>(key.get(1..)?)?;
    Some(Epoch(until))
}
/// Reads back [`beacon`].
pub fn parse_beacon(key: &[u8]) -> Option<Epoch> {
    let [epoch] = words::<1>(key.get(1..)?)?;
    Some(Epoch(epoch))
}
/// The fields of a stored post's name.
fn post_fields(id: &PostId) -> Vec<u8> {
    [
        id.provider.0.to_be_bytes().as_slice(),
        &id.deadline.to_be_bytes(),
        &id.partition.to_be_bytes(),
        &id.close.0.to_be_bytes(),
    ]
    .concat()
}
/// A stored window PoSt.
pub fn post(id: &PostId) -> Key {
    key(STORED_POST, &[&post_fields(id)])
}
/// All stored window PoSts.
pub fn posts() -> Key {
    vec![STORED_POST]
}
/// Reads back [`post`].
pub fn parse_post(key: &[u8]) -> Option<PostId> {
    let (provider, deadline, partition) = parse_partition(key.get(..15)?)?;
    let [close] = words::<1>(key.get(15..)?)?;
    Some(PostId {
        provider,
        deadline,
        partition,
        close: Epoch(close),
    })
}
/// An announced dispute.
pub fn announcement(sender: &Address, digest: &DisputeDigest) -> Key {
    key(ANNOUNCEMENT, &[&sender.0, &digest.0])
}
/// All announced disputes.
pub fn announcements() -> Key {
    vec![ANNOUNCEMENT]
}
/// Reads back [`announcement`].
pub fn parse_announcement(key: &[u8]) -> Option<(Address, DisputeDigest)> {
    let (sender, digest) = key.get(1..)?.split_first_chunk::<32>()?;
    Some((Address(*sender), DisputeDigest(digest.try_into().ok()?)))
}
/// Id of a key made by [`channel`].
pub fn parse_channel(key: &[u8]) -> Option<ChannelId> {
    let [id] = words::<1>(key.get(1..)?)?;
    Some(ChannelId(id))
}

/// Index: a provider's deadline closes at an epoch.
pub fn close(epoch: Epoch, id: ProviderId, deadline: u16) -> Key {
    key(
        CLOSE,
        &[
            &epoch.0.to_be_bytes(),
            &id.0.to_be_bytes(),
            &deadline.to_be_bytes(),
        ],
    )
}
/// All closes up to the given epoch, as a range.
pub fn closes_until(epoch: Epoch) -> (Key, Key) {
    (vec![CLOSE], key(CLOSE, &[&epoch.next().0.to_be_bytes()]))
}
/// Reads back [`close`].
pub fn parse_close(key: &[u8]) -> Option<(Epoch, ProviderId, u16)> {
    let [epoch, id] = words::<2>(key.get(1..17)?)?;
    let deadline = u16::from_be_bytes(key.get(17..)?.try_into().ok()?);
    Some((Epoch(epoch), ProviderId(id), deadline))
}
/// Index: a pre-commitment expires at an epoch.
pub fn precommit_due(epoch: Epoch, id: ProviderId, number: SectorNumber) -> Key {
    key(
        PRECOMMIT_DUE,
        &[
            &epoch.0.to_be_bytes(),
            &id.0.to_be_bytes(),
            &number.0.to_be_bytes(),
        ],
    )
}
/// All pre-commitments that expire up to the given epoch, as a range.
pub fn precommits_due_until(epoch: Epoch) -> (Key, Key) {
    (
        vec![PRECOMMIT_DUE],
        key(PRECOMMIT_DUE, &[&epoch.next().0.to_be_bytes()]),
    )
}
/// Reads back [`precommit_due`].
pub fn parse_precommit_due(key: &[u8]) -> Option<(Epoch, ProviderId, SectorNumber)> {
    let [epoch, id, number] = words::<3>(key.get(1..)?)?;
    Some((Epoch(epoch), ProviderId(id), SectorNumber(number)))
}
/// Index: a published deal is broken at an epoch, unless it is active by then.
pub fn deal_due(epoch: Epoch, deal: &DealId) -> Key {
    key(DEAL_DUE, &[&epoch.0.to_be_bytes(), &deal.0])
}
/// All deals that are due up to the given epoch, as a range.
pub fn deals_due_until(epoch: Epoch) -> (Key, Key) {
    (
        vec![DEAL_DUE],
        key(DEAL_DUE, &[&epoch.next().0.to_be_bytes()]),
    )
}
/// Reads back [`deal_due`].
pub fn parse_deal_due(key: &[u8]) -> Option<(Epoch, DealId)> {
    let [epoch] = words::<1>(key.get(1..9)?)?;
    Some((Epoch(epoch), DealId(key.get(9..)?.try_into().ok()?)))
}
/// Index: a stored window PoSt is forgotten at an epoch.
pub fn dispute_due(epoch: Epoch, id: &PostId) -> Key {
    key(DISPUTE_DUE, &[&epoch.0.to_be_bytes(), &post_fields(id)])
}
/// All stored window PoSts that are forgotten up to the given epoch, as a range.
pub fn disputes_due_until(epoch: Epoch) -> (Key, Key) {
    (
        vec![DISPUTE_DUE],
        key(DISPUTE_DUE, &[&epoch.next().0.to_be_bytes()]),
    )
}
/// Reads back [`dispute_due`].
pub fn parse_dispute_due(key: &[u8]) -> Option<PostId> {
    parse_post(key.get(8..)?)
}
/// Index: an announced dispute is forgotten at an epoch.
pub fn announcement_due(epoch: Epoch, sender: &Address, digest: &DisputeDigest) -> Key {
    key(
        ANNOUNCEMENT_DUE,
        &[&epoch.0.to_be_bytes(), &sender.0, &digest.0],
    )
}
/// All announced disputes that are forgotten up to the given epoch, as a range.
pub fn announcements_due_until(epoch: Epoch) -> (Key, Key) {
    (
        vec![ANNOUNCEMENT_DUE],
        key(ANNOUNCEMENT_DUE, &[&epoch.next().0.to_be_bytes()]),
    )
}
/// Reads back [`announcement_due`].
pub fn parse_announcement_due(key: &[u8]) -> Option<(Address, DisputeDigest)> {
    parse_announcement(key.get(8..)?)
}
/// Index: the live sector that holds a CommR.
pub fn comm_r(comm_r: &CommR) -> Key {
    key(COMM_R, &[comm_r.as_bytes()])
}
/// Index: one deal of a provider.
pub fn provider_deal(id: ProviderId, deal: &DealId) -> Key {
    key(PROVIDER_DEALS, &[&id.0.to_be_bytes(), &deal.0])
}
/// All deals of a provider.
pub fn deals_of_provider(id: ProviderId) -> Key {
    key(PROVIDER_DEALS, &[&id.0.to_be_bytes()])
}
/// Index: one deal of a client.
pub fn client_deal(client: &Address, deal: &DealId) -> Key {
    key(CLIENT_DEALS, &[&client.0, &deal.0])
}
/// All deals of a client.
pub fn deals_of_client(client: &Address) -> Key {
    key(CLIENT_DEALS, &[&client.0])
}
/// Index: the deal that used up a client's nonce.
pub fn client_nonce(client: &Address, nonce: u64) -> Key {
    key(CLIENT_NONCES, &[&client.0, &nonce.to_be_bytes()])
}
/// The 32 bytes at the end of a key: an address or a deal id.
pub fn last_32(key: &[u8]) -> Option<[u8; 32]> {
    key.last_chunk().copied()
}
/// Provider and number of a key made by [`sector`].
pub fn parse_sector(key: &[u8]) -> Option<(ProviderId, SectorNumber)> {
    let [id, number] = words::<2>(key.get(1..)?)?;
    Some((ProviderId(id), SectorNumber(number)))
}
/// Provider and index of a key made by [`deadline`].
pub fn parse_deadline(key: &[u8]) -> Option<(ProviderId, u16)> {
    let [id] = words::<1>(key.get(1..9)?)?;
    Some((
        ProviderId(id),
        u16::from_be_bytes(key.get(9..)?.try_into().ok()?),
    ))
}
/// Provider, deadline and index of a key made by [`partition`].
pub fn parse_partition(key: &[u8]) -> Option<(ProviderId, u16, u32)> {
    let (id, deadline) = parse_deadline(key.get(..11)?)?;
    Some((
        id,
        deadline,
        u32::from_be_bytes(key.get(11..)?.try_into().ok()?),
    ))
}
/// Provider of a key made by [`provider`] or [`vesting`].
pub fn parse_provider(key: &[u8]) -> Option<ProviderId> {
    let [id] = words::<1>(key.get(1..)?)?;
    Some(ProviderId(id))
}

/// Exactly `N` big-endian numbers.
fn words<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() || words.len() != N {
        return None;
    }
    let mut out = [0; N];
    for (slot, word) in out.iter_mut().zip(words) {
        *slot = u64::from_be_bytes(*word);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort_by_epoch() {
        let (id, number, deal_id) = (ProviderId(1000), SectorNumber(7), DealId([9; 32]));
        assert_eq!(
            parse_close(&close(Epoch(256), id, 3)),
            Some((Epoch(256), id, 3))
        );
        assert_eq!(
            parse_precommit_due(&precommit_due(Epoch(1), id, number)),
            Some((Epoch(1), id, number))
        );
        assert_eq!(
            parse_deal_due(&deal_due(Epoch(1), &deal_id)),
            Some((Epoch(1), deal_id))
        );
        assert_eq!(parse_sector(&sector(id, number)), Some((id, number)));
        assert_eq!(parse_deadline(&deadline(id, 5)), Some((id, 5)));
        assert_eq!(parse_partition(&partition(id, 5, 6)), Some((id, 5, 6)));
        assert_eq!(parse_provider(&provider(id)), Some(id));
        assert_eq!(
            last_32(&client_deal(&Address([1; 32]), &deal_id)),
            Some(deal_id.0)
        );
        assert_eq!(parse_close(&close(Epoch(1), id, 3)[..17]), None);
        assert!(close(Epoch(255), id, 3) < close(Epoch(256), id, 0));
        let (from, until) = closes_until(Epoch(255));
        assert!(from <= close(Epoch(0), ProviderId(0), 0));
        assert!(close(Epoch(255), ProviderId(u64::MAX), u16::MAX) < until);
        assert!(close(Epoch(256), ProviderId(0), 0) >= until);
    }

    #[test]
    fn every_key_has_the_length_of_its_tag() {
        let (epoch, id, number) = (Epoch(1), ProviderId(1000), SectorNumber(7));
        let (deal_id, address, digest) =
            (DealId([9; 32]), Address([1; 32]), DisputeDigest([2; 32]));
        let post_id = PostId {
            provider: id,
            deadline: 1,
            partition: 2,
            close: epoch,
        };
        let all = [
            params(),
            network(),
            account(&address),
            market(&address),
            provider(id),
            vesting(id),
            deadline(id, 1),
            partition(id, 1, 2),
            sector(id, number),
            deal(&deal_id),
            beacon(epoch),
            validators(),
            next_validators(),
            governance(),
            validator(&ValidatorId([3; 32])),
            channel(ChannelId(1)),
            datacap(&address),
            post(&post_id),
            announcement(&address, &digest),
            dark_run(epoch),
            close(epoch, id, 1),
            precommit_due(epoch, id, number),
            deal_due(epoch, &deal_id),
            comm_r(&CommR([0; 32])),
            provider_deal(id, &deal_id),
            client_deal(&address, &deal_id),
            client_nonce(&address, 1),
            dispute_due(epoch, &post_id),
            announcement_due(epoch, &address, &digest),
        ];
        for key in &all {
            assert_eq!(length_of(key[0]), Some(key.len()), "tag {:02x}", key[0]);
        }
        let tags = (0..=u8::MAX).filter(|tag| length_of(*tag).is_some());
        assert_eq!(
            tags.clone().count(),
            all.len(),
            "each tag has one kind of key"
        );
        let indexes: Vec<u8> = tags.filter(|tag| !is_leaf(&[*tag])).collect();
        assert_eq!(indexes, INDEX_TAGS);
    }

    #[test]
    fn a_prefix_range_holds_its_prefix_only() {
        let (from, until) = prefix_range(&[5, 0xff]);
        assert_eq!((from, until), (vec![5, 0xff], vec![6]));
        let (_, until) = prefix_range(&[0xff]);
        assert!(until > vec![0xff; 60]);
    }

    #[test]
    fn leaves_and_indexes_are_told_apart() {
        assert!(
            is_leaf(&network()) && is_leaf(&deal(&DealId::default())) && is_leaf(&validators())
        );
        assert!(
            !is_leaf(&comm_r(&CommR([0; 32])))
                && !is_leaf(&close(Epoch(1), ProviderId(1), 0))
                && !is_leaf(&[])
        );
    }
}
