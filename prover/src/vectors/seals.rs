//! Seals a size's cases through the product's own steps and compares every commitment, node and file.
//!
//! The pipeline in [`crate::seal`] takes registered proof types only; the vectors' porep ids are arbitrary, so the same
//! steps are called here one by one, with files named as Filecoin names them.

use super::fields::{Fault, Fields, Rule};
use super::{Group, Options};
use crate::commitment::{CommC, CommD, CommP, CommR, CommRLast};
use crate::estimate::parents_bytes;
use crate::ids::{Node, PorepId, ProverId, ReplicaId, SectorNumber, Seed, Ticket};
use crate::merkle::build;
use crate::piece::commp::CommpHasher;
use crate::piece::layout::{self, Layout};
use crate::piece::size::{PaddedPieceSize, UnpaddedPieceSize};
use crate::piece::{PieceInfo, commp};
use crate::porep::graph::Graph;
use crate::porep::label::{SectorLayer, fill_layer};
use crate::porep::parents::ParentLists;
use crate::porep::{column, replica, replica_id};
use crate::progress::{NoProgress, Progress};
use crate::seal::label_memory;
use crate::sector_dir::disk::{DiskError, NodeFile, RealDisk};
use crate::sector_dir::record::SectorFile;
use crate::spec::{NODE_BYTES, SectorSize};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A sealed case: what the size's proofs refer to.
pub(super) struct Sealed {
    pub(super) name: String,
    pub(super) size: SectorSize,
    pub(super) sector: SectorNumber,
    pub(super) graph: Graph,
    pub(super) replica_id: ReplicaId,
    pub(super) seed: Seed,
    pub(super) comm_d: CommD,
    pub(super) comm_c: CommC,
    pub(super) comm_r_last: CommRLast,
    pub(super) comm_r: CommR,
    #[cfg(test)]
    pub(super) layers: Vec<NodeFile>,
    pub(super) tree_d: NodeFile,
    pub(super) tree_c: Vec<NodeFile>,
    pub(super) tree_r: Vec<NodeFile>,
    pub(super) replica: NodeFile,
    /// Removed with its files when the case is dropped.
    _folder: Folder,
}

/// Most memory for a list of parents. It pays for itself with the second layer; at 512 MiB it would need 900 MiB.
const PARENTS_ROOM: u64 = 512 << 20;

/// Bytes of memory that sealing a case of this size takes.
pub(super) fn memory(size: SectorSize) -> u64 {
    let parents = Some(parents_bytes(size)).filter(|bytes| *bytes <= PARENTS_ROOM);
    label_memory(size) + parents.unwrap_or(0)
}

/// Seals every case that is well-formed.
pub(super) fn run(
    fields: &Fields<'_>,
    size: SectorSize,
    options: &Options,
    progress: &dyn Progress,
    group: &mut Group,
) -> Vec<Sealed> {
    let cases = match fields.objects("cases") {
        Ok(cases) => cases,
        Err(fault) => {
            group.fail(&fault.at, fault.what);
            return Vec::new();
        }
    };
    // Two layers, and one unit for everything after them.
    let total = cases.len() * (size.layers() + 1);
    progress.start(
        "sealing vector cases",
        u64::try_from(total).expect("a small number of cases"),
    );
    let sealed = cases
        .iter()
        .filter_map(|case| {
            group.entry(case, |group| {
                Case::read(case, size, group)?.seal(options, progress, group)
            })
        })
        .collect();
    progress.finish();
    sealed
}

/// A case's inputs.
struct Case<'a, 'b> {
    fields: &'b Fields<'a>,
    size: SectorSize,
    name: String,
    sector: SectorNumber,
    replica_id: ReplicaId,
    seed: Seed,
    graph: Graph,
    pieces: Vec<(Rule, u64)>,
    layout: Layout,
}

