//! From a TOML file to validated cells: diagnostics, overlays, matrix, planning. Starts nothing
//! and knows no server; called by `cli`, and by tests of all rooms that need a scenario.

pub mod assignment;

mod check;
mod convert;
mod decode;
mod diagnostic;
mod load;
mod matrix;

pub mod model;
mod overlay;
pub mod plan;
pub mod program;
mod rules;
mod source;
mod tree;
mod wire;

pub use diagnostic::Diagnostics;
pub use load::load;
pub use overlay::{ExternalTarget, Overrides};
pub use source::{QUICKSTART, Source};

#[cfg(test)]
mod tests;
