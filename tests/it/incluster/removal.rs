//! Egret taken out of a cluster: in any order, twice, while others still run, and without an API server.
//!
//! What is left is compared with what was there before: the whole store, and the kernel of every node. Deliberately absent: rights
//! (`cluster`), and helm.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::stand::{LABELS, Outcome, Stand, policy, yaml};
use crate::apiserver::Filter;
use crate::lab::Options;

const NODES: [&str; 2] = ["kind-worker", "kind-worker2"];
const RESOURCES: [&str; 7] = [
    "nodes",
    "namespaces",
    "pods",
    "leases.coordination.k8s.io",
    "egressconfigs.egret.dev",
    "publishedegresspolicies.egret.dev",
    "egressnodes.egret.dev",
];

/// Everything in the store but events, without versions and times.
fn store(stand: &Stand) -> BTreeMap<String, Value> {
    let essence = |mut object: Value| {
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.remove("resourceVersion");
        for entry in metadata.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            entry["time"].take();
        }
        object
    };
    let name = |object: &Value| format!("{}/{}", object["metadata"]["namespace"], object["metadata"]["name"]);
    let of = |resource: &'static str| {
        let objects = stand.api.list(resource).into_iter().map(essence);
        objects.map(move |object| (format!("{resource} {}", name(&object)), object))
    };
    RESOURCES.into_iter().flat_map(of).collect()
}

/// What a node's kernel holds that Egret could have put there.
fn kernel(stand: &Stand) -> Outcome<Vec<String>> {
    let mut texts = Vec::new();
    for node in NODES {
        let namespace = stand.lab.node(node)?;
        for words in [
            ["nft", "list", "ruleset"].as_slice(),
            &["ip", "rule"],
            &["ip", "-6", "rule"],
            &["ip", "-o", "-br", "link"],
            &["ip", "route", "show", "table", "9000"],
        ] {
            // A table that is not there is an error.
            texts.push(namespace.exec(words).unwrap_or_default());
        }
    }
    Ok(texts)
}

/// A lab with its processes, and what there was before them.
struct Installed {
    stand: Stand,
    store: BTreeMap<String, Value>,
    kernel: Vec<String>,
}

impl Installed {
    fn up() -> Outcome<Self> {
        let mut stand = Stand::empty(Options::default())?;
        let (store, kernel) = (store(&stand), kernel(&stand)?);
        stand.controller("one")?;
        for node in NODES {
            stand.agent(node)?;
        }
        stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
        stand.await_granted("tiefighter")?;
        stand.lab.forget()?;
        Ok(Self { stand, store, kernel })
    }

    /// `egret agent --remove` on a node: how it ends, and what it says.
    fn agent(&mut self, node: &str) -> Outcome<(Option<i32>, String)> {
        self.stand.launch_agent(node, &["--remove"])?;
        Ok(self.stand.await_end(node)?.expect("an end of its own"))
    }

    fn controller(&mut self) -> Outcome<(Option<i32>, String)> {
        self.stand.launch_controller("remove", &["--remove"])?;
        Ok(self.stand.await_end("controller-remove")?.expect("an end of its own"))
    }

    fn stop_agents(&mut self) -> Outcome {
        NODES.into_iter().try_for_each(|node| self.stand.terminate(node).map(|_| ()))
    }

    /// Nothing is left that was not there before.
    fn assert_as_before(&self) -> Outcome {
        assert_eq!(store(&self.stand), self.store);
        assert_eq!(kernel(&self.stand)?, self.kernel);
        Ok(())
    }
}

#[test]
fn agents_and_then_the_controller_leave_nothing_also_when_they_are_removed_twice() -> Outcome {
    let mut all = Installed::up()?;
    all.stop_agents()?;
    all.stand.terminate("controller-one")?;
    for round in 0..2 {
        for node in NODES {
            let (code, said) = all.agent(node)?;
            assert_eq!(code, Some(0), "{round}: {said}");
        }
        let (code, said) = all.controller()?;
        assert_eq!(code, Some(0), "{round}: {said}");
        assert!(said.contains("left: CustomResourceDefinition egressnodes.egret.dev: kubectl delete crd"), "{said}");
        all.assert_as_before()?;
    }
    Ok(())
}

#[test]
fn a_controller_that_is_removed_first_removes_nothing_that_agents_need_and_names_them() -> Outcome {
    let mut all = Installed::up()?;
    let (code, said) = all.controller()?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the controller one leads"), "{said}");
    all.stand.terminate("controller-one")?;
    all.stand.await_quiet()?;
    let before = store(&all.stand);
    let (code, said) = all.controller()?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("left: EgressNode kind-worker: egret agent --remove on that node"), "{said}");
    assert!(said.contains("agents still serve kind-worker, kind-worker2"), "{said}");
    assert_eq!(store(&all.stand), before);
    all.stand.await_granted("tiefighter")?;
    all.stand.assert_no_leak_but(&[])?;
    all.stop_agents()?;
    for node in NODES {
        assert_eq!(all.agent(node)?.0, Some(0));
    }
    assert_eq!(all.controller()?.0, Some(0));
    all.assert_as_before()
}

#[test]
fn an_agent_that_is_removed_under_a_controller_is_not_made_again() -> Outcome {
    let mut all = Installed::up()?;
    all.stop_agents()?;
    for node in NODES {
        assert_eq!(all.agent(node)?.0, Some(0));
    }
    all.stand.await_quiet()?;
    assert_eq!(all.stand.api.list("egressnodes.egret.dev"), Vec::<Value>::new());
    all.stand.kill9("controller-one")?;
    // Nobody renews the lease: its holder is waited for, and is dead.
    assert_eq!(all.controller()?.0, Some(0));
    all.assert_as_before()
}

