//! What is measured and how it is kept: identities in messages, clocks, histograms, the sets of a
//! delivery ledger. Synchronous, but for the alarm that goes with the clock; knows neither NATS nor
//! files.

pub mod alarm;
pub mod clock;
pub mod histogram;
pub mod identity;
pub mod ledger;
pub mod seqset;
