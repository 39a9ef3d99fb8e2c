//! The audit bundle: one file that shows what the chain and its providers owe one object, verified offline in seconds.
//!
//! Walk: `holdfast audit bundle` collects it from any node, which is not believed; [`Bundle::verify`] here says, check by check,
//! what follows from the file and the pinned chain alone; `holdfast audit verify` adds what the object's labels say.
//! Spec: `consensus.md` §7 (proof bundle), `DESIGN.md` §3 (proof ladder). Proofs of a whole chain: [`crate::audit`].
//!
//! ```text
//! file     = "HFAUDIT" 0 ‖ version u16 ‖ borsh(Bundle) ‖ SHA-256("holdfast/audit-bundle/v1" ‖ everything before)
//! genesis ──adjacent or skipping steps──> light blocks ──> the newest header
//! newest header's state root  <── leaves: parameters, totals, deals, providers, sectors, partitions, outages
//! a sector's leaf ──> statement of its PoRep  <── the proof
//! block h's tx root, block h+1's receipt root  <── transactions with a window PoSt, and their receipts
//! tx root of the block that carried it  <── the beacon's round of epoch e ──> challenges of window PoSts and of read-back samples
//! ```
//! The digest finds accidents; against a liar every byte is bound by the chain's own hashes and signatures: the genesis by the
//! chain id that the verifier pins, blocks by certificates, all else by a path or a signature below a block.
//!
//! What it cannot show: that a newer block does not say otherwise. The newest block's time is printed for that. Steps are judged at
//! the time of the block they lead to, so that a bundle does not expire; whoever bought all keys of long ago could forge one that
//! begins there, so give a recent `--checkpoint` where that matters.
//!
//! Cost: a Groth16 verification for each sector and for each partition (3 ms and up), a strict signature for each signer of each
//! light block, 0.04 ms a leaf. Size: 1.2 KB a leaf, 3 KB a proof, at most [`MAX_BUNDLE_BYTES`]. Memory: a few times the file.

use std::collections::{BTreeMap, BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use prover::piece::inclusion::LeafProof;
use prover::verify::{PorepStatement, WindowPostStatement};
use prover::{CommR, RegisteredSeal, SectorNumber};
use serde::{Deserialize, Serialize};

use crate::account::{ChainId, DealId, ProviderId};
use crate::audit::ProofDocument;
use crate::beacon::Entry;
use crate::block::{BlockId, Header};
use crate::codec::{self, CodecError};
use crate::deal::Deal;
use crate::events::{Event, EventRecord};
use crate::execute::Receipt;
use crate::genesis::{CheckedGenesis, Genesis};
use crate::light::{Leaf, LightBlock, Trusted};
use crate::lit::Runs;
use crate::merkle::{self, List};
use crate::message::{Message, SignedTx};
use crate::possession::{Answer, beacon_of};
use crate::provider::Provider;
use crate::query;
use crate::randomness::{self, Tag, rand};
use crate::sector::deadline::Schedule;
use crate::sector::{Partition, Sector, SectorLeaf, SectorState};
use crate::state::{MemoryState, key, read};
use crate::units::Epoch;

/// How the file begins.
const MAGIC: [u8; 8] = *b"HFAUDIT\0";
/// The only version.
const VERSION: u16 = 1;
const DIGEST_TAG: &str = "holdfast/audit-bundle/v1";
/// Largest file: some ten thousand leaves with their proofs.
pub const MAX_BUNDLE_BYTES: usize = 64 << 20;
/// How long a block may be trusted before the next one is seen, if validators come and go.
pub const TRUST_PERIOD_MS: u64 = 14 * 86_400_000;

/// How long light clients trust a block: [`TRUST_PERIOD_MS`], and without end where one validator finalised it. The period is there
/// because validators who left may sell their keys.
///
/// The only validator can leave too: a set change hands its chain over to others. Whoever follows across that step trusts those
/// others for as long as several, because the period is asked of every block anew. Whoever slept through it cannot know, and would
/// still believe a chain that the old key goes on with, as it believed all that the key said before. A period would not help
/// there: a chain of one validator may stand for months, and a client without trust could only begin at its genesis. So who hands a
/// chain over destroys the old key, and clients from before take a checkpoint (`--checkpoint`).
pub fn trust_period_ms(trusted: &Trusted) -> u64 {
    match trusted.validators() {
        1 => u64::MAX,
        _ => TRUST_PERIOD_MS,
    }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct Bundle {
    /// What it is about: an object's id, the root of a group, or a deal's id.
    pub subject: [u8; 32],
    /// Canonical bytes of the genesis: validators, parameters, verifying keys, beacon keys.
    pub genesis: Vec<u8>,
    /// If set, trust begins at the first of `blocks`, which has this id, instead of at the genesis.
    pub checkpoint: Option<BlockId>,
    /// Final blocks, ascending, each believed by the one before.
    pub blocks: Vec<LightBlock>,
    /// Leaves under the last block's state root, ascending by key.
    pub leaves: Vec<Leaf>,
    /// Beacon rounds.
    pub beacons: Vec<ShownBeacon>,
    /// Proofs of replication; what they prove is in the leaves.
    pub poreps: Vec<ShownPorep>,
    /// Window PoSts as they were accepted.
    pub windows: Vec<ShownWindow>,
    /// Read-back samples.
    pub samples: Vec<ShownSample>,
}

/// The beacon entries of a block.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct ShownBeacon {
    /// The block.
    pub height: u64,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Path of leaf 0 to its transaction root.
    pub path: merkle::Path,
}

/// The PoRep of a committed sector.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct ShownPorep {
    /// Whose.
    pub provider: ProviderId,
    /// The sector.
    pub sector: SectorNumber,
    /// The proof.
    pub proof: Vec<u8>,
}

