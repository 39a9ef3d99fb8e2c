//! A small world: keys, a chain in memory, and parties that say what people say. Proofs are checked by a stub that
//! accepts exactly the digest of the statement, so every field of a statement is bound as a real proof binds it.

use std::collections::BTreeMap;

use chain_lite::account::{Address, Blake3Root, ChainId, DealId, NetKey, ProviderId};
use chain_lite::codec::encode;
use chain_lite::deal::DealStatus;
use chain_lite::error::{ChainError, ErrorCode};
use chain_lite::events::{Event, EventRecord};
use chain_lite::execute::{
    Applied, BlockCtx, Outcome, Output, ProofError, ProofVerifier, ProposalOutcome, Receipt, apply,
    genesis_writes,
};
use chain_lite::invariants;
use chain_lite::message::{
    CheckedTx, DealGroup, DealProposal, Message, SignedProposal, TX_VERSION, Tx, sign,
};
use chain_lite::params::ChainParams;
use chain_lite::proofs::apply_together;
use chain_lite::query::{
    self, DeadlineView, DealView, MarketView, ProviderView, SectorStatus, SectorView,
};
use chain_lite::randomness::{Tag, rand};
use chain_lite::state::{KvRead, MemoryState, Network};
use chain_lite::tree::{self, MemoryTree};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::piece::layout;
use prover::verify::{PorepStatement, WindowPostStatement};
use prover::{
    CommP, CommR, PaddedPieceSize, PieceInfo, PostRandomness, RegisteredSeal, SectorNumber,
};
use prover::{SectorSize, Seed, Ticket};
use sha2::{Digest, Sha256};

pub const TOKEN: u128 = 1_000_000_000_000_000_000;
pub const SIZE: SectorSize = SectorSize::Kib2;

/// Accepts the statement's digest, in any of 256 "re-randomised" forms: one more byte, of any value.
pub struct Stub;

pub fn digest<T: borsh::BorshSerialize>(statement: &T) -> Vec<u8> {
    let mut proof = Sha256::digest(encode(statement)).to_vec();
    proof.push(0);
    proof
}

fn judge<T: borsh::BorshSerialize>(statement: &T, proof: &[u8]) -> Result<(), ProofError> {
    let expected = digest(statement);
    if proof.len() == 33 && proof[..32] == expected[..32] {
        return Ok(());
    }
    Err(ProofError::Rejected("not this statement's digest".into()))
}

impl ProofVerifier for Stub {
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError> {
        judge(statement, proof)
    }
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError> {
        judge(statement, proof)
    }
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn address(key: &SigningKey) -> Address {
    Address::of(&key.verifying_key())
}

pub fn beacon(epoch: Epoch) -> [u8; 32] {
    Sha256::digest([b"beacon".as_slice(), &epoch.0.to_be_bytes()].concat()).into()
}

pub fn draw(tag: Tag, epoch: Epoch, provider: ProviderId) -> [u8; 32] {
    rand(tag, &beacon(epoch), epoch, &provider.0.to_be_bytes())
}

/// Set for a run of these tests in which every new world's money is closed (`closed`).
pub const CLOSED_CREDIT: &str = "HOLDFAST_TEST_CLOSED_CREDIT";

#[derive(Clone)]
pub struct World {
    pub state: MemoryState,
    /// The state before the first block.
    pub genesis: MemoryState,
    pub chain: ChainId,
    pub params: ChainParams,
    pub epoch: Epoch,
    /// Events of the last block.
    pub events: Vec<EventRecord>,
    /// Events of all blocks, with their epochs.
    pub history: Vec<(Epoch, Event)>,
    /// Every block, for replay.
    pub log: Vec<(BlockCtx, Vec<CheckedTx>)>,
    next_piece: u64,
}

impl World {
    pub fn new(mut params: ChainParams, accounts: &[(Address, u128)]) -> Self {
        params.closed_credit |= std::env::var_os(CLOSED_CREDIT).is_some();
        let accounts: BTreeMap<Address, TokenAmount> = accounts
            .iter()
            .map(|&(address, amount)| (address, TokenAmount(amount)))
            .collect();
        let mut state = MemoryState::default();
        state.commit(&genesis_writes(&params, &accounts).expect("a sound genesis"));
        Self {
            genesis: state.clone(),
            state,
            chain: ChainId([0xc4; 32]),
            params,
            epoch: Epoch(0),
            events: Vec::new(),
            history: Vec::new(),
            log: Vec::new(),
            next_piece: 0,
        }
    }

