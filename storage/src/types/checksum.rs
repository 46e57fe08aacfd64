//! Checksums of payloads: over the whole payload, and over each block of fixed size, so that a
//! ranged read can be verified, too.
//!
//! The algorithm is xxh3, 64 bit (Collet, <https://xxhash.com>). It detects accidental damage, not
//! forgery. Guards "never wrong bytes" (DESIGN §6).

use std::hash::Hasher as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;
use xxhash_rust::xxh3::Xxh3Default;

use crate::types::{Error, ErrorKind, PartEtag, Result};

/// Size of a block with its own checksum, in bytes. The last block of a revision may be shorter.
pub const BLOCK_BYTES: usize = 1024 * 1024;

/// xxh3 hash of a byte string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum(u64);

impl Checksum {
    /// Computes the checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(XxHash3_64::oneshot(bytes))
    }

    /// Creates a checksum from its value.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// Returns the bytes if they have this checksum.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if they don't.
    pub(crate) fn verified(self, bytes: Bytes) -> Result<Bytes> {
        if Self::of(&bytes) == self {
            return Ok(bytes);
        }
        let message = "the payload does not match its checksum";
        Err(Error::new(ErrorKind::Corrupt, "get", message))
    }

    /// Returns the value.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "xxh3:{:016x}", self.0)
    }
}

/// Incremental checksum of a payload in pieces of any size.
#[derive(Clone, Default)]
pub struct Hasher(XxHash3_64);

impl Hasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Returns the checksum of all added bytes.
    pub fn finish(self) -> Checksum {
        Checksum(self.0.finish())
    }
}

/// Incremental checksums of a payload and of its blocks.
#[derive(Clone, Default)]
pub struct BlockHasher {
    whole: Xxh3Default,
    blocks: Vec<Checksum>,
    bytes: u64,
}

impl BlockHasher {
    /// Adds the next block. Every block has [`BLOCK_BYTES`] bytes, except the last, which may be
    /// shorter.
    ///
    /// # Panics
    /// If an earlier block was shorter than [`BLOCK_BYTES`], or if this block is longer.
    pub fn block(&mut self, block: &[u8]) {
        // A short block before the end would shift the limits of all later blocks, and their
        // checksums would match no read.
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

    /// Returns the number of added bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the etag of a part with this payload.
    pub fn part_etag(&self) -> PartEtag {
        // The 64-bit and the 128-bit xxh3 hash share their state: a single pass computes both.
        PartEtag::new(self.whole.digest128())
    }

    /// Returns the checksum of the whole payload and the checksums of its blocks.
    pub fn finish(self) -> (Checksum, Vec<Checksum>) {
        (Checksum(self.whole.digest()), self.blocks)
    }
}
