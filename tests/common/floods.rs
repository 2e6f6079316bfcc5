//! HTTP/2 floods, and requests that no HTTP/1 upstream may receive.

use tokio::io::AsyncWriteExt;

use super::Door;
use super::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Ended, Framed, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, PUSH_PROMISE,
    RST_STREAM, WINDOW_UPDATE, block, code, frame, get, integer, parse, post, pseudo, settings,
};
use super::recorder::Sent;

/// What one client sends without end.
pub struct Flood {
    pub name: &'static str,
    /// After the preface and SETTINGS.
    pub opening: Vec<u8>,
    /// What is repeated, by its place.
    pub unit: fn(u32) -> Vec<u8>,
}

/// How a flood ended.
#[derive(Debug)]
pub enum Flooded {
    /// After so many units, with this GOAWAY and in this way.
    Ended { after: u32, goaway: Option<u32>, how: Ended },
    /// Everything was taken, and the connection lives.
    Survived,
}

/// Units of a flood that must not all be taken.
pub const MOST: u32 = 20_000;
const BATCH: u32 = 25;

/// Every kind of flood.
pub fn floods() -> Vec<Flood> {
    let open_header = frame(HEADERS, END_STREAM, 1, &block(&pseudo("GET", "/f")));
    let body = post(1, "/flood");
    let none = Vec::new;
    let flood = |name, opening, unit| Flood { name, opening, unit };
    vec![
        flood("rapid reset", none(), |at| [get(odd(at), "/f"), frame(RST_STREAM, 0, odd(at), &8_u32.to_be_bytes())].concat()),
        flood("reset of answered streams", none(), |at| {
            let reset = |at| frame(RST_STREAM, 0, odd(at), &8_u32.to_be_bytes());
            [get(odd(at), "/f"), at.checked_sub(40).map(reset).unwrap_or_default()].concat()
        }),
        flood("made you reset: window overflow", none(), |at| {
            [get(odd(at), "/f"), frame(WINDOW_UPDATE, 0, odd(at), &0x7fff_ffff_u32.to_be_bytes())].concat()
        }),
        flood("made you reset: data after the end", none(), |at| [get(odd(at), "/f"), frame(DATA, 0, odd(at), b"x")].concat()),
        flood("made you reset: window update of 0", none(), |at| {
            [get(odd(at), "/f"), frame(WINDOW_UPDATE, 0, odd(at), &[0; 4])].concat()
        }),
        flood("malformed requests", none(), |at| {
            frame(HEADERS, END_HEADERS | END_STREAM, odd(at), &block(&[(":method", b"GET"), ("X", b"y")]))
        }),
        flood("streams beyond the limit", none(), |at| post(odd(at), "/f")),
        flood("CONTINUATION without end", open_header.clone(), |_| frame(CONTINUATION, 0, 1, &block(&[("x-a", b"b")]))),
        flood("empty CONTINUATION without end", open_header, |_| frame(CONTINUATION, 0, 1, b"")),
        flood("CONTINUATION with end", none(), |at| {
            let mut bytes = frame(HEADERS, END_STREAM, odd(at), &block(&pseudo("GET", "/f")));
            (0..20).for_each(|_| bytes.extend(frame(CONTINUATION, 0, odd(at), b"")));
            bytes.extend(frame(CONTINUATION, END_HEADERS, odd(at), b""));
            bytes
        }),
        flood("SETTINGS", none(), |_| settings(&[(4, 65_535)])),
        flood("empty SETTINGS", none(), |_| settings(&[])),
        flood("SETTINGS acks", none(), |_| frame(4, ACK, 0, b"")),
        flood("PING", none(), |_| frame(PING, 0, 0, b"floodfld")),
        flood("PING acks", none(), |_| frame(PING, ACK, 0, b"floodfld")),
        flood("PRIORITY", none(), |at| frame(PRIORITY, 0, odd(at), &[0, 0, 0, 0, 16])),
        flood("PRIORITY of one stream", body.clone(), |at| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, at as u8])),
        flood("WINDOW_UPDATE of the connection", none(), |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        flood("WINDOW_UPDATE of a stream", body.clone(), |_| frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())),
        flood("empty DATA", body.clone(), |_| frame(DATA, 0, 1, b"")),
        flood("padded empty DATA", body, |_| frame(DATA, 8, 1, &[0])),
        flood("unknown frames", none(), |_| frame(0xfa, 0, 0, b"grease")),
        flood("GOAWAY", none(), |_| frame(GOAWAY, 0, 0, &[0; 8])),
        flood("PUSH_PROMISE", none(), |at| frame(PUSH_PROMISE, END_HEADERS, 1, &[&odd(at).to_be_bytes()[..], b"\x82"].concat())),
        flood("a mixture of control frames", none(), |at| match at % 4 {
            0 => frame(PING, 0, 0, b"floodfld"),
            1 => frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
            2 => frame(PRIORITY, 0, odd(at), &[0, 0, 0, 0, 16]),
            _ => frame(0xfa, 0, 0, b"grease"),
        }),
        flood("HPACK bomb", none(), |at| {
            let mut fields = block(&pseudo("GET", "/f"));
            // A field of 4,000 bytes into the dynamic table, then 1,000 times its index.
            fields.extend([0x40, 1, b'x']);
            integer(&mut fields, 0, 7, 4000);
            fields.extend([b'a'; 4000]);
            fields.extend([0xbe; 1000]);
            frame(HEADERS, END_HEADERS | END_STREAM, odd(at), &fields)
        }),
        flood("HPACK table size updates", none(), |at| {
            let mut fields = [0x20, 0x3f, 0xe1, 0x1f].repeat(500);
            fields.extend(block(&pseudo("GET", "/f")));
            frame(HEADERS, END_HEADERS | END_STREAM, odd(at), &fields)
        }),
    ]
}

