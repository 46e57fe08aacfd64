//! The state of an object's row, and the state that an upload expects at its commit.

use crate::records::{LastVersion, Row, RowBody};
use crate::types::{RevisionId, Timestamp, Version};

/// State of an object: its row, or the version that its next version follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowState {
    /// The object has a row, which may have expired.
    Present(Box<Row>),
    /// The object has no row, and its last version is kept.
    Absent(LastVersion),
    /// The object has no row, and no last version is kept: it never existed, or its last version
    /// was dropped. Its next version follows this base version of the store.
    New(Version),
}

impl RowState {
    /// Returns the row if the object exists at `now`; an expired object does not exist.
    pub fn live(&self, now: Timestamp) -> Option<&Row> {
        self.row().filter(|row| row.is_live(now))
    }

    /// Returns the row, expired or not.
    pub fn row(&self) -> Option<&Row> {
        match self {
            Self::Present(row) => Some(row),
            Self::Absent(_) | Self::New(_) => None,
        }
    }

    /// Returns a version that no earlier version of the object exceeds. The next write of the
    /// object has the next version.
    pub fn version(&self) -> Version {
        match self {
            Self::Present(row) => row.version,
            Self::Absent(last) => last.version,
            Self::New(base) => *base,
        }
    }

    /// Returns the state that an upload which begins now expects at its commit.
    pub fn expectation(&self, now: Timestamp) -> ExpectedRow {
        let live = self.live(now);
        match live.map(|row| (&row.body, row.metadata.expires_at)) {
            Some((RowBody::Tombstone(manifest), expires_at)) => ExpectedRow::Tombstone {
                first: manifest.revisions().next(),
                expires_at,
            },
            Some((RowBody::Embedded(_) | RowBody::Separate(_), _)) | None => {
                ExpectedRow::NoTombstone
            }
        }
    }
}

/// Row that a large put or a completion expects to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedRow {
    /// No live tombstone: no row, an inline row, or an expired row.
    NoTombstone,
    /// A tombstone.
    Tombstone {
        /// First revision of the tombstone.
        first: Option<RevisionId>,
        /// Deadline of the tombstone when the upload began.
        expires_at: Option<Timestamp>,
    },
}

impl ExpectedRow {
    /// Returns whether the object is in the expected state. Expiry in the meantime does not count
    /// as a conflicting write.
    pub(super) fn is_met(self, state: &RowState, now: Timestamp) -> bool {
        let live = match state.live(now).map(|row| &row.body) {
            Some(RowBody::Tombstone(manifest)) => Some(manifest.revisions().next()),
            Some(RowBody::Embedded(_) | RowBody::Separate(_)) | None => None,
        };
        match self {
            Self::NoTombstone => live.is_none(),
            Self::Tombstone {
                first: seen,
                expires_at,
            } => {
                let has_expired =
                    live.is_none() && expires_at.is_some_and(|deadline| deadline <= now);
                live == Some(seen) || has_expired
            }
        }
    }
}
