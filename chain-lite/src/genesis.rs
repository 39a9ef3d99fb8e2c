//! Genesis: everything that all nodes of a chain agree on before block 1; its hash is the chain's id.
//!
//! Walk: made once by `devnet up` or by a public network's founders, record 0 of every block log and export.
//! `chain id = SHA-256("holdfast/genesis/v1" ‖ borsh(Genesis))`: constants, accounts, validators, beacon, clock and the
//! verifying keys' bytes, so an auditor who knows the chain id trusts nothing else (`DESIGN.md` §6, promise 7).
//!
//! [`Genesis::check`] turns words into evidence ([`CheckedGenesis`]): relations between constants, beacon hashes, keys in
//! their subgroups with the right number of inputs. A **public** network additionally refuses test sector sizes (`tm_p1`), any
//! verifying key that is not Filecoin's own from its ceremony (`tm_s1`), a clock that can be held, and a beacon whose key one
//! node holds.

use std::collections::{BTreeMap, BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use holdfast_light::verify::Trusted;
use prover::snark::CircuitId;
use prover::snark::origin::is_filecoins;
use prover::verify::VerifyingKeys;
use serde::{Deserialize, Serialize};

use crate::account::{Address, ChainId};
use crate::beacon::{BeaconError, BeaconParams, BeaconSchedule, QUICKNET_HASH};
use crate::block::BlockId;
use crate::certificate::{CertError, Validator, ValidatorSet};
use crate::clock::ClockMode;
use crate::codec::{self, CodecError};
use crate::execute;
use crate::params::{ChainParams, ParamsError, VerificationMode};
use crate::state::{WriteSet, key};
use crate::units::{Epoch, TokenAmount};

/// The only genesis version.
pub const GENESIS_VERSION: u16 = 2;
/// Largest genesis in bytes.
pub const MAX_GENESIS_BYTES: usize = 8 << 20;
/// Most accounts that genesis may fund.
pub const MAX_ACCOUNTS: usize = 100_000;

/// What kind of network this is; decides how much genesis may weaken.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// On one machine or among friends: test sizes and locally made keys are allowed, and said so.
    Devnet,
    /// Open to strangers: nothing insecure is accepted.
    Public,
}

/// One circuit's verifying key.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct CircuitKey {
    /// Which circuit, such as `porep-8MiB`.
    pub circuit: CircuitId,
    /// Whether the key was made locally from a published seed, so that anybody can forge proofs under it (S1).
    pub insecure: bool,
    /// The key in Filecoin's `.vk` layout.
    #[serde(with = "crate::codec::hex_bytes")]
    pub vk: Vec<u8>,
}

/// What all nodes agree on before block 1.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
pub struct Genesis {
    /// [`GENESIS_VERSION`].
    pub version: u16,
    /// A name for people, at most 64 bytes.
    pub chain_name: String,
    /// Devnet or public.
    pub kind: NetworkKind,
    /// Unix milliseconds of genesis; block 1 is later.
    pub time_ms: u64,
    /// How epochs follow time.
    pub clock: ClockMode,
    /// The rules' constants.
    pub params: ChainParams,
    /// Who has money at the start.
    pub accounts: BTreeMap<Address, TokenAmount>,
    /// Who finalises the first blocks.
    pub validators: Vec<Validator>,
    /// Where randomness comes from.
    pub beacons: Vec<BeaconParams>,
    /// Verifying keys, ascending by circuit.
    pub keys: Vec<CircuitKey>,
}

