//! The whole story on one machine: a file is stored, sealed, proven, paid for, read back, audited, and a cheat is caught.
//!
//! Walk: this performs all of it, with the same parts that a network of many machines uses: an embedded chain, providers
//! with their own keys, homes and QUIC endpoints, a client, an auditor who sees nothing but the exported chain. Nothing
//! is told to a part that it could not know: the damaged replica is found by its provider or by its deadline.
//!
//! With several validators (feature `bft`) the chain is run by as many processes; one is killed and comes back, and the object's
//! audit bundle is verified by a light client. Slowness is still no fault: see `crate::devnet`, whose leases hold every
//! validator's clock.
//!
//! | module | what |
//! |---|---|
//! | [`story`] | the steps, in order; one function per step |
//! | [`chronicle`] | everything the chain said, as it said it |
//! | [`estimate`] | how many sectors a file needs, and whether this machine seals them within an hour |
//! | [`validators`] | the steps that only a chain of several validators has |
//! | [`report`] | the figures, for people and as JSON |
//!
//! Cost: four sectors of 8 MiB take about four PoRep proofs; the estimate's table has the figures. Memory: one proof at a
//! time, so the peak is that of one PoRep proof. Crash: the demo's home is its own; running it again starts afresh.

pub mod chronicle;
pub mod estimate;
pub mod report;
pub mod story;
pub mod validators;

use std::path::PathBuf;

use prover::SectorSize;

use crate::object::erasure::Scheme;

/// The built-in sample for sectors of 8 MiB and more: a picture of 255 KiB.
pub const SAMPLE: (&str, &[u8]) = (
    "julia.png",
    include_bytes!("../../../fixtures/sample/julia.png"),
);
/// The built-in sample for sectors of 2 KiB: a letter of about 1 KiB, one sector per provider.
pub const TINY_SAMPLE: (&str, &[u8]) = (
    "tiny.txt",
    include_bytes!("../../../fixtures/sample/tiny.txt"),
);

/// What to show.
#[derive(Clone, Debug)]
pub struct DemoConfig {
    /// The file to store; a built-in sample if absent.
    pub file: Option<PathBuf>,
    /// k and m.
    pub scheme: Scheme,
    /// Size of all sectors.
    pub sector_size: SectorSize,
    /// Providers; at least k + m.
    pub providers: usize,
    /// Validators; 1, or at least 4, of which one may be lost.
    pub validators: u16,
    /// Length of an epoch, in milliseconds.
    pub epoch_ms: u64,
    /// Whether the chain's money is closed credit.
    pub closed_credit: bool,
    /// Where everything of this run lies.
    pub home: PathBuf,
    /// Cache of proving keys.
    pub params_dir: PathBuf,
}

/// Why the story did not come to its end. Each names the step.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The file cannot be used.
    #[error("{0}")]
    Input(String),
    /// More sectors than this machine seals in an hour.
    #[error(
        "{bytes} bytes with {scheme} need {sectors} sectors of {size}, about {minutes} minutes of sealing on this machine; \
         the demo stops at 60"
    )]
    TooLong {
        /// The file's length.
        bytes: u64,
        /// k and m.
        scheme: Scheme,
        /// Sectors.
        sectors: u64,
        /// Their size.
        size: SectorSize,
        /// Estimated minutes.
        minutes: u64,
    },
    /// A part failed.
    #[error("{step}: {reason}")]
    Failed {
        /// Which step.
        step: &'static str,
        /// What happened.
        reason: String,
    },
    /// A step ran to its end and what it should show does not hold.
    #[error("{step} does not hold: {what}")]
    DoesNotHold {
        /// Which step.
        step: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl DemoError {
    /// Turns a part's error into this step's.
    pub fn at<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed {
            step,
            reason: error.to_string(),
        }
    }
}
