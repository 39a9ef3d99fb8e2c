//! The numbers of `chain.md` §2 in one struct, devnet and production.
