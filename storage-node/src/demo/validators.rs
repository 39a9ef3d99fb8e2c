//! The steps that only a chain of several validators has: it is found, loses one and gets it back, and shows an object in one file.
//!
//! Walk: [`found`] after the start; [`lose_one`] once the file is stored, while providers seal; [`bundle`] after the cheat was
//! charged; [`agree`] last. Nothing here is told by the processes' owner: every height and root is asked over each validator's
//! own JSON-RPC, and the bundle is collected from the validator that was away, which nobody has to believe.

use std::fs;
use std::time::{Duration, Instant};

use chain_lite::block::BlockId;
use chain_lite::bundle::{Anchor, Bundle};
use chain_lite::certificate::{Certificate, ValidatorId};
use chain_lite::merkle::Hash;
use rand::Rng;
use tokio::task::spawn_blocking;

use super::report::{BundleReport, KilledReport, NodeReport, RefusedReport, ValidatorsReport};
use super::{DemoError, story};
use crate::chain::ChainClient;
use crate::cli::bundle::{gather, sentences};
use crate::cli::output::{Output, human_bytes};
use crate::client::journal::replace;
use crate::client::put::Stored;
use crate::config::Home;
use crate::devnet::Devnet;

/// Blocks that the chain makes without the validator that was killed, before that is started again.
const BLOCKS_WITHOUT: u64 = 8;
/// Pause between two questions to a node.
const LOOK: Duration = Duration::from_millis(100);
/// How often a chain that moves faster than the bundle is collected is asked again.
const BUNDLE_TRIES: u32 = 5;
/// The bundle's name in the demo's folder.
const BUNDLE_FILE: &str = "object.hfa";

/// One validator, as anybody meets it.
struct Node {
    number: usize,
    pid: u32,
    chain: ChainClient,
}

/// Where all stood: one block, at each of them the same.
struct Agreed {
    height: u64,
    block: BlockId,
    state_root: Hash,
    nodes: Vec<NodeReport>,
}

async fn nodes(step: &'static str, devnet: &Devnet) -> Result<Vec<Node>, DemoError> {
    let mut nodes = vec![Node {
        number: 1,
        pid: std::process::id(),
        chain: devnet.chain().clone(),
    }];
    for fellow in devnet.fellows() {
        let chain = until(step, async || {
            ChainClient::connect(&fellow.chain_url).await.ok()
        });
        nodes.push(Node {
            number: fellow.number,
            pid: fellow.pid.unwrap_or(0),
            chain: chain.await?,
        });
    }
    Ok(nodes)
}

