//! The steps of the demo, in order, one function each; every step says one plain sentence and leaves a figure behind.
//!
//! Walk: all of it, forward in [`put_file`] to [`wait_for_pay`], back in [`read_ranges`] and [`restore_without`], then the
//! cheat in [`damage`] and [`wait_for_charge`], and [`audit`] over the exported chain. [`validators`] has the steps of a chain that
//! several run.
//!
//! Nothing below tells a provider or the chain what the step expects of it. The clock is the devnet's: providers hold it
//! while a proof of theirs is unfinished; the demo stops it only while providers are switched off on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chain_lite::account::{DealId, ProviderId};
use chain_lite::audit::Replayed;
use chain_lite::events::{Event, FaultReason};
use chain_lite::units::{Epoch, EpochCount, TokenAmount};
use prover::SectorNumber;
use prover::sector_dir::record::SectorFile;
use rand::{Rng, RngCore};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::chronicle::Chronicle;
use super::estimate::{self, Estimate};
use super::report::{
    AuditSummary, ClientReport, DealReport, FaultReport, ProviderReport, Report, SectorReport,
    StageSeconds,
};
use super::{DemoConfig, DemoError, SAMPLE, TINY_SAMPLE, validators};
use crate::chain::DealView;
use crate::cli::output::{BarProgress, Output, Unit, human_bytes};
use crate::client::get::{GetRequest, Target, get};
use crate::client::live::{self, LiveClient};
use crate::client::put::{PutEvent, PutRequest, Stored, put};
use crate::config::Home;
use crate::devnet::{Devnet, DevnetConfig};
use crate::identity::Wallet;
use crate::kernels::Kernels;

/// Ranges that are read back on their own.
const RANGES: usize = 8;
/// Longest of them.
const MAX_RANGE_BYTES: u64 = 64 << 10;
/// How long one wait on the chain may take. Providers hold the clock while they prove, so this only ends a run that is stuck.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Chain time that one provider may take to come back: far less than a deadline is open.
const RESTART_EPOCHS: EpochCount = EpochCount(3);
/// The same where its transaction may have to wait for a validator's turn.
const RESTART_EPOCHS_SEVERAL: EpochCount = EpochCount(8);

/// What is known before the network starts.
struct Plan {
    home: Home,
    source: PathBuf,
    original: Vec<u8>,
    sectors: u64,
}

/// Tells the whole story.
pub async fn tell(config: DemoConfig, out: Output) -> Result<Report, DemoError> {
    let mut clock = Clock::new();
    let home = Home::new(&config.home);
    let (source, estimate) = source_file(&config, &home)?;
    let original = fs::read(&source).map_err(DemoError::at("reading the file"))?;
    out.say(format_args!(
        "{}: {}, {} shards, about {} sectors of {}; sealing takes about {} minutes on {} cores",
        source.display(),
        human_bytes(original.len() as u64),
        config.scheme.n(),
        estimate.sectors,
        config.sector_size,
        estimate.seconds.div_ceil(60),
        estimate.cores,
    ));
    let plan = Plan {
        home,
        source,
        original,
        sectors: estimate.sectors,
    };
    let devnet = start(&config, &plan, &out).await?;
    clock.lap("keys and start");
    let lost = devnet.validator_lost();
    tokio::select! {
        report = walk(&config, &plan, devnet, clock, &out) => report,
        what = lost => Err(DemoError::DoesNotHold { step: "the chain", what }),
    }
}

