//! PC1: TreeD and the layers of one sector, or of several in step.
//!
//! Walk: after [`super::create`], before [`Labeled::replicate`]. Spec: proofs.md §2.6, §3.3.
//! One sector is one chain of hashes and cannot use a second core; what another core can do meanwhile is TreeD during the
//! first layer, and writing, syncing and hashing each finished layer during the next one. Several sectors
//! ([`label_all`]) are labelled in step on one core, up to [`IN_STEP`] of them, and groups of them on different cores.
//! Memory: two layers a sector and buffers to write them with ([`further_memory`]), and the parents once ([`ParentLists`]), in memory only where the plan has room left.
//! Crash: each layer is durable before the one after it is complete; a resumed run goes on behind the last durable layer.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::pipeline::{Labeled, Packed};
use super::{SealError, disk_left, label_memory, require_space};
use crate::commitment::CommD;
use crate::ids::ReplicaId;
use crate::machine::Plan;
use crate::merkle::build;
use crate::pages::Nodes;
use crate::porep::graph::Graph;
use crate::porep::label::{self, SectorLayer};
use crate::porep::parents::{ParentLists, ParentTable};
use crate::progress::Progress;
use crate::sector_dir::SectorDir;
use crate::sector_dir::disk::NodeFile;
use crate::sector_dir::record::{SectorFile, Stage};
use crate::spec::{NODE_BYTES, RegisteredSeal, SectorSize};

/// Sectors labelled in step by one core: more chains than four find no idle unit in it.
const IN_STEP: usize = 4;
/// Nodes copied per read when TreeD's leaf row is filled.
const COPY_NODES: u64 = 1 << 14;

/// Bytes of memory that each sector after the first takes: two layers, buffers that hash and copy its files, and its share of
/// the windows of parents that are read for each group.
pub fn further_memory(size: SectorSize) -> u64 {
    2 * size.bytes() + (2 << 20)
}

impl Packed {
    /// PC1: TreeD, and the layers one after another. Goes on behind the last finished layer.
    pub fn label(self, plan: &Plan, progress: &dyn Progress) -> Result<Labeled, SealError> {
        label_all(vec![self], plan, progress)
            .pop()
            .expect("one result for one sector")
    }
}

/// PC1 of several sectors at once: the throughput of a core nearly doubles when four share it.
///
/// One result for each sector, in the order given; a sector that fails does not hold up the others. Sectors of one proof
/// type that stand at the same layer go in step, as many at a time as the plan has memory for.
pub fn label_all(
    sectors: Vec<Packed>,
    plan: &Plan,
    progress: &dyn Progress,
) -> Vec<Result<Labeled, SealError>> {
    let mut results: Vec<Option<Result<Labeled, SealError>>> = Vec::new();
    let mut cohorts: BTreeMap<(RegisteredSeal, u32), Vec<(usize, SectorDir)>> = BTreeMap::new();
    let mut promised = BTreeMap::new();
    for (at, Packed { dir }) in sectors.into_iter().enumerate() {
        results.push(None);
        match admit(&dir, plan, &mut promised) {
            Ok(()) => {
                let cohort = (dir.record().seal, finished_layers(&dir));
                cohorts.entry(cohort).or_default().push((at, dir));
            }
            Err(error) => results[at] = Some(Err(error)),
        }
    }
    for ((seal, finished), cohort) in cohorts {
        for (at, result) in label_cohort(seal, finished, cohort, plan, progress) {
            results[at] = Some(result);
        }
    }
    results
        .into_iter()
        .map(|result| result.expect("every sector was refused or belongs to a cohort"))
        .collect()
}

/// Refuses before the first byte is written. Sectors whose folders lie side by side share a disk: `promised` is what those
/// before this one will write there.
fn admit(
    dir: &SectorDir,
    plan: &Plan,
    promised: &mut BTreeMap<Option<PathBuf>, u64>,
) -> Result<(), SealError> {
    plan.require("labelling", label_memory(dir.size()))?;
    let beside = promised.entry(dir.path().parent().map(PathBuf::from));
    let beside = beside.or_default();
    let needed = beside.saturating_add(disk_left(dir.record()));
    require_space(dir.path(), needed, dir.free_bytes()?)?;
    *beside = needed;
    Ok(())
}

/// Whether the parents' list is there, lies on another disk, or fits beside the bytes that sectors like this one will still write.
/// It saves time and costs only that, so the sectors go first.
pub(super) fn has_room(cache: &Path, graph: &Graph, dir: &SectorDir, left: u64) -> bool {
    let device = |path: &Path| {
        let there = path.ancestors().find(|path| path.exists());
        Some(there?.metadata().ok()?.dev())
    };
    let beside = device(cache) == device(dir.path()) && !ParentLists::are_kept(graph, Some(cache));
    let needed = left.saturating_add(ParentTable::bytes(graph));
    let has_room = !beside || dir.free_bytes().is_ok_and(|free| free >= needed);
    if !has_room {
        tracing::warn!(
            folder = %cache.display(),
            needed_mib = needed.div_ceil(1 << 20),
            "the parents' list is not kept: the sectors need the disk's room"
        );
    }
    has_room
}

