//! Finds the nats-server binary. Runs nothing but `nats-server --version`, installs nothing.
//!
//! The caller is `cli`, which passes on what the command line and the environment say.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etcetera::BaseStrategy as _;

use super::command::run_within;
use super::{OLDEST_VERSION, PINNED_VERSION};
use crate::error::environment;

/// The name of the binary, wherever it is.
pub(super) const NAME: &str = "nats-server";

/// `--version` answers in milliseconds; a loaded machine gets its time.
const VERSION_WAIT: Duration = Duration::from_secs(20);

/// A usable nats-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it says it is: `2.15.1`.
    pub version: String,
    /// One line for each that was passed over, and why.
    pub passed_over: Vec<String>,
}

/// Where to look, in this order.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// `--nats-server` or `JSBENCH_NATS_SERVER`: this one and no other.
    pub explicit: Option<PathBuf>,
    /// The folder of the jsbench executable, where releases put it.
    pub beside: Option<PathBuf>,
    /// The cache ([`cache_dir`]), where `jsbench server install` puts it.
    pub cache: Option<PathBuf>,
    /// `PATH`.
    pub path: Option<OsString>,
}

impl Search {
    /// The places of this process; `explicit` as the caller read it.
    pub fn from_environment(explicit: Option<PathBuf>) -> Self {
        let exe = std::env::current_exe().ok();
        Self {
            explicit,
            beside: exe.and_then(|exe| Some(exe.parent()?.to_owned())),
            cache: cache_dir().ok(),
            path: std::env::var_os("PATH"),
        }
    }
}

/// jsbench's cache directory: `$XDG_CACHE_HOME/jsbench`, else `~/.cache/jsbench`.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    let base = etcetera::base_strategy::Xdg::new()
        .map_err(|_| environment("no home directory: set HOME or XDG_CACHE_HOME"))?;
    Ok(base.cache_dir().join("jsbench"))
}

/// Where a cache keeps the pinned nats-server.
pub fn cached(cache: &Path) -> PathBuf {
    cache.join("bin").join(PINNED_VERSION).join(NAME)
}

/// Finds a nats-server. One that is named but missing, unusable or too old is an error; elsewhere
/// such a one is passed over. Nothing found is an error that names every place and the cure.
pub fn find(search: &Search) -> anyhow::Result<Found> {
    if let Some(path) = &search.explicit {
        return explicit(path);
    }
    let mut places: Vec<(&str, PathBuf)> = Vec::new();
    if let Some(dir) = &search.beside {
        places.push(("beside jsbench", dir.join(NAME)));
    }
    if let Some(dir) = &search.cache {
        places.push(("in the cache", cached(dir)));
    }
    for dir in search.path.iter().flat_map(std::env::split_paths) {
        places.push(("on PATH", dir.join(NAME)));
    }
    let mut passed_over = Vec::new();
    for (_, path) in places.iter().filter(|(_, path)| path.is_file()) {
        match usable(path) {
            Ok(version) => {
                return Ok(Found {
                    path: std::path::absolute(path)?,
                    version,
                    passed_over,
                });
            }
            Err(why) => passed_over.push(format!("passed over {}: {why}", path.display())),
        }
    }
    Err(not_found(&places, search.path.as_deref(), &passed_over))
}

fn explicit(path: &Path) -> anyhow::Result<Found> {
    let cure = "check --nats-server and JSBENCH_NATS_SERVER";
    if !path.is_file() {
        let path = path.display();
        return Err(environment(format!(
            "no nats-server at {path}: no such file; {cure}"
        )));
    }
    match usable(path) {
        Ok(version) => Ok(Found {
            path: std::path::absolute(path)?,
            version,
            passed_over: Vec::new(),
        }),
        Err(why) => {
            let path = path.display();
            Err(environment(format!("{path} cannot be used: {why}; {cure}")))
        }
    }
}

fn not_found(
    places: &[(&str, PathBuf)],
    path: Option<&OsStr>,
    passed_over: &[String],
) -> anyhow::Error {
    let mut text = format!("no nats-server {OLDEST_VERSION} or newer was found. Looked for:");
    for (place, path) in places.iter().filter(|(place, _)| *place != "on PATH") {
        let _ = write!(text, "\n  {} ({place})", path.display());
    }
    if let Some(path) = path {
        let _ = write!(text, "\n  each folder of PATH ({})", path.to_string_lossy());
    }
    for line in passed_over {
        let _ = write!(text, "\n  {line}");
    }
    let _ = write!(
        text,
        "\nInstall nats-server {PINNED_VERSION} with `jsbench server install`, or name one with \
         --nats-server PATH."
    );
    environment(text)
}

