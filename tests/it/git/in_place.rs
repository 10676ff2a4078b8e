//! Repositories that are opened for one reading: where they are, or with the newest commits alone; clones that lack history or files.
//!
//! Deliberately absent: how long it takes (`make bench`).

use std::fs;
use std::path::{Path, PathBuf};

use egret::core::signature::{Keys, Require};
use egret::git::access::Access;
use egret::git::mirror::{History, Mirror};
use egret::git::signature::{Unsigned, verify};
use egret::git::source::{Insecure, Source};
use egret::git::{CommitId, Error, Result};

use super::changes;
use super::crooked::{Crooked, Mood, git_daemon};
use super::fixture::{Origin, PROGRAM, all, git_command};
use super::text;

fn open(origin: &Origin, source: &str, history: History) -> Result<Mirror> {
    let source = Source::parse(source, Insecure::Allow).expect("a source");
    let access = Access { program: PROGRAM.into(), ..Access::default() };
    Mirror::open_to_read(&origin.path().join("scratch"), source, access, history)
}

fn at(origin: &Origin, path: &Path) -> Mirror {
    open(origin, path.to_str().expect("UTF-8"), History::Recent).expect("it opens")
}

/// Runs git, and wants it to do what it is told.
fn git(folder: &Path, arguments: &[&str]) {
    let output = git_command(folder).args(arguments).output().expect("git is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A clone, as CI makes one.
fn clone(origin: &Origin, arguments: &[&str]) -> PathBuf {
    let url = format!("file://{}", origin.bare.display());
    git(origin.path(), &[&["clone", "--quiet"], arguments, &[&url, "clone"]].concat());
    origin.path().join("clone")
}

/// `main` has `count` commits, and then parts into one more on `main` and one on `change`. Returns where they parted, and both.
fn parted(origin: &Origin, count: usize) -> [CommitId; 3] {
    for number in 0..count - 1 {
        origin.commit(&[("a.yaml", &format!("a: {number}\n"))], "earlier");
    }
    let base = origin.push(&[("a.yaml", "a: base\n")], "base");
    origin.git(&["checkout", "--quiet", "-b", "change"]);
    let change = origin.commit(&[("b.yaml", "b: 1\n")], "change");
    origin.git(&["push", "--quiet", "origin", "change"]);
    origin.git(&["checkout", "--quiet", "main"]);
    [base, origin.push(&[("c.yaml", "c: 1\n")], "main"), change]
}

/// Every path in a folder, with its bytes.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.clone(), fs::read(&path).expect("a file")));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_local_repository_is_read_where_it_is_and_stays_as_it_is() {
    let origin = Origin::new();
    let [base, main, change] = parted(&origin, 3);
    let before = content(&origin.bare);
    let mut there = at(&origin, &origin.bare);
    assert_eq!((there.resolve("main").expect("a branch"), there.head(None).expect("a head").commit), (main, main));
    assert_eq!(there.resolve("change~1").expect("steps back"), base);
    assert_eq!(there.resolve(&change.short()).expect("a short id"), change);
    assert_eq!(there.parted(main, change).expect("a base"), Some(base));
    assert_eq!(there.files(base, &all()).expect("files"), changes([("a.yaml", text("a: base\n"))]));
    assert_eq!(there.changes(Some(base), change, &all()).expect("what differs"), changes([("b.yaml", text("b: 1\n"))]));
    let error = there.resolve("nowhere").expect_err("no such branch");
    assert!(matches!(error, Error::UnknownRevision { .. }), "{error:?}");
    assert!(!origin.path().join("scratch").exists(), "nothing is copied");
    assert_eq!(content(&origin.bare), before);
    // A work tree that is on no branch, and one that is linked to it.
    origin.git(&["checkout", "--quiet", "--detach", "change"]);
    assert_eq!(at(&origin, &origin.work).resolve("HEAD").expect("what is checked out"), change);
    let linked = origin.path().join("linked");
    origin.git(&["worktree", "add", "--quiet", "--detach", linked.to_str().expect("UTF-8"), "main"]);
    assert_eq!(at(&origin, &linked).resolve("HEAD").expect("what is checked out"), main);
}

/// `git gc` of another process replaces the packs that a reader has open.
#[test]
fn a_repository_that_is_repacked_is_read_on() {
    let repack = |origin: &Origin| origin.in_bare(&["repack", "--quiet", "-a", "-d", "-f"]);
    for indexed in [false, true] {
        let origin = Origin::new();
        let first = origin.push(&[("a.yaml", "a: 1\n"), ("folder/b.yaml", "b: 1\n")], "first");
        repack(&origin);
        let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
        origin.in_bare(&["repack", "--quiet", "-d"]);
        if indexed {
            origin.in_bare(&["multi-pack-index", "write"]);
        }
        let mut there = at(&origin, &origin.bare);
        assert_eq!(there.resolve("main").expect("a branch"), second);
        origin.push(&[("a.yaml", "a: 3\n")], "third");
        repack(&origin);
        assert_eq!(there.files(first, &all()).expect("all of it").len(), 2, "{indexed}");
        assert_eq!(there.parted(first, second).expect("a base"), Some(first));
    }
}

#[test]
fn objects_that_another_repository_lends_are_found() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let clone = origin.path().join("clone");
    git(origin.path(), &["clone", "--quiet", "--shared", "policies.git", "clone"]);
    assert!(clone.join(".git/objects/info/alternates").exists());
    let mut there = at(&origin, &clone);
    assert_eq!(there.resolve("HEAD").expect("what is checked out"), commit);
    assert_eq!(there.files(commit, &all()).expect("files"), changes([("a.yaml", text("a: 1\n"))]));
}

