//! One error or warning with its place; how a list of them is shown.

use std::ops::Range;
use std::sync::Arc;

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
    pub fn render(&self, _colour: bool) -> String {
        todo!("config")
    }

    /// For `--json`: severity, file, line, column, message, help.
    pub fn to_json(&self) -> serde_json::Value {
        todo!("config")
    }
}
