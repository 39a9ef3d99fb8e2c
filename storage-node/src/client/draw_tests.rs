//! A put on a real chain, whose holders anybody can draw again: providers that the fake network plays are registered there, publish
//! there, and are chosen by the beacon that its blocks carry.
//!
//! Spec: `DESIGN.md` §3 (placement), `threat-model.md` Y1. One owner and one network hold one piece of a *group* at most: of a
//! segment, or of a manifest part; each group has a draw of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use chain_lite::account::{NetKey, ProviderId};
use chain_lite::bundle::Anchor;
use chain_lite::codec;
use chain_lite::message::{Message, SignedProposal};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::{CommP, SectorSize};
use retrieval::PieceKey;
use retrieval::fetch::FetchRequest;
use sha2::{Digest, Sha256};

use super::fake::{Fake, Manner};
use super::get::{GetRequest, Target, get};
use super::put::{PutRequest, put};
use super::{Chain, Client, Network, Outgoing, ProviderRecord, PushError};
use crate::chain::ChainClient;
use crate::chain::proven::ProvenChain;
use crate::config::Home;
use crate::identity::Wallet;
use crate::object::erasure::Scheme;
use crate::object::manifest::{FileTag, Label};
use crate::object::placement::{Candidate, Need, place};
use crate::provider::ask::Ask;
use crate::rpc::tests::{address, bed_with_tokens, key};

const SIZE: SectorSize = SectorSize::Kib2;
/// Data and parity shards.
const SCHEME: (usize, usize) = (2, 2);
/// Seed of the client's key, which has all the money at first.
const CLIENT: u8 = 1;
/// Seeds of the owners' keys, and where their providers say they are. Of the first two one owner, of the next two one network, and
/// the last one takes its bond back: no more than four may stand together.
const PROVIDERS: [(u8, &str); 7] = [
    (20, "10.0.1.1:9000"),
    (20, "10.0.2.1:9000"),
    (21, "10.0.3.1:9000"),
    (22, "10.0.3.200:9000"),
    (23, "10.0.4.1:9000"),
    (24, "10.0.5.1:9000"),
    (25, "10.0.6.1:9000"),
];
const UNBONDED: usize = 6;

/// The fake network in front of a real chain: its providers tell the chain's time, and publish there what they took.
struct Town {
    fake: Fake,
    node: ChainClient,
    /// Held while one of them publishes, for its nonces' sake.
    publishing: tokio::sync::Mutex<()>,
}

fn worker(index: usize) -> ed25519_dalek::SigningKey {
    key(100 + index as u8)
}

impl Town {
    /// Registers the providers, with bonds and escrow, and takes one bond back.
    async fn found(node: ChainClient) -> Self {
        let fake = Fake::new(&[Manner::Honest; PROVIDERS.len()]);
        fake.world().chain = node.chain_id();
        let tokens = TokenAmount::from_tokens;
        for (index, (owner, addr)) in PROVIDERS.into_iter().enumerate() {
            let net_key = {
                let mut world = fake.world();
                let provider = &mut world.providers[index];
                // Longer than the put takes, at fifty epochs a second.
                provider.lead = 5_000;
                provider.record.net_key
            };
            let to = address(owner);
            let money = vec![
                Message::Transfer {
                    to,
                    amount: tokens(27_000_000),
                },
                Message::MarketDeposit {
                    to,
                    amount: tokens(22_000_000),
                },
            ];
            node.execute(&key(CLIENT), money).await.expect("paid");
            let register = Message::RegisterProvider {
                worker: address(100 + index as u8),
                net_key: NetKey(net_key.0),
                addrs: vec![addr.to_owned()],
                sector_size: SIZE,
                deposit: tokens(27_000_000),
            };
            let registered = node.execute(&key(owner), vec![register]).await;
            registered.expect("registered");
        }
        let withdraw = Message::ProviderWithdraw {
            provider: ProviderId(1000 + UNBONDED as u64),
            amount: tokens(26_999_999),
        };
        let owner = key(PROVIDERS[UNBONDED].0);
        node.execute(&owner, vec![withdraw]).await.expect("taken");
        let publishing = tokio::sync::Mutex::new(());
        Self {
            fake,
            node,
            publishing,
        }
    }
}

impl Network for Town {
    type Units = <Fake as Network>::Units;

