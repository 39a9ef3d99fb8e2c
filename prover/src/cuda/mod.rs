//! An NVIDIA GPU beside the CPU: sums of points, the quotient's transforms and Poseidon, behind the feature `cuda`.
//!
//! Walk: [`crate::snark`]'s prover and [`crate::hash::poseidon::hash_nodes`] ask [`device`] before they start, and give it what
//! is large enough ([`ntt`], [`msm`], [`poseidon`]). Every result is the CPU's bit for bit, because the CPU's kernels remain
//! the definition: whatever goes wrong on a GPU is a warning, and the CPU does that piece again.
//!
//! The program (`kernels/`) is compiled for the GPU at first use, by NVRTC, in a few seconds: a build needs no CUDA, and a
//! binary with the feature runs where there is none. `CUDA_VISIBLE_DEVICES=` hides the GPU, as for any CUDA program.
//!
//! Wrong results (threat P18; memory of consumer cards corrects no errors): a proof is verified before it is handed out, and of
//! every batch of hashes some are computed again here. A GPU that was wrong, or whose driver failed, is given up for the rest of
//! the process ([`fall_back`]): the proof is made again on the CPU, and so is the whole tree whose hashes were wrong
//! ([`checked`]), because its batches before that one may be wrong too.
//!
//! Without a GPU: kernels take nothing but numbers of eight bytes and use no shared memory, so that the gate compiles the same
//! text as C++ and runs it thread by thread (`emulated`). What that cannot show is the GPU's own carry instructions and its
//! parallel threads: with the feature, on a machine that has one, the same tests compare a real GPU too, at sizes that fill it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(feature = "cuda")]
mod driver;
#[cfg(test)]
mod emulated;
pub mod msm;
pub mod ntt;
pub mod poseidon;

/// The program, for NVRTC and for C++.
const PROGRAM: &str = concat!(
    include_str!("kernels/field.cuh"),
    include_str!("kernels/curve.cuh"),
    include_str!("kernels/msm.cu"),
    include_str!("kernels/ntt.cu"),
    include_str!("kernels/poseidon.cu"),
);

/// Why the GPU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// Nothing can compile its program.
    #[cfg(feature = "cuda")]
    #[error(
        "libnvrtc, CUDA's run-time compiler, is not found; install it, or name its folder in LD_LIBRARY_PATH"
    )]
    NoCompiler,
    /// The driver refused.
    #[cfg(feature = "cuda")]
    #[error("the CUDA driver could not {action}: {why}")]
    Driver {
        /// What was asked of it.
        action: &'static str,
        /// Its answer.
        why: String,
    },
    /// Its memory is full, for now.
    #[cfg(feature = "cuda")]
    #[error("the GPU's memory is full")]
    Full,
    /// What was computed is wrong.
    #[error("the GPU computed a wrong {0}: its memory is damaged or it runs too hot")]
    Wrong(&'static str),
}

/// A GPU, or in tests what stands for one.
#[derive(Debug)]
pub struct Gpu {
    backend: Backend,
    /// Whether it was wrong or failed.
    given_up: AtomicBool,
    /// How often it was wrong.
    wrong: AtomicUsize,
    hashes: poseidon::Shared,
}

#[derive(Debug)]
enum Backend {
    #[cfg(feature = "cuda")]
    Cuda(driver::Driver),
    #[cfg(test)]
    Emulated(emulated::Emulated),
}

/// The first GPU, if there is one and kernels may use it. Asked for once: compiles the program then.
pub fn device() -> Option<&'static Gpu> {
    found().filter(|gpu| !gpu.given_up.load(Ordering::Relaxed))
}

/// The same, whether it was given up or not.
pub fn found() -> Option<&'static Gpu> {
    static FOUND: OnceLock<Option<Gpu>> = OnceLock::new();
    if !present() {
        return None;
    }
    FOUND.get_or_init(find).as_ref()
}

/// Whether there is a GPU, without starting it: memory is planned and work is cut by this, which never changes in the middle.
pub fn present() -> bool {
    #[cfg(feature = "cuda")]
    {
        static PRESENT: OnceLock<bool> = OnceLock::new();
        crate::instructions::gpu() && *PRESENT.get_or_init(driver::present)
    }
    #[cfg(not(feature = "cuda"))]
    {
        false
    }
}

