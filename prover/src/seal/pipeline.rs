//! The stages and the steps between them. See [`crate::seal`] for the table.

use std::io::{BufWriter, Read};
use std::path::Path;
use std::sync::Arc;

use super::{SealError, challenge_memory, disk_bytes, disk_left, replicate_memory, require_space};
use crate::commitment::{CommC, CommD, CommR, CommRLast};
use crate::estimate::proving_memory;
use crate::ids::{Node, ProverId, ReplicaId, SectorNumber, Seed, Ticket};
use crate::machine::Plan;
use crate::merkle::build;
use crate::merkle::shape;
use crate::piece::PieceInfo;
use crate::piece::layout::{self, Layout, LayoutError};
use crate::porep::proof::{self, Sources, Statement, VanillaProof};
use crate::porep::{column, replica, replica_id};
use crate::progress::{NoProgress, Progress};
use crate::sector_dir::disk::{Appender, Disk, DiskError, NodeFile, RealDisk};
use crate::sector_dir::record::{Record, Roots, SectorFile, Stage};
use crate::sector_dir::{SectorDir, SectorDirError};
use crate::snark::keys::{KeyError, ProvingKey};
use crate::snark::{self, CircuitId};
use crate::spec::{NODE_BYTES, RegisteredSeal, SealVersion};
use crate::verify::{self, PorepStatement, VerifyingKeys};

/// What to seal.
#[derive(Clone, Debug)]
pub struct SealRequest {
    /// Proof type: size and graph.
    pub seal: RegisteredSeal,
    /// Whose sector.
    pub prover: ProverId,
    /// Which of theirs; never used before.
    pub sector: SectorNumber,
    /// Chain randomness that binds the replica to a recent chain.
    pub ticket: Ticket,
    /// The pieces in order; zero pieces between and behind them are implied.
    pub pieces: Vec<PieceInfo>,
}

/// Data written and committed to.
#[derive(Debug)]
pub struct Packed {
    pub(super) dir: SectorDir,
}

/// TreeD and all layers written.
#[derive(Debug)]
pub struct Labeled {
    pub(super) dir: SectorDir,
}

/// Replica, TreeC and TreeR written: CommR is fixed.
#[derive(Debug)]
pub struct Replicated {
    dir: SectorDir,
    roots: Roots,
    comm_r: CommR,
}

/// Challenged nodes opened, and the openings verified.
#[derive(Debug)]
pub struct Challenged {
    dir: SectorDir,
    vanilla: VanillaProof,
}

/// Proven. The folder keeps what PoSt and unsealing need.
#[derive(Debug)]
pub struct Sealed {
    dir: SectorDir,
    roots: Roots,
    comm_r: CommR,
    seed: Seed,
    proof: Vec<u8>,
}

/// A sector as it was found on disk.
#[derive(Debug)]
pub enum AnyStage {
    /// Go on with [`Packed::label`].
    Packed(Packed),
    /// Go on with [`Labeled::replicate`].
    Labeled(Labeled),
    /// Go on with [`Replicated::challenge`].
    Replicated(Replicated),
    /// Go on with [`Challenged::prove`].
    Challenged(Challenged),
    /// Nothing left to do.
    Sealed(Sealed),
}

/// Packs pieces into a new sector folder. `sources` yields the unpadded bytes of the pieces in order; each must hash to its
/// CommP.
pub fn create(
    path: &Path,
    request: SealRequest,
    sources: &mut [&mut dyn Read],
) -> Result<Packed, SealError> {
    create_watched(path, request, sources, &NoProgress)
}

/// [`create`], whose progress is the stage "packing": bytes written, and bytes hashed for the record.
pub fn create_watched(
    path: &Path,
    request: SealRequest,
    sources: &mut [&mut dyn Read],
    progress: &dyn Progress,
) -> Result<Packed, SealError> {
    create_on(Arc::new(RealDisk), path, request, sources, progress)
}

