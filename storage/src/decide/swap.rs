//! The decision of a write to one object.
//!
//! ```text
//! swap                     the shard reads                       plan
//! ------------------------ ------------------------------------- --------------------------------------------------
//! any                      its own operation in the row          repeat the reply of the first time
//! Tombstone, change gone   anything                              fenced: never commits (I6)
//! any, with precondition   a state the precondition excludes     conflict; a tombstone's change is settled, its own
//!                                                                revisions: orphans
//! Inline                   anything                              commit; a replaced tombstone's revisions: orphans
//! Tombstone                the state its upload expects          commit; settles the change; replaced: orphans
//!  without precondition    a tombstone it does not expect        superseded; settles the change; its own: orphans
//!                          no tombstone, but it expects one      the same; if the expected one has expired: commit
//! Delete                   a row, or only in the fallback        commit; keeps the last version; revisions: orphans
//!                          no row, not in the fallback           nothing
//! Amend, Extend            a live row                            commit; the payload stays in place
//!                          none                                  nothing
//! Touch                    the live row that was read, idle      commit; only its deadline changes
//!                          anything else                         nothing
//! Expire                   an expired row                        commit; as a delete
//!                          anything else                         nothing
//! Inline, Tombstone,       an unreadable row, no precondition    as for an absent object, and the row is removed;
//!  Delete                                                        its last version is one that was never reached
//! ```
//!
//! An expired row counts as no row, but its revisions become orphans with it. Guards I3: the batch
//! of the plan holds everything that the swap changes.

use super::plan::fenced;
use super::results::SwapReply;
use super::transition::{self, Transition};
use super::{DecisionEvent, Effect, Mutation, Plan, Precondition, RowState, repair};
use crate::index::{Batch, Table};
use crate::records::{
    Amendment, Attributes, EMBEDDED_BYTES_MAX, Extension, LastVersion, LateWrite, Manifest,
    Metadata, Row, RowBody,
};
use crate::types::{Checksum, ObjectId, OperationId, Result, RevisionId, RevisionKey, Timestamp};

/// One compare-and-swap on one row.
#[derive(Clone, Debug)]
pub struct Swap {
    /// Object.
    pub id: ObjectId,
    /// Operation; the same for every delivery of the same swap.
    pub operation: OperationId,
    /// State that the object must be in.
    pub precondition: Precondition,
    /// Change to the row.
    pub mutation: Mutation,
}

/// Everything that the decision of a swap depends on.
#[derive(Clone, Debug)]
pub struct SwapView {
    /// State of the object.
    pub row_state: RowState,
    /// True if the row is unreadable and the swap replaces it ([`Swap::replaces_unread`]).
    /// `row_state` is then ignored.
    pub is_unreadable: bool,
    /// True if the change of the swap exists; matters to tombstones only.
    pub change_is_live: bool,
}

impl Swap {
    /// Returns whether the swap may replace a row that can't be read: it depends on nothing in the
    /// row, and its caller means to lose the content of the row.
    pub fn replaces_unread(&self) -> bool {
        self.mutation.replaces() && self.precondition == Precondition::None
    }

    /// Returns the change that the swap settles, if it has one.
    pub fn change(&self) -> Option<OperationId> {
        self.mutation.has_change().then_some(self.operation)
    }

    /// Bytes of the payload that the swap stores in the index.
    pub fn stored_bytes(&self) -> u64 {
        self.mutation.stored_bytes()
    }

    /// Decides.
    ///
    /// The reply is [`Conflict`](crate::ErrorKind::Conflict) if the precondition does not hold,
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the swap is fenced, and
    /// [`Invalid`](crate::ErrorKind::Invalid) if amended attributes exceed a limit.
    pub fn decide(&self, view: &SwapView, now: Timestamp) -> Plan<SwapReply> {
        if !view.is_unreadable {
            return self.decide_readable(&view.row_state, view.change_is_live, now);
        }
        let (removal, last) = repair::remove_unreadable_row(&self.id, now);
        let absent = RowState::Absent(last);
        let mut plan = self.decide_readable(&absent, view.change_is_live, now);
        if self.mutation.removes() {
            // An object existed, although its version is unknown.
            plan.reply = Ok(SwapReply::without_row(true));
            plan.effect = Effect::Commits;
        }
        let mut batch = removal;
        batch.append(std::mem::take(&mut plan.batch));
        plan.batch = batch;
        if plan.rows.is_empty() {
            plan.rows.push((self.id.clone(), absent));
        }
        plan
    }

