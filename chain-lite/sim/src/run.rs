//! One run: an event queue, and machines that die. What breaks is in [`trouble`], how messages go in [`network`], what
//! is served instead of blocks in [`misleading`], and in [`checks`] what must hold.
//!
//! [`foes`] is what hostile validators do in it, [`forks`] what is left where too many keys run twice, [`honest`] what may cost an honest
//! provider something.
//!
//! A run is a [`Scenario`] and a seed, and ends with a [`Report`] or a [`Failure`].

mod checks;
mod foes;
mod forks;
mod honest;
mod misleading;
mod network;
mod trouble;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::PathBuf;
use std::sync::Arc;

use chain_lite::account::{Address, DealId};
use chain_lite::beacon::DevnetSigner;
use chain_lite::block::BlockId;
use chain_lite::certificate::{Validator, ValidatorId};
use chain_lite::clock::{self, Tick};
use chain_lite::governance;
use chain_lite::message::{CheckedTx, Message as Msg, Tx};
use chain_lite::state::StoreError;
use chain_lite::store::{MemoryIndex, View};
use chain_lite::units::Epoch;
use chain_lite_bft::app::SYNC_BATCH;
use chain_lite_bft::parts::Part;
use ed25519_dalek::SigningKey;
use malachite_core_types::Timeout;
use prover::SectorNumber;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::actors::{self, Actors, Manner};
use crate::disk::{Rot, SimDisk};
use crate::epochs::{Epochs, Relays};
use crate::foes::{FORGED, LIES};
use crate::node::{Held, Identity, Message, Node, Out};
use crate::replay::Replay;
use crate::report::{Failure, Report, TROUBLES};
use crate::scenario::{self, EPOCH_MS, START_MS, Scenario, Twins};
use crate::stub::Stub;
use crate::sync::{self, Counts};
use foes::Foes;
use forks::InHand;
use trouble::{Trouble, Visit, is_log};

