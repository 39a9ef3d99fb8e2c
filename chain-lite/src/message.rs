//! Transactions and messages: what a signer may ask of the chain.
