//! Gets: ranges of objects, and readers of replaced objects.

use std::ops::Range;

use cenotaph::{ByteRange, Engine, ErrorKind};
use cenotaph_storage::BLOCK_BYTES;
use cenotaph_tests::store::payload;

use super::{LARGE, MEDIUM, PART_BYTES, SMALL, bytes, put};

pub(super) async fn ranges_cross_blocks_and_parts(engine: &Engine) {
    for total in [SMALL, MEDIUM, PART_BYTES, LARGE] {
        put(engine, "k", total as u64, total).await;
        let whole = payload(total as u64, total);
        for (range, expected) in ranges(total as u64) {
            let object = engine.get("k").range(range).await.unwrap().unwrap();
            assert_eq!(object.range(), expected, "{range:?} of {total}");
            let found = object.bytes().await.unwrap();
            assert!(
                found == whole[expected.start as usize..expected.end as usize],
                "{range:?} of {total}"
            );
        }
        let beyond = engine.get("k").range(total as u64..).await.unwrap_err();
        assert_eq!(
            beyond.kind(),
            ErrorKind::RangeNotSatisfiable {
                total: total as u64
            }
        );
    }
}

/// Returns ranges that begin and end before, on and after each border, with the bytes that each
/// selects.
fn ranges(total: u64) -> Vec<(ByteRange, Range<u64>)> {
    let borders =
        [0, BLOCK_BYTES, 3 * BLOCK_BYTES, PART_BYTES, 2 * PART_BYTES].map(|border| border as u64);
    let borders = borders.into_iter().chain([total]);
    let points = borders.flat_map(|border| [border.saturating_sub(1), border, border + 1]);
    let mut points: Vec<u64> = points.filter(|&point| point < total).collect();
    points.dedup();
    let bounded = |start: u64, end: u64| (ByteRange::from(start..end), start..end);
    let mut ranges: Vec<_> = points
        .iter()
        .flat_map(|&start| [bounded(start, start), bounded(start, start + 1)])
        .collect();
    for (nth, &start) in points.iter().enumerate() {
        // Ends at the next three points only: all pairs would be too many.
        ranges.extend(
            points[nth + 1..]
                .iter()
                .take(3)
                .map(|&end| bounded(start, end)),
        );
    }
    ranges.extend([
        (ByteRange::Full, 0..total),
        (ByteRange::Last(0), total..total),
        (ByteRange::Last(1), total - 1..total),
    ]);
    ranges.extend([
        (ByteRange::Last(total + 7), 0..total),
        (ByteRange::Last(total / 2), total - total / 2..total),
    ]);
    ranges.extend([total / 2, total - 1].map(|start| (ByteRange::from(start..), start..total)));
    ranges.push((ByteRange::from(total / 2..total + 1000), total / 2..total));
    ranges
}

pub(super) async fn reader_sees_one_version(engine: &Engine) {
    put(engine, "k", 1, LARGE).await;
    let mut object = engine.get("k").await.unwrap().unwrap();
    let mut read = object.chunk().await.unwrap().unwrap().to_vec();
    put(engine, "k", 2, LARGE).await;
    put(engine, "k", 3, SMALL).await;
    assert!(engine.delete("k").await.unwrap().existed);
    assert_eq!(bytes(engine, "k").await, None);
    engine.settle().await.unwrap();
    while let Some(chunk) = object.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == payload(1, LARGE), "I8: bytes of another version");
    put(engine, "k", 4, MEDIUM).await;
}
