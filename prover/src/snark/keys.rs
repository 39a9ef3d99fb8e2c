//! Proving keys: generation, storage, loading.
