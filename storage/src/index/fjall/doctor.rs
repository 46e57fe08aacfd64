//! Examines the directory of an index without changing it, and describes each damage with its
//! repairs.
//!
//! The examination reads the record, all manifests, all tables and blob files in full, the
//! high-water mark, all journals and all payloads. It holds the shared lock of the directory, so that no engine
//! opens the index during the examination.

use std::fs::{File, TryLockError};
use std::path::Path;

use bytes::Bytes;

use super::check::{self, HIGH_WATER, TAILS};
use super::creation::{self, FJALL_META_KEYSPACE, Lock, unavailable};
use super::journals::{self, JournalVerdict, Scanned};
use super::manifest::{self, Depth};
use super::mark::{self, Mark, Reading};
use crate::types::{Error, ErrorKind, Result};

mod diagnosis;
mod payloads;

pub use diagnosis::{Condition, Diagnosis, JournalSeen, Problem, WayOut};
pub use payloads::NamedRow;

/// Examines the index in `dir` without changing it. Blocks on disk reads for as long as reading
/// every file takes: call it through [`Env::blocking`](crate::Env::blocking). `named_row` decodes a
/// row for the names of objects whose payload is damaged, and returns `None` if it can't.
///
/// # Errors
/// - [`ErrorKind::Invalid`] if there is no index in the directory;
/// - [`ErrorKind::Unavailable`] if the file system fails.
///
/// Damage is not an error, and neither is an open store: the [`Diagnosis`] reports both.
pub fn examine(
    dir: &Path,
    named_row: &dyn Fn(&[u8], &Bytes) -> Option<NamedRow>,
) -> Result<Diagnosis> {
    let store = creation::store(dir);
    if !store.is_dir() {
        let message = format!("there is no index: dir={}", dir.display());
        return Err(Error::new(ErrorKind::Invalid, "doctor", message));
    }
    let mut diagnosis = Diagnosis::new(dir);
    // An open engine changes its files, so they are not read.
    let Some(_lock) = lock_shared(dir)? else {
        diagnosis.condition = Condition::Open;
        return Ok(diagnosis);
    };
    let database = match creation::inspect(dir) {
        Ok((database, keyspaces)) => {
            files(&database, &keyspaces, &mut diagnosis)?;
            database
        }
        // A failing file system is not damage.
        Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
        Err(error) => {
            // Without the record the keyspaces are unknown. The journals can still be read.
            diagnosis.problems.push(record_problem(&store, &error));
            creation::database(dir)
        }
    };
    journals(&store, &database, &mut diagnosis)?;
    // Only an undamaged index names the payloads.
    if diagnosis.problems.is_empty() {
        payloads::examine(dir, named_row, &mut diagnosis);
    }
    if !diagnosis.problems.is_empty() {
        diagnosis.condition = Condition::Damaged;
    }
    Ok(diagnosis)
}

/// Takes the shared lock of the directory. Returns `None` if an engine holds the lock, and
/// `Some(None)` if the lock file is absent: the file is not created.
fn lock_shared(dir: &Path) -> Result<Option<Option<Lock>>> {
    let path = dir.join(creation::LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Some(None)),
        Err(error) => return Err(unavailable("open", &path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(Some(Lock::held(file)))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(unavailable("lock", &path, error)),
    }
}

/// Returns the problem of a record that cannot be read.
fn record_problem(store: &Path, error: &Error) -> Problem {
    Problem {
        file: store.to_owned(),
        at: None,
        what: error.to_string(),
        ways_out: vec![
            WayOut::restore(),
            WayOut::salvage("the entries of keyspaces that can't be found"),
        ],
    }
}

/// Checks all files of all keyspaces, and adds their damage to the diagnosis.
fn files(database: &Path, keyspaces: &[(String, u64)], diagnosis: &mut Diagnosis) -> Result<()> {
    for (name, id) in keyspaces {
        let keyspace = database.join("keyspaces").join(id.to_string());
        let checked = manifest::flaws(&keyspace, Depth::Whole);
        let checked = checked.map_err(|error| unavailable("read", &keyspace, error))?;
        diagnosis.files += checked.files;
        diagnosis.bytes += checked.bytes;
        for flaw in checked.flaws {
            // fjall's own keyspace contains only the names and ids of the others, which the record
            // holds, too.
            let lost = if *id == FJALL_META_KEYSPACE {
                "nothing: the salvage writes this keyspace again".to_owned()
            } else if flaw.whole_keyspace {
                "nothing, if the other files identify the manifest; else the salvage fails"
                    .to_owned()
            } else {
                format!("the entries of the keyspace {name} in damaged blocks of this file")
            };
            let ways_out = vec![WayOut::restore(), WayOut::salvage(&lost)];
            diagnosis.problems.push(Problem {
                file: flaw.path,
                at: None,
                what: flaw.what,
                ways_out,
            });
        }
    }
    Ok(())
}

/// Checks the journals against the high-water mark, and adds the result to the diagnosis.
fn journals(store: &Path, database: &Path, diagnosis: &mut Diagnosis) -> Result<()> {
    let mark = mark(&store.join(HIGH_WATER), diagnosis)?;
    let scanned = match journals::scan(database, mark.as_ref()) {
        Ok(scanned) => scanned,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::NotFound
            ) =>
        {
            let what = format!("the journals can't be listed: {error}");
            let ways_out = vec![WayOut::restore()];
            diagnosis.problems.push(Problem {
                file: database.to_owned(),
                at: None,
                what,
                ways_out,
            });
            return Ok(());
        }
        Err(error) => return Err(unavailable("read the journals of", database, error)),
    };
    diagnosis.journals = scanned
        .iter()
        .map(|scanned| journal_summary(database, scanned))
        .collect();
    diagnosis.bytes += scanned
        .iter()
        .map(|scanned| scanned.journal.bytes)
        .sum::<u64>();
    diagnosis.files += scanned.len() as u64;
    let verdict = journals::judge(&scanned, mark.as_ref());
    match &verdict {
        JournalVerdict::Sound => {}
        JournalVerdict::Tail { .. } => {
            // Not a problem: the next open repairs the tail without loss.
            let way = "the next open moves these bytes to `store/tails`: \
                       no acknowledged batch is lost";
            diagnosis
                .notes
                .push(format!("{}; {way}", check::told(&verdict, database)));
        }
        JournalVerdict::Damaged { .. }
        | JournalVerdict::Missing { .. }
        | JournalVerdict::Short { .. }
        | JournalVerdict::Renumbered { .. } => {
            diagnosis
                .problems
                .push(journal_problem(&verdict, &scanned, database));
        }
    }
    // The directory exists only if an open has cut a journal.
    if let Ok(tails) = std::fs::read_dir(store.join(TAILS)) {
        let tails = tails.filter_map(|entry| Some(entry.ok()?.path().display().to_string()));
        diagnosis.notes.extend(tails.map(|tail| {
            format!("an earlier open moved the end of a journal to a file: file={tail}")
        }));
    }
    Ok(())
}

