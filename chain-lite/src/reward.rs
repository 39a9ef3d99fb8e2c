//! Emission, accrual, claims and vesting (`chain.md` §9): how proven bytes become money.
//!
//! Each epoch with power on the network moves network time `theta` on (by a whole epoch at or above the baseline, by the
//! filled share of it below), mints up to [`minted_at`] and adds `minted / power` to one accumulator. A provider's claim
//! is its power times the accumulator's growth since its last claim: O(1), whenever it is convenient, and always before
//! its power changes. Three quarters of a claim vest in equal steps.
//!
//! Fixed point: Q64 for powers of two, Q32 for network time and per-byte rates. Every step floors; rounding dust stays in
//! the pool.

use borsh::{BorshDeserialize, BorshSerialize};
use ruint::aliases::U256;
use serde::{Deserialize, Serialize};

use crate::error::Rule;
use crate::events::Event;
use crate::execute::Work;
use crate::moment::What;
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::state::Network;
use crate::units::{Epoch, EpochCount, Overflow, TokenAmount, mul_shift, narrow};

/// `floor(2^64 · 2^-(2^-(i+1)))`, `chain.md` §17.
const ROOTS: [u64; 64] = [
    0xb504f333f9de6484,
    0xd744fccad69d6af4,
    0xeac0c6e7dd24392e,
    0xf5257d152486cc2c,
    0xfa83b2db722a033a,
    0xfd3e0c0cf486c174,
    0xfe9e115c7b8f884b,
    0xff4ecb59511ec8a5,
    0xffa756521c8daed1,
    0xffd3a751c0f7e10b,
    0xffe9d2b2f7db2755,
    0xfff4e91bff1b8c3d,
    0xfffa747ea0040664,
    0xfffd3a3b7814eb53,
    0xfffe9d1cc60ddab1,
    0xffff4e8e25879bfa,
    0xffffa7470363f451,
    0xffffd3a37dda0313,
    0xffffe9d1bdf703ae,
    0xfffff4e8debe025e,
    0xfffffa746f4fa150,
    0xfffffd3a37a3f8b0,
    0xfffffe9d1bd1065a,
    0xffffff4e8de845ad,
    0xffffffa746f41376,
    0xffffffd3a37a05e3,
    0xffffffe9d1bd01fb,
    0xfffffff4e8de80c0,
    0xfffffffa746f4050,
    0xfffffffd3a37a024,
    0xfffffffe9d1bd011,
    0xffffffff4e8de808,
    0xffffffffa746f404,
    0xffffffffd3a37a02,
    0xffffffffe9d1bd01,
    0xfffffffff4e8de80,
    0xfffffffffa746f40,
    0xfffffffffd3a37a0,
    0xfffffffffe9d1bd0,
    0xffffffffff4e8de8,
    0xffffffffffa746f4,
    0xffffffffffd3a37a,
    0xffffffffffe9d1bd,
    0xfffffffffff4e8de,
    0xfffffffffffa746f,
    0xfffffffffffd3a37,
    0xfffffffffffe9d1b,
    0xffffffffffff4e8d,
    0xffffffffffffa746,
    0xffffffffffffd3a3,
    0xffffffffffffe9d1,
    0xfffffffffffff4e8,
    0xfffffffffffffa74,
    0xfffffffffffffd3a,
    0xfffffffffffffe9d,
    0xffffffffffffff4e,
    0xffffffffffffffa7,
    0xffffffffffffffd3,
    0xffffffffffffffe9,
    0xfffffffffffffff4,
    0xfffffffffffffffa,
    0xfffffffffffffffd,
    0xfffffffffffffffe,
    0xffffffffffffffff,
];

/// Days over which the baseline doubles.
const BASELINE_DOUBLING_DAYS: u64 = 365;
/// Largest baseline: with it `min(raw, B) << 32` still fits.
const BASELINE_MAX: u128 = 1 << 95;

/// Q64 of `2^-(num/den)`: 2^64 for zero. `den` must be at least 1 and below 2^64; zero is read as "never", giving 0.
pub fn pow2neg(num: u128, den: u128) -> u128 {
    let (Some(whole), Some(rest)) = (num.checked_div(den), num.checked_rem(den)) else {
        return 0;
    };
    if whole >= 128 {
        return 0;
    }
    // `rest < den < 2^64`, so the shift keeps all bits.
    let fraction = (rest << 64) / den;
    let mut acc: u128 = 1 << 64;
    for (i, root) in ROOTS.iter().enumerate() {
        if (fraction >> (63 - i)) & 1 == 1 {
            // acc <= 2^64 and root < 2^64: the product stays below 2^128.
            acc = (acc * u128::from(*root)) >> 64;
        }
    }
    acc >> whole
}

