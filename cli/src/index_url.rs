//! [`IndexUrl`]: the database of a shared index, as `--index` or the environment names it.
//!
//! Invariant: no message contains the URL, because it may contain a password.

use std::fmt;

use cenotaph::Builder;

use crate::ui::failure::Failure;

/// Variable that replaces `--index`.
pub(crate) const VARIABLE: &str = "CENOTAPH_INDEX";
/// Variable that replaces `--from-index`.
pub(crate) const FROM_VARIABLE: &str = "CENOTAPH_FROM_INDEX";

/// Schemes of the URL.
const SCHEMES: [&str; 2] = ["postgres", "postgresql"];

/// URL of a shared index.
#[derive(Clone)]
pub(crate) struct IndexUrl(String);

impl fmt::Debug for IndexUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexUrl(..)")
    }
}

impl IndexUrl {
    /// Returns the URL, not checked yet: the error of an argument would quote it.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Checks the scheme of the URL, and that this build supports it.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the scheme is unknown, or this build lacks its cargo feature.
    pub(crate) fn check(&self, option: &str) -> Result<(), Failure> {
        let scheme = self.0.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)) {
            return Err(Failure::Usage(format!(
                "{option}: expected postgres://USER:PASSWORD@HOST/DATABASE or postgresql://.."
            )));
        }
        if cfg!(feature = "postgres") {
            return Ok(());
        }
        Err(missing_feature(option))
    }

    /// Names this index to a builder. `create` permits the opening to create an absent store.
    #[cfg(feature = "postgres")]
    pub(crate) fn apply(&self, builder: Builder, schema: &str, create: bool) -> Builder {
        let options = cenotaph::PostgresOptions {
            schema: schema.to_owned(),
            create,
            member: member(),
            ..cenotaph::PostgresOptions::default()
        };
        builder.shared_with(self.0.clone(), options)
    }

    /// Returns the builder of a build without shared indexes, whose URLs [`check`](Self::check)
    /// refuses.
    #[cfg(not(feature = "postgres"))]
    pub(crate) fn apply(&self, builder: Builder, _schema: &str, _create: bool) -> Builder {
        builder
    }
}

fn missing_feature(option: &str) -> Failure {
    Failure::Usage(format!(
        "{option}: this build does not support a shared index: feature=postgres; install the tool \
         with `cargo install cenotaph-cli --features postgres`"
    ))
}

/// Returns the URL of an option, or else that of an environment variable. An empty variable counts as
/// absent.
///
/// # Errors
/// [`Failure::Usage`] if the variable is not UTF-8.
pub(crate) fn or_environment(
    given: Option<IndexUrl>,
    variable: &str,
) -> Result<Option<IndexUrl>, Failure> {
    if given.is_some() {
        return Ok(given);
    }
    match std::env::var(variable) {
        Ok(url) => Ok((!url.is_empty()).then_some(IndexUrl(url))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // Not the error itself, which contains the value.
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::Usage(format!("{variable}: not UTF-8")))
        }
    }
}

/// Returns the name of this process among the members of a shared store.
#[cfg(feature = "postgres")]
fn member() -> String {
    // The standard library has no name of the machine. Elsewhere than on Linux it is left out.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let process = std::process::id();
    match host.trim() {
        "" => format!("cenotaph tool, process {process}"),
        host => format!("cenotaph tool on {host}, process {process}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_contains_the_url() {
        for text in [
            "postgres://me:s3cret@host/x",
            "postgresql://me:s3cret@host/x",
            "mysql://me:s3cret@host/x",
            "s3cret",
            "host=h password=s3cret",
            "",
        ] {
            let url = IndexUrl::new(text);
            assert!(!format!("{url:?}").contains("s3cret"));
            let is_known = text.starts_with("postgres");
            match url.check("--index") {
                Ok(()) => assert!(is_known && cfg!(feature = "postgres"), "{text}"),
                Err(Failure::Usage(message)) => {
                    assert!(!message.contains("s3cret"), "{message}");
                    assert_eq!(message.contains("feature=postgres"), is_known, "{message}");
                }
                Err(failure) => panic!("{failure}"),
            }
        }
    }
}
