//! Secret keys.
