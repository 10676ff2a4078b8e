//! Reads facts from a file or a folder of manifests, and reads a file again only if it changed.
//!
//! Good content is not replaced by broken or half-written content: `kubectl ... > file` empties the file first, and
//! an editor may save in the middle of a word. A file that cannot be parsed keeps all its objects; an object with an
//! invalid value keeps its previous one. Removals take effect once the file has been unchanged for a moment;
//! additions at once.
//!
//! Not here: watching the folder (see `crate::watch`), and writing to it (see `write`). Merging goes over all objects
//! when one file changed; that takes some 10 ms for 20,000 pods, and a cluster of that size is watched through its
//! API server instead.

mod files;
mod parse;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use files::Stamp;
use parse::{ManifestKey, ManifestObject, ManifestValue, Parsed};

use super::{ClusterError, LabelChanges, Refresh, WatchPath};
use crate::atomic_file::folder;
use crate::core::diagnostic::{Diagnostic, Severity, SpanPoint};
use crate::core::facts::{Facts, Pod};
use crate::core::name::NodeName;
use crate::core::pools::union;

/// How long a file must be unchanged before a removal in it takes effect.
const STILL: Duration = Duration::from_millis(100);

/// In bytes: some 150,000 pods. A larger file is a mistake, and would take the node's memory.
const LARGEST: u64 = 1 << 30;

/// How often `settle` checks again: 2 s in all.
const SETTLE_LOOKS: usize = 20;

/// A file or folder of manifests and its content.
#[derive(Debug)]
pub struct Manifests {
    path: PathBuf,
    files: BTreeMap<PathBuf, KnownFile>,
    facts: Facts,
    faults: Vec<Diagnostic>,
}

/// Parses facts from one text of manifests, with diagnostics. `file` is its name in messages. `Err`: nothing of it
/// can be trusted.
pub fn read_text(file: &str, text: &str) -> Result<(Facts, Vec<Diagnostic>), Box<Diagnostic>> {
    let parsed = parse::parse(file, text)?;
    let mut facts = Facts::default();
    for (key, object) in parsed.objects {
        match (key, object.value) {
            (ManifestKey::Node(name), ManifestValue::Node(node)) => drop(facts.nodes.insert(name, node)),
            (ManifestKey::Namespace(name), ManifestValue::Namespace(labels)) => {
                drop(facts.namespaces.insert(name, labels));
            }
            (ManifestKey::Pod(name), ManifestValue::Pod(pod)) => drop(facts.pods.insert(name, pod)),
            (ManifestKey::EgressNode(name), ManifestValue::EgressNode(Some(host_network))) => {
                drop(facts.host_networks.insert(name, host_network));
            }
            (ManifestKey::Networks(..), ManifestValue::Networks(networks)) => facts.pod_networks.extend(networks),
            _ => {}
        }
    }
    facts.pod_networks = union(facts.pod_networks);
    Ok((facts, parsed.faults))
}

/// The state of one file.
#[derive(Debug, Default)]
struct KnownFile {
    /// Its state when it was last read; none if it never could be read.
    read: Option<Reading>,
    objects: BTreeMap<ManifestKey, ManifestObject>,
    faults: Vec<Diagnostic>,
    /// A state of the file that has not taken effect yet, and when it was first seen.
    doubted: Option<(Stamp, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    stamp: Stamp,
    /// Whether an equal stamp proved an equal file at that time.
    proof: bool,
    hash: u64,
}

/// The result of checking one file.
enum FileRead {
    Same,
    Changed,
    Doubted,
}

impl Manifests {
    /// Opens the file or folder without reading it. An error if it does not exist.
    pub fn open(path: &Path) -> Result<Self, ClusterError> {
        files::list(path).map_err(|source| ClusterError::List { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), files: BTreeMap::new(), facts: Facts::default(), faults: Vec::new() })
    }

    /// The facts as of the last refresh. Of two objects with one name the one in the later file counts, by the files'
    /// names.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Diagnostics as of the last refresh, by file and position.
    pub fn faults(&self) -> &[Diagnostic] {
        &self.faults
    }

    /// Checks every file and reads those that changed. After an error the previous facts stay.
    pub fn refresh(&mut self) -> Result<Refresh, ClusterError> {
        let listed =
            files::list(&self.path).map_err(|source| ClusterError::List { path: self.path.clone(), source })?;
        let known = self.files.len();
        self.files.retain(|path, _| listed.contains(path));
        let mut dirty = self.files.len() != known;
        let mut again = None;
        for path in listed {
            let file = self.files.entry(path.clone()).or_default();
            match file.read(&path) {
                FileRead::Same => {}
                FileRead::Changed => dirty = true,
                FileRead::Doubted => again = Some(STILL),
            }
        }
        let changed = dirty && self.merge();
        Ok(Refresh { changed, again })
    }

