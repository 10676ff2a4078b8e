//! Labels written into manifests that others write and read at the same time.
//!
//! Deliberately absent: the edit's cases, byte by byte (`src/cluster/edit/tests.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use egret::cluster::{ClusterError, LabelChanges, edit_labels};
use egret::core::labels::Labels;
use egret::core::name::NodeName;
use proptest::prelude::*;

use super::{KUBECTL, folder, labels, node_name, open};

fn set(pairs: &[(&str, &str)]) -> LabelChanges {
    LabelChanges { set: labels(pairs), remove: BTreeSet::new() }
}

#[test]
fn a_node_labels_its_own_manifest_and_nothing_else_in_the_file() {
    let folder = folder(&[("all.yaml", KUBECTL)]);
    let file = folder.path().join("all.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode");
    std::os::unix::fs::chown(&file, Some(1234), Some(5678)).expect("owner");
    let mut cluster = open(folder.path());
    let node = node_name("kind-worker2");
    assert!(cluster.label(&node, &set(&[("egress-gw", "true")])).expect("labelled"));
    let expected = KUBECTL.replace(
        "      kubernetes.io/hostname: kind-worker2\n",
        "      egress-gw: \"true\"\n      kubernetes.io/hostname: kind-worker2\n",
    );
    assert_eq!(fs::read_to_string(&file).expect("read"), expected);
    let metadata = fs::metadata(&file).expect("there");
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o640, 1234, 5678));
    assert_eq!(cluster.facts().nodes[&node].labels["egress-gw"], "true");
    assert!(!cluster.refresh().expect("refreshed").changed, "what was written is known");

    let inode = metadata.ino();
    assert!(!cluster.label(&node, &set(&[("egress-gw", "true")])).expect("as it is"));
    assert_eq!(fs::metadata(&file).expect("there").ino(), inode, "nothing to do, and yet written");
    let remove = LabelChanges { remove: ["egress-gw".to_owned()].into(), ..LabelChanges::default() };
    assert!(cluster.label(&node, &remove).expect("removed"));
    assert_eq!(fs::read_to_string(&file).expect("read"), KUBECTL);
    let left: BTreeSet<_> =
        fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(left, [".egret.lock".into(), "all.yaml".into()].into());

    let unknown = cluster.label(&node_name("nobody"), &remove).expect_err("no such node").to_string();
    assert_eq!(unknown, format!("labelling node nobody: there is no manifest of it in {}", folder.path().display()));
}

#[test]
fn nodes_that_label_one_file_at_once_lose_no_edit() {
    const NODES: usize = 6;
    const EDITS: usize = 10;
    let manifests: Vec<String> = (0..NODES).map(|node| format!("kind: Node\nmetadata:\n  name: n{node}\n")).collect();
    let folder = folder(&[("nodes.yaml", &manifests.join("---\n"))]);
    // As one killed in the middle leaves it.
    fs::write(folder.path().join(".egret-nodes.yaml.tmp"), "half a fi").expect("written");
    std::thread::scope(|scope| {
        for node in 0..NODES {
            let path = folder.path();
            scope.spawn(move || {
                let mut cluster = open(path);
                for edit in 0..EDITS {
                    let changes = set(&[("last", &edit.to_string()), (&format!("edit-{edit}"), "done")]);
                    assert!(cluster.label(&node_name(&format!("n{node}")), &changes).expect("labelled"));
                }
            });
        }
    });
    let expected: Labels = (0..EDITS).map(|edit| (format!("edit-{edit}"), "done".to_owned())).collect();
    for (name, node) in &open(folder.path()).facts().nodes {
        let mut labels = node.labels.clone();
        assert_eq!(labels.remove("last"), Some((EDITS - 1).to_string()), "{name}");
        assert_eq!(labels, expected, "{name}");
    }
    assert!(!folder.path().join(".egret-nodes.yaml.tmp").exists());
}

