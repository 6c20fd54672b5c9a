//! The run directory: where it is made, what is in it, how it is read again. The engine writes it,
//! every verb that reads a run opens it here. The journal is the source of all the other files.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::document::Record;
use super::event::{MANIFEST_SCHEMA, Manifest};
use super::fold::{Fold, Run};
use super::{hlog, journal, tables};
use crate::error::{environment, usage};

/// The journal's name.
pub const JOURNAL: &str = "journal.jsonl";
/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";
/// The record's name.
pub const RECORD: &str = "record.json";
/// Where runs go without `--out`.
pub const RESULTS: &str = "results";

/// A directory that holds one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes `out` the directory of a new run.
    ///
    /// # Errors
    /// [`crate::error::Failure::Usage`] where it is a file or holds something already.
    pub fn create(out: &Path) -> anyhow::Result<Self> {
        let shown = out.display();
        match fs::metadata(out) {
            Ok(meta) if !meta.is_dir() => {
                return Err(usage(format!(
                    "{shown} is not a directory; --out names a directory that is absent or empty"
                )));
            }
            Ok(_) => {
                let mut entries = fs::read_dir(out)
                    .map_err(|e| environment(format!("cannot read directory {shown}: {e}")))?;
                if entries.next().is_some() {
                    return Err(usage(format!(
                        "{shown} is not empty; --out names a directory that is absent or empty"
                    )));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(out)
                .map_err(|e| environment(format!("cannot make directory {shown}: {e}")))?,
            Err(error) => return Err(environment(format!("cannot look at {shown}: {error}"))),
        }
        Ok(Self {
            path: out.to_owned(),
        })
    }

    /// Makes `<results>/<scenario>-<UTC time>-<short id>/` and points `<results>/latest` at it.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create_default(
        results: &Path,
        scenario: &str,
        started_unix_ns: u64,
        run_id: &str,
    ) -> anyhow::Result<Self> {
        let name = default_name(scenario, started_unix_ns, run_id);
        let created = Self::create(&results.join(&name))?;
        point_latest(results, &name);
        Ok(created)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the journal is.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Writes `manifest.json`, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_manifest(&self, manifest: &Manifest) -> anyhow::Result<()> {
        self.write_json(MANIFEST, manifest)
    }

    /// Writes everything that follows from the journal: manifest, record, tables, histograms. `run` is
    /// best read back with [`open_run`], so that the files agree with what a later reader sees.
    ///
    /// # Errors
    /// One of them cannot be written, or the journal cannot be read again.
    pub fn write_results(&self, run: &Run, record: &Record) -> anyhow::Result<()> {
        self.write_manifest(&run.manifest)?;
        self.write_json(RECORD, record)?;
        self.write_with("trials.csv", |out| {
            tables::write_trials(record, &run.manifest.cells, out)
        })?;
        self.write_with("series.csv", |out| tables::write_series(run, out))?;
        self.write_with("histograms.hlog", |out| {
            hlog::write(run, &self.journal(), out)
        })
    }

    /// Writes the file `name`, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.write_with(name, |out| Ok(out.write_all(bytes)?))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        self.write_with(name, |out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            Ok(out.write_all(b"\n")?)
        })
    }

    /// Write beside it, sync, rename: a reader sees the old file or the new one.
    fn write_with(
        &self,
        name: &str,
        fill: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let target = self.path.join(name);
        let beside = target.with_added_extension("new");
        let written = (|| {
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut out = BufWriter::new(File::create(&beside)?);
            fill(&mut out)?;
            out.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()?;
            fs::rename(&beside, &target)?;
            sync_directory(&self.path);
            anyhow::Ok(())
        })();
        written.map_err(|error| {
            let _ = fs::remove_file(&beside);
            environment(format!("cannot write {}: {error:#}", target.display()))
        })
    }
}

/// `<scenario>-20261123T091500Z-3fa91c02`.
fn default_name(scenario: &str, started_unix_ns: u64, run_id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let scenario = scenario.replace(|c| !plain(c), "-");
    let time = jiff::Timestamp::from_nanosecond(i128::from(started_unix_ns))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .strftime("%Y%m%dT%H%M%SZ");
    let short: String = run_id.chars().filter(|c| plain(*c)).take(8).collect();
    format!("{scenario}-{time}-{short}")
}

