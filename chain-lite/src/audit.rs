//! The auditor: replays an exported chain from its genesis and believes nothing on the way.
//!
//! Walk: `holdfast chain export` → [`replay`] here, on another machine, offline. Every block is judged as a validator would:
//! record digests, header chain, certificate, beacon signatures, transaction signatures, execution by the same pure
//! [`execute::apply`], **every Groth16 proof with the real verifier over genesis' keys**, state and receipt roots against the next
//! header, the supply identity after every block and all invariants at the end.
//! What it needs: the file, and the chain id from a source one trusts (`DESIGN.md` §6, promise 7).
//!
//! A [`Visitor`] sees each block with what it did; [`SectorHistory`] and [`FileAudit`] are made that way. [`ProofDocument`] is one
//! proof with its statement as JSON, for `audit proof`.
//! Cost: 0.4 ms a block for its beacon, about 3 ms a proof, 40 µs a signature; memory: the state and its tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use prover::snark::CircuitId;
use prover::spec::{RegisteredSeal, SectorSize};
use prover::verify::{
    self, PorepStatement, Statement, VerifyError, VerifyingKeys, WindowPostStatement,
};
use prover::{CommD, CommR, PostRandomness, ProverId, SectorNumber, Seed, Ticket};
use serde::{Deserialize, Serialize};

use crate::account::{Address, Blake3Root, ChainId, DealId, ProviderId, TxId};
use crate::beacon::{BeaconSchedule, Entry};
use crate::block::{BlockId, FinalBlock, Outcomes};
use crate::deal::{Deal, DealStatus};
use crate::error::StoreError;
use crate::events::{Event, EventRecord};
use crate::execute::{Applied, BlockCtx, ProofError, ProofVerifier};
use crate::genesis::{CheckedGenesis, Genesis, NetworkKind};
use crate::governance;
use crate::invariants;
use crate::ledger::{self, Front, LedgerError, Slot, Tip};
use crate::log::{BEGINS_AT_SNAPSHOT, ChainFile, LogError, Mark};
use crate::message::Message;
use crate::moment::Moment;
use crate::proofs::Claim;
use crate::query::{self, SectorView};
use crate::sector::dispute::{self, PostId};
use crate::state::{self, KvRead, MemoryState, Network, key};
use crate::tree::MemoryTree;
use crate::units::{Epoch, TokenAmount};

mod sets;

use sets::SetsOfFile;

/// The real verifier: Groth16 over the keys of genesis.
#[derive(Clone, Debug)]
pub struct Groth16Verifier {
    keys: VerifyingKeys,
}

impl Groth16Verifier {
    /// Over checked keys, usually [`CheckedGenesis::keys`].
    pub fn new(keys: VerifyingKeys) -> Self {
        Self { keys }
    }
}

/// Which verdicts are the sender's fault and which are this node's.
fn verdict(result: Result<(), VerifyError>) -> Result<(), ProofError> {
    result.map_err(|error| match error {
        VerifyError::NoKey(_) | VerifyError::InputCount { .. } => {
            ProofError::Unable(error.to_string())
        }
        VerifyError::Statement(_) | VerifyError::Bytes(_) | VerifyError::Rejected => {
            ProofError::Rejected(error.to_string())
        }
    })
}

impl ProofVerifier for Groth16Verifier {
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError> {
        verdict(verify::porep(&self.keys, statement, proof))
    }
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError> {
        verdict(verify::window_post(&self.keys, statement, proof))
    }
    fn batch(&self, claims: &[Claim]) -> Vec<Result<(), ProofError>> {
        fn item(claim: &Claim) -> (Statement, &[u8]) {
            match claim {
                Claim::Porep(statement, proof) => (Statement::Porep(statement.clone()), proof),
                Claim::Window(statement, proof) => (Statement::Window(statement.clone()), proof),
            }
        }
        let batch = |claims: &[Claim]| {
            let items: Vec<_> = claims.iter().map(item).collect();
            verify::batch(&self.keys, &items)
        };
        let verdicts = claims.chunks(BATCH).flat_map(batch);
        verdicts.map(verdict).collect()
    }
}

/// Proofs verified at once: the public inputs of a window PoSt of production are 0.8 MB, and more than these save little more.
const BATCH: usize = 64;

/// One proof with what it proves: the file that `audit proof` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProofDocument {
    /// A sector's proof of replication.
    Porep {
        /// Proof type.
        seal: RegisteredSeal,
        /// Who sealed.
        prover: ProverId,
        /// The sector.
        sector: SectorNumber,
        /// Bound into the replica.
        ticket: Ticket,
        /// Chose the challenges.
        seed: Seed,
        /// The data.
        comm_d: CommD,
        /// The replica.
        comm_r: CommR,
        /// The proof.
        #[serde(with = "crate::codec::hex_bytes")]
        proof: Vec<u8>,
    },
    /// A window PoSt of one partition.
    WindowPost {
        /// Size of the sectors.
        sector_size: SectorSize,
        /// Whose.
        prover: ProverId,
        /// Chose the leaves.
        randomness: PostRandomness,
        /// Sectors, ascending.
        sectors: Vec<ProvenSector>,
        /// The proof.
        #[serde(with = "crate::codec::hex_bytes")]
        proof: Vec<u8>,
    },
}

/// A sector in a window PoSt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenSector {
    /// Its number.
    pub number: SectorNumber,
    /// Its replica.
    pub comm_r: CommR,
}

impl ProofDocument {
    /// Of a PoRep.
    pub fn porep(s: &PorepStatement, proof: &[u8]) -> Self {
        Self::Porep {
            seal: s.seal,
            prover: s.prover,
            sector: s.sector,
            ticket: s.ticket,
            seed: s.seed,
            comm_d: s.comm_d,
            comm_r: s.comm_r,
            proof: proof.to_vec(),
        }
    }

    /// Of a window PoSt.
    pub fn window_post(s: &WindowPostStatement, proof: &[u8]) -> Self {
        let sectors = s.sectors.iter().map(|(number, comm_r)| ProvenSector {
            number: *number,
            comm_r: *comm_r,
        });
        Self::WindowPost {
            sector_size: s.size,
            prover: s.prover,
            randomness: s.randomness,
            sectors: sectors.collect(),
            proof: proof.to_vec(),
        }
    }

    /// The circuit whose key verifies it.
    pub fn circuit(&self) -> CircuitId {
        match self {
            Self::Porep { seal, .. } => CircuitId::porep(seal.size),
            Self::WindowPost { sector_size, .. } => CircuitId::window(*sector_size),
        }
    }

    /// Checks the proof.
    pub fn verify(&self, keys: &VerifyingKeys) -> Result<(), VerifyError> {
        match self.clone() {
            Self::Porep {
                seal,
                prover,
                sector,
                ticket,
                seed,
                comm_d,
                comm_r,
                proof,
            } => {
                let statement = PorepStatement {
                    seal,
                    prover,
                    sector,
                    ticket,
                    seed,
                    comm_d,
                    comm_r,
                };
                verify::porep(keys, &statement, &proof)
            }
            Self::WindowPost {
                sector_size,
                prover,
                randomness,
                sectors,
                proof,
            } => {
                let sectors = sectors.iter().map(|s| (s.number, s.comm_r)).collect();
                let statement = WindowPostStatement {
                    size: sector_size,
                    prover,
                    randomness,
                    sectors,
                };
                verify::window_post(keys, &statement, &proof)
            }
        }
    }

