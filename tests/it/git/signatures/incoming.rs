//! Which commits are looked at: what comes in, whatever the history was made to look like.

use super::*;

fn stand() -> (Signed, Keys) {
    let signed = Signed::new();
    signed.key("ada", "ed25519", "256");
    let keys = signed.keys(&["ada"]);
    (signed, keys)
}

#[test]
fn a_signed_head_answers_for_what_is_below_it_unless_every_commit_must_be_signed() {
    let (signed, keys) = stand();
    let start = signed.commit(None, "before anybody signed");
    let stray = signed.commit(None, "unsigned");
    signed.commit(Some("ada"), "signed on top");
    assert_eq!(signed.judge(Require::Head, &keys, Some(start)), Ok(()));
    assert_eq!(signed.judge(Require::Every, &keys, Some(start)), unsigned(stray, "it has no signature"));
    assert_eq!(signed.judge(Require::Every, &keys, Some(stray)), Ok(()), "what is active is not judged again");
    assert_eq!(signed.judge(Require::Every, &keys, None), Ok(()), "at the very first start the head alone");
    let head = signed.commit(None, "active");
    assert_eq!(signed.judge(Require::Every, &keys, Some(head)), Ok(()), "nothing comes in");
}

#[test]
fn a_merge_brings_in_the_commits_of_all_its_sides() {
    let (signed, keys) = stand();
    let start = signed.commit(Some("ada"), "start");
    signed.origin.git(&["checkout", "--quiet", "-b", "side"]);
    let stray = signed.commit(None, "unsigned, on the side");
    signed.commit(Some("ada"), "signed, on the side");
    signed.origin.git(&["checkout", "--quiet", "main"]);
    signed.commit(Some("ada"), "on main");
    signed.git(&signed.with("ada"), &["merge", "--quiet", "--no-ff", "-S", "-m", "merge", "side"]);
    assert_eq!(signed.judge(Require::Head, &keys, Some(start)), Ok(()));
    assert_eq!(signed.judge(Require::Every, &keys, Some(start)), unsigned(stray, "it has no signature"));
}

#[test]
fn a_rewritten_history_is_checked_down_to_where_it_parted() {
    let (signed, keys) = stand();
    let start = signed.commit(None, "start");
    let force = signed.commit(Some("ada"), "active");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    signed.origin.mirror().head(None).expect("the mirror has what is active");
    signed.origin.git(&["reset", "--quiet", "--hard", &start.to_string()]);
    let stray = signed.commit(None, "unsigned, in its place");
    signed.commit(Some("ada"), "signed on top");
    assert_eq!(signed.judge(Require::Every, &keys, Some(force)), unsigned(stray, "it has no signature"));
    assert_eq!(signed.judge(Require::Every, &keys, Some(stray)), Ok(()));
    // What is active is in no history any more: then nothing of this one is known to be good.
    let gone = CommitId::parse("1234567890123456789012345678901234567890").expect("a name");
    assert_eq!(signed.judge(Require::Every, &keys, Some(gone)), unsigned(start, "it has no signature"));
    assert_eq!(signed.judge(Require::Head, &keys, Some(gone)), Ok(()));
}

#[test]
fn a_head_that_only_leaves_out_what_is_active_does_not_come_in() {
    let (signed, keys) = stand();
    let old = signed.commit(None, "before anybody signed");
    let back = signed.commit(Some("ada"), "signed back then");
    let force = signed.commit(Some("ada"), "active");
    signed.origin.git(&["push", "--quiet", "origin", "HEAD:main"]);
    signed.origin.mirror().head(None).expect("the mirror has what is active");
    let what = format!("it is a rollback from {}, which is active; revert by a new, signed commit", force.short());
    for commit in [back, old] {
        signed.origin.git(&["reset", "--quiet", "--hard", &commit.to_string()]);
        for require in [Require::Head, Require::Every] {
            assert_eq!(signed.judge(require, &keys, Some(force)), unsigned(commit, &what), "{require:?}");
        }
    }
    signed.origin.git(&["reset", "--quiet", "--hard", &force.to_string()]);
    signed.commit(Some("ada"), "what was wrong is undone");
    assert_eq!(signed.judge(Require::Every, &keys, Some(force)), Ok(()));
}

