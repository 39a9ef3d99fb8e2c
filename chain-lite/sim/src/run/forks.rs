//! Forks: what is left of the promise where more than a third of the keys run twice (`threat-model.md` V1).
//!
//! With so many [`crate::scenario::Scenario::doubled`] keys two sound nodes may call two blocks of one height final. That is recorded
//! ([`Fork`]) and ends the run, and it must convict: at least a third of the keys, and none that is sound. Evidence is what sound
//! nodes have in hand, the two certificates and the votes that reached them or that they cast, and there are two kinds:
//!
//! * **two votes** for one height, round and step ([`DoubleVote`]). The chain itself takes these, and must jail every key that they name;
//! * **amnesia**: a precommit for one block, and in a later round a prevote for another, though no two thirds had prevoted for that one
//!   in between. One machine of a pair was not there when the other one bound the key. That the polka is missing takes the word of all
//!   sound nodes, so it is for operators to judge, and no transaction carries it. One certificate of each of two rounds is no
//!   evidence alone: a sound validator may have signed both.
//!
//! A light client that trusts one of the two blocks must take the other one for a fork.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use chain_lite::block::BlockId;
use chain_lite::certificate::{Certificate, Sig, ValidatorId};
use chain_lite::events::Event as ChainEvent;
use chain_lite::execute::{BlockCtx, apply};
use chain_lite::governance::{CastVote, DoubleVote, VoteKind};
use chain_lite::ledger::Ledger;
use chain_lite::light::{self, LightBlock, LightError, Trusted};
use chain_lite::message::{Message as Msg, TX_VERSION, Tx, sign};
use chain_lite::query;
use chain_lite::units::TokenAmount;
use chain_lite_bft::context::ChainContext;
use chain_lite_bft::signing::kind_of;
use malachite_core_consensus::{LivenessMsg, SignedConsensusMsg};
use malachite_core_types::{NilOrVal, SignedVote, VoteType};

use super::{Outcome, START_MS, World, text};
use crate::actors;
use crate::node::Message;
use crate::report::Fork;

/// Height, round, and whose.
type Turn = (u64, u32, ValidatorId);

/// What sound nodes have in hand where the chain may fork.
#[derive(Default)]
pub(super) struct InHand {
    /// Different votes.
    votes: BTreeMap<Turn, Vec<CastVote>>,
    /// The first final block of each height.
    finals: BTreeMap<u64, LightBlock>,
    /// What a node made final when its power failed, and that is read when it is back.
    pub(super) unread: BTreeMap<usize, u64>,
    /// Keys that nodes themselves have reported.
    pub(super) reported: BTreeSet<ValidatorId>,
}

impl InHand {
    fn vote(&mut self, vote: &SignedVote<ChainContext>) {
        let (kind, block) = kind_of(vote);
        let sig = Sig(vote.signature.0);
        let Some(round) = vote.round.as_u32() else {
            return;
        };
        let turn = (vote.height.0, round, vote.validator.0);
        self.cast(turn, CastVote { kind, block, sig });
    }

    fn cast(&mut self, turn: Turn, cast: CastVote) {
        let votes = self.votes.entry(turn).or_default();
        if !votes.contains(&cast) {
            votes.push(cast);
        }
    }

    /// The votes in a message of consensus.
    fn message(&mut self, message: &Message) {
        match message {
            Message::Consensus(SignedConsensusMsg::Vote(vote))
            | Message::Liveness(LivenessMsg::Vote(vote)) => self.vote(vote),
            Message::Liveness(LivenessMsg::PolkaCertificate(polka)) => {
                let Some(round) = polka.round.as_u32() else {
                    return;
                };
                for s in &polka.polka_signatures {
                    let (kind, sig) = (VoteKind::Prevote, Sig(s.signature.0));
                    let block = polka.value_id;
                    let turn = (polka.height.0, round, s.address.0);
                    self.cast(turn, CastVote { kind, block, sig });
                }
            }
            Message::Liveness(LivenessMsg::SkipRoundCertificate(skip)) => {
                let Some(round) = skip.round.as_u32() else {
                    return;
                };
                for s in &skip.round_signatures {
                    let (kind, block) = match (s.vote_type, s.value_id) {
                        (VoteType::Prevote, NilOrVal::Val(id)) => (VoteKind::Prevote, id),
                        (VoteType::Precommit, NilOrVal::Val(id)) => (VoteKind::Precommit, id),
                        (VoteType::Prevote, NilOrVal::Nil) => (VoteKind::PrevoteNil, NONE),
                        (VoteType::Precommit, NilOrVal::Nil) => (VoteKind::PrecommitNil, NONE),
                    };
                    let sig = Sig(s.signature.0);
                    let turn = (skip.height.0, round, s.address.0);
                    self.cast(turn, CastVote { kind, block, sig });
                }
            }
            _ => {}
        }
    }

