//! The treasury: keeps enough unlocked money on the chain for what was accepted and for what may be accepted next.
//!
//! Place: beside [`super::worker`]; [`super::intake`] asks it before it promises anything, so that no piece is acknowledged
//! whose collateral or pledge is not there or on its way. Spec: `chain.md` §§5, 10, 11.
//!
//! Two purses: the provider's *balance* (pre-commit deposits and pledges) and its owner's *escrow* (collateral of deals). With
//! `top_up` in the settings, what falls below its low mark is filled to its high mark from the owner's account, and on a chain
//! with a faucet that account from the faucet. The owner's key is then used while the provider runs, under the lock and with the
//! outbox of the owner's own commands ([`crate::client::outbox`]): a round waits while one of them runs, and comes after what an
//! interrupted one has left.
//!
//! | purse | low mark | high mark |
//! |---|---|---|
//! | balance | debt and the pledges of the next [`PLEDGES_AHEAD`] accepted sectors | one pledge more |
//! | escrow | collateral of one full piece beyond what is promised | of [`PIECES_AHEAD`] |
//!
//! A pledge is that of an ordinary sector, or, while a verified deal is kept here, of one that is full of them.
//! Not more, because both rates fall as the network grows: money for sectors that wait would be locked for nothing.
//! Bounds: one round at a time; at most [`MAX_PORTIONS`] payments of the faucet and one transaction in each; after a failed
//! round a pause that doubles up to [`MAX_PAUSE`]. Nothing is durable but the transaction, while it is on its way: each round
//! starts from the chain's numbers, so a crash at any point costs nothing but the round.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chain_lite::account::{Address, ProviderId};
use chain_lite::message::Message;
use chain_lite::params::ChainParams;
use chain_lite::units::TokenAmount;
use ed25519_dalek::SigningKey;
use prover::SectorSize;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::enrol::BURST_SECTORS;
use super::intake::Store;
use super::status::StatusWatch;
use super::worker::Backlog;
use crate::chain::{ChainClient, ChainError};
use crate::client::outbox::Outbox;
use crate::client::{ChainFailure, ClientError};
use crate::config::Home;
use crate::rpc::FAUCET_LIMIT;

/// Accepted sectors whose pledges are kept ready: the one being proven and the one behind it.
pub const PLEDGES_AHEAD: u64 = 2;
/// Full pieces whose collateral a filled escrow covers: what a client may send at once, so that no put waits for blocks.
pub const PIECES_AHEAD: u128 = 1 + BURST_SECTORS as u128;
/// Clients put up to an eighth on top of the chain's least collateral; pledges may rise by as much until they are locked.
const SLACK: u128 = 8;
/// Most payments asked of the faucet in one round.
const MAX_PORTIONS: u32 = 8;
/// The purses are looked at this often, and whenever intake has promised something.
const LOOK: Duration = Duration::from_secs(5);
/// Pause after a failed round; doubles.
const PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// How long the faucet's money may take: its block may wait for somebody's proof.
const FAUCET_PATIENCE: Duration = Duration::from_secs(660);

/// What the chain shows of the two purses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purses {
    /// Free money of the owner's account.
    pub owner_free: TokenAmount,
    /// Balance that may be locked now, or is in deposits that become pledges.
    pub balance: TokenAmount,
    /// Unpaid penalties.
    pub debt: TokenAmount,
    /// Unlocked escrow less what is promised to deals that the chain does not show yet.
    pub escrow: TokenAmount,
}

/// What one more of each costs now, slack included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Pledge of a sector.
    pub pledge: TokenAmount,
    /// Collateral of a piece that fills a sector.
    pub collateral: TokenAmount,
}

/// What is missing in each purse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// In the balance.
    pub balance: TokenAmount,
    /// In the escrow.
    pub escrow: TokenAmount,
}

