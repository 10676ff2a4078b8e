//! The reference: the pages of fields and options are made from the schemas and from the program's own help, and the page of codes has every
//! code of the sources. `make bless` writes the first two anew.
//!
//! Not here: metrics, conditions and reasons (`descriptions`), which have pages written by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use egret::core::policy::schema;
use regex::Regex;
use serde_json::Value;

use crate::golden::Differences;

/// Texts of the sources that look like codes.
const NO_CODES: [&str; 24] = [
    "cert-authority",
    "date-time",
    "egret-answer",
    "egret-controller",
    "egret-holder",
    "egret-ports",
    "egret-probes",
    "egret-record",
    "egret-token",
    "egret-transfers",
    "nat-record",
    "no-answer",
    "existing-connections",
    "k8s-app",
    "kube-dns",
    "kube-ipvs",
    "next-hop",
    "on-no-gateway",
    "suspend-owner",
    "suspend-reason",
    "suspend-until",
    "valid-after",
    "valid-before",
    "x-access-token",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn assert_page(name: &str, text: &str) {
    let mut differences = Differences::default();
    differences.file(&root().join("docs/reference").join(name), text);
    differences.assert_none();
}

/// What a field may hold, in a few words.
fn kind(field: &Value) -> String {
    let words = |list: &Value| {
        let words = list.as_array().unwrap().iter().filter_map(Value::as_str).map(|word| format!("`{word}`"));
        words.collect::<Vec<_>>().join(", ")
    };
    if let Some(constant) = field["const"].as_str() {
        return format!("`{constant}`");
    }
    if field["enum"].is_array() {
        return words(&field["enum"]);
    }
    match (field["type"].as_str(), &field["type"]) {
        (Some("array"), _) => format!("list of {}", plural(&kind(&field["items"]))),
        (Some("object"), _) if field["additionalProperties"].is_object() && field["properties"].is_null() => {
            "map".to_owned()
        }
        (Some("object"), _) => "mapping".to_owned(),
        (Some("string"), _) => "text".to_owned(),
        (Some("integer"), _) => match (field["minimum"].as_i64(), field["maximum"].as_i64()) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            _ => "whole number".to_owned(),
        },
        (Some("boolean"), _) => "`true`, `false`".to_owned(),
        (None, Value::Array(_)) => words(&field["type"]).replace('`', ""),
        _ => field["anyOf"].as_array().or(field["oneOf"].as_array()).map_or_else(
            || "any".to_owned(),
            |choices| choices.iter().map(kind).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" or "),
        ),
    }
}

fn plural(kind: &str) -> String {
    match kind {
        "text" | "any" => format!("{kind}s").replace("anys", "values"),
        "mapping" | "map" => format!("{kind}s"),
        other => other.to_owned(),
    }
}

/// Rows of a table: a field, what it holds, what it means. `path` is how users write it.
fn rows(schema: &Value, path: &str, out: &mut String) {
    let brackets = Regex::new("<[a-z]+>").unwrap();
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        // Each warning's own key; docs/lints.md has them.
        if name.starts_with("egret.dev/acknowledge.") {
            continue;
        }
        let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let needed = if required.contains(name.as_str()) { ", needed" } else { "" };
        let text = field["description"].as_str().unwrap_or_default().replace('|', "\\|");
        // What is between angle brackets would be HTML.
        let text = brackets.replace_all(&text, "`$0`").replace("`egret/reports/`", "egret/reports/");
        writeln!(out, "| `{here}` | {}{needed} | {text} |", kind(field)).unwrap();
        deeper(field, &here, out);
    }
}

fn deeper(field: &Value, here: &str, out: &mut String) {
    rows(field, here, out);
    if field["items"].is_object() {
        rows(&field["items"], &format!("{here}[]"), out);
    }
    // `clusters.NAME` has the fields of the top.
    if field["additionalProperties"]["properties"].is_object() {
        writeln!(out, "| `{here}.NAME` | mapping | The fields above. |").unwrap();
    }
}

#[test]
fn the_page_of_fields_is_what_the_schemas_say() {
    let schemas = schema::files();
    let read = |name: &str| -> Value {
        serde_json::from_str(&schemas.iter().find(|(file, _)| *file == name).unwrap().1).unwrap()
    };
    let mut page = "# Fields of documents\n\nEvery field of every document that Egret reads, with what it may hold. The page is made from the JSON schemas that \
                    `egret schema`\nprints; editors complete and check with these. [configuration.md](../configuration.md) explains egret.yaml, the\n\
                    [template's page](../../repo-template/README.md) how to write policies.\n\n`[]` is each entry of a list.\n"
        .to_owned();
    let documents = read("document.json");
    let kinds = documents["allOf"].as_array().unwrap().iter().filter(|one| one["then"]["properties"].is_object());
    let mut headings = Vec::new();
    for one in kinds {
        let kind = one["if"]["properties"]["kind"]["const"].as_str().unwrap();
        headings.push(kind);
        write!(page, "\n## {kind}\n\n").unwrap();
        if let Some(text) = one["then"]["description"].as_str() {
            write!(page, "{text}\n\n").unwrap();
        }
        page += "| field | holds | meaning |\n|---|---|---|\n";
        rows(&one["then"], "", &mut page);
    }
    assert!(headings.len() >= 4, "{headings:?}");
    page += "\n## Config\n\negret.yaml, at the root of the repository.\n\n| field | holds | meaning |\n|---|---|---|\n";
    rows(&read("config.json"), "", &mut page);
    assert_page("fields.md", &page);
}

#[test]
fn the_page_of_options_is_what_the_program_says() {
    let help = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        let output = command.args(words).env_clear().env("COLUMNS", "120").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mut page = "# Options\n\nWhat `egret COMMAND --help` prints, for every command. [commands.md](../commands.md) has what the commands do and what they share, exit\n\
                    codes and JSON.\n"
        .to_owned();
    let all = help(&["--help"]);
    let commands = all.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> =
        commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        write!(page, "\n## egret {name}\n\n```text\n{}\n```\n", help(&[name, "--help"]).trim_end()).unwrap();
    }
    assert_page("options.md", &page);
}

/// Texts in quotes that have the form of a code, from the code of `core` and `reconcile` without its tests.
fn codes() -> BTreeSet<String> {
    let quoted = Regex::new(r#""([a-z][a-z0-9]*(?:-[a-z0-9]+)+)""#).unwrap();
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join("src/core"), root().join("src/reconcile")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path
                .file_name()
                .is_some_and(|name| name == "tests.rs" || path.extension().is_none_or(|kind| kind != "rs"))
            {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            found.extend(
                lines.flat_map(|line| quoted.captures_iter(line).map(|found| found[1].to_owned()).collect::<Vec<_>>()),
            );
        }
    }
    found
}

#[test]
fn the_page_of_codes_has_every_code_of_the_sources_and_no_other() {
    let page = std::fs::read_to_string(root().join("docs/reference/codes.md")).unwrap();
    let row = Regex::new(r"(?m)^\| `([a-z0-9-]+)` \|").unwrap();
    let listed: Vec<String> = row.captures_iter(&page).map(|found| found[1].to_owned()).collect();
    let found = codes();
    let idle: Vec<&str> = NO_CODES.into_iter().filter(|word| !found.contains(*word)).collect();
    assert_eq!(idle, Vec::<&str>::new(), "these are not in the sources any more");
    let wanted: BTreeSet<String> = found.into_iter().filter(|code| !NO_CODES.contains(&code.as_str())).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(listed.len(), wanted.len(), "a code is there twice");
}
