//! A `.params` file that somebody else made becomes a key of the store: Filecoin's published files above all.
//!
//! Walk: `holdfast prover params --import` calls [`ParamStore::import`]; from then on [`ParamStore::load_or_generate`] finds the
//! key like one that was made here. Spec: proofs.md §4.5 (layout, names), `r1cs/README.md` §3; threats S1–S4, H4.
//!
//! What is checked, before the file counts:
//! 1. Structure: the verifying key (S2: canonical, in the group, no identity, no known forgery, its IC points), then the five
//!    counts, all against the circuit's shape (S4), and the length of the whole. A foreign file carries no rows to digest; that
//!    this build's circuit still has the pinned rows is checked beside the points.
//! 2. Who made it ([`Origin`], S1): a key that nobody stands for is refused, and no record makes it trusted.
//! 3. Of a published key, the digest of all bytes (S3).
//! 4. Every point: canonical, on the curve, in the group, not the identity. That the points are the right ones of their group no
//!    such check tells; each proof is verified before it leaves the prover.
//!
//! Cost: the file is read twice, once to hash it and once for the points. A core checks a point of G1 in some 40 µs and one of G2
//! in twice that (WinningPoSt 2 KiB, 359 and 67 thousand of them: 20 s of a busy core, 19 MiB resident). The largest key of
//! 32 GiB sectors, WindowPoSt's, has 449 and 92 million in 56.6 GiB: seven hours of a core, and all cores share it. Memory: 2 bytes a
//! variable of the circuit (250 MiB there) and 3 MiB of points.
//! Disk: a hard link where the file lies on the store's file system, else a copy. The caller's file is never changed, and what
//! it becomes later is found at the next opening, which hashes.
//! Crash: the file is linked or copied to `….params.tmp`, checked and synced there, renamed, and counts once its record stands.
//! The verifying key is written before that, so that a key never stands beside another one's.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{
    KeyError, ParamStore, ProvingKey, fresh_temporary, in_pieces, io, remove_if_there, sync_dir,
};
use crate::progress::{Progress, Share};
use crate::snark::CircuitId;
use crate::snark::dev::is_dev_key;
use crate::snark::origin::{Origin, published, published_form};
use crate::snark::record::Density;
use crate::snark::shape::{self, Blank};

/// Digests of a whole file.
struct Digests {
    bytes: u64,
    /// Lower-case hex, for the record.
    sha256: String,
    /// As Filecoin's `parameters.json` has it.
    published: String,
}

impl ParamStore {
    /// Takes a file in Filecoin's `.params` layout as the key of a circuit that has none here, and says who stands for it. The
    /// file stays as it is.
    ///
    /// Call it within the pool that shall do the work.
    ///
    /// # Errors
    /// [`KeyError::Foreign`] when the file is no sound key of this circuit, [`KeyError::Unknown`] when nobody stands for it,
    /// [`KeyError::Occupied`] when there is a key already, [`KeyError::DiskSpace`] before a copy that would not fit.
    pub fn import(
        &self,
        circuit: CircuitId,
        source: &Path,
        progress: &dyn Progress,
    ) -> Result<Origin, KeyError> {
        let path = self.params_path(circuit);
        let _lock = self.lock(&path)?;
        if self.has(circuit) {
            return Err(KeyError::Occupied { path, circuit });
        }
        let staged = fresh_temporary(&path)?;
        let imported = self.import_by_way_of(&staged, circuit, source, progress);
        if imported.is_err() {
            // What cannot be removed now is removed before the next file is written.
            let _ = std::fs::remove_file(&staged);
        }
        imported
    }

