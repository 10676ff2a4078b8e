//! Tests that need no other program: forms of commits and of `allowed_signers`, and security keys, which no test machine
//! has.
//!
//! tests/it/signatures has signatures made by real programs.

use jiff::Timestamp;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::public::{KeyData, SkEd25519};
use ssh_key::sha2::{Digest, Sha256};
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey, Signature, SshSig};

use super::*;

const COMMIT: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\
                      parent 1111111111111111111111111111111111111111\n\
                      author Ada <ada@example.org> 1700000000 +0100\n\
                      committer Ada <ada@example.org> 1700000001 +0100\n";

fn key(seed: u8) -> PrivateKey {
    KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])).try_into().expect("a key")
}

fn line(key: &PublicKey, options: &str) -> String {
    format!("ada@example.org {options} {}", key.to_openssh().expect("a line"))
}

fn keys(lines: &str) -> Keys {
    let mut keys = Keys::default();
    keys.add_allowed_signers(lines).expect("good lines");
    keys
}

/// A commit with the signature in its header, as Git writes it.
fn signed(payload: &str, signature: &str) -> Vec<u8> {
    let (header, message) = payload.split_once("\n\n").expect("a header");
    format!("{header}\ngpgsig {}\n\n{message}", signature.trim_end().replace('\n', "\n ")).into_bytes()
}

fn signature_of(key: &PrivateKey, namespace: &str, payload: &str) -> String {
    let signature = key.sign(namespace, HashAlg::Sha512, payload.as_bytes()).expect("a signature");
    signature.to_pem(LineEnding::LF).expect("a text")
}

/// The key's signature over the bytes themselves.
fn plain_signature<K: ssh_key::SigningKey>(key: &K, bytes: &[u8]) -> Signature {
    key.try_sign(bytes).expect("a signature")
}

#[test]
fn a_commit_is_split_into_payload_and_signature() {
    let payload = format!("{COMMIT}encoding UTF-8\n\nWords\n\nwith a gpgsig of their own\n");
    let raw = signed(&payload, "-----BEGIN X-----\n\nabc\n-----END X-----\n");
    let found = parts(&raw).expect("a signed commit");
    let expected = SignedCommit {
        signature: b"-----BEGIN X-----\n\nabc\n-----END X-----\n".to_vec(),
        payload: payload.into_bytes(),
        time: Timestamp::from_second(1_700_000_001).expect("a time"),
    };
    assert_eq!(found, expected);
}

#[test]
fn ambiguous_commits_are_refused() {
    let twice = format!("{COMMIT}gpgsig a\ngpgsig b\n\nWords\n");
    let odd = SignatureRejection::Ambiguous("its header is not as Git writes it");
    let nul = SignatureRejection::Ambiguous("it has a NUL byte, where some programs stop to read");
    for (raw, expected) in [
        (format!("{COMMIT}\nWords\n"), SignatureRejection::Missing),
        (format!("{COMMIT}\nWords\ngpgsig in the message\n"), SignatureRejection::Missing),
        (twice, SignatureRejection::Several),
        (format!("{COMMIT}gpgsig a\n\nWords\0more\n"), nul),
        (format!("{COMMIT}gpgsig a\ntree 1111111111111111111111111111111111111111\n\nWords\n"), odd.clone()),
        (format!("gpgsig a\n{COMMIT}\nWords\n"), odd.clone()),
        (COMMIT.replace("+0100\ncommitter", "+0100\n more\ncommitter") + "gpgsig a\n\nWords\n", odd.clone()),
        (COMMIT.replace("1700000001", "soon") + "gpgsig a\n\nWords\n", odd.clone()),
        (format!("{COMMIT}gpgsig a\n"), odd),
    ] {
        assert_eq!(parts(raw.as_bytes()), Err(expected), "{raw:?}");
    }
}

#[test]
fn a_signature_counts_for_its_commit_its_namespace_and_its_key_alone() {
    let (ada, eve) = (key(1), key(2));
    let payload = format!("{COMMIT}\nWords\n");
    let name = format!("ssh-ed25519 {}", ada.fingerprint(HashAlg::Sha256));
    let keys = keys(&line(ada.public_key(), ""));
    let good = signature_of(&ada, "git", &payload);
    assert_eq!(keys.check_commit(&signed(&payload, &good)), Ok(format!("ada@example.org ({name})")));
    let other = payload.replace("Words", "Other words");
    assert_eq!(keys.check_commit(&signed(&other, &good)), Err(SignatureRejection::Mismatch { key: name }));
    let file = signature_of(&ada, "file", &payload);
    assert_eq!(keys.check_commit(&signed(&payload, &file)), Err(SignatureRejection::Namespace("file".to_owned())));
    let stranger = signature_of(&eve, "git", &payload);
    let key = format!("ssh-ed25519 {}", eve.fingerprint(HashAlg::Sha256));
    let list = "no line of allowed_signers has";
    assert_eq!(keys.check_commit(&signed(&payload, &stranger)), Err(SignatureRejection::Unknown { key, list }));
    assert_eq!(Keys::default().check_commit(&signed(&payload, &good)), Err(SignatureRejection::NoKeys));
    let x509 = "-----BEGIN SIGNED MESSAGE-----\nMII\n-----END SIGNED MESSAGE-----";
    assert_eq!(keys.check_commit(&signed(&payload, x509)), Err(SignatureRejection::X509));
}

