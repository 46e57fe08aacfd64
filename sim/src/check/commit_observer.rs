//! Commit observer: receives every batch at the moment it becomes durable, decodes it and passes
//! each change to its checker.
//!
//! Named checkers: `format`, `epoch`, and those of the files that it calls: rows
//! (`row_commits.rs`), last versions (`last_versions.rs`), changes (`changes.rs`), uploads
//! (`sessions.rs`), orphans (`blob_events.rs`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Table};
use uuid::Uuid;

use super::call::{About, Asked, Call, Called};
use super::fallback::{FALLBACK, source_state};
use super::format::{self, BaseVersion, Change, LastVersion, Orphan, Row, Store};
use super::model::Model;
use super::sessions::Steps;
use super::words::{Words, short};
use crate::disks::blobs::StoredBlobs;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

/// Decoded changes of a batch, by table.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) rows: Vec<(Bytes, Option<Row>)>,
    pub(super) changes: Vec<(Uuid, Option<Change>)>,
    pub(super) orphans: Vec<(Uuid, Option<Orphan>)>,
    /// Changes that the batch removes and that existed before it.
    pub(super) settled: BTreeSet<Uuid>,
    /// Upload records and parts.
    pub(super) steps: Steps,
    /// Last versions, by object.
    pub(super) last_versions: Vec<(Bytes, Option<LastVersion>)>,
    /// Base version.
    pub(super) base: Option<BaseVersion>,
}

/// Rows of the batch's objects before the batch.
pub(super) type Before = BTreeMap<Bytes, Row>;

impl Changed {
    /// Returns the orphan entry with which the batch queues this revision.
    pub(super) fn queued(&self, revision: &Uuid) -> Option<&Orphan> {
        self.orphans
            .iter()
            .find(|(orphan, _)| orphan == revision)
            .and_then(|(_, orphan)| orphan.as_ref())
    }

    /// Returns true if the batch settles a change that names this revision.
    pub(super) fn settles(&self, model: &Model, revision: Uuid) -> bool {
        self.settled
            .iter()
            .any(|id| model.fate.get(&revision) == Some(id))
    }
}

impl Model {
    /// Returns the call that writes this payload to this object by a put, an update, an atomic
    /// batch or a multipart upload.
    pub(super) fn writer(&self, write: Option<u64>, object: &Bytes) -> Option<&Called> {
        self.calls.iter().find(|called| match &called.call {
            Call::Put {
                write: of,
                object: at,
                ..
            }
            | Call::Update {
                write: of,
                object: at,
                ..
            } => Some(*of) == write && at == object,
            Call::Atomic { pieces } => pieces
                .iter()
                .any(|piece| piece.write == write && piece.object == *object),
            Call::Multipart(Asked {
                object: at,
                of,
                what: About::Begin { .. },
            }) => Some(*of) == write && at == object,
            Call::Multipart(_)
            | Call::Change { .. }
            | Call::Move { .. }
            | Call::Read { .. }
            | Call::Delete { .. }
            | Call::DeletePrefix { .. }
            | Call::List { .. }
            | Call::ListGroups { .. }
            | Call::ListAll { .. }
            | Call::Other => false,
        })
    }

    /// Checks a batch that has become durable and takes it into the model. Adds a description to
    /// `words`.
    pub(crate) fn commit(
        &mut self,
        tick: Tick,
        batch: &Batch,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
        words: &mut Words,
    ) {
        let changed = self.decode(tick, batch, blobs, coverage);
        self.together(&changed);
        // The checks below change the model, so the rows before the batch are read first.
        let before = self.before(&changed);
        // The content of a completed upload must be in the model before its row is checked below.
        self.assemble(&changed);
        // Changes come first: their checks compare with the rows before the batch.
        for (id, recorded) in &changed.changes {
            let end = match recorded {
                Some(change) => {
                    self.recorded(*id, change, tick, coverage);
                    Some("recorded")
                }
                None => self.settled(*id, &changed, tick, blobs, coverage),
            };
            if let Some(end) = end {
                words.push(|| format!("change {} {end}", short(*id)));
            }
        }
        for (object, row) in &changed.rows {
            self.swap(
                object,
                row.as_ref(),
                &changed,
                &before,
                tick,
                blobs,
                coverage,
                words,
            );
        }
        self.keep_last_versions(&changed, coverage, words);
        self.steps(&changed, &before, tick, blobs, coverage, words);
        // Orphans come last: the rows and parts must already have given them up.
        for (revision, orphan) in changed.orphans {
            self.orphan(revision, orphan, blobs, coverage, words);
        }
        let has = |wanted: &[u8]| {
            let mut ops = batch.ops().iter();
            ops.any(|(table, key, _)| *table == Table::Meta && key == wanted)
        };
        if words.lacks_text() && has(b"epoch") {
            words.push(|| "a new epoch".to_owned());
        }
        if words.lacks_text() && has(format::STORE) {
            words.push(|| "the store and its tier".to_owned());
        }
    }