impl<'a, 'b> Case<'a, 'b> {
    fn read(fields: &'b Fields<'a>, size: SectorSize, group: &mut Group) -> Result<Self, Fault> {
        group.equal(
            &fields.place("sector_size"),
            fields.u64("sector_size")?,
            size.bytes(),
        );
        let (pieces, layout) = read_pieces(fields, size, group)?;
        group.equal(
            &fields.place("comm_d"),
            CommD(fields.bytes32("comm_d")?),
            layout.comm_d,
        );
        let sector = SectorNumber(fields.u64("sector_id")?);
        let prover = ProverId(fields.bytes32("prover_id")?);
        let (ticket, seed) = (
            Ticket(fields.bytes32("ticket")?),
            Seed(fields.bytes32("seed")?),
        );
        check_rules(
            fields,
            group,
            &[
                ("prover_id", prover.0),
                ("ticket", ticket.0),
                ("seed", seed.0),
            ],
        )?;
        let porep_id = PorepId(fields.bytes32("porep_id")?);
        let replica_id = replica_id(&prover, sector, &ticket, &layout.comm_d, &porep_id);
        group.equal(
            &fields.place("replica_id"),
            ReplicaId(fields.bytes32("replica_id")?),
            replica_id,
        );
        let graph = Graph::new(size, &porep_id, fields.api_version()?);
        let name = fields.text("name")?.to_owned();
        // Prose about the files' layout.
        fields.optional("cache_files_note");
        Ok(Self {
            fields,
            size,
            name,
            sector,
            replica_id,
            seed,
            graph,
            pieces,
            layout,
        })
    }

    fn seal(
        self,
        options: &Options,
        progress: &dyn Progress,
        group: &mut Group,
    ) -> Result<Sealed, Fault> {
        let disk = |e: DiskError| Fault::new(&self.fields.at, e);
        let folder = Folder::new(&options.scratch).map_err(|e| Fault::new(&self.fields.at, e))?;
        let unsealed = self.stage(&folder, group)?;

        let tree_d = folder.create(self.size, SectorFile::TreeD).map_err(disk)?;
        copy_nodes(&unsealed, &tree_d, self.size.nodes()).map_err(disk)?;
        let root =
            build::finish_tree_d(&tree_d, self.size, &NoProgress).map_err(|e| self.fault(e))?;
        group.equal(
            &format!("{} TreeD root", self.fields.at),
            self.layout.comm_d,
            CommD(root),
        );

        let layers = self.label(&folder, progress, group)?;
        let key = layers.last().expect("every size has layers");

        let tree_c = folder
            .create_trees(self.size, SectorFile::TreeC)
            .map_err(disk)?;
        let root = column::build_tree_c(&layers, &tree_c, self.size, &NoProgress)
            .map_err(|e| self.fault(e))?;
        let comm_c = CommC(root);
        group.equal(
            &self.fields.place("comm_c"),
            CommC(self.fields.bytes32("comm_c")?),
            comm_c,
        );

        let sealed = folder.create(self.size, SectorFile::Sealed).map_err(disk)?;
        let tree_r = folder
            .create_trees(self.size, SectorFile::TreeR)
            .map_err(disk)?;
        let root = replica::build_replica(&unsealed, key, &sealed, &tree_r, self.size, &NoProgress)
            .map_err(|e| self.fault(e))?;
        let comm_r_last = CommRLast(root);
        group.equal(
            &self.fields.place("comm_r_last"),
            CommRLast(self.fields.bytes32("comm_r_last")?),
            comm_r_last,
        );
        let comm_r = replica::comm_r(&comm_c, &comm_r_last)
            .ok_or_else(|| self.fault("a root is no field element"))?;
        group.equal(
            &self.fields.place("comm_r"),
            CommR(self.fields.bytes32("comm_r")?),
            comm_r,
        );
        self.check_nodes(group, "replica_nodes", &sealed)?;
        let (_, digest) = digest_of(&sealed, None).map_err(disk)?;
        group.equal(
            &self.fields.place("replica_sha256"),
            self.fields.text("replica_sha256")?,
            digest.as_str(),
        );

        let p_aux = folder.create(self.size, SectorFile::PAux).map_err(disk)?;
        p_aux.write(0, &[comm_c.0, comm_r_last.0]).map_err(disk)?;
        self.check_files(&folder, group)?;
        progress.advance(1);
        let Self {
            name,
            size,
            sector,
            graph,
            replica_id,
            seed,
            layout,
            ..
        } = self;
        Ok(Sealed {
            name,
            size,
            sector,
            graph,
            replica_id,
            seed,
            comm_d: layout.comm_d,
            comm_c,
            comm_r_last,
            comm_r,
            #[cfg(test)]
            layers,
            tree_d,
            tree_c,
            tree_r,
            replica: sealed,
            _folder: folder,
        })
    }

