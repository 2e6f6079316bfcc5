//! Approval tokens: none but the one that was issued is ours.
#![no_main]

use std::sync::OnceLock;

use doorward::clock::{Clock, ManualClock};
use doorward::policy::approval::{ApprovalKind, ApprovalRules, Terms};
use doorward::state::approvals::{Approvals, TokenKey};
use doorward::state::store::embedded::EmbeddedStore;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

struct Register {
    approvals: Approvals,
    token: String,
    _folder: TempDir,
}

// The first byte chooses between a token of the fuzzer's own making and the real one with its bytes turned.
fuzz_target!(|input: &[u8]| {
    static REGISTER: OnceLock<Register> = OnceLock::new();
    let Register { approvals, token, .. } = REGISTER.get_or_init(register);
    let Some((&kind, bytes)) = input.split_first() else { return };
    let presented = if kind == b't' { turn(token.as_bytes(), bytes) } else { bytes.to_vec() };
    match approvals.present(&presented) {
        Ok((_, serial)) => {
            assert_eq!(presented, token.as_bytes(), "one spelling of a token is ours");
            assert_eq!(serial, 1);
        }
        Err(_) => assert_ne!(presented, token.as_bytes()),
    }
});

/// Pairs of (place, mask).
fn turn(token: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut turned = token.to_vec();
    for pair in bytes.chunks_exact(2) {
        let place = usize::from(pair[0]) % turned.len();
        turned[place] ^= pair[1];
    }
    turned
}

fn register() -> Register {
    let folder = tempfile::tempdir().expect("a folder");
    let store = std::sync::Arc::new(EmbeddedStore::open(folder.path()).expect("a store"));
    let key = TokenKey::load(&folder.path().join("key"), true).expect("a key");
    let now = Clock::from(ManualClock::at("2026-01-01T00:00:00Z".parse().expect("a time"))).now();
    let approvals = Approvals::load(store, key, ApprovalRules::default(), now).expect("a register");
    let terms = Terms {
        kind: ApprovalKind::Bot,
        name: "sync".into(),
        owner: "Acme".into(),
        contact: "ops@acme.example".into(),
        purpose: "import".into(),
        sites: vec!["localhost".into()],
        methods: vec!["GET".into()],
        paths: vec!["/**".into()],
        rate: None,
        hours: None,
        not_before: None,
        until: "2027-01-01T00:00:00Z".parse().expect("a time"),
        from: Vec::new(),
        binding: None,
        policy_id: "p".into(),
        policy_version: "1".into(),
        requested_at: now.wall,
    };
    let (record, _) = approvals.request(terms, "fuzz".into(), now).expect("a request");
    let (_, token, _) = approvals.activate(&record.id, "fuzz".into(), now).expect("a token");
    Register { approvals, token, _folder: folder }
}
