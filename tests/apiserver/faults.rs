//! What goes wrong because a test wants it: which requests, how often, and how.
//!
//! Deliberately absent: doing it (`http`); watches and lists, which go wrong by [`super::ApiServer`]'s own methods.

use std::time::Duration;

/// Which requests. Everything that is not said matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    verbs: Vec<String>,
    resources: Vec<String>,
    name: Option<String>,
    user: Option<String>,
}

impl Filter {
    /// All requests.
    pub(crate) fn all() -> Self {
        Self::default()
    }

    /// All that would change something.
    pub(crate) fn writes() -> Self {
        let verbs = ["create", "update", "patch", "delete", "deletecollection"].map(str::to_owned).to_vec();
        Self { verbs, ..Self::default() }
    }

    /// Those with this verb, as RBAC calls it.
    pub(crate) fn verb(mut self, verb: &str) -> Self {
        self.verbs = vec![verb.to_owned()];
        self
    }

    /// Those to a resource: `nodes` with its subresources, `nodes/status` alone, `egressnodes` or `egressnodes.egret.dev`. Said more than
    /// once, to any of them.
    pub(crate) fn resource(mut self, resource: &str) -> Self {
        self.resources.push(resource.to_owned());
        self
    }

    /// Those to objects of this name.
    pub(crate) fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Those of this user.
    pub(crate) fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Whether it means this one; `resource` with its group and subresource.
    pub(crate) fn matches(&self, verb: &str, resource: &str, name: &str, user: &str) -> bool {
        let (main, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let plural = main.split('.').next().unwrap_or_default();
        let this = |wanted: &String| match wanted.split_once('/') {
            None => wanted == main || wanted == plural,
            Some((wanted, below)) => (wanted == main || wanted == plural) && below == subresource,
        };
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        (self.resources.is_empty() || self.resources.iter().any(this))
            && (self.verbs.is_empty() || self.verbs.iter().any(|one| one == verb))
            && is(&self.name, name)
            && is(&self.user, user)
    }
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is refused with this status: 429 with `Retry-After: 1`, 410, 500, 503 in the real server's words.
    Status(u16),
    /// It is refused with 429 and this many seconds in `Retry-After`.
    TooManyRequests(u64),
    /// An admission webhook refuses it with these words.
    Denied(&'static str),
    /// It waits, then is answered.
    Delay(Duration),
    /// It waits until the fault is cleared, then is answered.
    Hang,
    /// The connection is dropped, and nothing was done.
    Drop,
    /// It is done, and the connection is dropped: the answer is lost.
    LoseAnswer,
    /// It is done, and the answer waits until the fault is cleared.
    HangAnswer,
}

/// A fault that is set. Clearing is by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FaultId(u64);

#[derive(Debug)]
struct Rule {
    id: FaultId,
    filter: Filter,
    fault: Fault,
    /// How many requests it is still for; nothing means all.
    left: Option<usize>,
    /// How many waited or wait for its end.
    met: usize,
}

/// All that are set, in order. The first that means a request has it.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    next: u64,
}

impl Faults {
    /// Sets one, for so many requests or for all.
    pub(crate) fn set(&mut self, filter: Filter, fault: Fault, times: Option<usize>) -> FaultId {
        self.next += 1;
        let id = FaultId(self.next);
        self.rules.push(Rule { id, filter, fault, left: times, met: 0 });
        id
    }

    /// Takes one away.
    pub(crate) fn clear(&mut self, id: FaultId) {
        self.rules.retain(|rule| rule.id != id);
    }

    /// Takes all away.
    pub(crate) fn clear_all(&mut self) {
        self.rules.clear();
    }

    /// Whether none is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many requests met a fault; nothing where it was cleared.
    pub(crate) fn met(&self, id: FaultId) -> Option<usize> {
        self.rules.iter().find(|rule| rule.id == id).map(|rule| rule.met)
    }

    /// The fault of a request.
    pub(crate) fn take(&mut self, verb: &str, resource: &str, name: &str, user: &str) -> Option<(FaultId, Fault)> {
        let matching =
            self.rules.iter_mut().find(|rule| rule.left != Some(0) && rule.filter.matches(verb, resource, name, user));
        matching.map(|rule| {
            rule.left = rule.left.map(|left| left - 1);
            rule.met += 1;
            (rule.id, rule.fault.clone())
        })
    }
}
