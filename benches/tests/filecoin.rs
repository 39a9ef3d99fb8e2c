//! Interop with Filecoin's own prover, both ways, at 2 KiB (`HOLDFAST_PEER_SIZE=8MiB` for more): the same keys, the same
//! sector, proofs of each side judged by the other.
//!
//! ```text
//! cargo test --release -p benches --features filecoin --test filecoin -- --include-ignored
//! ```
//! The gate (`.ci/run`) leaves out the ignored two, for which the peer proves millions of constraints: that we take its PoRep is
//! asked there of recorded ones (`prover/tests/vectors.rs`). Keys are made on first use.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use benches::peer::{Ask, Peer, PostJob, SealClaim, SectorJob, UpdateClaim, UpdateJob};
use benches::{Keys, full_sector};
use prover::hash::sha256;
use prover::machine::{Machine, Plan};
use prover::piece::commp::commp_of;
use prover::post::proof::{
    ReplicaRef, prove_window, prove_winning, window_circuit, winning_circuit,
};
use prover::seal::{self, Replicated, SealRequest};
use prover::sector_dir::record::SectorFile;
use prover::snark::CircuitId;
use prover::snark::cs::Circuit;
use prover::snark::keys::{KeyError, ParamStore, ProvingKey};
use prover::snark::origin::Origin;
use prover::update::sector::{create, recover};
use prover::vectors::assignment;
use prover::verify::{
    self, PorepStatement, VerifyError, VerifyingKeys, WindowPostStatement, WinningPostStatement,
};
use prover::{CommR, NoProgress, PieceInfo, PostRandomness, SectorNumber, SectorSize, Seed};

/// The randomness of every sector here.
const SEED: Seed = Seed([0x43; 32]);

/// The peer beside us, and sectors on both sides.
struct Sectors {
    size: SectorSize,
    plan: Plan,
    peer: Peer,
    folder: tempfile::TempDir,
}

/// The same with one set of keys.
struct Both {
    sectors: Sectors,
    keys: [Arc<ProvingKey>; 3],
    verifying: VerifyingKeys,
}

impl Deref for Both {
    type Target = Sectors;

    fn deref(&self) -> &Sectors {
        &self.sectors
    }
}

impl DerefMut for Both {
    fn deref_mut(&mut self) -> &mut Sectors {
        &mut self.sectors
    }
}

impl Both {
    fn new() -> Self {
        let mut sectors = Sectors::new();
        let store = ParamStore::open(benches::params_dir()).expect("the cache folder");
        sectors.peer.link_keys(&store, sectors.size);
        let Keys { proving, verifying } = sectors.plan.run(|| Keys::of(&store, sectors.size));
        Self {
            sectors,
            keys: proving,
            verifying,
        }
    }
}

impl Sectors {
    fn new() -> Self {
        let size: SectorSize = std::env::var("HOLDFAST_PEER_SIZE")
            .unwrap_or_else(|_| "2KiB".into())
            .parse()
            .expect("HOLDFAST_PEER_SIZE is 2KiB, 8MiB or 512MiB");
        let plan = Plan::new(&Machine::detect()).expect("threads");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let peer = Peer::start(
            Path::new(env!("CARGO_BIN_EXE_filecoin-peer")),
            folder.path(),
            std::thread::available_parallelism().map_or(2, usize::from),
        );
        Self {
            size,
            plan,
            peer,
            folder,
        }
    }

    /// Compares our circuit's values with those that the peer records when asked.
    fn must_be_filecoins(&mut self, name: &str, ask: &Ask, circuit: &impl Circuit) {
        let record = self.peer.ask(ask).record.expect("a record");
        if let Err(why) = assignment::compare(&record, circuit) {
            panic!("{name} of {}: {why}", self.size);
        }
    }

    /// Where the files of one of our sectors are.
    fn ours(&self, number: u64) -> PathBuf {
        self.folder.path().join(format!("ours-{number}"))
    }

