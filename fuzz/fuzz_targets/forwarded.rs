//! Host and the forwarded chain: one host, canonical, and a client that only trusted hops could have named.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use doorward::gateway::{headers, inspect};
use doorward::net::Nets;
use doorward::policy::route::canonical_host;
use http::{HeaderMap, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

// A target, then lines: `h` and a Host, or `f` and an X-Forwarded-For.
fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(target) = lines.next().and_then(|target| std::str::from_utf8(target).ok()) else { return };
    let (hosts, forwarded): (Vec<&[u8]>, Vec<&[u8]>) = lines.partition(|line| line.first() == Some(&b'h'));
    if let Some(host) = canonical_host(target) {
        assert_eq!(canonical_host(&host).as_ref(), Some(&host), "a canonical host is its own canonical host");
        assert!(!host.contains(['@', '/', ' ', '?', '#', '\\', '%']) && !host.ends_with('.') && host == host.to_lowercase());
    }
    let mut head = HeaderMap::new();
    append(&mut head, "host", &hosts);
    append(&mut head, "x-forwarded-for", &forwarded);
    read_target(target, &head);
    read_chain(&head);
});

fn read_target(target: &str, headers: &HeaderMap) {
    let Ok(mut request) = Request::builder().uri(target).body(()) else { return };
    *request.headers_mut() = headers.clone();
    let (head, ()) = request.into_parts();
    if let Ok(target) = inspect::target(&head, None) {
        assert!(headers.get_all("host").iter().count() <= 1, "two hosts are no host");
        let authority = target.authority.to_str().unwrap_or_default();
        assert_eq!(canonical_host(authority).as_deref(), Some(&*target.host));
        // A handshake that named the host, as nearly all do, makes no difference.
        let known = inspect::target(&head, Some(&target.host)).map(|known| (known.host, known.path));
        assert!(known.is_ok_and(|known| known == (target.host.clone(), target.path.clone())));
        if let Some(named) = head.uri.authority() {
            assert_eq!(canonical_host(named.as_str()).as_deref(), Some(&*target.host));
        }
    }
}

fn read_chain(headers: &HeaderMap) {
    let trusted: Nets =
        ["127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"].iter().filter_map(|net| net.parse::<ipnet::IpNet>().ok()).collect();
    let stranger = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
    let unheard = headers::client_ip(stranger, headers, &trusted).map(|(ip, believed)| (ip, believed.len()));
    assert!(matches!(unheard, Ok((ip, 0)) if ip == stranger), "whom nobody trusts names nobody");

    let proxy = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Ok((client, believed)) = headers::client_ip(proxy, headers, &trusted) else { return };
    assert!(!believed.is_empty() && believed.len() <= 64 && believed.first() == Some(&client));
    assert!(believed.iter().skip(1).all(|hop| trusted.contains(*hop)), "only trusted hops stand after the client");
    let text: Vec<_> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    let hops = text.join(",").split(',').count();
    assert!(
        trusted.contains(client) && hops == believed.len() || !trusted.contains(client),
        "the walk ends at the first stranger"
    );
}

fn append(headers: &mut HeaderMap, name: &'static str, lines: &[&[u8]]) {
    for line in lines.iter().filter_map(|line| line.get(1..)) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
}
