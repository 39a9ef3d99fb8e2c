//! `holdfast-sim`: campaigns of simulated chains. One line for each seed that fails, a summary at the end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use holdfast_sim::report::Report;
use holdfast_sim::run::run;
use holdfast_sim::scenario::Scenario;

/// Run chains of several operators on virtual time, with crashes, partitions, bad disks and cheats.
#[derive(Parser)]
#[command(name = "holdfast-sim", version)]
struct Args {
    /// Virtual hours of each run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    hours: u64,
    /// Runs, each with a seed of its own
    #[arg(long, default_value_t = 16)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Threads; every run uses one
    #[arg(long, default_value_t = default_threads())]
    threads: usize,
    /// Say what each run was like
    #[arg(long)]
    verbose: bool,
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let done: Mutex<(Vec<Report>, Vec<u64>)> = Mutex::default();
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= args.seeds {
                return;
            }
            let seed = args.first.wrapping_add(nth);
            let result = run(seed, &Scenario::of_seed(seed, args.hours));
            let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
            match result {
                Ok(report) => {
                    if args.verbose {
                        println!("{}", line(&report));
                    }
                    done.0.push(report);
                }
                Err(failure) => {
                    eprintln!("FAILED {failure} ({} h)", args.hours);
                    done.1.push(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(work);
        }
    });
    let (reports, failed) = done.into_inner().unwrap_or_else(|e| e.into_inner());
    let real = began.elapsed().as_secs_f64();
    let cores = args.threads.max(1) as f64;
    let speed = (args.hours * args.seeds * 3600) as f64 / real / cores;
    let sum = |f: fn(&Report) -> u64| reports.iter().map(f).sum::<u64>();
    println!(
        "{} of {} runs of {} h held: {} blocks, {} in later rounds, {} transactions, {} deals ({} kept, {} published too late, of honest providers), {} window PoSts, {} faults found, {} times censored ({} sectors lost to it), {} jumps of a clock by an hour, {} rotten disks, {} crashes; {} requests for blocks, {} of them again, {} answers short, {} none in time, {} failures ({} faults), {} own troubles; {real:.1} s, {speed:.0} times real time per core",
        reports.len(),
        args.seeds,
        args.hours,
        sum(|r| r.height),
        sum(|r| r.later_rounds),
        sum(|r| r.txs),
        sum(|r| r.deals),
        sum(|r| r.kept),
        sum(|r| r.late),
        sum(|r| r.posts),
        sum(|r| r.faults),
        sum(|r| r.censored),
        sum(|r| r.lost_to_censors.len() as u64),
        sum(|r| r.troubles[7] + r.troubles[8]),
        sum(|r| r.rot_found.iter().sum()),
        sum(|r| r.crashes),
        sum(|r| r.sync.asked),
        sum(|r| r.sync.retried),
        sum(|r| r.sync.short),
        sum(|r| r.sync.timeouts),
        sum(|r| r.sync.failures),
        sum(|r| r.sync.faults),
        sum(|r| r.sync.own_troubles),
    );
    match failed.is_empty() {
        true => std::process::ExitCode::SUCCESS,
        false => std::process::ExitCode::FAILURE,
    }
}

fn line(r: &Report) -> String {
    format!(
        "seed {}: {} blocks, {} crashes, troubles {:?}, {} files torn, {} unsynced names kept, {} votes twice, {} transactions, {} window PoSts, {} faults ({} for a censor), root {}, trace {}",
        r.seed,
        r.height,
        r.crashes,
        r.troubles,
        r.torn,
        r.names,
        r.evidence,
        r.txs,
        r.posts,
        r.faults,
        r.lost_to_censors.len(),
        hex::encode(&r.root[..8]),
        hex::encode(&r.trace[..8]),
    )
}
