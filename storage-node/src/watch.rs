//! The watcher of an optimistic chain: verifies every window PoSt that the chain took unverified, and disputes what is wrong.
//!
//! Place in the walk: beside `chain_lite::sector::dispute`, which has the rules; `holdfast dispute` is its command. Spec: `chain.md`
//! §7, `threat-model.md` P21 (who looks before the window closes), V9 (announce first).
//!
//! ```text
//! block ─ PostStored ─ proven post and statement ─ verified ─┬─ sound: next
//!                                                            └─ wrong: a case, durable ─ announce ─ dispute ─ post is gone
//! <home>/watch/lock                one watcher for each home
//!             /book-<chain id>     version u16 ‖ next block u64 ‖ cases (post, salt) ‖ BLAKE3 of it, 32 bytes
//! ```
//! * **What is believed.** A post, its sectors and what was announced are read with proofs ([`ProvenChain`]); the verifying keys are
//!   those of the genesis that hashes to the chain's id. Which posts there are is heard from the node: one that hides blocks can
//!   hide a post, so watch through a node of your own.
//! * **Once.** A case is on disk, with its salt, before it is announced. What to do next follows from the proven state alone: no
//!   announcement → announce, announcement → dispute, no post → the case is over. After a transaction of ours, and after a
//!   start, a case rests until the proven state is as new as what was sent. A transaction that an earlier process sent and that
//!   still waits holds the same nonce as ours ([`TxSender`]), so that one of the two is included.
//! * **Money.** Announcement and dispute cost their fees; the dispute pays a tenth of the stake. The watcher spends from its
//!   home's wallet: a home of its own keeps other commands out of its nonces.
//!
//! Bounds: one block's posts at a time, [`MAX_CASES`] open cases; then it stops to look for more until one is over. After a long
//! absence it begins where a post could still be disputed. Cost: a proof's verification (3 ms) and a few proven leaves a post.
//! Crash: it goes on from the book; a block whose posts were judged and not noted is judged again.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::Address;
use chain_lite::audit::Groth16Verifier;
use chain_lite::events::Event;
use chain_lite::execute::{ProofError, ProofVerifier};
use chain_lite::message::Message;
use chain_lite::sector::dispute::{self, PostId, StoredPost};
use chain_lite::state::{KvRead, key, read};
use chain_lite::units::{Epoch, TokenAmount};
use ed25519_dalek::SigningKey;
use prover::verify::WindowPostStatement;
use rand::Rng;
use rand::rngs::OsRng;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::chain::proven::{ProvenChain, ProvenError};
use crate::chain::{BlockEvents, ChainError};
use crate::client::ClientError;
use crate::client::journal::WalletLock;
use crate::client::record::RecordFile;
use crate::config::Home;
use crate::provider::lifecycle::Outcome;
use crate::provider::tx::TxSender;
use crate::rpc::reads::{self, ReadError};

/// Most wrong posts that are pursued at once.
pub const MAX_CASES: usize = 1024;
/// Pause between looks at what is to do.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after the node did not answer.
const RETRY: Duration = Duration::from_secs(2);
/// Blocks that a case rests after the chain or its pool refused a transaction of it.
const REST_BLOCKS: u64 = 10;
/// Blocks without a post after which the place in the chain is noted all the same.
const NOTE_EVERY: u64 = 256;
/// Blocks before the oldest that can matter, for posts at the very edge of their window.
const SLACK_BLOCKS: u64 = 16;
const VERSION: u16 = 1;

