//! Honest clients, who go on asking at a steady rate while others misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Door;

/// A crowd at work.
pub struct Honest {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<()>>,
    started: Instant,
}

#[derive(Default)]
struct Tally {
    over: AtomicBool,
    asked: AtomicU64,
    answered: AtomicU64,
    worst: AtomicU64,
}

/// How they fared.
#[derive(Clone, Copy, Debug)]
pub struct Fared {
    pub asked: u64,
    pub answered: u64,
    pub worst: Duration,
    pub per_second: f64,
}

impl Honest {
    /// So many clients, each with an address and an HTTP/2 connection of its own, at so many requests a second in all.
    pub async fn start(door: &Door, clients: u8, per_second: u32) -> std::io::Result<Self> {
        let tally = Arc::<Tally>::default();
        let pace = Duration::from_secs(1) * u32::from(clients) / per_second;
        let mut crowd = Vec::new();
        for client in 0..clients {
            let stream = door.tls([250, client + 1], "h2").await?;
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
            tokio::spawn(connection);
            crowd.push(sender);
        }
        let started = Instant::now();
        let clients = (0..).zip(crowd).map(|(place, sender)| {
            let first = started + pace * place / u32::from(clients);
            tokio::spawn(ask(sender, first, pace, Arc::clone(&tally)))
        });
        Ok(Self { clients: clients.collect(), tally, started })
    }

    /// Ends their work.
    pub async fn fared(self) -> Fared {
        let took = self.started.elapsed();
        self.tally.over.store(true, Ordering::SeqCst);
        for client in self.clients {
            // One that broke has answers missing.
            let _ = client.await;
        }
        let answered = self.tally.answered.load(Ordering::SeqCst);
        Fared {
            asked: self.tally.asked.load(Ordering::SeqCst),
            answered,
            worst: Duration::from_micros(self.tally.worst.load(Ordering::SeqCst)),
            per_second: answered as f64 / took.as_secs_f64(),
        }
    }
}

async fn ask(mut sender: http2::SendRequest<Empty<Bytes>>, first: Instant, pace: Duration, tally: Arc<Tally>) {
    let mut ticks = interval_at(first, pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !tally.over.load(Ordering::SeqCst) {
        let due = ticks.tick().await;
        tally.asked.fetch_add(1, Ordering::SeqCst);
        let request = Request::get("https://localhost/honest").body(Empty::new());
        let Ok(request) = request else { return };
        let asked = async {
            sender.ready().await.ok()?;
            let response = sender.send_request(request).await.ok().filter(|response| response.status() == 200)?;
            response.into_body().collect().await.ok()
        };
        let Ok(Some(_)) = super::within(asked).await else { continue };
        tally.answered.fetch_add(1, Ordering::SeqCst);
        // From when it was due, so that waiting behind others is counted.
        let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        tally.worst.fetch_max(took, Ordering::SeqCst);
    }
}

impl Fared {
    /// Every one was answered, none later than this.
    pub fn well(&self, within: Duration) -> bool {
        self.answered == self.asked && self.worst <= within
    }
}