#[cfg(feature = "cuda")]
fn find() -> Option<Gpu> {
    let start = std::time::Instant::now();
    // The crate underneath panics where a library lacks a function.
    let started = std::panic::catch_unwind(|| driver::Driver::start(PROGRAM));
    let started = started.unwrap_or_else(|_| {
        Err(GpuError::Driver {
            action: "start",
            why: "a library is older than the program".to_owned(),
        })
    });
    match started {
        Ok(driver) => {
            let seconds = start.elapsed().as_secs_f64();
            tracing::info!(gpu = driver.name(), seconds, "CUDA kernels compiled");
            Some(Gpu::on(Backend::Cuda(driver)))
        }
        Err(error) => {
            tracing::warn!(%error, "the GPU is left alone");
            None
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn find() -> Option<Gpu> {
    None
}

/// Says that the CPU does what the GPU did not, and, unless its memory was full, everything from now on.
pub fn fall_back(gpu: &Gpu, what: &'static str, error: &GpuError) {
    #[cfg(feature = "cuda")]
    if matches!(error, GpuError::Full) {
        tracing::warn!(what, %error, "the CPU does it instead");
        return;
    }
    if matches!(error, GpuError::Wrong(_)) {
        gpu.wrong.fetch_add(1, Ordering::Relaxed);
    }
    if !gpu.given_up.swap(true, Ordering::Relaxed) {
        tracing::warn!(what, %error, "the CPU does it instead, and everything from now on");
    }
}

/// Builds something out of hashes; once more, on the CPU then, if the GPU was found wrong meanwhile.
pub fn checked<T>(build: impl Fn() -> T) -> T {
    checked_on(found(), build)
}

fn checked_on<T>(gpu: Option<&Gpu>, build: impl Fn() -> T) -> T {
    let wrong = || gpu.map(|gpu| gpu.wrong.load(Ordering::Relaxed));
    let before = wrong();
    let built = build();
    if wrong() == before { built } else { build() }
}

impl Gpu {
    fn on(backend: Backend) -> Gpu {
        Gpu {
            backend,
            given_up: AtomicBool::new(false),
            wrong: AtomicUsize::new(0),
            hashes: poseidon::Shared::default(),
        }
    }

    /// What the driver calls it.
    pub fn name(&self) -> String {
        match &self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(driver) => driver.name().to_owned(),
            #[cfg(test)]
            Backend::Emulated(_) => "emulated".to_owned(),
        }
    }

    /// A queue of work of its own; what two queues do, they do side by side.
    fn queue(&self) -> Result<Queue<'_>, GpuError> {
        Ok(Queue(match &self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(driver) => On::Cuda(driver.queue()?),
            #[cfg(test)]
            Backend::Emulated(emulated) => On::Emulated(emulated),
        }))
    }
}

/// Where work for the GPU waits its turn.
struct Queue<'a>(On<'a>);