fn finished_layers(dir: &SectorDir) -> u32 {
    (1..=dir.size().layers() as u32)
        .take_while(|&layer| dir.has(SectorFile::Layer(layer)))
        .count() as u32
}

/// Nodes that are still to be hashed.
fn units_of(dir: &SectorDir) -> u64 {
    let size = dir.size();
    let layers = u64::from(size.layers() as u32 - finished_layers(dir));
    let tree_d = u64::from(!dir.has(SectorFile::TreeD)) * (size.nodes() - 1);
    layers * size.nodes() + tree_d
}

/// Sectors of one type at one layer, in rounds that fit the plan's memory, each round in groups that share a core.
fn label_cohort(
    seal: RegisteredSeal,
    finished: u32,
    mut cohort: Vec<(usize, SectorDir)>,
    plan: &Plan,
    progress: &dyn Progress,
) -> Vec<(usize, Result<Labeled, SealError>)> {
    let size = seal.size;
    let further = further_memory(size);
    let fit = (plan.memory().saturating_sub(label_memory(size)) / further + 1) as usize;
    let round = cohort.len().min(fit).min(IN_STEP * plan.threads());
    let group = round.div_ceil(plan.threads());
    let room = plan
        .memory()
        .saturating_sub(label_memory(size) + (round as u64 - 1) * further);
    let graph = Graph::new(size, &seal.porep_id(), seal.api_version());
    let layers = size.layers() as u32;
    let left = cohort.iter().map(|(_, dir)| disk_left(dir.record()));
    let left = left.fold(0, u64::saturating_add);
    let cache = plan
        .parent_cache(ParentTable::bytes(&graph))
        .filter(|cache| has_room(cache, &graph, &cohort[0].1, left));
    plan.run(|| {
        // Written to their file beside the labels, when they had to be made.
        let parents = (finished < layers)
            .then(|| ParentLists::prepare_unsaved(graph.clone(), room, cache, progress));
        let units = cohort.iter().map(|(_, dir)| units_of(dir)).sum();
        progress.start("PC1: labels and TreeD", units);
        let mut results = Vec::new();
        while !cohort.is_empty() {
            let rest = cohort.split_off(round.min(cohort.len()));
            let now = std::mem::replace(&mut cohort, rest);
            let groups = groups(now, group, finished);
            let label = || -> Vec<Vec<_>> {
                let fill = |mut group: Vec<Filling>| {
                    if let Some(parents) = &parents {
                        for layer in finished + 1..=layers {
                            fill_and_keep(&mut group, layer, parents, progress);
                        }
                    }
                    group.into_iter().map(|f| f.finish(progress)).collect()
                };
                groups.into_par_iter().map(fill).collect()
            };
            // A thread of its own: it waits for the disk more than it computes.
            let done = std::thread::scope(|scope| {
                scope.spawn(|| parents.as_ref().map(|parents| parents.save(&graph)));
                label()
            });
            results.extend(done.into_iter().flatten());
        }
        progress.finish();
        results
    })
}

/// Sectors in groups of so many.
fn groups(mut sectors: Vec<(usize, SectorDir)>, size: usize, finished: u32) -> Vec<Vec<Filling>> {
    let mut groups = Vec::new();
    while !sectors.is_empty() {
        let rest = sectors.split_off(size.min(sectors.len()));
        let group = std::mem::replace(&mut sectors, rest).into_iter();
        groups.push(
            group
                .map(|(at, dir)| Filling::new(at, dir, finished))
                .collect(),
        );
    }
    groups
}

/// One sector of a group.
struct Filling {
    at: usize,
    dir: SectorDir,
    replica_id: ReplicaId,
    /// The last layer that is complete, and its number.
    previous: Option<(u32, Nodes)>,
    /// Room for the layer after it.
    next: Nodes,
    /// Files that are written and not yet durable.
    pending: Vec<(SectorFile, NodeFile)>,
    failed: Option<SealError>,
}

