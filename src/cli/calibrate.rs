//! `jsbench calibrate`, and what `run` and `check` make of its result.

use std::io::IsTerminal as _;
use std::time::Duration;

use rand::Rng as _;

use super::args::{self, Color};
use super::{manifest, print, run};
use crate::engine::calibrate::{Calibrate, calibrate as measure};
use crate::record::calibration::{Calibration, stored_at};
use crate::record::document::Outcome;
use crate::record::event::Manifest;
use crate::report::calibration::text;
use crate::scenario::model::{Cell, ClientKind, Scenario};

/// Runs the verb.
pub fn calibrate(args: &args::Calibrate, color: Color) -> anyhow::Result<u8> {
    let path = stored_at()?;
    let run = rand::rng().next_u64();
    let run_id = format!("{run:016x}");
    let seed = rand::rng().next_u64() >> 16;
    let make = |scenario: &Scenario| -> Manifest {
        let target = scenario.cells.first().map(|c| &c.spec.target);
        let target = target.map_or_else(String::new, manifest::describe);
        let command = "jsbench calibrate".to_owned();
        manifest::manifest(scenario, &run_id, seed, command, target, true)
    };
    let only = args.client.map(|client| [client.into()]);
    let clients = only.as_ref().map_or(&ClientKind::ALL[..], |only| only);
    let wanted = Calibrate {
        run,
        cpus: manifest::host().cpus,
        clients,
        manifest: &make,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let seconds = 20 * clients.len();
    eprintln!("calibrating: about {seconds} s, on a machine that has nothing else to do");
    let (measured, signal) = runtime.block_on(async {
        let interrupts = run::listen()?;
        let measured =
            measure(&wanted, interrupts.clone(), &mut |part| eprintln!("{part}")).await?;
        let signal = interrupts.borrow().signal;
        anyhow::Ok((measured, signal))
    })?;
    runtime.shutdown_timeout(Duration::from_secs(5));
    let Some(calibration) = measured else {
        eprintln!("interrupted: nothing was stored");
        return Ok(if signal == 15 { 143 } else { 130 });
    };
    // What runs here rely on is not given up for a noisy moment.
    let kept = match Calibration::relied_on(&path, &manifest::host()).0 {
        Some(earlier)
            if clients
                .iter()
                .any(|c| passed(&earlier, *c) && !passed(&calibration, *c)) =>
        {
            let when = &earlier.measured_at;
            eprintln!("kept the calibration of {when}, which passed; this one is not stored");
            true
        }
        _ => false,
    };
    let stored = if kept {
        Ok(())
    } else {
        calibration.store(&path)
    };
    if args.json {
        print(format!("{}\n", serde_json::to_string_pretty(&calibration)?).as_bytes())?;
    } else {
        let shown = (stored.is_ok() && !kept).then(|| path.display().to_string());
        let colored = color.on(std::io::stdout().is_terminal());
        print(text(&calibration, shown.as_deref(), colored).as_bytes())?;
    }
    stored?;
    Ok(match calibration.result {
        Outcome::Pass => 0,
        Outcome::Fail => 10,
        Outcome::Inconclusive => 13,
    })
}

/// Whether runs with this client can rely on a calibration of their machine.
fn passed(calibration: &Calibration, client: ClientKind) -> bool {
    let of = calibration.of(client);
    of.is_some_and(|of| of.unreliable().is_none())
}

/// The calibration that runs here rely on, and what it says of these cells. Tells why one that is
/// stored is not used.
pub fn of_cells(cells: &[Cell]) -> (Option<Calibration>, Vec<String>) {
    // Without a home there is nothing stored.
    let Ok(path) = stored_at() else {
        return (None, Vec::new());
    };
    let (calibration, unused) = Calibration::relied_on(&path, &manifest::host());
    if let Some(why) = unused {
        eprintln!("warning: {why}");
    }
    let warnings = calibration.as_ref().map(|c| c.warnings(cells));
    // One that is of none of their clients is nothing that this run relies on.
    let used = |c: &Calibration| {
        cells
            .iter()
            .any(|cell| passed(c, cell.spec.workload.client))
    };
    (calibration.filter(used), warnings.unwrap_or_default())
}
