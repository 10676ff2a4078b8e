//! A double of what GitHub does for Apps: it believes a signature that openssl believes and times by its own clock, and gives tokens that end.
//!
//! After docs.github.com, "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an installation access token for a GitHub
//! App". Deliberately absent: whatever a token is good for.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The App's id.
pub(crate) const ID: &str = "4242";
/// The number of its installation.
pub(crate) const INSTALLATION: u64 = 77;

/// What the double is like now; a test changes it.
#[derive(Debug)]
pub(crate) struct State {
    /// The repository that it is installed for.
    pub(crate) project: String,
    /// How far its clock is ahead of ours, in seconds.
    pub(crate) ahead: i64,
    /// How long a token is good, in seconds.
    pub(crate) lifetime: i64,
    /// What the installation may.
    pub(crate) granted: BTreeMap<String, String>,
    /// Bodies of requests for tokens that were granted.
    pub(crate) given: Vec<Value>,
    /// Everything that was asked: `GET /path STATUS`.
    pub(crate) asked: Vec<String>,
    /// What it answers to everything, if it is out of order.
    pub(crate) broken: Option<(u16, String)>,
    /// A file that gets each new token for Git as the password of `x-access-token`, in place of the last one.
    pub(crate) passwords: Option<PathBuf>,
}

pub(crate) struct Double {
    pub(crate) port: u16,
    pub(crate) folder: TempDir,
    state: Arc<Mutex<State>>,
}

fn openssl(folder: &Path, words: &[&str]) -> bool {
    let output = Command::new("openssl").args(words).current_dir(folder).output().expect("openssl is installed");
    output.status.success()
}

impl Double {
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        for name in ["app", "other"] {
            let (key, public) = (format!("{name}.pem"), format!("{name}.public"));
            assert!(openssl(folder.path(), &["genrsa", "-traditional", "-out", &key, "2048"]));
            assert!(openssl(folder.path(), &["rsa", "-in", &key, "-pubout", "-out", &public]));
        }
        let granted = [("contents", "write"), ("pull_requests", "write"), ("statuses", "write"), ("checks", "write")];
        let state = State {
            project: "empire/policies".to_owned(),
            ahead: 0,
            lifetime: 3600,
            granted: granted.map(|(what, how)| (what.to_owned(), how.to_owned())).into(),
            given: Vec::new(),
            asked: Vec::new(),
            broken: None,
            passwords: None,
        };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (shared, at) = (Arc::clone(&state), folder.path().to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Whoever breaks off needs no answer.
                let _ = serve(&client, &shared, &at);
            }
        });
        Self { port, folder, state }
    }

    pub(crate) fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The App's key; or one that GitHub does not know.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.pem"))
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("nobody panicked"))
    }
}

fn serve(client: &TcpStream, state: &Mutex<State>, folder: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut line, mut headers) = (String::new(), BTreeMap::new());
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut state = state.lock().expect("nobody panicked");
    let now = Timestamp::now() + SignedDuration::from_secs(state.ahead);
    let (status, answer) = match state.broken.clone() {
        Some((status, message)) => (status, json!({ "message": message })),
        None => answer(&mut state, folder, &line, &headers, &body, now),
    };
    state.asked.push(format!("{line} {status}"));
    drop(state);
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now).expect("a date");
    let answer = answer.to_string();
    let head = format!("HTTP/1.1 {status} X\r\nDate: {date}\r\nConnection: close\r\nContent-Length: {}", answer.len());
    let mut client = client;
    write!(client, "{head}\r\nContent-Type: application/json\r\n\r\n{answer}")
}

fn answer(
    state: &mut State,
    folder: &Path,
    line: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
    now: Timestamp,
) -> (u16, Value) {
    if !headers.get("user-agent").is_some_and(|agent| agent.starts_with("egret/")) {
        return (403, json!({ "message": "Request forbidden by administrative rules." }));
    }
    let token = headers.get("authorization").and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    if let Err(message) = believed(token, folder, now) {
        return (401, json!({ "message": message }));
    }
    let tokens = format!("POST /app/installations/{INSTALLATION}/access_tokens");
    let lookups =
        [format!("GET /repos/{}/installation", state.project), format!("GET /app/installations/{INSTALLATION}")];
    match line {
        line if lookups.iter().any(|known| known == line) => {
            (200, json!({ "id": INSTALLATION, "app_slug": "egret", "permissions": state.granted }))
        }
        line if line == tokens => give(state, body, now),
        _ => (404, json!({ "message": "Not Found" })),
    }
}

fn give(state: &mut State, body: &[u8], now: Timestamp) -> (u16, Value) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let wanted = body["permissions"].as_object().cloned().unwrap_or_default();
    let granted = |what: &String, how: &Value| {
        state.granted.get(what).is_some_and(|level| level == "write" || *how == json!(level))
    };
    if !wanted.iter().all(|(what, how)| granted(what, how)) {
        return (422, json!({ "message": "The permissions requested are not granted to this installation." }));
    }
    state.given.push(body);
    let token = format!("ghs_{}", state.given.len());
    if let Some(path) = state.passwords.as_ref().filter(|_| !wanted.contains_key("pull_requests")) {
        fs::write(path, format!("x-access-token:{token}\n")).expect("a file of passwords");
    }
    let end = now + SignedDuration::from_secs(state.lifetime);
    let end = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    (201, json!({ "token": token, "expires_at": end, "permissions": wanted }))
}

/// GitHub's words for what it does not believe.
fn believed(token: &str, folder: &Path, now: Timestamp) -> Result<(), &'static str> {
    const UNREADABLE: &str = "A JSON web token could not be decoded";
    let (message, signature) = token.rsplit_once('.').ok_or(UNREADABLE)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| UNREADABLE);
    let (head, claims) = message.split_once('.').ok_or(UNREADABLE)?;
    let read = |part: &str| serde_json::from_slice::<Value>(&decoded(part)?).map_err(|_| UNREADABLE);
    let (head, claims) = (read(head)?, read(claims)?);
    fs::write(folder.join("message"), message).map_err(|_| UNREADABLE)?;
    fs::write(folder.join("signature"), decoded(signature)?).map_err(|_| UNREADABLE)?;
    let verify = ["dgst", "-sha256", "-verify", "app.public", "-signature", "signature", "message"];
    if head != json!({ "alg": "RS256", "typ": "JWT" }) || !openssl(folder, &verify) {
        return Err(UNREADABLE);
    }
    let now = now.as_second();
    if claims["iat"].as_i64().is_none_or(|iat| iat > now) {
        return Err("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued");
    }
    match claims["exp"].as_i64() {
        Some(exp) if exp <= now => Err(
            "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
        ),
        Some(exp) if exp > now + 600 => Err("'Expiration time' claim ('exp') is too far in the future"),
        Some(_) if claims["iss"] == ID => Ok(()),
        _ => Err("Integration not found"),
    }
}
