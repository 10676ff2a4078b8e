//! Creates the JSON Web Token (RFC 7519) by which a GitHub App authenticates, signed with the App's key as RS256 (RFC
//! 7518, 3.3).
//!
//! rustls signs with ring, which is a dependency for TLS already. Verifying tokens, other algorithms, and keys with a
//! passphrase are not supported.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::error::AppError;
use crate::secret::Secret;

/// How long before now a token's validity begins, in seconds: clocks differ.
const BEFORE: i64 = 60;
/// How long after now it ends. GitHub allows ten minutes, and its clock may be behind ours.
const AFTER: i64 = 9 * 60;

/// A signed token for an App, at a time in seconds since 1970. The key is read anew each time: it may have been
/// replaced.
pub(super) fn assertion(id: &str, key_file: &Path, now: i64) -> Result<Secret, AppError> {
    let no_key = |what: String| AppError::Key { path: key_file.to_owned(), what };
    let text = std::fs::read(key_file).map_err(|source| AppError::KeyFile { path: key_file.to_owned(), source })?;
    // GitHub provides PKCS#1 (`BEGIN RSA PRIVATE KEY`); users may convert it to PKCS#8.
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| no_key("holds no private key in PEM".to_owned()))?;
    let key = any_supported_type(&key).map_err(|_| no_key("holds a key that cannot be used".to_owned()))?;
    let signer = key
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .ok_or_else(|| no_key("holds a key of another kind than RSA".to_owned()))?;
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({"alg": "RS256", "typ": "JWT"}));
    let claims = part(json!({"iat": now - BEFORE, "exp": now + AFTER, "iss": id}));
    let message = format!("{head}.{claims}");
    let signature = signer.sign(message.as_bytes()).map_err(|error| no_key(format!("does not sign: {error}")))?;
    Ok(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn openssl(folder: &Path, words: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl").args(words).current_dir(folder).output().expect("openssl is installed");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    #[test]
    fn what_is_signed_with_either_form_of_the_key_is_good_to_openssl() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        openssl(at, &["genrsa", "-traditional", "-out", "pkcs1.pem", "2048"]);
        openssl(at, &["pkcs8", "-topk8", "-nocrypt", "-in", "pkcs1.pem", "-out", "pkcs8.pem"]);
        openssl(at, &["rsa", "-in", "pkcs1.pem", "-pubout", "-out", "public.pem"]);
        for name in ["pkcs1.pem", "pkcs8.pem"] {
            let token = assertion("42", &at.join(name), 1_700_000_000).expect("a token");
            let (message, signature) = token.reveal().rsplit_once('.').expect("three parts");
            let parts: Vec<String> = message
                .split('.')
                .map(|part| String::from_utf8(URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("UTF-8"))
                .collect();
            assert_eq!(parts, [r#"{"alg":"RS256","typ":"JWT"}"#, r#"{"exp":1700000540,"iat":1699999940,"iss":"42"}"#]);
            std::fs::write(at.join("message"), message).expect("a file");
            std::fs::write(at.join("signature"), URL_SAFE_NO_PAD.decode(signature).expect("base64url"))
                .expect("a file");
            let verify = ["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "message"];
            assert_eq!(openssl(at, &verify), b"Verified OK\n", "{name}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named_with_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        openssl(at, &["genpkey", "-algorithm", "ed25519", "-out", "ed25519.pem"]);
        std::fs::write(at.join("text.pem"), "hello\n").expect("a file");
        for (name, what) in
            [("ed25519.pem", "holds a key of another kind than RSA"), ("text.pem", "holds no private key in PEM")]
        {
            let error = assertion("42", &at.join(name), 0).expect_err(name);
            assert_eq!(error.to_string(), format!("the key of the GitHub App, {}, {what}", at.join(name).display()));
        }
        let missing = assertion("42", &at.join("missing.pem"), 0).expect_err("there is none");
        assert!(matches!(missing, AppError::KeyFile { .. }), "{missing:?}");
    }
}
