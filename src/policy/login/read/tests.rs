use http::{HeaderValue, Method};
use proptest::prelude::*;

use super::*;

const HOST: &str = "portal.example.com";
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

fn rule(account: AccountSource, secret: Option<FieldSource>) -> LoginRule {
    LoginRule {
        name: "x".into(),
        method: Method::POST,
        path: "/login".into(),
        account,
        secret,
        failed: Vec::new(),
        ok: Vec::new(),
        origins: Vec::new(),
        pad: std::time::Duration::ZERO,
    }
}

fn form() -> LoginRule {
    rule(AccountSource::Field(FieldSource::Form("username".into())), Some(FieldSource::Form("password".into())))
}

fn json(pointer: &str) -> LoginRule {
    rule(AccountSource::Field(FieldSource::Json(pointer.into())), Some(FieldSource::Json("/password".into())))
}

fn head(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

/// Account and secret, or the fault.
fn read(rule: &LoginRule, media: &str, query: Option<&str>, body: &str) -> Result<(String, Option<String>), ReadFault> {
    seen(rule.read_once(HOST, &head(&[("content-type", media)]), query, body.as_bytes()))
}

fn seen(attempt: Result<Attempt, ReadFault>) -> Result<(String, Option<String>), ReadFault> {
    attempt.map(|attempt| {
        (attempt.account.0.to_string(), attempt.secret.map(|secret| String::from_utf8_lossy(&secret).into_owned()))
    })
}

fn pair(account: &str, secret: &str) -> Result<(String, Option<String>), ReadFault> {
    Ok((account.to_owned(), Some(secret.to_owned())))
}

#[test]
fn a_form_names_its_account_once() {
    for body in
        ["username=Alice&password=p%26+q", "x=1&password=p%26%20q&username=%41lice+", "user%6eame=alice&password=p%26+q&=&&x"]
    {
        assert_eq!(read(&form(), FORM, Some("next=/"), body), pair("alice", "p& q"), "{body}");
    }
    assert_eq!(read(&form(), "Application/X-WWW-Form-URLEncoded; charset=\"UTF-8\"", None, "username=a"), Ok(("a".into(), None)));
    assert_eq!(read(&form(), FORM, None, "username=a&password="), pair("a", ""));
    assert_eq!(read(&form(), FORM, None, "username=a&password=x%zz%ff;y"), pair("a", "x%zz\u{fffd};y"));
}

#[test]
fn trap_an_attempt_with_another_cookie_media_type_or_authorization_is_another_attempt() {
    let rest = |lines: &[(&'static str, &str)]| {
        let lines = [&[("content-type", FORM)], lines].concat();
        form().read_once(HOST, &head(&lines), None, b"username=a&password=p").unwrap().rest.map(|rest| *rest)
    };
    let plain = rest(&[]);
    for (name, value) in
        [("cookie", "password=q"), ("authorization", "Basic YTpx"), ("x-otp", "1"), ("host", "other.example.com")]
    {
        assert_ne!(rest(&[(name, value)]), plain, "{name}");
    }
    for (name, value) in [("user-agent", "x"), ("accept", "*/*"), ("sec-fetch-site", "none"), ("referer", "https://x/")] {
        assert_eq!(rest(&[(name, value)]), plain, "{name}");
    }
    let typed = |media| form().read_once(HOST, &head(&[("content-type", media)]), None, b"username=a&password=p").unwrap().rest;
    assert_ne!(typed(FORM), typed("application/x-www-form-urlencoded; x=y"));
}

#[test]
fn the_same_name_elsewhere_or_by_another_rule_is_not_exactly_the_same_account() {
    let exact = |rule: &LoginRule, host, body: &str| {
        rule.read_once(host, &head(&[("content-type", FORM)]), None, body.as_bytes()).unwrap().exact
    };
    let other = LoginRule { name: "other".into(), ..form() };
    let one = exact(&form(), HOST, "username=a&password=p");
    assert_eq!(one, exact(&form(), HOST, "password=q&username=%61"));
    assert_eq!(ExactAccount::parse(&one.to_text()), Some(one));
    for another in [
        exact(&form(), "other.example.com", "username=a"),
        exact(&other, HOST, "username=a"),
        exact(&form(), HOST, "username=A"),
        exact(&form(), HOST, "username=a+"),
    ] {
        assert_ne!(one, another);
    }
    for text in ["", "ann", &one.to_text()[1..], &format!("{}A", one.to_text())] {
        assert_eq!(ExactAccount::parse(text), None, "{text}");
    }
}

#[test]
fn trap_an_account_that_is_absent_or_empty_is_refused() {
    for body in ["", "password=p", "user=a", "login=username"] {
        assert_eq!(read(&form(), FORM, None, body), Err(ReadFault::Absent), "{body}");
    }
    for body in ["username=", "username=+%20", "username", "username=a%00b", "username=a%0Ab"] {
        assert_eq!(read(&form(), FORM, None, body), Err(ReadFault::NoName), "{body}");
    }
}

#[test]
fn trap_an_account_that_stands_twice_or_in_a_second_spelling_is_refused() {
    for body in [
        "username=decoy&username=victim",
        "username=victim&username=victim",
        "username=decoy&Username=victim",
        "username=decoy&user%4eame=victim",
        "username=decoy&username[]=victim",
        "username=decoy&username%5B%5D=victim",
        "username=decoy&username[x]=victim",
        "username=decoy&+username=victim",
        "username=decoy&username%00x=victim",
        "username=decoy&x=1;username=victim",
        "password=x;username=victim&username=decoy",
        "Username=victim",
        "username[]=victim",
        "username=decoy&%EF%BD%95sername=victim",
        "username=a&password=1&password=2",
    ] {
        assert_eq!(read(&form(), FORM, None, body), Err(ReadFault::Twice), "{body}");
    }
    for body in ["username=victim;1", "username;x=victim", "username=a%zz", "username=a%", "username=%ff", "username=%C0%AE"] {
        assert_eq!(read(&form(), FORM, None, body), Err(ReadFault::Malformed), "{body}");
    }
    let dotted = rule(AccountSource::Field(FieldSource::Form("user.name".into())), None);
    assert_eq!(read(&dotted, FORM, None, "user.name=decoy&user_name=victim"), Err(ReadFault::Twice));
}

#[test]
fn trap_a_field_whose_name_is_read_in_different_ways_is_refused() {
    let rails = rule(AccountSource::Field(FieldSource::Form("user[email]".into())), None);
    for name in [
        "username]",
        "]username",
        "[username",
        "[username]",
        "user[name",
        "username[x",
        "username[x]y",
        "username[[]]",
        "username]x[",
        "a[b]c",
        "%u0075sername",
        "x%zz",
        "x%",
        "%ffusername",
    ] {
        assert_eq!(read(&form(), FORM, None, &format!("username=decoy&{name}=victim")), Err(ReadFault::FieldName), "{name}");
        assert_eq!(read(&form(), FORM, Some(&format!("{name}=victim")), "username=decoy"), Err(ReadFault::FieldName), "{name}");
        assert_eq!(read(&rails, FORM, None, &format!("user[email]=decoy&x;{name}=1")), Err(ReadFault::FieldName), "{name}");
    }
    for name in ["user[email]]", "[user][email]", "user][email]", "user[email]x", "user[email] [x]"] {
        assert_eq!(read(&rails, FORM, None, &format!("user[email]=decoy&{name}=victim")), Err(ReadFault::FieldName), "{name}");
    }
    let body = "a[]=1&a[b][c]=%zz&=x&&user%5Bemail%5D=a";
    assert_eq!(read(&rails, FORM, Some("next=%zz&b[]=1"), body), Ok(("a".into(), None)), "other values as they are");
}

#[test]
fn a_field_with_brackets_stands_beside_its_neighbours() {
    let rails =
        rule(AccountSource::Field(FieldSource::Form("user[email]".into())), Some(FieldSource::Form("user[password]".into())));
    assert_eq!(read(&rails, FORM, Some("user[x]=1"), "user%5Bemail%5D=a@b.c&user[password]=p"), pair("a@b.c", "p"));
    assert_eq!(read(&rails, FORM, None, "user[email]=a&user[email][]=b"), Err(ReadFault::Twice));
}

#[test]
fn trap_an_account_or_secret_in_the_query_is_refused() {
    for query in ["username=x", "a=b&USERNAME", "username[]=x", "user%6eame=x", "a;username=x", "password=x"] {
        assert_eq!(read(&form(), FORM, Some(query), "username=a&password=p"), Err(ReadFault::InQuery), "{query}");
    }
    assert_eq!(read(&json("/user/name"), JSON, Some("user[name]=x"), r#"{"user":{"name":"a"}}"#), Err(ReadFault::InQuery));
    assert_eq!(read(&json("/user/name"), JSON, Some("name=x"), r#"{"user":{"name":"a"}}"#), Ok(("a".into(), None)));
}

#[test]
fn trap_an_encoded_or_wrongly_typed_body_is_refused() {
    let body = "username=a";
    for media in ["text/plain", JSON, "multipart/form-data; boundary=x", "", "application/x-www-form-urlencoded, text/plain"] {
        assert_eq!(read(&form(), media, None, body), Err(ReadFault::MediaType), "{media}");
    }
    for media in [
        "application/x-www-form-urlencoded;charset=iso-8859-1",
        "application/x-www-form-urlencoded; charset",
        "application/x-www-form-urlencoded;charset=utf-8;charset=utf-7",
        "application/x-www-form-urlencoded;charset=utf-8;charset=utf-8",
        "application/x-www-form-urlencoded; xcharset=ibm037",
        "application/x-www-form-urlencoded; x=\"Charset=ibm037\"",
        "application/x-www-form-urlencoded; charset=\"utf-8",
    ] {
        assert_eq!(read(&form(), media, None, body), Err(ReadFault::Charset), "{media}");
    }
    let refused = |lines: &[(&'static str, &str)]| seen(form().read_once(HOST, &head(lines), None, body.as_bytes()));
    assert_eq!(refused(&[]), Err(ReadFault::MediaType));
    assert_eq!(refused(&[("content-type", FORM), ("content-type", FORM)]), Err(ReadFault::MediaType));
    assert_eq!(refused(&[("content-type", FORM), ("content-encoding", "gzip")]), Err(ReadFault::Encoded));
    assert_eq!(
        refused(&[("content-type", FORM), ("content-encoding", "identity"), ("content-encoding", "br")]),
        Err(ReadFault::Encoded)
    );
    assert!(refused(&[("content-type", FORM), ("content-encoding", "Identity")]).is_ok());
}

#[test]
fn a_body_over_the_cap_is_refused() {
    let body = format!("username=a&x={}", "x".repeat(MAX_LOGIN_BODY));
    assert_eq!(read(&form(), FORM, None, &body), Err(ReadFault::BodyTooLarge));
    assert!(read(&form(), FORM, None, &body[..MAX_LOGIN_BODY]).is_ok());
}

#[test]
fn a_json_pointer_is_followed() {
    for (pointer, body) in [
        ("/user/name", r#"{"password":"p","user":{"x":[1,{"name":2}],"name":"Alice "},"name":"other"}"#),
        ("/user/name", r#" {"user":{"n\u0061me":"alice"},"password":"p"} "#),
        ("/users/1/0", r#"{"users":["x",["alice"],3],"password":"p"}"#),
        ("/a~1b/m~0n", r#"{"a/b":{"m~n":"alice"},"password":"p"}"#),
    ] {
        assert_eq!(read(&json(pointer), JSON, None, body), pair("alice", "p"), "{pointer} {body}");
    }
    assert_eq!(read(&json("/id"), "application/vnd.api+json", None, r#"{"id":17}"#), Ok(("17".into(), None)));
    assert_eq!(read(&json("/id"), JSON, None, r#"{"id":"a","password":null}"#), Ok(("a".into(), None)));
}

#[test]
fn trap_a_json_key_on_the_way_that_stands_twice_is_refused() {
    for body in [
        r#"{"user":{"name":"decoy","name":"victim"}}"#,
        r#"{"user":{"name":"decoy"},"user":{"name":"victim"}}"#,
        r#"{"user":{"name":"decoy"},"user":null}"#,
        r#"{"user":{"name":"decoy","n\u0061me":"victim"}}"#,
        r#"{"user":{"name":"decoy","Name":"victim"}}"#,
        r#"{"u\u017fer":{"name":"victim"},"user":{"name":"decoy"}}"#,
        r#"{"User":{"name":"victim"}}"#,
    ] {
        assert_eq!(read(&json("/user/name"), JSON, None, body), Err(ReadFault::Twice), "{body}");
    }
    assert_eq!(read(&json("/id"), JSON, None, r#"{"id":"a","password":"1","password":"2"}"#), Err(ReadFault::Twice));
}

#[test]
fn trap_a_json_account_of_the_wrong_kind_is_refused() {
    for value in ["true", "1.0", "1e2", "[]", r#"["a"]"#, "{}", r#"{"a":"b"}"#, "-0", "123456789012345678901234567890"] {
        assert_eq!(read(&json("/id"), JSON, None, &format!("{{\"id\":{value}}}")), Err(ReadFault::WrongType), "{value}");
    }
    for body in ["{}", r#"{"id":null}"#, r#"[1,"x"]"#, r#""id""#, "17", "null"] {
        let fault = read(&json("/id"), JSON, None, body).unwrap_err();
        assert!(matches!(fault, ReadFault::Absent | ReadFault::Malformed), "{body}: {fault}");
    }
    for body in [
        "",
        "{",
        r#"{"id":"a"} {"id":"b"}"#,
        r#"{"id":"a",}"#,
        "\u{feff}{\"id\":\"a\"}",
        r#"{"id":"\ud800"}"#,
        r#"{'id':'a'}"#,
        "id=a",
    ] {
        assert_eq!(read(&json("/id"), JSON, None, body), Err(ReadFault::Malformed), "{body}");
    }
    let deep = format!("{{\"id\":\"a\",\"x\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let _ = read(&json("/id"), JSON, None, &deep);
}

#[test]
fn basic_is_an_attempt_only_with_credentials() {
    let rule = rule(AccountSource::Basic, None);
    assert!(!rule.offered(&head(&[])) && rule.offered(&head(&[("authorization", "Bearer x")])));
    assert!(form().offered(&head(&[])));
}

#[test]
fn basic_credentials_are_read() {
    let rule = rule(AccountSource::Basic, None);
    let read = |line: &str| seen(rule.read_once(HOST, &head(&[("authorization", line)]), Some("username=x"), b""));
    assert_eq!(read("Basic QWxpY2U6cDpx"), pair("alice", "p:q"));
    assert_eq!(read("bASIC  YTo="), pair("a", ""));
}

#[test]
fn trap_basic_credentials_with_two_readings_are_refused() {
    let rule = rule(AccountSource::Basic, None);
    let refused = |lines: &[(&'static str, &str)]| seen(rule.read_once(HOST, &head(lines), None, b"")).unwrap_err();
    for line in [
        "Bearer x",
        "Basic",
        "Basic ",
        "BasicYTpi",
        "Basic YTpi,Basic YTpj",
        "Basic YTo",
        "Basic !!!!",
        "Basic YWJj",
        "Basic Y Tpi",
        "Basic YTp=",
    ] {
        assert_eq!(refused(&[("authorization", line)]), ReadFault::Authorization, "{line}");
    }
    assert_eq!(refused(&[("authorization", "Basic YTpi"), ("authorization", "Basic YTpj")]), ReadFault::Authorization);
    // ":x", and a name that is Latin-1.
    assert_eq!(refused(&[("authorization", "Basic Ong=")]), ReadFault::NoName);
    assert_eq!(refused(&[("authorization", "Basic 6Tp4")]), ReadFault::NoName);
}

#[test]
fn the_refusal_is_a_bad_request_that_names_no_value() {
    let denial = form().read(HOST, &head(&[("content-type", FORM)]), None, b"username=a&username=hunter2").err().unwrap();
    assert_eq!(denial.reason, Reason::BadRequest);
    assert!(!denial.cause.contains("hunter2"));
}

proptest! {
    #[test]
    fn any_body_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200), media in prop::sample::select(vec![FORM, JSON])) {
        let head = head(&[("content-type", media)]);
        let _ = form().read_once(HOST, &head, None, &body);
        let _ = json("/a/0").read_once(HOST, &head, None, &body);
    }

    #[test]
    fn what_a_browser_encodes_is_what_is_read(account in "[a-z@.éß&=;+% ]{1,20}[a-z]", secret in "\\PC{0,20}") {
        let body = form_urlencoded::Serializer::new(String::new()).append_pair("x", &secret).append_pair("password", &secret).append_pair("username", &account).finish();
        let expected = AccountKey::new(&account).unwrap().0.to_string();
        prop_assert_eq!(read(&form(), FORM, None, &body), Ok((expected, Some(secret))));
    }

    #[test]
    fn json_strings_are_read_as_written(account in "\\PC{1,20}[a-z]", secret in ".{0,20}") {
        let body = serde_json::json!({ "x": { "name": secret }, "user": { "name": account }, "password": secret }).to_string();
        let expected = AccountKey::new(&account).map(|key| key.0.to_string());
        prop_assert_eq!(read(&json("/user/name"), JSON, None, &body).ok(), expected.map(|key| (key, Some(secret))));
    }
}
