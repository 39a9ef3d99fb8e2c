//! Walking from what is trusted to what is new: which light blocks are fetched, and what is remembered.
//!
//! Walk: a wallet or an auditor asks a node for facts; [`Follower`] lets [`crate::verify`] judge every answer, fetches blocks in
//! between where a step was too wide, and stores how far it came. Spec: `consensus.md` §7, on the model of tendermint-rs: a pure
//! verifier, a provider of light blocks, a store of trusted state.
//!
//! The provider is asked with `async fn`s of the language alone; whatever runs them (tokio, a browser, a test's poll) is the
//! caller's. Cost: one light block in the common case; when validators changed a lot, bisection, at most 64 blocks held at once
//! and one fetched per height in the worst case. Crash: the store holds the last state saved; what was not saved is fetched again.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::codec;
use crate::name::ChainId;
use crate::verify::{Leaf, LightBlock, LightError, StateBatch, Trusted};

/// Most headers that [`Follower::confirm`] asks for to lead from an old block to the trusted one.
pub const MAX_STEPS_BACK: u64 = 1024;

/// Where light blocks and proofs come from: a node, a file. It is not believed.
#[allow(
    async_fn_in_trait,
    reason = "callers name their provider; whether its futures move between threads is theirs to say"
)]
pub trait Provider {
    /// Why it has no answer.
    type Error;

    /// The final block of this height.
    async fn light_block(&self, height: u64) -> Result<LightBlock, Self::Error>;

    /// Leaves of the newest state that can be proven.
    async fn state(&self, keys: &[Vec<u8>]) -> Result<StateBatch, Self::Error>;
}

/// Where the trusted state is kept between runs.
pub trait Store {
    /// Why it cannot be read or written.
    type Error;

    /// What was saved last for this chain.
    fn load(&self, chain_id: &ChainId) -> Result<Option<Trusted>, Self::Error>;

    /// Replaces it.
    fn save(&mut self, trusted: &Trusted) -> Result<(), Self::Error>;
}

/// How long a block is trusted, in milliseconds after its time, by who finalised it. Asked at every step: whoever follows a chain
/// from its only validator into a set of several trusts those for as long as several.
pub type TrustPeriod = fn(&Trusted) -> u64;

/// Why following stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError<P, S> {
    /// The provider has no answer.
    #[error("{0}")]
    Provider(P),
    /// The store failed.
    #[error("{0}")]
    Store(S),
    /// The answer is not believed.
    #[error(transparent)]
    Light(#[from] LightError),
    /// The provider is behind what was believed before.
    #[error(
        "the node answers from block {theirs}, but block {ours} is final already; it is behind, or shows an old state"
    )]
    Behind {
        /// Height of its answer.
        theirs: u64,
        /// Height that is trusted.
        ours: u64,
    },
    /// Another block was asked for.
    #[error("block {asked} was asked for and block {got} came")]
    OtherBlock {
        /// Height that was asked for.
        asked: u64,
        /// Height that came.
        got: u64,
    },
}

/// A light client that remembers.
#[derive(Debug)]
pub struct Follower<S> {
    trusted: Trusted,
    trust_period: TrustPeriod,
    store: S,
}

impl<S: Store> Follower<S> {
    /// Begins at what the store remembers of the anchor's chain, or at the anchor where that is newer. A remembered block of the
    /// anchor's height that is another block is a fork.
    pub fn open(
        anchor: Trusted,
        store: S,
        trust_period: TrustPeriod,
    ) -> Result<Self, OpenError<S>> {
        let kept = store
            .load(&anchor.chain_id())
            .map_err(FollowError::Store)?
            .filter(|kept| {
                kept.chain_id() == anchor.chain_id() && kept.height() >= anchor.height()
            });
        let trusted = match kept {
            Some(kept) if kept.height() == anchor.height() && kept.id() != anchor.id() => {
                return Err(LightError::Fork {
                    height: kept.height(),
                    ours: kept.id(),
                    theirs: anchor.id(),
                }
                .into());
            }
            Some(kept) => kept,
            None => anchor,
        };
        Ok(Self {
            trusted,
            trust_period,
            store,
        })
    }

