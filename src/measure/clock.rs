//! One clock for all times of a process: Unix nanoseconds that advance with the monotonic clock,
//! so that a step of the wall clock never bends a measurement.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::units::NS_PER_S;

struct Epoch {
    instant: Instant,
    unix_ns: u64,
}

fn epoch() -> &'static Epoch {
    static EPOCH: OnceLock<Epoch> = OnceLock::new();
    EPOCH.get_or_init(|| Epoch {
        instant: Instant::now(),
        unix_ns: wall_ns(),
    })
}

/// Now, in nanoseconds since the Unix epoch; monotonic within the process.
pub fn now_ns() -> u64 {
    let epoch = epoch();
    epoch.unix_ns + u64::try_from(epoch.instant.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The time of `instant` in nanoseconds since the Unix epoch.
pub fn ns_of(instant: Instant) -> u64 {
    let epoch = epoch();
    let after = instant.saturating_duration_since(epoch.instant);
    epoch.unix_ns + u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)
}

/// The `Instant` that stands for `unix_ns`, for timers; now when it is in the past.
pub fn instant_at(unix_ns: u64) -> Instant {
    Instant::now() + Duration::from_nanos(unix_ns.saturating_sub(now_ns()))
}

/// The wall clock in nanoseconds since the Unix epoch.
pub fn wall_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// CPU time of the thread that asks, in ns.
pub fn thread_cpu_ns() -> u64 {
    ns_on(ClockId::ThreadCPUTime)
}

/// CPU time of this process, in ns.
pub fn process_cpu_ns() -> u64 {
    ns_on(ClockId::ProcessCPUTime)
}

fn ns_on(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * NS_PER_S + time.tv_nsec.unsigned_abs()
}
