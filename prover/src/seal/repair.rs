//! Repair: damaged files made again in their places, from those that are whole.
//!
//! Walk: beside the stages, when [`super::resume`] names a damaged file. Everything but the data follows from the request and the
//! data, so every file can be made again, byte by byte, and its hash in the record says that it was. The record itself does
//! not change: a sector keeps its stage, and with it CommR, seed and proof.
//!
//! | damaged | made from |
//! |---|---|
//! | a layer | the layer before it, and the parents |
//! | `unsealed` | TreeD's first row; or the replica and the last layer |
//! | TreeD | `unsealed` |
//! | TreeC | the layers |
//! | `sealed` | `unsealed` (or TreeD's first row) and the last layer, which is computed where it was trimmed |
//! | TreeR | the replica |
//! | `p_aux` | the record |
//!
//! Of a sector that is sealed, damaged layers, TreeC and TreeD are forgotten instead, since nothing needs them any more, and so is
//! `unsealed` where neither TreeD nor the last layer could give it back: [`super::unseal_range`] can.
//! Memory and disk: asked for, by what has to be made, before anything is touched.
//! Crash: a file takes its place once it is durable and has the recorded hash; until then what is damaged stays listed, and
//! the next repair goes on with what is left.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::label::{has_room, parents_for, write_tree_d};
use super::pipeline::{AnyStage, begin_trees, numbered, require_openings, stage_of};
use super::unseal::last_layer;
use super::{SLACK_BYTES, SealError, label_memory, replicate_memory, require_space};
use crate::machine::Plan;
use crate::merkle::build::TreeError;
use crate::merkle::shape;
use crate::pages::Nodes;
use crate::porep::column;
use crate::porep::graph::Graph;
use crate::porep::label::{self, SectorLayer};
use crate::porep::parents::ParentTable;
use crate::porep::replica;
use crate::progress::Progress;
use crate::sector_dir::disk::{Disk, NodeFile, RealDisk};
use crate::sector_dir::record::{SectorFile, Stage};
use crate::sector_dir::{SectorDir, SectorDirError};
use crate::spec::{NODE_BYTES, SectorSize};

/// Nodes copied or decoded per piece of parallel work.
const CHUNK: u64 = 1 << 12;

/// Makes damaged files again where they lie, and opens the sector at the stage it had, with the CommR, seed and proof it had.
/// What a sealed sector does not need any more is forgotten instead. Fails, naming the file, when what is left cannot make
/// it again. An update has a repair of its own, which needs the sector that it was made over:
/// [`crate::update::sector::repair`].
///
/// Memory and disk: what it takes is asked for before anything is touched.
pub fn repair(path: &Path, plan: &Plan, progress: &dyn Progress) -> Result<AnyStage, SealError> {
    repair_on(Arc::new(RealDisk), path, plan, progress)
}

/// [`repair`] on a disk of the caller's choice.
pub fn repair_on(
    disk: Arc<dyn Disk>,
    path: &Path,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<AnyStage, SealError> {
    let dir = SectorDir::open(disk, path)?;
    if dir.record().stage.is_update() {
        return Err(SealError::Updated(path.to_owned()));
    }
    require_openings(&dir, plan)?;
    let bad = plan.run(|| dir.damaged(progress))?;
    let mut dir = dir;
    if !bad.is_empty() {
        let work = Work::new(&dir, &bad)?;
        let most = work.require(&dir, plan)?;
        let plan = &beside_list(plan, &dir, most);
        plan.run(|| work.run(&mut dir, plan, progress))?;
    }
    stage_of(dir, plan, progress)
}

/// The plan without a list of parents on disk, if that would take the room that was asked for.
fn beside_list(plan: &Plan, dir: &SectorDir, most: u64) -> Plan {
    let seal = dir.record().seal;
    let graph = Graph::new(seal.size, &seal.porep_id(), seal.api_version());
    match plan.parent_cache(ParentTable::bytes(&graph)) {
        Some(cache) if !has_room(cache, &graph, dir, most) => {
            plan.clone().with_parent_cache(cache, 0)
        }
        _ => plan.clone(),
    }
}

/// Where damaged data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    TreeD,
    Replica,
}

