//! What a plan asks about multipart uploads: [`Step`], one thing about the upload that a slot
//! holds.
//!
//! Slots are numbered, and all clients share them, in all lives: so two of them race for the same
//! upload, and one goes on with what another began, or it began itself before a crash. Deliberately
//! not here: asking (`client/uploads.rs`).

use serde::{Deserialize, Serialize};

use super::{Lifetime, Shape, Span, When};

/// What is asked about the upload of a slot. Nothing, as long as the slot is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Begins one: from then on the slot holds it.
    Initiate {
        /// The object.
        object: u32,
        /// What must be true of the object, now and when it is completed.
        when: When,
        /// How long the object will exist.
        lifetime: Lifetime,
    },
    /// A part.
    Part {
        /// Its number.
        number: u32,
        /// Its length.
        bytes: u64,
        /// How its payload comes.
        shape: Shape,
        /// What is said of its bytes beforehand.
        declared: Declared,
    },
    /// A part that is made of an object.
    CopyPart {
        /// Its number.
        number: u32,
        /// The object.
        from: u32,
        /// Which bytes of it.
        span: Span,
    },
    /// A page of the parts.
    Parts {
        /// Behind this number.
        after: Option<u32>,
        /// Most entries.
        limit: usize,
    },
    /// A page of the open uploads to all objects of the default namespace, or to the hot ones.
    Uploads {
        /// Only to the hot objects.
        hot: bool,
        /// Most entries.
        limit: usize,
    },
    /// Makes the object.
    Complete {
        /// Of which parts.
        choice: Choice,
        /// What must be true of the object.
        when: When,
    },
    /// Gives the upload up.
    Abort,
    /// Takes the upload up again.
    Resume {
        /// Which one.
        which: Which,
    },
}

/// What is said of a part's bytes beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Declared {
    /// Nothing.
    Nothing,
    /// Their checksum.
    Right,
    /// The checksum of others: such a part must be refused.
    Wrong,
}

/// Which parts are listed, of those that any client heard are filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// None is listed: all that there are become the object.
    Unlisted,
    /// All.
    Listed,
    /// Every other.
    Half,
    /// All, the last of them with the etag of something else.
    WrongEtag,
    /// All, from the last to the first.
    Backwards,
    /// One more than there are.
    Missing,
}

/// Which upload is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// The slot's.
    Ours,
    /// One that nobody began.
    Forged,
    /// The slot's, as if it were to another object.
    Foreign,
}

/// How large payloads are cut into several blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Longest payload that is one blob.
    pub over_bytes: u64,
    /// Bytes of each blob of a longer one.
    pub part_bytes: u64,
    /// Blobs under way at a time.
    pub at_once: usize,
}

/// How uploads are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRules {
    /// How long one may take.
    pub lifetime_ms: u64,
    /// How long it is remembered what came of it.
    pub kept_for_ms: u64,
    /// Fewest bytes of each part but the last.
    pub part_bytes_min: u64,
}

/// Uploads that outlive every run, as the engine has them unless told.
impl Default for UploadRules {
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        Self {
            lifetime_ms: 7 * DAY_MS,
            kept_for_ms: DAY_MS,
            part_bytes_min: 0,
        }
    }
}
