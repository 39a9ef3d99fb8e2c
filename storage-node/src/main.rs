//! The `holdfast` binary: parse, set up logging, run one command, turn its result into an exit code.
//!
//! Everything else lives in the library, [`storage_node::cli`] first, so that tests and the demo reach it without a process.

use std::process::ExitCode;

use clap::Parser;
use storage_node::{cli, telemetry};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    telemetry::init(cli.global.verbose, cli.global.quiet);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return cli::report_start_failure("cannot start the I/O threads", &error);
        }
    };
    let code = runtime.block_on(cli::run(cli));
    // Blocking helpers (a file read that hangs on a dead mount) must not keep a finished command alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}
