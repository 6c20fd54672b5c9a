//! What a run leaves behind: events, the journal that keeps them, the run directory, and the
//! record as a fold over events. Knows nothing of how load is made or how reports look.

pub mod calibration;
pub mod directory;
pub mod document;
pub mod event;
pub mod fold;
pub mod hlog;
pub mod journal;
mod order;
pub mod tables;

#[cfg(test)]
pub(crate) mod fixture;
