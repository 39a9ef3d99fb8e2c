//! What the engine asks of the chain, answered: propose, judge, keep, commit, serve. No socket, no thread, no clock of its own.
//!
//! Walk: [`crate::net`] (or a simulator) hands each question of Malachite's core to one method of [`App`]; the answers go
//! back as values. Time comes in as Unix milliseconds. Spec: `consensus.md` §10; the traps of §4 stand where they are met.
//!
//! Durable before it is said: a proposed block is in `undecided/` and synced before this validator proposes or votes for
//! it (trap 7), and a decided one is in the block log and synced before [`App::decided`] returns (trap 11).
//! Crash: everything here is rebuilt from the ledger; votes are in the engine's own journal. [`App::get_value`] finds its own
//! earlier proposal of the same height and round, so a restart never makes a second one.
//! Memory: [`crate::parts`]' bounds, at most [`KEPT_VALID`] judged blocks, and [`HEARD_PER_TURN`] kept ones of a round while it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chain_lite::account::{self, Account};
use chain_lite::beacon::{BeaconSource, Entry};
use chain_lite::block::{Block, BlockId, MAX_BLOCK_PROOFS, MAX_BLOCK_TXS, MAX_BODY_BYTES};
use chain_lite::certificate::{Sig, ValidatorId};
use chain_lite::clock::{self, ClockMode};
use chain_lite::codec;
use chain_lite::governance::{self, CastProposal, CastVote, DoubleProposal, DoubleVote};
use chain_lite::ledger::{CommitOutcome, Front, Ledger, LedgerError, Slot, ValidBlock, Verdict};
use chain_lite::mempool::Mempool;
use chain_lite::message::{Message, SignedTx, TX_VERSION, Tx};
use chain_lite::state::{self, key};
use chain_lite::undecided::{Heard, MAX_BLOCKS, Turn};
use chain_lite::units::Epoch;
use malachite_core_consensus::{LocallyProposedValue, ProposedValue};
use malachite_core_types::{
    CommitCertificate, ExtendedCommitCertificate, HeightParams, LinearTimeouts, Round,
    SignedProposal, SignedVote, Validity,
};

use crate::context::{
    Address, ChainContext, Height, Signature, ValidatorSet, Value, from_certificate, to_certificate,
};
use crate::parts::{Added, Announced, Assembler, Fault, Init, MAX_BLOCK_BYTES, Part, cut};
use crate::said::Said;
use crate::signing::{ChainSigner, ChainVerifier, kind_of};

/// Judged blocks kept, so that committing one does not check its signatures again.
const KEPT_VALID: usize = 4;
/// Different blocks taken for one turn of a proposer: its own, and one more to show that it contradicts itself.
const HEARD_PER_TURN: usize = 2;
/// Rounds ahead of the present one whose proposals are taken: as far as the core looks.
const MAX_ROUNDS_AHEAD: u32 = 10;
// So what is proposed in the present round, our own block above all, never gives way to what comes for later ones.
const _: () = assert!(HEARD_PER_TURN * (MAX_ROUNDS_AHEAD as usize + 1) < MAX_BLOCKS / 4);
/// Most bytes of blocks in one answer to a node that catches up; below the network's frame.
pub const MAX_SERVED_BYTES: u64 = 8 << 20;
/// Blocks within which evidence is taken up, or forgotten.
const EVIDENCE_BLOCKS: u64 = 1_000;
/// Most blocks in one such answer.
pub const MAX_SERVED_BLOCKS: u64 = 64;
/// How often a node tells its height. The engine's default of ten seconds makes a restarted node wait as long before it asks for
/// what it missed.
pub const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long a node that catches up waits for a peer's answer before it asks another.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Blocks that it asks for at once.
pub const SYNC_BATCH: usize = 16;
const _: () = assert!(SYNC_BATCH as u64 <= MAX_SERVED_BLOCKS);

