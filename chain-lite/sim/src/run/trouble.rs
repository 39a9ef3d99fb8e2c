//! What breaks, and what its operator does about it.
//!
//! A sector of a block log or journal that rots stops its node at the latest when it starts again (`threat-model.md` H3); that it
//! starts all the same is a failure. Then its operator puts the file back from a copy, or gives it an empty disk. Who lost its
//! journal does not know what it said, so it follows under another key until the height that it may have voted in is over.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use chain_lite::certificate::ValidatorId;
use chain_lite::vfs::Vfs as _;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{CALM_MS, DRIFT_MS, Event, Machine, Outcome, World};
use crate::disk::{Rot, UNREADABLE};
use crate::node::HOME;

/// How far a clock jumps.
const HOUR_MS: i64 = 3_600_000;
/// How long a key runs on two machines at the least.
const LEAST_VISIT_MS: u64 = 5 * 60_000;
/// What nodes say of files that rotted, besides damage that they name so: of the first bytes of a log, and of a kept proposal when
/// its block is decided.
const NO_LOG: &str = "neither a block log nor an export";
const NO_BODY: &str = "its body is not here";
/// What a node says of a journal with votes under its key that are not its own.
const NOT_OURS: &str = "does not match the recorded one";

/// Where the second machine of a key is that has one for a while.
#[derive(Clone, Copy)]
pub(super) enum Visit {
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
pub(super) enum Trouble {
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

impl World<'_> {
    /// What was ordered of a disk and has not come comes again.
    pub(super) fn call_off(&mut self, node: usize) {
        // Without power nobody says that a connection ends.
        if !self.machines[node].disk.is_dead() {
            self.hang_up(node);
        }
        let (cut, failure) = self.machines[node].disk.ordered();
        self.deck.extend(cut.then_some(Trouble::Cut));
        self.deck.extend(failure.map(|kind| match kind {
            io::ErrorKind::StorageFull => Trouble::Full,
            _ => Trouble::Failing,
        }));
    }

    /// A node that does not go on because a file rotted: its operator puts it back, or begins anew. Everything else is over with
    /// the next start.
    pub(super) fn restore(&mut self, node: usize, why: &str) -> Outcome {
        self.report.not_ours += u64::from(why.contains(NOT_OURS));
        let left = match self.twin {
            Visit::Over(left) => Some(left),
            // Else one of the two might stay away to the end, and never contradict the other.
            Visit::Since(_) if self.report.evidence == 0 => Some(self.seen),
            Visit::Since(_) | Visit::ToCome => None,
        };
        if let (true, Some(left)) = (why.contains(NOT_OURS), left) {
            // Its own journal holds what the other machine said. It is told the way out, which it takes.
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
            self.report.count(machine.disk.struck());
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
    pub(super) fn replace_body(&mut self, node: usize) {
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
    pub(super) fn follow(&mut self, node: usize, until: u64) {
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
    pub(super) fn others_are_enough(&self, node: usize) -> Option<u64> {
        let tip = *self.chain.last_key_value()?.0;
        let mut running = self.machines.iter().filter_map(|m| m.node.as_ref());
        let newest = running.find(|n| n.ledger().tip().height == tip)?;
        let set = newest.ledger().validators();
        let lost: BTreeSet<ValidatorId> = (0..self.machines.len())
            .map(|n| self.id_of(n))
            .filter(|id| *id == self.id_of(node) || self.is_torn(id) || self.colludes(id))
            .collect();
        let of = |id: &ValidatorId| set.power_of(id).unwrap_or(0);
        let lost: u64 = lost.iter().map(of).sum();
        (3 * lost < set.total_power()).then_some(tip)
    }

    /// Something breaks, or heals.
    pub(super) fn trouble(&mut self) -> Outcome {
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
    pub(super) fn happens(&mut self, what: Trouble) -> Outcome<bool> {
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
                let of_all = self.scenario.validators;
                for n in (of_all - self.scenario.doubled)..of_all {
                    self.side[n + self.scenario.doubled] = 1 - self.side[n];
                }
                if self.side.iter().all(|side| *side == self.side[alone]) {
                    self.side[alone] ^= 1;
                }
                let partition = self.report.troubles[4] + 1;
                let longest = MENDED_MS[usize::from(self.rng.gen_bool(0.125))];
                let after = self.rng.gen_range(60_000..longest);
                self.at(after, Event::Heal { partition });
                let after = self.rng.gen_range(5_000..20_000);
                self.at(after, Event::BreakOff { partition });
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
    pub(super) fn is_recovering(&self) -> bool {
        let busy = |m: &Machine| m.rotten.is_some() || m.follows_until.is_some();
        self.machines.iter().any(busy)
    }

    /// A sector of what a validator may not lose goes bad, on one machine at a time, which is then started again. Whether one did.
    pub(super) fn rot(&mut self, node: usize) -> Outcome<bool> {
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
    pub(super) fn spoil(&mut self, node: usize, how: Rot) {
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
    pub(super) fn visit(&mut self) {
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
    pub(super) fn jump(&mut self, node: usize, ahead: bool) -> usize {
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
}

fn how_to_rot(rng: &mut ChaCha8Rng) -> Rot {
    *[Rot::Silent, Rot::Unreadable].choose(rng).expect("two")
}

pub(super) fn is_log(path: &Path) -> bool {
    path.ends_with("blocks.log")
}

fn is_journal(path: &Path) -> bool {
    path.parent().is_some_and(|dir| dir.ends_with("journal"))
}
