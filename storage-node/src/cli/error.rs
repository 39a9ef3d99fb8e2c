//! Errors as a person meets them: what happened, what to do next, and an exit code by class.
//!
//! Libraries below return small enums by blame; each is turned into a [`CliError`] here or in the command's own file, where
//! the next step is known. An error is printed once, by [`super::Output::report`].

use std::fmt::{self, Display};

use crate::chain::ChainError;
use crate::client::{ChainFailure, ClientError};
use crate::config::ConfigError;
use crate::identity::KeyError;

/// Who has to act. The order is that of the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Our own mistake.
    Bug,
    /// The command line.
    Usage,
    /// A file, key or id the caller named.
    Input,
    /// Somebody's rules: funds, placement, the chain.
    Refused,
    /// Chain or providers did not answer.
    Unreachable,
    /// Something failed verification.
    BadData,
    /// Disk, permissions, ports.
    Machine,
    /// The reader of stdout went away; nothing to report.
    BrokenPipe,
}

impl Class {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::Input => 3,
            Self::Refused => 4,
            Self::Unreachable => 5,
            Self::BadData => 6,
            Self::Machine => 7,
        }
    }

    /// The class's name in `--json` errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bug => "bug",
            Self::Usage => "usage",
            Self::Input => "input",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::BadData => "bad-data",
            Self::Machine => "machine",
            Self::BrokenPipe => "broken-pipe",
        }
    }
}

/// What a command failed with.
#[derive(Debug)]
pub struct CliError {
    class: Class,
    message: String,
    hint: Option<String>,
}

impl CliError {
    /// An error of `class`; `message` says what happened, without a full stop.
    pub fn new(class: Class, message: impl Display) -> Self {
        Self {
            class,
            message: message.to_string(),
            hint: None,
        }
    }

    /// An error whose message is `what` followed by the causes of `error`, outermost first.
    pub fn caused(class: Class, what: impl Display, error: &dyn std::error::Error) -> Self {
        Self::new(class, format!("{what}: {}", chain_of(error)))
    }

    /// A file-system error on `path`: absent or unreadable things are the caller's, a full disk is the machine's.
    pub fn io(what: impl Display, path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let (class, hint) = match error.kind() {
            ErrorKind::NotFound => (Class::Input, "check the path"),
            ErrorKind::PermissionDenied => (Class::Input, "check who owns it and its permissions"),
            ErrorKind::IsADirectory => (Class::Input, "name a file, not a folder"),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
                Class::Machine,
                "free some space and run the same command again",
            ),
            _ => (
                Class::Machine,
                "run the same command again; with -v it says more",
            ),
        };
        Self::new(class, format!("{what} {}: {error}", path.display())).hint(hint)
    }

    /// Adds the next step, one sentence.
    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Who has to act.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do next.
    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let hint = match &error {
            ConfigError::NoPlatformFolder => "name a folder with --home DIR",
            ConfigError::NoChain { .. } => {
                "start one with `holdfast devnet up`, or name it with --chain ws://HOST:PORT"
            }
            ConfigError::BadChainUrl { .. } => "name the chain with --chain ws://HOST:PORT",
        };
        Self::new(Class::Input, error).hint(hint)
    }
}

impl From<KeyError> for CliError {
    fn from(error: KeyError) -> Self {
        let (class, hint) = match &error {
            KeyError::Missing(_) => (
                Class::Input,
                "make one with `holdfast wallet new`, or name its home with --home DIR".to_owned(),
            ),
            KeyError::Exists(_) => (
                Class::Input,
                "use it, or choose another home with --home DIR".to_owned(),
            ),
            KeyError::Exposed { path, .. } => (
                Class::Input,
                format!(
                    "if nobody else has read it: chmod 600 {}; otherwise make a new wallet and move the money",
                    path.display()
                ),
            ),
            KeyError::Foreign(_) => (Class::Input, "run as the user that owns the key".to_owned()),
            KeyError::Locked(_) => (
                Class::Input,
                "name the passphrase with --passphrase-file FILE, or run this on a terminal"
                    .to_owned(),
            ),
            KeyError::WrongPassphrase(_) => (
                Class::Input,
                "check the passphrase; nothing was changed".to_owned(),
            ),
            KeyError::Damaged { .. } => (
                Class::Input,
                "restore the key file from its copy".to_owned(),
            ),
            KeyError::Io { path, error, what } => {
                return Self::io(format_args!("cannot {what}"), path, error);
            }
        };
        Self::new(class, error).hint(hint)
    }
}

