//! Commits and folders that are a kilobyte in a pack and very many in memory: from a repository on this machine and over git://.
//!
//! Deliberately absent: large files (`git`), and packs that are large themselves (`pulls`, `bad_packs`).

use std::fs;
use std::path::PathBuf;

use egret::git::access::Access;
use egret::git::files::LONGEST_TRAILERS;
use egret::git::mirror::Mirror;
use egret::git::object_limits::{LARGEST_COMMIT, LARGEST_FOLDER};
use egret::git::pull_requests::PullHead;
use egret::git::{CommitId, Error, ErrorKind};

use super::crooked::git_daemon;
use super::fixture::{Origin, PROGRAM, all};

const ROOM: u64 = 1 << 30;

/// A commit on top of main, in the bare repository, that nothing leads to yet.
fn commit(origin: &Origin, tree: &str, message: &str) -> CommitId {
    let file = origin.path().join("message");
    fs::write(&file, message).expect("a message");
    let file = file.to_str().expect("UTF-8");
    CommitId::parse(&origin.in_bare(&["commit-tree", tree, "-p", "main", "-F", file])).expect("a commit")
}

fn propose(origin: &Origin, number: u32, commit: CommitId) -> PullHead {
    let name = format!("refs/pull/{number}/head");
    origin.in_bare(&["update-ref", &name, &commit.to_string()]);
    PullHead { name, commit }
}

/// A folder of names that are no documents, and whatever else is to be in it.
fn folder(origin: &Origin, names: usize, length: usize, more: &[(&str, &str, &str)]) -> String {
    let blob = origin.in_bare(&["rev-parse", "main:a.yaml"]);
    let names: Vec<String> = (0..names).map(|number| format!("{number:0length$}")).collect();
    let mut entries: Vec<(&str, &str, &str)> =
        names.iter().map(|name| ("100644", name.as_str(), blob.as_str())).collect();
    entries.extend(more);
    origin.tree_by_hand(&entries)
}

fn each(act: impl Fn(&Origin, &mut Mirror, PathBuf)) {
    for over_git in [true, false] {
        let origin = Origin::new();
        origin.push(&[("a.yaml", "a: 1\n")], "first");
        let (_daemon, port) = git_daemon(&origin);
        let here = origin.bare.display().to_string();
        let source = if over_git { format!("git://127.0.0.1:{port}{here}") } else { here };
        let access = Access { program: PROGRAM.into(), ..Access::default() };
        let mut mirror = origin.mirror_by("state", &source, access);
        mirror.head(None).expect("a look");
        act(&origin, &mut mirror, origin.state().join("objects/pack"));
    }
}

fn is_refused(error: &Error, object: &str) {
    let Error::Oversized { id, .. } = error else { panic!("{error:?}") };
    assert_eq!((id.as_str(), error.kind()), (object, ErrorKind::NeedsIntervention), "{error}");
}

fn packs(folder: &PathBuf) -> usize {
    fs::read_dir(folder).expect("packs").count()
}

#[test]
fn a_commit_that_is_too_large_is_refused_and_others_come() {
    each(|origin, mirror, folder| {
        let message = format!("x\n\n{}", "a: b\n".repeat(LARGEST_COMMIT / 4));
        let large = propose(origin, 1, commit(origin, "main^{tree}", &message));
        let small = propose(origin, 2, commit(origin, "main^{tree}", "y\n"));
        for _ in 0..2 {
            let faults = mirror.pull_heads(&[large.clone(), small.clone()], ROOM).expect("heads");
            let [(head, Some(error))] = &faults.iter().collect::<Vec<_>>()[..] else { panic!("{faults:?}") };
            assert_eq!(*head, &large);
            is_refused(error, &large.commit.to_string());
        }
        assert!(mirror.has(small.commit));
        assert_eq!(packs(&folder), 4, "of what was refused nothing stays: {folder:?}");
    });
}

#[test]
fn a_large_commit_below_a_small_one_is_found_on_the_branch_and_when_it_is_gone_all_is_well() {
    each(|origin, mirror, _| {
        let first = origin.in_bare(&["rev-parse", "main"]);
        let large = commit(origin, "main^{tree}", &"x".repeat(LARGEST_COMMIT + 1));
        origin.in_bare(&["update-ref", "refs/heads/main", &large.to_string()]);
        let above = commit(origin, "main^{tree}", "z\n");
        origin.in_bare(&["update-ref", "refs/heads/main", &above.to_string()]);
        for _ in 0..2 {
            is_refused(&mirror.head(None).expect_err("it is too large"), &large.to_string());
        }
        origin.in_bare(&["update-ref", "refs/heads/main", &first]);
        let next = commit(origin, "main^{tree}", "next\n");
        origin.in_bare(&["update-ref", "refs/heads/main", &next.to_string()]);
        assert_eq!(mirror.head(None).expect("it is gone").commit, next);
    });
}

#[test]
fn a_folder_of_very_many_names_is_refused_wherever_it_is() {
    each(|origin, mirror, _| {
        let wide = folder(origin, LARGEST_FOLDER / 200, 200, &[]);
        let outer = origin.tree_by_hand(&[("40000", ".hidden", &wide)]);
        let head = propose(origin, 1, commit(origin, &outer, "wide\n"));
        let faults = mirror.pull_heads(std::slice::from_ref(&head), ROOM).expect("heads");
        is_refused(faults[&head].as_ref().expect("a reason"), &wide);
    });
}

#[test]
fn folders_that_are_large_together_are_refused_when_they_are_read() {
    each(|origin, mirror, _| {
        let inner = folder(origin, 20_000, 5, &[]);
        let deep = (0..30).fold(inner, |inner, _| folder(origin, 20_000, 5, &[("40000", "d", &inner)]));
        let head = propose(origin, 1, commit(origin, &deep, "deep\n"));
        assert_eq!(mirror.pull_heads(std::slice::from_ref(&head), ROOM).expect("heads").len(), 0);
        let error = mirror.files(head.commit, &all()).expect_err("too many names");
        assert_eq!(
            (error.to_string().contains("too many names"), error.kind()),
            (true, ErrorKind::NeedsIntervention),
            "{error}"
        );
    });
}

#[test]
fn trailers_are_read_at_the_end_of_a_long_message_and_not_without_end() {
    each(|origin, mirror, _| {
        let prose = "Some words.\n".repeat(LONGEST_TRAILERS / 10);
        let told = propose(origin, 1, commit(origin, "main^{tree}", &format!("x\n\n{prose}\nEgret-Emergency: yes\n")));
        let endless = "a: b\n".repeat(LONGEST_TRAILERS / 4);
        let many = propose(origin, 2, commit(origin, "main^{tree}", &format!("x\n\n{endless}")));
        assert_eq!(mirror.pull_heads(&[told.clone(), many.clone()], ROOM).expect("heads").len(), 0);
        let trailers = mirror.trailers(told.commit).expect("trailers");
        assert_eq!(trailers, [("Egret-Emergency".to_owned(), "yes".to_owned())]);
        assert_eq!(mirror.trailers(many.commit).expect("trailers"), []);
    });
}