    /// The newest block believed.
    pub fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// Believes a block that is not older than what is trusted, or says why not; blocks in between are fetched as needed.
    pub async fn believe<P: Provider>(
        &mut self,
        provider: &P,
        block: LightBlock,
        now_ms: u64,
    ) -> Result<(), FollowError<P::Error, S::Error>> {
        let (theirs, ours) = (block.header.height, self.trusted.height());
        if theirs < ours {
            return Err(FollowError::Behind { theirs, ours });
        }
        let now = Some(now_ms);
        let now = follow(&self.trusted, block, provider, now, self.trust_period).await?;
        if now != self.trusted {
            self.store.save(&now).map_err(FollowError::Store)?;
            self.trusted = now;
        }
        Ok(())
    }

    /// As [`Follower::believe`], for a block that may be older than what is trusted: then the headers in between must lead from it
    /// to the trusted block. For facts that do not change with time, such as receipts.
    pub async fn confirm<P: Provider>(
        &mut self,
        provider: &P,
        block: LightBlock,
        now_ms: u64,
    ) -> Result<(), FollowError<P::Error, S::Error>> {
        let (theirs, ours) = (block.header.height, self.trusted.height());
        if theirs >= ours {
            return self.believe(provider, block, now_ms).await;
        }
        if ours - theirs > MAX_STEPS_BACK {
            return Err(FollowError::Behind { theirs, ours });
        }
        let mut id = block.header.id();
        for asked in theirs + 1..=ours {
            let next = provider
                .light_block(asked)
                .await
                .map_err(FollowError::Provider)?;
            if next.header.height != asked || next.header.parent_id != id {
                return Err(LightError::Header {
                    height: asked,
                    field: "parent",
                }
                .into());
            }
            id = next.header.id();
        }
        match id == self.trusted.id() {
            true => Ok(()),
            false => Err(LightError::Fork {
                height: ours,
                ours: self.trusted.id(),
                theirs: id,
            }
            .into()),
        }
    }

    /// Leaves of the newest state, each proven present or absent under a block that is believed.
    pub async fn state<P: Provider>(
        &mut self,
        provider: &P,
        keys: &[Vec<u8>],
        now_ms: u64,
    ) -> Result<Vec<Leaf>, FollowError<P::Error, S::Error>> {
        let batch = provider.state(keys).await.map_err(FollowError::Provider)?;
        batch.check(keys)?;
        self.believe(provider, batch.light, now_ms).await?;
        Ok(batch.leaves)
    }
}

/// Why a [`Follower`] does not begin.
pub type OpenError<S> = FollowError<std::convert::Infallible, <S as Store>::Error>;

