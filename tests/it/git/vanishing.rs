//! Ways in which a file with a policy vanishes behind its name, as `git` makes them: what is not read any more does not take the policy
//! out of force, and what somebody takes away does.
//!
//! Deliberately absent: contents alone (`repositories`), and commits that remove most of all (`admission`).

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use egret::core::diagnostic::Severity;
use egret::core::gate::ActiveRevision;

use super::fixture::Origin;
use super::reading::{Reading, following};

fn policy(name: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  - podSelector: {{}}\n  \
         destinationCIDRs: [192.0.2.0/24]\n  egressGateway: {{nodeSelector: {{}}}}\n"
    )
}

/// What becomes of `p/a.yaml`, beside which other policies stay, in the next commit: the policies that are active, and the errors.
fn after(change: impl Fn(&Origin)) -> (Vec<String>, Vec<String>) {
    let origin = Origin::new();
    let (a, b, c) = (policy("a"), policy("b"), policy("c"));
    origin.push(&[("p/a.yaml", &a), ("q/b.yaml", &b), ("q/c.yaml", &c)], "three");
    let source = following(origin.bare.to_str().expect("UTF-8"));
    let mut thread = Reading::start(source, origin.path().join("mirror"), ActiveRevision::default());
    assert_eq!(thread.intent().set.policies.len(), 3);
    change(&origin);
    origin.git(&["add", "--all"]);
    origin.git(&["commit", "--quiet", "-m", "a change"]);
    origin.git(&["push", "--quiet", "origin", "main"]);
    let intent = thread.poll();
    assert_eq!(intent.active.pending, None);
    let errors = intent.diagnostics.iter().filter(|one| one.severity == Severity::Error);
    let errors = errors.map(|one| format!("{} {}", one.file, one.code)).collect();
    (intent.set.policies.keys().map(ToString::to_string).collect(), errors)
}

fn said(names: &[&str], errors: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    (owned(names), owned(errors))
}

const ALL: [&str; 3] = ["a", "b", "c"];

#[test]
fn a_file_that_is_something_else_now_keeps_its_policy_and_is_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    let write = |origin: &Origin, bytes: &[u8]| fs::write(origin.work.join("p/a.yaml"), bytes).expect("a file");
    let utf16: Vec<u8> = format!("\u{feff}{}", policy("a")).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let too_large = format!("{}{}", policy("a"), "#\n".repeat(1 << 19));
    assert_eq!(after(|origin| write(origin, pointer.as_bytes())), said(&ALL, &["p/a.yaml no-object"]), "Git LFS");
    assert_eq!(after(|origin| write(origin, &[0, 159, 146, 150])), said(&ALL, &["p/a.yaml not-utf8"]));
    assert_eq!(after(|origin| write(origin, &utf16)), said(&ALL, &["p/a.yaml not-utf8"]), "an editor's UTF-16");
    assert_eq!(after(|origin| write(origin, too_large.as_bytes())), said(&ALL, &["p/a.yaml too-large"]));
    let link = |origin: &Origin, name: &str, target: &str| {
        origin.remove(name);
        fs::create_dir_all(origin.work.join("p")).expect("a folder");
        symlink(target, origin.work.join("p/a.yaml")).expect("a link");
    };
    assert_eq!(after(|origin| link(origin, "p/a.yaml", "../q/b.yaml")), said(&ALL, &["p/a.yaml symlink"]));
    assert_eq!(after(|origin| link(origin, "p/a.yaml", "nowhere")), said(&ALL, &["p/a.yaml symlink"]));
}

#[test]
fn a_folder_that_is_something_else_now_keeps_its_policies_and_is_told() {
    let linked = |origin: &Origin| {
        origin.remove("p/a.yaml");
        symlink("q", origin.work.join("p")).expect("a link");
    };
    assert_eq!(after(linked), said(&ALL, &["p symlink"]));
    for place in ["p", "p/a.yaml"] {
        let module = |origin: &Origin| {
            origin.remove("p/a.yaml");
            let inner = origin.work.join(place);
            fs::create_dir_all(&inner).expect("a folder");
            let inner = inner.to_str().expect("UTF-8").to_owned();
            origin.git(&["-C", &inner, "init", "--quiet"]);
            origin.git(&["-C", &inner, "commit", "--quiet", "--allow-empty", "-m", "another repository"]);
        };
        assert_eq!(after(module), said(&ALL, &[&format!("{place} submodule")]), "git submodule add");
    }
}

#[test]
fn a_name_that_no_file_may_have_keeps_no_policy_in_the_dark() {
    // The document moves to where it cannot be read: that is told.
    let moved = |origin: &Origin| {
        origin.git(&["mv", "p/a.yaml", "p/a\u{7}.yaml"]);
    };
    assert_eq!(after(moved), said(&["b", "c"], &["p/a\\u{7}.yaml bad-name"]));
    let foreign = |origin: &Origin| {
        fs::write(origin.work.join("q/bell\u{7}.yaml"), "a: 1\n").expect("a file");
        fs::write(origin.work.join("q/c.yaml"), policy("c").replace("192.0.2.0", "198.51.100.0")).expect("a file");
    };
    assert_eq!(after(foreign), said(&ALL, &[]));
}

#[test]
fn names_that_differ_in_case_are_two_files() {
    let renamed = |origin: &Origin| {
        origin.git(&["mv", "p/a.yaml", "p/A.yaml"]);
    };
    assert_eq!(after(renamed), said(&ALL, &[]));
    let both = |origin: &Origin| {
        fs::write(origin.work.join("p/A.yaml"), policy("a").replace("192.0.2.0", "198.51.100.0")).expect("a file");
    };
    assert_eq!(after(both), said(&ALL, &["p/A.yaml duplicate-document", "p/a.yaml duplicate-document"]));
}

#[test]
fn what_is_only_moved_stays_and_what_is_taken_away_goes() {
    let moved = |to: &'static str| {
        move |origin: &Origin| {
            fs::create_dir_all(origin.work.join(to).parent().expect("a folder")).expect("a folder");
            origin.git(&["mv", "p/a.yaml", to]);
        }
    };
    for to in ["p/a.yml", "p/a.json", "r/s/t/a.yaml", "a.yaml", "p/a.b.c.yaml"] {
        assert_eq!(after(moved(to)), said(&ALL, &[]), "{to}");
    }
    let executable = |origin: &Origin| {
        let mode = fs::Permissions::from_mode(0o755);
        fs::write(origin.work.join("p/a.yaml"), policy("a").replace("192.0.2.0", "198.51.100.0")).expect("a file");
        fs::set_permissions(origin.work.join("p/a.yaml"), mode).expect("a mode");
    };
    assert_eq!(after(executable), said(&ALL, &[]));
    for to in ["p/a.yaml.disabled", "p/a.yaml.bak", "p/.a.yaml", ".p/a.yaml", "p/a.txt"] {
        assert_eq!(after(moved(to)), said(&["b", "c"], &[]), "{to}");
    }
    assert_eq!(after(|origin| origin.remove("p/a.yaml")), said(&["b", "c"], &[]));
}
