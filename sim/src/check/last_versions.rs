//! Checks of last versions and of the base version, at each commit and at rest.
//!
//! ```text
//! batch                                  violation
//! -------------------------------------- --------------------------------------------------------
//! stores a last version                  it is not the last version of the object
//! removes one, without a row             the base version is lower: a version may be reused
//! stores a row                           a last version stays beside it
//! stores a base version                  it is lower than before
//! ```
//!
//! Named checkers: `versions`, I3 and, after the faults, `liveness`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::commit_observer::Changed;
use super::format::{self, BaseVersion, LastVersion};
use super::model::Model;
use super::words::{Words, readable};
use crate::trace::coverage::Coverage;

impl Model {
    /// Returns whether this is the version of a new row: the successor of the last version, if the
    /// object has one. Otherwise the version must be new for the object, and at most the successor
    /// of the base version.
    pub(super) fn is_next_version(&self, object: &Bytes, version: u64) -> bool {
        let last = self.versions.get(object).copied().unwrap_or(0);
        if self.rows.contains_key(object) || self.last_versions.contains_key(object) {
            return version == last + 1;
        }
        // The shard may have decided before later batches raised the base version.
        version > last && version <= self.base_version() + 1
    }

    pub(super) fn base_version(&self) -> u64 {
        self.base.map_or(0, |base| base.version)
    }

    /// Checks the last versions and the base version of a batch whose rows are in the model, and
    /// takes them into it.
    pub(super) fn keep_last_versions(
        &mut self,
        changed: &Changed,
        coverage: &mut Coverage,
        words: &mut Words,
    ) {
        if let Some(base) = changed.base {
            if base.version < self.base_version() {
                let message = format!("base version is lowered: version={}", base.version);
                self.violated("versions", message);
            }
            words.push(|| format!("base version {}", base.version));
            self.base = Some(base);
        }
        for (object, last) in &changed.last_versions {
            let highest = self.versions.get(object).copied().unwrap_or(0);
            match last {
                Some(last) => {
                    if last.version != highest {
                        let name = readable(object);
                        let message = format!("wrong last version: object={name} {last:?}");
                        self.violated("versions", message);
                    }
                    self.last_versions.insert(object.clone(), *last);
                }
                None => {
                    let removed = self.last_versions.remove(object);
                    if removed.is_none() || self.rows.contains_key(object) {
                        continue;
                    }
                    coverage.count("pruner: a last version dropped");
                    self.check_mask_dropped(object);
                    words.push(|| format!("last version of {} dropped", readable(object)));
                    if highest > self.base_version() {
                        let base = self.base_version();
                        let name = readable(object);
                        let message = format!(
                            "last version above the base version is dropped: object={name} \
                             last={highest} base={base}"
                        );
                        self.violated("versions", message);
                    }
                }
            }
        }
        for (object, _) in changed.rows.iter().filter(|(_, row)| row.is_some()) {
            if self.last_versions.contains_key(object) {
                let name = readable(object);
                let message = format!("last version beside a row: object={name}");
                self.violated("I3", message);
            }
        }
    }

    /// Checks that each deleted object has its last version, unless that was dropped.
    pub(super) fn check_last_versions(&mut self) {
        let states = self.states.iter();
        let deleted =
            states.filter(|(_, states)| states.last().is_some_and(|(_, row)| row.is_none()));
        let lost = deleted
            .map(|(object, _)| object)
            .filter(|object| {
                let last = self.versions.get(*object).copied().unwrap_or(0);
                last > self.base_version() && !self.last_versions.contains_key(*object)
            })
            .count();
        let beside = self
            .last_versions
            .keys()
            .filter(|object| self.rows.contains_key(*object))
            .count();
        if (lost, beside) != (0, 0) {
            let message = format!(
                "last versions do not match the deleted objects: lost={lost} beside={beside}"
            );
            self.violated("versions", message);
        }
    }

    /// Returns the number of last versions over these limits, which the pruner should have dropped
    /// this long ago.
    pub(crate) fn overdue_last_versions(&self, for_ms: u64, kept_for_ms: u64, most: u64) -> u64 {
        // Masks are kept until the seal.
        if self.has_open_source() {
            return 0;
        }
        let deleted = |last: &LastVersion| {
            let undated = self.base.map_or(u64::MAX, |base| base.undated_since);
            last.deleted_ms.unwrap_or(undated)
        };
        let then = self
            .now_ms()
            .saturating_sub(for_ms)
            .saturating_sub(kept_for_ms);
        let old = self
            .last_versions
            .values()
            .filter(|last| deleted(last) < then)
            .count() as u64;
        let newest = self.last_versions.values().map(deleted).max().unwrap_or(0);
        // The count is met once no object is deleted any more.
        let is_quiet = newest < self.now_ms().saturating_sub(for_ms);
        let over = (self.last_versions.len() as u64).saturating_sub(most);
        old.max(if is_quiet { over } else { 0 })
    }
}

impl Changed {
    /// Takes the last version or base version of an entry of the meta table. Returns `None` if the
    /// entry can't be decoded.
    pub(super) fn read_meta(&mut self, key: &Bytes, value: Option<&Bytes>) -> Option<()> {
        if let Some(object) = key.strip_prefix(format::LAST_VERSIONS) {
            let last = match value {
                Some(value) => Some(LastVersion::decode(value)?),
                None => None,
            };
            self.last_versions
                .push((Bytes::copy_from_slice(object), last));
        } else if key == format::BASE {
            // Without a value: the base version is lost.
            let lost = BaseVersion {
                version: 0,
                undated_since: 0,
            };
            self.base = Some(match value {
                Some(value) => format::decode(value)?,
                None => lost,
            });
        }
        Some(())
    }
}

/// Returns whether the values of the meta table are those of the model.
pub(super) fn are_stored(model: &Model, meta: &BTreeMap<Bytes, Bytes>) -> bool {
    let mut read = Changed::default();
    for (key, value) in meta {
        if read.read_meta(key, Some(value)).is_none() {
            return false;
        }
    }
    let stored: BTreeMap<_, _> = read.last_versions.into_iter().collect();
    let modelled = model.last_versions.iter();
    let modelled = modelled.map(|(object, last)| (object.clone(), Some(*last)));
    read.base == model.base && stored.into_iter().eq(modelled)
}
