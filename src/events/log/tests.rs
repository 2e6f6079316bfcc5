use super::*;
use crate::events::ConnectionCause;

#[test]
fn a_flood_at_the_door_is_counted_and_crowds_out_no_security_event() {
    let (queue, messages) = mpsc::channel();
    let metrics = Arc::new(Metrics::new());
    let writer = Writer { pages: Arc::default(), queue, lanes: Arc::default(), metrics: Arc::clone(&metrics) };
    let peer = std::net::Ipv4Addr::LOCALHOST.into();
    for _ in 0..Lane::Door.bound() + 7 {
        writer.event(Event::ConnectionRefused { peer, client: None, cause: ConnectionCause::Banned }, Timestamp::UNIX_EPOCH);
    }
    assert_eq!(metrics.dropped_so_far(), 7);
    writer.event(Event::Stopped { cut: 1 }, Timestamp::UNIX_EPOCH);
    assert_eq!(metrics.dropped_so_far(), 7);
    let last = messages.try_iter().last();
    assert!(matches!(last, Some(Message::Event { lane: Lane::Security, .. })));
}

#[test]
fn a_named_pipe_that_nobody_reads_holds_nobody_who_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    append(&pipe).unwrap();
}

#[test]
fn a_page_cut_short_spoils_no_line_of_the_next() {
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    reader.set_nonblocking(true).unwrap();
    let inner = Inner::File(File::from(std::os::fd::OwnedFd::from(writer)));
    let to = BufWriter::with_capacity(64 * 1024, inner);
    let mut output = Output { path: None, to, failing: false, torn: false };
    assert!(output.write(&[b'x'; 16 * 1024 * 1024]).is_err(), "no socket holds as much");
    let mut read = Vec::new();
    let _ = std::io::Read::read_to_end(&mut reader, &mut read);
    assert!(!read.is_empty());
    output.write(b"whole\n").and_then(|()| output.flush()).unwrap_or_else(|failed| panic!("{}", failed.error));
    let _ = std::io::Read::read_to_end(&mut reader, &mut read);
    assert!(read.ends_with(b"x\nwhole\n"), "the line stands alone");
}

#[test]
fn what_a_full_disk_did_not_take_goes_where_the_next_lines_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let full = || BufWriter::with_capacity(64 * 1024, Inner::File(append(Path::new("/dev/full")).unwrap()));
    let written = || std::fs::read_to_string(&path).unwrap();
    let mut output = Output { path: Some(path.clone()), to: full(), failing: false, torn: false };
    assert!(output.write(b"kept\n").is_ok() && output.flush().is_err());
    assert!(output.reopen().is_ok() && output.write(b"next\n").is_ok() && output.flush().is_ok());
    assert_eq!(written(), "kept\nnext\n");

    let log = |path: &Path| {
        let target = LogTarget::File(path.to_owned());
        Targets::open(&Log { access: target.clone(), format: LogFormat::Json, events: target }).unwrap()
    };
    let mut old = log(Path::new("/dev/full"));
    assert!(old.access.as_mut().unwrap().write(b"of the old config\n").is_ok());
    let mut new = log(&path);
    assert!(new.inherit(old).is_empty() && new.flush().is_empty());
    assert_eq!(written(), "kept\nnext\nof the old config\n");
}

#[test]
fn a_page_that_could_not_be_written_counts_as_dropped() {
    let metrics = Arc::new(Metrics::new());
    let log = Log { access: LogTarget::File("/dev/full".into()), format: LogFormat::Json, events: LogTarget::Stdout };
    let (_queue, messages) = mpsc::channel();
    let mut scribe = Scribe {
        pages: Arc::default(),
        messages,
        lanes: Arc::default(),
        metrics: Arc::clone(&metrics),
        told_drops: 0,
        targets: Targets::open(&log).unwrap(),
        taps: Vec::new(),
        line: Vec::new(),
        clock: Clock::system(),
    };
    scribe.lines(&Lines { access: b"a line\n".repeat(10_000), tapped: Vec::new() });
    assert_eq!(metrics.dropped_so_far(), 10_000);
}

#[test]
fn failed_writes_are_counted_and_told_once() {
    let metrics = Arc::new(Metrics::new());
    let log =
        Log { access: LogTarget::File("/dev/full".into()), format: LogFormat::Json, events: LogTarget::File("/dev/full".into()) };
    let writer = Writer::start(Targets::open(&log).unwrap(), Arc::clone(&metrics)).unwrap();
    let (tap, mut lines) = tokio::sync::mpsc::unbounded_channel();
    writer.tap(tap);
    for _ in 0..3 {
        writer.event(Event::Stopped { cut: 0 }, Timestamp::UNIX_EPOCH);
        writer.flush(Duration::from_secs(10));
    }
    let lines: Vec<String> = std::iter::from_fn(|| lines.try_recv().ok()).collect();
    assert_eq!(lines.iter().filter(|line| line.contains("log.failed")).count(), 1, "{lines:?}");
    assert!(metrics.render().contains("doorward_store_failures_total 0\n"), "the store is healthy");
    assert_eq!(lines.iter().filter(|line| line.contains("gateway.stopped")).count(), 3);
}
