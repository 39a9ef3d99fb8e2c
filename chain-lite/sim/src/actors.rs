//! Providers and clients: honest ones, one that loses sectors, one that cheats, one that floods.
//!
//! Each acts on the state after every new block, as somebody with an RPC connection would: it reads, signs transactions and
//! submits them again until they are in a block. Nothing here knows consensus. What an honest provider promises is checked
//! by [`crate::run`]: it is never found faulty, whatever validators, disks and network do.

use std::collections::{BTreeMap, BTreeSet};

use chain_lite::account::{Address, Blake3Root, ChainId, DealId, NetKey, ProviderId, TxId};
use chain_lite::codec;
use chain_lite::deal::DealStatus;
use chain_lite::lit;
use chain_lite::message::{
    CheckedTx, DealGroup, DealProposal, Message, SignedProposal, TX_VERSION, Tx, sign,
};
use chain_lite::params::ChainParams;
use chain_lite::query::{self, DeadlineView, ProviderView, SectorStatus, SectorView};
use chain_lite::randomness::Tag;
use chain_lite::state::{KvRead, StoreError};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::piece::layout;
use prover::verify::{PorepStatement, WindowPostStatement};
use prover::{
    CommP, CommR, PaddedPieceSize, PostRandomness, RegisteredSeal, SectorNumber, SectorSize,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::stub::Stub;

/// All simulated sectors.
pub const SIZE: SectorSize = SectorSize::Kib2;
/// Transactions of one actor that wait at once.
const MAX_PENDING: usize = 8;
/// Epochs before its start at which a provider still publishes a deal.
const PUBLISH_BEFORE: EpochCount = EpochCount(12);
/// Lit epochs before the last one for a deal's beginning in which a provider still commits to a sector with it: for the blocks that take two
/// transactions, and the seed between them.
pub(crate) const COMMIT_BEFORE: EpochCount = EpochCount(6);
/// Deals that a provider publishes at once, so that a sector for each is there in time.
const AT_ONCE: usize = 2;
const TOKEN: u128 = 1_000_000_000_000_000_000;

/// A key with its transactions that are in no block yet.
pub struct Wallet {
    key: SigningKey,
    chain: ChainId,
    next: u64,
    pending: Vec<CheckedTx>,
}

impl Wallet {
    fn new(key: SigningKey, chain: ChainId) -> Self {
        Self {
            key,
            chain,
            next: 0,
            pending: Vec::new(),
        }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        Address::of(&self.key.verifying_key())
    }

    /// Forgets what is in a block.
    fn refresh(&mut self, state: &dyn KvRead) -> Result<(), StoreError> {
        let nonce = query::account(state, &self.address())?.nonce;
        self.pending.retain(|tx| tx.tx().nonce >= nonce);
        self.next = self.next.max(nonce);
        Ok(())
    }

    /// Signs it and keeps it until it is in a block; `None` where too much waits already.
    fn send(&mut self, message: Message) -> Option<TxId> {
        if self.pending.len() >= MAX_PENDING {
            return None;
        }
        let tx = Tx {
            version: TX_VERSION,
            chain_id: self.chain,
            sender: self.address(),
            nonce: self.next,
            fee_limit: TokenAmount(u128::MAX >> 8),
            valid_until_height: u64::MAX,
            msgs: vec![message],
        };
        self.next += 1;
        // Checked here once; each node's mempool would say the same of it.
        let tx = sign(tx, &self.key).check(&self.chain);
        let tx = tx.expect("within the limits, and signed by its sender");
        let id = tx.id();
        self.pending.push(tx);
        Some(id)
    }
}

/// How a provider behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Keeps and proves everything.
    Honest,
    /// Loses a sector now and then, says so, and brings it back.
    Unlucky,
    /// Claims sectors that it does not have, replays proofs, withholds some.
    Cheat,
}

/// A provider.
pub struct Provider {
    /// Its owner's and worker's wallet.
    pub wallet: Wallet,
    /// How it behaves.
    pub manner: Manner,
    /// Its number, once it is registered.
    pub id: Option<ProviderId>,
    next_sector: u64,
    /// Sectors whose bytes are gone, until when.
    lost: BTreeMap<u64, Epoch>,
    /// Proposals that clients handed over.
    offers: Vec<SignedProposal>,
    /// Posts sent already: close, deadline, partition.
    posted: BTreeSet<(Epoch, u16, u32)>,
    /// What each of them proves, while it is in no block.
    proofs: BTreeMap<TxId, Proof>,
    /// Close of the window whose posts it forgets.
    forgets: Option<Epoch>,
    /// Old proofs, for a cheat to send again.
    old: Vec<Vec<u8>>,
    /// Digests of the messages that it sent with a proof of something else, or of nothing.
    lies: BTreeSet<[u8; 32]>,
}

