//! `--blobs`: where the blob tier is, and the OpenDAL operator for it.
//!
//! A remote tier gets a time limit on every attempt and retries around it, in this order: a limit
//! around the retries would cut them off. The URI is never shown: it may hold credentials.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cenotaph::Operator;
use opendal::layers::{RetryLayer, TimeoutLayer};

use crate::failure::{Failure, one_line};

/// Longest time that one transfer of a block may take.
const IO_TIMEOUT: Duration = Duration::from_secs(120);

/// Where blobs lie.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum BlobPlace {
    /// `blobs` under the data directory.
    UnderData,
    /// A directory of its own.
    Directory(PathBuf),
    /// Whatever OpenDAL makes of this URI.
    Remote(String),
}

/// Reads a URI.
pub(crate) fn parse(uri: &str) -> Result<BlobPlace, Failure> {
    let usage = |message: String| Err(Failure::Usage(format!("--blobs: {message}")));
    let Some((scheme, rest)) = uri.split_once(':') else {
        return usage("expected fs:PATH, s3://.., gcs://.. or azblob://..".to_owned());
    };
    match (scheme, is_built_in(scheme)) {
        ("fs", _) if rest.is_empty() => Ok(BlobPlace::UnderData),
        ("fs", _) => Ok(BlobPlace::Directory(PathBuf::from(
            without_empty_authority(rest),
        ))),
        (_, Some(true)) if rest.strip_prefix("//").is_some_and(|rest| !rest.is_empty()) => {
            Ok(BlobPlace::Remote(uri.to_owned()))
        }
        (_, Some(true)) => usage(format!("expected {scheme}://NAME/ROOT")),
        (_, Some(false)) => {
            let message = format!("this build has no {scheme}: build with `--features {scheme}`");
            Err(Failure::Failed(message))
        }
        (_, None) => usage("known schemes are fs, s3, gcs and azblob".to_owned()),
    }
}

/// Whether this build has the scheme; none if no build has.
fn is_built_in(scheme: &str) -> Option<bool> {
    match scheme {
        "s3" => Some(cfg!(feature = "s3")),
        "gcs" => Some(cfg!(feature = "gcs")),
        "azblob" => Some(cfg!(feature = "azblob")),
        _ => None,
    }
}

/// `fs:///path` is `fs:/path`.
fn without_empty_authority(path: &str) -> &str {
    if path.starts_with("///") {
        &path[2..]
    } else {
        path
    }
}

/// The operator on a directory that is there.
pub(crate) fn directory(dir: &Path) -> Result<Operator, Failure> {
    let failed = |error| {
        Failure::io(
            format!("the blob directory can't be used: path={}", dir.display()),
            &error,
        )
    };
    let root = dir.canonicalize().map_err(failed)?;
    let Some(root) = root.to_str() else {
        return Err(Failure::Failed(format!(
            "the blob directory's name is not UTF-8: path={}",
            dir.display()
        )));
    };
    Operator::new(opendal::services::Fs::default().root(root))
        .map_err(|error| Failure::Failed(one_line(&error)))
}

/// The operator on a remote tier.
pub(crate) fn remote(uri: &str) -> Result<Operator, Failure> {
    opendal::install_default();
    let operator = Operator::from_uri(uri).map_err(|error| {
        Failure::Failed(format!(
            "the blob tier can't be set up: {}",
            one_line(&error)
        ))
    })?;
    Ok(operator
        .layer(TimeoutLayer::new().with_io_timeout(IO_TIMEOUT))
        .layer(RetryLayer::new().with_jitter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_uri_is_understood() {
        assert!(parse("fs:").is_ok_and(|place| place == BlobPlace::UnderData));
        for (uri, path) in [
            ("fs:/a/b", "/a/b"),
            ("fs:a/b", "a/b"),
            ("fs:///a/b", "/a/b"),
        ] {
            assert!(
                parse(uri).is_ok_and(|place| place == BlobPlace::Directory(path.into())),
                "{uri}"
            );
        }
        for wrong in ["", "s3", "http://host", "/path"] {
            assert!(matches!(parse(wrong), Err(Failure::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_scheme_that_is_not_built_in_says_how_to_get_it() {
        for scheme in ["s3", "gcs", "azblob"] {
            match parse(&format!("{scheme}://bucket/root")) {
                Ok(place) => assert!(place == BlobPlace::Remote(format!("{scheme}://bucket/root"))),
                Err(failure) => assert!(
                    failure
                        .to_string()
                        .contains(&format!("--features {scheme}"))
                ),
            }
        }
    }
}
