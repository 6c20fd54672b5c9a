//! `jsbench run`: everything around the engine. Reads the scenario, finds the target, keeps the
//! journal, shows progress, writes the run directory and prints what came of it.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rand::Rng as _;
use tokio::sync::watch;

use super::args::{self, Color};
use super::{calibrate, check, manifest, print};
use crate::engine::run::{Access, Interrupts, Request};
use crate::error::usage;
use crate::measure::clock;
use crate::record::directory::{RunDirectory, open_run};
use crate::record::event::RunEvent;
use crate::record::journal::JournalWriter;
use crate::report::progress::Live;
use crate::report::{self, Format, View};
use crate::scenario::model::{self, Scenario, Target};
use crate::scenario::{self, ExternalTarget, Overrides, Source};
use crate::secret::Secret;
use crate::target::external::{ExternalOverrides, resolve};
use crate::target::{self, Guard, Search};
use crate::{analysis, engine};

/// Runs the verb.
pub fn run(args: &args::Run, color: Color) -> anyhow::Result<u8> {
    let source = match &args.file {
        Some(path) => Source::read(path)?,
        None => Source::quickstart(),
    };
    let external = named_target(&args.target);
    if let Some(junit) = &args.output.junit
        && let Some(folder) = junit.parent().filter(|f| !f.as_os_str().is_empty())
        && !folder.is_dir()
    {
        return Err(usage(format!(
            "--junit {}: there is no directory {}",
            junit.display(),
            folder.display()
        )));
    }
    let scenario = scenario::load(&source, &overrides(&args.choice, external))?;
    check::refuse_what_cannot_fit(&scenario)?;
    let access = resolve_targets(&scenario, &args.target)?;
    let embedded = scenario
        .cells
        .iter()
        .any(|c| matches!(c.spec.target, Target::Embedded(_)));
    let binary = if embedded {
        Some(find_server(args)?)
    } else {
        None
    };
    let guard = if embedded {
        let exe = std::env::current_exe().context("cannot find the path of this program")?;
        Some(Guard::spawn(&exe)?)
    } else {
        None
    };
    let run = rand::rng().next_u64();
    let run_id = format!("{run:016x}");
    let seed = args.seed.unwrap_or_else(|| rand::rng().next_u64() >> 16);
    let shared_host = embedded || access.iter().all(|(_, a)| a.endpoint.is_loopback());
    let target = describe(&scenario, &access);
    let mut manifest = manifest::manifest(
        &scenario,
        &run_id,
        seed,
        repeat(args, seed),
        target,
        shared_host,
    );
    let (calibration, warnings) = calibrate::of_cells(&scenario.cells);
    manifest.calibration = calibration;
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let directory = match &args.output.out {
        Some(out) => RunDirectory::create(out)?,
        None => RunDirectory::create_default(
            Path::new("results"),
            &scenario.name,
            clock::wall_ns(),
            &run_id,
        )?,
    };
    directory.write_manifest(&manifest)?;
    let request = Request {
        manifest,
        run,
        binary,
        guard,
        access,
        keep: args.output.keep,
        room: check::room(&scenario),
        scenario,
    };
    let recorded = record(&request, &directory, &args.output, &warnings);
    finish(&directory, recorded, args, color)
}

