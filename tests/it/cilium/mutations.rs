//! Documents to compare: good ones, each with every awkward value at every place, and with several at random places.

use serde_json::json;

use super::tree::{Scalar, Tree};

/// Texts that are written with and without quotes: words and numbers of YAML 1.1, addresses, CIDRs, label keys and values.
const TEXTS: &[&str] = &[
    // Words.
    "",
    "~",
    "null",
    "Null",
    "true",
    "True",
    "FALSE",
    "yes",
    "No",
    "on",
    "OFF",
    "y",
    "N",
    "oN",
    "none",
    // Numbers.
    "0",
    "1",
    "-1",
    "+1",
    "007",
    "010",
    "08",
    "0o17",
    "0o9",
    "0x1F",
    "0xb1",
    "0x",
    "0b101",
    "1_000",
    "_1",
    "1.5",
    "1.",
    ".5",
    "1.10",
    "1e3",
    "1e",
    "1e400",
    ".inf",
    "-.Inf",
    ".NaN",
    "+.nan",
    "18446744073709551615",
    "18446744073709551616",
    "1:30",
    "2001-12-14",
    // Addresses.
    "10.0.0.1",
    "010.0.0.1",
    "10.0.0.01",
    "10.0.1",
    "10.0.0.256",
    "10.0.0.1.",
    "0.0.0.0",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "2001:db8::1",
    "2001:DB8::A",
    "2001:db8:0:0:0:0:0:1",
    "2001:db8::00001",
    "2001:db8:::1",
    "1::2::3",
    "fe80::1",
    "fe80::1%eth0",
    "fe80::1%",
    "::ffff:10.0.0.1",
    "::ffff:a00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::10.0.0.01",
    "0000:0000:0000:0000:0000:ffff:192.168.100.200",
    "1:2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7::",
    "::1",
    "ff02::1",
    "10.0.0.1 ",
    " 10.0.0.1",
    // CIDRs.
    "10.0.0.0/8",
    "10.0.0.0/08",
    "10.0.0.0/+8",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/",
    "/8",
    "10.0.0.0/8/8",
    "10.0.0.7/24",
    "10.0.0.1/32",
    "010.0.0.0/8",
    "10.0.0.00/8",
    "10/8",
    "10.0.0.0/255.0.0.0",
    "10.0.0.0/8 ",
    " 10.0.0.0/8",
    "0.0.0.0/0",
    "2001:db8::/32",
    "2001:DB8::/32",
    "2001:db8::1/32",
    "2001:db8::/032",
    "2001:db8::/129",
    "2001:db8::/128",
    "2001:0db8:0000::/48",
    "fe80::%eth0/64",
    "fe80::/10",
    "::ffff:10.0.0.0/104",
    "::ffff:a00:0/104",
    "::ffff:250.251.252.0/120",
    "64:ff9b::10.0.0.0/120",
    "64:ff9b::/96",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "10.0.0.0/8,10.0.0.0/9",
    "example.com",
    // Keys and values of labels, names, interfaces.
    "app",
    "App",
    "a b",
    "-a",
    "a-",
    "a.",
    "a/b",
    "a/b/c",
    "/a",
    "a/",
    "Ex.com/a",
    "ex.com/A_b.c",
    "k8s:app",
    "any:app",
    "reserved:host",
    "io.kubernetes.pod.namespace",
    "k8s:io.kubernetes.pod.namespace",
    "io.cilium.k8s.namespace.labels.team",
    "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
    "io.cilium.k8s.namespace.labels.",
    "io.cilium.k8s.namespace.labels.-a",
    "io.cilium.k8s.policy.cluster",
    "kubernetes.io/metadata.name",
    "ümlaut",
    "a\tb",
    "a\nb",
    "${NAME}",
    "{{ .x }}",
    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk",
    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl",
    "eth0",
    "eth0.100",
    "eth0:1",
    "eth0,eth1",
    "eth*",
    "*",
    ".",
    "..",
    "eth/0",
    "sixteen-bytes-xx",
    "net1@if2",
    "In",
    "NotIn",
    "Exists",
    "DoesNotExist",
    "in",
    "Gt",
    "cilium.io/v2",
    "cilium.io/v2alpha1",
    "CiliumEgressGatewayPolicy",
];

/// Whether a text may stand without quotes where the trees write it, as the same text.
fn may_be_plain(text: &str) -> bool {
    let begins = text.starts_with(|first: char| "!&*{}[]|>@`\"'%#, ".contains(first));
    let is_indicator = |text: &str| ["-", "?", ":"].contains(&text) || text.starts_with("- ") || text.starts_with("? ");
    !begins
        && !is_indicator(text)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.contains(['\t', '\n'])
}

/// All awkward scalars.
fn scalars() -> Vec<Scalar> {
    let bare = TEXTS.iter().filter(|text| may_be_plain(text)).map(|text| Scalar::Plain((*text).to_owned()));
    TEXTS.iter().map(|text| Scalar::Quoted((*text).to_owned())).chain(bare).collect()
}

