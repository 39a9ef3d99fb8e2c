//! Gadgets, row for row Filecoin's.