/// Reads the high-water mark. Returns `None` if there is no mark or if it cannot be read.
fn mark(path: &Path, diagnosis: &mut Diagnosis) -> Result<Option<Mark>> {
    let problem = |what: &str| Problem {
        file: path.to_owned(),
        at: None,
        what: what.to_owned(),
        ways_out: vec![WayOut {
            how: "remove the file and open the store".to_owned(),
            loses: "the check of the end of the journal; no data, if the journal is intact"
                .to_owned(),
        }],
    };
    match mark::read(path).map_err(|error| unavailable("read", path, error))? {
        Reading::Absent => {
            diagnosis.notes.push(
                "there is no high-water mark: the end of the journal can't be checked".to_owned(),
            );
            Ok(None)
        }
        Reading::Sound {
            mark,
            other_damaged,
        } => {
            if other_damaged {
                diagnosis.notes.push(
                    "a slot of the high-water mark is damaged: the other slot is used".to_owned(),
                );
            }
            Ok(Some(mark))
        }
        Reading::Damaged => {
            diagnosis
                .problems
                .push(problem("the high-water mark is damaged"));
            Ok(None)
        }
        Reading::Unknown(format) => {
            diagnosis.problems.push(problem(&format!(
                "a later build wrote the high-water mark: format={format}"
            )));
            Ok(None)
        }
    }
}

/// Returns the summary of a scanned journal.
fn journal_summary(database: &Path, scanned: &Scanned) -> JournalSeen {
    let runs = &scanned.journal.runs;
    JournalSeen {
        file: journals::path(database, scanned.id),
        batches: runs.iter().map(|run| run.batches).sum(),
        bytes: runs.iter().map(|run| run.end - run.start).sum(),
        damaged: scanned
            .journal
            .gaps
            .iter()
            .map(|gap| (gap.start, gap.end))
            .collect(),
    }
}

/// Returns the problem of a verdict on the journals, with its repairs.
fn journal_problem(verdict: &JournalVerdict, scanned: &[Scanned], database: &Path) -> Problem {
    let (id, at) = match *verdict {
        JournalVerdict::Damaged { id, gap } | JournalVerdict::Tail { id, gap } => {
            (id, Some(gap.start))
        }
        JournalVerdict::Missing { id }
        | JournalVerdict::Short { id, .. }
        | JournalVerdict::Renumbered { id, .. } => (id, None),
        JournalVerdict::Sound => (0, None),
    };
    // The repair that cuts the journal also loses the intact batches behind the damage.
    let behind = batches_behind(scanned, id, at.unwrap_or_default());
    let mut ways_out = vec![WayOut::restore()];
    let lost = match *verdict {
        JournalVerdict::Damaged { gap, .. } => {
            format!("the batches in {} damaged bytes", gap.end - gap.start)
        }
        JournalVerdict::Missing { .. } => {
            "the batches that only the missing journal holds".to_owned()
        }
        JournalVerdict::Short { found, claimed, .. } => {
            format!(
                "the batches above number {} up to at least {claimed}",
                found.unwrap_or_default()
            )
        }
        JournalVerdict::Renumbered { .. } | JournalVerdict::Tail { .. } | JournalVerdict::Sound => {
            "no batch that can be read".to_owned()
        }
    };
    ways_out.push(WayOut::salvage(&lost));
    if let Some(at) = at {
        let file = journals::path(database, id);
        ways_out.push(WayOut {
            how: format!(
                "copy the directory, cut the journal with `truncate -s {at} {}`, then remove every \
                 later journal and the file `{HIGH_WATER}`",
                file.display()
            ),
            loses: format!(
                "the damaged batches and {behind} intact batches behind them, deletes included"
            ),
        });
    }
    Problem {
        file: journals::path(database, id),
        at,
        what: check::told(verdict, database),
        ways_out,
    }
}

/// Returns the number of intact batches behind position `at` of journal `id`.
fn batches_behind(scanned: &[Scanned], id: u64, at: u64) -> u64 {
    let runs = scanned
        .iter()
        .flat_map(|scanned| scanned.journal.runs.iter().map(|run| (scanned.id, run)));
    runs.filter(|(journal, run)| (*journal, run.start) > (id, at))
        .map(|(_, run)| run.batches)
        .sum()
}
