//! Whether a commit is signed by somebody who may move the way out.
//!
//! All of it is deciding, on bytes: `commit` takes a commit apart, `ssh` and `openpgp` judge its signature, `allowed` reads
//! OpenSSH's file of keys. A commit says by its own clock when it was made, and keys are judged at that time, as Git does it: the
//! end of a key is no wall against its thief, taking it from the list is.
//!
//! Deliberately absent: which commits are looked at (`git::signature`), files, X.509, and the web of trust: a key is believed because
//! somebody put it on the list.

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

/// A signature has a few thousand bytes at most. More than this is not looked at.
const LARGEST: usize = 64 << 10;
/// RSA keys with fewer bits are not believed.
const SHORTEST_RSA: usize = 2048;

/// Of which commits a signature is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Require {
    /// Of the one that comes into force. Whoever signs it answers for everything below it.
    Head,
    /// Of every one that comes in with it.
    Every,
}

/// What is demanded, as it is written: in egret.yaml, whose form its JSON has, or by flags and the files that they name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signatures {
    /// Of which commits.
    pub require: Require,
    /// Whose count.
    #[serde(flatten)]
    pub keys: KeyTexts,
}

/// Keys as they are written.
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

/// A key that cannot be taken, with its place in the text.
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
    /// Takes in the text of a file in the format of `allowed_signers` (ssh-keygen(1), "ALLOWED SIGNERS").
    ///
    /// Error: the first line that cannot be taken. A list that is taken in part would refuse somebody without a word.
    pub fn add_allowed_signers(&mut self, text: &str) -> Result<(), BadKey> {
        self.ssh.extend(allowed::read(text)?);
        Ok(())
    }

    /// Takes in a text with armored OpenPGP public keys, one block behind the other.
    ///
    /// Error: the first block that cannot be taken.
    pub fn add_openpgp(&mut self, text: &str) -> Result<(), BadKey> {
        let read = without_panic(|| openpgp::read(text)).unwrap_or_else(|()| Err(openpgp::unreadable(1)));
        self.openpgp.extend(read?);
        Ok(())
    }

    /// Whether nobody's signature counts.
    pub fn is_empty(&self) -> bool {
        self.ssh.is_empty() && self.openpgp.is_empty()
    }

    /// Who signed these bytes at that time, or why the signature does not count.
    pub fn check(&self, signature: &[u8], payload: &[u8], time: Timestamp) -> Result<String, SignatureRejection> {
        if signature.len() > LARGEST {
            return Err(SignatureRejection::Unreadable("it is longer than any that Git makes".to_owned()));
        }
        let text =
            std::str::from_utf8(signature).map_err(|_| SignatureRejection::Unreadable("it is no text".to_owned()))?;
        // Libraries read here what anybody wrote who can push. One that stumbles over it has not found it good.
        let judge = || match text.lines().next().unwrap_or_default().trim_end() {
            "-----BEGIN SSH SIGNATURE-----" => ssh::check(&self.ssh, text, payload, time),
            "-----BEGIN PGP SIGNATURE-----" => openpgp::check(&self.openpgp, text, payload, time),
            "-----BEGIN SIGNED MESSAGE-----" => Err(SignatureRejection::X509),
            _ => Err(SignatureRejection::Unreadable("it is neither an SSH nor an OpenPGP signature".to_owned())),
        };
        without_panic(judge).unwrap_or_else(|()| Err(SignatureRejection::Unreadable("its form is broken".to_owned())))
    }

    /// Who signed a commit, which is given as Git stores it; or why it does not count.
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

/// Why a signature does not count: half a sentence about the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureRejection {
    /// There is none.
    Missing,
    /// Two signatures: programs differ about which of them is meant.
    Several,
    /// Bytes that programs read in different ways: what was signed may not be what is read.
    Ambiguous(&'static str),
    /// It is of a kind that Egret does not check.
    X509,
    /// Nobody's signature counts.
    NoKeys,
    /// It cannot be understood.
    Unreadable(String),
    /// It is meant for something else than a commit.
    Namespace(String),
    /// Nobody of the list made it.
    Unknown {
        /// The key, as people know it.
        key: String,
        /// Where it was looked for.
        list: &'static str,
    },
    /// Its maker is on the list, and may not sign now, or not so.
    Unfit {
        /// The key, as people know it.
        key: String,
        /// Why it does not count: "expired on 2026-01-01".
        why: String,
    },
    /// It is too weak to prove anything.
    Weak(String),
    /// The bytes are not those that were signed.
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
            Self::NoKeys => f.write_str("nobody's signature counts yet: no key is given"),
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

/// A day, as messages name it.
fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}
