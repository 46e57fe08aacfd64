//! [`BlobTiers`]: the blob tiers of a store.
//!
//! ```text
//! write   ──> current tier
//! read, stat, delete a revision ──> the tier that its id names
//! list, check of the owner ──> all tiers
//! ```
//!
//! A store has one current tier, and older ones until all payloads are relocated from them
//! (docs/adr/0030). A revision of a tier that was released is looked for in the current tier and
//! not found: nothing named it when its tier was released.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{BlobName, BlobReader, BlobTier, BlobWriter, FoundBlob, Room};
use crate::types::{Error, Result, RevisionId, RevisionKey, TierNumber};

/// Handle of the blob tiers of a store. Cheap to clone.
#[derive(Clone)]
pub struct BlobTiers(Arc<Inner>);

struct Inner {
    number: TierNumber,
    current: BlobTier,
    older: RwLock<Vec<(TierNumber, BlobTier)>>,
}

impl From<BlobTier> for BlobTiers {
    fn from(first: BlobTier) -> Self {
        Self::new((TierNumber::FIRST, first), Vec::new())
    }
}

impl BlobTiers {
    /// Creates the handle of a current tier and of older ones.
    pub fn new(
        (number, current): (TierNumber, BlobTier),
        older: Vec<(TierNumber, BlobTier)>,
    ) -> Self {
        Self(Arc::new(Inner {
            number,
            current,
            older: RwLock::new(older),
        }))
    }

    /// Returns the number of the current tier. Every new revision has it.
    pub fn number(&self) -> TierNumber {
        self.0.number
    }

    /// Returns the current tier.
    pub fn current(&self) -> &BlobTier {
        &self.0.current
    }

    /// Returns the older tiers.
    pub fn older(&self) -> Vec<(TierNumber, BlobTier)> {
        let older = self.0.older.read();
        older.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether a revision is in an older tier.
    pub fn is_older(&self, revision: RevisionId) -> bool {
        revision.tier() != self.0.number
    }

    /// Forgets an older tier that holds nothing any more.
    pub fn release(&self, number: TierNumber) {
        let older = self.0.older.write();
        let mut older = older.unwrap_or_else(PoisonError::into_inner);
        older.retain(|(other, _)| *other != number);
    }

    /// Returns the tier of a revision.
    pub fn of(&self, revision: RevisionId) -> BlobTier {
        let number = revision.tier();
        if number != self.0.number {
            let older = self.0.older.read();
            let older = older.unwrap_or_else(PoisonError::into_inner);
            if let Some((_, tier)) = older.iter().find(|(other, _)| *other == number) {
                return tier.clone();
            }
        }
        self.0.current.clone()
    }

    /// Returns a writer for a revision's blob.
    pub fn writer(&self, key: &RevisionKey) -> BlobWriter {
        self.of(key.revision).writer(key)
    }

    /// Returns a reader of a revision's blob.
    pub fn reader(&self, key: &RevisionKey) -> BlobReader {
        self.of(key.revision).reader(key)
    }

    /// As [`BlobTier::stat`].
    ///
    /// # Errors
    /// As [`BlobTier::stat`].
    pub async fn stat(&self, key: &RevisionKey) -> Result<Option<u64>> {
        self.of(key.revision).stat(key).await
    }

    /// As [`BlobTier::delete`].
    ///
    /// # Errors
    /// As [`BlobTier::delete`].
    pub async fn delete(&self, key: &RevisionKey) -> Result<()> {
        self.of(key.revision).delete(key).await
    }

    /// As [`BlobTier::settle_deletes`], for revisions of any tier.
    ///
    /// # Errors
    /// As [`BlobTier::settle_deletes`].
    pub async fn settle_deletes(&self, keys: &[RevisionKey]) -> Result<()> {
        let mut older: Vec<TierNumber> = keys.iter().map(|key| key.revision.tier()).collect();
        older.sort_unstable();
        older.dedup();
        for number in older {
            let of_tier = |key: &&RevisionKey| key.revision.tier() == number;
            let keys: Vec<RevisionKey> = keys.iter().filter(of_tier).cloned().collect();
            if let Some(first) = keys.first() {
                self.of(first.revision).settle_deletes(&keys).await?;
            }
        }
        Ok(())
    }

    /// As [`BlobTier::list`], over all tiers.
    pub fn list(&self) -> BoxStream<'static, Result<FoundBlob>> {
        let older = self.older().into_iter().map(|(_, tier)| tier);
        let tiers: Vec<_> = older.chain([self.0.current.clone()]).collect();
        stream::iter(tiers).flat_map(|tier| tier.list()).boxed()
    }

    /// As [`BlobTier::name_of`].
    ///
    /// # Errors
    /// As [`BlobTier::name_of`].
    pub async fn name_of(&self, found: &FoundBlob) -> Result<BlobName> {
        match found.revision {
            Some(revision) => self.of(revision).name_of(found).await,
            None => Ok(BlobName::Unknown),
        }
    }

    /// As [`BlobTier::tells_name`].
    ///
    /// # Errors
    /// As [`BlobTier::tells_name`].
    pub async fn tells_name(&self, key: &RevisionKey) -> Result<bool> {
        self.of(key.revision).tells_name(key).await
    }

    /// Checks that all tiers exist and belong to this store, as [`BlobTier::check_owner`] does.
    ///
    /// # Errors
    /// The error of the first tier that fails the check.
    pub async fn check_owner(&self) -> Result<()> {
        for (_, tier) in self.older() {
            tier.check_owner().await?;
        }
        self.0.current.check_owner().await
    }

    /// Returns the error of the last ownership check of a tier, or `None` if all checks passed.
    pub fn trouble(&self) -> Option<Error> {
        let older = || self.older().iter().find_map(|(_, tier)| tier.trouble());
        self.0.current.trouble().or_else(older)
    }

    /// Declares that the blobs of the tiers on this file system share their disk with the index, as
    /// [`BlobTier::share_disk`] does.
    pub fn share_disk(&self, path: &Path, room: impl Fn() -> Room) {
        for tier in self
            .older()
            .iter()
            .map(|(_, tier)| tier)
            .chain([&self.0.current])
        {
            if tier.is_on_disk_of(path) {
                tier.share_disk(room());
            }
        }
    }

    /// Returns whether a deletion of blobs may release space on the disk of the index.
    pub fn may_share_disk(&self) -> bool {
        self.0.current.shares_disk() || self.older().iter().any(|(_, tier)| tier.shares_disk())
    }
}
