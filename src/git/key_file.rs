//! Checks that a file holds a private SSH key without a passphrase, because libssh2's error does not say what is wrong with one.
//!
//! Not here: checking the key itself, which libssh2 does.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;

use super::error::{Error, Result};
use super::known_hosts::BASE64;

/// The first bytes of an OpenSSH key (OpenSSH's PROTOCOL.key).
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Error: the file cannot be read, or what is wrong with its content.
pub(super) fn check(path: &Path) -> Result<()> {
    let wrong = |source| Error::Credential { path: path.to_owned(), source };
    let text = fs::read(path).map_err(wrong)?;
    problem(&String::from_utf8_lossy(&text)).map_or(Ok(()), |why| Err(wrong(io::Error::other(why))))
}

fn problem(text: &str) -> Option<&'static str> {
    const NONE: &str = "it is not a private key: one begins with `-----BEGIN … PRIVATE KEY-----`";
    const LOCKED: &str = "the key has a passphrase, which Egret cannot enter; `ssh-keygen -p` removes it";
    let text = text.trim_start();
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|start| text.starts_with(start)) {
        return Some("it is a public key, and the private one is needed");
    }
    let Some((_, body)) =
        text.split_once(" PRIVATE KEY-----").or_else(|| text.split_once("-----BEGIN PRIVATE KEY-----"))
    else {
        return Some(NONE);
    };
    if text.contains("ENCRYPTED") {
        return Some(LOCKED);
    }
    if !text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        return None;
    }
    let base64: String =
        body.lines().take_while(|line| !line.starts_with('-')).flat_map(str::split_whitespace).collect();
    match BASE64.decode(&base64).as_deref().ok().and_then(|bytes| bytes.strip_prefix(MAGIC)) {
        // The cipher's name, after its length.
        Some(rest) if rest.starts_with(b"\0\0\0\x04none") => None,
        Some(_) => Some(LOCKED),
        None => Some(NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_key_and_a_locked_key_are_distinguished() {
        let said =
            |text: &str| problem(text).map(|why| why.split([',', ':', ';']).next().unwrap_or_default().to_owned());
        let none = Some("it is not a private key".to_owned());
        let locked = Some("the key has a passphrase".to_owned());
        // The magic, and "none" or "aes256-ctr" behind it.
        let openssh =
            |body: &str| format!("-----BEGIN OPENSSH PRIVATE KEY-----\r\n{body}\r\n-----END OPENSSH PRIVATE KEY-----");
        assert_eq!(said(&openssh("b3BlbnNzaC1rZXktdjEAAAAABG5vbmU")), None);
        assert_eq!(said(&openssh("b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHI")), locked);
        assert_eq!(said(&openssh("bm9uZQ==")), none);
        assert_eq!(said("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"), locked);
        assert_eq!(said("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), locked);
        assert_eq!(said("\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"), None);
        assert_eq!(said("-----BEGIN PRIVATE KEY-----\nMIIE\n"), None);
        assert_eq!(said(""), none);
        assert_eq!(said("-----BEGIN CERTIFICATE-----\n"), none);
        assert_eq!(said("ssh-ed25519 AAAA me"), Some("it is a public key".to_owned()));
    }
}
