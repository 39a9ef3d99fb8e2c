//! A block's bytes on their way to the voters: cut into parts, put together again, bounded whoever sends them.
//!
//! Walk: a proposer [`cut`]s what it saved as undecided, the engine gossips the parts, every voter's [`Assembler`] puts them
//! together and hands the block to the ledger. Spec: `consensus.md` §4, traps 7–9.
//!
//! ```text
//! part 0      Init: height, round, proposer, block id, length, SHA-256 of the bytes, and for a block of an earlier round the
//!             signature of its own proposer; signed by that round's proposer
//! part 1…     Data: up to 64 KiB of borsh(Block), the last one says so
//! ```
//! The signature stands in the *first* part, where it costs an attacker something: bytes are kept only behind the
//! announcement of a validator whose turn it is ([`EARLY_BYTES`] excepted, for parts that overtook it). The digest tells whose
//! fault a broken block is: bytes that do not fit are the publisher's, and only the stream dies; bytes that fit are the
//! proposer's own words. A proposer that takes up an earlier round's block announces it again under its own name and round, and shows
//! the signature under which that round's proposer announced it: or else whoever has a turn could say that a block is an old one,
//! and stamp it with a time at which its own randomness was not known (`threat-model.md` V5, P7).
//!
//! Memory: per publisher at most [`MAX_STREAMS`] streams and [`MAX_PUBLISHER_BYTES`]; in all [`MAX_TOTAL_BYTES`] and
//! [`MAX_PUBLISHERS`]. Nothing is allocated for bytes that did not arrive. Crash: nothing is kept; the proposer streams again.

use std::collections::{BTreeMap, VecDeque};

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::block::{Block, BlockId, MAX_BODY_BYTES};
use chain_lite::codec;
use malachite_core_types as core;
use sha2::{Digest, Sha256};

use crate::context::{Address, ChainContext, Height, Signature};

/// Bytes of a block in one part.
pub const PART_BYTES: usize = 64 * 1024;
/// Largest borsh(Block): the body's limit and a header.
pub const MAX_BLOCK_BYTES: usize = MAX_BODY_BYTES + 4096;
/// Most data parts of a block.
pub const MAX_PARTS: u64 = (MAX_BLOCK_BYTES as u64).div_ceil(PART_BYTES as u64);
/// Streams of one publisher at once; the oldest gives way.
pub const MAX_STREAMS: usize = 4;
/// Bytes of one publisher's parts that came before their announcement.
pub const EARLY_BYTES: usize = 1 << 20;
/// Bytes of one publisher's parts in all: two blocks and what came early.
pub const MAX_PUBLISHER_BYTES: usize = 2 * MAX_BLOCK_BYTES + EARLY_BYTES;
/// Bytes of all unfinished blocks.
pub const MAX_TOTAL_BYTES: usize = 64 << 20;
/// Publishers heard of at once.
pub const MAX_PUBLISHERS: usize = 128;
/// Longest name of a publisher (a libp2p peer id) or stream.
pub const MAX_NAME_BYTES: usize = 64;
/// Finished streams remembered, so that late copies of their parts are not taken for new ones.
const REMEMBERED: usize = 256;
const _: () = assert!(MAX_PUBLISHER_BYTES * 4 < MAX_TOTAL_BYTES);

/// What a proposer announces before the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Init {
    /// Height of the block.
    pub height: Height,
    /// Round in which it is proposed; the header's round is this one or earlier.
    pub round: u32,
    /// Whose turn that round is.
    pub proposer: Address,
    /// The block.
    pub block: BlockId,
    /// Length of borsh(Block).
    pub bytes: u32,
    /// SHA-256 of borsh(Block).
    pub digest: [u8; 32],
    /// Of a block whose header names an earlier round: that round's proposer's signature, over what it announced then.
    pub first: Option<Signature>,
}

/// One part of a proposed block.
#[allow(
    clippy::large_enum_variant,
    reason = "an announcement is a quarter of a kilobyte, and lives as long as one call"
)]
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Part {
    /// The announcement.
    Init {
        /// What follows.
        init: Init,
        /// The proposer's, over [`crate::signing::parts_bytes`].
        signature: Signature,
    },
    /// Bytes of the block.
    Data {
        /// Whether these are the last ones.
        last: bool,
        /// At most [`PART_BYTES`].
        bytes: Vec<u8>,
    },
}

impl core::ProposalPart<ChainContext> for Part {
    fn is_first(&self) -> bool {
        matches!(self, Self::Init { .. })
    }
    fn is_last(&self) -> bool {
        matches!(self, Self::Data { last: true, .. })
    }
}