/// Runs the engine and keeps what it says, and what is known before: `notes` come behind the first
/// event. An error is why the engine gave up.
fn record(
    request: &Request,
    directory: &RunDirectory,
    output: &args::Output,
    notes: &[String],
) -> anyhow::Result<()> {
    let mut journal = JournalWriter::create(&directory.journal())?;
    let live = (!output.quiet).then(|| RefCell::new(Live::new(std::io::stderr().is_terminal())));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let went = runtime.block_on(async {
        let interrupts = listen()?;
        let mut emit = |event: RunEvent| -> anyhow::Result<()> {
            journal.append(&event).context("cannot write the journal")?;
            if matches!(event, RunEvent::RunStarted(_)) {
                for text in notes {
                    let note = RunEvent::Note { text: text.clone() };
                    journal.append(&note).context("cannot write the journal")?;
                }
            }
            tell(live.as_ref().and_then(|l| l.borrow_mut().on_event(&event, clock::now_ns())));
            Ok(())
        };
        let mut run = std::pin::pin!(engine::run::run(request, interrupts, &mut emit));
        // Time goes on without events, too.
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                went = &mut run => break went,
                _ = tick.tick() => tell(live.as_ref().and_then(|l| l.borrow_mut().tick(clock::now_ns()))),
            }
        }
    });
    if let Some(live) = &live {
        live.borrow().finish();
    }
    runtime.shutdown_timeout(Duration::from_secs(5));
    went.and(journal.sync().context("cannot write the journal"))
}

/// Prints a line of progress.
fn tell(line: Option<String>) {
    if let Some(line) = line {
        eprintln!("{line}");
    }
}

/// Writes the run directory and prints the result, from the journal: a run that was killed and
/// one that ended take the same road.
fn finish(
    directory: &RunDirectory,
    went: anyhow::Result<()>,
    args: &args::Run,
    color: Color,
) -> anyhow::Result<u8> {
    let run = match open_run(directory.path()) {
        Ok(loaded) => loaded.run,
        Err(unreadable) => return Err(went.err().unwrap_or(unreadable)),
    };
    let record = analysis::analyse(&run);
    let answer = analysis::answer(&run, &record);
    let page = directory.path().join("report.html").display().to_string();
    let colored = color.on(std::io::stdout().is_terminal());
    let view = View::new(&run, &record, &answer)
        .report_at(&page)
        .colored(colored);
    directory.write_results(&run, &record)?;
    for (name, bytes) in report::files(&view) {
        directory.write_file(&name, &bytes)?;
    }
    if let Some(path) = &args.output.junit {
        std::fs::write(path, report::render(Format::Junit, &view))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.output.json {
        let document = serde_json::json!({
            "schema": "jsbench.result/v1",
            "run_id": record.run_id,
            "run_dir": directory.path(),
            "verdict": record.verdict,
        });
        print(format!("{document:#}\n").as_bytes())?;
    } else {
        print(&report::render(Format::Text, &view))?;
    }
    let code = record.verdict.exit_code;
    if let Err(error) = went {
        // What finished before is judged; the record says 1 where nothing did.
        eprintln!("error: {error:#}");
    }
    Ok(if args.output.no_fail { 0 } else { code })
}

/// SIGINT and SIGTERM, counted: the first drains, the second aborts.
pub fn listen() -> anyhow::Result<watch::Receiver<Interrupts>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = watch::channel(Interrupts::default());
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = int.recv() => 2,
                _ = term.recv() => 15,
            };
            tell.send_modify(|i| {
                i.count += 1;
                if i.signal == 0 {
                    i.signal = number;
                }
                eprintln!(
                    "{}",
                    if i.count == 1 {
                        "stopping: a second signal aborts"
                    } else {
                        "aborting"
                    }
                );
            });
        }
    });
    Ok(told)
}

/// What `--profile`, `--set` and the like ask for.
pub fn overrides(choice: &args::Choice, external: Option<ExternalTarget>) -> Overrides {
    Overrides {
        profile: choice.profile.clone(),
        set: choice.set.clone(),
        trials: choice.trials,
        filter: choice.filter.clone(),
        external,
    }
}

fn named_target(target: &args::Target) -> Option<ExternalTarget> {
    (!target.server.is_empty() || target.context.is_some()).then(|| ExternalTarget {
        urls: target.server.clone(),
        context: target.context.clone(),
    })
}

