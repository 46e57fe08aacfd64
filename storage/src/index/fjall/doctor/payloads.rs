//! Examination of the payload log: verifies each payload that a pointer names.
//!
//! Damage of an entry is damage of one payload. Entries that no pointer names are not damage.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::diagnosis::{Diagnosis, Problem, WayOut};
use crate::index::Table;
use crate::index::fjall::FjallOptions;
use crate::index::fjall::failure::{caught, failed};
use crate::index::fjall::view::{Viewed, view};
use crate::index::payload_log::Pointer;
use crate::types::{ErrorKind, Result};

/// Maximal number of damaged payloads whose objects are searched.
const SEARCHED_MAX: usize = 10_000;
/// Maximal number of objects that a problem names.
const NAMED_MAX: usize = 20;

/// Name of an object, and the keys of the payloads that its row names.
#[derive(Clone, Debug)]
pub struct NamedRow {
    /// Name of the object, for people.
    pub object: String,
    /// Keys in [`Table::Payloads`].
    pub payloads: Vec<Bytes>,
}

/// Damaged payloads of a segment.
#[derive(Default)]
struct DamagedSegment {
    payloads: u64,
    first_at: Option<u64>,
    why: String,
    objects: Vec<String>,
    objects_count: u64,
}

/// Verifies all payloads in the log, and adds the damage to the diagnosis. An examination that is
/// not possible is a note.
pub(super) fn examine(
    dir: &Path,
    named_row: &dyn Fn(&[u8], &Bytes) -> Option<NamedRow>,
    diagnosis: &mut Diagnosis,
) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("doctor-{}-{number}", std::process::id());
    let viewed = view(dir, &std::env::temp_dir(), &name, &FjallOptions::default());
    let examined =
        viewed.and_then(|viewed| caught("doctor", || walk(&viewed, named_row, diagnosis)));
    if let Err(error) = examined {
        diagnosis
            .notes
            .push(format!("the payload log can't be examined: {error}"));
    }
}

fn walk(
    viewed: &Viewed,
    named_row: &dyn Fn(&[u8], &Bytes) -> Option<NamedRow>,
    diagnosis: &mut Diagnosis,
) -> Result<()> {
    let segments = viewed.log.segments();
    diagnosis.files += segments.len() as u64;
    let mut damaged: BTreeMap<PathBuf, DamagedSegment> = BTreeMap::new();
    let mut keys = BTreeMap::new();
    for entry in viewed.tables.of(Table::Payloads).iter() {
        let (key, stored) = entry
            .into_inner()
            .map_err(|error| failed("doctor", error))?;
        let Some(pointer) = Pointer::decode(&stored) else {
            continue;
        };
        let read = viewed
            .log
            .segment(&segments, &pointer)
            .and_then(|segment| segment.read(&pointer, &key, None));
        diagnosis.bytes += pointer.entry_bytes(key.len());
        let error = match read {
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            Err(error) => return Err(error),
        };
        let path = viewed.log.path(pointer.segment);
        let segment = damaged.entry(path.clone()).or_default();
        segment.payloads += 1;
        if segment.first_at.is_none_or(|first| pointer.offset < first) {
            segment.first_at = Some(pointer.offset);
            segment.why = error.to_string();
        }
        if keys.len() < SEARCHED_MAX {
            keys.insert(Bytes::from(key), path);
        }
    }
    if !keys.is_empty() {
        name_objects(viewed, named_row, &keys, &mut damaged)?;
    }
    diagnosis.problems.extend(
        damaged
            .into_iter()
            .map(|(file, segment)| problem(file, &segment)),
    );
    Ok(())
}

/// Adds the names of the objects with damaged payloads.
fn name_objects(
    viewed: &Viewed,
    named_row: &dyn Fn(&[u8], &Bytes) -> Option<NamedRow>,
    keys: &BTreeMap<Bytes, PathBuf>,
    damaged: &mut BTreeMap<PathBuf, DamagedSegment>,
) -> Result<()> {
    for entry in viewed.tables.of(Table::Rows).iter() {
        let (key, value) = entry
            .into_inner()
            .map_err(|error| failed("doctor", error))?;
        let Some(row) = named_row(&key, &value.into()) else {
            continue;
        };
        let path = row.payloads.iter().find_map(|payload| keys.get(payload));
        if let Some(segment) = path.and_then(|path| damaged.get_mut(path)) {
            segment.objects_count += 1;
            if segment.objects.len() < NAMED_MAX {
                segment.objects.push(row.object);
            }
        }
    }
    Ok(())
}

fn problem(file: PathBuf, segment: &DamagedSegment) -> Problem {
    let mut lost = format!("the contents of {} objects", segment.objects_count);
    for (number, object) in segment.objects.iter().enumerate() {
        let separator = if number == 0 { ": " } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(lost, "{separator}{object}");
    }
    if segment.objects_count > segment.objects.len() as u64 {
        lost.push_str(", and others");
    }
    Problem {
        file,
        at: segment.first_at,
        what: format!(
            "payloads can't be read: payloads={} first: {}",
            segment.payloads, segment.why
        ),
        ways_out: vec![
            WayOut::restore(),
            WayOut::scrub(&lost),
            WayOut::salvage(&lost),
        ],
    }
}