/// What a window PoSt that was sent says.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Close of its window.
    pub close: Epoch,
    /// Sectors that it proves.
    pub sectors: Vec<SectorNumber>,
}

/// A client.
pub struct Client {
    /// Its wallet.
    pub wallet: Wallet,
    floods: bool,
    deals: u64,
}

/// Everybody who is no validator.
pub struct Actors {
    stub: Stub,
    chain: ChainId,
    params: ChainParams,
    /// Providers.
    pub providers: Vec<Provider>,
    /// Clients.
    pub clients: Vec<Client>,
}

/// The keys of actors, for genesis: `n` of them.
pub fn keys(count: usize) -> Vec<SigningKey> {
    let key = |n: usize| {
        let seed: [u8; 32] = Sha256::new_with_prefix(b"actor")
            .chain_update(n.to_le_bytes())
            .finalize()
            .into();
        SigningKey::from_bytes(&seed)
    };
    (0..count).map(key).collect()
}

impl Actors {
    /// `manners` providers, then clients, of which the last floods; keys as in [`keys`].
    pub fn new(
        chain: ChainId,
        params: ChainParams,
        stub: Stub,
        manners: &[Manner],
        clients: usize,
    ) -> Self {
        let mut keys = keys(manners.len() + clients).into_iter();
        let mut wallet = || Wallet::new(keys.next().expect("a key for each"), chain);
        let providers = manners.iter().map(|manner| Provider {
            wallet: wallet(),
            manner: *manner,
            id: None,
            next_sector: 0,
            lost: BTreeMap::new(),
            offers: Vec::new(),
            posted: BTreeSet::new(),
            proofs: BTreeMap::new(),
            forgets: None,
            old: Vec::new(),
            lies: BTreeSet::new(),
        });
        let providers = providers.collect();
        let clients = (1..=clients).map(|n| Client {
            wallet: wallet(),
            floods: n == clients,
            deals: 0,
        });
        Self {
            stub,
            chain,
            params,
            providers,
            clients: clients.collect(),
        }
    }

    /// Reads the newest state and prepares transactions.
    pub fn act(&mut self, state: &dyn KvRead, rng: &mut ChaCha8Rng) -> Result<(), StoreError> {
        let now = query::totals(state)?.epoch;
        for at in 0..self.clients.len() {
            self.client(at, state, now, rng)?;
        }
        for provider in &mut self.providers {
            provider.act(state, now, &self.params, self.stub, rng)?;
        }
        Ok(())
    }

    /// The first client, who is as good as anybody, brings what validators signed.
    pub fn bring(&mut self, message: Message) {
        self.clients[0].wallet.send(message);
    }

    /// This provider sends no post for the window that closes then.
    pub fn forget(&mut self, provider: usize, close: Epoch) {
        self.providers[provider].forgets = Some(close);
    }

    /// Whether this was said with a proof that is none.
    pub fn is_lie(&self, message: &Message) -> bool {
        let said = digest(message);
        self.providers.iter().any(|p| p.lies.contains(&said))
    }

    /// Everything that is in no block yet.
    pub fn pending(&self) -> impl Iterator<Item = &CheckedTx> {
        let providers = self.providers.iter().flat_map(|p| &p.wallet.pending);
        providers.chain(self.clients.iter().flat_map(|c| &c.wallet.pending))
    }

