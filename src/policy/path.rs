//! One canonical path, for the decision and for the forward (RFC 3986 section 6).

/// The path and query of a request in their only accepted form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath {
    path: String,
    query: Option<String>,
}

/// Why a target has no canonical form; the request is a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("the target does not start with a slash")]
    NotAbsolute,
    #[error("an empty, dot or dot-dot segment")]
    DotSegment,
    #[error("an encoded slash, backslash, NUL or control character")]
    HiddenSeparator,
    #[error("a raw semicolon, backslash or control character")]
    ForbiddenByte,
    #[error("a malformed percent-encoding")]
    BadEscape,
    #[error("percent-encoded bytes that are not UTF-8")]
    NotUtf8,
}

impl CanonicalPath {
    /// Fails closed: what has two readings is refused, never repaired.
    pub fn parse(_path_and_query: &str) -> Result<Self, PathFault> {
        todo!("policy")
    }

    /// The path, without query. Starts with `/`.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// The query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}