/// A window PoSt as a transaction carried it, and the receipt that says it was accepted.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct ShownWindow {
    /// The block.
    pub height: u64,
    /// The transaction's bytes.
    pub tx: Vec<u8>,
    /// Its path to the block's transaction root.
    pub tx_path: merkle::Path,
    /// Which of its messages carries the proof.
    pub message: u32,
    /// borsh of (receipt, its events).
    pub receipt: Vec<u8>,
    /// Its path to the receipt root in the header after the block's.
    pub receipt_path: merkle::Path,
    /// The replicas of the sectors that it proves, in the order of the receipt's event.
    pub replicas: Vec<CommR>,
}

/// A provider's answer to a challenge from the beacon: leaves of the piece, read back.
#[derive(Clone, Debug, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct ShownSample {
    /// The deal whose piece was asked for.
    pub deal: DealId,
    /// Epoch whose beacon chose the leaves.
    pub epoch: Epoch,
    /// The leaves and their paths to the deal's CommP.
    pub proofs: Vec<LeafProof>,
}

/// Why bytes are no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Another kind of file.
    #[error("this is no audit bundle")]
    NotABundle,
    /// From a later program.
    #[error("bundle version {0} is not 1; use a newer program")]
    Version(u16),
    /// The digest at its end does not match.
    #[error("the file is damaged or cut: its digest does not match")]
    Digest,
    /// Its content.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What the verifier pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The chain, by its id.
    pub chain_id: Option<ChainId>,
    /// A block, by height and id.
    pub checkpoint: Option<(u64, BlockId)>,
}

/// One thing that was checked and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, for programs.
    pub what: String,
    /// What holds, for people.
    pub says: String,
}

/// What does not hold, after what does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Refused {
    /// What was checked, for programs.
    pub what: &'static str,
    /// What is wrong, for people.
    pub why: String,
    /// Checks before it.
    pub passed: Vec<Check>,
}

/// An accepted proof that was verified again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedProof {
    /// Whose.
    pub provider: ProviderId,
    /// Of which sectors of this bundle.
    pub sectors: Vec<SectorNumber>,
    /// `porep` or `window_post`.
    pub kind: String,
    /// Epoch in which it was accepted.
    pub epoch: Epoch,
    /// Block that carried it, where the bundle shows it.
    pub height: Option<u64>,
}

/// What follows from a bundle.
#[derive(Debug)]
pub struct Believed {
    /// The chain's genesis.
    pub genesis: CheckedGenesis,
    /// The newest header.
    pub last: Header,
    /// The leaves that are there, as a state for [`query`] and [`crate::audit`].
    pub state: MemoryState,
    /// Deals, by id.
    pub deals: Vec<(DealId, Deal)>,
    /// Proofs.
    pub proofs: Vec<VerifiedProof>,
    /// When each deal's piece was last sampled.
    pub samples: BTreeMap<DealId, Epoch>,
    /// What was checked.
    pub checks: Vec<Check>,
}

