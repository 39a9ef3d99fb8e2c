//! Where a layer's parents come from: memory, a file, or made while the layer is filled.
//!
//! Walk: between [`super::graph`], which defines them, and [`super::label`], which reads them once per layer, front to back.
//! Parents depend on the proof type alone, so all layers and all sectors of a type share one list.
//!
//! | source | memory | cost per layer |
//! |---|---|---|
//! | [`ParentTable`] | 56 bytes a node | none |
//! | [`ParentFile`] | two windows, 1.8 MiB | one read and one SHA-256 of 56 bytes a node, on another thread where there is one |
//! | [`Graph`] | two windows | about 0.2 µs a node, on another thread |
//!
//! Bytes: the file is Filecoin's parent cache (proofs.md §9.2): 14 little-endian `u32` a node, no header. Beside it, with
//! the suffix `.sha256`, lie the digests of its windows and one over those. A window that does not match is made anew from
//! the graph and a warning names the file: a wrong parent would make a replica that nobody can decode.
//! Crash: both files are written under temporary names, synced and renamed, the digests last.
#![deny(clippy::as_conversions)]

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::graph::{Graph, Parents};
use crate::hash::sha256;
use crate::progress::{NoProgress, Progress};
use crate::spec::{DEGREE, SectorSize};

/// Nodes whose parents are handled together: 917,504 bytes of them.
pub const WINDOW: usize = 1 << 14;
/// Windows generated together while a file is made.
const TOGETHER: usize = 16;
/// Graphs below this many nodes are cheaper to generate than to look up.
const WORTHWHILE: u64 = 1 << 16;
const ROW_BYTES: usize = size_of::<Parents>();

/// All parents of a graph: 56 bytes a node.
#[derive(Debug)]
pub struct ParentTable {
    rows: Vec<Parents>,
    /// The folder where it is to be kept and is not yet.
    unsaved: Option<PathBuf>,
}

impl ParentTable {
    /// Generates the table on all threads of the current rayon pool.
    pub fn new(graph: &Graph) -> Self {
        Self::filled(graph, |first, rows| graph.fill(offset(first), rows))
    }

    /// Reads the table from a file, on all threads of the current rayon pool.
    fn load(file: &ParentFile) -> Self {
        Self::filled(&file.graph, |first, rows| file.window(first, rows))
    }

    fn filled(graph: &Graph, fill: impl Fn(usize, &mut [Parents]) + Sync) -> Self {
        let mut rows = vec![[0; DEGREE]; count(graph)];
        rows.par_chunks_mut(WINDOW)
            .enumerate()
            .for_each(|(i, rows)| fill(i * WINDOW, rows));
        Self {
            rows,
            unsaved: None,
        }
    }

    /// Memory that a table for this graph needs.
    pub fn bytes(graph: &Graph) -> u64 {
        file_bytes(graph)
    }
}

/// A parent cache on disk, with the digests of its windows.
#[derive(Debug)]
pub struct ParentFile {
    graph: Graph,
    path: PathBuf,
    file: File,
    digests: Vec<[u8; 32]>,
}

impl ParentFile {
    /// Opens the graph's file in `dir`, or makes it there. Progress is in nodes.
    ///
    /// # Errors
    /// When the folder cannot be read or written, or has no room for [`ParentTable::bytes`].
    pub fn open_or_make(dir: &Path, graph: Graph, progress: &dyn Progress) -> io::Result<Self> {
        if let Some(found) = Self::open(dir, &graph)? {
            return Ok(found);
        }
        progress.start("parent lists", graph.nodes());
        make(dir, &graph, TOGETHER, progress, &|first, rows| {
            graph.fill(offset(first), rows);
        })?;
        progress.finish();
        Self::open(dir, &graph)?
            .ok_or_else(|| io::Error::other(format!("{} was changed meanwhile", dir.display())))
    }

