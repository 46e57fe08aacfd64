//! The simulated disk under the index: what is synced, and a journal tail that is not.
//!
//! ```text
//! append: batch ──encode──> tail      visible to nobody
//! sync:   tail ──apply──> tables      durable, visible to readers (I7)
//! crash:  tail cut at any byte, perhaps damaged ──> whole records before the first bad one survive
//!
//! record: | length u32 | xxh3 u64 | changes: table u8, kind u8, key length u32, key, value length u32, value |
//! ```
//!
//! Guards nothing of the engine: it is the world that the engine must survive. Deliberately not
//! here: who may sync, and when that fails (`index.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use cenotaph_storage::index::{Batch, Table};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::rng::{Odds, Rng};

/// How often the last bytes before a cut are damaged too.
const DAMAGED: Odds = Odds::in_ten_thousand(2000);

/// One ordered map for each table.
#[derive(Clone, Default)]
pub(crate) struct Tables([Arc<BTreeMap<Bytes, Bytes>>; Table::ALL.len()]);

impl Tables {
    pub(crate) fn of(&self, table: Table) -> &BTreeMap<Bytes, Bytes> {
        &self.0[table as usize]
    }

    /// The same without the entries that are no longer so in `newest`.
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

    fn apply(&mut self, batch: &Batch) {
        for (table, key, value) in batch.changes() {
            let map = Arc::make_mut(&mut self.0[*table as usize]);
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
    }
}

/// See the head of this file.
pub(crate) struct Disk(Mutex<State>);

struct State {
    chance: Rng,
    synced: Tables,
    /// What readers see, if they see what is not synced: a planted bug.
    unsynced: Option<Tables>,
    pending: Vec<Batch>,
    tail: Vec<u8>,
    locked: bool,
}

impl Disk {
    pub(crate) fn new(chance: Rng, shows_unsynced: bool) -> Self {
        let (synced, unsynced) = (Tables::default(), shows_unsynced.then(Tables::default));
        Self(Mutex::new(State {
            chance,
            synced,
            unsynced,
            pending: Vec::new(),
            tail: Vec::new(),
            locked: false,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock of the directory; whether it was free.
    pub(crate) fn lock(&self) -> bool {
        !std::mem::replace(&mut self.state().locked, true)
    }

    pub(crate) fn unlock(&self) {
        self.state().locked = false;
    }

    /// What readers see: what is synced.
    pub(crate) fn tables(&self) -> Tables {
        let state = self.state();
        state.unsynced.as_ref().unwrap_or(&state.synced).clone()
    }

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

    /// Writes a batch, not synced.
    pub(crate) fn append(&self, batch: &Batch) {
        let mut state = self.state();
        if let Some(unsynced) = &mut state.unsynced {
            unsynced.apply(batch);
        }
        encode(batch, &mut state.tail);
        state.pending.push(batch.clone());
    }

    /// Makes durable what was appended, in order.
    pub(crate) fn sync(&self) -> Vec<Batch> {
        let mut state = self.state();
        state.tail.clear();
        let batches = std::mem::take(&mut state.pending);
        batches.iter().for_each(|batch| state.synced.apply(batch));
        batches
    }

    /// Whatever was not synced is cut off somewhere; the whole batches before the cut survive, in
    /// order.
    pub(crate) fn replay(&self) -> Replayed {
        let mut state = self.state();
        state.pending.clear();
        let mut tail = std::mem::take(&mut state.tail);
        if !tail.is_empty() {
            let kept = state.chance.index(tail.len() + 1);
            tail.truncate(kept);
            if kept > 0 && state.chance.hits(DAMAGED) {
                let at = kept - 1 - state.chance.index(kept.min(512));
                tail[at] ^= 1 << state.chance.index(8);
            }
        }
        let replayed = decode(tail.into());
        replayed
            .batches
            .iter()
            .for_each(|batch| state.synced.apply(batch));
        if state.unsynced.is_some() {
            state.unsynced = Some(state.synced.clone());
        }
        replayed
    }
}

/// What a journal's tail holds.
pub(crate) struct Replayed {
    /// Whole batches, in order.
    pub(crate) batches: Vec<Batch>,
    /// Whether something that is no whole batch follows them.
    pub(crate) is_torn: bool,
}

/// Over all that a batch changes.
pub(crate) fn sum(batch: &Batch) -> u64 {
    batch.changes().iter().fold(0, |sum, (table, key, value)| {
        let value = value.as_ref().map_or(u64::MAX, |value| xxh3_64(value));
        xxh3_64_with_seed(key, sum ^ value.rotate_left(*table as u32 + 1))
    })
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes)
        .expect("batches are smaller than 4 GiB")
        .to_le_bytes()
}

fn encode(batch: &Batch, into: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(batch.bytes() + 16 * batch.changes().len());
    for (table, key, value) in batch.changes() {
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

/// The records before the first that is cut short or damaged.
fn decode(mut tail: Bytes) -> Replayed {
    let mut batches = Vec::new();
    while let Some(body) = next_record(&mut tail) {
        batches.push(decode_body(body));
    }
    Replayed {
        batches,
        is_torn: !tail.is_empty(),
    }
}

fn next_record(tail: &mut Bytes) -> Option<Bytes> {
    let mut rest = tail.clone();
    let (length, sum) = (
        rest.try_get_u32_le().ok()? as usize,
        rest.try_get_u64_le().ok()?,
    );
    let body = (rest.len() >= length)
        .then(|| rest.split_to(length))
        .filter(|body| xxh3_64(body) == sum)?;
    *tail = rest;
    Some(body)
}

fn decode_body(mut body: Bytes) -> Batch {
    let mut batch = Batch::new();
    while body.has_remaining() {
        let (table, is_put) = (Table::ALL[usize::from(body.get_u8())], body.get_u8() == 1);
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
    fn a_crash_keeps_what_was_synced_and_some_prefix_of_the_rest() {
        let mut survived = [0; 4];
        for seed in 0..200 {
            let disk = Disk::new(Rng::new(seed, "disk"), false);
            disk.append(&batch(0));
            disk.sync();
            (1..4).for_each(|number| disk.append(&batch(number)));
            assert_eq!(keys(&disk), [0], "what is not synced is not seen");
            let survivors = disk.replay().batches.len();
            assert_eq!(
                keys(&disk),
                (0..=u8::try_from(survivors).unwrap()).collect::<Vec<_>>()
            );
            survived[survivors] += 1;
        }
        assert!(
            survived.iter().all(|&times| times > 0),
            "every prefix comes up: {survived:?}"
        );
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