/// A block whose announcement is signed and whose bytes fit it; nothing is said yet about its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// What was announced.
    pub init: Init,
    /// By whom.
    pub signature: Signature,
    /// borsh(Block), or what the proposer sent in its place.
    pub bytes: Vec<u8>,
}

impl Announced {
    /// The announcement of `block` for `round`, unsigned: `None` if it is larger than blocks may be.
    pub fn init(block: &Block, round: u32, proposer: Address) -> Option<(Init, Vec<u8>)> {
        let bytes = codec::encode(block);
        if bytes.len() > MAX_BLOCK_BYTES {
            return None;
        }
        let init = Init {
            height: Height(block.header.height),
            round,
            proposer,
            block: block.id(),
            bytes: u32::try_from(bytes.len()).ok()?,
            digest: Sha256::digest(&bytes).into(),
            first: None,
        };
        Some((init, bytes))
    }

    /// What the block's own proposer announced, in the header's round: this announcement, or for a block that is taken up the
    /// one that `first` is the signature of.
    pub fn original(&self, block: &Block) -> (Init, Option<Signature>) {
        if block.header.round == self.init.round {
            return (self.init, Some(self.signature));
        }
        let original = Init {
            round: block.header.round,
            proposer: Address(block.header.proposer),
            first: None,
            ..self.init
        };
        (original, self.init.first)
    }

    /// The block, if the proposer told the truth about it. Its id is its header's alone, so the body has to be the one that the header
    /// commits to: or whoever has a turn could spread other bytes under an honest block's name.
    pub fn block(&self) -> Option<Block> {
        let block: Block = codec::decode(&self.bytes, MAX_BLOCK_BYTES).ok()?;
        let h = &block.header;
        let fits = h.height == self.init.height.0
            && h.round <= self.init.round
            // A new block is its announcer's own; one of an earlier round may be anybody's.
            && (h.round < self.init.round || h.proposer == self.init.proposer.0)
            // And no word comes before it: inside, it would make this signature one that no later round could show.
            && (h.round < self.init.round || self.init.first.is_none())
            && block.id() == self.init.block
            && block.body.root() == h.tx_root;
        fits.then_some(block)
    }
}

/// The parts of a block, in order. The same block and announcement always give the same parts.
pub fn cut(announced: &Announced) -> Vec<Part> {
    let first = Part::Init {
        init: announced.init,
        signature: announced.signature,
    };
    let chunks = announced.bytes.chunks(PART_BYTES);
    let count = chunks.len();
    let data = chunks.enumerate().map(|(i, bytes)| Part::Data {
        last: i + 1 == count,
        bytes: bytes.to_vec(),
    });
    std::iter::once(first).chain(data).collect()
}

/// What a part did.
#[allow(clippy::large_enum_variant, reason = "it lives as long as one call")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// More is needed.
    Waiting,
    /// The block is whole.
    Complete(Announced),
    /// The part, and perhaps its stream, was dropped.
    Dropped(Fault),
}

/// Why a part was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The announcement is not from the validator whose turn it is, or for a height nobody works on.
    #[error("the announcement is not of a block that is wanted now, or its signature is wrong")]
    Unwanted,
    /// A part that fits no stream.
    #[error("the part is out of place or too large")]
    Misplaced,
    /// The bytes are not the announced ones.
    #[error("the bytes do not fit their announcement")]
    Digest,
    /// More than this publisher may have waiting.
    #[error("too many parts are waiting")]
    TooMuch,
    /// A copy of a part that was used.
    #[error("the part is a copy")]
    Copy,
}

type Key = (Vec<u8>, Vec<u8>);

#[derive(Default)]
struct Stream {
    init: Option<(Init, Signature)>,
    data: BTreeMap<u64, Vec<u8>>,
    /// Sequence of the part that said it is the last.
    last: Option<u64>,
    bytes: usize,
    /// When it began, in streams.
    age: u64,
}

/// Unfinished blocks of all publishers.
#[derive(Default)]
pub struct Assembler {
    streams: BTreeMap<Key, Stream>,
    finished: VecDeque<Key>,
    begun: u64,
}

