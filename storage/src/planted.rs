//! Bugs that can be planted to show that the simulator finds them: [`Bug`].
//!
//! Most bugs are changes to a plan, which the simulated world makes (`tamper.rs`), or wrong behaviour
//! of the index, the blob tier or the client, which the simulator implements. Four are activated at a
//! single place of the engine through [`Env::planted`](crate::Env::planted). Without the feature
//! `planted`, all of them do nothing. Only tests of the checks of the simulator turn it on.

/// Deliberate mistake that the simulator must find. The invariant that it breaks is in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A batch is acknowledged before it is synced (I9).
    AckBeforeSync,
    /// Readers see batches that are written and not yet synced (I7).
    ReaderSeesUnsynced,
    /// A batch becomes durable before the payloads that it names (I9).
    PointerBeforePayload,
    /// A swap does not queue the revisions that it replaces (I5).
    OldRevisionNotQueued,
    /// An upload streams before its change is recorded (I1).
    UploadWithoutChange,
    /// An upload deletes the blob that it replaces before its swap (I2).
    BlobDeletedBeforeSwap,
    /// A commit with an unknown outcome is answered as a failed commit (I10).
    UnknownTreatedAsFailed,
    /// A batch of a dead shard may be submitted after its successor has passed the barrier (I3).
    ZombieCommit,
    /// A restarted shard reads before it has passed the barrier (I3).
    NoBarrier,
    /// Recovery settles a change without checking for a live owner and without a fence (I6).
    RecoveryWithoutFence,
    /// The sweeper deletes blobs that are being read (I8).
    SweeperIgnoresPins,
    /// A re-created object starts at version 1.
    VersionReuse,
    /// A superseded write is answered as a conflict (I10).
    SupersededAsConflict,
    /// An expired tombstone is overwritten and its revisions are not queued (I5).
    ExpiredTombstoneNotQueued,
    /// A large put checks its precondition before the upload, and not at the commit.
    PreconditionAtBeginOnly,
    /// An idle refresh writes back the row that the read has read (I3).
    TouchResurrects,
    /// The expirer removes the object of an expiry entry without checking its row.
    ExpirerTrustsItsEntry,
    /// An atomic batch is submitted as two batches (I3).
    AtomicInTwoBatches,
    /// An update overwrites a version that was written after its read.
    UpdateWithoutPrecondition,
    /// A scrub treats the blobs of running uploads as unknown blobs and queues them (I2).
    ScrubForgetsChanges,
    /// A scrub reports findings that no shard has confirmed.
    ScrubUnconfirmed,
    /// A completed upload stays open, and a second completion commits again.
    CompleteTwice,
    /// A part is stored without checking that its upload is open (I5).
    PartAfterEnd,
    /// The end of a completed upload queues all parts, including those that the row names (I2).
    EndQueuesEveryPart,
    /// A snapshot reads a key as absent if the key is overwritten after the snapshot (I3, I7).
    SnapshotDropsOverwritten,
    /// A blob that is not found counts as deleted even if the blob tier is not present (I11).
    NotFoundIsDeleted,
    /// An object whose blob is missing is read as absent.
    MissingBlobIsAbsent,
    /// A full disk refuses deletes, too.
    DeletesNeedSpace,
    /// A shard records its decision before it checks for free disk space (I3).
    RoomAskedLate,
    /// A batch that drops last versions does not store the raised base version.
    PruneWithoutBase,
    /// The drop of last versions is not ordered with the writes of their objects.
    PruneLate,
    /// A move from the fallback overwrites what was written since its read.
    MoveOverwrites,
    /// A delete of an object that only the fallback has leaves no mask.
    DeleteWithoutMask,
    /// A listing of the fallback that fails counts as its end, and the fallback is sealed.
    SealAfterTruncatedScan,
    /// A transient error of the fallback counts as "not found".
    FallbackErrorIsAbsent,
    /// The version of an object of the fallback is returned as one of this store.
    FallbackVersionSurfaced,
    /// An update that lost a race writes the result of its first attempt.
    UpdateRunsOnce,
    /// A relocation replaces whatever the row names by its copies.
    RelocationOverwrites,
    /// A relocated row does not store the identity of its payload.
    RelocationForgetsPayload,
    /// A blob tier is released although orphans name revisions in it.
    TierReleasedEarly,
    /// A shared index checks only the conditions on rows (I3).
    ConditionOnRowOnly,
    /// A shared index accepts the commits of a member that was declared dead (I6).
    FencedMemberCommits,
    /// A member judges the age of a heartbeat by its own wall clock and that of the other member.
    HeartbeatByOtherClock,
    /// The sweeper deletes orphans that other members are reading (I8).
    PinsOfOthersIgnored,
    /// A commit whose reply is lost counts as not committed (I10).
    LostReplyIsFailure,
    /// The question for a lost commit does not keep it from committing later (I10).
    TokenDoesNotFence,
    /// Recovery settles the changes of members that live (I6).
    LiveMemberRecovered,
}

