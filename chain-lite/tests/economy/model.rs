//! Random parties, random messages, all invariants after every block.
