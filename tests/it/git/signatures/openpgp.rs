//! OpenPGP by the real GnuPG: keys of all kinds, subkeys, keys that ended or were revoked, and weak hashes.

use tempfile::TempDir;

use super::*;

/// GnuPG with a keyring of its own. Its agent ends with it.
struct Gpg {
    home: TempDir,
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = self.command("gpgconf", &["--kill", "all"]).output();
    }
}

impl Gpg {
    fn new() -> Self {
        // The agent's socket lies in it, whose path may have 107 bytes.
        let home = TempDir::with_prefix_in("gpg", "/tmp").expect("a temporary folder");
        Self { home }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("GNUPGHOME", self.home.path()).args(arguments);
        command
    }

    fn gpg(&self, arguments: &[&str]) -> String {
        let batch = [
            "--batch",
            "--quiet",
            "--yes",
            "--no-permission-warning",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ];
        let output = self.command("gpg", &[&batch[..], arguments].concat()).output().expect("gpg is installed");
        assert!(output.status.success(), "gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Makes a key that may sign; tells its fingerprint.
    fn key(&self, who: &str, kind: &str, more: &[&str]) -> String {
        self.gpg(&[more, &["--quick-generate-key", who, kind, "sign", "never"]].concat());
        self.fingerprints(who).remove(0)
    }

    /// The fingerprints of a key and its subkeys.
    fn fingerprints(&self, who: &str) -> Vec<String> {
        let listed = self.gpg(&["--with-colons", "--list-keys", who]);
        let lines = listed.lines().filter(|line| line.starts_with("fpr:"));
        lines.map(|line| line.split(':').nth(9).expect("a fingerprint").to_owned()).collect()
    }

    fn export(&self, who: &str) -> String {
        self.gpg(&["--armor", "--export", who])
    }

    fn keys(&self, who: &[&str]) -> Keys {
        let mut keys = Keys::default();
        let text: String = who.iter().map(|who| self.export(who)).collect();
        keys.add_openpgp(&text).expect("good keys");
        keys
    }

    /// Commits as this key's owner; `options` are for gpg.
    fn commit(&self, signed: &Signed, key: &str, options: &str) -> CommitId {
        let wrapper = self.home.path().join("wrapper");
        let text = format!(
            "#!/bin/sh\nexport GNUPGHOME={}\nexec gpg --batch --pinentry-mode loopback --passphrase '' {options} \"$@\"\n",
            self.home.path().display()
        );
        fs::write(&wrapper, text).expect("a file");
        let made = Command::new("chmod").arg("+x").arg(&wrapper).status().expect("chmod is installed");
        assert!(made.success());
        let with = ["-c".to_owned(), format!("gpg.program={}", wrapper.display())];
        signed.git(&with, &["commit", "--quiet", "--allow-empty", "-m", "words", &format!("-S{key}")]);
        signed.head()
    }
}

/// The fixture's commits are of this time, and keys have to be older.
const FAKED: [&str; 2] = ["--faked-system-time", "20250101T000000!"];
const THEN: &str = "--faked-system-time 20250102T030405!";

#[test]
fn every_kind_of_openpgp_key_that_gnupg_makes_by_itself_counts() {
    let (signed, gpg) = (Signed::new(), Gpg::new());
    for kind in ["ed25519", "nistp256", "nistp384", "rsa2048", "rsa3072"] {
        let who = format!("{kind} <{kind}@example.org>");
        gpg.key(&who, kind, &FAKED);
        gpg.commit(&signed, &format!("{kind}@example.org"), THEN);
        assert_eq!(signed.judge(Require::Head, &gpg.keys(&[kind]), None), Ok(()), "{kind}");
    }
}

#[test]
fn a_subkey_signs_in_its_primary_keys_name_and_a_stranger_for_nobody() {
    let (signed, gpg) = (Signed::new(), Gpg::new());
    gpg.gpg(&[&FAKED[..], &["--quick-generate-key", "Ada <ada@example.org>", "ed25519", "cert", "never"]].concat());
    let primary = gpg.fingerprints("ada@example.org").remove(0);
    gpg.gpg(&[&FAKED[..], &["--quick-add-key", &primary, "ed25519", "sign", "never"]].concat());
    let eve = gpg.key("Eve <eve@example.org>", "ed25519", &FAKED);
    let keys = gpg.keys(&["ada@example.org"]);
    gpg.commit(&signed, "ada@example.org", THEN);
    assert_eq!(signed.judge(Require::Head, &keys, None), Ok(()));
    let commit = gpg.commit(&signed, "eve@example.org", THEN);
    let what = format!("it is signed by the OpenPGP key {eve}, which is none of the OpenPGP keys that count");
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, &what));
    let both = gpg.keys(&["ada@example.org", "eve@example.org"]);
    assert_eq!(signed.judge(Require::Every, &both, None), Ok(()));
}

