//! Old reports are folded into one commit, and nobody's commit is lost by it.
//!
//! Deliberately absent: what reports say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use egret::git::compact::{Compacted, compact};
use egret::git::mirror::Mirror;
use egret::git::publish::{BranchState, PublishOutcome, Target, publish};
use egret::git::signing::Signer;
use jiff::Timestamp;

use super::fixture::Origin;
use super::publishing::{BRANCH, adding, files_on_branch, publish_file, target};

pub(super) const DAY: i64 = 86_400;
pub(super) const KEEP: Duration = Duration::from_hours(90 * 24);

/// The target on a day after the epoch.
pub(super) fn on(day: i64) -> Target {
    Target { time: Timestamp::from_second(day * DAY).expect("a time"), ..target() }
}

fn report(mirror: &mut Mirror, day: i64, path: &str) {
    let published = publish(mirror, &on(day), &mut adding(path, &format!("{day}\n")), &mut |_| {}).expect("a report");
    assert!(matches!(published, PublishOutcome::Committed { .. }), "{published:?}");
}

/// A repository with a report on each of these days, each in a file of its own.
pub(super) fn history(mirror: &mut Mirror, days: &[i64]) {
    for day in days {
        report(mirror, *day, &format!("day-{day}"));
    }
}

pub(super) fn log(origin: &Origin) -> String {
    origin.in_bare(&["log", "--reverse", "--format=%at|%ct|%an|%s", BRANCH])
}

#[test]
fn what_is_old_is_one_commit_and_what_is_new_stays_as_it_was() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror();
    history(&mut mirror, &[1, 2, 3, 150, 190]);
    let (files, tip) = (files_on_branch(&origin), origin.in_bare(&["rev-parse", &format!("{BRANCH}~2")]));
    let compacted = compact(&mut mirror, &on(200), KEEP).expect("it is folded");
    assert!(matches!(compacted, Compacted::Done { folded: 3, kept: 2, .. }), "{compacted:?}");
    assert_eq!(
        log(&origin),
        format!(
            "{0}|{0}|Egret|3 earlier reports, folded into one\n{1}|{1}|Egret|Report on day-150\n{2}|{2}|Egret|Report on day-190",
            3 * DAY,
            150 * DAY,
            190 * DAY
        )
    );
    let root = origin.in_bare(&["log", "--max-parents=0", "--format=%B", BRANCH]);
    assert_eq!(
        root,
        format!(
            "3 earlier reports, folded into one\n\nThey are from 1970-01-02T00:00:00Z to 1970-01-04T00:00:00Z. The files are those of the \
             last of them, commit {tip}.\nreports.keep in egret.yaml says for how long each stays a commit of its own.\n\n\
             Egret-Cluster: kind\nEgret-Folded-Commits: 3\nEgret-Folded-From: 1970-01-02T00:00:00Z\n\
             Egret-Folded-To: 1970-01-04T00:00:00Z\nEgret-Folded-Tip: {tip}"
        )
    );
    assert_eq!(files_on_branch(&origin), files, "the files are the same");
    let at_first = origin.in_bare(&["ls-tree", "--name-only", &format!("{BRANCH}~2")]);
    assert_eq!(at_first, ".egret-reports\nday-1\nday-2\nday-3");
    origin.in_bare(&["fsck", "--strict"]);
    assert_eq!(compact(&mut mirror, &on(200), KEEP).expect("a look"), Compacted::NotYet);
    // Who comes later counts on.
    history(&mut mirror, &[200, 380]);
    let compacted = compact(&mut mirror, &on(400), KEEP).expect("it is folded");
    assert!(matches!(compacted, Compacted::Done { folded: 4, kept: 1, .. }), "{compacted:?}");
    let root =
        origin.in_bare(&["log", "--max-parents=0", "--format=%s %(trailers:key=Egret-Folded-From,valueonly)", BRANCH]);
    assert_eq!(root, "6 earlier reports, folded into one 1970-01-02T00:00:00Z");
}