    fn decide_readable(
        &self,
        row_state: &RowState,
        change_is_live: bool,
        now: Timestamp,
    ) -> Plan<SwapReply> {
        let operation = self.mutation.operation();
        if row_state.row().is_some_and(|row| self.is_done_in(row)) {
            return Plan::new(Batch::new(), Ok(self.unchanged(row_state)), Effect::Commits);
        }
        if self.change().is_some() && !change_is_live {
            return Plan::new(Batch::new(), Err(fenced(operation)), Effect::Commits);
        }
        if let Err(unmet) = row_state.check(self.precondition, now) {
            return self.lost(Plan::conflict(operation, unmet), now);
        }
        if let Mutation::Tombstone { expected, .. } = &self.mutation
            && self.precondition == Precondition::None
            && !expected.is_met(row_state, now)
        {
            let superseded = Plan {
                event: Some(DecisionEvent::Superseded),
                ..Plan::new(Batch::new(), Ok(SwapReply::SUPERSEDED), Effect::Commits)
            };
            return self.lost(superseded, now);
        }
        match self.next(row_state, now) {
            Ok(Next::Other) => {
                let superseded =
                    Plan::new(Batch::new(), Ok(SwapReply::SUPERSEDED), Effect::Commits);
                self.lost(superseded, now)
            }
            Ok(Next::Row(row)) => self.commit(row_state, RowState::Present(row), now),
            Ok(Next::NoRow) => {
                let last = LastVersion::at(row_state.version(), now);
                self.commit(row_state, RowState::Absent(last), now)
            }
            Ok(Next::Unchanged) => Plan::nothing(Ok(self.unchanged(row_state))),
            Ok(Next::Absent) => Plan::nothing(Ok(SwapReply::without_row(false))),
            // The row may be that of a pending batch, which may not commit.
            Err(error) => Plan::nothing(Err(error)),
        }
    }

    /// Returns whether this row is the result of this swap, which was delivered before.
    fn is_done_in(&self, row: &Row) -> bool {
        match &self.mutation {
            // The row keeps the operation of its write.
            Mutation::Relocate { manifest, .. } => manifest.revisions().eq(row.revisions()),
            _ => row.operation == self.operation,
        }
    }

    /// Completes the plan of a swap that does not commit: its change is settled, and its own
    /// revisions become orphans.
    fn lost(&self, mut plan: Plan<SwapReply>, now: Timestamp) -> Plan<SwapReply> {
        self.settle(&mut plan, &self.own_revisions(), now);
        plan
    }

    fn commit(&self, row_state: &RowState, next: RowState, now: Timestamp) -> Plan<SwapReply> {
        let transition = [Transition {
            id: &self.id,
            before: row_state,
            after: &next,
        }];
        let mut batch = Batch::new();
        transition::put_rows(&mut batch, &transition);
        self.put_payload(&mut batch);
        let orphans = transition::orphans(&transition);
        let existed = row_state.exists(now);
        // The expirer counts the objects that it removes. For other callers an expired object did
        // not exist.
        let reply = if self.mutation.removes() {
            SwapReply::without_row(existed || matches!(self.mutation, Mutation::Expire))
        } else {
            SwapReply::applied(&next, existed)
        };
        let mut plan = Plan::new(batch, Ok(reply), Effect::Commits);
        self.settle(&mut plan, &orphans, now);
        plan.rows.push((self.id.clone(), next));
        plan
    }

    /// Reply of a swap that leaves the object in its state.
    fn unchanged(&self, row_state: &RowState) -> SwapReply {
        if self.mutation.removes() {
            SwapReply::without_row(false)
        } else {
            SwapReply::applied(row_state, true)
        }
    }

    fn settle(&self, plan: &mut Plan<SwapReply>, orphans: &[RevisionKey], now: Timestamp) {
        if let Some(change) = self.change() {
            plan.batch
                .remove(Table::Changes, change.as_bytes().to_vec());
            plan.settled.push(change);
        }
        transition::put_orphans(&mut plan.batch, orphans, now, LateWrite::Landed);
    }

    /// Returns the row after the swap, if nothing prevents it.
    fn next(&self, row_state: &RowState, now: Timestamp) -> Result<Next> {
        let live = row_state.live(now);
        Ok(match &self.mutation {
            Mutation::Inline {
                payload,
                attributes,
            } => {
                let body = if payload.len() <= EMBEDDED_BYTES_MAX {
                    RowBody::Embedded(payload.clone())
                } else {
                    RowBody::Separate(self.operation)
                };
                let content = RowContent {
                    body,
                    size: payload.len() as u64,
                    checksum: Some(Checksum::of(payload)),
                };
                Next::Row(content.row(self.operation, row_state, attributes, now))
            }
            Mutation::Tombstone {
                manifest,
                checksum,
                attributes,
                ..
            } => {
                let content = RowContent {
                    body: RowBody::Tombstone(manifest.clone()),
                    size: manifest.bytes().unwrap_or(u64::MAX),
                    checksum: *checksum,
                };
                Next::Row(content.row(self.operation, row_state, attributes, now))
            }
            // The last version that replaces the row is the mask of an object of the fallback.
            Mutation::Delete if row_state.row().is_some() || row_state.is_in_fallback(now) => {
                Next::NoRow
            }
            Mutation::Delete => Next::Absent,
            Mutation::Amend(amendment) => match live {
                Some(row) => Next::Row(Box::new(self.amended(row, amendment, now)?)),
                None => Next::Absent,
            },
            Mutation::Extend(extension) => match live {
                Some(row) => self.extended(row, *extension, now),
                None => Next::Absent,
            },
            Mutation::Touch { seen } => touched(live.filter(|row| row.operation == *seen), now),
            Mutation::Relocate {
                manifest, copied, ..
            } => relocated(live, manifest, copied),
            Mutation::Expire if row_state.row().is_some() && live.is_none() => Next::NoRow,
            Mutation::Expire => Next::Unchanged,
        })
    }

