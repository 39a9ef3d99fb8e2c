//! Errors as a person meets them: what happened, what to do next, and an exit code by class.
//!
//! Libraries below return small enums by blame; each is turned into a [`CliError`] here or in the command's own file, where
//! the next step is known. An error is printed once, by [`super::Output::report`].

use std::fmt::{self, Display};

use crate::config::ConfigError;

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