/// What to move so that both purses are at their high marks again; nothing while both are above their low marks.
pub fn missing(purses: &Purses, rates: &Rates, sectors: u64) -> Missing {
    let ahead = u128::from(sectors.min(PLEDGES_AHEAD));
    let low = purses
        .debt
        .0
        .saturating_add(rates.pledge.0.saturating_mul(ahead));
    let mut found = Missing::default();
    if purses.balance.0 < low {
        let high = low.saturating_add(rates.pledge.0);
        found.balance = TokenAmount(high - purses.balance.0);
    }
    if purses.escrow < rates.collateral {
        let high = rates.collateral.0.saturating_mul(PIECES_AHEAD);
        found.escrow = TokenAmount(high.saturating_sub(purses.escrow.0));
    }
    found
}

/// The most power that a sector can have: its bytes, or with verified deals all over it so many times as much (`chain.md` §8).
pub fn power_of_sector(size: SectorSize, params: &ChainParams, verified: bool) -> u64 {
    match verified {
        // Tenths in the parameters; what is rounded up is a little more pledge than needed.
        true => size
            .bytes()
            .saturating_mul(params.quality_verified.div_ceil(10).max(1)),
        false => size.bytes(),
    }
}

impl Missing {
    fn total(&self) -> TokenAmount {
        TokenAmount(self.balance.0.saturating_add(self.escrow.0))
    }

    /// The same within `free`: what was accepted first (the balance), then what may come (the escrow).
    fn within(&self, free: TokenAmount) -> Self {
        let balance = self.balance.min(free);
        let escrow = self.escrow.min(free.minus_or_zero(balance));
        Self { balance, escrow }
    }
}

/// The treasury as `provider status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreasuryStatus {
    /// Whether purses are filled by themselves.
    pub top_up: bool,
    /// Free money of the owner's account.
    pub owner_free: TokenAmount,
    /// What the next sector would pledge, slack included.
    pub pledge: TokenAmount,
    /// What a piece that fills a sector needs as collateral, slack included.
    pub collateral: TokenAmount,
    /// Collateral promised to deals that the chain does not show yet.
    pub promised: TokenAmount,
    /// What the balance lacks at present.
    pub missing_balance: TokenAmount,
    /// What the escrow lacks at present.
    pub missing_escrow: TokenAmount,
    /// Moved to the balance since the start.
    pub filled_balance: TokenAmount,
    /// Moved to the escrow since the start.
    pub filled_escrow: TokenAmount,
    /// Why the last round failed, if it did.
    pub problem: Option<String>,
}

/// What intake may ask: shared between the task and whoever judges offers.
#[derive(Debug, Default)]
pub struct Treasury {
    state: RwLock<TreasuryStatus>,
    nudge: Notify,
}

impl Treasury {
    /// A treasury that fills by itself, or one that only watches.
    pub fn new(top_up: bool) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(TreasuryStatus {
                top_up,
                ..TreasuryStatus::default()
            }),
            nudge: Notify::new(),
        })
    }

    /// How it stands.
    pub fn status(&self) -> TreasuryStatus {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether what lacks now may be there in a moment.
    pub fn can_fill(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.top_up && state.problem.is_none()
    }

    /// Looks at the purses now.
    pub fn look_now(&self) {
        self.nudge.notify_one();
    }

    fn update(&self, change: impl FnOnce(&mut TreasuryStatus)) -> TreasuryStatus {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.clone()
    }
}

/// The task's parts.
pub struct Keeper {
    /// Shared with intake.
    pub treasury: Arc<Treasury>,
    /// Whose wallet and outbox.
    pub home: Home,
    /// The chain.
    pub chain: ChainClient,
    /// Whose purses.
    pub provider: ProviderId,
    /// Whose account.
    pub owner: Address,
    /// Its key, if purses are to be filled.
    pub key: Option<SigningKey>,
    /// Size of the sectors.
    pub sector_size: SectorSize,
    /// Knows what is promised.
    pub store: Store,
    /// Knows what is to be sealed.
    pub backlog: Arc<Backlog>,
    /// Shown to others.
    pub status: StatusWatch,
}

/// Why a round did not fill the purses.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Wallet(#[from] ClientError),
    #[error(
        "the owner's account {owner} has {} tokens and {} are needed for deals and sectors; send it the rest", .has.in_tokens(), .needs.in_tokens()
    )]
    Short {
        owner: Address,
        has: TokenAmount,
        needs: TokenAmount,
    },
    #[error("the faucet's money has not come; is the chain's clock held for very long?")]
    FaucetSilent,
}

