//! The durable steps of a migration from the fallback, on [`Tiered`].
//!
//! Guards "the seal is final": the sealed record is durable before the fallback counts as sealed,
//! and no mask is dropped before that. The completion of the commit seals the fallback and holds the
//! only permission to migrate, so that a caller may drop its future at any time: no other migration
//! can then write an older record over the seal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenotaph_storage::fallback::AttachedFallback;
use cenotaph_storage::records::{FallbackRecord, FallbackState};
use cenotaph_storage::{Error, ErrorKind, Result};

use crate::context::SharedContext;
use crate::handle::Tiered;

/// The only migration of an engine. Dropping the last clone permits another one.
#[must_use = "another migration may begin once this is dropped"]
#[derive(Clone)]
pub struct RunningMigration {
    _turn: Arc<Turn>,
}

struct Turn(SharedContext);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.is_migrating.store(false, Ordering::Release);
    }
}

impl Tiered {
    /// Begins a migration, unless another one is running.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if another one is running or the engine is read-only.
    pub fn begin_migration(&self) -> Result<RunningMigration> {
        self.check_writable("migrate")?;
        let context = self.context();
        if context.is_migrating.swap(true, Ordering::AcqRel) {
            let message = "another migration of this engine is running";
            return Err(Error::new(ErrorKind::Invalid, "migrate", message));
        }
        Ok(RunningMigration {
            _turn: Arc::new(Turn(Arc::clone(context))),
        })
    }

    /// Records the progress of a migration, durably.
    ///
    /// # Errors
    /// Those of a commit.
    pub async fn record_migration(
        &self,
        running: &RunningMigration,
        record: &FallbackRecord,
    ) -> Result<()> {
        let context = self.context();
        context.health.check("migrate")?;
        // Dropped before the reply: the caller may begin another migration at once.
        let running = running.clone();
        context
            .commit_then(record.batch(), move || drop(running), ())
            .await
    }

    /// Seals the fallback: it is never read again, and last versions are no masks any more.
    ///
    /// # Errors
    /// Those of a commit. After [`ErrorKind::Indeterminate`] the next opening shows whether the
    /// fallback is sealed.
    pub async fn seal_fallback(
        &self,
        running: &RunningMigration,
        record: &FallbackRecord,
    ) -> Result<FallbackRecord> {
        let sealed = FallbackRecord {
            state: FallbackState::Sealed,
            ..record.clone()
        };
        let context = self.context();
        context.health.check("migrate")?;
        let attached = context.fallback.as_ref();
        let attached = attached.map(|fallback| fallback.attached.clone());
        let running = running.clone();
        let sealing = Arc::clone(context);
        let seal = move || {
            attached.iter().for_each(AttachedFallback::seal);
            // The pruner did not hurry while it could drop nothing.
            sealing.wake_pruner();
            drop(running);
        };
        context.commit_then(sealed.batch(), seal, ()).await?;
        Ok(sealed)
    }
}
