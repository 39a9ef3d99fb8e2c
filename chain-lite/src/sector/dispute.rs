//! Optimistic mode: a window PoSt is taken unverified, and whoever finds it wrong is paid for saying so (`chain.md` §7).
//!
//! Walk: beside [`super::window_post`], which stores here what it does not verify; the money side is [`crate::slash`].
//!
//! ```text
//! post that activates nothing --> StoredPost --close + DISPUTE_WINDOW--> forgotten
//!                                     | commitment, one epoch later dispute; the chain verifies
//!                                     +--> all it proved Faulty since that close, stake charged, a tenth to the disputer
//! ```
//! A proof that makes any sector active is verified at once, and so is every PoRep: nobody earns by a proof that nobody saw.
//! The **stake** of a post is what a dispute charges, `sum min(BR(qa, 5.51 D), IP/10)` over what it proves. It is fixed when
//! the proof is taken, and not withdrawable until the window is over, so ending the sectors in between saves nothing
//! (`threat-model.md` P20).
//!
//! **Reward bound to its signer** (V9): a dispute must have been announced at least one epoch earlier by the digest of its
//! sender, its post and a salt. Who copies a dispute from the mempool has announced nothing, and who copies the announcement
//! has announced somebody else's. The reward is taken from the provider's loose money and unvested rewards; where it has
//! neither there is none, and the fault and the debt stand all the same.
//!
//! Who watches runs [`wrong_posts`] over each block, or the same over proven leaves (`storage_node::watch`), and disputes what is
//! wrong; one honest watcher is enough (P21).
//! Cost: one proof in a dispute; a stored post is its list of sectors and 192 bytes, for one window.

use borsh::{BorshDeserialize, BorshSerialize};
use prover::SectorNumber;
use prover::verify::WindowPostStatement;
use serde::{Deserialize, Serialize};

use super::window_post::statement;
use super::{SectorLeaf, SectorState};
use crate::account::{Address, DisputeDigest, NameError, ProviderId};
use crate::codec::{encode, tagged_hash};
use crate::error::{ChainError, Rule, Stop, StoreError, Subject};
use crate::events::{Event, EventRecord, FaultReason};
use crate::execute::{ProofError, ProofVerifier, Work};
use crate::provider::Provider;
use crate::reward;
use crate::slash;
use crate::state::{KvRead, decode, key, read, scan};
use crate::units::{Epoch, EpochCount, TokenAmount};

const DISPUTE_DOMAIN: &str = "holdfast/dispute/v1";

/// Which stored post: a partition is posted once in an occurrence of its deadline, which its close names.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
pub struct PostId {
    /// Whose.
    pub provider: ProviderId,
    /// The deadline.
    pub deadline: u16,
    /// The partition.
    pub partition: u32,
    /// The close of the occurrence it was made for.
    pub close: Epoch,
}

impl PostId {
    /// The post that an event says was stored.
    pub fn of(event: &Event) -> Option<Self> {
        match *event {
            Event::PostStored {
                provider,
                deadline,
                partition,
                close,
            } => Some(Self {
                provider,
                deadline,
                partition,
                close,
            }),
            _ => None,
        }
    }

    /// What `sender` announces before it disputes this post; `salt` keeps others from knowing which.
    pub fn digest(&self, sender: &Address, salt: &[u8; 32]) -> DisputeDigest {
        let parts = [sender.0.as_slice(), &encode(self), salt];
        DisputeDigest(tagged_hash(DISPUTE_DOMAIN, &parts))
    }
}

impl std::fmt::Display for PostId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            provider,
            deadline,
            partition,
            close,
        } = self;
        write!(f, "{provider}/{deadline}/{partition}@{close}")
    }
}

impl std::str::FromStr for PostId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("post", text, "PROVIDER/DEADLINE/PARTITION@CLOSE");
        let (place, close) = text.split_once('@').ok_or_else(bad)?;
        let mut fields = place.split('/');
        let mut field = || fields.next().ok_or_else(bad);
        let id = Self {
            provider: field()?.parse().map_err(|_| bad())?,
            deadline: field()?.parse().map_err(|_| bad())?,
            partition: field()?.parse().map_err(|_| bad())?,
            close: Epoch(close.parse().map_err(|_| bad())?),
        };
        // One text for each post: no signs, no leading zeros, nothing left over.
        match id.to_string() == text {
            true => Ok(id),
            false => Err(bad()),
        }
    }
}

