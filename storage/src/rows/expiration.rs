//! Expiration: when an object stops existing by itself. Pure functions of a policy, a deadline and
//! a moment.
//!
//! [`is_live`] is the one liveness function: reads, preconditions, overwrites, deletes, recovery
//! and scrub all ask it. Deliberately not here: whose moment it is
//! ([`Env::steady_now`](crate::Env::steady_now)), and who removes what is due.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::word::Timestamp;

/// Longest time to live or to idle: a hundred years.
pub const EXPIRATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Longest time between two reads that both extend a time to idle.
const IDLE_STEP_MAX: Duration = Duration::from_secs(24 * 3600);

/// When an object stops existing by itself.
///
/// ```
/// use cenotaph_storage::Timestamp;
/// use cenotaph_storage::rows::Expiration;
/// use std::time::Duration;
///
/// let hour = Duration::from_secs(3600);
/// let now = Timestamp::from_millis(1000);
/// assert_eq!(Expiration::Manual.deadline(now), None);
/// assert_eq!(Expiration::TimeToLive(hour).deadline(now), Some(now.after(hour)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiration {
    /// Never, unless a deadline is set by hand.
    #[default]
    Manual,
    /// So long after it was written.
    TimeToLive(Duration),
    /// So long after it was written or read last. Reads extend the deadline at most once in a
    /// quarter of this time, and at most once a day: it may be that much shorter than the time
    /// since the last read.
    TimeToIdle(Duration),
}

impl Expiration {
    /// The deadline of an object that is written or read at `now`.
    pub fn deadline(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Manual => None,
            Self::TimeToLive(time) | Self::TimeToIdle(time) => Some(now.after(time)),
        }
    }

    /// The later deadline that a read at `now` gives an object whose deadline is `expires_at`; none
    /// if it leaves it as it is: the policy is another, or the last extension is not long enough
    /// ago.
    pub fn extended_by_read(
        self,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (Self::TimeToIdle(idle), Some(expires_at)) = (self, expires_at) else {
            return None;
        };
        let extended = now.after(idle);
        let step = (idle / 4).min(IDLE_STEP_MAX).max(Duration::from_millis(1));
        (extended.since(expires_at) >= step).then_some(extended)
    }

    /// Checks the bounds.
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
                        "a time to live or idle is 1 ms to {EXPIRATION_MAX:?}: time={time:?}"
                    );
                    return Err(Error::new(ErrorKind::Invalid, "put", message));
                }
                Ok(())
            }
        }
    }
}

/// Whether an object with this deadline exists at `now`: the one liveness function.
pub fn is_live(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_none_or(|deadline| now < deadline)
}

/// Another deadline for an object.
///
/// ```
/// use cenotaph_storage::Timestamp;
/// use cenotaph_storage::rows::{Deadline, Extension};
/// use std::time::Duration;
///
/// let (created, now) = (Timestamp::from_millis(0), Timestamp::from_millis(60_000));
/// let extension = Extension { deadline: Deadline::AfterCreation(Duration::from_secs(90)), may_shorten: false };
/// assert_eq!(extension.of(Some(now), created, now), Some(Timestamp::from_millis(90_000)));
/// assert_eq!(extension.of(None, created, now), None, "what never expires can't be extended");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The deadline wanted.
    pub deadline: Deadline,
    /// Whether an earlier deadline than the object's is taken too. If not, the later of the two
    /// stands.
    pub may_shorten: bool,
}

/// A deadline, absolute or relative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// At this moment.
    At(Timestamp),
    /// So long from now.
    AfterNow(Duration),
    /// So long after the object was created.
    AfterCreation(Duration),
    /// None: it does not expire by itself any more.
    Never,
}

impl Extension {
    /// The deadline of an object after this; none if it then never expires. One that has passed
    /// becomes `now`: the object is gone at once either way, and no deadline is ever filed where
    /// the expirer has looked already.
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
        let wanted = wanted.map(|wanted| wanted.max(now));
        if self.may_shorten {
            return wanted;
        }
        // None is never, and later than any moment.
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
            "once a day"
        );
    }

    #[test]
    fn senseless_times_are_refused() {
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
        fn an_extension_never_shortens_unless_told(before in any::<Option<u32>>(), after in any::<u32>(), created in 0..1000u64) {
            let before = before.map(|before| at(before.into()));
            for deadline in [Deadline::At(at(after.into())), Deadline::AfterNow(SECOND), Deadline::AfterCreation(SECOND), Deadline::Never] {
                let extended = Extension { deadline, may_shorten: false }.of(before, at(created), at(created + 5));
                // None is never.
                prop_assert!(extended.is_none_or(|extended| before.is_some_and(|before| extended >= before)));
            }
        }

        #[test]
        fn a_deadline_that_has_passed_is_now(before in any::<Option<u32>>(), after in any::<u32>(), created in 0..1000u64, now in any::<u32>()) {
            let (before, now) = (before.map(|before| at(before.into())), at(now.into()));
            for deadline in [Deadline::At(at(after.into())), Deadline::AfterNow(Duration::ZERO), Deadline::AfterCreation(SECOND)] {
                let shortened = Extension { deadline, may_shorten: true }.of(before, at(created), now);
                prop_assert!(shortened.is_some_and(|shortened| shortened >= now));
            }
        }

        #[test]
        fn a_read_never_brings_a_deadline_forward(idle in 1..100_000u64, expires_at in any::<u32>(), now in any::<u32>()) {
            let policy = Expiration::TimeToIdle(Duration::from_millis(idle));
            let expires_at = at(expires_at.into());
            if let Some(extended) = policy.extended_by_read(Some(expires_at), at(now.into())) {
                prop_assert!(extended > expires_at);
            }
        }
    }
}
