//! Replays what was said to a real server 1.36, exchange by exchange, and compares what is answered with what it answered.
//!
//! Uids and versions are another server's: each is learned where it is first seen and has to be the same from then on, and versions have to
//! grow as they grew there. Times, and what the server says about its own build, are not compared.
//! Deliberately absent: any exchange that is treated unlike the others. Between them the recorder did more than it wrote down; what it left
//! in its answers is done here in the same way.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::apiserver::ApiServer;

const RECORDER: &str = "token-of-the-recorder";
const ACCOUNT: &str = "token-of-the-account";

/// What is known of the other server's uids and versions.
#[derive(Default)]
struct Mapping {
    uids: BTreeMap<String, String>,
    versions: BTreeMap<u64, u64>,
}

impl Mapping {
    /// Learns or compares one value of a kind that differs between servers. Two of theirs are never one of ours.
    fn meet<T: Ord + Clone + std::fmt::Display>(
        known: &mut BTreeMap<T, T>,
        recorded: &T,
        actual: &T,
    ) -> Result<(), String> {
        known.entry(recorded.clone()).or_insert_with(|| actual.clone());
        let wrong = known.iter().find(|(theirs, ours)| (*theirs == recorded) != (*ours == actual));
        wrong.map_or(Ok(()), |(theirs, ours)| {
            Err(format!("{theirs} is {ours} here, and so {recorded} cannot be {actual}"))
        })
    }

    fn version(&mut self, recorded: u64, actual: u64) -> Result<(), String> {
        Self::meet(&mut self.versions, &recorded, &actual)?;
        let grows = self.versions.values().zip(self.versions.values().skip(1)).all(|(one, next)| one < next);
        if grows { Ok(()) } else { Err(format!("versions do not grow as they did: {:?}", self.versions)) }
    }

    /// Every place at which two answers differ.
    fn differences(&mut self, path: &str, recorded: &Value, actual: &Value, found: &mut Vec<String>) {
        let name = path.rsplit('.').next().unwrap_or_default();
        let outcome = match (recorded, actual) {
            (Value::Object(one), Value::Object(other)) => {
                for key in one.keys().chain(other.keys().filter(|key| !one.contains_key(*key))) {
                    let missing = Value::from("nothing");
                    let (one, other) = (one.get(key).unwrap_or(&missing), other.get(key).unwrap_or(&missing));
                    self.differences(&format!("{path}.{key}"), one, other, found);
                }
                Ok(())
            }
            (Value::Array(one), Value::Array(other)) if one.len() != other.len() => {
                Err(format!("there were {} and are {}", one.len(), other.len()))
            }
            (Value::Array(one), Value::Array(other)) => {
                for (index, (one, other)) in one.iter().zip(other).enumerate() {
                    self.differences(&format!("{path}.{index}"), one, other, found);
                }
                Ok(())
            }
            (Value::String(one), Value::String(other)) => match name {
                "uid" => Self::meet(&mut self.uids, one, other),
                "resourceVersion" => self.version(number(one), number(other)),
                "continue" if !one.is_empty() && !other.is_empty() => {
                    let [one, other] = [one, other].map(|token| page(token));
                    return self.differences(&format!("{path}.page"), &one, &other, found);
                }
                "time" | "creationTimestamp" => is_time(other),
                _ if one == other => Ok(()),
                _ => Err(format!("was {one:?} and is {other:?}")),
            },
            (Value::Number(one), Value::Number(other)) if name == "rv" => {
                self.version(one.as_u64().unwrap_or_default(), other.as_u64().unwrap_or_default())
            }
            (one, other) if one == other => Ok(()),
            (one, other) => Err(format!("was {one} and is {other}")),
        };
        found.extend(outcome.err().map(|what| format!("{path}: {what}")));
    }

    /// A request with what this server calls the objects.
    fn translated(&self, value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| match (key.as_str(), value) {
                    ("resourceVersion", Value::String(text)) => (key.clone(), json!(self.version_of(text))),
                    ("uid", Value::String(text)) => (key.clone(), json!(self.uids.get(text).unwrap_or(text))),
                    (_, value) => (key.clone(), self.translated(value)),
                })
                .collect(),
            Value::Array(items) => items.iter().map(|item| self.translated(item)).collect(),
            other => other.clone(),
        }
    }

    fn version_of(&self, text: &str) -> String {
        self.versions.get(&number(text)).map_or_else(|| text.to_owned(), u64::to_string)
    }

    fn path(&self, path: &str) -> String {
        let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
        let pair = |pair: &str| match pair.split_once('=') {
            Some(("resourceVersion", version)) => format!("resourceVersion={}", self.version_of(version)),
            _ => pair.to_owned(),
        };
        format!("{path}?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a version")
}

