//! The fallback of the store, as far as decisions depend on it.
//!
//! ```text
//! 1 no fallback, or sealed                              NotAsked
//! 2 the request does not depend on the fallback         NotAsked
//! 3 durable state: a row or a last version              NotAsked: the shard sees one of them, too
//! 4 neither                                             ask: Present, Missing, or the error
//! ```
//!
//! Runs in the task of the caller, so that no shard waits for a fallback. The shard uses an answer
//! only if the object still has neither row nor last version (docs/adr/0029).

use std::collections::BTreeMap;

use cenotaph_storage::decide::{FallbackAnswer, Mutation, Precondition, Swap};
use cenotaph_storage::fallback::AttachedFallback;
use cenotaph_storage::index::Table;
use cenotaph_storage::records::last_version_key;
use cenotaph_storage::{ErrorKind, ObjectId, Result};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::context::Context;

/// Concurrent questions of an atomic batch.
const ASKED_AT_ONCE: usize = 16;

/// Fallback of a store, and the tier of the objects that are moved from it.
#[derive(Clone, Debug)]
pub struct FallbackOptions {
    /// The fallback.
    pub attached: AttachedFallback,
    /// Longest payload that goes into the index, in bytes.
    pub inline_bytes_max: usize,
}

impl Context {
    /// Returns the fallback, unless there is none or it is sealed.
    pub(crate) fn open_fallback(&self) -> Option<&FallbackOptions> {
        self.fallback
            .as_ref()
            .filter(|fallback| fallback.attached.is_open())
    }

    /// Returns whether objects may be in a fallback.
    pub(crate) fn is_fallback_open(&self) -> bool {
        self.open_fallback().is_some()
    }

    /// Returns an answer, unless the fallback has been sealed since it was given: masks may have
    /// been dropped, so that the state New no longer means that the object was never deleted.
    pub(crate) fn valid(&self, answer: FallbackAnswer) -> FallbackAnswer {
        if self.is_fallback_open() {
            answer
        } else {
            FallbackAnswer::NotAsked
        }
    }

    /// Returns the answer that a request under this precondition needs. `known` is an answer that
    /// the caller has already.
    ///
    /// # Errors
    /// The error of the fallback. It never counts as an answer.
    pub(crate) async fn answer(
        &self,
        id: &ObjectId,
        precondition: Precondition,
        known: FallbackAnswer,
    ) -> Result<FallbackAnswer> {
        match (precondition, known) {
            (Precondition::Absent | Precondition::InFallback, FallbackAnswer::NotAsked) => {
                self.ask_fallback(id).await
            }
            (_, known) => Ok(known),
        }
    }

    /// Returns the answers that the swaps of an atomic batch need.
    ///
    /// # Errors
    /// The first error of the fallback.
    pub(crate) async fn answers(
        &self,
        swaps: &[Swap],
    ) -> Result<BTreeMap<ObjectId, FallbackAnswer>> {
        if !self.is_fallback_open() {
            return Ok(BTreeMap::new());
        }
        let needed: Vec<ObjectId> = swaps
            .iter()
            .filter(|swap| match swap.precondition {
                Precondition::Absent | Precondition::InFallback => true,
                Precondition::None => matches!(swap.mutation, Mutation::Delete),
                Precondition::Version(_) | Precondition::Etag(_) => false,
            })
            .map(|swap| swap.id.clone())
            .collect();
        let asked = needed.into_iter().map(|id| async move {
            let answer = self.ask_fallback(&id).await?;
            Ok((id, answer))
        });
        stream::iter(asked)
            .buffer_unordered(ASKED_AT_ONCE)
            .try_collect()
            .await
    }

    /// Asks the fallback about an object, if the store has neither a row nor a last version of it.
    ///
    /// # Errors
    /// The error of the fallback or of the index.
    pub(crate) async fn ask_fallback(&self, id: &ObjectId) -> Result<FallbackAnswer> {
        let Some(fallback) = self.open_fallback() else {
            return Ok(FallbackAnswer::NotAsked);
        };
        if !self.is_new(id).await.map_err(|error| error.with_id(id))? {
            return Ok(FallbackAnswer::NotAsked);
        }
        let found = fallback.attached.head(id).await?;
        // An expired object is absent. The shard checks the deadline again.
        let live = found.filter(|meta| meta.is_live(self.env.steady_now()));
        Ok(live.map_or(FallbackAnswer::Missing, |meta| {
            FallbackAnswer::Present(meta.times())
        }))
    }

    /// Returns whether the index has neither a row nor a last version of an object.
    pub(crate) async fn is_new(&self, id: &ObjectId) -> Result<bool> {
        // One snapshot: a write removes the last version in the batch that stores the row.
        let snapshot = self.index.snapshot()?;
        let is_absent = async |table, key: &[u8]| match snapshot.get(table, key).await {
            Ok(value) => Ok(value.is_none()),
            // Something is there. The shard reports the damage, or replaces it.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            Err(error) => Err(error),
        };
        Ok(is_absent(Table::Rows, id.encoded()).await?
            && is_absent(Table::Meta, &last_version_key(id)).await?)
    }
}
