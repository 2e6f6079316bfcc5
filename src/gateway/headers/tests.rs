use proptest::prelude::*;

use super::*;
use crate::net::Nets;
use crate::policy::Name;

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn nets(list: &[&str]) -> Nets {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

/// As the application hears of it.
fn set_origin(headers: &mut HeaderMap, hops: &Hops<'_>, host: &str, known: &OnceLock<Origin>) {
    let preset = origin(headers, hops, host, known);
    for (name, value) in preset.fields() {
        headers.append(name, value.clone());
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn identity(name: &str) -> Identity {
    Identity {
        set: "acme".into(),
        name: name.into(),
        key: Name::from(format!("acme:{name}")),
        kind: AccountKind::Service,
        tenant: Some("acme".into()),
        roles: Vec::new(),
        cert_sha256: [0; 32],
        path: [].into(),
    }
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn trap_x_forwarded_for_of_an_untrusted_peer_is_ignored() {
    let headers = map(&[("x-forwarded-for", "1.2.3.4")]);
    assert_eq!(client_ip(ip("::ffff:9.9.9.9"), &headers, &nets(&["10.0.0.0/8"])).unwrap(), (ip("9.9.9.9"), vec![]));
    assert_eq!(client_ip(ip("9.9.9.9"), &headers, &Nets::default()).unwrap(), (ip("9.9.9.9"), vec![]));
}

#[test]
fn trap_x_forwarded_for_is_walked_right_to_left_over_trusted_hops() {
    let trusted = nets(&["10.0.0.0/8", "fd00::/8"]);
    for (lines, client, believed) in [
        (vec!["1.2.3.4"], "1.2.3.4", vec!["1.2.3.4"]),
        (vec!["6.6.6.6, 1.2.3.4"], "1.2.3.4", vec!["1.2.3.4"]),
        (vec!["6.6.6.6, 1.2.3.4, 10.1.1.1"], "1.2.3.4", vec!["1.2.3.4", "10.1.1.1"]),
        (vec!["1.2.3.4", "10.1.1.1,10.2.2.2"], "1.2.3.4", vec!["1.2.3.4", "10.1.1.1", "10.2.2.2"]),
        (vec!["10.9.9.9, 10.1.1.1"], "10.9.9.9", vec!["10.9.9.9", "10.1.1.1"]),
        (vec!["garbage from outside, 1.2.3.4:5678"], "1.2.3.4", vec!["1.2.3.4"]),
        (vec!["[2001:db8::1]:443, fd00::1"], "2001:db8::1", vec!["2001:db8::1", "fd00::1"]),
        (vec!["[2001:db8::2]"], "2001:db8::2", vec!["2001:db8::2"]),
        (vec!["::ffff:1.2.3.4"], "1.2.3.4", vec!["1.2.3.4"]),
    ] {
        let headers = map(&lines.iter().map(|line| ("x-forwarded-for", *line)).collect::<Vec<_>>());
        let expected = (ip(client), believed.into_iter().map(ip).collect::<Vec<_>>());
        assert_eq!(client_ip(ip("10.0.0.1"), &headers, &trusted).unwrap(), expected, "{lines:?}");
    }
}

#[test]
fn a_trusted_proxy_without_a_usable_x_forwarded_for_is_a_bad_request() {
    let trusted = nets(&["10.0.0.0/8"]);
    let long = vec!["10.1.1.1"; MAX_HOPS + 1].join(",");
    for line in [
        "",
        "unknown",
        "1.2.3.4, unknown",
        "1.2.3.4,",
        "1.2.3.4, ,10.0.0.2",
        "0.0.0.0",
        "fe80::1%eth0",
        "1.2.3.4.5",
        "\u{e9}",
        &long,
    ] {
        let headers = map(&[("x-forwarded-for", line)]);
        let refused = client_ip(ip("10.0.0.1"), &headers, &trusted).unwrap_err();
        assert_eq!(refused.reason, Reason::BadRequest, "{line}");
    }
    assert_eq!(client_ip(ip("10.0.0.1"), &HeaderMap::new(), &trusted).unwrap_err().reason, Reason::BadRequest);
}

#[test]
fn trap_spoofed_identity_headers_are_removed_under_every_alias() {
    for name in [
        "X-Forwarded-For",
        "X_Forwarded_For",
        "x.forwarded.for",
        "x-forwarded_proto",
        "X-Forwarded-User",
        "X-Forwarded-Uri",
        "X-Forwarded-Client-Cert",
        "Forwarded",
        "X-Real-IP",
        "X_Real_IP",
        "Doorward-Identity",
        "DOORWARD_IDENTITY",
        "doorward.kind",
        "doorward-approval",
        "doorward-anything-new",
        "Client-Cert",
        "client_cert",
        "Client-Cert-Chain",
        "X-Original-URL",
        "x_rewrite_url",
        "ssl-client-verify",
        "X-SSL-Client-CN",
        "doorward~tenant",
        "True-Client-IP",
        "X-Client-IP",
        "CF-Connecting-IP",
        "cf_connecting_ipv6",
        "X-Cluster-Client-IP",
        "Fastly-Client-IP",
        "Remote-User",
        "remote_user",
        "X-Remote-User",
        "X-Remote-Addr",
        "x_remote_ip",
        "Client-IP",
        "client_ip",
        "Proxy-Client-IP",
        "WL-Proxy-Client-IP",
        "wl.proxy.client.ip",
        "X-Originating-IP",
        "X-Host",
        "X-URL-Scheme",
        "X-Auth-Request-Email",
        "x_auth_request_groups",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
    ] {
        let mut headers = map(&[(name, "spoofed"), (name, "twice"), ("accept", "*/*")]);
        strip_request(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*")]), "{name}");
    }
}

#[test]
fn no_protected_name_is_let_through_by_its_first_letter() {
    for name in PROTECTED_PREFIXES {
        let name = format!("{name}{}", if name.ends_with('-') { "x" } else { "" });
        assert!(is_unwanted(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
    }
}

#[test]
fn what_is_the_applications_own_passes() {
    let lines = [
        ("host", "portal.example.com"),
        ("user-agent", "curl/8"),
        ("authorization", "Bearer abc"),
        ("cookie", "a=b"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-request-id", "7"),
        ("x-forward", "a near miss"),
        ("forwarded-hint", "not the field itself"),
        ("doorwardx", "1"),
        ("referer", "https://portal.example.com/"),
        ("x-auth-token", "the application's own"),
        ("cf-ray", "7"),
        ("content-length", "3"),
    ];
    let mut headers = map(&lines);
    strip_request(&mut headers);
    assert_eq!(headers, map(&lines));
}

#[test]
fn hop_by_hop_fields_end_here() {
    let mut headers = map(&[
        ("connection", "keep-alive, X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eDp5"),
        ("proxy", "http://evil.example"),
        ("te", "gzip, trailers;q=0.5"),
        ("trailer", "expires"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("accept", "*/*"),
    ]);
    strip_request(&mut headers);
    assert_eq!(headers, map(&[("te", "trailers"), ("accept", "*/*")]));
}

#[test]
fn trap_second_connection_line_does_not_escape_removal() {
    let mut headers =
        map(&[("connection", "close"), ("connection", " X-One ,x-two"), ("x-one", "1"), ("x-two", "2"), ("x-three", "3")]);
    strip_request(&mut headers);
    assert_eq!(headers, map(&[("x-three", "3")]));
}

#[test]
fn trap_connection_cannot_name_away_what_is_set_or_what_the_request_is() {
    let mut headers = map(&[
        ("connection", "x-forwarded-for, doorward-identity, host, authorization, content-length, cookie, content-type"),
        ("host", "portal.example.com"),
        ("authorization", "Bearer abc"),
        ("content-length", "3"),
        ("content-type", "text/plain"),
        ("cookie", "a=b"),
    ]);
    strip_request(&mut headers);
    set_origin(
        &mut headers,
        &Hops { believed: &[], peer: None, client: ip("203.0.113.7") },
        "portal.example.com",
        &OnceLock::new(),
    );
    set_caller(&mut headers, Some(&identity("sync")), None);
    assert_eq!(all(&headers, "x-forwarded-for"), ["203.0.113.7"]);
    assert_eq!(all(&headers, "doorward-identity"), ["acme:sync"]);
    for name in ["host", "authorization", "content-length", "content-type", "cookie"] {
        assert!(headers.contains_key(name), "{name}");
    }
}

#[test]
fn the_approval_credential_never_reaches_the_application() {
    let mut headers = map(&[
        ("authorization", "doorWARD v4.public.abc"),
        ("authorization", "Basic eDp5"),
        ("authorization", "Doorward"),
        ("authorization", "DoorwardX keep"),
        ("doorward-approval", "v4.public.abc"),
    ]);
    strip_request(&mut headers);
    assert_eq!(all(&headers, "authorization"), ["Basic eDp5", "DoorwardX keep"]);
    assert!(!headers.contains_key("doorward-approval"));
}

#[test]
fn the_crumbs_of_a_cookie_become_one_line() {
    let mut headers = map(&[("cookie", "a=b"), ("accept", "*/*"), ("cookie", "c=d; e=f")]);
    strip_request(&mut headers);
    assert_eq!(headers, map(&[("cookie", "a=b; c=d; e=f"), ("accept", "*/*")]));
}

#[test]
fn the_application_is_told_where_a_request_came_from() {
    let mut headers = HeaderMap::new();
    set_origin(
        &mut headers,
        &Hops { believed: &[], peer: None, client: ip("203.0.113.7") },
        "portal.example.com",
        &OnceLock::new(),
    );
    assert_eq!(all(&headers, "x-forwarded-for"), ["203.0.113.7"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&headers, "x-forwarded-host"), ["portal.example.com"]);
    assert_eq!(all(&headers, "forwarded"), ["for=203.0.113.7;proto=https;host=portal.example.com"]);
    assert_eq!(all(&headers, "host"), ["portal.example.com"]);

    let believed = [ip("2001:db8::1"), ip("10.1.1.1")];
    let hops = Hops { believed: &believed, peer: Some(ip("10.0.0.1")), client: ip("2001:db8::1") };
    let mut headers = map(&[("host", "portal.example.com")]);
    set_origin(&mut headers, &hops, "portal.example.com:8443", &OnceLock::new());
    assert_eq!(all(&headers, "x-forwarded-for"), ["2001:db8::1, 10.1.1.1, 10.0.0.1"]);
    assert_eq!(
        all(&headers, "forwarded"),
        ["for=\"[2001:db8::1]\", for=10.1.1.1, for=10.0.0.1;proto=https;host=\"portal.example.com:8443\""]
    );
    assert_eq!(all(&headers, "host"), ["portal.example.com"], "Host stays as the client sent it");
}

#[test]
fn a_connection_tells_each_request_its_own_host_and_hops() {
    let known = OnceLock::new();
    let told = |host, believed: &[IpAddr]| {
        let mut headers = HeaderMap::new();
        let peer = believed.first().map(|_| ip("203.0.113.7"));
        let client = believed.first().copied().unwrap_or(ip("203.0.113.7"));
        set_origin(&mut headers, &Hops { believed, peer, client }, host, &known);
        ["forwarded", "x-forwarded-for", "x-forwarded-host"].map(|name| all(&headers, name).join("+"))
    };
    for host in ["a.example.com", "b.example.com", "a.example.com"] {
        let forwarded = format!("for=203.0.113.7;proto=https;host={host}");
        assert_eq!(told(host, &[]), [forwarded.as_str(), "203.0.113.7", host]);
    }
    let [forwarded, chain, _] = told("a.example.com", &[ip("192.0.2.1")]);
    assert_eq!(forwarded, "for=192.0.2.1, for=203.0.113.7;proto=https;host=a.example.com");
    assert_eq!(chain, "192.0.2.1, 203.0.113.7");
}

#[test]
fn the_application_is_told_who_the_caller_is() {
    let mut headers = HeaderMap::new();
    set_caller(&mut headers, Some(&identity("Ünal 50%")), Some("ap-17"));
    assert_eq!(all(&headers, "doorward-identity"), ["acme:%C3%9Cnal%2050%25"]);
    assert_eq!(all(&headers, "doorward-kind"), ["service"]);
    assert_eq!(all(&headers, "doorward-tenant"), ["acme"]);
    assert_eq!(all(&headers, "doorward-approval-id"), ["ap-17"]);

    let mut headers = HeaderMap::new();
    set_caller(&mut headers, None, Some("ap-17"));
    assert_eq!(all(&headers, "doorward-kind"), ["bot"]);
    set_caller(&mut headers, None, None);
    assert_eq!(headers.len(), 2);
}

#[test]
fn certificates_are_sent_as_rfc_9440_byte_sequences() {
    let mut headers = HeaderMap::new();
    set_chain(&mut headers, &[1, 2, 3], &[]);
    assert_eq!(all(&headers, "client-cert"), [":AQID:"]);
    assert!(!headers.contains_key("client-cert-chain"));
    set_chain(&mut headers, &[1, 2, 3], &[vec![4], vec![5, 6]]);
    assert_eq!(all(&headers, "client-cert-chain"), [":BA==:, :BQY=:"]);
}

#[test]
fn an_upgrade_is_asked_for_by_both_fields_over_http_1_1() {
    for (lines, version, asked) in [
        (vec![("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")], Version::HTTP_11, true),
        (vec![("connection", "close"), ("connection", "upgrade"), ("upgrade", "websocket, foo/2")], Version::HTTP_11, true),
        (vec![("connection", "upgrade"), ("upgrade", "websocket")], Version::HTTP_10, false),
        (vec![("connection", "upgrade"), ("upgrade", "websocket")], Version::HTTP_2, false),
        (vec![("connection", "keep-alive"), ("upgrade", "websocket")], Version::HTTP_11, false),
        (vec![("connection", "upgrade")], Version::HTTP_11, false),
        (vec![("connection", "upgrade"), ("upgrade", "")], Version::HTTP_11, false),
        (vec![("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")], Version::HTTP_11, false),
    ] {
        let headers = map(&lines);
        assert_eq!(upgrade(&headers, version).is_some(), asked, "{lines:?} {version:?}");
    }
}

#[test]
fn an_upgrade_to_another_http_is_none_for_its_requests_would_be_seen_by_nobody() {
    for protocol in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.0", "h2"] {
        let mut headers =
            map(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", protocol), ("http2-settings", "AAMAAABk")]);
        assert_eq!(upgrade(&headers, Version::HTTP_11), None, "{protocol}");
        strip_request(&mut headers);
        assert!(headers.is_empty(), "{protocol}");
    }
}

#[test]
fn an_upgrade_survives_the_stripping() {
    let mut headers = map(&[
        ("connection", "keep-alive, Upgrade, x-hop"),
        ("upgrade", "websocket"),
        ("x-hop", "1"),
        ("sec-websocket-key", "k"),
    ]);
    strip_request(&mut headers);
    assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "k")]));
}

#[test]
fn an_answered_upgrade_must_be_one_that_was_asked_for() {
    let asked = HeaderValue::from_static("websocket, chat/2");
    for (answered, agrees) in [("WebSocket", true), ("chat/2", true), ("chat/3", false), ("", false), ("h2c", false)] {
        let headers = map(&[("connection", "Upgrade"), ("upgrade", answered)]);
        assert_eq!(upgrade_agrees(&asked, &headers), agrees, "{answered}");
    }
    assert!(!upgrade_agrees(&asked, &map(&[("upgrade", "websocket")])));
}

#[test]
fn http_2_keeps_decisions_out_of_its_table_but_for_their_name() {
    let kept = (0..1000).filter(|nth| !told(decision(DecisionId(1)), *nth).is_sensitive()).collect::<Vec<_>>();
    assert_eq!((kept.len(), kept[..2].to_vec()), (1000_usize.div_ceil(NAMED_EVERY), vec![0, NAMED_EVERY]));
    assert!(decision(DecisionId(1)).is_sensitive(), "towards the application");
}

#[test]
fn a_response_loses_its_hop_by_hop_fields_and_a_spoofed_decision() {
    let mut headers = map(&[
        ("connection", "x-hop, set-cookie"),
        ("connection", "close"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2,h2c"),
        ("doorward-decision", "spoofed"),
        ("doorward-decision", "again"),
        ("set-cookie", "a=b"),
        ("server", "app"),
        ("trailer", "grpc-status"),
    ]);
    towards_client(&mut headers, decision(DecisionId(0xabc)), Some("portal.example.com:8443"));
    let expected = map(&[
        ("doorward-decision", "00000000000000000000000000000abc"),
        ("set-cookie", "a=b"),
        ("server", "app"),
        ("trailer", "grpc-status"),
        ("strict-transport-security", "max-age=31536000"),
    ]);
    assert_eq!(headers, expected);
}

#[test]
fn a_switch_of_protocols_keeps_its_two_fields() {
    let mut headers = map(&[("connection", "Upgrade, x-hop"), ("x-hop", "1"), ("upgrade", "websocket")]);
    towards_client(&mut headers, decision(DecisionId(1)), Some("localhost"));
    assert_eq!(all(&headers, "connection"), ["upgrade"]);
    assert_eq!(all(&headers, "upgrade"), ["websocket"]);
    assert!(!headers.contains_key("x-hop"));
}

#[test]
fn strict_transport_security_is_for_named_hosts_and_never_overwrites() {
    for (host, set) in [
        ("portal.example.com", true),
        ("portal.example.com.", true),
        ("portal", true),
        ("localhost", false),
        ("LOCALHOST:8443", false),
        ("app.localhost", false),
        ("127.0.0.1", false),
        ("127.0.0.1:8443", false),
        ("[::1]", false),
        ("[::1]:8443", false),
        ("", false),
    ] {
        let mut headers = HeaderMap::new();
        towards_client(&mut headers, decision(DecisionId(1)), Some(host));
        assert_eq!(headers.contains_key(STRICT_TRANSPORT_SECURITY), set, "{host}");
    }
    let mut headers = map(&[("strict-transport-security", "max-age=1")]);
    towards_client(&mut headers, decision(DecisionId(1)), Some("portal.example.com"));
    assert_eq!(all(&headers, "strict-transport-security"), ["max-age=1"]);
}

/// What a CGI-like framework would read a name as.
fn variable(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn arb_name() -> impl Strategy<Value = String> {
    let protected = prop::sample::select(vec![
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "doorward-identity",
        "doorward-kind",
        "doorward-tenant",
        "doorward-approval-id",
        "doorward-decision",
        "doorward-approval",
        "client-cert",
        "client-cert-chain",
        "x-real-ip",
        "connection",
        "accept",
    ]);
    (protected, prop::collection::vec((any::<bool>(), prop::sample::select(vec!['-', '_', '.', '~', '!'])), 24)).prop_map(
        |(name, turns)| {
            let aliased = name.chars().zip(turns).map(|(c, (upper, separator))| match c {
                '-' => separator,
                c if upper => c.to_ascii_uppercase(),
                c => c,
            });
            aliased.collect()
        },
    )
}

proptest! {
    #[test]
    fn no_alias_of_a_protected_name_survives_whatever_the_client_sends(
        lines in prop::collection::vec((arb_name(), "[ -~]{0,24}"), 0..12),
        named in prop::collection::vec(arb_name(), 0..6),
    ) {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_str(&named.join(",")).unwrap());
        for (name, value) in &lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        strip_request(&mut headers);
        set_origin(&mut headers, &Hops { believed: &[], peer: None, client: ip("203.0.113.7") }, "portal.example.com", &OnceLock::new());
        headers.insert(DOORWARD_DECISION, decision(DecisionId(7)));
        set_caller(&mut headers, Some(&identity("sync")), None);

        let ours = [
            ("X_FORWARDED_FOR", "203.0.113.7"),
            ("X_FORWARDED_PROTO", "https"),
            ("X_FORWARDED_HOST", "portal.example.com"),
            ("FORWARDED", "for=203.0.113.7;proto=https;host=portal.example.com"),
            ("DOORWARD_DECISION", "00000000000000000000000000000007"),
            ("DOORWARD_IDENTITY", "acme:sync"),
            ("DOORWARD_KIND", "service"),
            ("DOORWARD_TENANT", "acme"),
        ];
        for (name, value) in &headers {
            let variable = variable(name.as_str());
            let is_ours = ours.iter().any(|(name, set)| *name == variable && *set == value.to_str().unwrap());
            let posing = ["X_FORWARDED", "DOORWARD_", "CLIENT_CERT", "X_REAL_IP"].iter().any(|prefix| variable.starts_with(prefix));
            prop_assert!(is_ours || !(posing || variable == "FORWARDED"), "{name}: {value:?}");
        }
        for (name, value) in ours {
            let seen = headers.iter().filter(|(header, _)| variable(header.as_str()) == name).map(|(_, value)| value.to_str().unwrap()).collect::<Vec<_>>();
            prop_assert_eq!(seen, vec![value]);
        }
    }

    #[test]
    fn two_names_never_look_alike_to_the_application(a in "\\PC{0,12}", b in "\\PC{0,12}") {
        prop_assume!(a != b);
        prop_assert_ne!(plain(&a), plain(&b));
    }

    #[test]
    fn the_client_is_never_taken_from_left_of_an_untrusted_hop(
        outside in prop::collection::vec("[0-9a-zA-Z.:]{0,12}", 0..4),
        client in any::<[u8; 4]>().prop_filter("untrusted", |ip| ip[0] != 10 && *ip != [0; 4]),
        hops in prop::collection::vec(any::<[u8; 3]>(), 0..4),
    ) {
        let client = IpAddr::from(client);
        let mut list = outside;
        list.push(client.to_string());
        list.extend(hops.iter().map(|[b, c, d]| format!("10.{b}.{c}.{d}")));
        let headers = map(&[("x-forwarded-for", &list.join(", "))]);
        prop_assert_eq!(client_ip(ip("10.0.0.1"), &headers, &nets(&["10.0.0.0/8"])).unwrap().0, client);
    }
}