#[test]
fn it_is_not_done_before_it_pays() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror();
    assert_eq!(compact(&mut mirror, &on(0), KEEP).expect("no branch"), Compacted::NotYet);
    history(&mut mirror, &[1, 2, 100]);
    assert_eq!(compact(&mut mirror, &on(180), KEEP).expect("a look"), Compacted::NotYet);
    assert!(matches!(compact(&mut mirror, &on(182), KEEP).expect("a look"), Compacted::Done { folded: 2, .. }));
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "2");
}

#[test]
fn another_writer_that_is_in_the_middle_of_a_report_plans_it_anew_on_the_new_history() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let source = origin.bare.to_str().expect("UTF-8");
    let mut other = origin.mirror_at("state-other", source, egret::git::credentials::Credentials::default());
    let mut mirror = origin.mirror();
    history(&mut mirror, &[1, 2, 3, 190]);
    let mut seen = Vec::new();
    let mut mine = adding("mine", "1\n");
    let mut replan = |state: &BranchState| {
        seen.push(state.files.keys().cloned().collect::<Vec<_>>());
        if seen.len() == 1 {
            let compacted = compact(&mut mirror, &on(200), KEEP).expect("it is folded");
            assert!(matches!(compacted, Compacted::Done { .. }), "{compacted:?}");
        }
        mine(state)
    };
    let published = publish(&mut other, &on(200), &mut replan, &mut |_| {}).expect("a report");
    assert!(matches!(published, PublishOutcome::Committed { tries: 2, .. }), "{published:?}");
    let all = vec!["day-1", "day-190", "day-2", "day-3"];
    assert_eq!(seen, [all.clone(), all]);
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "3");
    // And whoever folds while another commits has lost, and nothing of the other's is gone.
    publish_file(&mut mirror, "later", "1\n").expect("it follows a history that was made anew");
    assert_eq!(files_on_branch(&origin).len(), 7);
}

#[test]
fn a_commit_of_somebody_else_is_never_folded_nor_made_again() {
    for old in [true, false] {
        let origin = Origin::new();
        origin.push(&[("a.yaml", "a: 1\n")], "first");
        let mut mirror = origin.mirror();
        history(&mut mirror, &[1, 2]);
        let by_hand = |day: i64| {
            origin.git(&["fetch", "--quiet", "origin", BRANCH]);
            origin.git(&["checkout", "--quiet", "--detach", "FETCH_HEAD"]);
            origin.commit(&[(&format!("notes-{day}"), "mine\n")], "a note");
            let date = format!("{} +0000", day * DAY);
            origin.git(&["-c", "user.name=Ada", "commit", "--quiet", "--amend", "--no-edit", "--date", &date]);
            origin.git(&["push", "--quiet", "origin", &format!("HEAD:{BRANCH}")]);
        };
        if old {
            by_hand(3);
        }
        history(&mut mirror, &[190]);
        if !old {
            by_hand(191);
        }
        let before = origin.in_bare(&["rev-parse", BRANCH]);
        let compacted = compact(&mut mirror, &on(200), KEEP).expect("a look");
        assert!(matches!(&compacted, Compacted::Others { by, .. } if by == "Ada <ada@example.org>"), "{compacted:?}");
        assert_eq!(origin.in_bare(&["rev-parse", BRANCH]), before);
    }
}

fn key(origin: &Origin, name: &str) -> PathBuf {
    let key = origin.path().join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen is installed").success());
    key
}

/// What Git itself says of the branch's signatures, if that key is believed.
fn said_by_git(origin: &Origin, key: &Path) -> String {
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("a key");
    let allowed = origin.path().join("allowed");
    std::fs::write(&allowed, format!("egret@localhost {public}")).expect("a file");
    let config = format!("gpg.ssh.allowedSignersFile={}", allowed.display());
    origin.in_bare(&["-c", &config, "log", "--format=%G? %s", BRANCH])
}

