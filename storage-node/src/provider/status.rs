//! What a provider shows of itself: one serialisable value for `provider status`, the devnet and the demo.
//!
//! Place: filled by [`super::worker`] after every step, read by anybody who holds the [`StatusWatch`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chain_lite::account::{Address, DealId, ProviderId};
use chain_lite::units::{Epoch, TokenAmount};
use prover::progress::{percent, time_left};
use prover::{CommD, CommR, SectorNumber, SectorSize};
use serde::{Deserialize, Serialize};

use super::lifecycle::{SealTimes, SectorRecord, Stage};
use super::treasury::TreasuryStatus;

/// Notes kept for people who look later.
const NOTES: usize = 100;

/// A provider at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// Its id on the chain.
    pub provider: ProviderId,
    /// Whose money.
    pub owner: Address,
    /// Size of its sectors.
    pub sector_size: SectorSize,
    /// Where clients reach it.
    pub quic: String,
    /// Newest block it has seen.
    pub epoch: Epoch,
    /// Height of that block.
    pub height: u64,
    /// Whether the chain answers.
    pub chain_reachable: bool,
    /// Why it takes no more pieces until its next start: its disk failed to keep one. Stays, however much happens afterwards.
    #[serde(default)]
    pub closed: Option<String>,
    /// Money on the chain.
    pub money: Money,
    /// How money is kept ready.
    pub treasury: TreasuryStatus,
    /// Its sectors.
    pub sectors: Vec<SectorStatus>,
    /// Its deals.
    pub deals: Vec<DealStatus>,
    /// Window posts that are due next, soonest first.
    pub due: Vec<DueWindow>,
    /// What it is doing now.
    pub working_on: Option<String>,
    /// How far the sealing lane's present stage is.
    pub sealing_stage: Option<StageStatus>,
    /// How far the window lane's present stage is.
    pub posting_stage: Option<StageStatus>,
    /// Padded bytes of pieces held.
    pub held_bytes: u64,
    /// Padded bytes it would still take.
    pub free_bytes: u64,
    /// Transactions on their way.
    pub transactions: usize,
    /// Whether it holds the devnet's clock.
    pub holds_clock: bool,
    /// What happened, oldest first; the last hundred.
    pub notes: VecDeque<Note>,
    /// How many notes there were in all.
    pub notes_in_all: usize,
}

impl ProviderStatus {
    /// One that has seen nothing yet.
    pub fn new(
        provider: ProviderId,
        owner: Address,
        sector_size: SectorSize,
        quic: String,
    ) -> Self {
        Self {
            provider,
            owner,
            sector_size,
            quic,
            epoch: Epoch(0),
            height: 0,
            chain_reachable: true,
            closed: None,
            money: Money::default(),
            treasury: TreasuryStatus::default(),
            sectors: Vec::new(),
            deals: Vec::new(),
            due: Vec::new(),
            working_on: None,
            sealing_stage: None,
            posting_stage: None,
            held_bytes: 0,
            free_bytes: 0,
            transactions: 0,
            holds_clock: false,
            notes: VecDeque::new(),
            notes_in_all: 0,
        }
    }
}

/// A long step at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStatus {
    /// The prover's word for it.
    pub stage: String,
    /// How much of it is done.
    pub percent: u8,
    /// Seconds that the rest takes when it goes on as it went; `None` while that cannot be told.
    #[serde(default)]
    pub seconds_left: Option<u64>,
}

/// Balances of a provider.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Money {
    /// All it has on the chain.
    pub balance: TokenAmount,
    /// What it may withdraw.
    pub available: TokenAmount,
    /// Locked for its sectors.
    pub pledge: TokenAmount,
    /// Locked for its pre-commits.
    pub deposits: TokenAmount,
    /// Rewards that become free later.
    pub vesting: TokenAmount,
    /// Unpaid penalties.
    pub fee_debt: TokenAmount,
    /// Escrow for deals, all of it.
    pub escrow: TokenAmount,
    /// The part that deals lock.
    pub escrow_locked: TokenAmount,
}

/// A sector.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SectorStatus {
    /// Its number.
    pub number: SectorNumber,
    /// Where it is: `queued`, `sealing`, … as in the life cycle; `committed` ones carry the chain's state.
    pub stage: String,
    /// The chain's state: `unproven`, `active`, `faulty`, `recovering`.
    pub state: Option<String>,
    /// Known to be damaged.
    pub damaged: bool,
    /// Deals in it.
    pub deals: Vec<DealId>,
    /// Root of the data.
    pub comm_d: Option<CommD>,
    /// Commitment to the replica.
    pub comm_r: Option<CommR>,
    /// Time spent sealing it.
    pub spent: SealTimes,
    /// Its folder.
    pub dir: std::path::PathBuf,
}

/// A deal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DealStatus {
    /// Its id.
    pub deal: DealId,
    /// The chain's state, if it is there.
    pub state: Option<String>,
    /// Bytes as received.
    pub bytes: u64,
    /// Last epoch for activation.
    pub start: Epoch,
    /// First epoch after it.
    pub end: Epoch,
}

/// A window post to come.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DueWindow {
    /// Deadline index.
    pub deadline: u64,
    /// Partition index.
    pub partition: u64,
    /// First epoch of the window.
    pub open: Epoch,
    /// First epoch after it.
    pub close: Epoch,
    /// Already posted.
    pub posted: bool,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Note {
    /// When, on the chain's clock.
    pub epoch: Epoch,
    /// What.
    pub text: String,
}

/// The newest status, shared.
#[derive(Clone, Debug)]
pub struct StatusWatch {
    status: Arc<RwLock<ProviderStatus>>,
    sealing: Arc<LaneProgress>,
    posting: Arc<LaneProgress>,
}

