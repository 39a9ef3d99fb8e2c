//! Runs golden-vector files.
