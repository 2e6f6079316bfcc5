use proptest::prelude::*;

use super::*;
use crate::policy::login::AccountSource;

fn route(path: &str, exact: bool) -> Arc<Route> {
    Arc::new(Route {
        id: RouteId(0),
        site: SiteId(0),
        label: path.into(),
        path: path.to_owned(),
        exact,
        upstream: UpstreamId(0),
        login: None,
        bots: BotRule::Any,
        client_cert: CertDemand::None,
        allow: None,
        limits: Vec::new(),
        body: 0,
    })
}

fn site(id: usize, hosts: &[&str], client_ca: &[usize]) -> Site {
    Site {
        id: SiteId(id),
        hosts: hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
        client_ca: client_ca.to_vec(),
        client_cert: CertDemand::Optional,
        routes: RouteTable::default(),
    }
}

fn path(text: &str) -> CanonicalPath {
    CanonicalPath::parse(text).unwrap()
}

fn found<'a>(table: &'a RouteTable, target: &str) -> Option<(&'a str, bool)> {
    table.find(&path(target)).map(|route| (route.path.as_str(), route.exact))
}

#[test]
fn the_longest_prefix_of_whole_segments_wins() {
    let table: RouteTable =
        [("", false), ("/api", false), ("/api/v1/orders", false)].map(|(path, exact)| route(path, exact)).into_iter().collect();
    for (target, expected) in [
        ("/", ""),
        ("/apis", ""),
        ("/ap", ""),
        ("/api", "/api"),
        ("/api/", "/api"),
        ("/api?x", "/api"),
        ("/api/v1", "/api"),
        ("/api/v1/orders", "/api/v1/orders"),
        ("/api/v1/orders/17/lines/3", "/api/v1/orders"),
        ("/api/v1/ordersx/17/lines/3", "/api"),
        ("/x/api/v1/orders", ""),
    ] {
        assert_eq!(found(&table, target), Some((expected, false)), "{target}");
    }
}

#[test]
fn an_exact_route_beats_the_prefix_of_the_same_path_and_covers_nothing_else() {
    let table: RouteTable =
        [("/a", false), ("/a", true), ("/b/", true)].map(|(path, exact)| route(path, exact)).into_iter().collect();
    assert_eq!(found(&table, "/a"), Some(("/a", true)));
    assert_eq!(found(&table, "/a/"), Some(("/a", false)));
    assert_eq!(found(&table, "/a/x"), Some(("/a", false)));
    assert_eq!(found(&table, "/b/"), Some(("/b/", true)));
    for target in ["/b", "/b/x", "/", "/ab"] {
        assert_eq!(found(&table, target), None, "{target}");
    }
}

#[test]
fn trap_an_escaped_spelling_of_a_path_meets_the_same_route() {
    let table: RouteTable =
        ["", "/admin@x", "/a%2Bb", "/caf%C3%A9", "/50%25"].map(|path| route(path, false)).into_iter().collect();
    for (target, expected) in [
        ("/admin%40x/1", "/admin@x"),
        ("/admin@x", "/admin@x"),
        ("/%61dmin%40x", "/admin@x"),
        ("/a+b/c", "/a%2Bb"),
        ("/a%2bb", "/a%2Bb"),
        ("/caf%c3%a9/1", "/caf%C3%A9"),
        ("/50%25/x", "/50%25"),
        ("/admin%3Fx", ""),
    ] {
        assert_eq!(found(&table, target), Some((expected, false)), "{target}");
    }
}

#[test]
fn no_route_is_a_404() {
    let denial = site(0, &["a.example"], &[]).route(&path("/")).unwrap_err();
    assert_eq!(denial.reason, Reason::NotFound);
}

#[test]
fn a_hundred_thousand_routes_and_a_path_of_thousands_of_segments_are_found_by_hash() {
    let table: RouteTable = (0..100_000).map(|n| route(&format!("/t{}/r{n}", n % 100), false)).collect();
    assert_eq!(found(&table, "/t17/r4217/x/y"), Some(("/t17/r4217", false)));
    assert_eq!(found(&table, "/t18/r4217/x/y"), None);
    assert_eq!(table.deepest, 2);
    assert_eq!(found(&table, &"/t17".repeat(8000)), None);
}

