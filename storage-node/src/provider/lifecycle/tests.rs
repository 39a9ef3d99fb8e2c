//! A small chain and a small machine around the life cycle: random delays, refusals, crashes, damage and hostile timing.
//!
//! The simulated chain keeps its own books by `spec/chain.md` §§6, 7, so a wrong command shows as a broken rule there
//! (a second pre-commit, a proof outside its window, an undeclared damaged sector that was "proven").

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use prover::PaddedPieceSize;
use prover::commitment::CommP;

use super::*;

mod cuts;

const PERIOD: u64 = 120;
const WINDOW: u64 = 20;

fn rules() -> Rules {
    Rules {
        post_lookback: EpochCount(3),
        fault_cutoff: EpochCount(6),
        ticket_max_age: EpochCount(240),
        seed_delay: EpochCount(4),
        precommit_max: EpochCount(200),
        min_sector_life: EpochCount(240),
        max_sector_life: EpochCount(100_000),
    }
}

fn settings() -> Settings {
    Settings {
        pack: PackPolicy {
            sector_bytes: 2048,
            max_deals: 4,
            max_wait: EpochCount(5),
            seal_lead: EpochCount(100),
            hopeless: EpochCount(12),
        },
        hold_after: EpochCount(20),
        hold_reserve: EpochCount(40),
        scrub_lead: EpochCount(20),
        full_scrub_every: 4,
        auto_repair: true,
        backoff: EpochCount(3),
        max_attempts: 5,
    }
}

fn deal(id: u8, size: u64, start: u64, end: u64) -> DealRecord {
    DealRecord {
        deal: DealId([id; 32]),
        piece: PieceInfo {
            comm_p: CommP([id & 0x1f; 32]),
            size: PaddedPieceSize::new(size).expect("a valid size"),
        },
        bytes: size / 128 * 127,
        blake3_root: [id; 32],
        client: [9; 32],
        start: Epoch(start),
        end: Epoch(end),
        proposal: vec![id],
    }
}

#[derive(Clone, Debug)]
struct OnChain {
    state: SectorState,
    deadline: u64,
    posted: Option<Epoch>,
    expiration: Epoch,
    missed: u32,
}

/// The rules of the chain, as far as a provider meets them.
#[derive(Default)]
struct Chain {
    now: u64,
    /// Its state with `begin_by`, and its end.
    known: BTreeMap<DealId, (DealOnChain, u64)>,
    precommits: BTreeMap<SectorNumber, Epoch>,
    used: BTreeSet<SectorNumber>,
    expirations: BTreeMap<SectorNumber, Epoch>,
    content: BTreeMap<SectorNumber, Vec<DealId>>,
    sectors: BTreeMap<SectorNumber, OnChain>,
    faults_seen: u32,
    missed_posts: u32,
    bad_proofs: u32,
}

impl Chain {
    /// Opening of the occurrence of `deadline` that is open at `now` or comes next.
    fn open(&self, deadline: u64) -> u64 {
        let start = self.now - self.now % PERIOD + deadline * WINDOW;
        if self.now < start + WINDOW {
            start
        } else {
            start + PERIOD
        }
    }

    fn view(&self) -> ChainView {
        let mut windows: BTreeMap<u64, Window> = BTreeMap::new();
        for (number, sector) in &self.sectors {
            let open = self.open(sector.deadline);
            windows
                .entry(sector.deadline)
                .or_insert(Window {
                    key: WindowKey {
                        open: Epoch(open),
                        deadline: sector.deadline,
                        partition: 0,
                    },
                    close: Epoch(open + WINDOW),
                    posted: sector.posted == Some(Epoch(open)),
                    sectors: Vec::new(),
                })
                .sectors
                .push(*number);
        }
        ChainView {
            deals: self
                .known
                .iter()
                .map(|(id, (state, ..))| (*id, *state))
                .collect(),
            precommits: self.precommits.clone(),
            sectors: self.sectors.iter().map(|(n, s)| (*n, s.state)).collect(),
            windows: windows.into_values().collect(),
            in_debt: false,
        }
    }