/// From the running network to the report.
async fn walk(
    config: &DemoConfig,
    plan: &Plan,
    mut devnet: Devnet,
    mut clock: Clock,
    out: &Output,
) -> Result<Report, DemoError> {
    let several = config.validators > 1;
    let chronicle = Chronicle::listen(devnet.chain(), narrator(out.clone()));
    if several {
        validators::found(&devnet, out).await?;
    }
    let client = connect(&devnet, &plan.home).await?;

    let stored = put_file(&client, config, &plan.source, out).await?;
    clock.lap("put");
    let mut killed = None;
    if several {
        killed = Some(validators::lose_one(&mut devnet, out).await?);
        clock.lap("lose a validator");
    }
    wait_for_seals(&client, &devnet, &chronicle, plan.sectors, out).await?;
    clock.lap("seal and activate");
    wait_for_pay(&client, &devnet, &chronicle, out).await?;
    clock.lap("prove and pay");
    let ranges = read_ranges(&client, &stored, &plan.original, out).await?;
    restore_without(&mut devnet, &client, &stored, config, &plan.original, out).await?;
    clock.lap("read back");
    let damage = damage(&devnet, &client, out).await?;
    let fault = wait_for_charge(&chronicle, damage, out).await?;
    clock.lap("catch the cheat");
    let (mut shown, mut chain) = (None, None);
    if let Some(killed) = killed {
        // From the one that was away: what it fetched is as good as what the others have.
        let from = killed.number;
        shown = Some(validators::bundle(&devnet, &plan.home, &stored, from, out).await?);
        chain = Some(validators::agree(&devnet, killed).await?);
        clock.lap("bundle");
    }
    // Counted before the export: the chain goes on meanwhile, and the auditor must find at least this much.
    let providers = providers(&devnet, &client, &chronicle).await?;
    let window_posts = providers.iter().map(|p| p.window_posts).sum();
    let audit = audit(&devnet, &plan.home, window_posts, out).await?;
    clock.lap("audit");

    let report = Report {
        file_bytes: plan.original.len() as u64,
        file_sha256: hex::encode(Sha256::digest(&plan.original)),
        object: stored.object.to_string(),
        k: config.scheme.k() as u16,
        m: config.scheme.m() as u16,
        seal_proof: format!("{} V1_1", config.sector_size),
        providers,
        sectors: sector_reports(&devnet),
        deals: deals(&client).await?,
        window_posts,
        ranges_verified: ranges,
        restored_equal: true,
        fault,
        audit,
        client: client_report(&client).await?,
        validators: chain,
        bundle: shown,
        kernels: Kernels::chosen(),
        seconds: clock.laps,
        peak_memory_bytes: prover::machine::peak_memory(),
        seconds_total: clock.begun.elapsed().as_secs_f64(),
    };
    drop(chronicle);
    client.network.close().await;
    devnet
        .shutdown()
        .await
        .map_err(DemoError::at("stopping the network"))?;
    Ok(report)
}

/// Time by phase.
struct Clock {
    laps: BTreeMap<&'static str, f64>,
    begun: Instant,
    last: Instant,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            laps: BTreeMap::new(),
            begun: now,
            last: now,
        }
    }

    fn lap(&mut self, phase: &'static str) {
        self.laps.insert(phase, self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}

/// The file named, or the sample written into the demo's home, and what sealing it will take.
fn source_file(config: &DemoConfig, home: &Home) -> Result<(PathBuf, Estimate), DemoError> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let judge = |bytes| estimate::check(bytes, config.scheme, config.sector_size, cores);
    let Some(named) = &config.file else {
        let (name, bytes) = match config.sector_size {
            prover::SectorSize::Kib2 => TINY_SAMPLE,
            _ => SAMPLE,
        };
        let path = home.root().join(name);
        fs::create_dir_all(home.root()).map_err(DemoError::at("making the demo's folder"))?;
        fs::write(&path, bytes).map_err(DemoError::at("writing the sample"))?;
        return Ok((path, judge(bytes.len() as u64)?));
    };
    let input = |reason: String| DemoError::Input(format!("{}: {reason}", named.display()));
    let meta = fs::metadata(named).map_err(|error| input(error.to_string()))?;
    if !meta.is_file() {
        return Err(input("this is not a plain file".to_owned()));
    }
    if meta.len() == 0 {
        return Err(input(
            "this file is empty; there is nothing to prove".to_owned(),
        ));
    }
    // Before the bytes are read into memory for the comparison at the end.
    Ok((named.clone(), judge(meta.len())?))
}