fn page(token: &str) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(token).expect("a token");
    serde_json::from_slice(&bytes).expect("a page")
}

fn is_time(text: &str) -> Result<(), String> {
    text.parse::<jiff::Timestamp>().map(|_| ()).map_err(|error| format!("{text}: {error}"))
}

/// Asks over a plain socket, so that nothing of a client's is in between. Gives the status, the kind of content and the body.
fn ask(server: &ApiServer, method: &str, path: &str, kind: &str, token: &str, body: &str) -> (u16, String, String) {
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).expect("the server");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: recorder/1.0\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let chunked = header("transfer-encoding").is_some();
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    (status, header("content-type").unwrap_or_default(), body)
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        body.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    body
}

/// What the recorder did before an exchange and did not write down, as far as later answers show it.
fn unrecorded(server: &ApiServer, next: &str, exchanges: &[Value]) {
    let again = |name: &str, replace: &[(&str, &str)]| {
        let exchange = exchanges.iter().find(|one| one["name"] == name).expect("an exchange");
        let mut text = exchange["request"].to_string();
        for (from, to) in replace {
            text = text.replace(from, to);
        }
        let request: Value = serde_json::from_str(&text).expect("a request");
        let (status, _, body) = send(server, &request);
        assert!(status < 300, "{name}: {body}");
    };
    let worker = [("kind-worker2", "kind-worker"), ("10.1.2.0", "10.1.1.0"), ("172.18.0.3", "172.18.0.2")];
    let xwing = [("tiefighter", "xwing"), ("empire", "alliance"), ("10.1.1.177", "10.1.1.234")];
    match next {
        "create node kind-worker2" => {
            again("create node kind-worker2", &worker);
            again("patch status of kind-worker2", &worker);
        }
        "list pods of one node" => {
            again("create pod tiefighter", &xwing);
            again("patch status of pod tiefighter", &xwing);
        }
        "watch nodes from the list" => server.delete("nodes", "", "ghost"),
        _ => {}
    }
}

fn send(server: &ApiServer, request: &Value) -> (u16, String, String) {
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    let token = match text("authorization") {
        "" => RECORDER,
        "Bearer <token of a service account>" => ACCOUNT,
        other => other.trim_start_matches("Bearer "),
    };
    let body = if request["body"].is_null() { String::new() } else { request["body"].to_string() };
    ask(server, text("method"), text("path"), text("content_type"), token, &body)
}

/// The body of an answer in the form of the recording: events as a list.
fn read(recorded: &Value, body: &str) -> Value {
    match recorded {
        Value::Array(_) => body.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event")).collect(),
        Value::String(_) => json!(body),
        _ => serde_json::from_str(body).unwrap_or_else(|_| json!(body)),
    }
}

#[test]
fn every_exchange_with_a_real_server_goes_as_it_went() {
    let text = include_str!("../../apiserver/exchanges.json");
    let recording: Value = serde_json::from_str(text).expect("exchanges.json");
    let exchanges = recording["exchanges"].as_array().expect("exchanges");
    let server = ApiServer::local().expect("a server");
    server.admin("recorder", RECORDER);
    server.user("system:serviceaccount:default:egret-agent", ACCOUNT);
    // Entries of one second are in the order of their names: the recorder's were.
    server.stop_clock("2026-11-22T19:56:38Z");
    let mut mapping = Mapping::default();
    let mut found = Vec::new();
    for exchange in exchanges {
        let name = exchange["name"].as_str().expect("a name");
        unrecorded(&server, name, exchanges);
        let mut request = mapping.translated(&exchange["request"]);
        request["path"] = json!(mapping.path(request["path"].as_str().expect("a path")));
        let (status, kind, body) = send(&server, &request);
        let response = &exchange["response"];
        let actual = json!({"status": status, "content_type": kind, "body": read(&response["body"], &body)});
        let mut recorded = json!({});
        for field in ["status", "content_type", "body"] {
            recorded[field] = response[field].clone();
        }
        let mut differences = Vec::new();
        mapping.differences("", &recorded, &actual, &mut differences);
        let build = |one: &String| name == "version" && one.starts_with(".body.");
        found.extend(differences.iter().filter(|one| !build(one)).map(|one| format!("{name}: {one}")));
    }
    assert_eq!(exchanges.len(), 43);
    assert_eq!(found, Vec::<String>::new());
}
