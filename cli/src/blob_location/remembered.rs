//! [`Remembered`]: the file `tier.json` in the data directory, which contains the locations of the
//! blob tiers of a store.
//!
//! ```text
//! {"format":1,"blobs":"fs:"}                                     `blobs` under the data directory
//! {"format":1,"blobs":"fs:/disk/blobs"}                          an absolute path
//! {"format":1,"blobs":"s3://bucket/root?region=eu&endpoint=.."}  scheme, bucket, root, options
//! {"format":2,"blobs":"s3://bucket/root","older":["fs:"]}        the current tier and older ones
//! {"format":3,"blobs":"s3://bucket/root","older":[]}             the index is shared, elsewhere
//! ```
//!
//! Format 2 is written only for a store with older tiers, and format 3 only for a store with a shared
//! index, so that earlier builds can read the file of every other store.
//!
//! A move from the tier OLD to the tier NEW, each step durable before the next:
//!
//! ```text
//! 1 the mark of the store in NEW                   by the engine
//! 2 the file: blobs = NEW, older = [.., OLD]       by the tool, in a step of the engine
//! 3 the record in the index: NEW is current        by the engine
//! 4 the copies
//! 5 the record in the index: without OLD           by the engine
//! 6 the file: blobs = NEW, without OLD             by the tool
//!
//! crash before 2   the store opens over OLD; the next attempt replaces the mark
//! crash before 3   the next command opens over both tiers, which is step 3; with --read-only it
//!                  reads OLD
//! crash before 6   the store opens over NEW, and OLD is ignored; the next command without
//!                  --read-only repeats step 6
//! ```
//!
//! Invariant: the store opens with the remembered locations. The file is written only while the
//! index is locked, and only with locations that the engine has accepted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::Location;
use crate::ui::failure::Failure;

const FILE: &str = "tier.json";
/// Format of the file of a store with one tier.
const ONE: u64 = 1;
/// Format of the file of a store with older tiers.
const SEVERAL: u64 = 2;
/// Format of the file of a store whose index is shared.
const SHARED: u64 = 3;
/// Permission bits of the file, equal to those of the other files of the store.
#[cfg(unix)]
const MODE: u32 = 0o600;

/// Locations of the blob tiers of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Location of the current tier.
    pub(crate) current: Location,
    /// Locations of the tiers that were current before and are not released.
    pub(crate) older: Vec<Location>,
    /// True if the index of the store is shared, and not in the data directory.
    pub(crate) is_shared: bool,
}