    fn waits(&self, deal: &DealId) -> bool {
        matches!(
            self.known.get(deal),
            Some((DealOnChain::Published { .. }, _))
        )
    }

    /// Epochs without a block: they count for no timer.
    fn outage(&mut self, epochs: u64) {
        self.now += epochs;
        for (state, _) in self.known.values_mut() {
            if let DealOnChain::Published { begin_by } = state {
                begin_by.0 += epochs;
            }
        }
        for at in self.precommits.values_mut() {
            at.0 += epochs;
        }
    }

    /// Moves to the next epoch: closes, expiries, deals that missed their start.
    fn advance(&mut self) {
        self.now += 1;
        for (state, end) in self.known.values_mut() {
            if matches!(state, DealOnChain::Published { begin_by } if self.now > begin_by.0) {
                *state = DealOnChain::Over;
            }
            if *state == DealOnChain::Active && self.now >= *end + PERIOD {
                *state = DealOnChain::Over;
            }
        }
        self.precommits.retain(|_, at| self.now <= at.0 + 200);
        let now = self.now;
        let mut expired = Vec::new();
        for (number, sector) in &mut self.sectors {
            let closes = now % PERIOD == (sector.deadline * WINDOW + WINDOW) % PERIOD;
            if !closes {
                continue;
            }
            let opened = Epoch(now.saturating_sub(WINDOW));
            if sector.posted != Some(opened) {
                if sector.state != SectorState::Faulty {
                    sector.missed += 1;
                    self.missed_posts += 1;
                }
                sector.state = SectorState::Faulty;
            }
            if now >= sector.expiration.0 {
                expired.push(*number);
            }
        }
        for number in expired {
            self.sectors.remove(&number);
        }
    }

    fn apply(
        &mut self,
        op: &Op,
        records: &BTreeMap<DealId, DealRecord>,
        content: &BTreeMap<SectorNumber, SectorRecord>,
    ) -> Outcome {
        let refuse = |why: &str| Outcome::Refused(why.to_owned());
        match op {
            Op::Publish(deals) => {
                for id in deals {
                    let record = &records[id];
                    assert!(!self.known.contains_key(id), "a deal was published twice");
                    if record.start.0 > self.now {
                        let begin_by = record.start;
                        let state = DealOnChain::Published { begin_by };
                        self.known.insert(*id, (state, record.end.0));
                    }
                }
            }
            Op::PreCommit(number, expiration) => {
                let record = &content[number];
                assert!(
                    self.used.insert(*number),
                    "sector {number} was pre-committed twice"
                );
                let replica = record
                    .replica()
                    .expect("a replica stands before its pre-commit");
                assert!(
                    self.now - replica.sealing.ticket_epoch.0 <= 240,
                    "the ticket is too old"
                );
                for id in &record.deals {
                    if !self.waits(id) {
                        self.used.remove(number);
                        return refuse("a deal is not published");
                    }
                    for (other, deals) in &self.content {
                        let live =
                            self.precommits.contains_key(other) || self.sectors.contains_key(other);
                        assert!(!(live && deals.contains(id)), "deal in two sectors");
                    }
                    assert!(records[id].end <= *expiration);
                }
                assert!(expiration.0 - (self.now + 200) >= 240);
                self.precommits.insert(*number, Epoch(self.now));
                self.expirations.insert(*number, *expiration);
                self.content.insert(*number, record.deals.clone());
            }
            Op::ProveCommit(number, proof) => {
                let Some(at) = self.precommits.get(number) else {
                    return refuse("no pre-commit");
                };
                if self.now <= at.0 + 4 {
                    return refuse("too early");
                }
                assert_eq!(proof, b"proof");
                let deals = self.content[number].clone();
                if !deals.iter().all(|id| self.waits(id)) {
                    return refuse("a deal is over");
                }
                for id in &deals {
                    self.known.get_mut(id).expect("published").0 = DealOnChain::Active;
                }
                self.precommits.remove(number);
                // Neither the open nor the next deadline.
                let deadline = (self.now / WINDOW + 2) % (PERIOD / WINDOW);
                self.sectors.insert(
                    *number,
                    OnChain {
                        state: SectorState::Unproven,
                        deadline,
                        posted: None,
                        expiration: self.expirations[number],
                        missed: 0,
                    },
                );
            }
            Op::PostWindow {
                key,
                skipped,
                proof,
            } => {
                if self.now < key.open.0 || self.now >= key.open.0 + WINDOW {
                    return refuse("the deadline is not open");
                }
                let here = |sector: &OnChain| sector.deadline == key.deadline;
                // As on the real chain: the proof is over what is neither skipped nor plainly faulty, exactly.
                let expected: Vec<SectorNumber> = self
                    .sectors
                    .iter()
                    .filter(|(number, sector)| {
                        here(sector)
                            && sector.state != SectorState::Faulty
                            && !skipped.contains(number)
                    })
                    .map(|(number, _)| *number)
                    .collect();
                let proven: Vec<SectorNumber> =
                    borsh::from_slice(proof).expect("the simulated proof");
                if proven != expected || expected.is_empty() {
                    self.bad_proofs += 1;
                    return refuse("the proof is over other sectors");
                }
                for (number, sector) in self.sectors.iter_mut().filter(|(_, s)| here(s)) {
                    if sector.posted == Some(key.open) {
                        return refuse("posted already");
                    }
                    sector.posted = Some(key.open);
                    if skipped.contains(number) {
                        sector.state = SectorState::Faulty;
                    } else if sector.state != SectorState::Faulty {
                        sector.state = SectorState::Active;
                    }
                }
            }
            Op::DeclareFaults(numbers) => {
                for number in numbers {
                    let deadline = self.sectors[number].deadline;
                    if self.now + 6 >= self.open(deadline) {
                        return refuse("past the cut-off");
                    }
                }
                for number in numbers {
                    self.sectors.get_mut(number).expect("checked").state = SectorState::Faulty;
                    self.faults_seen += 1;
                }
            }
            Op::DeclareRecovered(numbers) => {
                for number in numbers {
                    let deadline = self.sectors[number].deadline;
                    if self.now + 6 >= self.open(deadline) {
                        return refuse("past the cut-off");
                    }
                    assert_eq!(self.sectors[number].state, SectorState::Faulty);
                }
                for number in numbers {
                    self.sectors.get_mut(number).expect("checked").state = SectorState::Recovering;
                }
            }
        }
        Outcome::Accepted
    }
}

