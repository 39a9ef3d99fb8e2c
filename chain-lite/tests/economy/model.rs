//! Random parties, random messages, all invariants after every block.
//!
//! The world checks I1–I8, I10, I12 and the indexes after each block and that `apply` is a function; here come the rules that
//! need history: I9, I11 and I14 (`chain_lite::history`), debt secured by what is locked (`threat-model.md` P20), I13 (replay)
//! and quiescence (V13): when everybody has gone, nothing is locked.

use std::collections::BTreeMap;

use chain_lite::account::{Address, ChannelId, DealId, NetKey, ProviderId};
use chain_lite::deal::DealStatus;
use chain_lite::events::Event;
use chain_lite::execute::ProofVerifier;
use chain_lite::history::{self, History};
use chain_lite::invariants::Violation;
use chain_lite::message::{CheckedTx, Message};
use chain_lite::params::{ChainParams, VerificationMode};
use chain_lite::query::{self, SectorStatus};
use chain_lite::sector::dispute::{self, PostId, StoredPost};
use chain_lite::units::{EpochCount, StoragePower, TokenAmount};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use prover::{SectorNumber, SectorSize};

use crate::world::{Stub, TOKEN, World, address, key};

/// One thing that somebody does; numbers choose who, what and how much.
#[derive(Clone, Copy, Debug)]
struct Action {
    kind: u8,
    who: u8,
    what: u8,
    much: u16,
}

/// Kinds of actions: see [`Model::message`] and [`Model::act`].
const KINDS: u8 = 28;

fn action() -> impl Strategy<Value = Action> {
    (0u8..KINDS, any::<u8>(), any::<u8>(), any::<u16>()).prop_map(|(kind, who, what, much)| {
        Action {
            kind,
            who,
            what,
            much,
        }
    })
}

struct Model {
    world: World,
    accounts: Vec<(Address, u128)>,
    clients: Vec<SigningKey>,
    owners: Vec<SigningKey>,
    /// Provider, its owner's position, whether it proves what is due.
    providers: Vec<(ProviderId, usize, bool)>,
    deals: Vec<DealId>,
    next_sector: u64,
    history: History,
    accepted: u64,
    fees: bool,
    optimistic: bool,
    /// Disputes that a client announced.
    announced: Vec<(usize, PostId)>,
}

impl Model {
    fn new(fees: bool, optimistic: bool, closed_credit: bool) -> Self {
        let clients: Vec<SigningKey> = [1, 2].map(key).into();
        let owners: Vec<SigningKey> = [10, 11, 12].map(key).into();
        let mut accounts: Vec<_> = clients
            .iter()
            .map(|key| (address(key), 10_000_000 * TOKEN))
            .collect();
        accounts.extend(owners.iter().map(|key| (address(key), 50_000_000 * TOKEN)));
        let mut params = ChainParams::devnet();
        if fees {
            (params.fee_base, params.fee_byte, params.fee_verify) = (
                TokenAmount(TOKEN),
                TokenAmount(TOKEN / 1000),
                TokenAmount(TOKEN),
            );
        }
        params.closed_credit = closed_credit;
        if optimistic {
            params.verification = VerificationMode::Optimistic;
        }
        params.datacap_root = Some(address(&owners[0]));
        let mut world = World::new(params, &accounts);
        let mut providers = Vec::new();
        for (index, owner) in owners.iter().enumerate() {
            providers.push((world.register(owner, 100_000 * TOKEN), index, true));
            world.fund_market(owner, 200_000 * TOKEN);
        }
        for client in &clients {
            world.fund_market(client, 1_000 * TOKEN);
        }
        Self {
            world,
            accounts,
            clients,
            owners,
            providers,
            deals: Vec::new(),
            next_sector: 0,
            history: History::default(),
            accepted: 0,
            fees,
            optimistic,
            announced: Vec::new(),
        }
    }

    fn provider(&self, choice: u8) -> (ProviderId, usize) {
        let (id, owner, _) = self.providers[usize::from(choice) % self.providers.len()];
        (id, owner)
    }

