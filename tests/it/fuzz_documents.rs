//! Whatever stands in a repository, reading it never panics, ends, and gives the same twice.
//!
//! Deliberately absent: what is right or wrong in a document (`policy`).

use std::collections::BTreeMap;

use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::policy::diagnostic_sink::MAX_FINDINGS;

const SEEDS: [&str; 4] = [
    include_str!("../../repo-template/policies/outpost.yaml"),
    include_str!("../../repo-template/nodes/gateways.yaml"),
    include_str!("../../repo-template/egret.yaml"),
    include_str!("documents/everything.yaml"),
];

/// Reads a text as a configuration and as documents; gives everything that came of it.
fn read(text: &str) -> String {
    let mut catalogue = Catalogue::new("prod");
    let change = FileUpdate::Text(text.to_owned());
    // The first version is good, so that there is something to hold.
    catalogue.update(BTreeMap::from([("a.yaml".to_owned(), FileUpdate::Text(SEEDS[3].to_owned()))]));
    catalogue.update(BTreeMap::from([("a.yaml".to_owned(), change.clone()), ("b.yaml".to_owned(), change.clone())]));
    catalogue.update(BTreeMap::from([("egret.yaml".to_owned(), change)]));
    let diagnostics = catalogue.diagnostics();
    assert!(diagnostics.len() <= 3 * (MAX_FINDINGS + 1) + 100);
    for one in &diagnostics {
        let text = catalogue.text(&one.file).expect("a diagnostic is about a file that is there");
        let (start, end) = (one.start.offset, one.end.offset);
        assert!(start <= end && text.get(start..end).is_some(), "{one:?} is no piece of {text:?}");
    }
    format!("{diagnostics:?}{:?}{:?}", catalogue.held(), catalogue.policies())
}

fn never_panics_and_is_deterministic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(read(&text), read(&text));
}

#[test]
fn arbitrary_bytes_are_read_without_a_panic_and_alike_each_time() {
    bolero::check!().for_each(never_panics_and_is_deterministic);
}

#[test]
fn mutated_documents_are_read_without_a_panic_and_alike_each_time() {
    bolero::check!().with_type::<(u8, Vec<(u16, u8, Vec<u8>)>)>().for_each(|(seed, edits)| {
        let mut bytes = SEEDS[usize::from(*seed) % SEEDS.len()].as_bytes().to_vec();
        for (at, removed, inserted) in edits {
            let at = usize::from(*at) % (bytes.len() + 1);
            let until = (at + usize::from(*removed % 32)).min(bytes.len());
            bytes.splice(at..until, inserted.iter().copied().take(64));
        }
        never_panics_and_is_deterministic(&bytes);
    });
}
