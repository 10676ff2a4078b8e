//! The borders and house rules, held over the source text: what may be named where, and how a file has to look.
//!
//! Text is enough for that: no path to a package is ever built by a macro here. What clippy and rustfmt hold is not held here.

mod circles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// No file is longer, tests included.
const LONGEST: usize = 600;

/// Every package of Cargo.toml, by the name the code has for it, and the folders and files of `src` that may name it. Both ways:
/// a place that does not name it any more must go from here.
const PACKAGES: &[(&str, &[&str])] = &[
    ("anstream", &["cli/output.rs", "telemetry.rs"]),
    ("annotate_snippets", &["cli/diagnostics.rs"]),
    // In tests of the live cluster beside the server of our own.
    ("axum", &["cluster/live/fake.rs", "cluster/live/simulated.rs", "cluster/live/transport/secure.rs", "serve/"]),
    (
        "base64",
        &[
            "forge/app/jwt.rs",
            "git/http_relay.rs",
            "git/known_hosts.rs",
            "git/loopback.rs",
            "https/connect.rs",
            "serve/ui/mod.rs",
        ],
    ),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/completion.rs"]),
    ("clap_mangen", &["cli/man.rs"]),
    ("colorchoice_clap", &["cli/args.rs"]),
    ("cron", &["core/admission/windows.rs", "core/policy/check/schedule.rs", "reconcile/node/schedule.rs"]),
    ("flate2", &["cli/support_bundle.rs", "cluster/live/fake.rs"]),
    ("futures", &["cluster/live/", "git/http_relay.rs", "kernel/", "reconcile/controller/pass.rs"]),
    ("git2", &["git/"]),
    ("hex", &["forge/posting.rs", "kernel/nft/expression.rs", "serve/webhook.rs"]),
    ("hmac", &["git/known_hosts.rs", "serve/webhook.rs"]),
    // What kube's client is made of: built anew, with HTTP/2 and keepalive.
    ("http", &["cluster/live/", "forge/", "https/"]),
    ("http_body_util", &["cluster/live/agents.rs", "cluster/live/transport.rs", "git/http_relay.rs", "https/"]),
    // In git/http_relay.rs the server side.
    ("hyper", &["cluster/live/", "git/http_relay.rs", "https/"]),
    ("hyper_rustls", &["cluster/live/transport.rs"]),
    ("hyper_util", &["cluster/live/transport.rs", "cluster/live/transport/", "git/http_relay.rs", "https/"]),
    ("ipnet", &["core/", "kernel/"]),
    (
        "jiff",
        &[
            "cli/args.rs",
            "cli/preview.rs",
            "cli/who.rs",
            "clock.rs",
            "cluster/live/",
            "core/",
            "forge/",
            "git/",
            "reconcile/",
            "serve/ui/layout.rs",
        ],
    ),
    ("k8s_openapi", &["cluster/live/lease.rs"]),
    ("kube", &["cluster/live/"]),
    // Named for its version alone.
    ("libgit2_sys", &[]),
    ("maud", &["serve/ui/"]),
    ("netlink_sys", &["kernel/"]),
    // Elsewhere than in kernel: open flags of files that may be a FIFO or a link; limits of the process for Git, and its end.
    ("nix", &["cluster/manifests.rs", "git/supervisor.rs", "git/worker.rs", "kernel/"]),
    ("notify", &["watch.rs"]),
    ("percent_encoding", &["core/text.rs", "git/smart_http.rs", "git/source.rs", "https/connect.rs"]),
    ("pgp", &["core/signature/openpgp.rs"]),
    ("prometheus_client", &["serve/"]),
    ("rsa", &["git/signing.rs"]),
    ("rtnetlink", &["kernel/"]),
    ("russh", &["git/key_file.rs", "git/ssh_relay.rs"]),
    ("rustix", &["kernel/apply.rs", "kernel/conflict.rs"]),
    ("rustls_native_certs", &["https/trust.rs"]),
    (
        "serde",
        &[
            "cli/",
            "cluster/live/",
            "cluster/manifests/parse.rs",
            "core/",
            "forge/app/mod.rs",
            "git/access.rs",
            "git/credentials.rs",
            "git/exchange.rs",
            "git/known_hosts.rs",
            "git/supervisor.rs",
            "git/source.rs",
            "git/transport_error.rs",
            "git/worker_protocol.rs",
            "git/worker.rs",
            "kernel/doctor.rs",
            "reconcile/persistence/",
            "secret.rs",
        ],
    ),
    (
        "serde_json",
        &[
            "cli/",
            "cluster/edit/tests.rs",
            "cluster/live/",
            "cluster/manifests/parse/json.rs",
            "core/policy/",
            "core/pools.rs",
            "core/status/tests.rs",
            "forge/",
            // What is said to the worker process, and by it.
            "git/supervisor.rs",
            "git/worker_protocol.rs",
            "git/worker.rs",
            "kernel/doctor/gather.rs",
            "reconcile/",
            "serve/webhook.rs",
        ],
    ),
    (
        "serde_yaml",
        &[
            "cli/doctor.rs",
            "cluster/edit/",
            "cluster/manifests/parse.rs",
            "core/allocation/text.rs",
            // The chart's schemas.
            "core/policy/limits.rs",
            "core/policy/yaml.rs",
            "core/report/files.rs",
            // Line by line: a gateway keeps what the others told.
            "core/snapshot.rs",
        ],
    ),
    ("sha1", &["git/known_hosts.rs"]),
    ("sha2", &["forge/posting.rs", "git/known_hosts.rs", "serve/answers.rs", "serve/ui/mod.rs", "serve/webhook.rs"]),
    ("similar", &["core/plan/text.rs"]),
    ("socket2", &["kernel/conntrack/events.rs"]),
    ("ssh_key", &["core/signature/", "git/signing.rs"]),
    ("strsim", &["core/policy/diagnostic_sink.rs"]),
    ("subtle", &["git/loopback.rs"]),
    ("tar", &["cli/support_bundle.rs"]),
    ("terminal_size", &["cli/output.rs"]),
    ("textwrap", &["core/text.rs"]),
    (
        "thiserror",
        &[
            "cluster/",
            "core/allocation/text.rs",
            "core/name.rs",
            "forge/",
            "git/error.rs",
            "git/transport_error.rs",
            "https/",
            "kernel/",
            "reconcile/",
            "watch.rs",
        ],
    ),
    (
        "tokio",
        &[
            "cli/output.rs",
            "cluster/live/",
            "forge/",
            "git/http_relay.rs",
            "git/loopback.rs",
            "git/ssh_relay.rs",
            "https/",
            "kernel/",
            "reconcile/",
            "serve/",
            "watch.rs",
        ],
    ),
    ("tokio_rustls", &["cluster/live/transport.rs", "cluster/live/transport/", "forge/app/jwt.rs", "https/"]),
    ("tower", &["cluster/live/", "https/connect.rs"]),
    ("tower_http", &["cluster/live/mod.rs"]),
    ("tracing", &["reconcile/"]),
    ("tracing_subscriber", &["telemetry.rs"]),
];

