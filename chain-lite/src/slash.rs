//! Collateral and penalties (`chain.md` §10), and how a penalty is paid (§5).
//!
//! Walk: after [`crate::sector::window_post`] did not come; [`crate::sector::fault`] decides, this charges.
//!
//! All rates start from the expected reward [`expected_reward`]. It saturates instead of failing: where it is a cost it
//! becomes unaffordable, where it is a fee it is capped by the pledge, so no rule can be stopped by it.

use crate::account::Address;
use crate::error::Rule;
use crate::events::{BurnReason, Event, PenaltyReason};
use crate::execute::Work;
use crate::moment::What;
use crate::params::ChainParams;
use crate::provider::Provider;
use crate::reward;
use crate::state::Network;
use crate::units::{EpochCount, Overflow, StoragePower, TokenAmount, mul_div, narrow};
use ruint::aliases::U256;

/// `BR(qa, d)`: what this power is expected to earn in `d` epochs at the smoothed rate.
pub fn expected_reward(net: &Network, power: StoragePower, span: EpochCount) -> TokenAmount {
    // 128 + 128 + 64 bits can leave 256 only for sizes far outside every limit; saturate there too.
    let rate = U256::from(power.0).checked_mul(U256::from(net.rpp));
    let total = rate.and_then(|rate| rate.checked_mul(U256::from(span.0)));
    TokenAmount(total.map_or(u128::MAX, |total| narrow(total >> 32).unwrap_or(u128::MAX)))
}

fn days(params: &ChainParams, days: u64) -> EpochCount {
    EpochCount(params.day.0.saturating_mul(days))
}

/// `PCD(qa)`: what a pre-commitment deposits.
pub fn precommit_deposit(params: &ChainParams, net: &Network, power: StoragePower) -> TokenAmount {
    expected_reward(net, power, days(params, params.precommit_days)).max(TokenAmount(1))
}

/// `IP(qa)`: what a sector pledges. Between one and two times its expected reward of the pledge days.
pub fn pledge(
    params: &ChainParams,
    net: &Network,
    power: StoragePower,
    baseline: u128,
) -> TokenAmount {
    let base = expected_reward(net, power, days(params, params.pledge_days)).0;
    let size = baseline.max(net.power.0).max(power.0).max(1);
    let target = |circulating: u128| {
        let share = circulating
            .checked_mul(params.lock_target_percent.into())
            .ok_or(Overflow)?;
        mul_div(share, power.0, size.checked_mul(100).ok_or(Overflow)?)
    };
    let share = target(net.circulating().0).unwrap_or(u128::MAX);
    TokenAmount(base.saturating_add(base.min(share)).max(1))
}

/// `FF`: what a faulty sector costs at each close after the first.
pub fn fault_fee(
    params: &ChainParams,
    net: &Network,
    power: StoragePower,
    pledge: TokenAmount,
) -> TokenAmount {
    let (centidays, cap) = (params.fault_fee_centidays, params.fault_fee_cap_percent);
    capped_reward(params, net, (power, pledge), (centidays, cap))
}

/// What a wrong stored window PoSt costs for one of its sectors (`chain.md` §7).
pub fn dispute_fee(
    params: &ChainParams,
    net: &Network,
    power: StoragePower,
    pledge: TokenAmount,
) -> TokenAmount {
    let (centidays, cap) = (params.dispute_fee_centidays, params.dispute_fee_cap_percent);
    capped_reward(params, net, (power, pledge), (centidays, cap))
}

/// The expected reward of so many hundredths of a day, at most so many percent of the pledge.
fn capped_reward(
    params: &ChainParams,
    net: &Network,
    (power, pledge): (StoragePower, TokenAmount),
    (centidays, cap_percent): (u64, u64),
) -> TokenAmount {
    let span = EpochCount(params.day.0.saturating_mul(centidays) / 100);
    expected_reward(net, power, span).min(percent(pledge, cap_percent))
}

