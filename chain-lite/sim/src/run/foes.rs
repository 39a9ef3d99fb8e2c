//! Hostile validators in a run: who lies, forges and colludes, to whom, and what nobody may do about it.
//!
//! * **Liars** ([`crate::scenario::Scenario::liars`]) tell everybody something false about every third block of their own: no sound
//!   validator ever votes for what they then propose.
//! * **Forgers** send on what they hear with another field or signature: no signature of theirs holds, no block comes of their parts,
//!   nobody is accused for what they made up. Where there is no forger, no signature is ever refused.
//! * **Colluders** show one half of the others one block of a turn and the other half another, vote for both, or for one and none,
//!   keep votes and parts from some, and tell others late. Up to a third of the validators: then there is no fork, and what
//!   is held against anybody is held against them.
//!
//! And none of it fills a disk or memory: what a sound node keeps of undecided blocks, and of unfinished ones, is counted.

use std::collections::{BTreeMap, BTreeSet};

use chain_lite::block::{Block, BlockId};
use chain_lite::certificate::ValidatorId;
use chain_lite::vfs::Vfs as _;
use chain_lite_bft::context::{ChainContext, Height};
use chain_lite_bft::parts::Part;
use chain_lite_bft::signing::{ChainSigner, ChainVerifier};
use malachite_core_consensus::{LivenessMsg, SignedConsensusMsg};
use malachite_core_types::{NilOrVal, SignedVote};
use rand::Rng;
use std::path::Path;

use super::{Outcome, World};
use crate::foes::{self, FORGED, LIES, SECOND, mixed};
use crate::node::{HOME, Message};

/// One in so many new blocks is lied about.
const LIES_ABOUT: u64 = 3;
/// How often a forger sends on what it heard.
const FORGES: f64 = 0.03;
/// Undecided blocks that a sound node may keep: far below what its disk gives them.
const MOST_KEPT: u64 = chain_lite::undecided::MAX_BLOCKS as u64 / 4;

/// What hostile validators have said.
#[derive(Default)]
pub(super) struct Foes {
    /// Of each block that is lied about: what is proposed in its place.
    lies: BTreeMap<BlockId, BlockId>,
    /// Blocks for which nobody may vote.
    foul: BTreeSet<BlockId>,
    /// Streams whose parts nobody gets any more, machine and number.
    silent: BTreeSet<(usize, u64)>,
    /// The other block of a turn, for the second half.
    seconds: BTreeMap<BlockId, BlockId>,
    /// Streams that only the first half gets, and of what height they are.
    halved: BTreeMap<(usize, u64), u64>,
}

