//! How many connections a server is given, and the queue before them.

use super::h2::h2_echo;
use super::*;
use crate::net::ClientAddr;

fn capped(scheme: ServerScheme, address: SocketAddr, connections: usize, queue: Duration) -> Arc<Upstream> {
    prepared(&UpstreamSpec { connections, queue, ..spec(vec![url(scheme, address)]) })
}

/// A server that answers when it is told to, and the most requests it had at one time.
async fn slow() -> (SocketAddr, Arc<tokio::sync::Semaphore>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (go, open, most) =
        (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (told, peak) = (go.clone(), most.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (told, open) = (told.clone(), open.clone());
            let peak = peak.clone();
            tokio::spawn(async move {
                while read_head(&mut stream).await.is_some() {
                    peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    told.acquire().await.unwrap().forget();
                    open.fetch_sub(1, Ordering::SeqCst);
                    stream.write_all(OK).await.unwrap();
                }
            });
        }
    });
    (address, go, most)
}

#[tokio::test]
async fn a_server_never_has_more_connections_than_it_is_given_and_all_who_wait_are_served() {
    let (address, go, most) = slow().await;
    let upstream = capped(ServerScheme::Http, address, 3, PATIENCE);
    // two workers
    let pools = [Pool::new(), Pool::new()];
    let all = (0..60).map(|at| {
        let (pool, upstream) = (&pools[at % 2], &upstream);
        async move { finish(pool.send(upstream, get("/")).await.unwrap()).await.0 }
    });
    let release = async {
        until("all are there", || upstream.servers[0].outstanding() == 60).await;
        assert!(upstream.servers[0].capacity.seats() <= 3);
        go.add_permits(60);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(all), release);
    assert!(answers.iter().all(|status| *status == 200));
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
    assert!(!upstream.servers[0].capacity.is_queued());
}

fn of(last: u8) -> Outbound {
    Outbound { client: Some(ClientAddr::new([192, 0, 2, last].into(), 64).key), ..get("/").into() }
}

#[tokio::test]
async fn trap_one_client_that_holds_its_connections_leaves_some_to_others_and_waits_for_its_own() {
    let (address, go, most) = slow().await;
    let upstream = capped(ServerScheme::Http, address, 8, PATIENCE);
    let pools = [Pool::new(), Pool::new()];
    let server = &upstream.servers[0];
    let mut all = futures_util::stream::FuturesUnordered::new();
    for at in 0..20 {
        all.push(pools[at % 2].send(&upstream, of(1)));
    }
    let others = async {
        until("all of one client are there", || server.outstanding() == 20 && most.load(Ordering::SeqCst) == 6).await;
        let neighbours = futures_util::future::join(pools[0].send(&upstream, of(2)), pools[1].send(&upstream, of(3)));
        let look = async {
            until("others are served", || most.load(Ordering::SeqCst) == 8).await;
            assert_eq!((server.shares.standing(), server.capacity.waiting()), (14, 0));
            go.add_permits(22);
        };
        let ((two, three), ()) = futures_util::future::join(neighbours, look).await;
        for reply in [two, three] {
            assert_eq!(finish(reply.unwrap()).await.0, 200);
        }
    };
    let own = async {
        while let Some(reply) = all.next().await {
            assert_eq!(finish(reply.unwrap()).await.0, 200);
        }
    };
    tokio::join!(own, others);
    assert_eq!((server.outstanding(), server.shares.standing(), server.shares.clients()), (0, 0, 0));
}

#[tokio::test]
async fn a_client_that_is_alone_has_all_of_its_requests_served_however_few_connections_there_are() {
    for connections in [1, 2, 3, 8] {
        let server = raw(OK, false).await;
        let upstream = capped(ServerScheme::Http, server.address, connections, PATIENCE);
        let pools = [Pool::new(), Pool::new()];
        let all = (0..200).map(|at| {
            let (pool, upstream) = (&pools[at % 2], &upstream);
            async move { finish(pool.send(upstream, of(1)).await.unwrap()).await.0 }
        });
        assert!(futures_util::future::join_all(all).await.iter().all(|status| *status == 200));
        assert_eq!(upstream.servers[0].shares.clients(), 0);
    }
}

#[tokio::test]
async fn who_waits_too_long_for_its_own_share_is_told_so_and_leaves_no_trace() {
    let (address, go, most) = slow().await;
    let upstream = capped(ServerScheme::Http, address, 4, Duration::from_millis(30));
    let pool = Pool::new();
    let held = futures_util::future::join_all((0..3).map(|_| pool.send(&upstream, of(1))));
    let refused = async {
        until("its share is taken", || most.load(Ordering::SeqCst) == 3).await;
        let error = pool.send(&upstream, of(1)).await.err().unwrap();
        assert_eq!((error.kind, error.unsent), (ForwardErrorKind::Unavailable, true));
        assert!(error.cause.contains("its client"), "{}", error.cause);
        assert!(upstream.servers[0].status(Instant::now()).healthy);
        go.add_permits(3);
    };
    let (held, ()) = tokio::join!(held, refused);
    for reply in held {
        assert_eq!(finish(reply.unwrap()).await.0, 200);
    }
    assert_eq!((upstream.servers[0].shares.standing(), upstream.servers[0].shares.clients()), (0, 0));
}

