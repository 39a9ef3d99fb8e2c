//! Vanilla PoSt proofs, Groth16 proving over them.
