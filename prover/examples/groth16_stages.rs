//! Where a Groth16 proof's time goes: stages, wall and processor seconds, peak memory.
//!
//! `cargo run -p prover --example groth16_stages -- 8MiB porep winning window`. Keys come from
//! `HOLDFAST_PARAMS` (default: the cache folder) and are made when absent; the sector is sealed once into
//! `HOLDFAST_STAGES` (default: the system's temporary folder) and used again.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use prover::machine::{Machine, Plan, peak_memory};
use prover::piece::{PieceInfo, commp::commp_of};
use prover::post::proof::{ReplicaRef, prove_window, prove_winning};
use prover::seal::{self, AnyStage, SealRequest};
use prover::snark::{CircuitId, keys::ParamStore, prove::prove};
use prover::{
    NoProgress, PostRandomness, ProverId, RegisteredSeal, SectorNumber, SectorSize, Seed, Ticket,
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let size: SectorSize = arguments
        .next()
        .expect("a sector size")
        .parse()
        .expect("a sector size");
    let kinds: Vec<String> = arguments.collect();
    let threads = std::env::var("HOLDFAST_THREADS")
        .ok()
        .and_then(|n| n.parse().ok());
    let plan = match threads {
        Some(threads) => Plan::with_limits(threads, 8 << 30),
        None => Plan::new(&Machine::detect()),
    }
    .expect("a thread pool");
    tracing::subscriber::set_global_default(Stages::default()).expect("the first subscriber");

    let store = ParamStore::open(folder("HOLDFAST_PARAMS")).expect("the folder of keys");
    let sector = folder("HOLDFAST_STAGES").join(format!("stages-{size}"));
    let challenged = match seal::resume(&sector, &plan, &NoProgress) {
        Ok(AnyStage::Challenged(challenged)) => challenged,
        _ => seal_one(&sector, size, &plan),
    };
    let replica = ReplicaRef {
        number: SectorNumber(7),
        comm_r: challenged.vanilla().comm_r,
        dir: &sector,
    };
    let (prover, randomness) = (
        ProverId::from_provider_id(1000),
        PostRandomness::masked([0x65; 32]),
    );
    for kind in kinds {
        let id: CircuitId = format!("{kind}-{size}")
            .parse()
            .expect("porep, window or winning");
        let key = measured(&format!("key {id}"), || {
            plan.run(|| store.load_or_generate(id, &NoProgress))
                .expect("a key")
        });
        measured(&format!("prove {id}"), || {
            plan.run(|| match kind.as_str() {
                "porep" => {
                    let circuit = challenged.vanilla().circuit(0).expect("a partition");
                    prove(&key, &circuit, &NoProgress)
                        .map(drop)
                        .expect("a proof");
                }
                "window" => {
                    prove_window(&key, size, prover, randomness, &[replica], &NoProgress)
                        .map(drop)
                        .expect("a proof");
                }
                _ => prove_winning(&key, size, prover, randomness, replica, &NoProgress)
                    .map(drop)
                    .expect("a proof"),
            });
        });
    }
}

fn folder(variable: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(std::env::temp_dir, PathBuf::from)
}

fn seal_one(path: &std::path::Path, size: SectorSize, plan: &Plan) -> seal::Challenged {
    let data: Vec<u8> = (0..size.unpadded_bytes())
        .map(|i| (i * 7 + (i >> 8) * 13) as u8)
        .collect();
    let (comm_p, padded) = commp_of(&data);
    let request = SealRequest {
        seal: RegisteredSeal::v1_1(size),
        prover: ProverId::from_provider_id(1000),
        sector: SectorNumber(7),
        ticket: Ticket([0x21; 32]),
        pieces: vec![PieceInfo {
            comm_p,
            size: padded,
        }],
    };
    let packed = seal::create(path, request, &mut [&mut data.as_slice()]).expect("packed");
    let labeled = packed.label(plan, &NoProgress).expect("labeled");
    let replicated = labeled.replicate(plan, &NoProgress).expect("replicated");
    replicated
        .challenge(Seed([0x43; 32]), plan, &NoProgress)
        .expect("challenged")
}

fn measured<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let result = work();
    println!(
        "{what:<28} wall {:7.3} s  cpu {:7.2} s  peak {} MiB",
        start.elapsed().as_secs_f64(),
        cpu_seconds() - cpu,
        peak_mib()
    );
    result
}

/// User and system time of the process, in hundredths, as Linux keeps it.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn peak_mib() -> u64 {
    peak_memory().unwrap_or(0) >> 20
}

/// Prints the prover's spans as they close.
#[derive(Default)]
struct Stages(Mutex<Vec<(String, Instant, f64)>>);

struct Name(String);

impl tracing::field::Visit for Name {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "stage" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Stages {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && metadata.name().starts_with("prover.groth16")
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut name = Name(String::new());
        span.record(&mut name);
        let mut spans = self.0.lock().expect("no panic inside");
        spans.push((name.0, Instant::now(), cpu_seconds()));
        tracing::span::Id::from_u64(spans.len() as u64)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, id: &tracing::span::Id) {
        let spans = self.0.lock().expect("no panic inside");
        let (name, start, cpu) = &spans[id.into_u64() as usize - 1];
        println!(
            "  {name:<26} wall {:7.3} s  cpu {:7.2} s  peak {} MiB",
            start.elapsed().as_secs_f64(),
            cpu_seconds() - cpu,
            peak_mib()
        );
    }
}
