//! `config fmt`: formatting with comments kept.
//!
//! One space around `=`, none at line ends, nothing indented or aligned; single blank lines stay, each table header has one
//! above it, and a list that stands on several lines keeps one value a line.

use std::path::Path;

use toml::de::DeTable;
use toml_edit::{Array, Decor, DocumentMut, InlineTable, Item, KeyMut, RawString, Table, Value};

const INDENT: &str = "    ";

/// The formatted text; `Err` is a rendered syntax error.
pub fn format(path: &Path, text: &str) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        let rendered = super::syntax_errors(path, text);
        if rendered.is_empty() { format!("error: not TOML: {error}\n") } else { rendered }
    })?;
    let trailing = lead(raw(Some(document.trailing())) + "\n");
    document.set_trailing(trailing);
    let root = document.as_table_mut();
    let above = lead(raw(root.decor().prefix()));
    root.decor_mut().set_prefix(above);
    statements(root);
    let formatted = format!("{}\n", document.to_string().trim());
    let comments_kept = formatted.matches('#').count() == text.matches('#').count();
    if !comments_kept || meaning(&formatted) != meaning(text) {
        return Err(format!("error: {} cannot be formatted without losing something\n", path.display()));
    }
    Ok(formatted)
}

fn meaning(text: &str) -> Option<serde_json::Value> {
    let table = DeTable::parse(text).ok()?.into_inner();
    Some(super::read::to_json(&toml::de::DeValue::Table(table)))
}

/// Formats the keys and tables below a header.
fn statements(table: &mut Table) {
    for (mut key, item) in table.iter_mut() {
        key.dotted_decor_mut().clear();
        match item {
            Item::Value(value) => {
                let above = lead(raw(key.leaf_decor().prefix()));
                *key.leaf_decor_mut() = Decor::new(above, " ");
                let after = remark(raw(value.decor().suffix()));
                self::value(value, "");
                *value.decor_mut() = Decor::new(" ", after);
            }
            Item::Table(table) if table.is_dotted() => statements(table),
            Item::Table(table) => {
                key.leaf_decor_mut().clear();
                header(table);
            }
            Item::ArrayOfTables(tables) => {
                key.leaf_decor_mut().clear();
                tables.iter_mut().for_each(header);
            }
            Item::None => {}
        }
    }
}

fn header(table: &mut Table) {
    let above = lead(raw(table.decor().prefix()));
    let blank = if above.starts_with('\n') { "" } else { "\n" };
    let after = remark(raw(table.decor().suffix()));
    *table.decor_mut() = Decor::new(format!("{blank}{above}"), after);
    statements(table);
}

/// Formats the inside of a value that stands under `indent`.
fn value(value: &mut Value, indent: &str) {
    match value {
        Value::Array(list) => array(list, indent),
        Value::InlineTable(table) => inline_table(table, indent),
        _ => {}
    }
}

fn array(list: &mut Array, indent: &str) {
    let values = list.iter().map(|value| (raw(value.decor().prefix()), raw(value.decor().suffix())));
    let gaps = Gaps::new(values, raw(Some(list.trailing())));
    let inner = format!("{indent}{INDENT}");
    for (at, value) in list.iter_mut().enumerate() {
        self::value(value, &inner);
        *value.decor_mut() = Decor::new(gaps.before(at, "", &inner), "");
    }
    list.set_trailing_comma(gaps.several_lines && !list.is_empty());
    list.set_trailing(gaps.last("", indent));
}

