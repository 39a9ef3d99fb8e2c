//! The node's side of the chain: a JSON-RPC client and what drives transactions to inclusion.
