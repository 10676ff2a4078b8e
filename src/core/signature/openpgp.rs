//! OpenPGP (RFC 9580): parses trusted public keys, and verifies detached signatures as `git commit -S` makes them with
//! GnuPG.
//!
//! Stricter than GnuPG: SHA-1 is refused everywhere, also in a key's self-signatures, and so is a key with any
//! revocation; a key must be flagged for signing. Not supported: trust between keys, key servers, and revocation by other
//! keys.

use jiff::Timestamp;
use pgp::composed::{Deserializable, DetachedSignature, PublicOrSecret, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{PublicKey, PublicSubkey, Signature, SignatureType, SignatureVersion, Subpacket, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, PublicParams, Tag};

use super::{BadKey, SHORTEST_RSA, SignatureRejection, day};

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
const EXPORT: &str = "export it by: gpg --armor --export KEY";

/// A key with its subkeys: which may sign, and why the others may not.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    name: String,
    keys: Vec<Key>,
}

/// One key of a certificate.
#[derive(Debug, Clone)]
struct Key {
    material: Material,
    /// From when to when it may sign; or why it may not.
    state: Result<Span, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: Timestamp,
    until: Option<Timestamp>,
}

#[derive(Debug, Clone)]
enum Material {
    Primary(PublicKey),
    Sub(PublicSubkey),
}

pub(super) fn unreadable(line: usize) -> BadKey {
    BadKey { line, message: "the OpenPGP key cannot be read".to_owned(), hint: EXPORT }
}

/// Parses armored blocks. Text around them is ignored.
pub(super) fn read(text: &str) -> Result<Vec<Certificate>, BadKey> {
    let mut found = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.trim_end() == BEGIN {
            block = Some((number, String::new()));
        } else if line.starts_with("-----BEGIN PGP PRIVATE") {
            let message = "this is a private key, which must stay with its owner".to_owned();
            return Err(BadKey { line: number, message, hint: EXPORT });
        }
        let Some((begin, body)) = &mut block else { continue };
        body.push_str(line);
        body.push('\n');
        if line.trim_end() == END {
            found.extend(certificates(*begin, body)?);
            block = None;
        }
    }
    match block {
        Some((line, _)) => Err(BadKey { line, message: "the block has no end".to_owned(), hint: EXPORT }),
        None if found.is_empty() => {
            Err(BadKey { line: 1, message: "there is no OpenPGP public key".to_owned(), hint: EXPORT })
        }
        None => Ok(found),
    }
}

fn certificates(line: usize, block: &str) -> Result<Vec<Certificate>, BadKey> {
    let bad = |error: &dyn std::fmt::Display| BadKey {
        line,
        message: format!("the OpenPGP key cannot be read: {error}"),
        hint: EXPORT,
    };
    let (keys, _) = PublicOrSecret::from_armor_many(block.as_bytes()).map_err(|error| bad(&error))?;
    let mut found = Vec::new();
    for key in keys {
        match key.map_err(|error| bad(&error))? {
            PublicOrSecret::Public(key) => found.push(certificate(&key)),
            PublicOrSecret::Secret(_) => return Err(bad(&"it is a private key")),
        }
    }
    if found.is_empty() { Err(bad(&"the block is empty")) } else { Ok(found) }
}

fn certificate(key: &SignedPublicKey) -> Certificate {
    let primary = &key.primary_key;
    let own = own_statement(key);
    let name = key
        .details
        .users
        .first()
        .map_or_else(|| fingerprint(primary), |user| user.id.as_str().unwrap_or_default().escape_debug().to_string());
    let whole = whole(key, own.as_ref());
    let mut keys = vec![Key {
        material: Material::Primary(primary.clone()),
        state: whole.clone().and_then(|span| match own.as_ref().map(|own| own.key_flags().sign()) {
            Some(true) => strong_enough(primary.public_params()).map(|()| span),
            _ => Err("may not sign".to_owned()),
        }),
    }];
    keys.extend(key.public_subkeys.iter().map(|sub| Key {
        material: Material::Sub(sub.key.clone()),
        state: whole.clone().and_then(|whole| subkey(primary, sub, whole)),
    }));
    Certificate { name, keys }
}

/// The newest valid self-signature of a key.
fn own_statement(key: &SignedPublicKey) -> Option<Signature> {
    let primary = &key.primary_key;
    let direct = key.details.direct_signatures.iter();
    let direct = direct.filter(|signature| sound(signature) && signature.verify_key(primary).is_ok());
    let users =
        key.details.users.iter().filter(|user| !user.signatures.iter().any(|one| is_own_revocation(one, key, user)));
    let users = users.flat_map(|user| {
        user.signatures.iter().filter(move |signature| {
            sound(signature)
                && signature.typ() != Some(SignatureType::CertRevocation)
                && signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
        })
    });
    direct.chain(users).max_by_key(|signature| signature.created()).cloned()
}

