//! The read set of a decision is everything that its reader asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cenotaph_storage::decide::{
    ExpectedRow, Mutation, PartRules, Plan, Precondition, Selection, UploadMutation, UploadStep,
};
use cenotaph_storage::index::{Batch, Completion, IndexStats, Page, Snapshot};
use cenotaph_storage::records::{
    Attributes, BlockChecksums, Extent, Manifest, UploadPhase, expiry_key, expiry_value,
};
use cenotaph_storage::{Checksum, Epoch, RevisionId, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::shard::upload_steps::view;

type Entries = BTreeMap<(Table, Bytes), Bytes>;
type Asked = BTreeMap<(Table, Bytes), Option<Bytes>>;

/// An index in memory that records every read of a key.
#[derive(Clone, Default)]
struct Recording {
    entries: Arc<Mutex<Entries>>,
    asked: Arc<Mutex<Asked>>,
}

impl Recording {
    fn apply(&self, batch: Batch) {
        let mut entries = self.entries.lock().unwrap();
        for (table, key, value) in batch.into_ops() {
            match value {
                Some(value) => entries.insert((table, key), value),
                None => entries.remove(&(table, key)),
            };
        }
    }

    fn value(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        let key = (table, Bytes::copy_from_slice(key));
        let value = self.entries.lock().unwrap().get(&key).cloned();
        self.asked.lock().unwrap().insert(key, value.clone());
        value
    }

    /// Asserts that the read set holds exactly the keys that were asked for since the last call, and
    /// the base version, which is in memory.
    fn assert_noted(&self, reads: &ReadSet) -> usize {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let noted: Asked = reads
            .entries()
            .iter()
            .filter(|entry| !is_base(entry))
            .map(|entry| {
                let value = match &entry.value {
                    ReadValue::Absent => None,
                    ReadValue::Value(value) => Some(value.clone()),
                    ReadValue::Unreadable => panic!("{entry:?}"),
                };
                ((entry.table, entry.key.clone()), value)
            })
            .collect();
        assert_eq!(noted, asked);
        noted.len()
    }
}

impl Snapshot for Recording {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(std::future::ready(Ok(self.value(table, key))))
    }

    fn scan(&self, table: Table, range: Range) -> BoxFuture<'_, Result<Page>> {
        let entries = self.entries.lock().unwrap().clone();
        let within = entries
            .into_iter()
            .filter(|((of, key), _)| {
                *of == table
                    && std::ops::RangeBounds::contains(
                        &(range.start.clone(), range.end.clone()),
                        key,
                    )
            })
            .map(|((_, key), value)| (key, value));
        let page: Page = within.take(range.limit).collect();
        for (key, _) in &page {
            self.value(table, key);
        }
        Box::pin(std::future::ready(Ok(page)))
    }
}

impl Index for Recording {
    fn submit(&self, batch: Batch, completion: Completion) {
        self.apply(batch);
        completion(Ok(()));
    }

    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Snapshot::get(self, table, key)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(self.clone()))
    }

    fn watch(&self, _: Duration) {}

    fn poisoned(&self) -> Option<Error> {
        None
    }

    fn stats(&self) -> IndexStats {
        IndexStats::default()
    }

    fn close(&self) -> BoxFuture<'static, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn id() -> ObjectId {
    ObjectId::try_from("k").unwrap()
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn operation(number: u8) -> OperationId {
    OperationId::from_slice(&[number; 16]).unwrap()
}

fn revision(number: u8) -> RevisionId {
    RevisionId::from_slice(&[number; 16]).unwrap()
}

fn extent(number: u8) -> Extent {
    Extent {
        revision: revision(number),
        bytes: 5,
        checksum: Checksum::new(1),
    }
}

fn reading<'a>(
    index: &'a Recording,
    base: &'a StoredBase,
    pending: Option<&'a PendingWrites>,
) -> DecisionReader<'a> {
    DecisionReader {
        index,
        base,
        pending,
        reads: ReadSet::default(),
    }
}

fn swap(number: u8, mutation: Mutation) -> Swap {
    Swap {
        id: id(),
        operation: operation(number),
        precondition: Precondition::None,
        mutation,
    }
}

fn inline(number: u8) -> Swap {
    swap(
        number,
        Mutation::Inline {
            payload: Bytes::from_static(b"x"),
            attributes: Attributes::default(),
        },
    )
}

fn tombstone(number: u8) -> Swap {
    swap(
        number,
        Mutation::Tombstone {
            manifest: Manifest::of(extent(number)),
            checksum: None,
            blocks: vec![BlockChecksums::default()],
            attributes: Attributes::default(),
            expected: ExpectedRow::NoTombstone,
        },
    )
}

