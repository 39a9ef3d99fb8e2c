//! `apply`: one block over the state, pure and total.
