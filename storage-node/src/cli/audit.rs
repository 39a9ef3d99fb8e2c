//! `holdfast audit`: verification from public data alone, offline.
//!
//! * `proof` checks one proof under a verifying key;
//! * `sector` shows a sector's whole history, each of its proofs verified again;
//! * `file` shows a file's pieces: deals, sectors, newest proofs, and whether the groups are what their names commit to;
//! * `explain-fault` says why a sector was faulty and what it cost ([`super::explain`]);
//! * `chain` replays everything from genesis and re-verifies every signature, beacon round, Groth16 proof, state root and the
//!   supply identity;
//! * `bundle` and `verify` make and check one file about one object ([`super::bundle`]).
//!
//! `sector`, `file`, `explain-fault` and `chain` read a chain file ([`super::chain`]) and replay it, because nothing in a file is believed before that. What is
//! trusted is the chain id: give it with `--chain-id`, from a source you trust.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use chain_lite::account::{ChainId, DealId, ProviderId};
use chain_lite::audit::{
    self, AuditReport, BlockFacts, FileAudit, GroupAudit, PieceAudit, ProofDocument, ProofRecord,
    Replay, Replayed, SectorHistory, Visitor,
};
use chain_lite::deal::Deal;
use chain_lite::genesis::Genesis;
use chain_lite::moment::Moment;
use prover::SectorNumber;
use prover::verify::{VerifyError, VerifyingKeys};
use serde::Serialize;

use super::bundle;
use super::chain::{audit_error, chain_file, own_log};
use super::output::{Bar, Unit};
use super::{Class, CliError, Context};
use crate::config::Config;
use crate::object::manifest::{Label, ObjectId, segment_root};

/// Longest proof document.
const MAX_PROOF_FILE: u64 = 1 << 20;
/// Longest key file: a genesis as JSON is the largest.
const MAX_KEYS_FILE: u64 = 64 << 20;

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Verify one proof from a file that `audit sector --proofs` wrote
    Proof(Proof),
    /// Show all that ever happened to a sector, and verify each of its proofs again
    Sector(Sector),
    /// Show a file's pieces: deals, sectors, newest proofs
    File(FileArgs),
    /// Replay a whole chain and verify everything in it
    Chain(Chain),
    /// Explain a sector's faults from the chain itself, each figure computed again
    ExplainFault(super::explain::Fault),
    /// Write one file with all that shows one object to be stored: deals, blocks, proofs, read-back samples
    Bundle(bundle::Make),
    /// Verify such a file, offline, with a sentence for each check
    Verify(bundle::Verify),
}

#[derive(Debug, clap::Args)]
struct Proof {
    /// JSON with the statement and the proof
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the verifying key comes from: an export, a genesis (JSON) or a .vk file [default: this home's chain]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

/// Which chain is read.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Export or block log [default: this home's block log]
    #[arg(long, value_name = "FILE")]
    pub(super) from: Option<PathBuf>,
    /// Refuse the file unless it is of this chain
    #[arg(long, value_name = "ID")]
    pub(super) chain_id: Option<ChainId>,
}

#[derive(Debug, clap::Args)]
struct Sector {
    /// Whose sector
    provider: ProviderId,
    /// Its number
    sector: u64,
    #[command(flatten)]
    source: Source,
    /// Write each proof with its statement into this folder, for `audit proof`
    #[arg(long, value_name = "DIR")]
    proofs: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The object's id, the root of one of its deal groups, or the id of one of its deals
    id: String,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, clap::Args)]
struct Chain {
    /// Export or block log [default: this home's block log]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Refuse the file unless it is of this chain
    #[arg(long, value_name = "ID")]
    chain_id: Option<ChainId>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Proof(args) => proof(&args, context),
        Action::Sector(args) => sector(args, context),
        Action::File(args) => file(args, context),
        Action::Chain(args) => chain(args, context),
        Action::ExplainFault(args) => super::explain::fault(args, context),
        Action::Bundle(args) => bundle::make(args, context).await,
        Action::Verify(args) => bundle::verify(&args, context),
    }
}

#[derive(Debug, Serialize)]
struct ProofVerdict {
    circuit: String,
    #[serde(with = "hex")]
    keys_hash: [u8; 32],
    valid: bool,
}

mod hex {
    pub(super) fn serialize<S: serde::Serializer>(
        bytes: &[u8; 32],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(&::hex::encode(bytes))
    }
}