async fn start(config: &DemoConfig, plan: &Plan, out: &Output) -> Result<Devnet, DemoError> {
    out.say("Proving keys: made once per machine from a published seed, so good for a demo and for nothing else.");
    let devnet = DevnetConfig {
        providers: u16::try_from(config.providers).unwrap_or(u16::MAX),
        sector_size: config.sector_size,
        epoch_ms: config.epoch_ms,
        rpc_port: 0,
        // The story wants to see what damage costs when nobody mends it.
        auto_repair: false,
        // Known here, so that a small file's deals begin, and are paid, early.
        burst_sectors: (plan.sectors / config.scheme.n() as u64).saturating_sub(1),
        validators: config.validators,
        optimistic: false,
        closed_credit: config.closed_credit,
    };
    let bars = Arc::new(BarProgress::new(out));
    let devnet = Devnet::start(&plan.home, devnet, &config.params_dir, bars)
        .await
        .map_err(DemoError::at("starting the network"))?;
    let engine = match config.validators {
        1 => "engine solo".to_owned(),
        n => format!("engine bft and {n} validators, each a process,"),
    };
    out.say(format_args!(
        "A chain with {engine} at {}{}, and {} providers, each with its own keys, home and QUIC endpoint.",
        devnet.chain_url(),
        match config.closed_credit {
            true => ", its money closed credit",
            false => "",
        },
        devnet.providers().len()
    ));
    Ok(devnet)
}

async fn connect(devnet: &Devnet, home: &Home) -> Result<Arc<LiveClient>, DemoError> {
    let step = "connecting the client";
    let wallet = Wallet::open(&home.wallet_key(), || None).map_err(DemoError::at(step))?;
    let client = live::connect(&devnet.chain_url(), wallet, home.clone())
        .await
        .map_err(DemoError::at(step))?;
    Ok(Arc::new(client))
}

async fn put_file(
    client: &Arc<LiveClient>,
    config: &DemoConfig,
    source: &Path,
    out: &Output,
) -> Result<Stored, DemoError> {
    out.say("The client encrypts the file, codes it, signs one proposal per shard and pushes; each provider recomputes both roots before it signs.");
    let request = PutRequest {
        source: source.to_owned(),
        name: None,
        scheme: config.scheme,
        duration: None,
        max_price_per_gib: None,
        again: false,
        verified: false,
    };
    let say = out.clone();
    let hear = move |event: PutEvent| match event {
        PutEvent::Acknowledged { provider, bytes } => say.say(format_args!(
            "  provider {provider} signed for {}",
            human_bytes(bytes)
        )),
        PutEvent::Replaced { from, to, reason } => {
            say.say(format_args!("  provider {to} instead of {from}: {reason}"));
        }
        _ => {}
    };
    let stored = put(Arc::clone(client), request, Arc::new(hear))
        .await
        .map_err(DemoError::at("storing the file"))?;
    out.say(format_args!(
        "Stored: {} deals are on chain and random ranges came back from every holder. Any {} of {} shards give the file back.",
        stored.deals,
        stored.k,
        stored.k + stored.m
    ));
    Ok(stored)
}

/// Waits until every open deal of the client is in a proven sector.
async fn wait_for_seals(
    client: &LiveClient,
    devnet: &Devnet,
    chronicle: &Chronicle,
    sectors: u64,
    out: &Output,
) -> Result<(), DemoError> {
    out.say("Providers seal: labels, columns, encoding, trees; pre-commit; then a seed that nobody could know, and a Groth16 proof of replication.");
    let step = "sealing";
    let all = all_deals(step, client).await?;
    let holders: BTreeSet<ProviderId> =
        all.iter().map(|view| view.deal.proposal.provider).collect();
    // With more providers than shards, the manifest may lie with others than the data.
    let sectors = sectors.max(holders.len() as u64);
    let bar = out.bar("sectors proven", sectors, Unit::Items);
    let mut published = BTreeSet::new();
    let mut active = BTreeSet::new();
    let mut slashed = None;
    let wait = chronicle.wait(|_, event| {
        match event {
            Event::DealPublished { deal, .. } => {
                published.insert(*deal);
            }
            Event::DealActivated { deal, .. } => {
                active.insert(*deal);
            }
            Event::SectorProven { .. } => bar.advance(1),
            Event::DealSlashed { deal, .. } => slashed = Some(*deal),
            _ => {}
        }
        (slashed.is_some() || (!published.is_empty() && active == published)).then_some(())
    });
    patient(step, wait).await?;
    bar.finish();
    if let Some(deal) = slashed {
        return Err(DemoError::DoesNotHold {
            step,
            what: format!("deal {deal} was not in a sector in time; {}", notes(devnet)),
        });
    }
    Ok(())
}