#[test]
fn a_key_that_ended_or_was_revoked_does_not_count() {
    let (signed, gpg) = (Signed::new(), Gpg::new());
    let early = ["--faked-system-time", "20240101T000000!"];
    let ada = gpg.key("Ada <ada@example.org>", "ed25519", &early);
    let commit = gpg.commit(&signed, "ada@example.org", THEN);
    let later = ["--faked-system-time", "20240102T000000!"];
    gpg.gpg(&[&later[..], &["--quick-set-expire", &ada, "30d"]].concat());
    let what = |why: &str| format!("it is signed by Ada <ada@example.org> ({ada}), which {why}");
    let expired = what("expired on 2024-02-01, and the commit is of 2025-01-02");
    assert_eq!(signed.judge(Require::Head, &gpg.keys(&["ada@example.org"]), None), unsigned(commit, &expired));
    let stored = gpg.home.path().join(format!("openpgp-revocs.d/{ada}.rev"));
    // GnuPG puts a colon before the block, so that nobody revokes a key by mistake.
    let revocation = fs::read_to_string(stored).expect("GnuPG writes one").replace(":-----BEGIN", "-----BEGIN");
    let file = gpg.home.path().join("revocation");
    fs::write(&file, revocation).expect("a file");
    gpg.gpg(&["--import", file.to_str().expect("UTF-8")]);
    let keys = gpg.keys(&["ada@example.org"]);
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, &what("is revoked")));
}

#[test]
fn a_subkey_that_was_revoked_does_not_count_and_the_others_do() {
    let (signed, gpg) = (Signed::new(), Gpg::new());
    let ada = gpg.key("Ada <ada@example.org>", "ed25519", &FAKED);
    gpg.gpg(&[&FAKED[..], &["--quick-add-key", &ada, "ed25519", "sign", "never"]].concat());
    let sub = gpg.fingerprints("ada@example.org").remove(1);
    let commit = gpg.commit(&signed, &format!("{sub}!"), THEN);
    assert_eq!(signed.judge(Require::Head, &gpg.keys(&["ada@example.org"]), None), Ok(()));
    let script = "key 1\nrevkey\ny\n0\n\ny\nsave\n";
    let mut child = gpg
        .command(
            "gpg",
            &["--quiet", "--no-tty", "--command-fd", "0", "--status-fd", "2", "--pinentry-mode", "loopback"],
        )
        .args(["--passphrase", "", "--edit-key", &ada])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("gpg is installed");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), script.as_bytes()).expect("gpg reads");
    assert!(child.wait().expect("gpg ends").success());
    let keys = gpg.keys(&["ada@example.org"]);
    let what = format!("it is signed by Ada <ada@example.org> ({sub}), which is revoked");
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, &what));
    gpg.commit(&signed, &format!("{ada}!"), THEN);
    assert_eq!(signed.judge(Require::Head, &keys, None), Ok(()));
}

#[test]
fn a_weak_signature_proves_nothing() {
    let (signed, gpg) = (Signed::new(), Gpg::new());
    let ada = gpg.key("Ada <ada@example.org>", "rsa2048", &FAKED);
    let commit = gpg.commit(&signed, "ada@example.org", &format!("{THEN} --digest-algo SHA1"));
    let keys = gpg.keys(&["ada@example.org"]);
    let what = "its signature proves nothing: its hash is SHA1";
    assert_eq!(signed.judge(Require::Head, &keys, None), unsigned(commit, what));
    let short = gpg.key("Short <short@example.org>", "rsa1024", &FAKED);
    let commit = gpg.commit(&signed, "short@example.org", THEN);
    let what = format!(
        "it is signed by Short <short@example.org> ({short}), which is an RSA key of 1024 bits, too short to be believed"
    );
    assert_eq!(signed.judge(Require::Head, &gpg.keys(&["short@example.org"]), None), unsigned(commit, &what));
    assert_ne!(ada, short);
}

#[test]
fn a_commit_that_was_changed_after_gnupg_signed_it_does_not_count() {
    let (signed, gpg) = (Signed::new(), Gpg::new());
    let ada = gpg.key("Ada <ada@example.org>", "ed25519", &FAKED);
    gpg.commit(&signed, "ada@example.org", THEN);
    let raw = signed.origin.git(&["cat-file", "commit", "HEAD"]) + "\n";
    let file = signed.origin.path().join("raw");
    fs::write(&file, raw.replace("words", "other words")).expect("a file");
    let id = signed.origin.git(&["hash-object", "-t", "commit", "-w", file.to_str().expect("UTF-8")]);
    signed.origin.git(&["update-ref", "refs/heads/main", &id]);
    let what = format!("its signature, by Ada <ada@example.org> ({ada}), does not fit the commit");
    let commit = CommitId::parse(&id).expect("a commit");
    assert_eq!(signed.judge(Require::Head, &gpg.keys(&["ada@example.org"]), None), unsigned(commit, &what));
}

#[test]
fn a_private_key_is_no_key_to_check_with() {
    let gpg = Gpg::new();
    gpg.key("Ada <ada@example.org>", "ed25519", &FAKED);
    let text = format!("People:\n{}", gpg.gpg(&["--armor", "--export-secret-keys", "ada@example.org"]));
    let error = Keys::default().add_openpgp(&text).expect_err("a private key");
    assert_eq!((error.line, error.message.as_str()), (2, "this is a private key, which must stay with its owner"));
}