fn proof(args: &Proof, context: &Context) -> Result<(), CliError> {
    let text = read_bounded(&args.file, MAX_PROOF_FILE)?;
    let document: ProofDocument = serde_json::from_slice(&text).map_err(|e| {
        CliError::caused(
            Class::Input,
            format!("{} is no proof document", args.file.display()),
            &e,
        )
        .hint("`holdfast audit sector … --proofs DIR` writes such files")
    })?;
    let keys = keys(args.keys.as_deref(), &document, &context.config)?;
    let verdict = document.verify(&keys);
    let circuit = document.circuit().to_string();
    let result = ProofVerdict {
        circuit,
        keys_hash: keys.hash(),
        valid: verdict.is_ok(),
    };
    context.out.result(&result, |r| match r.valid {
        true => format!(
            "valid: {} under keys {}",
            r.circuit,
            ::hex::encode(r.keys_hash)
        ),
        false => format!(
            "NOT valid: {} under keys {}",
            r.circuit,
            ::hex::encode(r.keys_hash)
        ),
    })?;
    verdict.map_err(|error| match error {
        VerifyError::NoKey(circuit) => {
            CliError::new(Class::Input, format!("the keys have none for {circuit}"))
                .hint("name the export or genesis of the proof's own chain with --keys")
        }
        other => CliError::caused(Class::BadData, args.file.display(), &other),
    })
}

/// Verifying keys from whatever the caller has.
fn keys(
    named: Option<&Path>,
    document: &ProofDocument,
    config: &Config,
) -> Result<VerifyingKeys, CliError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => own_log(config).ok_or_else(|| {
            CliError::new(
                Class::Input,
                "no verifying key: --keys was not given and this home has no chain",
            )
            .hint("name an export, a genesis or a .vk file with --keys")
        })?,
    };
    let start = read_start(&path)?;
    if start.starts_with(b"HFBLOG") || start.starts_with(b"HFEXPT") {
        let genesis = audit::genesis_of(&path).map_err(|e| audit_error(&path, e))?;
        return Ok(genesis.keys().clone());
    }
    let bytes = read_bounded(&path, MAX_KEYS_FILE)?;
    let bad = |error: &dyn std::error::Error| {
        CliError::caused(
            Class::Input,
            format!("{} holds no usable verifying key", path.display()),
            error,
        )
        .hint("name an export, a genesis or a .vk file")
    };
    if start.trim_ascii_start().starts_with(b"{") {
        let genesis = Genesis::from_json(&bytes)
            .and_then(Genesis::check)
            .map_err(|e| bad(&e))?;
        return Ok(genesis.keys().clone());
    }
    VerifyingKeys::from_vk_bytes([(document.circuit(), bytes.as_slice())]).map_err(|e| bad(&e))
}

#[derive(Debug, Serialize)]
struct SectorReport<'a> {
    chain: &'a AuditReport,
    #[serde(flatten)]
    history: &'a SectorHistory,
    proofs_written: usize,
}

fn sector(args: Sector, context: &Context) -> Result<(), CliError> {
    let number = SectorNumber(args.sector);
    let mut history = SectorHistory::new(args.provider, number);
    let (path, replay) = replayed(
        args.source.from,
        args.source.chain_id,
        context,
        &mut history,
    )?;
    history
        .close(&replay.state)
        .map_err(|e| CliError::caused(Class::BadData, path.display(), &e))?;
    if history.events.is_empty() && history.now.is_none() {
        let message = format!(
            "provider {} has no sector {number} on this chain",
            args.provider
        );
        return Err(
            CliError::new(Class::Input, message).hint("`holdfast provider status` lists sectors")
        );
    }
    let proofs_written = match &args.proofs {
        Some(dir) => write_proofs(dir, &history.proofs)?,
        None => 0,
    };
    let report = SectorReport {
        chain: &replay.report,
        history: &history,
        proofs_written,
    };
    context.out.result(&report, |r| sector_text(r))?;
    judged(&path, &replay.report)
}

