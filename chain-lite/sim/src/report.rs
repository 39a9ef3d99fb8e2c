//! What a run was like, or the promise that it broke.

use std::fmt;

use chain_lite::units::Epoch;

use crate::disk::Struck;
use crate::foes::LIES;
use crate::sync::Counts;

/// Kinds of trouble that are counted.
pub const TROUBLES: usize = 12;

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
    /// Starts that a machine refused because its journal has votes under its key that are not its own.
    pub not_ours: u64,
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
    /// What came of value sync.
    pub sync: Counts,
    /// With more than a third of the keys doubled: the fork at which the run ended.
    pub fork: Option<Fork>,
    /// Deals of honest providers that were kept to their end.
    pub kept: u64,
    /// And those that came into a block when it was too late to begin them, and cost their provider the collateral.
    pub late: u64,
    /// Lies of proposers, by kind ([`crate::foes::lie`]).
    pub lies: [u64; LIES],
    /// Messages of others that a forger sent on changed.
    pub forged: u64,
    /// Signatures that a node refused.
    pub bad_signatures: u64,
    /// Turns in which a colluder proposed two blocks, and votes that it cast twice.
    pub two_blocks: u64,
    /// See [`Report::two_blocks`].
    pub two_votes: u64,
    /// Messages that a colluder kept from somebody, or told late.
    pub withheld: u64,
    /// See [`Report::withheld`].
    pub told_late: u64,
    /// Two proposals of one turn, as often as a node saw that.
    pub two_proposals: u64,
    /// Most undecided blocks that a sound node kept after a decision, and bytes of unfinished ones.
    pub most_kept: u64,
    /// See [`Report::most_kept`].
    pub most_waiting: u64,
}

/// Two final blocks of one height, on sound nodes, and whom they convict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The height.
    pub height: u64,
    /// In which rounds the two were decided.
    pub rounds: (u32, u32),
    /// Keys whose signature is in both certificates.
    pub signed_both: usize,
    /// Keys that the two certificates alone convict: of one round.
    pub by_certificates: usize,
    /// Keys whose two votes for one round the sound nodes have in hand: the chain jails them.
    pub jailed: usize,
    /// These, and keys that forgot what bound them.
    pub convicted: usize,
    /// Keys that the nodes had reported before that.
    pub reported: usize,
}

impl Report {
    /// What an ordered fault of a disk has come to.
    pub(crate) fn count(&mut self, of: Struck) {
        self.troubles[1] += of.cuts;
        self.troubles[2] += of.full;
        self.troubles[3] += of.failed;
        self.torn += of.torn;
        self.names += of.names;
    }
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
