//! [`PartSplit`], the division of a file into parts, and its reconstruction from the parts of an
//! interrupted upload. Pure functions of lengths.

use std::ops::Range;

use cenotaph::{PARTS_MAX, PartInfo};

const MIB: u64 = 1024 * 1024;

/// Default size of a part, in bytes.
pub(crate) const PART_BYTES: u64 = 64 * MIB;

/// Division of a file into parts of equal length; only the last may be shorter. Has at least 1 part
/// and at most [`PARTS_MAX`] parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartSplit {
    file_bytes: u64,
    part_bytes: u64,
    parts: u16,
}

impl PartSplit {
    /// Divides a file into parts of this size, or into larger parts of whole MiB if there would be
    /// too many parts.
    pub(crate) fn new(file_bytes: u64, part_bytes: u64) -> Self {
        let enough = file_bytes
            .div_ceil(u64::from(PARTS_MAX))
            .div_ceil(MIB)
            .saturating_mul(MIB);
        Self::exactly(file_bytes, part_bytes).unwrap_or(Self {
            file_bytes,
            part_bytes: enough,
            parts: u16::try_from(file_bytes.div_ceil(enough.max(1))).unwrap_or(PARTS_MAX),
        })
    }

    /// Divides a file into parts of exactly this size, or returns `None` if there would be too
    /// many.
    fn exactly(file_bytes: u64, part_bytes: u64) -> Option<Self> {
        let part_bytes = part_bytes.max(1);
        let parts = u16::try_from(file_bytes.div_ceil(part_bytes).max(1)).ok()?;
        (parts <= PARTS_MAX).then_some(Self {
            file_bytes,
            part_bytes,
            parts,
        })
    }

    /// Returns the possible divisions of the upload that has these parts, the most likely first.
    /// Each contains at least one of the parts.
    pub(crate) fn likely(file_bytes: u64, parts: &[PartInfo]) -> Vec<Self> {
        // Every part except the last of the file has the full size, so of two parts the longer has.
        let longest = parts.iter().map(|part| part.bytes).max();
        // A single part may be the last of the file. Its number and length then determine the size
        // of the parts before it, if the file still has the same length.
        let of_last = if let [last] = parts {
            Self::before(file_bytes, last)
        } else {
            None
        };
        let cuts = longest
            .into_iter()
            .chain(of_last.filter(|bytes| Some(*bytes) != longest));
        let mut cuts: Vec<Self> = cuts
            .filter_map(|part_bytes| Self::exactly(file_bytes, part_bytes))
            .collect();
        cuts.retain(|cut| parts.iter().any(|part| cut.has(part)));
        cuts
    }

    /// Returns the size of the parts before the last part, or `None` if no common size fits.
    fn before(file_bytes: u64, last: &PartInfo) -> Option<u64> {
        let before = u64::from(last.number.get()) - 1;
        let rest = file_bytes.checked_sub(last.bytes)?;
        (before > 0 && rest.is_multiple_of(before)).then(|| rest / before)
    }

    /// Returns the number of parts.
    pub(crate) fn parts(&self) -> u32 {
        u32::from(self.parts)
    }

    /// Returns the size of every part except the last, in bytes.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// Returns the size of the file, in bytes.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Returns the range of a part in the file. Numbers begin with 1.
    pub(crate) fn range(&self, number: u32) -> Range<u64> {
        let at = |number: u32| {
            self.part_bytes
                .saturating_mul(u64::from(number))
                .min(self.file_bytes)
        };
        at(number.saturating_sub(1))..at(number)
    }

    /// Returns whether this division contains a part of this number and length.
    pub(crate) fn has(&self, part: &PartInfo) -> bool {
        let range = self.range(part.number.into());
        part.number.get() <= self.parts && range.end - range.start == part.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph::{PartEtag, PartNumber, Timestamp};

    fn part(number: u32, bytes: u64) -> PartInfo {
        PartInfo {
            number: PartNumber::new(number).unwrap(),
            etag: PartEtag::new(0),
            bytes,
            uploaded: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn parts_cover_the_file_without_gap_or_overlap() {
        for (file_bytes, part_bytes, parts) in [
            (0, 7, 1),
            (1, 7, 1),
            (7, 7, 1),
            (8, 7, 2),
            (70, 7, 10),
            (69, 7, 10),
        ] {
            let cut = PartSplit::new(file_bytes, part_bytes);
            assert_eq!(cut.parts(), parts, "{cut:?}");
            let mut at = 0;
            for number in 1..=cut.parts() {
                let range = cut.range(number);
                assert!(
                    range.start == at && (range.end > at || file_bytes == 0),
                    "{cut:?} {number} {range:?}"
                );
                assert!(cut.has(&part(number, range.end - range.start)), "{cut:?}");
                at = range.end;
            }
            assert_eq!(at, file_bytes, "{cut:?}");
            assert!(!cut.has(&part(parts + 1, 0)), "{cut:?}");
        }
    }

    #[test]
    fn parts_grow_if_there_would_be_too_many() {
        assert_eq!(PartSplit::new(10_000 * MIB, MIB).part_bytes(), MIB);
        let one_more = PartSplit::new(10_000 * MIB + 1, MIB);
        assert_eq!((one_more.part_bytes(), one_more.parts()), (2 * MIB, 5001));
        let all = PartSplit::new(u64::MAX, MIB);
        assert!(
            all.parts() <= 10_000 && all.range(all.parts()).end == u64::MAX,
            "{all:?}"
        );
    }

    #[test]
    fn every_subset_of_parts_determines_the_cut() {
        for (file_bytes, part_bytes) in
            [(100, 7), (98, 7), (99, 7), (5, 7), (7, 7), (0, 7), (64, 32)]
        {
            let cut = PartSplit::new(file_bytes, part_bytes);
            let all: Vec<_> = (1..=cut.parts())
                .map(|number| part(number, cut.range(number).end - cut.range(number).start))
                .collect();
            for left in 1..1_u32 << all.len().min(15) {
                let left: Vec<_> = all
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| left >> at & 1 == 1)
                    .map(|(_, p)| *p)
                    .collect();
                let cuts = PartSplit::likely(file_bytes, &left);
                let is_found = cuts.iter().any(|found| {
                    (1..=cut.parts()).all(|number| found.range(number) == cut.range(number))
                });
                assert!(
                    is_found
                        && cuts
                            .iter()
                            .take(1)
                            .all(|first| left.iter().all(|part| first.has(part))),
                    "{cuts:?} of {left:?}"
                );
            }
        }
    }

    #[test]
    fn parts_of_another_file_yield_no_cut() {
        assert_eq!(PartSplit::likely(100, &[]), []);
        assert_eq!(
            PartSplit::likely(10, &[part(3, 7), part(4, 7)]),
            [],
            "the file is too short"
        );
        assert_eq!(
            PartSplit::likely(100_000 * MIB, &[part(1, MIB)]),
            [],
            "there would be too many"
        );
        let grown = PartSplit::likely(100, &[part(1, 7), part(2, 3)]);
        assert_eq!(
            grown,
            [PartSplit::new(100, 7)],
            "the last part of a shorter file is not part of this file"
        );
    }
}
