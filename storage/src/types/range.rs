//! The byte range of a read request: [`ByteRange`], and its resolution against the size of an
//! object.
//!
//! Guards "never wrong bytes" (DESIGN §6). The blobs and blocks that hold a resolved range are
//! determined in `read/plan.rs`.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use crate::types::{Error, ErrorKind, Result};

/// Range of bytes of an object, before the size of the object is known.
///
/// Every range of `u64` converts into a `ByteRange`. [`Last`](Self::Last) has no equivalent range.
///
/// ```
/// use cenotaph_storage::{ByteRange, ErrorKind};
///
/// // The end is clamped.
/// assert_eq!(ByteRange::from(2..100).resolve(10)?, 2..10);
/// assert_eq!(ByteRange::from(2..=5).resolve(10)?, 2..6);
/// assert_eq!(ByteRange::Last(3).resolve(10)?, 7..10);
/// assert_eq!(ByteRange::Last(30).resolve(10)?, 0..10);
/// // A range that starts at or beyond the end is an error with the size of the object.
/// let error = ByteRange::from(10..).resolve(10).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::RangeNotSatisfiable { total: 10 });
/// // An empty range is valid.
/// assert_eq!(ByteRange::from(10..10).resolve(10)?, 10..10);
/// assert_eq!(ByteRange::from(0..5).resolve(0)?, 0..0);
/// # Ok::<(), cenotaph_storage::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteRange {
    /// All bytes.
    #[default]
    Full,
    /// Bytes from `start` (inclusive) to `end` (exclusive).
    Bounded {
        /// Offset of the first byte.
        start: u64,
        /// Offset after the last byte.
        end: u64,
    },
    /// Bytes from this offset to the end.
    From(u64),
    /// This many bytes at the end.
    Last(u64),
}

impl ByteRange {
    /// Resolves the range against an object of `total` bytes. The result is within `0..total`.
    ///
    /// | range                   | result                     | required          |
    /// |-------------------------|----------------------------|-------------------|
    /// | `Full`                  | `0..total`                 |                   |
    /// | `Bounded`, start < end  | `start..min(end, total)`   | start < `total`   |
    /// | `Bounded`, start == end | empty                      | start <= `total`  |
    /// | `From`                  | `start..total`             | start < `total`   |
    /// | `Last`                  | last bytes, `total` at most |                  |
    ///
    /// For an object of 0 bytes, ranges that start at 0 resolve to the empty range.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the range ends before it starts, and
    /// [`ErrorKind::RangeNotSatisfiable`] with the size of the object if the required condition of
    /// the table does not hold.
    pub fn resolve(self, total: u64) -> Result<Range<u64>> {
        match self {
            Self::Full => Ok(0..total),
            Self::Bounded { start, end } if start > end => {
                let message = format!("the range ends before it starts: start={start} end={end}");
                Err(Error::new(ErrorKind::Invalid, "read", message))
            }
            // An empty range needs a valid offset and no byte.
            Self::Bounded { start, end } if start == end && start <= total => Ok(start..end),
            Self::Bounded { start, end } => starting_at(start, end.min(total), total),
            Self::From(start) => starting_at(start, total, total),
            // An object with fewer bytes is returned whole.
            Self::Last(bytes) => Ok(total.saturating_sub(bytes)..total),
        }
    }
}

/// Returns `start..end` if the object has a byte at `start`, or is empty and `start` is 0.
fn starting_at(start: u64, end: u64, total: u64) -> Result<Range<u64>> {
    if start < total || (start == 0 && total == 0) {
        return Ok(start..end);
    }
    let message = format!("the range starts at or beyond the end: start={start} total={total}");
    Err(Error::new(
        ErrorKind::RangeNotSatisfiable { total },
        "read",
        message,
    ))
}

impl From<RangeFull> for ByteRange {
    fn from(_: RangeFull) -> Self {
        Self::Full
    }
}

impl From<Range<u64>> for ByteRange {
    fn from(range: Range<u64>) -> Self {
        Self::Bounded {
            start: range.start,
            end: range.end,
        }
    }
}

impl From<RangeInclusive<u64>> for ByteRange {
    fn from(range: RangeInclusive<u64>) -> Self {
        Self::Bounded {
            start: *range.start(),
            // No object has a byte at offset `u64::MAX`, so that saturation loses no byte.
            end: range.end().saturating_add(1),
        }
    }
}

