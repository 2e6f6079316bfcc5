//! Texts: names, paths, methods, headers, and where a login's account stands.

use std::ops::Deref;
use std::path::PathBuf;

use http::{HeaderName, Method, StatusCode};
use schemars::{Schema, json_schema};
use toml::Spanned;
use toml::de::DeValue;

use crate::config::read::{Reader, Value};
use crate::config::{Located, LogTarget};
use crate::policy::login::{AccountSource, FieldSource};

use super::Int;

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
pub struct OneOrMany<T>(pub Located<Vec<Located<T>>>);

impl<T> Deref for OneOrMany<T> {
    type Target = Located<Vec<Located<T>>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T: Value> Value for OneOrMany<T> {
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        if item.get_ref().is_array() {
            return Located::read(item, reader).map(Self);
        }
        let one = Located::read(item, reader)?;
        Some(Self(Located { span: one.span.clone(), value: vec![one] }))
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [T::schema(), Vec::<T>::schema()] })
    }
}
