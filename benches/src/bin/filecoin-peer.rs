//! Filecoin's prover as a process: reads one question a line, writes one answer a line. See [`benches::peer`].
//!
//! Everything is the published crate's public interface, called the way its own tools call it. Times are of the operation
//! alone; reading and writing of its files belongs to it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use bellpepper_core::{
    Circuit, ConstraintSystem, Index, LinearCombination, SynthesisError, Variable,
};
use benches::peer::{Answer, Ask, PostJob, Replica, SealClaim, SectorJob, UpdateClaim, UpdateJob};
use blstrs::Scalar;
use ff::{Field, PrimeField};
use filecoin_proofs::parameters::{
    setup_params, window_post_public_params, window_post_setup_params, winning_post_public_params,
    winning_post_setup_params,
};
use filecoin_proofs::{
    DefaultPieceHasher, PaddedBytesAmount, PieceInfo, PoRepConfig, PoStConfig, PoStType,
    PrivateReplicaInfo, PublicReplicaInfo, SealCommitPhase1Output, SealPreCommitOutput,
    SealPreCommitPhase1Output, SectorShapeBase, SectorUpdateConfig, UnpaddedBytesAmount,
    WINDOW_POST_CHALLENGE_COUNT, WINDOW_POST_SECTOR_COUNT, WINNING_POST_CHALLENGE_COUNT,
    WINNING_POST_SECTOR_COUNT, add_piece, as_safe_commitment, encode_into,
    generate_empty_sector_update_proof, generate_window_post, generate_winning_post,
    seal_commit_phase1, seal_commit_phase2, seal_pre_commit_phase1, seal_pre_commit_phase2,
    verify_batch_seal, verify_empty_sector_update_proof, verify_seal, verify_window_post,
    verify_winning_post,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use storage_proofs_core::api_version::ApiVersion;
use storage_proofs_core::compound_proof::{CompoundProof, SetupParams};
use storage_proofs_core::parameter_cache::{
    CacheableParameters, parameter_cache_params_path, parameter_cache_verifying_key_path,
};
use storage_proofs_core::proof::ProofScheme;
use storage_proofs_core::sector::SectorId;
use storage_proofs_porep::stacked::{self, StackedCompound};
use storage_proofs_post::fallback::{
    self, FallbackPoSt, FallbackPoStCompound, PrivateSector, PublicSector,
};
use storage_proofs_update::{EmptySectorUpdateCompound, PublicParams};

/// One shape serves 2 KiB, 8 MiB and 512 MiB.
type Tree = SectorShapeBase;

/// What a sector has reached, by its folder.
#[derive(Default)]
struct Progress {
    pieces: Vec<PieceInfo>,
    labels: Option<SealPreCommitPhase1Output<Tree>>,
    commitments: Option<SealPreCommitOutput>,
    vanilla: Option<SealCommitPhase1Output<Tree>>,
}

#[derive(Default)]
struct State {
    sectors: HashMap<PathBuf, Progress>,
}

fn main() -> Result<()> {
    let mut state = State::default();
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let answer = state.answer(ask).unwrap_or_else(|error| Answer {
            error: Some(format!("{error:#}")),
            ..Answer::default()
        });
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

impl State {
    fn answer(&mut self, ask: Ask) -> Result<Answer> {
        match ask {
            Ask::KeyPaths { size } => key_paths(size),
            Ask::Pc1(job) => self.pc1(&job),
            Ask::Pc2(job) => self.pc2(&job),
            Ask::C1(job) => self.c1(&job),
            Ask::PorepWitness(job) => self.porep_witness(&job),
            Ask::PostWitness(job) => post_witness(&job),
            Ask::C2(job) => self.c2(&job),
            Ask::Post(job) => post(&job),
            Ask::VerifySeal(claim) => Ok(judge_seal(&claim)),
            Ask::VerifySeals { claims } => judge_seals(&claims),
            Ask::VerifyPost { job, proof } => judge_post(&job, &proof),
            Ask::UpdateKeyPath { size } => Ok(update_key_path(size)),
            Ask::Encode(job) => encode(&job),
            Ask::ProveUpdate { job, claim } => prove_update(&job, &claim),
            Ask::VerifyUpdate(claim) => Ok(judge_update(&claim)),
            Ask::MakePostKeys {
                size,
                winning,
                keep,
            } => make_post_keys(size, winning, keep),
            Ask::Memory => Ok(Answer {
                memory: peak_memory_bytes()?,
                ..Answer::default()
            }),
        }
    }

    fn sector(&mut self, job: &SectorJob) -> Result<&mut Progress> {
        self.sectors
            .get_mut(&job.dir)
            .ok_or_else(|| anyhow!("{} was not begun here", job.dir.display()))
    }

    fn pc1(&mut self, job: &SectorJob) -> Result<Answer> {
        let (unsealed, sealed, cache) = paths(job);
        let _ = fs::remove_dir_all(&cache);
        fs::create_dir_all(&cache)?;
        let whole = UnpaddedBytesAmount::from(PaddedBytesAmount(job.size));
        let data = File::open(job.dir.join("data"))?;
        let (piece, _) = add_piece(data, File::create(&unsealed)?, whole, &[])?;
        // The peer maps this file and wants it to be there.
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&sealed)?;
        let begun = Instant::now();
        let labels = seal_pre_commit_phase1::<_, _, _, Tree>(
            &porep(job),
            &cache,
            &unsealed,
            &sealed,
            job.prover,
            SectorId::from(job.sector),
            job.ticket,
            std::slice::from_ref(&piece),
        )?;
        let answer = timed(begun);
        let progress = Progress {
            pieces: vec![piece],
            labels: Some(labels),
            ..Progress::default()
        };
        self.sectors.insert(job.dir.clone(), progress);
        Ok(answer)
    }

    fn pc2(&mut self, job: &SectorJob) -> Result<Answer> {
        let (_, sealed, cache) = paths(job);
        let progress = self.sector(job)?;
        let labels = progress.labels.take().context("PC1 comes first")?;
        let begun = Instant::now();
        let commitments =
            seal_pre_commit_phase2::<_, _, Tree>(&porep(job), labels, &cache, &sealed)?;
        let mut answer = timed(begun);
        answer.commitments = Some((
            hex::encode(commitments.comm_d),
            hex::encode(commitments.comm_r),
        ));
        progress.commitments = Some(commitments);
        Ok(answer)
    }

    fn c1(&mut self, job: &SectorJob) -> Result<Answer> {
        let (_, sealed, cache) = paths(job);
        let progress = self.sector(job)?;
        let commitments = progress.commitments.clone().context("PC2 comes first")?;
        let begun = Instant::now();
        let vanilla = seal_commit_phase1::<_, Tree>(
            &porep(job),
            &cache,
            &sealed,
            job.prover,
            SectorId::from(job.sector),
            job.ticket,
            job.seed,
            commitments,
            &progress.pieces,
        )?;
        let answer = timed(begun);
        progress.vanilla = Some(vanilla);
        Ok(answer)
    }

    /// The way of the crate's `seal_commit_phase2`, up to where Groth16 begins.
    fn porep_witness(&mut self, job: &SectorJob) -> Result<Answer> {
        type Compound = StackedCompound<Tree, DefaultPieceHasher>;
        let progress = self.sector(job)?;
        let vanilla = progress.vanilla.as_ref().context("C1 comes first")?;
        let public = stacked::PublicInputs {
            replica_id: vanilla.replica_id,
            tau: Some(stacked::Tau {
                comm_d: as_safe_commitment(&vanilla.comm_d, "comm_d")?,
                comm_r: as_safe_commitment(&vanilla.comm_r, "comm_r")?,
            }),
            k: None,
            seed: Some(vanilla.seed),
        };
        let setup = SetupParams {
            vanilla_params: setup_params(&porep(job))?,
            partitions: Some(1),
            priority: false,
        };
        let params = Compound::setup(&setup)?.vanilla_params;
        let proof = vanilla.vanilla_proofs.first().context("no partition")?;
        Listener::of(Compound::circuit(&public, (), proof, &params, Some(0))?)
    }

    fn c2(&mut self, job: &SectorJob) -> Result<Answer> {
        // The peer's C2 consumes what C1 gave; asked again, C1 runs again outside the time taken.
        if self.sector(job)?.vanilla.is_none() {
            self.c1(job)?;
        }
        let vanilla = self.sector(job)?.vanilla.take().context("C1 comes first")?;
        let begun = Instant::now();
        let output = seal_commit_phase2::<Tree>(
            &porep(job),
            vanilla,
            job.prover,
            SectorId::from(job.sector),
        )?;
        let mut answer = timed(begun);
        answer.proof = Some(hex::encode(output.proof));
        Ok(answer)
    }
}

/// A constraint system that only listens to values, and digests them as `fixtures/vectors/r1cs/witness-*.json` has them.
struct Listener {
    inputs: (u64, Sha256),
    aux: (u64, Sha256),
    constraints: u64,
    /// `[variables, digest of so many]`.
    checkpoints: Vec<Value>,
    /// `[name, variables, digest]` where a namespace near the root ends.
    ends: Vec<Value>,
    path: Vec<String>,
}

impl Listener {
    /// Namespaces at most so deep are told of.
    const DEPTH: usize = 2;

    fn of(circuit: impl Circuit<Scalar>) -> Result<Answer> {
        let mut heard = Self {
            inputs: (0, Sha256::new()),
            aux: (0, Sha256::new()),
            constraints: 0,
            checkpoints: Vec::new(),
            ends: Vec::new(),
            path: Vec::new(),
        };
        // As Groth16's prover begins.
        heard.alloc_input(String::new, || Ok(Scalar::ONE))?;
        circuit.synthesize(&mut heard)?;
        let record = json!({
            "inputs": heard.inputs.0,
            "aux": heard.aux.0,
            "constraints": heard.constraints,
            "input_sha256": hex::encode(heard.inputs.1.finalize()),
            "aux_sha256": hex::encode(heard.aux.1.finalize()),
            "aux_checkpoints": heard.checkpoints,
            "aux_digest_at_segment_end": heard.ends,
        });
        Ok(Answer {
            record: Some(record),
            ..Answer::default()
        })
    }

    fn digest(&self) -> String {
        hex::encode(&self.aux.1.clone().finalize()[..16])
    }
}

impl ConstraintSystem<Scalar> for Listener {
    type Root = Self;

    fn alloc<F, A, AR>(&mut self, _: A, f: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.aux.1.update(f()?.to_repr());
        self.aux.0 += 1;
        let heard = self.aux.0;
        if heard.is_multiple_of(65_536) || (heard <= 32_768 && heard.is_power_of_two()) {
            self.checkpoints.push(json!([heard, self.digest()]));
        }
        let index = usize::try_from(heard - 1).expect("counts of variables fit");
        Ok(Variable::new_unchecked(Index::Aux(index)))
    }

    fn alloc_input<F, A, AR>(&mut self, _: A, f: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.inputs.1.update(f()?.to_repr());
        self.inputs.0 += 1;
        let index = usize::try_from(self.inputs.0 - 1).expect("counts of variables fit");
        Ok(Variable::new_unchecked(Index::Input(index)))
    }

    fn enforce<A, AR, LA, LB, LC>(&mut self, _: A, _: LA, _: LB, _: LC)
    where
        A: FnOnce() -> AR,
        AR: Into<String>,
        LA: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LB: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LC: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
    {
        self.constraints += 1;
    }

    fn push_namespace<NR, N>(&mut self, name: N)
    where
        NR: Into<String>,
        N: FnOnce() -> NR,
    {
        let name = match self.path.len() < Self::DEPTH {
            true => name().into(),
            false => String::new(),
        };
        self.path.push(name);
    }

    fn pop_namespace(&mut self) {
        if self.path.len() <= Self::DEPTH {
            let end = json!([self.path.join("/"), self.aux.0, self.digest()]);
            self.ends.push(end);
        }
        self.path.pop();
    }

    fn get_root(&mut self) -> &mut Self {
        self
    }
}

fn key_paths(size: u64) -> Result<Answer> {
    let porep = PoRepConfig::new_groth16(size, [0; 32], ApiVersion::V1_1_0);
    let mut paths = vec![(
        porep.get_cache_params_path::<Tree>()?,
        porep.get_cache_verifying_key_path::<Tree>()?,
    )];
    for winning in [false, true] {
        let config = post_config(size, winning)?;
        paths.push((
            config.get_cache_params_path::<Tree>()?,
            config.get_cache_verifying_key_path::<Tree>()?,
        ));
    }
    Ok(Answer {
        paths,
        ..Answer::default()
    })
}

fn update_key_path(size: u64) -> Answer {
    let id =
        EmptySectorUpdateCompound::<Tree>::cache_identifier(&PublicParams::from_sector_size(size));
    Answer {
        paths: vec![(
            parameter_cache_params_path(&id),
            parameter_cache_verifying_key_path(&id),
        )],
        ..Answer::default()
    }
}

fn encode(job: &UpdateJob) -> Result<Answer> {
    let (_, key, key_cache) = paths(&job.old);
    let (staged, replica, cache) = update_paths(job);
    fs::create_dir_all(&cache)?;
    let whole = UnpaddedBytesAmount::from(PaddedBytesAmount(job.old.size));
    let data = File::open(job.dir.join("data"))?;
    let (piece, _) = add_piece(data, File::create(&staged)?, whole, &[])?;
    // The peer maps this file and wants it to have its length.
    File::create(&replica)?.set_len(job.old.size)?;
    let config = SectorUpdateConfig::from_porep_config(&porep(&job.old));
    let begun = Instant::now();
    let encoded = encode_into::<Tree>(
        &config,
        &replica,
        &cache,
        &key,
        &key_cache,
        &staged,
        &[piece],
    )?;
    let mut answer = timed(begun);
    answer.commitments = Some((
        hex::encode(encoded.comm_d_new),
        hex::encode(encoded.comm_r_new),
    ));
    Ok(answer)
}

fn prove_update(job: &UpdateJob, claim: &UpdateClaim) -> Result<Answer> {
    let (_, key, key_cache) = paths(&job.old);
    let (_, replica, cache) = update_paths(job);
    let begun = Instant::now();
    let proof = generate_empty_sector_update_proof::<Tree>(
        &porep(&job.old),
        claim.comm_r_old,
        claim.comm_r_new,
        claim.comm_d_new,
        &key,
        &key_cache,
        &replica,
        &cache,
    )?;
    let mut answer = timed(begun);
    answer.proof = Some(hex::encode(proof.0));
    Ok(answer)
}

fn judge_update(claim: &UpdateClaim) -> Answer {
    // The proof type's id is no part of an update.
    let config = PoRepConfig::new_groth16(claim.size, [0; 32], ApiVersion::V1_1_0);
    let begun = Instant::now();
    let verdict = verify_empty_sector_update_proof::<Tree>(
        &config,
        &claim.proof,
        claim.comm_r_old,
        claim.comm_r_new,
        claim.comm_d_new,
    );
    judged(begun, verdict)
}

fn update_paths(job: &UpdateJob) -> (PathBuf, PathBuf, PathBuf) {
    (
        job.dir.join("unsealed"),
        job.dir.join("sealed"),
        job.dir.join("cache"),
    )
}

fn make_post_keys(size: u64, winning: bool, keep: bool) -> Result<Answer> {
    let config = post_config(size, winning)?;
    let (params, vk) = (
        config.get_cache_params_path::<Tree>()?,
        config.get_cache_verifying_key_path::<Tree>()?,
    );
    let forget = || {
        for path in [&params, &vk] {
            // Not there is what is wanted.
            let _ = fs::remove_file(path);
        }
    };
    forget();
    let public = match winning {
        true => winning_post_public_params::<Tree>(&config)?,
        false => window_post_public_params::<Tree>(&config)?,
    };
    let begun = Instant::now();
    FallbackPoStCompound::<Tree>::groth_params(Some(&mut rand::rngs::OsRng), &public)?;
    let mut answer = timed(begun);
    if keep {
        // Its verifiers read the file of its own.
        FallbackPoStCompound::<Tree>::verifying_key(None::<&mut rand::rngs::OsRng>, &public)?;
        answer.paths = vec![(params, vk)];
    } else {
        forget();
    }
    Ok(answer)
}

fn post(job: &PostJob) -> Result<Answer> {
    let config = post_config(job.size, job.winning)?;
    let replicas = private_replicas(job)?;
    let begun = Instant::now();
    let proof = if job.winning {
        generate_winning_post::<Tree>(&config, &job.randomness, &replicas, job.prover)?
    } else {
        let replicas: BTreeMap<_, _> = replicas.into_iter().collect();
        generate_window_post::<Tree>(&config, &job.randomness, &replicas, job.prover)?
    };
    let mut answer = timed(begun);
    answer.proof = Some(hex::encode(proof));
    Ok(answer)
}

fn private_replicas(job: &PostJob) -> Result<Vec<(SectorId, PrivateReplicaInfo<Tree>)>> {
    let of = |replica: &Replica| {
        let (sealed, cache) = (replica.dir.join("sealed"), replica.dir.join("cache"));
        let info = PrivateReplicaInfo::<Tree>::new(sealed, replica.comm_r, cache)?;
        Ok((SectorId::from(replica.sector), info))
    };
    job.replicas.iter().map(of).collect()
}

/// The way of the crate's `generate_window_post` and `generate_winning_post`, up to where Groth16 begins, for one partition.
fn post_witness(job: &PostJob) -> Result<Answer> {
    let config = post_config(job.size, job.winning)?;
    let infos = private_replicas(job)?;
    let opened = infos
        .iter()
        .map(|(id, info)| Ok((*id, info, info.merkle_tree(config.sector_size)?)))
        .collect::<Result<Vec<_>>>()?;
    // WinningPoSt lists its sector once per challenge.
    let vanilla_params = match job.winning {
        true => winning_post_setup_params(&config)?,
        false => window_post_setup_params(&config),
    };
    let times = match job.winning {
        true => vanilla_params.sector_count,
        false => 1,
    };
    let (mut public, mut private) = (Vec::new(), Vec::new());
    for (id, info, tree) in opened.iter().cycle().take(times * opened.len()) {
        public.push(PublicSector {
            id: *id,
            comm_r: info.safe_comm_r()?,
        });
        private.push(PrivateSector {
            tree,
            comm_c: info.safe_comm_c(),
            comm_r_last: info.safe_comm_r_last(),
        });
    }
    let public = fallback::PublicInputs {
        randomness: as_safe_commitment(&job.randomness, "randomness")?,
        prover_id: as_safe_commitment(&job.prover, "prover_id")?,
        sectors: public,
        k: None,
    };
    let private = fallback::PrivateInputs::<Tree> { sectors: &private };
    let params = FallbackPoSt::<Tree>::setup(&vanilla_params)?;
    let proofs = FallbackPoSt::prove_all_partitions(&params, &public, &private, 1)?;
    let proof = proofs.first().context("no partition")?;
    let circuit = FallbackPoStCompound::<Tree>::circuit(
        &public,
        Default::default(),
        proof,
        &params,
        Some(0),
    )?;
    Listener::of(circuit)
}

fn judge_seal(claim: &SealClaim) -> Answer {
    let job = &claim.job;
    let begun = Instant::now();
    let verdict = verify_seal::<Tree>(
        &porep(job),
        claim.comm_r,
        claim.comm_d,
        job.prover,
        SectorId::from(job.sector),
        job.ticket,
        job.seed,
        &claim.proof,
    );
    judged(begun, verdict)
}

fn judge_seals(claims: &[SealClaim]) -> Result<Answer> {
    let first = claims.first().context("no seal to judge")?;
    let all = |of: fn(&SealClaim) -> [u8; 32]| claims.iter().map(of).collect::<Vec<_>>();
    let numbers = claims.iter().map(|claim| SectorId::from(claim.job.sector));
    let proofs: Vec<&[u8]> = claims.iter().map(|claim| claim.proof.as_slice()).collect();
    let (comm_r, comm_d) = (all(|claim| claim.comm_r), all(|claim| claim.comm_d));
    let (tickets, seeds) = (all(|claim| claim.job.ticket), all(|claim| claim.job.seed));
    let (provers, numbers) = (all(|claim| claim.job.prover), numbers.collect::<Vec<_>>());
    let begun = Instant::now();
    let verdict = verify_batch_seal::<Tree>(
        &porep(&first.job),
        &comm_r,
        &comm_d,
        &provers,
        &numbers,
        &tickets,
        &seeds,
        &proofs,
    );
    Ok(judged(begun, verdict))
}

fn judge_post(job: &PostJob, proof: &[u8]) -> Result<Answer> {
    let config = post_config(job.size, job.winning)?;
    let mut replicas = Vec::new();
    for replica in &job.replicas {
        replicas.push((
            SectorId::from(replica.sector),
            PublicReplicaInfo::new(replica.comm_r)?,
        ));
    }
    let begun = Instant::now();
    let verdict = if job.winning {
        verify_winning_post::<Tree>(&config, &job.randomness, &replicas, job.prover, proof)
    } else {
        let replicas: BTreeMap<_, _> = replicas.into_iter().collect();
        verify_window_post::<Tree>(&config, &job.randomness, &replicas, job.prover, proof)
    };
    Ok(judged(begun, verdict))
}

/// An error of the peer's verifier (bytes that are no proof) is a refusal too.
fn judged(begun: Instant, verdict: Result<bool>) -> Answer {
    Answer {
        valid: Some(verdict.unwrap_or(false)),
        ..timed(begun)
    }
}

fn timed(begun: Instant) -> Answer {
    Answer {
        seconds: begun.elapsed().as_secs_f64(),
        ..Answer::default()
    }
}

fn porep(job: &SectorJob) -> PoRepConfig {
    PoRepConfig::new_groth16(job.size, job.porep_id, ApiVersion::V1_1_0)
}

fn post_config(size: u64, winning: bool) -> Result<PoStConfig> {
    let window = WINDOW_POST_SECTOR_COUNT
        .read()
        .map_err(|_| anyhow!("the peer's table is poisoned"))?
        .get(&size)
        .copied()
        .with_context(|| format!("the peer has no sectors of {size} bytes"))?;
    Ok(PoStConfig {
        sector_size: size.into(),
        challenge_count: if winning {
            WINNING_POST_CHALLENGE_COUNT
        } else {
            WINDOW_POST_CHALLENGE_COUNT
        },
        sector_count: if winning {
            WINNING_POST_SECTOR_COUNT
        } else {
            window
        },
        typ: if winning {
            PoStType::Winning
        } else {
            PoStType::Window
        },
        priority: false,
        // As the registered types have it: WindowPoSt draws by V1_2 (FIP-0061), WinningPoSt by the position among its 66.
        api_version: if winning {
            ApiVersion::V1_1_0
        } else {
            ApiVersion::V1_2_0
        },
    })
}

fn paths(job: &SectorJob) -> (PathBuf, PathBuf, PathBuf) {
    (
        job.dir.join("unsealed"),
        job.dir.join("sealed"),
        job.dir.join("cache"),
    )
}

fn peak_memory_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .context("no VmHWM")?;
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .context("no number")?
        .parse()?;
    Ok(kib << 10)
}
