//! The agent's cache of published policies. Policies are read one by one as they change; the EgressConfig
//! defines which of them form one set.
//!
//! Not here: watching (`cluster::live`), and the meaning of a policy's spec (`core::policy::published`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::core::policy::published::{digest_of, hash_of, read_config, read_grants, read_policy, spec};
use crate::core::policy::{Policy, PolicySet};

/// What an agent needs of the EgressConfig.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedHead {
    /// The commit of the policy repository.
    pub revision: String,
    /// The first line of the commit's message.
    pub summary: String,
    /// The number of policies.
    pub count: usize,
    /// The digest by which an agent recognises that the set is complete.
    pub digest: String,
    /// The values of egret.yaml.
    pub config: Value,
}

/// Why published policies are not taken over. The active set stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Not all policies of the set have arrived yet, or a user edited one in the cluster.
    #[error("the {found} policies published are not the {count} of commit {revision} yet")]
    Partial {
        /// The number found.
        found: usize,
        /// The number expected.
        count: usize,
        /// The commit they belong to.
        revision: String,
    },
    /// Another version of Egret, or another client, wrote it.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// All policies read so far.
#[derive(Debug, Default)]
pub struct PolicyCache {
    read: BTreeMap<String, Read>,
}

#[derive(Debug)]
struct Read {
    written: Value,
    outcome: Result<(Policy, u64), String>,
}

impl PolicyCache {
    /// Takes in all policies as they are published now. Only new and changed ones are parsed.
    pub fn update<'v>(&mut self, policies: impl IntoIterator<Item = (&'v String, &'v Value)>) {
        let mut before = std::mem::take(&mut self.read);
        for (name, written) in policies {
            let known = before.remove(name).filter(|read| read.written == *written);
            let read = known.unwrap_or_else(|| Read::new(name, written));
            self.read.insert(name.clone(), read);
        }
    }

    /// The set that the EgressConfig describes, if it is complete.
    pub fn take(&self, head: &PublishedHead) -> Result<Arc<PolicySet>, CacheError> {
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
        Ok(Arc::new(PolicySet { policies, config, grants, ..PolicySet::default() }))
    }
}

impl Read {
    /// The hash is of the policy as Egret prints it, not as the API server returns it: the server may add defaults.
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

    fn fill(cache: &mut PolicyCache, policies: &[(&str, &str)]) {
        let written: BTreeMap<String, Value> =
            policies.iter().map(|(name, address)| ((*name).to_owned(), policy(name, address))).collect();
        cache.update(&written);
    }

    /// The EgressConfig that a controller writes for these policies.
    fn head(policies: &[(&str, &str)]) -> PublishedHead {
        let written: BTreeMap<String, Value> =
            policies.iter().map(|(name, address)| ((*name).to_owned(), policy(name, address))).collect();
        let set = Published::read(&written, &json!({})).expect("policies");
        let digest = Published::of(&set).digest();
        let (revision, summary) = ("0123".to_owned(), String::new());
        PublishedHead { revision, summary, count: policies.len(), digest, config: json!({"podCIDRs": ["10.1.0.0/16"]}) }
    }

    #[test]
    fn a_set_is_taken_when_all_of_it_is_here_and_nothing_else() {
        let (a, b) = (("a", "10.0.3.42"), ("b", "10.0.3.43"));
        let (mut cache, wanted) = (PolicyCache::default(), head(&[a, b]));
        fill(&mut cache, &[a]);
        assert!(matches!(cache.take(&wanted), Err(CacheError::Partial { found: 1, count: 2, .. })));
        fill(&mut cache, &[a, ("b", "10.0.3.99")]);
        assert!(matches!(cache.take(&wanted), Err(CacheError::Partial { found: 2, .. })));
        fill(&mut cache, &[a, b]);
        let set = cache.take(&wanted).expect("the set");
        assert_eq!((set.policies.len(), set.config.pod_cidrs.len()), (2, 1));
        fill(&mut cache, &[a, b, ("c", "10.0.3.44")]);
        assert!(cache.take(&wanted).is_err());
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_reported_and_nothing_is_taken() {
        let mut cache = PolicyCache::default();
        cache.update(&BTreeMap::from([("a".to_owned(), json!({"selectors": []}))]));
        let wanted = head(&[("a", "10.0.3.42")]);
        assert!(matches!(cache.take(&wanted), Err(CacheError::Unreadable(why)) if why.starts_with("a: ")));
    }
}
