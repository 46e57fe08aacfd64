//! A plan: the operations of the clients, the faults, and the configuration of the engine of a
//! simulated run.
//!
//! A plan is generated from a seed (`generate.rs`). It is a proptest value (`shrink.rs`), so that a
//! failing plan can be shrunk, and serde data: a plan that found a bug is kept as a file, because a
//! changed generator makes another plan of the same seed. Plans are executed by `run.rs`.

use std::ops::Range;
use std::sync::OnceLock;

use cenotaph::{Namespace, ObjectId};
use serde::{Deserialize, Serialize};

use crate::faults::{Faults, Schedule, ScriptedFault};

mod fallback;
mod generate;
mod members;
pub(crate) mod payload;
mod shrink;
mod tiers;
mod uploads;

pub use fallback::SourcePlan;
pub use members::MembersPlan;
pub use shrink::{PlanTree, Plans};
pub use uploads::{BlobCut, Choice, Declared, UploadAction, UploadRules, Which};

/// Plan of a simulated run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlan {
    /// Seed of interleavings, random faults and ids.
    pub seed: u64,
    /// Configuration of the engine.
    pub setting: Setting,
    /// Interleaving of tasks.
    pub schedule: Schedule,
    /// Random faults.
    pub faults: Faults,
    /// Faults at chosen steps.
    pub acts: Vec<(u64, ScriptedFault)>,
    /// Maximum number of random crashes, so that the run ends.
    pub crashes_max: u32,
    /// Operations of each client, in sequence.
    pub clients: Vec<Vec<Op>>,
    /// `true` if clients repeat every operation until it is acknowledged, also across incarnations.
    // Fields with a default are newer than the oldest kept plan file.
    #[serde(default)]
    pub insistent: bool,
    /// Objects of the fallback over which the engine is opened, if there is one.
    #[serde(default)]
    pub fallback: Option<Vec<SourcePlan>>,
    /// Members that share the index, if several do. The clients are divided among them.
    #[serde(default)]
    pub members: Option<MembersPlan>,
}

/// Configuration of the engine. Its limits are small, so that a run reaches them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Number of shards.
    pub shards: usize,
    /// Maximum size of an inline payload, in bytes.
    pub inline_bytes_max: u64,
    /// Maximum number of concurrent uploads.
    pub uploads_at_once: usize,
    /// Maximum number of concurrent small writes.
    pub writes_at_once: usize,
    /// Maximum number of actor restarts within ten seconds before the engine fails.
    pub restarts_max: usize,
    /// `true` for byte budgets so small that uploads, writes and reads wait for them.
    pub scarce: bool,
    /// `true` for a blob tier that returns an error for the deletion of an absent blob.
    pub strict_deletes: bool,
    /// Division of large payloads into several blobs, if any.
    #[serde(default)]
    pub cut: Option<BlobCut>,
    /// Limits of multipart uploads.
    #[serde(default)]
    pub multipart: UploadRules,
    /// `true` for an index whose payloads become durable separately, before the batch that names
    /// them.
    #[serde(default)]
    pub payload_log: bool,
    /// Limits of last versions.
    #[serde(default)]
    pub last_versions: LastVersionRules,
}

/// Limits of the last versions that the index keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastVersionRules {
    /// Retention, in milliseconds.
    pub kept_for_ms: u64,
    /// Maximum number of entries.
    pub entries_max: u64,
}

impl Default for LastVersionRules {
    fn default() -> Self {
        Self {
            kept_for_ms: 30 * 24 * 3600 * 1000,
            entries_max: 1_000_000,
        }
    }
}

