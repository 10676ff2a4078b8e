//! Watches paths and reports "something below changed": for a repository's references and for folders of manifests.
//!
//! A path need not exist yet, may be replaced by another folder or a symbolic link to one (a mounted ConfigMap swaps
//! `..data`), and its files may be renamed into place, as editors do. inotify watches inodes and not paths, so after
//! every change the watches are renewed where necessary, and a slow poll covers what inotify cannot see.
//!
//! What changed is not reported: events are lost and merged on the way, so the receiver reads the files itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// A change is reported after no event for this long: a push writes several files, and half of it is of no use.
const QUIET: Duration = Duration::from_millis(10);
/// A change is reported after this long at the latest, even while events keep coming.
const IMPATIENCE: Duration = Duration::from_millis(100);
/// How often the watched inodes are compared with those at the paths: inotify does not report when a folder far above is
/// moved.
const RESYNC: Duration = Duration::from_secs(5);

/// Why a watch cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum FileWatchError {
    /// The kernel gave no inotify instance: `fs.inotify.max_user_instances` is what limits them.
    #[error("cannot watch files for changes")]
    Inotify(#[source] notify::Error),
    /// There is no room for another thread.
    #[error("cannot start the thread that watches files")]
    Thread(#[source] std::io::Error),
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    wake: blocking::Sender<Message>,
}

#[derive(Debug)]
enum Message {
    Event(notify::Result<notify::Event>),
    Stop,
}

impl Watcher {
    /// Starts watching. A change before this returns is not reported; every later one is, by one `()` for one or many. A
    /// path that cannot be watched (`fs.inotify.max_user_watches` is reached) is polled every few seconds instead.
    pub fn new(paths: &[PathBuf]) -> Result<(Self, mpsc::Receiver<()>), FileWatchError> {
        let (wake, events) = blocking::channel();
        let handler = wake.clone();
        let inotify = notify::recommended_watcher(move |event| {
            // Fails only while the watcher is being dropped.
            let _ = handler.send(Message::Event(event));
        })
        .map_err(FileWatchError::Inotify)?;
        // Capacity one: a second change before the receiver handled the first adds nothing.
        let (sender, changes) = mpsc::channel(1);
        let mut watch = Watch { inotify, roots: paths.to_vec(), laid: BTreeSet::new(), inodes: Vec::new(), sender };
        watch.lay();
        thread::Builder::new()
            .name("egret-watch".to_owned())
            .spawn(move || watch.run(&events))
            .map_err(FileWatchError::Thread)?;
        Ok((Self { wake }, changes))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Fails if the thread has ended already because the receiver was dropped.
        let _ = self.wake.send(Message::Stop);
    }
}

/// One inotify watch: the path, and whether it is recursive.
type Place = (PathBuf, bool);

/// What is at a path: device, inode, and the time of its last change.
type Inode = (u64, u64, i64, i64);

struct Watch {
    inotify: RecommendedWatcher,
    roots: Vec<PathBuf>,
    laid: BTreeSet<Place>,
    inodes: Vec<Option<Inode>>,
    sender: mpsc::Sender<()>,
}

impl Watch {
    fn run(mut self, events: &blocking::Receiver<Message>) {
        loop {
            let mut changed = match events.recv_timeout(RESYNC) {
                Ok(Message::Event(event)) => self.concerns_us(&event),
                Ok(Message::Stop) | Err(blocking::RecvTimeoutError::Disconnected) => return,
                Err(blocking::RecvTimeoutError::Timeout) => self.moved(),
            };
            if changed {
                let deadline = Instant::now() + IMPATIENCE;
                while changed && Instant::now() < deadline {
                    changed = match events.recv_timeout(QUIET) {
                        Ok(Message::Event(_)) => true,
                        Ok(Message::Stop) => return,
                        Err(_) => false,
                    };
                }
                // Renew the watches first and report afterwards: a change in between is then reported once more.
                self.lay();
                if matches!(self.sender.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                    return;
                }
            }
        }
    }

    /// Whether an event is about one of the watched paths or a folder above one. Reads do not count: the receiver reads
    /// too.
    fn concerns_us(&self, event: &notify::Result<notify::Event>) -> bool {
        // An error or an overrun means that events are missing.
        let Ok(event) = event else { return true };
        if event.need_rescan() {
            return true;
        }
        let nothing_new = match event.kind {
            EventKind::Access(kind) => kind != AccessKind::Close(AccessMode::Write),
            // Modes and times: the contents are unchanged.
            EventKind::Modify(ModifyKind::Metadata(_)) => true,
            _ => false,
        };
        if nothing_new {
            return false;
        }
        event.paths.iter().any(|path| {
            let below_a_watch = self.laid.iter().any(|(place, below)| *below && path.starts_with(place));
            below_a_watch || self.roots.iter().any(|root| path.starts_with(root) || root.starts_with(path))
        })
    }

    /// Puts the watches where the paths are now. Existing watches are renewed: the same path may lead to another folder,
    /// and watching one twice costs nothing.
    fn lay(&mut self) {
        let wanted = merged(&self.roots.iter().flat_map(|root| places(root)).collect());
        for (path, _) in &self.laid {
            // Fails where the path is gone; the kernel removed the watch with it.
            let _ = self.inotify.unwatch(path);
        }
        // The slow poll covers what cannot be watched, for the limit or because it was just deleted.
        let watch = |(path, below): &Place| {
            let mode = if *below { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            self.inotify.watch(path, mode).is_ok()
        };
        self.laid = wanted.into_iter().filter(watch).collect();
        self.inodes = self.inodes_now();
    }

    fn moved(&self) -> bool {
        self.inodes != self.inodes_now()
    }

    /// The inodes of the paths themselves, of their link targets, and of the nearest folders above.
    fn inodes_now(&self) -> Vec<Option<Inode>> {
        let inode = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some((data.dev(), data.ino(), data.mtime(), data.mtime_nsec()))
        };
        self.roots.iter().map(|root| inode(root)).collect()
    }
}

/// What to watch for one path: everything below it, the nearest existing folder above it, in which it will appear or be
/// replaced, and the same for its target if it is a link.
fn places(root: &Path) -> Vec<Place> {
    let mut places = Vec::new();
    let nearest = |path: &Path| path.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned);
    places.extend(nearest(root).map(|folder| (folder, false)));
    if let Ok(target) = root.canonicalize() {
        if target != root {
            places.extend(nearest(&target).map(|folder| (folder, false)));
        }
        places.push((target, true));
    }
    places
}

/// Removes places that a recursive watch covers: inotify holds one watch for one inode, and the later one would narrow
/// it.
fn merged(places: &BTreeSet<Place>) -> BTreeSet<Place> {
    let covered = |place: &Place| {
        places.iter().any(|other| other.1 && (place.0 != other.0 || !place.1) && place.0.starts_with(&other.0))
    };
    places.iter().filter(|place| !covered(place)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, below: bool) -> Place {
        (PathBuf::from(path), below)
    }

    #[test]
    fn a_watch_inside_another_is_left_out() {
        let places = [
            place("/a", false),
            place("/a/b", false),
            place("/a/b", true),
            place("/a/b/c", false),
            place("/a/bc", true),
        ];
        assert_eq!(
            merged(&places.into_iter().collect()),
            BTreeSet::from([place("/a", false), place("/a/b", true), place("/a/bc", true)])
        );
    }

    #[test]
    fn a_path_that_is_not_there_is_awaited_in_the_nearest_folder_above() {
        assert_eq!(places(Path::new("/nonexistent/a/b")), [place("/", false)]);
    }
}
