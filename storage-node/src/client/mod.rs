//! The client: put, get, list and repair objects.
//!
//! Sits between `cli` and the network; everything about the shape of an object is in [`crate::object`].
