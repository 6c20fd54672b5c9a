//! Runs a program to its end, within a deadline, and keeps what it said.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

const POLL: Duration = Duration::from_millis(5);

/// Enough of an output for anything that is asked here.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// How a program ended and what it wrote.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs `command`; after `limit` it and the processes it started are killed, and that is an error.
pub(super) fn run_within(command: &mut Command, limit: Duration) -> anyhow::Result<Outcome> {
    // Files, not pipes: a full pipe would stop a program that nobody reads from.
    let mut stdout = tempfile::tempfile().context("no temporary file")?;
    let mut stderr = tempfile::tempfile().context("no temporary file")?;
    let deadline = Instant::now() + limit;
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0);
    let mut child = loop {
        match command.spawn() {
            // A program that was just written stays busy while a process that another thread is
            // starting still holds a copy of the descriptor.
            Err(error)
                if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(POLL);
            }
            result => break result?,
        }
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Outcome {
                status,
                stdout: text(&mut stdout)?,
                stderr: text(&mut stderr)?,
            });
        }
        if Instant::now() >= deadline {
            super::process::kill_group(child.id());
            child.wait()?;
            bail!("it did not end within {} s", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

fn text(file: &mut File) -> anyhow::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let outcome = run_within(&mut command, Duration::from_secs(20)).expect("it ends");
        assert_eq!(outcome.stdout, "out\n");
        assert_eq!(outcome.stderr, "err\n");
        assert_eq!(outcome.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_the_deadline() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 300; true"]);
        let begin = Instant::now();
        let error = run_within(&mut command, Duration::from_millis(50)).expect_err("it hangs");
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(200));
    }
}