/// Asks until there is an answer, but not for ever.
async fn until<T>(step: &'static str, ask: impl AsyncFn() -> Option<T>) -> Result<T, DemoError> {
    story::patient(step, async {
        loop {
            if let Some(answer) = ask().await {
                return Some(answer);
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
}

/// The node's newest height once it is at least `height`. A node that starts does not answer yet.
async fn reached(step: &'static str, chain: &ChainClient, height: u64) -> Result<u64, DemoError> {
    let ask = async || chain.head().await.ok().map(|head| head.height);
    until(step, async || ask().await.filter(|at| *at >= height)).await
}

/// Waits until every node has block `height`, and compares what they say of it.
async fn same(step: &'static str, nodes: &[Node], height: u64) -> Result<Agreed, DemoError> {
    let mut first: Option<(BlockId, Hash)> = None;
    let mut reports = Vec::new();
    for node in nodes {
        let newest = reached(step, &node.chain, height).await?;
        let block = node.chain.light_block(Some(height)).await;
        let header = block
            .map_err(DemoError::at(step))?
            .ok_or(DemoError::DoesNotHold {
                step,
                what: format!("validator {} does not show block {height}", node.number),
            })?
            .header;
        let found = (header.id(), header.prev_state_root);
        if *first.get_or_insert(found) != found {
            return Err(DemoError::DoesNotHold {
                step,
                what: format!(
                    "validator {} has another block {height} than the others",
                    node.number
                ),
            });
        }
        reports.push(NodeReport {
            number: node.number,
            pid: node.pid,
            height: newest,
        });
    }
    let (block, state_root) = first.ok_or(DemoError::DoesNotHold {
        step,
        what: "there is no validator".to_owned(),
    })?;
    Ok(Agreed {
        height,
        block,
        state_root,
        nodes: reports,
    })
}

/// Every validator answers, has the same first block and knows all the others.
pub async fn found(devnet: &Devnet, out: &Output) -> Result<(), DemoError> {
    let step = "finding the validators";
    let nodes = nodes(step, devnet).await?;
    for node in &nodes {
        let set = node.chain.validators().await.map_err(DemoError::at(step))?;
        if set.len() != nodes.len() {
            return Err(DemoError::DoesNotHold {
                step,
                what: format!(
                    "validator {} knows {} of {}",
                    node.number,
                    set.len(),
                    nodes.len()
                ),
            });
        }
    }
    let agreed = same(step, &nodes, 1).await?;
    for node in &nodes {
        let url = node.chain.url();
        out.say(format_args!(
            "  validator {}: process {}, {url}",
            node.number, node.pid
        ));
    }
    out.say(format_args!(
        "All {} have the same first block, {}; a block is final when more than two thirds of them have signed it.",
        nodes.len(),
        agreed.block
    ));
    Ok(())
}

/// Kills the last validator, lets the chain go on without it, starts it again and waits until it votes.
pub async fn lose_one(devnet: &mut Devnet, out: &Output) -> Result<KilledReport, DemoError> {
    let step = "losing a validator";
    let fellow = devnet.fellows().pop().ok_or(DemoError::DoesNotHold {
        step,
        what: "there is none in a process of its own".to_owned(),
    })?;
    let (number, killed_pid) = (fellow.number, fellow.pid.unwrap_or(0));
    devnet.kill_validator(number).map_err(DemoError::at(step))?;
    let killed_height = devnet.ledger().tip().height;
    out.say(format_args!(
        "Validator {number}, process {killed_pid}, is killed (SIGKILL) at block {killed_height}."
    ));
    let went_on = reached(step, devnet.chain(), killed_height + BLOCKS_WITHOUT).await?;
    if ChainClient::connect(&fellow.chain_url).await.is_ok() {
        return Err(DemoError::DoesNotHold {
            step,
            what: format!("validator {number} was killed and still answers"),
        });
    }
    out.say(format_args!(
        "The chain went on without it to block {went_on}; it is started again."
    ));

    let step = "rejoining";
    let begun = Instant::now();
    devnet
        .start_validator(number)
        .map_err(DemoError::at(step))?;
    let nodes = nodes(step, devnet).await?;
    let height = devnet.ledger().tip().height;
    let agreed = same(step, &nodes, height).await?;
    let seconds = begun.elapsed().as_secs_f64();
    out.say(format_args!(
        "It fetched what it missed in {seconds:.1} s: block {height} is {} and the state {} at all {}.",
        agreed.block,
        hex::encode(agreed.state_root),
        nodes.len()
    ));
    let voted_height = voted(step, devnet, fellow.id, height).await?;
    out.say(format_args!(
        "It votes again: its signature is on block {voted_height}."
    ));
    let pid = nodes.iter().find(|node| node.number == number);
    Ok(KilledReport {
        number,
        killed_pid,
        killed_height,
        without_it_height: went_on,
        pid: pid.map_or(0, |node| node.pid),
        rejoined_height: height,
        block: agreed.block,
        state_root: hex::encode(agreed.state_root),
        seconds,
        voted_height,
    })
}

/// The first block after `height` that this validator signed. A certificate need not name all who voted, so some are passed over.
async fn voted(
    step: &'static str,
    devnet: &Devnet,
    id: ValidatorId,
    mut height: u64,
) -> Result<u64, DemoError> {
    loop {
        height += 1;
        reached(step, devnet.chain(), height).await?;
        let block = devnet.ledger().block(height).map_err(DemoError::at(step))?;
        let Certificate::Ed25519V1 { sigs, .. } = &block.certificate;
        if sigs.iter().any(|(signer, _)| *signer == id) {
            return Ok(height);
        }
    }
}

/// All validators at the newest block, for the report.
pub async fn agree(devnet: &Devnet, killed: KilledReport) -> Result<ValidatorsReport, DemoError> {
    let step = "comparing the validators";
    let height = devnet.ledger().tip().height;
    let agreed = same(step, &nodes(step, devnet).await?, height).await?;
    Ok(ValidatorsReport {
        nodes: agreed.nodes,
        height: agreed.height,
        block: agreed.block,
        state_root: hex::encode(agreed.state_root),
        killed,
    })
}

/// Collects the object's audit bundle from validator `from`, and lets an auditor verify the file, who has it and the chain's id.
pub async fn bundle(
    devnet: &Devnet,
    home: &Home,
    stored: &Stored,
    from: usize,
    out: &Output,
) -> Result<BundleReport, DemoError> {
    let step = "the audit bundle";
    let mut all = nodes(step, devnet).await?.into_iter();
    let node = all
        .find(|node| node.number == from)
        .ok_or(DemoError::DoesNotHold {
            step,
            what: format!("there is no validator {from}"),
        })?;
    let anchor = Anchor {
        chain_id: Some(devnet.chain().chain_id()),
        checkpoint: None,
    };
    let object = stored.object.to_string();
    let mut tries = 0;
    let collected = loop {
        tries += 1;
        match gather(&node.chain, &object, None, true, &anchor).await {
            Err(error) if tries < BUNDLE_TRIES => {
                tracing::info!(%error, "the bundle is collected again");
            }
            done => break done.map_err(DemoError::at(step))?,
        }
    };
    let path = home.root().join(BUNDLE_FILE);
    replace(&path, &collected).map_err(DemoError::at(step))?;
    out.say(format_args!(
        "Everything about the object is in one file, {} ({}), collected from validator {from}. An auditor with this file and the chain's id, and no network, finds:",
        path.display(),
        human_bytes(collected.len() as u64)
    ));

    let file = path.clone();
    let work = move || -> Result<_, String> {
        let bytes = fs::read(&file).map_err(|e| e.to_string())?;
        let begun = Instant::now();
        let checks = sentences(&bytes, &anchor).map_err(|e| e.to_string())?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok((checks, seconds, refusals(&bytes, &anchor)?))
    };
    let (checks, seconds, refused) = spawn_blocking(work)
        .await
        .map_err(DemoError::at(step))?
        .map_err(|what| DemoError::DoesNotHold { step, what })?;
    for check in &checks {
        out.say(format_args!("  ok  {:<12} {}", check.what, check.says));
    }
    for refused in &refused {
        out.say(format_args!(
            "  {}: refused, {}",
            refused.changed, refused.why
        ));
    }
    Ok(BundleReport {
        file: path,
        bytes: collected.len() as u64,
        checks,
        seconds,
        refused,
    })
}

/// Changes the file twice, once like an accident and once like a liar, who makes its digest fit again. Both must be refused.
fn refusals(bytes: &[u8], anchor: &Anchor) -> Result<Vec<RefusedReport>, String> {
    let at = rand::thread_rng().gen_range(0..bytes.len());
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1;
    let mut forged = Bundle::from_bytes(bytes).map_err(|e| e.to_string())?;
    let last = forged
        .leaves
        .iter_mut()
        .rev()
        .find_map(|leaf| leaf.value.as_mut()?.last_mut());
    *last.ok_or("the bundle shows no state")? ^= 1;
    let forged = forged.to_bytes().map_err(|e| e.to_string())?;
    let cases = [
        (format!("byte {at} with one bit flipped"), flipped),
        (
            "a fact of the state changed and the digest made to fit".to_owned(),
            forged,
        ),
    ];
    let refuse = |(changed, bytes): (String, Vec<u8>)| match sentences(&bytes, anchor) {
        Ok(_) => Err(format!("{changed}: the file is still believed")),
        Err(why) => Ok(RefusedReport {
            changed,
            why: why.to_string(),
        }),
    };
    cases.into_iter().map(refuse).collect()
}