/// [`create_watched`] on a disk of the caller's choice.
pub fn create_on(
    disk: Arc<dyn Disk>,
    path: &Path,
    request: SealRequest,
    sources: &mut [&mut dyn Read],
    progress: &dyn Progress,
) -> Result<Packed, SealError> {
    let SealRequest {
        seal,
        prover,
        sector,
        ticket,
        pieces,
    } = request;
    if !matches!(seal.version, SealVersion::V1 | SealVersion::V1_1) {
        return Err(SealError::Unsupported(seal));
    }
    let layout = layout::plan(&pieces, seal.size)?;
    let comm_d = layout.comm_d;
    let claim = SectorDir::claim(disk, path)?;
    let free = claim.free_bytes(SectorFile::Unsealed, seal.size)?;
    require_space(path, disk_bytes(seal.size), free)?;

    let file = claim.begin(SectorFile::Unsealed, seal.size)?;
    progress.start("packing", 2 * seal.size.bytes());
    write_data(&layout, sources, &file, progress)?;

    let replica_id = replica_id(&prover, sector, &ticket, &comm_d, &seal.porep_id());
    let stage = Stage::Packed;
    let record = Record {
        seal,
        prover,
        sector,
        ticket,
        pieces,
        comm_d,
        replica_id,
        stage,
        files: Vec::new(),
    };
    let dir = claim.commit(record, SectorFile::Unsealed, &file, progress)?;
    progress.finish();
    Ok(Packed { dir })
}

/// Writes the padded pieces at their places to the first nodes of a file, zeros elsewhere. Progress is a sector's bytes.
pub(crate) fn write_data(
    layout: &Layout,
    sources: &mut [&mut dyn Read],
    file: &NodeFile,
    progress: &dyn Progress,
) -> Result<(), SealError> {
    let appender = Appender::new(file, progress);
    let mut out = BufWriter::with_capacity(1 << 20, appender);
    layout::write_sector(layout, sources.iter_mut(), &mut out).map_err(|error| match error {
        LayoutError::Write(source) => DiskError::at("writing", file.path())(source).into(),
        other => SealError::from(other),
    })
}

/// Opens a sector folder at its last durable stage, after comparing every file that later stages read with its hash. One that
/// is challenged has its openings made again, in the memory that they need.
pub fn resume(path: &Path, plan: &Plan, progress: &dyn Progress) -> Result<AnyStage, SealError> {
    resume_on(Arc::new(RealDisk), path, plan, progress)
}

