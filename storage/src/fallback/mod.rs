//! A fallback: a read-only source of objects that are not yet in this store.
//!
//! ```text
//! ours: row                    -> ours decides, the fallback is not asked
//! ours: last version (a mask)  -> absent, the fallback is not asked
//! ours: neither                -> the fallback has the object, or it is absent
//! ```
//!
//! Implementations: [`OperatorFallback`](crate::blobs::foreign::OperatorFallback) over files or
//! bucket keys, and `EngineFallback` of the engine over another store. [`AttachedFallback`] is the
//! fallback of an open store.
//!
//! Invariant: an error of a fallback never counts as "not found", and a listing that fails or is
//! truncated never counts as the end (docs/adr/0029).

mod attached;
mod migration;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::records::{Attributes, Metadata, is_live};
use crate::types::{ByteRange, Checksum, Error, ErrorKind, Namespace, ObjectId, Result, Timestamp};

pub use attached::{AttachedFallback, attach, find_attached};
pub use migration::{MigrationCounts, resume};

/// Read-only source of objects that are not yet in this store.
///
/// All methods may be called concurrently. An implementation bounds the time of its calls.
///
/// # Errors
/// Every method returns an error if the source can't answer now, for whatever reason. The kind is
/// [`ErrorKind::Unavailable`] unless the source knows a better one.
pub trait Fallback: Send + Sync + 'static {
    /// Returns a description of the source, without secrets. It identifies the source: a store
    /// that was opened with a source is not opened with a source of another description.
    fn describe(&self) -> String;

    /// Returns the head of an object, or `None` if the source does not have it.
    fn head<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>>;

    /// Opens an object to read `range` of it. Returns `None` if the source does not have it.
    fn open<'a>(
        &'a self,
        id: &'a ObjectId,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Option<FallbackObject>>>;

    /// Returns a page of keys in the order of their bytes.
    fn list<'a>(&'a self, request: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>>;

    /// Returns the namespaces in which the source has objects, in order.
    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>>;
}

/// Source from which a migration may delete the objects that it has moved.
pub trait RemovableSource: Send + Sync + 'static {
    /// Deletes an object from the source. A missing object is no error.
    ///
    /// # Errors
    /// The error of the source. The object may or may not be deleted.
    fn remove<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<()>>;
}

/// Everything that a fallback knows about an object except its bytes. Versions and etags of a
/// fallback mean nothing in this store, so there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FallbackMeta {
    /// Size of the object in bytes.
    pub size: u64,
    /// Checksum of the whole object.
    pub checksum: Option<Checksum>,
    /// Time of creation.
    pub created: Option<Timestamp>,
    /// Time of the last write.
    pub modified: Option<Timestamp>,
    /// Deadline of the object. The caller checks it.
    pub expires_at: Option<Timestamp>,
    /// Attributes of the object.
    pub attributes: Attributes,
}

impl FallbackMeta {
    /// Returns whether the object exists at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        is_live(self.expires_at, now)
    }

    /// Returns the times that the object has in this store. A time that the fallback does not know
    /// is replaced by the other one, or by 1970-01-01.
    pub fn times(&self) -> FallbackTimes {
        let known = self.modified.or(self.created);
        let modified = known.unwrap_or(Timestamp::from_millis(0));
        FallbackTimes {
            created: self.created.unwrap_or(modified),
            modified,
            expires_at: self.expires_at,
        }
    }

    /// Returns the metadata of the object as reads return it.
    pub fn into_metadata(self) -> Metadata {
        let times = self.times();
        Metadata {
            size: self.size,
            checksum: self.checksum,
            created: times.created,
            modified: times.modified,
            expires_at: times.expires_at,
            attributes: self.attributes,
        }
    }
}

/// Times of an object of a fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FallbackTimes {
    /// Time of creation.
    pub created: Timestamp,
    /// Time of the last write.
    pub modified: Timestamp,
    /// Deadline.
    pub expires_at: Option<Timestamp>,
}

/// An open object of a fallback.
pub struct FallbackObject {
    /// Head of the whole object.
    pub meta: FallbackMeta,
    /// Bytes that `bytes` yields, as [`ByteRange::resolve`] returns them.
    pub range: Range<u64>,
    /// Bytes of the range. A stream that ends early or yields bytes of different versions is a
    /// fault of the implementation: it must end with an error instead.
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

impl fmt::Debug for FallbackObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackObject")
            .field("meta", &self.meta)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Position at which a page of a fallback's listing begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyPosition {
    /// First key.
    #[default]
    Start,
    /// First key that is greater than this key.
    AfterKey(String),
    /// First key that is greater than all keys with this prefix.
    AfterPrefix(String),
}

impl KeyPosition {
    /// Returns whether the key is at or behind the position.
    pub fn admits(&self, key: &str) -> bool {
        match self {
            Self::Start => true,
            Self::AfterKey(last) => key > last.as_str(),
            Self::AfterPrefix(prefix) => key > prefix.as_str() && !key.starts_with(prefix.as_str()),
        }
    }
}

/// Parameters of a page of a fallback's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackListRequest {
    /// Namespace to list.
    pub namespace: Namespace,
    /// Prefix of the keys to list.
    pub prefix: String,
    /// Position at which the page begins.
    pub position: KeyPosition,
    /// Most entries of the page, at least 1.
    pub limit: usize,
}

