//! Proofs of a piece in a sector, and of leaves in a piece.
