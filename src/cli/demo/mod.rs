//! `doorward demo`: the whole gateway before a toy portal, in a temporary folder.

pub mod attack;
pub mod pki;
pub mod portal;
pub mod stage;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use super::output;
use pki::Error;
use stage::Stage;

/// Every name that the demo's server certificate covers.
pub const SERVER_NAMES: &[&str] = &["localhost", "partners.localhost", "*.tenants.localhost", "127.0.0.1"];

/// `doorward demo`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Play every attack over real sockets and print a table of what happened
    #[arg(long)]
    pub attack: bool,
}

/// Runs the demo; exit status 1 when an attack went otherwise than expected.
pub fn run(args: Args) -> ExitCode {
    let played = if args.attack { attack::play() } else { show().map(|()| true) };
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::message(&format!("the demo could not run: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The config of the demo: every control on, tight enough to be seen within a minute.
pub fn config(certs: &Path, state: &Path, portal: SocketAddr) -> String {
    let [certs, state] = [certs, state].map(|path| path.display().to_string().replace('\\', r"\\").replace('"', "\\\""));
    format!(
        r#"state_dir = "{state}"
workers = 2

[policy]
id = "demo-security-policy"
version = "2026-11-21"
contact = "security@portal.example.com"

[listen]
https = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
metrics = "127.0.0.1:0"

[deadlines]
handshake = "3s"
head = "3s"
body = "5s"
drain = "2s"

[log]
access = "{state}/access.log"
events = "{state}/events.log"

[tls]
[[tls.certificate]]
chain = "{certs}/portal.crt"
key = "{certs}/portal.key"

[client_ca.acme]
roots = ["{certs}/acme-ca.pem"]
crls = ["{certs}/acme-ca.crl"]
identity = "san-uri"
tenant = "acme"
kind = "service"
roles = ["integrator"]

[upstream.portal]
servers = ["http://{portal}"]
health = {{ path = "/healthz", every = "1s" }}

[login.form]
request = {{ method = "POST", path = "/login" }}
account = {{ form = "username" }}
secret = {{ form = "password" }}
failed = [{{ redirect = "/login?error=*" }}, {{ status = [401, 403] }}]
ok = [{{ redirect = "/home" }}]

[guesses]
per_client = {{ failures = 5, within = "10m" }}
per_account = {{ failures = 50, within = "1h" }}

[bans]
first = "15m"

[limit.per-client]
key = "client"
rate = "6000/min"
burst = 3000

[limit.reports]
key = "client"
rate = "30/min"
burst = 5

[approvals.signer.alice]
public_key = "{certs}/alice.pub"
party = "provider"

[approvals.require]
bot = ["provider"]

[[site]]
hosts = ["localhost"]
client_ca = ["acme"]
client_cert = "optional"

  [[site.route]]
  path = "/"
  upstream = "portal"
  login = "form"
  limits = ["per-client"]

  [[site.route]]
  path = "/public/"
  upstream = "portal"
  bots = "any"
  limits = ["per-client"]

  [[site.route]]
  path = "/reports/"
  upstream = "portal"
  bots = "any"
  limits = ["reports"]

  [[site.route]]
  path = "/api/"
  upstream = "portal"
  client_cert = "required"
  bots = "any"
  allow = ["role:integrator"]
  limits = ["per-client"]

[[site]]
hosts = ["partners.localhost"]
client_ca = ["acme"]
client_cert = "required"

  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
  limits = ["per-client"]
"#
    )
}

fn show() -> Result<(), Error> {
    let mut stage = Stage::open(SERVER_NAMES, config)?;
    output::data(&lines(&stage)?).map_err(|_| "the lines could not be printed")?;
    wait_for_interrupt()?;
    output::message("stopping");
    stage.close()
}

/// What runs where, and lines to paste, in the order of the story.
fn lines(stage: &Stage) -> Result<String, Error> {
    let cert = |name: &str| quoted(&stage.pki.folder.join(name));
    let (https, http) = (stage.https().port(), stage.http().port());
    let this = std::env::current_exe()?;
    let doorward = format!("{} --config {}", quoted(&this), quoted(&stage.config));
    let site = format!("https://localhost:{https}");
    let bare = format!("curl --cacert {}", cert("server-ca.pem"));
    let browser = format!("{bare} -A Mozilla/5.0");
    let metrics = stage.bound.metrics.map(|at| at.to_string()).unwrap_or_default();
    let mut text = String::new();
    let mut say = |line: &str| writeln!(text, "{line}").map_err(Error::from);
    say("Doorward stands before a toy portal. Everything lives in a temporary folder and goes with it.\n")?;
    say(&format!("  portal (behind)    http://{}", stage.portal.address))?;
    say(&format!("  gateway            {site}   sign in as alice / correct horse battery staple"))?;
    say(&format!("  plain port         http://localhost:{http}   never forwards"))?;
    say(&format!("  metrics, probes    http://{metrics}/metrics  /livez  /readyz"))?;
    say(&format!("  config, state      {}", stage.folder.path().display()))?;
    say("\nPaste these into another terminal, in this order.\n")?;
    say("# The front page, and the plain port, which forwards nothing (403 tls-required):")?;
    say(&format!("{browser} {site}/"))?;
    say(&format!("curl http://localhost:{http}/"))?;
    say("\n# The API without a client certificate (403), with a good one (200), with a revoked one (403):")?;
    say(&format!("{bare} {site}/api/orders"))?;
    for name in ["good", "revoked"] {
        let (chain, key) = (cert(&format!("{name}.crt")), cert(&format!("{name}.key")));
        say(&format!("{bare} --cert {chain} --key {key} {site}/api/orders"))?;
    }
    say("\n# Wrong passwords until the budget of 5 is spent; from another address, so that you are not banned yourself:")?;
    say(&format!(
        "for i in 1 2 3 4 5 6 7; do {browser} --interface 127.0.0.9 -s -o /dev/null -w '%{{http_code}}\\n' -d username=alice -d password=wrong$i {site}/login; done"
    ))?;
    say(&format!("{doorward} bans list"))?;
    say(&format!("{doorward} bans lift 127.0.0.9 --reason \"customer called\""))?;
    say("\n# A bot without an approval (403), then with one:")?;
    say(&format!("{bare} {site}/orders/17"))?;
    say(&format!(
        "ID=$({doorward} approvals request --kind bot --name acme-sync --owner 'Acme Ltd' --contact ops@acme.example --purpose 'nightly order import' --site localhost --method GET --path '/orders/**' --rate 60/min --until 2030-12-31)"
    ))?;
    say(&format!("{doorward} approvals sign \"$ID\" --signer alice --key {}", cert("alice.key")))?;
    say(&format!("TOKEN=$({doorward} approvals activate \"$ID\")"))?;
    say(&format!("{bare} -H \"Authorization: Doorward $TOKEN\" {site}/orders/17"))?;
    say(&format!("{bare} -H \"Authorization: Doorward $TOKEN\" {site}/home    # outside its scope"))?;
    say(&format!("{doorward} approvals revoke \"$ID\" --reason 'contract ended'"))?;
    say("\n# A limit of 5 and then one every two seconds:")?;
    say(&format!("for i in 1 2 3 4 5 6 7; do {bare} -s -o /dev/null -w '%{{http_code}}\\n' {site}/reports/1; done"))?;
    say(&format!("{doorward} limits explain --client 127.0.0.1 --host localhost --path /reports/1"))?;
    say(&format!("\n{doorward} status\n"))?;
    say("All attacks at once, played and judged: doorward demo --attack")?;
    say("Ctrl-C ends the demo.")?;
    Ok(text)
}

/// A path as one word of a shell's line.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:@%,".contains(letter);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn wait_for_interrupt() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = term.recv() => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_path_is_one_word_to_a_shell() {
        for path in ["/tmp/plain-1.2", "/tmp/two words", "/tmp/it's \"quoted\"", "/tmp/$HOME `id` \\ *", "/tmp/ä;b"] {
            let line = format!("printf %s {}", quoted(Path::new(path)));
            let told = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(told.stdout).unwrap(), path, "{line}");
        }
        assert_eq!(quoted(Path::new("/tmp/plain-1.2")), "/tmp/plain-1.2");
    }
}
