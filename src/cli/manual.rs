//! `completions` and `man`, made from the command tree itself.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, EXIT_STATUS, Failure, Outcome, output};

pub(super) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "doorward", &mut script);
    output::data(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man() -> Outcome {
    let page = page().map_err(|error| Failure::Failed(error.to_string()))?;
    output::data(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::SUCCESS)
}

/// One page: the root's sections, every command with its options, exit statuses and files.
fn page() -> std::io::Result<Vec<u8>> {
    let mut root = Cli::command();
    root.build();
    let man = Man::new(root.clone()).section("8").manual("Doorward");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        describe(command, "doorward", &mut page)?;
    }
    writeln!(page, ".SH EXIT STATUS")?;
    for (status, meaning) in EXIT_STATUS {
        writeln!(page, ".TP\n.B {status}\n{}", roff(meaning))?;
    }
    writeln!(page, ".SH FILES\n.TP\n.I config/doorward.toml\nThe config, unless \\-\\-config names another.")?;
    writeln!(page, ".TP\n.I state/admin.sock\nThe admin socket: for the gateway's user, its group and root.")?;
    Ok(page)
}

/// A command, then those below it, then its examples.
fn describe(command: &clap::Command, above: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    let name = format!("{above} {}", command.get_name());
    writeln!(page, ".SS \"{}\"", roff(&name))?;
    let below: Vec<&clap::Command> = command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    if below.is_empty() {
        let usage = command.clone().render_usage().to_string();
        writeln!(page, "\\fB{}\\fR\n.PP", roff(usage.trim_start_matches("Usage: ")))?;
    }
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        writeln!(page, "{}", paragraphs(&about.to_string()))?;
    }
    let mut options = Vec::new();
    // Options of the root stand once, at the top.
    Man::new(without_globals(command)).render_options_section(&mut options)?;
    page.extend_from_slice(body(&options));
    for command in below {
        describe(command, &name, page)?;
    }
    if let Some(examples) = command.get_after_help() {
        writeln!(page, ".PP\n.nf\n{}\n.fi", roff(&examples.to_string()))?;
    }
    Ok(())
}

fn without_globals(command: &clap::Command) -> clap::Command {
    let own = command
        .get_arguments()
        .filter(|argument| !argument.is_global_set() && argument.get_id() != "help" && argument.get_id() != "version");
    clap::Command::new("").disable_help_flag(true).args(own.cloned())
}

/// A rendered section without its heading (and the preamble before it).
fn body(section: &[u8]) -> &[u8] {
    let heading = b".SH OPTIONS\n";
    let start = memchr::memmem::find(section, heading).map(|at| at + heading.len());
    start.and_then(|start| section.get(start..)).unwrap_or_default()
}

fn paragraphs(text: &str) -> String {
    roff(text).replace("\n\n", "\n.PP\n")
}

/// Text as roff takes it: backslashes and hyphens escaped, no line that begins like a request.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_command_and_exit_status() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        for command in
            ["run", "check", "bans add", "bans lift", "approvals sign", "limits explain", "config fmt", "completions", "demo"]
        {
            assert!(page.contains(&format!(".SS \"doorward {command}\"")), "{command}");
        }
        assert!(page.contains(".SH EXIT STATUS\n.TP\n.B 0\ndone"));
        for status in ["1", "2", "69", "78"] {
            assert!(page.contains(&format!(".B {status}\n")), "{status}");
        }
        assert_eq!(page.matches(".SH OPTIONS").count(), 1);
        assert_eq!(page.matches(".TH ").count(), 1);
    }

    #[test]
    fn text_cannot_become_a_request() {
        assert_eq!(roff(".so /etc/passwd\n'x"), "\\&.so /etc/passwd\n\\&'x");
    }

    #[test]
    fn every_shell_has_completions() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "doorward", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("approvals"), "{shell}");
        }
    }
}
