//! Egret's reading of CiliumEgressGatewayPolicy compared with Cilium's, over thousands of documents: the same verdict and the same
//! meaning, except where `differences` says why not. docs/cilium.md has the same list.

mod differences;
mod go;
mod mutations;
mod reference;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use egret::core::diagnostic::{Diagnostic, Severity};
use egret::core::labels::{Operator, Selector};
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::policy::file::parse;
use egret::core::policy::{Egress, MemberSelector, Policy};

use differences::{DIFFERENCES, Shown};
use mutations::Random;
use reference::{Cilium, Meaning};
use tree::Tree;

/// Documents with changes at random places. All with one change are tried as well.
const RANDOM: usize = 4000;

/// What Egret makes of a text: the policy, or its errors.
fn egret(text: &str) -> Result<Policy, Vec<Diagnostic>> {
    let parsed = parse("policy.yaml", text);
    let policy = parsed.good.iter().find_map(|(_, document)| document.policy()).map(|checked| checked.policy.clone());
    let errors: Vec<Diagnostic> =
        parsed.diagnostics.into_iter().filter(|one| one.severity == Severity::Error).collect();
    match policy {
        Some(policy) if errors.is_empty() => Ok(policy),
        _ => Err(errors),
    }
}

/// Requirements in the reference's form, each key behind a prefix.
fn requirements(selector: &Selector, prefix: &str) -> BTreeSet<(String, String, BTreeSet<String>)> {
    selector.requirements.iter().map(|one| requirement(&format!("{prefix}{}", one.key), &one.operator)).collect()
}

fn requirement(key: &str, operator: &Operator) -> (String, String, BTreeSet<String>) {
    let (word, values) = match operator {
        Operator::In(values) => ("In", values.clone()),
        Operator::NotIn(values) => ("NotIn", values.clone()),
        Operator::Exists => ("Exists", BTreeSet::new()),
        Operator::DoesNotExist => ("DoesNotExist", BTreeSet::new()),
    };
    (key.to_owned(), word.to_owned(), values)
}

fn endpoint(member: &MemberSelector) -> BTreeSet<(String, String, BTreeSet<String>)> {
    let mut all = requirements(&member.pod, "");
    all.extend(requirements(&member.namespace, "io.cilium.k8s.namespace.labels."));
    all.extend(member.namespace_name.iter().map(|operator| requirement("io.kubernetes.pod.namespace", operator)));
    all
}

fn meaning(policy: &Policy) -> Meaning {
    let egress = |egress: &Egress| egress.to_string();
    let nodes = policy.selectors.iter().filter(|member| !member.node.requirements.is_empty());
    Meaning {
        name: policy.id.name.to_string(),
        endpoints: policy.selectors.iter().map(|member| Some(endpoint(member))).collect(),
        nodes: nodes.map(|member| Some(requirements(&member.node, ""))).collect(),
        destinations: policy.destinations.iter().copied().collect(),
        excluded: policy.excluded.iter().copied().collect(),
        gateways: policy.gateways.iter().map(|one| (Some(requirements(&one.node, "")), egress(&one.egress))).collect(),
    }
}

/// A comparison: the ids of the differences that it shows, or what nobody has explained.
fn compare(document: &Tree) -> Result<BTreeSet<&'static str>, String> {
    let text = document.yaml();
    let (ours, sent) = (egret(&text), document.json());
    let mut shown = BTreeSet::new();
    for version in [Cilium::V1_18, Cilium::V1_20] {
        let theirs = reference::read(&sent, version);
        shown.extend(differ(&text, &ours, &theirs).map_err(|why| format!("{version:?}: {why}\n{text}"))?);
    }
    Ok(shown)
}

fn differ(
    text: &str,
    ours: &Result<Policy, Vec<Diagnostic>>,
    theirs: &Result<Meaning, Vec<String>>,
) -> Result<Vec<&'static str>, String> {
    match (ours, theirs) {
        (Err(_), Err(_)) => Ok(Vec::new()),
        (Err(errors), Ok(_)) if errors.is_empty() => Err("Egret passes over it".to_owned()),
        (Err(errors), Ok(_)) => {
            let id = |error| differences::of_error(error).ok_or_else(|| format!("only Egret refuses it: {error}"));
            errors.iter().map(id).collect()
        }
        (Ok(_), Err(reasons)) => {
            let id = |why: &String| differences::of_reason(why).ok_or_else(|| format!("only Cilium refuses it: {why}"));
            reasons.iter().map(id).collect()
        }
        (Ok(policy), Ok(theirs)) => {
            let ours = meaning(policy);
            differences::of_meaning(text, policy, &ours, theirs)
                .map_err(|why| format!("{why}\n  Egret  {ours:?}\n  Cilium {theirs:?}"))
        }
    }
}

/// The ids of the differences that the documents show, each as often as it was seen, and what nobody has explained.
fn compare_all(documents: &[Tree]) -> (Vec<&'static str>, Vec<String>) {
    let (mut ids, mut unexplained) = (Vec::new(), Vec::new());
    for document in documents {
        match compare(document) {
            Ok(shown) => ids.extend(shown),
            Err(why) => unexplained.push(why),
        }
    }
    (ids, unexplained)
}

