//! HTTP/1 request forms: the bytes, the verdict, and what the upstream may receive of them.

mod framing;

use super::recorder::Sent;

/// One way to write a request, or several.
pub struct Form {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// Of each answer, the statuses that are right.
    pub answers: Vec<&'static [u16]>,
    /// Every request that the upstream receives, whole.
    pub upstream: Vec<Sent>,
    /// One request, the last of those or one more, may reach the upstream in part, whose connection is then cut.
    pub cut: bool,
    /// The connection must not serve another request.
    pub closes: bool,
    /// The client says no more after its bytes.
    pub ends: bool,
    /// Sent after the answers, instead of the canary.
    pub then: Option<&'static [u8]>,
    /// The answers are to HEAD.
    pub heads: bool,
}

const BAD: &[u16] = &[400];
const OK: &[u16] = &[200];
/// An essential request hidden in a body; the upstream must never receive it as one.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

impl Form {
    /// Refused with 400, and nothing of the connection is used again.
    fn bad(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            bytes: bytes.into(),
            answers: vec![BAD],
            upstream: Vec::new(),
            cut: false,
            closes: true,
            ends: false,
            then: None,
            heads: false,
        }
    }

    /// Passed on as this.
    fn good(name: &'static str, bytes: impl Into<Vec<u8>>, sent: Sent) -> Self {
        Self { answers: vec![OK], upstream: vec![sent], closes: false, ..Self::bad(name, bytes) }
    }

    /// Several requests that are several.
    fn several(name: &'static str, bytes: impl Into<Vec<u8>>, sent: &[Sent]) -> Self {
        Self { answers: vec![OK; sent.len()], upstream: sent.to_vec(), closes: false, ..Self::bad(name, bytes) }
    }

    /// Refused amid its body: its beginning may have gone up already.
    fn cut(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { cut: true, ..Self::bad(name, bytes) }
    }

    /// Refused with another status.
    fn says(mut self, statuses: &'static [u16]) -> Self {
        self.answers = vec![statuses];
        self
    }

    /// Not answered at all.
    fn silent(mut self) -> Self {
        self.answers.clear();
        self
    }

    /// Refused for what it asks, not for how: its framing is clear, and the connection may go on.
    fn clear(mut self) -> Self {
        self.closes = false;
        self
    }

    /// Right only where the connection does not go on.
    fn closes(mut self) -> Self {
        self.closes = true;
        self
    }

    fn ends(mut self) -> Self {
        self.ends = true;
        self
    }
}

/// The whole table.
pub fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    framing::both_framings(&mut forms);
    framing::lengths(&mut forms);
    framing::codings(&mut forms);
    line_ends(&mut forms);
    request_lines(&mut forms);
    hosts(&mut forms);
    framing::chunks(&mut forms);
    framing::bodies(&mut forms);
    framing::pipelines(&mut forms);
    switches(&mut forms);
    fields(&mut forms);
    forms
}

