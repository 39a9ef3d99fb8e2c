//! One run: an event queue, a network that loses, delays, reorders, duplicates and parts, machines that die, and the checks.
//!
//! After every block, on every node: no two nodes have different blocks or states at one height, and nothing that a node called
//! final is missing after its crash; once per block, every invariant of the whole state and of what led to it (I1 to I14 of
//! `chain.md` §16, [`crate::replay`]), no honest provider found faulty, and a time that no single clock has moved. At the end, after a calm spell: everybody is at the same tip, and the chain has not stood still.
//! One censor among four leaves no provider faulty (`threat-model.md` V4) unless others are away at once: where it made every
//! block of a window for which the provider's post was in the mempool of somebody else, the fault is counted
//! ([`Report::lost_to_censors`]). A post that was never sent is nobody's fault but its provider's.
//!
//! A sector of a block log or journal that rots stops its node at the latest when it starts again (`threat-model.md` H3); that it
//! starts all the same is a failure. Then its operator puts the file back from a copy, or gives it an empty disk. Who lost its
//! journal does not know what it said, so it follows under another key until the height that it may have voted in is over.
//!
//! Where epochs follow the beacon's clock ([`Scenario::follows_beacon`]), rounds come from relays that may all be away, and
//! [`crate::epochs`] checks what is said of stamps and dark epochs; else epochs are heights, and a clock only stamps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chain_lite::account::Address;
use chain_lite::beacon::{BeaconParams, DevnetSigner};
use chain_lite::block::BlockId;
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::{self, ClockMode, Tick};
use chain_lite::events::{Event as ChainEvent, FaultReason};
use chain_lite::genesis::{CheckedGenesis, CircuitKey, GENESIS_VERSION, Genesis, NetworkKind};
use chain_lite::governance::{self, JailReason};
use chain_lite::invariants;
use chain_lite::ledger::{CommittedBlock, Ledger, MAX_TIME_AHEAD_MS};
use chain_lite::mempool::Mempool;
use chain_lite::message::{CheckedTx, Message as Msg, Tx};
use chain_lite::params::ChainParams;
use chain_lite::query;
use chain_lite::state::{KvRead, StoreError};
use chain_lite::store::{MemoryIndex, View};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use chain_lite::vfs::Vfs as _;
use chain_lite_bft::parts::Part;
use ed25519_dalek::SigningKey;
use malachite_core_consensus::SignedConsensusMsg;
use malachite_core_types::{NilOrVal, Timeout};
use prover::SectorNumber;
use prover::snark::CircuitId;
use prover::spec::SectorSize;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::actors::{self, Actors, Manner};
use crate::disk::{Rot, SimDisk, Struck, UNREADABLE};
use crate::epochs::{self, Epochs, Relays};
use crate::node::{HOME, Held, Identity, Message, Node, Out};
use crate::replay::Replay;
use crate::stub::Stub;

/// Milliseconds between blocks: production's epoch.
pub const EPOCH_MS: u64 = 30_000;
/// Virtual Unix time at which runs begin.
const START_MS: u64 = 1_700_000_000_000;
/// Milliseconds without faults at the end.
const CALM_MS: u64 = 5 * 60_000;
/// How far a clock jumps.
const HOUR_MS: i64 = 3_600_000;
/// How long a key runs on two machines at the least.
const LEAST_VISIT_MS: u64 = 5 * 60_000;
/// How long a validator waits at most for its clock beyond an epoch, and between two looks at it (`chain_lite_bft::net`).
const CLOCK_BEHIND_MS: u64 = 60_000;
const LOOK_MS: u64 = 200;
/// How far a clock may always be off.
const DRIFT_MS: i64 = 3_000;
/// Kinds of trouble that are counted.
pub const TROUBLES: usize = 12;
/// What nodes say of files that rotted, besides damage that they name so: of the first bytes of a log, and of a kept proposal when
/// its block is decided.
const NO_LOG: &str = "neither a block log nor an export";
const NO_BODY: &str = "its body is not here";
/// What a node says of a journal with votes under its key that are not its own.
const NOT_OURS: &str = "does not match the recorded one";
/// How often nodes tell their height.
const STATUS_MS: u64 = 2_000;

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
    /// Whether validators change their set now and then, a fifth one comes and goes, and who votes twice is jailed.
    pub governance: bool,
    /// How many validators, the last ones, leave window PoSts and deals of honest providers out of their blocks.
    pub censors: usize,
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
    /// every fourth, half of them with twins and half without any. In every second one of the four censors, the one with twins.
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
            governance: matches!(seed % 8, 5 | 7),
            censors: usize::from(seed % 2 == 1),
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

/// What a run was like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Height reached by all.
    pub height: u64,
    /// State root there.
    pub root: [u8; 32],
    /// Digest of everything that happened, in order.
    pub trace: [u8; 32],
    /// Crashes, each with a recovery.
    pub crashes: u64,
    /// Recoveries that did not come to their end: the power failed again, or the disk.
    pub broken_boots: u64,
    /// With [`Scenario::cut`]: changes that the first recovery makes until the next block is final, or until it is cut itself.
    pub recovery: u64,
    /// Whether that recovery was cut.
    pub recovery_cut: bool,
    /// What came of each: kills; power cuts, full disks and failing disks that struck a change; partitions, times of loss; clocks off
    /// by seconds, by an hour ahead, by an hour back, such jumps of a machine that is down; sectors of a log or journal that
    /// rotted, and of a kept proposal.
    pub troubles: [u64; TROUBLES],
    /// Nodes that said of a file that it rotted and were given a copy of their log or journal, an empty disk, a kept proposal.
    pub rot_found: [u64; 3],
    /// Files that a power cut left torn.
    pub torn: u64,
    /// Changes of names that were not synced, and that a power cut kept.
    pub names: u64,
    /// Messages that were lost on their way.
    pub lost: u64,
    /// Messages that came twice.
    pub doubled: u64,
    /// Messages that came after one that was sent later.
    pub overtaken: u64,
    /// Votes that contradict each other, as often as a node saw two.
    pub evidence: u64,
    /// Transactions in blocks.
    pub txs: u64,
    /// Window PoSts accepted.
    pub posts: u64,
    /// Sectors found faulty: of providers that lost or cheated, or that were censored out.
    pub faults: u64,
    /// How often a window PoSt or deal waited while a censor's block left it out.
    pub censored: u64,
    /// Sectors of honest providers that were found faulty because a censor made every block for which their post waited, to the close of its window:
    /// whose, and the window's close.
    pub lost_to_censors: Vec<(usize, Epoch)>,
    /// Messages in blocks whose proof was none: all were refused.
    pub refused: u64,
    /// Deals published.
    pub deals: u64,
    /// Rounds beyond the first in which blocks were decided.
    pub later_rounds: u64,
    /// Changes of the set by its validators.
    pub changes: u64,
    /// Validators that were jailed, one of them as often as it was.
    pub jailed: u64,
    /// Under the beacon's clock: times at which all relays went away, blocks that were proposed meanwhile, and dark epochs.
    pub outages: u64,
    /// See [`Report::outages`].
    pub without_rounds: u64,
    /// See [`Report::outages`].
    pub dark: u64,
    /// Proposals that were stamped more than half an epoch into the past: nobody may vote for them.
    pub backdated: u64,
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed: the same code and seed fail again.
    pub seed: u64,
    /// Virtual milliseconds since the beginning.
    pub at_ms: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} at {:.1} s, commit {}: {}",
            self.seed,
            self.at_ms as f64 / 1000.0,
            commit(),
            self.what
        )
    }
}

