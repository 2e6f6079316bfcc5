//! The command line: one file a command family. Data goes to stdout, messages to stderr.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

mod approvals;
mod bans;
mod client;
mod config;
pub mod demo;
mod limits;
mod manual;
mod output;
mod run;
mod sign;
mod status;

/// Exit statuses, as the manual lists them.
const EXIT_STATUS: &[(u8, &str)] = &[
    (0, "done"),
    (1, "failed, also where the state cannot be used or an address cannot be opened; the message on stderr says why"),
    (2, "the command line is wrong"),
    (69, "no gateway answers on the admin socket"),
    (78, "the config is bad or what it names (certificates, keys, CRLs, logs), or could not be read"),
];

#[derive(Debug, Parser)]
#[command(name = "doorward", version, about = "The warden of the king's door: an authenticating reverse-proxy gateway")]
#[command(propagate_version = false, max_term_width = 110, arg_required_else_help = true, subcommand_required = true)]
#[command(
    after_help = "First time here: doorward demo\nExit status: 0 done, 1 failed, 2 usage, 69 no gateway answers, 78 bad config."
)]
struct Cli {
    /// The config file; relative paths in it start at the working directory
    #[arg(long, global = true, help_heading = "Global options", value_name = "FILE", default_value = "config/doorward.toml")]
    config: PathBuf,
    /// The running gateway's admin socket, in place of the config's `listen.admin`
    #[arg(long, global = true, help_heading = "Global options", value_name = "SOCKET")]
    admin: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what this does: a toy portal, the gateway before it, and lines to paste
    #[command(
        long_about = "Makes a throwaway CA and certificates, starts a toy portal with a login page and the gateway before it, \
        and prints addresses and lines to paste. With --attack it plays every attack by itself, prints a table of what happened and \
        exits with 1 if any row differs from what was expected."
    )]
    Demo(demo::Args),
    /// Run the gateway
    #[command(long_about = "Runs the gateway in the foreground. The ready line goes to stderr, READY=1 to systemd.\n\n\
        TERM, INT and QUIT drain: stderr says how many connections are open and until when they have, and at the end how many were \
        cut. A second one ends at once. HUP takes over the file, and so does saving it, or a file that it names; USR1 reopens the logs.")]
    Run,
    /// Check all that a start would check, binding and creating nothing
    #[command(
        long_about = "Checks all that a start would check: the file, certificates, keys, CRLs, the store and upstream names. \
        It binds and creates nothing, so it is fine beside a live gateway. It ends as a start would: with 78 where the config is bad or \
        what it names, with 1 where only the state cannot be used."
    )]
    Check(run::CheckArgs),
    /// Let the running gateway take over the file
    #[command(
        long_about = "The running gateway checks its file and takes it over, or says what is wrong with it and goes on with the \
        old one (exit status 78). Prints the live generation."
    )]
    Reload,
    /// Generation, uptime, sites, upstream health, certificates with days left, table sizes
    Status(output::Format),
    /// Who is banned, why and until when
    #[command(subcommand, after_help = bans::EXAMPLES)]
    Bans(bans::Command),
    /// The register of approvals for bots
    #[command(subcommand, after_help = approvals::EXAMPLES)]
    Approvals(approvals::Command),
    /// What callers have left, and which rule decides
    #[command(subcommand, after_help = limits::EXAMPLES)]
    Limits(limits::Command),
    /// The config's schema, effective values and formatting
    #[command(subcommand)]
    Config(config::Command),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  doorward completions bash > /etc/bash_completion.d/doorward")]
    Completions {
        /// The shell that will read them
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff)
    #[command(after_help = "Example:\n  doorward man | man -l -")]
    Man,
}

/// Why a command did not do what it was told; each kind has its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// 1
    Failed(String),
    /// 69
    Unreachable(String),
    /// 78
    Config(String),
}

/// How every command ends. `Ok` holds the exit status of commands that choose their own.
type Outcome = Result<ExitCode, Failure>;

/// Runs one command; the exit status is 0 done, 1 failed, 2 usage, 69 no gateway answers, 78 bad config.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that has gone is no failure.
            let _ = error.print();
            return ExitCode::from(usage(error.kind()));
        }
    };
    cli.execute().unwrap_or_else(Failure::report)
}

