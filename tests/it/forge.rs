//! Posting to doubles of the three forges: once and only once, whatever goes wrong between, and never over somebody else's words.
//!
//! Deliberately absent: what a preview says.

mod command;
mod openapi;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use egret::core::diagnostic::Severity;
use egret::forge::{
    Annotation, CheckConclusion, Forge, ForgeError, ForgeKind, ForgeOptions, Post, PostAction, Posted, Pull,
};
use egret::secret::Secret;
use serde_json::json;

use crate::forge_double::{Double, HEAD, Status, TOKEN};

const KINDS: [ForgeKind; 3] = [ForgeKind::GitHub, ForgeKind::GitLab, ForgeKind::Gitea];
const MARKER: &str = "<!-- egret-preview:{\"cluster\":\"prod\",\"v\":1} -->";

fn options(double: &Double) -> ForgeOptions {
    let mut options = ForgeOptions::new(double.world().kind, "mos-eisley/policies");
    options.url = Some(double.url());
    options.https.plain = true;
    options.patience = Duration::from_secs(20);
    options
}

fn forge(options: ForgeOptions, token: &str) -> Forge {
    let token = token.to_owned();
    Forge::new(options, Arc::new(move || Ok(Secret::new(token.clone())))).expect("a forge")
}

fn post(verdict: CheckConclusion, words: &str) -> Post {
    Post {
        cluster: "prod".to_owned(),
        body: format!("{MARKER}\n### {words}\n"),
        verdict,
        title: format!("prod: {words}"),
        summary: words.to_owned(),
        details: Some("https://ci.example/run/1".to_owned()),
        annotations: Vec::new(),
    }
}

fn send(double: &Double, post: &Post) -> Result<Posted, ForgeError> {
    forge(options(double), TOKEN).post(11, HEAD, post)
}

/// `created`, `same`, `refused`: what became of comment, status and check.
fn outcome(posted: &Posted) -> [&'static str; 3] {
    let word = |done: &PostAction| match done {
        PostAction::Created(_) => "created",
        PostAction::Updated(_) => "updated",
        PostAction::Same(_) => "same",
        PostAction::Unneeded => "unneeded",
        PostAction::Overtaken => "overtaken",
        PostAction::Refused(_) => "refused",
    };
    [word(&posted.comment), word(&posted.status), posted.check.as_ref().map_or("none", word)]
}

