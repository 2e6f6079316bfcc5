//! `demo --attack`: plays every attack over real sockets and judges what happened.

mod bots;
mod certificates;
mod framing;
mod guessing;
mod patience;
pub mod visitor;

use std::process::Command;
use std::time::Duration;

use super::pki::Error;
use super::stage::Stage;
use super::{SERVER_NAMES, config};
use crate::cli::output;

/// The whole play ends by then, whatever happens.
const CURTAIN: Duration = Duration::from_secs(40);
/// A thousand connections at both ends, with room.
const FILES: u64 = 8192;

/// One attack, what should have come of it, and what did.
pub struct Row {
    pub attack: &'static str,
    pub expected: String,
    pub seen: String,
}

/// The rows so far.
#[derive(Default)]
pub struct Table(Vec<Row>);

/// What the attacks are played on.
pub struct Scene<'a> {
    pub stage: &'a Stage,
    pub table: Table,
}

/// True when every attack went as expected.
pub fn play() -> Result<bool, Error> {
    rlimit::increase_nofile_limit(FILES)?;
    let stage = Stage::open(SERVER_NAMES, config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let played = runtime.block_on(async {
        let mut scene = Scene { stage: &stage, table: Table::default() };
        let acts = async {
            framing::play(&mut scene).await?;
            certificates::play(&mut scene).await?;
            bots::play(&mut scene).await?;
            guessing::play(&mut scene).await?;
            patience::play(&mut scene).await
        };
        let ended = tokio::time::timeout(CURTAIN, acts).await;
        (scene.table, ended)
    });
    runtime.shutdown_background();
    let (table, ended) = played;
    let held = table.print()?;
    match ended {
        Ok(Ok(())) => Ok(held),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("the play did not end within {} s", CURTAIN.as_secs()).into()),
    }
}

impl Scene<'_> {
    /// Judges one attack; what broke instead of answering is what was seen.
    pub fn judge(&mut self, attack: &'static str, expected: &str, seen: Result<String, Error>) {
        let seen = seen.unwrap_or_else(|error| format!("failed: {error}"));
        self.table.0.push(Row { attack, expected: expected.to_owned(), seen });
    }

    /// Runs this very binary against the gateway, as an operator would; its stdout, trimmed.
    pub async fn doorward(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--config").arg(&self.stage.config).args(arguments);
        let ran = tokio::task::spawn_blocking(move || command.output()).await??;
        if ran.status.success() {
            Ok(String::from_utf8(ran.stdout)?.trim().to_owned())
        } else {
            Err(format!("doorward {}: {}", arguments.join(" "), String::from_utf8_lossy(&ran.stderr).trim()).into())
        }
    }
}

impl Table {
    fn print(&self) -> Result<bool, Error> {
        let rows = self.0.iter().map(|row| {
            let verdict = if row.held() { "held" } else { "DIFFERS" };
            [row.attack.to_owned(), row.expected.clone(), row.seen.clone(), verdict.to_owned()]
        });
        let differ = self.0.iter().filter(|row| !row.held()).count();
        let table = output::table(["attack", "expected", "seen", "verdict"], rows);
        output::data(&format!("{table}\n{} attacks, {differ} differ from what was expected", self.0.len()))
            .map_err(|_| "the table could not be printed")?;
        Ok(differ == 0)
    }
}

impl Row {
    fn held(&self) -> bool {
        self.expected == self.seen
    }
}
