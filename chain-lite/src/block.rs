//! (CB) block
