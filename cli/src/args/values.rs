//! Parsers of single values: numbers of jobs, times, sizes, ranges, ids.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use cenotaph::{ByteRange, EXPIRATION_MAX, UploadId};

use crate::index_url::IndexUrl;
use crate::ui::human;

/// Prefix of the names of custom entries that only an import may write.
const RESERVED: &str = "cenotaph.";
/// Smallest and largest size of a part, in bytes. Smaller parts are mostly overhead; the engine
/// refuses larger parts.
const PART_BYTES: RangeInclusive<u64> = 1024 * 1024..=5 * 1024 * 1024 * 1024;
/// Numbers of concurrent jobs. The maximum is the engine's limit of concurrent large puts.
const JOBS: RangeInclusive<usize> = 1..=256;
/// `100y` as parsed by [`time`]: its years have 365.25 days, those of [`EXPIRATION_MAX`] have 365.
const HUNDRED_YEARS: Duration = Duration::from_secs(100 * 31_557_600);

/// Takes the URL of a shared index as it is. The error of a parser would quote it.
pub(super) fn index_url(text: &str) -> Result<IndexUrl, Infallible> {
    Ok(IndexUrl::new(text))
}

/// Parses a number of concurrent jobs.
pub(super) fn jobs(text: &str) -> Result<usize, String> {
    let jobs = text.parse().ok().filter(|jobs| JOBS.contains(jobs));
    jobs.ok_or_else(|| format!("a number from {} to {}", JOBS.start(), JOBS.end()))
}

/// Parses a duration such as `90s` or `1h 30m`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Parses a time to live or to idle of at most `100y`, clamped to the longest time that the engine
/// accepts.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time > HUNDRED_YEARS {
        return Err("at most 100y".to_owned());
    }
    // `100y` exceeds the engine's limit by 25 days, because the two define a year differently.
    Ok(time.min(EXPIRATION_MAX))
}

/// Parses a custom entry `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        // `export` trusts these entries: they set the mode of files.
        Some((name, _)) if name.starts_with(RESERVED) => Err(format!(
            "names that begin with `{RESERVED}` are reserved for the file metadata of an import"
        )),
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Parses the size of a part, in bytes.
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

/// Parses the id of an upload.
pub(super) fn upload_id(text: &str) -> Result<UploadId, String> {
    text.parse().map_err(|_| "invalid upload id".to_owned())
}

/// Parses a range of bytes. Both ends are inclusive, as in HTTP.
pub(super) fn byte_range(text: &str) -> Result<ByteRange, String> {
    let expected = || "expected A-B, A- or -N, in bytes".to_owned();
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| expected());
    match text.split_once('-').ok_or_else(expected)? {
        ("", last) => Ok(ByteRange::Last(number(last)?)),
        (start, "") => Ok(ByteRange::From(number(start)?)),
        (start, end) => {
            let start = number(start)?;
            let end = number(end)?;
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
    fn ranges_include_both_ends() {
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
    fn lifetime_is_at_most_100_years() {
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
    fn part_sizes_accept_binary_and_decimal_units() {
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
