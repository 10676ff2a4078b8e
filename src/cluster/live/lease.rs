//! Leader election by a Lease, one step at a time, with a request or two each.
//!
//! `candidate` makes the decisions; this module sends the requests. A write names the version it replaces, so that of
//! two candidates one is refused. The caller schedules the steps (see `Timing::retry`).

mod candidate;

use candidate::{Candidate, LeaseAction, ObservedLease};
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::core::Request;
use kube::core::params::{GetParams, PostParams};
use tokio::time::Instant;

pub use candidate::{LeaseRole, Timing};

use super::ApiClient;
use super::error::{ApiError, ApiErrorCause};

/// The field manager.
const MANAGER: &str = "egret-controller";

/// A candidate for a Lease, or its holder.
#[derive(Debug)]
pub struct Lease {
    live: ApiClient,
    namespace: String,
    name: String,
    candidate: Candidate,
    /// The object as it was last read or written; the next write replaces this version.
    object: Option<Object>,
}

impl Lease {
    /// A candidate. `identity` must be unique among the candidates: the pod's name.
    pub fn new(live: ApiClient, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        let candidate = Candidate::new(identity, timing);
        Self { live, namespace: namespace.to_owned(), name: name.to_owned(), candidate, object: None }
    }

    /// The current role, without a request. A leader stops leading at `until` even if it receives nothing.
    pub fn role(&self) -> LeaseRole {
        self.candidate.role(Instant::now())
    }

    /// Reports a fencing token that was seen in the cluster: the next step makes ours no smaller, by taking the lease
    /// anew with a greater one. Our token can be smaller if a user deleted the Lease.
    pub fn seen_fence(&mut self, fence: i64) {
        self.candidate.raise(fence);
    }

    /// Reads the lease if necessary, and writes it if necessary. After an error the role may still be that of a
    /// leader, until its time is over.
    pub async fn step(&mut self) -> Result<LeaseRole, ApiError> {
        // A leader writes without reading: if another candidate wrote first, the write is refused.
        let mut act = self.candidate.decide(Instant::now());
        if act != LeaseAction::Renew || self.object.is_none() {
            act = self.look().await?;
        }
        for last in [false, true] {
            match self.act(&act).await {
                Ok(()) => break,
                // Another candidate wrote in between: read again, and try once more if it is still our turn.
                Err(error) if matches!(error.code(), Some(404 | 409)) && !last => act = self.look().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(self.role())
    }

    /// Releases the lease, if we hold it, so that the next leader need not wait. Call it only when nothing is written
    /// any more.
    pub async fn release(&mut self) -> Result<(), ApiError> {
        let LeaseRole::Leader { .. } = self.role() else { return Ok(()) };
        let Some(mut object) = self.object.clone() else { return Ok(()) };
        if let Some(spec) = &mut object.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.live.clock.now()));
        }
        self.candidate.resign();
        self.object = None;
        self.put(&object).await.map(|_| ())
    }

    fn path(&self) -> Request {
        Request::new(leases(&self.namespace))
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} Lease {}/{}", self.namespace, self.name)
    }

    async fn look(&mut self) -> Result<LeaseAction, ApiError> {
        let request = self.path().get(&self.name, &GetParams::default());
        let limit = self.candidate.timing().request();
        let found: Option<Object> = match self.live.call(&self.doing("reading"), request, limit).await {
            Ok(object) => Some(object),
            Err(error) if error.code() == Some(404) => None,
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        self.candidate.observe(found.as_ref().map(seen), now);
        self.object = found;
        Ok(self.candidate.decide(now))
    }

    async fn act(&mut self, act: &LeaseAction) -> Result<(), ApiError> {
        let wall = MicroTime(self.live.clock.now());
        let transitions = match act {
            LeaseAction::Wait => return Ok(()),
            LeaseAction::Renew => None,
            LeaseAction::Take(transitions) => Some(*transitions),
        };
        let mut object = self.object.clone().unwrap_or_else(|| Object {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = object.spec.get_or_insert_with(LeaseSpec::default);
        if let Some(transitions) = transitions {
            spec.holder_identity = Some(self.candidate.identity().to_owned());
            spec.acquire_time = Some(wall.clone());
            spec.lease_transitions = Some(i32::try_from(transitions).unwrap_or(i32::MAX));
        }
        let seconds = self.candidate.timing().duration.as_secs();
        spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
        spec.renew_time = Some(wall);
        // The time before the request: the earliest moment at which others may have seen the write.
        let sent = Instant::now();
        let written = self.put(&object).await?;
        self.candidate.wrote(seen(&written), sent, Instant::now());
        self.object = Some(written);
        Ok(())
    }

    async fn put(&self, object: &Object) -> Result<Object, ApiError> {
        let doing = self.doing("writing");
        let body = serde_json::to_vec(object).map_err(|error| ApiError::new(&doing, ApiErrorCause::Answer(error)))?;
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let request = match object.metadata.resource_version {
            Some(_) => self.path().replace(&self.name, &parameters, body),
            None => self.path().create(&parameters, body),
        };
        self.live.call(&doing, request, self.candidate.timing().request()).await
    }
}

/// The path of a namespace's Leases.
pub(super) fn leases(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
}

/// The fields of a lease that decide. Times of other machines' clocks are not among them.
fn seen(object: &Object) -> ObservedLease {
    let spec = object.spec.clone().unwrap_or_default();
    ObservedLease {
        version: object.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default().into(),
        seconds: spec.lease_duration_seconds.unwrap_or_default().try_into().unwrap_or_default(),
    }
}
