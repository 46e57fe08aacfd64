//! Expiration policies and deadlines of objects, as pure functions of a policy, a deadline and the
//! current time.
//!
//! [`is_live`] alone decides liveness: reads, preconditions, overwrites, deletes, recovery and
//! scrub all call it, with the time of [`Env::steady_now`](crate::Env::steady_now).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::Timestamp;
use crate::types::{Error, ErrorKind, Result};

/// Longest time to live or to idle: a hundred years.
pub const EXPIRATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Upper bound of the step by which a read must extend a deadline to be recorded.
const IDLE_STEP_MAX: Duration = Duration::from_secs(24 * 3600);

/// Expiration policy of an object.
///
/// ```
/// use cenotaph_storage::Timestamp;
/// use cenotaph_storage::records::Expiration;
/// use std::time::Duration;
///
/// let hour = Duration::from_secs(3600);
/// let now = Timestamp::from_millis(1000);
/// assert_eq!(Expiration::Manual.deadline(now), None);
/// assert_eq!(Expiration::TimeToLive(hour).deadline(now), Some(now.after(hour)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiration {
    /// The object expires only if a deadline is set explicitly.
    #[default]
    Manual,
    /// The object expires this long after its last write.
    TimeToLive(Duration),
    /// The object expires this long after its last write or read.
    ///
    /// Reads extend the deadline at most once in a quarter of this time or once a day, whichever is
    /// shorter. The object may therefore expire up to that much earlier than this long after its
    /// last read.
    TimeToIdle(Duration),
}

impl Expiration {
    /// Returns the deadline of an object that is written or read at `now`, or `None` if the object
    /// does not expire.
    pub fn deadline(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Manual => None,
            Self::TimeToLive(time) | Self::TimeToIdle(time) => Some(now.after(time)),
        }
    }

    /// Returns the new deadline after a read at `now` of an object whose deadline is `expires_at`.
    ///
    /// Returns `None` if the deadline does not change: the policy is not a time to idle, there is
    /// no deadline, or the last extension is too recent.
    pub fn extended_by_read(
        self,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (Self::TimeToIdle(idle), Some(expires_at)) = (self, expires_at) else {
            return None;
        };
        let extended = now.after(idle);
        // Every extension is a write of the row. The step bounds these writes to a few per idle
        // time, however often the object is read. At least 1 ms, so that a read never writes an
        // unchanged deadline.
        let step = (idle / 4).min(IDLE_STEP_MAX).max(Duration::from_millis(1));
        (extended.since(expires_at) >= step).then_some(extended)
    }

    /// Checks that the time is within its bounds.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the time is shorter than a millisecond or longer than
    /// [`EXPIRATION_MAX`].
    pub fn validate(self) -> Result<()> {
        match self {
            Self::Manual => Ok(()),
            Self::TimeToLive(time) | Self::TimeToIdle(time) => {
                if time < Duration::from_millis(1) || time > EXPIRATION_MAX {
                    let message = format!(
                        "time to live or idle is out of range: time={time:?} min=1ms \
                         max={EXPIRATION_MAX:?}"
                    );
                    return Err(Error::new(ErrorKind::Invalid, "put", message));
                }
                Ok(())
            }
        }
    }
}

/// Returns `true` if an object with this deadline exists at `now`. An object without a deadline
/// always does.
pub fn is_live(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_none_or(|deadline| now < deadline)
}

/// Request to change the deadline of an object.
///
/// ```
/// use cenotaph_storage::Timestamp;
/// use cenotaph_storage::records::{Deadline, Extension};
/// use std::time::Duration;
///
/// let created = Timestamp::from_millis(0);
/// let now = Timestamp::from_millis(60_000);
/// let deadline = Deadline::AfterCreation(Duration::from_secs(90));
/// let extension = Extension { deadline, may_shorten: false };
/// assert_eq!(extension.of(Some(now), created, now), Some(Timestamp::from_millis(90_000)));
/// assert_eq!(extension.of(None, created, now), None, "no deadline is later than any deadline");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Requested deadline.
    pub deadline: Deadline,
    /// `true` to accept an earlier deadline than the present one. Otherwise, the later of the two
    /// applies.
    pub may_shorten: bool,
}