/// Progress of one lane's job, counted by the prover's threads and read by whoever asks for the status.
#[derive(Debug, Default)]
pub struct LaneProgress {
    /// Its name, and when it began.
    stage: Mutex<Option<(&'static str, Instant)>>,
    done: AtomicU64,
    total: AtomicU64,
}

impl LaneProgress {
    fn status(&self) -> Option<StageStatus> {
        // Held until the counts are read: the next stage must not lend this one its own.
        let now = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let (stage, begun) = (*now)?;
        Some(self.status_after(stage, begun.elapsed()))
    }

    /// The status of a stage that began so long ago.
    fn status_after(&self, stage: &str, elapsed: Duration) -> StageStatus {
        let total = self.total.load(Ordering::Relaxed).max(1);
        let done = self.done.load(Ordering::Relaxed).min(total);
        StageStatus {
            stage: stage.to_owned(),
            percent: percent(done, total),
            seconds_left: time_left(done, total, elapsed).map(|left| left.as_secs()),
        }
    }

    fn set(&self, stage: Option<&'static str>, total: u64) {
        let mut now = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        *now = stage.map(|stage| (stage, Instant::now()));
    }
}

impl prover::Progress for LaneProgress {
    fn start(&self, stage: &'static str, total: u64) {
        self.set(Some(stage), total);
    }

    fn advance(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }

    fn finish(&self) {
        self.set(None, 0);
    }
}

impl StatusWatch {
    /// Starts with this value.
    pub fn new(status: ProviderStatus) -> Self {
        Self {
            status: Arc::new(RwLock::new(status)),
            sealing: Arc::default(),
            posting: Arc::default(),
        }
    }

    /// The newest value.
    pub fn get(&self) -> ProviderStatus {
        let mut status = self
            .status
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        status.sealing_stage = self.sealing.status();
        status.posting_stage = self.posting.status();
        status
    }

    /// Where the sealing lane counts.
    pub fn sealing(&self) -> Arc<LaneProgress> {
        Arc::clone(&self.sealing)
    }

    /// Where the window lane counts.
    pub fn posting(&self) -> Arc<LaneProgress> {
        Arc::clone(&self.posting)
    }

    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut ProviderStatus)) {
        change(&mut self.status.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// From now on until the next start no piece is taken, for this reason. True if that is new: the first reason stays.
    pub fn close(&self, reason: &str) -> bool {
        let mut is_new = false;
        self.update(|status| {
            is_new = status.closed.is_none();
            status.closed.get_or_insert_with(|| reason.to_owned());
        });
        is_new
    }

    /// Adds a note.
    pub fn note(&self, epoch: Epoch, text: String) {
        self.update(|status| {
            if status.notes.len() >= NOTES {
                status.notes.pop_front();
            }
            status.notes.push_back(Note { epoch, text });
            status.notes_in_all += 1;
        });
    }
}

impl StatusWatch {
    /// How many notes there are in all, and those after the first `seen` that are still kept.
    pub fn notes_after(&self, seen: usize) -> (usize, Vec<Note>) {
        let status = self.status.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = status.notes_in_all.saturating_sub(seen);
        let skip = status.notes.len().saturating_sub(fresh);
        (
            status.notes_in_all,
            status.notes.iter().skip(skip).cloned().collect(),
        )
    }
}

/// The life cycle's stage in one word.
pub fn stage_name(stage: &Stage) -> &'static str {
    match stage {
        Stage::Queued => "queued",
        Stage::Sealing(_) => "sealing",
        Stage::Replicated(_) => "replicated",
        Stage::PreCommitting(..) => "pre-committing",
        Stage::PreCommitted(..) => "pre-committed",
        Stage::Proven(..) => "proven",
        Stage::Committed(_) => "committed",
        Stage::Abandoned(_) => "abandoned",
    }
}

/// A record as status shows it.
pub fn sector_status(
    record: &SectorRecord,
    state: Option<String>,
    damaged: bool,
    dir: std::path::PathBuf,
) -> SectorStatus {
    SectorStatus {
        number: record.number,
        stage: stage_name(&record.stage).to_owned(),
        state,
        damaged,
        deals: record.deals.clone(),
        comm_d: record.replica().map(|replica| replica.comm_d),
        comm_r: record.replica().map(|replica| replica.comm_r),
        spent: record.spent,
        dir,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use prover::Progress;

    /// A provider that has just started, for tests of what is shown of one.
    pub(crate) fn fresh() -> ProviderStatus {
        let size = SectorSize::Kib2;
        ProviderStatus::new(ProviderId(1000), Address([1; 32]), size, String::new())
    }

    #[test]
    fn a_stage_shows_its_percentage_while_it_runs_and_nothing_afterwards() {
        let lane = LaneProgress::default();
        assert_eq!(lane.status(), None);
        lane.start("labels", 8);
        lane.advance(3);
        let shown = lane.status().expect("it runs");
        assert_eq!((shown.stage.as_str(), shown.percent), ("labels", 37));
        let after = |seconds| lane.status_after("labels", Duration::from_secs(seconds));
        assert_eq!(
            after(6).seconds_left,
            Some(10),
            "five of eight, as the three"
        );
        lane.advance(100);
        assert_eq!(lane.status().map(|stage| stage.percent), Some(100));
        assert_eq!(after(6).seconds_left, Some(0));
        lane.start("columns", 0);
        let begun = lane.status().map(|now| (now.percent, now.seconds_left));
        assert_eq!(begun, Some((0, None)), "nothing to reckon with");
        lane.finish();
        assert_eq!(lane.status(), None);
    }
}