    fn client(
        &mut self,
        at: usize,
        state: &dyn KvRead,
        now: Epoch,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), StoreError> {
        let client = &mut self.clients[at];
        client.wallet.refresh(state)?;
        let market = query::market(state, &client.wallet.address())?;
        if client.floods {
            // More than it has, to itself, again and again.
            while client.wallet.pending.len() < MAX_PENDING {
                let (to, amount) = (
                    client.wallet.address(),
                    TokenAmount(rng.r#gen::<u128>() >> 1),
                );
                client.wallet.send(Message::Transfer { to, amount });
            }
            return Ok(());
        }
        if market.available.0 < 1_000 * TOKEN && client.wallet.pending.is_empty() {
            let (to, amount) = (client.wallet.address(), TokenAmount(10_000 * TOKEN));
            client.wallet.send(Message::MarketDeposit { to, amount });
            return Ok(());
        }
        let registered: Vec<usize> = (0..self.providers.len())
            .filter(|p| self.providers[*p].id.is_some())
            .collect();
        if registered.is_empty() || !rng.gen_bool(0.2) {
            return Ok(());
        }
        let to = registered[rng.gen_range(0..registered.len())];
        let provider = &mut self.providers[to];
        let Some(id) = provider.id.filter(|_| provider.offers.len() < 4) else {
            return Ok(());
        };
        client.deals += 1;
        let mut root: [u8; 32] = rng.r#gen();
        root[31] &= 0x3f;
        let size = PaddedPieceSize::new(SIZE.bytes()).expect("a power of two");
        let least = query::least_collateral(state, size)?;
        let proposal = DealProposal {
            chain_id: self.chain,
            client: client.wallet.address(),
            provider: id,
            piece_commp: CommP(root),
            piece_size: size,
            blake3_root: Blake3Root([3; 32]),
            group: DealGroup {
                k: 1,
                n: 1,
                file_root: Blake3Root([4; 32]),
            },
            start: now.after(EpochCount(20)),
            end: now.after(EpochCount(40)),
            price: TokenAmount(1_000_000_000_000),
            provider_collateral: TokenAmount(least.0 + least.0 / 5),
            verified: false,
            label: String::new(),
            client_nonce: client.deals,
        };
        provider.offers.push(proposal.sign(&client.wallet.key));
        Ok(())
    }
}

impl Provider {
    /// Window PoSts that are in no block yet.
    pub fn waiting(&self) -> impl Iterator<Item = (&TxId, &Proof)> {
        self.proofs.iter()
    }

    fn act(
        &mut self,
        state: &dyn KvRead,
        now: Epoch,
        params: &ChainParams,
        stub: Stub,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), StoreError> {
        self.wallet.refresh(state)?;
        let waits: BTreeSet<TxId> = self.wallet.pending.iter().map(CheckedTx::id).collect();
        self.proofs.retain(|id, _| waits.contains(id));
        let Some(view) = self.registered(state)? else {
            return Ok(());
        };
        let id = view.id;
        self.posts(state, id, stub, rng)?;
        // One slow thing at a time keeps nonces short, so that a proof never waits for long.
        if self.wallet.pending.len() > 1 {
            return Ok(());
        }
        // It promises nothing that it cannot begin in time.
        self.offers
            .retain(|offer| offer.proposal.start > now.after(PUBLISH_BEFORE));
        // What it will have to lock for the deals that it was offered, and a little more.
        let offers = self.offers.iter().map(|o| &o.proposal);
        let needed: u128 = offers.map(|deal| deal.provider_collateral.0).sum();
        let needed = needed.saturating_add(100 * TOKEN);
        if view.market.escrow.0 < view.market.locked.0.saturating_add(needed) {
            let (to, amount) = (self.wallet.address(), TokenAmount(needed + 1_000 * TOKEN));
            self.wallet.send(Message::MarketDeposit { to, amount });
            return Ok(());
        }
        let sectors = query::sectors(state, id, None, query::MAX_PAGE)?;
        self.misfortune(&sectors, now, params, rng);
        if let Some(message) = self.recover(&sectors, state, id, now)? {
            self.wallet.send(message);
            return Ok(());
        }
        if let Some(sector) = sectors.iter().find(|s| is_provable(s, now)) {
            let (proof, is_true) = self.porep(sector, stub, rng);
            let message = Message::ProveCommit {
                provider: id,
                sector: sector.number,
                proof,
            };
            self.remember(&message, is_true);
            self.wallet.send(message);
            return Ok(());
        }
        if !self.offers.is_empty() {
            let now = AT_ONCE.min(self.offers.len());
            let proposals = self.offers.drain(..now).collect();
            self.wallet.send(Message::PublishDeals {
                provider: id,
                proposals,
            });
            return Ok(());
        }
        if let Some(message) = self.precommit(&sectors, state, id, now, params)? {
            self.wallet.send(message);
        }
        Ok(())
    }

