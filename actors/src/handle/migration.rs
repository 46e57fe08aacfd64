//! The durable steps of a migration from the fallback, on [`Tiered`].
//!
//! Guards "the seal is final": the sealed record is durable before the fallback counts as sealed,
//! and no mask is dropped before that.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cenotaph_storage::records::{FallbackRecord, FallbackState};
use cenotaph_storage::{Error, ErrorKind, Result};

use crate::context::SharedContext;
use crate::handle::Tiered;

/// The only migration of an engine. Dropping it permits another one.
#[must_use = "another migration may begin once this is dropped"]
pub struct RunningMigration(SharedContext);

impl Drop for RunningMigration {
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
        Ok(RunningMigration(Arc::clone(context)))
    }

    /// Records the progress of a migration, durably.
    ///
    /// # Errors
    /// Those of a commit.
    pub async fn record_migration(
        &self,
        _running: &RunningMigration,
        record: &FallbackRecord,
    ) -> Result<()> {
        self.context().health.check("migrate")?;
        record.write(&self.context().index).await
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
        self.record_migration(running, &sealed).await?;
        if let Some(fallback) = &self.context().fallback {
            fallback.attached.seal();
        }
        Ok(sealed)
    }
}