/// Operation of a client. Objects are numbered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Put.
    Put {
        /// Object to put.
        object: u32,
        /// Size of the payload in bytes.
        bytes: u64,
        /// Delivery of the payload.
        shape: Shape,
        /// Demand on the object.
        #[serde(default)]
        when: When,
        /// Lifetime of the object.
        #[serde(default)]
        lifetime: Lifetime,
    },
    /// Get of all or some bytes.
    Get {
        /// Object to read.
        object: u32,
        /// Range of bytes.
        span: Span,
        /// Pause before each chunk except the first, in milliseconds, for a slow reader.
        pause_ms: u64,
        /// `true` to drop the object after its first chunk.
        leave: bool,
    },
    /// Head.
    Head {
        /// Object to read.
        object: u32,
    },
    /// Delete.
    Delete {
        /// Object to delete.
        object: u32,
        /// Time after which the call is dropped, in milliseconds.
        dropped_after_ms: Option<u64>,
        /// Demand on the object.
        #[serde(default)]
        when: When,
    },
    /// Update: the version that the function reads is the precondition of its write.
    Update {
        /// Object to update.
        object: u32,
        /// Size of the new payload in bytes.
        bytes: u64,
        /// Decision of the function.
        fate: Fate,
        /// Duration of the function in milliseconds.
        pause_ms: u64,
        /// Lifetime of the new object.
        lifetime: Lifetime,
    },
    /// Change of metadata.
    Amend {
        /// Object to amend.
        object: u32,
        /// Demand on the object.
        when: When,
    },
    /// Change of the deadline.
    Extend {
        /// Object to extend.
        object: u32,
        /// Time from now to the new deadline, in milliseconds.
        ms: u64,
        /// `true` to accept an earlier deadline.
        may_shorten: bool,
        /// Demand on the object.
        when: When,
    },
    /// Atomic batch of writes. The first write is a put, and no object occurs twice.
    Atomic {
        /// Writes of the batch.
        pieces: Vec<BatchPiece>,
    },
    /// Batch of independent puts. No object occurs twice.
    Batch {
        /// Objects and payload sizes in bytes.
        puts: Vec<(u32, u64)>,
    },
    /// Copy.
    Copy {
        /// Source object.
        from: u32,
        /// Target object, different from the source.
        to: u32,
        /// `true` to require that the target is absent.
        if_absent: bool,
    },
    /// Rename.
    Rename {
        /// Source object.
        from: u32,
        /// Target object, different from the source.
        to: u32,
        /// `true` to require that the target is absent.
        if_absent: bool,
    },
    /// Deletion of all objects of the default namespace below a prefix.
    DeletePrefix {
        /// The prefix.
        prefix: String,
    },
    /// Usage report.
    Usage,
    /// Scrub with all repairs that lose no data, concurrent with other operations.
    Scrub,
    /// Disables or enables the namespace of every seventh object.
    Switch {
        /// `true` to disable.
        off: bool,
    },
    /// Page of a listing.
    List {
        /// `true` for the hot objects only.
        hot: bool,
        /// Maximum number of entries.
        limit: usize,
        /// Object after which the page starts.
        after: Option<u32>,
    },
    /// Page of a grouped listing.
    ListGroups {
        /// Prefix of all names.
        prefix: String,
        /// Delimiter of the groups.
        delimiter: char,
        /// Maximum number of entries.
        limit: usize,
        /// Name after which the page starts.
        after: Option<String>,
    },
    /// Listing as a stream of small pages.
    ListAll,
    /// Settle.
    Settle,
    /// Statistics.
    Stats,
    /// Pause of the client.
    Pause {
        /// Duration in milliseconds.
        ms: u64,
    },
    /// Opens the engine again, with a new epoch.
    Reopen {
        /// `true` to close the engine first, `false` to drop it.
        close: bool,
    },
    /// Attempt to open a second engine on the same index, which must be refused.
    OpenAnother,
    /// Migration from the fallback.
    Migrate {
        /// Time after which the call is dropped, in milliseconds.
        dropped_after_ms: Option<u64>,
    },
    /// Opens the engine over another blob tier, and that before as an older one.
    NextTier,
    /// Relocation of payloads from older blob tiers.
    Relocate {
        /// Time after which the call is dropped, in milliseconds.
        dropped_after_ms: Option<u64>,
    },
    /// Write of an outside writer to the fallback.
    WriteSource {
        /// Object to write.
        object: u32,
        /// Size of the payload in bytes.
        bytes: u64,
    },
    /// Step of the multipart upload in a slot.
    Multipart {
        /// Slot of the upload.
        slot: u32,
        /// The step.
        step: UploadAction,
    },
}

/// Demand of a write on the present state of its object.
///
/// The client reads the head of the object first if the demand contains a version or etag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// No demand.
    #[default]
    Any,
    /// The object is absent.
    Absent,
    /// The object has its present version, or is absent if it is absent at present.
    Version,
    /// The object has its present etag, or is absent if it is absent at present.
    Etag,
    /// The object has the version before its present version.
    Stale,
}

