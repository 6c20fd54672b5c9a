//! How late a clock is: messages are due at a constant rate, and each way to wait records when it
//! comes to them. Rounds alternate, so that a noisy machine is noisy for all.
//!
//! `cargo bench --bench pace [-- ROUNDS SECONDS]`

#![allow(
    missing_docs,
    clippy::print_stdout,
    reason = "a bench prints what it measures"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hdrhistogram::Histogram;
use jsbench::load::pace::{Pace, Schedule};
use jsbench::measure::alarm::Alarm;
use jsbench::measure::clock;
use jsbench::measure::histogram::{new_histogram, record};
use jsbench::scenario::model::Arrivals;
use jsbench::scenario::program::Program;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// (messages per second of all, publishers)
const LOADS: [(f64, u32); 4] = [(1e3, 1), (1e4, 1), (1e5, 1), (1e4, 1_000)];

/// Of all publishers.
type Lags = Rc<RefCell<Histogram<u64>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// What most tools do: sleep until each message is due, on tokio's timer.
    SleepUntil,
    /// `pacing = "sleep"`: a timerfd per publisher in the event loop, draining all that is due.
    Alarm,
    /// `pacing = "spin"`: each publisher looks at the clock whenever its turn comes.
    Spin,
    /// A thread with absolute deadlines that feeds the event loop through a channel.
    Thread,
}

impl Way {
    const ALL: [Self; 4] = [Self::SleepUntil, Self::Alarm, Self::Spin, Self::Thread];
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(15);
    let length = Duration::from_secs(numbers.get(1).copied().unwrap_or(1));
    println!("{rounds} rounds of {length:?}, medians of rounds [least, most]; us");
    println!("| messages/s | publishers | way | p50 | p99 | p99 of SleepUntil / p99 | CPU/msg |");
    println!("|---|---|---|---|---|---|---|");
    let stolen = steal_ticks();
    let begun = std::time::Instant::now();
    for (rate_per_s, publishers) in LOADS {
        let mut seen: BTreeMap<Way, Vec<Round>> = BTreeMap::new();
        for _ in 0..rounds {
            for way in Way::ALL {
                let before_ns = clock::process_cpu_ns();
                let lags = measure(way, rate_per_s, publishers, length);
                let us = |q: f64| lags.value_at_quantile(q) as f64 / 1e3;
                seen.entry(way).or_default().push(Round {
                    p50: us(0.5),
                    p99: us(0.99),
                    cpu: (clock::process_cpu_ns() - before_ns) as f64 / 1e3 / lags.len() as f64,
                });
            }
        }
        let naive: Vec<f64> = seen[&Way::SleepUntil].iter().map(|r| r.p99).collect();
        for (way, rounds) in &seen {
            let of = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<f64>>();
            let p99 = of(|r| r.p99);
            let ratio: Vec<f64> = naive.iter().zip(&p99).map(|(n, p)| n / p).collect();
            println!(
                "| {rate_per_s} | {publishers} | {way:?} | {} | {} | {} | {} |",
                spread(of(|r| r.p50)),
                spread(p99),
                spread(ratio),
                spread(of(|r| r.cpu)),
            );
        }
    }
    // 100 ticks a second and CPU, everywhere that matters.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let share = (steal_ticks() - stolen) as f64 / begun.elapsed().as_secs_f64() / cpus;
    println!("steal: {share:.1} % of the CPU time went to other machines");
}

/// What one round of one way showed, in microseconds.
struct Round {
    p50: f64,
    p99: f64,
    cpu: f64,
}

/// `median [least, most]`
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let number = |v: f64| {
        if v < 10.0 {
            format!("{v:.1}")
        } else {
            format!("{v:.0}")
        }
    };
    let (least, most) = (values[0], values[values.len() - 1]);
    let median = number(values[values.len() / 2]);
    format!("{median} [{}, {}]", number(least), number(most))
}