/// Waits until every provider that holds a deal has posted a WindowPoSt and every deal was paid something.
async fn wait_for_pay(
    client: &LiveClient,
    devnet: &Devnet,
    chronicle: &Chronicle,
    out: &Output,
) -> Result<(), DemoError> {
    let step = "proving and paying";
    out.say("Every sector is challenged in its deadline of every proving period; only epochs that end in a valid proof are paid.");
    let all = all_deals(step, client).await?;
    let mut unpaid: BTreeSet<DealId> = all.iter().map(|view| view.id).collect();
    let mut silent: BTreeSet<ProviderId> =
        all.iter().map(|view| view.deal.proposal.provider).collect();
    let bar = out.bar("deals paid", unpaid.len() as u64, Unit::Items);
    let wait = chronicle.wait(|_, event| {
        match event {
            Event::DealPaid {
                deal,
                amount,
                proven: true,
                ..
            } if amount.0 > 0 && unpaid.remove(deal) => {
                bar.advance(1);
            }
            Event::PostAccepted { provider, .. } => {
                silent.remove(provider);
            }
            _ => {}
        }
        (unpaid.is_empty() && silent.is_empty()).then_some(())
    });
    patient(step, wait).await?;
    bar.finish();
    out.say(format_args!(
        "{} WindowPoSt proofs accepted so far; every provider has posted and every deal was paid. {}",
        chronicle.posts(None),
        notes(devnet)
    ));
    Ok(())
}

async fn read_ranges(
    client: &Arc<LiveClient>,
    stored: &Stored,
    original: &[u8],
    out: &Output,
) -> Result<u64, DemoError> {
    let step = "reading ranges";
    for _ in 0..RANGES {
        let (start, end) = {
            let mut rng = rand::thread_rng();
            let start = rng.gen_range(0..original.len() as u64);
            let most = (original.len() as u64 - start).min(MAX_RANGE_BYTES);
            (start, start + rng.gen_range(1..=most))
        };
        let sink = Sink::default();
        let request = GetRequest {
            object: stored.object.to_string(),
            range: Some((start, Some(end))),
        };
        get(
            Arc::clone(client),
            request,
            Target::Stream(Box::new(sink.clone())),
            Arc::new(|_| {}),
        )
        .await
        .map_err(DemoError::at(step))?;
        if sink.take() != original[start as usize..end as usize] {
            return Err(DemoError::DoesNotHold {
                step,
                what: format!("bytes {start}..{end} came back different"),
            });
        }
    }
    out.say(format_args!(
        "{RANGES} random ranges were read over QUIC, checked against their BLAKE3 roots, decrypted, and are equal."
    ));
    Ok(RANGES as u64)
}

/// Switches off `m` providers, restores the file from the others, and switches them on again.
async fn restore_without(
    devnet: &mut Devnet,
    client: &Arc<LiveClient>,
    stored: &Stored,
    config: &DemoConfig,
    original: &[u8],
    out: &Output,
) -> Result<(), DemoError> {
    let step = "restoring with providers stopped";
    let m = config.scheme.m();
    let holders: BTreeSet<ProviderId> = stored.providers.iter().copied().collect();
    let off: Vec<usize> = devnet
        .providers()
        .iter()
        .filter(|place| holders.contains(&place.id))
        .map(|place| place.index)
        .take(m)
        .collect();
    // They are switched off by us, not by their own fault: time stands still from before the first one goes.
    let pause = devnet
        .pause_after(EpochCount(0))
        .await
        .map_err(DemoError::at(step))?;
    for index in &off {
        devnet
            .stop_provider(*index)
            .await
            .map_err(DemoError::at(step))?;
    }
    let path = config.home.join("restored");
    let request = GetRequest {
        object: stored.object.to_string(),
        range: None,
    };
    let target = Target::File {
        path: path.clone(),
        force: true,
    };
    get(Arc::clone(client), request, target, Arc::new(|_| {}))
        .await
        .map_err(DemoError::at(step))?;
    let restored = fs::read(&path).map_err(DemoError::at(step))?;
    if restored != original {
        return Err(DemoError::DoesNotHold {
            step,
            what: "the restored file differs from the original".to_owned(),
        });
    }
    drop(pause);
    for index in &off {
        // A provider whose port was taken meanwhile tells the chain its new address, and that takes a block.
        let pause = devnet
            .pause_after(match config.validators {
                1 => RESTART_EPOCHS,
                _ => RESTART_EPOCHS_SEVERAL,
            })
            .await
            .map_err(DemoError::at(step))?;
        devnet
            .start_provider(*index)
            .await
            .map_err(DemoError::at(step))?;
        drop(pause);
    }
    out.say(format_args!(
        "With {} of {} providers switched off the file came back from the others, equal byte for byte.",
        off.len(),
        devnet.providers().len()
    ));
    Ok(())
}

