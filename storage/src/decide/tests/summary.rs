//! Plans in a form that assertions can name.

use super::*;

/// Summary of a swap's plan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Commit {
        next: RowState,
        orphans: Vec<RevisionKey>,
        existed: bool,
    },
    Supersede {
        orphans: Vec<RevisionKey>,
    },
    Conflict {
        current: Option<ObjectVersion>,
        orphans: Vec<RevisionKey>,
    },
    Already,
    Absent,
    Unchanged,
    Fenced,
}

/// Summary of the plan of a step of an upload.
#[derive(Debug)]
pub(super) enum Verdict {
    Begin,
    File,
    Complete {
        next: RowState,
        orphans: Vec<RevisionKey>,
        session: UploadRecord,
        written: PutResult,
    },
    Supersede {
        orphans: Vec<RevisionKey>,
        written: PutResult,
    },
    Replay(PutResult),
    End {
        orphans: Vec<RevisionKey>,
        session: Option<UploadRecord>,
    },
    Unchanged,
    Conflict(Option<ObjectVersion>),
    Refuse {
        error: Error,
        orphans: Vec<RevisionKey>,
    },
    Fenced,
}

pub(super) fn plan(
    swap: &Swap,
    row_state: &RowState,
    change_is_live: bool,
    now: Timestamp,
) -> Plan<SwapReply> {
    let view = SwapView {
        row_state: row_state.clone(),
        is_unreadable: false,
        change_is_live,
    };
    swap.decide(&view, now)
}

pub(super) fn decision(
    swap: &Swap,
    row_state: &RowState,
    change_is_live: bool,
    now: Timestamp,
) -> Decision {
    let plan = plan(swap, row_state, change_is_live, now);
    let orphans = orphans(&plan.batch);
    let settles = swap.change().is_some();
    match (&plan.reply, plan.event, plan.effect) {
        (Err(error), Some(DecisionEvent::Conflict), Effect::Nothing) => {
            let ErrorKind::Conflict { current } = error.kind() else {
                panic!("{error}")
            };
            assert_eq!(plan.settled.len(), usize::from(settles));
            Decision::Conflict { current, orphans }
        }
        (Err(error), None, Effect::Commits) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(plan.batch.is_empty() && plan.settled.is_empty());
            Decision::Fenced
        }
        (Ok(reply), event, Effect::Commits) if *reply == SwapReply::SUPERSEDED => {
            // A relocation that gives way is no superseded write.
            let is_write = matches!(swap.mutation, Mutation::Tombstone { .. });
            assert_eq!(event == Some(DecisionEvent::Superseded), is_write);
            assert_eq!(plan.settled, [swap.operation]);
            Decision::Supersede { orphans }
        }
        (Ok(reply), None, Effect::Commits) if !plan.batch.is_empty() => {
            assert_eq!(plan.settled.len(), usize::from(settles));
            let [(id, next)] = &plan.rows[..] else {
                panic!("a swap changes one row: {:?}", plan.rows)
            };
            assert_eq!(*id, swap.id);
            let next = next.clone();
            let existed = match swap.mutation {
                // The reply counts what the expirer removed.
                Mutation::Expire => false,
                _ => reply.existed,
            };
            Decision::Commit {
                next,
                orphans,
                existed,
            }
        }
        (Ok(_), None, Effect::Commits) => Decision::Already,
        (Ok(reply), None, Effect::Nothing) => {
            assert!(plan.batch.is_empty() && plan.rows.is_empty());
            let is_expiry = matches!(swap.mutation, Mutation::Expire);
            match reply.existed {
                false if !is_expiry => Decision::Absent,
                true | false => Decision::Unchanged,
            }
        }
        _ => panic!("{plan:?}"),
    }
}

pub(super) fn verdict(swap: &UploadStep, view: &UploadView, now: Timestamp) -> Verdict {
    let plan = swap.decide(view, now);
    let orphans = orphans(&plan.batch);
    let put = |wanted: &[u8]| {
        let ops = plan.batch.ops().iter();
        let mut values = ops.filter(|(table, key, _)| *table == Table::Uploads && key == wanted);
        values.next_back().and_then(|(.., value)| value.clone())
    };
    let session = put(&upload_record_key(&swap.id, &swap.upload))
        .map(|value| UploadRecord::decode(&value).unwrap());
    match (plan.reply, plan.event, plan.effect) {
        (Err(error), Some(DecisionEvent::Conflict), Effect::Nothing) => match error.kind() {
            ErrorKind::Conflict { current } => Verdict::Conflict(current),
            _ => panic!("{error}"),
        },
        (Err(_), None, Effect::Commits) => Verdict::Fenced,
        (Err(error), None, Effect::Nothing) => Verdict::Refuse { error, orphans },
        (Ok(Some(written)), Some(DecisionEvent::Superseded), Effect::Commits) => {
            Verdict::Supersede { orphans, written }
        }
        (Ok(Some(written)), None, Effect::Commits) => Verdict::Complete {
            next: plan.rows[0].1.clone(),
            orphans,
            session: session.unwrap(),
            written,
        },
        (Ok(reply), None, Effect::Known | Effect::Repeats) => {
            assert!(plan.batch.is_empty());
            reply.map_or(Verdict::Unchanged, Verdict::Replay)
        }
        (Ok(None), event, Effect::Commits) => match &swap.mutation {
            UploadMutation::Initiate(_) => Verdict::Begin,
            UploadMutation::Part { .. } => Verdict::File,
            UploadMutation::Abort { .. } | UploadMutation::Expire => {
                assert_eq!(event.is_some(), session.is_none());
                Verdict::End { orphans, session }
            }
            UploadMutation::Complete { .. } => panic!("a completion has a result"),
        },
        other => panic!("{other:?}"),
    }
}

/// Returns the revisions that a batch queues.
fn orphans(batch: &Batch) -> Vec<RevisionKey> {
    let queued = batch
        .ops()
        .iter()
        .filter(|(table, ..)| *table == Table::Orphans);
    queued
        .map(|(_, key, value)| RevisionKey {
            object: Orphan::decode(value.as_ref().unwrap()).unwrap().object,
            revision: RevisionId::from_slice(key).unwrap(),
        })
        .collect()
}
