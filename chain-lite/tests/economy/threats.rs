//! Rows of `threat-model.md` that the state machine answers.