    /// One sector, replicated by both to the same commitments and bytes; gives ours and what the peer calls its own.
    fn replicate(&mut self, number: u64) -> (SealRequest, Replicated, SectorJob) {
        let (request, data) = full_sector(self.size, number);
        let ours = self.ours(number);
        let replicated = seal::create(&ours, request.clone(), &mut [&mut data.as_slice()])
            .expect("packed")
            .label(&self.plan, &NoProgress)
            .expect("labelled")
            .replicate(&self.plan, &NoProgress)
            .expect("replicated");
        let theirs = self.folder.path().join(format!("theirs-{number}"));
        let job = SectorJob::of(&request, SEED, &theirs, &data);
        self.peer.ask(&Ask::Pc1(job.clone()));
        let (comm_d, comm_r) = self
            .peer
            .ask(&Ask::Pc2(job.clone()))
            .commitments
            .expect("PC2 commits");
        assert_eq!(comm_d, replicated.comm_d().to_string(), "CommD");
        assert_eq!(comm_r, replicated.comm_r().to_string(), "CommR");
        let replica = ours.join(SectorFile::Sealed.name(self.size.shape().base_trees));
        assert!(
            std::fs::read(replica).expect("ours")
                == std::fs::read(theirs.join("sealed")).expect("theirs"),
            "the replicas differ"
        );
        (request, replicated, job)
    }

    /// Sectors 7 and 8, replicated by both.
    fn replicate_two(&mut self) -> [Replica; 2] {
        [7, 8].map(|number| {
            let (request, replicated, job) = self.replicate(number);
            Replica {
                comm_r: replicated.comm_r(),
                ours: self.ours(number),
                theirs: job.dir,
                request,
            }
        })
    }

    fn peer_accepts_seal(&mut self, statement: &PorepStatement, proof: &[u8]) -> bool {
        let ask = Ask::VerifySeal(SealClaim::new(statement, proof));
        self.peer.ask(&ask).valid.expect("a verdict")
    }

    fn peer_accepts_post(&mut self, job: PostJob, proof: &[u8]) -> bool {
        let proof = proof.to_vec();
        let ask = Ask::VerifyPost { job, proof };
        self.peer.ask(&ask).valid.expect("a verdict")
    }

    fn peer_posts(&mut self, job: PostJob) -> Vec<u8> {
        unhex(&self.peer.ask(&Ask::Post(job)).proof.expect("a proof"))
    }
}

/// A sector that is on both sides.
struct Replica {
    request: SealRequest,
    comm_r: CommR,
    /// Our folder.
    ours: PathBuf,
    /// The peer's.
    theirs: PathBuf,
}

impl Replica {
    fn here(&self) -> ReplicaRef<'_> {
        ReplicaRef {
            number: self.request.sector,
            comm_r: self.comm_r,
            dir: &self.ours,
        }
    }

    fn there(&self) -> (SectorNumber, CommR, PathBuf) {
        (self.request.sector, self.comm_r, self.theirs.clone())
    }
}

/// What a WindowPoSt over these sectors says.
fn window_of(
    size: SectorSize,
    randomness: PostRandomness,
    sectors: &[Replica; 2],
) -> WindowPostStatement {
    let listed = sectors.iter().map(|of| (of.request.sector, of.comm_r));
    WindowPostStatement {
        size,
        prover: sectors[0].request.prover,
        randomness,
        sectors: listed.collect(),
    }
}

/// What a proof of this sector says.
fn statement_of(request: &SealRequest, replicated: &Replicated) -> PorepStatement {
    PorepStatement {
        seal: request.seal,
        prover: request.prover,
        sector: request.sector,
        ticket: request.ticket,
        seed: SEED,
        comm_d: replicated.comm_d(),
        comm_r: replicated.comm_r(),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).expect("the peer writes hex")
}

/// A proof that has one bit of its last point's x flipped: no point any more, or another one.
fn bent(proof: &[u8]) -> Vec<u8> {
    let mut bent = proof.to_vec();
    let last = bent.len() - 1;
    bent[last] ^= 1;
    bent
}

