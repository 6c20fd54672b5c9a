//! Verbs, arguments and the terminal: the only room that prints, and the one that turns errors
//! into exit codes. stdout carries results, stderr progress and errors.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this room is where printing is done"
)]

mod args;
mod calibrate;
mod check;
mod manifest;
mod report;
mod run;
mod server;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use crate::error::Failure;
use crate::scenario::Diagnostics;
use crate::target::guard;
use args::{Args, Color, Verb};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // The guard must come up whatever its arguments; it has none.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == guard::VERB)
    {
        return match guard::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help asked for goes to stdout and is no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let color = args.color;
    let done = match args.verb {
        Verb::Run(run) => run::run(&run, color),
        Verb::Check(check) => check::check(&check, color),
        Verb::Calibrate(calibrate) => calibrate::calibrate(&calibrate, color),
        Verb::Report(report) => report::report(&report, color),
        Verb::Server(server) => server::server(&server),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, color),
    }
}

/// Prints an error and gives its exit code.
fn fail(error: &anyhow::Error, color: Color) -> ExitCode {
    if let Some(diagnostics) = error.downcast_ref::<Diagnostics>() {
        eprintln!(
            "{}",
            diagnostics
                .render(color.on(std::io::stderr().is_terminal()))
                .trim_end()
        );
        return ExitCode::from(2);
    }
    eprintln!("error: {error:#}");
    let code = error
        .chain()
        .find_map(|e| e.downcast_ref::<Failure>())
        .map_or(1, Failure::exit_code);
    ExitCode::from(code)
}

/// Writes a result to stdout. A reader that went away is not our failure, and what came of a run
/// does not depend on who reads it.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
