//! Repositories as people have them: what is none of Egret's is passed over without a word, what has to be rendered is told so once, and
//! nothing leaves force because a file or a setting is not what it was meant to be.
//!
//! Deliberately absent: commits that wait (`git::admission`), and mistakes inside of documents (`policy`).

use std::collections::BTreeMap;

use egret::core::diagnostic::Severity;
use egret::core::policy::catalogue::{Catalogue, FileRefusal, FileUpdate};

/// Texts as repositories have them beside policies. None is a document of Egret's.
const FOREIGN: [(&str, &str); 17] = [
    (
        "flux.yaml",
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps}\nspec: {path: ./apps, postBuild: {substitute: {ip: \"${IP}\"}}}\n",
    ),
    (
        "argo.yaml",
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: egret}\nspec: {source: {helm: {values: \"{{ x }}\"}}}\n",
    ),
    (
        "chart/templates/deployment.yaml",
        "{{- if .Values.enabled }}\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ include \"a.b\" . }}\n{{- end }}\n",
    ),
    (
        "chart/templates/rbac.yaml",
        "{{- range .Values.x }}\nkind: ClusterRole\napiVersion: rbac.authorization.k8s.io/v1\nrules:\n- apiGroups: [egret.dev, cilium.io]\n  resources: [{{ . }}]\n{{- end }}\n",
    ),
    ("chart/values.yaml", "image: {tag: \"1\"}\nimage: {tag: \"2\"}\n"),
    (
        "kustomization.yaml",
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamePrefix: prod-\nresources: [deployment.yaml]\n",
    ),
    (
        "secret.sops.yaml",
        "apiVersion: v1\nkind: Secret\nstringData: {a: \"ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]\"}\nsops: {mac: \"ENC[AES256_GCM,data:x]\"}\n",
    ),
    ("cfn.yaml", "Resources: {A: {R: !Ref B, S: !Sub \"${AWS::Region}\"}}\n"),
    ("list.yaml", "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: a}}, 1, [x]]\n"),
    ("broken.yaml", "a: [1\nb: \"\n"),
    ("bomb.yaml", "a: &a [x, x]\nb: [*b, *a\n"),
    ("config.yaml", "kind: Config\nclusters: []\n"),
    ("kubeconfig.yaml", "apiVersion: v1\nkind: Config\nclusters: []\n"),
    ("spider.yaml", "apiVersion: egressgateway.spidernet.io/v1beta1\nkind: EgressPolicy\nmetadata: {name: a}\n"),
    ("network.yaml", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nmetadata: {name: b}\n"),
    ("package.json", "{\"scripts\": {\"a\": \"b\"}, }"),
    ("ci.yaml", "on: push\njobs: {a: {if: \"${{ github.ref }}\"}}\n"),
];

fn policy(name: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  - podSelector: {{}}\n  \
         destinationCIDRs: [10.0.0.0/8]\n  egressGateway: {{nodeSelector: {{}}}}\n"
    )
}

fn config(rest: &str) -> String {
    format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{rest}")
}

fn text(text: &str) -> FileUpdate {
    FileUpdate::Text(text.to_owned())
}

fn files<T: AsRef<str>>(list: &[(&str, T)]) -> BTreeMap<String, FileUpdate> {
    list.iter().map(|(path, content)| ((*path).to_owned(), text(content.as_ref()))).collect()
}

fn catalogue(list: BTreeMap<String, FileUpdate>) -> Catalogue {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(list);
    catalogue
}

fn names(catalogue: &Catalogue) -> Vec<String> {
    catalogue.policies().policies.keys().map(ToString::to_string).collect()
}

/// `file:line code` of each finding.
fn found(catalogue: &Catalogue) -> Vec<String> {
    let all = catalogue.diagnostics();
    assert!(all.iter().all(|one| one.severity == Severity::Error), "{all:?}");
    all.iter().map(|one| format!("{}:{} {}", one.file, one.start.line, one.code)).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn what_is_none_of_egrets_is_passed_over_and_counted() {
    let mut all = files(&FOREIGN);
    all.insert("policies/a.yaml".to_owned(), text(&policy("a")));
    for (path, refusal) in [
        ("link", FileRefusal::Symlink),
        ("module", FileRefusal::Submodule),
        ("logo.yaml", FileRefusal::Binary),
        ("dump.json", FileRefusal::TooLarge),
    ] {
        all.insert(path.to_owned(), FileUpdate::Refused(refusal));
    }
    let catalogue = catalogue(all);
    assert_eq!(found(&catalogue), NOTHING);
    assert_eq!(names(&catalogue), ["a"]);
    let expected =
        "1 policy, 0 node labels in 1 file; 21 files are none of Egret's, dump.json too large to be looked into";
    assert_eq!(catalogue.contents().to_string(), expected);
    assert_eq!(catalogue.tally(&[]).documents, 1);
}

#[test]
fn a_policy_is_read_beside_anything_and_leaves_with_its_document() {
    for (path, foreign) in FOREIGN.into_iter().filter(|(path, _)| {
        // JSON has no documents beside each other.
        *path != "package.json"
    }) {
        let own = policy("a");
        for both in [
            format!("{foreign}---\n{own}"),
            format!("{own}---\r\n{foreign}"),
            format!("{foreign}--- \n{own}---\n{foreign}"),
        ] {
            let mut catalogue = catalogue(files(&[("p.yaml", &both)]));
            assert_eq!((names(&catalogue), found(&catalogue)), (vec!["a".to_owned()], Vec::new()), "{both}");
            catalogue.update(files(&[("p.yaml", foreign)]));
            assert_eq!((names(&catalogue), found(&catalogue)), (Vec::new(), Vec::new()), "{path} holds nothing back");
        }
    }
}

#[test]
fn foreign_texts_of_any_shape_say_nothing_and_change_nothing() {
    bolero::check!().with_type::<(u8, Vec<(u16, u8, Vec<u8>)>)>().for_each(|(seed, edits)| {
        // Without its group, the one of another API would be taken for Egret's.
        let seeds = || FOREIGN.iter().filter(|(path, _)| *path != "spider.yaml");
        let (path, seed) = seeds().nth(usize::from(*seed) % seeds().count()).expect("a seed");
        let mut bytes = seed.as_bytes().to_vec();
        for (at, removed, inserted) in edits {
            let at = usize::from(*at) % (bytes.len() + 1);
            let until = (at + usize::from(*removed % 32)).min(bytes.len());
            bytes.splice(at..until, inserted.iter().copied().take(64));
        }
        let mutated = String::from_utf8_lossy(&bytes).into_owned();
        let mut all = files(&[("policies/a.yaml", &policy("a"))]);
        all.insert((*path).to_owned(), text(&mutated));
        let catalogue = catalogue(all);
        assert_eq!((names(&catalogue), found(&catalogue)), (vec!["a".to_owned()], Vec::new()), "{mutated}");
    });
}

#[test]
fn a_file_that_held_a_policy_and_becomes_no_object_keeps_it() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    let encrypted = "apiVersion: ENC[AES256_GCM,data:x]\nkind: ENC[AES256_GCM,data:y]\n";
    let cfn = "Resources: {A: !Ref B}\n";
    let both = format!("{}---\n{cfn}", policy("a"));
    for (before, after, code) in [
        (policy("a"), text(pointer), Some("p/a.yaml:1 no-object")),
        (policy("a"), text("garbage: 1\n"), Some("p/a.yaml:1 no-object")),
        (policy("a"), text(encrypted), Some("p/a.yaml:1 no-object")),
        (policy("a"), text("<<<<<<< HEAD\n"), Some("p/a.yaml:1 no-object")),
        (both.clone(), text(pointer), Some("p/a.yaml:1 no-object")),
        (both.clone(), text(&format!("garbage\n---\n{cfn}")), Some("p/a.yaml:1 no-object")),
        (policy("a"), FileUpdate::Refused(FileRefusal::Symlink), Some("p/a.yaml:0 symlink")),
        (policy("a"), FileUpdate::Refused(FileRefusal::TooLarge), Some("p/a.yaml:0 too-large")),
        (policy("a"), FileUpdate::Refused(FileRefusal::Binary), Some("p/a.yaml:0 not-utf8")),
        // What was taken out is gone.
        (both.clone(), text(cfn), None),
        (policy("a"), text("# nothing\n"), None),
        (policy("a"), text("apiVersion: v1\nkind: ConfigMap\n"), None),
        (policy("a"), FileUpdate::Removed, None),
    ] {
        let mut catalogue = catalogue(files(&[("p/a.yaml", &before)]));
        catalogue.update(BTreeMap::from([("p/a.yaml".to_owned(), after.clone())]));
        let kept = if code.is_some() { vec!["a".to_owned()] } else { Vec::new() };
        let codes: Vec<String> = code.map(str::to_owned).into_iter().collect();
        assert_eq!((names(&catalogue), found(&catalogue)), (kept, codes), "{after:?}");
        assert_eq!(catalogue.held().len(), usize::from(code.is_some()));
        // A restart knows as much.
        let mut again = Catalogue::new("prod");
        again.import_good(&catalogue.export_good());
        again.update(BTreeMap::from([("p/a.yaml".to_owned(), after)]));
        assert_eq!((names(&again), found(&again)), (names(&catalogue), found(&catalogue)));
    }
}

#[test]
fn a_folder_that_becomes_a_link_or_a_submodule_keeps_its_policies() {
    for (refusal, code) in [(FileRefusal::Symlink, "symlink"), (FileRefusal::Submodule, "submodule")] {
        let mut catalogue = catalogue(files(&[("p/q/a.yaml", policy("a")), ("p/b.yaml", policy("b"))]));
        catalogue.update(BTreeMap::from([
            ("p/q/a.yaml".to_owned(), FileUpdate::Removed),
            ("p/b.yaml".to_owned(), FileUpdate::Removed),
            ("p".to_owned(), FileUpdate::Refused(refusal)),
        ]));
        assert_eq!(names(&catalogue), ["a", "b"]);
        assert_eq!(found(&catalogue), [format!("p:0 {code}")]);
        catalogue.update(BTreeMap::from([("p".to_owned(), FileUpdate::Removed)]));
        assert_eq!((names(&catalogue), found(&catalogue)), (Vec::new(), Vec::new()));
    }
}

#[test]
fn what_has_to_be_rendered_is_told_so_once() {
    let with = |gateway: &str, name: &str| {
        policy(name).replace("{nodeSelector: {}}", &format!("{{nodeSelector: {{}}, {gateway}}}"))
    };
    let helm = "{{- if .Values.egress }}\napiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata:\n  name: {{ .Release.Name }}\nspec: {}\n{{- end }}\n";
    for (document, line) in [
        (with("interface: \"${IFACE}\"", "a"), 8),
        (with("egressIP: \"${ip}\"", "a"), 8),
        (with("egressIP: \"{{ .Values.ip }}\"", "a"), 8),
        (with("egressIP: {{ .Values.ip }}", "a"), 8),
        (with("egressIP: \"ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]\"", "a"), 8),
        (policy("\"a-${ENV}\""), 3),
        (policy("a").replace("10.0.0.0/8", "\"${A}\", \"${B}\", \"{{ .c }}\""), 7),
        (helm.to_owned(), 1),
        (format!("{}---\n{}", with("interface: \"${X}\"", "a"), with("egressIP: {{ .y }}", "b")), 8),
    ] {
        let mut catalogue = catalogue(files(&[("p.yaml", policy("a"))]));
        catalogue.update(files(&[("p.yaml", &document)]));
        assert_eq!(found(&catalogue), [format!("p.yaml:{line} not-rendered")], "{document}");
        assert_eq!(names(&catalogue), ["a"], "the last good version stays");
    }
    // Other programs' annotations may have any text.
    let annotated = policy("a").replace("{name: a}", "{name: a, annotations: {doc: \"see ${HOME}\"}}");
    assert_eq!(found(&catalogue(files(&[("p.yaml", annotated)]))), NOTHING);
    for interface in ["eth0,eth1", "*", "eth*", "eth0; rm", "eth%d"] {
        let document = with(&format!("interface: \"{interface}\""), "a");
        assert_eq!(found(&catalogue(files(&[("p.yaml", document)]))), ["p.yaml:8 bad-interface"], "{interface}");
    }
}

#[test]
fn a_kustomization_that_changes_policies_is_an_error_and_one_that_lists_them_is_not() {
    let patch = "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {name: a}\nspec: {destinationCIDRs: [10.9.0.0/16]}\n";
    let of = |overlay: &str, paths: &str| {
        let catalogue = catalogue(files(&[
            ("egret.yaml", config(&format!("paths: [{paths}]\n"))),
            ("base/kustomization.yaml", "resources: [p.yaml]\n".to_owned()),
            ("base/p.yaml", policy("a")),
            ("prod/kustomization.yaml", format!("resources: [../base]\n{overlay}")),
            ("prod/patch.yaml", patch.to_owned()),
            ("web/kustomization.yaml", "namePrefix: x-\nresources: [deployment.yaml]\n".to_owned()),
            ("web/deployment.yaml", "apiVersion: apps/v1\nkind: Deployment\n".to_owned()),
        ]));
        found(&catalogue)
    };
    for overlay in [
        "namePrefix: x-\n",
        "patches: [{path: patch.yaml}]\n",
        "patchesStrategicMerge: [patch.yaml]\n",
        "patches: [{target: {kind: CiliumEgressGatewayPolicy}, patch: \"[]\"}]\n",
        "replacements: [{source: {kind: ConfigMap}}]\n",
        "commonAnnotations: {egret.dev/priority: \"3\"}\n",
        "components: [../component]\n",
    ] {
        for paths in ["base", "base, prod"] {
            let one = of(overlay, paths);
            let expected: &[&str] = &["prod/kustomization.yaml:2 not-rendered"];
            // The patch is told with the kustomization that has it, if that is read.
            let alone = overlay.contains("patch.yaml") || !paths.contains("prod");
            if alone {
                assert_eq!(one, expected, "{overlay} {paths}");
            }
        }
    }
    assert_eq!(of("labels: [{pairs: {a: b}}]\nimages: [{name: x}]\n", "base"), NOTHING);
    assert_eq!(of("patches: [{target: {kind: Deployment}, path: x.yaml}]\n", "base"), NOTHING);
    // Kustomize reads this name as well.
    let bare = catalogue(files(&[
        ("p/p.yaml", policy("a")),
        ("p/Kustomization", "namePrefix: x-\nresources: [p.yaml]\n".to_owned()),
    ]));
    assert_eq!(found(&bare), ["p/Kustomization:1 not-rendered"]);
    // Only listed, but what it lists is not read.
    let text = "resources: [../base]\n";
    let outside = catalogue(files(&[
        ("egret.yaml", config("paths: [prod]\n")),
        ("base/p.yaml", policy("a")),
        ("base/kustomization.yaml", "resources: [p.yaml]\n".to_owned()),
        ("prod/kustomization.yaml", text.to_owned()),
    ]));
    assert_eq!(found(&outside), ["prod/kustomization.yaml:1 not-rendered"]);
}

#[test]
fn an_egret_yaml_that_is_not_where_it_was_meant_to_be_keeps_the_last_good_one() {
    let good = config("paths: [p]\n");
    let all = |list: &[(&str, &str)]| {
        let mut catalogue =
            catalogue(files(&[("egret.yaml", good.clone()), ("p/a.yaml", policy("a")), ("dev/b.yaml", policy("b"))]));
        let mut changes = files(list);
        changes.entry("egret.yaml".to_owned()).or_insert(FileUpdate::Removed);
        catalogue.update(changes);
        let found = found(&catalogue);
        assert_eq!(found.len(), 1, "{list:?}: {found:?}");
        (names(&catalogue), found[0].clone())
    };
    let only_a = vec!["a".to_owned()];
    for name in ["egret.yml", "Egret.yaml", "EGRET.YML", ".egret.yaml", "egret.json", "conf/egret.yaml", "egert.yaml"] {
        assert_eq!(all(&[(name, &good)]), (only_a.clone(), format!("{name}:1 wrong-place")));
    }
    for (written, code) in [
        ("", "no-config"),
        ("# paths: [p]\n", "no-config"),
        ("paths: [p]\n", "no-config"),
        ("apiVersion: egret.dev/v1\nkind: Config\npaths: [p]\n", "unknown-version"),
        ("apiVersion: egret.dev/v1alpha1\nkind: Konfig\n", "unknown-kind"),
        ("kind: Config\n", "missing-field"),
        ("apiVersion: v1\nkind: ConfigMap\n", "no-config"),
        ("version https://git-lfs.github.com/spec/v1\n", "no-config"),
        ("{", "yaml-syntax"),
        ("apiVersion: egret.dev/v1alpha1\nkind: Config\npaths: [\"${P}\"]\n", "not-rendered"),
    ] {
        let (names, found) = all(&[("egret.yaml", written)]);
        assert_eq!((names, found.rsplit(' ').next()), (only_a.clone(), Some(code)), "{written}");
    }
    for name in ["egret.yml", ".egret.yaml"] {
        let (names, found) = all(&[(name, "apiVersion: egret.dev/v2\nkind: Config\n")]);
        assert_eq!((names, found), (only_a.clone(), format!("{name}:1 unknown-version")));
    }
}

#[test]
fn paths_that_select_nothing_are_errors_with_the_nearest_name() {
    let repository = |paths: &str| {
        catalogue(files(&[
            ("egret.yaml", config(&format!("paths: [{paths}]\n"))),
            ("policies/a.yaml", policy("a")),
            ("teams/blue/egress/b.yaml", policy("b")),
            ("teams/red/egress/c.yaml", policy("c")),
            ("README.yaml", "a: b\n".to_owned()),
        ]))
    };
    for (paths, expected) in [
        ("policies", vec!["a"]),
        ("policies/a.yaml", vec!["a"]),
        ("\"teams/*/egress\"", vec!["b", "c"]),
        ("\"**/b.yaml\", policies/", vec!["a", "b"]),
        (".", vec!["a", "b", "c"]),
    ] {
        let catalogue = repository(paths);
        assert_eq!(
            (names(&catalogue), found(&catalogue)),
            (expected.into_iter().map(str::to_owned).collect(), Vec::new()),
            "{paths}"
        );
    }
    let hints = |paths: &str| {
        let all = repository(paths).diagnostics();
        all.into_iter().map(|one| (one.code, one.hint.unwrap_or_default())).collect::<Vec<_>>()
    };
    assert_eq!(hints("polices"), [("dead-path", "did you mean `policies`?".to_owned())]);
    assert_eq!(hints("policies/b.yaml"), [("dead-path", "did you mean `policies/a.yaml`?".to_owned())]);
    assert_eq!(hints("policies, \"teams/*/x\"").len(), 1);
    // The last good one stays; without one what is there is read.
    let mut catalogue = repository("policies");
    catalogue.update(files(&[("egret.yaml", config("paths: [polices, teams]\n"))]));
    assert_eq!(names(&catalogue), ["a"]);
    assert_eq!(names(&repository("polices, teams")), ["b", "c"]);
}

#[test]
fn an_unknown_cluster_takes_nothing_and_one_that_was_active_stays() {
    let all = || {
        files(&[
            ("egret.yaml", config("clusters: {dev: {paths: [dev]}, prod: {paths: [prod]}, empty: }\n")),
            ("dev/a.yaml", policy("a")),
            ("prod/b.yaml", policy("b")),
        ])
    };
    let of = |cluster: &str| {
        let mut catalogue = Catalogue::new(cluster);
        catalogue.update(all());
        catalogue
    };
    assert_eq!(
        (names(&of("prod")), names(&of("dev")), names(&of("empty")).len()),
        (vec!["b".to_owned()], vec!["a".to_owned()], 2)
    );
    let unknown = of("prodd");
    assert_eq!((names(&unknown), found(&unknown)), (Vec::new(), vec!["egret.yaml:3 unknown-cluster".to_owned()]));
    let hint = unknown.diagnostics()[0].hint.clone();
    assert_eq!(hint.as_deref(), Some("did you mean `prod`? --cluster-name says which cluster this is"));
    // A cluster that came into force before names were compared.
    let mut recalled = Catalogue::new("berlin");
    recalled.recall(all());
    assert_eq!((names(&recalled), found(&recalled).len()), (vec!["a".to_owned(), "b".to_owned()], 1));
    recalled.update(files(&[("dev/c.yaml", policy("c"))]));
    assert_eq!(names(&recalled), ["a", "b", "c"]);
    // One that is taken out of egret.yaml keeps what it has.
    let mut prod = of("prod");
    prod.update(files(&[("egret.yaml", config("clusters: {dev: {paths: [dev]}}\n"))]));
    assert_eq!(names(&prod), ["b"]);
}
