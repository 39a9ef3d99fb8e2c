//! The updated sector's folder: packed data, new replica, proof; each step durable, and the data back again.
//!
//! Walk: [`create`] packs data over a sector that was sealed over zeros ([`crate::seal`]) and encodes it; [`Updated::prove`]
//! proves it; PoSt then takes the new folder like any other ([`crate::sector_dir::ReplicaFiles`]). The old folder is only read;
//! until the proof is made it must stay, and afterwards it is what makes [`recover`] cheap.
//!
//! | stage | step that reaches it | reads | writes |
//! |---|---|---|---|
//! | Encoding | [`create`] | pieces | TreeD, whose first row is the data |
//! | Updated | [`create`], [`resume`] | old replica, TreeD | `sealed`, TreeR, `p_aux` |
//! | UpdateProven | [`Updated::prove`] | both replicas, TreeD | the proof |
//!
//! Cost: TreeR is hashed twice, once of the old replica's bytes as they are encoded, since what is encoded over a damaged one could
//! never be proved or decoded, and once for the new one. No labels, which are most of what sealing takes.
//! Memory: [`super::replica::memory`]; proving, the circuit's need. Disk: [`disk_bytes`], asked before the first byte is written, and the rest before encoding.
//! Crash: as in [`crate::seal`]: a step counts once the record says so, and [`resume`] goes on from there. Damage: [`repair`] makes
//! everything but TreeD again, while the old sector is kept.

use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::proof::{self, Sources, UpdateError, VanillaProof};
use super::replica::{self, Factors};
use crate::commitment::{CommD, CommR, CommRLast};
use crate::estimate::proving_memory;
use crate::ids::Node;
use crate::machine::Plan;
use crate::merkle::build::{self, TreeError};
use crate::merkle::shape;
use crate::piece::PieceInfo;
use crate::piece::layout;
use crate::porep::replica::{chunk_nodes, comm_r};
use crate::progress::{NoProgress, Progress};
use crate::seal::{
    SLACK_BYTES, SealError, disk_left, require_range, require_space, tree_d_root, unpad_range,
    write_data,
};
use crate::sector_dir::disk::{Disk, NodeFile, RealDisk};
use crate::sector_dir::record::{Record, Roots, SectorFile, Stage};
use crate::sector_dir::{ReplicaFiles, SectorDir, SectorDirError, read_record};
use crate::snark::CircuitId;
use crate::snark::keys::ProvingKey;
use crate::spec::{NODE_BYTES, SectorSize, UpdateShape};
use crate::verify::UpdateStatement;

/// Bytes that the folder of an updated sector holds.
pub fn disk_bytes(size: SectorSize) -> u64 {
    let trees = size.shape().base_trees as u64;
    size.bytes() + shape::tree_d_bytes(size) + trees * shape::tree_r_bytes(size) + SLACK_BYTES
}

/// A sector with new data in its replica: the new CommR is fixed, PoSt can be made. Proven or not.
#[derive(Debug)]
pub struct Updated {
    dir: SectorDir,
    roots: Roots,
    statement: UpdateStatement,
    proof: Option<Vec<u8>>,
}