    fn fault(&self, what: impl ToString) -> Fault {
        Fault::new(&self.fields.at, what)
    }

    /// Writes the padded sector; the file that Filecoin stages ends with its last piece.
    fn stage(&self, folder: &Folder, group: &mut Group) -> Result<NodeFile, Fault> {
        let path = folder.path(self.size, SectorFile::Unsealed);
        let file = std::fs::File::create(&path).map_err(|e| self.fault(e))?;
        let mut file = std::io::BufWriter::with_capacity(1 << 20, file);
        let sources: Vec<_> = self
            .pieces
            .iter()
            .map(|&(rule, len)| rule.reader(len))
            .collect();
        layout::write_sector(&self.layout, sources, &mut file).map_err(|e| self.fault(e))?;
        file.flush().map_err(|e| self.fault(e))?;
        let unsealed = NodeFile::open(&RealDisk, &path).map_err(|e| self.fault(e))?;

        let end = self
            .layout
            .placements
            .last()
            .map_or(0, layout::Placement::end);
        group.equal(
            &self.fields.place("staged_file_bytes"),
            self.fields.u64("staged_file_bytes")?,
            end,
        );
        let (_, digest) = digest_of(&unsealed, Some(end)).map_err(|e| self.fault(e))?;
        group.equal(
            &self.fields.place("staged_sha256"),
            self.fields.text("staged_sha256")?,
            digest.as_str(),
        );
        self.check_nodes(group, "staged_nodes", &unsealed)?;
        Ok(unsealed)
    }

    /// Fills and writes all layers; two are in memory at a time.
    fn label(
        &self,
        folder: &Folder,
        progress: &dyn Progress,
        group: &mut Group,
    ) -> Result<Vec<NodeFile>, Fault> {
        let nodes =
            usize::try_from(self.size.nodes()).expect("sizes up to 512 MiB are sealed here");
        let parents = ParentLists::prepare(self.graph.clone(), PARENTS_ROOM, None, &NoProgress);
        let labels = self.fields.object("labels")?;
        let mut files = Vec::new();
        let mut previous: Option<Vec<Node>> = None;
        for number in 1..=u32::try_from(self.size.layers()).expect("at most 11") {
            let mut layer = vec![[0; NODE_BYTES]; nodes];
            let sector = SectorLayer {
                replica_id: &self.replica_id,
                previous: previous.as_deref(),
                out: &mut layer,
            };
            fill_layer(number, &parents, &mut [sector], &NoProgress);
            let key = format!("layer_{number}");
            for (node, expected) in labels.indexed_nodes(&key)? {
                let found = usize::try_from(node)
                    .ok()
                    .and_then(|node| layer.get(node))
                    .copied();
                group.check(
                    &format!("{}[{node}]", labels.place(&key)),
                    found == Some(expected),
                    || mismatch(found),
                );
            }
            let file = folder
                .create(self.size, SectorFile::Layer(number))
                .map_err(|e| self.fault(e))?;
            file.write(0, &layer).map_err(|e| self.fault(e))?;
            files.push(file);
            previous = Some(layer);
            progress.advance(1);
        }
        group.unknown.extend(labels.unread());
        Ok(files)
    }