/// The first of the scalars, which are words.
const WORDS: usize = 8;

/// Scalars in place of a key: no addresses.
fn keys() -> Vec<Scalar> {
    let is_address = |text: &str| text.starts_with("10.") || text.split(':').count() > 2 || text.contains("::");
    scalars().into_iter().filter(|scalar| !is_address(scalar.text())).collect()
}

/// Values of other kinds.
fn collections() -> Vec<Tree> {
    let expression = |key: &str, operator: &str, values: serde_json::Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    [
        json!([]),
        json!({}),
        json!([null]),
        json!([[]]),
        json!([{}]),
        json!(["10.0.0.0/8"]),
        json!({"a": "b"}),
        json!({"a": null}),
        json!({"matchLabels": null}),
        json!({"matchLabels": {}}),
        json!({"matchLabels": {"a": null}}),
        json!({"matchLabels": {"a": ""}}),
        json!({"matchExpressions": []}),
        json!({"matchExpressions": null}),
        json!({"matchExpressions": [{}]}),
        expression("a", "In", json!([])),
        expression("a", "NotIn", json!(null)),
        expression("a", "In", json!(["b", "c", "b"])),
        expression("a", "Exists", json!(["b"])),
        expression("a", "Exists", json!([])),
        expression("a", "DoesNotExist", json!(null)),
        expression("a", "In", json!(["a b"])),
        expression("a", "In", json!([""])),
        expression("", "Exists", json!([])),
        expression("k8s:a", "NotIn", json!(["b"])),
        json!([{"podSelector": {}}]),
        json!([{"namespaceSelector": {}}]),
        json!([{"nodeSelector": {}}]),
        json!([{"podSelector": null, "namespaceSelector": {}}]),
        json!([{"nodeSelector": {}, "interface": "eth1"}]),
        json!({"nodeSelector": {}, "interface": "", "egressIP": ""}),
        json!({"nodeSelector": {}, "interface": "eth0", "egressIP": "10.0.0.1"}),
        json!({"nodeSelector": {}, "interface": "eth0", "egressIP": ""}),
        json!({"nodeSelector": null}),
    ]
    .iter()
    .map(Tree::of)
    .collect()
}

/// Good documents that have every field between them.
pub(crate) fn seeds() -> Vec<Tree> {
    let document = |spec: serde_json::Value| {
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy",
            "metadata": {"name": "outpost", "labels": {"team": "a"}, "annotations": {"example.com/note": "x"}}, "spec": spec})
    };
    let seeds = [
        document(json!({
            "selectors": [{"podSelector": {"matchLabels": {"app": "web", "io.kubernetes.pod.namespace": "shop"}}}],
            "destinationCIDRs": ["192.0.2.0/24"],
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress": "yes"}}, "interface": "eth1"},
        })),
        document(json!({
            "selectors": [
                {"namespaceSelector": {"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "env", "operator": "In", "values": ["prod", "test"]}]}},
                {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}, "namespaceSelector": {}},
            ],
            "destinationCIDRs": ["192.0.2.0/24", "2001:db8::/32"],
            "excludedCIDRs": ["192.0.2.128/25"],
            "egressGateway": {"nodeSelector": {}, "egressIP": "198.51.100.7"},
        })),
        document(json!({
            "selectors": [{"podSelector": {}, "nodeSelector": {"matchLabels": {"zone": "a"}}}, {"podSelector": {"matchLabels": {"app": "db"}}}],
            "destinationCIDRs": ["0.0.0.0/0"],
            "egressGateway": {"nodeSelector": {}},
            "egressGateways": [
                {"nodeSelector": {"matchLabels": {"gw": "1"}}, "egressIP": "198.51.100.8"},
                {"nodeSelector": {"matchExpressions": [{"key": "gw", "operator": "NotIn", "values": ["1"]}]}, "interface": "eth0"},
            ],
        })),
    ];
    seeds.iter().map(Tree::of).collect()
}

/// A generator of numbers (xorshift64), so that a run is the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).expect("a small number")).expect("a small number")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Each value at each place of each seed, and each key in place of each other. The heads of all seeds are alike.
pub(crate) fn exhaustive() -> Vec<Tree> {
    let scalars: Vec<Tree> = scalars().into_iter().map(Tree::Scalar).collect();
    let (words, collections) = (&scalars[..WORDS], collections());
    let mut all = seeds();
    for (index, seed) in seeds().into_iter().enumerate() {
        let of_spec = |path: &Vec<usize>| seed.keys(path).first().is_some_and(|key| key == "spec");
        for path in seed.paths().into_iter().filter(|path| index == 0 || of_spec(path)) {
            let is_scalar = matches!(seed.clone().at(&path), Tree::Scalar(_));
            let values = if is_scalar { &scalars[..] } else { words };
            all.extend(values.iter().chain(&collections).map(|value| {
                let mut mutant = seed.clone();
                *mutant.at(&path) = value.clone();
                mutant
            }));
            all.extend(of_entries(&seed, &path));
        }
    }
    all
}