fn resolve_targets(
    scenario: &Scenario,
    args: &args::Target,
) -> anyhow::Result<Vec<(Target, Access)>> {
    let flags = ExternalOverrides {
        servers: args.server.clone(),
        context: args.context.clone(),
        auth: model::Auth {
            creds: args.creds.clone(),
            user: args.user.clone(),
            password: args.password.clone().map(Secret::new),
            token: args.token.clone().map(Secret::new),
            nkey: args.nkey.clone().map(Secret::new),
        },
        tls: model::Tls {
            ca: args.tlsca.clone(),
            cert: args.tlscert.clone(),
            key: args.tlskey.clone(),
            first: false,
        },
        monitor: args.monitor.clone(),
        allow_remote: args.allow_remote,
    };
    let mut out: Vec<(Target, Access)> = Vec::new();
    for cell in &scenario.cells {
        if let Target::External(spec) = &cell.spec.target
            && !out.iter().any(|(t, _)| *t == cell.spec.target)
        {
            let resolved = resolve(spec, &flags, &|key| std::env::var(key).ok())?;
            let access = Access {
                endpoint: resolved.endpoint,
                monitors: resolved.monitors,
            };
            out.push((cell.spec.target.clone(), access));
        }
    }
    Ok(out)
}

fn find_server(args: &args::Run) -> anyhow::Result<PathBuf> {
    let found = target::find(&Search::from_environment(args.target.nats_server.clone()))?;
    for line in &found.passed_over {
        eprintln!("{line}");
    }
    Ok(found.path)
}

/// The target in the words of a head line, without secrets.
fn describe(scenario: &Scenario, access: &[(Target, Access)]) -> String {
    let mut words: Vec<String> = Vec::new();
    for cell in &scenario.cells {
        let word = match access.iter().find(|(t, _)| *t == cell.spec.target) {
            Some((_, access)) => format!("external {}", access.endpoint.redacted()),
            None => manifest::describe(&cell.spec.target),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" and ")
}

/// The command that repeats this run. Credentials are left out: they come from where they came.
fn repeat(args: &args::Run, seed: u64) -> String {
    let mut words = vec!["jsbench".to_owned(), "run".to_owned()];
    words.extend(args.file.as_ref().map(|f| quote(&f.display().to_string())));
    let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), quote(&value)]);
    if let Some(profile) = &args.choice.profile {
        flag("profile", profile.clone());
    }
    for set in &args.choice.set {
        flag("set", without_secrets(set));
    }
    for filter in &args.choice.filter {
        flag("filter", filter.clone());
    }
    if let Some(trials) = args.choice.trials {
        flag("trials", trials.to_string());
    }
    flag("seed", seed.to_string());
    if !args.target.server.is_empty() {
        let urls: Vec<String> = args
            .target
            .server
            .iter()
            .map(|u| crate::nats::endpoint::redact(u))
            .collect();
        flag("server", urls.join(","));
    }
    if !args.target.monitor.is_empty() {
        flag("monitor", args.target.monitor.join(","));
    }
    if let Some(path) = &args.target.nats_server {
        flag("nats-server", path.display().to_string());
    }
    if let Some(context) = &args.target.context {
        flag("context", context.clone());
    }
    words.join(" ")
}

/// A `--set` as it may be written down: of the target only what cannot hold a secret.
fn without_secrets(set: &str) -> String {
    const PLAIN: [&str; 13] = [
        "kind",
        "servers",
        "cpus",
        "memory",
        "sync_interval",
        "delay",
        "stall",
        "stall_every",
        "store_dir",
        "encryption",
        "accounts",
        "port",
        "allow_faults",
    ];
    let key: String = set
        .split('=')
        .next()
        .unwrap_or_default()
        .replace(['"', '\'', ' '], "");
    let holds_secrets = match key.strip_prefix("target") {
        Some(rest) => !PLAIN.contains(&rest.trim_start_matches('.')),
        None => key.contains("target"),
    };
    if holds_secrets {
        format!("{key}=<redacted>")
    } else {
        set.to_owned()
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
