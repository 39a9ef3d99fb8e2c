//! I1–I14 of `chain.md` §16 recomputed from the whole state.
