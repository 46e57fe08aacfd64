//! Checksums of payloads: one over the whole, one per fixed block, so that a ranged read can be
//! verified too.
//!
//! xxh3, 64 bit (Collet, <https://xxhash.com>): it finds accidents, not forgers. Guards "never
//! wrong bytes" (DESIGN §6).

use crate::multipart::PartEtag;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// Bytes of payload under one block checksum. The last block of a revision may be shorter.
pub const BLOCK_BYTES: usize = 1024 * 1024;

/// The xxh3 hash of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum(u64);

impl Checksum {
    /// The checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_64(bytes))
    }

    /// The checksum with this value.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Its value.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "xxh3:{:016x}", self.0)
    }
}

/// Hashes a payload as it flows by, in pieces of any size.
#[derive(Clone, Default)]
pub struct Hasher(Xxh3Default);

impl Hasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all of them.
    pub fn finish(self) -> Checksum {
        Checksum(self.0.digest())
    }
}

/// Hashes a payload as it flows by, block by block.
#[derive(Clone, Default)]
pub struct BlockHasher {
    whole: Xxh3Default,
    blocks: Vec<Checksum>,
    bytes: u64,
}

impl BlockHasher {
    /// Takes in one block: [`BLOCK_BYTES`] of payload, fewer only for the last one.
    pub fn block(&mut self, block: &[u8]) {
        assert!(
            self.bytes.is_multiple_of(BLOCK_BYTES as u64) && block.len() <= BLOCK_BYTES,
            "only the last block may be short: hashed={} next={}",
            self.bytes,
            block.len()
        );
        self.whole.update(block);
        self.blocks.push(Checksum::of(block));
        self.bytes += block.len() as u64;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The etag of a part with this payload.
    pub fn part_etag(&self) -> PartEtag {
        PartEtag::new(self.whole.digest128())
    }

    /// The checksum of the whole payload, and those of its blocks.
    pub fn finish(self) -> (Checksum, Vec<Checksum>) {
        (Checksum(self.whole.digest()), self.blocks)
    }
}