/// A stored post's leaf.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StoredPost {
    /// What chose its leaves.
    pub randomness: [u8; 32],
    /// What it claims to prove, ascending.
    pub proven: Vec<SectorNumber>,
    /// The proof, as it came.
    pub proof: Vec<u8>,
    /// What a dispute charges.
    pub stake: TokenAmount,
}

/// Takes a proof unverified.
pub(super) fn store(
    work: &mut Work<'_>,
    provider: &mut Provider,
    id: PostId,
    mut post: StoredPost,
) -> Rule<()> {
    for &number in &post.proven {
        let sector = work.sector(provider.id, number)?;
        let fee = slash::dispute_fee(&work.params, &work.net, sector.power, sector.pledge);
        post.stake = post.stake.plus(fee)?;
    }
    provider.at_stake = provider.at_stake.plus(post.stake)?;
    work.save_post(&id, &post);
    let (since, span) = window_timer(work, &id);
    work.index(key::dispute_due(since.after(span), &id));
    let PostId {
        provider,
        deadline,
        partition,
        close,
    } = id;
    work.emit(Event::PostStored {
        provider,
        deadline,
        partition,
        close,
    });
    Ok(())
}

/// The timer at whose end a stored post is forgotten: `now > close + DISPUTE_WINDOW`, in lit epochs.
fn window_timer(work: &Work<'_>, id: &PostId) -> (Epoch, EpochCount) {
    (id.close, EpochCount(work.params.dispute_window.0 + 1))
}

/// Nobody disputed it in time. Its index entry is gone already.
pub(crate) fn forget(work: &mut Work<'_>, id: &PostId) -> Rule<()> {
    let (since, span) = window_timer(work, id);
    if work.put_off(since, span, |due| key::dispute_due(due, id))? {
        return Ok(());
    }
    let post = work.post(id)?;
    let mut provider = work.provider(id.provider)?;
    release(work, &mut provider, id, &post)?;
    work.save_provider(&provider)
}

fn release(
    work: &mut Work<'_>,
    provider: &mut Provider,
    id: &PostId,
    post: &StoredPost,
) -> Rule<()> {
    provider.at_stake = provider.at_stake.minus(post.stake)?;
    work.remove_post(id);
    Ok(())
}

/// Announces a dispute. The announcement is good from the next epoch on, for one dispute window.
pub(crate) fn announce(work: &mut Work<'_>, sender: &Address, digest: &DisputeDigest) -> Rule<()> {
    if work.announced(sender, digest)?.is_some() {
        return Err(ChainError::Duplicate {
            what: Subject::DisputeAnnouncement,
        }
        .into());
    }
    work.announce(sender, digest);
    Ok(())
}

/// Verifies a stored post that the sender says is wrong, and lets its provider answer for it.
pub(crate) fn dispute(
    work: &mut Work<'_>,
    sender: &Address,
    id: &PostId,
    salt: &[u8; 32],
) -> Rule<()> {
    let digest = id.digest(sender, salt);
    let Some(announced) = work.announced(sender, &digest)? else {
        return Err(ChainError::NotFound {
            what: Subject::DisputeAnnouncement,
        }
        .into());
    };
    if announced >= work.now {
        return Err(ChainError::TooEarly {
            what: Subject::DisputeAnnouncement,
            earliest: announced.next(),
            now: work.now,
        }
        .into());
    }
    let post = work.post(id)?;
    match judge(work.kv(), work.verifier()?, id, &post)? {
        Ok(()) => {
            return Err(ChainError::NotAllowed {
                what: Subject::SoundPost,
            }
            .into());
        }
        Err(ProofError::Rejected(_)) => {}
        Err(error @ ProofError::Unable(_)) => return Err(Stop::Unable(error.to_string())),
    }
    let mut provider = work.provider(id.provider)?;
    reward::claim(work, &mut provider)?;
    fault_all(work, &mut provider, id, &post)?;
    release(work, &mut provider, id, &post)?;
    let (since, span) = window_timer(work, id);
    let due = work.due_at(since, span)?;
    work.unindex(key::dispute_due(due, id));
    work.forget_announcement(sender, &digest, announced);
    let reward = slash::penalize_for(work, &mut provider, sender, post.stake)?;
    work.save_provider(&provider)?;
    work.emit(Event::PostDisputed {
        provider: id.provider,
        deadline: id.deadline,
        partition: id.partition,
        close: id.close,
        disputer: *sender,
        charged: post.stake,
        reward,
    });
    Ok(())
}

