//! Publishing client-signed deal proposals (`chain.md` §11).
