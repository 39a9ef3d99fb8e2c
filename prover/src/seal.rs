//! The sealing pipeline: Packed, Labeled, Replicated, Challenged, Sealed.
