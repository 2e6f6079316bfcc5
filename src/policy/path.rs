//! One canonical path, for the decision and for the forward (RFC 3986 section 6).

use std::fmt;

use http::uri::PathAndQuery;

/// The path and query of a request in their only accepted form.
///
/// The path keeps its escapes of reserved and non-ASCII characters, in upper case; escapes of unreserved characters are
/// decoded. The query is kept byte for byte.
#[derive(Clone, Debug)]
pub struct CanonicalPath {
    /// `path` or `path?query`, ready to forward.
    whole: Whole,
    /// Length of the path in `whole`.
    path: usize,
    /// The path with its last escapes decoded, where it has any: what routes compare.
    reading: Option<String>,
}

/// Where the text of a canonical path lies.
#[derive(Clone, Debug)]
enum Whole {
    Own(String),
    /// Shared with the request's head, which had it in this form.
    Shared(PathAndQuery),
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
    #[error("an encoded percent sign before two digits that make another path of it when decoded once more")]
    DoubleEscape,
    #[error("a raw semicolon, backslash or control character")]
    ForbiddenByte,
    #[error("a malformed percent-encoding")]
    BadEscape,
    #[error("percent-encoded bytes that are not UTF-8")]
    NotUtf8,
}

impl CanonicalPath {
    /// Fails closed: what has two readings is refused, never repaired.
    pub fn parse(path_and_query: &str) -> Result<Self, PathFault> {
        Self::read(path_and_query, || Whole::Own(path_and_query.to_owned()))
    }

    /// As [`parse`](Self::parse); a target that is canonical as it stands is not copied.
    pub fn of(target: &PathAndQuery) -> Result<Self, PathFault> {
        Self::read(target.as_str(), || Whole::Shared(target.clone()))
    }

    fn read(path_and_query: &str, as_it_stands: impl FnOnce() -> Whole) -> Result<Self, PathFault> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        if !path.starts_with('/') {
            return Err(PathFault::NotAbsolute);
        }
        if query.is_some_and(|query| !query.bytes().all(allowed_in_query)) {
            return Err(PathFault::ForbiddenByte);
        }
        if !path.bytes().all(|byte| byte == b'%' || allowed_in_path(byte)) {
            return Err(PathFault::ForbiddenByte);
        }
        if !path.contains('%') {
            check_segments(path)?;
            return Ok(Self { whole: as_it_stands(), path: path.len(), reading: None });
        }

        let mut whole = String::with_capacity(path_and_query.len());
        normalise_escapes(path, &mut whole)?;
        // Everything below judges the normalised text: `%25%32%46` is `%252F` only after its digits are decoded.
        let reading = read_escapes(&whole)?;
        check_segments(&reading)?;
        let reading = (reading != whole).then_some(reading);
        let path = whole.len();
        if let Some(query) = query {
            whole.push('?');
            whole.push_str(query);
        }
        Ok(Self { whole: Whole::Own(whole), path, reading })
    }

    /// The path, without query. Starts with `/`.
    pub fn as_str(&self) -> &str {
        self.as_path_and_query().get(..self.path).unwrap_or("/")
    }

    /// The query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.as_path_and_query().get(self.path + 1..)
    }

    /// The path and query as they go to the application.
    pub fn as_path_and_query(&self) -> &str {
        match &self.whole {
            Whole::Own(text) => text,
            Whole::Shared(target) => target.as_str(),
        }
    }

    /// The same as a request has it; `None` where it has a form that HTTP has no room for.
    pub fn to_target(&self) -> Option<PathAndQuery> {
        match &self.whole {
            Whole::Own(text) => text.as_str().try_into().ok(),
            Whole::Shared(target) => Some(target.clone()),
        }
    }

    /// The path with every escape decoded, for comparing it with a route or a login path: applications take `%40` and `@`
    /// for the same character, so a rule must too. It is no path to forward: `?` and `%` may stand in it as plain characters.
    pub fn reading(&self) -> &str {
        self.reading.as_deref().unwrap_or_else(|| self.as_str())
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_path_and_query())
    }
}

impl PartialEq for CanonicalPath {
    fn eq(&self, other: &Self) -> bool {
        self.as_path_and_query() == other.as_path_and_query()
    }
}

impl Eq for CanonicalPath {}

/// Refuses empty segments (one trailing slash is none) and those that a server would resolve away. `path` is decoded.
fn check_segments(path: &str) -> Result<(), PathFault> {
    // Each of them begins with a slash and another, or a dot: most paths have neither.
    if !path.as_bytes().windows(2).any(|pair| matches!(pair, b"//" | b"/.")) {
        return Ok(());
    }
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            if segments.peek().is_some() {
                return Err(PathFault::DotSegment);
            }
        } else if segment.starts_with('.') {
            // `..;x`: servers that know path parameters cut them off first and see `..`. Here the semicolon was encoded
            // (a raw one is refused outright); anywhere else it is a plain character of a name and passes.
            let name = segment.split_once(';').map_or(segment, |(name, _)| name);
            if name == "." || name == ".." {
                return Err(PathFault::DotSegment);
            }
        }
    }
    Ok(())
}

