//! The decisions about multipart uploads: the effect of each step on the upload record, its parts
//! and the object's row.
//!
//! ```text
//! step       the shard reads                         plan
//! ---------- --------------------------------------- ----------------------------------------------------------------
//! Initiate   a state the precondition excludes       conflict
//!            anything else                           puts the upload record and its expiry entry
//! Part       its change gone                         fenced: never commits (I6)
//!            no open upload                          refused: its change is settled, its own revision: orphan
//!            an open upload                          files the part, settles the change; replaced part: orphan
//! Complete   no record, an aborted upload            refused
//!            a completed upload, the same parts      the first result again
//!            a completed upload, other parts         refused
//!            an open one, a part breaks a rule,      refused, naming the part; the record stays
//!            or was lost
//!             .. a precondition does not hold        conflict; the record stays
//!             .. the expected row                    commit: the row is a tombstone over the listed parts; other parts
//!                                                    and replaced revisions: orphans; the record: Completed
//!             .. another row                         superseded: all parts: orphans; the record: Completed
//! Abort      an open upload                          all parts: orphans; the record: Aborted
//!            an aborted upload                       nothing
//!            no record, a completed upload           refused
//! Expire     a record that has expired               all parts: orphans; the record is removed
//!            anything else                           nothing
//! ```
//!
//! An expired record counts as no record, except for Expire. Guards I3: each plan is one batch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fence::revision_key;
use super::parts::{PartRules, Selection, assemble, digest, refused};
use super::plan::fenced;
use super::swap::RowContent;
use super::transition::{self, Transition, give_up};
use super::{
    DecisionEvent, Effect, ExpectedRow, Plan, Precondition, PutResult, RowState, WriteOutcome,
};
use crate::index::{Batch, Table};
use crate::records::{
    Attributes, BlockChecksums, Part, RowBody, UploadPhase, UploadRecord, expiry_value, part_key,
    upload_expiry_key, upload_record_key,
};
use crate::types::{
    ObjectId, OperationId, PartNumber, Reason, Result, RevisionId, RevisionKey, Timestamp,
    UploadId, no_such_upload,
};

/// One step of an upload.
#[derive(Clone, Debug)]
pub struct UploadStep {
    /// Object.
    pub id: ObjectId,
    /// Upload.
    pub upload: UploadId,
    /// Operation; the same for every delivery of the same step. That of a part is its change.
    pub operation: OperationId,
    /// Change to the upload.
    pub mutation: UploadMutation,
}

/// Change that a step makes to an upload.
#[derive(Clone, Debug)]
pub enum UploadMutation {
    /// Begins the upload.
    Initiate(UploadRecord),
    /// Files a part whose blob is finished and durable (I2).
    Part {
        /// Number of the part; a filed part of this number is replaced.
        number: PartNumber,
        /// Part.
        part: Part,
        /// Block checksums of its revision.
        blocks: BlockChecksums,
    },
    /// Makes an object of the parts.
    Complete {
        /// Parts to use.
        parts: Selection,
        /// Row that was expected when the completion began.
        expected: ExpectedRow,
        /// State that the object must be in.
        precondition: Precondition,
        /// Rules for the parts.
        rules: PartRules,
        /// Time for which the result is kept for repetitions.
        kept_for: Duration,
    },
    /// Gives the upload up.
    Abort {
        /// Time for which the record is kept.
        kept_for: Duration,
    },
    /// Removes the record if it has expired.
    Expire,
}

/// State of an upload, as far as the step needs it.
#[derive(Clone, Debug)]
pub struct UploadView {
    /// Upload record, expired or not.
    pub session: Option<UploadRecord>,
    /// For a part: the filed part of the same number. For a step that ends the upload: all parts.
    pub parts: BTreeMap<PartNumber, Part>,
    /// For a step that ends the upload: the parts that were lost and not uploaded again.
    pub lost: BTreeSet<PartNumber>,
    /// State of the object.
    pub row_state: RowState,
    /// True if the change of the step exists; matters to parts only.
    pub change_is_live: bool,
    /// True if a batch about the record is on its way to the disk.
    pub is_pending: bool,
}

