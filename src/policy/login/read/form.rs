//! One field of an `application/x-www-form-urlencoded` body or of a query.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::super::FieldSource;
use super::{ReadFault, Use, Value};

/// The value of the one field of that name, `None` where there is none.
///
/// Fails closed: a second field that some application takes for the same one is an error, and so is any field whose name has
/// no one reading, and an account whose value has a malformed escape or a bare `;`, which some applications take for `&`.
pub(super) fn read(body: &[u8], name: &str, used: Use) -> Result<Option<Value>, ReadFault> {
    let wanted = folded(name, name);
    let mut value = None;
    for pair in body.split(|byte| *byte == b'&') {
        for (position, part) in pair.split(|byte| *byte == b';').enumerate() {
            let found = name_of(part)?;
            if folded(&found, name) != wanted {
                continue;
            }
            if position > 0 || value.is_some() || found != name {
                return Err(ReadFault::Twice);
            }
            // Before the `=`, too, it leaves no one reading of the value.
            if used == Use::Account && pair.contains(&b';') {
                return Err(ReadFault::Malformed);
            }
            let raw = pair.splitn(2, |byte| *byte == b'=').nth(1).unwrap_or_default();
            value = Some(decode_value(raw, used)?);
        }
    }
    Ok(value)
}

/// Whether the query names the field, or something that an application would merge with it. Fails closed, as [`read`] does.
pub(super) fn names(query: &str, field: &FieldSource) -> Result<bool, ReadFault> {
    let root;
    let name = match field {
        FieldSource::Form(name) => name.as_str(),
        FieldSource::Json(pointer) => {
            root = super::json::tokens(pointer).next().unwrap_or_default();
            &root
        }
    };
    let wanted = folded(name, name);
    for part in query.as_bytes().split(|byte| matches!(byte, b'&' | b';')) {
        if folded(&name_of(part)?, name) == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The decoded name of one `name=value`. Fails closed: each way of reading a half escape (`%u0061` of ASP.NET) or a bracket that
/// stands alone (`user]` and `]user` of Rack, `user[x` and `user[x]y` of PHP) makes it another name.
fn name_of(part: &[u8]) -> Result<String, ReadFault> {
    let raw = part.split(|byte| *byte == b'=').next().unwrap_or_default();
    let name = String::from_utf8(decoded(raw).to_vec()).map_err(|_| ReadFault::FieldName)?;
    if escapes_hold(raw) && brackets_hold(&name) { Ok(name) } else { Err(ReadFault::FieldName) }
}

/// `name`, `name[part]`, `name[part][]`: nothing before the brackets' name, in them no other, nothing between or behind.
fn brackets_hold(name: &str) -> bool {
    let Some((root, mut rest)) = name.split_once('[') else { return !name.contains(']') };
    while let Some((part, behind)) = rest.split_once(']') {
        if part.contains('[') {
            return false;
        }
        match behind.strip_prefix('[') {
            Some(next) => rest = next,
            None => return behind.is_empty() && !root.is_empty() && !root.contains(']'),
        }
    }
    false
}

fn escapes_hold(raw: &[u8]) -> bool {
    let mut escapes = raw.split(|byte| *byte == b'%').skip(1);
    escapes.all(|rest| rest.get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

fn decode_value(raw: &[u8], used: Use) -> Result<Value, ReadFault> {
    let value = Zeroizing::new(decoded(raw).to_vec());
    if used == Use::Account && (!escapes_hold(raw) || std::str::from_utf8(&value).is_err()) {
        return Err(ReadFault::Malformed);
    }
    Ok(value)
}

fn decoded(raw: &[u8]) -> Zeroizing<Vec<u8>> {
    let spaced: Zeroizing<Vec<u8>> = Zeroizing::new(raw.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect());
    Zeroizing::new(percent_decode(&spaced).collect())
}

/// A field's name as the loosest application reads it: letter case and width folded (ASP.NET), blanks trimmed and the rest
/// cut at NUL, `.` and blank as `_` (PHP), and what stands in brackets dropped, unless the field wanted has brackets itself.
fn folded(name: &str, wanted: &str) -> String {
    let name = name.split('\0').next().unwrap_or_default().trim();
    let name: Cow<'_, str> = if wanted.contains('[') {
        Cow::Borrowed(name.strip_suffix("[]").unwrap_or(name))
    } else {
        Cow::Borrowed(name.split('[').next().unwrap_or_default())
    };
    // The plain case first: a body may hold tens of thousands of names.
    let mut folded =
        if name.is_ascii() { name.to_ascii_lowercase() } else { name.nfkc().flat_map(char::to_lowercase).nfkc().collect() };
    if folded.contains(['.', ' ']) {
        folded = folded.replace(['.', ' '], "_");
    }
    folded
}