impl From<ChainError> for CliError {
    fn from(error: ChainError) -> Self {
        let (class, hint) = match &error {
            ChainError::Unreachable { .. } => (
                Class::Unreachable,
                "start it with `holdfast devnet up`, or name another with --chain ws://HOST:PORT",
            ),
            ChainError::OtherChain { .. } | ChainError::Unreadable { .. } => (
                Class::Input,
                "check --chain, HOLDFAST_CHAIN and the home folder",
            ),
            ChainError::Expired(_) => (Class::Unreachable, "run the same command again"),
            _ => (Class::Refused, "the rule is named above"),
        };
        Self::new(class, error).hint(hint)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let (class, hint) = match &error {
            ClientError::File { what, path, error } => {
                return Self::io(format_args!("cannot {what}"), path, error);
            }
            ClientError::NotAFile(_) => (
                Class::Input,
                "name a plain file; pack a folder first, for example with tar",
            ),
            ClientError::Changed(_) => (
                Class::Input,
                "leave the file alone and run the same command again; what the old bytes have stored is not paid beyond its deals",
            ),
            ClientError::TooLarge { .. } => (
                Class::Input,
                "split the file, or use a network with larger sectors",
            ),
            ClientError::Scheme(_) => (Class::Usage, "try -k 2 -m 2"),
            ClientError::Placement { .. } => (
                Class::Refused,
                "choose a smaller k + m, raise --max-price, or wait for providers with room",
            ),
            ClientError::Money { .. } => (
                Class::Refused,
                "send money to `holdfast wallet address`; on a devnet: `holdfast wallet faucet`",
            ),
            ClientError::DataCap { .. } => (
                Class::Refused,
                "ask a notary for more (`holdfast datacap show`), or put it without --verified",
            ),
            ClientError::Chain(ChainFailure::Unreachable(_)) => (
                Class::Unreachable,
                "start it with `holdfast devnet up`, or name another with --chain ws://HOST:PORT",
            ),
            ClientError::Chain(ChainFailure::Refused(_)) => {
                (Class::Refused, "the rule is named above")
            }
            ClientError::Chain(ChainFailure::Untrue(_)) => (
                Class::BadData,
                "ask another node with --chain; if the chain itself is another one, name it with --chain-id",
            ),
            ClientError::Provider { .. } => (
                Class::Unreachable,
                "run the same command again; it goes on where it stopped and charges nothing twice",
            ),
            ClientError::Journal { .. } => (
                Class::BadData,
                "restore the file from a copy; without it the interrupted put cannot go on",
            ),
            ClientError::Unclear { path, .. } => {
                return Self::new(Class::Refused, &error).hint(format_args!(
                    "ask another node with --chain; if you know that it took effect, or that another transaction of this account did instead, remove {}",
                    path.display()
                ));
            }
            ClientError::Busy(_) => (
                Class::Refused,
                "wait until it is done; a running provider has the wallet for a block when it fills its purses",
            ),
            ClientError::UnknownObject(_) => (
                Class::Input,
                "`holdfast ls` lists the objects of this account",
            ),
            ClientError::Ambiguous { .. } => (Class::Input, "give more digits of the id"),
            ClientError::ManifestLost { .. } | ClientError::Lost { .. } => (
                Class::Unreachable,
                "`holdfast status ID` shows who should hold what; try again when they answer",
            ),
            ClientError::Manifest(_) => (
                Class::BadData,
                "use the key file of the account that stored the object",
            ),
            ClientError::Inconsistent { .. } | ClientError::WrongHash => (
                Class::BadData,
                "the object was damaged before it was stored; nothing was written",
            ),
            ClientError::OutOfRange { .. } => (Class::Input, "choose a range inside the object"),
            ClientError::Exists(_) => (
                Class::Input,
                "name another file with -o, or replace it with --force",
            ),
            ClientError::Bug(_) => (
                Class::Bug,
                "please report this, with the output of the same command and -vv",
            ),
        };
        Self::new(class, error).hint(hint)
    }
}

/// An error and its sources in one line, without saying the same thing twice.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_the_machines_and_a_missing_file_the_callers() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let path = std::path::Path::new("x");
        assert_eq!(
            CliError::io("cannot write", path, &full).class(),
            Class::Machine
        );
        assert_eq!(
            CliError::io("cannot read", path, &missing).class(),
            Class::Input
        );
    }

    #[test]
    fn causes_are_listed_once() {
        let inner = std::io::Error::other("the disk said no");
        let outer = ConfigError::BadChainUrl {
            path: "p".into(),
            reason: inner.to_string(),
        };
        assert_eq!(chain_of(&outer).matches("the disk said no").count(), 1);
    }
}
