//! `approvals`: the register of approvals for bots.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgGroup;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::client::{Gateway, segment};
use super::{Failure, Outcome, output, sign};
use crate::admin::api::{Activated, EndApproval, RenewApproval, RequestApproval};
use crate::admin::times;
use crate::policy::approval::{Approval, ApprovalKind, ApprovalStatus, Binding, Party};

pub(super) const EXAMPLES: &str = "Examples:
  ID=$(doorward approvals request --kind bot --name acme-sync \\
      --owner \"Acme Ltd\" --contact ops@acme.example \\
      --purpose \"nightly order import\" --site portal.example.com \\
      --method GET --path \"/orders/**\" --rate 60/min \\
      --hours \"22:00-05:00 Europe/Berlin\" --until 2027-06-30)
  doorward approvals sign $ID --signer alice --key alice.key
  doorward approvals activate $ID > acme-sync.token
  doorward approvals revoke $ID --reason \"contract ended\"";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Register a request; prints its id and nothing else
    Request(Box<RequestArgs>),
    /// Everything in the register
    List(output::Format),
    /// One record, with its signatures and history
    Show {
        /// The approval's id
        id: String,
        #[command(flatten)]
        format: output::Format,
    },
    /// Sign a record with a key that stays here
    #[command(
        long_about = "Fetches the record, shows it, makes the bytes to be signed from what was shown, signs them in this command \
        and sends only the signature: the private key never leaves this machine."
    )]
    Sign {
        /// The approval's id
        id: String,
        /// The signer's name in the config (`approvals.signer.NAME`)
        #[arg(long, value_name = "NAME")]
        signer: String,
        /// The Ed25519 private key: PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` makes it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Make it active; prints the token and nothing else, once; the token given before is void
    Activate {
        /// The approval's id
        id: String,
    },
    /// Request the same terms with a new end, to be signed anew; prints the id
    Renew {
        /// The approval's id
        id: String,
        /// The new end: a date (that day included) or an RFC 3339 time
        #[arg(long, value_name = "DATE", value_parser = times::check)]
        until: String,
    },
    /// Stop it for now; activate brings it back
    Suspend(EndArgs),
    /// End it for good, from the next request on
    Revoke(EndArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct EndArgs {
    /// The approval's id
    id: String,
    /// Why; it stands in the record and in the events
    #[arg(long, value_parser = reason)]
    reason: String,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("binding").args(["cert_sha256", "identity"])))]
pub(super) struct RequestArgs {
    /// What is to be approved
    #[arg(long, value_parser = kind, default_value = "bot")]
    kind: ApprovalKind,
    /// A short name
    #[arg(long)]
    name: String,
    /// Who answers for it
    #[arg(long)]
    owner: String,
    /// How to reach them
    #[arg(long)]
    contact: String,
    /// What it is for
    #[arg(long)]
    purpose: String,
    /// A host it may use; may be repeated
    #[arg(long = "site", value_name = "HOST", required = true)]
    sites: Vec<String>,
    /// A method it may use; may be repeated
    #[arg(long = "method", value_name = "METHOD", required = true)]
    methods: Vec<String>,
    /// A path it may use: * is one segment, ** the rest; may be repeated
    #[arg(long = "path", value_name = "TEMPLATE", required = true)]
    paths: Vec<String>,
    /// How often at most, as 60/min
    #[arg(long)]
    rate: Option<String>,
    /// When, as "22:00-05:00 Europe/Berlin"; UTC without a zone
    #[arg(long)]
    hours: Option<String>,
    /// From when on: a date or an RFC 3339 time
    #[arg(long, value_name = "DATE", value_parser = times::check)]
    not_before: Option<String>,
    /// Until when: a date (that day included, in UTC and in the zone of the hours) or an RFC 3339 time
    #[arg(long, value_name = "DATE", value_parser = times::check)]
    until: String,
    /// A source net; may be repeated; from anywhere without it
    #[arg(long = "from", value_name = "NET", value_parser = net)]
    from: Vec<IpNet>,
    /// The SHA-256 of the client certificate it is bound to (hex of its DER)
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    cert_sha256: Option<String>,
    /// The identity it is bound to: SET:NAME, or a bare name of any set
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
}

