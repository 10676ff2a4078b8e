//! An assertion that fails, for programs: docs/commands.md describes the fields.

use serde::Serialize;

use crate::core::name::NodeName;
use crate::core::preview::assertions::{FailedAssertion, PacketFate};

/// The assertion, and the packet for which it does not hold.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailedAssertionJson<'a> {
    assertion: &'a str,
    file: &'a str,
    line: usize,
    code: &'static str,
    counterexample: Option<CounterexampleJson<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CounterexampleJson<'a> {
    lost_gateway: Option<&'a str>,
    namespace: &'a str,
    pod: &'a str,
    pods: usize,
    destination: String,
    way: &'static str,
    address: Option<String>,
    gateway: Option<&'a str>,
    policy: Option<&'a str>,
    policy_at: Option<&'a str>,
}

impl<'a> From<&'a FailedAssertion> for FailedAssertionJson<'a> {
    fn from(failed: &'a FailedAssertion) -> Self {
        let FailedAssertion { assertion, because } = failed;
        let counterexample = because.as_ref().map(|found| {
            let (way, address, gateway) = match &found.fate {
                PacketFate::As(address, gateway) => ("exit", Some(address.to_string()), Some(gateway)),
                PacketFate::Unknown(exit) => ("exit", None, Some(&exit.gateway)),
                PacketFate::Dropped(exit) => ("dropped", None, exit.as_ref().map(|exit| &exit.gateway)),
                PacketFate::Own(_) => ("own", None, None),
            };
            CounterexampleJson {
                lost_gateway: found.lost.as_ref().map(NodeName::as_str),
                namespace: &found.pod.namespace,
                pod: &found.pod.name,
                pods: found.pods,
                destination: found.destination.to_string(),
                way,
                address,
                gateway: gateway.map(NodeName::as_str),
                policy: found.policy.as_ref().map(|(id, _)| id.name.as_str()),
                policy_at: found.policy.as_ref().map(|(_, place)| place.as_str()),
            }
        });
        Self {
            assertion: assertion.name.as_str(),
            file: &assertion.origin.file,
            line: assertion.origin.line,
            code: failed.code(),
            counterexample,
        }
    }
}
