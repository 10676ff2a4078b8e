//! Pull requests that the controller previews by itself, as a real process between a forge, a Git server and an API server.
//!
//! Deliberately absent: what a preview says in full (`previews`), and what goes wrong with one request (`forge`).

mod stand;

use std::time::Instant;

use egret::forge::ForgeKind;
use serde_json::json;

use crate::github_app::double::{Double, ID};
use crate::lab::get;
use stand::{Stand, policy};

#[test]
fn a_pull_request_gets_a_comment_that_follows_its_head_and_its_base() {
    let stand = Stand::up();
    let began = Instant::now();
    let first = stand.open(1, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);
    let comment = stand.await_comment(1, "xwing");
    println!("measured: a pull request to its comment: {:.1?}", began.elapsed());
    assert!(comment.starts_with("<!-- egret-preview:{\"cluster\":\"default\",\"v\":1} -->\n"), "{comment}");
    assert!(comment.contains(&first[..12]) && comment.contains("1 pod would come from another address"), "{comment}");
    assert_eq!(stand.forge.status(&first).expect("a status").0, "success");
    assert_eq!(stand.published(), ["empire"], "nothing of it is active");

    // Its author pushes once more, and then by force.
    stand.origin.git(&["checkout", "--quiet", &first]);
    let second = stand.propose(1, "HEAD", &[("policies/alliance.yaml", &policy("alliance", "nobody"))]);
    stand.send_webhook("pull_request", &json!({ "action": "synchronize" }));
    stand.await_comment(1, &second[..12]);
    let third = stand.open(1, &[("policies/empire.yaml", &policy("empire", "alliance"))]);
    let comment = stand.await_comment(1, &third[..12]);
    assert!(comment.contains("tiefighter") && comment.contains("xwing"), "{comment}");

    // The base gains what the head does not have, which changes nothing; then the head takes it in, and parts from there.
    let main = stand.origin.push(&[("policies/rebels.yaml", &policy("rebels", "rebels"))], "rebels").to_string();
    stand.send_webhook("push", &json!({ "ref": "refs/heads/main" }));
    stand.await_that("the new policy active", || stand.published() == ["empire", "rebels"]);
    stand.forge.writes();
    stand.origin.git(&["checkout", "--quiet", "-B", "proposal", &third]);
    stand.origin.git(&["merge", "--quiet", "--no-edit", "main"]);
    let merged = stand.origin.git(&["rev-parse", "HEAD"]);
    assert_eq!(stand.forge.writes(), Vec::<String>::new());
    stand.publish(1, &merged);
    stand.send_webhook("pull_request", &json!({ "action": "synchronize" }));
    let comment = stand.await_comment(1, &format!("{} onto {}", &merged[..12], &main[..12]));
    assert!(!comment.contains("rebels"), "{comment}");
    assert_eq!(stand.condition("PreviewsPosted").0, "True");
    stand.forge.assert_strict();
}

#[test]
fn on_gitlab_and_gitea_it_is_the_same() {
    for (kind, bad) in [(ForgeKind::GitLab, "failed"), (ForgeKind::Gitea, "failure")] {
        let mut stand = Stand::empty(kind);
        stand.controller("one");
        let first = stand.open(1, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);
        stand.await_comment(1, &first[..12]);
        assert_eq!(stand.forge.status(&first).expect("a status").0, "success", "{kind:?}");
        let second = stand.open(1, &[("policies/alliance.yaml", "kind: EgressPolicy\nspec: [")]);
        stand.await_comment(1, &second[..12]);
        assert_eq!(stand.forge.status(&second).expect("a status").0, bad, "{kind:?}");
        stand.await_that("a word that all is well", || stand.condition("PreviewsPosted").0 == "True");
        stand.forge.assert_strict();
    }
}

