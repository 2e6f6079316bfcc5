//! `config show`: the effective config with each value's origin. Secrets stand in files of their own, so none can show here.

use std::path::Path;

use serde_json::{Value, json};

use super::read::Shown;
use super::{Diagnostics, Source};

/// One `key = value  # origin` line each; origin is `file:line` or `default`.
pub fn text(path: &Path) -> Result<String, Diagnostics> {
    let (source, shown) = super::effective(path)?;
    Ok(shown.iter().map(|line| format!("{} = {}  # {}\n", line.key, toml(&line.value), origin(&source, line))).collect())
}

/// The same as an array of `{key, value, origin}`.
pub fn json(path: &Path) -> Result<Value, Diagnostics> {
    let (source, shown) = super::effective(path)?;
    Ok(shown.iter().map(|line| json!({ "key": line.key, "value": line.value, "origin": origin(&source, line) })).collect())
}

fn origin(source: &Source, line: &Shown) -> String {
    match &line.span {
        Some(span) => format!("{}:{}", source.path.display(), source.position(span.0.start).0),
        None => "default".to_owned(),
    }
}

/// A value on one line, in TOML's notation.
fn toml(value: &Value) -> String {
    match value {
        Value::String(text) => toml_edit::Value::from(text.as_str()).to_string(),
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs: Vec<_> = table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
