//! The CUDA driver and NVRTC, loaded when they are needed (the crate `cudarc`).
//!
//! Walk: [`super::Queue`] is the only user. One context, the primary one of the first device; one stream a queue; every
//! error of the driver is an error here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DriverError, LaunchConfig,
    PushKernelArg,
};
use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

use super::{Arg, Buffer, GpuError, Place};

/// Threads of a block.
const BLOCK: usize = 128;

/// The first GPU with the program on it.
#[derive(Debug)]
pub struct Driver {
    name: String,
    context: Arc<CudaContext>,
    module: Arc<CudaModule>,
    kernels: Mutex<BTreeMap<&'static str, CudaFunction>>,
}

/// A queue of the driver's.
#[derive(Debug)]
pub struct Stream<'a> {
    driver: &'a Driver,
    stream: Arc<CudaStream>,
}

/// Memory on the GPU.
pub type Memory = CudaSlice<u8>;

fn refused(action: &'static str) -> impl Fn(DriverError) -> GpuError {
    move |error| match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => GpuError::Full,
        _ => GpuError::Driver {
            action,
            why: error.to_string(),
        },
    }
}

/// Whether the driver is there and knows a GPU.
pub fn present() -> bool {
    // SAFETY: loads NVIDIA's library, whose initialisers do nothing that matters here.
    #[allow(unsafe_code, reason = "argued above")]
    let installed = unsafe { cudarc::driver::sys::is_culib_present() };
    // The crate underneath panics where a library lacks a function.
    installed
        && std::panic::catch_unwind(CudaContext::device_count)
            .is_ok_and(|count| count.is_ok_and(|count| count > 0))
}

impl Driver {
    /// Takes the first GPU, which is [`present`], and compiles the program for it.
    pub fn start(program: &str) -> Result<Driver, GpuError> {
        // SAFETY: loads NVIDIA's library, whose initialisers do nothing that matters here.
        #[allow(unsafe_code, reason = "argued above")]
        let compiler = unsafe { cudarc::nvrtc::sys::is_culib_present() };
        if !compiler {
            return Err(GpuError::NoCompiler);
        }
        let context = CudaContext::new(0).map_err(refused("open the GPU"))?;
        let name = context.name().map_err(refused("name the GPU"))?;
        let (major, minor) = context
            .compute_capability()
            .map_err(refused("describe the GPU"))?;
        let options = CompileOptions {
            options: vec![
                format!("--gpu-architecture=compute_{major}{minor}"),
                "--std=c++17".to_owned(),
            ],
            name: Some("holdfast.cu".to_owned()),
            ..Default::default()
        };
        let program = compile_ptx_with_opts(program, options).map_err(|error| {
            let why = match error {
                CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
                other => other.to_string(),
            };
            GpuError::Driver {
                action: "compile the kernels",
                why,
            }
        })?;
        let module = context
            .load_module(program)
            .map_err(refused("load the kernels"))?;
        Ok(Driver {
            name,
            context,
            module,
            kernels: Mutex::default(),
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A queue of its own.
    pub fn queue(&self) -> Result<Stream<'_>, GpuError> {
        let stream = self.context.new_stream().map_err(refused("open a queue"))?;
        Ok(Stream {
            driver: self,
            stream,
        })
    }

    fn kernel(&self, name: &'static str) -> Result<CudaFunction, GpuError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let kernel = self.module.load_function(name);
        let kernel = kernel.map_err(refused("find a kernel"))?;
        kernels.insert(name, kernel.clone());
        Ok(kernel)
    }
}

impl Stream<'_> {
    /// Memory of any contents.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, GpuError> {
        // SAFETY: bytes of any contents are bytes; kernels write what others read.
        #[allow(unsafe_code, reason = "argued above")]
        let memory = unsafe { self.stream.alloc::<u8>(bytes) };
        memory.map_err(refused("give memory"))
    }

    /// Writes from an offset on.
    pub fn write(&self, to: &mut Memory, at: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let mut to = to.slice_mut(at..at + bytes.len());
        self.stream
            .memcpy_htod(bytes, &mut to)
            .map_err(refused("take data"))
    }

    /// Fills with zeros.
    pub fn clear(&self, memory: &mut Memory) -> Result<(), GpuError> {
        self.stream
            .memset_zeros(memory)
            .map_err(refused("clear memory"))
    }

    /// Waits and reads from the start.
    pub fn read(&self, from: &Memory, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.stream
            .memcpy_dtoh(&from.slice(..bytes.len()), bytes)
            .map_err(refused("give data back"))?;
        self.stream
            .synchronize()
            .map_err(refused("finish a kernel"))
    }

    /// Queues a kernel.
    pub fn launch<'b>(
        &'b self,
        kernel: &'static str,
        threads: usize,
        args: &[Arg<'b>],
    ) -> Result<(), GpuError> {
        use cudarc::driver::DevicePtr;
        if threads == 0 {
            // The driver takes no empty grid.
            return Ok(());
        }
        let function = self.driver.kernel(kernel)?;
        // Dropped behind the launch: they tell other queues how long the memory is in use.
        let mut in_use = Vec::with_capacity(args.len());
        let mut address = |buffer: &'b Buffer| -> u64 {
            match &buffer.place {
                Place::Cuda(memory) => {
                    let (address, guard) = memory.device_ptr(&self.stream);
                    in_use.push(guard);
                    address
                }
                #[cfg(test)]
                Place::Emulated(_) => unreachable!("buffers stay with their GPU"),
            }
        };
        let args: Vec<u64> = args
            .iter()
            .map(|arg| match arg {
                Arg::At(buffer) => address(buffer),
                Arg::Number(number) => *number,
            })
            .collect();
        let blocks = u32::try_from(threads.div_ceil(BLOCK)).map_err(|_| GpuError::Driver {
            action: "run a kernel",
            why: format!("{threads} threads are too many"),
        })?;
        let mut launch = self.stream.launch_builder(&function);
        for arg in &args {
            launch.arg(arg);
        }
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (BLOCK as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: kernels take as many numbers of eight bytes as their callers in `cuda` pass, and stay inside of the
        // buffers by the counts among them: the gate runs the same program on the CPU with the same counts.
        #[allow(unsafe_code, reason = "argued above")]
        let queued = unsafe { launch.launch(config) };
        queued.map(drop).map_err(refused("run a kernel"))
    }
}