#[test]
fn signed_reports_are_signed_again_and_never_folded_without_the_key() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let key = key(&origin, "key");
    let signed = |day: i64| Target { signer: Some(Signer::read(&key).expect("a key")), ..on(day) };
    let mut mirror = origin.mirror();
    for day in [1, 2, 3, 190] {
        let mut plan = adding(&format!("day-{day}"), "1\n");
        publish(&mut mirror, &signed(day), &mut plan, &mut |_| {}).expect("a report");
    }
    let compacted = compact(&mut mirror, &on(200), KEEP).expect("a look");
    let by = "Egret, signed with a key other than the present one";
    assert!(matches!(&compacted, Compacted::Others { by: other, .. } if other == by), "{compacted:?}");
    let compacted = compact(&mut mirror, &signed(200), KEEP).expect("it is folded");
    assert!(matches!(compacted, Compacted::Done { folded: 3, kept: 1, .. }), "{compacted:?}");
    let good = said_by_git(&origin, &key);
    assert_eq!(good, "G Report on day-190\nG 3 earlier reports, folded into one");
}

#[test]
fn what_egret_did_not_sign_is_not_signed_by_folding_it() {
    for (forged, expected) in [
        // Whoever may push can write Egret's name.
        (Some(3), "N Report on day-191\nG Report on day-190\nN 3 earlier reports, folded into one"),
        (None, "N Report on day-191\nG Report on day-190\nG 2 earlier reports, folded into one"),
    ] {
        let origin = Origin::new();
        origin.push(&[("a.yaml", "a: 1\n")], "first");
        let key = key(&origin, "key");
        let signed = |day: i64| Target { signer: Some(Signer::read(&key).expect("a key")), ..on(day) };
        let mut mirror = origin.mirror();
        for day in [Some(1), Some(2), forged, Some(190), Some(191)].into_iter().flatten() {
            let target = if [3, 191].contains(&day) { on(day) } else { signed(day) };
            let mut plan = adding(&format!("day-{day}"), "1\n");
            publish(&mut mirror, &target, &mut plan, &mut |_| {}).expect("a report");
        }
        let files = files_on_branch(&origin);
        let compacted = compact(&mut mirror, &signed(200), KEEP).expect("it is folded");
        assert!(matches!(compacted, Compacted::Done { kept: 2, .. }), "{compacted:?}");
        assert_eq!(said_by_git(&origin, &key), expected);
        assert_eq!(files_on_branch(&origin), files);
    }
}

#[test]
fn what_another_key_signed_is_left_as_it_is() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let (own, other) = (key(&origin, "own"), key(&origin, "other"));
    let signed = |day: i64, key: &Path| Target { signer: Some(Signer::read(key).expect("a key")), ..on(day) };
    let mut mirror = origin.mirror();
    for (day, key) in [(1, &own), (2, &other), (190, &own)] {
        let mut plan = adding(&format!("day-{day}"), "1\n");
        publish(&mut mirror, &signed(day, key), &mut plan, &mut |_| {}).expect("a report");
    }
    let before = origin.in_bare(&["rev-parse", BRANCH]);
    let compacted = compact(&mut mirror, &signed(200, &own), KEEP).expect("a look");
    let by = "Egret, signed with a key other than the present one";
    assert!(matches!(&compacted, Compacted::Others { by: other, .. } if other == by), "{compacted:?}");
    assert_eq!(origin.in_bare(&["rev-parse", BRANCH]), before);
}

#[test]
fn a_repository_that_takes_no_other_history_is_asked_and_left_as_it_is() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror();
    history(&mut mirror, &[1, 2, 190]);
    origin.in_bare(&["config", "receive.denyNonFastForwards", "true"]);
    let compacted = compact(&mut mirror, &on(200), KEEP).expect("a look");
    assert!(matches!(&compacted, Compacted::Refused(why) if why.contains("denyNonFastForwards")), "{compacted:?}");
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "3");
    history(&mut mirror, &[201]);
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "4", "reports go on");
}

#[test]
fn a_branch_of_somebody_else_is_not_touched() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.git(&["push", "origin", &format!("main:{BRANCH}")]);
    let error = compact(&mut origin.mirror(), &on(200), KEEP).expect_err("it is a person's branch");
    assert!(matches!(error, egret::git::Error::ForeignBranch { .. }), "{error}");
}
