//! Vanilla PoRep proofs and their check.
