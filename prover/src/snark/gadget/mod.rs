//! The gadgets Filecoin's circuits are made of, row for row and variable for variable.
//!
//! Walk: used by [`crate::porep::circuit`] and [`crate::post::circuit`] over [`super::cs`].
//! Spec: `vectors/r1cs/README.md` §§4–8; each file names its section. Ready-made gadgets have other
//! rows in another order and cannot take part: the keys, Filecoin's and ours, fix every row.
//! Where Filecoin's gadget is looser than one would wish (bit decompositions below 2^255 instead
//! of below `r`, [`bits::to_bits_le`]), the looseness is kept, argued at the place and tested.

pub mod bits;
pub mod insert;
pub mod merkle;
pub mod poseidon;
pub mod sha256;
pub mod uint32;

#[cfg(test)]
mod lint;
#[cfg(test)]
pub mod tests;
