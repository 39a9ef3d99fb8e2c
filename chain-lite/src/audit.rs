//! (CB) audit
