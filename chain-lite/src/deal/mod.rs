//! Deals: records and their life.
pub mod publish;
pub mod settle;
