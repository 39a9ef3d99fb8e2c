//! Errors shared by the decoders of this crate.
//!
//! Each stage has its own small error enum beside its code; here is only what several of them need: a text or byte
//! string from outside that is not the value it claims to be. The message names the kind of value, what is wrong and
//! what a right one looks like, so that a command line can print it as it is.

/// A text or byte string is not a canonical value of the stated kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: {why}")]
pub struct ParseError {
    /// The kind of value that was expected, in words.
    pub what: &'static str,
    /// What is wrong, and the form that would be right.
    pub why: String,
}

impl ParseError {
    /// Names the kind of value and the reason.
    pub fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self {
            what,
            why: why.into(),
        }
    }

    /// The same error for borsh, whose readers speak [`std::io::Error`].
    pub(crate) fn into_io(self) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, self)
    }
}

/// Decodes exactly `N` bytes of lower-case hex: one text per value, nothing left over.
pub(crate) fn parse_hex<const N: usize>(
    what: &'static str,
    text: &str,
) -> Result<[u8; N], ParseError> {
    if text.len() != 2 * N {
        return Err(ParseError::new(
            what,
            format!(
                "{} characters, expected {} of lower-case hex",
                text.len(),
                2 * N
            ),
        ));
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ParseError::new(
            what,
            "upper-case hex digits; write it in lower case",
        ));
    }
    let mut out = [0u8; N];
    hex::decode_to_slice(text, &mut out)
        .map_err(|_| ParseError::new(what, "characters that are not hex digits (0-9, a-f)"))?;
    Ok(out)
}
