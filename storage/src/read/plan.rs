//! Which blocks of which revisions hold a range of an object: pure functions from a manifest to the
//! ranged reads to make.
//!
//! ```text
//! object   |----------- extent 0 -----------|- extent 1 -|------ extent 2 ------|
//! blocks   |  0  |  1  |  2  |  3  |  4  | 5|  0  |  1  |  0  |  1  |  2  |  3  |   each extent counts its own
//! range                    |====================================|
//! pieces                   |=== of extent 0 |== of extent 1 ====|               |   never two extents in one
//! units                 |  2  |  3  |  4  | 5|  0  |  1  |  0  |  1  |              whole blocks, some at a time, trimmed at the ends
//! ```
//!
//! Blocks are read whole, because their checksums cover whole blocks. Guards "never wrong bytes"
//! (DESIGN §6). Deliberately not here: reading.

use std::ops::Range;

use crate::checksum::BLOCK_BYTES;
use crate::rows::{Extent, Manifest};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The part of one extent that a range asks for. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The extent.
    pub(super) extent: Extent,
    /// Which of its bytes, counted from its own beginning.
    pub(super) bytes: Range<u64>,
}

/// One ranged read: some whole blocks of an extent, and what of them is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The blocks, counted from the extent's own beginning.
    pub(super) blocks: Range<u64>,
    /// The bytes of the asked range, counted from the first block's beginning.
    pub(super) trim: Range<usize>,
    /// Bytes of all the blocks together.
    pub(super) bytes: u64,
}

/// The pieces that hold `range` of the object, in order; none for an empty range.
pub(super) fn pieces(manifest: &Manifest, range: &Range<u64>) -> Vec<Piece> {
    let piece = |(begins, extent): (u64, Extent)| {
        let (from, to) = (
            range.start.max(begins),
            range.end.min(begins.saturating_add(extent.bytes)),
        );
        (from < to).then(|| Piece {
            extent,
            bytes: from - begins..to - begins,
        })
    };
    manifest.within(range).filter_map(piece).collect()
}

impl Piece {
    /// The read that brings it from this block on, or from its beginning, of at most `unit_blocks`
    /// blocks (at least one); none at its end.
    pub(super) fn unit(&self, first_block: Option<u64>, unit_blocks: u64) -> Option<Unit> {
        let Self { extent, bytes } = self;
        let (start, end) = (bytes.start / BLOCK, bytes.end.div_ceil(BLOCK));
        let first = first_block.unwrap_or(start).max(start);
        let last = end.min(first.saturating_add(unit_blocks.max(1)));
        if first >= last {
            return None;
        }
        let (begins, ends) = (first * BLOCK, last.saturating_mul(BLOCK).min(extent.bytes));
        let trim = offset(bytes.start.saturating_sub(begins))..offset(bytes.end.min(ends) - begins);
        Some(Unit {
            blocks: first..last,
            trim,
            bytes: ends - begins,
        })
    }
}

/// An offset within a unit, which is held in memory as a whole.
fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Checksum;
    use crate::word::RevisionId;
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

    fn units(piece: &Piece, unit_blocks: u64) -> Vec<Unit> {
        let next = |last: &Unit| piece.unit(Some(last.blocks.end), unit_blocks);
        std::iter::successors(piece.unit(None, unit_blocks), next).collect()
    }

    /// Every wanted byte range of the object that the plan reads, joined where they touch.
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
                    "no block is read for nothing"
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
        fn a_plan_reads_exactly_the_range(
            sizes in proptest::collection::vec(prop_oneof![Just(0), 1..5 * BLOCK, (1..4u64).prop_map(|n| n * BLOCK)], 0..6),
            ends in any::<(prop::sample::Index, prop::sample::Index)>(),
            unit_blocks in 1..5u64,
        ) {
            let total = sizes.iter().sum::<u64>();
            let picks = [ends.0, ends.1].map(|end| end.index(usize::try_from(total).unwrap() + 1) as u64);
            let range = picks[0].min(picks[1])..picks[0].max(picks[1]);
            let expected = if range.is_empty() { Vec::new() } else { vec![range.clone()] };
            prop_assert_eq!(bytes_read(&manifest(&sizes), &range, unit_blocks), expected);
        }
    }

    #[test]
    fn only_extents_within_the_range_are_touched() {
        let manifest = manifest(&[10, 0, 20, 30]);
        let touched: Vec<_> = pieces(&manifest, &(10..31))
            .iter()
            .map(|piece| piece.bytes.clone())
            .collect();
        assert_eq!(touched, [0..20, 0..1]);
        assert_eq!(pieces(&manifest, &(10..10)), []);
    }

    #[test]
    fn the_first_and_the_last_block_are_trimmed() {
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
