//! ProveCommit: the PoRep proof, pledge, assignment to a partition.
