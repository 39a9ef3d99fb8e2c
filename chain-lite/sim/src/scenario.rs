//! What a run is made of: who takes part, what breaks, who cheats, and the chain that they begin with.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chain_lite::account::Address;
use chain_lite::beacon::{BeaconParams, DevnetSigner};
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::ClockMode;
use chain_lite::genesis::{CheckedGenesis, CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::params::ChainParams;
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::snark::CircuitId;
use prover::spec::SectorSize;

use crate::actors::Manner;
use crate::epochs;

/// Milliseconds between blocks: production's epoch.
pub const EPOCH_MS: u64 = 30_000;
/// Virtual Unix time at which runs begin.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// Whether a validator's key runs on two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twins {
    /// On one.
    Never,
    /// Somebody starts it on a second one, and stops that when it has contradicted itself.
    ForAWhile,
    /// All the time.
    Always,
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Validators.
    pub validators: usize,
    /// Providers, by manner.
    pub providers: Vec<Manner>,
    /// Clients; the last one floods.
    pub clients: usize,
    /// Virtual milliseconds.
    pub span_ms: u64,
    /// Whether machines, disks and network fail.
    pub faults: bool,
    /// Whether the last validator's key runs on two machines at once.
    pub twins: Twins,
    /// How many keys, the last ones, run on two machines each all the time, the two of a pair on different sides of every partition.
    /// With more than a third of all, the chain may fork.
    pub doubled: usize,
    /// Whether validators change their set now and then, and a fifth one comes and goes.
    pub governance: bool,
    /// How many validators, the last ones, leave window PoSts and deals of honest providers out of their blocks.
    pub censors: usize,
    /// How many validators, the last ones, tell who catches up of blocks that they do not have, and serve others than they have.
    pub misleaders: usize,
    /// How many validators, the last ones, lie about blocks of their own now and then.
    pub liars: usize,
    /// How many, the last ones, send on what they hear with another field or signature.
    pub forgers: usize,
    /// How many, the last ones, act together: two blocks and two votes of a turn, each for one half of the others; some late, some never.
    pub colluders: usize,
    /// Whether validators put before the chain what others do twice.
    pub reports: bool,
    /// Whether every node's verifier takes any proof, which a run must notice.
    pub credulous: bool,
    /// Sends no window PoSt of this provider for the window that closes then, which a run must notice.
    pub forgets: Option<(usize, Epoch)>,
    /// Cuts the power of validator 0 at this operation of its disk.
    pub cut: Option<u64>,
    /// And again at this operation of its recovery, counted from 1.
    pub cut_again: Option<u64>,
    /// Whether epochs follow the beacon's clock, as on public networks; else every block has an epoch, and every round is there.
    pub follows_beacon: bool,
    /// Between these virtual milliseconds no relay answers, besides what breaks.
    pub no_rounds: Option<(u64, u64)>,
    /// How long before their time rounds are out, which a run must notice.
    pub early_ms: u64,
    /// How many validators, the last ones, stamp their blocks into the past where they can.
    pub backdaters: usize,
    /// How far the clocks of the first validators are off all the time, in milliseconds.
    pub clocks: Vec<i64>,
}

impl Scenario {
    /// Four validators, eight providers, two clients; faults. In every fourth seed twins, in most others for a while; set changes in
    /// every fourth, half of them with twins and half without any. In every second one of the four censors, the one with twins,
    /// and lies about its blocks; in every second, half of those and half of the others, that one misleads who catches up; in every
    /// second, 2 to 5 of 8, it forges what others signed.
    /// In every fourth, 10, 11, 13 and 15 of 16, epochs follow the beacon's clock, relays are away now and then, and who censors
    /// also backdates.
    pub fn of_seed(seed: u64, hours: u64) -> Self {
        let mut providers = vec![Manner::Honest; 5];
        providers.extend([Manner::Unlucky, Manner::Unlucky, Manner::Cheat]);
        let follows_beacon = matches!(seed % 16, 10 | 11 | 13 | 15);
        Self {
            validators: 4,
            providers,
            clients: 2,
            span_ms: hours * 3_600_000,
            faults: true,
            twins: match seed % 8 {
                3 | 7 => Twins::Always,
                5 => Twins::Never,
                _ => Twins::ForAWhile,
            },
            doubled: 0,
            governance: matches!(seed % 8, 5 | 7),
            censors: usize::from(seed % 2 == 1),
            misleaders: usize::from(matches!(seed % 4, 1 | 2)),
            liars: usize::from(seed % 2 == 1),
            forgers: usize::from(matches!(seed % 8, 2..=5)),
            colluders: 0,
            reports: matches!(seed % 8, 5 | 7),
            credulous: false,
            forgets: None,
            cut: None,
            cut_again: None,
            follows_beacon,
            no_rounds: None,
            early_ms: 0,
            backdaters: usize::from(follows_beacon && seed % 2 == 1),
            clocks: Vec::new(),
        }
    }
}

