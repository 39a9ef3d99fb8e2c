//! (CB) ledger
