//! Sectors and partitions: records and their life (`chain.md` §6).
pub mod commit;
pub mod deadline;
pub mod fault;
pub mod precommit;
pub mod window_post;
