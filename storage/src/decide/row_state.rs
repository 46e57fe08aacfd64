//! The state of an object's row, and the state that an upload expects at its commit.
//!
//! ```text
//! state in the index   answer of the fallback   state of the decision
//! -------------------- ------------------------ ---------------------
//! New                  Present, Moved           Fallback
//! New                  NotAsked, Missing        New
//! Present, Absent      any                      the same: ours decides
//! ```
//!
//! While a fallback is attached, `New` becomes `Present` or `Absent`, and neither becomes `New`
//! again. So an answer that was requested in the state `New` is used in that state or not at all
//! (docs/adr/0029).

use crate::fallback::FallbackTimes;
use crate::records::{LastVersion, PayloadId, Row, RowBody, is_live};
use crate::types::{Timestamp, Version};

/// Answer of the fallback that a request carries to the decision about its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FallbackAnswer {
    /// The fallback was not asked: there is none, the decision does not depend on it, or the store
    /// has the object or its last version.
    #[default]
    NotAsked,
    /// The fallback does not have the object.
    Missing,
    /// The fallback has the object.
    Present(FallbackTimes),
    /// The request moves the object of the fallback into the store. The row takes over its times.
    Moved(FallbackTimes),
}

/// State of an object: its row, or the version that its next version follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowState {
    /// The object has a row, which may have expired.
    Present(Box<Row>),
    /// The object has no row, and its last version is kept. It masks an object of the fallback.
    Absent(LastVersion),
    /// The object has no row, and no last version is kept: it never existed, or its last version
    /// was dropped. Its next version follows this base version of the store.
    New(Version),
    /// As [`New`](Self::New), and the fallback has the object. A state of decisions only: no commit
    /// results in it.
    Fallback {
        /// Base version of the store, which the next version follows.
        base: Version,
        /// Times of the object in the fallback.
        times: FallbackTimes,
        /// True if the next row takes over the times.
        is_moved: bool,
    },
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
            Self::Absent(_) | Self::New(_) | Self::Fallback { .. } => None,
        }
    }

    /// Returns the state with the answer of the fallback.
    #[must_use]
    pub fn answered(self, answer: FallbackAnswer) -> Self {
        let (times, is_moved) = match answer {
            FallbackAnswer::NotAsked | FallbackAnswer::Missing => return self,
            FallbackAnswer::Present(times) => (times, false),
            FallbackAnswer::Moved(times) => (times, true),
        };
        match self {
            Self::New(base) => Self::Fallback {
                base,
                times,
                is_moved,
            },
            Self::Present(_) | Self::Absent(_) | Self::Fallback { .. } => self,
        }
    }

    /// Returns whether only the fallback has the object at `now`.
    pub fn is_in_fallback(&self, now: Timestamp) -> bool {
        match self {
            Self::Fallback { times, .. } => is_live(times.expires_at, now),
            Self::Present(_) | Self::Absent(_) | Self::New(_) => false,
        }
    }

    /// Returns whether the object exists at `now`, in the store or in the fallback.
    pub fn exists(&self, now: Timestamp) -> bool {
        self.live(now).is_some() || self.is_in_fallback(now)
    }

    /// Returns the times of a row that is written at `now`, with the deadline of its attributes.
    pub(super) fn next_times(&self, deadline: Option<Timestamp>, now: Timestamp) -> FallbackTimes {
        let written = |created| FallbackTimes {
            created,
            modified: now,
            expires_at: deadline,
        };
        match self {
            Self::Fallback {
                times,
                is_moved: true,
                ..
            } => *times,
            Self::Fallback { times, .. } if self.is_in_fallback(now) => written(times.created),
            Self::Present(_) | Self::Absent(_) | Self::New(_) | Self::Fallback { .. } => {
                written(self.live(now).map_or(now, |row| row.metadata.created))
            }
        }
    }

    /// Returns a version that no earlier version of the object exceeds. The next write of the
    /// object has the next version.
    pub fn version(&self) -> Version {
        match self {
            Self::Present(row) => row.version,
            Self::Absent(last) => last.version,
            Self::New(base) | Self::Fallback { base, .. } => *base,
        }
    }

    /// Returns the state that an upload which begins now expects at its commit.
    pub fn expectation(&self, now: Timestamp) -> ExpectedRow {
        let live = self.live(now);
        match live.map(|row| (&row.body, row.metadata.expires_at)) {
            Some((RowBody::Tombstone(manifest), expires_at)) => ExpectedRow::Tombstone {
                payload: manifest.payload_id(),
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
        /// Payload of the tombstone.
        payload: Option<PayloadId>,
        /// Deadline of the tombstone when the upload began.
        expires_at: Option<Timestamp>,
    },
}

impl ExpectedRow {
    /// Returns whether the object is in the expected state. Expiry in the meantime does not count
    /// as a conflicting write, and neither does the move of an object from the fallback: the object
    /// that it brings is older than every write to the store. A relocated payload is the
    /// same payload.
    pub(super) fn is_met(self, state: &RowState, now: Timestamp) -> bool {
        let live = match state.live(now).map(|row| &row.body) {
            Some(RowBody::Tombstone(manifest)) => Some(manifest.payload_id()),
            Some(RowBody::Embedded(_) | RowBody::Separate(_)) | None => None,
        };
        match self {
            Self::NoTombstone => {
                let is_moved = |row: &Row| row.operation.is_move();
                live.is_none() || state.live(now).is_some_and(is_moved)
            }
            Self::Tombstone {
                payload: seen,
                expires_at,
            } => {
                let has_expired =
                    live.is_none() && expires_at.is_some_and(|deadline| deadline <= now);
                live == Some(seen) || has_expired
            }
        }
    }
}