/// What survives a crash of the provider process.
#[derive(Default)]
struct Disk {
    deals: BTreeMap<DealId, DealRecord>,
    sectors: BTreeMap<SectorNumber, SectorRecord>,
    counter: SectorNumber,
    damaged: BTreeSet<SectorNumber>,
}

struct World {
    chain: Chain,
    disk: Disk,
    machine: Lifecycle,
    /// Jobs under way: remaining steps and the event they end with.
    jobs: Vec<(u32, Event)>,
    /// Sent, not yet included.
    pool: VecDeque<(u32, Op)>,
    holding: Option<Epoch>,
    /// Steps that one sealing job, one window proof and one inclusion take.
    seal_steps: u32,
    window_steps: u32,
    /// The operator of the slot: someone else may have it for a while.
    slot_delay: u32,
    /// On whose behalf; the machine is told when it asks.
    slot_holder: SlotHolder,
    slot: bool,
    /// How often the slot was asked for.
    asked: u32,
    log: Vec<String>,
}

impl World {
    fn new(seal_steps: u32, window_steps: u32) -> Self {
        World {
            chain: Chain {
                now: 1,
                ..Chain::default()
            },
            disk: Disk::default(),
            machine: Lifecycle::restore(rules(), settings(), vec![], vec![], SectorNumber(0)),
            jobs: Vec::new(),
            pool: VecDeque::new(),
            holding: None,
            seal_steps,
            window_steps,
            slot_delay: 0,
            slot_holder: SlotHolder::OurChain,
            slot: false,
            asked: 0,
            log: Vec::new(),
        }
    }

    fn now(&self) -> Epoch {
        Epoch(self.chain.now)
    }