    /// Sectors of a provider in one of these states.
    fn sectors(&self, id: ProviderId, wanted: &[SectorStatus]) -> Vec<u64> {
        let views = query::sectors(&self.world.state, id, None, 1_000).expect("memory");
        views
            .into_iter()
            .filter(|view| wanted.contains(&view.status))
            .map(|view| view.number.0)
            .collect()
    }

    fn pick(&self, id: ProviderId, wanted: &[SectorStatus], choice: u16) -> Option<u64> {
        let found = self.sectors(id, wanted);
        (!found.is_empty()).then(|| found[usize::from(choice) % found.len()])
    }

    /// The message of an action and the one who sends it; `None` where there is nothing to do it with.
    fn message(&mut self, action: Action) -> Option<(SigningKey, Message)> {
        let Action {
            who, what, much, ..
        } = action;
        let (id, owner_index) = self.provider(who);
        let owner = self.owners[owner_index].clone();
        let client = self.clients[usize::from(what) % 2].clone();
        let share =
            |of: TokenAmount| TokenAmount(of.0 / 60_000 * u128::from(much) + u128::from(much % 3));
        let live = [
            SectorStatus::Unproven,
            SectorStatus::Active,
            SectorStatus::Faulty,
            SectorStatus::Recovering,
        ];
        let some = |number: u64| vec![SectorNumber(number)];
        Some(match action.kind {
            0 => (
                client.clone(),
                Message::Transfer {
                    to: address(&owner),
                    amount: share(self.world.free(&client)),
                },
            ),
            1 => {
                let amount = TokenAmount(share(self.world.free(&client)).0 / 1_000);
                (
                    client,
                    Message::MarketDeposit {
                        to: address(&self.clients[usize::from(who) % 2]),
                        amount,
                    },
                )
            }
            2 => (
                client.clone(),
                Message::MarketWithdraw {
                    amount: share(self.world.market(&client).available),
                },
            ),
            3 => {
                let from = if what % 2 == 0 { client } else { owner };
                let amount = TokenAmount(share(self.world.free(&from)).0 / 50);
                (
                    from,
                    Message::ProviderDeposit {
                        provider: id,
                        amount,
                    },
                )
            }
            4 => {
                // Now and then all of it, mostly a little.
                let part = share(self.world.provider(id).available).0
                    / if what % 16 == 0 { 1 } else { 30 };
                (
                    owner,
                    Message::ProviderWithdraw {
                        provider: id,
                        amount: TokenAmount(part),
                    },
                )
            }
            5 | 6 => {
                let mut proposal = self.world.proposal(&client, id, 128 << (much % 5));
                proposal.start = self
                    .world
                    .epoch
                    .after(EpochCount(2 + u64::from(what) % 200));
                proposal.end = proposal.start.after(EpochCount(60 + u64::from(much) % 500));
                proposal.price = TokenAmount(TOKEN / 1_000 * u128::from(much % 100));
                proposal.verified = what % 3 == 0;
                self.deals.push(proposal.id());
                (
                    owner,
                    Message::PublishDeals {
                        provider: id,
                        proposals: vec![proposal.sign(&client)],
                    },
                )
            }
            7 | 8 => {
                let free = |deal: &&DealId| {
                    query::deal(&self.world.state, deal)
                        .expect("memory")
                        .is_some_and(|view| {
                            view.proposal.provider == id
                                && view.status == DealStatus::Published
                                && view.sector.is_none()
                        })
                };
                let deals = self
                    .deals
                    .iter()
                    .filter(free)
                    .take(usize::from(what) % 3)
                    .copied()
                    .collect::<Vec<_>>();
                let room: u64 = self
                    .world
                    .pieces(&deals)
                    .iter()
                    .map(|piece| piece.size.bytes())
                    .sum();
                self.next_sector += 1;
                let deals = if room <= SectorSize::Kib2.bytes() / 2 {
                    deals
                } else {
                    vec![]
                };
                (owner, self.world.precommit_msg(id, self.next_sector, deals))
            }
            9 | 10 => {
                let number = self.pick(id, &[SectorStatus::PreCommitted], much)?;
                let mut msg = self.world.prove_msg(id, number);
                if let (Message::ProveCommit { proof, .. }, 0) = (&mut msg, what % 16) {
                    proof[0] ^= 1;
                }
                (owner, msg)
            }
            11 => {
                let lost: Vec<u64> = self.pick(id, &live, much).into_iter().collect();
                let mut msg = self.world.due_posts(id, &lost).into_iter().next()?;
                // Wrong ones are taken in optimistic mode, until somebody disputes them.
                let often = if self.optimistic { 2 } else { 8 };
                if let (Message::SubmitPost { proof, .. }, 0) = (&mut msg, what % often) {
                    proof[0] ^= 1;
                }
                (owner, msg)
            }
            12 => (
                owner,
                Message::DeclareFaults {
                    provider: id,
                    sectors: some(self.pick(id, &live, much)?),
                },
            ),
            13 => (
                owner,
                Message::DeclareRecovered {
                    provider: id,
                    sectors: some(self.pick(id, &[SectorStatus::Faulty], much)?),
                },
            ),
            14 => (
                owner,
                Message::Terminate {
                    provider: id,
                    sector: SectorNumber(self.pick(id, &live, much)?),
                },
            ),
            15 => (
                owner,
                Message::ChangeKeys {
                    provider: id,
                    worker: address(&client),
                    net_key: NetKey([what; 32]),
                },
            ),
            16 => {
                // Somebody else's everyday message: refused, unless the client is the worker by now.
                (
                    client,
                    Message::SetAddrs {
                        provider: id,
                        addrs: vec!["h:1".into(); usize::from(much % 10)],
                    },
                )
            }
            20..24 => return self.channel_message(action),
            // The first owner holds the root key, the second is a notary.
            24 => (
                self.owners[usize::from(who) % 8 % 3].clone(),
                Message::AllowDataCap {
                    notary: address(&self.owners[1]),
                    bytes: StoragePower(u128::from(much)),
                },
            ),
            25 => (
                self.owners[1].clone(),
                Message::GrantDataCap {
                    client: address(&client),
                    bytes: StoragePower(u128::from(much % 4_096)),
                },
            ),
            26 => {
                // A wrong one if there is one, else any: disputes of sound proofs are refused.
                let posts = dispute::all_stored(&self.world.state).expect("memory");
                let is_wrong = |(id, post): &&(PostId, StoredPost)| {
                    let statement = dispute::statement_of(&self.world.state, id, post);
                    Stub.window_post(&statement.expect("memory"), &post.proof)
                        .is_err()
                };
                let (id, _) = posts.iter().find(is_wrong).or(posts.first())?;
                self.announced.push((usize::from(what) % 2, *id));
                let digest = id.digest(&address(&client), &[7; 32]);
                (client, Message::AnnounceDispute { digest })
            }
            27 => {
                let (who, post) = self.announced.pop()?;
                let salt = [7; 32];
                (self.clients[who].clone(), Message::Dispute { post, salt })
            }
            _ => return None,
        })
    }

