//! The 40 bytes that begin every payload and say who sent it, when it was due and whether it
//! arrived whole.
//!
//! Layout, little-endian: `"JSB1"`, run u64, publisher u32, sequence u64, intended time u64
//! (ns since the Unix epoch), trial u32, CRC-32 (IEEE) u32 over the whole payload with that field
//! taken as zero.

/// Bytes of an identity; the smallest payload.
pub const IDENTITY_BYTES: usize = 40;

const MAGIC: [u8; 4] = *b"JSB1";
const CRC_AT: usize = 36;

/// Who sent a message and when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Run.
    pub run: u64,
    /// Publisher, numbered from 0 in the cell; prefill uses the numbers after the publishers'.
    pub publisher: u32,
    /// Sequence of this publisher, from 0.
    pub sequence: u64,
    /// When it was due, ns since the Unix epoch.
    pub intended_ns: u64,
    /// Trial.
    pub trial: u32,
}

/// What a payload turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// Ours and whole.
    Ours(Identity),
    /// It begins like ours, but the checksum disagrees.
    Corrupted,
    /// Not written by jsbench.
    Foreign,
}

impl Identity {
    /// Writes the identity over the first 40 bytes of `payload` and seals the whole with its
    /// checksum. `payload` must be at least [`IDENTITY_BYTES`] long.
    pub fn seal(&self, payload: &mut [u8]) {
        payload[0..4].copy_from_slice(&MAGIC);
        payload[4..12].copy_from_slice(&self.run.to_le_bytes());
        payload[12..16].copy_from_slice(&self.publisher.to_le_bytes());
        payload[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        payload[24..32].copy_from_slice(&self.intended_ns.to_le_bytes());
        payload[32..36].copy_from_slice(&self.trial.to_le_bytes());
        payload[CRC_AT..IDENTITY_BYTES].fill(0);
        let crc = crc32fast::hash(payload);
        payload[CRC_AT..IDENTITY_BYTES].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the identity of a payload.
    pub fn decode(payload: &[u8]) -> Decoded {
        if payload.len() < IDENTITY_BYTES || payload[0..4] != MAGIC {
            return Decoded::Foreign;
        }
        if checksum(payload) != u32_at(payload, CRC_AT) {
            return Decoded::Corrupted;
        }
        Decoded::Ours(Self {
            run: u64_at(payload, 4),
            publisher: u32_at(payload, 12),
            sequence: u64_at(payload, 16),
            intended_ns: u64_at(payload, 24),
            trial: u32_at(payload, 32),
        })
    }
}

fn checksum(payload: &[u8]) -> u32 {
    let mut head = [0; IDENTITY_BYTES];
    head[..CRC_AT].copy_from_slice(&payload[..CRC_AT]);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(&payload[IDENTITY_BYTES..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: Identity = Identity {
        run: 0x1122_3344_5566_7788,
        publisher: 7,
        sequence: 9,
        intended_ns: 11,
        trial: 3,
    };

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut payload = vec![0xAB; 44];
        SAMPLE.seal(&mut payload);
        assert_eq!(&payload[..4], b"JSB1");
        assert_eq!(payload[4..12], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(payload[12..16], 7_u32.to_le_bytes());
        assert_eq!(payload[16..24], 9_u64.to_le_bytes());
        assert_eq!(payload[24..32], 11_u64.to_le_bytes());
        assert_eq!(payload[32..36], 3_u32.to_le_bytes());
        let mut zeroed = payload.clone();
        zeroed[36..40].fill(0);
        assert_eq!(payload[36..40], crc32fast::hash(&zeroed).to_le_bytes());
    }

    #[test]
    fn foreign_and_short_payloads_are_foreign() {
        assert_eq!(Identity::decode(b"hello"), Decoded::Foreign);
        assert_eq!(Identity::decode(&[0; 64]), Decoded::Foreign);
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_seen(size in 40usize..200, at in 0usize..10_000, bit in 0u8..8) {
            let mut payload = vec![5; size];
            SAMPLE.seal(&mut payload);
            prop_assert_eq!(Identity::decode(&payload), Decoded::Ours(SAMPLE));
            payload[at % size] ^= 1 << bit;
            prop_assert_ne!(Identity::decode(&payload), Decoded::Ours(SAMPLE));
        }
    }
}