#[test]
fn the_controllers_page_lists_open_pull_requests_with_what_their_previews_say() {
    let mut stand = Stand::empty(ForgeKind::GitHub);
    let listen = stand.controller_with_page("one");
    let page = || get(listen, "/").map(|(_, page)| page).unwrap_or_default();
    let head = stand.open(1, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);
    stand.await_comment(1, &head[..12]);
    let says = ["Open pull requests", "#1 ", &head[..12], "previewed<"];
    stand.await_that("the pull request on the page", || says.iter().all(|part| page().contains(part)));
    let bad = stand.open(1, &[("policies/alliance.yaml", "kind: EgressPolicy\nspec: [")]);
    stand.await_that("its new head on the page", || page().contains(&bad[..12]) && page().contains("! </span>look<"));
}

#[test]
fn previews_are_counted() {
    let mut stand = Stand::empty(ForgeKind::GitHub);
    let listen = stand.controller_with_metrics("one");
    let page = || get(listen, "/metrics").map(|(_, page)| page).unwrap_or_default();
    stand.await_that("a count to rise from", || page().contains("egret_previews_total{result=\"posted\"} 0\n"));
    stand.open(1, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);
    stand.await_that("a preview to be counted", || !page().contains("egret_previews_total{result=\"posted\"} 0\n"));
}

#[test]
fn of_sixty_pull_requests_the_fifty_that_were_touched_last_are_previewed() {
    let stand = Stand::up();
    let mut stream = String::new();
    for number in 1..=60 {
        let text = policy(&format!("p{number}"), "alliance");
        let lines = [format!("commit refs/pull/{number}/head"), format!("mark :{number}")];
        stream.extend(lines.into_iter().flat_map(|line| [line, "\n".to_owned()]));
        stream.push_str("committer x <x@x> 1 +0000\ndata 0\nfrom refs/heads/main^0\n");
        let length = text.len().to_string();
        let file = format!("M 100644 inline policies/p{number}.yaml\ndata ");
        stream.extend([file.as_str(), &length, "\n", &text, "\n"]);
    }
    stand.origin.import(&stream);
    let commits: Vec<String> =
        (1..=60).map(|number| stand.origin.in_bare(&["rev-parse", &format!("refs/pull/{number}/head")])).collect();
    for (number, commit) in (1..).zip(&commits) {
        stand.forge.open(number, commit);
    }
    stand.send_webhook("pull_request", &json!({}));
    let status = |number: usize| stand.forge.status(&commits[number - 1]);
    stand.await_that("a preview of each", || (11..=60).all(|number| status(number).is_some()));
    assert!((1..=10).all(|number| status(number).is_none()));
    stand.await_that("a word that all is well", || stand.condition("PreviewsPosted").0 == "True");
    // One is closed: another one takes its place, and its reference is gone.
    stand.forge.close(60);
    stand.send_webhook("pull_request", &json!({ "action": "closed" }));
    stand.await_that("a preview of the next", || status(10).is_some());
    assert!(status(9).is_none());
    let mirror = stand.origin.path().join("state-one/pulls.git");
    let list = crate::git::fixture::git_command(&mirror).args(["for-each-ref", "refs/egret/pull"]).output();
    assert_eq!(String::from_utf8_lossy(&list.expect("git is installed").stdout).lines().count(), 50);
}

