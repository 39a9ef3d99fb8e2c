//! What a node shows a light client: light blocks, and short proofs of leaves and receipts out of its ledger.
//!
//! Walk: behind the RPC; the client itself is the crate `holdfast-light`, re-exported here, which knows no ledger.
//! Spec: `consensus.md` §7. Header `h + 1` carries the roots after block `h`, so a fact about block `h` is proven with the header
//! of `h + 1`. Cost: one block and one path read per proof.

use crate::account::ChainId;
use crate::bundle::{Anchor, Bundle};
use crate::certificate::{Validator, ValidatorSet};
use crate::codec;
use crate::ledger::{Ledger, LedgerError};
use crate::merkle::{self, List};

pub use holdfast_light::verify::{
    Leaf, LightBlock, LightClient, LightError, ReceiptBundle, StateBatch, StateBundle, Trusted,
};

/// Most leaves proven in one answer: each is about 1.2 KB.
pub const MAX_BATCH_LEAVES: usize = 2048;

/// The header of `height` as a light block.
pub fn light_block(ledger: &Ledger, height: u64) -> Result<LightBlock, LedgerError> {
    let last = ledger.block(height)?;
    let validators = ledger.validators_at(height)?.validators().to_vec();
    Ok(LightBlock {
        header: last.block.header,
        certificate: last.certificate,
        validators,
    })
}

/// Proves a state leaf under the newest header, which shows the state one block before the tip.
pub fn state_bundle(ledger: &Ledger, key: &[u8]) -> Result<StateBundle, LedgerError> {
    let keys = [key.to_vec()];
    let StateBatch { light, leaves } = state_batch(ledger, None, &keys)?;
    let Leaf { key, value, proof } = leaves.into_iter().next().expect("one for each key");
    Ok(StateBundle {
        light,
        key,
        value,
        proof,
    })
}

/// Proves leaves under the header of `height` (the newest, if none is named), which shows the state one block earlier.
/// Headers older than the kept states, and one whose state was not kept across a start, are [`LedgerError::NoBlock`].
pub fn state_batch(
    ledger: &Ledger,
    height: Option<u64>,
    keys: &[Vec<u8>],
) -> Result<StateBatch, LedgerError> {
    let tip = ledger.tip().height;
    let height = height.unwrap_or(tip);
    let view = height.checked_sub(1).and_then(|h| ledger.view_at(h));
    let Some(view) = view else {
        // Right after genesis or a snapshot only the tip's own state is at hand; the next block makes it provable.
        return Err(LedgerError::NoBlock {
            height: height.max(tip + 1),
            tip,
        });
    };
    let prove = |key: &Vec<u8>| {
        Ok(Leaf {
            key: key.clone(),
            value: crate::state::KvRead::get(&view, key)?,
            proof: view.prove(key)?,
        })
    };
    Ok(StateBatch {
        light: light_block(ledger, height)?,
        leaves: keys.iter().map(prove).collect::<Result<_, LedgerError>>()?,
    })
}

/// Proves a transaction's receipt, once a block after its own is final.
pub fn receipt_bundle(
    ledger: &Ledger,
    tx: &crate::account::TxId,
) -> Result<Option<ReceiptBundle>, LedgerError> {
    let Some((height, index, _)) = ledger.receipt(tx)? else {
        return Ok(None);
    };
    let leaves = ledger.outcomes(height)?.leaves();
    let at = index as usize + 1;
    let light = light_block(ledger, height + 1)?;
    let path = merkle::path(List::Receipts, &leaves, at);
    Ok(path.map(|path| ReceiptBundle {
        light,
        leaf: leaves[at].clone(),
        path,
    }))
}

/// Any bytes as a light client's bundles: refused, or judged without panic, and never believed by a client that trusts another
/// chain. Body of the fuzz target.
pub fn fuzz_bundles(bytes: &[u8]) {
    const MAX: usize = 1 << 20;
    let validator = Validator {
        id: crate::certificate::ValidatorId(SOME_KEY),
        power: 1,
    };
    let Ok(validators) = ValidatorSet::new(vec![validator]) else {
        return;
    };
    let trusted = Trusted::genesis(ChainId([0xee; 32]), 0, validators);
    let mut client = LightClient::new(trusted, u64::MAX);
    if let Ok(bundle) = codec::decode::<StateBundle>(bytes, MAX) {
        assert!(client.check_state(&bundle, 0).is_err());
    }
    if let Ok(bundle) = codec::decode::<ReceiptBundle>(bytes, MAX) {
        assert!(client.check_receipt(&bundle, 0).is_err());
    }
    if let Ok(batch) = codec::decode::<StateBatch>(bytes, MAX) {
        let keys: Vec<_> = batch.leaves.iter().map(|leaf| leaf.key.clone()).collect();
        assert!(batch.check(&keys).is_err() || client.advance(&batch.light, 0).is_err());
    }
    if let Ok(bundle) = Bundle::from_bytes(bytes) {
        assert_eq!(
            bundle.to_bytes().as_ref(),
            Ok(&bytes.to_vec()),
            "one encoding per value"
        );
        let elsewhere = Anchor {
            chain_id: Some(ChainId([0xee; 32])),
            checkpoint: None,
        };
        assert!(bundle.verify(&elsewhere).is_err());
    }
}