/// Why a watcher ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A fact is not known.
    #[error(transparent)]
    Proven(#[from] ProvenError),
    /// The chain does not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The book, or its lock.
    #[error(transparent)]
    File(#[from] ClientError),
    /// The genesis has no usable keys, or this program cannot verify with them.
    #[error("this program cannot verify the chain's proofs: {0}")]
    Unable(String),
    /// The stream of blocks ended.
    #[error("the node ended its stream of blocks")]
    Ended,
    /// A task of ours ended abnormally.
    #[error("a part of the watcher ended abnormally: {0}; please report this")]
    Task(String),
}

/// A wrong post that is being disputed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
struct Case {
    post: PostId,
    salt: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Book {
    version: u16,
    /// The first block whose posts were not judged.
    next: u64,
    cases: Vec<Case>,
}

/// A transaction of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Announce(PostId),
    Dispute(PostId),
}

impl Step {
    fn post(&self) -> PostId {
        match *self {
            Self::Announce(post) | Self::Dispute(post) => post,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announce(post) => write!(f, "the announcement about post {post}"),
            Self::Dispute(post) => write!(f, "the dispute of post {post}"),
        }
    }
}

/// What a watcher tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It looks at blocks from this height on.
    Watching(u64),
    /// A post does not verify.
    Wrong {
        /// Which.
        post: PostId,
        /// What the verifier said.
        why: String,
    },
    /// A step of a case was sent to the chain.
    Sent(String),
    /// A post was disputed, by us or by somebody else.
    Disputed {
        /// Which.
        post: PostId,
        /// By whom.
        by: Address,
        /// What its provider was charged.
        charged: TokenAmount,
        /// The disputer's part.
        reward: TokenAmount,
    },
    /// The chain does not know the post any more.
    Over(PostId),
    /// Something did not work; it is tried again.
    Problem(String),
}

/// What a watcher did since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Blocks whose posts were judged.
    pub blocks: u64,
    /// Posts that verified.
    pub sound: u64,
    /// Posts that did not.
    pub wrong: u64,
    /// Disputes of ours that the chain paid.
    pub disputes: u64,
    /// What they paid.
    pub rewards: TokenAmount,
    /// Cases that are still open; the next start goes on with them.
    pub open: usize,
}

/// A stored post as it is proven.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the chain keeps of it.
    pub stored: StoredPost,
    /// What its proof must prove.
    pub statement: WindowPostStatement,
}

/// How long a watcher runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until it is asked to stop: judges every block.
    Stopped,
    /// Until no case is open: judges nothing.
    Settled,
}

/// A watcher of one chain, with one home.
pub struct Watcher {
    chain: ProvenChain,
    verifier: Arc<Groth16Verifier>,
    sender: TxSender<Step>,
    address: Address,
    file: RecordFile,
    book: Book,
    /// Cases with a transaction under way.
    under_way: Vec<PostId>,
    /// The proven height below which a case rests.
    rests: BTreeMap<PostId, u64>,
    /// Height of the proven state that showed the end of a case, the last one.
    over_at: u64,
    summary: Summary,
    _lock: WalletLock,
}

impl Watcher {
    /// Opens the book of `home` and reads the keys of the genesis.
    pub async fn open(
        chain: ProvenChain,
        key: SigningKey,
        home: &Home,
    ) -> Result<Self, WatchError> {
        let dir = home.watch_dir();
        let lock = WalletLock::take_in(&dir)?;
        let path = dir.join(format!("book-{}", chain.node().chain_id()));
        let file = RecordFile::new(home, path);
        file.settle()?;
        let book: Option<Book> = file.read()?;
        if book.as_ref().is_some_and(|book| book.version != VERSION) {
            return Err(file.damaged("it was written by another version").into());
        }
        let verifier = Arc::new(verifier(&chain).await?);
        // The nonce first, then the height: see the front page and `TxSender`.
        let sender = TxSender::new(chain.node().clone(), key.clone()).await?;
        let head = chain.node().head().await?.height;
        let params = chain.params();
        let span = params.dispute_window.0 + params.window().0 + SLACK_BLOCKS;
        let oldest = head.saturating_sub(span).max(1);
        let book = book.unwrap_or(Book {
            version: VERSION,
            next: oldest,
            cases: Vec::new(),
        });
        let rests = book.cases.iter().map(|case| (case.post, head)).collect();
        Ok(Self {
            book: Book {
                next: book.next.max(oldest),
                ..book
            },
            address: Address::of(&key.verifying_key()),
            chain,
            verifier,
            sender,
            file,
            under_way: Vec::new(),
            rests,
            over_at: 0,
            summary: Summary::default(),
            _lock: lock,
        })
    }

