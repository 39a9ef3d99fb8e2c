//! Which code this machine's proofs run in: chosen at run time by what its CPU has, and shown wherever times are.
//!
//! Place in the walk: beside `provider::prover`, which uses them by itself; `prover bench`, the demo's report and `devnet up|status`
//! say them, so that a slow run is told from a slow machine.

use std::fmt;

use prover::hash::{poseidon, sha256};
use prover::snark::measure;
use serde::{Deserialize, Serialize};

/// The kernel of each kind of work, in the prover's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernels {
    /// SHA-256 of labels, one after the other.
    pub labels: String,
    /// SHA-256 of TreeD and CommP.
    pub tree_d: String,
    /// Columns and trees of the replica.
    pub poseidon: String,
    /// Sums and transforms of Groth16.
    pub groth16: String,
    /// The GPU that takes what is large of the last two; only with the feature `cuda`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

impl Kernels {
    /// Those that this process uses.
    pub fn chosen() -> Self {
        let [labels, tree_d] = sha256::kernels().map(str::to_owned);
        let poseidon = match poseidon::vectorised() {
            true => "avx512-ifma",
            false => "portable",
        };
        Self {
            labels,
            tree_d,
            poseidon: poseidon.to_owned(),
            groth16: measure::kernel().to_owned(),
            gpu: prover::machine::gpu(),
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            labels,
            tree_d,
            poseidon,
            groth16,
            gpu,
        } = self;
        write!(
            f,
            "labels {labels}, TreeD {tree_d}, Poseidon {poseidon}, Groth16 {groth16}"
        )?;
        match gpu {
            Some(gpu) => write!(f, "; large rows of Poseidon, sums and transforms on {gpu}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prover::machine::Machine;

    /// Nobody has to ask for the fast ones: what the CPU has is used.
    #[test]
    fn the_kernels_are_the_fastest_that_the_machine_has() {
        let (machine, chosen) = (Machine::detect(), Kernels::chosen());
        assert_eq!(chosen.labels == "sha-ni", machine.sha_extensions);
        for kernel in [&chosen.poseidon, &chosen.groth16] {
            assert_eq!(kernel == "avx512-ifma", machine.vector_multiply, "{chosen}");
        }
        let said = chosen.to_string();
        let Kernels {
            labels,
            tree_d,
            poseidon,
            groth16,
            gpu,
        } = chosen;
        for kernel in [labels, tree_d, poseidon, groth16].into_iter().chain(gpu) {
            assert!(!kernel.is_empty() && said.contains(&kernel), "{said}");
        }
    }
}
