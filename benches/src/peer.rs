//! Filecoin's own prover (the published crate `filecoin-proofs`), as a process beside ours.
//!
//! The program `filecoin-peer` runs it; [`Peer`] starts that program and asks it one thing at a time, a JSON object a line
//! each way. A process of its own keeps the comparison fair and simple: its settings are environment variables that are read
//! once, its memory is measured apart from ours, and its caches (parents, parameters) live in a folder that the caller names.
//! Parameters are ours: [`Peer::link_keys`] puts the very files of our store where the peer looks for them.
//!
//! ```text
//! <dir>/parameters/v28-…params, .vk     links to our own keys       <dir>/parents/     the peer's parent lists
//! <sector>/data, unsealed, sealed        one sector, and <sector>/cache its trees and layers
//! ```
//! Build both sides with `RUSTFLAGS="-C target-cpu=native"` before comparing PC1: without it the peer's SHA-256 is an
//! out-of-line call per instruction and seven times slower (`spec/peer.md`).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use prover::seal::SealRequest;
use prover::snark::CircuitId;
use prover::snark::keys::ParamStore;
use prover::verify::{PorepStatement, UpdateStatement, WindowPostStatement, WinningPostStatement};
use prover::{CommR, PostRandomness, ProverId, SectorNumber, SectorSize, Seed};
use serde::{Deserialize, Serialize};

/// One sector, as both sides name it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SectorJob {
    /// Its folder; the piece's bytes lie in `data`.
    pub dir: PathBuf,
    /// Bytes of the sector.
    pub size: u64,
    /// Which proof type.
    #[serde(with = "hex")]
    pub porep_id: [u8; 32],
    /// Whose.
    #[serde(with = "hex")]
    pub prover: [u8; 32],
    /// Which.
    pub sector: u64,
    /// Randomness before the replica.
    #[serde(with = "hex")]
    pub ticket: [u8; 32],
    /// Randomness after it.
    #[serde(with = "hex")]
    pub seed: [u8; 32],
}

/// One sector of a PoSt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// Which.
    pub sector: u64,
    /// Its commitment.
    #[serde(with = "hex")]
    pub comm_r: [u8; 32],
    /// Its folder; empty where only the commitment is needed.
    pub dir: PathBuf,
}

/// A PoSt to make or to judge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PostJob {
    /// WinningPoSt instead of WindowPoSt.
    pub winning: bool,
    /// Bytes of a sector.
    pub size: u64,
    /// Whose.
    #[serde(with = "hex")]
    pub prover: [u8; 32],
    /// The challenge.
    #[serde(with = "hex")]
    pub randomness: [u8; 32],
    /// The sectors.
    pub replicas: Vec<Replica>,
}

/// A seal proof to judge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SealClaim {
    /// The statement; its folder does not matter.
    pub job: SectorJob,
    /// Commitment to the data.
    #[serde(with = "hex")]
    pub comm_d: [u8; 32],
    /// Commitment to the replica.
    #[serde(with = "hex")]
    pub comm_r: [u8; 32],
    /// The proof.
    #[serde(with = "hex")]
    pub proof: Vec<u8>,
}

/// An update to make over a sector that the peer replicated; the new data lies in `dir`'s `data`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateJob {
    /// The sector before.
    pub old: SectorJob,
    /// Folder of the update.
    pub dir: PathBuf,
}

