//! `status`: whatever the gateway tells of itself, in sections.

use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::client::Gateway;
use super::{Outcome, output};
use crate::admin::times;

/// What people look for first; the rest follows as the gateway sent it.
const FIRST: &[&str] = &["version", "ready", "generation", "config", "uptime_seconds", "started", "policy"];

pub(super) fn status(gateway: &Gateway, format: output::Format) -> Outcome {
    let status: Value = gateway.get("/status")?;
    if format.json {
        output::json(&status)?;
    } else {
        output::data(&sections(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Plain values first, one a line; then a section for each list or table of values. New things that a gateway tells are
/// shown without the command knowing them.
fn sections(status: &Value) -> String {
    let Value::Object(status) = status else { return text(status) };
    let (plain, nested): (Vec<_>, Vec<_>) =
        ordered(status).into_iter().partition(|(_, value)| !value.is_object() && !is_list(value));
    let mut shown = lines(&plain);
    for (name, value) in nested {
        shown.push_str(&format!("\n{}\n", label(name)));
        let section = match value {
            Value::Array(rows) => rows_of(rows),
            Value::Object(fields) => lines(&ordered(fields)),
            other => text(other),
        };
        shown.extend(section.lines().map(|line| format!("  {line}\n")));
    }
    shown
}

fn ordered(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    fields
}

fn lines(fields: &[(&String, &Value)]) -> String {
    let width = fields.iter().map(|(name, _)| label(name).len()).max().unwrap_or_default();
    fields.iter().map(|(name, value)| format!("{:width$}  {}\n", label(name), shown(name, value))).collect()
}

/// One line an entry, fields as `name=value`; a list of plain values is one value a line.
fn rows_of(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "none".to_owned();
    }
    let row = |value: &Value| match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name}={}", shown(name, value)))
            .collect::<Vec<_>>()
            .join("  "),
        other => text(other),
    };
    rows.iter().map(row).collect::<Vec<_>>().join("\n")
}

fn shown(name: &str, value: &Value) -> String {
    if name.ends_with("_seconds")
        && let Some(seconds) = value.as_u64()
    {
        return times::human(Duration::from_secs(seconds));
    }
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(at) => output::moment(at),
        None => text(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => output::printable(text),
        Value::Null => "-".to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

fn label(name: &str) -> String {
    let words = name.trim_end_matches("_seconds").replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn is_list(value: &Value) -> bool {
    value.as_array().is_some_and(|rows| rows.is_empty() || rows.iter().any(Value::is_object) || rows.len() > 3)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_shown_in_sections() {
        let status = json!({
            "tables": { "bans": 3, "guesses": 0 },
            "generation": 4,
            "uptime_seconds": 90_000,
            "upstreams": [{ "upstream": "portal", "server": "http://127.0.0.1:9000", "healthy": true, "last_error": null }],
            "certificates": [],
        });
        let shown = sections(&status);
        assert!(shown.starts_with("Generation  4\nUptime      1d 1h\n"), "{shown}");
        assert!(shown.contains("\nTables\n  Bans     3\n"), "{shown}");
        assert!(shown.contains("healthy=true  server=http://127.0.0.1:9000  upstream=portal"), "{shown}");
        assert!(shown.contains("\nCertificates\n  none\n"), "{shown}");
        assert!(!shown.contains("last_error"), "{shown}");
    }
}