#[test]
fn hosts_have_one_canonical_form() {
    for (authority, host) in [
        ("Portal.Example.COM", "portal.example.com"),
        ("portal.example.com.", "portal.example.com"),
        ("portal.example.com.:8443", "portal.example.com"),
        ("a:1", "a"),
        ("a:65535", "a"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[2001:DB8:0::1]:8443", "[2001:db8::1]"),
        ("my_host-1", "my_host-1"),
    ] {
        assert_eq!(canonical_host(authority).as_deref(), Some(host), "{authority}");
    }
    assert!(matches!(host_of("portal.example.com:443"), Some(Cow::Borrowed(_))));
}

#[test]
fn what_is_not_a_host_is_refused() {
    let long = format!("{}.a", "a.".repeat(126));
    let label = "a".repeat(64);
    for authority in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "u@a",
        "u:p@a",
        "a b",
        "a\t",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "é.example",
        "a%41",
        "*.a",
        "a,b",
        ":80",
        "a:",
        "a:0",
        "a:080",
        "a:65536",
        "a:+80",
        "a:8x",
        "a:80:90",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[fe80::1%25eth0]",
        "[1.2.3.4]",
        "[v1.a]",
        "[]",
        &long,
        &label,
    ] {
        assert_eq!(canonical_host(authority), None, "{authority}");
    }
}

#[test]
fn host_patterns_are_read_and_written() {
    for text in ["portal.example.com", "*.example.com", "[::1]", "127.0.0.1", "localhost"] {
        assert_eq!(HostPattern::parse(text).unwrap().to_string(), text);
    }
    for text in ["", "*", "*.", "*.*.a", "a.*.b", "a:80", "[::1]:80", "*.[::1]", "x*.a"] {
        assert!(HostPattern::parse(text).is_err(), "{text}");
    }
}

#[test]
fn an_exact_host_beats_a_wildcard_and_a_wildcard_covers_one_label() {
    let sites = Sites::new(vec![site(0, &["*.example.com", "example.com"], &[]), site(1, &["b.example.com"], &[])]);
    let by_host = |host| sites.by_host(host).map(|site| site.id.0);
    assert_eq!(by_host("a.example.com"), Some(0));
    assert_eq!(by_host("b.example.com"), Some(1));
    assert_eq!(by_host("example.com"), Some(0));
    assert_eq!(by_host("x.a.example.com"), None);
    assert_eq!(by_host("com"), None);
    assert!(sites.get(SiteId(0)).unwrap().covers("a.example.com"));
    assert!(!sites.get(SiteId(1)).unwrap().covers("a.example.com"));
}

#[test]
fn trap_sni_and_host_that_differ_are_misdirected_known_host_or_not() {
    let sites = Sites::new(vec![
        site(0, &["open.example", "*.open.example"], &[]),
        site(1, &["mtls.example", "*.mtls.example", "two.mtls.example"], &[0]),
        site(2, &["special.open.example"], &[1]),
    ]);
    let resolve = |sni, host| sites.resolve(sni, host).map(|site| site.id.0).map_err(|denial| denial.reason);
    for (sni, host, expected) in [
        (Sni::Site(SiteId(0)), "open.example", Ok(0)),
        (Sni::Site(SiteId(0)), "x.open.example", Ok(0)),
        (Sni::Site(SiteId(1)), "x.mtls.example", Ok(1)),
        (Sni::Site(SiteId(0)), "mtls.example", Err(Reason::Misdirected)),
        (Sni::Site(SiteId(0)), "unknown.example", Err(Reason::Misdirected)),
        (Sni::Site(SiteId(1)), "open.example", Err(Reason::Misdirected)),
        (Sni::Site(SiteId(9)), "open.example", Err(Reason::Misdirected)),
        // Covered by the handshake's wildcard, but claimed exactly by a site that asks for certificates.
        (Sni::Site(SiteId(0)), "special.open.example", Err(Reason::Misdirected)),
        (Sni::Nobody, "open.example", Err(Reason::Misdirected)),
        (Sni::Nobody, "unknown.example", Err(Reason::Misdirected)),
        (Sni::Absent, "open.example", Ok(0)),
        (Sni::Absent, "mtls.example", Err(Reason::Misdirected)),
        (Sni::Absent, "unknown.example", Err(Reason::Misdirected)),
    ] {
        assert_eq!(resolve(sni, host), expected, "{sni:?} {host}");
    }
    assert_eq!(sites.named(Some("x.mtls.example")), Sni::Site(SiteId(1)));
    assert_eq!(sites.named(Some("gone.example")), Sni::Nobody);
    assert_eq!(sites.named(None), Sni::Absent);
}

