//! Heads and bytes of the objects of an operator.
//!
//! ```text
//! 1 stat                      not found -> absent
//! 2 first chunk               not found -> absent: it was removed in between
//! 3 other chunks              not found -> Unavailable
//! 4 end: right length?        another length, or changed since 1 -> Unavailable
//! ```
//!
//! Guards "never wrong bytes": the bytes are of one version of the object. A service that can read
//! under the condition of an etag does so, otherwise step 4 compares size and time.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use opendal::Operator;

use super::OperatorFallback;
use crate::blobs::failure::{self, Cause};
use crate::fallback::{FallbackMeta, FallbackObject};
use crate::records::Attributes;
use crate::types::{BLOCK_BYTES, ByteRange, Error, ErrorKind, Result, Timestamp};

/// Bytes of a request.
const CHUNK_BYTES: usize = 4 * BLOCK_BYTES;

impl OperatorFallback {
    /// Returns the head of the object at a path.
    pub(super) async fn stat(&self, path: &str) -> Result<Option<FallbackMeta>> {
        Ok(self.metadata(path).await?.as_ref().map(meta))
    }

    /// Returns the metadata of the file at a path.
    pub(super) async fn metadata(&self, path: &str) -> Result<Option<opendal::Metadata>> {
        match self.operator.stat(path).await {
            Ok(found) => Ok(Some(found).filter(opendal::Metadata::is_file)),
            Err(error) if is_absent(&error) => self.check_root("head").await.map(|()| None),
            Err(error) => Err(failed("head", error)),
        }
    }

    /// Opens the object at a path.
    pub(super) async fn read(
        &self,
        path: &str,
        range: ByteRange,
    ) -> Result<Option<FallbackObject>> {
        let Some(found) = self.metadata(path).await? else {
            return Ok(None);
        };
        let meta = meta(&found);
        let range = range.resolve(meta.size)?;
        let bytes = if range.is_empty() {
            stream::empty().boxed()
        } else {
            match self.bytes(path, found, range.clone()).await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            }
        };
        Ok(Some(FallbackObject { meta, range, bytes }))
    }

    /// Returns the bytes of a range that is not empty, or `None` if the object has been removed.
    async fn bytes(
        &self,
        path: &str,
        found: opendal::Metadata,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes>>>> {
        let can_match = self.operator.info().capability().read_with_if_match;
        let condition = found.etag().filter(|_| can_match);
        let mut reader = self.operator.reader_with(path).chunk(CHUNK_BYTES);
        if let Some(etag) = condition {
            reader = reader.if_match(etag);
        }
        let is_conditional = condition.is_some();
        let opened = async { reader.await?.into_stream(range.clone()).await };
        let first = async {
            let mut chunks = opened.await?;
            let first = chunks.try_next().await?;
            Ok::<_, opendal::Error>((first, chunks))
        };
        let (first, rest) = match first.await {
            Ok(opened) => opened,
            Err(error) if is_absent(&error) => {
                return self.check_root("get").await.map(|()| None);
            }
            Err(error) => return Err(failed("get", error)),
        };
        let chunks = stream::iter(first.map(Ok))
            .chain(rest)
            .map_ok(|buffer| stream::iter(Iterator::map(buffer, Ok::<_, opendal::Error>)))
            .try_flatten()
            .map_err(|error| failed("get", error))
            .boxed();
        let check = EndCheck {
            operator: self.operator.clone(),
            path: path.to_owned(),
            found: (!is_conditional).then_some(found),
            expected: range.end - range.start,
        };
        Ok(Some(check.applied_to(chunks)))
    }
}

/// Check at the end of a read.
struct EndCheck {
    operator: Operator,
    path: String,
    /// Metadata that the object must still have; `None` if the service has checked its etag.
    found: Option<opendal::Metadata>,
    /// Expected number of bytes.
    expected: u64,
}

impl EndCheck {
    /// Returns the same chunks, with an error at the end if the check fails.
    fn applied_to(
        self,
        chunks: BoxStream<'static, Result<Bytes>>,
    ) -> BoxStream<'static, Result<Bytes>> {
        let state = (chunks, 0_u64, self);
        let checked = stream::try_unfold(state, |(mut chunks, received, check)| async move {
            if let Some(chunk) = chunks.try_next().await? {
                let received = received.saturating_add(chunk.len() as u64);
                return Ok(Some((chunk, (chunks, received, check))));
            }
            if received != check.expected {
                let message = format!(
                    "the object of the fallback has another length than before: expected={} \
                     found={received}",
                    check.expected
                );
                return Err(Error::new(ErrorKind::Unavailable, "get", message));
            }
            if let Some(found) = &check.found {
                check_unchanged(&check.operator, &check.path, found).await?;
            }
            Ok(None)
        });
        checked.boxed()
    }
}

/// Checks at the end of a read that the object is still the one that was found.
async fn check_unchanged(operator: &Operator, path: &str, found: &opendal::Metadata) -> Result<()> {
    let now = match operator.stat(path).await {
        Ok(now) => now,
        // A file that was removed during the read was read to its end.
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(failed("get", error)),
    };
    let version = |metadata: &opendal::Metadata| {
        let etag = metadata.etag().map(str::to_owned);
        (metadata.content_length(), metadata.last_modified(), etag)
    };
    if version(&now) == version(found) {
        return Ok(());
    }
    let message = "the object of the fallback was changed during the read; read it again";
    Err(Error::new(ErrorKind::Unavailable, "get", message))
}

/// Returns whether the service has answered that there is no such file.
fn is_absent(error: &opendal::Error) -> bool {
    if failure::cause(error) == Cause::Gone {
        return true;
    }
    // OpenDAL has no kinds for these: a part of the path is a file, or is too long for a name.
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |cause| cause.source()).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
            )
        })
    })
}

/// Returns [`ErrorKind::Unavailable`] for a failed call. OpenDAL's error is the source.
pub(super) fn failed(operation: &'static str, error: opendal::Error) -> Error {
    let message = format!("the fallback failed: cause={}", error.kind());
    Error::new(ErrorKind::Unavailable, operation, message).with_source(error)
}

/// Converts the metadata of a file.
pub(super) fn meta(found: &opendal::Metadata) -> FallbackMeta {
    let millis = found
        .last_modified()
        .map(|time| time.into_inner().as_millisecond());
    let modified = millis.and_then(|millis| u64::try_from(millis).ok());
    let custom = found.user_metadata().into_iter().flatten();
    FallbackMeta {
        size: found.content_length(),
        checksum: None,
        created: None,
        modified: modified.map(Timestamp::from_millis),
        expires_at: None,
        attributes: Attributes {
            content_type: found.content_type().map(str::to_owned),
            compression: found.content_encoding().map(str::to_owned),
            custom: custom
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ..Attributes::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stream_of_another_length_than_promised_ends_with_an_error() {
        let operator = Operator::new(opendal::services::Memory::default()).unwrap();
        for (expected, is_whole) in [(4, false), (5, true), (6, false)] {
            let check = EndCheck {
                operator: operator.clone(),
                path: "a".into(),
                found: None,
                expected,
            };
            let chunks = stream::iter([Ok(Bytes::from("ab")), Ok(Bytes::from("cde"))]);
            let read: Result<Vec<_>> = check.applied_to(chunks.boxed()).try_collect().await;
            assert_eq!(read.is_ok(), is_whole, "{expected}: {read:?}");
        }
    }
}