    fn import_by_way_of(
        &self,
        staged: &Path,
        circuit: CircuitId,
        source: &Path,
        progress: &dyn Progress,
    ) -> Result<Origin, KeyError> {
        // A link to a link would not be the file.
        let source = std::fs::canonicalize(source).map_err(io("open", source))?;
        let foreign = |why: String| KeyError::Foreign {
            path: source.clone(),
            circuit,
            why,
        };
        let metadata = std::fs::metadata(&source).map_err(io("inspect", &source))?;
        if !metadata.is_file() {
            return Err(foreign("it is not a file".into()));
        }
        // The store must not tell the caller to delete a file of the caller's.
        let theirs = |error: KeyError| match error {
            KeyError::Damaged { why, .. } => foreign(why),
            other => other,
        };
        let open = |path: &Path, density: Density| {
            ProvingKey::open(circuit.to_string(), path, density).map_err(theirs)
        };

        // What is wrong in shape or origin is refused before anything is copied.
        let key = open(&source, Density::of(&Blank::new(circuit)))?;
        self.origin_of(circuit, &source, key.verifying_key())?;
        if !link(&source, staged)? {
            self.require_space(circuit, metadata.len(), self.free_space()?)?;
            copy(&source, staged, metadata.len(), progress)?;
        }

        // From here on it is our name for it that is read, whatever becomes of the caller's.
        let key = open(staged, key.density)?;
        let origin = self.origin_of(circuit, &source, key.verifying_key())?;
        // A file that grows is hashed to its end.
        let bytes = metadata.len().max(1);
        progress.start("hashing the file", bytes);
        let digests = Digests::of(staged, &Share::of(progress, bytes, bytes))?;
        progress.finish();
        if origin == Origin::Filecoin
            && published(circuit).is_none_or(|published| published.params != digests.published)
        {
            return Err(foreign(
                "its verifying key is the published one, its points are not".into(),
            ));
        }
        let (points, rows) = rayon::join(
            || key.verify_points(progress),
            || shape::rows_sha256(&Blank::new(circuit)),
        );
        points.map_err(theirs)?;
        shape::require_reviewed(circuit, &rows);

        self.install_vk(circuit, key.verifying_key())?;
        let path = self.params_path(circuit);
        std::fs::rename(staged, &path).map_err(io("rename into", &path))?;
        // Renaming one link over another of the same file does nothing.
        remove_if_there(staged)?;
        sync_dir(self.dir())?;
        self.loaded().remove(&circuit);
        let insecure = is_dev_key(circuit, key.verifying_key());
        self.install_record(circuit, &path, insecure, digests.bytes, digests.sha256)?;
        Ok(origin)
    }
}

