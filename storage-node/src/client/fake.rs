//! A chain and providers in memory that fail, stall, lie and crash on request: what stands behind the client's seams in tests.
//!
//! Time moves one epoch with every [`Chain::pause`]; accepted proposals are published then, by the rules that matter to a
//! client: a deal id once, before its start, and only with unlocked escrow behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use chain_lite::account::{Address, ChainId, DealId, NetKey, ProviderId};
use chain_lite::codec;
use chain_lite::deal::{Deal, DealStatus};
use chain_lite::message::{DealProposal, Message, SignedProposal, SignedTx, Tx, sign};
use chain_lite::params::ChainParams;
use chain_lite::units::{Epoch, EpochCount, StoragePower, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::piece::inclusion::LeafProof;
use prover::{CommP, PaddedPieceSize, PieceInfo, SectorSize};
use retrieval::PieceKey;
use retrieval::fetch::{FetchRequest, ProviderReport, Unit};

use super::outbox::Outbox;
use super::{
    Chain, ChainFailure, Client, ClientError, Money, Network, Now, Outgoing, ProviderRecord,
    PushError, Units,
};
use crate::chain::PartitionView;
use crate::config::Home;
use crate::identity::Wallet;
use crate::object::ack::PieceAck;
use crate::provider::ask::{Ask, Terms};

/// Columns of a unit that the fake network delivers.
const UNIT_BYTES: u64 = 64 * 1024;

/// How a provider behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Honest,
    /// Says no to every piece.
    Refuses,
    /// Is not there at all.
    Gone,
    /// Answers with terms, then is gone.
    GoneAfterAsk,
    /// Takes half of a piece and goes silent.
    TakesHalf,
    /// Takes a piece and acknowledges it, and never publishes.
    Drops,
    /// Takes a piece, publishes it, and its first acknowledgement is lost.
    LosesAck,
    /// Takes a piece, never acknowledges nor publishes it.
    Swallows,
    /// Refuses each proposal twice, then takes it.
    Busy,
    /// Is reached late the first time, and takes nothing that starts before it can have sealed it.
    ReachedLate,
    /// Takes a piece and acknowledges it, and publishes only the second proposal for it.
    DropsFirst,
    /// Publishes what it is offered, says no, and asks for a later start; again and again.
    PublishesAndRefuses,
    /// Says no, gets the bytes from whoever took them instead, and publishes all the same.
    Liar,
    /// Signs for something else.
    ForgesAck,
    /// Publishes, and serves nothing.
    Hostage,
    /// Serves other bytes than it took.
    Lies,
}

#[derive(Debug)]
pub(crate) struct FakeProvider {
    pub record: ProviderRecord,
    pub manner: Manner,
    pub key: SigningKey,
    pub pieces: BTreeMap<[u8; 32], Vec<u8>>,
    pub accepted: BTreeMap<DealId, SignedProposal>,
    pub lead: u64,
    lost_acks: BTreeSet<DealId>,
    refused: BTreeMap<DealId, u32>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub chain: ChainId,
    pub epoch: u64,
    pub providers: Vec<FakeProvider>,
    pub deals: BTreeMap<DealId, Deal>,
    pub free: u128,
    pub escrow: u128,
    pub nonce: u64,
    /// Transactions of the client that the pool claims to hold.
    pub pooled: u64,
    pub executed: BTreeSet<chain_lite::account::TxId>,
    /// Calls left before the process "dies": every later call fails.
    pub fuse: Option<i64>,
    pub pauses: u64,
    /// Bytes of verified deals that the client may publish.
    pub datacap: u128,
    /// Whose deadlines were asked for, in order.
    pub deadlines_asked: Vec<ProviderId>,
    /// How often all providers were asked for.
    pub providers_asked: usize,
}

/// A handle on the world; one for the chain, one for the network.
#[derive(Clone, Debug)]
pub(crate) struct Fake(pub Arc<Mutex<World>>);

const SECTOR: SectorSize = SectorSize::Kib32;
pub(crate) const CHAIN: ChainId = ChainId([0xc4; 32]);

