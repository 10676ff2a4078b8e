//! `egret doctor`: whether this node meets the requirements, and what to do where it does not; of a whole cluster with `--kubeconfig`
//! (`cluster_doctor`). It changes nothing.
//!
//! `kernel::doctor` checks the machine; repository and manifests are read here, because edges don't import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::args::{CLUSTER, GitArgs, OUTPUT, Repository};
use super::diagnostics::{self, Colour};
use super::known::RELEASE;
use super::output::{self, Failure, Form, Manifests, Paint, is_standard_input, paint, standard_input};
use super::{cluster_doctor, json, plan};
use crate::core::name::NodeName;
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::policy::document::DocumentKind;
use crate::core::policy::lint::lint;
use crate::kernel::doctor::{self, Check, CheckStatus, DoctorInput};

/// Cilium's ConfigMap.
const CILIUM_CONFIG: &str = "cilium-config";

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// The policy repository, if it is to be checked: a path, file://, https://, ssh:// or user@host:path.
    #[arg(long, value_name = "REPO", env = "EGRET_REPO")]
    repo: Option<String>,
    /// Manifests of the cluster, or - for standard input: whether the node is among them, and how its CNI is configured.
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER", requires = "node", help_heading = CLUSTER)]
    cluster: Option<PathBuf>,
    /// The cluster's name: its entry in egret.yaml is used.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", help_heading = CLUSTER)]
    cluster_name: String,
    /// This node's name in the cluster.
    #[arg(long, value_name = "NAME", env = "EGRET_NODE", help_heading = CLUSTER)]
    node: Option<String>,
    /// Ask every agent of a cluster for its own checks, in the place of this machine: a kubeconfig, whose user needs the chart's ClusterRole
    /// and Role egret-explain; `in-cluster` is the account of this pod.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["repo", "cluster"], help_heading = CLUSTER)]
    kubeconfig: Option<PathBuf>,
    /// The namespace of Egret's release, whose agents are asked; with --kubeconfig.
    #[arg(long, value_name = "NAMESPACE", env = "EGRET_NAMESPACE", default_value = RELEASE, help_heading = CLUSTER)]
    namespace: String,
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Form::Text, help_heading = OUTPUT)]
    output: Form,
    #[command(flatten)]
    git: GitArgs,
}

pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    if let Some(kubeconfig) = &args.kubeconfig {
        return cluster_doctor::run(kubeconfig, &args.namespace, args.output);
    }
    let mut input = DoctorInput::default();
    let mut found = Vec::new();
    if let Some(address) = &args.repo {
        let (check, set) = repository(Repository { address, git: &args.git }, &args.cluster_name);
        input.range = set.config.range;
        input.mask_is_given = !set.config.mask_is_auto;
        input.own_policies = set.policies.keys().map(|id| id.name.to_string()).collect();
        found.push(check);
    }
    if let (Some(path), Some(node)) = (&args.cluster, &args.node) {
        found.extend(cluster(path, node, &mut input));
    }
    found.extend(output::runtime()?.block_on(doctor::examine(&input)));
    output::print(&shown(&found, args.output, output::colour()))?;
    let bad = found.iter().any(|check| check.severity == CheckStatus::Error);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether policies can be fetched and read, and what they are.
fn repository(repository: Repository<'_>, cluster_name: &str) -> (Check, PolicySet) {
    let (files, revision) = match plan::files(repository, None) {
        Ok(read) => read,
        Err(failure) => {
            let (message, hint) = failure.parts();
            let hint = hint.unwrap_or_else(|| "`git ls-remote` with the same address shows more".to_owned());
            return (Check::error("repository", message, hint), PolicySet::default());
        }
    };
    let mut catalogue = Catalogue::new(cluster_name);
    catalogue.update(files);
    let mut mistakes = catalogue.diagnostics();
    mistakes.extend(lint(catalogue.policies(), None, catalogue.spans()));
    mistakes.sort();
    mistakes.dedup();
    let tally = catalogue.tally(&mistakes);
    let message = format!("{} ({revision}): {}", repository.address, diagnostics::summary(tally));
    let check = if tally.errors + tally.warnings == 0 {
        Check::ok("repository", message)
    } else {
        Check::warn("repository", message, "`egret validate` with the same --repo shows them")
    };
    (check, catalogue.policies().clone())
}

