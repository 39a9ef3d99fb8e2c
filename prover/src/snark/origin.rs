//! Who stands for a key: the pinned digests of Filecoin's published files, and the developers' keys.
//!
//! Walk: [`super::keys`] asks before it takes a file that it did not make, and at every opening; a public genesis asks for
//! Filecoin's keys alone. Spec: proofs.md §4.5; threats S1 and S3.
//!
//! The digests are the first 16 bytes of BLAKE2b-512 of each file, as `parameters.json` (version 28) of
//! `filecoin-project/rust-fil-proofs` lists them, under the names of [`CircuitId::filecoin_name`]. Sizes that Filecoin never
//! registered (4, 16, 32 KiB) are not among them.

use super::CircuitId;
use super::dev::{is_dev_key, pinned_vk_sha256};
use super::groth16::CheckedKey;
use crate::spec::SectorSize;

/// Where a verifying key comes from, told by its bytes alone: no record beside a file has a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Made from the published seed: the same on every machine, and anybody can forge proofs under it.
    Developers,
    /// Published by Filecoin. Keys of production sizes are those of its ceremony.
    Filecoin,
    /// Neither; the caller knows its hash from elsewhere (`snark::keys::ParamStore::trusting`).
    Named,
}

impl Origin {
    /// Who stands for this key of the circuit; `None` when nobody does.
    pub fn of(circuit: CircuitId, vk: &CheckedKey) -> Option<Origin> {
        if is_filecoins(circuit, vk.bytes()) {
            return Some(Origin::Filecoin);
        }
        let developers = match pinned_vk_sha256(circuit) {
            // Alpha alone would take a key whose other points are somebody's own.
            Some(pinned) => sha256_hex(vk.bytes()) == pinned,
            None => is_dev_key(circuit, vk),
        };
        developers.then_some(Origin::Developers)
    }
}

/// Digests of one published pair of files, lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Of the `.vk` file.
    pub vk: &'static str,
    /// Of the `.params` file.
    pub params: &'static str,
}

const fn row(circuit: CircuitId, vk: &'static str, params: &'static str) -> (CircuitId, Published) {
    (circuit, Published { vk, params })
}

