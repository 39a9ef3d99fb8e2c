//! Places pieces in a sector by Filecoin's rule and yields CommD; writes the staged, padded sector file.
//!
//! Walk: after [`super::commp`], before `porep`; `storage_node::provider::pack` chooses the pieces. Spec: proofs.md §1.3.
//!
//! A piece starts at a multiple of its own padded size; gaps, and the rest of the sector, are zero. CommD is the root over
//! the whole sector, so the list is always completed with zero pieces: the root over a lone small piece is not a CommD.
//!
//! ```text
//! pieces  512, 2048            sector of 4096 padded bytes
//! [ 512 | 512 zero | 1024 zero | 2048 piece ]
//! ```
//!
//! Cost: planning is a few hashes per piece. Writing is one pass; each piece's CommP is recomputed as it goes by, so a file
//! that changed since its deal is found before the sector is sealed.

use super::commp::{CommpHasher, zero_node};
use super::fr32::{self, BLOCK_PADDED, BLOCK_UNPADDED};
use super::size::PaddedPieceSize;
use super::{PieceInfo, commp};
use crate::commitment::{CommD, CommP};
use crate::hash::sha256;
use crate::ids::Node;
use crate::spec::SectorSize;
use std::io::{Read, Write};

/// Why pieces do not make a sector.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Alignment counts: pieces and the gaps before them exceed the sector.
    #[error(
        "{pieces} pieces need {needed} padded bytes with alignment, a {size} sector has {available}: \
         use fewer pieces or a larger sector"
    )]
    TooLarge {
        /// Number of pieces asked for.
        pieces: usize,
        /// Padded bytes up to the end of the first piece that does not fit.
        needed: u64,
        /// The sector.
        size: SectorSize,
        /// Its padded bytes.
        available: u64,
    },
    /// The caller brought another number of sources than the layout has pieces.
    #[error("the layout has {expected} pieces, {given} sources were given")]
    Sources {
        /// Pieces in the layout.
        expected: usize,
        /// Sources given.
        given: usize,
    },
    /// A source could not be read.
    #[error("reading piece {piece}: {source}")]
    Read {
        /// Index of the piece in the list.
        piece: usize,
        /// What the source said.
        source: std::io::Error,
    },
    /// A source has more bytes than its piece holds.
    #[error(
        "piece {piece} has more than the {expected} bytes that its padded size holds: fetch or stage it again"
    )]
    TooLong {
        /// Index of the piece in the list.
        piece: usize,
        /// Unpadded bytes of the piece.
        expected: u64,
    },
    /// The bytes are not the piece that was promised.
    #[error(
        "the bytes of piece {piece} have {found}, its deal says {expected}: fetch or stage it again"
    )]
    WrongBytes {
        /// Index of the piece in the list.
        piece: usize,
        /// Commitment in the layout.
        expected: CommP,
        /// Commitment of what was read.
        found: CommP,
    },
    /// The sector file could not be written.
    #[error("writing the staged sector: {0}")]
    Write(#[source] std::io::Error),
}

/// One piece's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Index in the list the layout was planned from.
    pub piece: usize,
    /// Padded bytes from the sector's start.
    pub offset: u64,
    /// The piece.
    pub info: PieceInfo,
}

impl Placement {
    /// Padded bytes up to the piece's end.
    pub fn end(&self) -> u64 {
        self.offset + self.info.size.bytes()
    }
}

/// Where each piece of a sector lies, and the sector's CommD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The sector.
    pub size: SectorSize,
    /// Places in the order of the list: ascending offsets, no overlap.
    pub placements: Vec<Placement>,
    /// Root over the whole sector.
    pub comm_d: CommD,
}

