//! One case at least for each class of refusal, and for each message the refusals that its rule names.
