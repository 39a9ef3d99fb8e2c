//! A sector's files and stage records.
