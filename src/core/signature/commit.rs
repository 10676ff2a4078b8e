//! Parses a raw commit object into the signed payload, the signature, and the committer's time.
//!
//! Stricter than Git: a form that two programs could interpret differently is refused. libgit2's own function searches
//! the message for the signature as well, and stops at a NUL; then part of the commit would be unsigned. Not here: tags,
//! and `gpgsig-sha256`, which stays part of the payload.

use jiff::Timestamp;

use super::SignatureRejection;

/// A signed commit, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCommit {
    /// The signature's text.
    pub signature: Vec<u8>,
    /// The bytes that were signed: the commit without its signature.
    pub payload: Vec<u8>,
    /// The committer's time, by the committer's clock.
    pub time: Timestamp,
}

/// Parses a commit. Error: it has no signature, several, or a form that Git does not write.
pub fn parts(raw: &[u8]) -> Result<SignedCommit, SignatureRejection> {
    if raw.contains(&0) {
        return Err(SignatureRejection::Ambiguous("it has a NUL byte, where some programs stop to read"));
    }
    let odd = || SignatureRejection::Ambiguous("its header is not as Git writes it");
    let end = find(raw, b"\n\n").ok_or_else(odd)? + 1;
    let (header, message) = raw.split_at(end);
    let mut payload = Vec::with_capacity(raw.len());
    let (mut signature, mut time) = (None::<Vec<u8>>, None);
    let (mut expected, mut in_signature) = (Expected::Tree, false);
    for line in header.split_inclusive(|byte| *byte == b'\n') {
        if let Some(more) = line.strip_prefix(b" ") {
            // The four mandatory headers have one line each.
            if expected != Expected::Others {
                return Err(odd());
            }
            match signature.as_mut().filter(|_| in_signature) {
                Some(signature) => signature.extend_from_slice(more),
                None => payload.extend_from_slice(line),
            }
            continue;
        }
        let (name, value) = split_name(line).ok_or_else(odd)?;
        expected = expected.after(name).ok_or_else(odd)?;
        in_signature = name == b"gpgsig";
        if in_signature {
            if signature.is_some() {
                return Err(SignatureRejection::Several);
            }
            signature = Some(value.to_vec());
            continue;
        }
        if name == b"committer" {
            time = Some(time_of(value).ok_or_else(odd)?);
        }
        payload.extend_from_slice(line);
    }
    payload.extend_from_slice(message);
    let time = time.ok_or_else(odd)?;
    let signature = signature.ok_or(SignatureRejection::Missing)?;
    Ok(SignedCommit { signature, payload, time })
}

/// The header line that may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Tree,
    ParentOrAuthor,
    Committer,
    Others,
}

impl Expected {
    /// What may follow a line of this name, if it is allowed here.
    fn after(self, name: &[u8]) -> Option<Self> {
        match (self, name) {
            (Self::Tree, b"tree") | (Self::ParentOrAuthor, b"parent") => Some(Self::ParentOrAuthor),
            (Self::ParentOrAuthor, b"author") => Some(Self::Committer),
            (Self::Others, b"tree" | b"parent" | b"author" | b"committer") => None,
            (Self::Committer, b"committer") | (Self::Others, _) => Some(Self::Others),
            _ => None,
        }
    }
}

fn split_name(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    Some((&line[..space], &line[space + 1..]))
}

/// The time in `Name <address> 1700000000 +0100`.
fn time_of(value: &[u8]) -> Option<Timestamp> {
    let text = String::from_utf8_lossy(value);
    let behind = text.rsplit_once('>')?.1;
    let seconds = behind.split_ascii_whitespace().next()?.parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
