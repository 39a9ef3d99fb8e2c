//! Payment channels (`chain.md` §14): a life with hand-computed balances, every refusal, and what a cheating side tries.

use chain_lite::account::{Address, ChainId, ChannelId};
use chain_lite::channel::{Channel, MAX_LANES, SignedVoucher, Voucher};
use chain_lite::codec::encode;
use chain_lite::error::{ChainError, ErrorCode, Subject};
use chain_lite::execute::Output;
use chain_lite::message::{Message, Signature};
use chain_lite::params::ChainParams;
use chain_lite::query;
use chain_lite::state::key;
use chain_lite::units::{EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;

use crate::world::{World, address, key as signer};

const RICH: u128 = 1_000_000;

/// A payer, a payee and a stranger, each with [`RICH`] units.
fn world() -> (World, SigningKey, SigningKey, SigningKey) {
    let keys = [1, 2, 3].map(signer);
    let accounts = keys.each_ref().map(|key| (address(key), RICH));
    let [payer, payee, stranger] = keys;
    (
        World::new(ChainParams::devnet(), &accounts),
        payer,
        payee,
        stranger,
    )
}

impl World {
    pub fn open_channel(&mut self, from: &SigningKey, to: &SigningKey, amount: u128) -> ChannelId {
        let open = Message::OpenChannel {
            payee: address(to),
            amount: TokenAmount(amount),
        };
        match self.must(from, open) {
            Output::ChannelOpened { channel } => channel,
            other => panic!("unexpected output {other:?}"),
        }
    }

    pub fn voucher(&self, channel: ChannelId, lane: u64, nonce: u64, amount: u128) -> Voucher {
        Voucher {
            chain_id: self.chain,
            channel,
            lane,
            nonce,
            amount: TokenAmount(amount),
        }
    }

    pub fn channel(&self, id: ChannelId) -> Option<Channel> {
        query::channel(&self.state, id).expect("memory")
    }
}

fn redeem(voucher: SignedVoucher) -> Message {
    Message::RedeemVoucher { voucher }
}

#[test]
fn a_channel_pays_what_was_promised_and_returns_the_rest() {
    let (mut world, payer, payee, stranger) = world();
    let id = world.open_channel(&payer, &payee, 1_000);
    assert_eq!(
        (world.free(&payer).0, world.net().channels.0),
        (RICH - 1_000, 1_000)
    );
    // Two lanes; the first voucher of lane 7 is never redeemed and not missed.
    for (lane, nonce, amount) in [(0, 1, 100), (7, 2, 300), (0, 5, 250)] {
        let voucher = world.voucher(id, lane, nonce, amount).sign(&payer);
        world.must(&payee, redeem(voucher));
    }
    assert_eq!(world.channel(id).expect("open").due.0, 550);
    assert_eq!(world.free(&payee).0, RICH, "nothing moves before the end");

    world.must(&payer, Message::SettleChannel { channel: id });
    let collect = Message::CollectChannel { channel: id };
    world.fails(&payee, collect.clone(), ErrorCode::TooEarly);
    // The last voucher may come until the close.
    let last = world.voucher(id, 0, 6, 260).sign(&payer);
    let closes = world.channel(id).expect("open").closes.expect("asked for");
    world.run_to(closes.before(EpochCount(2)));
    world.must(&payee, redeem(last));
    let late = world.voucher(id, 0, 7, 270).sign(&payer);
    world.fails(&payee, redeem(late), ErrorCode::TooLate);
    world.must(&stranger, collect.clone());
    assert_eq!(world.channel(id), None);
    assert_eq!(
        (world.free(&payer).0, world.free(&payee).0),
        (RICH - 560, RICH + 560)
    );
    assert_eq!(world.net().channels.0, 0);
    world.fails(&payee, collect, ErrorCode::NotFound);
    // The next channel has another id: no voucher of the old one is good for it.
    let next = world.open_channel(&payer, &payee, 1_000);
    assert_ne!(next, id);
    let old = world.voucher(id, 0, 8, 900).sign(&payer);
    world.fails(&payee, redeem(old), ErrorCode::NotFound);
}

#[test]
fn channel_refusals() {
    let (mut world, payer, payee, stranger) = world();
    for (to, amount, code) in [
        (&payee, 0, ErrorCode::OutOfBounds),
        (&payee, RICH + 1, ErrorCode::InsufficientFunds),
        (&payer, 10, ErrorCode::NotAllowed),
    ] {
        let open = Message::OpenChannel {
            payee: address(to),
            amount: TokenAmount(amount),
        };
        world.fails(&payer, open, code);
    }
    let id = world.open_channel(&payer, &payee, 1_000);
    let settle = Message::SettleChannel { channel: id };
    world.fails(&stranger, settle.clone(), ErrorCode::NotAllowed);
    let collect = Message::CollectChannel { channel: id };
    world.fails(&payee, collect, ErrorCode::WrongState);
    let too_much = world.voucher(id, 0, 1, 1_001).sign(&payer);
    world.fails(&payee, redeem(too_much), ErrorCode::InsufficientFunds);
    // Lanes share one balance.
    world.must(&payee, redeem(world.voucher(id, 0, 1, 600).sign(&payer)));
    let other_lane = world.voucher(id, 1, 1, 401).sign(&payer);
    world.fails(&payee, redeem(other_lane), ErrorCode::InsufficientFunds);
    for lane in 1..MAX_LANES as u64 {
        world.must(&payee, redeem(world.voucher(id, lane, 1, 1).sign(&payer)));
    }
    let one_more = world.voucher(id, 1 << 40, 1, 1).sign(&payer);
    let error = world.fails(&payee, redeem(one_more), ErrorCode::OutOfBounds);
    assert!(
        matches!(error, ChainError::OutOfBounds { what, .. } if what == Subject::VoucherLane),
        "{error}"
    );
    world.must(&payee, settle.clone());
    world.fails(&payer, settle, ErrorCode::WrongState);
    let no_such = Message::SettleChannel {
        channel: ChannelId(99),
    };
    world.fails(&payer, no_such, ErrorCode::NotFound);
}

/// A voucher counts once, on its own chain, its own channel and its own lane, for its own payee.
#[test]
fn tm_r1_a_replayed_or_foreign_voucher_is_worth_nothing() {
    let (mut world, payer, payee, stranger) = world();
    let id = world.open_channel(&payer, &payee, 1_000);
    let twin = world.open_channel(&payer, &payee, 1_000);
    let voucher = world.voucher(id, 0, 3, 400);
    let good = voucher.sign(&payer);
    world.fails(&stranger, redeem(good), ErrorCode::NotAllowed);
    world.fails(&payer, redeem(good), ErrorCode::NotAllowed);

    // Every field is signed: changed under the old signature, it does not verify; the chain is compared before.
    let changes: [(fn(&mut Voucher), ErrorCode); 5] = [
        (|v| v.chain_id = ChainId([9; 32]), ErrorCode::NotAllowed),
        (|v| v.channel = ChannelId(2), ErrorCode::BadSignature),
        (|v| v.lane = 1, ErrorCode::BadSignature),
        (|v| v.nonce = 4, ErrorCode::BadSignature),
        (|v| v.amount.0 = 401, ErrorCode::BadSignature),
    ];
    assert_eq!(twin, ChannelId(2));
    for (change, code) in changes {
        let mut changed = good;
        change(&mut changed.voucher);
        world.fails(&payee, redeem(changed), code);
    }
    // The payer's signature for another chain, over all the right fields.
    let mut elsewhere = voucher;
    elsewhere.chain_id = ChainId([9; 32]);
    world.fails(
        &payee,
        redeem(elsewhere.sign(&payer)),
        ErrorCode::NotAllowed,
    );
    world.fails(
        &payee,
        redeem(voucher.sign(&payee)),
        ErrorCode::BadSignature,
    );

    world.must(&payee, redeem(good));
    world.fails(&payee, redeem(good), ErrorCode::OutOfBounds);
    // An older one, and a newer one that takes back.
    for (nonce, amount) in [(2, 500), (3, 500), (4, 399)] {
        let other = world.voucher(id, 0, nonce, amount).sign(&payer);
        world.fails(&payee, redeem(other), ErrorCode::OutOfBounds);
    }
    assert_eq!(world.channel(id).expect("open").due.0, 400);
    assert_eq!(world.channel(twin).expect("open").due.0, 0);
}

/// A payer cannot void what it has promised: neither with a voucher to itself nor by closing in a hurry.
#[test]
fn tm_r1_a_payer_cannot_take_a_promise_back() {
    let (mut world, payer, payee, _) = world();
    let id = world.open_channel(&payer, &payee, 1_000);
    let promise = world.voucher(id, 0, 1, 700).sign(&payer);
    let spoiler = world.voucher(id, 0, u64::MAX, 0).sign(&payer);
    world.fails(&payer, redeem(spoiler), ErrorCode::NotAllowed);
    world.must(&payer, Message::SettleChannel { channel: id });
    let collect = Message::CollectChannel { channel: id };
    world.fails(&payer, collect.clone(), ErrorCode::TooEarly);
    world.must(&payee, redeem(promise));
    let closes = world.channel(id).expect("closing").closes.expect("set");
    world.run_to(closes.before(EpochCount(1)));
    world.must(&payer, collect);
    assert_eq!(world.free(&payee).0, RICH + 700);
}

/// A payer with a key of small order: signatures that everybody can write are refused.
#[test]
fn tm_c3_a_small_order_payer_signs_nothing() {
    let (mut world, payer, payee, _) = world();
    let id = world.open_channel(&payer, &payee, 1_000);
    // The identity as key, and the signature (identity, 0): it satisfies the equation without the strict rules.
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut channel = world.channel(id).expect("open");
    channel.payer = Address(identity);
    world.state.0.insert(key::channel(id), encode(&channel));
    let mut signature = [0; 64];
    signature[0] = 1;
    let voucher = SignedVoucher {
        voucher: world.voucher(id, 0, 1, 1_000),
        signature: Signature(signature),
    };
    let lax = ed25519_dalek::VerifyingKey::from_bytes(&identity).expect("a point");
    assert!(
        ed25519_dalek::Verifier::verify(
            &lax,
            &voucher.voucher.signing_bytes(),
            &ed25519_dalek::Signature::from_bytes(&signature)
        )
        .is_ok(),
        "the test's signature is worth refusing"
    );
    world.fails(&payee, redeem(voucher), ErrorCode::BadSignature);
}
