//! All benches in one program, one file per operation; the front page of the crate says how to run them.

mod chain;
mod column;
mod commp;
mod encode;
mod erasure;
mod groth16;
mod label;
mod poseidon;
mod retrieval;
mod seal;
mod snark;
mod support;
mod trees;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    commp::bench,
    erasure::bench,
    label::bench,
    column::bench,
    trees::bench,
    encode::bench,
    poseidon::bench,
    seal::bench,
    snark::bench,
    groth16::bench,
    chain::bench,
    retrieval::bench,
);
criterion_main!(benches);
