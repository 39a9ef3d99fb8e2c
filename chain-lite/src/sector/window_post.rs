//! SubmitPost: one partition's proof for this proving period (`chain.md` §7, `proofs.md` §5.3).
//!
//! Walk: after `prover::post`, before the deadline's close in [`super::fault`]. The statement is built from state: the
//! challenge is drawn before the window opens, and the proven set is every sector of the partition that is neither
//! skipped nor plainly faulty, ascending. (Filecoin fills the circuit's other slots with a proven sector; the verifier
//! does that for a short statement, which after de-duplication is the same list of inputs, `proofs.md` §5.4.) A partition
//! is posted once in a period, whatever the proof's bytes (`threat-model.md` P10, P11). Skipping is declaring a fault.
//!
//! In optimistic mode a proof that makes no sector active is not verified but stored ([`super::dispute`]).

use prover::verify::WindowPostStatement;
use prover::{CommR, SectorNumber};

use super::commit::verdict;
use super::deadline::{Schedule, Window};
use super::dispute::{self, PostId, StoredPost};
use super::{Partition, SectorLeaf, SectorState};
use crate::account::{Address, ProviderId};
use crate::error::{ChainError, Rule, StoreError, Subject};
use crate::events::{Event, FaultReason};
use crate::execute::Work;
use crate::params::VerificationMode;
use crate::provider::{self, Provider};
use crate::randomness::{self, Tag};
use crate::reward;
use crate::state::{KvRead, key, read};
use crate::units::TokenAmount;

/// What the message says.
pub(crate) struct Post<'m> {
    pub(crate) deadline: u16,
    pub(crate) partition: u32,
    pub(crate) skipped: &'m [SectorNumber],
    pub(crate) proof: &'m [u8],
}

/// Proves a partition of the open deadline.
pub(crate) fn submit(
    work: &mut Work<'_>,
    sender: &Address,
    id: ProviderId,
    post: Post<'_>,
) -> Rule<()> {
    let mut provider = provider::operated(work, sender, id)?;
    let leaf = work.deadline(id, post.deadline)?;
    let schedule = Schedule::of(&work.params, &provider);
    let window = schedule.require_open(work.now, post.deadline, &leaf)?;
    let mut partition = work.partition(id, post.deadline, post.partition)?;
    if partition.slots.is_empty() {
        return Err(ChainError::NotFound {
            what: Subject::Partition,
        }
        .into());
    }
    if partition.posted {
        return Err(ChainError::Duplicate {
            what: Subject::PostedPartition,
        }
        .into());
    }
    let proven = proven_set(&partition, post.skipped)?;
    let challenge = window.challenge;
    let randomness = randomness::need(work.kv(), &work.net, Tag::WindowPost, challenge, id)?;
    let unverified = work.params.verification == VerificationMode::Optimistic
        && !makes_active(&partition, &proven);
    if !unverified {
        let statement = statement(work.kv(), &provider, randomness, &proven)?;
        verdict(
            work.verifier()?.window_post(&statement, post.proof),
            Subject::WindowPostProof,
        )?;
    }

    reward::claim(work, &mut provider)?;
    take_effect(work, &mut provider, window, &mut partition, post.skipped)?;
    work.save_partition(id, post.deadline, post.partition, &partition);
    let Post {
        deadline,
        partition,
        skipped,
        proof,
    } = post;
    work.emit(Event::PostAccepted {
        provider: id,
        deadline,
        partition,
        proven: proven.clone(),
        skipped: skipped.to_vec(),
    });
    if unverified {
        let stored = StoredPost {
            randomness,
            proven,
            proof: proof.to_vec(),
            stake: TokenAmount::ZERO,
        };
        let post = PostId {
            provider: id,
            deadline,
            partition,
            close: window.close,
        };
        dispute::store(work, &mut provider, post, stored)?;
    }
    work.save_provider(&provider)
}

/// Whether any sector would earn that did not before: such a proof is always verified.
fn makes_active(partition: &Partition, proven: &[SectorNumber]) -> bool {
    let fresh = |slot: &&super::Slot| {
        slot.state != SectorState::Active && proven.binary_search(&slot.number).is_ok()
    };
    partition.slots.iter().any(|slot| fresh(&slot))
}

/// The sectors that the proof must cover: all that are neither skipped nor plainly faulty. At least one.
fn proven_set(partition: &Partition, skipped: &[SectorNumber]) -> Rule<Vec<SectorNumber>> {
    let ascending = skipped.windows(2).all(|pair| pair[0] < pair[1]);
    let known = |number: &SectorNumber| {
        partition
            .slots
            .binary_search_by_key(number, |slot| slot.number)
            .is_ok()
    };
    if !ascending || !skipped.iter().all(known) {
        return Err(ChainError::NotAllowed {
            what: Subject::SkippedSectors,
        }
        .into());
    }
    let covered = |slot: &&super::Slot| {
        !matches!(slot.state, SectorState::Faulty { .. })
            && skipped.binary_search(&slot.number).is_err()
    };
    let proven: Vec<SectorNumber> = partition
        .slots
        .iter()
        .filter(covered)
        .map(|slot| slot.number)
        .collect();
    if proven.is_empty() {
        return Err(ChainError::NotAllowed {
            what: Subject::NothingProven,
        }
        .into());
    }
    Ok(proven)
}

/// What a proof of these sectors must prove.
pub(super) fn statement(
    state: &dyn KvRead,
    provider: &Provider,
    randomness: [u8; 32],
    proven: &[SectorNumber],
) -> Result<WindowPostStatement, StoreError> {
    let id = provider.id;
    let mut sectors: Vec<(SectorNumber, CommR)> = Vec::with_capacity(proven.len());
    for &number in proven {
        let key = key::sector(id, number);
        let leaf: Option<SectorLeaf> = read(state, &key)?;
        let leaf = leaf.ok_or_else(|| StoreError::corrupt(&key, "proven, but is not there"))?;
        sectors.push((number, dispute::comm_r_of(leaf)));
    }
    Ok(WindowPostStatement {
        size: provider.sector_size,
        prover: id.prover_id(),
        randomness: randomness::post(randomness),
        sectors,
    })
}

/// Skipped sectors become faulty; unproven and recovering ones in the proven set become active.
fn take_effect(
    work: &mut Work<'_>,
    provider: &mut Provider,
    window: Window,
    partition: &mut Partition,
    skipped: &[SectorNumber],
) -> Rule<()> {
    let id = provider.id;
    partition.posted = true;
    for slot in &mut partition.slots {
        let number = slot.number;
        if skipped.binary_search(&number).is_ok() {
            slot.state = super::fault::faulted(
                work,
                provider,
                number,
                slot.state,
                window,
                FaultReason::Skipped,
            )?;
            continue;
        }
        match slot.state {
            SectorState::Active | SectorState::Faulty { .. } => continue,
            SectorState::Unproven => {
                let power = work.sector(id, number)?.power;
                provider.add_power(power)?;
                work.emit(Event::SectorActivated {
                    provider: id,
                    sector: number,
                    power,
                });
            }
            SectorState::Recovering { .. } => {
                provider.add_power(work.sector(id, number)?.power)?;
                work.emit(Event::SectorRecovered {
                    provider: id,
                    sector: number,
                });
            }
        }
        slot.state = SectorState::Active;
    }
    Ok(())
}
