//! Floor 4: the public door. `Gateway::handle` is one request, top to bottom.

pub mod forward;
pub mod headers;
pub mod inspect;
pub mod listener;
pub mod record;
pub mod respond;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use http::{Request, Response};
use rustls::pki_types::CertificateDer;

use crate::clock::Clock;
use crate::config::Config;
use crate::events::Events;
use crate::net::ClientAddr;
use crate::policy::Policy;
use crate::policy::route::Sni;
use crate::state::accounts::Successes;
use crate::state::approvals::Approvals;
use crate::state::bans::BanTable;
use crate::state::guesses::GuessLedger;
use crate::state::limits::Limits;
use crate::tls::{CertVerdict, TlsState};
use crate::upstream::{Body, Pool, Upstream};

/// Everything that one config means, swapped as one.
pub struct Snapshot {
    pub generation: u64,
    pub config: Arc<Config>,
    pub policy: Arc<Policy>,
    pub tls: Arc<TlsState>,
    pub upstreams: Vec<Arc<Upstream>>,
}

/// The state that survives every reload.
#[derive(Clone)]
pub struct State {
    pub bans: Arc<BanTable>,
    pub guesses: Arc<GuessLedger>,
    pub successes: Arc<Successes>,
    pub limits: Arc<Limits>,
    pub approvals: Arc<Approvals>,
}

/// The door, shared by all workers.
pub struct Gateway {
    pub snapshot: ArcSwap<Snapshot>,
    pub state: State,
    pub events: Events,
    pub clock: Clock,
}

/// What one worker owns.
pub struct Worker {
    pub id: usize,
    pub gateway: Arc<Gateway>,
    pub pool: Pool,
}

/// One accepted connection, after PROXY header and handshake.
pub struct Connection {
    /// The socket's peer.
    pub peer: IpAddr,
    /// The peer, or what its PROXY header said.
    pub client: ClientAddr,
    pub sni: Sni,
    /// The peer's chain, leaf first; empty: none was presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub tls: &'static str,
    /// The last verdict on the chain, with the generation it was made in.
    pub verdict: Mutex<Option<(u64, CertVerdict)>>,
}

impl Worker {
    /// One request, top to bottom. Never fails: every error is an answer.
    pub async fn handle(
        self: Arc<Self>,
        _connection: Arc<Connection>,
        _request: Request<hyper::body::Incoming>,
    ) -> Response<Body> {
        todo!("gateway")
    }
}