fn is_own_revocation(signature: &Signature, key: &SignedPublicKey, user: &pgp::types::SignedUser) -> bool {
    signature.typ() == Some(SignatureType::CertRevocation)
        && signature.verify_certification(&key.primary_key, Tag::UserId, &user.id).is_ok()
}

/// The validity period of the key as a whole, or why it is refused.
fn whole(key: &SignedPublicKey, own: Option<&Signature>) -> Result<Span, String> {
    // Also a revocation that cannot be verified, for example by another key: it was added so that the key is not
    // trusted.
    if !key.details.revocation_signatures.is_empty() {
        return Err("is revoked".to_owned());
    }
    let own = own.ok_or("says nothing about itself that holds, SHA-1 not counted")?;
    span(&key.primary_key, own)
}

fn subkey(primary: &PublicKey, sub: &SignedPublicSubKey, whole: Span) -> Result<Span, String> {
    let of_kind = |kind| sub.signatures.iter().filter(move |signature| signature.typ() == Some(kind));
    if of_kind(SignatureType::SubkeyRevocation).next().is_some() {
        return Err("is revoked".to_owned());
    }
    let bindings = of_kind(SignatureType::SubkeyBinding);
    let bindings = bindings.filter(|one| sound(one) && one.verify_subkey_binding(primary, &sub.key).is_ok());
    let newest = bindings.max_by_key(|signature| signature.created()).ok_or("is not bound to its primary key")?;
    // The subkey must confirm the binding itself; otherwise another person's key could be claimed as a subkey.
    let back = newest.embedded_signature();
    let back = back.is_some_and(|back| sound(back) && back.verify_primary_key_binding(&sub.key, primary).is_ok());
    if !newest.key_flags().sign() || !back {
        return Err("may not sign".to_owned());
    }
    strong_enough(sub.key.public_params())?;
    let own = span(&sub.key, newest)?;
    let until = own.until.into_iter().chain(whole.until).min();
    Ok(Span { from: own.from.max(whole.from), until })
}

/// The validity period of a key, according to a signature about it.
fn span(key: &impl KeyDetails, statement: &Signature) -> Result<Span, String> {
    let from = time(key.created_at()).ok_or("has no time of creation")?;
    let seconds = statement.key_expiration_time().map_or(0, pgp::types::Duration::as_secs);
    let until = (seconds > 0).then(|| Timestamp::from_second(from.as_second() + i64::from(seconds)).ok()).flatten();
    Ok(Span { from, until })
}

fn time(time: pgp::types::Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(i64::from(time.as_secs())).ok()
}

/// Whether a signature can be relied on: a collision-resistant hash, and no unknown critical subpacket.
fn sound(signature: &Signature) -> bool {
    weakness(signature).is_none()
}

fn weakness(signature: &Signature) -> Option<String> {
    if !matches!(signature.version(), SignatureVersion::V4 | SignatureVersion::V6) {
        return Some("it is of a version that is not checked".to_owned());
    }
    match signature.hash_alg() {
        Some(
            HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512,
        ) => {}
        hash => {
            return Some(format!("its hash is {}", hash.map_or_else(|| "unknown".to_owned(), |hash| hash.to_string())));
        }
    }
    let unknown = |packet: &Subpacket| {
        packet.is_critical
            && matches!(
                packet.data,
                SubpacketData::Other(..) | SubpacketData::Experimental(..) | SubpacketData::Notation(_)
            )
    };
    let critical = signature.config().is_some_and(|config| config.hashed_subpackets().any(unknown));
    critical.then(|| "it has a critical part that is not understood".to_owned())
}

/// Refuses obsolete key types and short keys.
fn strong_enough(params: &PublicParams) -> Result<(), String> {
    match params {
        PublicParams::RSA(rsa) => {
            // The bit count precedes the first number.
            let bits = rsa
                .to_bytes()
                .ok()
                .and_then(|bytes| Some(usize::from(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))));
            match bits {
                Some(bits) if bits >= SHORTEST_RSA => Ok(()),
                bits => Err(format!("is an RSA key of {} bits, too short to be believed", bits.unwrap_or_default())),
            }
        }
        PublicParams::ECDSA(_) | PublicParams::EdDSALegacy(_) | PublicParams::Ed25519(_) | PublicParams::Ed448(_) => {
            Ok(())
        }
        _ => Err("is of a kind that is not believed".to_owned()),
    }
}

