//! The journal: every event of a run as a line, in a file that may end at any byte. `engine`
//! writes it; whatever shows or judges a stored run reads it. It knows nothing of what events mean.
//!
//! A line is `{"crc32":"<8 lower-case hex>","event":{…}}`, compact JSON, with the CRC-32 (IEEE) of
//! the event's exact bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::event::RunEvent;
use crate::error::environment;

/// The journal reaches the disk at least this often, so that the record never competes with the
/// servers for it.
pub const SYNC_EVERY: Duration = Duration::from_secs(5);

/// Longest line; a longer one is taken for damage.
pub const MAX_LINE_BYTES: u64 = 64 << 20;

/// Where a journal is written.
pub trait Sink: Send {
    /// Appends all of `bytes`, or says why not; then some of them may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Brings what was appended to the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts back to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

impl Sink for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// Appends events. Each is one write to the operating system, so that a killed process loses
/// nothing; the disk follows at phase changes and every [`SYNC_EVERY`].
pub struct JournalWriter<S: Sink = File> {
    sink: S,
    now: Box<dyn FnMut() -> Instant + Send>,
    bytes: u64,
    last_sync: Instant,
    /// A line was left half written and could not be taken back.
    torn: bool,
}

impl JournalWriter<File> {
    /// Creates the file, which must not exist.
    ///
    /// # Errors
    /// It exists, or the directory cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(|e| environment(format!("cannot create journal {}: {e}", path.display())))?;
        Ok(Self::new(file, Instant::now))
    }
}

impl<S: Sink> JournalWriter<S> {
    /// Writes to `sink` by the clock `now`.
    pub fn new(sink: S, mut now: impl FnMut() -> Instant + Send + 'static) -> Self {
        let last_sync = now();
        Self {
            sink,
            now: Box::new(now),
            bytes: 0,
            last_sync,
            torn: false,
        }
    }

    /// Appends one event and syncs where that is due.
    ///
    /// # Errors
    /// The disk is full or failed. What was written before stays readable, and a later append may
    /// succeed.
    pub fn append(&mut self, event: &RunEvent) -> anyhow::Result<()> {
        if self.torn {
            self.take_back()?;
        }
        let line = encode_line(event)?;
        if let Err(error) = self.sink.append(&line) {
            self.torn = true;
            // The reader stops at a torn line: events after it would be lost. If this fails as
            // well, the next append tries again.
            let _ = self.take_back();
            return Err(full_disk(&error));
        }
        self.bytes += line.len() as u64;
        if changes_phase(event) || (self.now)() - self.last_sync >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Brings everything to the disk now.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync(&mut self) -> anyhow::Result<()> {
        self.last_sync = (self.now)();
        self.sink.sync().map_err(|e| full_disk(&e))
    }

    fn take_back(&mut self) -> anyhow::Result<()> {
        self.sink.truncate(self.bytes).map_err(|e| full_disk(&e))?;
        self.torn = false;
        Ok(())
    }
}

fn full_disk(error: &io::Error) -> anyhow::Error {
    environment(format!(
        "cannot write the journal: {error}; free space where the run directory is, or choose another with --out"
    ))
}

/// Events after which the disk should know what happened.
fn changes_phase(event: &RunEvent) -> bool {
    match event {
        RunEvent::RunStarted(_)
        | RunEvent::TrialStarted { .. }
        | RunEvent::LoadStarted { .. }
        | RunEvent::TrialFinished(_)
        | RunEvent::TrialFailed { .. }
        | RunEvent::Interrupted { .. }
        | RunEvent::RunFinished { .. } => true,
        RunEvent::ServersReady { .. }
        | RunEvent::StreamsReady { .. }
        | RunEvent::Interval(_)
        | RunEvent::Sample(_)
        | RunEvent::Note { .. } => false,
    }
}

/// One line with its end.
///
/// # Errors
/// The event is longer than a line may be.
pub fn encode_line(event: &RunEvent) -> anyhow::Result<Vec<u8>> {
    let json = serde_json::to_vec(event).context("cannot write an event as JSON")?;
    let crc32 = crc32fast::hash(&json);
    let mut line = format!(r#"{{"crc32":"{crc32:08x}","event":"#).into_bytes();
    line.extend_from_slice(&json);
    line.extend_from_slice(b"}\n");
    ensure!(
        line.len() as u64 <= MAX_LINE_BYTES,
        "an event of {} bytes is longer than a journal line may be",
        line.len()
    );
    Ok(line)
}

/// How reading a journal ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ending {
    /// A line was broken: it and what follows were not used.
    pub truncated: bool,
    /// Lines that were not used: the broken one and those after it, and whole lines with an event
    /// that this version does not know.
    pub bad_lines: u64,
}

/// The events of a journal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Journal {
    /// Up to the first broken line.
    pub events: Vec<RunEvent>,
    /// A line was broken.
    pub truncated: bool,
    /// Lines that were not used.
    pub bad_lines: u64,
}