    pub fn net(&self) -> Network {
        query::totals(&self.state).expect("memory")
    }

    pub fn next_ctx(&self) -> BlockCtx {
        self.ctx_at(self.epoch.next(), u64::MAX)
    }

    /// A block at a later epoch that brings up to `entries` of the beacon values that are due.
    pub fn ctx_at(&self, epoch: Epoch, entries: u64) -> BlockCtx {
        let net = self.net();
        let (tip, most) = (net.beacon_tip.0, entries.min(256));
        let due = (tip + 1..=epoch.0.min(tip.saturating_add(most))).map(Epoch);
        BlockCtx {
            chain_id: self.chain,
            round: 0,
            height: net.height + 1,
            epoch,
            beacons: due.map(|epoch| (epoch, beacon(epoch))).collect(),
        }
    }

    /// A signed and checked transaction with the sender's next nonce (plus `ahead`).
    pub fn tx(&self, from: &SigningKey, ahead: u64, msgs: Vec<Message>) -> CheckedTx {
        let sender = address(from);
        let tx = Tx {
            version: TX_VERSION,
            chain_id: self.chain,
            sender,
            nonce: query::account(&self.state, &sender).expect("memory").nonce + ahead,
            fee_limit: TokenAmount(u128::MAX),
            valid_until_height: u64::MAX,
            msgs,
        };
        sign(tx, from).check(&self.chain).expect("well made")
    }

    /// Applies the next block without keeping it.
    pub fn try_block(&self, txs: &[CheckedTx]) -> Applied {
        self.try_ctx(&self.next_ctx(), txs)
    }

    fn try_ctx(&self, ctx: &BlockCtx, txs: &[CheckedTx]) -> Applied {
        let applied = apply(&self.state, ctx, txs, &Stub).expect("the context continues the chain");
        // V3: the same block gives the same bytes, however its proofs are verified.
        let again = apply_together(&self.state, ctx, txs, &Stub);
        let again = again.expect("the context continues the chain");
        assert_eq!(applied, again, "apply is not a function");
        applied
    }

    /// Applies the next block, keeps it, and checks every invariant of the result.
    pub fn block(&mut self, txs: Vec<CheckedTx>) -> Vec<Receipt> {
        self.block_at(self.epoch.next(), u64::MAX, txs)
    }

    /// As [`Self::block`], at a later epoch and with up to `entries` beacon values.
    pub fn block_at(&mut self, epoch: Epoch, entries: u64, txs: Vec<CheckedTx>) -> Vec<Receipt> {
        let ctx = self.ctx_at(epoch, entries);
        let minted = self.net().minted;
        let applied = self.try_ctx(&ctx, &txs);
        self.state.commit(&applied.writes);
        self.epoch = ctx.epoch;
        self.log.push((ctx, txs));
        self.history.extend(
            applied
                .events
                .iter()
                .map(|record| (self.epoch, record.event.clone())),
        );
        self.events = applied.events;
        let broken = invariants::check(&self.state).expect("memory");
        assert!(
            broken.is_empty(),
            "epoch {}: {}",
            self.epoch,
            broken
                .iter()
                .map(|v| v.to_string())
                .collect::<Vec<_>>()
                .join("; ")
        );
        assert!(self.net().minted >= minted, "I2: minted fell");
        applied.receipts
    }

    /// One message of one sender in a block of its own.
    pub fn send(&mut self, from: &SigningKey, msg: Message) -> Result<Output, ChainError> {
        let tx = self.tx(from, 0, vec![msg]);
        let receipt = self.block(vec![tx]).remove(0);
        match receipt.outcome {
            Outcome::Applied { mut outputs } => Ok(outputs.remove(0)),
            Outcome::Failed { error, .. } | Outcome::Refused { error } => Err(error),
        }
    }

    /// A message that must succeed.
    pub fn must(&mut self, from: &SigningKey, msg: Message) -> Output {
        let epoch = self.epoch.next();
        self.send(from, msg.clone())
            .unwrap_or_else(|error| panic!("epoch {epoch}: {} failed: {error}", msg.name()))
    }

