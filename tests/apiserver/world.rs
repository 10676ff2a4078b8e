//! All that the server knows, behind one lock: objects, definitions, users, faults, and who asked for what.
//!
//! Deliberately absent: threads and sockets (`serve`).

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::faults::Faults;
use super::rbac::{ForeignToken, User};
use super::resource::{self, Resource, Target};
use super::status::{Outcome, Refusal, internal};
use super::store::{Key, Store};

/// One request, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Who asked, as RBAC calls them.
    pub(crate) user: String,
    /// The program that asked, by its `User-Agent`.
    pub(crate) agent: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub(crate) verb: String,
    /// `nodes`, `egressnodes.egret.dev/status`; the path where it leads to no resource.
    pub(crate) resource: String,
    /// Empty for all namespaces.
    pub(crate) namespace: String,
    /// Empty for all objects; of a `create` the name in the body.
    pub(crate) name: String,
    /// As it came.
    pub(crate) query: String,
    /// As it came.
    pub(crate) body: String,
    /// The answer's; 0 while there is none, and for good where the connection is dropped instead.
    pub(crate) status: u16,
    /// Whether it changed the store.
    pub(crate) wrote: bool,
}

/// What a simulation decides in the place of the machine: the same seed has to lead to the same run.
pub(crate) struct Simulated {
    /// The time.
    pub(crate) clock: Box<dyn Fn() -> jiff::Timestamp + Send>,
    /// How many uids were made.
    pub(crate) uids: u64,
}

/// Everything.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) customs: Vec<Arc<Resource>>,
    pub(crate) users: BTreeMap<String, User>,
    /// Tokens that were made for other audiences.
    pub(crate) foreign_tokens: BTreeMap<String, ForeignToken>,
    /// Tokens whose time is over.
    pub(crate) expired: BTreeSet<String>,
    pub(crate) faults: Faults,
    pub(crate) requests: Vec<Request>,
    /// The time, where a test stopped it.
    pub(crate) clock: Option<String>,
    /// Set in a simulation.
    pub(crate) simulated: Option<Simulated>,
    /// Up to which version watches of a resource are told.
    pub(crate) held: BTreeMap<String, u64>,
    /// The version at which lists of a resource are answered.
    pub(crate) stale: BTreeMap<String, u64>,
    /// Watches that began in another one are over.
    pub(crate) epoch: u64,
    /// Bookmarks that a test asked for.
    pub(crate) bookmarks: u64,
    /// What this server should have known how to do.
    pub(crate) complaints: BTreeSet<String>,
}

impl World {
    /// One with the namespaces that every cluster has.
    pub(crate) fn new(simulated: Option<Simulated>) -> Self {
        let mut world = Self { simulated, ..Self::default() };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let uid = world.uid();
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace", "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
                "metadata": {
                    "name": name, "uid": uid, "creationTimestamp": world.now(),
                    "labels": {"kubernetes.io/metadata.name": name},
                },
            });
            world.store.put(&Key::new("namespaces", "", name), object);
        }
        world
    }

    /// The time, in whole seconds as metadata has it.
    pub(crate) fn now(&self) -> String {
        let now = || self.simulated.as_ref().map_or_else(jiff::Timestamp::now, |simulated| (simulated.clock)());
        self.clock.clone().unwrap_or_else(|| now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    /// A new uid.
    pub(crate) fn uid(&mut self) -> String {
        match &mut self.simulated {
            None => random_uid(),
            Some(Simulated { uids, .. }) => {
                *uids += 1;
                format!("00000000-0000-4000-8000-{uids:012x}")
            }
        }
    }

    /// Where the object of a target is.
    pub(crate) fn key(target: &Target) -> Key {
        Key::new(target.resource.id(), &target.namespace, &target.name)
    }

    /// The resource of an object.
    pub(crate) fn resource_of(&self, object: &Value) -> Option<Arc<Resource>> {
        let found = resource::all(&self.customs)
            .find(|one| object["apiVersion"] == one.api_version() && object["kind"] == one.kind.as_str());
        found.cloned()
    }

    /// Takes in what a definition defines, in the place of what it defined before.
    pub(crate) fn define(&mut self, definition: &Value) {
        let (group, plural) = (&definition["spec"]["group"], &definition["spec"]["names"]["plural"]);
        self.customs.retain(|one| *group != one.group.as_str() || *plural != one.plural.as_str());
        self.customs.extend(Resource::defined(definition));
    }

    /// Takes away what a definition defined, with all objects.
    pub(crate) fn undefine(&mut self, name: &str) {
        self.customs.retain(|one| one.id() != name);
        for key in self.store.list(name, "").into_keys() {
            self.store.remove(&key);
        }
    }

    /// The version up to which watches of a resource may be told.
    pub(crate) fn visible(&self, resource: &str) -> u64 {
        self.held.get(resource).copied().unwrap_or_else(|| self.store.version())
    }

    /// Remembers what should work and does not, and refuses.
    pub(crate) fn complain(&mut self, what: String) -> Refusal {
        let refusal = internal(&format!("this double cannot do it: {what}"));
        self.complaints.insert(what);
        refusal
    }

    /// The same for an outcome.
    pub(crate) fn known<T>(&mut self, outcome: Result<T, String>) -> Outcome<T> {
        outcome.map_err(|what| self.complain(what))
    }
}

/// A new uid.
fn random_uid() -> String {
    let [high, low] = [RandomState::new(), RandomState::new()].map(|state| state.build_hasher().finish());
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{:04x}-{:012x}", 0x8000 | (low >> 50), low & 0xffff_ffff_ffff)
}
