//! Closed credit (a flag of genesis): what it refuses, and that storing, proving and repairing do not notice it.

use chain_lite::error::{ChainError, ErrorCode, Subject};
use chain_lite::message::Message;
use chain_lite::params::ChainParams;
use chain_lite::units::TokenAmount;

use crate::world::{TOKEN, World, address, in_closed_credit, key};
use crate::{datacap, disputes, outages, scenarios, threats};

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

/// Every scenario and threat of storing, proving and repairing, once more, on chains of closed credit. (The model test chooses
/// the flag by itself.)
#[test]
fn storing_proving_and_repairing_pass_in_closed_credit() {
    let suite: [fn(); 21] = [
        scenarios::worked_scenario_of_the_spec,
        scenarios::a_deal_broken_by_fault_timeout,
        scenarios::three_providers_with_hand_computed_balances,
        scenarios::a_sector_expires_and_its_pledge_is_free,
        scenarios::tm_p7_an_unproven_precommitment_costs_its_deposit,
        scenarios::a_skipped_sector_and_its_neighbour,
        scenarios::views_survive_json_and_pages_join,
        scenarios::a_files_audit_counts_holders_of_copies_and_distinct_pieces,
        threats::tm_p3_a_replica_and_a_number_count_once,
        threats::tm_p10_a_proof_proves_its_own_statement_only,
        threats::tm_p11_a_second_form_of_an_accepted_proof_changes_nothing,
        threats::tm_p16_comm_d_is_that_of_the_listed_deals,
        threats::tm_c2_a_proposal_counts_once,
        threats::tm_c2_one_nonce_of_a_client_is_charged_once_whoever_publishes,
        threats::tm_v3_blocks_give_the_same_bytes_everywhere,
        threats::tm_v13_no_money_is_stranded,
        datacap::verified_bytes_count_tenfold_for_their_time,
        datacap::a_verified_deal_takes_its_size_and_gives_it_back_only_if_never_activated,
        disputes::tm_p21_one_honest_validator_removes_a_wrong_proof_in_its_window,
        outages::a_window_is_extended_by_its_dark_epochs,
        outages::what_is_late_after_an_outage_is_late,
    ];
    in_closed_credit(|| suite.iter().for_each(|test| test()));
}
