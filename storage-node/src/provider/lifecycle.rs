//! The provider's life as a pure machine: what is known comes in as events, what to do comes out as commands.
//!
//! Place in the walk: after [`super::intake`] took a piece in; it decides on publication, packing, sealing, pre-commit,
//! proof, window posts, fault and recovery declarations, and what may be deleted. [`super::worker`] executes the commands.
//! Spec: `spec/chain.md` §6 (sector life), §7 (deadlines), `DESIGN.md` §5 (clock leases, one proving slot per machine).
//!
//! The machine is level-triggered: after every event it compares what it wants with what the chain shows
//! ([`ChainView`], always a whole picture) and with what is already under way, and emits only the difference. So an event
//! that is lost, late or repeated cannot make it act twice, and a restart is nothing but an empty picture and the journal's
//! records.
//!
//! Rules it keeps, each a test below:
//! * a sector is pre-committed only while this process holds the machine's proving slot, its ticket is young enough, and
//!   every deal in it can still start in time; never twice under one number; its number and content are on disk first;
//! * a window post is begun as soon as its challenge is known, in a lane of its own that sealing never occupies;
//! * a damaged sector is declared before the cut-off or skipped in the post; it is never proven;
//! * recovery is declared only after a full check of the replica that was made after the fault;
//! * the logical clock is held only while work of our own with a deadline on the chain is running, or is kept from running
//!   by somebody who does not need this chain's blocks;
//! * the slot serves one sector at a time: whoever has more goes to the end of the line, so that no provider of the machine
//!   starves another.
//!
//! Sealing runs one sector at a time, slot first, ticket second: peak memory stays that of one sector, and a ticket cannot
//! grow old while its sector queues behind other providers of the same machine.
//!
//! Waiting for the slot and the clock: a holder of *our* chain needs blocks (pre-commit, seed), so the clock must run or both
//! would wait for ever; the time is in the starts that are quoted ([`Lifecycle::backlog`]). A holder of another chain, or an
//! unknown one, needs none of our blocks, and our deals' starts would pass while it works: then the clock is held as for a
//! running job.
//!
//! Cost: a step is linear in the provider's deals and sectors, a few microseconds each.
//! Crash: only the records in [`Command::SaveDeal`], [`Command::SaveSector`] and [`Command::SaveCounter`] survive; each is
//! emitted before the command that relies on it.

use std::collections::{BTreeMap, BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::DealId;
use chain_lite::units::{Epoch, EpochCount};
use prover::commitment::{CommD, CommR};
use prover::ids::{SectorNumber, Ticket};
use prover::piece::PieceInfo;

use super::pack::{self, PackPolicy, WaitingPiece};

/// The chain's numbers that bound the machine, from genesis.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Epochs before a deadline opens at which its challenge is drawn.
    pub post_lookback: EpochCount,
    /// Faults and recoveries must be declared this long before the deadline opens.
    pub fault_cutoff: EpochCount,
    /// Oldest ticket a pre-commit may carry.
    pub ticket_max_age: EpochCount,
    /// From pre-commit to its seed.
    pub seed_delay: EpochCount,
    /// From pre-commit to the last prove-commit.
    pub precommit_max: EpochCount,
    /// Shortest life of a sector, counted from the latest prove-commit.
    pub min_sector_life: EpochCount,
    /// Longest life of a sector, counted from the pre-commit.
    pub max_sector_life: EpochCount,
}

/// How this provider chooses within the rules.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When to close a sector.
    pub pack: PackPolicy,
    /// A running job holds the clock after this many epochs. Lower spends less chain time on sealing (and so quotes earlier
    /// starts); higher keeps blocks, and other people's transactions, flowing meanwhile.
    pub hold_after: EpochCount,
    /// A running job holds the clock when its deadline is this near, whatever the above says.
    pub hold_reserve: EpochCount,
    /// Check a replica this long before the last chance to declare a fault.
    pub scrub_lead: EpochCount,
    /// Every so many checks of a sector, check all of it instead of a sample.
    pub full_scrub_every: u32,
    /// Reseal a damaged replica from the unsealed copies and declare it recovered.
    pub auto_repair: bool,
    /// Wait before something refused or failed is tried again.
    pub backoff: EpochCount,
    /// Give up after so many refusals or failures.
    pub max_attempts: u32,
}

/// What the journal keeps about one deal. Written by intake before the client gets its acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DealRecord {
    /// Which deal.
    pub deal: DealId,
    /// CommP and padded size.
    pub piece: PieceInfo,
    /// Bytes as received.
    pub bytes: u64,
    /// BLAKE3 root of those bytes.
    pub blake3_root: [u8; 32],
    /// Who pays.
    pub client: [u8; 32],
    /// Last epoch for activation.
    pub start: Epoch,
    /// First epoch after the deal.
    pub end: Epoch,
    /// Borsh of the client's signed proposal, as it will be published.
    pub proposal: Vec<u8>,
}

/// What the journal keeps about one sector.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SectorRecord {
    /// Its number, never used for anything else.
    pub number: SectorNumber,
    /// Its deals in the order of layout.
    pub deals: Vec<DealId>,
    /// How far it is.
    pub stage: Stage,
    /// Milliseconds spent in each stage.
    pub spent: SealTimes,
}

/// How far a sector is, with the evidence of each step.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Stage {
    /// Deals chosen; waits for the machine's proving slot.
    Queued,
    /// Labels and trees are under way.
    Sealing(Sealing),
    /// The replica stands.
    Replicated(Replica),
    /// The decision to pre-commit stands; whether the chain has it, the chain knows.
    PreCommitting(Replica, Epoch),
    /// The chain took the pre-commit at this epoch.
    PreCommitted(Replica, Epoch),
    /// The proof stands; to be sent.
    Proven(Replica, Epoch, Vec<u8>),
    /// The chain has the sector.
    Committed(Replica),
    /// Given up; files may go.
    Abandoned(String),
}

/// Ticket of a sector being sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Sealing {
    /// Epoch the ticket was drawn from.
    pub ticket_epoch: Epoch,
    /// The ticket.
    pub ticket: Ticket,
}

/// A finished replica's public facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Replica {
    /// Its ticket.
    pub sealing: Sealing,
    /// Root of the data.
    pub comm_d: CommD,
    /// Commitment to the replica.
    pub comm_r: CommR,
}

/// Milliseconds of work per sealing stage.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct SealTimes {
    /// Labels.
    pub pc1_ms: u64,
    /// Columns, encoding, trees.
    pub pc2_ms: u64,
    /// Vanilla proofs.
    pub c1_ms: u64,
    /// Groth16.
    pub c2_ms: u64,
}

