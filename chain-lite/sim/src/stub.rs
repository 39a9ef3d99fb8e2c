//! Proofs in a simulation: a keyed digest of the statement, so that every field of it is bound as a real proof binds it.
//!
//! The verifier says no to anything else: a proof of another statement, a replayed one, bytes made up. Whoever has the key
//! can "prove"; that stands for having the sector.

use chain_lite::codec;
use chain_lite::execute::{ProofError, ProofVerifier};
use prover::verify::{PorepStatement, WindowPostStatement};
use sha2::{Digest, Sha256};

/// Length of a Groth16 proof, so that limits on bytes are met as by real ones.
const PROOF_BYTES: usize = 192;

/// Makes and checks stub proofs.
#[derive(Clone, Copy, Debug)]
pub struct Stub {
    key: [u8; 32],
    credulous: bool,
}

impl Stub {
    /// With a key of its own.
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            credulous: false,
        }
    }

    /// Takes any proof: what a run must notice.
    pub fn credulous(self) -> Self {
        Self {
            credulous: true,
            ..self
        }
    }

    /// The one proof of a PoRep statement.
    pub fn porep_proof(&self, statement: &PorepStatement) -> Vec<u8> {
        self.proof(b"porep", &codec::encode(statement))
    }

    /// The one proof of a window PoSt statement.
    pub fn post_proof(&self, statement: &WindowPostStatement) -> Vec<u8> {
        self.proof(b"window", &codec::encode(statement))
    }

    fn proof(&self, what: &[u8], statement: &[u8]) -> Vec<u8> {
        let digest = Sha256::new_with_prefix(self.key)
            .chain_update(what)
            .chain_update(statement)
            .finalize();
        digest.iter().copied().cycle().take(PROOF_BYTES).collect()
    }

    fn judge(&self, expected: &[u8], proof: &[u8]) -> Result<(), ProofError> {
        match self.credulous || expected == proof {
            true => Ok(()),
            false => Err(ProofError::Rejected("not this statement's".into())),
        }
    }
}

impl ProofVerifier for Stub {
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.judge(&self.porep_proof(statement), proof)
    }
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.judge(&self.post_proof(statement), proof)
    }
}
