//! Which objects an account has, from the chain alone: a key file restores everything.
//!
//! Walk: between the chain's deals and [`crate::object::manifest`]. Labels of the account's own signed deals say which deal holds
//! which shard or manifest part; manifests are read from any holder, opened with the wallet, and kept in a local cache
//! (`<home>/client/manifests/<object id>`, sealed; losing it costs one small read).
//!
//! Nothing here is believed without a check: a manifest must open under the wallet's key and hash to the object id; a deal
//! counts as a holder of a shard only if its BLAKE3 root and CommP are those in the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use chain_lite::account::{Address, DealId, ProviderId};
use chain_lite::deal::{Deal, DealStatus};
use chain_lite::units::Epoch;

use super::journal::replace;
use super::{Chain, Client, ClientError, Network, ProviderRecord, piece_key};
use crate::config::Home;
use crate::identity::create_private_dir;
use crate::object::manifest::{
    FileTag, Label, MAX_MANIFEST_BYTES, Manifest, ObjectId, SEAL_OVERHEAD_BYTES, SealedManifest,
};

/// A deal of an object.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its id.
    pub id: DealId,
    /// The chain's record.
    pub deal: Deal,
}

impl Held {
    /// Whether its provider still owes the bytes.
    pub fn is_open(&self) -> bool {
        self.deal.status.is_open()
    }

    /// Its provider.
    pub fn provider(&self) -> ProviderId {
        self.deal.proposal.provider
    }
}

/// An object as its deals describe it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id.
    pub object: ObjectId,
    /// What links its deals.
    pub file_tag: FileTag,
    /// Parts of its sealed manifest.
    pub parts: u32,
    /// Deals by manifest part.
    pub manifest: BTreeMap<u32, Vec<Held>>,
    /// Deals by segment and shard.
    pub data: BTreeMap<(u64, u8), Vec<Held>>,
}

impl Entry {
    /// All its deals.
    pub fn deals(&self) -> impl Iterator<Item = &Held> {
        let manifest = self.manifest.values().flatten();
        manifest.chain(self.data.values().flatten())
    }

    /// Epochs whose beacons drew the holders, as its deals say; none for what an earlier version stored.
    pub fn drawn(&self) -> BTreeSet<Epoch> {
        let labels = self
            .deals()
            .map(|held| held.deal.proposal.label.parse::<Label>());
        labels.filter_map(|label| label.ok()?.drawn()).collect()
    }

    /// Providers with an open deal.
    pub fn providers(&self) -> BTreeSet<ProviderId> {
        let open = self.deals().filter(|held| held.is_open());
        open.map(Held::provider).collect()
    }

    /// Whether open deals cover k shards of each of `segments` segments and every part of the manifest.
    pub fn readable(&self, segments: u64) -> bool {
        let open = |held: &Vec<Held>| held.iter().any(Held::is_open);
        let manifest = (0..self.parts).all(|part| self.manifest.get(&part).is_some_and(open));
        let data = (0..segments).all(|segment| {
            let shards = self.data.range((segment, 0)..=(segment, u8::MAX));
            let held: Vec<_> = shards.filter(|(_, held)| open(held)).collect();
            let k = held
                .iter()
                .flat_map(|(_, held)| held.iter())
                .map(|held| usize::from(held.deal.proposal.group.k))
                .max();
            k.is_some_and(|k| held.len() >= k)
        });
        manifest && data
    }

    /// Providers of a shard according to the chain, best first: sealed, then published, then those whose deal is over.
    pub fn holders(
        &self,
        segment: u64,
        shard: u8,
        comm_p: &[u8; 32],
        blake3_root: &[u8; 32],
    ) -> Vec<ProviderId> {
        let mut held: Vec<&Held> = self
            .data
            .get(&(segment, shard))
            .into_iter()
            .flatten()
            .filter(|held| {
                let proposal = &held.deal.proposal;
                proposal.blake3_root.0 == *blake3_root && proposal.piece_commp.0 == *comm_p
            })
            .collect();
        held.sort_by_key(|held| match held.deal.status {
            DealStatus::Active => 0,
            DealStatus::Published => 1,
            DealStatus::Completed => 2,
            DealStatus::Slashed => 3,
        });
        let mut providers: Vec<_> = held.into_iter().map(Held::provider).collect();
        providers.dedup();
        providers
    }
}

/// Every object of an account that has a manifest on chain, in the order of its first deal's publication.
pub async fn list<C: Chain>(chain: &C, account: &Address) -> Result<Vec<Entry>, ClientError> {
    Ok(entries(chain.deals(account).await?))
}

/// Sorts an account's deals into objects.
fn entries(deals: Vec<(DealId, Deal)>) -> Vec<Entry> {
    let mut data: BTreeMap<FileTag, BTreeMap<(u64, u8), Vec<Held>>> = BTreeMap::new();
    let mut found: BTreeMap<(ObjectId, FileTag), Entry> = BTreeMap::new();
    for (id, deal) in deals {
        let Ok(label) = deal.proposal.label.parse::<Label>() else {
            continue;
        };
        let held = Held { id, deal };
        match label {
            Label::Data {
                file_tag,
                segment,
                shard,
                ..
            } => data
                .entry(file_tag)
                .or_default()
                .entry((segment, shard))
                .or_default()
                .push(held),
            Label::Manifest {
                object,
                file_tag,
                part,
                parts,
                ..
            } => found
                .entry((object, file_tag))
                .or_insert_with(|| Entry {
                    object,
                    file_tag,
                    parts,
                    manifest: BTreeMap::new(),
                    data: BTreeMap::new(),
                })
                .manifest
                .entry(part)
                .or_default()
                .push(held),
        }
    }
    let mut entries: Vec<Entry> = found
        .into_values()
        .map(|mut entry| {
            entry.data = data.remove(&entry.file_tag).unwrap_or_default();
            entry
        })
        .collect();
    entries.sort_by_key(|entry| entry.deals().map(|held| held.deal.published).min());
    entries
}

