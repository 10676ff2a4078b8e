//! Signs report commits with an SSH key, as `git commit -S` does with `gpg.format=ssh`.
//!
//! Not supported: passphrases, agents and security keys, which need a user, and OpenPGP. One ECDSA key in 256, and every second of P-521,
//! has a private number that is shorter than its curve: ssh-key 0.6 does not read those.

use std::fmt;
use std::fs;
use std::path::Path;

use git2::{ObjectType, Oid, Repository};
use rsa::pkcs1v15::SigningKey as RsaSigningKey;
use rsa::rand_core::OsRng;
use rsa::signature::{RandomizedSigner, SignatureEncoding};
use rsa::{BigUint, RsaPrivateKey};
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::sha2::Sha512;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, Signature, SshSig};

use super::error::{Error, Result};
use crate::core::signature::Keys;

/// The namespace of Git's signatures.
const NAMESPACE: &str = "git";

/// The key that report commits are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Signer(PrivateKey);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.0.fingerprint(HashAlg::Sha256))
    }
}

impl Signer {
    /// Reads a private key without a passphrase, in OpenSSH's format.
    ///
    /// Error: [`Error::Credential`], [`Error::SigningKey`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(|source| Error::Credential { path: path.to_owned(), source })?;
        let fault = |what| Error::SigningKey { path: path.to_owned(), what };
        // The library's error may quote the key.
        let key = PrivateKey::from_openssh(&text)
            .map_err(|_| fault("it cannot be read as a private key in OpenSSH's format"))?;
        if key.is_encrypted() {
            return Err(fault("it has a passphrase"));
        }
        let signer = Self(key);
        // A key that cannot sign is reported here, where it is not mistaken for an error of the mirror.
        signer.sign(b"").map_err(|_| fault("it is of a kind that Egret cannot sign with"))?;
        Ok(signer)
    }

    /// The keys that verify its own signatures; none if keys of this kind are not accepted.
    pub(super) fn keys(&self) -> Keys {
        let mut keys = Keys::default();
        // Without the comment, which may be anything.
        let public = PublicKey::new(self.0.public_key().key_data().clone(), "").to_openssh().unwrap_or_default();
        match keys.add_allowed_signers(&format!("egret {public}\n")) {
            Ok(()) => keys,
            Err(_) => Keys::default(),
        }
    }

    fn sign(&self, bytes: &[u8]) -> std::result::Result<String, ssh_key::Error> {
        const HASH: HashAlg = HashAlg::Sha512;
        let signature = match self.0.key_data() {
            KeypairData::Rsa(pair) => {
                let signature = rsa_signature(pair, &SshSig::signed_data(NAMESPACE, HASH, bytes)?)?;
                SshSig::new(self.0.public_key().key_data().clone(), NAMESPACE, HASH, signature)?
            }
            _ => self.0.sign(NAMESPACE, HASH, bytes)?,
        };
        signature.to_pem(LineEnding::LF)
    }
}

/// An `rsa-sha2-512` signature (RFC 8332) by an RSA key in OpenSSH's format; none if the key cannot sign.
pub(super) fn rsa_sha512(openssh: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let key = PrivateKey::from_openssh(openssh).ok()?;
    let KeypairData::Rsa(pair) = key.key_data() else { return None };
    rsa_signature(pair, bytes).ok().map(|signature| signature.as_bytes().to_vec())
}

/// With blinding, so that its time reveals nothing of the key.
fn rsa_signature(pair: &RsaKeypair, bytes: &[u8]) -> std::result::Result<Signature, ssh_key::Error> {
    let primes = vec![BigUint::try_from(&pair.private.p)?, BigUint::try_from(&pair.private.q)?];
    let (public, private) = (&pair.public, &pair.private);
    let key = RsaPrivateKey::from_components(
        BigUint::try_from(&public.n)?,
        BigUint::try_from(&public.e)?,
        BigUint::try_from(&private.d)?,
        primes,
    )?;
    let signature = RsaSigningKey::<Sha512>::new(key).try_sign_with_rng(&mut OsRng, bytes)?;
    Signature::new(Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, signature.to_vec())
}

/// Stores a commit that no reference leads to yet, signed if there is a key.
pub(super) fn store(
    repository: &Repository,
    signer: Option<&Signer>,
    commit: &[u8],
) -> std::result::Result<Oid, git2::Error> {
    let unsigned = || git2::Error::from_str("the commit cannot be signed");
    let signature = signer.map(|signer| signer.sign(commit)).transpose().map_err(|_| unsigned())?;
    let commit = match (signature, commit.windows(2).position(|two| two == b"\n\n")) {
        (None, _) => commit.to_vec(),
        (Some(_), None) => return Err(unsigned()),
        // At the end of the header, where Git puts it.
        (Some(signature), Some(end)) => {
            let line = format!("gpgsig {}\n", signature.trim_end().replace('\n', "\n "));
            [&commit[..=end], line.as_bytes(), &commit[end + 1..]].concat()
        }
    };
    repository.odb()?.write(ObjectType::Commit, &commit)
}
