//! What is read back from a sector's folder: the stage record, and vanilla proofs.

use crate::porep::proof::{self, VanillaProof};
use crate::sector_dir::record::Record;

/// Any bytes that read as a stage record are written back as those very bytes.
pub fn sector_record(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
}

/// Any bytes that read as a vanilla proof are checked without panicking; what is accepted has a witness for each partition.
pub fn vanilla_proof(bytes: &[u8]) {
    let Ok(proof) = borsh::from_slice::<VanillaProof>(bytes) else {
        return;
    };
    if proof::verify(&proof).is_ok() {
        assert!((0..proof.partitions.len()).all(|partition| proof.circuit(partition).is_some()));
    }
}