/// A second name for the file, its bytes synced; `false` where there can be none: another file system, another owner.
#[cfg(unix)]
fn link(source: &Path, staged: &Path) -> Result<bool, KeyError> {
    if std::fs::hard_link(source, staged).is_err() {
        return Ok(false);
    }
    let file = File::open(staged).map_err(io("open", staged))?;
    file.sync_all().map_err(io("sync", staged))?;
    Ok(true)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> Result<bool, KeyError> {
    // Syncing takes write access there, and the file is not ours.
    Ok(false)
}

fn copy(source: &Path, staged: &Path, bytes: u64, progress: &dyn Progress) -> Result<(), KeyError> {
    let from = File::open(source).map_err(io("open", source))?;
    let mut to = File::create_new(staged).map_err(io("create", staged))?;
    progress.start("copy", bytes.max(1));
    in_pieces(from.take(bytes), |piece| {
        to.write_all(piece)?;
        progress.advance(piece.len() as u64);
        Ok(())
    })
    .map_err(io("copy to", staged))?;
    progress.finish();
    to.sync_all().map_err(io("sync", staged))
}

impl Digests {
    /// Reads the file once; the two hashes run beside each other.
    fn of(path: &Path, progress: &dyn Progress) -> Result<Digests, KeyError> {
        use blake2::Blake2b512;
        let file = File::open(path).map_err(io("open", path))?;
        let (mut sha256, mut blake2b, mut bytes) = (Sha256::new(), Blake2b512::new(), 0);
        in_pieces(file, |piece| {
            rayon::join(|| sha256.update(piece), || blake2b.update(piece));
            bytes += piece.len() as u64;
            progress.advance(piece.len() as u64);
            Ok(())
        })
        .map_err(io("read", path))?;
        Ok(Digests {
            bytes,
            sha256: hex::encode(sha256.finalize()),
            published: published_form(&blake2b.finalize()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Query, record_path, with_suffix};
    use super::*;
    use crate::progress::NoProgress;
    use crate::snark::dev::Secrets;
    use crate::snark::groth16::vk_bytes_len;
    use crate::snark::keygen::Evaluated;
    use crate::snark::origin::sha256_hex;
    use crate::spec::SectorSize;
    use std::path::PathBuf;
    use std::sync::OnceLock;

    /// The smallest circuit that Filecoin has a key for.
    const CIRCUIT: CircuitId = CircuitId::window(SectorSize::Kib2);

    /// A key of the circuit in Filecoin's layout, from other secrets than the published ones of this circuit.
    fn others() -> &'static [u8] {
        static MADE: OnceLock<Vec<u8>> = OnceLock::new();
        MADE.get_or_init(|| key_of(Secrets::published(CircuitId::window(SectorSize::Kib4))))
    }

    fn key_of(secrets: Secrets) -> Vec<u8> {
        let evaluated = Evaluated::new(&Blank::new(CIRCUIT), secrets);
        let mut bytes = Vec::new();
        evaluated
            .write_params(&mut bytes, &NoProgress)
            .expect("memory");
        bytes
    }

    fn vk_of(params: &[u8]) -> &[u8] {
        &params[..vk_bytes_len(CIRCUIT.public_inputs() + 1)]
    }

    /// A folder with the caller's file in it, and beside it an empty store that trusts the others' key.
    struct Desk {
        _dir: tempfile::TempDir,
        file: PathBuf,
        store: ParamStore,
    }

    fn desk(content: &[u8]) -> Desk {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("theirs.params");
        std::fs::write(&file, content).expect("written");
        let store = ParamStore::open(dir.path().join("store")).expect("a store");
        let store = store.trusting(CIRCUIT, sha256_hex(vk_of(others())));
        Desk {
            _dir: dir,
            file,
            store,
        }
    }

    impl Desk {
        fn import(&self, circuit: CircuitId) -> Result<Origin, KeyError> {
            self.store.import(circuit, &self.file, &NoProgress)
        }

        /// Imports what must be refused; gives why, and nothing but locks may be left.
        fn refused(&self, circuit: CircuitId) -> String {
            let error = self.import(circuit).expect_err("no key of this circuit");
            assert!(!self.store.has(circuit), "{error}");
            for entry in std::fs::read_dir(self.store.dir()).expect("the store") {
                let name = entry.expect("an entry").file_name();
                let is_lock = name.to_str().is_some_and(|name| name.ends_with(".lock"));
                assert!(is_lock, "{name:?} is left after {error}");
            }
            match error {
                KeyError::Foreign { path, why, .. } => {
                    assert_eq!(path.file_name(), self.file.file_name());
                    why
                }
                other => panic!("another refusal: {other}"),
            }
        }
    }

    #[test]
    fn tm_s3_an_imported_key_is_checked_point_by_point() {
        let good = others();
        let desk = desk(good);
        // A verifying key of the developers' that is there gives way.
        let developers = desk.store.verifying_key_bytes(CIRCUIT, &NoProgress);
        assert_ne!(developers.expect("made"), vk_of(good));
        assert_eq!(desk.import(CIRCUIT).expect("a good key"), Origin::Named);
        assert!(std::fs::read(&desk.file).expect("theirs") == good);
        let key = desk
            .store
            .load_or_generate(CIRCUIT, &NoProgress)
            .expect("found, not made");
        assert_eq!(key.verifying_key().bytes(), vk_of(good));
        let vk = desk.store.verifying_key_bytes(CIRCUIT, &NoProgress);
        assert_eq!(vk.expect("written beside it"), vk_of(good));
        let record = std::fs::read_to_string(record_path(&desk.store.params_path(CIRCUIT)));
        assert!(record.expect("a record").contains("\"insecure\": false"));
        assert!(
            !with_suffix(&desk.store.params_path(CIRCUIT), ".tmp").exists(),
            "the temporary name is left"
        );
        // A key that is there is not replaced.
        assert!(matches!(
            desk.import(CIRCUIT),
            Err(KeyError::Occupied { .. })
        ));

        // The first and the last point of each vector, and each of: a bit of y, no element, the identity, a flag.
        let ends = Query::ALL.map(|query| {
            let (offset, count) = key.queries[query as usize];
            let size = query.point_bytes() as u64;
            let last = offset + (count as u64 - 1) * size;
            [offset, last].map(|at| (query, usize::try_from(at).expect("a small file")))
        });
        let bends: [fn(&mut [u8]); 4] = [
            |point| *point.last_mut().expect("a point") ^= 1,
            |point| point[..48].fill(0x1f),
            |point| {
                point.fill(0);
                point[0] = 0x40;
            },
            |point| point[0] |= 0x20,
        ];
        for (i, (query, at)) in ends.into_iter().flatten().enumerate() {
            let mut bad = good.to_vec();
            bends[i % bends.len()](&mut bad[at..at + query.point_bytes()]);
            let why = self::desk(&bad).refused(CIRCUIT);
            assert!(why.contains(&format!("of {query:?}")), "{why}");
        }
        // A point on the curve and outside the group.
        let outside = outside_the_group();
        let mut bad = good.to_vec();
        let (offset, _) = key.queries[Query::A as usize];
        let at = usize::try_from(offset).expect("a small file");
        bad[at..at + outside.len()].copy_from_slice(&outside);
        let why = self::desk(&bad).refused(CIRCUIT);
        assert!(why.starts_with("point 0 of A"), "{why}");
    }

    fn outside_the_group() -> [u8; 96] {
        use ark_bls12_381::{Fq, G1Affine};
        use ark_serialize::CanonicalSerialize;
        let outside = (1u64..)
            .filter_map(|x| G1Affine::get_point_from_x_unchecked(Fq::from(x), false))
            .find(|point| !point.is_in_correct_subgroup_assuming_on_curve())
            .expect("most points of the curve are outside");
        let mut bytes = [0; 96];
        outside
            .serialize_uncompressed(&mut bytes[..])
            .expect("96 bytes");
        bytes
    }

    #[test]
    fn tm_s3_tm_s4_cut_long_and_foreign_files_are_refused_before_they_are_copied() {
        let good = others();
        let ic = vk_of(good).len();
        let long = [good, &[0]].concat();
        let mut more_points = good.to_vec();
        more_points[ic + 3] ^= 1;
        let mut more_inputs = good.to_vec();
        more_inputs[vk_bytes_len(0) - 1] ^= 1;
        for (content, said) in [
            (&good[..0], "shorter than its verifying key"),
            (&good[..ic - 1], "shorter than its verifying key"),
            (&good[..ic + 2], "ends before H"),
            (&good[..good.len() - 1], "bytes, expected"),
            (&long, "bytes, expected"),
            (&more_points, "points in H, the circuit has"),
            (&more_inputs, "ic points, the circuit has 23 inputs"),
        ] {
            let why = desk(content).refused(CIRCUIT);
            assert!(why.contains(said), "{why}");
        }
        // Keys of circuits with other inputs, and with the same inputs and other rows.
        for circuit in [
            CircuitId::winning(SectorSize::Kib2),
            CircuitId::window(SectorSize::Mib8),
        ] {
            let why = desk(good).refused(circuit);
            assert!(why.contains("the circuit has"), "{circuit}: {why}");
        }
        let folder = desk(good);
        let error = folder
            .store
            .import(CIRCUIT, folder.store.dir(), &NoProgress);
        assert!(matches!(error, Err(KeyError::Foreign { .. })));
    }

    /// Sound in every point, of the right circuit, with a fitting record: and still nobody's.
    #[test]
    fn tm_s1_tm_s3_a_key_of_other_secrets_is_refused_whatever_its_record_says() {
        let desk = desk(others());
        desk.import(CIRCUIT).expect("trusted by its hash");
        // The same folder to a store that was told nothing.
        let strict = ParamStore::open(desk.store.dir()).expect("a store");
        for insecure in ["false", "true"] {
            for path in [strict.params_path(CIRCUIT), strict.vk_path(CIRCUIT)] {
                let path = record_path(&path);
                let record = std::fs::read_to_string(&path).expect("a record");
                let says = format!("\"insecure\": {insecure}");
                let record = record.replace("\"insecure\": false", &says);
                assert!(record.contains(&says));
                std::fs::write(&path, record).expect("written");
            }
            let refused = |error: KeyError| {
                let text = error.to_string();
                assert!(matches!(error, KeyError::Unknown { .. }), "{text}");
                assert!(text.contains(&sha256_hex(vk_of(others()))), "{text}");
            };
            refused(
                strict
                    .load_or_generate(CIRCUIT, &NoProgress)
                    .expect_err("nobody's key"),
            );
            refused(
                strict
                    .verifying_key_bytes(CIRCUIT, &NoProgress)
                    .expect_err("nobody's key"),
            );
        }
        // And it cannot be imported without the caller's word, nor with a word for another circuit.
        let strict = super::ParamStore::open(desk.file.with_extension("store")).expect("a store");
        let strict = strict.trusting(
            CircuitId::winning(SectorSize::Kib2),
            sha256_hex(vk_of(others())),
        );
        let error = strict.import(CIRCUIT, &desk.file, &NoProgress);
        assert!(matches!(error, Err(KeyError::Unknown { .. })));
        assert!(!strict.has(CIRCUIT));
    }

    #[test]
    fn tm_s1_a_developers_key_is_recognised_when_it_is_imported() {
        let made = key_of(Secrets::published(CIRCUIT));
        let desk = desk(&made);
        assert_eq!(
            desk.import(CIRCUIT).expect("everybody's key"),
            Origin::Developers
        );
        let record = std::fs::read_to_string(record_path(&desk.store.params_path(CIRCUIT)));
        assert!(record.expect("a record").contains("\"insecure\": true"));
        // Its verifying key is found again without the file of its own, and without being made.
        desk.store
            .load_or_generate(CIRCUIT, &NoProgress)
            .expect("found");
        std::fs::remove_file(record_path(&desk.store.vk_path(CIRCUIT))).expect("removed");
        let vk = desk.store.verifying_key_bytes(CIRCUIT, &NoProgress);
        assert_eq!(vk.expect("from the proving key"), vk_of(&made));
    }

    /// Killed between any two steps: the caller's file is whole, nothing counts, and both ways on end with a matching pair.
    #[test]
    fn tm_s3_a_killed_import_leaves_the_callers_file_alone() {
        let good = others();
        let desk = desk(good);
        let path = desk.store.params_path(CIRCUIT);
        // Linked and not yet renamed: the next writer must not write through the link.
        std::fs::hard_link(&desk.file, with_suffix(&path, ".tmp")).expect("one file system");
        desk.store
            .load_or_generate(CIRCUIT, &NoProgress)
            .expect("the developers' key is made");
        assert!(std::fs::read(&desk.file).expect("theirs") == good);
        desk.store.remove(CIRCUIT).expect("removed");
        assert!(std::fs::read(&desk.file).expect("theirs") == good);

        // The verifying key is in place, the other file is not.
        desk.import(CIRCUIT).expect("imported");
        std::fs::remove_file(record_path(&path)).expect("removed");
        std::fs::remove_file(&path).expect("removed");
        let key = desk
            .store
            .load_or_generate(CIRCUIT, &NoProgress)
            .expect("made");
        let vk = desk.store.verifying_key_bytes(CIRCUIT, &NoProgress);
        assert_eq!(vk.expect("its own"), key.verifying_key().bytes());

        // In place and without its record: imported again, from the place itself.
        desk.store.remove(CIRCUIT).expect("removed");
        desk.import(CIRCUIT).expect("imported");
        std::fs::remove_file(record_path(&path)).expect("removed");
        let again = desk.store.import(CIRCUIT, &path, &NoProgress);
        assert_eq!(again.expect("imported again"), Origin::Named);
        assert!(!with_suffix(&path, ".tmp").exists());
        assert!(std::fs::read(&desk.file).expect("theirs") == good);
    }

    #[test]
    fn a_copy_has_every_byte_and_a_growing_file_does_not_grow_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let content: Vec<u8> = (0..3 << 20).map(|i| (i % 251) as u8).collect();
        std::fs::write(&from, &content).expect("written");
        copy(&from, &to, content.len() as u64, &NoProgress).expect("copied");
        assert!(std::fs::read(&to).expect("the copy") == content);
        std::fs::remove_file(&to).expect("removed");
        copy(&from, &to, 1000, &NoProgress).expect("copied");
        assert!(std::fs::read(&to).expect("the copy") == content[..1000]);
    }
}