    /// Opens, redeems, settles and collects channels from clients to owners; now and then from the wrong side.
    fn channel_message(&self, action: Action) -> Option<(SigningKey, Message)> {
        let Action {
            kind,
            who,
            what,
            much,
        } = action;
        if kind == 20 {
            let client = self.clients[usize::from(what) % 2].clone();
            let amount = TokenAmount(self.world.free(&client).0 / 1_000_000 * u128::from(much));
            let payee = address(&self.owners[usize::from(who) % self.owners.len()]);
            return Some((client, Message::OpenChannel { payee, amount }));
        }
        let last = self.world.net().next_channel - 1;
        let id = ChannelId(last.checked_sub(u64::from(what % 4))?);
        let channel = self.world.channel(id)?;
        let key_of = |wanted: &Address| {
            let mut all = self.clients.iter().chain(&self.owners);
            all.find(|key| address(key) == *wanted).cloned()
        };
        let (payer, payee) = (key_of(&channel.payer)?, key_of(&channel.payee)?);
        let sender = if what % 16 == 0 { payer.clone() } else { payee };
        let msg = match kind {
            21 => {
                let lane = u64::from(who % 3);
                let at = channel.lanes.iter().find(|found| found.lane == lane);
                let (nonce, redeemed) = at.map_or((0, 0), |at| (at.nonce, at.redeemed.0));
                let left = channel.balance.0 - channel.due.0;
                // Sometimes more than there is.
                let amount = redeemed + left / 40_000 * u128::from(much);
                let voucher = self.world.voucher(id, lane, nonce + 1, amount);
                Message::RedeemVoucher {
                    voucher: voucher.sign(&payer),
                }
            }
            22 => Message::SettleChannel { channel: id },
            _ => Message::CollectChannel { channel: id },
        };
        Some((sender, msg))
    }

