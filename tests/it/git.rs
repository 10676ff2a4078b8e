//! The Git edge against real repositories, made and pushed to with the `git` program.
//!
//! Deliberately absent: timing; what is measured stands in docs, not in tests.

mod admission;
mod app;
mod bad_packs;
mod bad_pushes;
mod bad_servers;
mod bad_web;
pub(crate) mod crooked;
pub(crate) mod fixture;
mod folding;
pub(crate) mod https;
mod in_place;
mod keeping;
mod publishing;
mod pulls;
mod reading;
mod refusals;
mod rot;
mod servers;
mod signatures;
mod sizes;
pub(crate) mod ssh;
mod ssh_keys;
mod vanishing;
mod watching;
mod ways_in;

use std::fs;

use egret::git::files::{FileChange, Refusal};
use egret::git::mirror::Head;
use egret::git::{CommitId, Error, ErrorKind};

use fixture::{Origin, all};

fn text(text: &str) -> FileChange {
    FileChange::Text(text.to_owned())
}

fn changes<const N: usize>(files: [(&str, FileChange); N]) -> std::collections::BTreeMap<String, FileChange> {
    files.into_iter().map(|(path, change)| (path.to_owned(), change)).collect()
}

#[test]
fn a_first_look_fetches_and_the_next_only_lists() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n"), ("docs/README.md", "no policy\n")], "first");
    let mut mirror = origin.mirror();
    let head = |moved| Head { branch: "main".to_owned(), commit, moved };
    assert_eq!(mirror.head(None).expect("the first look"), head(true));
    assert_eq!(mirror.head(None).expect("the second look"), head(false));
    assert_eq!(mirror.head(Some("main")).expect("by name"), head(false));
    assert_eq!(mirror.files(commit, &all()).expect("its files"), changes([("a.yaml", text("a: 1\n"))]));
}

#[test]
fn a_file_url_is_the_same_repository() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror_of(&format!("file://{}", origin.bare.display()));
    assert_eq!(mirror.head(None).expect("a look").commit, commit);
}

#[test]
fn a_push_shows_only_what_differs() {
    let origin = Origin::new();
    let first =
        origin.push(&[("a.yaml", "a: 1\n"), ("x/b.yml", "b: 1\n"), ("x/c.json", "{}"), ("x/c/d.yaml", "")], "first");
    let mut mirror = origin.mirror();
    mirror.head(None).expect("the first look");
    origin.remove("x/c.json");
    let second = origin.push(&[("a.yaml", "a: 2\n"), ("x/e.yaml", "e: 1\n"), (".github/ci.yaml", "hidden")], "second");
    assert_eq!(mirror.head(None).expect("a look"), Head { branch: "main".to_owned(), commit: second, moved: true });
    let expected = [("a.yaml", text("a: 2\n")), ("x/c.json", FileChange::Removed), ("x/e.yaml", text("e: 1\n"))];
    assert_eq!(mirror.changes(Some(first), second, &all()).expect("changes"), changes(expected));
    assert_eq!(mirror.changes(Some(second), second, &all()).expect("nothing"), changes([]));
    let below_x = mirror.changes(Some(first), second, &["x".to_owned()]).expect("below one folder");
    assert_eq!(below_x, changes([("x/c.json", FileChange::Removed), ("x/e.yaml", text("e: 1\n"))]));
    let one_file = mirror.files(second, &["a.yaml".to_owned(), "x/c".to_owned()]).expect("a file and a folder");
    assert_eq!(one_file, changes([("a.yaml", text("a: 2\n")), ("x/c/d.yaml", text(""))]));
}

#[test]
fn a_file_that_becomes_a_folder_is_removed_and_its_files_are_new() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.remove("a.yaml");
    let second = origin.push(&[("a.yaml/b.yaml", "b: 1\n")], "second");
    let mut mirror = origin.mirror();
    mirror.head(None).expect("a look");
    let expected = changes([("a.yaml", FileChange::Removed), ("a.yaml/b.yaml", text("b: 1\n"))]);
    assert_eq!(mirror.changes(Some(first), second, &all()).expect("changes"), expected);
}

