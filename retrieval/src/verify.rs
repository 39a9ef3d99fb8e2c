//! Verified streams: BLAKE3 trees over 16 KiB groups, as a pure machine that takes bytes and gives checked bytes.
//!
//! Walk: `push` and `serve` encode with [`Encoder`]; `fetch` and the receiving side of a put check with [`Verifier`];
//! a provider and a client make the tree of a new piece with [`OutboardBuilder`].
//! Spec: `network.md` §2.3 and §2.4; geometry and order of the stream are bao-tree's (version 0.17, block size 2^4),
//! and the tests compare every byte with it. Plain twin: `bao_tree::io::sync`.
//! Bytes: the stream is parents (64 bytes: left and right hash) and leaves in pre-order, no header. The outboard is the
//! 64-byte parents of the whole tree in pre-order, `(groups − 1) × 64` bytes, 0.4 % of the piece.
//! Cost: one BLAKE3 pass, several GiB/s; memory: one stack of hashes (log2 of the groups) and the caller's buffer.
//! Threats R2, N3: a wrong byte is found when its group is complete, so at most 16 KiB of junk is ever held, and none
//! is handed on.

use std::{collections::VecDeque, fs::File, io};

use bao_tree::{
    BaoTree, BlockSize, ChunkNum, ChunkRanges, TreeNode,
    iter::{BaoChunk, PostOrderChunkIter, ResponseIter},
};
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use bytes::{Bytes, BytesMut};

use crate::{
    range::{GROUP_BYTES, MAX_PIECE_BYTES, RangeError, Ranges},
    wire::PieceRoot,
};

/// 16 chunks of 1 KiB.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);
/// Left and right hash.
pub const PAIR_BYTES: usize = 64;
const _: () = assert!(BLOCK.bytes() as u64 == GROUP_BYTES);

/// Bytes that are not what the root promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// An inner node does not hash to what its parent says.
    #[error("the hash tree is wrong above byte {offset}")]
    Parent {
        /// First byte of the piece below the node.
        offset: u64,
    },
    /// A group does not hash to what its parent says.
    #[error("the data is wrong in the group at byte {offset}")]
    Leaf {
        /// First byte of the group.
        offset: u64,
    },
    /// The stream ended before all groups came.
    #[error("the data ends early")]
    Truncated,
    /// The other side speaks of a piece of another size.
    #[error("the peer says the piece has {got} bytes, the deal says {want}")]
    Size {
        /// From the peer.
        got: u64,
        /// From the deal.
        want: u64,
    },
}

impl VerifyError {
    /// First byte of the piece that cannot be trusted; 0 when the error is not about a place.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Parent { offset } | Self::Leaf { offset } => *offset,
            Self::Truncated | Self::Size { .. } => 0,
        }
    }
}

/// Positioned reads: what serving and pushing need of a file. Implementations block; they are called on blocking
/// threads.
pub trait ReadAt: Send + Sync {
    /// Fills `buf` from byte `offset`, or fails.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for File {
    #[cfg(unix)]
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, buf, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start
            .checked_add(buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_exact_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for std::sync::Arc<T> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_ref().read_exact_at(offset, buf)
    }
}

impl ReadAt for Bytes {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_ref().read_exact_at(offset, buf)
    }
}

/// What the verifier needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// 64 bytes of hashes.
    Pair,
    /// `bytes` of data that belong at `offset` of the piece.
    Leaf {
        /// Position in the piece.
        offset: u64,
        /// 1 to 16 KiB.
        bytes: usize,
    },
    /// Nothing: every range is complete.
    Nothing,
}

/// The check itself: hashes expected on a stack, one item of the stream at a time.
#[derive(Debug)]
pub struct Verifier {
    tree: BaoTree,
    items: ResponseIter,
    current: Option<BaoChunk>,
    expected: Vec<blake3::Hash>,
}