impl Fake {
    /// A world with these providers, each with an owner of its own.
    pub fn new(manners: &[Manner]) -> Self {
        let providers = manners.iter().enumerate().map(|(i, manner)| {
            let key = SigningKey::from_bytes(&[i as u8 + 1; 32]);
            let port = 9000 + i as u16;
            FakeProvider {
                record: ProviderRecord {
                    bonded: true,
                    id: ProviderId(1000 + i as u64),
                    owner: Address([i as u8 + 100; 32]),
                    net_key: NetKey(key.verifying_key().to_bytes()),
                    addrs: vec![([127, 0, 0, 1], port).into()],
                    sector_size: SECTOR,
                },
                manner: *manner,
                key,
                pieces: BTreeMap::new(),
                accepted: BTreeMap::new(),
                lead: 20,
                lost_acks: BTreeSet::new(),
                refused: BTreeMap::new(),
            }
        });
        Self(Arc::new(Mutex::new(World {
            chain: CHAIN,
            epoch: 100,
            providers: providers.collect(),
            deals: BTreeMap::new(),
            free: 1 << 100,
            escrow: 0,
            nonce: 0,
            pooled: 0,
            executed: BTreeSet::new(),
            fuse: None,
            pauses: 0,
            datacap: 0,
            deadlines_asked: Vec::new(),
            providers_asked: 0,
        })))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0
            .lock()
            .expect("no test panics while it holds the world")
    }

    /// A client of this world whose journals lie in `home`.
    pub fn client(&self, home: &Home) -> Arc<Client<Fake, Fake>> {
        Arc::new(Client {
            chain: self.clone(),
            network: self.clone(),
            wallet: Wallet::from_seed(&[42; 32]),
            home: home.clone(),
        })
    }
}

impl World {
    /// Counts one call; an error once the fuse has burnt.
    fn burn(&mut self) -> Result<(), ChainFailure> {
        if let Some(fuse) = &mut self.fuse {
            *fuse -= 1;
            if *fuse < 0 {
                return Err(ChainFailure::Unreachable("the process died".into()));
            }
        }
        Ok(())
    }

    fn locked(&self) -> u128 {
        self.deals.values().map(|deal| deal.locked().0).sum()
    }

    fn provider(&mut self, id: ProviderId) -> &mut FakeProvider {
        let mut all = self.providers.iter_mut();
        all.find(|p| p.record.id == id)
            .expect("a provider of this world")
    }

    /// One epoch: every provider publishes what it accepted, if it is one that publishes.
    fn tick(&mut self) {
        self.epoch += 1;
        self.pauses += 1;
        let now = Epoch(self.epoch);
        let mut unlocked = self.escrow.saturating_sub(self.locked());
        let known: BTreeMap<[u8; 32], Vec<u8>> = self
            .providers
            .iter()
            .flat_map(|p| p.pieces.clone())
            .collect();
        for liar in self
            .providers
            .iter_mut()
            .filter(|p| p.manner == Manner::Liar)
        {
            let roots = liar.accepted.values().map(|p| p.proposal.blake3_root.0);
            let stolen = roots.filter_map(|root| Some((root, known.get(&root)?.clone())));
            liar.pieces.extend(stolen.collect::<Vec<_>>());
        }
        for provider in &self.providers {
            if matches!(provider.manner, Manner::Drops | Manner::Swallows) {
                continue;
            }
            for (id, signed) in &provider.accepted {
                let proposal = &signed.proposal;
                let cost = proposal.price.0 * u128::from(proposal.duration().0);
                let used = self.deals.values().any(|deal| {
                    let other = &deal.proposal;
                    (other.client, other.client_nonce) == (proposal.client, proposal.client_nonce)
                });
                let holds = provider.pieces.contains_key(&proposal.blake3_root.0);
                let fits = now < proposal.start && holds && !used && cost <= unlocked;
                if fits && signed.signature_holds() {
                    unlocked -= cost;
                    self.deals.insert(*id, published(proposal, now));
                }
            }
        }
    }
}

fn published(proposal: &DealProposal, now: Epoch) -> Deal {
    Deal {
        proposal: proposal.clone(),
        status: DealStatus::Published,
        published: now,
        sector: None,
        settled: proposal.start,
        paid: TokenAmount::ZERO,
        refunded: TokenAmount::ZERO,
        ended: None,
    }
}

impl Chain for Fake {
    fn chain_id(&self) -> ChainId {
        self.world().chain
    }

    fn params(&self) -> ChainParams {
        ChainParams::devnet()
    }

    async fn now(&self) -> Result<Now, ChainFailure> {
        let mut world = self.world();
        world.burn()?;
        Ok(Now {
            height: world.epoch,
            epoch: Epoch(world.epoch),
        })
    }

    async fn money(&self, _of: &Address) -> Result<Money, ChainFailure> {
        let mut world = self.world();
        world.burn()?;
        Ok(Money {
            free: TokenAmount(world.free),
            next_nonce: world.nonce + world.pooled,
            nonce: world.nonce,
            escrow: TokenAmount(world.escrow),
            locked: TokenAmount(world.locked()),
        })
    }

