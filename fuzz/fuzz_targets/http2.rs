//! An HTTP/2 connection through the real server code. The input is either the client's bytes after its preface, or (first
//! byte `f`) a list of frames: type, flags, stream, length, payload; so that the fuzzer need not find lengths by chance.
#![no_main]

use doorward_fuzz::Stage;
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|input: &[u8]| {
    let mut bytes = PREFACE.to_vec();
    match input.split_first() {
        Some((b'f', frames)) => {
            bytes.extend_from_slice(SETTINGS);
            append_frames(frames, &mut bytes);
        }
        _ => bytes.extend_from_slice(input),
    }
    let answer = Stage::get().visit(&bytes, true);
    assert!(answer.is_empty() || answer.get(3) == Some(&4), "the server begins with SETTINGS");
});

fn append_frames(mut frames: &[u8], out: &mut Vec<u8>) {
    while let [kind, flags, stream, length, rest @ ..] = frames {
        let payload = &rest[..rest.len().min(usize::from(*length))];
        out.extend_from_slice(&[0, 0, payload.len() as u8, *kind, *flags, 0, 0, 0, *stream]);
        out.extend_from_slice(payload);
        frames = &rest[payload.len()..];
    }
}