impl Assembler {
    /// Nothing received yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes part number `sequence` of a publisher's stream. Publisher and stream name it together (trap 8): parts of one
    /// stream come through different neighbours. `wanted` judges an announcement: turn, height and signature.
    pub fn add(
        &mut self,
        publisher: &[u8],
        stream: &[u8],
        sequence: u64,
        part: Part,
        wanted: impl FnOnce(&Init, &Signature) -> bool,
    ) -> Added {
        if publisher.len() > MAX_NAME_BYTES || stream.len() > MAX_NAME_BYTES {
            return Added::Dropped(Fault::Misplaced);
        }
        let key = (publisher.to_vec(), stream.to_vec());
        if self.finished.contains(&key) {
            return Added::Dropped(Fault::Copy);
        }
        if let Err(fault) = self.take(&key, sequence, part, wanted) {
            return Added::Dropped(fault);
        }
        self.finish(key)
    }

    fn take(
        &mut self,
        key: &Key,
        sequence: u64,
        part: Part,
        wanted: impl FnOnce(&Init, &Signature) -> bool,
    ) -> Result<(), Fault> {
        match (part, sequence) {
            (Part::Init { init, signature }, 0) => {
                if init.bytes == 0 || init.bytes as usize > MAX_BLOCK_BYTES {
                    return Err(Fault::Misplaced);
                }
                if self.streams.get(key).is_some_and(|s| s.init.is_some()) {
                    return Err(Fault::Copy);
                }
                if !wanted(&init, &signature) {
                    self.streams.remove(key);
                    return Err(Fault::Unwanted);
                }
                self.stream(key)?.init = Some((init, signature));
                Ok(())
            }
            (Part::Data { last, bytes }, 1..=MAX_PARTS) => {
                let full = bytes.len() == PART_BYTES || (last && !bytes.is_empty());
                if !full || bytes.len() > PART_BYTES {
                    return Err(Fault::Misplaced);
                }
                self.room_for(key, bytes.len())?;
                let stream = self.stream(key)?;
                if stream.data.contains_key(&sequence) {
                    return Err(Fault::Copy);
                }
                if last && stream.last.replace(sequence).is_some() {
                    self.streams.remove(key);
                    return Err(Fault::Misplaced);
                }
                stream.bytes += bytes.len();
                stream.data.insert(sequence, bytes);
                Ok(())
            }
            _ => Err(Fault::Misplaced),
        }
    }

    /// Checks limits before anything is kept; makes room by dropping what is least likely to be finished.
    fn room_for(&mut self, key: &Key, len: usize) -> Result<(), Fault> {
        let own = self.streams.get(key);
        let announced = own.and_then(|s| s.init);
        let limit = announced.map_or(EARLY_BYTES, |(init, _)| init.bytes as usize);
        if own.map_or(0, |s| s.bytes) + len > limit {
            self.streams.remove(key);
            return Err(Fault::TooMuch);
        }
        let early: usize = self
            .of(&key.0)
            .filter(|(_, s)| s.init.is_none())
            .map(|(_, s)| s.bytes)
            .sum();
        if announced.is_none() && early + len > EARLY_BYTES {
            return Err(Fault::TooMuch);
        }
        while self.of(&key.0).map(|(_, s)| s.bytes).sum::<usize>() + len > MAX_PUBLISHER_BYTES {
            self.drop_oldest(|k, _| k.0 == key.0 && k != key)?;
        }
        while self.bytes() + len > MAX_TOTAL_BYTES {
            // Unannounced bytes first, then the oldest of anybody.
            self.drop_oldest(|k, s| k != key && s.init.is_none())
                .or_else(|_| self.drop_oldest(|k, _| k != key))?;
        }
        Ok(())
    }

    fn stream(&mut self, key: &Key) -> Result<&mut Stream, Fault> {
        if !self.streams.contains_key(key) {
            while self.of(&key.0).count() >= MAX_STREAMS {
                self.drop_oldest(|k, _| k.0 == key.0)?;
            }
            if self.of(&key.0).next().is_none() && self.publishers() >= MAX_PUBLISHERS {
                self.drop_oldest(|_, s| s.init.is_none())?;
            }
            self.begun += 1;
        }
        let age = self.begun;
        Ok(self.streams.entry(key.clone()).or_insert_with(|| Stream {
            age,
            ..Stream::default()
        }))
    }