    async fn providers(&self) -> Result<Vec<ProviderRecord>, ChainFailure> {
        let mut world = self.world();
        world.burn()?;
        world.providers_asked += 1;
        Ok(world.providers.iter().map(|p| p.record.clone()).collect())
    }

    async fn deal(&self, id: &DealId) -> Result<Option<Deal>, ChainFailure> {
        let mut world = self.world();
        world.burn()?;
        Ok(world.deals.get(id).cloned())
    }

    async fn deals(&self, client: &Address) -> Result<Vec<(DealId, Deal)>, ChainFailure> {
        let mut world = self.world();
        world.burn()?;
        let deals = world.deals.iter();
        let own = deals.filter(|(_, deal)| deal.proposal.client == *client);
        Ok(own.map(|(id, deal)| (*id, deal.clone())).collect())
    }

    async fn beacon(&self, epoch: Epoch) -> Result<[u8; 32], ChainFailure> {
        Ok([epoch.0 as u8; 32])
    }

    async fn collateral(&self, padded: u64) -> Result<TokenAmount, ChainFailure> {
        Ok(TokenAmount(u128::from(padded)))
    }

    /// What is left runs when it is submitted by whoever left it, and not here.
    async fn follow(&self, outbox: &Outbox, _of: &Address) -> Result<Option<u64>, ClientError> {
        let mut world = self.world();
        world.burn()?;
        let left = outbox.left()?.unwrap_or_default();
        let nonce = left.last().map(|tx| tx.tx.nonce);
        Ok(nonce.filter(|nonce| *nonce >= world.nonce))
    }

    async fn datacap(&self, _of: &Address) -> Result<StoragePower, ChainFailure> {
        Ok(StoragePower(self.world().datacap))
    }

    async fn deadlines(&self, of: ProviderId) -> Result<Vec<PartitionView>, ChainFailure> {
        self.world().deadlines_asked.push(of);
        Ok(Vec::new())
    }

    fn sign(&self, wallet: &Wallet, nonce: u64, now: Now, msgs: Vec<Message>) -> SignedTx {
        let tx = Tx {
            version: chain_lite::message::TX_VERSION,
            chain_id: self.chain_id(),
            sender: wallet.address(),
            nonce,
            fee_limit: TokenAmount::ZERO,
            valid_until_height: now.height + 100,
            msgs,
        };
        sign(tx, wallet.signing_key())
    }

    async fn execute(&self, tx: &SignedTx) -> Result<(), ChainFailure> {
        let mut world = self.world();
        world.burn()?;
        if world.executed.contains(&tx.id()) {
            return Ok(());
        }
        if tx.tx.nonce != world.nonce {
            return Err(ChainFailure::Refused("nonce".into()));
        }
        world.nonce += 1;
        world.executed.insert(tx.id());
        for msg in &tx.tx.msgs {
            match msg {
                Message::MarketDeposit { amount, .. } => {
                    world.free -= amount.0;
                    world.escrow += amount.0;
                }
                other => return Err(ChainFailure::Refused(other.name().into())),
            }
        }
        // The transaction took effect, and we may still die before we hear of it.
        world.burn()
    }

    async fn pause(&self) {
        self.world().tick();
        tokio::task::yield_now().await;
    }
}

impl Network for Fake {
    type Units = FakeUnits;

    async fn ask(&self, of: &ProviderRecord) -> Result<Ask, String> {
        let mut world = self.world();
        world.burn().map_err(|error| error.to_string())?;
        let (now, chain) = (world.epoch, world.chain);
        let provider = world.provider(of.id);
        if provider.manner == Manner::Gone {
            return Err("connection refused".into());
        }
        if provider.manner == Manner::GoneAfterAsk {
            provider.manner = Manner::Gone;
        }
        Ok(Ask::new(
            chain,
            of.id,
            of.sector_size,
            Terms {
                min_piece: PaddedPieceSize::MIN,
                free_bytes: 1 << 30,
                price_per_gib: TokenAmount(1_000_000),
                earliest_start: Epoch(now + provider.lead),
                min_duration: EpochCount(1),
                max_duration: EpochCount(1 << 30),
            },
        ))
    }