/// What has to be done about the damaged files.
#[derive(Debug, Default)]
struct Work {
    /// Nothing needs them any more.
    forgotten: Vec<SectorFile>,
    p_aux: bool,
    /// Ascending.
    layers: Vec<u32>,
    unsealed: Option<Source>,
    tree_d: bool,
    tree_c: Vec<u32>,
    sealed: bool,
    tree_r: Vec<u32>,
    /// The last layer is needed and nowhere on disk.
    computes_key: bool,
}

impl Work {
    /// Decides, or names the file that cannot be made again.
    fn new(dir: &SectorDir, bad: &[SectorFile]) -> Result<Self, SealError> {
        let is_sealed = matches!(dir.record().stage, Stage::Sealed(..));
        let whole = |file: SectorFile| dir.has(file) && !bad.contains(&file);
        let last = SectorFile::Layer(dir.size().layers() as u32);
        // Damaged layers of any other sector are made again.
        let key = whole(last) || !is_sealed && dir.has(last);
        let mut work = Self::default();
        for &file in bad {
            match file {
                SectorFile::Layer(_) | SectorFile::TreeC(_) | SectorFile::TreeD if is_sealed => {
                    work.forgotten.push(file);
                }
                SectorFile::Layer(layer) => work.layers.push(layer),
                SectorFile::TreeC(i) => work.tree_c.push(i),
                SectorFile::TreeR(i) => work.tree_r.push(i),
                SectorFile::PAux => work.p_aux = true,
                SectorFile::TreeD => work.tree_d = true,
                SectorFile::Sealed => work.sealed = true,
                SectorFile::Unsealed if whole(SectorFile::TreeD) => {
                    work.unsealed = Some(Source::TreeD);
                }
                SectorFile::Unsealed if whole(SectorFile::Sealed) && key => {
                    work.unsealed = Some(Source::Replica);
                }
                SectorFile::Unsealed if whole(SectorFile::Sealed) && is_sealed => {
                    work.forgotten.push(file);
                }
                SectorFile::Unsealed => return Err(lost(dir, file)),
            }
        }
        let has_data = whole(SectorFile::Unsealed) || whole(SectorFile::TreeD);
        if work.sealed && !has_data {
            return Err(lost(dir, SectorFile::Sealed));
        }
        work.computes_key = work.sealed && !key;
        work.layers.sort_unstable();
        Ok(work)
    }

    /// Asks for all that it will take; says how many bytes of the disk.
    fn require(&self, dir: &SectorDir, plan: &Plan) -> Result<u64, SealError> {
        let size = dir.size();
        if !self.layers.is_empty() || self.computes_key {
            plan.require("labelling", label_memory(size))?;
        }
        let hashes = !self.tree_c.is_empty() || self.sealed || !self.tree_r.is_empty();
        if hashes || self.unsealed.is_some() {
            plan.require("replicating", replicate_memory(size, plan))?;
        }
        // What is made lies beside what it replaces.
        let trees = size.shape().base_trees as u64;
        let when = |is_made: bool, bytes: u64| u64::from(is_made) * bytes;
        let tree_r = when(
            self.sealed || !self.tree_r.is_empty(),
            trees * shape::tree_r_bytes(size),
        );
        let steps = [
            when(!self.layers.is_empty(), size.bytes()),
            when(self.unsealed.is_some(), size.bytes()),
            when(self.tree_d, shape::tree_d_bytes(size)),
            when(!self.tree_c.is_empty(), trees * shape::tree_c_bytes(size)),
            when(self.sealed, size.bytes()) + when(self.computes_key, size.bytes()) + tree_r,
        ];
        let most = match steps.into_iter().max() {
            Some(most) if most > 0 => most + SLACK_BYTES,
            _ => 0,
        };
        if most > 0 {
            require_space(dir.path(), most, dir.free_bytes()?)?;
        }
        Ok(most)
    }