/// `B`: the network size at which emission is spread instead of earned per byte, on the day of `epoch`.
pub fn baseline(params: &ChainParams, epoch: Epoch) -> u128 {
    let day = epoch.0 / params.day.0.max(1);
    let (years, rest) = (day / BASELINE_DOUBLING_DAYS, day % BASELINE_DOUBLING_DAYS);
    // Far beyond any network: stop growing before the shift leaves 256 bits.
    if years > 60 {
        return BASELINE_MAX;
    }
    let years = usize::try_from(years).expect("at most 60");
    let start = U256::from(params.baseline_start.0) << years;
    let divisor = pow2neg(rest.into(), BASELINE_DOUBLING_DAYS.into());
    narrow((start << 64) / U256::from(divisor))
        .map_or(BASELINE_MAX, |baseline| baseline.clamp(1, BASELINE_MAX))
}

/// `M(theta)`: all that is minted when network time is `theta`.
pub fn minted_at(params: &ChainParams, theta: u128) -> u128 {
    let left = pow2neg(theta, u128::from(params.half_life.0) << 32);
    // A total below 2^100 times at most 2^64, shifted back: never above the total.
    mul_shift(params.mint_total.0, (1 << 64) - left, 64).unwrap_or(params.mint_total.0)
}

/// `rpp` of a chain that has minted nothing: what one byte would earn in the first epoch of a full baseline.
pub fn genesis_rate(params: &ChainParams) -> u128 {
    // M(one epoch) is below 2^96 because M is at most 2^100 and one epoch at most half of it; saturate all the same.
    let first = minted_at(params, 1 << 32);
    narrow((U256::from(first) << 32) / U256::from(params.baseline_start.0.max(1)))
        .unwrap_or(u128::MAX)
}

/// One epoch's emission and accrual, with the power before the epoch. Gives what was minted.
///
/// Without power there is no reward per byte to speak of, so network time and the smoothed rate stand still: a network
/// that starts, or has lost everything, asks for pledges at its last known rate and not for ever less.
pub fn emit(
    params: &ChainParams,
    net: &mut Network,
    epoch: Epoch,
) -> Result<TokenAmount, Overflow> {
    let power = net.power.0;
    if power == 0 {
        return Ok(TokenAmount::ZERO);
    }
    let baseline = baseline(params, epoch);
    net.theta = net
        .theta
        .checked_add((net.raw_power.0.min(baseline) << 32) / baseline)
        .ok_or(Overflow)?;
    let reward = TokenAmount(minted_at(params, net.theta).saturating_sub(net.minted.0));
    let inst = narrow((U256::from(reward.0) << 32) / U256::from(power))?;
    net.minted = net.minted.plus(reward)?;
    net.reward_pool = net.reward_pool.plus(reward)?;
    net.acc = net.acc.checked_add(inst).ok_or(Overflow)?;
    net.rpp = smoothed(net.rpp, inst, params.ema_shift);
    Ok(reward)
}

/// `rate + ((inst - rate) >> shift)` with an arithmetic (flooring) shift.
fn smoothed(rate: u128, inst: u128, shift: u32) -> u128 {
    match inst.checked_sub(rate) {
        Some(up) => rate + (up >> shift),
        None => {
            let down = rate - inst;
            let step = down >> shift;
            let floor = u128::from(step << shift != down);
            rate - step - floor
        }
    }
}

/// A provider's reward since its last claim.
pub fn claimable(net: &Network, provider: &Provider) -> Result<TokenAmount, Overflow> {
    let grown = net.acc.saturating_sub(provider.acc_claimed);
    mul_shift(provider.power.0, grown, 32).map(TokenAmount)
}

/// A provider's vesting queue leaf: when how much becomes free, ascending by epoch. An absent leaf is an empty queue.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct Vesting {
    /// Due epoch and amount.
    pub entries: Vec<(Epoch, TokenAmount)>,
}

impl Vesting {
    /// Adds the locked part of a claim made at `now`, in equal steps that begin on a common grid, so that claims of one
    /// step share entries and the queue stays at most one longer than the number of steps.
    pub fn add(
        &mut self,
        params: &ChainParams,
        now: Epoch,
        locked: TokenAmount,
    ) -> Result<(), Overflow> {
        let steps = u128::from(params.vest_steps.max(1));
        let step = params.vest_step.0.max(1);
        let grid = now.0 - now.0 % step;
        let share = |i: u128| crate::units::mul_div(locked.0, i, steps);
        for i in 1..=u64::from(params.vest_steps.max(1)) {
            let due = Epoch(grid).after(EpochCount(i.saturating_mul(step)));
            let amount = TokenAmount(share(i.into())? - share(u128::from(i) - 1)?);
            match self.entries.binary_search_by_key(&due, |&(due, _)| due) {
                Ok(at) => self.entries[at].1 = self.entries[at].1.plus(amount)?,
                Err(at) => self.entries.insert(at, (due, amount)),
            }
        }
        Ok(())
    }

