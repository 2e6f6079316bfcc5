//! What the application's answer says of an attempt.

use http::header::{HeaderMap, LOCATION};
use http::{HeaderValue, StatusCode, Uri};

use super::{LoginOutcome, LoginRule, OutcomeRule};

impl LoginRule {
    /// What an answer means. A 5xx is a `Fault` whatever the rules say; with `ok` rules what matches none is `Failed`;
    /// without `ok` any other answer below 500 is `Ok`.
    ///
    /// Fails closed: an answer that matches a `failed` and an `ok` rule is `Failed`.
    pub fn outcome(&self, status: StatusCode, headers: &HeaderMap) -> LoginOutcome {
        let matches = |rule: &OutcomeRule| rule.matches(status, headers);
        if status.as_u16() >= 500 {
            LoginOutcome::Fault
        } else if self.failed.iter().any(matches) {
            LoginOutcome::Failed
        } else if self.ok.is_empty() || self.ok.iter().any(matches) {
            LoginOutcome::Ok
        } else {
            LoginOutcome::Failed
        }
    }
}

impl OutcomeRule {
    /// Whether every part that is set matches. Fails closed: a rule that sets nothing matches nothing.
    pub fn matches(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        if self.status.is_empty() && self.redirect.is_none() && self.header.is_none() {
            return false;
        }
        let status_matches = self.status.is_empty() || self.status.contains(&status);
        let redirect_matches = self.redirect.as_deref().is_none_or(|pattern| {
            status.is_redirection() && headers.get_all(LOCATION).iter().any(|location| location_matches(pattern, location))
        });
        let header_matches = self.header.as_ref().is_none_or(|(name, value)| {
            headers.get_all(name).iter().any(|line| line.as_bytes().trim_ascii() == value.as_bytes())
        });
        status_matches && redirect_matches && header_matches
    }
}

/// Compares a `Location` as sent and, where it is absolute, its path and query: some applications send one, some the other.
fn location_matches(pattern: &str, location: &HeaderValue) -> bool {
    let Ok(location) = location.to_str() else { return false };
    if glob(pattern.as_bytes(), location.as_bytes()) {
        return true;
    }
    let absolute = match location.strip_prefix("//") {
        Some(rest) => format!("http://{rest}").parse::<Uri>(),
        None => location.parse::<Uri>(),
    };
    match absolute {
        Ok(uri) if uri.scheme().is_some() => {
            uri.path_and_query().is_some_and(|target| glob(pattern.as_bytes(), target.as_str().as_bytes()))
        }
        _ => false,
    }
}

