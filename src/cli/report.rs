//! `jsbench report`: stored runs, rendered again. Changes nothing in them.

use std::io::IsTerminal as _;

use anyhow::Context as _;

use super::args::{self, Color, Form};
use super::print;
use crate::analysis;
use crate::error::usage;
use crate::record::directory::open_run;
use crate::report::{self, View};

/// Runs the verb.
pub fn report(args: &args::Report, color: Color) -> anyhow::Result<u8> {
    if args.runs.len() > 1 && !matches!(args.format, Form::Text | Form::Md) {
        return Err(usage(
            "several runs can be shown as text or md; name one run for the other formats",
        ));
    }
    let mut out = Vec::new();
    for dir in &args.runs {
        let loaded = open_run(dir)?;
        let record = analysis::analyse(&loaded.run);
        let answer = analysis::answer(&loaded.run, &record);
        let page = dir.join("report.html");
        let view = View::new(&loaded.run, &record, &answer);
        let view = if page.exists() {
            view.report_at(&page.display().to_string())
        } else {
            view
        };
        let view = view.colored(args.out.is_none() && color.on(std::io::stdout().is_terminal()));
        let bytes = report::render(args.format.format(), &view);
        if !out.is_empty() {
            out.push(b'\n');
        }
        out.extend(bytes);
    }
    match &args.out {
        Some(path) => std::fs::write(path, &out)
            .with_context(|| format!("cannot write {}", path.display()))?,
        None => print(&out)?,
    }
    Ok(0)
}