impl SectorRecord {
    /// The replica, once it stands.
    pub fn replica(&self) -> Option<&Replica> {
        match &self.stage {
            Stage::Replicated(replica)
            | Stage::PreCommitting(replica, _)
            | Stage::PreCommitted(replica, _)
            | Stage::Proven(replica, ..)
            | Stage::Committed(replica) => Some(replica),
            Stage::Queued | Stage::Sealing(_) | Stage::Abandoned(_) => None,
        }
    }

    fn holds_deals(&self) -> bool {
        !matches!(self.stage, Stage::Abandoned(_))
    }
}

/// A whole picture of this provider on the chain, as of one block.
#[derive(Clone, Debug, Default)]
pub struct ChainView {
    /// Our deals.
    pub deals: BTreeMap<DealId, DealOnChain>,
    /// Our open pre-commits and their epochs.
    pub precommits: BTreeMap<SectorNumber, Epoch>,
    /// Our sectors.
    pub sectors: BTreeMap<SectorNumber, SectorState>,
    /// For each partition, the occurrence of its deadline that is open or comes next.
    pub windows: Vec<Window>,
    /// While true, the chain refuses pre-commits and recoveries.
    pub in_debt: bool,
}

impl ChainView {
    /// The last epoch in which a deal may begin, while it waits for that.
    fn begin_by(&self, deal: &DealId) -> Option<Epoch> {
        match self.deals.get(deal)? {
            DealOnChain::Published { begin_by } => Some(*begin_by),
            DealOnChain::Active | DealOnChain::Over => None,
        }
    }
}

/// State of a deal on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DealOnChain {
    /// Published, not yet active.
    Published {
        /// The last epoch in which its sector may be proven: its start, put off by every outage since it was published.
        begin_by: Epoch,
    },
    /// Active.
    Active,
    /// Completed or slashed.
    Over,
}

/// State of a sector on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorState {
    /// Proven by PoRep, not yet by a window post.
    Unproven,
    /// Earning.
    Active,
    /// Not proven.
    Faulty,
    /// Declared recovered, to be proven in the next post.
    Recovering,
}

/// One partition's next chance to be posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which deadline, partition and opening.
    pub key: WindowKey,
    /// First epoch at which the post is too late.
    pub close: Epoch,
    /// The chain has the post of this occurrence.
    pub posted: bool,
    /// Sectors of the partition, ascending.
    pub sectors: Vec<SectorNumber>,
}

/// Names one occurrence of one partition's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowKey {
    /// First epoch at which the post is accepted.
    pub open: Epoch,
    /// Deadline index.
    pub deadline: u64,
    /// Partition index within it.
    pub partition: u64,
}

/// What became of something sent to the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Included and successful; a [`ChainView`] that shows it was delivered before.
    Accepted,
    /// Included and failed, or refused by the pool.
    Refused(String),
    /// Expired without being included.
    Lost,
}

/// Something to send to the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Publish these deals.
    Publish(Vec<DealId>),
    /// Pre-commit the sector (its record tells the rest) until this epoch.
    PreCommit(SectorNumber, Epoch),
    /// Prove the sector.
    ProveCommit(SectorNumber, Vec<u8>),
    /// Post a partition.
    PostWindow {
        /// Which.
        key: WindowKey,
        /// Sectors left out, which become faulty.
        skipped: Vec<SectorNumber>,
        /// The proof.
        proof: Vec<u8>,
    },
    /// Declare faults.
    DeclareFaults(Vec<SectorNumber>),
    /// Declare recoveries.
    DeclareRecovered(Vec<SectorNumber>),
}

/// Names an [`Op`] without its bulk: the key under which only one may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKey {
    /// Any publication.
    Publish,
    /// Of this sector.
    PreCommit(SectorNumber),
    /// Of this sector.
    ProveCommit(SectorNumber),
    /// Of this occurrence.
    PostWindow(WindowKey),
    /// Any.
    DeclareFaults,
    /// Any.
    DeclareRecovered,
}

impl Op {
    /// The key under which only one may be under way.
    pub fn key(&self) -> OpKey {
        match self {
            Self::Publish(_) => OpKey::Publish,
            Self::PreCommit(number, _) => OpKey::PreCommit(*number),
            Self::ProveCommit(number, _) => OpKey::ProveCommit(*number),
            Self::PostWindow { key, .. } => OpKey::PostWindow(*key),
            Self::DeclareFaults(_) => OpKey::DeclareFaults,
            Self::DeclareRecovered(_) => OpKey::DeclareRecovered,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Intake stored a piece and its record.
    Received(DealRecord),
    /// The chain moved on.
    Chain(ChainView),
    /// The machine's proving slot is ours.
    SlotGranted,
    /// We queue for the slot; this is who has it.
    SlotHeldBy(SlotHolder),
    /// The ticket asked for.
    Ticket(SectorNumber, Sealing),
    /// PC1 and PC2 are done.
    Replicated {
        /// Which sector.
        sector: SectorNumber,
        /// Root of the data.
        comm_d: CommD,
        /// Commitment to the replica.
        comm_r: CommR,
        /// Time spent so far.
        spent: SealTimes,
    },
    /// C1 and C2 are done and the proof verified.
    Proven {
        /// Which sector.
        sector: SectorNumber,
        /// The proof's bytes.
        proof: Vec<u8>,
        /// Time spent in all.
        spent: SealTimes,
    },
    /// A sealing or proving job ended without a result.
    SealFailed(SectorNumber, String),
    /// A sealing or proving job found something in its way that passes: a full disk, a folder that another process has. It goes on
    /// where it stopped when that is gone.
    SealWaits(SectorNumber, String),
    /// A window proof is done and verified.
    WindowProven(WindowKey, Vec<u8>),
    /// These sectors' vanilla proofs fail: their replicas are damaged.
    WindowFaulty(WindowKey, Vec<SectorNumber>),
    /// The window proof failed for another reason.
    WindowFailed(WindowKey, String),
    /// A replica was checked.
    Scrubbed(SectorNumber, Health),
    /// A replica was resealed from its pieces, or could not be.
    Rebuilt(SectorNumber, Result<(), String>),
    /// The operator says this sector is damaged.
    ReportedDamaged(SectorNumber),
    /// An [`Op`] came to its end.
    Outcome(OpKey, Outcome),
}

/// On whose behalf the machine's proving slot is held while we queue for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotHolder {
    /// Somebody of our own chain: it needs our blocks.
    OurChain,
    /// Somebody of another chain, or somebody who did not say: it needs none of them.
    Stranger,
}

/// Result of a replica check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// What was looked at is right; `full` if everything was.
    Good {
        /// Everything was looked at.
        full: bool,
    },
    /// Something does not match its root, or cannot be read.
    Damaged,
    /// Nothing was looked at, for want of memory; why.
    Unknown(String),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write the record durably before going on.
    SaveSector(SectorRecord),
    /// Write the next sector number durably before going on.
    SaveCounter(SectorNumber),
    /// Delete the deal's record and its unsealed copy.
    ForgetDeal(DealId),
    /// Delete the sector's record and files.
    ForgetSector(SectorNumber),
    /// Delete the sector's files, keep its record: it starts over.
    DiscardReplica(SectorNumber),
    /// Queue for the machine's proving slot.
    AskSlot,
    /// Let go of the slot, or leave the queue.
    ReturnSlot,
    /// Fetch the ticket of this epoch.
    DrawTicket(SectorNumber, Epoch),
    /// Run or resume PC1 and PC2.
    Seal(SectorNumber),
    /// Run or resume C1 and C2 with the seed of this epoch.
    Prove(SectorNumber, Epoch),
    /// Prove a partition with the challenge of this epoch.
    ProveWindow {
        /// Which.
        key: WindowKey,
        /// Epoch of the challenge.
        challenge: Epoch,
        /// Sectors to prove, ascending.
        sectors: Vec<(SectorNumber, CommR)>,
    },
    /// Check a replica, all of it or a sample.
    Scrub {
        /// Which.
        sector: SectorNumber,
        /// All of it.
        full: bool,
    },
    /// Reseal a damaged replica from its pieces.
    Rebuild(SectorNumber),
    /// Send to the chain.
    Submit(Op),
    /// Keep this epoch of the logical clock, and later ones, from beginning. Replaces an earlier hold.
    Hold(Epoch),
    /// Stop holding it.
    Release,
    /// Tell the operator.
    Note(String),
}