/// One layer of every sector of the group, while another thread keeps what was made before.
fn fill_and_keep(
    group: &mut [Filling],
    layer: u32,
    parents: &ParentLists,
    progress: &dyn Progress,
) {
    let (mut sectors, mut keeping) = (Vec::new(), Vec::new());
    for filling in group.iter_mut().filter(|filling| filling.failed.is_none()) {
        let previous = filling.previous.as_ref();
        sectors.push(SectorLayer {
            replica_id: &filling.replica_id,
            previous: previous.map(|(_, labels)| &labels[..]),
            out: &mut filling.next,
        });
        keeping.push((
            &mut filling.dir,
            previous,
            &mut filling.pending,
            &mut filling.failed,
        ));
    }
    // Written by the pool and made durable by threads of their own, which wait for the disk: on one thread the next layer
    // would wait with them.
    std::thread::scope(|scope| {
        let keep = || {
            for (dir, previous, pending, failed) in keeping {
                match write(dir, previous, pending, progress) {
                    Err(error) => *failed = Some(error),
                    // TreeD by itself waits for the layer after it.
                    Ok(()) if previous.is_some() && !pending.is_empty() => {
                        scope.spawn(move || {
                            let done = dir.commit(std::mem::take(pending), |_| ());
                            *failed = done.err().map(SealError::from);
                        });
                    }
                    Ok(()) => {}
                }
            }
        };
        rayon::join(keep, || {
            label::fill_layer(layer, parents, &mut sectors, progress);
        });
    });
    for filling in group.iter_mut().filter(|filling| filling.failed.is_none()) {
        let nodes = filling.next.len();
        let before = filling.previous.take();
        let next = before.map_or_else(|| Nodes::zeroed(nodes), |(_, labels)| labels);
        filling.previous = Some((layer, std::mem::replace(&mut filling.next, next)));
    }
}

/// TreeD, which needs the data alone, and the last complete layer.
fn write(
    dir: &mut SectorDir,
    complete: Option<&(u32, Nodes)>,
    pending: &mut Vec<(SectorFile, NodeFile)>,
    progress: &dyn Progress,
) -> Result<(), SealError> {
    if !dir.has(SectorFile::TreeD) && pending.is_empty() {
        pending.push((SectorFile::TreeD, write_tree_d(dir, progress)?));
    }
    if let Some((layer, labels)) = complete
        && !dir.has(SectorFile::Layer(*layer))
    {
        let file = dir.begin(SectorFile::Layer(*layer))?;
        file.write(0, labels)?;
        pending.push((SectorFile::Layer(*layer), file));
    }
    Ok(())
}

impl Filling {
    fn new(at: usize, dir: SectorDir, finished: u32) -> Self {
        let layers = dir.size().layers() as u32;
        let nodes = if finished < layers {
            dir.size().nodes() as usize
        } else {
            0
        };
        let mut filling = Self {
            at,
            replica_id: dir.record().replica_id,
            dir,
            previous: None,
            next: Nodes::zeroed(nodes),
            pending: Vec::new(),
            failed: None,
        };
        if finished > 0 && finished < layers {
            let mut labels = Nodes::zeroed(nodes);
            let read = filling.dir.read(SectorFile::Layer(finished));
            match read.and_then(|file| Ok(file.read(0, &mut labels)?)) {
                Ok(()) => filling.previous = Some((finished, labels)),
                Err(error) => filling.failed = Some(error.into()),
            }
        }
        filling
    }

    /// Keeps the last layer and records the stage.
    fn finish(self, progress: &dyn Progress) -> (usize, Result<Labeled, SealError>) {
        (self.at, self.complete(progress))
    }

    fn complete(mut self, progress: &dyn Progress) -> Result<Labeled, SealError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let last = self.previous.as_ref();
        write(&mut self.dir, last, &mut self.pending, progress)?;
        self.dir
            .commit(self.pending, |record| record.stage = Stage::Labeled)?;
        Ok(Labeled { dir: self.dir })
    }
}

/// TreeD over the unsealed file; its root must be CommD.
pub(super) fn write_tree_d(
    dir: &SectorDir,
    progress: &dyn Progress,
) -> Result<NodeFile, SealError> {
    let size = dir.size();
    let data = dir.read(SectorFile::Unsealed)?;
    let tree = dir.begin(SectorFile::TreeD)?;
    let chunk = COPY_NODES.min(size.nodes());
    let mut buffer = vec![[0u8; NODE_BYTES]; chunk as usize];
    for first in (0..size.nodes()).step_by(chunk as usize) {
        data.read(first, &mut buffer)?;
        tree.write(first, &buffer)?;
    }
    let found = CommD(build::finish_tree_d(&tree, size, progress)?);
    let expected = dir.record().comm_d;
    if found == expected {
        Ok(tree)
    } else {
        Err(SealError::WrongData {
            path: dir.path_of(SectorFile::Unsealed),
            expected,
            found,
        })
    }
}

/// The parents of sectors of this type, in memory where they fit into `room` bytes.
pub(super) fn parents_for(
    seal: RegisteredSeal,
    room: u64,
    plan: &Plan,
    progress: &dyn Progress,
) -> ParentLists {
    let graph = Graph::new(seal.size, &seal.porep_id(), seal.api_version());
    let cache = plan.parent_cache(ParentTable::bytes(&graph));
    ParentLists::prepare(graph, room, cache, progress)
}
