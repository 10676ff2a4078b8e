//! Parses OpenSSH's `allowed_signers` (ssh-keygen(1), "ALLOWED SIGNERS"): one line for each trusted key.
//!
//! Certificate authorities are refused, because no list here could revoke their certificates. A time without `Z` is UTC,
//! not the machine's time zone. Principal names are not compared with the commit; Git does not either.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, PublicKey};

use super::{BadKey, SHORTEST_RSA};

/// A trusted key and its restrictions.
#[derive(Debug, Clone)]
pub(super) struct Signer {
    /// The principal of the line.
    pub(super) name: String,
    /// The namespaces it may sign for; none: all.
    pub(super) namespaces: Option<Vec<String>>,
    /// Not valid before.
    pub(super) after: Option<Timestamp>,
    /// Not valid after.
    pub(super) before: Option<Timestamp>,
    /// The key.
    pub(super) key: PublicKey,
}

const FORM: &str = "NAME [namespaces=\"git\"] KIND KEY, as in: alice@example.org ssh-ed25519 AAAAC3Nz…";
const STRONGER: &str = "make an Ed25519 key: ssh-keygen -t ed25519";

pub(super) fn read(text: &str) -> Result<Vec<Signer>, BadKey> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| signer(line).map_err(|(message, hint)| BadKey { line: number, message, hint })).collect()
}

type Fault = (String, &'static str);

fn signer(line: &str) -> Result<Signer, Fault> {
    let open = || ("a quote is not closed".to_owned(), FORM);
    let (name, rest) = word(line).ok_or_else(open)?;
    let (options, key) = if is_kind(rest) { ("", rest) } else { word(rest).ok_or_else(open)? };
    if !is_kind(key) {
        return Err(("there is no key of a kind that is known".to_owned(), FORM));
    }
    let mut limits = Limits::default();
    for option in split_options(options).into_iter().filter(|option| !option.is_empty()) {
        apply(option, &mut limits)?;
    }
    let Limits { namespaces, after, before } = limits;
    Ok(Signer { name: name.trim_matches('"').to_owned(), namespaces, after, before, key: key_of(key)? })
}

/// The options of a line.
#[derive(Debug, Default)]
struct Limits {
    namespaces: Option<Vec<String>>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

/// The first word, in which quotes may hold spaces, and the rest. None: a quote is not closed.
fn word(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let end = text.char_indices().find(|(_, character)| {
        quoted ^= *character == '"';
        !quoted && character.is_ascii_whitespace()
    });
    match end {
        Some((at, _)) => Some((&text[..at], text[at..].trim_start())),
        None if quoted => None,
        None => Some((text, "")),
    }
}

fn split_options(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(|character| {
        quoted ^= character == '"';
        !quoted && character == ','
    })
    .collect()
}

/// Whether a key begins here: all of OpenSSH's key types begin so, and no option does.
fn is_kind(text: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-", "rsa-"].iter().any(|start| text.starts_with(start))
}

fn apply(option: &str, limits: &mut Limits) -> Result<(), Fault> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let value = value.trim_matches('"');
    let times = "a time is YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in UTC, with or without Z";
    let time = || time(value).ok_or_else(|| (format!("`{value}` is no time"), times));
    match name.to_ascii_lowercase().as_str() {
        "namespaces" => limits.namespaces = Some(value.split(',').map(str::to_owned).collect()),
        "valid-after" => limits.after = Some(time()?),
        "valid-before" => limits.before = Some(time()?),
        "cert-authority" => {
            let hint = "name the keys themselves, a line for each";
            return Err(("it is a certificate authority, and certificates are not checked".to_owned(), hint));
        }
        _ => {
            let hint = "there are namespaces, valid-after and valid-before";
            return Err((format!("`{name}` is no option"), hint));
        }
    }
    Ok(())
}

fn time(text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || ![8, 12, 14].contains(&digits.len()) {
        return None;
    }
    let part = |from: usize, length: usize| digits.get(from..from + length).map_or(Some(0), |part| part.parse().ok());
    let date =
        DateTime::new(digits[..4].parse().ok()?, part(4, 2)?, part(6, 2)?, part(8, 2)?, part(10, 2)?, part(12, 2)?, 0);
    date.ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn key_of(text: &str) -> Result<PublicKey, Fault> {
    let kind = text.split_ascii_whitespace().next().unwrap_or_default();
    if kind.contains("-cert-") {
        let hint = "name the key itself, not its certificate";
        return Err(("certificates are not checked".to_owned(), hint));
    }
    let key = PublicKey::from_openssh(text).map_err(|error| (format!("the key cannot be read: {error}"), FORM))?;
    match key.key_data() {
        KeyData::Rsa(rsa) => {
            let bits = rsa.n.as_positive_bytes().map_or(0, bits);
            if bits < SHORTEST_RSA {
                return Err((format!("an RSA key of {bits} bits is too short to be believed"), STRONGER));
            }
        }
        KeyData::Ecdsa(_) | KeyData::Ed25519(_) | KeyData::SkEcdsaSha2NistP256(_) | KeyData::SkEd25519(_) => {}
        _ => return Err((format!("{} keys are not believed", name_of(&key.algorithm())), STRONGER)),
    }
    Ok(key)
}

fn name_of(algorithm: &Algorithm) -> String {
    algorithm.as_str().to_owned()
}

/// The number of bits without leading zeros.
fn bits(number: &[u8]) -> usize {
    let zeros = number.first().map_or(0, |byte| byte.leading_zeros() as usize);
    (number.len() * 8).saturating_sub(zeros)
}
