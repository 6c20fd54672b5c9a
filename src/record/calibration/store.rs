//! The calibration of this machine on its disk: one file, written whole, and read with suspicion.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use etcetera::BaseStrategy as _;
use serde::Deserialize;

use super::{CALIBRATION_SCHEMA, Calibration, OPTIMISED};
use crate::error::environment;
use crate::record::document::Host;

/// What to do about a calibration that cannot be relied on.
const CURE: &str = "run `jsbench calibrate`";
/// What the schemas of calibrations begin with, those of other versions too.
const FAMILY: &str = "jsbench.calibration/";

/// What every document tells.
#[derive(Deserialize)]
struct Told {
    schema: String,
}

/// Where the calibration of this machine is kept: `$XDG_DATA_HOME/jsbench/calibration.json`, else
/// `~/.local/share/jsbench/calibration.json`.
///
/// # Errors
/// There is no home directory.
pub fn stored_at() -> anyhow::Result<PathBuf> {
    let base = etcetera::base_strategy::Xdg::new()
        .map_err(|_| environment("no home directory: set HOME or XDG_DATA_HOME"))?;
    Ok(base.data_dir().join("jsbench").join("calibration.json"))
}

impl Calibration {
    /// Writes it to `path`, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, path: &Path) -> anyhow::Result<()> {
        let written = (|| {
            let folder = path.parent().context("it has no folder")?;
            fs::create_dir_all(folder)?;
            let mut beside = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer_pretty(&mut beside, self)?;
            beside.write_all(b"\n")?;
            beside.as_file().sync_all()?;
            beside.persist(path)?;
            anyhow::Ok(())
        })();
        written.map_err(|e| environment(format!("cannot write {}: {e:#}", path.display())))
    }

    /// The calibration that a run on `host` relies on, of what is stored at `path`. Where there is one
    /// that it does not rely on, the second value says why and what to do; none at all is no news.
    pub fn relied_on(path: &Path, host: &Host) -> (Option<Self>, Option<String>) {
        let shown = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, None),
            Err(error) => {
                let why = format!(
                    "the calibration at {shown} cannot be read ({error}) and is not used; \
                     remove it and {CURE}"
                );
                return (None, Some(why));
            }
        };
        match serde_json::from_str::<Self>(&text) {
            Ok(stored) if stored.schema == CALIBRATION_SCHEMA => {
                match stored.unreliable(host, env!("CARGO_PKG_VERSION"), OPTIMISED) {
                    None => (Some(stored), None),
                    Some(why) => {
                        let why = format!("the calibration at {shown} is not used: {why}; {CURE}");
                        (None, Some(why))
                    }
                }
            }
            _ => {
                let why = match serde_json::from_str::<Told>(&text) {
                    Ok(Told { schema })
                        if schema.starts_with(FAMILY) && schema != CALIBRATION_SCHEMA =>
                    {
                        format!(
                            "the calibration at {shown} is {schema}, and this version of jsbench \
                             keeps {CALIBRATION_SCHEMA}: it is not used; {CURE} to make it anew"
                        )
                    }
                    _ => format!(
                        "{shown} is not a calibration of this version of jsbench and is not used; \
                     remove it and {CURE}"
                    ),
                };
                (None, Some(why))
            }
        }
    }
}
