//! Whether an SSH server is the one we know: OpenSSH's `known_hosts` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Deliberately absent: learning new hosts (a person adds them), and certificate authorities: libssh2 never offers a host
//! certificate, so those lines can match nothing. libssh2 has a reader of its own, but for `~/.ssh/known_hosts` alone.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::digest::{base64_unpadded, from_base64, hmac_sha1};

/// A public key that a server offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedKey {
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`
    pub kind: String,
    /// The key's blob in the SSH wire format (RFC 4253 §6.6).
    pub blob: Vec<u8>,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

impl fmt::Display for OfferedKey {
    /// `ssh-ed25519 SHA256:...`, as `ssh-keygen -l` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} SHA256:{}", self.kind, base64_unpadded(&self.sha256))
    }
}

/// What a `known_hosts` file says of a host and the key it offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// This very key is there.
    Known,
    /// No line is about this host.
    Unknown,
    /// A line has another key of the same kind: the server was set up anew, or somebody is in between.
    Changed,
    /// The host is known by keys of these other kinds only; which kind is offered is libssh2's choice.
    OtherKinds(Vec<String>),
    /// The key is marked `@revoked`.
    Revoked,
}

/// What the text of a `known_hosts` file says of a key that `host:port` offered. Lines that are none are passed over, as
/// OpenSSH does.
pub fn verdict(file: &str, host: &str, port: u16, offered: &OfferedKey) -> Verdict {
    let name = name_of(host, port);
    let offered_blob = base64_unpadded(&offered.blob);
    let mut other_kinds = Vec::new();
    let (mut known, mut changed) = (false, false);
    for line in file.lines() {
        let mut words = line.split_ascii_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@'));
        let (Some(patterns), Some(kind), Some(blob)) = (words.next(), words.next(), words.next()) else { continue };
        if patterns.starts_with('#') || marker == Some("@cert-authority") || !names_host(patterns, &name) {
            continue;
        }
        let same_key = kind == offered.kind && blob.trim_end_matches('=') == offered_blob;
        if marker == Some("@revoked") {
            if same_key {
                return Verdict::Revoked;
            }
            continue;
        }
        known |= same_key;
        changed |= kind == offered.kind && !same_key;
        other_kinds.push(kind.to_owned());
    }
    match (known, changed, other_kinds.is_empty()) {
        (true, _, _) => Verdict::Known,
        (false, true, _) => Verdict::Changed,
        (false, false, true) => Verdict::Unknown,
        (false, false, false) => {
            other_kinds.sort();
            other_kinds.dedup();
            Verdict::OtherKinds(other_kinds)
        }
    }
}

/// The lines about `host:port`, without marks, patterns and hashes: `name kind key`.
pub(super) fn lines_of(file: &str, host: &str, port: u16) -> String {
    let name = name_of(host, port);
    let lines = file.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (patterns, kind, blob) = (words.next()?, words.next()?, words.next()?);
        let plain = !patterns.starts_with(['#', '@']) && names_host(patterns, &name);
        plain.then(|| format!("{name} {kind} {blob}\n"))
    });
    lines.collect()
}

fn name_of(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// Whether the first field of a line is about this host: a hashed name, or patterns between commas.
fn names_host(patterns: &str, name: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        let parts = hashed.split_once('|').and_then(|(salt, hash)| Some((from_base64(salt)?, from_base64(hash)?)));
        return parts.is_some_and(|(salt, hash)| hmac_sha1(&salt, name.as_bytes()).as_slice() == hash);
    }
    let mut named = false;
    for pattern in patterns.split(',') {
        let (denied, pattern) = pattern.strip_prefix('!').map_or((false, pattern), |pattern| (true, pattern));
        if glob(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes()) {
            if denied {
                return false;
            }
            named = true;
        }
    }
    named
}

/// `*` stands for any text and `?` for one character (ssh_config(5), PATTERNS).
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut star = None;
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == text[position] => {
                at += 1;
                position += 1;
            }
            // Only the last `*` needs to be tried again: what earlier ones took can only grow into it.
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    position = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, blob: &[u8]) -> OfferedKey {
        OfferedKey { kind: kind.to_owned(), blob: blob.to_vec(), sha256: [0; 32] }
    }

    #[test]
    fn a_key_is_known_by_name_by_pattern_and_by_port() {
        let file = "# comment\ngit.example.org,10.0.0.1 ssh-ed25519 Zm9v\n[git.example.org]:2222 ssh-ed25519 YmFy\n\
                    *.corp,!bad.corp ssh-rsa Zm9v comment\nnonsense\n";
        let ed25519 = key("ssh-ed25519", b"foo");
        assert_eq!(verdict(file, "git.example.org", 22, &ed25519), Verdict::Known);
        assert_eq!(verdict(file, "Git.Example.org", 22, &ed25519), Verdict::Known);
        assert_eq!(verdict(file, "git.example.org", 2222, &ed25519), Verdict::Changed);
        assert_eq!(verdict(file, "git.example.org", 2222, &key("ssh-ed25519", b"bar")), Verdict::Known);
        assert_eq!(verdict(file, "good.corp", 22, &key("ssh-rsa", b"foo")), Verdict::Known);
        assert_eq!(verdict(file, "bad.corp", 22, &key("ssh-rsa", b"foo")), Verdict::Unknown);
        assert_eq!(verdict(file, "other.org", 22, &ed25519), Verdict::Unknown);
        assert_eq!(
            verdict(file, "10.0.0.1", 22, &key("ecdsa-sha2-nistp256", b"foo")),
            Verdict::OtherKinds(vec!["ssh-ed25519".to_owned()])
        );
    }

    #[test]
    fn a_revoked_key_is_refused_although_another_line_has_it() {
        let file = "host ssh-ed25519 Zm9v\n@revoked * ssh-ed25519 Zm9v\n";
        assert_eq!(verdict(file, "host", 22, &key("ssh-ed25519", b"foo")), Verdict::Revoked);
        assert_eq!(
            verdict("@cert-authority * ssh-ed25519 Zm9v", "host", 22, &key("ssh-ed25519", b"foo")),
            Verdict::Unknown
        );
    }

    #[test]
    fn hashed_names_match_as_openssh_hashed_them() {
        // The form of ssh_config(5), HashKnownHosts; tests/it/git/ssh.rs checks it against ssh-keygen itself.
        let salt: Vec<u8> = (0..20).collect();
        let line = format!(
            "|1|{}=|{}= ssh-ed25519 Zm9v",
            base64_unpadded(&salt),
            base64_unpadded(&hmac_sha1(&salt, b"[localhost]:2222"))
        );
        assert_eq!(verdict(&line, "localhost", 2222, &key("ssh-ed25519", b"foo")), Verdict::Known);
        assert_eq!(verdict(&line, "localhost", 22, &key("ssh-ed25519", b"foo")), Verdict::Unknown);
    }

    #[test]
    fn globs_go_back_to_the_last_star() {
        assert!(glob(b"*.a.*.b", b"x.a.a.c.b"));
        assert!(glob(b"h?st*", b"host"));
        assert!(!glob(b"h?st", b"hosts"));
        assert!(!glob(b"*x", b""));
        assert!(glob(b"", b""));
    }
}