    /// Whether it speaks of this sector.
    pub fn covers(&self, provider: ProviderId, number: SectorNumber) -> bool {
        match self {
            Self::Porep { prover, sector, .. } => {
                *prover == provider.prover_id() && *sector == number
            }
            Self::WindowPost {
                prover, sectors, ..
            } => *prover == provider.prover_id() && sectors.iter().any(|s| s.number == number),
        }
    }
}

/// Any bytes as a proof document: refused, or judged without panic, and never valid without a key. Body of the fuzz target.
pub fn fuzz_proof_document(bytes: &[u8]) {
    if let Ok(document) = serde_json::from_slice::<ProofDocument>(bytes) {
        assert!(document.verify(&VerifyingKeys::default()).is_err());
    }
}

/// A proof that a block asked about, and this auditor's verdict.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProofRecord {
    /// The block.
    pub height: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The proof and its statement.
    pub document: ProofDocument,
    /// Why it was rejected, if it was (the transaction then failed on chain too, unless the chain took it unverified).
    pub rejected: Option<String>,
}

/// Verifies, and remembers what it was asked.
struct Recorder<'a> {
    inner: &'a dyn ProofVerifier,
    seen: Mutex<Vec<(ProofDocument, Option<String>)>>,
}

impl Recorder<'_> {
    fn note(&self, document: ProofDocument, result: &Result<(), ProofError>) {
        let rejected = result.as_ref().err().map(ToString::to_string);
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((document, rejected));
    }
}

impl ProofVerifier for Recorder<'_> {
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError> {
        let result = self.inner.porep(statement, proof);
        self.note(ProofDocument::porep(statement, proof), &result);
        result
    }
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError> {
        let result = self.inner.window_post(statement, proof);
        self.note(ProofDocument::window_post(statement, proof), &result);
        result
    }
}

/// Why a file cannot even be begun.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It cannot be read, is no chain file, or its beginning is damaged.
    #[error(transparent)]
    File(#[from] LogError),
    /// Its genesis is refused.
    #[error("the file's genesis is refused: {0}")]
    Genesis(#[from] crate::genesis::GenesisError),
    /// It has no genesis record.
    #[error("the file holds no genesis record; it is truncated, export again")]
    NoGenesis,
    /// It is of another chain than the one asked for.
    #[error("the file holds chain {found}, not {expected}; ask for an export of the right network")]
    WrongChain {
        /// Asked for.
        expected: ChainId,
        /// Found.
        found: ChainId,
    },
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The block at which it was noticed.
    pub height: u64,
    /// What does not hold.
    pub what: String,
}

/// The result of a replay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditReport {
    /// The chain.
    pub chain_id: ChainId,
    /// Its name for people.
    pub chain_name: String,
    /// Devnet or public.
    pub kind: NetworkKind,
    /// Whether proofs of this chain can be forged by anybody, because its keys were made locally.
    pub insecure_keys: bool,
    /// Hash of the verifying keys.
    #[serde(with = "crate::codec::hex_array")]
    pub keys_hash: [u8; 32],
    /// Whether the file is an export with an end mark (a copied log may end anywhere).
    pub complete: bool,
    /// Blocks replayed.
    pub blocks: u64,
    /// Epoch of the last one.
    pub epoch: Epoch,
    /// Transactions in them.
    pub txs: u64,
    /// Transactions that failed or were refused on chain.
    pub txs_failed: u64,
    /// Groth16 proofs that were verified again and hold.
    pub proofs_verified: u64,
    /// Proofs that do not hold (and whose transactions failed on chain too).
    pub proofs_rejected: u64,
    /// Beacon rounds verified.
    pub beacons_verified: u64,
    /// Sector faults seen.
    pub faults: u64,
    /// State root after the last block.
    #[serde(with = "crate::codec::hex_array")]
    pub state_root: [u8; 32],
    /// Id of the last block.
    pub tip: BlockId,
    /// Whether every unit of money was accounted for after every block.
    pub supply_ok: bool,
    /// The network's totals at the end.
    pub totals: Network,
    /// What does not hold; empty for a sound chain.
    pub failures: Vec<Failure>,
}

impl AuditReport {
    /// Whether everything holds.
    pub fn ok(&self) -> bool {
        self.failures.is_empty() && self.supply_ok
    }
}

/// A block as the auditor replayed it.
pub struct Replayed<'a> {
    /// The block and its certificate.
    pub last: &'a FinalBlock,
    /// Its id.
    pub id: BlockId,
    /// Ids of its transactions.
    pub txs: &'a [TxId],
    /// What it did.
    pub outcomes: &'a Outcomes,
    /// Proofs it asked about.
    pub proofs: &'a [ProofRecord],
    /// Bytes of the file read so far.
    pub bytes_read: u64,
}

/// A block's events with the state that it was applied to: what an explanation needs.
pub struct BlockFacts<'a> {
    /// The state before it.
    pub before: &'a dyn KvRead,
    /// Epoch of the block before.
    pub parent: Epoch,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its height.
    pub height: u64,
    /// Its events, in order.
    pub events: &'a [EventRecord],
    /// As [`Applied::epoch_ends`].
    pub epoch_ends: &'a [usize],
    /// All money gone after it.
    pub burnt_after: TokenAmount,
}

impl<'a> BlockFacts<'a> {
    /// Of a block that was applied to `before`.
    pub fn new(
        before: &'a dyn KvRead,
        context: &BlockCtx,
        applied: &'a Applied,
    ) -> Result<Self, StoreError> {
        let written = applied.writes.get(&key::network());
        let after = match written.and_then(Option::as_ref) {
            Some(bytes) => state::decode(&key::network(), bytes)?,
            None => query::totals(before)?,
        };
        Ok(Self {
            parent: query::totals(before)?.epoch,
            before,
            epoch: context.epoch,
            height: context.height,
            events: &applied.events,
            epoch_ends: &applied.epoch_ends,
            burnt_after: after.burnt,
        })
    }

