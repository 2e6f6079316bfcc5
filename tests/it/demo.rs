//! The first thing a newcomer runs: every line that the demo prints works as pasted, and every attack goes as foretold.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

/// Ends the demo when the test is over, however it is over.
struct Demo(std::process::Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_attack_goes_as_foretold() {
    let output = Command::new(env!("CARGO_BIN_EXE_doorward")).args(["demo", "--attack"]).output().expect("the binary runs");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!table.contains("DIFFERS"), "{table}");
    assert_eq!(output.status.code(), Some(0), "{table}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(table.lines().count() > 30, "{table}");
}

#[test]
fn every_line_that_the_demo_prints_works_as_pasted() {
    if !Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: curl is not installed, so the demo's lines were not pasted");
        return;
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut demo = Demo(child);
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("Ctrl-C")) {
        let mut line = String::new();
        assert!(stdout.read_line(&mut line).expect("readable") > 0, "the demo ended early:\n{}", lines.concat());
        lines.push(line);
    }
    // A newcomer pastes the block of commands into one shell; each line's output stands after a mark.
    let script: Vec<&str> = lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| {
            line.contains("curl ") || line.contains("ID=") || line.contains("doorward --config") || line.contains(" --config ")
        })
        .collect();
    assert!(script.len() > 10, "{lines:#?}");
    let marked: String =
        script.iter().enumerate().map(|(at, line)| format!("echo '@@{at}'\n{line}\necho \"@status=$?\"\n")).collect();
    let output = Command::new("sh").arg("-c").arg(&marked).output().expect("sh runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let sections: Vec<&str> = told.split("@@").skip(1).collect();
    assert_eq!(sections.len(), script.len(), "{told}\n{errors}");
    for (line, section) in script.iter().zip(&sections) {
        assert!(section.contains("@status=0"), "does not work as pasted:\n{line}\n{section}\n{errors}");
    }
    let section = |part: &str| -> &str {
        let at = script.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("no line with {part}"));
        sections[at]
    };
    let guesses = section("wrong$i");
    assert_eq!(guesses.matches("303").count(), 5, "five guesses, then no more: {guesses}");
    assert_eq!(guesses.matches("403").count() + guesses.matches("429").count(), 2, "{guesses}");
    assert!(section("bans list").contains("127.0.0.9"), "{}", section("bans list"));
    assert!(section("bans lift").contains("127.0.0.9"));
    let reports = section("/reports/1; done");
    assert!(reports.contains("200") && reports.contains("429"), "{reports}");
    assert!(told.contains("bot-approval-required"), "a bot without an approval is refused: {told}");
    assert!(told.contains("bot-scope"), "outside its scope: {told}");
    assert!(section(" status").contains("Generation"), "{told}");

    let ended = Command::new("kill").arg("-INT").arg(demo.0.id().to_string()).status().expect("kill(1) runs");
    assert!(ended.success());
    assert_eq!(demo.0.wait().expect("it ends").code(), Some(0), "Ctrl-C ends the demo");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("readable");
}
