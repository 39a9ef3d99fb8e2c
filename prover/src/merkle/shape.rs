//! Rows, offsets and path positions of a base-sub-top tree.
