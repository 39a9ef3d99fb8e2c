//! The validator sets of a chain file that is not executed.
//!
//! Walk: [`verify_file`](super::verify_file) asks here, block by block, whose signatures a block must have. Spec: `consensus.md`
//! §§4, 7. A header carries hashes of its sets only. What a set is, the rules of [`governance`] decide, and they need little: the
//! missed turns that the headers' rounds tell, the messages of governance in the blocks, and a state of the parameters, the sets
//! and the validators' records. So the rules themselves run here, over that state.
//!
//! One thing is not known without execution: whether a transaction that governance would accept took effect, for its nonce, its
//! fee and its other messages are the whole state's business. Both ways are followed, as two [`Worlds`], and the next header's
//! hashes tell which of them there can be. What the rules refuse, made-up evidence, sets without approval or offences that are
//! settled, makes no world, so nobody hides a change behind messages that come to nothing.
//!
//! Bound: [`MAX_WORLDS`], so every choice in eight independent doubts, and above that the likeliest: those in which nearly all
//! of a block's doubtful transactions took effect, or nearly none. A sound file with more doubt than that is reported as one
//! whose sets do not follow; it takes nine validators whose offence is true, not yet punished, and reported in one block by
//! transactions of which some fail, and `holdfast audit chain` decides it.
//! Cost: a block without such messages counts its turns. Memory: 40 bytes a validator and world.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use crate::account::ChainId;
use crate::block::{Block, Header};
use crate::certificate::ValidatorSet;
use crate::error::{Rule, Stop, StoreError};
use crate::execute::Work;
use crate::genesis::CheckedGenesis;
use crate::governance::{self, JailReason};
use crate::message::Message;
use crate::state::{MemoryState, WriteSet, key};

/// Most worlds that are followed at once: a bound on what a hostile file can make us do.
const MAX_WORLDS: usize = 256;

/// What a world's state holds.
type Leaves = BTreeMap<Vec<u8>, Vec<u8>>;

/// Who may decide the blocks, each way with what it supposes of the newest block's doubtful transactions.
type Worlds = BTreeMap<Leaves, Supposed>;

/// How many transactions, of those that governance would accept, did and did not take effect.
#[derive(Clone, Copy, Debug, Default)]
struct Supposed {
    applied: u32,
    failed: u32,
}

impl Supposed {
    /// Proposers take what succeeds, and whoever sends what fails makes all of it fail: a mixture is rarer the more even it is.
    fn oddness(self) -> u32 {
        self.applied.min(self.failed)
    }
}

/// A message of a transaction that governance has a say in, with the verdict about each of its signatures once somebody asked.
type Doubtful<'a> = (&'a Message, Vec<OnceCell<bool>>);

/// Follows the sets of a file from block to block.
pub(super) struct SetsOfFile {
    chain_id: ChainId,
    worlds: Worlds,
    /// The set of the block that was taken last.
    pub(super) now: ValidatorSet,
}

impl SetsOfFile {
    /// Before the first block.
    pub(super) fn new(genesis: &CheckedGenesis) -> Self {
        let mut state = MemoryState::default();
        state.commit(&genesis.writes());
        let needed = [key::params(), key::network(), key::validators()];
        state.0.retain(|key, _| needed.contains(key));
        Self {
            chain_id: genesis.chain_id(),
            worlds: BTreeMap::from([(state.0, Supposed::default())]),
            now: genesis.validators().clone(),
        }
    }

    /// Moves on to a block: leaves the worlds whose sets its header names; `now` is its set afterwards. The error says what does
    /// not follow.
    pub(super) fn narrow(&mut self, header: &Header) -> Result<(), String> {
        let mut known = false;
        for (leaves, _) in std::mem::take(&mut self.worlds) {
            let state = MemoryState(leaves);
            let sets = governance::sets(&state).map_err(|e| e.to_string())?;
            let Some((now, next)) = sets.filter(|(now, _)| now.hash() == header.validators_hash)
            else {
                continue;
            };
            known = true;
            if next.hash() == header.next_validators_hash {
                self.now = now;
                self.worlds.insert(state.0, Supposed::default());
            }
        }
        match (known, self.worlds.is_empty()) {
            (_, false) => Ok(()),
            (false, true) => {
                Err("its validators are not those that the block before announced".into())
            }
            (true, true) => Err(
                "it announces validators that do not follow from the block before; `holdfast audit chain` executes it and says more"
                    .into(),
            ),
        }
    }

