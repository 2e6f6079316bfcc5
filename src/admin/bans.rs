//! Bans at the operators' door: list, show, add, lift.

use http::StatusCode;

use super::api::{AddBan, BanView, LiftBan, Lifted};
use super::router::{Change, Handled, Refusal, json, said};
use super::{Admin, times};
use crate::config::Config;
use crate::events::Event;
use crate::policy::ban::BanKey;

/// Who made the bans that the config's `always` list makes.
const BY_CONFIG: &str = "config";
/// The widest nets that a command may ban: of each family, the most that one registry hands out at a time.
const SHORTEST_IPV4: u8 = 8;
const SHORTEST_IPV6: u8 = 16;

pub(super) fn list(admin: &Admin) -> Handled {
    let bans: Vec<BanView> = admin.bans.list(admin.clock.now()).into_iter().map(BanView::from).collect();
    json(&bans)
}

pub(super) fn show(admin: &Admin, key: &str) -> Handled {
    let key = parse_key(key, &admin.control.config())?;
    let bans: Vec<BanView> = admin.bans.show(&key, admin.clock.now()).into_iter().map(BanView::from).collect();
    json(&bans)
}

/// Fails closed: a ban that cannot be written still holds in memory, and the answer says that it holds only there.
pub(super) async fn add(admin: &Admin, change: Change) -> Handled {
    let asked: AddBan = change.parse()?;
    let config = admin.control.config();
    let key = parse_key(&asked.key, &config)?;
    refuse_unknown(admin, &key, &config)?;
    refuse_too_wide(&key)?;
    refuse_our_own(&key, &config)?;
    let now = admin.clock.now();
    let length = asked.length.as_deref().map(|text| times::ban_length(text, now.wall)).transpose().map_err(Refusal::bad)?;
    let added = admin.bans.add(key, length, said(asked.reason), change.by, now);
    let (ban, durable) = added.map_err(|why| Refusal::new(StatusCode::CONFLICT, why))?;
    let written = durable.await;
    admin.events.emit(Event::BanMade { ban: ban.clone(), durable: written.is_ok() });
    match written {
        Ok(()) => json(&BanView::from(ban)),
        Err(error) => {
            admin.events.emit(Event::StoreFailed { action: "add a ban", error: error.to_string() });
            let told = format!("the ban of {} holds in memory only, until the store takes it: {error}", ban.key);
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, told)
                .help("mend the store; the gateway keeps trying for as long as it runs"))
        }
    }
}

pub(super) async fn lift(admin: &Admin, change: Change) -> Handled {
    let asked: LiftBan = change.parse()?;
    let config = admin.control.config();
    let key = parse_key(&asked.key, &config)?;
    let Some((ban, durable)) = admin.bans.lift(&key, admin.clock.now()) else {
        return clear(admin, key, change.by, said(asked.reason));
    };
    let cleared = admin.guesses.clear(&key);
    let written = durable.await;
    admin.events.emit(Event::BanLifted { key, by: change.by, reason: said(asked.reason) });
    match written {
        Ok(()) => json(&Lifted { ban: Some(ban.into()), cleared }),
        Err(error) => {
            admin.events.emit(Event::StoreFailed { action: "lift a ban", error: error.to_string() });
            let told = format!("the ban of {} is lifted in memory only, until the store takes it: {error}", ban.key);
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, told)
                .help("mend the store; the gateway keeps trying for as long as it runs"))
        }
    }
}

/// A budget may be spent without a ban: an account's always is.
fn clear(admin: &Admin, key: BanKey, by: String, reason: String) -> Handled {
    if let Some(covering) = covered(admin, &key) {
        return Err(covering);
    }
    match admin.guesses.clear(&key) {
        0 => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no live ban of {key}, and no failure of it counts"))),
        cleared => {
            admin.events.emit(Event::GuessesCleared { key, failures: cleared, by, reason });
            json(&Lifted { ban: None, cleared })
        }
    }
}

fn parse_key(text: &str, config: &Config) -> Result<BanKey, Refusal> {
    BanKey::parse(text.trim(), config.ipv6_prefix)
        .map_err(|why| Refusal::bad(why).help("a key is ADDRESS, PREFIX, account:NAME, identity:SET:NAME or identity:APPROVAL"))
}

/// A ban of a set or of an approval that does not exist would hold nobody.
fn refuse_unknown(admin: &Admin, key: &BanKey, config: &Config) -> Result<(), Refusal> {
    match key {
        BanKey::Identity(key) => match key.split_once(':') {
            Some((set, _)) => super::approvals::known_set(set, config).map_err(Refusal::bad),
            None if admin.approvals.get(key).is_some() => Ok(()),
            None => Err(Refusal::bad(format!("there is no approval {key}")).help("`doorward approvals list` shows them")),
        },
        BanKey::Net(_) | BanKey::Account(_) => Ok(()),
    }
}

/// A slip in a prefix must not lock out a part of the world.
fn refuse_too_wide(key: &BanKey) -> Result<(), Refusal> {
    let BanKey::Net(net) = key else { return Ok(()) };
    let (family, shortest) = if net.addr().is_ipv4() { ("IPv4", SHORTEST_IPV4) } else { ("IPv6", SHORTEST_IPV6) };
    if net.prefix_len() >= shortest {
        return Ok(());
    }
    Err(Refusal::bad(format!("{key} is not banned: it is too wide, the shortest prefix of {family} is /{shortest}"))
        .help("ban several narrower prefixes, or set `bans.always`"))
}

/// Banning a trusted proxy or a PROXY source would lock out everybody behind it.
fn refuse_our_own(key: &BanKey, config: &Config) -> Result<(), Refusal> {
    let BanKey::Net(net) = key else { return Ok(()) };
    let lists =
        [("listen.trusted_proxies", &config.listen.trusted_proxies), ("listen.proxy_protocol", &config.listen.proxy_protocol)];
    for (name, nets) in lists {
        if let Some(own) = nets.iter().find(|own| own.contains(net) || net.contains(*own)) {
            let told = format!("{key} is not banned: `{name}` names {own}, and everybody behind it would be locked out");
            return Err(Refusal::new(StatusCode::CONFLICT, told).help("ban the client that stands behind it"));
        }
    }
    Ok(())
}

/// What holds a key without a ban of its own: the config's list, or a wider ban.
fn covered(admin: &Admin, key: &BanKey) -> Option<Refusal> {
    let covering = admin.bans.show(key, admin.clock.now());
    let ban = covering.first()?;
    if ban.by == BY_CONFIG {
        let told = format!("{key} is held by {} in `bans.always`", ban.key);
        return Some(Refusal::new(StatusCode::CONFLICT, told).help("take it off the list and reload"));
    }
    let told = format!("{key} has no ban of its own; it is held by that of {}", ban.key);
    Some(Refusal::new(StatusCode::CONFLICT, told).help(format!("lift {}", ban.key)))
}
