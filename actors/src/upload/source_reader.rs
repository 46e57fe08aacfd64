//! [`SourceReader`]: a caller's stream, checked against its promised length and declared digests.
//!
//! Digests are computed piece by piece, as the bytes are passed on. A payload that is in memory as
//! a whole thus does not occupy a thread while all of it is hashed.

use bytes::Bytes;
use cenotaph_storage::{Checksum, Digest, Error, ErrorKind, Hasher, Reason, Result, Verifier};
use futures::StreamExt;

use crate::admission::payload::{PayloadSource, PayloadStream};

/// Maximum number of bytes that are passed on, and hashed, at a time.
const PIECE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Refuses a promised length over the limit before the first byte is read.
pub(super) fn check_promised_length(source: &PayloadSource, bytes_max: u64) -> Result<()> {
    if source.bytes.is_some_and(|promised| promised > bytes_max) {
        Err(too_long(bytes_max))
    } else {
        Ok(())
    }
}

/// A caller's stream, checked against its promised length and declared digests.
pub(super) struct SourceReader {
    stream: PayloadStream,
    /// Received bytes that did not fit into the last blob.
    ahead: Bytes,
    promised: Option<u64>,
    most: u64,
    total: u64,
    /// Hash over the whole payload, if the payload may be several blobs.
    whole: Option<Hasher>,
    verifiers: Vec<Verifier>,
}

impl SourceReader {
    /// Creates a reader of at most `bytes_max` bytes.
    pub(super) fn new(source: PayloadSource, bytes_max: u64, declared: &[Digest]) -> Self {
        Self {
            stream: source.stream,
            ahead: Bytes::new(),
            promised: source.bytes,
            most: bytes_max,
            total: 0,
            whole: None,
            verifiers: declared.iter().copied().map(Verifier::new).collect(),
        }
    }

    /// Hashes the whole payload, too.
    pub(super) fn hashing(mut self) -> Self {
        self.whole = Some(Hasher::default());
        self
    }

    /// Returns the checksum of the whole payload, if it was hashed.
    pub(super) fn checksum(self) -> Option<Checksum> {
        self.whole.map(Hasher::finish)
    }

    /// Returns the next bytes, at most `most` of them, or `None` at the end.
    pub(super) async fn next(&mut self, most: u64) -> Result<Option<Bytes>> {
        if self.ahead.is_empty() {
            match self.stream.next().await {
                Some(Ok(chunk)) => self.take(chunk)?,
                Some(Err(error)) => {
                    return Err(source_error("the stream failed").with_source(error));
                }
                None => return Ok(None),
            }
        }
        let most = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .min(PIECE_BYTES_MAX);
        let piece = self.ahead.split_to(most.min(self.ahead.len()));
        if let Some(whole) = &mut self.whole {
            whole.update(&piece);
        }
        self.verifiers
            .iter_mut()
            .for_each(|verifier| verifier.update(&piece));
        Ok(Some(piece))
    }

    fn take(&mut self, chunk: Bytes) -> Result<()> {
        self.total = self.total.saturating_add(chunk.len() as u64);
        // The promise is checked first: a longer stream is the caller's fault, whatever the limit.
        if self.promised.is_some_and(|promised| self.total > promised) {
            return Err(
                source_error("the stream is longer than promised").with_reason(Reason::Length)
            );
        }
        if self.total > self.most {
            return Err(too_long(self.most));
        }
        self.ahead = chunk;
        Ok(())
    }

    /// Returns whether the stream has more bytes.
    pub(super) async fn has_more(&mut self) -> Result<bool> {
        while self.ahead.is_empty() {
            // Zero bytes: reads a chunk ahead and leaves it for the next blob. Empty chunks are
            // skipped.
            match self.next(0).await? {
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Checks the promised length and the declared digests at the end of the stream.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.promised {
            Some(promised) if self.total != promised => {
                Err(source_error("the stream is shorter than promised").with_reason(Reason::Length))
            }
            _ => self.verifiers.drain(..).try_for_each(Verifier::verify),
        }
    }
}

fn too_long(bytes_max: u64) -> Error {
    Error::new(
        ErrorKind::Invalid,
        "put",
        format!("the payload is too long: bytes_max={bytes_max}"),
    )
}

fn source_error(why: &str) -> Error {
    Error::new(ErrorKind::Source, "put", why)
}
