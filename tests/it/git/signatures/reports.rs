//! Report commits that Egret signs, as Git itself sees them.

use std::collections::BTreeMap;

use egret::git::publish::{BranchState, Draft, PublishOutcome, Target, publish};
use egret::git::signing::Signer;

use super::super::publishing::target;
use super::*;

/// One ECDSA key in 256 has a number so short that the library does not read it (docs/signatures.md): another one is made.
fn key(signed: &Signed, name: &str, kind: &str, bits: &str) -> Signer {
    let mut tries = (0..5).map(|_| {
        let path = signed.origin.path().join(name);
        let _ = fs::remove_file(&path);
        Signer::read(&signed.key(name, kind, bits))
    });
    tries.find_map(Result::ok).expect("a key that can be read")
}

#[test]
fn git_takes_the_signature_of_a_report_by_every_kind_of_key() {
    let signed = Signed::new();
    signed.origin.push(&[("a.yaml", "a: 1\n")], "policies");
    let allowed = signed.origin.path().join("allowed_signers");
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("rsa", "3072")] {
        let name = format!("{kind}{bits}");
        let target = Target { signer: Some(key(&signed, &name, kind, bits)), ..target() };
        let mut replan = |_: &BranchState| {
            let files = BTreeMap::from([("report".to_owned(), format!("{name}\n"))]);
            Some(Draft { files, message: "Drift\n\nA rule.".to_owned(), trailers: Vec::new() })
        };
        let published = publish(&mut signed.origin.mirror(), &target, &mut replan, &mut |_| {}).expect("a report");
        let PublishOutcome::Committed { commit, .. } = published else { panic!("{published:?}") };
        fs::write(&allowed, signed.line(&name, "namespaces=\"git\"")).expect("a file");
        let setting = format!("gpg.ssh.allowedSignersFile={}", allowed.display());
        // It fails where the signature is not good.
        signed.origin.in_bare(&["-c", &setting, "verify-commit", &commit.to_string()]);
        signed.origin.in_bare(&["fsck", "--strict", "--no-dangling"]);
    }
}

#[test]
fn a_key_that_nobody_can_sign_with_is_named_without_a_word_of_what_is_in_it() {
    let signed = Signed::new();
    let path = signed.key("ada", "ed25519", "256");
    let locked = signed.origin.path().join("locked");
    fs::copy(&path, &locked).expect("a copy");
    let change = ["-q", "-p", "-P", "", "-N", "secret words", "-f"];
    let changed = Command::new("ssh-keygen").args(change).arg(&locked).status().expect("ssh-keygen is installed");
    assert!(changed.success());
    let rubbish = signed.origin.path().join("rubbish");
    fs::write(&rubbish, "hunter2").expect("a file");
    for (path, what) in
        [(&locked, "it has a passphrase"), (&rubbish, "it cannot be read as a private key in OpenSSH's format")]
    {
        let error = Signer::read(path).expect_err("no key to sign with");
        assert_eq!(error.to_string(), format!("cannot sign with the key {}: {what}", path.display()));
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    let shown = format!("{:?}", Signer::read(&path).expect("a key"));
    assert!(shown.starts_with("Signer(SHA256:"), "{shown}");
}
