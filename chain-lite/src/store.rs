//! (CB) store
