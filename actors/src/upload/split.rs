//! [`Split`]: the sizes of the blobs of a large payload. Pure.
//!
//! ```text
//! length known    |-- part --|-- part --|-- part --|- rest -|   longer parts over 1,000 blobs
//! not known       |------ over_bytes ------|-- part --|-- part --| .. |---- part x 2 ----| ..
//! ```

use cenotaph_storage::PARTS_MAX;
use cenotaph_storage::blobs::BlobTier;

use crate::limits::SplitLimits;

/// Maximum number of blobs of a payload of known length: their row stays small, and so does a
/// listing of such rows.
const BLOBS_AIM: u64 = 1000;
/// Number of blobs after which the blobs of a stream of unknown length double in size. A payload of
/// 5 TiB has about 1,400 blobs.
const DOUBLE_AFTER: usize = 125;

/// Sizes of the blobs of a payload.
pub(super) struct Split {
    first_bytes: u64,
    part_bytes: u64,
    /// True if the length is known: all blobs but the last are equally long.
    is_known: bool,
    pub(super) at_once: usize,
}

impl Split {
    /// Returns the split of a payload of this length, if known, or `None` if it is a single blob.
    pub(super) fn of(limits: &SplitLimits, bytes: Option<u64>) -> Option<Self> {
        let at_once = limits.at_once.max(1);
        match bytes {
            Some(bytes) if bytes <= limits.over_bytes => None,
            Some(bytes) => {
                let part_bytes = limits.part_bytes.max(bytes.div_ceil(BLOBS_AIM)).max(1);
                Some(Self {
                    first_bytes: part_bytes,
                    part_bytes,
                    is_known: true,
                    at_once,
                })
            }
            // Splitting is switched off.
            None if limits.over_bytes == u64::MAX => None,
            None => {
                let first_bytes = limits.over_bytes.max(1);
                let part_bytes = limits.part_bytes.max(1);
                Some(Self {
                    first_bytes,
                    part_bytes,
                    is_known: false,
                    at_once,
                })
            }
        }
    }

    /// Returns the length of the blob with this number, unless it is the last.
    pub(super) fn bytes(&self, number: usize) -> u64 {
        match number {
            0 => self.first_bytes,
            _ if self.is_known => self.part_bytes,
            _ => self
                .part_bytes
                // At most 2^32: the shift must not overflow.
                .saturating_mul(1 << (number / DOUBLE_AFTER).min(32)),
        }
    }

    /// Returns the maximum number of blobs of a payload.
    pub(super) fn blobs_max(&self, bytes: Option<u64>) -> usize {
        let count = bytes.map_or(u64::from(PARTS_MAX), |bytes| {
            bytes.div_ceil(self.part_bytes).max(1)
        });
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Returns the maximum number of bytes that a blob under way holds in memory.
    pub(super) fn buffer_bytes(&self, blobs: &BlobTier) -> usize {
        blobs.upload_buffer_bytes(self.is_known.then_some(self.part_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const TIB: u64 = MIB * MIB;

    fn blobs(bytes: u64, is_known: bool) -> Vec<u64> {
        let split = Split::of(&SplitLimits::default(), is_known.then_some(bytes)).unwrap();
        let mut left = bytes;
        let mut blobs = Vec::new();
        while left > 0 {
            let blob = split.bytes(blobs.len()).min(left);
            left -= blob;
            blobs.push(blob);
        }
        assert!(blobs.len() <= split.blobs_max(is_known.then_some(bytes)));
        blobs
    }

    #[test]
    fn payload_is_cut_into_parts_and_long_one_into_longer_parts() {
        assert!(
            Split::of(&SplitLimits::default(), Some(256 * MIB)).is_none(),
            "a payload of exactly the limit is one blob"
        );
        assert_eq!(
            blobs(256 * MIB + 1, true),
            [vec![32 * MIB; 8], vec![1]].concat()
        );
        assert_eq!(blobs(256 * MIB + 1, false), [256 * MIB, 1]);
        assert_eq!(blobs(5 * TIB, true).len(), 1000);
        let unknown = blobs(5 * TIB, false);
        assert!((1000..2000).contains(&unknown.len()), "{}", unknown.len());
        assert_eq!((unknown[124], unknown[125]), (32 * MIB, 64 * MIB));
    }
}
