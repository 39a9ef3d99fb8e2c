//! (CB) tree
