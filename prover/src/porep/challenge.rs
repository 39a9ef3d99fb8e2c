//! PoRep challenges.
