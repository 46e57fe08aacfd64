//! The orphan: a revision that no row names any more, waiting to be deleted.
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
//! `not_before` is a time of day, and the time of day may be set back between two lives of an
//! engine. So that no orphan waits for it to catch up, one that never had to wait is due whatever
//! the time is, and one that would wait longer than any rule makes it wait gets a new moment
//! ([`Orphan::due`]).
//!
//! Guards I5: it is removed only after its blob is. Deliberately not here: pins, and the order of
//! work (the sweeper's).

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use crate::error::Result;
use crate::id::ObjectId;
use crate::word::Timestamp;

const FORMAT: u8 = 1;

/// A revision to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// The object it was written for, which with its id gives its path.
    pub object: ObjectId,
    /// When it became an orphan.
    pub since: Timestamp,
    /// When the next attempt is due.
    pub not_before: Timestamp,
    /// How often deleting it has failed.
    pub attempts: u32,
    /// Whether its blob may still appear.
    pub landing: Landing,
}

/// When an orphan is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrphanDue {
    /// Now.
    Now,
    /// At this moment.
    At(Timestamp),
    /// At another moment than it has: the clock was set back since. It must be stored so.
    Restated(Orphan),
}

/// Whether the write that made a revision has surely ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Landing {
    /// It has: what is deleted stays deleted.
    Landed,
    /// Its outcome is unknown; it may land later. Delete now, and once more after a grace time.
    MayLand,
}

impl Orphan {
    /// A revision of `object`, an orphan from `now` on, due at once.
    pub fn new(object: ObjectId, now: Timestamp, landing: Landing) -> Self {
        Self {
            object,
            since: now,
            not_before: now,
            attempts: 0,
            landing,
        }
    }

    /// When it is to be deleted, seen at `now`. No orphan has to wait longer than `longest` at a
    /// time.
    pub fn due(&self, now: Timestamp, longest: Duration) -> OrphanDue {
        if self.not_before <= now || self.not_before <= self.since {
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

    /// What remains to be done after its blob was deleted at `now`: nothing, or the second
    /// deletion.
    pub fn deleted(self, now: Timestamp, grace: Duration) -> Option<Self> {
        match self.landing {
            Landing::Landed => None,
            Landing::MayLand => Some(Self {
                landing: Landing::Landed,
                not_before: now.after(grace),
                attempts: 0,
                ..self
            }),
        }
    }

    /// The same orphan after a failed attempt at `now`, due again after `delay`.
    #[must_use]
    pub fn failed(self, now: Timestamp, delay: Duration) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            not_before: now.after(delay),
            ..self
        }
    }

    /// As stored.
    pub fn encode(&self) -> Bytes {
        codec::encode(FORMAT, self).into()
    }

    /// From what is stored.
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
    use crate::rows::codec::fixture::{assert_golden, assert_later_format_refused, assert_robust};
    use proptest::prelude::*;

    fn orphan(key: &str, landing: Landing) -> Orphan {
        Orphan::new(
            ObjectId::try_from(key).unwrap(),
            Timestamp::from_millis(1000),
            landing,
        )
    }

    #[test]
    fn the_stored_form_is_stable() {
        let encoded = orphan("a/b", Landing::MayLand)
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
        let second = orphan("k", Landing::MayLand)
            .deleted(now, grace)
            .expect("a second deletion is due");
        assert_eq!(
            (second.landing, second.not_before),
            (Landing::Landed, now.after(grace))
        );
        assert_eq!(second.deleted(now.after(grace), grace), None);
    }

    #[test]
    fn no_orphan_waits_for_a_clock_that_was_set_back() {
        let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
        let later = Timestamp::from_millis(10_000_000);
        let set_back = Timestamp::from_millis(10_000_000 - 3_600_000);
        let fresh = Orphan::new(ObjectId::try_from("k").unwrap(), later, Landing::MayLand);
        assert_eq!(
            fresh.due(set_back, minute),
            OrphanDue::Now,
            "it never had to wait"
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
            "a rule may make it wait so long"
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
        fn an_orphan_survives_its_encoding(key in ".{1,30}", attempts in any::<u32>(), due in any::<u64>(), lands in any::<bool>()) {
            let mut original = orphan(&key, if lands { Landing::MayLand } else { Landing::Landed });
            original.attempts = attempts;
            original.not_before = Timestamp::from_millis(due);
            prop_assert_eq!(Orphan::decode(&original.encode()).unwrap(), original);
        }
    }
}
