//! Where NATS lives: finds and installs the nats-server binary, starts, samples and ends the
//! embedded servers, samples external ones over their monitoring ports, and looks at the machine
//! the driver runs on; or it is a stub here.
//!
//! Streams, consumers and messages belong to `nats` and to those who use it; only the readiness of
//! a cluster is tried with a stream of its own.
//! `engine` starts and ends targets, `cli` installs the binary and dispatches the guard's verb.

pub mod binary;
mod cgroup;
mod command;
mod config;
pub mod embedded;
pub mod external;
pub mod guard;
pub mod install;
pub mod machine;
pub mod monitor;
mod ports;
pub mod process;
mod store;
pub mod stub;

pub use binary::{Found, Search, find};
pub use embedded::{Servers, StartOptions, start};
pub use guard::Guard;
pub use install::{InstallOptions, install};
pub use monitor::{external_infos, external_sample};
pub use store::allocated_bytes;
pub use stub::StubServer;

/// The nats-server release that `jsbench server install` installs.
pub const PINNED_VERSION: &str = "2.15.1";

/// The oldest release jsbench works with: stream metadata, by which it knows its own streams.
pub const OLDEST_VERSION: &str = "2.10.0";
