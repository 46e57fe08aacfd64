//! Payloads that no contender can compress, and a sequence of pseudo-random numbers.

use bytes::Bytes;

const POOL_BYTES: usize = 16 << 20;

/// Random bytes, of which payloads are slices. A payload is not copied.
#[derive(Clone)]
pub(crate) struct Payloads(Bytes);

impl Payloads {
    pub(crate) fn new() -> Self {
        let mut numbers = Numbers::new(1);
        let words = (0..POOL_BYTES / 8).flat_map(|_| numbers.next().to_le_bytes());
        Self(words.collect())
    }

    /// Returns a payload of this length. Payloads of different numbers differ.
    pub(crate) fn of(&self, number: u64, bytes: usize) -> Bytes {
        let start = Numbers::new(number).below(POOL_BYTES - bytes);
        self.0.slice(start..start + bytes)
    }
}

/// SplitMix64, by Steele, Lea and Flood (2014).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