/// Plans a swap on an index without pending writes.
fn plan(index: &Recording, swap: &Swap) -> Plan<cenotaph_storage::decide::SwapReply> {
    let base = StoredBase::default();
    let mut reader = reading(index, &base, None);
    let view = reader.swap_view(swap).now_or_never().unwrap().unwrap();
    swap.decide(&view, at(5)).based_on(reader.into_reads())
}

#[test]
fn plan_of_a_swap_holds_every_read() {
    let index = Recording::default();
    assert_eq!(
        index.assert_noted(&plan(&index, &inline(1)).reads),
        2,
        "row and last version"
    );
    index.apply(plan(&index, &inline(1)).batch);
    index.asked.lock().unwrap().clear();
    for (swap, reads) in [
        (inline(2), 1),
        (swap(2, Mutation::Delete), 1),
        (swap(2, Mutation::Expire), 1),
        (tombstone(2), 2),
    ] {
        let plan = plan(&index, &swap);
        assert_eq!(index.assert_noted(&plan.reads), reads, "{swap:?}");
    }
    index.apply(plan(&index, &swap(2, Mutation::Delete)).batch);
    index.asked.lock().unwrap().clear();
    assert_eq!(
        index.assert_noted(&plan(&index, &inline(3)).reads),
        2,
        "a deleted object"
    );
}

#[test]
fn pending_writes_are_read_as_the_index_will_hold_them() {
    for first in [inline(1), tombstone(1), swap(1, Mutation::Delete)] {
        let index = Recording::default();
        let base = StoredBase::default();
        index.apply(cenotaph_storage::decide::record(
            operation(1),
            &Change {
                epoch: Epoch::new(1),
                started: at(1),
                object: id(),
                revisions: vec![revision(1)],
            },
        ));
        index.apply(plan(&index, &inline(9)).batch);
        let planned = plan(&index, &first);
        let mut pending = PendingWrites::default();
        pending.record(&planned);
        let second = Swap {
            operation: operation(1),
            ..tombstone(2)
        };
        let mut reader = reading(&index, &base, Some(&pending));
        reader.swap_view(&second).now_or_never().unwrap().unwrap();
        let early = reader.into_reads();
        // The same reads once the batch is durable.
        index.apply(planned.batch);
        let mut reader = reading(&index, &base, None);
        reader.swap_view(&second).now_or_never().unwrap().unwrap();
        assert_eq!(early, reader.into_reads(), "{first:?}");
    }
}

fn step(number: u8, mutation: UploadMutation) -> UploadStep {
    UploadStep {
        id: id(),
        upload: UploadId::new(at(1), [7, 7]),
        operation: operation(number),
        mutation,
    }
}

fn part(number: u8) -> UploadMutation {
    UploadMutation::Part {
        number: PartNumber::new(u32::from(number)).unwrap(),
        part: cenotaph_storage::records::Part {
            extent: extent(number),
            etag: cenotaph_storage::PartEtag::new(1),
            uploaded: at(1),
        },
        blocks: BlockChecksums::default(),
    }
}

#[test]
fn plan_of_an_upload_step_holds_every_read() {
    let index = Recording::default();
    let base = StoredBase::default();
    let record = UploadRecord {
        initiated: at(1),
        expires_at: at(1000),
        attributes: Attributes::default(),
        precondition: Precondition::None,
        phase: UploadPhase::Open,
    };
    let complete = UploadMutation::Complete {
        parts: Selection::All,
        expected: ExpectedRow::NoTombstone,
        precondition: Precondition::None,
        rules: PartRules {
            bytes_min: 0,
            total_bytes_max: 1000,
        },
        kept_for: Duration::from_secs(1),
    };
    // Record, row and last version; a part also reads the filed part and its change, an end reads
    // both parts.
    let steps = [
        (step(1, UploadMutation::Initiate(record)), 3),
        (step(2, part(2)), 5),
        (step(3, part(3)), 5),
        (step(4, complete), 5),
        (step(5, UploadMutation::Expire), 2),
    ];
    for (step, expected) in steps {
        if let UploadMutation::Part { part, .. } = &step.mutation {
            let change = Change {
                epoch: Epoch::new(1),
                started: at(1),
                object: id(),
                revisions: vec![part.extent.revision],
            };
            index.apply(cenotaph_storage::decide::record(step.operation, &change));
        }
        let mut reader = reading(&index, &base, None);
        let view = view(&mut reader, &step).now_or_never().unwrap().unwrap();
        let plan = step.decide(&view, at(5)).based_on(reader.into_reads());
        plan.reply.as_ref().unwrap();
        assert_eq!(index.assert_noted(&plan.reads), expected, "{step:?}");
        index.apply(plan.batch);
    }
}