/// Places the pieces in the given order. An empty list is a sector of zeros.
pub fn plan(pieces: &[PieceInfo], size: SectorSize) -> Result<Layout, LayoutError> {
    let mut placements = Vec::with_capacity(pieces.len().min(1 << 10));
    let mut roots = Roots::default();
    let mut end = 0u64;
    for (piece, &info) in pieces.iter().enumerate() {
        let bytes = info.size.bytes();
        let offset = end.next_multiple_of(bytes);
        let needed = offset + bytes;
        if needed > size.bytes() {
            return Err(LayoutError::TooLarge {
                pieces: pieces.len(),
                needed,
                size,
                available: size.bytes(),
            });
        }
        roots.fill_to(offset);
        roots.push(info.size.height(), info.comm_p.0);
        placements.push(Placement {
            piece,
            offset,
            info,
        });
        end = needed;
    }
    roots.fill_to(size.bytes());
    Ok(Layout {
        size,
        placements,
        comm_d: CommD(roots.root(size)),
    })
}

/// CommD of an ordered list, as the chain computes it from its deals (threat P16): [`plan`] without the places.
pub fn comm_d(pieces: &[PieceInfo], size: SectorSize) -> Result<CommD, LayoutError> {
    plan(pieces, size).map(|layout| layout.comm_d)
}

/// The stack machine of proofs.md §1.3: subtree roots from the left, heights strictly falling.
#[derive(Default)]
struct Roots {
    stack: Vec<(u32, Node)>,
    /// Padded bytes covered.
    covered: u64,
}

impl Roots {
    fn push(&mut self, mut height: u32, mut root: Node) {
        self.covered += 32 << height;
        while let Some(&(left_height, left)) = self.stack.last() {
            if left_height != height {
                break;
            }
            self.stack.pop();
            root = sha256::node(&left, &root);
            height += 1;
        }
        self.stack.push((height, root));
    }

    /// Zero pieces up to a padded offset, each as large as its alignment and the rest allow: smallest first.
    fn fill_to(&mut self, end: u64) {
        while self.covered < end {
            let aligned = if self.covered == 0 {
                u64::BITS - 1
            } else {
                self.covered.trailing_zeros()
            };
            let fitting = (end - self.covered).ilog2();
            let height = aligned.min(fitting) - 5;
            self.push(height, zero_node(height));
        }
    }

    fn root(self, size: SectorSize) -> Node {
        match self.stack[..] {
            [(height, root)] if height == size.log2_nodes() => root,
            _ => unreachable!("a whole sector was covered, and its size is a power of two"),
        }
    }
}

/// Bytes written at once: 1 MiB padded.
const WRITE_BLOCKS: usize = 1 << 13;

/// Writes the padded sector: every piece at its place, zeros elsewhere. Sources are unpadded bytes in the layout's order;
/// one that ends early is zero-extended, which its CommP covers.
///
/// Memory: 2 MiB. After an error the output is incomplete and must be thrown away.
pub fn write_sector<R: Read>(
    layout: &Layout,
    sources: impl IntoIterator<Item = R, IntoIter: ExactSizeIterator>,
    out: &mut impl Write,
) -> Result<(), LayoutError> {
    let sources = sources.into_iter();
    if sources.len() != layout.placements.len() {
        return Err(LayoutError::Sources {
            expected: layout.placements.len(),
            given: sources.len(),
        });
    }
    let mut at = 0;
    for (placement, source) in layout.placements.iter().zip(sources) {
        write_zeros(placement.offset - at, out)?;
        write_piece(placement, source, out)?;
        at = placement.end();
    }
    write_zeros(layout.size.bytes() - at, out)?;
    out.flush().map_err(LayoutError::Write)
}