    /// Refreshes until no file is being written any more, or for 2 s.
    pub(super) fn require_readable(&mut self) -> Result<(), ClusterError> {
        for _ in 0..SETTLE_LOOKS {
            let Some(wait) = self.refresh()?.again else { return Ok(()) };
            std::thread::sleep(wait);
        }
        self.refresh().map(|_| ())
    }

    /// Changes the labels of a node in the manifest that counts, and returns whether a write was necessary. The facts
    /// have the labels from then on: `refresh` may wait before it accepts a file that was just written.
    pub(super) fn label(&mut self, node: &NodeName, changes: &LabelChanges) -> Result<bool, ClusterError> {
        let key = ManifestKey::Node(node.clone());
        let found = self.files.iter_mut().rev().find_map(|(path, file)| Some((path, file.objects.get_mut(&key)?)));
        let (path, object) =
            found.ok_or_else(|| ClusterError::UnknownNode { node: node.clone(), path: self.path.clone() })?;
        let written = write::label(&self.path, path, node, changes)?;
        if let ManifestValue::Node(known) = &mut object.value {
            known.labels.retain(|label, _| !changes.remove.contains(label));
            known.labels.extend(changes.set.clone());
        }
        self.merge();
        Ok(written)
    }

    /// A single file is watched through its folder: a rename over it is a change of the folder.
    pub(super) fn watch_path(&self) -> WatchPath {
        let recursive = self.path.is_dir();
        WatchPath { path: if recursive { self.path.clone() } else { folder(&self.path).to_owned() }, recursive }
    }

    /// Merges the files' objects anew, and returns whether the facts changed.
    fn merge(&mut self) -> bool {
        let mut facts = Facts::default();
        let mut faults = Vec::new();
        let mut owners: BTreeMap<&ManifestKey, &Path> = BTreeMap::new();
        for (path, file) in &self.files {
            faults.extend(file.faults.iter().cloned());
            for (key, object) in &file.objects {
                if let Some(earlier) = owners.insert(key, path) {
                    let message = format!("{key} is in {} already; this one counts", earlier.display());
                    faults.push(fault(path, object.place, "twice", message, Severity::Warning));
                }
                match (key, &object.value) {
                    (ManifestKey::Node(name), ManifestValue::Node(node)) => {
                        drop(facts.nodes.insert(name.clone(), node.clone()));
                    }
                    (ManifestKey::Namespace(name), ManifestValue::Namespace(labels)) => {
                        facts.namespaces.insert(name.clone(), labels.clone());
                    }
                    (ManifestKey::Pod(name), ManifestValue::Pod(pod)) => {
                        drop(facts.pods.insert(name.clone(), pod.clone()));
                    }
                    (ManifestKey::EgressNode(name), ManifestValue::EgressNode(Some(host_network))) => {
                        facts.host_networks.insert(name.clone(), host_network.clone());
                    }
                    (ManifestKey::Networks(..), ManifestValue::Networks(networks)) => {
                        facts.pod_networks.extend(networks);
                    }
                    _ => {}
                }
            }
        }
        facts.pod_networks = union(facts.pod_networks);
        faults.sort();
        self.faults = faults;
        let changed = facts != self.facts;
        self.facts = facts;
        changed
    }
}

impl KnownFile {
    fn read(&mut self, path: &Path) -> FileRead {
        let (stamp, bytes) = match self.read_if_changed(path) {
            Ok(Some(read)) => read,
            Ok(None) => return FileRead::Same,
            Err(error) => {
                // Read again at the next refresh, whatever the stamp.
                self.read = None;
                let faults =
                    vec![fault(path, start(), "unreadable", format!("it cannot be read: {error}"), Severity::Error)];
                return self.keep_objects(faults);
            }
        };
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let reading = Reading { stamp, proof: stamp.is_proof(), hash: hasher.finish() };
        if self.read.is_some_and(|before| before.hash == reading.hash) {
            self.read = Some(reading);
            self.doubted = None;
            return FileRead::Same;
        }
        let parsed = match std::str::from_utf8(&bytes) {
            Ok(text) => parse::parse(&path.display().to_string(), text).map_err(|fault| *fault),
            Err(error) => Err(not_utf8(path, &bytes, error)),
        };
        let doubtful = parsed.as_ref().map_or(true, |parsed| may_be_cut_off(&bytes) || self.would_lose(parsed));
        if doubtful && !self.is_still(stamp) {
            return FileRead::Doubted;
        }
        self.doubted = None;
        self.read = Some(reading);
        match parsed {
            Ok(parsed) => self.take(parsed),
            Err(fault) => self.keep_objects(vec![fault]),
        }
    }

