//! The server of the shared index: it executes requests one at a time, whichever process sent them.
//!
//! Each method is a single step of the world, and durable when it returns. Guards I3 (all conditions
//! hold at the place of a batch), the fencing of dead members (I6) and I10 (a token is committed or
//! refused, never both).

use std::collections::BTreeSet;

use cenotaph_storage::index::{Batch, Member, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::{Epoch, WallTime};

use crate::disks::shared_store::{StoredMember, Token};
use crate::trace::EventKind;
use crate::world::durable_state::DurableState;

/// Group of batches that one member commits.
pub(super) struct Transaction {
    pub(super) epoch: u64,
    pub(super) token: u64,
    pub(super) batches: Vec<Batch>,
    /// Tokens whose outcome the member knows.
    pub(super) forget: Vec<u64>,
}

/// Result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Committed, except for the batches at these positions.
    Committed(BTreeSet<usize>),
    /// Nothing was committed: the token was refused before.
    RolledBack,
    /// Nothing was committed: the entry of the member is gone.
    Gone,
}

impl DurableState {
    /// Registers a member and returns its epoch.
    pub(super) fn join(&self, name: &str, wall_ms: u64) -> u64 {
        let now_ms = self.time_of_day_ms();
        let beaten_at = self.elapsed();
        let mut store = self.shared.lock();
        store.last_epoch += 1;
        let epoch = store.last_epoch;
        let member = StoredMember {
            name: name.to_owned(),
            since_ms: now_ms,
            beat: 0,
            beaten_ms: now_ms,
            stamped_ms: wall_ms,
        };
        store.members.insert(epoch, member);
        drop(store);
        let mut state = self.state();
        state.note(EventKind::Commit, "member joins", || {
            format!("{name}, epoch {epoch}")
        });
        state.model.member_joined(epoch, beaten_at);
        state.report_violations();
        epoch
    }

    /// Counts a heartbeat. Returns false if the member is gone.
    pub(super) fn beat(&self, epoch: u64, wall_ms: u64) -> bool {
        let (now, now_ms) = (self.elapsed(), self.time_of_day_ms());
        let mut store = self.shared.lock();
        let Some(member) = store.members.get_mut(&epoch) else {
            return false;
        };
        member.beat += 1;
        member.beaten_ms = now_ms;
        member.stamped_ms = wall_ms;
        drop(store);
        self.state().model.member_beats(epoch, now);
        true
    }

    /// Removes a member that closes.
    pub(super) fn leave(&self, epoch: u64) {
        if self.shared.lock().members.remove(&epoch).is_none() {
            return;
        }
        let mut state = self.state();
        state.note(EventKind::Commit, "member leaves", || {
            format!("epoch {epoch}")
        });
        state.model.member_left(epoch);
    }

    /// Removes a member if its heartbeat still has this count. Returns true if it was removed.
    pub(super) fn declare_dead(&self, by: u64, epoch: u64, beat: u64) -> bool {
        let mut store = self.shared.lock();
        let member = store.members.get(&epoch);
        if member.is_none_or(|member| member.beat != beat) {
            return false;
        }
        store.members.remove(&epoch);
        drop(store);
        let now = self.elapsed();
        let mut state = self.state();
        state.coverage.count("members: one declared dead");
        state.note(EventKind::Commit, "member is declared dead", || {
            format!("epoch {epoch} by {by}")
        });
        state.model.member_died(epoch, now);
        state.report_violations();
        true
    }

    /// Returns all members, the oldest first.
    pub(super) fn members(&self) -> Vec<Member> {
        let store = self.shared.lock();
        let members = store.members.iter().map(|(&epoch, member)| Member {
            epoch: Epoch::new(epoch),
            name: member.name.clone(),
            since: WallTime::from_millis(member.since_ms),
            beat: member.beat,
            beaten: WallTime::from_millis(member.beaten_ms),
        });
        members.collect()
    }

    /// Executes a transaction.
    pub(super) fn transact(&self, transaction: &Transaction) -> Verdict {
        let Transaction {
            epoch,
            token,
            batches,
            forget,
        } = transaction;
        {
            let store = self.shared.lock();
            let accepts_fenced = self.is_planted(Bug::FencedMemberCommits);
            if !store.members.contains_key(epoch) && !accepts_fenced {
                return Verdict::Gone;
            }
            // The token would be a duplicate.
            if store.tokens.contains_key(token) {
                drop(store);
                self.state().coverage.count("index: a commit was refused");
                return Verdict::RolledBack;
            }
        }
        let mut changed = BTreeSet::new();
        for (position, batch) in batches.iter().enumerate() {
            if !self.commit_one(*epoch, batch) {
                changed.insert(position);
            }
        }
        // A transaction that writes nothing has no token.
        if changed.len() < batches.len() {
            let mut store = self.shared.lock();
            forget.iter().for_each(|token| {
                store.tokens.remove(token);
            });
            store
                .tokens
                .insert(*token, Token::Committed(changed.clone()));
        }
        Verdict::Committed(changed)
    }

    /// Commits a batch if all its conditions hold.
    fn commit_one(&self, epoch: u64, batch: &Batch) -> bool {
        let unmet = self.disk.unmet(batch);
        let counts =
            |table: Table| !self.is_planted(Bug::ConditionOnRowOnly) || table == Table::Rows;
        if unmet.iter().any(|(table, _)| counts(*table)) {
            self.state().coverage.count("index: a batch had changed");
            return false;
        }
        self.disk.append(batch);
        self.disk.sync();
        let mut state = self.state();
        // Not the evaluation above, which a planted bug weakens.
        if let Some((table, key)) = unmet.first() {
            let message =
                format!("committed although a condition does not hold: {table:?} {key:?}");
            state.model.violated("conditions", message);
        }
        state.model.commits_as(epoch);
        state.commit(batch, &self.blobs, "committed");
        true
    }

    /// Refuses a commit that has not happened. Returns its outcome.
    pub(super) fn refuse(&self, token: u64) -> Token {
        let mut store = self.shared.lock();
        if self.is_planted(Bug::TokenDoesNotFence) {
            // Planted bug: the question leaves nothing behind that the commit would meet.
            let known = store.tokens.get(&token).cloned();
            return known.unwrap_or(Token::Refused);
        }
        store.tokens.entry(token).or_insert(Token::Refused).clone()
    }
}
