//! What goes wrong between us and a forge, and that nothing is said twice because of it.
//!
//! Deliberately absent: TLS and proxies (`https`).

use std::time::{Duration, Instant};

use egret::forge::{CheckConclusion, ForgeErrorKind, ForgeKind};

use super::{KINDS, check, forge, options, outcome, post, send};
use crate::forge_double::{Double, HEAD, TOKEN, Trouble};

#[test]
fn a_comment_whose_answer_was_lost_is_not_written_twice() {
    for kind in KINDS {
        let double = Double::start(kind);
        double.world().troubles = vec![
            ("POST", if kind == ForgeKind::GitLab { "/notes" } else { "/comments" }, Trouble::LostAnswer),
            ("POST", "/statuses", Trouble::LostAnswer),
            ("POST", "/check-runs", Trouble::LostAnswer),
        ];
        let changes = post(CheckConclusion::Changes, "1 pod would leave another way");
        let posted = send(&double, &changes).expect("it is posted");
        assert_eq!(outcome(&posted), ["created", "created", check(&double, "created")], "{kind:?}");
        let world = double.world();
        assert_eq!((world.comments.len(), world.statuses.len()), (1, 1), "{kind:?}");
        assert_eq!(world.checks.len(), usize::from(kind == ForgeKind::GitHub));
        assert_eq!(world.troubles.len(), usize::from(kind != ForgeKind::GitHub), "{kind:?}");
    }
}

#[test]
fn what_was_not_done_is_done_again() {
    for kind in KINDS {
        let double = Double::start(kind);
        double.world().troubles = vec![
            ("POST", if kind == ForgeKind::GitLab { "/notes" } else { "/comments" }, Trouble::BadGateway),
            ("GET", if kind == ForgeKind::GitLab { "/notes" } else { "/comments" }, Trouble::BadGateway),
            ("GET", if kind == ForgeKind::GitLab { "/notes" } else { "/comments" }, Trouble::LostAnswer),
        ];
        send(&double, &post(CheckConclusion::Changes, "x")).expect("it is posted");
        let world = double.world();
        assert_eq!((world.comments.len(), world.troubles.len()), (1, 0), "{kind:?}");
    }
}

#[test]
fn a_forge_that_has_had_enough_is_waited_for() {
    for kind in KINDS {
        let double = Double::start(kind);
        let status = if kind == ForgeKind::GitHub { 403 } else { 429 };
        double.world().troubles =
            vec![("GET", "/user", Trouble::RetryAfter(status, 1)), ("POST", "/statuses", Trouble::Spent(1))];
        let began = Instant::now();
        send(&double, &post(CheckConclusion::Changes, "x")).expect("it is posted");
        assert!(began.elapsed() >= Duration::from_secs(1), "it was waited for");
        let world = double.world();
        assert_eq!((world.statuses.len(), world.troubles.len()), (1, 0), "{kind:?}");
    }
}

#[test]
fn a_forge_that_has_had_enough_for_long_is_left_and_the_error_says_until_when() {
    for trouble in [Trouble::RetryAfter(429, 600), Trouble::Spent(600)] {
        let double = Double::start(ForgeKind::GitHub);
        double.world().troubles = vec![("GET", "/user", trouble)];
        let began = Instant::now();
        let error = send(&double, &post(CheckConclusion::Changes, "x")).expect_err("not now");
        assert!(began.elapsed() < Duration::from_secs(20), "nobody waited");
        let left = error.until().expect("a time").as_second() - jiff::Timestamp::now().as_second();
        assert!((500..=600).contains(&left), "{left}");
        assert!(error.retryable() && !error.denied(), "{error:?}");
    }
}

#[test]
fn a_forge_that_hangs_is_left() {
    let double = Double::start(ForgeKind::GitLab);
    let mut options = options(&double);
    options.patience = Duration::from_secs(1);
    options.https.limits.idle = Duration::from_millis(300);
    options.https.limits.connect = Duration::from_secs(5);
    options.https.limits.total = Duration::from_millis(400);
    double.world().troubles = [("GET", "/user", Trouble::Hang); 4].to_vec();
    let error = forge(options, TOKEN).post(11, HEAD, &post(CheckConclusion::Changes, "x")).expect_err("no answer");
    assert!(matches!(error.fault(), ForgeErrorKind::Http(_)) && error.retryable(), "{error:?}");
    let place = format!("ask who the token is of on 127.0.0.1:{}/mos-eisley/policies", double.port);
    assert_eq!(error.to_string(), place);
}

#[test]
fn a_repository_that_was_moved_is_not_followed() {
    let double = Double::start(ForgeKind::GitHub);
    double.world().troubles = vec![("GET", "/pulls", Trouble::Moved)];
    let error = send(&double, &post(CheckConclusion::Changes, "x")).expect_err("it is elsewhere");
    assert!(matches!(error.fault(), ForgeErrorKind::Moved { to } if to == "https://elsewhere.example/x"), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.starts_with("was the repository moved")), "{error:?}");
    assert_eq!(double.writes(), Vec::<String>::new());
}

#[test]
fn a_token_without_a_right_is_reported_with_the_right() {
    for (kind, rights) in [
        (ForgeKind::GitHub, ["`pull-requests: write`", "`statuses: write`"]),
        (ForgeKind::GitLab, ["the scope `api` and the role Developer, and the project must be there"; 2]),
        (ForgeKind::Gitea, ["the scope `write:issue`", "the scope `write:repository`"]),
    ] {
        let double = Double::start(kind);
        {
            let mut world = double.world();
            (world.may_comment, world.may_status, world.may_check) = (false, false, false);
        }
        let posted = send(&double, &post(CheckConclusion::Changes, "x")).expect("it is told, and no failure");
        assert_eq!(outcome(&posted), ["refused", "refused", check(&double, "refused")], "{kind:?}");
        let hint = |done: egret::forge::PostAction| match done {
            egret::forge::PostAction::Refused(error) => error.hint(),
            other => panic!("{other:?}"),
        };
        let expected = rights.map(|right| Some(format!("the token needs {right}")));
        assert_eq!([hint(posted.comment), hint(posted.status)], expected, "{kind:?}");
    }
    let double = Double::start(ForgeKind::GitHub);
    let error = forge(options(&double), "ghp_wrong").post(11, HEAD, &post(CheckConclusion::Changes, "x"));
    let error = error.expect_err("nobody knows that token");
    assert!(error.denied() && matches!(error.fault(), ForgeErrorKind::Refused { status: 401, .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("ghp_wrong"));
    assert_eq!(error.hint().as_deref(), Some("the token is not valid (any more)"));
}

#[test]
fn a_status_that_is_not_taken_leaves_the_comment() {
    let double = Double::start(ForgeKind::GitLab);
    double.world().troubles = vec![("POST", "/statuses", Trouble::NotTaken)];
    let posted = send(&double, &post(CheckConclusion::Changes, "x")).expect("it is posted");
    assert_eq!(outcome(&posted), ["created", "refused", "none"]);
}

#[test]
fn a_check_that_is_not_allowed_leaves_comment_and_status() {
    let double = Double::start(ForgeKind::GitHub);
    double.world().may_check = false;
    let posted = send(&double, &post(CheckConclusion::Changes, "x")).expect("it is posted");
    assert_eq!(outcome(&posted), ["created", "created", "refused"]);
    double.assert_strict();
}