    /// Each epoch that the block began, with its events.
    pub fn epochs(&self) -> impl Iterator<Item = (Epoch, &'a [EventRecord])> + '_ {
        let last = self.epoch_ends.len().saturating_sub(1);
        let mut from = 0;
        let mut epoch = self.parent;
        self.epoch_ends.iter().enumerate().map(move |(i, &end)| {
            // The transactions' belong to the block's own epoch, the last one.
            let until = if i == last { self.events.len() } else { end };
            epoch = epoch.next();
            let events = self.events.get(from..until).unwrap_or_default();
            from = until;
            (epoch, events)
        })
    }
}

/// Looks at each replayed block.
pub trait Visitor {
    /// Called many times while a block is applied, in order, before [`Visitor::before`]; not for blocks that are refused
    /// before that.
    fn moment(&mut self, _moment: &Moment<'_>) {}
    /// Called once per block, in order, before the state takes its writes.
    fn before(&mut self, _facts: &BlockFacts<'_>) {}
    /// Called once per block, in order.
    fn block(&mut self, block: &Replayed<'_>);
}

impl<F: FnMut(&Replayed<'_>)> Visitor for F {
    fn block(&mut self, block: &Replayed<'_>) {
        self(block);
    }
}

/// A replayed chain: the report, and the state for questions.
pub struct Replay {
    /// What was found.
    pub report: AuditReport,
    /// The state after the last sound block.
    pub state: MemoryState,
    /// The chain's genesis.
    pub genesis: CheckedGenesis,
}

/// Reads the genesis of a chain file and nothing else.
pub fn genesis_of(path: &Path) -> Result<CheckedGenesis, AuditError> {
    Ok(open(path, None)?.1)
}

fn open(path: &Path, expected: Option<ChainId>) -> Result<(ChainFile, CheckedGenesis), AuditError> {
    let mut file = ChainFile::open(path)?;
    let (_, bytes) = file.next_record()?.ok_or(AuditError::NoGenesis)?;
    let genesis = Genesis::from_bytes(&bytes)?.check()?;
    let found = genesis.chain_id();
    // The file's head names the chain too; a genesis that hashes to something else was exchanged.
    if found.0 != file.chain_id {
        return Err(AuditError::WrongChain {
            expected: ChainId(file.chain_id),
            found,
        });
    }
    match expected {
        Some(expected) if expected != found => Err(AuditError::WrongChain { expected, found }),
        _ => Ok((file, genesis)),
    }
}

/// As [`open`], for who needs every block.
fn open_whole(
    path: &Path,
    expected: Option<ChainId>,
) -> Result<(ChainFile, CheckedGenesis), AuditError> {
    let (file, genesis) = open(path, expected)?;
    match file.begins_at_snapshot {
        true => Err(LogError::NotALog(BEGINS_AT_SNAPSHOT.into()).into()),
        false => Ok((file, genesis)),
    }
}

/// Replays a chain file. `expected` is the chain id from a trusted source, if the caller has one.
///
/// Damage and broken rules are findings ([`AuditReport::failures`]); the replay ends at the first one, because nothing after it can be
/// judged.
pub fn replay(
    path: &Path,
    expected: Option<ChainId>,
    visitor: &mut dyn Visitor,
) -> Result<Replay, AuditError> {
    let (file, genesis) = open_whole(path, expected)?;
    let verifier = Groth16Verifier::new(genesis.keys().clone());
    Ok(replay_with(file, genesis, &verifier, visitor))
}

/// An export must end with its mark; a node may be writing to its own log right now.
fn next_of(file: &mut ChainFile) -> Result<Option<(Mark, Vec<u8>)>, LogError> {
    match file.is_export {
        true => file.next_record(),
        false => file.next_finished_record(),
    }
}

/// Result of [`verify_file`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileReport {
    /// The chain.
    pub chain_id: ChainId,
    /// Its name for people.
    pub chain_name: String,
    /// Whether the file ends with an export's end mark.
    pub complete: bool,
    /// Blocks in it.
    pub blocks: u64,
    /// Id of the last one.
    pub tip: BlockId,
    /// Epoch of the last one.
    pub epoch: Epoch,
    /// Transactions.
    pub txs: u64,
    /// Bytes.
    pub bytes: u64,
    /// What does not hold.
    pub failures: Vec<Failure>,
}

impl FileReport {
    /// Whether everything holds.
    pub fn ok(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Checks what needs no execution: digests, the chain of headers, certificates, body roots. Quick, for a file just copied; an
/// auditor uses [`replay`].
pub fn verify_file(
    path: &Path,
    expected: Option<ChainId>,
    progress: &mut dyn FnMut(u64),
) -> Result<FileReport, AuditError> {
    let (mut file, genesis) = open_whole(path, expected)?;
    let mut sets = SetsOfFile::new(&genesis);
    let mut report = FileReport {
        chain_id: genesis.chain_id(),
        chain_name: genesis.genesis().chain_name.clone(),
        complete: file.is_export,
        blocks: 0,
        tip: genesis.parent_of_first(),
        epoch: Epoch(0),
        txs: 0,
        bytes: file.len_bytes()?,
        failures: vec![],
    };
    loop {
        let checked = match next_of(&mut file) {
            Ok(Some((mark, payload))) => {
                progress(mark.end);
                check_linked(&genesis, &mut report, &mut sets, &payload)
            }
            Ok(None) => return Ok(report),
            Err(error) => Err(error.to_string()),
        };
        if let Err(what) = checked {
            report.complete = false;
            report.failures.push(Failure {
                height: report.blocks + 1,
                what,
            });
            return Ok(report);
        }
    }
}

fn check_linked(
    genesis: &CheckedGenesis,
    report: &mut FileReport,
    sets: &mut SetsOfFile,
    payload: &[u8],
) -> Result<(), String> {
    let last =
        FinalBlock::from_bytes(payload).map_err(|e| format!("the block cannot be read: {e}"))?;
    let header = &last.block.header;
    let id = last.block.id();
    if header.height != report.blocks + 1
        || header.parent_id != report.tip
        || header.epoch <= report.epoch
    {
        return Err("it does not continue the block before".into());
    }
    if header.tx_root != last.block.body.root() {
        return Err("its body is not the one its header commits to".into());
    }
    ledger::check_limits(&last.block.body).map_err(|e| e.to_string())?;
    sets.narrow(header)?;
    last.certificate
        .verify(&genesis.chain_id(), header.height, &id, &sets.now)
        .map_err(|e| e.to_string())?;
    sets.widen(&last.block).map_err(|e| e.to_string())?;
    report.blocks += 1;
    report.txs += last.block.body.txs.len() as u64;
    (report.tip, report.epoch) = (id, header.epoch);
    Ok(())
}

fn replay_with(
    mut file: ChainFile,
    genesis: CheckedGenesis,
    verifier: &dyn ProofVerifier,
    visitor: &mut dyn Visitor,
) -> Replay {
    let mut machine = Machine::new(&genesis);
    machine.report.complete = file.is_export;
    loop {
        let next = machine.report.blocks + 1;
        match next_of(&mut file) {
            Ok(Some((mark, payload))) => {
                let stepped = machine.step(&genesis, verifier, &payload, mark.end, visitor);
                let mut stepped = stepped.map_err(|what| Failure { height: next, what });
                if machine.rounds.len() >= ROUNDS_AT_ONCE || stepped.is_err() {
                    // A wrong beacon value makes later roots wrong too: the earlier cause is the one to name.
                    stepped = machine.verify_rounds(&genesis).and(stepped);
                }
                if let Err(failure) = stepped {
                    machine.report.failures.push(failure);
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                machine.report.complete = false;
                let what = error.to_string();
                machine.report.failures.push(Failure { height: next, what });
                break;
            }
        }
    }
    if let Err(failure) = machine.verify_rounds(&genesis) {
        machine.report.failures.insert(0, failure);
    }
    machine.finish();
    Replay {
        report: machine.report,
        state: machine.state,
        genesis,
    }
}

/// The auditor's own node: a state, a tree, and what the last block left behind.
struct Machine {
    state: MemoryState,
    tree: MemoryTree,
    receipt_root: [u8; 32],
    time_ms: u64,
    /// Beacon entries whose signatures are still to be verified, with the height that carried them.
    rounds: Vec<(u64, (Epoch, Entry))>,
    report: AuditReport,
}

/// Beacon signatures verified in one batch.
const ROUNDS_AT_ONCE: usize = 128;

impl Machine {
    /// Verifies the beacon signatures that were put off.
    fn verify_rounds(&mut self, genesis: &CheckedGenesis) -> Result<(), Failure> {
        let (heights, entries): (Vec<u64>, Vec<(Epoch, Entry)>) = self.rounds.drain(..).unzip();
        match genesis.beacons().first_bad(&entries) {
            None => {
                self.report.beacons_verified += entries.len() as u64;
                Ok(())
            }
            Some((at, error)) => Err(Failure {
                height: heights[at],
                what: error.to_string(),
            }),
        }
    }

    fn new(genesis: &CheckedGenesis) -> Self {
        let writes = genesis.writes();
        let mut state = MemoryState::default();
        state.commit(&writes);
        let mut tree = MemoryTree::default();
        let state_root = tree
            .apply(0, &writes)
            .expect("a tree in memory can be read, and genesis has leaves");
        let words = genesis.genesis();
        let report = AuditReport {
            chain_id: genesis.chain_id(),
            chain_name: words.chain_name.clone(),
            kind: words.kind,
            insecure_keys: genesis.has_insecure_keys(),
            keys_hash: genesis.keys().hash(),
            complete: false,
            blocks: 0,
            epoch: Epoch(0),
            txs: 0,
            txs_failed: 0,
            proofs_verified: 0,
            proofs_rejected: 0,
            beacons_verified: 0,
            faults: 0,
            state_root,
            tip: genesis.parent_of_first(),
            supply_ok: true,
            totals: Network::default(),
            failures: Vec::new(),
        };
        Self {
            state,
            tree,
            receipt_root: Outcomes::default().root(),
            time_ms: words.time_ms,
            rounds: Vec::new(),
            report,
        }
    }

    fn step(
        &mut self,
        genesis: &CheckedGenesis,
        verifier: &dyn ProofVerifier,
        payload: &[u8],
        bytes_read: u64,
        visitor: &mut dyn Visitor,
    ) -> Result<(), String> {
        let last = FinalBlock::from_bytes(payload)
            .map_err(|e| format!("the block cannot be read: {e}"))?;
        let header = &last.block.header;
        let id = last.block.id();
        let (front, slot) = (self.front()?, Slot::of(&last.certificate));
        ledger::follows(genesis, &front, &last.block, slot).map_err(|e| e.to_string())?;
        last.certificate
            .verify(&genesis.chain_id(), header.height, &id, &front.validators)
            .map_err(|e| e.to_string())?;
        let beacons =
            ledger::check_body(genesis, &front, &last.block, BeaconSchedule::check_rounds)
                .map_err(|e| e.to_string())?;
        let due = beacons.iter().zip(&last.block.body.beacons);
        self.rounds
            .extend(due.map(|((of, _), entry)| (header.height, (*of, entry.clone()))));
        let txs = ledger::check_all(last.block.body.txs.clone(), &genesis.chain_id())
            .map_err(|e| e.to_string())?;
        let context = ledger::context_of(header, beacons);
        let recorder = Recorder {
            inner: verifier,
            seen: Mutex::default(),
        };
        let applied =
            ledger::apply_watched(&self.state, &context, &txs, &recorder, &mut |moment| {
                visitor.moment(moment);
            })
            .map_err(|error| {
                // Broken sums say of themselves what they are; the report says it of the whole chain.
                self.report.supply_ok &= !matches!(error, LedgerError::Invariant { .. });
                error.to_string()
            })?;
        let facts = BlockFacts::new(&self.state, &context, &applied).map_err(|e| e.to_string())?;
        visitor.before(&facts);
        self.state.commit(&applied.writes);
        self.report.state_root = self
            .tree
            .apply(header.height, &applied.writes)
            .map_err(|e| e.to_string())?;
        let outcomes = Outcomes {
            receipts: applied.receipts,
            events: applied.events,
        };
        self.receipt_root = outcomes.root();
        self.time_ms = header.time_ms;
        let seen = recorder
            .seen
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let record = |(document, rejected)| ProofRecord {
            height: header.height,
            epoch: header.epoch,
            document,
            rejected,
        };
        let stored = self.stored_proofs(verifier, &outcomes)?;
        let proofs: Vec<ProofRecord> = seen.into_iter().chain(stored).map(record).collect();
        self.count(&last, id, &outcomes, &proofs);
        let ids: Vec<TxId> = txs.iter().map(|t| t.id()).collect();
        visitor.block(&Replayed {
            last: &last,
            id,
            txs: &ids,
            outcomes: &outcomes,
            proofs: &proofs,
            bytes_read,
        });
        Ok(())
    }

    /// The proofs that the chain took unverified in this block (optimistic mode), verified here all the same.
    fn stored_proofs(
        &self,
        verifier: &dyn ProofVerifier,
        outcomes: &Outcomes,
    ) -> Result<Vec<(ProofDocument, Option<String>)>, String> {
        let mut proofs = Vec::new();
        for id in outcomes.events.iter().filter_map(|e| PostId::of(&e.event)) {
            // A post that was disputed in the same block was verified then.
            let Some(post) = dispute::stored(&self.state, &id).map_err(|e| e.to_string())? else {
                continue;
            };
            let statement = dispute::statement_of(&self.state, &id, &post);
            let statement = statement.map_err(|e| e.to_string())?;
            let verdict = verifier.window_post(&statement, &post.proof);
            let document = ProofDocument::window_post(&statement, &post.proof);
            proofs.push((document, verdict.err().map(|e| e.to_string())));
        }
        Ok(proofs)
    }

    /// The chain so far, as the ledger's own rules want it.
    fn front(&self) -> Result<Front, String> {
        let sets = governance::sets(&self.state).map_err(|e| e.to_string())?;
        let (validators, next) = sets.ok_or("the state has no validators")?;
        let before = &self.report;
        Ok(Front {
            tip: Tip {
                height: before.blocks,
                id: before.tip,
                epoch: before.epoch,
                time_ms: self.time_ms,
                state_root: before.state_root,
                receipt_root: self.receipt_root,
            },
            validators: Arc::new(validators),
            next_validators: Arc::new(next),
            beacon_tip: self.totals()?.beacon_tip,
        })
    }

    fn count(
        &mut self,
        last: &FinalBlock,
        id: BlockId,
        outcomes: &Outcomes,
        proofs: &[ProofRecord],
    ) {
        let report = &mut self.report;
        report.blocks += 1;
        report.tip = id;
        report.epoch = last.block.header.epoch;
        report.txs += outcomes.receipts.len() as u64;
        report.txs_failed += outcomes.receipts.iter().filter(|r| !r.succeeded()).count() as u64;
        report.proofs_verified += proofs.iter().filter(|p| p.rejected.is_none()).count() as u64;
        report.proofs_rejected += proofs.iter().filter(|p| p.rejected.is_some()).count() as u64;
        report.faults += outcomes
            .events
            .iter()
            .filter(|e| matches!(e.event, Event::SectorFaulted { .. }))
            .count() as u64;
    }

    fn totals(&self) -> Result<Network, String> {
        query::totals(&self.state).map_err(|e| e.to_string())
    }

    fn finish(&mut self) {
        let height = self.report.blocks;
        match self.totals() {
            Ok(totals) => self.report.totals = totals,
            Err(what) => self.report.failures.push(Failure { height, what }),
        }
        match invariants::check(&self.state) {
            Ok(violations) => {
                self.report.supply_ok &= violations.iter().all(|v| v.rule != "I1");
                let found = violations.iter().map(|v| Failure {
                    height,
                    what: v.to_string(),
                });
                self.report.failures.extend(found);
            }
            Err(error) => self.report.failures.push(Failure {
                height,
                what: error.to_string(),
            }),
        }
    }
}

/// An event of somebody's history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryItem {
    /// The block.
    pub height: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The transaction that caused it, if one did.
    pub tx: Option<TxId>,
    /// What happened.
    pub event: Event,
}

/// All that ever happened to one sector: a [`Visitor`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SectorHistory {
    /// Whose.
    pub provider: ProviderId,
    /// Which.
    pub number: SectorNumber,
    /// Events, oldest first.
    pub events: Vec<HistoryItem>,
    /// Proofs that covered it, oldest first, each verified again.
    pub proofs: Vec<ProofRecord>,
    /// What the chain says of it at the end.
    pub now: Option<SectorView>,
    place: Option<(u16, u32)>,
    deals: Vec<DealId>,
}

impl SectorHistory {
    /// An empty history.
    pub fn new(provider: ProviderId, number: SectorNumber) -> Self {
        Self {
            provider,
            number,
            events: vec![],
            proofs: vec![],
            now: None,
            place: None,
            deals: vec![],
        }
    }

    /// Adds what the state says at the end of the replay.
    pub fn close(&mut self, state: &dyn KvRead) -> Result<(), StoreError> {
        self.now = query::sector(state, self.provider, self.number)?;
        Ok(())
    }

    /// Proofs that covered it and do not hold.
    pub fn rejected(&self) -> usize {
        self.proofs.iter().filter(|p| p.rejected.is_some()).count()
    }

    fn concerns(&self, event: &Event) -> bool {
        let mine = |p: &ProviderId, n: &SectorNumber| *p == self.provider && *n == self.number;
        match event {
            Event::PreCommitted {
                provider, sector, ..
            }
            | Event::PreCommitExpired {
                provider, sector, ..
            }
            | Event::SectorProven {
                provider, sector, ..
            }
            | Event::SectorActivated {
                provider, sector, ..
            }
            | Event::SectorFaulted {
                provider, sector, ..
            }
            | Event::RecoveryDeclared { provider, sector }
            | Event::SectorRecovered { provider, sector }
            | Event::FaultFee {
                provider, sector, ..
            }
            | Event::SectorExpired { provider, sector }
            | Event::SectorTerminated {
                provider, sector, ..
            } => mine(provider, sector),
            Event::PostAccepted {
                provider,
                proven,
                skipped,
                ..
            } => {
                *provider == self.provider
                    && (proven.contains(&self.number) || skipped.contains(&self.number))
            }
            Event::PostMissed {
                provider,
                deadline,
                partition,
            } => *provider == self.provider && self.place == Some((*deadline, *partition)),
            Event::DealActivated { deal, .. }
            | Event::DealPaid { deal, .. }
            | Event::DealCompleted { deal }
            | Event::DealSlashed { deal, .. } => self.deals.contains(deal),
            _ => false,
        }
    }

    /// Deals name their sector but not its provider; the pre-commit that lists them does.
    fn learn(&mut self, block: &Replayed<'_>, record: &EventRecord) {
        if let Event::SectorProven {
            provider,
            sector,
            deadline,
            partition,
            ..
        } = &record.event
            && (*provider, *sector) == (self.provider, self.number)
        {
            self.place = Some((*deadline, *partition));
        }
        if let Event::PreCommitted {
            provider, sector, ..
        } = &record.event
            && (*provider, *sector) == (self.provider, self.number)
        {
            let msgs = block.last.block.body.txs.iter().flat_map(|t| &t.tx.msgs);
            for msg in msgs {
                if let Message::PreCommit {
                    provider,
                    sector,
                    deals,
                    ..
                } = msg
                    && (*provider, *sector) == (self.provider, self.number)
                {
                    self.deals.clone_from(deals);
                }
            }
        }
    }
}

impl Visitor for SectorHistory {
    fn block(&mut self, block: &Replayed<'_>) {
        for record in &block.outcomes.events {
            self.learn(block, record);
            if self.concerns(&record.event) {
                self.events.push(item(block, record));
            }
        }
        let mine = block
            .proofs
            .iter()
            .filter(|p| p.document.covers(self.provider, self.number));
        self.proofs.extend(mine.cloned());
    }
}

fn item(block: &Replayed<'_>, record: &EventRecord) -> HistoryItem {
    let header = &block.last.block.header;
    HistoryItem {
        height: header.height,
        epoch: header.epoch,
        tx: record.tx.and_then(|i| block.txs.get(i as usize)).copied(),
        event: record.event.clone(),
    }
}

/// All deals of a state, in order of id.
pub fn deals(state: &dyn KvRead) -> Result<Vec<(DealId, Deal)>, StoreError> {
    let decode = |(at, bytes): state::Entry| {
        let deal: Deal = state::decode(&at, &bytes)?;
        Ok((deal.proposal.id(), deal))
    };
    state::scan(state, &key::deals())?
        .into_iter()
        .map(decode)
        .collect()
}

/// What a file's deals say, with the newest proof of each piece's sector: a [`Visitor`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FileAudit {
    /// Groups of pieces: one per segment of the file, and those of its manifest.
    pub groups: Vec<GroupAudit>,
    #[serde(skip)]
    proofs: BTreeMap<(ProviderId, SectorNumber), LastProof>,
}

/// The newest proof of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastProof {
    /// Block of the newest accepted proof.
    pub height: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// Accepted proofs in all.
    pub count: u64,
}

/// One group of pieces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupAudit {
    /// What the group stores.
    pub file_root: Blake3Root,
    /// Who pays for it: a root is only a name, and another client's deals under the same one are another group.
    pub client: Address,
    /// Pieces that suffice.
    pub k: u8,
    /// Pieces in all.
    pub n: u8,
    /// Pieces in active sectors, by their latest proof, at most `n`. Distinct pieces where several are needed; where one is enough
    /// (`k = 1`: the parts of a manifest) they are copies of the same bytes, and the distinct providers that hold one.
    pub healthy: u64,
    /// Whether the file can be read from pieces in active sectors.
    pub readable: bool,
    /// Its deals.
    pub pieces: Vec<PieceAudit>,
}

/// One piece.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PieceAudit {
    /// Its deal.
    pub deal: DealId,
    /// Who stores it.
    pub provider: ProviderId,
    /// The client's words.
    pub label: String,
    /// Its commitment.
    pub comm_p: prover::CommP,
    /// Root of its bytes.
    pub blake3_root: Blake3Root,
    /// Where the deal is in its life.
    pub status: DealStatus,
    /// What the client paid so far.
    pub paid: TokenAmount,
    /// Its sector, as the chain sees it.
    pub sector: Option<SectorView>,
    /// The newest accepted proof that covers the sector.
    pub last_proof: Option<LastProof>,
}

