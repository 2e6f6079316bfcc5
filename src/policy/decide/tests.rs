use proptest::prelude::*;

use super::*;
use crate::net::Nets;
use crate::policy::approval::{Approval, ApprovalKind, ApprovalRules, ApprovalStatus, Terms};
use crate::policy::ban::{BanRules, GuessBudget, GuessBudgets};
use crate::policy::route::Sites;
use crate::policy::{Name, PolicyDocument, RouteId, SiteId, UpstreamId};

const NOW: &str = "2026-12-01T12:00:00Z";

fn now() -> Now {
    Now { instant: Duration::ZERO, wall: NOW.parse().unwrap() }
}

fn policy(answer: BanAnswer) -> Policy {
    let budget = GuessBudget { failures: 5, within: Duration::from_secs(600) };
    Policy {
        document: PolicyDocument { id: "p".into(), version: "1".into(), contact: None },
        sites: Sites::default(),
        limits: Vec::new(),
        guesses: GuessBudgets { per_client: budget, per_account: budget },
        bans: BanRules {
            first: Duration::from_secs(900),
            factor: 4,
            max: Duration::from_secs(604_800),
            forget: Duration::from_secs(2_592_000),
            never: Nets::default(),
            always: Nets::default(),
            answer,
        },
        approvals: ApprovalRules::default(),
    }
}

fn route() -> Route {
    Route {
        id: RouteId(0),
        site: SiteId(0),
        label: "portal.example.com/".into(),
        path: String::new(),
        exact: false,
        upstream: UpstreamId(0),
        login: None,
        bots: BotRule::Approved,
        client_cert: CertDemand::Optional,
        allow: None,
        limits: Vec::new(),
        body: 0,
    }
}

fn facts() -> Facts {
    Facts {
        cert: CertFact::Absent,
        bot: BotClass::Unmarked,
        approval: ApprovalFact::Absent,
        address_ban: None,
        identity_ban: None,
    }
}

fn identity() -> Arc<Identity> {
    Arc::new(Identity {
        set: "acme".into(),
        name: "sync".into(),
        key: "acme:sync".into(),
        kind: AccountKind::Service,
        tenant: Some("acme".into()),
        roles: vec!["integrator".into()],
        cert_sha256: [1; 32],
        path: [].into(),
    })
}

fn held() -> CertFact {
    CertFact::Held(identity())
}

fn approved() -> ApprovalFact {
    let terms = Terms {
        kind: ApprovalKind::Bot,
        name: "sync".into(),
        owner: "Acme".into(),
        contact: "ops".into(),
        purpose: "import".into(),
        sites: vec!["portal.example.com".into()],
        methods: vec!["GET".into()],
        paths: vec!["/**".into()],
        rate: None,
        hours: None,
        not_before: None,
        until: Timestamp::MAX,
        from: Vec::new(),
        binding: None,
        policy_id: "p".into(),
        policy_version: "1".into(),
        requested_at: Timestamp::UNIX_EPOCH,
    };
    let record = Approval {
        id: "ap-1".into(),
        terms,
        status: ApprovalStatus::Active,
        signatures: Vec::new(),
        serial: 1,
        history: Vec::new(),
    };
    ApprovalFact::Held(Arc::new(LiveApproval::compile(Arc::new(record)).unwrap()))
}

fn ban(seconds: i64) -> Option<BanFact> {
    Some(BanFact { until: now().wall + jiff::SignedDuration::from_secs(seconds), always: false })
}

fn reason(route: &Route, facts: &Facts) -> Option<Reason> {
    policy(BanAnswer::Explain).decide(route, facts, now()).err().map(|denial| denial.reason)
}