/// Slack between deciding on a pre-commit and its inclusion, in epochs.
const INCLUSION_SLACK: u64 = 20;

#[derive(Clone, Copy, Debug, Default)]
struct Retry {
    attempts: u32,
    not_before: Epoch,
}

#[derive(Clone, Debug)]
struct Deal {
    record: DealRecord,
    /// When we first saw it published.
    published: Option<Epoch>,
    /// The chain has settled it; its bytes may still lie in a sector.
    over: bool,
    retry: Retry,
}

#[derive(Clone, Debug)]
struct Sector {
    record: SectorRecord,
    retry: Retry,
    waits_for_space: bool,
    health: HealthNote,
}

/// What is known about a replica's health. Not durable: after a restart everything is checked again.
#[derive(Clone, Copy, Debug, Default)]
struct HealthNote {
    damaged: bool,
    /// Fully checked and right, later than the present fault.
    proven_good: bool,
    rebuild_failed: bool,
    /// The last check could not be made.
    unchecked: bool,
    /// Checks made so far.
    checks: u32,
    /// Opening of the window for which it was checked last.
    checked_for: Option<Epoch>,
}

/// A job of the sealing lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Ticket,
    Seal,
    Prove,
    Rebuild,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    sector: SectorNumber,
    job: Job,
    since: Epoch,
    /// The chain's deadline for it, if it has one.
    due: Option<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// In the line; since when a stranger keeps us there, if one does.
    Asked(Option<Epoch>),
    /// Ours, for one sector once its first job was chosen.
    Held(Option<SectorNumber>),
}

/// Work on one window: how often it was begun again, and how far it is.
#[derive(Clone, Debug)]
struct WindowWork {
    retry: Retry,
    state: WindowState,
}

#[derive(Clone, Debug)]
enum WindowState {
    Idle,
    Proving {
        since: Epoch,
        close: Epoch,
        skipped: Vec<SectorNumber>,
    },
    Ready {
        skipped: Vec<SectorNumber>,
        proof: Vec<u8>,
    },
}

/// The machine. See the module's front page.
#[derive(Debug)]
pub struct Lifecycle {
    rules: Rules,
    settings: Settings,
    deals: BTreeMap<DealId, Deal>,
    sectors: BTreeMap<SectorNumber, Sector>,
    next_number: SectorNumber,
    chain: Option<ChainView>,
    slot: Slot,
    running: Option<Running>,
    scrubbing: Option<SectorNumber>,
    windows: BTreeMap<WindowKey, WindowWork>,
    under_way: BTreeMap<OpKey, Vec<DealId>>,
    declare_retry: Retry,
    recover_retry: Retry,
    holding: Option<Epoch>,
    out: Vec<Command>,
}

impl Lifecycle {
    /// A machine that starts from the journal's records. `next_number` is the counter's value, or zero.
    pub fn restore(
        rules: Rules,
        settings: Settings,
        deals: Vec<DealRecord>,
        sectors: Vec<SectorRecord>,
        next_number: SectorNumber,
    ) -> Self {
        let after_known = sectors
            .iter()
            .map(|record| record.number.0.saturating_add(1))
            .max()
            .unwrap_or(0);
        Self {
            rules,
            settings,
            deals: deals
                .into_iter()
                .map(|record| (record.deal, Deal::new(record)))
                .collect(),
            sectors: sectors
                .into_iter()
                .map(|record| (record.number, Sector::new(record)))
                .collect(),
            next_number: SectorNumber(next_number.0.max(after_known)),
            chain: None,
            slot: Slot::Free,
            running: None,
            scrubbing: None,
            windows: BTreeMap::new(),
            under_way: BTreeMap::new(),
            declare_retry: Retry::default(),
            recover_retry: Retry::default(),
            holding: None,
            out: Vec::new(),
        }
    }

    /// Takes in what happened and says what to do, in order. `now` is the epoch of the newest block known.
    pub fn handle(&mut self, now: Epoch, event: Event) -> Vec<Command> {
        self.take_in(now, event);
        if let Some(view) = self.chain.take() {
            self.follow_chain(now, &view);
            self.publish(now, &view);
            self.close_sectors(now, &view);
            self.drive_sectors(now, &view);
            self.drive_slot(now, &view);
            self.drive_windows(now, &view);
            self.scrub(now, &view);
            self.declare(now, &view);
            self.forget(now, &view);
            self.hold_clock();
            self.chain = Some(view);
        }
        std::mem::take(&mut self.out)
    }

    /// The sectors as known here, for status and for the driver.
    pub fn sectors(&self) -> impl Iterator<Item = &SectorRecord> {
        self.sectors.values().map(|sector| &sector.record)
    }

    /// One sector's record.
    pub fn sector(&self, number: SectorNumber) -> Option<&SectorRecord> {
        self.sectors.get(&number).map(|sector| &sector.record)
    }

    /// One deal's record.
    pub fn deal(&self, id: &DealId) -> Option<&DealRecord> {
        self.deals.get(id).map(|deal| &deal.record)
    }