fn inline_table(table: &mut InlineTable, indent: &str) {
    if table.iter().any(|(_, value)| matches!(value, Value::InlineTable(table) if table.is_dotted())) {
        return;
    }
    let keys: Vec<String> = table.iter_mut().map(|(key, _): (KeyMut<'_>, _)| raw(key.leaf_decor().prefix())).collect();
    let suffixes: Vec<String> = table.iter().map(|(_, value)| raw(value.decor().suffix())).collect();
    let gaps = Gaps::new(keys.into_iter().zip(suffixes), raw(Some(table.trailing())));
    let inner = format!("{indent}{INDENT}");
    for (at, (mut key, value)) in table.iter_mut().enumerate() {
        self::value(value, &inner);
        *key.leaf_decor_mut() = Decor::new(gaps.before(at, " ", &inner), " ");
        *value.decor_mut() = Decor::new(" ", "");
    }
    let edge = if table.is_empty() { "" } else { " " };
    table.set_trailing_comma(gaps.several_lines && !table.is_empty());
    table.set_trailing(gaps.last(edge, indent));
}

/// What stands between the values of a list: before the first, between two (on both sides of their comma), after the last.
struct Gaps {
    gaps: Vec<String>,
    several_lines: bool,
}

impl Gaps {
    /// `around`: what stands before and after each value; `trailing`: what stands before the bracket that closes.
    fn new(around: impl Iterator<Item = (String, String)>, trailing: String) -> Self {
        let mut gaps = Vec::new();
        let mut open = String::new();
        for (before, after) in around {
            gaps.push(open + &before);
            open = after;
        }
        gaps.push(open + &trailing);
        let several_lines =
            if gaps.len() == 1 { gaps.iter().any(|gap| gap.contains('#')) } else { gaps.iter().any(|gap| gap.contains('\n')) };
        Self { gaps, several_lines }
    }

    /// `edge` stands before the first value of a list on one line.
    fn before(&self, at: usize, edge: &str, indent: &str) -> String {
        match self.gaps.get(at) {
            Some(gap) if self.several_lines => format!("{}\n{indent}", remarks(gap, indent)),
            _ if at == 0 => edge.to_owned(),
            _ => " ".to_owned(),
        }
    }

    fn last(&self, edge: &str, indent: &str) -> String {
        match self.gaps.last() {
            Some(gap) if self.several_lines => format!("{}\n{indent}", remarks(gap, &format!("{indent}{INDENT}"))),
            _ => edge.to_owned(),
        }
    }
}

/// The comments in a gap: one behind the value before it, the others on lines of their own.
fn remarks(gap: &str, indent: &str) -> String {
    let mut out = String::new();
    for (at, line) in gap.split('\n').map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        out.push_str(if at == 0 { " " } else { "\n" });
        out.push_str(if at == 0 { "" } else { indent });
        out.push_str(line);
    }
    out
}

/// What stands above a statement: its comments, each from the line's start, and no two blank lines together.
fn lead(above: String) -> String {
    let mut out = String::new();
    let mut lines: Vec<&str> = above.split('\n').map(str::trim).collect();
    // What follows the last newline is the statement's indentation.
    lines.pop();
    let mut blank = false;
    for line in lines {
        if !(line.is_empty() && blank) {
            out.push_str(line);
            out.push('\n');
        }
        blank = line.is_empty();
    }
    out
}

/// A comment at a line's end, one space away.
fn remark(after: String) -> String {
    let comment = after.trim();
    if comment.is_empty() { String::new() } else { format!(" {comment}") }
}

fn raw(text: Option<&RawString>) -> String {
    text.and_then(RawString::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str) -> String {
        let once = format(Path::new("f.toml"), text).unwrap();
        assert_eq!(once, format(Path::new("f.toml"), &once).unwrap(), "a second pass still changes something");
        once
    }

    #[test]
    fn untidy_text_becomes_tidy() {
        let untidy = "\n\n# top  \n\n\n  a=1   # one\nb   =   [1,2 ,3,]\t\n\n\n\n[ t ]   # table\n  # key\n  \"k\"  = {x=1,y = [ ]}\n[[ t . u ]]\nc.d .e=''\n\n\n# end\n\n";
        let tidy = "# top\n\na = 1 # one\nb = [1, 2, 3]\n\n[t] # table\n# key\n\"k\" = { x = 1, y = [] }\n\n[[t.u]]\nc.d.e = ''\n\n# end\n";
        assert_eq!(formatted(untidy), tidy);
    }

    #[test]
    fn a_list_on_several_lines_keeps_its_lines_and_comments() {
        let untidy = "a = [ # open\n# first\n  1, # one\n\n  2 # two\n  , { x = 1,\n   y = 2 } # three\n # last\n]\nb = [\n]\nc = [ # none\n]\n";
        let tidy = "a = [ # open\n    # first\n    1, # one\n    2, # two\n    {\n        x = 1,\n        y = 2,\n    }, # three\n    # last\n]\nb = []\nc = [ # none\n]\n";
        assert_eq!(formatted(untidy), tidy);
    }

    #[test]
    fn text_inside_strings_is_left_alone() {
        let text = "a = \"\"\"\n  x =  1   \n\n\n\n# no comment  \"\"\"\nb = '#  '\n";
        assert_eq!(formatted(text), text);
    }

    #[test]
    fn empty_and_comment_only_files_stay() {
        assert_eq!(formatted("  # a\n\n\n# b"), "# a\n\n# b\n");
        assert_eq!(formatted(""), "\n");
    }

    #[test]
    fn a_syntax_error_is_rendered_with_its_place() {
        let error = format(Path::new("f.toml"), "a = 1\nb = = 2\n").unwrap_err();
        assert!(error.contains("--> f.toml:2:5") && error.contains("b = = 2"), "{error}");
    }
}