    fn check_nodes(&self, group: &mut Group, key: &str, file: &NodeFile) -> Result<(), Fault> {
        for (node, expected) in self.fields.indexed_nodes(key)? {
            if node >= self.size.nodes() {
                return Err(Fault::new(
                    self.fields.place(key),
                    format!("node {node} is outside the sector"),
                ));
            }
            let found = file.node(node).map_err(|e| self.fault(e))?;
            let at = format!("{}[{node}]", self.fields.place(key));
            group.check(&at, found == expected, || mismatch(Some(found)));
        }
        Ok(())
    }

    /// Every file that the vectors list, and no listed kind missing on either side.
    fn check_files(&self, folder: &Folder, group: &mut Group) -> Result<(), Fault> {
        let listed = self.fields.object("cache_files")?;
        let mut names = folder.names().map_err(|e| self.fault(e))?;
        names.retain(|name| name != "unsealed" && name != "sealed");
        for (name, entry) in listed.all() {
            let entry = Fields::new(entry, listed.place(name))?;
            let expected = (entry.u64("bytes")?, entry.text("sha256")?.to_owned());
            if let Some(at) = names.iter().position(|own| own == name) {
                names.swap_remove(at);
                let file =
                    NodeFile::open(&RealDisk, &folder.0.join(name)).map_err(|e| self.fault(e))?;
                let found = digest_of(&file, None).map_err(|e| self.fault(e))?;
                group.equal(&entry.at, expected, found);
            } else {
                group.fail(&entry.at, "sealing makes no file of this name".into());
            }
            group.unknown.extend(entry.unread());
        }
        group.check(&listed.at, names.is_empty(), || {
            format!("not listed, but made: {}", names.join(", "))
        });
        Ok(())
    }
}

fn mismatch(found: Option<Node>) -> String {
    found.map_or("no such node".to_owned(), |found| {
        format!("found {}", hex::encode(found))
    })
}

/// Reads the pieces, compares each with its commitment and digest, and lays them out.
fn read_pieces(
    fields: &Fields<'_>,
    size: SectorSize,
    group: &mut Group,
) -> Result<(Vec<(Rule, u64)>, Layout), Fault> {
    let (mut sources, mut infos, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for piece in fields.objects("pieces")? {
        let len = piece.u64("unpadded_len")?;
        let padded = UnpaddedPieceSize::new(len)
            .map_err(|e| Fault::new(piece.place("unpadded_len"), e))?
            .padded();
        if padded.bytes() > size.bytes() {
            return Err(Fault::new(
                piece.place("unpadded_len"),
                "larger than the sector",
            ));
        }
        let rule = piece.rule()?;
        let info = PieceInfo {
            comm_p: CommP(piece.bytes32("comm_p")?),
            size: padded,
        };
        let (found, digest) = hash_piece(rule, len, padded);
        group.equal(&piece.place("comm_p"), info.comm_p, found);
        group.equal(
            &piece.place("sha256_of_raw"),
            piece.text("sha256_of_raw")?,
            digest.as_str(),
        );
        offsets.push(piece.u64("padded_offset")?);
        sources.push((rule, len));
        infos.push(info);
        group.unknown.extend(piece.unread());
    }
    let layout = layout::plan(&infos, size).map_err(|e| Fault::new(&fields.at, e))?;
    let found: Vec<u64> = layout
        .placements
        .iter()
        .map(|placement| placement.offset)
        .collect();
    group.equal(
        &format!("{} padded_offset of all", fields.place("pieces")),
        offsets,
        found,
    );
    Ok((sources, layout))
}

fn hash_piece(rule: Rule, len: u64, padded: PaddedPieceSize) -> (CommP, String) {
    let (mut comm_p, mut sha256) = (CommpHasher::new(), Sha256::new());
    let mut reader = rule.reader(len);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = reader
            .read(&mut buffer)
            .expect("generated bytes do not fail");
        if count == 0 {
            break;
        }
        comm_p.update(&buffer[..count]);
        sha256.update(&buffer[..count]);
    }
    let (root, natural) = comm_p.finish();
    (
        commp::extend_with_zeros(root, natural, padded),
        hex::encode(sha256.finalize()),
    )
}

