//! Runs a scenario: the coordinator (a pure phase machine in a thin shell), the worker, the
//! messages between them. Emits run events into one sink and returns nothing else.

pub mod calibrate;
mod conduct;
mod heartbeat;
mod judge;
pub mod messages;
pub mod order;
pub mod run;
mod sampler;
mod scan;
mod site;
mod stage;
pub mod trial;
pub mod worker;