enum On<'a> {
    #[cfg(feature = "cuda")]
    Cuda(driver::Stream<'a>),
    #[cfg(test)]
    Emulated(&'a emulated::Emulated),
}

/// Memory of the GPU's.
#[derive(Debug)]
struct Buffer {
    bytes: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    #[cfg(feature = "cuda")]
    Cuda(driver::Memory),
    #[cfg(test)]
    Emulated(emulated::Memory),
}

/// An argument of a kernel: they are all of eight bytes.
#[derive(Clone, Copy)]
enum Arg<'a> {
    /// Memory, from its start.
    At(&'a Buffer),
    /// A number.
    Number(u64),
}

impl Queue<'_> {
    /// Memory of any contents; at least so many bytes.
    fn allocate(&self, bytes: usize) -> Result<Buffer, GpuError> {
        let bytes = bytes.max(8);
        let place = match &self.0 {
            #[cfg(feature = "cuda")]
            On::Cuda(stream) => Place::Cuda(stream.allocate(bytes)?),
            #[cfg(test)]
            On::Emulated(_) => Place::Emulated(emulated::Memory::new(bytes)),
        };
        Ok(Buffer { bytes, place })
    }

    /// Memory with these values.
    fn upload<T: Plain>(&self, values: &[T]) -> Result<Buffer, GpuError> {
        let mut buffer = self.allocate(size_of_val(values))?;
        self.write(&mut buffer, 0, values)?;
        Ok(buffer)
    }

    /// Writes values at an offset in bytes; they may be dropped as soon as this returns.
    ///
    /// # Panics
    /// If the buffer is too short.
    fn write<T: Plain>(&self, to: &mut Buffer, at: usize, values: &[T]) -> Result<(), GpuError> {
        let bytes = bytes_of(values);
        assert!(at + bytes.len() <= to.bytes, "the buffer is long enough");
        match (&self.0, &mut to.place) {
            #[cfg(feature = "cuda")]
            (On::Cuda(stream), Place::Cuda(memory)) => stream.write(memory, at, bytes),
            #[cfg(test)]
            (On::Emulated(_), Place::Emulated(memory)) => {
                memory.write(at, bytes);
                Ok(())
            }
            #[allow(
                unreachable_patterns,
                reason = "with one backend there is no other pair"
            )]
            _ => unreachable!("buffers stay with their GPU"),
        }
    }

    /// Fills memory with zeros.
    fn clear(&self, buffer: &mut Buffer) -> Result<(), GpuError> {
        match (&self.0, &mut buffer.place) {
            #[cfg(feature = "cuda")]
            (On::Cuda(stream), Place::Cuda(memory)) => stream.clear(memory),
            #[cfg(test)]
            (On::Emulated(_), Place::Emulated(memory)) => {
                memory.clear();
                Ok(())
            }
            #[allow(
                unreachable_patterns,
                reason = "with one backend there is no other pair"
            )]
            _ => unreachable!("buffers stay with their GPU"),
        }
    }

    /// Waits for all work so far and reads the first values of a buffer.
    ///
    /// # Panics
    /// If the buffer is too short.
    fn read<T: Plain>(&self, from: &Buffer, values: &mut [T]) -> Result<(), GpuError> {
        let bytes = bytes_of_mut(values);
        assert!(bytes.len() <= from.bytes, "the buffer is long enough");
        match (&self.0, &from.place) {
            #[cfg(feature = "cuda")]
            (On::Cuda(stream), Place::Cuda(memory)) => stream.read(memory, bytes),
            #[cfg(test)]
            (On::Emulated(_), Place::Emulated(memory)) => {
                memory.read(bytes);
                Ok(())
            }
            #[allow(
                unreachable_patterns,
                reason = "with one backend there is no other pair"
            )]
            _ => unreachable!("buffers stay with their GPU"),
        }
    }

    /// Runs a kernel in so many threads, after everything that was queued before.
    fn launch(&self, kernel: &'static str, threads: usize, args: &[Arg]) -> Result<(), GpuError> {
        match &self.0 {
            #[cfg(feature = "cuda")]
            On::Cuda(stream) => stream.launch(kernel, threads, args),
            #[cfg(test)]
            On::Emulated(emulated) => {
                emulated.launch(kernel, threads, args);
                Ok(())
            }
        }
    }
}

/// Values that are nothing but their bytes, without gaps, and the same on the GPU.
///
/// # Safety
/// Every pattern of bytes that the GPU leaves is a value, and no byte is padding.
#[allow(unsafe_code, reason = "the promise that casts to bytes rest on")]
unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($of:ty),*) => {
        // SAFETY: integers and arrays of them. Field elements are arrays of limbs in a wrapper of the same size; kernels
        // leave canonical limbs in them, and what is not is a wrong value, never an invalid one.
        $(#[allow(unsafe_code, reason = "argued here")] unsafe impl Plain for $of {})*
    };
}
plain!(
    u8,
    u32,
    u64,
    [u8; 32],
    [u32; 4],
    ark_bls12_381::Fr,
    ark_bls12_381::Fq
);
const _: () = assert!(size_of::<ark_bls12_381::Fr>() == 32 && size_of::<ark_bls12_381::Fq>() == 48);

#[allow(unsafe_code, reason = "argued here")]
fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: the slice's memory, all of it initialised (`Plain`), as long as the borrow.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[allow(unsafe_code, reason = "argued here")]
fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; whatever bytes are written are values (`Plain`).
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// What stands for a GPU, and the real one where the feature is on and there is one.
#[cfg(test)]
fn all() -> Vec<&'static Gpu> {
    std::iter::once(emulated::gpu()).chain(device()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tm_p18_what_a_wrong_gpu_had_a_hand_in_is_built_again_and_the_gpu_given_up() {
        let gpu = emulated::another();
        let built = AtomicUsize::new(0);
        let build = |error: Option<GpuError>| {
            checked_on(Some(&gpu), || {
                let times = built.fetch_add(1, Ordering::Relaxed);
                if let (0, Some(error)) = (times, &error) {
                    fall_back(&gpu, "hash", error);
                }
            });
            (
                built.swap(0, Ordering::Relaxed),
                gpu.given_up.load(Ordering::Relaxed),
            )
        };
        assert_eq!(build(None), (1, false));
        assert_eq!(build(Some(GpuError::Wrong("hash"))), (2, true));
        assert_eq!(build(None), (1, true));
    }
}
