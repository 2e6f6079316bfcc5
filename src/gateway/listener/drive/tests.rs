use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::streams::Pace;
use super::super::wire::Wire;
use super::*;

const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    stall: Duration::from_secs(30),
    protocol: Protocol::Http1,
};

fn wire(room: usize) -> (Wire<DuplexStream>, DuplexStream, Arc<Watch>) {
    let watch = Arc::<Watch>::default();
    let (ours, theirs) = tokio::io::duplex(room);
    (Wire::new(ours, Bytes::new(), Arc::clone(&watch), None), theirs, watch)
}

/// Takes one-byte heads and answers each with `answer`, until it is told to leave.
async fn toy(mut wire: Wire<DuplexStream>, watch: Arc<Watch>, answer: &[u8], left: &Cell<bool>) -> Result<(), ()> {
    loop {
        let mut byte = [0];
        tokio::select! {
            read = wire.read(&mut byte) => if read.map_err(drop)? == 0 { return Ok(()) },
            () = poll_fn(|_| if left.get() { Poll::Ready(()) } else { Poll::Pending }) => return Ok(()),
        }
        watch.hear();
        if byte == *b"r" {
            let request = watch.begin();
            wire.write_all(answer).await.map_err(drop)?;
            drop(request);
        }
    }
}

/// Drives a toy while `client` acts; how it ended and after how long.
async fn play<F: Future<Output = DuplexStream>>(
    patience: Patience,
    room: usize,
    client: impl FnOnce(DuplexStream) -> F,
) -> (End<()>, Duration) {
    let (wire, theirs, watch) = wire(room);
    let left = Cell::new(false);
    let stop = CancellationToken::new();
    let started = Instant::now();
    let driven = async {
        let toy = pin!(toy(wire, Arc::clone(&watch), b"answer", &left));
        let end = drive(toy, &watch, patience, &stop, |_, wish| left.set(left.get() || wish == Wish::Leave)).await;
        (end, started.elapsed())
    };
    let (end, _theirs) = tokio::join!(driven, client(theirs));
    end
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_has_the_time_of_one_head() {
    let (end, took) = play(PATIENCE, 64, async |theirs| theirs).await;
    assert_eq!(end, End::Silent);
    assert_eq!(took.as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn slowloris_a_dribbled_head_has_one_deadline_from_its_first_byte() {
    let (end, took) = play(PATIENCE, 64, async |mut theirs| {
        theirs.write_all(b"r").await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        while theirs.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        theirs
    })
    .await;
    assert_eq!(end, End::HeadTimeout);
    assert_eq!(took.as_secs(), 70);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_to_close_after_its_last_answer() {
    let (end, took) = play(PATIENCE, 64, async |mut theirs| {
        for _ in 0..3 {
            theirs.write_all(b"r").await.unwrap();
            tokio::time::sleep(Duration::from_secs(50)).await;
        }
        theirs
    })
    .await;
    assert_eq!(end, End::Closed(Ok(())));
    assert_eq!(took.as_secs(), 100 + 75);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_and_a_slow_one_is_not() {
    let (end, took) = play(PATIENCE, 2, async |mut theirs| {
        theirs.write_all(b"r").await.unwrap();
        // Two bytes fit; each byte read lets one more through.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(29)).await;
            theirs.read_u8().await.unwrap();
        }
        theirs
    })
    .await;
    assert_eq!(end, End::Stalled);
    assert_eq!(took.as_secs(), 3 * 29 + 30);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_still_sends_its_request_may_leave_an_early_answer_unread() {
    for (owes, lasts) in [(true, 20 * 20 + 30), (false, 30)] {
        let (wire, mut theirs, watch) = wire(2);
        watch.owe(owes);
        let (mut reader, mut writer) = tokio::io::split(wire);
        let both = pin!(async {
            let _request = watch.begin();
            tokio::select! {
                written = writer.write_all(b"answer") => written.map_err(drop),
                () = async { while reader.read_u8().await.is_ok() { watch.hear() } } => Ok(()),
            }
        });
        let client = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                if theirs.write_all(b"x").await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let (started, stop) = (Instant::now(), CancellationToken::new());
        let end = tokio::select! {
            end = drive(both, &watch, PATIENCE, &stop, |_, _| {}) => end,
            () = client => panic!("the client ends last"),
        };
        assert_eq!((end, started.elapsed().as_secs()), (End::Stalled, lasts));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_the_making_has_no_deadline_here() {
    let (wire, mut theirs, watch) = wire(64);
    let stop = CancellationToken::new();
    let slow = async {
        let mut wire = wire;
        wire.read_u8().await.map_err(drop)?;
        let _request = watch.begin();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok::<(), ()>(())
    };
    theirs.write_all(b"r").await.unwrap();
    let end = drive(pin!(slow), &watch, PATIENCE, &stop, |_, _| {}).await;
    assert_eq!(end, End::Closed(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn http2_is_idle_without_streams_whatever_bytes_dribble_in_and_is_cut_when_it_does_not_leave() {
    let patience = Patience { protocol: Protocol::Http2, ..PATIENCE };
    let (wire, mut theirs, watch) = wire(64);
    let stop = CancellationToken::new();
    let stubborn = async {
        let mut wire = wire;
        while wire.read_u8().await.is_ok() {}
        Ok::<(), ()>(())
    };
    let started = Instant::now();
    let client = async {
        while theirs.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let stubborn = pin!(stubborn);
    let end = tokio::select! {
        end = drive(stubborn, &watch, patience, &stop, |_, _| {}) => end,
        () = client => panic!("the client ends last"),
    };
    assert_eq!(end, End::Idle);
    assert_eq!(started.elapsed(), patience.idle + GOODBYE);
}

#[tokio::test(start_paused = true)]
async fn what_is_condemned_has_a_moment_for_its_last_words_even_where_nobody_listens() {
    let (wire, mut theirs, watch) = wire(2);
    let deaf = async {
        let mut wire = wire;
        wire.read_u8().await.map_err(drop)?;
        watch.condemn("a flood");
        let _request = watch.begin();
        wire.write_all(b"more than there is room for").await.map_err(drop)
    };
    theirs.write_all(b"r").await.unwrap();
    let started = Instant::now();
    let end = drive(pin!(deaf), &watch, PATIENCE, &CancellationToken::new(), |_, _| {}).await;
    assert_eq!((end, started.elapsed()), (End::Condemned, LAST_WORDS));
}

/// An answer of which the end waits in vain, while another request is answered every 20 seconds, until no more may come.
#[tokio::test(start_paused = true)]
async fn an_end_of_an_answer_that_is_not_taken_ends_the_connection_whatever_else_is_asked_and_answered() {
    for taken_after in [29, 59, 1000] {
        let patience = Patience { protocol: Protocol::Http2, ..PATIENCE };
        let (_wire, _theirs, watch) = wire(64);
        let left = Cell::new(None);
        let started = Instant::now();
        let end = || {
            let pace = Pace::new(Arc::clone(&watch));
            assert!(pace.keep(watch.begin()).is_none());
            pace.finish();
            pace
        };
        let stuck = async {
            let stuck = end();
            tokio::time::sleep(Duration::from_secs(taken_after)).await;
            drop(stuck);
        };
        let busy = async {
            while left.get().is_none() {
                let piece = end();
                tokio::task::yield_now().await;
                drop(piece);
                tokio::time::sleep(Duration::from_secs(20)).await;
                if started.elapsed().as_secs() > 200 {
                    break;
                }
            }
        };
        let both = pin!(async {
            tokio::join!(stuck, busy);
            std::future::pending::<Result<(), ()>>().await
        });
        let stop = CancellationToken::new();
        let end = drive(both, &watch, patience, &stop, |_, wish| {
            if wish == Wish::Leave && left.get().is_none() {
                left.set(Some(started.elapsed().as_secs()));
            }
        })
        .await;
        let took = started.elapsed().as_secs();
        match taken_after {
            29 => assert!(end == End::Idle && left.get() >= Some(200 + 75), "{end:?} after {took}, {left:?}"),
            59 => assert_eq!((end, left.get(), took), (End::Idle, Some(30), 59 + 5)),
            _ => assert_eq!((end, left.get(), took), (End::Stalled, Some(30), 60)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_streams_stalled_and_that_asks_for_nothing_else_is_asked_to_leave_and_cut() {
    let (_wire, _theirs, watch) = wire(64);
    let request = watch.begin();
    let course = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        (0..MOST_STALLS).for_each(|_| watch.stall());
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(request);
        tokio::task::yield_now().await;
        std::future::pending::<Result<(), ()>>().await
    };
    let (started, left) = (Instant::now(), Cell::new(0));
    let note = |_: Pin<&mut _>, wish| left.set(if wish == Wish::Leave { started.elapsed().as_secs() } else { left.get() });
    let end = drive(pin!(course), &watch, PATIENCE, &CancellationToken::new(), note).await;
    assert_eq!((end, left.get(), started.elapsed().as_secs()), (End::Stalled, 4 + 1, 4 + 1 + 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_outlives_the_streams_that_stalled_on_it() {
    let (_wire, _theirs, watch) = wire(64);
    let course = async {
        let request = watch.begin();
        (0..MOST_STALLS).for_each(|_| watch.stall());
        drop(request);
        for _ in 0..9 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let request = watch.begin();
            tokio::task::yield_now().await;
            drop(request);
            watch.complete();
        }
        std::future::pending::<Result<(), ()>>().await
    };
    let started = Instant::now();
    let patience = Patience { protocol: Protocol::Http2, ..PATIENCE };
    let end = drive(pin!(course), &watch, patience, &CancellationToken::new(), |_, _| {}).await;
    assert_eq!((end, started.elapsed().as_secs()), (End::Idle, 9 / 2 + 75 + 5));
}

#[tokio::test(start_paused = true)]
async fn what_rests_is_asked_to_nap_once_a_rest_and_is_as_patient_as_before() {
    let (wire, mut theirs, watch) = wire(64);
    let left = Cell::new(false);
    let naps = Cell::new(0);
    let toy = pin!(toy(wire, Arc::clone(&watch), b"", &left));
    let stop = CancellationToken::new();
    let started = Instant::now();
    let client = async {
        for pause in [199, 199, 201, 70_000] {
            theirs.write_all(b"r").await.unwrap();
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        theirs.write_all(b"r").await.unwrap();
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        end = drive(toy, &watch, PATIENCE, &stop, |_, wish| match wish {
            Wish::Leave => left.set(true),
            Wish::Nap => naps.set(naps.get() + 1),
        }) => end,
        () = client => panic!("the client ends last"),
    };
    assert_eq!((end, naps.get()), (End::Closed(Ok(())), 3));
    assert_eq!(started.elapsed(), Duration::from_millis(70_599) + PATIENCE.idle);
}

#[tokio::test(start_paused = true)]
async fn stop_asks_once_and_at_once() {
    let (wire, _theirs, watch) = wire(64);
    let left = Cell::new(false);
    let asked = Cell::new(0);
    let toy = pin!(toy(wire, Arc::clone(&watch), b"", &left));
    let stop = CancellationToken::new();
    stop.cancel();
    let end = drive(toy, &watch, PATIENCE, &stop, |_, wish| {
        left.set(wish == Wish::Leave);
        asked.set(asked.get() + 1);
    })
    .await;
    assert_eq!((end, asked.get()), (End::Closed(Ok(())), 1));
}
