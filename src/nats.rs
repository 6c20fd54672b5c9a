//! Everything that speaks NATS: the data plane's seam and the consumer protocols on it, endpoints
//! and natscli contexts, connecting, the raw JetStream API and HTTP monitoring.
//!
//! Knows neither scenario nor measurement nor record: plain requests in, plain answers out. Called
//! by `target`, `load`, `gateway` and `engine`.

pub mod api;
pub mod batch;
pub mod config;
pub mod conn;
pub mod connect;
pub mod context;
pub mod dial_error;
pub mod endpoint;
pub mod feed;
pub mod get;
pub mod monitor;
pub mod wire;
