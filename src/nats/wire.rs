//! Our own NATS client for the data plane: a protocol core without IO, a way to connect, and one
//! task per connection that moves bytes and stamps them where they leave and arrive.
//!
//! Knows no JetStream: consumers and batches stand on the seam in [`super::conn`], which is also
//! who calls this.

pub mod client;
pub mod dial;
mod driver;
pub mod protocol;
