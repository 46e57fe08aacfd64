//! What an import keeps of a file beside its bytes: [`Stamp`], mode and modification time, as two
//! custom entries.
//!
//! ```text
//! cenotaph.mode   100644 octal, without the file type: "644"        only where the system has modes
//! cenotaph.mtime  seconds since 1970, nine digits behind the point:  "1700000000.123456789"; may be negative
//! ```
//!
//! Guards that nothing else is taken for a stamp: the names are reserved, and a value counts only
//! if it is spelled exactly as an import spells it.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Prefix of the names of custom entries that are the tool's own.
pub(crate) const RESERVED: &str = "cenotaph.";
const MODE: &str = "cenotaph.mode";
const MTIME: &str = "cenotaph.mtime";
/// All bits of a mode that are no file type.
const MODE_BITS: u32 = 0o7777;
/// Those of them that are permissions; the others are setuid, setgid and sticky.
const PERMISSION_BITS: u32 = 0o777;

/// Mode and modification time of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    mode: Option<u32>,
    mtime: Option<SystemTime>,
}

impl Stamp {
    /// Of a file on disk.
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

    /// As an import kept it.
    pub(crate) fn from_custom(custom: &BTreeMap<String, String>) -> Self {
        let mode = custom.get(MODE).and_then(|mode| parse_mode(mode));
        Self {
            mode,
            mtime: custom.get(MTIME).and_then(|mtime| parse_mtime(mtime)),
        }
    }

    /// The same without setuid, setgid and sticky bit.
    pub(crate) fn without_special_bits(self) -> Self {
        Self {
            mode: self.mode.map(|mode| mode & PERMISSION_BITS),
            ..self
        }
    }

    /// As an import keeps it.
    pub(crate) fn to_custom(self) -> BTreeMap<String, String> {
        let mode = self.mode.map(|mode| (MODE.to_owned(), format_mode(mode)));
        let mtime = self
            .mtime
            .map(|mtime| (MTIME.to_owned(), format_mtime(mtime)));
        mode.into_iter().chain(mtime).collect()
    }

    /// Whether it says so much that an equal one means the same file.
    pub(crate) fn has_mtime(self) -> bool {
        self.mtime.is_some()
    }

    /// Gives an open file this mode and time.
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

fn format_mode(mode: u32) -> String {
    format!("{mode:o}")
}

fn parse_mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    (mode <= MODE_BITS && format_mode(mode) == text).then_some(mode)
}

fn format_mtime(mtime: SystemTime) -> String {
    // The part behind the point counts up from the second before, as the system's own numbers do.
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
    use cenotaph_fuzz::Target;

    #[test]
    fn a_stamp_survives_being_kept() {
        let around = [
            (0, 0),
            (1_700_000_000, 123_456_789),
            (-1, 0),
            (-1, 999_999_999),
            (-100, 1),
        ];
        for (seconds, nanos) in around {
            let text = format!("{seconds}.{nanos:09}");
            let mtime = parse_mtime(&text).unwrap();
            assert_eq!(format_mtime(mtime), text);
            let stamp = Stamp {
                mode: Some(0o755),
                mtime: Some(mtime),
            };
            assert_eq!(Stamp::from_custom(&stamp.to_custom()), stamp);
        }
    }

    #[test]
    fn what_somebody_else_put_there_is_no_stamp() {
        let custom = [(MODE, "rwx"), (MTIME, "yesterday")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(Stamp::from_custom(&custom.into()), Stamp::default());
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
    #[test]
    fn mutated_stamp_is_ignored_or_spelled_so_again() {
        let stamps = [
            "100644 1700000000.123456789",
            "644 -1.999999999",
            "4755 0.000000000",
        ];
        Target::new("stamp of a file", stamps).run_text(|text| {
            let (mode, mtime) = text.split_once(' ').unwrap_or((text, ""));
            let custom = [(MODE, mode), (MTIME, mtime)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
            let custom = BTreeMap::from(custom);
            let stamp = Stamp::from_custom(&custom);
            let kept = stamp.to_custom();
            assert!(
                kept.iter()
                    .all(|(name, value)| custom.get(name) == Some(value)),
                "{kept:?}"
            );
            stamp.has_mtime()
        });
    }
}
