//! Where a bot's token stands: in one of two headers, once. Two are none.
#![no_main]

use doorward::gateway::inspect::presented_token;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

// Lines: `d` and a Doorward-Approval, or anything else and an Authorization.
fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    let mut tokens = 0;
    for line in input.split(|byte| *byte == b'\n') {
        let Some((kind, line)) = line.split_first() else { continue };
        let dedicated = *kind == b'd';
        let Ok(value) = HeaderValue::from_bytes(line) else { continue };
        let name = if dedicated { "doorward-approval" } else { "authorization" };
        headers.append(name, value);
        let scheme = line.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"doorward"));
        tokens += usize::from(dedicated || (scheme && line.get(8).is_none_or(|byte| *byte == b' ')));
    }
    match presented_token(&headers) {
        Ok(None) => assert_eq!(tokens, 0),
        Ok(Some(token)) => {
            assert_eq!(tokens, 1);
            assert_eq!(token, token.trim_ascii());
        }
        Err(_) => assert!(tokens > 1),
    }
});