/// Whether the cluster's manifests can be read and have this node. What they hold of both is added to `asked`.
fn cluster(path: &Path, name: &str, input: &mut DoctorInput) -> Vec<Check> {
    let read = if is_standard_input(path) {
        standard_input().and_then(|text| Ok((Manifests::of_text(&text)?, vec![text])))
    } else {
        Manifests::read(path).map(|manifests| (manifests, texts(path)))
    };
    let (cluster, texts) = match read {
        Ok(read) => read,
        Err(failure) => {
            let (message, hint) = failure.parts();
            return vec![Check::error("cluster", message, hint.unwrap_or_default())];
        }
    };
    input.cilium = cilium_config(&texts);
    input.cilium_policies = cilium_policies(&texts);
    let mut found = Vec::new();
    if let Some(first) = cluster.faults.first() {
        let message = format!("{}: {} mistakes, the first: {first}", path.display(), cluster.faults.len());
        found.push(Check::warn("cluster", message, "faulty objects are ignored, or stay as they were"));
    }
    let known = NodeName::parse(name).ok().and_then(|name| cluster.facts.nodes.get_key_value(&name));
    if let Some((name, node)) = known {
        input.node = Some((name.clone(), node.clone()));
        let others = cluster.facts.nodes.iter().filter(|(other, _)| *other != name);
        let peers =
            others.filter_map(|(name, node)| Some((name.clone(), node.tunnel_address()?, node.pod_cidrs.clone())));
        input.peers = peers.collect();
    } else {
        let (message, hint) = Failure::unknown_node(name, path, &cluster.facts).parts();
        found.push(Check::error("cluster", message, hint.unwrap_or_default()));
    }
    found
}

/// A manifest of any kind, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    data: serde_json::Value,
    #[serde(default)]
    items: Vec<Manifest>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

/// The manifests' texts. A file that cannot be read is reported with the facts.
fn texts(path: &Path) -> Vec<String> {
    if path.is_dir() {
        let files = plan::folder(path).unwrap_or_default().into_values();
        return files.filter_map(|file| if let FileUpdate::Text(text) = file { Some(text) } else { None }).collect();
    }
    std::fs::read_to_string(path).into_iter().collect()
}

/// The data of Cilium's ConfigMap, if it is among the manifests.
fn cilium_config(texts: &[String]) -> Option<BTreeMap<String, String>> {
    texts.iter().filter(|text| text.contains(CILIUM_CONFIG)).find_map(|text| {
        let documents: Vec<Manifest> = serde_yaml::from_multiple(text).ok()?;
        let all = documents.iter().chain(documents.iter().flat_map(|list| &list.items));
        let data = all.filter(|one| one.metadata.name == CILIUM_CONFIG).find_map(|one| one.data.as_object())?;
        let texts = data.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Some(texts.collect())
    })
}

/// Names of the CiliumEgressGatewayPolicies among the manifests.
fn cilium_policies(texts: &[String]) -> BTreeSet<String> {
    let kind = DocumentKind::CiliumEgressGatewayPolicy.name();
    let documents = texts.iter().filter(|text| text.contains(kind)).flat_map(|text| {
        let documents: Vec<Manifest> = serde_yaml::from_multiple(text).unwrap_or_default();
        documents.into_iter().flat_map(|one| {
            let Manifest { kind, metadata, items, .. } = one;
            std::iter::once((kind, metadata)).chain(items.into_iter().map(|item| (item.kind, item.metadata)))
        })
    });
    documents.filter(|(of, _)| of == kind).map(|(_, metadata)| metadata.name).collect()
}

