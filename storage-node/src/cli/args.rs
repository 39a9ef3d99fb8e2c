//! Arguments shared by several commands, and parsers for the small languages they use (byte sizes and ranges, k+m).

use std::path::PathBuf;

use clap::Args;

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Folder for keys, journals and state [env: HOLDFAST_HOME=] [default: the platform's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// JSON-RPC address of the chain, ws://HOST:PORT [env: HOLDFAST_CHAIN=] [default: what a devnet left in the home folder]
    #[arg(long, global = true, value_name = "URL")]
    pub chain: Option<String>,
    /// Print one JSON value on stdout and everything else on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more (-v: steps, -vv: details, -vvv: everything); HOLDFAST_LOG takes a filter
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// How a protected key file is opened.
#[derive(Clone, Debug, Default, Args)]
pub struct KeyArgs {
    /// File whose first line is the wallet's passphrase [env: HOLDFAST_PASSPHRASE_FILE=, or HOLDFAST_PASSPHRASE= itself]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// A half-open range of bytes, `a..b`; either end may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRangeArg {
    /// First byte.
    pub start: u64,
    /// One past the last byte; `None` reads to the end.
    pub end: Option<u64>,
}

impl std::str::FromStr for ByteRangeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (start, end) = text
            .split_once("..")
            .ok_or("a range reads FIRST..END, for example 0..1024 or 1MiB..")?;
        let start = if start.is_empty() {
            0
        } else {
            parse_bytes(start)?
        };
        let end = if end.is_empty() {
            None
        } else {
            Some(parse_bytes(end)?)
        };
        match end {
            Some(end) if end <= start => Err(format!("the range {start}..{end} is empty")),
            _ => Ok(Self { start, end }),
        }
    }
}

/// Reads a number of bytes: digits with an optional `KiB`, `MiB`, `GiB` or `TiB` (or `B`).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a number of bytes"))?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        other => {
            return Err(format!(
                "unknown unit {other:?}; use B, KiB, MiB, GiB or TiB"
            ));
        }
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than 2^64 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_back_and_bad_ones_are_named() {
        let range: ByteRangeArg = "1KiB..2MiB".parse().expect("a range");
        assert_eq!(
            range,
            ByteRangeArg {
                start: 1024,
                end: Some(2 << 20)
            }
        );
        assert_eq!("..7".parse::<ByteRangeArg>().expect("open").start, 0);
        assert_eq!("7..".parse::<ByteRangeArg>().expect("open").end, None);
        for bad in [
            "",
            "7",
            "9..9",
            "9..8",
            "a..b",
            "1XB..",
            "-1..4",
            "99999999999999999999..",
            "18446744073709551615KiB..",
        ] {
            assert!(bad.parse::<ByteRangeArg>().is_err(), "{bad} was accepted");
        }
    }
}