    /// `None` when it is missing, or was never finished, or has another length: then it is made anew.
    fn open(dir: &Path, graph: &Graph) -> io::Result<Option<Self>> {
        let path = &dir.join(file_name(graph));
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return missing(error),
        };
        let windows = count(graph).div_ceil(WINDOW);
        let listed = match File::open(digests_path(path)) {
            Ok(listed) => listed,
            Err(error) => return missing(error),
        };
        if file.metadata()?.len() != file_bytes(graph)
            || listed.metadata()?.len() != offset(32 * (windows + 1))
        {
            return Ok(None);
        }
        let mut digests = vec![[0; 32]; windows + 1];
        listed.read_exact_at(digests.as_flattened_mut(), 0)?;
        let whole = digests.pop();
        if whole != Some(sha256::digest(&[digests.as_flattened()])) {
            return Ok(None);
        }
        Ok(Some(Self {
            graph: graph.clone(),
            path: path.to_owned(),
            file,
            digests,
        }))
    }

    /// Fills the rows of the window that begins at node `first`; generates them where the file is not as it was written.
    fn window(&self, first: usize, rows: &mut [Parents]) {
        let mut bytes = vec![0; rows.len() * ROW_BYTES];
        let read = self
            .file
            .read_exact_at(&mut bytes, offset(first * ROW_BYTES));
        let sound = read.is_ok() && self.digests[first / WINDOW] == sha256::digest(&[&bytes]);
        if !sound {
            tracing::warn!(
                file = %self.path.display(),
                first,
                "the parent list is damaged and these nodes are computed anew; remove the file, it is made again"
            );
            return self.graph.fill(offset(first), rows);
        }
        for (row, bytes) in rows.iter_mut().zip(bytes.as_chunks::<ROW_BYTES>().0) {
            for (parent, bytes) in row.iter_mut().zip(bytes.as_chunks().0) {
                *parent = u32::from_le_bytes(*bytes);
            }
        }
    }
}

/// Writes the file, so many windows at a time, and its digests. Memory: that many windows, and one more in each thread.
fn make(
    dir: &Path,
    graph: &Graph,
    together: usize,
    progress: &dyn Progress,
    fill: &(dyn Fn(usize, &mut [Parents]) + Sync),
) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let path = &dir.join(file_name(graph));
    let (needed, free) = (file_bytes(graph), fs4::available_space(dir)?);
    if free < needed {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "{} needs {} MiB and {} MiB are free",
                path.display(),
                needed.div_ceil(1 << 20),
                free >> 20
            ),
        ));
    }
    let mut digests = Vec::new();
    let nodes = count(graph);
    replace(path, |data| {
        for first in (0..nodes).step_by(together * WINDOW) {
            let windows = (nodes - first).div_ceil(WINDOW).min(together);
            let made: Vec<(Vec<u8>, [u8; 32])> = (0..windows)
                .into_par_iter()
                .map(|i| {
                    let first = first + i * WINDOW;
                    let mut rows = vec![[0; DEGREE]; WINDOW.min(nodes - first)];
                    fill(first, &mut rows);
                    let parents = rows.as_flattened().iter();
                    let bytes: Vec<u8> = parents.flat_map(|parent| parent.to_le_bytes()).collect();
                    let digest = sha256::digest(&[&bytes]);
                    progress.advance(offset(rows.len()));
                    (bytes, digest)
                })
                .collect();
            for (bytes, digest) in made {
                data.write_all(&bytes)?;
                digests.push(digest);
            }
        }
        Ok(())
    })?;
    let whole = sha256::digest(&[digests.as_flattened()]);
    digests.push(whole);
    let listed = replace(&digests_path(path), |file| {
        file.write_all(digests.as_flattened())
    });
    if listed.is_err() {
        // Without them the list counts for nothing.
        let _ = std::fs::remove_file(path);
    }
    listed
}

/// Writes a file under a name of this process alone, synced, and renames it when it is complete. One that fails, as on a full
/// disk, leaves nothing behind.
fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let name = temporary(path);
    let done = File::create(&name)
        .and_then(|mut file| {
            write(&mut file)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&name, path));
    if done.is_err() {
        // What could not be written may not be there to be removed.
        let _ = std::fs::remove_file(&name);
    }
    done
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    name.into()
}

fn digests_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

/// Size and a digest of everything that the graph follows from.
fn file_name(graph: &Graph) -> String {
    let bytes = graph.nodes() * 32;
    let size =
        SectorSize::from_bytes(bytes).map_or_else(|| format!("{bytes}B"), |size| size.to_string());
    format!("sdr-parents-{size}-{}.cache", hex::encode(&graph.id()[..8]))
}

fn file_bytes(graph: &Graph) -> u64 {
    graph.nodes() * offset(ROW_BYTES)
}

/// The parents of a graph in the best form that memory and cache allow.
#[derive(Debug)]
pub enum ParentLists {
    /// In memory.
    Table(ParentTable),
    /// In a file.
    File(ParentFile),
    /// Made as they are needed.
    Generated(Graph),
}

impl ParentLists {
    /// Chooses: from `cache`, a folder, if one is named, else generated; into memory if the table fits `room` bytes.
    ///
    /// A cache that cannot be used costs time, never the run: a warning says why. Work runs on the current rayon pool.
    pub fn prepare(graph: Graph, room: u64, cache: Option<&Path>, progress: &dyn Progress) -> Self {
        let lists = Self::prepare_unsaved(graph.clone(), room, cache, progress);
        lists.save(&graph);
        lists
    }

