//! The kernels without a GPU: the same program, compiled as C++, thread after thread. For tests.

use std::ffi::c_void;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::{Arg, Backend, Gpu, PROGRAM, Place};

/// The compiled program.
#[derive(Debug)]
pub struct Emulated {
    library: libloading::Library,
    /// The thread's number and the carry are variables of the program's.
    one_at_a_time: Mutex<()>,
    _folder: tempfile::TempDir,
}

/// Memory of the GPU's that is not there.
#[derive(Debug)]
pub struct Memory(Vec<u128>);

impl Memory {
    /// Not zeros: what nobody wrote shows.
    pub fn new(bytes: usize) -> Memory {
        Memory(vec![u128::from_le_bytes([0xa5; 16]); bytes.div_ceil(16)])
    }

    fn bytes(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut().cast()
    }

    /// Writes from an offset on.
    #[allow(
        unsafe_code,
        reason = "bytes of the vector's, whose length the queue has compared"
    )]
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        // SAFETY: the queue has asserted that they fit.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.bytes().add(at), bytes.len()) }
    }

    /// Fills with zeros.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Reads from the start.
    #[allow(
        unsafe_code,
        reason = "bytes of the vector's, whose length the queue has compared"
    )]
    pub fn read(&self, bytes: &mut [u8]) {
        // SAFETY: the queue has asserted that there are as many.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes(), bytes.as_mut_ptr(), bytes.len()) }
    }
}

/// The one that all tests share.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| Gpu::on(Backend::Emulated(Emulated::compile())))
}

/// One of a test's own, to do with what it likes.
pub fn another() -> Gpu {
    Gpu::on(Backend::Emulated(Emulated::compile()))
}

impl Emulated {
    #[allow(unsafe_code, reason = "loads what was compiled a line before")]
    fn compile() -> Emulated {
        let folder = tempfile::tempdir().expect("a folder for the program");
        let [source, library] = ["holdfast.cc", "holdfast.so"].map(|name| folder.path().join(name));
        std::fs::write(&source, PROGRAM).expect("writes the program");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let output = Command::new(&compiler)
            .args([
                "-std=c++17",
                "-O2",
                "-shared",
                "-fPIC",
                "-Wall",
                "-Werror",
                "-o",
            ])
            .args([&library, &source])
            .output()
            .unwrap_or_else(|error| {
                panic!("{compiler} does not start, install a C++ compiler: {error}")
            });
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler}: {said}");
        // SAFETY: it was compiled from our own text, and has no initialisers.
        let library = unsafe { libloading::Library::new(&library) }.expect("loads the program");
        Emulated {
            library,
            one_at_a_time: Mutex::new(()),
            _folder: folder,
        }
    }

    /// Runs a kernel.
    #[allow(unsafe_code, reason = "calls what was compiled from the text beside")]
    pub fn launch(&self, kernel: &str, threads: usize, args: &[Arg]) {
        let mut numbers = [0; 7];
        assert!(
            args.len() <= numbers.len(),
            "kernels take up to seven arguments"
        );
        for (number, arg) in numbers.iter_mut().zip(args) {
            let address = |buffer: &super::Buffer| match &buffer.place {
                Place::Emulated(memory) => memory.bytes() as u64,
                #[cfg(feature = "cuda")]
                Place::Cuda(_) => unreachable!("buffers stay with their GPU"),
            };
            *number = match arg {
                Arg::At(buffer) => address(buffer),
                Arg::Number(number) => *number,
            };
        }
        type Kernel = unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64) -> *const c_void;
        let _alone = self
            .one_at_a_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // As many threads as whole blocks have: kernels turn the last ones away themselves.
        let threads = threads.next_multiple_of(128) as u64;
        // SAFETY: kernels take numbers and addresses of eight bytes, at most seven, which the calling convention passes alike;
        // those that they do not take they do not read. Their callers pass what they would pass a GPU.
        unsafe {
            let [a, b, c, d, e, f, g] = numbers;
            let thread = self.library.get::<*mut u64>(b"holdfast_thread");
            let thread = *thread.expect("the program counts threads");
            let run = self.library.get::<Kernel>(kernel.as_bytes());
            let run = run.unwrap_or_else(|error| panic!("no kernel {kernel}: {error}"));
            for number in 0..threads {
                *thread = number;
                run(a, b, c, d, e, f, g);
            }
        }
    }
}
