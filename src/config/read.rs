//! Reads TOML with its spans into typed tables, gathering every error.
//!
//! A table is declared once, by [`table!`]: its fields, their one-sentence descriptions and their defaults (in TOML's own
//! notation). The struct, its reader, its part of the JSON Schema and the lines of `config show` all come from there.

use std::collections::HashMap;

use schemars::{Schema, json_schema};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Located, Span};
use super::suggest;

/// Something a key of the file can hold.
pub trait Value: Sized {
    /// Whether `config show` has one line for it; tables have one for each of their keys.
    const LEAF: bool = true;

    /// `None` when it cannot be read; the reader then holds the error.
    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self>;

    fn schema() -> Schema;
}

/// Gathers what is wrong, and what was read from where.
#[derive(Default)]
pub struct Reader {
    pub found: Vec<Diagnostic>,
    pub shown: Vec<Shown>,
    pub broken: Broken,
    /// The key that is being read, as `config show` names it.
    path: String,
    /// Defaults have no place in the file.
    in_default: bool,
}

/// Keys with an error of their own: what seems to be missing there may only be unreadable.
#[derive(Default)]
pub struct Broken(Vec<String>);

/// One line of `config show`.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub key: String,
    pub value: serde_json::Value,
    /// `None`: a default.
    pub span: Option<Span>,
}

/// `[[name]]`: each table with its place; one that cannot be read keeps its slot, so that what points at it stays quiet.
pub type Tables<T> = Vec<Located<Option<T>>>;

/// `[section.<name>]`: tables under names that the operator chose.
#[derive(Debug)]
pub struct Named<T>(pub Vec<NamedTable<T>>);

#[derive(Debug)]
pub struct NamedTable<T> {
    pub name: Located<String>,
    /// `None` when it is not a table; the error is noted.
    pub table: Option<T>,
}

impl Broken {
    /// Whether the key, or anything in it, could not be read.
    pub fn within(&self, key: &str) -> bool {
        self.0.iter().any(|broken| lies_in(broken, key))
    }

    /// Whether the key may have been meant by something that could not be read, there or in a table above it.
    pub fn around(&self, key: &str) -> bool {
        self.within(key) || self.0.iter().any(|broken| lies_in(key, broken))
    }
}

impl Reader {
    pub fn span(&self, item: &Spanned<DeValue<'_>>) -> Span {
        if self.in_default { Span::default() } else { Span(item.span()) }
    }

    /// The item is not what the key wants.
    pub fn wrong_type(&mut self, item: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = item.get_ref().type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        let diagnostic = Diagnostic::error(format!("`{}` must be {wanted}, not {article} {found}", self.path), &self.span(item));
        let diagnostic = diagnostic.help(cure(item.get_ref(), wanted));
        self.fail(diagnostic);
    }

    /// The item is of the right type but cannot be taken.
    pub fn bad_value(&mut self, item: &Spanned<DeValue<'_>>, message: &str, help: impl Into<String>) {
        let diagnostic = Diagnostic::error(format!("`{}`: {message}", self.path), &self.span(item)).help(help);
        self.fail(diagnostic);
    }

