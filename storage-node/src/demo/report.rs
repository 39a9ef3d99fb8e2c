//! What the demo found: every figure of the run, for people and as JSON.
//!
//! Walk: made by [`super::story`] at the end of the walk, after the audit. The JSON's keys are a promise: `.ci/run` and
//! `tests/walk.rs` read them. Amounts are decimal strings, roots lower-case hex, times seconds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chain_lite::account::{Address, DealId, ProviderId};
use chain_lite::block::BlockId;
use chain_lite::bundle::Check;
use chain_lite::units::{Epoch, TokenAmount};
use prover::{CommD, CommR, SectorNumber};
use serde::Serialize;

use crate::kernels::Kernels;

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Size of the file that was stored.
    pub file_bytes: u64,
    /// Its SHA-256, lower-case hex.
    pub file_sha256: String,
    /// The id that finds it again.
    pub object: String,
    /// Shards that are enough.
    pub k: u16,
    /// Shards that may be lost.
    pub m: u16,
    /// The chain's registered proof type, for example `8MiB V1_1`.
    pub seal_proof: String,
    /// Everybody who stored.
    pub providers: Vec<ProviderReport>,
    /// Every sector that was proven.
    pub sectors: Vec<SectorReport>,
    /// Every deal.
    pub deals: Vec<DealReport>,
    /// WindowPoSt proofs accepted on chain.
    pub window_posts: u64,
    /// Byte ranges that were read back on their own and compared.
    pub ranges_verified: u64,
    /// Whether the file came back equal, byte for byte, with `m` providers stopped.
    pub restored_equal: bool,
    /// The damage and what followed.
    pub fault: FaultReport,
    /// What the auditor found.
    pub audit: AuditSummary,
    /// The client's money.
    pub client: ClientReport,
    /// The validators, where the chain has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validators: Option<ValidatorsReport>,
    /// The object's audit bundle, where the chain has several validators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleReport>,
    /// Which code made the proofs.
    pub kernels: Kernels,
    /// Seconds by phase, in the order of the story.
    pub seconds: BTreeMap<&'static str, f64>,
    /// Largest resident memory of this process, in bytes, where the platform tells.
    pub peak_memory_bytes: Option<u64>,
    /// All of it, keys included.
    pub seconds_total: f64,
}

/// One provider at the end of the run.
#[derive(Clone, Debug, Serialize)]
pub struct ProviderReport {
    /// Its id on chain.
    pub id: ProviderId,
    /// Who owns it.
    pub owner: Address,
    /// Where it served reads.
    pub endpoint: String,
    /// WindowPoSt proofs of its own that the chain accepted.
    pub window_posts: u64,
    /// Rewards it claimed.
    pub rewarded: TokenAmount,
    /// Its share of deal payments.
    pub deals_paid: TokenAmount,
    /// What it was charged.
    pub charged: TokenAmount,
    /// Its balance on chain.
    pub balance: TokenAmount,
}

/// One proven sector.
#[derive(Clone, Debug, Serialize)]
pub struct SectorReport {
    /// Whose.
    pub provider: ProviderId,
    /// Which.
    pub number: SectorNumber,
    /// Its size in bytes.
    pub sector_size: u64,
    /// The data's root.
    pub comm_d: CommD,
    /// The replica's root.
    pub comm_r: CommR,
    /// Time by stage.
    pub seconds: StageSeconds,
}

/// Time of the four sealing stages, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StageSeconds {
    /// Labels and TreeD.
    pub pc1: f64,
    /// Columns, encoding, TreeC and TreeR.
    pub pc2: f64,
    /// Vanilla proofs.
    pub c1: f64,
    /// Groth16.
    pub c2: f64,
}

/// One deal at the end of the run.
#[derive(Clone, Debug, Serialize)]
pub struct DealReport {
    /// Its id.
    pub id: DealId,
    /// Who stores.
    pub provider: ProviderId,
    /// Its piece's CommP, hex.
    pub piece: String,
    /// Padded size of the piece.
    pub piece_bytes: u64,
    /// What the client put aside for it.
    pub price_total: TokenAmount,
    /// What was paid for proven epochs.
    pub paid: TokenAmount,
    /// What came back to the client for epochs without a proof.
    pub refunded: TokenAmount,
}

/// The damaged replica.
#[derive(Clone, Debug, Serialize)]
pub struct FaultReport {
    /// Whose replica was damaged.
    pub provider: ProviderId,
    /// Its sector.
    pub sector: SectorNumber,
    /// The epoch at which the damage was done.
    pub damaged_epoch: Epoch,
    /// The epoch at which the chain knew.
    pub detected_epoch: Epoch,
    /// How it came out: `declared`, `skipped` or `missed`.
    pub found_by: String,
    /// Power that was lost, in bytes.
    pub power_lost: u64,
    /// What it cost.
    pub charged: TokenAmount,
}

/// The auditor's verdict.
#[derive(Clone, Debug, Serialize)]
pub struct AuditSummary {
    /// Blocks replayed.
    pub blocks: u64,
    /// Groth16 proofs verified again.
    pub proofs_verified: u64,
    /// Whether the supply identity held after every block.
    pub supply_ok: bool,
    /// Whether every state root of the replay equals the chain's.
    pub roots_equal: bool,
    /// The final state root, hex.
    pub state_root: String,
}