    fn feed(&mut self, event: Event) {
        let commands = self.machine.handle(self.now(), event);
        for command in commands {
            self.execute(command);
        }
    }

    fn receive(&mut self, record: DealRecord) {
        self.disk.deals.insert(record.deal, record.clone());
        self.feed(Event::Received(record));
    }

    fn execute(&mut self, command: Command) {
        let comm = [7u8; 32];
        match command {
            Command::SaveSector(record) => {
                self.disk.sectors.insert(record.number, record);
            }
            Command::SaveCounter(next) => self.disk.counter = next,
            Command::ForgetDeal(id) => {
                self.disk.deals.remove(&id);
            }
            Command::ForgetSector(number) => {
                self.disk.sectors.remove(&number);
                self.disk.damaged.remove(&number);
            }
            Command::DiscardReplica(_) => {}
            Command::AskSlot => {
                assert!(!self.slot, "it was not returned before");
                self.asked += 1;
                if self.slot_delay > 0 {
                    self.jobs.push((0, Event::SlotHeldBy(self.slot_holder)));
                }
                self.jobs.push((self.slot_delay, Event::SlotGranted));
            }
            Command::ReturnSlot => {
                self.slot = false;
                self.jobs
                    .retain(|(_, event)| !matches!(event, Event::SlotGranted));
            }
            Command::DrawTicket(number, epoch) => {
                assert!(epoch <= self.now());
                let sealing = Sealing {
                    ticket_epoch: epoch,
                    ticket: Ticket([1; 32]),
                };
                self.jobs.push((0, Event::Ticket(number, sealing)));
            }
            Command::Seal(number) => self.jobs.push((
                self.seal_steps,
                Event::Replicated {
                    sector: number,
                    comm_d: CommD(comm),
                    comm_r: CommR(comm),
                    spent: SealTimes::default(),
                },
            )),
            Command::Prove(number, seed) => {
                assert!(self.slot, "proving without the slot");
                assert!(seed <= self.now(), "the seed is not known yet");
                self.jobs.push((
                    self.seal_steps,
                    Event::Proven {
                        sector: number,
                        proof: b"proof".to_vec(),
                        spent: SealTimes::default(),
                    },
                ));
            }
            Command::ProveWindow {
                key,
                challenge,
                sectors,
            } => {
                assert!(challenge <= self.now(), "the challenge is not known yet");
                let bad: Vec<SectorNumber> = sectors
                    .iter()
                    .map(|(number, _)| *number)
                    .filter(|number| self.disk.damaged.contains(number))
                    .collect();
                let event = if bad.is_empty() {
                    Event::WindowProven(
                        key,
                        borsh::to_vec(
                            &sectors
                                .iter()
                                .map(|(number, _)| *number)
                                .collect::<Vec<_>>(),
                        )
                        .expect("borsh"),
                    )
                } else {
                    Event::WindowFaulty(key, bad)
                };
                self.jobs.push((self.window_steps, event));
            }
            Command::Scrub { sector, .. } => {
                let health = if self.disk.damaged.contains(&sector) {
                    Health::Damaged
                } else {
                    Health::Good { full: true }
                };
                self.jobs.push((1, Event::Scrubbed(sector, health)));
            }
            Command::Rebuild(number) => {
                assert!(self.slot, "resealing without the slot");
                self.disk.damaged.remove(&number);
                self.jobs
                    .push((self.seal_steps, Event::Rebuilt(number, Ok(()))));
            }
            Command::Submit(op) => {
                if let Op::PreCommit(number, _) = &op {
                    assert!(self.slot, "pre-commit without the slot");
                    let saved = self.disk.sectors.get(number).map(|record| &record.stage);
                    assert!(
                        matches!(saved, Some(Stage::PreCommitting(..))),
                        "sent before it was written down"
                    );
                }
                assert!(
                    self.pool.iter().all(|(_, other)| other.key() != op.key()),
                    "sent twice: {op:?}"
                );
                self.pool.push_back((1, op));
            }
            Command::Hold(before) => self.holding = Some(before),
            Command::Release => self.holding = None,
            Command::Note(text) => self.log.push(text),
        }
    }