    /// Checks that an opening raises the epoch by 1.
    fn raised(&mut self, epoch: u64) {
        if epoch != self.epoch + 1 && !self.is_shared() {
            self.violated(
                "epoch",
                format!("unexpected epoch: epoch={epoch} last={}", self.epoch),
            );
        }
        self.epoch = epoch;
    }

    /// Decodes a batch. Takes the tables without a checker of their own directly into the model.
    fn decode(
        &mut self,
        tick: Tick,
        batch: &Batch,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
    ) -> Changed {
        // The last change of a key wins.
        let last: BTreeMap<_, _> = batch
            .ops()
            .iter()
            .map(|(table, key, value)| ((*table, key), value.as_ref()))
            .collect();
        let mut changed = Changed::default();
        for ((table, key), value) in last {
            let is_decoded = match table {
                Table::Rows => {
                    // A value that can't be decoded is a violation. A missing value is a removal.
                    let row = value.map(Row::decode);
                    row.as_ref()
                        .is_none_or(Option::is_some)
                        .then(|| changed.rows.push((key.clone(), row.flatten())))
                }
                Table::Changes => entry(key, value).map(|entry| changed.changes.push(entry)),
                Table::Orphans => entry(key, value).map(|entry| changed.orphans.push(entry)),
                Table::Payloads => keep(&mut self.payloads, key, value.is_some()),
                Table::Meta => {
                    if let Some(epoch) = value
                        .filter(|_| key == "epoch")
                        .and_then(|value| format::decode(value))
                    {
                        self.raised(epoch);
                    }
                    if key == format::STORE {
                        let store = value.and_then(|value| Store::decode(value));
                        self.claims(store, blobs, coverage);
                    }
                    if key == FALLBACK
                        && let Some(state) = value.and_then(|value| source_state(value))
                    {
                        self.source_recorded(tick, state);
                    }
                    keep(&mut self.meta, key, value.is_some());
                    if key.starts_with(format::PINS) {
                        self.pin(key, value, coverage)
                    } else {
                        changed.read_meta(key, value)
                    }
                }
                // An expiry entry holds its format version and nothing else.
                Table::Expiry => value.is_none_or(|value| value[..] == [1]).then(|| {
                    keep(&mut self.expiry, key, value.is_some());
                }),
                Table::Uploads => changed.steps.read(key, value),
            };
            if is_decoded.is_none() {
                self.violated(
                    "format",
                    format!("entry can't be decoded: table={}", table.name()),
                );
            }
        }
        // The removal of a change that is already gone settles nothing.
        let removed = changed
            .changes
            .iter()
            .filter(|(_, recorded)| recorded.is_none())
            .map(|(id, _)| *id);
        changed.settled = removed.filter(|id| self.changes.contains_key(id)).collect();
        changed
    }
}

/// Decodes an entry whose key is a UUID. The inner `None` is a removal.
fn entry<T: serde::de::DeserializeOwned>(
    key: &[u8],
    value: Option<&Bytes>,
) -> Option<(Uuid, Option<T>)> {
    let id = Uuid::from_slice(key).ok()?;
    match value {
        None => Some((id, None)),
        Some(value) => Some((id, Some(format::decode(value)?))),
    }
}

/// Inserts or removes a key. Never returns `None`: the value is not decoded.
fn keep(set: &mut BTreeSet<Bytes>, key: &Bytes, is_put: bool) -> Option<()> {
    if is_put {
        set.insert(key.clone());
    } else {
        set.remove(key);
    }
    Some(())
}