    fn of<'a>(&'a self, publisher: &'a [u8]) -> impl Iterator<Item = (&'a Key, &'a Stream)> {
        let from = (publisher.to_vec(), Vec::new());
        self.streams
            .range(from..)
            .take_while(move |(k, _)| k.0 == publisher)
    }

    fn drop_oldest(&mut self, among: impl Fn(&Key, &Stream) -> bool) -> Result<(), Fault> {
        let oldest = self.streams.iter().filter(|(k, s)| among(k, s));
        let key = oldest.min_by_key(|(_, s)| s.age).map(|(k, _)| k.clone());
        self.streams.remove(&key.ok_or(Fault::TooMuch)?);
        Ok(())
    }

    /// Hands the block over if nothing is missing.
    fn finish(&mut self, key: Key) -> Added {
        let Some(stream) = self.streams.get(&key) else {
            return Added::Waiting;
        };
        let (Some((init, signature)), Some(last)) = (stream.init, stream.last) else {
            return Added::Waiting;
        };
        if stream.data.len() as u64 != last {
            // A part after the last one can never be placed.
            if stream.data.last_key_value().is_some_and(|(n, _)| *n > last) {
                self.streams.remove(&key);
                return Added::Dropped(Fault::Misplaced);
            }
            return Added::Waiting;
        }
        let data = self.streams.remove(&key).unwrap_or_default().data;
        self.finished.push_back(key);
        if self.finished.len() > REMEMBERED {
            self.finished.pop_front();
        }
        let bytes = data.into_values().collect::<Vec<_>>().concat();
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        if bytes.len() != init.bytes as usize || digest != init.digest {
            return Added::Dropped(Fault::Digest);
        }
        Added::Complete(Announced {
            init,
            signature,
            bytes,
        })
    }

    /// Forgets announced blocks up to `height`.
    pub fn decided(&mut self, height: Height) {
        self.streams
            .retain(|_, s| s.init.is_none_or(|(init, _)| init.height > height));
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.streams.values().map(|s| s.bytes).sum()
    }

    fn publishers(&self) -> usize {
        let mut names = self.streams.keys().map(|k| &k.0).collect::<Vec<_>>();
        names.dedup();
        names.len()
    }
}