/// Milliseconds without faults at the end.
const CALM_MS: u64 = 5 * 60_000;
/// How long a validator waits at most for its clock beyond an epoch, and between two looks at it (`chain_lite_bft::net`).
const CLOCK_BEHIND_MS: u64 = 60_000;
const LOOK_MS: u64 = 200;
/// How far a clock may always be off.
const DRIFT_MS: i64 = 3_000;

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
    /// A node's value sync is to be woken.
    Sync {
        node: usize,
        boots: u64,
        timer: sync::Timer,
    },
    /// A connection is there, or broke; a request finds nobody.
    Connected {
        node: usize,
        boots: u64,
    },
    Disconnected {
        node: usize,
        boots: u64,
        from: usize,
    },
    Refused {
        node: usize,
        boots: u64,
        request: u64,
    },
    /// Connections across this partition break, if it is still there.
    BreakOff {
        partition: u64,
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
    /// Keys that run on two machines, now or once.
    doubled: BTreeSet<ValidatorId>,
    in_hand: InHand,
    foes: Foes,
    /// Open deals of honest providers: whose, and whether each was published too late to be begun.
    deals: BTreeMap<DealId, (usize, bool)>,
    /// Everything up to `seen`, applied again.
    replay: Replay,
    seen: u64,
    /// Heights whose block a censor proposed.
    by_censors: BTreeSet<u64>,
    /// Sectors whose post waits in a mempool that censors have no part in: provider, number, close; and the first block that left it
    /// there.
    waits: BTreeMap<(usize, SectorNumber, Epoch), u64>,
    /// Sectors of honest providers that censors made faulty, until they are proven again; and the blocks in which one cost its fee.
    censored_out: BTreeSet<(usize, SectorNumber)>,
    excused_fees: BTreeSet<(u64, usize)>,
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

fn text(error: impl std::fmt::Display) -> String {
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
        let genesis = scenario::checked(&keys, &people, &beacon, scenario.follows_beacon);
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
        let twins = match scenario.twins {
            Twins::Never => scenario.doubled,
            Twins::ForAWhile | Twins::Always => 1,
        };
        let twins = keys[keys.len() - twins..].to_vec();
        let doubled = twins
            .iter()
            .map(|key| ValidatorId(key.verifying_key().to_bytes()));
        let doubled = doubled.collect();
        let keys: Vec<SigningKey> = keys.into_iter().chain(spare).collect();
        let held = Held::default();
        let machines: Vec<Machine> = keys
            .iter()
            .cloned()
            .chain(twins)
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
                    reports: scenario.reports,
                    seed: rng.r#gen(),
                    // Some ask for little, and serve as little: several requests are under way at once, and others get short answers.
                    batch: match scenario.faults && rng.gen_bool(0.25) {
                        true => 2,
                        false => SYNC_BATCH,
                    },
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
            doubled,
            in_hand: InHand::default(),
            foes: Foes::default(),
            deals: BTreeMap::new(),
            replay,
            seen: 0,
            by_censors: BTreeSet::new(),
            waits: BTreeMap::new(),
            censored_out: BTreeSet::new(),
            excused_fees: BTreeSet::new(),
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
                not_ours: 0,
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
                sync: Counts::default(),
                fork: None,
                kept: 0,
                late: 0,
                lies: [0; LIES],
                forged: 0,
                bad_signatures: 0,
                two_blocks: 0,
                two_votes: 0,
                withheld: 0,
                told_late: 0,
                two_proposals: 0,
                most_kept: 0,
                most_waiting: 0,
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
            if self.report.fork.is_some() {
                return Ok(self.ended());
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
                let seldom = matches!(*message, Message::Status { .. });
                self.in_hand(to, &message);
                if self.running(to, boots).is_some() {
                    self.forge(to, &message);
                }
                let is_forged =
                    matches!(*message, Message::Part { stream, .. } if stream & FORGED != 0);
                let (mut whole, mut quiet) = (false, false);
                if let Some(running) = self.running(to, boots) {
                    whole = running.receive(from, *message, now);
                    quiet = seldom && running.is_quiet();
                }
                if whole && is_forged {
                    return Err(format!(
                        "node {to} takes a block from parts that were forged"
                    ));
                }
                // Most statuses are no news.
                if quiet {
                    return Ok(());
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
            Event::Sync { node, boots, timer } => {
                let now = self.clock(node);
                if let Some(running) = self.running(node, boots) {
                    running.sync_timer(timer, now);
                }
                self.collect(node)
            }
            Event::Connected { node, boots } => {
                if let Some(running) = self.running(node, boots) {
                    running.connected();
                }
                self.collect(node)
            }
            Event::Disconnected { node, boots, from } => {
                let now = self.clock(node);
                if let Some(running) = self.running(node, boots) {
                    running.disconnected(from, now);
                }
                self.collect(node)
            }
            Event::Refused {
                node,
                boots,
                request,
            } => {
                let now = self.clock(node);
                if let Some(running) = self.running(node, boots) {
                    running.refused(request, now);
                }
                self.collect(node)
            }
            Event::BreakOff { partition } => {
                self.break_off(partition);
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
        let (machine, now) = (&mut self.machines[node], self.now);
        let running = machine.node.as_mut().filter(|_| machine.boots == boots)?;
        running.is_now(now);
        Some(running)
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
        self.read_final(node)?;
        self.connect(node);
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
        let twin =
            !self.doubled.is_empty() && node + self.doubled.len() >= self.scenario.validators;
        let after = match self.is_calm() && !twin {
            true => 1_000,
            false => self.rng.gen_range(500..60_000),
        };
        self.at(after, Event::Boot { node });
        Ok(())
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
        self.report.sync += running.sync_counts();
        if let Some(why) = running.failed().map(str::to_owned) {
            return self.die(node, &why);
        }
        let (height, waits) = (running.ledger().tip().height + 1, running.is_waiting());
        let boots = self.machines[node].boots;
        for out in out {
            match out {
                Out::Broadcast(message) => {
                    self.may_be_said(node, &message)?;
                    self.in_hand(node, &message);
                    if let Message::Part {
                        part: Part::Init { init, .. },
                        ..
                    } = &message
                    {
                        self.proposed(init.block);
                    }
                    if let Some(message) = self.as_said(node, message) {
                        self.say(node, message)?;
                    }
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
                Out::Tell(to, message) => {
                    if let Some(message) = self.as_said(node, message) {
                        self.tell(node, to, message);
                    }
                }
                Out::SyncTimer(timer, after) => {
                    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                    self.at(after, Event::Sync { node, boots, timer });
                }
                Out::Decided(height) => self.decided(node, height)?,
                Out::Refused => self.refused(node)?,
                Out::TwoProposals(id) => {
                    if !self.is_two_faced(&id) {
                        return Err(format!("{id} proposed twice in one turn"));
                    }
                    self.report.two_proposals += 1;
                }
                Out::Backdated => self.report.backdated += 1,
                Out::Evidence(a, b) => {
                    if !self.is_two_faced(&a.message.validator.0)
                        || a.message.validator != b.message.validator
                        || !self.hold([&a, &b])
                    {
                        return Err(format!("{} contradicted itself", a.message.validator));
                    }
                    self.report.evidence += 1;
                    self.in_hand.reported.insert(a.message.validator.0);
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
        running.is_now(now);
        running.begin_height(clock);
        self.collect(node)
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
        machine + self.doubled.len() >= self.machines.len()
    }

    /// Whether what this key said on another machine may be in its way.
    fn is_torn(&self, id: &ValidatorId) -> bool {
        let stays = match (self.scenario.twins, self.twin) {
            (Twins::ForAWhile, Visit::ToCome) => false,
            (Twins::Never | Twins::Always, _) | (_, Visit::Since(_)) => true,
            (_, Visit::Over(height)) => self.seen <= height + 1,
        };
        stays && self.is_twin(id)
    }

    /// Whether this key runs on two machines.
    fn is_twin(&self, id: &ValidatorId) -> bool {
        self.doubled.contains(id)
    }

    fn id_of(&self, machine: usize) -> ValidatorId {
        ValidatorId(self.machines[machine].who.key.verifying_key().to_bytes())
    }

    /// Whether a machine has the key of a validator that censors.
    fn is_censor(&self, machine: usize) -> bool {
        self.is_last(machine, self.scenario.censors)
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
            Twins::Never => &self.machines[..self.machines.len() - 2 * self.scenario.doubled],
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
        (self.report.height, self.report.root) = (height, root);
        Ok(self.ended())
    }

    fn ended(&mut self) -> Report {
        for machine in &self.machines {
            self.report.count(machine.disk.struck());
        }
        self.report.trace = self.trace.clone().finalize().into();
        self.report.clone()
    }
}
