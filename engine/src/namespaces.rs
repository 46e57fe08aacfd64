//! Limits per namespace: their API, and the pacing of gets within them.
//!
//! The admission itself is in `cenotaph_actors::Namespaces`.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use cenotaph_actors::{NamespaceLimits, NamespacePermit};
use cenotaph_storage::{Namespace, ObjectMeta, OpenObject, Result};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::engine::Engine;
use crate::observe::Tier;

impl Engine {
    /// Sets the limits of a namespace from now on. [`NamespaceLimits::default`] removes all limits.
    ///
    /// The limits apply to exactly this namespace, not to namespaces with further scopes. They hold
    /// until the engine is closed and are not stored;
    /// [`Config::namespaces`](crate::Config::namespaces) contains the initial limits of each open.
    /// Operations in progress finish even under a stricter limit; streams continue at the new rate.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): a limit is zero. Nothing was changed.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// use cenotaph::{ErrorKind, Namespace, NamespaceLimits, ObjectId};
    ///
    /// let exports = Namespace::new("exports")?.with_scope("org", "17")?;
    /// let report = ObjectId::new(&exports, "report")?;
    /// let disabled = NamespaceLimits { disabled: true, ..Default::default() };
    /// engine.limit_namespace(&exports, disabled)?;
    /// assert_eq!(engine.put(&report, "figures").await.unwrap_err().kind(), ErrorKind::Disabled);
    ///
    /// let slow = NamespaceLimits { bytes_per_second: Some(10_000_000), ..Default::default() };
    /// engine.limit_namespace(&exports, slow)?;
    /// engine.put(&report, "figures").await?;
    /// # engine.close().await
    /// # }
    /// ```
    pub fn limit_namespace(&self, namespace: &Namespace, limits: NamespaceLimits) -> Result<()> {
        self.namespaces().set(namespace, limits)
    }

    /// Returns the present limits of a namespace.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// use cenotaph::{Config, Engine, Namespace};
    ///
    /// let json = r#"{ "namespaces": { "exports/org=17": { "operations_at_once": 4 } } }"#;
    /// let config: Config = serde_json::from_str(json).unwrap();
    /// let engine = Engine::builder(directory.path()).config(config).open().await?;
    /// let exports = Namespace::new("exports")?;
    /// assert_eq!(engine.namespace_limits(&exports).operations_at_once, None);
    /// let scoped = exports.with_scope("org", "17")?;
    /// assert_eq!(engine.namespace_limits(&scoped).operations_at_once, Some(4));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn namespace_limits(&self, namespace: &Namespace) -> NamespaceLimits {
        self.namespaces().get(namespace)
    }
}

/// An open object whose bytes are paced by the limits of its namespace.
///
/// The permit of the namespace is held until the end of the bytes or the drop of this value. A
/// chunk that waits for its turn is stored in `next`, so that dropping the waiting future loses no
/// bytes.
#[derive(Debug)]
pub(crate) struct Paced {
    open: OpenObject,
    permit: Option<NamespacePermit>,
    next: Option<Bytes>,
    /// Bytes of the next chunk that are not yet charged.
    owed: u64,
    tier: Tier,
}

impl Paced {
    /// Creates the paced object. Inline bytes are charged at once; bytes of a blob are charged as
    /// they flow.
    pub(crate) fn new(open: OpenObject, permit: NamespacePermit) -> Result<Self> {
        let range = open.range();
        // Inline bytes are already in memory, so they are charged at once.
        let permit = if open.is_inline() {
            permit
                .charge(range.end - range.start)
                .map_err(|error| error.with_id(&open.head().id))?
        } else {
            permit
        };
        let tier = if open.is_inline() {
            Tier::Inline
        } else {
            Tier::Blob
        };
        Ok(Self {
            open,
            permit: Some(permit),
            next: None,
            owed: 0,
            tier,
        })
    }

    pub(crate) fn head(&self) -> &ObjectMeta {
        self.open.head()
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.open.is_inline()
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.open.range()
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.next.is_none() {
            let streams = !self.open.is_inline();
            match self.open.next().await {
                Ok(Some(chunk)) => {
                    // Inline bytes were charged when the object was opened.
                    self.owed = if streams { chunk.len() as u64 } else { 0 };
                    self.next = Some(chunk);
                }
                end @ (Ok(None) | Err(_)) => {
                    // The get ends here, even if the caller keeps the object.
                    self.permit = None;
                    return end;
                }
            }
        }
        // This await may be the last. The chunk is in `next`, and the next call resumes the wait
        // with the bytes still owed.
        if let Some(permit) = &self.permit {
            permit.pace(&mut self.owed).await;
        }
        let next = self.next.take();
        self.tier
            .given(next.as_ref().map_or(0, |chunk| chunk.len() as u64));
        Ok(next)
    }

    pub(crate) fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        futures::stream::try_unfold(self, |mut paced| async move {
            Ok(paced.next().await?.map(|chunk| (chunk, paced)))
        })
        .boxed()
    }

    /// Returns the remaining bytes as a single buffer.
    pub(crate) async fn bytes(mut self) -> Result<Bytes> {
        let is_limited = self
            .permit
            .as_ref()
            .is_some_and(NamespacePermit::is_limited);
        // Without a rate to keep, all bytes are read at once; but not if a chunk was already taken
        // from the stream.
        if self.open.is_inline() || !is_limited && self.next.is_none() {
            let tier = self.tier;
            let bytes = self.open.bytes(usize::MAX).await?;
            tier.given(bytes.len() as u64);
            return Ok(bytes);
        }
        let range = self.open.range();
        let mut all =
            BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
        while let Some(chunk) = self.next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}
