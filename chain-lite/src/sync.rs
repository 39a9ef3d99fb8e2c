//! (CB) sync