/// All checks, for programs.
#[derive(Serialize)]
struct ChecksJson<'c> {
    checks: &'c [Check],
}

fn shown(found: &[Check], form: Form, colour: Colour) -> String {
    if form == Form::Json {
        return json::text(ChecksJson { checks: found });
    }
    let mut text = String::new();
    for Check { severity, message, hint, .. } in found {
        let word = format!("{severity:<5}");
        let paint_of = match severity {
            CheckStatus::Ok => Paint::Good,
            CheckStatus::Warn => Paint::Doubtful,
            CheckStatus::Error => Paint::Bad,
        };
        let _ = match form {
            Form::Markdown => writeln!(text, "- **{severity}** {message}"),
            _ => writeln!(text, "{}  {message}", paint(&word, paint_of, colour)),
        };
        if let Some(hint) = hint {
            let _ = match form {
                Form::Markdown => writeln!(text, "  <br>hint: {hint}"),
                _ => writeln!(text, "       hint: {hint}"),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_severity_first_and_its_hint_below() {
        let found = [Check::ok("kernel", "kernel 6.18"), Check::error("cilium", "past netfilter", "legacy=true")];
        let text = "ok     kernel 6.18\nerror  past netfilter\n       hint: legacy=true\n";
        assert_eq!(shown(&found, Form::Text, Colour::No), text);
        let coloured = "\u{1b}[32mok   \u{1b}[0m  kernel 6.18\n\u{1b}[1m\u{1b}[31merror\u{1b}[0m  past netfilter\n       hint: legacy=true\n";
        assert_eq!(shown(&found, Form::Text, Colour::Yes), coloured);
        let markdown = "- **ok** kernel 6.18\n- **error** past netfilter\n  <br>hint: legacy=true\n";
        assert_eq!(shown(&found, Form::Markdown, Colour::Yes), markdown);
        let json: serde_json::Value = serde_json::from_str(&shown(&found, Form::Json, Colour::Yes)).unwrap();
        let expected = serde_json::json!({"formatVersion": 1, "checks": [
            {"code": "kernel", "severity": "ok", "message": "kernel 6.18", "hint": null},
            {"code": "cilium", "severity": "error", "message": "past netfilter", "hint": "legacy=true"},
        ]});
        assert_eq!(json, expected);
    }

    #[test]
    fn ciliums_policies_are_found_in_lists_and_streams_among_other_kinds() {
        let list = r#"{"kind": "List", "items": [{"kind": "CiliumEgressGatewayPolicy", "metadata": {"name": "a"}}]}"#;
        let stream = "kind: Node\nmetadata: {name: n}\n---\nkind: CiliumEgressGatewayPolicy\nmetadata: {name: b}\nspec: {selectors: []}\n";
        let texts = [list, stream, "kind: [", "kind: CiliumNode\nmetadata: {name: CiliumEgressGatewayPolicy}\n"]
            .map(str::to_owned);
        assert_eq!(cilium_policies(&texts), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn the_config_map_is_found_in_lists_and_streams_among_other_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.yaml");
        assert_eq!(cilium_config(&texts(&file)), None);
        let expected = BTreeMap::from([("kube-proxy-replacement".to_owned(), "true".to_owned())]);
        let map = "kind: ConfigMap\nmetadata: {name: cilium-config}\ndata: {kube-proxy-replacement: \"true\"}\n";
        std::fs::write(&file, format!("kind: Node\nmetadata: {{name: a}}\nspec: {{data: 1}}\n---\n{map}")).unwrap();
        assert_eq!(cilium_config(&texts(&file)), Some(expected.clone()));
        let list = r#"{"kind": "List", "items": [{"kind": "Pod", "metadata": {"name": "cilium-config-x"}},
            {"metadata": {"name": "cilium-config"}, "data": {"kube-proxy-replacement": "true"}}]}"#;
        std::fs::write(&file, list).unwrap();
        assert_eq!(cilium_config(&texts(folder.path())), Some(expected));
    }
}