/// Sectors that both replicate; the peer then runs its circuits over its own files and records their values, and ours are compared.
/// No keys are needed, so this is also what can be asked at 512 MiB.
#[test]
fn our_assignments_are_the_ones_that_filecoin_feeds_to_groth16() {
    let mut both = Sectors::new();
    let (request, replicated, job) = both.replicate(7);
    let challenged = replicated
        .challenge(SEED, &both.plan, &NoProgress)
        .expect("challenged");
    both.peer.ask(&Ask::C1(job.clone()));
    let porep = challenged.vanilla().circuit(0).expect("one partition");
    both.must_be_filecoins("PoRep", &Ask::PorepWitness(job.clone()), &porep);

    let (size, prover) = (both.size, request.prover);
    let (second, other, other_job) = both.replicate(8);
    let sectors = [
        Replica {
            comm_r: challenged.vanilla().comm_r,
            ours: both.ours(7),
            theirs: job.dir,
            request,
        },
        Replica {
            comm_r: other.comm_r(),
            ours: both.ours(8),
            theirs: other_job.dir,
            request: second,
        },
    ];
    let randomness = PostRandomness::masked([0x65; 32]);
    let refs = sectors.each_ref().map(Replica::here);
    let sealed_there = sectors.each_ref().map(Replica::there);
    let window = both
        .plan
        .run(|| window_circuit(size, randomness, &refs, &NoProgress))
        .expect("sound sectors");
    let ask = PostJob::new(false, size, prover, randomness, &sealed_there);
    both.must_be_filecoins("WindowPoSt", &Ask::PostWitness(ask), &window);
    let winning = both
        .plan
        .run(|| winning_circuit(size, randomness, refs[0], &NoProgress))
        .expect("a sound sector");
    let ask = PostJob::new(true, size, prover, randomness, &sealed_there[..1]);
    both.must_be_filecoins("WinningPoSt", &Ask::PostWitness(ask), &winning);
}

#[test]
fn filecoin_accepts_our_seal_and_refuses_a_changed_one() {
    let mut both = Both::new();
    let (request, replicated, _) = both.replicate(7);
    let statement = statement_of(&request, &replicated);
    let ours = replicated
        .challenge(SEED, &both.plan, &NoProgress)
        .expect("challenged")
        .prove(&both.keys[0], &both.plan, &NoProgress)
        .expect("proven");
    assert!(both.peer_accepts_seal(&statement, ours.proof()));
    assert!(!both.peer_accepts_seal(&statement, &bent(ours.proof())));
    let mut other = statement;
    other.sector = SectorNumber(8);
    assert!(!both.peer_accepts_seal(&other, ours.proof()));
}

#[test]
#[ignore = "the peer's PoRep takes more than a minute"]
fn we_accept_filecoins_seal_and_refuse_a_changed_one() {
    let mut both = Both::new();
    let (request, replicated, job) = both.replicate(7);
    let statement = statement_of(&request, &replicated);
    both.peer.ask(&Ask::C1(job.clone()));
    let theirs = unhex(&both.peer.ask(&Ask::C2(job)).proof.expect("C2 proves"));
    assert!(both.peer_accepts_seal(&statement, &theirs));
    assert_eq!(verify::porep(&both.verifying, &statement, &theirs), Ok(()));
    assert!(verify::porep(&both.verifying, &statement, &bent(&theirs)).is_err());
    let mut other = statement;
    other.sector = SectorNumber(8);
    assert!(matches!(
        verify::porep(&both.verifying, &other, &theirs),
        Err(VerifyError::Rejected)
    ));
}

#[test]
fn each_side_accepts_the_others_posts_and_refuses_changed_ones() {
    let mut both = Both::new();
    let sectors = both.replicate_two();
    let randomness = PostRandomness::masked([0x65; 32]);
    let (size, prover) = (both.size, sectors[0].request.prover);
    let refs = sectors.each_ref().map(Replica::here);
    let sealed_there = sectors.each_ref().map(Replica::there);

    // WindowPoSt over two sectors.
    let window = window_of(size, randomness, &sectors);
    let ours = both
        .plan
        .run(|| prove_window(&both.keys[1], size, prover, randomness, &refs, &NoProgress))
        .expect("a WindowPoSt");
    assert!(both.peer_accepts_post(PostJob::of_window(&window), &ours));
    assert!(!both.peer_accepts_post(PostJob::of_window(&window), &bent(&ours)));
    let job = PostJob::new(false, size, prover, randomness, &sealed_there);
    let theirs = both.peer_posts(job);
    assert_eq!(
        verify::window_post(&both.verifying, &window, &theirs),
        Ok(())
    );
    assert!(verify::window_post(&both.verifying, &window, &bent(&theirs)).is_err());

    // WinningPoSt of one.
    let winning = WinningPostStatement {
        size,
        prover,
        randomness,
        sector: (refs[0].number, refs[0].comm_r),
    };
    let ours = both
        .plan
        .run(|| {
            prove_winning(
                &both.keys[2],
                size,
                prover,
                randomness,
                refs[0],
                &NoProgress,
            )
        })
        .expect("a WinningPoSt");
    assert!(both.peer_accepts_post(PostJob::of_winning(&winning), &ours));
    assert!(!both.peer_accepts_post(PostJob::of_winning(&winning), &bent(&ours)));
    let job = PostJob::new(true, size, prover, randomness, &sealed_there[..1]);
    let theirs = both.peer_posts(job);
    assert_eq!(
        verify::winning_post(&both.verifying, &winning, &theirs),
        Ok(())
    );
    assert!(verify::winning_post(&both.verifying, &winning, &bent(&theirs)).is_err());
}

