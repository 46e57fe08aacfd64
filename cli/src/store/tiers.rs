//! [`Tiers`]: the blob tiers that a store is opened over.
//!
//! ```text
//! option                        current tier             older tiers
//! none                          the remembered one       the remembered ones
//! --blobs URI                   URI: the remembered one, unless the tier is adopted
//! --older-blobs URI                                      URI, besides the remembered ones
//! migrate --tier URI            URI                      the current one, if it is not URI, and
//!                                                        its older ones
//! ```
//!
//! Only `migrate --tier` moves a store. Any other command completes a move of which the locations
//! are remembered already, unless it is read-only; see `blob_location/remembered.rs`.

use std::path::{Path, PathBuf};

use cenotaph::{BlobTierInfo, Builder, Engine, Operator};

use super::StoreAccess;
use crate::args::StoreArgs;
use crate::blob_location::{Location, Remembered};
use crate::blob_uri::{self, BlobPlace};
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;

/// Blob tiers of a store.
pub(crate) struct Tiers {
    data: PathBuf,
    current: Tier,
    older: Vec<Tier>,
    remembered: Option<Remembered>,
    /// True if the index of the store is shared.
    is_shared: bool,
    /// True if `migrate --tier` names another tier than the current one.
    is_move: bool,
}

/// A blob tier.
struct Tier {
    location: Location,
    at: TierAt,
}

/// Access to a blob tier.
enum TierAt {
    UnderData,
    Directory(PathBuf),
    Remote(Operator),
}

impl Tiers {
    /// Returns the tiers that the options and the remembered locations name.
    ///
    /// # Errors
    /// [`Failure::Usage`] if an option is invalid, or if this build does not support a remembered
    /// place. [`Failure::Failed`] if the remembered locations can't be read, or the current one is
    /// another place than `--blobs` (unless the tier is adopted).
    pub(super) fn of(args: &StoreArgs, access: StoreAccess) -> Result<Self, Failure> {
        let data = args.data.clone();
        let given = args.blobs.as_deref().map(blob_uri::parse).transpose()?;
        let remembered = match Remembered::read(&data) {
            // `adopt --blobs` replaces the remembered location, so a damaged file does not matter.
            Err(_) if access == StoreAccess::Adopt && given.is_some() => None,
            remembered => remembered?,
        };
        let is_shared = args.index.is_shared();
        check_index(&data, is_shared, remembered.as_ref())?;
        let current = match (given, &remembered) {
            (Some(given), _) => Tier::at(given)?,
            (None, Some(remembered)) => Tier::remembered(&remembered.current)?,
            (None, None) => Tier::at(BlobPlace::UnderData)?,
        };
        if let Some(remembered) = remembered.as_ref().filter(|_| access != StoreAccess::Adopt) {
            current.location.check(&remembered.current, &data)?;
        }
        let mut tiers = Self {
            data,
            current,
            older: Vec::new(),
            remembered,
            is_shared,
            is_move: false,
        };
        // First the options: their URIs may contain credentials, which are not remembered.
        for uri in &args.older_blobs {
            let place = blob_uri::parse_option("--older-blobs", uri)?;
            tiers.add_older(Tier::at(place)?);
        }
        let older = tiers.remembered.as_ref().map(|tiers| tiers.older.clone());
        for location in older.unwrap_or_default() {
            tiers.add_older(Tier::remembered(&location)?);
        }
        if let Some(uri) = &args.move_to {
            tiers.move_to(Tier::at(blob_uri::parse_option("--tier", uri)?)?)?;
        }
        Ok(tiers)
    }

    /// Adds an older tier, unless it is among the tiers already.
    fn add_older(&mut self, tier: Tier) {
        let is_same = |other: &Tier| tier.location.is_same_place(&other.location, &self.data);
        if !is_same(&self.current) && !self.older.iter().any(is_same) {
            self.older.push(tier);
        }
    }

    /// Makes this tier the current one.
    fn move_to(&mut self, tier: Tier) -> Result<(), Failure> {
        let is_same = |other: &Tier| tier.location.is_same_place(&other.location, &self.data);
        if is_same(&self.current) {
            // The given URI may contain credentials.
            self.current = tier;
            return Ok(());
        }
        if self.older.iter().any(is_same) {
            return Err(Failure::Failed(format!(
                "the store is being moved away from this tier, and can move back only after that: \
                 tier={} current={}",
                tier.location.uri(),
                self.current.location.uri(),
            )));
        }
        self.older.push(std::mem::replace(&mut self.current, tier));
        self.is_move = true;
        Ok(())
    }

    /// Names the tiers to a builder. Returns the builder and the local directories of the tiers.
    pub(super) fn apply(&self, builder: Builder, access: StoreAccess) -> (Builder, Vec<PathBuf>) {
        let mut dirs = Vec::new();
        let mut builder = match &self.current.at {
            TierAt::UnderData => builder,
            TierAt::Directory(dir) => {
                dirs.push(dir.clone());
                builder.blobs_in(dir)
            }
            TierAt::Remote(operator) => builder.blobs(operator.clone()),
        };
        for tier in &self.older {
            builder = match &tier.at {
                TierAt::UnderData => builder.older_blobs_in(self.data.join("blobs")),
                TierAt::Directory(dir) => {
                    dirs.push(dir.clone());
                    builder.older_blobs_in(dir)
                }
                TierAt::Remote(operator) => builder.older_blobs(operator.clone()),
            };
        }
        let is_remembered = self
            .remembered
            .as_ref()
            .is_some_and(|remembered| !remembered.older.is_empty() && access != StoreAccess::Adopt);
        builder = match (self.is_move, is_remembered) {
            (true, _) => {
                let (moved, data) = (self.locations(), self.data.clone());
                builder.before_move(move || moved.write(&data))
            }
            (false, true) => builder,
            (false, false) => builder.refuse_move(),
        };
        (builder, dirs)
    }