#[tokio::test]
async fn who_waits_too_long_is_told_so_and_nothing_of_it_was_sent() {
    let (address, go, _) = slow().await;
    let upstream = capped(ServerScheme::Http, address, 1, Duration::from_millis(30));
    let pool = Pool::new();
    let held = pool.send(&upstream, get("/held"));
    let refused = async {
        until("the connection is taken", || upstream.servers[0].capacity.seats() == 1).await;
        let error = pool.send(&upstream, get("/late")).await.err().unwrap();
        assert_eq!((error.kind, error.unsent), (ForwardErrorKind::Unavailable, true));
        assert!(error.cause.contains("busy"), "{}", error.cause);
        assert!(upstream.servers[0].status(Instant::now()).healthy, "busy is not broken");
        go.add_permits(1);
    };
    let (held, ()) = tokio::join!(held, refused);
    assert_eq!(finish(held.unwrap()).await.0, 200);
}

#[tokio::test]
async fn a_connection_idle_on_another_workers_shelf_makes_room() {
    let server = raw(OK, false).await;
    let upstream = capped(ServerScheme::Http, server.address, 1, PATIENCE);
    let pools = [Pool::new(), Pool::new()];
    for turn in 0..6 {
        finish(pools[turn % 2].send(&upstream, get("/")).await.unwrap()).await;
        until("it lies idle", || pools[turn % 2].idle() == 1).await;
        assert_eq!(upstream.servers[0].capacity.seats(), 1);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_leaves_no_trace() {
    let (address, go, _) = slow().await;
    let upstream = capped(ServerScheme::Http, address, 1, PATIENCE);
    let pool = Pool::new();
    let held = pool.send(&upstream, get("/held"));
    tokio::pin!(held);
    assert!(tokio::time::timeout(Duration::from_millis(20), held.as_mut()).await.is_err());
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_millis(1), pool.send(&upstream, get("/gone"))).await.is_err());
    }
    assert!(!upstream.servers[0].capacity.is_queued());
    go.add_permits(2);
    finish(held.await.unwrap()).await;
    finish(pool.send(&upstream, get("/next")).await.unwrap()).await;
    assert_eq!(upstream.servers[0].outstanding(), 0);
}

#[tokio::test]
async fn a_shared_connection_counts_once_and_its_streams_are_waited_for() {
    let (address, _seen) = h2_echo(2).await;
    let upstream = capped(ServerScheme::H2c, address, 1, PATIENCE);
    let pool = Pool::new();
    finish(pool.send(&upstream, get("/")).await.unwrap()).await;
    finish(pool.send(&upstream, get("/")).await.unwrap()).await;
    let all = (0..40).map(|_| async { finish(pool.send(&upstream, get("/")).await.unwrap()).await.0 });
    assert!(futures_util::future::join_all(all).await.iter().all(|status| *status == 200));
    assert_eq!((pool.shared(), upstream.servers[0].capacity.seats()), (1, 1));
}

#[tokio::test]
async fn a_stream_that_is_free_on_one_workers_connection_is_not_lost_on_who_waits_on_another() {
    let (address, _seen) = h2_echo(2).await;
    let upstream = capped(ServerScheme::H2c, address, 2, PATIENCE);
    let pools = [Pool::new(), Pool::new()];
    let mut held = Vec::new();
    for pool in &pools {
        finish(pool.send(&upstream, get("/")).await.unwrap()).await;
        for _ in 0..2 {
            held.push(pool.send(&upstream, get("/held")).await.unwrap());
        }
    }
    let mut elsewhere = std::pin::pin!(pools[1].send(&upstream, get("/elsewhere")));
    assert!(futures_util::poll!(elsewhere.as_mut()).is_pending());
    let mut here = std::pin::pin!(pools[0].send(&upstream, get("/here")));
    assert!(futures_util::poll!(here.as_mut()).is_pending());
    finish(held.remove(0)).await;
    tokio::select! {
        reply = &mut here => drop(reply.unwrap()),
        reply = &mut elsewhere => panic!("nothing was free there: {:?}", reply.map(drop)),
    }
    finish(held.pop().unwrap()).await;
    drop(elsewhere.await.unwrap());
}

#[tokio::test]
async fn a_server_that_never_answers_is_ejected_while_another_does() {
    let (mute, good) = (raw(b"", true).await, raw(OK, false).await);
    let (pool, upstream) = (Pool::new(), plain(&[mute.address, good.address]));
    let mut failed = 0;
    for _ in 0..40 {
        match pool.send(&upstream, get("/")).await {
            Ok(reply) => drop(finish(reply).await),
            Err(_) => failed += 1,
        }
    }
    assert_eq!((failed, mute.connections.load(Ordering::SeqCst)), (5, 5), "five in a row, then it is left alone");
    assert!(!upstream.servers[0].status(Instant::now()).healthy);

    let alone = plain(&[mute.address]);
    for _ in 0..20 {
        assert_eq!(pool.send(&alone, get("/")).await.err().unwrap().kind, ForwardErrorKind::BadGateway, "the last one stays");
    }
}
