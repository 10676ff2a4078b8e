//! The version of every object of one kind, as its watch reported it, and how a list shows that the watch lost an
//! event. Pure.
//!
//! Versions are compared for equality alone. An object that the watch reported while the list was on its way is not
//! judged: which of the two is newer does not matter then.

use std::collections::{BTreeMap, BTreeSet};

use super::wire::Identity;

/// Versions by `namespace/name`.
pub(super) type Versions = BTreeMap<String, String>;

/// What a watch reported.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: Versions,
    /// Objects reported since a comparison began; none while there is no comparison.
    reported: Option<BTreeSet<String>>,
}

/// Objects whose last event did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// `namespace/name` of the first.
    pub(super) first: String,
    pub(super) count: usize,
}

impl Known {
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }

    /// Takes over a list, and returns what was not known of it. A comparison that has begun is void.
    pub(super) fn replace(&mut self, listed: Versions) -> Option<Lost> {
        self.reported = None;
        let lost = self.compare(&listed);
        self.versions = listed;
        lost
    }

    /// Takes in an event.
    pub(super) fn report(&mut self, object: Identity<'_>, gone: bool) {
        let key = object.key();
        if let Some(reported) = &mut self.reported {
            reported.insert(key.clone());
        }
        if gone {
            self.versions.remove(&key);
        } else {
            self.versions.insert(key, object.version.to_owned());
        }
    }

    /// From here on, what is reported is not judged. To be called before the list is requested.
    pub(super) fn begin(&mut self) {
        self.reported = Some(BTreeSet::new());
    }

    /// What the list has otherwise though nothing was reported of it since the beginning.
    pub(super) fn finish(&mut self, listed: &Versions) -> Option<Lost> {
        let lost = self.reported.is_some().then(|| self.compare(listed)).flatten();
        self.reported = None;
        lost
    }

    fn compare(&self, listed: &Versions) -> Option<Lost> {
        let keys: BTreeSet<&String> = self.versions.keys().chain(listed.keys()).collect();
        let reported = |key: &String| self.reported.as_ref().is_some_and(|reported| reported.contains(key));
        let differs = |key: &&String| self.versions.get(*key) != listed.get(*key) && !reported(key);
        let mut lost = keys.into_iter().filter(differs);
        let first = lost.next()?.clone();
        Some(Lost { first, count: 1 + lost.count() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity<'a>(name: &'a str, version: &'a str) -> Identity<'a> {
        Identity { namespace: Some("batuu"), name, version }
    }

    fn versions(all: &[(&str, &str)]) -> Versions {
        all.iter().map(|(name, version)| (format!("batuu/{name}"), (*version).to_owned())).collect()
    }

    fn lost(first: &str, count: usize) -> Lost {
        Lost { first: format!("batuu/{first}"), count }
    }

    fn known(all: &[(&str, &str)]) -> Known {
        Known { versions: versions(all), reported: None }
    }

    #[test]
    fn a_change_a_deletion_and_an_addition_that_were_not_reported_are_lost() {
        let mut known = known(&[("xwing", "3"), ("ywing", "4"), ("awing", "5")]);
        known.begin();
        let listed = versions(&[("xwing", "9"), ("ywing", "4"), ("bwing", "8")]);
        assert_eq!(known.finish(&listed), Some(lost("awing", 3)));
        assert_eq!(known.replace(listed.clone()), Some(lost("awing", 3)));
        assert_eq!(known.replace(listed), None);
    }

    #[test]
    fn what_is_reported_while_the_list_is_on_its_way_is_not_judged() {
        let mut known = known(&[("xwing", "3"), ("ywing", "4")]);
        known.report(identity("xwing", "5"), false);
        known.begin();
        // Newer than the list, older than the list, and gone since the list.
        known.report(identity("xwing", "9"), false);
        known.report(identity("bwing", "7"), false);
        known.report(identity("ywing", "10"), true);
        assert_eq!(known.finish(&versions(&[("xwing", "5"), ("ywing", "4"), ("bwing", "8")])), None);
    }

    #[test]
    fn a_list_that_replaced_everything_meanwhile_ends_the_comparison() {
        let mut known = known(&[("xwing", "3")]);
        known.begin();
        known.replace(versions(&[("xwing", "4")]));
        assert_eq!(known.finish(&versions(&[("xwing", "3")])), None);
    }
}