    /// Removes what is due and gives its sum.
    pub fn take_due(&mut self, now: Epoch) -> TokenAmount {
        let due = self.entries.partition_point(|&(epoch, _)| epoch <= now);
        // Parts of amounts that fit once: their sum fits too.
        TokenAmount(
            self.entries
                .drain(..due)
                .fold(0, |sum, (_, amount)| sum.saturating_add(amount.0)),
        )
    }

    /// Removes up to `wanted`, earliest first, whether due or not, and gives what was found.
    pub fn take(&mut self, wanted: TokenAmount) -> TokenAmount {
        let mut taken = TokenAmount::ZERO;
        while let Some((_, amount)) = self.entries.first_mut() {
            let part = TokenAmount(amount.0.min(wanted.0 - taken.0));
            taken.0 += part.0;
            amount.0 -= part.0;
            if !amount.is_zero() {
                break;
            }
            self.entries.remove(0);
        }
        taken
    }

    /// Sum of all entries.
    pub fn total(&self) -> TokenAmount {
        TokenAmount(
            self.entries
                .iter()
                .fold(0, |sum, (_, amount)| sum.saturating_add(amount.0)),
        )
    }
}

/// Moves the provider's reward from the pool into its balance; part of it vests. Runs before any change of power.
pub(crate) fn claim(work: &mut Work<'_>, provider: &mut Provider) -> Rule<()> {
    work.show(What::Claim(provider));
    let reward = claimable(&work.net, provider)?;
    provider.acc_claimed = work.net.acc;
    if reward.is_zero() {
        return Ok(());
    }
    let locked = reward.mul_div(work.params.vest_quarters.into(), 4)?;
    work.net.reward_pool = work.net.reward_pool.minus(reward)?;
    provider.balance = provider.balance.plus(reward)?;
    if !locked.is_zero() {
        let mut queue = work.vesting(provider.id)?;
        queue.add(&work.params, work.now, locked)?;
        provider.vesting = provider.vesting.plus(locked)?;
        work.save_vesting(provider.id, &queue);
    }
    work.emit(Event::Reward {
        provider: provider.id,
        claimed: reward,
        locked,
    });
    Ok(())
}

