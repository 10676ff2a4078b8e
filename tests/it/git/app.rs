//! Git over HTTPS as a GitHub App: a real lighttpd that takes only the token that the double of GitHub gave last.
//!
//! Deliberately absent: the exchange itself (`github_app`).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use egret::forge::app::{AppOptions, GitHubApp};
use egret::git::access::Access;
use egret::git::publish::PublishOutcome;
use egret::git::{Error, ErrorKind};
use egret::reconcile::gitops::github_app::credential_provider;

use super::fixture::{Origin, PROGRAM};
use super::https::Https;
use super::publishing::publish_file;
use crate::github_app::double::{Double, ID};

/// GitHub, with the repository where the server has it.
fn github(server: &Https) -> Double {
    let double = Double::start();
    double.with(|state| {
        "git/policies".clone_into(&mut state.project);
        state.passwords = Some(server.folder.join("users"));
    });
    double
}

fn access(double: &Double, server: &Https) -> Access {
    let app = GitHubApp::new(AppOptions {
        api: double.api(),
        project: "git/policies".to_owned(),
        id: ID.to_owned(),
        key_file: double.key("app"),
        installation: None,
        https: egret::https::ClientOptions { plain: true, ..Default::default() },
    });
    let ca_file = Some(server.folder.join("ca.pem"));
    Access {
        program: PROGRAM.into(),
        ca_file,
        credential_provider: Some(credential_provider(Arc::new(app))),
        ..Access::default()
    }
}

#[test]
fn an_app_fetches_and_pushes_with_one_token_and_gets_another_when_that_is_not_taken() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let double = github(&server);
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror_by("state", &server.source, access(&double, &server));
    assert_eq!(mirror.head(None).expect("a look").commit, first);
    let published = publish_file(&mut mirror, "one", "drift\n").expect("a report");
    assert!(matches!(published, PublishOutcome::Committed { tries: 1, .. }), "{published:?}");
    assert_eq!(double.with(|state| state.given.len()), 1);
    // Somebody takes the token back before its end.
    fs::write(server.folder.join("users"), "x-access-token:another\n").expect("a file");
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    let error = mirror.head(None).expect_err("the token is worth nothing");
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert_eq!(mirror.head(None).expect("with a new one").commit, second);
    assert_eq!(double.with(|state| state.given.len()), 2);
}

#[test]
fn without_a_token_nothing_is_asked_of_the_repository_and_the_reason_is_reported() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let double = github(&server);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror_by("state", &server.source, access(&double, &server));
    double.with(|state| state.ahead = -300);
    let error = mirror.head(None).expect_err("no token");
    assert_eq!(error.to_string(), format!("there is no token for {}", server.source));
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.hint().is_some_and(|hint| hint.contains("clock is") && hint.contains("ahead")), "{:?}", error.hint());
    double.with(|state| state.ahead = 0);
    mirror.head(None).expect("the clock is right again");
}

fn plan(server: &Https, options: &[(&str, &Path)], id: &str, api: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["plan", "--node", "n1", "--repo", &server.source, "--github-app-id", id, "--github-api", api]);
    for (option, path) in options {
        command.arg(option).arg(path);
    }
    command.output().expect("egret runs")
}

#[test]
fn the_command_line_takes_an_app_and_keeps_its_tokens_to_the_apps_own_host() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let double = github(&server);
    origin.push(&[("egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: EgretConfig\n")], "first");
    let cluster = origin.path().join("cluster.yaml");
    fs::write(&cluster, "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n").expect("a file");
    let (key, ca) = (double.key("app"), server.folder.join("ca.pem"));
    let options = [("--github-app-key-file", &*key), ("--git-ca-file", &*ca), ("--cluster", &*cluster)];
    let output = plan(&server, &options, ID, &double.api());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(double.with(|state| state.given.len()), 1, "{said}");
    assert!(!said.contains("denied") && !said.contains("ghs_"), "{said}");
    let output = plan(&server, &options, ID, "https://api.github.com");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("as a GitHub App: the App is on github.com"), "{said}");
    assert_eq!(double.with(|state| state.given.len()), 1);
}
