//! The economy as a whole, through its public API: scenarios with hand-computed balances, every class of refusal, the
//! threats of `threat-model.md` that the state machine answers, and a model test with all invariants after every block.

mod channels;
mod closed;
mod datacap;
mod disputes;
mod explained;
mod grinding;
mod model;
mod outages;
mod refusals;
mod reputation;
mod scenarios;
mod threats;
mod world;
