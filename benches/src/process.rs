//! Other processes of a bench: this program again with other arguments, and what the system says of their memory.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// A child process and the line that it printed first, usually an address; killed when dropped.
pub struct Server {
    child: Child,
    /// What it printed.
    pub addr: String,
}

impl Server {
    /// Starts this program with these arguments and waits for its first line.
    pub fn start(args: &[&str]) -> Self {
        let exe = std::env::current_exe().expect("this program");
        let mut child = Command::new(exe)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut addr = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out)
            .read_line(&mut addr)
            .expect("an address");
        Self {
            child,
            addr: addr.trim().to_owned(),
        }
    }

    /// See [`memory_mib`].
    pub fn memory_mib(&self, field: &str) -> f64 {
        memory_mib(&self.child.id().to_string(), field)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs this program with these arguments to its end and gives what it printed.
pub fn run(args: &[&str]) -> String {
    let exe = std::env::current_exe().expect("this program");
    let output = Command::new(exe)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .expect("ran");
    assert!(output.status.success(), "{args:?} failed");
    String::from_utf8(output.stdout).expect("text")
}

/// `VmRSS` (now) or `VmHWM` (at most so far) of a process, by its id or `self`; 0 where the system does not tell.
pub fn memory_mib(pid: &str, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{field}:")))
        .unwrap_or("0");
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}