#[test]
fn plan_of_a_repair_holds_every_read() {
    let index = Recording::default();
    let base = StoredBase::default();
    index.apply(plan(&index, &inline(1)).batch);
    let mut stray = Batch::new();
    stray.put(Table::Expiry, expiry_key(at(7), &id()), expiry_value());
    index.apply(stray);
    index.asked.lock().unwrap().clear();
    let repairs = [
        (Repair::Expiry { deadline: at(7) }, 2),
        (Repair::LastVersion, 2),
        (Repair::RemoveRow, 1),
    ];
    for (repair, expected) in repairs {
        let mut reader = reading(&index, &base, None);
        let seen = reader
            .seen_object(&id(), &repair)
            .now_or_never()
            .unwrap()
            .unwrap();
        let is_confirmed = repair.decide(&id(), &seen, at(5)).is_some();
        assert_eq!(is_confirmed, matches!(repair, Repair::Expiry { .. }));
        assert_eq!(
            index.assert_noted(&reader.into_reads()),
            expected,
            "{repair:?}"
        );
    }
}

fn is_base(entry: &&cenotaph_storage::decide::ReadEntry) -> bool {
    (entry.table, &entry.key[..]) == (Table::Meta, BASE_VERSION_KEY)
}

/// Returns the base version after these objects are pruned, and the plan.
fn pruned(base: &StoredBase, states: Vec<(ObjectId, RowState)>) -> Plan<u64> {
    let mut locked = base.lock();
    let (plan, raised) = cenotaph_storage::decide::prune(states, locked.get(at(1)), at(9));
    locked.set(raised);
    plan
}

#[test]
fn decision_about_a_new_object_holds_the_base_version() {
    let index = Recording::default();
    let base = StoredBase::default();
    let noted = |base: &StoredBase| {
        let mut reader = reading(&index, base, None);
        let state = reader.row_state(&id()).now_or_never().unwrap().unwrap();
        let reads = reader.into_reads();
        let value = reads.entries().iter().find(is_base).unwrap().value.clone();
        assert_eq!(
            index.assert_noted(&reads),
            2,
            "the base version is in memory"
        );
        (state.version(), value)
    };
    assert_eq!(noted(&base), (Version::NONE, ReadValue::Absent));
    let gone = RowState::Absent(LastVersion::at(Version::new(7), at(2)));
    let plan = pruned(&base, vec![(id(), gone)]);
    index.apply(plan.batch);
    let stored = index.value(Table::Meta, BASE_VERSION_KEY).unwrap();
    index.asked.lock().unwrap().clear();
    assert_eq!(noted(&base), (Version::new(7), ReadValue::Value(stored)));

    // A damaged entry: a version that was never reached.
    let mut damage = Batch::new();
    damage.put(
        Table::Meta,
        BASE_VERSION_KEY,
        Bytes::from_static(b"\x01\x01"),
    );
    index.apply(damage);
    let load = StoredBase::load(&index, at(1 << 40));
    let base = load.now_or_never().unwrap().unwrap();
    index.asked.lock().unwrap().clear();
    let (version, value) = noted(&base);
    assert!(version.get() > 1 << 40 && value == ReadValue::Unreadable);
    // A later build wrote it: the engine does not open.
    let mut later = Batch::new();
    later.put(Table::Meta, BASE_VERSION_KEY, Bytes::from_static(b"\xfe"));
    index.apply(later);
    let load = StoredBase::load(&index, at(1)).now_or_never().unwrap();
    assert_eq!(load.err().unwrap().kind(), ErrorKind::UnknownFormat);
}

/// The state of an object whose drop is pending has the newest base version, not that of its drop.
#[test]
fn dropped_object_is_read_as_the_index_will_hold_it() {
    let index = Recording::default();
    let base = StoredBase::default();
    index.apply(plan(&index, &inline(1)).batch);
    index.apply(plan(&index, &swap(2, Mutation::Delete)).batch);
    let mut reader = reading(&index, &base, None);
    let state = reader.row_state(&id()).now_or_never().unwrap().unwrap();
    let planned = pruned(&base, vec![(id(), state)]);
    let mut pending = PendingWrites::default();
    pending.record(&planned);
    // Meanwhile another shard raises the base version.
    let other = RowState::Absent(LastVersion::at(Version::new(9), at(2)));
    let second = pruned(&base, vec![(ObjectId::try_from("other").unwrap(), other)]);
    let read = |pending: Option<&PendingWrites>| {
        let mut reader = reading(&index, &base, pending);
        let state = reader.row_state(&id()).now_or_never().unwrap().unwrap();
        (state, reader.into_reads())
    };
    let early = read(Some(&pending));
    assert_eq!(early.0, RowState::New(Version::new(9)));
    index.apply(planned.batch);
    index.apply(second.batch);
    assert_eq!(read(None), early);
    let stored = index
        .value(Table::Meta, BASE_VERSION_KEY)
        .map(ReadValue::Value);
    let noted = early.1.entries().iter().find(is_base);
    assert_eq!(noted.map(|entry| entry.value.clone()), stored);
}
