//! Possession: the second rung of the proof ladder, asked by a client or an auditor and recorded off-chain.
//!
//! Place: beside [`super::health`], which shows it. Spec: `DESIGN.md` §3 (proof ladder), §6.1. Proofs: [`prover::piece::inclusion`];
//! on the wire: `CommpQuery` and `CommpProof` of `retrieval::wire`.
//!
//! ```text
//! beacon(e) ‖ CommP ‖ provider ‖ i ──SHA-256──> leaf i of 8 ──CommpQuery──> provider
//!                                               leaf + path <─CommpProof──   checked against the deal's CommP
//! <home>/client/possession/<object id>   version ‖ evidence by deal, borsh ‖ BLAKE3 of it
//! ```
//!
//! Nobody knows the leaves before epoch e begins, so an answer shows that the bytes were at hand in e. A provider that lost a share
//! x of a piece passes with chance (1 - x)^8; an honest one reads the whole piece for each leaf and never answers from a damaged
//! one. The proofs themselves are kept, not a verdict: a record is checked again whenever it is read, so a file that was tampered
//! with shows nothing. Evidence counts for a proving period ([`super::health`]), and the newest verdict wins: after a failed
//! challenge an older proof of that deal counts no more.
//!
//! Cost: per piece eight round trips, 32 bytes a level each (about 5 kB for 8 MiB), and eight reads of the piece by its holder.
//! Crash: the file is replaced atomically; losing it loses evidence, which the next challenge brings back.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use chain_lite::account::{DealId, ProviderId};
use chain_lite::units::Epoch;
use prover::PieceInfo;
use prover::piece::inclusion::LeafProof;

use super::catalog::{Entry, Held, by_id};
use super::journal::replace;
use super::{Chain, Client, ClientError, Network, ProviderRecord, futures_all};
use crate::config::Home;
use crate::identity::create_private_dir;
use crate::object::manifest::ObjectId;

pub use chain_lite::possession::{Answer, CHALLENGES, positions};

/// How long a provider may take for one leaf: it reads the whole piece, 32 GiB in the worst case.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest reason that is kept.
const MAX_REASON_BYTES: usize = 500;
/// Longest file of evidence: some ten thousand deals.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Version of the file.
const VERSION: u16 = 1;

/// A challenge that was not answered, or not rightly.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Failed {
    /// Epoch of the challenge.
    pub epoch: Epoch,
    /// What came instead of an answer.
    pub reason: String,
}

/// What is known of one deal's piece.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Evidence {
    /// Who was asked.
    pub provider: ProviderId,
    /// For which piece.
    pub piece: PieceInfo,
    /// The newest passed challenge.
    pub proven: Option<Answer>,
    /// The challenge after it, if that failed.
    pub failed: Option<Failed>,
}

impl Evidence {
    /// When possession was last shown, unless a later challenge failed.
    pub fn shown(&self) -> Option<Epoch> {
        match (&self.proven, &self.failed) {
            (Some(answer), None) => Some(answer.epoch),
            _ => None,
        }
    }

    /// Whether this is about that deal.
    fn is_of(&self, held: &Held) -> bool {
        self.provider == held.provider() && self.piece == piece_of(held)
    }
}

/// Evidence by deal.
pub type Ledger = BTreeMap<DealId, Evidence>;

/// Challenges every provider with an open deal of the object, records what came of it and returns all that is known.
pub async fn check<C: Chain, N: Network>(
    client: &Client<C, N>,
    entry: &Entry,
) -> Result<Ledger, ClientError> {
    let epoch = client.chain.now().await?.epoch;
    let beacon = client.chain.beacon(epoch).await?;
    let providers = by_id(client.chain.providers().await?);
    let open = entry.deals().filter(|held| held.is_open());
    let outcomes = ask_all(&client.network, &providers, open, epoch, &beacon).await;
    let mut ledger = recorded(&client.home, entry);
    for (held, outcome) in outcomes {
        let known = ledger.entry(held.id).or_insert_with(|| Evidence {
            provider: held.provider(),
            piece: piece_of(held),
            proven: None,
            failed: None,
        });
        match outcome {
            Ok(answer) => (known.proven, known.failed) = (Some(answer), None),
            Err(mut reason) => {
                let mut end = reason.len().min(MAX_REASON_BYTES);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                reason.truncate(end);
                known.failed = Some(Failed { epoch, reason });
            }
        }
    }
    if let Err(error) = save(&client.home, &entry.object, &ledger) {
        tracing::warn!(%error, "the evidence is shown now and could not be recorded; free some space and ask again");
    }
    Ok(ledger)
}