    /// [`ParentLists::prepare`] without the file that a table made here is to be kept in: [`ParentLists::save`] writes it.
    pub(crate) fn prepare_unsaved(
        graph: Graph,
        room: u64,
        cache: Option<&Path>,
        progress: &dyn Progress,
    ) -> Self {
        let fits = ParentTable::bytes(&graph) <= room;
        let cache = cache.filter(|_| graph.nodes() >= WORTHWHILE);
        let found = cache.and_then(|dir| {
            let found = if fits {
                ParentFile::open(dir, &graph)
            } else {
                ParentFile::open_or_make(dir, graph.clone(), progress).map(Some)
            };
            found.unwrap_or_else(|error| unusable(dir, &error))
        });
        match (found, fits) {
            (Some(file), true) => Self::Table(ParentTable::load(&file)),
            (Some(file), false) => Self::File(file),
            (None, true) => Self::Table(ParentTable {
                unsaved: cache.map(Path::to_owned),
                ..ParentTable::new(&graph)
            }),
            (None, false) => Self::Generated(graph),
        }
    }

    /// Whether [`ParentLists::prepare`] would have nothing to generate.
    pub(crate) fn are_kept(graph: &Graph, cache: Option<&Path>) -> bool {
        cache.is_some_and(|dir| matches!(ParentFile::open(dir, graph), Ok(Some(_))))
    }

    /// Writes the file of a table that was made here, unless it is there; of any other lists nothing.
    pub(crate) fn save(&self, graph: &Graph) {
        let Self::Table(ParentTable {
            rows,
            unsaved: Some(dir),
        }) = self
        else {
            return;
        };
        if Self::are_kept(graph, Some(dir)) {
            return;
        }
        // One window at a time: the table has taken the room that there was.
        let made = make(dir, graph, 1, &NoProgress, &|first, out| {
            out.copy_from_slice(&rows[first..first + out.len()]);
        });
        if let Err(error) = made {
            unusable::<()>(dir, &error);
        }
    }

    /// Nodes of the graph.
    pub(crate) fn nodes(&self) -> usize {
        match self {
            Self::Table(table) => table.rows.len(),
            Self::File(file) => count(&file.graph),
            Self::Generated(graph) => count(graph),
        }
    }

    /// Hands over all rows in order, window by window with its first node; the next window is made ready meanwhile, on
    /// another thread of the current rayon pool where there is one.
    pub(crate) fn for_each_window(&self, mut work: impl FnMut(usize, &[Parents]) + Send) {
        let fill: &(dyn Fn(usize, &mut [Parents]) + Sync) = match self {
            Self::Table(table) => {
                for (i, rows) in table.rows.chunks(WINDOW).enumerate() {
                    work(i * WINDOW, rows);
                }
                return;
            }
            Self::File(file) => &|first, rows| file.window(first, rows),
            Self::Generated(graph) => &|first, rows| graph.fill(offset(first), rows),
        };
        let nodes = self.nodes();
        let len = |first: usize| WINDOW.min(nodes.saturating_sub(first));
        let mut now = vec![[0; DEGREE]; len(0)];
        let mut next = now.clone();
        fill(0, &mut now);
        for first in (0..nodes).step_by(WINDOW) {
            let following = first + WINDOW;
            rayon::join(
                || work(first, &now[..len(first)]),
                || {
                    if following < nodes {
                        fill(following, &mut next[..len(following)]);
                    }
                },
            );
            std::mem::swap(&mut now, &mut next);
        }
    }
}

fn unusable<T>(dir: &Path, error: &io::Error) -> Option<T> {
    tracing::warn!(folder = %dir.display(), %error, "parent lists are generated, the cache cannot be used");
    None
}

fn count(graph: &Graph) -> usize {
    usize::try_from(graph.nodes()).expect("sealing needs addresses of at least 32 bits")
}