    /// Deals as known here.
    pub fn deals(&self) -> impl Iterator<Item = &DealRecord> {
        self.deals.values().map(|deal| &deal.record)
    }

    /// Sectors whose replica is known to be damaged.
    pub fn damaged(&self) -> Vec<SectorNumber> {
        self.sectors
            .iter()
            .filter(|(_, sector)| sector.health.damaged)
            .map(|(number, _)| *number)
            .collect()
    }

    /// What a new deal queues behind: sectors that wait for sealing or are in it, and padded bytes of pieces without a sector.
    pub fn backlog(&self) -> (u64, u64) {
        let mut taken: BTreeSet<DealId> = BTreeSet::new();
        let mut sectors = 0u64;
        for sector in self.sectors.values().filter(|s| s.record.holds_deals()) {
            taken.extend(sector.record.deals.iter().copied());
            sectors += u64::from(!matches!(sector.record.stage, Stage::Committed(_)));
        }
        let waiting = self
            .deals
            .values()
            .filter(|deal| !deal.over && !taken.contains(&deal.record.deal))
            .map(|deal| deal.record.piece.size.bytes())
            .sum();
        (sectors, waiting)
    }

    fn take_in(&mut self, now: Epoch, event: Event) {
        match event {
            Event::Received(record) => {
                self.deals
                    .entry(record.deal)
                    .or_insert_with(|| Deal::new(record));
            }
            Event::Chain(view) => self.chain = Some(view),
            Event::SlotGranted => {
                // A grant that crosses our leaving the queue is handed straight back.
                if matches!(self.slot, Slot::Asked(_)) {
                    self.slot = Slot::Held(None);
                } else {
                    self.out.push(Command::ReturnSlot);
                }
            }
            Event::SlotHeldBy(holder) => {
                if let Slot::Asked(kept_since) = &mut self.slot {
                    *kept_since = match holder {
                        SlotHolder::OurChain => None,
                        SlotHolder::Stranger => kept_since.or(Some(now)),
                    };
                }
            }
            Event::Ticket(number, sealing) => {
                if self.finish(number, Job::Ticket) {
                    self.set_stage(number, Stage::Sealing(sealing));
                }
            }
            Event::Replicated {
                sector,
                comm_d,
                comm_r,
                spent,
            } => {
                self.replicated(sector, comm_d, comm_r, spent);
            }
            Event::Proven {
                sector,
                proof,
                spent,
            } => self.proven(sector, proof, spent),
            Event::SealFailed(number, reason) => self.seal_failed(now, number, &reason),
            Event::SealWaits(number, reason) => self.seal_waits(now, number, &reason),
            Event::WindowProven(key, proof) => {
                if let Some(work) = self.windows.get_mut(&key)
                    && let WindowState::Proving { skipped, .. } = &work.state
                {
                    work.state = WindowState::Ready {
                        skipped: skipped.clone(),
                        proof,
                    };
                }
            }
            Event::WindowFaulty(key, sectors) => {
                // Proven again at once, without them: the list gets shorter each time, so this ends.
                if let Some(work) = self.windows.get_mut(&key) {
                    work.state = WindowState::Idle;
                }
                for number in sectors {
                    self.mark_damaged(number, "its window proof's own check");
                }
            }
            Event::WindowFailed(key, reason) => {
                self.window_retry(now, key);
                self.out.push(Command::Note(format!(
                    "window proof of deadline {} partition {} failed and is tried again: {reason}",
                    key.deadline, key.partition
                )));
            }
            Event::Scrubbed(number, health) => self.scrubbed(number, health),
            Event::Rebuilt(number, result) => self.rebuilt(number, result),
            Event::ReportedDamaged(number) => self.mark_damaged(number, "the operator"),
            Event::Outcome(key, outcome) => self.outcome(now, key, outcome),
        }
    }

    fn replicated(&mut self, number: SectorNumber, comm_d: CommD, comm_r: CommR, spent: SealTimes) {
        if !self.finish(number, Job::Seal) {
            return;
        }
        let Some(Stage::Sealing(sealing)) =
            self.sectors.get(&number).map(|s| s.record.stage.clone())
        else {
            return;
        };
        if let Some(sector) = self.sectors.get_mut(&number) {
            sector.record.spent = spent;
        }
        self.set_stage(
            number,
            Stage::Replicated(Replica {
                sealing,
                comm_d,
                comm_r,
            }),
        );
    }

    fn proven(&mut self, number: SectorNumber, proof: Vec<u8>, spent: SealTimes) {
        if !self.finish(number, Job::Prove) {
            return;
        }
        let Some(Stage::PreCommitted(replica, at)) =
            self.sectors.get(&number).map(|s| s.record.stage.clone())
        else {
            return;
        };
        if let Some(sector) = self.sectors.get_mut(&number) {
            sector.record.spent = spent;
            sector.retry = Retry::default();
        }
        self.set_stage(number, Stage::Proven(replica, at, proof));
    }

    fn seal_failed(&mut self, now: Epoch, number: SectorNumber, reason: &str) {
        if self.running.is_some_and(|running| running.sector == number) {
            self.running = None;
        }
        let Some(sector) = self.sectors.get_mut(&number) else {
            return;
        };
        sector.retry = self.settings.next_retry(sector.retry, now);
        let attempts = sector.retry.attempts;
        let early = matches!(sector.record.stage, Stage::Queued | Stage::Sealing(_));
        self.out.push(Command::Note(format!(
            "sealing of sector {number} stopped (attempt {attempts}): {reason}"
        )));
        // After a pre-commit a deposit is at stake: keep trying until the chain's own deadline.
        if early && attempts >= self.settings.max_attempts {
            self.abandon(number, format!("sealing failed {attempts} times: {reason}"));
        }
    }

    /// What passes is no fault of the sector's: it is tried again and never counts as a failed attempt. Told once.
    fn seal_waits(&mut self, now: Epoch, number: SectorNumber, reason: &str) {
        if self.is_running(number) {
            self.running = None;
        }
        let backoff = self.settings.backoff;
        let Some(sector) = self.sectors.get_mut(&number) else {
            return;
        };
        sector.retry.not_before = now.after(backoff);
        if !sector.waits_for_space {
            sector.waits_for_space = true;
            self.out.push(Command::Note(format!(
                "sector {number} waits ({reason}); once that is mended, disk space freed or the folder let go, it goes on where it stopped"
            )));
        }
    }

