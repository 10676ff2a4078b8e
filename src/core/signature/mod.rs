//! Checks whether a commit is signed by a trusted key.
//!
//! Everything here is pure and works on bytes: `commit` parses a commit, `ssh` and `openpgp` verify its signature,
//! `allowed` parses OpenSSH's list of keys. A commit carries its committer's time, and keys are judged at that time, as
//! Git does: a key's expiry does not stop a thief, removing the key from the list does.
//!
//! Not here: which commits are checked (`git::signature`), and files. X.509 and OpenPGP's web of trust are not supported:
//! a key is trusted because it is on the list.

mod allowed;
mod commit;
mod openpgp;
mod ssh;
#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::commit::{SignedCommit, parts};

/// Maximum size in bytes of a signature that is parsed; real ones have a few thousand.
const LARGEST: usize = 64 << 10;
/// RSA keys with fewer bits are refused.
const SHORTEST_RSA: usize = 2048;

/// Which commits must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Require {
    /// The commit to be activated. Its signer vouches for all commits below it.
    Head,
    /// Every commit that comes with it.
    Every,
}

/// Signature requirements as configured: in egret.yaml, whose form its JSON has, or by options and the files that they
/// name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signatures {
    /// Which commits must be signed.
    pub require: Require,
    /// Whose signatures count.
    #[serde(flatten)]
    pub keys: KeyTexts,
}

/// Keys in their text form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KeyTexts {
    /// Lines of OpenSSH's `allowed_signers`.
    pub allowed_signers: Vec<String>,
    /// Armored OpenPGP public keys.
    #[serde(rename = "openPGPKeys")]
    pub openpgp: Vec<String>,
}

/// The keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    ssh: Vec<allowed::Signer>,
    openpgp: Vec<openpgp::Certificate>,
}

/// A key that cannot be used, with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadKey {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl Keys {
    /// Adds the keys of a file in the format of `allowed_signers` (ssh-keygen(1), "ALLOWED SIGNERS").
    ///
    /// Error: the first invalid line. A partially loaded list would silently reject signers.
    pub fn add_allowed_signers(&mut self, text: &str) -> Result<(), BadKey> {
        self.ssh.extend(allowed::read(text)?);
        Ok(())
    }

    /// Adds the keys of a text with armored OpenPGP public keys, one block after the other.
    ///
    /// Error: the first invalid block.
    pub fn add_openpgp(&mut self, text: &str) -> Result<(), BadKey> {
        let read = without_panic(|| openpgp::read(text)).unwrap_or_else(|()| Err(openpgp::unreadable(1)));
        self.openpgp.extend(read?);
        Ok(())
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.ssh.is_empty() && self.openpgp.is_empty()
    }

    /// The signer of these bytes at that time, or why the signature does not count.
    pub fn check(&self, signature: &[u8], payload: &[u8], time: Timestamp) -> Result<String, SignatureRejection> {
        if signature.len() > LARGEST {
            return Err(SignatureRejection::Unreadable("it is longer than any that Git makes".to_owned()));
        }
        let text =
            std::str::from_utf8(signature).map_err(|_| SignatureRejection::Unreadable("it is no text".to_owned()))?;
        // Libraries parse untrusted input here. A panic counts as a failed check.
        let judge = || match text.lines().next().unwrap_or_default().trim_end() {
            "-----BEGIN SSH SIGNATURE-----" => ssh::check(&self.ssh, text, payload, time),
            "-----BEGIN PGP SIGNATURE-----" => openpgp::check(&self.openpgp, text, payload, time),
            "-----BEGIN SIGNED MESSAGE-----" => Err(SignatureRejection::X509),
            _ => Err(SignatureRejection::Unreadable("it is neither an SSH nor an OpenPGP signature".to_owned())),
        };
        without_panic(judge).unwrap_or_else(|()| Err(SignatureRejection::Unreadable("its form is broken".to_owned())))
    }

    /// The signer of a raw commit object; or why its signature does not count.
    pub fn check_commit(&self, raw: &[u8]) -> Result<String, SignatureRejection> {
        let parts = parts(raw)?;
        if self.is_empty() {
            return Err(SignatureRejection::NoKeys);
        }
        self.check(&parts.signature, &parts.payload, parts.time)
    }
}

fn without_panic<T>(act: impl FnOnce() -> T) -> Result<T, ()> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|_| ())
}

/// Why a signature does not count: a clause about the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureRejection {
    /// No signature.
    Missing,
    /// Two signatures: programs differ in which of them they use.
    Several,
    /// Bytes that programs interpret differently: what was signed may not be what is read.
    Ambiguous(&'static str),
    /// A kind of signature that Egret does not check.
    X509,
    /// No keys are configured.
    NoKeys,
    /// It cannot be parsed.
    Unreadable(String),
    /// It was made for another purpose than a commit.
    Namespace(String),
    /// No key on the list made it.
    Unknown {
        /// The key, in its usual form.
        key: String,
        /// The list that was searched.
        list: &'static str,
    },
    /// Its key is on the list, and may not sign at this time or for this purpose.
    Unfit {
        /// The key, in its usual form.
        key: String,
        /// Why it does not count: "expired on 2026-01-01".
        why: String,
    },
    /// The algorithm or key is too weak.
    Weak(String),
    /// The payload is not what was signed.
    Mismatch {
        /// The key that it names.
        key: String,
    },
}

impl fmt::Display for SignatureRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it has no signature"),
            Self::Several => f.write_str("it has more than one signature"),
            Self::Ambiguous(what) => write!(f, "it cannot be checked: {what}"),
            Self::X509 => f.write_str("it is signed with an X.509 certificate; only SSH and OpenPGP are checked"),
            Self::NoKeys => f.write_str("no signature counts yet: no key is configured"),
            Self::Unreadable(why) => write!(f, "its signature cannot be read: {why}"),
            Self::Namespace(found) => {
                write!(f, "it is signed for the namespace `{}`, not `git`", found.escape_debug())
            }
            Self::Unknown { key, list } => write!(f, "it is signed by {key}, which {list}"),
            Self::Unfit { key, why } => write!(f, "it is signed by {key}, which {why}"),
            Self::Weak(why) => write!(f, "its signature proves nothing: {why}"),
            Self::Mismatch { key } => write!(f, "its signature, by {key}, does not fit the commit"),
        }
    }
}

/// A day, as shown in messages.
fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}
