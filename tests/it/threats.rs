//! THREATS.md is true: every row names files that exist and tests that exist, or says that it is open.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of the traps that gateways of this kind have met; a row may be added, none may go.
const ROWS: usize = 55;

#[test]
fn every_row_names_files_and_tests_that_exist_or_says_that_it_is_open() {
    let page = fs::read_to_string("THREATS.md").expect("THREATS.md");
    let tests = tests();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| trap |") && !line.starts_with("|---"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() >= ROWS, "only {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let [trap, how, files, shown] = row[..] else {
            wrong.push(format!("not four columns: {}", row.join(" | ")));
            continue;
        };
        let open = how.to_lowercase().contains("**open");
        let named = quoted(files).filter(|name| name.ends_with(".rs") || name.ends_with(".toml"));
        for file in named {
            if !Path::new("src").join(file).exists() && !Path::new(file).exists() {
                wrong.push(format!("{trap}: there is no {file}"));
            }
        }
        let named: Vec<&str> = words(shown).filter(|word| word.matches('_').count() >= 2).collect();
        for test in &named {
            if !tests.contains(*test) {
                wrong.push(format!("{trap}: there is no test {test}"));
            }
        }
        let otherwise = shown.contains("demo") || shown.contains(".ci/run");
        if named.is_empty() && !otherwise && !open {
            wrong.push(format!("{trap}: shown by nothing, and not open"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn words(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

/// Every function of the sources and tests.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = ["src", "tests"].map(PathBuf::from).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).expect("a readable file");
                let names = text.split("fn ").skip(1).filter_map(|rest| words(rest).next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    found
}