/// A statement about an update, with the proof where there is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateClaim {
    /// Bytes of the sector.
    pub size: u64,
    /// Commitment to the old replica.
    #[serde(with = "hex")]
    pub comm_r_old: [u8; 32],
    /// Commitment to the new data.
    #[serde(with = "hex")]
    pub comm_d_new: [u8; 32],
    /// Commitment to the new replica.
    #[serde(with = "hex")]
    pub comm_r_new: [u8; 32],
    /// The proof.
    #[serde(with = "hex")]
    pub proof: Vec<u8>,
}

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Where the keys of a size belong: parameters and verifying key of PoRep, window, winning.
    KeyPaths {
        /// Bytes of a sector.
        size: u64,
    },
    /// Labels and TreeD.
    Pc1(SectorJob),
    /// TreeC, encoding, TreeR.
    Pc2(SectorJob),
    /// Vanilla proofs.
    C1(SectorJob),
    /// The assignment of the PoRep circuit that the peer feeds to Groth16, as a record; C1 comes first.
    PorepWitness(SectorJob),
    /// The same of a PoSt.
    PostWitness(PostJob),
    /// Groth16; with the peer's own check of the proof, as its interface has it.
    C2(SectorJob),
    /// A PoSt, vanilla proofs included.
    Post(PostJob),
    /// The peer's verdict on a seal proof.
    VerifySeal(SealClaim),
    /// Its verdict on many of one proof type at once: they all hold, or not.
    VerifySeals {
        /// The proofs with their statements.
        claims: Vec<SealClaim>,
    },
    /// The peer's verdict on a PoSt.
    VerifyPost {
        /// The statement.
        job: PostJob,
        /// The proof.
        #[serde(with = "hex")]
        proof: Vec<u8>,
    },
    /// Where the key of a size's updates belongs.
    UpdateKeyPath {
        /// Bytes of a sector.
        size: u64,
    },
    /// New data over an old replica.
    Encode(UpdateJob),
    /// The peer's proof of an update that it encoded; the claim's proof is left empty.
    ProveUpdate {
        /// Where its files are.
        job: UpdateJob,
        /// What is to be proved.
        claim: UpdateClaim,
    },
    /// The peer's verdict on an update.
    VerifyUpdate(UpdateClaim),
    /// Makes a WindowPoSt or WinningPoSt key as its tools do, random secrets included, in the place of one that is there. Only
    /// before the peer has used such a key: it keeps what it used in memory.
    MakePostKeys {
        /// Bytes of a sector.
        size: u64,
        /// WinningPoSt's, not WindowPoSt's.
        winning: bool,
        /// Keeps the key, with its `.vk`, and gives their paths; without, both are removed again.
        keep: bool,
    },
    /// Largest resident memory so far.
    Memory,
}

/// What comes back; fields that do not belong to the question are empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Why there is none.
    #[serde(default)]
    pub error: Option<String>,
    /// Time of the operation alone.
    #[serde(default)]
    pub seconds: f64,
    /// CommD and CommR after PC2.
    #[serde(default)]
    pub commitments: Option<(String, String)>,
    /// A proof, in hex.
    #[serde(default)]
    pub proof: Option<String>,
    /// A verdict.
    #[serde(default)]
    pub valid: Option<bool>,
    /// Paths of keys, see [`Ask::KeyPaths`] and [`Ask::MakePostKeys`].
    #[serde(default)]
    pub paths: Vec<(PathBuf, PathBuf)>,
    /// What [`prover::vectors::assignment::compare`] takes.
    #[serde(default)]
    pub record: Option<serde_json::Value>,
    /// Bytes.
    #[serde(default)]
    pub memory: u64,
}

/// The running peer; killed when dropped.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    dir: PathBuf,
}

impl Peer {
    /// Starts `program` (the path of `filecoin-peer`) with its caches in `dir`, on so many threads.
    pub fn start(program: &Path, dir: &Path, threads: usize) -> Self {
        let parameters = dir.join("parameters");
        std::fs::create_dir_all(&parameters).expect("a folder for the peer's parameters");
        let mut child = Command::new(program)
            .env("FIL_PROOFS_PARAMETER_CACHE", &parameters)
            .env("FIL_PROOFS_PARENT_CACHE", dir.join("parents"))
            .env("FIL_PROOFS_USE_MULTICORE_SDR", "false")
            .env("RAYON_NUM_THREADS", threads.to_string())
            .env("EC_GPU_NUM_THREADS", threads.to_string())
            .env("RUST_LOG", "off")
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("filecoin-peer was built with the feature `filecoin`");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            child,
            stdin,
            stdout,
            dir: dir.to_owned(),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Panics
    /// When the peer cannot do it: a test or bench ends there.
    pub fn ask(&mut self, ask: &Ask) -> Answer {
        let line = serde_json::to_string(ask).expect("plain fields");
        writeln!(self.stdin, "{line}").expect("the peer listens");
        self.stdin.flush().expect("the peer listens");
        let mut text = String::new();
        self.stdout.read_line(&mut text).expect("the peer answers");
        let answer: Answer = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("the peer answered {text:?}: {error}"));
        if let Some(error) = &answer.error {
            panic!("the peer failed: {error}");
        }
        answer
    }

    /// Puts our keys of a size where the peer looks for them; makes them first where there are none.
    pub fn link_keys(&mut self, store: &ParamStore, size: SectorSize) {
        let circuits = [
            CircuitId::porep(size),
            CircuitId::window(size),
            CircuitId::winning(size),
        ];
        let paths = self.ask(&Ask::KeyPaths { size: size.bytes() }).paths;
        Self::link(store, &circuits, paths);
    }