#[test]
fn filecoin_accepts_our_update_and_refuses_a_changed_one() {
    update_of_one_sector(Judged::Ours);
}

#[test]
#[ignore = "the peer's update takes a minute"]
fn we_accept_filecoins_update_and_refuse_a_changed_one() {
    update_of_one_sector(Judged::Theirs);
}

/// Whose proof the other side judges.
#[derive(PartialEq, Eq)]
enum Judged {
    Ours,
    Theirs,
}

/// A sector of zeros, replicated by both, and the same data put into it by both: the same commitments and bytes, and a proof
/// of one side before the other, under the same key.
fn update_of_one_sector(judged: Judged) {
    let mut both = Both::new();
    let size = both.size;
    let store = ParamStore::open(benches::params_dir()).expect("the cache folder");
    let circuit = CircuitId::update(size);
    let Sectors { plan, peer, .. } = &mut both.sectors;
    let paths = plan.run(|| peer.link_update_key(&store, size));
    let name = circuit.filecoin_name();
    assert_eq!(
        paths[0].0.file_name().and_then(|name| name.to_str()),
        Some(&*format!("{name}.params"))
    );
    let key = store
        .load_or_generate(circuit, &NoProgress)
        .expect("a proving key");
    let keys = VerifyingKeys::from_vk_bytes([(circuit, key.verifying_key().bytes())])
        .expect("a sound key");

    // The old sector: zeros.
    let (mut request, data) = full_sector(size, 9);
    let zeros = vec![0u8; data.len()];
    let (comm_p, padded) = commp_of(&zeros);
    request.pieces = vec![PieceInfo {
        comm_p,
        size: padded,
    }];
    let old = both.folder.path().join("ours-old");
    let replicated = seal::create(&old, request.clone(), &mut [&mut zeros.as_slice()])
        .expect("packed")
        .label(&both.plan, &NoProgress)
        .expect("labelled")
        .replicate(&both.plan, &NoProgress)
        .expect("replicated");
    let comm_r_old = replicated.comm_r();
    drop(replicated);
    let theirs_old = both.folder.path().join("theirs-old");
    let job = SectorJob::of(&request, SEED, &theirs_old, &zeros);
    both.peer.ask(&Ask::Pc1(job.clone()));
    let sealed = both.peer.ask(&Ask::Pc2(job.clone())).commitments;
    assert_eq!(
        sealed.map(|(_, comm_r)| comm_r),
        Some(comm_r_old.to_string())
    );

    // The same data over it.
    let new = both.folder.path().join("ours-new");
    let (comm_p, padded) = commp_of(&data);
    let pieces = vec![PieceInfo {
        comm_p,
        size: padded,
    }];
    let updated = create(
        &new,
        &old,
        pieces,
        &mut [&mut data.as_slice()],
        &both.plan,
        &NoProgress,
    )
    .expect("updated");
    let statement = updated.statement().clone();
    let dir = both.folder.path().join("theirs-new");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("data"), &data).expect("the piece's bytes");
    let job = UpdateJob {
        old: job,
        dir: dir.clone(),
    };
    let encoded = both.peer.ask(&Ask::Encode(job.clone())).commitments;
    let expected = (
        statement.comm_d_new.to_string(),
        statement.comm_r_new.to_string(),
    );
    assert_eq!(encoded, Some(expected), "CommD and CommR after the update");
    let replica = |dir: &Path| std::fs::read(dir.join("sealed")).expect("a replica");
    assert!(replica(&new) == replica(&dir), "the new replicas differ");

    let mut other = statement.clone();
    std::mem::swap(&mut other.comm_r_old, &mut other.comm_r_new);
    if judged == Judged::Ours {
        let updated = updated
            .prove(&old, &key, &both.plan, &NoProgress)
            .expect("proven");
        let ours = updated.proof().expect("proven").to_vec();
        let mut accepts = |statement: &verify::UpdateStatement, proof: &[u8]| {
            let ask = Ask::VerifyUpdate(UpdateClaim::new(statement, proof));
            both.peer.ask(&ask).valid.expect("a verdict")
        };
        assert!(accepts(&statement, &ours));
        assert!(!accepts(&statement, &bent(&ours)));
        assert!(!accepts(&other, &ours));
        return;
    }
    let claim = UpdateClaim::new(&statement, &[]);
    let theirs = both.peer.ask(&Ask::ProveUpdate { job, claim }).proof;
    let theirs = unhex(&theirs.expect("a proof"));
    assert_eq!(verify::update(&keys, &statement, &theirs), Ok(()));
    assert_eq!(
        verify::update(&keys, &other, &theirs),
        Err(VerifyError::Rejected)
    );

    // Their replica decodes here.
    let mut back = Vec::new();
    let range = 0..size.unpadded_bytes();
    std::fs::copy(dir.join("sealed"), new.join("sealed")).expect("copied");
    recover(&new, &old, range, &mut back, &both.plan, &NoProgress).expect("decoded");
    assert!(back == data, "other data came back");
}

