//! What hostile validators say: announcements and blocks that break a rule, copies of others' messages that nobody signed, and second
//! blocks of one turn.
//!
//! A hostile machine runs the honest program; what it says is changed on its way out ([`crate::run`]), under its own key where that
//! key can sign it. Nothing here knows who believes it: that is what a run checks.

use chain_lite::block::{Block, BlockId};
use chain_lite::certificate::ValidatorId;
use chain_lite::units::EpochCount;
use chain_lite_bft::context::{Address, Height, Signature, Value};
use chain_lite_bft::parts::{Announced, Init, Part, cut};
use chain_lite_bft::signing::ChainSigner;
use malachite_core_consensus::{LivenessMsg, SignedConsensusMsg};
use malachite_core_types::{NilOrVal, Round, SignedMessage, SignedProposal, SignedVote, VoteType};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::node::Message;
use chain_lite_bft::context::ChainContext;

/// Bit of a stream's number under which a forger sends on what is not its own.
pub const FORGED: u64 = 1 << 63;
/// Bit of the stream of a second block of one turn.
pub const SECOND: u64 = 1 << 62;
/// Lies that a proposer tells in its announcement or its block.
pub const LIES: usize = 14;

/// A number that the same words always give.
pub fn mixed(words: &[&[u8]]) -> u64 {
    let mut digest = Sha256::new_with_prefix(b"foe");
    words.iter().for_each(|word| digest.update(word));
    let digest: [u8; 32] = digest.finalize().into();
    u64::from_le_bytes(digest[..8].try_into().expect("eight of 32"))
}

/// Parts that announce `block` under any `init`, signed.
fn announced(signer: &ChainSigner, init: Init, bytes: Vec<u8>) -> Vec<Part> {
    cut(&Announced {
        signature: signer.parts(&init),
        init,
        bytes,
    })
}

/// Instead of a new block of its own turn: what a liar announces, and the block that it then proposes. No rule lets anybody vote for
/// it. `turn_of` names the proposer of a round of this height.
pub fn lie(
    kind: usize,
    block: &Block,
    signer: &ChainSigner,
    others: &[ValidatorId],
    turn_of: impl Fn(u32) -> ValidatorId,
) -> (Vec<Part>, BlockId) {
    let (me, round) = (signer.address(), block.header.round);
    let of = |block: &Block| Announced::init(block, round, me).expect("no larger than it was");
    let other = others.iter().copied().find(|id| *id != me.0);
    let other = other.expect("a chain of several");
    let (mut init, bytes) = of(block);
    let mut changed = block.clone();
    let header = &mut changed.header;
    match kind {
        // An announcement of a sound block that says too much, or something else.
        0 => init.first = Some(signer.parts(&init)),
        1 => init.proposer = Address(other),
        2 => init.digest[0] ^= 1,
        3 => init.bytes -= 1,
        4 => init.height = Height(init.height.0 + 1),
        5 => init.round += 1,
        6 => init.block.0[0] ^= 1,
        // A block of this turn that breaks a rule, soundly announced; or an old one that its proposer never announced: in a later round.
        _ => {
            // Stamped like no other: where stamps follow from the parent, this could be the very block that its proposer did make.
            header.time_ms += 7;
            let earlier = round.checked_sub(1).filter(|r| turn_of(*r) != me.0);
            match (kind, earlier) {
                (7, _) => header.round += 1,
                (8, _) => header.epoch = header.epoch.after(EpochCount(100_000)),
                (9, _) => header.prev_state_root[0] ^= 1,
                (10, _) => header.parent_id.0[0] ^= 1,
                (11, _) => header.next_validators_hash[0] ^= 1,
                (12, Some(earlier)) => {
                    (header.round, header.proposer) = (earlier, turn_of(earlier))
                }
                (13, Some(earlier)) => header.round = earlier,
                _ => header.tx_root[0] ^= 1,
            }
            let is_old = header.round < round;
            let (mut init, bytes) = of(&changed);
            if is_old {
                // In its own name all the same.
                init.first = Some(signer.parts(&Init {
                    round: changed.header.round,
                    proposer: Address(changed.header.proposer),
                    ..init
                }));
            }
            return (announced(signer, init, bytes), changed.id());
        }
    }
    (announced(signer, init, bytes), block.id())
}

/// A second block of the same turn, as sound as the first.
pub fn second(block: &Block, signer: &ChainSigner) -> (Vec<Part>, BlockId) {
    let mut other = block.clone();
    other.header.time_ms += 1;
    let round = other.header.round;
    let (init, bytes) =
        Announced::init(&other, round, signer.address()).expect("no larger than it was");
    (announced(signer, init, bytes), other.id())
}

/// The same proposal of another block.
pub fn proposes(
    proposal: &SignedProposal<ChainContext>,
    block: BlockId,
    signer: &ChainSigner,
) -> Message {
    let mut said = proposal.message.clone();
    said.value = Value(block);
    let signed = signer.proposal(said).expect("it has a round");
    Message::Consensus(SignedConsensusMsg::Proposal(signed))
}

/// The same vote for something else.
pub fn votes(
    vote: &SignedVote<ChainContext>,
    value: NilOrVal<BlockId>,
    signer: &ChainSigner,
) -> Message {
    let mut said = vote.message.clone();
    said.value = value;
    let signed = signer.vote(said).expect("it has a round");
    Message::Consensus(SignedConsensusMsg::Vote(signed))
}