fn sector_text(report: &SectorReport<'_>) -> String {
    let history = report.history;
    let mut text = format!(
        "sector {} of provider {}\n",
        history.number, history.provider
    );
    for item in &history.events {
        let event = serde_json::to_value(&item.event).unwrap_or_default();
        let kind = event["kind"].as_str().unwrap_or("event").replace('_', " ");
        text.push_str(&format!(
            "  epoch {:>8}  block {:>8}  {kind}\n",
            item.epoch.0, item.height
        ));
    }
    let accepted = history.proofs.len() - history.rejected();
    text.push_str(&format!(
        "proofs     {accepted} verified again, {} rejected\n",
        history.rejected()
    ));
    if let Some(now) = &history.now {
        text.push_str(&format!(
            "now        {:?}, replica {}\n",
            now.status, now.comm_r
        ));
    }
    if report.proofs_written > 0 {
        text.push_str(&format!(
            "written    {} proof files\n",
            report.proofs_written
        ));
    }
    text.push_str(&chain_line(report.chain));
    text
}

fn write_proofs(dir: &Path, proofs: &[ProofRecord]) -> Result<usize, CliError> {
    std::fs::create_dir_all(dir).map_err(|e| CliError::io("cannot create", dir, &e))?;
    for (index, proof) in proofs.iter().enumerate() {
        let kind = match proof.document {
            ProofDocument::Porep { .. } => "porep",
            ProofDocument::WindowPost { .. } => "window",
        };
        let path = dir.join(format!("{index:05}-block-{}-{kind}.json", proof.height));
        let text = serde_json::to_vec_pretty(&proof.document)
            .map_err(|e| CliError::caused(Class::Bug, "cannot write a proof document", &e))?;
        std::fs::write(&path, text).map_err(|e| CliError::io("cannot write", &path, &e))?;
    }
    Ok(proofs.len())
}

#[derive(Debug, Serialize)]
struct FileReport<'a> {
    chain: &'a AuditReport,
    id: &'a str,
    readable: bool,
    groups: Vec<GroupReport<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupReport<'a> {
    /// What the pieces are: `segment 0`, `manifest part 0`, or nothing known.
    pub(super) what: String,
    /// Whether the group's name commits to exactly these pieces; unknown when some are missing.
    pub(super) root_matches: Option<bool>,
    #[serde(flatten)]
    group: &'a GroupAudit,
}

fn file(args: FileArgs, context: &Context) -> Result<(), CliError> {
    let mut audit = FileAudit::default();
    let (path, replay) = replayed(args.source.from, args.source.chain_id, context, &mut audit)?;
    let broken =
        |e: chain_lite::error::StoreError| CliError::caused(Class::BadData, path.display(), &e);
    let deals = audit::deals(&replay.state).map_err(broken)?;
    let chosen = Chosen::find(&args.id, &deals).ok_or_else(|| {
        CliError::new(Class::Input, format!("no deal on this chain belongs to {:?}", args.id))
            .hint("give an object id from `holdfast ls`, a deal group's root or a deal id; a newer export may hold it")
    })?;
    audit
        .close(&replay.state, &|id, deal| chosen.has(id, deal))
        .map_err(broken)?;
    let report = FileReport {
        chain: &replay.report,
        id: &args.id,
        readable: audit.readable(),
        groups: reports(&audit),
    };
    context.out.result(&report, file_text)?;
    judged(&path, &replay.report)?;
    if let Some(group) = report.groups.iter().find(|g| g.root_matches == Some(false)) {
        let message = format!(
            "the deals of {} are not the pieces that their group {} commits to",
            group.what, group.group.file_root
        );
        return Err(CliError::new(Class::BadData, message));
    }
    Ok(())
}

/// The groups, with what their labels say of them.
pub(super) fn reports(audit: &FileAudit) -> Vec<GroupReport<'_>> {
    let groups = audit.groups.iter().map(|group| GroupReport {
        what: what(group),
        root_matches: root_matches(group),
        group,
    });
    groups.collect()
}

/// Which deals are meant.
pub(super) enum Chosen {
    /// All that a client's labels tie to one object.
    Object {
        client: chain_lite::account::Address,
        object: ObjectId,
        tag: String,
    },
    /// One group of a client's.
    Group {
        client: chain_lite::account::Address,
        root: chain_lite::account::Blake3Root,
    },
}