    /// A message that must fail with this code; gives the error.
    pub fn fails(&mut self, from: &SigningKey, msg: Message, code: ErrorCode) -> ChainError {
        let name = msg.name();
        let error = self.send(from, msg).expect_err(name);
        assert_eq!(error.code(), code, "{name}: {error}");
        error
    }

    /// Empty blocks up to and including `epoch`.
    pub fn run_to(&mut self, epoch: Epoch) {
        assert!(epoch >= self.epoch, "the present is {}", self.epoch);
        while self.epoch < epoch {
            self.block(vec![]);
        }
    }

    pub fn provider(&self, id: ProviderId) -> ProviderView {
        query::provider(&self.state, id)
            .expect("memory")
            .expect("registered")
    }

    pub fn sector(&self, id: ProviderId, number: u64) -> SectorView {
        query::sector(&self.state, id, SectorNumber(number))
            .expect("memory")
            .expect("known")
    }

    pub fn status(&self, id: ProviderId, number: u64) -> SectorStatus {
        self.sector(id, number).status
    }

    pub fn deal(&self, id: &DealId) -> DealView {
        query::deal(&self.state, id)
            .expect("memory")
            .expect("published")
    }

    pub fn deal_status(&self, id: &DealId) -> DealStatus {
        self.deal(id).status
    }

    pub fn market(&self, of: &SigningKey) -> MarketView {
        query::market(&self.state, &address(of)).expect("memory")
    }

    pub fn free(&self, of: &SigningKey) -> TokenAmount {
        query::account(&self.state, &address(of))
            .expect("memory")
            .free
    }

    pub fn nonce(&self, of: &SigningKey) -> u64 {
        query::account(&self.state, &address(of))
            .expect("memory")
            .nonce
    }

    pub fn deadlines(&self, id: ProviderId) -> Vec<DeadlineView> {
        query::deadlines(&self.state, id)
            .expect("memory")
            .expect("registered")
    }

    /// Registers a provider whose worker is its owner.
    pub fn register(&mut self, owner: &SigningKey, deposit: u128) -> ProviderId {
        let msg = Message::RegisterProvider {
            worker: address(owner),
            net_key: NetKey([1; 32]),
            addrs: vec!["127.0.0.1:4001".into()],
            sector_size: SIZE,
            deposit: TokenAmount(deposit),
        };
        match self.must(owner, msg) {
            Output::Registered { provider } => provider,
            other => panic!("unexpected output {other:?}"),
        }
    }

    pub fn fund_market(&mut self, of: &SigningKey, amount: u128) {
        self.must(
            of,
            Message::MarketDeposit {
                to: address(of),
                amount: TokenAmount(amount),
            },
        );
    }

    /// A proposal that this chain would accept now, of a piece never seen before.
    pub fn proposal(
        &mut self,
        client: &SigningKey,
        provider: ProviderId,
        size: u64,
    ) -> DealProposal {
        self.next_piece += 1;
        let piece_size = PaddedPieceSize::new(size).expect("a power of two");
        let least = query::least_collateral(&self.state, piece_size).expect("memory");
        let mut root: [u8; 32] = Sha256::digest(self.next_piece.to_le_bytes()).into();
        root[31] &= 0x3f;
        DealProposal {
            chain_id: self.chain,
            client: address(client),
            provider,
            piece_commp: CommP(root),
            piece_size,
            blake3_root: Blake3Root([3; 32]),
            group: DealGroup {
                k: 3,
                n: 5,
                file_root: Blake3Root([4; 32]),
            },
            start: self.epoch.after(EpochCount(60)),
            end: self.epoch.after(EpochCount(300)),
            price: TokenAmount(1_000_000_000_000),
            provider_collateral: TokenAmount(least.0 + least.0 / 10),
            verified: false,
            label: "piece".into(),
            client_nonce: self.next_piece,
        }
    }

