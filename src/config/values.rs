//! What single keys hold: durations, sizes, rates, addresses, nets, paths and words.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use ipnet::IpNet;
use schemars::{Schema, json_schema};
use toml::Spanned;
use toml::de::DeValue;

use crate::policy::approval::Party;
use crate::policy::ban::BanAnswer;
use crate::policy::identity::{AccountKind, NameKind};
use crate::policy::limit::{LimitKey, LimitMode, Quota};
use crate::policy::login::{AccountSource, FieldSource};
use crate::policy::route::{BotRule, CertDemand};

use super::read::{Reader, Value, choice};
use super::{Located, LogFormat, LogTarget, PlainHttp, ServerScheme, ServerUrl, TlsVersion};

choice!(PlainHttp { "refuse" => Self::Refuse, "redirect" => Self::Redirect, });
choice!(LogFormat { "json" => Self::Json, "combined" => Self::Combined, });
choice!(TlsVersion { "1.2" => Self::V1_2, "1.3" => Self::V1_3, });
choice!(NameKind {
    "san-uri" => Self::SanUri,
    "san-dns" => Self::SanDns,
    "san-email" => Self::SanEmail,
    "subject-cn" => Self::SubjectCn,
});
choice!(AccountKind { "service" => Self::Service, "human" => Self::Human, "bot" => Self::Bot, });
choice!(BanAnswer { "explain" => Self::Explain, "drop" => Self::Drop, });
choice!(LimitKey {
    "client" => Self::Client,
    "identity" => Self::Identity,
    "approval" => Self::Approval,
    "account" => Self::Account,
    "tenant" => Self::Tenant,
    "route" => Self::Route,
});
choice!(LimitMode { "enforce" => Self::Enforce, "shadow" => Self::Shadow, });
choice!(CertDemand { "optional" => Self::Optional, "required" => Self::Required, });
choice!(BotRule { "approved" => Self::Approved, "any" => Self::Any, "none" => Self::None, });
choice!(Party { "provider" => Self::Provider, "customer" => Self::Customer, });
choice!(RouteMatch { "prefix" => Self::Prefix, "exact" => Self::Exact, });

/// `match` of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    Prefix,
    Exact,
}

/// A whole number between two bounds, both included.
#[derive(Clone, Copy, Debug)]
pub struct Int<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Value for Int<MIN, MAX> {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let Some(integer) = item.get_ref().as_integer() else {
            reader.wrong_type(item, "a whole number");
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) if (MIN..=MAX).contains(&value) => Some(Self(value)),
            _ => {
                reader.bad_value(item, &format!("{integer} is out of range"), format!("a whole number from {MIN} to {MAX}"));
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl<const MIN: u64, const MAX: u64> Int<MIN, MAX> {
    pub fn usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    pub fn u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

/// Threads: `None` is "auto".
#[derive(Clone, Copy, Debug)]
pub struct Workers(pub Option<usize>);

type WorkerCount = Int<1, 1024>;

impl Value for Workers {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        match item.get_ref() {
            DeValue::String(text) if text.as_ref() == "auto" => Some(Self(None)),
            DeValue::Integer(_) => WorkerCount::read(item, reader).map(|count| Self(Some(count.usize()))),
            DeValue::String(text) => {
                let message = format!("`{text}` is neither a whole number nor \"auto\"");
                reader.bad_value(item, &message, "\"auto\" is one thread a core");
                None
            }
            _ => {
                reader.wrong_type(item, "a whole number or \"auto\"");
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, WorkerCount::schema()] })
    }
}

/// A duration longer than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// Longer spans would overflow deadlines counted from now on some platforms, and nobody means them.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl Value for Period {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a duration such as \"90s\"")?;
        let help = "a duration is written \"500ms\", \"90s\", \"15m\", \"24h\", \"398d\" or \"1h30m\"";
        let message = match parse_duration(text) {
            Some(duration) if duration.is_zero() => format!("\"{text}\" is no time at all"),
            Some(duration) if duration > LONGEST => format!("\"{text}\" is longer than a century"),
            Some(duration) => return Some(Self(duration)),
            None => format!("\"{text}\" is not a duration"),
        };
        reader.bad_value(item, &message, help);
        None
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w))+$" })
    }
}