    async fn ask(&self, of: &ProviderRecord) -> Result<Ask, String> {
        let head = self.node.head().await.map_err(|error| error.to_string())?;
        self.fake.world().epoch = head.epoch.0;
        self.fake.ask(of).await
    }

    async fn push(&self, to: &ProviderRecord, piece: Outgoing) -> Result<Vec<u8>, PushError> {
        let signed: SignedProposal = codec::decode(&piece.proposal, 4096).expect("canonical");
        let ack = self.fake.push(to, piece).await?;
        let _publishing = self.publishing.lock().await;
        let publish = Message::PublishDeals {
            provider: to.id,
            proposals: vec![signed],
        };
        let index = (to.id.0 - 1000) as usize;
        let published = self.node.execute(&worker(index), vec![publish]).await;
        published.expect("published");
        Ok(ack)
    }

    async fn read(
        &self,
        from: &ProviderRecord,
        piece: PieceKey,
        range: Range<u64>,
    ) -> Result<Vec<u8>, String> {
        self.fake.read(from, piece, range).await
    }

    async fn leaf(
        &self,
        from: &ProviderRecord,
        piece: CommP,
        leaf: u64,
    ) -> Result<Vec<u8>, String> {
        self.fake.leaf(from, piece, leaf).await
    }

    fn fetch(&self, request: FetchRequest) -> Result<Self::Units, String> {
        self.fake.fetch(request)
    }
}

/// A group of pieces that no two of one operator may be in: a segment, or a part of the manifest.
type Group = (u8, u64);

/// Who the beacon of an epoch draws for a group, in order; from what the chain shows to everybody, by the formulas of the format.
fn drawn(
    beacon: &[u8; 32],
    tag: &FileTag,
    group: Group,
    all: &[ProviderRecord],
) -> Vec<ProviderId> {
    let put: [u8; 32] = Sha256::new()
        .chain_update(b"holdfast/placement-seed/v1")
        .chain_update(beacon)
        .chain_update(tag.0)
        .finalize()
        .into();
    let seed: [u8; 32] = Sha256::new()
        .chain_update(put)
        .chain_update([group.0])
        .chain_update(group.1.to_be_bytes())
        .finalize()
        .into();
    let bonded = all.iter().filter(|record| record.bonded);
    let candidate = |record: &ProviderRecord| Candidate {
        provider: record.id.0,
        owner: record.owner.0,
        hosts: record.addrs.iter().map(std::net::SocketAddr::ip).collect(),
        free_bytes: u64::MAX,
        max_piece: SIZE.bytes(),
        price: 0,
        failures: 0,
    };
    let candidates: Vec<Candidate> = bonded.map(candidate).collect();
    let need = Need {
        count: SCHEME.0 + SCHEME.1,
        piece_size: 128,
        max_price: 0,
    };
    let chosen = place(&candidates, &need, &seed, &BTreeSet::new(), &[]);
    let chosen = chosen.expect("four stand together");
    chosen.into_iter().map(ProviderId).collect()
}

