//! Quantities of the chain: epochs, token amounts, storage power. A type per quantity, converted only at the wire.
