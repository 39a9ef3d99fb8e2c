//! What must hold.
//!
//! After every block, on every node: no two nodes have different blocks or states at one height, and nothing that a node called
//! final is missing after its crash; once per block, every invariant of the whole state and of what led to it (I1 to I14 of
//! `chain.md` §16, [`crate::replay`]), no honest provider found faulty, and a time that no single clock has moved. At the end, after a
//! calm spell: everybody is at the same tip, and the chain has not stood still ([`World::finish`]).
//! One censor among four leaves no provider faulty (`threat-model.md` V4) unless others are away at once: where it made every
//! block of a window for which the provider's post was in the mempool of somebody else, the fault is counted
//! ([`crate::report::Report::lost_to_censors`]). A post that was never sent is nobody's fault but its provider's.
//!
//! Where epochs follow the beacon's clock ([`crate::scenario::Scenario::follows_beacon`]), rounds come from relays that may all be
//! away, and [`crate::epochs`] checks what is said of stamps and dark epochs; else epochs are heights, and a clock only stamps.

use std::path::PathBuf;

use chain_lite::block::BlockId;
use chain_lite::events::{Event as ChainEvent, FaultReason};
use chain_lite::governance::JailReason;
use chain_lite::invariants;
use chain_lite::ledger::{CommittedBlock, Ledger, MAX_TIME_AHEAD_MS};
use chain_lite::mempool::Mempool;
use chain_lite::query;
use chain_lite::state::KvRead;
use chain_lite::store::View;
use chain_lite::units::Epoch;
use malachite_core_consensus::SignedConsensusMsg;
use malachite_core_types::NilOrVal;
use prover::SectorNumber;
use rand::Rng;

use super::{DRIFT_MS, Event, Outcome, World, text};
use crate::node::{Message, Node};
use crate::scenario::START_MS;

impl World<'_> {
    /// A vote for a block binds its validator: if the power fails now, the body must be there.
    pub(super) fn may_be_said(&self, node: usize, message: &Message) -> Outcome {
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

    /// A block is final on a node.
    pub(super) fn decided(&mut self, node: usize, height: u64) -> Outcome {
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
        // Where the chain may fork, those who make it say nothing about it.
        let counts = !self.may_fork() || !self.is_twin(&self.id_of(node));
        if counts && self.may_fork() && self.machines[node].disk.is_dead() {
            // The two blocks of a fork are read, and this one can be when the node is back.
            self.in_hand.unread.insert(node, height);
            return self.die(node, "the power fails");
        }
        if counts {
            self.is_one_chain(node, &ledger, height, ours)?;
            if self.report.fork.is_some() {
                return Ok(());
            }
        }
        self.keeps_little(node)?;
        self.mark(&[b"final", &node.to_le_bytes(), &ours.0.0, &ours.1]);
        if self.machines[node].disk.is_dead() {
            // The power failed in something that does not matter, such as clearing away what is decided.
            return self.die(node, "the power fails");
        }
        if counts {
            self.follow_epochs(&ledger, height)?;
        }
        if height > self.seen && counts {
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

    /// What a node calls final is what the others do.
    pub(super) fn is_one_chain(
        &mut self,
        node: usize,
        ledger: &Ledger,
        height: u64,
        ours: (BlockId, [u8; 32]),
    ) -> Outcome {
        match self.chain.get(&height) {
            Some((id, _)) if *id != ours.0 && self.may_fork() => self.forked(ledger, height),
            Some(known) if *known != ours => Err(format!(
                "fork: node {node} has another block or state {height}"
            )),
            Some(_) => Ok(()),
            None => {
                self.chain.insert(height, ours);
                self.first_final(ledger, height)
            }
        }
    }

    /// Under the beacon's clock: a block is proposed now, by whomever.
    pub(super) fn proposed(&mut self, block: BlockId) {
        if let Some((relays, _, epochs)) = &mut self.beacon {
            epochs.proposed(block, START_MS + self.now, relays.are_away());
        }
    }

    /// Under the beacon's clock: once per block, what its stamp and its epoch say.
    pub(super) fn follow_epochs(
        &mut self,
        ledger: &chain_lite::ledger::Ledger,
        height: u64,
    ) -> Outcome {
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
    pub(super) fn first_seen(&mut self, ledger: &Ledger, height: u64) -> Outcome {
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
    pub(super) fn replayed(&mut self, block: &CommittedBlock, view: &View) -> Outcome {
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
    pub(super) fn happened(&mut self, block: &CommittedBlock) -> Outcome {
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
            self.costs_the_honest_nothing(height, &record.event)?;
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
                        self.censored_out.insert((whose, *sector));
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
                    if *reason != JailReason::MissedProposals && !self.is_two_faced(validator) {
                        return Err(format!("block {height} jails {validator}, for {reason:?}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a post of this sector waited in time, and censors made every block from then to the close of its window, which is with
    /// this one. That takes more than the censor: the next turn is that of the next round and of the next height alike, so while
    /// others are silent one validator makes several blocks in a row.
    pub(super) fn is_censored_out(
        &self,
        height: u64,
        sector: (usize, SectorNumber, Epoch),
    ) -> bool {
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
    pub(super) fn look_who_waits(&mut self, height: u64) {
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
}
