//! [`Body`]: the payload of a put, which is a buffer or a stream; and the peek that selects its
//! tier.
//!
//! The peek buffers at most the inline limit plus a single chunk. Buffered chunks are passed on
//! without a copy, except chunks under 1 KiB, which are joined.

use std::fmt;

use bytes::{Bytes, BytesMut};
use cenotaph_actors::{PayloadSource, PayloadStream, Tiered};
use cenotaph_storage::{Error, ErrorKind, Result};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes requested from a reader at once.
const READ_BYTES: usize = 256 * 1024;

/// Length under which chunks are joined during a peek, in bytes.
const SHORT_CHUNK_BYTES: usize = 1024;

/// The payload of a put: a buffer, or a stream of chunks.
///
/// ```
/// use cenotaph::Body;
///
/// let buffer: Body = "a few bytes".into();
/// let chunks = futures::stream::iter([Ok::<_, std::io::Error>("in "), Ok("chunks")]);
/// let streamed = Body::stream(chunks);
/// let read = Body::reader(&b"anything that implements tokio's AsyncRead"[..]);
/// # drop((buffer, streamed, read));
/// ```
pub struct Body(Inner);

/// Origin of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamOrigin {
    Caller,
    /// A read of this engine. It is exempt from the idle limit, because a blob tier may be slow.
    Engine,
}

enum Inner {
    Bytes(Bytes),
    Stream(PayloadSource, StreamOrigin),
}

impl Body {
    /// Creates a body from a stream of chunks of any size.
    ///
    /// An error or a panic in the stream, or a pause of more than
    /// [`Limits::source_idle`](crate::Limits::source_idle), ends the put with
    /// [`ErrorKind::Source`], and nothing is stored.
    pub fn stream<S, C, E>(stream: S) -> Self
    where
        S: Stream<Item = Result<C, E>> + Send + 'static,
        C: Into<Bytes>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = stream
            .map(|chunk| chunk.map(Into::into).map_err(Into::into))
            .boxed();
        Self(Inner::Stream(
            PayloadSource {
                stream,
                bytes: None,
            },
            StreamOrigin::Caller,
        ))
    }

    /// Creates a body from the stream of an object that is being read. `bytes` is its length.
    pub(crate) fn of_read(stream: BoxStream<'static, Result<Bytes>>, bytes: u64) -> Self {
        let stream = stream.map(|chunk| chunk.map_err(Into::into)).boxed();
        Self(Inner::Stream(
            PayloadSource {
                stream,
                bytes: Some(bytes),
            },
            StreamOrigin::Engine,
        ))
    }

    /// Creates a body from all bytes of `reader`, up to its end.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let start = (reader, BytesMut::new());
        Self::stream(futures::stream::try_unfold(
            start,
            |(mut reader, mut buffer)| async move {
                // A buffer serves many short reads: each chunk keeps no more memory than its bytes.
                if buffer.capacity() == 0 {
                    buffer.reserve(READ_BYTES);
                }
                match reader.read_buf(&mut buffer).await? {
                    0 => Ok::<_, std::io::Error>(None),
                    _ => Ok(Some((buffer.split(), (reader, buffer)))),
                }
            },
        ))
    }

    /// Declares the length of the payload in bytes.
    ///
    /// A put whose payload has another length fails with [`ErrorKind::Source`], and nothing is
    /// stored. With a declared length, a large put starts its upload at once, and a small put
    /// reserves less memory.
    #[must_use]
    pub fn promise(self, bytes: u64) -> Self {
        match self.0 {
            Inner::Bytes(buffer) if buffer.len() as u64 == bytes => Self(Inner::Bytes(buffer)),
            // A buffer of another length becomes a stream, whose end reports the mismatch.
            Inner::Bytes(buffer) => {
                let source = PayloadSource {
                    stream: once(buffer),
                    bytes: Some(bytes),
                };
                Self(Inner::Stream(source, StreamOrigin::Caller))
            }
            Inner::Stream(source, origin) => Self(Inner::Stream(
                PayloadSource {
                    bytes: Some(bytes),
                    ..source
                },
                origin,
            )),
        }
    }

    /// Applies the idle limit to a stream of a caller. See [`Tiered::watched`].
    pub(crate) fn watched(self, tiered: &Tiered) -> Self {
        match self.0 {
            Inner::Stream(source, StreamOrigin::Caller) => {
                Self(Inner::Stream(tiered.watched(source), StreamOrigin::Caller))
            }
            unwatched @ (Inner::Bytes(_) | Inner::Stream(_, StreamOrigin::Engine)) => {
                Self(unwatched)
            }
        }
    }

    /// Returns the payload as a stream, without a peek.
    pub(crate) fn into_source(self) -> PayloadSource {
        match self.0 {
            Inner::Bytes(buffer) => {
                let bytes = Some(buffer.len() as u64);
                PayloadSource {
                    stream: once(buffer),
                    bytes,
                }
            }
            Inner::Stream(source, _) => source,
        }
    }

    /// Returns the maximum number of bytes that [`peek`](Self::peek) buffers.
    pub(crate) fn peek_bytes(&self, inline_bytes_max: usize) -> usize {
        match &self.0 {
            Inner::Bytes(buffer) if buffer.len() <= inline_bytes_max => buffer.len(),
            // A payload that is known to be large is not buffered.
            Inner::Bytes(_) => 0,
            Inner::Stream(
                PayloadSource {
                    bytes: Some(promised),
                    ..
                },
                _,
            ) => usize::try_from(*promised)
                .ok()
                .filter(|&promised| promised <= inline_bytes_max)
                .unwrap_or(0),
            Inner::Stream(PayloadSource { bytes: None, .. }, _) => inline_bytes_max,
        }
    }

    /// Reads the beginning of the payload to select its tier. A payload of exactly
    /// `inline_bytes_max` bytes is inline; a longer payload is large.
    pub(crate) async fn peek(self, inline_bytes_max: usize) -> Result<Peeked> {
        match self.0 {
            Inner::Bytes(buffer) if buffer.len() <= inline_bytes_max => Ok(Peeked::Inline(buffer)),
            Inner::Bytes(buffer) => {
                let bytes = Some(buffer.len() as u64);
                Ok(Peeked::Large(PayloadSource {
                    stream: once(buffer),
                    bytes,
                }))
            }
            // The declared length selects the tier. Nothing is read from the stream.
            Inner::Stream(source, _)
                if source
                    .bytes
                    .is_some_and(|promised| promised > inline_bytes_max as u64) =>
            {
                Ok(Peeked::Large(source))
            }
            Inner::Stream(source, _) => peek(source, inline_bytes_max).await,
        }
    }
}