    fn scrubbed(&mut self, number: SectorNumber, health: Health) {
        if self.scrubbing == Some(number) {
            self.scrubbing = None;
        }
        match health {
            Health::Damaged => self.mark_damaged(number, "the provider's own check"),
            Health::Good { full } => {
                if let Some(sector) = self.sectors.get_mut(&number) {
                    // A sample that happens to look right does not clear known damage; a full check does.
                    sector.health.damaged &= !full;
                    sector.health.proven_good |= full;
                    sector.health.unchecked = false;
                }
            }
            // Said once; it is looked at again, before its next window at the latest.
            Health::Unknown(why) => {
                if let Some(sector) = self.sectors.get_mut(&number)
                    && !std::mem::replace(&mut sector.health.unchecked, true)
                {
                    self.out.push(Command::Note(format!(
                        "the replica of sector {number} was not checked: {why}"
                    )));
                }
            }
        }
    }

    fn rebuilt(&mut self, number: SectorNumber, result: Result<(), String>) {
        self.finish(number, Job::Rebuild);
        let Some(sector) = self.sectors.get_mut(&number) else {
            return;
        };
        match result {
            Ok(()) => {
                sector.health.damaged = false;
                sector.health.proven_good = true;
                self.out.push(Command::Note(format!(
                    "replica of sector {number} was resealed from its pieces"
                )));
            }
            Err(reason) => {
                sector.health.rebuild_failed = true;
                self.out.push(Command::Note(format!(
                    "replica of sector {number} cannot be resealed: {reason}"
                )));
            }
        }
    }

    fn mark_damaged(&mut self, number: SectorNumber, found_by: &str) {
        let Some(sector) = self.sectors.get_mut(&number) else {
            return;
        };
        if !sector.health.damaged {
            sector.health.damaged = true;
            sector.health.rebuild_failed = false;
            self.out.push(Command::Note(format!(
                "replica of sector {number} is damaged, found by {found_by}"
            )));
        }
        sector.health.proven_good = false;
    }

    fn outcome(&mut self, now: Epoch, key: OpKey, outcome: Outcome) {
        let Some(deals) = self.under_way.remove(&key) else {
            return;
        };
        if let Outcome::Refused(reason) = &outcome {
            self.out
                .push(Command::Note(format!("the chain refused {key}: {reason}")));
        }
        let refused = matches!(outcome, Outcome::Refused(_));
        let settings = self.settings;
        match key {
            // Bad proposals are skipped by the chain, so "accepted" says nothing about a single deal: the view does.
            OpKey::Publish => {
                for id in deals {
                    if let Some(deal) = self.deals.get_mut(&id)
                        && outcome != Outcome::Lost
                    {
                        deal.retry = settings.next_retry(deal.retry, now);
                    }
                }
            }
            OpKey::PreCommit(number) | OpKey::ProveCommit(number) => {
                if refused && let Some(sector) = self.sectors.get_mut(&number) {
                    sector.retry = settings.next_retry(sector.retry, now);
                }
            }
            OpKey::PostWindow(window) => {
                if refused {
                    self.window_retry(now, window);
                }
            }
            OpKey::DeclareFaults => {
                self.declare_retry = if refused {
                    settings.next_retry(self.declare_retry, now)
                } else {
                    Retry::default()
                };
            }
            OpKey::DeclareRecovered => {
                self.recover_retry = if refused {
                    settings.next_retry(self.recover_retry, now)
                } else {
                    Retry::default()
                };
            }
        }
    }

    /// Lets a window be proven again. A window is short, so in the next epoch rather than after the usual pause.
    fn window_retry(&mut self, now: Epoch, key: WindowKey) {
        if let Some(work) = self.windows.get_mut(&key) {
            work.state = WindowState::Idle;
            work.retry.attempts = work.retry.attempts.saturating_add(1);
            work.retry.not_before = now.next();
        }
    }

    /// Brings our records to what the chain shows.
    fn follow_chain(&mut self, now: Epoch, view: &ChainView) {
        for (id, deal) in &mut self.deals {
            if deal.published.is_none() && view.deals.contains_key(id) {
                deal.published = Some(now);
            }
            deal.over = view.deals.get(id) == Some(&DealOnChain::Over);
        }
        let numbers: Vec<SectorNumber> = self.sectors.keys().copied().collect();
        for number in numbers {
            self.follow_sector(now, number, view);
        }
        let used = view.sectors.keys().chain(view.precommits.keys()).max();
        if let Some(used) = used {
            self.next_number = SectorNumber(self.next_number.0.max(used.0.saturating_add(1)));
        }
        self.windows.retain(|key, _| {
            view.windows
                .iter()
                .any(|window| window.key == *key && !window.posted)
        });
    }

    fn follow_sector(&mut self, now: Epoch, number: SectorNumber, view: &ChainView) {
        let Some(sector) = self.sectors.get(&number) else {
            return;
        };
        let stage = sector.record.stage.clone();
        let replica = sector.record.replica().copied();
        let on_chain = view.sectors.contains_key(&number);
        match (stage, replica) {
            (Stage::Committed(_), _) => self.follow_health(number, view),
            (_, Some(replica)) if on_chain => self.set_stage(number, Stage::Committed(replica)),
            (Stage::Replicated(_) | Stage::PreCommitting(..), Some(replica)) => {
                if let Some(at) = view.precommits.get(&number) {
                    self.set_stage(number, Stage::PreCommitted(replica, *at));
                }
            }
            (Stage::PreCommitted(_, at) | Stage::Proven(_, at, _), _) => {
                let gone = !view.precommits.contains_key(&number);
                let expired = now.0 > at.0.saturating_add(self.rules.precommit_max.0);
                if gone && expired && !self.is_running(number) {
                    self.abandon(
                        number,
                        "its pre-commit expired before the proof was accepted".to_owned(),
                    );
                }
            }
            _ => {}
        }
    }

    fn follow_health(&mut self, number: SectorNumber, view: &ChainView) {
        let faulty = view.sectors.get(&number) == Some(&SectorState::Faulty);
        if let Some(sector) = self.sectors.get_mut(&number) {
            // A check from before a fault says nothing about the fault.
            if !faulty && !sector.health.damaged {
                sector.health.proven_good = false;
            }
        }
    }

    fn publish(&mut self, now: Epoch, view: &ChainView) {
        if self.under_way.contains_key(&OpKey::Publish) {
            return;
        }
        let hopeless = self.settings.pack.hopeless.0;
        let max = self.settings.max_attempts;
        let ready: Vec<DealId> = self
            .deals
            .iter()
            .filter(|(id, deal)| {
                !view.deals.contains_key(id)
                    && deal.published.is_none()
                    && deal.retry.is_due(now)
                    && deal.retry.attempts < max
                    && deal.record.start.0 > now.0.saturating_add(hopeless)
            })
            .map(|(id, _)| *id)
            .take(MAX_DEALS_PER_PUBLISH)
            .collect();
        if !ready.is_empty() {
            self.submit(Op::Publish(ready));
        }
    }

