//! Proofs inside the SHA-256/254 tree: a piece within a sector, leaves within a piece.
//!
//! Walk: auditors and the possession rung of the proof ladder use them; `retrieval` carries [`LeafProof`] as bytes.
//! Spec: proofs.md §1.2 (tree), §1.3 (places). No tag tells a leaf from an inner node, so a proof counts only together
//! with the height: every verifier here takes the piece's **size** and derives the path length from it (threat P16).
//!
//! | proof | says | bytes (borsh) |
//! |---|---|---|
//! | [`PieceInclusion`] | this piece lies at this offset of the sector with this CommD | 4 + 32 per level |
//! | [`LeafProof`] | these leaves lie at these positions of the piece with this CommP | 4 + 32 per leaf + 4 + 32 per sibling |
//!
//! Cost: making a [`LeafProof`] reads the whole piece once (hashing speed) and keeps one MiB; checking is two compressions
//! per leaf and per level. Limits are checked before anything is allocated.

use super::PieceInfo;
use super::commp::zero_node;
use super::fr32::{self, BLOCK_UNPADDED, NotPadded};
use super::layout::Layout;
use crate::commitment::CommD;
use crate::hash::sha256;
use crate::ids::Node;
use crate::spec::SectorSize;
use std::io::Read;
use std::ops::Range;

/// The most leaves one proof may carry: 128 KiB of padded data.
pub const MAX_LEAVES: u64 = 4096;
/// Two paths of the tallest tree: no range has more siblings.
const MAX_SIBLINGS: usize = 2 * 36;

/// Why a proof is not one, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InclusionError {
    /// The range is empty, too long or outside the piece.
    #[error(
        "leaves {start}..{end} of a piece with {nodes}: a proof covers 1 to {MAX_LEAVES} leaves inside it"
    )]
    Range {
        /// First leaf.
        start: u64,
        /// One past the last leaf.
        end: u64,
        /// Leaves in the piece.
        nodes: u64,
    },
    /// The proof has a shape that no honest proof for this statement has.
    #[error("the proof has {found} {what}, this statement needs {expected}")]
    Shape {
        /// What was counted.
        what: &'static str,
        /// How many there must be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The piece cannot lie there.
    #[error(
        "a piece of {size} padded bytes cannot start at padded offset {offset} of a {sector} sector"
    )]
    Place {
        /// Padded bytes of the piece.
        size: u64,
        /// Claimed offset.
        offset: u64,
        /// The sector.
        sector: SectorSize,
    },
    /// The hashes lead elsewhere.
    #[error("the proof leads to another root than {expected}: the data is not what was committed")]
    WrongRoot {
        /// The root that the statement names, in hex.
        expected: String,
    },
    /// The leaves are not padded data.
    #[error(transparent)]
    NotPadded(#[from] NotPadded),
    /// The piece could not be read.
    #[error("reading the piece: {0}")]
    Read(#[from] std::io::Error),
    /// The bytes read are not this piece.
    #[error(
        "the bytes have another CommP than {expected}: the stored piece is damaged; restore it from another holder"
    )]
    WrongPiece {
        /// The CommP that was asked for, in hex.
        expected: String,
    },
}

/// A path from a piece's root up to its sector's CommD.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct PieceInclusion {
    /// Siblings, lowest first.
    pub siblings: Vec<Node>,
}

impl PieceInclusion {
    /// Proof for the layout's piece with this index; `None` when there is no such piece. Needs no data: siblings follow
    /// from the other pieces' roots.
    pub fn of(layout: &Layout, piece: usize) -> Option<Self> {
        let own = *layout.placements.get(piece)?;
        let mut siblings = Vec::new();
        for height in own.info.size.height()..layout.size.log2_nodes() {
            let index = (own.offset / 32) >> height;
            siblings.push(subtree(layout, height, index ^ 1));
        }
        Some(Self { siblings })
    }

