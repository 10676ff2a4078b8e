//! Heads of pull requests, under the names that forges give them, from a repository on this machine and over git://.
//!
//! Deliberately absent: forges (`forge`), and what becomes of a head (`incluster`).

use egret::git::access::Access;
use egret::git::mirror::Mirror;
use egret::git::pull_requests::{MOST, PullHead};
use egret::git::{CommitId, Error};

use super::crooked::git_daemon;
use super::fixture::{Origin, PROGRAM, git_command};

/// More than is ever needed here.
const ROOM: u64 = 1 << 30;

/// A commit that no branch leads to, but only the name that a forge gives the head of a pull request.
fn propose(origin: &Origin, name: &str, files: &[(&str, &str)]) -> PullHead {
    origin.git(&["checkout", "--quiet", "-B", "proposal", "main"]);
    let commit = origin.commit(files, name);
    origin.git(&["push", "--quiet", "--force", "origin", &format!("HEAD:{name}")]);
    origin.git(&["checkout", "--quiet", "main"]);
    PullHead { name: name.to_owned(), commit }
}

/// The mirror's references of pull requests.
fn known(origin: &Origin, folder: &str) -> Vec<String> {
    let mut list = git_command(&origin.path().join(folder));
    list.args(["for-each-ref", "--format=%(refname)", "refs/egret/pull", "refs/egret/merge-requests"]);
    let output = list.output().expect("git is installed");
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}

fn sources(origin: &Origin) -> (super::crooked::Serving, Vec<(&'static str, String)>) {
    let (daemon, port) = git_daemon(origin);
    let here = origin.bare.display().to_string();
    (daemon, vec![("state-git", format!("git://127.0.0.1:{port}{here}")), ("state-path", here)])
}

fn mirror(origin: &Origin, folder: &str, source: &str) -> Mirror {
    origin.mirror_by(folder, source, Access { program: PROGRAM.into(), ..Access::default() })
}

#[test]
fn heads_of_pull_requests_are_fetched_followed_and_forgotten() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let (_daemon, sources) = sources(&origin);
    for (folder, source) in sources {
        let one = propose(&origin, "refs/pull/1/head", &[("a.yaml", "a: 2\n")]);
        let two = propose(&origin, "refs/merge-requests/2/head", &[("b.yaml", "b: 1\n")]);
        let mut mirror = mirror(&origin, folder, &source);
        mirror.head(None).expect("a look");
        assert_eq!(mirror.pull_heads(&[one.clone(), two.clone()], ROOM).expect("heads").len(), 0, "{source}");
        assert_eq!(mirror.merge_base(first, one.commit).expect("a base"), Some(first));
        assert_eq!(known(&origin, folder), ["refs/egret/merge-requests/2/head", "refs/egret/pull/1/head"]);
        // Its author thinks again, and pushes by force.
        let other = propose(&origin, "refs/pull/1/head", &[("c.yaml", "c: 1\n")]);
        assert_eq!(mirror.pull_heads(std::slice::from_ref(&other), ROOM).expect("heads").len(), 0);
        assert!(mirror.has(other.commit));
        assert_eq!(known(&origin, folder), ["refs/egret/pull/1/head"], "the other one was closed");
    }
}

#[test]
fn a_head_that_is_not_there_yet_keeps_none_of_the_others() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let (_daemon, sources) = sources(&origin);
    for (folder, source) in sources {
        let one = propose(&origin, "refs/pull/1/head", &[("a.yaml", &format!("a: {folder}\n"))]);
        // The forge knows of it, and Git not yet; and of a commit that is not what the name leads to.
        let absent = PullHead { name: "refs/pull/2/head".to_owned(), commit: id('a') };
        let behind = PullHead { name: "refs/pull/1/head".to_owned(), commit: id('b') };
        let mut mirror = mirror(&origin, folder, &source);
        mirror.head(None).expect("a look");
        let faults = mirror.pull_heads(&[one.clone(), absent.clone(), behind.clone()], ROOM).expect("heads");
        let faults: Vec<_> = faults.into_iter().map(|(head, fault)| (head, fault.is_none())).collect();
        assert_eq!(faults, [(behind, true), (absent, true)], "{source}");
        assert!(mirror.has(one.commit));
    }
}

#[test]
fn one_that_is_too_large_is_reported_and_the_others_come() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let (_daemon, sources) = sources(&origin);
    let (folder, source) = &sources[0];
    let one = propose(&origin, "refs/pull/1/head", &[("a.yaml", "a: 2\n")]);
    // It would cost a while to make so much that cannot be compressed: nobody compresses here.
    for git in [Origin::git, Origin::in_bare] {
        git(&origin, &["config", "core.compression", "0"]);
    }
    let huge = "x".repeat(usize::try_from(MOST).expect("a length") + (1 << 20));
    let two = propose(&origin, "refs/pull/2/head", &[("huge.txt", &huge)]);
    let three = propose(&origin, "refs/pull/3/head", &[("a.yaml", "a: 3\n")]);
    let mut mirror = mirror(&origin, folder, source);
    mirror.head(None).expect("a look");
    let faults = mirror.pull_heads(&[one.clone(), two.clone(), three.clone()], ROOM).expect("heads");
    let [(head, Some(Error::TooMuch { max_bytes, .. }))] = &faults.into_iter().collect::<Vec<_>>()[..] else {
        panic!("it is larger than that");
    };
    assert_eq!((head, *max_bytes), (&two, MOST));
    assert!(mirror.has(one.commit) && mirror.has(three.commit) && !mirror.has(two.commit));
    assert!(mirror.size() < MOST, "what was broken off is swept away");
}

#[test]
fn a_mirror_that_is_renewed_has_only_what_is_asked_for() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let numbers: String =
        (0..100_000_u64).flat_map(|number| [(number * number).to_string(), "\n".to_owned()]).collect();
    let one = propose(&origin, "refs/pull/1/head", &[("numbers.txt", &numbers)]);
    let two = propose(&origin, "refs/pull/2/head", &[("a.yaml", "a: 3\n")]);
    let mut mirror = mirror(&origin, "state", &origin.bare.display().to_string());
    mirror.head(None).expect("a look");
    assert_eq!(mirror.pull_heads(&[one.clone(), two.clone()], ROOM).expect("heads").len(), 0);
    let before = mirror.size();
    let three = propose(&origin, "refs/pull/3/head", &[("a.yaml", "a: 4\n")]);
    let faults = mirror.pull_heads(&[one.clone(), three.clone()], 100_000).expect("heads");
    let full = faults
        .into_iter()
        .map(|(head, error)| (head, matches!(error, Some(Error::TooMuch { max_bytes: 100_000, .. }))));
    assert_eq!(full.collect::<Vec<_>>(), [(three, true)], "there is no more room");
    mirror.renew();
    assert_eq!(mirror.head(None).expect("a look").commit, first);
    assert_eq!(mirror.pull_heads(std::slice::from_ref(&two), ROOM).expect("heads").len(), 0);
    assert!(mirror.has(two.commit) && !mirror.has(one.commit));
    assert!(before > 100_000 && mirror.size() < 10_000, "{before} and {} bytes", mirror.size());
}

fn id(digit: char) -> CommitId {
    CommitId::parse(&String::from(digit).repeat(40)).expect("an id")
}