    fn act(&mut self, action: Action) -> Result<(), TestCaseError> {
        match action.kind {
            17 => {
                let at = usize::from(action.who) % self.providers.len();
                // Mostly at work: three come back for each that leaves.
                self.providers[at].2 = !action.what.is_multiple_of(4);
                Ok(())
            }
            18 | 19 => self.run(u64::from(action.much) % 40),
            _ => {
                let Some((from, msg)) = self.message(action) else {
                    return Ok(());
                };
                // A refused list length is `check`'s business; the model speaks to `apply`.
                if matches!(&msg, Message::SetAddrs { addrs, .. } if addrs.len() > 8) {
                    return Ok(());
                }
                let tx = self.world.tx(&from, 0, vec![msg]);
                self.block(vec![tx])
            }
        }
    }

    /// Epochs in which those who prove do.
    fn run(&mut self, epochs: u64) -> Result<(), TestCaseError> {
        for _ in 0..epochs {
            let mut txs = Vec::new();
            let mut ahead = BTreeMap::new();
            for &(id, owner, proves) in &self.providers {
                let mut posts = if proves {
                    self.world.due_posts(id, &[])
                } else {
                    vec![]
                };
                for post in &mut posts {
                    // Now and then a wrong one; where it is refused, a sound one follows in the next epoch.
                    if let Message::SubmitPost { proof, .. } = post
                        && self.optimistic
                        && self.world.epoch.0.is_multiple_of(5)
                    {
                        proof[0] ^= 1;
                    }
                }
                if proves {
                    posts.extend(self.due_seal(id));
                }
                if !posts.is_empty() {
                    let nonce = ahead.entry(owner).or_insert(0);
                    txs.push(self.world.tx(&self.owners[owner], *nonce, posts));
                    *nonce += 1;
                }
            }
            self.block(txs)?;
        }
        Ok(())
    }

    /// A sector whose seed is there. One in five is forgotten, to expire.
    fn due_seal(&self, id: ProviderId) -> Option<Message> {
        let views = query::precommits(&self.world.state, id, None, 1_000).expect("memory");
        let now = self.world.epoch.next();
        let ready = views.into_iter().find(|view| {
            let deals = view.deals.iter().map(|deal| self.world.deal(deal));
            view.seed_epoch.is_some_and(|seed| seed < now)
                && view.number.0 % 5 != 0
                && deals
                    .into_iter()
                    .all(|deal| deal.status == DealStatus::Published && deal.proposal.start >= now)
        })?;
        let pledge = query::sector_quote(&self.world.state, SectorSize::Kib2, EpochCount(1))
            .expect("memory")
            .pledge;
        (self.world.provider(id).available.0 > 2 * pledge.0)
            .then(|| self.world.prove_msg(id, ready.number.0))
    }

    fn block(&mut self, txs: Vec<CheckedTx>) -> Result<(), TestCaseError> {
        let (state, ctx) = (&self.world.state, self.world.next_ctx());
        none(history::others_lose(state, &ctx, &txs, &Stub).expect("it continues the chain"))?;
        self.accepted += self
            .world
            .block(txs)
            .iter()
            .filter(|receipt| receipt.succeeded())
            .count() as u64;
        let broken = self.history.block(&self.world.events, &self.world.state);
        none(broken.expect("memory"))?;
        for &(id, _, _) in self.providers.iter().filter(|_| self.is_secured()) {
            let view = self.world.provider(id);
            prop_assert!(
                view.fee_debt.0 <= view.pledge.0 + view.vesting.0,
                "P20: provider {} owes {}",
                id,
                view.fee_debt
            );
        }
        Ok(())
    }