impl Chosen {
    pub(super) fn find(id: &str, deals: &[(DealId, Deal)]) -> Option<Self> {
        let id = id.trim().to_ascii_lowercase();
        if let Ok(object) = id.parse::<ObjectId>() {
            let of_object = deals
                .iter()
                .find_map(|(_, deal)| match deal.proposal.label.parse() {
                    Ok(Label::Manifest {
                        object: o,
                        file_tag,
                        ..
                    }) if o == object => Some(Self::Object {
                        client: deal.proposal.client,
                        object,
                        tag: file_tag.to_string(),
                    }),
                    _ => None,
                });
            if of_object.is_some() {
                return of_object;
            }
        }
        let mine = |(deal_id, deal): &&(DealId, Deal)| {
            deal_id.to_string() == id || deal.proposal.group.file_root.to_string() == id
        };
        deals.iter().find(mine).map(|(_, deal)| Self::Group {
            client: deal.proposal.client,
            root: deal.proposal.group.file_root,
        })
    }

    pub(super) fn has(&self, _: &DealId, deal: &Deal) -> bool {
        match self {
            // Roots and labels are the client's words: another client's deals with the same words are not this file.
            Self::Group { client, root } => {
                deal.proposal.client == *client && deal.proposal.group.file_root == *root
            }
            Self::Object {
                client,
                object,
                tag,
            } => {
                deal.proposal.client == *client
                    && match deal.proposal.label.parse() {
                        Ok(Label::Manifest { object: o, .. }) => o == *object,
                        Ok(Label::Data { file_tag, .. }) => file_tag.to_string() == *tag,
                        Err(()) => false,
                    }
            }
        }
    }
}

fn what(group: &GroupAudit) -> String {
    match group.pieces.first().and_then(|p| p.label.parse().ok()) {
        Some(Label::Data { segment, .. }) => format!("segment {segment}"),
        Some(Label::Manifest { part, .. }) => format!("manifest part {part}"),
        None => "a group of pieces".into(),
    }
}

/// Recomputes a group's public commitment from its deals: a segment's from its n shards, a manifest part's from n times the one
/// copy that every holder has. Unknown while a shard has no deal. Deals that contradict one another cannot all be what the root
/// commits to, so that is a mismatch.
fn root_matches(group: &GroupAudit) -> Option<bool> {
    let mut shards = BTreeMap::new();
    let mut copies = BTreeSet::new();
    let mut lengths = BTreeSet::new();
    for piece in &group.pieces {
        let roots = (piece.comm_p.0, piece.blake3_root.0);
        match piece.label.parse() {
            Ok(Label::Data { shard, bytes, .. }) => {
                lengths.insert(bytes);
                if *shards.entry(shard).or_insert(roots) != roots {
                    return Some(false);
                }
            }
            Ok(Label::Manifest { bytes, .. }) => {
                lengths.insert(bytes);
                copies.insert(roots);
            }
            Err(()) => return None,
        }
    }
    let len = lengths.pop_first()?;
    let copy = copies.pop_first();
    if !lengths.is_empty() || !copies.is_empty() || (copy.is_some() && !shards.is_empty()) {
        return Some(false);
    }
    let committed: Vec<_> = match copy {
        Some(copy) => vec![copy; usize::from(group.n)],
        None if shards.keys().copied().eq(0..group.n) => shards.into_values().collect(),
        None => return None,
    };
    Some(segment_root(group.k, len, &committed) == group.file_root.0)
}

fn file_text(report: &FileReport<'_>) -> String {
    let mut text = format!("file {}\n", report.id);
    text.push_str(&groups_text(&report.groups));
    text.push_str(match report.readable {
        true => "readable from proven sectors\n",
        false => "NOT readable from proven sectors now (pieces may still be waiting for their first proof)\n",
    });
    text.push_str(&chain_line(report.chain));
    text
}

