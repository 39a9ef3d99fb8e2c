//! Measures window PoSts with real proofs through four validators on loopback.
//!
//! `cargo run --release -p chain-lite-bft --features net --example posts -- FOLDER [providers] [window]`
//!
//! FOLDER holds the proving keys of 2 KiB (the demo's `params` folder; they are made where they are missing). Every provider seals
//! one sector of 2 KiB with its own PoRep. Their posts are proven as their deadlines open and held back; when the first window is
//! about to close all of them are given to the four validators at once. Timed is from then until the last validator has the last
//! post in a final block. `window` is a deadline's length in epochs of 100 ms: sealing all providers must take less (about 4 s
//! each on two cores), and the whole run takes up to three times as long.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chain_lite::account::{NetKey, ProviderId};
use chain_lite::clock::ClockMode;
use chain_lite::genesis::CircuitKey;
use chain_lite::message::{Message, SignedTx};
use chain_lite::query::{self, SectorStatus};
use chain_lite::randomness::{self, Tag};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::machine::{Machine, Plan};
use prover::post::proof::{ReplicaRef, prove_window};
use prover::seal::{self, Replicated, SealRequest};
use prover::snark::CircuitId;
use prover::snark::keys::{ParamStore, ProvingKey};
use prover::{CommR, NoProgress, RegisteredSeal, SectorNumber, SectorSize};

#[path = "../tests/common/mod.rs"]
mod common;
use common::genesis;
mod four;
use four::{Validator, address, signed, start_four};

const SIZE: SectorSize = SectorSize::Kib2;
const SECTOR: SectorNumber = SectorNumber(1);
const RICH: TokenAmount = TokenAmount::from_tokens(1_000_000);
/// The posts go when the first of them has so many epochs left.
const MARGIN: u64 = 100;

/// A provider, and what it has signed so far.
struct Provider {
    user: usize,
    id: ProviderId,
    nonce: u64,
    comm_r: CommR,
    /// Its post, waiting for the others, and when its window closes.
    held: Option<(SignedTx, Epoch)>,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("the folder of the proving keys");
    let mut number = |default: u64| {
        let arg = args.next();
        arg.map_or(default, |a| a.parse().expect("a number"))
    };
    let (count, window) = (number(24), number(2400));
    let store = ParamStore::open(Path::new(&folder)).expect("a folder");
    let plan = Plan::new(&Machine::detect()).expect("threads");
    let circuits = [CircuitId::porep(SIZE), CircuitId::window(SIZE)];
    let [porep, post] = circuits.map(|circuit| {
        plan.run(|| store.load_or_generate(circuit, &NoProgress))
            .expect("a key")
    });
    let vk = |circuit| CircuitKey {
        circuit,
        insecure: true,
        vk: store
            .verifying_key_bytes(circuit, &NoProgress)
            .expect("a key"),
    };
    let mut genesis = genesis();
    genesis.clock = ClockMode::Logical { epoch_ms: 100 };
    genesis.keys = circuits.into_iter().map(vk).collect();
    genesis.params.deadlines = 3;
    genesis.params.proving_period = EpochCount(3 * window);
    genesis.params.day = EpochCount(3 * window);
    genesis.params.fault_max = EpochCount(9 * window);
    genesis.params.min_sector_life = EpochCount(6 * window);
    let users = usize::try_from(count).expect("a count");
    genesis.accounts = (0..users).map(|n| (address(n), RICH)).collect();
    let validators = start_four(&genesis);
    let first = &validators[0];
    let sectors = tempfile::tempdir().expect("a folder");

    let mut providers: Vec<Provider> = (0..users).map(|n| register(&validators, n)).collect();
    let begun = Instant::now();
    for provider in &mut providers {
        commit(&validators, provider, sectors.path(), &plan, &porep);
    }
    let live = |p: &Provider| {
        let sector = query::sector(&first.ledger.view(), p.id, SECTOR).expect("reads");
        sector.is_some_and(|sector| sector.status.is_live())
    };
    until(|| providers.iter().all(live).then_some(()));
    println!(
        "{count} sectors sealed and proven in {:.0} s, epoch {}",
        begun.elapsed().as_secs_f64(),
        first.ledger.tip().epoch.0
    );

    loop {
        let dir = |p: &Provider| sectors.path().join(p.user.to_string());
        let Some(next) = providers
            .iter_mut()
            .find(|p| p.held.is_none() && is_open(first, p))
        else {
            let closes = providers.iter().filter_map(|p| Some(p.held.as_ref()?.1));
            let now = first.ledger.tip().epoch;
            let closing = |close: Epoch| close.0 < now.0 + MARGIN;
            if providers.iter().all(|p| p.held.is_some()) || closes.min().is_some_and(closing) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let dir = dir(next);
        hold(first, next, &dir, &plan, &post);
    }

    let posts: Vec<&SignedTx> = providers
        .iter()
        .filter_map(|p| Some(&p.held.as_ref()?.0))
        .collect();
    let begun = Instant::now();
    for tx in &posts {
        submit(&validators, tx);
    }
    let active = |validator: &Validator, p: &Provider| {
        let sector = query::sector(&validator.ledger.view(), p.id, SECTOR).expect("reads");
        sector.is_some_and(|sector| sector.status == SectorStatus::Active)
    };
    let held = || providers.iter().filter(|p| p.held.is_some());
    until(|| {
        let has = |v: &Validator| held().all(|p| active(v, p));
        validators.iter().all(has).then_some(())
    });
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} window PoSts with real proofs final at all four after {seconds:.2} s: {:.0} a second",
        posts.len(),
        posts.len() as f64 / seconds,
    );
    for validator in &validators {
        validator.engine.stop();
    }
}