    /// Publishes one proposal and gives its verdict.
    pub fn publish(
        &mut self,
        worker: &SigningKey,
        signed: SignedProposal,
    ) -> Result<DealId, ChainError> {
        let msg = Message::PublishDeals {
            provider: signed.proposal.provider,
            proposals: vec![signed],
        };
        match self.send(worker, msg)? {
            Output::Deals { mut outcomes } => match outcomes.remove(0) {
                ProposalOutcome::Published { deal } => Ok(deal),
                ProposalOutcome::Refused { error, .. } => Err(error),
            },
            other => panic!("unexpected output {other:?}"),
        }
    }

    pub fn pieces(&self, deals: &[DealId]) -> Vec<PieceInfo> {
        query::pieces(&self.state, deals)
            .expect("memory")
            .expect("published")
    }

    /// A pre-commitment that this chain would accept now. CommR is made up from provider and number.
    pub fn precommit_msg(&self, provider: ProviderId, number: u64, deals: Vec<DealId>) -> Message {
        let now = self.epoch.next();
        let last_end = deals
            .iter()
            .map(|id| self.deal(id).proposal.end)
            .max()
            .unwrap_or_default();
        let least = now
            .after(self.params.precommit_max)
            .after(self.params.min_sector_life);
        Message::PreCommit {
            provider,
            sector: SectorNumber(number),
            comm_r: comm_r(provider, number),
            comm_d: layout::comm_d(&self.pieces(&deals), SIZE).expect("fits"),
            ticket_epoch: now.before(EpochCount(1)),
            expiration: least.max(last_end).after(EpochCount(600)),
            deals,
        }
    }

    pub fn porep_statement(&self, id: ProviderId, number: u64) -> PorepStatement {
        let view = self.sector(id, number);
        let precommitted = view.precommitted.expect("pre-committed");
        let seed_epoch = precommitted.after(self.params.seed_delay);
        PorepStatement {
            seal: RegisteredSeal::v1_1(SIZE),
            prover: id.prover_id(),
            sector: SectorNumber(number),
            // The world's pre-commitments name the epoch before their own.
            ticket: Ticket(draw(Tag::Ticket, precommitted.before(EpochCount(1)), id)),
            seed: Seed(draw(Tag::SealSeed, seed_epoch, id)),
            comm_d: view.comm_d.expect("pre-committed"),
            comm_r: view.comm_r,
        }
    }

    pub fn prove_msg(&self, provider: ProviderId, number: u64) -> Message {
        let proof = digest(&self.porep_statement(provider, number));
        Message::ProveCommit {
            provider,
            sector: SectorNumber(number),
            proof,
        }
    }

    /// Pre-commits and proves a sector, waiting for its seed.
    pub fn commit(
        &mut self,
        worker: &SigningKey,
        provider: ProviderId,
        number: u64,
        deals: Vec<DealId>,
    ) {
        self.must(worker, self.precommit_msg(provider, number, deals));
        self.run_to(self.epoch.after(self.params.seed_delay));
        self.must(worker, self.prove_msg(provider, number));
    }

    /// The statement that the chain expects for a partition in the next block.
    pub fn post_statement(
        &self,
        id: ProviderId,
        deadline: u16,
        partition: u32,
        skipped: &[u64],
    ) -> WindowPostStatement {
        let view = &self.deadlines(id)[usize::from(deadline)];
        let challenge = view.window.open.before(self.params.post_lookback);
        let found = view
            .partitions
            .iter()
            .find(|found| found.index == partition);
        let numbers = found
            .map(|found| found.sectors.iter().map(|slot| slot.number))
            .into_iter()
            .flatten();
        let proven = numbers
            .filter(|number| !skipped.contains(&number.0))
            .filter_map(|number| {
                let view = self.sector(id, number.0);
                (view.status != SectorStatus::Faulty).then_some((number, view.comm_r))
            });
        WindowPostStatement {
            size: SIZE,
            prover: id.prover_id(),
            randomness: PostRandomness::masked(draw(Tag::WindowPost, challenge, id)),
            sectors: proven.collect(),
        }
    }

    pub fn post_msg(
        &self,
        provider: ProviderId,
        deadline: u16,
        partition: u32,
        skipped: &[u64],
    ) -> Message {
        let proof = digest(&self.post_statement(provider, deadline, partition, skipped));
        let skipped = skipped.iter().copied().map(SectorNumber).collect();
        Message::SubmitPost {
            provider,
            deadline,
            partition,
            skipped,
            proof,
        }
    }