/// The validators at the end of the run: all had this block.
#[derive(Clone, Debug, Serialize)]
pub struct ValidatorsReport {
    /// Each of them.
    pub nodes: Vec<NodeReport>,
    /// The block's height.
    pub height: u64,
    /// Its id, the same at all.
    pub block: BlockId,
    /// The state root in its header, hex, the same at all.
    pub state_root: String,
    /// The one that was killed and came back.
    pub killed: KilledReport,
}

/// One validator.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Its number; 1 is the demo's own process.
    pub number: usize,
    /// Its process.
    pub pid: u32,
    /// Its newest block, by its own word.
    pub height: u64,
}

/// The validator that was killed, and how it came back.
#[derive(Clone, Debug, Serialize)]
pub struct KilledReport {
    /// Its number.
    pub number: usize,
    /// The process that was killed.
    pub killed_pid: u32,
    /// Where the chain was when it was killed.
    pub killed_height: u64,
    /// Where the others took it, before it was started again.
    pub without_it_height: u64,
    /// The process that it runs in since.
    pub pid: u32,
    /// The newest block when it was started again, which it then had.
    pub rejoined_height: u64,
    /// That block's id, the same at all validators.
    pub block: BlockId,
    /// The state root in that block's header, hex, the same at all.
    pub state_root: String,
    /// Seconds from its start until it had that block.
    pub seconds: f64,
    /// The first block since then that carries its signature.
    pub voted_height: u64,
}

/// The audit bundle of the stored object, as a verifier without a network found it.
#[derive(Clone, Debug, Serialize)]
pub struct BundleReport {
    /// Where it was written; kept with `--keep`.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// What was checked and holds, a sentence each.
    pub checks: Vec<Check>,
    /// Seconds that the verification took.
    pub seconds: f64,
    /// Changed files that were not believed.
    pub refused: Vec<RefusedReport>,
}

/// A changed bundle that was refused.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedReport {
    /// What was changed.
    pub changed: String,
    /// What the verifier said.
    pub why: String,
}

/// The client's money at the end of the run.
#[derive(Clone, Debug, Serialize)]
pub struct ClientReport {
    /// Its address.
    pub address: Address,
    /// Freely usable.
    pub free: TokenAmount,
    /// In the market's escrow.
    pub escrow: TokenAmount,
    /// The part of the escrow that running deals hold.
    pub locked: TokenAmount,
}

impl Report {
    /// The report for people.
    pub fn human(&self) -> String {
        let mut text = String::new();
        let mut line = |s: String| {
            text.push_str(&s);
            text.push('\n');
        };
        line(format!(
            "\n{} bytes, any {} of {} shards restore them, sealed as {}.",
            self.file_bytes,
            self.k,
            self.k + self.m,
            self.seal_proof
        ));
        line(format!("object  {}", self.object));
        for s in &self.sectors {
            line(format!(
                "sector  provider {} number {}: CommR {}  PC1 {:.2} s, PC2 {:.2} s, C1 {:.2} s, C2 {:.1} s",
                s.provider,
                s.number,
                s.comm_r,
                s.seconds.pc1,
                s.seconds.pc2,
                s.seconds.c1,
                s.seconds.c2
            ));
        }
        for p in &self.providers {
            line(format!(
                "provider {}: {} proofs accepted, earned {} tokens in rewards and {} from deals, charged {}",
                p.id,
                p.window_posts,
                p.rewarded.in_tokens(),
                p.deals_paid.in_tokens(),
                p.charged.in_tokens()
            ));
        }
        let f = &self.fault;
        line(format!(
            "fault   provider {} lost the replica of sector {} at epoch {}; the chain knew at epoch {} ({}); charged {} tokens",
            f.provider,
            f.sector,
            f.damaged_epoch,
            f.detected_epoch,
            f.found_by,
            f.charged.in_tokens()
        ));
        let a = &self.audit;
        line(format!(
            "audit   {} blocks replayed, {} proofs verified, supply {}, state root {}",
            a.blocks,
            a.proofs_verified,
            if a.supply_ok {
                "adds up"
            } else {
                "DOES NOT ADD UP"
            },
            a.state_root
        ));
        if let Some(v) = &self.validators {
            let k = &v.killed;
            line(format!(
                "chain   {} validators at block {} {}, state root {}",
                v.nodes.len(),
                v.height,
                v.block,
                v.state_root
            ));
            line(format!(
                "killed  validator {} at block {}; without it the chain went on to {}; started again it had block {} after {:.1} s and signed block {}",
                k.number,
                k.killed_height,
                k.without_it_height,
                k.rejoined_height,
                k.seconds,
                k.voted_height
            ));
        }
        if let Some(b) = &self.bundle {
            line(format!(
                "bundle  {} bytes, {} checks hold, verified offline in {:.2} s; {} changed files refused",
                b.bytes,
                b.checks.len(),
                b.seconds,
                b.refused.len()
            ));
        }
        line(format!("kernels {}", self.kernels));
        for (phase, seconds) in &self.seconds {
            line(format!("time    {phase}: {seconds:.1} s"));
        }
        if let Some(bytes) = self.peak_memory_bytes {
            line(format!("memory  at most {} MiB resident", bytes >> 20));
        }
        line(format!("total   {:.1} s", self.seconds_total));
        text
    }
}
