//! What counts as automation. A label never lets anybody in.

use std::collections::HashSet;
use std::fmt;

use aho_corasick::AhoCorasick;
use regex::bytes::{RegexSet, RegexSetBuilder};

/// The list of crawlers; see its head for source and licence.
const CRAWLERS: &str = include_str!("crawlers.txt");

/// What a request's own words say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BotClass {
    /// Nothing says automation.
    Unmarked,
    /// The User-Agent is on the crawler list.
    Crawler,
    /// The User-Agent names a known HTTP library.
    HttpLibrary,
    /// There is no User-Agent, or an empty one.
    NoUserAgent,
}

/// The compiled crawler list and library names; build once per process.
pub struct BotClassifier {
    /// Nearly all of the list: patterns that are plain text.
    literals: AhoCorasick,
    /// The few others.
    patterns: RegexSet,
    libraries: HashSet<&'static [u8]>,
}

impl BotClass {
    pub const ALL: [Self; 4] = [Self::Unmarked, Self::Crawler, Self::HttpLibrary, Self::NoUserAgent];

    pub const fn is_automation(self) -> bool {
        !matches!(self, Self::Unmarked)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unmarked => "unmarked",
            Self::Crawler => "crawler",
            Self::HttpLibrary => "http-library",
            Self::NoUserAgent => "no-user-agent",
        }
    }
}

impl BotClassifier {
    /// Compiles the built-in list. It is data of this program, so a pattern that does not compile is a panic at the start,
    /// which the tests would have met first.
    #[allow(clippy::new_without_default)]
    #[expect(clippy::expect_used, reason = "built-in data that the tests compile too")]
    pub fn new() -> Self {
        let (mut literals, mut patterns) = (Vec::new(), Vec::new());
        for pattern in crawler_patterns() {
            match literal(pattern) {
                Some(text) => literals.push(text),
                None => patterns.push(pattern),
            }
        }
        Self {
            literals: AhoCorasick::new(literals).expect("the built-in crawler names compile"),
            patterns: RegexSetBuilder::new(patterns)
                .unicode(false)
                .size_limit(4 << 20)
                .build()
                .expect("the built-in crawler patterns compile"),
            libraries: LIBRARIES.iter().map(|name| name.as_bytes()).collect(),
        }
    }

    /// Callers cache the verdict by User-Agent: the list has some 1,500 patterns.
    ///
    /// Fails closed as far as a label can: what is unknown is `Unmarked`, and no class ever admits anybody.
    pub fn classify(&self, user_agent: Option<&[u8]>) -> BotClass {
        let user_agent = user_agent.unwrap_or_default().trim_ascii();
        if user_agent.is_empty() {
            BotClass::NoUserAgent
        } else if self.names_library(user_agent) {
            BotClass::HttpLibrary
        } else if self.literals.is_match(user_agent) || self.patterns.is_match(user_agent) {
            BotClass::Crawler
        } else {
            BotClass::Unmarked
        }
    }

    /// Whether a product of the User-Agent (RFC 9110 section 10.1.5) is a library. Comments are passed over: browsers put
    /// the device there, and there are telephones called K6.
    fn names_library(&self, user_agent: &[u8]) -> bool {
        let mut depth = 0usize;
        user_agent
            .split(|byte| {
                match byte {
                    b'(' => depth += 1,
                    b')' => depth = depth.saturating_sub(1),
                    _ => return depth > 0 || matches!(byte, b' ' | b'\t' | b',' | b';'),
                }
                true
            })
            .map(|product| product.split(|byte| *byte == b'/').next().unwrap_or_default())
            .any(|name| {
                let mut lower = [0; LONGEST_LIBRARY];
                lower.get_mut(..name.len()).is_some_and(|lower| {
                    lower.copy_from_slice(name);
                    lower.make_ascii_lowercase();
                    self.libraries.contains(&*lower)
                })
            })
    }
}

impl fmt::Debug for BotClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BotClassifier").finish_non_exhaustive()
    }
}

fn crawler_patterns() -> impl Iterator<Item = &'static str> {
    CRAWLERS.lines().filter(|line| !line.starts_with('#'))
}

/// The text of a pattern that has no operators, its escapes resolved.
fn literal(pattern: &str) -> Option<String> {
    let mut text = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => text.push(rest.next().filter(char::is_ascii_punctuation)?),
            '^' | '$' | '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' => return None,
            plain => text.push(plain),
        }
    }
    Some(text)
}