impl Bundle {
    /// The file's bytes; an error if it would be too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &codec::encode(self)].concat();
        bytes.extend(codec::tagged_hash(DIGEST_TAG, &[&bytes]));
        match bytes.len() <= MAX_BUNDLE_BYTES {
            true => Ok(bytes),
            false => Err(CodecError::TooLong {
                len: bytes.len() as u64,
                max: MAX_BUNDLE_BYTES as u64,
            }),
        }
    }

    /// Reads a file's bytes: whole, canonical, nothing behind.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(CodecError::TooLong {
                len: bytes.len() as u64,
                max: MAX_BUNDLE_BYTES as u64,
            }
            .into());
        }
        let (magic, rest) = bytes.split_first_chunk().ok_or(BundleError::NotABundle)?;
        if *magic != MAGIC {
            return Err(BundleError::NotABundle);
        }
        let (version, rest) = rest.split_first_chunk().ok_or(BundleError::Digest)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(BundleError::Version(version));
        }
        let (content, digest) = rest.split_last_chunk::<32>().ok_or(BundleError::Digest)?;
        let whole = &bytes[..bytes.len() - digest.len()];
        if codec::tagged_hash(DIGEST_TAG, &[whole]) != *digest {
            return Err(BundleError::Digest);
        }
        Ok(codec::decode(content, MAX_BUNDLE_BYTES)?)
    }

    /// Checks everything that the chain binds. Deals and labels are the caller's to judge, on [`Believed::state`].
    pub fn verify(&self, anchor: &Anchor) -> Result<Believed, Refused> {
        let mut checks = Vec::new();
        match self.judge(anchor, &mut checks) {
            Ok(mut believed) => {
                believed.checks = checks;
                Ok(believed)
            }
            Err((what, why)) => Err(Refused {
                what,
                why,
                passed: checks,
            }),
        }
    }

    fn judge(&self, anchor: &Anchor, checks: &mut Vec<Check>) -> Result<Believed, Fault> {
        let mut hold = |what: &str, says: String| {
            checks.push(Check {
                what: what.into(),
                says,
            });
        };
        let genesis = self.chain(anchor).map_err(|why| ("chain", why))?;
        hold("chain", chain_words(&genesis, anchor));

        let headers = self
            .blocks(&genesis, anchor)
            .map_err(|why| ("blocks", why))?;
        let (_, last) = headers
            .last_key_value()
            .ok_or(("blocks", "there is no block".to_owned()))?;
        hold("blocks", self.blocks_words(last));

        let state = self.state(last).map_err(|why| ("state", why))?;
        let deals = crate::audit::deals(&state).map_err(|e| ("state", e.to_string()))?;
        hold(
            "state",
            format!(
                "{} leaves, {} deals among them, are in the state after block {}",
                self.leaves.len(),
                deals.len(),
                last.height - 1
            ),
        );

        let beacons = self
            .beacons(&genesis, &headers)
            .map_err(|why| ("beacon", why))?;
        hold(
            "beacon",
            format!(
                "{} beacon rounds, which chose the challenges, are on chain and signed by the beacon's key",
                beacons.len()
            ),
        );

        let seen = Seen {
            bundle: self,
            genesis: &genesis,
            headers: &headers,
            state: &state,
            beacons: &beacons,
        };
        let places = seen.places(&deals).map_err(|why| ("sectors", why))?;
        let proofs = seen.proofs(&places).map_err(|why| ("proofs", why))?;
        seen.complete(&places, &proofs)
            .map_err(|why| ("proofs", why))?;
        let (porep, window) = proof_words(&places, &proofs);
        hold("porep", porep);
        hold("window_post", window);

        let samples = seen.samples(&deals).map_err(|why| ("samples", why))?;
        hold("samples", samples_words(&deals, &samples, last));
        Ok(Believed {
            last: last.clone(),
            genesis,
            state,
            deals,
            proofs,
            samples,
            checks: vec![],
        })
    }

    fn chain(&self, anchor: &Anchor) -> Result<CheckedGenesis, String> {
        let refused = |e| format!("the genesis is refused: {e}");
        let genesis = Genesis::from_bytes(&self.genesis).map_err(refused)?;
        let found = genesis.chain_id();
        match anchor.chain_id {
            Some(expected) if expected != found => {
                Err(format!("the bundle is of chain {found}, not {expected}"))
            }
            _ => genesis.check().map_err(refused),
        }
    }

    /// Every header by height, believed in turn. The bundle's own checkpoint counts only if the verifier names the same.
    fn blocks(
        &self,
        genesis: &CheckedGenesis,
        anchor: &Anchor,
    ) -> Result<BTreeMap<u64, Header>, String> {
        let mut rest = self.blocks.iter();
        let mut headers = BTreeMap::new();
        let mut trusted = match self.checkpoint {
            None => genesis.trusted(),
            Some(id) => {
                let first = rest.next().ok_or("there is no block")?;
                let height = first.header.height;
                if anchor.checkpoint != Some((height, id)) {
                    return Err(format!(
                        "the bundle begins at block {height}, {id}; if you have that from somebody you trust, say so with --checkpoint {height}:{id}"
                    ));
                }
                headers.insert(height, first.header.clone());
                Trusted::checkpoint(genesis.chain_id(), id, first).map_err(|e| e.to_string())?
            }
        };
        for block in rest {
            let header = &block.header;
            if header.height <= trusted.height() {
                return Err("the blocks are not in ascending order".into());
            }
            let period = trust_period_ms(&trusted);
            trusted = trusted
                .step(block, header.time_ms, period)
                .map_err(|e| e.to_string())?;
            headers.insert(header.height, header.clone());
        }
        match anchor.checkpoint {
            Some((height, id)) if headers.get(&height).map(Header::id) != Some(id) => Err(format!(
                "the bundle does not go through block {height}, {id}"
            )),
            _ => Ok(headers),
        }
    }

    fn blocks_words(&self, last: &Header) -> String {
        let from = match (self.checkpoint, self.blocks.first()) {
            (Some(id), Some(first)) => format!("block {} ({id})", first.header.height),
            _ => "the genesis".into(),
        };
        format!(
            "{} final blocks lead from {from} to block {} of epoch {}, each signed by more than two thirds of its validators; its proposer's clock said {}",
            self.blocks.len(),
            last.height,
            last.epoch,
            utc(last.time_ms)
        )
    }

    fn state(&self, last: &Header) -> Result<MemoryState, String> {
        if self.leaves.windows(2).any(|two| two[0].key >= two[1].key) {
            return Err("the leaves are not in ascending order of key".into());
        }
        let mut state = MemoryState::default();
        for leaf in &self.leaves {
            if !leaf.holds(&last.prev_state_root) {
                return Err(format!(
                    "leaf {} is not under the state root of block {}",
                    hex::encode(&leaf.key),
                    last.height
                ));
            }
            if let Some(value) = &leaf.value {
                state.0.insert(leaf.key.clone(), value.clone());
            }
        }
        Ok(state)
    }

    fn beacons(
        &self,
        genesis: &CheckedGenesis,
        headers: &BTreeMap<u64, Header>,
    ) -> Result<BTreeMap<Epoch, [u8; 32]>, String> {
        let mut values = BTreeMap::new();
        let mut signed = Vec::new();
        for shown in &self.beacons {
            let header = headers
                .get(&shown.height)
                .ok_or_else(|| format!("block {} is not among the blocks", shown.height))?;
            let leaf = codec::encode(&shown.entries);
            if shown.path.index != 0
                || !shown
                    .path
                    .verify(List::Transactions, &leaf, &header.tx_root)
            {
                return Err(format!("block {} has other beacon entries", shown.height));
            }
            let of_block = genesis
                .beacons()
                .epochs_of(header.epoch, &shown.entries)
                .map_err(|e| format!("block {}: {e}", shown.height))?;
            for ((epoch, value), entry) in of_block.into_iter().zip(&shown.entries) {
                values.insert(epoch, value);
                signed.push((epoch, entry.clone()));
            }
        }
        signed.sort_by_key(|(epoch, _)| *epoch);
        match genesis.beacons().first_bad(&signed) {
            None => Ok(values),
            Some((at, error)) => Err(format!("epoch {}: {error}", signed[at].0)),
        }
    }
}

