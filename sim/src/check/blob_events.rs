//! Checks of blobs and orphans, made when a blob is written or deleted, or when an orphan entry
//! becomes durable.
//!
//! Named checkers: I1 (a blob needs a durable change first), I2 (a named blob is neither queued nor
//! deleted), I4 (a revision is written once), I5 (an orphan settles after its blob is gone), I8 (no
//! blob is deleted during a read of it).

use uuid::Uuid;

use super::format::{self, Landing, Orphan};
use super::model::Model;
use super::words::{Words, short};
use crate::disks::blobs::{StoredBlobs, tier_of};
use crate::faults::PROVOKING;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

impl Model {
    /// Checks an entry of the orphan queue, or its removal, and takes it into the model.
    pub(super) fn orphan(
        &mut self,
        revision: Uuid,
        orphan: Option<Orphan>,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
        words: &mut Words,
    ) {
        let Some(orphan) = orphan else {
            words.push(|| format!("orphan {} settled", short(revision)));
            coverage.count("sweeper: an orphan settled");
            let path = self
                .revisions
                .get(&revision)
                .map(|revision| revision.path.clone())
                .unwrap_or_default();
            if !path.is_empty() && blobs.bytes(&path).is_some() {
                self.violated(
                    "I5",
                    format!("settled orphan still has a blob: revision={revision}"),
                );
            }
            // The revision stays in `orphaned`: its blob may still be deleted again.
            self.orphans.remove(&revision);
            return;
        };
        words.push(|| format!("orphan {} queued", short(revision)));
        self.orphaned.insert(revision);
        if self
            .rows
            .get(&orphan.object[..])
            .is_some_and(|row| row.revisions().contains(&revision))
        {
            self.violated(
                "I2",
                format!("queued revision is named by a row: revision={revision}"),
            );
        }
        if self.is_filed(revision) {
            self.violated(
                "I2",
                format!("queued revision is named by a part: revision={revision}"),
            );
        }
        // The sweeper queues an orphan again after each failed deletion, and an orphan that may
        // land once more after its first deletion.
        match self.orphans.get(&revision) {
            Some(before)
                if before.landing == Landing::MayLand && orphan.landing == Landing::Landed =>
            {
                coverage.count("sweeper: an orphan is deleted again later");
            }
            Some(_) if orphan.attempts > 1 => coverage.count("sweeper: a deletion failed again"),
            Some(_) if orphan.attempts > 0 => coverage.count("sweeper: a deletion failed"),
            Some(_) | None => {}
        }
        self.orphans.insert(revision, orphan);
    }

    /// Checks a blob that was created or has grown.
    pub(crate) fn blob_written(
        &mut self,
        _tick: Tick,
        (tier, path): (usize, &str),
        is_whole: bool,
    ) {
        let Some(revision) = format::revision_of_path(path) else {
            return self.violated(
                "I1",
                format!("blob is not at the path of a revision: path={path}"),
            );
        };
        if tier != tier_of(&revision) {
            let message = format!("blob is written to another tier: revision={revision}");
            self.violated("tiers", message);
        }
        let Some(known) = self.revisions.get_mut(&revision) else {
            return self.violated(
                "I1",
                format!("blob appears without a durable change: revision={revision}"),
            );
        };
        // The path is known only from the first write of the blob.
        path.clone_into(&mut known.path);
        if std::mem::replace(&mut known.is_whole, is_whole) {
            self.violated(
                "I4",
                format!("finished blob is written again: revision={revision}"),
            );
        }
    }

    /// Checks a blob that was deleted.
    pub(crate) fn blob_deleted(&mut self, _tick: Tick, (tier, path): (usize, &str)) {
        let Some(revision) = format::revision_of_path(path) else {
            return;
        };
        if tier != tier_of(&revision) {
            let message = format!("blob is deleted in another tier: revision={revision}");
            self.violated("tiers", message);
        }
        // A member that was declared dead before it could record a change deletes nothing.
        let is_known = !self.is_shared() || self.revisions.contains_key(&revision);
        if is_known && !self.orphaned.contains(&revision) {
            self.violated(
                "I5",
                format!("deleted blob never was an orphan: revision={revision}"),
            );
        }
        if self
            .rows
            .values()
            .any(|row| row.revisions().contains(&revision))
        {
            self.violated(
                "I2",
                format!("deleted blob is named by a row: revision={revision}"),
            );
        }
        if self.is_filed(revision) {
            self.violated(
                "I2",
                format!("deleted blob is named by a part: revision={revision}"),
            );
        }
        // A read is concerned only with the blobs of its range.
        let now = self.next_tick();
        let is_read = self.reading.values().any(|reader| {
            if self.is_of_dead_member(reader.epoch) {
                return false;
            }
            // A member that could not store its pin may lose the blob. Its read then fails.
            let is_pinned = reader
                .epoch
                .is_none_or(|epoch| self.has_pin(revision, epoch));
            if !is_pinned && self.struck_between(&PROVOKING, reader.opened.start, now) {
                return false;
            }
            let states = self
                .states
                .get(&reader.object)
                .map(Vec::as_slice)
                .unwrap_or_default();
            // A relocation during the opening leaves open which revisions are read.
            let from = states.partition_point(|(tick, _)| *tick < reader.opened.start);
            let opened = states[from.saturating_sub(1)..].iter();
            let mut seen = opened
                .take_while(|(tick, _)| *tick < reader.opened.end)
                .filter_map(|(_, row)| row.as_ref())
                .filter(|row| row.version == reader.version)
                .map(|row| row.revisions_of(&reader.range).contains(&revision))
                .peekable();
            seen.peek().is_some() && seen.all(|names| names)
        });
        if is_read {
            self.violated(
                "I8",
                format!("blob is deleted during a read: revision={revision}"),
            );
        }
    }
}