/// Bytes of the longest name below.
const LONGEST_LIBRARY: usize = 32;

/// Products by which HTTP libraries, command-line clients and load generators call themselves, in lower case.
const LIBRARIES: &[&str] = &[
    // command line
    "aria2",
    "curl",
    "fetch",
    "httpie",
    "lftp",
    "libcurl",
    "libcurl-agent",
    "powershell",
    "wget",
    "wget2",
    "windowspowershell",
    "xh",
    // API clients
    "bruno-runtime",
    "bruno",
    "hoppscotch",
    "insomnia",
    "postmanruntime",
    "rapidapi",
    // load generators
    "ab",
    "apache-jmeter",
    "apachebench",
    "artillery",
    "autocannon",
    "bombardier",
    "gatling",
    "grafana-k6",
    "h2load",
    "hey",
    "k6",
    "locust",
    "oha",
    "siege",
    "vegeta",
    "wrk",
    "wrk2",
    // Python
    "aiohttp",
    "httpx",
    "niquests",
    "pycurl",
    "python",
    "python-aiohttp",
    "python-httplib2",
    "python-httpx",
    "python-requests",
    "python-urllib",
    "python-urllib2",
    "python-urllib3",
    "scrapy",
    "urllib3",
    "urlgrabber",
    // Go
    "colly",
    "fasthttp",
    "go-http-client",
    "go-resty",
    "req",
    // Java and its kin
    "ahc",
    "akka-http",
    "apache-httpasyncclient",
    "apache-httpclient",
    "armeria",
    "async-http-client",
    "clj-http",
    "dispatch",
    "http4s-ember",
    "http4s-blaze",
    "jakarta",
    "java",
    "java-http-client",
    "jersey",
    "jodd",
    "ktor",
    "ktor-client",
    "okhttp",
    "pekko-http",
    "reactornetty",
    "resteasy",
    "rest-assured",
    "retrofit",
    "sttp",
    "unirest-java",
    "vert.x-webclient",
    // JavaScript
    "axios",
    "bun",
    "deno",
    "got",
    "ky",
    "needle",
    "node",
    "node.js",
    "node-fetch",
    "node-superagent",
    "request",
    "superagent",
    "undici",
    // Ruby, Perl, PHP
    "excon",
    "faraday",
    "guzzle",
    "guzzlehttp",
    "http.rb",
    "httparty",
    "http-tiny",
    "httpclient",
    "laminas_http_client",
    "libwww-perl",
    "lwp",
    "lwp-request",
    "lwp::simple",
    "lwp-trivial",
    "mechanize",
    "mojolicious",
    "pecl_http",
    "php",
    "php-curl-class",
    "rest-client",
    "ruby",
    "symfony",
    "typhoeus",
    "www-mechanize",
    "zend_http_client",
    // .NET
    ".net",
    "dotnet",
    "flurl",
    "flurl.http",
    "httpclientfactory",
    "restsharp",
    "winhttp",
    // Rust, C, C++
    "actix-web",
    "attohttpc",
    "awc",
    "beast",
    "boost.beast",
    "cpp-httplib",
    "cpprestsdk",
    "hyper",
    "isahc",
    "libsoup",
    "reqwest",
    "serf",
    "ureq",
    // Swift, Dart, Lua, Elixir, R; not names that browsers share (Tesla, Mint)
    "alamofire",
    "dart",
    "hackney",
    "httpoison",
    "httr",
    "httr2",
    "lua-resty-http",
    "luasocket",
    "r-curl",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn classify(user_agent: &str) -> BotClass {
        BotClassifier::new().classify(Some(user_agent.as_bytes()))
    }

    #[test]
    fn the_whole_list_is_compiled_and_nearly_all_of_it_is_plain_text() {
        assert_eq!(crawler_patterns().count(), 1504);
        assert!(crawler_patterns().all(|pattern| !pattern.is_empty()));
        assert!(crawler_patterns().filter(|pattern| literal(pattern).is_none()).count() < 50);
        assert_eq!(literal("Googlebot\\/").as_deref(), Some("Googlebot/"));
        assert_eq!(literal("a\\d"), None);
        assert_eq!(literal("^a"), None);
        // An editor that trims blanks would widen this pattern.
        assert!(crawler_patterns().any(|pattern| pattern == "^LCC "));
    }

    #[test]
    fn library_names_can_be_met() {
        for name in LIBRARIES {
            assert!(
                name.len() <= LONGEST_LIBRARY
                    && name.bytes().all(|byte| !byte.is_ascii_uppercase() && !b" \t,;()/".contains(&byte)),
                "{name}"
            );
        }
    }

    #[test]
    fn common_browsers_are_unmarked() {
        let classifier = BotClassifier::new();
        for user_agent in [
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
            "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0",
            "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            "Mozilla/5.0 (Android 15; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0",
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (iPad; CPU OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/142.0.7444.77 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/145.0 Mobile/15E148 Safari/604.1",
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
            "Mozilla/5.0 (Linux; Android 7.0; Lenovo K6 Build/NRD90N; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/119.0.6045.193 Mobile Safari/537.36",
            "Mozilla/5.0 (Linux; Android 15; SM-S931B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/29.0 Chrome/136.0.0.0 Mobile Safari/537.36",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
            "Mozilla/5.0 (Linux; Android 10; HD1913) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36 EdgA/142.0.0.0",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 OPR/124.0.0.0",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Vivaldi/7.6",
            "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
        ] {
            assert_eq!(classifier.classify(Some(user_agent.as_bytes())), BotClass::Unmarked, "{user_agent}");
        }
    }

    #[test]
    fn crawlers_are_known_in_the_case_of_the_list() {
        for user_agent in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/116.0.1938.76 Safari/537.36",
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
            "Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/142.0.0.0 Safari/537.36",
            "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
            "LCC (+http://corpora.informatik.uni-leipzig.de/crawler_faq.html)",
            "Spider_Bot/3.0 spider.com",
        ] {
            assert_eq!(classify(user_agent), BotClass::Crawler, "{user_agent}");
        }
        assert_eq!(classify("x LCC y"), BotClass::Unmarked);
    }

    #[test]
    fn libraries_are_known_as_products_only() {
        for user_agent in [
            "curl/8.14.1",
            "Wget/1.25.0",
            "python-requests/2.32.5",
            "Python-urllib/3.13",
            "Python/3.13 aiohttp/3.13.2",
            "python-httpx/0.28.1",
            "Go-http-client/2.0",
            "okhttp/5.3.0",
            "axios/1.13.2",
            "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)",
            "node",
            "undici",
            "got (https://github.com/sindresorhus/got)",
            "Java/21.0.9",
            "Java-http-client/21",
            "Apache-HttpClient/5.5 (Java/21)",
            "libwww-perl/6.80",
            "LWP::Simple/6.80 libwww-perl/6.80",
            "Ruby",
            "Faraday v2.14.0",
            "GuzzleHttp/7",
            "PostmanRuntime/7.49.1",
            "insomnia/11.6.1",
            "HTTPie/3.2.4",
            "k6/1.3.0 (https://k6.io/)",
            "Grafana-k6/1.3.0",
            "hey/0.0.1",
            "h2load nghttp2/1.64.0",
            "ApacheBench/2.3",
            "reqwest/0.12.24",
            "Dart/3.9 (dart:io)",
            "RestSharp/112.1.0.0",
            "Mozilla/5.0 (Windows NT; Windows NT 10.0; de-DE) WindowsPowerShell/5.1.26100.7019",
            "my-sync/1.0 CURL/8.5",
        ] {
            assert_eq!(classify(user_agent), BotClass::HttpLibrary, "{user_agent}");
        }
        for user_agent in ["Curling-Club/1.0", "Nodeflux/2", "Mozilla/5.0 (hey; curl/8)", "xcurl/1", "(((curl"] {
            assert_eq!(classify(user_agent), BotClass::Unmarked, "{user_agent}");
        }
    }

    #[test]
    fn no_user_agent_is_a_class_of_its_own() {
        let classifier = BotClassifier::new();
        for user_agent in [None, Some(&b""[..]), Some(b"  ")] {
            assert_eq!(classifier.classify(user_agent), BotClass::NoUserAgent);
        }
        assert!(BotClass::NoUserAgent.is_automation() && !BotClass::Unmarked.is_automation());
        assert_eq!(classifier.classify(Some(b"\xff\xfe(")), BotClass::Unmarked);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn any_bytes_have_a_class(user_agents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..32)) {
            let classifier = BotClassifier::new();
            for user_agent in user_agents {
                let _ = classifier.classify(Some(&user_agent));
            }
        }
    }
}