    /// The same for the key of updates, which nothing else needs. Gives the paths.
    pub fn link_update_key(
        &mut self,
        store: &ParamStore,
        size: SectorSize,
    ) -> Vec<(PathBuf, PathBuf)> {
        let ask = Ask::UpdateKeyPath { size: size.bytes() };
        let paths = self.ask(&ask).paths;
        Self::link(store, &[CircuitId::update(size)], paths.clone());
        paths
    }

    fn link(store: &ParamStore, circuits: &[CircuitId], paths: Vec<(PathBuf, PathBuf)>) {
        for (&circuit, (params, vk)) in circuits.iter().zip(paths) {
            store
                .load_or_generate(circuit, &prover::NoProgress)
                .expect("a proving key");
            store
                .verifying_key_bytes(circuit, &prover::NoProgress)
                .expect("a verifying key");
            for (ours, theirs) in [
                (store.params_path(circuit), params),
                (store.vk_path(circuit), vk),
            ] {
                // Its lock is taken on the file itself, and taking it needs no write access.
                let _ = std::fs::remove_file(&theirs);
                std::os::unix::fs::symlink(&ours, &theirs).expect("a link to our key");
            }
        }
    }

    /// The peer's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Largest resident memory of the peer so far, in bytes.
    pub fn memory(&mut self) -> u64 {
        self.ask(&Ask::Memory).memory
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SectorJob {
    /// The same sector for the peer: writes its data into `dir`.
    pub fn of(request: &SealRequest, seed: Seed, dir: &Path, data: &[u8]) -> Self {
        std::fs::create_dir_all(dir).expect("a folder for the peer's sector");
        std::fs::write(dir.join("data"), data).expect("the piece's bytes");
        Self {
            dir: dir.to_owned(),
            size: request.seal.size.bytes(),
            porep_id: request.seal.porep_id().0,
            prover: request.prover.0,
            sector: request.sector.0,
            ticket: request.ticket.0,
            seed: seed.0,
        }
    }
}

impl UpdateClaim {
    /// A statement with its proof.
    pub fn new(statement: &UpdateStatement, proof: &[u8]) -> Self {
        Self {
            size: statement.size.bytes(),
            comm_r_old: statement.comm_r_old.0,
            comm_d_new: statement.comm_d_new.0,
            comm_r_new: statement.comm_r_new.0,
            proof: proof.to_vec(),
        }
    }
}

impl SealClaim {
    /// A statement with its proof.
    pub fn new(statement: &PorepStatement, proof: &[u8]) -> Self {
        Self {
            job: SectorJob {
                dir: PathBuf::new(),
                size: statement.seal.size.bytes(),
                porep_id: statement.seal.porep_id().0,
                prover: statement.prover.0,
                sector: statement.sector.0,
                ticket: statement.ticket.0,
                seed: statement.seed.0,
            },
            comm_d: statement.comm_d.0,
            comm_r: statement.comm_r.0,
            proof: proof.to_vec(),
        }
    }
}

impl PostJob {
    /// A PoSt over sectors that the peer sealed, each with its folder.
    pub fn new(
        winning: bool,
        size: SectorSize,
        prover: ProverId,
        randomness: PostRandomness,
        sectors: &[(SectorNumber, CommR, PathBuf)],
    ) -> Self {
        Self {
            winning,
            size: size.bytes(),
            prover: prover.0,
            randomness: *randomness.as_bytes(),
            replicas: sectors
                .iter()
                .map(|(sector, comm_r, dir)| Replica {
                    sector: sector.0,
                    comm_r: comm_r.0,
                    dir: dir.clone(),
                })
                .collect(),
        }
    }

    /// The statement of a WindowPoSt.
    pub fn of_window(statement: &WindowPostStatement) -> Self {
        let sectors: Vec<_> = statement
            .sectors
            .iter()
            .map(|(number, comm_r)| (*number, *comm_r, PathBuf::new()))
            .collect();
        Self::new(
            false,
            statement.size,
            statement.prover,
            statement.randomness,
            &sectors,
        )
    }

    /// The statement of a WinningPoSt.
    pub fn of_winning(statement: &WinningPostStatement) -> Self {
        Self::new(
            true,
            statement.size,
            statement.prover,
            statement.randomness,
            &[(statement.sector.0, statement.sector.1, PathBuf::new())],
        )
    }
}