fn odd(at: u32) -> u32 {
    at * 2 + 1
}

/// Floods until the connection ends or everything was taken.
pub async fn play(door: &Door, flood: &Flood, from: [u8; 2]) -> std::io::Result<Flooded> {
    let framed = Framed::open(door, from).await?;
    let (mut read, mut write) = tokio::io::split(framed.stream);
    let reader = tokio::spawn(async move {
        let (mut bytes, mut goaway) = (Vec::new(), None);
        loop {
            while let Some((frame, length)) = parse(&bytes) {
                bytes.drain(..length);
                if frame.kind == PING && frame.flags == ACK && frame.payload == b"survived" {
                    return None;
                }
                if frame.kind == GOAWAY {
                    goaway = Some(code(&frame.payload, 4));
                }
            }
            match super::within(tokio::io::AsyncReadExt::read_buf(&mut read, &mut bytes)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Some((goaway, Ended::Closed)),
                Ok(Err(_)) | Err(_) => return Some((goaway, Ended::Broken)),
            }
        }
    });
    let mut after = 0;
    let _ = write.write_all(&flood.opening).await;
    while after < MOST && !reader.is_finished() {
        let batch: Vec<u8> = (after..after + BATCH).flat_map(flood.unit).collect();
        match super::within(write.write_all(&batch)).await {
            Ok(Ok(())) => after += BATCH,
            _ => break,
        }
    }
    let _ = super::within(write.write_all(&frame(PING, 0, 0, b"survived"))).await;
    Ok(match reader.await.map_err(std::io::Error::other)? {
        Some((goaway, how)) => Flooded::Ended { after, goaway, how },
        None => Flooded::Survived,
    })
}

/// A request by hand, and what may come of it.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// `None`: refused in some clean way, and not a byte of it upstream.
    pub upstream: Option<Sent>,
}