#[test]
fn a_head_decides_nothing_but_what_is_said_of_it_and_one_that_is_bad_keeps_none_of_the_others() {
    let stand = Stand::up();
    let hostile = "apiVersion: egret.dev/v1alpha1\nkind: EgretConfig\nmetadata: {name: default}\nspec:\n  \
                   paths: [elsewhere]\n  reports: {branch: main}\n";
    let named = policy("alliance", "alliance").replace("name: alliance", "name: \"@everyone\"");
    std::os::unix::fs::symlink("/etc/passwd", stand.origin.work.join("link.yaml")).expect("a link");
    let steering = stand.open(1, &[("egret.yaml", hostile), ("policies/alliance.yaml", &named)]);
    stand.origin.git(&["checkout", "--quiet", "main"]);
    // A mebibyte of one letter is a kilobyte in a pack.
    let comment = format!("# {}\n", "x".repeat((1 << 20) - 100));
    let names: Vec<String> = (0..9).map(|number| format!("policies/large{number}.yaml")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), comment.as_str())).collect();
    let large = stand.open(2, &files);
    // No history in common.
    stand.origin.git(&["checkout", "--quiet", "--orphan", "alone"]);
    let alone = stand.origin.commit(&[("a.yaml", "a: 1\n")], "alone").to_string();
    stand.origin.git(&["checkout", "--quiet", "--force", "main"]);
    stand.publish(3, &alone);
    // The forge knows of a commit that is not there.
    let missing = "0123456789".repeat(4);
    stand.forge.open(4, &missing);
    let good = stand.open(5, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);

    stand.await_comment(5, "xwing");
    assert_eq!(stand.forge.status(&good).expect("a status").0, "success");
    let comment = stand.await_comment(1, &steering[..12]);
    // In a fence it is a text like any other.
    let outside: String = comment.split("```").step_by(2).collect();
    assert!(comment.contains("@everyone") && !outside.contains("@everyone"), "{comment}");
    assert_eq!(stand.forge.status(&steering).expect("a status").0, "failure");
    for (number, head, why) in [
        (2, &large, "there is too much text in what differs"),
        (3, &alone, "it has no history in common with the branch"),
        (4, &missing, "its head is not what refs/pull/4/head leads to"),
    ] {
        let comment = stand.await_comment(number, why);
        assert!(comment.contains("not previewed") && comment.contains(&head[..12]), "{comment}");
        let (state, description) = stand.forge.status(head).expect("a status");
        assert_eq!((state.as_str(), description.contains(why)), ("failure", true), "{description}");
    }
    assert_eq!(stand.published(), ["empire"]);
}

#[test]
fn a_forge_that_is_away_holds_nothing_up_and_is_reported_until_it_is_back() {
    let stand = Stand::up();
    stand.await_that("a word that all is well", || stand.condition("PreviewsPosted").0 == "True");
    stand.forge.world().down = true;
    stand.open(1, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);
    stand.await_that("a word that previews are not posted", || stand.condition("PreviewsPosted").0 == "False");
    let (_, message) = stand.condition("PreviewsPosted");
    assert!(message.contains("the forge answers 503: Unicorn!"), "{message}");
    stand.origin.push(&[("policies/rebels.yaml", &policy("rebels", "rebels"))], "rebels");
    stand.send_webhook("push", &json!({ "ref": "refs/heads/main" }));
    stand.await_that("the new policy active", || stand.published() == ["empire", "rebels"]);
    assert_eq!(stand.forge.comments(1), Vec::<String>::new());
    stand.forge.world().down = false;
    stand.await_comment(1, "xwing");
    stand.await_that("a word that all is well", || stand.condition("PreviewsPosted").0 == "True");
}

#[test]
fn a_status_that_is_not_taken_is_logged_once_and_one_whose_author_is_not_known_keeps_none_of_the_others() {
    let stand = Stand::up();
    let alliance = [("policies/alliance.yaml", policy("alliance", "alliance"))];
    let files = alliance.each_ref().map(|(name, text)| (*name, text.as_str()));
    let first = stand.propose(1, "main", &files);
    stand.forge.world().without_status.insert(first.clone());
    stand.send_webhook("pull_request", &json!({}));
    stand.await_comment(1, &first[..12]);
    stand.await_that("a word that all is well", || stand.condition("PreviewsPosted").0 == "True");
    let second = stand.propose(1, "main", &[("policies/empire.yaml", &policy("empire", "alliance"))]);
    stand.forge.world().without_status.insert(second.clone());
    stand.send_webhook("pull_request", &json!({}));
    stand.await_comment(1, &second[..12]);
    stand.await_that("a second preview", || stand.logs().matches("pull request previewed").count() == 2);
    assert_eq!(stand.logs().matches("the commit's status is not taken").count(), 1, "{}", stand.logs());

    // From now on the token is an App's: only a status that it set says whose it is. The last one that was touched is looked at first.
    stand.forge.world().tokens.insert(crate::forge_double::TOKEN.to_owned(), "egret[bot]".to_owned());
    let good = stand.propose(2, "main", &files);
    let unknown = stand.propose(3, "main", &[("policies/empire.yaml", &policy("empire", "nobody"))]);
    stand.forge.world().without_status.insert(unknown);
    stand.send_webhook("pull_request", &json!({}));
    stand.await_comment(2, &good[..12]);
    stand.await_that("a word about the other", || {
        let (status, message) = stand.condition("PreviewsPosted");
        status == "False"
            && message.contains("pull request 3: ")
            && message.contains("does not name the account of the token")
    });
    assert_eq!(stand.forge.comments(3), Vec::<String>::new());
}