/// `90s`, `1h30m`; `None` where it cannot be read or does not fit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (count, after) = leading_number(rest)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let part = match unit {
            "ms" => Duration::from_millis(count),
            "s" => Duration::from_secs(count),
            "m" => Duration::from_secs(count.checked_mul(60)?),
            "h" => Duration::from_secs(count.checked_mul(3600)?),
            "d" => Duration::from_secs(count.checked_mul(86_400)?),
            "w" => Duration::from_secs(count.checked_mul(604_800)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// A number of bytes between two bounds, both included.
#[derive(Clone, Copy, Debug)]
pub struct Size<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Value for Size<MIN, MAX> {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a size such as \"16KiB\"")?;
        let range = format!("a size from {} to {}", show_size(MIN), show_size(MAX));
        match parse_size(text) {
            Some(size) if (MIN..=MAX).contains(&size) => Some(Self(size)),
            Some(_) => {
                reader.bad_value(item, &format!("\"{text}\" is out of range"), range);
                None
            }
            None => {
                let help = "a size is written \"512B\", \"16KiB\", \"64MiB\" or \"1GiB\"";
                reader.bad_value(item, &format!("\"{text}\" is not a size"), help);
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" })
    }
}

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `16KiB`; `None` where it cannot be read or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = leading_number(text)?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    count.checked_mul(*factor)
}

pub fn show_size(bytes: u64) -> String {
    let (unit, factor) = UNITS.into_iter().find(|(_, factor)| bytes >= *factor && bytes % factor == 0).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

/// `rate`; the burst is the count of requests until `burst` says otherwise.
impl Value for Quota {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a rate such as \"120/min\"")?;
        match Quota::parse(text) {
            Ok(quota) => Some(quota),
            Err(message) => {
                reader.bad_value(item, &message, "a rate is written \"50/s\", \"120/min\", \"3000/h\" or \"10/day\"");
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/[a-z]+$" })
    }
}

impl Value for SocketAddr {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "an address with a port such as \"[::]:8443\"")?;
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let help = if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
            format!("did you mean \"[::]:{port}\"? it takes IPv4 too")
        } else if text.parse::<IpAddr>().is_ok() {
            "the port is missing; an IPv6 address stands in brackets: \"[::1]:8443\"".to_owned()
        } else {
            "an IP address and a port, no name: \"127.0.0.1:8443\" or \"[::]:8443\"".to_owned()
        };
        reader.bad_value(item, &format!("\"{text}\" is not an address with a port"), help);
        None
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": ":[0-9]+$" })
    }
}

/// A net, or a single address.
impl Value for IpNet {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a net such as \"10.0.0.0/8\"")?;
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match parsed {
            Ok(net) if net.trunc() == net => Some(net),
            Ok(net) => {
                let message = format!("\"{text}\" has bits set beyond its prefix");
                reader.bad_value(item, &message, format!("did you mean \"{}\" or \"{}\"?", net.trunc(), net.addr()));
                None
            }
            Err(_) => {
                let help = "a net is written \"10.0.0.0/8\" or \"2001:db8::/32\"; a single address needs no prefix";
                reader.bad_value(item, &format!("\"{text}\" is not a net"), help);
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Text that is not blank.
impl Value for String {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "text")?;
        if text.trim().is_empty() {
            reader.bad_value(item, "it is empty", "leave the key out, or give it a value");
            return None;
        }
        if text.chars().any(char::is_control) {
            reader.bad_value(item, "it holds a control character", "one line of plain text");
            return None;
        }
        Some(text.to_owned())
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

impl Value for PathBuf {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        String::read(item, reader).map(PathBuf::from)
    }

    fn schema() -> Schema {
        String::schema()
    }
}

impl Value for LogTarget {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = String::read(item, reader)?;
        Some(if text == "-" { Self::Stdout } else { Self::File(text.into()) })
    }

    fn schema() -> Schema {
        String::schema()
    }
}