    fn locations(&self) -> Remembered {
        Remembered {
            current: self.current.location.clone(),
            older: self
                .older
                .iter()
                .map(|tier| tier.location.clone())
                .collect(),
            is_shared: self.is_shared,
        }
    }

    /// Returns the location of the current tier, in the form of `--blobs`.
    pub(crate) fn current(&self) -> &str {
        self.current.location.uri()
    }

    /// Returns a location of these tiers for people: with the path of the default directory.
    pub(crate) fn readable(&self, uri: &str) -> String {
        match uri {
            "fs:" => format!("fs:{}", self.data.join("blobs").display()),
            uri => uri.to_owned(),
        }
    }

    /// Returns the locations of the older tiers that the store still needs.
    pub(crate) fn older(&self, engine: &Engine) -> Vec<&str> {
        let older = self.still_older(engine).into_iter();
        older.map(|tier| tier.location.uri()).collect()
    }

    fn still_older(&self, engine: &Engine) -> Vec<&Tier> {
        let needed: Vec<BlobTierInfo> = engine.blob_tiers();
        let needed: Vec<&BlobTierInfo> = needed.iter().filter(|tier| !tier.is_current).collect();
        let is_needed = |tier: &&Tier| needed.iter().any(|needed| self.is_at(tier, needed));
        let found: Vec<&Tier> = self.older.iter().filter(is_needed).collect();
        match found.len() < needed.len() {
            // A needed tier that is forgotten makes the store unusable; another one is ignored.
            true => self.older.iter().collect(),
            false => found,
        }
    }

    /// Returns whether the engine has found its tier at the location of this one.
    fn is_at(&self, tier: &Tier, found: &BlobTierInfo) -> bool {
        match &tier.at {
            TierAt::UnderData | TierAt::Directory(_) => {
                let directory = tier.location.directory(&self.data);
                let found = PathBuf::from(&found.place).canonicalize().ok();
                directory.is_some() && directory == found
            }
            TierAt::Remote(operator) => {
                let info = operator.info();
                found.place == format!("{}://{}{}", info.scheme(), info.name(), info.root())
            }
        }
    }

    /// Prints a warning if the current tier of a shared store is a directory of this machine, unless
    /// the tier was remembered before.
    fn warn_of_directory(&self) {
        let is_new = self
            .remembered
            .as_ref()
            .is_none_or(|remembered| remembered.current != self.current.location);
        if !self.is_shared || !is_new || matches!(self.current.at, TierAt::Remote(_)) {
            return;
        }
        let message = format!(
            "warning: the blob tier of this shared store is a directory, which all members must \
             share: {}",
            self.readable(self.current())
        );
        eprintln!("cenotaph: {}", human::key(&message));
    }

    /// Remembers the tiers that an open engine needs, or prints a warning. The engine has checked
    /// that they belong to this store.
    pub(crate) fn remember(&self, engine: &Engine) {
        let older = self.still_older(engine).into_iter();
        let locations = Remembered {
            current: self.current.location.clone(),
            older: older.map(|tier| tier.location.clone()).collect(),
            is_shared: self.is_shared,
        };
        if !self.is_move && self.remembered.as_ref() == Some(&locations) {
            return;
        }
        self.warn_of_directory();
        // Not an error: a store on a full disk must stay usable.
        if let Err(error) = locations.write(&self.data) {
            let why = one_line(&error);
            let message = format!(
                "the locations of the blob tiers can't be saved; give --blobs (and --older-blobs) \
                 next time: data={} cause={why}",
                self.data.display()
            );
            eprintln!("cenotaph: {}", human::key(&message));
        }
    }
}

/// Checks that the index of the store is where the options have it.
///
/// # Errors
/// [`Failure::Failed`] if a shared index is named for a directory with an index of its own, or none
/// for a directory of a shared store.
fn check_index(
    data: &Path,
    is_shared: bool,
    remembered: Option<&Remembered>,
) -> Result<(), Failure> {
    let was_shared = remembered.is_some_and(|remembered| remembered.is_shared);
    let message = match (is_shared, was_shared) {
        (true, _) if data.join("index").is_dir() => {
            "this directory has an index of its own, and a shared index was named, too (--index, or \
             CENOTAPH_INDEX); give a shared store another directory"
        }
        (false, true) => {
            "the index of this store is shared and was not named; give --index or CENOTAPH_INDEX \
             (for a source: --from-index or CENOTAPH_FROM_INDEX)"
        }
        (true, _) | (false, false) => return Ok(()),
    };
    Err(Failure::Failed(format!(
        "{message}: data={}",
        data.display()
    )))
}

impl Tier {
    fn at(place: BlobPlace) -> Result<Self, Failure> {
        let location = Location::of(&place)?;
        let at = match place {
            BlobPlace::UnderData => TierAt::UnderData,
            BlobPlace::Directory(dir) => TierAt::Directory(dir),
            BlobPlace::Remote(uri) => TierAt::Remote(blob_uri::remote(&uri)?),
        };
        Ok(Self { location, at })
    }

    fn remembered(location: &Location) -> Result<Self, Failure> {
        Self::at(blob_uri::parse(location.uri())?)
    }
}
