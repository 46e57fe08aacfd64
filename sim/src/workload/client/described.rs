//! Descriptions of the calls and answers of a client, for the checks, the timeline and the
//! coverage.

use bytes::Bytes;
use cenotaph::ErrorKind;

use crate::check::{Answer, AtomicPiece, Call, Change, Content, Demand, Found, Moving, Reading};
use crate::workload::plan::{Op, Shape, Span, object_id};

/// First number of the writes of batches. Each call has eight of these numbers, and no batch has
/// more writes.
const PIECES: u64 = 500_000_000;

/// Returns the number of a write of a batch.
pub(super) fn write_of_piece(write: u64, place: usize) -> u64 {
    PIECES + write * 8 + place as u64
}

/// Returns the key of an object in the row table.
fn key(object: u32) -> Bytes {
    object_id(object).encoded().clone()
}

/// Returns the key in the row table of a prefix of the default namespace.
fn default(prefix: &str) -> Bytes {
    format!("default\0{prefix}").into()
}

/// Returns the call of an operation for the checks, and its description for the timeline.
pub(super) fn described(
    op: &Op,
    write: u64,
    demand: Demand,
    inline_bytes_max: u64,
) -> (Call, String) {
    match op {
        Op::Put {
            object,
            bytes,
            shape,
            lifetime,
            ..
        } => {
            let text = format!(
                "put {} {bytes} bytes, write {write}, {shape:?}, {demand:?}, {lifetime:?}",
                object_id(*object)
            );
            // A broken stream promises one byte more than it has.
            let promised = bytes + u64::from(matches!(shape, Shape::Broken(_)));
            let call = Call::Put {
                object: key(*object),
                write,
                fails: shape.fails(),
                bytes: *bytes,
                large: promised > inline_bytes_max,
                demand,
            };
            (call, text)
        }
        Op::Update {
            object,
            bytes,
            fate,
            ..
        } => {
            let call = Call::Update {
                object: key(*object),
                write,
                fate: *fate,
                bytes: *bytes,
            };
            let id = object_id(*object);
            let text = format!("update {id} to {bytes} bytes, write {write}, {fate:?}");
            (call, text)
        }
        Op::Atomic { pieces } => {
            let asked = pieces.iter().enumerate().map(|(place, piece)| AtomicPiece {
                object: key(piece.object),
                write: piece.bytes.is_some().then(|| write_of_piece(write, place)),
                if_absent: piece.if_absent,
            });
            let call = Call::Atomic {
                pieces: asked.collect(),
            };
            (call, format!("atomic batch, write {write}: {pieces:?}"))
        }
        Op::DeletePrefix { prefix } => {
            let call = Call::DeletePrefix {
                prefix: default(prefix),
            };
            (call, format!("delete all below {prefix}"))
        }
        op => described_change(op, write, demand),
    }
}

/// Describes an operation that changes, moves or deletes an existing object, and any other
/// operation through [`described_read`].
fn described_change(op: &Op, write: u64, demand: Demand) -> (Call, String) {
    match op {
        Op::Delete { object, .. } => {
            let text = format!("delete {}, {demand:?}", object_id(*object));
            let object = key(*object);
            (Call::Delete { object, demand }, text)
        }
        Op::Amend { object, .. } => {
            let text = format!("amend {}, {write}, {demand:?}", object_id(*object));
            let call = Call::Change {
                object: key(*object),
                how: Change::Amend(write),
                demand,
            };
            (call, text)
        }
        Op::Extend {
            object,
            ms,
            may_shorten,
            ..
        } => {
            let id = object_id(*object);
            let text = format!("extend {id} by {ms} ms, shorten={may_shorten}, {demand:?}");
            let call = Call::Change {
                object: key(*object),
                how: Change::Extend,
                demand,
            };
            (call, text)
        }
        Op::Copy {
            from,
            to,
            if_absent,
        } => described_move(Moving::Copy, *from, *to, *if_absent),
        Op::Rename {
            from,
            to,
            if_absent,
        } => described_move(Moving::Rename, *from, *to, *if_absent),
        op => described_read(op),
    }
}

