//! Short Merkle lists: the transaction and receipt roots of a block, and paths into them.
//!
//! Walk: `chain_lite::block` commits to its body with [`root`]; a light client checks one transaction or receipt with
//! [`Path::verify`]. This is the only place that touches `merkle_light`: that crate asserts on fewer than two
//! leaves and duplicates the last odd node, so two different lists could share a root. Here every list is padded
//! to a power of two (at least 2) with *tagged* empty leaves, every leaf carries its index, and the true count is
//! hashed into the root; so a root fixes the list completely (`DESIGN.md` §2).
//!
//! ```text
//! leaf(i)  = SHA-256("holdfast/merkle/leaf/v1"  ‖ tag ‖ i u64be ‖ bytes)
//! empty(i) = SHA-256("holdfast/merkle/empty/v1" ‖ tag ‖ i u64be)
//! inner    = SHA-256(1 ‖ left ‖ right)          (leaves enter as SHA-256(0 ‖ leaf))
//! root     = SHA-256("holdfast/merkle/root/v1"  ‖ tag ‖ count u64be ‖ inner root)
//! ```
//! `tag` is one byte per kind of list, so a receipt can never be shown as a transaction.
//! Cost: 3 hashes a leaf; the whole tree is held (64 bytes a leaf) while it is built.

use std::hash::Hasher;

use borsh::{BorshDeserialize, BorshSerialize};
use merkle_light::hash::Algorithm;
use merkle_light::merkle::MerkleTree;
use merkle_light::proof::Proof;
use sha2::{Digest, Sha256};

/// A 32-byte Merkle root or node.
pub type Hash = [u8; 32];

/// The longest path accepted: 2^32 leaves are far beyond any block.
pub const MAX_PATH: usize = 32;

/// What a list holds; part of every leaf and of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum List {
    /// Beacon entries (leaf 0) and transactions of a block.
    Transactions = 1,
    /// Receipts and block events of a block.
    Receipts = 2,
    /// Shards of an object's manifest.
    Manifest = 3,
}

/// SHA-256 as `merkle_light` wants it; its own leaf (0) and node (1) prefixes stay.
#[derive(Clone, Default)]
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        // Part of the Hasher trait only; the trees read the digest through `Algorithm::hash`.
        let digest = self.0.clone().finalize();
        u64::from_be_bytes(
            digest[..8]
                .try_into()
                .expect("a SHA-256 digest has 32 bytes"),
        )
    }
}

impl Algorithm<Hash> for Sha {
    fn hash(&mut self) -> Hash {
        self.0.clone().finalize().into()
    }
}

/// The root of a list of byte strings; defined for every count, including none and one.
pub fn root<T: AsRef<[u8]>>(list: List, items: &[T]) -> Hash {
    seal(list, items.len() as u64, &tree(list, items).root())
}

/// A path from one item to the root of its list.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Path {
    /// Position of the item in the list.
    pub index: u64,
    /// Number of items in the list.
    pub count: u64,
    /// Siblings from the leaf upwards.
    pub siblings: Vec<Hash>,
}

/// The path of item `index`, or `None` when the list is shorter.
pub fn path<T: AsRef<[u8]>>(list: List, items: &[T], index: usize) -> Option<Path> {
    if index >= items.len() {
        return None;
    }
    let proof = tree(list, items).gen_proof(index);
    let lemma = proof.lemma();
    Some(Path {
        index: index as u64,
        count: items.len() as u64,
        siblings: lemma[1..lemma.len() - 1].to_vec(),
    })
}

impl Path {
    /// Whether `bytes` is item `self.index` of the list of `self.count` items with this `root`.
    ///
    /// Calm on any path: sizes are checked before a hash is computed.
    pub fn verify(&self, list: List, bytes: &[u8], root: &Hash) -> bool {
        let Some(width) = width(self.count) else {
            return false;
        };
        if self.index >= self.count || self.siblings.len() as u32 != width.trailing_zeros() {
            return false;
        }
        let leaf = Sha::default().leaf(leaf(list, self.index, bytes));
        // `Proof` wants leaf, siblings, root, and compares the root it computes with the one we name; ours is
        // sealed with the count, so we fold with the same algorithm and compare after sealing.
        let top = self
            .siblings
            .iter()
            .enumerate()
            .fold(leaf, |below, (level, sibling)| {
                let is_left = (self.index >> level) & 1 == 0;
                if is_left {
                    Sha::default().node(below, *sibling)
                } else {
                    Sha::default().node(*sibling, below)
                }
            });
        let turns = (0..self.siblings.len())
            .map(|level| (self.index >> level) & 1 == 0)
            .collect();
        let lemma = std::iter::once(leaf)
            .chain(self.siblings.iter().copied())
            .chain([top])
            .collect();
        Proof::<Hash>::new(lemma, turns).validate::<Sha>() && seal(list, self.count, &top) == *root
    }
}