type Fault = (&'static str, String);

/// Where the leaves do not say which epochs counted for a window.
const UNKNOWN_OUTAGES: &str =
    "the leaves of the chain's outages in and before its window are missing";

/// A sector that holds a deal of the bundle.
struct Place {
    sector: Sector,
    state: Option<SectorState>,
    provider: Provider,
}

type Places = BTreeMap<(ProviderId, SectorNumber), Place>;

/// What is believed while the proofs are judged.
struct Seen<'a> {
    bundle: &'a Bundle,
    genesis: &'a CheckedGenesis,
    headers: &'a BTreeMap<u64, Header>,
    state: &'a MemoryState,
    beacons: &'a BTreeMap<Epoch, [u8; 32]>,
}

impl Seen<'_> {
    /// The committed sectors of the deals. A leaf that is absent from the file is not known to be absent from the state.
    fn places(&self, deals: &[(DealId, Deal)]) -> Result<Places, String> {
        let shown: BTreeSet<&[u8]> = self.bundle.leaves.iter().map(|l| &l.key[..]).collect();
        let need = |key: Vec<u8>, what: &str| match shown.contains(&key[..]) {
            true => Ok(key),
            false => Err(format!("the leaf of {what} is missing")),
        };
        let broken = |e: crate::error::StoreError| e.to_string();
        need(key::params(), "the parameters")?;
        need(key::network(), "the network")?;
        let mut places = Places::new();
        for (id, deal) in deals {
            let provider_id = deal.proposal.provider;
            let at = need(
                key::provider(provider_id),
                &format!("provider {provider_id}"),
            )?;
            let provider: Provider = read(self.state, &at)
                .map_err(broken)?
                .ok_or_else(|| format!("deal {id} names provider {provider_id}, who is absent"))?;
            let Some(number) = deal.sector else { continue };
            let name = format!("sector {number} of provider {provider_id}");
            let at = need(key::sector(provider_id, number), &name)?;
            let Some(SectorLeaf::Committed(sector)) = read(self.state, &at).map_err(broken)? else {
                continue;
            };
            let at = key::partition(provider_id, sector.deadline, sector.partition);
            let at = need(at, &format!("the partition of {name}"))?;
            let partition: Partition = read(self.state, &at).map_err(broken)?.unwrap_or_default();
            let slot = partition.slots.iter().find(|slot| slot.number == number);
            places.insert(
                (provider_id, number),
                Place {
                    state: slot.map(|slot| slot.state),
                    sector,
                    provider,
                },
            );
        }
        Ok(places)
    }

    fn proofs(&self, places: &Places) -> Result<Vec<VerifiedProof>, String> {
        let porep = |shown: &ShownPorep| {
            self.porep(shown, places).map_err(|why| {
                format!(
                    "the PoRep of sector {} of provider {}: {why}",
                    shown.sector, shown.provider
                )
            })
        };
        let window = |shown: &ShownWindow| {
            self.window(shown, places)
                .map_err(|why| format!("the window PoSt in block {}: {why}", shown.height))
        };
        let poreps = self.bundle.poreps.iter().map(porep);
        poreps
            .chain(self.bundle.windows.iter().map(window))
            .collect()
    }

    /// A PoRep needs no block: the leaf that is under the state root is its whole statement.
    fn porep(&self, shown: &ShownPorep, places: &Places) -> Result<VerifiedProof, String> {
        let place = places
            .get(&(shown.provider, shown.sector))
            .ok_or("the sector holds no deal of this bundle")?;
        let statement = porep_of(shown.provider, shown.sector, place);
        self.holds(&ProofDocument::porep(&statement, &shown.proof))?;
        Ok(VerifiedProof {
            provider: shown.provider,
            sectors: vec![shown.sector],
            kind: "porep".into(),
            epoch: place.sector.activation,
            height: None,
        })
    }

    fn holds(&self, document: &ProofDocument) -> Result<(), String> {
        document
            .verify(self.genesis.keys())
            .map_err(|e| e.to_string())
    }

    /// On chain, accepted, its statement built from what is believed, and verified again.
    fn window(&self, shown: &ShownWindow, places: &Places) -> Result<VerifiedProof, String> {
        let header = self
            .headers
            .get(&shown.height)
            .ok_or("its block is not among the blocks")?;
        let next = shown
            .height
            .checked_add(1)
            .and_then(|height| self.headers.get(&height))
            .ok_or("the block after it is not among the blocks")?;
        let (txs, receipts) = (&shown.tx_path, &shown.receipt_path);
        if txs.index == 0 || !txs.verify(List::Transactions, &shown.tx, &header.tx_root) {
            return Err("its transaction is not in the block".into());
        }
        let root = &next.prev_receipt_root;
        if receipts.index != txs.index || !receipts.verify(List::Receipts, &shown.receipt, root) {
            return Err("its receipt is not the transaction's".into());
        }
        let tx = SignedTx::from_bytes(&shown.tx).map_err(|e| e.to_string())?;
        let (receipt, events): (Receipt, Vec<EventRecord>) =
            codec::decode(&shown.receipt, shown.receipt.len()).map_err(|e| e.to_string())?;
        if receipt.tx != tx.id() || !receipt.succeeded() {
            return Err("its transaction did not succeed".into());
        }
        let message = usize::try_from(shown.message)
            .ok()
            .and_then(|at| tx.tx.msgs.get(at));
        let Some(Message::SubmitPost {
            provider,
            deadline,
            partition,
            proof,
            ..
        }) = message
        else {
            return Err("its message carries no window PoSt".into());
        };
        let accepted = events.iter().find_map(|record| match &record.event {
            Event::PostAccepted {
                provider: p,
                deadline: d,
                partition: n,
                proven,
                ..
            } if (p, d, n) == (provider, deadline, partition) => Some(proven),
            _ => None,
        });
        let proven = accepted.ok_or("its receipt does not say that it was accepted")?;
        let statements = self.window_of(shown, header, *provider, *deadline, proven, places)?;
        // One, unless an outage left more than one window that may have been open; a proof fits one challenge.
        let mut verdict = Err("the beacon of its challenge is missing".to_owned());
        for statement in &statements {
            verdict = self.holds(&ProofDocument::window_post(statement, proof));
            if verdict.is_ok() {
                break;
            }
        }
        verdict?;
        let mine = |number: &&SectorNumber| places.contains_key(&(*provider, **number));
        Ok(VerifiedProof {
            provider: *provider,
            sectors: proven.iter().filter(mine).copied().collect(),
            kind: "window_post".into(),
            epoch: header.epoch,
            height: Some(header.height),
        })
    }

    /// The statements of a window PoSt, one for each challenge that it may answer: replicas as listed, those of this bundle's
    /// sectors as the state has them.
    fn window_of(
        &self,
        shown: &ShownWindow,
        header: &Header,
        id: ProviderId,
        deadline: u16,
        proven: &[SectorNumber],
        places: &Places,
    ) -> Result<Vec<WindowPostStatement>, String> {
        let place = proven
            .iter()
            .find_map(|number| places.get(&(id, *number)))
            .ok_or("it proves no sector of this bundle")?;
        if shown.replicas.len() != proven.len() {
            return Err("it lists another number of replicas than it proves".into());
        }
        let sectors: Vec<_> = proven
            .iter()
            .copied()
            .zip(shown.replicas.iter().copied())
            .collect();
        for (number, comm_r) in &sectors {
            let known = places.get(&(id, *number));
            if known.is_some_and(|place| place.sector.comm_r != *comm_r) {
                return Err(format!("sector {number} has another replica"));
            }
        }
        let params = query::params(self.state).map_err(|e| e.to_string())?;
        let windows = Schedule::of(&params, &place.provider)
            .may_be_open(header.epoch, deadline, &self.outages()?)
            .ok_or(UNKNOWN_OUTAGES)?;
        let challenges = windows.iter().map(|window| window.challenge);
        let statement = |challenge: Epoch| {
            let beacon = self.beacons.get(&challenge)?;
            let value = rand(Tag::WindowPost, beacon, challenge, &id.0.to_be_bytes());
            Some(WindowPostStatement {
                size: place.provider.sector_size,
                prover: id.prover_id(),
                randomness: randomness::post(value),
                sectors: sectors.clone(),
            })
        };
        Ok(challenges.filter_map(statement).collect())
    }

    /// The dark epochs of the chain, as far back as the leaves show them.
    fn outages(&self) -> Result<Runs, String> {
        let net = query::totals(self.state).map_err(|e| e.to_string())?;
        Runs::of(self.state, &net).map_err(|e| e.to_string())
    }

    /// Every committed sector shows its PoRep, every active one a window PoSt of its last window.
    fn complete(&self, places: &Places, proofs: &[VerifiedProof]) -> Result<(), String> {
        let params = query::params(self.state).map_err(|e| e.to_string())?;
        let now = query::totals(self.state).map_err(|e| e.to_string())?.epoch;
        let outages = self.outages()?;
        for ((id, number), place) in places {
            let newest = |kind: &str| {
                let mine = proofs
                    .iter()
                    .filter(|p| p.kind == kind && p.provider == *id && p.sectors.contains(number));
                mine.map(|p| p.epoch).max()
            };
            let lacks = |what: &str| Err(format!("sector {number} of provider {id} lacks {what}"));
            if newest("porep").is_none() {
                return lacks("its proof of replication");
            }
            if place.state == Some(SectorState::Active) {
                let schedule = Schedule::of(&params, &place.provider);
                let since = schedule
                    .last_over(now, place.sector.deadline, &outages)
                    .ok_or(UNKNOWN_OUTAGES)?;
                if newest("window_post").is_none_or(|epoch| epoch < since) {
                    return lacks("the proof of its last window");
                }
            }
        }
        Ok(())
    }

    fn samples(&self, deals: &[(DealId, Deal)]) -> Result<BTreeMap<DealId, Epoch>, String> {
        let deals: BTreeMap<&DealId, &Deal> = deals.iter().map(|(id, deal)| (id, deal)).collect();
        let mut newest = BTreeMap::new();
        for shown in &self.bundle.samples {
            let (id, epoch) = (shown.deal, shown.epoch);
            let deal = deals
                .get(&id)
                .ok_or_else(|| format!("deal {id} is not in this bundle"))?;
            let value = self
                .beacons
                .get(&epoch)
                .ok_or_else(|| format!("the beacon of epoch {epoch} is missing"))?;
            let answer = Answer {
                epoch,
                beacon: beacon_of(value, epoch),
                proofs: shown.proofs.clone(),
            };
            answer
                .verify(&deal.proposal.piece(), deal.proposal.provider)
                .map_err(|why| format!("deal {id}: {why}"))?;
            let at = newest.entry(id).or_insert(epoch);
            *at = epoch.max(*at);
        }
        Ok(newest)
    }
}

