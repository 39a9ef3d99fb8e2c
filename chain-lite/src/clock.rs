//! (CB) clock
