//! An HTTP/1 connection through the real server code: whatever its bytes, the application gets whole, canonical requests
//! with one framing, each once, and no more answers come back than the client could have asked for.
#![no_main]

use doorward_fuzz::Stage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let answer = Stage::get().visit(bytes, false);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
});
