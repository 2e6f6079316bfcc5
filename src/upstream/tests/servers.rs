//! Which servers there are and how they do: checks, reloads, names.

use super::h2::tls_server;
use super::*;

#[tokio::test]
async fn active_checks_take_a_server_out_and_bring_it_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let good = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answers = good.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(head) = read_head(&mut stream).await {
                let well = answers.load(Ordering::SeqCst) && head.starts_with("GET /healthz HTTP/1.1\r\n");
                let status = if well { "204 No Content" } else { "500 Oops" };
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            }
        }
    });
    let mut spec = spec(vec![url(ServerScheme::Http, address)]);
    spec.health = Some(HealthSpec { path: "/healthz".into(), every: Duration::from_millis(10) });
    let upstreams = Arc::new(Upstreams::new(Events::sink()));
    let first = upstreams.prepare(std::slice::from_ref(&spec), &[None]);
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(upstreams.clone().run_health(stop.clone()));
    upstreams.commit(&first);

    until("it is down", || !upstreams.status()[0].healthy).await;
    assert!(upstreams.status()[0].last_error.as_deref().is_some_and(|error| error.contains("500")));
    let error = Pool::new().send(&first[0], get("/")).await.err().unwrap();
    assert_eq!((error.kind, error.unsent), (ForwardErrorKind::Unavailable, true));

    let reloaded = upstreams.prepare(std::slice::from_ref(&spec), &[None]);
    upstreams.commit(&reloaded);
    assert!(!upstreams.status()[0].healthy, "health survives a reload");

    good.store(true, Ordering::SeqCst);
    until("it is up again", || upstreams.status()[0].healthy).await;

    good.store(false, Ordering::SeqCst);
    until("it is down again", || !upstreams.status()[0].healthy).await;
    spec.health = None;
    upstreams.commit(&upstreams.prepare(std::slice::from_ref(&spec), &[None]));
    assert!(upstreams.status()[0].healthy, "without checks nothing says that it is down");

    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn servers_that_a_reload_leaves_unchanged_are_the_same() {
    let upstreams = Upstreams::new(Events::sink());
    let (one, two) = (nobody().await, nobody().await);
    let specs = [spec(vec![url(ServerScheme::Http, one), url(ServerScheme::Http, two)])];
    let before = upstreams.prepare(&specs, &[None]);
    before[0].servers[0].checked(Err("down".into()));
    let after = upstreams.prepare(&[spec(vec![url(ServerScheme::Http, one), url(ServerScheme::H2c, two)])], &[None]);
    assert!(Arc::ptr_eq(&before[0].servers[0], &after[0].servers[0]));
    assert!(after[0].servers[0].is_down());
    assert!(!Arc::ptr_eq(&before[0].servers[1], &after[0].servers[1]), "another scheme is another server");

    let kept = Arc::downgrade(&before[0].servers[1]);
    upstreams.commit(&before);
    upstreams.commit(&after);
    drop(before);
    assert!(kept.upgrade().is_none(), "a server in no snapshot is forgotten");
    assert_eq!(upstreams.status().len(), 2);
}

#[tokio::test]
async fn a_new_tls_configuration_is_a_new_server_that_inherits_health() {
    let upstreams = Upstreams::new(Events::sink());
    let server = tls_server(false).await;
    let specs = [spec(vec![url(ServerScheme::Https, server.address)])];
    let before = upstreams.prepare(&specs, &[Some(server.client.clone())]);
    before[0].servers[0].checked(Err("down".into()));
    let same = upstreams.prepare(&specs, &[Some(server.client.clone())]);
    assert!(Arc::ptr_eq(&before[0].servers[0], &same[0].servers[0]));
    let anew = upstreams.prepare(&specs, &[Some(Arc::new((*server.client).clone()))]);
    assert!(!Arc::ptr_eq(&before[0].servers[0], &anew[0].servers[0]));
    assert!(anew[0].servers[0].is_down());
}

#[test]
fn names_that_do_not_resolve_are_named() {
    let named = |host: &str| ServerUrl { scheme: ServerScheme::Http, host: host.into(), port: 80 };
    let broken = "a".repeat(300);
    let specs = [spec(vec![named("localhost"), named("127.0.0.1")]), spec(vec![named("::1"), named(&broken)])];
    let faults = resolve_all(&specs, PATIENCE);
    assert_eq!(faults.iter().map(|(upstream, server, _)| (*upstream, *server)).collect::<Vec<_>>(), [(1, 1)]);
    assert!(faults[0].2.contains("does not resolve"));
}