    /// Of every key that contradicted itself at this height, one pair of votes.
    fn double_votes(&self, height: u64) -> BTreeMap<ValidatorId, DoubleVote> {
        let mut found = BTreeMap::new();
        let none = ValidatorId([0; 32]);
        let of_height = self.votes.range((height, 0, none)..(height + 1, 0, none));
        for ((_, round, id), votes) in of_height {
            let is_prevote =
                |v: &CastVote| matches!(v.kind, VoteKind::Prevote | VoteKind::PrevoteNil);
            for step in [true, false] {
                let mut of_step = votes.iter().filter(|v| is_prevote(v) == step);
                let (one, other) = (of_step.next(), of_step.next());
                if let (Some(one), Some(other)) = (one, other) {
                    found
                        .entry(*id)
                        .or_insert_with(|| DoubleVote::new(*id, height, *round, *one, *other));
                }
            }
        }
        found
    }

    /// Keys that voted for another block than the one they were bound to, without a cause that anybody has in hand.
    fn amnesiacs(&self, height: u64, of_all: usize) -> BTreeSet<ValidatorId> {
        let none = ValidatorId([0; 32]);
        let of_height = self.votes.range((height, 0, none)..(height + 1, 0, none));
        let casts = of_height.flat_map(|((_, round, id), votes)| {
            let cast = |vote: &CastVote| (*round, *id, vote.kind, vote.block);
            votes.iter().map(cast)
        });
        let casts: BTreeSet<_> = casts.collect();
        let of_kind = |wanted| casts.iter().filter(move |(_, _, kind, _)| *kind == wanted);
        let polka_in = |block: BlockId, rounds: Range<u32>| {
            rounds.into_iter().any(|round| {
                let for_it =
                    of_kind(VoteKind::Prevote).filter(|(r, _, _, b)| (*r, *b) == (round, block));
                3 * for_it.count() > 2 * of_all
            })
        };
        let mut found = BTreeSet::new();
        for (bound, id, _, block) in of_kind(VoteKind::Precommit) {
            let later = of_kind(VoteKind::Prevote)
                .filter(|(r, i, _, b)| i == id && r > bound && b != block);
            for (round, _, _, other) in later {
                if !polka_in(*other, *bound..*round) {
                    found.insert(*id);
                }
            }
        }
        found
    }
}

const NONE: BlockId = BlockId([0; 32]);

