//! The differences between Egret and Cilium that are on purpose, and how each is recognised. docs/cilium.md has the sentences.

use std::collections::BTreeSet;

use egret::core::diagnostic::Diagnostic;
use egret::core::policy::Policy;

use super::reference::Meaning;

/// How a difference is shown to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Among the documents that are generated.
    Generated,
    /// By a test of its own: it is not about one document.
    Tested,
}

/// A difference: its id, how it is shown, and its row in docs/cilium.md.
pub(crate) struct Difference(pub(crate) &'static str, pub(crate) Shown, pub(crate) &'static str);

use Shown::{Generated, Tested};

/// All of them, in the order of docs/cilium.md.
pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference(
        "unknown-field",
        Generated,
        "A field that neither has is an error. The API server drops it, or `kubectl` refuses the document.",
    ),
    Difference(
        "duplicate-key",
        Generated,
        "A key that stands twice in a mapping is an error. `kubectl` takes the last one.",
    ),
    Difference(
        "key-type",
        Generated,
        "A key without quotes that YAML 1.1 reads as a boolean, a number or null (`on`, `010`, `~`) is an error. `kubectl` makes another text of it (`true`, `8`).",
    ),
    Difference(
        "null-label",
        Generated,
        "A label in `matchLabels` without a value is an error. The API server drops it, and the selector matches more.",
    ),
    Difference(
        "empty-list",
        Generated,
        "Empty `selectors` or `destinationCIDRs` are an error. Cilium takes the policy, which steers nothing.",
    ),
    Difference(
        "selects-nothing",
        Generated,
        "A label selector that Kubernetes would refuse (`In` without values, a value that no label has) is an error. Cilium takes the policy; the selector matches nothing, and only the agent's log says so.",
    ),
    Difference(
        "host-bits",
        Generated,
        "A CIDR with host bits (`10.0.4.7/24`) is an error: a network and a host are both possible. Cilium takes the network.",
    ),
    Difference(
        "ipv4-mapped",
        Generated,
        "A CIDR that is IPv4 in the form of IPv6 (`::ffff:a00:0/104`) is an error. Cilium takes it; no packet matches it.",
    ),
    Difference(
        "embedded-ipv4",
        Generated,
        "A CIDR may be written with an embedded IPv4 address (`64:ff9b::10.0.0.0/120`). The pattern of Cilium's definition refuses most of them.",
    ),
    Difference(
        "special-egress-ip",
        Generated,
        "An `egressIP` that no gateway can send from (0.0.0.0, loopback, link-local, multicast, broadcast) is an error. Cilium takes it; packets are dropped, or leave with another address.",
    ),
    Difference("egress-ip-family", Generated, "An `egressIP` may be IPv6. Cilium takes one from 1.20 on."),
    Difference(
        "interface-name",
        Generated,
        "An `interface` that the kernel cannot have, a list or a pattern of interfaces is an error. Cilium takes the policy, and packets are dropped.",
    ),
    Difference(
        "gateway-alone",
        Generated,
        "`egressGateways` may stand without `egressGateway`. Cilium's definition demands both, and ignores the second.",
    ),
    Difference(
        "ignored-gateway",
        Generated,
        "An `egressGateway` beside `egressGateways` has no effect in either, and is checked here like any other. Cilium's agent does not look at it.",
    ),
    Difference(
        "node-selector",
        Generated,
        "A `nodeSelector` restricts the pods of its own entry of `selectors`. Cilium restricts the pods of all entries to the nodes of any.",
    ),
    Difference(
        "source-prefix",
        Generated,
        "`k8s:` and `any:` before a label's key in `podSelector` and `namespaceSelector` are left out, as in a CiliumNetworkPolicy. Cilium's gateway takes them for a part of the key, which no pod has.",
    ),
    Difference(
        "identity-label",
        Generated,
        "Labels that only Cilium's identities have (`io.cilium.k8s.policy.*`) match no pod, with a warning.",
    ),
    Difference(
        "metadata",
        Generated,
        "`metadata.labels` and annotations of others are not judged; the API server may refuse them.",
    ),
    Difference(
        "annotations",
        Generated,
        "Annotations `egret.dev/…` have a meaning, and one that is unknown is an error.",
    ),
    Difference(
        "placeholder",
        Generated,
        "A value that has to be rendered first (`${VAR}`, `{{ … }}`, `ENC[…]`) is an error, also where it would be a valid text.",
    ),
    Difference("gateways-64", Tested, "64 gateways are the most in all versions. Cilium has that limit from 1.20 on."),
    Difference(
        "json-stream",
        Tested,
        "JSON documents that follow each other without `---` are an error. `kubectl` reads all of them.",
    ),
];