/// From what is trusted to `target`, in one step where enough trusted validators signed it, else through the middle.
///
/// `now_ms` is Unix time for who wants to know the present. Without it every step is judged as of the time of the block that it
/// leads to, as for a history that others will read later; a step too long for the trust period then goes through the middle too.
pub async fn follow<P: Provider, E>(
    from: &Trusted,
    target: LightBlock,
    provider: &P,
    now_ms: Option<u64>,
    trust_period: TrustPeriod,
) -> Result<Trusted, FollowError<P::Error, E>> {
    let mut trusted = from.clone();
    // Blocks still ahead, the nearest last. Each is at most half as far away as the one before: never more than 64.
    let mut ahead = vec![target];
    while let Some(next) = ahead.last() {
        let now = now_ms.unwrap_or(next.header.time_ms);
        let between = next.header.height.saturating_sub(trusted.height()) / 2;
        match trusted.step(next, now, trust_period(&trusted)) {
            Ok(now) => {
                trusted = now;
                ahead.pop();
            }
            // Only a skip can be too far, so there is a block strictly in between.
            Err(error @ (LightError::TooFar { .. } | LightError::Expired))
                if between > 0 && (error != LightError::Expired || now_ms.is_none()) =>
            {
                let asked = trusted.height() + between;
                let block = provider
                    .light_block(asked)
                    .await
                    .map_err(FollowError::Provider)?;
                let got = block.header.height;
                if got != asked {
                    return Err(FollowError::OtherBlock { asked, got });
                }
                ahead.push(block);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(trusted)
}

/// Any bytes as the blocks that a node shows: whoever follows them gets somewhere or is refused, in bounded steps, without a panic,
/// never goes back, and never into a chain that it did not ask for. What decodes is written as it was read. Body of a fuzz target.
///
/// Blocks are `length u32le ‖ borsh`; the first is the client's anchor.
pub fn fuzz_follow(bytes: &[u8]) {
    if let Ok(trusted) = codec::decode::<Trusted>(bytes, bytes.len()) {
        assert_eq!(codec::encode(&trusted), bytes, "one encoding per value");
    }
    let mut shown = Shown(Vec::new());
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((block, after)) = after.split_at_checked(length) else {
            break;
        };
        if let Ok(decoded) = codec::decode::<LightBlock>(block, length) {
            assert_eq!(codec::encode(&decoded), block, "one encoding per value");
            shown.0.push(decoded);
        }
        rest = after;
    }
    let Some(first) = shown.0.first() else {
        return;
    };
    let (chain_id, id) = (first.header.chain_id, first.header.id());
    let Ok(anchor) = Trusted::checkpoint(chain_id, id, first) else {
        return;
    };
    let forever: TrustPeriod = |_| u64::MAX;
    let mut trusted = anchor;
    for block in &shown.0 {
        let from = trusted.clone();
        let walk = follow::<_, Infallible>(&from, block.clone(), &shown, None, forever);
        // No future of this provider waits.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(now)) = pin!(walk).poll(&mut context) {
            assert!(now.height() >= trusted.height() && now.chain_id() == chain_id);
            trusted = now;
        }
    }
}

/// What [`fuzz_follow`]'s node shows.
struct Shown(Vec<LightBlock>);

impl Provider for Shown {
    type Error = ();

    async fn light_block(&self, height: u64) -> Result<LightBlock, ()> {
        let found = self.0.iter().find(|b| b.header.height == height);
        found.or(self.0.last()).cloned().ok_or(())
    }

    async fn state(&self, _: &[Vec<u8>]) -> Result<StateBatch, ()> {
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use ed25519_dalek::{Signer, SigningKey};

    use super::*;
    use crate::certificate::{
        BlockId, Certificate, Sig, Validator, ValidatorId, ValidatorSet, vote_bytes,
    };
    use crate::epoch::Epoch;
    use crate::header::{BLOCK_VERSION, Header};
    use crate::verify::Links;

    const CHAIN: ChainId = ChainId([1; 32]);
    const PERIOD_MS: u64 = 1 << 40;

    /// The futures of this module's providers are ready at once.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("a test's provider never waits"),
        }
    }

    fn key(n: u64) -> SigningKey {
        SigningKey::from_bytes(&codec::tagged_hash("test key", &[&n.to_le_bytes()]))
    }

    fn set(keys: &[u64]) -> ValidatorSet {
        let validator = |n: &u64| Validator {
            id: ValidatorId(key(*n).verifying_key().to_bytes()),
            power: 1,
        };
        ValidatorSet::new(keys.iter().map(validator).collect()).unwrap()
    }

    fn certificate(header: &Header, signers: &[u64]) -> Certificate {
        let (height, block) = (header.height, header.id());
        let sign = |n: &u64| {
            let id = ValidatorId(key(*n).verifying_key().to_bytes());
            let vote = vote_bytes(&CHAIN, height, 0, &block, &id);
            (id, Sig(key(*n).sign(&vote).to_bytes()))
        };
        let mut sigs: Vec<_> = signers.iter().map(sign).collect();
        sigs.sort_by_key(|s| s.0);
        Certificate::Ed25519V1 {
            height,
            round: 0,
            block,
            sigs,
        }
    }

    fn period(_: &Trusted) -> u64 {
        PERIOD_MS
    }

    const DAY_MS: u64 = 86_400_000;

    /// As clients have it: without end while there is one validator.
    fn days(trusted: &Trusted) -> u64 {
        match trusted.validators() {
            1 => u64::MAX,
            _ => 14 * DAY_MS,
        }
    }

    /// Four validators, one of whom is replaced in every `pace`-th block.
    struct Chain {
        blocks: Vec<LightBlock>,
        asked: RefCell<Vec<u64>>,
    }

    impl Chain {
        fn of(length: u64, pace: u64) -> (Trusted, Self) {
            Self::with(length, 1, |height: u64| {
                let first = (height - 1) / pace;
                vec![first, first + 1, first + 2, first + 3]
            })
        }

        /// Blocks `step_ms` apart, of the validators that `at` names for each height.
        fn with(length: u64, step_ms: u64, at: impl Fn(u64) -> Vec<u64>) -> (Trusted, Self) {
            let mut parent_id = BlockId(CHAIN.0);
            let mut blocks = vec![];
            for height in 1..=length {
                let header = Header {
                    version: BLOCK_VERSION,
                    chain_id: CHAIN,
                    height,
                    epoch: Epoch(height),
                    time_ms: 1_000 + height * step_ms,
                    parent_id,
                    prev_state_root: [2; 32],
                    tx_root: [3; 32],
                    prev_receipt_root: [4; 32],
                    validators_hash: set(&at(height)).hash(),
                    next_validators_hash: set(&at(height + 1)).hash(),
                    proposer: set(&at(height)).validators()[0].id,
                    round: 0,
                };
                parent_id = header.id();
                blocks.push(LightBlock {
                    certificate: certificate(&header, &at(height)),
                    validators: set(&at(height)).validators().to_vec(),
                    header,
                });
            }
            let trusted = Trusted::genesis(CHAIN, 1_000, set(&at(1)));
            let asked = RefCell::default();
            (trusted, Self { blocks, asked })
        }

        fn block(&self, height: u64) -> LightBlock {
            self.blocks[height as usize - 1].clone()
        }
    }

    impl Provider for Chain {
        type Error = Infallible;
        async fn light_block(&self, height: u64) -> Result<LightBlock, Infallible> {
            self.asked.borrow_mut().push(height);
            Ok(self.block(height))
        }
        async fn state(&self, _: &[Vec<u8>]) -> Result<StateBatch, Infallible> {
            Ok(StateBatch {
                light: self.block(self.blocks.len() as u64),
                leaves: vec![],
            })
        }
    }

    #[derive(Default)]
    struct Memory(Option<Vec<u8>>);

    impl Store for Memory {
        type Error = Infallible;
        fn load(&self, _: &ChainId) -> Result<Option<Trusted>, Infallible> {
            Ok(self
                .0
                .as_ref()
                .map(|bytes| codec::decode(bytes, 1 << 16).unwrap()))
        }
        fn save(&mut self, trusted: &Trusted) -> Result<(), Infallible> {
            self.0 = Some(codec::encode(trusted));
            Ok(())
        }
    }

    fn walk(
        chain: &Chain,
        from: &Trusted,
        to: u64,
    ) -> Result<Trusted, FollowError<Infallible, Infallible>> {
        now(follow(from, chain.block(to), chain, Some(1_000), period))
    }

    #[test]
    fn one_step_where_validators_stay_and_bisection_where_they_change() {
        let (genesis, still) = Chain::of(40, 1_000);
        let end = walk(&still, &genesis, 40).unwrap();
        assert_eq!(end.id(), still.block(40).header.id());
        assert!(still.asked.borrow().is_empty(), "one step");

        let (genesis, moving) = Chain::of(40, 2);
        let end = walk(&moving, &genesis, 40).unwrap();
        assert_eq!(end.id(), moving.block(40).header.id());
        let asked = moving.asked.borrow().len();
        assert!((1..40).contains(&asked), "{asked} blocks in between");
    }

    #[test]
    fn tm_v12_a_set_nobody_trusts_is_not_reached_by_bisection_either() {
        let (genesis, mut chain) = Chain::of(20, 1_000);
        // From block 11 on, another set signs, which no header announced.
        let other = [50, 51, 52];
        for height in 11..=20usize {
            let parent_id = chain.blocks[height - 2].header.id();
            let block = &mut chain.blocks[height - 1];
            block.header.parent_id = parent_id;
            block.header.validators_hash = set(&other).hash();
            block.header.next_validators_hash = set(&other).hash();
            block.validators = set(&other).validators().to_vec();
            block.certificate = certificate(&block.header, &other);
        }
        let error = walk(&chain, &genesis, 20).unwrap_err();
        assert!(
            matches!(
                error,
                FollowError::Light(LightError::Header {
                    height: 11,
                    field: "validators"
                })
            ),
            "{error}"
        );
        // A provider that answers with another height is told apart from one that lies inside the block.
        let (genesis, mut moving) = Chain::of(20, 1);
        moving.blocks.swap(9, 11);
        assert!(matches!(
            walk(&moving, &genesis, 20),
            Err(FollowError::OtherBlock { asked: 10, got: 12 })
        ));
    }

    #[test]
    fn what_was_believed_is_remembered_and_forks_and_old_answers_are_found() {
        let (genesis, chain) = Chain::of(30, 3);
        let mut follower = Follower::open(genesis.clone(), Memory::default(), period)
            .unwrap_or_else(|_| panic!("nothing is stored"));
        now(follower.state(&chain, &[], 1_000)).unwrap();
        assert_eq!(follower.trusted().height(), 30);
        let kept = follower.store.0.clone();
        let error = now(follower.believe(&chain, chain.block(29), 1_000)).unwrap_err();
        assert!(matches!(
            error,
            FollowError::Behind {
                theirs: 29,
                ours: 30
            }
        ));

        now(follower.confirm(&chain, chain.block(12), 1_000)).unwrap();
        let mut stray = chain.block(12);
        stray.header.prev_receipt_root[0] ^= 1;
        let error = now(follower.confirm(&chain, stray, 1_000)).unwrap_err();
        assert!(matches!(
            error,
            FollowError::Light(LightError::Header { height: 13, .. })
        ));

        let again = Follower::open(genesis, Memory(kept.clone()), period)
            .unwrap_or_else(|_| panic!("the store reads back"));
        assert_eq!(again.trusted(), follower.trusted());
        let mut twin = chain.block(30);
        twin.header.time_ms += 1;
        twin.certificate = certificate(&twin.header, &[9, 10, 11, 12]);
        let mut client = again;
        let error = now(client.believe(&chain, twin.clone(), 1_000)).unwrap_err();
        assert!(matches!(
            error,
            FollowError::Light(LightError::Fork { height: 30, .. })
        ));
        let anchor = Trusted::checkpoint(CHAIN, twin.header.id(), &twin).unwrap();
        let error = Follower::open(anchor, Memory(kept), period).err();
        assert!(matches!(
            error,
            Some(FollowError::Light(LightError::Fork { height: 30, .. }))
        ));
    }

    #[test]
    fn headers_in_between_are_believed_by_their_links_alone() {
        let (genesis, chain) = Chain::of(30, 5);
        let end = walk(&chain, &genesis, 30).unwrap();
        let mut links = Links::after(&genesis);
        for block in &chain.blocks[..29] {
            links.push(&block.header).unwrap();
            assert!(!links.are_believed(&end));
        }
        links.push(&chain.blocks[29].header).unwrap();
        assert!(links.are_believed(&end));

        let changes: [(&str, fn(&mut Header)); 7] = [
            ("version", |h| h.version += 1),
            ("chain", |h| h.chain_id.0[0] ^= 1),
            ("height", |h| h.height += 1),
            ("parent", |h| h.parent_id.0[0] ^= 1),
            ("time", |h| h.time_ms = 1_000),
            ("epoch", |h| h.epoch = Epoch(0)),
            ("validators", |h| h.validators_hash[0] ^= 1),
        ];
        for (name, change) in changes {
            let mut header = chain.blocks[0].header.clone();
            change(&mut header);
            let refused = Links::after(&genesis).push(&header);
            assert!(
                matches!(refused, Err(LightError::Header { field, .. }) if field == name),
                "{name}: {refused:?}"
            );
        }
        // A header that differs in anything else has another id, so the end is not reached.
        let mut links = Links::after(&genesis);
        let mut first = chain.blocks[0].header.clone();
        first.prev_state_root[0] ^= 1;
        links.push(&first).unwrap();
        assert!(links.push(&chain.blocks[1].header).is_err());
    }

    /// A chain that its only validator hands over to four others at block 4, a block a day.
    fn handed_over() -> (Trusted, Chain) {
        Chain::with(60, DAY_MS, |height| match height {
            1..=3 => vec![9],
            _ => vec![0, 1, 2, 3],
        })
    }

    #[test]
    fn tm_v12_endless_trust_in_the_only_validator_ends_with_the_first_block_of_several() {
        let (genesis, chain) = handed_over();
        let at = |height: u64| chain.blocks[height as usize - 1].clone();
        let day = |n: u64| 1_000 + n * DAY_MS;
        // While there is one, its blocks are believed however late.
        let mut late = Follower::open(genesis.clone(), Memory::default(), days).unwrap();
        now(late.believe(&chain, at(3), day(3_000))).unwrap();
        // Who goes on from there in time ends with trust that ends: their keys may be sold when they left.
        let mut follower = Follower::open(genesis, Memory::default(), days).unwrap();
        now(follower.believe(&chain, at(3), day(3))).unwrap();
        now(follower.believe(&chain, at(10), day(10))).unwrap();
        let expired = FollowError::Light(LightError::Expired);
        let said = now(follower.believe(&chain, at(30), day(30)));
        assert_eq!(said, Err(expired.clone()));
        now(follower.believe(&chain, at(23), day(23))).unwrap();
        now(follower.believe(&chain, at(37), day(37))).unwrap();
        // And who slept through the handing over asks somebody for a checkpoint.
        assert_eq!(now(late.believe(&chain, at(60), day(60))), Err(expired));
    }

    #[test]
    fn a_history_is_walked_in_steps_within_the_trust_period() {
        let (genesis, chain) = handed_over();
        let target = chain.blocks[59].clone();
        let reached: Result<_, FollowError<_, Infallible>> =
            now(follow(&genesis, target, &chain, None, days));
        assert_eq!(reached.unwrap().height(), 60);
        // As whoever reads the blocks later walks them.
        let mut heights: Vec<u64> = chain.asked.borrow().clone();
        heights.sort_unstable();
        heights.push(60);
        let mut trusted = genesis;
        for height in heights {
            let block = &chain.blocks[height as usize - 1];
            trusted = trusted
                .step(block, block.header.time_ms, days(&trusted))
                .unwrap();
        }
        // One too long for the period, with nothing in between, is refused.
        let (genesis, chain) = Chain::with(2, 15 * DAY_MS, |_| vec![0, 1, 2, 3]);
        let target = chain.blocks[1].clone();
        let reached: Result<_, FollowError<_, Infallible>> =
            now(follow(&genesis, target, &chain, None, days));
        assert_eq!(reached.err(), Some(FollowError::Light(LightError::Expired)));
    }

    /// The fuzz target on real blocks, and on changed, cut and mixed ones.
    #[test]
    fn tm_n3_following_is_calm_on_whatever_a_node_shows() {
        let (trusted, chain) = Chain::of(24, 3);
        let framed = |block: &LightBlock| {
            let bytes = codec::encode(block);
            [
                &u32::try_from(bytes.len()).unwrap().to_le_bytes()[..],
                &bytes,
            ]
            .concat()
        };
        let frames: Vec<Vec<u8>> = chain.blocks.iter().map(framed).collect();
        fuzz_follow(&codec::encode(&trusted));
        fuzz_follow(&frames.concat());
        let mut state = 7u64;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..200 {
            let mut some: Vec<u8> = (0..4).flat_map(|_| frames[random(24)].clone()).collect();
            for _ in 0..random(3) {
                let at = random(some.len());
                some[at] ^= 1 << random(8);
            }
            if random(4) == 0 {
                some.truncate(random(some.len()));
            }
            fuzz_follow(&some);
        }
    }
}
