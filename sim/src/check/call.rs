//! Calls of clients and their answers, as the checkers record them.

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::format::Row;
use crate::plan::{Fate, Span};
use crate::trace::Tick;

/// Call of a client. Objects are named by their row keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Put of a payload that no other write has. `fails` is true if its stream fails.
    Put {
        object: Bytes,
        write: u64,
        fails: bool,
        bytes: u64,
        /// True if the payload goes to the blob tier.
        large: bool,
        demand: Demand,
    },
    /// Update that writes such a payload, deletes the object, or does neither.
    Update {
        object: Bytes,
        write: u64,
        fate: Fate,
        bytes: u64,
    },
    /// Change without new bytes.
    Change {
        object: Bytes,
        how: MetadataChange,
        demand: Demand,
    },
    /// Copy or rename.
    Move {
        from: Bytes,
        to: Bytes,
        how: Moving,
        if_absent: bool,
    },
    /// Writes that commit together.
    Atomic {
        pieces: Vec<AtomicPiece>,
    },
    /// Read of all bytes, of a range, or of the head alone.
    Read {
        object: Bytes,
        kind: Reading,
        span: Span,
    },
    Delete {
        object: Bytes,
        demand: Demand,
    },
    /// Deletion of every object below a prefix.
    DeletePrefix {
        prefix: Bytes,
    },
    /// Page of keys after `after`, below `prefix`.
    List {
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    },
    /// Page of keys grouped by `delimiter`. A group has version 0.
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
    /// Call that concerns a multipart upload.
    Multipart(Asked),
    /// Any other call.
    Other,
}

/// Call that concerns a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) object: Bytes,
    /// Upload, by the number of the call that began it.
    pub(crate) of: u64,
    pub(crate) what: About,
}

/// Request about an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Begins the upload.
    Begin { demand: Demand },
    /// Uploads a part with the payload of this write. `fails` is true if its stream fails or its
    /// bytes are not those declared.
    Part {
        number: u32,
        write: u64,
        bytes: u64,
        fails: bool,
    },
    /// Copies bytes of an object into a part.
    PartOf {
        number: u32,
        from: Bytes,
        span: Span,
    },
    /// Completes the upload with the listed parts and etags, or with all parts if none are listed.
    Complete {
        listed: Option<Vec<(u32, u128)>>,
        demand: Demand,
    },
    /// Aborts the upload.
    Abort,
    /// Resumes the upload.
    Resume,
    /// Resumes an upload that does not exist.
    ResumeOther,
    /// Lists the stored parts.
    Parts { after: Option<u32>, limit: usize },
    /// Lists the open uploads to objects below a prefix. `of` and the object have no meaning here.
    Uploads { prefix: Bytes, limit: usize },
}

/// Write of an atomic batch: a put, or a delete if `write` is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AtomicPiece {
    pub(crate) object: Bytes,
    pub(crate) write: Option<u64>,
    pub(crate) if_absent: bool,
}

/// Change without new bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MetadataChange {
    /// Change of the metadata, with a number that no other call has.
    Amend(u64),
    /// Change of the deadline.
    Extend,
}

/// Kind of move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moving {
    Copy,
    Rename,
}

/// Precondition of a call on its object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Demand {
    #[default]
    Nothing,
    Absent,
    Version(u64),
    Etag(String),
}

impl Demand {
    /// Returns true if an object with this row meets the precondition. `None` is an absent object.
    pub(crate) fn is_met(&self, row: Option<&Row>) -> bool {
        match self {
            Self::Nothing => true,
            Self::Absent => row.is_none(),
            Self::Version(version) => row.is_some_and(|row| row.version == *version),
            Self::Etag(etag) => row.is_some_and(|row| row.etag() == *etag),
        }
    }
}

/// Part of an object that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Head,
    Bytes,
}

/// Answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Applied {
        version: u64,
        etag: String,
        created: bool,
    },
    Superseded,
    /// The precondition was not met. Contains the object, if the answer names it, and its version
    /// and etag, if it exists.
    Conflict {
        of: Option<Bytes>,
        current: Option<(u64, String)>,
    },
    /// Answers of the writes of an atomic batch, in order.
    Together(Vec<Answer>),
    /// Damage that a scrub found.
    Scrubbed {
        damage: Vec<String>,
        /// Number of findings that the shards did not confirm.
        unconfirmed: u64,
    },
    /// An update kept the object.
    Kept,
    Deleted {
        existed: bool,
    },
    Found(FoundObject),
    Absent,
    /// The range begins after the end of the object.
    NotSatisfiable {
        size: u64,
    },
    Listed(Listed),
    /// An upload has begun, with this id.
    Began {
        upload: Bytes,
    },
    /// A part is stored.
    Filed {
        etag: u128,
        bytes: u64,
    },
    /// Numbers, etags and lengths of parts. True if there are more.
    Parts(Vec<(u32, u128, u64)>, bool),
    /// Uploads by object and id. True if there are more.
    Uploads(Vec<(Bytes, Bytes)>, bool),
    Failed(ErrorKind),
    /// The client dropped the call.
    Cancelled,
    Done,
}

/// Object that a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundObject {
    pub(crate) version: u64,
    pub(crate) etag: String,
    pub(crate) size: u64,
    pub(crate) write: Option<u64>,
    /// Tick at which the head arrived. The bytes may have arrived later.
    pub(crate) opened: Tick,
    pub(crate) content: ReadContent,
}

/// Result of the read of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadContent {
    NotAsked,
    AsPut,
    /// The client did not read to the end.
    Left,
    Wrong,
    Failed(ErrorKind),
}

/// Page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Keys and versions, in the order of the page.
    pub(crate) entries: Vec<(Bytes, u64)>,
    pub(crate) has_next: bool,
}

/// Call of a client and its answer.
pub(super) struct Called {
    pub(super) call: Call,
    pub(super) at: Tick,
    pub(super) answer: Option<(Tick, Answer)>,
}
