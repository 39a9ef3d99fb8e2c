//! What the host offers, and the plan that follows from it.
//!
//! Walk: read once at the edge (`storage-node`'s command line) and passed into every stage of [`crate::seal`].
//! Proving runs on the plan's own thread pool, so that it never starves I/O, decoding or signatures (`DESIGN.md` §5).
//! Memory: [`Plan::require`] is asked before a stage starts and refuses with both numbers, so that a run never meets the
//! kernel's out-of-memory killer half-way (threat H9).

use std::fs;
use std::path::Path;
use std::sync::Arc;

/// What the host offers, as measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Threads that run at the same time.
    pub cores: usize,
    /// Bytes that may still be used without swapping, within the limits of this process's control group and of those around it.
    pub available_memory: u64,
    /// Whether the CPU hashes SHA-256 in hardware.
    pub sha_extensions: bool,
    /// Whether the CPU has the 52-bit vector multiplication of the Poseidon kernel.
    pub vector_multiply: bool,
}

impl Machine {
    /// Asks the operating system and the CPU.
    pub fn detect() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            available_memory: available_memory(),
            sha_extensions: sha_extensions(),
            vector_multiply: crate::hash::poseidon::vectorised(),
        }
    }
}

/// The GPU that large pieces of work go to; none without the feature `cuda`. Asking for it starts it, which takes seconds.
pub fn gpu() -> Option<String> {
    #[cfg(feature = "cuda")]
    return crate::cuda::device().map(|gpu| gpu.name());
    #[cfg(not(feature = "cuda"))]
    None
}

/// Bytes of memory that a GPU's driver takes in this process, beside what a stage needs (147 MiB were seen with an H100).
pub(crate) fn gpu_memory() -> u64 {
    #[cfg(feature = "cuda")]
    if crate::cuda::present() {
        return 192 << 20;
    }
    0
}

/// More memory is needed than the plan allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{step} needs {} MiB of memory and {} MiB are allowed; free some, raise the limit, or choose a smaller sector",
    needed.div_ceil(1 << 20), allowed >> 20
)]
pub struct MemoryError {
    /// What was about to start.
    pub step: &'static str,
    /// Bytes needed.
    pub needed: u64,
    /// Bytes allowed.
    pub allowed: u64,
}

/// How much of the machine sealing and proving may use, with the threads that do it.
#[derive(Clone, Debug)]
pub struct Plan {
    memory: u64,
    pool: Arc<rayon::ThreadPool>,
    parent_cache: Option<(Arc<Path>, u64)>,
}

/// The thread pool could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads for sealing: {source}")]
pub struct PlanError {
    threads: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Plan {
    /// Uses all cores and the memory that is free now.
    pub fn new(machine: &Machine) -> Result<Self, PlanError> {
        Self::with_limits(machine.cores, machine.available_memory)
    }

    /// Uses so many threads (at least one) and at most so many bytes.
    pub fn with_limits(threads: usize, memory: u64) -> Result<Self, PlanError> {
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("seal-{i}"))
            .build()
            .map_err(|source| PlanError { threads, source })?;
        Ok(Self {
            memory,
            pool: Arc::new(pool),
            parent_cache: None,
        })
    }

    /// The same threads with another limit of memory: a share of this plan's.
    pub fn with_memory(&self, memory: u64) -> Self {
        Self {
            memory,
            ..self.clone()
        }
    }

    /// Keeps parent lists of at most so many bytes in this folder, one file per proof type ([`crate::porep::parents`]),
    /// instead of generating them for every sector. The folder is made when it is needed.
    pub fn with_parent_cache(self, folder: &Path, largest: u64) -> Self {
        Self {
            parent_cache: Some((folder.into(), largest)),
            ..self
        }
    }

    /// Where a parent list of so many bytes is kept, if anywhere.
    pub fn parent_cache(&self, bytes: u64) -> Option<&Path> {
        self.parent_cache
            .as_ref()
            .and_then(|(folder, largest)| (bytes <= *largest).then_some(&**folder))
    }

    /// Bytes that work under this plan may take.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs work on the plan's threads; rayon calls inside stay there. The caller waits.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Refuses a step that needs more memory than the plan allows.
    pub fn require(&self, step: &'static str, needed: u64) -> Result<(), MemoryError> {
        if needed <= self.memory {
            Ok(())
        } else {
            Err(MemoryError {
                step,
                needed,
                allowed: self.memory,
            })
        }
    }
}

