//! Where the blob tier of a store is, as the tool remembers it: `tier.json` in the data directory.
//!
//! ```text
//! {"format":1,"blobs":"fs:"}                                      `blobs` under the data directory
//! {"format":1,"blobs":"fs:/disk/blobs"}                           an absolute path
//! {"format":1,"blobs":"s3://bucket/root?region=eu&endpoint=.."}   scheme, bucket, root, and options that are no secrets
//! ```
//!
//! Guards that no credential is stored: user, password, and every option that is not known to be
//! none, are left out and come from the environment. It decides nothing about whose tier it is: the
//! mark in the tier does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use crate::blobs::BlobPlace;
use crate::failure::Failure;

const FILE: &str = "tier.json";
const FORMAT: u64 = 1;
/// Its permission bits, as those of the rest of the store.
#[cfg(unix)]
const MODE: u32 = 0o600;
/// Options of OpenDAL's services that are no secrets and without which a tier may not be found.
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

/// Where a blob tier is, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location(String);

impl Location {
    /// Of a place.
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
                        "the blob directory's name is not UTF-8: path={}",
                        dir.display()
                    ))
                };
                Ok(Self(format!("fs:{}", text.ok_or_else(not_text)?)))
            }
            BlobPlace::Remote(uri) => Ok(Self(without_secrets(uri))),
        }
    }

    /// As `--blobs` would say it.
    pub(crate) fn uri(&self) -> &str {
        &self.0
    }

    /// Returns whether both are the same place; options beside it may differ.
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
        place(self) == place(other)
            || directory(self).is_some_and(|one| Some(one) == directory(other))
    }

    /// Where the blob tier of this store was the last time; none if nobody has said so yet.
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
            let (path, way_out) = (path.display(), "remove the file and give --blobs once");
            Failure::Failed(format!(
                "where the blob tier is can't be read: path={path}; {way_out}"
            ))
        };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|_| damaged())?;
        match (value["format"].as_u64(), value["blobs"].as_str()) {
            (Some(FORMAT), Some(blobs)) => Ok(Some(Self(blobs.to_owned()))),
            (Some(FORMAT) | None, _) => Err(damaged()),
            (Some(later), _) => {
                let message = format!(
                    "a newer cenotaph wrote this: path={} format={later}",
                    path.display()
                );
                Err(Failure::Failed(message))
            }
        }
    }

    /// Refuses another place than the remembered one.
    pub(crate) fn check(&self, remembered: &Self, data: &Path) -> Result<(), Failure> {
        if self.is_same_place(remembered, data) {
            return Ok(());
        }
        Err(Failure::Failed(format!(
            "this store keeps its blobs elsewhere: expected={} found={}; leave --blobs out, or, if all of its blobs are at \
             the other place now, say `cenotaph adopt --blobs {}`",
            remembered.0, self.0, self.0
        )))
    }

    /// Remembers it from now on, durably.
    pub(crate) fn remember(&self, data: &Path) -> io::Result<()> {
        let (path, fresh) = (data.join(FILE), data.join(format!("{FILE}.new")));
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODE);
        let mut file = options.open(&fresh)?;
        writeln!(file, "{}", json!({ "format": FORMAT, "blobs": self.0 }))?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(data)?.sync_all()
    }
}

/// Leaves out all that may be a secret.
fn without_secrets(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let name = authority
        .rsplit_once('@')
        .map_or(authority, |(_secret, name)| name);
    let is_kept = |option: &&str| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
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
        let uri = "s3://me:s3cret@bucket/a/b?region=eu&access_key_id=s3cret&secret_access_key=s3cret&endpoint=http://h:1";
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
    fn what_is_remembered_is_read_again_and_another_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Location::remembered(dir.path()).unwrap().is_none());
        let location = |uri: &str| Location(uri.to_owned());
        let one = location("s3://bucket/root?region=eu");
        one.remember(dir.path()).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join(FILE)).unwrap(),
            "{\"blobs\":\"s3://bucket/root?region=eu\",\"format\":1}\n"
        );
        assert_eq!(Location::remembered(dir.path()).unwrap(), Some(one.clone()));
        assert!(
            location("s3://bucket/root/?region=us")
                .check(&one, dir.path())
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
                .check(&one, dir.path())
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
            let Ok(place) = crate::blobs::parse(uri) else {
                return false;
            };
            let Ok(location) = Location::of(&place) else {
                return false;
            };
            let again = crate::blobs::parse(location.uri()).map(|place| Location::of(&place));
            if let Ok(Ok(again)) = again {
                assert_eq!(again, location, "remembered once more");
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

    #[test]
    fn mutated_record_of_the_tier_is_refused_or_read() {
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let record = "{\"blobs\":\"s3://bucket/root?region=eu\",\"format\":1}\n";
        Target::new("record of the tier", [record]).run(|input| {
            fs::write(dir.path().join(FILE), input).unwrap();
            match Location::remembered(dir.path()) {
                Ok(location) => location.is_some(),
                Err(failure) => {
                    assert!(failure.to_string().contains(FILE), "{failure}");
                    false
                }
            }
        });
    }
}