/// `TF`: what ending a sector early costs.
pub fn termination_fee(
    params: &ChainParams,
    pledge: TokenAmount,
    fault_fee: TokenAmount,
    age: EpochCount,
) -> TokenAmount {
    let full = share(pledge, params.termination_permille, 1_000);
    let cap = days(params, params.termination_age_days).0.max(1);
    let aged = mul_div(age.0.into(), full.0, cap.into())
        .map_or(full, TokenAmount)
        .min(full);
    let least = percent(pledge, params.termination_min_percent);
    aged.max(least)
        .max(percent(fault_fee, params.termination_fault_percent))
}

/// Least collateral of a provider for a deal of this padded size.
pub fn deal_collateral(
    params: &ChainParams,
    net: &Network,
    size: u64,
    baseline: u128,
) -> TokenAmount {
    let network = net.raw_power.0.max(baseline).max(size.into()).max(1);
    let divisor = network.saturating_mul(100);
    let circulating = net.circulating().0;
    let target = || {
        mul_div(
            circulating
                .checked_mul(params.deal_collateral_percent.into())
                .ok_or(Overflow)?,
            size.into(),
            divisor,
        )
    };
    TokenAmount(target().unwrap_or(u128::MAX))
}

fn percent(amount: TokenAmount, percent: u64) -> TokenAmount {
    share(amount, percent, 100)
}

/// `floor(amount * part / whole)`; saturates, which only a part above the whole could cause.
fn share(amount: TokenAmount, part: u64, whole: u64) -> TokenAmount {
    TokenAmount(mul_div(amount.0, part.into(), whole.into()).unwrap_or(u128::MAX))
}

/// Charges a provider: the amount becomes debt, and debt is repaid at once as far as possible.
pub(crate) fn penalize(
    work: &mut Work<'_>,
    provider: &mut Provider,
    reason: PenaltyReason,
    amount: TokenAmount,
) -> Rule<()> {
    if amount.is_zero() {
        return Ok(());
    }
    work.show(What::Charge(provider));
    provider.fee_debt = provider.fee_debt.plus(amount)?;
    repay_debt(
        work,
        provider,
        if reason == PenaltyReason::Fee {
            BurnReason::Fee
        } else {
            BurnReason::Penalty
        },
    )?;
    work.emit(Event::Penalty {
        provider: provider.id,
        reason,
        amount,
        debt_after: provider.fee_debt,
    });
    Ok(())
}

/// Charges a provider for a stored proof that is wrong, a share of it to the one who found it. Gives that share: as much of
/// it as the provider's loose money and unvested rewards hold, because pledge and deposits are never touched here.
pub(crate) fn penalize_for(
    work: &mut Work<'_>,
    provider: &mut Provider,
    finder: &Address,
    amount: TokenAmount,
) -> Rule<TokenAmount> {
    work.show(What::Share(provider));
    reward::vest(work, provider)?;
    let share = percent(amount, work.params.dispute_reward_percent);
    release_vesting(work, provider, share.minus_or_zero(provider.available()))?;
    let share = share.min(provider.available());
    if !share.is_zero() {
        provider.balance = provider.balance.minus(share)?;
        work.credit(finder, share)?;
    }
    penalize(
        work,
        provider,
        PenaltyReason::Disputed,
        amount.minus(share)?,
    )?;
    Ok(share)
}

/// Unlocks up to `wanted` of the rewards that have not vested, earliest first.
fn release_vesting(work: &mut Work<'_>, provider: &mut Provider, wanted: TokenAmount) -> Rule<()> {
    if wanted.is_zero() || provider.vesting.is_zero() {
        return Ok(());
    }
    let mut queue = work.vesting(provider.id)?;
    let taken = queue.take(wanted);
    provider.vesting = provider.vesting.minus(taken)?;
    work.save_vesting(provider.id, &queue);
    Ok(())
}