impl Verifier {
    /// A verifier for `ranges` (rounded out to groups here) of the piece with this root and size.
    pub fn new(root: PieceRoot, size: u64, ranges: &Ranges) -> Result<Self, RangeError> {
        if size > MAX_PIECE_BYTES {
            return Err(RangeError::PastEnd {
                end: size,
                size: MAX_PIECE_BYTES,
            });
        }
        let tree = BaoTree::new(size, BLOCK);
        let mut items = ResponseIter::new(tree, to_chunks(&ranges.to_groups(size)?, size));
        let current = items.next();
        Ok(Self {
            tree,
            items,
            current,
            expected: vec![root.0.into()],
        })
    }

    /// What must come next.
    pub fn need(&self) -> Need {
        match self.current {
            None => Need::Nothing,
            Some(BaoChunk::Parent { .. }) => Need::Pair,
            Some(BaoChunk::Leaf {
                start_chunk, size, ..
            }) => Need::Leaf {
                offset: start_chunk.to_bytes(),
                bytes: size,
            },
        }
    }

    /// Checks a pair of hashes; returns its place in the outboard, in pairs.
    ///
    /// # Panics
    /// When [`Verifier::need`] is not [`Need::Pair`]: the caller's mistake.
    pub fn pair(&mut self, pair: &[u8; PAIR_BYTES]) -> Result<u64, VerifyError> {
        let Some(BaoChunk::Parent {
            node,
            is_root,
            left,
            right,
            ..
        }) = self.current
        else {
            panic!("pair given where {:?} is needed", self.need());
        };
        let (l, r) = split_pair(pair);
        if self.pop() != parent_hash(&l, &r, is_root) {
            return Err(VerifyError::Parent {
                offset: node.chunk_range().start.to_bytes(),
            });
        }
        if right {
            self.expected.push(r.into());
        }
        if left {
            self.expected.push(l.into());
        }
        self.current = self.items.next();
        Ok(pair_index(&self.tree, node))
    }

    /// Checks one leaf.
    ///
    /// # Panics
    /// When [`Verifier::need`] is not a leaf of this length: the caller's mistake.
    pub fn leaf(&mut self, data: &[u8]) -> Result<(), VerifyError> {
        let Some(BaoChunk::Leaf {
            start_chunk,
            size,
            is_root,
            ..
        }) = self.current
        else {
            panic!("leaf given where {:?} is needed", self.need());
        };
        assert_eq!(data.len(), size, "leaf of the wrong length");
        if self.pop() != leaf_hash(start_chunk, data, is_root) {
            return Err(VerifyError::Leaf {
                offset: start_chunk.to_bytes(),
            });
        }
        self.current = self.items.next();
        Ok(())
    }

    /// Where the pair that is needed now lies in the outboard, in pairs.
    fn next_pair_index(&self) -> Option<u64> {
        match self.current {
            Some(BaoChunk::Parent { node, .. }) => Some(pair_index(&self.tree, node)),
            _ => None,
        }
    }

    fn pop(&mut self) -> blake3::Hash {
        self.expected
            .pop()
            .expect("the walk pushes one hash for each item it will visit")
    }
}

/// Group-rounded byte ranges as chunk ranges; a range that reaches the end is open, which is how bao-tree says "to
/// the last chunk, however short".
fn to_chunks(groups: &Ranges, size: u64) -> ChunkRanges {
    let mut chunks = ChunkRanges::empty();
    for range in groups.iter() {
        let start = ChunkNum::full_chunks(range.start);
        chunks |= if range.end == size {
            ChunkRanges::from(start..)
        } else {
            ChunkRanges::from(start..ChunkNum::full_chunks(range.end))
        };
    }
    chunks
}

fn split_pair(pair: &[u8; PAIR_BYTES]) -> (ChainingValue, ChainingValue) {
    let (l, r) = pair.split_at(32);
    (
        l.try_into().expect("half of 64"),
        r.try_into().expect("half of 64"),
    )
}

fn parent_hash(l: &ChainingValue, r: &ChainingValue, is_root: bool) -> blake3::Hash {
    if is_root {
        merge_subtrees_root(l, r, Mode::Hash)
    } else {
        merge_subtrees_non_root(l, r, Mode::Hash).into()
    }
}

fn leaf_hash(start: ChunkNum, data: &[u8], is_root: bool) -> blake3::Hash {
    if is_root {
        return blake3::hash(data);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start.to_bytes());
    hasher.update(data);
    hasher.finalize_non_root().into()
}