/// Reads all events of a journal that may have been cut at any byte. Memory grows with the
/// journal: [`for_each_event`] needs that of one line.
///
/// # Errors
/// The file cannot be opened or read.
pub fn read_journal(path: &Path) -> anyhow::Result<Journal> {
    let mut events = Vec::new();
    let ending = for_each_event(path, |event| {
        events.push(event);
        Ok(())
    })?;
    Ok(Journal {
        events,
        truncated: ending.truncated,
        bad_lines: ending.bad_lines,
    })
}

/// Calls `visit` with each event up to the first broken line.
///
/// # Errors
/// The file cannot be opened or read, or `visit` says so.
pub fn for_each_event(
    path: &Path,
    visit: impl FnMut(RunEvent) -> anyhow::Result<()>,
) -> anyhow::Result<Ending> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    for_each_line(BufReader::with_capacity(1 << 16, file), visit)
        .with_context(|| format!("cannot read {}", path.display()))
}

fn for_each_line(
    mut reader: impl BufRead,
    mut visit: impl FnMut(RunEvent) -> anyhow::Result<()>,
) -> anyhow::Result<Ending> {
    let mut ending = Ending::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(ending);
        }
        match decode_line(&line) {
            Ok(Some(event)) => visit(event)?,
            Ok(None) => ending.bad_lines += 1,
            Err(_) => {
                ending.truncated = true;
                ending.bad_lines += 1;
                let whole = line.last() == Some(&b'\n');
                ending.bad_lines += count_lines(&mut reader, whole)?;
                return Ok(ending);
            }
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    crc32: &'a str,
    #[serde(borrow)]
    event: &'a RawValue,
}

/// The event of a line; `None` where the line is whole and this version does not know its event.
fn decode_line(line: &[u8]) -> anyhow::Result<Option<RunEvent>> {
    let line: Line<'_> = serde_json::from_slice(line)?;
    let event = line.event.get();
    let crc32 = format!("{:08x}", crc32fast::hash(event.as_bytes()));
    if line.crc32 != crc32 {
        return Err(anyhow!("checksum {} is not {crc32}", line.crc32));
    }
    Ok(serde_json::from_str(event).ok())
}

