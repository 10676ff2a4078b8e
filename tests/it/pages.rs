//! The documentation holds together: every link leads to a page and a heading that there is, every page is among the chapters, and what pages
//! tell users to type or to write exists: commands, options, values of the chart, documents.
//!
//! Not here: what pages say of the code (`descriptions`, `runbooks`, `reference`), and the site that mdBook makes (`make docs`).

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Folders without pages, or with pages that are data.
const NOT_READ: [&str; 5] = [".git", "target", "tests", "node_modules", "src"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page of the repository by its path.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !NOT_READ.contains(&name.as_str()) {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
            }
        }
    }
    found
}

/// The lines of a page outside of code, and those inside, without their indentation. Blocks of code are fenced, or indented by four and
/// behind an empty line; in a list by as much more.
fn parts(text: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let (mut prose, mut blocks) = (Vec::new(), Vec::new());
    let mut block: Option<(usize, Vec<String>)> = None;
    let (mut fence, mut list, mut empty) = (false, 0, true);
    for line in text.lines() {
        let indentation = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("```") {
            fence = !fence;
            if fence {
                block = Some((indentation, Vec::new()));
            } else {
                blocks.extend(block.take().map(|(_, lines)| lines));
            }
            continue;
        }
        if fence || block.as_ref().is_some_and(|(start, _)| indentation >= *start || line.trim().is_empty()) {
            let (start, lines) = block.as_mut().unwrap();
            lines.push(line.get(*start..).unwrap_or_default().to_owned());
            continue;
        }
        blocks.extend(block.take().map(|(_, lines)| lines));
        let item =
            ["- ", "1. ", "2. ", "3. ", "4. ", "5. ", "6. "].iter().find(|item| line.trim_start().starts_with(**item));
        if let Some(item) = item.filter(|_| indentation < list + 4) {
            list = indentation + item.len();
        } else if indentation == 0 && !line.is_empty() {
            list = 0;
        }
        if empty && !line.is_empty() && indentation >= list + 4 {
            block = Some((indentation, vec![line[indentation..].to_owned()]));
            continue;
        }
        empty = line.is_empty();
        prose.push(line.to_owned());
    }
    blocks.extend(block.map(|(_, lines)| lines));
    (prose, blocks)
}

