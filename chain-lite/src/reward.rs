//! Emission, accrual, claims and vesting (`chain.md` §9).
