//! What a scenario will need before it runs: messages, time, memory and disk of each cell, and
//! whether they fit. Pure: free space comes in as a value. Called by `jsbench check` and `run`, and
//! by `engine` for the reservation of embedded servers.

mod bytes;
mod rates;
mod render;

use std::collections::BTreeSet;
use std::time::Duration;

use super::model::{
    Arrivals, CellSpec, ConsumerKind, Layout, Length, Pacing, Rate, Scenario, Share, Storage,
    Target,
};
use crate::units::{NS_PER_S, as_ns, human_bytes, human_duration, short_rate};
pub(super) use bytes::header_bytes;
use bytes::{replicated, stream_bytes, subjects_bytes};
use rates::{fast, gets, steady};

const MIB: u64 = 1024 * 1024;
/// Resident set of a server with its caches, and of the driver with its histograms.
const SERVER_BYTES: u64 = 128 * MIB;
const DRIVER_BYTES: u64 = 128 * MIB;
/// Creating streams and consumers, reading them back, the barrier.
const SETUP: Duration = Duration::from_secs(1);
/// Deliveries that lag behind the last publish.
const CATCH_UP: Duration = Duration::from_millis(500);

/// What the machine has to give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Free bytes where embedded servers store.
    pub disk_free_bytes: u64,
    /// Memory that can be had without swapping.
    pub memory_free_bytes: u64,
    /// Logical CPUs.
    pub cpus: u32,
}

/// What one trial of a cell needs.
#[derive(Debug, Clone, PartialEq)]
pub struct CellPlan {
    /// Cell.
    pub id: String,
    /// Messages published, warm-up included and prefill not.
    pub messages: u64,
    /// Messages stored before the barrier.
    pub prefilled: u64,
    /// Deliveries, prefilled messages included.
    pub deliveries: u64,
    /// Closed loop: the numbers are what a fast server could reach, not what is known.
    pub at_most: bool,
    /// Random arrivals: the numbers are means.
    pub mean: bool,
    /// How messages come due, where that is not evenly at one rate.
    pub pace: Option<String>,
    /// Disk of all embedded servers together; `None` for servers that are elsewhere.
    pub disk_bytes: Option<u64>,
    /// Memory of the driver and of all embedded servers together.
    pub memory_bytes: u64,
    /// One trial, set-up and drain included.
    pub trial: Duration,
}

/// What a scenario needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    name: String,
    question: Option<String>,
    refusals: Vec<String>,
    /// In the order of the scenario.
    pub cells: Vec<CellPlan>,
    /// Trials of each cell.
    pub repeat: u32,
    /// All trials, one after the other.
    pub total: Duration,
    /// The most that one trial needs; streams go when their trial ends.
    pub disk_bytes: u64,
    /// The most that one trial needs.
    pub memory_bytes: u64,
    /// What might not fit or disturb the measurement.
    pub warnings: Vec<String>,
}

impl Plan {
    /// What cannot fit, each with its cure; when there is any, the scenario must not run.
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.clone()
    }

    /// The text of `jsbench check`, at most 80 columns wide; without the refusals, which are
    /// errors.
    pub fn render(&self) -> String {
        render::render(self)
    }
}

/// What the cells of a scenario need, and whether it fits into `room`.
pub fn plan(scenario: &Scenario, room: &Room) -> Plan {
    let mut plan = Plan {
        name: scenario.name.clone(),
        question: scenario.question.clone(),
        cells: Vec::new(),
        repeat: scenario.repeat,
        total: Duration::ZERO,
        disk_bytes: 0,
        memory_bytes: 0,
        refusals: Vec::new(),
        warnings: Vec::new(),
    };
    for cell in &scenario.cells {
        let cell_plan = cell_plan(&cell.id, &cell.spec);
        judge(&mut plan, &cell.spec, &cell_plan, room);
        plan.disk_bytes = plan.disk_bytes.max(cell_plan.disk_bytes.unwrap_or(0));
        plan.memory_bytes = plan.memory_bytes.max(cell_plan.memory_bytes);
        plan.total += cell_plan.trial.saturating_mul(scenario.repeat);
        plan.cells.push(cell_plan);
    }
    let mut servers = scenario.cells.iter().map(|cell| match &cell.spec.target {
        Target::Embedded(e) => Duration::from_secs(if e.servers > 1 { 4 } else { 1 }),
        Target::External(_) | Target::Stub(_) => Duration::ZERO,
    });
    plan.total += servers.next().unwrap_or_default();
    let mut seen = BTreeSet::new();
    plan.warnings.retain(|text| seen.insert(text.clone()));
    plan
}

