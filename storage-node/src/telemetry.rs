//! Logging: `tracing` events to stderr, filtered by `-v`, `-q` or `HOLDFAST_LOG`.
//!
//! stdout belongs to a command's result alone, so that `--json` can be piped; every diagnostic goes to stderr. Spans are
//! named `crate.part.op` and carry sizes as fields. Secrets never enter an event: key types print as `[secret]`.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Environment variable with a `tracing` filter, for example `storage_node=debug,retrieval=trace`. It wins over `-v`.
pub const LOG_VARIABLE: &str = "HOLDFAST_LOG";

/// Installs the process-wide subscriber. A second call (tests) leaves the first one in place.
pub fn init(verbose: u8, quiet: bool) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(default_filter(verbose, quiet)));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(verbose > 1)
        .try_init();
}

/// The filter of a verbosity. Without flags a command's own output is enough, so only warnings are shown; that another validator
/// is away is news for its operator, and is told from -v on.
fn default_filter(verbose: u8, quiet: bool) -> &'static str {
    const WARNINGS: &str = "warn,arc_malachitebft_network=off,arc_malachitebft_discovery=off";
    const OURS_INFO: &str = "warn,storage_node=info,chain_lite=info,retrieval=info,prover=info";
    const OURS_DEBUG: &str =
        "info,storage_node=debug,chain_lite=debug,retrieval=debug,prover=debug";
    match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => WARNINGS,
        (false, 1) => OURS_INFO,
        (false, 2) => OURS_DEBUG,
        (false, _) => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_filter_parses_and_quiet_wins() {
        for verbose in 0..5 {
            for quiet in [false, true] {
                EnvFilter::try_new(default_filter(verbose, quiet)).expect("a constant filter");
            }
        }
        assert_eq!(default_filter(3, true), "error");
    }
}
