//! [`Claims`]: background work that a single member of a shared index does.
//!
//! ```text
//! entry of the work                                decision
//! none, or of a member that is gone                take it
//! own                                              renew it, unless it was renewed lately
//! of another member, and its count has changed     leave it
//! of another member, unchanged for too long        take it: that member no longer works
//! ```
//!
//! A claim only saves work. The work is idempotent, so that two members that do it at once for a
//! while do no harm. An index with a single owner has no claims.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cenotaph_storage::index::{Batch, CommitError, Table};
use cenotaph_storage::records::{Claim, claim_key};
use cenotaph_storage::{Epoch, Result};

use crate::context::Context;

/// Claims of this member, and those of others as it has seen them, by the name of the work.
#[derive(Default)]
pub(crate) struct Claims(Mutex<BTreeMap<&'static str, SeenClaim>>);

/// A claim, and the monotonic time since which it is known to be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SeenClaim {
    claim: Claim,
    since: Duration,
}

/// Decision about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimDecision {
    /// The work belongs to this member, and its entry is fresh.
    Hold,
    /// This member stores an entry.
    Take,
    /// The work belongs to another member.
    Leave,
}

impl Claims {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<&'static str, SeenClaim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decides about the stored claim by the table at the head of this file. `is_live` tells whether its
/// member lives.
fn decide(
    stored: Option<Claim>,
    seen: Option<SeenClaim>,
    (own, is_live): (Epoch, bool),
    (now, stale_after): (Duration, Duration),
) -> ClaimDecision {
    let Some(claim) = stored else {
        return ClaimDecision::Take;
    };
    let age = seen
        .filter(|seen| seen.claim == claim)
        .map(|seen| now.saturating_sub(seen.since));
    if claim.epoch == own {
        // Renewed often enough that no other member takes it.
        return match age {
            Some(age) if age < stale_after / 4 => ClaimDecision::Hold,
            Some(_) | None => ClaimDecision::Take,
        };
    }
    if !is_live || age.is_some_and(|age| age >= stale_after) {
        ClaimDecision::Take
    } else {
        ClaimDecision::Leave
    }
}

impl Context {
    /// Returns whether this member does the work of this name, after claiming it if nobody does.
    /// Always true on an index with a single owner. The member that does it calls this again before
    /// half of `stale_after` is over.
    ///
    /// # Errors
    /// The errors of reading the index and of the commit.
    pub(crate) async fn claim(&self, work: &'static str, stale_after: Duration) -> Result<bool> {
        if !self.index.is_shared() {
            return Ok(true);
        }
        let now = self.env.monotonic();
        let known = self.claims.seen().get(work).copied();
        if let Some(known) = known {
            let held = decide(
                Some(known.claim),
                Some(known),
                (self.epoch, true),
                (now, stale_after),
            );
            if held == ClaimDecision::Hold {
                return Ok(true);
            }
        }
        let value = self.index.get(Table::Meta, &claim_key(work)).await?;
        let stored = value.as_ref().map(Claim::decode).transpose()?;
        // After the claim: its member is among them, if it lives.
        let live = self.live_epochs().await?.unwrap_or_default();
        let is_live = stored.is_some_and(|claim| live.contains(&claim.epoch));
        match decide(stored, known, (self.epoch, is_live), (now, stale_after)) {
            ClaimDecision::Hold => Ok(true),
            ClaimDecision::Leave => {
                self.note_claim(work, stored, now);
                Ok(false)
            }
            ClaimDecision::Take => {
                let claim = Claim {
                    epoch: self.epoch,
                    count: stored.map_or(0, |claim| claim.count.wrapping_add(1)),
                };
                let mut batch = Batch::new();
                batch.require(Table::Meta, claim_key(work), value);
                batch.put(Table::Meta, claim_key(work), claim.encode());
                match self.try_commit(batch, || {}, ()).await {
                    Ok(()) => {
                        self.note_claim(work, Some(claim), now);
                        Ok(true)
                    }
                    // Another member was faster.
                    Err(CommitError::Changed) => Ok(false),
                    Err(error) => Err(error.into_error()),
                }
            }
        }
    }

    /// Notes a claim that was read or stored. A claim that is known keeps its time.
    fn note_claim(&self, work: &'static str, claim: Option<Claim>, now: Duration) {
        let Some(claim) = claim else { return };
        let mut seen = self.claims.seen();
        match seen.get(work) {
            Some(known) if known.claim == claim => {}
            Some(_) | None => {
                seen.insert(work, SeenClaim { claim, since: now });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Epoch = Epoch::new(5);
    const OTHER: Epoch = Epoch::new(4);
    const STALE: Duration = Duration::from_secs(20);

    fn claim(epoch: Epoch, count: u64) -> Claim {
        Claim { epoch, count }
    }

    fn seen(claim: Claim, second: u64) -> Option<SeenClaim> {
        let since = Duration::from_secs(second);
        Some(SeenClaim { claim, since })
    }

    fn decided(stored: Option<Claim>, known: Option<SeenClaim>, is_live: bool) -> ClaimDecision {
        decide(
            stored,
            known,
            (OWN, is_live),
            (Duration::from_secs(100), STALE),
        )
    }

    #[test]
    fn work_of_nobody_is_taken() {
        assert_eq!(decided(None, None, false), ClaimDecision::Take);
        let gone = claim(OTHER, 3);
        assert_eq!(
            decided(Some(gone), seen(gone, 99), false),
            ClaimDecision::Take
        );
    }

    #[test]
    fn own_claim_is_held_and_renewed() {
        let own = claim(OWN, 3);
        assert_eq!(decided(Some(own), seen(own, 96), true), ClaimDecision::Hold);
        assert_eq!(decided(Some(own), seen(own, 95), true), ClaimDecision::Take);
        assert_eq!(decided(Some(own), None, true), ClaimDecision::Take);
    }

    #[test]
    fn work_of_another_is_left_until_it_stands_still() {
        let other = claim(OTHER, 3);
        assert_eq!(decided(Some(other), None, true), ClaimDecision::Leave);
        assert_eq!(
            decided(Some(other), seen(other, 81), true),
            ClaimDecision::Leave
        );
        assert_eq!(
            decided(Some(other), seen(other, 80), true),
            ClaimDecision::Take
        );
        let renewed = claim(OTHER, 4);
        assert_eq!(
            decided(Some(renewed), seen(other, 0), true),
            ClaimDecision::Leave
        );
    }
}
