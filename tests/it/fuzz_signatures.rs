//! Whatever stands in a commit, in a signature or in a list of keys, judging it never panics, ends, and lets nobody in.
//!
//! Deliberately absent: good signatures (`git::signatures`).

use egret::core::signature::{Keys, parts};
use jiff::Timestamp;

const LINE: &str = include_str!("documents/allowed_signers");
const SSH: &str = include_str!("documents/commit_ssh.txt");
const OPENPGP: &str = include_str!("documents/commit_openpgp.txt");
const KEYS: &str = include_str!("documents/openpgp_keys.asc");

fn keys() -> Keys {
    let mut keys = Keys::default();
    keys.add_allowed_signers(LINE).expect("a line");
    keys.add_openpgp(KEYS).expect("a key");
    keys
}

/// Replaces, takes out and puts in bytes.
fn mutated(text: &str, edits: &[(u16, u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, removed, inserted) in edits {
        let at = usize::from(*at) % (bytes.len() + 1);
        let until = (at + usize::from(*removed % 32)).min(bytes.len());
        bytes.splice(at..until, inserted.iter().copied().take(64));
    }
    bytes
}

#[test]
fn the_fixtures_made_by_git_with_ssh_keygen_and_with_gnupg_are_good() {
    let good = keys();
    for commit in [SSH, OPENPGP] {
        assert!(good.check_commit(commit.as_bytes()).is_ok(), "{:?}", good.check_commit(commit.as_bytes()));
    }
}

#[test]
fn arbitrary_bytes_as_a_commit_or_a_signature_are_refused_without_a_panic() {
    let keys = keys();
    bolero::check!().for_each(|bytes: &[u8]| {
        assert!(keys.check_commit(bytes).is_err());
        for begin in ["-----BEGIN SSH SIGNATURE-----\n", "-----BEGIN PGP SIGNATURE-----\n", ""] {
            let signature = [begin.as_bytes(), bytes].concat();
            assert!(keys.check(&signature, b"payload", Timestamp::UNIX_EPOCH).is_err());
        }
    });
}

#[test]
fn a_signed_commit_that_was_changed_anywhere_is_refused_without_a_panic() {
    let good = keys();
    bolero::check!().with_type::<(bool, Vec<(u16, u8, Vec<u8>)>)>().for_each(|(ssh, edits)| {
        let original = if *ssh { SSH } else { OPENPGP };
        let changed = mutated(original, edits);
        let payload = |raw: &[u8]| parts(raw).ok().map(|parts| parts.payload);
        // Another spelling of the same signature is still that signature; another commit is none that was signed.
        let same = payload(&changed) == payload(original.as_bytes());
        assert!(same || good.check_commit(&changed).is_err(), "{:?}", String::from_utf8_lossy(&changed));
    });
}

#[test]
fn arbitrary_lists_of_keys_are_read_without_a_panic() {
    bolero::check!().with_type::<(u8, Vec<(u16, u8, Vec<u8>)>)>().for_each(|(which, edits)| {
        let changed = match which % 3 {
            0 => mutated(LINE, edits),
            1 => mutated(KEYS, edits),
            _ => edits.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect(),
        };
        let text = String::from_utf8_lossy(&changed);
        let mut keys = Keys::default();
        let _ = keys.add_allowed_signers(&text);
        let _ = keys.add_openpgp(&text);
        // Whatever was read of it: nobody signed this.
        assert!(keys.check_commit(b"tree 1\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nx\n").is_err());
    });
}
