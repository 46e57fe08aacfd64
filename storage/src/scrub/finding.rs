//! What a scrub finds, and what can be done about it: [`Found`], [`Remedy`], and the [`Finding`]
//! that is reported.
//!
//! Guards that a repair loses nothing unless it is told to: the remedy says which of the two it is,
//! and one that something unreadable may need is withheld. Guards too that a finding is confirmed
//! on the newest state before it is reported or acted on (docs/adr/0015): by the walk itself where
//! nothing can change any more, else by the object's shard. Deliberately not here: what may be
//! wrong (`damage.rs`), looking (the walk), and carrying a remedy out (the actors).

use serde::Serialize;

use super::damage::Damage;
use crate::decide::{Mend, UploadMend};
use crate::id::ObjectId;
use crate::index::Batch;
use crate::multipart::UploadId;

/// Damage as the walk hands it over.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is.
    pub damage: Damage,
    /// What can be done about it.
    pub remedy: Remedy,
}

/// What can be done about some damage.
#[derive(Clone, Debug)]
pub enum Remedy {
    /// Nothing. The walk has confirmed the damage.
    None,
    /// Nothing either. The shard confirms the damage: this is what it would mend if it could.
    Beyond(Cure),
    /// Nothing for now: as long as a row, a part or a change can't be read, it may be the one that
    /// needs this.
    Withheld,
    /// This, and nothing is lost by it that was not lost before.
    Safe(Cure),
    /// This, and what a person might still rescue is lost by it.
    Lossy(Cure),
}

/// A repair.
#[derive(Clone, Debug)]
pub enum Cure {
    /// Commit this, whoever does it: the walk has confirmed the damage, and nothing that is
    /// committed later can name what it touches.
    Commit(Batch),
    /// Have the object's shard look again and mend it (I3).
    Mend(ObjectId, Mend),
    /// Have the object's shard look again at this upload to it and mend that (I3).
    MendUpload(ObjectId, UploadId, UploadMend),
}

/// Damage, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    #[serde(flatten)]
    pub damage: Damage,
    /// What has become of it.
    pub fate: Fate,
}

/// What has become of some damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is still there: nothing was asked for that repairs it, or nothing does.
    Left,
    /// It is gone.
    Repaired,
    /// It is still there, because something that can't be read may need it. Repair or give up that
    /// first.
    Withheld,
}
