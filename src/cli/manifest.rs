//! What is known of a run before it begins.

use crate::record::document::{AckOf, Host};
use crate::record::event::{
    CellRef, ClientRef, ExpectationRef, MANIFEST_SCHEMA, Manifest, ScenarioRef, Tool,
};
use crate::scenario::model::{
    Arrivals, Cell, CellSpec, ClientKind, ConsumerKind, Length, Op, Pacing, PublishMode, Rate,
    Scenario, Storage, Target, Workload,
};
use crate::units::as_ns;

/// Makes the manifest of a run.
pub fn manifest(
    scenario: &Scenario,
    run_id: &str,
    seed: u64,
    command: String,
    target: String,
    shared_host: bool,
) -> Manifest {
    Manifest {
        schema: MANIFEST_SCHEMA.to_owned(),
        run_id: run_id.to_owned(),
        scenario: ScenarioRef {
            name: scenario.name.clone(),
            path: scenario.path.as_ref().map(|p| p.display().to_string()),
            file_sha256: scenario.file_sha256.clone(),
            resolved: scenario.resolved_toml.clone(),
            question: scenario.question.clone(),
            hypothesis: scenario.hypothesis.clone(),
            axes: scenario.axes.clone(),
        },
        seed,
        started_at: jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string(),
        tool: Tool {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git: option_env!("JSBENCH_GIT").map(str::to_owned),
        },
        host: host(),
        servers: Vec::new(),
        calibration: None,
        command,
        target,
        shared_host,
        planned_trials: scenario.repeat * scenario.cells.len() as u32,
        cells: scenario.cells.iter().map(cell).collect(),
    }
}

fn cell(cell: &Cell) -> CellRef {
    let load = &cell.spec.workload;
    let core = cell.spec.publish.mode == PublishMode::Core;
    let is_stored = !cell.spec.publish.mode.is_core();
    CellRef {
        id: cell.id.clone(),
        factors: cell.factors.clone(),
        closed_loop: load.rate == Rate::Max,
        rate_per_s: match (&load.rate, load.length) {
            (Rate::Max, _) => None,
            (Rate::Open(program), Length::Duration(window)) => {
                Some(program.mean_per_s(0, as_ns(window)))
            }
            (Rate::Open(program), Length::Messages(_)) => Some(program.first_per_s()),
        },
        payload_bytes: load.payload.size_bytes(),
        has_consumers: load.subscribers > 0 && cell.spec.consumer.kind != ConsumerKind::None,
        has_publishers: load.publishers > 0,
        core,
        ack: ack(&cell.spec),
        client: Some(client(load)),
        in_flight: (!core).then(|| {
            u64::from(load.pods) * u64::from(load.publishers) * u64::from(cell.spec.publish.window)
        }),
        program: match &load.rate {
            Rate::Open(program) if !program.is_constant() => Some(program.text().to_owned()),
            _ => None,
        },
        rate_change_per_s: match (&load.rate, load.length) {
            (Rate::Open(program), Length::Duration(window)) if !program.is_constant() => {
                let before = if cell.spec.warmup.is_zero() {
                    0.0
                } else {
                    program.first_per_s()
                };
                program.at_per_s(as_ns(window)) - before
            }
            _ => 0.0,
        },
        spin: load.pacing == Pacing::Spin,
        poisson: load.rate != Rate::Max && load.arrivals == Arrivals::Poisson,
        file: is_stored && cell.spec.stream.storage == Storage::File,
        replicas: if is_stored {
            cell.spec.stream.replicas
        } else {
            0
        },
        expectations: cell
            .spec
            .expect
            .iter()
            .map(|e| ExpectationRef {
                text: e.text.clone(),
                name: e.name.clone(),
                op: match e.op {
                    Op::Lt => "<",
                    Op::Le => "<=",
                    Op::Eq => "==",
                    Op::Ge => ">=",
                    Op::Gt => ">",
                }
                .to_owned(),
                limit: e.limit,
            })
            .collect(),
    }
}

fn ack(spec: &CellSpec) -> Option<AckOf> {
    match spec.publish.mode {
        _ if spec.workload.publishers == 0 => None,
        PublishMode::Core => None,
        mode if mode.has_group_acks() => Some(AckOf::Group),
        _ => Some(AckOf::Message),
    }
}

fn client(load: &Workload) -> ClientRef {
    let clients = (load.publishers + load.subscribers).max(1);
    ClientRef {
        name: match load.client {
            ClientKind::Wire => "wire",
            ClientKind::AsyncNats => "async-nats",
        }
        .to_owned(),
        connections: u64::from(load.pods) * u64::from(load.connections.unwrap_or(clients)),
        threads: u64::from(load.pods) * u64::from(load.threads.min(clients)),
    }
}

/// `3 embedded servers`, for the head of a rendering.
pub fn describe(target: &Target) -> String {
    match target {
        Target::Embedded(spec) if spec.servers == 1 => "1 embedded server".to_owned(),
        Target::Embedded(spec) => format!("{} embedded servers", spec.servers),
        Target::External(_) => "external servers".to_owned(),
        Target::Stub(_) => "a stub in this process".to_owned(),
    }
}

/// This machine.
pub fn host() -> Host {
    let uname = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    Host {
        os: format!("{} {}", text(uname.sysname()), text(uname.release())),
        arch: text(uname.machine()),
        cpu: cpu_model(),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory: memory_bytes("MemTotal:"),
    }
}

fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A line of /proc/meminfo, in bytes.
pub fn memory_bytes(key: &str) -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
