//! Receipts of reads: what each get says of the providers that it asked, signed by the wallet, for `chain reputation --receipts`.
//!
//! Walk: beside [`super::get`], which tells [`Reads`] what each provider did with each piece, and hands it to [`keep`] at its end. The
//! format and what counts of it are [`chain_lite::reputation::receipt`]'s. Spec: `chain.md` §18.
//!
//! ```text
//! <home>/client/receipts       the newest, appended, up to 8,192 of them (1.6 MB)
//! <home>/client/receipts.old   the 8,192 before those
//! ```
//! A get never fails for its receipts, and waits for the epoch and for the write no longer than [`PATIENCE`] each: one signature for
//! each piece and provider and one write without a sync. A crash may lose the last ones; what it tears off is cut away before the next
//! are appended, and readers ignore it. A second get that appends in the same instant writes none.
//!
//! A provider that brought something and was not given up was fine, also if it was busy or late in between. One that was given up, lied, or
//! brought nothing until another one was asked, was not. One whose bytes were not waited for, because others were quicker, is not spoken of.
//! Who asks cannot tell a provider that is away from a network of its own that is: both are failures here.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use chain_lite::account::{Address, ChainId, NetKey, ProviderId};
use chain_lite::reputation::receipt::{
    HEAD_BYTES, Receipt, SIGNED_BYTES, SignedReceipt, file_head,
};
use chain_lite::units::Epoch;
use prover::CommP;
use retrieval::fetch::ProviderReport;
use tokio::task::JoinHandle;

use super::{Chain, ChainFailure, Client, Network, Now};
use crate::identity::create_private_dir;

/// Receipts in a file before the next one is begun.
const MAX_KEPT: u64 = 8_192;
/// Receipts that one get writes: of a long read, those of its beginning.
const MAX_OF_A_GET: usize = 256;
/// What a finished get waits for the epoch, which it asked for long before, and for the write.
const PATIENCE: Duration = match cfg!(test) {
    false => Duration::from_millis(250),
    // A busy test machine writes them all the same.
    true => Duration::from_secs(60),
};

/// Who may be asked for a piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Who.
    pub(super) provider: ProviderId,
    /// What its endpoint proves.
    pub(super) key: NetKey,
    /// For what.
    pub(super) piece: CommP,
}

/// What one read came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    bytes: u64,
    first_byte: Option<Duration>,
    asked_for: Duration,
    served: bool,
    failed: bool,
    lied: bool,
}

impl Outcome {
    /// Another address of the same provider: what one brings makes good what the other did not, and their times add up.
    fn add(&mut self, part: &ProviderReport) {
        self.bytes += part.bytes;
        self.first_byte = match (self.first_byte, part.first_byte) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.asked_for += part.asked_for;
        self.served |= part.units > 0 && !part.lost;
        self.failed |= part.lost || part.late > 0 || !part.failures.is_empty();
        self.lied |= part.lied;
    }

    /// Nothing is said of who was not asked, or not waited for.
    fn is_telling(&self) -> bool {
        self.served || self.failed || self.lied
    }