    /// The item as a string; `wanted` completes "must be ...".
    pub fn string<'i>(&mut self, item: &'i Spanned<DeValue<'_>>, wanted: &str) -> Option<&'i str> {
        let text = item.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(item, wanted);
        }
        text
    }

    /// The item as a table of exactly these keys.
    pub fn table<'i, 'd>(&mut self, item: &'i Spanned<DeValue<'d>>, keys: &[&str]) -> Option<&'i DeTable<'d>> {
        let Some(table) = item.get_ref().as_table() else {
            self.wrong_type(item, "a table");
            return None;
        };
        for key in table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref().as_ref();
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let message = format!("unknown key `{name}`{place}");
            let span = if self.in_default { Span::default() } else { Span(key.span()) };
            self.fail(Diagnostic::error(message, &span).help(suggest::help(name, keys.iter().copied(), "known keys")));
        }
        Some(table)
    }

    /// A key without which its table makes no sense.
    pub fn required<T: Value>(&mut self, table: &DeTable<'_>, key: &str, whole: &Spanned<DeValue<'_>>, about: &str) -> Option<T> {
        let Some(item) = table.get(key) else {
            let place = if self.path.is_empty() { "the file".to_owned() } else { format!("`{}`", self.path) };
            let missing = Diagnostic::error(format!("{place} lacks `{key}`, which has no default"), &self.span(whole));
            self.fail(missing.help(format!("`{key}`: {}", about.trim())));
            return None;
        };
        self.at(key, item)
    }

    /// A key that means something by its absence.
    pub fn absent<T: Value>(&mut self, table: &DeTable<'_>, key: &str) -> Option<T> {
        table.get(key).and_then(|item| self.at(key, item))
    }

    /// A key with a default; a value that cannot be read is an error and stands as the default from here on.
    pub fn or_default<T: Value>(&mut self, table: &DeTable<'_>, key: &str, default: &'static str) -> T {
        if let Some(value) = table.get(key).and_then(|item| self.at(key, item)) {
            return value;
        }
        let item = Spanned::new(0..0, default_value(default));
        let outer = std::mem::replace(&mut self.in_default, true);
        let value = self.at(key, &item);
        self.in_default = outer;
        value.unwrap_or_else(|| unreachable!("the default of {}.{key} is not valid: {default}", self.path))
    }

    /// Reads one item under its key.
    pub fn at<T: Value>(&mut self, key: &str, item: &Spanned<DeValue<'_>>) -> Option<T> {
        let separator = if self.path.is_empty() { "" } else { "." };
        self.below(&format!("{separator}{}", bare_or_quoted(key)), |reader| {
            let value = T::read(item, reader);
            if T::LEAF && value.is_some() {
                reader.shown.push(Shown {
                    key: reader.path.clone(),
                    value: to_json(item.get_ref()),
                    span: (!reader.in_default).then(|| Span(item.span())),
                });
            }
            value
        })
    }

    /// Reads one element of a list.
    pub fn element<T: Value>(&mut self, index: usize, item: &Spanned<DeValue<'_>>) -> Option<T> {
        self.below(&format!("[{index}]"), |reader| T::read(item, reader))
    }

    fn fail(&mut self, diagnostic: Diagnostic) {
        self.broken.0.push(self.path.clone());
        self.found.push(diagnostic);
    }

    fn below<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(step);
        let value = read(self);
        self.path.truncate(length);
        value
    }
}

/// Puts the defaults that only other keys give behind the last line of their table.
pub fn with_computed(shown: Vec<Shown>, computed: Vec<(String, Shown)>) -> Vec<Shown> {
    let last_of: HashMap<String, usize> =
        shown.iter().enumerate().map(|(at, line)| (table_of(&line.key).to_owned(), at)).collect();
    let mut behind: HashMap<usize, Vec<Shown>> = HashMap::new();
    for (table, line) in computed {
        let at = last_of.get(&table).copied().unwrap_or(shown.len().saturating_sub(1));
        behind.entry(at).or_default().push(line);
    }
    let lines = shown.into_iter().enumerate();
    lines.flat_map(|(at, line)| std::iter::once(line).chain(behind.remove(&at).unwrap_or_default())).collect()
}

fn table_of(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(table, _)| table)
}

impl<T: Value> Value for Located<T> {
    const LEAF: bool = T::LEAF;

    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let span = reader.span(item);
        T::read(item, reader).map(|value| Self { value, span })
    }

    fn schema() -> Schema {
        T::schema()
    }
}

/// A table of `[[name]]` that cannot be read keeps its slot.
impl<T: Value> Value for Located<Option<T>> {
    const LEAF: bool = T::LEAF;

    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        Some(Self { span: reader.span(item), value: T::read(item, reader) })
    }

    fn schema() -> Schema {
        T::schema()
    }
}

impl<T: Value> Value for Vec<T> {
    const LEAF: bool = T::LEAF;

    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let Some(list) = item.get_ref().as_array() else {
            reader.wrong_type(item, "a list");
            return None;
        };
        Some(list.iter().enumerate().filter_map(|(index, item)| reader.element(index, item)).collect())
    }

    fn schema() -> Schema {
        json_schema!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Value> Value for Named<T> {
    const LEAF: bool = false;

    fn read(item: &Spanned<DeValue<'_>>, reader: &mut Reader) -> Option<Self> {
        let Some(table) = item.get_ref().as_table() else {
            reader.wrong_type(item, "a table of named tables");
            return None;
        };
        let mut named = Vec::new();
        for (key, item) in table.iter() {
            let name = key.get_ref().as_ref();
            let span = Span(key.span());
            if !is_name(name) {
                let message = format!("\"{name}\" in `{}` is not a name", reader.path);
                reader.fail(Diagnostic::error(message, &span).help("a name is 1 to 64 of A-Z a-z 0-9 _ and -"));
            }
            named.push(NamedTable { name: Located { value: name.to_owned(), span }, table: reader.at(name, item) });
        }
        Some(Self(named))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
            "additionalProperties": T::schema(),
        })
    }
}