impl Keeper {
    /// Watches, and fills, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = PAUSE;
        loop {
            let wait = match self.look().await {
                Ok(()) => {
                    pause = PAUSE;
                    LOOK
                }
                Err(RoundError::Chain(error)) if error.is_transient() => LOOK,
                // A command of the owner runs, or the node is away.
                Err(RoundError::Wallet(
                    ClientError::Busy(_) | ClientError::Chain(ChainFailure::Unreachable(_)),
                )) => LOOK,
                Err(error) => {
                    self.failed(&error);
                    let wait = pause;
                    pause = (pause * 2).min(MAX_PAUSE);
                    wait
                }
            };
            let rest = async {
                // A failed round is not repeated sooner because somebody asks.
                if wait == LOOK {
                    let _ = tokio::time::timeout(wait, self.treasury.nudge.notified()).await;
                } else {
                    tokio::time::sleep(wait).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = rest => {}
            }
        }
    }

    fn failed(&self, error: &RoundError) {
        let text = error.to_string();
        tracing::warn!(provider = %self.provider, %error, "purses are not filled");
        let before = self.treasury.status().problem;
        if before.as_ref() != Some(&text) {
            let now = self.status.get().epoch;
            self.status.note(now, format!("money: {text}"));
        }
        self.show(|state| state.problem = Some(text));
    }

    fn show(&self, change: impl FnOnce(&mut TreasuryStatus)) {
        let state = self.treasury.update(change);
        self.status.update(|status| status.treasury = state);
    }

    async fn look(&self) -> Result<(), RoundError> {
        let (purses, rates, missing) = self.measure().await?;
        let promised = self.store.promised_collateral();
        self.show(|state| {
            state.owner_free = purses.owner_free;
            state.pledge = rates.pledge;
            state.collateral = rates.collateral;
            state.promised = promised;
            state.missing_balance = missing.balance;
            state.missing_escrow = missing.escrow;
        });
        let Some(key) = &self.key else {
            return Ok(());
        };
        if missing == Missing::default() {
            self.show(|state| state.problem = None);
            return Ok(());
        }
        self.fill(key, &missing, purses.owner_free).await
    }

    async fn measure(&self) -> Result<(Purses, Rates, Missing), ChainError> {
        let account = self.chain.account(&self.owner).await?;
        let quote = self.chain.quote(self.sector_size.bytes()).await?;
        let verified = self.store.keeps_verified();
        let power = power_of_sector(self.sector_size, self.chain.params(), verified);
        let pledge = self.chain.quote(power).await?.pledge;
        let view = self.chain.provider(self.provider).await?;
        let (balance, debt) = view.map_or((TokenAmount::ZERO, TokenAmount::ZERO), |view| {
            let provider = &view.provider;
            let balance = provider.unlocked().0.saturating_add(provider.deposits.0);
            (TokenAmount(balance), provider.fee_debt)
        });
        let purses = Purses {
            owner_free: account.free,
            balance,
            debt,
            escrow: account
                .escrow
                .unlocked()
                .minus_or_zero(self.store.promised_collateral()),
        };
        let rates = Rates {
            pledge: with_slack(pledge),
            collateral: with_slack(quote.deal_collateral),
        };
        let sectors = self.backlog.sectors(0, self.sector_size);
        let missing = missing(&purses, &rates, sectors);
        Ok((purses, rates, missing))
    }

