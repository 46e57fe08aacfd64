//! The memory of one blob under way: [`BlobMemory`].
//!
//! ```text
//! bytes to come ──make_room──> writer (assembles, requests under way) ──hand_on──> blob tier
//!                    │                                             │
//!        units of the budget, or the overdraft                given back
//! ```
//!
//! A blob holds units of the budget of all uploads for the bytes that are there, not for those that may come: a caller that
//! sends nothing holds up nobody. Blobs that wait for units while they hold some can wait for each other. So one blob at
//! a time may exceed the budget, and ends: the budget is exceeded by one blob at most. Every wait is bounded.

use std::sync::Arc;

use cenotaph_storage::{Error, ErrorKind, Result};
use tokio::sync::OwnedSemaphorePermit;

use crate::shared::Shared;

/// See the head of this file.
pub(super) struct BlobMemory {
    shared: Shared,
    /// Most bytes that a blob holds.
    most_bytes: usize,
    held: Option<OwnedSemaphorePermit>,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl BlobMemory {
    pub(super) fn new(shared: &Shared, most_bytes: usize) -> Self {
        Self { shared: Arc::clone(shared), most_bytes, held: None, overdraft: None }
    }

    /// Waits until the blob may hold this many bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] after [`budget_wait`](crate::Limits::budget_wait).
    pub(super) async fn make_room(&mut self, bytes: usize) -> Result<()> {
        let budget = self.shared.admission.upload_bytes();
        let missing = budget.units(bytes.min(self.most_bytes)).saturating_sub(self.units());
        if missing == 0 || self.overdraft.is_some() {
            return Ok(());
        }
        if let Some(more) = budget.try_acquire_units(missing) {
            self.hold(more);
            return Ok(());
        }
        let granted = async {
            let _waiting = self.shared.admission.waiting();
            tokio::select! {
                biased;
                more = budget.acquire_units(missing) => (Some(more), None),
                overdraft = self.shared.admission.overdraft() => (None, Some(overdraft)),
            }
        };
        let wait = self.shared.limits.budget_wait;
        let Some((more, overdraft)) = self.shared.env.deadline(wait, granted).await else {
            let message = format!("the memory of all uploads is in use; nothing was committed: waited={wait:?}");
            return Err(Error::new(ErrorKind::Overloaded, "put", message));
        };
        if let Some(more) = more {
            self.hold(more);
        }
        self.overdraft = overdraft;
        Ok(())
    }

    /// Gives back what is not needed any more for this many bytes.
    pub(super) fn hand_on(&mut self, bytes: usize) {
        let needed = self.shared.admission.upload_bytes().units(bytes.min(self.most_bytes));
        let surplus = self.units().saturating_sub(needed);
        if surplus > 0 {
            drop(self.held.as_mut().and_then(|held| held.split(surplus as usize)));
        }
    }

    fn units(&self) -> u32 {
        self.held.as_ref().map_or(0, |held| u32::try_from(held.num_permits()).unwrap_or(u32::MAX))
    }

    fn hold(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
    }
}
