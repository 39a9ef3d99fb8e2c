//! The numbers of `chain.md` §2 in one struct: devnet and production.
//!
//! They are part of genesis and a leaf of the state, so an auditor reads the rules from the same root as the balances.
//! [`ChainParams::check`] asserts every relation that the rules rely on; a genesis that breaks one is refused before a
//! block exists. [`ChainParams::devnet`] speaks of 2-second epochs; under the logical clock the same numbers of epochs
//! pass faster (`DESIGN.md` §5).

use borsh::{BorshDeserialize, BorshSerialize};
use prover::SectorSize;
use serde::{Deserialize, Serialize};

use crate::account::Address;
use crate::units::{EpochCount, StoragePower, TokenAmount};

/// When the chain checks a window PoSt (`chain.md` §7).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum VerificationMode {
    /// At once: a wrong proof rejects the message.
    Eager,
    /// On dispute, unless it makes a sector active: see [`crate::sector::dispute`].
    Optimistic,
}

/// Constants of one chain. Spans are in epochs, shares are fractions written as numerator over a stated denominator.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct ChainParams {
    /// `D`: epochs of one "day".
    pub day: EpochCount,
    /// `PP`: every sector is proven once in it.
    pub proving_period: EpochCount,
    /// `ND`: deadlines in a proving period. `W = PP / ND`.
    pub deadlines: u16,
    /// The challenge of a deadline is drawn this long before it opens.
    pub post_lookback: EpochCount,
    /// Faults and recoveries are declared at least this long before the deadline opens.
    pub fault_cutoff: EpochCount,
    /// A fault this old terminates its sector.
    pub fault_max: EpochCount,
    /// Oldest ticket at pre-commit.
    pub ticket_max_age: EpochCount,
    /// From pre-commit to the interactive seed.
    pub seed_delay: EpochCount,
    /// From pre-commit to the last epoch for prove-commit.
    pub precommit_max: EpochCount,
    /// Shortest life of a sector after the last epoch for its prove-commit.
    pub min_sector_life: EpochCount,
    /// Longest life of a sector after pre-commit.
    pub max_sector_life: EpochCount,
    /// Shortest deal.
    pub min_deal: EpochCount,
    /// Longest deal.
    pub max_deal: EpochCount,
    /// Latest start of a deal after its publication.
    pub max_start_delay: EpochCount,
    /// Sector sizes that providers may register with.
    pub sector_sizes: Vec<SectorSize>,
    /// Partitions in one deadline.
    pub max_partitions: u32,
    /// Fewest deals of one sector that the limit allows; big sectors take one for each 2^27 bytes if that is more.
    pub max_deals_per_sector: u32,
    /// All that will ever be minted.
    pub mint_total: TokenAmount,
    /// Network epochs until half of it is.
    pub half_life: EpochCount,
    /// `B0`: network size at genesis above which emission is spread instead of earned per byte. Doubles every 365 days.
    pub baseline_start: StoragePower,
    /// The smoothed reward rate moves by 2^-shift of the difference each epoch.
    pub ema_shift: u32,
    /// Pre-commit deposit, in days of expected reward.
    pub precommit_days: u64,
    /// Pledge, in days of expected reward (before its share of the circulating supply).
    pub pledge_days: u64,
    /// Share of the circulating supply that pledges aim to lock, percent.
    pub lock_target_percent: u64,
    /// Fault fee, in hundredths of a day of expected reward.
    pub fault_fee_centidays: u64,
    /// Cap of the fault fee, percent of the sector's pledge.
    pub fault_fee_cap_percent: u64,
    /// Termination fee of an old sector, per mille of its pledge.
    pub termination_permille: u64,
    /// Least termination fee, percent of the pledge.
    pub termination_min_percent: u64,
    /// Least termination fee, percent of the fault fee.
    pub termination_fault_percent: u64,
    /// Age from which the termination fee no longer grows, days.
    pub termination_age_days: u64,
    /// Share of a claimed reward that vests, in quarters.
    pub vest_quarters: u64,
    /// Equal steps of vesting.
    pub vest_steps: u32,
    /// Epochs of one step.
    pub vest_step: EpochCount,
    /// Provider collateral of a deal: share of the circulating supply by size, percent.
    pub deal_collateral_percent: u64,
    /// Share of a slashed deal's collateral that its client gets, percent; the rest is burnt.
    pub slash_to_client_percent: u64,
    /// Share of each deal payment that is burnt, in 1/10,000.
    pub pay_burn_bp: u64,
    /// Fee of a transaction.
    pub fee_base: TokenAmount,
    /// Fee of a byte.
    pub fee_byte: TokenAmount,
    /// Fee of a proof.
    pub fee_verify: TokenAmount,
    /// When proofs are checked.
    pub verification: VerificationMode,
    /// Turns in a row that a validator may let pass without a proposal; one more jails it. 0: never.
    pub missed_proposals_max: u32,
    /// From a channel's settlement to its close.
    pub channel_settle: EpochCount,
    /// Grants notaries their DataCap; without it the chain takes no verified deal.
    pub datacap_root: Option<Address>,
    /// Power of a verified byte, in tenths of that of any other; 10 makes them equal.
    pub quality_verified: u64,
    /// How long a stored window PoSt may be disputed after its deadline's close (optimistic mode only).
    pub dispute_window: EpochCount,
    /// What a wrong stored proof costs a sector, in hundredths of a day of expected reward.
    pub dispute_fee_centidays: u64,
    /// Cap of that fee, percent of the sector's pledge.
    pub dispute_fee_cap_percent: u64,
    /// The disputer's share of it, percent.
    pub dispute_reward_percent: u64,
    /// Whether money is closed credit: it pays for storage and secures it, and nobody can pass it on or take it out.
    pub closed_credit: bool,
}