    /// One moment of wall time: jobs go on; the chain moves unless the clock is held.
    fn step(&mut self) {
        let mut done = Vec::new();
        self.jobs.retain_mut(|(left, event)| {
            if *left == 0 {
                done.push(event.clone());
                return false;
            }
            *left -= 1;
            true
        });
        for event in done {
            if matches!(event, Event::SlotGranted) {
                self.slot = true;
            }
            self.feed(event);
        }
        if self
            .holding
            .is_some_and(|before| self.chain.now + 1 >= before.0)
        {
            return;
        }
        self.chain.advance();
        let mut included = Vec::new();
        self.pool.retain_mut(|(wait, op)| {
            if *wait == 0 {
                included.push(op.clone());
                return false;
            }
            *wait -= 1;
            true
        });
        let outcomes: Vec<(OpKey, Outcome)> = included
            .iter()
            .map(|op| {
                (
                    op.key(),
                    self.chain.apply(op, &self.disk.deals, &self.disk.sectors),
                )
            })
            .collect();
        let view = self.chain.view();
        self.feed(Event::Chain(view));
        for (key, outcome) in outcomes {
            self.feed(Event::Outcome(key, outcome));
        }
    }

    /// kill -9 and start again: only the disk, the chain and what was sent survive.
    fn crash(&mut self) {
        self.jobs.clear();
        self.holding = None;
        self.slot = false;
        // What is in the chain's pool may still land; it lands before the new process looks (see `super::tx`).
        while !self.pool.is_empty() {
            self.chain.advance();
            let (_, op) = self.pool.pop_front().expect("not empty");
            self.chain.apply(&op, &self.disk.deals, &self.disk.sectors);
        }
        self.machine = Lifecycle::restore(
            rules(),
            settings(),
            self.disk.deals.values().cloned().collect(),
            self.disk.sectors.values().cloned().collect(),
            self.disk.counter,
        );
        let view = self.chain.view();
        self.feed(Event::Chain(view));
    }

    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            self.step();
        }
    }

    fn states(&self) -> Vec<SectorState> {
        self.chain
            .sectors
            .values()
            .map(|sector| sector.state)
            .collect()
    }
}

#[test]
fn a_deal_is_published_sealed_proven_and_kept_proven() {
    let mut world = World::new(50, 10);
    world.receive(deal(1, 1024, 400, 2000));
    world.receive(deal(2, 512, 400, 2000));
    world.run(1500);
    assert_eq!(world.states(), vec![SectorState::Active], "{:?}", world.log);
    assert_eq!(world.chain.missed_posts, 0);
    assert_eq!(world.chain.content.len(), 1, "both deals share one sector");
}

/// Whatever the proof takes, the clock waits for it: slowness is never a fault.
#[test]
fn a_slow_machine_meets_every_deadline_by_holding_the_clock() {
    for steps in [1, 30, 500] {
        let mut world = World::new(steps, steps);
        world.receive(deal(1, 2048, 500, 90_000));
        world.run(40 * steps + 1500);
        assert_eq!(
            world.chain.missed_posts, 0,
            "{steps} steps per proof: {:?}",
            world.log
        );
        assert_eq!(world.states(), vec![SectorState::Active], "{steps}");
    }
}

#[test]
fn the_clock_is_not_held_when_nothing_of_ours_is_running() {
    let mut world = World::new(5, 5);
    world.run(100);
    assert!(world.holding.is_none());
    world.receive(deal(1, 2048, 500, 1000));
    world.slot_delay = 1_000_000;
    world.run(200);
    assert!(
        world.holding.is_none(),
        "waiting for another's slot must not stop the other's transactions"
    );
}

