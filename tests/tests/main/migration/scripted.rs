//! A fallback that fails, or runs code, at the open of an object: [`Scripted`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cenotaph::{
    ByteRange, Error, ErrorKind, Fallback, FallbackListRequest, FallbackMeta, FallbackObject,
    FallbackPage, Namespace, ObjectId, Result,
};
use futures::FutureExt;
use futures::future::BoxFuture;

type Action = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Behaviour of one open.
#[derive(Clone)]
pub(super) enum Step {
    /// Fails.
    Fail,
    /// Does not find the object.
    Missing,
    /// Runs the action, then opens the object.
    Before(Action),
    /// Opens the object, then runs the action.
    Then(Action),
}

impl Step {
    pub(super) fn before<F: Future<Output = ()> + Send + 'static>(
        action: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self::Before(Arc::new(move || action().boxed()))
    }

    pub(super) fn then<F: Future<Output = ()> + Send + 'static>(
        action: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self::Then(Arc::new(move || action().boxed()))
    }
}

/// Wrapper of another fallback. Clones share the script.
#[derive(Clone)]
pub(super) struct Scripted(Arc<Inner>);

struct Inner {
    inner: Box<dyn Fallback>,
    steps: Mutex<BTreeMap<String, VecDeque<Step>>>,
    opened: AtomicU64,
    /// Listings that succeed before one fails.
    lists_left: Mutex<Option<u64>>,
}

impl Scripted {
    pub(super) fn new(inner: impl Fallback) -> Self {
        Self(Arc::new(Inner {
            inner: Box::new(inner),
            steps: Mutex::default(),
            opened: AtomicU64::new(0),
            lists_left: Mutex::default(),
        }))
    }

    /// Sets the behaviour of the next opens of an object.
    pub(super) fn on_open(&self, key: &str, steps: Vec<Step>) {
        self.0
            .steps
            .lock()
            .unwrap()
            .insert(key.to_owned(), steps.into());
    }

    /// Fails a single listing, after this many that succeed.
    pub(super) fn fail_list(&self, after: u64) {
        *self.0.lists_left.lock().unwrap() = Some(after);
    }

    /// Returns the number of opens.
    pub(super) fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }
}

impl Fallback for Scripted {
    fn describe(&self) -> String {
        self.0.inner.describe()
    }

    fn head<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>> {
        self.0.inner.head(id)
    }

    fn open<'a>(
        &'a self,
        id: &'a ObjectId,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<FallbackObject>>> {
        async move {
            self.0.opened.fetch_add(1, Ordering::Relaxed);
            let step = {
                let mut steps = self.0.steps.lock().unwrap();
                steps.get_mut(id.key()).and_then(VecDeque::pop_front)
            };
            match step {
                Some(Step::Fail) => Err(Error::new(ErrorKind::Unavailable, "get", "scripted")),
                Some(Step::Missing) => Ok(None),
                Some(Step::Before(action)) => {
                    action().await;
                    self.0.inner.open(id, range).await
                }
                Some(Step::Then(action)) => {
                    let object = self.0.inner.open(id, range).await;
                    action().await;
                    object
                }
                None => self.0.inner.open(id, range).await,
            }
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>> {
        let fails = {
            let mut left = self.0.lists_left.lock().unwrap();
            match &mut *left {
                Some(0) => left.take().is_some(),
                Some(count) => {
                    *count -= 1;
                    false
                }
                None => false,
            }
        };
        if fails {
            let error = Error::new(ErrorKind::Unavailable, "list", "scripted");
            return std::future::ready(Err(error)).boxed();
        }
        self.0.inner.list(request)
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>> {
        self.0.inner.namespaces()
    }
}