/// Packs pieces into a new folder and encodes them over the sector in `old`, which must have been sealed over zeros.
/// `sources` yields the unpadded bytes of the pieces in order; each must hash to its CommP.
pub fn create(
    path: &Path,
    old: &Path,
    pieces: Vec<PieceInfo>,
    sources: &mut [&mut dyn Read],
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Updated, SealError> {
    create_on(
        Arc::new(RealDisk),
        path,
        old,
        pieces,
        sources,
        plan,
        progress,
    )
}

/// [`create`] on a disk of the caller's choice, which holds both folders.
pub fn create_on(
    disk: Arc<dyn Disk>,
    path: &Path,
    old: &Path,
    pieces: Vec<PieceInfo>,
    sources: &mut [&mut dyn Read],
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Updated, SealError> {
    let record = read_record(disk.as_ref(), old)?;
    if record.stage.is_update() || record.comm_d != layout::comm_d(&[], record.seal.size)? {
        return Err(SealError::HoldsData(old.to_owned()));
    }
    let record = Record { pieces, ..record };
    create_over(disk, path, old, record, sources, plan, progress)
}

/// [`create_on`], whatever the old sector holds: Filecoin's own vectors update sectors with data. `record` is the old sector's,
/// with the new pieces.
fn create_over(
    disk: Arc<dyn Disk>,
    path: &Path,
    old: &Path,
    record: Record,
    sources: &mut [&mut dyn Read],
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Updated, SealError> {
    let size = record.seal.size;
    plan.require("updating", replica::memory(size, plan))?;
    let (Stage::Replicated(roots) | Stage::Challenged(roots, _) | Stage::Sealed(roots, ..)) =
        record.stage
    else {
        return Err(SealError::NoReplica(old.to_owned()));
    };
    let comm_r_old = comm_r(&roots.comm_c, &roots.comm_r_last)
        .ok_or_else(|| other_replica(old, "the roots in its record are no field elements"))?;
    let record = Record {
        stage: Stage::Encoding(comm_r_old),
        ..record
    };
    let dir = pack(disk, path, record, sources, plan, progress)?;
    encode(dir, old, comm_r_old, plan, progress)
}

/// Writes TreeD, the data in its first row, and the folder's first record.
fn pack(
    disk: Arc<dyn Disk>,
    path: &Path,
    mut record: Record,
    sources: &mut [&mut dyn Read],
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<SectorDir, SealError> {
    let size = record.seal.size;
    let layout = layout::plan(&record.pieces, size)?;
    let claim = SectorDir::claim(disk, path)?;
    let free = claim.free_bytes(SectorFile::TreeD, size)?;
    require_space(path, disk_bytes(size), free)?;
    let file = claim.begin(SectorFile::TreeD, size)?;
    progress.start("packing", size.bytes());
    write_data(&layout, sources, &file, progress)?;
    progress.finish();
    progress.start("TreeD", size.nodes());
    let root = plan.run(|| build::finish_tree_d(&file, size, progress))?;
    progress.finish();
    if root != layout.comm_d.0 {
        return Err(SealError::WrongData {
            path: file.path().to_owned(),
            expected: layout.comm_d,
            found: CommD(root),
        });
    }
    record.comm_d = layout.comm_d;
    record.files.clear();
    progress.start("recording TreeD", file.byte_len()?);
    let dir = claim.commit(record, SectorFile::TreeD, &file, progress)?;
    progress.finish();
    Ok(dir)
}

/// Writes the new replica, TreeR and `p_aux`, durable together with the stage.
fn encode(
    mut dir: SectorDir,
    old: &Path,
    comm_r_old: CommR,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Updated, SealError> {
    let size = dir.size();
    plan.require("updating", replica::memory(size, plan))?;
    require_space(dir.path(), disk_left(dir.record()), dir.free_bytes()?)?;
    let files = old_replica(dir.disk(), old, size, comm_r_old)?;
    let factors = factors(&dir, comm_r_old)?;
    let tree_d = dir.read(SectorFile::TreeD)?;
    let sealed = dir.begin(SectorFile::Sealed)?;
    let trees = (0..size.shape().base_trees as u32)
        .map(|i| dir.begin(SectorFile::TreeR(i)))
        .collect::<Result<Vec<_>, _>>()?;
    progress.start("new replica", size.nodes());
    let both = plan.run(|| {
        let old = &files.replica;
        replica::build(old, &tree_d, &sealed, &trees, size, &factors, progress)
    })?;
    progress.finish();
    if both.old != files.roots.comm_r_last.0 {
        return Err(other_replica(old, "its bytes do not hash to its CommR"));
    }

    let roots = Roots {
        comm_c: files.roots.comm_c,
        comm_r_last: CommRLast(both.new),
    };
    let p_aux = dir.begin(SectorFile::PAux)?;
    p_aux.write(0, &[roots.comm_c.0, roots.comm_r_last.0])?;
    let mut finished: Vec<_> = (0..).map(SectorFile::TreeR).zip(trees).collect();
    finished.extend([(SectorFile::Sealed, sealed), (SectorFile::PAux, p_aux)]);
    let stage = Stage::Updated(roots, comm_r_old);
    dir.commit(finished, |record| record.stage = stage)?;
    Updated::new(dir, roots, comm_r_old, None)
}

/// Opens the folder of an update at its last durable step, after comparing its files with their hashes, and finishes the
/// encoding over the sector in `old` if that was interrupted.
pub fn resume(
    path: &Path,
    old: &Path,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Updated, SealError> {
    resume_on(Arc::new(RealDisk), path, old, plan, progress)
}

/// [`resume`] on a disk of the caller's choice, which holds both folders.
pub fn resume_on(
    disk: Arc<dyn Disk>,
    path: &Path,
    old: &Path,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Updated, SealError> {
    let dir = SectorDir::open(disk, path)?;
    plan.run(|| dir.check_all(progress))?;
    match dir.record().stage.clone() {
        Stage::Encoding(comm_r_old) => encode(dir, old, comm_r_old, plan, progress),
        Stage::Updated(roots, comm_r_old) => Updated::new(dir, roots, comm_r_old, None),
        Stage::UpdateProven(roots, comm_r_old, proof) => {
            Updated::new(dir, roots, comm_r_old, Some(proof))
        }
        _ => Err(SealError::NotUpdated(path.to_owned())),
    }
}

/// Compares an update's files with their hashes. Is any but TreeD damaged, all others are made again over the sector in `old`:
/// the same replica, so the same CommR, and a proof that was made stays good; a repair that is interrupted loses it, and [`resume`]
/// goes on without. Fails, naming the file, when TreeD is damaged,
/// which holds the data.
pub fn repair(
    path: &Path,
    old: &Path,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Updated, SealError> {
    let mut dir = SectorDir::open(Arc::new(RealDisk), path)?;
    let (made, comm_r_old) = match dir.record().stage.clone() {
        Stage::Encoding(comm_r_old) => (None, comm_r_old),
        Stage::Updated(roots, comm_r_old) => (Some((roots, None)), comm_r_old),
        Stage::UpdateProven(roots, comm_r_old, proof) => (Some((roots, Some(proof))), comm_r_old),
        _ => return Err(SealError::NotUpdated(path.to_owned())),
    };
    let damaged = plan.run(|| dir.damaged(progress))?;
    if damaged.contains(&SectorFile::TreeD) {
        let lost = SectorDirError::Lost {
            path: dir.path_of(SectorFile::TreeD),
            what: "it holds the data".to_owned(),
        };
        return Err(lost.into());
    }
    let made = match made {
        Some((roots, proof)) if damaged.is_empty() => {
            return Updated::new(dir, roots, comm_r_old, proof);
        }
        other => other,
    };
    // Before anything is given up.
    plan.require("updating", replica::memory(dir.size(), plan))?;
    // Nothing is given up before the right sector was named.
    old_replica(dir.disk(), old, dir.size(), comm_r_old)?;
    let mut record = dir.record().clone();
    record.stage = Stage::Encoding(comm_r_old);
    record.files.retain(|entry| entry.file == SectorFile::TreeD);
    require_space(dir.path(), disk_left(&record), dir.free_bytes()?)?;
    dir.commit(Vec::new(), |begun| *begun = record)?;
    let mut updated = encode(dir, old, comm_r_old, plan, progress)?;
    match made {
        Some((roots, Some(proof))) if roots == updated.roots => updated.record_proof(proof)?,
        _ => {}
    }
    Ok(updated)
}

impl Updated {
    fn new(
        dir: SectorDir,
        roots: Roots,
        comm_r_old: CommR,
        proof: Option<Vec<u8>>,
    ) -> Result<Updated, SealError> {
        let comm_r_new = comm_r(&roots.comm_c, &roots.comm_r_last)
            .ok_or_else(|| other_replica(dir.path(), "its roots are no field elements"))?;
        let statement = UpdateStatement {
            size: dir.size(),
            comm_r_old,
            comm_d_new: dir.record().comm_d,
            comm_r_new,
        };
        Ok(Updated {
            dir,
            roots,
            statement,
            proof,
        })
    }

    /// What the proof says, once it is made.
    pub fn statement(&self) -> &UpdateStatement {
        &self.statement
    }

    /// The two roots under the new CommR.
    pub fn roots(&self) -> Roots {
        self.roots
    }

    /// One Groth16 proof per partition, joined.
    pub fn proof(&self) -> Option<&[u8]> {
        self.proof.as_deref()
    }

    /// The folder and its record.
    pub fn dir(&self) -> &SectorDir {
        &self.dir
    }

    /// Opens all challenges of all partitions and verifies the openings. Runs on the caller's rayon pool.
    pub fn vanilla(&self, old: &Path) -> Result<VanillaProof, SealError> {
        self.open(old, &NoProgress)
    }

    fn open(&self, old: &Path, progress: &dyn Progress) -> Result<VanillaProof, SealError> {
        let size = self.dir.size();
        let old = old_replica(self.dir.disk(), old, size, self.statement.comm_r_old)?;
        let sources = Sources {
            old: &old,
            tree_d: &self.dir.read(SectorFile::TreeD)?,
            new: &ReplicaFiles::open(self.dir.disk(), self.dir.path(), size)?,
        };
        let UpdateShape {
            partitions,
            challenges,
            ..
        } = size.update_shape();
        progress.start("openings", (partitions * challenges) as u64);
        let vanilla = proof::open(&self.statement, sources, progress)?;
        progress.finish();
        let vanilla = vanilla.expect("the new CommR is a hash of its roots");
        proof::verify(&vanilla).map_err(UpdateError::from)?;
        Ok(vanilla)
    }

    /// One Groth16 proof per partition, accepted by the verifier's front door before it is recorded. What is proven already
    /// is given back as it is.
    pub fn prove(
        mut self,
        old: &Path,
        key: &ProvingKey,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<Updated, SealError> {
        if self.proof.is_some() {
            return Ok(self);
        }
        let needed = proving_memory(CircuitId::update(self.dir.size()));
        plan.require("proving an update", needed)?;
        let proof = plan.run(|| -> Result<Vec<u8>, SealError> {
            let vanilla = self.open(old, progress)?;
            Ok(proof::prove(key, &vanilla, progress)?)
        })?;
        self.record_proof(proof)?;
        Ok(self)
    }

    fn record_proof(&mut self, proof: Vec<u8>) -> Result<(), SealError> {
        let stage = Stage::UpdateProven(self.roots, self.statement.comm_r_old, proof.clone());
        self.dir.commit(Vec::new(), |record| record.stage = stage)?;
        self.proof = Some(proof);
        Ok(())
    }
}

/// Writes the unpadded bytes `range` of an updated sector's data to `out`, with the help of the sector it was made over. The
/// whole sector is decoded and its CommD compared before one byte is handed over, and what is then read again is compared with
/// what was verified: the right bytes or an error, whatever happens to the files meanwhile. Without the old sector, [`crate::seal::unseal_range`] does the same at the price of PC1.
pub fn recover(
    path: &Path,
    old: &Path,
    range: Range<u64>,
    out: &mut dyn Write,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<(), SealError> {
    let record = read_record(&RealDisk, path)?;
    let (Stage::Updated(_, comm_r_old) | Stage::UpdateProven(_, comm_r_old, _)) = record.stage
    else {
        return Err(SealError::NotUpdated(path.to_owned()));
    };
    let size = record.seal.size;
    require_range(size, &range)?;
    plan.require("decoding", replica::memory(size, plan))?;
    let damaged = || SealError::DamagedReplica(path.to_owned());
    let factors = Factors::new(size, &record.comm_d, &comm_r_old);
    let decoder = Decoder {
        new: ReplicaFiles::open(&RealDisk, path, size)?.replica,
        old: old_replica(&RealDisk, old, size, comm_r_old)?.replica,
        inverse: factors
            .and_then(|factors| factors.inverse())
            .ok_or_else(damaged)?,
        chunk: chunk_nodes(size),
    };
    progress.start("decoding", size.nodes());
    let roots = plan.run(|| decoder.roots(size, progress))?;
    progress.finish();
    if tree_d_root(roots.clone()) != record.comm_d.0 {
        return Err(damaged());
    }
    let chunk_bytes = decoder.chunk * NODE_BYTES as u64;
    let blocks = |padded: Range<u64>| -> Result<Vec<u8>, SealError> {
        let chunks = padded.start / chunk_bytes..padded.end.div_ceil(chunk_bytes);
        let skipped = padded.start - chunks.start * chunk_bytes;
        let decoded = chunks.into_par_iter().map(|at| {
            let nodes = decoder.nodes(at)?;
            if tree_d_root(nodes.clone()) == roots[at as usize] {
                Ok(nodes)
            } else {
                Err(damaged())
            }
        });
        let decoded = plan.run(|| decoded.collect::<Result<Vec<_>, SealError>>())?;
        let mut bytes = decoded.concat().into_flattened();
        bytes.drain(..skipped as usize);
        bytes.truncate((padded.end - padded.start) as usize);
        Ok(bytes)
    };
    unpad_range(range, blocks, path, out)
}

struct Decoder {
    new: NodeFile,
    old: NodeFile,
    inverse: Factors,
    /// Nodes decoded and hashed per piece of parallel work; a power of two that divides the sector.
    chunk: u64,
}

impl Decoder {
    /// The data of one chunk.
    fn nodes(&self, at: u64) -> Result<Vec<Node>, TreeError> {
        let mut nodes = vec![[0u8; NODE_BYTES]; self.chunk as usize];
        let first = at * self.chunk;
        replica::decode_into(&self.new, &self.old, first, &mut nodes, &self.inverse)?;
        Ok(nodes)
    }

    /// Roots over the data of all chunks.
    fn roots(&self, size: SectorSize, progress: &dyn Progress) -> Result<Vec<Node>, TreeError> {
        let roots = (0..size.nodes() / self.chunk).into_par_iter().map(|at| {
            let nodes = self.nodes(at)?;
            progress.advance(self.chunk);
            Ok(tree_d_root(nodes))
        });
        roots.collect()
    }
}

/// The old sector's files, if its roots are those that were updated.
fn old_replica(
    disk: &dyn Disk,
    old: &Path,
    size: SectorSize,
    comm_r_old: CommR,
) -> Result<ReplicaFiles, SealError> {
    let files = ReplicaFiles::open(disk, old, size)?;
    if comm_r(&files.roots.comm_c, &files.roots.comm_r_last) == Some(comm_r_old) {
        Ok(files)
    } else {
        Err(other_replica(
            old,
            "its p_aux does not hash to the old CommR",
        ))
    }
}

fn other_replica(path: &Path, why: &str) -> SealError {
    SealError::OtherReplica {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn factors(dir: &SectorDir, comm_r_old: CommR) -> Result<Factors, SealError> {
    Factors::new(dir.size(), &dir.record().comm_d, &comm_r_old)
        .ok_or_else(|| other_replica(dir.path(), "a commitment in its record is no field element"))
}

#[cfg(test)]
pub(crate) mod tests;