/// What each folder of `src` must not reach for in the others. Edges never know each other; the core knows nobody.
const BORDERS: &[(&str, &[&str])] = &[
    (
        "core/",
        &[
            "atomic_file",
            "backoff",
            "cli",
            "cluster",
            "git",
            "https",
            "kernel",
            "reconcile",
            "secret",
            "serve",
            "telemetry",
            "watch",
        ],
    ),
    (
        "atomic_file.rs",
        &[
            "backoff",
            "cli",
            "cluster",
            "core",
            "forge",
            "git",
            "https",
            "kernel",
            "reconcile",
            "secret",
            "serve",
            "watch",
        ],
    ),
    ("forge/", &["cli", "cluster", "git", "kernel", "reconcile", "serve", "watch"]),
    ("git/", &["cli", "cluster", "forge", "kernel", "reconcile", "serve", "watch"]),
    ("cluster/", &["cli", "forge", "git", "kernel", "reconcile", "serve", "watch"]),
    ("kernel/", &["cli", "cluster", "forge", "git", "reconcile", "serve", "watch"]),
    ("reconcile/", &["cli"]),
    ("serve/", &["backoff", "cli", "cluster", "git", "kernel", "reconcile", "telemetry", "watch"]),
    ("watch.rs", &["cli", "cluster", "core", "git", "kernel", "reconcile", "serve"]),
    (
        "https/",
        &["backoff", "cli", "cluster", "core", "forge", "git", "kernel", "reconcile", "serve", "telemetry", "watch"],
    ),
    (
        "secret.rs",
        &["backoff", "cli", "cluster", "core", "git", "https", "kernel", "reconcile", "serve", "telemetry", "watch"],
    ),
    ("backoff.rs", &["cli", "cluster", "core", "git", "kernel", "reconcile", "serve"]),
    ("telemetry.rs", &["cli", "cluster", "core", "git", "kernel", "reconcile", "serve"]),
];