/// The difference that an error of Egret's is, where Cilium has none.
pub(crate) fn of_error(error: &Diagnostic) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| error.message.contains(word));
    Some(match error.code {
        "unknown-field" if says(&["annotation of Egret"]) => "annotations",
        "unknown-field" => "unknown-field",
        "duplicate-key" => "duplicate-key",
        "yaml-key" => "key-type",
        "wrong-type" if says(&["a label's value must be text"]) && error.label == "this is nothing" => "null-label",
        "no-destination" => "empty-list",
        "no-selector" if says(&["is empty"]) => "empty-list",
        "no-values" | "needless-values" | "bad-label-key" | "bad-label-value" => "selects-nothing",
        "host-bits" => "host-bits",
        "bad-cidr" if says(&["IPv4 network in the form of IPv6"]) => "ipv4-mapped",
        "bad-address" if says(&["no address of a host", "never leaves", "multicast", "no router forwards"]) => {
            "special-egress-ip"
        }
        "bad-interface" => "interface-name",
        "interface-and-address" => "ignored-gateway",
        "not-rendered" => "placeholder",
        _ => return None,
    })
}

/// The difference that a reason of Cilium's is, where Egret has none.
pub(crate) fn of_reason(reason: &str) -> Option<&'static str> {
    let pattern =
        |field: &str| reason.starts_with(&format!("schema: spec.{field}[")) && reason.contains("should match");
    Some(match reason {
        "schema: spec.egressGateway: Required value" => "gateway-alone",
        _ if reason.starts_with("schema: egressIP is not ipv4: ") => "egress-ip-family",
        _ if pattern("destinationCIDRs") || pattern("excludedCIDRs") => {
            let value = reason.split('"').nth(1)?;
            return (value.contains(':') && value.contains('.')).then_some("embedded-ipv4");
        }
        _ if reason.starts_with("metadata: labels") || reason.starts_with("metadata: annotations") => "metadata",
        _ => return None,
    })
}

/// The differences between two meanings; the error names the part that differs without a reason.
pub(crate) fn of_meaning(
    text: &str,
    policy: &Policy,
    ours: &Meaning,
    theirs: &Meaning,
) -> Result<Vec<&'static str>, &'static str> {
    let mut found = Vec::new();
    if ours.endpoints != theirs.endpoints {
        // What has the prefix matches nothing there.
        let common: BTreeSet<_> = theirs.endpoints.iter().filter(|one| one.is_some()).cloned().collect();
        let prefixed = theirs.endpoints.contains(&None) && ["k8s:", "any:"].iter().any(|prefix| text.contains(prefix));
        if !prefixed || !common.is_subset(&ours.endpoints) {
            return Err("other endpoints");
        }
        found.push("source-prefix");
    }
    let keys = ours.endpoints.iter().flatten().flatten().map(|(key, ..)| key);
    if keys.clone().any(|key| key.starts_with("io.cilium.k8s.policy.")) {
        found.push("identity-label");
    }
    let everywhere = Some(BTreeSet::new());
    let restricted: BTreeSet<_> = policy.selectors.iter().map(|member| &member.node.requirements).collect();
    let without =
        |nodes: &BTreeSet<_>| nodes.iter().filter(|one| **one != everywhere).cloned().collect::<BTreeSet<_>>();
    if without(&ours.nodes) != without(&theirs.nodes) {
        return Err("other nodes");
    }
    if restricted.len() > 1 {
        found.push("node-selector");
    }
    let same =
        (&ours.name, &ours.destinations, &ours.excluded) == (&theirs.name, &theirs.destinations, &theirs.excluded);
    if !same {
        return Err("another name or other networks");
    }
    if ours.gateways == theirs.gateways { Ok(found) } else { Err("other gateways") }
}
