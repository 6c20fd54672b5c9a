//! `jsbench check`, and the refusal of runs that cannot fit.

use std::io::IsTerminal as _;
use std::path::Path;

use super::args::{self, Color};
use super::{calibrate, manifest, print, run};
use crate::error::usage;
use crate::scenario::model::{Scenario, Target};
use crate::scenario::plan::{Room, plan};
use crate::scenario::{self, Source};

/// Runs the verb: all errors of all files, or what each would do.
pub fn check(args: &args::Check, color: Color) -> anyhow::Result<u8> {
    let mut code = 0;
    for file in &args.files {
        let source = match Source::read(file) {
            Ok(source) => source,
            Err(error) => {
                eprintln!("error: {error:#}");
                code = 2;
                continue;
            }
        };
        match scenario::load(&source, &run::overrides(&args.choice, None)) {
            Ok(scenario) => {
                let mut plan = plan(&scenario, &room(&scenario));
                plan.warnings.extend(calibrate::of_cells(&scenario.cells).1);
                print(plan.render().as_bytes())?;
                for refusal in plan.refusals() {
                    eprintln!("error: {}: {refusal}", file.display());
                    code = 2;
                }
            }
            Err(diagnostics) => {
                eprintln!(
                    "{}",
                    diagnostics
                        .render(color.on(std::io::stderr().is_terminal()))
                        .trim_end()
                );
                code = 2;
            }
        }
    }
    Ok(code)
}

/// Refuses a scenario that cannot fit the free disk or memory.
pub fn refuse_what_cannot_fit(scenario: &Scenario) -> anyhow::Result<()> {
    let refusals = plan(scenario, &room(scenario)).refusals();
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(usage(refusals.join("\n")))
    }
}

/// What this machine has left, on the disk where the servers will keep their streams.
pub fn room(scenario: &Scenario) -> Room {
    let store = scenario.cells.iter().find_map(|c| match &c.spec.target {
        Target::Embedded(spec) => spec.store_dir.clone(),
        Target::External(_) | Target::Stub(_) => None,
    });
    let store = store.unwrap_or_else(std::env::temp_dir);
    Room {
        disk_free_bytes: disk_free_bytes(&store),
        memory_free_bytes: manifest::memory_bytes("MemAvailable:").unwrap_or(u64::MAX),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
    }
}

/// Bytes an ordinary user may still write where `path` is or will be.
fn disk_free_bytes(path: &Path) -> u64 {
    path.ancestors()
        .find_map(|p| rustix::fs::statvfs(p).ok())
        .map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
}
