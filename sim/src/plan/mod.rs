//! A plan: everything that a simulated run does beyond its seed. What each client asks, what goes wrong, and how the
//! engine is set up.
//!
//! A plan is a function of a seed (`generate.rs`) and a proptest value (`shrink.rs`), so that a plan that fails shrinks to
//! a small one. It is serde data too: a plan that found a bug is kept as a file, for its seed means another plan once the
//! generator has changed. Deliberately not here: running it (`run.rs`).

use cenotaph::{Namespace, ObjectId};
use serde::{Deserialize, Serialize};

use crate::faults::{Faults, Schedule};
use crate::machine::Act;

mod generate;
mod shrink;

pub use shrink::{PlanTree, Plans};

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
            Self::Bytes | Self::Stream(_) | Self::Slow(..) | Self::Promised(_) | Self::Dropped(..) => false,
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
    /// Whether an object of this size has a byte to begin with.
    pub(crate) const fn fits(self, size: u64) -> bool {
        match self {
            Self::All | Self::Last(_) => true,
            Self::Between(start, end) => start < size || (start == end && start <= size) || (start == 0 && size == 0),
            Self::From(start) => start < size || (start == 0 && size == 0),
        }
    }
}

/// Objects with a number below this are hot: every client wants them.
pub(crate) const HOT: u32 = 4;

/// The object of this number. Every seventh lies in a namespace of its own.
pub(crate) fn object_id(object: u32) -> ObjectId {
    let key = if object < HOT { format!("hot/{object}") } else { format!("cold/{object:05}") };
    let namespace = match object % 7 {
        6 => Namespace::new("other").and_then(|other| other.with_scope("org", "17")),
        _ => Ok(Namespace::default_namespace()),
    };
    namespace.and_then(|namespace| ObjectId::new(&namespace, &key)).expect("the names of a plan are legal")
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