pub(super) fn execute(command: Command, gateway: &Gateway) -> Outcome {
    match command {
        Command::Request(args) => {
            let approval: Approval = gateway.post("/approvals", &args.wanted())?;
            output::data(&approval.id)?;
        }
        Command::List(format) => list(&gateway.get::<Vec<Approval>>("/approvals")?, format)?,
        Command::Show { id, format } => {
            let approval: Approval = gateway.get(&format!("/approvals/{}", segment(&id)))?;
            if format.json { output::json(&told(&approval)?)? } else { output::data(&record(&approval))? }
        }
        Command::Sign { id, signer, key } => sign::sign(gateway, &id, &signer, &key)?,
        Command::Activate { id } => {
            let activated: Activated = gateway.post(&format!("/approvals/{}/activate", segment(&id)), &json!({}))?;
            if activated.replaced {
                output::message(&format!("{}: the token given before is void", output::printable(&activated.id)));
            }
            output::data(&activated.token)?;
        }
        Command::Renew { id, until } => {
            let renewed: Approval = gateway.post(&format!("/approvals/{}/renew", segment(&id)), &RenewApproval { until })?;
            output::data(&renewed.id)?;
        }
        Command::Suspend(args) => end(gateway, args, "suspend", "suspended")?,
        Command::Revoke(args) => end(gateway, args, "revoke", "revoked")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn end(gateway: &Gateway, args: EndArgs, verb: &str, done: &str) -> Result<(), Failure> {
    let path = format!("/approvals/{}/{verb}", segment(&args.id));
    let approval: Approval = gateway.post(&path, &EndApproval { reason: Some(args.reason) })?;
    output::data(&format!("{done} {}", approval.id))
}

impl RequestArgs {
    fn wanted(self) -> RequestApproval {
        let binding = self.cert_sha256.map(Binding::CertSha256).or(self.identity.map(Binding::Identity));
        RequestApproval {
            kind: self.kind,
            name: self.name,
            owner: self.owner,
            contact: self.contact,
            purpose: self.purpose,
            sites: self.sites,
            methods: self.methods,
            paths: self.paths,
            rate: self.rate,
            hours: self.hours,
            not_before: self.not_before,
            until: self.until,
            from: self.from,
            binding,
        }
    }
}

fn list(approvals: &[Approval], format: output::Format) -> Result<(), Failure> {
    if format.json {
        return output::json(&approvals.iter().map(told).collect::<Result<Vec<_>, _>>()?);
    }
    if approvals.is_empty() {
        output::message("the register is empty");
        return Ok(());
    }
    let row = |approval: &Approval| {
        let terms = &approval.terms;
        let status = status(approval.status).to_owned();
        [approval.id.clone(), status, terms.name.clone(), terms.owner.clone(), output::moment(terms.until)]
    };
    output::data(&output::table(["ID", "STATUS", "NAME", "OWNER", "UNTIL"], approvals.iter().map(row)))
}

/// A record as scripts read it: as the gateway keeps it, but the rate as the config and `limits` write it, its burst beside it.
fn told(approval: &Approval) -> Result<Value, Failure> {
    let mut told = serde_json::to_value(approval).map_err(|error| Failure::Failed(error.to_string()))?;
    if let Some(terms) = told.get_mut("terms").and_then(Value::as_object_mut) {
        let rate = approval.terms.rate;
        terms.insert("rate".to_owned(), json!(rate.map(|quota| quota.to_string())));
        terms.insert("burst".to_owned(), json!(rate.map(|quota| quota.burst)));
    }
    Ok(told)
}

/// Every field that is signed, then where the record stands; each value made printable.
pub(super) fn record(approval: &Approval) -> String {
    let terms = &approval.terms;
    let or_none = |list: &[String], none: &str| if list.is_empty() { none.to_owned() } else { list.join(", ") };
    let nets: Vec<String> = terms.from.iter().map(ToString::to_string).collect();
    let rate = terms.rate.map_or("none".to_owned(), |quota| format!("{quota}, burst {}", quota.burst));
    let binding = match &terms.binding {
        None => "none: whoever holds the token".to_owned(),
        Some(Binding::CertSha256(hash)) => format!("client certificate {hash}"),
        Some(Binding::Identity(name)) => format!("identity {name}"),
    };
    let fields = [
        ("id", approval.id.clone()),
        (
            "kind",
            match terms.kind {
                ApprovalKind::Bot => "bot".to_owned(),
            },
        ),
        ("name", terms.name.clone()),
        ("owner", terms.owner.clone()),
        ("contact", terms.contact.clone()),
        ("purpose", terms.purpose.clone()),
        ("sites", or_none(&terms.sites, "none")),
        ("methods", or_none(&terms.methods, "none")),
        ("paths", or_none(&terms.paths, "none")),
        ("rate", rate),
        ("hours", terms.hours.clone().unwrap_or("any".to_owned())),
        ("not before", terms.not_before.map_or("at once".to_owned(), output::moment)),
        ("until", output::moment(terms.until)),
        ("from", or_none(&nets, "anywhere")),
        ("bound to", binding),
        ("policy", format!("{} {}", terms.policy_id, terms.policy_version)),
        ("requested", times::stamp(terms.requested_at)),
        ("status", status(approval.status).to_owned()),
    ];
    let mut text: String = fields.iter().map(|(name, value)| format!("{name:11} {}\n", output::printable(value))).collect();
    for signature in &approval.signatures {
        let by = format!("{} ({}) at {}", signature.signer, party(signature.party), times::stamp(signature.at));
        text.push_str(&format!("{:11} {}\n", "signed", output::printable(&by)));
    }
    for change in &approval.history {
        let reason =
            change.reason.as_deref().filter(|reason| !reason.is_empty()).map(|reason| format!(": {reason}")).unwrap_or_default();
        let told = format!("{} {} by {}{reason}", times::stamp(change.at), change.action, change.by);
        text.push_str(&format!("{:11} {}\n", "history", output::printable(&told)));
    }
    text
}

const fn status(status: ApprovalStatus) -> &'static str {
    match status {
        ApprovalStatus::Requested => "requested",
        ApprovalStatus::Active => "active",
        ApprovalStatus::Suspended => "suspended",
        ApprovalStatus::Revoked => "revoked",
    }
}

const fn party(party: Party) -> &'static str {
    match party {
        Party::Provider => "provider",
        Party::Customer => "customer",
    }
}

