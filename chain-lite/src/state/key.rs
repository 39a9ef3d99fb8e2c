//! Every key of the state, in one place.
