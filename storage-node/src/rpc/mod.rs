//! JSON-RPC server over one ledger, mempool and engine.
