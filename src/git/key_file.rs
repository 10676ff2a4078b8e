//! Reads private SSH keys, in OpenSSH's format, PEM and PKCS #8, and says what is wrong with a file that holds none.
//!
//! A key with a passphrase is refused: no user is there to type it.

use std::fs;
use std::io;
use std::path::Path;

use russh::keys::{Error as KeyError, PrivateKey, decode_secret_key};

use super::error::{Error, Result};

const NONE: &str = "it is not a private key: one begins with `-----BEGIN … PRIVATE KEY-----`";
const LOCKED: &str = "the key has a passphrase, which Egret cannot enter; `ssh-keygen -p` removes it";
const UNREADABLE: &str =
    "it is not a private key that Egret can read; `ssh-keygen -t ed25519 -N '' -f FILE` creates one";

/// Reads a private key. Error: the file cannot be read, or what is wrong with its content.
pub(super) fn read(path: &Path) -> Result<PrivateKey> {
    let error = |source| Error::Credential { path: path.to_owned(), source };
    let text = fs::read(path).map_err(error)?;
    decode(&String::from_utf8_lossy(&text)).map_err(|why| error(io::Error::other(why)))
}

/// The library's errors are not shown: they may quote the key.
fn decode(text: &str) -> std::result::Result<PrivateKey, &'static str> {
    let text = text.trim_start();
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|start| text.starts_with(start)) {
        return Err("it is a public key, and the private one is needed");
    }
    if !text.contains(" PRIVATE KEY-----") {
        return Err(NONE);
    }
    if text.contains("ENCRYPTED") {
        return Err(LOCKED);
    }
    decode_secret_key(text, None).map_err(|error| match error {
        KeyError::KeyIsEncrypted => LOCKED,
        _ => UNREADABLE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_key_and_a_locked_key_are_distinguished() {
        // tests/it/git/ssh_keys.rs has real keys of every format.
        for (text, why) in [
            ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", LOCKED),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\n", LOCKED),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nbm9uZQ==\n-----END OPENSSH PRIVATE KEY-----\n", UNREADABLE),
            ("\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n", UNREADABLE),
            ("", NONE),
            ("-----BEGIN CERTIFICATE-----\n", NONE),
            ("ssh-ed25519 AAAA me", "it is a public key, and the private one is needed"),
        ] {
            assert_eq!(decode(text).err(), Some(why), "{text}");
        }
    }
}