    /// In an order in which each step finds what it reads.
    fn run(
        &self,
        dir: &mut SectorDir,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<(), SealError> {
        let size = dir.size();
        if !self.forgotten.is_empty() {
            tracing::info!(dir = %dir.path().display(), files = ?self.forgotten, "damaged files of a sealed sector are forgotten");
            dir.discard(|file| self.forgotten.contains(&file))?;
        }
        if self.p_aux {
            put_back_p_aux(dir)?;
        }
        if !self.layers.is_empty() {
            put_back_layers(dir, &self.layers, plan, progress)?;
        }
        match self.unsealed {
            Some(Source::TreeD) => copy_data(dir, progress)?,
            Some(Source::Replica) => decode_data(dir, progress)?,
            None => {}
        }
        if self.tree_d {
            progress.start("TreeD made again", size.nodes() - 1);
            dir.put_back(SectorFile::TreeD, &write_tree_d(dir, progress)?)?;
            progress.finish();
        }
        if !self.tree_c.is_empty() {
            let layers = (1..=size.layers() as u32)
                .map(|layer| dir.read(SectorFile::Layer(layer)))
                .collect::<Result<Vec<_>, _>>()?;
            let trees = begin_trees(dir, SectorFile::TreeC)?;
            progress.start("TreeC made again", column::build_units(size));
            column::build_tree_c(&layers, &trees, size, progress)?;
            progress.finish();
            put_back_some(dir, SectorFile::TreeC, trees, &self.tree_c)?;
            // Those that were whole, before the next step takes room.
            dir.sweep_begun()?;
        }
        if self.sealed {
            self.put_back_replica(dir, plan, progress)?;
        } else if !self.tree_r.is_empty() {
            self.put_back_tree_r(dir, progress)?;
        }
        // Trees that were made beside the damaged ones, and a computed layer.
        Ok(dir.sweep_begun()?)
    }

    fn put_back_replica(
        &self,
        dir: &SectorDir,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<(), SealError> {
        let size = dir.size();
        let last = SectorFile::Layer(size.layers() as u32);
        let key = if self.computes_key {
            let file = dir.begin(last)?;
            let (labels, _) = last_layer(dir.record(), plan, progress);
            file.write(0, &labels)?;
            file
        } else {
            dir.read(last)?
        };
        // TreeD begins with the data.
        let data = match dir.has(SectorFile::Unsealed) {
            true => dir.read(SectorFile::Unsealed)?,
            false => dir.read(SectorFile::TreeD)?,
        };
        let sealed = dir.begin(SectorFile::Sealed)?;
        let trees = begin_trees(dir, SectorFile::TreeR)?;
        progress.start("replica made again", size.nodes());
        replica::build_replica(&data, &key, &sealed, &trees, size, progress)?;
        progress.finish();
        put_back_some(dir, SectorFile::TreeR, trees, &self.tree_r)?;
        Ok(dir.put_back(SectorFile::Sealed, &sealed)?)
    }

    fn put_back_tree_r(&self, dir: &SectorDir, progress: &dyn Progress) -> Result<(), SealError> {
        let size = dir.size();
        let sealed = dir.read(SectorFile::Sealed)?;
        let trees = begin_trees(dir, SectorFile::TreeR)?;
        progress.start("TreeR made again", size.nodes());
        replica::reduce_replica(&trees, size, progress, |first, nodes| {
            sealed.read(first, nodes)?;
            match nodes.iter().position(|node| replica::read(node).is_none()) {
                Some(at) => Err(TreeError::not_canonical(&sealed, first + at as u64)),
                None => Ok(()),
            }
        })?;
        progress.finish();
        put_back_some(dir, SectorFile::TreeR, trees, &self.tree_r)
    }
}

/// Puts the trees with these numbers in their places; the others were whole.
fn put_back_some(
    dir: &SectorDir,
    kind: fn(u32) -> SectorFile,
    trees: Vec<NodeFile>,
    bad: &[u32],
) -> Result<(), SealError> {
    for (file, tree) in numbered(kind, trees) {
        if bad.iter().any(|&i| kind(i) == file) {
            dir.put_back(file, &tree)?;
        }
    }
    Ok(())
}

fn put_back_p_aux(dir: &SectorDir) -> Result<(), SealError> {
    let (Stage::Replicated(roots) | Stage::Challenged(roots, _) | Stage::Sealed(roots, ..)) =
        dir.record().stage
    else {
        return Err(lost(dir, SectorFile::PAux));
    };
    let p_aux = dir.begin(SectorFile::PAux)?;
    p_aux.write(0, &[roots.comm_c.0, roots.comm_r_last.0])?;
    Ok(dir.put_back(SectorFile::PAux, &p_aux)?)
}

/// Ascending, so that each finds the layer before it whole.
fn put_back_layers(
    dir: &SectorDir,
    layers: &[u32],
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<(), SealError> {
    let record = dir.record();
    let size = dir.size();
    let room = plan.memory().saturating_sub(label_memory(size));
    let parents = parents_for(record.seal, room, plan, progress);
    progress.start("layers made again", size.nodes() * layers.len() as u64);
    let mut labels = Nodes::zeroed(size.nodes() as usize);
    let mut before = Nodes::zeroed(size.nodes() as usize);
    for &layer in layers {
        if layer > 1 {
            dir.read(SectorFile::Layer(layer - 1))?
                .read(0, &mut before)?;
        }
        let sector = SectorLayer {
            replica_id: &record.replica_id,
            previous: (layer > 1).then_some(&before[..]),
            out: &mut labels,
        };
        label::fill_layer(layer, &parents, &mut [sector], progress);
        let file = dir.begin(SectorFile::Layer(layer))?;
        file.write(0, &labels)?;
        dir.put_back(SectorFile::Layer(layer), &file)?;
    }
    progress.finish();
    Ok(())
}

/// `unsealed` from TreeD's first row.
fn copy_data(dir: &SectorDir, progress: &dyn Progress) -> Result<(), SealError> {
    let tree_d = dir.read(SectorFile::TreeD)?;
    put_back_data(dir, progress, |first, nodes| Ok(tree_d.read(first, nodes)?))
}

/// `unsealed` from the replica and its key.
fn decode_data(dir: &SectorDir, progress: &dyn Progress) -> Result<(), SealError> {
    let sealed = dir.read(SectorFile::Sealed)?;
    let key = dir.read(SectorFile::Layer(dir.size().layers() as u32))?;
    put_back_data(dir, progress, |first, nodes| {
        let mut keys = vec![[0u8; NODE_BYTES]; nodes.len()];
        sealed.read(first, nodes)?;
        key.read(first, &mut keys)?;
        for (at, (node, key)) in (first..).zip(nodes.iter_mut().zip(&keys)) {
            *node =
                replica::decode(node, key).ok_or_else(|| TreeError::not_canonical(&sealed, at))?;
        }
        Ok(())
    })
}

fn put_back_data(
    dir: &SectorDir,
    progress: &dyn Progress,
    load: impl Fn(u64, &mut [[u8; NODE_BYTES]]) -> Result<(), SealError> + Sync,
) -> Result<(), SealError> {
    let size: SectorSize = dir.size();
    let chunk = CHUNK.min(size.nodes());
    let file = dir.begin(SectorFile::Unsealed)?;
    progress.start("data made again", size.nodes());
    (0..size.nodes() / chunk)
        .into_par_iter()
        .try_for_each(|at| {
            let mut nodes = vec![[0u8; NODE_BYTES]; chunk as usize];
            load(at * chunk, &mut nodes)?;
            file.write(at * chunk, &nodes)?;
            progress.advance(chunk);
            Ok::<(), SealError>(())
        })?;
    progress.finish();
    Ok(dir.put_back(SectorFile::Unsealed, &file)?)
}

/// The error for a file that what is left cannot make again.
fn lost(dir: &SectorDir, file: SectorFile) -> SealError {
    SectorDirError::Lost {
        path: dir.path_of(file),
        what: "what it could be made from is damaged or gone, too".to_owned(),
    }
    .into()
}
