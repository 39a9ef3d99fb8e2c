//! `holdfast audit bundle` and `holdfast audit verify`: one file about one object, and its verification offline.
//!
//! Place: beside [`super::audit`], whose words for objects and groups it uses. The format and what the chain binds are
//! [`chain_lite::bundle`]'s; here is what the client's labels say, and the sentences.
//!
//! `bundle` believes no node: what it collected is verified by the function that `verify` uses before the file gets its name.
//! Exit codes: 6 when something does not hold, after the checks before it were printed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chain_lite::account::{Address, ChainId, DealId};
use chain_lite::audit::FileAudit;
use chain_lite::bundle::{Anchor, Believed, Bundle, BundleError, Check, MAX_BUNDLE_BYTES, Refused};
use chain_lite::deal::Deal;
use chain_lite::possession::beacon_of;
use chain_lite::units::Epoch;
use serde::Serialize;

use super::account::connect_chain;
use super::args::TrustArgs;
use super::audit::{Chosen, GroupReport, groups_text, read_bounded, reports};
use super::{Class, CliError, Context};
use crate::chain::ChainClient;
use crate::client::bundle::{CollectError, TRIES, collect, deals, samples};
use crate::client::journal::replace;
use crate::client::live::Quic;
use crate::object::manifest::{FileTag, Label};
use crate::object::placement::{Group, group_seed, is_in_order, put_seed};

#[derive(Debug, clap::Args)]
pub(super) struct Make {
    /// The object's id, the root of one of its deal groups, or the id of one of its deals
    id: String,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Look among this account's deals alone [default: among all deals of all providers]
    #[arg(long, value_name = "ADDRESS")]
    client: Option<Address>,
    /// Ask no provider to read back a sample of its pieces
    #[arg(long)]
    no_samples: bool,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    trust: TrustArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// Bundle made by `holdfast audit bundle`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    trust: TrustArgs,
}

/// What a bundle says, and what does not hold.
#[derive(Debug, Serialize)]
struct Report<'a> {
    file: &'a Path,
    bytes: usize,
    valid: bool,
    chain_id: Option<ChainId>,
    subject: String,
    /// The newest block shown: its height, epoch and time in Unix milliseconds.
    height: Option<u64>,
    epoch: Option<u64>,
    time_ms: Option<u64>,
    readable: bool,
    checks: Vec<Check>,
    failed: Option<Check>,
    groups: Vec<GroupReport<'a>>,
}

pub(super) async fn make(args: Make, context: &Context) -> Result<(), CliError> {
    if args.output.exists() && !args.force {
        let message = format!("{} exists already", args.output.display());
        return Err(CliError::new(Class::Input, message).hint("name another file, or add --force"));
    }
    let anchor = args.trust.anchor();
    let chain = connect_chain(context).await?;
    let file = gather(&chain, &args.id, args.client, !args.no_samples, &anchor).await?;
    let output = std::path::absolute(&args.output)
        .map_err(|e| CliError::io("cannot write", &args.output, &e))?;
    replace(&output, &file)?;
    judged(&args.output, &file, &anchor, context)
}

/// Collects what is about `id`, an object, a group or a deal, among `client`'s deals or all, and verifies it: the file's bytes.
pub(crate) async fn gather(
    chain: &ChainClient,
    id: &str,
    client: Option<Address>,
    read_back: bool,
    anchor: &Anchor,
) -> Result<Vec<u8>, CliError> {
    let all = deals(chain, client).await?;
    let unknown = || {
        CliError::new(
            Class::Input,
            format!("no deal on this chain belongs to {id:?}"),
        )
        .hint("give an object id from `holdfast ls`, a deal group's root or a deal id")
    };
    let subject = id.trim().to_ascii_lowercase();
    let mut bytes = [0; 32];
    ::hex::decode_to_slice(&subject, &mut bytes).map_err(|_| unknown())?;
    let chosen = Chosen::find(&subject, &all).ok_or_else(unknown)?;
    let mine: Vec<_> = all
        .into_iter()
        .filter(|(id, deal)| chosen.has(id, deal))
        .collect();
    let samples = match read_back {
        false => vec![],
        true => {
            let network = Quic::new(chain)?;
            let samples = samples(chain, &network, &mine).await;
            network.close().await;
            samples?
        }
    };
    let bundle = collected(chain, bytes, &mine, anchor, samples).await?;
    let file = bundle.to_bytes().map_err(|e| {
        CliError::caused(Class::Input, "the object is too large for one bundle", &e)
    })?;
    // A node that lied is found out before anybody is handed the file.
    sentences(&file, anchor).map_err(|refused| {
        CliError::caused(
            Class::BadData,
            "what the node showed does not hold",
            &refused,
        )
        .hint("ask another node with --chain, and tell its operator")
    })?;
    Ok(file)
}

