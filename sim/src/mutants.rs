//! Planted bugs: changes to the plans of the engine and to its index, to see that the checkers find
//! them.
//!
//! ```text
//! bug of a decision       a changed plan             World::tamper
//! bug of the index        a decorator of the index   mutants/index.rs
//! bug of the blob tier    a wrong response           tiers/network.rs
//! bug of the engine       a wrong setting or call    run.rs, client/writes.rs
//! bug of another place    a fail point               Env::planted, in production code
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use cenotaph_storage::decide::{
    DecisionEvent, Effect, Mutation, Precondition, RowState, Swap, UploadMutation, revision_key,
};
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::records::{
    LateWrite, Orphan, Row, RowBody, expiry_key, expiry_value, part_key, upload_expiry_key,
};
use cenotaph_storage::tamper::{DecidedStep, DecidedSwap};
use cenotaph_storage::{Error, ErrorKind, ObjectId, OperationId};

use crate::check::SAW;

pub(crate) mod index;
mod members;

/// Memory of the planted bugs of one engine.
#[derive(Default)]
pub(crate) struct Mutants {
    /// Rows by the operation that wrote them, for a refresh that writes back the row it read.
    rows: Mutex<BTreeMap<OperationId, Box<Row>>>,
}

impl Mutants {
    /// Changes a decision so that it has this bug.
    pub(crate) fn tamper(&self, bug: Bug, decided: &mut dyn Any) {
        if let Some(swap) = decided.downcast_mut() {
            self.tamper_swap(bug, swap);
        } else if let Some(step) = decided.downcast_mut() {
            tamper_step(bug, step);
        }
    }

    fn tamper_swap(&self, bug: Bug, decided: &mut DecidedSwap) {
        let DecidedSwap {
            swap,
            view,
            now,
            plan,
        } = decided;
        let now = *now;
        let is_commit = !plan.rows.is_empty();
        match bug {
            Bug::OldRevisionNotQueued if is_commit => forget_orphans(&mut plan.batch),
            Bug::ExpiredTombstoneNotQueued
                if is_commit
                    && view.row_state.live(now).is_none()
                    && !matches!(swap.mutation, Mutation::Expire) =>
            {
                forget_orphans(&mut plan.batch);
            }
            Bug::SupersededAsConflict if plan.event == Some(DecisionEvent::Superseded) => {
                let message = "recovery has given this write up; nothing was committed";
                plan.reply = Err(Error::new(ErrorKind::Unavailable, "put", message));
            }
            Bug::PreconditionAtBeginOnly if swap.change().is_some() => {
                *plan = unconditional(swap).decide(view, now);
            }
            Bug::ExpirerTrustsItsEntry if matches!(swap.mutation, Mutation::Expire) => {
                let delete = Swap {
                    mutation: Mutation::Delete,
                    ..swap.clone()
                };
                *plan = delete.decide(view, now);
            }
            Bug::MoveOverwrites if is_move(swap) => {
                *plan = unconditional(swap).decide(view, now);
            }
            Bug::DeleteWithoutMask
                if is_commit
                    && matches!(swap.mutation, Mutation::Delete)
                    && view.row_state.row().is_none() =>
            {
                retain(&mut plan.batch, |table, _, _| table != Table::Meta);
            }
            Bug::RelocationOverwrites | Bug::RelocationForgetsPayload => {
                tamper_relocation(bug, decided);
            }
            Bug::TouchResurrects => {
                if let Mutation::Touch { seen } = swap.mutation
                    && view.row_state.row().is_none_or(|row| row.operation != seen)
                {
                    self.resurrect(seen, decided);
                }
                let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
                for (_, row_state) in &decided.plan.rows {
                    if let RowState::Present(row) = row_state {
                        rows.insert(row.operation, row.clone());
                    }
                }
            }
            _ => {}
        }
    }

    /// Writes back the row that was read, although it was overwritten or deleted since.
    fn resurrect(&self, seen: OperationId, decided: &mut DecidedSwap) {
        let DecidedSwap {
            swap,
            view,
            now,
            plan,
        } = decided;
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut row) = rows.get(&seen).cloned() else {
            return;
        };
        let old = row.metadata.expires_at;
        let policy = row.metadata.attributes.expiration;
        let Some(deadline) = policy.extended_by_read(old, *now) else {
            return;
        };
        row.metadata.expires_at = Some(deadline);
        let id = &swap.id;
        let replaced = view.row_state.row().and_then(|row| row.metadata.expires_at);
        if let Some(replaced) = replaced {
            plan.batch.remove(Table::Expiry, expiry_key(replaced, id));
        }
        plan.batch
            .put(Table::Rows, id.encoded().clone(), row.encode());
        plan.batch
            .put(Table::Expiry, expiry_key(deadline, id), expiry_value());
        plan.rows.push((id.clone(), RowState::Present(row)));
        plan.effect = Effect::Commits;
    }
}

