//! Speaking with a running provider from another process of the same user: status, stop, damage reports.
//!
//! Place: the running provider serves this on a free loopback port and writes port and token to `provider/control.json`,
//! readable by its user only; `holdfast provider status|stop|declare-fault` reads that file. The lock file
//! `provider/provider.lock` says whether anybody runs at all: it is held as long as the process lives, however it ends, so a
//! leftover control file of a killed process is recognised.
//! Bounds: one small JSON-RPC request at a time, [`MAX_CONNECTIONS`] sockets; a wrong token is refused.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jsonrpsee::core::client::ClientT;
use jsonrpsee::http_client::HttpClientBuilder;
use jsonrpsee::rpc_params;
use jsonrpsee::server::{RpcModule, Server, ServerConfig, ServerHandle};
use jsonrpsee::types::ErrorObjectOwned;
use prover::SectorNumber;
use rand::RngCore;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::journal::{JournalError, replace_file};
use super::status::{ProviderStatus, StatusWatch};
use super::worker::Input;

/// Open sockets.
const MAX_CONNECTIONS: u32 = 8;
/// Longest control file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4096;
/// A running provider answers at once.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a start waits for the lock: longer than anybody's question takes, shorter than a person notices.
const LOCK_PATIENCE: Duration = Duration::from_millis(400);
const CONTROL_FILE: &str = "control.json";
const LOCK_FILE: &str = "provider.lock";
/// JSON-RPC error code of everything refused here.
const REFUSED: i32 = -32000;

/// Why a provider cannot be spoken with.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody runs there.
    #[error("no provider is running in {0}; start it with `holdfast provider run`")]
    NotRunning(PathBuf),
    /// Somebody runs there already.
    #[error("a provider is already running in {0}; stop it with `holdfast provider stop`")]
    Running(PathBuf),
    /// A file.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The control file.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The loopback port.
    #[error("cannot listen on loopback for control: {0}")]
    Listen(io::Error),
    /// It runs but does not answer.
    #[error(
        "the running provider does not answer ({0}); if that lasts, end the process whose id is in control.json"
    )]
    Silent(String),
    /// It answered no.
    #[error("the provider refused: {0}")]
    Refused(String),
}

/// What the control file says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlFile {
    /// The process.
    pub pid: u32,
    /// Where it listens for control.
    pub addr: SocketAddr,
    /// Must come with each request.
    token: String,
}

/// Proof that nobody else runs in the folder, until dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// Takes the folder for this process. Waits a moment: somebody may just be asking whether anybody runs, which takes the
/// lock for an instant.
pub fn lock(dir: &Path) -> Result<RunLock, ControlError> {
    lock_within(dir, LOCK_PATIENCE)
}

fn lock_within(dir: &Path, patience: Duration) -> Result<RunLock, ControlError> {
    let until = Instant::now() + patience;
    loop {
        match try_lock(dir) {
            Err(ControlError::Running(_)) if Instant::now() < until => {
                std::thread::sleep(LOCK_PATIENCE / 20);
            }
            other => return other,
        }
    }
}