/// How patient consensus is. Part of no rule: nodes may differ, at the price of useless rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Until a silent proposer's round is given up, and how much longer each further round waits. A dead proposer costs this
    /// at each of its turns (trap 12); shorter than a large block's journey, it costs every block rounds.
    pub propose: Duration,
    /// After two thirds have voted, but not for one thing: until the round goes on.
    pub vote: Duration,
    /// Added to each of them in every further round.
    pub delta: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            propose: Duration::from_millis(1500),
            vote: Duration::from_millis(500),
            delta: Duration::from_millis(500),
        }
    }
}

impl Timing {
    fn timeouts(&self) -> LinearTimeouts {
        LinearTimeouts {
            propose: self.propose,
            propose_delta: self.delta,
            prevote: self.vote,
            prevote_delta: self.delta,
            precommit: self.vote,
            precommit_delta: self.delta,
            rebroadcast: self.propose + 2 * self.vote,
            max_timeout: Duration::from_secs(60),
        }
    }
}

/// What this node judges and signs with.
pub struct Parts {
    /// The chain.
    pub ledger: Arc<Ledger>,
    /// Where proposals take their transactions from.
    pub mempool: Arc<Mempool>,
    /// This validator's key.
    pub signer: ChainSigner,
    /// Gives beacon rounds.
    pub beacon: Box<dyn BeaconSource>,
    /// How patient it is.
    pub timing: Timing,
}

/// A value of our own to propose, and its parts for everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// For the core.
    pub value: LocallyProposedValue<ChainContext>,
    /// For the network.
    pub parts: Vec<Part>,
}

/// What became of a block that a peer sent because we lag.
#[derive(Debug)]
pub enum Synced {
    /// Judged and kept.
    Value(ProposedValue<ChainContext>),
    /// Not the block that its height and rules demand.
    PeerFault,
    /// We are not ready for it.
    NotNow,
}

/// One validator (or follower) of one chain.
pub struct App {
    parts: Parts,
    verifier: ChainVerifier,
    assembler: Assembler,
    /// Where the core is.
    at: Slot,
    /// Newest height that came by catching up, or was decided without our vote.
    synced: u64,
    /// When it first asked for beacon rounds (Unix ms).
    first_look_ms: Option<u64>,
    valid: BTreeMap<(u64, BlockId), ValidBlock>,
    /// Blocks announced for each turn, so that a proposer fills nobody's disk.
    heard: BTreeMap<(u64, u32), BTreeSet<BlockId>>,
    announced: BTreeMap<(u64, BlockId), (Init, Signature)>,
    /// What the journal says that we proposed in our turns before a restart.
    proposed: BTreeMap<(u64, u32), BlockId>,
    /// Whom we accused: of what height, and until which one that transaction may be taken up.
    accused: BTreeMap<ValidatorId, (u64, u64)>,
}

impl App {
    /// Of an open ledger.
    pub fn new(parts: Parts) -> Self {
        let verifier = ChainVerifier::new(parts.ledger.chain_id());
        Self {
            parts,
            verifier,
            assembler: Assembler::new(),
            at: Slot {
                height: 0,
                round: 0,
            },
            synced: 0,
            first_look_ms: None,
            valid: BTreeMap::new(),
            heard: BTreeMap::new(),
            announced: BTreeMap::new(),
            proposed: BTreeMap::new(),
            accused: BTreeMap::new(),
        }
    }

    /// Bytes of proposed blocks of which parts are missing.
    pub fn waiting_bytes(&self) -> usize {
        self.assembler.bytes()
    }

