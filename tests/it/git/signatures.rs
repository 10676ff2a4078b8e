//! Signatures as real programs make them: `git commit -S` with ssh-keygen and with GnuPG, and commits that somebody tampered with.
//!
//! Deliberately absent: security keys, which no machine of tests has (`core::signature`'s own tests have their form).

mod gate;
mod incoming;
mod openpgp;
mod reports;
mod tampered;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use egret::core::signature::{Keys, Require};
use egret::git::CommitId;
use egret::git::signature::{Unsigned, verify};

use super::fixture::Origin;

/// A repository, and keys beside it.
struct Signed {
    origin: Origin,
}

impl Signed {
    fn new() -> Self {
        Self { origin: Origin::new() }
    }

    /// Makes a private key, and its public key beside it.
    fn key(&self, name: &str, kind: &str, bits: &str) -> PathBuf {
        let path = self.origin.path().join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", name, "-f"])
            .arg(&path)
            .output()
            .expect("ssh-keygen is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        path
    }

    /// The key's line for `allowed_signers`.
    fn line(&self, name: &str, options: &str) -> String {
        let public = fs::read_to_string(self.origin.path().join(format!("{name}.pub"))).expect("a public key");
        format!("{name}@example.org {options} {public}")
    }

    /// The keys of these names.
    fn keys(&self, names: &[&str]) -> Keys {
        let mut keys = Keys::default();
        let text: String = names.iter().map(|name| self.line(name, "")).collect();
        keys.add_allowed_signers(&text).expect("good lines");
        keys
    }

    /// Commits to the checked-out branch, signed with a key, or not.
    fn commit(&self, key: Option<&str>, message: &str) -> CommitId {
        let mut arguments = vec!["commit", "--quiet", "--allow-empty", "-m", message];
        let with = key.map(|key| self.with(key)).unwrap_or_default();
        if key.is_some() {
            arguments.push("-S");
        }
        self.git(&with, &arguments);
        self.head()
    }

    /// What makes git sign with a key.
    fn with(&self, key: &str) -> Vec<String> {
        let path = self.origin.path().join(key);
        vec![
            "-c".to_owned(),
            "gpg.format=ssh".to_owned(),
            "-c".to_owned(),
            format!("user.signingkey={}", path.display()),
        ]
    }

    fn git(&self, before: &[String], arguments: &[&str]) -> String {
        let all: Vec<&str> = before.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        self.origin.git(&all)
    }

    fn head(&self) -> CommitId {
        CommitId::parse(&self.origin.git(&["rev-parse", "HEAD"])).expect("a commit")
    }

    /// What the mirror says after everything was pushed.
    fn judge(&self, require: Require, keys: &Keys, from: Option<CommitId>) -> Result<(), Unsigned> {
        self.origin.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
        let mut mirror = self.origin.mirror();
        let head = mirror.head(Some("main")).expect("a look").commit;
        verify(&mirror, require, keys, from, head).expect("a mirror that can be read")
    }
}

fn unsigned(commit: CommitId, what: &str) -> Result<(), Unsigned> {
    Err(Unsigned { commit, what: what.to_owned() })
}

/// `ssh-ed25519 SHA256:…`, by ssh-keygen's own words.
fn fingerprint(signed: &Signed, name: &str, kind: &str) -> String {
    let path = signed.origin.path().join(format!("{name}.pub"));
    let listed = Command::new("ssh-keygen").arg("-l").arg("-f").arg(path).output().expect("ssh-keygen is installed");
    let text = String::from_utf8(listed.stdout).expect("UTF-8");
    format!("{kind} {}", text.split(' ').nth(1).expect("a fingerprint"))
}

#[test]
fn every_kind_of_ssh_key_that_git_signs_with_counts() {
    let signed = Signed::new();
    let kinds =
        [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048"), ("rsa", "3072")];
    for (kind, bits) in kinds {
        let name = format!("{kind}{bits}");
        signed.key(&name, kind, bits);
        signed.commit(Some(&name), &name);
        assert_eq!(signed.judge(Require::Head, &signed.keys(&[&name]), None), Ok(()), "{name}");
    }
}

#[test]
fn an_rsa_key_that_is_too_short_is_not_taken() {
    let signed = Signed::new();
    signed.key("short", "rsa", "1024");
    let error = Keys::default().add_allowed_signers(&signed.line("short", "")).expect_err("too short");
    assert_eq!(error.message, "an RSA key of 1024 bits is too short to be believed");
}

#[test]
fn a_commit_without_a_signature_or_by_a_stranger_does_not_count() {
    let signed = Signed::new();
    signed.key("ada", "ed25519", "256");
    signed.key("eve", "ed25519", "256");
    let keys = signed.keys(&["ada"]);
    let plain = signed.commit(None, "plain");
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(plain, "it has no signature"));
    let eve = signed.commit(Some("eve"), "by a stranger");
    let what =
        format!("it is signed by {}, which no line of allowed_signers has", fingerprint(&signed, "eve", "ssh-ed25519"));
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(eve, &what));
    signed.commit(Some("ada"), "by Ada");
    assert_eq!(signed.judge(Require::Head, &keys, None), Ok(()));
}

#[test]
fn a_key_counts_for_commits_of_its_time() {
    let signed = Signed::new();
    signed.key("ada", "ed25519", "256");
    // The fixture's clock stands at 2025-01-02T03:04:05Z.
    let commit = signed.commit(Some("ada"), "in January 2025");
    let judge = |options: &str| {
        let mut keys = Keys::default();
        keys.add_allowed_signers(&signed.line("ada", options)).expect("a good line");
        signed.judge(Require::Head, &keys, None)
    };
    assert_eq!(judge("valid-after=\"20250101\",valid-before=\"20250201\""), Ok(()));
    let key = fingerprint(&signed, "ada", "ssh-ed25519");
    let expired = format!("it is signed by {key}, which expired on 2025-01-01, and the commit is of 2025-01-02");
    assert_eq!(judge("valid-before=\"20250101\""), unsigned(commit, &expired));
}