/// Repays debt from what vests next, then burns unlocked money for it. Pledge and deposits are never touched here.
pub(crate) fn repay_debt(
    work: &mut Work<'_>,
    provider: &mut Provider,
    reason: BurnReason,
) -> Rule<()> {
    reward::vest(work, provider)?;
    if provider.fee_debt.is_zero() {
        return Ok(());
    }
    release_vesting(work, provider, provider.fee_debt)?;
    let paid = provider.unlocked().min(provider.fee_debt);
    if !paid.is_zero() {
        provider.balance = provider.balance.minus(paid)?;
        provider.fee_debt = provider.fee_debt.minus(paid)?;
        work.burn(reason, paid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u128 = 1_000_000_000_000_000_000;
    const GIB: u128 = 1 << 30;

    fn production() -> (ChainParams, Network) {
        let params = ChainParams::production();
        let rpp = reward::genesis_rate(&params);
        let net = Network {
            rpp,
            genesis: TokenAmount(100_000_000 * ONE),
            ..Network::default()
        };
        (params, net)
    }

    #[test]
    fn expected_rewards_match_the_spec() {
        let (params, net) = production();
        let sector = StoragePower(32 * GIB);
        assert_eq!(
            expected_reward(&net, sector, days(&params, 1)).0,
            9658982681593920000
        );
        assert_eq!(
            expected_reward(&net, sector, days(&params, 20)).0,
            193179653631878400000
        );
        assert_eq!(
            expected_reward(&net, sector, EpochCount(params.day.0 * 351 / 100)).0,
            33900346161649772000
        );
        let devnet = ChainParams::devnet();
        let net = Network {
            rpp: reward::genesis_rate(&devnet),
            ..Network::default()
        };
        assert_eq!(
            precommit_deposit(&devnet, &net, StoragePower(2048)).0,
            1545435275883713086469
        );
    }

    #[test]
    fn pledge_and_fault_fee_match_the_spec() {
        let (params, net) = production();
        let sector = StoragePower(32 * GIB);
        let pledge = pledge(&params, &net, sector, params.baseline_start.0);
        assert_eq!(pledge.0, 386359307263756800000);
        assert_eq!(
            fault_fee(&params, &net, sector, pledge).0,
            19317965363187840000
        );
        // Of a pledge whose share is no limit: 3.51 days.
        let ample = TokenAmount(1_000_000 * ONE);
        assert_eq!(
            fault_fee(&params, &net, sector, ample).0,
            33900346161649772000
        );
    }

    #[test]
    fn termination_fee_matches_the_spec() {
        let params = ChainParams::production();
        let fee = |fault: u128, age_days: u64| {
            termination_fee(
                &params,
                TokenAmount(2 * ONE),
                TokenAmount(fault),
                days(&params, age_days),
            )
            .0
        };
        assert_eq!(fee(0, 0), 40000000000000000);
        assert_eq!(fee(0, 70), 85000000000000000);
        assert_eq!(fee(0, 140), 170000000000000000);
        assert_eq!(fee(0, 10_000), 170000000000000000);
        assert_eq!(fee(ONE / 10, 0), 105000000000000000);
    }

    #[test]
    fn deal_collateral_matches_the_spec() {
        let (params, net) = production();
        let collateral = deal_collateral(&params, &net, 1 << 30, params.baseline_start.0);
        assert_eq!(collateral.0, 953674316406250000);
    }

    #[test]
    fn tm_v10_rates_saturate_at_the_extremes() {
        let params = ChainParams::production();
        let net = Network {
            rpp: u128::MAX,
            genesis: TokenAmount(u128::MAX),
            ..Network::default()
        };
        let huge = StoragePower(u128::MAX);
        assert_eq!(
            expected_reward(&net, huge, EpochCount(u64::MAX)).0,
            u128::MAX
        );
        assert_eq!(pledge(&params, &net, huge, 1).0, u128::MAX);
        assert_eq!(fault_fee(&params, &net, huge, TokenAmount(100)).0, 5);
        assert_eq!(
            termination_fee(
                &params,
                TokenAmount(u128::MAX),
                TokenAmount(0),
                EpochCount(u64::MAX)
            )
            .0,
            u128::MAX / 1000 * 85 + (u128::MAX % 1000) * 85 / 1000
        );
        // The deal is the whole network: its share is one percent of everything.
        assert_eq!(
            deal_collateral(&params, &net, u64::MAX, 1).0,
            u128::MAX / 100
        );
        let zero = Network::default();
        assert_eq!(precommit_deposit(&params, &zero, StoragePower(0)).0, 1);
        assert_eq!(pledge_of_nothing(&params, &zero), 1);
    }

    fn pledge_of_nothing(params: &ChainParams, net: &Network) -> u128 {
        pledge(params, net, StoragePower(0), 1).0
    }
}