fn offset(count: usize) -> u64 {
    u64::try_from(count).expect("no machine addresses more than 2^64 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ApiVersion, RegisteredSeal};

    fn graph(nodes: u64) -> Graph {
        let seal = RegisteredSeal::v1_1(SectorSize::Mib8);
        Graph::with_nodes(nodes, &seal.porep_id(), ApiVersion::V1_1)
    }

    fn rows(lists: &ParentLists) -> Vec<Parents> {
        let mut all = Vec::new();
        lists.for_each_window(|first, rows| {
            assert_eq!(first, all.len(), "windows come in order");
            all.extend_from_slice(rows);
        });
        all
    }

    /// Every source gives the same rows; the last window is partial.
    #[test]
    fn all_sources_agree() {
        let dir = tempfile::tempdir().expect("a folder");
        for nodes in [1, 5, offset(WINDOW), WORTHWHILE + 77] {
            let expected = rows(&ParentLists::Generated(graph(nodes)));
            assert_eq!(offset(expected.len()), nodes);
            for (room, cache) in [
                (u64::MAX, None),
                (0, Some(dir.path())),
                (u64::MAX, Some(dir.path())),
            ] {
                let lists = ParentLists::prepare(graph(nodes), room, cache, &NoProgress);
                let kind_fits = match (&lists, room) {
                    (ParentLists::Table(_), room) => room > 0,
                    (ParentLists::File(_), _) => nodes >= WORTHWHILE,
                    (ParentLists::Generated(_), _) => nodes < WORTHWHILE,
                };
                assert!(kind_fits, "{nodes} nodes, room {room}");
                assert_eq!(rows(&lists), expected, "{nodes} nodes, room {room}");
            }
        }
    }

    /// proofs.md §9.2: the file is Filecoin's own parent cache.
    #[test]
    fn the_file_has_filecoins_published_digest() {
        let dir = tempfile::tempdir().expect("a folder");
        let seal = RegisteredSeal::v1_1(SectorSize::Mib8);
        let graph = Graph::new(SectorSize::Mib8, &seal.porep_id(), seal.api_version());
        let file = ParentFile::open_or_make(dir.path(), graph, &NoProgress).expect("made");
        let bytes = std::fs::read(&file.path).expect("the file");
        assert_eq!(
            hex::encode(sha256::digest(&[&bytes])),
            "03cd13565ded97c240a5f52e54295ad127bd0461b57904cb3a4d79b097bbecab"
        );
    }

    #[test]
    fn tm_h3_a_damaged_list_never_gives_a_wrong_parent() {
        let dir = tempfile::tempdir().expect("a folder");
        let nodes = WORTHWHILE + 77;
        let expected = rows(&ParentLists::Generated(graph(nodes)));
        let open =
            || ParentFile::open_or_make(dir.path(), graph(nodes), &NoProgress).expect("a file");
        let path = open().path;
        let whole = std::fs::read(&path).expect("its bytes");
        let listed = std::fs::read(digests_path(&path)).expect("its digests");

        // A flipped bit in each window, seen by a reader that opened it before and by one that opens it after.
        let early = ParentLists::File(open());
        let mut bent = whole.clone();
        for at in (0..bent.len()).step_by(WINDOW * ROW_BYTES / 2) {
            bent[at] ^= 0x10;
        }
        std::fs::write(&path, &bent).expect("written");
        assert_eq!(rows(&early), expected);
        assert_eq!(rows(&ParentLists::File(open())), expected);

        // Cut files, foreign digests, none at all: made anew.
        for (data, digests) in [
            (&whole[..whole.len() - 1], &listed[..]),
            (&whole[..], &listed[32..]),
            (&whole[..], &[0; 192][..]),
            (&bent[..], &[][..]),
        ] {
            std::fs::write(&path, data).expect("written");
            std::fs::write(digests_path(&path), digests).expect("written");
            assert_eq!(rows(&ParentLists::File(open())), expected);
            assert_eq!(std::fs::read(&path).expect("its bytes"), whole);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_used_costs_only_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "no folder").expect("written");
        let lists = ParentLists::prepare(graph(WORTHWHILE), 0, Some(&file), &NoProgress);
        assert!(matches!(lists, ParentLists::Generated(_)));
    }

    /// `/dev/full` takes no byte, as a full disk does: at the list, then at its digests. The run goes on without the cache, the
    /// disk is as it was, and with space the file is made.
    #[cfg(target_os = "linux")]
    #[test]
    fn tm_h4_a_full_disk_leaves_nothing_behind_and_costs_only_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let graph = || graph(WORTHWHILE);
        let path = dir.path().join(file_name(&graph()));
        let prepare = |room| ParentLists::prepare(graph(), room, Some(dir.path()), &NoProgress);
        for (at, room) in [(&path, 0), (&digests_path(&path), 0), (&path, u64::MAX)] {
            std::os::unix::fs::symlink("/dev/full", temporary(at)).expect("links");
            assert!(!matches!(prepare(room), ParentLists::File(_)));
            let left = std::fs::read_dir(dir.path()).expect("the folder").count();
            assert_eq!(left, 0, "left behind");
        }
        assert!(matches!(prepare(0), ParentLists::File(_)));
    }

    #[test]
    fn other_graphs_have_other_files() {
        let by = |id: u64, nodes| {
            let seal = RegisteredSeal::from_id(id).expect("registered");
            file_name(&Graph::with_nodes(
                nodes,
                &seal.porep_id(),
                seal.api_version(),
            ))
        };
        let names = [by(0, 64), by(5, 64), by(6, 64), by(6, 128), by(1, 64)];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }
}