impl World<'_> {
    /// Whether a machine has the key of one of so many validators, the last ones.
    pub(super) fn is_last(&self, machine: usize, of_last: usize) -> bool {
        let of_all = self.scenario.validators;
        let last = (of_all - of_last.min(of_all))..of_all;
        // A second machine of its key is as hostile.
        of_last > 0 && (last.contains(&machine) || self.is_second(machine))
    }

    fn is_colluder(&self, machine: usize) -> bool {
        self.is_last(machine, self.scenario.colluders)
    }

    /// Whether this key may contradict itself.
    pub(super) fn is_two_faced(&self, id: &ValidatorId) -> bool {
        self.is_twin(id) || self.colludes(id)
    }

    /// Whether this is a colluder's key.
    pub(super) fn colludes(&self, id: &ValidatorId) -> bool {
        let mut machines = 0..self.machines.len();
        machines.any(|n| self.is_colluder(n) && self.id_of(n) == *id)
    }

    fn is_hostile(&self, machine: usize) -> bool {
        let scenario = self.scenario;
        self.is_last(
            machine,
            scenario.liars.max(scenario.forgers).max(scenario.colluders),
        )
    }

    /// A machine says this, to everybody or as its malice has it.
    pub(super) fn say(&mut self, node: usize, message: Message) -> Outcome {
        if self.is_colluder(node) {
            self.collude(node, message)
        } else if self.is_last(node, self.scenario.liars) {
            self.tell_lies(node, message)
        } else {
            self.is_no_foul_vote(node, &message)?;
            self.broadcast(node, message);
            Ok(())
        }
    }

    fn is_no_foul_vote(&self, node: usize, message: &Message) -> Outcome {
        if let Message::Consensus(SignedConsensusMsg::Vote(vote)) = message
            && vote.validator.0 == self.id_of(node)
            && let NilOrVal::Val(id) = vote.value
            && self.foes.foul.contains(&id)
        {
            return Err(format!(
                "node {node} votes for block {id}, of which a liar told it something false"
            ));
        }
        Ok(())
    }

    fn signer(&self, node: usize) -> ChainSigner {
        let who = &self.machines[node].who;
        ChainSigner::new(who.genesis.chain_id(), who.key.clone())
    }

    fn ids(&self) -> Vec<ValidatorId> {
        (0..self.scenario.validators)
            .map(|n| self.id_of(n))
            .collect()
    }

    /// The new block that this part announces, if it does, and the disk has it.
    fn new_block(&self, node: usize, part: &Part) -> Option<Block> {
        let Part::Init { init, .. } = part else {
            return None;
        };
        let ledger = self.machines[node].node.as_ref()?.ledger();
        let block = ledger.undecided_block(&init.block).ok().flatten()?;
        let header = &block.header;
        let is_new = header.round == init.round && header.proposer == self.id_of(node);
        is_new.then_some(block)
    }

    fn tell_lies(&mut self, node: usize, message: Message) -> Outcome {
        match &message {
            Message::Part { stream, part, .. } => {
                if self.foes.silent.contains(&(node, *stream)) {
                    return Ok(());
                }
                if let Part::Init { init, .. } = part
                    && init.first.is_none()
                {
                    let word = mixed(&[&init.block.0]);
                    if word.is_multiple_of(LIES_ABOUT) {
                        self.foes.silent.insert((node, *stream));
                        // If its disk has lost the block, it says nothing at all.
                        if let Some(block) = self.new_block(node, part) {
                            let kind = (word / LIES_ABOUT) as usize % LIES;
                            self.lie(node, *stream, kind, &block)?;
                        }
                        return Ok(());
                    }
                }
            }
            Message::Consensus(SignedConsensusMsg::Proposal(p)) => {
                if let Some(said) = self.foes.lies.get(&p.value.0)
                    && p.proposer.0 == self.id_of(node)
                {
                    let said = foes::proposes(p, *said, &self.signer(node));
                    self.broadcast(node, said);
                    return Ok(());
                }
            }
            _ => {}
        }
        self.broadcast(node, message);
        Ok(())
    }

    fn lie(&mut self, node: usize, stream: u64, kind: usize, block: &Block) -> Outcome {
        let running = self.machines[node].node.as_ref();
        let set = running.map(|n| n.ledger().validators());
        let set = set.ok_or_else(|| format!("node {node} speaks and is not there"))?;
        let turn_of = |round| set.proposer(block.header.height, round);
        let (parts, said) = foes::lie(kind, block, &self.signer(node), &self.ids(), turn_of);
        self.foes.lies.insert(block.id(), said);
        self.foes.foul.extend([said, block.id()]);
        self.report.lies[kind] += 1;
        if said != block.id() {
            self.proposed(said);
        }
        for (sequence, part) in (0..).zip(parts) {
            let publisher = node;
            self.broadcast(
                node,
                Message::Part {
                    publisher,
                    stream,
                    sequence,
                    part,
                },
            );
        }
        Ok(())
    }

    /// A forger hears something: now and then it sends it on as something else.
    pub(super) fn forge(&mut self, node: usize, message: &Message) {
        if !self.is_last(node, self.scenario.forgers) {
            return;
        }
        let is_chosen = match message {
            Message::Part { stream, .. } if stream & FORGED != 0 => false,
            // All parts of a stream, or none.
            Message::Part {
                publisher, stream, ..
            } => mixed(&[b"forge", &publisher.to_le_bytes(), &stream.to_le_bytes()])
                .is_multiple_of(8),
            Message::Status { .. } | Message::Request { .. } | Message::Response { .. } => false,
            _ => self.rng.gen_bool(FORGES),
        };
        if is_chosen && let Some(forged) = foes::forged(node, message, &self.ids(), &mut self.rng) {
            self.report.forged += 1;
            self.broadcast(node, forged);
        }
    }

    /// A signature was refused by a sound node: that of a forger, if there is one.
    pub(super) fn refused(&mut self, node: usize) -> Outcome {
        self.report.bad_signatures += 1;
        match self.scenario.forgers {
            0 => Err(format!(
                "node {node} refuses a signature, and nobody forges any"
            )),
            _ => Ok(()),
        }
    }

    /// Whether these votes bear their signatures.
    pub(super) fn hold(&self, votes: [&SignedVote<ChainContext>; 2]) -> bool {
        let verifier = ChainVerifier::new(self.machines[0].who.genesis.chain_id());
        let holds = |v: &SignedVote<ChainContext>| {
            verifier.vote(&v.message, &v.signature, &v.message.validator.0)
        };
        votes.into_iter().all(holds)
    }

    /// Which of two halves a machine is in, of this height; colluders are in the first.
    fn half(&self, height: u64, machine: usize) -> bool {
        let word = mixed(&[b"half", &height.to_le_bytes(), &machine.to_le_bytes()]);
        !self.is_colluder(machine) && word % 2 == 1
    }

    fn collude(&mut self, node: usize, message: Message) -> Outcome {
        let me = self.id_of(node);
        match &message {
            Message::Part { stream, part, .. } => {
                if let Some(block) = self.new_block(node, part) {
                    self.propose_two(node, *stream, &block);
                }
                let halved = self.foes.halved.get(&(node, *stream)).copied();
                for to in 0..self.machines.len() {
                    if halved.is_none_or(|height| !self.half(height, to)) {
                        self.tell_as_colluder(node, to, message.clone());
                    }
                }
            }
            // A node also sends on the proposals of others.
            Message::Consensus(SignedConsensusMsg::Proposal(p)) if p.proposer.0 == me => {
                let second = self.foes.seconds.get(&p.value.0).copied();
                let second = second.map(|second| foes::proposes(p, second, &self.signer(node)));
                let height = p.height;
                // Whoever hears of both, as gossip has it sooner or later, can show them.
                if let (Some(second), true) = (&second, self.rng.gen_bool(0.25)) {
                    self.broadcast(node, second.clone());
                }
                self.tell_halves(node, height, message, second);
            }
            Message::Consensus(SignedConsensusMsg::Vote(vote))
            | Message::Liveness(LivenessMsg::Vote(vote))
                if vote.validator.0 == me =>
            {
                let second = self.other_vote(node, vote);
                let height = vote.height;
                self.tell_halves(node, height, message, second);
            }
            _ => self.broadcast(node, message),
        }
        Ok(())
    }

    /// What the second half is told of a vote: for the other block of its turn, now and then for none.
    fn other_vote(&mut self, node: usize, vote: &SignedVote<ChainContext>) -> Option<Message> {
        let NilOrVal::Val(id) = vote.value else {
            return None;
        };
        let second = self.foes.seconds.get(&id).copied().map(NilOrVal::Val);
        let word = mixed(&[b"nil", &id.0, &node.to_le_bytes()]);
        let second = second.or((word.is_multiple_of(4)).then_some(NilOrVal::Nil));
        let second = second.map(|value| foes::votes(vote, value, &self.signer(node)));
        self.report.two_votes += u64::from(second.is_some());
        second
    }

    fn propose_two(&mut self, node: usize, stream: u64, block: &Block) {
        let height = block.header.height;
        let (parts, second) = foes::second(block, &self.signer(node));
        self.foes.seconds.insert(block.id(), second);
        self.foes.halved.insert((node, stream), height);
        self.report.two_blocks += 1;
        self.proposed(second);
        for (sequence, part) in (0..).zip(parts) {
            let said = Message::Part {
                publisher: node,
                stream: SECOND | stream,
                sequence,
                part,
            };
            for to in 0..self.machines.len() {
                if self.half(height, to) {
                    self.tell_as_colluder(node, to, said.clone());
                }
            }
        }
    }

    fn tell_halves(
        &mut self,
        node: usize,
        height: Height,
        message: Message,
        second: Option<Message>,
    ) {
        for to in 0..self.machines.len() {
            let said = match (&second, self.half(height.0, to)) {
                (Some(second), true) => second,
                _ => &message,
            };
            self.tell_as_colluder(node, to, said.clone());
        }
    }

    /// A colluder tells one other machine: its partner at once, others perhaps late, or never.
    fn tell_as_colluder(&mut self, node: usize, to: usize, message: Message) {
        if !self.reaches(node, to) {
            return;
        }
        if self.is_colluder(to) {
            self.send(node, to, message);
            return;
        }
        match self.rng.gen_range(0..32) {
            0 => self.report.withheld += 1,
            1 => {
                self.report.told_late += 1;
                let after = self.rng.gen_range(1_000..20_000);
                self.deliver(node, to, self.order, after, message);
            }
            _ => self.send(node, to, message),
        }
    }

    /// A sound node has decided a block: what it keeps besides is little, whatever it was told.
    pub(super) fn keeps_little(&mut self, node: usize) -> Outcome {
        if self.is_hostile(node) {
            return Ok(());
        }
        let machine = &self.machines[node];
        let kept = machine.disk.list(&Path::new(HOME).join("undecided"));
        let kept = kept.unwrap_or_default().len() as u64;
        let waiting = machine
            .node
            .as_ref()
            .map_or(0, |n| n.waiting_bytes() as u64);
        self.report.most_kept = self.report.most_kept.max(kept);
        self.report.most_waiting = self.report.most_waiting.max(waiting);
        match kept <= MOST_KEPT {
            true => Ok(()),
            false => Err(format!("node {node} keeps {kept} undecided blocks")),
        }
    }
}