/// The statement of a committed sector's PoRep, from its leaf alone.
fn porep_of(provider: ProviderId, number: SectorNumber, place: &Place) -> PorepStatement {
    PorepStatement {
        seal: RegisteredSeal::v1_1(place.provider.sector_size),
        prover: provider.prover_id(),
        sector: number,
        ticket: place.sector.ticket,
        seed: place.sector.seed,
        comm_d: place.sector.comm_d,
        comm_r: place.sector.comm_r,
    }
}

fn chain_words(genesis: &CheckedGenesis, anchor: &Anchor) -> String {
    let mut text = format!(
        "the genesis is that of chain {} ({:?})",
        genesis.chain_id(),
        genesis.genesis().chain_name
    );
    text.push_str(match anchor.chain_id {
        Some(_) => ", which you named",
        None => "; compare this id with a source you trust, or name it with --chain-id",
    });
    if genesis.has_insecure_keys() {
        text.push_str(". Its proving keys are INSECURE: anybody can forge proofs of this network");
    }
    text
}

/// Unix milliseconds as `2026-11-26 04:40 UTC`, by the proleptic Gregorian calendar.
fn utc(time_ms: u64) -> String {
    let minutes = time_ms / 60_000;
    // Days since 0000-03-01, so that a leap day is the last of its year; 400 years have 146,097 days.
    let days = minutes / 1_440 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{date:02} {:02}:{:02} UTC",
        era * 400 + year + carry,
        minutes % 1_440 / 60,
        minutes % 60
    )
}