    fn receipt(&self, chain_id: ChainId, client: Address, asked: &Asked, epoch: Epoch) -> Receipt {
        let first = self.first_byte.unwrap_or_default();
        Receipt {
            chain_id,
            client,
            provider: asked.provider,
            piece: asked.piece,
            bytes: self.bytes,
            ttfb_us: micros(first),
            total_us: micros(self.asked_for.max(first)),
            ok: self.served && !self.lied && self.bytes > 0,
            epoch,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What the providers of one get did.
#[derive(Debug, Default)]
pub(super) struct Reads {
    outcomes: Vec<(Asked, Outcome)>,
    /// The newest block's epoch, asked for while the get goes on.
    now: Option<JoinHandle<Result<Now, ChainFailure>>>,
}

impl Reads {
    /// Asks for the epoch. After what the get itself asks of the chain first, which would wait for it.
    pub(super) fn begin<C: Chain>(&mut self, chain: &C) {
        let chain = chain.clone();
        self.now = Some(tokio::spawn(async move { chain.now().await }));
    }

    /// One segment's fetch is over.
    pub(super) fn note(&mut self, asked: &[Asked], parts: &[ProviderReport]) {
        // A provider of two shards of a segment is spoken of once, with the first: a fetch does not tell them apart.
        let mut by_provider: BTreeMap<ProviderId, (Asked, Outcome)> = BTreeMap::new();
        for part in parts {
            let Some(of) = asked.iter().find(|asked| asked.key.0 == part.peer.peer.0) else {
                continue;
            };
            let entry = by_provider.entry(of.provider);
            entry.or_insert((*of, Outcome::default())).1.add(part);
        }
        let room = MAX_OF_A_GET.saturating_sub(self.outcomes.len());
        let telling = by_provider.into_values().filter(|(_, o)| o.is_telling());
        self.outcomes.extend(telling.take(room));
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        if let Some(asking) = &self.now {
            asking.abort();
        }
    }
}

/// Signs and writes a get's receipts. What stands in the way of that is logged, and nothing else comes of it.
pub(super) async fn keep<C: Chain, N: Network>(client: &Client<C, N>, mut reads: Reads) {
    let outcomes = std::mem::take(&mut reads.outcomes);
    let (false, Some(asking)) = (outcomes.is_empty(), &mut reads.now) else {
        return;
    };
    let Ok(Ok(Ok(now))) = tokio::time::timeout(PATIENCE, asking).await else {
        tracing::debug!("no receipts: the chain does not say which epoch it is");
        return;
    };
    let (chain, address) = (client.chain.chain_id(), client.wallet.address());
    let sign = |(asked, outcome): &(Asked, Outcome)| {
        let receipt = outcome.receipt(chain, address, asked, now.epoch);
        receipt.sign(client.wallet.signing_key())
    };
    let receipts: Vec<SignedReceipt> = outcomes.iter().map(sign).collect();
    let (dir, path) = (client.home.client_dir(), client.home.receipts());
    let written = tokio::task::spawn_blocking(move || {
        create_private_dir(&dir)?;
        append(&path, &receipts, MAX_KEPT)
    });
    if let Ok(Ok(Err(error))) = tokio::time::timeout(PATIENCE, written).await {
        let path = client.home.receipts();
        tracing::warn!(%error, path = %path.display(), "the receipts of this get are not kept");
    }
}

/// Appends to the file, behind its last whole record. A full one is put aside first.
fn append(path: &Path, receipts: &[SignedReceipt], max_kept: u64) -> io::Result<()> {
    let Some(mut file) = ours(path)? else {
        return Ok(());
    };
    if file.metadata()?.len() >= HEAD_BYTES as u64 + max_kept * SIGNED_BYTES as u64 {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        std::fs::rename(path, old)?;
        match ours(path)? {
            Some(new) => file = new,
            None => return Ok(()),
        }
    }
    let mut head = Vec::new();
    (&file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + receipts.len() * SIGNED_BYTES);
    if head == file_head() {
        let records = file.metadata()?.len() - HEAD_BYTES as u64;
        let torn = records % SIGNED_BYTES as u64;
        file.set_len(HEAD_BYTES as u64 + records - torn)?;
    } else if file_head().starts_with(&head) {
        // New, or torn while it was.
        file.set_len(0)?;
        bytes.extend(file_head());
    } else {
        let why = "another program's file, or a newer version's: move it away";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    for receipt in receipts {
        bytes.extend(receipt.to_bytes());
    }
    file.write_all(&bytes)
}

/// The file at this path, locked; nothing if another get has it, or has just put it aside.
fn ours(path: &Path) -> io::Result<Option<File>> {
    let file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let there = path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let meta = file.metadata()?;
        if there != Some((meta.dev(), meta.ino())) {
            return Ok(None);
        }
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use chain_lite::reputation::receipt::ReceiptFile;
    use ed25519_dalek::SigningKey;
    use retrieval::{PeerAddr, PeerId};

    use super::*;

    fn signed(n: u64) -> SignedReceipt {
        let receipt = Receipt {
            chain_id: ChainId([1; 32]),
            client: Address([2; 32]),
            provider: ProviderId(n),
            piece: CommP([3; 32]),
            bytes: 4,
            ttfb_us: 5,
            total_us: 6,
            ok: true,
            epoch: Epoch(7),
        };
        receipt.sign(&SigningKey::from_bytes(&[8; 32]))
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let file = ReceiptFile::read(&std::fs::read(path).expect("there")).expect("receipts");
        assert_eq!((file.damaged, file.torn), (0, 0));
        let providers = file.receipts.iter().map(|signed| signed.receipt.provider.0);
        providers.collect()
    }

    #[test]
    fn receipts_are_appended_behind_what_a_crash_tore_and_a_full_file_is_put_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("receipts");
        let whole = HEAD_BYTES + 3 * SIGNED_BYTES;
        append(&path, &[signed(1), signed(2), signed(3)], 4).expect("appends");
        let bytes = std::fs::read(&path).expect("there");
        assert_eq!(bytes.len(), whole);
        for cut in 0..whole {
            std::fs::write(&path, &bytes[..cut]).expect("writes");
            append(&path, &[signed(9)], 4).expect("appends");
            let left = cut.saturating_sub(HEAD_BYTES) / SIGNED_BYTES;
            let expected = [&[1, 2, 3][..left], &[9]].concat();
            assert_eq!(numbers(&path), expected, "cut at {cut}");
        }
        std::fs::write(&path, &bytes).expect("writes");
        append(&path, &[signed(4), signed(5)], 4).expect("appends");
        assert_eq!(numbers(&path), [1, 2, 3, 4, 5]);
        append(&path, &[signed(6)], 4).expect("appends");
        assert_eq!(numbers(&path), [6]);
        assert_eq!(numbers(&dir.path().join("receipts.old")), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_file_of_somebody_else_is_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("receipts");
        for foreign in [&b"a letter to a friend"[..], b"HFRCPT\x02\x00", b"H!"] {
            std::fs::write(&path, foreign).expect("writes");
            assert!(append(&path, &[signed(1)], 4).is_err());
            assert_eq!(std::fs::read(&path).expect("there"), foreign);
        }
        std::fs::remove_file(&path).expect("removes");
        append(&path, &[signed(1)], 4).expect("appends");
        let other = File::open(&path).expect("opens");
        other.lock().expect("locks");
        append(&path, &[signed(2)], 4).expect("says nothing");
        assert_eq!(numbers(&path), [1], "another get is writing");
    }

    #[test]
    fn only_who_was_asked_and_waited_for_is_spoken_of() {
        let report = |units, late, failures: &[&str]| ProviderReport {
            lost: failures.contains(&"reset") || failures.contains(&"lie"),
            peer: PeerAddr {
                peer: PeerId([1; 32]),
                addr: ([127, 0, 0, 1], 1).into(),
            },
            units,
            bytes: u64::from(units) * 100,
            first_byte: (units > 0).then_some(Duration::from_millis(3)),
            asked_for: Duration::from_millis(8),
            late,
            failures: failures.iter().map(|text| (*text).to_owned()).collect(),
            lied: failures.contains(&"lie"),
        };
        let asked = Asked {
            provider: ProviderId(1),
            key: NetKey([1; 32]),
            piece: CommP([3; 32]),
        };
        let of = |parts: &[ProviderReport]| {
            let mut outcome = Outcome::default();
            parts.iter().for_each(|part| outcome.add(part));
            let receipt = outcome.receipt(ChainId([1; 32]), Address([2; 32]), &asked, Epoch(7));
            outcome.is_telling().then_some(receipt)
        };
        let fine = of(&[report(2, 0, &[])]).expect("spoken of");
        let figures = (fine.ok, fine.bytes, fine.ttfb_us, fine.total_us);
        assert_eq!(figures, (true, 200, 3_000, 8_000));
        assert_eq!(of(&[report(0, 0, &[])]), None, "others were quicker");
        let ok = |parts: &[ProviderReport]| of(parts).map(|receipt| receipt.ok);
        assert_eq!(ok(&[report(0, 1, &[])]), Some(false), "silent");
        assert_eq!(ok(&[report(2, 1, &[])]), Some(true), "late once");
        assert_eq!(ok(&[report(1, 0, &["reset"])]), Some(false), "given up");
        assert_eq!(ok(&[report(0, 0, &["busy"])]), Some(false));
        assert_eq!(ok(&[report(1, 0, &["busy"])]), Some(true), "busy at first");
        // One of two addresses serves.
        let two = [report(0, 0, &["unreachable"]), report(2, 0, &[])];
        assert_eq!(ok(&two), Some(true));
        let lied = [report(0, 0, &["lie"]), report(2, 0, &[])];
        assert_eq!(ok(&lied), Some(false));
    }
}
