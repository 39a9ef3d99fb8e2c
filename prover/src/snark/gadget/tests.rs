//! Rows against Filecoin's recordings.
