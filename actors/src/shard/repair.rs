//! Repairs: a shard confirms a finding of a scrub on the newest state, and repairs it in the same
//! turn (I3).

use cenotaph_storage::decide::{Plan, Repair, UploadRepair};
use cenotaph_storage::{ObjectId, Result, UploadId};

use super::again::Again;
use super::{DecisionReader, Shard};
use crate::context::messages::{RepairMode, ShardMessage};
use crate::runtime::reply::ReplyCallback;
use crate::shard::pending_writes::PendingWrites;

impl Shard {
    /// Decides about a finding of a scrub on an object.
    pub(super) async fn repair_object(
        &self,
        pending: &mut PendingWrites,
        (object, repair): (ObjectId, Box<Repair>),
        mode: RepairMode,
        (reply, attempt): (ReplyCallback<bool>, u32),
    ) {
        let planned = self.plan_repair(pending, &object, &repair).await;
        let again = self.again(attempt, move |reply| ShardMessage::Repair {
            object,
            repair,
            mode,
            reply,
        });
        self.repair(pending, planned, mode, (reply, again));
    }

    /// Decides about a finding of a scrub on an upload.
    pub(super) async fn repair_upload(
        &self,
        pending: &mut PendingWrites,
        (object, upload, repair): (ObjectId, UploadId, Box<UploadRepair>),
        mode: RepairMode,
        (reply, attempt): (ReplyCallback<bool>, u32),
    ) {
        let planned = self
            .plan_upload_repair(pending, (&object, &upload), &repair)
            .await;
        let again = self.again(attempt, move |reply| ShardMessage::RepairUpload {
            object,
            upload,
            repair,
            mode,
            reply,
        });
        self.repair(pending, planned, mode, (reply, again));
    }

    /// Plans the repair of an object, or returns `None` if the finding is not confirmed.
    async fn plan_repair(
        &self,
        pending: &PendingWrites,
        object: &ObjectId,
        repair: &Repair,
    ) -> Result<Option<Plan<bool>>> {
        let mut reader = DecisionReader::new(&self.context, pending);
        let seen = reader.seen_object(object, repair).await?;
        let plan = repair.decide(object, &seen, self.context.env.steady_now());
        Ok(plan.map(|plan| plan.based_on(reader.into_reads())))
    }

    /// Plans the repair of an upload, or returns `None` if the finding is not confirmed.
    async fn plan_upload_repair(
        &self,
        pending: &PendingWrites,
        (object, upload): (&ObjectId, &UploadId),
        repair: &UploadRepair,
    ) -> Result<Option<Plan<bool>>> {
        let mut reader = DecisionReader::new(&self.context, pending);
        let seen = reader.seen_upload((object, upload), repair).await?;
        let plan = repair.decide(object, upload, &seen, self.context.env.steady_now());
        Ok(plan.map(|plan| plan.based_on(reader.into_reads())))
    }

    /// Replies whether the damage is confirmed. Repairs it first if `mode` requires it.
    fn repair(
        &self,
        pending: &mut PendingWrites,
        planned: Result<Option<Plan<bool>>>,
        mode: RepairMode,
        (reply, again): (ReplyCallback<bool>, Option<Again<bool>>),
    ) {
        match planned {
            Ok(Some(plan)) if mode == RepairMode::Repair => {
                self.carry_out(pending, Ok(plan), None, (reply, again));
            }
            Ok(plan) => reply(Ok(plan.is_some())),
            Err(error) => reply(Err(error)),
        }
    }
}
