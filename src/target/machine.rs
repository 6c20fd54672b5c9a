//! What the driver's machine says of itself: how much CPU the driver may have, and how much of it
//! others took. Counters that `engine` samples once a second and `analysis` judges.
//!
//! Linux tells through `/proc` and cgroups, v1 and v2. Elsewhere only the number of CPUs and the
//! clock are known.

use std::path::Path;

use super::cgroup::{Place, Version};
use crate::measure::clock;
use crate::record::event::Machine;
use crate::units::NS_PER_S;

/// Two looks at the monotonic clock further apart than this had something else between them.
const SAME_MOMENT_NS: u64 = 1_000_000;

/// Reads everything, in a few small files.
pub fn read() -> Machine {
    let text = |path| std::fs::read_to_string(path).ok();
    let group = Place::find("cpu").map_or_else(|_| Group::default(), |place| Group::read(&place));
    let times = text("/proc/stat").and_then(|stat| cpu_times(&stat));
    let tick_ns = NS_PER_S / rustix::param::clock_ticks_per_second().max(1);
    Machine {
        cpus: least(granted_cpus(), group.quota),
        throttled_periods: group.throttled.map(|t| t.periods),
        throttled_ns: group.throttled.map(|t| t.ns),
        steal_ns: times.map(|t| t.steal.saturating_mul(tick_ns)),
        all_cpu_ns: times.map(|t| t.all.saturating_mul(tick_ns)),
        // Of the whole host and not of our own cgroup: it is to tell who else wants the CPUs, and
        // means the same on every machine. What our own cgroup is kept from shows as throttling.
        cpu_pressure_ns: text("/proc/pressure/cpu").and_then(|psi| pressure_ns(&psi)),
        clock_offset_ns: clock_offset_ns(),
    }
}

/// Wall clock less run clock; `None` where too much time passed between reading the two.
fn clock_offset_ns() -> Option<i64> {
    let before_ns = clock::now_ns();
    let wall_ns = clock::wall_ns();
    let after_ns = clock::now_ns();
    (after_ns - before_ns < SAME_MOMENT_NS)
        .then(|| wall_ns.cast_signed().checked_sub(before_ns.cast_signed()))?
}

/// CPUs that this process may run on, whatever its quota: `available_parallelism` would round a
/// quota of 1.5 down to 1.
#[cfg(target_os = "linux")]
fn granted_cpus() -> Option<f64> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => Some(f64::from(set.count())),
        Err(_) => parallelism(),
    }
}

#[cfg(not(target_os = "linux"))]
fn granted_cpus() -> Option<f64> {
    parallelism()
}

fn parallelism() -> Option<f64> {
    let cpus = std::thread::available_parallelism().ok()?;
    Some(cpus.get() as f64)
}

fn least(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::min)
}

/// The driver's cgroup and those around it: each of them may hold it back.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Group {
    /// CPUs; the smallest of all.
    quota: Option<f64>,
    /// Summed over them; `None` where none of them counts.
    throttled: Option<Throttled>,
}

/// How often and how long a cgroup was kept from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Throttled {
    periods: u64,
    /// Summed over CPUs, as the kernel does.
    ns: u64,
}

impl Group {
    fn read(place: &Place) -> Self {
        place.upwards().fold(Self::default(), |whole, dir| {
            let one = Self::read_one(dir, place.version);
            let throttled = whole.throttled.into_iter().chain(one.throttled);
            Self {
                quota: least(whole.quota, one.quota),
                throttled: throttled.reduce(|a, b| Throttled {
                    periods: a.periods + b.periods,
                    ns: a.ns.saturating_add(b.ns),
                }),
            }
        })
    }

    fn read_one(dir: &Path, version: Version) -> Self {
        let text = |file| std::fs::read_to_string(dir.join(file)).ok();
        let quota = match version {
            Version::V1 => text("cpu.cfs_quota_us")
                .zip(text("cpu.cfs_period_us"))
                .and_then(|(quota, period)| ratio(&quota, &period)),
            Version::V2 => text("cpu.max").and_then(|max| quota_v2(&max)),
        };
        Self {
            quota,
            throttled: text("cpu.stat").and_then(|stat| throttled(&stat, version)),
        }
    }
}

/// CPUs of a quota and its period, in us; `None` without a limit, which is -1 or `max`.
fn ratio(quota_us: &str, period_us: &str) -> Option<f64> {
    let quota: u64 = quota_us.trim().parse().ok()?;
    let period: u64 = period_us.trim().parse().ok()?;
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// CPUs of a `cpu.max`: quota and period.
fn quota_v2(max: &str) -> Option<f64> {
    let (quota, period) = max.trim().split_once(' ')?;
    ratio(quota, period)
}

/// What a `cpu.stat` counts; v2 lacks it where no limit can be set.
fn throttled(stat: &str, version: Version) -> Option<Throttled> {
    let value = |key: &str| -> Option<u64> {
        let mut fields = stat.lines().filter_map(|line| line.split_once(' '));
        fields.find(|(name, _)| *name == key)?.1.trim().parse().ok()
    };
    Some(Throttled {
        periods: value("nr_throttled")?,
        ns: match version {
            Version::V1 => value("throttled_time")?,
            Version::V2 => value("throttled_usec")?.checked_mul(1_000)?,
        },
    })
}

/// CPU time of all CPUs, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    steal: u64,
    all: u64,
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and then
/// the times of guests, which user and nice hold already (proc_stat(5)).
fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields
        .split_ascii_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let all = ticks.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n))?;
    Some(CpuTimes {
        steal: *ticks.get(7)?,
        all,
    })
}

