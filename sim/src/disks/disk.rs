//! The simulated disk under the index: synced tables and an unsynced tail of the journal. Syncs and
//! their faults are in `index.rs`.
//!
//! ```text
//! append: batch ──────────> tail    not visible
//! sync:   tail ──apply──> tables    durable, visible to readers (I7)
//! crash:  tail ──encode──> cut at any byte, maybe damaged ──> whole records before the first bad
//!         byte survive
//!
//! With a payload log, payloads have a durability of their own:
//! append payloads: log tail  ──sync payloads──> durable
//! crash:           each payload of the log tail is kept or lost, whatever the journal keeps
//!
//! record: | length u32 | xxh3 u64 | body |
//! body:   for each change: table u8 | kind u8 | key length u32 | key | value length u32 | value
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use cenotaph_storage::index::{Batch, Table};
use cenotaph_storage::records::BASE_VERSION_KEY;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::rng::{Odds, Rng};

/// Odds that the last bytes before the cut are damaged, too.
const DAMAGED: Odds = Odds::in_ten_thousand(2000);

/// Odds that a crash loses an unsynced payload of the payload log.
const LOST: Odds = Odds::in_ten_thousand(5000);

/// An ordered map for each table.
#[derive(Clone, Default)]
pub(crate) struct DiskTables([Arc<BTreeMap<Bytes, Bytes>>; Table::ALL.len()]);

impl DiskTables {
    /// Returns the map of a table.
    pub(crate) fn of(&self, table: Table) -> &BTreeMap<Bytes, Bytes> {
        &self.0[table as usize]
    }

    /// Returns the tables without the entries that are changed or absent in `newest`.
    pub(crate) fn without_overwritten(&self, newest: &Self) -> Self {
        let kept = |table: Table| {
            let newest = newest.of(table);
            let entries = self
                .of(table)
                .iter()
                .filter(|(key, value)| newest.get(*key) == Some(value));
            Arc::new(
                entries
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            )
        };
        Self(Table::ALL.map(kept))
    }

    /// Iterates over the conditions of a batch that do not hold, each by its table and its key or
    /// prefix.
    fn unmet<'a>(&self, batch: &'a Batch) -> impl Iterator<Item = (Table, &'a Bytes)> {
        let conditions = batch.conditions().iter().filter(|condition| {
            self.of(condition.table).get(&condition.key) != condition.value.as_ref()
        });
        let ranges = batch.range_conditions().iter().filter(|range| {
            let entries = self.of(range.table).range(range.prefix.clone()..);
            let keys = entries
                .map(|(key, _)| key)
                .take_while(|key| key.starts_with(&range.prefix));
            !keys.eq(&range.keys)
        });
        let conditions = conditions.map(|condition| (condition.table, &condition.key));
        conditions.chain(ranges.map(|range| (range.table, &range.prefix)))
    }

    /// Applies a batch.
    fn apply(&mut self, batch: &Batch) {
        for (table, key, value) in batch.ops() {
            // Snapshots share the map, and keep the old one.
            let map = Arc::make_mut(&mut self.0[*table as usize]);
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
    }
}

/// Simulated disk of an index. It outlives an incarnation.
pub(crate) struct Disk(Mutex<State>);

struct State {
    chance: Rng,
    synced: DiskTables,
    /// Tables with unsynced batches, which readers see if this bug is planted.
    unsynced: Option<DiskTables>,
    /// Unsynced batches, in order: the tail of the journal. Encoded only when a crash cuts it.
    pending: Vec<Batch>,
    /// Keys of payloads that are appended to the payload log and not synced.
    log_tail: BTreeSet<Bytes>,
    locked: bool,
}

impl State {
    /// Loses a random part of these payloads where synced batches name them. Only with a planted
    /// bug is a batch synced before its payloads.
    fn lose_payloads(&mut self, log_tail: &BTreeSet<Bytes>) {
        let named: Vec<_> = log_tail
            .iter()
            .filter(|key| self.synced.of(Table::Payloads).contains_key(*key))
            .collect();
        let mut lost = Batch::new();
        for key in named {
            if self.chance.hits(LOST) {
                lost.put(Table::Payloads, key.clone(), "lost");
            }
        }
        self.synced.apply(&lost);
    }
}

