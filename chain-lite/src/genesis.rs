//! (CB) genesis