/// Decodes escapes of unreserved characters and writes all others in upper case.
fn normalise_escapes(path: &str, out: &mut String) -> Result<(), PathFault> {
    let mut rest = path;
    while let Some((plain, escaped)) = rest.split_once('%') {
        out.push_str(plain);
        let byte = escape(escaped.as_bytes()).ok_or(PathFault::BadEscape)?;
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(hex_digit(byte >> 4));
            out.push(hex_digit(byte & 15));
        }
        rest = escaped.get(2..).ok_or(PathFault::BadEscape)?;
    }
    out.push_str(rest);
    Ok(())
}

/// Decodes every escape of a normalised path. Fails closed on escapes that hide a separator or a control character, on
/// escapes of escapes that would do so when decoded once more or spell another name, and on bytes that are not UTF-8.
fn read_escapes(path: &str) -> Result<String, PathFault> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        let byte = escape(escaped.as_bytes()).ok_or(PathFault::BadEscape)?;
        rest = escaped.get(2..).ok_or(PathFault::BadEscape)?;
        if matches!(byte, b'/' | b'\\') {
            return Err(PathFault::HiddenSeparator);
        }
        if byte == b'%' && escape(rest.as_bytes()).is_some_and(makes_another_path) {
            return Err(PathFault::DoubleEscape);
        }
        bytes.push(byte);
    }
    bytes.extend_from_slice(rest.as_bytes());
    let reading = String::from_utf8(bytes).map_err(|_| PathFault::NotUtf8)?;
    if reading.chars().any(char::is_control) {
        return Err(PathFault::HiddenSeparator);
    }
    Ok(reading)
}

/// The byte that two leading hex digits stand for.
fn escape(digits: &[u8]) -> Option<u8> {
    let high = char::from(*digits.first()?).to_digit(16)?;
    let low = char::from(*digits.get(1)?).to_digit(16)?;
    u8::try_from(high << 4 | low).ok()
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase()
}

