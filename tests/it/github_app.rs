//! GitHub Apps against a double that verifies what is signed: tokens for previews, and for Git over a real HTTPS server.
//!
//! Deliberately absent: GitHub itself.

pub(crate) mod double;

use egret::forge::app::{AppError, AppOptions, GitHubApp, TokenPurpose};
use egret::https;
use serde_json::json;

use crate::lab::wait_until;
use double::{Double, ID, INSTALLATION};

fn app(double: &Double, key: &str) -> GitHubApp {
    GitHubApp::new(AppOptions {
        api: double.api(),
        project: "empire/policies".to_owned(),
        id: ID.to_owned(),
        key_file: double.key(key),
        installation: None,
        https: https::ClientOptions { plain: true, ..https::ClientOptions::default() },
    })
}

#[test]
fn a_token_is_for_one_repository_and_one_use_and_is_used_again() {
    let double = Double::start();
    let app = app(&double, "app");
    let first = app.token(TokenPurpose::Git).expect("a token");
    assert_eq!(app.token(TokenPurpose::Git).expect("the same"), first);
    let pulls = app.token(TokenPurpose::Pulls).expect("another token");
    assert_ne!(pulls, first);
    let permissions = [
        json!({ "contents": "write" }),
        json!({ "checks": "write", "contents": "read", "pull_requests": "write", "statuses": "write" }),
    ];
    let expected = permissions.map(|permissions| json!({ "repositories": ["policies"], "permissions": permissions }));
    assert_eq!(double.with(|state| state.given.clone()), expected);
    app.forget(TokenPurpose::Git);
    assert_ne!(app.token(TokenPurpose::Git).expect("a new one"), first);
    assert_eq!(app.token(TokenPurpose::Pulls).expect("the same"), pulls);
    assert_eq!(double.with(|state| state.given.len()), 3);
}

#[test]
fn a_token_that_is_about_to_end_is_replaced_by_githubs_clock() {
    let double = Double::start();
    // It lives five minutes and a second, and the last five minutes it is not used. What our clock makes of its end does not count.
    double.with(|state| (state.lifetime, state.ahead) = (301, 20));
    let app = app(&double, "app");
    let first = app.token(TokenPurpose::Git).expect("a token");
    let other = || app.token(TokenPurpose::Git).expect("a token") != first;
    assert!(wait_until(std::time::Duration::from_secs(30), other));
}

#[test]
fn an_installation_that_is_named_is_not_looked_for_by_repository() {
    let double = Double::start();
    let named = |installation| {
        let options = AppOptions {
            api: double.api(),
            project: "empire/policies".to_owned(),
            id: ID.to_owned(),
            key_file: double.key("app"),
            installation: Some(installation),
            https: https::ClientOptions { plain: true, ..https::ClientOptions::default() },
        };
        GitHubApp::new(options).token(TokenPurpose::Git)
    };
    named(INSTALLATION).expect("a token");
    assert!(matches!(named(1), Err(AppError::NotInstalled { .. })));
    let asked = double.with(|state| state.asked.clone());
    let tokens = format!("POST /app/installations/{INSTALLATION}/access_tokens 201");
    assert_eq!(
        asked,
        [format!("GET /app/installations/{INSTALLATION} 200"), tokens, "GET /app/installations/1 404".to_owned()]
    );
}

#[test]
fn what_is_wrong_is_reported_with_what_to_do() {
    let double = Double::start();
    let told = |key: &str| {
        let error = app(&double, key).token(TokenPurpose::Pulls).expect_err("no token");
        (error.to_string(), error.hint().unwrap_or_default(), error.retryable())
    };
    let host = format!("127.0.0.1:{}", double.port);
    let undecoded = format!("{host} rejects the GitHub App {ID}: A JSON web token could not be decoded");
    let hint = "is the App's id right, and is the key one of that App that was not deleted?";
    assert_eq!(told("other"), (undecoded, hint.to_owned(), false));
    assert!(told("missing").0.ends_with("missing.pem") && told("missing").2);

    double.with(|state| state.ahead = -120);
    let (message, hint, passes) = told("app");
    assert!(message.contains("'Issued at' claim ('iat') must be an Integer"), "{message}");
    assert!(hint.starts_with("this machine's clock is 1") && hint.contains("seconds ahead of the server's"), "{hint}");
    assert!(passes);
    double.with(|state| state.ahead = 3600);
    assert!(told("app").1.contains("seconds behind the server's"), "{:?}", told("app"));

    double.with(|state| {
        state.ahead = 0;
        state.granted.remove("pull_requests");
    });
    let lacks = "the GitHub App 4242 may not `pull_requests: write` in empire/policies";
    assert_eq!((told("app").0.as_str(), told("app").2), (lacks, false));
    double.with(|state| state.broken = Some((503, "No server is available\u{7}".to_owned())));
    let refused = format!("{host} gives the GitHub App {ID} no token: 503 No server is available");
    assert_eq!((told("app").0, told("app").2), (refused, true));
    let given = double.with(|state| state.given.clone());
    assert_eq!(given, Vec::<serde_json::Value>::new());
}

#[test]
fn nothing_that_is_shown_holds_a_token() {
    let double = Double::start();
    let app = app(&double, "app");
    let token = app.token(TokenPurpose::Git).expect("a token");
    let shown = format!("{app:?} {token:?}");
    assert!(!shown.contains("ghs_1"), "{shown}");
}
