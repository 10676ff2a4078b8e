//! A head that was signed for another day, pushed again to take back what is active, by somebody who can make us forget what that is.
//!
//! Deliberately absent: heads that go back while the mirror has everything (`incoming`).

use std::path::{Path, PathBuf};

use super::*;

/// Signed by Ada, one after the other: what was active once, and what is now.
fn two() -> (Signed, CommitId, CommitId) {
    let signed = stand();
    let old = at(&signed, "2025-01-02T03:04:05Z", "10.0.0.0/8");
    let force = at(&signed, "2025-02-02T03:04:05Z", "10.1.0.0/16");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    (signed, old, force)
}

/// A change of this time, signed by Ada.
fn at(signed: &Signed, date: &str, destination: &str) -> CommitId {
    change(signed, Some("ada"), destination);
    let with = signed.with("ada");
    let amend = ["commit", "--quiet", "--amend", "-S", "--no-edit", "--date", date];
    let all: Vec<&str> = with.iter().map(String::as_str).chain(amend).collect();
    signed.origin.git_at(date, &all);
    signed.head()
}

fn reset(signed: &Signed, to: CommitId) {
    signed.origin.git(&["reset", "--quiet", "--hard", &to.to_string()]);
}

fn push(signed: &Signed) {
    signed.origin.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
}

fn packs(mirror: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(mirror.join("objects/pack")).expect("packs");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|kind| kind == "pack")).collect()
}

fn ada(signed: &Signed, require: Require) -> SignatureFlags {
    flags(signed, Some(require), &["ada"])
}

fn earlier(old: CommitId, force: CommitId) -> Unsigned {
    let what = format!(
        "{}, which is active, is not in its history, and it is not later: it is of 2025-01-02T03:04:05Z, and that is of \
         2025-02-02T03:04:05Z; a commit signed today can replace it",
        force.short()
    );
    Unsigned { commit: old, what }
}

/// What is pending while nothing is known to be active.
fn pending(stand: &mut Reading) -> Unsigned {
    match stand.next() {
        RepositoryEvent::Pending(pending) => refusal(&pending),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mirror_that_was_filled_until_it_is_made_anew_still_knows_what_a_head_takes_back() {
    let (signed, old, force) = two();
    let mut stand = reading(&signed, "mirror", ada(&signed, Require::Head), ActiveRevision::default());
    assert_eq!(of(&stand.intent()), (force, None));
    let what = format!("it is a rollback from {}, which is active; revert by a new, signed commit", force.short());
    let back = Some(Unsigned { commit: old, what });
    reset(&signed, old);
    assert_eq!(stand.after_push(&signed), (force, back.clone()));
    for round in 0..2 {
        // As many fetches later.
        let mirror = signed.origin.path().join("mirror");
        let original = packs(&mirror).into_iter().next().expect("a pack");
        for copy in packs(&mirror).len()..256 {
            let name = mirror.join("objects/pack").join(format!("pack-{copy:040x}"));
            for kind in ["pack", "idx"] {
                fs::copy(original.with_extension(kind), name.with_extension(kind)).expect("a copy");
            }
        }
        let stray = change(&signed, None, &format!("10.2.{round}.0/24"));
        assert_eq!(stand.after_push(&signed), (force, Some(nothing(stray))));
        assert_eq!(packs(&mirror).len(), 2, "what the branch has now, and what is active");
        let sound =
            Command::new("git").arg("-C").arg(&mirror).args(["fsck", "--strict"]).output().expect("git is installed");
        assert!(sound.status.success(), "{}", String::from_utf8_lossy(&sound.stderr));
        reset(&signed, old);
        assert_eq!(stand.after_push(&signed), (force, back.clone()), "{round}");
    }
    reset(&signed, force);
    let undone = at(&signed, "2025-03-02T03:04:05Z", "10.0.0.0/8");
    assert_eq!(stand.after_push(&signed), (undone, None));
}

#[test]
fn a_process_that_begins_with_an_empty_folder_lets_in_nothing_that_is_older_than_what_it_knows() {
    let (signed, old, force) = two();
    let intent = reading(&signed, "mirror", ada(&signed, Require::Head), ActiveRevision::default()).intent();
    let committed = intent.commit.committed();
    assert_eq!(committed.map(|time| time.to_string()), Some("2025-02-02T03:04:05Z".to_owned()));
    let known = ActiveRevision { commit: Some(force.to_string()), committed, ..ActiveRevision::default() };
    reset(&signed, old);
    push(&signed);
    let mut stand = reading(&signed, "empty", ada(&signed, Require::Head), known.clone());
    assert_eq!(pending(&mut stand), earlier(old, force));
    // Neither does a commit that claims to be of the same second.
    let same = at(&signed, "2025-02-02T03:04:05Z", "10.4.0.0/16");
    push(&signed);
    stand.thread.poll();
    assert_eq!(pending(&mut stand).commit, same);
    // History that was rewritten, and signed since.
    let later = at(&signed, "2025-02-02T03:04:06Z", "10.5.0.0/16");
    assert_eq!(stand.after_push(&signed), (later, None));
    // Whoever has what is active in the history needs no clock.
    reset(&signed, force);
    let early = at(&signed, "2024-01-01T00:00:00Z", "10.6.0.0/16");
    push(&signed);
    let mut stand = reading(&signed, "empty as well", ada(&signed, Require::Every), known);
    assert_eq!(of(&stand.intent()), (early, None));
}

#[test]
fn what_another_process_made_active_and_we_never_saw_is_not_taken_back() {
    let (signed, old, force) = two();
    reset(&signed, old);
    push(&signed);
    let mut stand = reading(&signed, "mirror", ada(&signed, Require::Head), ActiveRevision::default());
    assert_eq!(of(&stand.intent()), (old, None));
    let stray = change(&signed, None, "10.2.0.0/16");
    assert_eq!(stand.after_push(&signed), (old, Some(nothing(stray))));
    reset(&signed, old);
    let between = at(&signed, "2025-01-20T00:00:00Z", "10.7.0.0/16");
    push(&signed);
    let committed = "2025-02-02T03:04:05Z".parse().expect("a time");
    stand.thread.published(force, Some(committed));
    let (commit, refused) = of(&stand.intent());
    assert_eq!((commit, refused.map(|refused| refused.commit)), (old, Some(between)));
}
