//! (CB) log