    /// Whether all that a provider can owe is secured by its pledges: fees may go beyond, and so may a dispute's charge on top
    /// of the fault that it uncovers (`chain.md` §10 promises solvency in eager mode).
    fn is_secured(&self) -> bool {
        !self.fees && !self.optimistic
    }

    /// Everybody goes away; in the end nothing is locked, nothing is owed, and the log tells the same story again.
    fn quiesce(&mut self) -> Result<(), TestCaseError> {
        for provider in &mut self.providers {
            provider.2 = false;
        }
        self.run(1_400)?;
        for deal in &self.deals {
            if let Some(view) = query::deal(&self.world.state, deal).expect("memory") {
                prop_assert!(
                    !view.status.is_open(),
                    "V13: deal {} is {:?}",
                    deal,
                    view.status
                );
            }
        }
        for key in self.clients.iter().chain(&self.owners) {
            prop_assert_eq!(self.world.market(key).locked, TokenAmount(0));
        }
        for &(id, _, _) in &self.providers {
            let view = self.world.provider(id);
            prop_assert_eq!((view.pledge.0, view.deposits.0, view.power.0), (0, 0, 0));
            prop_assert!(
                view.fee_debt.0 == 0 || !self.is_secured(),
                "solvency: provider {} ends owing {}",
                id,
                view.fee_debt
            );
        }
        prop_assert_eq!(&self.replayed(), &self.world.state, "I13");
        Ok(())
    }

    fn replayed(&self) -> chain_lite::state::MemoryState {
        self.world.replay(&self.accounts)
    }
}

fn none(broken: Vec<Violation>) -> Result<(), TestCaseError> {
    prop_assert!(broken.is_empty(), "{broken:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn tm_v13_tm_p20_invariants_hold_whatever_happens(
        actions in proptest::collection::vec(action(), 20..160),
        fees in any::<bool>(),
        optimistic in any::<bool>(),
        closed_credit in any::<bool>(),
    ) {
        let mut model = Model::new(fees, optimistic, closed_credit);
        for action in actions {
            model.act(action)?;
        }
        prop_assert!(model.accepted > 0);
        model.quiesce()?;
    }
}

/// The model reaches what it is meant to check: every message succeeds and every event happens in a fixed long run.
#[test]
fn the_model_reaches_every_rule() {
    let mut model = Model::new(false, true, false);
    // A small fixed generator: the run is the same everywhere.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for _ in 0..2_400 {
        let [kind, who, what, much] = [(); 4].map(|()| next());
        let [kind, who, what] = [kind % u64::from(KINDS), who % 256, what % 256]
            .map(|part| u8::try_from(part).expect("below 256"));
        let much = u16::try_from(much % 65_536).expect("below 65,536");
        model
            .act(Action {
                kind,
                who,
                what,
                much,
            })
            .expect("every rule holds");
    }
    model.quiesce().expect("every rule holds");
    let mut succeeded: BTreeMap<&str, u64> = BTreeMap::new();
    let mut state = World::new(model.world.params.clone(), &model.accounts).state;
    for (ctx, txs) in &model.world.log {
        let applied = chain_lite::execute::apply(&state, ctx, txs, &crate::world::Stub)
            .expect("it applied before");
        for (tx, receipt) in txs
            .iter()
            .zip(&applied.receipts)
            .filter(|(_, receipt)| receipt.succeeded())
        {
            assert_eq!(tx.id(), receipt.tx);
            for msg in &tx.tx().msgs {
                *succeeded.entry(msg.name()).or_default() += 1;
            }
        }
        state.commit(&applied.writes);
    }
    assert_eq!(
        succeeded.len(),
        23,
        "messages that never succeeded are missing: {succeeded:?}"
    );
    let mut events: BTreeMap<String, u64> = BTreeMap::new();
    for (_, event) in &model.world.history {
        let json = serde_json::to_value(event).expect("plain data");
        // Every event reads back from its JSON.
        assert_eq!(
            &serde_json::from_value::<Event>(json.clone()).expect("what was written"),
            event
        );
        *events
            .entry(json["kind"].as_str().expect("tagged").to_string())
            .or_default() += 1;
    }
    assert_eq!(
        events.len(),
        32,
        "events that never happened are missing: {events:?}"
    );
}
