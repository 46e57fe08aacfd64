//! [`SharedIndex`]: the members of a shared index, and what they know of each other.
//!
//! ```text
//! member    joins with a new epoch ──> its heartbeat counts up ──> leaves at its close
//! another   has seen the same count for a lease ──> declares the member dead
//! ```
//!
//! Guards I6 for changes of other members: a change is dead if the member of its epoch is gone, and
//! no commit of a member that is gone has any effect.

use futures::future::BoxFuture;

use crate::types::{Epoch, Result, WallTime};

/// A process that has a shared index open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Epoch of the member. Later members have higher epochs, and none is used twice.
    pub epoch: Epoch,
    /// Name that the member has given itself.
    pub name: String,
    /// Time at which it joined, by the clock of the index.
    pub since: WallTime,
    /// Count of its heartbeats. It rises as long as the member lives.
    pub beat: u64,
    /// Time of its last heartbeat, by the clock of the index. For people: no decision depends on it.
    pub beaten: WallTime,
}

/// Membership in an index that several engines have open. The index counts the heartbeat of its
/// handle up by itself, and removes the member at a close.
pub trait SharedIndex: Send + Sync {
    /// Returns the epoch of this handle.
    fn epoch(&self) -> Epoch;

    /// Returns all members, the oldest first. A member that has committed anything before the call,
    /// and was neither closed nor declared dead, is among them.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the store does not answer,
    /// [`Closed`](crate::ErrorKind::Closed) after a close.
    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>>;

    /// Declares a member dead, if its heartbeat still has this count. Returns `true` if it was
    /// declared dead: none of its batches commits from then on.
    ///
    /// Only for a member whose heartbeat has stood still for a long time.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    fn declare_dead(&self, member: Epoch, beat: u64) -> BoxFuture<'_, Result<bool>>;

    /// Returns the time by the clock of the index, which all members share.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    fn wall_time(&self) -> BoxFuture<'_, Result<WallTime>>;
}