/// The holders of a put are those that the beacon of one block draws among the bonded providers, shard by shard, and neither the
/// two of one owner nor the two of one network are ever in one group.
#[tokio::test(flavor = "multi_thread")]
async fn tm_y1_the_holders_of_a_put_are_the_draw_of_the_chains_beacon_one_per_owner_and_network() {
    let bed = bed_with_tokens(1_000_000_000);
    let server = bed.serve(0, None).await;
    let node = ChainClient::connect(&server.url()).await.expect("connects");
    let town = Town::found(node.clone()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let home = Home::new(dir.path().join("home"));
    let chain = ProvenChain::open(node, &Anchor::default(), &home).await;
    let chain = chain.expect("opens");
    let records = Chain::providers(&chain).await.expect("proven");
    let bonded: Vec<bool> = records.iter().map(|record| record.bonded).collect();
    assert_eq!(bonded, [true, true, true, true, true, true, false]);
    for (provider, record) in town.fake.world().providers.iter_mut().zip(&records) {
        provider.record = record.clone();
    }
    let client = Arc::new(Client {
        chain: chain.clone(),
        network: town,
        wallet: Wallet::from_seed(&[CLIENT; 32]),
        home,
    });

    let source = dir.path().join("data");
    let plain: Vec<u8> = (0..12_000u32).map(|i| (i * 31 + i / 253) as u8).collect();
    std::fs::write(&source, &plain).expect("writes");
    let first = Chain::now(&chain).await.expect("proven").epoch;
    let request = PutRequest {
        source,
        name: None,
        scheme: Scheme::new(SCHEME.0, SCHEME.1).expect("legal"),
        duration: Some(EpochCount(600)),
        max_price_per_gib: None,
        again: false,
        verified: false,
    };
    let stored = put(Arc::clone(&client), request, Arc::new(|_| ())).await;
    let stored = stored.expect("stores");
    let last = Chain::now(&chain).await.expect("proven").epoch;

    // Who holds what, by the chain's deals alone: shards in order, copies of a manifest part in none.
    let mut shards: BTreeMap<Group, BTreeMap<u8, ProviderId>> = BTreeMap::new();
    let mut copies: BTreeMap<Group, BTreeSet<ProviderId>> = BTreeMap::new();
    let (mut tags, mut named) = (BTreeSet::new(), BTreeSet::new());
    let deals = Chain::deals(&chain, &address(CLIENT)).await;
    for (_, deal) in deals.expect("proven") {
        let provider = deal.proposal.provider;
        let label: Label = deal.proposal.label.parse().expect("our label");
        named.insert(label.drawn().expect("it names its draw"));
        let is_new = match label {
            Label::Data {
                file_tag,
                segment,
                shard,
                ..
            } => {
                tags.insert(file_tag);
                let group = shards.entry((0, segment)).or_default();
                group.insert(shard, provider).is_none()
            }
            Label::Manifest { file_tag, part, .. } => {
                tags.insert(file_tag);
                copies.entry((1, part.into())).or_default().insert(provider)
            }
        };
        assert!(is_new, "two pieces of a group at {provider}, or one twice");
    }
    let tag = *tags.first().expect("a put");
    assert_eq!(tags.len(), 1, "one object");
    assert!(stored.segments >= 3 && shards.len() as u64 == stored.segments);
    assert!(!copies.is_empty());

    // Exactly one epoch of those in which the put began draws them all.
    let is_draw = |beacon: &[u8; 32]| {
        let in_order = shards.iter().all(|(group, held)| {
            let held: Vec<ProviderId> = held.values().copied().collect();
            held == drawn(beacon, &tag, *group, &records)
        });
        let in_any_order = copies.iter().all(|(group, held)| {
            let drawn = drawn(beacon, &tag, *group, &records);
            *held == drawn.into_iter().collect()
        });
        in_order && in_any_order
    };
    let mut drew = Vec::new();
    for epoch in first.0..=last.0 {
        let beacon = Chain::beacon(&chain, Epoch(epoch)).await.expect("kept");
        if is_draw(&beacon) {
            drew.push(epoch);
        }
    }
    assert_eq!(drew.len(), 1, "epochs {first} to {last} draw it: {drew:?}");
    assert_eq!(named, BTreeSet::from([Epoch(drew[0])]), "the labels say so");
    let other = Chain::beacon(&chain, Epoch(drew[0] - 1)).await;
    assert!(!is_draw(&other.expect("kept")), "any beacon draws it");

    // One of each pair, both of the rest, and nobody without a bond.
    let id = |index: usize| ProviderId(1000 + index as u64);
    let groups = shards.values().map(|held| held.values().copied().collect());
    let groups: Vec<BTreeSet<ProviderId>> = groups.chain(copies.values().cloned()).collect();
    for held in &groups {
        for pair in [[0, 1], [2, 3]] {
            let of_pair = pair.iter().filter(|index| held.contains(&id(**index)));
            assert_eq!(of_pair.count(), 1, "{pair:?} in {held:?}");
        }
        assert!(held.contains(&id(4)) && held.contains(&id(5)), "{held:?}");
        assert!(!held.contains(&id(UNBONDED)), "{held:?}");
    }
    // And both of a pair have their turns.
    for index in 0..4 {
        let has_some = groups.iter().any(|held| held.contains(&id(index)));
        assert!(has_some || groups.len() < 8, "{} never", id(index));
    }

    let request = GetRequest {
        object: stored.object.to_string(),
        range: None,
    };
    let target = Target::File {
        path: dir.path().join("back"),
        force: false,
    };
    let got = get(client, request, target, Arc::new(|_| ())).await;
    let path = got.expect("reads").path.expect("a file");
    assert!(std::fs::read(path).expect("reads") == plain);
    server.stop().await;
}
