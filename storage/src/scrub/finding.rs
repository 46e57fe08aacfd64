//! A found damage and its repair: [`FoundDamage`], [`RepairPolicy`], and the reported [`Finding`].
//!
//! Guards two rules. A repair loses data only on request: the policy names the loss, and a repair
//! whose target may belong to an unreadable entry is withheld. A finding is confirmed on the newest
//! state before it is reported or repaired (docs/adr/0015): by the walk if the entry can no longer
//! change, otherwise by the object's shard. The kinds of damage are in `damage.rs`.

use serde::Serialize;

use super::damage::Damage;
use crate::decide::{Repair, UploadRepair};
use crate::index::Batch;
use crate::types::{ObjectId, UploadId};

/// Damage found by the walk, with its repair.
#[derive(Clone, Debug)]
pub struct FoundDamage {
    /// The damage.
    pub damage: Damage,
    /// The possible repair.
    pub policy: RepairPolicy,
}

/// Possible repair of a damage.
#[derive(Clone, Debug)]
pub enum RepairPolicy {
    /// No repair. The walk has confirmed the damage.
    None,
    /// No repair. The shard must confirm the damage: the action describes the entry to check.
    Beyond(RepairAction),
    /// No repair yet: an unreadable row, part or change may name the entry that the repair would
    /// remove.
    Withheld,
    /// A repair that loses no further data.
    Safe(RepairAction),
    /// A repair that loses data which might still be rescued by hand.
    Lossy(RepairAction),
}

/// A repair.
#[derive(Clone, Debug)]
pub enum RepairAction {
    /// A batch to commit. The walk has confirmed the damage, and no later commit can name the
    /// entries that the batch changes.
    Commit(Batch),
    /// A repair by the object's shard, which confirms the damage first (I3).
    Repair(ObjectId, Repair),
    /// A repair of an upload by the object's shard, which confirms the damage first (I3).
    RepairUpload(ObjectId, UploadId, UploadRepair),
    /// The base version is stored again as it is in memory, if the stored one is still damaged.
    BaseVersion,
}

/// A reported damage and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The damage.
    #[serde(flatten)]
    pub damage: Damage,
    /// Outcome of the repair.
    pub fate: RepairOutcome,
}

/// Outcome of the repair of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairOutcome {
    /// The damage remains: no repair was requested, or no repair exists.
    Left,
    /// The damage is repaired.
    Repaired,
    /// The damage remains, because an unreadable entry may need the affected data. Repair or give
    /// up that entry first.
    Withheld,
}
