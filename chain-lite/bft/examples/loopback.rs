//! Measures four validators on loopback: block times, bytes and transactions per second.
//!
//! `cargo run --release -p chain-lite-bft --features net --example loopback -- [blocks] [transactions per block] [transfers|ready|deals] [deals each]`
//!
//! All four run in this process, each with its own ledger, runtime and sockets; no pacing (an epoch of 1 ms), blocks synced to disk.
//! A transaction is a signed transfer of about 190 bytes; or a provider's `PublishDeals` of one (or so many) proposals, each signed
//! by its client: about 500 bytes with one.
//!
//! A proposer takes what waits in its own pool, up to so many transactions. Where transfers are signed and checked meanwhile, it
//! may not be full again at its next turn; `ready` ones were before, so every block is full: `-- 20 4900 ready` measures blocks of
//! 1 MiB. The least block is printed beside the mean, so that one sees it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chain_lite::account::{Address, Blake3Root, NetKey, ProviderId};
use chain_lite::certificate::Certificate;
use chain_lite::clock::ClockMode;
use chain_lite::events::{Event, EventRecord};
use chain_lite::message::{CheckedTx, DealGroup, DealProposal, MAX_PROPOSALS, Message};
use chain_lite::query;
use chain_lite::units::{EpochCount, TokenAmount};
use prover::PaddedPieceSize;
use prover::commitment::CommP;
use prover::spec::SectorSize;

#[path = "../tests/common/mod.rs"]
mod common;
use common::{genesis, transfer_to, user};
mod four;
use four::{Validator, address, signed, start_four};

/// Senders of each validator: one sender's transactions are limited in the pool.
const SENDERS: usize = 8;
/// The client of all deals: its number among the users.
const CLIENT: usize = 4 * SENDERS;
/// The first blocks pay for connections and empty pools; they are not counted.
const FIRST: u64 = 10;
/// Money of each sender, enough for its deals' collateral.
const RICH: TokenAmount = TokenAmount::from_tokens(1_000_000);

/// What fills the blocks.
#[derive(Clone, Copy)]
enum Load {
    Transfers,
    /// Transfers that were signed and checked before.
    Ready,
    /// Proposals in each transaction.
    Deals(usize),
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| {
        let arg = args.next();
        arg.map_or(default, |a| a.parse().expect("a number"))
    };
    let (blocks, per_block) = (number(200), number(20));
    let load = match args.next().as_deref() {
        None | Some("transfers") => Load::Transfers,
        Some("ready") => Load::Ready,
        Some("deals") => Load::Deals(args.next().map_or(1, |a| a.parse().expect("a number"))),
        Some(other) => panic!("transfers, ready or deals, not {other}"),
    };
    let mut genesis = genesis();
    genesis.clock = ClockMode::Logical { epoch_ms: 1 };
    genesis.accounts = (0..=CLIENT).map(|n| (address(n), RICH)).collect();
    let validators = start_four(&genesis);
    let stop = AtomicBool::new(false);
    if let Load::Deals(each) = load {
        assert!(
            (1..=MAX_PROPOSALS).contains(&each),
            "deals of a transaction"
        );
        register(&validators);
    }
    let ready = match load {
        Load::Ready => prepare(&validators, (blocks + FIRST) as usize, per_block as usize),
        Load::Transfers | Load::Deals(_) => Vec::new(),
    };
    let heard = validators[0].ledger.subscribe();
    let (mut times, mut txs, mut bytes, mut rounds) = (Vec::new(), 0, 0, 0);
    let mut least = usize::MAX;
    let mut heights = Vec::new();
    std::thread::scope(|scope| {
        for (n, validator) in validators.iter().enumerate() {
            let stop = &stop;
            let ready = &ready;
            scope.spawn(move || match load {
                Load::Ready => feed_ready(validator, per_block as usize, &ready[n], stop),
                _ => feed(n, validator, per_block as usize, load, stop),
            });
        }
        for _ in 0..FIRST {
            heard
                .recv_timeout(Duration::from_secs(120))
                .expect("blocks come");
        }
        let begun = Instant::now();
        let mut before = begun;
        for _ in 0..blocks {
            let block = heard
                .recv_timeout(Duration::from_secs(120))
                .expect("blocks come");
            times.push(before.elapsed());
            before = Instant::now();
            txs += block.block.body.txs.len();
            let size = chain_lite::codec::encode(&block.block).len();
            (bytes, least) = (bytes + size, least.min(size));
            let Certificate::Ed25519V1 { round, .. } = block.certificate;
            rounds += round;
            heights.push(block.block.header.height);
        }
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        times.sort();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        println!(
            "{blocks} blocks in {seconds:.2} s: median {:.1} ms, p90 {:.1} ms, max {:.1} ms; {:.0} bytes a block, {least} the least; {:.0} transactions a second; {rounds} rounds lost",
            at(0.5),
            at(0.9),
            at(1.0),
            bytes as f64 / blocks as f64,
            txs as f64 / seconds,
        );
        if let Load::Deals(_) = load {
            let published =
                |event: &EventRecord| matches!(event.event, Event::DealPublished { .. });
            let of = |height: &u64| {
                let outcomes = validators[0].ledger.outcomes(*height).expect("final");
                outcomes.events.iter().filter(|e| published(e)).count()
            };
            let deals: usize = heights.iter().map(of).sum();
            println!("{:.0} deals a second", deals as f64 / seconds);
        }
    });
    for validator in &validators {
        validator.engine.stop();
    }
}

