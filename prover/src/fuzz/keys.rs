//! Key files: `.params` in Filecoin's layout, as `snark::keys` opens them when one is imported or loaded, and the record beside a key.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ark_bls12_381::{Fr, G1Affine, G2Affine};
use ark_ec::AffineRepr;
use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use sha2::{Digest, Sha256};

use crate::progress::NoProgress;
use crate::snark::CircuitId;
use crate::snark::cs::{Circuit, ConstraintSystem, Num};
use crate::snark::dev::Secrets;
use crate::snark::keygen::Evaluated;
use crate::snark::keys::{KeyError, ParamStore, ProvingKey, Query};
use crate::snark::record::Density;
use crate::snark::shape;
use crate::spec::SectorSize;

/// The circuit whose record is asked for.
const CIRCUIT: CircuitId = CircuitId::window(SectorSize::Kib2);
/// What lies beside the record: too short for a key.
const NO_KEY: &[u8] = b"no key";

/// `a · b = p`, and `p` is an input: every query of its key has points, two or three of them, so that a file is short and checked in
/// milliseconds.
struct Product;

impl Circuit for Product {
    fn synthesize<CS: ConstraintSystem>(&self, cs: &mut CS) {
        let a = Num::alloc(cs, Fr::from(3u64));
        let b = Num::alloc(cs, Fr::from(5u64));
        a.mul(cs, b).inputize(cs);
    }
}

/// A sound `.params` file of a circuit of two rows.
pub fn small_params() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut bytes = Vec::new();
        Evaluated::new(&Product, Secrets::published(CIRCUIT))
            .write_params(&mut bytes, &NoProgress)
            .expect("writing to memory");
        bytes
    })
}

/// Any bytes as a `.params` file of a small circuit: refused, or a key whose verifying key, counts and points are those very bytes; and
/// its points pass exactly where arkworks takes each of them too, in the only encoding and not the identity.
pub fn proving_key(bytes: &[u8]) {
    let folder = Folder::new();
    let path = folder.write("small.params", bytes);
    let Ok(key) = ProvingKey::open("small".to_owned(), &path, Density::of(&Product)) else {
        return;
    };
    let mut again = key.verifying_key().bytes().to_vec();
    let mut sound = true;
    for query in [Query::H, Query::L, Query::A, Query::BG1, Query::BG2] {
        let count = key.points(query);
        let mut points = Vec::new();
        key.read(query, 0, count, &mut points)
            .expect("the file has this length");
        sound &= match query {
            Query::BG2 => each::<G2Affine>(&points, count),
            _ => each::<G1Affine>(&points, count),
        };
        again.extend(u32::try_from(count).expect("a few").to_be_bytes());
        again.extend(points);
    }
    assert!(again == bytes, "a key of other bytes than its file");
    assert_eq!(key.verify_points(&NoProgress).is_ok(), sound);
}

/// Whether arkworks reads each of so many points, and would write it so.
fn each<P: AffineRepr + CanonicalSerialize + CanonicalDeserialize>(
    bytes: &[u8],
    count: usize,
) -> bool {
    bytes.chunks(bytes.len() / count).all(|bytes| {
        let mut again = Vec::new();
        P::deserialize_uncompressed(bytes).is_ok_and(|point| {
            point
                .serialize_uncompressed(&mut again)
                .expect("writing to memory");
            !point.is_zero() && again == bytes
        })
    })
}

/// The record that fits what lies beside it here.
pub fn fitting_record() -> Vec<u8> {
    let record = serde_json::json!({
        "version": 1, "circuit": CIRCUIT, "rows_sha256": shape::pinned(CIRCUIT).rows_sha256, "insecure": true,
        "bytes": NO_KEY.len(), "sha256": hex::encode(Sha256::digest(NO_KEY)),
    });
    record.to_string().into_bytes()
}

/// Any bytes as the record beside a verifying key: refused, or one that says what lies there; which is no key, so nothing comes of it.
pub fn key_record(bytes: &[u8]) {
    let folder = Folder::new();
    let store = ParamStore::open(&folder.0).expect("the folder is there");
    std::fs::write(store.vk_path(CIRCUIT), NO_KEY).expect("a temporary folder takes files");
    folder.write(&format!("{CIRCUIT}.vk.json"), bytes);
    match store.verifying_key_bytes(CIRCUIT, &NoProgress) {
        Ok(_) => panic!("six bytes are a key"),
        Err(KeyError::Vk(_)) => {
            let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes);
            let mut said = read(bytes).expect("it was read as a record");
            // A list of the values in their order reads as well.
            if let Some(said) = said.as_object_mut() {
                // For people; whether the secrets are known is told from the key.
                said.insert("insecure".to_owned(), true.into());
                let fitting = read(&fitting_record()).expect("JSON");
                assert_eq!(Some(&*said), fitting.as_object());
            }
        }
        Err(_) => {}
    }
}

/// A folder for one call.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-fuzz-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("a temporary folder takes files");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The damaged copies that bounded tests make are copies of something that reads.
pub fn sound_key_files_read() {
    let folder = Folder::new();
    let path = folder.write("small.params", small_params());
    let key = ProvingKey::open("small".to_owned(), &path, Density::of(&Product));
    let key = key.expect("a sound key");
    key.verify_points(&NoProgress).expect("sound points");

    let store = ParamStore::open(&folder.0).expect("the folder is there");
    std::fs::write(store.vk_path(CIRCUIT), NO_KEY).expect("a temporary folder takes files");
    folder.write(&format!("{CIRCUIT}.vk.json"), &fitting_record());
    let read = store.verifying_key_bytes(CIRCUIT, &NoProgress);
    assert!(matches!(read, Err(KeyError::Vk(_))), "{read:?}");
}
