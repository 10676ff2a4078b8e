//! The gate of the repository's thread: what is demanded by whom, and what stays active.

mod rollback;

use egret::core::admission::{PendingCommit, PendingReason};
use egret::core::gate::ActiveRevision;
use egret::core::signature::{KeyTexts, Signatures};
use egret::git::signature::SignatureFlags;
use egret::reconcile::gitops::repository::{DesiredRevision, RepositoryEvent};
use egret::reconcile::gitops::tracked_repository::TrackedRepository;

use super::super::reading::{Reading, following};
use super::*;

/// A thread on a mirror of its own.
fn reading(signed: &Signed, mirror: &str, signatures: SignatureFlags, known: ActiveRevision) -> Reading {
    let source = following(signed.origin.bare.to_str().expect("UTF-8"));
    Reading::start(TrackedRepository { signatures, ..source }, signed.origin.path().join(mirror), known)
}

impl Reading {
    /// What is active and what waits, after everything was pushed and looked at.
    fn after_push(&mut self, signed: &Signed) -> (CommitId, Option<Unsigned>) {
        signed.origin.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
        of(&self.poll())
    }
}

fn of(intent: &DesiredRevision) -> (CommitId, Option<Unsigned>) {
    (intent.commit.id, intent.active.pending.as_ref().map(refusal))
}

fn refusal(pending: &PendingCommit) -> Unsigned {
    match &pending.why {
        PendingReason::Unsigned { commit, what } => {
            Unsigned { commit: CommitId::parse(commit).expect("a commit"), what: what.clone() }
        }
        other => panic!("{other:?}"),
    }
}

fn nothing(commit: CommitId) -> Unsigned {
    Unsigned { commit, what: "it has no signature".to_owned() }
}

/// Changes a policy, so that the commit is about something, and commits.
fn change(signed: &Signed, key: Option<&str>, destination: &str) -> CommitId {
    write(
        signed,
        "a.yaml",
        &format!(
            "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: a}}\nspec:\n  selectors:\n  - podSelector: {{}}\n  \
             destinationCIDRs: [{destination}]\n  egressGateway: {{nodeSelector: {{}}}}\n"
        ),
    );
    signed.commit(key, destination)
}

fn write(signed: &Signed, path: &str, text: &str) {
    fs::write(signed.origin.work.join(path), text).expect("a file");
    signed.origin.git(&["add", path]);
}

/// An egret.yaml that demands a signature by one of these keys.
fn demand(signed: &Signed, require: &str, names: &[&str]) -> String {
    let lines: Vec<String> = names.iter().map(|name| format!("  - {}", signed.line(name, "").trim_end())).collect();
    let lines = lines.join("\n") + "\n";
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: Config\nsignatures:\n  require: {require}\n  allowedSigners:\n{lines}"
    )
}

fn stand() -> Signed {
    let signed = Signed::new();
    signed.key("ada", "ed25519", "256");
    signed.key("eve", "ed25519", "256");
    signed
}

fn flags(signed: &Signed, require: Option<Require>, names: &[&str]) -> SignatureFlags {
    let file = signed.origin.path().join("allowed_signers");
    fs::write(&file, names.iter().map(|name| signed.line(name, "")).collect::<String>()).expect("a file");
    SignatureFlags { require, allowed_signers: Some(file), openpgp_keys: None }
}

#[test]
fn an_unsigned_push_stays_out_and_a_signed_one_on_top_comes_in_unless_every_commit_must_be_signed() {
    let signed = stand();
    let first = change(&signed, Some("ada"), "10.0.0.0/8");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    let mut head = reading(&signed, "head", flags(&signed, Some(Require::Head), &["ada"]), ActiveRevision::default());
    let mut every =
        reading(&signed, "every", flags(&signed, Some(Require::Every), &["ada"]), ActiveRevision::default());
    assert_eq!(of(&head.intent()), (first, None));
    assert_eq!(of(&every.intent()), (first, None));
    let stray = change(&signed, None, "10.1.0.0/16");
    assert_eq!(head.after_push(&signed), (first, Some(nothing(stray))));
    assert_eq!(every.after_push(&signed), (first, Some(nothing(stray))));
    let second = change(&signed, Some("ada"), "10.2.0.0/16");
    assert_eq!(head.after_push(&signed), (second, None));
    assert_eq!(every.after_push(&signed), (first, Some(nothing(stray))));
}

