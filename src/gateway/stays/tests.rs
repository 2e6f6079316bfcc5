use std::sync::atomic::AtomicUsize;

use super::*;
use crate::gateway::testing::Room;
use crate::policy::approval::{ApprovalKind, Terms};

impl Room {
    /// An approval in force, from now on for an hour.
    fn approval(&self, hours: Option<&str>) -> Arc<LiveApproval> {
        let approvals = &self.worker.gateway.state.approvals;
        let terms = Terms {
            kind: ApprovalKind::Bot,
            name: "acme-sync".into(),
            owner: "Acme Ltd".into(),
            contact: "ops@acme.example".into(),
            purpose: "import".into(),
            sites: vec!["localhost".into()],
            methods: vec!["GET".into()],
            paths: vec!["/orders/**".into()],
            rate: None,
            hours: hours.map(Into::into),
            not_before: None,
            until: self.now().wall + Duration::from_secs(3600),
            from: Vec::new(),
            binding: None,
            policy_id: "p".into(),
            policy_version: "1".into(),
            requested_at: self.now().wall,
        };
        let (asked, _) = approvals.request(terms, "alice".into(), self.now()).unwrap();
        let (_, token, _) = approvals.activate(&asked.id, "alice".into(), self.now()).unwrap();
        approvals.present(token.as_bytes()).unwrap().0
    }

    fn guest(&self, ip: &str, approval: Option<&Arc<LiveApproval>>) -> Guest {
        let client = ClientAddr::new(ip.parse().unwrap(), 64);
        let path = CanonicalPath::parse("/orders/17").unwrap();
        let snapshot = self.worker.gateway.snapshot.load();
        let site = snapshot.policy.sites.by_host("localhost").unwrap();
        Guest {
            decision: DecisionId(7),
            connection: Arc::new(Connection::new(client.ip, client, Some("localhost".into()), Vec::new(), "TLSv1.3")),
            client,
            method: Method::GET,
            host: "localhost".into(),
            route: Arc::clone(site.route(&path).unwrap()),
            path,
            bot: BotClass::Unmarked,
            identity: None,
            approval: approval.cloned(),
            attempt: false,
            lives_in: Home::Connection(None),
        }
    }

    /// Somebody inside, in a task that ends only when it is aborted.
    fn enter(&self, guest: Guest) -> Inhabited {
        let task = tokio::spawn(std::future::pending::<()>());
        let guest = Guest { lives_in: Home::Connection(Some(task.abort_handle())), ..guest };
        let connection = Arc::clone(&guest.connection);
        Inhabited { stay: self.worker.stays.enter(guest), task, connection }
    }

    /// Places, and how many of them are taken.
    fn crowd(&self) -> (usize, usize) {
        let places = self.worker.stays.held();
        (places.all.len(), places.inside)
    }

    async fn review(&self) {
        self.worker.stays.review(&self.worker.gateway).await;
    }
}

struct Inhabited {
    stay: Stay,
    task: tokio::task::JoinHandle<()>,
    connection: Arc<Connection>,
}

impl Inhabited {
    /// Why it was ended; `None`: it lives.
    async fn ended(self) -> Option<Reason> {
        tokio::task::yield_now().await;
        let (aborted, forsaken) = (self.task.is_finished(), self.connection.ended.load(Ordering::Relaxed));
        let reason = self.stay.leave().map(|denial| denial.reason);
        assert_eq!((aborted, forsaken), (reason.is_some(), reason.is_some()), "one of them alone is half an end");
        reason
    }
}

#[tokio::test]
async fn whoever_may_stay_stays_and_an_approval_ends_its_own_with_its_time_its_hours_and_its_state() {
    for (hours, passes, ends) in [
        (None, 3599, None),
        (None, 3600, Some(Reason::ApprovalRevoked)),
        (Some("08:00-12:30"), 1799, None),
        (Some("08:00-12:30"), 1801, Some(Reason::BotHours)),
    ] {
        let room = Room::open();
        let approval = room.approval(hours);
        let (bot, beside) = (room.enter(room.guest("192.0.2.7", Some(&approval))), room.enter(room.guest("192.0.2.7", None)));
        room.review().await;
        room.clock.advance(Duration::from_secs(passes));
        room.review().await;
        assert_eq!((bot.ended().await, beside.ended().await), (ends, None), "{hours:?} after {passes} s");
    }
    let room = Room::open();
    let approval = room.approval(None);
    let (old, still) = (room.enter(room.guest("192.0.2.7", Some(&approval))), room.enter(room.guest("192.0.2.7", None)));
    let (_, token, _) = room.worker.gateway.state.approvals.activate(&approval.id, "alice".into(), room.now()).unwrap();
    let anew = room.worker.gateway.state.approvals.present(token.as_bytes()).unwrap().0;
    let new = room.enter(room.guest("192.0.2.7", Some(&anew)));
    room.review().await;
    let ended = (old.ended().await, still.ended().await, new.ended().await);
    assert_eq!(ended, (Some(Reason::ApprovalRevoked), None, None), "an older token is void");
}