fn kind(text: &str) -> Result<ApprovalKind, String> {
    if text == "bot" { Ok(ApprovalKind::Bot) } else { Err("the only kind is bot".to_owned()) }
}

fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("say why, for whoever reads the record".to_owned()) } else { Ok(text.to_owned()) }
}

/// A net, or one address.
fn net(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).map_err(|_| "write it as 10.0.0.0/8 or 2001:db8::/32".to_owned())
}

/// 64 hex digits, colons as openssl prints them allowed.
fn sha256(text: &str) -> Result<String, String> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    let good = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if good { Ok(digits) } else { Err("a SHA-256 has 64 hex digits".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Harness {
        #[command(subcommand)]
        command: Command,
    }

    fn request(extra: &[&str]) -> Result<RequestApproval, clap::Error> {
        let line = ["approvals", "request", "--name", "acme-sync", "--owner", "Acme Ltd", "--contact", "ops@acme.example"];
        let more =
            ["--purpose", "nightly order import", "--site", "portal.example.com", "--method", "GET", "--path", "/orders/**"];
        let words = line.iter().chain(&more).chain(&["--until", "2027-06-30"]).chain(extra);
        match Harness::try_parse_from(words)?.command {
            Command::Request(args) => Ok(args.wanted()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_carries_what_was_written() {
        let digest = "AB:".repeat(31) + "CD";
        let wanted =
            request(&["--method", "HEAD", "--from", "192.0.2.1", "--from", "10.0.0.0/8", "--cert-sha256", &digest]).unwrap();
        assert_eq!(wanted.methods, ["GET", "HEAD"]);
        assert_eq!(wanted.from, ["192.0.2.1/32".parse().unwrap(), "10.0.0.0/8".parse::<IpNet>().unwrap()]);
        assert_eq!(wanted.binding, Some(Binding::CertSha256("ab".repeat(31) + "cd")));
        assert_eq!(wanted.until, "2027-06-30");
    }

    #[test]
    fn one_binding_at_most_and_every_value_checked() {
        assert!(request(&["--identity", "acme:sync"]).is_ok());
        for wrong in [
            &["--identity", "a", "--cert-sha256", &"ab".repeat(32)][..],
            &["--cert-sha256", "abcd"],
            &["--from", "everywhere"],
            &["--kind", "human"],
            &["--not-before", "soon"],
        ] {
            assert!(request(wrong).is_err(), "{wrong:?}");
        }
    }
}
