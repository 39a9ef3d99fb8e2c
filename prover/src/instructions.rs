//! Which of the CPU's wide instructions the kernels may use.
//!
//! Walk: every kernel on AVX-512 IFMA (Poseidon, sums of points, transforms, batches of proofs) asks [`ifma`] before it
//! starts, those of SHA-256 (labels, TreeD, CommP) ask [`wide`], and each has a portable twin beside it with the same
//! results. The CPU is asked by the standard library, which keeps the answer.
//!
//! [`portable_only`] takes the choice away for a whole process: benches compare the twins of everything at once with it,
//! and tests run whole operations on both. No result depends on it. The `sha2` crate and blst, which the twins are written
//! on, use instructions of the CPU's by their own choice, whatever is said here.

use std::sync::atomic::{AtomicBool, Ordering};

static PORTABLE_ONLY: AtomicBool = AtomicBool::new(false);

/// Whether kernels shall act from now on as if the CPU had neither AVX-512 nor SHA-NI, and as if there were no GPU: the portable
/// twins alone.
pub fn portable_only(yes: bool) {
    PORTABLE_ONLY.store(yes, Ordering::Relaxed);
}

/// Whether kernels may use what instructions the CPU has: nobody said [`portable_only`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn wide() -> bool {
    !PORTABLE_ONLY.load(Ordering::Relaxed)
}

/// Whether kernels may use AVX-512F and IFMA: the CPU has both, and nobody said [`portable_only`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn ifma() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512ifma")
        && wide()
}

/// Whether work may go to a GPU: nobody said [`portable_only`].
#[cfg(feature = "cuda")]
pub(crate) fn gpu() -> bool {
    !PORTABLE_ONLY.load(Ordering::Relaxed)
}
