//! A directory that jsbench made for the servers of one group of trials, and that only jsbench
//! may remove: it carries a marker file, and nothing without one is ever removed.
//!
//! `embedded` makes and removes it; the guard removes it when `embedded` no longer can.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The file that says a directory is jsbench's to remove.
const MARKER: &str = ".jsbench-servers";

/// Makes `dir` (its parent must be there), readable by this user alone, with the marker in it.
pub(super) fn create(dir: &Path, run_id: &str) -> io::Result<()> {
    create_private(dir)?;
    write_private(&dir.join(MARKER), run_id.as_bytes())?;
    Ok(())
}

/// Makes a directory that only this user may enter.
pub(super) fn create_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)
}

/// Writes a new file that only this user may read.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Removes a directory that [`create`] made, with all in it. One without the marker is left
/// alone, unless it is empty, as it is when its maker was killed before it wrote the marker.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let is_dir = std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir());
    if !is_dir {
        return Ok(());
    }
    if !dir.join(MARKER).is_file() {
        return std::fs::remove_dir(dir);
    }
    // The marker goes last, so that a removal that was cut short can be taken up again.
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir_all(dir)
}

/// Bytes that the file system has allocated for everything below `dir`. Files that vanish during
/// the walk count nothing.
pub fn allocated_bytes(dir: &Path) -> u64 {
    let mut pending: Vec<PathBuf> = vec![dir.to_owned()];
    let mut total = 0;
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            // `DirEntry::metadata` does not follow links, so the walk cannot leave or circle.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            }
            total += meta.blocks() * 512;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_with_the_marker_is_removed() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let ours = parent.path().join("ours");
        create(&ours, "run").expect("created");
        std::fs::create_dir(ours.join("n1")).expect("created");
        std::fs::write(ours.join("n1/data"), "x").expect("written");
        remove(&ours).expect("removed");
        assert!(!ours.exists());
        remove(&ours).expect("removing what is gone is no error");

        let foreign = parent.path().join("foreign");
        std::fs::create_dir(&foreign).expect("created");
        std::fs::write(foreign.join("data"), "x").expect("written");
        assert!(remove(&foreign).is_err());
        assert!(foreign.join("data").exists());
    }

    #[test]
    fn a_link_to_a_directory_is_left_alone() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let ours = parent.path().join("ours");
        create(&ours, "run").expect("created");
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&ours, &link).expect("linked");
        remove(&link).expect("nothing to do");
        assert!(ours.join(MARKER).exists());
    }

    #[test]
    fn allocated_bytes_are_counted_in_all_folders() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let before = allocated_bytes(dir.path());
        std::fs::create_dir_all(dir.path().join("a/b")).expect("created");
        std::fs::write(dir.path().join("a/b/data"), vec![7; 100_000]).expect("written");
        // Written back before it is counted: some file systems allocate late.
        File::open(dir.path().join("a/b/data"))
            .and_then(|file| file.sync_all())
            .expect("synced");
        assert!(allocated_bytes(dir.path()) >= before + 100_000);
    }
}
