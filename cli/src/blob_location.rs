//! The remembered location of a store's blob tier: the file `tier.json` in the data directory.
//!
//! ```text
//! {"format":1,"blobs":"fs:"}                                     `blobs` under the data directory
//! {"format":1,"blobs":"fs:/disk/blobs"}                          an absolute path
//! {"format":1,"blobs":"s3://bucket/root?region=eu&endpoint=.."}  scheme, bucket, root, options
//! ```
//!
//! Invariant: no credential is stored. User and password are removed, and so is every option that
//! is not on the list of harmless options; they come from the environment. The file does not prove
//! ownership of the tier: the mark in the tier does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use crate::blob_uri::BlobPlace;
use crate::ui::failure::Failure;

const FILE: &str = "tier.json";
const FORMAT: u64 = 1;
/// Permission bits of the file, equal to those of the other files of the store.
#[cfg(unix)]
const MODE: u32 = 0o600;
/// Options of OpenDAL's services that contain no secrets and may be needed to find the tier.
const KEPT: [&str; 12] = [
    "account_name",
    "allow_anonymous",
    "bucket",
    "container",
    "default_storage_class",
    "disable_config_load",
    "disable_ec2_metadata",
    "enable_virtual_host_style",
    "endpoint",
    "region",
    "root",
    "skip_signature",
];

/// Location of a blob tier in the form of `--blobs`, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location(String);

impl Location {
    /// Returns the location of a place. A directory becomes an absolute path.
    ///
    /// # Errors
    /// [`Failure::Failed`] if the path of the directory can't be made absolute or is not UTF-8.
    pub(crate) fn of(place: &BlobPlace) -> Result<Self, Failure> {
        match place {
            BlobPlace::UnderData => Ok(Self("fs:".to_owned())),
            BlobPlace::Directory(dir) => {
                let failed = |error| {
                    Failure::io(
                        format!("the blob directory can't be used: path={}", dir.display()),
                        &error,
                    )
                };
                let absolute = std::path::absolute(dir).map_err(failed)?;
                let text = absolute.to_str();
                let not_text = || {
                    Failure::Failed(format!(
                        "the path of the blob directory is not UTF-8: path={}",
                        dir.display()
                    ))
                };
                Ok(Self(format!("fs:{}", text.ok_or_else(not_text)?)))
            }
            BlobPlace::Remote(uri) => Ok(Self(without_secrets(uri))),
        }
    }

    /// Returns the URI, in the form of `--blobs`.
    pub(crate) fn uri(&self) -> &str {
        &self.0
    }

    /// Returns whether both locations name the same place. Their options may differ.
    fn is_same_place(&self, other: &Self, data: &Path) -> bool {
        let place = |location: &Self| {
            location
                .0
                .split('?')
                .next()
                .unwrap_or_default()
                .trim_end_matches('/')
                .to_owned()
        };
        let directory = |location: &Self| match location.0.strip_prefix("fs:") {
            Some("") => data.join("blobs").canonicalize().ok(),
            Some(path) => Path::new(path).canonicalize().ok(),
            None => None,
        };
        // Different spellings may lead to the same directory: relative paths, links, or the default
        // directory given as a path.
        place(self) == place(other)
            || directory(self).is_some_and(|dir| Some(dir) == directory(other))
    }

