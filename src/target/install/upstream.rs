//! The release archive of nats-server, from upstream or from a mirror of it, by curl.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{Pin, extract, last_line, sha256};
use crate::error::usage;
use crate::target::PINNED_VERSION;
use crate::target::binary::NAME;
use crate::target::command::run_within;

const RELEASES: &str = "https://github.com/nats-io/nats-server/releases/download";

/// The archive has 7 MB.
const MAX_ARCHIVE_BYTES: u64 = 64 << 20;

/// One download, redirects and retries included.
const LIMIT: Duration = Duration::from_mins(10);

/// The folder that holds the archives: upstream's, or the mirror's as the user named it.
pub(super) fn base(mirror: Option<&str>) -> anyhow::Result<String> {
    let Some(mirror) = mirror else {
        return Ok(format!("{RELEASES}/v{PINNED_VERSION}"));
    };
    let (scheme, rest) = mirror.split_once("://").unwrap_or(("", mirror));
    // It would be shown in messages and in the list of processes.
    if rest.split('/').next().unwrap_or_default().contains('@') {
        return Err(usage(
            "the mirror's URL holds credentials; put them into ~/.netrc, which curl reads",
        ));
    }
    if !matches!(scheme, "http" | "https") {
        return Err(usage(format!(
            "the mirror `{mirror}` is no http or https URL; write for example \
             https://mirror.example/nats-server/v{PINNED_VERSION}"
        )));
    }
    Ok(mirror.trim_end_matches('/').to_owned())
}

/// Downloads the archive, checks it against the SHA256SUMS beside it, and unpacks the binary into
/// `staging`. Whether that binary is the pinned one is for the caller to check.
pub(super) fn fetch(
    base: &str,
    pin: &Pin,
    staging: &Path,
    step: &mut dyn FnMut(&str),
) -> anyhow::Result<PathBuf> {
    let name = format!("nats-server-v{PINNED_VERSION}-{}.tar.gz", pin.upstream);
    let archive = staging.join(&name);
    step(&format!("downloading {base}/{name} by curl"));
    download(&format!("{base}/{name}"), &archive)?;
    let sums = staging.join("SHA256SUMS");
    match download(&format!("{base}/SHA256SUMS"), &sums) {
        Ok(()) => check_sum(&std::fs::read_to_string(&sums)?, &name, &sha256(&archive)?)?,
        // It guards against a broken transport only; what may run is decided by the pinned hash.
        Err(error) => step(&format!(
            "without SHA256SUMS ({error:#}): the pinned hash decides"
        )),
    }
    unpack(&archive, &staging.join(NAME))
}

fn download(url: &str, to: &Path) -> anyhow::Result<()> {
    // A mirror may be plain http, as a pinned hash decides; nothing falls from https to http.
    let protocol = if url.starts_with("https://") {
        "=https"
    } else {
        "=http,https"
    };
    let mut command = Command::new("curl");
    command
        .args(["--fail", "--silent", "--show-error", "--netrc-optional"])
        .args(["--location", "--max-redirs", "5"])
        .args(["--proto", protocol, "--proto-redir", protocol])
        .args(["--connect-timeout", "20", "--retry", "2"])
        .args(["--max-time", "300", "--max-filesize"])
        .arg(MAX_ARCHIVE_BYTES.to_string())
        .arg("--output")
        .arg(to)
        .args(["--url", url]);
    let outcome = run_within(&mut command, LIMIT).context("cannot run curl")?;
    ensure!(outcome.status.success(), "{}", last_line(&outcome.stderr));
    let length = to.metadata().context("curl left no file")?.len();
    ensure!(
        length <= MAX_ARCHIVE_BYTES,
        "the file is larger than {MAX_ARCHIVE_BYTES} bytes"
    );
    Ok(())
}

/// `sums` has lines of `<hex>  <file name>`, as sha256sum writes them.
fn check_sum(sums: &str, name: &str, found: &str) -> anyhow::Result<()> {
    let expected = sums.lines().find_map(|line| {
        let (hash, file) = line.split_once(char::is_whitespace)?;
        (file.trim_start_matches([' ', '*']) == name).then_some(hash)
    });
    match expected {
        Some(hash) if hash.eq_ignore_ascii_case(found) => Ok(()),
        Some(hash) => {
            bail!("damaged on the way: {name} has SHA-256 {found}, SHA256SUMS says {hash}")
        }
        None => bail!("SHA256SUMS does not name {name}"),
    }
}

fn unpack(archive: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(File::open(archive)?));
    for entry in tar.entries()? {
        let entry = entry.context("the archive cannot be read")?;
        let is_binary = entry.path()?.file_name().is_some_and(|name| name == NAME);
        if is_binary && entry.header().entry_type().is_file() {
            extract(entry, to)?;
            return Ok(to.to_owned());
        }
    }
    bail!("the archive holds no {NAME}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_plain_http_url_without_credentials() {
        assert_eq!(
            base(None).expect("upstream"),
            "https://github.com/nats-io/nats-server/releases/download/v2.15.1"
        );
        assert_eq!(
            base(Some("http://m/nats/")).expect("a URL"),
            "http://m/nats"
        );
        for wrong in [
            "m/nats",
            "file:///etc",
            "https://user:pw@m/nats",
            "user:pw@m/nats",
        ] {
            let error = base(Some(wrong)).expect_err("refused").to_string();
            assert!(!error.contains("pw"), "{error}");
        }
    }

    #[test]
    fn sums_are_read_as_sha256sum_writes_them() {
        let sums = "aa  other.tar.gz\nBB *mine.tar.gz\n";
        assert!(check_sum(sums, "mine.tar.gz", "bb").is_ok());
        let error = check_sum(sums, "mine.tar.gz", "cc").expect_err("differs");
        assert!(error.to_string().contains("damaged"), "{error}");
        assert!(check_sum(sums, "absent.tar.gz", "aa").is_err());
    }
}
