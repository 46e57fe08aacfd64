//! Faults of a simulated world: [`Fault`] (their kinds), [`Faults`] (their odds), [`ScriptedFault`]
//! (planned for a step), and [`Schedule`] (the interleaving of tasks). Kinds and odds are generated
//! from the same table, so that neither lacks a fault.

use std::time::Duration;

use cenotaph::ActorKind;
use serde::{Deserialize, Serialize};

use crate::rng::Odds;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $field:ident $variant:ident $name:literal)+) => {
        /// Odds of each fault at each opportunity. All are zero by default.
        // A misspelled fault in a plan file is an error and is not ignored.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Faults {
            $($(#[doc = $doc])+ pub $field: Odds,)+
        }

        /// Kind of a fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Fault {
            /// All faults, in a fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the name of the fault in timelines and coverage counters.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("fault: ", $name),)+
                }
            }
        }

        impl Faults {
            /// Returns the odds of a fault.
            pub const fn of(&self, fault: Fault) -> Odds {
                match fault {
                    $(Fault::$variant => self.$field,)+
                }
            }

            /// Sets the odds of a fault.
            pub const fn set(&mut self, fault: Fault, odds: Odds) {
                match fault {
                    $(Fault::$variant => self.$field = odds,)+
                }
            }
        }
    };
}

// Each entry: documentation, field of `Faults`, variant of `Fault`, name.
faults! {
    /// The whole world crashes at a step.
    crash Crash "crash"
    /// A random actor is killed at a step.
    kill Kill "kill"
    /// An actor panics at one of its steps.
    panic Panic "panic"
    /// The wall time jumps forwards or backwards at a step. Sleeps are not affected.
    clock_jump ClockJump "clock jump"
    /// A write to the index fails for lack of space. Nothing of it is written.
    index_no_space IndexNoSpace "index, no space"
    /// The disk of the index is nearly full for a while and accepts only writes that release space.
    index_low IndexLow "index, low on space"
    /// A sync of the index fails. The unsynced writes may or may not survive a reopen.
    index_sync_fails IndexSyncFails "index, sync fails"
    /// A sync of the index takes longer than the timeout of a commit, and then succeeds.
    index_sync_hangs IndexSyncHangs "index, sync hangs"
    /// A sync of the index is slow.
    index_sync_slow IndexSyncSlow "index, sync slow"
    /// A read of the index fails.
    index_read_fails IndexReadFails "index, read fails"
    /// A payload or the checksums of a blob are read from the index with a flipped bit, or their
    /// read fails because of it.
    index_bit_rot IndexBitRot "index, bit rot"
    /// A request to the blob tier fails before it has any effect.
    blob_fails BlobFails "blob, fails"
    /// A request to the blob tier takes effect, and its response is lost.
    blob_response_lost BlobResponseLost "blob, response lost"
    /// A request to the blob tier is slow.
    blob_slow BlobSlow "blob, slow"
    /// A request to the blob tier stalls for minutes.
    blob_stalls BlobStalls "blob, stalls"
    /// The bytes written so far are visible as a partial blob, which remains if the write ends
    /// there.
    blob_partial BlobPartial "blob, partial"
    /// A close takes effect after its caller has dropped it.
    blob_late BlobLate "blob, late effect"
    /// An existing blob is reported as not found for a while.
    blob_not_found BlobNotFound "blob, not found for a while"
    /// A deletion, or the abort of a write, never ends.
    blob_hangs BlobHangs "blob, hangs"
    /// A deletion is performed twice.
    blob_deleted_twice BlobDeletedTwice "blob, deleted twice"
    /// A read returns a flipped bit.
    blob_bit_rot BlobBitRot "blob, bit rot"
    /// The blob tier is away for a while: reads find nothing, writes fail, and deletions report
    /// that the blob is absent.
    tier_away TierAway "tier, away for a while"
    /// An engine is opened with an empty tier, or the tier of another store, instead of its own.
    tier_swapped TierSwapped "tier, another one at an opening"
    /// A request to the fallback fails, or its stream of bytes ends with an error.
    source_fails SourceFails "fallback, fails"
    /// A request to the fallback is slow.
    source_slow SourceSlow "fallback, slow"
    /// A listing of the fallback fails behind its first page.
    source_list_cut SourceListCut "fallback, a listing cut off"
    /// The fallback does not find an object of its own for a while. This is a defect of a source:
    /// an object that it hides may be absent, and may be written as if it were.
    source_hides SourceHides "fallback, not found for a while"
    /// All tasks of a member stop for a while, perhaps for longer than its lease.
    member_pause MemberPause "member, paused"
    /// A member does not reach the shared index for a while.
    index_away IndexAway "index, a member cut off"
    /// A member does not reach the blob tier for a while.
    tier_cut_off TierCutOff "tier, a member cut off"
    /// The connection of a member to the shared index breaks before its commit gets there.
    index_cut_before IndexCutBefore "index, connection cut before a commit"
    /// The connection breaks, and the commit takes effect later, unless it is refused before.
    index_cut_during IndexCutDuring "index, connection cut during a commit"
    /// The connection breaks after a request has taken effect. The reply is lost.
    index_cut_after IndexCutAfter "index, connection cut after a request"
}

