//! How well providers did. Pure.