impl<T> Named<T> {
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|entry| entry.name.value == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|entry| entry.name.value.as_str())
    }
}

/// One field of a declared table, for the schema.
pub struct Field {
    pub key: &'static str,
    pub description: &'static str,
    pub schema: Schema,
    pub presence: Presence,
}

/// What the absence of a key means.
pub enum Presence {
    Required,
    Absent,
    /// The value that stands, in TOML's notation.
    Default(&'static str),
}

/// The schema of a declared table.
pub fn table_schema(description: &'static str, fields: Vec<Field>) -> Schema {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for field in fields {
        let mut schema = field.schema;
        schema.insert("description".to_owned(), field.description.trim().into());
        match field.presence {
            Presence::Required => required.push(field.key),
            Presence::Absent => {}
            Presence::Default("{}") => {}
            Presence::Default(default) => {
                schema.insert("default".to_owned(), to_json(&default_value(default)));
            }
        }
        properties.insert(field.key.to_owned(), schema.to_value());
    }
    json_schema!({
        "type": "object",
        "description": description.trim(),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Declares a table of the file. Each field is `key: Type = presence`, where presence is `required`, `absent` (both make the
/// field an `Option`; a required one is `None` once its error is noted) or the default in TOML's notation.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident : $type:ty = $presence:tt, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $crate::config::read::field_type!($presence $type), )+
        }

        impl $crate::config::read::Value for $name {
            const LEAF: bool = false;

            fn read(
                item: &::toml::Spanned<::toml::de::DeValue<'_>>,
                reader: &mut $crate::config::read::Reader,
            ) -> Option<Self> {
                let table = reader.table(item, &[$( $crate::config::read::key(stringify!($field)) ),+])?;
                Some(Self { $( $field: $crate::config::read::field_read!($presence reader table item $field concat!($($doc),+)) ),+ })
            }

            fn schema() -> ::schemars::Schema {
                $crate::config::read::table_schema(
                    concat!($($about),+),
                    vec![$( $crate::config::read::Field {
                        key: $crate::config::read::key(stringify!($field)),
                        description: concat!($($doc),+),
                        schema: <$type as $crate::config::read::Value>::schema(),
                        presence: $crate::config::read::field_presence!($presence),
                    } ),+],
                )
            }
        }
    };
}

macro_rules! field_type {
    (required $type:ty) => { Option<$type> };
    (absent $type:ty) => { Option<$type> };
    ($default:tt $type:ty) => { $type };
}

macro_rules! field_read {
    (required $reader:ident $table:ident $item:ident $field:ident $about:expr) => {
        $reader.required($table, $crate::config::read::key(stringify!($field)), $item, $about)
    };
    (absent $reader:ident $table:ident $item:ident $field:ident $about:expr) => {
        $reader.absent($table, $crate::config::read::key(stringify!($field)))
    };
    ($default:tt $reader:ident $table:ident $item:ident $field:ident $about:expr) => {
        $reader.or_default($table, $crate::config::read::key(stringify!($field)), stringify!($default))
    };
}

macro_rules! field_presence {
    (required) => {
        $crate::config::read::Presence::Required
    };
    (absent) => {
        $crate::config::read::Presence::Absent
    };
    ($default:tt) => {
        $crate::config::read::Presence::Default(stringify!($default))
    };
}

/// Declares the words that a type is written as.
macro_rules! choice {
    ($type:ty { $( $word:literal => $value:expr, )+ }) => {
        impl $crate::config::read::Value for $type {
            fn read(
                item: &::toml::Spanned<::toml::de::DeValue<'_>>,
                reader: &mut $crate::config::read::Reader,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),+];
                match reader.string(item, &$crate::config::read::one_of(WORDS))? {
                    $( $word => Some($value), )+
                    other => {
                        let message = format!("`{other}` is not {}", $crate::config::read::one_of(WORDS));
                        reader.bad_value(item, &message, $crate::config::suggest::help(other, WORDS.iter().copied(), "choices"));
                        None
                    }
                }
            }

            fn schema() -> ::schemars::Schema {
                ::schemars::json_schema!({ "enum": [$($word),+] })
            }
        }
    };
}