    /// Closes as many sectors as the waiting pieces justify.
    fn close_sectors(&mut self, now: Epoch, view: &ChainView) {
        let mut taken: BTreeSet<DealId> = self
            .sectors
            .values()
            .filter(|sector| sector.record.holds_deals())
            .flat_map(|sector| sector.record.deals.iter().copied())
            .collect();
        for _ in 0..MAX_SECTORS_PER_STEP {
            let waiting: Vec<WaitingPiece> = self
                .deals
                .values()
                .filter(|deal| !taken.contains(&deal.record.deal))
                .filter_map(|deal| {
                    Some(WaitingPiece {
                        deal: deal.record.deal,
                        size: deal.record.piece.size,
                        start: view.begin_by(&deal.record.deal)?,
                        end: deal.record.end,
                        published: deal.published.unwrap_or(now),
                    })
                })
                .collect();
            let Some(deals) = pack::choose(&waiting, now, &self.settings.pack) else {
                return;
            };
            taken.extend(deals.iter().copied());
            self.new_sector(deals);
        }
    }

    fn new_sector(&mut self, deals: Vec<DealId>) {
        let number = self.next_number;
        self.next_number = SectorNumber(number.0.saturating_add(1));
        // The counter first: a number that was ever written down is never given out again.
        self.out.push(Command::SaveCounter(self.next_number));
        let record = SectorRecord {
            number,
            deals,
            stage: Stage::Queued,
            spent: SealTimes::default(),
        };
        self.out.push(Command::SaveSector(record.clone()));
        self.sectors.insert(number, Sector::new(record));
    }

    /// Sends what is ready: pre-commits (slot held) and proofs.
    fn drive_sectors(&mut self, now: Epoch, view: &ChainView) {
        let numbers: Vec<SectorNumber> = self.sectors.keys().copied().collect();
        for number in numbers {
            let Some(sector) = self.sectors.get(&number) else {
                continue;
            };
            if !sector.retry.is_due(now) {
                continue;
            }
            match sector.record.stage.clone() {
                Stage::Replicated(replica) | Stage::PreCommitting(replica, _) => {
                    self.pre_commit(now, number, &replica, view);
                }
                Stage::Proven(_, _, proof)
                    if !self.under_way.contains_key(&OpKey::ProveCommit(number)) =>
                {
                    self.submit(Op::ProveCommit(number, proof));
                }
                _ => {}
            }
        }
    }

    fn pre_commit(
        &mut self,
        now: Epoch,
        number: SectorNumber,
        replica: &Replica,
        view: &ChainView,
    ) {
        let in_flight = self.under_way.contains_key(&OpKey::PreCommit(number));
        if in_flight || self.slot != Slot::Held(Some(number)) || view.in_debt {
            return;
        }
        let Some(sector) = self.sectors.get(&number) else {
            return;
        };
        if sector.retry.attempts >= self.settings.max_attempts {
            let reason = format!("its pre-commit was refused {} times", sector.retry.attempts);
            return self.abandon(number, reason);
        }
        let deals = sector.record.deals.clone();
        // The pre-commit is in a block after this one, and its proof in one after its seed's.
        let earliest = now.next().after(self.rules.seed_delay).next();
        let in_time = |id| view.begin_by(id).is_some_and(|last| last >= earliest);
        if !deals.iter().all(in_time) {
            return self.abandon(
                number,
                "one of its deals can no longer start in time".to_owned(),
            );
        }
        let ticket_age = now.0.saturating_sub(replica.sealing.ticket_epoch.0);
        if ticket_age.saturating_add(INCLUSION_SLACK) >= self.rules.ticket_max_age.0 {
            self.out.push(Command::Note(format!(
                "the ticket of sector {number} is {ticket_age} epochs old; sealing starts over with a new one"
            )));
            self.out.push(Command::DiscardReplica(number));
            return self.set_stage(number, Stage::Queued);
        }
        let Some(expiration) = self.expiration(now, &deals) else {
            return self.abandon(
                number,
                "its deals end later than a sector may live".to_owned(),
            );
        };
        self.set_stage(number, Stage::PreCommitting(*replica, expiration));
        self.submit(Op::PreCommit(number, expiration));
    }

    /// Long enough for its deals and for the chain's shortest life, or `None` if that is longer than it allows.
    fn expiration(&self, now: Epoch, deals: &[DealId]) -> Option<Epoch> {
        let rules = &self.rules;
        let shortest = now.0 + rules.precommit_max.0 + rules.min_sector_life.0 + INCLUSION_SLACK;
        let last_end = deals
            .iter()
            .filter_map(|id| self.deals.get(id))
            .map(|deal| deal.record.end.0)
            .max()?;
        let expiration = shortest.max(last_end);
        (expiration <= now.0 + rules.max_sector_life.0).then_some(Epoch(expiration))
    }

    /// Gives the machine's proving slot to the most urgent work, asks for it or returns it.
    fn drive_slot(&mut self, now: Epoch, view: &ChainView) {
        if self.running.is_some() {
            return;
        }
        let wanted = self.next_for_slot(now, view);
        match (self.slot, wanted) {
            (Slot::Free, Some(_)) => self.ask_slot(),
            (Slot::Asked(_) | Slot::Held(_), None) => {
                self.slot = Slot::Free;
                self.out.push(Command::ReturnSlot);
            }
            // The sector it served is done, or has to wait: back to the end of the line with the next one.
            (Slot::Held(Some(served)), Some((number, _))) if served != number => {
                self.out.push(Command::ReturnSlot);
                self.ask_slot();
            }
            (Slot::Held(_), Some((number, job))) => {
                self.slot = Slot::Held(Some(number));
                if let Some(job) = job {
                    self.start(now, number, job);
                }
            }
            (Slot::Free, None) | (Slot::Asked(_), Some(_)) => {}
        }
    }

    fn ask_slot(&mut self) {
        self.slot = Slot::Asked(None);
        self.out.push(Command::AskSlot);
    }