/// What was broken, and when.
struct Damage {
    provider: ProviderId,
    sector: SectorNumber,
    epoch: Epoch,
    power: u64,
}

/// Overwrites one replica on disk with noise. Nobody is told.
async fn damage(devnet: &Devnet, client: &LiveClient, out: &Output) -> Result<Damage, DemoError> {
    let step = "damaging a replica";
    let place = devnet.providers().len() - 1;
    let handle = (0..=place)
        .rev()
        .filter_map(|index| devnet.provider(index))
        .find(|handle| handle.status().sectors.iter().any(|s| s.comm_r.is_some()))
        .ok_or(DemoError::DoesNotHold {
            step,
            what: "no running provider has a sector".to_owned(),
        })?;
    let status = handle.status();
    let sector = status
        .sectors
        .iter()
        .find(|s| s.comm_r.is_some())
        .map(|s| s.number)
        .ok_or(DemoError::DoesNotHold {
            step,
            what: "the sector has gone".to_owned(),
        })?;
    let base_trees = status.sector_size.shape().base_trees;
    let replica = handle
        .sector_dir(sector)
        .join(SectorFile::Sealed.name(base_trees));
    let bytes = overwrite(&replica).map_err(DemoError::at(step))?;
    let epoch = client
        .chain
        .node()
        .head()
        .await
        .map_err(DemoError::at(step))?
        .epoch;
    out.say(format_args!(
        "The replica of provider {}, sector {sector}, is overwritten on disk with noise. Nobody is told.",
        handle.id()
    ));
    Ok(Damage {
        provider: handle.id(),
        sector,
        epoch,
        power: bytes,
    })
}

/// Fills a file with noise, in place; gives its length.
fn overwrite(path: &Path) -> std::io::Result<u64> {
    let length = fs::metadata(path)?.len();
    let mut file = File::options().write(true).open(path)?;
    let mut noise = vec![0u8; 1 << 20];
    let mut left = length;
    while left > 0 {
        rand::thread_rng().fill_bytes(&mut noise);
        let n = left.min(noise.len() as u64);
        file.write_all(&noise[..n as usize])?;
        left -= n;
    }
    file.sync_all()?;
    Ok(length)
}

/// Waits until the chain knows of the fault and has charged for it.
async fn wait_for_charge(
    chronicle: &Chronicle,
    damage: Damage,
    out: &Output,
) -> Result<FaultReport, DemoError> {
    let step = "catching the cheat";
    let bar = out.bar("fault found, then charged", 2, Unit::Items);
    let mut found: Option<(Epoch, FaultReason)> = None;
    let wait = chronicle.wait(|epoch, event| match event {
        Event::SectorFaulted {
            provider,
            sector,
            reason,
        } if *provider == damage.provider && *sector == damage.sector => {
            found = Some((epoch, *reason));
            bar.advance(1);
            None
        }
        Event::FaultFee {
            provider,
            sector,
            amount,
        } if *provider == damage.provider && *sector == damage.sector && amount.0 > 0 => {
            Some(*amount)
        }
        _ => None,
    });
    let charged: TokenAmount = patient(step, wait).await?;
    bar.finish();
    let (detected_epoch, reason) = found.ok_or(DemoError::DoesNotHold {
        step,
        what: "a fee was charged for a sector that never was faulty".to_owned(),
    })?;
    let found_by = match reason {
        FaultReason::Declared => "declared by its provider",
        FaultReason::Skipped => "skipped by its provider",
        FaultReason::Missed => "missed its deadline",
        FaultReason::Disputed => "disputed for a wrong proof",
    };
    out.say(format_args!(
        "Found: at epoch {detected_epoch} the sector was {found_by} and lost its power; its second missed period cost {} tokens.",
        charged.in_tokens()
    ));
    Ok(FaultReport {
        provider: damage.provider,
        sector: damage.sector,
        damaged_epoch: damage.epoch,
        detected_epoch,
        found_by: found_by.to_owned(),
        power_lost: damage.power,
        charged,
    })
}

