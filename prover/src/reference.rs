//! Plain twins of the fast paths, written to be read beside the specification.