/// Any bytes as parts of one stream: refused or bounded, never a panic. Body of the fuzz target.
pub fn fuzz_parts(bytes: &[u8]) {
    let mut assembler = Assembler::new();
    for chunk in bytes.chunks(97) {
        let Some((head, rest)) = chunk.split_first() else {
            continue;
        };
        if let Ok(part) = codec::decode::<Part>(rest, PART_BYTES + 512) {
            let publisher = [head & 3];
            let sequence = u64::from(head >> 4);
            assembler.add(&publisher, &[head >> 2 & 3], sequence, part, |_, _| true);
        }
        assert!(assembler.bytes() <= MAX_TOTAL_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain_lite::certificate::ValidatorId;

    fn announced(len: usize) -> Announced {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let init = Init {
            height: Height(3),
            round: 0,
            proposer: Address(ValidatorId([1; 32])),
            block: BlockId([2; 32]),
            bytes: len as u32,
            digest: Sha256::digest(&bytes).into(),
            first: None,
        };
        let signature = Signature([7; 64]);
        Announced {
            init,
            signature,
            bytes,
        }
    }

    fn feed(to: &mut Assembler, who: &[u8], stream: &[u8], parts: &[(u64, Part)]) -> Vec<Added> {
        let add = |(n, part): &(u64, Part)| to.add(who, stream, *n, part.clone(), |_, _| true);
        parts.iter().map(add).collect()
    }

    fn numbered(block: &Announced) -> Vec<(u64, Part)> {
        (0..).zip(cut(block)).collect()
    }

    #[test]
    fn parts_in_any_order_make_the_block_once() {
        for len in [
            1,
            PART_BYTES - 1,
            PART_BYTES,
            PART_BYTES + 1,
            5 * PART_BYTES + 9,
        ] {
            let block = announced(len);
            let parts = numbered(&block);
            for turn in 0..parts.len() {
                let mut order = parts.clone();
                order.rotate_left(turn);
                order.push(order[0].clone());
                let mut assembler = Assembler::new();
                let told = feed(&mut assembler, b"a", b"1", &order);
                let whole = told.iter().filter(|t| matches!(t, Added::Complete(_)));
                assert_eq!(whole.collect::<Vec<_>>(), [&Added::Complete(block.clone())]);
                assert_eq!(told.last(), Some(&Added::Dropped(Fault::Copy)));
                assert_eq!(assembler.bytes(), 0);
            }
        }
    }

    #[test]
    fn streams_of_two_publishers_or_names_do_not_mix() {
        let block = announced(2 * PART_BYTES);
        let parts = numbered(&block);
        let mut assembler = Assembler::new();
        feed(&mut assembler, b"a", b"1", &parts[..2]);
        feed(&mut assembler, b"b", b"1", &parts[2..]);
        feed(&mut assembler, b"a", b"2", &parts[2..]);
        let told = feed(&mut assembler, b"a", b"1", &parts[2..]);
        assert_eq!(told, [Added::Complete(block)]);
    }

    #[test]
    fn tm_v6_strangers_and_liars_cost_a_bounded_stream() {
        let block = announced(2 * PART_BYTES + 5);
        let parts = numbered(&block);
        let mut assembler = Assembler::new();
        let refuse = |_: &Init, _: &Signature| false;
        let told = assembler.add(b"a", b"1", 0, parts[0].1.clone(), refuse);
        assert_eq!(told, Added::Dropped(Fault::Unwanted));
        // Other bytes under a good announcement: the stream dies, not the block.
        let mut forged = parts.clone();
        let Part::Data { bytes, .. } = &mut forged[1].1 else {
            panic!("part 1 is data")
        };
        bytes[0] ^= 1;
        let told = feed(&mut assembler, b"a", b"2", &forged);
        assert_eq!(told.last(), Some(&Added::Dropped(Fault::Digest)));
        assert_eq!(
            feed(&mut assembler, b"a", b"3", &parts).last(),
            Some(&Added::Complete(block.clone()))
        );
        // More than announced, a short part in the middle, a part beyond the last, an impossible number.
        let data = |last, len| Part::Data {
            last,
            bytes: vec![0; len],
        };
        let small = numbered(&announced(10));
        let cases = [
            vec![small[0].clone(), (1, data(true, 11))],
            vec![parts[0].clone(), (1, data(false, 9))],
            vec![parts[0].clone(), (1, data(false, PART_BYTES + 1))],
            vec![
                parts[0].clone(),
                (2, data(false, PART_BYTES)),
                (1, data(true, 5)),
            ],
            vec![parts[0].clone(), (MAX_PARTS + 1, data(true, 5))],
            vec![parts[0].clone(), (1, data(true, 5)), (2, data(true, 5))],
            vec![(1, parts[0].1.clone())],
            vec![(0, data(true, 5))],
        ];
        for (i, case) in cases.iter().enumerate() {
            let told = feed(&mut assembler, b"x", &[i as u8], case);
            assert!(
                matches!(told.last(), Some(Added::Dropped(_))),
                "case {i}: {told:?}"
            );
        }
    }

    #[test]
    fn tm_n3_memory_is_bounded_per_publisher_and_in_all() {
        let part = |last| Part::Data {
            last,
            bytes: vec![0; PART_BYTES],
        };
        // A hundred and more publishers without an announcement.
        let mut assembler = Assembler::new();
        for who in 0..2 * MAX_PUBLISHERS as u32 {
            for stream in 0..8u8 {
                for n in 1..=16 {
                    let told =
                        assembler.add(&who.to_be_bytes(), &[stream], n, part(false), |_, _| true);
                    assert!(!matches!(told, Added::Complete(_)));
                }
            }
            let own: usize = assembler.of(&who.to_be_bytes()).map(|(_, s)| s.bytes).sum();
            assert!(own <= EARLY_BYTES && assembler.of(&who.to_be_bytes()).count() <= MAX_STREAMS);
            assert!(assembler.bytes() <= MAX_TOTAL_BYTES);
            assert!(assembler.publishers() <= MAX_PUBLISHERS);
        }
        // An honest block still comes through, and a proposer that never ends its blocks is bounded too.
        let block = announced(MAX_BLOCK_BYTES);
        let told = feed(&mut assembler, b"honest", b"1", &numbered(&block));
        assert_eq!(told.last(), Some(&Added::Complete(block.clone())));
        let parts = numbered(&block);
        for stream in 0..10u8 {
            feed(
                &mut assembler,
                b"slow",
                &[stream],
                &parts[..parts.len() - 1],
            );
            let own: usize = assembler.of(b"slow").map(|(_, s)| s.bytes).sum();
            assert!(own <= MAX_PUBLISHER_BYTES);
        }
        assembler.decided(Height(3));
        assert_eq!(assembler.of(b"slow").count(), 0);
    }

    #[test]
    fn the_assembler_survives_any_bytes() {
        let mut bytes: Vec<u8> = (0..40_000u32).map(|i| ((i * 7919) >> 5) as u8).collect();
        fuzz_parts(&bytes);
        let part = codec::encode(&Part::Data {
            last: true,
            bytes: vec![3; 40],
        });
        for chunk in bytes.chunks_mut(97) {
            let n = part.len().min(chunk.len() - 1);
            chunk[1..=n].copy_from_slice(&part[..n]);
        }
        fuzz_parts(&bytes);
    }
}
