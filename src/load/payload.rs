//! Payloads that are built before load begins: a seeded pool of bytes from which each message
//! takes its body, so that neither a generator nor the allocator works in the hot path.

use std::path::Path;

use anyhow::Context as _;
use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, SeedableRng as _};

use crate::measure::identity::IDENTITY_BYTES;
use crate::scenario::model::Payload;

/// Bytes of bodies kept beyond one message's size, so that neighbours differ.
const SPREAD_BYTES: usize = 64 << 10;
/// Granularity of random and compressible bytes.
const GRAIN: usize = 64;

/// A pool of bodies.
#[derive(Debug)]
pub struct Pool {
    bytes: Vec<u8>,
    size: usize,
}

impl Pool {
    /// Builds the pool of `payload` from `seed`.
    ///
    /// # Errors
    /// A payload file cannot be read or is smaller than an identity.
    pub fn build(payload: &Payload, seed: u64) -> anyhow::Result<Self> {
        match payload {
            Payload::Random {
                size_bytes,
                compressible,
            } => {
                let size = *size_bytes as usize;
                Ok(Self {
                    bytes: random(size + SPREAD_BYTES, *compressible, seed),
                    size,
                })
            }
            Payload::File { path, .. } => Self::from_file(path),
        }
    }

    fn from_file(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path)
            .with_context(|| format!("cannot read payload file {}", path.display()))?;
        anyhow::ensure!(
            bytes.len() >= IDENTITY_BYTES,
            "payload file {} has {} bytes; an identity needs {IDENTITY_BYTES}",
            path.display(),
            bytes.len()
        );
        Ok(Self {
            size: bytes.len(),
            bytes,
        })
    }

    /// The body of message `sequence`, before its identity is sealed into it.
    pub fn body(&self, sequence: u64) -> &[u8] {
        let places = (self.bytes.len() - self.size) / GRAIN + 1;
        // A prime step visits all places before it repeats one.
        let at = (sequence.wrapping_mul(1_000_003) % places as u64) as usize * GRAIN;
        &self.bytes[at..at + self.size]
    }
}

fn random(len: usize, compressible: f64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for grain in bytes.chunks_mut(GRAIN) {
        let keep = ((1.0 - compressible) * grain.len() as f64).round() as usize;
        rng.fill_bytes(&mut grain[..keep]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::identity::{Decoded, Identity};

    const ID: Identity = Identity {
        run: 1,
        publisher: 2,
        sequence: 3,
        intended_ns: 4,
        trial: 5,
    };

    fn sealed(pool: &Pool, identity: &Identity) -> Vec<u8> {
        let mut bytes = pool.body(identity.sequence).to_vec();
        identity.seal(&mut bytes);
        bytes
    }

    fn pool(size_bytes: u64, compressible: f64) -> Pool {
        let payload = Payload::Random {
            size_bytes,
            compressible,
        };
        Pool::build(&payload, 7).expect("random")
    }

    #[test]
    fn messages_are_sealed_sized_and_repeatable() {
        let one = sealed(&pool(100, 0.0), &ID);
        assert_eq!(one.len(), 100);
        assert_eq!(Identity::decode(&one), Decoded::Ours(ID));
        let next = sealed(&pool(100, 0.0), &Identity { sequence: 4, ..ID });
        assert_ne!(one[IDENTITY_BYTES..], next[IDENTITY_BYTES..]);
        assert_eq!(one, sealed(&pool(100, 0.0), &ID), "same seed, same bytes");
    }

    #[test]
    fn the_smallest_payload_is_an_identity() {
        let bytes = sealed(&pool(40, 1.0), &ID);
        assert_eq!(Identity::decode(&bytes), Decoded::Ours(ID));
    }
}
