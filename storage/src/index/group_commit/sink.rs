//! Destination of commits: [`Sink`] for a store with a single owner, [`GroupSink`] for any store.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::index::{Batch, CommitError, Table};
use crate::types::Result;

/// Writes of one commit: `Some` sets a value, `None` removes the key.
// A map, so that each key occurs once: a store may give all writes of a commit the same sequence
// number, and could then not order two writes of a key.
pub(crate) type Changes = BTreeMap<(Table, Bytes), Option<Bytes>>;

/// Store that only this process writes to, so that all conditions hold.
pub(crate) trait Sink: Send + 'static {
    /// Applies all writes or none of them. They are durable and visible when the method returns.
    ///
    /// # Errors
    /// Every error of the store. The outcome is then unknown, and the sink is never called again.
    fn commit(&mut self, changes: Changes) -> Result<()>;
}

/// Store that decides for each batch of a group.
pub(crate) trait GroupSink: Send + 'static {
    /// Commits the batches in order, each all or nothing. They are durable and visible when the
    /// method returns.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] if batches may be durable, and [`CommitError::NotStarted`] if none
    /// is or will be. The sink is then never called again.
    fn commit_group(&mut self, batches: Vec<Batch>) -> Result<GroupOutcome, CommitError>;
}

/// Outcome of a group whose commit did not fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupOutcome {
    /// Number of syncs: 0 if nothing was written.
    pub(crate) syncs: u64,
    /// Positions of the batches that did not commit, because a condition did not hold.
    pub(crate) changed: BTreeSet<usize>,
    /// Number of those batches that contain writes.
    pub(crate) unwritten: u64,
}

impl<S: Sink> GroupSink for S {
    fn commit_group(&mut self, batches: Vec<Batch>) -> Result<GroupOutcome, CommitError> {
        let changes = merge(batches);
        if changes.is_empty() {
            return Ok(GroupOutcome::default());
        }
        self.commit(changes).map_err(CommitError::Unknown)?;
        Ok(GroupOutcome {
            syncs: 1,
            ..GroupOutcome::default()
        })
    }
}

/// Merges batches in order. The last write of each key wins.
fn merge(batches: Vec<Batch>) -> Changes {
    let changes = batches.into_iter().flat_map(Batch::into_ops);
    changes
        .map(|(table, key, value)| ((table, key), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::env::Env;
    use crate::index::group_commit::{Committer, CommitterOptions};
    use crate::types::{Error, ErrorKind};

    /// Sink that refuses each batch with a condition, and fails at a batch that removes a key.
    struct Choosy;

    impl GroupSink for Choosy {
        fn commit_group(&mut self, batches: Vec<Batch>) -> Result<GroupOutcome, CommitError> {
            let mut ops = batches.iter().flat_map(Batch::ops);
            if ops.any(|(.., value)| value.is_none()) {
                let error = Error::new(ErrorKind::Unavailable, "commit", "refused");
                return Err(CommitError::NotStarted(error));
            }
            let changed = batches.iter().enumerate();
            let changed = changed.filter(|(_, batch)| !batch.conditions().is_empty());
            let changed: BTreeSet<_> = changed.map(|(position, _)| position).collect();
            Ok(GroupOutcome {
                syncs: 1,
                unwritten: changed.len() as u64,
                changed,
            })
        }
    }

    #[tokio::test]
    async fn each_batch_of_a_group_has_its_own_outcome() {
        let env = Env::real().unwrap();
        let committer = Committer::start(&env, CommitterOptions::default(), Choosy).unwrap();
        let (sender, outcomes) = channel();
        for number in 0..100 {
            let mut batch = Batch::new();
            batch.put(Table::Rows, "key", "value");
            if number % 3 == 0 {
                batch.require(Table::Rows, "key", None);
            }
            let sender = sender.clone();
            let completion = move |outcome| drop(sender.send((number, outcome)));
            committer.submit(batch, Box::new(completion));
        }
        for expected in 0..100 {
            let (number, outcome) = outcomes.recv().unwrap();
            assert_eq!(number, expected);
            let is_changed = matches!(outcome, Err(CommitError::Changed));
            assert_eq!(is_changed, number % 3 == 0, "{number}: {outcome:?}");
        }
        assert!(committer.poisoned().is_none());
        assert_eq!(committer.stats().batches, 66);
    }

    #[tokio::test]
    async fn group_that_did_not_start_is_not_unknown() {
        let env = Env::real().unwrap();
        let committer = Committer::start(&env, CommitterOptions::default(), Choosy).unwrap();
        let (sender, outcomes) = channel();
        let mut batch = Batch::new();
        batch.remove(Table::Rows, "key");
        let completion = move |outcome| drop(sender.send(outcome));
        committer.submit(batch, Box::new(completion));
        let outcome = outcomes.recv().unwrap();
        assert!(
            matches!(outcome, Err(CommitError::NotStarted(_))),
            "{outcome:?}"
        );
        assert!(committer.poisoned().is_some());
    }
}