impl Remembered {
    /// Reads the remembered locations of a store, or `None` if none are remembered.
    ///
    /// # Errors
    /// [`Failure::Failed`] if the file can't be read, is damaged, or has a newer format.
    pub(crate) fn read(data: &Path) -> Result<Option<Self>, Failure> {
        let path = data.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::io(
                    format!("can't be read: path={}", path.display()),
                    &error,
                ));
            }
        };
        let damaged = || {
            Failure::Failed(format!(
                "the location of the blob tier is damaged: path={}; remove the file and give \
                 --blobs once, and --older-blobs for each tier that the store was moved away from",
                path.display()
            ))
        };
        let value: Value = serde_json::from_slice(&text).map_err(|_| damaged())?;
        match value["format"].as_u64() {
            Some(ONE | SEVERAL | SHARED) | None => {
                Self::parse(&value).map(Some).ok_or_else(damaged)
            }
            // Not damage: the advice to remove the file would lose the location.
            Some(later) => {
                let message = format!(
                    "the file was written by a newer version of cenotaph: path={} format={later}",
                    path.display()
                );
                Err(Failure::Failed(message))
            }
        }
    }

    fn parse(value: &Value) -> Option<Self> {
        let location = |value: &Value| value.as_str().map(|uri| Location(uri.to_owned()));
        let format = value["format"].as_u64()?;
        let older = match format {
            ONE => Vec::new(),
            _ => value["older"]
                .as_array()?
                .iter()
                .map(location)
                .collect::<Option<_>>()?,
        };
        let current = location(&value["blobs"])?;
        Some(Self {
            current,
            older,
            is_shared: format == SHARED,
        })
    }

    /// Writes the file durably.
    pub(crate) fn write(&self, data: &Path) -> io::Result<()> {
        if self.is_shared {
            // The opening of a shared store creates no data directory.
            fs::create_dir_all(data)?;
        }
        let path = data.join(FILE);
        let fresh = data.join(format!("{FILE}.new"));
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODE);
        let mut file = options.open(&fresh)?;
        writeln!(file, "{}", self.json())?;
        // The bytes are synced before the rename, so that a crash leaves the old file or the whole
        // new file. The sync of the directory makes the rename durable.
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(data)?.sync_all()
    }

    fn json(&self) -> Value {
        let current = self.current.uri();
        let older: Vec<&str> = self.older.iter().map(Location::uri).collect();
        match (self.is_shared, older.is_empty()) {
            (true, _) => json!({ "format": SHARED, "blobs": current, "older": older }),
            (false, true) => json!({ "format": ONE, "blobs": current }),
            (false, false) => json!({ "format": SEVERAL, "blobs": current, "older": older }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph_fuzz::Target;

    fn location(uri: &str) -> Location {
        Location(uri.to_owned())
    }

    #[test]
    fn remembered_locations_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Remembered::read(dir.path()).unwrap().is_none());
        let mut tiers = Remembered {
            current: location("s3://bucket/root?region=eu"),
            older: Vec::new(),
            is_shared: false,
        };
        for (is_shared, older, text) in [
            (
                true,
                vec![],
                "{\"blobs\":\"s3://bucket/root?region=eu\",\"format\":3,\"older\":[]}\n",
            ),
            (
                false,
                vec![],
                "{\"blobs\":\"s3://bucket/root?region=eu\",\"format\":1}\n",
            ),
            (
                false,
                vec![location("fs:/disk"), location("fs:")],
                "{\"blobs\":\"s3://bucket/root?region=eu\",\"format\":2,\
                 \"older\":[\"fs:/disk\",\"fs:\"]}\n",
            ),
        ] {
            tiers.older = older;
            tiers.is_shared = is_shared;
            tiers.write(dir.path()).unwrap();
            assert_eq!(
                fs::read_to_string(dir.path().join(FILE)).unwrap(),
                text,
                "the format of the file changed"
            );
            assert_eq!(Remembered::read(dir.path()).unwrap(), Some(tiers.clone()));
        }
    }

    #[test]
    fn damaged_and_newer_files_are_distinguished() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |text: &str| {
            fs::write(dir.path().join(FILE), text).unwrap();
            Remembered::read(dir.path()).unwrap_err().to_string()
        };
        for damaged in [
            "{",
            "{\"format\":1}",
            "{\"format\":2,\"blobs\":\"fs:\"}",
            "{\"format\":2,\"blobs\":\"fs:\",\"older\":[1]}",
            "{\"blobs\":\"fs:\"}",
        ] {
            let message = refused(damaged);
            assert!(message.contains("give --blobs once"), "{message}");
        }
        assert!(refused("{\"format\":4}").contains("newer"));
    }

    #[test]
    fn mutated_record_of_the_tiers_is_refused_or_read() {
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let records = [
            "{\"blobs\":\"s3://bucket/root?region=eu\",\"format\":1}\n",
            "{\"blobs\":\"s3://bucket/root\",\"format\":2,\"older\":[\"fs:\",\"fs:/disk\"]}\n",
            "{\"blobs\":\"s3://bucket/root\",\"format\":3,\"older\":[]}\n",
        ];
        Target::new("record of the tiers", records).run(|input| {
            fs::write(dir.path().join(FILE), input).unwrap();
            match Remembered::read(dir.path()) {
                Ok(tiers) => tiers.is_some(),
                Err(failure) => {
                    assert!(failure.to_string().contains(FILE), "{failure}");
                    false
                }
            }
        });
    }
}