fn proof_words(places: &Places, proofs: &[VerifiedProof]) -> (String, String) {
    let of = |kind: &'static str| proofs.iter().filter(move |p| p.kind == kind);
    let porep = format!(
        "{} proofs of replication verify again, one for each committed sector that holds a piece",
        of("porep").count()
    );
    let states = |wanted: fn(&SectorState) -> bool| {
        places
            .values()
            .filter(|place| place.state.as_ref().is_some_and(wanted))
            .count()
    };
    let active = states(|s| *s == SectorState::Active);
    let waiting = states(|s| *s == SectorState::Unproven);
    let faulty = states(|s| s.faulty_since().is_some());
    let newest = of("window_post").map(|p| p.epoch.0).max();
    let window = format!(
        "{} window PoSts verify again and cover the last window of all {active} active sectors{}; {waiting} sectors wait for their first window, {faulty} are faulty",
        of("window_post").count(),
        newest.map_or(String::new(), |epoch| format!(
            ", the newest of epoch {epoch}"
        ))
    );
    (porep, window)
}

fn samples_words(
    deals: &[(DealId, Deal)],
    samples: &BTreeMap<DealId, Epoch>,
    last: &Header,
) -> String {
    let open = deals.iter().filter(|(_, d)| d.status.is_open()).count();
    let age = samples
        .values()
        .map(|epoch| last.epoch.since(*epoch).0)
        .max();
    let age = age.map_or(String::new(), |age| format!(", {age} epochs ago at most"));
    format!(
        "{} of {open} pieces under open deals were read back where the beacon asked{age}",
        samples.len()
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::certificate::Certificate;
    use crate::clock::ClockMode;
    use crate::ledger::tests::{advance, beacon, genesis, open, validator};
    use crate::ledger::{Ledger, Slot};
    use crate::light::{light_block, state_batch};

    /// A bundle of an object without deals: chain, blocks, state and a beacon round.
    pub(crate) fn bare() -> (Bundle, ChainId) {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(2)).unwrap();
        advance(&ledger, 6);
        let bundle = shown(&ledger, &[key::params(), key::network()]);
        (bundle, ledger.chain_id())
    }

    /// These leaves after the newest block, the first two blocks, and the rounds of the second.
    fn shown(ledger: &Ledger, keys: &[Vec<u8>]) -> Bundle {
        let batch = state_batch(ledger, None, keys).unwrap();
        let body = ledger.block(2).unwrap().block.body;
        Bundle {
            subject: [7; 32],
            genesis: ledger.genesis().bytes().to_vec(),
            checkpoint: None,
            blocks: vec![
                light_block(ledger, 1).unwrap(),
                light_block(ledger, 2).unwrap(),
                batch.light,
            ],
            leaves: batch.leaves,
            beacons: vec![ShownBeacon {
                height: 2,
                path: merkle::path(List::Transactions, &body.leaves(), 0).unwrap(),
                entries: body.beacons,
            }],
            poreps: vec![],
            windows: vec![],
            samples: vec![],
        }
    }

    /// Under the beacon's clock: rounds of an outage, carried by a later block and not up to its own epoch, are the epochs' they
    /// are of, whatever the block's.
    #[test]
    fn a_round_that_was_carried_after_an_outage_is_its_own_epochs() {
        let home = tempfile::tempdir().unwrap();
        let mut genesis = genesis(2);
        genesis.clock = ClockMode::Beacon { epoch_ms: 2_000 };
        let ledger = open(home.path(), &genesis).unwrap();
        let block = |epoch: u64, rounds: std::ops::RangeInclusive<u64>| {
            let (height, round) = (ledger.tip().height + 1, 0);
            let entries = rounds.map(|r| beacon().sign(r)).collect();
            let now = genesis.time_ms + (epoch - 1) * 2_000 + 1;
            let slot = Slot { height, round };
            let block = ledger.build(slot, Epoch(epoch), now, entries, vec![]);
            let block = block.unwrap();
            let certificate =
                Certificate::solo(&ledger.chain_id(), height, block.id(), &validator());
            ledger.commit(block, certificate).unwrap();
        };
        block(1, 1..=1);
        block(40, 2..=30);
        block(41, 31..=41);
        block(42, 42..=42);
        let keys = [key::params(), key::network(), key::dark_run(Epoch(41))];
        let mut bundle = shown(&ledger, &keys);
        let anchor = named(ledger.chain_id());
        let believed = bundle.verify(&anchor).unwrap();
        let checked = ledger.genesis();
        let headers = bundle.blocks(checked, &anchor).unwrap();
        let values = bundle.beacons(checked, &headers).unwrap();
        assert_eq!(
            values.keys().map(|e| e.0).collect::<Vec<_>>(),
            (2..=30).collect::<Vec<_>>()
        );
        assert_eq!(values[&Epoch(17)], beacon().sign(17).randomness());
        // The outage is bound too: 39 epochs without a block, or with a beacon that was too old.
        let outages = Runs::of(&believed.state, &query::totals(&believed.state).unwrap()).unwrap();
        assert_eq!(outages.lit(Epoch(0), Epoch(42)), Some(3));
        bundle.leaves.retain(|leaf| leaf.key != keys[2]);
        let without = bundle.verify(&anchor).unwrap().state;
        let outages = Runs::of(&without, &query::totals(&without).unwrap()).unwrap();
        assert_eq!(outages.lit(Epoch(41), Epoch(42)), None);
    }

    fn named(chain_id: ChainId) -> Anchor {
        Anchor {
            chain_id: Some(chain_id),
            checkpoint: None,
        }
    }

    fn refused(bundle: &Bundle, anchor: &Anchor) -> &'static str {
        bundle.verify(anchor).expect_err("it does not hold").what
    }

    #[test]
    fn a_sound_bundle_holds_and_says_so_in_sentences() {
        let (bundle, chain_id) = bare();
        let bytes = bundle.to_bytes().unwrap();
        let bundle = Bundle::from_bytes(&bytes).unwrap();
        let believed = bundle.verify(&named(chain_id)).unwrap();
        let what: Vec<_> = believed.checks.iter().map(|c| c.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "chain",
                "blocks",
                "state",
                "beacon",
                "porep",
                "window_post",
                "samples"
            ]
        );
        assert!(believed.checks.iter().all(|c| c.says.len() > 20));
        assert_eq!(believed.last.height, 6);
        assert_eq!(
            query::totals(&believed.state).unwrap().height,
            5,
            "the state one block before"
        );
    }

    #[test]
    fn tm_v12_a_bundle_is_of_the_pinned_chain_and_begins_where_the_verifier_says() {
        let (bundle, chain_id) = bare();
        assert_eq!(refused(&bundle, &named(ChainId([9; 32]))), "chain");
        let second = &bundle.blocks[1].header;
        let point = Anchor {
            chain_id: Some(chain_id),
            checkpoint: Some((2, second.id())),
        };
        // A checkpoint on the way holds; the same height with another id does not.
        assert!(bundle.verify(&point).is_ok());
        let other = Anchor {
            checkpoint: Some((2, BlockId([1; 32]))),
            ..point
        };
        assert_eq!(refused(&bundle, &other), "blocks");
        // A bundle that begins at a checkpoint of its own choice is believed by nobody else.
        let mut own = bundle.clone();
        own.blocks.remove(0);
        own.checkpoint = Some(second.id());
        assert_eq!(refused(&own, &named(chain_id)), "blocks");
        assert!(own.verify(&point).is_ok());
    }

    #[test]
    fn every_part_is_bound() {
        let (bundle, chain_id) = bare();
        let changes: [(&str, fn(&mut Bundle)); 9] = [
            ("chain", |b| b.genesis[100] ^= 1),
            ("blocks", |b| b.blocks.swap(0, 1)),
            ("blocks", |b| b.blocks[2].header.prev_state_root[0] ^= 1),
            ("blocks", |b| b.blocks.clear()),
            ("state", |b| b.leaves.swap(0, 1)),
            ("state", |b| b.leaves[1].value.as_mut().unwrap()[0] ^= 1),
            ("state", |b| b.leaves[1].value = None),
            ("beacon", |b| b.beacons[0].height = 1),
            ("beacon", |b| b.beacons[0].entries[0].sig[3] ^= 1),
        ];
        for (i, (what, change)) in changes.iter().enumerate() {
            let mut changed = bundle.clone();
            change(&mut changed);
            assert_eq!(refused(&changed, &named(chain_id)), *what, "change {i}");
        }
        let mut unknown = bundle.clone();
        unknown.samples.push(ShownSample {
            deal: DealId([1; 32]),
            epoch: Epoch(2),
            proofs: vec![],
        });
        assert_eq!(refused(&unknown, &named(chain_id)), "samples");
        let mut extra = bundle;
        extra.poreps.push(ShownPorep {
            provider: ProviderId(1000),
            sector: SectorNumber(1),
            proof: vec![0; 192],
        });
        assert_eq!(refused(&extra, &named(chain_id)), "proofs");
    }

    #[test]
    fn every_flipped_byte_every_cut_and_every_addition_fails() {
        let (bundle, chain_id) = bare();
        let bytes = bundle.to_bytes().unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Bundle::from_bytes(&flipped).is_err(), "byte {at}");
            assert!(Bundle::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Bundle::from_bytes(&longer).is_err());

        // Against somebody who makes the digest fit again: what the chain does not bind is the subject alone, which the
        // object's own labels bind.
        let content = 10..bytes.len() - 32;
        let subject = content.start..content.start + 32;
        for at in content.step_by(7).filter(|at| !subject.contains(at)) {
            let mut flipped = bytes[..bytes.len() - 32].to_vec();
            flipped[at] ^= 1 << (at % 8);
            flipped.extend(codec::tagged_hash(DIGEST_TAG, &[&flipped]));
            let found = Bundle::from_bytes(&flipped)
                .map_err(|e| e.to_string())
                .and_then(|b| b.verify(&named(chain_id)).map_err(|e| e.to_string()));
            assert!(found.is_err(), "byte {at} with a fitting digest");
        }
    }

    #[test]
    fn times_read_as_dates() {
        for (time_ms, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_827_640_000, "2000-02-29 12:34 UTC"),
            (1_700_000_000_000, "2023-11-14 22:13 UTC"),
            (4_107_542_399_999, "2100-02-28 23:59 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc(time_ms), text);
        }
        assert!(utc(u64::MAX).ends_with("UTC"), "calm on any header");
    }

    #[test]
    fn foreign_and_too_long_files_are_named() {
        assert_eq!(Bundle::from_bytes(b""), Err(BundleError::NotABundle));
        assert_eq!(
            Bundle::from_bytes(b"HFEXPT\0\0 and more"),
            Err(BundleError::NotABundle)
        );
        let mut newer = bare().0.to_bytes().unwrap();
        newer[8] = 2;
        assert_eq!(Bundle::from_bytes(&newer), Err(BundleError::Version(2)));
        let long = vec![0; MAX_BUNDLE_BYTES + 1];
        assert!(matches!(
            Bundle::from_bytes(&long),
            Err(BundleError::Codec(CodecError::TooLong { .. }))
        ));
    }
}
