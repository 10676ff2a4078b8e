//! Facts from manifests as people have them: dumps of kubectl's, files written by hand, broken and half-written ones.
//!
//! Deliberately absent: writing labels back (`labelled`).

mod labelled;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use egret::cluster::{Cluster, ClusterError, WatchPath};
use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::labels::Labels;
use egret::core::name::NodeName;

const KUBECTL: &str = include_str!("manifests/kubectl.yaml");

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).expect(name)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn pod_name(name: &str) -> PodName {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    PodName { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn pod(node: &str, pairs: &[(&str, &str)], addresses: &[&str]) -> Pod {
    let addresses = addresses.iter().map(|text| address(text)).collect();
    Pod { labels: labels(pairs), node: Some(node_name(node)), addresses, ..Pod::default() }
}

/// What `kubectl.yaml` says.
fn kubectl_facts() -> Facts {
    let worker = Node {
        labels: labels(&[
            ("beta.kubernetes.io/arch", "amd64"),
            ("kubernetes.io/hostname", "kind-worker"),
            ("kubernetes.io/os", "linux"),
        ]),
        addresses: vec![address("172.18.0.3"), address("fc00:f853:ccd:e793::3")],
        pod_cidrs: vec!["10.1.1.0/24".parse().expect("a prefix"), "fd00:10:1:1::/64".parse().expect("a prefix")],
        ready: true,
        unschedulable: false,
    };
    let worker2 = Node {
        labels: labels(&[("kubernetes.io/hostname", "kind-worker2")]),
        addresses: vec![address("172.18.0.4")],
        pod_cidrs: vec!["10.1.2.0/24".parse().expect("a prefix")],
        ready: false,
        unschedulable: true,
    };
    let empire = [("class", "tiefighter"), ("org", "empire")];
    Facts {
        nodes: [(node_name("kind-worker"), worker), (node_name("kind-worker2"), worker2)].into(),
        namespaces: [("batuu".to_owned(), labels(&[("kubernetes.io/metadata.name", "batuu")]))].into(),
        pods: [
            (pod_name("batuu/tiefighter"), pod("kind-worker", &empire, &["10.1.1.177", "fd00:10:1:1::b1"])),
            (
                pod_name("batuu/xwing"),
                Pod { terminating: true, ..pod("kind-worker", &[("org", "alliance")], &["10.1.1.234"]) },
            ),
            (pod_name("batuu/migration-x7z2p"), Pod { finished: true, ..pod("kind-worker2", &[], &["10.1.2.9"]) }),
            (
                pod_name("kube-system/kube-proxy-4hzxc"),
                Pod { host_network: true, ..pod("kind-worker", &[("k8s-app", "kube-proxy")], &["172.18.0.3"]) },
            ),
            (pod_name("batuu/waiting"), Pod { labels: labels(&[("org", "empire")]), ..Pod::default() }),
        ]
        .into(),
        ..Facts::default()
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("written");
    }
    folder
}

fn open(path: &Path) -> Cluster {
    Cluster::open(path).expect("opened")
}

/// The faults without the folder's name.
fn faults(cluster: &Cluster, folder: &Path) -> Vec<String> {
    let prefix = format!("{}/", folder.display());
    cluster.faults().iter().map(|fault| fault.to_string().replace(&prefix, "")).collect()
}

/// Makes a file as old as one that nobody is writing.
fn age(path: &Path) {
    let file = fs::File::options().append(true).open(path).expect("opened");
    file.set_modified(SystemTime::now() - Duration::from_mins(1)).expect("aged");
}

fn json(text: &str) -> serde_json::Value {
    serde_yaml::from_str(text).expect("YAML")
}

#[test]
fn a_dump_of_kubectl_is_read_in_every_form_it_can_have() {
    let list = json(KUBECTL);
    let items = list["items"].as_array().expect("items");
    let documents: Vec<String> = items.iter().map(|item| serde_yaml::to_string(item).expect("YAML")).collect();
    let single: Vec<(String, String)> =
        items.iter().enumerate().map(|(number, item)| (format!("deep/er/{number}.json"), item.to_string())).collect();
    let single: Vec<(&str, &str)> = single.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    for (form, folder) in [
        ("a list", folder(&[("all.yaml", KUBECTL)])),
        ("CRLF", folder(&[("all.yaml", &KUBECTL.replace('\n', "\r\n"))])),
        ("pretty JSON", folder(&[("all.json", &serde_json::to_string_pretty(&list).expect("JSON"))])),
        ("compact JSON in a .yml", folder(&[("all.yml", &list.to_string())])),
        ("documents", folder(&[("all.yaml", &format!("# all\n---\n{}", documents.join("---\n")))])),
        ("a file each", folder(&single)),
    ] {
        let cluster = open(folder.path());
        assert_eq!(faults(&cluster, folder.path()), Vec::<String>::new(), "{form}");
        assert_eq!(cluster.facts(), &kubectl_facts(), "{form}");
    }
    let file = folder(&[("all.yaml", KUBECTL)]);
    let cluster = open(&file.path().join("all.yaml"));
    assert_eq!(cluster.facts(), &kubectl_facts());
    assert_eq!(cluster.watch_paths(), [WatchPath { path: file.path().to_owned(), recursive: false }]);
    assert_eq!(open(file.path()).watch_paths(), [WatchPath { path: file.path().to_owned(), recursive: true }]);
}

#[test]
fn what_hands_write_is_read_and_what_is_none_of_ours_is_passed_over() {
    let folder = folder(&[
        (
            "nodes.yaml",
            "kind: Node\nmetadata: {name: a}\nspec:\nstatus:\n  addresses: [{type: InternalIP, address: 10.0.0.1}]\n",
        ),
        (
            "raw.json",
            r#"{"kind":"PodList","items":[{"metadata":{"name":"p","namespace":"n","labels":{"a":null}},"status":{"podIPs":[]}}]}"#,
        ),
        ("here.yaml", "kind: Pod\nmetadata: {name: p}\nstatus: {podIP: 10.1.0.1}\n"),
        (
            "other.yaml",
            "kind: Gateway\nmetadata: {name: [odd]}\nspec: text\nstatus: {addresses: [10.0.0.1]}\n---\nkind: ConfigMapList\nitems: 3\n",
        ),
        ("notes.txt", "no: [manifest"),
        (".hidden.yaml", "no: [manifest"),
        (".git/x.yaml", "no: [manifest"),
    ]);
    symlink(folder.path(), folder.path().join("loop")).expect("linked");
    let cluster = open(folder.path());
    assert_eq!(faults(&cluster, folder.path()), Vec::<String>::new());
    let node = Node { addresses: vec![address("10.0.0.1")], ready: true, ..Node::default() };
    assert_eq!(cluster.facts().nodes, [(node_name("a"), node)].into());
    let here = Pod { addresses: vec![address("10.1.0.1")], ..Pod::default() };
    let raw = Pod { labels: labels(&[("a", "")]), ..Pod::default() };
    assert_eq!(cluster.facts().pods, [(pod_name("default/p"), here), (pod_name("n/p"), raw)].into());
}

#[test]
fn what_is_broken_keeps_its_last_good_facts_and_nothing_else_does() {
    let pods = |xwing: &str, tie: &str| {
        let pod = |name: &str, ip: &str| format!("kind: Pod\nmetadata: {{name: {name}}}\nstatus:\n  podIP: {ip}\n");
        format!("{}---\n{}", pod("xwing", xwing), pod("tie", tie))
    };
    let folder =
        folder(&[("a.yaml", &pods("10.0.0.1", "10.0.0.2")), ("b.yaml", "kind: Namespace\nmetadata: {name: n}\n")]);
    let [a, b] = ["a.yaml", "b.yaml"].map(|name| folder.path().join(name));
    let mut cluster = open(folder.path());
    let mut look = |what: &str| {
        let refresh = cluster.refresh().expect(what);
        let pods =
            cluster.facts().pods.iter().map(|(name, pod)| format!("{} {}", name.name, pod.addresses[0])).collect();
        (refresh.changed, pods, cluster.facts().namespaces.len(), faults(&cluster, folder.path()))
    };
    let texts = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };

    fs::write(&a, pods("10.0.0.3", "10.0.0.256")).expect("written");
    assert_eq!(
        look("a bad address"),
        (
            true,
            texts(&["tie 10.0.0.2", "xwing 10.0.0.3"]),
            1,
            texts(&[
                "a.yaml:9:10: error: pod default/tie: the pod's address `10.0.0.256` cannot be used: invalid IP address syntax"
            ])
        )
    );

    fs::write(&a, "kind: Pod\nmetadata: {name: xwing\nstatus: {}\n").expect("written");
    age(&a);
    fs::write(&b, "kind: Namespace\nmetadata: {name: n}\n---\nkind: Namespace\nmetadata: {name: m}\n")
        .expect("written");
    let (changed, pods_now, namespaces, faults_now) = look("not YAML");
    assert_eq!((changed, pods_now, namespaces), (true, texts(&["tie 10.0.0.2", "xwing 10.0.0.3"]), 2));
    assert_eq!(faults_now.len(), 1, "{faults_now:?}");
    assert!(faults_now[0].starts_with("a.yaml:3:"), "{faults_now:?}");

    fs::write(&a, pods("10.0.0.1", "10.0.0.4")).expect("written");
    assert_eq!(look("good again"), (true, texts(&["tie 10.0.0.4", "xwing 10.0.0.1"]), 2, vec![]));
    assert_eq!(look("nothing new"), (false, texts(&["tie 10.0.0.4", "xwing 10.0.0.1"]), 2, vec![]));

    fs::remove_file(&a).expect("removed");
    assert_eq!(look("gone"), (true, vec![], 2, vec![]));
    fs::remove_dir_all(folder.path()).expect("removed");
    assert!(matches!(cluster.refresh(), Err(ClusterError::List { .. })));
    assert_eq!(cluster.facts().namespaces.len(), 2);
}

#[test]
fn faults_say_file_line_and_column() {
    for (text, expected) in [
        ("kind: Node\nmetadata:\n  name: Bad_Name\n", "3:9: error: `Bad_Name` is no node: a name has"),
        (
            "kind: Node\nmetadata: {name: a}\nspec:\n  podCIDRs:\n  - 10.0.0.0/33\n",
            "5:5: error: node a: the pod CIDR `10.0.0.0/33` cannot",
        ),
        ("kind: Pod\nmetadata:\n  labels: [x]\n", "3:11: error: "),
        ("kind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: perhaps}\n", "3:21: error: "),
        ("kind: Pod\nmetadata: {labels: {}}\n", "1:1: error: a Pod has no metadata.name"),
        ("apiVersion: v1\nitems:\n- kind: Pod\n  metadata: {name: p}\n", "1:1: error: the document has no kind"),
        ("kind: Pod\nkind: Pod\n", "2:1: error: "),
        ("", "1:1: error: the file has no document"),
    ] {
        let folder = folder(&[("f.yaml", text)]);
        let cluster = open(folder.path());
        let found = faults(&cluster, folder.path());
        assert!(found.len() == 1 && found[0].starts_with(&format!("f.yaml:{expected}")), "{text}: {found:?}");
        assert!(!found[0].contains(" line "), "the place is told once: {found:?}");
    }
    let folder = folder(&[("f.yaml", "")]);
    fs::write(folder.path().join("f.yaml"), b"kind: Pod\nx: \xff\n").expect("written");
    symlink("nowhere.yaml", folder.path().join("g.yaml")).expect("linked");
    assert_eq!(
        faults(&open(folder.path()), folder.path()),
        [
            "f.yaml:2:4: error: this byte is not UTF-8",
            "g.yaml:1:1: error: it cannot be read: No such file or directory (os error 2)"
        ]
    );
}

#[test]
fn of_two_with_one_name_the_later_file_counts_and_it_is_reported() {
    let pod = |ip: &str| format!("kind: Pod\nmetadata:\n  name: p\nstatus: {{podIP: {ip}}}\n");
    let folder =
        folder(&[("a.yaml", &format!("{}---\n{}", pod("10.0.0.1"), pod("10.0.0.2"))), ("b.yaml", &pod("10.0.0.3"))]);
    let cluster = open(folder.path());
    assert_eq!(cluster.facts().pods[&pod_name("default/p")].addresses, [address("10.0.0.3")]);
    assert_eq!(
        faults(&cluster, folder.path()),
        [
            "a.yaml:8:9: warning: pod default/p is in this file already, in line 3; this one counts",
            "b.yaml:3:9: warning: pod default/p is in a.yaml already; this one counts"
        ]
    );
}

#[test]
fn a_file_cut_off_anywhere_makes_no_pod_vanish() {
    let items = json(KUBECTL);
    let documents: Vec<String> = items["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| serde_yaml::to_string(item).expect("YAML"))
        .collect();
    for whole in [KUBECTL.to_owned(), documents.join("---\n"), items.to_string()] {
        let folder = folder(&[("all.yaml", &whole)]);
        let file = folder.path().join("all.yaml");
        let mut cluster = open(folder.path());
        let lines = whole.match_indices('\n').map(|(newline, _)| newline + 1);
        for cut in lines.chain((0..whole.len()).step_by(97)).filter(|cut| *cut < whole.len()) {
            fs::write(&file, &whole[..cut]).expect("written");
            // However slow this machine is, the file is not one that has been still for long.
            let half = fs::File::options().append(true).open(&file).expect("opened");
            half.set_modified(SystemTime::now() + Duration::from_mins(1)).expect("dated");
            cluster.refresh().expect("refreshed");
            assert_eq!(cluster.facts(), &kubectl_facts(), "cut at byte {cut}");
            assert_eq!(cluster.faults(), [], "cut at byte {cut}: half of a file is no fault");
        }
        // What is lost in a file that is still is gone: here all but the first document.
        if whole.starts_with("apiVersion") && whole != KUBECTL {
            fs::write(&file, &documents[0]).expect("written");
            age(&file);
            assert!(cluster.refresh().expect("refreshed").changed);
            assert_eq!((cluster.facts().nodes.len(), cluster.facts().pods.len()), (1, 0));
        }
    }
}

#[test]
fn each_change_of_a_file_is_seen_however_it_is_made() {
    let text = |ip: u8| format!("kind: Pod\nmetadata: {{name: p}}\nstatus: {{podIP: 10.0.0.{ip}}}\n");
    let folder = folder(&[("p.yaml", &text(0))]);
    let file = folder.path().join("p.yaml");
    let mut cluster = open(folder.path());
    let address = |cluster: &Cluster| cluster.facts().pods[&pod_name("default/p")].addresses[0].to_string();
    for ip in 1..=9 {
        // Alike in size, and often in the same tick of the file system's clock.
        if ip % 2 == 0 {
            fs::write(&file, text(ip)).expect("written");
        } else {
            fs::write(folder.path().join("p.new"), text(ip)).expect("written");
            fs::rename(folder.path().join("p.new"), &file).expect("renamed");
        }
        assert!(cluster.refresh().expect("refreshed").changed);
        assert_eq!(address(&cluster), format!("10.0.0.{ip}"));
        age(&file);
        assert!(!cluster.refresh().expect("refreshed").changed);
    }
}

#[test]
fn a_dump_of_five_thousand_pods_is_within_the_limits() {
    let container = |number: u32| {
        format!(
            "    - env: [{{name: A, value: b}}, {{name: C, value: d}}]\n      image: docker.io/library/nginx\n      name: c{number}\n"
        )
    };
    let containers = (0..8).map(container).collect::<Vec<_>>().concat();
    let pod = |number: u32| {
        let ip = std::net::Ipv4Addr::from_bits(0x0a01_0000 + number);
        let metadata = format!("  metadata:\n    labels: {{org: empire}}\n    name: p{number}\n    namespace: n\n");
        format!("- kind: Pod\n{metadata}  spec:\n    containers:\n{containers}  status:\n    podIPs:\n    - ip: {ip}\n")
    };
    let mut dump = "apiVersion: v1\nitems:\n".to_owned();
    dump.extend((0..5_000).map(pod));
    dump.push_str("kind: List\n");
    let folder = folder(&[("all.yaml", &dump)]);
    let cluster = open(folder.path());
    assert_eq!((faults(&cluster, folder.path()), cluster.facts().pods.len()), (vec![], 5_000));
}

#[test]
fn pools_of_cnis_and_what_is_published_of_them_are_networks_of_pods() {
    let pools = "apiVersion: v1
kind: List
items:
- {apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {name: default-ipv4}, spec: {cidr: 10.48.0.0/16, natOutgoing: true}}
- {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: on-premises}, spec: {cidr: 10.88.4.0/24, disabled: true}}
- {apiVersion: whereabouts.cni.cncf.io/v1alpha1, kind: IPPool, metadata: {name: net1}, spec: {range: 10.9.0.0/24, allocations: {}}}
- {apiVersion: cilium.io/v2, kind: CiliumNode, metadata: {name: kind-worker}, spec: {ipam: {podCIDRs: [10.21.0.0/24]}}}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumPodIPPool
metadata: {name: green}
spec: {ipv4: {cidrs: [10.20.0.0/16], maskSize: 24}, ipv6: {cidrs: [\"fd20::/104\"], maskSize: 120}}
";
    let published = "{kind: EgressConfig, metadata: {name: default}, spec: {podNetworks: [10.49.0.0/16, 10.48.0.0/16], fence: 3}}\n";
    let folder = folder(&[("pools.yaml", pools), ("snapshot.yaml", published)]);
    let mut cluster = open(folder.path());
    let shown = |cluster: &Cluster| cluster.facts().pod_networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(faults(&cluster, folder.path()), [""; 0]);
    assert_eq!(shown(&cluster), ["10.20.0.0/16", "10.21.0.0/24", "10.48.0.0/15", "fd20::/104"]);

    let path = folder.path().join("pools.yaml");
    fs::write(&path, pools.replace("10.48.0.0/16", "10.48.0.0")).expect("written");
    age(&path);
    cluster.refresh().expect("looked");
    assert_eq!(
        shown(&cluster),
        ["10.20.0.0/16", "10.21.0.0/24", "10.48.0.0/15", "fd20::/104"],
        "as it was when it was good"
    );
    let found = faults(&cluster, folder.path());
    assert!(
        found.len() == 1 && found[0].contains("ippool default-ipv4: the pod network `10.48.0.0` cannot be used"),
        "{found:?}"
    );
}