#[test]
fn links_within_the_folder_are_followed_and_others_not_written_to() {
    let manifest = |name: &str| format!("kind: Node\nmetadata: {{name: {name}}}\n");
    let outside = folder(&[("b.yaml", &manifest("b"))]);
    let folder = folder(&[("..2026_11_22/a.yaml", &manifest("a"))]);
    symlink("..2026_11_22", folder.path().join("..data")).expect("linked");
    symlink("..data/a.yaml", folder.path().join("a.yaml")).expect("linked");
    symlink(outside.path().join("b.yaml"), folder.path().join("b.yaml")).expect("linked");
    let mut cluster = open(folder.path());
    assert_eq!(cluster.facts().nodes.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert!(cluster.label(&node_name("a"), &set(&[("k", "v")])).expect("labelled"));
    assert!(folder.path().join("a.yaml").is_symlink());
    let written = fs::read_to_string(folder.path().join("..2026_11_22/a.yaml")).expect("read");
    assert_eq!(written, "kind: Node\nmetadata: {name: a, labels: {k: v}}\n");
    let refused = cluster.label(&node_name("b"), &set(&[("k", "v")]));
    assert!(matches!(refused, Err(ClusterError::Outside { .. })), "{refused:?}");
    assert_eq!(fs::read_to_string(outside.path().join("b.yaml")).expect("read"), manifest("b"));
}

/// How a random manifest of the node `a` is written.
fn manifest(labels: &BTreeMap<String, String>, form: u8) -> (String, String, String) {
    let quoted = |text: &str| format!("\"{text}\"");
    let pairs = |between: &str| {
        labels.iter().map(|(k, v)| format!("{}: {}", quoted(k), quoted(v))).collect::<Vec<_>>().join(between)
    };
    let lines = labels.iter().map(|(k, v)| format!("    # of {k}\n    {k}: '{v}' # it\n")).collect::<Vec<_>>().concat();
    let (before, middle, after) = match form % 3 {
        0 if labels.is_empty() => ("# a\nkind: Node\nmetadata:\n  labels:".to_owned(), String::new(), "\n  name: a\n"),
        0 => ("# a\nkind: Node\nmetadata:\n  labels:".to_owned(), format!("\n{lines}"), "  name: a\n# end\n"),
        1 => ("kind: Node\nmetadata: {name: a, labels: ".to_owned(), format!("{{{}}}", pairs(", ")), ", uid: u}\n"),
        _ => (
            "{\n \"kind\": \"Node\",\n \"metadata\": {\"labels\": ".to_owned(),
            format!("{{{}}}", pairs(",\n  ")),
            ", \"name\": \"a\"}\n}\n",
        ),
    };
    let pod = "kind: Pod # another\nmetadata: { name: 'a' }\n---\n";
    let line_ends = |text: String| if form >= 3 { text.replace('\n', "\r\n") } else { text };
    (line_ends(format!("{pod}{before}")), line_ends(middle), line_ends(after.to_owned()))
}

fn random_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = proptest::string::string_regex("([a-c]{1,2}\\.d/)?[a-d1]").expect("a regex");
    let value =
        proptest::string::string_regex("(true|no|null|[0-9]{1,2}|[a-z]([a-z_.-]{0,4}[a-z0-9])?)?").expect("a regex");
    proptest::collection::btree_map(key, value, 0..6)
}

proptest! {
    #[test]
    fn an_edit_changes_the_labels_and_only_the_labels(
        had in random_labels(), set in random_labels(), remove in random_labels(), form in 0_u8..6
    ) {
        let remove: BTreeSet<String> = remove.into_keys().collect();
        let (before, middle, after) = manifest(&had, form);
        let text = format!("{before}{middle}{after}");
        let name = node_name("a");
        let edited = edit_labels(&text, &name, &set, &remove).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        prop_assert!(edited.starts_with(&before) && edited.ends_with(&after), "{}", edited);
        prop_assert_eq!(edited.matches("\r\n").count() == 0, form < 3, "{}", edited);
        prop_assert!(form < 3 || !edited.replace("\r\n", "").contains('\n'), "{}", edited);

        let mut wanted = had;
        wanted.retain(|key, _| !remove.contains(key));
        wanted.extend(set.clone());
        let folder = folder(&[("a.yaml", &edited)]);
        let cluster = open(folder.path());
        prop_assert_eq!(&cluster.facts().nodes[&name].labels, &wanted, "{}", edited);
        for key in wanted.keys().filter(|key| form % 3 == 0 && !set.contains_key(*key)) {
            let comment = format!("# of {key}");
            prop_assert!(edited.contains(&comment), "{}", edited);
        }
        prop_assert_eq!(edit_labels(&edited, &name, &set, &remove), Ok(edited.clone()));
    }
}
