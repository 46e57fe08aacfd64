//! What clients ask and hear, as the checkers know it. Deliberately not here: who asks
//! (`client.rs`), and what may be heard when (`history.rs`).

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::format::Row;
use crate::plan::{Fate, Span};
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
        demand: Demand,
    },
    /// An update that writes such a payload, or deletes, or neither.
    Update {
        object: Bytes,
        write: u64,
        fate: Fate,
        bytes: u64,
    },
    /// A change that leaves the bytes alone.
    Change {
        object: Bytes,
        how: Change,
        demand: Demand,
    },
    /// A copy or a rename.
    Move {
        from: Bytes,
        to: Bytes,
        how: Moving,
        if_absent: bool,
    },
    /// Writes that happen together: objects, and what is put, or none for a delete.
    Atomic {
        pieces: Vec<AtomicPiece>,
    },
    /// A read of all or some bytes, or of the head alone.
    Read {
        object: Bytes,
        kind: Reading,
        span: Span,
    },
    Delete {
        object: Bytes,
        demand: Demand,
    },
    /// A deletion of everything below a prefix.
    DeletePrefix {
        prefix: Bytes,
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
    /// Something about a multipart upload.
    Multipart(Asked),
    /// Whatever else may be asked.
    Other,
}

/// Something about a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) object: Bytes,
    /// Which upload: the number of the call that began it.
    pub(crate) of: u64,
    pub(crate) what: About,
}

/// What is asked about an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// It begins.
    Begin {
        demand: Demand,
    },
    /// A part with the payload of this write. `fails` if its stream does, or it is not what was
    /// declared.
    Part {
        number: u32,
        write: u64,
        bytes: u64,
        fails: bool,
    },
    /// A part with bytes of an object.
    PartOf {
        number: u32,
        from: Bytes,
        span: Span,
    },
    /// It becomes the object: of these parts and etags, or of all if none are listed.
    Complete {
        listed: Option<Vec<(u32, u128)>>,
        demand: Demand,
    },
    Abort,
    /// It is taken up again.
    Resume,
    /// One that there is not is taken up.
    ResumeOther,
    Parts {
        after: Option<u32>,
        limit: usize,
    },
    /// The open uploads to objects below a prefix. `of` and the object say nothing.
    Uploads {
        prefix: Bytes,
        limit: usize,
    },
}

/// A write of an atomic batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AtomicPiece {
    pub(crate) object: Bytes,
    pub(crate) write: Option<u64>,
    pub(crate) if_absent: bool,
}

/// A change that leaves the bytes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Of the metadata; with a number that no other call has.
    Amend(u64),
    /// Of the deadline.
    Extend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moving {
    Copy,
    Rename,
}

/// What a call demands of its object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Demand {
    #[default]
    Nothing,
    Absent,
    Version(u64),
    Etag(String),
}

impl Demand {
    /// Whether it is met by an object that stands so; none if it is absent.
    pub(crate) fn is_met(&self, row: Option<&Row>) -> bool {
        match self {
            Self::Nothing => true,
            Self::Absent => row.is_none(),
            Self::Version(version) => row.is_some_and(|row| row.version == *version),
            Self::Etag(etag) => row.is_some_and(|row| row.etag() == *etag),
        }
    }
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
    /// A precondition did not hold: of which object, if it says so, and its version and etag, if it
    /// is there.
    Conflict {
        of: Option<Bytes>,
        current: Option<(u64, String)>,
    },
    /// What writes that happened together came to, one by one.
    Together(Vec<Answer>),
    /// A scrub found this damage.
    Scrubbed {
        damage: Vec<String>,
        /// Findings that its shards did not confirm.
        unconfirmed: u64,
    },
    /// An update left the object as it is.
    Kept,
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
    /// An upload has begun, with this id.
    Began {
        upload: Bytes,
    },
    /// A part is filed.
    Filed {
        etag: u128,
        bytes: u64,
    },
    /// Numbers, etags and lengths of parts, and whether there are more.
    Parts(Vec<(u32, u128, u64)>, bool),
    /// Uploads, by their objects and ids, and whether there are more.
    Uploads(Vec<(Bytes, Bytes)>, bool),
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
