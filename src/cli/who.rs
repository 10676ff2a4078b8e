//! `egret who`: whose a translated address and port was. `core::nat_record` reads the records.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;

use super::args::{CLUSTER, OUTPUT};
use super::json;
use super::output::{self, Failure, TextOrJson};
use crate::core::nat_record::segment::read;
use crate::core::nat_record::{End, Finder, Found, join};
use crate::core::transfer::FlowProtocol;
use crate::reconcile::persistence::record_files::{FOLDER, segments};

#[derive(Debug, clap::Args)]
pub(super) struct WhoArgs {
    /// The address and port that the destination saw: 10.0.3.42:40123, [fd00::42]:40123.
    #[arg(value_name = "ADDRESS:PORT")]
    translated: SocketAddr,
    /// Only connections that were there at this time, as 2026-11-30T12:00:00Z [default: all that the record has].
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// Only this protocol [default: both].
    #[arg(long, value_name = "PROTOCOL", value_enum)]
    protocol: Option<Protocol>,
    /// Where nodes' state is stored: the records of all nodes in it are read. With those of a gateway and of its sources the answer
    /// names the pod.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret", help_heading = CLUSTER)]
    state_dir: PathBuf,
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = TextOrJson::Text, help_heading = OUTPUT)]
    output: TextOrJson,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The result for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    translated: String,
    connections: Vec<Connection>,
    records: Vec<Record>,
}

/// What is known of one node's record.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    node: String,
    /// Null: it is empty.
    since: Option<String>,
    /// When connections may have begun or ended unseen.
    gaps: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    protocol: String,
    /// Null: only the record of the source's node knows it.
    pod: Option<String>,
    policies: Vec<String>,
    exit: String,
    /// Whose record has it.
    recorded_by: String,
    /// The node that the pod is on.
    source_node: String,
    /// The pod's address and port; at the gateway, those that stand for it inside the tunnel.
    opened_by: String,
    translated: String,
    destination: String,
    start: String,
    /// It had begun before the record does.
    began_before: bool,
    /// Null: it is open, or its end is unknown.
    end: Option<String>,
    /// It ended unseen after this time, or is still open.
    end_unseen_after: Option<String>,
}

pub(super) fn run(args: &WhoArgs) -> Result<ExitCode, Failure> {
    let folders = folders(&args.state_dir)?;
    if folders.is_empty() {
        let hint = "the record is switched on by --nat-record of `egret agent` and `egret run` (natRecord in the chart's values)";
        let message = format!("no node has a NAT record in {}", args.state_dir.display());
        return Err(Failure::new(message, Some(hint.to_owned())));
    }
    let protocol = args.protocol.map(|protocol| match protocol {
        Protocol::Tcp => FlowProtocol::Tcp,
        Protocol::Udp => FlowProtocol::Udp,
    });
    let mut answer = Answer { translated: args.translated.to_string(), connections: Vec::new(), records: Vec::new() };
    for (node, folder) in &folders {
        let finder = search(folder, args.translated)?;
        let gaps = finder.gaps().iter().map(ToString::to_string).collect();
        answer.records.push(Record { node: node.clone(), since: finder.since().map(|since| since.to_string()), gaps });
        for mut found in finder.found(args.at, protocol) {
            if let Some(source) = folders.get(&found.owner.node) {
                let at_source = search(source, found.translation.opened_by)?;
                join(&mut found, &at_source.found(None, protocol));
            }
            answer.connections.push(connection(node, &found));
        }
    }
    let text = match args.output {
        TextOrJson::Text => text(&answer),
        TextOrJson::Json => json::text(&answer),
    };
    output::print(&text)?;
    Ok(if answer.connections.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The records below a state folder, by node.
fn folders(state: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let failed = |error| Failure::new(format!("read {}: {error}", state.display()), None);
    let mut folders = BTreeMap::new();
    for entry in std::fs::read_dir(state).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let record = path.join(FOLDER);
        if let Some(node) = path.file_name().and_then(|name| name.to_str())
            && record.is_dir()
        {
            folders.insert(node.to_owned(), record);
        }
    }
    Ok(folders)
}

fn search(folder: &Path, translated: SocketAddr) -> Result<Finder, Failure> {
    let failed = |error| Failure::new(format!("read {}: {error}", folder.display()), None);
    let mut finder = Finder::new(translated);
    for (_, path) in segments(folder).map_err(failed)? {
        match std::fs::read(&path) {
            Ok(bytes) => read(&bytes, |entry| finder.take(entry)),
            // It made room for a new one just now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(finder)
}

fn connection(recorded_by: &str, found: &Found) -> Connection {
    let Found { translation, owner, start, before, end } = found;
    let (ended, unseen) = match end {
        End::Open => (None, None),
        End::At(end) => (Some(end.to_string()), None),
        End::Unseen(after) => (None, Some(after.to_string())),
    };
    Connection {
        protocol: translation.protocol.to_string(),
        pod: Some(owner.pod.clone()).filter(|pod| !pod.is_empty()),
        policies: owner.policies.clone(),
        exit: owner.exit.clone(),
        recorded_by: recorded_by.to_owned(),
        source_node: if owner.node.is_empty() { recorded_by.to_owned() } else { owner.node.clone() },
        opened_by: translation.opened_by.to_string(),
        translated: translation.translated.to_string(),
        destination: translation.destination.to_string(),
        start: start.to_string(),
        began_before: *before,
        end: ended,
        end_unseen_after: unseen,
    }
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for one in &answer.connections {
        let pod = one.pod.as_deref().unwrap_or("a pod");
        let _ = writeln!(text, "{pod} on {}", one.source_node);
        let policies = if one.policies.is_empty() { String::new() } else { format!(" by {}", one.policies.join(", ")) };
        let _ =
            writeln!(text, "  {} from {} as {} to {}", one.protocol, one.opened_by, one.translated, one.destination);
        let _ = writeln!(text, "  through {}{policies}", one.exit);
        let since = if one.began_before { "before " } else { "" };
        let until = match (&one.end, &one.end_unseen_after) {
            (Some(end), _) => format!("to {end}"),
            (None, Some(after)) => format!("; whether it ended after {after} is unknown"),
            (None, None) => "; it is open".to_owned(),
        };
        let _ = writeln!(text, "  from {since}{} {until}", one.start);
        if one.pod.is_none() && one.source_node != one.recorded_by {
            let _ = writeln!(text, "  `egret who {}` on {} names the pod", one.opened_by, one.source_node);
        }
    }
    if answer.connections.is_empty() {
        let _ = writeln!(text, "nobody is recorded with {}", answer.translated);
    }
    for record in &answer.records {
        let since = record.since.as_ref().map_or_else(|| "is empty".to_owned(), |since| format!("begins at {since}"));
        let _ = writeln!(text, "the record of {} {since}", record.node);
        for gap in &record.gaps {
            let _ =
                writeln!(text, "  recording was interrupted before {gap}: connections may be missing, or their ends");
        }
    }
    text
}
