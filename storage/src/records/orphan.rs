//! The orphan entry: a revision that no row names any more and whose blob is to be deleted.
//!
//! ```text
//! key:   revision id, 16 bytes (time-ordered)
//! value: +-----------+---------------------------------------------------------+
//!        | version=1 | postcard: object, since, not_before, attempts, landing  |
//!        +-----------+---------------------------------------------------------+
//!
//! life:  MayLand --delete, wait the grace time--> Landed --delete--> removed
//!           \--failed: attempts + 1, back off        \--failed: attempts + 1, back off
//! ```
//!
//! `not_before` is wall time, which may be set back between two runs of an engine. No orphan waits
//! for the clock to catch up ([`Orphan::due`]): an orphan that never had to wait is due at once,
//! and an orphan that would wait longer than the longest delay gets a new `not_before`.
//!
//! Guards I5: the entry is removed only after the blob is deleted. Pins and the order of deletions
//! belong to the sweeper.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use crate::types::ObjectId;
use crate::types::Result;
use crate::types::Timestamp;

const FORMAT: u8 = 1;

/// Entry of a revision to delete. The id of the revision is its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Object that the revision was written for. Object and revision id give the path of the blob.
    pub object: ObjectId,
    /// Time at which the revision became an orphan.
    pub since: Timestamp,
    /// Earliest time of the next attempt.
    pub not_before: Timestamp,
    /// Number of failed attempts.
    pub attempts: u32,
    /// State of the write of the blob.
    pub landing: LateWrite,
}

/// Time at which an orphan is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrphanDue {
    /// At once.
    Now,
    /// At this time.
    At(Timestamp),
    /// At the corrected `not_before` of this entry, because the clock was set back. The caller must
    /// store the entry.
    Restated(Orphan),
}

/// State of the write of an orphan's blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LateWrite {
    /// The write has ended. A deleted blob does not reappear.
    Landed,
    /// The outcome of the write is unknown, and its blob may still appear. The blob is deleted now
    /// and once more after a grace time.
    MayLand,
}

impl Orphan {
    /// Creates the entry of a revision of `object` that is an orphan since `now`. It is due at
    /// once.
    pub fn new(object: ObjectId, now: Timestamp, landing: LateWrite) -> Self {
        Self {
            object,
            since: now,
            not_before: now,
            attempts: 0,
            landing,
        }
    }

    /// Returns the time at which the orphan is to be deleted. `longest` is the longest delay
    /// between two attempts.
    pub fn due(&self, now: Timestamp, longest: Duration) -> OrphanDue {
        if self.not_before <= now || self.not_before <= self.since {
            // `not_before <= since`: the orphan never had to wait, and both are times of a clock
            // that may have been ahead of `now`.
            OrphanDue::Now
        } else if self.not_before > now.after(longest) {
            OrphanDue::Restated(Self {
                not_before: now.after(longest),
                ..self.clone()
            })
        } else {
            OrphanDue::At(self.not_before)
        }
    }

    /// Returns the entry of the second deletion after the blob was deleted at `now`, or `None` if
    /// the orphan is settled.
    pub fn deleted(self, now: Timestamp, grace: Duration) -> Option<Self> {
        match self.landing {
            LateWrite::Landed => None,
            LateWrite::MayLand => Some(Self {
                landing: LateWrite::Landed,
                not_before: now.after(grace),
                // The second deletion has its own backoff.
                attempts: 0,
                ..self
            }),
        }
    }

    /// Returns the entry after a failed attempt at `now`. The next attempt is due after `delay`.
    #[must_use]
    pub fn failed(self, now: Timestamp, delay: Duration) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            not_before: now.after(delay),
            ..self
        }
    }

    /// Encodes the orphan for storage.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// Decodes a stored orphan.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or
    /// [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
    pub fn decode(value: &Bytes) -> Result<Self> {
        codec::decode("orphan", FORMAT, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };
    use proptest::prelude::*;

    fn orphan(key: &str, landing: LateWrite) -> Orphan {
        Orphan::new(
            ObjectId::try_from(key).unwrap(),
            Timestamp::from_millis(1000),
            landing,
        )
    }

    #[test]
    fn the_stored_form_is_stable() {
        let encoded = orphan("a/b", LateWrite::MayLand)
            .failed(Timestamp::from_millis(1000), Duration::from_secs(1))
            .encode();
        assert_golden(&encoded, "01 0b 64656661756c7400612f62 e807 d00f 01 01");
        assert_later_format_refused(&encoded, Orphan::decode);
        assert_robust(&encoded, Orphan::decode);
    }

    #[test]
    fn an_orphan_that_may_land_is_deleted_twice() {
        let now = Timestamp::from_millis(5000);
        let grace = Duration::from_secs(60);
        let second = orphan("k", LateWrite::MayLand)
            .deleted(now, grace)
            .expect("a second deletion is due");
        assert_eq!(
            (second.landing, second.not_before),
            (LateWrite::Landed, now.after(grace))
        );
        assert_eq!(second.deleted(now.after(grace), grace), None);
    }

    #[test]
    fn no_orphan_waits_for_a_clock_that_was_set_back() {
        let hour = Duration::from_secs(3600);
        let minute = Duration::from_secs(60);
        let later = Timestamp::from_millis(10_000_000);
        let set_back = Timestamp::from_millis(10_000_000 - 3_600_000);
        let fresh = Orphan::new(ObjectId::try_from("k").unwrap(), later, LateWrite::MayLand);
        assert_eq!(
            fresh.due(set_back, minute),
            OrphanDue::Now,
            "a fresh orphan is due at once"
        );
        let waiting = fresh
            .deleted(later, minute)
            .expect("a second deletion is due");
        assert_eq!(
            waiting.due(later, minute),
            OrphanDue::At(later.after(minute))
        );
        assert_eq!(
            waiting.due(set_back, hour + minute),
            OrphanDue::At(later.after(minute)),
            "a delay within the longest delay is kept"
        );
        let restated = Orphan {
            not_before: set_back.after(minute),
            ..waiting.clone()
        };
        assert_eq!(
            waiting.due(set_back, minute),
            OrphanDue::Restated(restated.clone())
        );
        assert_eq!(restated.due(set_back.after(minute), minute), OrphanDue::Now);
    }

    proptest! {
        #[test]
        fn an_orphan_survives_its_encoding(
            key in ".{1,30}",
            attempts in any::<u32>(),
            due in any::<u64>(),
            may_land in any::<bool>(),
        ) {
            let landing = if may_land { LateWrite::MayLand } else { LateWrite::Landed };
            let mut original = orphan(&key, landing);
            original.attempts = attempts;
            original.not_before = Timestamp::from_millis(due);
            prop_assert_eq!(Orphan::decode(&original.encode()).unwrap(), original);
        }
    }
}