/// `unix:PATH`.
#[derive(Clone, Debug)]
pub struct UnixSocket(pub PathBuf);

impl Value for UnixSocket {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a socket such as \"unix:state/admin.sock\"")?;
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() && !path.contains('\0') => Some(Self(path.into())),
            _ => {
                reader.bad_value(
                    item,
                    &format!("\"{text}\" is not a Unix socket"),
                    "\"unix:PATH\"; the operators' door is never on TCP",
                );
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^unix:." })
    }
}

/// A request method, as it stands on the wire.
impl Value for Method {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a method such as \"POST\"")?;
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if !text.bytes().any(|b| b.is_ascii_lowercase()) => Some(method),
            Ok(_) => {
                let help = format!("did you mean \"{}\"? methods are case-sensitive", text.to_ascii_uppercase());
                reader.bad_value(item, &format!("\"{text}\" is not a method that clients send"), help);
                None
            }
            Err(_) => {
                reader.bad_value(item, &format!("\"{text}\" is not a method"), "such as \"POST\"");
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z0-9!#$%&'*+.^_`|~-]+$" })
    }
}

impl Value for StatusCode {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let Int(code) = Int::<200, 599>::read(item, reader)?;
        u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok())
    }

    fn schema() -> Schema {
        Int::<200, 599>::schema()
    }
}

/// `name: value` of a response header.
#[derive(Clone, Debug)]
pub struct HeaderLine(pub HeaderName, pub String);

impl Value for HeaderLine {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a header such as \"x-login-result: failed\"")?;
        let parsed = text.split_once(':').and_then(|(name, value)| {
            let value = value.trim();
            HeaderName::try_from(name.trim()).ok().filter(|_| !value.is_empty()).map(|name| Self(name, value.to_owned()))
        });
        if parsed.is_none() {
            reader.bad_value(item, &format!("\"{text}\" is not a header"), "\"name: value\", such as \"x-login-result: failed\"");
        }
        parsed
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[^:]+:.+" })
    }
}

/// `http://`, `h2c://` or `https://`, a host and a port.
impl Value for ServerUrl {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let text = reader.string(item, "a server such as \"http://127.0.0.1:9000\"")?;
        match parse_server(text) {
            Ok(server) => Some(server),
            Err(fault) => {
                let help = "SCHEME://HOST:PORT with http, h2c or https, such as \"http://127.0.0.1:9000\"";
                reader.bad_value(item, &format!("\"{text}\" is not a server: {fault}"), help);
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(http|h2c|https)://" })
    }
}

fn parse_server(text: &str) -> Result<ServerUrl, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
    let (scheme, default_port) = match scheme {
        "http" => (ServerScheme::Http, 80),
        "h2c" => (ServerScheme::H2c, 80),
        "https" => (ServerScheme::Https, 443),
        _ => return Err("its scheme is none of http, h2c and https"),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("it has a path; requests keep their own");
    }
    if authority.contains('@') {
        return Err("it carries credentials");
    }
    let authority: http::uri::Authority = authority.parse().map_err(|_| "its host cannot be read")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let bracketed = authority.host().starts_with('[');
    let well_formed = if bracketed {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    if !well_formed {
        return Err("its host cannot be read");
    }
    let after_host = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    let port = match after_host.strip_prefix(':') {
        None => default_port,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("its port cannot be read")?,
    };
    Ok(ServerUrl { scheme, host, port })
}

/// `{ form = … }`, `{ json = … }` or `"basic"`.
impl Value for AccountSource {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        match item.get_ref() {
            DeValue::String(text) if text.as_ref() == "basic" => Some(Self::Basic),
            DeValue::Table(_) => FieldSource::read(item, reader).map(Self::Field),
            DeValue::String(text) => {
                let message = format!("\"{text}\" does not say where the account stands");
                reader.bad_value(item, &message, "{ form = \"FIELD\" }, { json = \"/POINTER\" } or \"basic\"");
                None
            }
            _ => {
                reader.wrong_type(item, "a table or \"basic\"");
                None
            }
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "basic" }, FieldSource::schema()] })
    }
}