    /// Verifies one post now. `None` if the chain has no such post.
    pub async fn judge(&self, post: PostId) -> Result<Option<Result<(), String>>, WatchError> {
        match stored(&self.chain, post).await? {
            Some(found) => verify(&self.verifier, found).await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes a case of a wrong post, durably; nothing if it is one.
    pub fn pursue(&mut self, post: PostId) -> Result<(), WatchError> {
        if self.book.cases.iter().all(|case| case.post != post) {
            let mut salt = [0; 32];
            OsRng.fill(&mut salt);
            self.book.cases.push(Case { post, salt });
            self.note()?;
        }
        Ok(())
    }

    /// Runs until its end; gives what it did.
    pub async fn run(
        mut self,
        until: Until,
        stop: CancellationToken,
        tell: &mut (dyn FnMut(Told) + Send),
    ) -> Result<Summary, WatchError> {
        let from = match until {
            Until::Stopped => self.book.next,
            Until::Settled => self.chain.node().head().await?.height.max(1),
        };
        tell(Told::Watching(from));
        let mut blocks = self.chain.node().subscribe_events(from);
        let mut heard = from.saturating_sub(1);
        // Posts of the block that is judged now; it may have to become provable first.
        let mut waiting: VecDeque<PostId> = VecDeque::new();
        loop {
            let room = waiting.is_empty() && self.book.cases.len() < MAX_CASES;
            let hears = room || until == Until::Settled;
            tokio::select! {
                () = stop.cancelled() => break,
                block = blocks.recv(), if hears => {
                    let block = block.ok_or(WatchError::Ended)?;
                    heard = block.head.height;
                    self.hear(&block, tell);
                    if until == Until::Stopped {
                        waiting.extend(block.events.iter().filter_map(|e| PostId::of(&e.event)));
                        if waiting.is_empty() {
                            self.judged(heard, false)?;
                        }
                    }
                    // There is nothing to do but to hear the next one.
                    if until == Until::Stopped && waiting.is_empty() && self.book.cases.is_empty() {
                        continue;
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let step = async {
                if !waiting.is_empty() {
                    self.judge_waiting(heard, &mut waiting, tell).await?;
                }
                self.go_on(tell).await
            };
            match step.await {
                Ok(()) => {}
                Err(error) if is_transient(&error) => {
                    tell(Told::Problem(error.to_string()));
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
                Err(error) => return Err(error),
            }
            // The news of a case's end comes with a block at or below the state that showed it.
            if until == Until::Settled && self.book.cases.is_empty() && heard >= self.over_at {
                break;
            }
        }
        self.note()?;
        self.summary.open = self.book.cases.len();
        Ok(self.summary)
    }

    /// What a block says of disputes.
    fn hear(&mut self, block: &BlockEvents, tell: &mut (dyn FnMut(Told) + Send)) {
        for record in &block.events {
            let Event::PostDisputed {
                provider,
                deadline,
                partition,
                close,
                disputer,
                charged,
                reward,
            } = record.event
            else {
                continue;
            };
            if disputer == self.address {
                self.summary.disputes += 1;
                let rewards = self.summary.rewards.0.saturating_add(reward.0);
                self.summary.rewards = TokenAmount(rewards);
            }
            tell(Told::Disputed {
                post: PostId {
                    provider,
                    deadline,
                    partition,
                    close,
                },
                by: disputer,
                charged,
                reward,
            });
        }
    }

    /// Judges the posts of block `height`, as soon as the state after it can be proven.
    async fn judge_waiting(
        &mut self,
        height: u64,
        waiting: &mut VecDeque<PostId>,
        tell: &mut (dyn FnMut(Told) + Send),
    ) -> Result<(), WatchError> {
        if self.chain.read(reads::network).await?.height < height {
            return Ok(());
        }
        while let Some(post) = waiting.front().copied() {
            match self.judge(post).await {
                // One post that cannot be judged hides no other.
                Err(error @ (WatchError::Proven(_) | WatchError::Task(_)))
                    if !is_transient(&error) =>
                {
                    tell(Told::Problem(format!(
                        "post {post} was not judged: {error}"
                    )));
                }
                Err(error) => return Err(error),
                // Disputed or forgotten by now.
                Ok(None) => {}
                Ok(Some(Ok(()))) => self.summary.sound += 1,
                Ok(Some(Err(why))) => {
                    self.summary.wrong += 1;
                    self.pursue(post)?;
                    tell(Told::Wrong { post, why });
                }
            }
            waiting.pop_front();
        }
        self.judged(height, true)
    }

    /// All posts of this block were judged.
    fn judged(&mut self, height: u64, had_posts: bool) -> Result<(), WatchError> {
        self.summary.blocks += 1;
        self.book.next = height.saturating_add(1);
        match had_posts || self.book.next.is_multiple_of(NOTE_EVERY) {
            true => self.note(),
            false => Ok(()),
        }
    }

    /// Takes every open case one step further, as the proven state says.
    async fn go_on(&mut self, tell: &mut (dyn FnMut(Told) + Send)) -> Result<(), WatchError> {
        if self.book.cases.is_empty() {
            return Ok(());
        }
        let head = self.chain.node().head().await?.height;
        for (step, outcome) in self.sender.poll(head).await {
            let post = step.post();
            self.under_way.retain(|under_way| *under_way != post);
            let rest = match outcome {
                Outcome::Accepted => 0,
                Outcome::Lost => 0,
                Outcome::Refused(why) => {
                    tell(Told::Problem(format!("{step}: {why}")));
                    REST_BLOCKS
                }
            };
            self.rests.insert(post, head.saturating_add(rest));
        }
        let cases = self.book.cases.clone();
        let address = self.address;
        let (proven, states) = {
            let cases = cases.clone();
            let all = move |state: &dyn KvRead| {
                let height = reads::network(state)?.height;
                // All keys are asked for at once: one that is not fetched yet is no error before.
                let states: Vec<Result<(bool, bool), ReadError>> = cases
                    .iter()
                    .map(|case| {
                        let digest = case.post.digest(&address, &case.salt);
                        let announced: Option<Epoch> =
                            read(state, &key::announcement(&address, &digest))?;
                        let there = state.get(&key::post(&case.post))?.is_some();
                        Ok((there, announced.is_some()))
                    })
                    .collect();
                let states: Result<Vec<_>, _> = states.into_iter().collect();
                Ok((height, states?))
            };
            self.chain.read(all).await?
        };
        for (case, (there, announced)) in cases.iter().zip(states) {
            if !there {
                self.book.cases.retain(|open| open.post != case.post);
                self.rests.remove(&case.post);
                self.over_at = proven;
                self.note()?;
                tell(Told::Over(case.post));
                continue;
            }
            let rests = self.rests.get(&case.post).is_some_and(|at| proven < *at);
            if rests || self.under_way.contains(&case.post) {
                continue;
            }
            let (step, message) = match announced {
                false => (
                    Step::Announce(case.post),
                    Message::AnnounceDispute {
                        digest: case.post.digest(&self.address, &case.salt),
                    },
                ),
                true => (
                    Step::Dispute(case.post),
                    Message::Dispute {
                        post: case.post,
                        salt: case.salt,
                    },
                ),
            };
            match self.sender.submit(step, vec![message], head).await {
                None => {
                    self.under_way.push(case.post);
                    tell(Told::Sent(step.to_string()));
                }
                Some(outcome) => {
                    if let Outcome::Refused(why) = outcome {
                        tell(Told::Problem(format!("{step}: {why}")));
                    }
                    self.rests
                        .insert(case.post, head.saturating_add(REST_BLOCKS));
                }
            }
        }
        Ok(())
    }

    fn note(&self) -> Result<(), WatchError> {
        Ok(self.file.write(&self.book)?)
    }
}

/// The verifier over the keys of the chain's genesis.
async fn verifier(chain: &ProvenChain) -> Result<Groth16Verifier, WatchError> {
    let genesis = chain.node().genesis().await?;
    let checked = genesis.check();
    let checked = checked.map_err(|error| WatchError::Unable(error.to_string()))?;
    Ok(Groth16Verifier::new(checked.keys().clone()))
}

/// A stored post with what it must prove, proven; `None` if the chain has none.
async fn stored(chain: &ProvenChain, post: PostId) -> Result<Option<Found>, WatchError> {
    Ok(chain.read(move |state| found(state, &post)).await?)
}

fn found(state: &dyn KvRead, post: &PostId) -> Result<Option<Found>, ReadError> {
    let Some(stored) = dispute::stored(state, post)? else {
        return Ok(None);
    };
    // All keys are asked for at once: the statement stops at the first that is missing, and a proven read has few rounds.
    state.get(&key::provider(post.provider))?;
    for number in &stored.proven {
        state.get(&key::sector(post.provider, *number))?;
    }
    let statement = dispute::statement_of(state, post, &stored)?;
    Ok(Some(Found { stored, statement }))
}

/// Whether a proof proves what it must: the outer error is this program's, the inner one the proof's.
async fn verify(
    verifier: &Arc<Groth16Verifier>,
    found: Found,
) -> Result<Result<(), String>, WatchError> {
    let verifier = Arc::clone(verifier);
    let work = move || verifier.window_post(&found.statement, &found.stored.proof);
    let verdict = tokio::task::spawn_blocking(work).await;
    match verdict.map_err(|error| WatchError::Task(error.to_string()))? {
        Ok(()) => Ok(Ok(())),
        Err(ProofError::Rejected(why)) => Ok(Err(why)),
        Err(ProofError::Unable(why)) => Err(WatchError::Unable(why)),
    }
}

fn is_transient(error: &WatchError) -> bool {
    match error {
        WatchError::Chain(error) | WatchError::Proven(ProvenError::Chain(error)) => {
            error.is_transient()
        }
        WatchError::Proven(error) => matches!(error, ProvenError::NotNow { .. }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use chain_lite::account::ProviderId;
    use chain_lite::codec;
    use chain_lite::error::StoreError;
    use chain_lite::state::Entry;
    use prover::SectorNumber;

    use super::*;

    /// A state of one leaf, that notes what else it is asked for.
    struct Asked {
        leaf: (Vec<u8>, Vec<u8>),
        others: RefCell<BTreeSet<Vec<u8>>>,
    }

    impl KvRead for Asked {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            if key == self.leaf.0 {
                return Ok(Some(self.leaf.1.clone()));
            }
            self.others.borrow_mut().insert(key.to_vec());
            Ok(None)
        }

        fn range(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<Entry>, StoreError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn tm_p21_a_post_of_many_sectors_is_read_in_one_round() {
        let post = PostId {
            provider: ProviderId(1000),
            deadline: 1,
            partition: 0,
            close: Epoch(9),
        };
        let stored = StoredPost {
            randomness: [1; 32],
            proven: (0..100).map(SectorNumber).collect(),
            proof: Vec::new(),
            stake: TokenAmount(1),
        };
        let state = Asked {
            leaf: (key::post(&post), codec::encode(&stored)),
            others: RefCell::default(),
        };
        assert!(found(&state, &post).is_err(), "nothing else is there yet");
        assert_eq!(state.others.borrow().len(), 101);
    }
}