/// Exports the chain and lets an auditor, who sees nothing else, replay it.
async fn audit(
    devnet: &Devnet,
    home: &Home,
    posts: u64,
    out: &Output,
) -> Result<AuditSummary, DemoError> {
    let step = "auditing";
    let path = home.root().join("chain.export");
    let ledger = Arc::clone(devnet.ledger());
    out.say("The auditor gets the exported chain and nothing else: every block is executed again, every proof verified again.");
    let signers = match devnet.config().validators {
        1 => String::new(),
        n => format!("each block signed by more than two thirds of {n} validators, "),
    };
    let work = move || -> Result<_, String> {
        let mut file = File::create(&path).map_err(|e| e.to_string())?;
        let (height, _) = ledger
            .export(&mut file, &mut |_| {})
            .map_err(|e| e.to_string())?;
        file.sync_all().map_err(|e| e.to_string())?;
        let expected = Some(ledger.chain_id());
        let replay = chain_lite::audit::replay(&path, expected, &mut nothing_more)
            .map_err(|e| e.to_string())?;
        Ok((height, replay.report))
    };
    let (height, report) = spawn_blocking(work)
        .await
        .map_err(DemoError::at(step))?
        .map_err(DemoError::at(step))?;
    let holds = |good: bool, what: String| match good {
        true => Ok(()),
        false => Err(DemoError::DoesNotHold { step, what }),
    };
    if let Some(failure) = report.failures.first() {
        return Err(DemoError::DoesNotHold {
            step,
            what: format!("block {}: {}", failure.height, failure.what),
        });
    }
    holds(report.supply_ok, "the supply does not add up".to_owned())?;
    holds(
        report.blocks == height,
        format!("{} of {height} blocks were replayed", report.blocks),
    )?;
    holds(
        report.proofs_verified > posts,
        format!(
            "{} proofs verified, and {posts} window proofs alone were accepted",
            report.proofs_verified
        ),
    )?;
    out.say(format_args!(
        "Audit: {} blocks, {} transactions, {} proofs verified, {signers}every state root equal, the supply adds up.",
        report.blocks, report.txs, report.proofs_verified
    ));
    Ok(AuditSummary {
        blocks: report.blocks,
        proofs_verified: report.proofs_verified,
        supply_ok: report.supply_ok,
        // A state root that differs is a failure of the replay and was reported above.
        roots_equal: true,
        state_root: hex::encode(report.state_root),
    })
}