/// Another devnet on the same machine seals for hours: our deals' starts do not pass meanwhile.
#[test]
fn while_a_stranger_has_the_slot_the_clock_is_held_and_every_deal_starts_in_time() {
    let mut world = World::new(5, 5);
    world.slot_holder = SlotHolder::Stranger;
    world.slot_delay = 5000;
    world.receive(deal(1, 2048, 150, 5000));
    world.run(1000);
    let held = world.holding.expect("the clock waits with us");
    assert!(world.slot_delay > 0 && !world.slot && held.0 + 40 <= 150);
    assert!(world.chain.now < held.0, "it stands still");
    let stood = world.chain.now;
    world.run(100);
    assert_eq!(world.chain.now, stood);
    world.run(5000);
    assert_eq!(world.states(), vec![SectorState::Active], "{:?}", world.log);
    assert!(world.holding.is_none(), "given back");
    assert_eq!(world.chain.missed_posts, 0);
}

/// The deadlock: a holder of our own chain waits for the block of its pre-commit and for its seed. Holding the clock here
/// would stop it for ever, also when a stranger had the slot before it.
#[test]
fn a_holder_of_our_own_chain_gets_the_blocks_it_needs_also_after_a_stranger() {
    let mut world = World::new(5, 5);
    world.slot_holder = SlotHolder::Stranger;
    world.slot_delay = 1_000_000;
    world.receive(deal(1, 2048, 300, 5000));
    world.run(200);
    let stood = world.chain.now;
    assert!(world.holding.is_some());
    world.feed(Event::SlotHeldBy(SlotHolder::OurChain));
    assert!(world.holding.is_none(), "released at once");
    world.run(50);
    assert_eq!(world.chain.now, stood + 50, "blocks flow");
    // And back again, counted from now on and not from the first time.
    world.feed(Event::SlotHeldBy(SlotHolder::Stranger));
    assert_eq!(world.holding, Some(Epoch(stood + 50 + 20)));
    // Who is not in the line is not told anything: a late word changes nothing.
    let mut idle = World::new(5, 5);
    idle.run(10);
    idle.feed(Event::SlotHeldBy(SlotHolder::Stranger));
    idle.run(10);
    assert!(idle.holding.is_none());
}

/// An outage puts starts off on the chain. A provider that counted on would give up deals that it may still begin, and lose their
/// collateral.
#[test]
fn after_an_outage_a_deal_whose_start_was_put_off_is_begun() {
    for sealing in [false, true] {
        let mut world = World::new(50, 5);
        world.receive(deal(1, 1024, 150, 5000));
        world.run(if sealing { 30 } else { 3 });
        assert!(world.chain.waits(&DealId([1; 32])), "published");
        assert_eq!(world.machine.sectors().count(), usize::from(sealing));
        world.chain.outage(150);
        world.run(200);
        assert_eq!(world.states(), vec![SectorState::Active], "{:?}", world.log);
    }
}

#[test]
fn a_provider_with_several_sectors_goes_to_the_end_of_the_line_after_each() {
    let mut world = World::new(5, 2);
    for id in 1..=3 {
        world.receive(deal(id, 2048, 900, 5000));
    }
    world.run(500);
    assert_eq!(world.chain.sectors.len(), 3, "{:?}", world.log);
    assert_eq!(world.asked, 3);
    assert!(!world.slot, "returned at the end");
}

#[test]
fn the_backlog_counts_what_was_accepted_before_it_is_in_a_sector() {
    let mut world = World::new(1_000_000, 2);
    assert_eq!(world.machine.backlog(), (0, 0));
    world.receive(deal(1, 1024, 900, 5000));
    world.receive(deal(2, 512, 900, 5000));
    assert_eq!(world.machine.backlog(), (0, 1536));
    world.run(30);
    assert_eq!(world.machine.backlog(), (1, 0), "packed, not sealed");
    world.receive(deal(3, 2048, 900, 5000));
    assert_eq!(world.machine.backlog(), (1, 2048));
    // What is over waits for nothing.
    let mut done = World::new(5, 2);
    done.receive(deal(1, 2048, 300, 700));
    done.run(400);
    assert_eq!(done.machine.backlog(), (0, 0));
}