/// Page of a fallback's listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FallbackPage {
    /// Entries in the order of their keys.
    pub entries: Vec<FallbackEntry>,
    /// True if no key follows. A page that is not complete has at least one entry.
    pub is_complete: bool,
    /// Names in the range of the page that can't be objects of this store, such as a name that is
    /// not UTF-8. At most [`SKIPPED_MAX`] of them.
    pub skipped: Vec<String>,
}

impl FallbackPage {
    /// Checks that the page answers the request: its keys are in order, behind the position and
    /// below the prefix, and a page that is not complete makes progress.
    fn check(&self, request: &FallbackListRequest) -> Result<()> {
        let mut position = &request.position;
        let mut reached;
        for entry in &self.entries {
            let key = &entry.key;
            if !position.admits(key) || !key.starts_with(&request.prefix) {
                let message = format!("the fallback does not list in order: key={key:?}");
                return Err(Error::new(ErrorKind::Invalid, "list", message));
            }
            reached = KeyPosition::AfterKey(key.clone());
            position = &reached;
        }
        if self.entries.is_empty() && !self.is_complete {
            let message = "the fallback returned an empty page before the end of its listing";
            return Err(Error::new(ErrorKind::Invalid, "list", message));
        }
        Ok(())
    }
}

/// Most names in [`FallbackPage::skipped`].
pub const SKIPPED_MAX: usize = 100;

/// Entry of a fallback's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackEntry {
    /// Key of the object.
    pub key: String,
    /// Head of the object, if the listing contains it. A listing may omit attributes.
    pub meta: Option<FallbackMeta>,
}

/// Returns the error of a call to a fallback. No error of a fallback may be taken for an error of
/// this store that has another meaning, or for "not found".
fn failed(operation: &'static str, error: Error) -> Error {
    let kind = match error.kind() {
        kind @ (ErrorKind::RangeNotSatisfiable { .. }
        | ErrorKind::Invalid
        | ErrorKind::Corrupt
        | ErrorKind::UnknownFormat
        | ErrorKind::Overloaded) => kind,
        ErrorKind::Conflict { .. }
        | ErrorKind::Disabled
        | ErrorKind::Unavailable
        | ErrorKind::Indeterminate
        | ErrorKind::Source
        | ErrorKind::AlreadyOpen
        | ErrorKind::Closed => ErrorKind::Unavailable,
    };
    Error::new(kind, operation, "the fallback can't answer").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_behind_a_prefix_admits_no_key_of_it() {
        let behind = KeyPosition::AfterPrefix("a/".into());
        let admitted = ["a", "a.b", "a/", "a/b", "a/\u{10ffff}", "a0", "b"]
            .map(|key| (key, behind.admits(key)));
        let expected = ["a0", "b"];
        assert!(
            admitted
                .iter()
                .all(|(key, is_admitted)| *is_admitted == expected.contains(key)),
            "{admitted:?}"
        );
        assert!(KeyPosition::AfterKey("a".into()).admits("a."));
        assert!(!KeyPosition::AfterKey("a".into()).admits("a"));
    }

    #[test]
    fn page_that_would_pass_over_objects_is_refused() {
        let request = FallbackListRequest {
            namespace: Namespace::default_namespace(),
            prefix: "a".into(),
            position: KeyPosition::AfterKey("aa".into()),
            limit: 2,
        };
        let check = |keys: &[&str], is_complete| {
            let entry = |key: &&str| FallbackEntry {
                key: (*key).to_owned(),
                meta: None,
            };
            let page = FallbackPage {
                entries: keys.iter().map(entry).collect(),
                is_complete,
                skipped: Vec::new(),
            };
            page.check(&request).is_ok()
        };
        assert!(check(&["ab", "ac"], false) && check(&[], true));
        assert!(!check(&[], false), "no progress");
        assert!(!check(&["ac", "ab"], true), "out of order");
        assert!(!check(&["ab", "ab"], true), "twice");
        assert!(!check(&["aa"], true), "not behind the position");
        assert!(!check(&["b"], true), "not below the prefix");
    }

    #[test]
    fn an_error_of_a_fallback_is_never_an_outcome_of_this_store() {
        let conflict = ErrorKind::Conflict { current: None };
        for kind in [ErrorKind::Closed, conflict, ErrorKind::Indeterminate] {
            let error = failed("get", Error::new(kind, "get", "the source is closed"));
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        let range = ErrorKind::RangeNotSatisfiable { total: 3 };
        assert_eq!(failed("get", Error::new(range, "get", "")).kind(), range);
    }

    #[test]
    fn unknown_times_are_replaced_by_known_ones() {
        let at = Timestamp::from_millis;
        let times = |created: Option<u64>, modified: Option<u64>| {
            let meta = FallbackMeta {
                created: created.map(at),
                modified: modified.map(at),
                ..FallbackMeta::default()
            };
            let times = meta.times();
            (times.created, times.modified)
        };
        assert_eq!(times(None, None), (at(0), at(0)));
        assert_eq!(times(None, Some(5)), (at(5), at(5)));
        assert_eq!(times(Some(3), None), (at(3), at(3)));
        assert_eq!(times(Some(3), Some(5)), (at(3), at(5)));
    }
}