/// Genesis constants that the rules cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chain's parameters are unusable: {0}")]
pub struct ParamsError(pub &'static str);

impl ChainParams {
    /// The devnet column of `chain.md` §2.
    pub fn devnet() -> Self {
        Self {
            day: EpochCount(120),
            proving_period: EpochCount(120),
            deadlines: 6,
            post_lookback: EpochCount(3),
            fault_cutoff: EpochCount(6),
            fault_max: EpochCount(3 * 120),
            ticket_max_age: EpochCount(240),
            seed_delay: EpochCount(4),
            precommit_max: EpochCount(200),
            min_sector_life: EpochCount(240),
            max_sector_life: EpochCount(100_000),
            min_deal: EpochCount(60),
            max_deal: EpochCount(100_000),
            max_start_delay: EpochCount(20_000),
            sector_sizes: SectorSize::ALL
                .into_iter()
                .filter(|size| size.is_registered())
                .collect(),
            max_partitions: 16,
            half_life: EpochCount(262_800),
            baseline_start: StoragePower(8 << 20),
            ema_shift: 4,
            vest_steps: 10,
            vest_step: EpochCount(12),
            fee_base: TokenAmount(0),
            fee_byte: TokenAmount(0),
            fee_verify: TokenAmount(0),
            missed_proposals_max: 200,
            channel_settle: EpochCount(30),
            dispute_window: EpochCount(60),
            ..Self::production()
        }
    }

    /// The production column of `chain.md` §2: 30-second epochs, real sector sizes only.
    pub fn production() -> Self {
        const DAY: u64 = 2_880;
        Self {
            day: EpochCount(DAY),
            proving_period: EpochCount(2_880),
            deadlines: 48,
            post_lookback: EpochCount(20),
            fault_cutoff: EpochCount(70),
            fault_max: EpochCount(18 * 2_880),
            ticket_max_age: EpochCount(3_780),
            seed_delay: EpochCount(150),
            precommit_max: EpochCount(30 * DAY + 150),
            min_sector_life: EpochCount(180 * DAY),
            max_sector_life: EpochCount(1_278 * DAY),
            min_deal: EpochCount(180 * DAY),
            max_deal: EpochCount(1_278 * DAY),
            max_start_delay: EpochCount(30 * DAY),
            sector_sizes: vec![SectorSize::Gib32, SectorSize::Gib64],
            max_partitions: 3_000,
            max_deals_per_sector: 256,
            mint_total: TokenAmount::from_tokens(1_000_000_000),
            half_life: EpochCount(6_307_200),
            baseline_start: StoragePower(1 << 50),
            ema_shift: 10,
            precommit_days: 20,
            pledge_days: 20,
            lock_target_percent: 30,
            fault_fee_centidays: 351,
            fault_fee_cap_percent: 5,
            termination_permille: 85,
            termination_min_percent: 2,
            termination_fault_percent: 105,
            termination_age_days: 140,
            vest_quarters: 3,
            vest_steps: 180,
            vest_step: EpochCount(DAY),
            deal_collateral_percent: 1,
            slash_to_client_percent: 50,
            pay_burn_bp: 500,
            fee_base: TokenAmount(1_000_000_000_000),
            fee_byte: TokenAmount(1_000_000_000),
            fee_verify: TokenAmount(1_000_000_000_000_000),
            verification: VerificationMode::Eager,
            missed_proposals_max: 100,
            channel_settle: EpochCount(1_440),
            datacap_root: None,
            quality_verified: 100,
            dispute_window: EpochCount(1_800),
            dispute_fee_centidays: 551,
            dispute_fee_cap_percent: 10,
            dispute_reward_percent: 10,
            closed_credit: false,
        }
    }

    /// `W`: how long a deadline is open.
    pub fn window(&self) -> EpochCount {
        // `check` refuses zero deadlines; `max` keeps this total for parameters that were not checked.
        EpochCount(self.proving_period.0 / u64::from(self.deadlines.max(1)))
    }

    /// Whether a deadline stays open for so many turns that a third of `validators`, `f` of them, cannot hold them all and keep a
    /// proof out: 3f + 3 epochs, each with a proposer of its own (`threat-model.md` V4).
    pub fn spans_proposers(&self, validators: usize) -> bool {
        let f = validators.saturating_sub(1) / 3;
        self.window().0 >= (3 * f as u64).saturating_add(3)
    }

    /// Most deals of one sector: one for each 2^27 bytes, and at least the configured number (`chain.md` §2).
    pub fn deals_per_sector(&self, size: SectorSize) -> u64 {
        u64::from(self.max_deals_per_sector).max(size.bytes() >> 27)
    }

    /// How long randomness stays readable: until the last pre-commit, seed or proof that may name its epoch.
    pub fn randomness_kept(&self) -> EpochCount {
        let longest = self
            .ticket_max_age
            .0
            .max(self.precommit_max.0)
            .max(self.proving_period.0);
        EpochCount(longest.saturating_add(self.post_lookback.0))
    }

    /// Whether every sector size here is one that a public network may seal (`threat-model.md` P1).
    pub fn production_sizes_only(&self) -> bool {
        self.sector_sizes.iter().all(|size| size.is_production())
    }

    /// Refuses constants that the rules cannot work with.
    pub fn check(&self) -> Result<(), ParamsError> {
        let window = self.window();
        let rules = [
            (
                self.deadlines >= 3,
                "an assignment needs a deadline that is neither open nor next: at least 3 deadlines",
            ),
            (self.deadlines <= 512, "at most 512 deadlines"),
            (
                window.0 * u64::from(self.deadlines) == self.proving_period.0,
                "the proving period must divide exactly into its deadlines",
            ),
            (
                self.proving_period.0 <= MAX_SPAN,
                "the proving period is too long",
            ),
            // A challenge must not be known when a fault may still be declared, nor when the sector is committed.
            (
                self.post_lookback < self.fault_cutoff,
                "post_lookback must be shorter than fault_cutoff",
            ),
            (
                self.post_lookback < self.seed_delay,
                "post_lookback must be shorter than seed_delay",
            ),
            (
                self.post_lookback < window,
                "post_lookback must be shorter than a deadline's window",
            ),
            (
                self.post_lookback.0 >= 1,
                "post_lookback must be at least 1, so that a challenge is known when its deadline opens",
            ),
            // One undeclared occurrence must remain between declarations and the next challenge.
            (
                self.fault_cutoff.0 <= self.proving_period.0 - window.0,
                "fault_cutoff leaves no time to declare",
            ),
            (
                self.seed_delay.0 >= 1 && self.seed_delay < self.precommit_max,
                "seed_delay must lie between 1 and precommit_max",
            ),
            (
                self.fault_max.0 >= self.proving_period.0,
                "fault_max must be at least one proving period",
            ),
            (
                self.ticket_max_age.0 >= 1,
                "ticket_max_age must be at least 1",
            ),
            (
                self.min_sector_life <= self.max_sector_life && self.max_sector_life.0 <= MAX_SPAN,
                "sector life bounds",
            ),
            (
                self.min_deal.0 >= 1
                    && self.min_deal <= self.max_deal
                    && self.max_deal.0 <= MAX_SPAN,
                "deal duration bounds",
            ),
            (
                self.precommit_max.0 <= MAX_SPAN && self.max_start_delay.0 <= MAX_SPAN,
                "precommit_max or max_start_delay is too long",
            ),
            (
                self.day.0 >= 1 && self.day.0 <= MAX_SPAN,
                "a day has at least one epoch",
            ),
            (!self.sector_sizes.is_empty(), "no sector size"),
            (
                self.max_partitions >= 1 && self.max_partitions <= 100_000,
                "max_partitions must lie in 1..=100,000",
            ),
            (
                self.max_deals_per_sector >= 1 && self.max_deals_per_sector <= 4_096,
                "max_deals_per_sector must lie in 1..=4,096",
            ),
            (
                self.half_life.0 >= 1 && self.half_life.0 <= 1 << 32,
                "half_life must lie in 1..=2^32",
            ),
            (self.mint_total.0 <= MAX_SUPPLY, "mint_total above 2^100"),
            (
                self.baseline_start.0 >= 1 && self.baseline_start.0 <= 1 << 64,
                "baseline_start must lie in 1..=2^64",
            ),
            (self.ema_shift <= 32, "ema_shift above 32"),
            (
                self.vest_steps >= 1 && self.vest_steps <= 1_000 && self.vest_step.0 >= 1,
                "vesting steps",
            ),
            (
                self.vest_quarters <= 4,
                "more than the whole reward would vest",
            ),
            (
                self.lock_target_percent <= 100,
                "lock_target_percent above 100",
            ),
            (
                self.deal_collateral_percent <= 100,
                "deal_collateral_percent above 100",
            ),
            (
                self.slash_to_client_percent <= 100,
                "slash_to_client_percent above 100",
            ),
            (self.pay_burn_bp <= 10_000, "pay_burn_bp above 10,000"),
            (self.days_bounded(), "a number of days is too large"),
            (
                self.fault_episode_within_pledge(),
                "one fault episode could cost more than its sector's pledge",
            ),
            (
                self.fee_base.0 <= MAX_FEE
                    && self.fee_byte.0 <= MAX_FEE
                    && self.fee_verify.0 <= MAX_FEE,
                "a fee is above 2^80",
            ),
            // The next proof of a partition must not come while the last one may still be disputed.
            (
                self.dispute_window.0 >= 2
                    && self.dispute_window.0 <= self.proving_period.0.saturating_sub(window.0),
                "dispute_window must lie between 2 and the proving period less one deadline's window",
            ),
            (
                self.dispute_fee_cap_percent <= 100 && self.dispute_reward_percent <= 100,
                "a dispute's fee cap or reward is above 100 percent",
            ),
            (
                self.quality_verified >= 10 && self.quality_verified <= 1_000,
                "quality_verified must lie in 10..=1,000",
            ),
            (
                self.channel_settle.0 >= 1 && self.channel_settle.0 <= MAX_SPAN,
                "channel_settle must lie between 1 and 2^40: a payee needs time for its last vouchers",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(ParamsError(why)),
            None => Ok(()),
        }
    }

    fn days_bounded(&self) -> bool {
        let days = [
            self.precommit_days,
            self.pledge_days,
            self.fault_fee_centidays,
            self.termination_age_days,
            self.dispute_fee_centidays,
        ];
        days.iter().all(|&days| days <= 1_000_000) && self.termination_age_days >= 1
    }

    /// `chain.md` §10 "Solvency": fees until the fault times out plus the termination fee stay within the pledge.
    fn fault_episode_within_pledge(&self) -> bool {
        let closes = self.fault_max.0 / self.proving_period.0.max(1);
        let fees = u128::from(self.fault_fee_cap_percent) * u128::from(closes) * 1_000;
        let last = u128::from(self.termination_permille) * 100;
        let least = u128::from(self.termination_min_percent) * 1_000;
        let per_fault = u128::from(self.fault_fee_cap_percent)
            * u128::from(self.termination_fault_percent)
            * 10;
        fees + last.max(least).max(per_fault) <= 100_000
    }
}

/// Longest span a parameter may name: products with it stay far inside 128 bits.
const MAX_SPAN: u64 = 1 << 40;
/// Most that may ever exist: sums of all balances stay far inside 128 bits.
pub(crate) const MAX_SUPPLY: u128 = 1 << 100;
/// Largest fee rate: a transaction's fee stays far inside 128 bits.
const MAX_FEE: u128 = 1 << 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_columns_hold_every_relation() {
        assert_eq!(ChainParams::devnet().check(), Ok(()));
        assert_eq!(ChainParams::production().check(), Ok(()));
        assert_eq!(ChainParams::devnet().window(), EpochCount(20));
        assert_eq!(ChainParams::production().window(), EpochCount(60));
    }

    #[test]
    fn deals_per_sector_follow_the_size() {
        let params = ChainParams::production();
        assert_eq!(params.deals_per_sector(SectorSize::Mib8), 256);
        assert_eq!(params.deals_per_sector(SectorSize::Gib32), 256);
        assert_eq!(params.deals_per_sector(SectorSize::Gib64), 512);
    }

    #[test]
    fn production_seals_production_sizes() {
        assert!(ChainParams::production().production_sizes_only());
        assert!(!ChainParams::devnet().production_sizes_only());
    }

    #[test]
    fn broken_relations_are_refused() {
        let broken: [fn(&mut ChainParams); 10] = [
            |p| p.dispute_window = EpochCount(101),
            |p| p.deadlines = 7,
            |p| p.deadlines = 2,
            |p| p.post_lookback = EpochCount(6),
            |p| p.post_lookback = EpochCount(0),
            |p| p.fault_fee_cap_percent = 60,
            |p| p.sector_sizes.clear(),
            |p| p.half_life = EpochCount(0),
            |p| p.pay_burn_bp = 10_001,
            |p| p.seed_delay = EpochCount(200),
        ];
        for (index, break_it) in broken.iter().enumerate() {
            let mut params = ChainParams::devnet();
            break_it(&mut params);
            assert!(params.check().is_err(), "case {index}");
        }
        let mut params = ChainParams::devnet();
        params.deadlines = 0;
        assert!(params.check().is_err());
    }
}
