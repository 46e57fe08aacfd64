//! [`PayloadSource`]: the payload stream of a caller. A watched stream that is idle or panics ends
//! with an error.
//!
//! Guards that no caller holds a share of the engine forever, and that no caller's panic kills an
//! actor.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::Env;
use futures::StreamExt;
use futures::stream::BoxStream;

/// A payload as a stream of chunks of any size. An error ends the stream.
pub type PayloadStream =
    BoxStream<'static, Result<Bytes, Box<dyn std::error::Error + Send + Sync>>>;

/// A streamed payload with its promised length.
pub struct PayloadSource {
    /// The payload.
    pub stream: PayloadStream,
    /// Length in bytes, if known beforehand. A stream of another length fails with
    /// [`Source`](cenotaph_storage::ErrorKind::Source).
    pub bytes: Option<u64>,
}

impl PayloadSource {
    /// Returns the same payload with a watched stream. The stream ends with an error if it yields
    /// nothing for `idle` while it is awaited, or if it panics.
    pub(crate) fn watched(self, env: &Env, idle: Duration) -> Self {
        Self {
            stream: watched(env.clone(), self.stream, idle),
            ..self
        }
    }
}

fn watched(env: Env, stream: PayloadStream, idle: Duration) -> PayloadStream {
    // Sound: the stream is dropped after a panic and never polled again.
    let stream = AssertUnwindSafe(stream).catch_unwind();
    let chunks = futures::stream::unfold(Some((env, stream)), move |state| async move {
        let (env, mut stream) = state?;
        match env.deadline(idle, stream.next()).await {
            Some(Some(Ok(chunk @ Ok(_)))) => Some((chunk, Some((env, stream)))),
            Some(Some(Ok(Err(error)))) => Some((Err(error), None)),
            Some(Some(Err(panic))) => Some((
                Err(format!("the stream panicked: {}", message(&*panic)).into()),
                None,
            )),
            Some(None) => None,
            None => Some((
                Err(format!("the stream was idle for too long: idle={idle:?}").into()),
                None,
            )),
        }
    });
    chunks.boxed()
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    async fn end_of(stream: PayloadStream) -> (usize, Option<String>) {
        let source = PayloadSource {
            stream,
            bytes: None,
        };
        let watched = source.watched(&Env::real().unwrap(), Duration::from_millis(20));
        let mut chunks = 0;
        let mut error = None;
        for chunk in watched.stream.collect::<Vec<_>>().await {
            match chunk {
                Ok(_) => chunks += 1,
                Err(failed) => error = Some(failed.to_string()),
            }
        }
        (chunks, error)
    }

    fn two()
    -> impl stream::Stream<Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>> + Send
    {
        stream::iter([Ok(Bytes::from_static(b"a")), Ok(Bytes::from_static(b"b"))])
    }

    #[tokio::test]
    async fn ending_stream_is_passed_through() {
        assert_eq!(end_of(two().boxed()).await, (2, None));
    }

    #[tokio::test]
    async fn idle_stream_ends_with_an_error() {
        let (chunks, error) = end_of(two().chain(stream::pending()).boxed()).await;
        assert!(chunks == 2 && error.unwrap().contains("idle=20ms"));
    }

    #[tokio::test]
    async fn panic_ends_the_stream_with_an_error() {
        let panics = stream::once(async { panic!("out of {}", "luck") });
        let (chunks, error) = end_of(two().chain(panics).boxed()).await;
        assert!(chunks == 2 && error.unwrap().contains("out of luck"));
    }
}