impl Cli {
    fn execute(self) -> Outcome {
        let gateway = client::Gateway { config: self.config, socket: self.admin };
        match self.command {
            Command::Demo(args) => Ok(demo::run(args)),
            Command::Run => run::run(&gateway.config),
            Command::Check(args) => run::check(&gateway.config, &args),
            Command::Reload => run::reload(&gateway),
            Command::Status(format) => status::status(&gateway, format),
            Command::Bans(command) => bans::execute(command, &gateway),
            Command::Approvals(command) => approvals::execute(command, &gateway),
            Command::Limits(command) => limits::execute(command, &gateway),
            Command::Config(command) => config::execute(command, &gateway.config),
            Command::Completions { shell } => manual::completions(shell),
            Command::Man => manual::man(),
        }
    }
}

impl Failure {
    fn report(self) -> ExitCode {
        let message = match &self {
            Self::Failed(message) | Self::Unreachable(message) | Self::Config(message) => message,
        };
        output::message(message);
        self.exit()
    }

    fn exit(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    const fn status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Unreachable(_) => 69,
            Self::Config(_) => 78,
        }
    }
}

/// Help and version were asked for, and end with 0; everything else is a command line that is wrong.
const fn usage(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ => 2,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod parsing {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_example_is_broken_into_lines_that_cannot_be_pasted() {
        fn look(command: &clap::Command) {
            for line in command.get_after_help().map(ToString::to_string).unwrap_or_default().lines() {
                let pasted = line.starts_with("  ");
                assert!(!pasted || line.len() < 80, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }

    #[test]
    fn the_config_flag_stands_before_or_after_the_command() {
        for line in ["doorward --config a.toml check", "doorward check --config a.toml", "doorward bans list --config a.toml"] {
            assert_eq!(parse(line).unwrap().config, PathBuf::from("a.toml"), "{line}");
        }
        assert_eq!(parse("doorward run").unwrap().config, PathBuf::from("config/doorward.toml"));
    }

    #[test]
    fn the_lines_that_scripts_hold_on_to_parse() {
        for line in [
            "doorward demo",
            "doorward demo --attack",
            "doorward run",
            "doorward check --json",
            "doorward reload",
            "doorward status --json",
            "doorward bans add 203.0.113.7 --for 2h --reason abuse",
            "doorward bans add account:alice",
            "doorward bans list --json",
            "doorward bans show 203.0.113.0/24 --json",
            "doorward bans lift 203.0.113.7 --reason called",
            "doorward approvals list",
            "doorward approvals show ID --json",
            "doorward approvals sign ID --signer alice --key alice.key",
            "doorward approvals activate ID",
            "doorward approvals renew ID --until 2028-06-30",
            "doorward approvals suspend ID --reason audit",
            "doorward approvals revoke ID --reason ended",
            "doorward limits show --json",
            "doorward limits explain --client 203.0.113.7 --path /orders/17 --identity acme:sync",
            "doorward config schema",
            "doorward config show --json",
            "doorward config fmt --check",
            "doorward completions zsh",
            "doorward man",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        for line in [
            "doorward",
            "doorward eat",
            "doorward bans add",
            "doorward bans add 203.0.113.7 --for soon",
            "doorward approvals sign ID --signer alice",
            "doorward approvals renew ID --until tomorrow",
            "doorward limits explain --client nobody --path /",
            "doorward check --jsno",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(usage(error.kind()), 2, "{line}");
        }
        assert_eq!(usage(parse("doorward --help").unwrap_err().kind()), 0);
        assert_eq!(usage(parse("doorward --version").unwrap_err().kind()), 0);
    }

    #[test]
    fn failures_have_the_exit_statuses_of_the_manual() {
        for (failure, status) in
            [(Failure::Failed(String::new()), 1), (Failure::Unreachable(String::new()), 69), (Failure::Config(String::new()), 78)]
        {
            assert_eq!(failure.status(), status);
            assert!(EXIT_STATUS.iter().any(|(listed, _)| *listed == status));
        }
    }
}