#[tokio::test]
async fn a_ban_ends_whom_it_holds_and_a_login_attempt_only_if_it_is_not_from_guessing() {
    let room = Room::open();
    let attempt = || Guest { attempt: true, ..room.guest("192.0.2.7", None) };
    let net = |text: &str| BanKey::parse(text, 64).unwrap();
    let (failing, beside, elsewhere) =
        (room.enter(attempt()), room.enter(room.guest("192.0.2.7", None)), room.enter(room.guest("192.0.2.8", None)));
    let _ = room.bans().punish(net("192.0.2.7"), 5, room.now()).unwrap();
    room.review().await;
    let ended = (failing.ended().await, beside.ended().await, elsewhere.ended().await);
    assert_eq!(ended, (None, Some(Reason::Banned), None));

    let succeeded = room.enter(attempt());
    succeeded.stay.succeeded();
    room.review().await;
    assert_eq!(succeeded.ended().await, Some(Reason::Banned), "a success has no failure to hear of");

    let unread = room.enter(room.guest("192.0.2.7", None));
    let late = unread.stay.attempts(&room.worker.gateway, room.now()).unwrap_err();
    assert_eq!(late.reason, Reason::Banned, "nor has one whose body came after the ban");
    let read = room.enter(room.guest("192.0.2.9", None));
    read.stay.attempts(&room.worker.gateway, room.now()).unwrap();
    let _ = room.bans().punish(net("192.0.2.9"), 5, room.now()).unwrap();
    room.review().await;
    assert_eq!((unread.ended().await, read.ended().await), (Some(Reason::Banned), None));

    let (failing, tunnelled) = (room.enter(attempt()), room.worker.stays.enter(attempt()));
    let (_socket, closed) = tokio::sync::oneshot::channel::<()>();
    let (held, open) = tokio::sync::oneshot::channel::<()>();
    tunnelled.go_on(async move {
        let _held = held;
        let _ = closed.await;
    });
    room.review().await;
    let closed = tokio::time::timeout(Duration::from_secs(10), open).await;
    assert!(matches!(closed, Ok(Err(_))), "a tunnel is no answer to a login");
    let _ = room.bans().add(net("192.0.2.0/24"), None, "abuse".into(), "bob".into(), room.now()).unwrap();
    room.review().await;
    assert_eq!(failing.ended().await, Some(Reason::Banned));
}

#[tokio::test]
async fn what_was_ended_is_ended_once_and_a_tunnel_that_ends_leaves() {
    let room = Room::open();
    let banned = room.enter(room.guest("192.0.2.7", None));
    let _ = room.bans().add(BanKey::parse("192.0.2.7", 64).unwrap(), None, "abuse".into(), "bob".into(), room.now());
    room.review().await;
    let metric = || room.worker.gateway.events.metrics().render();
    for _ in 0..3 {
        room.review().await;
        assert!(metric().contains("doorward_exchanges_ended_total{reason=\"banned\"} 1\n"), "{}", metric());
    }
    assert_eq!(banned.ended().await, Some(Reason::Banned));

    room.worker.stays.enter(room.guest("192.0.2.8", None)).go_on(async {});
    assert_eq!(room.crowd(), (1, 1));
    tokio::task::yield_now().await;
    assert_eq!(room.crowd(), (1, 0));
}

#[tokio::test]
async fn places_are_used_again_and_given_back_when_a_crowd_has_left() {
    let room = Room::open();
    let stays = &room.worker.stays;
    let mut inside: Vec<Stay> = (0..8).map(|_| stays.enter(room.guest("192.0.2.7", None))).collect();
    for turn in 0..1000 {
        drop(inside.swap_remove(turn % 8));
        inside.push(stays.enter(room.guest("192.0.2.7", None)));
    }
    assert_eq!(room.crowd(), (8, 8));
    let crowd: Vec<Stay> = (0..KEPT).map(|_| stays.enter(room.guest("192.0.2.7", None))).collect();
    drop(inside);
    room.review().await;
    assert_eq!(room.crowd(), (KEPT + 8, KEPT), "somebody is inside");
    drop(crowd);
    room.review().await;
    assert_eq!(room.crowd(), (0, 0));
    drop(stays.enter(room.guest("192.0.2.7", None)));
    assert_eq!(room.crowd(), (1, 0));
}

#[tokio::test]
async fn a_review_of_many_lets_others_have_their_turn() {
    let room = Room::open();
    let _crowd: Vec<Stay> = (0..SLICE * 10).map(|_| room.worker.stays.enter(room.guest("192.0.2.7", None))).collect();
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    });
    room.review().await;
    other.abort();
    assert!(turns.load(Ordering::Relaxed) >= 8, "{turns:?} turns");
}

/// Its figure stands in the documents: `cargo test --profile profiling --lib 16_384 -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures")]
async fn a_review_of_16_384_stays_takes_milliseconds() {
    let room = Room::open();
    let approval = room.approval(None);
    let _ = room.bans().add(BanKey::parse("198.51.100.0/24", 64).unwrap(), None, "abuse".into(), "bob".into(), room.now());
    for approval in [None, Some(&approval)] {
        let _crowd: Vec<Stay> = (0..16_384u32)
            .map(|number| {
                let ip = std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
                room.worker.stays.enter(room.guest(&ip, approval))
            })
            .collect();
        for _ in 0..3 {
            let begun = std::time::Instant::now();
            room.review().await;
            println!("approval {}: {:?}", approval.is_some(), begun.elapsed());
        }
    }
}