    /// Whether the piece lies at `offset` (padded bytes) of the sector with this CommD.
    pub fn verify(
        &self,
        piece: &PieceInfo,
        offset: u64,
        sector: SectorSize,
        comm_d: &CommD,
    ) -> Result<(), InclusionError> {
        let size = piece.size.bytes();
        if !offset.is_multiple_of(size)
            || offset
                .checked_add(size)
                .is_none_or(|end| end > sector.bytes())
        {
            return Err(InclusionError::Place {
                size,
                offset,
                sector,
            });
        }
        let levels = piece.size.height()..sector.log2_nodes();
        expect_count("siblings", levels.len(), self.siblings.len())?;
        let mut root = piece.comm_p.0;
        let mut index = offset / size;
        for sibling in &self.siblings {
            root = if index & 1 == 0 {
                sha256::node(&root, sibling)
            } else {
                sha256::node(sibling, &root)
            };
            index >>= 1;
        }
        expect_root(&comm_d.0, &root)
    }
}

/// Root of one subtree of a sector, from the pieces' roots alone.
fn subtree(layout: &Layout, height: u32, index: u64) -> Node {
    let bytes = 32u64 << height;
    let range = index * bytes..(index + 1) * bytes;
    let mut inside = layout
        .placements
        .iter()
        .filter(|p| p.offset < range.end && p.end() > range.start);
    match (inside.next(), inside.next()) {
        (None, _) => zero_node(height),
        (Some(piece), None) if piece.info.size.bytes() == bytes => piece.info.comm_p.0,
        // Pieces are aligned to their size, so a subtree that is none holds only whole smaller ones: descend.
        _ => sha256::node(
            &subtree(layout, height - 1, 2 * index),
            &subtree(layout, height - 1, 2 * index + 1),
        ),
    }
}

/// Some leaves of a piece with what is needed to hash up to its CommP.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
pub struct LeafProof {
    /// The padded leaves of the range.
    pub leaves: Vec<Node>,
    /// Roots of the largest subtrees outside the range, in order from the left.
    pub siblings: Vec<Node>,
}

impl LeafProof {
    /// Proof for a range of leaves, from the piece's unpadded bytes. Reads all of them, and fails when they are not the
    /// piece, so that a damaged copy never answers.
    pub fn of(
        piece: &PieceInfo,
        leaves: Range<u64>,
        source: impl Read,
    ) -> Result<Self, InclusionError> {
        check_range(piece, &leaves)?;
        let mut maker = Maker {
            range: leaves,
            source,
            buffer: Vec::new(),
            proof: LeafProof::empty(),
            at: 0,
        };
        let root = maker.root(piece.size.height())?;
        if root != piece.comm_p.0 {
            return Err(InclusionError::WrongPiece {
                expected: piece.comm_p.to_string(),
            });
        }
        // The source may hold no more than the piece.
        if fr32::read_full(&mut maker.source, &mut [0])? != 0 {
            return Err(InclusionError::WrongPiece {
                expected: piece.comm_p.to_string(),
            });
        }
        Ok(maker.proof)
    }

    /// Whether these are the leaves of that range of the piece.
    pub fn verify(&self, piece: &PieceInfo, leaves: Range<u64>) -> Result<(), InclusionError> {
        check_range(piece, &leaves)?;
        let count = usize::try_from(leaves.end - leaves.start).expect("at most MAX_LEAVES");
        expect_count("leaves", count, self.leaves.len())?;
        expect_count(
            "siblings",
            sibling_count(piece.size.height(), 0, &leaves),
            self.siblings.len(),
        )?;
        let mut check = Check {
            range: leaves,
            leaves: &self.leaves,
            siblings: &self.siblings,
        };
        expect_root(&piece.comm_p.0, &check.root(piece.size.height(), 0))
    }

    /// Reads the borsh form with limits before allocation, and refuses leftovers.
    pub fn decode(bytes: &[u8]) -> Result<Self, InclusionError> {
        let max_leaves = usize::try_from(MAX_LEAVES).expect("small");
        let (leaves, rest) = take_nodes("leaves", max_leaves, bytes)?;
        let (siblings, rest) = take_nodes("siblings", MAX_SIBLINGS, rest)?;
        expect_count("bytes after the end", 0, rest.len())?;
        Ok(Self { leaves, siblings })
    }

    fn empty() -> Self {
        Self {
            leaves: Vec::new(),
            siblings: Vec::new(),
        }
    }
}