/// A convenience: where it cannot be made, or something of the user's has the name, nothing
/// happens.
fn point_latest(results: &Path, name: &str) {
    let latest = results.join("latest");
    let ours = fs::symlink_metadata(&latest).map_or(true, |meta| meta.is_symlink());
    #[cfg(unix)]
    if ours {
        let beside = results.join(format!(".latest-{name}"));
        if std::os::unix::fs::symlink(name, &beside).is_ok() && fs::rename(&beside, latest).is_err()
        {
            let _ = fs::remove_file(&beside);
        }
    }
    #[cfg(not(unix))]
    let _ = (ours, name);
}

/// Makes a rename last; where directories cannot be synced, nothing can be done about it.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(path) {
        let _ = directory.sync_all();
    }
}

/// A run that was read from its directory.
#[derive(Debug, Clone)]
pub struct LoadedRun {
    /// As far as its journal tells.
    pub run: Run,
    /// Where it is.
    pub dir: RunDirectory,
}

/// Reads the run in `dir` from its journal, also one that was killed.
///
/// # Errors
/// There is no run: the text says what is there instead.
pub fn open_run(dir: &Path) -> anyhow::Result<LoadedRun> {
    let shown = dir.display();
    let meta = fs::metadata(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => usage(format!("there is no run directory {shown}")),
        _ => environment(format!("cannot look at {shown}: {error}")),
    })?;
    if !meta.is_dir() {
        return Err(usage(format!(
            "{shown} is a file; name the run directory that holds it"
        )));
    }
    let path = dir.join(JOURNAL);
    let length = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
    match length.map(|meta| meta.len()) {
        None => {
            return Err(usage(format!(
                "{shown} is not a run directory: it has no {JOURNAL}"
            )));
        }
        Some(0) => {
            return Err(usage(format!(
                "the journal in {shown} is empty: the run ended before it began"
            )));
        }
        Some(_) => {}
    }
    let run = fold_journal(&path)?;
    ensure!(
        run.manifest.schema == MANIFEST_SCHEMA,
        usage(format!(
            "{shown} was written in format `{}`, and this jsbench reads `{MANIFEST_SCHEMA}`",
            run.manifest.schema
        ))
    );
    Ok(LoadedRun {
        run,
        dir: RunDirectory {
            path: dir.to_owned(),
        },
    })
}