    /// All partitions that are open in the next block, unposted, and have something to prove, but for sectors `lost`.
    pub fn due_posts(&self, provider: ProviderId, lost: &[u64]) -> Vec<Message> {
        let mut posts = Vec::new();
        for deadline in self
            .deadlines(provider)
            .into_iter()
            .filter(|deadline| deadline.is_open)
        {
            for partition in deadline
                .partitions
                .iter()
                .filter(|partition| !partition.posted)
            {
                let has = |number: &u64| {
                    partition
                        .sectors
                        .iter()
                        .any(|slot| slot.number.0 == *number)
                };
                let skipped: Vec<u64> = lost.iter().copied().filter(has).collect();
                if !self
                    .post_statement(provider, deadline.index, partition.index, &skipped)
                    .sectors
                    .is_empty()
                {
                    posts.push(self.post_msg(provider, deadline.index, partition.index, &skipped));
                }
            }
        }
        posts
    }

    /// Runs to `epoch` with these providers proving everything but what they lost.
    pub fn run_proving(&mut self, epoch: Epoch, provers: &[(&SigningKey, ProviderId, &[u64])]) {
        while self.epoch < epoch {
            let mut txs = Vec::new();
            for (worker, id, lost) in provers {
                let posts = self.due_posts(*id, lost);
                if !posts.is_empty() {
                    txs.push(self.tx(worker, 0, posts));
                }
            }
            for receipt in self.block(txs) {
                assert!(
                    receipt.succeeded(),
                    "epoch {}: {:?}",
                    self.epoch,
                    receipt.outcome
                );
            }
        }
    }

    /// Fills deadlines until two sectors share a partition: the next close of their deadline, and the two.
    pub fn neighbours(&mut self, owner: &SigningKey, id: ProviderId) -> (Epoch, u64, u64) {
        for number in 0.. {
            self.commit(owner, id, number, vec![]);
            for deadline in self.deadlines(id) {
                let mut partitions = deadline.partitions.iter();
                if let Some(pair) = partitions.find(|p| p.sectors.len() == 2) {
                    let [good, lost] = [0, 1].map(|i: usize| pair.sectors[i].number.0);
                    return (deadline.window.close, good, lost);
                }
            }
            self.run_proving(self.epoch.next(), &[(owner, id, &[])]);
        }
        unreachable!("there are fewer deadlines than numbers")
    }

    /// The close of the sector's deadline that comes next.
    pub fn next_close(&self, id: ProviderId, number: u64) -> Epoch {
        let deadline = self.sector(id, number).deadline.expect("live");
        self.deadlines(id)[usize::from(deadline)].window.close
    }

    /// The root that a header of this state commits to.
    pub fn root(&self) -> [u8; 32] {
        let all = self.state.0.iter();
        let writes = all
            .map(|(key, value)| (key.clone(), Some(value.clone())))
            .collect();
        tree::update(&MemoryTree::default(), 0, &writes)
            .expect("memory")
            .root
    }

    /// All that these people own, on chain and in escrow, with what their providers hold and less what those owe.
    pub fn wealth(&self, people: &[&SigningKey], providers: &[ProviderId]) -> i128 {
        let signed = |amount: TokenAmount| i128::try_from(amount.0).expect("below the supply");
        let purses = people
            .iter()
            .map(|who| signed(self.free(who)) + signed(self.market(who).escrow));
        let held = providers.iter().map(|&id| {
            let view = self.provider(id);
            signed(view.balance) + signed(view.claimable) - signed(view.fee_debt)
        });
        purses.chain(held).sum()
    }

    /// Applies the whole log again from genesis; gives the final state.
    pub fn replay(&self, accounts: &[(Address, u128)]) -> MemoryState {
        let mut fresh = World::new(self.params.clone(), accounts).state;
        for (ctx, txs) in &self.log {
            let applied = apply(&fresh as &dyn KvRead, ctx, txs, &Stub).expect("it applied before");
            fresh.commit(&applied.writes);
        }
        fresh
    }
}

pub fn comm_r(provider: ProviderId, number: u64) -> CommR {
    CommR(Sha256::digest([provider.0.to_be_bytes(), number.to_be_bytes()].concat()).into())
}
