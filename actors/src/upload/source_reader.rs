//! A caller's stream, held to what was promised and declared about it: [`SourceReader`].
//!
//! What is declared is checked piece by piece, as it is handed on, so that a payload at hand does
//! not hold up a thread while all of it is hashed. Deliberately not here: where the bytes go
//! (`stream.rs`).

use bytes::Bytes;
use cenotaph_storage::{Checksum, Digest, Error, ErrorKind, Hasher, Reason, Result, Verifier};
use futures::StreamExt;

use crate::runtime::messages::{PayloadStream, Source};

/// Most bytes that are handed on, and hashed, at a time.
const PIECE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A promise that can't be kept is refused before the first byte.
pub(super) fn check_promise(source: &Source, bytes_max: u64) -> Result<()> {
    if source.bytes.is_some_and(|promised| promised > bytes_max) {
        Err(too_long(bytes_max))
    } else {
        Ok(())
    }
}

/// A caller's stream, held to what was promised and declared about it.
pub(super) struct SourceReader {
    stream: PayloadStream,
    /// What came and did not fit into the last blob.
    ahead: Bytes,
    promised: Option<u64>,
    most: u64,
    total: u64,
    /// Over all of it, where that is not one blob.
    whole: Option<Hasher>,
    verifiers: Vec<Verifier>,
}

impl SourceReader {
    pub(super) fn new(source: Source, bytes_max: u64, declared: &[Digest]) -> Self {
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

    /// Hashes all of it, too.
    pub(super) fn hashing(mut self) -> Self {
        self.whole = Some(Hasher::default());
        self
    }

    /// The checksum of all that came, if that was hashed.
    pub(super) fn checksum(self) -> Option<Checksum> {
        self.whole.map(Hasher::finish)
    }

    /// The next bytes, `most` at the most; none at the end.
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
        if self.promised.is_some_and(|promised| self.total > promised) {
            return Err(
                source_error("the stream is longer than it said").with_reason(Reason::Length)
            );
        }
        if self.total > self.most {
            return Err(too_long(self.most));
        }
        self.ahead = chunk;
        Ok(())
    }

    /// Whether there are more bytes.
    pub(super) async fn has_more(&mut self) -> Result<bool> {
        while self.ahead.is_empty() {
            match self.next(0).await? {
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether all that was said about the stream has come true.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.promised {
            Some(promised) if self.total != promised => {
                Err(source_error("the stream is shorter than it said").with_reason(Reason::Length))
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