#[test]
fn the_table() {
    let always = Some(BanFact { until: Timestamp::MAX, always: true });
    let required = || Route { client_cert: CertDemand::Required, ..route() };
    let bots = |bots| Route { bots, ..route() };
    let allow = |allow: &[Allow]| Route { allow: Some(allow.to_vec()), ..route() };
    let bot = || Facts { bot: BotClass::Crawler, ..facts() };
    let with_cert = || Facts { cert: held(), ..facts() };
    let with_token = || Facts { approval: approved(), ..facts() };
    let refused_token = |fault| Facts { approval: ApprovalFact::Refused(fault), ..facts() };
    let refused_cert = |cause| Facts { cert: CertFact::Refused(cause), ..facts() };
    let name = |text: &str| -> Name { text.into() };

    for (what, route, facts, expected) in [
        ("a plain request", route(), facts(), None),
        ("a banned address", route(), Facts { address_ban: ban(60), ..facts() }, Some(Reason::Banned)),
        ("a banned address, a certificate that holds", route(), Facts { address_ban: ban(60), ..with_cert() }, None),
        ("a banned address, an approval that holds", route(), Facts { address_ban: ban(60), ..with_token() }, None),
        (
            "a banned address, a certificate that does not hold",
            route(),
            Facts { address_ban: ban(60), ..refused_cert(CertCause::Expired) },
            Some(Reason::Banned),
        ),
        (
            "a banned address, a token that is not ours",
            route(),
            Facts { address_ban: ban(60), ..refused_token(ApprovalFault::NotOurs) },
            Some(Reason::Banned),
        ),
        (
            "the block list, all proof",
            route(),
            Facts { address_ban: always.clone(), approval: approved(), ..with_cert() },
            Some(Reason::Banned),
        ),
        ("a banned identity", route(), Facts { identity_ban: ban(60), ..with_cert() }, Some(Reason::Banned)),
        (
            "a banned identity, an approval",
            route(),
            Facts { identity_ban: ban(60), approval: approved(), ..with_cert() },
            Some(Reason::Banned),
        ),
        ("no certificate where one is required", required(), facts(), Some(Reason::ClientCertRequired)),
        ("an approval where a certificate is required", required(), with_token(), Some(Reason::ClientCertRequired)),
        ("a certificate where one is required", required(), with_cert(), None),
        ("a revoked one where one is required", required(), refused_cert(CertCause::Revoked), Some(Reason::Revoked)),
        ("an expired one where one is required", required(), refused_cert(CertCause::Expired), Some(Reason::ClientCertRefused)),
        (
            "an unknown status where one is required",
            required(),
            refused_cert(CertCause::StatusUnknown),
            Some(Reason::ClientCertRefused),
        ),
        ("an expired one where none is needed", route(), refused_cert(CertCause::Expired), None),
        (
            "an expired token where bots may pass",
            bots(BotRule::Any),
            refused_token(ApprovalFault::Expired),
            Some(Reason::ApprovalRevoked),
        ),
        ("a token out of scope", route(), refused_token(ApprovalFault::Scope), Some(Reason::BotScope)),
        ("a token of another key", route(), refused_token(ApprovalFault::Binding), Some(Reason::ApprovalBinding)),
        ("a bot without approval", route(), bot(), Some(Reason::BotApprovalRequired)),
        (
            "a library without approval",
            route(),
            Facts { bot: BotClass::HttpLibrary, ..facts() },
            Some(Reason::BotApprovalRequired),
        ),
        (
            "no user agent, no approval",
            route(),
            Facts { bot: BotClass::NoUserAgent, ..facts() },
            Some(Reason::BotApprovalRequired),
        ),
        ("a bot with a certificate", route(), Facts { cert: held(), ..bot() }, Some(Reason::BotApprovalRequired)),
        ("a bot with an approval", route(), Facts { approval: approved(), ..bot() }, None),
        ("a bot where bots may pass", bots(BotRule::Any), bot(), None),
        ("a bot where none may pass", bots(BotRule::None), bot(), Some(Reason::NotPermitted)),
        (
            "an approved bot where none may pass",
            bots(BotRule::None),
            Facts { approval: approved(), ..bot() },
            Some(Reason::NotPermitted),
        ),
        ("an approval without a bot's name where none may pass", bots(BotRule::None), with_token(), Some(Reason::NotPermitted)),
        ("a person where no bot may pass", bots(BotRule::None), facts(), None),
        ("nobody, where some are allowed", allow(&[Allow::Kind(AccountKind::Service)]), facts(), Some(Reason::NotPermitted)),
        ("the kind allowed", allow(&[Allow::Kind(AccountKind::Service)]), with_cert(), None),
        ("another kind", allow(&[Allow::Kind(AccountKind::Human)]), with_cert(), Some(Reason::NotPermitted)),
        ("the role allowed", allow(&[Allow::Kind(AccountKind::Human), Allow::Role(name("integrator"))]), with_cert(), None),
        ("another role", allow(&[Allow::Role(name("admin"))]), with_cert(), Some(Reason::NotPermitted)),
        ("the tenant allowed", allow(&[Allow::Tenant(name("acme"))]), with_cert(), None),
        ("another tenant", allow(&[Allow::Tenant(name("globex"))]), with_cert(), Some(Reason::NotPermitted)),
        ("the identity allowed", allow(&[Allow::Identity(name("acme:sync"))]), with_cert(), None),
        ("its name in another set", allow(&[Allow::Identity(name("globex:sync"))]), with_cert(), Some(Reason::NotPermitted)),
        ("an empty list", allow(&[]), with_cert(), Some(Reason::NotPermitted)),
        ("an approved bot where bots are allowed", allow(&[Allow::Kind(AccountKind::Bot)]), with_token(), None),
        (
            "an approved bot where services are allowed",
            allow(&[Allow::Kind(AccountKind::Service)]),
            with_token(),
            Some(Reason::NotPermitted),
        ),
    ] {
        assert_eq!(reason(&route, &facts), expected, "{what}");
    }
}

#[test]
fn under_drop_no_proof_passes_an_address_ban() {
    let facts = Facts { cert: held(), address_ban: ban(60), ..facts() };
    assert!(policy(BanAnswer::Drop).decide(&route(), &facts, now()).is_err());
}

