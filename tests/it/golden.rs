//! Files that hold what the program is to give, whole. `make bless` (`EGRET_BLESS=1`) writes them instead of comparing; the change is then
//! read in the diff like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use egret::core::plan::text_diff;

/// Reads here the one variable that all expected files obey.
fn is_blessed() -> bool {
    std::env::var_os("EGRET_BLESS").is_some()
}

/// The files below a folder by their path in it; none where there is no such folder.
pub(crate) fn texts(folder: &Path) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&current) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a text");
            let name = path.strip_prefix(folder).expect("a path below").to_string_lossy().into_owned();
            texts.insert(name, text);
        }
    }
    texts
}

/// What was expected and not given, or the other way round, over any number of files.
#[derive(Debug, Default)]
pub(crate) struct Differences(String);

impl Differences {
    /// A folder must hold exactly these files.
    pub(crate) fn folder(&mut self, folder: &Path, given: &BTreeMap<String, String>) {
        let expected = texts(folder);
        if *given == expected {
            return;
        }
        if is_blessed() {
            if folder.exists() {
                std::fs::remove_dir_all(folder).expect("the old files go");
            }
            std::fs::create_dir_all(folder).expect("the folder");
            for (name, text) in given {
                std::fs::write(folder.join(name), text).expect("a file");
            }
            return;
        }
        let files: BTreeSet<&String> = given.keys().chain(expected.keys()).collect();
        for file in files {
            let text = |files: &BTreeMap<String, String>| files.get(file).cloned().unwrap_or_default();
            let name = format!("expected {}", folder.join(file).display());
            self.0.push_str(&text_diff(&text(&expected), &text(given), &name, "given"));
        }
    }

    /// A file must hold this text.
    pub(crate) fn file(&mut self, path: &Path, given: &str) {
        let expected = std::fs::read_to_string(path).unwrap_or_default();
        if given == expected {
            return;
        }
        if is_blessed() {
            std::fs::write(path, given).expect("a file");
            return;
        }
        self.0.push_str(&text_diff(&expected, given, &format!("expected {}", path.display()), "given"));
    }

    /// There are none.
    pub(crate) fn assert_none(self) {
        assert!(self.0.is_empty(), "{}\nif this is as it should be, `make bless` writes it down", self.0);
    }
}

/// A file below `tests/it` must hold this text.
pub(crate) fn assert_file(path: &str, given: &str) {
    let mut differences = Differences::default();
    differences.file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(path), given);
    differences.assert_none();
}