/// GitHub alone has checks.
fn check(double: &Double, there: &'static str) -> &'static str {
    if double.world().kind == ForgeKind::GitHub { there } else { "none" }
}

#[test]
fn the_first_post_is_written_the_same_again_is_not_and_another_takes_its_place() {
    for kind in KINDS {
        let double = Double::start(kind);
        let changes = post(CheckConclusion::Changes, "2 pods would leave another way");
        let posted = send(&double, &changes).expect("it is posted");
        assert_eq!(outcome(&posted), ["created", "created", check(&double, "created")], "{kind:?}");
        assert_eq!(double.writes().len(), if kind == ForgeKind::GitHub { 3 } else { 2 }, "{kind:?}");

        let again = send(&double, &Post { details: Some("https://ci.example/run/2".to_owned()), ..changes.clone() });
        assert_eq!(outcome(&again.expect("it is posted")), ["same", "same", check(&double, "same")], "{kind:?}");
        assert_eq!(double.writes(), Vec::<String>::new(), "{kind:?}");

        let failed = post(CheckConclusion::Failed, "does not validate");
        let posted = send(&double, &failed).expect("it is posted");
        assert_eq!(outcome(&posted), ["updated", "updated", check(&double, "created")], "{kind:?}");
        let world = double.world();
        let comments: Vec<&str> = world.comments.iter().map(|one| one.body.as_str()).collect();
        assert_eq!(comments, [failed.body.as_str()], "{kind:?}");
        let states: Vec<&str> = world.statuses.iter().filter_map(|one| one.set["state"].as_str()).collect();
        let bad = if kind == ForgeKind::GitLab { "failed" } else { "failure" };
        assert_eq!(states, ["success", bad], "{kind:?}");
        let name = if kind == ForgeKind::GitLab { "name" } else { "context" };
        assert_eq!(world.statuses[0].set[name], "egret/preview (prod)", "{kind:?}");
        drop(world);
        double.assert_strict();
    }
}

#[test]
fn no_comment_says_that_nothing_changes_unless_an_earlier_one_said_otherwise() {
    for kind in KINDS {
        let double = Double::start(kind);
        let nothing = post(CheckConclusion::NoChanges, "nothing changes");
        let posted = send(&double, &nothing).expect("it is posted");
        assert_eq!(outcome(&posted), ["unneeded", "created", check(&double, "created")], "{kind:?}");
        assert_eq!(double.world().comments, []);
        send(&double, &post(CheckConclusion::Changes, "1 pod would leave another way")).expect("it is posted");
        let posted = send(&double, &nothing).expect("it is posted");
        assert_eq!(outcome(&posted)[0], "updated", "{kind:?}");
        assert_eq!(double.world().comments[0].body, nothing.body);
        let pending = send(&double, &post(CheckConclusion::Pending, "is being made")).expect("it is posted");
        assert_eq!(outcome(&pending), ["unneeded", "updated", "none"], "{kind:?}");
        double.assert_strict();
    }
}

#[test]
fn a_comment_that_a_person_deleted_is_written_anew() {
    for kind in KINDS {
        let double = Double::start(kind);
        let changes = post(CheckConclusion::Changes, "1 pod would leave another way");
        send(&double, &changes).expect("it is posted");
        double.world().comments.clear();
        let posted = send(&double, &changes).expect("it is posted");
        assert_eq!(outcome(&posted), ["created", "same", check(&double, "same")], "{kind:?}");
        assert_eq!(double.world().comments.len(), 1);
        double.assert_strict();
    }
}

#[test]
fn the_own_comment_is_found_on_the_last_page_and_that_of_another_cluster_is_another() {
    for kind in KINDS {
        let double = Double::start(kind);
        for number in 0..230 {
            double.world().comment("han", &format!("comment {number}"));
        }
        let other = format!("{}\n", MARKER.replace("prod", "prod-2"));
        let (other_id, ours) = {
            let mut world = double.world();
            (world.comment("egret-bot", &other), world.comment("egret-bot", &format!("{MARKER}\nold")))
        };
        let changes = post(CheckConclusion::Changes, "1 pod would leave another way");
        let posted = send(&double, &changes).expect("it is posted");
        assert_eq!(outcome(&posted)[0], "updated", "{kind:?}");
        let world = double.world();
        let body = |id: u64| world.comments.iter().find(|one| one.id == id).map(|one| one.body.clone());
        assert_eq!((body(ours), body(other_id)), (Some(changes.body.clone()), Some(other)), "{kind:?}");
        assert_eq!(world.comments.len(), 232);
        drop(world);
        double.assert_strict();
    }
}

#[test]
fn a_comment_with_our_marker_by_somebody_else_is_theirs() {
    for kind in KINDS {
        let double = Double::start(kind);
        let theirs = format!("{MARKER}\nI am the preview\n");
        let id = double.world().comment("greedo", &theirs);
        {
            let mut world = double.world();
            world.comment("egret-bot", &format!("> {MARKER}\nour account, quoting"));
            let system = world.comment("egret-bot", MARKER);
            let note = world.comments.iter_mut().find(|one| one.id == system).expect("a note");
            note.system = kind == ForgeKind::GitLab;
            note.author = if kind == ForgeKind::GitLab { "egret-bot" } else { "greedo" }.to_owned();
        }
        let changes = post(CheckConclusion::Changes, "1 pod would leave another way");
        assert_eq!(outcome(&send(&double, &changes).expect("it is posted"))[0], "created", "{kind:?}");
        let world = double.world();
        assert_eq!(world.comments.iter().find(|one| one.id == id).map(|one| one.body.clone()), Some(theirs));
        assert_eq!(world.comments.len(), 4);
    }
}

#[test]
fn of_several_comments_of_ours_the_newest_is_kept_up_to_date() {
    let double = Double::start(ForgeKind::GitHub);
    let (old, new) = {
        let mut world = double.world();
        (
            world.comment("egret-bot", &format!("{MARKER}\nold")),
            world.comment("Egret-Bot", &format!("{MARKER}\r\nnew\r\n")),
        )
    };
    let changes = post(CheckConclusion::Changes, "x");
    send(&double, &changes).expect("it is posted");
    let bodies = |id: u64| double.world().comments.iter().find(|one| one.id == id).map(|one| one.body.clone());
    assert_eq!((bodies(old), bodies(new)), (Some(format!("{MARKER}\nold")), Some(changes.body)));
}

#[test]
fn an_app_is_known_by_the_status_that_it_set_or_by_name() {
    let double = Double::start(ForgeKind::GitHub);
    {
        let mut world = double.world();
        world.tokens.insert(TOKEN.to_owned(), "egret[bot]".to_owned());
    }
    let changes = post(CheckConclusion::Changes, "x");
    for expected in ["created", "same"] {
        assert_eq!(outcome(&send(&double, &changes).expect("it is posted"))[0], expected);
    }
    // Neither a status nor a name tells.
    {
        let mut world = double.world();
        world.may_status = false;
        world.statuses.clear();
    }
    let error = send(&double, &changes).expect_err("nobody");
    assert_eq!(
        error.hint().as_deref(),
        Some("name the author of the token's comments by --forge-author, `egret[bot]` for an app")
    );
    let named = ForgeOptions { author: Some("egret[bot]".to_owned()), ..options(&double) };
    let posted = forge(named, TOKEN).post(11, HEAD, &changes).expect("it is posted");
    assert_eq!(outcome(&posted), ["same", "refused", "same"]);
    double.assert_strict();
}

#[test]
fn whoever_else_set_the_same_status_is_not_taken_for_us() {
    for (kind, assumed) in [
        (ForgeKind::GitHub, None),
        (ForgeKind::GitHub, Some("github-actions[bot]".to_owned())),
        (ForgeKind::Gitea, None),
    ] {
        let double = Double::start(kind);
        let changes = post(CheckConclusion::Changes, "x");
        let options = ForgeOptions { assumed_author: assumed, ..options(&double) };
        let theirs = {
            let mut world = double.world();
            world.tokens.insert(TOKEN.to_owned(), "github-actions[bot]".to_owned());
            let set = json!({ "state": "success", "context": "egret/preview (prod)", "description": "x" });
            world.statuses.push(Status { commit: HEAD.to_owned(), author: "egret[bot]".to_owned(), set });
            world.comment("egret[bot]", &format!("{MARKER}\nold"))
        };
        for expected in ["created", "same"] {
            let posted = forge(options.clone(), TOKEN).post(11, HEAD, &changes).expect("it is posted");
            assert_eq!(outcome(&posted)[0], expected, "{kind:?}");
        }
        {
            let world = double.world();
            let said: Vec<(&str, &str)> =
                world.comments.iter().map(|one| (one.author.as_str(), one.body.as_str())).collect();
            let old = format!("{MARKER}\nold");
            assert_eq!(
                said,
                [("egret[bot]", old.as_str()), ("github-actions[bot]", changes.body.as_str())],
                "{kind:?}"
            );
            assert_eq!(world.comments[0].id, theirs);
        }
        // Who may not set one does not learn it from theirs.
        {
            let mut world = double.world();
            world.may_status = false;
            world.statuses.truncate(1);
        }
        let posted = forge(ForgeOptions { assumed_author: None, ..options }, TOKEN).post(11, HEAD, &changes);
        assert!(matches!(posted.expect_err("nobody").fault(), egret::forge::ForgeErrorKind::Nobody), "{kind:?}");
        double.assert_strict();
    }
}

#[test]
fn a_run_that_was_overtaken_leaves_the_comment_alone() {
    for kind in KINDS {
        let double = Double::start(kind);
        double.world().pull().head = "2".repeat(40);
        let posted = send(&double, &post(CheckConclusion::Changes, "x")).expect("it is posted");
        assert_eq!(outcome(&posted), ["overtaken", "created", check(&double, "created")], "{kind:?}");
        assert_eq!(double.world().comments, []);
    }
}

#[test]
fn all_annotations_arrive_fifty_at_a_time() {
    let double = Double::start(ForgeKind::GitHub);
    let annotation = |line: usize| Annotation {
        file: "policies/a.yaml".to_owned(),
        line,
        end_line: line,
        severity: if line.is_multiple_of(2) { Severity::Warning } else { Severity::Error },
        title: "host-bits".to_owned(),
        message: format!("line {line}"),
    };
    let many =
        Post { annotations: (1..=120).map(annotation).collect(), ..post(CheckConclusion::Failed, "does not validate") };
    assert_eq!(outcome(&send(&double, &many).expect("it is posted"))[2], "created");
    let checks = double.writes().into_iter().filter(|line| line.contains("check-runs")).count();
    assert_eq!(checks, 3);
    {
        let world = double.world();
        let run = &world.checks[0];
        let lines: Vec<u64> = run["output"]["annotations"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["start_line"].as_u64())
            .collect();
        assert_eq!(lines, (1..=120).collect::<Vec<u64>>());
        assert_eq!((&run["status"], &run["conclusion"]), (&"completed".into(), &"failure".into()));
    }
    assert_eq!(outcome(&send(&double, &many).expect("it is posted"))[2], "same");
    double.assert_strict();
}

#[test]
fn open_pull_requests_are_listed_with_what_decides_about_them() {
    for kind in KINDS {
        let double = Double::start(kind);
        let listed = |base: &str| forge(options(&double), TOKEN).open_pulls(base).expect("a list");
        let expected = Pull {
            number: 11,
            title: "Let the empire through".to_owned(),
            base: "main".to_owned(),
            head_sha: HEAD.to_owned(),
            from_fork: false,
            draft: false,
            updated: "2026-11-23T03:00:00Z".parse().expect("a time"),
        };
        assert_eq!(listed("main"), std::slice::from_ref(&expected), "{kind:?}");
        assert_eq!(listed("release"), [], "{kind:?}");
        double.world().pull().from_fork = true;
        assert_eq!(listed("main"), [Pull { from_fork: true, ..expected }], "{kind:?}");
        double.assert_strict();
    }
}
