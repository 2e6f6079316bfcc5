//! Whom an attempt names, read exactly once or not at all.
//!
//! An application may read a body otherwise than we do: take the last of two fields, fold letter case, cut a name at a
//! bracket. Whatever could make it see another account than the one that is counted is refused here.

mod form;
mod json;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, DATE, HeaderName, ORIGIN, PRAGMA, REFERER, USER_AGENT,
};
use zeroize::Zeroizing;

use super::{AccountKey, AccountSource, Attempt, ExactAccount, FieldSource, LoginRule, MAX_LOGIN_BODY};
use crate::policy::{Denial, Reason};

/// Headers that differ between two tries of the same guess and carry no secret of a login. Not the cookies: PHP may put them in
/// the place of fields of the body.
const SAYS_NOTHING: [HeaderName; 12] = [
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    ORIGIN,
    PRAGMA,
    REFERER,
    USER_AGENT,
    HeaderName::from_static("traceparent"),
];

/// Why an account could not be read; the private cause of the 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum ReadFault {
    #[error("login body over 64 KiB")]
    BodyTooLarge,
    #[error("login body is content-encoded")]
    Encoded,
    #[error("login body of the wrong media type")]
    MediaType,
    #[error("login body in a charset other than UTF-8")]
    Charset,
    #[error("login body is malformed")]
    Malformed,
    #[error("a field of the login has a name that applications read in different ways")]
    FieldName,
    #[error("a login field stands twice, or under a second spelling of its name")]
    Twice,
    #[error("a login field stands in the query too")]
    InQuery,
    #[error("a login field is neither a string nor a whole number")]
    WrongType,
    #[error("no account in the login attempt")]
    Absent,
    #[error("the account is empty, over 512 bytes or holds control characters")]
    NoName,
    #[error("Authorization stands twice, or is not well-formed Basic")]
    Authorization,
}

/// What a value is read for: an account must have one reading, a secret is only ever compared with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Account,
    Secret,
}

/// The one value of a field; wiped on drop, as it may be the secret.
type Value = Zeroizing<Vec<u8>>;

impl LoginRule {
    /// Whether a request that matches by method and path carries credentials at all. Without `Authorization` a request to
    /// a page behind Basic is the browser's first look, answered 401 by the application; it guesses nothing.
    /// A form or JSON login is an attempt whatever its body.
    pub fn offered(&self, headers: &HeaderMap) -> bool {
        match self.account {
            AccountSource::Basic => headers.contains_key(AUTHORIZATION),
            AccountSource::Field(_) => true,
        }
    }

    /// Whether a browser sends it for a page of another site that `origins` does not name. Whoever opened that page may know
    /// nothing of it, and his address would pay for its guesses. Fails open where nothing says so: only browsers do, and whoever
    /// writes it himself refuses himself alone. Basic is left out, whose pages links from elsewhere rightly lead to.
    pub fn is_sent_elsewhere(&self, headers: &HeaderMap) -> bool {
        let elsewhere =
            || headers.get_all("sec-fetch-site").iter().any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"));
        let named = || {
            let origin = single(headers, &ORIGIN).unwrap_or_default();
            self.origins.iter().any(|named| named == "*" || named.eq_ignore_ascii_case(origin))
        };
        matches!(self.account, AccountSource::Field(_)) && elsewhere() && !named()
    }

    /// Whether a query names the field of a form that holds the secret. Fails closed: also where a name in it has no one reading.
    pub fn is_in_query(&self, query: &str) -> bool {
        match &self.secret {
            Some(field @ FieldSource::Form(_)) => form::names(query, field).unwrap_or(true),
            _ => false,
        }
    }

    /// Fails closed: an account that cannot be read exactly once is a 400 `bad-request`.
    /// `host` is the canonical one, `query` the canonical query: the account field there too is a 400. With Basic the password
    /// in the header is the secret, whatever `secret` says.
    pub fn read(&self, host: &str, headers: &HeaderMap, query: Option<&str>, body: &[u8]) -> Result<Attempt, Denial> {
        self.read_once(host, headers, query, body).map_err(ReadFault::denial)
    }