#[test]
fn tm_p18_damage_is_declared_before_the_cutoff_and_repaired_and_never_proven() {
    let mut world = World::new(5, 2);
    world.receive(deal(1, 2048, 400, 5000));
    world.run(400);
    let number = *world.chain.sectors.keys().next().expect("one sector");
    // Right after a window, so that the next check comes before the next proof.
    let deadline = world.chain.sectors[&number].deadline;
    while world.chain.now % PERIOD != (deadline * WINDOW + WINDOW + 1) % PERIOD {
        world.step();
    }
    world.disk.damaged.insert(number);
    world.run(300);
    assert!(world.chain.faults_seen >= 1, "declared");
    assert_eq!(world.chain.bad_proofs, 0);
    world.run(300);
    assert_eq!(
        world.states(),
        vec![SectorState::Active],
        "recovered: {:?}",
        world.log
    );
}

#[test]
fn tm_p18_damage_after_the_check_is_skipped_in_the_post_never_proven() {
    let mut world = World::new(5, 2);
    world.machine.settings.scrub_lead = EpochCount(0);
    world.machine.settings.auto_repair = false;
    world.receive(deal(1, 1024, 400, 5000));
    world.run(60);
    world.receive(deal(2, 2048, 400, 5000));
    world.run(300);
    assert_eq!(world.chain.sectors.len(), 2);
    let number = *world.chain.sectors.keys().next().expect("two sectors");
    world.disk.damaged.insert(number);
    world.run(400);
    assert_eq!(world.chain.bad_proofs, 0);
    assert_eq!(world.chain.sectors[&number].state, SectorState::Faulty);
    assert_eq!(world.machine.damaged(), vec![number]);
}

#[test]
fn tm_p19_recovery_is_declared_only_after_a_full_check_made_after_the_fault() {
    let mut world = World::new(5, 2);
    world.machine.settings.auto_repair = false;
    world.receive(deal(1, 2048, 400, 5000));
    world.run(400);
    let number = *world.chain.sectors.keys().next().expect("one sector");
    world.disk.damaged.insert(number);
    world.feed(Event::ReportedDamaged(number));
    world.run(400);
    assert_eq!(world.chain.sectors[&number].state, SectorState::Faulty);
    // The operator put the disk back; the machine learns it at the next start, by checking.
    world.disk.damaged.clear();
    world.crash();
    world.run(300);
    assert_eq!(
        world.chain.sectors[&number].state,
        SectorState::Active,
        "{:?}",
        world.log
    );
}

#[test]
fn a_ticket_that_grew_old_while_the_slot_was_lost_is_drawn_again() {
    let mut world = World::new(5, 2);
    world.receive(deal(1, 2048, 2000, 5000));
    for _ in 0..200 {
        world.step();
        if matches!(
            world.disk.sectors.values().next().map(|r| &r.stage),
            Some(Stage::Replicated(_) | Stage::PreCommitting(..))
        ) {
            break;
        }
    }
    // The process was down for longer than a ticket lives, before its pre-commit went out.
    world.pool.clear();
    let mut record = world.disk.sectors.values().next().expect("one").clone();
    if let Some(replica) = record.replica() {
        record.stage = Stage::Replicated(*replica);
    }
    world.disk.sectors.insert(record.number, record);
    for _ in 0..300 {
        world.chain.advance();
    }
    world.crash();
    world.run(200);
    assert_eq!(world.chain.sectors.len(), 1, "{:?}", world.log);
    assert!(world.log.iter().any(|line| line.contains("starts over")));
}

#[test]
fn a_sector_with_a_failing_seal_is_given_up_and_its_deals_try_another() {
    let mut world = World::new(5, 2);
    world.receive(deal(1, 2048, 2000, 5000));
    let mut failures = 0;
    for _ in 0..400 {
        let finished = |(_, event): &(u32, Event)| matches!(event, Event::Replicated { .. });
        if failures < 5
            && let Some(at) = world.jobs.iter().position(finished)
        {
            let Event::Replicated { sector, .. } = world.jobs.remove(at).1 else {
                unreachable!("matched above")
            };
            world.feed(Event::SealFailed(sector, "disk full".to_owned()));
            failures += 1;
        }
        world.step();
    }
    assert_eq!(failures, 5);
    let numbers: Vec<u64> = world.chain.sectors.keys().map(|number| number.0).collect();
    assert_eq!(numbers, vec![1], "the second number, {:?}", world.log);
}

