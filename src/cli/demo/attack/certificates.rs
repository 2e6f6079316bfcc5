//! Client certificates that do not hold, and one that stops holding on a live connection.

use super::super::pki::Error;
use super::Scene;
use super::framing::handshake_told;
use super::visitor::{Visitor, browser};

pub async fn play(scene: &mut Scene<'_>) -> Result<(), Error> {
    let visitor = Visitor::new(scene.stage, [2, 1]);
    for (attack, certificate, expected) in [
        ("API without a certificate", None, "403 client-cert-required"),
        ("API with a good certificate", Some("good"), "200"),
        ("API with a revoked certificate", Some("revoked"), "403 revoked"),
        ("API with an expired certificate", Some("expired"), "403 client-cert-refused"),
        ("API with a foreign CA's certificate", Some("foreign"), "403 client-cert-refused"),
        ("API, issuer without keyCertSign", Some("unfit-issuer"), "403 client-cert-refused"),
    ] {
        let caller = certificate.map_or_else(|| visitor.clone(), |name| visitor.clone().with(name));
        scene.judge(attack, expected, caller.get("/api/orders").await.map(|answer| answer.told()));
    }
    let partners = visitor.clone().named("partners.localhost");
    for (attack, certificate, expected) in [
        ("handshake that requires a certificate, none", None, "alert certificate_required"),
        ("handshake, revoked certificate", Some("revoked"), "alert certificate_revoked"),
        ("handshake, expired certificate", Some("expired"), "alert certificate_expired"),
        ("handshake, foreign certificate", Some("foreign"), "alert unknown_ca"),
    ] {
        let caller = certificate.map_or_else(|| partners.clone(), |name| partners.clone().with(name));
        scene.judge(attack, expected, Ok(handshake_told(caller.refusal().await)));
    }

    let mut line = visitor.with("other").line().await?;
    let before = line.send(browser("GET", "/api/orders"), "").await?.told();
    scene.stage.pki.write_crl(2, &[66, 11])?;
    scene.doorward(&["reload"]).await?;
    let after = line.send(browser("GET", "/api/orders"), "").await.map(|answer| format!("{before}, then {}", answer.told()));
    scene.judge("certificate revoked under a live connection", "200, then 403 revoked", after);
    Ok(())
}