    /// Reads the remembered location of a store, or `None` if none is remembered.
    ///
    /// # Errors
    /// [`Failure::Failed`] if the file can't be read, is damaged, or has a newer format.
    pub(crate) fn remembered(data: &Path) -> Result<Option<Self>, Failure> {
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
                 --blobs once",
                path.display()
            ))
        };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|_| damaged())?;
        match (value["format"].as_u64(), value["blobs"].as_str()) {
            (Some(FORMAT), Some(blobs)) => Ok(Some(Self(blobs.to_owned()))),
            (Some(FORMAT) | None, _) => Err(damaged()),
            // Not damage: the advice to remove the file would lose the location.
            (Some(later), _) => {
                let message = format!(
                    "the file was written by a newer version of cenotaph: path={} format={later}",
                    path.display()
                );
                Err(Failure::Failed(message))
            }
        }
    }

    /// Returns an error unless this is the remembered place.
    pub(crate) fn check(&self, remembered: &Self, data: &Path) -> Result<(), Failure> {
        if self.is_same_place(remembered, data) {
            return Ok(());
        }
        Err(Failure::Failed(format!(
            "this store uses another blob tier: expected={} found={}; omit --blobs, or, if all \
             blobs were moved there, run `cenotaph adopt --blobs {}`",
            remembered.0, self.0, self.0
        )))
    }

    /// Remembers this location durably.
    pub(crate) fn remember(&self, data: &Path) -> io::Result<()> {
        let path = data.join(FILE);
        let fresh = data.join(format!("{FILE}.new"));
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODE);
        let mut file = options.open(&fresh)?;
        writeln!(file, "{}", json!({ "format": FORMAT, "blobs": self.0 }))?;
        // The bytes are synced before the rename, so that a crash leaves the old file or the whole
        // new file. The sync of the directory makes the rename durable.
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(data)?.sync_all()
    }
}

/// Removes all parts of a URI that may contain a secret.
fn without_secrets(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let name = authority
        .rsplit_once('@')
        .map_or(authority, |(_secret, name)| name);
    let is_kept = |option: &&str| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        // The value of a harmless option such as `endpoint` may be a URL with user and password.
        KEPT.contains(&key) && !value.contains('@') && !value.to_ascii_lowercase().contains("%40")
    };
    let options: Vec<&str> = query.split('&').filter(is_kept).collect();
    let separator = if options.is_empty() { "" } else { "?" };
    format!("{scheme}://{name}{path}{separator}{}", options.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_remembered() {
        let uri = "s3://me:s3cret@bucket/a/b?region=eu&access_key_id=s3cret\
            &secret_access_key=s3cret&endpoint=http://h:1";
        assert_eq!(
            without_secrets(uri),
            "s3://bucket/a/b?region=eu&endpoint=http://h:1"
        );
        assert_eq!(
            without_secrets("azblob://c?endpoint=http://u:s3cret@h&account_key=s3cret"),
            "azblob://c"
        );
        assert_eq!(
            without_secrets("azblob://c?endpoint=http://u:s3cret%40h&x#s3cret"),
            "azblob://c"
        );
        assert_eq!(without_secrets("gcs://bucket/root"), "gcs://bucket/root");
    }

    #[test]
    fn remembered_location_is_read_back_and_other_places_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Location::remembered(dir.path()).unwrap().is_none());
        let location = |uri: &str| Location(uri.to_owned());
        let remembered = location("s3://bucket/root?region=eu");
        remembered.remember(dir.path()).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join(FILE)).unwrap(),
            "{\"blobs\":\"s3://bucket/root?region=eu\",\"format\":1}\n"
        );
        assert_eq!(
            Location::remembered(dir.path()).unwrap(),
            Some(remembered.clone())
        );
        assert!(
            location("s3://bucket/root/?region=us")
                .check(&remembered, dir.path())
                .is_ok()
        );
        for other in [
            "s3://bucket/other",
            "s3://other/root",
            "fs:",
            "fs:/a",
            "gcs://bucket/root",
        ] {
            let refused = location(other)
                .check(&remembered, dir.path())
                .unwrap_err()
                .to_string();
            assert!(
                refused.contains("adopt")
                    && refused.contains(other)
                    && refused.contains("bucket/root"),
                "{refused}"
            );
        }
        fs::create_dir(dir.path().join("blobs")).unwrap();
        let under = format!("fs:{}", dir.path().join("blobs").display());
        assert!(location(&under).check(&location("fs:"), dir.path()).is_ok());
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(
            Location::remembered(dir.path())
                .unwrap_err()
                .to_string()
                .contains("give --blobs once")
        );
        fs::write(dir.path().join(FILE), "{\"format\":2}").unwrap();
        assert!(
            Location::remembered(dir.path())
                .unwrap_err()
                .to_string()
                .contains("newer")
        );
    }
}
