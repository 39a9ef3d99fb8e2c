//! Decoders of proofs and keys, and the verifiers behind them.
