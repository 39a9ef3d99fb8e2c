//! (CB) mempool
