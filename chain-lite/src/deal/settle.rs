//! Paying, ending and slashing deals (`chain.md` §11).