    fn read_once(&self, host: &str, headers: &HeaderMap, query: Option<&str>, body: &[u8]) -> Result<Attempt, ReadFault> {
        let attempt = |account: Value, secret: Option<Value>| {
            let exact = ExactAccount::new(host, &self.name, &account);
            let rest = secret.is_some().then(|| rest(headers, query, body));
            Ok(Attempt { account: key(&account)?, exact, secret, rest })
        };
        let AccountSource::Field(field) = &self.account else {
            let (account, secret) = basic(headers)?;
            return attempt(account, Some(secret));
        };
        if body.len() > MAX_LOGIN_BODY {
            return Err(ReadFault::BodyTooLarge);
        }
        if headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
        {
            return Err(ReadFault::Encoded);
        }
        let media = MediaType::of(headers)?;
        for field in [Some(field), self.secret.as_ref()].into_iter().flatten() {
            if !media.fits(field) {
                return Err(ReadFault::MediaType);
            }
            if query.map(|query| form::names(query, field)).transpose()? == Some(true) {
                return Err(ReadFault::InQuery);
            }
        }
        let account = field.read(body, Use::Account)?.ok_or(ReadFault::Absent)?;
        let secret = self.secret.as_ref().map(|field| field.read(body, Use::Secret)).transpose()?.flatten();
        attempt(account, secret)
    }
}

/// What tells one attempt with the same account and secret from another: a second factor may stand in any of these.
fn rest(headers: &HeaderMap, query: Option<&str>, body: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut digest = Context::new(&SHA256);
    let mut part = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    part(query.unwrap_or_default().as_bytes());
    part(body);
    for (name, value) in headers {
        if !SAYS_NOTHING.iter().any(|known| name == known) && !name.as_str().starts_with("sec-") {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
        }
    }
    let mut whole = Zeroizing::new([0; 32]);
    whole.copy_from_slice(digest.finish().as_ref());
    whole
}

impl FieldSource {
    fn read(&self, body: &[u8], used: Use) -> Result<Option<Value>, ReadFault> {
        match self {
            Self::Form(name) => form::read(body, name, used),
            Self::Json(pointer) => json::read(body, pointer),
        }
    }
}

impl ReadFault {
    fn denial(self) -> Denial {
        Denial::new(Reason::BadRequest, self.to_string())
    }
}

/// What `Content-Type` says of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MediaType {
    Form,
    Json,
}

impl MediaType {
    /// Fails closed: absent, twice, neither of the two, or in another charset than UTF-8. One reader finds `charset=` in the
    /// midst of any parameter, another takes the second, so there may be one at most, plainly written.
    fn of(headers: &HeaderMap) -> Result<Self, ReadFault> {
        let line = single(headers, &CONTENT_TYPE).ok_or(ReadFault::MediaType)?;
        let mut parts = line.split(';');
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let media = match essence.as_str() {
            "application/x-www-form-urlencoded" => Self::Form,
            "application/json" => Self::Json,
            other if other.starts_with("application/") && other.ends_with("+json") => Self::Json,
            _ => return Err(ReadFault::MediaType),
        };
        let mut said = parts.map(str::to_ascii_lowercase).filter(|parameter| parameter.contains("charset"));
        let is_utf8 = |parameter: String| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim() == "charset" && matches!(value.trim(), "utf-8" | "\"utf-8\"")
        };
        if said.next().is_none_or(is_utf8) && said.next().is_none() { Ok(media) } else { Err(ReadFault::Charset) }
    }

    fn fits(self, field: &FieldSource) -> bool {
        matches!((self, field), (Self::Form, FieldSource::Form(_)) | (Self::Json, FieldSource::Json(_)))
    }
}

/// Name and password of Basic (RFC 7617).
fn basic(headers: &HeaderMap) -> Result<(Value, Value), ReadFault> {
    let line = single(headers, &AUTHORIZATION).ok_or(ReadFault::Authorization)?;
    let (scheme, encoded) = line.split_once(' ').ok_or(ReadFault::Authorization)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(ReadFault::Authorization);
    }
    let pair = STANDARD.decode(encoded.trim_matches(' ')).map(Zeroizing::new).map_err(|_| ReadFault::Authorization)?;
    let colon = pair.iter().position(|byte| *byte == b':').ok_or(ReadFault::Authorization)?;
    let (name, rest) = pair.split_at_checked(colon).ok_or(ReadFault::Authorization)?;
    let password = rest.get(1..).unwrap_or_default();
    Ok((Zeroizing::new(name.to_vec()), Zeroizing::new(password.to_vec())))
}

/// The only line of a header; `None` where there is none, another one, or one that is not plain text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    if lines.next().is_some() { None } else { first.to_str().ok() }
}

fn key(account: &Value) -> Result<AccountKey, ReadFault> {
    std::str::from_utf8(account).ok().and_then(AccountKey::new).ok_or(ReadFault::NoName)
}

#[cfg(test)]
mod tests;
