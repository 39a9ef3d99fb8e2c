//! The SDR graph.
