//! `holdfast get`: read an object back, whole or a range, from any k of its n holders.
//!
//! Walk: the first row, back: [`crate::client::get`] does it.
//!
//! Arguments and words; the work is [`crate::client::get`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::account::connect;
use super::args::{ByteRangeArg, KeyArgs, TrustArgs};
use super::output::{Bar, Unit, human_bytes};
use super::{Class, CliError, Context};
use crate::client::get::{GetEvent, GetRequest, Got, Target, get};

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object's id, or its first digits
    id: String,
    /// Where to write: a file, a folder, or - for stdout [default: the object's label, in this folder]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Only these bytes, FIRST..END, for example 0..1MiB
    #[arg(long, value_name = "RANGE")]
    range: Option<ByteRangeArg>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let to_stdout = args.output.as_deref() == Some("-".as_ref());
    if to_stdout && context.out.is_json() {
        return Err(
            CliError::new(Class::Usage, "--json and -o - both want stdout")
                .hint("write the bytes to a file"),
        );
    }
    let target = if to_stdout {
        Target::Stream(Box::new(std::io::stdout()))
    } else {
        Target::File {
            path: args.output.unwrap_or_else(|| PathBuf::from(".")),
            force: args.force,
        }
    };
    let request = GetRequest {
        object: args.id,
        range: args.range.map(|range| (range.start, range.end)),
    };
    let client = connect(context, &args.keys, &args.trust).await?;
    let bar: Mutex<Option<Bar>> = Mutex::new(None);
    let out = context.out.clone();
    let observer = move |event: GetEvent| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            GetEvent::Begun { bytes, resumed, .. } => {
                let begun = out.bar("verified and written", bytes, Unit::Bytes);
                begun.advance(resumed);
                *bar = Some(begun);
            }
            GetEvent::Written(bytes) => {
                if let Some(bar) = &*bar {
                    bar.advance(bytes);
                }
            }
        }
    };
    let got = get(Arc::clone(&client), request, target, Arc::new(observer)).await;
    client.network.close().await;
    let got = got.map_err(|error| match error {
        crate::client::ClientError::File { error, .. }
            if to_stdout && error.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            CliError::new(Class::BrokenPipe, "stdout was closed")
        }
        error => error.into(),
    })?;
    for liar in &got.liars {
        tracing::warn!(provider = %liar, "sent wrong bytes; they were thrown away and read elsewhere");
    }
    if to_stdout {
        return Ok(());
    }
    context.out.result(&got, summary)
}

fn summary(got: &Got) -> String {
    let what = match got.range {
        Some((start, end)) => format!("bytes {start}..{end} of {}", got.name.escape_debug()),
        None => got.name.escape_debug().to_string(),
    };
    let path = got.path.as_ref().map(|path| path.display().to_string());
    let checked = if got.hash_checked {
        "every byte verified, hash as stored"
    } else {
        "every byte verified"
    };
    format!(
        "{what} ({}) written to {}; {checked}",
        human_bytes(got.bytes),
        path.unwrap_or_default(),
    )
}