impl UploadStep {
    /// Decides. The reply is the result of the completion, `None` for the other steps.
    pub fn decide(&self, view: &UploadView, now: Timestamp) -> Plan<Option<PutResult>> {
        let record = view.session.as_ref().filter(|session| session.is_live(now));
        let known = record.ok_or_else(no_such_upload);
        let plan = match &self.mutation {
            UploadMutation::Initiate(session) => Ok(self.initiate(session, view, now)),
            UploadMutation::Part {
                number,
                part,
                blocks,
            } => Ok(self.part((*number, part, blocks), known, view, now)),
            UploadMutation::Complete {
                parts,
                expected,
                precondition,
                rules,
                kept_for,
            } => known.and_then(|known| {
                let completion = UploadCompletion {
                    step: self,
                    parts,
                    expected: *expected,
                    preconditions: [known.precondition, *precondition],
                    rules: *rules,
                    until: now.after(*kept_for),
                };
                completion.decide(known, view, now)
            }),
            UploadMutation::Abort { kept_for } => {
                known.and_then(|known| self.abort(known, view, now, *kept_for))
            }
            UploadMutation::Expire if view.session.is_some() && record.is_none() => Ok(Plan {
                event: Some(DecisionEvent::UploadForgotten),
                ..self.ended(view, &self.revisions(view), None, None, now)
            }),
            UploadMutation::Expire => Ok(unchanged(view, None)),
        };
        plan.unwrap_or_else(|error| Plan::nothing(Err(error)))
    }

    fn initiate(
        &self,
        session: &UploadRecord,
        view: &UploadView,
        now: Timestamp,
    ) -> Plan<Option<PutResult>> {
        if let Err(unmet) = view.row_state.check(session.precondition, now) {
            return Plan::conflict("multipart", unmet);
        }
        let mut batch = Batch::new();
        self.put_session(&mut batch, None, Some(session));
        Plan::new(batch, Ok(None), Effect::Commits)
    }

    fn part(
        &self,
        (number, part, blocks): (PartNumber, &Part, &BlockChecksums),
        known: Result<&UploadRecord>,
        view: &UploadView,
        now: Timestamp,
    ) -> Plan<Option<PutResult>> {
        if !view.change_is_live {
            return Plan::new(Batch::new(), Err(fenced("multipart")), Effect::Commits);
        }
        let mut plan = match known.and_then(open) {
            Ok(_) => Plan::new(Batch::new(), Ok(None), Effect::Commits),
            Err(error) => Plan::nothing(Err(error)),
        };
        let batch = &mut plan.batch;
        batch.remove(Table::Changes, self.operation.as_bytes().to_vec());
        plan.settled.push(self.operation);
        let revision = part.extent.revision;
        if plan.reply.is_err() {
            let own = [revision_key(&self.id, revision)];
            transition::put_orphans(batch, &own, now, crate::records::LateWrite::Landed);
            return plan;
        }
        batch.put(
            Table::Uploads,
            part_key(&self.upload, number),
            part.encode(),
        );
        batch.put(
            Table::Payloads,
            revision.as_bytes().to_vec(),
            blocks.encode(),
        );
        if let Some(replaced) = view.parts.get(&number) {
            let replaced = [revision_key(&self.id, replaced.extent.revision)];
            give_up(batch, &replaced, now);
        }
        plan
    }

    fn abort(
        &self,
        known: &UploadRecord,
        view: &UploadView,
        now: Timestamp,
        kept_for: Duration,
    ) -> Result<Plan<Option<PutResult>>> {
        match &known.phase {
            UploadPhase::Aborted => Ok(unchanged(view, None)),
            UploadPhase::Open | UploadPhase::Completed { .. } => {
                let session = ended(open(known)?, UploadPhase::Aborted, now.after(kept_for));
                let revisions = self.revisions(view);
                Ok(self.ended(view, &revisions, Some(&session), None, now))
            }
        }
    }

    /// Plans the end of the upload: no part stays filed, and these revisions become orphans.
    fn ended(
        &self,
        view: &UploadView,
        orphans: &[RevisionKey],
        session: Option<&UploadRecord>,
        reply: Option<PutResult>,
        now: Timestamp,
    ) -> Plan<Option<PutResult>> {
        let mut batch = Batch::new();
        for &number in view.parts.keys().chain(&view.lost) {
            batch.remove(Table::Uploads, part_key(&self.upload, number));
        }
        give_up(&mut batch, orphans, now);
        self.put_session(&mut batch, view.session.as_ref(), session);
        Plan::new(batch, Ok(reply), Effect::Commits)
    }

    fn put_session(
        &self,
        batch: &mut Batch,
        before: Option<&UploadRecord>,
        after: Option<&UploadRecord>,
    ) {
        let key = upload_record_key(&self.id, &self.upload);
        let expiry =
            |session: &UploadRecord| upload_expiry_key(session.expires_at, &self.id, &self.upload);
        if let Some(before) = before {
            batch.remove(Table::Expiry, expiry(before));
        }
        match after {
            Some(after) => {
                batch.put(Table::Uploads, key, after.encode());
                batch.put(Table::Expiry, expiry(after), expiry_value());
            }
            None => batch.remove(Table::Uploads, key),
        }
    }