/// A payload with its tier.
pub(crate) enum Peeked {
    /// A payload within the inline limit, complete.
    Inline(Bytes),
    /// A payload over the inline limit, including the bytes that were read from it.
    Large(PayloadSource),
}

async fn peek(source: PayloadSource, inline_bytes_max: usize) -> Result<Peeked> {
    let PayloadSource {
        mut stream,
        bytes: promised,
    } = source;
    let mut chunks = Vec::new();
    let mut total = 0usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| source_error("the stream failed").with_source(error))?;
        // Empty chunks carry no bytes, and would only take memory for their handles.
        if chunk.is_empty() {
            continue;
        }
        total = total.saturating_add(chunk.len());
        // A declared length over the limit never gets here, so a longer stream fails before its
        // tier is selected.
        if promised.is_some_and(|promised| total as u64 > promised) {
            return Err(source_error(
                "the stream is longer than its declared length",
            ));
        }
        push(&mut chunks, chunk);
        if total > inline_bytes_max {
            let stream = futures::stream::iter(chunks.into_iter().map(Ok))
                .chain(stream)
                .boxed();
            return Ok(Peeked::Large(PayloadSource {
                stream,
                bytes: promised,
            }));
        }
    }
    match promised {
        Some(promised) if promised != total as u64 => Err(source_error(
            "the stream is shorter than its declared length",
        )),
        _ => Ok(Peeked::Inline(contiguous(chunks, total))),
    }
}

/// Appends a chunk. A short chunk is joined to a short predecessor, because its handle would use
/// more memory than its bytes.
fn push(chunks: &mut Vec<Bytes>, chunk: Bytes) {
    match chunks.last_mut() {
        Some(last) if chunk.len() < SHORT_CHUNK_BYTES && last.len() < SHORT_CHUNK_BYTES => {
            let mut joined = BytesMut::from(std::mem::take(last));
            joined.extend_from_slice(&chunk);
            *last = joined.freeze();
        }
        _ => chunks.push(chunk),
    }
}

