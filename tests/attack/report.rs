//! The table.

use std::fmt::Display;
use std::process::ExitCode;

#[derive(Default)]
pub struct Report {
    rows: usize,
    differences: usize,
}

impl Report {
    pub fn section(&mut self, name: &str) {
        println!("\n== {name}");
    }

    /// One line: `ok` says whether what was seen is what was expected.
    pub fn row(&mut self, case: &str, expected: &str, seen: impl Display, ok: bool) {
        self.rows += 1;
        self.differences += usize::from(!ok);
        println!("{} {case:<58} {expected:<44} {seen}", if ok { "  ok" } else { "DIFF" });
    }

    /// A row that another process made.
    pub fn line(&mut self, line: &str) {
        self.rows += 1;
        self.differences += usize::from(!line.starts_with("  ok "));
        println!("{line}");
    }

    pub fn end(self) -> ExitCode {
        println!("\n{} cases, {} differences", self.rows, self.differences);
        if self.differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