/// Bytes of file and of memory storage that each embedded server must be allowed (`max_file`,
/// `max_mem`), so that it can take all streams of the cell, whatever server they land on.
pub fn reserve_bytes(spec: &CellSpec) -> (u64, u64) {
    let need = match spec.stream.max_bytes {
        Some(max_bytes) => max_bytes.saturating_mul(streams(spec)),
        None => stream_bytes(spec, published(spec, fast(spec))),
    };
    // Room for what is not counted message by message, and for a trial that is being deleted.
    let spare = 64 * MIB;
    let need = need.saturating_add(need / 4).saturating_add(spare);
    match spec.stream.storage {
        Storage::File => (need, spare),
        Storage::Memory => (spare, need),
    }
}

/// Bytes of file and of memory storage that each of `servers` embedded servers is allowed, for
/// trials of these cells one after the other: what they reserve many times over, because a cluster
/// takes up to 10 s to learn that a deleted stream has given its room back, within a share of what
/// this machine has left.
pub fn store_limits<'a>(
    specs: impl IntoIterator<Item = &'a CellSpec>,
    servers: u8,
    room: &Room,
) -> (u64, u64) {
    const TIMES: u64 = 16;
    let reserve = specs.into_iter().map(reserve_bytes);
    let (file, memory) = reserve.fold((0, 0), |(a, b), (c, d)| (a.max(c), b.max(d)));
    let each = u64::from(servers.max(1));
    let within = |need: u64, free: u64| need.saturating_mul(TIMES).min(free / each).max(need);
    (
        within(file, room.disk_free_bytes / 5 * 4),
        within(memory, room.memory_free_bytes / 2),
    )
}

fn cell_plan(id: &str, spec: &CellSpec) -> CellPlan {
    let messages = published(spec, fast(spec));
    let prefilled = total_prefill(spec);
    let stored = replicated(spec, messages, true);
    let on_disk = if spec.stream.storage == Storage::File {
        stored
    } else {
        0
    };
    let in_flight = u64::from(spec.workload.pods)
        * u64::from(spec.workload.publishers)
        * u64::from(spec.publish.window);
    let each = 2 * (payload(spec) + header_bytes(&spec.publish));
    let driver = DRIVER_BYTES
        .saturating_add(in_flight.saturating_mul(each))
        .saturating_add(subjects_bytes(spec));
    let (disk_bytes, servers) = match &spec.target {
        Target::Embedded(embedded) => (
            Some(on_disk),
            (u64::from(embedded.servers) * SERVER_BYTES).saturating_add(stored - on_disk),
        ),
        Target::External(_) => (None, 0),
        Target::Stub(_) => (Some(0), 0),
    };
    CellPlan {
        id: id.to_owned(),
        messages,
        prefilled,
        deliveries: deliveries(spec, messages.saturating_add(prefilled)),
        at_most: is_open_ended(spec),
        mean: is_poisson(spec) && matches!(spec.workload.length, Length::Duration(_)),
        pace: pace(spec),
        disk_bytes,
        memory_bytes: driver.saturating_add(servers),
        trial: trial_time(spec),
    }
}

fn is_poisson(spec: &CellSpec) -> bool {
    spec.workload.rate != Rate::Max && spec.workload.arrivals == Arrivals::Poisson
}

