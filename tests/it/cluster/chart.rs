//! The chart in a cluster, as helm renders it: definitions, accounts, rights and admission policies, put in and taken out again.
//!
//! Deliberately absent: the Deployment and the DaemonSet. The suite runs those processes itself, under these accounts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::{Api, JSON, Outcome, fault, message, name};
use super::suite::PAUSE;
use crate::fetched;
use crate::lab::wait_until_every;

/// Every object that the suite makes bears this label with the run's prefix.
pub(super) const MARK: &str = "egret.dev/test";

/// What lets the suite replace what somebody else put there. It is put back at the end.
pub(super) const OVERWRITE: &str = "EGRET_TEST_CLUSTER_OVERWRITE";

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const RIGHTS: &str = "/apis/rbac.authorization.k8s.io/v1";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
/// What is waited for at most.
const DEADLINE: Duration = Duration::from_mins(1);

/// What became of one object.
enum Put {
    /// It was not there.
    Made { path: String },
    /// It was there with other content, which is put back.
    Replaced { path: String, before: Value },
}

/// What was put in. Dropping it leaves it there; the owner takes it out.
#[derive(Default)]
pub(super) struct Chart {
    put: Vec<Put>,
}

/// Where objects of a kind of the chart are. None: it is not installed by the suite.
fn collection(object: &Value) -> Option<String> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    Some(match object["kind"].as_str()? {
        "CustomResourceDefinition" => DEFINITIONS.to_owned(),
        "ServiceAccount" => format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        "ClusterRole" => format!("{RIGHTS}/clusterroles"),
        "ClusterRoleBinding" => format!("{RIGHTS}/clusterrolebindings"),
        "Role" => format!("{RIGHTS}/namespaces/{namespace}/roles"),
        "RoleBinding" => format!("{RIGHTS}/namespaces/{namespace}/rolebindings"),
        "ValidatingAdmissionPolicy" => format!("{ADMISSION}/validatingadmissionpolicies"),
        "ValidatingAdmissionPolicyBinding" => format!("{ADMISSION}/validatingadmissionpolicybindings"),
        _ => return None,
    })
}

