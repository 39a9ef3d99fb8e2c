//! What the host offers, and the plan that follows from it.