/// Returns the swap without its precondition.
fn unconditional(swap: &Swap) -> Swap {
    Swap {
        precondition: Precondition::None,
        ..swap.clone()
    }
}

fn tamper_relocation(bug: Bug, decided: &mut DecidedSwap) {
    let DecidedSwap {
        swap,
        view,
        now,
        plan,
    } = decided;
    let Mutation::Relocate {
        manifest, blocks, ..
    } = &swap.mutation
    else {
        return;
    };
    if bug == Bug::RelocationForgetsPayload {
        for (id, row_state) in &mut plan.rows {
            forget_payload(id, row_state, &mut plan.batch);
        }
    } else if let Some(row) = view.row_state.live(*now) {
        let blind = Swap {
            mutation: Mutation::Relocate {
                manifest: manifest.clone(),
                blocks: blocks.clone(),
                copied: row.revisions(),
            },
            ..swap.clone()
        };
        *plan = blind.decide(view, *now);
    }
}

/// Returns whether a swap moves an object of the fallback. The write of an update names what the
/// update has read.
fn is_move(swap: &Swap) -> bool {
    let (Mutation::Inline { attributes, .. } | Mutation::Tombstone { attributes, .. }) =
        &swap.mutation
    else {
        return false;
    };
    swap.precondition == Precondition::InFallback && !attributes.custom.contains_key(SAW)
}

/// Stores a relocated row as if its copies were those of its write.
fn forget_payload(id: &ObjectId, row_state: &mut RowState, batch: &mut Batch) {
    if let RowState::Present(row) = row_state
        && let RowBody::Tombstone(manifest) = &mut row.body
    {
        *manifest = manifest.clone().holding(None);
        batch.put(Table::Rows, id.encoded().clone(), row.encode());
    }
}

fn tamper_step(bug: Bug, DecidedStep { step, view, plan }: &mut DecidedStep) {
    let is_part = |revision: &[u8]| {
        let mut parts = view.parts.values();
        parts.any(|part| part.extent.revision.as_bytes() == revision)
    };
    let is_commit = !plan.rows.is_empty();
    match (bug, &step.mutation) {
        (
            Bug::PartAfterEnd,
            UploadMutation::Part {
                number,
                part,
                blocks,
            },
        ) if plan.reply.is_err() && view.change_is_live => {
            forget_orphans(&mut plan.batch);
            plan.batch.put(
                Table::Uploads,
                part_key(&step.upload, *number),
                part.encode(),
            );
            let revision = part.extent.revision.as_bytes().to_vec();
            plan.batch.put(Table::Payloads, revision, blocks.encode());
            plan.reply = Ok(None);
            plan.effect = Effect::Commits;
        }
        (Bug::EndQueuesEveryPart, UploadMutation::Complete { .. }) if is_commit => {
            for part in view.parts.values() {
                let key = revision_key(&step.id, part.extent.revision);
                let orphan = Orphan::new(key.object, part.uploaded, LateWrite::Landed);
                let revision = part.extent.revision.as_bytes().to_vec();
                plan.batch.put(Table::Orphans, revision, orphan.encode());
            }
        }
        (Bug::CompleteTwice, UploadMutation::Complete { .. }) if is_commit => {
            let entry = view
                .session
                .as_ref()
                .map(|session| upload_expiry_key(session.expires_at, &step.id, &step.upload));
            let row_expiry = plan.rows[0].1.row().and_then(|row| row.metadata.expires_at);
            let kept = row_expiry.map(|deadline| expiry_key(deadline, &step.id));
            retain(&mut plan.batch, |table, key, value| match table {
                Table::Uploads => false,
                Table::Expiry if value.is_some() => Some(key) == kept.as_ref(),
                Table::Expiry => Some(key) != entry.as_ref(),
                Table::Orphans => !is_part(key),
                Table::Payloads => value.is_some() || !is_part(key),
                Table::Rows | Table::Changes | Table::Meta => true,
            });
        }
        _ => {}
    }
}

fn forget_orphans(batch: &mut Batch) {
    retain(batch, |table, _, _| table != Table::Orphans);
}

fn retain(batch: &mut Batch, keep: impl Fn(Table, &Bytes, Option<&Bytes>) -> bool) {
    for (table, key, value) in std::mem::take(batch).into_ops() {
        match value {
            value if !keep(table, &key, value.as_ref()) => {}
            Some(value) => batch.put(table, key, value),
            None => batch.remove(table, key),
        }
    }
}
