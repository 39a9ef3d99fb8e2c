//! Against bao-tree's own reader and writer, byte for byte; every position class corrupted; random cuts.

use bao_tree::io::{outboard::PreOrderMemOutboard, sync};
use proptest::prelude::*;

use super::*;

fn sample(size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    blake3::Hasher::new()
        .update(&size.to_le_bytes())
        .finalize_xof()
        .fill(&mut data);
    data
}

/// Sizes where trees change shape: one chunk, one group, a group and a byte, powers of two and their neighbours.
const SIZES: [usize; 14] = [
    1, 63, 1024, 1025, 16_383, 16_384, 16_385, 32_768, 32_769, 49_152, 65_536, 100_001, 262_144,
    300_000,
];

/// The stream that bao-tree makes.
fn reference_stream(data: &[u8], ranges: &Ranges) -> Vec<u8> {
    let outboard = PreOrderMemOutboard::create(data, BLOCK);
    let size = data.len() as u64;
    let chunks = to_chunks(&ranges.to_groups(size).expect("inside"), size);
    let mut out = Vec::new();
    sync::encode_ranges_validated(data, &outboard, &chunks, &mut out).expect("in memory");
    out
}

fn our_stream(data: &[u8], ranges: &Ranges) -> Vec<u8> {
    let (root, outboard) = outboard_of(data).expect("a piece");
    let mut encoder =
        Encoder::new(root, data.len() as u64, ranges, data.to_vec(), outboard).expect("inside");
    let mut out = Vec::new();
    loop {
        let mut block = Vec::new();
        let more = encoder.fill(&mut block, 40_000).expect("in memory");
        assert!(block.len() < 40_000 + GROUP_BYTES as usize);
        out.extend(block);
        if !more {
            return out;
        }
    }
}