impl Bug {
    /// All bugs, in a fixed order.
    pub const ALL: [Self; 47] = [
        Self::AckBeforeSync,
        Self::ReaderSeesUnsynced,
        Self::PointerBeforePayload,
        Self::OldRevisionNotQueued,
        Self::UploadWithoutChange,
        Self::BlobDeletedBeforeSwap,
        Self::UnknownTreatedAsFailed,
        Self::ZombieCommit,
        Self::NoBarrier,
        Self::RecoveryWithoutFence,
        Self::SweeperIgnoresPins,
        Self::VersionReuse,
        Self::SupersededAsConflict,
        Self::ExpiredTombstoneNotQueued,
        Self::PreconditionAtBeginOnly,
        Self::TouchResurrects,
        Self::ExpirerTrustsItsEntry,
        Self::AtomicInTwoBatches,
        Self::UpdateWithoutPrecondition,
        Self::ScrubForgetsChanges,
        Self::ScrubUnconfirmed,
        Self::CompleteTwice,
        Self::PartAfterEnd,
        Self::EndQueuesEveryPart,
        Self::SnapshotDropsOverwritten,
        Self::NotFoundIsDeleted,
        Self::MissingBlobIsAbsent,
        Self::DeletesNeedSpace,
        Self::RoomAskedLate,
        Self::PruneWithoutBase,
        Self::PruneLate,
        Self::MoveOverwrites,
        Self::DeleteWithoutMask,
        Self::SealAfterTruncatedScan,
        Self::FallbackErrorIsAbsent,
        Self::FallbackVersionSurfaced,
        Self::UpdateRunsOnce,
        Self::RelocationOverwrites,
        Self::RelocationForgetsPayload,
        Self::TierReleasedEarly,
        Self::ConditionOnRowOnly,
        Self::FencedMemberCommits,
        Self::HeartbeatByOtherClock,
        Self::PinsOfOthersIgnored,
        Self::LostReplyIsFailure,
        Self::TokenDoesNotFence,
        Self::LiveMemberRecovered,
    ];

    /// Returns `true` if the bug shows only where several members share an index.
    pub const fn is_shared(self) -> bool {
        matches!(
            self,
            Self::ConditionOnRowOnly
                | Self::FencedMemberCommits
                | Self::HeartbeatByOtherClock
                | Self::PinsOfOthersIgnored
                | Self::LostReplyIsFailure
                | Self::TokenDoesNotFence
                | Self::LiveMemberRecovered
        )
    }

    /// Returns the name of the bug for the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::ReaderSeesUnsynced => "reader-sees-unsynced",
            Self::PointerBeforePayload => "pointer-before-payload",
            Self::OldRevisionNotQueued => "old-revision-not-queued",
            Self::UploadWithoutChange => "upload-without-change",
            Self::BlobDeletedBeforeSwap => "blob-deleted-before-swap",
            Self::UnknownTreatedAsFailed => "unknown-treated-as-failed",
            Self::ZombieCommit => "zombie-commit",
            Self::NoBarrier => "no-barrier",
            Self::RecoveryWithoutFence => "recovery-without-fence",
            Self::SweeperIgnoresPins => "sweeper-ignores-pins",
            Self::VersionReuse => "version-reuse",
            Self::SupersededAsConflict => "superseded-as-conflict",
            Self::ExpiredTombstoneNotQueued => "expired-tombstone-not-queued",
            Self::PreconditionAtBeginOnly => "precondition-at-begin-only",
            Self::TouchResurrects => "touch-resurrects",
            Self::ExpirerTrustsItsEntry => "expirer-trusts-its-entry",
            Self::AtomicInTwoBatches => "atomic-in-two-batches",
            Self::UpdateWithoutPrecondition => "update-without-precondition",
            Self::ScrubForgetsChanges => "scrub-forgets-changes",
            Self::ScrubUnconfirmed => "scrub-unconfirmed",
            Self::CompleteTwice => "complete-twice",
            Self::PartAfterEnd => "part-after-end",
            Self::EndQueuesEveryPart => "end-queues-every-part",
            Self::SnapshotDropsOverwritten => "snapshot-drops-overwritten",
            Self::NotFoundIsDeleted => "not-found-is-deleted",
            Self::MissingBlobIsAbsent => "missing-blob-is-absent",
            Self::DeletesNeedSpace => "deletes-need-space",
            Self::RoomAskedLate => "room-asked-late",
            Self::PruneWithoutBase => "prune-without-base",
            Self::PruneLate => "prune-late",
            Self::MoveOverwrites => "move-overwrites",
            Self::DeleteWithoutMask => "delete-without-mask",
            Self::SealAfterTruncatedScan => "seal-after-truncated-scan",
            Self::FallbackErrorIsAbsent => "fallback-error-is-absent",
            Self::FallbackVersionSurfaced => "fallback-version-surfaced",
            Self::UpdateRunsOnce => "update-runs-once",
            Self::RelocationOverwrites => "relocation-overwrites",
            Self::RelocationForgetsPayload => "relocation-forgets-payload",
            Self::TierReleasedEarly => "tier-released-early",
            Self::ConditionOnRowOnly => "condition-on-row-only",
            Self::FencedMemberCommits => "fenced-member-commits",
            Self::HeartbeatByOtherClock => "heartbeat-by-other-clock",
            Self::PinsOfOthersIgnored => "pins-of-others-ignored",
            Self::LostReplyIsFailure => "lost-reply-is-failure",
            Self::TokenDoesNotFence => "token-does-not-fence",
            Self::LiveMemberRecovered => "live-member-recovered",
        }
    }
}