/// `rules` says how the ids were generated: `prover_id=bytes32(9,12,fr) ticket=bytes32(7,34) …`.
fn check_rules(
    fields: &Fields<'_>,
    group: &mut Group,
    ids: &[(&str, [u8; 32])],
) -> Result<(), Fault> {
    for rule in fields.text("rules")?.split_whitespace() {
        let known = rule.split_once('=').and_then(|(name, rule)| {
            let (_, id) = ids.iter().find(|(id, _)| *id == name)?;
            Some((*id, generate(rule)?))
        });
        match known {
            Some((id, generated)) => {
                group.equal(&format!("{} {rule}", fields.place("rules")), generated, id)
            }
            None => group
                .unknown
                .push(format!("{} {rule}", fields.place("rules"))),
        }
    }
    Ok(())
}

/// `bytes32(mult,add)` or `bytes32(mult,add,fr)`.
fn generate(rule: &str) -> Option<[u8; 32]> {
    let arguments = rule.strip_prefix("bytes32(")?.strip_suffix(')')?;
    let (mult, add, fr) = match arguments.split(',').collect::<Vec<_>>()[..] {
        [mult, add] => (mult, add, false),
        [mult, add, "fr"] => (mult, add, true),
        _ => return None,
    };
    let (mult, add): (u8, u8) = (mult.parse().ok()?, add.parse().ok()?);
    let mut bytes = [0; 32];
    for (i, byte) in (0u8..).zip(&mut bytes) {
        *byte = i.wrapping_mul(mult).wrapping_add(add);
    }
    if fr {
        bytes[31] &= 0x3f;
    }
    Some(bytes)
}

/// Nodes copied or hashed at once.
const COPY_NODES: usize = 1 << 15;

fn copy_nodes(from: &NodeFile, to: &NodeFile, count: u64) -> Result<(), DiskError> {
    let mut at = 0;
    let mut nodes = vec![[0; NODE_BYTES]; COPY_NODES];
    while at < count {
        let len = usize::try_from(count - at)
            .unwrap_or(usize::MAX)
            .min(COPY_NODES);
        from.read(at, &mut nodes[..len])?;
        to.write(at, &nodes[..len])?;
        at += u64::try_from(len).expect("at most 1 MiB");
    }
    Ok(())
}

/// Length and SHA-256 of a file, or of its first bytes.
fn digest_of(file: &NodeFile, first: Option<u64>) -> Result<(u64, String), DiskError> {
    let bytes = first.map_or_else(|| file.byte_len(), Ok)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; COPY_NODES * NODE_BYTES];
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        file.read_bytes(at, &mut buffer[..len])?;
        hasher.update(&buffer[..len]);
        at += u64::try_from(len).expect("at most 1 MiB");
    }
    Ok((bytes, hex::encode(hasher.finalize())))
}

/// A folder of one case, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(scratch: &Path) -> std::io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = scratch.join(format!("holdfast-vectors-{}-{number}", std::process::id()));
        std::fs::create_dir_all(scratch)?;
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn path(&self, size: SectorSize, file: SectorFile) -> PathBuf {
        self.0.join(file.name(size.shape().base_trees))
    }

    fn create(&self, size: SectorSize, file: SectorFile) -> Result<NodeFile, DiskError> {
        NodeFile::create(&RealDisk, &self.path(size, file))
    }

    fn create_trees(
        &self,
        size: SectorSize,
        kind: fn(u32) -> SectorFile,
    ) -> Result<Vec<NodeFile>, DiskError> {
        let trees = u32::try_from(size.shape().base_trees).expect("at most 16");
        (0..trees).map(|i| self.create(size, kind(i))).collect()
    }

    fn names(&self) -> std::io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.0)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on the files; a folder that cannot be removed is left to the system's own cleaning.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
