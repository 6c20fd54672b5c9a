//! What drives: pacing, publishers, subscribers and what they record. Runs inside a worker, on
//! one thread; knows a trial's assignment and a connection, not who coordinates.

pub mod blocked;
pub mod flight;
pub mod pace;
pub mod payload;

pub mod publisher;
pub mod recorder;
pub mod subscriber;

pub mod timeline;