#[test]
fn a_folder_with_too_many_names_is_refused_wherever_it_is() {
    let origin = Origin::new();
    // As large as it takes, from a few objects.
    let blob = origin.in_bare(&["hash-object", "-w", "--stdin"]);
    let entries: Vec<String> = (0..40_000).map(|number| format!("100644 blob {blob}\t{number:0200}\n")).collect();
    let tree = origin.tree_of(&entries.concat());
    let outer = origin.tree_of(&format!("040000 tree {tree}\tfolder\n"));
    for tree in [tree, outer] {
        let commit = origin.in_bare(&["commit-tree", &tree, "-m", "many"]);
        let commit = CommitId::parse(&commit).expect("an id");
        let error = at(&origin, &origin.bare).files(commit, &all()).expect_err("it is too large");
        assert!(matches!(error, Error::TooLarge { what, .. } if what.contains("8 MiB")), "{error:?}");
    }
}

#[test]
fn damage_is_told_and_mended_by_nobody() {
    let origin = Origin::new();
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let tree = origin.in_bare(&["rev-parse", "main^{tree}"]);
    let object = origin.bare.join("objects").join(&tree[..2]).join(&tree[2..]);
    fs::remove_file(&object).expect("the object was there");
    let before = content(&origin.bare);
    let error = at(&origin, &origin.bare).files(commit, &all()).expect_err("the tree is gone");
    assert_eq!(error.to_string(), format!("cannot read the files of a commit in {}", origin.bare.display()));
    assert_eq!(error.hint().as_deref(), Some("`git fsck` there shows whether it is broken"));
    assert_eq!(content(&origin.bare), before);
}

#[test]
fn a_shallow_clone_is_read_as_far_as_it_goes_and_what_it_lacks_is_told() {
    let origin = Origin::new();
    let [base, main, change] = parted(&origin, 3);
    let clone = clone(&origin, &["--depth=1", "--no-single-branch"]);
    let mut there = at(&origin, &clone);
    assert_eq!(
        (there.resolve("main").expect("it is there"), there.resolve("change").expect("here too")),
        (main, change)
    );
    assert_eq!(there.files(change, &all()).expect("its files").len(), 2);
    let told = |error: Error, lacks: &str| {
        assert_eq!(error.to_string(), format!("{} is a shallow clone, which lacks {lacks}", clone.display()));
        assert!(error.hint().is_some_and(|hint| hint.contains("`fetch-depth: 0`")), "{error:?}");
    };
    told(there.resolve("HEAD~1").expect_err("the history ends before"), "HEAD~1");
    told(there.resolve("release").expect_err("it was not fetched"), "release");
    told(there.resolve(&base.to_string()).expect_err("it was not fetched"), &base.to_string());
    let where_they_parted = format!("the commit where {} and {} parted", main.short(), change.short());
    told(there.parted(main, change).expect_err("it was not fetched"), &where_they_parted);
    git(&clone, &["fetch", "--quiet", "--deepen=1"]);
    assert_eq!(at(&origin, &clone).parted(main, change).expect("now it is"), Some(base));
    git(&clone, &["fetch", "--quiet", "--unshallow"]);
    assert_eq!(at(&origin, &clone).resolve("main~3").expect("all of it").short().len(), 12);
}