pub(super) fn groups_text(groups: &[GroupReport<'_>]) -> String {
    let mut text = String::new();
    for group in groups {
        let checked = match group.root_matches {
            Some(true) => ", commitment matches its deals",
            Some(false) => ", COMMITMENT DOES NOT MATCH its deals",
            None => "",
        };
        let g = group.group;
        text.push_str(&format!(
            "{}: {} of {} pieces proven, {} needed{checked}\n",
            group.what, g.healthy, g.n, g.k
        ));
        for piece in &g.pieces {
            text.push_str(&format!("  {}\n", piece_text(piece)));
        }
    }
    text
}

fn piece_text(piece: &PieceAudit) -> String {
    let sector = match &piece.sector {
        Some(sector) => format!("sector {} {:?}", sector.number, sector.status),
        None => "in no sector yet".into(),
    };
    let proof = match piece.last_proof {
        Some(last) => format!(
            "last proof in epoch {} ({} in all)",
            last.epoch.0, last.count
        ),
        None => "never proven".into(),
    };
    format!(
        "provider {}  deal {:?}  {sector}  {proof}  paid {}",
        piece.provider, piece.status, piece.paid
    )
}

fn chain(args: Chain, context: &Context) -> Result<(), CliError> {
    let (path, replay) = replayed(args.file, args.chain_id, context, &mut |_: &Replayed<
        '_,
    >| ())?;
    context.out.result(&replay.report, report_text)?;
    judged(&path, &replay.report)
}

fn report_text(r: &AuditReport) -> String {
    let mut text = format!(
        "chain      {} ({:?}, {:?})\n",
        r.chain_id, r.chain_name, r.kind
    );
    if r.insecure_keys {
        text.push_str("keys       INSECURE: made locally from a published seed; anybody can forge proofs of this network\n");
    }
    text.push_str(&format!(
        "blocks     {} up to epoch {}, {} transactions ({} failed)\n",
        r.blocks, r.epoch.0, r.txs, r.txs_failed
    ));
    text.push_str(&format!(
        "proofs     {} verified again, {} rejected as on chain\n",
        r.proofs_verified, r.proofs_rejected
    ));
    text.push_str(&format!(
        "beacon     {} rounds verified\n",
        r.beacons_verified
    ));
    text.push_str(&format!("faults     {}\n", r.faults));
    text.push_str(&format!(
        "supply     {}\n",
        if r.supply_ok {
            "every unit accounted for after every block"
        } else {
            "DOES NOT ADD UP"
        }
    ));
    text.push_str(&format!("state      {}\n", ::hex::encode(r.state_root)));
    if !r.complete {
        text.push_str(
            "note       the file has no end mark: a block log, or cut; there may be later blocks\n",
        );
    }
    for failure in &r.failures {
        text.push_str(&format!(
            "FAILED     block {}: {}\n",
            failure.height, failure.what
        ));
    }
    text.push_str(if r.ok() {
        "the chain is sound"
    } else {
        "the chain is NOT sound"
    });
    text
}

pub(super) fn chain_line(report: &AuditReport) -> String {
    let verdict = if report.ok() { "sound" } else { "NOT sound" };
    format!(
        "chain      {verdict}: {} blocks replayed, {} proofs verified again",
        report.blocks, report.proofs_verified
    )
}

/// A visitor whose progress a bar shows.
struct Watched<'a> {
    bar: &'a Bar,
    at: u64,
    visitor: &'a mut dyn Visitor,
}

impl Visitor for Watched<'_> {
    fn moment(&mut self, moment: &Moment<'_>) {
        self.visitor.moment(moment);
    }
    fn before(&mut self, facts: &BlockFacts<'_>) {
        self.visitor.before(facts);
    }
    fn block(&mut self, block: &Replayed<'_>) {
        self.bar.advance(block.bytes_read - self.at);
        self.at = block.bytes_read;
        self.visitor.block(block);
    }
}

/// Replays with a bar on top of what the command wants to see.
pub(super) fn replayed(
    named: Option<PathBuf>,
    expected: Option<ChainId>,
    context: &Context,
    visitor: &mut dyn Visitor,
) -> Result<(PathBuf, Replay), CliError> {
    let path = chain_file(named, &context.config)?;
    let total = std::fs::metadata(&path)
        .map_err(|e| CliError::io("cannot read", &path, &e))?
        .len();
    let bar = context.out.bar("replaying the chain", total, Unit::Bytes);
    let mut watched = Watched {
        bar: &bar,
        at: 0,
        visitor,
    };
    let replay = audit::replay(&path, expected, &mut watched);
    bar.finish();
    let replay = replay.map_err(|e| audit_error(&path, e))?;
    Ok((path, replay))
}

/// A chain that does not hold is an error of its own, after the report was printed.
pub(super) fn judged(path: &Path, report: &AuditReport) -> Result<(), CliError> {
    if report.ok() {
        return Ok(());
    }
    let why = match report.failures.first() {
        Some(failure) => format!("block {}: {}", failure.height, failure.what),
        None => "the supply does not add up".into(),
    };
    Err(CliError::new(Class::BadData, format!("{}: {why}", path.display()))
        .hint("try another copy of the file; if that fails too, the chain itself broke its rules and the file is your evidence"))
}