#[test]
fn one_file_of_a_thousand_is_read_alone() {
    let origin = Origin::new();
    let names: Vec<String> = (0..1_000).map(|number| format!("team{}/policy{number}.yaml", number / 100)).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "a: 1\n")).collect();
    let first = origin.push(&files, "a thousand");
    let mut mirror = origin.mirror();
    mirror.head(None).expect("the first look");
    let second = origin.push(&[("team3/policy342.yaml", "a: 2\n")], "one");
    mirror.head(None).expect("a look");
    // Every other folder is taken away from the mirror: whoever opens one fails.
    for team in (0..10).filter(|team| *team != 3) {
        origin.forget_in_mirror(&format!("main:team{team}"));
    }
    let mirror = origin.mirror();
    let expected = changes([("team3/policy342.yaml", text("a: 2\n"))]);
    assert_eq!(mirror.changes(Some(first), second, &all()).expect("changes"), expected);
    assert!(mirror.files(second, &all()).is_err(), "the other folders are not there to be read");
}

#[test]
fn a_force_push_is_followed() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    let mut mirror = origin.mirror();
    assert_eq!(mirror.head(None).expect("a look").commit, second);
    origin.git(&["reset", "--hard", &first.to_string()]);
    let other = origin.commit(&[("b.yaml", "b: 1\n")], "another second");
    origin.git(&["push", "--force", "origin", "main"]);
    assert_eq!(mirror.head(None).expect("a look").commit, other);
    let expected = changes([("a.yaml", text("a: 1\n")), ("b.yaml", text("b: 1\n"))]);
    assert_eq!(mirror.changes(Some(second), other, &all()).expect("from the lost commit"), expected);
}

#[test]
fn what_is_not_there_is_told_apart() {
    let origin = Origin::new();
    let mut mirror = origin.mirror();
    let empty = mirror.head(None).expect_err("nothing was pushed");
    assert!(matches!(empty, Error::Empty { .. }), "{empty}");
    assert_eq!(empty.kind(), ErrorKind::NeedsIntervention);
    let last = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.git(&["push", "origin", "main:side"]);
    let unknown = mirror.head(Some("mian")).expect_err("there is no such branch");
    assert_eq!(unknown.to_string(), format!("{} has no branch \"mian\"", origin.bare.display()));
    assert_eq!(unknown.hint().as_deref(), Some("it has main, side"));
    mirror.head(Some("side")).expect("a look");
    origin.git(&["push", "origin", ":side"]);
    let deleted = mirror.head(Some("side")).expect_err("it was deleted");
    assert!(matches!(deleted, Error::BranchDeleted { last: was, .. } if was == last), "{deleted}");
    origin.in_bare(&["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    let headless = mirror.head(None).expect_err("HEAD names no branch");
    assert!(matches!(headless, Error::NoDefaultBranch { .. }), "{headless}");
    fs::remove_dir_all(&origin.bare).expect("the repository goes away");
    let gone = mirror.head(None).expect_err("the repository is gone");
    assert!(matches!(gone, Error::NoRepository { .. }), "{gone}");
    assert!(mirror.has(last), "what was fetched stays");
}

#[test]
fn people_name_commits_by_branch_tag_id_and_steps_back() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.git(&["tag", "-a", "v1", "-m", "a tag"]);
    origin.git(&["push", "origin", "v1"]);
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    let mut mirror = origin.mirror();
    let first_text = first.to_string();
    for (revision, commit) in [
        ("HEAD", second),
        ("HEAD~1", first),
        ("main~", first),
        ("v1", first),
        (&first_text, first),
        (&first_text[..7], first),
    ] {
        assert_eq!(mirror.resolve(revision).expect(revision), commit, "{revision}");
    }
    for revision in ["HEAD~2", "v2", "0123456789012345678901234567890123456789", "0123456"] {
        let error = mirror.resolve(revision).expect_err(revision);
        assert!(matches!(error, Error::UnknownRevision { .. }), "{error}");
    }
    assert!(matches!(mirror.resolve(":/first"), Err(Error::BadRevision { .. })));
}

#[test]
fn a_commit_names_its_author_and_the_history_who_changed_a_file() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", "a: 1\n"), ("b.yaml", "b: 1\n")], "first\n\nwith a body");
    let second = origin.push(&[("b.yaml", "b: 2\n")], "second");
    let third = origin.push(&[("c.yaml", "c: 1\n")], "third");
    let mut mirror = origin.mirror();
    mirror.head(None).expect("a look");
    let info = mirror.commit_info(first).expect("the first commit");
    assert_eq!((info.summary.as_str(), info.author.as_str()), ("first", "Ada <ada@example.org>"));
    assert_eq!((info.time.to_string().as_str(), info.parents), ("2025-01-02T03:04:05Z", vec![]));
    assert_eq!(mirror.commit_info(second).expect("the second").parents, [first]);
    for (path, commit) in [("a.yaml", Some(first)), ("b.yaml", Some(second)), ("c.yaml", Some(third)), ("d.yaml", None)]
    {
        assert_eq!(mirror.last_change(path, third).expect(path).map(|info| info.id), commit, "{path}");
    }
}

