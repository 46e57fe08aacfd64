//! Steps of multipart uploads in a plan: [`UploadAction`], and the limits of uploads.
//!
//! Each upload is in a numbered slot. All clients share the slots in all incarnations. Clients
//! therefore race for the same upload, and a client continues an upload that another client
//! started, or that it started itself before a crash. Steps are performed by `client/uploads.rs`.

use serde::{Deserialize, Serialize};

use super::{Lifetime, Shape, Span, When};

/// Step of the upload in a slot. If the slot is empty, every step but `Initiate` and `Uploads` does
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadAction {
    /// Starts an upload and stores it in the slot.
    Initiate {
        /// Object of the upload.
        object: u32,
        /// Demand on the object, at the start and at the completion.
        when: When,
        /// Lifetime of the object.
        lifetime: Lifetime,
    },
    /// Uploads a part.
    Part {
        /// Number of the part.
        number: u32,
        /// Size of the part in bytes.
        bytes: u64,
        /// Delivery of the payload.
        shape: Shape,
        /// Declared checksum.
        declared: Declared,
    },
    /// Copies a part from an object.
    CopyPart {
        /// Number of the part.
        number: u32,
        /// Source object.
        from: u32,
        /// Range of bytes of the source.
        span: Span,
    },
    /// Lists a page of the parts.
    Parts {
        /// Number after which the page starts.
        after: Option<u32>,
        /// Maximum number of entries.
        limit: usize,
    },
    /// Lists a page of the open uploads to objects of the default namespace.
    Uploads {
        /// `true` for uploads to hot objects only.
        hot: bool,
        /// Maximum number of entries.
        limit: usize,
    },
    /// Completes the upload.
    Complete {
        /// Listed parts.
        choice: Choice,
        /// Demand on the object.
        when: When,
    },
    /// Aborts the upload.
    Abort,
    /// Resumes the upload by its id.
    Resume {
        /// Upload id and object.
        which: Which,
    },
}

/// Declared checksum of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Declared {
    /// No checksum.
    Nothing,
    /// The checksum of the bytes.
    Right,
    /// The checksum of other bytes. The part must be refused.
    Wrong,
}

/// Listed parts of a completion, out of the acknowledged parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// No list: all stored parts become the object.
    Unlisted,
    /// All parts.
    Listed,
    /// Every other part.
    Half,
    /// All parts, the last with a wrong etag.
    WrongEtag,
    /// All parts in descending order.
    Backwards,
    /// All parts and a part that does not exist.
    Missing,
}

/// Upload id and object of a resumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// Id and object of the upload in the slot.
    Ours,
    /// An id that no upload has.
    Forged,
    /// The id of the upload in the slot, with another object.
    Foreign,
}

/// Division of large payloads into several blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobCut {
    /// Maximum size of a payload in a single blob, in bytes.
    pub over_bytes: u64,
    /// Size of each blob of a larger payload, in bytes.
    pub part_bytes: u64,
    /// Maximum number of blobs of a payload that are uploaded concurrently.
    pub at_once: usize,
}

/// Limits of multipart uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRules {
    /// Lifetime of an open upload, in milliseconds.
    pub lifetime_ms: u64,
    /// Time for which the record of an ended upload is kept, in milliseconds.
    pub kept_for_ms: u64,
    /// Minimum size of each part except the last, in bytes.
    pub part_bytes_min: u64,
}

/// The default limits of the engine. With them, uploads outlive every run.
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
