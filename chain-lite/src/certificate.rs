//! (CB) certificate