/// Two branches that parted long ago, were merged, and parted again: what is left of a cut history has the older base alone.
#[test]
fn a_base_behind_which_a_nearer_one_may_be_cut_off_is_none() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "old");
    origin.git(&["checkout", "--quiet", "-b", "change"]);
    let near = origin.commit(&[("b.yaml", "b: 1\n")], "near");
    for number in 0..4 {
        origin.commit(&[("b.yaml", &format!("b: {number}x\n"))], "far from near");
    }
    let shortcut = origin.in_bare(&["rev-parse", "main"]);
    let tree = origin.git(&["rev-parse", "HEAD^{tree}"]);
    let tip = origin.git(&["rev-parse", "HEAD"]);
    let merge = |parents: &[&str]| {
        let parents: Vec<&str> = parents.iter().flat_map(|parent| ["-p", parent]).collect();
        origin.git(&[&["commit-tree", &tree, "-m", "merge"], &parents[..]].concat())
    };
    // Both lead to the old commit at once, and to the nearer one by a long way.
    let one = merge(&[&tip, &shortcut]);
    let other = merge(&[&merge(&[&near.to_string(), &shortcut]), &shortcut]);
    origin.git(&["push", "--quiet", "origin", &format!("{one}:refs/heads/one"), &format!("{other}:refs/heads/other")]);
    let [one, other] = [one, other].map(|id| CommitId::parse(&id).expect("an id"));
    assert_eq!(at(&origin, &origin.bare).parted(one, other).expect("all of it"), Some(near));
    let clone = clone(&origin, &["--depth=3", "--no-single-branch"]);
    let error = at(&origin, &clone).parted(one, other).expect_err("it is cut");
    assert!(matches!(error, Error::Shallow { .. }), "{error:?}");
}

/// `actions/checkout` fetches the merge of a pull request, and nothing before it; a step of the workflow may fetch the base.
#[test]
fn the_merge_commit_that_ci_checks_out_is_compared_with_its_parents() {
    let origin = Origin::new();
    let [_, main, change] = parted(&origin, 3);
    origin.git(&["checkout", "--quiet", "--detach", "main"]);
    origin.git(&["merge", "--quiet", "--no-ff", "-m", "merge", "change"]);
    origin.git(&["push", "--quiet", "origin", "HEAD:refs/pull/7/merge"]);
    let merged = CommitId::parse(&origin.git(&["rev-parse", "HEAD"])).expect("an id");
    let folder = origin.path().join("checkout");
    fs::create_dir(&folder).expect("a folder");
    git(&folder, &["init", "--quiet"]);
    git(&folder, &["remote", "add", "origin", &format!("file://{}", origin.bare.display())]);
    git(&folder, &["fetch", "--quiet", "--depth=1", "origin", "+refs/pull/7/merge:refs/remotes/pull/7/merge"]);
    git(&folder, &["checkout", "--quiet", "refs/remotes/pull/7/merge"]);
    let mut there = at(&origin, &folder);
    assert_eq!(there.resolve("HEAD").expect("it is checked out"), merged);
    assert!(matches!(there.resolve("main"), Err(Error::Shallow { .. })));
    git(&folder, &["fetch", "--quiet", "--depth=1", "origin", "+main:refs/remotes/origin/main"]);
    let mut there = at(&origin, &folder);
    assert_eq!(there.resolve("main").expect("now it is there"), main);
    assert_eq!(there.parted(main, merged).expect("its first parent"), Some(main));
    assert_eq!(there.changes(Some(main), merged, &all()).expect("the change"), changes([("b.yaml", text("b: 1\n"))]));
    assert!(!there.has(change));
    // The commits of the change are not there, and so nobody can say who signed them.
    let verified = verify(&there, Require::Every, &Keys::default(), Some(main), merged).expect("it can be read");
    let what = "the clone is shallow: what it brings before this commit cannot be checked".to_owned();
    assert_eq!(verified, Err(Unsigned { commit: merged, what }));
}

#[test]
fn a_partial_clone_is_told_as_one() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.in_bare(&["config", "uploadpack.allowFilter", "true"]);
    let clone = clone(&origin, &["--filter=blob:none", "--no-checkout"]);
    let read = |path: &Path| -> Result<()> {
        let mut there = open(&origin, path.to_str().expect("UTF-8"), History::Recent)?;
        let commit = there.resolve("HEAD")?;
        there.files(commit, &all()).map(|_| ())
    };
    let told = |error: &Error| {
        assert!(matches!(error, Error::Partial { .. }), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("without a filter")), "{error:?}");
    };
    told(&read(&clone).expect_err("it has no files"));
    // As Git may mark one, too: libgit2 does not open it.
    git(&clone, &["config", "core.repositoryformatversion", "1"]);
    git(&clone, &["config", "extensions.partialClone", "origin"]);
    told(&read(&clone).expect_err("it has no files"));
}