/// The chain moves on while it is read; a bundle is made of one moment.
async fn collected(
    chain: &ChainClient,
    subject: [u8; 32],
    deals: &[(chain_lite::account::DealId, chain_lite::deal::Deal)],
    anchor: &Anchor,
    samples: Vec<chain_lite::bundle::ShownSample>,
) -> Result<Bundle, CliError> {
    let mut tries = 1;
    loop {
        match collect(chain, subject, deals, anchor, samples.clone()).await {
            Err(CollectError::Moving(_)) if tries < TRIES => tries += 1,
            Ok(bundle) => return Ok(bundle),
            Err(error) => return Err(collect_error(error)),
        }
    }
}

fn collect_error(error: CollectError) -> CliError {
    match error {
        CollectError::Chain(error) => error.into(),
        CollectError::Lies(_) => CliError::new(Class::BadData, error)
            .hint("ask another node with --chain, and tell its operator"),
        CollectError::Moving(_) => {
            CliError::new(Class::Unreachable, error).hint("run the same command again")
        }
        CollectError::Late { .. } => CliError::new(Class::Refused, error)
            .hint("name another node with --chain, or try again after a proving period"),
        CollectError::TooNew { .. } => CliError::new(Class::Input, error)
            .hint("leave --checkpoint out, or name an older block"),
    }
}

pub(super) fn verify(args: &Verify, context: &Context) -> Result<(), CliError> {
    let bytes = read_bounded(&args.file, MAX_BUNDLE_BYTES as u64)?;
    judged(&args.file, &bytes, &args.trust.anchor(), context)
}

