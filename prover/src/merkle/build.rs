//! Builds TreeC and TreeR.
