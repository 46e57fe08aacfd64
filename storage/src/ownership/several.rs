//! The tiers of a store that was moved to another blob tier: [`TierClaim::take_all`].
//!
//! ```text
//! record in the index     given as current          given as older          result
//! current n, older ..     mark of n                 marks of all older      open
//! current n, older ..     mark of n                 not all older           Invalid
//! current n, older ..     mark of n                 one without a mark      Unavailable
//! current n, older ..     another mark              one without a mark      Unavailable
//! current n, older ..     no mark, or that of the   mark of n               tier n + 1 is current,
//!                         next tier; no other files                         n is older
//! anything else           the table of `ownership.rs`
//! ```
//!
//! A tier is added in three steps, each durable before the next: the record with a fresh tier id and
//! the place of the next tier, the marker, the record with the tier as the current one. A repetition
//! at the same place uses the same id, because the marker of the first attempt may appear late. At
//! another place it uses a fresh id, so that no two tiers have the same mark. A tier that was
//! released and is still given as older is ignored.
//!
//! A reader opens the store as if the tier was added, and writes neither the marker nor the record.
//!
//! Guards I11.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{TierClaim, TierPlace, TierView, refusal};
use crate::blobs::{self, BlobTier, BlobTiers, Contents, Marker};
use crate::records::{NextTier, NumberedTier, StoreRecord};
use crate::types::{Error, ErrorKind, Result, TierMark, TierNumber};

/// Reason why a store is not moved.
const ALONE: &str = "a shared store moves to another blob tier while only one member has it open";
/// Number of repetitions of an opening that other members of a shared index may have disturbed.
const RACES: u32 = 4;
/// Longest pause between them.
const RACE_PAUSE: Duration = Duration::from_millis(200);

/// Locations of the blob tiers of a store.
#[derive(Clone, Debug)]
pub struct TierPlaces {
    /// Location of the current tier.
    pub current: TierPlace,
    /// Locations of the tiers that were current before.
    pub older: Vec<TierPlace>,
    /// Reaction to places over which the store would have a new current tier.
    pub on_new: OnNewTier,
}

/// Step between the marker of a new tier and the record, which is the switch.
pub type BeforeSwitch = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Reaction of an opening that would add a tier.
#[derive(Clone, Default)]
pub enum OnNewTier {
    /// Adds the tier.
    #[default]
    Add,
    /// Adds the tier after this step. An error of the step refuses the opening.
    AddAfter(BeforeSwitch),
    /// Refuses the opening.
    Refuse,
}

impl fmt::Debug for OnNewTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "Add",
            Self::AddAfter(_) => "AddAfter",
            Self::Refuse => "Refuse",
        })
    }
}

