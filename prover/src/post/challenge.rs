//! PoSt challenges.