fn steal_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default();
    all.split_whitespace()
        .nth(8)
        .and_then(|n| n.parse().ok())
        .unwrap_or_default()
}

fn measure(way: Way, rate_per_s: f64, publishers: u32, length: Duration) -> Histogram<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(16)
        .build()
        .expect("an event loop");
    let pace = Pace {
        program: Arc::new(Program::constant(rate_per_s)),
        arrivals: Arrivals::Uniform,
        publishers,
        seed: 0,
    };
    let start_ns = clock::now_ns() + 20_000_000;
    let end_ns = start_ns + u64::try_from(length.as_nanos()).expect("short");
    let schedules = (0..publishers).map(|id| Schedule::new(&pace, id, start_ns));
    LocalSet::new().block_on(&runtime, async move {
        if way == Way::Thread {
            return fed_by_a_thread(schedules.collect(), end_ns).await;
        }
        let lags = Lags::new(RefCell::new(new_histogram()));
        let mut tasks = tokio::task::JoinSet::new();
        for schedule in schedules {
            let lags = lags.clone();
            match way {
                Way::SleepUntil => tasks.spawn_local(sleep_until(schedule, end_ns, lags)),
                Way::Spin => tasks.spawn_local(spin(schedule, end_ns, lags)),
                _ => tasks.spawn_local(alarm(schedule, end_ns, lags)),
            };
        }
        tasks.join_all().await;
        lags.replace(new_histogram())
    })
}

async fn sleep_until(mut schedule: Schedule, end_ns: u64, lags: Lags) {
    while schedule.due_ns() < end_ns {
        let due_ns = schedule.due_ns();
        // Without this look it would wait a tick for each message that is overdue, and never catch up.
        if due_ns > clock::now_ns() {
            tokio::time::sleep_until(clock::instant_at(due_ns).into()).await;
        }
        record(
            &mut lags.borrow_mut(),
            clock::now_ns().saturating_sub(due_ns),
        );
        schedule.advance();
    }
}

async fn alarm(mut schedule: Schedule, end_ns: u64, lags: Lags) {
    let mut alarm = Alarm::new().expect("a timer");
    while schedule.due_ns() < end_ns {
        let due_ns = schedule.due_ns();
        poll_fn(|cx| alarm.poll_at(cx, due_ns)).await;
        record(
            &mut lags.borrow_mut(),
            clock::now_ns().saturating_sub(due_ns),
        );
        schedule.advance();
    }
}

async fn spin(mut schedule: Schedule, end_ns: u64, lags: Lags) {
    while schedule.due_ns() < end_ns {
        let due_ns = schedule.due_ns();
        poll_fn(|cx| {
            if clock::now_ns() >= due_ns {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        record(
            &mut lags.borrow_mut(),
            clock::now_ns().saturating_sub(due_ns),
        );
        schedule.advance();
    }
}

async fn fed_by_a_thread(mut schedules: Vec<Schedule>, end_ns: u64) -> Histogram<u64> {
    let (feed, mut fed) = mpsc::unbounded_channel();
    let thread = std::thread::spawn(move || {
        // The smallest slack: the kernel may not merge this wakeup with others.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let mut turn = 0;
        let publishers = schedules.len();
        // Publishers of an even series take turns.
        while schedules[turn].due_ns() < end_ns {
            let due_ns = schedules[turn].due_ns();
            let now_ns = clock::now_ns();
            if due_ns > now_ns {
                std::thread::sleep(Duration::from_nanos(due_ns - now_ns));
            }
            if feed.send(due_ns).is_err() {
                return;
            }
            schedules[turn].advance();
            turn = (turn + 1) % publishers;
        }
    });
    let mut lags = new_histogram();
    while let Some(due_ns) = fed.recv().await {
        record(&mut lags, clock::now_ns().saturating_sub(due_ns));
    }
    thread.join().expect("no panic");
    lags
}
