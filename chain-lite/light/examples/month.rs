//! A month of headers as a light client verifies them: how long it takes, and how much memory.
//!
//! `cargo run --release -p holdfast-light --example month -- [VALIDATORS] [HEADERS]` (4 and 86,400: 30 days of 30 s). It writes the
//! headers with one certificate a day into a temporary file first, then reads them back as they would come from a node: every
//! header linked to the one before by its id, every day's last one believed by a skipping certificate, and at the end once more
//! with a certificate for every header.
//! Fails above 10 s for the first, or 50 MB for both; `.ci/run` runs it.
//! Prints seconds, headers per second and the process's peak memory (Linux: `VmHWM`) before and after verifying.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use holdfast_light::certificate::{
    BlockId, Certificate, Sig, Validator, ValidatorId, ValidatorSet, vote_bytes,
};
use holdfast_light::codec;
use holdfast_light::epoch::Epoch;
use holdfast_light::header::{BLOCK_VERSION, Header};
use holdfast_light::name::ChainId;
use holdfast_light::verify::{LightBlock, Links, Trusted};

const CHAIN: ChainId = ChainId([7; 32]);
const DAY: u64 = 2_880;
const PERIOD_MS: u64 = 14 * 86_400_000;
const HEADER_BYTES: usize = 286;
/// What a light client may use: 50 MB.
const MOST_KIB: u64 = 50_000_000 / 1024;
/// How long it may take over a month, with a certificate a day.
const MOST_TIME: Duration = Duration::from_secs(10);

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| args.next().map_or(Ok(default), |text| text.parse());
    let (validators, headers) = (number(4)?, number(86_400)?);
    let keys: Vec<SigningKey> = (0..validators)
        .map(|n| SigningKey::from_bytes(&codec::tagged_hash("month", &[&n.to_le_bytes()])))
        .collect();
    let set = ValidatorSet::new(
        keys.iter()
            .map(|key| Validator {
                id: id(key),
                power: 1,
            })
            .collect(),
    )?;
    let path = std::env::temp_dir().join(format!("holdfast-month-{}", std::process::id()));
    let result = measure(&path, &keys, &set, headers);
    std::fs::remove_file(&path)?;
    result
}

fn measure(
    path: &std::path::Path,
    keys: &[SigningKey],
    set: &ValidatorSet,
    headers: u64,
) -> Result<(), Failed> {
    write(path, keys, set, headers)?;
    let before = peak_kib();
    println!(
        "{headers} headers, {} validators, file of {} bytes",
        keys.len(),
        std::fs::metadata(path)?.len()
    );
    let begun = Instant::now();
    let daily = verify(path, set, headers, DAY)?;
    let took = begun.elapsed();
    report("links, a skipping certificate a day", daily, begun, headers);
    let begun = Instant::now();
    let steps = verify(path, set, headers, 1)?;
    report("a certificate for every header", steps, begun, headers);
    let after = peak_kib();
    println!("peak memory {before} KiB before verifying, {after} KiB after");
    if after > MOST_KIB {
        return Err(format!("verifying took more than {MOST_KIB} KiB").into());
    }
    if took > MOST_TIME {
        return Err(format!("verifying took {took:?}, more than {MOST_TIME:?}").into());
    }
    Ok(())
}

fn report(what: &str, certificates: u64, begun: Instant, headers: u64) {
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{what}: {seconds:.2} s, {:.0} headers a second, {certificates} certificates",
        headers as f64 / seconds
    );
}

fn id(key: &SigningKey) -> ValidatorId {
    ValidatorId(key.verifying_key().to_bytes())
}

fn write(
    path: &std::path::Path,
    keys: &[SigningKey],
    set: &ValidatorSet,
    headers: u64,
) -> Result<(), Failed> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut parent_id = BlockId(CHAIN.0);
    for height in 1..=headers {
        let header = Header {
            version: BLOCK_VERSION,
            chain_id: CHAIN,
            height,
            epoch: Epoch(height),
            time_ms: height * 30_000,
            parent_id,
            prev_state_root: codec::tagged_hash("state", &[&height.to_le_bytes()]),
            tx_root: codec::tagged_hash("txs", &[&height.to_le_bytes()]),
            prev_receipt_root: codec::tagged_hash("receipts", &[&height.to_le_bytes()]),
            validators_hash: set.hash(),
            next_validators_hash: set.hash(),
            proposer: id(&keys[height as usize % keys.len()]),
            round: 0,
        };
        parent_id = header.id();
        let mut sigs: Vec<_> = keys
            .iter()
            .map(|key| {
                let vote = vote_bytes(&CHAIN, height, 0, &parent_id, &id(key));
                (id(key), Sig(key.sign(&vote).to_bytes()))
            })
            .collect();
        sigs.sort_by_key(|sig| sig.0);
        file.write_all(&codec::encode(&header))?;
        file.write_all(&codec::encode(&Certificate::Ed25519V1 {
            height,
            round: 0,
            block: parent_id,
            sigs,
        }))?;
    }
    file.flush()?;
    Ok(())
}

/// Follows the file from the genesis; every `pace`-th header is believed by its certificate, the others by their links.
fn verify(
    path: &std::path::Path,
    set: &ValidatorSet,
    headers: u64,
    pace: u64,
) -> Result<u64, Failed> {
    let mut file = BufReader::new(File::open(path)?);
    let mut trusted = Trusted::genesis(CHAIN, 0, set.clone());
    let mut links = Links::after(&trusted);
    let now_ms = headers * 30_000;
    // tag ‖ height ‖ round ‖ block ‖ count ‖ (key, signature) each
    let certificate_bytes = 1 + 8 + 4 + 32 + 4 + set.validators().len() * 96;
    let mut bytes = vec![0; HEADER_BYTES + certificate_bytes];
    let mut believed = 0;
    for height in 1..=headers {
        file.read_exact(&mut bytes)?;
        let (header, certificate) = bytes.split_at(HEADER_BYTES);
        let header: Header = codec::decode(header, HEADER_BYTES)?;
        links.push(&header)?;
        if height % pace == 0 || height == headers {
            let light = LightBlock {
                header,
                certificate: codec::decode(certificate, certificate_bytes)?,
                validators: set.validators().to_vec(),
            };
            trusted = trusted.step(&light, now_ms, PERIOD_MS.max(now_ms))?;
            if !links.are_believed(&trusted) {
                return Err("the links lead elsewhere".into());
            }
            links = Links::after(&trusted);
            believed += 1;
        }
    }
    Ok(believed)
}

/// Peak resident memory; 0 where the system does not say.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}
