//! The files of a node's NAT record: a ring of segments whose size is limited.
//!
//! A process appends to a segment of its own, and the oldest segments make room. Only the owner can read them: they say who speaks with
//! whom. Not here: what is in them (`core::nat_record::segment`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder in a node's state folder.
pub const FOLDER: &str = "nat-record";
/// What files of segments end with.
const ENDING: &str = "egretrec";
/// A record has so many segments, so that the oldest one is a small part of it.
const SEGMENTS: u64 = 16;

/// Writes segments.
#[derive(Debug)]
pub struct RecordFiles {
    folder: PathBuf,
    limit: u64,
    current: Option<(File, u64)>,
}

impl RecordFiles {
    /// Segments in this folder, of at most `limit` bytes together. Nothing is written yet.
    pub fn new(folder: PathBuf, limit: u64) -> Self {
        Self { folder, limit, current: None }
    }

    /// Whether the next bytes begin a new segment.
    pub fn begins(&self) -> bool {
        self.current.as_ref().is_none_or(|(_, length)| *length >= self.limit / SEGMENTS)
    }

    /// Appends to the segment; after a failure to a new one.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let result = self.try_append(bytes);
        if result.is_err() {
            self.current = None;
        }
        result
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut file, length) = match self.current.take().filter(|(_, length)| *length < self.limit / SEGMENTS) {
            Some(current) => current,
            None => (self.create(bytes.len() as u64)?, 0),
        };
        file.write_all(bytes)?;
        self.current = Some((file, length + bytes.len() as u64));
        Ok(())
    }

    /// The next segment, once there is room for it.
    fn create(&self, length: u64) -> io::Result<File> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let segments = segments(&self.folder)?;
        let mut size: u64 = segments.iter().map(|(_, path)| fs::metadata(path).map_or(0, |data| data.len())).sum();
        let room = self.limit.saturating_sub((self.limit / SEGMENTS).max(length));
        for (_, path) in &segments {
            if size <= room {
                break;
            }
            size = size.saturating_sub(fs::metadata(path).map_or(0, |data| data.len()));
            fs::remove_file(path)?;
        }
        let number = segments.last().map_or(1, |(number, _)| number + 1);
        let path = self.folder.join(format!("{number:010}.{ENDING}"));
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
    }
}

/// The segments of a folder, the oldest first; none if there is no such folder.
pub fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|ending| ending == ENDING)) {
            segments.push((number, path));
        }
    }
    segments.sort();
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_segments_make_room() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let place = folder.path().join(FOLDER);
        let mut files = RecordFiles::new(place.clone(), 16_000);
        for number in 0..200_u32 {
            assert_eq!(files.begins(), number % 4 == 0);
            files.append(&[u8::try_from(number).unwrap_or(0); 250])?;
            let size: u64 =
                segments(&place)?.iter().map(|(_, path)| fs::metadata(path).map_or(0, |data| data.len())).sum();
            assert!(size <= 16_000, "{size} bytes");
        }
        let kept = segments(&place)?;
        assert_eq!(kept.len(), 16);
        assert_eq!(fs::read(&kept[15].1)?[0], 196);
        // The next process goes on behind them.
        RecordFiles::new(place.clone(), 16_000).append(b"more")?;
        assert_eq!(segments(&place)?.last().map(|(number, _)| *number), Some(51));
        Ok(())
    }
}