    /// The chain.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.parts.ledger
    }

    /// Our address.
    pub fn address(&self) -> Address {
        self.parts.signer.address()
    }

    /// Whether our votes count at this height, which is the next one or later. Of heights whose validators nobody knows yet, the last
    /// known set answers.
    #[cfg(feature = "net")]
    pub(crate) fn may_vote_at(&self, height: Height) -> bool {
        let front = self.parts.ledger.front();
        let me = self.address().0;
        let next = height.0 > front.tip.height + 1 && front.next_validators.power_of(&me).is_some();
        next || front.validators.power_of(&me).is_some()
    }

    /// What the journal says of the height at hand, before the core replays it: blocks that we voted for and others were for do not give
    /// way, and of a turn that we proposed in there is no other block.
    pub fn remind(&mut self, said: &Said) {
        let proposed = said.proposed.iter();
        self.proposed
            .extend(proposed.map(|(height, round, id)| ((height.0, *round), *id)));
        let Parts { ledger, signer, .. } = &self.parts;
        said.votes.iter().for_each(|vote| signer.note(vote));
        for (id, round) in &said.named {
            ledger.name_undecided(id, *round);
        }
    }

    /// The height after the newest final block, and who decides it. Sets are per height, so a change of validators needs
    /// no restart: who leaves goes on as a follower.
    pub fn next(&self) -> (Height, HeightParams<ChainContext>) {
        let front = self.parts.ledger.front();
        let pace = self.parts.ledger.genesis().genesis().clock.epoch_ms();
        // The core waits this long for late precommits, so that certificates grow to all signatures; the rest of an
        // epoch is waited for outside (`App::due`).
        let target = Duration::from_millis(pace.min(1_000));
        let set = ValidatorSet::from(front.validators);
        let params = HeightParams::new(set, self.parts.timing.timeouts(), Some(target));
        (Height(front.tip.height + 1), params)
    }

    /// Whether the newest block came by catching up or was decided without our vote: then the next height begins at once,
    /// whatever the clock says. A validator that waited out its own epoch instead would stay an epoch behind for ever. To begin
    /// early alone is harmless: nothing is decided before two thirds have begun.
    pub fn is_catching_up(&self) -> bool {
        self.synced > 0 && self.synced == self.parts.ledger.tip().height
    }

    /// Whether a proposer could make the next block now: its beacon round is here, or was waited for long enough ([`clock::due`]).
    pub fn is_due(&mut self, now_ms: u64) -> bool {
        let front = self.parts.ledger.front();
        self.due(&front, now_ms).is_some()
    }

    /// Whether a validator whose turn it is has announced a block above the newest one, under the logical clock: then the beacon
    /// round is out, also if it is not here. The beacon's clock needs no such word, because it waits for no round for ever; and
    /// there one validator's early block would make time run for everybody.
    pub fn is_proposed(&self) -> bool {
        let clock = self.parts.ledger.genesis().genesis().clock;
        matches!(clock, ClockMode::Logical { .. }) && !self.heard.is_empty()
    }

    /// A round begins: blocks proposed in it that we hold already, judged now (traps 7 and 9).
    pub fn started_round(
        &mut self,
        height: Height,
        round: Round,
        now_ms: u64,
    ) -> Result<Vec<ProposedValue<ChainContext>>, LedgerError> {
        let Some(round) = round.as_u32() else {
            return Ok(Vec::new());
        };
        self.at = Slot {
            height: height.0,
            round,
        };
        let mut values = Vec::new();
        for block in self.parts.ledger.undecided(height.0, round)? {
            let (id, proposer) = (block.id(), Address(block.header.proposer));
            if let Verdict::Valid(valid) = self.validate(block, self.at, Some(now_ms))? {
                self.remember(*valid);
                values.push(proposed(self.at, proposer, id, Validity::Valid));
            }
        }
        Ok(values)
    }

    /// Our turn: the block that we proposed in this round before a restart, or a new one, saved. `None` if none can be made
    /// now: asking again in a moment may help, and if it does not, the round passes.
    pub fn get_value(
        &mut self,
        height: Height,
        round: Round,
        now_ms: u64,
    ) -> Result<Option<Ours>, LedgerError> {
        let front = self.parts.ledger.front();
        let Some(round) = round.as_u32().filter(|_| height.0 == front.tip.height + 1) else {
            return Ok(None);
        };
        let slot = Slot {
            height: height.0,
            round,
        };
        let me = self.address();
        let earlier = self.parts.ledger.undecided(height.0, round)?;
        let valid = match earlier.into_iter().find(|b| b.header.proposer == me.0) {
            Some(block) => match self.validate(block, slot, None)? {
                Verdict::Valid(valid) => *valid,
                // Two proposals in one round would be evidence against us.
                Verdict::Invalid(_) | Verdict::NotYet { .. } => return Ok(None),
            },
            // Our disk has lost it, and another block would be a second one of this turn. Whoever takes it up brings it back.
            None if self.proposed.contains_key(&(height.0, round)) => {
                tracing::warn!(
                    height = height.0,
                    round,
                    "the block that we proposed in this round is not here any more"
                );
                return Ok(None);
            }
            None => match self.build(slot, &front, now_ms)? {
                Some(valid) => valid,
                None => return Ok(None),
            },
        };
        let Some(announced) = self.announce(valid.block(), round)? else {
            return Ok(None);
        };
        let value = LocallyProposedValue::new(height, Round::new(round), Value(valid.id()));
        self.remember(valid);
        Ok(Some(Ours {
            value,
            parts: cut(&announced),
        }))
    }

    /// The ledger's verdict; what waits in our mempool was checked when it came.
    fn validate(
        &self,
        block: Block,
        slot: Slot,
        now_ms: Option<u64>,
    ) -> Result<Verdict, LedgerError> {
        let Parts {
            ledger, mempool, ..
        } = &self.parts;
        let known = |tx: &SignedTx| mempool.checked(tx);
        ledger.validate_knowing(block, slot, now_ms, &known)
    }

    fn build(
        &mut self,
        slot: Slot,
        front: &Front,
        now_ms: u64,
    ) -> Result<Option<ValidBlock>, LedgerError> {
        let Some((epoch, beacons)) = self.due(front, now_ms) else {
            return Ok(None);
        };
        let ledger = &self.parts.ledger;
        let txs = self.parts.mempool.select(
            &ledger.view(),
            MAX_BLOCK_TXS,
            MAX_BODY_BYTES as u64,
            MAX_BLOCK_PROOFS,
        )?;
        let valid = ledger.build(slot, epoch, now_ms, beacons, txs)?;
        // Our own announcement can be signed again at any time.
        let ours = Heard {
            announced: None,
            in_time: true,
        };
        Ok(self.keep(valid.block(), ours, slot.round)?.then_some(valid))
    }

    /// Epoch and beacon entries of a block made now.
    fn due(&mut self, front: &Front, now_ms: u64) -> Option<(Epoch, Vec<Entry>)> {
        let Parts { ledger, beacon, .. } = &mut self.parts;
        let (genesis, tips) = (ledger.genesis(), (front.tip.epoch, front.beacon_tip));
        let (mode, schedule) = (genesis.genesis().clock, genesis.beacons());
        let first = *self.first_look_ms.get_or_insert(now_ms);
        clock::due(mode, schedule, beacon.as_mut(), tips, first, now_ms)
    }

    /// A part of a proposed block from `publisher`. A whole block is judged, kept, and its value returned; `None` while
    /// parts are missing, and for a block whose parent is not final here yet: that one waits for its round (trap 9).
    pub fn received_part(
        &mut self,
        publisher: &[u8],
        stream: &[u8],
        sequence: u64,
        part: Part,
        now_ms: u64,
    ) -> Result<Option<ProposedValue<ChainContext>>, LedgerError> {
        let (front, at, verifier) = (self.parts.ledger.front(), self.at, self.verifier);
        let heard = &mut self.heard;
        let wanted = |init: &Init, sig: &Signature| {
            let turn = (init.height.0, init.round);
            let room = heard
                .get(&turn)
                .is_none_or(|t| t.contains(&init.block) || t.len() < HEARD_PER_TURN);
            let wanted = room && is_wanted(&front, at, &verifier, init, sig);
            // Only then is anything remembered: strangers may announce any height and round.
            if wanted {
                heard.entry(turn).or_default().insert(init.block);
            }
            wanted
        };
        match self
            .assembler
            .add(publisher, stream, sequence, part, wanted)
        {
            Added::Complete(announced) => self.judge(announced, now_ms),
            Added::Dropped(fault) if fault != Fault::Copy => {
                tracing::debug!(%fault, "a part of a proposed block was dropped");
                Ok(None)
            }
            Added::Waiting | Added::Dropped(_) => Ok(None),
        }
    }

    fn judge(
        &mut self,
        announced: Announced,
        now_ms: u64,
    ) -> Result<Option<ProposedValue<ChainContext>>, LedgerError> {
        let init = announced.init;
        let slot = Slot {
            height: init.height.0,
            round: init.round,
        };
        let value = |validity| Ok(Some(proposed(slot, init.proposer, init.block, validity)));
        let Some(block) = announced.block() else {
            // The announcer's fault and not the block's: to call it invalid would be said of an id that an honest proposer may have
            // made, and that others may be bound to. The round passes as if nothing had come.
            tracing::warn!(proposer = %init.proposer, height = slot.height, "a proposer's bytes are not the block it announced");
            return Ok(None);
        };
        // A new block is its announcer's own. One of an earlier round is another's, so that one's word is wanted; that it gave it
        // in that round is for the ledger's clock to judge.
        let (original, first) = announced.original(&block);
        let first =
            first.filter(|first| self.verifier.parts(&original, first, &original.proposer.0));
        let Some(first) = first else {
            // As above: nothing is said of the block.
            tracing::warn!(proposer = %init.proposer, height = slot.height, "a block of an earlier round that its proposer did not announce");
            return Ok(None);
        };
        let heard = |in_time| Heard {
            announced: Some(Sig(first.0)),
            in_time,
        };
        let ledger = &self.parts.ledger;
        // A block in our name bears our key's word, checked above. If it is not here, our disk has lost it: it is kept again, so that
        // our turn proposes it and no second one, and it gets our vote like any other. Voting contradicts nothing: a vote speaks for
        // the round's proposal, not for who made it, and the journal alone says what we voted. But of one turn of ours there is one
        // block. Another beside it is of a process that has our key; kept, it could be proposed after a restart in the first one's place.
        let me = self.address().0;
        if block.header.proposer == me && self.made_another(&block)? {
            tracing::error!(height = slot.height, id = %init.block, "a second block of our own turn: does another process have this validator's key?");
            return Ok(None);
        }
        match self.validate(block.clone(), slot, Some(now_ms))? {
            Verdict::Valid(valid) => {
                if !self.keep(&block, heard(true), slot.round)? {
                    return Ok(None);
                }
                self.remember_announcement(init, announced.signature);
                self.remember(*valid);
                value(Validity::Valid)
            }
            Verdict::Invalid(why) => {
                tracing::warn!(proposer = %init.proposer, height = slot.height, %why, "a proposed block gets no vote");
                // Where only our clock is against it, two thirds may be for it: the core then binds us to it, or decides it.
                if let Verdict::Valid(valid) = self.validate(block.clone(), slot, None)?
                    && self.keep(&block, heard(false), slot.round)?
                {
                    self.remember_announcement(init, announced.signature);
                    self.remember(*valid);
                }
                value(Validity::Invalid)
            }
            Verdict::NotYet { .. } => {
                let in_time = ledger.is_in_time(&block.header, now_ms);
                if self.keep(&block, heard(in_time), slot.round)? {
                    self.remember_announcement(init, announced.signature);
                }
                Ok(None)
            }
        }
    }

    /// Whether a block of our own for the same turn as `block` is here, and is another one. Not so of what we have proposed or are bound to.
    fn made_another(&self, block: &Block) -> Result<bool, LedgerError> {
        let (h, id) = (&block.header, block.id());
        let said = self.proposed.get(&(h.height, h.round)) == Some(&id);
        if said || self.parts.signer.bound(h.height) == Some(id) {
            return Ok(false);
        }
        let here = self.parts.ledger.undecided(h.height, h.round)?;
        Ok(here
            .iter()
            .any(|b| b.header.proposer == h.proposer && b.id() != id))
    }

    /// The parts of a block that was proposed in an earlier round and is taken up in `round`: under our name if it is our
    /// turn, else as its proposer announced it (trap 8). Empty if the body or the announcement is not here.
    pub fn restream(
        &self,
        height: Height,
        round: Round,
        id: BlockId,
    ) -> Result<Vec<Part>, LedgerError> {
        let Some(block) = self.parts.ledger.undecided_block(&id)? else {
            tracing::warn!(height = height.0, %id, "asked for a proposal again that is not here");
            return Ok(Vec::new());
        };
        if let Some(round) = round.as_u32() {
            self.parts.ledger.name_undecided(&id, round);
        }
        let front = self.parts.ledger.front();
        let ours = round
            .as_u32()
            .filter(|r| front.validators.proposer(height.0, *r) == self.address().0);
        let announced = match ours {
            Some(round) => self.announce(&block, round)?,
            None => self
                .announced
                .get(&(height.0, id))
                .map(|(init, signature)| Announced {
                    init: *init,
                    signature: *signature,
                    bytes: codec::encode(&block),
                }),
        };
        Ok(announced.as_ref().map(cut).unwrap_or_default())
    }

    /// In our name, for our turn; `None` if nobody would take it: too large, or of an earlier round without its proposer's word.
    fn announce(&self, block: &Block, round: u32) -> Result<Option<Announced>, LedgerError> {
        let Parts { ledger, signer, .. } = &self.parts;
        let Some((mut init, bytes)) = Announced::init(block, round, self.address()) else {
            return Ok(None);
        };
        if block.header.round < round {
            init.first = match block.header.proposer == self.address().0 {
                true => Some(signer.parts(&Init {
                    round: block.header.round,
                    ..init
                })),
                false => ledger
                    .announcement(&init.block)?
                    .map(|sig| Signature(sig.0)),
            };
            if init.first.is_none() {
                tracing::warn!(height = block.header.height, id = %init.block, "a block of an earlier round is here without its proposer's announcement, and cannot be proposed again");
                return Ok(None);
            }
        }
        let signature = signer.parts(&init);
        Ok(Some(Announced {
            init,
            signature,
            bytes,
        }))
    }

    /// A block is decided: it is final and durable when this returns. Doing it again changes nothing (trap 11).
    pub fn decided(
        &mut self,
        certificate: &CommitCertificate<ChainContext>,
    ) -> Result<(), LedgerError> {
        let (height, id) = (certificate.height.0, certificate.value_id);
        // Decided without us: the others are ahead, and our clock is late. The body may have been here already, so that nobody
        // asked us about a synced block.
        let me = self.address();
        if !certificate
            .commit_signatures
            .iter()
            .any(|s| s.address == me)
        {
            self.synced = self.synced.max(height);
        }
        if height <= self.parts.ledger.tip().height {
            // The engine's journal tells the last decision again after a crash between our commit and its own next step.
            let ours = self.parts.ledger.block(height)?.block.id();
            return match ours == id {
                true => Ok(()),
                false => Err(LedgerError::Conflict {
                    height,
                    ours,
                    theirs: id,
                }),
            };
        }
        let ours = to_certificate(certificate).ok_or_else(|| LedgerError::Replay {
            height,
            why: format!("block {id} was decided without a round"),
        })?;
        let outcome = match self.valid.remove(&(height, id)) {
            Some(valid) => self.parts.ledger.commit(valid, ours)?,
            None => {
                let block = self.parts.ledger.undecided_block(&id)?;
                let block = block.ok_or(LedgerError::BodyLost { height, id })?;
                self.parts.ledger.commit_decided(block, ours)?
            }
        };
        if let CommitOutcome::Committed(done) = outcome {
            let ids: Vec<_> = done.outcomes.receipts.iter().map(|r| r.tx).collect();
            let view = self.parts.ledger.view();
            self.parts.mempool.committed(height, &ids, &view)?;
        }
        self.valid.retain(|(h, _), _| *h > height);
        self.heard.retain(|(h, _), _| *h > height);
        self.announced.retain(|(h, _), _| *h > height);
        self.assembler.decided(Height(height));
        Ok(())
    }

    /// The certificate after the wait for late precommits; it may have grown, and may differ from other nodes' (trap 10).
    pub fn finalized(
        &mut self,
        certificate: &CommitCertificate<ChainContext>,
    ) -> Result<(), LedgerError> {
        if let Some(ours) = to_certificate(certificate) {
            self.parts
                .ledger
                .upgrade_certificate(certificate.height.0, ours)?;
        }
        Ok(())
    }

    /// Votes and proposals in which validators contradicted themselves: put before the chain, by a transaction of this validator's
    /// own account, one per validator, unless it has jailed them already. Evidence that cannot be sent now is not kept: others saw it too.
    ///
    /// A proposer that shows one half of the others one block and the other half another casts no vote twice, and may keep a round
    /// from deciding; so its proposals are evidence of their own (`threat-model.md` V1).
    pub fn report(
        &mut self,
        votes: impl IntoIterator<Item = (SignedVote<ChainContext>, SignedVote<ChainContext>)>,
        proposals: impl IntoIterator<
            Item = (SignedProposal<ChainContext>, SignedProposal<ChainContext>),
        >,
    ) -> Result<(), LedgerError> {
        let chain = self.parts.ledger.chain_id();
        for (one, other) in votes {
            if let Some(evidence) = double_vote(&one, &other).filter(|e| e.holds(&chain)) {
                let of = (evidence.validator, evidence.height);
                self.accuse(of, Message::ReportDoubleVote { evidence })?;
            }
        }
        for (one, other) in proposals {
            if let Some(evidence) = double_proposal(&one, &other).filter(|e| e.holds(&chain)) {
                let of = (evidence.validator, evidence.height);
                self.accuse(of, Message::ReportDoubleProposal { evidence })?;
            }
        }
        Ok(())
    }

    fn accuse(
        &mut self,
        (validator, height): (ValidatorId, u64),
        report: Message,
    ) -> Result<(), LedgerError> {
        let view = self.parts.ledger.view();
        let record = governance::record(&view, &validator)?;
        let tip = self.parts.ledger.tip().height;
        // One offence is enough. A second report would come after the first, be refused, and cost its fee.
        self.accused.retain(|_, (_, until)| *until > tip);
        let pending = self.accused.get(&validator);
        let pending = pending.is_some_and(|(height, _)| *height >= record.since);
        if record.jailed.is_some() || height < record.since || pending {
            return Ok(());
        }
        let what = report.name();
        let me = account::Address(self.address().0.0);
        let account: Option<Account> = state::read(&view, &key::account(&me))?;
        let until = tip.saturating_add(EVIDENCE_BLOCKS);
        let tx = Tx {
            version: TX_VERSION,
            chain_id: self.parts.ledger.chain_id(),
            sender: me,
            nonce: self.parts.mempool.next_nonce(&view, &me)?,
            fee_limit: account.unwrap_or_default().free,
            valid_until_height: until,
            msgs: vec![report],
        };
        let tx = self.parts.signer.transaction(tx);
        let told = self.parts.mempool.submit(tx, tip, &view);
        if told.is_ok() {
            self.accused.insert(validator, (height, until));
        }
        tracing::warn!(%validator, height, what, reported = told.is_ok(), "a validator contradicted itself");
        Ok(())
    }

    /// First height whose block is here.
    pub fn history_min(&self) -> Height {
        Height(self.parts.ledger.base_height() + 1)
    }

    /// Final blocks for a node that catches up: in order from the range's beginning, as many as fit.
    pub fn decided_values(
        &self,
        first: Height,
        last: Height,
    ) -> Result<Vec<(Bytes, ExtendedCommitCertificate<ChainContext>)>, LedgerError> {
        if first < self.history_min() {
            return Ok(Vec::new());
        }
        let last = last.0.min(first.0.saturating_add(MAX_SERVED_BLOCKS - 1));
        let blocks = self
            .parts
            .ledger
            .decided(first.0..=last, MAX_SERVED_BYTES)?;
        let value = |b: chain_lite::block::FinalBlock| {
            let bytes = Bytes::from(codec::encode(&b.block));
            (bytes, from_certificate(&b.certificate))
        };
        Ok(blocks.into_iter().map(value).collect())
    }

    /// A block from a peer, whose certificate the core has verified. No clock is asked: it is decided.
    pub fn synced(
        &mut self,
        height: Height,
        round: Round,
        proposer: Address,
        bytes: &[u8],
    ) -> Result<Synced, LedgerError> {
        let Some(round) = round.as_u32() else {
            return Ok(Synced::PeerFault);
        };
        let Ok(block) = codec::decode::<Block>(bytes, MAX_BLOCK_BYTES) else {
            return Ok(Synced::PeerFault);
        };
        let slot = Slot {
            height: height.0,
            round,
        };
        if block.header.height != height.0 {
            return Ok(Synced::PeerFault);
        }
        let id = block.id();
        match self.validate(block.clone(), slot, None)? {
            Verdict::Valid(valid) => {
                if !self.keep(&block, Heard::default(), slot.round)? {
                    return Ok(Synced::NotNow);
                }
                self.synced = height.0;
                self.remember(*valid);
                let value = proposed(slot, proposer, id, Validity::Valid);
                Ok(Synced::Value(value))
            }
            Verdict::Invalid(why) => {
                tracing::warn!(height = height.0, %id, %why, "a peer's block does not follow the rules");
                Ok(Synced::PeerFault)
            }
            Verdict::NotYet { .. } => Ok(Synced::NotNow),
        }
    }

    /// Whether a block that is proposed in `round` was kept; one that is out of reach is no error.
    fn keep(&self, block: &Block, heard: Heard, round: u32) -> Result<bool, LedgerError> {
        let Parts { ledger, signer, .. } = &self.parts;
        let bound = signer.bound(block.header.height);
        match ledger.keep_undecided(block, heard, Turn { round, bound }) {
            Ok(()) => Ok(true),
            Err(LedgerError::NotKept { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn remember(&mut self, valid: ValidBlock) {
        let height = valid.block().header.height;
        self.valid.insert((height, valid.id()), valid);
        while self.valid.len() > KEPT_VALID {
            // Any may go: committing checks again what is not here.
            self.valid.pop_first();
        }
    }

    fn remember_announcement(&mut self, init: Init, signature: Signature) {
        let key = (init.height.0, init.block);
        self.announced.entry(key).or_insert((init, signature));
        while self.announced.len() > MAX_BLOCKS {
            self.announced.pop_last();
        }
    }
}

fn double_vote(
    one: &SignedVote<ChainContext>,
    other: &SignedVote<ChainContext>,
) -> Option<DoubleVote> {
    let cast = |vote: &SignedVote<ChainContext>| {
        let (kind, block) = kind_of(vote);
        CastVote {
            kind,
            block,
            sig: Sig(vote.signature.0),
        }
    };
    let (height, round) = (one.height.0, one.round.as_u32()?);
    let same = one.validator == other.validator && one.height == other.height;
    (same && one.round == other.round)
        .then(|| DoubleVote::new(one.validator.0, height, round, cast(one), cast(other)))
}

/// Two different blocks proposed in one round; the same one with another round of earlier votes is none.
fn double_proposal(
    one: &SignedProposal<ChainContext>,
    other: &SignedProposal<ChainContext>,
) -> Option<DoubleProposal> {
    let cast = |p: &SignedProposal<ChainContext>| CastProposal {
        block: p.value.0,
        pol_round: p.pol_round.as_u32(),
        sig: Sig(p.signature.0),
    };
    let (height, round) = (one.height.0, one.round.as_u32()?);
    let same = one.proposer == other.proposer && one.height == other.height;
    (same && one.round == other.round && one.value != other.value)
        .then(|| DoubleProposal::new(one.proposer.0, height, round, cast(one), cast(other)))
}

fn proposed(
    slot: Slot,
    proposer: Address,
    id: BlockId,
    validity: Validity,
) -> ProposedValue<ChainContext> {
    ProposedValue {
        height: Height(slot.height),
        round: Round::new(slot.round),
        valid_round: Round::Nil,
        proposer,
        value: Value(id),
        validity,
    }
}

/// Whether an announcement is of a height that we know the validators of, a round near the present one, from the
/// validator whose turn it is, and signed by it. The signature comes last: it is what costs.
fn is_wanted(
    front: &Front,
    at: Slot,
    verifier: &ChainVerifier,
    init: &Init,
    signature: &Signature,
) -> bool {
    let ahead = init.height.0.checked_sub(front.tip.height);
    let set = match ahead {
        Some(1) => &front.validators,
        Some(2) => &front.next_validators,
        _ => return false,
    };
    let present = if init.height.0 == at.height {
        at.round
    } else {
        0
    };
    init.round <= present.saturating_add(MAX_ROUNDS_AHEAD)
        && set.proposer(init.height.0, init.round) == init.proposer.0
        && verifier.parts(init, signature, &init.proposer.0)
}
