//! What clients ask and hear, as the checkers know it. Deliberately not here: who asks (`client.rs`), and what may be heard
//! when (`history.rs`).

use bytes::Bytes;
use cenotaph::ErrorKind;

use crate::plan::Span;
use crate::trace::Tick;

/// What a client asked. Objects go by their key in the row table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A put, of a payload that nobody else puts. `fails` if its stream does.
    Put {
        object: Bytes,
        write: u64,
        fails: bool,
        bytes: u64,
        /// Whether it goes to the blob tier.
        large: bool,
    },
    /// A read of all or some bytes, or of the head alone.
    Read {
        object: Bytes,
        kind: Reading,
        span: Span,
    },
    Delete {
        object: Bytes,
    },
    /// A page of keys after `after`, below `prefix`.
    List {
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    },
    /// A page of keys grouped by `delimiter`. A group has version 0.
    ListGroups {
        prefix: Bytes,
        delimiter: char,
        after: Option<Bytes>,
        limit: usize,
    },
    /// All keys below `prefix`, page by page.
    ListAll {
        prefix: Bytes,
    },
    /// Whatever else may be asked.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Head,
    Bytes,
}

/// What it heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Applied {
        version: u64,
        etag: String,
        created: bool,
    },
    Superseded,
    Deleted {
        existed: bool,
    },
    Found(Found),
    Absent,
    /// The range begins beyond the object's end.
    NotSatisfiable {
        size: u64,
    },
    Listed(Listed),
    Failed(ErrorKind),
    /// The client gave up and dropped the call.
    Cancelled,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) version: u64,
    pub(crate) etag: String,
    pub(crate) size: u64,
    pub(crate) write: Option<u64>,
    /// When the head was there; the bytes may have come later.
    pub(crate) opened: Tick,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    NotAsked,
    AsPut,
    /// The client did not read to the end.
    Left,
    Wrong,
    Failed(ErrorKind),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Keys and versions, in the order in which they came.
    pub(crate) entries: Vec<(Bytes, u64)>,
    pub(crate) has_next: bool,
}

/// One call of a client, and what came of it.
pub(super) struct Called {
    pub(super) call: Call,
    pub(super) at: Tick,
    pub(super) answer: Option<(Tick, Answer)>,
}
