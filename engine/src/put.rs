//! [`Put`]: how an object is written.

use std::collections::BTreeMap;
use std::future::IntoFuture;

use cenotaph_storage::rows::Attributes;
use cenotaph_storage::swap::Written;
use cenotaph_storage::{ObjectId, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::Instrument;

use crate::body::{Body, Peeked};
use crate::engine::Engine;

/// A put in preparation: `.await` it to run it. See [`Engine::put`].
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
/// let written = engine.put("cats/tom.jpg", vec![0xff, 0xd8]).content_type("image/jpeg").custom("album", "pets").await?;
/// assert_eq!(written.outcome, cenotaph::Outcome::Applied);
/// let head = engine.head("cats/tom.jpg").await?.expect("it was just put");
/// assert_eq!(head.metadata.attributes.custom["album"], "pets");
/// assert_eq!(Some(head.etag), written.etag);
/// # engine.close().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a put does nothing until it is awaited"]
pub struct Put {
    engine: Engine,
    id: Result<ObjectId>,
    body: Body,
    attributes: Attributes,
}

impl Put {
    pub(crate) fn new(engine: Engine, id: Result<ObjectId>, body: Body) -> Self {
        Self { engine, id, body, attributes: Attributes::default() }
    }

    /// The media type, such as `image/png`.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.attributes.content_type = Some(content_type.into());
        self
    }

    /// The encoding of the payload as given, such as `zstd`. It is stored, not applied.
    pub fn compression(mut self, compression: impl Into<String>) -> Self {
        self.attributes.compression = Some(compression.into());
        self
    }

    /// Where the object comes from.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.attributes.origin = Some(origin.into());
        self
    }

    /// The name a person would save it under.
    pub fn filename(mut self, filename: impl Into<String>) -> Self {
        self.attributes.filename = Some(filename.into());
        self
    }

    /// One more custom entry; an earlier one of the same name is replaced.
    pub fn custom(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.custom.insert(name.into(), value.into());
        self
    }

    /// All custom entries at once, replacing earlier ones.
    pub fn custom_map(mut self, custom: BTreeMap<String, String>) -> Self {
        self.attributes.custom = custom;
        self
    }

    async fn run(self) -> Result<Written> {
        let id = self.id?;
        self.attributes.validate().map_err(|error| error.with_id(&id))?;
        let (tiered, limit) = (self.engine.tiered(), self.engine.config().inline_bytes_max);
        let permit = tiered.admit(self.body.peek_bytes(limit)).map_err(|error| error.with_id(&id))?;
        let within = self.engine.namespaces().begin_on(&id, "put")?;
        match self.body.peek(limit).await.map_err(|error| error.with_id(&id))? {
            Peeked::Inline(payload) => {
                let _within = within.charge(payload.len() as u64).map_err(|error| error.with_id(&id))?;
                tiered.put_inline(id, payload, self.attributes, permit).await
            }
            Peeked::Large(source) => tiered.put_stream(id, within.paced(source), self.attributes, permit).await,
        }
    }
}

impl IntoFuture for Put {
    type Output = Result<Written>;
    type IntoFuture = BoxFuture<'static, Result<Written>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = tracing::debug_span!("put", object = self.id.as_ref().ok().map(tracing::field::display));
        self.run().instrument(span).boxed()
    }
}
