//! `Denial | ForwardError` -> response: the only maker of error answers.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};

use crate::policy::{Denial, PolicyDocument, Reason};
use crate::upstream::{Body, ForwardError, ForwardErrorKind};

use super::headers::{DOORWARD_DECISION, ascii};

/// How long a caller should leave an application alone that has no server up.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);
/// Media ranges of `Accept` that are looked at; browsers send fewer than ten.
const MAX_RANGES: usize = 64;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const STYLE: &str = ":root{color-scheme:light dark}\
    body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}\
    h1{font-size:1.4rem}p{margin:.5rem 0}code{word-break:break-all}";
/// Names the SHA-256 of [`STYLE`], so that nothing else on the page can style or run.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'sha256-c1REfm/bP+eqCoreS+wvenwgPwdZ/WjlM9eQ7pksOsU='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every refusal carries.
static ALWAYS: [(HeaderName, HeaderValue); 4] = [
    (header::VARY, HeaderValue::from_static("accept")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
];
static HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
static PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json; charset=utf-8");
/// Headers of a refusal, at most.
const MOST_HEADERS: usize = 12;

/// What the answer to a refused request depends on, kept while the request is on its way.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The first line of `Accept`.
    accept: Option<HeaderValue>,
    version: Version,
    head: bool,
    unread_body: bool,
}

impl Asked {
    /// Cheap: shares the header's bytes.
    pub fn of<B: http_body::Body>(request: &Request<B>) -> Self {
        Self {
            accept: request.headers().get(header::ACCEPT).cloned(),
            version: request.version(),
            head: request.method() == Method::HEAD,
            unread_body: !request.body().is_end_stream(),
        }
    }
}

