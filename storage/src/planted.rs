//! Bugs that can be planted, to see that the simulator finds them: [`Bug`].
//!
//! Each is asked for at one place, through [`Env::planted`](crate::Env::planted), which is `false`
//! at compile time unless the feature `planted` is on. Only tests of the simulator's checkers turn
//! it on. Three are bugs of an index (the first two and `SnapshotDropsOverwritten`): the simulated
//! one plants them in itself.

/// A swap whose plan the world may change.
#[derive(Clone, Copy, Debug)]
pub struct DecidedSwap<'a> {
    /// Swap.
    pub swap: &'a crate::decide::Swap,
    /// State that the plan was decided on.
    pub view: &'a crate::decide::SwapView,
    /// Time of the decision.
    pub now: crate::Timestamp,
}

/// A step of an upload whose plan the world may change.
#[derive(Clone, Copy, Debug)]
pub struct DecidedStep<'a> {
    /// Step.
    pub step: &'a crate::decide::SessionSwap,
    /// State that the plan was decided on.
    pub view: &'a crate::decide::SessionView,
}

/// A mistake that somebody might make one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A batch is acknowledged before it is synced (I9).
    AckBeforeSync,
    /// Readers see what is written and not yet synced (I7).
    ReaderSeesUnsynced,
    /// A swap forgets to queue the revisions it replaces (I5).
    OldRevisionNotQueued,
    /// An upload streams before its change is recorded (I1).
    UploadWithoutChange,
    /// An upload deletes the blob that it replaces before its swap (I2).
    BlobDeletedBeforeSwap,
    /// A commit whose outcome is unknown is answered as one that failed (I10).
    UnknownTreatedAsFailed,
    /// What a shard submits may leave after the shard has died and its successor has passed the
    /// barrier (I3).
    ZombieCommit,
    /// A restarted shard reads before it has passed the barrier (I3).
    NoBarrier,
    /// Recovery judges a change by itself: it neither asks for its owner nor fences it (I6).
    RecoveryWithoutFence,
    /// The sweeper deletes what is being read (I8).
    SweeperIgnoresPins,
    /// An object that is created again begins at version 1.
    VersionReuse,
    /// A superseded write is answered as one that lost (I10).
    SupersededAsConflict,
    /// An expired tombstone is overwritten, and its revisions are not queued (I5).
    ExpiredTombstoneNotQueued,
    /// A large put looks at its precondition before it uploads, and not when it commits.
    PreconditionAtBeginOnly,
    /// A read that extends a deadline writes back the row that it read (I3).
    TouchResurrects,
    /// The expirer removes what its index names, and does not look at the row.
    ExpirerTrustsItsEntry,
    /// What must happen at once is submitted in two batches (I3).
    AtomicInTwoBatches,
    /// An update commits whatever has been written since it read.
    UpdateWithoutPrecondition,
    /// A scrub takes the blobs of uploads under way for unknown ones, and queues them (I2).
    ScrubForgetsChanges,
    /// A scrub reports what it saw, and has no shard confirm it.
    ScrubUnconfirmed,
    /// A completed upload stays open: completed again, it commits again.
    CompleteTwice,
    /// A part is filed whether its upload is still open or not (I5).
    PartAfterEnd,
    /// The end of a completed upload queues all of its parts, also those that the row now names
    /// (I2).
    EndQueuesEveryPart,
    /// A snapshot loses what is overwritten after it was taken: it reads such a key as absent (I3,
    /// I7).
    SnapshotDropsOverwritten,
    /// A blob that is not found counts as deleted, whether the blob tier is there or not (I11).
    NotFoundIsDeleted,
    /// An object whose blob is gone reads as absent.
    MissingBlobIsAbsent,
    /// A full disk refuses deletes too.
    DeletesNeedSpace,
    /// A shard notes its decision, and only then asks whether the disk has room for it (I3).
    RoomAskedLate,
}

impl Bug {
    /// Every bug, in a fixed order.
    pub const ALL: [Self; 28] = [
        Self::AckBeforeSync,
        Self::ReaderSeesUnsynced,
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
    ];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::ReaderSeesUnsynced => "reader-sees-unsynced",
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
        }
    }
}