impl FileAudit {
    /// Looks up, once the chain was replayed, the deals that `chosen` names.
    pub fn close(
        &mut self,
        state: &dyn KvRead,
        chosen: &dyn Fn(&DealId, &Deal) -> bool,
    ) -> Result<(), StoreError> {
        let mut groups: BTreeMap<(Blake3Root, Address), GroupAudit> = BTreeMap::new();
        for (id, deal) in deals(state)?
            .into_iter()
            .filter(|(id, deal)| chosen(id, deal))
        {
            let group = deal.proposal.group;
            let client = deal.proposal.client;
            let piece = self.piece(state, id, deal)?;
            let new = || GroupAudit {
                file_root: group.file_root,
                client,
                k: group.k,
                n: group.n,
                healthy: 0,
                readable: false,
                pieces: vec![],
            };
            groups
                .entry((group.file_root, client))
                .or_insert_with(new)
                .pieces
                .push(piece);
        }
        self.groups = groups.into_values().collect();
        for group in &mut self.groups {
            group.healthy = group.count_healthy();
            group.readable = group.healthy >= u64::from(group.k);
        }
        Ok(())
    }

    /// Notes an accepted proof of a sector, for an auditor who was shown proofs instead of a whole chain.
    pub fn saw(&mut self, provider: ProviderId, sector: SectorNumber, height: u64, epoch: Epoch) {
        let last = self.proofs.entry((provider, sector)).or_insert(LastProof {
            height,
            epoch,
            count: 0,
        });
        *last = LastProof {
            height: height.max(last.height),
            epoch: epoch.max(last.epoch),
            count: last.count + 1,
        };
    }