/// Asks until there is an answer.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Gives a transaction to every validator, as gossip would.
fn submit(validators: &[Validator], tx: &SignedTx) {
    for validator in validators {
        let (view, tip) = (validator.ledger.view(), validator.ledger.tip().height);
        let taken = validator.mempool.submit(tx.clone(), tip, &view);
        taken.expect("is taken");
    }
}

/// Signs a message of a provider's next nonce.
fn sign(first: &Validator, provider: &mut Provider, msg: Message) -> SignedTx {
    let tx = signed(first, provider.user, provider.nonce, vec![msg]);
    provider.nonce += 1;
    tx
}

fn register(validators: &[Validator], user: usize) -> Provider {
    let first = &validators[0];
    let register = Message::RegisterProvider {
        worker: address(user),
        net_key: NetKey([1; 32]),
        addrs: vec!["127.0.0.1:1".into()],
        sector_size: SIZE,
        deposit: TokenAmount(RICH.0 / 2),
    };
    submit(validators, &signed(first, user, 0, vec![register]));
    let id = until(|| {
        let all = query::providers(&first.ledger.view(), None, user + 1).expect("reads");
        Some(all.iter().find(|p| p.owner == address(user))?.id)
    });
    Provider {
        user,
        id,
        nonce: 1,
        comm_r: CommR([0; 32]),
        held: None,
    }
}

/// Seals a provider's sector and gives its pre-commit and its proof to the validators.
fn commit(
    validators: &[Validator],
    provider: &mut Provider,
    sectors: &Path,
    plan: &Plan,
    key: &Arc<ProvingKey>,
) {
    let first = &validators[0];
    let ticket_epoch = first.ledger.tip().epoch;
    let ticket = query::randomness(&first.ledger.view(), Tag::Ticket, ticket_epoch, provider.id);
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(SIZE),
        prover: provider.id.prover_id(),
        sector: SECTOR,
        ticket: randomness::ticket(ticket.expect("reads").expect("on chain")),
        pieces: vec![],
    };
    let dir = sectors.join(provider.user.to_string());
    let packed = seal::create(&dir, request, &mut []).expect("packed");
    let labeled = packed.label(plan, &NoProgress).expect("labelled");
    let replicated: Replicated = labeled.replicate(plan, &NoProgress).expect("replicated");
    provider.comm_r = replicated.comm_r();
    let life = query::params(&first.ledger.view())
        .expect("reads")
        .min_sector_life;
    let offer = Message::PreCommit {
        provider: provider.id,
        sector: SECTOR,
        comm_r: replicated.comm_r(),
        comm_d: replicated.comm_d(),
        ticket_epoch,
        expiration: ticket_epoch.after(EpochCount(3 * life.0)),
        deals: vec![],
    };
    let tx = sign(first, provider, offer);
    submit(validators, &tx);
    let seed = until(|| {
        let sector = query::sector(&first.ledger.view(), provider.id, SECTOR).expect("reads");
        sector?.seed
    });
    let challenged = replicated
        .challenge(seed, plan, &NoProgress)
        .expect("challenged");
    let sealed = challenged.prove(key, plan, &NoProgress).expect("proven");
    let proof = Message::ProveCommit {
        provider: provider.id,
        sector: SECTOR,
        proof: sealed.proof().to_vec(),
    };
    let tx = sign(first, provider, proof);
    submit(validators, &tx);
}

/// Whether the deadline of the provider's sector takes its proof now.
fn is_open(first: &Validator, provider: &Provider) -> bool {
    let deadlines = query::deadlines(&first.ledger.view(), provider.id).expect("reads");
    let mut deadlines = deadlines.expect("registered").into_iter();
    deadlines.any(|d| d.is_open && !d.partitions.is_empty())
}

/// Proves the open deadline of a provider and keeps the signed post.
fn hold(first: &Validator, provider: &mut Provider, dir: &Path, plan: &Plan, key: &ProvingKey) {
    let view = first.ledger.view();
    let deadlines = query::deadlines(&view, provider.id).expect("reads");
    let open = deadlines
        .expect("registered")
        .into_iter()
        .find(|d| d.is_open && !d.partitions.is_empty())
        .expect("was open a moment ago");
    let challenge = query::randomness(&view, Tag::WindowPost, open.window.challenge, provider.id);
    let challenge = randomness::post(challenge.expect("reads").expect("on chain"));
    let replica = ReplicaRef {
        number: SECTOR,
        comm_r: provider.comm_r,
        dir,
    };
    let prover = provider.id.prover_id();
    let proof = plan.run(|| prove_window(key, SIZE, prover, challenge, &[replica], &NoProgress));
    let post = Message::SubmitPost {
        provider: provider.id,
        deadline: open.index,
        partition: open.partitions[0].index,
        skipped: vec![],
        proof: proof.expect("proven"),
    };
    let tx = sign(first, provider, post);
    provider.held = Some((tx, open.window.close));
}
