//! What is published, as an agent takes it in: policies one by one as they change, and the head that says which of them belong together.
//!
//! Deliberately absent: watching, and what a policy's spec means (`core::policy::published`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::core::policy::published::{digest_of, hash_of, read_config, read_grants, read_policy, spec};
use crate::core::policy::{Policy, PolicySet};

/// The head, as far as an agent needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedHead {
    /// The commit of the policy repository.
    pub revision: String,
    /// Its first line.
    pub summary: String,
    /// The generation of the leader that wrote it.
    pub fence: i64,
    /// How many policies there are.
    pub count: usize,
    /// By what they are known to be whole.
    pub digest: String,
    /// The values of egret.yaml.
    pub config: Value,
}

/// Why what is published is not taken over. What was in force stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Not all that belongs together is here yet, or somebody edited a policy in the cluster.
    #[error("the {found} policies published are not the {count} of commit {revision} yet")]
    Partial {
        /// How many there are.
        found: usize,
        /// How many there should be.
        count: usize,
        /// Of which commit.
        revision: String,
    },
    /// A leader that is none any more wrote it.
    #[error("commit {revision} was published by leader {fence}, and leader {known} has published since")]
    Stale {
        /// The commit.
        revision: String,
        /// Who published it.
        fence: i64,
        /// Who did later.
        known: i64,
    },
    /// Another version of Egret wrote it, or somebody else.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// Everything that was read so far.
#[derive(Debug, Default)]
pub struct PolicyCache {
    read: BTreeMap<String, Read>,
    /// The highest fence that was accepted.
    fence: i64,
}

#[derive(Debug)]
struct Read {
    written: Value,
    outcome: Result<(Policy, u64), String>,
}

impl PolicyCache {
    /// Begins with the fence that was accepted before a restart.
    pub fn new(fence: i64) -> Self {
        Self { fence, read: BTreeMap::new() }
    }

    /// Takes in all policies as they are published now; only those that are new or changed are read.
    pub fn update<'v>(&mut self, policies: impl IntoIterator<Item = (&'v String, &'v Value)>) {
        let mut before = std::mem::take(&mut self.read);
        for (name, written) in policies {
            let known = before.remove(name).filter(|read| read.written == *written);
            let read = known.unwrap_or_else(|| Read::new(name, written));
            self.read.insert(name.clone(), read);
        }
    }

    /// The set that a head describes, if all of it is here.
    pub fn take(&mut self, head: &PublishedHead) -> Result<Arc<PolicySet>, CacheError> {
        if head.fence < self.fence {
            return Err(CacheError::Stale { revision: head.revision.clone(), fence: head.fence, known: self.fence });
        }
        let faults = self.read.values().filter_map(|read| read.outcome.as_ref().err());
        if let Some(fault) = faults.into_iter().next() {
            return Err(CacheError::Unreadable(fault.clone()));
        }
        let good = || self.read.values().filter_map(|read| read.outcome.as_ref().ok());
        if self.read.len() != head.count || digest_of(good().map(|(_, hash)| *hash)) != head.digest {
            let revision = head.revision.clone();
            return Err(CacheError::Partial { found: self.read.len(), count: head.count, revision });
        }
        let config = read_config(&head.config).map_err(|fault| CacheError::Unreadable(fault.to_string()))?;
        let grants = read_grants(&head.config).map_err(|fault| CacheError::Unreadable(fault.to_string()))?;
        let policies = good().map(|(policy, _)| (policy.id.clone(), policy.clone())).collect();
        self.fence = head.fence;
        Ok(Arc::new(PolicySet { policies, config, grants, ..PolicySet::default() }))
    }

    /// The highest fence that was accepted.
    pub fn fence(&self) -> i64 {
        self.fence
    }
}

impl Read {
    /// The hash is that of the policy as it is printed, not as the API server gives it back: it may add defaults.
    fn new(name: &str, written: &Value) -> Self {
        let outcome = read_policy(name, written).map_err(|fault| fault.to_string());
        let outcome = outcome.map(|policy| {
            let hash = hash_of(name, &spec(&policy));
            (policy, hash)
        });
        Self { written: written.clone(), outcome }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::policy::published::Published;

    fn policy(name: &str, address: &str) -> Value {
        json!({
            "selectors": [{"podSelector": {"matchLabels": {"org": "empire"}}}],
            "destinationCIDRs": ["10.0.4.0/24"],
            "egressGateways": [{"nodeSelector": {"matchLabels": {"gw": "a"}}, "egressIP": address}],
            "source": {"kind": "EgressPolicy", "name": name, "file": "policies/a.yaml", "line": 1},
        })
    }

    fn shelf_of(shelf: &mut PolicyCache, policies: &[(&str, &str)]) {
        let written: BTreeMap<String, Value> =
            policies.iter().map(|(name, address)| ((*name).to_owned(), policy(name, address))).collect();
        shelf.update(&written);
    }

    /// The head that a controller writes for these policies.
    fn head(fence: i64, policies: &[(&str, &str)]) -> PublishedHead {
        let written: BTreeMap<String, Value> =
            policies.iter().map(|(name, address)| ((*name).to_owned(), policy(name, address))).collect();
        let set = Published::read(&written, &json!({})).expect("policies");
        let digest = Published::of(&set).digest();
        let (revision, summary) = ("0123".to_owned(), String::new());
        PublishedHead {
            revision,
            summary,
            fence,
            count: policies.len(),
            digest,
            config: json!({"podCIDRs": ["10.1.0.0/16"]}),
        }
    }

    #[test]
    fn a_set_is_taken_when_all_of_it_is_here_and_nothing_else() {
        let (a, b) = (("a", "10.0.3.42"), ("b", "10.0.3.43"));
        let (mut shelf, wanted) = (PolicyCache::default(), head(1, &[a, b]));
        shelf_of(&mut shelf, &[a]);
        assert!(matches!(shelf.take(&wanted), Err(CacheError::Partial { found: 1, count: 2, .. })));
        shelf_of(&mut shelf, &[a, ("b", "10.0.3.99")]);
        assert!(matches!(shelf.take(&wanted), Err(CacheError::Partial { found: 2, .. })));
        shelf_of(&mut shelf, &[a, b]);
        let set = shelf.take(&wanted).expect("the set");
        assert_eq!((set.policies.len(), set.config.pod_cidrs.len()), (2, 1));
        shelf_of(&mut shelf, &[a, b, ("c", "10.0.3.44")]);
        assert!(shelf.take(&wanted).is_err());
    }

    #[test]
    fn a_leader_that_comes_back_late_is_not_followed() {
        let a = ("a", "10.0.3.42");
        let mut shelf = PolicyCache::new(2);
        shelf_of(&mut shelf, &[a]);
        assert!(matches!(shelf.take(&head(1, &[a])), Err(CacheError::Stale { fence: 1, known: 2, .. })));
        assert!(shelf.take(&head(3, &[a])).is_ok());
        assert_eq!(shelf.fence(), 3);
    }

    #[test]
    fn what_nobody_of_ours_wrote_is_told_and_nothing_is_taken() {
        let mut shelf = PolicyCache::default();
        shelf.update(&BTreeMap::from([("a".to_owned(), json!({"selectors": []}))]));
        let wanted = head(1, &[("a", "10.0.3.42")]);
        assert!(matches!(shelf.take(&wanted), Err(CacheError::Unreadable(why)) if why.starts_with("a: ")));
    }
}
