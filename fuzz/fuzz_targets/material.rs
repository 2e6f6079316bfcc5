//! Certificates and revocation lists as files hold them: each block accounted for, or the file refused.
#![no_main]

use doorward::tls::{count_certificates, count_crls};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let begins = |label: &[u8]| bytes.windows(label.len()).filter(|window| *window == label).count();
    if let Ok(count) = count_certificates(bytes) {
        assert_eq!(count, begins(b"-----BEGIN CERTIFICATE-----"), "no block is skipped");
        assert!(count > 0);
    }
    if let Ok(count) = count_crls(bytes) {
        assert!(count > 0);
        assert!(bytes.first() == Some(&0x30) || count == begins(b"-----BEGIN X509 CRL-----"), "no block is skipped");
    }
});