fn fold_journal(path: &Path) -> anyhow::Result<Run> {
    let mut fold = Fold::new();
    let ending = journal::for_each_event(path, |event| {
        fold.apply(&event);
        Ok(())
    })
    .context("cannot load the run")?;
    if ending.truncated {
        fold.lose(format!(
            "the journal is broken before its end: {} line(s) not used",
            ending.bad_lines
        ));
    } else if ending.bad_lines > 0 {
        fold.lose(format!(
            "this version of jsbench does not know {} event(s) of the journal",
            ending.bad_lines
        ));
    }
    fold.into_run().ok_or_else(|| {
        usage(format!(
            "{} does not tell of the start of a run: it is damaged, or not a journal of jsbench",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::document::{Outcome, RECORD_SCHEMA, Verdict};
    use super::super::event::RunEvent;
    use super::super::fixture;
    use super::super::journal::JournalWriter;
    use super::*;
    use crate::error::Failure;

    fn is_usage(error: &anyhow::Error) -> bool {
        matches!(error.downcast_ref(), Some(Failure::Usage(_)))
    }

    #[test]
    fn out_must_be_absent_or_empty() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let absent = dir.path().join("a/b");
        assert_eq!(
            RunDirectory::create(&absent).expect("absent").path(),
            absent
        );
        RunDirectory::create(&absent).expect("empty");
        fs::write(absent.join("x"), "").expect("room");
        let full = RunDirectory::create(&absent).expect_err("not empty");
        assert!(is_usage(&full) && full.to_string().contains("is not empty"));
        let file = RunDirectory::create(&absent.join("x")).expect_err("a file");
        assert!(is_usage(&file) && file.to_string().contains("is not a directory"));
    }

    #[cfg(unix)]
    #[test]
    fn the_default_directory_is_named_and_latest_points_at_it() {
        let results = tempfile::tempdir().expect("a temporary directory");
        let latest = results.path().join("latest");
        for (run_id, second) in [("3fa91c02ffffffff", 0), ("00000001ffffffff", 1)] {
            let at = fixture::STARTED_NS + second * 1_000_000_000;
            let made = RunDirectory::create_default(results.path(), "a/b", at, run_id)
                .expect("a new directory");
            let name = format!("a-b-20261123T09150{second}Z-{}", &run_id[..8]);
            assert_eq!(made.path(), results.path().join(&name));
            assert_eq!(fs::read_link(&latest).expect("a link"), Path::new(&name));
        }
        fs::remove_file(&latest).expect("a link");
        fs::create_dir(&latest).expect("room");
        RunDirectory::create_default(results.path(), "c", 0, "00000002").expect("new");
        assert!(latest.is_dir() && !latest.is_symlink(), "the user's own");
    }

    /// A run directory with the journal of a small run.
    fn stored(root: &Path) -> RunDirectory {
        let dir = RunDirectory::create(&root.join("run")).expect("absent");
        let mut journal = JournalWriter::create(&dir.journal()).expect("new");
        for event in fixture::small_run() {
            journal.append(&event).expect("room");
        }
        dir
    }

    #[test]
    fn a_stored_run_is_read_from_its_journal() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = stored(root.path());
        let loaded = open_run(dir.path()).expect("a run");
        assert!(loaded.run.complete);
        assert_eq!(loaded.run.trials.len(), 2);

        let record = Record {
            schema: RECORD_SCHEMA.to_owned(),
            run_id: loaded.run.manifest.run_id.clone(),
            complete: true,
            cells: Vec::new(),
            findings: Vec::new(),
            expectations: Vec::new(),
            verdict: Verdict {
                result: Outcome::Pass,
                exit_code: 0,
                reasons: Vec::new(),
            },
        };
        dir.write_results(&loaded.run, &record).expect("room");
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect(name);
        assert_eq!(
            serde_json::from_str::<Manifest>(&read(MANIFEST)).expect("a manifest"),
            loaded.run.manifest
        );
        assert_eq!(
            serde_json::from_str::<Record>(&read(RECORD)).expect("a record"),
            record
        );
        assert!(read("histograms.hlog").contains("Tag=shared/1/e2e,"));
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .expect("a directory")
            .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "histograms.hlog",
                "journal.jsonl",
                "manifest.json",
                "record.json",
                "series.csv",
                "trials.csv"
            ]
        );
    }

    #[test]
    fn a_torn_journal_says_how_much_is_missing() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = stored(root.path());
        let bytes = fs::read(dir.journal()).expect("a journal");
        fs::write(dir.journal(), &bytes[..bytes.len() - 20]).expect("room");
        let run = open_run(dir.path()).expect("a run").run;
        assert!(!run.complete);
        let want = "the journal is broken before its end: 1 line(s) not used";
        assert!(run.notes.contains(&want.to_owned()), "{:?}", run.notes);
    }

    #[test]
    fn what_is_no_run_is_told_from_one() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| root.path().join(name);
        let with_journal = |name: &str, bytes: &[u8]| {
            fs::create_dir(at(name)).expect("room");
            fs::write(at(name).join(JOURNAL), bytes).expect("room");
        };
        fs::write(at("file"), "").expect("room");
        fs::create_dir(at("bare")).expect("room");
        fs::create_dir_all(at("odd").join(JOURNAL)).expect("room");
        with_journal("empty", b"");
        with_journal("noise", b"hello\n");
        let note = RunEvent::Interrupted { signal: 2 };
        with_journal("headless", &journal::encode_line(&note).expect("short"));
        let mut manifest = fixture::manifest(Vec::new(), &[]);
        manifest.schema = "jsbench.manifest/v9".to_owned();
        let newer = RunEvent::RunStarted(Box::new(manifest));
        with_journal("newer", &journal::encode_line(&newer).expect("short"));
        for (name, want) in [
            ("absent", "there is no run directory"),
            ("file", "is a file"),
            ("bare", "it has no journal.jsonl"),
            ("odd", "it has no journal.jsonl"),
            ("empty", "is empty"),
            ("noise", "does not tell of the start"),
            ("headless", "does not tell of the start"),
            ("newer", "jsbench.manifest/v9"),
        ] {
            let error = open_run(&at(name)).expect_err(name);
            assert!(error.to_string().contains(want), "{name}: {error}");
            assert!(is_usage(&error), "{name}");
        }
    }
}