/// `1k/s for 10s, 5k/s for 10s: 20s, at most 5k/s, Poisson arrivals`
fn pace(spec: &CellSpec) -> Option<String> {
    let Rate::Open(program) = &spec.workload.rate else {
        return None;
    };
    let mut text = program.text().to_owned();
    let spins = spec.workload.pacing == Pacing::Spin;
    if program.is_constant() {
        if !is_poisson(spec) && !spins {
            return None;
        }
    } else {
        let length = human_duration(program.length());
        let peak = short_rate(program.peak_per_s());
        text = format!("{text}: {length}, at most {peak}");
    }
    if is_poisson(spec) {
        text.push_str(", Poisson arrivals");
    }
    if spins {
        text.push_str(", spinning");
    }
    Some(text)
}

/// Refuses what cannot fit, and warns of what might not.
fn judge(plan: &mut Plan, spec: &CellSpec, cell: &CellPlan, room: &Room) {
    if let (Rate::Open(program), Length::Duration(window)) =
        (&spec.workload.rate, spec.workload.length)
        && let Some(misfit) = program.misfit(window)
    {
        let text = program.text();
        plan.warnings.push(format!("`{text}`: {misfit}"));
    }
    let workers = spec.workload.pods.saturating_mul(spec.workload.threads);
    if spec.workload.pacing == Pacing::Spin && workers >= room.cpus {
        plan.warnings.push(format!(
            "workers that spin keep {workers} of the {} CPUs here busy: nothing is left for the rest of \
             the driver, or for servers beside it",
            room.cpus
        ));
    }
    let Target::Embedded(embedded) = &spec.target else {
        return;
    };
    let id = &cell.id;
    // Where the number of messages is not known, a server this slow would still store so many.
    let least = replicated(spec, published(spec, steady(spec) / 10.0), false);
    let (place, free, most) = match spec.stream.storage {
        Storage::File => (
            "on disk",
            room.disk_free_bytes,
            cell.disk_bytes.unwrap_or(0),
        ),
        Storage::Memory => ("in memory", room.memory_free_bytes, cell.memory_bytes),
    };
    let replicas = spec.stream.replicas;
    if least > free {
        plan.refusals.push(format!(
            "cell `{id}` stores at least {} {place} ({replicas} replicas), and {} are free; \
             publish less (workload.duration, messages, prefill, rate, payload) or set \
             stream.max_bytes",
            human_bytes(least),
            human_bytes(free)
        ));
    } else if most > free / 5 * 4 {
        plan.warnings.push(format!(
            "cell `{id}` may store up to {} {place}, and {} are free; set stream.max_bytes",
            human_bytes(most),
            human_bytes(free)
        ));
    }
    let servers = u64::from(embedded.servers);
    if let Some(memory) = embedded.memory_bytes
        && memory.saturating_mul(servers) > room.memory_free_bytes
    {
        plan.warnings.push(format!(
            "{servers} servers of {} are more than the {} of memory that are free",
            human_bytes(memory),
            human_bytes(room.memory_free_bytes)
        ));
    }
    if let Some(cpus) = embedded.cpus
        && cpus * servers as f64 > f64::from(room.cpus)
    {
        plan.warnings.push(format!(
            "{servers} servers of {cpus} CPUs are more than the {} CPUs here: they share them \
             with each other and with the driver",
            room.cpus
        ));
    }
}

/// Messages that a server of this speed takes in a trial; the rate where one is set.
fn published(spec: &CellSpec, max_per_s: f64) -> u64 {
    let workload = &spec.workload;
    if workload.publishers == 0 {
        return 0;
    }
    match workload.length {
        Length::Messages(per_pod) => per_pod.saturating_mul(u64::from(workload.pods)),
        Length::Duration(window) => {
            let warmup_s = spec.warmup.as_secs_f64();
            let messages = match &workload.rate {
                Rate::Max => (spec.warmup + window).as_secs_f64() * max_per_s,
                // Warm-up is load at the first rate.
                Rate::Open(program) => {
                    program.first_per_s() * warmup_s + program.count(as_ns(window))
                }
            };
            messages.round() as u64
        }
    }
}

