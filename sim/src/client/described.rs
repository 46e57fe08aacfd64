//! Descriptions of the calls and answers of a client, for the checks, the timeline and the
//! coverage.

use bytes::Bytes;
use cenotaph::ErrorKind;

use crate::check::{
    Answer, AtomicPiece, Call, Demand, FoundObject, MetadataChange, Moving, ReadContent, Reading,
};
use crate::plan::{Op, Shape, Span, object_id};

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

/// Returns the call of an operation, for the checks.
pub(super) fn call_of(op: &Op, write: u64, demand: Demand, inline_bytes_max: u64) -> Call {
    match op {
        Op::Put {
            object,
            bytes,
            shape,
            ..
        } => Call::Put {
            object: key(*object),
            write,
            fails: shape.fails(),
            bytes: *bytes,
            // A broken stream promises one byte more than it has.
            large: bytes + u64::from(matches!(shape, Shape::Broken(_))) > inline_bytes_max,
            demand,
        },
        Op::Delete { object, .. } => Call::Delete {
            object: key(*object),
            demand,
        },
        Op::Update {
            object,
            bytes,
            fate,
            ..
        } => Call::Update {
            object: key(*object),
            write,
            fate: *fate,
            bytes: *bytes,
        },
        Op::Amend { object, .. } => Call::Change {
            object: key(*object),
            how: MetadataChange::Amend(write),
            demand,
        },
        Op::Extend { object, .. } => Call::Change {
            object: key(*object),
            how: MetadataChange::Extend,
            demand,
        },
        Op::Copy {
            from,
            to,
            if_absent,
        } => move_of(*from, *to, Moving::Copy, *if_absent),
        Op::Rename {
            from,
            to,
            if_absent,
        } => move_of(*from, *to, Moving::Rename, *if_absent),
        Op::Atomic { pieces } => {
            let asked = pieces.iter().enumerate().map(|(place, piece)| AtomicPiece {
                object: key(piece.object),
                write: piece.bytes.is_some().then(|| write_of_piece(write, place)),
                if_absent: piece.if_absent,
            });
            Call::Atomic {
                pieces: asked.collect(),
            }
        }
        Op::DeletePrefix { prefix } => Call::DeletePrefix {
            prefix: default(prefix),
        },
        op => read_of(op),
    }
}

/// Returns the call of a copy or a rename.
fn move_of(from: u32, to: u32, how: Moving, if_absent: bool) -> Call {
    Call::Move {
        from: key(from),
        to: key(to),
        how,
        if_absent,
    }
}

/// Returns the call of an operation that writes no object.
fn read_of(op: &Op) -> Call {
    match op {
        Op::Get { object, span, .. } => Call::Read {
            object: key(*object),
            kind: Reading::Bytes,
            span: *span,
        },
        Op::Head { object } => Call::Read {
            object: key(*object),
            kind: Reading::Head,
            span: Span::All,
        },
        Op::List { hot, limit, after } => Call::List {
            prefix: default(if *hot { "hot/" } else { "" }),
            after: after.map(|after| default(object_id(after).key())),
            limit: *limit,
        },
        Op::ListGroups {
            prefix,
            delimiter,
            limit,
            after,
        } => Call::ListGroups {
            prefix: default(prefix),
            delimiter: *delimiter,
            after: after.as_ref().map(|after| default(after)),
            limit: *limit,
        },
        Op::ListAll => Call::ListAll {
            prefix: default(""),
        },
        _ => Call::Other,
    }
}

/// Returns the description of an operation for the timeline.
pub(super) fn described(op: &Op, write: u64, demand: &Demand) -> String {
    match op {
        Op::Put {
            object,
            bytes,
            shape,
            lifetime,
            ..
        } => format!(
            "put {} {bytes} bytes, write {write}, {shape:?}, {demand:?}, {lifetime:?}",
            object_id(*object)
        ),
        Op::Delete { object, .. } => format!("delete {}, {demand:?}", object_id(*object)),
        Op::Update {
            object,
            bytes,
            fate,
            ..
        } => format!(
            "update {} to {bytes} bytes, write {write}, {fate:?}",
            object_id(*object)
        ),
        Op::Amend { object, .. } => format!("amend {}, {write}, {demand:?}", object_id(*object)),
        Op::Extend {
            object,
            ms,
            may_shorten,
            ..
        } => format!(
            "extend {} by {ms} ms, shorten={may_shorten}, {demand:?}",
            object_id(*object)
        ),
        Op::Copy {
            from,
            to,
            if_absent,
        } => format!(
            "copy {} to {}, if_absent={if_absent}",
            object_id(*from),
            object_id(*to)
        ),
        Op::Rename {
            from,
            to,
            if_absent,
        } => format!(
            "rename {} to {}, if_absent={if_absent}",
            object_id(*from),
            object_id(*to)
        ),
        Op::Atomic { pieces } => format!("atomic batch, write {write}: {pieces:?}"),
        Op::DeletePrefix { prefix } => format!("delete all below {prefix}"),
        Op::Get { object, span, .. } => format!("get {} {span:?}", object_id(*object)),
        Op::Head { object } => format!("head {}", object_id(*object)),
        Op::List { hot, limit, after } => format!("list hot={hot} limit={limit} after={after:?}"),
        Op::ListGroups {
            prefix,
            delimiter,
            limit,
            after,
        } => format!("list prefix={prefix} delimiter={delimiter} limit={limit} after={after:?}"),
        Op::ListAll => "list all".to_owned(),
        op => format!("{op:?}"),
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
        Answer::Found(FoundObject {
            content: ReadContent::AsPut,
            ..
        }) => "heard: found, bytes as put",
        Answer::Found(FoundObject {
            content: ReadContent::NotAsked,
            ..
        }) => "heard: found, head only",
        Answer::Found(FoundObject {
            content: ReadContent::Failed(_),
            ..
        }) => "heard: found, bytes failed half-way",
        Answer::Found(FoundObject {
            content: ReadContent::Left,
            ..
        }) => "heard: found, left half-way",
        Answer::Found(FoundObject {
            content: ReadContent::Wrong,
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
