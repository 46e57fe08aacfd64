//! [`Location`]: the location of a blob tier, without credentials. The file that remembers the
//! locations of a store is in `blob_location/remembered.rs`.
//!
//! Invariant: no credential is stored. User and password are removed, and so is every option that
//! is not on the list of harmless options; they come from the environment. A location does not
//! prove ownership of the tier: the mark in the tier does.

mod remembered;

use std::path::{Path, PathBuf};

use crate::blob_uri::BlobPlace;
use crate::ui::failure::Failure;

pub(crate) use remembered::Remembered;

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
    pub(crate) fn is_same_place(&self, other: &Self, data: &Path) -> bool {
        let place = |location: &Self| {
            location
                .0
                .split('?')
                .next()
                .unwrap_or_default()
                .trim_end_matches('/')
                .to_owned()
        };
        // Different spellings may lead to the same directory: relative paths, links, or the default
        // directory given as a path.
        place(self) == place(other)
            || self
                .directory(data)
                .is_some_and(|dir| Some(dir) == other.directory(data))
    }

    /// Returns the canonical path of the directory, or `None` if the location is no directory or
    /// does not exist.
    pub(crate) fn directory(&self, data: &Path) -> Option<PathBuf> {
        match self.0.strip_prefix("fs:")? {
            "" => data.join("blobs").canonicalize().ok(),
            path => Path::new(path).canonicalize().ok(),
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
    use cenotaph_fuzz::Target;

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
    fn other_places_than_the_remembered_one_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let location = |uri: &str| Location(uri.to_owned());
        let remembered = location("s3://bucket/root?region=eu");
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
        std::fs::create_dir(dir.path().join("blobs")).unwrap();
        let under = format!("fs:{}", dir.path().join("blobs").display());
        assert!(location(&under).check(&location("fs:"), dir.path()).is_ok());
    }

    #[test]
    fn mutated_uri_is_refused_or_remembered_without_secrets() {
        let uris = [
            "fs:",
            "fs:///disk/blobs",
            "s3://me:s3cret@bucket/a/b?region=eu&access_key_id=s3cret&endpoint=http://h:1",
            "azblob://c?endpoint=http://u:s3cret%40h&x#s3cret",
            "gcs://bucket/root",
        ];
        Target::new("blob URI", uris).run_text(|uri| {
            // A build without the feature of a scheme refuses it, and must know its secrets too.
            let place = match crate::blob_uri::parse(uri) {
                Ok(place) => place,
                Err(_) if uri.contains("://") => BlobPlace::Remote(uri.to_owned()),
                Err(_) => return false,
            };
            let Ok(location) = Location::of(&place) else {
                return false;
            };
            if matches!(place, BlobPlace::Remote(_)) {
                let again = Location::of(&BlobPlace::Remote(location.uri().to_owned()));
                assert!(again.is_ok_and(|again| again == location), "{location:?}");
            }
            let rest = location
                .uri()
                .split_once("://")
                .map_or("", |(_, rest)| rest);
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            let is_remote = matches!(place, BlobPlace::Remote(_));
            assert!(!is_remote || !authority.contains('@'), "{location:?}");
            true
        });
    }
}
