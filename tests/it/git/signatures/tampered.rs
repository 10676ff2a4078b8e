//! Good signatures on bytes that are not those which were signed.

use super::*;

/// Stores a commit as it is given and makes it the head.
fn plant(signed: &Signed, raw: &str) -> CommitId {
    let file = signed.origin.path().join("raw");
    fs::write(&file, raw).expect("a file");
    let path = file.to_str().expect("UTF-8");
    let id = signed.origin.git(&["hash-object", "--literally", "-t", "commit", "-w", path]);
    signed.origin.git(&["update-ref", "refs/heads/main", &id]);
    CommitId::parse(&id).expect("a commit")
}

fn raw(signed: &Signed) -> String {
    // The fixture trims the end, where the message has its line's end.
    signed.origin.git(&["cat-file", "commit", "HEAD"]) + "\n"
}

#[test]
fn a_commit_that_was_changed_after_it_was_signed_does_not_count() {
    let signed = Signed::new();
    signed.key("ada", "ed25519", "256");
    let keys = signed.keys(&["ada"]);
    let key = fingerprint(&signed, "ada", "ssh-ed25519");
    let mismatch = format!("its signature, by {key}, does not fit the commit");
    signed.origin.commit(&[("a.yaml", "a: 1\n")], "below");
    let old_tree = signed.origin.git(&["rev-parse", "HEAD^{tree}"]);
    let first = signed.commit(Some("ada"), "first").to_string();
    let first_signature = raw(&signed);
    signed.origin.commit(&[("a.yaml", "a: 2\n")], "second");
    signed.commit(Some("ada"), "good words");
    let good = raw(&signed);
    assert_eq!(plant(&signed, &good), signed.head());
    assert_eq!(signed.judge(Require::Head, &keys, None), Ok(()), "what is planted as it was still counts");
    let tree = signed.origin.git(&["rev-parse", "HEAD^{tree}"]);
    let parent = signed.origin.git(&["rev-parse", "HEAD~"]);
    let signature_of = |raw: &str| {
        let begin = raw.find("gpgsig ").expect("a signature");
        let end = raw.find("-----END SSH SIGNATURE-----\n").expect("its end");
        raw[begin..end].to_owned()
    };
    for (what, changed) in [
        ("another tree", good.replace(&tree, &old_tree)),
        ("another parent", good.replace(&parent, &first)),
        ("other words", good.replace("good words", "bad words")),
        ("another author", good.replace("author Ada", "author Eve")),
        ("one more line in the header", good.replacen("SIGNATURE-----\n\n", "SIGNATURE-----\nx-more words\n\n", 1)),
        ("one more parent", good.replacen("author", &format!("parent {first}\nauthor"), 1)),
        ("the signature of another commit", good.replace(&signature_of(&good), &signature_of(&first_signature))),
    ] {
        assert_ne!(changed, good, "{what}");
        let commit = plant(&signed, &changed);
        assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, &mismatch), "{what}");
    }
}

#[test]
fn a_signature_that_stands_where_git_puts_none_is_none() {
    let signed = Signed::new();
    signed.key("ada", "ed25519", "256");
    let keys = signed.keys(&["ada"]);
    signed.commit(Some("ada"), "words");
    let good = raw(&signed);
    let begin = good.find("gpgsig ").expect("a signature");
    let end = good.find("-----END SSH SIGNATURE-----\n").expect("its end") + "-----END SSH SIGNATURE-----\n".len();
    let signature = &good[begin..end];
    let bare = [&good[..begin], &good[end..]].concat();
    // libgit2's own reader takes this for the same signed commit.
    let commit = plant(&signed, &format!("{bare}{signature}"));
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, "it has no signature"));
    let commit = plant(&signed, &good.replacen("gpgsig ", &format!("{signature}gpgsig "), 1));
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, "it has more than one signature"));
    let commit = plant(&signed, &good.replace("words\n", "words\n\0Egret-Emergency: yes\n"));
    let nul = "it cannot be checked: it has a NUL byte, where some programs stop to read";
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, nul));
}

#[test]
fn a_signature_that_is_broken_is_said_to_be() {
    let signed = Signed::new();
    signed.key("ada", "ed25519", "256");
    let keys = signed.keys(&["ada"]);
    signed.commit(Some("ada"), "words");
    let good = raw(&signed);
    let end = good.find(" -----END SSH").expect("its end");
    for broken in [good[..end - 9].to_owned() + &good[end - 1..], good.replace("SSH SIGNATURE", "SSH SIGNET")] {
        let commit = plant(&signed, &broken);
        let found = signed.judge(Require::Head, &keys, None).expect_err("a broken signature");
        assert_eq!(found.commit, commit);
        assert!(found.what.starts_with("its signature cannot be read: "), "{found:?}");
    }
}
