//! (CB) light