impl From<RangeFrom<u64>> for ByteRange {
    fn from(range: RangeFrom<u64>) -> Self {
        Self::From(range.start)
    }
}

impl From<RangeTo<u64>> for ByteRange {
    fn from(range: RangeTo<u64>) -> Self {
        Self::Bounded {
            start: 0,
            end: range.end,
        }
    }
}

impl From<RangeToInclusive<u64>> for ByteRange {
    fn from(range: RangeToInclusive<u64>) -> Self {
        Self::from(0..=range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the expected byte offsets, or `None` if the range is not satisfiable.
    fn naive(range: ByteRange, total: u64) -> Option<Vec<u64>> {
        let all: Vec<u64> = (0..total).collect();
        let answerable = |start: u64| all.contains(&start) || (total == 0 && start == 0);
        match range {
            ByteRange::Full => Some(all),
            ByteRange::Bounded { start, end } if start == end => (start <= total).then(Vec::new),
            ByteRange::Bounded { start, end } => answerable(start).then(|| {
                all.into_iter()
                    .filter(|byte| (start..end).contains(byte))
                    .collect()
            }),
            ByteRange::From(start) => {
                answerable(start).then(|| all.into_iter().filter(|&byte| byte >= start).collect())
            }
            ByteRange::Last(bytes) => {
                let mut last: Vec<u64> = all
                    .into_iter()
                    .rev()
                    .take(usize::try_from(bytes).unwrap())
                    .collect();
                last.reverse();
                Some(last)
            }
        }
    }

    fn every_range(limit: u64) -> impl Iterator<Item = ByteRange> {
        let bounded = (0..limit)
            .flat_map(move |start| (0..limit).map(move |end| ByteRange::Bounded { start, end }));
        std::iter::once(ByteRange::Full)
            .chain(bounded)
            .chain((0..limit).map(ByteRange::From))
            .chain((0..limit).map(ByteRange::Last))
    }

    #[test]
    fn every_small_range_resolves_like_the_naive_model() {
        for total in 0..8 {
            for range in every_range(11) {
                let resolved = range.resolve(total);
                if matches!(range, ByteRange::Bounded { start, end } if start > end) {
                    assert_eq!(
                        resolved.unwrap_err().kind(),
                        ErrorKind::Invalid,
                        "{range:?} of {total}"
                    );
                    continue;
                }
                match naive(range, total) {
                    Some(bytes) => assert_eq!(
                        resolved.unwrap().collect::<Vec<_>>(),
                        bytes,
                        "{range:?} of {total}"
                    ),
                    None => {
                        let kind = resolved.unwrap_err().kind();
                        assert_eq!(
                            kind,
                            ErrorKind::RangeNotSatisfiable { total },
                            "{range:?} of {total}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_possible_byte_does_not_overflow() {
        assert_eq!(
            ByteRange::from(0..=u64::MAX).resolve(u64::MAX).unwrap(),
            0..u64::MAX
        );
        assert_eq!(ByteRange::from(..=u64::MAX).resolve(3).unwrap(), 0..3);
        assert!(ByteRange::from(u64::MAX..).resolve(u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn a_resolved_range_is_within_the_object(
            start in any::<u64>(),
            end in any::<u64>(),
            total in any::<u64>(),
        ) {
            let ranges = [
                ByteRange::from(start..end),
                ByteRange::from(start..),
                ByteRange::from(..end),
                ByteRange::from(start..=end),
                ByteRange::Last(end),
            ];
            for range in ranges {
                if let Ok(resolved) = range.resolve(total) {
                    prop_assert!(resolved.start <= resolved.end, "{:?}", range);
                    prop_assert!(resolved.end <= total, "{:?}", range);
                }
            }
        }

        #[test]
        fn equal_ranges_of_different_types_agree(
            start in 0..50u64,
            bytes in 1..50u64,
            total in 0..100u64,
        ) {
            let end = start + bytes;
            let kind = |range: ByteRange| range.resolve(total).map_err(|error| error.kind());
            prop_assert_eq!(kind((start..end).into()), kind((start..=end - 1).into()));
            prop_assert_eq!(kind((..end).into()), kind((0..end).into()));
            prop_assert_eq!(kind((..=end - 1).into()), kind((..end).into()));
            prop_assert_eq!(kind((..).into()), kind(ByteRange::Last(u64::MAX)));
        }
    }
}
