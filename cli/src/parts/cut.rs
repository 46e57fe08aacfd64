//! How a file is cut into parts: [`Cut`], and how one is told from the parts that an interrupted
//! upload has left. Lengths in, lengths out; nothing is read here.

use std::ops::Range;

use cenotaph::{PARTS_MAX, PartInfo};

const MIB: u64 = 1024 * 1024;

/// Bytes of a part unless told.
pub(crate) const PART_BYTES: u64 = 64 * MIB;

/// Parts of equal length but the last, which may be shorter. There is always one, and never more
/// than an upload may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    file_bytes: u64,
    part_bytes: u64,
    parts: u16,
}

impl Cut {
    /// Into parts of this size; into larger ones, of whole MiB, if there would be too many.
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

    /// Into parts of exactly this size; none if there would be too many.
    fn exactly(file_bytes: u64, part_bytes: u64) -> Option<Self> {
        let part_bytes = part_bytes.max(1);
        let parts = u16::try_from(file_bytes.div_ceil(part_bytes).max(1)).ok()?;
        (parts <= PARTS_MAX).then_some(Self {
            file_bytes,
            part_bytes,
            parts,
        })
    }

    /// What the upload that these parts are of may have been cut into, the likeliest first: the
    /// cuts that have one of them at least.
    ///
    /// Any part but the file's last is as long as all others, so the longest tells it. If there is
    /// but one it may be the last: then its number and length tell, if the file is still as long as
    /// it was.
    pub(crate) fn likely(file_bytes: u64, parts: &[PartInfo]) -> Vec<Self> {
        let longest = parts.iter().map(|part| part.bytes).max();
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

    /// Bytes of each part before the last, if they are as long as each other.
    fn before(file_bytes: u64, last: &PartInfo) -> Option<u64> {
        let (before, rest) = (
            u64::from(last.number.get()) - 1,
            file_bytes.checked_sub(last.bytes)?,
        );
        (before > 0 && rest.is_multiple_of(before)).then(|| rest / before)
    }

    /// How many parts there are.
    pub(crate) fn parts(&self) -> u32 {
        u32::from(self.parts)
    }

    /// Bytes of each part but the last.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// Bytes of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Where in the file the part of this number lies; numbers begin with 1.
    pub(crate) fn range(&self, number: u32) -> Range<u64> {
        let at = |number: u32| {
            self.part_bytes
                .saturating_mul(u64::from(number))
                .min(self.file_bytes)
        };
        at(number.saturating_sub(1))..at(number)
    }

    /// Whether the part has a number and a length of this cut.
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
        let (number, uploaded) = (PartNumber::new(number).unwrap(), Timestamp::from_millis(0));
        PartInfo {
            number,
            etag: PartEtag::new(0),
            bytes,
            uploaded,
        }
    }

    #[test]
    fn the_parts_of_a_cut_are_the_file_without_gap_or_overlap() {
        for (file_bytes, part_bytes, parts) in [
            (0, 7, 1),
            (1, 7, 1),
            (7, 7, 1),
            (8, 7, 2),
            (70, 7, 10),
            (69, 7, 10),
        ] {
            let cut = Cut::new(file_bytes, part_bytes);
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
    fn parts_grow_where_there_would_be_too_many() {
        assert_eq!(Cut::new(10_000 * MIB, MIB).part_bytes(), MIB);
        let one_more = Cut::new(10_000 * MIB + 1, MIB);
        assert_eq!((one_more.part_bytes(), one_more.parts()), (2 * MIB, 5001));
        let all = Cut::new(u64::MAX, MIB);
        assert!(
            all.parts() <= 10_000 && all.range(all.parts()).end == u64::MAX,
            "{all:?}"
        );
    }

    #[test]
    fn any_parts_that_are_left_tell_the_cut() {
        for (file_bytes, part_bytes) in
            [(100, 7), (98, 7), (99, 7), (5, 7), (7, 7), (0, 7), (64, 32)]
        {
            let cut = Cut::new(file_bytes, part_bytes);
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
                let cuts = Cut::likely(file_bytes, &left);
                let is_told = cuts.iter().any(|told| {
                    (1..=cut.parts()).all(|number| told.range(number) == cut.range(number))
                });
                assert!(
                    is_told
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
    fn what_is_no_cut_of_the_file_is_not_taken_for_one() {
        assert_eq!(Cut::likely(100, &[]), []);
        assert_eq!(
            Cut::likely(10, &[part(3, 7), part(4, 7)]),
            [],
            "the file is too short"
        );
        assert_eq!(
            Cut::likely(100_000 * MIB, &[part(1, MIB)]),
            [],
            "there would be too many"
        );
        let grown = Cut::likely(100, &[part(1, 7), part(2, 3)]);
        assert_eq!(
            grown,
            [Cut::new(100, 7)],
            "the last part of a shorter file is not one of this"
        );
    }
}
