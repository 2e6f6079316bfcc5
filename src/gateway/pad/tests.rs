use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use http_body_util::{Empty, Full, StreamBody};
use tokio::time::sleep;

use super::*;

const PAD: Duration = Duration::from_millis(250);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

fn frames(frames: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(bytes)))
}

fn gone() -> BodyError {
    BodyError::Peer("it broke off".to_owned())
}

/// When the answer of an application leaves that takes so long.
async fn left_after(length: Duration, takes: Duration) -> Duration {
    let began = Instant::now();
    let pad = Pad::begin(length);
    sleep(takes).await;
    pad.hold(Ok::<_, Infallible>(Response::new(full("no such account, or a wrong password")))).await.unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn trap_timing_leak_of_user_existence_known_and_unknown_accounts_are_answered_at_the_same_time() {
    // A password is hashed only for an account that exists.
    let (known, unknown) = (left_after(PAD, ms(80)).await, left_after(PAD, ms(2)).await);
    assert_eq!((known, unknown), (PAD, PAD));
}

#[tokio::test(start_paused = true)]
async fn an_application_slower_than_the_pad_is_heard_on_multiples_of_it_only() {
    for (takes, leaves) in
        [(0, 250), (1, 250), (249, 250), (250, 250), (251, 500), (333, 500), (499, 500), (501, 750), (30_001, 30_250)]
    {
        assert_eq!(left_after(PAD, ms(takes)).await, ms(leaves), "{takes} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_is_held_as_an_answer_is() {
    let began = Instant::now();
    let pad = Pad::begin(PAD);
    sleep(ms(600)).await;
    assert!(pad.is_over());
    assert_eq!(pad.hold(Err::<Response<Body>, _>("504")).await.unwrap_err(), "504");
    assert_eq!(began.elapsed(), ms(750));
}

#[tokio::test(start_paused = true)]
async fn zero_holds_nothing() {
    for takes in [0, 3, 700] {
        assert_eq!(left_after(Duration::ZERO, ms(takes)).await, ms(takes));
    }
    let pad = Pad::begin(Duration::ZERO);
    sleep(ms(5)).await;
    assert!(!pad.is_over());
}

#[tokio::test(start_paused = true)]
async fn only_what_comes_after_the_first_multiple_is_late() {
    let pad = Pad::begin(PAD);
    for (passes, over) in [(249, false), (1, false), (1, true)] {
        sleep(ms(passes)).await;
        assert_eq!(pad.is_over(), over);
    }
}

#[tokio::test(start_paused = true)]
async fn trap_timing_leak_of_user_existence_no_header_tells_when_a_held_answer_came() {
    for (length, kept) in [(PAD, 1), (Duration::ZERO, 1 + TELLING.len())] {
        let mut response = Response::new(full("no"));
        for name in TELLING {
            response.headers_mut().append(name, "80".parse().unwrap());
            response.headers_mut().append(name, "81".parse().unwrap());
        }
        response.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        let answer = Pad::begin(length).hold(Ok::<_, Infallible>(response)).await.unwrap();
        assert_eq!(answer.headers().keys_len(), kept);
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_answer_gives_its_connection_back_while_it_waits() {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    let slow = stream::iter(["wrong ", "password"]).then(|part| async move {
        sleep(ms(40)).await;
        data(part.as_bytes())
    });
    // The end is asked for, which is what gives an upstream connection back.
    let body = slow.chain(stream::poll_fn(move |_| {
        seen.store(true, Ordering::SeqCst);
        Poll::Ready(None)
    }));
    let response = Response::builder().status(StatusCode::UNAUTHORIZED).body(StreamBody::new(body).boxed_unsync()).unwrap();
    let pad = Pad::begin(PAD);
    let held = tokio::spawn(pad.hold(Ok::<_, Infallible>(response)));
    sleep(ms(100)).await;
    assert!(ended.load(Ordering::SeqCst) && !held.is_finished());
    let (head, body) = held.await.unwrap().unwrap().into_parts();
    assert_eq!((head.status, body.collect().await.unwrap().to_bytes()), (StatusCode::UNAUTHORIZED, "wrong password".into()));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_large_or_slow_or_has_no_end_passes_whole_and_is_read_ahead_within_bounds() {
    let chunk = Bytes::from(vec![7; 16 * 1024]);
    let parts: Vec<_> = (0..20).map(|_| Ok(Frame::data(chunk.clone()))).collect();
    let mut held = Held::new(frames(parts));
    held.read_ahead().await;
    assert_eq!(held.read.len(), 4);
    assert_eq!(held.collect().await.unwrap().to_bytes().len(), 20 * chunk.len());

    let mut crumbs = Held::new(frames((0..1000).map(|_| data(b"x")).collect()));
    crumbs.read_ahead().await;
    assert_eq!(crumbs.read.len(), MOST_FRAMES);
    assert_eq!(crumbs.collect().await.unwrap().to_bytes().len(), 1000);

    // One part before the pad ends, one after it, and then nothing for ever.
    let parts = stream::iter([100, 400]).then(|takes| async move {
        sleep(ms(takes)).await;
        data(b"part")
    });
    let body = StreamBody::new(parts.chain(stream::pending())).boxed_unsync();
    let began = Instant::now();
    let mut body = Pad::begin(PAD).hold(Ok::<_, Infallible>(Response::new(body))).await.unwrap().into_body();
    assert_eq!(began.elapsed(), PAD);
    for at in [250, 500] {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
        assert_eq!(began.elapsed(), ms(at));
    }
}

#[tokio::test(start_paused = true)]
async fn size_trailers_and_breaks_are_what_they_were() {
    let held = async |body: Body| Pad::begin(PAD).hold(Ok::<_, Infallible>(Response::new(body))).await.unwrap().into_body();

    let mut body = held(full("whole")).await;
    assert_eq!(body.size_hint().exact(), Some(5));
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
    assert!(body.frame().await.is_none());

    let body = held(Empty::new().map_err(|never| match never {}).boxed_unsync()).await;
    assert!(body.is_end_stream());

    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    let mut telling = trailers.clone();
    telling.insert("server-timing", "db;dur=80".parse().unwrap());
    let body = held(frames(vec![data(b"a"), Ok(Frame::trailers(telling))])).await;
    assert_eq!(body.size_hint().exact(), None, "with a length there would be no trailers");
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers), "all but what tells its time");

    let mut body = held(frames(vec![data(b"half"), Err(gone())])).await;
    assert!(!body.is_end_stream());
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    assert!(!body.is_end_stream(), "it broke, it did not end");
    assert!(matches!(body.frame().await, Some(Err(BodyError::Peer(_)))));
    assert!(body.frame().await.is_none());
}
