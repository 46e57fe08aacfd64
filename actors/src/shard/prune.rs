//! The drop of old last versions: a shard decides about its objects, and raises the base version of
//! the store.
//!
//! ```text
//! 1 read each object: pending writes, then the index
//! 2 lock the base version
//! 3 decide: the old last versions, and a base version that is at least as high
//! 4 raise the base version in memory, record and submit the batch, unlock
//! ```
//!
//! Guards "a version is never reused" (docs/adr/0027). Only the shard of an object drops its last
//! version, so that a put or delete of the object comes wholly before or after the drop. The lock
//! keeps the batches of all shards in the order of their base versions.

use cenotaph_storage::decide;
use cenotaph_storage::index::Table;
use cenotaph_storage::records::BASE_VERSION_KEY;
use cenotaph_storage::{ErrorKind, ObjectId, Timestamp};

use super::{DecisionReader, Shard};
use crate::context::messages::ShardMessage;
use crate::runtime::reply::ReplyCallback;
use crate::shard::pending_writes::PendingWrites;

impl Shard {
    /// Drops the last versions of these objects that were deleted at or before `cutoff`.
    pub(super) async fn prune(
        &self,
        pending: &mut PendingWrites,
        objects: Vec<ObjectId>,
        cutoff: Timestamp,
        (reply, attempt): (ReplyCallback<u64>, u32),
    ) {
        // A last version masks an object of the fallback (docs/adr/0029). Checked here, too: a
        // request may have been on its way.
        if self.context.is_fallback_open() {
            return reply(Ok(0));
        }
        let mut reader = DecisionReader::new(&self.context, pending);
        let mut states = Vec::with_capacity(objects.len());
        for object in &objects {
            match reader.row_state(object).await {
                Ok(state) => states.push((object.clone(), state)),
                // A scrub handles unreadable entries: they must not hold up the others.
                Err(error) if is_unreadable(error.kind()) => {}
                Err(error) => return reply(Err(error)),
            }
        }
        let mut reads = reader.into_reads();
        let now = self.context.env.steady_now();
        // No `.await` from here on: the lock is held until the batch is submitted.
        let mut base = self.context.base.lock();
        reads.note(Table::Meta, BASE_VERSION_KEY, base.value());
        let (plan, raised) = decide::prune(states, base.get(now), cutoff);
        if !plan.batch.is_empty() {
            // Before the submission: a later decision must see a base version at least as high.
            base.set(raised);
        }
        let again = self.again(attempt, move |reply| ShardMessage::Prune {
            objects,
            cutoff,
            reply,
        });
        self.carry_out(pending, Ok(plan.based_on(reads)), None, (reply, again));
    }
}

fn is_unreadable(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::UnknownFormat)
}
