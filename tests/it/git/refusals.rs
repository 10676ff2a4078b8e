//! Servers that take no report, or not every one, and people who change the branch: over ssh with sshd, and over https with lighttpd.
//!
//! Deliberately absent: tokens that may read only (`servers`, `bad_web`), servers that misbehave (`bad_servers`), and what the publisher's thread makes of it (`keeping`).

use std::fs;
use std::thread;

use egret::git::compact::{Compacted, compact};
use egret::git::mirror::Mirror;
use egret::git::{Error, ErrorKind};

use super::fixture::Origin;
use super::folding::{KEEP, history, on};
use super::https::Https;
use super::publishing::{BRANCH, files_on_branch, publish_file};
use super::ssh::Server;

/// A server of one kind, and mirrors of it.
enum Kind {
    Ssh(Server),
    Https(Https),
}

impl Kind {
    /// One of each, each with a repository of its own.
    fn both(act: impl Fn(&Origin, &Self)) {
        for https in [false, true] {
            let origin = Origin::new();
            origin.push(&[("a.yaml", "a: 1\n")], "first");
            let kind = if https { Self::Https(Https::start(&origin)) } else { Self::Ssh(Server::start(&origin)) };
            act(&origin, &kind);
        }
    }

    fn mirror(&self, origin: &Origin, state: &str) -> Mirror {
        match self {
            Self::Ssh(server) => server.mirror(origin, state),
            Self::Https(server) => origin.mirror_by(state, &server.source, server.ada()),
        }
    }
}

/// A refusal, for good until somebody does something; its reason.
fn refusal(error: &Error) -> String {
    let Error::ReadOnly { why, .. } = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), ErrorKind::NeedsIntervention);
    assert!(error.hint().is_some_and(|hint| hint.starts_with("allow Egret's key to push to that branch")), "{error:?}");
    why.clone()
}

#[test]
fn two_writers_at_once_lose_nothing_on_real_servers() {
    Kind::both(|origin, server| {
        thread::scope(|scope| {
            for node in ["one", "two"] {
                scope.spawn(move || {
                    let mut mirror = server.mirror(origin, &format!("state-{node}"));
                    for report in 0..3 {
                        publish_file(&mut mirror, &format!("{node}/{report}"), "drift\n").expect("a report");
                    }
                });
            }
        });
        let expected = [".egret-reports", "one/0", "one/1", "one/2", "two/0", "two/1", "two/2"];
        assert_eq!(files_on_branch(origin).into_keys().collect::<Vec<_>>(), expected);
        assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "6");
    });
}

#[test]
fn a_protected_branch_is_reported_with_the_words_of_its_hook() {
    Kind::both(|origin, server| {
        let mut mirror = server.mirror(origin, "state");
        for hook in ["pre-receive", "update"] {
            origin.hook(hook, "echo 'GL-HOOK-ERR: protected;'; echo 'ask the \x1b[31mplatform team' >&2; exit 1");
            let why = refusal(&publish_file(&mut mirror, "mine", "1\n").expect_err("a hook says no"));
            let (declined, more) = if hook == "update" {
                ("hook declined", format!(" error: hook declined to update refs/heads/{BRANCH}"))
            } else {
                ("pre-receive hook declined", String::new())
            };
            assert_eq!(why, format!("{declined}: GL-HOOK-ERR: protected; ask the [31mplatform team{more}"));
            fs::remove_file(origin.bare.join("hooks").join(hook)).expect("the hook goes");
        }
        publish_file(&mut mirror, "mine", "1\n").expect("the branch is free again");
        assert_eq!(origin.in_bare(&["branch", "--list", "--format=%(refname:short)"]), format!("{BRANCH}\nmain"));
    });
}

#[test]
fn old_reports_are_folded_on_real_servers_unless_those_take_no_other_history() {
    Kind::both(|origin, server| {
        let mut mirror = server.mirror(origin, "state");
        history(&mut mirror, &[1, 2, 190]);
        let files = files_on_branch(origin);
        origin.in_bare(&["config", "receive.denyNonFastForwards", "true"]);
        let refused = compact(&mut mirror, &on(200), KEEP).expect("a look");
        assert!(matches!(&refused, Compacted::Refused(why) if why.contains("non-fast-forward")), "{refused:?}");
        assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "3");
        publish_file(&mut mirror, "goes-on", "1\n").expect("reports go on");
        origin.in_bare(&["config", "receive.denyNonFastForwards", "false"]);
        let folded = compact(&mut mirror, &on(200), KEEP).expect("a look");
        assert!(matches!(folded, Compacted::Done { folded: 2, kept: 2, .. }), "{folded:?}");
        let mut after = files_on_branch(origin);
        assert_eq!(after.remove("goes-on").as_deref(), Some("1"));
        assert_eq!(after, files);
        origin.in_bare(&["fsck", "--strict"]);
    });
}

#[test]
fn what_others_do_to_the_branch_is_followed_or_left_alone() {
    Kind::both(|origin, server| {
        let mut mirror = server.mirror(origin, "state");
        publish_file(&mut mirror, "one", "1\n").expect("a report");
        publish_file(&mut mirror, "two", "2\n").expect("a report");
        // Somebody takes the last report back: our marker is still there.
        origin.in_bare(&["update-ref", &format!("refs/heads/{BRANCH}"), &format!("{BRANCH}~1")]);
        publish_file(&mut mirror, "three", "3\n").expect("what is there counts");
        assert_eq!(files_on_branch(origin).into_keys().collect::<Vec<_>>(), [".egret-reports", "one", "three"]);
        // Somebody deletes it.
        origin.in_bare(&["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
        publish_file(&mut mirror, "four", "4\n").expect("it is made again");
        assert_eq!(files_on_branch(origin).into_keys().collect::<Vec<_>>(), [".egret-reports", "four"]);
        // Somebody puts a branch of their own there.
        let theirs = origin.in_bare(&["rev-parse", "main"]);
        origin.git(&["push", "--quiet", "--force", "origin", &format!("main:{BRANCH}")]);
        let error = publish_file(&mut mirror, "five", "5\n").expect_err("it is a person's branch");
        assert!(matches!(error, Error::ForeignBranch { .. }), "{error:?}");
        assert_eq!((error.kind(), origin.in_bare(&["rev-parse", BRANCH])), (ErrorKind::NeedsIntervention, theirs));
    });
}

#[test]
fn a_deploy_key_that_may_read_only_is_reported_as_such() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let server = Server::start(&origin);
    let key = server.public_key("user");
    // As forges do it: whatever is asked for, this key may only fetch; or it is told no in words.
    let forced = [
        format!("git-upload-pack '{}'", origin.bare.display()),
        "case $SSH_ORIGINAL_COMMAND in git-upload-pack*) eval $SSH_ORIGINAL_COMMAND ;; *) echo 'The key you are authenticating \
         with has been marked as read only.' >&2; exit 1 ;; esac"
            .to_owned(),
    ];
    for (number, forced) in forced.iter().enumerate() {
        fs::write(server.folder.join("user.pub"), format!("command=\"{}\" {key}\n", forced.replace('"', "\\\"")))
            .expect("a file");
        let mut mirror = server.mirror(&origin, &format!("state-{number}"));
        mirror.head(None).expect("it may read");
        let why = refusal(&publish_file(&mut mirror, "mine", "1\n").expect_err("no right to push"));
        let words =
            if number == 0 { "" } else { ": The key you are authenticating with has been marked as read only." };
        assert_eq!(why, format!("the credentials may read, and not push{words}"));
        assert_eq!(origin.in_bare(&["branch", "--list", BRANCH]), "");
    }
}
