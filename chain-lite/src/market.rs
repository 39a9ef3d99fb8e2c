//! Client and provider escrow.
