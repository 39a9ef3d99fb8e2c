//! A provider's pieces in plain files: `<root>.piece` and `<root>.outboard` in one folder.

use std::{fs::File, path::PathBuf, sync::Arc};

use prover::commitment::CommP;
use retrieval::{
    PeerId, PieceRoot,
    serve::{CheckedPiece, OpenPiece, PieceMeta, PieceStore, PutDecision, PutSink, Refusal},
    wire::{PieceRef, PieceState, PutHeader},
};

/// The folder.
#[derive(Debug, Clone)]
pub struct FileStore(pub PathBuf);

impl FileStore {
    fn path(&self, root: &PieceRoot, extension: &str) -> PathBuf {
        self.0.join(format!("{root}.{extension}"))
    }
}

fn internal(error: std::io::Error) -> Refusal {
    Refusal::Internal(error.to_string())
}

impl PieceStore for FileStore {
    fn hello_info(&self, _peer: &PeerId) -> Vec<u8> {
        Vec::new()
    }

    fn have(&self, piece: &PieceRef) -> Option<PieceMeta> {
        let PieceRef::Root(root) = piece else {
            return None;
        };
        let size = std::fs::metadata(self.path(root, "piece")).ok()?.len();
        Some(PieceMeta {
            size,
            root: *root,
            commp: CommP([0; 32]),
            state: PieceState::Hot,
        })
    }

    fn open(&self, root: &PieceRoot) -> Result<OpenPiece, Refusal> {
        let data = File::open(self.path(root, "piece")).map_err(|_| Refusal::NotFound)?;
        let outboard = File::open(self.path(root, "outboard")).map_err(|_| Refusal::NotFound)?;
        let size = data.metadata().map_err(internal)?.len();
        Ok(OpenPiece {
            size,
            data: Arc::new(data),
            outboard: Arc::new(outboard),
        })
    }

    fn accept(&self, _peer: &PeerId, header: &PutHeader) -> Result<PutDecision, Refusal> {
        let data = File::create(self.path(&header.root, "piece")).map_err(internal)?;
        let outboard = File::create(self.path(&header.root, "outboard")).map_err(internal)?;
        Ok(PutDecision::Receive(Box::new(FileSink { data, outboard })))
    }

    fn commp_proof(&self, _: &CommP, _: u64, _: u32) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::NotFound)
    }
}

struct FileSink {
    data: File,
    outboard: File,
}

impl PutSink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        std::io::Write::write_all(&mut self.data, bytes).map_err(internal)
    }

    fn write_outboard(&mut self, pairs: &[u8]) -> Result<(), Refusal> {
        std::io::Write::write_all(&mut self.outboard, pairs).map_err(internal)
    }

    fn finish(self: Box<Self>, _piece: &CheckedPiece) -> Result<Vec<u8>, Refusal> {
        self.data
            .sync_all()
            .and_then(|()| self.outboard.sync_all())
            .map_err(internal)?;
        Ok(b"stored".to_vec())
    }
}
