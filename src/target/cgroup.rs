//! Limits of CPU and memory for one server by a cgroup of its own, below jsbench's own cgroup,
//! where the system lets it make one (as root, or in a delegated subtree).
//!
//! Speaks cgroup v1 and v2. Where a limit cannot be set the reason is returned as text, to be
//! recorded beside the result. `embedded` makes them, `embedded` or the guard removes them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process;

/// Every cgroup of ours begins with this, and nothing else is ever removed.
const PREFIX: &str = "jsbench-";

/// How long a cgroup may stay busy after its processes were killed.
const REMOVE_WAIT: Duration = Duration::from_secs(5);

/// The period over which the CPU quota counts: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// A limit of one server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    /// CPUs.
    Cpus(f64),
    /// Bytes.
    Memory(u64),
}

impl Limit {
    fn controller(self) -> &'static str {
        match self {
            Self::Cpus(_) => "cpu",
            Self::Memory(_) => "memory",
        }
    }

    /// Files and what is written to them, in order.
    fn settings(self, version: Version) -> Vec<(&'static str, String)> {
        match (self, version) {
            (Self::Cpus(cpus), Version::V1) => vec![
                ("cpu.cfs_period_us", PERIOD_US.to_string()),
                ("cpu.cfs_quota_us", quota_us(cpus).to_string()),
            ],
            (Self::Cpus(cpus), Version::V2) => {
                vec![("cpu.max", format!("{} {PERIOD_US}", quota_us(cpus)))]
            }
            (Self::Memory(bytes), Version::V1) => {
                vec![("memory.limit_in_bytes", bytes.to_string())]
            }
            (Self::Memory(bytes), Version::V2) => vec![("memory.max", bytes.to_string())],
        }
    }

    fn describe(self, version: Version) -> String {
        let version = match version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        match self {
            Self::Cpus(cpus) => format!("cgroup {version} cpu {cpus}"),
            Self::Memory(bytes) => format!("cgroup {version} memory {bytes}"),
        }
    }
}

fn quota_us(cpus: f64) -> u64 {
    // The kernel refuses quotas below 1 ms.
    ((cpus * PERIOD_US as f64).round() as u64).max(1_000)
}

/// The two interfaces of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// Where a controller's cgroups are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// jsbench's own cgroup in it.
    own: PathBuf,
}

impl Place {
    /// jsbench's own place under `controller`; an error in words where there is none.
    pub(super) fn find(controller: &str) -> Result<Self, String> {
        let (mounts, own) = hierarchies();
        place(controller, &mounts, &own)
    }

    #[cfg(test)]
    pub(super) fn at(version: Version, mount: &Path, own: &Path) -> Self {
        Self {
            version,
            mount: mount.to_owned(),
            own: own.to_owned(),
        }
    }

    /// jsbench's own cgroup and those around it, from the inside out, as far as they can be seen.
    pub(super) fn upwards(&self) -> impl Iterator<Item = &Path> {
        let mount = &self.mount;
        self.own
            .ancestors()
            .take_while(move |dir| dir.starts_with(mount))
    }
}

/// The cgroups that would hold one server: at most one per controller.
#[derive(Debug)]
pub(super) struct Plan {
    name: String,
    places: Vec<(Limit, Result<Place, String>)>,
}

impl Plan {
    /// Looks where `limits` could be set for the server `name`; makes nothing.
    pub(super) fn new(name: &str, limits: &[Limit]) -> Self {
        let (mounts, own) = hierarchies();
        let places = limits
            .iter()
            .map(|limit| (*limit, place(limit.controller(), &mounts, &own)))
            .collect();
        Self {
            name: format!("{PREFIX}{name}"),
            places,
        }
    }

    /// The directories that [`Self::apply`] may make, to be announced to the guard before it does.
    pub(super) fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self
            .places
            .iter()
            .filter_map(|(_, place)| Some(self.dir(place.as_ref().ok()?)))
            .collect();
        dirs.dedup();
        dirs
    }

    /// Makes the cgroups, sets the limits and moves `pid` in. One line for each limit: how it was
    /// set, or why it was not.
    pub(super) fn apply(&self, pid: u32) -> Vec<String> {
        self.places
            .iter()
            .map(|(limit, place)| {
                let result = place
                    .as_ref()
                    .map_err(Clone::clone)
                    .and_then(|place| self.set(*limit, place, pid));
                match result {
                    Ok(version) => limit.describe(version),
                    Err(why) => format!("no cgroup for {}: {why}", limit.controller()),
                }
            })
            .collect()
    }

    fn dir(&self, place: &Place) -> PathBuf {
        place.own.join(&self.name)
    }

    fn set(&self, limit: Limit, place: &Place, pid: u32) -> Result<Version, String> {
        let dir = self.dir(place);
        let made = !dir.is_dir();
        if made {
            std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let result = limit
            .settings(place.version)
            .into_iter()
            .try_for_each(|(file, value)| {
                if place.version == Version::V2 && !dir.join(file).exists() {
                    delegate(place, limit.controller())?;
                }
                write(&dir.join(file), &value)
            })
            .and_then(|()| write(&dir.join("cgroup.procs"), &pid.to_string()));
        if result.is_err() && made {
            let _ = std::fs::remove_dir(&dir);
        }
        result.map(|()| place.version)
    }
}