    /// One round: the owner's account first, then both purses in one transaction.
    async fn fill(
        &self,
        key: &SigningKey,
        missing: &Missing,
        free: TokenAmount,
    ) -> Result<(), RoundError> {
        if free < missing.total() && self.chain.info().faucet {
            self.ask_faucet(missing.total()).await?;
        }
        let outbox = Outbox::open(&self.home, &self.chain.chain_id())?;
        let of = &self.owner;
        let open = outbox.follow_from(&self.home, &self.chain, of).await?;
        // Again: what was followed may have moved money.
        let (purses, _, missing) = self.measure().await?;
        let (free, needs) = (purses.owner_free, missing.total());
        let moved = missing.within(free);
        let mut messages = Vec::new();
        if !moved.balance.is_zero() {
            messages.push(Message::ProviderDeposit {
                provider: self.provider,
                amount: moved.balance,
            });
        }
        if !moved.escrow.is_zero() {
            messages.push(Message::MarketDeposit {
                to: self.owner,
                amount: moved.escrow,
            });
        }
        if !messages.is_empty() {
            outbox.pay(&self.chain, key, open, messages).await?;
            tracing::info!(provider = %self.provider, balance = %moved.balance.in_tokens(), escrow = %moved.escrow.in_tokens(), "purses filled");
        }
        self.show(|state| {
            state.filled_balance.0 = state.filled_balance.0.saturating_add(moved.balance.0);
            state.filled_escrow.0 = state.filled_escrow.0.saturating_add(moved.escrow.0);
        });
        // The faucet gives a bounded part in each round; what is still missing is the next round's.
        let more_comes = self.chain.info().faucet && moved != Missing::default();
        if moved != missing && !more_comes {
            return Err(RoundError::Short {
                owner: self.owner,
                has: free,
                needs,
            });
        }
        self.show(|state| state.problem = None);
        // The next look sees the new numbers at once.
        self.treasury.look_now();
        Ok(())
    }

    /// Asks for what the account lacks, in portions, and waits for it.
    async fn ask_faucet(&self, needs: TokenAmount) -> Result<(), RoundError> {
        let free = self.chain.account(&self.owner).await?.free;
        let mut lacks = needs.minus_or_zero(free);
        let mut expected = free;
        for _ in 0..MAX_PORTIONS {
            if lacks.is_zero() {
                break;
            }
            let part = lacks.min(FAUCET_LIMIT);
            self.chain.faucet(&self.owner, part).await?;
            lacks = lacks.minus_or_zero(part);
            expected = TokenAmount(expected.0.saturating_add(part.0));
        }
        let mut heads = self.chain.subscribe_heads();
        let begun = Instant::now();
        loop {
            let free = self.chain.account(&self.owner).await?.free;
            if free >= expected {
                return Ok(());
            }
            if begun.elapsed() > FAUCET_PATIENCE {
                return Err(RoundError::FaucetSilent);
            }
            let _ = tokio::time::timeout(Duration::from_secs(2), heads.changed()).await;
        }
    }
}

