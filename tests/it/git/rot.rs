//! A mirror that goes on for years: packs that pile up, files that break, a disk that fills, a folder that can't be written to.
//!
//! All over `git daemon`, since a local repository is read in another way. Deliberately absent: a worker that is killed (`bad_servers`).

use std::fs;
use std::path::{Path, PathBuf};

use egret::git::access::Access;
use egret::git::credentials::Credentials;
use egret::git::files::FileChange;
use egret::git::mirror::Mirror;
use egret::git::publish::PublishOutcome;
use egret::git::{CommitId, Error, ErrorKind};

use super::crooked::{Serving, git_daemon};
use super::fixture::{Origin, PROGRAM, all};
use super::publishing::publish_file;
use super::ways_in::text_of;
use crate::disk::Disk;

/// A repository behind `git daemon`.
struct Scene {
    origin: Origin,
    _daemon: Serving,
    source: String,
}

impl Scene {
    fn set() -> Self {
        let origin = Origin::new();
        let (daemon, port) = git_daemon(&origin);
        origin.push(&[("a.yaml", "a: 1\n")], "first");
        let source = format!("git://127.0.0.1:{port}{}", origin.bare.display());
        Self { origin, _daemon: daemon, source }
    }

    fn mirror(&self, state: &str) -> Mirror {
        self.origin.mirror_by(state, &self.source, Access { program: PROGRAM.into(), ..Access::default() })
    }
}

fn reads(mirror: &mut Mirror, commit: CommitId, content: &str) {
    assert_eq!(mirror.head(None).unwrap_or_else(|error| panic!("{}", text_of(&error))).commit, commit);
    let files = mirror.files(commit, &all()).unwrap_or_else(|error| panic!("{}", text_of(&error)));
    assert_eq!(files.get("a.yaml"), Some(&FileChange::Text(content.to_owned())));
}

fn packs(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.join("objects/pack")).expect("packs");
    entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "pack"))
        .collect()
}

#[test]
fn each_fetch_adds_a_pack_at_most_and_whoever_has_256_is_fetched_anew() {
    let scene = Scene::set();
    let mut mirror = scene.mirror("state");
    let published = publish_file(&mut mirror, "one", "drift\n").expect("a report");
    assert!(matches!(published, PublishOutcome::Committed { .. }), "{published:?}");
    let mut number = 0;
    for years in 0..8 {
        for _ in 0..4 {
            number += 1;
            let content = format!("a: {number}\n");
            let before = packs(&scene.origin.state()).len();
            let commit = scene.origin.push(&[("a.yaml", &content)], "later");
            reads(&mut mirror, commit, &content);
            assert!(packs(&scene.origin.state()).len() <= before + 1);
        }
        // As many fetches later: a pack is no other pack by its name, and each counts.
        let state = scene.origin.state();
        let original = packs(&state).into_iter().next().expect("a pack");
        for copy in packs(&state).len()..256 {
            let name = state.join("objects/pack").join(format!("pack-{years:020x}{copy:020x}"));
            for kind in ["pack", "idx"] {
                fs::copy(original.with_extension(kind), name.with_extension(kind)).expect("a copy");
            }
        }
        number += 1;
        let content = format!("a: {number}\n");
        let commit = scene.origin.push(&[("a.yaml", &content)], "later");
        reads(&mut mirror, commit, &content);
        assert_eq!(packs(&state).len(), 1, "the mirror is a new one");
    }
    publish_file(&mut mirror, "two", "drift\n").expect("a report from the new mirror");
    scene.origin.assert_mirror_is_sound();
}

/// What somebody does to a mirror.
type Break<'a> = &'a dyn Fn(&Origin);

#[test]
fn a_mirror_that_is_broken_anywhere_is_fetched_anew_by_itself() {
    let breaks: [(&str, Break); 9] = [
        ("half a pack", &|origin| origin.break_mirror()),
        ("an empty pack", &|origin| {
            for pack in packs(&origin.state()) {
                fs::remove_file(&pack).and_then(|()| fs::write(&pack, "")).expect("an empty pack");
            }
        }),
        ("half an index", &|origin| {
            for pack in packs(&origin.state()) {
                let index = pack.with_extension("idx");
                let half = fs::read(&index).expect("an index");
                fs::remove_file(&index)
                    .and_then(|()| fs::write(&index, &half[..half.len() / 2]))
                    .expect("half an index");
            }
        }),
        ("no packs", &|origin| fs::remove_dir_all(origin.state().join("objects/pack")).expect("they go")),
        ("no objects", &|origin| fs::remove_dir_all(origin.state().join("objects")).expect("they go")),
        ("no such file", &|origin| origin.forget_in_mirror("main:a.yaml")),
        ("HEAD", &|origin| fs::write(origin.state().join("HEAD"), "\0\0\0garbage").expect("garbage")),
        ("its configuration", &|origin| fs::write(origin.state().join("config"), "[core\n\0").expect("garbage")),
        ("a reference", &|origin| {
            fs::write(origin.state().join("refs/egret/heads/main"), "\0\0\0\0").expect("garbage");
        }),
    ];
    for (what, break_it) in breaks {
        let scene = Scene::set();
        // As the process that goes on does, and as the next one does.
        for restarted in [false, true] {
            let mut mirror = scene.mirror("state");
            let content = format!("a: {restarted}\n");
            let commit = scene.origin.push(&[("a.yaml", &content)], "before");
            reads(&mut mirror, commit, &content);
            break_it(&scene.origin);
            let commit = scene.origin.push(&[("b.yaml", &content)], "after");
            // A process that goes on may still have open what is gone from the folder; the next one has not.
            for again in [restarted, true] {
                if again {
                    mirror = scene.mirror("state");
                }
                // Objects are read when somebody asks for them: a look may not notice, and then the read does, and the look after it.
                let seen = mirror.head(None).and_then(|head| mirror.files(head.commit, &all()));
                if let Err(error) = seen {
                    let fitting = matches!(error, Error::Mirror { .. } | Error::MissingCommit { .. });
                    assert!(fitting, "{what}, {restarted}: {}", text_of(&error));
                }
                reads(&mut mirror, commit, &content);
            }
            scene.origin.assert_mirror_is_sound();
        }
    }
}

