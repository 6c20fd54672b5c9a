//! jsbench benchmarks NATS JetStream and plans its capacity.
//!
//! A scenario is data that flows one way: scenario -> cells -> load on workers -> run events ->
//! journal -> record -> analysis -> report. `docs/ARCHITECTURE.md` draws the rooms and says which
//! may know which.

pub mod analysis;
pub mod cli;
pub mod engine;
pub mod error;
pub mod load;
pub mod measure;
pub mod nats;
pub mod record;
pub mod report;
pub mod scenario;
pub mod secret;
pub mod target;
pub mod units;