    fn registered(&mut self, state: &dyn KvRead) -> Result<Option<ProviderView>, StoreError> {
        if let Some(id) = self.id {
            return query::provider(state, id);
        }
        let all = query::providers(state, None, query::MAX_PAGE)?;
        let found = all.into_iter().find(|p| p.owner == self.wallet.address());
        self.id = found.as_ref().map(|p| p.id);
        if found.is_none() && self.wallet.pending.is_empty() {
            self.wallet.send(Message::RegisterProvider {
                worker: self.wallet.address(),
                net_key: NetKey([1; 32]),
                addrs: vec!["127.0.0.1:1".into()],
                sector_size: SIZE,
                deposit: TokenAmount(20_000_000 * TOKEN),
            });
        }
        Ok(found)
    }

    /// The unlucky one's disk eats sectors.
    fn misfortune(
        &mut self,
        sectors: &[SectorView],
        now: Epoch,
        params: &ChainParams,
        rng: &mut ChaCha8Rng,
    ) {
        self.lost.retain(|_, until| *until > now);
        if self.manner == Manner::Unlucky && rng.gen_bool(0.02) {
            let live: Vec<_> = sectors
                .iter()
                .filter(|s| s.status == SectorStatus::Active)
                .collect();
            if let Some(sector) = live.get(rng.gen_range(0..live.len().max(1))) {
                self.lost
                    .insert(sector.number.0, now.after(params.proving_period));
            }
        }
    }

    /// Faulty sectors that are back are declared so.
    fn recover(
        &self,
        sectors: &[SectorView],
        state: &dyn KvRead,
        id: ProviderId,
        now: Epoch,
    ) -> Result<Option<Message>, StoreError> {
        let back = |s: &&SectorView| {
            s.status == SectorStatus::Faulty && !self.lost.contains_key(&s.number.0)
        };
        let params = query::params(state)?;
        let deadlines = query::deadlines(state, id)?.unwrap_or_default();
        let in_time = |s: &&SectorView| {
            let deadline = s.deadline.and_then(|d| deadlines.get(usize::from(d)));
            deadline.is_some_and(|d| {
                !d.is_open && now.next().after(params.fault_cutoff) < d.window.open
            })
        };
        let found = sectors
            .iter()
            .filter(back)
            .find(in_time)
            .filter(|_| self.manner != Manner::Cheat);
        Ok(found.map(|s| Message::DeclareRecovered {
            provider: id,
            sectors: vec![s.number],
        }))
    }

    fn porep(&mut self, sector: &SectorView, stub: Stub, rng: &mut ChaCha8Rng) -> (Vec<u8>, bool) {
        let (Some(ticket), Some(seed), Some(comm_d), Some(id)) =
            (sector.ticket, sector.seed, sector.comm_d, self.id)
        else {
            return (vec![0; 192], false);
        };
        let statement = PorepStatement {
            seal: RegisteredSeal::v1_1(SIZE),
            prover: id.prover_id(),
            sector: sector.number,
            ticket,
            seed,
            comm_d,
            comm_r: sector.comm_r,
        };
        self.truth_or_lie(stub.porep_proof(&statement), rng)
    }

    /// A cheat sends old proofs or noise half of the time. Gives what is sent, and whether it is the proof.
    fn truth_or_lie(&mut self, proof: Vec<u8>, rng: &mut ChaCha8Rng) -> (Vec<u8>, bool) {
        if self.manner != Manner::Cheat || rng.gen_bool(0.5) {
            self.old.push(proof.clone());
            return (proof, true);
        }
        let sent = match self.old.len() {
            0 => vec![7; 192],
            n => self.old[rng.gen_range(0..n)].clone(),
        };
        let is_true = sent == proof;
        (sent, is_true)
    }

    fn remember(&mut self, message: &Message, is_true: bool) {
        if !is_true {
            self.lies.insert(digest(message));
        }
    }

