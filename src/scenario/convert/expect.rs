//! `[expect]`: what must hold, by name.

use super::super::check::Check;
use super::super::model::{Absence, Expectation, Quantity};
use super::super::tree;
use super::super::wire::{self, Choice, Limit, Text};

pub(super) fn convert(
    check: &mut Check<'_, '_>,
    wire: &wire::Expect,
) -> (Vec<Expectation>, Vec<Absence>) {
    let mut all = Vec::new();
    let mut add = |name: String, quantity: Quantity, limit: Option<&Limit>| {
        if let Some(limit) = limit {
            all.push(Expectation {
                quantity,
                op: limit.op,
                limit: limit.value,
                text: format!("{name} {}", limit.text),
                name,
            });
        }
    };
    for (metric, latency) in [
        ("lag", &wire.lag),
        ("service", &wire.service),
        ("response", &wire.response),
        ("e2e", &wire.e2e),
    ] {
        for (quantile, limit) in [
            ("min", &latency.min),
            ("p50", &latency.p50),
            ("p90", &latency.p90),
            ("p99", &latency.p99),
            ("p999", &latency.p999),
            ("max", &latency.max),
            ("mean", &latency.mean),
        ] {
            let limit = limit.as_ref().map(|text| &text.0.0);
            add(format!("{metric}.{quantile}"), Quantity::LatencyNs, limit);
        }
    }
    for (name, limit) in [
        ("sent_per_s", &wire.sent_per_s),
        ("acked_per_s", &wire.acked_per_s),
        ("deliver.per_s", &wire.deliver.per_s),
    ] {
        let limit = limit.as_ref().map(|text| &text.0.0);
        add(name.to_owned(), Quantity::RatePerS, limit);
    }
    for (name, limit) in [
        ("lost", &wire.lost),
        ("lost_storage", &wire.lost_storage),
        ("lost_delivery", &wire.lost_delivery),
        ("duplicated", &wire.duplicated),
        ("redelivered", &wire.redelivered),
        ("reordered", &wire.reordered),
        ("corrupted", &wire.corrupted),
        ("unexpected", &wire.unexpected),
        ("recovered", &wire.recovered),
        ("refused", &wire.refused),
        ("unknown", &wire.unknown),
    ] {
        let limit = limit.as_ref().map(|text| &text.0.0);
        add(name.to_owned(), Quantity::Count, limit);
    }
    // In the order of the scenario, as its author thinks of them.
    all.sort_by_key(|e| {
        tree::place(check.tree, &format!("expect.{}", e.name)).map_or(0, |span| span.start)
    });
    let absences = wire
        .absences
        .iter()
        .filter_map(|Text(choice)| match choice {
            Choice::Now(absence) => Some(*absence),
            Choice::Later(_) => None,
        });
    let mut absences: Vec<Absence> = absences.collect();
    absences.sort();
    absences.dedup();
    (all, absences)
}