    async fn push(&self, to: &ProviderRecord, piece: Outgoing) -> Result<Vec<u8>, PushError> {
        let died = |error: ChainFailure| PushError::Interrupted(error.to_string());
        let mut world = self.world();
        world.burn().map_err(died)?;
        let signed: SignedProposal =
            codec::decode(&piece.proposal, 4096).expect("a client sends canonical proposals");
        let deal = signed.proposal.id();
        let provider = world.provider(to.id);
        if provider.manner == Manner::ReachedLate && provider.refused.is_empty() {
            provider.refused.insert(deal, 1);
            world.epoch += 25;
        }
        let now = world.epoch;
        let provider = world.provider(to.id);
        match provider.manner {
            Manner::ReachedLate if signed.proposal.start.0 < now + provider.lead => {
                return Err(PushError::Refused("it starts too soon".into()));
            }
            Manner::Refuses => return Err(PushError::Refused("no room".into())),
            Manner::PublishesAndRefuses => {
                provider.lead += 10;
                let nonce = signed.proposal.client_nonce;
                let mut deals = world.deals.values();
                if !deals.any(|deal| deal.proposal.client_nonce == nonce) {
                    let taken = published(&signed.proposal, Epoch(now));
                    world.deals.insert(deal, taken);
                }
                return Err(PushError::Refused("it starts too soon".into()));
            }
            Manner::Liar => {
                provider.accepted.insert(deal, signed);
                return Err(PushError::Refused("no room".into()));
            }
            Manner::Busy => {
                let refused = provider.refused.entry(deal).or_default();
                *refused += 1;
                if *refused <= 2 {
                    return Err(PushError::Refused("busy".into()));
                }
            }
            Manner::Gone => return Err(PushError::NotReached("connection refused".into())),
            Manner::TakesHalf => {
                let mut half = vec![0; (piece.key.size / 2) as usize];
                piece.data.read_exact_at(0, &mut half).expect("staged");
                return Err(PushError::Interrupted("no progress for 10s".into()));
            }
            _ => {}
        }
        let mut bytes = vec![0; piece.key.size as usize];
        piece.data.read_exact_at(0, &mut bytes).expect("staged");
        assert_eq!(
            blake3::hash(&bytes).as_bytes(),
            &piece.key.root.0,
            "both roots are right"
        );
        let (comm_p, size) = prover::piece::commp::commp_of(&bytes);
        assert_eq!((comm_p, size), (piece.comm_p, signed.proposal.piece_size));
        assert_eq!(signed.proposal.blake3_root.0, piece.key.root.0);
        let ack = PieceAck {
            deal,
            comm_p,
            blake3_root: signed.proposal.blake3_root,
            bytes: piece.key.size,
        };
        let known = provider.pieces.insert(piece.key.root.0, bytes).is_some();
        if provider.manner != Manner::DropsFirst || known {
            provider.accepted.insert(deal, signed);
        }
        let answer = match provider.manner {
            Manner::LosesAck if provider.lost_acks.insert(deal) => {
                Err(PushError::Interrupted("connection lost".into()))
            }
            Manner::Swallows => Err(PushError::Interrupted("connection lost".into())),
            Manner::ForgesAck => {
                let other = PieceAck {
                    bytes: ack.bytes + 1,
                    ..ack
                };
                Ok(other.sign(&provider.key))
            }
            _ => Ok(ack.sign(&provider.key)),
        };
        // The provider has it, and we may still die before we hear of it.
        world.burn().map_err(died)?;
        answer
    }