/// What a second decoding may not bring forth. Of what is left (`100%25 off`, `100%25deutsch`) people write names.
const fn makes_another_path(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'/' | b'\\' | b'%' | b';' | 0..=0x1f | 0x7f)
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` and `/` of RFC 3986 without `%` and `;`, and the few others that browsers send unencoded.
const fn allowed_in_path(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=')
        || matches!(byte, b'[' | b']' | b'{' | b'}' | b'|' | b'^')
}

/// Every visible ASCII character but `#`, after which a fragment would begin, and those that no HTTP library takes there.
const fn allowed_in_query(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(target: &str) -> String {
        CanonicalPath::parse(target).unwrap_or_else(|fault| panic!("{target}: {fault}")).to_string()
    }

    fn fault(target: &str) -> Option<PathFault> {
        CanonicalPath::parse(target).err()
    }

    #[test]
    fn canonical_targets_pass_unchanged() {
        for target in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/d-e_f~g",
            "/@me/x:y/$a&b'(c)*+,=",
            "/a?b=c",
            "/a?",
            "/?x",
            "/a?//../%2F%2e;\\`&%zz?=",
            "/caf%C3%A9",
            "/a%20b",
            "/a%2Bb",
            "/a%3Bb",
            "/100%25",
            "/100%25zz",
            "/100%25deutsch",
            "/100%2520",
            "/...",
            "/.well-known/x",
            "/..a",
            "/a[0]|b{c}^",
        ] {
            assert_eq!(canonical(target), target);
        }
    }

    #[test]
    fn escapes_of_unreserved_characters_are_decoded_and_others_upper_cased() {
        assert_eq!(canonical("/%61%2D%7e%5F%41"), "/a-~_A");
        assert_eq!(canonical("/caf%c3%a9?%c3%A9"), "/caf%C3%A9?%c3%A9");
        let path = CanonicalPath::parse("/a%40b/c%20d?q=%40").unwrap();
        assert_eq!((path.as_str(), path.query(), path.reading()), ("/a%40b/c%20d", Some("q=%40"), "/a@b/c d"));
        assert_eq!(path.as_path_and_query(), "/a%40b/c%20d?q=%40");
        let plain = CanonicalPath::parse("/a%2Db").unwrap();
        assert_eq!((plain.as_str(), plain.query(), plain.reading()), ("/a-b", None, "/a-b"));
    }

    #[test]
    fn trap_double_slash_and_dot_segments_are_refused_in_any_encoding() {
        for target in [
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/..",
            "/a/%2e",
            "/%2e%2E/a",
            "/.%2e/a",
            "/a/%2e%2e/",
            "/..%3B/a",
            "/a/..%3bx=1/b",
            "/.%3B/a",
            "/%2e%2e%3b/a",
        ] {
            assert_eq!(fault(target), Some(PathFault::DotSegment), "{target}");
        }
    }

    #[test]
    fn trap_encoded_slash_backslash_nul_and_controls_are_refused() {
        for target in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb", "/a%00", "/a%0A", "/a%1f", "/a%7F", "/a%7f", "/a%C2%85"] {
            assert_eq!(fault(target), Some(PathFault::HiddenSeparator), "{target}");
        }
    }

    #[test]
    fn trap_double_encoding_is_refused() {
        for target in [
            "/a%252Fb",
            "/a%252fb",
            "/a%252e",
            "/%252E%252e/a",
            "/a%255C",
            "/a%2500",
            "/a%2525",
            "/a%252525",
            "/a%253Bb",
            "/a%250a",
            "/a%25%32%46b",
            "/a%25%32Fb",
            "/a%252%46b",
            "/%256Cogin",
            "/%256cogin",
            "/%25%36%43ogin",
            "/%2570rivate/x",
            "/a%2530",
            "/a%257Eb",
        ] {
            assert_eq!(fault(target), Some(PathFault::DoubleEscape), "{target}");
        }
    }

    #[test]
    fn trap_path_parameters_and_raw_oddities_are_refused() {
        for target in
            ["/..;/a", "/a;b=c", "/a\\b", "/a b", "/a\tb", "/a\0", "/a\x7f", "/é", "/a#b", "/a?b#c", "/a?b c", "/a?é", "/a?\n"]
        {
            assert_eq!(fault(target), Some(PathFault::ForbiddenByte), "{target:?}");
        }
        for target in ["", "*", "a", "?a", "http://x/", "%2Fa"] {
            assert_eq!(fault(target), Some(PathFault::NotAbsolute), "{target}");
        }
    }

    #[test]
    fn malformed_escapes_and_foreign_encodings_are_refused() {
        for target in ["/%", "/%4", "/%zz", "/%4g", "/%%41", "/a%2", "/%+1", "/%u0041"] {
            assert_eq!(fault(target), Some(PathFault::BadEscape), "{target}");
        }
        for target in ["/%C0%AE", "/%C0%AF", "/%E9", "/%C3", "/%ED%A0%80", "/%F5%80%80%80", "/%E0%80%AF"] {
            assert_eq!(fault(target), Some(PathFault::NotUtf8), "{target}");
        }
    }

    /// Targets that are mostly dangerous pieces, so that their combinations are met often.
    fn target() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just(".".to_owned()),
            Just("%".to_owned()),
            Just(";".to_owned()),
            Just("?".to_owned()),
            Just("\\".to_owned()),
            "[0-9a-fA-F]",
            "%[0-9a-fA-F]{2}",
            "%25[0-9a-fA-F]{2}",
            "%2[eEfF5]",
            "[ -~]",
            any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_canonical_form_is_its_own_canonical_form(target in target()) {
            if let Ok(path) = CanonicalPath::parse(&target) {
                prop_assert_eq!(CanonicalPath::parse(path.as_path_and_query()), Ok(path));
            }
        }

        #[test]
        fn a_shared_target_reads_as_its_text(target in target()) {
            if let Ok(shared) = PathAndQuery::try_from(target.as_str()) {
                let (of, parsed) = (CanonicalPath::of(&shared), CanonicalPath::parse(shared.as_str()));
                prop_assert_eq!(&of, &parsed);
                if let (Ok(of), Ok(parsed)) = (of, parsed) {
                    prop_assert_eq!((of.as_str(), of.query(), of.reading()), (parsed.as_str(), parsed.query(), parsed.reading()));
                    prop_assert_eq!(of.to_target().map(|target| target.to_string()), Some(parsed.to_string()));
                }
            }
        }

        #[test]
        fn no_canonical_form_holds_what_is_refused(target in target()) {
            if let Ok(path) = CanonicalPath::parse(&target) {
                let text = path.as_str();
                prop_assert!(text.starts_with('/') && text.is_ascii());
                for refused in ["//", "%2F", "%5C", "%00", "%7F", "%252F", "%252E", "%2525", "\\", ";", "?", "#", " "] {
                    prop_assert!(!text.contains(refused), "{} in {}", refused, text);
                }
                // However often an application decodes, it never finds a dot segment or another slash.
                let slashes = text.matches('/').count();
                let mut decoded = text.to_owned();
                for _ in 0..3 {
                    decoded = percent_encoding::percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
                    prop_assert_eq!(decoded.matches('/').count(), slashes);
                    prop_assert!(!decoded.split('/').any(|segment| segment == "." || segment == ".."), "{}", decoded);
                    prop_assert!(!decoded.contains(['\\', '\0']));
                }
            }
        }

        #[test]
        fn nothing_panics(target in ".*") {
            let _ = CanonicalPath::parse(&target);
        }
    }
}
