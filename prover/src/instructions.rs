//! Which of the CPU's wide instructions the kernels may use.
//!
//! Walk: every kernel on AVX-512 IFMA (Poseidon, sums of points, transforms, batches of proofs) asks [`ifma`] before it
//! starts and has a portable twin beside it with the same results. The CPU is asked by the standard library, which keeps
//! the answer.
//!
//! [`portable_only`] takes the choice away for a whole process: benches compare the twins of everything at once with it,
//! and tests run whole operations on both. No result depends on it.

use std::sync::atomic::{AtomicBool, Ordering};

static PORTABLE_ONLY: AtomicBool = AtomicBool::new(false);

/// Whether kernels shall act from now on as if the CPU had no IFMA.
pub fn portable_only(yes: bool) {
    PORTABLE_ONLY.store(yes, Ordering::Relaxed);
}

/// Whether kernels may use AVX-512F and IFMA: the CPU has both, and nobody said [`portable_only`].
#[cfg(target_arch = "x86_64")]
pub(crate) fn ifma() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512ifma")
        && !PORTABLE_ONLY.load(Ordering::Relaxed)
}
