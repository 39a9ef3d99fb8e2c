//! The PoSt circuit, row for row Filecoin's.
