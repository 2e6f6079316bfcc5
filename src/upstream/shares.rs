//! How much of a busy server one client may use.
//!
//! While half of a server's connections are free nobody is counted. From there on each exchange is counted for its client, who may
//! hold as many as are free: one client alone gets three quarters of all, and each who comes next finds something left. Who wants
//! more waits in the line of his own client, where he holds up nobody else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::net::ClientKey;

use super::server::{Server, Spoken};

/// What a client may hold however few are free: this part of all, and one at least.
const LEAST: usize = 32;

/// Requests that may stand in the lines of one server, as a multiple of its connections, and at least; a client is given this part
/// of the places.
const STANDING_FACTOR: usize = 4;
const STANDING_AT_LEAST: usize = 1024;
const ONE_CLIENT: usize = 4;

/// Of one server. Holds no more entries than requests that are under way or wait.
#[derive(Default)]
pub(super) struct Shares {
    standing: AtomicUsize,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    /// Of the last who stood here: a reload may change it.
    connections: usize,
    clients: HashMap<ClientKey, Line>,
}

#[derive(Default)]
struct Line {
    held: usize,
    standing: usize,
    freed: Arc<Notify>,
}

/// One exchange that is counted for its client, until this is dropped.
pub(super) struct Share {
    server: Arc<Server>,
    client: ClientKey,
}

/// One request's place in the line of its client. Who leaves wakes the next, so that what is free is never waited for.
pub(super) struct Standing {
    server: Arc<Server>,
    client: ClientKey,
    freed: Arc<Notify>,
    /// Nobody was there before.
    pub first: bool,
}

/// Whether exchanges are counted. Those over HTTP/2 are not: a connection carries many.
pub(super) fn count(server: &Server, connections: usize) -> bool {
    server.outstanding() > connections / 2 && server.spoken() != Spoken::H2
}

impl Shares {
    pub fn standing(&self) -> usize {
        self.standing.load(Ordering::SeqCst)
    }

