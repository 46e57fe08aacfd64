//! A source of objects that a test controls.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cenotaph::{
    ByteRange, Config, Engine, Error, ErrorKind, Fallback, FallbackListRequest, FallbackMeta,
    FallbackObject, FallbackPage, Namespace, ObjectId, Operator, OperatorFallback, Result,
    Timestamp,
};
use cenotaph_tests::store::{INLINE, quick};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// Payload that goes to the blob tier.
pub(super) const LARGE: usize = 3_000_000;
/// Payload that stays in the index.
pub(super) const SMALL: usize = INLINE / 2;

/// Moment at which a request to the source waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Before the source is read.
    BeforeRead,
    /// After the source was read, with the answer at hand.
    AfterRead,
}

type Gate = (Hold, oneshot::Sender<()>, oneshot::Receiver<()>);

/// Objects in memory, with faults.
pub(super) struct Source {
    pub(super) operator: Operator,
    inner: OperatorFallback,
    fails: AtomicBool,
    deadline: Mutex<Option<Timestamp>>,
    gate: Mutex<Option<Gate>>,
}

impl Source {
    pub(super) fn new() -> Arc<Self> {
        let operator = Operator::new(opendal::services::Memory::default()).unwrap();
        Arc::new(Self {
            inner: OperatorFallback::new(operator.clone()).named("the source"),
            operator,
            fails: AtomicBool::new(false),
            deadline: Mutex::default(),
            gate: Mutex::default(),
        })
    }

    /// Creates a source with these objects, each with its key as content.
    pub(super) async fn with(keys: &[&str]) -> Arc<Self> {
        let source = Self::new();
        for key in keys {
            source.write(key, key.as_bytes().to_vec()).await;
        }
        source
    }

    pub(super) async fn write(&self, key: &str, content: Vec<u8>) {
        self.operator.write(key, content).await.unwrap();
    }

    pub(super) async fn content(&self, key: &str) -> Vec<u8> {
        self.operator.read(key).await.unwrap().to_vec()
    }

    /// Makes all requests fail or work.
    pub(super) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// Sets the deadline of all objects.
    pub(super) fn expire(&self, deadline: Option<Timestamp>) {
        *self.deadline.lock().unwrap() = deadline;
    }

    /// Holds the next head or open. The receiver resolves when it has arrived; it continues when
    /// the sender is dropped.
    pub(super) fn hold(&self, hold: Hold) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (arrived, arrival) = oneshot::channel();
        let (release, released) = oneshot::channel();
        *self.gate.lock().unwrap() = Some((hold, arrived, released));
        (arrival, release)
    }

    async fn asked<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let gate = self.gate.lock().unwrap().take();
        let Some((hold, arrived, released)) = gate else {
            return self.check(answer).await;
        };
        if hold == Hold::AfterRead {
            let answer = self.check(answer).await;
            let _ = arrived.send(());
            let _ = released.await;
            return answer;
        }
        let _ = arrived.send(());
        let _ = released.await;
        self.check(answer).await
    }

    async fn check<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "get",
                "the source hangs",
            ));
        }
        answer.await
    }

    fn meta(&self, meta: FallbackMeta) -> FallbackMeta {
        FallbackMeta {
            expires_at: *self.deadline.lock().unwrap(),
            ..meta
        }
    }
}

impl Fallback for Source {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn head<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>> {
        async move {
            let found = self.asked(self.inner.head(id)).await?;
            Ok(found.map(|meta| self.meta(meta)))
        }
        .boxed()
    }

    fn open<'a>(
        &'a self,
        id: &'a ObjectId,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<FallbackObject>>> {
        async move {
            let found = self.asked(self.inner.open(id, range)).await?;
            Ok(found.map(|object| FallbackObject {
                meta: self.meta(object.meta),
                ..object
            }))
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>> {
        async move {
            let mut page = self.check(self.inner.list(request)).await?;
            for entry in &mut page.entries {
                entry.meta = entry.meta.take().map(|meta| self.meta(meta));
            }
            Ok(page)
        }
        .boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>> {
        self.inner.namespaces()
    }
}

/// Opens a store over the source.
pub(super) async fn open(directory: &Path, source: &Arc<Source>) -> Engine {
    open_with(directory, source, quick()).await
}

pub(super) async fn open_with(directory: &Path, source: &Arc<Source>, config: Config) -> Engine {
    let source: Arc<dyn Fallback> = source.clone();
    let builder = Engine::builder(directory).config(config);
    builder.fallback_shared(source).open().await.unwrap()
}

/// Returns the content of an object, `None` if it is absent.
pub(super) async fn read(engine: &Engine, key: &str) -> Option<Vec<u8>> {
    let object = engine.get(key).await.unwrap()?;
    Some(object.bytes().await.unwrap().to_vec())
}

/// Returns the version of an object: `None` if it is absent, `Some(None)` if only the fallback has
/// it.
pub(super) async fn version(engine: &Engine, key: &str) -> Option<Option<u64>> {
    let head = engine.head(key).await.unwrap()?;
    assert_eq!(head.version.is_some(), head.etag.is_some());
    Some(head.version.map(cenotaph::Version::get))
}

pub(super) fn is_conflict<T: std::fmt::Debug>(outcome: Result<T>) -> bool {
    let error = outcome.expect_err("the precondition does not hold");
    matches!(error.kind(), ErrorKind::Conflict { current: None })
}