/// Lines left in `reader`; `fresh` says that it stands at the start of one.
fn count_lines(reader: &mut impl BufRead, mut fresh: bool) -> io::Result<u64> {
    let mut lines = 0;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(lines);
        }
        for byte in chunk {
            lines += u64::from(fresh);
            fresh = *byte == b'\n';
        }
        let used = chunk.len();
        reader.consume(used);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    fn written(events: &[RunEvent]) -> Vec<u8> {
        events
            .iter()
            .flat_map(|e| encode_line(e).expect("a short event"))
            .collect()
    }

    fn read(bytes: &[u8]) -> Journal {
        let mut events = Vec::new();
        let ending = for_each_line(bytes, |event| {
            events.push(event);
            Ok(())
        })
        .expect("memory can be read");
        Journal {
            events,
            truncated: ending.truncated,
            bad_lines: ending.bad_lines,
        }
    }

    #[test]
    fn a_line_is_the_documented_one() {
        let line = encode_line(&RunEvent::Interrupted { signal: 2 }).expect("short");
        let event = r#"{"type":"interrupted","signal":2}"#;
        let crc32 = crc32fast::hash(event.as_bytes());
        let want = format!("{{\"crc32\":\"{crc32:08x}\",\"event\":{event}}}\n");
        assert_eq!(String::from_utf8_lossy(&line), want);
    }

    #[test]
    fn cut_at_every_byte_it_gives_the_events_before_the_cut() {
        let events = fixture::small_run();
        let bytes = written(&events);
        let mut whole = 0;
        for cut in 0..=bytes.len() {
            // A line is whole when nothing but its end is missing.
            if cut > 0 && (bytes.get(cut) == Some(&b'\n') || cut == bytes.len() - 1) {
                whole += 1;
            }
            let got = read(&bytes[..cut]);
            assert_eq!(got.events, events[..whole], "cut at {cut}");
            let at_line_end = cut == 0 || bytes[cut - 1] == b'\n' || bytes[cut] == b'\n';
            assert_eq!(got.truncated, !at_line_end, "cut at {cut}");
            assert_eq!(got.bad_lines, u64::from(!at_line_end), "cut at {cut}");
        }
        assert_eq!(whole, events.len());
    }

    #[test]
    fn a_broken_line_ends_the_reading_and_the_rest_is_counted() {
        let events = fixture::small_run();
        let lines: Vec<Vec<u8>> = events
            .iter()
            .map(|e| written(std::slice::from_ref(e)))
            .collect();
        for at in 0..lines.len() {
            let mut broken = lines.clone();
            let middle = broken[at].len() / 2;
            broken[at][middle] ^= 0x01;
            let got = read(&broken.concat());
            assert_eq!(got.events, events[..at]);
            assert!(got.truncated);
            assert_eq!(got.bad_lines, (lines.len() - at) as u64);
        }
    }

    #[test]
    fn an_event_of_a_newer_version_is_left_out_and_counted() {
        let event = r#"{"type":"invented-later"}"#;
        let crc32 = crc32fast::hash(event.as_bytes());
        let mut bytes = format!("{{\"crc32\":\"{crc32:08x}\",\"event\":{event}}}\n").into_bytes();
        bytes.extend(written(&[RunEvent::Interrupted { signal: 2 }]));
        let got = read(&bytes);
        assert_eq!(got.events, [RunEvent::Interrupted { signal: 2 }]);
        assert_eq!((got.truncated, got.bad_lines), (false, 1));
    }

    #[test]
    fn noise_is_no_journal_and_no_panic() {
        for noise in [&b"\n"[..], b"\0\0\0", b"{}\n{}", b"[[[[[[", &[0xFF; 300]] {
            let got = read(noise);
            assert!(got.events.is_empty() && got.truncated, "{noise:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn a_changed_byte_never_changes_an_event(at in 0usize..1 << 20, to: u8) {
            let events = fixture::small_run();
            let mut bytes = written(&events);
            let at = at % bytes.len();
            let changed = bytes[at] != to;
            bytes[at] = to;
            let got = read(&bytes);
            prop_assert_eq!(&got.events[..], &events[..got.events.len()]);
            // The end of the last line is not needed to know that the line is whole.
            let harmless = at == bytes.len() - 1 && to.is_ascii_whitespace();
            prop_assert_eq!(got.truncated, changed && !harmless);
        }
    }

    /// A disk in memory: `room` bytes, shared so that the test can look at it.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<DiskState>>);

    #[derive(Default)]
    struct DiskState {
        bytes: Vec<u8>,
        room: usize,
        syncs: usize,
    }

    impl Sink for Disk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut disk = self.0.lock().expect("one thread");
            let fits = bytes.len().min(disk.room - disk.bytes.len());
            disk.bytes.extend(&bytes[..fits]);
            if fits < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            self.0.lock().expect("one thread").syncs += 1;
            Ok(())
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.0
                .lock()
                .expect("one thread")
                .bytes
                .truncate(len as usize);
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_whole_lines() {
        let note = |text: &str| RunEvent::Note {
            text: text.to_owned(),
        };
        let disk = Disk::default();
        disk.0.lock().expect("one thread").room = 100;
        let mut journal = JournalWriter::new(disk.clone(), Instant::now);
        journal.append(&note("fits")).expect("room");
        let error = journal.append(&note(&"long".repeat(99))).expect_err("full");
        assert!(error.to_string().contains("free space"), "{error}");
        disk.0.lock().expect("one thread").room = 1_000;
        journal.append(&note("again")).expect("room");
        let got = read(&disk.0.lock().expect("one thread").bytes);
        assert_eq!(got.events, [note("fits"), note("again")]);
        assert!(!got.truncated);
    }

    #[test]
    fn the_disk_follows_at_phase_changes_and_every_five_seconds() {
        let start = Instant::now();
        let clock = Arc::new(Mutex::new(start));
        let disk = Disk::default();
        disk.0.lock().expect("one thread").room = 1 << 20;
        let now = Arc::clone(&clock);
        let mut journal =
            JournalWriter::new(disk.clone(), move || *now.lock().expect("one thread"));
        let mut syncs_after = |at_s: u64, event: &RunEvent| {
            *clock.lock().expect("one thread") = start + Duration::from_secs(at_s);
            journal.append(event).expect("room");
            disk.0.lock().expect("one thread").syncs
        };
        let interval = fixture::interval(0, 1, &[], &[]);
        assert_eq!(syncs_after(1, &interval), 0);
        assert_eq!(syncs_after(4, &interval), 0);
        assert_eq!(syncs_after(5, &interval), 1);
        assert_eq!(syncs_after(9, &interval), 1);
        assert_eq!(syncs_after(9, &fixture::trial_started(0, 0, "a")), 2);
        assert_eq!(syncs_after(13, &interval), 2);
        assert_eq!(syncs_after(14, &interval), 3);
    }

    #[test]
    fn a_journal_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal.jsonl");
        let mut journal = JournalWriter::create(&path).expect("a new file");
        for event in fixture::small_run() {
            journal.append(&event).expect("room");
        }
        assert!(JournalWriter::create(&path).is_err());
        let back = read_journal(&path).expect("it is there");
        assert_eq!(back.events, fixture::small_run());
        assert_eq!((back.truncated, back.bad_lines), (false, 0));
    }
}