pub(super) fn check(
    certificates: &[Certificate],
    text: &str,
    payload: &[u8],
    commit_time: Timestamp,
) -> Result<String, SignatureRejection> {
    let signature = single(text)?;
    if signature.typ() != Some(SignatureType::Binary) {
        return Err(SignatureRejection::Unreadable("it is not one over bytes as they are".to_owned()));
    }
    if let Some(why) = weakness(&signature) {
        return Err(SignatureRejection::Weak(why));
    }
    let created = signature.created().and_then(time);
    let created =
        created.ok_or_else(|| SignatureRejection::Unreadable("it does not say when it was made".to_owned()))?;
    let candidates =
        certificates.iter().flat_map(|certificate| certificate.keys.iter().map(move |key| (certificate, key)));
    let mut named = candidates.filter(|(_, key)| key.material.made(&signature)).peekable();
    if named.peek().is_none() {
        return Err(SignatureRejection::Unknown {
            key: issuer(&signature),
            list: "is none of the OpenPGP keys that count",
        });
    }
    let mut refused = None;
    for (certificate, key) in named {
        let name = format!("{} ({})", certificate.name, key.material.fingerprint());
        // The key must be valid at both times, the signature's and the commit's.
        let fit = key.state.clone().and_then(|span| fit(span, created).and_then(|()| fit(span, commit_time)));
        let fit = fit.and_then(|()| unexpired(&signature, created, commit_time));
        match fit {
            Err(why) => refused = refused.or(Some(SignatureRejection::Unfit { key: name, why })),
            Ok(()) if key.material.verifies(&signature, payload) => return Ok(name),
            Ok(()) => refused = Some(SignatureRejection::Mismatch { key: name }),
        }
    }
    Err(refused.unwrap_or(SignatureRejection::Missing))
}

/// The only signature of a block. Git refuses a block with several as well.
fn single(text: &str) -> Result<Signature, SignatureRejection> {
    let broken = |error: pgp::errors::Error| SignatureRejection::Unreadable(first_line(&error.to_string()));
    let (mut all, _) = DetachedSignature::from_armor_many(text.as_bytes()).map_err(broken)?;
    let first = all.next().ok_or_else(|| SignatureRejection::Unreadable("it is empty".to_owned()))?.map_err(broken)?;
    match all.next() {
        None => Ok(first.signature),
        Some(_) => Err(SignatureRejection::Several),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|character| !character.is_control()).collect()
}

fn fit(span: Span, at: Timestamp) -> Result<(), String> {
    if at < span.from {
        return Err(format!("was made on {}, after {}", day(span.from), day(at)));
    }
    match span.until {
        Some(until) if at >= until => Err(format!("expired on {}, and the commit is of {}", day(until), day(at))),
        _ => Ok(()),
    }
}

fn unexpired(signature: &Signature, created: Timestamp, at: Timestamp) -> Result<(), String> {
    let seconds = signature.signature_expiration_time().map_or(0, pgp::types::Duration::as_secs);
    let ended = seconds > 0 && at.as_second() >= created.as_second() + i64::from(seconds);
    if ended { Err("gave this signature an end, which is past".to_owned()) } else { Ok(()) }
}

impl Material {
    /// Whether a signature names this key as its issuer.
    fn made(&self, signature: &Signature) -> bool {
        match self {
            Self::Primary(key) => names(signature, key),
            Self::Sub(key) => names(signature, key),
        }
    }

    fn verifies(&self, signature: &Signature, payload: &[u8]) -> bool {
        match self {
            Self::Primary(key) => signature.verify(key, payload).is_ok(),
            Self::Sub(key) => signature.verify(key, payload).is_ok(),
        }
    }

    fn fingerprint(&self) -> String {
        match self {
            Self::Primary(key) => fingerprint(key),
            Self::Sub(key) => fingerprint(key),
        }
    }
}

fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    signature.issuer_fingerprint().iter().any(|one| **one == key.fingerprint())
        || signature.issuer_key_id().iter().any(|one| **one == key.legacy_key_id())
}

/// As printed by `gpg --list-keys`.
fn fingerprint(key: &impl KeyDetails) -> String {
    format!("{:X}", key.fingerprint())
}

/// The issuer of a signature, for messages.
fn issuer(signature: &Signature) -> String {
    let by_fingerprint = signature.issuer_fingerprint().first().map(|one| format!("{one:X}"));
    let by_id = || signature.issuer_key_id().first().map(|one| one.to_string().to_uppercase());
    by_fingerprint
        .or_else(by_id)
        .map_or_else(|| "a key that it does not name".to_owned(), |key| format!("the OpenPGP key {key}"))
}
