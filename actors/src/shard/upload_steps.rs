//! Steps of multipart uploads: their requests to the shard, and the shard's plans.
//!
//! A step that ends an upload reads all parts in the shard, between two decisions. No part can be
//! added between the read and the decision, and nothing has to be retried (docs/adr/0012).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cenotaph_storage::decide::{
    FallbackAnswer, Plan, PutResult, UploadMutation, UploadStep, UploadView,
};
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::records::{
    Filed, UploadPhase, UploadRecord, parts_prefix, read_part_key, upload_record_key,
};
use cenotaph_storage::{Error, ErrorKind, PARTS_MAX, Result, tamper};

use super::{DecisionReader, Shard};
use crate::admission::permits::Permit;
use crate::context::Context;
use crate::context::messages::ShardMessage;
use crate::runtime::reply::ReplyCallback;
use crate::shard::pending_writes::PendingWrites;

impl Context {
    /// Delivers a step of an upload to the object's shard, and returns the reply. Idempotent, as
    /// [`compare_and_write`](Self::compare_and_write) is.
    pub(crate) async fn step(
        &self,
        swap: UploadStep,
        answer: FallbackAnswer,
        permit: &Permit,
        wrap: impl Fn(ReplyCallback<Option<PutResult>>) -> ReplyCallback<Option<PutResult>>,
    ) -> Result<Option<PutResult>> {
        let id = swap.id.clone();
        self.deliver(&id, |reply| ShardMessage::UploadStep {
            swap: Box::new(swap.clone()),
            answer,
            permit: permit.clone(),
            reply: wrap(reply),
        })
        .await
    }

    /// Ends an upload. The number of parts that end at once is bounded, so the call waits for its
    /// turn.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if its turn does not come within `wait`.
    pub(crate) async fn end(
        &self,
        swap: UploadStep,
        answer: FallbackAnswer,
        permit: Permit,
        wait: Option<Duration>,
    ) -> Result<Option<PutResult>> {
        let parts = Range::prefix(&parts_prefix(&swap.upload), usize::from(PARTS_MAX));
        let parts = self
            .index
            .snapshot()?
            .keys_over(Table::Uploads, parts)
            .await?
            .entries
            .len();
        // The count is a snapshot: parts may be added meanwhile, which the budget tolerates.
        let turn = self.admission.end(parts);
        let turn = match wait {
            Some(wait) => self.env.deadline(wait, turn).await,
            None => Some(turn.await),
        };
        let Some(turn) = turn else {
            let message = "too many parts of uploads are ending at once; nothing was committed";
            return Err(Error::new(ErrorKind::Overloaded, "admit", message).with_id(&swap.id));
        };
        // Held until the end of the upload is durable.
        let permit = permit.and(turn);
        self.step(swap, answer, &permit, |reply| reply).await
    }
}

impl Shard {
    /// Decides a step of an upload.
    pub(super) async fn upload_step(
        &self,
        pending: &mut PendingWrites,
        (swap, answer, permit): (Box<UploadStep>, FallbackAnswer, Permit),
        (reply, attempt): (ReplyCallback<Option<PutResult>>, u32),
    ) {
        let planned = self.plan_step(pending, &swap, answer).await;
        let held = permit.clone();
        let again = self.again(attempt, move |reply| ShardMessage::UploadStep {
            swap,
            answer,
            permit: held,
            reply,
        });
        self.carry_out(pending, planned, Some(permit), (reply, again));
    }

    /// Plans a step of an upload.
    async fn plan_step(
        &self,
        pending: &PendingWrites,
        step: &UploadStep,
        answer: FallbackAnswer,
    ) -> Result<Plan<Option<PutResult>>> {
        let mut reader = DecisionReader::new(&self.context, pending);
        let mut view = view(&mut reader, step).await?;
        view.row_state = view.row_state.answered(self.context.valid(answer));
        let plan = step.decide(&view, self.context.env.steady_now());
        let plan = tamper::step(&self.context.env, step, view, plan);
        Ok(plan.based_on(reader.into_reads()))
    }
}

/// Reads the state that the decision depends on. Parts are read only if the decision needs them.
pub(super) async fn view(reader: &mut DecisionReader<'_>, step: &UploadStep) -> Result<UploadView> {
    let key = upload_record_key(&step.id, &step.upload);
    let is_pending = reader.is_pending_upload(&key);
    let record = reader.upload_entry(key).await?;
    let session = record
        .map(|value| UploadRecord::decode(&value))
        .transpose()?;
    let is_open = session
        .as_ref()
        .is_some_and(|session| session.phase == UploadPhase::Open);
    let filed = match &step.mutation {
        UploadMutation::Initiate(_) => BTreeMap::new(),
        UploadMutation::Part { number, .. } => reader.part_entry(&step.upload, *number).await?,
        UploadMutation::Complete { .. } | UploadMutation::Abort { .. } | UploadMutation::Expire
            if is_open =>
        {
            reader.part_entries(&step.upload).await?
        }
        UploadMutation::Complete { .. } | UploadMutation::Abort { .. } | UploadMutation::Expire => {
            BTreeMap::new()
        }
    };
    let mut parts = BTreeMap::new();
    let mut lost = BTreeSet::new();
    for (key, value) in filed {
        let (_, number) = read_part_key(&key)?;
        match Filed::decode(&value)? {
            Filed::Part(part) => drop(parts.insert(number, part)),
            Filed::Lost => drop(lost.insert(number)),
        }
    }
    let change_is_live = match step.mutation {
        UploadMutation::Part { .. } => reader.change(step.operation).await?.is_some(),
        UploadMutation::Initiate(_)
        | UploadMutation::Complete { .. }
        | UploadMutation::Abort { .. }
        | UploadMutation::Expire => true,
    };
    Ok(UploadView {
        session,
        parts,
        lost,
        row_state: reader.row_state(&step.id).await?,
        change_is_live,
        is_pending,
    })
}
