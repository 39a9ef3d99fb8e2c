//! The PoRep circuit, row for row Filecoin's.
