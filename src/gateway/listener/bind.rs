//! Listening sockets, one a worker.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Bound sockets, made in `prepare` so that `commit` cannot fail; kept over reloads where the address is unchanged.
pub struct Sockets {
    pub address: SocketAddr,
    pub kind: ListenerKind,
    /// One per worker (SO_REUSEPORT), each taken once.
    pub per_worker: Vec<TcpListener>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    Https,
    /// Never forwards.
    PlainHttp,
}

/// Connections that the kernel may hold for a worker that is busy.
pub(super) const BACKLOG: i32 = 4096;

/// When a peer is asked whether it is still there that was sent nothing and said nothing: while an answer is in the making, or in
/// a tunnel, nothing else finds out. Two minutes in all, which a network may be away for.
const ASKED_AFTER: Duration = Duration::from_secs(30);
const ASKED_EVERY: Duration = Duration::from_secs(15);
const ASKED_TIMES: u32 = 6;

/// Binds with SO_REUSEPORT, backlog 4096, V6ONLY off; `[::]` falls back to `0.0.0.0` on a host without IPv6. Port 0 works:
/// all workers get the same port, and `Sockets::address` tells which.
pub fn bind(address: SocketAddr, kind: ListenerKind, workers: usize) -> io::Result<Sockets> {
    let first = first(address)?;
    let address = first.local_addr()?;
    let mut per_worker = vec![first];
    while per_worker.len() < workers {
        per_worker.push(listen(socket(address)?, address)?);
    }
    Ok(Sockets { address, kind, per_worker })
}

/// Refuses an address where somebody listens, another gateway too: with SO_REUSEPORT alone the kernel would share that one's
/// connections between both. Other errors are left to [`bind`].
pub fn vacant(address: SocketAddr) -> io::Result<()> {
    let probe = || {
        let socket = socket(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    match probe() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        _ => Ok(()),
    }
}

/// What the connections of a listener inherit. None of it is of the essence, so that a kernel without it serves too.
pub(super) fn tune(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    // Answers are written whole; waiting to fill a segment only delays them.
    let _ = socket.set_tcp_nodelay(true);
    // No TCP_NOTSENT_LOWAT: slow readers would show progress sooner, but bodies of 10 MB cost up to two thirds more CPU time.
    let probes = TcpKeepalive::new().with_time(ASKED_AFTER).with_interval(ASKED_EVERY).with_retries(ASKED_TIMES);
    let _ = socket.set_tcp_keepalive(&probes);
}

fn first(address: SocketAddr) -> io::Result<TcpListener> {
    let any = address.is_ipv6() && address.ip().is_unspecified();
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    // A kernel without IPv6 refuses the family; one with IPv6 switched off refuses the address.
    match socket(address) {
        Err(_) if any => listen(socket(v4)?, v4),
        Err(error) => Err(error),
        Ok(socket_v6) => match listen(socket_v6, address) {
            Err(error) if any && error.kind() == io::ErrorKind::AddrNotAvailable => listen(socket(v4)?, v4),
            done => done,
        },
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

fn listen(socket: Socket, address: SocketAddr) -> io::Result<TcpListener> {
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_port_zero_all_workers_share_one_port() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), ListenerKind::Https, 3).unwrap();
        assert_ne!(sockets.address.port(), 0);
        assert_eq!(sockets.per_worker.len(), 3);
        assert!(sockets.per_worker.iter().all(|listener| listener.local_addr().unwrap() == sockets.address));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn connections_inherit_what_their_listener_was_told() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), ListenerKind::Https, 1).unwrap();
        let listener = &sockets.per_worker[0];
        tune(listener);
        let _client = std::net::TcpStream::connect(sockets.address).unwrap();
        let accepted = loop {
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap() && accepted.tcp_nodelay().unwrap());
        let asked = (accepted.tcp_keepalive_time(), accepted.tcp_keepalive_interval(), accepted.tcp_keepalive_retries());
        assert_eq!((asked.0.unwrap(), asked.1.unwrap(), asked.2.unwrap()), (ASKED_AFTER, ASKED_EVERY, ASKED_TIMES));
    }

    #[test]
    fn every_address_includes_ipv4() {
        let sockets = bind("[::]:0".parse().unwrap(), ListenerKind::PlainHttp, 1).unwrap();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, sockets.address.port())).unwrap();
    }

    #[test]
    fn an_address_that_another_gateway_shares_is_not_vacant() {
        let taken = bind("127.0.0.1:0".parse().unwrap(), ListenerKind::Https, 2).unwrap();
        assert_eq!(vacant(taken.address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let address = taken.address;
        drop(taken);
        vacant(address).unwrap();
    }

    #[test]
    fn an_address_that_is_not_ours_is_an_error() {
        assert!(bind("192.0.2.1:0".parse().unwrap(), ListenerKind::Https, 1).is_err());
    }
}