/// Largest resident memory of this process so far, in bytes; `None` where the system does not say.
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Forgets what [`peak_memory`] says: from now on it is the largest since, beginning with what is resident now. Whether the
/// system does that.
pub fn forget_peak_memory() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The smaller of what the kernel calls available and what the control groups leave. Unknown counts as unlimited: then
/// the operating system is the judge, as for any program.
fn available_memory() -> u64 {
    let system = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| meminfo_available(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = groups_left(&groups, |file| {
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()
    });
    system.unwrap_or(u64::MAX).min(left.unwrap_or(u64::MAX))
}

/// What is left in this process's control group and in every group around it, the smallest of them; `None` if none has a limit.
/// `groups` is `/proc/self/cgroup`; `read` gives a file by its path from `/sys/fs/cgroup`. The root counts
/// whatever the text says: in a container it is the container's own group, and the text may name it by the host's path.
///
/// Both kinds are asked, as either may hold the limit: version 2, whose groups lie at the root, and version 1, where memory has a
/// hierarchy of its own in the folder `memory`.
fn groups_left(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let left = |group: &Path, limit: &str, used: &str| {
        let file = |name: &str| read(&group.join(name));
        let stat = file("memory.stat").unwrap_or_default();
        group_left(&file(limit)?, &file(used)?, &stat)
    };
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let unified = Path::new(own.unwrap_or_default()).ancestors();
    let unified = unified.filter_map(|group| left(group, "memory.max", "memory.current"));
    let older = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(":/")?;
        let is_memorys = controllers.split(',').any(|name| name == "memory");
        is_memorys.then_some(path)
    });
    let older = Path::new(older.unwrap_or_default()).ancestors();
    let older = older.filter_map(|group| {
        let group = Path::new("memory").join(group);
        left(&group, "memory.limit_in_bytes", "memory.usage_in_bytes")
    });
    unified.chain(older).min()
}

/// Version 1 says "no limit" as the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

