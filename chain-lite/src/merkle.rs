//! (CB) merkle