/// Describes a copy or rename.
fn described_move(how: Moving, from: u32, to: u32, if_absent: bool) -> (Call, String) {
    let verb = match how {
        Moving::Copy => "copy",
        Moving::Rename => "rename",
    };
    let text = format!(
        "{verb} {} to {}, if_absent={if_absent}",
        object_id(from),
        object_id(to)
    );
    let call = Call::Move {
        from: key(from),
        to: key(to),
        how,
        if_absent,
    };
    (call, text)
}

/// Describes an operation that writes no object.
fn described_read(op: &Op) -> (Call, String) {
    match op {
        Op::Get { object, span, .. } => (
            Call::Read {
                object: key(*object),
                kind: Reading::Bytes,
                span: *span,
            },
            format!("get {} {span:?}", object_id(*object)),
        ),
        Op::Head { object } => (
            Call::Read {
                object: key(*object),
                kind: Reading::Head,
                span: Span::All,
            },
            format!("head {}", object_id(*object)),
        ),
        Op::List { hot, limit, after } => (
            Call::List {
                prefix: default(if *hot { "hot/" } else { "" }),
                after: after.map(|after| default(object_id(after).key())),
                limit: *limit,
            },
            format!("list hot={hot} limit={limit} after={after:?}"),
        ),
        Op::ListGroups {
            prefix,
            delimiter,
            limit,
            after,
        } => (
            Call::ListGroups {
                prefix: default(prefix),
                delimiter: *delimiter,
                after: after.as_ref().map(|after| default(after)),
                limit: *limit,
            },
            format!("list prefix={prefix} delimiter={delimiter} limit={limit} after={after:?}"),
        ),
        Op::ListAll => (
            Call::ListAll {
                prefix: default(""),
            },
            "list all".to_owned(),
        ),
        op => (Call::Other, format!("{op:?}")),
    }
}

/// Returns the coverage counter of an answer.
pub(super) fn answer_name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Applied { .. } => "heard: applied",
        Answer::Superseded => "heard: superseded",
        Answer::Conflict {
            current: Some(_), ..
        } => "heard: conflict",
        Answer::Conflict { current: None, .. } => "heard: conflict, absent",
        Answer::Together(_) => "heard: committed together",
        Answer::Kept => "heard: kept",
        Answer::Scrubbed { .. } => "heard: scrubbed",
        Answer::Deleted { existed: true } => "heard: deleted",
        Answer::Deleted { existed: false } => "heard: nothing to delete",
        Answer::Found(Found {
            content: Content::AsPut,
            ..
        }) => "heard: found, bytes as put",
        Answer::Found(Found {
            content: Content::NotAsked,
            ..
        }) => "heard: found, head only",
        Answer::Found(Found {
            content: Content::Failed(_),
            ..
        }) => "heard: found, bytes failed half-way",
        Answer::Found(Found {
            content: Content::Left,
            ..
        }) => "heard: found, left half-way",
        Answer::Found(Found {
            content: Content::Wrong,
            ..
        }) => "heard: found, wrong bytes",
        Answer::Absent => "heard: absent",
        Answer::NotSatisfiable { .. } => "heard: range not satisfiable",
        Answer::Listed(_) => "heard: a listing",
        Answer::Began { .. } => "heard: an upload began",
        Answer::Filed { .. } => "heard: a part is filed",
        Answer::Parts(..) => "heard: a listing of parts",
        Answer::Uploads(..) => "heard: a listing of uploads",
        Answer::Failed(ErrorKind::Unavailable) => "heard: unavailable",
        Answer::Failed(ErrorKind::Indeterminate) => "heard: indeterminate",
        Answer::Failed(ErrorKind::Overloaded) => "heard: overloaded",
        Answer::Failed(ErrorKind::Disabled) => "heard: disabled",
        Answer::Failed(ErrorKind::Source) => "heard: source",
        Answer::Failed(ErrorKind::Corrupt) => "heard: corrupt",
        Answer::Failed(ErrorKind::Invalid) => "heard: invalid",
        Answer::Failed(_) => "heard: another error",
        Answer::Cancelled => "heard: nothing, dropped",
        Answer::Done => "heard: done",
    }
}
