//! Collateral and penalties (`chain.md` §10).
