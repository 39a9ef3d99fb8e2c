//! `rand(tag, epoch, entropy)` of `chain.md` §4.
