//! The command line: one file a command family.

/// Runs one command; the exit status is 0 done, 1 failed, 2 usage, 69 no gateway answers, 78 bad config.
pub fn main() -> std::process::ExitCode {
    todo!("cli")
}
