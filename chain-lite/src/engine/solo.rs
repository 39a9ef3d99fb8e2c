//! (CB) engine/solo
