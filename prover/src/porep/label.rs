//! SDR labelling.