impl World<'_> {
    /// Whether so many keys run twice that two sound nodes may differ.
    pub(super) fn may_fork(&self) -> bool {
        3 * self.scenario.doubled >= self.scenario.validators
    }

    /// A sound node hears or says this.
    pub(super) fn in_hand(&mut self, machine: usize, message: &Message) {
        if self.may_fork() && !self.is_twin(&self.id_of(machine)) {
            self.in_hand.message(message);
        }
    }

    /// A node is back whose power failed when it had made a block final.
    pub(super) fn read_final(&mut self, node: usize) -> Outcome {
        let machine = &self.machines[node];
        let Some(running) = machine.node.as_ref().filter(|_| !machine.disk.is_dead()) else {
            return Ok(());
        };
        let ledger = running.ledger().clone();
        match self.in_hand.unread.remove(&node) {
            Some(height) if ledger.tip().height >= height => {
                let block = ledger.committed(height).map_err(text)?;
                self.is_one_chain(node, &ledger, height, (block.id, block.state_root))
            }
            _ => Ok(()),
        }
    }

    /// The first sound node has made a block of this height final.
    pub(super) fn first_final(&mut self, ledger: &Ledger, height: u64) -> Outcome {
        if self.may_fork() {
            let light = light::light_block(ledger, height).map_err(text)?;
            self.in_hand.finals.insert(height, light);
            // Votes of heights without a fork accuse no sound key either.
            self.accused(height)?;
        }
        Ok(())
    }

    /// Two sound nodes have two final blocks of this height: whom that convicts.
    pub(super) fn forked(&mut self, ledger: &Ledger, height: u64) -> Outcome {
        let one = self.in_hand.finals.get(&height);
        let one = one.ok_or_else(|| format!("nobody has kept the first block {height}"))?;
        let other = light::light_block(ledger, height).map_err(text)?;
        let chain = ledger.chain_id();
        let client = Trusted::checkpoint(chain, one.header.id(), one).map_err(text)?;
        let told = client.step(&other, START_MS + self.now, u64::MAX);
        if !matches!(told, Err(LightError::Fork { .. })) {
            return Err(format!(
                "a light client takes two final blocks of height {height} for {told:?}"
            ));
        }
        let certificates = (&one.certificate, &other.certificate);
        let between = DoubleVote::between(certificates.0, certificates.1);
        let rounds = (certificates.0.round(), certificates.1.round());
        let signed = |c: &Certificate| -> BTreeSet<ValidatorId> {
            let Certificate::Ed25519V1 { sigs, .. } = c;
            sigs.iter().map(|(id, _)| *id).collect()
        };
        let both = signed(certificates.0)
            .intersection(&signed(certificates.1))
            .count();
        let by_certificates = between.len();
        let of_all = self.scenario.validators;
        let (mut convicted, mut found) = self.accused(height)?;
        found.extend(between.into_iter().map(|e| (e.validator, e)));
        convicted.extend(found.keys());
        if 3 * convicted.len() < of_all {
            return Err(format!(
                "a fork at height {height}, of rounds {rounds:?}, convicts {} of {of_all} keys only",
                convicted.len()
            ));
        }
        self.are_jailed(found.values())?;
        self.report.fork = Some(Fork {
            height,
            rounds,
            signed_both: both,
            by_certificates,
            jailed: found.len(),
            convicted: convicted.len(),
            reported: self.in_hand.reported.len(),
        });
        Ok(())
    }

    /// Keys that the votes in hand of this height accuse: of amnesia, and of two votes.
    fn accused(
        &self,
        height: u64,
    ) -> Outcome<(BTreeSet<ValidatorId>, BTreeMap<ValidatorId, DoubleVote>)> {
        let chain = self.machines[0].who.genesis.chain_id();
        let forgot = self.in_hand.amnesiacs(height, self.scenario.validators);
        let twice = self.in_hand.double_votes(height);
        if let Some(id) = forgot
            .iter()
            .chain(twice.keys())
            .find(|id| !self.is_twin(id))
        {
            return Err(format!(
                "the votes of height {height} accuse the sound key {id}"
            ));
        }
        match twice.iter().find(|(_, evidence)| !evidence.holds(&chain)) {
            Some((id, _)) => Err(format!("evidence against {id} does not hold")),
            None => Ok((forgot, twice)),
        }
    }

    /// The chain takes all of this evidence in its next block.
    fn are_jailed<'a>(&self, evidence: impl Iterator<Item = &'a DoubleVote>) -> Outcome {
        let report = |evidence: &DoubleVote| Msg::ReportDoubleVote {
            evidence: *evidence,
        };
        let msgs: Vec<Msg> = evidence.map(report).collect();
        if msgs.is_empty() {
            // They only forgot, which no transaction carries.
            return Ok(());
        }
        let (state, wanted) = (self.replay.state(), msgs.len());
        let key = actors::keys(self.scenario.providers.len() + 1)
            .pop()
            .expect("the first client's");
        let sender = chain_lite::account::Address::of(&key.verifying_key());
        let chain_id = self.machines[0].who.genesis.chain_id();
        let tx = Tx {
            version: TX_VERSION,
            chain_id,
            sender,
            nonce: query::account(state, &sender).map_err(text)?.nonce,
            fee_limit: TokenAmount(u128::MAX >> 8),
            valid_until_height: u64::MAX,
            msgs,
        };
        let tx = sign(tx, &key).check(&chain_id).map_err(text)?;
        let ctx = BlockCtx {
            chain_id,
            height: self.seen + 1,
            round: 0,
            epoch: query::totals(state).map_err(text)?.epoch.next(),
            beacons: Vec::new(),
        };
        let verifier = &*self.machines[0].who.verifier;
        let applied = apply(state, &ctx, &[tx], verifier).map_err(text)?;
        let jailed = applied.events.iter().filter(|record| {
            matches!(record.event, ChainEvent::ValidatorJailed { .. }) && record.tx.is_some()
        });
        match jailed.count() == wanted {
            true => Ok(()),
            false => Err(format!(
                "the chain does not take the evidence of a fork: {:?}",
                applied.receipts
            )),
        }
    }
}
