//! The watcher against the real inotify. It is waited for generously: only that a change is told counts, not when.
//!
//! Deliberately absent: proving that nothing is told where nothing changed, beyond our own reading.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use egret::git::source::{Insecure, Source};
use egret::watch::Watcher;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::fixture::Origin;

const GENEROUS: Duration = Duration::from_secs(30);

struct Watched {
    _watcher: Watcher,
    told: mpsc::Receiver<()>,
    runtime: tokio::runtime::Runtime,
}

impl Watched {
    fn new(paths: &[PathBuf]) -> Self {
        let (watcher, told) = Watcher::new(paths).expect("a watcher");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { _watcher: watcher, told, runtime }
    }

    /// Does something and waits until it is told.
    fn tells(&mut self, what: &str, act: impl FnOnce()) {
        self.settle();
        act();
        let told = self.runtime.block_on(async { tokio::time::timeout(GENEROUS, self.told.recv()).await });
        assert_eq!(told.ok().flatten(), Some(()), "{what}");
    }

    /// Lets what came before be told, so that it is not taken for what comes next.
    fn settle(&mut self) {
        let quiet = Duration::from_millis(300);
        while self.runtime.block_on(async { tokio::time::timeout(quiet, self.told.recv()).await }).is_ok() {}
    }

    fn silent(&mut self, what: &str, act: impl FnOnce()) {
        self.settle();
        act();
        let told =
            self.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(300), self.told.recv()).await });
        assert!(told.is_err(), "{what}");
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
}

#[test]
fn a_push_to_a_bare_repository_is_seen_and_our_own_looks_are_not() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let source = Source::parse(origin.bare.to_str().expect("UTF-8"), Insecure::Refuse).expect("a source");
    let mut watched = Watched::new(&source.watched());
    let mut mirror = origin.mirror();
    watched.tells("a push", || {
        origin.push(&[("a.yaml", "a: 2\n")], "second");
    });
    watched.silent("fetching and listing", || {
        assert!(mirror.head(None).expect("a look").moved);
        assert!(!mirror.head(None).expect("another").moved);
    });
    watched.tells("packed references", || drop(origin.in_bare(&["pack-refs", "--all"])));
    watched.tells("a push after that", || {
        origin.push(&[("a.yaml", "a: 3\n")], "third");
    });
    watched.tells("a new branch", || drop(origin.git(&["push", "origin", "main:team/side"])));
}

#[test]
fn files_are_seen_however_they_are_written() {
    let folder = TempDir::new().expect("a folder");
    let nodes = folder.path().join("cluster/nodes.yaml");
    fs::create_dir(folder.path().join("cluster")).expect("a folder");
    write(&nodes, "1");
    let mut watched = Watched::new(&[folder.path().join("cluster")]);
    watched.tells("a file written in place", || write(&nodes, "2"));
    let beside = folder.path().join("cluster/.nodes.yaml.swp");
    write(&beside, "3");
    watched.tells("a rename over it", || fs::rename(&beside, &nodes).expect("a rename"));
    watched.silent("reading", || drop(fs::read_to_string(&nodes)));
    let deeper = folder.path().join("cluster/pods/batuu");
    watched.tells("new folders", || fs::create_dir_all(&deeper).expect("folders"));
    watched.tells("a file in a new folder", || write(&deeper.join("tiefighter.yaml"), "1"));
    watched.tells("a file removed", || fs::remove_file(deeper.join("tiefighter.yaml")).expect("it goes"));
}

#[test]
fn a_single_file_is_seen_when_it_is_replaced_again_and_again() {
    let folder = TempDir::new().expect("a folder");
    let (file, beside) = (folder.path().join("cluster.yaml"), folder.path().join("new"));
    let mut watched = Watched::new(std::slice::from_ref(&file));
    watched.tells("it appears", || write(&file, "1"));
    for round in 0..3 {
        write(&beside, "2");
        watched.tells(&format!("replaced {round}"), || fs::rename(&beside, &file).expect("a rename"));
        watched.tells(&format!("written {round}"), || write(&file, "3"));
    }
    watched.silent("another file beside it", || write(&folder.path().join("other"), "1"));
}

#[test]
fn a_folder_may_come_late_go_and_be_another() {
    let folder = TempDir::new().expect("a folder");
    let (above, cluster) = (folder.path().join("a/b"), folder.path().join("a/b/cluster"));
    let mut watched = Watched::new(std::slice::from_ref(&cluster));
    watched.tells("it comes", || fs::create_dir_all(&cluster).expect("folders"));
    watched.tells("a file in it", || write(&cluster.join("x"), "1"));
    watched.tells("it goes", || fs::remove_dir_all(&above).expect("it goes"));
    watched.tells("it comes back", || fs::create_dir_all(&cluster).expect("folders"));
    watched.tells("a file in the new one", || write(&cluster.join("x"), "1"));
    let other = folder.path().join("other");
    fs::create_dir(&other).expect("a folder");
    write(&other.join("x"), "2");
    watched.tells("another takes its place", || {
        fs::rename(&cluster, folder.path().join("old")).expect("a rename");
        fs::rename(&other, &cluster).expect("a rename");
    });
    watched.tells("a file in the other", || write(&cluster.join("x"), "3"));
    watched.tells("the folder two above is another", || {
        fs::rename(folder.path().join("a"), folder.path().join("gone")).expect("a rename");
        fs::create_dir_all(&cluster).expect("folders");
    });
    watched.tells("a file after that", || write(&cluster.join("x"), "4"));
}

#[test]
fn a_mounted_config_map_is_seen_when_its_link_is_swapped() {
    let folder = TempDir::new().expect("a folder");
    let mount = folder.path().join("mount");
    let swap = |version: &str| {
        let data = mount.join(format!("..{version}"));
        fs::create_dir_all(&data).expect("a folder");
        write(&data.join("nodes.yaml"), version);
        std::os::unix::fs::symlink(format!("..{version}"), mount.join("..data_tmp")).expect("a link");
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("a rename");
    };
    swap("1");
    std::os::unix::fs::symlink("..data/nodes.yaml", mount.join("nodes.yaml")).expect("a link");
    let mut watched_folder = Watched::new(std::slice::from_ref(&mount));
    let mut watched_file = Watched::new(&[mount.join("nodes.yaml")]);
    for version in ["2", "3"] {
        watched_file.settle();
        watched_folder.tells("the folder", || swap(version));
        watched_file.tells("the file", || swap(&format!("{version}b")));
    }
}