impl Disk {
    /// Creates an empty disk. `shows_unsynced` plants the bug that readers see unsynced batches.
    pub(crate) fn new(chance: Rng, shows_unsynced: bool) -> Self {
        Self(Mutex::new(State {
            chance,
            synced: DiskTables::default(),
            unsynced: shows_unsynced.then(DiskTables::default),
            pending: Vec::new(),
            log_tail: BTreeSet::new(),
            locked: false,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the directory. Returns `false` if it is locked.
    pub(crate) fn lock(&self) -> bool {
        !std::mem::replace(&mut self.state().locked, true)
    }

    /// Unlocks the directory.
    pub(crate) fn unlock(&self) {
        self.state().locked = false;
    }

    /// Returns the tables that readers see: those of synced batches.
    pub(crate) fn tables(&self) -> DiskTables {
        let state = self.state();
        state.unsynced.as_ref().unwrap_or(&state.synced).clone()
    }

    /// Returns the value of a key that readers see.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        let state = self.state();
        state
            .unsynced
            .as_ref()
            .unwrap_or(&state.synced)
            .of(table)
            .get(key)
            .cloned()
    }

    /// Appends a batch to the journal without syncing it.
    pub(crate) fn append(&self, batch: &Batch) {
        let mut state = self.state();
        if let Some(unsynced) = &mut state.unsynced {
            unsynced.apply(batch);
        }
        state.pending.push(batch.clone());
    }

    /// Appends the payloads of a batch to the payload log without syncing them.
    pub(crate) fn append_payloads(&self, batch: &Batch) {
        self.state().log_tail.extend(payload_keys(batch));
    }

    /// Makes all appended payloads durable.
    pub(crate) fn sync_payloads(&self) {
        self.state().log_tail.clear();
    }

    /// Makes all appended batches durable and returns them in order, each with a condition that did
    /// not hold.
    pub(crate) fn sync(&self) -> Vec<(Batch, Option<(Table, Bytes)>)> {
        let mut state = self.state();
        let batches = std::mem::take(&mut state.pending).into_iter();
        let synced = batches.map(|batch| {
            // Other shards raise the base version of new objects. A decision depends on it only
            // where the last version of its own object was dropped, which is a condition, too.
            let unmet = unmet_places(&state.synced, &batch);
            let unmet = unmet.into_iter().find(|(_, key)| key != BASE_VERSION_KEY);
            state.synced.apply(&batch);
            (batch, unmet)
        });
        synced.collect()
    }

    /// Returns the conditions of a batch that do not hold in the durable state.
    pub(crate) fn unmet(&self, batch: &Batch) -> Vec<(Table, Bytes)> {
        unmet_places(&self.state().synced, batch)
    }

    /// Replays the journal after a crash. The unsynced tail is cut at a random byte and may be
    /// damaged before the cut. Whole batches before the first bad byte become durable, in order.
    pub(crate) fn replay(&self) -> Replayed {
        let mut state = self.state();
        let mut tail = Vec::new();
        for batch in std::mem::take(&mut state.pending) {
            encode(&batch, &mut tail);
        }
        if !tail.is_empty() {
            // Every length is possible, including none and all.
            let kept = state.chance.index(tail.len() + 1);
            tail.truncate(kept);
            if kept > 0 && state.chance.hits(DAMAGED) {
                let at = kept - 1 - state.chance.index(kept.min(512));
                tail[at] ^= 1 << state.chance.index(8);
            }
        }
        let mut replayed = decode(tail.into());
        let log_tail = std::mem::take(&mut state.log_tail);
        replayed.has_lost_log_tail = !log_tail.is_empty();
        state.lose_payloads(&log_tail);
        for batch in &mut replayed.batches {
            *batch = without_lost_payloads(batch, &log_tail, &mut state.chance);
        }
        replayed
            .batches
            .iter()
            .for_each(|batch| state.synced.apply(batch));
        // After the crash, only the surviving batches are visible, with or without the planted bug.
        if state.unsynced.is_some() {
            state.unsynced = Some(state.synced.clone());
        }
        replayed
    }
}

/// Returns the tables and keys of the conditions of a batch that do not hold.
fn unmet_places(tables: &DiskTables, batch: &Batch) -> Vec<(Table, Bytes)> {
    let unmet = tables.unmet(batch);
    unmet.map(|(table, key)| (table, key.clone())).collect()
}

/// Result of replaying a journal tail.
pub(crate) struct Replayed {
    /// Whole batches, in order.
    pub(crate) batches: Vec<Batch>,
    /// `true` if bytes of an incomplete or damaged batch follow.
    pub(crate) is_torn: bool,
    /// `true` if payloads were appended to the payload log and not synced.
    pub(crate) has_lost_log_tail: bool,
}

/// Returns the keys of the payloads that a batch puts.
pub(crate) fn payload_keys(batch: &Batch) -> impl Iterator<Item = Bytes> {
    let puts = batch.ops().iter();
    puts.filter(|(table, _, value)| *table == Table::Payloads && value.is_some())
        .map(|(_, key, _)| key.clone())
}

/// Returns the batch after a crash that lost a random part of the unsynced payloads.
fn without_lost_payloads(batch: &Batch, log_tail: &BTreeSet<Bytes>, chance: &mut Rng) -> Batch {
    let mut kept = Batch::new();
    for (table, key, value) in batch.ops() {
        let is_unsynced = *table == Table::Payloads && log_tail.contains(key);
        match value {
            // A pointer to bytes that were lost.
            Some(_) if is_unsynced && chance.hits(LOST) => kept.put(*table, key.clone(), "lost"),
            Some(value) => kept.put(*table, key.clone(), value.clone()),
            None => kept.remove(*table, key.clone()),
        }
    }
    kept
}

/// Returns a checksum over all changes of a batch.
pub(crate) fn sum(batch: &Batch) -> u64 {
    batch.ops().iter().fold(0, |sum, (table, key, value)| {
        // The rotation makes the table a part of the sum.
        let value = value.as_ref().map_or(u64::MAX, |value| xxh3_64(value));
        xxh3_64_with_seed(key, sum ^ value.rotate_left(*table as u32 + 1))
    })
}

/// Encodes a length.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes)
        .expect("batches are smaller than 4 GiB")
        .to_le_bytes()
}

/// Appends the record of a batch.
fn encode(batch: &Batch, into: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(batch.bytes() + 16 * batch.ops().len());
    for (table, key, value) in batch.ops() {
        body.extend([*table as u8, u8::from(value.is_some())]);
        body.extend(length(key.len()));
        body.extend_from_slice(key);
        if let Some(value) = value {
            body.extend(length(value.len()));
            body.extend_from_slice(value);
        }
    }
    into.extend(length(body.len()));
    into.extend(xxh3_64(&body).to_le_bytes());
    into.append(&mut body);
}

/// Decodes the records before the first incomplete or damaged record.
fn decode(mut tail: Bytes) -> Replayed {
    let mut batches = Vec::new();
    while let Some(body) = next_record(&mut tail) {
        batches.push(decode_body(body));
    }
    Replayed {
        batches,
        is_torn: !tail.is_empty(),
        has_lost_log_tail: false,
    }
}

/// Removes the next record from the tail and returns its body, or `None` if it is incomplete or
/// damaged.
fn next_record(tail: &mut Bytes) -> Option<Bytes> {
    let mut rest = tail.clone();
    let length = rest.try_get_u32_le().ok()? as usize;
    let sum = rest.try_get_u64_le().ok()?;
    let body = (rest.len() >= length)
        .then(|| rest.split_to(length))
        .filter(|body| xxh3_64(body) == sum)?;
    *tail = rest;
    Some(body)
}

/// Decodes the body of a record, whose checksum has been verified.
fn decode_body(mut body: Bytes) -> Batch {
    let mut batch = Batch::new();
    while body.has_remaining() {
        let table = Table::ALL[usize::from(body.get_u8())];
        let is_put = body.get_u8() == 1;
        let length = body.get_u32_le() as usize;
        let key = body.split_to(length);
        if is_put {
            let length = body.get_u32_le() as usize;
            batch.put(table, key, body.split_to(length));
        } else {
            batch.remove(table, key);
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u8) -> Batch {
        let mut batch = Batch::new();
        batch.put(Table::Rows, vec![number], vec![number; 100]);
        batch.remove(Table::Changes, vec![number]);
        batch
    }

    fn keys(disk: &Disk) -> Vec<u8> {
        disk.tables()
            .of(Table::Rows)
            .keys()
            .map(|key| key[0])
            .collect()
    }

    #[test]
    fn a_crash_keeps_synced_batches_and_a_prefix_of_the_rest() {
        let mut survived = [0; 4];
        for seed in 0..200 {
            let disk = Disk::new(Rng::new(seed, "disk"), false);
            disk.append(&batch(0));
            disk.sync();
            (1..4).for_each(|number| disk.append(&batch(number)));
            assert_eq!(keys(&disk), [0], "unsynced batches are not visible");
            let survivors = disk.replay().batches.len();
            assert_eq!(
                keys(&disk),
                (0..=u8::try_from(survivors).unwrap()).collect::<Vec<_>>()
            );
            survived[survivors] += 1;
        }
        assert!(
            survived.iter().all(|&times| times > 0),
            "every prefix occurs: {survived:?}"
        );
    }

    #[test]
    fn a_crash_loses_only_payloads_that_are_not_synced() {
        let with_payload = |number: u8| {
            let mut batch = batch(number);
            batch.put(Table::Payloads, vec![number], vec![number; 50]);
            batch
        };
        let mut lost = 0;
        for seed in 0..200 {
            let disk = Disk::new(Rng::new(seed, "disk"), false);
            disk.append_payloads(&with_payload(0));
            disk.sync_payloads();
            disk.append(&with_payload(0));
            // The planted bug: the batch is synced before its payloads.
            disk.append_payloads(&with_payload(1));
            disk.append(&with_payload(1));
            disk.sync();
            assert!(disk.replay().has_lost_log_tail);
            let payload = |number: u8| disk.get(Table::Payloads, &[number]).unwrap();
            assert_eq!(payload(0), vec![0; 50]);
            lost += usize::from(payload(1) != vec![1; 50]);
        }
        assert!((50..150).contains(&lost), "{lost}");
    }

    #[test]
    fn a_damaged_record_ends_the_journal() {
        let mut tail = Vec::new();
        (0..3).for_each(|number| encode(&batch(number), &mut tail));
        let whole = decode(tail.clone().into());
        assert_eq!((whole.batches.len(), whole.is_torn), (3, false));
        let third = tail.len() / 3;
        for at in third..2 * third {
            let mut damaged = tail.clone();
            damaged[at] ^= 1;
            let replayed = decode(damaged.into());
            assert_eq!(
                (replayed.batches.len(), replayed.is_torn),
                (1, true),
                "byte {at}"
            );
        }
    }
}