/// What a control group leaves, by the contents of its files of the limit, what is in use, and `memory.stat`; `None` without a limit.
/// The group is charged for pages of files that were read, too; those not in use go first when memory is wanted, and count as free.
fn group_left(limit: &str, used: &str, stat: &str) -> Option<u64> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    // Version 1 counts groups below this one apart, but charges them here.
    let files = ["total_inactive_file ", "inactive_file "]
        .iter()
        .find_map(|name| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(number)
        });
    let used = number(used)?.saturating_sub(files.unwrap_or(0));
    let limit = number(limit).filter(|limit| *limit < NO_LIMIT)?;
    Some(limit.saturating_sub(used))
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn sha_extensions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sha");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_figure() {
        let text = "MemTotal:  100 kB\nMemAvailable:   24 kB\n";
        assert_eq!(meminfo_available(text), Some(24 << 10));
        assert_eq!(meminfo_available("MemTotal: 1 kB\n"), None);
        assert!(Machine::detect().cores >= 1);
    }

    #[test]
    fn pages_of_files_that_were_read_count_as_free() {
        let stat = "anon 40\nfile 50\ninactive_anon 7\ninactive_file 30\nactive_file 20\n";
        assert_eq!(group_left("100\n", "90\n", stat), Some(40));
        assert_eq!(group_left("100\n", "20\n", stat), Some(100));
        assert_eq!(group_left("80\n", "120\n", stat), Some(0), "over its limit");
        for other in ["", "anon 40\n", "inactive_file\n", "inactive_file x\n"] {
            assert_eq!(group_left("100\n", "90\n", other), Some(10), "{other:?}");
        }
        assert_eq!(group_left("max\n", "90\n", stat), None);
        assert_eq!(group_left("100\n", "\n", stat), None);
    }

    /// As systemd's `MemoryMax=` makes it: the limit lies in a group below the root, which has none.
    #[test]
    fn tm_h9_the_smallest_control_group_around_the_process_counts() {
        let left = |groups: &str, files: &[(&str, &str)]| {
            groups_left(groups, |path| {
                let named = |(name, _): &&(&str, &str)| Path::new(name) == path;
                let (_, text) = files.iter().find(named)?;
                Some((*text).to_owned())
            })
        };
        let files = [
            ("memory.max", "max\n"),
            ("memory.current", "700\n"),
            ("system.slice/memory.max", "900\n"),
            ("system.slice/memory.current", "300\n"),
            ("system.slice/holdfast.service/memory.max", "500\n"),
            ("system.slice/holdfast.service/memory.current", "200\n"),
            (
                "system.slice/holdfast.service/memory.stat",
                "inactive_file 50\n",
            ),
            ("system.slice/other.service/memory.max", "1\n"),
            ("system.slice/other.service/memory.current", "1\n"),
        ];
        let own = "0::/system.slice/holdfast.service\n";
        assert_eq!(left(own, &files), Some(350), "its own");
        let beside = "3:cpu:/\n0::/system.slice/holdfast.service\n1:name=systemd:/a\n";
        assert_eq!(
            left(beside, &files),
            Some(350),
            "older hierarchies beside it"
        );
        let mut tight = files;
        tight[2].1 = "400\n";
        assert_eq!(left(own, &tight), Some(100), "the one around it is smaller");
        assert_eq!(left("0::/system.slice\n", &files), Some(600));
        assert_eq!(left("0::/\n", &files), None);
        // The root, where there is no group of that name, or none is named.
        tight[0].1 = "1000\n";
        for text in [
            "0::/\n",
            "",
            "0::/docker/1a2b\n",
            "0::/../other\n",
            "4:memory:/x\n",
        ] {
            assert_eq!(left(text, &tight), Some(300), "{text:?}");
        }
        assert_eq!(left(own, &[]), None);
    }

    /// As on a host whose memory is still counted by version 1, alone or beside an empty version 2.
    #[test]
    fn tm_h9_limits_of_older_control_groups_count_too() {
        let left = |groups: &str, files: &[(&str, &str)]| {
            groups_left(groups, |path| {
                let named = |(name, _): &&(&str, &str)| Path::new(name) == path;
                let (_, text) = files.iter().find(named)?;
                Some((*text).to_owned())
            })
        };
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.usage_in_bytes", "700\n"),
            ("memory/slurm/memory.limit_in_bytes", "900\n"),
            ("memory/slurm/memory.usage_in_bytes", "500\n"),
            ("memory/slurm/job/memory.limit_in_bytes", "500\n"),
            ("memory/slurm/job/memory.usage_in_bytes", "300\n"),
            (
                "memory/slurm/job/memory.stat",
                "inactive_file 7\ntotal_inactive_file 50\n",
            ),
            ("memory/other/memory.limit_in_bytes", "1\n"),
            ("memory/other/memory.usage_in_bytes", "1\n"),
        ];
        let own = "11:cpu,cpuacct:/other\n9:memory:/slurm/job\n1:name=systemd:/x\n0::/\n";
        assert_eq!(left(own, &files), Some(250), "its own");
        assert_eq!(left("9:hugetlb,memory:/slurm\n", &files), Some(400));
        assert_eq!(left("9:memory:/\n", &files), None, "no limit");
        let mut tight = files;
        tight[2].1 = "600\n";
        assert_eq!(left(own, &tight), Some(100), "the one around it is smaller");
        // A container's own group lies at the root, whatever the text calls it.
        tight[0].1 = "1000\n";
        assert_eq!(left("9:memory:/docker/1a2b\n", &tight), Some(300));
        let both = [
            ("memory.max", "60\n"),
            ("memory.current", "20\n"),
            tight[0],
            tight[1],
        ];
        assert_eq!(
            left("9:memory:/\n0::/\n", &both),
            Some(40),
            "both are asked"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peak_can_be_forgotten() {
        if !forget_peak_memory() {
            // A system without it.
            return;
        }
        let large = 256u64 << 20;
        let forgotten = |_| {
            let bytes = vec![1u8; usize::try_from(large).expect("fits")];
            let before = peak_memory().expect("Linux says it");
            assert!(before >= large);
            drop(std::hint::black_box(bytes));
            assert!(forget_peak_memory());
            peak_memory().expect("Linux says it") + large / 2 <= before
        };
        // Other tests of this process may take as much in between, but not every time.
        assert!((0..10).any(forgotten));
    }

    #[test]
    fn tm_h9_refuses_what_does_not_fit_before_it_starts() {
        let plan = Plan::with_limits(1, 1 << 20).expect("one thread starts");
        assert_eq!(plan.require("labelling", 1 << 20), Ok(()));
        let error = plan
            .require("labelling", (1 << 20) + 1)
            .expect_err("one byte too many");
        assert!(
            error
                .to_string()
                .contains("labelling needs 2 MiB of memory and 1 MiB are allowed")
        );
    }

    #[test]
    fn work_runs_on_the_plans_threads() {
        let plan = Plan::with_limits(3, 0).expect("three threads start");
        assert_eq!(plan.run(rayon::current_num_threads), 3);
        let name = plan.run(|| std::thread::current().name().map(str::to_owned));
        assert!(name.is_some_and(|name| name.starts_with("seal-")));
    }
}