/// A `.params` file that Filecoin's own generator wrote, with secrets and generators of its own: imported, it proves here what
/// its maker verifies under its key, and what its maker proves with it verifies here.
#[test]
fn a_key_that_filecoin_made_proves_here() {
    let mut both = Both::new();
    let (size, circuit) = (both.size, CircuitId::window(both.size));
    let ask = Ask::MakePostKeys {
        winning: false,
        size: size.bytes(),
        keep: true,
    };
    let paths = both.peer.ask(&ask).paths;
    let (params, vk) = &paths[0];
    let name = format!("{}.params", circuit.filecoin_name());
    assert_eq!(
        params.file_name().and_then(|name| name.to_str()),
        Some(&*name)
    );
    let vk = std::fs::read(vk).expect("its verifying key");

    // Nobody stands for such a key: a store takes it at its caller's word alone.
    let store = ParamStore::open(both.folder.path().join("imported")).expect("a store");
    let refused = both.plan.run(|| store.import(circuit, params, &NoProgress));
    assert!(matches!(refused, Err(KeyError::Unknown { .. })));
    let store = store.trusting(circuit, hex::encode(sha256::digest(&[&vk])));
    let origin = both
        .plan
        .run(|| store.import(circuit, params, &NoProgress))
        .expect("a sound key");
    assert_eq!(origin, Origin::Named);
    let key = both
        .plan
        .run(|| store.load_or_generate(circuit, &NoProgress))
        .expect("imported");
    assert_eq!(key.verifying_key().bytes(), vk);
    let verifying = VerifyingKeys::from_vk_bytes([(circuit, &vk[..])]).expect("a sound key");

    let sectors = both.replicate_two();
    let randomness = PostRandomness::masked([0x65; 32]);
    let prover = sectors[0].request.prover;
    let statement = window_of(size, randomness, &sectors);
    let refs = sectors.each_ref().map(Replica::here);
    let prove = |key: &ProvingKey| {
        both.plan
            .run(|| prove_window(key, size, prover, randomness, &refs, &NoProgress))
            .expect("a WindowPoSt")
    };
    let (ours, under_our_own) = (prove(&key), prove(&both.keys[1]));

    assert_eq!(verify::window_post(&verifying, &statement, &ours), Ok(()));
    assert!(both.peer_accepts_post(PostJob::of_window(&statement), &ours));
    assert!(!both.peer_accepts_post(PostJob::of_window(&statement), &bent(&ours)));
    // It is the peer's key that accepts, not ours.
    assert!(!both.peer_accepts_post(PostJob::of_window(&statement), &under_our_own));
    let sealed_there = sectors.each_ref().map(Replica::there);
    let job = PostJob::new(false, size, prover, randomness, &sealed_there);
    let theirs = both.peer_posts(job);
    assert_eq!(verify::window_post(&verifying, &statement, &theirs), Ok(()));
    assert!(matches!(
        verify::window_post(&both.verifying, &statement, &theirs),
        Err(VerifyError::Rejected)
    ));
}
