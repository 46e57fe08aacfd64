//! How single values are spelled: numbers of jobs, times, sizes, ranges, ids.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use cenotaph::{ByteRange, EXPIRATION_MAX, UploadId};

use crate::human;
use crate::stamp::RESERVED;

/// Fewest and most bytes of a part: less is mostly overhead, more the engine does not take.
const PART_BYTES: RangeInclusive<u64> = 1024 * 1024..=5 * 1024 * 1024 * 1024;
/// No more than the engine takes large puts at once.
const JOBS: RangeInclusive<usize> = 1..=256;
/// `100y` as [`time`] reads it. Its years have 365.25 days, those of [`EXPIRATION_MAX`] have 365.
const HUNDRED_YEARS: Duration = Duration::from_secs(100 * 31_557_600);

/// How many of something at once.
pub(super) fn jobs(text: &str) -> Result<usize, String> {
    let jobs = text.parse().ok().filter(|jobs| JOBS.contains(jobs));
    jobs.ok_or_else(|| format!("a number from {} to {}", JOBS.start(), JOBS.end()))
}

/// `90s`, `1h 30m`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A time to live or to idle. Up to `100y` is taken, and ends with the longest that the engine
/// takes.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time > HUNDRED_YEARS {
        return Err("at most 100y".to_owned());
    }
    Ok(time.min(EXPIRATION_MAX))
}

/// `NAME=VALUE`, of a custom entry.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, _)) if name.starts_with(RESERVED) => Err(format!(
            "names that begin with `{RESERVED}` are reserved for what an import keeps"
        )),
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

/// A length of parts.
pub(super) fn part_size(text: &str) -> Result<u64, String> {
    let ByteSize(bytes) = text.parse()?;
    let within = PART_BYTES.contains(&bytes).then_some(bytes);
    within.ok_or_else(|| {
        format!(
            "from {} to {}",
            human::bytes(*PART_BYTES.start()),
            human::bytes(*PART_BYTES.end())
        )
    })
}

/// The id of an upload.
pub(super) fn upload_id(text: &str) -> Result<UploadId, String> {
    text.parse()
        .map_err(|_| "no upload id is spelled so".to_owned())
}

/// As in HTTP: both ends are included.
pub(super) fn byte_range(text: &str) -> Result<ByteRange, String> {
    let expected = || "expected A-B, A- or -N, in bytes".to_owned();
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| expected());
    match text.split_once('-').ok_or_else(expected)? {
        ("", last) => Ok(ByteRange::Last(number(last)?)),
        (start, "") => Ok(ByteRange::From(number(start)?)),
        (start, end) => {
            let (start, end) = (number(start)?, number(end)?);
            if start > end {
                return Err("the range ends before it starts".to_owned());
            }
            Ok((start..=end).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph_fuzz::Target;

    #[test]
    fn ranges_include_both_ends_as_in_http() {
        assert_eq!(
            byte_range("0-99"),
            Ok(ByteRange::Bounded { start: 0, end: 100 })
        );
        assert_eq!(byte_range("7-"), Ok(ByteRange::From(7)));
        assert_eq!(byte_range("-7"), Ok(ByteRange::Last(7)));
        for wrong in ["", "-", "7", "b-a", "7-6", "1-2-3", "--7", "+1-2x"] {
            assert!(byte_range(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_hundred_years_is_the_longest_lifetime() {
        assert_eq!(
            ["100y", "36500d"].map(lifetime),
            [EXPIRATION_MAX; 2].map(Ok)
        );
        assert_eq!(lifetime("99y"), Ok(Duration::from_secs(99 * 31_557_600)));
        for wrong in ["101y", "100y 1s", "999999999999y", "-1s"] {
            assert!(lifetime(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(
            ["64MiB", "64 mib", "67108864"].map(part_size),
            [64 << 20, 64 << 20, 64 << 20].map(Ok)
        );
        assert_eq!(part_size("64MB"), Ok(64_000_000));
        for wrong in [
            "",
            "0",
            "1MiBs",
            "-1",
            "1023KiB",
            "5.1GiB",
            "99999999999999999999GiB",
            "many",
        ] {
            assert!(part_size(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(part_size("1").unwrap_err(), "from 1.0 MiB to 5.0 GiB");
    }
    #[test]
    fn mutated_value_of_an_argument_is_refused_or_within_its_bounds() {
        let values = [
            "0-99", "7-", "-7", "90s", "1h 30m", "100y", "64MiB", "1.5 gb", "16", "a=b",
        ];
        Target::new("values of arguments", values).run_text(|text| {
            let range = byte_range(text);
            if let Ok(ByteRange::Bounded { start, end }) = range {
                assert!(start <= end, "{start} {end}");
            }
            let lifetime = lifetime(text);
            assert!(
                lifetime.as_ref().is_ok_and(|time| *time <= EXPIRATION_MAX) || lifetime.is_err()
            );
            let size = part_size(text);
            assert!(size.as_ref().is_ok_and(|size| PART_BYTES.contains(size)) || size.is_err());
            let jobs = jobs(text);
            assert!(jobs.as_ref().is_ok_and(|jobs| JOBS.contains(jobs)) || jobs.is_err());
            let pair = pair(text);
            assert!(pair.as_ref().is_ok_and(|(name, _)| !name.is_empty()) || pair.is_err());
            let accepted = [
                range.is_ok(),
                lifetime.is_ok(),
                size.is_ok(),
                jobs.is_ok(),
                pair.is_ok(),
            ];
            drop((time(text), upload_id(text)));
            accepted.contains(&true)
        });
    }
}