/// An eighth more, rounded up.
pub fn with_slack(amount: TokenAmount) -> TokenAmount {
    TokenAmount(amount.0.saturating_add(amount.0 / SLACK).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use chain_lite::account::NetKey;
    use chain_lite::message::sign;
    use retrieval::{NetSecret, PeerAddr};

    use super::*;
    use crate::provider::first_status;
    use crate::provider::intake::tests::empty_store;
    use crate::rpc::tests::{address, bed, key};

    const RATES: Rates = Rates {
        pledge: TokenAmount(100),
        collateral: TokenAmount(10),
    };

    fn purses(balance: u128, escrow: u128) -> Purses {
        Purses {
            owner_free: TokenAmount(0),
            balance: TokenAmount(balance),
            debt: TokenAmount(0),
            escrow: TokenAmount(escrow),
        }
    }

    fn lacks(balance: u128, escrow: u128) -> Missing {
        Missing {
            balance: TokenAmount(balance),
            escrow: TokenAmount(escrow),
        }
    }

    #[test]
    fn purses_are_filled_to_the_high_mark_when_below_the_low_one_and_left_alone_above_it() {
        // Nothing accepted: no pledge is kept ready, one piece's collateral is.
        assert_eq!(missing(&purses(0, 10), &RATES, 0), lacks(0, 0));
        assert_eq!(missing(&purses(0, 9), &RATES, 0), lacks(0, 51));
        // The next two sectors, however many were accepted.
        assert_eq!(missing(&purses(100, 10), &RATES, 1), lacks(0, 0));
        assert_eq!(missing(&purses(99, 10), &RATES, 1), lacks(101, 0));
        assert_eq!(missing(&purses(199, 10), &RATES, 50), lacks(101, 0));
        assert_eq!(missing(&purses(200, 10), &RATES, 50), lacks(0, 0));
        // Debt stands in front of every pledge.
        let owing = Purses {
            debt: TokenAmount(30),
            ..purses(120, 10)
        };
        assert_eq!(missing(&owing, &RATES, 1), lacks(110, 0));
        // After a round nothing is missing: it cannot go on for ever.
        for (balance, escrow, sectors) in [(0, 0, 9), (150, 3, 1), (0, 9, 0)] {
            let before = purses(balance, escrow);
            let moved = missing(&before, &RATES, sectors);
            let after = purses(balance + moved.balance.0, escrow + moved.escrow.0);
            assert_eq!(missing(&after, &RATES, sectors), lacks(0, 0));
        }
        // Rates that nobody can pay do not wrap around.
        let most = Rates {
            pledge: TokenAmount(u128::MAX),
            collateral: TokenAmount(u128::MAX),
        };
        let all = missing(&purses(1, 1), &most, 2);
        assert_eq!(all, lacks(u128::MAX - 1, u128::MAX - 1));
        assert_eq!(all.total(), TokenAmount(u128::MAX));
    }

    #[test]
    fn a_poor_owner_pays_for_what_was_accepted_before_what_may_come() {
        let wants = lacks(100, 50);
        assert_eq!(wants.within(TokenAmount(500)), wants);
        assert_eq!(wants.within(TokenAmount(120)), lacks(100, 20));
        assert_eq!(wants.within(TokenAmount(60)), lacks(60, 0));
    }

    #[test]
    fn a_sector_of_verified_deals_pledges_for_all_its_power() {
        let params = ChainParams::devnet();
        let power = |verified| power_of_sector(SectorSize::Kib2, &params, verified);
        assert_eq!((power(false), power(true)), (2048, 20_480));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tm_h1_a_round_waits_for_the_owners_commands_and_comes_after_what_they_have_left() {
        let bed = bed();
        let server = bed.serve(0, None).await;
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path());
        let chain = ChainClient::connect(&server.url()).await.expect("connects");
        let owner = address(1);
        let register = Message::RegisterProvider {
            worker: address(3),
            net_key: NetKey(key(3).verifying_key().to_bytes()),
            addrs: vec!["127.0.0.1:9".to_owned()],
            sector_size: SectorSize::Kib2,
            deposit: TokenAmount::from_tokens(27_000_000),
        };
        let registered = chain.execute(&key(1), vec![register]).await;
        registered.expect("included");
        let view = chain.provider_of_owner(&owner).await.expect("answers");
        let view = view.expect("registered");
        let quic = PeerAddr {
            peer: NetSecret::from_seed(&[3; 32]).peer_id(),
            addr: SocketAddr::from(([127, 0, 0, 1], 9)),
        };
        let keeper = Keeper {
            treasury: Treasury::new(true),
            home: home.clone(),
            chain: chain.clone(),
            provider: view.provider.id,
            owner,
            key: Some(key(1)),
            sector_size: SectorSize::Kib2,
            store: empty_store(dir.path()),
            backlog: Arc::default(),
            status: StatusWatch::new(first_status(&view, quic)),
        };

        // A command of the owner signed and is not through.
        let outbox = Outbox::open(&home, &chain.chain_id()).expect("free");
        let transfer = Message::Transfer {
            to: address(5),
            amount: TokenAmount(7),
        };
        let left = sign(chain.tx(owner, 1, 1 << 20, vec![transfer]), &key(1));
        outbox.add(&left).expect("keeps");
        let busy = keeper.look().await;
        let is_busy = matches!(busy, Err(RoundError::Wallet(ClientError::Busy(_))));
        assert!(is_busy, "{busy:?}");
        // It was killed: its nonce is its own.
        drop(outbox);
        keeper.look().await.expect("fills");
        let account = async |of| chain.account(&of).await.expect("answers");
        assert_eq!(account(address(5)).await.free, TokenAmount(7));
        let owner = account(owner).await;
        assert_eq!(owner.nonce, 3);
        assert!(!owner.escrow.unlocked().is_zero());
        server.stop().await;
    }
}