fn pair_index(tree: &BaoTree, node: TreeNode) -> u64 {
    tree.pre_order_offset(node)
        .expect("nodes above groups are in the outboard")
}

/// Verified bytes of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Position of the first byte in the piece.
    pub offset: u64,
    /// The bytes, whole groups.
    pub data: Bytes,
}

/// Turns a byte stream of any cut into verified [`Block`]s: the caller fills [`BlockReader::space`] and says how much.
/// Bytes are copied once, from the transport to where they stay.
#[derive(Debug)]
pub struct BlockReader {
    verifier: Verifier,
    block_bytes: usize,
    /// Ends of the rounded-out ranges not yet complete.
    range_ends: VecDeque<u64>,
    pair: [u8; PAIR_BYTES],
    /// Bytes of the current item that are here.
    have: usize,
    block: BytesMut,
    block_offset: u64,
    /// Verified bytes at the front of `block`.
    verified: usize,
    /// Pairs seen, when they are wanted.
    pairs: Option<Vec<u8>>,
    stream_bytes: u64,
}

impl BlockReader {
    /// Reads `ranges` of a piece in blocks of at most `block_bytes` (a multiple of 16 KiB).
    pub fn new(
        root: PieceRoot,
        size: u64,
        ranges: &Ranges,
        block_bytes: usize,
    ) -> Result<Self, RangeError> {
        assert!(
            block_bytes > 0 && block_bytes.is_multiple_of(GROUP_BYTES as usize),
            "blocks hold whole groups"
        );
        Ok(Self {
            verifier: Verifier::new(root, size, ranges)?,
            block_bytes,
            range_ends: ranges
                .to_groups(size)?
                .iter()
                .map(|range| range.end)
                .collect(),
            pair: [0; PAIR_BYTES],
            have: 0,
            block: BytesMut::new(),
            block_offset: 0,
            verified: 0,
            pairs: None,
            stream_bytes: 0,
        })
    }

    /// Reads a whole piece and keeps its pairs for [`BlockReader::take_pairs`].
    pub fn whole_with_pairs(
        root: PieceRoot,
        size: u64,
        block_bytes: usize,
    ) -> Result<Self, RangeError> {
        let reader = Self::new(root, size, &Ranges::whole(size)?, block_bytes)?;
        Ok(Self {
            pairs: Some(Vec::new()),
            ..reader
        })
    }

    /// Whether every byte of the ranges came.
    pub fn is_done(&self) -> bool {
        self.verifier.need() == Need::Nothing
    }

