//! The status socket: how `status`, `peers` and others ask the running daemon.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::net::UnixListener;

use super::{
    ReportHandle, http,
    limit::{Limited, affordable},
};

/// Bound and waiting; removed when dropped, unless another daemon has taken the place.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    place: Place,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    inode: u64,
}

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("make status socket {}: {answer}{}", .path.display(), too_long(.path))]
    Bind { path: PathBuf, answer: io::Error },
    #[error("make status socket {}: something that is not a socket has the name: remove it", .path.display())]
    NotASocket { path: PathBuf },
}

/// The daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no daemon answers at {}: {answer} (start one with `flannel-ctl run`, or name the run directory of the \
         running one with --run-dir)",
        .socket.display()
    )]
    NotRunning { socket: PathBuf, answer: io::Error },
    #[error("not allowed to ask the daemon at {} (its socket is for root only)", .socket.display())]
    NotAllowed { socket: PathBuf },
    #[error("the daemon at {} broke off: {answer}", .socket.display())]
    Broken { socket: PathBuf, answer: io::Error },
    #[error("the daemon at {} refused: {answer}", .socket.display())]
    Refused { socket: PathBuf, answer: String },
    #[error("the daemon at {} gave an answer that this version does not understand: {why}", .socket.display())]
    NotUnderstood { socket: PathBuf, why: String },
}

impl StatusSocket {
    const NAME: &str = "status.sock";
    const CONNECTIONS: usize = 32;
    const LIFETIME: Duration = Duration::from_secs(30);

    pub fn path_in(run_dir: &Path) -> PathBuf {
        run_dir.join(Self::NAME)
    }

    /// Makes the socket, mode 0600. Needs the run directory's lock, so that one already there is
    /// a dead daemon's, and a tokio runtime.
    pub fn bind(run_dir: &Path) -> Result<Self, SocketError> {
        let path = Self::path_in(run_dir);
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.file_type().is_socket()) {
            return Err(SocketError::NotASocket { path });
        }
        match bind_at(&path) {
            Ok((listener, inode)) => Ok(Self { listener, place: Place { path, inode } }),
            Err(answer) => Err(SocketError::Bind { path, answer }),
        }
    }

    /// Serves until dropped.
    pub async fn run(self, handle: ReportHandle) -> io::Result<()> {
        let Self { listener, place } = self;
        let served = Limited::new(listener, affordable(Self::CONNECTIONS), Self::LIFETIME);
        let result = axum::serve(served, http::status_routes().with_state(handle)).await;
        drop(place);
        result
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "status socket left behind");
        }
    }
}

/// Asks the daemon of this run directory, on the calling thread. `route` is `/status`, `/peers`
/// or any other route of the socket; the answer is JSON.
pub fn ask<T: DeserializeOwned>(run_dir: &Path, route: &str) -> Result<T, ClientError> {
    let text = ask_text(run_dir, route)?;
    serde_json::from_str(&text)
        .map_err(|error| ClientError::NotUnderstood { socket: StatusSocket::path_in(run_dir), why: error.to_string() })
}

/// As [`ask`], for answers that are not JSON.
pub fn ask_text(run_dir: &Path, route: &str) -> Result<String, ClientError> {
    let socket = StatusSocket::path_in(run_dir);
    let stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ClientError::NotAllowed { socket });
        }
        Err(answer) => return Err(ClientError::NotRunning { socket, answer }),
    };
    let answer = match exchange(stream, route) {
        Ok(answer) => answer,
        Err(answer) => return Err(ClientError::Broken { socket, answer }),
    };
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err(ClientError::NotUnderstood { socket, why: "not an HTTP answer".to_owned() });
    };
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(ClientError::Refused { socket, answer: if body.is_empty() { head } else { body }.to_owned() }),
    }
}

/// HTTP/1.0: the answer ends with the connection, and is never in chunks.
fn exchange(mut stream: UnixStream, route: &str) -> io::Result<String> {
    let limit = Some(ReportHandle::ANSWER_LIMIT + Duration::from_secs(1));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    write!(stream, "GET {route} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time: it is stopped or overloaded"))
        }
        result => result.map(|_| answer),
    }
}

/// Under a temporary name first: nobody can connect before the mode is set, and whoever was
/// there before is replaced in one step.
fn bind_at(path: &Path) -> io::Result<(UnixListener, u64)> {
    let temporary = path.with_file_name(".status.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    let inode = fs::symlink_metadata(&temporary)?.ino();
    fs::rename(&temporary, path)?;
    Ok((listener, inode))
}

fn too_long(path: &Path) -> &'static str {
    // `sun_path` of unix(7), with its final zero.
    if path.as_os_str().len() >= 108 {
        " (a socket's path has 107 bytes at most: choose a shorter --run-dir)"
    } else {
        ""
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
