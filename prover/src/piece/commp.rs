//! CommP: the root over a piece's padded nodes.
