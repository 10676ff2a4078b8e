//! Parses `signatures` of egret.yaml: the keys by which commits must be signed.
//!
//! Not here: verifying a commit (`core::signature`), and that a change applies from the next commit on (`reconcile`).

use crate::core::policy::diagnostic_sink::DiagnosticSink;
use crate::core::policy::document::SIGNATURES;
use crate::core::policy::mapping_reader::{MappingReader, choice, first_line, list, text};
use crate::core::policy::yaml::MappingEntry;
use crate::core::signature::{BadKey, KeyTexts, Keys, Require, Signatures};

/// Values of `require`.
pub(in crate::core::policy) const REQUIRE: [(&str, Require); 2] = [("Head", Require::Head), ("Every", Require::Every)];

/// Parses `signatures`. None after an error: then the document is not activated.
pub(super) fn signatures(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Option<Signatures> {
    let object = MappingReader::read(&entry.value, "signatures", entry.key_span, SIGNATURES, out)?;
    let require = object.required("require", out);
    let require = require.and_then(|entry| choice(&entry.value, "`require`", &REQUIRE, out));
    let named = ["allowedSigners", "openPGPKeys"].iter().any(|key| object.get(key).is_some());
    if !named {
        // If activated it would refuse every later commit, including the one that removes it.
        out.error(entry.key_span, "no-key", "`signatures` names no key, so that no later commit could be activated")
            .hint("add `allowedSigners` or `openPGPKeys`; where flags name the keys, let --require-signed demand it");
        return None;
    }
    let mut keys = KeyTexts::default();
    if let Some(entry) = object.get("allowedSigners") {
        keys.allowed_signers = read_keys(entry, "a line of `allowedSigners`", Keys::add_allowed_signers, out);
    }
    if let Some(entry) = object.get("openPGPKeys") {
        keys.openpgp = read_keys(entry, "an OpenPGP key", Keys::add_openpgp, out);
    }
    Some(Signatures { require: require?, keys })
}

fn read_keys(
    entry: &MappingEntry,
    what: &str,
    take: impl Fn(&mut Keys, &str) -> Result<(), BadKey>,
    out: &mut DiagnosticSink<'_>,
) -> Vec<String> {
    let mut found = Vec::new();
    for node in list(&entry.value, &format!("`{}`", entry.key), out).unwrap_or(&[]) {
        let Some(written) = text(node, what, out) else { continue };
        if let Err(bad) = take(&mut Keys::default(), written) {
            // A block's lines are counted within the block; the diagnostic points at its beginning.
            let line = if bad.line > 1 { format!(" (its line {})", bad.line) } else { String::new() };
            out.error(first_line(node), "bad-key", format!("{what} cannot be taken: {}{line}", bad.message))
                .hint(bad.hint);
            continue;
        }
        found.push(written.to_owned());
    }
    found
}
