//! Proof and key bytes, verification.