/// A text that zlib can't make small.
fn noise(length: usize) -> String {
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from((state >> 33) % 90).expect("a letter"))
    };
    (0..length).map(|_| letter()).collect()
}

#[test]
fn a_full_disk_is_reported_keeps_what_was_there_and_is_got_over_when_there_is_room() {
    let scene = Scene::set();
    let disk = Disk::mount(&scene.origin.path().join("disk"), "size=512k");
    let mut mirror = scene.mirror("disk/state");
    let first = mirror.head(None).expect("a small repository fits").commit;
    let second = scene.origin.push(&[("a.yaml", "a: 2\n"), ("large.txt", &noise(2 << 20))], "too large");
    for _ in 0..2 {
        let error = mirror.head(None).expect_err("there is no room");
        assert!(text_of(&error).contains("No space left on device"), "{}", text_of(&error));
        assert!(error.hint().is_some_and(|hint| hint.starts_with("make room")), "{:?}", error.hint());
        assert_eq!(error.kind(), ErrorKind::Transient);
        let files = mirror.files(first, &all()).expect("what was there is there");
        assert_eq!(files.get("a.yaml"), Some(&FileChange::Text("a: 1\n".to_owned())));
    }
    disk.again("size=64m");
    reads(&mut mirror, second, "a: 2\n");
}

#[test]
fn a_folder_that_nothing_can_be_written_to_is_reported_and_read_on() {
    let scene = Scene::set();
    let disk = Disk::mount(&scene.origin.path().join("disk"), "size=64m");
    let mut mirror = scene.mirror("disk/state");
    let first = mirror.head(None).expect("a look").commit;
    disk.again("ro");
    assert_eq!(mirror.head(None).unwrap_or_else(|error| panic!("{}", text_of(&error))).commit, first);
    let second = scene.origin.push(&[("a.yaml", "a: 2\n")], "second");
    let error = mirror.head(None).expect_err("it can't be written to");
    assert!(text_of(&error).contains("Read-only file system"), "{}", text_of(&error));
    assert_eq!(error.kind(), ErrorKind::Transient);
    let files = mirror.files(first, &all()).expect("what was there is there");
    assert_eq!(files.get("a.yaml"), Some(&FileChange::Text("a: 1\n".to_owned())));
    disk.again("rw");
    reads(&mut mirror, second, "a: 2\n");
}

#[test]
fn a_deleted_mirror_is_made_anew_and_a_folder_of_others_in_its_place_is_not_touched() {
    let scene = Scene::set();
    let local = scene.origin.mirror_at("local", scene.origin.bare.to_str().expect("UTF-8"), Credentials::default());
    for (name, mut mirror) in [("remote", scene.mirror("remote")), ("local", local)] {
        let state = scene.origin.path().join(name);
        let active = mirror.head(None).unwrap_or_else(|error| panic!("{}", text_of(&error))).commit;
        mirror.keep([active]);
        fs::remove_dir_all(&state).expect("deleted");
        reads(&mut mirror, active, "a: 1\n");
        let published = publish_file(&mut mirror, name, "drift\n").expect("a report");
        assert!(matches!(published, PublishOutcome::Committed { .. }), "{published:?}");
        fs::remove_dir_all(&state).expect("deleted");
        fs::create_dir_all(&state).expect("a folder");
        fs::write(state.join("thesis.tex"), "years").expect("written");
        let error = mirror.head(None).expect_err("a folder of others");
        assert!(matches!(&error, Error::NotOurFolder { path } if *path == state), "{}", text_of(&error));
        assert_eq!(fs::read_to_string(state.join("thesis.tex")).expect("read"), "years");
    }
}

#[test]
fn a_mirror_that_cannot_be_made_anew_blames_the_state_folder() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror_at("state/mirror", origin.bare.to_str().expect("UTF-8"), Credentials::default());
    mirror.head(None).expect("a look");
    let state = origin.path().join("state");
    fs::remove_dir_all(&state).expect("deleted");
    fs::write(&state, "a file where the folder was").expect("written");
    let error = mirror.head(None).expect_err("no folder");
    assert!(matches!(&error, Error::State { path, .. } if path.starts_with(&state)), "{}", text_of(&error));
    fs::remove_file(&state).expect("removed");
    mirror.head(None).expect("it is made anew");
}