#[test]
fn another_leader_goes_on_with_the_same_comment() {
    let mut stand = Stand::up();
    stand.open(1, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);
    stand.await_comment(1, "xwing");
    stand.await_that("the last of three parts", || stand.forge.world().checks.len() == 1);
    assert_eq!(stand.forge.writes().len(), 3);
    stand.controller("two");
    stand.kill9("one");
    let holder = |stand: &Stand| {
        let lease = stand.api.get("leases.coordination.k8s.io", "egret-system", "egret-controller").unwrap_or_default();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    };
    stand.await_that("another leader", || holder(&stand) == "two");
    // It looks at what the other one said, and has nothing to add.
    stand.await_that("a look of the other leader", || stand.logs().contains("pull request previewed"));
    assert_eq!(stand.forge.writes(), Vec::<String>::new());
    let second = stand.open(1, &[("policies/empire.yaml", &policy("empire", "alliance"))]);
    stand.await_comment(1, &second[..12]);
}

/// A Service reaches any of them, and these look by themselves once an hour.
#[test]
fn a_push_that_only_a_controller_without_the_lead_hears_of_is_active_at_once() {
    let mut stand = Stand::up();
    stand.await_that("the first policy", || stand.published() == ["empire"]);
    stand.controller("two");
    stand.origin.push(&[("policies/rebels.yaml", &policy("rebels", "rebels"))], "rebels");
    stand.tell_some("push", &serde_json::json!({"ref": "refs/heads/main"}), |identity| identity == "two");
    stand.await_that("the policy that was pushed", || stand.published() == ["empire", "rebels"]);
}

#[test]
fn a_github_app_reads_the_repository_and_posts_and_a_token_that_is_taken_back_is_replaced() {
    let mut stand = Stand::empty(ForgeKind::GitHub);
    let github = Double::start();
    github.with(|state| {
        "git/policies".clone_into(&mut state.project);
        state.passwords = Some(stand.server.folder.join("users"));
    });
    let good = |numbers: std::ops::Range<u32>| numbers.map(|number| (format!("ghs_{number}"), "egret[bot]".to_owned()));
    stand.forge.world().tokens = good(1..100).collect();
    let words = [
        format!("--github-app-id={ID}"),
        format!("--github-app-key-file={}", github.key("app").display()),
        format!("--github-api={}", github.api()),
    ];
    stand.controller_with("one", &words);
    let first = stand.open(1, &[("policies/alliance.yaml", &policy("alliance", "alliance"))]);
    stand.await_comment(1, &first[..12]);
    stand.await_that("the policy active", || stand.published() == ["empire"]);
    let given = github.with(|state| state.given.clone());
    let uses: Vec<bool> = given.iter().map(|body| body["permissions"]["pull_requests"] == "write").collect();
    assert_eq!(uses.iter().filter(|of_pulls| **of_pulls).count(), 1, "{given:?}");
    // Somebody takes all tokens back: those that are given from now on are good.
    let last = u32::try_from(given.len()).expect("a number");
    stand.forge.world().tokens = good(last + 1..100).collect();
    let second = stand.open(1, &[("policies/empire.yaml", &policy("empire", "alliance"))]);
    stand.await_comment(1, &second[..12]);
    stand.await_that("a word that all is well", || stand.condition("PreviewsPosted").0 == "True");
    assert!(!stand.logs().contains("ghs_"), "{}", stand.logs());
}