/// An older tier as it was found; no tier if its directory does not exist.
type FoundTier = (Marker, Option<BlobTier>, String);

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
        if self.index.is_shared() {
            for _ in 0..RACES {
                if let Ok(tiers) = self.take_all_once(places.clone()).await {
                    return Ok(tiers);
                }
                self.env.sleep(self.env.jitter(RACE_PAUSE)).await;
            }
        }
        self.take_all_once(places).await
    }

    async fn take_all_once(&self, places: TierPlaces) -> Result<BlobTiers> {
        let older = self.find_older(places.older).await?;
        if !older.is_empty()
            && let Some(record) = StoreRecord::read(&*self.index).await?
        {
            let mark = record.mark(record.current);
            if has(&older, mark) {
                self.add(&record, places.current.clone(), &places.on_new)
                    .await?;
            } else if unmarked(&older).is_some() {
                // The unmarked tier may be the current one, and the other one the next.
                let TierView { marker, .. } = self.inspect(&places.current).await?;
                if !matches!(marker, Marker::Of(found) if found == mark) {
                    return Err(missing(mark, record.current.number, &older));
                }
            }
        }
        let current = self.take(places.current).await?;
        let record = StoreRecord::read(&*self.index).await?;
        self.assemble(record, current, older).await
    }

    /// Returns the tiers at these places for reading, without writing or creating anything. A tier
    /// that [`take_all`](Self::take_all) would take or add is returned as it is, without a marker.
    ///
    /// # Errors
    /// As [`take_all`](Self::take_all), except the errors of writing.
    pub async fn find_all(&self, places: TierPlaces) -> Result<BlobTiers> {
        let older = self.find_older(places.older).await?;
        let record = StoreRecord::read(&*self.index).await?;
        let is_moving = |record: &StoreRecord| has(&older, record.mark(record.current));
        let Some(record) = record.filter(is_moving) else {
            let current = self.find(places.current).await?;
            let record = StoreRecord::read(&*self.index).await?;
            return self.assemble(record, current, older).await;
        };
        let (tier, next) = self
            .addition(&record, &places.current, &places.on_new)
            .await?;
        let tier = match (tier, places.current) {
            (Some(tier), _) => tier,
            (None, TierPlace::Operator(operator)) => self.tier(operator),
            // OpenDAL would create the directory.
            (None, TierPlace::Directory(_)) => self.tier(blobs::nothing()?),
        };
        let added = with_current(&record, next.tier);
        self.assemble(Some(added), tier, older).await
    }

    /// Reads the markers of the older tiers.
    async fn find_older(&self, places: Vec<TierPlace>) -> Result<Vec<FoundTier>> {
        let mut found = Vec::with_capacity(places.len());
        for place in places {
            let TierView {
                tier, marker, text, ..
            } = self.inspect(&place).await?;
            found.push((marker, tier, text));
        }
        Ok(found)
    }

    /// Makes the tier at this place the current one. The tier that was current becomes an older
    /// one.
    async fn add(&self, record: &StoreRecord, place: TierPlace, on_new: &OnNewTier) -> Result<()> {
        let (tier, next) = self.addition(record, &place, on_new).await?;
        // Step 1: the next tier.
        let current = next.tier;
        self.check_alone(ALONE).await?;
        let adding = if record.next.as_ref() != Some(&next) {
            let adding = StoreRecord {
                next: Some(next),
                ..record.clone()
            };
            adding.write(&self.index, Some(record)).await?;
            adding
        } else {
            record.clone()
        };
        // Step 2: the marker.
        let tier = self.created(tier, place).await?;
        tier.write_marker(record.mark(current)).await?;
        if let OnNewTier::AddAfter(step) = on_new {
            let step = Arc::clone(step);
            self.env.blocking_on_blobs(move || step()).await??;
        }
        // Step 3: the current tier.
        let added = with_current(record, current);
        added.write(&self.index, Some(&adding)).await?;
        // A member that has joined since has read the record before, or after. In the first case it
        // does not know the tier, and is seen here: it joins before it reads.
        if let Err(error) = self.check_alone(ALONE).await {
            adding.write(&self.index, Some(&added)).await?;
            return Err(error);
        }
        let number = current.number;
        tracing::info!(tier = tier.place(), %number, "the store has a new current blob tier");
        Ok(())
    }

    /// Checks that the tier at this place can be added. Returns the tier, or `None` if its
    /// directory does not exist, and its number and id.
    async fn addition(
        &self,
        record: &StoreRecord,
        place: &TierPlace,
        on_new: &OnNewTier,
    ) -> Result<(Option<BlobTier>, NextTier)> {
        let TierView {
            tier, marker, text, ..
        } = self.inspect(place).await?;
        let next = self.next(record, &marker, &text)?;
        match &marker {
            // A torn marker is of an earlier attempt, or something else: the check of the contents
            // decides, because a marker alone holds no data.
            Marker::Absent | Marker::Unreadable(..) => {}
            Marker::Of(found) if *found == record.mark(next.tier) => {}
            Marker::Of(found) => {
                let cause = format!("belongs to another store or is in use: found={found}");
                return Err(refusal(ErrorKind::Invalid, &cause, &text));
            }
        }
        if matches!(on_new, OnNewTier::Refuse) {
            let cause = "is not the current one of this store, and this opening moves no store";
            return Err(refusal(ErrorKind::Invalid, cause, &text));
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
        Ok((tier, next))
    }

    /// Returns the tier to add at this place.
    fn next(&self, record: &StoreRecord, marker: &Marker, place: &str) -> Result<NextTier> {
        // A path may have several spellings. The marker proves that it is the same place.
        let is_here = |next: &&NextTier| {
            next.place == place
                || matches!(marker, Marker::Of(found) if *found == record.mark(next.tier))
        };
        if let Some(next) = record.next.as_ref().filter(is_here) {
            return Ok(next.clone());
        }
        let number = record.current.number.next().ok_or_else(|| {
            let last = TierNumber::LAST;
            let message = format!("the store has had too many blob tiers: max={last}");
            Error::new(ErrorKind::Invalid, "open", message)
        })?;
        Ok(NextTier {
            tier: NumberedTier {
                number,
                id: Some(self.env.tier_id()),
            },
            place: place.to_owned(),
        })
    }

    /// Joins the current tier with the older tiers that the record names.
    async fn assemble(
        &self,
        record: Option<StoreRecord>,
        current: BlobTier,
        found: Vec<FoundTier>,
    ) -> Result<BlobTiers> {
        let Some(record) = record else {
            return Ok(current.into());
        };
        let mut older = Vec::with_capacity(record.older.len());
        for &tier in &record.older {
            let mark = record.mark(tier);
            let is_it = |(marker, ..): &&FoundTier| matches!(marker, Marker::Of(of) if *of == mark);
            let Some((_, Some(found), _)) = found.iter().find(is_it) else {
                return Err(missing(mark, tier.number, &found));
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

/// Returns the record after the switch to this tier.
fn with_current(record: &StoreRecord, current: NumberedTier) -> StoreRecord {
    let mut older = record.older.clone();
    older.push(record.current);
    StoreRecord {
        current,
        older,
        next: None,
        ..record.clone()
    }
}

/// Returns whether a tier with this mark was found.
fn has(found: &[FoundTier], mark: TierMark) -> bool {
    let mut markers = found.iter().map(|(marker, ..)| marker);
    markers.any(|marker| matches!(marker, Marker::Of(found) if *found == mark))
}

/// Returns the location of a tier that was found without a mark.
fn unmarked(found: &[FoundTier]) -> Option<&str> {
    let mut texts = found.iter().filter_map(|(marker, _, text)| match marker {
        Marker::Of(_) => None,
        Marker::Absent | Marker::Unreadable(..) => Some(text.as_str()),
    });
    texts.next()
}

/// Returns the error for an older tier that was not found.
fn missing(mark: TierMark, number: TierNumber, found: &[FoundTier]) -> Error {
    // A tier without its mark may be the missing one, on a disk that is not mounted.
    if let Some(text) = unmarked(found) {
        let cause = format!("is an older one without its mark: expected={mark}");
        return refusal(ErrorKind::Unavailable, &cause, text);
    }
    let message = format!(
        "the store still has objects in an older blob tier, which was not given: tier={mark} \
         number={number}"
    );
    Error::new(ErrorKind::Invalid, "open", message)
}