/// Makes every sender a provider with collateral, and gives the client money for deals.
fn register(validators: &[Validator]) {
    let first = &validators[0];
    let rest = TokenAmount(RICH.0 / 4);
    let deposit = |n| Message::MarketDeposit {
        to: address(n),
        amount: rest,
    };
    for n in 0..=CLIENT {
        let mut msgs = vec![deposit(n)];
        if n != CLIENT {
            msgs.push(Message::RegisterProvider {
                worker: address(n),
                net_key: NetKey([1; 32]),
                addrs: vec!["127.0.0.1:1".into()],
                sector_size: SectorSize::Kib2,
                deposit: rest,
            });
        }
        let (view, tip) = (first.ledger.view(), first.ledger.tip().height);
        let tx = signed(first, n, 0, msgs);
        first.mempool.submit(tx, tip, &view).expect("is taken");
    }
    while validators.iter().any(|v| owned(v).len() < CLIENT) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The providers, by owner.
fn owned(validator: &Validator) -> BTreeMap<Address, ProviderId> {
    let all = query::providers(&validator.ledger.view(), None, CLIENT).expect("reads");
    all.into_iter().map(|p| (p.owner, p.id)).collect()
}

/// So many deals of one provider that the chain has not seen: `nonce` is the transaction's.
fn deals(
    validator: &Validator,
    provider: ProviderId,
    sender: usize,
    nonce: u64,
    each: usize,
) -> Message {
    let view = validator.ledger.view();
    let size = PaddedPieceSize::new(128).expect("a power of two");
    let least = query::least_collateral(&view, size).expect("reads");
    let now = validator.ledger.tip().epoch;
    let proposal = |i: usize| {
        let number = ((sender as u64) << 48) | (nonce << 8) | i as u64;
        let mut root = [0; 32];
        root[..8].copy_from_slice(&number.to_le_bytes());
        let proposal = DealProposal {
            chain_id: validator.ledger.chain_id(),
            client: address(CLIENT),
            provider,
            piece_commp: CommP(root),
            piece_size: size,
            blake3_root: Blake3Root(root),
            group: DealGroup {
                k: 3,
                n: 5,
                file_root: Blake3Root([4; 32]),
            },
            start: now.after(EpochCount(10_000)),
            end: now.after(EpochCount(11_000)),
            price: TokenAmount(1),
            provider_collateral: TokenAmount(least.0 * 2),
            verified: false,
            label: "piece".into(),
            client_nonce: number,
        };
        proposal.sign(&user(CLIENT))
    };
    Message::PublishDeals {
        provider,
        proposals: (0..each).map(proposal).collect(),
    }
}

/// Transfers for so many blocks of a chain whose validators take turns, and for two turns of each beyond: each validator's, in the
/// order in which they are submitted.
fn prepare(validators: &[Validator], blocks: usize, per_block: usize) -> Vec<Vec<CheckedTx>> {
    let each = (blocks / validators.len() + 2) * per_block;
    let make = |n: usize| {
        let chain = validators[n].ledger.chain_id();
        let transfer = |i: usize| {
            let from = n * SENDERS + i % SENDERS;
            let tx = transfer_to(chain, from, (i / SENDERS) as u64, n * SENDERS);
            tx.check(&chain).expect("well made")
        };
        (0..each).map(transfer).collect()
    };
    let make = &make;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..validators.len())
            .map(|n| scope.spawn(move || make(n)))
            .collect();
        let made = running.into_iter().map(|thread| thread.join());
        made.map(|of_one| of_one.expect("signs")).collect()
    })
}

/// As [`feed`], with what is ready; nothing more when that is at its end.
fn feed_ready(validator: &Validator, want: usize, ready: &[CheckedTx], stop: &AtomicBool) {
    let mut rest = ready.iter();
    while !stop.load(Ordering::Relaxed) {
        let missing = want.saturating_sub(validator.mempool.len());
        let (view, tip) = (validator.ledger.view(), validator.ledger.tip().height);
        for tx in rest.by_ref().take(missing) {
            let taken = validator.mempool.submit_checked(tx, tip, &view);
            taken.expect("the pool has room for it");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Keeps `want` transactions waiting in a validator's pool.
fn feed(n: usize, validator: &Validator, want: usize, load: Load, stop: &AtomicBool) {
    let chain = validator.ledger.chain_id();
    let mine = n * SENDERS..(n + 1) * SENDERS;
    let (mut nonces, owned) = match load {
        Load::Transfers | Load::Ready => ([0u64; SENDERS], BTreeMap::new()),
        // The first one registered it.
        Load::Deals(_) => ([1; SENDERS], owned(validator)),
    };
    while !stop.load(Ordering::Relaxed) {
        let missing = want.saturating_sub(validator.mempool.len());
        for i in 0..missing {
            let (k, view) = (i % SENDERS, validator.ledger.view());
            let from = mine.start + k;
            let tx = match load {
                Load::Transfers | Load::Ready => transfer_to(chain, from, nonces[k], mine.start),
                Load::Deals(each) => {
                    let provider = owned[&address(from)];
                    let deals = deals(validator, provider, from, nonces[k], each);
                    signed(validator, from, nonces[k], vec![deals])
                }
            };
            let tip = validator.ledger.tip().height;
            if validator.mempool.submit(tx, tip, &view).is_ok() {
                nonces[k] += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