fn write_piece(
    placement: &Placement,
    mut source: impl Read,
    out: &mut impl Write,
) -> Result<(), LayoutError> {
    let Placement { piece, info, .. } = *placement;
    let capacity = info.size.unpadded().bytes();
    let mut data = vec![0; WRITE_BLOCKS * BLOCK_UNPADDED];
    let mut padded = vec![0; WRITE_BLOCKS * BLOCK_PADDED];
    let mut hasher = CommpHasher::new();
    let mut written = 0;
    loop {
        let count = fr32::read_full(&mut source, &mut data)
            .map_err(|source| LayoutError::Read { piece, source })?;
        if count == 0 {
            break;
        }
        if hasher.len() + byte_count(count) > capacity {
            return Err(LayoutError::TooLong {
                piece,
                expected: capacity,
            });
        }
        hasher.update(&data[..count]);
        // Only the last part can end inside a block; its nodes up to the block's end are zero like what follows.
        let len = usize::try_from(fr32::padded_len(byte_count(count))).expect("at most 1 MiB");
        fr32::pad_into(&data[..count], &mut padded[..len]);
        out.write_all(&padded[..len]).map_err(LayoutError::Write)?;
        written += byte_count(len);
    }
    let found = commp_at_size(hasher, info.size);
    if found != info.comm_p {
        return Err(LayoutError::WrongBytes {
            piece,
            expected: info.comm_p,
            found,
        });
    }
    write_zeros(info.size.bytes() - written, out)
}

/// CommP of the bytes zero-extended to a given size, which may be larger than the smallest that fits.
fn commp_at_size(hasher: CommpHasher, size: PaddedPieceSize) -> CommP {
    let (found, natural) = hasher.finish();
    commp::extend_with_zeros(found, natural, size)
}

fn write_zeros(count: u64, out: &mut impl Write) -> Result<(), LayoutError> {
    std::io::copy(&mut std::io::repeat(0).take(count), out)
        .map(|_| ())
        .map_err(LayoutError::Write)
}