#[test]
fn an_attempt_is_recognised_by_method_and_path_in_every_spelling() {
    let rule = |method| LoginRule {
        name: "form".into(),
        method,
        path: "/user%40home/login".to_owned(),
        account: AccountSource::Basic,
        secret: None,
        failed: Vec::new(),
        ok: Vec::new(),
        origins: Vec::new(),
        pad: std::time::Duration::ZERO,
    };
    let mut with_login = Arc::into_inner(route("/user@home/login", true)).unwrap();
    with_login.login = Some(Arc::new(rule(Method::POST)));
    let site = Site { routes: RouteTable::from(vec![Arc::new(with_login), route("", false)]), ..site(0, &["a"], &[]) };
    let tried = |method: &str, target: &str| {
        let path = path(target);
        site.attempts(site.route(&path).unwrap(), &Method::from_bytes(method.as_bytes()).unwrap(), &path).next().is_some()
    };
    for target in ["/user%40home/login", "/user@home/login", "/user@home/login/", "/User@Home/LOGIN?next=/", "/user@home/%6Cogin"]
    {
        assert!(tried("POST", target) && tried("pOsT", target), "{target}");
        assert!(!tried("GET", target) && !tried("HEAD", target) && !tried("POSTS", target), "{target}");
    }
    let get = rule(Method::GET);
    let names = |method: &[u8]| names(&get, &Method::from_bytes(method).unwrap(), &path("/user@home/login"));
    assert!(names(b"GET") && names(b"HEAD") && names(b"get") && names(b"head") && !names(b"POST"));
    for target in ["/", "/login", "/user@home/login/x", "/user@home/logins"] {
        assert!(!tried("POST", target), "{target}");
    }
}

/// The rule as a sentence would put it: an exact route of this path, else the longest prefix that ends at a segment's end.
fn naive<'a>(routes: &'a [Arc<Route>], path: &str) -> Option<&'a Arc<Route>> {
    routes.iter().find(|route| route.exact && route.path == path).or_else(|| {
        routes
            .iter()
            .rev()
            .filter(|route| !route.exact)
            .filter(|route| path.strip_prefix(route.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
            .max_by_key(|route| route.path.len())
    })
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_scan(
        routes in prop::collection::vec(("(/[ab]{1,2}){0,4}", any::<bool>()), 0..20),
        target in "(/[ab]{1,2}){1,5}/?",
    ) {
        let table: RouteTable = routes.iter().filter(|(path, exact)| !exact || !path.is_empty()).map(|(path, exact)| route(path, *exact)).collect();
        let found = table.find(&path(&target)).map(Arc::as_ptr);
        prop_assert_eq!(found, naive(&table, &target).map(Arc::as_ptr));
    }

    #[test]
    fn an_authority_that_names_a_host_has_it_for_its_canonical_form(
        host in "[a-z0-9.-]{0,4}|[a-z]{1,3}\\.[a-z]{2}|\\[[0-9a-f:]{2,6}\\]",
        rest in "|:|:[0-9]{1,6}|:0[0-9]|[a-z.:@]{1,3}|:443[.:@]",
    ) {
        let authority = format!("{host}{rest}");
        if canonical_host(&host).as_ref() == Some(&host) {
            let expected = canonical_host(&authority).as_ref() == Some(&host) && !rest.starts_with('.');
            prop_assert_eq!(names_host(&authority, &host), expected, "{}", authority);
        }
    }

    #[test]
    fn a_canonical_host_is_its_own_canonical_form(authority in "\\PC{0,12}|[a-zA-Z0-9.:\\[\\]-]{0,20}|\\[[0-9a-f:]{2,20}\\](:[0-9]{1,5})?") {
        if let Some(host) = canonical_host(&authority) {
            prop_assert_eq!(canonical_host(&host), Some(host));
        }
    }
}
