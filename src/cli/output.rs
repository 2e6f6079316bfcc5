//! How commands speak: data on stdout, messages on stderr, tables for people, JSON for scripts.

use std::io::{ErrorKind, IsTerminal, Write};

use anstream::ColorChoice;
use comfy_table::Table;
use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use jiff::Timestamp;
use serde::Serialize;

use super::Failure;
use crate::admin::times;
use crate::clock::Clock;

/// On every command that reads.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct Format {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints data; ends lines where the text does not. A reader that has gone (`| head`) is no failure.
pub(super) fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(end.as_bytes())).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Failed(format!("stdout: {error}"))),
        _ => Ok(()),
    }
}

/// Prints a value as JSON, indented.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    data(&serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?)
}

/// Prints a message to stderr; where nobody reads it, nothing is lost.
pub(super) fn message(text: &str) {
    let mut stderr = anstream::stderr().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(stderr, "{text}{end}");
}

/// Whether diagnostics on stderr may be coloured (NO_COLOR, CLICOLOR_FORCE, terminal).
pub(super) fn colour() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}

/// A table: ruled on a terminal, plain columns into a pipe.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    render(header.map(str::to_owned), rows, std::io::stdout().is_terminal())
}

/// Plain columns, as part of something larger.
pub(super) fn columns(header: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    render(header, rows, false)
}

fn render<R: IntoIterator<Item = String>>(header: R, rows: impl IntoIterator<Item = R>, ruled: bool) -> String {
    let mut table = Table::new();
    table.load_style(if ruled { UTF8_HORIZONTAL_ONLY } else { NOTHING });
    table.set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    let lines: Vec<String> = table.lines().map(|line| if ruled { line } else { line.trim().to_owned() }).collect();
    lines.join("\n")
}

/// `2026-11-21T10:00:00Z (in 2h)`
pub(super) fn moment(at: Timestamp) -> String {
    format!("{} ({})", times::stamp(at), times::relative(at, Clock::system().now().wall))
}

/// The same, where there may be no end.
pub(super) fn end(until: Option<Timestamp>) -> String {
    until.map_or("until lifted".to_owned(), moment)
}

/// Text from elsewhere, with nothing in it that steers a terminal or turns the reading direction: what a signer reads is
/// what he signs.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || is_invisible(letter) { shown.extend(letter.escape_unicode()) } else { shown.push(letter) }
    }
    shown
}

/// Bidirectional controls and characters without width.
const fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tables_have_columns_and_no_rules() {
        let rows = [["203.0.113.7".to_owned(), "abuse".to_owned()], ["account:alice".to_owned(), "too many".to_owned()]];
        let text = render(["KEY", "REASON"].map(str::to_owned), rows, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["KEY", "REASON"]);
        assert!(lines[2].starts_with("account:alice") && lines[2].ends_with("too many"), "{text}");
        assert_eq!(lines[0].find("REASON"), lines[1].find("abuse"), "{text}");
    }

    #[test]
    fn ruled_tables_hold_the_same_cells() {
        let text = render(["KEY".to_owned()], [["192.0.2.1".to_owned()]], true);
        assert!(text.contains("192.0.2.1") && text.contains('─'), "{text}");
    }

    #[test]
    fn terminal_controls_and_bidi_tricks_are_shown_not_obeyed() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("abc\u{202e}fed"), "abc\\u{202e}fed");
        assert_eq!(printable("Jürgen Größe"), "Jürgen Größe");
        assert_eq!(printable("a\nb"), "a\\u{a}b");
    }
}
