//! (CB) beacon