fn try_lock(dir: &Path) -> Result<RunLock, ControlError> {
    let path = dir.join(LOCK_FILE);
    let failed = |source| ControlError::File {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(RunLock { _file: file }),
        Err(fs::TryLockError::WouldBlock) => Err(ControlError::Running(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Whether a provider runs in the folder now.
pub fn is_running(dir: &Path) -> bool {
    matches!(try_lock(dir), Err(ControlError::Running(_)))
}

struct Served {
    token: String,
    status: StatusWatch,
    inbox: mpsc::UnboundedSender<Input>,
    stop: CancellationToken,
}

/// The control service of a running provider.
#[derive(Debug)]
pub struct ControlServer {
    server: ServerHandle,
    file: PathBuf,
}

impl ControlServer {
    /// Serves and writes the control file.
    pub async fn start(
        dir: &Path,
        status: StatusWatch,
        inbox: mpsc::UnboundedSender<Input>,
        stop: CancellationToken,
    ) -> Result<Self, ControlError> {
        let server = Server::builder()
            .set_config(
                ServerConfig::builder()
                    .max_connections(MAX_CONNECTIONS)
                    .http_only()
                    .build(),
            )
            .build(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .map_err(ControlError::Listen)?;
        let addr = server.local_addr().map_err(ControlError::Listen)?;
        let mut secret = [0u8; 32];
        rand::rngs::OsRng.fill_bytes(&mut secret);
        let token = hex::encode(secret);
        let content = ControlFile {
            pid: std::process::id(),
            addr,
            token: token.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&content).expect("plain fields serialise");
        // The folder is 0700, so the token in it is this user's alone.
        replace_file(dir, CONTROL_FILE, &bytes)?;
        let module = methods(Served {
            token,
            status,
            inbox,
            stop,
        })
        .map_err(|error| ControlError::Listen(io::Error::other(error)))?;
        Ok(Self {
            server: server.start(module),
            file: dir.join(CONTROL_FILE),
        })
    }

    /// Stops serving and removes the control file.
    pub async fn stop(self) {
        // Failing to remove is harmless: the lock says that nobody runs.
        let _ = fs::remove_file(&self.file);
        let _ = self.server.stop();
        self.server.stopped().await;
    }
}

fn methods(served: Served) -> Result<RpcModule<Served>, jsonrpsee::core::RegisterMethodError> {
    let mut module = RpcModule::new(served);
    module.register_method("provider_status", |params, served, _| {
        let token: String = params.one()?;
        served.check(&token)?;
        Ok::<ProviderStatus, ErrorObjectOwned>(served.status.get())
    })?;
    module.register_method("provider_stop", |params, served, _| {
        let token: String = params.one()?;
        served.check(&token)?;
        served.stop.cancel();
        Ok::<(), ErrorObjectOwned>(())
    })?;
    module.register_async_method("provider_declareFault", |params, served, _| async move {
        let (token, sector): (String, SectorNumber) = params.parse()?;
        served.check(&token)?;
        let (answer, answered) = oneshot::channel();
        let gone = || ErrorObjectOwned::owned(REFUSED, "the provider is stopping", None::<()>);
        served
            .inbox
            .send(Input::Report(sector, answer))
            .map_err(|_| gone())?;
        answered
            .await
            .map_err(|_| gone())?
            .map_err(|reason| ErrorObjectOwned::owned(REFUSED, reason, None::<()>))
    })?;
    Ok(module)
}

impl Served {
    fn check(&self, token: &str) -> Result<(), ErrorObjectOwned> {
        // Compared by hash, so that the time it takes says nothing about the token.
        if blake3::hash(token.as_bytes()) == blake3::hash(self.token.as_bytes()) {
            Ok(())
        } else {
            Err(ErrorObjectOwned::owned(REFUSED, "wrong token", None::<()>))
        }
    }
}

/// The other end: speaks with the provider that runs in a folder.
#[derive(Debug)]
pub struct Control {
    file: ControlFile,
    client: jsonrpsee::http_client::HttpClient,
}

impl Control {
    /// Finds the running provider of `dir`.
    pub fn open(dir: &Path) -> Result<Self, ControlError> {
        if !dir.is_dir() || !is_running(dir) {
            return Err(ControlError::NotRunning(dir.to_owned()));
        }
        let path = dir.join(CONTROL_FILE);
        let read = || -> io::Result<ControlFile> {
            if fs::metadata(&path)?.len() > MAX_FILE_BYTES {
                return Err(io::Error::other("too long for a control file"));
            }
            serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::other)
        };
        let file = read().map_err(|source| ControlError::File {
            path: path.clone(),
            source,
        })?;
        let client = HttpClientBuilder::default()
            .request_timeout(CALL_TIMEOUT)
            .build(format!("http://{}", file.addr))
            .map_err(|error| ControlError::Silent(error.to_string()))?;
        Ok(Self { file, client })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.file.pid
    }

    /// What it shows of itself.
    pub async fn status(&self) -> Result<ProviderStatus, ControlError> {
        self.call("provider_status", rpc_params![&self.file.token])
            .await
    }

    /// Asks it to stop: it finishes the job at hand, which is then on disk, and ends.
    pub async fn stop(&self) -> Result<(), ControlError> {
        self.call("provider_stop", rpc_params![&self.file.token])
            .await
    }

    /// Says that a sector is damaged.
    pub async fn declare_fault(&self, sector: SectorNumber) -> Result<(), ControlError> {
        self.call(
            "provider_declareFault",
            rpc_params![&self.file.token, sector],
        )
        .await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: jsonrpsee::core::params::ArrayParams,
    ) -> Result<T, ControlError> {
        use jsonrpsee::core::client::Error;
        self.client
            .request(method, params)
            .await
            .map_err(|error| match error {
                Error::Call(refusal) => ControlError::Refused(refusal.message().to_owned()),
                other => ControlError::Silent(other.to_string()),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_process_has_the_folder_and_a_dead_one_lets_go() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let held = lock(dir.path()).expect("free");
        assert!(matches!(lock(dir.path()), Err(ControlError::Running(_))));
        assert!(is_running(dir.path()));
        drop(held);
        assert!(!is_running(dir.path()));
        // Questions that cross a start do not make it fail; on a busy machine one may take longer than `LOCK_PATIENCE`.
        let path = dir.path().to_owned();
        let asking = std::thread::spawn(move || {
            for _ in 0..2000 {
                is_running(&path);
            }
        });
        for _ in 0..20 {
            drop(lock_within(dir.path(), Duration::from_secs(60)).expect("nobody runs"));
        }
        asking.join().expect("no panic");
        assert!(matches!(
            Control::open(dir.path()),
            Err(ControlError::NotRunning(_))
        ));
    }
}
