//! What may go wrong in a world: [`Faults`], how likely each is; [`Schedule`], how its tasks are
//! interleaved; [`Fault`], what did go wrong, by name. Both lists come of one table, so that no
//! fault is missing in either.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rng::Odds;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $field:ident $variant:ident $name:literal)+) => {
        /// How likely each fault is, each time it could happen. None by default.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Faults {
            $($(#[doc = $doc])+ pub $field: Odds,)+
        }

        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Fault {
            /// Every fault, in a fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name in a timeline and among the coverage counters.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("fault: ", $name),)+
                }
            }
        }

        impl Faults {
            /// How likely this one is.
            pub const fn of(&self, fault: Fault) -> Odds {
                match fault {
                    $(Fault::$variant => self.$field,)+
                }
            }

            /// Makes this one so likely.
            pub const fn set(&mut self, fault: Fault, odds: Odds) {
                match fault {
                    $(Fault::$variant => self.$field = odds,)+
                }
            }
        }
    };
}

faults! {
    /// At a step: the whole world crashes.
    crash Crash "crash"
    /// At a step: some actor is killed.
    kill Kill "kill"
    /// At a step of an actor: it panics.
    panic Panic "panic"
    /// At a step: the time of day jumps, either way. Sleeps are not affected.
    clock_jump ClockJump "clock jump"
    /// A write to the index finds no space: nothing of it is written.
    index_no_space IndexNoSpace "index, no space"
    /// The disk of the index is nearly full for a while: it takes nothing but what releases space.
    index_low IndexLow "index, low on space"
    /// A sync of the index fails: what was written may survive a reopen, or not.
    index_sync_fails IndexSyncFails "index, sync fails"
    /// A sync of the index takes longer than any commit may, and succeeds after all.
    index_sync_hangs IndexSyncHangs "index, sync hangs"
    /// A sync of the index is slow.
    index_sync_slow IndexSyncSlow "index, sync slow"
    /// A read of the index fails.
    index_read_fails IndexReadFails "index, read fails"
    /// A payload, or the checksums of a blob, come from the index with a flipped bit, or can't be
    /// read for it.
    index_bit_rot IndexBitRot "index, bit rot"
    /// A request to the blob tier fails before it has any effect.
    blob_fails BlobFails "blob, fails"
    /// A request to the blob tier has its effect, and its response is lost.
    blob_response_lost BlobResponseLost "blob, response lost"
    /// A request to the blob tier is slow.
    blob_slow BlobSlow "blob, slow"
    /// A request to the blob tier stalls for minutes.
    blob_stalls BlobStalls "blob, stalls"
    /// What is written so far is visible as a partial blob, and is left behind if the write ends
    /// there.
    blob_partial BlobPartial "blob, partial"
    /// A close that its caller gives up takes effect later all the same.
    blob_late BlobLate "blob, late effect"
    /// A blob is said to be missing for a while.
    blob_not_found BlobNotFound "blob, not found for a while"
    /// A deletion, or giving up an upload, never ends.
    blob_hangs BlobHangs "blob, hangs"
    /// A delete arrives twice.
    blob_deleted_twice BlobDeletedTwice "blob, deleted twice"
    /// A read brings a flipped bit.
    blob_bit_rot BlobBitRot "blob, bit rot"
    /// The blob tier is away for a while: nothing is found in it, what is deleted there counts as
    /// gone, writes fail.
    tier_away TierAway "tier, away for a while"
    /// An engine is opened over an empty tier, or another store's, in place of its own.
    tier_swapped TierSwapped "tier, another one at an opening"
}

/// How tasks are interleaved. Without yields and delays every seed explores the one
/// first-in-first-out schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Most times a task yields to the others at a step.
    pub yields_max: u64,
    /// At a step: the task sleeps for a while.
    pub delay: Odds,
    /// Longest such sleep.
    pub delay_max: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            yields_max: 3,
            delay: Odds::in_ten_thousand(300),
            delay_max: Duration::from_millis(20),
        }
    }
}

/// Faults after which an operation may fail.
pub(crate) const PROVOKING: [Fault; 17] = [
    Fault::Crash,
    Fault::Kill,
    Fault::Panic,
    Fault::IndexNoSpace,
    Fault::IndexLow,
    Fault::IndexSyncFails,
    Fault::IndexSyncHangs,
    Fault::IndexReadFails,
    Fault::BlobFails,
    Fault::BlobResponseLost,
    Fault::BlobStalls,
    Fault::BlobLate,
    Fault::BlobNotFound,
    Fault::BlobBitRot,
    Fault::BlobHangs,
    Fault::IndexBitRot,
    Fault::TierAway,
];

/// Faults after which the bytes of a blob can't be read; only while they strike.
pub(crate) const BLOB_READ_FAULTS: [Fault; 7] = [
    Fault::BlobFails,
    Fault::BlobResponseLost,
    Fault::BlobStalls,
    Fault::BlobNotFound,
    Fault::BlobBitRot,
    Fault::IndexBitRot,
    Fault::TierAway,
];

/// Faults after which a blob can't be written; only while they strike.
pub(crate) const BLOB_WRITE_FAULTS: [Fault; 6] = [
    Fault::BlobFails,
    Fault::BlobResponseLost,
    Fault::BlobStalls,
    Fault::BlobLate,
    Fault::BlobHangs,
    Fault::TierAway,
];

/// Faults that damage what is read, or hide it: a blob that is not there although its row names it
/// is damage.
pub(crate) const ROT: [Fault; 4] = [
    Fault::BlobBitRot,
    Fault::IndexBitRot,
    Fault::BlobNotFound,
    Fault::TierAway,
];

/// Faults after which nobody can know what became of a commit.
pub(crate) const COMMIT_FAULTS: [Fault; 3] = [
    Fault::IndexNoSpace,
    Fault::IndexSyncFails,
    Fault::IndexSyncHangs,
];