/// What would make the core depend on more than its arguments. Reading a file when the code is compiled is none of it.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::path",
    "std::process",
    "std::thread",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::atomic",
    "std::net::Tcp",
    "std::net::Udp",
    "std::net::ToSocketAddrs",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
    "async fn",
    "print!(",
    "println!(",
    "static mut",
    "thread_local!",
];

/// What no file has: something left to do, something unsafe, or a word that says so.
const NEVER: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "unsafe {", "unsafe fn", "TODO", "FIXME", "XXX"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a folder of the repository, by their path in that folder.
fn rust_files(folder: &str) -> BTreeMap<String, String> {
    let folder = root().join(folder);
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.clone()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&folder).expect("a path below").to_string_lossy().into_owned();
                files.insert(name, std::fs::read_to_string(&path).expect("a text"));
            }
        }
    }
    files
}

/// The lines of a file that are code. A comment may name whatever it explains.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Whether a line has a path that starts with this name: `name::`, and not as the end of another name or path.
fn names(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let starts_one =
        |at: usize| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':');
    line.match_indices(&path).any(|(at, _)| starts_one(at))
        || [format!("use {name};"), format!("use {name} as ")]
            .iter()
            .any(|import| line.trim_start().starts_with(import))
}

fn is_in(file: &str, place: &str) -> bool {
    file == place || (place.ends_with('/') && file.starts_with(place))
}

/// The names of the packages below `[dependencies]`, as code has them.
fn dependencies() -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = manifest.split("\n[dependencies]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    let names = section.expect("dependencies").lines().filter(|line| !line.starts_with('#'));
    names.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_")).collect()
}