    fn precommit(
        &mut self,
        sectors: &[SectorView],
        state: &dyn KvRead,
        id: ProviderId,
        now: Epoch,
        params: &ChainParams,
    ) -> Result<Option<Message>, StoreError> {
        let deals = query::deals_of_provider(state, id, None, query::MAX_PAGE)?;
        let net = query::totals(state)?;
        let mut free = None;
        for deal in &deals {
            if deal.status != DealStatus::Published || deal.sector.is_some() {
                continue;
            }
            // Its time to begin counts lit epochs only, so an outage takes nothing from it.
            let span = deal.proposal.start.next().since(deal.published);
            let left = lit::lacking(state, &net, (deal.published, span), now)?;
            if left > COMMIT_BEFORE {
                free = Some(deal);
                break;
            }
        }
        let live = sectors
            .iter()
            .filter(|s| s.status.is_live() || s.status == SectorStatus::PreCommitted);
        if free.is_none() && live.count() >= 2 {
            return Ok(None);
        }
        let deals: Vec<DealId> = free.iter().map(|d| d.id).collect();
        let end = free.map_or(now, |d| d.proposal.end);
        let Some(pieces) = query::pieces(state, &deals)? else {
            return Ok(None);
        };
        let Ok(comm_d) = layout::comm_d(&pieces, SIZE) else {
            return Ok(None);
        };
        let least = now
            .next()
            .after(params.precommit_max)
            .after(params.min_sector_life);
        self.next_sector += 1;
        let number = self.next_sector;
        let comm_r = Sha256::new_with_prefix(id.0.to_be_bytes())
            .chain_update(number.to_be_bytes())
            .finalize();
        Ok(Some(Message::PreCommit {
            provider: id,
            sector: SectorNumber(number),
            comm_r: CommR(comm_r.into()),
            comm_d,
            // The newest whose beacon is known: while no rounds come that is an older one.
            ticket_epoch: now.min(net.beacon_tip),
            expiration: least.max(end).after(EpochCount(60)),
            deals,
        }))
    }

    /// Proofs that are due now.
    fn posts(
        &mut self,
        state: &dyn KvRead,
        id: ProviderId,
        stub: Stub,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), StoreError> {
        let params = query::params(state)?;
        for deadline in query::deadlines(state, id)?.unwrap_or_default() {
            if !deadline.is_open || self.forgets == Some(deadline.window.close) {
                continue;
            }
            let challenge = deadline.window.open.before(params.post_lookback);
            let Some(randomness) = query::randomness(state, Tag::WindowPost, challenge, id)? else {
                continue;
            };
            for partition in deadline.partitions.iter().filter(|p| !p.posted) {
                let key = (deadline.window.close, deadline.index, partition.index);
                let lazy = self.manner == Manner::Cheat && rng.gen_bool(0.3);
                if lazy || self.posted.contains(&key) {
                    continue;
                }
                let Some((message, sectors)) =
                    self.post(state, id, &deadline, partition.index, randomness, stub, rng)?
                else {
                    continue;
                };
                if let Some(sent) = self.wallet.send(message) {
                    self.posted.insert(key);
                    let close = deadline.window.close;
                    self.proofs.insert(sent, Proof { close, sectors });
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn post(
        &mut self,
        state: &dyn KvRead,
        id: ProviderId,
        deadline: &DeadlineView,
        partition: u32,
        randomness: [u8; 32],
        stub: Stub,
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<(Message, Vec<SectorNumber>)>, StoreError> {
        let (mut proven, mut skipped) = (Vec::new(), Vec::new());
        let slots = deadline
            .partitions
            .iter()
            .filter(|p| p.index == partition)
            .flat_map(|p| &p.sectors);
        for slot in slots {
            let Some(sector) =
                query::sector(state, id, slot.number)?.filter(|s| s.status.is_live())
            else {
                continue;
            };
            if sector.status == SectorStatus::Faulty {
                continue;
            }
            match self.lost.contains_key(&slot.number.0) {
                true => skipped.push(slot.number),
                false => proven.push((slot.number, sector.comm_r)),
            }
        }
        if proven.is_empty() {
            return Ok(None);
        }
        let sectors = proven.iter().map(|(number, _)| *number).collect();
        let statement = WindowPostStatement {
            size: SIZE,
            prover: id.prover_id(),
            randomness: PostRandomness::masked(randomness),
            sectors: proven,
        };
        let (proof, is_true) = self.truth_or_lie(stub.post_proof(&statement), rng);
        let message = Message::SubmitPost {
            provider: id,
            deadline: deadline.index,
            partition,
            skipped,
            proof,
        };
        self.remember(&message, is_true);
        Ok(Some((message, sectors)))
    }
}

fn digest(message: &Message) -> [u8; 32] {
    Sha256::digest(codec::encode(message)).into()
}

fn is_provable(sector: &SectorView, now: Epoch) -> bool {
    sector.status == SectorStatus::PreCommitted
        && sector.seed.is_some()
        && sector.prove_until.is_some_and(|until| now < until)
}