impl std::error::Error for Failure {}

/// The checked out commit, if git knows it.
fn commit() -> String {
    let asked = std::process::Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    asked.ok().filter(|out| out.status.success()).map_or_else(
        || "unknown".into(),
        |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

/// Runs a scenario from a seed.
pub fn run(seed: u64, scenario: &Scenario) -> Result<Report, Failure> {
    let mut world = World::new(seed, scenario);
    let done = world.go();
    done.map_err(|what| Failure {
        seed,
        at_ms: world.now,
        what,
    })
}

enum Event {
    Deliver {
        to: usize,
        boots: u64,
        from: usize,
        /// When it was sent, as everything is counted.
        sent: u64,
        message: Box<Message>,
    },
    Timer {
        node: usize,
        boots: u64,
        height: u64,
        timeout: Timeout,
    },
    Pace {
        node: usize,
        boots: u64,
    },
    Status {
        node: usize,
        boots: u64,
    },
    Boot {
        node: usize,
    },
    /// Somebody mends the network, if this is still the partition that it was (as they are counted).
    Heal {
        partition: u64,
    },
    /// Somebody sets a clock right.
    SetClock {
        node: usize,
    },
    /// A second machine of one key comes or goes, if it is time.
    Twin,
    Trouble,
    /// A proposer that could make no block yet looks at its clock again.
    Ask {
        node: usize,
        boots: u64,
    },
    /// All relays go away for so many milliseconds, or are back if it is time.
    NoRounds {
        span_ms: u64,
    },
    Rounds,
}

/// Where the second machine of a key is that has one for a while.
#[derive(Clone, Copy)]
enum Visit {
    ToCome,
    /// Virtual milliseconds.
    Since(u64),
    /// Height at which it was stopped.
    Over(u64),
}

/// How long a partition may last, in milliseconds: most of them, and some. Two against two the chain stands, and an hour of which it
/// stood for most would show little else.
const MENDED_MS: [u64; 2] = [600_000, 1_800_000];

/// What breaks.
#[derive(Clone, Copy)]
enum Trouble {
    Kill,
    /// A machine comes back with another clock than it went with.
    KillAndJump,
    Cut,
    Full,
    Failing,
    Partition,
    Loss,
    Drift,
    Jump {
        ahead: bool,
    },
    RotVital,
    RotKept,
    /// Only under the beacon's clock.
    NoRounds,
    /// Network and links are well again.
    Heal,
}

/// Each comes as often as it stands here before any comes again, so that an hour, which has 18 troubles at the least, has all. Under
/// the beacon's clock [`Trouble::NoRounds`] is one more.
const DECK: [Trouble; 15] = [
    Trouble::Kill,
    Trouble::Kill,
    Trouble::KillAndJump,
    Trouble::Cut,
    Trouble::Full,
    Trouble::Failing,
    Trouble::Partition,
    Trouble::Partition,
    Trouble::Loss,
    Trouble::Drift,
    Trouble::Jump { ahead: true },
    Trouble::Jump { ahead: false },
    Trouble::RotVital,
    Trouble::RotKept,
    Trouble::Heal,
];

struct Machine {
    who: Identity,
    disk: SimDisk,
    /// Derived from the block log; lost with some crashes.
    index: MemoryIndex,
    node: Option<Node>,
    boots: u64,
    /// When its next height may begin.
    due: u64,
    /// How far its clock is off, in milliseconds.
    skew: i64,
    /// Newest height that it called final; it must never know less.
    final_height: u64,
    /// A log or journal that rotted, and that nobody has missed yet.
    rotten: Option<PathBuf>,
    /// Kept proposals that rotted.
    spoilt: BTreeSet<PathBuf>,
    /// It lost its journal: until this height is over it has no key to vote with.
    follows_until: Option<u64>,
    /// Under the beacon's clock: since when it waits for the next height, and whether it is to look at its clock again.
    waits_since: Option<u64>,
    looks: bool,
    asks: bool,
}

impl Machine {
    /// Who it is now.
    fn identity(&self) -> Identity {
        let mut who = self.who.clone();
        if self.follows_until.is_some() {
            who.key = SigningKey::from_bytes(&[200 + who.index as u8; 32]);
        }
        who
    }
}

struct World<'a> {
    scenario: &'a Scenario,
    rng: ChaCha8Rng,
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    machines: Vec<Machine>,
    /// Which side of a split each machine is on.
    side: Vec<u8>,
    loss: f64,
    actors: Actors,
    /// Transactions that a node was given since it started.
    sent: BTreeSet<(usize, u64, Address, u64)>,
    /// Keys that may be in the set: those of genesis and a spare one.
    keys: Vec<SigningKey>,
    chain: BTreeMap<u64, (BlockId, [u8; 32])>,
    /// Everything up to `seen`, applied again.
    replay: Replay,
    seen: u64,
    /// Heights whose block a censor proposed.
    by_censors: BTreeSet<u64>,
    /// Sectors whose post waits in a mempool that censors have no part in: provider, number, close; and the first block that left it
    /// there.
    waits: BTreeMap<(usize, SectorNumber, Epoch), u64>,
    /// With [`Scenario::cut`]: the operation of the first disk after which its recovery begins, while it goes on.
    recovers_from: Option<u64>,
    /// What breaks next, the last one first.
    deck: Vec<Trouble>,
    /// A kept proposal is to rot as soon as there is one.
    spoil: Option<Rot>,
    twin: Visit,
    /// The newest message that came from one node to another.
    newest: BTreeMap<(usize, usize), u64>,
    trace: Sha256,
    report: Report,
    honest: BTreeSet<usize>,
    /// Under the beacon's clock: where rounds come from, until when they do not, and what epochs were like.
    beacon: Option<(Relays, u64, Epochs)>,
}

type Outcome<T = ()> = Result<T, String>;

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

impl<'a> World<'a> {
    fn new(seed: u64, scenario: &'a Scenario) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let stub = Stub::new(rng.r#gen());
        let keys: Vec<SigningKey> = (0..scenario.validators)
            .map(|n| SigningKey::from_bytes(&[100 + n as u8; 32]))
            .collect();
        let beacon = DevnetSigner::from_seed(&[9; 32]);
        let people = actors::keys(scenario.providers.len() + scenario.clients);
        let genesis = checked(&keys, &people, &beacon, scenario.follows_beacon);
        let lookback = genesis.genesis().params.post_lookback;
        let oldest_ms = EPOCH_MS / 2 + DRIFT_MS.unsigned_abs();
        let followed = scenario.follows_beacon.then(|| {
            let schedule = genesis.beacons();
            let relays = Relays::new(schedule.clone(), scenario.early_ms);
            (
                relays,
                0,
                Epochs::new(schedule.clone(), lookback, oldest_ms),
            )
        });
        let chain = genesis.chain_id();
        let mut actors = Actors::new(
            chain,
            genesis.genesis().params.clone(),
            stub,
            &scenario.providers,
            scenario.clients,
        );
        if let Some((provider, close)) = scenario.forgets {
            actors.forget(provider, close);
        }
        let spare = scenario
            .governance
            .then(|| SigningKey::from_bytes(&[99; 32]));
        let twin = (scenario.twins != Twins::Never).then(|| keys[keys.len() - 1].clone());
        let keys: Vec<SigningKey> = keys.into_iter().chain(spare).collect();
        let held = Held::default();
        let machines: Vec<Machine> = keys
            .iter()
            .cloned()
            .chain(twin)
            .enumerate()
            .map(|(index, key)| Machine {
                who: Identity {
                    index,
                    key,
                    genesis: genesis.clone(),
                    verifier: Arc::new(match scenario.credulous {
                        true => stub.credulous(),
                        false => stub,
                    }),
                    beacon: beacon.clone(),
                    relays: followed.as_ref().map(|(relays, _, _)| relays.clone()),
                    // A second machine of the last one's key stands behind it, and a spare validator.
                    backdates: scenario.backdaters > 0
                        && index + scenario.backdaters >= scenario.validators,
                    held: held.clone(),
                    reports: scenario.governance,
                },
                disk: SimDisk::default(),
                index: MemoryIndex::default(),
                node: None,
                boots: 0,
                due: 0,
                skew: 0,
                final_height: 0,
                waits_since: None,
                looks: false,
                asks: false,
                rotten: None,
                spoilt: BTreeSet::new(),
                follows_until: None,
            })
            .collect();
        let replay = Replay::new(&genesis, machines[0].who.verifier.clone());
        let honest = (0..scenario.providers.len())
            .filter(|p| scenario.providers[*p] == Manner::Honest)
            .collect();
        Self {
            scenario,
            rng,
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            side: vec![0; machines.len()],
            machines,
            loss: 0.0,
            actors,
            sent: BTreeSet::new(),
            keys,
            chain: BTreeMap::new(),
            replay,
            seen: 0,
            by_censors: BTreeSet::new(),
            waits: BTreeMap::new(),
            recovers_from: None,
            deck: Vec::new(),
            spoil: None,
            twin: Visit::ToCome,
            newest: BTreeMap::new(),
            trace: Sha256::new(),
            report: Report {
                seed,
                height: 0,
                root: [0; 32],
                trace: [0; 32],
                crashes: 0,
                broken_boots: 0,
                recovery: 0,
                recovery_cut: false,
                troubles: [0; TROUBLES],
                rot_found: [0; 3],
                torn: 0,
                names: 0,
                lost: 0,
                doubled: 0,
                overtaken: 0,
                evidence: 0,
                txs: 0,
                posts: 0,
                faults: 0,
                censored: 0,
                lost_to_censors: Vec::new(),
                refused: 0,
                deals: 0,
                later_rounds: 0,
                changes: 0,
                jailed: 0,
                outages: 0,
                without_rounds: 0,
                dark: 0,
                backdated: 0,
            },
            honest,
            beacon: followed,
        }
    }

    fn go(&mut self) -> Outcome<Report> {
        if let Some(cut) = self.scenario.cut {
            self.machines[0].disk.cut_at(cut);
        }
        for node in 0..self.machines.len() {
            let at = self.rng.gen_range(0..500);
            self.at(at, Event::Boot { node });
        }
        if self.scenario.faults {
            self.at(10_000, Event::Trouble);
            if self.scenario.twins == Twins::ForAWhile {
                let after = self.rng.gen_range(3..20) * 60_000;
                self.at(after, Event::Twin);
            }
        }
        if let Some((from, until)) = self.scenario.no_rounds {
            let span_ms = until.saturating_sub(from);
            self.at(from, Event::NoRounds { span_ms });
        }
        let end = self.scenario.span_ms;
        while let Some(Reverse((at, order))) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            if let Some((relays, _, _)) = &self.beacon {
                relays.is_now(START_MS + at);
            }
            if let Some(event) = self.events.remove(&order) {
                self.happen(event)?;
            }
        }
        self.finish()
    }

    fn at(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + after, self.order)));
        self.events.insert(self.order, event);
    }

    fn clock(&self, node: usize) -> u64 {
        let always = self.scenario.clocks.get(node).copied().unwrap_or(0);
        (START_MS + self.now).saturating_add_signed(self.machines[node].skew + always)
    }

    fn is_calm(&self) -> bool {
        self.now + CALM_MS >= self.scenario.span_ms
    }

    fn mark(&mut self, what: &[&[u8]]) {
        self.trace.update(self.now.to_le_bytes());
        what.iter().for_each(|bytes| self.trace.update(bytes));
    }

    fn happen(&mut self, event: Event) -> Outcome {
        match event {
            Event::Boot { node } => self.boot(node),
            Event::Deliver {
                to,
                boots,
                from,
                sent,
                message,
            } => {
                let now = self.clock(to);
                let newest = self.newest.entry((from, to)).or_default();
                self.report.overtaken += u64::from(sent < *newest);
                *newest = sent.max(*newest);
                if let Some(running) = self.running(to, boots) {
                    running.receive(from, *message, now);
                }
                self.collect(to)
            }
            Event::Timer {
                node,
                boots,
                height,
                timeout,
            } => {
                let now = self.clock(node);
                if let Some(running) = self.running(node, boots).filter(|n| {
                    n.ledger().tip().height + 1 == height || n.ledger().tip().height == height
                }) {
                    running.timer(timeout, now);
                }
                self.collect(node)
            }
            Event::Pace { node, boots } => self.pace(node, boots),
            Event::Status { node, boots } => {
                self.status(node, boots);
                Ok(())
            }
            Event::Heal { partition } => {
                if self.report.troubles[4] == partition {
                    self.side.fill(0);
                }
                Ok(())
            }
            Event::SetClock { node } => {
                self.machines[node].skew = 0;
                Ok(())
            }
            Event::Twin => {
                self.visit();
                Ok(())
            }
            Event::Trouble => self.trouble(),
            Event::Ask { node, boots } => {
                let now = self.clock(node);
                if let Some(running) = self.running(node, boots) {
                    running.ask_again(now);
                    self.machines[node].asks = false;
                }
                self.collect(node)
            }
            Event::NoRounds { span_ms } => {
                if let Some((relays, until, _)) = &mut self.beacon {
                    relays.go(true);
                    *until = self.now + span_ms;
                    self.report.outages += 1;
                    self.at(span_ms, Event::Rounds);
                }
                Ok(())
            }
            Event::Rounds => {
                if let Some((relays, until, _)) = &self.beacon {
                    relays.go(*until > self.now);
                }
                Ok(())
            }
        }
    }

    fn running(&mut self, node: usize, boots: u64) -> Option<&mut Node> {
        let machine = &mut self.machines[node];
        machine.node.as_mut().filter(|_| machine.boots == boots)
    }

    fn boot(&mut self, node: usize) -> Outcome {
        let now = self.clock(node);
        let is_away = self.scenario.twins == Twins::ForAWhile
            && self.is_second(node)
            && !matches!(self.twin, Visit::Since(_));
        let machine = &mut self.machines[node];
        if machine.node.is_some() || is_away {
            return Ok(());
        }
        machine.boots += 1;
        let boots = machine.boots;
        let who = machine.identity();
        // Who comes back is told what waits before its turn may come. Gossip takes up to half a minute for it; windows here are a few
        // blocks long, and a turn without anything to take would be a good part of one.
        let waits = self.waiting_for(node);
        let machine = &mut self.machines[node];
        match Node::boot(&who, &machine.disk, &machine.index, boots, now, waits) {
            Ok(running) => {
                // Every byte of the log is checked at every start.
                if let Some(path) = machine.rotten.as_ref().filter(|path| is_log(path)) {
                    return Err(format!("node {node} starts on a rotten {}", path.display()));
                }
                if running.failed().is_none() {
                    // A journal of a height that is over goes unread.
                    machine.rotten = None;
                }
                let height = running.ledger().tip().height;
                if height < machine.final_height {
                    return Err(format!(
                        "node {node} called block {} final and came back with {height}",
                        machine.final_height
                    ));
                }
                machine.node = Some(running);
                machine.due = self.now + EPOCH_MS;
                (machine.waits_since, machine.looks, machine.asks) = (None, false, false);
            }
            // The power may fail again while it starts, or the disk say no.
            Err(error) => {
                self.report.broken_boots += 1;
                return self.die(node, &text(error));
            }
        }
        self.mark(&[b"boot", &node.to_le_bytes()]);
        self.at(STATUS_MS, Event::Status { node, boots });
        self.collect(node)
    }

    /// A machine stops; it is started again after a while.
    fn die(&mut self, node: usize, why: &str) -> Outcome {
        self.call_off(node);
        let machine = &mut self.machines[node];
        if machine.node.is_none() && !machine.disk.is_dead() && self.scenario.cut.is_some() {
            return Err(format!("node {node} does not start: {why}"));
        }
        machine.node = None;
        machine.boots += 1;
        let mut rng = ChaCha8Rng::seed_from_u64(self.rng.r#gen());
        let is_cut = machine.disk.is_dead();
        machine.disk.crash(&mut rng);
        // A log whose last record rots while its index is lost is one that was being written.
        if rng.gen_bool(0.2) && machine.rotten.is_none() {
            machine.index = MemoryIndex::default();
        }
        if !is_cut {
            self.restore(node, why)?;
        }
        if let Some(from) = self.recovers_from.take() {
            self.report.recovery = self.machines[node].disk.operations() - from;
            self.report.recovery_cut = true;
        } else if self.scenario.cut.is_some() && self.report.crashes == 0 {
            let disk = &self.machines[node].disk;
            let from = disk.operations();
            self.recovers_from = Some(from);
            if let Some(again) = self.scenario.cut_again {
                disk.cut_at(from + again);
            }
        }
        self.report.crashes += 1;
        self.mark(&[b"die", &node.to_le_bytes()]);
        // One of two machines with one key may refuse its journal at every start.
        let twin = self.scenario.twins != Twins::Never && node + 1 >= self.scenario.validators;
        let after = match self.is_calm() && !twin {
            true => 1_000,
            false => self.rng.gen_range(500..60_000),
        };
        self.at(after, Event::Boot { node });
        Ok(())
    }

    /// What was ordered of a disk and has not come comes again.
    fn call_off(&mut self, node: usize) {
        let (cut, failure) = self.machines[node].disk.ordered();
        self.deck.extend(cut.then_some(Trouble::Cut));
        self.deck.extend(failure.map(|kind| match kind {
            io::ErrorKind::StorageFull => Trouble::Full,
            _ => Trouble::Failing,
        }));
    }

    /// A node that does not go on because a file rotted: its operator puts it back, or begins anew. Everything else is over with
    /// the next start.
    fn restore(&mut self, node: usize, why: &str) -> Outcome {
        if let (true, Visit::Over(left)) = (why.contains(NOT_OURS), self.twin) {
            // Its own journal holds what the other machine said.
            let next = self.machines[node].final_height.max(left) + 1;
            if self.is_twin(&self.id_of(node)) {
                self.follow(node, next);
            }
            return Ok(());
        }
        let is_rot = ["damaged", UNREADABLE, NO_LOG, NO_BODY];
        if !is_rot.iter().any(|said| why.contains(said)) {
            return Ok(());
        }
        let alone = self.others_are_enough(node);
        let machine = &mut self.machines[node];
        if machine.rotten.take().is_some() {
            let Some(tip) = alone.filter(|_| self.rng.gen_bool(0.5)) else {
                machine.disk.repair();
                self.report.rot_found[0] += 1;
                return Ok(());
            };
            count(&mut self.report, machine.disk.struck());
            (machine.disk, machine.index) = Default::default();
            machine.final_height = 0;
            // It may have voted for the block after the newest one.
            machine.follows_until = Some(tip + 1);
            self.report.rot_found[1] += 1;
            return Ok(());
        }
        if machine.spoilt.is_empty() {
            return Err(format!("node {node} complains of a sound disk: {why}"));
        }
        self.report.rot_found[2] += 1;
        match why.contains(NO_BODY) {
            true => self.replace_body(node),
            false => {
                // What cannot be read is not there.
                let spoilt = machine.spoilt.iter();
                let there = spoilt.filter(|path| machine.disk.len(path).is_ok());
                there.for_each(|path| drop(machine.disk.remove(path)));
            }
        }
        Ok(())
    }

    /// A node has decided a block whose body rotted, and does so again whenever it starts: its operator takes the body from another
    /// validator; where all others are beyond it, the node follows through this height, which is over.
    fn replace_body(&mut self, node: usize) {
        let next = self.machines[node].final_height + 1;
        let is_over =
            (0..self.machines.len()).any(|n| n != node && self.machines[n].final_height >= next);
        let proposals = Path::new(HOME).join("undecided");
        if !is_over {
            for other in (0..self.machines.len()).filter(|n| *n != node) {
                let kept = self.machines[other].disk.list(&proposals);
                for (name, _) in kept.unwrap_or_default() {
                    let path = proposals.join(name);
                    let body = self.machines[other].disk.read_all(&path);
                    let ours = &self.machines[node].disk;
                    if !ours.has(&path) && !body.is_empty() {
                        ours.put(&path, &body);
                    }
                }
            }
            return;
        }
        self.follow(node, next);
    }

    /// A node goes on without its journal, and without a vote until this height is over.
    fn follow(&mut self, node: usize, until: u64) {
        let machine = &mut self.machines[node];
        for dir in ["undecided", "journal"].map(|dir| Path::new(HOME).join(dir)) {
            for (name, _) in machine.disk.list(&dir).unwrap_or_default() {
                drop(machine.disk.remove(&dir.join(name)));
            }
            drop(machine.disk.sync_names(&dir.join("any")));
        }
        machine.follows_until = Some(until);
    }

    /// The newest height, if the next block can be decided without this machine, and without a key that has two.
    fn others_are_enough(&self, node: usize) -> Option<u64> {
        let tip = *self.chain.last_key_value()?.0;
        let mut running = self.machines.iter().filter_map(|m| m.node.as_ref());
        let newest = running.find(|n| n.ledger().tip().height == tip)?;
        let set = newest.ledger().validators();
        let lost: BTreeSet<ValidatorId> = (0..self.machines.len())
            .map(|n| self.id_of(n))
            .filter(|id| *id == self.id_of(node) || self.is_torn(id))
            .collect();
        let of = |id: &ValidatorId| set.power_of(id).unwrap_or(0);
        let lost: u64 = lost.iter().map(of).sum();
        (3 * lost < set.total_power()).then_some(tip)
    }

    /// Does what a node wants done.
    fn collect(&mut self, node: usize) -> Outcome {
        if let Some(how) = self.spoil {
            self.spoil(node, how);
        }
        let Some(running) = self.machines[node].node.as_mut() else {
            return Ok(());
        };
        let out = running.out();
        if let Some(why) = running.failed().map(str::to_owned) {
            return self.die(node, &why);
        }
        let (height, waits) = (running.ledger().tip().height + 1, running.is_waiting());
        let boots = self.machines[node].boots;
        for out in out {
            match out {
                Out::Broadcast(message) => {
                    self.may_be_said(node, &message)?;
                    if let (Some((relays, _, epochs)), Message::Part { part, .. }) =
                        (&mut self.beacon, &message)
                        && let Part::Init { init, .. } = part
                    {
                        epochs.proposed(init.block, START_MS + self.now, relays.are_away());
                    }
                    self.broadcast(node, message);
                }
                Out::Timer(timeout, after) => {
                    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                    self.at(
                        after,
                        Event::Timer {
                            node,
                            boots,
                            height,
                            timeout,
                        },
                    );
                }
                Out::Decided(height) => self.decided(node, height)?,
                Out::Backdated => self.report.backdated += 1,
                Out::Evidence(a, b) => {
                    if !self.is_twin(&a.message.validator.0)
                        || a.message.validator != b.message.validator
                    {
                        return Err(format!("{} contradicted itself", a.message.validator));
                    }
                    self.report.evidence += 1;
                }
            }
        }
        if self.beacon.is_some() {
            self.look(node, boots, waits);
        } else if waits {
            let after = match self.machines[node]
                .node
                .as_ref()
                .is_some_and(Node::is_catching_up)
            {
                true => 0,
                false => self.machines[node].due.saturating_sub(self.now),
            };
            self.at(after, Event::Pace { node, boots });
        }
        Ok(())
    }

    /// Under the beacon's clock a validator looks at its own again and again, whether the next height or its block is due.
    fn look(&mut self, node: usize, boots: u64, waits: bool) {
        let now = self.now;
        let machine = &mut self.machines[node];
        machine.waits_since = match waits {
            true => machine.waits_since.or(Some(now)),
            false => None,
        };
        let asked = machine.node.as_ref().is_some_and(Node::is_asked);
        let (looks, asks) = (waits && !machine.looks, asked && !machine.asks);
        machine.looks |= waits;
        machine.asks |= asked;
        if looks {
            self.at(0, Event::Pace { node, boots });
        }
        if asks {
            self.at(LOOK_MS, Event::Ask { node, boots });
        }
    }

    /// Until when its clock, or the beacon, says that the next height may not begin, for a while at least. As `chain_lite_bft::net`
    /// has it: who catches up waits for nothing, and whose clock seems to be behind for no longer than a minute and an epoch.
    fn has_to_wait(&mut self, node: usize, clock: u64) -> Option<u64> {
        let machine = &mut self.machines[node];
        let (running, since) = (machine.node.as_mut()?, machine.waits_since?);
        let long = self.now >= since + EPOCH_MS + CLOCK_BEHIND_MS;
        if long || running.is_catching_up() || running.is_due(clock) {
            return None;
        }
        let schedule = machine.who.genesis.beacons();
        let parent = running.ledger().tip().epoch;
        match clock::beacon_tick(schedule, parent, clock) {
            Tick::Wait(ms) => Some(ms.min(5 * LOOK_MS)),
            Tick::Due(_) | Tick::Held(_) => Some(LOOK_MS),
        }
    }

    /// A vote for a block binds its validator: if the power fails now, the body must be there.
    fn may_be_said(&self, node: usize, message: &Message) -> Outcome {
        let Message::Consensus(SignedConsensusMsg::Vote(vote)) = message else {
            return Ok(());
        };
        let machine = &self.machines[node];
        let tip = machine.node.as_ref().map(|n| n.ledger().tip().height);
        let is_decided = tip.is_some_and(|tip| vote.message.height.0 <= tip);
        match &vote.message.value {
            NilOrVal::Val(id) if !is_decided => {
                let name = hex::encode(id.0);
                let is_of = |path: &PathBuf| path.to_string_lossy().ends_with(&name);
                match machine.disk.keeps(&name) || machine.spoilt.iter().any(is_of) {
                    true => Ok(()),
                    false => Err(format!(
                        "node {node} votes for block {id}, which it does not keep"
                    )),
                }
            }
            _ => Ok(()),
        }
    }

    /// The next height begins when its block is due.
    fn pace(&mut self, node: usize, boots: u64) -> Outcome {
        let (now, clock) = (self.now, self.clock(node));
        if self.beacon.is_some() && self.machines[node].boots == boots {
            if let Some(after) = self.has_to_wait(node, clock) {
                self.at(after, Event::Pace { node, boots });
                return Ok(());
            }
            self.machines[node].looks = false;
        }
        let machine = &mut self.machines[node];
        let Some(running) = machine
            .node
            .as_mut()
            .filter(|n| machine.boots == boots && n.is_waiting())
        else {
            return Ok(());
        };
        (machine.due, machine.waits_since) = (now + EPOCH_MS, None);
        running.begin_height(clock);
        self.collect(node)
    }

    fn reaches(&mut self, from: usize, to: usize) -> bool {
        if from == to || self.side[from] != self.side[to] {
            return false;
        }
        let lost = self.rng.gen_bool(self.loss);
        self.report.lost += u64::from(lost);
        !lost
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let copies = 1 + usize::from(self.loss > 0.0 && self.rng.gen_bool(0.05));
        self.report.doubled += copies as u64 - 1;
        let sent = self.order;
        for _ in 0..copies {
            let delay = self.rng.gen_range(5..150)
                + u64::from(self.rng.gen_bool(0.02)) * self.rng.gen_range(0..2_000);
            let boots = self.machines[to].boots;
            let message = Box::new(message.clone());
            self.at(
                delay,
                Event::Deliver {
                    to,
                    boots,
                    from,
                    sent,
                    message,
                },
            );
        }
    }

    fn broadcast(&mut self, from: usize, message: Message) {
        for to in 0..self.machines.len() {
            if self.reaches(from, to) {
                self.send(from, to, message.clone());
            }
        }
    }

    /// Says where a node is; who is ahead and reachable sends what it lacks.
    fn status(&mut self, node: usize, boots: u64) {
        let Some(height) = self.running(node, boots).map(|n| n.ledger().tip().height) else {
            return;
        };
        let mut others: Vec<usize> = (0..self.machines.len()).collect();
        others.shuffle(&mut self.rng);
        let next = chain_lite_bft::context::Height(height + 1);
        for other in others {
            let ahead = self.machines[other]
                .node
                .as_ref()
                .filter(|n| n.ledger().tip().height > height);
            let values = ahead.and_then(|n| n.decided_values(next));
            if let Some(values) = values
                && self.reaches(other, node)
            {
                self.send(other, node, Message::Values(values));
                break;
            }
        }
        self.at(STATUS_MS, Event::Status { node, boots });
    }

    /// A block is final on a node.
    fn decided(&mut self, node: usize, height: u64) -> Outcome {
        let machine = &mut self.machines[node];
        machine.final_height = height;
        if let Some(from) = self.recovers_from.filter(|_| node == 0) {
            self.recovers_from = None;
            self.report.recovery = machine.disk.operations() - from;
        }
        let Some(ledger) = machine.node.as_ref().map(|n| n.ledger().clone()) else {
            return Ok(());
        };
        let tip = ledger.tip();
        if tip.height != height {
            return Err(format!(
                "node {node} decided block {height} at tip {}",
                tip.height
            ));
        }
        let ours = (tip.id, tip.state_root);
        match self.chain.get(&height) {
            Some(known) if *known != ours => {
                return Err(format!(
                    "fork: node {node} has another block or state {height}"
                ));
            }
            Some(_) => {}
            None => {
                self.chain.insert(height, ours);
            }
        }
        self.mark(&[b"final", &node.to_le_bytes(), &ours.0.0, &ours.1]);
        if self.machines[node].disk.is_dead() {
            // The power failed in something that does not matter, such as clearing away what is decided.
            return self.die(node, "the power fails");
        }
        self.follow_epochs(&ledger, height)?;
        if height > self.seen {
            self.first_seen(&ledger, height)?;
        }
        let machine = &mut self.machines[node];
        if machine.follows_until.is_some_and(|last| last <= height) {
            // Whatever it said once is of a height that is over.
            machine.follows_until = None;
            machine.node = None;
            machine.boots += 1;
            self.call_off(node);
            self.machines[node].disk.restart();
            self.at(500, Event::Boot { node });
        }
        self.submit(node);
        Ok(())
    }

    /// Under the beacon's clock: once per block, what its stamp and its epoch say.
    fn follow_epochs(&mut self, ledger: &chain_lite::ledger::Ledger, height: u64) -> Outcome {
        let Some((_, _, epochs)) = &mut self.beacon else {
            return Ok(());
        };
        if height <= epochs.height() {
            return Ok(());
        }
        for next in epochs.height() + 1..=height {
            epochs.block(&ledger.committed(next).map_err(text)?)?;
        }
        let net = query::totals(&ledger.view()).map_err(text)?;
        let counted = (epochs.tips(), epochs.dark());
        let known = ((net.epoch, net.beacon_tip), net.dark);
        if counted != known {
            return Err(format!(
                "after block {height} the state has {known:?} (epoch, beacon, dark), and its blocks say {counted:?}"
            ));
        }
        (self.report.dark, self.report.without_rounds) = (epochs.dark(), epochs.without_rounds());
        Ok(())
    }

    /// Once per block: invariants, what happened in it, and what everybody does next.
    fn first_seen(&mut self, ledger: &Ledger, height: u64) -> Outcome {
        let view = ledger.view();
        // A node may die between its commit and its word of it: then the next block that somebody tells of is the second one.
        while self.seen < height {
            self.seen += 1;
            let block = ledger.committed(self.seen).map_err(text)?;
            let after = |why: String| format!("after block {}: {why}", block.block.header.height);
            self.replayed(&block, &view).map_err(after)?;
            // Of the newest block it is a node's own state that is checked, indexes included.
            let state: &dyn KvRead = match self.seen == height {
                true => &view,
                false => self.replay.state(),
            };
            let broken = invariants::check(state).map_err(text)?;
            broken
                .first()
                .map_or(Ok(()), |first| Err(after(text(first))))?;
            self.happened(&block)?;
        }
        if self.scenario.governance && self.rng.gen_bool(0.15) {
            self.govern(&view).map_err(text)?;
        }
        self.actors.act(&view, &mut self.rng).map_err(text)
    }

    /// The block applied again, and what that shows.
    fn replayed(&mut self, block: &CommittedBlock, view: &View) -> Outcome {
        let header = &block.block.header;
        let known = query::totals(self.replay.state()).map_err(text)?.beacon_tip;
        let mut beacons = Vec::new();
        let brought = block.block.body.beacons.len() as u64;
        for epoch in (known.0 + 1..=known.0 + brought).map(Epoch) {
            // A newer state still has the values of the last few blocks.
            let value = query::beacon(view, epoch).map_err(text)?;
            beacons.extend(value.map(|value| (epoch, value)));
        }
        let mut txs = Vec::new();
        for signed in &block.block.body.txs {
            // Who sent it checked it already; validators report of themselves.
            let mut sent = self.actors.pending().filter(|tx| tx.signed() == signed);
            txs.push(match sent.next() {
                Some(known) => known.clone(),
                None => signed.clone().check(&header.chain_id).map_err(text)?,
            });
        }
        self.replay.block(block, beacons, &txs)
    }

    /// What happened in a block is counted, and nothing of it is what nobody may see.
    fn happened(&mut self, block: &CommittedBlock) -> Outcome {
        let height = block.block.header.height;
        self.report.txs += block.block.body.txs.len() as u64;
        self.report.later_rounds += u64::from(block.block.header.round > 0);
        // What clocks may be off by, and a proposal ahead of them: one clock that is an hour ahead moves no chain.
        let true_ms = START_MS + self.now;
        let ahead = block.block.header.time_ms.saturating_sub(true_ms);
        if ahead > MAX_TIME_AHEAD_MS + DRIFT_MS.unsigned_abs() {
            return Err(format!("block {height} is stamped {ahead} ms ahead"));
        }
        let proposer = block.block.header.proposer;
        if (0..self.machines.len()).any(|n| self.is_censor(n) && self.id_of(n) == proposer) {
            let hidden = self.actors.pending().filter(|tx| self.is_hidden(tx));
            self.report.censored += hidden.count() as u64;
            self.by_censors.insert(height);
        }
        self.look_who_waits(height);
        for (tx, receipt) in block.block.body.txs.iter().zip(&block.outcomes.receipts) {
            if tx.tx.msgs.iter().any(|m| self.actors.is_lie(m)) {
                if receipt.succeeded() {
                    return Err(format!("block {height} takes a wrong proof"));
                }
                self.report.refused += 1;
            }
        }
        for record in &block.outcomes.events {
            match &record.event {
                ChainEvent::PostAccepted { .. } => self.report.posts += 1,
                ChainEvent::SectorFaulted {
                    provider,
                    sector,
                    reason,
                } => {
                    self.report.faults += 1;
                    let whose = self
                        .actors
                        .providers
                        .iter()
                        .position(|p| p.id == Some(*provider));
                    let Some(whose) = whose.filter(|p| self.honest.contains(p)) else {
                        continue;
                    };
                    let close = block.block.header.epoch;
                    if *reason == FaultReason::Missed
                        && self.is_censored_out(height, (whose, *sector, close))
                    {
                        self.report.lost_to_censors.push((whose, close));
                    } else {
                        return Err(format!(
                            "block {height} finds sector {} of the honest provider {provider} faulty: {reason:?}",
                            sector.0
                        ));
                    }
                }
                ChainEvent::DealPublished { .. } => self.report.deals += 1,
                ChainEvent::ValidatorsChanged { .. } => self.report.changes += 1,
                ChainEvent::ValidatorJailed {
                    validator, reason, ..
                } => {
                    self.report.jailed += 1;
                    if *reason != JailReason::MissedProposals && !self.is_twin(validator) {
                        return Err(format!("block {height} jails {validator}, for {reason:?}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The validators agree on another set: any three of the sound machines or more, with or without the key that has two.
    fn govern(&mut self, view: &View) -> Result<(), StoreError> {
        let Some((_, newest)) = governance::sets(view)? else {
            return Ok(());
        };
        let twin = self.has_twins().then(|| self.scenario.validators - 1);
        let mut wanted: Vec<usize> = (0..self.keys.len()).collect();
        wanted.shuffle(&mut self.rng);
        // Without it there are always three left, and with it three others are a quorum.
        let leaves = self.rng.gen_range(0..2 + usize::from(twin.is_none()));
        let mut gone: Vec<usize> = wanted.into_iter().filter(|n| Some(*n) != twin).collect();
        gone.truncate(leaves);
        if twin.is_some() && self.rng.gen_bool(0.3) {
            gone.extend(twin);
        }
        let of = |n: usize| Validator {
            id: ValidatorId(self.keys[n].verifying_key().to_bytes()),
            power: 1,
        };
        let stays = (0..self.keys.len()).filter(|n| !gone.contains(n));
        let mut validators: Vec<Validator> = stays.map(of).collect();
        validators.sort_by_key(|v| v.id);
        let (chain, number) = (
            self.machines[0].who.genesis.chain_id(),
            governance::changes(view)?,
        );
        let members = self.keys.iter().filter(|key| {
            let id = ValidatorId(key.verifying_key().to_bytes());
            newest.power_of(&id).is_some()
        });
        let approvals = members.map(|key| governance::approve(&chain, number, &validators, key));
        let mut approvals: Vec<_> = approvals.collect();
        approvals.sort_by_key(|a| a.0);
        self.actors.bring(Msg::SetValidators {
            number,
            validators,
            approvals,
        });
        Ok(())
    }

    /// Whether some key runs on two machines, now or once.
    fn has_twins(&self) -> bool {
        self.scenario.twins != Twins::Never
    }

    /// Whether this is the second machine of a key.
    fn is_second(&self, machine: usize) -> bool {
        self.has_twins() && machine + 1 == self.machines.len()
    }

    /// Whether what this key said on another machine may be in its way.
    fn is_torn(&self, id: &ValidatorId) -> bool {
        let stays = match (self.scenario.twins, self.twin) {
            (Twins::Never, _) | (Twins::ForAWhile, Visit::ToCome) => false,
            (Twins::Always, _) | (_, Visit::Since(_)) => true,
            (_, Visit::Over(height)) => self.seen <= height + 1,
        };
        stays && self.is_twin(id)
    }

    /// Whether this key runs on two machines.
    fn is_twin(&self, id: &ValidatorId) -> bool {
        let key = self.machines.last().map(|m| m.who.key.verifying_key());
        self.has_twins() && key.is_some_and(|key| key.to_bytes() == id.0)
    }

    fn id_of(&self, machine: usize) -> ValidatorId {
        ValidatorId(self.machines[machine].who.key.verifying_key().to_bytes())
    }

    /// Whether a machine has the key of a validator that censors.
    fn is_censor(&self, machine: usize) -> bool {
        let (last, of_all) = (self.scenario.censors, self.scenario.validators);
        let twin = self.is_second(machine);
        last > 0 && (((of_all - last.min(of_all))..of_all).contains(&machine) || twin)
    }

    /// Whether a post of this sector waited in time, and censors made every block from then to the close of its window, which is with
    /// this one. That takes more than the censor: the next turn is that of the next round and of the next height alike, so while
    /// others are silent one validator makes several blocks in a row.
    fn is_censored_out(&self, height: u64, sector: (usize, SectorNumber, Epoch)) -> bool {
        let span = self.machines[0].who.genesis.genesis().params.window();
        let by_censors = |h: u64| self.by_censors.contains(&h);
        match &self.beacon {
            // A logical clock: epochs are heights, and who is not late has the whole window.
            None => {
                let mut window = height.saturating_sub(span.0)..height;
                self.waits.contains_key(&sector) && window.all(by_censors)
            }
            // It was open for its lit epochs, and may have closed later than the provider saw when it sent the post. When rounds come
            // again, several epochs are over at once: a post can be there for the window's last blocks only.
            Some((_, _, epochs)) => {
                let first = epochs.window_before(height, span);
                first.is_some_and(|(_, open)| {
                    let closes = |close| (sector.0, sector.1, close);
                    let posts = self.waits.range(closes(open.next())..=closes(sector.2));
                    let since = posts.map(|(_, since)| *since).min();
                    since.is_some_and(|since| {
                        // An honest block that was under way when the post came could not have it.
                        let could = since + u64::from(!by_censors(since));
                        could < height && (could..height).all(by_censors)
                    })
                })
            }
        }
    }

    /// A block was made: which posts of honest providers it leaves waiting, in a mempool that censors have no part in.
    fn look_who_waits(&mut self, height: u64) {
        let sound = (0..self.machines.len()).filter(|n| !self.is_censor(*n));
        let nodes = sound.filter_map(|n| self.machines[n].node.as_ref());
        let pools: Vec<&Mempool> = nodes.map(Node::mempool).collect();
        for whose in &self.honest {
            let waiting = self.actors.providers[*whose].waiting();
            let waiting = waiting.filter(|(id, _)| pools.iter().any(|pool| pool.contains(id)));
            let sectors = waiting.flat_map(|(_, of)| of.sectors.iter().map(|s| (*s, of.close)));
            for (sector, close) in sectors {
                let since = self.waits.entry((*whose, sector, close));
                since.or_insert(height);
            }
        }
    }

    /// What censors leave out: the proofs that an honest provider owes, and deals with it.
    fn is_hidden(&self, tx: &CheckedTx) -> bool {
        let Tx { sender, msgs, .. } = tx.tx();
        let chosen = |m: &Msg| matches!(m, Msg::SubmitPost { .. } | Msg::PublishDeals { .. });
        let mut honest = self.honest.iter().map(|p| &self.actors.providers[*p]);
        msgs.iter().any(chosen) && honest.any(|p| p.wallet.address() == *sender)
    }

    /// Transactions go to every node that is up, and again after every block.
    fn submit(&mut self, node: usize) {
        let Some(running) = self.machines[node].node.as_ref() else {
            return;
        };
        let (tip, view) = (running.ledger().tip().height, running.ledger().view());
        // Once, while nothing is lost; what became a gap or was pushed out is sent again now and then.
        let boots = self.machines[node].boots;
        let censors = self.is_censor(node);
        for tx in self.actors.pending() {
            if censors && self.is_hidden(tx) {
                continue;
            }
            let key = (node, boots, tx.tx().sender, tx.tx().nonce);
            if self.sent.insert(key) || tip.is_multiple_of(4) {
                drop(running.mempool().submit_checked(tx, tip, &view));
            }
        }
    }

    /// What the clients tell a node that comes back.
    fn waiting_for(&self, node: usize) -> Vec<CheckedTx> {
        let censors = self.is_censor(node);
        let waits = self.actors.pending();
        let told = waits.filter(|tx| !censors || !self.is_hidden(tx));
        told.cloned().collect()
    }

    /// Something breaks, or heals.
    fn trouble(&mut self) -> Outcome {
        if self.is_calm() {
            self.side.fill(0);
            self.loss = 0.0;
            self.spoil = None;
            self.machines
                .iter_mut()
                .for_each(|machine| machine.skew = 0);
            return Ok(());
        }
        if self.deck.is_empty() {
            self.deck = DECK.to_vec();
            let more = self.scenario.follows_beacon.then_some(Trouble::NoRounds);
            self.deck.extend(more);
            self.deck.shuffle(&mut self.rng);
        }
        if let Some(next) = self.deck.pop()
            && !self.happens(next)?
        {
            self.deck.insert(0, next);
        }
        self.mark(&[b"trouble"]);
        let after = self.rng.gen_range(10_000..180_000);
        self.at(after, Event::Trouble);
        Ok(())
    }

    /// Whether it could happen now.
    fn happens(&mut self, what: Trouble) -> Outcome<bool> {
        let running: Vec<usize> = (0..self.machines.len())
            .filter(|n| self.machines[*n].node.is_some())
            .collect();
        let Some(node) = running.choose(&mut self.rng).copied() else {
            return Ok(false);
        };
        let disk = &self.machines[node].disk;
        let kind = match what {
            // One at a time.
            Trouble::Cut | Trouble::Full | Trouble::Failing if disk.ordered() != (false, None) => {
                return Ok(false);
            }
            Trouble::Kill => {
                self.die(node, "kill -9")?;
                0
            }
            Trouble::KillAndJump => {
                self.die(node, "kill -9")?;
                let ahead = self.rng.gen_bool(0.5);
                self.report.troubles[0] += 1;
                self.report.troubles[self.jump(node, ahead)] += 1;
                9
            }
            // In the middle of some later write. Disks count what strikes.
            Trouble::Cut => {
                disk.cut_at(disk.operations() + self.rng.gen_range(1..40));
                return Ok(true);
            }
            Trouble::Full => {
                disk.fail_next(io::ErrorKind::StorageFull);
                return Ok(true);
            }
            Trouble::Failing => {
                disk.fail_next(io::ErrorKind::Other);
                return Ok(true);
            }
            Trouble::Partition => {
                for side in &mut self.side {
                    *side = self.rng.gen_range(0..2);
                }
                let alone = self.rng.gen_range(0..self.scenario.validators);
                if self.side.iter().all(|side| *side == self.side[alone]) {
                    self.side[alone] ^= 1;
                }
                let partition = self.report.troubles[4] + 1;
                let longest = MENDED_MS[usize::from(self.rng.gen_bool(0.125))];
                let after = self.rng.gen_range(60_000..longest);
                self.at(after, Event::Heal { partition });
                4
            }
            Trouble::Loss => {
                self.loss = self.rng.gen_range(0.05..0.3);
                5
            }
            Trouble::Drift => {
                self.machines[node].skew = self.rng.gen_range(-DRIFT_MS..DRIFT_MS);
                6
            }
            Trouble::Jump { ahead } => self.jump(node, ahead),
            Trouble::RotVital => return self.rot(node),
            Trouble::RotKept => {
                self.spoil = Some(how_to_rot(&mut self.rng));
                return Ok(true);
            }
            Trouble::NoRounds => {
                let calm = self.scenario.span_ms.saturating_sub(CALM_MS);
                let span_ms = self.rng.gen_range(2..8) * 60_000;
                let span_ms = span_ms.min(calm.saturating_sub(self.now));
                self.at(0, Event::NoRounds { span_ms });
                return Ok(true);
            }
            Trouble::Heal => {
                self.side.fill(0);
                self.loss = 0.0;
                return Ok(true);
            }
        };
        self.report.troubles[kind] += 1;
        Ok(true)
    }

    /// Whether a machine has rotted, or begins anew.
    fn is_recovering(&self) -> bool {
        let busy = |m: &Machine| m.rotten.is_some() || m.follows_until.is_some();
        self.machines.iter().any(busy)
    }

    /// A sector of what a validator may not lose goes bad, on one machine at a time, which is then started again. Whether one did.
    fn rot(&mut self, node: usize) -> Outcome<bool> {
        if self.is_recovering() {
            return Ok(false);
        }
        let how = how_to_rot(&mut self.rng);
        // A journal's last entry that reads wrong cannot be told from one that was being written when the power failed, so a
        // journal rots as most disks have it: with an error.
        let vital = |path: &Path| is_log(path) || (how == Rot::Unreadable && is_journal(path));
        let machine = &mut self.machines[node];
        machine.rotten = machine.disk.rot(how, vital, &mut self.rng);
        if machine.rotten.is_none() {
            return Ok(false);
        }
        self.report.troubles[10] += 1;
        self.die(node, "kill -9")?;
        Ok(true)
    }

    /// A kept proposal goes bad, which its node must do without.
    fn spoil(&mut self, node: usize, how: Rot) {
        let kept = |path: &Path| !is_log(path) && !is_journal(path);
        let machine = &mut self.machines[node];
        if let Some(path) = machine.disk.rot(how, kept, &mut self.rng) {
            machine.spoilt.insert(path);
            self.spoil = None;
            self.report.troubles[11] += 1;
        }
    }

    /// The second machine of a key is started, and stopped when the key has contradicted itself. Not while another machine begins
    /// anew: then three must be able to go on.
    fn visit(&mut self) {
        let node = self.machines.len() - 1;
        match self.twin {
            Visit::ToCome if self.is_calm() => return,
            Visit::ToCome if !self.is_recovering() => {
                self.twin = Visit::Since(self.now);
                self.at(0, Event::Boot { node });
            }
            Visit::Since(came)
                if self.is_calm()
                    || (self.report.evidence > 0 && self.now >= came + LEAST_VISIT_MS) =>
            {
                self.twin = Visit::Over(self.seen);
                self.call_off(node);
                let machine = &mut self.machines[node];
                (machine.node, machine.rotten, machine.follows_until) = (None, None, None);
                machine.boots += 1;
                machine.disk.restart();
                return;
            }
            _ => {}
        }
        self.at(60_000, Event::Twin);
    }

    /// A clock is an hour wrong until somebody sets it right; which kind of trouble that is. One at a time: a block may be stamped
    /// [`MAX_TIME_AHEAD_MS`] ahead of who judges it, so a clock that is wrong by more costs its validator's voice,
    /// and no chain can do without a third of those.
    fn jump(&mut self, node: usize, ahead: bool) -> usize {
        for machine in &mut self.machines {
            if machine.skew.abs() > DRIFT_MS {
                machine.skew = 0;
            }
        }
        let (skew, kind) = if ahead { (HOUR_MS, 7) } else { (-HOUR_MS, 8) };
        self.machines[node].skew = skew;
        let after = self.rng.gen_range(10_000..300_000);
        self.at(after, Event::SetClock { node });
        kind
    }

    fn finish(&mut self) -> Outcome<Report> {
        let last = self
            .chain
            .last_key_value()
            .map(|(height, known)| (*height, *known));
        let Some((height, (_, root))) = last else {
            return Err("not one block was made".into());
        };
        // A key on two machines is the operator's fault: each may refuse its journal because of what the other said.
        let sound = match self.scenario.twins {
            Twins::Always => &self.machines[..self.scenario.validators - 1],
            Twins::ForAWhile => &self.machines[..self.machines.len() - 1],
            Twins::Never => &self.machines[..],
        };
        for machine in sound {
            let at = machine.node.as_ref().map(|n| n.ledger().tip().height);
            // The block that is being decided just now may not have reached everybody.
            if at.is_none_or(|at| at + 1 < height) {
                return Err(format!(
                    "node {} is at {at:?} after the calm, the chain at {height}",
                    machine.who.index
                ));
            }
        }
        if let Some((_, _, epochs)) = &self.beacon {
            let (epoch, beacon_tip) = epochs.tips();
            let behind = (self.scenario.span_ms / EPOCH_MS + 1).saturating_sub(epoch.0);
            if behind > 2 || epoch.since(beacon_tip).0 > 1 {
                return Err(format!(
                    "after the calm the newest block is of epoch {epoch}, {behind} behind, and the newest beacon of {beacon_tip}"
                ));
            }
        }
        let calm_blocks = CALM_MS / EPOCH_MS;
        let least = if self.scenario.faults {
            calm_blocks / 2
        } else {
            self.scenario.span_ms / EPOCH_MS * 9 / 10
        };
        if height < least {
            return Err(format!("only {height} blocks, {least} were expected"));
        }
        for machine in &self.machines {
            count(&mut self.report, machine.disk.struck());
        }
        self.report.height = height;
        self.report.root = root;
        self.report.trace = self.trace.clone().finalize().into();
        Ok(self.report.clone())
    }
}

fn count(report: &mut Report, of: Struck) {
    report.troubles[1] += of.cuts;
    report.troubles[2] += of.full;
    report.troubles[3] += of.failed;
    report.torn += of.torn;
    report.names += of.names;
}

fn how_to_rot(rng: &mut ChaCha8Rng) -> Rot {
    *[Rot::Silent, Rot::Unreadable].choose(rng).expect("two")
}

fn is_log(path: &Path) -> bool {
    path.ends_with("blocks.log")
}

fn is_journal(path: &Path) -> bool {
    path.parent().is_some_and(|dir| dir.ends_with("journal"))
}

/// Checked once for all runs of the process that have as many of each, whose keys are the same: they share what the check found,
/// and what nodes verified of the beacon's rounds.
fn checked(
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
            proving_period: EpochCount(24),
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