#[test]
fn every_package_is_named_only_where_it_belongs() {
    let listed: BTreeSet<String> = PACKAGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(dependencies(), listed, "a package of Cargo.toml has its places in this file");
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (file, text) in rust_files("src") {
        for (number, line) in code(&text) {
            for (package, places) in PACKAGES.iter().filter(|(package, _)| names(line, package)) {
                match places.iter().find(|place| is_in(&file, place)) {
                    Some(place) => {
                        used.insert((*package, *place));
                    }
                    None => wrong.push(format!("src/{file}:{number}: {package} has no place here")),
                }
            }
        }
    }
    let permitted = PACKAGES.iter().flat_map(|(package, places)| places.iter().map(|place| (*package, *place)));
    wrong.extend(
        permitted
            .filter(|one| !used.contains(one))
            .map(|(package, place)| format!("src/{place} may name {package} and does not: take the permission away")),
    );
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn no_folder_reaches_over_its_border() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files("src") {
        for (_, others) in BORDERS.iter().filter(|(place, _)| is_in(&file, place)) {
            for (number, line) in code(&text) {
                let reached =
                    others.iter().filter(|other| names(line, &format!("crate::{other}")) || listed(line, other));
                wrong.extend(reached.map(|other| format!("src/{file}:{number}: reaches into {other}")));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// `use crate::{git, kernel::Kernel};`
fn listed(line: &str, other: &str) -> bool {
    let Some((_, list)) = line.split_once("use crate::{") else { return false };
    list.split([',', '{', '}', ' ', ';']).any(|word| word == other || word.starts_with(&format!("{other}::")))
}

#[test]
fn the_core_has_no_clock_no_file_no_thread_and_no_voice() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files("src/core") {
        let tests = file.ends_with("tests.rs");
        for (number, line) in code(&text).filter(|_| !tests) {
            let found = IMPURE.iter().filter(|word| line.contains(*word));
            wrong.extend(found.map(|word| format!("src/core/{file}:{number}: {word}")));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn only_the_command_line_prints() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files("src").into_iter().filter(|(file, _)| !file.starts_with("cli/")) {
        let printing = |line: &str| {
            ["println!(", "eprintln!(", " print!(", "eprint!(", "stdout()", "stderr()"]
                .iter()
                .any(|word| line.contains(word))
        };
        wrong.extend(code(&text).filter(|(_, line)| printing(line)).map(|(number, _)| format!("src/{file}:{number}")));
    }
    // Logs go to standard error, and nothing else does.
    wrong.retain(|place| !place.starts_with("src/telemetry.rs:"));
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_file_says_what_it_is_for_and_none_is_too_long() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests"] {
        for (file, text) in rust_files(folder) {
            let place = format!("{folder}/{file}");
            if !text.starts_with("//! ") {
                wrong.push(format!("{place} does not say what it is for"));
            }
            let lines = text.lines().count();
            if lines > LONGEST {
                wrong.push(format!("{place} has {lines} lines, {LONGEST} at most"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The files and folders beside each other in a folder must form no circle: if one names something of a second, the second names
/// nothing of the first, neither directly nor through others. A folder counts as a whole, with all that is in it; what a module hands on
/// by `use` counts where it is defined.
///
/// A parent is no part of a circle: it may use its children (that is what they are for), and they may use what stands in the parent's own
/// file. So two children that need one type keep it there, or in a file of its own. Code for tests does not count.
#[test]
fn no_modules_beside_each_other_import_in_a_circle() {
    let found = circles::circles(&rust_files("src"));
    let wrong: Vec<String> = found
        .iter()
        .map(|circle| format!("{}: {} are in a circle:{}", circle.folder, circle.members.join(", "), circle.shown))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How often each file of tests sleeps. An event is waited for by `lab::wait_until`, or by reading what brings it; who sleeps has one of
/// these reasons, and says it beside the line.
const SLEEPS: &[(&str, usize)] = &[
    // The one loop that all waiting goes through, and its like for tests on a runtime.
    ("lab/process.rs", 1),
    // A server that speaks at its own pace.
    ("lab/outpost.rs", 1),
    ("it/apiserver_alone/trouble.rs", 1),
    // That nothing comes is seen by waiting alone.
    ("it/cluster/labels.rs", 1),
    ("it/cluster/way.rs", 2),
    ("it/incluster/way.rs", 1),
    ("it/incluster/windows.rs", 1),
    ("it/outpost/mistakes.rs", 1),
    // Processes are killed at some moment of a change.
    ("it/incluster/faults/crash.rs", 1),
    ("it/outpost/crashes.rs", 3),
    // The pace of a bad network, of a burst, of a backoff is what is tried.
    ("apiserver/http.rs", 1),
    ("it/git/crooked.rs", 1),
    ("it/git/keeping.rs", 1),
    ("it/git/publishing.rs", 1),
    ("it/https/stand.rs", 1),
    // Egret is away that long, and nobody may notice; or a holder has to have an address for that long.
    ("it/outpost/assign.rs", 4),
    ("it/outpost/bgp.rs", 1),
    ("it/outpost/failover.rs", 1),
    // Metrics within a tenth of a second are the same.
    ("it/outpost/metrics.rs", 1),
    ("it/serve.rs", 2),
    // What is known is shown again for a second.
    ("it/page.rs", 1),
    // A real API server is asked again, as its clients do.
    ("it/cluster/api.rs", 2),
    ("it/cluster/host_network.rs", 1),
    // A demo is watched by people.
    ("lab/demo.rs", 2),
];

#[test]
fn no_test_sleeps_where_it_could_wait_for_an_event() {
    let listed: BTreeMap<String, usize> = SLEEPS.iter().map(|(file, times)| ((*file).to_owned(), *times)).collect();
    let count = |text: &str| code(text).map(|(_, line)| line.matches("sleep(").count()).sum::<usize>();
    // In a simulation to sleep is to let simulated time pass.
    let is_real = |file: &str| !file.ends_with("tidy.rs") && !file.starts_with("sim/");
    let files = rust_files("tests").into_iter().filter(|(file, _)| is_real(file));
    let found: BTreeMap<String, usize> =
        files.map(|(file, text)| (file, count(&text))).filter(|(_, times)| *times > 0).collect();
    assert_eq!(found, listed, "a sleep is listed with its reason in tests/it/tidy.rs, or it is none");
}

#[test]
fn no_rule_is_switched_off_and_nothing_is_left_to_do() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests"] {
        // This file has the words in its list.
        for (file, text) in rust_files(folder).into_iter().filter(|(file, _)| !file.ends_with("tidy.rs")) {
            for (number, line) in text.lines().enumerate() {
                let found = NEVER.iter().filter(|word| line.contains(*word));
                wrong.extend(found.map(|word| format!("{folder}/{file}:{}: {word}", number + 1)));
            }
            wrong.extend(switched_off(&text, folder == "src").map(|what| format!("{folder}/{file}: {what}")));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Lints that are switched off without a reason; in `src` also those that stay off when nobody needs it any more.
fn switched_off(text: &str, strict: bool) -> impl Iterator<Item = String> {
    let attributes = ["[allow(", "[expect("].into_iter().flat_map(|start| text.match_indices(start));
    attributes.filter_map(move |(at, start)| {
        let end = text[at..].find(")]").map_or(text.len(), |length| at + length);
        let attribute = &text[at..end];
        let permitted = attribute.contains("reason = ") && !(strict && start == "[allow(");
        (!permitted).then(|| format!("#{attribute})]"))
    })
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let text = std::fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md");
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).take(1).collect();
    assert!(heads.first().is_some_and(|head| head.contains("Unreleased")), "the first chapter is {heads:?}");
}

#[test]
fn every_integration_test_is_part_of_the_one_binary() {
    let main = std::fs::read_to_string(root().join("tests/it/main.rs")).expect("main.rs");
    let declared = |name: &str| main.lines().any(|line| line == format!("mod {name};"));
    let files = rust_files("tests/it").into_keys().filter(|file| !file.contains('/') && file != "main.rs");
    let missing: Vec<String> = files.filter(|file| !declared(file.trim_end_matches(".rs"))).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_scenario_is_a_sentence_and_expects_something() {
    let mut wrong = Vec::new();
    for scenario in crate::scenarios::scenarios() {
        let name = scenario.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = name.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '_');
        if !plain || name.split('_').filter(|word| !word.is_empty()).count() < 2 {
            wrong.push(format!("{name} is no sentence"));
        }
        let expected = std::fs::read_dir(scenario.join("expect")).map_or(0, Iterator::count);
        if expected == 0 {
            wrong.push(format!("{name} expects nothing"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Where a text names a test: `tests/it/serve.rs::probes_say_why_not_and_there_is_nothing_else`.
fn named_tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once("::"))
}

/// Whether a file has a test of this name, and one that is run: not with `#[ignore]`. A test of Python is a method, and the claims
/// of `tests/it/worlds` are named by their columns.
fn has_test(file: &str, name: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(root().join(file)) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    if file == "tests/it/worlds/claims.rs" {
        return text.contains(&format!(" column: \"{name}\","));
    }
    if Path::new(file).extension().is_some_and(|extension| extension == "py") {
        let method = format!("def {name}(");
        return name.starts_with("test_") && lines.iter().any(|line| line.starts_with(&method));
    }
    let is_it = |line: &str| line.trim_start_matches("async ").starts_with(&format!("fn {name}("));
    lines.iter().enumerate().filter(|(_, line)| is_it(line)).any(|(at, _)| {
        let attributes: Vec<&str> =
            lines[..at].iter().rev().copied().take_while(|line| line.starts_with("#[")).collect();
        let has = |start: &str| attributes.iter().any(|attribute| attribute.starts_with(start));
        (has("#[test]") || has("#[tokio::test")) && !has("#[ignore")
    })
}

#[test]
fn every_claim_of_the_threat_model_names_tests_that_there_are() {
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).expect("docs/threat-model.md");
    let missing: Vec<String> = named_tests(&text)
        .filter(|(file, name)| !has_test(file, name))
        .map(|(file, name)| format!("{file} has no test {name}"))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
    let tables: Vec<&str> = text.split("| claim | held by |\n|---|---|\n").skip(1).collect();
    assert_eq!(tables.len(), text.lines().filter(|line| line.starts_with("## ") && line.contains(": ")).count());
    let claims = tables.iter().flat_map(|table| table.lines().take_while(|line| line.starts_with("| ")));
    let unheld: Vec<&str> = claims.filter(|claim| named_tests(claim).next().is_none()).collect();
    assert_eq!(unheld, Vec::<&str>::new());
}