    async fn read(
        &self,
        from: &ProviderRecord,
        piece: PieceKey,
        range: Range<u64>,
    ) -> Result<Vec<u8>, String> {
        let mut world = self.world();
        world.burn().map_err(|error| error.to_string())?;
        let bytes = serve(world.provider(from.id), &piece.root.0).map_err(|e| e.0)?;
        bytes
            .get(range.start as usize..range.end as usize)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| "range outside the piece".to_owned())
    }

    async fn leaf(
        &self,
        from: &ProviderRecord,
        piece: CommP,
        leaf: u64,
    ) -> Result<Vec<u8>, String> {
        let mut world = self.world();
        world.burn().map_err(|error| error.to_string())?;
        let provider = world.provider(from.id);
        let mut proposals = provider.accepted.values().map(|signed| &signed.proposal);
        let proposal = proposals
            .find(|p| p.piece_commp == piece)
            .ok_or("no such piece")?
            .clone();
        let lies = provider.manner == Manner::Lies;
        let mut bytes = match provider.manner {
            Manner::Gone | Manner::Hostage => return Err("no progress for 10s".into()),
            _ => provider.pieces.get(&proposal.blake3_root.0).cloned(),
        }
        .ok_or("no such piece")?;
        if lies {
            bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        // A liar proves the bytes that it has instead of those that it took.
        let comm_p = if lies {
            prover::piece::commp::commp_of(&bytes).0
        } else {
            piece
        };
        let info = PieceInfo {
            comm_p,
            size: proposal.piece_size,
        };
        bytes.resize(info.size.unpadded().bytes() as usize, 0);
        let proof = LeafProof::of(&info, leaf..leaf + 1, &bytes[..]);
        Ok(codec::encode(&proof.map_err(|error| error.to_string())?))
    }

    /// Reads what it needs at once and checks whole pieces, as the real fetcher checks groups.
    fn fetch(&self, request: FetchRequest) -> Result<FakeUnits, String> {
        let mut world = self.world();
        let mut liars = Vec::new();
        let mut shards: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut parts = Vec::new();
        for source in &request.shards {
            for peer in &source.providers {
                let mut all = world.providers.iter_mut();
                let known = all.find(|p| p.record.net_key.0 == peer.peer.0);
                let Some(provider) = known else { continue };
                let served = serve(provider, &source.piece.root.0);
                parts.push(part(*peer, &served));
                match served {
                    Ok(bytes) if bytes.len() as u64 == source.piece.size => {
                        shards.push((source.index, bytes));
                        break;
                    }
                    Ok(_) => {}
                    Err((_, lied)) if lied => liars.push(provider.record.id.to_string()),
                    Err(_) => {}
                }
            }
        }
        let k = usize::from(request.k);
        let ranges = request.ranges.into_iter().collect();
        Ok(FakeUnits {
            k,
            shards,
            ranges,
            liars,
            parts,
        })
    }
}

/// A read as the real fetcher reports it: the first byte after 1 ms, the last after 5.
fn part(peer: retrieval::PeerAddr, served: &Result<Vec<u8>, (String, bool)>) -> ProviderReport {
    let ms = std::time::Duration::from_millis;
    let (bytes, failures, lied) = match served {
        Ok(bytes) => (bytes.len() as u64, Vec::new(), false),
        Err((why, lied)) => (0, vec![why.clone()], *lied),
    };
    ProviderReport {
        peer,
        units: u32::from(failures.is_empty()),
        bytes,
        first_byte: failures.is_empty().then_some(ms(1)),
        asked_for: ms(5),
        late: 0,
        lost: !failures.is_empty(),
        failures,
        lied,
    }
}

/// A piece as a provider serves it; a lie is found, as bao finds it.
fn serve(provider: &FakeProvider, root: &[u8; 32]) -> Result<Vec<u8>, (String, bool)> {
    match provider.manner {
        Manner::Gone | Manner::Hostage => Err(("no progress for 10s".into(), false)),
        Manner::Lies => Err(("wrong data".into(), true)),
        _ => {
            let found = provider.pieces.get(root).cloned();
            let bytes = found.ok_or(("no such piece".to_owned(), false))?;
            if blake3::hash(&bytes).as_bytes() == root {
                Ok(bytes)
            } else {
                Err(("wrong data".into(), true))
            }
        }
    }
}

/// Units of a fetch of the fake network.
#[derive(Debug)]
pub(crate) struct FakeUnits {
    k: usize,
    shards: Vec<(u16, Vec<u8>)>,
    ranges: VecDeque<Range<u64>>,
    liars: Vec<String>,
    parts: Vec<ProviderReport>,
}

impl Units for FakeUnits {
    async fn next(&mut self) -> Result<Option<Unit>, String> {
        let Some(range) = self.ranges.pop_front() else {
            return Ok(None);
        };
        if self.shards.len() < self.k {
            return Err(format!(
                "only {} of the {} shards needed can be read",
                self.shards.len(),
                self.k
            ));
        }
        let end = ((range.start / UNIT_BYTES + 1) * UNIT_BYTES).min(range.end);
        if end < range.end {
            self.ranges.push_front(end..range.end);
        }
        let columns = range.start..end;
        let shards = self.shards.iter().take(self.k).map(|(index, bytes)| {
            let part = &bytes[columns.start as usize..columns.end as usize];
            (*index, Bytes::copy_from_slice(part))
        });
        Ok(Some(Unit {
            shards: shards.collect(),
            range: columns,
        }))
    }

    fn liars(&self) -> Vec<String> {
        self.liars.clone()
    }
    fn parts(&self) -> Vec<ProviderReport> {
        self.parts.clone()
    }
}
