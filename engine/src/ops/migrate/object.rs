//! The move of one object of a migration.
//!
//! ```text
//! bulk turn ──> adopt: in the shard, only if the store neither has nor had the object
//!                 moved ──> read back, if asked ──> delete from the source, if asked ──> pace
//!                 ours, live ──> the same without a move: an earlier run may have ended in between
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenotaph_actors::AdoptionOutcome;
use cenotaph_storage::{ByteRange, Error, ErrorKind, Namespace, ObjectId, Result};

use super::MigrationOptions;
use crate::engine::Engine;

/// Outcome of the move of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveOutcome {
    Moved { bytes: u64 },
    Kept,
}

/// Moves objects, and keeps the rate.
pub(super) struct ObjectMover {
    engine: Engine,
    options: MigrationOptions,
    begun: Duration,
    bytes: AtomicU64,
}

impl ObjectMover {
    pub(super) fn new(engine: &Engine, options: &MigrationOptions) -> Self {
        Self {
            engine: engine.clone(),
            options: options.clone(),
            begun: engine.env().monotonic(),
            bytes: AtomicU64::new(0),
        }
    }

    /// Moves the object with this key. Returns the key, too.
    pub(super) async fn move_key(
        self: Arc<Self>,
        namespace: Namespace,
        key: String,
    ) -> (String, Result<MoveOutcome>) {
        let outcome = match ObjectId::new(&namespace, &key) {
            Ok(id) => self.move_object(&id).await,
            Err(error) => Err(error),
        };
        (key, outcome)
    }

    /// Moves an object.
    ///
    /// # Errors
    /// Those of the fallback and of the store. The object counts as failed.
    async fn move_object(&self, id: &ObjectId) -> Result<MoveOutcome> {
        let tiered = self.engine.tiered();
        let _turn = tiered.bulk_turn().await?;
        if self.options.dry_run {
            return Ok(match tiered.adoptable(id).await? {
                Some(bytes) => MoveOutcome::Moved { bytes },
                None => MoveOutcome::Kept,
            });
        }
        match tiered.adopt(id, true).await? {
            AdoptionOutcome::Moved { bytes, .. } => {
                self.finish(id, self.options.verify).await?;
                self.pace(bytes).await;
                Ok(MoveOutcome::Moved { bytes })
            }
            AdoptionOutcome::Ours => {
                self.finish(id, false).await?;
                Ok(MoveOutcome::Kept)
            }
            AdoptionOutcome::Expired => Ok(MoveOutcome::Kept),
            AdoptionOutcome::Missing => {
                let message = "the source lists the object but does not find it";
                let error = Error::new(ErrorKind::Unavailable, "migrate", message);
                Err(error.with_id(id))
            }
        }
    }

    /// Verifies the object of the store, and deletes it from the source, as far as asked.
    async fn finish(&self, id: &ObjectId, verify: bool) -> Result<()> {
        let removal = self.options.removal.as_ref();
        if removal.is_none() && !verify {
            return Ok(());
        }
        let is_present = self.read_back(id).await?;
        if let Some(source) = removal
            && is_present
        {
            source.remove(id).await?;
        }
        Ok(())
    }

    /// Reads the object of the store to its end, which verifies its checksums. Returns whether the
    /// store has the object.
    async fn read_back(&self, id: &ObjectId) -> Result<bool> {
        let Some(mut object) = self.engine.reads().open(id, ByteRange::Full).await? else {
            return Ok(false);
        };
        // Only objects of the store have a version.
        if object.head().version.is_none() {
            return Ok(false);
        }
        while object.next().await?.is_some() {}
        Ok(true)
    }

    /// Waits until the moved bytes are within the rate.
    async fn pace(&self, bytes: u64) {
        let moved = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Some(rate) = self.options.bytes_per_second else {
            return;
        };
        let env = self.engine.env();
        let due = Duration::from_secs_f64(moved as f64 / rate as f64);
        let elapsed = env.monotonic().saturating_sub(self.begun);
        if due > elapsed {
            env.sleep(due - elapsed).await;
        }
    }
}
