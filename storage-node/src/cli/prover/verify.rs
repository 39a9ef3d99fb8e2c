//! `verify`: checks a proof file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use prover::machine::Plan;
use prover::snark::CircuitId;
use prover::snark::groth16::vk_bytes_len;
use prover::verify::VerifyingKeys;
use serde::Serialize;

use super::file::ProofFile;
use super::{BarProgress, key_error, read_at_most, store, with_next_step};
use crate::cli::{Class, CliError, Context};

/// Arguments of `prover verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Proof file written by `seal --out`, `prove --out` or `update --out`
    file: PathBuf,
    /// Verifying key in Filecoin's layout [default: from the parameter folder]
    #[arg(long, value_name = "FILE")]
    vk: Option<PathBuf>,
}

/// What `verify` reports.
#[derive(Debug, Serialize)]
struct VerifyReport {
    file: PathBuf,
    circuit: String,
    verifying_keys_sha256: String,
    valid: bool,
    seconds: f64,
}

/// A file of the length that this circuit's verifying key has; any other, such as a `.params` of 60 GB, is not read.
fn verifying_key(path: &Path, circuit: CircuitId) -> Result<Vec<u8>, CliError> {
    let expected = vk_bytes_len(circuit.public_inputs() + 1);
    match read_at_most(path, expected)? {
        Some(bytes) if bytes.len() == expected => Ok(bytes),
        _ => {
            let what = format!(
                "{} is no .vk of {circuit}, which has {expected} bytes",
                path.display()
            );
            Err(CliError::new(Class::Input, what).hint(
                "name the .vk file that lies beside the circuit's .params, or leave out --vk",
            ))
        }
    }
}

/// Runs `prover verify`. An invalid proof is an error of class bad-data.
pub fn verify(args: VerifyArgs, plan: &Plan, context: &Context) -> Result<(), CliError> {
    let proof = ProofFile::read(&args.file)?;
    let circuit = proof.circuit();
    let bytes = match &args.vk {
        Some(path) => verifying_key(path, circuit)?,
        None => {
            let (store, progress) = (store(context)?, BarProgress::new(&context.out));
            store
                .verifying_key(circuit, plan, &progress)
                .map_err(key_error)?
        }
    };
    let keys = VerifyingKeys::from_vk_bytes([(circuit, &bytes[..])])
        .map_err(|error| with_next_step(Class::BadData, error))?;
    let start = Instant::now();
    proof.verify(&keys).map_err(|error| {
        let why = error.map_or(
            "its proof is not hex, or it lists several sectors".to_owned(),
            |e| e.to_string(),
        );
        CliError::new(
            Class::BadData,
            format!("{} does not verify: {why}", args.file.display()),
        )
        .hint("the statement or the proof was changed, or the key is not the one it was made for")
    })?;
    let report = VerifyReport {
        file: args.file,
        circuit: circuit.to_string(),
        verifying_keys_sha256: hex::encode(keys.hash()),
        valid: true,
        seconds: start.elapsed().as_secs_f64(),
    };
    context.out.result(&report, |report| {
        format!(
            "Valid {} proof, checked in {:.1} ms.",
            report.circuit,
            report.seconds * 1e3
        )
    })
}