/// [`resume`] on a disk of the caller's choice.
pub fn resume_on(
    disk: Arc<dyn Disk>,
    path: &Path,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<AnyStage, SealError> {
    resume_in(SectorDir::open(disk, path)?, plan, progress)
}

/// [`resume`] for a caller that looks at the record first: nobody else has the folder in between.
pub fn resume_in(
    dir: SectorDir,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<AnyStage, SealError> {
    require_openings(&dir, plan)?;
    plan.run(|| dir.check_all(progress))?;
    stage_of(dir, plan, progress)
}

/// Refuses a challenged sector whose openings need more memory than allowed.
pub(super) fn require_openings(dir: &SectorDir, plan: &Plan) -> Result<(), SealError> {
    if matches!(dir.record().stage, Stage::Challenged(..)) {
        plan.require("opening challenges", challenge_memory(dir.size()))?;
    }
    Ok(())
}

pub(super) fn stage_of(
    dir: SectorDir,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<AnyStage, SealError> {
    Ok(match dir.record().stage.clone() {
        Stage::Packed => AnyStage::Packed(Packed { dir }),
        Stage::Labeled => AnyStage::Labeled(Labeled { dir }),
        Stage::Replicated(roots) => AnyStage::Replicated(Replicated::new(dir, roots)?),
        Stage::Challenged(roots, seed) => {
            let replicated = Replicated::new(dir, roots)?;
            let challenged = plan.run(|| replicated.open_challenges(seed, progress))?;
            AnyStage::Challenged(challenged)
        }
        Stage::Sealed(roots, seed, proof) => {
            let comm_r = comm_r_of(&dir, &roots)?;
            AnyStage::Sealed(Sealed {
                dir,
                roots,
                comm_r,
                seed,
                proof,
            })
        }
        Stage::Encoding(_) | Stage::Updated(..) | Stage::UpdateProven(..) => {
            return Err(SealError::Updated(dir.path().to_owned()));
        }
    })
}

impl AnyStage {
    /// The folder and its record.
    pub fn dir(&self) -> &SectorDir {
        match self {
            AnyStage::Packed(stage) => &stage.dir,
            AnyStage::Labeled(stage) => &stage.dir,
            AnyStage::Replicated(stage) => &stage.dir,
            AnyStage::Challenged(stage) => &stage.dir,
            AnyStage::Sealed(stage) => &stage.dir,
        }
    }

    /// The stage's name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            AnyStage::Packed(_) => "packed",
            AnyStage::Labeled(_) => "labeled",
            AnyStage::Replicated(_) => "replicated",
            AnyStage::Challenged(_) => "challenged",
            AnyStage::Sealed(_) => "sealed",
        }
    }
}

impl Packed {
    /// Root over the padded data.
    pub fn comm_d(&self) -> CommD {
        self.dir.record().comm_d
    }

    /// The folder and its record.
    pub fn dir(&self) -> &SectorDir {
        &self.dir
    }
}

impl Labeled {
    /// The folder and its record.
    pub fn dir(&self) -> &SectorDir {
        &self.dir
    }

    /// PC2: TreeC, then replica and TreeR. Afterwards CommR is fixed.
    pub fn replicate(
        mut self,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<Replicated, SealError> {
        let size = self.dir.size();
        plan.require("replicating", replicate_memory(size, plan))?;
        require_space(
            self.dir.path(),
            disk_left(self.dir.record()),
            self.dir.free_bytes()?,
        )?;
        // A TreeC that is there already is not counted: time left is reckoned from what this run does.
        let tree_c = match self.dir.has(SectorFile::TreeC(0)) {
            true => 0,
            false => column::build_units(size),
        };
        progress.start("PC2: columns, replica, trees", tree_c + size.nodes());
        let roots = plan.run(|| -> Result<Roots, SealError> {
            let comm_c = CommC(write_tree_c(&mut self.dir, progress)?);
            write_replica(&mut self.dir, comm_c, progress)
        })?;
        progress.finish();
        Replicated::new(self.dir, roots)
    }
}

/// TreeC's files, durable, and its root.
fn write_tree_c(dir: &mut SectorDir, progress: &dyn Progress) -> Result<Node, SealError> {
    let size = dir.size();
    if dir.has(SectorFile::TreeC(0)) {
        let root_at = shape::tree_c_bytes(size) / NODE_BYTES as u64 - 1;
        let roots = dir
            .read_trees(SectorFile::TreeC)?
            .iter()
            .map(|f| f.node(root_at))
            .collect::<Result<Vec<_>, _>>()?;
        return build::join_base_roots(size, &roots).ok_or_else(|| {
            damaged(
                dir,
                SectorFile::TreeC(0),
                "its root is not below the field order",
            )
        });
    }
    let layers = (1..=size.layers() as u32)
        .map(|l| dir.read(SectorFile::Layer(l)))
        .collect::<Result<Vec<_>, _>>()?;
    let trees = begin_trees(dir, SectorFile::TreeC)?;
    let root = column::build_tree_c(&layers, &trees, size, progress)?;
    dir.commit(numbered(SectorFile::TreeC, trees), |_| ())?;
    Ok(root)
}

/// Replica, TreeR and `p_aux`, durable together with the stage.
fn write_replica(
    dir: &mut SectorDir,
    comm_c: CommC,
    progress: &dyn Progress,
) -> Result<Roots, SealError> {
    let size = dir.size();
    let data = dir.read(SectorFile::Unsealed)?;
    let key = dir.read(SectorFile::Layer(size.layers() as u32))?;
    let sealed = dir.begin(SectorFile::Sealed)?;
    let trees = begin_trees(dir, SectorFile::TreeR)?;
    let comm_r_last = CommRLast(replica::build_replica(
        &data, &key, &sealed, &trees, size, progress,
    )?);

    let p_aux = dir.begin(SectorFile::PAux)?;
    p_aux.write(0, &[comm_c.0, comm_r_last.0])?;
    let roots = Roots {
        comm_c,
        comm_r_last,
    };
    let mut files = numbered(SectorFile::TreeR, trees);
    files.extend([(SectorFile::Sealed, sealed), (SectorFile::PAux, p_aux)]);
    dir.commit(files, |record| record.stage = Stage::Replicated(roots))?;
    Ok(roots)
}

pub(super) fn begin_trees(
    dir: &SectorDir,
    kind: fn(u32) -> SectorFile,
) -> Result<Vec<NodeFile>, SectorDirError> {
    (0..dir.size().shape().base_trees as u32)
        .map(|i| dir.begin(kind(i)))
        .collect()
}

pub(super) fn numbered(
    kind: fn(u32) -> SectorFile,
    files: Vec<NodeFile>,
) -> Vec<(SectorFile, NodeFile)> {
    (0..).map(kind).zip(files).collect()
}

fn damaged(dir: &SectorDir, file: SectorFile, what: &str) -> SealError {
    SectorDirError::Damaged {
        path: dir.path_of(file),
        what: what.to_owned(),
    }
    .into()
}

fn comm_r_of(dir: &SectorDir, roots: &Roots) -> Result<CommR, SealError> {
    replica::comm_r(&roots.comm_c, &roots.comm_r_last)
        .ok_or_else(|| damaged(dir, SectorFile::PAux, "a root is not below the field order"))
}

impl Replicated {
    fn new(dir: SectorDir, roots: Roots) -> Result<Self, SealError> {
        let comm_r = comm_r_of(&dir, &roots)?;
        Ok(Self { dir, roots, comm_r })
    }

    /// Root over the padded data.
    pub fn comm_d(&self) -> CommD {
        self.dir.record().comm_d
    }

    /// What the chain is told at pre-commit.
    pub fn comm_r(&self) -> CommR {
        self.comm_r
    }

    /// The two roots under CommR.
    pub fn roots(&self) -> Roots {
        self.roots
    }

    /// Key of the labels.
    pub fn replica_id(&self) -> ReplicaId {
        self.dir.record().replica_id
    }

    /// The folder and its record.
    pub fn dir(&self) -> &SectorDir {
        &self.dir
    }

    /// C1: opens what the seed draws, verifies the openings, and records the seed.
    pub fn challenge(
        self,
        seed: Seed,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<Challenged, SealError> {
        plan.require("opening challenges", challenge_memory(self.dir.size()))?;
        let mut challenged = plan.run(|| self.open_challenges(seed, progress))?;
        let VanillaProof {
            comm_c,
            comm_r_last,
            ..
        } = challenged.vanilla;
        let stage = Stage::Challenged(
            Roots {
                comm_c,
                comm_r_last,
            },
            seed,
        );
        challenged
            .dir
            .commit(Vec::new(), |record| record.stage = stage)?;
        Ok(challenged)
    }

    fn open_challenges(self, seed: Seed, progress: &dyn Progress) -> Result<Challenged, SealError> {
        let Self {
            dir,
            roots: Roots {
                comm_c,
                comm_r_last,
            },
            comm_r,
        } = self;
        let &Record {
            seal,
            replica_id,
            comm_d,
            ..
        } = dir.record();
        let sources = Sources {
            tree_d: dir.read(SectorFile::TreeD)?,
            layers: (1..=dir.size().layers() as u32)
                .map(|layer| dir.read(SectorFile::Layer(layer)))
                .collect::<Result<_, _>>()?,
            tree_c: dir.read_trees(SectorFile::TreeC)?,
            replica: dir.read(SectorFile::Sealed)?,
            tree_r: dir.read_trees(SectorFile::TreeR)?,
        };
        let statement = Statement {
            seal,
            replica_id,
            seed,
            comm_d,
            comm_c,
            comm_r_last,
            comm_r,
        };
        let size = dir.size();
        let challenges = (size.partitions() * size.challenges_per_partition()) as u64;
        progress.start("C1: openings", 2 * challenges);
        let vanilla = proof::prove(&statement, &sources, progress)?;
        proof::verify_watched(&vanilla, progress).map_err(|source| SealError::Inconsistent {
            path: dir.path().to_owned(),
            source,
        })?;
        progress.finish();
        Ok(Challenged { dir, vanilla })
    }
}

impl Challenged {
    /// The verified openings: the circuit's witness.
    pub fn vanilla(&self) -> &VanillaProof {
        &self.vanilla
    }

    /// The folder and its record.
    pub fn dir(&self) -> &SectorDir {
        &self.dir
    }

    /// Steps back, to answer another seed: after a reorganisation of the chain.
    pub fn forget_seed(self) -> Result<Replicated, SealError> {
        let VanillaProof {
            comm_c,
            comm_r_last,
            ..
        } = self.vanilla;
        Replicated::new(
            self.dir,
            Roots {
                comm_c,
                comm_r_last,
            },
        )
    }
}

impl Challenged {
    /// C2: one Groth16 proof per partition, accepted by the verifier's front door before it is recorded.
    pub fn prove(
        self,
        key: &ProvingKey,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<Sealed, SealError> {
        let needed = proving_memory(CircuitId::porep(self.dir.size()));
        plan.require("proving replication", needed)?;
        let proof = plan.run(|| self.prove_partitions(key, progress))?;
        self.self_check(key, &proof)?;
        self.record_proof(proof)
    }

    /// Makes a proof durable that [`Challenged::prove`] has checked.
    pub(super) fn record_proof(mut self, proof: Vec<u8>) -> Result<Sealed, SealError> {
        let VanillaProof {
            comm_c,
            comm_r_last,
            comm_r,
            seed,
            ..
        } = self.vanilla;
        let roots = Roots {
            comm_c,
            comm_r_last,
        };
        let stage = Stage::Sealed(roots, seed, proof.clone());
        self.dir.commit(Vec::new(), |record| record.stage = stage)?;
        Ok(Sealed {
            dir: self.dir,
            roots,
            comm_r,
            seed,
            proof,
        })
    }

    fn prove_partitions(
        &self,
        key: &ProvingKey,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, SealError> {
        let circuits = (0..self.vanilla.partitions.len()).map(|partition| {
            let circuit = self.vanilla.circuit(partition);
            circuit.expect("the openings were verified")
        });
        Ok(snark::prove::prove_all(key, circuits, progress)?)
    }

    fn self_check(&self, key: &ProvingKey, proof: &[u8]) -> Result<(), SealError> {
        let record = self.dir.record();
        let statement = PorepStatement {
            seal: record.seal,
            prover: record.prover,
            sector: record.sector,
            ticket: record.ticket,
            seed: self.vanilla.seed,
            comm_d: record.comm_d,
            comm_r: self.vanilla.comm_r,
        };
        let circuit = CircuitId::porep(record.seal.size);
        let keys = VerifyingKeys::from_vk_bytes([(circuit, key.verifying_key().bytes())])
            .map_err(|error| SealError::Prove(KeyError::from(error).into()))?;
        verify::porep(&keys, &statement, proof).map_err(|source| SealError::SelfCheck {
            path: self.dir.path().to_owned(),
            source,
        })
    }
}

impl Sealed {
    /// Root over the padded data.
    pub fn comm_d(&self) -> CommD {
        self.dir.record().comm_d
    }

    /// What the chain knows the sector by.
    pub fn comm_r(&self) -> CommR {
        self.comm_r
    }

    /// The two roots under CommR.
    pub fn roots(&self) -> Roots {
        self.roots
    }

    /// The seed whose challenges the proof answers.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// One Groth16 proof per partition, joined.
    pub fn proof(&self) -> &[u8] {
        &self.proof
    }

    /// The folder and its record.
    pub fn dir(&self) -> &SectorDir {
        &self.dir
    }

    /// Frees what only sealing needed: layers, TreeC, TreeD, and the unsealed data unless it is to be kept for fast reads.
    pub fn trim(mut self, keep_unsealed: bool) -> Result<Self, SealError> {
        self.dir.discard(|file| match file {
            SectorFile::Layer(_) | SectorFile::TreeC(_) | SectorFile::TreeD => true,
            SectorFile::Unsealed => !keep_unsealed,
            SectorFile::Sealed | SectorFile::TreeR(_) | SectorFile::PAux => false,
        })?;
        Ok(self)
    }
}
