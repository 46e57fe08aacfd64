//! [`ChangeRecorder`]: the change of an upload, and the revisions that it names.
//!
//! Guards I1: a revision is returned only after the change that names it is durable. Revisions are
//! named in batches, each of which doubles their number. A long stream thus costs few commits, and
//! a stream that breaks off leaves few orphans. A named revision that is never written is an orphan
//! without a blob, which counts as deleted.
//!
//! A member of a shared index that was paused for too long finishes blobs whose change others have
//! fenced and swept meanwhile. It deletes them itself (I5).

use cenotaph_storage::decide::{record, revision_key};
use cenotaph_storage::index::Table;
use cenotaph_storage::records::Change;
use cenotaph_storage::{Error, ErrorKind, ObjectId, OperationId, Result, RevisionId};

use futures::stream::{self, StreamExt};

use super::nothing_named;
use crate::context::SharedContext;
use crate::runtime::live_writes::WriteGuard;
use crate::runtime::restart_policy::backoff;

/// Minimum number of revisions that are named at a time after the first.
const MORE: usize = 8;

/// Maximum number of attempts to delete a blob that was finished too late. After them only a scrub
/// finds it.
const DELETE_ATTEMPTS: u32 = 8;

/// Number of looks at an orphan whose settlement may be under way.
const ORPHAN_LOOKS: u32 = 4;

/// Recorder of the change of an upload. It keeps the change alive and names fresh revisions in it.
pub(super) struct ChangeRecorder {
    context: SharedContext,
    id: ObjectId,
    operation: OperationId,
    guard: WriteGuard,
    revisions: Vec<RevisionId>,
    used: usize,
    /// Maximum number of revisions.
    most: usize,
}

impl ChangeRecorder {
    /// Records a change that names its first fresh revision (I4), and `most` revisions at most.
    pub(super) async fn open(
        context: SharedContext,
        id: ObjectId,
        operation: OperationId,
        most: usize,
    ) -> Result<Self> {
        context.check_id(&id)?;
        // Claimed before the change is recorded: recovery must never find it without an owner.
        let guard = context.live_writes.claim(operation);
        let mut recorder = Self {
            context,
            id,
            operation,
            guard,
            revisions: Vec::new(),
            used: 0,
            most,
        };
        recorder.name(1).await?;
        Ok(recorder)
    }

    /// Returns the next revision to write.
    pub(super) async fn next(&mut self) -> Result<RevisionId> {
        if self.used == self.revisions.len() {
            self.name(self.revisions.len().max(MORE)).await?;
        }
        self.used += 1;
        Ok(self.revisions[self.used - 1])
    }

    /// Returns a guard that keeps the change alive.
    pub(super) fn guard(&self) -> WriteGuard {
        self.guard.clone()
    }

    async fn name(&mut self, more: usize) -> Result<()> {
        let more = more
            // Revisions beyond the need would be orphans. At least one is named, or the stream
            // could not go on.
            .min(self.most.saturating_sub(self.revisions.len()))
            .max(1);
        let tier = self.context.blobs.number();
        let fresh = |_| self.context.env.revision_id().in_tier(tier);
        self.revisions.extend((0..more).map(fresh));
        self.record().await
    }

    /// Commits the change with all revisions named so far.
    async fn record(&self) -> Result<()> {
        let change = Change {
            epoch: self.context.epoch,
            started: self.context.env.steady_now(),
            object: self.id.clone(),
            revisions: self.revisions.clone(),
        };
        let batch = record(self.operation, &change);
        // A full disk is reported before any byte goes out.
        self.context
            .admit(&batch)
            .map_err(|error| error.with_id(&self.id))?;
        // The commit holds a guard: if the upload dies meanwhile, recovery is woken after the
        // change is durable.
        let recorded = self.context.commit(batch, self.guard.clone()).await;
        recorded.map_err(|error| nothing_named(&error, &self.id))
    }
}

impl Drop for ChangeRecorder {
    fn drop(&mut self) {
        if !self.context.is_declared_dead() {
            return;
        }
        let context = self.context.clone();
        // The caller may close the engine as soon as its put has failed.
        let under_way = context.leftovers.begin();
        let (id, operation) = (self.id.clone(), self.operation);
        let mut revisions = std::mem::take(&mut self.revisions);
        // No blob of the others was begun.
        revisions.truncate(self.used);
        self.context.env.spawn(async move {
            let deletions = revisions
                .into_iter()
                .map(|revision| delete_patiently(&context, &id, operation, revision));
            // Some at once: one that hangs must not keep the others from their time before a close.
            let at_once = context.limits.sweep.deletes_at_once.max(1);
            let deletions = stream::iter(deletions).buffer_unordered(at_once);
            deletions.collect::<()>().await;
            drop(under_way);
        });
    }
}

/// Deletes the blob of such a revision, and repeats that while it fails.
async fn delete_patiently(
    context: &SharedContext,
    id: &ObjectId,
    operation: OperationId,
    revision: RevisionId,
) {
    let (least, most) = (
        context.limits.sweep.backoff_min,
        context.limits.sweep.backoff_max,
    );
    for attempt in 0..DELETE_ATTEMPTS {
        match delete_swept(context, id, operation, revision).await {
            Ok(true) => return,
            // Another member is about to settle the orphan, or to delete it later.
            Ok(false) if attempt >= ORPHAN_LOOKS => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%revision, %error, "failed to delete a blob that no member needs");
                if error.kind() == ErrorKind::Closed {
                    return;
                }
            }
        }
        context.env.sleep(backoff(least, most, attempt)).await;
    }
}

/// Deletes the blob of a revision that the sweeper of another member has deleted before this member
/// finished it. Returns `false` if the revision is still an orphan: its deletion may be before the blob
/// was finished, and its settlement under way.
async fn delete_swept(
    context: &SharedContext,
    id: &ObjectId,
    operation: OperationId,
    revision: RevisionId,
) -> Result<bool> {
    let entries = [
        (Table::Changes, operation.as_bytes()),
        // Every row and part that names a revision has its checksums beside it.
        (Table::Payloads, revision.as_bytes()),
    ];
    // A change without any of them was settled as a whole, and this member can record it no more.
    let snapshot = context.index.snapshot()?;
    for (table, key) in entries {
        if snapshot.get(table, key).await?.is_some() {
            return Ok(true);
        }
    }
    let orphan = snapshot.get(Table::Orphans, revision.as_bytes()).await?;
    if orphan.is_some() {
        return Ok(false);
    }
    context.blobs.check_owner().await?;
    // A close waits for the deletion: a request that hangs must leave time for another one.
    let patience = context.limits.close_timeout / 4;
    let key = revision_key(id, revision);
    let deleted = context.env.deadline(patience, context.blobs.delete(&key));
    deleted.await.unwrap_or_else(|| {
        let message = "the blob tier did not answer in time";
        Err(Error::new(ErrorKind::Unavailable, "delete", message))
    })?;
    Ok(true)
}
