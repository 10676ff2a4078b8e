//! Reports: who wins a race, whose branch it is, and that nobody's commit is lost.
//!
//! Deliberately absent: what reports say.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use egret::backoff::Backoff;
use egret::git::credentials::Credentials;
use egret::git::mirror::Mirror;
use egret::git::publish::{Author, BranchState, Draft, PublishOutcome, Target, publish};
use egret::git::{Error, ErrorKind};
use jiff::Timestamp;

use super::fixture::Origin;

pub(super) const BRANCH: &str = "egret/reports/kind";

pub(super) fn target() -> Target {
    Target {
        branch: BRANCH.to_owned(),
        policy_branch: "main".to_owned(),
        identity: "kind".to_owned(),
        author: Author::default(),
        time: Timestamp::UNIX_EPOCH,
        signer: None,
    }
}

/// Adds one file to what is there.
pub(super) fn adding(path: &str, content: &str) -> impl FnMut(&BranchState) -> Option<Draft> + use<> {
    let (path, content) = (path.to_owned(), content.to_owned());
    move |state| {
        let mut files = state.files.clone();
        files.insert(path.clone(), content.clone());
        let trailers = vec![("Egret-File".to_owned(), path.clone())];
        Some(Draft { files, message: format!("Report on {path}"), trailers })
    }
}

/// Waits between tries as the loop does, only shorter: without it, the lock that another holds for a moment is run into five
/// times within that moment.
pub(super) fn publish_file(mirror: &mut Mirror, path: &str, content: &str) -> Result<PublishOutcome, Error> {
    let mut backoff = Backoff::new(path.bytes().map(u64::from).sum());
    let mut pause = |tries| thread::sleep(backoff.spread(Duration::from_millis(40) * tries));
    publish(mirror, &target(), &mut adding(path, content), &mut pause)
}

pub(super) fn files_on_branch(origin: &Origin) -> BTreeMap<String, String> {
    let names = origin.in_bare(&["ls-tree", "-r", "--name-only", BRANCH]);
    names.lines().map(|name| (name.to_owned(), origin.in_bare(&["show", &format!("{BRANCH}:{name}")]))).collect()
}

#[test]
fn the_first_report_makes_an_orphan_branch_and_the_same_report_makes_no_commit() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror();
    let published = publish_file(&mut mirror, "nodes/kind-worker.yaml", "drift: 1\n").expect("a report");
    let PublishOutcome::Committed { commit, tries: 1 } = published else { panic!("{published:?}") };
    assert_eq!(origin.in_bare(&["rev-parse", BRANCH]), commit.to_string());
    assert_eq!(
        origin.in_bare(&["log", "--format=%P|%an <%ae>|%at|%B", BRANCH]),
        "|Egret <egret@localhost>|0|Report on nodes/kind-worker.yaml\n\nEgret-File: nodes/kind-worker.yaml"
    );
    let expected = [(".egret-reports", "kind"), ("nodes/kind-worker.yaml", "drift: 1")];
    assert_eq!(files_on_branch(&origin), expected.map(|(path, text)| (path.to_owned(), text.to_owned())).into());
    origin.in_bare(&["fsck", "--strict"]);
    let again = publish_file(&mut mirror, "nodes/kind-worker.yaml", "drift: 1\n").expect("the same report");
    assert_eq!(again, PublishOutcome::Unchanged);
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "1");
    let declined = publish(&mut mirror, &target(), &mut |_| None, &mut |_| {}).expect("nothing to say");
    assert_eq!(declined, PublishOutcome::Declined);
}

#[test]
fn two_publishers_at_once_lose_nothing() {
    const REPORTS: usize = 8;
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for node in ["one", "two"] {
            let start = &start;
            let source = origin.bare.to_str().expect("UTF-8");
            let mut mirror = origin.mirror_at(&format!("state-{node}"), source, Credentials::default());
            scope.spawn(move || {
                start.wait();
                for report in 0..REPORTS {
                    let published =
                        publish_file(&mut mirror, &format!("{node}/{report}"), "drift\n").expect("a report");
                    assert!(matches!(published, PublishOutcome::Committed { .. }), "{published:?}");
                }
            });
        }
    });
    let mut expected: Vec<String> =
        ["one", "two"].iter().flat_map(|node| (0..REPORTS).map(move |report| format!("{node}/{report}"))).collect();
    expected.insert(0, ".egret-reports".to_owned());
    assert_eq!(files_on_branch(&origin).into_keys().collect::<Vec<_>>(), expected);
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), (2 * REPORTS).to_string(), "one commit a report");
}

#[test]
fn of_two_who_make_the_branch_at_once_none_is_lost() {
    for _ in 0..10 {
        let origin = Origin::new();
        origin.push(&[("a.yaml", "a: 1\n")], "first");
        let (origin, start) = (&origin, &Barrier::new(2));
        thread::scope(|scope| {
            for node in ["one", "two"] {
                let source = origin.bare.to_str().expect("UTF-8");
                let mut mirror = origin.mirror_at(&format!("state-{node}"), source, Credentials::default());
                scope.spawn(move || {
                    start.wait();
                    publish_file(&mut mirror, node, "drift\n").expect("a report");
                });
            }
        });
        assert_eq!(files_on_branch(origin).into_keys().collect::<Vec<_>>(), [".egret-reports", "one", "two"]);
    }
}