/// Requests that break the rules of HTTP/2 (RFC 9113 section 8), or would be two in HTTP/1.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name, fields: Vec<(&str, &[u8])>, body: Option<&[u8]>, upstream| {
        let end = if body.is_none() { END_STREAM } else { 0 };
        let mut bytes = frame(HEADERS, END_HEADERS | end, 1, &block(&fields));
        if let Some(body) = body {
            bytes.extend(frame(DATA, END_STREAM, 1, body));
        }
        cases.push(Case { name, bytes, upstream });
    };
    let with = |extra: &[(&'static str, &'static [u8])]| [pseudo("GET", "/f"), extra.to_vec()].concat();
    let posted = |extra: &[(&'static str, &'static [u8])]| [pseudo("POST", "/f"), extra.to_vec()].concat();
    let replaced = |name: &'static str, value: &'static [u8]| {
        pseudo("GET", "/f").into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect::<Vec<_>>()
    };
    let without = |name: &str| pseudo("GET", "/f").into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();

    for (name, extra) in [
        ("Connection", ("connection", &b"close"[..])),
        ("Keep-Alive", ("keep-alive", b"1")),
        ("Proxy-Connection", ("proxy-connection", b"close")),
        ("Transfer-Encoding", ("transfer-encoding", b"chunked")),
        ("Upgrade", ("upgrade", b"websocket")),
        ("TE that is not trailers", ("te", b"gzip")),
        ("a name in capitals", ("X-A", b"b")),
        ("a name with a blank", ("x a", b"b")),
        ("a name with a colon", ("x:a", b"b")),
        ("a name with CR LF", ("x\r\nsmuggled: y\r\nx", b"b")),
        ("a name with NUL", ("x\0a", b"b")),
        ("an empty name", ("", b"b")),
        ("a value with CR LF", ("x-a", b"b\r\nsmuggled: y")),
        ("a value with a request", ("x-a", b"b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        ("a value with LF", ("x-a", b"b\nc")),
        ("a value with CR", ("x-a", b"b\rc")),
        ("a value with NUL", ("x-a", b"b\0c")),
        ("Transfer-Encoding in a value", ("x-a", b"b\r\ntransfer-encoding: chunked")),
        ("an unknown pseudo-field", (":evil", b"x")),
        (":status in a request", (":status", b"200")),
        (":path twice", (":path", b"/g")),
        (":method twice", (":method", b"POST")),
        (":authority twice", (":authority", b"localhost")),
        (":protocol without CONNECT", (":protocol", b"websocket")),
        ("Host that differs from :authority", ("host", b"other.example")),
        ("two Host lines", ("host", b"localhost\r\nhost: other.example")),
    ] {
        add(name, with(&[extra]), None, None);
    }
    add("a pseudo-field after a field", [vec![("x-a", &b"b"[..])], pseudo("GET", "/f")].concat(), None, None);
    for (name, which) in [
        ("no :method", ":method"),
        ("no :scheme", ":scheme"),
        ("no :path", ":path"),
        ("neither :authority nor Host", ":authority"),
    ] {
        add(name, without(which), None, None);
    }
    for (name, which, value) in [
        ("an empty :path", ":path", &b""[..]),
        (":path without a slash", ":path", b"f"),
        (":path of *", ":path", b"*"),
        (":path with a blank", ":path", b"/f HTTP/1.1"),
        (":path with CR LF", ":path", b"/f HTTP/1.1\r\nx: y\r\n\r\nGET /smuggled"),
        (":path that is absolute", ":path", b"https://other.example/f"),
        (":path with NUL", ":path", b"/f\0"),
        (":path with a tab", ":path", b"/f\tg"),
        (":method with a blank", ":method", b"GET /smuggled"),
        (":method with CR LF", ":method", b"GET /smuggled HTTP/1.1\r\nx: y\r\n\r\nGET"),
        ("an empty :method", ":method", b""),
        (":method of CONNECT with a path", ":method", b"CONNECT"),
        (":authority with userinfo", ":authority", b"user@localhost"),
        (":authority with CR LF", ":authority", b"localhost\r\nx: y"),
        (":authority with a path", ":authority", b"localhost/f"),
        (":authority with a blank", ":authority", b"localhost other.example"),
        (":authority that is empty", ":authority", b""),
        (":authority of another site", ":authority", b"other.example"),
        (":authority with two ports", ":authority", b"localhost:443:443"),
        (":scheme with CR LF", ":scheme", b"https\r\nx: y"),
        (":scheme with a slash", ":scheme", b"https://other.example/?"),
    ] {
        add(name, replaced(which, value), None, None);
    }
    add("CONNECT", vec![(":method", b"CONNECT"), (":authority", b"localhost:443")], None, None);
    add(
        "extended CONNECT",
        vec![
            (":method", b"CONNECT"),
            (":protocol", b"websocket"),
            (":scheme", b"https"),
            (":authority", b"localhost"),
            (":path", b"/ws"),
        ],
        None,
        None,
    );
    for (name, length, body) in [
        ("a body longer than its length", &b"3"[..], &b"hello"[..]),
        ("a body shorter than its length", b"9", b"hello"),
        ("a body where the length is 0", b"0", b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a length that is no number", b"5x", b"hello"),
        ("a length with plus", b"+5", b"hello"),
        ("a length list", b"5, 5", b"hello"),
        ("an empty length", b"", b"hello"),
    ] {
        add(name, [pseudo("POST", "/f"), vec![("content-length", length)]].concat(), Some(body), None);
    }
    add("two lengths that differ", posted(&[("content-length", b"5"), ("content-length", b"6")]), Some(b"hello"), None);
    add("a length without a body", posted(&[("content-length", b"5")]), None, None);

    let sent = |method: &str| Sent::new(&format!("{method} /f"));
    add("GET", with(&[]), None, Some(sent("GET")));
    // The fragment is gone before anything is decided.
    add(":path with a fragment", replaced(":path", b"/f#g"), None, Some(sent("GET")));
    add("GET with Host as :authority", with(&[("host", b"localhost")]), None, Some(sent("GET")));
    add("Host alone", [without(":authority"), vec![("host", b"localhost")]].concat(), None, Some(sent("GET")));
    add("TE: trailers", with(&[("te", b"trailers")]), None, Some(sent("GET").field("te: trailers").field("connection: te")));
    add("two cookies", with(&[("cookie", b"a=b"), ("cookie", b"c=d")]), None, Some(sent("GET").field("cookie: a=b; c=d")));
    add("a body of its length", posted(&[("content-length", b"5")]), Some(b"hello"), Some(sent("POST").sized(b"hello")));
    add("a body without a length", posted(&[]), Some(b"hello"), Some(sent("POST").chunked(b"hello")));
    let hidden = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    add("a body that ends a chunked one", posted(&[]), Some(hidden), Some(sent("POST").chunked(hidden)));
    cases
}

/// Sends a case and says how it ended.
pub async fn ask(door: &Door, case: &Case, from: [u8; 2]) -> std::io::Result<Ended> {
    let mut framed = Framed::open(door, from).await?;
    framed.send(&case.bytes).await?;
    Ok(framed.ended(1).await)
}

/// Openings that are no preface.
pub fn prefaces() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a broken preface", b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n".to_vec()),
        ("no SETTINGS", [PREFACE, &get(1, "/f")].concat()),
        ("DATA on stream 0", [PREFACE, &settings(&[]), &frame(DATA, 0, 0, b"x")].concat()),
        ("a frame over the limit", [PREFACE, &settings(&[]), &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("SETTINGS of 5 bytes", [PREFACE, &frame(4, 0, 0, &[0; 5])].concat()),
        ("an even stream", [PREFACE, &settings(&[]), &get(2, "/f")].concat()),
        ("garbage", vec![0x80; 64]),
    ]
}