    /// Returns the revisions of all parts.
    fn revisions(&self, view: &UploadView) -> Vec<RevisionKey> {
        view.parts
            .values()
            .map(|part| revision_key(&self.id, part.extent.revision))
            .collect()
    }
}

/// A completion of an upload whose record exists.
struct UploadCompletion<'a> {
    step: &'a UploadStep,
    parts: &'a Selection,
    expected: ExpectedRow,
    /// Preconditions of the beginning and of the end.
    preconditions: [Precondition; 2],
    rules: PartRules,
    /// Deadline of the record of the completed upload.
    until: Timestamp,
}

impl UploadCompletion<'_> {
    fn decide(
        &self,
        known: &UploadRecord,
        view: &UploadView,
        now: Timestamp,
    ) -> Result<Plan<Option<PutResult>>> {
        if let UploadPhase::Completed { parts, written } = &known.phase {
            return match self.parts {
                Selection::Listed(listed) if digest(listed) != *parts => {
                    let message = "the upload was completed with other parts";
                    Err(refused(message, Reason::OtherParts))
                }
                Selection::Listed(_) | Selection::All => Ok(unchanged(view, Some(written.clone()))),
            };
        }
        let session = open(known)?;
        let listed = self.parts.resolve(view)?;
        let (manifest, size) = assemble(&listed, &view.parts, self.rules)?;
        for precondition in self.preconditions {
            if let Err(unmet) = view.row_state.check(precondition, now) {
                return Ok(Plan::conflict("multipart", unmet));
            }
        }
        let completed = |written: &PutResult| {
            let phase = UploadPhase::Completed {
                parts: digest(&listed),
                written: written.clone(),
            };
            ended(session, phase, self.until)
        };
        let is_conditional = self.preconditions != [Precondition::None; 2];
        if !is_conditional && !self.expected.is_met(&view.row_state, now) {
            return Ok(self.superseded(view, &completed(&PutResult::SUPERSEDED), now));
        }
        let named: BTreeSet<RevisionId> = manifest.revisions().collect();
        let content = RowContent {
            body: RowBody::Tombstone(manifest),
            size,
            checksum: None,
        };
        let row = content.row(
            self.step.operation,
            &view.row_state,
            &session.attributes,
            now,
        );
        let written = PutResult {
            outcome: WriteOutcome::Applied,
            version: Some(row.version),
            etag: Some(row.etag()),
            created: !view.row_state.exists(now),
        };
        let session = completed(&written);
        let next = RowState::Present(row);
        Ok(self.commit(view, next, &named, (&session, written), now))
    }

    fn superseded(
        &self,
        view: &UploadView,
        session: &UploadRecord,
        now: Timestamp,
    ) -> Plan<Option<PutResult>> {
        let revisions = self.step.revisions(view);
        let reply = Some(PutResult::SUPERSEDED);
        Plan {
            event: Some(DecisionEvent::Superseded),
            ..self.step.ended(view, &revisions, Some(session), reply, now)
        }
    }

    fn commit(
        &self,
        view: &UploadView,
        next: RowState,
        named: &BTreeSet<RevisionId>,
        (session, written): (&UploadRecord, PutResult),
        now: Timestamp,
    ) -> Plan<Option<PutResult>> {
        let transition = [Transition {
            id: &self.step.id,
            before: &view.row_state,
            after: &next,
        }];
        let mut orphans = transition::orphans(&transition);
        let parts = self.step.revisions(view).into_iter();
        orphans.extend(parts.filter(|key| !named.contains(&key.revision)));
        let mut batch = Batch::new();
        transition::put_rows(&mut batch, &transition);
        let ended = self
            .step
            .ended(view, &orphans, Some(session), Some(written), now);
        batch.append(ended.batch);
        Plan {
            rows: vec![(self.step.id.clone(), next)],
            ..Plan::new(batch, ended.reply, Effect::Commits)
        }
    }
}

/// Plans nothing for a step that was carried out before.
fn unchanged(view: &UploadView, reply: Option<PutResult>) -> Plan<Option<PutResult>> {
    let effect = if view.is_pending {
        Effect::Repeats
    } else {
        Effect::Known
    };
    Plan::new(Batch::new(), Ok(reply), effect)
}

/// Returns the record if the upload takes parts.
fn open(session: &UploadRecord) -> Result<&UploadRecord> {
    session.check_open().map(|()| session)
}

fn ended(session: &UploadRecord, phase: UploadPhase, expires_at: Timestamp) -> UploadRecord {
    UploadRecord {
        initiated: session.initiated,
        expires_at,
        attributes: Attributes::default(),
        precondition: session.precondition,
        phase,
    }
}
