//! A plan: everything that a simulated run does beyond its seed. What each client asks, what goes
//! wrong, and how the engine is set up.
//!
//! A plan is a function of a seed (`generate.rs`) and a proptest value (`shrink.rs`), so that a
//! plan that fails shrinks to a small one. It is serde data too: a plan that found a bug is kept as
//! a file, for its seed means another plan once the generator has changed. Deliberately not here:
//! running it (`run.rs`).

use std::ops::Range;

use cenotaph::{Namespace, ObjectId};
use serde::{Deserialize, Serialize};

use crate::faults::{Faults, Schedule};
use crate::machine::Act;

mod generate;
mod shrink;
mod uploads;

pub use shrink::{PlanTree, Plans};
pub use uploads::{Choice, Cut, Declared, Step, UploadRules, Which};

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Chance: interleavings, when faults strike, ids.
    pub seed: u64,
    /// How the engine is set up.
    pub setting: Setting,
    /// How tasks are interleaved.
    pub schedule: Schedule,
    /// What goes wrong by chance.
    pub faults: Faults,
    /// What goes wrong at chosen steps.
    pub acts: Vec<(u64, Act)>,
    /// Most crashes by chance; after that they cease, so that the run comes to an end.
    pub crashes_max: u32,
    /// What each client asks, one thing after the other.
    pub clients: Vec<Vec<Op>>,
    /// A client repeats what was not acknowledged, in this life or the next, until it is.
    #[serde(default)]
    pub insistent: bool,
}

/// How the engine is set up: small limits, so that a run meets them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Shards.
    pub shards: usize,
    /// Longest inline payload.
    pub inline_bytes_max: u64,
    /// Uploads at once.
    pub uploads_at_once: usize,
    /// Small writes at once.
    pub writes_at_once: usize,
    /// Restarts of actors within ten seconds, before the engine fails.
    pub restarts_max: usize,
    /// Byte budgets so small that uploads, writes and reads wait for them.
    pub scarce: bool,
    /// A blob tier that calls the deletion of what is not there an error.
    pub strict_deletes: bool,
    /// Large payloads become several blobs.
    #[serde(default)]
    pub cut: Option<Cut>,
    /// Limits of multipart uploads.
    #[serde(default)]
    pub multipart: UploadRules,
}

/// What a client asks. Objects are numbered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A put.
    Put {
        /// The object.
        object: u32,
        /// Its length.
        bytes: u64,
        /// How the payload comes.
        shape: Shape,
        /// What must be true of the object.
        #[serde(default)]
        when: When,
        /// How long it exists.
        #[serde(default)]
        lifetime: Lifetime,
    },
    /// A get of all or some bytes.
    Get {
        /// The object.
        object: u32,
        /// Which bytes.
        span: Span,
        /// A pause before each chunk but the first, in milliseconds: a slow reader.
        pause_ms: u64,
        /// Drops the object after its first chunk.
        leave: bool,
    },
    /// A head.
    Head {
        /// The object.
        object: u32,
    },
    /// A delete.
    Delete {
        /// The object.
        object: u32,
        /// The call is dropped after so many milliseconds.
        dropped_after_ms: Option<u64>,
        /// What must be true of the object.
        #[serde(default)]
        when: When,
    },
    /// An update: what it reads decides under which condition it writes.
    Update {
        /// The object.
        object: u32,
        /// The length of what it writes.
        bytes: u64,
        /// What it makes of the object.
        fate: Fate,
        /// How long its function takes, in milliseconds.
        pause_ms: u64,
        /// How long what it writes exists.
        lifetime: Lifetime,
    },
    /// A change of metadata.
    Amend {
        /// The object.
        object: u32,
        /// What must be true of it.
        when: When,
    },
    /// Another deadline.
    Extend {
        /// The object.
        object: u32,
        /// So many milliseconds from now.
        ms: u64,
        /// Even if that is earlier.
        may_shorten: bool,
        /// What must be true of it.
        when: When,
    },
    /// Writes that happen all or not at all. The first is a put; no object occurs twice.
    Atomic {
        /// The writes.
        pieces: Vec<Piece>,
    },
    /// Puts in one batch, each by itself: objects and lengths. No object occurs twice.
    Batch {
        /// The puts.
        puts: Vec<(u32, u64)>,
    },
    /// A copy.
    Copy {
        /// Of this object.
        from: u32,
        /// To this one, another.
        to: u32,
        /// Only if that is absent.
        if_absent: bool,
    },
    /// A rename.
    Rename {
        /// Of this object.
        from: u32,
        /// To this one, another.
        to: u32,
        /// Only if that is absent.
        if_absent: bool,
    },
    /// A deletion of all objects of the default namespace below a prefix.
    DeletePrefix {
        /// The prefix.
        prefix: String,
    },
    /// A count of everything.
    Usage,
    /// A scrub that repairs what loses nothing, beside everything else.
    Scrub,
    /// Switches the namespace that every seventh object lies in off, or on again.
    Switch {
        /// Off.
        off: bool,
    },
    /// A page of a listing.
    List {
        /// Only the hot objects.
        hot: bool,
        /// Most entries.
        limit: usize,
        /// Behind this object.
        after: Option<u32>,
    },
    /// A page of a listing grouped by a digit, behind this name.
    ListGroups {
        /// Below this prefix.
        prefix: String,
        /// Grouped by this.
        delimiter: char,
        /// Most entries.
        limit: usize,
        /// Behind this name.
        after: Option<String>,
    },
    /// A listing as a stream of small pages.
    ListAll,
    /// A settle.
    Settle,
    /// Statistics.
    Stats,
    /// Nothing, for so long, in milliseconds.
    Pause {
        /// Milliseconds.
        ms: u64,
    },
    /// Opens the engine again: a new epoch.
    Reopen {
        /// Closes it first, instead of only dropping it.
        close: bool,
    },
    /// Tries to open a second engine on the same index, which must be refused.
    OpenAnother,
    /// Something about the multipart upload that a slot holds.
    Multipart {
        /// The slot.
        slot: u32,
        /// What.
        step: Step,
    },
}