/// The replay's own findings are enough here.
fn nothing_more(_: &Replayed<'_>) {}

async fn providers(
    devnet: &Devnet,
    client: &LiveClient,
    chronicle: &Chronicle,
) -> Result<Vec<ProviderReport>, DemoError> {
    let step = "the report";
    let deals = all_deals(step, client).await?;
    let mut reports = Vec::new();
    for place in devnet.providers() {
        let view = client
            .chain
            .node()
            .provider(place.id)
            .await
            .map_err(DemoError::at(step))?
            .ok_or(DemoError::DoesNotHold {
                step,
                what: format!("the chain has no provider {}", place.id),
            })?;
        let (rewarded, charged) = chronicle.money(place.id);
        let paid: u128 = deals
            .iter()
            .filter(|d| d.deal.proposal.provider == place.id)
            .map(|d| d.deal.paid.0)
            .sum();
        reports.push(ProviderReport {
            id: place.id,
            owner: view.provider.owner,
            endpoint: place.quic,
            window_posts: chronicle.posts(Some(place.id)),
            rewarded,
            deals_paid: TokenAmount(paid),
            charged,
            balance: view.provider.balance,
        });
    }
    Ok(reports)
}

fn sector_reports(devnet: &Devnet) -> Vec<SectorReport> {
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let mut reports = Vec::new();
    for place in devnet.providers() {
        let Some(handle) = devnet.provider(place.index) else {
            continue;
        };
        let status = handle.status();
        for sector in &status.sectors {
            let (Some(comm_d), Some(comm_r)) = (sector.comm_d, sector.comm_r) else {
                continue;
            };
            reports.push(SectorReport {
                provider: place.id,
                number: sector.number,
                sector_size: status.sector_size.bytes(),
                comm_d,
                comm_r,
                seconds: StageSeconds {
                    pc1: seconds(sector.spent.pc1_ms),
                    pc2: seconds(sector.spent.pc2_ms),
                    c1: seconds(sector.spent.c1_ms),
                    c2: seconds(sector.spent.c2_ms),
                },
            });
        }
    }
    reports
}

async fn deals(client: &LiveClient) -> Result<Vec<DealReport>, DemoError> {
    let views = all_deals("the report", client).await?;
    Ok(views
        .into_iter()
        .map(|view| {
            let p = &view.deal.proposal;
            let epochs = u128::from(p.end.since(p.start).0);
            DealReport {
                id: view.id,
                provider: p.provider,
                piece: p.piece_commp.to_string(),
                piece_bytes: p.piece_size.bytes(),
                price_total: TokenAmount(p.price.0.saturating_mul(epochs)),
                paid: view.deal.paid,
                refunded: view.deal.refunded,
            }
        })
        .collect())
}

async fn client_report(client: &LiveClient) -> Result<ClientReport, DemoError> {
    let address = client.wallet.address();
    let account = client
        .chain
        .node()
        .account(&address)
        .await
        .map_err(DemoError::at("the report"))?;
    Ok(ClientReport {
        address,
        free: account.free,
        escrow: account.escrow.escrow,
        locked: account.escrow.locked,
    })
}

/// What the client pays for.
async fn all_deals(step: &'static str, client: &LiveClient) -> Result<Vec<DealView>, DemoError> {
    let node = client.chain.node();
    let deals = node.deals_by_client(&client.wallet.address()).await;
    deals.map_err(DemoError::at(step))
}

/// Waits, but not for ever; `None` means that the chain's events ended.
pub(super) async fn patient<T>(
    step: &'static str,
    wait: impl Future<Output = Option<T>>,
) -> Result<T, DemoError> {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(DemoError::Failed {
            step,
            reason: "the chain stopped".to_owned(),
        }),
        Err(_) => Err(DemoError::DoesNotHold {
            step,
            what: format!(
                "nothing came of it within {} minutes",
                PATIENCE.as_secs() / 60
            ),
        }),
    }
}

/// The newest note of each provider that has one, for errors and sentences.
fn notes(devnet: &Devnet) -> String {
    devnet
        .providers()
        .iter()
        .filter_map(|place| {
            let note = devnet.provider(place.index)?.status().notes.back()?.clone();
            Some(format!("[provider {}: {}]", place.id, note.text))
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// One sentence for the events that people want to see.
fn narrator(out: Output) -> impl Fn(Epoch, &Event) + Send + 'static {
    move |epoch, event| {
        match event {
        Event::PreCommitted {
            provider, sector, comm_r, ..
        } => out.say(format_args!(
            "  epoch {epoch}: provider {provider} pre-commits sector {sector}, CommR {comm_r}"
        )),
        Event::SectorProven { provider, sector, .. } => out.say(format_args!(
            "  epoch {epoch}: the proof of replication of provider {provider}, sector {sector}, is accepted"
        )),
        Event::SectorActivated { provider, sector, .. } => out.say(format_args!(
            "  epoch {epoch}: provider {provider}, sector {sector}: first WindowPoSt accepted, active and earning"
        )),
        Event::SectorFaulted { provider, sector, reason } => out.say(format_args!(
            "  epoch {epoch}: provider {provider}, sector {sector} is faulty ({reason:?}) and has no power"
        )),
        _ => {}
    }
    }
}

/// Bytes written by a range read.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
