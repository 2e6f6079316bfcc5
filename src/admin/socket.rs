//! The admin socket: bound 0660, peers checked one by one, every connection capped and timed.

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::peer::{Doorkeeper, Peer, Stranger};
use super::{Admin, router};
use crate::events::Event;

/// Connections open at once; operators and their scripts need few.
const MOST_CONNECTIONS: usize = 64;
/// From accept, or from the last answer, to a whole request head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// For changes under way when the gateway stops.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// After an accept that failed (no file descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the admin socket: 0660, a stale file is replaced, a live one is an error. Fails closed: what is not a socket is
/// never removed, and a socket that cannot be tried counts as live.
pub fn bind(path: &Path) -> Result<UnixListener> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|error| at(path, &error))?;
    // Between these two lines the file has the umask's mode; the check of every peer holds all the same.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(|error| at(path, &error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) async fn serve(admin: Admin, socket: UnixListener, stop: CancellationToken) {
    let place = Place::of(&socket);
    let (door, listener) =
        match Doorkeeper::of_this_process().and_then(|door| Ok((door, tokio::net::UnixListener::from_std(socket)?))) {
            Ok(opened) => opened,
            Err(error) => return tracing::error!(%error, "the admin socket cannot be served"),
        };
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some(Ok(slot)) = stop.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await {
        match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
            Some(Ok((stream, _))) => match door.admit(&stream) {
                Err(Stranger { uid, gid }) => admin.events.emit(Event::AdminRefused { uid, gid }),
                Ok(peer) => {
                    let connection = serve_one(admin.clone(), stream, peer, stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
            },
        }
    }
    // While the listener lives its inode cannot be given to another file, so the comparison holds.
    place.iter().for_each(Place::remove);
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(STOP_DEADLINE, connections.wait()).await;
}

async fn serve_one(admin: Admin, stream: tokio::net::UnixStream, peer: Peer, stop: CancellationToken) {
    let service = service_fn(move |request| router::answer(admin.clone(), peer, request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    if stop.run_until_cancelled(connection.as_mut()).await.is_none() {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

fn remove_stale(path: &Path) -> Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(path, &error)),
        Ok(found) => found,
    };
    if !found.file_type().is_socket() {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("{}: is there already and is no socket", path.display())));
    }
    match UnixStream::connect(path) {
        Ok(_) => {
            let told =
                format!("{}: another gateway answers there (stop it, or give this one its own `listen.admin`)", path.display());
            Err(Error::new(ErrorKind::AddrInUse, told))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| at(path, &error))
        }
        Err(error) => Err(at(path, &error)),
    }
}

fn at(path: &Path, error: &Error) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The socket's file as it was bound, to be removed at the end unless another gateway has put its own there since.
struct Place {
    path: PathBuf,
    inode: (u64, u64),
}

impl Place {
    fn of(socket: &UnixListener) -> Option<Self> {
        let path = socket.local_addr().ok()?.as_pathname()?.to_owned();
        let inode = inode(&path)?;
        Some(Self { path, inode })
    }

    fn remove(&self) {
        if inode(&self.path) == Some(self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_for_owner_and_group_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let _socket = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let live = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("admin.sock"), "{error}");
        drop(live);
        assert!(bind(&path).is_ok());
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn only_the_own_file_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = bind(&path).unwrap();
        let place = Place::of(&first).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = bind(&path).unwrap();
        place.remove();
        assert!(path.exists(), "another gateway's socket stays");
        Place::of(&second).unwrap().remove();
        assert!(!path.exists());
    }
}
