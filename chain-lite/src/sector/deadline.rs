//! Proving periods, deadlines and when each one opens (`chain.md` §7).