fn byte_count(count: usize) -> u64 {
    u64::try_from(count).expect("no machine addresses more than 2^64 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use proptest::prelude::*;

    fn info(data: &[u8]) -> PieceInfo {
        let (comm_p, size) = commp::commp_of(data);
        PieceInfo { comm_p, size }
    }

    fn data(len: usize, seed: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (7 * i + 13 * seed).to_le_bytes()[0] % 251)
            .collect()
    }

    fn write(layout: &Layout, sources: &[Vec<u8>]) -> Result<Vec<u8>, LayoutError> {
        let mut out = Vec::new();
        write_sector(layout, sources.iter().map(Vec::as_slice), &mut out).map(|()| out)
    }

    /// proofs.md §9.3: 1016 + 508 + 127 in a 2 KiB sector.
    #[test]
    fn the_published_2_kib_sector() {
        let sources: Vec<Vec<u8>> = [1016usize, 508, 127]
            .iter()
            .enumerate()
            .map(|(k, &len)| {
                (0..len)
                    .map(|i| u8::try_from((7 * i + 13 * (k + 1)) % 251).expect("below 251"))
                    .collect()
            })
            .collect();
        let pieces: Vec<PieceInfo> = sources.iter().map(|source| info(source)).collect();
        assert_eq!(
            pieces
                .iter()
                .map(|piece| piece.comm_p.to_string())
                .collect::<Vec<_>>(),
            [
                "e7fa95901b11c30890485e5bd884bfcfb710bff709073fe784c258ad5033fc30",
                "87514fa5279f95e28e6a82f685c0ca92be9e75b205e98297a3327f076b822808",
                "5b5fc3b6f20fa5bc0d3a2151ac63ac69b9937b5aaf974be462efa9a17afb2d13",
            ]
        );
        let layout = plan(&pieces, SectorSize::Kib2).expect("the pieces fit");
        assert_eq!(
            layout.comm_d.to_string(),
            "3b53dcc8914731ec87d57c43e571bd09052c6b289ae3c9d02bf83981b2bd0a3c"
        );
        let staged = write(&layout, &sources).expect("the sources are the pieces");
        assert_eq!(
            reference::root(reference::nodes_of(&staged)),
            layout.comm_d.0
        );
    }

    #[test]
    fn an_empty_sector_is_the_zero_commitment() {
        let layout = plan(&[], SectorSize::Mib8).expect("nothing always fits");
        let size = PaddedPieceSize::new(SectorSize::Mib8.bytes()).expect("a power of two");
        assert_eq!(layout.comm_d.0, commp::zero_commitment(size).0);
    }

    /// Each way of misplacing a piece gives an error or another CommD than the honest layout.
    #[test]
    fn tm_p16_misplaced_pieces_are_not_the_sector() {
        let size = SectorSize::Kib4;
        let (a, b) = (info(&data(1016, 1)), info(&data(508, 2)));
        let honest = plan(&[a, b], size).expect("fits").comm_d;
        let resized = |piece: PieceInfo, bytes: u64| PieceInfo {
            comm_p: piece.comm_p,
            size: PaddedPieceSize::new(bytes).expect("a power of two"),
        };
        let inner = PieceInfo {
            comm_p: CommP(data(254, 1).as_slice()[..32].try_into().expect("32")),
            ..b
        };
        for (what, pieces) in [
            ("swapped", vec![b, a]),
            ("twice the size", vec![resized(a, 2048), b]),
            ("half the size", vec![resized(a, 512), b]),
            ("missing", vec![a]),
            ("doubled", vec![a, b, b]),
            ("a leaf passed off as a piece", vec![a, inner]),
        ] {
            assert_ne!(plan(&pieces, size).expect("fits").comm_d, honest, "{what}");
        }
        // Without the zero pieces to the sector's end the root would be the smaller sector's.
        assert_ne!(
            plan(&[a, b], SectorSize::Kib2).expect("fits").comm_d,
            honest
        );
        let whole = resized(a, 4096);
        assert!(
            matches!(plan(&[whole, b], size), Err(LayoutError::TooLarge { .. })),
            "overlap"
        );
        assert!(
            matches!(plan(&[b, whole], size), Err(LayoutError::TooLarge { .. })),
            "misaligned"
        );
    }

    #[test]
    fn sources_that_are_not_the_pieces_are_named() {
        let sources = vec![data(1016, 1), data(508, 2)];
        let pieces: Vec<PieceInfo> = sources.iter().map(|source| info(source)).collect();
        let layout = plan(&pieces, SectorSize::Kib2).expect("fits");
        let mut damaged = sources.clone();
        damaged[1][100] ^= 1;
        assert!(matches!(
            write(&layout, &damaged),
            Err(LayoutError::WrongBytes { piece: 1, .. })
        ));
        let mut longer = sources.clone();
        longer[0].push(0);
        assert!(matches!(
            write(&layout, &longer),
            Err(LayoutError::TooLong {
                piece: 0,
                expected: 1016
            })
        ));
        assert!(matches!(
            write(&layout, &sources[..1]),
            Err(LayoutError::Sources {
                expected: 2,
                given: 1
            })
        ));
    }

    proptest! {
        /// The staged bytes are what the plan says: their root is CommD, and each piece comes back from its place.
        #[test]
        fn staged_sectors_hash_to_comm_d(lens in prop::collection::vec(1usize..4000, 0..8)) {
            let sources: Vec<Vec<u8>> = lens.iter().enumerate().map(|(i, &len)| data(len, i)).collect();
            let pieces: Vec<PieceInfo> = sources.iter().map(|source| info(source)).collect();
            let Ok(layout) = plan(&pieces, SectorSize::Kib16) else { return Ok(()) };
            let staged = write(&layout, &sources).expect("the sources are the pieces");
            prop_assert_eq!(reference::root(reference::nodes_of(&staged)), layout.comm_d.0);
            for (placement, source) in layout.placements.iter().zip(&sources) {
                prop_assert_eq!(placement.offset % placement.info.size.bytes(), 0);
                let range = usize::try_from(placement.offset).expect("small")..usize::try_from(placement.end()).expect("small");
                let back = fr32::unpad(&staged[range]).expect("padded data");
                prop_assert_eq!(&back[..source.len()], &source[..]);
                prop_assert!(back[source.len()..].iter().all(|&byte| byte == 0));
            }
        }
    }
}