    /// Whether every group can be read from pieces whose sectors are proven, and there is at least one group.
    pub fn readable(&self) -> bool {
        !self.groups.is_empty() && self.groups.iter().all(|g| g.readable)
    }

    fn piece(&self, state: &dyn KvRead, id: DealId, deal: Deal) -> Result<PieceAudit, StoreError> {
        let provider = deal.proposal.provider;
        let sector = match deal.sector {
            Some(number) => query::sector(state, provider, number)?,
            None => None,
        };
        let last_proof = deal
            .sector
            .and_then(|number| self.proofs.get(&(provider, number)))
            .copied();
        Ok(PieceAudit {
            deal: id,
            provider,
            label: deal.proposal.label.clone(),
            comm_p: deal.proposal.piece_commp,
            blake3_root: deal.proposal.blake3_root,
            status: deal.status,
            paid: deal.paid,
            sector,
            last_proof,
        })
    }
}

impl GroupAudit {
    fn count_healthy(&self) -> u64 {
        let healthy = self.pieces.iter().filter(|piece| piece.is_healthy());
        let count = if self.k == 1 {
            // A holder that was given the same copy twice is still one holder.
            healthy.map(|p| p.provider).collect::<BTreeSet<_>>().len()
        } else {
            // A repaired piece has two deals; it is still one piece.
            healthy.map(|p| p.comm_p).collect::<BTreeSet<_>>().len()
        };
        (count as u64).min(u64::from(self.n))
    }
}

