//! Whether a file has a private SSH key that can be used: libssh2 says of one that can't only that it does not like it.
//!
//! Deliberately absent: checking the key itself, which libssh2 does, and passphrases: nobody is there to type one.

use std::fs;
use std::io;
use std::path::Path;

use super::digest::from_base64;
use super::error::{Error, Result};

/// What an OpenSSH key begins with (OpenSSH's PROTOCOL.key).
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Says what is wrong with a key's file, if anything is.
pub(super) fn check(path: &Path) -> Result<()> {
    let wrong = |source| Error::Credential { path: path.to_owned(), source };
    let text = fs::read(path).map_err(wrong)?;
    fault(&String::from_utf8_lossy(&text)).map_or(Ok(()), |why| Err(wrong(io::Error::other(why))))
}

fn fault(text: &str) -> Option<&'static str> {
    const NONE: &str = "it is no private key: one begins with `-----BEGIN … PRIVATE KEY-----`";
    const LOCKED: &str = "the key has a passphrase, and nobody is there to type it; `ssh-keygen -p` takes it away";
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
    match from_base64(&base64).as_deref().and_then(|bytes| bytes.strip_prefix(MAGIC)) {
        // The cipher's name, with its length before it.
        Some(rest) if rest.starts_with(b"\0\0\0\x04none") => None,
        Some(_) => Some(LOCKED),
        None => Some(NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_and_what_is_locked_is_told_apart() {
        let said = |text: &str| fault(text).map(|why| why.split([',', ':', ';']).next().unwrap_or_default().to_owned());
        let none = Some("it is no private key".to_owned());
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