fn flipped(signature: &Signature, rng: &mut ChaCha8Rng) -> Signature {
    let mut bytes = signature.0;
    bytes[rng.gen_range(0..64)] ^= 1 << rng.gen_range(0..8);
    Signature(bytes)
}

fn forged_vote(
    vote: &SignedVote<ChainContext>,
    others: &[ValidatorId],
    rng: &mut ChaCha8Rng,
) -> SignedVote<ChainContext> {
    let (mut said, mut signature) = (vote.message.clone(), vote.signature);
    match rng.gen_range(0..6) {
        0 => said.round = Round::new(said.round.as_u32().unwrap_or(0) + 1),
        1 => said.height = Height(said.height.0 + 1),
        2 => {
            said.value = match said.value {
                NilOrVal::Nil => NilOrVal::Val(BlockId([rng.r#gen(); 32])),
                NilOrVal::Val(_) => NilOrVal::Nil,
            }
        }
        3 => {
            said.kind = match said.kind {
                VoteType::Prevote => VoteType::Precommit,
                VoteType::Precommit => VoteType::Prevote,
            }
        }
        4 => said.validator = Address(others[rng.gen_range(0..others.len())]),
        _ => {}
    }
    if said == vote.message {
        signature = flipped(&signature, rng);
    }
    SignedMessage::new(said, signature)
}

fn forged_proposal(
    proposal: &SignedProposal<ChainContext>,
    others: &[ValidatorId],
    rng: &mut ChaCha8Rng,
) -> SignedProposal<ChainContext> {
    let (mut said, mut signature) = (proposal.message.clone(), proposal.signature);
    match rng.gen_range(0..5) {
        0 => said.round = Round::new(said.round.as_u32().unwrap_or(0) + 1),
        1 => said.value.0.0[0] ^= 1,
        2 => said.pol_round = Round::new(said.pol_round.as_u32().map_or(0, |r| r + 1)),
        3 => said.proposer = Address(others[rng.gen_range(0..others.len())]),
        _ => {}
    }
    if said == proposal.message {
        signature = flipped(&signature, rng);
    }
    SignedMessage::new(said, signature)
}

/// A message of somebody else's with a changed field or signature. `None` where there is none to change.
pub fn forged(
    publisher: usize,
    message: &Message,
    others: &[ValidatorId],
    rng: &mut ChaCha8Rng,
) -> Option<Message> {
    Some(match message {
        Message::Consensus(SignedConsensusMsg::Vote(vote)) => {
            let vote = forged_vote(vote, others, rng);
            Message::Consensus(SignedConsensusMsg::Vote(vote))
        }
        Message::Consensus(SignedConsensusMsg::Proposal(p)) => {
            let proposal = forged_proposal(p, others, rng);
            Message::Consensus(SignedConsensusMsg::Proposal(proposal))
        }
        Message::Liveness(LivenessMsg::Vote(vote)) => {
            Message::Liveness(LivenessMsg::Vote(forged_vote(vote, others, rng)))
        }
        Message::Liveness(LivenessMsg::PolkaCertificate(polka)) => {
            let mut polka = polka.clone();
            match polka.polka_signatures.first_mut() {
                Some(one) if rng.gen_bool(0.5) => one.signature = flipped(&one.signature, rng),
                _ => polka.value_id.0[0] ^= 1,
            }
            Message::Liveness(LivenessMsg::PolkaCertificate(polka))
        }
        Message::Liveness(LivenessMsg::SkipRoundCertificate(skip)) => {
            let mut skip = skip.clone();
            match skip.round_signatures.first_mut() {
                Some(one) if rng.gen_bool(0.5) => one.signature = flipped(&one.signature, rng),
                _ => skip.round = Round::new(skip.round.as_u32().unwrap_or(0) + 1),
            }
            Message::Liveness(LivenessMsg::SkipRoundCertificate(skip))
        }
        // Either the announcement is changed and the bytes are as they were, or the other way round. The network's own signature names
        // who publishes, so it is the forger's own stream.
        Message::Part {
            publisher: whose,
            stream,
            sequence,
            part,
        } => {
            let word = [&whose.to_le_bytes()[..], &stream.to_le_bytes()[..]];
            let mut part = part.clone();
            match (&mut part, mixed(&word) % 2) {
                (Part::Init { init, signature }, 0) => match rng.gen_range(0..6) {
                    0 => init.round += 1,
                    1 => init.height = Height(init.height.0 + 1),
                    2 => init.first = Some(*signature),
                    3 => init.digest[0] ^= 1,
                    4 => init.block.0[0] ^= 1,
                    _ => *signature = flipped(signature, rng),
                },
                (Part::Data { bytes, .. }, 1) => {
                    let at = rng.gen_range(0..bytes.len());
                    bytes[at] ^= 1;
                }
                _ => {}
            }
            Message::Part {
                publisher,
                stream: FORGED | (*whose as u64) << 48 | stream & ((1 << 48) - 1),
                sequence: *sequence,
                part,
            }
        }
        Message::Status { .. } | Message::Request { .. } | Message::Response { .. } => return None,
    })
}