    /// Stream bytes taken so far, hashes included.
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// The pairs since the last call, in outboard order, when reading a whole piece.
    pub fn take_pairs(&mut self) -> Vec<u8> {
        self.pairs.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Where the next bytes belong; empty only when done.
    pub fn space(&mut self) -> &mut [u8] {
        match self.verifier.need() {
            Need::Nothing => &mut [],
            Need::Pair => &mut self.pair[self.have..],
            Need::Leaf { offset, bytes } => {
                if self.block.is_empty() {
                    self.begin_block(offset);
                }
                &mut self.block[self.verified + self.have..self.verified + bytes]
            }
        }
    }

    /// `n` bytes were written to the front of [`BlockReader::space`]. Returns a block when one is complete.
    pub fn advance(&mut self, n: usize) -> Result<Option<Block>, VerifyError> {
        self.have += n;
        self.stream_bytes += n as u64;
        match self.verifier.need() {
            Need::Pair if self.have == PAIR_BYTES => {
                self.verifier.pair(&self.pair)?;
                if let Some(pairs) = &mut self.pairs {
                    pairs.extend_from_slice(&self.pair);
                }
                self.have = 0;
                Ok(None)
            }
            Need::Leaf { bytes, .. } if self.have == bytes => {
                self.verifier
                    .leaf(&self.block[self.verified..self.verified + bytes])?;
                self.verified += bytes;
                self.have = 0;
                Ok(self.end_block())
            }
            _ => Ok(None),
        }
    }

    /// A block holds what is left of the range it lies in, at most `block_bytes`.
    fn begin_block(&mut self, offset: u64) {
        while self.range_ends.front().is_some_and(|&end| end <= offset) {
            self.range_ends.pop_front();
        }
        let range_end = *self
            .range_ends
            .front()
            .expect("leaves lie inside the ranges asked for");
        let bytes = (range_end - offset).min(self.block_bytes as u64);
        self.block = BytesMut::zeroed(usize::try_from(bytes).expect("at most a block"));
        self.block_offset = offset;
    }

    fn end_block(&mut self) -> Option<Block> {
        if self.verified < self.block.len() {
            return None;
        }
        self.verified = 0;
        Some(Block {
            offset: self.block_offset,
            data: std::mem::take(&mut self.block).freeze(),
        })
    }
}

/// Why a piece of ours could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The disk failed or the file is short.
    #[error("reading the piece at byte {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The bytes on our disk are not what they were: bit rot, found before anybody was lied to.
    #[error("the stored piece is damaged: {0}")]
    Damaged(#[from] VerifyError),
}

/// Makes the verified stream of a stored piece. Every group is checked before it leaves, so an honest provider with a
/// bad disk says "internal error" and repairs, and is never taken for a liar.
#[derive(Debug)]
pub struct Encoder<D, O> {
    verifier: Verifier,
    data: D,
    pairs: PairCache<O>,
}

impl<D: ReadAt, O: ReadAt> Encoder<D, O> {
    /// Encodes `ranges`, rounded out to groups.
    pub fn new(
        root: PieceRoot,
        size: u64,
        ranges: &Ranges,
        data: D,
        outboard: O,
    ) -> Result<Self, RangeError> {
        let pairs = PairCache {
            outboard,
            length: outboard_bytes(size),
            pages: Default::default(),
        };
        Ok(Self {
            verifier: Verifier::new(root, size, ranges)?,
            data,
            pairs,
        })
    }

    /// Appends items until `out` has at least `full` bytes; `false` when all is out. `out` may exceed `full` by less
    /// than one group.
    pub fn fill(&mut self, out: &mut Vec<u8>, full: usize) -> Result<bool, EncodeError> {
        while out.len() < full {
            match self.verifier.need() {
                Need::Nothing => return Ok(false),
                Need::Pair => {
                    let index = self.verifier.next_pair_index().expect("a pair is needed");
                    let pair = self.pairs.get(index)?;
                    self.verifier.pair(&pair)?;
                    out.extend_from_slice(&pair);
                }
                Need::Leaf { offset, bytes } => {
                    let start = out.len();
                    out.resize(start + bytes, 0);
                    let leaf = &mut out[start..];
                    let read = self.data.read_exact_at(offset, leaf);
                    let checked = read.map_err(|source| EncodeError::Io { offset, source });
                    if let Err(error) = checked.and_then(|()| Ok(self.verifier.leaf(leaf)?)) {
                        out.truncate(start);
                        return Err(error);
                    }
                }
            }
        }
        Ok(self.verifier.need() != Need::Nothing)
    }
}

const PAGE_BYTES: u64 = 4096;
const PAGES: usize = 16;

/// A few pages of the outboard, so that a walk reads 4 KiB at a time and a small range does not load a large file.
struct PairCache<O> {
    outboard: O,
    length: u64,
    pages: [Option<(u64, Box<[u8]>)>; PAGES],
}

impl<O: ReadAt> PairCache<O> {
    fn get(&mut self, index: u64) -> Result<[u8; PAIR_BYTES], EncodeError> {
        let offset = index * PAIR_BYTES as u64;
        let page = offset / PAGE_BYTES;
        let slot = &mut self.pages[(page % PAGES as u64) as usize];
        if slot.as_ref().is_none_or(|(number, _)| *number != page) {
            let start = page * PAGE_BYTES;
            let mut bytes =
                vec![0; (self.length - start).min(PAGE_BYTES) as usize].into_boxed_slice();
            self.outboard
                .read_exact_at(start, &mut bytes)
                .map_err(|source| EncodeError::Io {
                    offset: start,
                    source,
                })?;
            *slot = Some((page, bytes));
        }
        let (_, bytes) = slot.as_ref().expect("filled above");
        let at = (offset % PAGE_BYTES) as usize;
        Ok(bytes[at..at + PAIR_BYTES]
            .try_into()
            .expect("pages hold whole pairs"))
    }
}

impl<O> std::fmt::Debug for PairCache<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairCache")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Bytes of the outboard of a piece: one pair less than there are groups.
pub fn outboard_bytes(size: u64) -> u64 {
    BaoTree::new(size, BLOCK).outboard_size()
}

/// The BLAKE3 root and outboard of a piece, made while its bytes pass by.
///
/// Memory: the outboard, 0.4 % of the piece (32 KiB for 8 MiB, 128 MiB for 32 GiB).
#[derive(Debug)]
pub struct OutboardBuilder {
    tree: BaoTree,
    items: PostOrderChunkIter,
    current: Option<BaoChunk>,
    stack: Vec<blake3::Hash>,
    /// The front of a group whose rest has not come.
    partial: Vec<u8>,
    pairs: Vec<u8>,
    seen: u64,
}

impl OutboardBuilder {
    /// For a piece of exactly `size` bytes.
    pub fn new(size: u64) -> Result<Self, RangeError> {
        Ranges::whole(size)?;
        let tree = BaoTree::new(size, BLOCK);
        let mut items = PostOrderChunkIter::new(tree);
        let current = items.next();
        let bytes = usize::try_from(tree.outboard_size()).expect("0.4 % of a piece fits in memory");
        Ok(Self {
            tree,
            items,
            current,
            stack: Vec::new(),
            partial: Vec::new(),
            pairs: vec![0; bytes],
            seen: 0,
        })
    }