/// Whether the whole text matches; `*` stands for any run of bytes, every other byte for itself.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Remembers only the last star: an earlier one never needs to take more, so time is at most the product of the lengths.
    let (mut at, mut star) = ((0, 0), None);
    loop {
        match (pattern.get(at.0), text.get(at.1)) {
            (Some(b'*'), _) => {
                star = Some(at);
                at.0 += 1;
            }
            (Some(expected), Some(found)) if expected == found => at = (at.0 + 1, at.1 + 1),
            (None, None) => return true,
            (_, found) => match star {
                Some((position, taken)) if found.is_some() => {
                    star = Some((position, taken + 1));
                    at = (position + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Method};
    use proptest::prelude::*;

    use super::super::AccountSource;
    use super::*;

    fn status(codes: &[u16]) -> OutcomeRule {
        OutcomeRule { status: codes.iter().map(|code| StatusCode::from_u16(*code).unwrap()).collect(), ..OutcomeRule::default() }
    }

    fn redirect(pattern: &str) -> OutcomeRule {
        OutcomeRule { redirect: Some(pattern.to_owned()), ..OutcomeRule::default() }
    }

    fn header(name: &'static str, value: &str) -> OutcomeRule {
        OutcomeRule { header: Some((HeaderName::from_static(name), value.to_owned())), ..OutcomeRule::default() }
    }

    fn rule(failed: Vec<OutcomeRule>, ok: Vec<OutcomeRule>) -> LoginRule {
        LoginRule {
            name: "form".into(),
            method: Method::POST,
            path: "/login".into(),
            account: AccountSource::Basic,
            secret: None,
            failed,
            ok,
            origins: Vec::new(),
            pad: std::time::Duration::ZERO,
        }
    }

    fn outcome(rule: &LoginRule, code: u16, headers: &[(&'static str, &'static str)]) -> LoginOutcome {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        rule.outcome(StatusCode::from_u16(code).unwrap(), &headers)
    }

    #[test]
    fn the_documented_rules_read_as_documented() {
        let rule = rule(
            vec![status(&[401, 403]), redirect("/login?error=*"), header("x-login-result", "failed")],
            vec![redirect("/home")],
        );
        for (code, headers, expected) in [
            (303, &[("location", "/home")][..], LoginOutcome::Ok),
            (302, &[("location", "https://portal.example/home")], LoginOutcome::Ok),
            (302, &[("location", "//portal.example/home")], LoginOutcome::Ok),
            (401, &[], LoginOutcome::Failed),
            (303, &[("location", "/login?error=1")], LoginOutcome::Failed),
            (303, &[("location", "http://portal.example/login?error=")], LoginOutcome::Failed),
            (303, &[("location", "/home"), ("x-login-result", " failed ")], LoginOutcome::Failed),
            (303, &[("location", "/home/x")], LoginOutcome::Failed),
            (200, &[("location", "/home")], LoginOutcome::Failed),
            (503, &[("location", "/home")], LoginOutcome::Fault),
            (500, &[("x-login-result", "failed")], LoginOutcome::Fault),
        ] {
            assert_eq!(outcome(&rule, code, headers), expected, "{code} {headers:?}");
        }
    }

    #[test]
    fn trap_a_login_page_that_answers_200_to_a_wrong_password_clears_nothing() {
        assert_eq!(outcome(&rule(vec![status(&[401])], vec![redirect("/home")]), 200, &[]), LoginOutcome::Failed);
    }

    #[test]
    fn without_ok_rules_any_other_answer_below_500_is_ok() {
        let rule = rule(vec![status(&[401])], Vec::new());
        assert_eq!(outcome(&rule, 200, &[]), LoginOutcome::Ok);
        assert_eq!(outcome(&rule, 404, &[]), LoginOutcome::Ok);
        assert_eq!(outcome(&rule, 401, &[]), LoginOutcome::Failed);
        assert_eq!(outcome(&rule, 599, &[]), LoginOutcome::Fault);
    }

    #[test]
    fn what_matches_both_sides_has_failed() {
        assert_eq!(outcome(&rule(vec![status(&[200])], vec![status(&[200])]), 200, &[]), LoginOutcome::Failed);
    }

    #[test]
    fn every_part_of_a_rule_must_match_and_an_empty_one_matches_nothing() {
        let both = OutcomeRule { redirect: Some("/home".into()), ..status(&[303]) };
        assert_eq!(outcome(&rule(Vec::new(), vec![both.clone()]), 303, &[("location", "/home")]), LoginOutcome::Ok);
        assert_eq!(outcome(&rule(Vec::new(), vec![both]), 302, &[("location", "/home")]), LoginOutcome::Failed);
        assert_eq!(outcome(&rule(Vec::new(), vec![OutcomeRule::default()]), 200, &[]), LoginOutcome::Failed);
    }

    #[test]
    fn trap_an_outage_of_the_application_is_a_fault_never_a_failure() {
        for code in 500..=599 {
            assert_eq!(outcome(&rule(vec![status(&[500, 503])], vec![status(&[500])]), code, &[]), LoginOutcome::Fault);
        }
    }

    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            Some((expected, rest)) => text.split_first().is_some_and(|(found, tail)| found == expected && naive(rest, tail)),
        }
    }

    proptest! {
        #[test]
        fn the_glob_agrees_with_its_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