/// Why a bundle is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSound {
    /// The file's bytes.
    #[error(transparent)]
    File(#[from] BundleError),
    /// What the chain binds.
    #[error(transparent)]
    Chain(#[from] Refused),
    /// What the object's labels say.
    #[error("{0}")]
    Object(String),
}

/// Verifies a file's bytes without printing: a sentence for each check, or the first that does not hold.
pub(crate) fn sentences(bytes: &[u8], anchor: &Anchor) -> Result<Vec<Check>, NotSound> {
    let bundle = Bundle::from_bytes(bytes)?;
    let believed = bundle.verify(anchor)?;
    let (of_object, failed) = object_checks(&bundle, &believed, &audit_of(&bundle, &believed)?);
    if let Some(failed) = failed {
        return Err(NotSound::Object(failed.says));
    }
    let mut checks = vec![whole(bytes)];
    checks.extend(believed.checks);
    checks.extend(of_object);
    Ok(checks)
}

fn whole(bytes: &[u8]) -> Check {
    Check {
        what: "file".into(),
        says: format!("{} bytes, whole and canonical", bytes.len()),
    }
}

/// Verifies, prints a sentence for each check, and makes an error of what does not hold.
fn judged(file: &Path, bytes: &[u8], anchor: &Anchor, context: &Context) -> Result<(), CliError> {
    let bundle = Bundle::from_bytes(bytes).map_err(|error| {
        let class = match error {
            BundleError::NotABundle | BundleError::Version(_) => Class::Input,
            BundleError::Digest | BundleError::Codec(_) => Class::BadData,
        };
        CliError::caused(class, file.display(), &error)
            .hint("get another copy; `holdfast audit bundle ID -o FILE` makes such files")
    })?;
    let mut report = Report {
        file,
        bytes: bytes.len(),
        valid: false,
        chain_id: None,
        subject: ::hex::encode(bundle.subject),
        height: None,
        epoch: None,
        time_ms: None,
        readable: false,
        checks: vec![whole(bytes)],
        failed: None,
        groups: vec![],
    };
    let audit;
    match bundle.verify(anchor) {
        Err(refused) => {
            report.checks.extend(refused.passed);
            report.failed = Some(Check {
                what: refused.what.into(),
                says: refused.why,
            });
        }
        Ok(believed) => {
            report.chain_id = Some(believed.genesis.chain_id());
            report.height = Some(believed.last.height);
            report.epoch = Some(believed.last.epoch.0);
            report.time_ms = Some(believed.last.time_ms);
            report.checks.extend(believed.checks.iter().cloned());
            match audit_of(&bundle, &believed) {
                Err(error) => {
                    report.failed = Some(Check {
                        what: "object".into(),
                        says: error.to_string(),
                    });
                }
                Ok(found) => {
                    audit = found;
                    let (checks, failed) = object_checks(&bundle, &believed, &audit);
                    report.checks.extend(checks);
                    report.failed = failed;
                    report.readable = audit.readable();
                    report.groups = reports(&audit);
                }
            }
        }
    }
    report.valid = report.failed.is_none();
    context.out.result(&report, text)?;
    match &report.failed {
        None => Ok(()),
        Some(failed) => Err(CliError::new(
            Class::BadData,
            format!("{}: {}: {}", file.display(), failed.what, failed.says),
        )
        .hint("do not rely on this file; ask for another, or name the right chain and checkpoint")),
    }
}

/// The bundle's deals as `audit file` shows them.
fn audit_of(bundle: &Bundle, believed: &Believed) -> Result<FileAudit, NotSound> {
    let subject = ::hex::encode(bundle.subject);
    let chosen = Chosen::find(&subject, &believed.deals)
        .ok_or_else(|| NotSound::Object(format!("no deal here belongs to {subject}")))?;
    if let Some((id, _)) = believed.deals.iter().find(|(id, d)| !chosen.has(id, d)) {
        return Err(NotSound::Object(format!(
            "deal {id} does not belong to {subject}"
        )));
    }
    let mut audit = FileAudit::default();
    for proof in &believed.proofs {
        for sector in &proof.sectors {
            let height = proof.height.unwrap_or(0);
            audit.saw(proof.provider, *sector, height, proof.epoch);
        }
    }
    audit
        .close(&believed.state, &|id, deal| chosen.has(id, deal))
        .map_err(|e| NotSound::Object(e.to_string()))?;
    Ok(audit)
}

/// What the labels and commitments say of the object.
fn object_checks(
    bundle: &Bundle,
    believed: &Believed,
    audit: &FileAudit,
) -> (Vec<Check>, Option<Check>) {
    let check = |what: &str, says: String| Check {
        what: what.into(),
        says,
    };
    let open = believed.deals.iter().filter(|(_, d)| d.status.is_open());
    let holders: std::collections::BTreeSet<_> =
        open.clone().map(|(_, d)| d.proposal.provider).collect();
    let mut checks = vec![check(
        "deals",
        format!(
            "{} deals belong to {}, {} of them open, with {} providers",
            believed.deals.len(),
            ::hex::encode(bundle.subject),
            open.count(),
            holders.len()
        ),
    )];
    let groups = reports(audit);
    if let Some(bad) = groups.iter().find(|g| g.root_matches == Some(false)) {
        let says = format!(
            "the deals of {} are not the pieces that their group commits to",
            bad.what
        );
        return (checks, Some(check("commitments", says)));
    }
    let matched = groups
        .iter()
        .filter(|g| g.root_matches == Some(true))
        .count();
    checks.push(check(
        "commitments",
        format!(
            "{matched} of {} groups are exactly the pieces that their names commit to{}",
            groups.len(),
            match matched == groups.len() {
                true => "",
                false => "; of the others a piece has no deal here",
            }
        ),
    ));
    checks.push(check("placement", placement(bundle, believed)));
    checks.push(check(
        "readable",
        match audit.readable() {
            true => "every group can be read from pieces in proven sectors".into(),
            false => "NOT every group can be read from pieces in proven sectors (some may wait for their first proof)".into(),
        },
    ));
    (checks, None)
}

/// Whether the segments' holders are those that a beacon drew (threat Y1). A client that chose them by itself harms its own object
/// alone, and one that replaced a holder has a reason, so this is said and refuses nothing.
fn placement(bundle: &Bundle, believed: &Believed) -> String {
    let beacons = beacons(bundle, believed);
    let draws = Draws::of(&believed.deals);
    let (mut in_order, mut others, mut unshown) = (0, 0, 0);
    for (group, holders) in &draws.segments {
        match beacons.get(&group.drawn) {
            None => unshown += 1,
            Some(beacon) => {
                let seed = put_seed(beacon, &group.file_tag.0);
                let seed = group_seed(&seed, Group::Segment(group.segment));
                match is_in_order(&seed, holders) {
                    true => in_order += 1,
                    false => others += 1,
                }
            }
        }
    }
    let epochs: BTreeSet<Epoch> = draws.segments.keys().map(|group| group.drawn).collect();
    let epochs: Vec<String> = epochs.iter().map(Epoch::to_string).collect();
    if draws.segments.is_empty() {
        return format!(
            "{} segments do not say which beacon drew their holders",
            draws.unnamed
        );
    }
    let mut says = format!(
        "the holders of {in_order} of {} segments stand in the order that the beacon of epoch {} draws",
        draws.segments.len() + draws.unnamed,
        epochs.join(", ")
    );
    for (count, why) in [
        (others, "do not: a holder was replaced, or the client chose"),
        (unshown, "name an epoch whose beacon is not shown"),
        (draws.unnamed, "lack a deal or do not say which beacon drew"),
    ] {
        if count > 0 {
            says.push_str(&format!("; {count} {why}"));
        }
    }
    says
}

/// The values that the bundle's beacon rounds give, as placement uses them. Each was verified with the bundle.
fn beacons(bundle: &Bundle, believed: &Believed) -> BTreeMap<Epoch, [u8; 32]> {
    let mut values = BTreeMap::new();
    for shown in &bundle.beacons {
        let block = bundle
            .blocks
            .iter()
            .find(|block| block.header.height == shown.height);
        let carried = block.map(|block| {
            let schedule = believed.genesis.beacons();
            schedule.epochs_of(block.header.epoch, &shown.entries)
        });
        for (epoch, value) in carried.and_then(Result::ok).unwrap_or_default() {
            values.insert(epoch, beacon_of(&value, epoch));
        }
    }
    values
}

/// A segment whose deals name one draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Segment {
    file_tag: FileTag,
    segment: u64,
    drawn: Epoch,
}

