//! Verifies SSH signatures (OpenSSH's PROTOCOL.sshsig), as `git commit -S` makes them with `gpg.format=ssh`.
//!
//! Not supported: certificates, DSA, and RSA with SHA-1, which the library cannot even represent.

use jiff::Timestamp;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, SshSig};

use super::allowed::Signer;
use super::{SignatureRejection, day};

/// Git's signature namespace.
pub(super) const NAMESPACE: &str = "git";
/// Flag of a security key's signature: the user touched it.
const TOUCHED: u8 = 1;
/// Length of the flags and counter behind a security key's signature, in bytes.
const SECURITY_KEY_TRAILER: usize = 5;

pub(super) fn check(
    signers: &[Signer],
    text: &str,
    payload: &[u8],
    time: Timestamp,
) -> Result<String, SignatureRejection> {
    let signature = SshSig::from_pem(text).map_err(|error| SignatureRejection::Unreadable(error.to_string()))?;
    if signature.namespace() != NAMESPACE {
        return Err(SignatureRejection::Namespace(signature.namespace().to_owned()));
    }
    let key = name_of(signature.public_key());
    let lines: Vec<&Signer> = signers.iter().filter(|line| line.key.key_data() == signature.public_key()).collect();
    if lines.is_empty() {
        return Err(SignatureRejection::Unknown { key, list: "no line of allowed_signers has" });
    }
    let fit = lines.iter().map(|line| fit(line, time)).collect::<Vec<_>>();
    let Some(signer) = lines.iter().zip(&fit).find(|(_, fit)| fit.is_ok()).map(|(line, _)| line) else {
        let why = fit.into_iter().find_map(Result::err).unwrap_or_default();
        return Err(SignatureRejection::Unfit { key, why });
    };
    if !touched(&signature) {
        return Err(SignatureRejection::Weak(format!("the security key {key} was not touched")));
    }
    match signer.key.verify(NAMESPACE, payload, &signature) {
        Ok(()) => Ok(format!("{} ({key})", signer.name)),
        Err(_) => Err(SignatureRejection::Mismatch { key }),
    }
}

/// Whether a line allows its key to sign commits at that time, or why not.
fn fit(line: &Signer, time: Timestamp) -> Result<(), String> {
    if line.namespaces.as_ref().is_some_and(|patterns| !matches_list(patterns, NAMESPACE)) {
        return Err("allowed_signers has for other namespaces than git".to_owned());
    }
    if let Some(after) = line.after.filter(|after| time < *after) {
        return Err(format!("is valid from {} on, and the commit is of {}", day(after), day(time)));
    }
    if let Some(before) = line.before.filter(|before| time > *before) {
        return Err(format!("expired on {}, and the commit is of {}", day(before), day(time)));
    }
    Ok(())
}

/// OpenSSH's pattern lists: one pattern matches, and none with `!` does.
fn matches_list(patterns: &[String], name: &str) -> bool {
    let forbidden =
        |pattern: &&String| pattern.strip_prefix('!').is_some_and(|rest| matches(rest.as_bytes(), name.as_bytes()));
    !patterns.iter().any(|pattern| forbidden(&pattern))
        && patterns.iter().any(|pattern| !pattern.starts_with('!') && matches(pattern.as_bytes(), name.as_bytes()))
}

/// `*` matches anything, `?` one character. Slow for patterns with many stars, so it relies on short names.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => matches(rest, name),
        (Some((b'*', rest)), Some((_, shorter))) => matches(rest, name) || matches(pattern, shorter),
        (Some((b'?', rest)), Some((_, shorter))) => matches(rest, shorter),
        (Some((one, rest)), Some((other, shorter))) => one == other && matches(rest, shorter),
        _ => false,
    }
}

/// Malware on a user's machine can request signatures from a plugged-in security key; only the touch shows the user's
/// consent.
fn touched(signature: &SshSig) -> bool {
    let bytes = signature.signature_bytes();
    match signature.algorithm() {
        Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 => {
            let flags = bytes.len().checked_sub(SECURITY_KEY_TRAILER).and_then(|at| bytes.get(at));
            flags.is_some_and(|flags| flags & TOUCHED != 0)
        }
        _ => true,
    }
}

/// `ssh-ed25519 SHA256:…`, as `ssh-keygen -l` prints it.
fn name_of(key: &KeyData) -> String {
    format!("{} {}", key.algorithm().as_str(), key.fingerprint(HashAlg::Sha256))
}
