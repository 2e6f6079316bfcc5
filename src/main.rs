//! The process: runs one command and ends with its exit status.

fn main() -> std::process::ExitCode {
    doorward::cli::main()
}
