//! Promise: whose right ends is out within a second, with all that he has under way, and nobody else is.

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::support::caller::Caller;
use crate::support::underway::{
    AT_LAST, Party, all_end, all_live, all_live_to_the_end, h2, house, house_of, rest, until, uploading,
};
use crate::support::upstream::{Toy, h2_request};
use crate::support::{BASE, approve, credentials, event, form, open, rewrite, run, told};

#[test]
fn trap_a_connection_stays_after_revocation_a_revoked_certificate_ends_all_that_it_has_under_way() {
    let (mut stage, portal) = house();
    run(async {
        let partner = Party::of(Caller::new(&stage, [1, 1]).with("other"));
        let bystander = Party::of(Caller::new(&stage, [1, 1]).with("good"));
        let ending = partner.all_forms(&portal, "").await;
        let staying = bystander.all_forms(&portal, "").await;
        stage.pki.write_crl(2, &[66, 11]).expect("a CRL");
        told(&stage, &["reload"]);
        let events = all_end(&mut stage, &portal, ending, "revoked").await;
        for event in events {
            assert_eq!((&event["identity"], &event["cause"]), (&"acme:urn:acme:reports".into(), &"revoked".into()), "{event}");
        }
        all_live_to_the_end(&portal, staying).await;
    });
}

#[test]
fn an_approval_that_is_suspended_or_revoked_ends_its_streams_and_no_other_on_the_same_connection() {
    let (mut stage, portal) = house();
    let terms = ["--path", "/**", "--method", "GET", "--method", "POST"];
    let ((first, first_token), (second, second_token)) = (approve(&stage, &terms), approve(&stage, &terms));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        let shared = h2(&caller).await;
        let of = |token: &str| Party {
            lines: format!("Doorward-Approval: {token}\r\n"),
            h2: Some(shared.clone()),
            ..Party::of(caller.clone())
        };
        let ours = of(&first_token).all_forms(&portal, "").await;
        let mut theirs = of(&second_token).all_forms(&portal, "").await;
        let anonymous = Party { h2: Some(shared.clone()), ..Party::of(caller.clone()) }.all_forms(&portal, "").await;

        told(&stage, &["approvals", "suspend", &first, "--reason", "a question"]);
        let events = all_end(&mut stage, &portal, ours, "approval-revoked").await;
        assert!(events.iter().all(|event| event["approval"] == *first), "{events:?}");
        all_live(&portal, &mut theirs).await;
        told(&stage, &["approvals", "revoke", &second, "--reason", "contract ended"]);
        let events = all_end(&mut stage, &portal, theirs, "approval-revoked").await;
        assert!(events.iter().all(|event| event["approval"] == *second), "{events:?}");
        all_live_to_the_end(&portal, anonymous).await;
    });
}

#[test]
fn a_ban_of_an_address_or_an_identity_ends_exactly_what_is_theirs() {
    let (mut stage, portal) = house();
    run(async {
        let stranger = Party::of(Caller::new(&stage, [1, 1]));
        let proven = Party::of(Caller::new(&stage, [1, 1]).with("good"));
        let elsewhere = Party::of(Caller::new(&stage, [1, 2]));
        let strangers = stranger.all_forms(&portal, "").await;
        let mut provens = proven.all_forms(&portal, "").await;
        let mut elsewheres = elsewhere.all_forms(&portal, "").await;

        told(&stage, &["bans", "add", "127.0.1.1", "--reason", "abuse"]);
        all_end(&mut stage, &portal, strangers, "banned").await;
        all_live(&portal, &mut elsewheres).await;
        // Who proves who he is, is not held by an address ban, and comes in under it.
        all_live(&portal, &mut provens).await;
        let mut later = proven.all_forms(&portal, "later").await;

        told(&stage, &["bans", "add", "identity:acme:urn:acme:orders", "--reason", "abuse"]);
        provens.append(&mut later);
        all_end(&mut stage, &portal, provens, "banned").await;
        all_live_to_the_end(&portal, elsewheres).await;
    });
}

#[test]
fn behind_a_trusted_proxy_a_ban_of_one_client_ends_only_what_is_his() {
    let (mut stage, portal) = house();
    run(async {
        let proxy = Caller::new(&stage, [8, 1]);
        let shared = h2(&proxy).await;
        let client = |address: &str| Party {
            lines: format!("X-Forwarded-For: {address}\r\n"),
            h2: Some(shared.clone()),
            ..Party::of(proxy.clone())
        };
        let banned = client("203.0.113.7").all_forms(&portal, "").await;
        let beside = client("203.0.113.8").all_forms(&portal, "").await;
        told(&stage, &["bans", "add", "203.0.113.7", "--reason", "abuse"]);
        let events = all_end(&mut stage, &portal, banned, "banned").await;
        assert!(events.iter().all(|event| event["client"] == "203.0.113.7"), "{events:?}");
        all_live_to_the_end(&portal, beside).await;
    });
}

