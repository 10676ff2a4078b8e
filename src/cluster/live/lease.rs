//! Who leads, by a Lease: one step at a time, each a request or two.
//!
//! What is decided stands in `candidate`; here are the requests. A write names the version it replaces, so that of two candidates
//! one is refused. Deliberately absent: when to take the next step (`Timing::retry` is meant for that), and what a leader does.

mod candidate;

use std::time::Instant;

use candidate::{Candidate, LeaseAction, ObservedLease};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::core::Request;
use kube::core::params::{GetParams, PostParams};

pub use candidate::{LeaseRole, Timing};

use super::ApiClient;
use super::error::{ApiError, ApiErrorCause};

/// Who is written down as having written it.
const MANAGER: &str = "egret-controller";

/// A candidate for a Lease, or its holder.
#[derive(Debug)]
pub struct Lease {
    live: ApiClient,
    namespace: String,
    name: String,
    candidate: Candidate,
    /// As it was last read or written: what the next write replaces.
    object: Option<Object>,
}

impl Lease {
    /// A candidate. `identity` must be no other candidate's: the pod's name.
    pub fn new(live: ApiClient, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        let candidate = Candidate::new(identity, timing);
        Self { live, namespace: namespace.to_owned(), name: name.to_owned(), candidate, object: None }
    }

    /// What we are just now, without asking anyone. A leader stops being one at `until` even if it hears nothing.
    pub fn role(&self) -> LeaseRole {
        self.candidate.role(Instant::now())
    }

    /// This fence was seen in the cluster: ours is to be no smaller. If it is, the next step takes the lease anew with a greater one.
    /// That is how it can be after somebody deleted the Lease.
    pub fn seen_fence(&mut self, fence: i64) {
        self.candidate.raise(fence);
    }

    /// Looks, and does what is to be done. After an error the role may still be that of a leader, until its time is over.
    pub async fn step(&mut self) -> Result<LeaseRole, ApiError> {
        // Who leads writes without looking: a write that somebody else's preceded is refused.
        let mut act = self.candidate.decide(Instant::now());
        if act != LeaseAction::Renew || self.object.is_none() {
            act = self.look().await?;
        }
        for last in [false, true] {
            match self.act(&act).await {
                Ok(()) => break,
                // Somebody wrote in between: look again, and try once more if it is still our turn.
                Err(error) if matches!(error.code(), Some(404 | 409)) && !last => act = self.look().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(self.role())
    }

    /// Gives the lease away, if it is ours, so that the next leader need not wait. To be called when nothing is written any more.
    pub async fn release(&mut self) -> Result<(), ApiError> {
        let LeaseRole::Leader { .. } = self.role() else { return Ok(()) };
        let Some(mut object) = self.object.clone() else { return Ok(()) };
        if let Some(spec) = &mut object.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        self.candidate.resign();
        self.object = None;
        self.put(&object).await.map(|_| ())
    }

    fn path(&self) -> Request {
        Request::new(format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace))
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
        let wall = MicroTime(Timestamp::now());
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
        // From before the request: it counts from when the others may have seen it at the earliest.
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

/// What a lease says that decides something. Times of other machines' clocks are no part of it.
fn seen(object: &Object) -> ObservedLease {
    let spec = object.spec.clone().unwrap_or_default();
    ObservedLease {
        version: object.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default().into(),
        seconds: spec.lease_duration_seconds.unwrap_or_default().try_into().unwrap_or_default(),
    }
}
