//! A block's proofs, verified together: a batch costs a small part of what its proofs cost one by one.
//!
//! Walk: [`crate::ledger`] applies a block through [`apply_together`]; the rules ([`crate::execute::apply`]) know nothing of it. The
//! block is applied once with a verifier that takes every proof and writes down what it was asked. If the batch of these holds
//! ([`ProofVerifier::batch`]), that is what the block does. If one is wrong, the block is applied again with the verdicts at hand;
//! what only then is asked, because a wrong proof changed nothing after all, is verified when it is asked.
//!
//! Spec: `consensus.md` §6: a failed batch is checked singly, and that verdict counts (`threat-model.md` V7). Verdicts are
//! functions of statement and proof, so both ways give the same bytes on every node (V3).
//!
//! Cost: a block whose proofs all hold is applied once. One with a wrong proof is applied twice, and its proofs are verified in a
//! batch, then one by one, and what is asked only then one after the other; its limits ([`crate::block::MAX_BLOCK_PROOFS`], bytes)
//! bound all of it (V6), and who sent it pays for it. Memory: a block's statements and proofs once more, and what the verifier's batch
//! holds ([`crate::audit::Groth16Verifier`]: 64 proofs' public inputs).

use std::sync::{Mutex, PoisonError};

use prover::verify::{PorepStatement, WindowPostStatement};

use crate::execute::{self, Applied, ApplyError, BlockCtx, ProofError, ProofVerifier};
use crate::message::CheckedTx;
use crate::state::KvRead;

/// A proof, and what it is said to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// [`ProofVerifier::porep`].
    Porep(PorepStatement, Vec<u8>),
    /// [`ProofVerifier::window_post`].
    Window(WindowPostStatement, Vec<u8>),
}

impl Claim {
    /// The verdict that `verifier` gives on this one alone.
    pub fn judge<V: ProofVerifier + ?Sized>(&self, verifier: &V) -> Result<(), ProofError> {
        match self {
            Self::Porep(statement, proof) => verifier.porep(statement, proof),
            Self::Window(statement, proof) => verifier.window_post(statement, proof),
        }
    }
}

/// As [`execute::apply`], with the same outcome for the same block.
pub fn apply_together(
    state: &dyn KvRead,
    ctx: &BlockCtx,
    txs: &[CheckedTx],
    verifier: &dyn ProofVerifier,
) -> Result<Applied, ApplyError> {
    if txs.iter().all(|tx| tx.proofs() == 0) {
        return execute::apply(state, ctx, txs, verifier);
    }
    let taken = Taken::default();
    let first = execute::apply(state, ctx, txs, &taken);
    let claims = taken.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    let verdicts = verifier.batch(&claims);
    assert_eq!(verdicts.len(), claims.len(), "a verdict for each claim");
    match first {
        Ok(applied) if verdicts.iter().all(Result::is_ok) => Ok(applied),
        // Also where taking a wrong proof led to what no block may do.
        _ => {
            let known = Known {
                verdicts: claims.into_iter().zip(verdicts).collect(),
                inner: verifier,
            };
            execute::apply(state, ctx, txs, &known)
        }
    }
}

/// Takes every proof, and writes it down.
#[derive(Default)]
struct Taken(Mutex<Vec<Claim>>);

impl Taken {
    fn note(&self, claim: Claim) -> Result<(), ProofError> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        claims.push(claim);
        Ok(())
    }
}

impl ProofVerifier for Taken {
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.note(Claim::Porep(statement.clone(), proof.to_vec()))
    }
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.note(Claim::Window(statement.clone(), proof.to_vec()))
    }
}

/// Gives verdicts that are known, and asks for others.
struct Known<'a> {
    verdicts: Vec<(Claim, Result<(), ProofError>)>,
    inner: &'a dyn ProofVerifier,
}

impl Known<'_> {
    fn of(&self, claim: &Claim) -> Result<(), ProofError> {
        let known = self.verdicts.iter().find(|(known, _)| known == claim);
        known.map_or_else(|| claim.judge(self.inner), |(_, verdict)| verdict.clone())
    }
}

impl ProofVerifier for Known<'_> {
    fn porep(&self, statement: &PorepStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.of(&Claim::Porep(statement.clone(), proof.to_vec()))
    }
    fn window_post(&self, statement: &WindowPostStatement, proof: &[u8]) -> Result<(), ProofError> {
        self.of(&Claim::Window(statement.clone(), proof.to_vec()))
    }
}