/// All that the post proved and that still lives is faulty since its close; an older fault keeps its age.
fn fault_all(
    work: &mut Work<'_>,
    provider: &mut Provider,
    id: &PostId,
    post: &StoredPost,
) -> Rule<()> {
    let mut partition = work.partition(id.provider, id.deadline, id.partition)?;
    for slot in &mut partition.slots {
        if post.proven.binary_search(&slot.number).is_err() {
            continue;
        }
        let since = match slot.state {
            SectorState::Faulty { since } | SectorState::Recovering { since } => {
                since.min(id.close)
            }
            SectorState::Active => {
                let power = work.sector(id.provider, slot.number)?.power;
                provider.remove_power(power)?;
                id.close
            }
            SectorState::Unproven => id.close,
        };
        if !matches!(slot.state, SectorState::Faulty { .. }) {
            work.emit(Event::SectorFaulted {
                provider: id.provider,
                sector: slot.number,
                reason: FaultReason::Disputed,
            });
        }
        slot.state = SectorState::Faulty { since };
    }
    work.save_partition(id.provider, id.deadline, id.partition, &partition);
    Ok(())
}

/// The statement that a stored post must prove.
pub fn statement_of(
    state: &dyn KvRead,
    id: &PostId,
    post: &StoredPost,
) -> Result<WindowPostStatement, StoreError> {
    let key = key::provider(id.provider);
    let provider: Option<Provider> = read(state, &key)?;
    let provider = provider.ok_or_else(|| StoreError::corrupt(&key, "posted, but is not there"))?;
    statement(state, &provider, post.randomness, &post.proven)
}

fn judge(
    state: &dyn KvRead,
    verifier: &dyn ProofVerifier,
    id: &PostId,
    post: &StoredPost,
) -> Result<Result<(), ProofError>, StoreError> {
    Ok(verifier.window_post(&statement_of(state, id, post)?, &post.proof))
}

/// A stored post, while its window is open.
pub fn stored(state: &dyn KvRead, id: &PostId) -> Result<Option<StoredPost>, StoreError> {
    read(state, &key::post(id))
}

/// All stored posts, in order of provider, deadline, partition and close.
pub fn all_stored(state: &dyn KvRead) -> Result<Vec<(PostId, StoredPost)>, StoreError> {
    let entry = |(key, bytes): crate::state::Entry| {
        let id = key::parse_post(&key);
        let id = id.ok_or_else(|| StoreError::corrupt(&key, "not a key of a stored post"))?;
        Ok((id, decode(&key, &bytes)?))
    };
    scan(state, &key::posts())?.into_iter().map(entry).collect()
}

/// Those of a block's newly stored posts that do not verify: what a watcher disputes. `state` is the one after the block.
/// Costs a proof for each post that the block stored.
pub fn wrong_posts(
    state: &dyn KvRead,
    verifier: &dyn ProofVerifier,
    events: &[EventRecord],
) -> Result<Vec<PostId>, StoreError> {
    let mut wrong = Vec::new();
    for id in events.iter().filter_map(|record| PostId::of(&record.event)) {
        if let Some(post) = stored(state, &id)?
            && let Err(ProofError::Rejected(_)) = judge(state, verifier, &id, &post)?
        {
            wrong.push(id);
        }
    }
    Ok(wrong)
}

/// The CommR of a sector number, live or ended: a stored post may outlive what it proves.
pub(super) fn comm_r_of(leaf: SectorLeaf) -> prover::CommR {
    match leaf {
        SectorLeaf::PreCommitted(leaf) => leaf.comm_r,
        SectorLeaf::Committed(leaf) => leaf.comm_r,
        SectorLeaf::Ended(leaf) => leaf.comm_r,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_has_one_text() {
        let post = PostId {
            provider: ProviderId(1001),
            deadline: 5,
            partition: 0,
            close: Epoch(360),
        };
        assert_eq!(post.to_string(), "1001/5/0@360");
        assert_eq!("1001/5/0@360".parse(), Ok(post));
        for bad in [
            "",
            "1001/5/0",
            "1001/5@360",
            "1001/5/0/1@360",
            "1001/05/0@360",
            "1001/5/0@+360",
            "1001/70000/0@360",
        ] {
            assert!(bad.parse::<PostId>().is_err(), "{bad}");
        }
    }
}