/// Three hundred commits on `main`.
fn long_history(origin: &Origin) {
    let mut stream = String::new();
    for number in 0..300 {
        let (text, time) = (format!("a: {number}\n"), 1_700_000_000 + number);
        let length = text.len();
        stream.extend([
            format!("commit refs/heads/main\ncommitter a <a@b> {time} +0000\ndata 1\nc\n"),
            format!("M 100644 inline a.yaml\ndata {length}\n{text}\n"),
        ]);
    }
    origin.import(&stream);
}

/// How many commits were fetched.
fn fetched(origin: &Origin) -> usize {
    let output = git_command(&origin.path().join("scratch")).args(["rev-list", "--all", "--count"]).output();
    let count = String::from_utf8(output.expect("git is installed").stdout).expect("UTF-8");
    count.trim().parse().expect("a number")
}

#[test]
fn of_a_long_history_on_a_server_the_newest_commits_are_fetched_and_the_others_if_they_are_needed() {
    let origin = Origin::new();
    long_history(&origin);
    origin.in_bare(&["branch", "near", "main~9"]);
    origin.in_bare(&["branch", "far", "main~200"]);
    let (_server, port) = git_daemon(&origin);
    let url = format!("git://127.0.0.1:{port}{}", origin.bare.display());
    let id = |revision: &str| CommitId::parse(&origin.in_bare(&["rev-parse", revision])).expect("an id");
    let mut there = open(&origin, &url, History::Recent).expect("it opens");
    assert_eq!(there.resolve("main").expect("a branch"), id("main"));
    assert_eq!(there.files(id("main"), &all()).expect("files"), changes([("a.yaml", text("a: 299\n"))]));
    assert_eq!(there.resolve("near").expect("a branch"), id("near"));
    assert_eq!(there.parted(id("main"), id("near")).expect("near"), Some(id("near")));
    assert!(fetched(&origin) < 100, "{}", fetched(&origin));
    assert_eq!(there.resolve("far").expect("a branch"), id("far"));
    assert_eq!(there.parted(id("main"), id("far")).expect("it is fetched now"), Some(id("far")));
    assert_eq!(fetched(&origin), 300);
    fs::remove_dir_all(origin.path().join("scratch")).expect("a folder");
    let mut there = open(&origin, &url, History::Recent).expect("it opens");
    assert_eq!(there.resolve("main~150").expect("it is fetched for that"), id("main~150"));
    fs::remove_dir_all(origin.path().join("scratch")).expect("a folder");
    let mut there = open(&origin, &url, History::Recent).expect("it opens");
    assert_eq!(there.resolve(&id("main~250").to_string()).expect("by its id"), id("main~250"));
    fs::remove_dir_all(origin.path().join("scratch")).expect("a folder");
    let mut there = open(&origin, &url, History::Whole).expect("it opens");
    assert_eq!((there.resolve("main").expect("a branch"), fetched(&origin)), (id("main"), 300));
}

#[test]
fn a_name_that_the_server_does_not_have_is_no_reason_to_fetch_everything() {
    let origin = Origin::new();
    long_history(&origin);
    let (_server, port) = git_daemon(&origin);
    let url = format!("git://127.0.0.1:{port}{}", origin.bare.display());
    let mut there = open(&origin, &url, History::Recent).expect("it opens");
    there.resolve("main").expect("a branch");
    let error = there.resolve("egret/reports").expect_err("there is no such branch");
    assert!(matches!(error, Error::UnknownRevision { .. }), "{error:?}");
    assert!(fetched(&origin) < 100, "{}", fetched(&origin));
}

#[test]
fn a_server_that_cannot_leave_history_out_sends_all_of_it() {
    let origin = Origin::new();
    long_history(&origin);
    let (_server, port) = git_daemon(&origin);
    let relay = Crooked::before(port);
    relay.set(Mood::Unshallow);
    let url = format!("git://127.0.0.1:{}{}", relay.port, origin.bare.display());
    let mut there = open(&origin, &url, History::Recent).expect("it opens");
    let oldest = CommitId::parse(&origin.in_bare(&["rev-parse", "main~299"])).expect("an id");
    assert_eq!(there.resolve("main~299").expect("all of it is there"), oldest);
    assert_eq!(fetched(&origin), 300);
}
