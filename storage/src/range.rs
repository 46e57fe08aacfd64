//! Which bytes of an object a read asks for: [`ByteRange`], and how it is resolved against an
//! object's size.
//!
//! A pure function; guards "never wrong bytes" (DESIGN §6) at its very beginning. Deliberately not
//! here: which blobs and blocks hold those bytes (`read/plan.rs`).

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use crate::error::{Error, ErrorKind, Result};

/// Some of the bytes of an object, before its size is known.
///
/// Every range of `u64` converts into one; [`Last`](Self::Last) is written as such.
///
/// ```
/// use cenotaph_storage::{ByteRange, ErrorKind};
///
/// // The end is clamped.
/// assert_eq!(ByteRange::from(2..100).resolve(10)?, 2..10);
/// assert_eq!(ByteRange::from(2..=5).resolve(10)?, 2..6);
/// assert_eq!(ByteRange::Last(3).resolve(10)?, 7..10);
/// assert_eq!(ByteRange::Last(30).resolve(10)?, 0..10);
/// // A range that begins at or beyond the end can't be answered, and says how long the object is.
/// let error = ByteRange::from(10..).resolve(10).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::RangeNotSatisfiable { total: 10 });
/// // Asking for nothing gives nothing.
/// assert_eq!(ByteRange::from(10..10).resolve(10)?, 10..10);
/// assert_eq!(ByteRange::from(0..5).resolve(0)?, 0..0);
/// # Ok::<(), cenotaph_storage::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteRange {
    /// All of them.
    #[default]
    Full,
    /// From `start` up to, not including, `end`.
    Bounded {
        /// The first byte.
        start: u64,
        /// The byte after the last one.
        end: u64,
    },
    /// From this byte to the end.
    From(u64),
    /// The last so many.
    Last(u64),
}

impl ByteRange {
    /// The bytes this means in an object of `total` bytes. The answer lies within `0..total`.
    ///
    /// | range                     | answer                                                          |
    /// |---------------------------|-----------------------------------------------------------------|
    /// | `Full`                    | `0..total`                                                      |
    /// | `Bounded`, start < end    | from start to end or `total`, whichever is less; needs a byte at start |
    /// | `Bounded`, start == end   | nothing; needs start <= `total`                                 |
    /// | `From`                    | from start to `total`; needs a byte at start                    |
    /// | `Last`                    | the last so many, all if the object has fewer, nothing for 0    |
    ///
    /// An object of 0 bytes has no byte at 0; there, ranges that start at 0 are answered with
    /// nothing all the same.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the range ends before it starts,
    /// [`ErrorKind::RangeNotSatisfiable`] with the object's size if what it needs is not there.
    pub fn resolve(self, total: u64) -> Result<Range<u64>> {
        match self {
            Self::Full => Ok(0..total),
            Self::Bounded { start, end } if start > end => {
                let message = format!("the range ends before it starts: start={start} end={end}");
                Err(Error::new(ErrorKind::Invalid, "read", message))
            }
            Self::Bounded { start, end } if start == end && start <= total => Ok(start..end),
            Self::Bounded { start, end } => starting_at(start, end.min(total), total),
            Self::From(start) => starting_at(start, total, total),
            Self::Last(bytes) => Ok(total.saturating_sub(bytes)..total),
        }
    }
}

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
    /// No object has a byte `u64::MAX`, so that an end there means the same as one before it.
    fn from(range: RangeInclusive<u64>) -> Self {
        Self::Bounded {
            start: *range.start(),
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

    /// The bytes themselves, one by one; none where the range must be refused as unsatisfiable.
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
    fn every_small_range_gives_what_picking_bytes_one_by_one_gives() {
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
        fn an_answer_lies_within_the_object(start in any::<u64>(), end in any::<u64>(), total in any::<u64>()) {
            let ranges = [ByteRange::from(start..end), ByteRange::from(start..), ByteRange::from(..end), ByteRange::from(start..=end), ByteRange::Last(end)];
            for range in ranges {
                if let Ok(resolved) = range.resolve(total) {
                    prop_assert!(resolved.start <= resolved.end && resolved.end <= total, "{:?}", range);
                }
            }
        }

        #[test]
        fn spellings_of_the_same_range_agree(start in 0..50u64, bytes in 1..50u64, total in 0..100u64) {
            let end = start + bytes;
            let kind = |range: ByteRange| range.resolve(total).map_err(|error| error.kind());
            prop_assert_eq!(kind((start..end).into()), kind((start..=end - 1).into()));
            prop_assert_eq!(kind((..end).into()), kind((0..end).into()));
            prop_assert_eq!(kind((..=end - 1).into()), kind((..end).into()));
            prop_assert_eq!(kind((..).into()), kind(ByteRange::Last(u64::MAX)));
        }
    }
}