    /// Who needs the slot next, and the job to start now (`None`: keep it, the chain has to move first).
    /// Sectors with a deposit at stake go first, then those further on, then by number; repairs last.
    fn next_for_slot(&self, now: Epoch, view: &ChainView) -> Option<(SectorNumber, Option<Job>)> {
        let rank = |stage: &Stage| match stage {
            Stage::PreCommitted(..) => Some(0),
            Stage::PreCommitting(..) => Some(1),
            Stage::Replicated(_) => Some(2),
            Stage::Sealing(_) => Some(3),
            Stage::Queued => Some(4),
            Stage::Proven(..) | Stage::Committed(_) | Stage::Abandoned(_) => None,
        };
        let sealing = self
            .sectors
            .values()
            .filter(|sector| sector.retry.is_due(now))
            .filter_map(|sector| Some((rank(&sector.record.stage)?, sector.record.number)))
            .min();
        if let Some((_, number)) = sealing {
            let job = match &self.sectors.get(&number)?.record.stage {
                Stage::Queued => Some(Job::Ticket),
                Stage::Sealing(_) => Some(Job::Seal),
                Stage::PreCommitted(_, at) => {
                    (now.0 >= at.0 + self.rules.seed_delay.0).then_some(Job::Prove)
                }
                _ => None,
            };
            return Some((number, job));
        }
        self.sectors
            .values()
            .find(|sector| {
                self.settings.auto_repair
                    && sector.health.damaged
                    && !sector.health.rebuild_failed
                    && view.sectors.contains_key(&sector.record.number)
            })
            .map(|sector| (sector.record.number, Some(Job::Rebuild)))
    }

    fn start(&mut self, now: Epoch, number: SectorNumber, job: Job) {
        let Some(sector) = self.sectors.get(&number) else {
            return;
        };
        let (command, due) = match (&sector.record.stage, job) {
            (Stage::Queued, Job::Ticket) => (Command::DrawTicket(number, now), None),
            (Stage::Sealing(_), Job::Seal) => (Command::Seal(number), self.due(sector)),
            (Stage::PreCommitted(_, at), Job::Prove) => (
                Command::Prove(number, Epoch(at.0 + self.rules.seed_delay.0)),
                self.due(sector),
            ),
            (_, Job::Rebuild) => (Command::Rebuild(number), None),
            _ => return,
        };
        self.running = Some(Running {
            sector: number,
            job,
            since: now,
            due,
        });
        self.out.push(command);
    }

    /// The chain's next deadline for a sector that still needs the slot: its deals' first start, the end of its ticket or of its
    /// pre-commit.
    fn due(&self, sector: &Sector) -> Option<Epoch> {
        let rules = &self.rules;
        let own = match &sector.record.stage {
            Stage::Queued => None,
            Stage::Sealing(sealing) => Some(sealing.ticket_epoch.0 + rules.ticket_max_age.0),
            Stage::Replicated(replica) | Stage::PreCommitting(replica, _) => {
                Some(replica.sealing.ticket_epoch.0 + rules.ticket_max_age.0)
            }
            Stage::PreCommitted(_, at) => Some(at.0 + rules.precommit_max.0),
            Stage::Proven(..) | Stage::Committed(_) | Stage::Abandoned(_) => return None,
        };
        let deals = sector.record.deals.iter();
        deals
            .filter_map(|id| self.deals.get(id))
            .map(|deal| deal.record.start.0)
            .chain(own)
            .min()
            .map(Epoch)
    }

    /// Begins each post when its challenge is known and sends it when its deadline is open.
    fn drive_windows(&mut self, now: Epoch, view: &ChainView) {
        for window in view.windows.iter().filter(|window| !window.posted) {
            let key = window.key;
            let challenge = Epoch(key.open.0.saturating_sub(self.rules.post_lookback.0));
            let in_time = now >= challenge && now < window.close;
            let work = self.windows.get(&key).cloned().unwrap_or(WindowWork {
                retry: Retry::default(),
                state: WindowState::Idle,
            });
            match work.state {
                WindowState::Idle => {
                    let allowed =
                        work.retry.is_due(now) && work.retry.attempts < self.settings.max_attempts;
                    if in_time && allowed {
                        self.prove_window(now, window, challenge, view);
                    }
                }
                WindowState::Ready { skipped, proof } => {
                    let sent = self.under_way.contains_key(&OpKey::PostWindow(key));
                    if in_time && now >= key.open && !sent {
                        self.submit(Op::PostWindow {
                            key,
                            skipped,
                            proof,
                        });
                    }
                }
                WindowState::Proving { .. } => {}
            }
        }
    }

    fn prove_window(&mut self, now: Epoch, window: &Window, challenge: Epoch, view: &ChainView) {
        let mut sectors = Vec::new();
        let mut skipped = Vec::new();
        for number in &window.sectors {
            if view
                .sectors
                .get(number)
                .is_none_or(|state| *state == SectorState::Faulty)
            {
                continue;
            }
            // A sector of ours whose record is lost cannot be proven, so it is skipped like a damaged one.
            let replica = self
                .sectors
                .get(number)
                .filter(|sector| !sector.health.damaged)
                .and_then(|sector| sector.record.replica());
            match replica {
                Some(replica) => sectors.push((*number, replica.comm_r)),
                None => skipped.push(*number),
            }
        }
        if sectors.is_empty() {
            return;
        }
        let retry = self
            .windows
            .get(&window.key)
            .map_or(Retry::default(), |work| work.retry);
        let state = WindowState::Proving {
            since: now,
            close: window.close,
            skipped,
        };
        self.windows.insert(window.key, WindowWork { retry, state });
        self.out.push(Command::ProveWindow {
            key: window.key,
            challenge,
            sectors,
        });
    }

    /// Looks at each replica once per proving period, early enough to declare what it finds.
    fn scrub(&mut self, now: Epoch, view: &ChainView) {
        if self.scrubbing.is_some() {
            return;
        }
        for window in &view.windows {
            let cutoff = window.key.open.0.saturating_sub(self.rules.fault_cutoff.0);
            let begin = cutoff.saturating_sub(self.settings.scrub_lead.0);
            for number in &window.sectors {
                let faulty = view.sectors.get(number) == Some(&SectorState::Faulty);
                let Some(sector) = self.sectors.get_mut(number) else {
                    continue;
                };
                let health = &mut sector.health;
                let due =
                    now.0 >= begin && now.0 < cutoff && health.checked_for != Some(window.key.open);
                let clearing = faulty && !health.damaged && !health.proven_good;
                if health.damaged
                    || self.running.is_some_and(|r| r.sector == *number)
                    || !(due || clearing)
                {
                    continue;
                }
                health.checked_for = Some(window.key.open);
                health.checks = health.checks.wrapping_add(1);
                let every = self.settings.full_scrub_every.max(1);
                let full = clearing || health.checks.is_multiple_of(every);
                self.scrubbing = Some(*number);
                self.out.push(Command::Scrub {
                    sector: *number,
                    full,
                });
                return;
            }
        }
    }

