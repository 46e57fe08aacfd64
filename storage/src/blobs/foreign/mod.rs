//! [`OperatorFallback`]: existing files or bucket keys of an OpenDAL operator, as a fallback.
//!
//! ```text
//! object                     path in the operator
//! key of one namespace       the same text (path.rs)
//! key of another namespace   none: the fallback does not have it
//! ```
//!
//! A service that lists behind a key is listed as it is, and its order is checked (`sorted.rs`).
//! Other services, such as `fs`, are walked directory by directory in bounded memory (`walk.rs`).
//!
//! Guards "an error never counts as not found": only an answer of the service that a path does not
//! exist does, and on `fs` only while the root directory is still the one that was found first.

mod path;
mod reading;
mod sorted;
mod walk;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use futures::FutureExt;
use futures::future::BoxFuture;
use opendal::Operator;

use super::device;
use crate::fallback::{
    Fallback, FallbackListRequest, FallbackMeta, FallbackObject, FallbackPage, RemovableSource,
};
use crate::types::{ByteRange, Error, ErrorKind, Namespace, ObjectId, Result};

/// Objects of an OpenDAL operator that was not written by Cenotaph, to adopt them.
///
/// Each file or bucket key becomes an object of one namespace. Content type, content encoding, user
/// metadata, size and time of the last write are taken over where the service has them. Nothing is
/// written to the operator, and nothing is deleted unless it is a [`RemovableSource`] of a
/// migration.
///
/// The caller adds layers for retries and timeouts to the operator. A service that lists behind a
/// key (`list_with_start_after`) must list in the order of the bytes of its keys; a listing in
/// another order is an error. Every other service is walked directory by directory: a page costs
/// one listing of each directory on its way.
///
/// These names can't be objects: names that are not UTF-8, have more than
/// [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX) bytes, begin or end with white space, or have an empty
/// part, `.` or `..` between slashes. Symbolic links to directories are not followed.
///
/// ```
/// use cenotaph_storage::blobs::foreign::OperatorFallback;
/// use cenotaph_storage::fallback::Fallback;
///
/// let operator = opendal::Operator::new(opendal::services::Memory::default())?;
/// let fallback = OperatorFallback::new(operator).named("the old store");
/// assert_eq!(fallback.describe(), "the old store");
/// # Ok::<(), opendal::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OperatorFallback {
    operator: Operator,
    namespace: Namespace,
    description: String,
    /// Root directory and its device; `None` unless the service is `fs`.
    root: Option<(PathBuf, Option<u64>)>,
}

impl OperatorFallback {
    /// Creates a fallback whose keys are objects of the default namespace.
    ///
    /// OpenDAL creates the directory of an `fs` operator as soon as the operator is made. A wrong
    /// path is therefore an empty fallback.
    pub fn new(operator: Operator) -> Self {
        let info = operator.info();
        let is_local = info.scheme() == "fs";
        let (scheme, name, root) = (info.scheme(), info.name(), info.root());
        let description = match is_local || name.is_empty() {
            true => format!("{scheme}:{root}"),
            false => format!("{scheme}:{name}:{root}"),
        };
        let root = is_local.then(|| {
            let root = PathBuf::from(root);
            let found = device(&root);
            (root, found)
        });
        Self {
            operator,
            namespace: Namespace::default_namespace(),
            description,
            root,
        }
    }

    /// Sets the namespace of the objects.
    #[must_use]
    pub fn namespace(self, namespace: Namespace) -> Self {
        Self { namespace, ..self }
    }

    /// Sets the [description](Fallback::describe), for a source that has moved to another path or
    /// bucket.
    #[must_use]
    pub fn named(self, description: impl Into<String>) -> Self {
        Self {
            description: description.into(),
            ..self
        }
    }

    /// Returns the path of an object, or `None` if the operator can't have it.
    fn path<'a>(&self, id: &'a ObjectId) -> Option<&'a str> {
        let is_ours = id.namespace() == self.namespace;
        Some(id.key()).filter(|key| is_ours && path::is_addressable(key))
    }

    /// Checks that the root directory is the one that was found first. An unmounted directory is
    /// missing or empty, and everything in it would seem absent.
    async fn check_root(&self, operation: &'static str) -> Result<()> {
        let Some((root, expected)) = &self.root else {
            return Ok(());
        };
        let found = tokio::fs::metadata(root).await;
        let found = found.as_ref().ok().and_then(device_of);
        match (found, expected) {
            (Some(found), Some(expected)) if found == *expected => Ok(()),
            (Some(_), None) if cfg!(not(unix)) => Ok(()),
            (found, expected) => {
                let message = format!(
                    "the directory of the fallback is missing or another one, is it mounted? \
                     path={} expected={expected:?} found={found:?}",
                    root.display()
                );
                Err(Error::new(ErrorKind::Unavailable, operation, message))
            }
        }
    }
}

impl Fallback for OperatorFallback {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn head<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>> {
        async move {
            match self.path(id) {
                Some(path) => self.stat(path).await.map_err(|error| error.with_id(id)),
                None => Ok(None),
            }
        }
        .boxed()
    }

    fn open<'a>(
        &'a self,
        id: &'a ObjectId,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<FallbackObject>>> {
        async move {
            match self.path(id) {
                Some(path) => self
                    .read(path, range)
                    .await
                    .map_err(|error| error.with_id(id)),
                None => Ok(None),
            }
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>> {
        async move {
            if request.namespace != self.namespace {
                return Ok(FallbackPage {
                    is_complete: true,
                    ..FallbackPage::default()
                });
            }
            self.check_root("list").await?;
            if self.operator.info().capability().list_with_start_after {
                return sorted::page(&self.operator, request).await;
            }
            let page = walk::page(self, request).await?;
            // Again: a directory that disappears during its listing ends the listing like its end.
            self.check_root("list").await?;
            Ok(page)
        }
        .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>> {
        std::future::ready(Ok(vec![self.namespace.clone()])).boxed()
    }
}

impl RemovableSource for OperatorFallback {
    fn remove<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<()>> {
        async move {
            let Some(path) = self.path(id) else {
                return Ok(());
            };
            self.check_root("delete").await?;
            let deleted = self.operator.delete(path).await;
            deleted.map_err(|error| {
                let message = "the source can't delete the object";
                Error::new(ErrorKind::Unavailable, "delete", message)
                    .with_id(id)
                    .with_source(error)
            })
        }
        .boxed()
    }
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have no number")]
fn device_of(metadata: &std::fs::Metadata) -> Option<u64> {
    Some(std::os::unix::fs::MetadataExt::dev(metadata))
}

#[cfg(not(unix))]
fn device_of(_: &std::fs::Metadata) -> Option<u64> {
    Some(0)
}
