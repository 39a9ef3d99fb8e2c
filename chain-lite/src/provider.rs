//! A provider's record, its balance and the claims on it.
