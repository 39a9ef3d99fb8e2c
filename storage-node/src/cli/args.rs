//! Arguments shared by several commands, and parsers for the small languages they use (byte sizes and ranges, k+m).

use std::path::PathBuf;

use chain_lite::account::ChainId;
use chain_lite::block::BlockId;
use chain_lite::bundle::Anchor;
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

/// What is trusted of the chain before anything was proven; get it from a source that is not the node.
#[derive(Clone, Debug, Default, Args)]
pub struct TrustArgs {
    /// Believe only the chain with this id
    #[arg(long, value_name = "ID")]
    pub chain_id: Option<ChainId>,
    /// Begin at this final block instead of the genesis
    #[arg(long, value_name = "HEIGHT:BLOCK_ID")]
    pub checkpoint: Option<CheckpointArg>,
}

impl TrustArgs {
    /// For [`chain_lite::bundle`].
    pub fn anchor(&self) -> Anchor {
        Anchor {
            chain_id: self.chain_id,
            checkpoint: self
                .checkpoint
                .map(|CheckpointArg { height, id }| (height, id)),
        }
    }
}

/// Whose key signs, and what is trusted: the options of commands that send a transaction.
#[derive(Clone, Debug, Default, Args)]
pub struct WhoArgs {
    /// How the key is opened.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// What is trusted of the chain.
    #[command(flatten)]
    pub trust: TrustArgs,
}

/// A final block, `HEIGHT:BLOCK_ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointArg {
    /// Its height, at least 1.
    pub height: u64,
    /// Its id.
    pub id: BlockId,
}

impl std::str::FromStr for CheckpointArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            "a checkpoint reads HEIGHT:BLOCK_ID, for example 1200: and 64 hex digits; get it from somebody you trust, who reads it on a node of their own".to_owned()
        };
        let (height, id) = text.split_once(':').ok_or_else(bad)?;
        let height = height.parse().ok().filter(|h| *h > 0).ok_or_else(bad)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(id, &mut bytes).map_err(|_| bad())?;
        Ok(Self {
            height,
            id: BlockId(bytes),
        })
    }
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
    fn checkpoints_read_back_and_bad_ones_are_named() {
        let id = "ab".repeat(32);
        let point: CheckpointArg = format!("12:{id}").parse().expect("a checkpoint");
        assert_eq!((point.height, point.id.0), (12, [0xab; 32]));
        for bad in [
            "",
            "12",
            &id,
            &format!("0:{id}"),
            &format!("-1:{id}"),
            "12:ab",
        ] {
            assert!(bad.parse::<CheckpointArg>().is_err(), "{bad} was accepted");
        }
    }

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