/// `GET /f` with fields.
fn get(fields: &str) -> String {
    format!("GET /f HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// `POST /f` with fields and a body.
fn post(fields: &str, body: &str) -> String {
    format!("POST /f HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn sent_get() -> Sent {
    Sent::new("GET /f")
}

fn sent_post() -> Sent {
    Sent::new("POST /f")
}

fn line_ends(forms: &mut Vec<Form>) {
    for (name, bytes) in [
        ("bare LF everywhere", "GET /f HTTP/1.1\nHost: localhost\n\n".to_owned()),
        ("bare LF after the request line", "GET /f HTTP/1.1\nHost: localhost\r\n\r\n".to_owned()),
        ("bare LF after a field", "GET /f HTTP/1.1\r\nHost: localhost\nX-A: b\r\n\r\n".to_owned()),
        ("bare LF ends the head", "GET /f HTTP/1.1\r\nHost: localhost\r\n\n".to_owned()),
        ("LF LF ends the head", format!("GET /f HTTP/1.1\r\nHost: localhost\n\n{HIDDEN}")),
        ("bare LF before the request", format!("\n{}", get(""))),
        ("LF CR", "GET /f HTTP/1.1\n\rHost: localhost\n\r\n\r".to_owned()),
        ("CR CR LF", get("X-A: b\r\r\n")),
        ("bare CR everywhere", "GET /f HTTP/1.1\rHost: localhost\r\r".to_owned()),
        ("bare CR in a value", get("X-A: b\rc\r\n")),
        ("bare CR in a name", get("X\r-A: b\r\n")),
        ("bare CR before a colon", get("X-A\r: b\r\n")),
        ("bare CR in the request line", "GET /f\rHTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        ("NUL in a value", get("X-A: b\0c\r\n")),
        ("NUL in a name", get("X\0-A: b\r\n")),
        ("NUL in the target", "GET /f\0 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        ("NUL before the request", format!("\0{}", get(""))),
        ("a folded field", get("X-A: b\r\n c\r\n")),
        ("a field folded by tab", get("X-A: b\r\n\tc\r\n")),
        ("a folded first line", "GET /f HTTP/1.1\r\n Host: localhost\r\n\r\n".to_owned()),
        ("a blank line then a field", "GET /f HTTP/1.1\r\n \r\nHost: localhost\r\n\r\n".to_owned()),
        ("blank before a colon", get("X-A : b\r\n")),
        ("tab before a colon", get("X-A\t: b\r\n")),
        ("no name", get(": b\r\n")),
        ("a blank for a name", get(" : b\r\n")),
        ("no colon", get("X-A\r\n")),
        ("a blank in a name", get("X A: b\r\n")),
        ("DEL in a value", get("X-A: \x7f\r\n")),
        ("a bell in a value", get("X-A: \x07\r\n")),
        ("an escape in a name", get("X\x1b: b\r\n")),
        ("parentheses in a name", get("X(A): b\r\n")),
        ("a blank before the request", format!(" {}", get(""))),
    ] {
        forms.push(Form::bad(name, bytes));
    }
    forms.push(Form::good("CRLF before the request", format!("\r\n{}", get("")), sent_get()));
    forms.push(Form::good("two CRLF before the request", format!("\r\n\r\n{}", get("")), sent_get()));
    forms.push(Form::good("a tab in a value", get("X-A: b\tc\r\n"), sent_get().field("x-a: b\tc")));
    forms.push(Form::good("an empty value", get("X-A:\r\n"), sent_get().field("x-a: ")));
    forms.push(Form::good("bytes above ASCII in a value", get("X-A: \u{e9}\r\n"), sent_get().field("x-a: \u{c3}\u{a9}")));
    forms.push(Form::good("blanks around a value", get("X-A: \t b \t\r\n"), sent_get().field("x-a: b")));
    forms.push(Form::bad("an unfinished head", "GET /f HTTP/1.1\r\nHost: localhost\r\n").silent().ends());
    forms.push(Form::bad("an unfinished request line", "GET /f HT").silent().ends());
}

fn request_lines(forms: &mut Vec<Form>) {
    let line = |line: &str| format!("{line}\r\nHost: localhost\r\n\r\n");
    for (name, request) in [
        ("no version", "GET /f"),
        ("HTTP/0.9", "GET /f HTTP/0.9"),
        ("HTTP/1.2", "GET /f HTTP/1.2"),
        ("HTTP/1.10", "GET /f HTTP/1.10"),
        ("HTTP/01.1", "GET /f HTTP/01.1"),
        ("HTTP/2.0", "GET /f HTTP/2.0"),
        ("HTTP/1", "GET /f HTTP/1"),
        ("http/1.1", "GET /f http/1.1"),
        ("HTTP/1,1", "GET /f HTTP/1,1"),
        ("XTTP/1.1", "GET /f XTTP/1.1"),
        ("two blanks before the target", "GET  /f HTTP/1.1"),
        ("two blanks before the version", "GET /f  HTTP/1.1"),
        ("a tab before the target", "GET\t/f HTTP/1.1"),
        ("a tab before the version", "GET /f\tHTTP/1.1"),
        ("a blank after the version", "GET /f HTTP/1.1 "),
        ("text after the version", "GET /f HTTP/1.1 x"),
        ("no target", "GET HTTP/1.1"),
        ("no target, two blanks", "GET  HTTP/1.1"),
        ("a blank in the target", "GET /f g HTTP/1.1"),
        ("a colon in the method", "GE:T /f HTTP/1.1"),
        ("a NUL in the method", "GE\0T /f HTTP/1.1"),
        ("no method", " /f HTTP/1.1"),
        ("the HTTP/2 preface", "PRI * HTTP/2.0"),
        ("a bell in the target", "GET /\x07 HTTP/1.1"),
        ("a DEL in the target", "GET /\x7f HTTP/1.1"),
    ] {
        forms.push(Form::bad(name, line(request)).says(&[400, 505]));
    }
    for (name, request) in [
        ("a fragment", "GET /f#g HTTP/1.1"),
        ("a backslash", "GET /a\\b HTTP/1.1"),
        ("two slashes", "GET //localhost/f HTTP/1.1"),
        ("an encoded NUL", "GET /%00 HTTP/1.1"),
        ("an encoded CR LF", "GET /%0d%0aHost:%20x HTTP/1.1"),
        ("dots", "GET /a/../b HTTP/1.1"),
        ("encoded dots", "GET /a/%2e%2e/b HTTP/1.1"),
        ("a half escape", "GET /%4 HTTP/1.1"),
        ("no escape", "GET /%zz HTTP/1.1"),
        ("bytes above ASCII", "GET /\u{e9} HTTP/1.1"),
        ("no slash", "GET f HTTP/1.1"),
        ("a query alone", "GET ?x HTTP/1.1"),
        ("an authority for GET", "GET localhost:443 HTTP/1.1"),
        ("CONNECT", "CONNECT localhost:443 HTTP/1.1"),
        ("TRACE", "TRACE /f HTTP/1.1"),
        ("CONNECT elsewhere", "CONNECT 127.0.0.1:22 HTTP/1.1"),
        ("CONNECT with a path", "CONNECT /f HTTP/1.1"),
        ("an asterisk for GET", "GET * HTTP/1.1"),
        ("another host in the target", "GET https://other.example/f HTTP/1.1"),
        ("userinfo in the target", "GET https://user@localhost/f HTTP/1.1"),
        ("userinfo that looks like the host", "GET https://localhost@other.example/f HTTP/1.1"),
        ("no host in the target", "GET https:///f HTTP/1.1"),
        ("a scheme of something else", "GET ftp://localhost/f HTTP/1.1"),
        ("a javascript target", "GET javascript:x HTTP/1.1"),
        ("a port that is none in the target", "GET https://localhost:99999/f HTTP/1.1"),
    ] {
        forms.push(Form::bad(name, line(request)).clear().says(&[400, 404, 421]));
    }
    forms.push(Form::good("absolute form", line("GET https://localhost/f HTTP/1.1"), sent_get()));
    forms.push(Form::good("absolute form in capitals", line("GET HTTPS://LOCALHOST/f HTTP/1.1"), sent_get()));
    forms.push(Form::good("a method nobody knows", line("BREW /f HTTP/1.1"), Sent::new("BREW /f")));
    forms.push(Form::good("a method in lower case is another", line("get /f HTTP/1.1"), Sent::new("get /f")));
    forms.push(Form::good("a query", line("GET /f?a=b&c=/../d HTTP/1.1"), Sent::new("GET /f?a=b&c=/../d")));
    forms.push(Form::good("HTTP/1.0", line("GET /f HTTP/1.0"), sent_get()).closes());
    forms.push(
        Form::bad("a target of 70,000 bytes", line(&format!("GET /{} HTTP/1.1", "a".repeat(70_000)))).says(&[400, 414, 431]),
    );
}

fn hosts(forms: &mut Vec<Form>) {
    let host = |lines: &str| format!("GET /f HTTP/1.1\r\n{lines}\r\n");
    for (name, lines) in [
        ("no Host", ""),
        ("two Host", "Host: localhost\r\nHost: localhost\r\n"),
        ("two Host that differ", "Host: localhost\r\nHost: other.example\r\n"),
        ("two Host in two cases", "host: localhost\r\nHOST: localhost\r\n"),
        ("an empty Host", "Host: \r\n"),
        ("userinfo in Host", "Host: user@localhost\r\n"),
        ("userinfo of a kind in Host", "Host: localhost:443@other.example\r\n"),
        ("a port out of range", "Host: localhost:99999\r\n"),
        ("a port in letters", "Host: localhost:https\r\n"),
        ("a negative port", "Host: localhost:-1\r\n"),
        ("two ports", "Host: localhost:443:443\r\n"),
        ("a list of hosts", "Host: localhost, other.example\r\n"),
        ("two hosts", "Host: localhost other.example\r\n"),
        ("a path in Host", "Host: localhost/f\r\n"),
        ("a query in Host", "Host: localhost?x\r\n"),
        ("a scheme in Host", "Host: https://localhost\r\n"),
        ("a NUL in Host", "Host: localhost\0\r\n"),
        ("an escape in Host", "Host: localhos%74\r\n"),
        ("a half bracket", "Host: [::1\r\n"),
        ("an underscore and a bracket", "Host: [localhost]\r\n"),
        ("two dots", "Host: localhost..\r\n"),
        ("a leading dot", "Host: .localhost\r\n"),
        ("bytes above ASCII in Host", "Host: localh\u{f6}st\r\n"),
        ("a folded Host", "Host:\r\n localhost\r\n"),
        ("blank before the colon of Host", "Host : localhost\r\n"),
        ("another host", "Host: other.example\r\n"),
        ("an address", "Host: 127.0.0.1\r\n"),
    ] {
        forms.push(Form::bad(name, host(lines)).clear().says(&[400, 421]));
    }
    forms.push(Form::bad("no Host in HTTP/1.0", "GET /f HTTP/1.0\r\n\r\n"));
    forms.push(Form::good("Host in capitals", host("HOST: LOCALHOST\r\n"), sent_get().host("LOCALHOST")));
    forms.push(Form::good("Host with its port", host("Host: localhost:443\r\n"), sent_get().host("localhost:443")));
    forms.push(Form::good("Host with a dot", host("Host: localhost.\r\n"), sent_get().host("localhost.")));
    forms.push(Form::good("Host that Connection names", host("Host: localhost\r\nConnection: host\r\n"), sent_get()));
}

fn switches(forms: &mut Vec<Form>) {
    let body = "Content-Length: 5\r\n";
    forms.push(Form::good(
        "h2c upgrade",
        get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        sent_get(),
    ));
    forms.push(Form::good(
        "h2c upgrade with a body",
        post(
            &format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n{body}"),
            "hello",
        ),
        sent_post().sized(b"hello"),
    ));
    forms.push(Form::good("an upgrade that Connection does not name", get("Upgrade: websocket\r\n"), sent_get()));
    forms.push(Form::good(
        "an upgrade that is declined",
        get("Connection: upgrade\r\nUpgrade: websocket\r\n"),
        sent_get().field("connection: upgrade").field("upgrade: websocket"),
    ));
    forms.push(Form::good(
        "an upgrade with a body",
        post(&format!("Connection: upgrade\r\nUpgrade: websocket\r\n{body}"), "hello"),
        sent_post().sized(b"hello"),
    ));
    forms.push(Form::several(
        "an upgrade that is declined, and a request behind it",
        format!("{}{}", get("Connection: upgrade\r\nUpgrade: websocket\r\n"), get("")),
        &[sent_get().field("connection: upgrade").field("upgrade: websocket"), sent_get()],
    ));
    forms.push(
        Form::good(
            "an upgrade in HTTP/1.0",
            "GET /f HTTP/1.0\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            sent_get(),
        )
        .closes(),
    );
    forms.push(Form::bad("the whole HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").silent());
}

fn fields(forms: &mut Vec<Form>) {
    let many: String = (0..200).map(|place| format!("X-{place}: y\r\n")).collect();
    forms.push(Form::bad("200 fields", get(&many)).says(&[431]));
    forms.push(Form::bad("a field of 64 KiB", get(&format!("X-A: {}\r\n", "a".repeat(64 * 1024)))).says(&[431]));
    forms.push(Form::bad("a name of 64 KiB", get(&format!("{}: b\r\n", "a".repeat(64 * 1024)))).says(&[400, 431]));
    forms.push(Form::good(
        "hop-by-hop fields",
        get("Keep-Alive: 300\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nTrailer: z\r\n"),
        sent_get(),
    ));
    forms.push(Form::good(
        "a field that Connection names",
        get("Connection: x-a, keep-alive\r\nX-A: b\r\nX-C: d\r\n"),
        sent_get().field("x-c: d"),
    ));
    forms.push(Form::good(
        "a second Connection line",
        get("Connection: x-a\r\nX-A: b\r\nConnection: x-c\r\nX-C: d\r\n"),
        sent_get(),
    ));
    forms.push(Form::good("a forged address", get("X_Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n"), sent_get()));
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_as_long_as_it_promises_and_no_name_is_there_twice() {
        let forms = super::forms();
        let names: std::collections::HashSet<_> = forms.iter().map(|form| form.name).collect();
        assert!(forms.len() >= 150 && names.len() == forms.len(), "{} forms, {} names", forms.len(), names.len());
    }
}
