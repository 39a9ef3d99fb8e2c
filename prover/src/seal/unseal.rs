//! Unsealing: the way back from the replica to the pieces' bytes.
//!
//! Walk: `retrieval::serve` reads unsealed bytes; when a provider kept none, they come from here.
//! Spec: proofs.md §2.7. Cost: labels are not kept, so all layers are computed again: the full price of PC1, whatever the
//! range. Memory: [`super::label_memory`]. That price already touches every node, so the whole sector is decoded and its
//! CommD compared before one byte is handed over: the right bytes or an error, never wrong bytes. An updated sector unseals the
//! same way; with the sector it was made over, [`crate::update::sector::recover`] does it without labels.
//! Crash: nothing is written to the sector's folder.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::label::parents_for;
use super::{SealError, label_memory};
use crate::hash::sha256;
use crate::ids::Node;
use crate::machine::Plan;
use crate::pages::Nodes;
use crate::piece::fr32;
use crate::porep::label::{self, SectorLayer};
use crate::porep::replica;
use crate::progress::Progress;
use crate::sector_dir;
use crate::sector_dir::disk::{NodeFile, RealDisk};
use crate::sector_dir::record::{Record, SectorFile, Stage};
use crate::spec::{NODE_BYTES, SectorSize};
use crate::update::replica::{self as update, Factors};

/// Nodes decoded or hashed per piece of parallel work; even, so that pairs stay together.
const CHUNK: usize = 1 << 12;
/// Unpadded bytes handed over per write.
const BLOCK: u64 = fr32::BLOCK_UNPADDED as u64 * (1 << 13);

