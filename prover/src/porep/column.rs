//! Column hashes: the leaves of TreeC.