#[test]
fn a_security_key_counts_only_with_a_touch() {
    let pair = Ed25519Keypair::from_seed(&[3; 32]);
    let public: KeyData = SkEd25519::from(pair.public).into();
    let KeyData::SkEd25519(sk) = &public else { panic!("a security key") };
    let application = Sha256::digest(sk.application());
    let payload = format!("{COMMIT}\nWords\n");
    let keys = keys(&line(&PublicKey::new(public.clone(), ""), ""));
    let signed_with = |flags: u8| {
        let trailer = [flags, 0, 0, 0, 7];
        let message = SshSig::signed_data("git", HashAlg::Sha512, payload.as_bytes()).expect("what is signed");
        let hashed = [application.as_slice(), &trailer, Sha256::digest(message).as_slice()].concat();
        let plain = plain_signature(&key(3), &hashed);
        let bytes = [plain.as_bytes(), &trailer].concat();
        let signature = Signature::new(ssh_key::Algorithm::SkEd25519, bytes).expect("its form");
        let whole = SshSig::new(public.clone(), "git", HashAlg::Sha512, signature).expect("a signature");
        keys.check_commit(&signed(&payload, &whole.to_pem(LineEnding::LF).expect("a text")))
    };
    let name = format!("sk-ssh-ed25519@openssh.com {}", public.fingerprint(HashAlg::Sha256));
    assert_eq!(signed_with(1), Ok(format!("ada@example.org ({name})")));
    assert_eq!(signed_with(4), Err(SignatureRejection::Weak(format!("the security key {name} was not touched"))));
}

#[test]
fn options_of_a_line_restrict_its_key() {
    let ada = key(1);
    let payload = format!("{COMMIT}\nWords\n");
    let raw = signed(&payload, &signature_of(&ada, "git", &payload));
    let key = format!("ssh-ed25519 {}", ada.fingerprint(HashAlg::Sha256));
    let with = |options: &str| keys(&line(ada.public_key(), options)).check_commit(&raw);
    // The commit is of 2023-11-14T22:13:21Z.
    for good in [
        "namespaces=\"git\"",
        "namespaces=\"file,g?t\"",
        "namespaces=\"*\"",
        "valid-after=\"20231114\"",
        "valid-after=\"202311142213Z\",valid-before=\"20231114221321Z\"",
        "Namespaces=\"git\",valid-before=20231115",
    ] {
        assert_eq!(with(good), Ok(format!("ada@example.org ({key})")), "{good}");
    }
    let unfit = |why: &str| Err(SignatureRejection::Unfit { key: key.clone(), why: why.to_owned() });
    let namespace = "allowed_signers has for other namespaces than git";
    for (bad, why) in [
        ("namespaces=\"file\"", namespace),
        ("namespaces=\"*,!git\"", namespace),
        ("valid-after=\"20231115\"", "is valid from 2023-11-15 on, and the commit is of 2023-11-14"),
        ("valid-before=\"20231114221320Z\"", "expired on 2023-11-14, and the commit is of 2023-11-14"),
    ] {
        assert_eq!(with(bad), unfit(why), "{bad}");
    }
    let public = ada.public_key();
    let two = format!("{}\n{}\n", line(public, "valid-before=\"20200101\""), line(public, ""));
    assert!(keys(&two).check_commit(&raw).is_ok(), "one line that fits is enough");
}

#[test]
fn an_invalid_line_is_reported_with_its_number() {
    let good = line(key(1).public_key(), "");
    let public = key(1).public_key().to_openssh().expect("a line");
    for (bad, message) in [
        (format!("ada cert-authority {public}"), "it is a certificate authority, and certificates are not checked"),
        (format!("ada no-touch {public}"), "`no-touch` is no option"),
        (format!("ada valid-after=\"soon\" {public}"), "`soon` is no time"),
        (format!("ada valid-after=\"20230230\" {public}"), "`20230230` is no time"),
        ("ada".to_owned(), "there is no key of a kind that is known"),
        ("\"ada".to_owned(), "a quote is not closed"),
        ("ada ssh-ed25519-cert-v01@openssh.com AAAA".to_owned(), "certificates are not checked"),
    ] {
        let error =
            Keys::default().add_allowed_signers(&format!("# people\n\n{good}\n{bad}\n")).expect_err("a bad line");
        assert_eq!((error.line, error.message.as_str()), (4, message), "{bad}");
    }
}

#[test]
fn names_may_have_spaces_and_comments_are_allowed_anywhere() {
    let public = key(1).public_key().to_openssh().expect("a line");
    let text = format!("  # one\n\"Ada Lovelace,ada@*\" namespaces=\"git\"   {public} laptop\r\n\n");
    let payload = format!("{COMMIT}\nWords\n");
    let raw = signed(&payload, &signature_of(&key(1), "git", &payload));
    let name = format!("ssh-ed25519 {}", key(1).fingerprint(HashAlg::Sha256));
    assert_eq!(keys(&text).check_commit(&raw), Ok(format!("Ada Lovelace,ada@* ({name})")));
}

#[test]
fn a_text_without_an_openpgp_key_is_refused() {
    for (text, message) in [
        ("", "there is no OpenPGP public key"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n", "the block has no end"),
        ("\n-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "this is a private key, which must stay with its owner"),
    ] {
        assert_eq!(Keys::default().add_openpgp(text).expect_err("no key").message, message, "{text:?}");
    }
}