/// Writes the unpadded bytes `range` of the sector's data to `out`. Works on any sector whose replica is durable.
pub fn unseal_range(
    path: &Path,
    range: Range<u64>,
    out: &mut dyn Write,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<(), SealError> {
    let record = sector_dir::read_record(&RealDisk, path)?;
    let size = record.seal.size;
    require_range(size, &range)?;
    plan.require("unsealing", label_memory(size))?;
    let sealed = path.join(SectorFile::Sealed.name(size.shape().base_trees));
    let replica = NodeFile::open(&RealDisk, &sealed)?;

    let data = plan.run(|| decode(&record, &replica, plan, progress))?;
    match data {
        Some(data) => hand_over(&data, range, &sealed, out),
        None => Err(SealError::DamagedReplica(sealed)),
    }
}

/// Refuses a range that lies outside the sector's data.
pub(crate) fn require_range(size: SectorSize, range: &Range<u64>) -> Result<(), SealError> {
    let capacity = size.unpadded_bytes();
    if range.start <= range.end && range.end <= capacity {
        return Ok(());
    }
    Err(SealError::Range {
        start: range.start,
        end: range.end,
        capacity,
    })
}

/// The last layer's labels of a sector, and as much room as they take.
pub(super) fn last_layer(record: &Record, plan: &Plan, progress: &dyn Progress) -> (Nodes, Nodes) {
    let size = record.seal.size;
    let nodes = size.nodes() as usize;
    let room = plan.memory().saturating_sub(label_memory(size));
    let parents = parents_for(record.seal, room, plan, progress);
    progress.start("unsealing", size.nodes() * size.layers() as u64);
    let (mut filled, mut spare) = (Nodes::zeroed(nodes), Nodes::zeroed(nodes));
    for layer in 1..=size.layers() as u32 {
        let sector = SectorLayer {
            replica_id: &record.replica_id,
            previous: (layer > 1).then_some(&filled[..]),
            out: &mut spare,
        };
        label::fill_layer(layer, &parents, &mut [sector], progress);
        std::mem::swap(&mut filled, &mut spare);
    }
    progress.finish();
    (filled, spare)
}

/// The sector's data, when it hashes to CommD.
fn decode(
    record: &Record,
    replica: &NodeFile,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Option<Nodes>, SealError> {
    // An updated replica was made over one of zeros, whose nodes are the labels.
    let inverse = match &record.stage {
        Stage::Updated(_, comm_r_old) | Stage::UpdateProven(_, comm_r_old, _) => {
            let factors = Factors::new(record.seal.size, &record.comm_d, comm_r_old);
            match factors.and_then(|factors| factors.inverse()) {
                None => return Ok(None),
                some => some,
            }
        }
        _ => None,
    };
    let (mut data, mut spare) = last_layer(record, plan, progress);
    let canonical = data.par_chunks_mut(CHUNK).enumerate().map(|(i, keys)| {
        let mut nodes = vec![[0u8; NODE_BYTES]; keys.len()];
        replica.read((i * CHUNK) as u64, &mut nodes)?;
        for (at, (key, node)) in (i * CHUNK..).zip(keys.iter_mut().zip(&nodes)) {
            let data = match &inverse {
                Some(inverse) => update::decode(node, key, &inverse.of(at as u64)),
                None => replica::decode(node, key),
            };
            match data {
                Some(data) => *key = data,
                None => return Ok(false),
            }
        }
        Ok(true)
    });
    if !canonical.try_reduce(|| true, |a, b| Ok::<bool, SealError>(a && b))? {
        return Ok(None);
    }
    Ok((root(&data, &mut spare) == record.comm_d.0).then_some(data))
}

/// Root of the SHA-256/254 tree over `leaves`, a power of two of them; `rows` is room for all rows above.
fn root(leaves: &[Node], rows: &mut [Node]) -> Node {
    let (mut row, mut rest) = rows.split_at_mut(leaves.len() / 2);
    hash_row(leaves, row);
    while row.len() > 1 {
        let (above, further) = rest.split_at_mut(row.len() / 2);
        hash_row(row, above);
        (row, rest) = (above, further);
    }
    row[0]
}

fn hash_row(children: &[Node], parents: &mut [Node]) {
    children
        .par_chunks(CHUNK)
        .zip(parents.par_chunks_mut(CHUNK / 2))
        .for_each(|(c, p)| sha256::nodes(c, p));
}

/// Root of the SHA-256/254 tree over `row`, a power of two of nodes, row by row on this thread.
pub(crate) fn tree_d_root(mut row: Vec<Node>) -> Node {
    while row.len() > 1 {
        let mut above = vec![[0u8; NODE_BYTES]; row.len() / 2];
        sha256::nodes(&row, &mut above);
        row = above;
    }
    row[0]
}

fn hand_over(
    data: &[Node],
    range: Range<u64>,
    replica: &Path,
    out: &mut dyn Write,
) -> Result<(), SealError> {
    let bytes = data.as_flattened();
    let blocks = |padded: Range<u64>| Ok(&bytes[padded.start as usize..padded.end as usize]);
    unpad_range(range, blocks, replica, out)
}

/// Writes the unpadded bytes `range` of verified data; `blocks` gives padded blocks by their range of bytes. A record can
/// name a CommD of data that was never padded: then the replica is called damaged.
pub(crate) fn unpad_range<B: AsRef<[u8]>>(
    range: Range<u64>,
    blocks: impl Fn(Range<u64>) -> Result<B, SealError>,
    replica: &Path,
    out: &mut dyn Write,
) -> Result<(), SealError> {
    let mut start = range.start;
    while start < range.end {
        // Whole blocks of the padding, from the one that holds `start`.
        let end = range.end.min(start / BLOCK * BLOCK + BLOCK);
        let (padded, skip) = fr32::blocks_covering(start, end);
        let block = fr32::unpad(blocks(padded)?.as_ref())
            .map_err(|_| SealError::DamagedReplica(replica.to_owned()))?;
        out.write_all(&block[skip as usize..][..(end - start) as usize])
            .map_err(SealError::Output)?;
        start = end;
    }
    out.flush().map_err(SealError::Output)
}