/// What a client demands of an object before it writes. It looks at the object first, where it must
/// name a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Nothing.
    #[default]
    Any,
    /// That it is absent.
    Absent,
    /// That it still has the version that it has; that it is absent, if it is.
    Version,
    /// That it still has the etag that it has; that it is absent, if it is.
    Etag,
    /// That it has a version that it had before.
    Stale,
}

/// How long an object exists, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// For ever.
    #[default]
    Forever,
    /// So long after it was written.
    Live(u64),
    /// So long after it was written or read.
    Idle(u64),
}

/// What an update makes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// Another one.
    Put,
    /// None.
    Delete,
    /// It stays as it is.
    Keep,
    /// Its function fails.
    Fail,
}

/// A write of an atomic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The object.
    pub object: u32,
    /// The length of what is put; none for a delete.
    pub bytes: Option<u64>,
    /// Only if the object is absent.
    pub if_absent: bool,
}

/// How a payload comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// All at once.
    Bytes,
    /// In chunks of so many bytes.
    Stream(u64),
    /// In chunks of so many bytes, each after a pause of so many milliseconds.
    Slow(u64, u64),
    /// In chunks of so many bytes, of a length promised beforehand.
    Promised(u64),
    /// The same, but one byte short of its promise.
    Broken(u64),
    /// In chunks of so many bytes, with an error at the end.
    Failing(u64),
    /// In chunks of so many bytes; the call is dropped after so many milliseconds.
    Dropped(u64, u64),
}

impl Shape {
    /// Whether the payload's own stream fails the put.
    pub const fn fails(self) -> bool {
        match self {
            Self::Broken(_) | Self::Failing(_) => true,
            Self::Bytes
            | Self::Stream(_)
            | Self::Slow(..)
            | Self::Promised(_)
            | Self::Dropped(..) => false,
        }
    }
}

/// Which bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Span {
    /// All.
    All,
    /// From the one to before the other.
    Between(u64, u64),
    /// From here on.
    From(u64),
    /// So many at the end.
    Last(u64),
}

impl Span {
    /// Which bytes these are of an object of this size.
    pub(crate) fn of(self, size: u64) -> Range<u64> {
        match self {
            Self::All => 0..size,
            Self::Between(start, end) => start..end.min(size).max(start),
            Self::From(start) => start..size,
            Self::Last(bytes) => size.saturating_sub(bytes)..size,
        }
    }

    /// Whether an object of this size has a byte to begin with.
    pub(crate) const fn fits(self, size: u64) -> bool {
        match self {
            Self::All | Self::Last(_) => true,
            Self::Between(start, end) => {
                start < size || (start == end && start <= size) || (start == 0 && size == 0)
            }
            Self::From(start) => start < size || (start == 0 && size == 0),
        }
    }
}

/// Objects with a number below this are hot: every client wants them.
pub(crate) const HOT: u32 = 4;

/// The namespace of every seventh object.
pub(crate) fn other_namespace() -> Namespace {
    let other = Namespace::new("other").and_then(|other| other.with_scope("org", "17"));
    other.expect("the names of a plan are legal")
}

/// The object of this number. Every fourth has a long name, so that its blobs have trailers.
pub(crate) fn object_id(object: u32) -> ObjectId {
    let mut key = if object < HOT {
        format!("hot/{object}")
    } else {
        format!("cold/{object:05}")
    };
    if object % 4 == 3 {
        key.push_str(&"é".repeat(30));
    }
    let namespace = if object % 7 == 6 {
        other_namespace()
    } else {
        Namespace::default_namespace()
    };
    ObjectId::new(&namespace, &key).expect("the names of a plan are legal")
}

/// A put of so many bytes, all at once, with nothing demanded.
pub(crate) const fn put(object: u32, bytes: u64) -> Op {
    Op::Put {
        object,
        bytes,
        shape: Shape::Bytes,
        when: When::Any,
        lifetime: Lifetime::Forever,
    }
}

impl Plan {
    /// Operations of all clients together.
    pub fn operations(&self) -> usize {
        self.clients.iter().map(Vec::len).sum()
    }

    /// The same plan without faults.
    #[must_use]
    pub fn without_faults(mut self) -> Self {
        self.faults = Faults::default();
        self.acts.clear();
        self
    }
}