fn take_nodes<'a>(
    what: &'static str,
    max: usize,
    bytes: &'a [u8],
) -> Result<(Vec<Node>, &'a [u8]), InclusionError> {
    let (count, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or(InclusionError::Shape {
            what: "bytes before its end",
            expected: 4,
            found: bytes.len(),
        })?;
    let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
    if count > max {
        return Err(InclusionError::Shape {
            what,
            expected: max,
            found: count,
        });
    }
    let (nodes, rest) = rest
        .split_at_checked(32 * count)
        .ok_or(InclusionError::Shape {
            what: "bytes before its end",
            expected: 32 * count,
            found: rest.len(),
        })?;
    Ok((nodes.as_chunks::<32>().0.to_vec(), rest))
}

fn check_range(piece: &PieceInfo, leaves: &Range<u64>) -> Result<(), InclusionError> {
    let nodes = piece.size.nodes();
    if leaves.start < leaves.end && leaves.end <= nodes && leaves.end - leaves.start <= MAX_LEAVES {
        return Ok(());
    }
    Err(InclusionError::Range {
        start: leaves.start,
        end: leaves.end,
        nodes,
    })
}

fn expect_count(what: &'static str, expected: usize, found: usize) -> Result<(), InclusionError> {
    if expected == found {
        Ok(())
    } else {
        Err(InclusionError::Shape {
            what,
            expected,
            found,
        })
    }
}

fn expect_root(expected: &Node, found: &Node) -> Result<(), InclusionError> {
    if expected == found {
        Ok(())
    } else {
        Err(InclusionError::WrongRoot {
            expected: hex::encode(expected),
        })
    }
}

fn covered(height: u32, index: u64) -> Range<u64> {
    index << height..(index + 1) << height
}

fn disjoint(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.end <= b.start || b.end <= a.start
}

/// Subtrees outside the range that hang off its boundary.
fn sibling_count(height: u32, index: u64, range: &Range<u64>) -> usize {
    let here = covered(height, index);
    if disjoint(&here, range) {
        1
    } else if here.start >= range.start && here.end <= range.end {
        0
    } else {
        sibling_count(height - 1, 2 * index, range)
            + sibling_count(height - 1, 2 * index + 1, range)
    }
}

/// Hashes from leaves and siblings up; the counts were checked, so both slices end exactly with the walk.
struct Check<'a> {
    range: Range<u64>,
    leaves: &'a [Node],
    siblings: &'a [Node],
}

impl Check<'_> {
    fn root(&mut self, height: u32, index: u64) -> Node {
        let source = if disjoint(&covered(height, index), &self.range) {
            &mut self.siblings
        } else if height == 0 {
            &mut self.leaves
        } else {
            let left = self.root(height - 1, 2 * index);
            return sha256::node(&left, &self.root(height - 1, 2 * index + 1));
        };
        match source.split_first() {
            Some((node, rest)) => {
                *source = rest;
                *node
            }
            None => unreachable!("verify counted leaves and siblings"),
        }
    }
}

/// Height of the subtrees that are padded and hashed at once: 1 MiB.
const CHUNK_HEIGHT: u32 = 15;

/// Walks the tree once while reading, and keeps what the proof needs.
struct Maker<R> {
    range: Range<u64>,
    source: R,
    buffer: Vec<u8>,
    proof: LeafProof,
    /// Leaves read so far.
    at: u64,
}

impl<R: Read> Maker<R> {
    fn root(&mut self, height: u32) -> Result<Node, InclusionError> {
        if height <= CHUNK_HEIGHT {
            return self.chunk(height);
        }
        let here = covered(height, self.at >> height);
        if !disjoint(&here, &self.range) {
            let left = self.root(height - 1)?;
            return Ok(sha256::node(&left, &self.root(height - 1)?));
        }
        // Only this subtree's root is part of the proof: walk it without collecting.
        let range = std::mem::replace(&mut self.range, u64::MAX - 1..u64::MAX);
        let kept = std::mem::replace(&mut self.proof, LeafProof::empty());
        let root = self.outside(height);
        self.range = range;
        self.proof = kept;
        let root = root?;
        self.proof.siblings.push(root);
        Ok(root)
    }

