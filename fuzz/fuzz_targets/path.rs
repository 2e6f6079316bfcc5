//! The canonical path: what the policy saw is what the application receives, however the two take it apart.
#![no_main]

use std::borrow::Cow;

use doorward::policy::CanonicalPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    let Ok(seen) = CanonicalPath::parse(target) else { return };
    let forwarded = seen.as_path_and_query();
    let uri: http::Uri = forwarded.parse().expect("what is accepted can be forwarded");
    assert_eq!(uri.path_and_query().map(|kept| kept.as_str()), Some(forwarded), "the wire keeps it byte for byte");
    assert_eq!(uri.path(), seen.as_str(), "the policy and the wire cut the query at the same place");
    assert_eq!(uri.query(), seen.query());
    assert_eq!(CanonicalPath::parse(forwarded).as_ref(), Ok(&seen), "a canonical path is its own canonical path");
    assert_eq!(seen.query(), target.split_once('?').map(|(_, query)| query), "the query is kept as it came");

    // An application that decodes once reads what the policy compared; one that decodes twice finds no new separator.
    let once = decode(seen.as_str());
    assert_eq!(once, decode(target.split('?').next().unwrap_or_default()), "nothing but spelling changed");
    assert_eq!(once, seen.reading().as_bytes(), "the policy compared what the application reads");
    let twice = decode(std::str::from_utf8(&once).expect("UTF-8"));
    for reading in [&*once, &*twice] {
        assert_eq!(segments(reading), segments(seen.as_str().as_bytes()), "no separator appears by decoding");
        assert!(!reading.iter().any(|byte| matches!(byte, 0..=0x1f | 0x7f | b'\\')), "no control or backslash appears");
        for segment in reading.split(|byte| *byte == b'/') {
            let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
            assert!(name != b"." && name != b"..", "no dot segment appears");
        }
    }
});

/// As an application decodes: what is no escape stays.
fn decode(path: &str) -> Cow<'_, [u8]> {
    let bytes = path.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out.into()
}

fn segments(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}