/// Leaves after padding; `None` when the count is zero or absurd.
fn width(count: u64) -> Option<u64> {
    if count == 0 || count > 1 << (MAX_PATH - 1) {
        None
    } else {
        Some(count.next_power_of_two().max(2))
    }
}

fn tree<T: AsRef<[u8]>>(list: List, items: &[T]) -> MerkleTree<Hash, Sha> {
    let width = items.len().next_power_of_two().max(2);
    let leaves = (0..width).map(|i| match items.get(i) {
        Some(item) => leaf(list, i as u64, item.as_ref()),
        None => empty(list, i as u64),
    });
    MerkleTree::from_iter(leaves)
}

fn leaf(list: List, index: u64, bytes: &[u8]) -> Hash {
    digest(&[
        b"holdfast/merkle/leaf/v1",
        &[list as u8],
        &index.to_be_bytes(),
        bytes,
    ])
}

fn empty(list: List, index: u64) -> Hash {
    digest(&[
        b"holdfast/merkle/empty/v1",
        &[list as u8],
        &index.to_be_bytes(),
    ])
}

fn seal(list: List, count: u64, top: &Hash) -> Hash {
    digest(&[
        b"holdfast/merkle/root/v1",
        &[list as u8],
        &count.to_be_bytes(),
        top,
    ])
}

/// SHA-256 of the parts in order; the callers' parts are all of fixed length but the last.
pub fn digest(parts: &[&[u8]]) -> Hash {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part);
    }
    sha.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(n: usize) -> Vec<Vec<u8>> {
        (0..n).map(|i| vec![i as u8; i % 5]).collect()
    }

    /// The same definition written the slow way, without the crate.
    fn plain_root(list: List, items: &[Vec<u8>]) -> Hash {
        let width = items.len().next_power_of_two().max(2);
        let mut row: Vec<Hash> = (0..width)
            .map(|i| match items.get(i) {
                Some(b) => leaf(list, i as u64, b),
                None => empty(list, i as u64),
            })
            .map(|l| digest(&[&[0], &l]))
            .collect();
        while row.len() > 1 {
            row = row
                .chunks(2)
                .map(|p| digest(&[&[1], &p[0], &p[1]]))
                .collect();
        }
        seal(list, items.len() as u64, &row[0])
    }

    #[test]
    fn every_count_has_its_own_root_and_agrees_with_the_plain_twin() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..70 {
            let list = items(n);
            let r = root(List::Transactions, &list);
            assert_eq!(r, plain_root(List::Transactions, &list), "{n} items");
            assert!(seen.insert(r), "count {n} shares a root");
            assert!(
                seen.insert(root(List::Receipts, &list)),
                "the kind of list is bound"
            );
        }
    }

    #[test]
    fn the_last_item_is_not_duplicated() {
        let odd = vec![b"a", b"b", b"c"];
        let even = vec![b"a", b"b", b"c", b"c"];
        assert_ne!(
            root(List::Transactions, &odd),
            root(List::Transactions, &even)
        );
        assert_ne!(
            root::<&[u8]>(List::Transactions, &[]),
            root(List::Transactions, &[b""])
        );
    }

    #[test]
    fn paths_verify_and_every_change_is_noticed() {
        for n in [1usize, 2, 3, 5, 8, 33] {
            let list = items(n);
            let r = root(List::Receipts, &list);
            for i in 0..n {
                let p = path(List::Receipts, &list, i).expect("index is inside");
                assert!(p.verify(List::Receipts, &list[i], &r));
                assert!(!p.verify(List::Transactions, &list[i], &r));
                assert!(!p.verify(List::Receipts, b"other", &r));
                let mut wrong = p.clone();
                wrong.count += 1;
                assert!(!wrong.verify(List::Receipts, &list[i], &r));
                let mut wrong = p.clone();
                wrong.index ^= 1;
                assert!(!wrong.verify(List::Receipts, &list[i], &r));
                let mut wrong = p.clone();
                wrong.siblings[0][7] ^= 1;
                assert!(!wrong.verify(List::Receipts, &list[i], &r));
                let mut wrong = p.clone();
                wrong.siblings.pop();
                assert!(!wrong.verify(List::Receipts, &list[i], &r));
            }
            assert!(path(List::Receipts, &list, n).is_none());
        }
    }

    #[test]
    fn tm_n3_absurd_paths_are_refused_calmly() {
        let r = [0; 32];
        for (index, count, len) in [
            (0, 0, 0),
            (0, u64::MAX, 64),
            (5, 5, 3),
            (u64::MAX, 1, 1),
            (0, 1, 0),
            (0, 2, 40),
        ] {
            let p = Path {
                index,
                count,
                siblings: vec![[1; 32]; len],
            };
            assert!(!p.verify(List::Transactions, b"x", &r));
        }
    }
}