/// A replica that could not be looked at is not damaged: it is said once, and the sector is proven as before.
#[test]
fn tm_h9_a_check_without_memory_calls_nothing_damaged() {
    let mut world = World::new(5, 2);
    world.receive(deal(1, 2048, 400, 5000));
    world.run(400);
    let number = *world.chain.sectors.keys().next().expect("one sector");
    for _ in 0..2 {
        let health = Health::Unknown("it needs more memory".to_owned());
        world.feed(Event::Scrubbed(number, health));
    }
    assert!(world.machine.damaged().is_empty(), "{:?}", world.log);
    let told = world.log.iter().filter(|line| line.contains("more memory"));
    assert_eq!(told.count(), 1, "{:?}", world.log);
    world.run(300);
    assert_eq!(world.states(), vec![SectorState::Active]);
    assert_eq!(world.chain.faults_seen, 0);
}

/// Longer than any number of attempts: a full disk is not a reason to give a sector up.
#[test]
fn tm_h4_a_sector_waits_for_disk_space_as_long_as_it_takes_and_says_so_once() {
    let mut world = World::new(5, 2);
    world.receive(deal(1, 2048, 2000, 5000));
    let mut full = 0;
    for _ in 0..600 {
        let finished = |(_, event): &(u32, Event)| matches!(event, Event::Replicated { .. });
        if full < 30
            && let Some(at) = world.jobs.iter().position(finished)
        {
            let Event::Replicated { sector, .. } = world.jobs.remove(at).1 else {
                unreachable!("matched above")
            };
            world.feed(Event::SealWaits(
                sector,
                "no space left on device".to_owned(),
            ));
            full += 1;
        }
        world.step();
    }
    assert_eq!(full, 30);
    let numbers: Vec<u64> = world.chain.sectors.keys().map(|number| number.0).collect();
    assert_eq!(numbers, vec![0], "the same sector went on: {:?}", world.log);
    let told = world.log.iter().filter(|line| line.contains("disk space"));
    assert_eq!(told.count(), 1, "{:?}", world.log);
}

#[test]
fn deals_that_end_and_sectors_that_expire_are_forgotten() {
    let mut world = World::new(5, 2);
    world.receive(deal(1, 2048, 300, 700));
    world.run(1500);
    assert!(
        world.disk.deals.is_empty() && world.disk.sectors.is_empty(),
        "{:?}",
        world.log
    );
    assert!(
        world.disk.counter.0 > 0,
        "the number is not given out again"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Random arrivals, speeds, slot delays, crashes and damage: the chain's own assertions above are the oracle.
    #[test]
    fn random_lives_break_no_rule_of_the_chain(
        arrivals in proptest::collection::vec((1u32..600, 7u32..12, 40u64..900, 60u64..800), 1..12),
        crashes in proptest::collection::vec(1u32..2500, 0..8),
        damages in proptest::collection::vec(1u32..2500, 0..4),
        seal_steps in 0u32..60,
        window_steps in 0u32..40,
        slot_delay in 0u32..30,
        strangers in any::<bool>(),
    ) {
        let mut world = World::new(seal_steps, window_steps);
        world.slot_delay = slot_delay;
        if strangers {
            world.slot_holder = SlotHolder::Stranger;
        }
        for step in 0..2500u32 {
            for (index, (when, log, start, length)) in arrivals.iter().enumerate() {
                if *when == step {
                    let start = world.chain.now + start;
                    let id = u8::try_from(index + 1).expect("few");
                    world.receive(deal(id, 1 << log, start, start + length));
                }
            }
            if crashes.contains(&step) {
                world.crash();
            }
            if damages.contains(&step)
                && let Some(number) = world.chain.sectors.keys().next()
            {
                world.disk.damaged.insert(*number);
            }
            world.step();
        }
        prop_assert_eq!(world.chain.bad_proofs, 0);
        // Without a crash in the middle of a window no post is ever missed.
        if crashes.is_empty() && damages.is_empty() {
            prop_assert_eq!(world.chain.missed_posts, 0, "{:?}", world.log);
        }
    }
}