/// Returns the chunks as a single buffer, because a row holds a single buffer. A single chunk is
/// not copied.
fn contiguous(mut chunks: Vec<Bytes>, total: usize) -> Bytes {
    if chunks.len() <= 1 {
        return chunks.pop().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(total);
    chunks
        .iter()
        .for_each(|chunk| joined.extend_from_slice(chunk));
    joined.freeze()
}

fn once(bytes: Bytes) -> PayloadStream {
    futures::stream::once(async move { Ok(bytes) }).boxed()
}

fn source_error(why: &str) -> Error {
    Error::new(ErrorKind::Source, "put", why)
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Bytes(buffer) => write!(f, "Body({} bytes)", buffer.len()),
            Inner::Stream(source, _) => write!(f, "Body(stream of {:?} bytes)", source.bytes),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Bytes(bytes))
    }
}

macro_rules! body_from {
    ($($buffer:ty),*) => {$(
        impl From<$buffer> for Body {
            fn from(buffer: $buffer) -> Self {
                Bytes::from(buffer).into()
            }
        }
    )*};
}
body_from!(Vec<u8>, String, &'static str, &'static [u8]);

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(sizes: &[usize]) -> Body {
        let chunks: Vec<_> = sizes
            .iter()
            .map(|&size| Ok::<_, std::io::Error>(vec![7u8; size]))
            .collect();
        Body::stream(futures::stream::iter(chunks))
    }

    async fn inline_bytes(body: Body, limit: usize) -> Option<usize> {
        match body.peek(limit).await.unwrap() {
            Peeked::Inline(bytes) => Some(bytes.len()),
            Peeked::Large(_) => None,
        }
    }

    #[tokio::test]
    async fn only_a_payload_over_the_limit_is_large() {
        assert_eq!(inline_bytes(vec![0u8; 10].into(), 10).await, Some(10));
        assert_eq!(inline_bytes(vec![0u8; 11].into(), 10).await, None);
        assert_eq!(inline_bytes(chunks(&[3, 0, 7]), 10).await, Some(10));
        assert_eq!(inline_bytes(chunks(&[3, 7, 1]), 10).await, None);
        assert_eq!(inline_bytes(chunks(&[]), 10).await, Some(0));
        assert_eq!(
            inline_bytes(chunks(&[3, 7]).promise(11), 10).await,
            None,
            "the declared length alone selects the tier"
        );
    }

    #[tokio::test]
    async fn peeked_chunks_come_first_and_are_not_copied() {
        let first = Bytes::from(vec![1u8; 2000]);
        let kept = first.clone();
        let second = Bytes::from(vec![2u8; 2000]);
        let body = Body::stream(futures::stream::iter([
            Ok::<_, std::io::Error>(first),
            Ok(second),
        ]));
        let Peeked::Large(source) = body.peek(3000).await.unwrap() else {
            panic!("4000 bytes are over the limit")
        };
        let seen: Vec<Bytes> = source.stream.map(|chunk| chunk.unwrap()).collect().await;
        assert_eq!(seen.concat(), [[1u8; 2000], [2; 2000]].concat());
        assert_eq!(
            seen[0].as_ptr(),
            kept.as_ptr(),
            "the first chunk was not copied"
        );
    }

    #[tokio::test]
    async fn peeked_single_bytes_are_joined() {
        let bytes = || (0..=u8::MAX).cycle().take(5000);
        let singles = bytes().map(|byte| Ok::<_, std::io::Error>(vec![byte]));
        let Peeked::Large(source) = Body::stream(futures::stream::iter(singles))
            .peek(4000)
            .await
            .unwrap()
        else {
            panic!("5000 bytes are over the limit")
        };
        let seen: Vec<Bytes> = source.stream.map(|chunk| chunk.unwrap()).collect().await;
        assert!(seen.len() < 5000 - 4000 + 10, "{} chunks", seen.len());
        assert!(
            seen.concat().into_iter().eq(bytes()),
            "the bytes are in order"
        );
    }

    #[tokio::test]
    async fn small_stream_of_wrong_length_is_a_source_error() {
        let error = chunks(&[3]).promise(4).peek(10).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Source);
    }
}
