//! `config`: schema, effective values, formatting. Needs no gateway.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;
use std::process::ExitCode;

use super::{Failure, Outcome, output};
use crate::config::{Diagnostics, fmt, schema, show};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the JSON Schema of the config file
    #[command(after_help = "Example:\n  doorward config schema > config/doorward.schema.json")]
    Schema,
    /// Print every effective value with its origin; secrets are hidden
    Show(output::Format),
    /// Format the file in place; comments are kept
    Fmt {
        /// Change nothing; exit with 1 where the file is not formatted
        #[arg(long)]
        check: bool,
    },
}

pub(super) fn execute(command: Command, path: &Path) -> Outcome {
    match command {
        Command::Schema => output::data(&schema::json())?,
        Command::Show(output::Format { json: true }) => output::json(&show::json(path).map_err(bad)?)?,
        Command::Show(_) => output::data(&show::text(path).map_err(bad)?)?,
        Command::Fmt { check } => return format(path, check),
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::needless_pass_by_value)]
fn bad(diagnostics: Diagnostics) -> Failure {
    Failure::Config(diagnostics.render(output::colour()))
}

fn format(path: &Path, check: bool) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| Failure::Config(failed(error)))?;
    let formatted = fmt::format(path, &text).map_err(Failure::Config)?;
    if formatted == text {
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        return Err(Failure::Failed(format!("{} is not formatted (doorward config fmt)", path.display())));
    }
    replace(path, &formatted).map_err(|error| Failure::Failed(failed(error)))?;
    output::message(&format!("{} formatted", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Writes beside the file and renames, so that a gateway that watches it never reads half; links, owner, group and mode are kept.
/// Fails closed: where they cannot be, the file stays as it was, since the gateway's user might not read the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let target = path.canonicalize()?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    let old = std::fs::metadata(&target)?;
    let new = file.as_file().metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(file.as_file(), Some(old.uid()), Some(old.gid())).map_err(|error| {
            let (owner, group) = (old.uid(), old.gid());
            let told = format!("not formatted: its owner {owner} and group {group} cannot be kept ({error}); run this as root");
            std::io::Error::new(error.kind(), told)
        })?;
    }
    // Last, since a change of the owner takes bits of the mode away.
    file.as_file().set_permissions(old.permissions())?;
    file.as_file().sync_all()?;
    file.persist(&target).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replacing_keeps_mode_and_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real.toml"), folder.path().join("link.toml"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_missing_file_is_78() {
        assert_eq!(format(Path::new("does/not/exist.toml"), true).unwrap_err().status(), 78);
    }
}
