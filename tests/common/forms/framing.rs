//! Where a request ends: lengths, codings, chunks, and what comes behind them.

use super::{BAD, Form, HIDDEN, OK, Sent, chunked, get, post, sent_get, sent_post};

pub(super) fn both_framings(forms: &mut Vec<Form>) {
    let chunks = format!("0\r\n\r\n{HIDDEN}");
    for (name, fields) in [
        ("CL then TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        ("TE then CL", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
        ("CL then TE, lower case", "content-length: 6\r\ntransfer-encoding: chunked\r\n"),
        ("CL then TE, upper case", "CONTENT-LENGTH: 6\r\nTRANSFER-ENCODING: CHUNKED\r\n"),
        ("CL then TE without blanks", "Content-Length:6\r\nTransfer-Encoding:chunked\r\n"),
        ("TE by tab then CL", "Transfer-Encoding:\tchunked\r\nContent-Length:\t6\r\n"),
        ("CL 0 then TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ("TE then CL 0", "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
        ("CL, a field, TE", "Content-Length: 6\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n"),
        ("TE, CL, TE", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        ("CL, TE, CL", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
        ("CL then TE identity", "Content-Length: 6\r\nTransfer-Encoding: identity\r\n"),
        ("TE identity then CL", "Transfer-Encoding: identity\r\nContent-Length: 6\r\n"),
        ("CL then unknown TE", "Content-Length: 6\r\nTransfer-Encoding: xchunked\r\n"),
        ("CL then empty TE", "Content-Length: 6\r\nTransfer-Encoding: \r\n"),
        ("bad CL after TE", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n"),
        (
            "CL then TE hidden from Connection",
            "Connection: transfer-encoding\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("TE then CL hidden by Connection", "Connection: content-length\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
    ] {
        forms.push(Form::bad(name, post(fields, &chunks)));
    }
    forms.push(Form::bad(
        "GET with CL and TE",
        format!("GET /f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
    ));
}

pub(super) fn lengths(forms: &mut Vec<Form>) {
    for (name, fields) in [
        ("two equal CL", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("two CL that differ", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("CL 0 and CL 5", "Content-Length: 0\r\nContent-Length: 5\r\n"),
        ("CL 5 and CL 0", "Content-Length: 5\r\nContent-Length: 0\r\n"),
        ("two CL apart", "Content-Length: 5\r\nX-A: b\r\ncontent-length: 5\r\n"),
        ("CL list of equals", "Content-Length: 5, 5\r\n"),
        ("CL list", "Content-Length: 5, 6\r\n"),
        ("CL list with an empty member", "Content-Length: 5,\r\n"),
        ("CL with plus", "Content-Length: +5\r\n"),
        ("CL with minus", "Content-Length: -5\r\n"),
        ("CL minus zero", "Content-Length: -0\r\n"),
        ("CL in hex", "Content-Length: 0x5\r\n"),
        ("CL with a point", "Content-Length: 5.0\r\n"),
        ("CL with an exponent", "Content-Length: 1e1\r\n"),
        ("CL with an underscore", "Content-Length: 1_0\r\n"),
        ("CL in letters", "Content-Length: five\r\n"),
        ("CL empty", "Content-Length: \r\n"),
        ("CL with a blank inside", "Content-Length: 1 0\r\n"),
        ("CL quoted", "Content-Length: \"5\"\r\n"),
        ("CL with a parameter", "Content-Length: 5;x=y\r\n"),
        ("CL of 2^64", "Content-Length: 18446744073709551616\r\n"),
        ("CL of 2^64+5", "Content-Length: 18446744073709551621\r\n"),
        ("CL with a vertical tab", "Content-Length: \x0b5\r\n"),
        ("CL with a form feed", "Content-Length: 5\x0c\r\n"),
        ("blank before the colon of CL", "Content-Length : 5\r\n"),
        ("tab before the colon of CL", "Content-Length\t: 5\r\n"),
        ("CL folded", "Content-Length:\r\n 5\r\n"),
        ("CL behind a bare LF", "X-A: b\nContent-Length: 5\r\n"),
        ("CL behind a bare CR", "X-A: b\rContent-Length: 5\r\n"),
    ] {
        forms.push(Form::bad(name, post(fields, "hello")));
    }
    for (name, fields) in [("CL of 2^63", "9223372036854775808"), ("CL of 2^64-1", "18446744073709551615")] {
        forms.push(Form::bad(name, post(&format!("Content-Length: {fields}\r\n"), "hello")).says(&[400, 413, 431]));
    }
    forms.push(Form::bad("CL over the cap", post("Content-Length: 99999999999\r\n", "hello")).says(&[413]));
    for (name, fields) in [
        ("CL", "Content-Length: 5\r\n"),
        ("CL between blanks", "Content-Length: \t 5 \t \r\n"),
        ("CL without a blank", "Content-Length:5\r\n"),
        ("CL with leading zeros", "Content-Length: 0005\r\n"),
        ("CL that Connection names", "Connection: content-length\r\nContent-Length: 5\r\n"),
    ] {
        forms.push(Form::good(name, post(fields, "hello"), sent_post().sized(b"hello")));
    }
    forms.push(Form::good("CL 0", post("Content-Length: 0\r\n", ""), sent_post().sized(b"")));
    forms.push(Form::good("Content_Length is not CL", get("Content_Length: 5\r\n"), sent_get()));
    forms.push(Form::good("Content.Length is not CL", get("Content.Length: 5\r\n"), sent_get()));
}

pub(super) fn codings(forms: &mut Vec<Form>) {
    let body = format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}");
    for (name, fields) in [
        ("TE xchunked", "Transfer-Encoding: xchunked\r\n"),
        ("TE chunked twice in a list", "Transfer-Encoding: chunked, chunked\r\n"),
        ("TE chunked on two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("TE chunked then identity", "Transfer-Encoding: chunked, identity\r\n"),
        ("TE identity then chunked", "Transfer-Encoding: identity, chunked\r\n"),
        ("TE gzip then chunked", "Transfer-Encoding: gzip, chunked\r\n"),
        ("TE chunked then gzip", "Transfer-Encoding: chunked, gzip\r\n"),
        ("TE identity", "Transfer-Encoding: identity\r\n"),
        ("TE identity and TE chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ("TE chunked and TE x", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"),
        ("TE empty", "Transfer-Encoding:\r\n"),
        ("TE comma", "Transfer-Encoding: ,chunked\r\n"),
        ("TE chunked comma", "Transfer-Encoding: chunked,\r\n"),
        ("TE with a parameter", "Transfer-Encoding: chunked;q=1\r\n"),
        ("TE quoted", "Transfer-Encoding: \"chunked\"\r\n"),
        ("TE with a vertical tab", "Transfer-Encoding: \x0bchunked\r\n"),
        ("TE with a form feed", "Transfer-Encoding: chunked\x0c\r\n"),
        ("TE with a NUL", "Transfer-Encoding: chunked\0\r\n"),
        ("TE folded", "Transfer-Encoding:\r\n chunked\r\n"),
        ("TE folded by tab", "Transfer-Encoding:\r\n\tchunked\r\n"),
        ("TE half folded", "Transfer-Encoding: chunked\r\n , identity\r\n"),
        ("blank before the colon of TE", "Transfer-Encoding : chunked\r\n"),
        ("tab before the colon of TE", "Transfer-Encoding\t: chunked\r\n"),
        ("blank before TE", "X-A: b\r\n Transfer-Encoding: chunked\r\n"),
        ("TE behind a bare LF", "X-A: b\nTransfer-Encoding: chunked\r\n"),
        ("TE behind a bare CR", "X-A: b\rTransfer-Encoding: chunked\r\n"),
        ("TE chunked split by a blank", "Transfer-Encoding: chun ked\r\n"),
        ("TE cow", "Transfer-Encoding: cow\r\n"),
    ] {
        forms.push(Form::bad(name, post(fields, &body)).says(&[400, 501]));
    }
    forms.push(Form::bad(
        "TE in HTTP/1.0",
        format!("POST /f HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
    ));
    forms.push(Form::bad(
        "TE in HTTP/1.0 kept alive",
        format!("POST /f HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
    ));
    for (name, fields) in [
        ("TE chunked", "Transfer-Encoding: chunked\r\n"),
        ("TE Chunked", "Transfer-Encoding: Chunked\r\n"),
        ("TE without a blank", "transfer-encoding:chunked\r\n"),
        ("TE between blanks", "Transfer-Encoding: \t chunked \t\r\n"),
        ("TE that Connection names", "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        forms.push(Form::good(name, post(fields, "5\r\nhello\r\n0\r\n\r\n"), sent_post().chunked(b"hello")));
    }
    forms.push(Form::good("Transfer_Encoding is not TE", get("Transfer_Encoding: chunked\r\n"), sent_get()));
    forms.push(Form::good(
        "TE: trailers",
        get("TE: trailers, deflate\r\n"),
        sent_get().field("connection: te").field("te: trailers"),
    ));
}

pub(super) fn chunks(forms: &mut Vec<Form>) {
    for (name, body) in [
        ("a chunk", "5\r\nhello\r\n0\r\n\r\n"),
        ("two chunks", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        ("chunks of one byte", "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n"),
        ("leading zeros", "0000005\r\nhello\r\n000\r\n\r\n"),
        ("an extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n"),
        ("a quoted extension", "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"),
        ("an extension after a blank", "5 ;a\r\nhello\r\n0\r\n\r\n"),
        ("trailers", "5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n"),
        ("trailers that frame", "5\r\nhello\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n"),
        ("trailers that identify", "5\r\nhello\r\n0\r\nX-Forwarded-For: 192.0.2.1\r\nDoorward-Identity: root\r\n\r\n"),
    ] {
        forms.push(Form::good(name, chunked(body), sent_post().chunked(b"hello")));
    }
    forms.push(Form::good("a size in capitals", chunked("A\r\n0123456789\r\n0\r\n\r\n"), sent_post().chunked(b"0123456789")));
    forms.push(Form::good("no chunk", chunked("0\r\n\r\n"), sent_post().chunked(b"")));
    for (name, body) in [
        ("a size in 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a size with plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a size with minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a blank before a size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("no size but an extension", ";a=b\r\nhello\r\n0\r\n\r\n"),
        ("a size in letters", "five\r\nhello\r\n0\r\n\r\n"),
        ("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("a size of 2^64", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("a size of 2^64+5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size with a NUL", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after a size", "5\nhello\r\n0\r\n\r\n"),
        ("bare CR after a size", "5\rhello\r\n0\r\n\r\n"),
        ("bare LF in an extension", "5;a\nhello\r\n0\r\n\r\n"),
        ("bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after a chunk", "5\r\nhello\n0\r\n\r\n"),
        ("no end of a chunk", "5\r\nhello0\r\n\r\n"),
        ("a chunk longer than its size", "5\r\nhello!\r\n0\r\n\r\n"),
        ("a size split by CR", "5\r\r\nhello\r\n0\r\n\r\n"),
        ("a second size without its LF", "5\r\nhello\r\n0\r\r\n\r\n"),
    ] {
        forms.push(Form::cut(name, chunked(&format!("{body}{HIDDEN}"))));
    }
    for (name, size) in [("a size of 2^64-1", "FFFFFFFFFFFFFFFF"), ("a size of 2^63", "8000000000000000")] {
        forms.push(Form::cut(name, chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n{HIDDEN}"))).says(&[400, 413]).ends());
    }
    for (name, body) in [
        ("bare LF ends the last chunk", format!("5\r\nhello\r\n0\n\n{HIDDEN}")),
        ("a request instead of trailers", format!("5\r\nhello\r\n0\r\n{HIDDEN}")),
        ("bare CR in trailers", format!("5\r\nhello\r\n0\r\nX-A: b\rc\r\n\r\n{HIDDEN}")),
    ] {
        forms.push(Form { answers: vec![&[200, 400]], ..Form::cut(name, chunked(&body)) });
    }
    // hyper takes the line or not, by how much came at once; what follows it on the connection is in doubt.
    let trailers = chunked(&format!("5\r\nhello\r\n0\r\nX-A: b\n\r\n{HIDDEN}"));
    let trailers = Form::good("bare LF in trailers", trailers, sent_post().chunked(b"hello")).closes();
    forms.push(Form { answers: vec![&[200, 400]], cut: true, ..trailers });
    forms.push(Form::cut("a huge extension", chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(64 * 1024)))));
    forms.push(Form::cut("huge trailers", chunked(&format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024)))));
    forms.push(Form::cut("a body that ends amid a chunk", chunked("5\r\nhel")).ends());
    forms.push(Form::cut("a body that ends amid a size", chunked("5\r\nhello\r\n0")).ends());
    forms.push(Form::cut("a body without its last line", chunked("5\r\nhello\r\n0\r\n")).ends());
}

pub(super) fn bodies(forms: &mut Vec<Form>) {
    let with = |method: &str, fields: &str, body: &str| format!("{method} /f HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}");
    let length = "Content-Length: 5\r\n";
    forms.push(Form::good("GET with a body", with("GET", length, "hello"), sent_get().sized(b"hello")));
    forms.push(Form::good(
        "GET with chunks",
        with("GET", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        sent_get().chunked(b"hello"),
    ));
    forms.push(Form::good("GET with CL 0", with("GET", "Content-Length: 0\r\n", ""), sent_get()));
    forms.push(Form::good("DELETE with a body", with("DELETE", length, "hello"), Sent::new("DELETE /f").sized(b"hello")));
    forms.push(Form::good("OPTIONS with a body", with("OPTIONS", length, "hello"), Sent::new("OPTIONS /f").sized(b"hello")));
    forms.push(Form::bad("TRACE with a body", with("TRACE", length, "hello")));
    let head = Form::good("HEAD with a body", with("HEAD", length, "hello"), Sent::new("HEAD /f").sized(b"hello"));
    forms.push(Form { heads: true, ..head });
    forms.push(Form::good("POST without framing", with("POST", "", ""), sent_post().sized(b"")));
    forms.push(Form::good("PUT without framing", with("PUT", "", ""), Sent::new("PUT /f").sized(b"")));
    forms.push(Form::good(
        "a request as a body",
        with("POST", &format!("Content-Length: {}\r\n", HIDDEN.len()), HIDDEN),
        sent_post().sized(HIDDEN.as_bytes()),
    ));
    forms.push(Form::good(
        "a request as a chunk",
        chunked(&format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len())),
        sent_post().chunked(HIDDEN.as_bytes()),
    ));
    forms.push(Form::cut("a body shorter than its length", with("POST", length, "hel")).ends());
    forms.push(Form::good(
        "Expect: 100-continue",
        with("POST", &format!("Expect: 100-continue\r\n{length}"), "hello"),
        sent_post().sized(b"hello"),
    ));
    forms.push(Form {
        answers: vec![&[200, 417]],
        ..Form::good(
            "Expect of something else",
            with("POST", &format!("Expect: the-unexpected\r\n{length}"), "hello"),
            sent_post().sized(b"hello"),
        )
    });
    let early = format!("POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", HIDDEN.len());
    let early =
        Form::good("an early answer, then a body that is a request", early, Sent::new("POST /early").sized(HIDDEN.as_bytes()));
    forms.push(Form { cut: true, then: Some(HIDDEN.as_bytes()), ..early });
    let early = "POST /early HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let early = Form::good("an early answer, then no chunk but a request", early, sent_post());
    forms.push(Form { upstream: Vec::new(), cut: true, then: Some(HIDDEN.as_bytes()), ..early });
    let refused = Form::bad(
        "a refused host, then a body that is a request",
        with("POST", &format!("Host: x\r\nContent-Length: {}\r\n", HIDDEN.len()), ""),
    );
    forms.push(Form { then: Some(HIDDEN.as_bytes()), ..refused.clear() });
}

pub(super) fn pipelines(forms: &mut Vec<Form>) {
    let next = "GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let sent_next = Sent::new("GET /next");
    forms.push(Form::several("two requests", format!("{}{next}", get("")), &[sent_get(), sent_next.clone()]));
    forms.push(Form::several(
        "three requests",
        format!("{}{next}{}", get(""), get("")),
        &[sent_get(), sent_next.clone(), sent_get()],
    ));
    forms.push(Form::several(
        "a length shorter than what follows",
        post("Content-Length: 5\r\n", &format!("hello{next}")),
        &[sent_post().sized(b"hello"), sent_next.clone()],
    ));
    forms.push(Form::several(
        "chunks, then a request",
        chunked(&format!("5\r\nhello\r\n0\r\n\r\n{next}")),
        &[sent_post().chunked(b"hello"), sent_next.clone()],
    ));
    forms.push(Form::several(
        "a request, then a body",
        format!("{}{}", get(""), post("Content-Length: 5\r\n", "hello")),
        &[sent_get(), sent_post().sized(b"hello")],
    ));
    forms.push(
        Form::good("Connection: close, then a request", format!("{}{next}", get("Connection: close\r\n")), sent_get()).closes(),
    );
    forms.push(
        Form::good(
            "close and keep-alive, then a request",
            format!("{}{next}", get("Connection: close\r\nConnection: keep-alive\r\n")),
            sent_get(),
        )
        .closes(),
    );
    forms.push(
        Form::good("HTTP/1.0, then a request", format!("GET /f HTTP/1.0\r\nHost: localhost\r\n\r\n{next}"), sent_get()).closes(),
    );
    for (name, bad) in [
        ("a request after CL and TE", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("a request after a bare LF", get("X-A: b\n")),
        ("a request after a bad name", get("X A: b\r\n")),
        ("a request after a bad version", "GET /f HTTP/3.0\r\nHost: localhost\r\n\r\n".to_owned()),
        ("a request after two lengths", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
    ] {
        forms.push(Form::bad(name, format!("{bad}{next}")).says(&[400, 505]));
    }
    for (name, bad) in [
        ("CL and TE after a request", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("a bare LF after a request", get("X-A: b\n")),
        ("a bad name after a request", get("X A: b\r\n")),
        ("two lengths after a request", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello")),
    ] {
        let both = Form::good(name, format!("{}{bad}{next}", get("")), sent_get()).closes();
        forms.push(Form { answers: vec![OK, BAD], ..both });
    }
}