/// Lifetime of an object in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// No expiration.
    #[default]
    Forever,
    /// Time since the last write.
    Live(u64),
    /// Time since the last write or read.
    Idle(u64),
}

/// Decision of the function of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// Writes a new payload.
    Put,
    /// Deletes the object.
    Delete,
    /// Keeps the object unchanged.
    Keep,
    /// Returns an error.
    Fail,
}

/// Write of an atomic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPiece {
    /// Object to write.
    pub object: u32,
    /// Size of the payload in bytes, or `None` for a delete.
    pub bytes: Option<u64>,
    /// `true` to require that the object is absent.
    pub if_absent: bool,
}

/// Delivery of a payload. The first number of a variant is the size of its chunks in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// A single buffer.
    Bytes,
    /// Stream of chunks.
    Stream(u64),
    /// Stream of chunks, each after a pause of this many milliseconds.
    Slow(u64, u64),
    /// Stream of chunks with a promised length.
    Promised(u64),
    /// Stream of chunks that is one byte shorter than its promised length.
    Broken(u64),
    /// Stream of chunks with an error at the end.
    Failing(u64),
    /// Stream of chunks whose call is dropped after this many milliseconds.
    Dropped(u64, u64),
}

impl Shape {
    /// Returns `true` if the stream of the payload makes the put fail.
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

/// Range of bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Span {
    /// All bytes.
    All,
    /// Bytes from the first offset (inclusive) to the second (exclusive).
    Between(u64, u64),
    /// Bytes from this offset to the end.
    From(u64),
    /// This many bytes at the end.
    Last(u64),
}

impl Span {
    /// Returns the byte offsets of the range in an object of this size.
    pub(crate) fn of(self, size: u64) -> Range<u64> {
        match self {
            Self::All => 0..size,
            // Never ends before its start, even if it is not satisfiable.
            Self::Between(start, end) => start..end.min(size).max(start),
            Self::From(start) => start..size,
            Self::Last(bytes) => size.saturating_sub(bytes)..size,
        }
    }

    /// Returns `true` if the range is satisfiable for an object of this size.
    pub(crate) const fn fits(self, size: u64) -> bool {
        match self {
            Self::All | Self::Last(_) => true,
            Self::Between(start, end) => {
                // An empty range needs no byte, and an empty object accepts ranges from 0.
                start < size || (start == end && start <= size) || (start == 0 && size == 0)
            }
            Self::From(start) => start < size || (start == 0 && size == 0),
        }
    }
}

/// Number of hot objects, which all clients use often. Objects with smaller numbers are hot.
pub(crate) const HOT: u32 = 4;

/// Returns the namespace of every seventh object.
pub(crate) fn other_namespace() -> Namespace {
    let other = Namespace::new("other").and_then(|other| other.with_scope("org", "17"));
    other.expect("the names of a plan are valid")
}

/// Number of ids that are kept. Most plans have no others.
const KNOWN_IDS: usize = 128;

/// Returns the id of the object with this number. Every fourth object has a long name, so that its
/// blobs have trailers.
pub(crate) fn object_id(object: u32) -> ObjectId {
    // Each call of each run names an object.
    static KNOWN: [OnceLock<ObjectId>; KNOWN_IDS] = [const { OnceLock::new() }; KNOWN_IDS];
    match KNOWN.get(object as usize) {
        Some(known) => known.get_or_init(|| make_id(object)).clone(),
        None => make_id(object),
    }
}

fn make_id(object: u32) -> ObjectId {
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
    ObjectId::new(&namespace, &key).expect("the names of a plan are valid")
}

/// Returns a put of this many bytes as a single buffer, without demand and expiration.
pub(crate) const fn put(object: u32, bytes: u64) -> Op {
    Op::Put {
        object,
        bytes,
        shape: Shape::Bytes,
        when: When::Any,
        lifetime: Lifetime::Forever,
    }
}

impl RunPlan {
    /// Returns the number of operations of all clients.
    pub fn operations(&self) -> usize {
        self.clients.iter().map(Vec::len).sum()
    }

    /// Returns the plan without faults.
    #[must_use]
    pub fn without_faults(mut self) -> Self {
        self.faults = Faults::default();
        self.acts.clear();
        self
    }
}
