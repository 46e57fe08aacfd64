//! [`FileMetadata`], the metadata of a file that an import stores as custom entries of its object.
//!
//! ```text
//! cenotaph.mode   octal, without the file type           "644"                   Unix only
//! cenotaph.mtime  seconds since 1970, nine decimals      "1700000000.123456789"  may be negative
//! ```
//!
//! Invariant: only entries of an import are accepted. The names are reserved, and a value is
//! ignored unless it has exactly the spelling that an import writes.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MODE: &str = "cenotaph.mode";
const MTIME: &str = "cenotaph.mtime";
/// Bits of a mode without the file type.
const MODE_BITS: u32 = 0o7777;
/// Permission bits of a mode, without setuid, setgid and sticky.
const PERMISSION_BITS: u32 = 0o777;

/// Mode and modification time of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileMetadata {
    mode: Option<u32>,
    mtime: Option<SystemTime>,
}

impl FileMetadata {
    /// Returns the metadata of a file on disk.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let mode =
            Some(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & MODE_BITS);
        #[cfg(not(unix))]
        let mode = None;
        Self {
            mode,
            mtime: metadata.modified().ok(),
        }
    }

    /// Parses the custom entries of an import. Invalid entries are ignored.
    pub(crate) fn from_custom(custom: &BTreeMap<String, String>) -> Self {
        let mode = custom.get(MODE).and_then(|mode| parse_mode(mode));
        Self {
            mode,
            mtime: custom.get(MTIME).and_then(|mtime| parse_mtime(mtime)),
        }
    }

    /// Removes the setuid, setgid and sticky bits.
    pub(crate) fn without_special_bits(self) -> Self {
        Self {
            mode: self.mode.map(|mode| mode & PERMISSION_BITS),
            ..self
        }
    }

    /// Returns the custom entries that an import stores.
    pub(crate) fn to_custom(self) -> BTreeMap<String, String> {
        let mode = self.mode.map(|mode| (MODE.to_owned(), format_mode(mode)));
        let mtime = self
            .mtime
            .map(|mtime| (MTIME.to_owned(), format_mtime(mtime)));
        mode.into_iter().chain(mtime).collect()
    }

    /// Returns whether the modification time is known. Without it equal metadata does not imply an
    /// unchanged file.
    pub(crate) fn has_mtime(self) -> bool {
        self.mtime.is_some()
    }

    /// Sets mode and modification time of an open file.
    pub(crate) fn apply(self, file: &File) -> io::Result<()> {
        if let Some(mtime) = self.mtime {
            file.set_modified(mtime)?;
        }
        #[cfg(unix)]
        if let Some(mode) = self.mode {
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        Ok(())
    }
}

/// Formats a mode as octal digits.
fn format_mode(mode: u32) -> String {
    format!("{mode:o}")
}

/// Parses a mode, or returns `None` if the text is not exactly what [`format_mode`] writes.
fn parse_mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    // The round trip refuses other spellings, such as `+644` and `0644`.
    (mode <= MODE_BITS && format_mode(mode) == text).then_some(mode)
}

/// Formats a time as seconds since 1970 with nine decimal places.
fn format_mtime(mtime: SystemTime) -> String {
    // The decimals count up from the second before, as in `struct timespec`: -0.25 s is written as
    // `-1.750000000`.
    let (seconds, nanos) = match mtime.duration_since(UNIX_EPOCH) {
        Ok(after) => (i128::from(after.as_secs()), after.subsec_nanos()),
        Err(before) => match (
            before.duration().as_secs(),
            before.duration().subsec_nanos(),
        ) {
            (seconds, 0) => (-i128::from(seconds), 0),
            (seconds, nanos) => (-i128::from(seconds) - 1, 1_000_000_000 - nanos),
        },
    };
    format!("{seconds}.{nanos:09}")
}

/// Parses a time, or returns `None` if the text is not exactly what [`format_mtime`] writes.
fn parse_mtime(text: &str) -> Option<SystemTime> {
    let (seconds, nanos) = text.split_once('.')?;
    let seconds: i64 = seconds.parse().ok()?;
    let nanos = Some(nanos).filter(|nanos| nanos.len() == 9)?.parse().ok()?;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let mtime = base?.checked_add(Duration::from_nanos(nanos))?;
    (format_mtime(mtime) == text).then_some(mtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_survives_the_round_trip() {
        let times = [
            (0, 0),
            (1_700_000_000, 123_456_789),
            (-1, 0),
            (-1, 999_999_999),
            (-100, 1),
        ];
        for (seconds, nanos) in times {
            let text = format!("{seconds}.{nanos:09}");
            let mtime = parse_mtime(&text).unwrap();
            assert_eq!(format_mtime(mtime), text);
            let file_metadata = FileMetadata {
                mode: Some(0o755),
                mtime: Some(mtime),
            };
            assert_eq!(
                FileMetadata::from_custom(&file_metadata.to_custom()),
                file_metadata
            );
        }
    }

    #[test]
    fn other_spellings_are_ignored() {
        let custom = [(MODE, "rwx"), (MTIME, "yesterday")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            FileMetadata::from_custom(&custom.into()),
            FileMetadata::default()
        );
        for wrong in [
            "1.5",
            "99999999999999999999.000000000",
            "+1.000000000",
            "01.000000000",
            "1.+00000000",
        ] {
            assert_eq!(parse_mtime(wrong), None, "{wrong:?}");
        }
        for wrong in ["", "+644", "0644", "888", "33204", "100644", "-1", "0x1ff"] {
            assert_eq!(parse_mode(wrong), None, "{wrong:?}");
        }
        assert_eq!(
            ["0", "644", "4755"].map(parse_mode),
            [0, 0o644, 0o4755].map(Some)
        );
    }
}