pub(super) use {choice, field_presence, field_read, field_type, table};

/// The key of a field whose name is a word of Rust.
pub fn key(field: &'static str) -> &'static str {
    field.trim_start_matches("r#")
}

pub fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Whether a word may name a table, a role or a tenant: it then needs no quoting in keys, logs and metrics.
pub fn is_name(word: &str) -> bool {
    (1..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// By whole steps; nothing lies in the file as such.
fn lies_in(key: &str, table: &str) -> bool {
    !table.is_empty() && key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn bare_or_quoted(key: &str) -> String {
    if is_name(key) { key.to_owned() } else { format!("{key:?}") }
}

/// How a value of the wrong type would be written.
fn cure(found: &DeValue<'_>, wanted: &str) -> String {
    let quoted = wanted == "text" || (wanted.contains('"') && !wanted.starts_with("a whole number"));
    match found {
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) if quoted => {
            "it stands in quotes, with its unit if it has one".to_owned()
        }
        DeValue::String(text) if wanted == "a list" => format!("did you mean [\"{}\"]?", text.escape_debug()),
        DeValue::String(text) if text.parse::<u64>().is_ok() => format!("did you mean {text}, without quotes?"),
        DeValue::Table(_) if wanted == "a list" => "a table in a list is written [[name]] or [{ ... }]".to_owned(),
        DeValue::Array(_) if wanted.starts_with("a table") => "one table is written [name] or { ... }".to_owned(),
        _ if wanted.starts_with("a table") => "a table is written [name] or { ... }".to_owned(),
        _ => format!("it must be {wanted}"),
    }
}

fn default_value(default: &'static str) -> DeValue<'static> {
    match DeValue::parse(default) {
        Ok(value) => value.into_inner(),
        Err(error) => unreachable!("the default {default} is not TOML: {error}"),
    }
}

/// A value without its places.
pub fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).map_or(serde_json::Value::Null, Into::into)
        }
        DeValue::Float(float) => float.as_str().parse::<f64>().map_or(serde_json::Value::Null, Into::into),
        DeValue::Boolean(boolean) => (*boolean).into(),
        DeValue::Datetime(datetime) => datetime.to_string().into(),
        DeValue::Array(list) => list.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => table.iter().map(|(key, item)| (key.get_ref().to_string(), to_json(item.get_ref()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;

    fn read(text: &'static str) -> (Option<File>, Reader) {
        let mut reader = Reader::default();
        let table = DeTable::parse(text).unwrap();
        let whole = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
        (File::read(&whole, &mut reader), reader)
    }

    /// Each default is valid and has no place in the file; reading one that is not would panic here.
    #[test]
    fn every_default_can_be_read() {
        let text = "upstream.a = { servers = [] }\nclient_ca.a = { roots = [] }\nlogin.a = { request = { path = \"/\" }, account = \"basic\" }\n\
            limit.a = { key = [], rate = \"1/s\" }\nsite = [{ hosts = [], route = [{ path = \"/\", upstream = \"a\" }] }]\n";
        let (file, reader) = read(text);
        assert!(file.is_some() && reader.found.is_empty(), "{:?}", reader.found);
        let written = |key: &str| reader.shown.iter().find(|shown| shown.key == key).unwrap().span.is_some();
        assert!(written("upstream.a.servers") && !written("upstream.a.timeouts.connect") && !written("login.a.failed[0].status"));
    }

    #[test]
    fn numbers_may_have_signs_underscores_and_other_bases() {
        let (file, reader) = read("caps = { connections = 1_000, streams = 0x10, headers = +50 }");
        let caps = file.unwrap().caps;
        assert!(reader.found.is_empty(), "{:?}", reader.found);
        assert_eq!((caps.connections.value.0, caps.streams.0, caps.headers.0), (1000, 16, 50));
    }

    #[test]
    fn a_broken_key_is_known_by_whole_steps() {
        let broken = Broken(vec!["site[1].hosts[0]".to_owned(), "tls".to_owned()]);
        for (key, expected) in [
            ("site[1].hosts", true),
            ("site[1].host", false),
            ("site", true),
            ("site[0]", false),
            ("tls", true),
            ("tls.certificate", false),
        ] {
            assert_eq!(broken.within(key), expected, "{key}");
        }
        assert!(broken.around("tls.certificate") && !broken.around("tlsx") && !Broken(vec![String::new()]).around("tls"));
    }
}