    /// Declares damage and recovery while the chain still takes it.
    fn declare(&mut self, now: Epoch, view: &ChainView) {
        let mut faults = Vec::new();
        let mut recovered = Vec::new();
        for window in &view.windows {
            // The declaration is included one epoch later at the soonest.
            if now.0 + 1 + self.rules.fault_cutoff.0 >= window.key.open.0 {
                continue;
            }
            for number in &window.sectors {
                let Some(sector) = self.sectors.get(number) else {
                    continue;
                };
                match view.sectors.get(number) {
                    Some(SectorState::Faulty)
                        if sector.health.proven_good && !sector.health.damaged =>
                    {
                        recovered.push(*number);
                    }
                    Some(SectorState::Faulty) | None => {}
                    Some(_) if sector.health.damaged => faults.push(*number),
                    Some(_) => {}
                }
            }
        }
        if !faults.is_empty()
            && self.declare_retry.is_due(now)
            && !self.under_way.contains_key(&OpKey::DeclareFaults)
        {
            self.submit(Op::DeclareFaults(faults));
        }
        if !recovered.is_empty()
            && !view.in_debt
            && self.recover_retry.is_due(now)
            && !self.under_way.contains_key(&OpKey::DeclareRecovered)
        {
            self.submit(Op::DeclareRecovered(recovered));
        }
    }

    /// Lets go of what the chain no longer asks for.
    fn forget(&mut self, now: Epoch, view: &ChainView) {
        let gone: Vec<SectorNumber> = self
            .sectors
            .values()
            .filter(|sector| match &sector.record.stage {
                Stage::Abandoned(_) => true,
                Stage::Committed(_) => !view.sectors.contains_key(&sector.record.number),
                _ => false,
            })
            .map(|sector| sector.record.number)
            .filter(|number| !self.is_running(*number) && self.scrubbing != Some(*number))
            .collect();
        for number in gone {
            self.sectors.remove(&number);
            self.out.push(Command::ForgetSector(number));
        }
        let held: BTreeSet<DealId> = self
            .sectors
            .values()
            .flat_map(|sector| sector.record.deals.iter().copied())
            .collect();
        let publishing = self.under_way.contains_key(&OpKey::Publish);
        let over: Vec<DealId> = self
            .deals
            .values()
            .filter(|deal| match view.deals.get(&deal.record.deal) {
                Some(DealOnChain::Over) => true,
                Some(_) => false,
                // Never published and too late for it. (A slashed deal that the chain forgot looks the same.)
                None => !publishing && now > deal.record.start,
            })
            .map(|deal| deal.record.deal)
            .filter(|id| !held.contains(id))
            .collect();
        for id in over {
            self.deals.remove(&id);
            self.out.push(Command::ForgetDeal(id));
        }
    }

    fn hold_clock(&mut self) {
        let settings = self.settings;
        // The job may use `hold_after` epochs of chain time, but never come nearer to its deadline than the reserve.
        let until = |since: Epoch, due: Epoch| {
            since
                .after(settings.hold_after)
                .min(due.before(settings.hold_reserve))
        };
        let sealing = self
            .running
            .and_then(|running| running.due.map(|due| until(running.since, due)));
        // A stranger has the slot: the most urgent sector in our line counts as running. With our own chain's holder nothing
        // is held here: it waits for the blocks that we would hold back.
        let queueing = match self.slot {
            Slot::Asked(Some(since)) => self
                .sectors
                .values()
                .filter_map(|sector| self.due(sector))
                .min()
                .map(|due| until(since, due)),
            Slot::Free | Slot::Asked(None) | Slot::Held(_) => None,
        };
        let posting = self.windows.values().filter_map(|work| match work.state {
            WindowState::Proving { since, close, .. } => Some(until(since, close)),
            WindowState::Ready { .. } | WindowState::Idle => None,
        });
        let wanted = sealing.into_iter().chain(queueing).chain(posting).min();
        if wanted != self.holding {
            self.holding = wanted;
            self.out.push(match wanted {
                Some(before) => Command::Hold(before),
                None => Command::Release,
            });
        }
    }

    fn submit(&mut self, op: Op) {
        let deals = match &op {
            Op::Publish(deals) => deals.clone(),
            _ => Vec::new(),
        };
        self.under_way.insert(op.key(), deals);
        self.out.push(Command::Submit(op));
    }

    /// Ends the running job if it is this one.
    fn finish(&mut self, number: SectorNumber, job: Job) -> bool {
        let ours = self
            .running
            .is_some_and(|running| running.sector == number && running.job == job);
        if ours {
            self.running = None;
        }
        ours
    }

    fn is_running(&self, number: SectorNumber) -> bool {
        self.running.is_some_and(|running| running.sector == number)
    }

    fn set_stage(&mut self, number: SectorNumber, stage: Stage) {
        if let Some(sector) = self.sectors.get_mut(&number)
            && sector.record.stage != stage
        {
            sector.record.stage = stage;
            sector.waits_for_space = false;
            self.out.push(Command::SaveSector(sector.record.clone()));
        }
    }

    fn abandon(&mut self, number: SectorNumber, reason: String) {
        self.out.push(Command::Note(format!(
            "sector {number} is given up: {reason}"
        )));
        self.set_stage(number, Stage::Abandoned(reason));
    }
}

/// Most deals in one publication: bounds the transaction.
const MAX_DEALS_PER_PUBLISH: usize = 32;
/// Most sectors closed in one step; the next step goes on.
const MAX_SECTORS_PER_STEP: usize = 16;

impl Deal {
    fn new(record: DealRecord) -> Self {
        Self {
            record,
            published: None,
            over: false,
            retry: Retry::default(),
        }
    }
}

impl Sector {
    fn new(record: SectorRecord) -> Self {
        Self {
            record,
            retry: Retry::default(),
            waits_for_space: false,
            health: HealthNote::default(),
        }
    }
}

impl Retry {
    fn is_due(&self, now: Epoch) -> bool {
        now >= self.not_before
    }
}

impl Settings {
    fn next_retry(&self, before: Retry, now: Epoch) -> Retry {
        Retry {
            attempts: before.attempts.saturating_add(1),
            not_before: Epoch(now.0.saturating_add(self.backoff.0)),
        }
    }
}

impl std::fmt::Display for OpKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Publish => write!(f, "the publication of deals"),
            Self::PreCommit(number) => write!(f, "the pre-commit of sector {number}"),
            Self::ProveCommit(number) => write!(f, "the proof of sector {number}"),
            Self::PostWindow(key) => {
                write!(
                    f,
                    "the window post of deadline {} partition {}",
                    key.deadline, key.partition
                )
            }
            Self::DeclareFaults => write!(f, "the declaration of faults"),
            Self::DeclareRecovered => write!(f, "the declaration of recovery"),
        }
    }
}

#[cfg(test)]
mod tests;
