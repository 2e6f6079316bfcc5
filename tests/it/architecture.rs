//! Promise: the picture in `lib.rs` is true. Reads the sources and fails on a breach.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest floor first; a module imports only from floors below its own (and from itself).
const FLOORS: &[&[&str]] = &[
    &["clock", "net"],
    &["policy"],
    &["config"],
    &["events"],
    &["state", "tls", "upstream"],
    &["admin", "gateway"],
    &["server"],
    &["cli"],
];

/// Longest source file, in lines, tests included; beyond it a file wants to be two.
const LONGEST: usize = 650;

#[test]
fn a_module_imports_only_from_the_floors_below_it() {
    let mut breaches = Vec::new();
    for file in sources() {
        let Some(own) = room(&file) else { continue };
        let text = fs::read_to_string(&file).expect("a readable source file");
        for (number, line) in text.lines().enumerate() {
            for named in rooms_named(line) {
                if named != own && floor(&named) >= floor(&own) {
                    breaches.push(format!("{}:{}: {own} imports {named}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "breaches of the house:\n{}", breaches.join("\n"));
}

#[test]
fn every_room_has_a_floor_and_every_floor_its_rooms() {
    let lib = fs::read_to_string("src/lib.rs").expect("lib.rs");
    let declared: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let known: Vec<&str> = FLOORS.concat();
    assert_eq!(declared, known, "lib.rs declares its modules in floor order");
}

#[test]
fn unsafe_code_is_forbidden_and_nowhere_allowed() {
    let lib = fs::read_to_string("src/lib.rs").expect("lib.rs");
    assert!(lib.contains("#![forbid(unsafe_code)]"));
    for file in sources() {
        let text = fs::read_to_string(&file).expect("a readable source file");
        assert!(!text.contains("allow(unsafe"), "{}", file.display());
    }
}

/// Where no function waits, no guard is held while one does; what waits elsewhere never gets a guard, for the maps are private.
#[test]
fn trap_a_map_guard_held_across_an_await_the_maps_are_private_to_two_files_without_async_functions() {
    let mut naming = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).expect("a readable source file");
        if !text.contains("dashmap") {
            continue;
        }
        assert!(!text.contains("async fn") && !text.contains(".await"), "{} waits", file.display());
        let told = text.lines().find(|line| line.contains("pub") && (line.contains("DashMap") || line.contains("mapref")));
        assert_eq!(told, None, "{} hands its map out", file.display());
        naming.push(file.display().to_string());
    }
    naming.sort();
    assert_eq!(naming, ["src/state/approvals/mod.rs", "src/state/bans/mod.rs"]);
    let clippy = fs::read_to_string("clippy.toml").expect("clippy.toml");
    for guard in ["one::Ref", "one::RefMut", "multiple::RefMulti", "entry::Entry", "entry::OccupiedEntry", "entry::VacantEntry"] {
        assert!(clippy.contains(&format!("\"dashmap::mapref::{guard}\"")), "{guard}");
    }
}

#[test]
fn the_archived_pem_parser_is_named_in_one_file_only() {
    let naming: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|file| fs::read_to_string(file).expect("a readable source file").contains("rustls_pemfile"))
        .collect();
    assert_eq!(naming, [Path::new("src/tls/pem.rs")]);
}

#[test]
fn no_file_wants_to_be_two_and_none_has_leftover_marks() {
    for file in sources() {
        let text = fs::read_to_string(&file).expect("a readable source file");
        let lines = text.lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines", file.display());
        for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimple", "mented!(")] {
            assert!(!text.contains(mark), "{} has a left-over {mark}", file.display());
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found.sort();
    found
}

/// `src/policy/route.rs` -> `policy`; `src/lib.rs` and `src/main.rs` are the roof's own.
fn room(file: &Path) -> Option<String> {
    let inside = file.strip_prefix("src").ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "main").then(|| name.to_owned())
}

/// Every `crate::<room>` of a line, comments left out; a brace list after `crate::` is read too.
fn rooms_named(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("crate::")
        .flat_map(|(at, found)| {
            let rest = &code[at + found.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.split(['}', ';']).next().unwrap_or_default().split(',').map(first_word).collect::<Vec<_>>(),
                None => vec![first_word(rest)],
            }
        })
        .filter(|name| FLOORS.concat().contains(&name.as_str()))
        .collect()
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect()
}

fn floor(room: &str) -> usize {
    FLOORS.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| panic!("{room} stands on no floor"))
}