#[test]
fn a_lost_race_is_planned_anew_with_what_the_other_pushed() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut other = origin.mirror_at("state-other", origin.bare.to_str().expect("UTF-8"), Credentials::default());
    publish_file(&mut other, "zero", "0\n").expect("a report");
    let mut mirror = origin.mirror();
    let mut seen = Vec::new();
    let mut mine = adding("mine", "1\n");
    let mut replan = |state: &BranchState| {
        seen.push(state.files.keys().cloned().collect::<Vec<_>>());
        if seen.len() == 1 {
            publish_file(&mut other, "theirs", "2\n").expect("the other is faster");
        }
        mine(state)
    };
    let mut pauses = Vec::new();
    let published = publish(&mut mirror, &target(), &mut replan, &mut |tries| pauses.push(tries)).expect("a report");
    assert!(matches!(published, PublishOutcome::Committed { tries: 2, .. }), "{published:?}");
    assert_eq!(seen, [vec!["zero"], vec!["theirs", "zero"]]);
    assert_eq!(pauses, [1]);
    assert_eq!(files_on_branch(&origin).into_keys().collect::<Vec<_>>(), [".egret-reports", "mine", "theirs", "zero"]);
}

#[test]
fn who_is_always_overtaken_gives_up_after_five_tries_and_may_come_back() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut other = origin.mirror_at("state-other", origin.bare.to_str().expect("UTF-8"), Credentials::default());
    let mut mirror = origin.mirror();
    let mut count = 0;
    let mut mine = adding("mine", "1\n");
    let mut replan = |state: &BranchState| {
        count += 1;
        publish_file(&mut other, "theirs", &format!("{count}\n")).expect("the other is faster");
        mine(state)
    };
    let error = publish(&mut mirror, &target(), &mut replan, &mut |_| {}).expect_err("always too late");
    assert!(matches!(error, Error::LostRace { tries: 5, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(files_on_branch(&origin)["theirs"], "5");
}

#[test]
fn a_branch_of_somebody_else_is_never_written_to() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.git(&["push", "origin", &format!("main:{BRANCH}")]);
    let mut mirror = origin.mirror();
    let error = publish_file(&mut mirror, "mine", "1\n").expect_err("it is a person's branch");
    assert!(matches!(error, Error::ForeignBranch { .. }), "{error}");
    assert_eq!(origin.in_bare(&["rev-parse", BRANCH]), commit.to_string());

    origin.in_bare(&["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    publish_file(&mut mirror, "mine", "1\n").expect("a new branch");
    let other = egret::git::publish::Target { identity: "other".to_owned(), ..target() };
    let error = publish(&mut mirror, &other, &mut adding("theirs", "1\n"), &mut |_| {}).expect_err("another cluster's");
    assert!(error.to_string().ends_with("its .egret-reports says \"kind\""), "{error}");
}

#[test]
fn a_local_repository_with_a_hook_that_may_refuse_is_not_written_past_it() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.hook("pre-receive", "exit 1");
    let error = publish_file(&mut origin.mirror(), "mine", "1\n").expect_err("a hook decides");
    assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NeedsIntervention);
    assert_eq!(origin.in_bare(&["branch", "--list", BRANCH]), "");
}

#[test]
fn a_report_cannot_leave_its_branch_nor_be_file_and_folder_at_once() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror();
    for paths in [vec!["../x"], vec![".git/config"], vec!["a", "a/b"], vec![".egret-reports/x"]] {
        let mut replan = |_: &BranchState| {
            let files = paths.iter().map(|path| ((*path).to_owned(), String::new())).collect();
            Some(Draft { files, message: "x".to_owned(), trailers: vec![] })
        };
        let error = publish(&mut mirror, &target(), &mut replan, &mut |_| {}).expect_err("no such file");
        assert!(matches!(error, Error::BadReportFile { .. }), "{paths:?}: {error}");
    }
}

#[test]
fn a_pushed_report_leaves_no_folder_that_its_owner_cannot_write_to() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let loose = || origin.in_bare(&["count-objects"]);
    let before = loose();
    publish_file(&mut origin.mirror(), "mine", "1\n").expect("a report");
    assert_eq!(loose(), before, "the objects came as a pack");
}

#[test]
fn a_mirror_full_of_own_reports_is_made_anew_by_the_next_one() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror();
    publish_file(&mut mirror, "one", "1\n").expect("a report");
    // What some thousand reports leave.
    let folder = origin.state().join("objects/17");
    std::fs::create_dir_all(&folder).expect("a folder");
    for number in 0..10 {
        std::fs::write(folder.join(format!("{number:038x}")), "").expect("a file");
    }
    publish_file(&mut mirror, "two", "2\n").expect("another report");
    assert!(!folder.join(format!("{:038x}", 0)).exists());
    assert_eq!(files_on_branch(&origin).into_keys().collect::<Vec<_>>(), [".egret-reports", "one", "two"]);
    origin.assert_mirror_is_sound();
}