#[rustfmt::skip]
const PUBLISHED: [(CircuitId, Published); 20] = [
    row(CircuitId::porep(SectorSize::Kib2), "dc1ade9929ade1708238f155343044ac", "434fb1338ecfaf0f59256f30dde4968f"),
    row(CircuitId::porep(SectorSize::Mib8), "b687beb9adbd9dabe265a7e3620813e4", "09e612e4eeb7a0eb95679a88404f960c"),
    row(CircuitId::porep(SectorSize::Mib512), "065179da19fbe515507267677f02823e", "6c77597eb91ab936c1cef4cf19eba1b3"),
    row(CircuitId::porep(SectorSize::Gib32), "0c7b4aac1c40fdb7eb82bc355b41addf", "6a388072a518cf46ebd661f5cc46900a"),
    row(CircuitId::porep(SectorSize::Gib64), "a89884252c04c298d0b3c81bfd884164", "1801f8a6e1b00bceb00cc27314bb5ce3"),
    row(CircuitId::window(SectorSize::Kib2), "0e0958009936b9d5e515ec97b8cb792d", "7610b9f82bfc88405b7a832b651ce2f6"),
    row(CircuitId::window(SectorSize::Mib8), "34d4feeacd9abf788d69ef1bb4d8fd00", "c49499bb76a0762884896f9683403f55"),
    row(CircuitId::window(SectorSize::Mib512), "4dae975de4f011f101f5a2f86d1daaba", "1a7d4a9c8a502a497ed92a54366af33f"),
    row(CircuitId::window(SectorSize::Gib32), "0f8ec542485568fa3468c066e9fed82b", "2cf49eb26f1fee94c85781a390ddb4c8"),
    row(CircuitId::window(SectorSize::Gib64), "59d2bf1857adc59a4f08fcf2afaa916b", "3810b7780ac0e299b22ae70f1f94c9bc"),
    row(CircuitId::winning(SectorSize::Kib2), "ffd79788d614d27919ae5bd2d94eacb6", "82c88066be968bb550a05e30ff6c2413"),
    row(CircuitId::winning(SectorSize::Mib8), "79ebb55f56fda427743e35053edad8fc", "700171ecf7334e3199437c930676af82"),
    row(CircuitId::winning(SectorSize::Mib512), "bd2cd62f65c1ab84f19ca27e97b7c731", "827359440349fe8f5a016e7598993b79"),
    row(CircuitId::winning(SectorSize::Gib32), "fc02943678dd119e69e7fab8420e8819", "d84f79a16fe40e9e25a36e2107bb1ba0"),
    row(CircuitId::winning(SectorSize::Gib64), "6d3789148fb6466d07ee1e24d6292fd6", "2170a91ad5bae22ea61f2ea766630322"),
    row(CircuitId::update(SectorSize::Kib2), "eadad9784969890d30f2749708c79771", "311f92a3e75036ced01b1c0025f1fa0c"),
    row(CircuitId::update(SectorSize::Mib8), "abd80269054d391a734febdac0d2e687", "5aedd2cf3e5c0a15623d56a1b43110ad"),
    row(CircuitId::update(SectorSize::Mib512), "994c5b7d450ca9da348c910689f2dc7f", "c3ad7bb549470b82ad52ed070aebb4f4"),
    row(CircuitId::update(SectorSize::Gib32), "3a6941983754737fde880d29c7094905", "1b3cfd761a961543f9eb273e435a06a2"),
    row(CircuitId::update(SectorSize::Gib64), "80e366df2f1011953c2d01c7b7c9ee8e", "1a392e7b759fb18e036c7559b5ece816"),
];

/// The digests of a circuit's published files, where there are any.
pub fn published(circuit: CircuitId) -> Option<Published> {
    let found = PUBLISHED.iter().find(|(id, _)| *id == circuit);
    found.map(|(_, digests)| *digests)
}

/// Whether these are the bytes of the `.vk` that Filecoin published for the circuit.
pub fn is_filecoins(circuit: CircuitId, vk: &[u8]) -> bool {
    use blake2::{Blake2b512, Digest};
    let digest = published_form(&Blake2b512::digest(vk));
    published(circuit).is_some_and(|published| published.vk == digest)
}

/// A BLAKE2b-512 digest as `parameters.json` writes it.
pub(super) fn published_form(digest: &[u8]) -> String {
    hex::encode(&digest[..16])
}

/// SHA-256 as the records of keys write it.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(crate::hash::sha256::digest(&[bytes]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snark::CircuitKind;

    #[test]
    fn tm_s1_every_registered_size_is_pinned_once_and_no_digest_twice() {
        let registered = [
            SectorSize::Kib2,
            SectorSize::Mib8,
            SectorSize::Mib512,
            SectorSize::Gib32,
            SectorSize::Gib64,
        ];
        for size in SectorSize::ALL {
            for kind in CircuitKind::ALL {
                let circuit = CircuitId { kind, size };
                assert_eq!(
                    published(circuit).is_some(),
                    registered.contains(&size),
                    "{circuit}"
                );
            }
        }
        let mut digests: Vec<&str> = PUBLISHED
            .iter()
            .flat_map(|(_, digests)| [digests.vk, digests.params])
            .collect();
        assert!(digests.iter().all(|digest| digest.len() == 32));
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 2 * PUBLISHED.len());
    }

    /// The form in which Filecoin's tools compare: the known BLAKE2b-512 of "abc", its first half of a half.
    #[test]
    fn digests_are_the_first_sixteen_bytes_of_blake2b() {
        use blake2::{Blake2b512, Digest};
        let digest = published_form(&Blake2b512::digest(b"abc"));
        assert_eq!(digest, "ba80a53f981c4d0d6a2797b69f12f6e9");
    }
}