    /// Takes the next bytes; more than the size announced is refused.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), RangeError> {
        let end = self.seen.saturating_add(bytes.len() as u64);
        if end > self.tree.size() {
            return Err(RangeError::PastEnd {
                end,
                size: self.tree.size(),
            });
        }
        self.seen = end;
        while let (Some(BaoChunk::Leaf { size, .. }), false) = (self.current, bytes.is_empty()) {
            if self.partial.is_empty() && bytes.len() >= size {
                let (leaf, rest) = bytes.split_at(size);
                self.leaf(leaf);
                bytes = rest;
                continue;
            }
            let (more, rest) = bytes.split_at(bytes.len().min(size - self.partial.len()));
            self.partial.extend_from_slice(more);
            bytes = rest;
            if self.partial.len() == size {
                let leaf = std::mem::take(&mut self.partial);
                self.leaf(&leaf);
                self.partial = leaf;
                self.partial.clear();
            }
        }
        Ok(())
    }

    fn leaf(&mut self, data: &[u8]) {
        if let Some(BaoChunk::Leaf {
            start_chunk,
            is_root,
            ..
        }) = self.current
        {
            self.stack.push(leaf_hash(start_chunk, data, is_root));
            self.current = self.items.next();
        }
        while let Some(BaoChunk::Parent { node, is_root, .. }) = self.current {
            let r = self.stack.pop().expect("post-order: the right child came");
            let l = self.stack.pop().expect("post-order: the left child came");
            let at = pair_index(&self.tree, node) as usize * PAIR_BYTES;
            self.pairs[at..at + 32].copy_from_slice(l.as_bytes());
            self.pairs[at + 32..at + PAIR_BYTES].copy_from_slice(r.as_bytes());
            self.stack
                .push(parent_hash(l.as_bytes(), r.as_bytes(), is_root));
            self.current = self.items.next();
        }
    }

    /// The root and the outboard; fewer bytes than announced is refused.
    pub fn finish(mut self) -> Result<(PieceRoot, Vec<u8>), RangeError> {
        if self.seen != self.tree.size() {
            return Err(RangeError::PastEnd {
                end: self.tree.size(),
                size: self.seen,
            });
        }
        let root = self.stack.pop().expect("the last item is the root");
        Ok((PieceRoot(*root.as_bytes()), self.pairs))
    }
}

/// Root and outboard of bytes in memory.
pub fn outboard_of(bytes: &[u8]) -> Result<(PieceRoot, Vec<u8>), RangeError> {
    let mut builder = OutboardBuilder::new(bytes.len() as u64)?;
    builder.update(bytes)?;
    builder.finish()
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
