//! Accept, slots, bans before TLS, PROXY header, handshake, HTTP by ALPN, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Worker;

/// Bound sockets, made in `prepare` so that `commit` cannot fail; kept over reloads where the address is unchanged.
pub struct Sockets {
    pub address: SocketAddr,
    pub kind: ListenerKind,
    /// One per worker (SO_REUSEPORT), each taken once.
    pub per_worker: Vec<std::net::TcpListener>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Https,
    /// Never forwards.
    PlainHttp,
}

/// Slots shared by all workers: connections in all and per client, handshakes per client.
pub struct Slots {}

impl Slots {
    pub fn new(_caps: &crate::config::Caps) -> Self {
        todo!("listener")
    }

    pub fn reconcile(&self, _caps: &crate::config::Caps) {
        todo!("listener")
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        todo!("listener")
    }

    pub fn sweep(&self, _now: crate::clock::Now) {
        todo!("listener")
    }
}

/// Binds with SO_REUSEPORT, backlog 4096, V6ONLY off; `[::]` falls back to `0.0.0.0` on a host without IPv6. Port 0 works:
/// all workers get the same port, and `Sockets::address` tells which.
pub fn bind(_address: SocketAddr, _kind: ListenerKind, _workers: usize) -> std::io::Result<Sockets> {
    todo!("listener")
}

/// Accepts until `stop`, then lets what is open finish until the deadline, then cuts it. Returns how many were cut.
/// Runs on the worker's own current-thread runtime (`tokio::task::spawn` stays on it).
pub async fn serve(
    _worker: Arc<Worker>,
    _listener: std::net::TcpListener,
    _kind: ListenerKind,
    _slots: Arc<Slots>,
    _stop: CancellationToken,
    _drain: Duration,
) -> usize {
    todo!("listener")
}