fn is_open_ended(spec: &CellSpec) -> bool {
    spec.workload.publishers > 0
        && spec.workload.rate == Rate::Max
        && matches!(spec.workload.length, Length::Duration(_))
}

fn publishers(spec: &CellSpec) -> f64 {
    f64::from(spec.workload.pods) * f64::from(spec.workload.publishers)
}

fn payload(spec: &CellSpec) -> u64 {
    spec.workload.payload.size_bytes()
}

fn total_prefill(spec: &CellSpec) -> u64 {
    spec.workload
        .prefill
        .saturating_mul(u64::from(spec.workload.pods))
}

/// Deliveries of so many messages, published evenly by all pods.
fn deliveries(spec: &CellSpec, messages: u64) -> u64 {
    let workload = &spec.workload;
    if workload.subscribers == 0 || spec.consumer.kind == ConsumerKind::None {
        return 0;
    }
    if spec.consumer.share == Share::App {
        return messages;
    }
    // A pod's messages go to the subscribers of all pods of its app.
    let (pods, apps) = (u64::from(workload.pods), u64::from(workload.apps.max(1)));
    let pairs: u64 = (0..apps.min(pods))
        .map(|app| {
            let of_app = pods / apps + u64::from(app < pods % apps);
            of_app * of_app
        })
        .sum();
    let copies = pairs as f64 * f64::from(workload.subscribers) / pods.max(1) as f64;
    (messages as f64 * copies).round() as u64
}

fn streams(spec: &CellSpec) -> u64 {
    let (apps, types) = (
        u64::from(spec.workload.apps),
        u64::from(spec.workload.types),
    );
    match spec.stream.layout {
        Layout::Shared => 1,
        Layout::PerApp => apps,
        Layout::PerType => apps * types,
    }
}

/// Of one trial, set-up and drain included.
fn trial_time(spec: &CellSpec) -> Duration {
    let workload = &spec.workload;
    let load = match (workload.publishers, workload.length) {
        (0, Length::Duration(limit)) => {
            let per_s = match spec.consumer.kind {
                ConsumerKind::Get => gets(spec),
                _ => 200_000.0,
            };
            seconds(deliveries(spec, total_prefill(spec)), per_s).min(limit)
        }
        _ => load_time(spec),
    };
    let drain = if workload.subscribers > 0 {
        CATCH_UP.min(workload.drain)
    } else {
        Duration::ZERO
    };
    SETUP + fill_time(spec) + load + drain
}

/// How long the first message of a trial must be there, in whole seconds: from its publish until all that
/// may be read back was. Where the length is a number of messages it is an estimate.
pub(super) fn lifetime(spec: &CellSpec) -> Duration {
    let workload = &spec.workload;
    let drain = if workload.subscribers > 0 && workload.publishers > 0 {
        workload.drain
    } else {
        Duration::ZERO
    };
    let lasts = fill_time(spec)
        .saturating_add(load_time(spec))
        .saturating_add(drain);
    Duration::from_secs_f64(lasts.as_secs_f64().ceil())
}

/// Warm-up and window; of a drain its limit.
fn load_time(spec: &CellSpec) -> Duration {
    let workload = &spec.workload;
    let total = published(spec, 0.0);
    match (workload.publishers, workload.length, &workload.rate) {
        (0, Length::Duration(limit), _) => limit,
        (_, Length::Duration(window), _) => spec.warmup.saturating_add(window),
        (_, Length::Messages(_), Rate::Open(program)) => {
            let last = total.saturating_sub(1) as f64;
            seconds(program.due_ns(last), NS_PER_S as f64)
        }
        (_, Length::Messages(_), Rate::Max) => seconds(total, steady(spec)),
    }
}

fn fill_time(spec: &CellSpec) -> Duration {
    seconds(total_prefill(spec), steady(spec))
}

fn seconds(messages: u64, per_s: f64) -> Duration {
    // A year is long enough to be told that it is too long.
    Duration::from_secs_f64((messages as f64 / per_s.max(1e-6)).min(31e6))
}

#[cfg(test)]
mod tests;