/// Feeds a stream in pieces of `cut` bytes; returns what came out.
fn read_back(
    root: PieceRoot,
    size: u64,
    ranges: &Ranges,
    stream: &[u8],
    cut: usize,
) -> Result<Vec<Block>, VerifyError> {
    let mut reader = BlockReader::new(root, size, ranges, 65_536).expect("inside");
    let (mut rest, mut blocks) = (stream, Vec::new());
    while !reader.is_done() {
        let space = reader.space();
        let n = space.len().min(cut).min(rest.len());
        if n == 0 {
            return Err(VerifyError::Truncated);
        }
        space[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        blocks.extend(reader.advance(n)?);
    }
    assert!(rest.is_empty(), "the reader stops where the stream does");
    Ok(blocks)
}

#[test]
fn outboards_and_roots_equal_bao_trees() {
    for size in SIZES {
        let data = sample(size);
        let reference = PreOrderMemOutboard::create(&data, BLOCK);
        let (root, outboard) = outboard_of(&data).expect("a piece");
        assert_eq!(root.0, *blake3::hash(&data).as_bytes(), "{size}");
        assert_eq!(
            (root.0, &outboard),
            (*reference.root.as_bytes(), &reference.data),
            "{size}"
        );
        assert_eq!(outboard.len() as u64, outboard_bytes(size as u64));
        for cut in [1, 1000, 16_384, 20_000] {
            let mut builder = OutboardBuilder::new(size as u64).expect("a piece");
            data.chunks(cut)
                .for_each(|part| builder.update(part).expect("not too much"));
            assert_eq!(
                builder.finish().expect("all"),
                (root, outboard.clone()),
                "{size} by {cut}"
            );
            if size > 100_000 && cut == 1 {
                break;
            }
        }
    }
}

#[test]
fn the_builder_wants_exactly_the_announced_bytes() {
    assert!(OutboardBuilder::new(0).is_err());
    let mut builder = OutboardBuilder::new(10).expect("a piece");
    assert!(builder.update(&[0; 11]).is_err());
    builder.update(&[0; 9]).expect("fits");
    assert!(builder.finish().is_err());
}

#[test]
fn streams_equal_bao_trees_and_read_back() {
    for size in SIZES {
        let data = sample(size);
        let ranges = Ranges::whole(size as u64).expect("a range");
        let stream = our_stream(&data, &ranges);
        assert!(stream == reference_stream(&data, &ranges), "{size}");
        let root = outboard_of(&data).expect("a piece").0;
        let blocks = read_back(root, size as u64, &ranges, &stream, 7_000).expect("verified");
        assert!(
            blocks
                .iter()
                .flat_map(|block| block.data.iter().copied())
                .eq(data),
            "{size}"
        );
    }
}

#[test]
fn pairs_of_a_whole_stream_are_the_outboard() {
    let data = sample(300_000);
    let (root, outboard) = outboard_of(&data).expect("a piece");
    let stream = our_stream(&data, &Ranges::whole(300_000).expect("a range"));
    let mut reader = BlockReader::whole_with_pairs(root, 300_000, 65_536).expect("a piece");
    let (mut rest, mut pairs) = (&stream[..], Vec::new());
    while !reader.is_done() {
        let space = reader.space();
        let n = space.len();
        space.copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        if reader.advance(n).expect("verified").is_some() {
            pairs.extend(reader.take_pairs());
        }
    }
    assert_eq!(pairs, outboard);
}

/// Threat R2: a flip in any byte of parents and leaves is noticed, and nothing unverified comes out before it.
#[test]
fn tm_r2_every_flipped_byte_is_noticed() {
    let data = sample(100_001);
    let root = outboard_of(&data).expect("a piece").0;
    let ranges = Ranges::new([20_000..40_000, 99_000..100_001]).expect("ranges");
    let stream = our_stream(&data, &ranges);
    for at in (0..stream.len())
        .step_by(97)
        .chain(0..256)
        .chain(stream.len() - 64..stream.len())
    {
        let mut bad = stream.clone();
        bad[at] ^= 1;
        let error = read_back(root, 100_001, &ranges, &bad, usize::MAX).expect_err("noticed");
        assert!(
            matches!(error, VerifyError::Parent { .. } | VerifyError::Leaf { .. }),
            "{at}: {error}"
        );
    }
    assert_eq!(
        read_back(root, 100_001, &ranges, &stream[..stream.len() - 1], 1_000),
        Err(VerifyError::Truncated)
    );
}

/// A wrong size gives another tree: it never verifies, whatever the data.
#[test]
fn tm_r2_a_wrong_size_does_not_verify() {
    let data = sample(100_001);
    let root = outboard_of(&data).expect("a piece").0;
    let stream = our_stream(&data, &Ranges::whole(100_001).expect("a range"));
    for size in [100_000u64, 100_002, 16_384, 131_072] {
        let ranges = Ranges::whole(size).expect("a range");
        let mut long = stream.clone();
        long.resize(stream.len() + 100_000, 0);
        let mut reader = BlockReader::new(root, size, &ranges, 65_536).expect("inside");
        let mut rest = &long[..];
        let failed = loop {
            if reader.is_done() {
                break false;
            }
            let space = reader.space();
            let n = space.len();
            space.copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            if reader.advance(n).is_err() {
                break true;
            }
        };
        assert!(failed, "{size}");
    }
}

/// A damaged file is the provider's own trouble: it is noticed before a byte of that group leaves.
#[test]
fn the_encoder_checks_what_it_reads() {
    let mut data = sample(100_001);
    let (root, outboard) = outboard_of(&data).expect("a piece");
    data[70_000] ^= 1;
    let ranges = Ranges::whole(100_001).expect("a range");
    let mut encoder =
        Encoder::new(root, 100_001, &ranges, data, outboard.clone()).expect("a piece");
    let mut out = Vec::new();
    let error = encoder.fill(&mut out, usize::MAX).expect_err("noticed");
    assert!(
        matches!(
            error,
            EncodeError::Damaged(VerifyError::Leaf { offset: 65_536 })
        ),
        "{error}"
    );
    let short = Encoder::new(
        root,
        100_001,
        &ranges,
        sample(100_001)[..50_000].to_vec(),
        outboard,
    );
    let error = short
        .expect("a piece")
        .fill(&mut Vec::new(), usize::MAX)
        .expect_err("noticed");
    assert!(
        matches!(error, EncodeError::Io { offset: 49_152, .. }),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Threat R3: any ranges of any piece, cut anyhow: exactly the rounded-out bytes come, as from a slice.
    #[test]
    fn tm_r3_ranges_read_like_a_slice(size in 1usize..200_000, cuts in prop::collection::btree_set(0u64..200_000, 2..16), cut in 1usize..30_000) {
        let cuts: Vec<u64> = cuts.into_iter().map(|c| c.min(size as u64)).collect();
        let list: Vec<_> = cuts.chunks_exact(2).filter(|c| c[0] < c[1]).map(|c| c[0]..c[1]).collect();
        let Ok(ranges) = Ranges::new(list) else { return Ok(()) };
        let data = sample(size);
        let stream = our_stream(&data, &ranges);
        prop_assert!(stream == reference_stream(&data, &ranges));
        let root = outboard_of(&data).expect("a piece").0;
        let blocks = read_back(root, size as u64, &ranges, &stream, cut).expect("verified");
        let groups = ranges.to_groups(size as u64).expect("inside");
        let mut groups = groups.iter().flatten();
        for block in blocks {
            prop_assert!(block.data.len() <= 65_536);
            for (i, byte) in block.data.iter().enumerate() {
                let at = block.offset + i as u64;
                prop_assert_eq!(groups.next(), Some(at));
                prop_assert_eq!(*byte, data[at as usize]);
            }
        }
        prop_assert_eq!(groups.next(), None);
    }
}