/// The version of a binary that jsbench can use, or why it cannot.
fn usable(path: &Path) -> Result<String, String> {
    let version = version(path)?;
    let (Some(number), Some(oldest)) = (parse(&version), parse(OLDEST_VERSION)) else {
        return Err(format!("`{version}` is no version jsbench understands"));
    };
    if number < oldest {
        return Err(format!(
            "it is {version}, and jsbench needs {OLDEST_VERSION} or newer"
        ));
    }
    Ok(version)
}

/// What `<path> --version` says: `2.15.1`.
pub(super) fn version(path: &Path) -> Result<String, String> {
    let mut command = Command::new(path);
    command.arg("--version");
    let outcome = run_within(&mut command, VERSION_WAIT).map_err(|error| format!("{error:#}"))?;
    match outcome.stdout.trim().strip_prefix("nats-server: v") {
        Some(version) if outcome.status.success() => Ok(version.to_owned()),
        _ => Err("`--version` does not answer like a nats-server".to_owned()),
    }
}

/// `2.15.1`, `2.15.0-dev` -> (2, 15, patch).
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next()?;
    let end = patch
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(patch.len());
    Some((major, minor, patch[..end].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    /// Lays a file that answers `--version` with `answer`.
    fn fake(dir: &Path, answer: &str) -> PathBuf {
        let path = dir.join(NAME);
        std::fs::create_dir_all(dir).expect("made");
        std::fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).expect("written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("set");
        path
    }

    #[test]
    fn the_first_usable_place_wins_and_the_others_are_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let old = fake(&dir.path().join("old"), "nats-server: v2.9.10");
        let other = fake(&dir.path().join("other"), "hello");
        let new = fake(&dir.path().join("new"), "nats-server: v2.11.0");
        let cache = dir.path().join("cache");
        let mut search = Search {
            explicit: None,
            beside: Some(dir.path().join("old")),
            cache: Some(cache.clone()),
            path: Some(
                std::env::join_paths([dir.path().join("other"), dir.path().join("new")])
                    .expect("no colon in it"),
            ),
        };
        let found = find(&search).expect("found");
        assert_eq!((found.path, found.version), (new, "2.11.0".to_owned()));
        assert_eq!(found.passed_over.len(), 2, "{:?}", found.passed_over);
        assert!(found.passed_over[0].contains(&old.display().to_string()));
        assert!(found.passed_over[0].contains("it is 2.9.10"));
        assert!(found.passed_over[1].contains(&other.display().to_string()));

        fake(
            cached(&cache).parent().expect("it has one"),
            "nats-server: v2.15.1",
        );
        assert_eq!(find(&search).expect("found").path, cached(&cache));

        search.explicit = Some(old);
        let error = find(&search).expect_err("too old").to_string();
        assert!(
            error.contains("2.9.10") && error.contains("--nats-server"),
            "{error}"
        );
    }

    #[test]
    fn nothing_found_names_every_place_and_the_cure() {
        let search = Search {
            explicit: None,
            beside: Some("/nowhere/beside".into()),
            cache: Some("/nowhere/cache".into()),
            path: Some("/nowhere/path".into()),
        };
        let error = find(&search).expect_err("nothing there").to_string();
        for part in [
            "/nowhere/beside/nats-server",
            "/nowhere/cache/bin/2.15.1/nats-server",
            "/nowhere/path",
            "jsbench server install",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn a_named_binary_that_is_missing_or_something_else_is_an_error() {
        let search = |path: &str| Search {
            explicit: Some(path.into()),
            ..Search::default()
        };
        for path in ["/nowhere/nats-server", "/bin/true", "/etc/passwd"] {
            let error = find(&search(path)).expect_err("unusable").to_string();
            assert!(
                error.contains(path) && error.contains("--nats-server"),
                "{error}"
            );
        }
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(parse("2.10.0") > parse("2.9.25"));
        assert_eq!(parse("2.15.0-dev"), Some((2, 15, 0)));
        assert_eq!(parse("2.15"), None);
        assert_eq!(parse("latest"), None);
    }
}