fn read_start(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| CliError::io("cannot read", path, &e))?;
    file.take(64)
        .read_to_end(&mut start)
        .map_err(|e| CliError::io("cannot read", path, &e))?;
    Ok(start)
}

pub(super) fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, CliError> {
    let file = std::fs::File::open(path).map_err(|e| CliError::io("cannot read", path, &e))?;
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| CliError::io("cannot read", path, &e))?;
    if bytes.len() as u64 > max {
        return Err(CliError::new(
            Class::Input,
            format!("{} is longer than {max} bytes", path.display()),
        )
        .hint("name the right file"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use chain_lite::account::{Address, Blake3Root};
    use chain_lite::deal::DealStatus;
    use chain_lite::units::TokenAmount;
    use prover::CommP;

    use super::*;
    use crate::object::manifest::FileTag;

    fn piece(label: Label, byte: u8) -> PieceAudit {
        PieceAudit {
            deal: DealId([0; 32]),
            provider: ProviderId(1000),
            label: label.to_string(),
            comm_p: CommP([byte; 32]),
            blake3_root: Blake3Root([byte; 32]),
            status: DealStatus::Published,
            paid: TokenAmount::ZERO,
            sector: None,
            last_proof: None,
        }
    }

    fn shard(shard: u8, bytes: u64, byte: u8) -> PieceAudit {
        let file_tag = FileTag([7; 16]);
        let segment = 0;
        piece(
            Label::Data {
                file_tag,
                segment,
                shard,
                bytes,
                drawn: None,
            },
            byte,
        )
    }

    fn copy(bytes: u64, byte: u8) -> PieceAudit {
        let label = Label::Manifest {
            object: ObjectId([6; 32]),
            file_tag: FileTag([7; 16]),
            part: 0,
            parts: 1,
            bytes,
            drawn: None,
        };
        piece(label, byte)
    }

    fn group(k: u8, bytes: u64, committed: &[u8], pieces: Vec<PieceAudit>) -> GroupAudit {
        let roots: Vec<_> = committed.iter().map(|b| ([*b; 32], [*b; 32])).collect();
        GroupAudit {
            file_root: Blake3Root(segment_root(k, bytes, &roots)),
            client: Address([1; 32]),
            k,
            n: committed.len() as u8,
            healthy: 0,
            readable: false,
            pieces,
        }
    }

    #[test]
    fn a_segments_root_commits_to_its_shards_and_a_manifests_to_its_copies() {
        let sound = |pieces| root_matches(&group(2, 100, &[1, 2, 3], pieces));
        let (a, b, c) = (shard(0, 100, 1), shard(1, 100, 2), shard(2, 100, 3));
        // A repaired shard has two deals for the same roots.
        let repaired = vec![c.clone(), a.clone(), b.clone(), a.clone()];
        assert_eq!(sound(repaired), Some(true));
        assert_eq!(
            sound(vec![a.clone(), b.clone()]),
            None,
            "a shard is missing"
        );
        let swapped = vec![shard(0, 100, 2), shard(1, 100, 1), c.clone()];
        assert_eq!(sound(swapped), Some(false));
        let two_truths = vec![a.clone(), b.clone(), c.clone(), shard(0, 100, 9)];
        assert_eq!(sound(two_truths), Some(false));
        assert_eq!(
            sound(vec![a.clone(), b.clone(), shard(2, 99, 3)]),
            Some(false)
        );

        let copies = |pieces| root_matches(&group(1, 50, &[5, 5, 5, 5], pieces));
        assert_eq!(copies(vec![copy(50, 5); 4]), Some(true));
        assert_eq!(copies(vec![copy(50, 5)]), Some(true), "one copy tells all");
        assert_eq!(copies(vec![copy(50, 5), copy(50, 6)]), Some(false));
        assert_eq!(copies(vec![copy(50, 6); 4]), Some(false));
        assert_eq!(copies(vec![copy(51, 5); 4]), Some(false));
        assert_eq!(copies(vec![copy(50, 5), a]), Some(false));
        let mut odd = copy(50, 5);
        odd.label = "photo".into();
        assert_eq!(copies(vec![odd]), None, "not an object of ours");
    }
}
