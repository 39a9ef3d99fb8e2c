//! Places pieces in a sector and yields CommD.