#[test]
fn links_submodules_and_what_is_no_text_are_refused_by_name() {
    let origin = Origin::new();
    fs::create_dir_all(&origin.work).expect("a work tree");
    std::os::unix::fs::symlink("/etc/passwd", origin.work.join("link.yaml")).expect("a link");
    fs::write(origin.work.join("latin1.yaml"), b"a: \xe4\n").expect("a file");
    let utf16: Vec<u8> = "kind: EgressPolicy\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(origin.work.join("utf16.yaml"), [&[0xff, 0xfe][..], &utf16].concat()).expect("a file");
    std::os::unix::fs::symlink("elsewhere", origin.work.join("policies")).expect("a link in the place of a folder");
    fs::write(origin.work.join(".egret.yaml"), "a: 1\n").expect("a file");
    fs::write(origin.work.join(".hidden.yaml"), "a: 1\n").expect("a file");
    fs::write(origin.work.join("huge.yaml"), "#".repeat((1 << 20) + 1)).expect("a file");
    fs::write(origin.work.join("bell\x07.yaml"), "kind: EgressPolicy\n").expect("a file");
    fs::write(origin.work.join("belt\x07.yaml"), "a: 1\n").expect("a file");
    origin.git(&["update-index", "--add", "--cacheinfo", "160000,0123456789012345678901234567890123456789,module"]);
    let commit = origin.push(&[("good.yaml", "a: 1\n")], "all kinds");
    let mut mirror = origin.mirror();
    mirror.head(None).expect("a look");
    let refused = FileChange::Refused;
    let expected = changes([
        (".egret.yaml", text("a: 1\n")),
        ("bell\\u{7}.yaml", refused(Refusal::Name)),
        ("belt\\u{7}.yaml", refused(Refusal::Binary)),
        ("good.yaml", text("a: 1\n")),
        ("huge.yaml", refused(Refusal::TooLarge((1 << 20) + 1))),
        ("latin1.yaml", refused(Refusal::Binary)),
        ("link.yaml", refused(Refusal::Symlink)),
        ("module", refused(Refusal::Submodule)),
        ("policies", refused(Refusal::Symlink)),
        ("utf16.yaml", refused(Refusal::NotUtf8)),
    ]);
    assert_eq!(mirror.files(commit, &all()).expect("the files"), expected);
}

