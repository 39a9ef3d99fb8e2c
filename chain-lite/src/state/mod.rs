//! State: the reading trait, the overlay that collects writes.
pub mod key;