impl PieceAudit {
    /// Whether the piece is in a sector that its last deadline proved.
    pub fn is_healthy(&self) -> bool {
        self.status == DealStatus::Active
            && self
                .sector
                .as_ref()
                .is_some_and(|s| s.status == query::SectorStatus::Active)
    }
}

impl Visitor for FileAudit {
    fn block(&mut self, block: &Replayed<'_>) {
        let (height, epoch) = (
            block.last.block.header.height,
            block.last.block.header.epoch,
        );
        let mut proven = |provider: ProviderId, sector: SectorNumber| {
            self.saw(provider, sector, height, epoch);
        };
        for record in &block.outcomes.events {
            match &record.event {
                Event::SectorProven {
                    provider, sector, ..
                } => proven(*provider, *sector),
                Event::PostAccepted {
                    provider,
                    proven: list,
                    ..
                } => list.iter().for_each(|s| proven(*provider, *s)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::certificate::Certificate;
    use crate::ledger::tests::{
        NoProofs, advance, beacon, genesis, next_block, open, transfer, user, validator,
    };
    use crate::log::BlockLog;
    use crate::log::testing::MemDisk;

    /// A chain of some blocks with transfers, exported.
    fn exported(blocks: u64) -> (tempfile::TempDir, std::path::PathBuf, crate::ledger::Tip) {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        advance(&ledger, blocks);
        let path = home.path().join("chain.hfx");
        let mut file = std::fs::File::create(&path).unwrap();
        ledger.export(&mut file, &mut |_| ()).unwrap();
        let tip = ledger.tip();
        (home, path, tip)
    }

    fn silent(path: &Path) -> Replay {
        replay(path, None, &mut |_: &Replayed<'_>| ()).unwrap()
    }

    #[test]
    fn a_sound_chain_replays_to_the_same_root() {
        let (_home, path, tip) = exported(9);
        let mut heights = vec![];
        let replay = replay(&path, None, &mut |b: &Replayed<'_>| {
            heights.push(b.last.block.header.height)
        })
        .unwrap();
        let report = replay.report;
        assert!(report.ok() && report.complete, "{:?}", report.failures);
        assert_eq!(
            (
                report.blocks,
                report.txs,
                report.txs_failed,
                report.beacons_verified
            ),
            (9, 27, 0, 9)
        );
        assert_eq!((report.state_root, report.tip), (tip.state_root, tip.id));
        assert_eq!(heights, (1..=9).collect::<Vec<_>>());
        assert!(report.insecure_keys);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            serde_json::from_str::<AuditReport>(&json).unwrap().tip,
            tip.id
        );
    }

    #[test]
    fn verify_finds_what_needs_no_execution() {
        let (_home, path, tip) = exported(6);
        let report = verify_file(&path, None, &mut |_| ()).unwrap();
        assert!(report.ok() && report.complete);
        assert_eq!((report.blocks, report.tip, report.txs), (6, tip.id, 18));
        let unlinked = forged(&path, 4, &|b| {
            b.block.header.parent_id.0[0] ^= 1;
            resign(b);
        });
        let unsigned = forged(&path, 4, &|b| b.block.header.time_ms += 1);
        let swapped = forged(&path, 4, &|b| b.block.body.txs.clear());
        for file in [unlinked, unsigned, swapped] {
            assert_eq!(
                verify_file(file.path(), None, &mut |_| ())
                    .unwrap()
                    .failures[0]
                    .height,
                4
            );
        }
        let cut = tempfile::NamedTempFile::new().unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(cut.path(), &whole[..whole.len() - 60]).unwrap();
        assert!(
            !verify_file(cut.path(), None, &mut |_| ()).unwrap().ok(),
            "a cut export is no export"
        );
    }

    #[test]
    fn a_copied_log_is_accepted_and_called_incomplete() {
        let (home, ..) = exported(4);
        let report = silent(&home.path().join("blocks.log")).report;
        assert!(report.ok() && !report.complete);
        assert_eq!(report.blocks, 4);
    }

    #[test]
    fn wrong_chain_missing_empty_and_foreign_files_are_named() {
        let (home, path, _) = exported(2);
        let nobody = &mut |_: &Replayed<'_>| ();
        assert!(matches!(
            replay(&path, Some(ChainId([9; 32])), nobody),
            Err(AuditError::WrongChain { .. })
        ));
        assert!(matches!(
            replay(&home.path().join("none"), None, nobody),
            Err(AuditError::File(LogError::Io { .. }))
        ));
        assert!(matches!(
            replay(home.path(), None, nobody),
            Err(AuditError::File(_))
        ));
        for (name, bytes) in [("empty", &b""[..]), ("text", &[b'x'; 500])] {
            let other = home.path().join(name);
            std::fs::write(&other, bytes).unwrap();
            assert!(matches!(
                replay(&other, None, nobody),
                Err(AuditError::File(LogError::NotALog(_)))
            ));
        }
    }

    #[test]
    fn damage_is_found_at_its_height() {
        let (home, path, _) = exported(6);
        let whole = std::fs::read(&path).unwrap();
        let broken = home.path().join("broken");
        let mut random = 99u64;
        for _ in 0..40 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            let at = (random >> 20) as usize % whole.len();
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (random % 8);
            std::fs::write(&broken, bytes).unwrap();
            let found = replay(&broken, None, &mut |_: &Replayed<'_>| ());
            assert!(found.is_err() || !found.unwrap().report.ok(), "byte {at}");
            std::fs::write(&broken, &whole[..at]).unwrap();
            let found = replay(&broken, None, &mut |_: &Replayed<'_>| ());
            assert!(found.is_err() || !found.unwrap().report.ok(), "cut at {at}");
        }
    }

    /// Rewrites a chain with one block changed, by somebody who holds all its keys and repairs every digest.
    fn forged(
        path: &Path,
        height: u64,
        change: &dyn Fn(&mut FinalBlock),
    ) -> tempfile::NamedTempFile {
        let mut file = ChainFile::open(path).unwrap();
        let chain = file.chain_id;
        let (_, genesis) = file.next_record().unwrap().unwrap();
        let (mut log, _) = BlockLog::open(
            MemDisk::with(vec![]),
            chain,
            &genesis,
            None,
            true,
            &mut |_, _| (),
        )
        .unwrap();
        while let Some((mark, payload)) = file.next_record().unwrap() {
            let mut last = FinalBlock::from_bytes(&payload).unwrap();
            if mark.height == height {
                change(&mut last);
            }
            log.append(mark.height, &last.to_bytes()).unwrap();
        }
        let mut out = tempfile::NamedTempFile::new().unwrap();
        log.reader()
            .export(chain, log.tip(), &mut out, &mut |_| ())
            .unwrap();
        out
    }

    fn resign(last: &mut FinalBlock) {
        let header = &last.block.header;
        last.certificate = Certificate::solo(
            &header.chain_id,
            header.height,
            last.block.id(),
            &validator(),
        );
    }

    #[test]
    fn every_lie_of_a_validator_is_found_at_its_block() {
        let (_home, path, _) = exported(5);
        assert!(
            silent(forged(&path, 3, &|_| ()).path()).report.ok(),
            "rewriting alone changes nothing"
        );
        let lies: Vec<(&str, u64, Box<dyn Fn(&mut FinalBlock)>)> = vec![
            (
                "prev_state_root",
                3,
                Box::new(|b| b.block.header.prev_state_root[0] ^= 1),
            ),
            (
                "prev_receipt_root",
                3,
                Box::new(|b| b.block.header.prev_receipt_root[0] ^= 1),
            ),
            (
                "parent",
                3,
                Box::new(|b| b.block.header.parent_id.0[0] ^= 1),
            ),
            ("tx_root", 3, Box::new(|b| b.block.header.tx_root[0] ^= 1)),
            ("epoch", 3, Box::new(|b| b.block.header.epoch.0 += 1)),
            (
                "validators",
                3,
                Box::new(|b| b.block.header.next_validators_hash[0] ^= 1),
            ),
            ("time", 3, Box::new(|b| b.block.header.time_ms = 0)),
            (
                "round",
                3,
                Box::new(|b| {
                    b.block.body.beacons[0] = beacon().sign(77);
                    b.block.header.tx_root = b.block.body.root();
                }),
            ),
            (
                "does not verify",
                3,
                Box::new(|b| {
                    b.block.body.beacons[0].sig = beacon().sign(77).sig;
                    b.block.header.tx_root = b.block.body.root();
                }),
            ),
            (
                "signature",
                3,
                Box::new(|b| {
                    b.block.body.txs[0].signature.0[3] ^= 1;
                    b.block.header.tx_root = b.block.body.root();
                }),
            ),
            // An honest-looking block that drops a transaction: only the next header gives it away.
            (
                "does not continue",
                4,
                Box::new(|b| {
                    b.block.body.txs.pop();
                    b.block.header.tx_root = b.block.body.root();
                }),
            ),
        ];
        for (word, height, lie) in lies {
            let at = if word == "does not continue" {
                3
            } else {
                height
            };
            let file = forged(&path, at, &|b| {
                lie(b);
                resign(b);
            });
            let report = silent(file.path()).report;
            let failure = report
                .failures
                .first()
                .unwrap_or_else(|| panic!("{word} passed"));
            assert_eq!(failure.height, height, "{word}: {}", failure.what);
            assert!(failure.what.contains(word), "{word}: {}", failure.what);
        }
        let unsigned = forged(&path, 2, &|b| b.block.header.time_ms += 1);
        assert_eq!(silent(unsigned.path()).report.failures[0].height, 2);
        let stranger = forged(&path, 2, &|b| {
            let header = &b.block.header;
            b.certificate =
                Certificate::solo(&header.chain_id, header.height, b.block.id(), &user(1));
        });
        assert!(
            silent(stranger.path()).report.failures[0]
                .what
                .contains("not a validator")
        );
    }

    /// What the ledger refuses to vote for, the auditor finds too, although its validators signed it.
    #[test]
    fn tm_v6_a_signed_block_beyond_its_limits_or_without_its_beacon_is_found() {
        let (_home, path, _) = exported(5);
        let chain = genesis_of(&path).unwrap().chain_id();
        // 257 proofs that prove nothing: each transaction only fails when it is executed.
        let flood = move |from: u64| {
            let msg = Message::ProveCommit {
                provider: ProviderId(1000),
                sector: SectorNumber(1),
                proof: vec![0; 192],
            };
            let mut tx = transfer(chain, from, 5, 0).tx;
            tx.msgs = vec![msg; if from == 0 { 1 } else { 64 }];
            crate::message::sign(tx, &user(from))
        };
        type Lie = Box<dyn Fn(&mut Block)>;
        let lies: [(&str, Lie); 3] = [
            (
                "257 proofs, more than 256",
                Box::new(move |b| b.body.txs = (0..5).map(flood).collect()),
            ),
            (
                "bytes, more than 4194304",
                Box::new(move |b| {
                    let mut tx = transfer(chain, 1, 5, 0).tx;
                    let msg = Message::SetAddrs {
                        provider: ProviderId(1000),
                        addrs: vec!["x".repeat(128); 8],
                    };
                    tx.msgs = vec![msg; 64];
                    b.body.txs = vec![crate::message::sign(tx, &user(1)); 63];
                }),
            ),
            ("beacons", Box::new(|b| b.body.beacons.clear())),
        ];
        for (word, lie) in lies {
            let file = forged(&path, 5, &|b| {
                lie(&mut b.block);
                b.block.header.tx_root = b.block.body.root();
                resign(b);
            });
            let report = silent(file.path()).report;
            let failure = report
                .failures
                .first()
                .unwrap_or_else(|| panic!("{word} passed"));
            assert_eq!(failure.height, 5, "{word}: {}", failure.what);
            assert!(failure.what.contains(word), "{word}: {}", failure.what);
        }
    }

    #[test]
    fn failed_transactions_are_counted() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(1)).unwrap();
        let broke = transfer(ledger.chain_id(), 5, 0, 0);
        let (block, cert) = next_block(&ledger, vec![broke]);
        ledger.commit(block, cert).unwrap();
        let report = silent(&home.path().join("blocks.log")).report;
        assert!(report.ok());
        assert_eq!((report.txs, report.txs_failed), (1, 1));
    }

    /// A window PoSt of Filecoin's own prover with its keys. (Its PoReps were sealed under a test porep id, which no
    /// registered proof type has.)
    fn golden() -> (VerifyingKeys, ProofDocument) {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../fixtures/vectors/filecoin.json"
        );
        let vectors: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let window = &vectors["sectors"]["2KiB"]["post"][1]["window"];
        let sectors = window["sectors_sorted"].as_array().unwrap().iter();
        let sectors: Vec<_> = sectors
            .map(|s| serde_json::json!({"number": s["sector_id"], "comm_r": s["comm_r"]}))
            .collect();
        let document = serde_json::json!({
            "kind": "window_post", "sector_size": "2KiB", "prover": window["prover_id"], "randomness": window["randomness"],
            "sectors": sectors, "proof": window["proof"],
        });
        let keys = crate::genesis::tests::kib2_keys();
        let keys = VerifyingKeys::from_vk_bytes(keys.iter().map(|k| (k.circuit, k.vk.as_slice())))
            .unwrap();
        (keys, serde_json::from_value(document).unwrap())
    }

    fn statement(document: &ProofDocument) -> (WindowPostStatement, Vec<u8>) {
        let ProofDocument::WindowPost {
            sector_size,
            prover,
            randomness,
            sectors,
            proof,
        } = document.clone()
        else {
            panic!("a window PoSt")
        };
        let sectors = sectors.iter().map(|s| (s.number, s.comm_r)).collect();
        (
            WindowPostStatement {
                size: sector_size,
                prover,
                randomness,
                sectors,
            },
            proof,
        )
    }

    #[test]
    fn filecoins_own_proof_verifies_from_its_document_and_changes_do_not() {
        let (keys, document) = golden();
        document.verify(&keys).unwrap();
        let text = serde_json::to_string_pretty(&document).unwrap();
        assert_eq!(
            serde_json::from_str::<ProofDocument>(&text).unwrap(),
            document
        );
        let (truth, proof) = statement(&document);
        let mut lie = truth.clone();
        lie.sectors[0].1 = lie.sectors[1].1;
        assert_eq!(
            ProofDocument::window_post(&lie, &proof).verify(&keys),
            Err(VerifyError::Rejected)
        );
        assert!(matches!(
            ProofDocument::window_post(&truth, &proof[..191]).verify(&keys),
            Err(VerifyError::Bytes(_))
        ));
        let verifier = Groth16Verifier::new(keys);
        assert_eq!(verifier.window_post(&truth, &proof), Ok(()));
        assert!(matches!(
            verifier.window_post(&truth, &proof[1..]),
            Err(ProofError::Rejected(_))
        ));
        let other = WindowPostStatement {
            size: SectorSize::Mib8,
            ..truth
        };
        assert!(
            matches!(
                verifier.window_post(&other, &proof),
                Err(ProofError::Unable(_))
            ),
            "a missing key is nobody's fault but ours"
        );
    }

    #[test]
    fn the_recorder_passes_verdicts_through() {
        let (_, document) = golden();
        let (truth, proof) = statement(&document);
        let recorder = Recorder {
            inner: &NoProofs,
            seen: Mutex::default(),
        };
        assert!(recorder.window_post(&truth, &proof).is_err());
        let seen = recorder.seen.into_inner().unwrap();
        assert!(seen.len() == 1 && seen[0].0 == document && seen[0].1.is_some());
    }

    /// The fuzz targets' bodies on changed, cut and spliced copies of real values, a few thousand times on stable.
    #[test]
    fn tm_p17_decoders_are_calm_on_damaged_values() {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(2)).unwrap();
        advance(&ledger, 3);
        let mut export = vec![];
        ledger.export(&mut export, &mut |_| ()).unwrap();
        let state = crate::light::state_bundle(&ledger, &key::network())
            .unwrap()
            .to_bytes();
        let tx = ledger.outcomes(2).unwrap().receipts[0].tx;
        let receipt =
            crate::codec::encode(&crate::light::receipt_bundle(&ledger, &tx).unwrap().unwrap());
        let mut snapshot = vec![];
        crate::snapshot::export(&ledger, &mut snapshot, &mut |_| ()).unwrap();
        let (_, document) = golden();
        let batch = crate::light::state_batch(&ledger, None, &[key::network(), key::params()]);
        let bundle = crate::bundle::tests::bare().0.to_bytes().unwrap();
        type Target = (fn(&[u8]), Vec<u8>, u32);
        let targets: [Target; 11] = [
            (
                crate::block::fuzz_final_block,
                ledger.block(2).unwrap().to_bytes(),
                600,
            ),
            (
                crate::genesis::fuzz_genesis,
                ledger.genesis().bytes().to_vec(),
                60,
            ),
            (
                crate::genesis::fuzz_genesis,
                serde_json::to_vec(ledger.genesis().genesis()).unwrap(),
                60,
            ),
            (
                crate::beacon::fuzz_points,
                ledger.genesis().genesis().beacons[0].pk.to_vec(),
                200,
            ),
            (crate::light::fuzz_bundles, state, 600),
            (crate::light::fuzz_bundles, receipt, 600),
            (
                crate::light::fuzz_bundles,
                crate::codec::encode(&batch.unwrap()),
                300,
            ),
            (crate::light::fuzz_bundles, bundle, 600),
            (crate::log::fuzz_chain_file, export, 400),
            (crate::snapshot::fuzz_snapshot, snapshot, 400),
            (
                fuzz_proof_document,
                serde_json::to_vec(&document).unwrap(),
                300,
            ),
        ];
        let mut random = 2026u64;
        let mut next = move |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below.max(1)
        };
        for (target, seed, times) in targets {
            target(&seed);
            for _ in 0..times {
                let mut bytes = seed.clone();
                match next(4) {
                    0 => bytes.truncate(next(seed.len())),
                    1 => {
                        let at = next(bytes.len());
                        bytes[at] ^= 1 << next(8);
                    }
                    2 => {
                        // A length or number of all ones.
                        let at = next(bytes.len().saturating_sub(8));
                        bytes[at..(at + 8).min(seed.len())].fill(0xff);
                    }
                    _ => {
                        let (at, from) = (next(bytes.len()), next(bytes.len()));
                        let piece = seed[from..(from + 40).min(seed.len())].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
                target(&bytes);
            }
        }
    }
}
