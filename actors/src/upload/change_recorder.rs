//! The change of one upload, and the revisions that it names: [`ChangeRecorder`].
//!
//! Guards I1: whoever gets a revision to write gets it after the change that names it is durable.
//! Some more are named whenever those that are there are used up, twice as many each time: a long
//! stream costs few commits, and one that promises much and breaks off leaves few orphans. A
//! revision that is named and never written is an orphan without a blob, which counts as deleted.

use cenotaph_storage::decide::record;
use cenotaph_storage::rows::Change;
use cenotaph_storage::{ObjectId, OperationId, Result, RevisionId};

use super::not_named;
use crate::runtime::context::SharedContext;
use crate::runtime::live_writes::WriteGuard;

/// Fewest revisions that are named at a time, once more than one are needed.
const MORE: usize = 8;

/// See the head of this file.
pub(super) struct ChangeRecorder {
    context: SharedContext,
    id: ObjectId,
    operation: OperationId,
    owner: WriteGuard,
    revisions: Vec<RevisionId>,
    used: usize,
    /// How many will be needed at the most.
    most: usize,
}

impl ChangeRecorder {
    /// Records a change that names its first fresh revision (I4), of so many at the most.
    pub(super) async fn open(
        context: SharedContext,
        id: ObjectId,
        operation: OperationId,
        most: usize,
    ) -> Result<Self> {
        let owner = context.owners.claim(operation);
        let mut recorder = Self {
            context,
            id,
            operation,
            owner,
            revisions: Vec::new(),
            used: 0,
            most,
        };
        recorder.name(1).await?;
        Ok(recorder)
    }

    /// The next revision to write.
    pub(super) async fn next(&mut self) -> Result<RevisionId> {
        if self.used == self.revisions.len() {
            self.name(self.revisions.len().max(MORE)).await?;
        }
        self.used += 1;
        Ok(self.revisions[self.used - 1])
    }

    /// Who holds this keeps the change alive.
    pub(super) fn owner(&self) -> WriteGuard {
        self.owner.clone()
    }

    async fn name(&mut self, more: usize) -> Result<()> {
        let more = more
            .min(self.most.saturating_sub(self.revisions.len()))
            .max(1);
        self.revisions
            .extend((0..more).map(|_| self.context.env.revision_id()));
        self.record().await
    }

    /// The commit itself keeps the owner alive: a change that becomes durable after its upload has
    /// died still finds recovery awake.
    async fn record(&self) -> Result<()> {
        let change = Change {
            epoch: self.context.epoch,
            started: self.context.env.steady_now(),
            object: self.id.clone(),
            revisions: self.revisions.clone(),
        };
        let batch = record(self.operation, &change);
        self.context
            .admit(&batch)
            .map_err(|error| error.with_id(&self.id))?;
        let recorded = self.context.commit(batch, self.owner.clone()).await;
        recorded.map_err(|error| not_named(&error, &self.id))
    }
}