#[test]
fn a_tree_made_by_hand_leads_nowhere() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let blob = origin.in_bare(&["rev-parse", "main:a.yaml"]);
    let inner = origin.tree_by_hand(&[("100644", "evil.yaml", &blob)]);
    let evil =
        origin.tree_by_hand(&[("40000", "..", &inner), ("100644", "a.yaml", &blob), ("100644", "x/y.yaml", &blob)]);
    let commit = CommitId::parse(&origin.in_bare(&["commit-tree", &evil, "-m", "by hand"])).expect("a commit");
    origin.in_bare(&["update-ref", "refs/heads/main", &commit.to_string()]);
    let mut mirror = origin.mirror();
    mirror.head(None).expect("a look");
    let refused = || FileChange::Refused(Refusal::Binary);
    let expected = changes([("..", refused()), ("a.yaml", text("a: 1\n")), ("x/y.yaml", refused())]);
    assert_eq!(mirror.files(commit, &all()).expect("the files"), expected);
}

#[test]
fn folders_without_end_are_refused() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let blob = origin.in_bare(&["rev-parse", "main:a.yaml"]);
    let leaf = origin.tree_by_hand(&[("100644", "a.yaml", &blob)]);
    let deep = (0..70).fold(leaf, |inner, _| origin.tree_by_hand(&[("40000", "d", &inner)]));
    let commit = CommitId::parse(&origin.in_bare(&["commit-tree", &deep, "-m", "deep"])).expect("a commit");
    origin.in_bare(&["update-ref", "refs/heads/main", &commit.to_string()]);
    let mut mirror = origin.mirror();
    mirror.head(None).expect("a look");
    let error = mirror.files(commit, &all()).expect_err("it is too deep");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn a_broken_mirror_is_made_anew_by_itself() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror();
    mirror.head(None).expect("a look");
    origin.break_mirror();
    let mut mirror = origin.mirror();
    assert_eq!(mirror.head(None).expect("it heals").commit, commit);
    assert_eq!(mirror.files(commit, &all()).expect("its files"), changes([("a.yaml", text("a: 1\n"))]));
    fs::write(origin.state().join("HEAD"), "garbage").expect("a broken HEAD");
    assert_eq!(origin.mirror().head(None).expect("it heals").commit, commit);
}

#[test]
fn a_mirror_that_lost_a_file_is_made_anew_at_the_next_look() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.mirror().head(None).expect("a look");
    origin.forget_in_mirror("main:a.yaml");
    let mut mirror = origin.mirror();
    let error = mirror.files(commit, &all()).expect_err("the file is lost");
    assert_eq!(error.kind(), ErrorKind::Transient);
    mirror.head(None).expect("it heals");
    assert_eq!(mirror.files(commit, &all()).expect("its files"), changes([("a.yaml", text("a: 1\n"))]));
}

#[test]
fn a_branch_whose_name_is_not_utf8_hides_no_other() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.push_latin1_branch();
    assert_eq!(origin.mirror().head(None).expect("a look").commit, commit);
}

#[test]
fn a_repository_of_another_user_is_not_trusted_unasked() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    std::os::unix::fs::chown(&origin.bare, Some(65534), Some(65534)).expect("tests run as root");
    let error = origin.mirror().head(None).expect_err("it is somebody else's");
    assert!(matches!(error, Error::ForeignOwner { .. }), "{error:?}");
}

#[test]
fn a_mirror_of_another_source_is_replaced_and_a_foreign_folder_is_not() {
    let origin = Origin::new();
    let other = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let commit = other.push(&[("b.yaml", "b: 1\n")], "other");
    origin.mirror().head(None).expect("a look");
    let mut mirror = origin.mirror_of(&other.bare.display().to_string());
    assert_eq!(mirror.head(None).expect("a look").commit, commit);
    fs::remove_dir_all(origin.state()).expect("the mirror goes");
    fs::create_dir_all(origin.state()).expect("a folder");
    fs::write(origin.state().join("thesis.tex"), "years of work").expect("a file");
    assert!(matches!(origin.try_mirror(), Err(Error::NotOurFolder { .. })));
    assert_eq!(fs::read_to_string(origin.state().join("thesis.tex")).expect("it is still there"), "years of work");
}