/// Why a genesis is refused.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// Not the canonical bytes of a genesis.
    #[error("the genesis cannot be read: {0}")]
    Bytes(#[from] CodecError),
    /// Not the JSON of a genesis.
    #[error("the genesis file cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Constants that the rules cannot work with.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// A beacon that contradicts itself.
    #[error(transparent)]
    Beacon(#[from] BeaconError),
    /// Impossible validators.
    #[error(transparent)]
    Validators(#[from] CertError),
    /// A verifying key that is broken or missing.
    #[error("verifying keys: {0}")]
    Keys(String),
    /// Something else in it.
    #[error("genesis: {0}")]
    Content(String),
    /// Allowed on a devnet only.
    #[error("a public network refuses {what}; {instead}")]
    NotPublic {
        /// What was found.
        what: String,
        /// What to do.
        instead: &'static str,
    },
}

/// A genesis that was checked, with everything derived from it.
#[derive(Clone, Debug)]
pub struct CheckedGenesis {
    genesis: Genesis,
    bytes: Vec<u8>,
    chain_id: ChainId,
    validators: ValidatorSet,
    beacons: BeaconSchedule,
    keys: VerifyingKeys,
}

impl Genesis {
    /// Canonical bytes: record 0 of the log.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// From canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GenesisError> {
        if let Some(version) = bytes.first_chunk().copied().map(u16::from_le_bytes) {
            known_version(version)?;
        }
        Ok(codec::decode(bytes, MAX_GENESIS_BYTES)?)
    }

    /// From the JSON that `holdfast chain` writes for people.
    pub fn from_json(text: &[u8]) -> Result<Self, GenesisError> {
        if text.len() > 4 * MAX_GENESIS_BYTES {
            return Err(CodecError::TooLong {
                len: text.len() as u64,
                max: 4 * MAX_GENESIS_BYTES as u64,
            }
            .into());
        }
        #[derive(Deserialize)]
        struct Version {
            version: u16,
        }
        if let Ok(Version { version }) = serde_json::from_slice(text) {
            known_version(version)?;
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// The chain's name for machines.
    pub fn chain_id(&self) -> ChainId {
        chain_id_of(&self.to_bytes())
    }

    /// Checks everything that can be checked before block 1. Costs the subgroup checks of the keys, a few ms each.
    pub fn check(self) -> Result<CheckedGenesis, GenesisError> {
        let content = |why: String| Err(GenesisError::Content(why));
        known_version(self.version)?;
        if self.chain_name.is_empty()
            || self.chain_name.len() > 64
            || self.chain_name.chars().any(char::is_control)
        {
            return content("the chain's name must have 1 to 64 printable bytes".into());
        }
        let epoch_ms = self.clock.epoch_ms();
        if epoch_ms == 0 || epoch_ms > 24 * 3_600_000 {
            return content(format!(
                "an epoch of {epoch_ms} ms; it must last between 1 ms and a day"
            ));
        }
        self.params.check()?;
        if self.accounts.is_empty() || self.accounts.len() > MAX_ACCOUNTS {
            return content(format!(
                "{} accounts; there must be 1 to {MAX_ACCOUNTS}",
                self.accounts.len()
            ));
        }
        execute::genesis_writes(&self.params, &self.accounts)
            .map_err(|e| GenesisError::Content(e.to_string()))?;
        let validators = ValidatorSet::new(self.validators.clone())?;
        if validators.validators() != self.validators {
            return content("validators must be listed in ascending order of key".into());
        }
        if !self.params.spans_proposers(self.validators.len()) {
            return content(format!(
                "{} validators; in a deadline of {} epochs a third of them could keep a proof out, so take fewer validators or \
                 longer deadlines",
                self.validators.len(),
                self.params.window()
            ));
        }
        let from_beacon = matches!(self.clock, ClockMode::Beacon { .. });
        let beacons = BeaconSchedule::new(&self.beacons, from_beacon.then_some(epoch_ms))?;
        if from_beacon {
            self.check_time(&beacons, epoch_ms)?;
        }
        let keys = self.check_keys()?;
        if self.kind == NetworkKind::Public {
            self.check_public()?;
        }
        let bytes = self.to_bytes();
        if bytes.len() > MAX_GENESIS_BYTES {
            return Err(CodecError::TooLong {
                len: bytes.len() as u64,
                max: MAX_GENESIS_BYTES as u64,
            }
            .into());
        }
        let chain_id = chain_id_of(&bytes);
        Ok(CheckedGenesis {
            genesis: self,
            bytes,
            chain_id,
            validators,
            beacons,
            keys,
        })
    }

    /// Genesis lies in epoch 0 of the beacon's clock: were it later, the first epochs' values would be known when it is written.
    fn check_time(&self, beacons: &BeaconSchedule, epoch_ms: u64) -> Result<(), GenesisError> {
        let first = beacons.time_ms_of(Epoch(1)).unwrap_or(0);
        let zero = first.saturating_sub(epoch_ms);
        if (zero..=first).contains(&self.time_ms) && first > 0 {
            return Ok(());
        }
        Err(GenesisError::Content(format!(
            "its time is {} ms, and epoch 0 by the beacon's clock is from {zero} to {first} ms; choose round0 or the time to fit",
            self.time_ms
        )))
    }

    /// Every sector size needs both keys: a block whose proof a node cannot judge would stop that node.
    fn check_keys(&self) -> Result<VerifyingKeys, GenesisError> {
        if self.keys.windows(2).any(|w| w[0].circuit >= w[1].circuit) {
            return Err(GenesisError::Keys(
                "they must be listed in ascending order of circuit, each once".into(),
            ));
        }
        let bytes = self.keys.iter().map(|k| (k.circuit, k.vk.as_slice()));
        let keys =
            VerifyingKeys::from_vk_bytes(bytes).map_err(|e| GenesisError::Keys(e.to_string()))?;
        let have: BTreeSet<CircuitId> = keys.circuits().collect();
        for size in &self.params.sector_sizes {
            for circuit in [CircuitId::porep(*size), CircuitId::window(*size)] {
                if !have.contains(&circuit) {
                    return Err(GenesisError::Keys(format!(
                        "{circuit} is missing, and the parameters allow {size} sectors"
                    )));
                }
            }
        }
        Ok(keys)
    }

    fn check_public(&self) -> Result<(), GenesisError> {
        let refuse = |what: String, instead| Err(GenesisError::NotPublic { what, instead });
        if let Some(size) = self.params.sector_sizes.iter().find(|s| !s.is_production()) {
            return refuse(
                format!("{size} sectors, which can be regenerated faster than they are challenged"),
                "use 32GiB and 64GiB",
            );
        }
        if self.params.verification != VerificationMode::Eager {
            return refuse(
                "optimistic verification, because nobody is bound to run a watcher and a wrong proof that nobody disputes stands".into(),
                "use eager",
            );
        }
        if let Some(key) = self.keys.iter().find(|k| k.insecure || !is_pinned(k)) {
            return refuse(
                format!(
                    "the key of {}, which is not from Filecoin's ceremony",
                    key.circuit
                ),
                "load the published .vk file",
            );
        }
        if !matches!(self.clock, ClockMode::Beacon { .. }) {
            return refuse(
                "a logical clock, which one node can stop".into(),
                "use the beacon clock",
            );
        }
        if let Some(beacon) = self
            .beacons
            .iter()
            .find(|b| hex::encode(b.chain_hash) != QUICKNET_HASH)
        {
            return refuse(
                format!("beacon {:?}, whose key may be known", beacon.beacon_id),
                "use drand quicknet",
            );
        }
        Ok(())
    }
}

impl CheckedGenesis {
    /// The genesis itself.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }
    /// Its canonical bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// The chain's id.
    pub fn chain_id(&self) -> ChainId {
        self.chain_id
    }
    /// Validators of the first blocks.
    pub fn validators(&self) -> &ValidatorSet {
        &self.validators
    }
    /// Beacon networks.
    pub fn beacons(&self) -> &BeaconSchedule {
        &self.beacons
    }
    /// Verifying keys.
    pub fn keys(&self) -> &VerifyingKeys {
        &self.keys
    }
    /// Whether any key can be forged under.
    pub fn has_insecure_keys(&self) -> bool {
        self.genesis.keys.iter().any(|k| k.insecure)
    }
    /// What block 1 names as its parent.
    pub fn parent_of_first(&self) -> BlockId {
        BlockId(self.chain_id.0)
    }

    /// Where a light client that pins this genesis begins.
    pub fn trusted(&self) -> Trusted {
        Trusted::genesis(self.chain_id, self.genesis.time_ms, self.validators.clone())
    }

    /// The state before block 1.
    pub fn writes(&self) -> WriteSet {
        let genesis = &self.genesis;
        let mut writes = execute::genesis_writes(&genesis.params, &genesis.accounts)
            .expect("`check` asked the same question before this value existed");
        writes.insert(key::validators(), Some(codec::encode(&self.validators)));
        writes
    }
}

fn chain_id_of(bytes: &[u8]) -> ChainId {
    ChainId(codec::tagged_hash("holdfast/genesis/v1", &[bytes]))
}

/// Rules change with the version: a chain is read by the programs that know its rules.
fn known_version(version: u16) -> Result<(), GenesisError> {
    if version == GENESIS_VERSION {
        return Ok(());
    }
    Err(GenesisError::Content(format!(
        "it has version {version} and this program knows version {GENESIS_VERSION}; use the holdfast that made the chain, or begin a new one"
    )))
}

/// Whether Filecoin's ceremony made this key: it published keys of test sizes as well, which are good for tests alone.
fn is_pinned(key: &CircuitKey) -> bool {
    key.circuit.size.is_production() && is_filecoins(key.circuit, &key.vk)
}

/// Any bytes as a genesis, in both forms: refused, or canonical; and checking it is calm. Body of the fuzz target.
pub fn fuzz_genesis(bytes: &[u8]) {
    if let Ok(genesis) = Genesis::from_bytes(bytes) {
        assert_eq!(genesis.to_bytes(), bytes, "one encoding per value");
        let id = genesis.chain_id();
        if let Ok(checked) = genesis.check() {
            assert_eq!(checked.chain_id(), id);
        }
    }
    if let Ok(genesis) = Genesis::from_json(bytes) {
        let _ = genesis.check();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use prover::spec::SectorSize;

    use super::*;

    /// Keys of one size from the golden vectors: throw-away keys made by Filecoin's own prover.
    fn golden_keys(size: &str) -> Vec<CircuitKey> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../fixtures/vectors/filecoin.json"
        );
        let vectors: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let key = |circuit: CircuitId, name: &str| {
            let vk = hex::decode(vectors["sectors"][size][name].as_str().unwrap()).unwrap();
            CircuitKey {
                circuit,
                insecure: true,
                vk,
            }
        };
        let size = size.parse().unwrap();
        vec![
            key(CircuitId::porep(size), "porep_vk"),
            key(CircuitId::window(size), "window_vk"),
        ]
    }

    /// The smallest keys there are, for other modules' tests.
    pub fn kib2_keys() -> Vec<CircuitKey> {
        golden_keys("2KiB")
    }

    fn devnet() -> Genesis {
        crate::ledger::tests::genesis(2)
    }

    #[test]
    fn bytes_and_json_read_back_and_the_id_binds_everything() {
        let genesis = devnet();
        assert_eq!(Genesis::from_bytes(&genesis.to_bytes()).unwrap(), genesis);
        let json = serde_json::to_vec_pretty(&genesis).unwrap();
        assert_eq!(Genesis::from_json(&json).unwrap(), genesis);
        let checked = genesis.clone().check().unwrap();
        assert_eq!(checked.chain_id(), genesis.chain_id());
        let changes: [fn(&mut Genesis); 7] = [
            |g| g.chain_name.push('x'),
            |g| g.time_ms += 1,
            |g| g.params.seed_delay.0 += 1,
            |g| *g.accounts.values_mut().next().unwrap() = TokenAmount(1),
            |g| g.validators[0].power += 1,
            |g| g.beacons[0].round0 += 1,
            |g| g.keys[0].insecure = false,
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut changed = genesis.clone();
            change(&mut changed);
            assert_ne!(changed.chain_id(), genesis.chain_id(), "change {i}");
        }
    }

    #[test]
    fn every_broken_genesis_is_refused_with_its_cause() {
        let changes: Vec<(&str, fn(&mut Genesis))> = vec![
            ("version", |g| g.version = 3),
            ("name", |g| g.chain_name.clear()),
            ("name", |g| g.chain_name = "a\u{7}".into()),
            ("epoch", |g| g.clock = ClockMode::Logical { epoch_ms: 0 }),
            ("parameters", |g| g.params.deadlines = 0),
            ("accounts", |g| g.accounts.clear()),
            ("2^100", |g| {
                *g.accounts.values_mut().next().unwrap() = TokenAmount(u128::MAX)
            }),
            ("validators", |g| g.validators.clear()),
            ("beacon", |g| g.beacons.clear()),
            ("chain hash", |g| g.beacons[0].period = 3),
            ("window-2KiB", |g| drop(g.keys.pop())),
            ("ascending", |g| g.keys.swap(0, 1)),
            ("porep-2KiB", |g| g.keys[0].vk.truncate(700)),
            ("porep-2KiB", |g| g.keys[0].vk[700] ^= 1),
            ("32GiB", |g| g.params.sector_sizes = vec![SectorSize::Gib32]),
            ("is not 1 rounds", |g| {
                g.clock = ClockMode::Beacon { epoch_ms: 1_000 }
            }),
            ("epoch 0 by the beacon's clock", |g| {
                g.clock = ClockMode::Beacon { epoch_ms: 2_000 };
                g.time_ms += 1;
            }),
            ("epoch 0 by the beacon's clock", |g| {
                g.clock = ClockMode::Beacon { epoch_ms: 2_000 };
                g.time_ms -= 2_001;
            }),
        ];
        for (word, change) in changes {
            let mut broken = devnet();
            change(&mut broken);
            let error = broken
                .check()
                .err()
                .unwrap_or_else(|| panic!("{word} was accepted"))
                .to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(Genesis::from_bytes(&devnet().to_bytes()[1..]).is_err());
        assert!(Genesis::from_json(b"{}").is_err());
    }

    #[test]
    fn tm_v4_a_deadline_has_turns_for_every_validator_that_may_censor() {
        let of = |count: u64| {
            let keys = (30..30 + count).map(crate::ledger::tests::user);
            let mut validators: Vec<Validator> = keys
                .map(|key| Validator {
                    id: crate::certificate::ValidatorId(key.verifying_key().to_bytes()),
                    power: 1,
                })
                .collect();
            validators.sort_by_key(|validator| validator.id);
            Genesis {
                validators,
                ..devnet()
            }
        };
        // 20 turns a deadline: five censors of 18 leave some, six of 19 could have them all.
        of(18).check().expect("18 validators");
        let Err(error) = of(19).check() else {
            panic!("19 validators are taken");
        };
        let error = error.to_string();
        assert!(error.contains("take fewer validators"), "{error}");
        let production = ChainParams::production();
        assert!(production.spans_proposers(58) && !production.spans_proposers(61));
    }

    fn public() -> Genesis {
        Genesis {
            kind: NetworkKind::Public,
            clock: ClockMode::Beacon { epoch_ms: 30_000 },
            params: ChainParams::production(),
            // The time of quicknet's round 30,000,000.
            time_ms: 1_782_803_364_000,
            beacons: vec![BeaconParams::quicknet(0, 30_000_000)],
            ..devnet()
        }
    }

    #[test]
    fn tm_p1_public_networks_refuse_test_sector_sizes() {
        let genesis = Genesis {
            params: ChainParams {
                sector_sizes: vec![SectorSize::Kib2],
                ..ChainParams::production()
            },
            ..public()
        };
        let error = genesis.check().err().unwrap();
        assert!(
            matches!(&error, GenesisError::NotPublic { what, .. } if what.contains("2KiB")),
            "{error}"
        );
    }

    #[test]
    fn tm_h10_a_genesis_of_another_version_is_named_not_guessed() {
        let genesis = crate::ledger::tests::genesis(1);
        let mut bytes = genesis.to_bytes();
        bytes[..2].copy_from_slice(&1u16.to_le_bytes());
        let old = serde_json::json!({"version": 1, "chain_name": "before"}).to_string();
        for refused in [
            Genesis::from_bytes(&bytes[..40]),
            Genesis::from_bytes(&bytes),
            Genesis::from_json(old.as_bytes()),
        ] {
            let why = refused.unwrap_err().to_string();
            assert!(
                why.contains("version 1") && why.contains("version 2"),
                "{why}"
            );
        }
        assert_eq!(Genesis::from_bytes(&genesis.to_bytes()).unwrap(), genesis);
    }

    #[test]
    fn tm_s1_public_networks_refuse_keys_outside_the_pinned_list() {
        // The size check comes first, so it is asked of the key check directly: dev keys, however they are labelled.
        for insecure in [true, false] {
            for mut key in kib2_keys() {
                key.insecure = insecure;
                assert!(!is_pinned(&key));
                key.circuit = CircuitId::porep(SectorSize::Gib32);
                assert!(!is_pinned(&key), "another size's name does not help");
            }
        }
        let genesis = Genesis {
            params: ChainParams {
                sector_sizes: vec![SectorSize::Gib32],
                ..ChainParams::production()
            },
            ..public()
        };
        assert!(
            matches!(genesis.check_public(), Err(GenesisError::NotPublic { what, .. }) if what.contains("porep-2KiB"))
        );
    }

    #[test]
    fn public_networks_refuse_a_clock_or_beacon_in_one_hand() {
        let none = Genesis {
            keys: vec![],
            ..public()
        };
        assert!(none.check_public().is_ok());
        let held = Genesis {
            clock: ClockMode::Logical { epoch_ms: 100 },
            ..none.clone()
        };
        assert!(
            matches!(held.check_public(), Err(GenesisError::NotPublic { what, .. }) if what.contains("clock"))
        );
        let known = Genesis {
            beacons: devnet().beacons,
            ..none
        };
        assert!(
            matches!(known.check_public(), Err(GenesisError::NotPublic { what, .. }) if what.contains("beacon"))
        );
    }

    #[test]
    fn genesis_state_has_the_validators_and_the_money() {
        let checked = devnet().check().unwrap();
        let writes = checked.writes();
        assert!(writes.contains_key(&key::validators()));
        assert_eq!(
            writes
                .keys()
                .filter(|k| k.starts_with(&key::accounts()))
                .count(),
            2
        );
        assert_eq!(checked.parent_of_first().0, checked.chain_id().0);
    }
}