/// The object whose id starts with `prefix` (at least four hex digits).
pub async fn find<C: Chain, N: Network>(
    client: &Client<C, N>,
    prefix: &str,
) -> Result<Entry, ClientError> {
    let unknown = || ClientError::UnknownObject(prefix.chars().take(70).collect());
    let legal = (4..=64).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_hexdigit());
    if !legal {
        return Err(unknown());
    }
    let wanted = prefix.to_ascii_lowercase();
    let mut matching = list(&client.chain, &client.wallet.address()).await?;
    matching.retain(|entry| entry.object.to_string().starts_with(&wanted));
    match matching.len() {
        0 => Err(unknown()),
        1 => Ok(matching.remove(0)),
        count => Err(ClientError::Ambiguous {
            prefix: prefix.to_owned(),
            count,
        }),
    }
}

/// The manifest of an object: from the local cache, or from any holder of each part.
pub async fn manifest<C: Chain, N: Network>(
    client: &Client<C, N>,
    entry: &Entry,
) -> Result<Manifest, ClientError> {
    Ok(sealed_manifest(client, entry).await?.1)
}

/// The manifest of an object, and its sealed form as it lies with the providers.
pub async fn sealed_manifest<C: Chain, N: Network>(
    client: &Client<C, N>,
    entry: &Entry,
) -> Result<(SealedManifest, Manifest), ClientError> {
    let key = client.wallet.manifest_key();
    if let Some(sealed) = recall(&client.home, &entry.object).map(SealedManifest)
        && let Ok(manifest) = sealed.open(&entry.object, &key)
    {
        return Ok((sealed, manifest));
    }
    let providers = by_id(client.chain.providers().await?);
    let mut sealed = Vec::new();
    for part in 0..entry.parts {
        let bytes = read_part(client, entry, part, &providers).await?;
        if sealed.len() + bytes.len() > MAX_MANIFEST_BYTES + SEAL_OVERHEAD_BYTES {
            return Err(lost(entry, "it is longer than any manifest".into()));
        }
        sealed.extend(bytes);
    }
    let sealed = SealedManifest(sealed);
    let manifest = sealed.open(&entry.object, &key)?;
    remember(&client.home, &entry.object, &sealed.0);
    Ok((sealed, manifest))
}

/// One part of a sealed manifest, from the first holder that serves it.
async fn read_part<C: Chain, N: Network>(
    client: &Client<C, N>,
    entry: &Entry,
    part: u32,
    providers: &BTreeMap<ProviderId, ProviderRecord>,
) -> Result<Vec<u8>, ClientError> {
    let mut reasons = Vec::new();
    let mut holders: Vec<&Held> = entry.manifest.get(&part).into_iter().flatten().collect();
    holders.sort_by_key(|held| !held.is_open());
    for held in holders {
        let proposal = &held.deal.proposal;
        let Ok(Label::Manifest { bytes, .. }) = proposal.label.parse() else {
            continue;
        };
        let Some(record) = providers.get(&proposal.provider) else {
            continue;
        };
        // A label is the account's own word, but it is no reason to allocate more than a piece of that size holds.
        if bytes == 0 || bytes > proposal.piece_size.bytes().min(MAX_MANIFEST_BYTES as u64) {
            continue;
        }
        let key = piece_key(proposal.blake3_root.0, bytes);
        match client.network.read(record, key, 0..bytes).await {
            Ok(read) if read.len() as u64 == bytes => return Ok(read),
            Ok(read) => reasons.push(format!("{} sent {} bytes", proposal.provider, read.len())),
            Err(reason) => reasons.push(format!("{}: {reason}", proposal.provider)),
        }
    }
    if reasons.is_empty() {
        reasons.push(format!("nobody holds part {part}"));
    }
    Err(lost(entry, reasons.join("; ")))
}

fn lost(entry: &Entry, reason: String) -> ClientError {
    ClientError::ManifestLost {
        object: entry.object,
        reason,
    }
}

/// Providers by id.
pub fn by_id(providers: Vec<ProviderRecord>) -> BTreeMap<ProviderId, ProviderRecord> {
    providers
        .into_iter()
        .map(|record| (record.id, record))
        .collect()
}

fn cache_path(home: &Home, object: &ObjectId) -> PathBuf {
    home.client_dir().join("manifests").join(object.to_string())
}

/// Keeps a sealed manifest in the cache. A cache that cannot be written is no error: it saves a read, nothing else.
pub fn remember(home: &Home, object: &ObjectId, sealed: &[u8]) {
    let path = cache_path(home, object);
    let kept = path
        .parent()
        .map_or(Ok(()), create_private_dir)
        .map_err(ClientError::file("create", &path))
        .and_then(|()| replace(&path, sealed));
    if let Err(error) = kept {
        tracing::debug!(%error, "manifest not cached");
    }
}

fn recall(home: &Home, object: &ObjectId) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = (MAX_MANIFEST_BYTES + SEAL_OVERHEAD_BYTES) as u64;
    std::fs::File::open(cache_path(home, object))
        .ok()?
        .take(limit)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}
