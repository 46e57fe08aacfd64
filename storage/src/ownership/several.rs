//! The tiers of a store that was moved to another blob tier: [`TierClaim::take_all`].
//!
//! ```text
//! record in the index     given as current          given as older          result
//! current n, older ..     mark of n                 marks of all older      open
//! current n, older ..     mark of n                 not all older           Invalid
//! current n, older ..     no mark, or one of this   mark of n               tier n + 1 is current,
//!                         store that was never                              n is older
//!                         recorded; no other files
//! anything else           the table of `ownership.rs`
//! ```
//!
//! A tier is added in two steps, each durable before the next: its marker, with a fresh tier id,
//! and the record. A crash in between leaves a marker that no record names, which the next opening
//! replaces. A tier that was released and is still given as older is ignored.
//!
//! Guards I11.

use super::{TierClaim, TierPlace, TierView, refusal};
use crate::blobs::{BlobTier, BlobTiers, Contents, Marker};
use crate::records::{NumberedTier, StoreRecord};
use crate::types::{Error, ErrorKind, Result, TierMark, TierNumber};

/// Locations of the blob tiers of a store.
#[derive(Clone, Debug)]
pub struct TierPlaces {
    /// Location of the current tier.
    pub current: TierPlace,
    /// Locations of the tiers that were current before.
    pub older: Vec<TierPlace>,
}

/// An older tier as it was found.
type FoundTier = (Marker, BlobTier);

impl TierClaim {
    /// Returns the tiers at these places if they belong to the store. Takes the current tier if
    /// necessary, or adds it if the tier that was current is given as an older one.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if a tier belongs to another store, contains blobs but no marker,
    ///   or is an older tier that is not given.
    /// - [`ErrorKind::Unavailable`] if the expected marker is missing, or a tier cannot be read or
    ///   written now.
    /// - [`ErrorKind::Corrupt`] and [`ErrorKind::UnknownFormat`] if a marker or the record cannot
    ///   be decoded.
    /// - The errors of committing to the index.
    pub async fn take_all(&self, places: TierPlaces) -> Result<BlobTiers> {
        let older = self.find_older(places.older).await?;
        if !older.is_empty()
            && let Some(record) = StoreRecord::read(&*self.index).await?
            && has(&older, record.mark(record.current))
        {
            self.add(&record, places.current.clone()).await?;
        }
        let current = self.take(places.current).await?;
        self.assemble(current, older).await
    }

    /// Returns the tiers at these places for reading, without writing or creating anything. A tier
    /// that [`take_all`](Self::take_all) would take is returned as it is, without a marker. One
    /// that it would add is refused.
    ///
    /// # Errors
    /// As [`take_all`](Self::take_all), except the errors of writing.
    pub async fn find_all(&self, places: TierPlaces) -> Result<BlobTiers> {
        let older = self.find_older(places.older).await?;
        let current = self.find(places.current).await?;
        self.assemble(current, older).await
    }

    /// Reads the markers of the older tiers. A directory that does not exist is left out.
    async fn find_older(&self, places: Vec<TierPlace>) -> Result<Vec<FoundTier>> {
        let mut found = Vec::with_capacity(places.len());
        for place in places {
            let TierView { tier, marker, .. } = self.inspect(&place).await?;
            found.extend(tier.map(|tier| (marker, tier)));
        }
        Ok(found)
    }

    /// Makes the tier at this place the current one. The tier that was current becomes an older
    /// one.
    async fn add(&self, record: &StoreRecord, place: TierPlace) -> Result<()> {
        let TierView {
            tier, marker, text, ..
        } = self.inspect(&place).await?;
        match &marker {
            Marker::Absent => {}
            // Of an earlier attempt that ended before the record.
            Marker::Of(found) if found.store == record.id && !is_recorded(record, *found) => {}
            // A torn marker of an earlier attempt, or something else: the check of the contents
            // decides, because a marker alone holds no data.
            Marker::Unreadable(..) => {}
            Marker::Of(found) => {
                let cause = format!("belongs to another store or is in use: found={found}");
                return Err(refusal(ErrorKind::Invalid, &cause, &text));
            }
        }
        let contents = match &tier {
            Some(tier) => tier.contents().await?,
            None => Contents::default(),
        };
        if let Some(first) = contents.sample.first() {
            let path = &first.path;
            let cause = format!("contains files, and a store moves to an empty tier: file={path}");
            return Err(refusal(ErrorKind::Invalid, &cause, &text));
        }
        let number = record.current.number.next().ok_or_else(|| {
            let last = TierNumber::LAST;
            let message = format!("the store has had too many blob tiers: max={last}");
            Error::new(ErrorKind::Invalid, "open", message)
        })?;
        let current = NumberedTier {
            number,
            id: Some(self.env.tier_id()),
        };
        let tier = self.created(tier, place).await?;
        tier.write_marker(record.mark(current)).await?;
        let mut older = record.older.clone();
        older.push(record.current);
        let added = StoreRecord {
            current,
            older,
            ..record.clone()
        };
        added.write(&self.index).await?;
        tracing::info!(tier = text, %number, "the store has a new current blob tier");
        Ok(())
    }

    /// Joins the current tier with the older tiers that the record names.
    async fn assemble(&self, current: BlobTier, found: Vec<FoundTier>) -> Result<BlobTiers> {
        let Some(record) = StoreRecord::read(&*self.index).await? else {
            return Ok(current.into());
        };
        let mut older = Vec::with_capacity(record.older.len());
        for &tier in &record.older {
            let mark = record.mark(tier);
            let is_it = |(marker, _): &&FoundTier| matches!(marker, Marker::Of(of) if *of == mark);
            let Some((_, found)) = found.iter().find(is_it) else {
                let message = format!(
                    "the store still has objects in an older blob tier, which was not given: \
                     tier={mark} number={}",
                    tier.number
                );
                return Err(Error::new(ErrorKind::Invalid, "open", message));
            };
            found.belongs_to(mark);
            found.check_owner().await?;
            older.push((tier.number, found.clone()));
        }
        if found.len() > older.len() {
            tracing::warn!("a blob tier that is given as an older one holds nothing of this store");
        }
        Ok(BlobTiers::new((record.current.number, current), older))
    }

    /// Checks that a tier which is adopted as the current one is not an older one.
    pub(super) fn check_not_older(
        &self,
        record: Option<&StoreRecord>,
        marker: &Marker,
        text: &str,
    ) -> Result<()> {
        match (record, marker) {
            (Some(record), Marker::Of(found))
                if record.older.iter().any(|&tier| record.mark(tier) == *found) =>
            {
                let cause =
                    "is an older tier of this store, and can't be adopted as its current one";
                Err(refusal(ErrorKind::Invalid, cause, text))
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether a tier with this mark was found.
fn has(found: &[FoundTier], mark: TierMark) -> bool {
    found
        .iter()
        .any(|(marker, _)| matches!(marker, Marker::Of(found) if *found == mark))
}

/// Returns whether the record names a tier with this mark.
fn is_recorded(record: &StoreRecord, mark: TierMark) -> bool {
    let mut all = record.older.iter().chain([&record.current]);
    all.any(|&tier| record.mark(tier) == mark)
}