#[test]
fn every_document_is_read_as_cilium_reads_it_except_for_the_differences_that_are_listed() {
    let mut random = Random(0x5eed_c111);
    let mut documents = mutations::exhaustive();
    documents.extend(mutations::random(&mut random, RANDOM));
    let (halves, mut seen) = (documents.chunks(documents.len().div_ceil(2)), BTreeMap::new());
    let mut unexplained = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = halves.map(|half| scope.spawn(move || compare_all(half))).collect();
        for thread in threads {
            let (ids, why) = thread.join().expect("no comparison panics");
            for id in ids {
                *seen.entry(id).or_insert(0) += 1;
            }
            unexplained.extend(why);
        }
    });
    println!("{} documents; differences: {seen:?}", documents.len());
    let first: Vec<&str> = unexplained.iter().take(20).map(String::as_str).collect();
    assert!(unexplained.is_empty(), "{} of {}:\n{}", unexplained.len(), documents.len(), first.join("\n"));
    let generated = DIFFERENCES.iter().filter(|one| one.1 == Shown::Generated);
    let absent: Vec<&str> = generated.map(|one| one.0).filter(|id| !seen.contains_key(id)).collect();
    assert!(absent.is_empty(), "no document shows {absent:?}; all: {seen:?}");
}

#[test]
fn the_page_about_cilium_has_every_difference_word_for_word_and_no_other() {
    let page = include_str!("../../docs/cilium.md");
    let section = page.split("## Differences").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = DIFFERENCES.iter().map(|one| format!("| `{}` | {} |", one.0, one.2)).collect();
    assert_eq!(rows, expected);
}

/// Errors of a repository with one file.
fn errors(text: &str) -> (usize, Vec<String>) {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(BTreeMap::from([("a.yaml".to_owned(), FileUpdate::Text(text.to_owned()))]));
    let errors = catalogue.diagnostics().into_iter().filter(|one| one.severity == Severity::Error);
    (catalogue.policies().policies.len(), errors.map(|one| one.code.to_owned()).collect())
}

#[test]
fn sixty_four_gateways_are_the_most() {
    let of = |count: usize| {
        let tree = mutations::with_gateways(count);
        let cilium = [Cilium::V1_18, Cilium::V1_20].map(|version| reference::read(&tree.json(), version).is_ok());
        (errors(&tree.yaml()).0, cilium)
    };
    assert_eq!((of(64), of(65)), ((1, [true, true]), (0, [true, false])));
}

#[test]
fn lists_are_read_like_documents_and_json_without_separators_is_an_error() {
    let documents: Vec<String> = ["a", "b"]
        .iter()
        .map(|name| mutations::seeds()[0].json().expect("JSON").to_string().replace("outpost", name))
        .collect();
    for head in [
        r#""apiVersion": "v1", "kind": "List""#,
        r#""apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicyList""#,
    ] {
        let list = format!("{{{head}, \"metadata\": {{}}, \"items\": [{}]}}", documents.join(", "));
        assert_eq!(errors(&list), (2, Vec::new()), "{head}");
    }
    assert_eq!(errors(&documents.join("\n---\n")), (2, Vec::new()));
    assert_eq!(errors(&documents.join("\n")).1, ["yaml-syntax"]);
    let stream = parse("a.json", &documents.join("\n")).diagnostics;
    assert_eq!(stream[0].hint.as_deref(), Some("documents that follow each other need a line `---` between them"));
}

#[test]
fn what_may_surprise_is_a_warning() {
    let base = mutations::seeds()[2].yaml();
    let warnings = |text: &str| -> Vec<String> {
        let found = parse("a.yaml", text).diagnostics;
        found.iter().map(|one| format!("{} {}", one.severity, one.code)).collect()
    };
    assert_eq!(warnings(&base), [""; 0], "Cilium's definition demands `egressGateway` beside `egressGateways`");
    assert_eq!(warnings(&base.replace("interface: \"eth0\"", "interface: \"\"")), ["warning empty-value"]);
    for (kind, version) in
        [("CiliumEgressNATPolicy", "cilium.io/v2alpha1"), ("IsovalentEgressGatewayPolicy", "isovalent.com/v1")]
    {
        let document = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{x: !y [}}]}}\n");
        assert_eq!(warnings(&document), [""; 0], "what cannot be read is not judged");
        let document = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n");
        assert_eq!(warnings(&document), ["warning other-gateway"]);
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}\n", document.trim_end().replace('\n', "\n  "));
        assert_eq!(warnings(&list), ["warning other-gateway"]);
        let [told] = &parse("a.yaml", &document).diagnostics[..] else { panic!("one warning") };
        assert_eq!(
            (told.message.clone(), told.hint.as_deref(), told.start.line),
            (
                format!("Egret does not read the kind {kind}: it steers nothing here"),
                Some("`egret migrate a.yaml` prints it as an EgressPolicy"),
                2
            )
        );
    }
}

/// The reference's definition against the validators of the package that it was taken from. `make cilium-schema` runs it.
#[test]
#[ignore = "needs the npm package; `make cilium-schema` installs it"]
fn the_packages_own_validators_say_the_same_of_the_definition() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = root.join("target/cilium/node_modules/@kubernetes-models/cilium");
    let sent = mutations::exhaustive().into_iter().filter_map(|document| document.json().ok());
    let lines = sent
        .filter_map(|sent| reference::of_definition(&sent))
        .map(|(spec, valid)| serde_json::json!({"spec": spec, "valid": valid}).to_string());
    let specs = root.join("target/cilium/specs.jsonl");
    std::fs::write(&specs, lines.collect::<Vec<_>>().join("\n")).expect("a file below target");
    let script = root.join("tests/it/cilium/schema.mjs");
    let run = std::process::Command::new("node").args([&script, &package, &specs]).output().expect("node");
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}