/// Unlocks what has vested by now.
pub(crate) fn vest(work: &mut Work<'_>, provider: &mut Provider) -> Rule<()> {
    if provider.vesting.is_zero() {
        return Ok(());
    }
    let mut queue = work.vesting(provider.id)?;
    let due = queue.take_due(work.now);
    if !due.is_zero() {
        provider.vesting = provider.vesting.minus(due)?;
        work.save_vesting(provider.id, &queue);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: u128 = 1_000_000_000_000_000_000;

    #[test]
    fn powers_of_two_match_the_spec() {
        for (num, den, hex) in [
            (1, 2, 0xb504f333f9de6484u128),
            (3, 2, 0x5a827999fcef3242),
            (1, 365, 0xff83a9bd67d8df6e),
            (182, 365, 0xb530f8f01c6ea38e),
            (1, 6_307_200, 0xfffffe27fe22fb91),
        ] {
            assert_eq!(pow2neg(num, den), hex, "2^-({num}/{den})");
        }
        assert_eq!(pow2neg(0, 7), 1 << 64);
        assert_eq!(pow2neg(128, 1), 0);
        assert_eq!(pow2neg(1, 0), 0);
    }

    /// Row `i` of the table squared is row `i - 1`, within rounding: the table was not mistyped.
    #[test]
    fn table_rows_are_square_roots_of_each_other() {
        for pair in ROOTS.windows(2) {
            let square = (u128::from(pair[1]) * u128::from(pair[1])) >> 64;
            assert!(square.abs_diff(u128::from(pair[0])) <= 2, "{:x}", pair[0]);
        }
        assert_eq!(ROOTS[63], u64::MAX);
    }

    #[test]
    fn baseline_matches_the_spec() {
        let params = ChainParams::production();
        for (day, expected) in [
            (0, 1125899906842624u128),
            (1, 1128040059806345),
            (30, 1191905913891084),
            (182, 1590751755473274),
            (365, 2251799813685248),
        ] {
            assert_eq!(baseline(&params, Epoch(day * 2_880)), expected, "day {day}");
        }
        assert_eq!(baseline(&params, Epoch(2_879)), 1125899906842624);
        assert_eq!(baseline(&params, Epoch(u64::MAX)), BASELINE_MAX);
    }

    #[test]
    fn minted_matches_the_spec() {
        let params = ChainParams::production();
        assert_eq!(minted_at(&params, 131_072), 3353813971332386);
        assert_eq!(minted_at(&params, 1 << 32), 109897758510579725971);
        assert_eq!(minted_at(&params, 2_880 << 32), 316455479298109656344228);
        assert_eq!(minted_at(&params, 6_307_200 << 32), 500_000_000 * ONE);
        assert_eq!(minted_at(&params, u128::MAX), params.mint_total.0);
    }

    #[test]
    fn genesis_rates_match_the_spec() {
        assert_eq!(genesis_rate(&ChainParams::production()), 419226678888625);
        assert_eq!(
            genesis_rate(&ChainParams::devnet()),
            1350421949870866944464896
        );
    }

    #[test]
    fn vesting_matches_the_spec() {
        let params = ChainParams::production();
        let mut queue = Vesting::default();
        let locked = TokenAmount(ONE * 3 / 4);
        queue
            .add(&params, Epoch(2_880 * 5 + 17), locked)
            .expect("small");
        assert_eq!(queue.entries.len(), 180);
        assert_eq!(
            queue.entries[0],
            (Epoch(2_880 * 6), TokenAmount(4166666666666666))
        );
        assert_eq!(queue.entries[1].1, TokenAmount(4166666666666667));
        assert_eq!(queue.total(), locked);
        // A second claim in the same step shares all entries; one in the next step adds one.
        queue
            .add(&params, Epoch(2_880 * 5 + 900), locked)
            .expect("small");
        assert_eq!(queue.entries.len(), 180);
        queue.add(&params, Epoch(2_880 * 6), locked).expect("small");
        assert_eq!(queue.entries.len(), 181);
        assert_eq!(
            queue.take_due(Epoch(2_880 * 6)),
            TokenAmount(2 * 4166666666666666)
        );
    }

    #[test]
    fn taking_unvested_rewards_starts_with_the_earliest() {
        let mut queue = Vesting {
            entries: vec![(Epoch(1), TokenAmount(5)), (Epoch(2), TokenAmount(7))],
        };
        assert_eq!(queue.take(TokenAmount(6)), TokenAmount(6));
        assert_eq!(queue.entries, [(Epoch(2), TokenAmount(6))]);
        assert_eq!(queue.take(TokenAmount(100)), TokenAmount(6));
        assert_eq!(queue.take(TokenAmount(1)), TokenAmount(0));
    }

    #[test]
    fn the_smoothed_rate_floors_both_ways() {
        assert_eq!(smoothed(100, 116, 4), 101);
        assert_eq!(smoothed(100, 115, 4), 100);
        // (84 - 100) >> 4 = -1; (85 - 100) >> 4 = -1 (floor of -0.94); (99 - 100) >> 4 = -1.
        assert_eq!(smoothed(100, 84, 4), 99);
        assert_eq!(smoothed(100, 85, 4), 99);
        assert_eq!(smoothed(100, 99, 4), 99);
        assert_eq!(smoothed(0, 0, 4), 0);
        assert_eq!(smoothed(1, 0, 32), 0);
    }

    #[test]
    fn without_power_the_rate_stands_still() {
        let params = ChainParams::devnet();
        let mut net = Network {
            rpp: genesis_rate(&params),
            ..Network::default()
        };
        assert_eq!(emit(&params, &mut net, Epoch(1)), Ok(TokenAmount::ZERO));
        assert_eq!((net.rpp, net.theta), (genesis_rate(&params), 0));
        // Half the baseline: half an epoch of network time, all of its emission accrued to the power.
        net.raw_power.0 = params.baseline_start.0 / 2;
        net.power = net.raw_power;
        let minted = emit(&params, &mut net, Epoch(2)).expect("small");
        assert_eq!(
            (net.theta, minted.0),
            (1 << 31, minted_at(&params, 1 << 31))
        );
        assert_eq!(net.acc, (minted.0 << 32) / net.power.0);
    }

    proptest! {
        #[test]
        fn tm_v10_vesting_loses_nothing(locked in 0u128..1 << 100, now in 0u64..1 << 40) {
            let mut queue = Vesting::default();
            queue.add(&ChainParams::devnet(), Epoch(now), TokenAmount(locked)).expect("below 2^100");
            prop_assert_eq!(queue.total(), TokenAmount(locked));
            prop_assert!(queue.entries.iter().all(|&(due, _)| due.0 > now));
            prop_assert_eq!(queue.take_due(Epoch(now + 120)), TokenAmount(locked));
        }

        #[test]
        fn minted_never_falls(a in 0u128..1 << 70, b in 0u128..1 << 70) {
            let params = ChainParams::devnet();
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(minted_at(&params, low) <= minted_at(&params, high) + 1);
            prop_assert!(minted_at(&params, high) <= params.mint_total.0);
        }
    }
}