/// RFC 9457 problem+json, or a small HTML page where `Accept` prefers HTML.
///
/// Sets `Retry-After`, `RateLimit`, `RateLimit-Policy`, `Cache-Control: no-store`, `Doorward-Decision` and what keeps a
/// browser from reading more into the page. Nothing that the stranger sent is ever echoed, and the private cause never leaves.
/// On HTTP/1 the connection is closed after a 421, so that the client does not try again here, and wherever a body is left
/// unread, so that its bytes are never taken for the next request; HTTP/2 resets the one stream. HEAD gets the length alone.
pub fn denial(denial: &Denial, decision: HeaderValue, asked: &Asked, policy: &PolicyDocument) -> Response<Body> {
    let id = decision.to_str().unwrap_or_default();
    let wait = retry_after(denial);
    let html = asked.accept.as_ref().is_some_and(prefers_html);
    let text = if html { page(denial, id, wait, policy) } else { problem(denial, id) };

    let mut headers = HeaderMap::with_capacity(MOST_HEADERS);
    headers.insert(header::CONTENT_TYPE, if html { HTML.clone() } else { PROBLEM.clone() });
    for (name, value) in &ALWAYS {
        headers.insert(name, value.clone());
    }
    headers.insert(DOORWARD_DECISION, decision);
    if let Some(seconds) = wait {
        headers.insert(header::RETRY_AFTER, ascii(itoa::Buffer::new().format(seconds)));
    }
    if let Some(limit) = &denial.limit {
        headers.insert(RATE_LIMIT_POLICY, field(&limit.name, [(";q=", limit.quota), (";w=", limit.window)]));
        headers.insert(RATE_LIMIT, field(&limit.name, [(";r=", limit.remaining), (";t=", limit.reset)]));
    }
    if asked.version < Version::HTTP_2 && (asked.unread_body || denial.reason == Reason::Misdirected) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let mut text = Bytes::from(text);
    if asked.head {
        // hyper leaves the body of an answer to HEAD out over HTTP/1, and sends it over HTTP/2.
        headers.insert(header::CONTENT_LENGTH, ascii(itoa::Buffer::new().format(text.len())));
        text.clear();
    }
    let mut response = Response::new(Full::new(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = denial.reason.status();
    *response.headers_mut() = headers;
    response
}

/// A forward error as a denial: public reason and private cause.
pub fn forward_error(error: ForwardError) -> Denial {
    let reason = match error.kind {
        ForwardErrorKind::Unavailable => Reason::UpstreamUnavailable,
        ForwardErrorKind::BadGateway => Reason::UpstreamBadGateway,
        ForwardErrorKind::Timeout => Reason::UpstreamTimeout,
        ForwardErrorKind::BodyTooLarge => Reason::BodyTooLarge,
        ForwardErrorKind::ClientBody => Reason::BadRequest,
    };
    let denial = Denial::new(reason, error.cause);
    if reason == Reason::UpstreamUnavailable { denial.retry_after(UNAVAILABLE_RETRY) } else { denial }
}

/// Whole seconds, rounded up, at least 1; always there on `rate-limited`.
fn retry_after(denial: &Denial) -> Option<u64> {
    let wait = match (denial.retry_after, &denial.limit) {
        (Some(wait), _) => wait,
        (None, Some(limit)) => Duration::from_secs(u64::from(limit.reset)),
        (None, None) if denial.reason == Reason::RateLimited => Duration::ZERO,
        (None, None) => return None,
    };
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    Some(seconds.max(1))
}

/// An item of draft-ietf-httpapi-ratelimit-headers-10: a structured string (RFC 9651) with two integers as its parameters.
fn field(name: &str, [(first, one), (second, other)]: [(&'static str, u32); 2]) -> HeaderValue {
    let mut digits = [itoa::Buffer::new(), itoa::Buffer::new()];
    let [ones, others] = &mut digits;
    let line = ["\"", &structured(name), "\"", first, ones.format(one), second, others.format(other)].concat();
    HeaderValue::from_maybe_shared(Bytes::from(line)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A structured string is printable ASCII; a config may name its limit otherwise.
fn structured(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return name.into();
    }
    let mut text = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            ' '..='~' => text.push(c),
            _ => text.push('?'),
        }
    }
    text.into()
}

/// Codes and titles are ours and need no escapes; a test holds them to that.
fn problem(denial: &Denial, id: &str) -> String {
    let reason = denial.reason;
    let mut text = String::with_capacity(256);
    for part in [
        "{\"type\":\"urn:doorward:",
        reason.code(),
        "\",\"title\":\"",
        reason.title(),
        "\",\"status\":",
        reason.status().as_str(),
        ",\"instance\":\"",
        id,
        "\"",
    ] {
        text.push_str(part);
    }
    if let Some(limit) = exceeded(reason) {
        text.extend([",\"limit\":\"", limit, "\""]);
    }
    text.push('}');
    text
}

/// Which limit a `too-large` was over.
fn exceeded(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::BodyTooLarge => Some("body"),
        Reason::HeadTooLarge => Some("head"),
        _ => None,
    }
}

fn page(denial: &Denial, id: &str, wait: Option<u64>, policy: &PolicyDocument) -> String {
    let title = denial.reason.title();
    let status = denial.reason.status();
    let waiting = match wait {
        Some(1) => "<p>Please try again in a second.</p>\n".to_owned(),
        Some(seconds) if seconds < 120 => format!("<p>Please try again in {seconds} seconds.</p>\n"),
        Some(seconds) if seconds < 7200 => format!("<p>Please try again in {} minutes.</p>\n", seconds.div_ceil(60)),
        Some(seconds) if seconds < 172_800 => format!("<p>Please try again in {} hours.</p>\n", seconds.div_ceil(3600)),
        // A ban for good has no date that would help.
        Some(seconds) if seconds < 36_500 * 86_400 => {
            format!("<p>Please try again in {} days.</p>\n", seconds.div_ceil(86_400))
        }
        _ => String::new(),
    };
    let contact = match &policy.contact {
        Some(contact) => format!("<p>If you think that this is wrong, write to {}.</p>\n", escape(contact)),
        None => String::new(),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{waiting}{contact}\
         <p>Status {status}. Reference: <code>{id}</code></p>\n</body>\n</html>\n",
        status = status.as_u16(),
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// RFC 9110 section 12.5.1, for two candidates. JSON unless HTML is wanted more, or as much but by a more specific range.
fn prefers_html(accept: &HeaderValue) -> bool {
    let mut html = Weight::default();
    let mut json = Weight::default();
    let line = accept.to_str().unwrap_or_default();
    for range in line.split(',').take(MAX_RANGES) {
        let Some((media_range, quality)) = parse_range(range) else { continue };
        let is = |name: &str| media_range.eq_ignore_ascii_case(name);
        if is("text/html") {
            html.offer(3, quality);
        } else if is("text/*") {
            html.offer(2, quality);
        } else if is("application/problem+json") || is("application/json") {
            json.offer(3, quality);
        } else if is("application/*") {
            json.offer(2, quality);
        } else if is("*/*") {
            html.offer(1, quality);
            json.offer(1, quality);
        }
    }
    (html.quality, html.specificity) > (json.quality, json.specificity) && html.quality > 0
}

/// How much one representation is wanted; only its most specific range counts.
#[derive(Default)]
struct Weight {
    specificity: u8,
    /// Thousandths.
    quality: u16,
}

impl Weight {
    fn offer(&mut self, specificity: u8, quality: u16) {
        if (specificity, quality) > (self.specificity, self.quality) {
            *self = Self { specificity, quality };
        }
    }
}

/// The media range and its quality in thousandths; `None` for what cannot be read, as if it were not there.
fn parse_range(range: &str) -> Option<(&str, u16)> {
    let mut parts = range.split(';').map(str::trim);
    let media_range = parts.next()?;
    let mut quality = 1000;
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("q") {
            quality = parse_quality(value.trim())?;
        }
    }
    Some((media_range, quality))
}

/// `0`, `1`, `0.5`, `1.000`: RFC 9110 section 12.4.2.
fn parse_quality(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len();
    if digits > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.bytes().fold(0, |sum, byte| sum * 10 + u16::from(byte - b'0')) * 10u16.pow(3 - digits as u32);
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::DecisionId;
    use crate::gateway::headers;
    use crate::policy::denial::LimitState;
    use base64::Engine;
    use proptest::prelude::*;

    fn policy() -> PolicyDocument {
        PolicyDocument { id: "p".into(), version: "1".into(), contact: Some("<security@example.com>".into()) }
    }

    fn accept(value: &str) -> Asked {
        Asked { accept: Some(HeaderValue::from_str(value).unwrap()), ..Asked::default() }
    }

    fn answer(denial: &Denial, asked: &Asked) -> (Response<()>, String) {
        let (parts, body) = super::denial(denial, headers::decision(DecisionId(0xabc)), asked, &policy()).into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(body.collect()).unwrap().to_bytes();
        (Response::from_parts(parts, ()), String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn every_reason_is_a_problem_with_its_urn_title_status_and_decision() {
        for reason in Reason::ALL {
            let (response, text) = answer(&Denial::new(reason, "private cause"), &Asked::default());
            let body: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            for word in body.values() {
                assert!(text.contains(&word.to_string()), "{word} is escaped as a serializer would");
            }
            assert_eq!(response.status(), reason.status());
            assert_eq!(body["type"], format!("urn:doorward:{}", reason.code()));
            assert_eq!(body["title"], reason.title());
            assert_eq!(body["status"], reason.status().as_u16());
            assert_eq!(body["instance"], "00000000000000000000000000000abc");
            assert_eq!(response.headers()["doorward-decision"], "00000000000000000000000000000abc");
            assert_eq!(response.headers()["content-type"], "application/problem+json; charset=utf-8");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers()["vary"], "accept");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        }
    }

    #[test]
    fn the_private_cause_and_what_the_stranger_sent_never_leave() {
        for kind in ["text/html", "application/json"] {
            let request = Request::get("/stranger-words")
                .header(header::ACCEPT, kind)
                .header(header::HOST, "stranger-words")
                .header(header::USER_AGENT, "stranger-words")
                .body(http_body_util::Empty::<Bytes>::new())
                .unwrap();
            let (response, body) = answer(&Denial::new(Reason::BadRequest, "private-cause"), &Asked::of(&request));
            let all = format!("{body}{:?}", response.headers());
            assert!(!all.contains("private-cause") && !all.contains("stranger-words"));
        }
    }

    #[test]
    fn too_large_names_its_limit() {
        for (reason, status, limit) in [(Reason::BodyTooLarge, 413, "body"), (Reason::HeadTooLarge, 431, "head")] {
            let (response, body) = answer(&Denial::new(reason, ""), &Asked::default());
            assert_eq!(response.status(), status);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["limit"], limit);
        }
    }

    #[test]
    fn rate_limited_carries_the_draft_fields_and_a_rounded_up_retry_after() {
        let limit = LimitState { name: "per-client".into(), quota: 40, window: 20, remaining: 0, reset: 5 };
        let mut denial = Denial::new(Reason::RateLimited, "").retry_after(Duration::from_millis(4_001));
        denial.limit = Some(limit);
        let (response, _) = answer(&denial, &Asked::default());
        assert_eq!(response.headers()["ratelimit-policy"], "\"per-client\";q=40;w=20");
        assert_eq!(response.headers()["ratelimit"], "\"per-client\";r=0;t=5");
        assert_eq!(response.headers()["retry-after"], "5");

        let (response, _) = answer(&Denial::new(Reason::RateLimited, "").retry_after(Duration::ZERO), &Asked::default());
        assert_eq!(response.headers()["retry-after"], "1", "at least a second");
        let (response, _) = answer(&Denial::new(Reason::RateLimited, ""), &Asked::default());
        assert_eq!(response.headers()["retry-after"], "1", "always there");
        let (response, _) = answer(&Denial::new(Reason::NotFound, ""), &Asked::default());
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[test]
    fn a_limit_with_a_name_beyond_ascii_still_tells_its_state() {
        let mut denial = Denial::new(Reason::RateLimited, "");
        denial.limit = Some(LimitState { name: "für\"alle".into(), quota: 1, window: 1, remaining: 0, reset: 1 });
        let (response, _) = answer(&denial, &Asked::default());
        assert_eq!(response.headers()["ratelimit"], "\"f?r\\\"alle\";r=0;t=1");
    }

    #[test]
    fn a_browser_gets_a_page_that_can_run_nothing() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let (response, body) = answer(&Denial::new(Reason::Banned, "").retry_after(Duration::from_secs(900)), &accept(browser));
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
        assert!(body.contains(Reason::Banned.title()) && body.contains("00000000000000000000000000000abc"));
        assert!(body.contains("in 15 minutes"));
        assert!(body.contains("&lt;security@example.com&gt;"), "the contact is escaped");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
        let digest = base64::engine::general_purpose::STANDARD.encode(digest);
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains(&format!("'sha256-{digest}'")), "{digest}");
    }

    #[test]
    fn accept_is_weighed_by_quality_then_by_how_specific_it_is() {
        for (value, html) in [
            ("", false),
            ("*/*", false),
            ("text/html", true),
            ("TEXT/HTML", true),
            ("text/*", true),
            ("text/html, */*", true),
            ("application/json, text/html", false),
            ("application/json;q=0.5, text/html;q=0.6", true),
            ("application/json;q=0.6, text/html;q=0.5", false),
            ("text/html;q=0", false),
            ("text/html;q=0.000, text/*", false),
            ("text/html;q=2", false),
            ("text/html;q=0.1234", false),
            ("text/html ; Q = 0.9 , application/problem+json; q=.8", true),
            ("image/png, text/plain", false),
            (";;;,,,q=1;=", false),
        ] {
            assert_eq!(prefers_html(&HeaderValue::from_str(value).unwrap()), html, "{value:?}");
        }
    }

    #[test]
    fn forward_errors_keep_their_side() {
        for (kind, status) in [
            (ForwardErrorKind::Unavailable, 503),
            (ForwardErrorKind::BadGateway, 502),
            (ForwardErrorKind::Timeout, 504),
            (ForwardErrorKind::BodyTooLarge, 413),
            (ForwardErrorKind::ClientBody, 400),
        ] {
            let denial = forward_error(ForwardError { kind, unsent: false, cause: "10.0.0.7 refused".into() });
            let (response, body) = answer(&denial, &Asked::default());
            assert_eq!(response.status(), status);
            assert!(!body.contains("10.0.0.7"));
            assert_eq!(response.headers().contains_key("retry-after"), kind == ForwardErrorKind::Unavailable);
        }
    }

    #[test]
    fn trap_unread_body_and_misdirected_close_http1_only() {
        let close = |reason, version, unread_body| {
            let asked = Asked { version, unread_body, ..Asked::default() };
            answer(&Denial::new(reason, ""), &asked).0.headers().contains_key("connection")
        };
        for (version, told) in [(Version::HTTP_10, true), (Version::HTTP_11, true), (Version::HTTP_2, false)] {
            assert_eq!(close(Reason::Misdirected, version, false), told);
            assert_eq!(close(Reason::NotFound, version, true), told);
            assert!(!close(Reason::NotFound, version, false));
        }
    }

    proptest! {
        #[test]
        fn a_limits_state_is_a_structured_field(name in "\\PC{0,20}", values in any::<[u32; 2]>()) {
            let told = field(&name, [(";q=", values[0]), (";w=", values[1])]);
            let list = sfv::Parser::new(told.as_bytes()).parse::<sfv::List>().unwrap();
            prop_assert_eq!(list.len(), 1);
            let Some(sfv::ListEntry::Item(item)) = list.first() else { panic!("no item") };
            let shown: String = name.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
            prop_assert_eq!(item.bare_item.as_string().map(|text| text.as_str()), Some(shown.as_str()));
            for (key, value) in [("q", values[0]), ("w", values[1])] {
                prop_assert_eq!(item.params[key].as_integer().map(i64::from), Some(i64::from(value)));
            }
        }

        #[test]
        fn any_accept_is_answered(value in "[ -~\t]{0,200}") {
            prefers_html(&HeaderValue::from_str(&value).unwrap());
        }
    }
}