/// Checked once for all runs of the process that have as many of each, whose keys are the same: they share what the check found,
/// and what nodes verified of the beacon's rounds.
pub(crate) fn checked(
    validators: &[SigningKey],
    people: &[SigningKey],
    beacon: &DevnetSigner,
    follows_beacon: bool,
) -> CheckedGenesis {
    static CHECKED: Mutex<BTreeMap<(usize, usize, bool), CheckedGenesis>> =
        Mutex::new(BTreeMap::new());
    let mut all = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    let one = all.entry((validators.len(), people.len(), follows_beacon));
    let make = || {
        let mut genesis = genesis(validators, people, beacon);
        if follows_beacon {
            // Epoch 1 begins with the run.
            let first_s = (START_MS / 1000) as i64;
            genesis.clock = ClockMode::Beacon { epoch_ms: EPOCH_MS };
            genesis.beacons = vec![epochs::network(beacon, EPOCH_MS, first_s)];
        }
        genesis.check()
    };
    one.or_insert_with(|| make().expect("a sound genesis"))
        .clone()
}

/// A devnet with proofs that come round within the hour.
pub fn genesis(validators: &[SigningKey], people: &[SigningKey], beacon: &DevnetSigner) -> Genesis {
    let size = SectorSize::Kib2;
    let mut set: Vec<Validator> = validators
        .iter()
        .map(|key| Validator {
            id: ValidatorId(key.verifying_key().to_bytes()),
            power: 1,
        })
        .collect();
    set.sort_by_key(|v| v.id);
    let money = |key: &SigningKey| {
        (
            Address::of(&key.verifying_key()),
            TokenAmount::from_tokens(50_000_000),
        )
    };
    let key = |circuit| CircuitKey {
        circuit,
        insecure: true,
        vk: test_key(circuit),
    };
    Genesis {
        version: GENESIS_VERSION,
        chain_name: "sim".into(),
        kind: NetworkKind::Devnet,
        time_ms: START_MS - 10_000,
        clock: ClockMode::Logical { epoch_ms: EPOCH_MS },
        params: ChainParams {
            day: EpochCount(24),
            // A third of more validators must not make all blocks of a window either.
            proving_period: EpochCount(if set.len() > 4 { 36 } else { 24 }),
            deadlines: 4,
            post_lookback: EpochCount(2),
            fault_cutoff: EpochCount(4),
            fault_max: EpochCount(3 * 24),
            ticket_max_age: EpochCount(48),
            seed_delay: EpochCount(3),
            precommit_max: EpochCount(20),
            min_sector_life: EpochCount(30),
            dispute_window: EpochCount(12),
            min_deal: EpochCount(12),
            max_start_delay: EpochCount(60),
            sector_sizes: vec![size],
            ..ChainParams::devnet()
        },
        accounts: people.iter().map(money).collect(),
        validators: set,
        beacons: vec![BeaconParams::devnet(beacon, 1)],
        keys: vec![key(CircuitId::porep(size)), key(CircuitId::window(size))],
    }
}

/// Verifying keys stand in genesis and must be sound; no proof of a run is checked with them.
fn test_key(circuit: CircuitId) -> Vec<u8> {
    let vectors: serde_json::Value = serde_json::from_str(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fixtures/vectors/filecoin.json"
    )))
    .expect("the vectors are JSON");
    let name = if circuit == CircuitId::porep(SectorSize::Kib2) {
        "porep_vk"
    } else {
        "window_vk"
    };
    let text = vectors["sectors"]["2KiB"][name].as_str().expect("a key");
    hex::decode(text).expect("hex")
}