/// A node with an entry that is missing, twice there, or has another key; and with entries that are new.
fn of_entries(seed: &Tree, path: &[usize]) -> Vec<Tree> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Tree)| {
        let mut mutant = seed.clone();
        change(mutant.at(path));
        all.push(mutant);
    };
    match seed.clone().at(path) {
        Tree::Scalar(_) => {}
        Tree::List(items) => {
            for index in 0..items.len() {
                with(&|node| list(node, |items| drop(items.remove(index))));
                with(&|node| list(node, |items| items.push(items[index].clone())));
            }
        }
        Tree::Map(entries) => {
            for index in 0..entries.len() {
                with(&|node| map(node, |entries| drop(entries.remove(index))));
                with(&|node| map(node, |entries| entries.push(entries[index].clone())));
                for key in keys() {
                    with(&|node| map(node, |entries| entries[index].0 = key.clone()));
                }
            }
            for (key, value) in NEW {
                let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
                with(&|node| map(node, |entries| entries.push((Scalar::Plain((*key).to_owned()), Tree::of(&value)))));
            }
        }
    }
    all
}

/// Fields that a mapping may or may not have.
const NEW: &[(&str, &str)] = &[
    ("namespace", "\"shop\""),
    ("status", "{}"),
    ("spare", "1"),
    ("interface", "\"eth9\""),
    ("egressIP", "\"203.0.113.9\""),
    ("egressIP", "\"2001:db8::9\""),
    ("nodeSelector", "{\"matchLabels\": {\"rack\": \"1\"}}"),
    ("podSelector", "{}"),
    ("namespaceSelector", "{}"),
    ("excludedCIDRs", "null"),
    ("egressGateways", "[]"),
    ("egressGateways", "[{\"nodeSelector\": {}, \"egressIP\": \"203.0.113.9\"}]"),
    ("priority", "5"),
    ("values", "[\"v\"]"),
    ("matchExpressions", "[{\"key\": \"tier\", \"operator\": \"DoesNotExist\"}]"),
    ("egret.dev/priority", "\"5\""),
    ("egret.dev/colour", "\"red\""),
];

fn list(node: &mut Tree, change: impl FnOnce(&mut Vec<Tree>)) {
    if let Tree::List(items) = node {
        change(items);
    }
}

fn map(node: &mut Tree, change: impl FnOnce(&mut Vec<(Scalar, Tree)>)) {
    if let Tree::Map(entries) = node {
        change(entries);
    }
}

/// Seeds with two or three changes at random places.
pub(crate) fn random(random: &mut Random, count: usize) -> Vec<Tree> {
    let (scalars, collections, seeds) = (scalars(), collections(), seeds());
    (0..count).map(|_| mutant(random, &seeds, &scalars, &collections)).collect()
}

fn mutant(random: &mut Random, seeds: &[Tree], scalars: &[Scalar], collections: &[Tree]) -> Tree {
    let mut tree = random.pick(seeds).clone();
    for _ in 0..2 + random.below(2) {
        let paths = tree.paths();
        let path = random.pick(&paths).clone();
        let node = tree.at(&path);
        let (value, other, choice) = (random.pick(scalars).clone(), random.pick(collections).clone(), random.below(6));
        let (key, new) = random.pick(NEW);
        match (choice, &mut *node) {
            (0, Tree::Map(entries)) if !entries.is_empty() => drop(entries.remove(random.below(entries.len()))),
            (1, Tree::Map(entries)) if !entries.is_empty() => {
                let index = random.below(entries.len());
                entries[index].0 = value;
            }
            (1 | 2, Tree::Map(entries)) => {
                let new: serde_json::Value = serde_json::from_str(new).expect("JSON");
                entries.push((Scalar::Plain((*key).to_owned()), Tree::of(&new)));
            }
            (0, Tree::List(items)) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
            (1, Tree::List(items)) => items.push(Tree::Scalar(value)),
            (2, Tree::List(items)) => items.push(other),
            (3, Tree::Map(_) | Tree::List(_)) => *node = other,
            (_, Tree::Scalar(_)) => *node = Tree::Scalar(value),
            _ => {}
        }
    }
    tree
}

/// A document whose list has one entry more than fits.
pub(crate) fn with_gateways(count: usize) -> Tree {
    let mut tree = seeds()[0].clone();
    let gateway = json!({"nodeSelector": {}, "interface": "eth0"});
    let gateways = Tree::of(&json!(vec![gateway; count]));
    let path = [3];
    map(tree.at(&path), |entries| entries.push((Scalar::Plain("egressGateways".to_owned()), gateways)));
    tree
}
