//! Computes the ranged reads for a range of an object from its manifest. Pure functions.
//!
//! ```text
//! object   |----------- extent 0 -----------|-extent 1 -|------ extent 2 -------|
//! blocks   |  0  |  1  |  2  |  3  |  4  |5 |  0  |  1  |  0  |  1  |  2  |  3  |   (1)
//! range                   |======================================|
//! pieces                  |=== extent 0 ====|=extent 1 =|=ext. 2=|                  (2)
//! units                |  2  |  3  |  4  |5 |  0  |  1  |  0  |  1  |               (3)
//!
//! (1) numbered within their extent
//! (2) never cross the border of an extent
//! (3) whole blocks, here a block per unit; trimmed at the ends of the range
//! ```
//!
//! Blocks are read whole, because their checksums cover whole blocks. Guards "never wrong bytes".

use std::ops::Range;

use crate::records::{Extent, Manifest};
use crate::types::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The part of an extent that is within a range. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentPiece {
    /// Extent to read.
    pub(super) extent: Extent,
    /// Bytes to read, counted from the beginning of the extent.
    pub(super) bytes: Range<u64>,
}

/// A ranged read: whole blocks of an extent, and the requested bytes within them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Blocks to read, counted from the beginning of the extent.
    pub(super) blocks: Range<u64>,
    /// Requested bytes, counted from the beginning of the first block.
    pub(super) trim: Range<usize>,
    /// Length of all blocks together, in bytes.
    pub(super) bytes: u64,
}

/// Returns the pieces of `range` in order; no piece for an empty range.
pub(super) fn pieces(manifest: &Manifest, range: &Range<u64>) -> Vec<ExtentPiece> {
    let piece = |(begins, extent): (u64, Extent)| {
        let from = range.start.max(begins);
        let to = range.end.min(begins.saturating_add(extent.bytes));
        (from < to).then(|| ExtentPiece {
            extent,
            bytes: from - begins..to - begins,
        })
    };
    manifest.within(range).filter_map(piece).collect()
}

impl ExtentPiece {
    /// Returns the read of the next blocks of the piece, from `first_block` on or from the
    /// beginning of the piece. Reads at most `unit_blocks` blocks, at least 1. Returns `None` at
    /// the end of the piece.
    pub(super) fn unit(&self, first_block: Option<u64>, unit_blocks: u64) -> Option<Unit> {
        let Self { extent, bytes } = self;
        let start = bytes.start / BLOCK;
        let end = bytes.end.div_ceil(BLOCK);
        let first = first_block.unwrap_or(start).max(start);
        let last = end.min(first.saturating_add(unit_blocks.max(1)));
        if first >= last {
            return None;
        }
        let begins = first * BLOCK;
        // The last block of an extent may be short.
        let ends = last.saturating_mul(BLOCK).min(extent.bytes);
        let trim = offset(bytes.start.saturating_sub(begins))..offset(bytes.end.min(ends) - begins);
        Some(Unit {
            blocks: first..last,
            trim,
            bytes: ends - begins,
        })
    }
}

/// Converts an offset within a unit into a `usize`.
fn offset(bytes: u64) -> usize {
    // Never saturates in practice: a unit is in memory as a whole.
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Checksum;
    use crate::types::RevisionId;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn manifest(sizes: &[u64]) -> Manifest {
        let extent = |(n, &bytes): (usize, &u64)| Extent {
            revision: RevisionId::from_uuid(Uuid::from_u128(n as u128)),
            bytes,
            checksum: Checksum::new(0),
        };
        Manifest::of_parts(sizes.iter().enumerate().map(extent).collect())
    }

    fn units(piece: &ExtentPiece, unit_blocks: u64) -> Vec<Unit> {
        let next = |last: &Unit| piece.unit(Some(last.blocks.end), unit_blocks);
        std::iter::successors(piece.unit(None, unit_blocks), next).collect()
    }

    /// Returns the requested byte ranges that the plan reads, with adjacent ranges merged.
    fn bytes_read(manifest: &Manifest, range: &Range<u64>, unit_blocks: u64) -> Vec<Range<u64>> {
        let mut begins = std::collections::BTreeMap::new();
        manifest.extents().iter().fold(0, |at, extent| {
            begins.insert(extent.revision, at);
            at + extent.bytes
        });
        let mut joined: Vec<Range<u64>> = Vec::new();
        for piece in pieces(manifest, range) {
            for unit in units(&piece, unit_blocks) {
                assert!(
                    unit.blocks.end - unit.blocks.start <= unit_blocks
                        && unit.blocks.start < unit.blocks.end
                );
                assert!(unit.blocks.end <= piece.extent.block_count());
                assert_eq!(
                    unit.bytes,
                    (unit.blocks.end * BLOCK).min(piece.extent.bytes) - unit.blocks.start * BLOCK
                );
                assert!(
                    unit.trim.start < BLOCK_BYTES,
                    "the first block contains requested bytes"
                );
                let at = begins[&piece.extent.revision] + unit.blocks.start * BLOCK;
                let read = at + unit.trim.start as u64..at + unit.trim.end as u64;
                match joined.last_mut() {
                    Some(last) if last.end == read.start => last.end = read.end,
                    _ => joined.push(read),
                }
            }
        }
        joined
    }

    proptest! {
        #[test]
        fn plan_reads_exactly_the_range(
            sizes in proptest::collection::vec(
                prop_oneof![Just(0), 1..5 * BLOCK, (1..4u64).prop_map(|n| n * BLOCK)], 0..6
            ),
            ends in any::<(prop::sample::Index, prop::sample::Index)>(),
            unit_blocks in 1..5u64,
        ) {
            let total = sizes.iter().sum::<u64>();
            let end_count = usize::try_from(total).unwrap() + 1;
            let picks = [ends.0, ends.1].map(|end| end.index(end_count) as u64);
            let range = picks[0].min(picks[1])..picks[0].max(picks[1]);
            let expected = if range.is_empty() { Vec::new() } else { vec![range.clone()] };
            prop_assert_eq!(bytes_read(&manifest(&sizes), &range, unit_blocks), expected);
        }
    }

    #[test]
    fn only_extents_within_the_range_are_read() {
        let manifest = manifest(&[10, 0, 20, 30]);
        let touched: Vec<_> = pieces(&manifest, &(10..31))
            .iter()
            .map(|piece| piece.bytes.clone())
            .collect();
        assert_eq!(touched, [0..20, 0..1]);
        assert_eq!(pieces(&manifest, &(10..10)), []);
    }

    #[test]
    fn first_and_last_block_are_trimmed() {
        let piece = &pieces(&manifest(&[5 * BLOCK + 7]), &(BLOCK + 1..5 * BLOCK + 3))[0];
        let units = units(piece, 4);
        assert_eq!(units.len(), 2);
        assert_eq!(
            (units[0].blocks.clone(), units[0].trim.clone()),
            (1..5, 1..4 * BLOCK_BYTES)
        );
        assert_eq!(
            (
                units[1].blocks.clone(),
                units[1].trim.clone(),
                units[1].bytes
            ),
            (5..6, 0..3, 7)
        );
    }
}
