//! Workflow commands of GitHub, read as strictly as the runner's parser does (actions/runner, `ActionCommand.cs`), and compared with the JSON
//! of the same validation.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{mistakes, validate};

/// A command: its name, its properties, its message.
type WorkflowCommand = (String, BTreeMap<String, String>, String);

/// Nothing but the escapes that the runner knows.
fn unescaped(text: &str, escapes: &[(&str, &str)]) -> String {
    let mut left = text.to_owned();
    for (escape, letter) in escapes {
        left = left.replace(escape, letter);
    }
    let rest = escapes.iter().fold(text.to_owned(), |rest, (escape, _)| rest.replace(escape, ""));
    assert!(!rest.contains('%'), "an escape that no runner knows: {text}");
    left.replace("%25", "%")
}

/// A line as a command; it must be one.
fn command(line: &str) -> WorkflowCommand {
    let data = [("%0D", "\r"), ("%0A", "\n")];
    let properties = [("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ",")];
    let (head, message) = line.strip_prefix("::").and_then(|rest| rest.split_once("::")).expect(line);
    let (name, listed) = head.split_once(' ').expect(line);
    let pairs: Vec<(&str, &str)> = listed.split(',').map(|pair| pair.split_once('=').expect(line)).collect();
    let read: BTreeMap<String, String> = pairs
        .iter()
        .map(|(name, value)| {
            assert!(!value.contains([':', ',']), "not escaped: {line}");
            ((*name).to_owned(), unescaped(&value.replace("%25", "\u{0}"), &properties).replace('\u{0}', "%"))
        })
        .collect();
    assert_eq!(read.len(), pairs.len(), "a property twice: {line}");
    (name.to_owned(), read, unescaped(&message.replace("%25", "\u{0}"), &data).replace('\u{0}', "%"))
}

#[test]
fn every_diagnostic_is_an_annotation_that_the_runner_reads_at_its_place() {
    let folder = mistakes();
    let said = validate(folder.path(), "github");
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let commands: Vec<WorkflowCommand> =
        said.stdout.lines().filter(|line| line.starts_with("::")).map(command).collect();
    let json: Value = serde_json::from_str(&validate(folder.path(), "json").stdout).expect("JSON");
    let diagnostics = json["diagnostics"].as_array().expect("a list");
    assert!(diagnostics.len() > 100, "{}", diagnostics.len());
    assert_eq!(commands.len(), diagnostics.len());
    for ((name, properties, message), diagnostic) in commands.iter().zip(diagnostics) {
        let text = |field: &str| diagnostic[field].as_str().unwrap_or_default();
        let number = |name: &str| properties.get(name).map(|value| value.parse::<u64>().expect("a number"));
        assert_eq!((name.as_str(), properties["file"].as_str()), (text("severity"), text("file")));
        assert_eq!(properties["title"], text("code"));
        assert!(message.starts_with(text("message")), "{message}");
        assert!(diagnostic["hint"].is_null() || message.ends_with(&format!("\nhint: {}", text("hint"))), "{message}");
        let known = ["col", "endColumn", "endLine", "file", "line", "title"];
        assert!(properties.keys().all(|name| known.contains(&name.as_str())), "{properties:?}");
        assert_eq!(number("line").unwrap_or_default(), diagnostic["line"].as_u64().unwrap_or_default());
        let file = std::fs::read_to_string(folder.path().join(&properties["file"])).expect("the file is there");
        let (Some(line), Some(end)) = (number("line"), number("endLine")) else { continue };
        // An end of file that lacks something is one line behind the last.
        assert!(1 <= line && line <= end && end <= file.lines().count() as u64 + 1, "{properties:?}");
        if let (Some(column), Some(last)) = (number("col"), number("endColumn")) {
            assert!(line == end && 1 <= column && column <= last, "{properties:?}");
        }
    }
}
