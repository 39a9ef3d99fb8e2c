//! PreCommit: number, CommR, CommD, ticket, deposit.