/// Whom the deals say that beacons drew.
#[derive(Debug, Default)]
struct Draws {
    /// Of each segment that is here whole: the first holder of each shard, in order.
    segments: BTreeMap<Segment, Vec<u64>>,
    /// Segments that lack a shard's deal, or whose first deals name no epoch or several.
    unnamed: usize,
}

impl Draws {
    fn of(deals: &[(DealId, Deal)]) -> Self {
        let mut first: BTreeMap<(FileTag, u64), BTreeMap<u8, (&Deal, Option<Epoch>)>> =
            BTreeMap::new();
        for (_, deal) in deals {
            if let Ok(Label::Data {
                file_tag,
                segment,
                shard,
                drawn,
                ..
            }) = deal.proposal.label.parse()
            {
                let shards = first.entry((file_tag, segment)).or_default();
                let known = shards.entry(shard).or_insert((deal, drawn));
                // What came later is a repair.
                if deal.published < known.0.published {
                    *known = (deal, drawn);
                }
            }
        }
        let mut draws = Self::default();
        for ((file_tag, segment), shards) in first {
            let epochs: BTreeSet<Option<Epoch>> = shards.values().map(|(_, of)| *of).collect();
            let n = shards.values().map(|(deal, _)| deal.proposal.group.n).max();
            let is_whole = shards.keys().copied().eq(0..n.unwrap_or(0));
            match (is_whole, epochs.len(), epochs.first()) {
                (true, 1, Some(Some(drawn))) => {
                    let group = Segment {
                        file_tag,
                        segment,
                        drawn: *drawn,
                    };
                    let holders = shards.values().map(|(deal, _)| deal.proposal.provider.0);
                    draws.segments.insert(group, holders.collect());
                }
                _ => draws.unnamed += 1,
            }
        }
        draws
    }
}

fn text(report: &Report<'_>) -> String {
    let mut text = format!("bundle {} of {}\n", report.file.display(), report.subject);
    for check in &report.checks {
        text.push_str(&format!("ok      {:<12} {}\n", check.what, check.says));
    }
    if let Some(failed) = &report.failed {
        text.push_str(&format!("FAILED  {:<12} {}\n", failed.what, failed.says));
    }
    text.push_str(&groups_text(&report.groups));
    text.push_str(match report.valid {
        true => "the bundle holds",
        false => "the bundle does NOT hold",
    });
    text
}