#[test]
fn dates_replacements_and_grafts_hide_no_commit() {
    let (signed, keys) = stand();
    let start = signed.commit(Some("ada"), "start");
    let force = signed.commit(Some("ada"), "active");
    // A date from before everything, so that a walk by date would stop above it.
    let tree = signed.origin.git(&["rev-parse", "HEAD^{tree}"]);
    let old = format!("tree {tree}\nparent {force}\nauthor Eve <e@e> 1 +0000\ncommitter Eve <e@e> 1 +0000\n\nold\n");
    let file = signed.origin.path().join("raw");
    fs::write(&file, old).expect("a file");
    let old = signed.origin.git(&["hash-object", "-t", "commit", "-w", file.to_str().expect("UTF-8")]);
    signed.origin.git(&["update-ref", "refs/heads/main", &old]);
    let stray = CommitId::parse(&old).expect("a commit");
    signed.commit(Some("ada"), "signed on top");
    let expected = unsigned(stray, "it has no signature");
    assert_eq!(signed.judge(Require::Every, &keys, Some(force)), expected);
    assert_eq!(signed.judge(Require::Every, &keys, Some(start)), expected);
    // git itself now believes that the stray commit is the active one.
    signed.origin.git(&["replace", &old, &force.to_string()]);
    signed.origin.git(&["push", "--quiet", "origin", "refs/replace/*"]);
    signed.origin.in_bare(&["config", "core.useReplaceRefs", "true"]);
    fs::write(signed.origin.bare.join("info/grafts"), format!("{} {force}\n", signed.head())).expect("a graft");
    assert_eq!(signed.judge(Require::Every, &keys, Some(force)), expected);
}

#[test]
fn active_commits_are_not_demanded_again_because_a_clock_was_wrong() {
    let (signed, keys) = stand();
    // Dates that fall: each commit claims to be a year older than its parent.
    let tree = signed.origin.git(&["write-tree"]);
    let mut parent = String::new();
    for year in 0..40_u64 {
        let seconds = 1_700_000_000 - year * 31_536_000;
        let line = if parent.is_empty() { String::new() } else { format!("parent {parent}\n") };
        let who = format!("Ada <a@a> {seconds} +0000");
        let file = signed.origin.path().join("raw");
        fs::write(&file, format!("tree {tree}\n{line}author {who}\ncommitter {who}\n\n{year}\n")).expect("a file");
        parent = signed.origin.git(&["hash-object", "-t", "commit", "-w", file.to_str().expect("UTF-8")]);
    }
    signed.origin.git(&["update-ref", "refs/heads/main", &parent]);
    let force = signed.head();
    // A side that parted long ago, with a date of today.
    signed.origin.git(&["checkout", "--quiet", "-b", "side", "main~30"]);
    signed.commit(Some("ada"), "on the side");
    signed.origin.git(&["checkout", "--quiet", "main"]);
    signed.git(&signed.with("ada"), &["merge", "--quiet", "--no-ff", "-S", "-m", "merge", "side"]);
    assert_eq!(signed.judge(Require::Every, &keys, Some(force)), Ok(()));
}

#[test]
fn more_commits_than_anybody_reviews_do_not_come_in_at_once() {
    let (signed, keys) = stand();
    let start = signed.commit(Some("ada"), "start");
    let commit = |number: usize| {
        let text = number.to_string();
        format!("commit refs/heads/main\ncommitter Eve <e@e> 1736000000 +0000\ndata {}\n{text}\n", text.len())
    };
    let commits: Vec<String> = (0..10_001).map(commit).collect();
    let stream = format!("reset refs/heads/main\nfrom {start}\n\n{}", commits.concat());
    let file = signed.origin.path().join("stream");
    fs::write(&file, stream).expect("a file");
    let import = std::process::Command::new("git")
        .current_dir(&signed.origin.work)
        .args(["fast-import", "--quiet", "--force"])
        .stdin(fs::File::open(&file).expect("the stream"))
        .status();
    assert!(import.expect("git is installed").success());
    let head = signed.head();
    let what = "it brings more than 10000 new commits at once, too many to check";
    assert_eq!(signed.judge(Require::Every, &keys, Some(start)), unsigned(head, what));
}