/// Challenges the providers of these deals, each for one piece after the other, and says what each answered.
pub async fn ask_all<'a, N: Network>(
    network: &N,
    providers: &BTreeMap<ProviderId, ProviderRecord>,
    deals: impl Iterator<Item = &'a Held>,
    epoch: Epoch,
    beacon: &[u8; 32],
) -> Vec<(&'a Held, Result<Answer, String>)> {
    let mut by_provider: BTreeMap<ProviderId, Vec<&Held>> = BTreeMap::new();
    for held in deals {
        by_provider.entry(held.provider()).or_default().push(held);
    }
    let visits = by_provider
        .iter()
        .map(|(id, held)| visit(network, providers.get(id), held, epoch, beacon));
    futures_all(visits).await.into_iter().flatten().collect()
}

/// What was recorded earlier about deals of this object, each record checked again. A damaged file counts as none.
pub fn recorded(home: &Home, entry: &Entry) -> Ledger {
    let path = path_of(home, &entry.object);
    let mut ledger = match load(&path) {
        Ok(ledger) => ledger,
        Err(reason) => {
            tracing::warn!(path = %path.display(), reason, "recorded evidence does not count; the next challenge replaces it");
            return Ledger::new();
        }
    };
    let deals: BTreeMap<DealId, &Held> = entry.deals().map(|held| (held.id, held)).collect();
    ledger.retain(|id, evidence| {
        let about = deals.get(id).is_some_and(|held| evidence.is_of(held));
        let (piece, provider) = (&evidence.piece, evidence.provider);
        about
            && evidence
                .proven
                .as_ref()
                .is_none_or(|answer| answer.verify(piece, provider).is_ok())
    });
    ledger
}

/// Asks one provider about its pieces, one after the other. Whoever is not there at all is not waited for again.
async fn visit<'a, N: Network>(
    network: &N,
    provider: Option<&ProviderRecord>,
    pieces: &[&'a Held],
    epoch: Epoch,
    beacon: &[u8; 32],
) -> Vec<(&'a Held, Result<Answer, String>)> {
    let there = match provider {
        None => Err("it has left the chain".to_owned()),
        Some(record) => match super::ask(network, record).await {
            Ok(_) => Ok(record),
            Err(reason) => Err(format!("it does not answer: {reason}")),
        },
    };
    let mut outcomes = Vec::with_capacity(pieces.len());
    for held in pieces {
        let outcome = match &there {
            Ok(record) => challenge(network, record, piece_of(held), epoch, beacon).await,
            Err(reason) => Err(reason.clone()),
        };
        outcomes.push((*held, outcome));
    }
    outcomes
}

/// One piece: every leaf asked for, every answer checked before the next question.
async fn challenge<N: Network>(
    network: &N,
    provider: &ProviderRecord,
    piece: PieceInfo,
    epoch: Epoch,
    beacon: &[u8; 32],
) -> Result<Answer, String> {
    let mut proofs = Vec::new();
    for leaf in positions(beacon, &piece, provider.id) {
        let question = network.leaf(provider, piece.comm_p, leaf);
        let bytes = tokio::time::timeout(ANSWER_TIMEOUT, question)
            .await
            .map_err(|_| format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))??;
        let proof = LeafProof::decode(&bytes).map_err(|error| error.to_string())?;
        proof
            .verify(&piece, leaf..leaf + 1)
            .map_err(|error| format!("leaf {leaf}: {error}"))?;
        proofs.push(proof);
    }
    Ok(Answer {
        epoch,
        beacon: *beacon,
        proofs,
    })
}

fn piece_of(held: &Held) -> PieceInfo {
    PieceInfo {
        comm_p: held.deal.proposal.piece_commp,
        size: held.deal.proposal.piece_size,
    }
}

fn path_of(home: &Home, object: &ObjectId) -> PathBuf {
    home.client_dir()
        .join("possession")
        .join(object.to_string())
}

fn save(home: &Home, object: &ObjectId, ledger: &Ledger) -> Result<(), ClientError> {
    let path = path_of(home, object);
    let dir = path.parent().unwrap_or(&path);
    create_private_dir(dir).map_err(ClientError::file("create", dir))?;
    let mut bytes = borsh::to_vec(&(VERSION, ledger)).expect("memory does not fail to be written");
    bytes.extend(blake3::hash(&bytes).as_bytes());
    replace(&path, &bytes)
}

fn load(path: &std::path::Path) -> Result<Ledger, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Ledger::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("it is too long".into());
    }
    let (value, checksum) = bytes.split_last_chunk::<32>().ok_or("it is too short")?;
    if blake3::hash(value).as_bytes() != checksum {
        return Err("its checksum does not match".into());
    }
    let (version, ledger): (u16, Ledger) =
        borsh::from_slice(value).map_err(|_| "it was written by another version")?;
    if version != VERSION {
        return Err("it was written by another version".into());
    }
    Ok(ledger)
}
