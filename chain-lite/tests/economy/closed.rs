//! Closed credit (a flag of genesis): what it refuses, and that storing, proving and repairing do not notice it.

use std::collections::BTreeSet;
use std::process::Command;

use chain_lite::error::{ChainError, ErrorCode, Subject};
use chain_lite::message::Message;
use chain_lite::params::ChainParams;
use chain_lite::units::TokenAmount;

use crate::world::{CLOSED_CREDIT, TOKEN, World, address, key};

#[test]
fn money_is_neither_passed_on_nor_taken_out() {
    let (client, owner, friend) = (key(1), key(10), key(3));
    let params = ChainParams {
        closed_credit: true,
        ..ChainParams::devnet()
    };
    let accounts = [&client, &owner, &friend].map(|key| (address(key), 50_000_000 * TOKEN));
    let mut world = World::new(params, &accounts);
    let id = world.register(&owner, 10_000_000 * TOKEN);
    world.fund_market(&client, 1_000 * TOKEN);
    let amount = TokenAmount(1);
    let to = address(&friend);
    for (from, msg) in [
        (&client, Message::Transfer { to, amount }),
        (&client, Message::MarketDeposit { to, amount }),
        (&client, Message::MarketWithdraw { amount }),
        (&owner, Message::MarketWithdraw { amount }),
        (
            &owner,
            Message::ProviderWithdraw {
                provider: id,
                amount,
            },
        ),
        (
            &client,
            Message::ProviderDeposit {
                provider: id,
                amount,
            },
        ),
        (&client, Message::OpenChannel { payee: to, amount }),
    ] {
        let error = world.fails(from, msg, ErrorCode::NotAllowed);
        let what = Subject::ClosedCredit;
        assert_eq!(error, ChainError::NotAllowed { what });
    }
    world.must(
        &owner,
        Message::ProviderDeposit {
            provider: id,
            amount,
        },
    );
    assert_eq!(world.free(&friend).0, 50_000_000 * TOKEN);
}

const CHANNEL: &str = "a channel pays one account out of another's money";
const POOR: &str = "it takes a provider's money out, to see what is done without";
const OUT: &str = "it takes money out, which is what it asks about";
const ON: &str = "it passes money on, which is what it asks about";

/// Tests that are about money which changes hands or leaves, and fail where it cannot; all others pass in closed credit.
const EXCUSED: [(&str, &str); 22] = [
    (
        "channels::a_channel_pays_what_was_promised_and_returns_the_rest",
        CHANNEL,
    ),
    ("channels::channel_refusals", CHANNEL),
    ("channels::tm_c3_a_small_order_payer_signs_nothing", CHANNEL),
    (
        "channels::tm_r1_a_payer_cannot_take_a_promise_back",
        CHANNEL,
    ),
    (
        "channels::tm_r1_a_replayed_or_foreign_voucher_is_worth_nothing",
        CHANNEL,
    ),
    ("disputes::a_reward_is_paid_from_loose_money_only", POOR),
    ("disputes::tm_p20_the_stake_outlives_the_sector", OUT),
    (
        "explained::a_charge_after_a_deposit_in_its_block_is_explained",
        POOR,
    ),
    (
        "explained::a_dispute_is_explained_with_its_stake_and_the_finders_share",
        POOR,
    ),
    (
        "explained::two_terminations_in_one_block_are_told_apart",
        POOR,
    ),
    (
        "model::the_model_reaches_every_rule",
        "it counts that each message succeeds, those that pass money on too",
    ),
    ("refusals::a_fault_is_declared_on_credit", POOR),
    (
        "refusals::a_penalty_takes_unvested_rewards_before_it_becomes_debt",
        POOR,
    ),
    ("refusals::a_post_may_go_into_secured_debt", POOR),
    (
        "refusals::a_transaction_is_judged_before_it_costs_anything",
        ON,
    ),
    ("refusals::fee_debt_blocks", POOR),
    (
        "refusals::fees_are_burnt_also_on_failure_and_charged_to_whoever_acts",
        ON,
    ),
    ("refusals::plain_money", ON),
    ("refusals::provider_rules", OUT),
    (
        "refusals::transactions_are_atomic_and_failed_ones_spend_their_nonce",
        ON,
    ),
    ("threats::tm_c1_escrow_is_spent_once", OUT),
    (
        "threats::tm_p20_debt_follows_the_provider_and_is_secured",
        POOR,
    ),
];

/// This test binary again, each new world's money closed.
fn again() -> Command {
    let mut again = Command::new(std::env::current_exe().expect("a test binary"));
    again.env(CLOSED_CREDIT, "1").arg("--exact");
    // Without it, what tests print would stand among the names that are read.
    again.env_remove("RUST_TEST_NOCAPTURE");
    again
}

fn output(mut command: Command) -> (bool, String) {
    let output = command.output().expect("starts");
    (
        output.status.success(),
        String::from_utf8(output.stdout).expect("text"),
    )
}

/// Every test of this binary.
fn names() -> BTreeSet<String> {
    let mut list = again();
    list.arg("--list");
    let (_, text) = output(list);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

/// The whole suite once more on chains of closed credit, but for the excused and this module: whoever adds a test need not think of it.
#[test]
fn storing_proving_and_repairing_pass_in_closed_credit() {
    let mut run = again();
    let mut due = names();
    assert!(due.len() > 60, "the list was read: {}", due.len());
    due.retain(|name| {
        let stays_out = name.starts_with("closed::") || EXCUSED.iter().any(|(out, _)| out == name);
        if stays_out {
            run.args(["--skip", name]);
        }
        !stays_out
    });
    let (passed, said) = output(run);
    assert!(passed, "in closed credit: {said}");
    let sum = format!("test result: ok. {} passed; 0 failed; 0 ignored", due.len());
    assert!(said.contains(&sum), "{sum:?} is not in {said}");
}

/// A test that passes needs no excuse, and one that is gone has none.
#[test]
fn what_is_excused_fails_in_closed_credit() {
    let mut run = again();
    run.args(EXCUSED.iter().map(|(name, _)| name));
    let (_, said) = output(run);
    for (name, why) in EXCUSED {
        assert!(!why.is_empty());
        let failed = format!("test {name} ... FAILED");
        assert!(said.lines().any(|line| line == failed), "{name}: {said}");
    }
}