    /// The file's state and bytes; none if its stamp proves that it is unchanged.
    fn read_if_changed(&self, path: &Path) -> io::Result<Option<(Stamp, Vec<u8>)>> {
        // The stamp is taken before reading: a concurrent write shows as another stamp at the next refresh.
        let stamp = Stamp::of(&std::fs::metadata(path)?);
        if self.read.is_some_and(|before| before.proof && before.stamp == stamp) {
            return Ok(None);
        }
        // A pipe with a manifest's name must not block the loop: without the flag, opening it waits for a writer.
        let mut file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        if metadata.len() > LARGEST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 GiB"));
        }
        let stamp = Stamp::of(&metadata);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some((stamp, bytes)))
    }

    /// Whether the file has been in this state for long enough. Its modification time would be enough if clocks never
    /// jumped.
    fn is_still(&mut self, stamp: Stamp) -> bool {
        match self.doubted {
            Some((doubted, since)) if doubted == stamp => since.elapsed() >= STILL || stamp.is_older_than(STILL),
            _ => {
                self.doubted = Some((stamp, Instant::now()));
                stamp.is_older_than(STILL)
            }
        }
    }

    /// Whether an object would be removed or lose fields, as if the file had been truncated.
    fn would_lose(&self, parsed: &Parsed) -> bool {
        let broken: BTreeSet<&ManifestKey> = parsed.broken.iter().collect();
        self.objects.iter().any(|(key, before)| match parsed.objects.get(key) {
            Some(after) => has_less(&before.value, &after.value),
            None => !broken.contains(key),
        })
    }

    fn take(&mut self, parsed: Parsed) -> FileRead {
        let mut objects = parsed.objects;
        for key in parsed.broken {
            if let Some(last_good) = self.objects.remove(&key) {
                objects.entry(key).or_insert(last_good);
            }
        }
        if self.objects == objects && self.faults == parsed.faults {
            return FileRead::Same;
        }
        self.objects = objects;
        self.faults = parsed.faults;
        FileRead::Changed
    }

    fn keep_objects(&mut self, faults: Vec<Diagnostic>) -> FileRead {
        if self.faults == faults {
            return FileRead::Same;
        }
        self.faults = faults;
        FileRead::Changed
    }
}

/// Whether a valid text may be the beginning of a longer one. YAML may end at any line; JSON, which `json.dump`
/// writes without a newline at its end, is complete once its outermost bracket is closed.
fn may_be_cut_off(bytes: &[u8]) -> bool {
    let closed = match bytes.trim_ascii_start().first() {
        Some(b'{') => bytes.ends_with(b"}"),
        Some(b'[') => bytes.ends_with(b"]"),
        _ => false,
    };
    !closed && !bytes.ends_with(b"\n")
}

fn has_less(before: &ManifestValue, after: &ManifestValue) -> bool {
    match (before, after) {
        (ManifestValue::Node(before), ManifestValue::Node(after)) => {
            after.labels.len() < before.labels.len()
                || after.addresses.len() < before.addresses.len()
                || after.pod_cidrs.len() < before.pod_cidrs.len()
        }
        (ManifestValue::Namespace(before), ManifestValue::Namespace(after)) => after.len() < before.len(),
        (ManifestValue::Pod(before), ManifestValue::Pod(after)) => {
            let node_lost = |before: &Pod, after: &Pod| before.node.is_some() && after.node.is_none();
            after.labels.len() < before.labels.len()
                || after.addresses.len() < before.addresses.len()
                || node_lost(before, after)
                // `status` comes last: without it a finished pod would seem to run, and a host network pod to have an
                // address of its own.
                || before.finished && !after.finished
                || before.host_network && !after.host_network
        }
        (ManifestValue::EgressNode(before), ManifestValue::EgressNode(after)) => before.is_some() && after.is_none(),
        (ManifestValue::Networks(before), ManifestValue::Networks(after)) => after.len() < before.len(),
        _ => true,
    }
}

fn not_utf8(path: &Path, bytes: &[u8], error: std::str::Utf8Error) -> Diagnostic {
    let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    fault(path, SpanPoint::at(&good, good.len()), "not-utf8", "this byte is not UTF-8".to_owned(), Severity::Error)
}

fn fault(path: &Path, place: SpanPoint, code: &'static str, message: String, severity: Severity) -> Diagnostic {
    let file = path.display().to_string();
    Diagnostic { file, start: place, end: place, severity, code, message, label: String::new(), hint: None }
}

fn start() -> SpanPoint {
    SpanPoint { offset: 0, line: 1, column: 1 }
}