#[test]
fn a_ban_says_how_long_it_lasts_and_a_block_list_does_not() {
    let wait =
        |ban| policy(BanAnswer::Explain).decide(&route(), &Facts { address_ban: ban, ..facts() }, now()).unwrap_err().retry_after;
    assert_eq!(wait(ban(90)), Some(Duration::from_secs(90)));
    assert_eq!(wait(ban(0)), Some(Duration::from_secs(1)));
    assert_eq!(wait(ban(-5)), Some(Duration::from_secs(1)));
    assert_eq!(wait(Some(BanFact { until: Timestamp::MAX, always: false })), None);
    assert_eq!(wait(Some(BanFact { until: Timestamp::MAX, always: true })), None);
}

#[test]
fn the_cause_of_a_refused_certificate_stays_private_and_exact() {
    let facts = Facts { cert: CertFact::Refused(CertCause::CrlExpired), ..facts() };
    let route = Route { client_cert: CertDemand::Required, ..route() };
    let denial = policy(BanAnswer::Explain).decide(&route, &facts, now()).unwrap_err();
    assert_eq!(denial.cause, "crl-expired");
}

#[test]
fn a_permit_carries_who_was_proven() {
    let facts = Facts { cert: held(), approval: approved(), ..facts() };
    let permit = policy(BanAnswer::Explain).decide(&route(), &facts, now()).unwrap();
    assert_eq!(permit.identity().map(|identity| &*identity.key), Some("acme:sync"));
    assert_eq!(permit.approval().map(|approval| &*approval.id), Some("ap-1"));
}

fn any_route() -> impl Strategy<Value = Route> {
    let allow = prop::option::of(prop::sample::subsequence(
        vec![
            Allow::Identity("acme:sync".into()),
            Allow::Identity("sync".into()),
            Allow::Kind(AccountKind::Service),
            Allow::Kind(AccountKind::Human),
            Allow::Kind(AccountKind::Bot),
            Allow::Role("integrator".into()),
            Allow::Tenant("globex".into()),
        ],
        0..=3,
    ));
    let bots = prop::sample::select(vec![BotRule::Approved, BotRule::Any, BotRule::None]);
    let demand = prop::sample::select(vec![CertDemand::None, CertDemand::Optional, CertDemand::Required]);
    (allow, bots, demand).prop_map(|(allow, bots, client_cert)| Route { allow, bots, client_cert, ..route() })
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let cert = prop::sample::select(vec![
        CertFact::Absent,
        held(),
        CertFact::Refused(CertCause::Revoked),
        CertFact::Refused(CertCause::UnknownIssuer),
    ]);
    let approval = prop::sample::select(vec![
        ApprovalFact::Absent,
        approved(),
        ApprovalFact::Refused(ApprovalFault::NotOurs),
        ApprovalFact::Refused(ApprovalFault::Hours),
    ]);
    let bot = prop::sample::select(vec![BotClass::Unmarked, BotClass::Crawler, BotClass::HttpLibrary, BotClass::NoUserAgent]);
    let ban = || prop::option::weighted(0.3, any::<bool>().prop_map(|always| BanFact { until: Timestamp::MAX, always }));
    (cert, approval, bot, ban(), ban()).prop_map(|(cert, approval, bot, address_ban, identity_ban)| Facts {
        cert,
        bot,
        approval,
        address_ban,
        identity_ban,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Each line is one clause of the policy, written without regard to order: a permit means that every one of them holds,
    /// and no permit that some one of them does not.
    #[test]
    fn no_permit_without_every_check(route in any_route(), facts in any_facts()) {
        let has_cert = matches!(facts.cert, CertFact::Held(_));
        let has_approval = matches!(facts.approval, ApprovalFact::Held(_));
        let bot = facts.bot != BotClass::Unmarked || has_approval;
        let named = |entry: &Allow| match entry {
            Allow::Identity(name) => has_cert && &**name == "acme:sync",
            Allow::Kind(kind) => (has_cert && *kind == AccountKind::Service) || (has_approval && *kind == AccountKind::Bot),
            Allow::Role(role) => has_cert && &**role == "integrator",
            Allow::Tenant(tenant) => has_cert && &**tenant == "acme",
        };
        let checks = [
            facts.address_ban.as_ref().is_none_or(|ban| !ban.always && (has_cert || has_approval)),
            facts.identity_ban.is_none(),
            route.client_cert != CertDemand::Required || has_cert,
            !matches!(facts.approval, ApprovalFact::Refused(_)),
            route.bots != BotRule::None || !bot,
            route.bots != BotRule::Approved || !bot || has_approval,
            route.allow.as_ref().is_none_or(|allow| allow.iter().any(named)),
        ];
        let permit = policy(BanAnswer::Explain).decide(&route, &facts, now());
        prop_assert_eq!(permit.is_ok(), checks.iter().all(|check| *check), "{:?}", checks);
        if let Ok(permit) = permit {
            prop_assert_eq!((permit.identity().is_some(), permit.approval().is_some()), (has_cert, has_approval));
        }
    }
}