impl Fault {
    /// Faults that strike only where several members share an index.
    pub const SHARED: [Self; 6] = [
        Self::MemberPause,
        Self::IndexAway,
        Self::TierCutOff,
        Self::IndexCutBefore,
        Self::IndexCutDuring,
        Self::IndexCutAfter,
    ];
}

/// Event that is planned for a certain step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptedFault {
    /// The whole world crashes.
    Crash,
    /// The actors of this kind are killed.
    Kill(ActorKind),
    /// The actor that takes the step panics. Has no effect on a step that no actor takes.
    Panic,
}

/// Interleaving of tasks. Without yields and delays, every seed has the same first-in-first-out
/// schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Maximum number of times that a task yields at a step.
    pub yields_max: u64,
    /// Odds that a task sleeps at a step.
    pub delay: Odds,
    /// Maximum duration of such a sleep.
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
pub(crate) const PROVOKING: [Fault; 23] = [
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
    Fault::MemberPause,
    Fault::IndexAway,
    Fault::TierCutOff,
    Fault::IndexCutBefore,
    Fault::IndexCutDuring,
    Fault::IndexCutAfter,
];

/// Faults during which the bytes of a blob can't be read.
pub(crate) const BLOB_READ_FAULTS: [Fault; 8] = [
    Fault::BlobFails,
    Fault::BlobResponseLost,
    Fault::BlobStalls,
    Fault::BlobNotFound,
    Fault::BlobBitRot,
    Fault::IndexBitRot,
    Fault::TierAway,
    Fault::TierCutOff,
];

/// Faults during which a blob can't be written.
pub(crate) const BLOB_WRITE_FAULTS: [Fault; 7] = [
    Fault::BlobFails,
    Fault::BlobResponseLost,
    Fault::BlobStalls,
    Fault::BlobLate,
    Fault::BlobHangs,
    Fault::TierAway,
    Fault::TierCutOff,
];

/// Faults that damage or hide stored data. A blob that a row names and that is not found counts as
/// damage.
pub(crate) const ROT: [Fault; 4] = [
    Fault::BlobBitRot,
    Fault::IndexBitRot,
    Fault::BlobNotFound,
    Fault::TierAway,
];

/// Faults during which the fallback can't answer.
pub(crate) const SOURCE_FAULTS: [Fault; 2] = [Fault::SourceFails, Fault::SourceListCut];

/// Faults after which the outcome of a commit is unknown.
pub(crate) const COMMIT_FAULTS: [Fault; 8] = [
    Fault::IndexNoSpace,
    Fault::IndexSyncFails,
    Fault::IndexSyncHangs,
    Fault::MemberPause,
    Fault::IndexAway,
    Fault::IndexCutBefore,
    Fault::IndexCutDuring,
    Fault::IndexCutAfter,
];
