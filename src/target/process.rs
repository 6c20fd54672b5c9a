//! A look at one process: when it started, its CPU time and its resident memory, and the signals
//! that end it.
//!
//! Linux tells through `/proc`. Elsewhere only the identity of a process is known, which is what
//! ending the right one needs; CPU and memory are `None` there.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, ns. Counted by the kernel in clock ticks (10 ms on most machines).
    pub cpu_ns: u64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// CPU time and memory of a process; `None` when it is gone or the system cannot say.
#[cfg(target_os = "linux")]
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = Stat::read(pid)?;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let tick_ns = crate::units::NS_PER_S / rustix::param::clock_ticks_per_second().max(1);
    Some(Usage {
        cpu_ns: stat.cpu_ticks * tick_ns,
        rss_bytes: pages * rustix::param::page_size() as u64,
    })
}

/// CPU time and memory of a process; `None` when it is gone or the system cannot say.
#[cfg(not(target_os = "linux"))]
pub fn usage(_pid: u32) -> Option<Usage> {
    None
}

/// What tells a process from a later one with the same pid: its start in clock ticks after boot.
/// `None` when there is no such process, or only its zombie.
#[cfg(target_os = "linux")]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = Stat::read(pid)?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.start_ticks)
}

/// What tells a process from a later one with the same pid: a digest of its start time.
/// `None` when there is no such process.
#[cfg(not(target_os = "linux"))]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let output = std::process::Command::new("ps")
        .args(["-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    (output.status.success() && !output.stdout.is_empty())
        .then(|| u64::from(crc32fast::hash(output.stdout.trim_ascii())))
}

/// Processes whose command line has `-c <a file below dir>`, as every embedded server's has.
#[cfg(target_os = "linux")]
pub(super) fn running_on(dir: &std::path::Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|cmdline| serves_from(&cmdline, dir))
        })
        .collect()
}

/// Processes that serve from `dir`: not known here.
#[cfg(not(target_os = "linux"))]
pub(super) fn running_on(_dir: &std::path::Path) -> Vec<u32> {
    Vec::new()
}

/// Whether a command line (arguments ended by NUL) has `-c <a file below dir>`.
#[cfg(target_os = "linux")]
fn serves_from(cmdline: &[u8], dir: &std::path::Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let arguments: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
    arguments.windows(2).any(|pair| {
        let file = std::path::Path::new(std::ffi::OsStr::from_bytes(pair[1]));
        pair[0] == b"-c" && file != dir && file.starts_with(dir)
    })
}

/// Sends SIGKILL; a process that is gone already is no error.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Sends SIGTERM; a process that is gone already is no error.
pub fn terminate(pid: u32) {
    signal(pid, Signal::TERM);
}

/// Sends SIGKILL to the process group that `pid` leads.
pub(super) fn kill_group(pid: u32) {
    if let Some(pid) = raw(pid) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = raw(pid) {
        // The only failures are "gone" and "not ours"; neither leaves anything to do.
        let _ = kill_process(pid, signal);
    }
}

/// `None` for ids that would mean a group or everything.
fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The fields of `/proc/<pid>/stat` that are needed here (proc_pid_stat(5)).
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    cpu_ticks: u64,
    start_ticks: u64,
}

#[cfg(target_os = "linux")]
impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may hold spaces and
        // parentheses itself, so the fields are counted from its end.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..]
            .split_ascii_whitespace()
            .collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_program_name() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 9 0 0 0 70 30 0 0 20 0 7 0 12345 1 2 3";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                state: 'S',
                cpu_ticks: 100,
                start_ticks: 12_345
            })
        );
        assert_eq!(Stat::parse("42 (short) S 1"), None);
        assert_eq!(Stat::parse("nonsense"), None);
    }

    #[test]
    fn a_server_is_known_by_its_configuration_file() {
        let dir = std::path::Path::new("/tmp/jsbench-1");
        assert!(serves_from(
            b"nats-server\0-c\0/tmp/jsbench-1/n1/nats.conf\0",
            dir
        ));
        assert!(!serves_from(
            b"nats-server\0-c\0/tmp/jsbench-12/n1/nats.conf\0",
            dir
        ));
        assert!(!serves_from(b"less\0/tmp/jsbench-1/n1/nats.conf\0", dir));
        assert!(!serves_from(b"", dir));
    }

    #[test]
    fn this_process_uses_memory_and_an_absent_one_is_none() {
        let usage = usage(std::process::id()).expect("this process exists");
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
        assert!(start_ticks(std::process::id()).is_some());
        assert_eq!(super::usage(u32::MAX), None);
        assert_eq!(start_ticks(u32::MAX), None);
    }
}