#[test]
fn a_node_is_cleaned_without_an_api_server_and_what_could_not_be_deleted_is_named() -> Outcome {
    let mut all = Installed::up()?;
    all.stop_agents()?;
    all.stand.terminate("controller-one")?;
    all.stand.api.away();
    for node in NODES {
        let (code, said) = all.agent(node)?;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("left: EgressNode {node}: kubectl delete egressnode {node}")), "{said}");
        assert!(said.contains("the node is clean"), "{said}");
    }
    assert_eq!(kernel(&all.stand)?, all.kernel);
    let (code, said) = all.controller()?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nothing was removed from the cluster"), "{said}");
    all.stand.api.back();
    for node in NODES {
        assert_eq!(all.agent(node)?.0, Some(0));
    }
    assert_eq!(all.controller()?.0, Some(0));
    all.assert_as_before()
}

#[test]
fn without_the_kinds_and_without_the_namespace_labels_are_taken_back_all_the_same() -> Outcome {
    let mut all = Installed::up()?;
    all.stop_agents()?;
    all.stand.terminate("controller-one")?;
    for plural in ["egressconfigs", "publishedegresspolicies", "egressnodes"] {
        let definition = format!("{plural}.egret.dev");
        all.stand.api.delete("customresourcedefinitions.apiextensions.k8s.io", "", &definition);
    }
    all.stand.api.delete("leases.coordination.k8s.io", "egret-system", "egret-controller");
    for node in NODES {
        assert_eq!(all.agent(node)?.0, Some(0));
    }
    let (code, said) = all.controller()?;
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("left:"), "{said}");
    all.assert_as_before()
}

#[test]
fn an_object_that_cannot_be_deleted_is_named_and_stops_nothing_else() -> Outcome {
    let mut all = Installed::up()?;
    all.stop_agents()?;
    all.stand.terminate("controller-one")?;
    for node in NODES {
        assert_eq!(all.agent(node)?.0, Some(0));
    }
    let fault = all
        .stand
        .api
        .fault(Filter::all().verb("delete").resource("egressconfigs"), crate::apiserver::Fault::Status(500));
    let (code, said) = all.controller()?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("left: EgressConfig default: kubectl delete egressconfig default"), "{said}");
    assert_eq!(all.stand.api.list("publishedegresspolicies.egret.dev"), Vec::<Value>::new());
    all.stand.api.clear(fault);
    assert_eq!(all.controller()?.0, Some(0));
    all.assert_as_before()
}

/// What the version before had published: its own kind, and a head without what came later (decision 0023).
#[test]
fn what_an_older_version_published_is_replaced_and_its_kind_is_named_at_the_end() -> Outcome {
    let mut stand = Stand::empty(Options::default())?;
    let definition = include_str!("../../../charts/egret/crds/publishedegresspolicies.yaml");
    let definition = definition.replace("PublishedEgressPolicy", "EgressPolicy").replace("publishedegress", "egress");
    let definition = definition.replace("shortNames: [egp]", "shortNames: [egrp]");
    stand.api.create(&yaml(&definition));
    let head = json!({
        "apiVersion": "egret.dev/v1alpha1", "kind": "EgressConfig", "metadata": {"name": "default"},
        "spec": {
            "cluster": "default", "revision": "0123456789012345678901234567890123456789", "fence": 7,
            "policies": {"count": 1, "digest": "0123456789abcdef"}, "config": {},
        },
    });
    stand.api.create(&head);
    let former = json!({
        "apiVersion": "egret.dev/v1alpha1", "kind": "EgressPolicy", "metadata": {"name": "outpost"},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"org": "empire"}}}], "destinationCIDRs": ["10.0.4.0/24"],
            "egressGateways": [{"nodeSelector": {"matchLabels": {"egress-gw": "true"}}, "interface": "net1"}],
            "source": {"kind": "CiliumEgressGatewayPolicy", "name": "outpost", "file": "policies/outpost.yaml", "line": 1},
            "fence": 7,
        },
    });
    stand.api.create(&former);
    stand.controller("one")?;
    for node in NODES {
        stand.agent(node)?;
    }
    stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_granted("tiefighter")?;
    stand.await_that("a head in force on both nodes", || {
        let head = stand.object("egressconfigs", "default");
        head["spec"]["fence"].as_i64() > Some(7) && head["status"]["nodeSummary"] == "2/2"
    })?;
    // Nobody reads what the older version wrote, and nobody has the right to delete it.
    assert_eq!(stand.api.list("egresspolicies.egret.dev").len(), 1);
    for name in NODES.into_iter().chain(["controller-one"]) {
        stand.terminate(name)?;
    }
    for node in NODES {
        stand.launch_agent(node, &["--remove"])?;
        assert_eq!(stand.await_end(node)?.expect("an end").0, Some(0));
    }
    stand.launch_controller("remove", &["--remove"])?;
    let (code, said) = stand.await_end("controller-remove")?.expect("an end");
    assert_eq!(code, Some(0), "{said}");
    let left = "left: CustomResourceDefinition egresspolicies.egret.dev: kubectl delete crd egresspolicies.egret.dev";
    assert!(said.contains(left), "{said}");
    Ok(())
}
