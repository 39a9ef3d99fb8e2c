//! A chain and n providers embedded in one process, on loopback.
