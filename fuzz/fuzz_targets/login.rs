//! Login rules: an attempt names one account, in its one spelling, or is refused.
#![no_main]

use doorward::policy::login::{AccountKey, AccountSource, FieldSource, LoginRule, OutcomeRule};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;

// Lines: kind, Content-Type, Authorization, query, Location; then the body.
fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(6, |byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (kind, content_type, authorization, query, location, body) = (next(), next(), next(), next(), next(), next());
    let kind = kind.first().copied().unwrap_or_default();
    let query = std::str::from_utf8(query).ok().filter(|query| !query.is_empty());
    let (account, secret) = match kind % 3 {
        0 => (AccountSource::Field(FieldSource::Form("username".into())), Some(FieldSource::Form("password".into()))),
        1 => (AccountSource::Field(FieldSource::Json("/user/name".into())), Some(FieldSource::Json("/user/pass".into()))),
        _ => (AccountSource::Basic, None),
    };
    let rule = LoginRule {
        name: "form".into(),
        method: Method::POST,
        path: "/login".into(),
        account,
        secret,
        failed: vec![OutcomeRule { redirect: Some("/login?error=*".into()), ..OutcomeRule::default() }],
        ok: vec![OutcomeRule { header: Some((HeaderName::from_static("location"), "*home*".into())), ..OutcomeRule::default() }],
        origins: Vec::new(),
        pad: std::time::Duration::ZERO,
    };
    let mut headers = HeaderMap::new();
    let fallback: &[u8] = if kind % 3 == 1 { b"application/json" } else { b"application/x-www-form-urlencoded" };
    append(&mut headers, "content-type", if content_type.is_empty() { fallback } else { content_type });
    append(&mut headers, "authorization", authorization);
    if let Ok(attempt) = rule.read("portal.example.com", &headers, query, body) {
        let name = &attempt.account.0;
        assert!(!name.is_empty() && name.len() <= AccountKey::MAX && name.trim() == &**name);
        assert_eq!(AccountKey::new(name).as_ref(), Some(&attempt.account), "an account has one spelling");
        if kind % 3 == 0 {
            let names = |text: &[u8]| {
                // Decoded as every application does.
                text.split(|byte| *byte == b'&').filter(|pair| decoded_name(pair) == b"username").count()
            };
            assert_eq!(names(body), 1, "the account stands once");
        }
    }
    let mut answer = HeaderMap::new();
    append(&mut answer, "location", location);
    let _ = rule.outcome(StatusCode::FOUND, &answer);
});

fn decoded_name(pair: &[u8]) -> Vec<u8> {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    let (mut out, mut at) = (Vec::new(), 0);
    let digit = |at: usize| name.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    while let Some(byte) = name.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    out
}

fn append(headers: &mut HeaderMap, name: &'static str, line: &[u8]) {
    if let (false, Ok(value)) = (line.is_empty(), HeaderValue::from_bytes(line)) {
        headers.append(name, value);
    }
}