#[test]
fn the_active_egret_yaml_decides_and_no_commit_opens_the_door_for_itself() {
    let signed = stand();
    write(&signed, "egret.yaml", &demand(&signed, "Head", &["ada"]));
    let first = change(&signed, Some("ada"), "10.0.0.0/8");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    let mut stand = reading(&signed, "mirror", SignatureFlags::default(), ActiveRevision::default());
    assert_eq!(of(&stand.intent()), (first, None), "at the first start there is no other");
    write(&signed, "egret.yaml", &demand(&signed, "Head", &["ada", "eve"]));
    let own = change(&signed, Some("eve"), "10.1.0.0/16");
    let what =
        format!("it is signed by {}, which no line of allowed_signers has", fingerprint(&signed, "eve", "ssh-ed25519"));
    assert_eq!(stand.after_push(&signed), (first, Some(Unsigned { commit: own, what })));
    signed.origin.git(&["rm", "--quiet", "egret.yaml"]);
    let gone = change(&signed, None, "10.2.0.0/16");
    assert_eq!(stand.after_push(&signed), (first, Some(nothing(gone))));
    write(&signed, "egret.yaml", "not: [a config\n");
    let broken = change(&signed, Some("ada"), "10.3.0.0/16");
    assert_eq!(stand.after_push(&signed), (broken, None), "Ada may also make mistakes");
    let stray = change(&signed, None, "10.4.0.0/16");
    assert_eq!(stand.after_push(&signed), (broken, Some(nothing(stray))), "and they lift no demand");
    write(&signed, "egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: Config\n");
    let lifted = change(&signed, Some("ada"), "10.5.0.0/16");
    assert_eq!(stand.after_push(&signed), (lifted, None));
    let free = change(&signed, None, "10.6.0.0/16");
    assert_eq!(stand.after_push(&signed), (free, None));
}

#[test]
fn what_flags_demand_nobody_weakens_by_a_commit() {
    let signed = stand();
    write(&signed, "egret.yaml", &demand(&signed, "Head", &["ada"]));
    let first = change(&signed, Some("ada"), "10.0.0.0/8");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    let mut stand =
        reading(&signed, "mirror", flags(&signed, Some(Require::Every), &["ada"]), ActiveRevision::default());
    assert_eq!(of(&stand.intent()), (first, None));
    // Signed as both demand it; then it is active that Eve may sign, and the flags say otherwise.
    write(&signed, "egret.yaml", &demand(&signed, "Head", &["eve"]));
    let second = change(&signed, Some("ada"), "10.1.0.0/16");
    assert_eq!(stand.after_push(&signed), (second, None));
    let eve = change(&signed, Some("eve"), "10.2.0.0/16");
    let key = fingerprint(&signed, "eve", "ssh-ed25519");
    let stranger =
        Unsigned { commit: eve, what: format!("it is signed by {key}, which no line of allowed_signers has") };
    assert_eq!(stand.after_push(&signed), (second, Some(stranger.clone())));
    change(&signed, Some("ada"), "10.3.0.0/16");
    assert_eq!(stand.after_push(&signed), (second, Some(stranger)), "the stricter of both is `every`");
}