    /// Tells the first of each line who may have what is free now.
    pub fn offer(&self, server: &Server) {
        if self.standing() == 0 {
            return;
        }
        let lines = self.lines();
        let most = most(server, lines.connections);
        for line in lines.clients.values().filter(|line| line.standing > 0 && line.held < most) {
            line.freed.notify_one();
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Clients that hold or wait, for tests.
    #[cfg(test)]
    pub fn clients(&self) -> usize {
        self.lines().clients.len()
    }
}

impl Lines {
    fn change(&mut self, client: ClientKey, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.clients.get_mut(&client) {
            change(line);
            if line.held == 0 && line.standing == 0 {
                self.clients.remove(&client);
            }
        }
    }
}

impl Standing {
    /// Fails closed: `None` when too many stand in the line of this client, or in all.
    pub fn new(server: &Arc<Server>, client: ClientKey, connections: usize) -> Option<Self> {
        let shares = &server.shares;
        let most = connections.saturating_mul(STANDING_FACTOR).max(STANDING_AT_LEAST);
        let mut lines = shares.lines();
        lines.connections = connections;
        if shares.standing() >= most || lines.clients.get(&client).is_some_and(|line| line.standing >= most / ONE_CLIENT) {
            return None;
        }
        let line = lines.clients.entry(client).or_default();
        let first = line.standing == 0;
        line.standing += 1;
        // Before anything is looked at: who frees looks here after.
        shares.standing.fetch_add(1, Ordering::SeqCst);
        Some(Self { server: Arc::clone(server), client, freed: Arc::clone(&line.freed), first })
    }

    /// Fails closed: `None` while the client holds all that it may.
    pub fn take(&self) -> Option<Share> {
        let mut lines = self.server.shares.lines();
        let most = most(&self.server, lines.connections);
        let line = lines.clients.get_mut(&self.client).filter(|line| line.held < most)?;
        line.held += 1;
        Some(Share { server: Arc::clone(&self.server), client: self.client })
    }

    /// Resolves once the client may hold more. Made before looking, it misses nothing that is freed after.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

/// How many exchanges one client may hold now.
fn most(server: &Server, connections: usize) -> usize {
    let waiting = server.capacity.waiting() + server.shares.standing();
    let busy = server.outstanding().saturating_sub(waiting);
    connections.saturating_sub(busy).max(connections / LEAST).max(1)
}

impl Drop for Share {
    fn drop(&mut self) {
        self.server.shares.lines().change(self.client, |line| line.held -= 1);
        self.server.shares.offer(&self.server);
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut lines = self.server.shares.lines();
        self.server.shares.standing.fetch_sub(1, Ordering::SeqCst);
        let most = most(&self.server, lines.connections);
        lines.change(self.client, |line| {
            line.standing -= 1;
            // Who came meanwhile stood behind this one, and has not looked.
            if line.standing > 0 && line.held < most {
                line.freed.notify_one();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::config::{ServerScheme, ServerUrl};
    use crate::events::Events;
    use crate::net::ClientAddr;

    fn server() -> Arc<Server> {
        let url = ServerUrl { scheme: ServerScheme::Http, host: "127.0.0.1".into(), port: 9 };
        Arc::new(Server::new(0, "portal".into(), url, None, Events::sink()))
    }

    fn client(last: u8) -> ClientKey {
        ClientAddr::new([192, 0, 2, last].into(), 64).key
    }

    /// As many exchanges as a client gets until it would have to wait; they last.
    fn gets(server: &Arc<Server>, client: ClientKey, connections: usize, held: &mut Vec<Share>) -> usize {
        for got in 0..connections {
            server.begin();
            if count(server, connections) {
                let Some(share) = Standing::new(server, client, connections).unwrap().take() else {
                    server.end();
                    return got;
                };
                held.push(share);
            }
        }
        connections
    }

    #[test]
    fn one_client_leaves_a_quarter_and_each_who_follows_finds_something_left() {
        let (server, mut held) = (server(), Vec::new());
        let got: Vec<usize> = (1..=5).map(|last| gets(&server, client(last), 256, &mut held)).collect();
        assert_eq!(got, [192, 32, 16, 8, 8]);
        assert_eq!(server.shares.clients(), 5);
        drop(held);
        assert_eq!((server.shares.clients(), server.shares.standing()), (0, 0));
    }

    #[test]
    fn however_few_connections_there_are_each_client_may_have_one() {
        for connections in 1..=4 {
            let (server, mut held) = (server(), Vec::new());
            assert!(gets(&server, client(1), connections, &mut held) >= 1);
            server.begin();
            assert!(Standing::new(&server, client(2), connections).unwrap().take().is_some(), "it waits for a connection alone");
        }
    }

    #[test]
    fn the_lines_are_bounded_and_one_client_fills_no_more_than_its_own() {
        let server = server();
        let all: Vec<_> = std::iter::from_fn(|| Standing::new(&server, client(1), 4)).collect();
        assert_eq!(all.len(), STANDING_AT_LEAST / ONE_CLIENT);
        let others: Vec<_> = (2..20).flat_map(|last| std::iter::repeat_with(move || client(last)).take(256)).collect();
        let stand: Vec<_> = others.into_iter().filter_map(|client| Standing::new(&server, client, 4)).collect();
        assert_eq!(all.len() + stand.len(), STANDING_AT_LEAST);
        drop((all, stand));
        assert_eq!((server.shares.clients(), server.shares.standing()), (0, 0));
    }

    #[test]
    fn who_leaves_the_line_wakes_the_next_where_there_is_more() {
        let server = server();
        let (one, other) = (Standing::new(&server, client(1), 8).unwrap(), Standing::new(&server, client(1), 8).unwrap());
        assert!(one.first && !other.first);
        let freed = other.freed();
        let _held = one.take().unwrap();
        drop(one);
        assert!(freed.now_or_never().is_some());
    }

    #[test]
    fn who_waits_in_line_is_told_when_its_client_or_anybody_else_frees_something() {
        let (server, mut held) = (server(), Vec::new());
        gets(&server, client(1), 8, &mut held);
        server.begin();
        let waits = Standing::new(&server, client(1), 8).unwrap();
        assert!(waits.first && waits.take().is_none());
        let freed = waits.freed();
        server.end();
        drop(held.pop());
        assert!(freed.now_or_never().is_some());
        held.push(waits.take().unwrap());
        drop(waits);

        // An exchange that was not counted.
        let again = Standing::new(&server, client(1), 8).unwrap();
        server.begin();
        assert!(again.take().is_none());
        let freed = again.freed();
        server.end();
        server.shares.offer(&server);
        assert!(freed.now_or_never().is_some());
        assert!(again.take().is_some());
    }
}