#[test]
fn a_reload_ends_whom_it_no_longer_lets_in_and_cuts_nobody_else() {
    let (mut stage, portal) = house_of(1);
    run(async {
        let partner = Party::of(Caller::new(&stage, [1, 1]).with("good"));
        let stranger = Party::of(Caller::new(&stage, [1, 2]));
        let mut partners = partner.all_forms(&portal, "").await;
        let mut strangers = stranger.all_forms(&portal, "").await;
        let changes: [fn(String) -> String; 3] = [
            |text| text,
            |text| text.replace("body = \"60s\"", "body = \"50s\""),
            // Its route is gone: what came by it goes on.
            |text| text.replace("path = \"/\"", "path = \"/login\""),
        ];
        for (number, change) in (0..).zip(changes) {
            let last = Party::of(Caller::new(&stage, [9, number])).form(&portal, "/download/", false, "last").await;
            let reloaded = rewrite(&stage, change);
            assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
            // Once who came last is out, everybody was decided anew by the new snapshot: there is one worker.
            told(&stage, &["bans", "add", &format!("127.0.9.{number}"), "--reason", "test"]);
            all_end(&mut stage, &portal, vec![last], "banned").await;
            all_live(&portal, &mut partners).await;
            all_live(&portal, &mut strangers).await;
        }
        let demanding =
            rewrite(&stage, |text| text.replace("path = \"/login\"\n ", "path = \"/\"\n  allow = [\"role:integrator\"]\n "));
        assert!(demanding.status.success(), "{}", String::from_utf8_lossy(&demanding.stderr));
        all_end(&mut stage, &portal, strangers, "not-permitted").await;
        all_live(&portal, &mut partners).await;
        // Nobody vouches any more for whom the application still takes for Acme.
        let open =
            rewrite(&stage, |text| text.replace("client_ca = [\"acme\"]\n", "").replace("  allow = [\"role:integrator\"]\n", ""));
        assert!(open.status.success(), "{}", String::from_utf8_lossy(&open.stderr));
        all_end(&mut stage, &portal, partners, "client-cert-refused").await;
    });
}

#[test]
fn a_failed_login_is_told_so_though_it_made_the_ban_and_an_operators_ban_ends_it() {
    let (mut stage, portal) = house();
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        let download = Party::of(caller.clone()).form(&portal, "/download/", false, "theirs").await;
        // Three failures ban; the answer to the last is still coming when the ban has long been reviewed.
        for number in 0..2 {
            assert_eq!(caller.send(form(), credentials("alice", &format!("guess {number}"))).await.status, 401);
        }
        let mut last = caller.shake().await.expect("a handshake");
        let body = credentials("alice", "guess slow");
        let ask = format!(
            "POST /login HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nContent-Type: \
             application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        last.write_all(ask.as_bytes()).await.expect("a reader");
        assert!(until(&mut last, "half of it").await.starts_with("HTTP/1.1 401"));
        event(&mut stage, &[r#""event":"ban.made""#, "127.0.1.1"]).await;
        all_end(&mut stage, &portal, vec![download], "banned").await;
        portal.change("login", |seen| seen.answer = true);
        until(&mut last, "and the rest").await;

        // Whom an operator bans while he waits for the outcome does not hear it.
        let other = Caller::new(&stage, [1, 3]);
        let mut waiting = other.shake().await.expect("a handshake");
        portal.change("login", |seen| seen.answer = false);
        waiting.write_all(ask.as_bytes()).await.expect("a reader");
        until(&mut waiting, "half of it").await;
        told(&stage, &["bans", "add", "127.0.1.3", "--reason", "abuse"]);
        event(&mut stage, &[r#""event":"exchange.ended""#, r#""client":"127.0.1.3""#]).await;
        assert!(!rest(&mut waiting).await.contains("and the rest"));
    });
}

#[test]
fn an_upload_over_http2_to_an_application_that_speaks_it_too_ends_on_both_sides() {
    let (tell, mut heard) = mpsc::unbounded_channel();
    let toy = Toy::hyper(true, None, move |request: http::Request<Incoming>| {
        let tell = tell.clone();
        async move {
            // The answer is there, and the request goes on.
            let mut body = request.into_body();
            tokio::spawn(async move {
                while let Some(frame) = body.frame().await {
                    let whole = frame.map(|frame| frame.into_data().expect("data").len()).map_err(|_| ());
                    let broken = whole.is_err();
                    let _ = tell.send(whole);
                    if broken {
                        break;
                    }
                }
            });
            http::Response::new(StreamBody::new(futures_util::stream::pending()).boxed_unsync())
        }
    });
    let mut stage =
        open(&format!("{}{}", BASE.replace("body = \"2s\"", "body = \"60s\""), toy.site().replace("http://", "h2c://")));
    run(async {
        let mut sender = h2(&Caller::new(&stage, [1, 1])).await;
        let (chunks, body) = uploading();
        let answer = sender.send_request(h2_request("POST", "/").body(body).expect("a request")).await.expect("an answer");
        chunks.send(Ok(Frame::data(Bytes::from_static(b"some")))).expect("an upload");
        assert_eq!(heard.recv().await, Some(Ok(4)));
        told(&stage, &["bans", "add", "127.0.1.1", "--reason", "abuse"]);
        event(&mut stage, &[r#""event":"exchange.ended""#, r#""reason":"banned""#]).await;
        // Not a byte more comes from the client: nothing but the end of the exchange can end the upload.
        assert_eq!(tokio::time::timeout(AT_LAST, heard.recv()).await.expect("the application is told"), Some(Err(())));
        assert!(answer.into_body().collect().await.is_err());
        let _ = chunks.send(Ok(Frame::data(Bytes::from_static(b"more"))));
        tokio::time::timeout(AT_LAST, chunks.closed()).await.expect("the stream is reset");
    });
}
