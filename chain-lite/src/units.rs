//! Quantities of the chain: epochs, token amounts, storage power. A type per quantity, converted only at the wire.
//!
//! Spec: `chain.md` §1. Every division floors. Products go through [`mul_div`], whose intermediate has 256 bits, so that
//! no rule wraps or panics: what does not fit is the error [`Overflow`]. There is no floating point in this crate.
//! Bytes (borsh): little-endian fixed width, 8 for epochs, 16 for amounts and power. JSON: epochs are numbers, amounts
//! and power decimal strings, because a reader with 53-bit numbers must not round money.

use std::fmt;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};
use ruint::aliases::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use holdfast_light::epoch::{Epoch, EpochCount};

/// A result above 2^128 - 1 (or below zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the amount does not fit 128 bits")]
pub struct Overflow;

/// Base units in one token: 10^18.
pub const UNITS_PER_TOKEN: u128 = 1_000_000_000_000_000_000;

/// Declares a `u128` quantity whose JSON and text form is a decimal string.
macro_rules! wide_quantity {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// The sum, unless it does not fit.
            pub fn plus(self, other: Self) -> Result<Self, Overflow> {
                self.0.checked_add(other.0).map(Self).ok_or(Overflow)
            }
            /// The difference, unless it would be negative.
            pub fn minus(self, other: Self) -> Result<Self, Overflow> {
                self.0.checked_sub(other.0).map(Self).ok_or(Overflow)
            }
            /// The difference, zero where it would be negative.
            pub const fn minus_or_zero(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
            /// Whether this is nothing.
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                // One text per value: `u128::from_str` alone would also take a sign and leading zeros.
                let value: u128 = text.parse().map_err(|_| format!("{} {text:?} is not a decimal number below 2^128", $what))?;
                if value.to_string() != text {
                    return Err(format!("{} {text:?}: write plain decimal digits, without sign or leading zeros", $what));
                }
                Ok(Self(value))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as Deserialize>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

wide_quantity!(
    /// Money in base units; 10^18 of them are one token.
    TokenAmount, "amount");
wide_quantity!(
    /// Bytes, or quality-adjusted bytes, that earn.
    StoragePower, "power");

impl TokenAmount {
    /// Whole tokens.
    pub const fn from_tokens(tokens: u64) -> Self {
        // 2^64 * 10^18 < 2^124: cannot overflow.
        Self(tokens as u128 * UNITS_PER_TOKEN)
    }

    /// `floor(self * numerator / denominator)`.
    pub fn mul_div(self, numerator: u128, denominator: u128) -> Result<Self, Overflow> {
        mul_div(self.0, numerator, denominator).map(Self)
    }

    /// Tokens with as many decimals as needed, for people: `12.5`. Never parsed back by consensus code.
    pub fn in_tokens(self) -> String {
        let (whole, rest) = (self.0 / UNITS_PER_TOKEN, self.0 % UNITS_PER_TOKEN);
        if rest == 0 {
            return whole.to_string();
        }
        format!("{whole}.{}", format!("{rest:018}").trim_end_matches('0'))
    }

    /// Reads what [`TokenAmount::in_tokens`] writes: whole tokens with up to 18 decimals.
    pub fn parse_tokens(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is not an amount of tokens; write for example 12 or 0.25 (at most 18 decimals)"
            )
        };
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 18 {
            return Err(bad());
        }
        let whole: u128 = whole.parse().map_err(|_| bad())?;
        let fraction: u128 = format!("{decimals:0<18}").parse().map_err(|_| bad())?;
        let units = whole
            .checked_mul(UNITS_PER_TOKEN)
            .and_then(|units| units.checked_add(fraction));
        units.map(Self).ok_or_else(bad)
    }
}

/// `floor(a * b / c)` with a 256-bit product; [`Overflow`] when the quotient does not fit or `c` is zero.
pub fn mul_div(a: u128, b: u128, c: u128) -> Result<u128, Overflow> {
    if c == 0 {
        return Err(Overflow);
    }
    // 128 + 128 bits: the product itself cannot overflow 256.
    narrow(U256::from(a) * U256::from(b) / U256::from(c))
}

/// `floor(a * b / 2^shift)` with a 256-bit product.
pub fn mul_shift(a: u128, b: u128, shift: usize) -> Result<u128, Overflow> {
    narrow((U256::from(a) * U256::from(b)) >> shift)
}

/// A 256-bit value as 128 bits.
pub(crate) fn narrow(wide: U256) -> Result<u128, Overflow> {
    u128::try_from(wide).map_err(|_| Overflow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn products_use_256_bits_and_never_wrap() {
        assert_eq!(mul_div(u128::MAX, u128::MAX, u128::MAX), Ok(u128::MAX));
        assert_eq!(mul_div(u128::MAX, 2, 1), Err(Overflow));
        assert_eq!(mul_div(1, 1, 0), Err(Overflow));
        assert_eq!(mul_div(7, 3, 2), Ok(10));
        assert_eq!(mul_shift(u128::MAX, 1 << 32, 32), Ok(u128::MAX));
        assert_eq!(mul_shift(u128::MAX, 1 << 33, 32), Err(Overflow));
    }

    #[test]
    fn amounts_have_one_text() {
        assert_eq!(TokenAmount(1_500_000_000_000_000_000).in_tokens(), "1.5");
        assert_eq!(
            TokenAmount::parse_tokens("1.5"),
            Ok(TokenAmount(1_500_000_000_000_000_000))
        );
        assert_eq!(
            TokenAmount::parse_tokens("0.000000000000000001"),
            Ok(TokenAmount(1))
        );
        for bad in [
            "",
            ".5",
            "1.",
            "-1",
            "+1",
            "1e3",
            "0.0000000000000000001",
            "999999999999999999999999",
        ] {
            assert!(TokenAmount::parse_tokens(bad).is_err(), "{bad}");
        }
        for bad in ["01", "+1", "", " 1"] {
            assert!(bad.parse::<TokenAmount>().is_err(), "{bad}");
        }
        assert_eq!(
            serde_json::to_string(&TokenAmount(u128::MAX)).expect("text"),
            format!("\"{}\"", u128::MAX)
        );
    }

    proptest! {
        #[test]
        fn tm_v10_mul_div_floors(a: u64, b: u64, c in 1u64..) {
            let exact = u128::from(a) * u128::from(b) / u128::from(c);
            prop_assert_eq!(mul_div(a.into(), b.into(), c.into()), Ok(exact));
        }

        #[test]
        fn tokens_read_back(units: u128) {
            prop_assert_eq!(TokenAmount::parse_tokens(&TokenAmount(units).in_tokens()), Ok(TokenAmount(units)));
        }
    }
}