/// The objects of the chart that the suite installs, with `remove: true` or without.
pub(super) fn rendered(namespace: &str, remove: bool) -> Outcome<Vec<Value>> {
    let (root, programs) = (Path::new(env!("CARGO_MANIFEST_DIR")), fetched::programs().map_err(fault)?);
    let mut command = Command::new(programs.join("helm"));
    command.args(["template", "egret", "charts/egret", "--include-crds", "--namespace", namespace]);
    command.args(["--values", "charts/egret/ci/default.yaml", "--set", &format!("remove={remove}")]);
    // Nothing here may ask a cluster.
    let output = command.current_dir(root).env("KUBECONFIG", "/dev/null").output().map_err(fault)?;
    if !output.status.success() {
        return Err(fault(format!("helm template: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut objects: Vec<Value> = Vec::new();
    for document in format!("\n{text}").split("\n---") {
        let object: Option<Value> =
            serde_yaml::from_str(document).map_err(|error| fault(format!("{error} in {document}")))?;
        objects.extend(object.filter(|object| collection(object).is_some()));
    }
    // Definitions before what speaks of them, roles before bindings, policies before bindings: as they sort by name of their kind, but
    // for accounts, which come first.
    let rank = |object: &Value| {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        (kind != "CustomResourceDefinition", kind != "ServiceAccount", kind)
    };
    objects.sort_by_key(rank);
    Ok(objects)
}

/// An object without what servers put in.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.retain(|field, _| !["metadata", "status", "apiVersion", "kind"].contains(&field.as_str()));
    }
    object
}

impl Chart {
    /// Puts one object in. What is there already with the same content is left alone, also at the end.
    pub(super) fn put(&mut self, api: &Api, prefix: &str, object: &Value) -> Outcome {
        let at = collection(object).ok_or_else(|| fault("a kind of the chart that the suite does not install"))?;
        let path = format!("{at}/{}", name(object));
        let mut marked = object.clone();
        marked["metadata"]["labels"][MARK] = json!(prefix);
        // Taken down before it is made: a lost answer leaves nothing behind.
        let live = api.get(&path)?;
        let Some(live) = live else {
            self.put.push(Put::Made { path });
            return api.create_soon(&at, &marked).map(|_| ());
        };
        // One of ours with other values: an upgrade of the release.
        if self.put.iter().any(|put| matches!(put, Put::Made { path: made } if *made == path)) {
            marked["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            return api.done("PUT", &path, JSON, &marked).map(|_| ());
        }
        let mut wanted = object.clone();
        wanted["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        // The server itself fills in its defaults.
        let (code, tried) = api.send("PUT", &format!("{path}?dryRun=All"), JSON, &wanted)?;
        if code < 300 && essence(&tried) == essence(&live) {
            return Ok(());
        }
        let what = format!("{} {}", object["kind"].as_str().unwrap_or_default(), name(object));
        if std::env::var_os(OVERWRITE).is_none_or(|value| value != "1") {
            let why = format!(
                "{what} is there already with other content: is Egret installed in this cluster? With {OVERWRITE}=1 it is replaced, \
                 and put back at the end"
            );
            return Err(fault(why));
        }
        if code >= 300 {
            return Err(fault(format!("{what} cannot be replaced: {}", message(&tried))));
        }
        self.put.push(Put::Replaced { path: path.clone(), before: live });
        api.done("PUT", &path, JSON, &wanted).map(|_| ())
    }

    /// Waits until custom objects of all three kinds are served.
    pub(super) fn await_kinds(api: &Api) -> Outcome {
        for plural in ["publishedegresspolicies", "egressconfigs", "egressnodes"] {
            let mut last = Ok(false);
            wait_until_every(PAUSE, DEADLINE, || {
                last = Self::is_served(api, plural);
                !matches!(last, Ok(false))
            });
            if !last? {
                let definition = api.get(&format!("{DEFINITIONS}/{plural}.egret.dev"))?.unwrap_or_default();
                return Err(fault(format!("{plural}.egret.dev are not served: {}", definition["status"])));
            }
        }
        Ok(())
    }

    fn is_served(api: &Api, plural: &str) -> Outcome<bool> {
        let (code, _) = api.send("GET", &format!("{}/{plural}", super::host_network::CUSTOM), JSON, &Value::Null)?;
        let object = api.get(&format!("{DEFINITIONS}/{plural}.egret.dev"))?.unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is = |kind: &str, status: &str| {
            conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == status)
        };
        let served = code == 200 && is("Established", "True");
        if served && is("NonStructuralSchema", "True") {
            return Err(fault(format!("the schema of {plural} is not structural: {conditions:?}")));
        }
        Ok(served)
    }

    /// Takes everything out, or puts back what was there. Goes on after a fault.
    pub(super) fn take_out(&mut self, api: &Api) -> Vec<String> {
        let mut faults = Vec::new();
        while let Some(put) = self.put.pop() {
            let done = match put {
                Put::Made { path } => remove(api, &path),
                Put::Replaced { path, before } => put_back(api, &path, before),
            };
            faults.extend(done.err().map(|fault| format!("{fault:?}")));
        }
        faults
    }
}

fn put_back(api: &Api, path: &str, mut before: Value) -> Outcome {
    let live = api.get(path)?.unwrap_or_default();
    if let Some(metadata) = before["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    before["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    api.done("PUT", path, JSON, &before).map(|_| ())
}

/// Deletes an object and waits until it is gone: the server itself clears a definition's objects away first.
fn remove(api: &Api, path: &str) -> Outcome {
    api.delete(path)?;
    let mut last = Ok(None);
    let gone = wait_until_every(PAUSE, DEADLINE, || {
        last = api.get(path);
        !matches!(last, Ok(Some(_)))
    });
    last?;
    if gone { Ok(()) } else { Err(fault(format!("{path} is deleted and does not go away"))) }
}

/// Takes out what dead runs left: objects of the chart with the suite's mark.
pub(super) fn sweep(api: &Api, prefix: &str) -> Outcome<usize> {
    let admission = ["validatingadmissionpolicybindings", "validatingadmissionpolicies"];
    let rights = ["clusterrolebindings", "clusterroles"];
    let collections = admission.map(|plural| format!("{ADMISSION}/{plural}")).into_iter();
    let collections =
        collections.chain(rights.map(|plural| format!("{RIGHTS}/{plural}"))).chain([DEFINITIONS.to_owned()]);
    // Those of events; the others are in a namespace of the suite's, and go with it.
    let of_events = ["rolebindings", "roles"].map(|plural| format!("{RIGHTS}/namespaces/default/{plural}"));
    let collections = collections.chain(of_events);
    let mut found = 0;
    for at in collections {
        for object in api.list(&format!("{at}?labelSelector={MARK}"))? {
            if object["metadata"]["labels"][MARK].as_str().is_some_and(|mark| mark.starts_with(prefix)) {
                remove(api, &format!("{at}/{}", name(&object)))?;
                found += 1;
            }
        }
    }
    Ok(found)
}
