//! The guard: a process of its own that outlives a killed jsbench just long enough to end the
//! servers it started and to remove their directories and cgroups.
//!
//! `jsbench __guard` reads JSON lines from a pipe that only jsbench holds; at end of file, however
//! it came about, it clears what was announced and not forgotten. It ends a process only while its
//! start time is the announced one, and removes only directories that carry jsbench's marker.
//! `engine` spawns one per run; `main` dispatches the verb to [`run`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{cgroup, process, store};

/// The hidden verb of the guard.
pub const VERB: &str = "__guard";

/// How long processes may take to vanish after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// How long the guard may take to clear everything once jsbench lets go of it.
const CLEAR_WAIT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// One line of the pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// A process to end.
    Pid {
        /// Its id.
        pid: u32,
        /// What tells it from a later one with that id ([`process::start_ticks`]).
        start_ticks: u64,
    },
    /// A directory to remove, announced before it is made.
    Dir(PathBuf),
    /// A cgroup to remove, announced before it is made.
    Cgroup(PathBuf),
    /// The process was ended.
    ForgetPid(u32),
    /// The directory was removed.
    ForgetDir(PathBuf),
    /// The cgroup was removed.
    ForgetCgroup(PathBuf),
}

/// jsbench's end of the pipe; clones share it. When the last one is dropped the guard clears what
/// was not forgotten, and ends.
#[derive(Debug, Clone)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    child: Mutex<Child>,
    /// `None` once closed.
    pipe: Mutex<Option<ChildStdin>>,
}

impl Guard {
    /// Starts `exe __guard`; `exe` is jsbench itself.
    pub fn spawn(exe: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(exe)
            .arg(VERB)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal goes to jsbench's group, and the guard must outlive it.
            .process_group(0)
            // A guard that kept the working directory would keep a file system busy.
            .current_dir("/")
            .spawn()
            .with_context(|| format!("failed to start the guard process {}", exe.display()))?;
        let pipe = child.stdin.take();
        Ok(Self(Arc::new(Inner {
            child: Mutex::new(child),
            pipe: Mutex::new(pipe),
        })))
    }

    /// Announces something to clear. An error means that the guard is gone: whoever announces
    /// must not go on and make what nobody would clear.
    pub fn watch(&self, message: &Message) -> anyhow::Result<()> {
        self.send(message)
            .context("the guard process is gone, so nothing would end the servers after a crash")
    }

    /// Takes an announcement back. A guard that is gone has nothing left to forget.
    pub fn forget(&self, message: &Message) {
        let _ = self.send(message);
    }

    fn send(&self, message: &Message) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut pipe = self.0.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().context("its pipe is closed")?;
        // One write per line: whole, or not there.
        pipe.write_all(&line)?;
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(
            self.pipe
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + CLEAR_WAIT;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                // It goes on by itself; only the waiting ends.
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// What the guard has been told and not told to forget.
#[derive(Debug, Default, PartialEq, Eq)]
struct Charges {
    pids: BTreeMap<u32, u64>,
    dirs: BTreeSet<PathBuf>,
    cgroups: BTreeSet<PathBuf>,
}

impl Charges {
    fn apply(&mut self, message: Message) {
        match message {
            Message::Pid { pid, start_ticks } => {
                self.pids.insert(pid, start_ticks);
            }
            Message::Dir(dir) => {
                self.dirs.insert(dir);
            }
            Message::Cgroup(dir) => {
                self.cgroups.insert(dir);
            }
            Message::ForgetPid(pid) => {
                self.pids.remove(&pid);
            }
            Message::ForgetDir(dir) => {
                self.dirs.remove(&dir);
            }
            Message::ForgetCgroup(dir) => {
                self.cgroups.remove(&dir);
            }
        }
    }

    /// Reads lines to the end of file. A line that is cut off or not understood is passed over:
    /// what the others announced still has to be cleared.
    fn read(input: impl BufRead) -> Self {
        let mut charges = Self::default();
        for line in input.split(b'\n') {
            let Ok(line) = line else { break };
            if let Ok(message) = serde_json::from_slice(&line) {
                charges.apply(message);
            }
        }
        charges
    }

    /// Ends, then removes. Goes on after a failure, as nobody is left to be told of it.
    fn clear(&self) {
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            let alive = self.alive();
            if alive.is_empty() || Instant::now() >= deadline {
                break;
            }
            for pid in alive {
                process::kill(pid);
            }
            std::thread::sleep(POLL);
        }
        for dir in &self.dirs {
            let _ = store::remove(dir);
        }
        for dir in &self.cgroups {
            cgroup::remove(dir);
        }
    }

    /// Announced processes that still run, and servers of announced directories: a jsbench killed
    /// between starting a server and announcing it has announced its directory.
    fn alive(&self) -> BTreeSet<u32> {
        let announced = self
            .pids
            .iter()
            .filter(|(pid, ticks)| process::start_ticks(**pid) == Some(**ticks))
            .map(|(pid, _)| *pid);
        let found = self.dirs.iter().flat_map(|dir| process::running_on(dir));
        announced.chain(found).collect()
    }
}

/// The guard process: reads its standard input to the end, clears, returns.
pub fn run() -> anyhow::Result<()> {
    outlive_signals()?;
    Charges::read(std::io::stdin().lock()).clear();
    Ok(())
}

/// From here on the signals that end a jsbench do not end its guard. tokio's handlers stay for the
/// life of the process; nobody waits for them, and that is what ignores the signal.
fn outlive_signals() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let _inside = runtime.enter();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ] {
        drop(signal(kind)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_documented_json() {
        let line = |message| serde_json::to_string(&message).expect("plain data");
        assert_eq!(
            line(Message::Pid {
                pid: 7,
                start_ticks: 9
            }),
            r#"{"pid":{"pid":7,"start_ticks":9}}"#
        );
        assert_eq!(line(Message::Dir("/a".into())), r#"{"dir":"/a"}"#);
        assert_eq!(line(Message::ForgetPid(7)), r#"{"forget_pid":7}"#);
    }

    #[test]
    fn what_was_forgotten_and_what_was_cut_off_is_no_charge() {
        let text = concat!(
            "{\"pid\":{\"pid\":7,\"start_ticks\":9}}\n{\"dir\":\"/a\"}\nnonsense\n",
            "{\"dir\":\"/b\"}\n{\"cgroup\":\"/c\"}\n{\"forget_dir\":\"/a\"}\n",
            "{\"forget_cgroup\":\"/c\"}\n{\"pid\":{\"pid\":8,"
        );
        let expected = Charges {
            pids: BTreeMap::from([(7, 9)]),
            dirs: BTreeSet::from(["/b".into()]),
            cgroups: BTreeSet::new(),
        };
        assert_eq!(Charges::read(text.as_bytes()), expected);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            Charges::read(bytes.as_slice());
        }
    }

    #[test]
    fn a_process_with_another_start_time_is_spared() {
        let mut child = Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let pid = child.id();
        let ticks = process::start_ticks(pid).expect("it runs");
        let charges = |start_ticks| Charges {
            pids: BTreeMap::from([(pid, start_ticks)]),
            ..Charges::default()
        };
        assert!(charges(ticks + 1).alive().is_empty());
        assert_eq!(charges(ticks).alive(), BTreeSet::from([pid]));
        charges(ticks + 1).clear();
        assert_eq!(child.try_wait().expect("waited"), None);
        charges(ticks).clear();
        let status = child.wait().expect("waited");
        assert!(!status.success());
    }
}
