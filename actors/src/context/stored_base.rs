//! [`StoredBase`]: the base version of the store in memory, as all submitted batches leave its entry.
//!
//! ```text
//! entry at the open   version in memory
//! ------------------- -----------------------------------------------------------------
//! absent              0
//! readable            the stored version
//! damaged             a version that no object has reached; stored by the next raise
//! ```
//!
//! Guards "a version is never reused" (docs/adr/0027): the memory is raised before the batch that
//! drops last versions is submitted, so that no decision about a dropped object sees an earlier
//! base version. A decision costs no read of the index for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cenotaph_storage::decide::{ReadSet, ReadValue, unreached};
use cenotaph_storage::index::{Batch, CommitError, Index, Table};
use cenotaph_storage::records::{BASE_VERSION_KEY, BaseVersion};
use cenotaph_storage::{Error, ErrorKind, Result, Timestamp, Version};

use tokio::sync::oneshot;

use crate::context::Context;

/// The base version of the store.
#[derive(Default)]
pub(crate) struct StoredBase {
    state: Mutex<State>,
    /// True if another member of a shared index may have raised it.
    is_doubtful: AtomicBool,
}

#[derive(Clone, Copy, Default)]
struct State {
    base: Option<BaseVersion>,
    is_damaged: bool,
}

impl State {
    fn value(&self) -> ReadValue {
        match self.base {
            None => ReadValue::Absent,
            Some(_) if self.is_damaged => ReadValue::Unreadable,
            Some(base) => ReadValue::Value(base.encode()),
        }
    }
}

impl StoredBase {
    /// Reads the base version of an index.
    ///
    /// # Errors
    /// [`UnknownFormat`](ErrorKind::UnknownFormat) if a later build wrote the entry, and the errors
    /// of reading the index. A damaged entry is not an error.
    pub(crate) async fn load(index: &dyn Index, now: Timestamp) -> Result<Self> {
        let state = Self::stored(index, now).await?;
        Ok(Self {
            state: Mutex::new(state),
            is_doubtful: AtomicBool::new(false),
        })
    }

    /// Notes that another member may have raised the base version: a decision that rests on it was not
    /// committed.
    pub(crate) fn doubt(&self) {
        self.is_doubtful.store(true, Ordering::Release);
    }

    /// Reads the base version again if it is doubtful. A decision that rests on a version that has
    /// become old does not commit.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) async fn reload(&self, context: &Context) -> Result<()> {
        if !self.is_doubtful.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        match Self::stored(&*context.index, context.env.steady_now()).await {
            Ok(state) => {
                *self.state() = state;
                Ok(())
            }
            Err(error) => {
                self.doubt();
                Err(error)
            }
        }
    }

    async fn stored(index: &dyn Index, now: Timestamp) -> Result<State> {
        let read = index.get(Table::Meta, BASE_VERSION_KEY).await;
        let decoded = read.and_then(|value| value.as_ref().map(BaseVersion::decode).transpose());
        match decoded {
            Ok(base) => Ok(State {
                base,
                is_damaged: false,
            }),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(
                    %error,
                    "the base version can't be read: new objects start at a version that was never \
                     reached; a scrub with repairs stores it again"
                );
                Ok(State {
                    base: Some(BaseVersion::first(now).raised(unreached(now))),
                    is_damaged: true,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the version behind which a new object starts, and the value that a read of the entry
    /// returns once all submitted batches are durable.
    pub(crate) fn read(&self) -> (Version, ReadValue) {
        let state = *self.state();
        let version = state.base.map_or(Version::NONE, |base| base.version);
        (version, state.value())
    }

    /// Returns the stored base version, if there is one.
    pub(crate) fn get(&self) -> Option<BaseVersion> {
        self.state().base
    }

    /// Locks the base version. The lock is held until the batch that raises it is submitted, so that
    /// later batches never lower it.
    pub(crate) fn lock(&self) -> LockedBase<'_> {
        LockedBase(self.state())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lock of the base version, which can be raised.
pub(crate) struct LockedBase<'a>(MutexGuard<'a, State>);

impl LockedBase<'_> {
    /// Returns the base version, or that of a store from which nothing was dropped.
    pub(crate) fn get(&self, now: Timestamp) -> BaseVersion {
        self.0.base.unwrap_or(BaseVersion::first(now))
    }

    /// Returns the value that a read of the entry returns.
    pub(crate) fn value(&self) -> ReadValue {
        self.0.value()
    }

    /// Sets the base version that the next batch stores.
    pub(crate) fn set(&mut self, base: BaseVersion) {
        let is_lowered = self.0.base.is_some_and(|last| last.version > base.version);
        assert!(!is_lowered, "the base version is never lowered");
        *self.0 = State {
            base: Some(base),
            is_damaged: false,
        };
    }
}

impl Context {
    /// Stores the base version as it is in memory, and returns it once it is durable.
    ///
    /// # Errors
    /// [`Overloaded`](ErrorKind::Overloaded) if other members raise it all the time; otherwise the
    /// errors of the commit.
    pub(crate) async fn store_base(&self) -> Result<BaseVersion> {
        for _ in 0..=self.limits.members.attempts_max {
            match self.try_store_base().await {
                Ok(base) => return Ok(base),
                // Another member has stored a base version, which may be higher.
                Err(CommitError::Changed) => {
                    self.base.doubt();
                    self.base.reload(self).await?;
                }
                Err(error) => {
                    self.fail_if_poisoned();
                    return Err(error.into_error());
                }
            }
        }
        let message = "other members change the base version all the time";
        Err(Error::new(ErrorKind::Overloaded, "commit", message))
    }

    async fn try_store_base(&self) -> Result<BaseVersion, CommitError> {
        let (sender, answer) = oneshot::channel();
        {
            let mut locked = self.base.lock();
            let mut reads = ReadSet::default();
            reads.note(Table::Meta, BASE_VERSION_KEY, locked.value());
            let base = locked.get(self.env.steady_now());
            locked.set(base);
            let mut batch = Batch::new();
            batch.put(Table::Meta, BASE_VERSION_KEY, base.encode());
            reads.require(&mut batch);
            // The send fails if the caller has dropped the future.
            let completion = move |outcome: Result<(), CommitError>| {
                drop(sender.send(outcome.map(|()| base)));
            };
            self.index.submit(batch, Box::new(completion));
        }
        answer.await.unwrap_or_else(|_| {
            let message = "the index dropped a completion";
            let error = Error::new(ErrorKind::Indeterminate, "commit", message);
            Err(CommitError::Unknown(error))
        })
    }
}