    /// Follows what the block may have decided: for a block that has its signatures, because this is work.
    pub(super) fn widen(&mut self, block: &Block) -> Result<(), StoreError> {
        let Header { height, round, .. } = block.header;
        for (leaves, supposed) in std::mem::take(&mut self.worlds) {
            let mut state = MemoryState(leaves);
            // Of no world that there can be do the rules refuse to begin a block.
            let begun = |work: &mut Work<'_>| governance::begin_block(work, round);
            if let Some(writes) = self.run(&state, height, begun)? {
                state.commit(&writes);
                self.worlds.insert(state.0, supposed);
            }
        }
        for tx in &block.body.txs {
            let msgs = tx
                .tx
                .msgs
                .iter()
                .filter_map(|msg| Some((msg, signatures(msg)?)));
            let cells = |count| std::iter::repeat_with(OnceCell::new).take(count).collect();
            let msgs: Vec<Doubtful<'_>> = msgs.map(|(msg, count)| (msg, cells(count))).collect();
            // What has no signature is refused everywhere. The others are proofs, of which a block has a limit.
            if !msgs.is_empty() && msgs.iter().all(|(_, held)| !held.is_empty()) {
                self.fork(height, &msgs)?;
            }
        }
        Ok(())
    }

    /// Follows a transaction both ways where the rules would accept it.
    fn fork(&mut self, height: u64, msgs: &[Doubtful<'_>]) -> Result<(), StoreError> {
        for (leaves, supposed) in std::mem::take(&mut self.worlds) {
            let mut state = MemoryState(leaves);
            let all =
                |work: &mut Work<'_>| msgs.iter().try_for_each(|(msg, held)| act(work, msg, held));
            let Some(writes) = self.run(&state, height, all)? else {
                self.suppose(state, supposed);
                continue;
            };
            let (mut applied, mut failed) = (supposed, supposed);
            applied.applied = applied.applied.saturating_add(1);
            failed.failed = failed.failed.saturating_add(1);
            self.suppose(state.clone(), failed);
            state.commit(&writes);
            self.suppose(state, applied);
        }
        if self.worlds.len() > MAX_WORLDS {
            let mut worlds: Vec<_> = std::mem::take(&mut self.worlds).into_iter().collect();
            worlds.sort_by_key(|(_, supposed)| supposed.oddness());
            worlds.truncate(MAX_WORLDS);
            self.worlds.extend(worlds);
        }
        Ok(())
    }

    /// Adds a world; of two ways to the same one the likelier counts.
    fn suppose(&mut self, state: MemoryState, supposed: Supposed) {
        let known = self.worlds.entry(state.0).or_insert(supposed);
        if supposed.oddness() < known.oddness() {
            *known = supposed;
        }
    }

    /// What a rule would write, or `None` if it refuses.
    fn run(
        &self,
        state: &MemoryState,
        height: u64,
        rule: impl FnOnce(&mut Work<'_>) -> Rule<()>,
    ) -> Result<Option<WriteSet>, StoreError> {
        let mut work = Work::of_governance(state, height, self.chain_id)?;
        match rule(&mut work) {
            Ok(()) => work.into_writes().map(Some),
            Err(Stop::Refused(_)) => Ok(None),
            Err(Stop::Broken(error)) => Err(error),
            Err(Stop::Unable(why)) => Err(StoreError::Io(why)),
        }
    }
}

/// Verdicts about signatures that a message of governance needs; `None` for the other messages.
fn signatures(msg: &Message) -> Option<usize> {
    match msg {
        Message::SetValidators { approvals, .. } => Some(approvals.len()),
        // Both signatures of one validator are one offence.
        Message::ReportDoubleVote { .. } | Message::ReportDoubleProposal { .. } => Some(1),
        _ => None,
    }
}

/// As the block's execution does it, but signatures are checked once and not in every world.
fn act(work: &mut Work<'_>, msg: &Message, held: &[OnceCell<bool>]) -> Rule<()> {
    let verdict = |at: usize, holds: &dyn Fn() -> bool| match held.get(at) {
        Some(known) => *known.get_or_init(holds),
        None => holds(),
    };
    let (of, reason, holds): (_, _, &dyn Fn(&ChainId) -> bool) = match msg {
        Message::SetValidators {
            number,
            validators,
            approvals,
        } => return governance::set_validators(work, *number, validators, approvals, verdict),
        Message::ReportDoubleVote { evidence: e } => {
            let of = (e.validator, e.height);
            (of, JailReason::DoubleVote, &|chain| e.holds(chain))
        }
        Message::ReportDoubleProposal { evidence: e } => {
            let of = (e.validator, e.height);
            (of, JailReason::DoubleProposal, &|chain| e.holds(chain))
        }
        _ => return Ok(()),
    };
    governance::punish(work, of, reason, |chain| verdict(0, &|| holds(chain)))
}