/// Absolute or relative deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Point in time.
    At(Timestamp),
    /// Time from now.
    AfterNow(Duration),
    /// Time from the creation of the object.
    AfterCreation(Duration),
    /// No deadline: the object does not expire.
    Never,
}

impl Extension {
    /// Returns the deadline of an object after this change, or `None` if the object then never
    /// expires.
    ///
    /// A deadline in the past becomes `now`. The object is expired at once in both cases.
    pub fn of(
        self,
        expires_at: Option<Timestamp>,
        created: Timestamp,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let wanted = match self.deadline {
            Deadline::At(at) => Some(at),
            Deadline::AfterNow(time) => Some(now.after(time)),
            Deadline::AfterCreation(time) => Some(created.after(time)),
            Deadline::Never => None,
        };
        // The expirer has already scanned the expiry entries before `now`. It would miss an entry
        // that is added there.
        let wanted = wanted.map(|wanted| wanted.max(now));
        if self.may_shorten {
            return wanted;
        }
        // `None` means never, which is later than any deadline.
        Some(wanted?.max(expires_at?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_object_expires_exactly_at_its_deadline() {
        assert!(is_live(Some(at(10)), at(9)));
        assert!(!is_live(Some(at(10)), at(10)));
        assert!(is_live(None, at(u64::MAX)));
    }

    #[test]
    fn reads_extend_at_most_once_in_a_quarter_of_the_time() {
        let idle = Expiration::TimeToIdle(4 * SECOND);
        assert_eq!(idle.extended_by_read(Some(at(4000)), at(999)), None);
        assert_eq!(
            idle.extended_by_read(Some(at(4000)), at(1000)),
            Some(at(5000))
        );
        assert_eq!(
            Expiration::TimeToLive(SECOND).extended_by_read(Some(at(1000)), at(999)),
            None
        );
        let day = Duration::from_secs(24 * 3600);
        let month = Expiration::TimeToIdle(30 * day);
        let written = month.deadline(at(0));
        assert_eq!(
            month.extended_by_read(written, at(0).after(day)),
            month.deadline(at(0).after(day)),
            "a read extends the deadline once a day at most"
        );
    }

    #[test]
    fn times_out_of_range_are_refused() {
        assert!(Expiration::TimeToLive(Duration::ZERO).validate().is_err());
        assert!(
            Expiration::TimeToIdle(EXPIRATION_MAX + SECOND)
                .validate()
                .is_err()
        );
        assert!(Expiration::TimeToIdle(EXPIRATION_MAX).validate().is_ok());
    }

    proptest! {
        #[test]
        fn an_extension_shortens_only_if_it_may(
            before in any::<Option<u32>>(),
            after in any::<u32>(),
            created in 0..1000u64,
        ) {
            let before = before.map(|before| at(before.into()));
            for deadline in [
                Deadline::At(at(after.into())),
                Deadline::AfterNow(SECOND),
                Deadline::AfterCreation(SECOND),
                Deadline::Never,
            ] {
                let extension = Extension { deadline, may_shorten: false };
                let extended = extension.of(before, at(created), at(created + 5));
                // `None` means never.
                prop_assert!(
                    extended.is_none_or(|extended| before.is_some_and(|before| extended >= before))
                );
            }
        }

        #[test]
        fn a_deadline_in_the_past_becomes_now(
            before in any::<Option<u32>>(),
            after in any::<u32>(),
            created in 0..1000u64,
            now in any::<u32>(),
        ) {
            let before = before.map(|before| at(before.into()));
            let now = at(now.into());
            for deadline in [
                Deadline::At(at(after.into())),
                Deadline::AfterNow(Duration::ZERO),
                Deadline::AfterCreation(SECOND),
            ] {
                let extension = Extension { deadline, may_shorten: true };
                let shortened = extension.of(before, at(created), now);
                prop_assert!(shortened.is_some_and(|shortened| shortened >= now));
            }
        }

        #[test]
        fn a_read_never_shortens_a_deadline(
            idle in 1..100_000u64,
            expires_at in any::<u32>(),
            now in any::<u32>(),
        ) {
            let policy = Expiration::TimeToIdle(Duration::from_millis(idle));
            let expires_at = at(expires_at.into());
            if let Some(extended) = policy.extended_by_read(Some(expires_at), at(now.into())) {
                prop_assert!(extended > expires_at);
            }
        }
    }
}
