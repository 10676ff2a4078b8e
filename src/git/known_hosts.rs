//! The check of an SSH server's host key against OpenSSH's `known_hosts` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Unknown hosts are never added: an operator does that. `@cert-authority` lines are skipped, since Egret asks for no host certificates
//! (`ssh_relay`).

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Base64 as OpenSSH prints fingerprints, without padding; decodes with and without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A host key that a server offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedKey {
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`
    pub kind: String,
    /// The key's blob in the SSH wire format (RFC 4253 §6.6).
    pub blob: Vec<u8>,
}

impl fmt::Display for OfferedKey {
    /// `ssh-ed25519 SHA256:...`, as `ssh-keygen -l` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} SHA256:{}", self.kind, BASE64.encode(Sha256::digest(&self.blob)))
    }
}

/// The status of an offered host key by a `known_hosts` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostKeyStatus {
    /// The file has this key for the host.
    Known,
    /// The file has no line for this host.
    Unknown,
    /// The file has another key of the same kind: the server was reinstalled, or this is an attack.
    Changed,
    /// The file has keys of these other kinds only, none of which the server has.
    OtherKinds(Vec<String>),
    /// The key is marked `@revoked`.
    Revoked,
}

/// The status of a key that `host:port` offered, by the text of a `known_hosts` file. Malformed lines are skipped, as OpenSSH does.
pub fn check_host_key(file: &str, host: &str, port: u16, offered: &OfferedKey) -> HostKeyStatus {
    let name = name_of(host, port);
    let offered_blob = BASE64.encode(&offered.blob);
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
                return HostKeyStatus::Revoked;
            }
            continue;
        }
        known |= same_key;
        changed |= kind == offered.kind && !same_key;
        other_kinds.push(kind.to_owned());
    }
    match (known, changed, other_kinds.is_empty()) {
        (true, _, _) => HostKeyStatus::Known,
        (false, true, _) => HostKeyStatus::Changed,
        (false, false, true) => HostKeyStatus::Unknown,
        (false, false, false) => {
            other_kinds.sort();
            other_kinds.dedup();
            HostKeyStatus::OtherKinds(other_kinds)
        }
    }
}

/// The kinds of the keys that the file has for `host:port`.
pub(super) fn kinds_of(file: &str, host: &str, port: u16) -> Vec<String> {
    let name = name_of(host, port);
    let kinds = file.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (patterns, kind) = (words.next()?, words.next()?);
        (!patterns.starts_with(['#', '@']) && names_host(patterns, &name)).then(|| kind.to_owned())
    });
    kinds.collect()
}

fn name_of(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// Whether the first field of a line matches this host: a hashed name, or patterns separated by commas.
fn names_host(patterns: &str, name: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        let decode = |text| BASE64.decode(text).ok();
        let parts = hashed.split_once('|').and_then(|(salt, hash)| Some((decode(salt)?, decode(hash)?)));
        return parts
            .is_some_and(|(salt, hash)| name_hash(&salt, name).is_some_and(|mac| mac.verify_slice(&hash).is_ok()));
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

/// How `ssh-keygen -H` hashes a name (ssh_config(5), HashKnownHosts): HMAC-SHA-1 with the salt as the key.
fn name_hash(salt: &[u8], name: &str) -> Option<Hmac<Sha1>> {
    Hmac::<Sha1>::new_from_slice(salt).ok().map(|mac| mac.chain_update(name))
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
            // Backtracking to the last `*` is enough: what an earlier one matches can only grow into it.
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
        OfferedKey { kind: kind.to_owned(), blob: blob.to_vec() }
    }

    #[test]
    fn a_key_matches_by_name_by_pattern_and_by_port() {
        let file = "# comment\ngit.example.org,10.0.0.1 ssh-ed25519 Zm9v\n[git.example.org]:2222 ssh-ed25519 YmFy\n\
                    *.corp,!bad.corp ssh-rsa Zm9v comment\nnonsense\n";
        let ed25519 = key("ssh-ed25519", b"foo");
        assert_eq!(check_host_key(file, "git.example.org", 22, &ed25519), HostKeyStatus::Known);
        assert_eq!(check_host_key(file, "Git.Example.org", 22, &ed25519), HostKeyStatus::Known);
        assert_eq!(check_host_key(file, "git.example.org", 2222, &ed25519), HostKeyStatus::Changed);
        assert_eq!(check_host_key(file, "git.example.org", 2222, &key("ssh-ed25519", b"bar")), HostKeyStatus::Known);
        assert_eq!(check_host_key(file, "good.corp", 22, &key("ssh-rsa", b"foo")), HostKeyStatus::Known);
        assert_eq!(check_host_key(file, "bad.corp", 22, &key("ssh-rsa", b"foo")), HostKeyStatus::Unknown);
        assert_eq!(check_host_key(file, "other.org", 22, &ed25519), HostKeyStatus::Unknown);
        assert_eq!(
            check_host_key(file, "10.0.0.1", 22, &key("ecdsa-sha2-nistp256", b"foo")),
            HostKeyStatus::OtherKinds(vec!["ssh-ed25519".to_owned()])
        );
    }

    #[test]
    fn a_revoked_key_is_refused_although_another_line_has_it() {
        let file = "host ssh-ed25519 Zm9v\n@revoked * ssh-ed25519 Zm9v\n";
        assert_eq!(check_host_key(file, "host", 22, &key("ssh-ed25519", b"foo")), HostKeyStatus::Revoked);
        assert_eq!(
            check_host_key("@cert-authority * ssh-ed25519 Zm9v", "host", 22, &key("ssh-ed25519", b"foo")),
            HostKeyStatus::Unknown
        );
    }

    #[test]
    fn hashed_names_match_as_openssh_hashed_them() {
        // tests/it/git/ssh.rs compares with ssh-keygen itself.
        let salt: Vec<u8> = (0..20).collect();
        let hash = name_hash(&salt, "[localhost]:2222").expect("a key of any length").finalize().into_bytes();
        let line = format!("|1|{}=|{}= ssh-ed25519 Zm9v", BASE64.encode(&salt), BASE64.encode(hash));
        assert_eq!(check_host_key(&line, "localhost", 2222, &key("ssh-ed25519", b"foo")), HostKeyStatus::Known);
        assert_eq!(check_host_key(&line, "localhost", 22, &key("ssh-ed25519", b"foo")), HostKeyStatus::Unknown);
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