#[test]
fn after_a_restart_an_unsigned_head_still_stays_out() {
    let signed = stand();
    write(&signed, "egret.yaml", &demand(&signed, "Every", &["ada"]));
    let first = change(&signed, Some("ada"), "10.0.0.0/8");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    let known = {
        let intent = reading(&signed, "mirror", SignatureFlags::default(), ActiveRevision::default()).intent();
        let signatures = intent.set.config.signatures.clone();
        let keys =
            KeyTexts { allowed_signers: vec![signed.line("ada", "").trim_end().to_owned()], ..KeyTexts::default() };
        assert_eq!(signatures, Some(Signatures { require: Require::Every, keys }));
        ActiveRevision { commit: Some(intent.commit.id.to_string()), signatures, ..ActiveRevision::default() }
    };
    signed.origin.git(&["rm", "--quiet", "egret.yaml"]);
    let stray = change(&signed, None, "10.1.0.0/16");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    for mirror in ["mirror", "made anew"] {
        let mut stand = reading(&signed, mirror, SignatureFlags::default(), known.clone());
        assert_eq!(of(&stand.intent()), (first, Some(nothing(stray))), "{mirror}");
    }
    // History thrown away, and a mirror that never saw it: what was remembered is all there is.
    signed.origin.git(&["checkout", "--quiet", "--orphan", "other"]);
    let other = change(&signed, None, "10.2.0.0/16");
    let top = change(&signed, Some("ada"), "10.3.0.0/16");
    signed.origin.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
    let mut stand = reading(&signed, "never saw it", SignatureFlags::default(), known);
    match stand.next() {
        RepositoryEvent::Pending(pending) => {
            assert_eq!((pending.commit.clone(), refusal(&pending)), (top.to_string(), nothing(other)));
        }
        other => panic!("{other:?}"),
    }
    // Who clears the state begins anew: the head must pass by itself.
    let mut stand =
        reading(&signed, "cleared", flags(&signed, Some(Require::Every), &["ada"]), ActiveRevision::default());
    assert_eq!(of(&stand.intent()), (top, None));
}

#[test]
fn a_list_of_keys_that_changes_counts_at_the_next_look() {
    let signed = stand();
    let first = change(&signed, Some("eve"), "10.0.0.0/8");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    let mut stand =
        reading(&signed, "mirror", flags(&signed, Some(Require::Head), &["ada"]), ActiveRevision::default());
    assert!(matches!(stand.next(), RepositoryEvent::Pending(pending) if pending.commit == first.to_string()));
    let file = flags(&signed, None, &["ada", "eve"]).allowed_signers.expect("a file");
    stand.thread.poll();
    assert_eq!(of(&stand.intent()), (first, None));
    // A list that cannot be read lets nobody in.
    for (text, message) in [
        (None, format!("cannot read the credential file {}", file.display())),
        (
            Some("# people\nada rubbish\n"),
            format!(
                "cannot use {} as the list of keys that commits must be signed with: line 2: there is no key of a kind that is known",
                file.display()
            ),
        ),
    ] {
        match text {
            None => fs::remove_file(&file).expect("a file"),
            Some(text) => fs::write(&file, text).expect("a file"),
        }
        change(&signed, Some("ada"), "10.1.0.0/16");
        signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
        stand.thread.poll();
        // The thread retries, so the fault before may come once more.
        let found = (0..5).any(|_| stand.fault() == message);
        assert!(found, "{message}");
    }
    flags(&signed, None, &["ada"]);
    stand.thread.poll();
    assert_eq!(of(&stand.intent_after_retries()), (signed.head(), None));
}

#[test]
fn a_demand_without_keys_lets_nobody_in_and_says_why() {
    let signed = stand();
    let first = change(&signed, Some("ada"), "10.0.0.0/8");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    let flags = SignatureFlags { require: Some(Require::Head), ..SignatureFlags::default() };
    match reading(&signed, "mirror", flags, ActiveRevision::default()).next() {
        RepositoryEvent::Pending(pending) => {
            let what = "no signature counts yet: no key is configured".to_owned();
            assert_eq!(refusal(&pending), Unsigned { commit: first, what });
        }
        other => panic!("{other:?}"),
    }
}