/// Lets children of our own cgroup have the controller. The kernel refuses while a cgroup other
/// than the root holds processes, so this works in the root and in few other places.
fn delegate(place: &Place, controller: &str) -> Result<(), String> {
    write(
        &place.own.join("cgroup.subtree_control"),
        &format!("+{controller}"),
    )
}

fn write(path: &Path, value: &str) -> Result<(), String> {
    std::fs::write(path, value).map_err(|e| format!("{}: {e}", path.display()))
}

/// The texts of `/proc/self/mounts` and `/proc/self/cgroup`; empty where the system has none.
fn hierarchies() -> (String, String) {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    (read("/proc/self/mounts"), read("/proc/self/cgroup"))
}

/// Finds where `controller` lives, from the texts of `/proc/self/mounts` and `/proc/self/cgroup`:
/// v1 where it is mounted so, as a controller is in one hierarchy only.
fn place(controller: &str, mounts: &str, own: &str) -> Result<Place, String> {
    let mount_of = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(kind, options).then(|| PathBuf::from(path))
        })
    };
    let has = |list: &str| list.split(',').any(|item| item == controller);
    let v1 = mount_of(&|kind, options| kind == "cgroup" && has(options));
    let v2 = mount_of(&|kind, _| kind == "cgroup2");
    let (version, mount) = match (v1, v2) {
        (Some(mount), _) => (Version::V1, mount),
        (None, Some(mount)) => (Version::V2, mount),
        (None, None) => return Err("no cgroup file system is mounted".to_owned()),
    };
    let path = own
        .lines()
        .find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let ours = match version {
                Version::V1 => has(controllers),
                Version::V2 => id == "0" && controllers.is_empty(),
            };
            ours.then_some(path)
        })
        .ok_or("/proc/self/cgroup does not name our own cgroup")?;
    let own = mount.join(path.trim_start_matches('/'));
    Ok(Place {
        version,
        // In a container the mount may show only our own part of the hierarchy.
        own: if own.is_dir() { own } else { mount.clone() },
        mount,
    })
}

/// Ends what still runs in a cgroup of ours and removes it. A cgroup that is gone, or that is not
/// ours, is left alone.
pub(super) fn remove(dir: &Path) {
    let ours = dir
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let deadline = Instant::now() + REMOVE_WAIT;
    while ours && dir.is_dir() && Instant::now() < deadline {
        let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| line.parse().ok()) {
            process::kill(pid);
        }
        // Only rmdir: it takes an empty cgroup, and no other directory with anything in it.
        if std::fs::remove_dir(dir).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNTS: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn v1_is_taken_where_the_controller_is_mounted_so() {
        let own = "3:cpu,cpuacct:/none/such\n0::/\n";
        assert_eq!(
            place("cpu", V1_MOUNTS, own),
            Ok(Place {
                version: Version::V1,
                mount: "/sys/fs/cgroup/cpu,cpuacct".into(),
                own: "/sys/fs/cgroup/cpu,cpuacct".into(),
            })
        );
        assert_eq!(
            place("memory", V1_MOUNTS, own).map(|place| place.version),
            Ok(Version::V2)
        );
    }

    #[test]
    fn nothing_mounted_is_a_reason() {
        let why = place("cpu", "proc /proc proc rw 0 0\n", "0::/\n").expect_err("no mount");
        assert!(why.contains("no cgroup file system"), "{why}");
    }

    #[test]
    fn the_way_up_ends_at_the_mount() {
        let place = Place::at(
            Version::V2,
            Path::new("/sys/fs/cgroup"),
            Path::new("/sys/fs/cgroup/user.slice/jsbench"),
        );
        let dirs: Vec<&Path> = place.upwards().collect();
        assert_eq!(
            dirs,
            [
                "/sys/fs/cgroup/user.slice/jsbench",
                "/sys/fs/cgroup/user.slice",
                "/sys/fs/cgroup"
            ]
            .map(Path::new)
        );
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        assert_eq!(
            Limit::Cpus(1.5).settings(Version::V2),
            [("cpu.max", "150000 100000".to_owned())]
        );
        assert_eq!(
            Limit::Cpus(0.001).settings(Version::V1)[1],
            ("cpu.cfs_quota_us", "1000".to_owned())
        );
        assert_eq!(
            Limit::Memory(1 << 20).settings(Version::V1),
            [("memory.limit_in_bytes", "1048576".to_owned())]
        );
    }

    #[test]
    fn a_place_that_refuses_is_a_line_and_leaves_nothing() {
        let plan = |own: PathBuf| Plan {
            name: format!("{PREFIX}test"),
            places: vec![(Limit::Cpus(1.0), Ok(Place::at(Version::V1, &own, &own)))],
        };
        let lines = plan("/proc/self".into()).apply(1);
        assert!(
            lines[0].starts_with("no cgroup for cpu: /proc/"),
            "{lines:?}"
        );

        let dir = tempfile::tempdir().expect("temporary directory");
        let foreign = dir.path().join("foreign");
        std::fs::create_dir(&foreign).expect("made");
        remove(&foreign);
        assert!(foreign.exists(), "only cgroups with our prefix are removed");
    }
}
