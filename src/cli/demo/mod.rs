//! `doorward demo`.

use std::process::ExitCode;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Play every attack over real sockets and print a table of what happened
    #[arg(long)]
    pub attack: bool,
}

pub fn run(_args: Args) -> ExitCode {
    todo!("demo")
}