    fn outside(&mut self, height: u32) -> Result<Node, InclusionError> {
        if height <= CHUNK_HEIGHT {
            let mut nodes = self.read(height)?;
            return Ok(sha256::root_in_place(&mut nodes));
        }
        let left = self.outside(height - 1)?;
        Ok(sha256::node(&left, &self.outside(height - 1)?))
    }

    fn chunk(&mut self, height: u32) -> Result<Node, InclusionError> {
        let index = self.at >> height;
        let nodes = self.read(height)?;
        Ok(self.collect(&nodes, height, index))
    }

    /// The next `2^height` padded leaves, zero-extended past the source's end.
    fn read(&mut self, height: u32) -> Result<Vec<Node>, InclusionError> {
        let count = 1usize << height;
        self.buffer.resize(count / 4 * BLOCK_UNPADDED, 0);
        let filled = fr32::read_full(&mut self.source, &mut self.buffer)?;
        self.buffer[filled..].fill(0);
        let mut nodes = vec![[0; 32]; count];
        fr32::pad_into(&self.buffer, nodes.as_flattened_mut());
        self.at += 1 << height;
        Ok(nodes)
    }

    fn collect(&mut self, nodes: &[Node], height: u32, index: u64) -> Node {
        let here = covered(height, index);
        if disjoint(&here, &self.range) {
            let root = sha256::root_in_place(&mut nodes.to_vec());
            self.proof.siblings.push(root);
            return root;
        }
        if height == 0 {
            self.proof.leaves.push(nodes[0]);
            return nodes[0];
        }
        let (left, right) = nodes.split_at(nodes.len() / 2);
        let left = self.collect(left, height - 1, 2 * index);
        let right = self.collect(right, height - 1, 2 * index + 1);
        sha256::node(&left, &right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commitment::CommP;
    use crate::piece::commp::commp_of;
    use crate::piece::layout::plan;
    use crate::piece::size::PaddedPieceSize;
    use proptest::prelude::*;

    fn data(len: usize, seed: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (i * 31 + i / 256 + seed * 7).to_le_bytes()[0])
            .collect()
    }

    fn info(data: &[u8]) -> PieceInfo {
        let (comm_p, size) = commp_of(data);
        PieceInfo { comm_p, size }
    }

    #[test]
    fn tm_p16_a_piece_proves_its_own_place_only() {
        let size = SectorSize::Kib32;
        let pieces: Vec<PieceInfo> = [2000, 500, 8000, 100, 4000]
            .iter()
            .enumerate()
            .map(|(i, &len)| info(&data(len, i)))
            .collect();
        let layout = plan(&pieces, size).expect("fits");
        for placement in &layout.placements {
            let proof =
                PieceInclusion::of(&layout, placement.piece).expect("a piece of the layout");
            let (info, offset) = (placement.info, placement.offset);
            proof
                .verify(&info, offset, size, &layout.comm_d)
                .expect("an honest proof");
            let double = PieceInfo {
                size: PaddedPieceSize::new(2 * info.size.bytes()).expect("a power of two"),
                ..info
            };
            let half = PieceInfo {
                size: PaddedPieceSize::new(info.size.bytes() / 2).unwrap_or(double.size),
                ..info
            };
            let other = PieceInfo {
                comm_p: CommP([9; 32]),
                ..info
            };
            for (what, piece, at) in [
                ("twice the size", double, offset),
                ("half the size", half, offset),
                ("another piece", other, offset),
                ("another place", info, offset ^ info.size.bytes()),
                ("misaligned", info, offset + 64),
                ("outside", info, size.bytes()),
                ("overflow", info, u64::MAX - 127),
            ] {
                assert!(
                    proof.verify(&piece, at, size, &layout.comm_d).is_err(),
                    "{what}"
                );
            }
            assert!(
                proof
                    .verify(&info, offset, SectorSize::Kib16, &layout.comm_d)
                    .is_err(),
                "another sector size"
            );
        }
        assert!(PieceInclusion::of(&layout, 5).is_none());
    }

    /// The root of a piece's half verifies as an inner node of the same tree; only the size tells it from a piece.
    #[test]
    fn tm_p16_an_inner_node_is_not_a_leaf() {
        let bytes = data(254, 1);
        let piece = info(&bytes);
        let halves: Vec<Node> = bytes.chunks(127).map(|half| commp_of(half).0.0).collect();
        let forged = LeafProof {
            leaves: vec![halves[0]],
            siblings: vec![halves[1]],
        };
        let tiny = PieceInfo {
            size: PaddedPieceSize::MIN,
            ..piece
        };
        for claimed in [piece, tiny] {
            for leaf in 0..4 {
                assert!(forged.verify(&claimed, leaf..leaf + 1).is_err());
            }
        }
    }

    #[test]
    fn bad_ranges_and_shapes_are_refused() {
        let bytes = data(1000, 1);
        let piece = info(&bytes);
        for range in [
            0..0,
            Range { start: 5, end: 4 },
            0..33,
            32..33,
            u64::MAX - 1..u64::MAX,
            0..u64::MAX,
        ] {
            assert!(matches!(
                LeafProof::of(&piece, range, &bytes[..]),
                Err(InclusionError::Range { .. })
            ));
        }
        let proof = LeafProof::of(&piece, 3..9, &bytes[..]).expect("an honest proof");
        let mut more = proof.clone();
        more.siblings.push([0; 32]);
        assert!(matches!(
            more.verify(&piece, 3..9),
            Err(InclusionError::Shape { .. })
        ));
        assert!(proof.verify(&piece, 3..8).is_err());
        assert!(proof.verify(&piece, 4..10).is_err());
    }

    #[test]
    fn a_damaged_copy_makes_no_proof() {
        let mut bytes = data(5000, 1);
        let piece = info(&bytes);
        bytes[4999] ^= 1;
        assert!(matches!(
            LeafProof::of(&piece, 0..1, &bytes[..]),
            Err(InclusionError::WrongPiece { .. })
        ));
        bytes[4999] ^= 1;
        bytes.resize(127 * 64 + 1, 0);
        assert!(matches!(
            LeafProof::of(&piece, 0..1, &bytes[..]),
            Err(InclusionError::WrongPiece { .. })
        ));
    }

    #[test]
    fn large_pieces_prove_across_chunks() {
        let bytes = data(3 << 20, 2);
        let piece = info(&bytes);
        let nodes = piece.size.nodes();
        for start in [
            0,
            1,
            (1 << 15) - 3,
            1 << 15,
            (1 << 16) - 1,
            (1 << 16) + 12345,
            nodes - 7,
        ] {
            let range = start..start + 7;
            let proof = LeafProof::of(&piece, range.clone(), &bytes[..]).expect("an honest proof");
            proof
                .verify(&piece, range.clone())
                .expect("an honest proof");
            let mut forged = proof.clone();
            forged.leaves[3][0] ^= 1;
            assert!(matches!(
                forged.verify(&piece, range),
                Err(InclusionError::WrongRoot { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn every_range_proves_and_reads_back(len in 0usize..5000, start in 0u64..200, count in 1u64..40, flip in 0usize..1000) {
            let bytes = data(len, 3);
            let piece = info(&bytes);
            let range = start..start + count;
            prop_assume!(range.end <= piece.size.nodes());
            let proof = LeafProof::of(&piece, range.clone(), &bytes[..]).expect("an honest proof");
            prop_assert!(proof.verify(&piece, range.clone()).is_ok());
            let encoded = borsh::to_vec(&proof).expect("writing to memory");
            prop_assert_eq!(&LeafProof::decode(&encoded).expect("what was written"), &proof);
            let mut flipped = proof.clone();
            let leaves = flipped.leaves.len();
            let at = flip % (leaves + flipped.siblings.len());
            if at < leaves { flipped.leaves[at][7] ^= 4 } else { flipped.siblings[at - leaves][7] ^= 4 }
            prop_assert!(flipped.verify(&piece, range).is_err());
        }

        #[test]
        fn tm_p17_any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            crate::fuzz::leaf_proof(&bytes);
        }
    }
}