    fn amended(&self, row: &Row, amendment: &Amendment, now: Timestamp) -> Result<Row> {
        let attributes = amendment.apply(&row.metadata.attributes);
        attributes.validate()?;
        let expires_at = match amendment.expiration {
            Some(expiration) => expiration.deadline(now),
            None => row.metadata.expires_at,
        };
        let metadata = Metadata {
            modified: now,
            expires_at,
            attributes,
            ..row.metadata.clone()
        };
        Ok(self.rewritten(row, metadata))
    }

    fn extended(&self, row: &Row, extension: Extension, now: Timestamp) -> Next {
        let expires_at = extension.of(row.metadata.expires_at, row.metadata.created, now);
        if expires_at == row.metadata.expires_at {
            return Next::Unchanged;
        }
        let metadata = Metadata {
            modified: now,
            expires_at,
            ..row.metadata.clone()
        };
        Next::Row(Box::new(self.rewritten(row, metadata)))
    }

    /// Returns the next version of a row, with the same payload.
    fn rewritten(&self, row: &Row, metadata: Metadata) -> Row {
        Row {
            version: row.version.next(),
            operation: self.operation,
            metadata,
            body: row.body.clone(),
        }
    }

    /// Returns the revisions that the swap would commit.
    fn own_revisions(&self) -> Vec<RevisionKey> {
        match &self.mutation {
            Mutation::Tombstone { manifest, .. } | Mutation::Relocate { manifest, .. } => {
                manifest.keys(&self.id).collect()
            }
            _ => Vec::new(),
        }
    }

    fn put_payload(&self, batch: &mut Batch) {
        match &self.mutation {
            Mutation::Inline { payload, .. } if payload.len() > EMBEDDED_BYTES_MAX => {
                let key = self.operation.as_bytes().to_vec();
                batch.put(Table::Payloads, key, payload.clone());
            }
            Mutation::Tombstone {
                manifest, blocks, ..
            }
            | Mutation::Relocate {
                manifest, blocks, ..
            } => {
                for (revision, blocks) in manifest.revisions().zip(blocks) {
                    let key = revision.as_bytes().to_vec();
                    batch.put(Table::Payloads, key, blocks.encode());
                }
            }
            _ => {}
        }
    }
}

/// Row after a swap.
enum Next {
    Row(Box<Row>),
    NoRow,
    Unchanged,
    Absent,
    /// Another payload than the one that the swap is about.
    Other,
}

/// New content of an object.
pub(super) struct RowContent {
    pub(super) body: RowBody,
    /// Size of the payload, in bytes.
    pub(super) size: u64,
    pub(super) checksum: Option<Checksum>,
}

impl RowContent {
    /// Returns the row that this content makes of an object in this state.
    pub(super) fn row(
        self,
        operation: OperationId,
        row_state: &RowState,
        attributes: &Attributes,
        now: Timestamp,
    ) -> Box<Row> {
        let times = row_state.next_times(attributes.expiration.deadline(now), now);
        let metadata = Metadata {
            size: self.size,
            checksum: self.checksum,
            created: times.created,
            modified: times.modified,
            expires_at: times.expires_at,
            attributes: attributes.clone(),
        };
        Box::new(Row {
            version: row_state.version().next(),
            operation,
            metadata,
            body: self.body,
        })
    }
}

/// Returns the row that was read with a later deadline, if reads extend it.
fn touched(read: Option<&Row>, now: Timestamp) -> Next {
    let extended = read.and_then(|row| {
        let policy = row.metadata.attributes.expiration;
        let expires_at = policy.extended_by_read(row.metadata.expires_at, now)?;
        let metadata = Metadata {
            expires_at: Some(expires_at),
            ..row.metadata.clone()
        };
        Some(Box::new(Row {
            metadata,
            ..row.clone()
        }))
    });
    extended.map_or(Next::Unchanged, Next::Row)
}

/// Returns the row with the copies of its payload, if the payload is still the one that was copied.
fn relocated(live: Option<&Row>, copies: &Manifest, copied: &[RevisionId]) -> Next {
    let Some(row) = live.filter(|row| row.revisions() == copied) else {
        return Next::Other;
    };
    let RowBody::Tombstone(before) = &row.body else {
        return Next::Other;
    };
    Next::Row(Box::new(Row {
        body: RowBody::Tombstone(copies.clone().holding(before.payload_id())),
        ..row.clone()
    }))
}
