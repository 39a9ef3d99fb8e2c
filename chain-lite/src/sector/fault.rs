//! Declarations, the close of a deadline, faults and terminations.