/// A usable ed25519 key: the first test vector of RFC 8032. Its secret is public, which does no harm in a fuzz target.
const SOME_KEY: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
    0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockId;
    use crate::certificate::Certificate;
    use crate::ledger::tests::{address, advance, genesis, open, user, validator};
    use crate::state::key;

    const DAY_MS: u64 = 86_400_000;

    fn chain(blocks: u64) -> (tempfile::TempDir, Ledger) {
        let home = tempfile::tempdir().unwrap();
        let ledger = open(home.path(), &genesis(3)).unwrap();
        advance(&ledger, blocks);
        (home, ledger)
    }

    #[test]
    fn follows_adjacent_and_skipping_steps_from_genesis() {
        let (_home, ledger) = chain(6);
        let mut client = LightClient::new(ledger.genesis().trusted(), DAY_MS);
        let now = ledger.tip().time_ms;
        client
            .advance(&light_block(&ledger, 1).unwrap(), now)
            .unwrap();
        client
            .advance(&light_block(&ledger, 2).unwrap(), now)
            .unwrap();
        client
            .advance(&light_block(&ledger, 6).unwrap(), now)
            .unwrap();
        assert_eq!(client.id(), ledger.tip().id);
        assert!(
            client
                .advance(&light_block(&ledger, 3).unwrap(), now)
                .is_err(),
            "never backwards"
        );
        let anchor = light_block(&ledger, 4).unwrap();
        let id = anchor.header.id();
        let mut other = LightClient::from_trusted(ledger.chain_id(), id, &anchor, DAY_MS).unwrap();
        other
            .advance(&light_block(&ledger, 5).unwrap(), now)
            .unwrap();
        assert!(
            LightClient::from_trusted(ledger.chain_id(), BlockId([0; 32]), &anchor, DAY_MS)
                .is_err()
        );
    }

    #[test]
    fn facts_are_proven_and_lies_are_not() {
        let (_home, ledger) = chain(5);
        let now = ledger.tip().time_ms;
        let client = LightClient::new(ledger.genesis().trusted(), DAY_MS);
        let bundle = state_bundle(&ledger, &key::account(&address(0))).unwrap();
        assert!(bundle.value.is_some());
        client.clone().check_state(&bundle, now).unwrap();
        let mut lie = bundle.clone();
        lie.value.as_mut().unwrap()[0] ^= 1;
        assert_eq!(
            client.clone().check_state(&lie, now),
            Err(LightError::Proof)
        );
        let absent = state_bundle(&ledger, &key::account(&address(77))).unwrap();
        assert_eq!(absent.value, None);
        client.clone().check_state(&absent, now).unwrap();
        let tx = ledger.committed(3).unwrap().outcomes.receipts[1].tx;
        let receipt = receipt_bundle(&ledger, &tx).unwrap().unwrap();
        client.clone().check_receipt(&receipt, now).unwrap();
        let mut lie = receipt.clone();
        lie.path.index += 1;
        assert_eq!(
            client.clone().check_receipt(&lie, now),
            Err(LightError::Proof)
        );
        let keys = [key::account(&address(0)), key::account(&address(77))];
        let batch = state_batch(&ledger, None, &keys).unwrap();
        batch.check(&keys).unwrap();
        let mut swapped = batch.clone();
        swapped.leaves.swap(0, 1);
        assert_eq!(swapped.check(&keys), Err(LightError::Proof));
        let mut short = batch.clone();
        short.leaves.pop();
        assert_eq!(short.check(&keys), Err(LightError::Proof));
        let mut lie = batch;
        lie.leaves[1].value = lie.leaves[0].value.clone();
        assert_eq!(lie.check(&keys), Err(LightError::Proof));
        // Older states are shown too, while they are kept, and are older.
        let older = state_batch(&ledger, Some(4), &keys).unwrap();
        older.check(&keys).unwrap();
        assert_eq!(older.light.header.height, 4);
        for height in [0, 6, u64::MAX] {
            assert!(matches!(
                state_batch(&ledger, Some(height), &keys),
                Err(LedgerError::NoBlock { .. })
            ));
        }
        let bytes = bundle.to_bytes();
        assert_eq!(
            codec::decode::<StateBundle>(&bytes, 1 << 16).unwrap(),
            bundle
        );
    }

    #[test]
    fn every_leaf_and_many_absences_are_proven_over_the_wire() {
        use crate::state::KvRead;
        let (_home, ledger) = chain(5);
        let view = ledger.view();
        let all = view.range(&[0], &[0x80], 10_000).unwrap();
        let mut keys: Vec<Vec<u8>> = all.into_iter().map(|(key, _)| key).collect();
        assert!(keys.len() > 8);
        keys.extend((0..300).map(|n| key::market(&address(n + 1_000))));
        keys.extend((0..80).map(|n| key::beacon(crate::units::Epoch(n))));
        let (_other, later) = chain(60);
        let newest = (45..=60).map(|height| (&later, height));
        for (ledger, height) in (1..=5).map(|height| (&ledger, height)).chain(newest) {
            let batch = state_batch(ledger, Some(height), &keys).unwrap();
            let bytes = codec::encode(&batch);
            let batch: StateBatch = codec::decode(&bytes, 1 << 24).unwrap();
            let root = batch.light.header.prev_state_root;
            let bad: Vec<_> = batch.leaves.iter().filter(|l| !l.holds(&root)).collect();
            assert!(bad.is_empty(), "height {height}: {bad:?}");
        }
    }

    #[test]
    fn tm_v12_old_trust_other_validators_and_forks_are_refused() {
        let (_home, ledger) = chain(4);
        let now = ledger.tip().time_ms;
        let second = light_block(&ledger, 2).unwrap();
        let fresh = LightClient::new(ledger.genesis().trusted(), DAY_MS);
        assert_eq!(
            fresh.clone().advance(&second, now + 2 * DAY_MS),
            Err(LightError::Expired)
        );
        // A block signed by somebody else's set, far ahead.
        let mut forged = second.clone();
        forged.validators = vec![Validator {
            id: crate::certificate::ValidatorId(user(9).verifying_key().to_bytes()),
            power: 1,
        }];
        forged.header.validators_hash =
            ValidatorSet::new(forged.validators.clone()).unwrap().hash();
        forged.header.height = 3;
        forged.certificate = Certificate::solo(&ledger.chain_id(), 3, forged.header.id(), &user(9));
        assert_eq!(
            fresh.clone().advance(&forged, now),
            Err(LightError::TooFar {
                signed: 0,
                total: 1
            })
        );
        forged.header.height = 1;
        forged.header.parent_id = fresh.id();
        forged.certificate = Certificate::solo(&ledger.chain_id(), 1, forged.header.id(), &user(9));
        assert!(matches!(
            fresh.clone().advance(&forged, now),
            Err(LightError::Header {
                field: "validators",
                ..
            })
        ));
        // Two blocks of one height, both signed: evidence.
        let mut client = fresh.clone();
        client
            .advance(&light_block(&ledger, 1).unwrap(), now)
            .unwrap();
        client.advance(&second, now).unwrap();
        let mut twin = second.clone();
        twin.header.time_ms += 1;
        twin.certificate = Certificate::solo(&ledger.chain_id(), 2, twin.header.id(), &validator());
        assert!(matches!(
            client.advance(&twin, now),
            Err(LightError::Fork { height: 2, .. })
        ));
        let other = ChainId([9; 32]);
        assert!(LightClient::from_trusted(other, second.header.id(), &second, DAY_MS).is_err());
    }

    #[test]
    fn a_next_block_on_another_parent_is_refused() {
        let (_home, ledger) = chain(2);
        let now = ledger.tip().time_ms;
        let mut client = LightClient::new(ledger.genesis().trusted(), DAY_MS);
        client
            .advance(&light_block(&ledger, 1).unwrap(), now)
            .unwrap();
        let mut stray = light_block(&ledger, 2).unwrap();
        stray.header.parent_id = BlockId([7; 32]);
        stray.certificate =
            Certificate::solo(&ledger.chain_id(), 2, stray.header.id(), &validator());
        assert!(matches!(
            client.advance(&stray, now),
            Err(LightError::Header {
                field: "parent",
                ..
            })
        ));
    }
}