/// `{ form = … }` or `{ json = … }`.
impl Value for FieldSource {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let table = reader.table(item, &["form", "json"])?;
        match (table.get("form"), table.get("json")) {
            (Some(form), None) => String::read(form, reader).map(Self::Form),
            (None, Some(json)) => {
                let pointer = String::read(json, reader)?;
                let escapes_hold = pointer.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
                if !pointer.starts_with('/') || !escapes_hold {
                    reader.bad_value(json, &format!("\"{pointer}\" is not a JSON pointer"), "such as \"/user/name\" (RFC 6901)");
                    return None;
                }
                Some(Self::Json(pointer))
            }
            _ => {
                reader.bad_value(item, "it must name one field", "{ form = \"FIELD\" } or { json = \"/POINTER\" }");
                None
            }
        }
    }

    fn schema() -> Schema {
        let one = |key: &str, pattern: &str| {
            json_schema!({
                "type": "object",
                "properties": { key: { "type": "string", "pattern": pattern } },
                "required": [key],
                "additionalProperties": false,
            })
        };
        json_schema!({ "oneOf": [one("form", "."), one("json", "^/")] })
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub struct OneOrMany<T>(pub Vec<Located<T>>);

impl<T: Value> Value for OneOrMany<T> {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        if item.get_ref().is_array() {
            return Vec::read(item, reader).map(Self);
        }
        Located::read(item, reader).map(|one| Self(vec![one]))
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [T::schema(), Vec::<T>::schema()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (text, expected) in [
            ("90s", seconds(90)),
            ("15m", seconds(900)),
            ("24h", seconds(86_400)),
            ("398d", seconds(398 * 86_400)),
            ("2w", seconds(1_209_600)),
            ("1h30m", seconds(5400)),
            ("500ms", Some(Duration::from_millis(500))),
            ("0s", Some(Duration::ZERO)),
            ("", None),
            ("90", None),
            ("s", None),
            ("-5s", None),
            ("1.5h", None),
            ("90 s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615w", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512B", Some(512)),
            ("16KiB", Some(16_384)),
            ("64MiB", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("16", None),
            ("16KB", None),
            ("16 KiB", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
        assert_eq!((show_size(1), show_size(8192), show_size(1 << 40)), ("1B".into(), "8KiB".into(), "1TiB".into()));
    }

    #[test]
    fn servers() {
        let server = |scheme, host: &str, port| Ok(ServerUrl { scheme, host: host.to_owned(), port });
        for (text, expected) in [
            ("http://127.0.0.1:9000", server(ServerScheme::Http, "127.0.0.1", 9000)),
            ("h2c://App.internal", server(ServerScheme::H2c, "app.internal", 80)),
            ("https://[::1]:9443/", server(ServerScheme::Https, "::1", 9443)),
            ("https://[::1]", server(ServerScheme::Https, "::1", 443)),
            ("127.0.0.1:9000", Err("it has no scheme")),
            ("ftp://x", Err("its scheme is none of http, h2c and https")),
            ("http://x/app", Err("it has a path; requests keep their own")),
            ("http://u:p@x", Err("it carries credentials")),
            ("http://x:0", Err("its port cannot be read")),
            ("http://x:99999", Err("its port cannot be read")),
            ("http://x:", Err("its port cannot be read")),
            ("http://", Err("its host cannot be read")),
            ("http://[x]", Err("its host cannot be read")),
        ] {
            assert_eq!(parse_server(text), expected, "{text}");
        }
    }
}