/// Targets of links and pictures in a line, outside of code.
fn links(line: &str) -> Vec<String> {
    let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    outside.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// Headings as forges make anchors of them.
fn anchors(prose: &[String]) -> BTreeSet<String> {
    let headings = prose.iter().filter_map(|line| {
        let text = line.trim_start_matches('#');
        (text.len() < line.len() && text.starts_with(' ')).then(|| text.trim())
    });
    let mut found = BTreeSet::new();
    for heading in headings {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .collect::<String>();
        found.insert(kept.replace(' ', "-"));
    }
    found
}

/// `a/../b` is `b`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leads out of the repository", path.display()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn every_link_leads_to_a_page_and_a_heading_that_there_is() {
    let pages = pages();
    let headings: BTreeMap<&PathBuf, BTreeSet<String>> =
        pages.iter().map(|(path, text)| (path, anchors(&parts(text).0))).collect();
    let (mut wrong, mut followed) = (Vec::new(), 0);
    for (path, text) in &pages {
        for link in parts(text).0.iter().flat_map(|line| links(line)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let there = if file.is_empty() { path.clone() } else { plain(&path.parent().unwrap().join(file)) };
            if !root().join(&there).exists() {
                wrong.push(format!("{}: there is no {link}", path.display()));
            } else if !anchor.is_empty() && !headings.get(&there).is_some_and(|headings| headings.contains(anchor)) {
                wrong.push(format!("{}: {} has no heading #{anchor}", path.display(), there.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(followed > 300, "only {followed} links were found");
}

#[test]
fn every_page_is_a_chapter_and_every_chapter_a_page() {
    let pages = pages();
    let summary = Path::new("docs/SUMMARY.md");
    let mut listed = BTreeSet::new();
    for link in pages[summary].lines().flat_map(links) {
        assert!(listed.insert(plain(&Path::new("docs").join(&link))), "docs/SUMMARY.md has {link} twice");
    }
    let mut wanted: BTreeSet<PathBuf> = pages.into_keys().filter(|path| path != summary).collect();
    wanted.retain(|path| path.starts_with("docs"));
    let more = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "charts/egret/README.md",
        "repo-template/README.md",
    ];
    wanted.extend(more.map(PathBuf::from));
    assert_eq!(listed, wanted);
}

fn said(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_egret")).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Commands of `egret` in blocks of code: the words behind `egret`, until the line, a pipe or a comment ends.
fn typed(blocks: &[Vec<String>]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in blocks.iter().flatten() {
        let line = line.trim_start_matches("sudo ").trim_start_matches("$ ");
        let start = ["egret ", "kubectl egret ", "kubectl -n egret-system exec POD -- /egret "]
            .iter()
            .find_map(|start| line.strip_prefix(start));
        let piped = line.split("| egret ").nth(1);
        for rest in start.into_iter().chain(piped) {
            let end = [" | ", " && ", "  ", " #"].iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
            found.push(rest[..end].split_whitespace().map(str::to_owned).collect());
        }
    }
    found
}

#[test]
fn commands_that_pages_tell_to_type_exist_with_their_options() {
    let listed = said(&["--help"]);
    let listed = listed.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let commands: BTreeSet<String> =
        listed.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    let help: BTreeMap<&String, String> =
        commands.iter().map(|command| (command, said(&[command, "--help"]))).collect();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (path, text) in pages() {
        for words in typed(&parts(&text).1) {
            // A block with the program's output begins with other words.
            let Some(command) = words.first().filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
            else {
                continue;
            };
            if command.starts_with('-') {
                continue;
            }
            checked += 1;
            let Some(help) = help.get(command) else {
                wrong.push(format!("{}: egret {}", path.display(), words.join(" ")));
                continue;
            };
            let options = words.iter().filter(|word| word.starts_with("--") && word.len() > 2);
            let unknown = options.map(|word| word.split('=').next().unwrap()).filter(|option| {
                !help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|known| known == *option)
            });
            wrong.extend(unknown.map(|option| format!("{}: egret {command} has no {option}", path.display())));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(checked > 30, "only {checked} commands were found");
}

#[test]
fn values_that_pages_set_are_in_the_chart() {
    let values: Value =
        serde_yaml::from_str(&std::fs::read_to_string(root().join("charts/egret/values.yaml")).unwrap()).unwrap();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (path, text) in pages() {
        // Another program's chart is not ours.
        let ours = parts(&text).1.into_iter().flatten().filter(|line| !line.contains("cilium/cilium"));
        for line in ours {
            for set in line.split("--set ").skip(1).filter_map(|rest| rest.split_whitespace().next()) {
                checked += 1;
                let key = set.split('=').next().unwrap();
                if key.split('.').try_fold(&values, |value, part| value.get(part)).is_none() {
                    wrong.push(format!("{}: the chart has no value {key}", path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(checked > 20, "only {checked} values were found");
}

#[test]
fn documents_on_the_pages_for_beginners_are_valid() {
    let mut checked = 0;
    for (path, text) in pages().into_iter().filter(|(path, _)| path.starts_with("docs/start")) {
        let folder = tempfile::tempdir().unwrap();
        for (index, block) in parts(&text).1.iter().enumerate() {
            let text = block.join("\n");
            if !["apiVersion: egret.dev/", "apiVersion: cilium.io/"].iter().any(|start| text.starts_with(start)) {
                continue;
            }
            let name = if text.contains("\nkind: Config\n") {
                "egret.yaml".to_owned()
            } else {
                format!("policies/{index}.yaml")
            };
            std::fs::create_dir_all(folder.path().join("policies")).unwrap();
            std::fs::write(folder.path().join(name), text).unwrap();
            checked += 1;
        }
        let told: Value =
            serde_json::from_str(&said(&["validate", folder.path().to_str().unwrap(), "-o", "json"])).unwrap();
        assert_eq!(told["diagnostics"], Value::Array(Vec::new()), "{}", path.display());
    }
    assert!(checked >= 6, "only {checked} documents were found");
}