/// `total` of the line `some` of a pressure file, which is in us.
fn pressure_ns(psi: &str) -> Option<u64> {
    let some = psi.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("total="))?;
    total.parse::<u64>().ok()?.checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_both_interfaces_are_cpus() {
        assert_eq!(ratio("150000\n", "100000\n"), Some(1.5));
        assert_eq!(quota_v2("50000 100000\n"), Some(0.5));
        for (quota, period) in [("-1\n", "100000\n"), ("", ""), ("1", "0"), ("x", "100000")] {
            assert_eq!(ratio(quota, period), None, "{quota} {period}");
        }
        for max in ["max 100000\n", "max\n", "", "100000", "1 2 3"] {
            assert_eq!(quota_v2(max), None, "{max}");
        }
    }

    const V1: &str = "nr_periods 97\nnr_throttled 41\nthrottled_time 3104502117\n\
        nr_bursts 0\nburst_time 0\n";
    const V2: &str = "usage_usec 81\nuser_usec 50\nsystem_usec 31\nnice_usec 0\n\
        nr_periods 97\nnr_throttled 41\nthrottled_usec 3104502\nnr_bursts 0\nburst_usec 0\n";

    #[test]
    fn throttling_is_read_from_both_interfaces() {
        assert_eq!(
            throttled(V1, Version::V1),
            Some(Throttled {
                periods: 41,
                ns: 3_104_502_117
            })
        );
        assert_eq!(
            throttled(V2, Version::V2),
            Some(Throttled {
                periods: 41,
                ns: 3_104_502_000
            })
        );
        // The root of v2 has no limit and no such lines.
        for stat in ["usage_usec 81\nuser_usec 50\n", "", "nr_throttled x", V1] {
            assert_eq!(throttled(stat, Version::V2), None, "{stat}");
        }
        let absurd = format!("nr_throttled 1\nthrottled_usec {}", u64::MAX);
        assert_eq!(throttled(&absurd, Version::V2), None);
    }

    #[test]
    fn steal_is_a_part_of_all_cpu_time_and_guests_are_not_counted_twice() {
        let stat = "cpu  10 20 30 400 50 6 7 8 9 9\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 5\n";
        let want = CpuTimes { steal: 8, all: 531 };
        assert_eq!(cpu_times(stat), Some(want));
        for stat in [
            "",
            "cpu0 1 2 3 4 5 6 7 8",
            "cpu  1 2 3 4",
            "cpu  1 2 3 4 5 6 7 -8",
        ] {
            assert_eq!(cpu_times(stat), None, "{stat}");
        }
    }

    #[test]
    fn pressure_is_the_total_of_some() {
        let psi = "some avg10=3.52 avg60=1.38 avg300=1.46 total=1836780571\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(pressure_ns(psi), Some(1_836_780_571_000));
        for psi in ["", "full total=7\n", "some avg10=3.52\n", "some total=-1\n"] {
            assert_eq!(pressure_ns(psi), None, "{psi}");
        }
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts_and_throttling_adds_up() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let own = root.path().join("outer/own");
        std::fs::create_dir_all(&own).expect("made");
        let put = |dir: &Path, file: &str, text: &str| {
            std::fs::write(dir.join(file), text).expect("writable");
        };
        put(&root.path().join("outer"), "cpu.max", "150000 100000\n");
        put(&root.path().join("outer"), "cpu.stat", V2);
        put(&own, "cpu.max", "max 100000\n");
        put(&own, "cpu.stat", V2);
        let place = Place::at(Version::V2, root.path(), &own);
        let want = Group {
            quota: Some(1.5),
            throttled: Some(Throttled {
                periods: 82,
                ns: 6_209_004_000,
            }),
        };
        assert_eq!(Group::read(&place), want);
        let nowhere = root.path().join("nowhere");
        let place = Place::at(Version::V1, &nowhere, &nowhere);
        assert_eq!(Group::read(&place), Group::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells_what_it_can() {
        let machine = read();
        let cpus = machine.cpus.expect("a process may run somewhere");
        assert!(cpus > 0.0);
        let (steal, all) = machine.steal_ns.zip(machine.all_cpu_ns).expect("/proc");
        assert!(steal < all);
        // Both clocks have just been set to each other by the first look.
        let offset = machine.clock_offset_ns.unwrap_or_default();
        assert!(offset.abs() < 60_000_000_000, "{offset}");
    }
}
