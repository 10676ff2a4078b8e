//! A real Prometheus, servers that give it pages one after the other, and what it answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use super::super::stand::{DEADLINE, Outcome};
use super::pages::Pages;
use crate::lab::{Lab, LabError, Namespace, Process, wait_until};

/// Values of a series, each with its time.
type Points = Vec<(f64, f64)>;

const LISTEN: &str = "127.0.0.1:9490";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves one page after the other, and the last one from then on.
struct Replay {
    namespace: Namespace,
    address: SocketAddr,
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pages: usize,
}

impl Replay {
    fn start(namespace: Namespace, pages: Vec<String>) -> Result<Self, LabError> {
        let bound = namespace.enter(|| TcpListener::bind("127.0.0.1:0"))?;
        let listener = bound.map_err(LabError::doing("listen for Prometheus"))?;
        let address = listener.local_addr().map_err(LabError::doing("listen for Prometheus"))?;
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped, number) = (Arc::clone(&served), Arc::clone(&stop), pages.len());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let page = &pages[count.load(Ordering::Relaxed).min(pages.len() - 1)];
                if answer(stream, page).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { namespace, address, served, stop, thread: Some(thread), pages: number })
    }

    fn is_over(&self) -> bool {
        self.served.load(Ordering::Relaxed) > self.pages
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The thread waits for a connection.
        let _ = self.namespace.enter(|| TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, page: &str) -> std::io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let length = page.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {OPEN_METRICS}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(page.as_bytes())
}

/// Prometheus beside a lab's router, with everything scraped.
pub(super) struct Prometheus {
    namespace: Namespace,
    process: Process,
    /// Served to the end.
    _replays: Vec<Replay>,
    /// The time of the last pages.
    pub(super) now: f64,
}

impl Prometheus {
    /// Starts it, and waits until it has scraped all pages.
    pub(super) fn start(lab: &Lab, program: &str, pages: &Pages, now: f64) -> Result<Self, LabError> {
        let mut config = "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n".to_owned();
        let mut replays = Vec::new();
        for process in pages.processes.keys() {
            let replay = Replay::start(lab.router(), pages.at_times(process, now))?;
            // As the chart's PodMonitors name them.
            let (job, label) = match process.as_str() {
                "controller" => ("egret-system/egret-controller", String::new()),
                node => {
                    ("egret-system/egret-agent", format!(", labels: {{node: {node}, job: egret-system/egret-agent}}"))
                }
            };
            let name = if label.is_empty() { job } else { process };
            let target =
                format!("- job_name: {name}\n  static_configs: [{{targets: ['{}']{label}}}]\n", replay.address);
            config.push_str(&target);
            replays.push(replay);
        }
        let file = lab.folder().join("prometheus.yaml");
        std::fs::write(&file, config).map_err(LabError::doing("write Prometheus' configuration"))?;
        let words = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", lab.folder().join("prometheus").display()),
            format!("--web.listen-address={LISTEN}"),
            "--log.level=warn".to_owned(),
        ];
        let process = lab.start_beside_router(program, words)?;
        let over = wait_until(DEADLINE, || replays.iter().all(Replay::is_over));
        assert!(over, "Prometheus does not scrape: {}", process.output()?);
        Ok(Self { namespace: lab.router(), process, _replays: replays, now })
    }

    /// An answer's series: labels, and the values with their times.
    fn ask(&self, path: &str) -> Outcome<Vec<(Value, Points)>> {
        let answer =
            self.namespace.enter(|| fetch(path))?.map_err(LabError::doing(format!("ask Prometheus for {path}")))?;
        let read: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert_eq!(read["status"], "success", "{path}: {answer}\n{}", self.process.output()?);
        let pair = |pair: &Value| {
            (pair[0].as_f64().expect("a time"), pair[1].as_str().and_then(|text| text.parse().ok()).expect("a number"))
        };
        let series = read["data"]["result"].as_array().cloned().unwrap_or_default();
        let values = |one: &Value| match one["values"].as_array() {
            Some(values) => values.iter().map(pair).collect(),
            None => vec![pair(&one["value"])],
        };
        Ok(series.iter().map(|one| (one["metric"].clone(), values(one))).collect())
    }

    /// The values of an expression at the time of the last pages, by the legend's text.
    pub(super) fn values(&self, expression: &str, legend: &str) -> Outcome<Vec<(String, f64)>> {
        let path = format!("/api/v1/query?query={}&time={:.3}", encoded(&whole(expression)), self.now);
        let mut found: Vec<(String, f64)> =
            self.ask(&path)?.iter().map(|(labels, values)| (named(legend, labels), values[0].1)).collect();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// The same over the time of all pages.
    pub(super) fn lines(&self, expression: &str, legend: &str, seconds: f64) -> Outcome<Vec<(String, Points)>> {
        let (query, from) = (encoded(&whole(expression)), self.now - seconds);
        let path = format!("/api/v1/query_range?query={query}&start={from:.3}&end={:.3}&step=5", self.now);
        Ok(self.ask(&path)?.into_iter().map(|(labels, values)| (named(legend, &labels), values)).collect())
    }
}

/// As Grafana fills in its variables.
fn whole(expression: &str) -> String {
    expression.replace("$__rate_interval", "2m")
}

/// `{{exit}}` is the label's value. Without a legend it is the only label there is.
fn named(legend: &str, labels: &Value) -> String {
    let labels = labels.as_object().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if legend.is_empty() {
        return labels.values().map(text).collect();
    }
    labels
        .iter()
        .fold(legend.to_owned(), |legend, (key, value)| legend.replace(&format!("{{{{{key}}}}}"), &text(value)))
}

/// Everything but letters and digits, as in a query of a URL.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

/// HTTP/1.0, so that the answer comes in one piece.
fn fetch(path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(LISTEN)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
