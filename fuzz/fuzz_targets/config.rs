//! The config file: every text is understood or refused with its errors, formatting keeps what it means.
#![no_main]

use std::path::Path;

use doorward::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("doorward.toml");
    let compiled = config::compile_str(path, text.to_owned());
    match &compiled {
        Ok((_, warnings)) => assert!(!warnings.has_errors()),
        Err(found) => {
            assert!(found.has_errors(), "a refusal says why");
            assert!(!found.render(false).is_empty());
        }
    }
    let Ok(formatted) = config::fmt::format(path, text) else { return };
    assert_eq!(config::fmt::format(path, &formatted).as_ref(), Ok(&formatted), "what is formatted stays");
    assert_eq!(config::compile_str(path, formatted).is_ok(), compiled.is_ok(), "formatting changes no verdict");
});
