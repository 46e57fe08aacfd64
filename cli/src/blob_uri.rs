//! Parser of the `--blobs` URI, and the OpenDAL operator of a blob tier.
//!
//! | URI | cargo feature |
//! |---|---|
//! | `fs:`, `fs:PATH` | none |
//! | `s3://BUCKET/ROOT` | `s3` |
//! | `gcs://BUCKET/ROOT` | `gcs` |
//! | `azblob://CONTAINER/ROOT` | `azblob` |
//!
//! Invariant: no message contains the URI, because it may contain credentials.

use std::path::{Path, PathBuf};
#[cfg(feature = "_remote")]
use std::time::Duration;

use cenotaph::Operator;

use crate::ui::failure::{Failure, one_line};

/// Longest time for the transfer of a block to or from a remote tier.
#[cfg(feature = "_remote")]
const IO_TIMEOUT: Duration = Duration::from_secs(120);

/// Place of the blob tier.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum BlobPlace {
    /// `blobs` under the data directory.
    UnderData,
    /// Another directory.
    Directory(PathBuf),
    /// A remote service, as a URI of OpenDAL.
    Remote(String),
}

/// Parses the URI of `--blobs`.
///
/// # Errors
/// As [`parse_option`].
pub(crate) fn parse(uri: &str) -> Result<BlobPlace, Failure> {
    parse_option("--blobs", uri)
}

/// Parses the URI of an option.
///
/// # Errors
/// [`Failure::Usage`] if the URI is invalid, or if this build lacks the cargo feature of its
/// scheme.
pub(crate) fn parse_option(option: &str, uri: &str) -> Result<BlobPlace, Failure> {
    let usage = |message: String| Err(Failure::Usage(format!("{option}: {message}")));
    // Messages quote at most the scheme, and only a known one: other text may be a credential.
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
        (_, Some(false)) => Err(missing_feature(option, scheme)),
        (_, None) => usage("known schemes are fs, s3, gcs and azblob".to_owned()),
    }
}

/// Returns the error of a scheme whose cargo feature is not part of this build. The message
/// contains the scheme only, not the URI.
fn missing_feature(option: &str, scheme: &str) -> Failure {
    Failure::Usage(format!(
        "{option}: this build does not support {scheme}: feature={scheme}; install the tool with \
         `cargo install cenotaph-cli --features cloud`"
    ))
}

/// Returns whether this build includes the scheme, or `None` if the scheme is unknown.
fn is_built_in(scheme: &str) -> Option<bool> {
    match scheme {
        "s3" => Some(cfg!(feature = "s3")),
        "gcs" => Some(cfg!(feature = "gcs")),
        "azblob" => Some(cfg!(feature = "azblob")),
        _ => None,
    }
}

/// Removes the empty authority of a path: `fs:///path` becomes `fs:/path`.
fn without_empty_authority(path: &str) -> &str {
    if path.starts_with("///") {
        &path[2..]
    } else {
        path
    }
}

/// Returns the operator of an existing directory.
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
            "the path of the blob directory is not UTF-8: path={}",
            dir.display()
        )));
    };
    Operator::new(opendal::services::Fs::default().root(root))
        .map_err(|error| Failure::Failed(one_line(&error)))
}

/// Returns the operator of a remote tier, with timeouts and retries.
#[cfg(feature = "_remote")]
pub(crate) fn remote(uri: &str) -> Result<Operator, Failure> {
    use opendal::layers::{RetryLayer, TimeoutLayer};

    opendal::install_default();
    let operator = Operator::from_uri(uri).map_err(|error| {
        // `one_line` removes credentials: the error may quote the URI.
        Failure::Failed(format!(
            "the blob tier can't be set up: {}",
            one_line(&error)
        ))
    })?;
    // The timeout applies to each attempt, the retry surrounds it. In the other order the timeout
    // would cut the retries off.
    Ok(operator
        .layer(TimeoutLayer::new().with_io_timeout(IO_TIMEOUT))
        .layer(RetryLayer::new().with_jitter()))
}

/// Returns the usage error of a build without remote tiers.
#[cfg(not(feature = "_remote"))]
pub(crate) fn remote(uri: &str) -> Result<Operator, Failure> {
    // `parse` has refused the scheme already.
    Err(missing_feature(
        "--blobs",
        uri.split(':').next().unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_uri_is_parsed() {
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
    fn missing_feature_is_a_usage_error_that_names_it() {
        for scheme in ["s3", "gcs", "azblob"] {
            let uri = format!("{scheme}://me:s3cret@bucket/root");
            let parsed = parse(&uri);
            if is_built_in(scheme) == Some(true) {
                assert!(parsed.is_ok_and(|place| place == BlobPlace::Remote(uri)));
                continue;
            }
            let Err(Failure::Usage(message)) = parsed else {
                panic!("{scheme} is accepted, or refused with another exit code");
            };
            assert!(message.contains(&format!("feature={scheme}")), "{message}");
            assert!(message.contains("--features cloud"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }
}
