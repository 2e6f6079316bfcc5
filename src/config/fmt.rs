//! `config fmt`: formatting with comments kept.

use std::path::Path;

/// The formatted text; `Err` is a rendered syntax error.
pub fn format(path: &Path, text: &str) -> Result<String, String> {
    let document: toml_edit::DocumentMut = text.parse().map_err(|_| super::syntax_errors(path, text))?;
    Ok(document.to_string())
}
