//! One error or warning with its place; how a list of them is shown.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use super::Source;

/// Byte range in the source's text.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Span(pub Range<usize>);

/// A value and where the file says it; an empty span at 0 means "a default".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What is wrong, one sentence.
    pub message: String,
    pub span: Span,
    /// What was meant, or the cure.
    pub help: Option<String>,
}

/// All findings of one load, prepare or check.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    /// `None` when the file itself could not be read.
    pub source: Option<Arc<Source>>,
    pub list: Vec<Diagnostic>,
}

impl Span {
    /// Whether this stands for a default, which no line of the file says.
    pub fn is_default(&self) -> bool {
        self.0 == (0..0)
    }
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl Diagnostic {
    pub fn error(message: impl Into<String>, span: &Span) -> Self {
        Self { severity: Severity::Error, message: message.into(), span: span.clone(), help: None }
    }

    pub fn warning(message: impl Into<String>, span: &Span) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message, span) }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Diagnostics {
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// As rustc would print them: `file:line:column`, the line, a caret, the help.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for diagnostic in &self.list {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&self.render_one(&renderer, diagnostic));
            out.push('\n');
        }
        out
    }

    /// The warnings, each rendered by itself without colour.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.list.iter().filter(|one| one.severity == Severity::Warning);
        warnings.map(|one| self.render_one(&Renderer::plain(), one)).collect()
    }

    /// The errors, each on one line with its place before it: `file:line:column: `.
    pub fn errors(&self) -> Vec<String> {
        let errors = self.list.iter().filter(|one| one.severity == Severity::Error);
        errors.map(|one| format!("{}{}", self.place(&one.span), one.message)).collect()
    }

    fn place(&self, span: &Span) -> String {
        let Some(source) = &self.source else { return String::new() };
        let path = source.path.display();
        if span.is_default() {
            return format!("{path}: ");
        }
        let (line, column) = source.position(span.0.start);
        format!("{path}:{line}:{column}: ")
    }

    /// For `--json`: severity, file, line, column, message, help.
    pub fn to_json(&self) -> serde_json::Value {
        let findings = self.list.iter().map(|diagnostic| {
            let place = self.source.as_ref().filter(|_| !diagnostic.span.is_default());
            let position = place.map(|source| source.position(diagnostic.span.0.start));
            serde_json::json!({
                "severity": diagnostic.severity.as_str(),
                "file": self.source.as_ref().map(|source| source.path.display().to_string()),
                "line": position.map(|(line, _)| line),
                "column": position.map(|(_, column)| column),
                "message": diagnostic.message,
                "help": diagnostic.help,
            })
        });
        serde_json::Value::Array(findings.collect())
    }

    fn render_one(&self, renderer: &Renderer, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = annotate_snippets::Group::with_title(level.primary_title(diagnostic.message.as_str()));
        if let Some(source) = &self.source {
            let path = source.path.display().to_string();
            group = if diagnostic.span.is_default() {
                group.element(Origin::path(path))
            } else {
                let annotation = AnnotationKind::Primary.span(source.within_line(&diagnostic.span));
                group.element(Snippet::source(source.text.as_str()).path(path).annotation(annotation))
            };
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl Source {
    pub fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text }
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..floor(&self.text, offset)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The span cut down to its first line, so that one line and one caret say where it is.
    fn within_line(&self, span: &Span) -> Range<usize> {
        let start = floor(&self.text, span.0.start);
        let end = floor(&self.text, span.0.end).max(start);
        let line_end = self.text[start..end].find(['\r', '\n']).map_or(end, |newline| start + newline);
        start..line_end
    }
}

/// The nearest character boundary at or before the offset.
fn floor(text: &str, offset: usize) -> usize {
    text.floor_char_boundary(offset.min(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str, list: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics { source: Some(Arc::new(Source::new(Path::new("d.toml"), text.to_owned()))), list }
    }

    #[test]
    fn a_finding_shows_its_place_its_line_a_caret_and_the_cure() {
        let error = Diagnostic::error("no such upstream `portl`", &Span(20..27)).help("did you mean `portal`?");
        let rendered = findings("[[site.route]]\nup = \"portl\"\n", vec![error]).render(false);
        assert!(rendered.starts_with("error: no such upstream `portl`\n"), "{rendered}");
        assert!(rendered.contains("--> d.toml:2:6"), "{rendered}");
        assert!(rendered.contains("2 | up = \"portl\""), "{rendered}");
        assert!(rendered.contains("^^^^^^^"), "{rendered}");
        assert!(rendered.contains("= help: did you mean `portal`?"), "{rendered}");
    }

    #[test]
    fn a_finding_on_a_default_names_the_file_only() {
        let rendered = findings("a = 1\n", vec![Diagnostic::warning("w", &Span::default())]).render(false);
        assert!(rendered.contains("--> d.toml\n") && !rendered.contains("a = 1"), "{rendered}");
    }

    #[test]
    fn an_error_on_one_line_begins_with_its_place() {
        let list = vec![
            Diagnostic::error("e", &Span(6..7)),
            Diagnostic::warning("w", &Span(0..1)),
            Diagnostic::error("d", &Span::default()),
        ];
        assert_eq!(findings("a = 1\nb = 2\n", list.clone()).errors(), ["d.toml:2:1: e", "d.toml: d"]);
        assert_eq!(Diagnostics { source: None, list }.errors(), ["e", "d"]);
    }

    #[test]
    fn spans_beyond_the_text_or_inside_a_character_do_not_panic() {
        for span in [3..4, 4..5, 9..400, 400..401, 0..400] {
            let rendered = findings("aé\nö = 1", vec![Diagnostic::error("e", &Span(span))]).render(true);
            assert!(rendered.contains('e'));
        }
        findings("", vec![Diagnostic::error("e", &Span(0..1))]).render(false);
    }

    #[test]
    fn json_counts_lines_and_characters_from_one() {
        let found = findings("é = 1\nß = 22\n", vec![Diagnostic::error("e", &Span(12..14)).help("h")]);
        let expected =
            serde_json::json!([{ "severity": "error", "file": "d.toml", "line": 2, "column": 5, "message": "e", "help": "h" }]);
        assert_eq!(found.to_json(), expected);
    }
}
